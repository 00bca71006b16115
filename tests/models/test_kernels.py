"""The linear-softmax kernels against autograd through all logits at once."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.models import kernels
from seqgan_rl.models.generator import Generator, LSTMGenerator

torch.set_num_threads(1)


def parts(R: int, H: int, V: int, seed: int) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Hidden, weight and bias with gradients; targets; weights of both signs, some 0."""
    rng = torch.Generator().manual_seed(seed)
    shapes = ((R, H), (H, V), (V,))
    leaves = [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]
    weights_R = torch.randn(R, generator=rng, dtype=torch.float64) * (torch.rand(R, generator=rng) > 0.3)
    return leaves, torch.randint(V, (R,), generator=rng), weights_R


@given(
    R=st.integers(1, 60),
    H=st.integers(1, 5),
    V=st.integers(2, 70),
    seed=st.integers(0, 2**31),
    block=st.integers(1, 20),
)
def test_both_kernels_equal_autograd_through_all_logits(R: int, H: int, V: int, seed: int, block: int) -> None:
    """Value and all three gradients, in float64, whatever the block size."""
    leaves, targets_R, weights_R = parts(R, H, V, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "rows_per_block", lambda num_classes: block)
        logp_R = torch.log_softmax(leaves[0] @ leaves[1] + leaves[2], dim=1).gather(1, targets_R[:, None]).squeeze(1)
        expected = -(weights_R * logp_R).sum()
        gradients = torch.autograd.grad(expected * 3, leaves)
        for total in (
            kernels.linear_weighted_nll(leaves[0], leaves[1], leaves[2], targets_R, weights_R),
            -(kernels.linear_log_prob(leaves[0], leaves[1], leaves[2], targets_R) * weights_R).sum(),
        ):
            torch.testing.assert_close(total, expected, rtol=0, atol=1e-9)
            for mine, theirs in zip(torch.autograd.grad(total * 3, leaves), gradients, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_large_logits_do_not_overflow() -> None:
    leaves, targets_R, weights_R = parts(7, 3, 9, 0)
    scaled = [leaf.detach().mul(1e3).requires_grad_() for leaf in leaves]
    total = kernels.linear_weighted_nll(scaled[0], scaled[1], scaled[2], targets_R, weights_R)
    assert torch.isfinite(total)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(total, scaled))


def test_without_gradients_only_the_value_is_formed() -> None:
    leaves, targets_R, weights_R = parts(7, 3, 9, 0)
    expected = kernels.linear_weighted_nll(leaves[0], leaves[1], leaves[2], targets_R, weights_R)
    with torch.no_grad():
        assert torch.equal(kernels.linear_weighted_nll(leaves[0], leaves[1], leaves[2], targets_R, weights_R), expected)


def test_the_generators_own_equals_the_general_one_with_padding() -> None:
    """Float32, EOS and PAD, gradients of every weight to 1e-6."""
    torch.manual_seed(0)
    generator = LSTMGenerator(6, 5, True, embedding_dim=4, hidden_dim=4, init_std=0.5)
    tokens_BT = torch.tensor([[0, 1, 5, 6, 6], [3, 3, 2, 4, 0], [5, 6, 6, 6, 6]])
    weights_BT = torch.randn(3, 5)
    results = []
    for method in (LSTMGenerator.weighted_nll, Generator.weighted_nll):
        total = method(generator, tokens_BT, weights_BT)
        results.append((total, *torch.autograd.grad(total, list(generator.parameters()))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
