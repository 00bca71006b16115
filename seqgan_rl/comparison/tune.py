"""Search an agent's hyperparameters with Optuna: a trial is a job of a comparison, on seeds that no comparison has.

In the study's folder (:mod:`seqgan_rl.comparison.study`):

starts/seed-1000/                      what all trials of a seed start from
runs/trial-0007/AGENT/seed-1000/       a job, see :mod:`seqgan_rl.comparison.jobs`
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.comparison.experiment import Spec, prepare, specs, tasks_of
from seqgan_rl.comparison.jobs import command_of, points_along, read_curve, read_record, read_spec
from seqgan_rl.comparison.launchers import Local, Work
from seqgan_rl.comparison.records import METRICS
from seqgan_rl.comparison.study import search
from seqgan_rl.comparison.trials import Attempt, TuneConfig, TuneResult
from seqgan_rl.core.config import as_dict
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text
from seqgan_rl.sequences.extras import needed

POLL_SECONDS = 1.0
"""Between two looks at what a job has written."""


def tune(config: TuneConfig) -> TuneResult:
    """Search on jobs of a comparison, and write ``best.yaml``, ``trials.csv`` and ``history.png/.svg`` into the study's
    folder; the same as ``seqgan-rl tune``.

    Raises:
        InputError: bad settings, a folder of another study, Optuna is not installed, or no trial came to its end.
    """
    needed("optuna", "tune", "tuning")  # before the data, which may take a while
    comparison, data = prepare(config.comparison)
    jobs = list(specs(comparison, data))
    task = tasks_of(comparison)[0]
    job = next((job for job in jobs if job.agent == config.agent and job.kind in ("agent", "exact")), None)
    if job is None:
        raise InputError(f"{config.agent} does not play on {config.task_name}")
    start = next((job for job in jobs if job.kind == "start"), None)

    def objective(attempt: Attempt) -> float:
        if start is not None:
            _make(config.path, _with_seed(start, attempt.seed))
        goes_beyond = "evaluations" if job.kind == "exact" else "scored"
        settings = {**job.config, "agent": as_dict(attempt.agent.agent), goes_beyond: 0}
        own = _with_seed(replace(job, task=f"trial-{attempt.trial:04d}", config=settings), attempt.seed)

        def watch() -> None:
            for tokens, score in _scores_along(config.path, own, task.primary):
                attempt.report(tokens, score)

        folder = _make(config.path, own, watch)
        record = read_record(folder)
        if record is None:
            raise InputError(f"{folder / 'record.json'} cannot be read; remove {folder} to run it again")
        return record.score_at("tokens", config.budget, task.primary)

    about = {name: value for name, value in as_dict(comparison).items() if name not in ("agents", "hyperparameters")}
    metric = METRICS[task.primary]
    return search(config, objective, metric=task.primary, higher_is_better=metric.higher_is_better, about=about)


def _with_seed(job: Spec, seed: int) -> Spec:
    return replace(job, seed=seed, config={**job.config, "seed": seed})


def _make(root: Path, job: Spec, watch: Callable[[], object] = lambda: None) -> Path:
    """Run a job in a process of its own, or go on with it, and return its folder. ``watch`` is called while it runs and
    once after; what it raises ends the job."""
    folder = (root / job.folder).resolve()
    if (folder / "job.json").is_file() and asdict(read_spec(folder)) != json.loads(json.dumps(asdict(job))):
        raise InputError(f"{folder} was begun with other settings, perhaps by another version; remove it")
    if not (folder / "record.json").is_file():
        make_folder(folder)
        write_text(folder / "job.json", json.dumps(asdict(job), indent=1) + "\n")
        work = Work(name=job.folder, folder=folder, command=command_of(job, folder))
        error = _attempt(work, watch)
        if error.startswith(
            "killed by "
        ):  # as by want of memory, which may have been another's: no night is lost for it
            error = _attempt(work, watch)
        if error.startswith("FloatingPointError: "):
            raise FloatingPointError(error.partition(": ")[2])
        if error:
            raise InputError(f"{folder} stopped: {error}; once that is mended, the same command goes on with it")
    watch()
    return folder


def _attempt(work: Work, watch: Callable[[], object]) -> str:
    """Why the job failed, "" if it did not."""
    launcher = Local([work], 1, None)
    launcher.start(work, work.name)
    try:
        while not (ended := launcher.ended(POLL_SECONDS)):
            watch()
    finally:
        launcher.stop()
    return ended[0][1]


def _scores_along(root: Path, job: Spec, metric: str) -> list[tuple[int, float]]:
    """Tokens and score of the evaluations that a job has written so far."""
    folder = root / job.folder
    if not (folder / "run" / "metrics.jsonl").is_file():
        return []
    run = RunFolder(folder / "run")
    if job.kind == "exact":
        return [(row["tokens"], row[f"eval/{metric}"]) for row in read_metrics(run) if f"eval/{metric}" in row]
    curve = read_curve(root / "starts" / f"seed-{job.seed}")
    points = points_along(run, job.config["agent"]["algorithm"], curve)
    return [(point.tokens, point.scores.get(metric, math.nan)) for point in points]
