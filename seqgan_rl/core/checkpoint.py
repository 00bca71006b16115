"""Saving nested state (dicts, lists, numbers, tensors, arrays) as safetensors and JSON: no pickle, whole or not at all.

A file from someone else is data: nothing in it is executed, and anything unexpected is an InputError.
"""

import hashlib
import json
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import folder_written_whole, standing, write_synced
from seqgan_rl.core.reading import check_file, one_line, read_file

FORMAT = 1
_MAX_JSON_BYTES = 32 * 2**20
"""Of ``state.json``: numbers and names, kilobytes for a run; tensors stand beside it."""


def save_state(folder: str | Path, state: Any) -> None:
    """Write ``state`` as a folder ``{state.json, tensors.safetensors}``.

    It is on disk, names and all, when this returns; an older folder is removed only then.

    Raises:
        TypeError: the state holds something else than dicts, lists, numbers, strings, tensors and arrays.
        ValueError: what is not in tensors and arrays is more than would be read again.
        OSError: it could not be written (a full disk, say); an older folder stands as it was, and nothing is left over.
    """
    tensors: dict[str, Tensor] = {}
    document = {"format": FORMAT, "state": _encode(state, tensors)}
    data = safetensors.torch.save(tensors)
    document["sha256"] = _digest(document["state"], [data])
    text = json.dumps(document).encode()
    if len(text) > _MAX_JSON_BYTES:
        raise ValueError(
            f"the state has {len(text):,} bytes outside tensors and arrays; {_MAX_JSON_BYTES:,} at most are read "
            "again: make its long lists arrays"
        )
    with folder_written_whole(Path(folder)) as partial:
        write_synced(partial / "state.json", text)
        write_synced(partial / "tensors.safetensors", data)


def load_state(folder: str | Path) -> Any:
    """What :func:`save_state` was given. Raises InputError for anything that is not such a folder."""
    folder = standing(Path(folder))
    try:
        document = json.loads(read_file(folder / "state.json", _MAX_JSON_BYTES))
        check_file(folder / "tensors.safetensors")
        tensors = safetensors.torch.load_file(folder / "tensors.safetensors")
        if document["format"] != FORMAT:
            raise InputError(
                f"checkpoint {folder} has format {reprlib.repr(document['format'])}, this version reads {FORMAT}; "
                "use the version of seqgan_rl that wrote it"
            )
        _check_digest(folder, document)
        return _decode(document["state"], tensors)
    except FileNotFoundError as error:
        missing = Path(str(error.filename or "tensors.safetensors")).name  # safetensors names no file
        raise InputError(f"{folder} is not a checkpoint: {missing} is missing") from None
    except InputError:
        raise
    except Exception as error:  # damage shows in many ways: in JSON, in safetensors, in torch
        raise InputError(f"checkpoint {folder} is damaged: {one_line(error)}") from None


def _digest(state: Any, parts: Iterable[bytes]) -> str:
    """SHA-256 of an encoded state and of the bytes of its tensors: a changed bit is noticed."""
    digest = hashlib.sha256(json.dumps(state).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _check_digest(folder: Path, document: dict[str, Any]) -> None:
    """ValueError unless a folder holds what was written; one from before there were digests passes."""
    if "sha256" in document:
        with (folder / "tensors.safetensors").open("rb") as file:
            found = _digest(document["state"], iter(lambda: file.read(2**20), b""))
        if document["sha256"] != found:
            raise ValueError("its content is not what was written")


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
