"""Generators and discriminators as files: constructor arguments and weights, loaded without running code."""

import itertools
import reprlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line
from seqgan_rl.core.registry import Registry

M = TypeVar("M", bound=nn.Module)
_MORE_PARTS = 1000
"""Modules and parameters that a network may have beyond four to each of the arrays in its file."""


def save_model(folder: str | Path, model: Any, name: str) -> None:
    """Save a model that has a ``config`` of constructor arguments, under the name of its factory."""
    save_state(folder, {"kind": name, "config": model.config, "weights": model.state_dict()})


def load_model(folder: str | Path, factories: "Registry[Callable[..., M]]") -> M:
    """Build the model that :func:`save_model` wrote, by its registered name. Raises InputError for any other folder."""
    state = load_state(folder)
    try:
        factory = factories[state["kind"]]
        _check_config(state["config"])
        _check_sizes(factory, state)
        with torch.random.fork_rng():
            model = factory(**state["config"])
        model.load_state_dict(state["weights"])
    except Exception as error:  # a factory may stumble over a stranger's config in any way
        raise InputError(f"{folder} does not hold a {factories.kind}: {one_line(error)}") from None
    return model.eval()


def _check_config(config: dict[str, Any]) -> None:
    """ValueError unless the sizes of the task, which no array need show, are numbers."""
    for name in ("num_actions", "sequence_length"):
        if type(config.get(name)) is not int:
            raise ValueError(f"{name} in its config must be a whole number, got {reprlib.repr(config.get(name))}")
    if not _is_plain(config):
        raise ValueError("its config must hold numbers, texts and lists")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_sizes(factory: Callable[..., nn.Module], state: Any) -> None:
    """ValueError unless the file holds finite arrays of the sizes that the config asks for: none is made before."""
    try:
        with torch.device("meta"), _parts_bounded(_MORE_PARTS + 4 * len(state["weights"])):
            wanted = factory(**state["config"]).state_dict()
    except NotImplementedError:  # a user's model that cannot be made without numbers
        return
    found = state["weights"]
    for name in wanted.keys() | found.keys():
        shapes = [None if name not in weights else tuple(weights[name].shape) for weights in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"its config wants {reprlib.repr(name)} of shape {shapes[0]}, it holds {shapes[1]}")
        if wanted[name].is_floating_point() != found[name].is_floating_point():
            raise ValueError(f"its config wants {name!r} as {wanted[name].dtype}, it holds {found[name].dtype}")
        if not found[name].isfinite().all():
            raise ValueError(f"{name!r} holds NaN or infinite numbers")


@contextmanager
def _parts_bounded(most: int) -> Iterator[None]:
    """ValueError inside when this thread makes networks of more modules and parameters: a count in a config is no
    reason to build for hours."""
    thread, parts = threading.get_ident(), itertools.count(1)

    def count(*_: object) -> None:
        if threading.get_ident() == thread and next(parts) > most:
            raise ValueError(f"its config asks for more than {most:,} layers and weights, more than it holds")

    handles = [
        torch.nn.modules.module.register_module_parameter_registration_hook(count),
        torch.nn.modules.module.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
