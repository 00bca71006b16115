"""Generators and discriminators as files: constructor arguments and weights, loaded without running code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import Registry

M = TypeVar("M", bound=nn.Module)


def save_model(folder: str | Path, model: Any, name: str) -> None:
    """Save a model that has a ``config`` of constructor arguments, under the name of its factory."""
    save_state(folder, {"kind": name, "config": model.config, "weights": model.state_dict()})


def load_model(folder: str | Path, factories: "Registry[Callable[..., M]]") -> M:
    """Build the model that :func:`save_model` wrote, by its registered name. Raises InputError for any other folder."""
    state = load_state(folder)
    try:
        factory = factories[state["kind"]]
        _check_sizes(factory, state)
        with torch.random.fork_rng():
            model = factory(**state["config"])
        model.load_state_dict(state["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} does not hold a {factories.kind}: {str(error).splitlines()[0][:200]}") from None
    return model.eval()


def _check_sizes(factory: Callable[..., nn.Module], state: Any) -> None:
    """ValueError unless the config asks for arrays of the sizes that the file holds: none is made before."""
    try:
        with torch.device("meta"):
            wanted = {name: weight.shape for name, weight in factory(**state["config"]).state_dict().items()}
    except NotImplementedError:  # a user's model that cannot be made without numbers
        return
    found = {name: weight.shape for name, weight in state["weights"].items()}
    for name in wanted.keys() | found.keys():
        if wanted.get(name) != found.get(name):
            raise ValueError(f"its config wants {name!r} of shape {wanted.get(name)}, it holds {found.get(name)}")
