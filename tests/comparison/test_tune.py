"""The search finds the best, goes on after an interruption to the same trials, and writes what ``compare`` reads."""

import contextlib
import csv
import fcntl
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro
import yaml

from seqgan_rl import cli
from seqgan_rl.adversarial.config import preset
from seqgan_rl.comparison.experiment import ExactTrack, prepare, specs
from seqgan_rl.comparison.hyperparameters import ENVIRONMENTS, FITTED, agent_spec, known_agents, settings_of
from seqgan_rl.comparison.search_space import SPACES, Range, space_of
from seqgan_rl.comparison.study import search
from seqgan_rl.comparison.trials import FIRST_SEED, Attempt, TuneConfig, TuneResult
from seqgan_rl.comparison.tune import _make, tune
from seqgan_rl.core.errors import InputError

pytestmark = pytest.mark.long

optuna = pytest.importorskip("optuna")

BEST_RATE, BEST_CLIP = 1e-3, 0.3


@contextlib.contextmanager
def locked_for_writing(path: Path) -> Iterator[None]:
    """BlockingIOError where a process holds the lock of a job's log."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def quadratic(attempt: Attempt) -> float:
    """Least, 1, at the best learning rate and clip range."""
    rate, clip = attempt.agent.agent.learning_rate, attempt.agent.agent.options["clip_range"]
    return 1 + math.log10(rate / BEST_RATE) ** 2 + 25 * (clip - BEST_CLIP) ** 2


@pytest.fixture
def config(tmp_path: Path) -> TuneConfig:
    file = tmp_path / "search.yaml"
    file.write_text("learning_rate: {low: 1e-5, high: 1e-1, log: true}\nclip_range: {low: 0.05, high: 0.4}\n")
    return TuneConfig(agent="ppo", trials=12, seeds=1, budget=1000, folder=str(tmp_path / "study"), search=str(file))


def run(config: TuneConfig, objective: Any = quadratic, higher: bool = False, **about: Any) -> TuneResult:
    return search(config, objective, metric="loss", higher_is_better=higher, about=about)


def test_the_optimum_of_a_quadratic_is_found(config):
    result = run(replace(config, trials=40))
    best = float(result.best.value or 0)
    assert best < 1.05
    later = [float(trial.value or 0) for trial in result.trials[20:]]
    assert sum(later) / len(later) < 2  # a random point has 2.73 on average, the mean of 20 a deviation of 0.3
    assert abs(math.log10(result.settings["learning_rate"] / BEST_RATE)) < 0.23
    assert best == min(float(trial.value or 0) for trial in result.trials)
    assert "importance of the settings" in result.summary
    assert (config.path / "history.png").stat().st_size > 10_000


def test_more_can_be_better(config, tmp_path):
    down = run(replace(config, trials=14))
    up = run(replace(config, trials=14, folder=str(tmp_path / "up")), lambda attempt: -quadratic(attempt), higher=True)
    assert [trial.params for trial in up.trials] == [trial.params for trial in down.trials]
    assert up.best.number == down.best.number


def test_the_first_trial_is_the_settings_as_they_were(config):
    seen = []

    def objective(attempt: Attempt) -> float:
        seen.append(attempt.agent)
        return quadratic(attempt)

    result = run(replace(config, trials=2), objective)
    assert seen[0] == agent_spec("ppo", config.env, reward="logit")
    assert seen[1] != seen[0]
    assert result.trials[0].params == {}


def test_an_interrupted_search_goes_on_to_the_same_trials(config, tmp_path):
    def report_and_score(attempt: Attempt) -> float:
        value = quadratic(attempt)
        for tokens in (0, 100, 300, 1000):
            attempt.report(tokens, value + 1 / (1 + tokens))
        if attempt.agent.agent.learning_rate > 0.02:
            raise FloatingPointError("a loss is not finite")
        return value

    whole = run(replace(config, trials=18), report_and_score)
    assert {trial.state for trial in whole.trials} == {"complete", "pruned", "diverged"}

    apart, count = replace(config, folder=str(tmp_path / "apart"), trials=18), 0

    def killed_at_times(attempt: Attempt) -> float:
        nonlocal count
        count += 1
        if count % 5 == 0:
            attempt.report(100, 0.0)  # what it said before it was killed does not count
            raise KeyboardInterrupt
        return report_and_score(attempt)

    for trials in (3, 10, *[18] * 6):
        try:
            resumed = run(replace(apart, trials=trials), killed_at_times)
        except KeyboardInterrupt:
            continue
    assert count > 18
    assert [replace(t, seconds=0) for t in resumed.trials] == [replace(t, seconds=0) for t in whole.trials]
    assert run(replace(apart, trials=3), killed_at_times).trials == resumed.trials  # nothing is left to do
    names = ("best.yaml", "history.svg")
    assert all((apart.path / name).read_bytes() == (config.path / name).read_bytes() for name in names)


def test_seeds_are_averaged_and_are_none_of_a_comparison(config):
    seen = []

    def objective(attempt: Attempt) -> float:
        seen.append((attempt.trial, attempt.seed))
        return float(attempt.seed)

    result = run(replace(config, trials=2, seeds=3), objective)
    assert seen == [(trial, FIRST_SEED + i) for trial in range(2) for i in range(3)]
    assert result.best.value == FIRST_SEED + 1


def test_a_bad_trial_is_given_up_early(config):
    """Trials after the first 8 whose score at a tenth of the budget is worse than the median end there."""
    ends: list[Attempt] = []

    def objective(attempt: Attempt) -> float:
        for tokens in range(100, 1001, 100):
            attempt.report(tokens, float(len(ends)))  # every trial is worse than all before
        ends.append(attempt)
        return float(len(ends))

    result = run(replace(config, trials=10), objective)
    assert [trial.state for trial in result.trials] == ["complete"] * 8 + ["pruned"] * 2
    assert [len(trial.reports) for trial in result.trials] == [10] * 8 + [1] * 2
    assert result.best.number == 0


def test_best_yaml_loads_back_and_wins_over_ours(config):
    result = run(config)
    spec = agent_spec("ppo", config.env, reward="logit", file=config.path / "best.yaml")
    assert spec.agent.learning_rate == result.settings["learning_rate"]
    assert spec.agent.options["clip_range"] == result.settings["clip_range"]
    assert settings_of("ppo", config.env, config.path / "best.yaml") == result.settings
    other = agent_spec("ppo", "SeqGAN/Exact-v0", reward="logit", file=config.path / "best.yaml")
    assert other == agent_spec("ppo", "SeqGAN/Exact-v0", reward="logit")


def test_the_table_has_every_trial(config):
    result = run(config, lambda attempt: math.nan if attempt.agent.agent.learning_rate > 0.01 else quadratic(attempt))
    rows = list(csv.DictReader((config.path / "trials.csv").read_text().splitlines()))
    assert len(rows) == config.trials
    assert rows[0]["learning_rate"] == "0.0003"
    for row, trial in zip(rows, result.trials, strict=True):
        assert row["state"] == trial.state
        assert row["loss"] == ("" if trial.value is None else str(trial.value))
    assert any(row["note"] == "the score is nan" for row in rows)


def test_a_study_where_all_diverge_says_so_and_can_go_on(config):
    def diverges(attempt: Attempt) -> float:
        raise FloatingPointError("the policy is not finite")

    with pytest.raises(
        InputError, match=r"none of the 2 trials in .* came to its end \(the policy is not finite\); sear"
    ):
        run(replace(config, trials=2), diverges)
    assert run(replace(config, trials=3)).best.number == 2


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("name", [name for name in known_agents() if name not in FITTED])
def test_what_is_searched_fits_every_agent(name, env_id):
    settings = settings_of(name, env_id)
    assert space_of(name, settings, reward="logit") == SPACES[settings["algorithm"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate: {low: 1e-3}", "search.yaml: learning_rate must have low and high; high is missing"),
        ("learning_rate: {low: 1e-3, hi: 3}", "unknown key 'hi'"),
        ("learning_rate: {low: 1, high: 0.1}", "low must be a finite number below high"),
        ("learning_rate: {low: 0, high: 0.1, log: true}", "low must be above 0 where log is true"),
        ("learning_rate: {low: -.inf, high: 0.1}", "low must be a finite number below high"),
        ("learning_rate: {low: .nan, high: 0.1}", "low must be a number, got nan"),
        ("learning_rate: {low: some, high: 0.1}", "low must be a number, got 'some'"),
        ("learning_rate: {low: 0, high: 0.1}", "learning_rate must be above 0, got"),
        ("learning_rate: 3", "must be a mapping with low and high, or a list of choices, got 3"),
        ("learning_rate: [[1], [2]]", "or a list of choices"),
        ("learning_rat: [1, 2]", "did you mean the setting 'learning_rate'"),
        ("n_epochs: {low: 0, high: 3}", "n_epochs must be at least 1"),
        ("n_epochs: {low: 0.5, high: 3}", "n_epochs must be a whole number"),
        ("algorithm: [ppo, a2x]", "unknown algorithm 'a2x'"),
        ("{}", "names nothing to search"),
        ("[1]", "must hold a mapping"),
    ],
)
def test_a_wrong_search_is_said_before_any_trial(config, text, words):
    Path(config.search).write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        run(config, lambda attempt: pytest.fail("ran"))
    assert "\n" not in str(caught.value)
    assert not config.path.exists()


def test_choices_and_whole_numbers(config):
    Path(config.search).write_text("n_envs: [8, 16]\nn_epochs: {low: 1, high: 3}\nnormalize_advantage: [true, false]")
    result = run(config, lambda attempt: float(attempt.agent.agent.batch_size))
    for trial in result.trials[1:]:
        assert trial.params["n_envs"] in (8, 16)
        assert trial.params["n_epochs"] in (1, 2, 3)
        assert isinstance(trial.params["n_epochs"], int)
    assert settings_of("ppo", config.env, config.path / "best.yaml")["n_envs"] == 8
    assert run(config).trials == result.trials  # choices come back from the files as they were


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agent": "mle"}, "mle is fitted to data and has no hyperparameters to search"),
        ({"agent": "pp0"}, "unknown agent 'pp0'"),
        ({"hyperparameters": "none.yaml"}, "none.yaml does not exist"),
    ],
)
def test_wrong_settings_are_said_before_any_trial(config, changes, words):
    with pytest.raises(InputError, match=words):
        run(replace(config, **changes), lambda attempt: pytest.fail("ran"))
    assert not config.path.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "SeqGAN/Oracl-v0"}, "env must be one of"),
        ({"task": "adversaria"}, "tracks must be some of"),
        ({"task": "exact-"}, "exact.tasks must be some of"),
        ({"task": "frozen-logit"}, "frozen_rewards must stay as they are"),
        ({"task": "frozen-"}, "unknown reward ''; known are"),
        ({"env": "SeqGAN/Corpus-v0"}, "env and corpus must fit"),
    ],
)
def test_wrong_tasks(changes, words):
    with pytest.raises(InputError, match=words):
        TuneConfig(**changes)


@pytest.mark.parametrize("changes", [{"trials": 0}, {"seeds": 0}, {"budget": 0}, {"search_seed": -1}])
def test_numbers_out_of_range(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))} must be at least"):
        TuneConfig(**changes)


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    run(replace(config, trials=1))
    with pytest.raises(InputError, match="has another budget, seeds; choose another --folder"):
        run(replace(config, seeds=2, budget=2000))
    with pytest.raises(InputError, match="has another about; choose"):
        run(config, vocab_size=3)
    with pytest.raises(InputError, match="holds something else than a study"):
        run(replace(config, folder=str(tmp_path)))
    with pytest.raises(InputError, match="holds something else than a study"):
        run(replace(config, folder=config.search))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"state": "complete"}',
        '{"state": "complete", "params": {}, "value": null, "reports": {}, "seconds": 1, "note": ""}',
        '{"state": "complete", "params": {"x": 1}, "value": 1, "reports": {}, "seconds": 1, "note": ""}',
        '{"state": "pruned", "params": {}, "value": null, "reports": {"x": 1}, "seconds": 1, "note": ""}',
        '{"state": "lost", "params": {}, "value": null, "reports": {}, "seconds": 1, "note": ""}',
        '{"state": "pruned", "params": 3, "value": null, "reports": {}, "seconds": 1, "note": ""}',
    ],
)
def test_a_changed_trial_is_said(config, text):
    run(replace(config, trials=1))
    path = config.path / "trials" / "0000.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        run(config)
    assert str(path) in str(caught.value)


def test_a_value_outside_of_the_search_is_said(config):
    run(replace(config, trials=2))
    path = config.path / "trials" / "0001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "params": {"learning_rate": 5.0, "clip_range": "x"}}))
    with pytest.raises(InputError, match="is no trial"):
        run(config)


def test_without_optuna_the_extra_is_named(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'seqgan_rl\[tune\]'"):
        run(config)


def test_jobs_of_a_comparison_are_searched_and_the_best_is_used_by_one(tmp_path):
    """The whole way on an exact task: processes, records, reports, best.yaml; a second command finds nothing to do."""
    config = TuneConfig(
        agent="a2c",
        env="SeqGAN/Exact-v0",
        trials=2,
        seeds=1,
        budget=512,
        folder=str(tmp_path / "study"),
        exact=ExactTrack(vocab_size=3, sequence_length=2),
    )
    result = tune(config)
    assert [trial.state for trial in result.trials] == ["complete"] * 2
    assert all(0 <= (trial.value or -1) <= 1 for trial in result.trials)
    assert {"5", "10"} <= set(result.trials[0].reports)
    job = json.loads((config.path / "runs" / "trial-0001" / "a2c" / "seed-1000" / "job.json").read_text())
    assert job["config"]["agent"]["learning_rate"] == result.trials[1].params["learning_rate"]
    assert job["config"]["task_seed"] == 1000
    assert tune(config) == result
    job["config"]["agent"]["learning_rate"] = 1.0  # as another version of Optuna might propose
    (config.path / "runs" / "trial-0001" / "a2c" / "seed-1000" / "job.json").write_text(json.dumps(job))
    (config.path / "trials" / "0001.json").unlink()
    with pytest.raises(InputError, match="was begun with other settings"):
        tune(config)
    assert agent_spec("a2c", config.env, reward="logit", file=config.path / "best.yaml").agent.algorithm == "a2c"


def test_a_job_that_is_given_up_ends_at_once(tmp_path):
    config = TuneConfig(agent="a2c", env="SeqGAN/Exact-v0", budget=10**7, folder=str(tmp_path))
    job = next(job for job in specs(*prepare(config.comparison)) if job.agent == "a2c")
    metrics = tmp_path / job.folder / "run" / "metrics.jsonl"

    def watch() -> None:
        if metrics.exists():
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        _make(tmp_path, job, watch)
    with locked_for_writing(tmp_path / job.folder / "log.txt"):  # the job and all its children are gone
        assert not (tmp_path / job.folder / "record.json").exists()


@pytest.mark.parametrize("kills", [1, 2])
def test_a_job_that_is_killed_goes_on_once(tmp_path, monkeypatch, kills):
    config = TuneConfig(agent="a2c", env="SeqGAN/Exact-v0", folder=str(tmp_path))
    job = next(job for job in specs(*prepare(config.comparison)) if job.agent == "a2c")
    program = "import os, sys; seen = open(sys.argv[1] + '/seen', 'a'); "
    program += f"seen.write('x'); seen.flush(); seen.tell() <= {kills} and os.kill(os.getpid(), 9)"
    monkeypatch.setattr("seqgan_rl.comparison.tune.command_of", lambda job, folder: ("-c", program, str(folder)))
    if kills == 1:
        _make(tmp_path, job)
    else:
        with pytest.raises(InputError, match=r"stopped: killed by SIGKILL .*the same command goes on with it"):
            _make(tmp_path, job)
    assert (tmp_path / job.folder / "seen").read_text() == "xx"


def test_data_of_a_search_are_none_of_a_comparison():
    run = preset("quick")
    mine = TuneConfig(run=replace(run, data=replace(run.data, test="lines.txt"))).comparison.run.data
    assert mine.data_seed == run.data.data_seed + FIRST_SEED
    assert mine.test is None


def test_the_command_line_can_show_it():
    config = tyro.cli(TuneConfig, args=["--agent", "rloo", "--trials", "3", "--generator.hidden-dim", "8"])
    assert (config.agent, config.trials, config.run.generator.hidden_dim) == ("rloo", 3, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "quik"], "unknown preset 'quik'"),
        (["--rounds", "3"], "rounds: decided by the search; use --seeds"),
        (["--agent", "ppo", "--agent.learning-rate", "1"], "agent: decided by the search"),
        (["--config", "x.yaml"], "rounds: decided by the search"),
    ],
)
def test_what_the_command_line_refuses(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("run: {rounds: 3}\n")
    assert cli.main(["tune", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_presets_and_files_are_those_of_a_comparison(tmp_path, monkeypatch):
    """So that what is searched is what is compared."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("preset: quick\nagent: rloo\nbudget: 100\nrun: {generator: {hidden_dim: 5}}\n")
    asked = []

    def searched(config):
        asked.append(config)
        return SimpleNamespace(summary="")

    monkeypatch.setattr("seqgan_rl.comparison.tune.tune", searched)
    for arguments in (
        ["--config", "x.yaml", "--budget", "200"],
        ["--preset", "quick", "--trials", "3"],
        ["--corpus", "proverbs"],
        [],
    ):
        assert cli.main(["tune", *arguments]) == 0
    quick = replace(preset("quick"), controls=())
    assert [config.env.partition("/")[2] for config in asked] == ["Oracle-v0", "Oracle-v0", "Corpus-v0", "Oracle-v0"]
    assert (asked[0].agent, asked[0].budget) == ("rloo", 200)
    assert asked[0].run == replace(quick, generator=replace(quick.generator, hidden_dim=5))
    assert (asked[1].run, asked[1].trials) == (quick, 3)
    assert asked[2].run.preset.startswith("text/")
    assert asked[3] == TuneConfig()


def test_the_documentation_is_true(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    for algorithm, space in SPACES.items():
        row = next(line for line in text.splitlines() if line.startswith("|") and f"`{algorithm}`" in line)
        for name, part in space.items():
            shown = (
                ", ".join(map(str, part))
                if not isinstance(part, Range)
                else f"{part.low:g} to {part.high:g}{', log' if part.log else ''}"
            )
            assert f"{name} {shown}" in row

    files = [part.split("```")[0] for part in text.split("```yaml\n")[1:]]
    (tmp_path / "mine.yaml").write_text(files[0])
    assert agent_spec("ppo_sharp", "SeqGAN/Oracle-v0", reward="logit", file=tmp_path / "mine.yaml").agent.options
    (tmp_path / "search.yaml").write_text(files[1])
    settings = settings_of("ppo", "SeqGAN/Oracle-v0")
    assert set(space_of("ppo", settings, reward="logit", file=str(tmp_path / "search.yaml"))) == set(
        yaml.safe_load(files[1])
    )
