"""A comparison as a whole: from settings to report, interrupted, grown, with failures in it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seqgan_rl import cli
from seqgan_rl.comparison.compare import collect, compare
from seqgan_rl.comparison.jobs import read_record
from seqgan_rl.comparison.records import Comparison, Job, Point
from seqgan_rl.comparison.tracking import track
from seqgan_rl.core.errors import InputError
from tests.comparison.conftest import TINY_RUN, tiny_comparison

pytestmark = pytest.mark.long

FLAGS = [
    *("--preset", "quick", "--vocab-size", "20", "--sequence-length", "6", "--train-size", "512", "--test-size", "128"),
    *("--mle.max-epochs", "6", "--discriminator.pretrain-minibatches", "20", "--discriminator.check-every", "10"),
    *("--discriminator.minibatches-per-round", "1", "--evaluation.final-samples", "128"),
    *("--budget", "800", "--evaluations", "1", "--quiet"),
]


def numbers(comparison: Comparison) -> list[tuple]:
    """All that must not hang on how the jobs were run."""
    return [
        (job.task, job.agent, job.seed, [(point.tokens, point.evaluations, point.scores) for point in job.points])
        for job in comparison.jobs
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three agents and two seeds on two tracks, run in one go by two workers."""
    folder = tmp_path_factory.mktemp("whole") / "comparison"
    config = tiny_comparison(seeds=2, tracks=("adversarial", "exact"))
    return config, folder, compare(config, folder, workers=2, progress=False)


def test_everything_is_there_and_done(whole):
    config, folder, comparison = whole
    assert {job.state for job in comparison.jobs} == {"done"}
    assert len(comparison.jobs) == 2 * 2 * len(config.agents)
    assert comparison.agents("adversarial") == config.agents
    assert (folder / "report.html").stat().st_size > 10_000
    assert {"scores.csv", "report.md"} & {path.name for path in (folder / "report").rglob("*")} or (
        {path.suffix for path in (folder / "report").rglob("*")} >= {".png", ".svg", ".csv", ".md"}
    )
    assert list((folder / "runs").glob("*/*/seed-0/run/tensorboard/*/events*"))


def test_the_same_command_again_runs_nothing(whole, monkeypatch):
    config, folder, comparison = whole
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    assert numbers(compare(config, folder, workers=2, progress=False)) == numbers(comparison)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")} == times


def test_agents_and_seeds_are_added_to_the_same_numbers(whole, tmp_path):
    """One agent and seed first, by one worker; the rest later, by two."""
    config, _, comparison = whole
    first = dataclasses.replace(config, agents=("mle", "shuffled"), seeds=1, tracks=("adversarial",))
    compare(first, tmp_path / "grown", workers=1, progress=False)
    grown = compare(config, tmp_path / "grown", workers=2, progress=False)
    assert sorted(numbers(grown), key=str) == sorted(numbers(comparison), key=str)
    assert grown.agents("adversarial") == ("mle", "shuffled", "seqgan_advantage")  # in the order of their coming


def test_a_job_whose_folder_is_damaged_is_reported_and_the_rest_goes_on(whole, tmp_path):
    config, folder, _ = whole
    shutil.copytree(folder, tmp_path / "damaged")
    job = tmp_path / "damaged" / "runs" / "adversarial" / "shuffled" / "seed-1"
    shutil.rmtree(job)
    job.mkdir()
    (job / "job.json").write_text('{"kind": "agent"}')
    with pytest.raises(InputError, match="not the job of a comparison"):
        collect(tmp_path / "damaged")
    start = tmp_path / "damaged" / "starts" / "seed-1" / "curve.json"
    start.write_text("{")
    found = compare(config, tmp_path / "damaged", workers=1, attempts=1, progress=False)
    failed = [job for job in found.jobs if job.state == "failed"]
    assert [(job.agent, job.seed) for job in failed] == [("shuffled", 1)]
    assert "curve.json cannot be read" in failed[0].error
    assert "curve.json cannot be read" in (tmp_path / "damaged" / "report.html").read_text()


@pytest.mark.parametrize("content", [None, "{"])
def test_a_record_that_is_gone_or_damaged_is_made_again(whole, tmp_path, content):
    config, folder, comparison = whole
    shutil.copytree(folder, tmp_path / "c")
    record = tmp_path / "c" / "runs" / "adversarial" / "shuffled" / "seed-1" / "record.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    assert numbers(compare(config, tmp_path / "c", workers=1, progress=False)) == numbers(comparison)


def test_jobs_begun_with_other_hyperparameters_are_not_mixed_in(whole, tmp_path):
    config, folder, _ = whole
    (tmp_path / "mine.yaml").write_text("shuffled: {default: {learning_rate: 0.5}}\n")
    shutil.copytree(folder, tmp_path / "c")
    settings = json.loads((tmp_path / "c" / "comparison.json").read_text())
    settings["settings"]["hyperparameters"] = str(tmp_path / "mine.yaml")
    (tmp_path / "c" / "comparison.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"learning_rate \(0.001 there, 0.5 now\)"):
        compare(
            dataclasses.replace(config, hyperparameters=str(tmp_path / "mine.yaml")), tmp_path / "c", progress=False
        )


def test_an_agent_is_added_with_a_file_of_its_own_settings_but_no_job_there_gets_others(tmp_path):
    config = tiny_comparison(agents=("mle", "shuffled"), env="SeqGAN/Exact-v0")
    before = compare(config, tmp_path / "c", progress=False)
    file = tmp_path / "mine.yaml"
    file.write_text("mine: {default: {algorithm: rloo}}\n")
    later = dataclasses.replace(config, agents=("mle", "mine"), hyperparameters=str(file))
    grown = compare(later, tmp_path / "c", progress=False)
    assert [(job.agent, job.state) for job in grown.jobs if job not in before.jobs] == [("mine", "done")]
    assert collect(tmp_path / "c").settings["hyperparameters"] == str(file)
    file.write_text("shuffled: {default: {learning_rate: 0.5}}\n")
    with pytest.raises(InputError, match=r"learning_rate \(0.01 there, 0.5 now\)"):
        compare(dataclasses.replace(config, hyperparameters=str(file)), tmp_path / "c", progress=False)


OWN = """
from seqgan_rl.adversarial.algorithms import algorithms
from seqgan_rl.rewards import rewards
from seqgan_rl.rewards.base import FunctionReward

@algorithms.register("test_compare_own")
def own(parts):
    return algorithms["rloo"](parts)

@rewards.register("test_compare_share", needs_discriminator=False)
def share(parts):
    return FunctionReward(lambda tokens_BT, lengths_B: (tokens_BT == 3).float().mean(1))
"""
OWN_COMMAND = ["compare", "--agents", "mine", "--hyperparameters", "mine.yaml", "--seeds", "1", "--tracks", "frozen"]
OWN_COMMAND += ["--frozen-rewards", "test_compare_share", "--workers", "1", "--folder", "c", *FLAGS]


@pytest.mark.parametrize("registers_itself", [False, True])
def test_algorithms_and_rewards_of_ones_own_take_part(tmp_path, registers_itself):
    """From the command line; or from a program that registers them, in a folder that is not the current one."""
    (tmp_path / "mine.yaml").write_text("mine: {default: {algorithm: test_compare_own, n_envs: 16}}\n")
    (tmp_path / "own").mkdir()
    main = f"if __name__ == '__main__':\n    from seqgan_rl import cli; raise SystemExit(cli.main({OWN_COMMAND}))"
    (tmp_path / "own" / "parts.py").write_text(f"{OWN}\n{main}\n")
    command, environment = ["-m", "seqgan_rl", *OWN_COMMAND], {"SEQGAN_RL_MODULES": "own/parts.py"}
    if registers_itself:
        command, environment = ["own/parts.py"], {}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "c" / "runs" / "frozen-test-compare-share").rglob("record.json"))
    jobs = [job for path in paths if (job := read_record(path.parent)) is not None]
    assert [(job.agent, job.state) for job in jobs] == [("mine", "done"), ("mle", "done")]
    assert all(0 < point.scores["reward"] < 1 for job in jobs for point in job.points)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 900}, r"budget \(800 there, 900 now\)"),
        ({"reward": "log_d"}, r"reward \('logit' there, 'log_d' now\)"),
        ({"run": {"generator": {"hidden_dim": 9}}}, r"run.generator.hidden_dim \(8 there, 9 now\)"),
    ],
)
def test_a_folder_with_other_settings_is_refused_and_left_alone(whole, changes, words):
    config, folder, _ = whole
    if isinstance(changes.get("run"), dict):
        changes = {
            "run": dataclasses.replace(config.run, generator=dataclasses.replace(config.run.generator, hidden_dim=9))
        }
    before = (folder / "comparison.json").read_bytes()
    with pytest.raises(InputError, match=words):
        compare(dataclasses.replace(config, **changes), folder, progress=False)
    assert (folder / "comparison.json").read_bytes() == before


@pytest.mark.parametrize("tracks", [("exact", "adversarial"), ("adversarial", "exact")])
def test_tracks_are_added_although_exact_tasks_have_budgets_of_their_own(tracks, tmp_path):
    for track_ in tracks:
        config = tiny_comparison(agents=("mle",), tracks=(track_,), evaluations=0)
        comparison = compare(config, tmp_path / "c", progress=False)
    assert comparison.evaluations == 10 * 134  # of 800 tokens in sequences of 6
    assert [task.name for task in comparison.tasks] == [{"exact": "exact-table"}.get(name, name) for name in tracks]


def test_seeds_are_not_added_from_a_corpus_that_has_changed(whole, tmp_path):
    config, folder, _ = whole
    shutil.copytree(folder, tmp_path / "c")
    path = tmp_path / "c" / "starts" / "seed-0" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "hashes": {**record["hashes"], "corpus": "of before"}}))
    with pytest.raises(InputError, match=r"seed-0 was made from other data: a file .* has changed"):
        compare(dataclasses.replace(config, seeds=3), tmp_path / "c", progress=False)
    assert not (tmp_path / "c" / "starts" / "seed-2").exists()


def test_nothing_is_written_where_something_else_stands(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for path in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(InputError, match="choose another"):
            compare(tiny_comparison(), path, progress=False)
    with pytest.raises(InputError, match="unknown agent"):
        compare(tiny_comparison(agents=("nobody",)), tmp_path / "new", progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "thesis.txt"]


def test_the_command_line_does_the_same(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "--agents", "seqgan_advantage,shuffled", "--seeds", "1", "--folder", "c", *FLAGS]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "seqgan_advantage" in shown
    assert "report: c/report.html" in shown
    _, _, comparison = whole
    assert numbers(collect("c")) == [job for job in numbers(comparison) if job[0] == "adversarial" and job[2] == 0]
    (tmp_path / "c" / "report.html").unlink()
    assert cli.main(["report", "--folder", "c"]) == 0
    assert (tmp_path / "c" / "report.html").is_file()


def test_a_file_of_settings_does_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = json.dumps(TINY_RUN)
    (tmp_path / "c.yaml").write_text(
        f"preset: quick\nagents: [mle]\nseeds: 1\nbudget: 800\nevaluations: 1\nrun: {run}\n"
    )
    assert cli.main(["compare", "--config", "c.yaml", "--folder", "c", "--quiet"]) == 0
    assert [job.agent for job in collect("c").jobs] == ["mle"]
    capsys.readouterr()
    data, others = TINY_RUN["data"], {key: value for key, value in TINY_RUN.items() if key != "data"}
    own = {"preset": "quick", "agents": ["mle"], "seeds": 1, "budget": 800, "evaluations": 1}
    (tmp_path / "c.yaml").write_text(json.dumps({**own, **data, **others}))  # nested as the flags are
    assert cli.main(["compare", "--config", "c.yaml", "--folder", "c", "--quiet"]) == 0  # the same settings
    capsys.readouterr()
    (tmp_path / "c.yaml").write_text("agentz: [mle]\n")
    assert cli.main(["compare", "--config", "c.yaml", "--folder", "d"]) == 2
    assert "agentz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--agents", "sequan"], "unknown agent 'sequan'"),
        (["compare", "--launcher", "slurm"], "unknown launcher 'slurm'"),
        (["compare", "--workers", "0"], "workers must be at least 1"),
        (["compare", "--env", "CartPole-v1"], "env must be one of"),
        (["compare", "--track"], "Weights & Biases, which is not installed"),
        (["report", "--folder", "nowhere"], "holds no comparison"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line_and_writes_nothing(
    tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main([*arguments, *(FLAGS if arguments[0] == "compare" else [])]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "comparisons").exists()


def test_a_killed_comparison_goes_on_to_the_same_numbers(whole, tmp_path):
    """SIGKILL of the whole command in the middle; then the same command again."""
    _, _, comparison = whole
    command = [sys.executable, "-m", "seqgan_rl", "compare", "--agents", "seqgan_advantage,shuffled", "--seeds", "2"]
    command += ["--tracks", "adversarial", "--workers", "2", "--folder", str(tmp_path / "c"), *FLAGS]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("c/runs/*/*/*/run/config.json")):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not all(read_record(path.parent) for path in tmp_path.rglob("job.json"))
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    assert numbers(collect(tmp_path / "c")) == [job for job in numbers(comparison) if job[0] == "adversarial"]


class FakeRun:
    def __init__(self, options):
        self.options, self.rows, self.is_finished, self.axes = options, [], False, {}

    def define_metric(self, name, *, step_metric):
        self.axes[name] = step_metric

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.is_finished = True


class FakeWandb:
    """Weights & Biases, for who is logged in or not."""

    def __init__(self):
        self.runs, self.is_logged_in = [], True

    def init(self, **options):
        if not self.is_logged_in:
            raise ConnectionError("no API key\nconfigured")
        self.runs.append(FakeRun(options))
        return self.runs[-1]


def finished(settings, **changes):
    point = Point(tokens=7, evaluations=3, seconds=0.5, scores={"gap": 0.25})
    job = Job(task="adversarial", agent="ppo", seed=0, folder="runs/adversarial/ppo/seed-0", state="done")
    job = dataclasses.replace(job, points=(point,), settings=settings, **changes)
    return Comparison(name="50% #1/two", tasks=(), jobs=(job,), budget=1, evaluations=1)


def test_a_hand_over_says_what_failed_and_goes_on_and_other_numbers_are_another_run(tmp_path):
    fake = FakeWandb()
    folder = tmp_path / "runs" / "adversarial" / "ppo" / "seed-0"
    folder.mkdir(parents=True)
    fake.is_logged_in = False
    with pytest.raises(
        InputError, match="ppo/seed-0: ConnectionError: no API key configured; the jobs are done"
    ) as said:
        track(finished({"rate": 1}), tmp_path, fake)
    assert "\n" not in str(said.value)
    fake.is_logged_in = True
    assert track(finished({"rate": 1}), tmp_path, fake) == 1
    (run,) = fake.runs
    assert not set(run.options["project"]) & set("/\\#?%:")
    assert run.axes == {"*": "tokens"}
    assert run.rows == [{"tokens": 7.0, "evaluations": 3.0, "seconds": 0.5, "score/gap": 0.25}]
    for settings in ({"rate": 1}, {"rate": 2}):  # killed before it was marked; made again with others in the same place
        (folder / "tracked.txt").unlink()
        assert track(finished(settings), tmp_path, fake) == 1
    first, again, other = (run.options["id"] for run in fake.runs)
    assert first == again != other
    assert not any("resume" in run.options for run in fake.runs)  # its rows are written anew, not added


def test_finished_jobs_are_handed_over_once(whole, tmp_path):
    _, folder, comparison = whole
    shutil.copytree(folder, tmp_path / "c")
    fake = FakeWandb()
    assert track(comparison, tmp_path / "c", fake) == len(comparison.jobs)
    assert track(comparison, tmp_path / "c", fake) == 0
    assert all(run.is_finished for run in fake.runs)
    assert len({run.options["id"] for run in fake.runs}) == len(fake.runs)
    job, run = next(
        (job, run) for job, run in zip(comparison.jobs, fake.runs, strict=True) if job.task == "adversarial"
    )
    assert run.options["name"] == f"{job.task}/{job.agent}/seed-{job.seed}"
    gaps = [row["score/nll_test"] for row in run.rows if "score/nll_test" in row]
    assert gaps == [point.scores["nll_test"] for point in job.points]
