"""Crashes on purpose: a child process that is killed, or whose disk is full, at the k-th call that changes the disk."""

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.core.checkpoint import load_state

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
"""Audit events before calls that change a disk; ``fsync`` has none and is added."""
ADDS = {"open", "os.mkdir", "os.rename", "fsync"}
"""Those that a full disk can refuse."""
AtCall = Callable[[int, str, str, str], None]


class Calls:
    """Counts the calls below a folder that change the disk, and does ``at_call(number, event, path, target)`` before
    each; ``target`` is the new name in a renaming.

    A call to fsync counts twice: before it, when the content may have got to the disk by half, and after it. An audit
    hook stays for good, so this belongs in a child process.
    """

    def __init__(self, folder: Path, at_call: AtCall) -> None:
        self.number, self.is_off, self._folder, self._at_call = 0, False, str(folder), at_call
        sys.addaudithook(self._heard)
        self._fsync: Callable[[Any], None] = os.fsync
        os.fsync = self._synced  # type: ignore[assignment] # a method in the place of a function

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or self.is_off:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        self.is_off = True  # what is done here is no call of the program
        try:
            inside = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
            self._call(event, path_of(arguments[0], inside), path_of(arguments[1]) if event == "os.rename" else "")
        finally:
            self.is_off = False

    def _call(self, event: str, path: str, target: str = "") -> None:
        if path.startswith(self._folder):
            self.number += 1
            self._at_call(self.number, event, path, target)

    def _synced(self, handle: Any) -> None:
        path = path_of(handle)
        self._call("fsync", path)
        self._fsync(handle)
        self._call("synced", path)


def path_of(path: Any, folder: int = -1) -> str:
    """The absolute path of a path or a file number, relative to an open folder where one is given."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    path = os.fsdecode(path)
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if folder >= 0 else os.path.abspath(path)


def die_at(k: int) -> AtCall:
    """Dies by SIGKILL at the k-th call; before a sync, half of a new file, or of an old file's last row, is written."""

    def at_call(number: int, event: str, path: str, target: str) -> None:
        if number == k:
            if event == "fsync" and os.path.isfile(path):
                size = os.path.getsize(path)
                os.truncate(path, size // 2 if ".partial" in path else size - 5)
            os.kill(os.getpid(), signal.SIGKILL)

    return at_call


def full_at(k: int, error: int) -> AtCall:
    """From the k-th call on everything that adds to the disk fails; removing, and renaming back, goes on."""

    def at_call(number: int, event: str, path: str, target: str) -> None:
        if (number == k and event in ADDS) or (number > k and event in ADDS - {"os.rename"}):
            raise OSError(error, os.strerror(error), path)

    return at_call


def in_child(function: Callable[[], Any]) -> tuple[int, str]:
    """Run a function in a forked child. Returns how it ended (0, an exit status, or minus a signal) and what it
    returned or raised, as text."""
    with tempfile.TemporaryFile("w+") as report:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                report.write(str(function()))
                status = 0
            except BaseException:
                report.write(traceback.format_exc())
            finally:
                report.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        report.seek(0)
        return os.waitstatus_to_exitcode(status), report.read()


# --- loss of power ----------------------------------------------------------------------------------------------


class File:
    """A file on a disk that may lose power: what was synced of it."""

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = synced


class Folder:
    """A folder on a disk that may lose power: the names in it, and those that were there at its last sync."""

    def __init__(self) -> None:
        self.names: dict[str, Folder | File] = {}
        self.synced: dict[str, Folder | File] = {}


class Disk:
    """What may be on a disk after a loss of power: synced content, and of each folder its synced names or its last.

    Args:
        root: a folder as it stands, all of it synced.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.top = str(root), self._read(root)

    def _read(self, path: Path) -> Folder | File:
        if path.is_file():
            return File(path.read_bytes())
        folder = Folder()
        folder.names = {child.name: self._read(child) for child in path.iterdir()}
        folder.synced = dict(folder.names)
        return folder

    def do(self, event: str, path: str, target: str, content: str) -> None:
        """Follow one call that :class:`Calls` has told of; ``content`` is what a synced file holds, as Latin-1."""
        if path == self.root and event == "os.mkdir":
            return
        if event == "synced":
            node = self._find(path)
            if isinstance(node, Folder):
                node.synced = dict(node.names)
            else:
                node.synced = content.encode("latin-1")
            return
        folder, name = self._find(os.path.dirname(path)), os.path.basename(path)
        assert isinstance(folder, Folder)
        if event == "os.mkdir":
            folder.names.setdefault(name, Folder())  # or it was there already
        elif event == "open":
            folder.names.setdefault(name, File())
        elif event == "os.rename":
            there = self._find(os.path.dirname(target))
            assert isinstance(there, Folder)
            there.names[os.path.basename(target)] = folder.names.pop(name)
        elif event in ("os.remove", "os.rmdir"):
            folder.names.pop(name, None)  # or it was not there

    def _find(self, path: str) -> Folder | File:
        node = self.top
        for name in filter(None, os.path.relpath(path, self.root).split("/")):
            if name != ".":
                assert isinstance(node, Folder)
                node = node.names[name]
        return node

    def after_power_loss(self, into: Path) -> Iterator[Path]:
        """Every state that may be found, written below ``into``, one at a time."""
        unsynced = [node for node in self._folders(self.top) if node.names != node.synced]
        for choice in itertools.product((True, False), repeat=len(unsynced)):
            lost = {id(node) for node, is_lost in zip(unsynced, choice, strict=True) if is_lost}
            self._write(self.top, into, lost)
            yield into
            shutil.rmtree(into)

    def _folders(self, node: Folder | File) -> Iterator[Folder]:
        if isinstance(node, Folder):
            yield node
            for child in {id(n): n for n in (*node.names.values(), *node.synced.values())}.values():
                yield from self._folders(child)

    def _write(self, node: Folder | File, path: Path, lost: set[int]) -> None:
        if isinstance(node, File):
            path.write_bytes(node.synced)
            return
        path.mkdir()
        for name, child in (node.synced if id(node) in lost else node.names).items():
            self._write(child, path / name, lost)


def tell(report: list[tuple[str, str, str, str]]) -> AtCall:
    """Write down every call, and the content of files that were synced."""

    def at_call(number: int, event: str, path: str, target: str) -> None:
        content = Path(path).read_bytes().decode("latin-1") if event == "synced" and os.path.isfile(path) else ""
        report.append((event, path, target, content))

    return at_call


# --- runs -------------------------------------------------------------------------------------------------------


def numbers(run: str | Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` less timings, key order kept."""
    rows = read_metrics(RunFolder(run))
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    """All weights of all models of a run."""
    files = [path for path in sorted(Path(run).rglob("state.json")) if "checkpoints" not in path.parts]
    states = {str(path.parent.relative_to(run)): load_state(path.parent).get("weights", {}) for path in files}
    return {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}


def assert_same_run(a: str | Path, b: str | Path) -> None:
    """Metrics byte for byte (less timings), every weight, and the results are equal; nothing is left over in b."""
    assert json.dumps(numbers(a)) == json.dumps(numbers(b))
    left, right = weights(a), weights(b)
    assert list(left) == list(right)
    assert len(left) > 10
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    for name in ("results.json", "results.md", "samples.txt"):
        assert (Path(a) / name).read_bytes() == (Path(b) / name).read_bytes()
    assert [str(path) for path in Path(b).rglob(".*")] == []
    assert {path.name for path in Path(a).iterdir()} == {path.name for path in Path(b).iterdir()}


@contextmanager
def patched(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module or class with other values, for a while."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
