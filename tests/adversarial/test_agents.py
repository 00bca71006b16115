"""Runs of other agents in SeqGAN's place: the same stages and files, and resumption without loss."""

import importlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqgan_rl.adversarial import rounds, session, trainer
from seqgan_rl.adversarial.agent import agent_state, global_streams, load_agent_state, make_agent, total_steps
from seqgan_rl.adversarial.algorithms import algorithms
from seqgan_rl.adversarial.config import AgentConfig, NetworkConfig, RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.player import Player, save_player
from seqgan_rl.adversarial.results import evaluate, load_run, sample
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.adversarial.trainer import opened, train
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.core.checkpoint import load_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream
from seqgan_rl.models.compiled import is_compiled, set_compiled
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import generators
from seqgan_rl.rewards import Reward, rewards
from seqgan_rl.rewards.controls import ConstantReward

ON_POLICY, OFF_POLICY = ("ppo", "a2c", "trpo"), ("dqn", "qrdqn")
NAMES = {"ppo": "PPO", "a2c": "A2C", "trpo": "TRPO", "dqn": "DQN", "qrdqn": "QR-DQN"}
MODELS = ("mle", "discriminator", "generator", "agent", "controls/constant", "controls/shuffled")


@pytest.fixture(autouse=True)
def contrib():
    """TRPO and QR-DQN are sb3-contrib's; it is among the packages of the tests."""
    pytest.importorskip("sb3_contrib")


def agent_config(tiny, algorithm, text_file=None, **changes):
    """Tiny settings of an algorithm; with a text, sequences end early and rounds begin in the middle of some."""
    data = {} if text_file is None else {"corpus": str(text_file), "min_count": 3, "sequence_length": None}
    options = {"options": {"batch_size": 16}} if algorithm in OFF_POLICY else {}
    agent = {"algorithm": algorithm, **options, **changes.pop("agent", {})}
    return tiny(**{"controls": [], "data": data, "agent": agent, **changes})


def lines(run) -> str:
    """``metrics.jsonl`` less timings, as text."""
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(RunFolder(run))]
    return "\n".join(json.dumps(row) for row in rows)


def weights(run) -> dict[str, torch.Tensor]:
    found = [name for name in MODELS if (Path(run) / name).is_dir()]
    return {f"{m}/{k}": v for m in found for k, v in load_state(Path(run) / m)["weights"].items()}


def assert_same_run(a, b) -> None:
    assert lines(a) == lines(b)
    left, right = weights(a), weights(b)
    assert list(left) == list(right)
    assert {key.split("/")[0] for key in left} >= {"mle", "discriminator"}
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    for name in ("results.json", "samples.txt"):
        assert (Path(a) / name).read_text() == (Path(b) / name).read_text()


def train_until(monkeypatch, owner, name, at, config, run, resume=False) -> None:
    """Train, checkpointing at every round, and stop by KeyboardInterrupt at the ``at``-th call of a function."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(name)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        patch.setattr(owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            train(config, run, resume=resume, progress=False)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """``finished("ppo")``: config and folder of an uninterrupted run on the oracle with two controls."""
    runs: dict = {}

    def run(algorithm):
        if algorithm not in runs:
            config = agent_config(tiny, algorithm, controls=["constant", "shuffled"])
            folder = tmp_path_factory.mktemp(algorithm) / "run"
            train(config, folder, progress=False)
            runs[algorithm] = config, folder
        return runs[algorithm]

    return run


# --- what a run is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ON_POLICY + OFF_POLICY)
def test_a_run_has_the_stages_rows_and_models_of_a_seqgan_run(finished, algorithm):
    _, run = finished(algorithm)
    rows = read_metrics(RunFolder(run))
    stages = ["mle", "discriminator", algorithm, "constant", "shuffled"]
    assert list(dict.fromkeys(row["agent"] for row in rows)) == stages
    for name in stages[2:]:
        mine = [row for row in rows if row["agent"] == name]
        played = [row for row in mine if "agent/reward" in row]
        assert [row["round"] for row in played] == [1, 2, 3, 4]
        assert [row["tokens"] for row in played] == [48, 96, 144, 192]  # 8 sub-environments, T = 6
        assert [row["round"] for row in mine if "eval/nll_test" in row] == [0, 2, 4]
        assert any("discriminator/loss" in row for row in played) == (name != "constant")
        scored = [row for row in mine if "eval/nll_test" in row]
        assert all(0 <= row["discriminator/held_out_accuracy"] <= 1 for row in scored)
        assert (abs(scored[0]["eval/kl_to_start"]) < 1e-6) == (algorithm in ON_POLICY)  # DQN is greedy from the start
        assert ("agent/weight_spread" in played[-1]) == ("agent/value_middle" in played[-1]) == (algorithm in ON_POLICY)
        trained = [row for row in played if "train/n_updates" in row]
        assert all(row["agent/gradient_norm"] >= 0 for row in trained)
        assert all("discriminator/minibatches_per_update" in row for row in trained)
        assert len(trained) == (4 if algorithm in ON_POLICY else 3)  # the first round fills the replay buffer
    assert (run / "generator").is_dir() == (algorithm in ON_POLICY)
    assert (run / "agent").is_dir() == (algorithm in OFF_POLICY)
    document = json.loads((run / "results.json").read_text())
    assert [row["name"] for row in document["rows"] if row["name"] != "MLE at equal coverage"] == [
        *("oracle entropy", "uniform", "MLE", NAMES[algorithm], "constant", "shuffled")
    ]
    assert document["verdict"].startswith(f"{NAMES[algorithm]} ")
    assert "SeqGAN" not in document["verdict"]


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_agents_that_are_generators_start_from_the_mle(finished, algorithm):
    _, run = finished(algorithm)
    starts = [row for row in read_metrics(RunFolder(run)) if row.get("round") == 0]
    mle = [row for row in read_metrics(RunFolder(run)) if row["agent"] == "mle" and "eval/nll_test" in row]
    assert len({row["eval/nll_valid"] for row in starts}) == 1
    assert {row["eval/nll_test"] for row in starts} <= {row["eval/nll_test"] for row in mle}
    trained, start = weights(run), load_model(run / "mle", generators).state_dict()
    assert any(not torch.equal(trained[f"generator/{name}"], weight) for name, weight in start.items())


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_sample_and_evaluate_work_on_the_run(finished, algorithm):
    _, run = finished(algorithm)
    texts = sample(run, 30, prompt="3 4", seed=1)
    assert len(texts) == 30
    assert all(text.startswith("3 4 ") and len(text.split()) == 6 for text in texts)
    assert texts == sample(run, 30, prompt="3 4", seed=1, model=algorithm)
    assert texts != sample(run, 30, prompt="3 4", seed=2)
    assert sample(run, 3, model="constant", temperature=1.5, top_k=5)
    _, rows = evaluate(run, n_samples=64)
    assert [row["name"] for row in rows] == ["oracle entropy", "MLE", NAMES[algorithm], "constant", "shuffled"]
    assert all(np.isfinite(row["scores"]["nll_test"]) for row in rows)
    with pytest.raises(InputError, match=f"no model 'seqgan'; it has mle, {algorithm}, constant, shuffled"):
        sample(run, model="seqgan")


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_random_state(finished, tmp_path):
    for algorithm in ("ppo", "dqn"):
        config, run = finished(algorithm)
        np.random.seed(5)  # noqa: NPY002 - the point of the test
        torch.manual_seed(5)
        random.seed(5)
        before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # type: ignore[index]  # noqa: NPY002
        train(config, tmp_path / algorithm, progress=False)
        assert_same_run(run, tmp_path / algorithm)
        assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[index]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[1])
        assert random.getstate() == before[2]


def test_global_streams_seed_all_three_generators_and_put_them_back():
    def draw():
        return float(np.random.rand()), float(torch.rand(())), random.random()  # noqa: NPY002

    with global_streams(stream(0, "a")):
        first = draw()
    outside = draw()
    with global_streams(stream(0, "a")):
        again = draw()
    with global_streams(stream(0, "b")):
        other = draw()
    assert first == again
    assert all(x != y for x, y in zip(first, other, strict=True))
    assert all(x != y for x, y in zip(outside, draw(), strict=True))


# --- resume -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ON_POLICY + OFF_POLICY)
@pytest.mark.parametrize("kind", ["oracle", "text"])
def test_a_run_interrupted_again_and_again_resumes_to_the_same_bytes(
    tiny, finished, tmp_path, monkeypatch, text_file, algorithm, kind
):
    """In the middle of a round's play, of an evaluation and of a checkpoint; off-policy agents too, whose replay
    buffer, exploration and target network are kept. On a text sequences run over the boundaries of rounds."""
    if kind == "oracle":
        config, whole = finished(algorithm)
    else:
        config, whole = agent_config(tiny, algorithm, text_file, agent={"averaging": 0.5}), tmp_path / "whole"
        train(config, whole, progress=False)
    run = tmp_path / "run"
    for resume, (owner, name, at) in enumerate(
        ((rounds.Rounds, "_on_step", 12), (rounds.Evaluation, "_on_rollout_start", 2), (rounds, "agent_state", 2))
    ):
        train_until(monkeypatch, owner, name, at, config, run, resume=resume > 0)
    assert RunFolder(run).last_checkpoint()[1]["state"]["round"] > 1  # type: ignore[index]
    train(config, run, resume=True, progress=False)
    assert_same_run(whole, run)


def test_a_checkpoint_holds_all_that_dqn_has_stored(tiny, tmp_path, monkeypatch, text_file):
    config = agent_config(tiny, "dqn", text_file, agent={"options": {"buffer_size": 80}})
    states: list = []

    def both(agent, state):
        load_agent_state(agent, state)
        states.append((agent, agent_state(agent), state))
        raise KeyboardInterrupt

    train_until(monkeypatch, rounds.Rounds, "_on_rollout_end", 4, config, tmp_path / "run")
    monkeypatch.setattr(rounds, "load_agent_state", both)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", resume=True, progress=False)
    agent, again, state = states[0]
    T = agent.observation_space.shape[0]
    assert agent.num_timesteps == 3 * 8 * T
    assert agent.replay_buffer.buffer_size == 10
    assert agent.replay_buffer.full
    assert agent.replay_buffer.pos == 3 * T % 10
    assert agent._n_calls == 3 * T
    assert agent.exploration_rate == pytest.approx(
        agent.exploration_schedule(1 - agent.num_timesteps / (4 * 8 * T + 1))
    )
    assert {*state["buffer"]["rows"]} == {*algorithms_buffer_arrays(agent)}
    for name, rows in state["buffer"]["rows"].items():
        np.testing.assert_array_equal(rows, again["buffer"]["rows"][name])
        assert len(rows) == 10
    assert any(name.startswith("q_net_target") for name in state["networks"]["policy"])


def algorithms_buffer_arrays(agent):
    """The arrays of SB3's replay buffer by what they are, not by our list."""
    return [name for name, value in vars(agent.replay_buffer).items() if isinstance(value, np.ndarray)]


# --- settings ---------------------------------------------------------------------------------------------------


def settings(algorithm, **agent):
    return {"agent": {"algorithm": algorithm, **agent}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (settings("pppo"), r"unknown algorithm 'pppo' \(did you mean 'ppo'\?\)"),
        (settings("ppo", options={"n_epoch": 3}), r"unknown option 'n_epoch' of PPO \(did you mean 'n_epochs'\?\)"),
        (settings("ppo", options={"n_epochs": "many"}), "n_epochs must be a whole number, got 'many'"),
        (settings("ppo", options={"n_epochs": 0}), "n_epochs must be at least 1, got 0"),
        (settings("ppo", options={"clip_range": [1]}), r"clip_range must be a number, got \[1\]"),
        (settings("ppo", options={"learning_rate": 1}), r"it is the setting agent\.learning_rate"),
        (settings("ppo", options={"gamma": 0.9}), "gamma is not an option; it is decided by the run"),
        (settings("ppo", options=[1]), "options must be a mapping"),
        (settings("ppo", options={"n_epochs": np.zeros(2)}), "options must be a mapping of names to plain values"),
        (settings("ppo", options={"batch_size": 1}), "cannot be built"),
        (settings("seqgan", options={"batch_size": 8}), r"it is the setting agent\.batch_size"),
        (settings("seqgan", options={"n_epochs": 3}), "unknown option 'n_epochs' of SeqGAN"),
        (settings("ppo", weights="q", loss="sum"), "PPO does not have weights, loss"),
        (settings("a2c", kl_coef=0.1), "A2C does not have kl_coef; leave it"),
        (settings("trpo", ent_coef=0.1), "TRPO does not have ent_coef"),
        (settings("dqn", ent_coef=0.1), "DQN does not have ent_coef"),
        (settings("dqn", options={"train_freq": 0}), "train_freq must be at least 1"),
        (settings("dqn", options={"buffer_size": 10**15}), "memory"),
        ({"network": {"name": "test_plain", "precision": "bfloat16"}}, "'test_plain' knows float32 only"),
    ],
)
def test_what_an_algorithm_does_not_take_is_refused_in_one_line(tiny, tmp_path, changes, words):
    with pytest.raises(InputError, match=words) as caught:
        train(tiny(**{"controls": [], **changes}), tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_algorithm_cannot_have_the_name_of_another_stage(monkeypatch):
    monkeypatch.setitem(algorithms._factories, "random", algorithms["ppo"])
    with pytest.raises(InputError, match="'random' has the name of another stage"):
        AgentConfig(algorithm="random")


def test_contrib_algorithms_say_what_to_install(tiny, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for algorithm, words in (("trpo", "TRPO is part of sb3-contrib"), ("qrdqn", "pip install sb3-contrib")):
        with pytest.raises(InputError, match=words):
            train(agent_config(tiny, algorithm), tmp_path / "run", progress=False)


@pytest.fixture
def made(tiny, finished):
    """``made("ppo", n_epochs=2)``: the agent of a run with these options, on the data of a finished run."""

    def make(algorithm, data=None, rounds=4, **options):
        _, run = finished("ppo")
        config = agent_config(tiny, algorithm, agent={"options": options}, rounds=rounds)
        mle = load_model(run / "mle", generators)
        return make_agent(config, RunData.load(RunFolder(run)), ConstantReward(), mle, "test")

    return make


def test_options_reach_the_algorithm_and_the_rest_is_made_for_sequences(made):
    ppo = made("ppo", n_epochs=2, clip_range="1e-1", target_kl=None, batch_size=16)
    assert (ppo.n_epochs, ppo.clip_range(1.0), ppo.target_kl, ppo.batch_size) == (2, 0.1, None, 16)
    assert (ppo.n_steps, ppo.n_envs, ppo.gamma, ppo.gae_lambda, ppo.max_grad_norm) == (6, 8, 1.0, 1.0, 5.0)
    assert ppo.env.get_attr("shaping")[0] == "rollout"
    assert made("ppo").batch_size == 48  # a round so small is one minibatch
    assert made("a2c", n_steps=3).n_steps == 3
    assert type(made("a2c").policy.optimizer) is torch.optim.Adam
    assert made("seqgan", vf_coef=0.25).vf_coef == 0.25
    dqn = made("dqn", gradient_steps=3)
    assert (dqn.gradient_steps, dqn.train_freq.frequency, dqn.learning_starts) == (3, 6, 48)
    assert (dqn.buffer_size, dqn.gamma, dqn.env.get_attr("shaping")[0]) == (192, 1.0, "none")
    assert made("dqn", rounds=10**6).buffer_size == 2**26 // (16 * 6)


def test_schedules_run_over_the_rounds(made):
    """Rounds of whole sequences, of n_steps, of train_freq; one step more, to start a round that is not played."""
    config = RunConfig(rounds=4)
    assert {total_steps(made(name), config) for name in ("seqgan", "ppo", "dqn")} == {4 * 8 * 6 + 1}
    assert total_steps(made("ppo", n_steps=3), config) == 4 * 8 * 3 + 1
    assert total_steps(made("dqn", train_freq=2), config) == 4 * 8 * 2 + 1


@pytest.mark.parametrize("algorithm", ["seqgan", "ppo", "rloo", "dqn"])
@pytest.mark.parametrize("budget", [{"tokens": 100}, {"tokens": 50, "scored": 300}, {"scored": 40}])
def test_a_budget_ends_with_the_first_round_that_has_used_it(tiny, tmp_path, monkeypatch, text_file, algorithm, budget):
    """On sequences of different lengths; counted by a reward that counts."""
    scored = []

    def counting(parts):
        def score(tokens_BT, lengths_B):
            scored.append(len(lengths_B))
            return lengths_B.float()

        return score

    check_done, at_ends = rounds.Rounds._check_done, []

    def counted(loop):
        at_ends.append(sum(scored))
        check_done(loop)

    monkeypatch.setattr(rounds.Rounds, "_check_done", counted)
    monkeypatch.setitem(rewards._factories, "counting", counting)
    agent = {"algorithm": algorithm, "reward": "counting", "rollouts": algorithm != "rloo"}
    data = {"corpus": str(text_file), "min_count": 3, "sequence_length": None}
    config = tiny(agent=agent, data=data, controls=[], rounds=1, **budget)
    with opened(config, tmp_path / "run", progress=False) as run:
        run.go()
    rows = [row for row in read_metrics(RunFolder(tmp_path / "run")) if "round" in row and "agent/reward" in row]
    names = {"tokens": "tokens", "scored": "evaluations"}
    is_used = [all(row[names[name]] >= amount for name, amount in budget.items()) for row in rows]
    assert is_used == [False] * (len(rows) - 1) + [True]
    assert [row["evaluations"] for row in rows] == at_ends
    assert rows[-1]["time/training"] > 0


def test_evaluations_at_marks_of_tokens_change_nothing_and_are_resumed(tiny, tmp_path, monkeypatch):
    """Of 48 tokens a round: marks inside the first and third round, at the end of the second, and never reached."""
    own = {"every": 100, "samples": 64, "final_samples": 64}
    marked = tiny(evaluation={**own, "at": (1, 96, 97, 130, 999), "reward": "bleu", "sample_scores": True}, controls=[])
    plain = tiny(evaluation=own, controls=[])
    for name, config in (("plain", plain), ("marked", marked)):
        with opened(config, tmp_path / name, progress=False) as run:
            run.go()
    rows = {name: read_metrics(RunFolder(tmp_path / name)) for name in ("plain", "marked")}
    rounds_of = {n: [r["round"] for r in found if "round" in r and "eval/nll_test" in r] for n, found in rows.items()}
    assert rounds_of == {"plain": [0, 4], "marked": [0, 1, 2, 3, 4]}
    assert all({"eval/reward", "eval/bleu_4"} <= set(r) for r in rows["marked"] if "eval/nll_test" in r)
    losses = {name: [r["agent/reward"] for r in found if "agent/reward" in r] for name, found in rows.items()}
    assert losses["plain"] == losses["marked"]
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    train_until(monkeypatch, SeqGAN, "train", 3, marked, tmp_path / "cut")
    with opened(RunConfig(), tmp_path / "cut", resume=True, progress=False) as run:
        run.go()
    assert lines(tmp_path / "cut") == lines(tmp_path / "marked")


@pytest.mark.parametrize("changes", [{"n_steps": 4}, {"n_steps": 9}])
def test_rounds_may_be_shorter_or_longer_than_a_sequence(tiny, tmp_path, monkeypatch, changes):
    """And all of them are played, and resumed in the middle of sequences."""
    config = agent_config(tiny, "a2c", agent={"options": changes}, rounds=5, evaluation={"every": 5})
    train(config, tmp_path / "whole", progress=False)
    rows = [row for row in read_metrics(RunFolder(tmp_path / "whole")) if "train/n_updates" in row]
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["tokens"] for row in rows] == [8 * changes["n_steps"] * k for k in range(1, 6)]
    train_until(monkeypatch, rounds.Rounds, "_on_rollout_end", 4, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# --- a value-based agent where a generator is asked for ---------------------------------------------------------


def test_a_player_scores_what_the_agent_plays(made):
    """Epsilon-greedy at the final exploration rate: every token costs -log(0.05 / 20), the greedy one
    -log(0.95 + 0.05 / 20), and 512 samples show the same shares."""
    agent = made("dqn")
    agent.exploration_rate = 0.7  # of training; not what is scored
    player = Player(agent)
    tokens_BT = player.sample(512, rng=np.random.default_rng(0))
    logp_BT = player.log_prob(tokens_BT)
    greedy, other = np.log(0.95 + 0.05 / 20), np.log(0.05 / 20)
    is_greedy_BT = (logp_BT - greedy).abs() < 1e-5
    assert torch.equal(is_greedy_BT | ((logp_BT - other).abs() < 1e-5), torch.ones(512, 6, dtype=torch.bool))
    share, expected = is_greedy_BT.double().mean().item(), 0.95 + 0.05 / 20
    assert abs(share - expected) < 5 * (expected * (1 - expected) / (512 * 6)) ** 0.5  # false alarm 6e-7
    state = agent.policy.obs_to_tensor(np.full((1, 6), 20))[0]
    assert int(agent.policy._predict(state, deterministic=True)) == int(tokens_BT[is_greedy_BT[:, 0], 0][0])
    assert agent.exploration_rate == 0.7
    assert player.logits(tokens_BT).logsumexp(dim=2).abs().max() < 1e-5


def test_what_a_greedy_player_never_plays_has_an_infinite_cost(made):
    player = Player(made("dqn", exploration_final_eps=0.0))
    tokens_BT = player.sample(20, rng=np.random.default_rng(0))
    assert len(torch.unique(tokens_BT, dim=0)) == 1
    assert torch.equal(player.log_prob(tokens_BT), torch.zeros(20, 6))
    other_BT = tokens_BT.clone()
    other_BT[:, 0] = (other_BT[:, 0] + 1) % 20
    assert torch.isneginf(player.log_prob(other_BT)[:, 0]).all()


def test_the_saved_agent_plays_as_the_trained_one(tiny, tmp_path, monkeypatch):
    played = {}

    def save(folder, model):
        played[folder.name] = Player(model).sample(64, rng=np.random.default_rng(0))
        real(folder, model)

    real = save_player
    monkeypatch.setattr(trainer, "save_player", save)
    train(agent_config(tiny, "dqn", controls=["constant"]), tmp_path / "run", progress=False)
    for folder, name in (("agent", "dqn"), ("constant", "constant")):
        loaded = load_run(tmp_path / "run", name)[2]
        assert torch.equal(loaded.sample(64, rng=np.random.default_rng(0)), played[folder])


def test_a_damaged_agent_is_one_line(finished, tmp_path):
    import shutil

    _, run = finished("dqn")
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["generator"]["hidden_dim"] = 5
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="agent") as caught:
        sample(copy, 1)
    assert "\n" not in str(caught.value)
    (copy / "agent" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="agent"):
        sample(copy, 1)


# --- when training goes wrong -----------------------------------------------------------------------------------


class WrongLater(Reward):
    """Pays what is not a number from the fourth scoring of sequences on."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, tokens_BT, lengths_B):
        self.calls += len(tokens_BT) > 0
        return torch.full((len(tokens_BT),), float("nan") if self.calls >= 4 else 1.0)


def wrong_later(parts):
    return WrongLater()


def plain(num_actions, sequence_length):
    """A discriminator without precision; never built."""
    raise AssertionError


@pytest.fixture(scope="module", autouse=True)
def own_names():
    """Parts under names for these tests only."""
    from seqgan_rl.discriminators import discriminators

    rewards.register("test_wrong_later")(wrong_later)
    discriminators.register("test_plain")(plain)
    yield
    del rewards._factories["test_wrong_later"], discriminators._factories["test_plain"]


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_reward_that_is_not_finite_stops_the_run_and_the_last_checkpoint_is_good(
    tiny, tmp_path, monkeypatch, algorithm
):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config = agent_config(tiny, algorithm, agent={"reward": "test_wrong_later", "rollouts": False}, rounds=8)
    with pytest.raises(FloatingPointError, match="a reward is not finite"):
        train(config, tmp_path / "run", progress=False)
    assert_last_checkpoint_is_good(tmp_path / "run", round=3)


def assert_last_checkpoint_is_good(run, round):
    found = RunFolder(run).last_checkpoint()
    assert found is not None
    state = found[1]["state"]
    assert state["round"] == round
    assert all(torch.isfinite(w).all() for w in state["agent"]["networks"]["policy"].values())
    if state["agent"]["buffer"] is not None:
        assert np.isfinite(state["agent"]["buffer"]["rows"]["rewards"]).all()


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn"])
def test_weights_that_are_not_finite_stop_the_run_before_they_are_saved(tiny, tmp_path, monkeypatch, algorithm):
    """SB3 itself trains on without a word."""
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    made = algorithms[algorithm]

    def breaking(parts):
        agent: Any = made(parts)
        real, calls = agent.train, []

        def train(*args, **kwargs):
            real(*args, **kwargs)
            calls.append(1)
            if len(calls) == 2:
                with torch.no_grad():
                    next(agent.policy.parameters()).fill_(float("inf"))

        agent.train = train
        return agent

    monkeypatch.setitem(algorithms._factories, algorithm, breaking)
    config = agent_config(tiny, algorithm, rounds=8)
    with pytest.raises(FloatingPointError, match="of the policy is not finite"):
        train(config, tmp_path / "run", progress=False)
    assert_last_checkpoint_is_good(tmp_path / "run", round=2 if algorithm == "dqn" else 1)


@pytest.mark.parametrize(("algorithm", "rate"), [("ppo", 1e30), ("a2c", 1e30), ("dqn", 1e30), ("dqn", 1e38)])
def test_a_learning_rate_that_is_far_too_large_is_a_floating_point_error(tiny, tmp_path, algorithm, rate):
    """Whether a weight, a loss or torch's distribution is the first to be not finite."""
    with pytest.raises(FloatingPointError, match="is not finite; lower the agent's learning rate"):
        train(agent_config(tiny, algorithm, agent={"learning_rate": rate}, rounds=8), tmp_path / "run", progress=False)


def test_an_agent_that_is_no_generator_is_not_stopped_by_its_nll(tiny, tmp_path):
    config = agent_config(tiny, "dqn", evaluation={"max_nll_rise": 0.0, "every": 1})
    train(config, tmp_path / "run", progress=False)
    assert max(row.get("round", 0) for row in read_metrics(RunFolder(tmp_path / "run"))) == 4


# --- an algorithm of one's own ----------------------------------------------------------------------------------


def test_an_algorithm_of_ones_own_trains_resumes_and_samples(tiny, tmp_path, monkeypatch):
    """PPO with an MLP on embedded tokens: a policy with probabilities, but no generator."""
    from stable_baselines3 import PPO

    from seqgan_rl.agents.extractor import TokenExtractor

    def own(parts):
        kwargs = {"features_extractor_class": TokenExtractor, "net_arch": [8]}
        size = parts.round_size // parts.config.batch_size
        return PPO("MlpPolicy", parts.make_env("none"), n_steps=size, batch_size=16, gamma=1.0, policy_kwargs=kwargs)

    monkeypatch.setitem(algorithms._factories, "test_own", own)
    config = agent_config(tiny, "test_own", controls=["constant"])
    train(config, tmp_path / "whole", progress=False)
    train_until(monkeypatch, PPO, "train", 3, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert len(sample(tmp_path / "run", 3, prompt="1 2", temperature=0.5)) == 3
    names = [row["name"] for row in evaluate(tmp_path / "run", n_samples=64)[1]]
    assert names == ["oracle entropy", "MLE", "test_own", "constant"]


def test_the_run_says_whether_the_sampler_is_compiled(tiny, tmp_path, monkeypatch):
    """Whatever the process was set to before; afterwards that is as it was."""
    seen = []

    def prepared(folder, *args, **kwargs):
        seen.append(is_compiled())
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "Run", prepared)
    for compile in (True, False):
        set_compiled(not compile)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(compile=compile), tmp_path / str(compile), progress=False)
        assert is_compiled() is not compile
    set_compiled(False)
    assert seen == [True, False]


def test_the_defaults_are_seqgan_in_float32():
    assert AgentConfig().algorithm == "seqgan"
    assert AgentConfig().options == {}
    assert NetworkConfig().precision == "float32"
