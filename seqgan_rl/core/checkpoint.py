"""Saving nested state (dicts, lists, numbers, tensors, arrays) as safetensors and JSON: no pickle, whole or not at all.

A file from someone else is data: nothing in it is executed, and anything unexpected is an InputError.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError

FORMAT = 1
_MAX_JSON_BYTES = 256 * 2**20


def save_state(folder: str | Path, state: Any) -> None:
    """Write ``state`` as a folder ``{state.json, tensors.safetensors}``; an older folder stays until this is whole."""
    tensors: dict[str, Tensor] = {}
    document = {"format": FORMAT, "state": _encode(state, tensors)}
    with _folder_written_whole(Path(folder)) as partial:
        _write_synced(partial / "state.json", json.dumps(document).encode())
        _write_synced(partial / "tensors.safetensors", safetensors.torch.save(tensors))


def load_state(folder: str | Path) -> Any:
    """What :func:`save_state` was given. Raises InputError for anything that is not such a folder."""
    folder = Path(folder)
    try:
        if (folder / "state.json").stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{folder / 'state.json'} is larger than any checkpoint of this program; it is not one")
        document = json.loads((folder / "state.json").read_bytes())
        tensors = safetensors.torch.load_file(folder / "tensors.safetensors")
        if document["format"] != FORMAT:
            raise InputError(
                f"checkpoint {folder} has format {document['format']!r}, this version reads {FORMAT}; "
                "use the version of seqgan_rl that wrote it"
            )
        return _decode(document["state"], tensors)
    except FileNotFoundError as error:
        missing = Path(str(error.filename or "tensors.safetensors")).name  # safetensors names no file
        raise InputError(f"{folder} is not a checkpoint: {missing} is missing") from None
    except InputError:
        raise
    except (
        ValueError,
        LookupError,
        TypeError,
        OSError,
        RecursionError,
        MemoryError,
        safetensors.SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"checkpoint {folder} is damaged: {reason}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    _write_synced(partial, text.encode())
    os.replace(partial, path)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _folder_written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield partial
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            try:
                os.replace(folder, old / "replaced")
                os.replace(partial, folder)
            except BaseException:
                if (old / "replaced").exists():
                    os.replace(old / "replaced", folder)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON form of a value; tensors and arrays go to ``tensors`` and leave a reference."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.array(value, order="C"))  # a copy; keeps 0 dimensions, unlike ascontiguousarray
        kind = "array"
    else:
        kind = "tensor"
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"__kind__": kind, "name": name}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and "__kind__" not in value:
            return {key: _encode(item, tensors) for key, item in value.items()}
        for key in value:
            if not (key is None or isinstance(key, bool | int | float | str)):
                raise TypeError(f"keys in a checkpoint are numbers or strings, got {type(key).__name__}")
        return {"__kind__": "pairs", "items": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"__kind__": "tuple", "items": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a checkpoint holds dicts, lists, numbers, strings, tensors and arrays; got {type(value).__name__}"
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value.get("__kind__"):
        case None:
            return {key: _decode(item, tensors) for key, item in value.items()}
        case "tensor":
            return tensors[value["name"]]
        case "array":
            return tensors[value["name"]].numpy()
        case "tuple":
            return tuple(_decode(item, tensors) for item in value["items"])
        case "pairs":
            return {key: _decode(item, tensors) for key, item in value["items"]}
        case kind:
            raise ValueError(f"unknown kind {kind!r}")
