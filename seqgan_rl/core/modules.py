"""What is done to any network."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from seqgan_rl.core.errors import InputError


@contextmanager
def evaluation_mode(network: object) -> Iterator[None]:
    """Inside, a network is in evaluation mode (dropout off); afterwards it is in the mode it had. Anything that is not
    an ``nn.Module`` has no modes."""
    if not isinstance(network, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


@contextmanager
def gradients_allowed() -> Iterator[None]:
    """Inside, networks can be made and trained even where the caller plays without gradients, as agents do."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    weight_decay: float = 0.0,
    spared: Iterable[nn.Parameter] = (),
    **options: Any,
) -> torch.optim.AdamW:
    """AdamW in one pass over the weights, where the device has that; without ``weight_decay`` it is Adam. Of those that
    are ``spared`` nothing is taken away."""
    parameters = list(parameters)
    is_fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": weight_decay}]
    if weight_decay and (ids := {id(weight) for weight in spared}):
        groups = [
            {"params": [weight for weight in parameters if id(weight) not in ids], "weight_decay": weight_decay},
            {"params": [weight for weight in parameters if id(weight) in ids], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, **{"fused": is_fused, **options})


def check_device(name: str) -> None:
    """InputError unless torch knows this device and has it; only "cpu" and "cuda" are taken."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is not None and device.type == "cpu":
        return
    num_cuda = torch.cuda.device_count()
    if device is None or device.type != "cuda" or (device.index or 0) >= num_cuda:
        found = ", ".join(f"'cuda:{i}'" for i in range(num_cuda)) or "torch finds no CUDA device"
        raise InputError(f"device must be 'cpu' or a CUDA device that is here ({found}), got {name!r}")
