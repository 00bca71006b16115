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
            kernels.linear_weighted_nll(leaves[0], leaves[1], leaves[2], targets_R, weights_R)[0],
            -(kernels.linear_log_prob(leaves[0], leaves[1], leaves[2], targets_R) * weights_R).sum(),
        ):
            torch.testing.assert_close(total, expected, rtol=0, atol=1e-9)
            for mine, theirs in zip(torch.autograd.grad(total * 3, leaves), gradients, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_large_logits_do_not_overflow() -> None:
    leaves, targets_R, weights_R = parts(7, 3, 9, 0)
    scaled = [leaf.detach().mul(1e3).requires_grad_() for leaf in leaves]
    total, _ = kernels.linear_weighted_nll(scaled[0], scaled[1], scaled[2], targets_R, weights_R)
    assert torch.isfinite(total)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(total, scaled))


def test_without_gradients_only_the_value_is_formed() -> None:
    leaves, targets_R, weights_R = parts(7, 3, 9, 0)
    expected, logp_R = kernels.linear_weighted_nll(leaves[0], leaves[1], leaves[2], targets_R, weights_R)
    assert not logp_R.requires_grad
    with torch.no_grad():
        value, same_R = kernels.linear_weighted_nll(leaves[0], leaves[1], leaves[2], targets_R, weights_R)
    assert torch.equal(value, expected)
    assert torch.equal(same_R, logp_R)


def test_the_generators_own_equals_the_general_one_with_padding() -> None:
    """Float32, EOS and PAD, a forbidden token (0, which PAD is replaced by), gradients of every weight to 1e-6."""
    torch.manual_seed(0)
    generator = LSTMGenerator(6, 5, True, embedding_dim=4, hidden_dim=4, init_std=0.5)
    tokens_BT = torch.tensor([[1, 1, 5, 6, 6], [3, 3, 2, 4, 0], [5, 6, 6, 6, 6]])
    weights_BT = torch.randn(3, 5)
    weights_BT[1, 4] = 0  # of an impossible token
    results = []
    for method in (LSTMGenerator.weighted_nll, Generator.weighted_nll):
        total, logp_BT = method(generator, tokens_BT, weights_BT, forbidden=(0,))
        assert logp_BT[1, 4] == -torch.inf
        results.append((total, logp_BT, *torch.autograd.grad(total, list(generator.parameters()))))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("has_bias", [True, False])
def test_both_routes_of_a_large_product_agree_with_float64(has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, of the product and of the convolution that replaces it."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((33, 40), (24, 40), (24,))
    exact = [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]
    leaves = [leaf.detach().float().requires_grad_() for leaf in exact]
    direction_RM = torch.randn(33, 24, generator=rng)
    used = slice(None) if has_bias else slice(2)
    expected_RM = exact[0] @ exact[1].T + (exact[2] if has_bias else 0)
    expected = [expected_RM, *torch.autograd.grad((expected_RM * direction_RM.double()).sum(), exact[used])]
    for is_convolution in (False, True):
        monkeypatch.setattr(kernels, "_convolution_is_faster", lambda x_RK, yes=is_convolution: yes)
        product_RM = kernels.linear(leaves[0], leaves[1], leaves[2] if has_bias else None)
        results = [product_RM, *torch.autograd.grad((product_RM * direction_RM).sum(), leaves[used])]
        for mine, theirs in zip(results, expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=2e-5)


def test_the_convolution_is_taken_on_amd_with_several_threads_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its input on the CPU in float32: elsewhere torch does not send it to oneDNN, or MKL has no slow path."""
    x_RK = torch.ones(2, 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(kernels, "_has_amd_processor", lambda: True)
    assert kernels._convolution_is_faster(x_RK)
    assert not kernels._convolution_is_faster(x_RK.double())
    assert not kernels._convolution_is_faster(x_RK.to("meta"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not kernels._convolution_is_faster(x_RK)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(kernels, "_has_amd_processor", lambda: False)
    assert not kernels._convolution_is_faster(x_RK)


def test_sixteen_bits_keep_about_three_digits() -> None:
    rng = torch.Generator().manual_seed(0)
    x_RK, weight_MK = torch.randn(20, 64, generator=rng), torch.randn(30, 64, generator=rng)
    exact_RM = kernels.linear(x_RK, weight_MK, None)
    rough_RM = kernels.linear(x_RK, weight_MK, None, bfloat16=True)
    assert rough_RM.dtype == torch.float32
    error = float((rough_RM - exact_RM).abs().max() / exact_RM.abs().max())
    assert 1e-5 < error < 1e-2
