"""Reading files from others: ordinary files of a bounded size; never a pipe that waits or a device without end."""

import os
import stat
from pathlib import Path


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: it is not there, a folder, or may not be read.
        ValueError: it is no ordinary file, or holds more than ``max_bytes``.
    """
    check_file(path, max_bytes)
    with Path(path).open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew
        raise ValueError(_too_large(len(data), max_bytes))
    return data


def check_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> int:
    """Bytes that a file holds; errors as :func:`read_file`'s. A folder passes: opening it says so."""
    status = os.stat(path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ValueError("it is a pipe or a device; write its content to an ordinary file first")
    if max_bytes is not None and status.st_size > max_bytes:
        raise ValueError(_too_large(status.st_size, max_bytes))
    return status.st_size


def one_line(error: BaseException, length: int = 200) -> str:
    """What an error says, or else its kind, in one line of bounded length."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def _too_large(found: int, max_bytes: int) -> str:
    return f"it holds {found:,} bytes, expected at most {max_bytes:,}"
