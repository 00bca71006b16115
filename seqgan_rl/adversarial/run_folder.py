"""A run is a folder: settings, versions, metrics, checkpoints, models, results. Files appear whole or not at all.

config.json  versions.json  corpus/       what decides the numbers
metrics.jsonl  tensorboard/AGENT/         one row a record; the second is drawn from the first
checkpoints/NNNNNN/                       the last two
mle/  discriminator/  generator/          models (safetensors and JSON)
controls/NAME/                            the controls' generators
results.json  results.md  samples.txt  figures/
"""

import contextlib
import errno
import json
import logging
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from stable_baselines3.common.logger import KVWriter

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.config import as_dict, read_yaml, updated
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import is_leftover, make_folder, remove_leftovers, sync_folder, write_text
from seqgan_rl.core.reading import one_line, read_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

try:
    import fcntl
except ImportError:  # Windows: a run is not locked there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
KEPT = 2
"""Checkpoints kept."""
_LOCK = ".lock"
_MAX_METRICS_BYTES = 2**30


class RunFolder:
    """Paths of a run, its metrics and its checkpoints."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: RunConfig) -> "RunFolder":
        """A new run folder. InputError if anything stands there already."""
        folder = cls(path)
        try:
            make_folder(folder.path.parent)
            try:
                folder.path.mkdir()
            except FileExistsError:
                if not folder._has_not_begun():
                    raise folder._exists() from None
            sync_folder(folder.path.parent)
        except OSError as error:
            raise InputError(f"cannot make the run folder {path}: {error.strerror}") from None
        with folder.locked():
            if not folder._has_not_begun():  # another process was quicker
                raise folder._exists()
            write_text(folder / "versions.json", json.dumps(_versions(), indent=1) + "\n")
            write_text(folder / "config.json", json.dumps(as_dict(config), indent=1) + "\n")  # last: now it is a run
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run folder. InputError if it is not one."""
        folder = cls(path)
        try:
            is_there = folder.path.exists()
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise InputError(f"run folder {str(path)[:200]} cannot be read: {error.strerror}") from None
        if not is_there:
            raise InputError(f"run folder {path} does not exist; `seqgan-rl train` makes one")
        if folder._has_not_begun():
            raise InputError(
                f"run folder {path} holds no run: config.json is missing, training was stopped before it had begun; "
                f"start it again with its settings and --run {path}"
            )
        if not (folder / "config.json").is_file():
            raise InputError(f"{path} is not a run folder: config.json is missing")
        return folder

    def _has_not_begun(self) -> bool:
        """Whether nothing stands there but what a start that was killed at once leaves."""
        if not self.path.is_dir():
            return False
        return all(p.name in ("versions.json", _LOCK) or is_leftover(p) for p in self.path.iterdir())

    def _exists(self) -> InputError:
        going_on = f", or continue that run with --resume {self.path}" if (self / "config.json").is_file() else ""
        return InputError(f"{self.path} exists; choose another --run folder{going_on}")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process may continue the run; what a killed one was writing is removed first.

        The system gives the lock back when a process dies, however it dies. Where there are no locks (Windows, some
        network file systems) nothing is locked.

        Raises:
            InputError: another process holds the lock.
            OSError: as raised inside; where the disk is full, with a word on how to go on.
        """
        try:
            with locked(self / _LOCK, f"run {self.path} is being continued by another process"):
                remove_leftovers(self.path)
                for folder in filter(Path.is_dir, self.path.iterdir()):
                    remove_leftovers(folder)
                yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            going_on = f"make room, then continue with --resume {self.path}"
            raise OSError(error.errno, f"{error.strerror}; {going_on}", error.filename) from error

    def config(self) -> RunConfig:
        """The run's settings."""
        return updated(RunConfig(), read_yaml(self.path / "config.json"), str(self.path / "config.json"))

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def save_checkpoint(self, number: int, state: dict[str, Any]) -> None:
        """Write a checkpoint; the ones before the last are removed only when it is whole and on disk.

        Raises:
            FloatingPointError: a number in it is not finite; the checkpoints before stay.
            OSError: it could not be written; the checkpoints before stay.
        """
        _check_finite(state, "")
        save_state(self / "checkpoints" / f"{number:06d}", state)
        found = self._checkpoints()
        unreadable = [path for path in found if int(path.name) > number]  # else the run had gone on from them
        for path in (*unreadable, *[path for path in found if path not in unreadable][:-KEPT]):
            shutil.rmtree(path, ignore_errors=True)
        remove_leftovers(self / "checkpoints")

    def last_checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        """Number and state of the newest checkpoint that can be read; a damaged one is passed over, with a warning."""
        for path in reversed(self._checkpoints()):
            try:
                state = load_state(path)
                if (
                    not isinstance(state, dict)
                    or {*state} - {"stopped"} != {"stage", "metrics_bytes", "state"}
                    or not isinstance(state.get("stopped", {}), dict)
                    or not all(type(state[name]) is int and state[name] >= 0 for name in ("stage", "metrics_bytes"))
                ):
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
    """``metrics.jsonl`` and TensorBoard events; those in a folder for each agent, so that TensorBoard draws the same
    metric of several agents, and of several runs, into one plot.

    Args:
        folder: the run.
        keep_bytes: cut ``metrics.jsonl`` back to this length first (what a checkpoint recorded); the events are then
            drawn anew from what is left.
    """

    def __init__(self, folder: RunFolder, keep_bytes: int = 0) -> None:
        path = folder / "metrics.jsonl"
        path.touch()
        sync_folder(folder.path)
        if path.stat().st_size > keep_bytes:
            os.truncate(path, keep_bytes)
        elif path.stat().st_size < keep_bytes:
            logger.warning(
                "%s is shorter than the checkpoint says (%d of %d bytes): rows are missing; training goes on",
                path,
                path.stat().st_size,
                keep_bytes,
            )
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._folder = folder / "tensorboard"
        self._events: dict[str, SummaryWriter] = {}
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
        for events in self._events.values():
            events.close()

    def _draw(self, row: dict[str, Any]) -> None:
        step = next((row[name] for name in ("round", "epoch", "minibatch") if name in row), 0)
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value) and name not in ("round", "epoch", "minibatch"):
                self._events_of(str(row.get("agent", ""))).add_scalar(name, value, step)

    def _events_of(self, agent: str) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        name = re.sub(r"[^\w-]+", "-", agent)[:60] or "run"  # a name in another's file may be a path
        if name not in self._events:
            self._events[name] = SummaryWriter(str(self._folder / name))
        return self._events[name]


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
    """All rows of ``metrics.jsonl``; a last line cut off by a crash, or a damaged one, is passed over."""
    path, rows = folder / "metrics.jsonl", []
    try:
        data = read_file(path, _MAX_METRICS_BYTES)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"metrics {path} cannot be read ({one_line(error)})") from None
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
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


@contextlib.contextmanager
def locked(path: Path, complaint: str) -> Iterator[None]:
    """Hold the lock of a file that exists as long as it is held, with the process's number in it."""
    file = _take(path, complaint) if fcntl is not None else None
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def _take(path: Path, complaint: str) -> IO[str] | None:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read(20).strip() or "unknown"
            file.close()
            raise InputError(f"{complaint} (pid {pid}); wait for it, or stop it first") from None
        except OSError as error:
            logger.info("no locks on this file system (%s); %s is not locked", error.strerror, path.parent)
            return file
        try:
            is_ours = path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            is_ours = False
        if is_ours:
            with contextlib.suppress(OSError):  # a full disk; the number is only for the message
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"{os.getpid()}\n".encode())
            return file
        file.close()  # the one before us has just removed it


def _check_finite(state: Any, name: str) -> None:
    """FloatingPointError where a number of a state is NaN or +inf (-inf is what masks are made of)."""
    if isinstance(state, dict):
        for key, value in state.items():
            _check_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for value in state:
            _check_finite(value, name)
    elif isinstance(state, torch.Tensor) and state.is_floating_point() and not bool((state < math.inf).all()):
        raise FloatingPointError(f"{name} is not finite; lower the learning rate")
