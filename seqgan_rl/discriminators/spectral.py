"""Spectral normalisation (Miyato et al. 2018): a weight divided by its largest singular value, so that no layer
stretches a difference of its inputs.

The singular value is followed by one power iteration per forward pass in training (their Algorithm 1) and stands still
in evaluation. Letters: I inputs, O outputs of a weight as a matrix.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

FIRST_ITERATIONS = 20
"""Power iterations from the initial weights."""


class SpectralNorm(nn.Module):
    """``weight / sigma(weight)`` of one weight, whose dimensions but the last are taken together: (I, O).

    With u = W v / |W v| kept, sigma = |u^T W|: their u^T W v with v = W^T u / |W^T u|, of the same gradient.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix_IO = weight.detach().flatten(0, -2)
        self.left_I: Tensor
        self.register_buffer("left_I", functional.normalize(torch.randn_like(matrix_IO[:, 0]), dim=0))
        self.settle(weight)

    def settle(self, weight: Tensor) -> None:
        """Follow weights that were changed by hand."""
        for _ in range(FIRST_ITERATIONS):
            self._iterate(weight)

    @torch.no_grad()
    def _iterate(self, weight: Tensor) -> None:
        matrix_IO = weight.flatten(0, -2)
        self.left_I = functional.normalize(matrix_IO @ (matrix_IO.T @ self.left_I), dim=0)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight over its spectral norm, same shape."""
        if self.training:
            self._iterate(weight)
        return weight / (self.left_I @ weight.flatten(0, -2)).norm()


class SpectralLinear(nn.Linear):
    """A linear layer whose weight is normalised where it is used."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.norm = SpectralNorm(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """As of ``nn.Linear``."""
        return functional.linear(x, weight_in_use(self), self.bias)


def weight_in_use(layer: nn.Module) -> Tensor:
    """The weight of a linear layer, normalised where it is to be."""
    assert isinstance(layer, nn.Linear)
    weight: Tensor = layer.norm(layer.weight) if isinstance(layer, SpectralLinear) else layer.weight
    return weight


def settle(network: nn.Module) -> None:
    """Follow linear layers that were initialised by hand."""
    for layer in network.modules():
        if isinstance(layer, SpectralLinear):
            layer.norm.settle(layer.weight)
