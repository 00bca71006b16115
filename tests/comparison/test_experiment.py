"""What a comparison asks for: names, jobs, and settings that cannot be."""

import dataclasses

import pytest

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.comparison.exact import ExactJob
from seqgan_rl.comparison.experiment import AGENTS, CompareConfig, prepare, slug, specs, tasks_of
from seqgan_rl.core.config import as_dict, updated
from seqgan_rl.core.errors import InputError
from tests.comparison.conftest import tiny_comparison, tiny_run

ALL = {"tracks": ("adversarial", "frozen", "exact"), "agents": AGENTS, "seeds": 2}


@pytest.fixture(scope="module")
def everything():
    config, data = prepare(tiny_comparison(**ALL, evaluations=0))
    return config, data, list(specs(config, data))


def test_every_agent_has_a_job_wherever_it_can_play(everything):
    _, _, found = everything
    agents: dict[str, set[str]] = {}
    for spec in found:
        agents.setdefault(spec.task, set()).add(spec.agent)
    fitted = {"mle_continued", "scheduled_sampling"}
    assert agents[""] == {"mle"}  # the starts
    assert agents["adversarial"] == {*AGENTS}
    assert agents["frozen-oracle"] == {*AGENTS} - fitted - {"pg_bleu"}
    assert agents["frozen-bleu"] == {*AGENTS} - fitted  # PG-BLEU is paid what this task pays
    assert agents["exact-table"] == {*AGENTS} - fitted - {"pg_bleu"}
    assert [spec.kind for spec in found[:3]] == ["start", "start", "fitted"]
    assert len({spec.folder for spec in found}) == len(found)


def test_what_must_be_shared_is_shared_and_budgets_are_equal(everything):
    config, data, found = everything
    assert config.evaluations == 10 * -(-config.budget // data.corpus.sequence_length)
    runs = [updated(RunConfig(), spec.config) for spec in found if spec.kind != "exact"]
    assert len({(run.data, run.generator, run.mle, run.network, run.discriminator, run.threads) for run in runs}) == 1
    playing = [updated(RunConfig(), spec.config) for spec in found if spec.kind == "agent"]
    assert {(run.tokens, run.scored) for run in playing} == {(config.budget, config.evaluations)}
    assert {spec.seed for spec in found} == {0, 1} == {run.seed for run in runs}
    exact = [updated(ExactJob(), spec.config) for spec in found if spec.kind == "exact"]
    assert len({(job.tokens, job.evaluations, job.beta, job.task_seed) for job in exact}) == 1
    budgets = {task.name: (task.budget, task.evaluations) for task in tasks_of(config)}
    assert budgets["exact-table"] == (exact[0].tokens, exact[0].evaluations) == (600, 600)  # those that they play for
    assert budgets["adversarial"] == (0, 0)  # the comparison's


def test_controls_act_on_the_tasks_own_reward(everything):
    _, _, found = everything
    rewards = {(spec.task, spec.agent): spec.config["agent"]["reward"] for spec in found if spec.kind == "agent"}
    assert rewards["adversarial", "shuffled"] == "shuffled(logit)"
    assert rewards["frozen-bleu", "shuffled"] == "shuffled(bleu)"
    assert rewards["frozen-oracle", "seqgan"] == "oracle"
    assert rewards["adversarial", "seqgan"] == "discriminator"
    assert rewards["adversarial", "pg_bleu"] == "bleu"


def test_settings_survive_their_file(everything):
    config, _, _ = everything
    assert updated(CompareConfig(), as_dict(config)) == config


def test_tasks_of_a_corpus_have_no_oracle():
    run = tiny_run(data={"corpus": "proverbs", "vocab_size": 5000, "sequence_length": None})
    config = tiny_comparison(
        env="SeqGAN/Corpus-v0", run=run, tracks=("adversarial", "frozen"), frozen_rewards=("bleu",)
    )
    assert [task.primary for task in tasks_of(config)] == ["bleu_gap", "reward"]
    with pytest.raises(InputError, match="a corpus has no oracle"):
        tasks_of(dataclasses.replace(config, frozen_rewards=("oracle",)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agents": ("seqgann",)}, "unknown agent 'seqgann'.*seqgan"),
        ({"agents": ()}, "agents must name at least one"),
        ({"env": "SeqGAN/Orakel-v0"}, "env must be one of"),
        ({"env": "SeqGAN/Corpus-v0"}, "env and corpus must fit"),
        ({"tracks": ("frosen",)}, "tracks must be some of"),
        ({"tracks": ()}, "tracks must be some of"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"budget": 0}, "budget must be at least 1"),
        ({"evaluations": -1}, "evaluations must be at least 0"),
        ({"reward": "bleu"}, "reward must be one of a discriminator"),
        ({"tracks": ("frozen",), "frozen_rewards": ("oracle + bleu", "oracle - bleu")}, "must differ in letters"),
        ({"tracks": ("frozen", "frozen")}, "must differ in letters"),
        ({"tracks": ("frozen",), "frozen_rewards": ("logit",)}, "frozen_rewards must stay as they are"),
        ({"tracks": ("frozen",), "frozen_rewards": ("blue",)}, "unknown reward 'blue'.*did you mean 'bleu'"),
        ({"tracks": ("frozen",), "frozen_rewards": ()}, "frozen_rewards must name at least one"),
        ({"tracks": ("exact",), "exact": {"beta": -1.0}}, "exact.*: beta must be a finite number above 0"),
        ({"hyperparameters": "/nowhere.yaml"}, "does not exist"),
        ({"tracks": ("exact",), "agents": ("dqn",), "exact": {"vocab_size": 50, "sequence_length": 9}}, "sequences"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, words):
    if isinstance(changes.get("exact"), dict):
        changes = {**changes, "exact": updated(tiny_comparison().exact, changes["exact"])}
    with pytest.raises(InputError, match=words) as caught:
        prepare(tiny_comparison(**changes))
    assert "\n" not in str(caught.value)


def test_slugs_are_path_parts():
    assert [slug(name) for name in ("frozen-0.5*oracle + bleu", "../../x", "PPO (mine)", "漢")] == [
        "frozen-0-5-oracle-bleu",
        "x",
        "ppo-mine",
        "x",
    ]
