"""Files and folders that appear whole or not at all, whenever the process is killed or the power fails.

A new one is written beside its place, under a name of its own, and is on disk before it takes the place.
"""

import errno
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>partial|old)")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file that appears whole or not at all; see :func:`write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file that appears whole or not at all. OSError where it cannot: an older one is then as it was."""
    path = Path(path)
    partial = _beside(path)
    try:
        write_synced(partial, data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends without an error.

    A process killed at any point leaves the older folder or the new one, whole: at its name, or set aside as
    ``.NAME.XXXXXXXX.old`` where :func:`standing` and :func:`remove_leftovers` find it.
    """
    make_folder(folder.parent)
    partial = _beside(folder)
    old = partial.with_suffix(".old")
    try:
        partial.mkdir()
        yield partial
        sync_folder(partial)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        sync_folder(folder.parent)
    except BaseException:
        _remove(partial)
        if old.exists():
            _remove(folder)  # the new one, where it has got there
            os.replace(old, folder)
        raise
    _remove(old)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and have its content, though not yet its name, on disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_folder(folder: str | Path) -> None:
    """Make a folder and those above it, where absent, so that a loss of power does not undo it."""
    folder = Path(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Have the names in a folder on disk, so that a loss of power does not undo what was made or renamed there."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without this call, as some network ones
            raise
    finally:
        os.close(handle)


def standing(folder: Path) -> Path:
    """The folder, or the older one that a killed save had set aside and not yet replaced."""
    if not folder.exists() and folder.parent.is_dir():
        for path in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*.old")):
            return path
    return folder


def is_leftover(path: Path) -> bool:
    """Whether a path has the name of what a save writes before it takes its place."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a killed save has left in a folder; what it had set aside and not yet replaced is put back.

    Nobody may be saving there at the time.
    """
    for path in sorted(Path(folder).glob(".*")):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        place = path.with_name(match["name"])
        if match["kind"] == "old" and not place.exists():
            os.replace(path, place)
        else:
            _remove(path)


def _beside(path: Path) -> Path:
    """A new name beside a path for what shall take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
