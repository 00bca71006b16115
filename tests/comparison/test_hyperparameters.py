"""Settings of agents: ours are complete and can be made, a user's are laid over them, and what is wrong is said."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.adversarial.config import CONTROLS, preset
from seqgan_rl.comparison.hyperparameters import ENVIRONMENTS, OURS, AgentSpec, agent_spec, known_agents
from seqgan_rl.core.errors import InputError

ISSUE = (
    *("mle", "mle_continued", "scheduled_sampling", "pg_bleu", "seqgan", "seqgan_advantage", "rloo", "grpo", "ppo"),
    *("a2c", "trpo", "dqn", "constant", "random", "shuffled"),
)


@pytest.fixture
def spec(tmp_path: Path):
    """An agent under a user's file of this text."""

    def make(text: str, name: str = "ppo", env_id: str = ENVIRONMENTS[0], reward: str = "logit") -> AgentSpec:
        file = tmp_path / "mine.yaml"
        file.write_text(text, encoding="utf-8")
        return agent_spec(name, env_id, reward=reward, file=file)

    return make


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("name", known_agents())
def test_every_agent_can_be_made_everywhere_with_either_kind_of_reward(name, env_id):
    kinds = {agent_spec(name, env_id, reward=reward).kind for reward in ("logit", "bleu", "0.5*logit + 0.5*bleu")}
    assert len(kinds) == 1


def test_the_agents_of_the_issue_are_known():
    assert set(ISSUE) <= set(known_agents())
    kinds = {name: agent_spec(name, ENVIRONMENTS[0], reward="logit").kind for name in known_agents()}
    assert {name for name, kind in kinds.items() if kind == "control"} == set(CONTROLS) - {"mle_continued"}
    assert {name for name, kind in kinds.items() if kind in ("start", "fitted")} == {
        *("mle", "mle_continued", "scheduled_sampling", "vae")
    }


def test_presets_and_agents_say_the_same():
    ours = agent_spec("seqgan_advantage", ENVIRONMENTS[0], reward="logit").agent
    assert ours == preset("text").agent
    assert agent_spec("seqgan", ENVIRONMENTS[0], reward="logit").agent == preset("paper2016").agent


@pytest.mark.parametrize(
    ("name", "reward", "expected"),
    [
        ("ppo", "bleu", "bleu"),
        ("pg_bleu", "logit", "bleu"),
        ("constant", "logit", "constant"),
        ("seqgan", "logit", "discriminator"),
        ("seqgan", "oracle", "oracle"),  # nothing is adversarial there, so D would never be trained
        ("seqgan", "logit + bleu", "discriminator"),
        ("shuffled", "logit", "shuffled(logit)"),
        ("shuffled", "0.5*logit + bleu", "shuffled(0.5*logit + bleu)"),
    ],
)
def test_rewards_are_the_comparisons_or_the_agents_own(name, reward, expected):
    assert agent_spec(name, ENVIRONMENTS[0], reward=reward).agent.reward == expected


def test_controls_differ_from_seqgan_advantage_in_their_reward_alone():
    for env_id in ENVIRONMENTS:
        settings = [
            {**vars(agent_spec(name, env_id, reward="logit").agent), "reward": None}
            for name in ("seqgan_advantage", "pg_bleu", "constant", "random", "shuffled")
        ]
        assert all(other == settings[0] for other in settings)


def test_a_file_is_laid_over_ours_key_by_key(spec):
    text = """
        ppo:
          default: {learning_rate: !!float 2e-3, n_envs: 32, batch_size: 160}
          SeqGAN/Corpus-v0: {n_envs: 16, ent_coef: 1e-2}
    """
    agent = spec(text).agent
    assert (agent.learning_rate, agent.batch_size, agent.ent_coef) == (2e-3, 32, 0.0)
    assert agent.options == {"n_epochs": 4, "clip_range": 0.2, "target_kl": 0.05, "batch_size": 160}
    corpus = spec(text, env_id="SeqGAN/Corpus-v0").agent
    assert (corpus.learning_rate, corpus.batch_size, corpus.ent_coef) == (2e-3, 16, 0.01)
    exact = spec(text, env_id="SeqGAN/Exact-v0").agent
    assert exact.learning_rate == 2e-3  # theirs for all environments is over ours for this one
    assert spec(text, "a2c").agent == agent_spec("a2c", ENVIRONMENTS[0], reward="logit").agent


def test_new_agents_begin_with_ours_of_their_algorithm(spec):
    text = "ppo_sharp: {default: {algorithm: ppo, clip_range: 0.1}}\nppo_as_a2c: {default: {algorithm: a2c}}"
    assert spec(text, "ppo_sharp").agent.options == {"n_epochs": 4, "clip_range": 0.1, "target_kl": 0.05}
    assert spec(text, "ppo_as_a2c").agent == spec(text, "a2c").agent
    assert spec("seqgan: {default: {algorithm: ppo}}", "seqgan").agent == spec("{}", "ppo").agent  # no weights: q left
    assert spec("mine: {default: {algorithm: rloo, kind: control, reward: shuffled}}", "mine").kind == "control"


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("{}", "pp0", r"unknown agent 'pp0' \(did you mean 'ppo'\?\)"),
        (
            "ppo: {SeqGAN/Oracl-v0: {}}",
            "ppo",
            r"unknown environment 'SeqGAN/Oracl-v0' \(did you mean 'SeqGAN/Oracle-v0'",
        ),
        ("ppo: {CartPole-v1: {n_envs: 8}}", "ppo", "unknown environment 'CartPole-v1'"),
        ("ppo: {learning_rate: 0.1}", "ppo", "unknown environment 'learning_rate'.*; settings stand below one of them"),
        ("SeqGAN/Oracle-v0: {n_envs: 8}", "ppo", "SeqGAN/Oracle-v0 stands where an agent must; agents come first"),
        ("default: {n_envs: 8}", "ppo", "default stands where an agent must"),
        ("ppo: {default: {n_epoch: 3}}", "ppo", r"unknown option 'n_epoch' of PPO \(did you mean 'n_epochs'\?\)"),
        ("ppo: {default: {learning_rat: 3}}", "ppo", "or did you mean the setting 'learning_rate'?"),
        (
            "ppo: {default: {n_timesteps: !!float 1e6}}",
            "ppo",
            "n_timesteps is not for a file here; the comparison's --b",
        ),
        ("ppo: {default: {policy: MlpPolicy}}", "ppo", "policy is not for a file here"),
        ("ppo: {default: {policy_kwargs: 'dict(net_arch=[64])'}}", "ppo", "every agent is the comparison's generator"),
        ("ppo: {default: {normalize: true}}", "ppo", "ppo does not have normalize"),
        ("ppo: {default: {kl_coef: 0.1}}", "ppo", "ppo does not have kl_coef"),
        (
            "ppo: {default: {learning_rate: lin_0.001}}",
            "ppo",
            "learning_rate must be a number, got the schedule 'lin_0",
        ),
        ("ppo: {default: {clip_range: lin_0.2}}", "ppo", "clip_range must be a number, got the schedule"),
        ("ppo: {default: {gamma: 0.99}}", "ppo", "gamma is not an option; it is decided by the run"),
        ("ppo: {default: {n_epochs: 0}}", "ppo", "n_epochs must be at least 1"),
        ("ppo: {default: {n_epochs: many}}", "ppo", "n_epochs must be a whole number"),
        ("ppo: {default: {batch_size: 1}}", "ppo", "ppo cannot be made: `batch_size` must be greater than 1"),
        ("ppo: {default: {learning_rate: -1}}", "ppo", "learning_rate must be above 0"),
        ("ppo: {default: {n_envs: 0}}", "ppo", "n_envs must be at least 1, got 0"),
        ("ppo: {default: {n_envs: 2.5}}", "ppo", "n_envs must be a whole number"),
        ("ppo: {default: {options: {n_epochs: 3}}}", "ppo", "write its keys beside the others"),
        ("ppo: {default: {kind: start}}", "ppo", "kind must be one of agent, control"),
        ("ppo: {default: {reward: blue}}", "ppo", r"unknown reward 'blue' \(did you mean 'bleu'"),
        ("rloo: {default: {ent_coef: 0.1}}", "rloo", "RLOO does not have ent_coef"),
        ("rloo: {default: {batch_size: 8}}", "rloo", "batch_size is not an option; it is the setting"),
        ("rloo: {default: {beta: -1}}", "rloo", "rloo cannot be made: beta must be a finite number"),
        ("dqn: {default: {policy_delay: 3}}", "dqn", "unknown option 'policy_delay' of DQN"),
        ("new: {default: {learning_rate: 1}}", "new", "unknown algorithm 'new'"),
        ("new: {SeqGAN/Corpus-v0: {algorithm: ppo}}", "new", "there are none for SeqGAN/Oracle-v0"),
        ("vae: {default: {learning_rate: 1}}", "ppo", "vae is fitted to data and has no settings here"),
        ("ppo: 3", "ppo", "ppo must be a mapping of environments to settings, got 3"),
        ("ppo: {default: [1]}", "ppo", r"default must be a mapping of settings, got \[1\]"),
        ("3: {default: {}}", "ppo", "an agent's name must be up to 60 letters, .*; got 3"),
        ("../../x: {default: {}}", "ppo", "since folders are named after it; got '../../x'"),
        ("[1]", "ppo", "must hold a mapping of settings, got list"),
        ("ppo: {default: {clip_range: !!python/object/apply:os.getcwd []}}", "ppo", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(spec, text, name, words):
    with pytest.raises(InputError, match=words) as caught:
        spec(text, name)
    assert "\n" not in str(caught.value)


def test_files_and_environments_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        agent_spec("ppo", ENVIRONMENTS[0], reward="logit", file=tmp_path / "none.yaml")
    with pytest.raises(InputError, match=r"unknown environment 'SeqGAN/Oracle-v1' \(did you mean 'SeqGAN/Oracle-v0'"):
        agent_spec("mle", "SeqGAN/Oracle-v1", reward="logit")
    with pytest.raises(InputError, match="unknown reward 'logits'"):
        agent_spec("ppo", ENVIRONMENTS[0], reward="logits")


PLAIN = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.sampled_from(["lin_0.1", "1e-3", "", "q"])
KEYS = st.sampled_from(
    ["learning_rate", "n_envs", "batch_size", "n_epochs", "target_kl", "gae_lambda", "averaging", "kind", "x", "reward"]
)


@given(settings=st.dictionaries(KEYS, PLAIN | st.lists(PLAIN, max_size=2), max_size=3))
def test_any_value_makes_an_agent_or_an_input_error(settings, tmp_path_factory):
    file = tmp_path_factory.mktemp("any") / "mine.json"
    file.write_text(json.dumps({"ppo": {"default": settings}}))
    with contextlib.suppress(InputError):
        assert agent_spec("ppo", ENVIRONMENTS[0], reward="logit", file=file).agent.algorithm == "ppo"


def test_reading_leaves_the_random_states_alone():
    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    for name in known_agents():
        agent_spec(name, ENVIRONMENTS[0], reward="logit")
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_before)  # noqa: NPY002


def test_our_file_is_part_of_the_package():
    setup = Path(__file__).parents[2] / "setup.cfg"
    assert OURS.name.endswith(".yaml")
    assert "seqgan_rl.comparison = *.yaml" in setup.read_text()
