"""Hand the curves of a comparison to Weights & Biases, where it is installed.

TensorBoard needs none of this: ``tensorboard --logdir FOLDER`` shows every run of a comparison while it runs.
"""

import hashlib
import importlib
from pathlib import Path
from typing import Any

from seqgan_rl.comparison.records import Comparison, Job
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import write_text

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

    The project is the comparison's name, a group is an agent on a task, and the horizontal axes are tokens, reward
    evaluations and seconds. WANDB_MODE=offline keeps them on disk.
    """
    new = [job for job in comparison.jobs if job.state == "done" and not (folder / job.folder / MARK).is_file()]
    for job in new:
        name = hashlib.sha256(str((folder / job.folder).resolve()).encode()).hexdigest()[:16]
        run = wandb.init(
            project=comparison.name,
            group=f"{job.task}/{job.agent}",
            name=f"{job.task}/{job.agent}/seed-{job.seed}",
            id=name,
            resume="allow",
            config={**job.settings, "hashes": dict(job.hashes)},
            dir=str(folder / job.folder),
            reinit=True,
        )
        for row in _rows(job):
            run.log(row)
        run.finish()
        write_text(folder / job.folder / MARK, f"{name}\n")
    return len(new)


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
