"""Hand the curves of a comparison to Weights & Biases, where it is installed.

TensorBoard needs none of this: ``tensorboard --logdir FOLDER`` shows every run of a comparison while it runs.
"""

import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

from seqgan_rl.comparison.records import Comparison, Job
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import write_text
from seqgan_rl.core.reading import one_line

MARK = "tracked.txt"
"""In the folder of a job that has been handed over, with the id that it has there."""


def wandb_module() -> Any:
    """Weights & Biases. InputError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise InputError("track needs Weights & Biases, which is not installed; pip install wandb") from None


def track(comparison: Comparison, folder: Path, wandb: Any) -> int:
    """Make a run there of every finished job that has none yet; the number of them.

    The project is the comparison's name, a group is an agent on a task, and the horizontal axis is tokens; reward
    evaluations and seconds are there too. WANDB_MODE=offline keeps them on disk.

    Raises:
        InputError: Weights & Biases raised, for want of a login or of a network; what has been handed over is kept.
    """
    new = [job for job in comparison.jobs if job.state == "done" and not (folder / job.folder / MARK).is_file()]
    for job in new:
        try:
            name = _hand_over(job, folder / job.folder, re.sub(r"[^\w.-]+", "-", comparison.name)[:100], wandb)
        except Exception as error:  # it has many of its own
            raise InputError(
                f"track: Weights & Biases does not take {job.folder}: {type(error).__name__}: {one_line(error)}; the "
                "jobs are done and the report is written; after `wandb login`, or with WANDB_MODE=offline, the same "
                "command hands over what is left"
            ) from error
        write_text(folder / job.folder / MARK, f"{name}\n")
    return len(new)


def _hand_over(job: Job, folder: Path, project: str, wandb: Any) -> str:
    """A job's run there; its id, which is another where the numbers are. One that is there already, since a hand-over
    was killed before it was marked, is written anew."""
    identity = [str(folder.resolve()), job.settings, job.hashes]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    run = wandb.init(
        project=project,
        group=f"{job.task}/{job.agent}",
        name=f"{job.task}/{job.agent}/seed-{job.seed}",
        id=name,
        config={**job.settings, "hashes": dict(job.hashes)},
        dir=str(folder),
        reinit=True,
    )
    run.define_metric("*", step_metric="tokens")
    for row in _rows(job):
        run.log(row)
    run.finish()
    return name


def _rows(job: Job) -> list[dict[str, float]]:
    """Scores and diagnostics in the order of their tokens."""
    scores = [
        {
            "tokens": float(point.tokens),
            "evaluations": float(point.evaluations),
            "seconds": point.seconds,
            **{f"score/{name}": value for name, value in point.scores.items()},
        }
        for point in job.points
    ]
    return sorted([*map(dict, job.diagnostics), *scores], key=lambda row: row.get("tokens", 0.0))
