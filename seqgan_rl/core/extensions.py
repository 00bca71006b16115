"""Modules of a user's own, which register algorithms, rewards and networks, in the programs that this library starts.

A program that runs ``seqgan-rl`` imports those that the environment variable ``SEQGAN_RL_MODULES`` names. A job of a
comparison is a process of its own; it is told where the names in its settings have been registered.
"""

import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line
from seqgan_rl.core.registry import registered_elsewhere

VARIABLE = "SEQGAN_RL_MODULES"
"""Modules, or files of Python, with commas between them."""


def import_named_by_user() -> None:
    """Import what :data:`VARIABLE` names. InputError for what cannot be imported."""
    import_all(name for part in os.environ.get(VARIABLE, "").split(",") if (name := part.strip()))


def import_all(names: Iterable[str]) -> None:
    """Import modules by name, and files that end in ``.py``. InputError for one that cannot be imported."""
    for name in names:
        try:
            _import_file(Path(name).resolve()) if name.endswith(".py") else importlib.import_module(name)
        except Exception as error:  # it is anybody's program
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(
                f"{name}, a module that registers parts of your own ({VARIABLE}), cannot be imported: {reason}"
            ) from error


def _import_file(path: Path) -> None:
    known = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    if any(file is not None and Path(file).resolve() == path for file in known):
        return
    if str(path.parent) not in sys.path:  # for what it imports itself, as where it is run
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = before or module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[path.stem]
        raise


def modules_behind(settings: Any) -> tuple[str, ...]:
    """What :func:`import_all` takes in another process to know the names there that were registered outside of the
    library. InputError for one that no other process can import."""
    text = json.dumps(settings)
    found = [
        _importable(name, module)
        for (_, name), module in registered_elsewhere().items()
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)  # also in a formula of rewards
    ]
    return tuple(dict.fromkeys(found))


def _importable(name: str, module: str) -> str:
    there = sys.modules.get(module)
    file = getattr(there, "__file__", None)
    if module == "__main__":
        spec = getattr(there, "__spec__", None)
        if spec is not None:  # python -m
            return str(spec.name)
        if file is None:
            raise InputError(
                f"{name!r} was registered in a notebook or at a prompt, and the jobs are processes of their own; put "
                "what registers it into a file, and import that"
            )
    elif file is None or "." in module:
        return module
    return str(Path(file).resolve())
