"""What is done to any network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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
