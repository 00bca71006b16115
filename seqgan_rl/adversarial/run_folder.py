"""A run is a folder: settings, versions, metrics, checkpoints, models, results. Files appear whole or not at all.

config.json  versions.json  corpus/       what decides the numbers
metrics.jsonl  tensorboard/               one row a record; the second is drawn from the first
checkpoints/NNNNNN/                       the last two
mle/  discriminator/  generator/          models (safetensors and JSON)
controls/NAME/                            the controls' generators
results.json  results.md  samples.txt  figures/
"""

import contextlib
import json
import logging
import math
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from stable_baselines3.common.logger import KVWriter

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.core.checkpoint import load_state, save_state, write_text
from seqgan_rl.core.config import as_dict, read_yaml, updated
from seqgan_rl.core.errors import InputError

logger = logging.getLogger(__name__)
KEPT = 2
"""Checkpoints kept."""


class RunFolder:
    """Paths of a run, its metrics and its checkpoints."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> "RunFolder":
        """A new run folder. InputError if anything stands there already."""
        folder = cls(path)
        try:
            folder.path.mkdir(parents=True)
        except FileExistsError:
            going_on = f", or continue that run with --resume {path}" if (folder / "config.json").is_file() else ""
            raise InputError(f"{path} exists; choose another --run folder{going_on}") from None
        except OSError as error:
            raise InputError(f"cannot make the run folder {path}: {error.strerror}") from None
        write_text(folder.path / "config.json", json.dumps(as_dict(config), indent=1) + "\n")
        write_text(folder.path / "versions.json", json.dumps(_versions(), indent=1) + "\n")
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run folder. InputError if it is not one."""
        folder = cls(path)
        if not folder.path.exists():
            raise InputError(f"run folder {path} does not exist; `seqgan-rl train` makes one")
        if not (folder.path / "config.json").is_file():
            raise InputError(f"{path} is not a run folder: config.json is missing")
        return folder

    def config(self) -> RunConfig:
        """The run's settings."""
        return updated(RunConfig(), read_yaml(self.path / "config.json"), str(self.path / "config.json"))

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def save_checkpoint(self, number: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; the ones before the last are removed only when it is whole."""
        save_state(self / "checkpoints" / f"{number:06d}", state)
        found = self._checkpoints()
        unreadable = [path for path in found if int(path.name) > number]  # else the run had gone on from them
        killed = (self / "checkpoints").glob(".*")  # what was being written when the run was killed
        for path in (*unreadable, *killed, *[path for path in found if path not in unreadable][:-KEPT]):
            shutil.rmtree(path, ignore_errors=True)

    def last_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Number and state of the newest checkpoint that can be read; a damaged one is passed over, with a warning."""
        for path in reversed(self._checkpoints()):
            try:
                state = load_state(path)
                if not isinstance(state, dict) or {*state} != {"stage", "metrics_bytes", "state"}:
                    raise InputError(f"{path} is not the checkpoint of a run")
                return int(path.name), state
            except InputError as error:
                logger.warning("%s; falling back to the checkpoint before, or to the start", error)
        return None

    def _checkpoints(self) -> list[Path]:
        folder = self / "checkpoints"
        found = [p for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
        return sorted(found, key=lambda p: int(p.name))


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard events.

    Args:
        folder: the run.
        keep_bytes: cut ``metrics.jsonl`` back to this length first (what a checkpoint recorded); the events are then
            drawn anew from what is left.
    """

    def __init__(self, folder: RunFolder, keep_bytes: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        path = folder / "metrics.jsonl"
        path.touch()
        if path.stat().st_size > keep_bytes:
            os.truncate(path, keep_bytes)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._events = SummaryWriter(str(folder / "tensorboard"))
        for row in read_metrics(folder):
            self._draw(row)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._started = time.perf_counter()

    @property
    def size(self) -> int:
        """Bytes of ``metrics.jsonl`` so far, all on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def write(self, agent: str, step_name: str, step: int, values: dict[str, float]) -> None:
        """One row. Keys under "time/" are wall times; everything else repeats when the run is repeated."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}  # JSON has no NaN
        row = {"agent": agent, step_name: step, **finite, "time/seconds": round(time.perf_counter() - self._started, 3)}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._draw(row)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()

    def _draw(self, row: dict[str, Any]) -> None:
        step = next((row[name] for name in ("round", "epoch", "minibatch") if name in row), 0)
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value) and name not in ("round", "epoch", "minibatch"):
                self._events.add_scalar(f"{row.get('agent', '')}/{name}", value, step)


class AgentWriter(KVWriter):
    """SB3's logger output as rows of a :class:`MetricsLog`."""

    def __init__(self, log: MetricsLog, agent: str) -> None:
        self.log, self.agent = log, agent

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """One row of this round's records."""
        values = {key: float(value) for key, value in sorted(key_values.items()) if isinstance(value, int | float)}
        self.log.write(self.agent, "round", step, values)

    def close(self) -> None:
        """The log outlives the agent's logger."""


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """All rows of ``metrics.jsonl``; a last line cut off by a crash is passed over."""
    rows = []
    with contextlib.suppress(FileNotFoundError), (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


def new_run_path(name: str) -> Path:
    """``runs/NAME-YYYYmmdd-HHMMSS``, with a number behind it where that is taken."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [stem, *(stem.with_name(f"{stem.name}-{k}") for k in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def _versions() -> dict[str, str]:
    """What the run was made with."""
    packages = ("seqgan_rl", "torch", "numpy", "gymnasium", "stable-baselines3")
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(), **found}
