"""Inverse-CDF draws and filters: right for every uniform number, not only on average."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.models import sampling
from seqgan_rl.models.sampling import SamplingOptions, check_forbidden, pick_from_logits, pick_from_weights

LARGEST_UNIFORM = 1 - 2**-24
"""The largest number below 1 that ``Generator.random(dtype=float32)`` returns."""


def some_weights(R: int, V: int, seed: int, share_of_zeros: float = 0.5) -> Tensor:
    """Weights over many orders of magnitude, some zero, at least one positive in each row."""
    rng = np.random.default_rng(seed)
    weights_RV = np.exp(rng.normal(scale=3, size=(R, V))) * (rng.random((R, V)) >= share_of_zeros)
    weights_RV[np.arange(R), rng.integers(V, size=R)] = 1.0
    return torch.from_numpy(weights_RV.astype(np.float32))


def pick_slowly(weights_V: Tensor, u: float) -> tuple[int, float]:
    """The reference: add weights one by one in float64; also how far u is from the nearest edge."""
    w = weights_V.double().tolist()
    total, running, picked, distance = math.fsum(w), 0.0, None, math.inf
    for v, weight in enumerate(w):
        running += weight
        distance = min(distance, abs(running / total - u))
        if picked is None and running > u * total:
            picked = v
    assert picked is not None
    return picked, distance


@pytest.mark.parametrize("V", [1, 2, 3, 63, 64, 65, 128, 130, 700])
def test_a_draw_equals_the_plain_loop_for_every_uniform(V: int) -> None:
    """Equal wherever the uniform is not within 1e-6 of a CDF edge."""
    R = 300
    weights_RV = some_weights(R, V, seed=V)
    uniforms_R = torch.from_numpy(np.random.default_rng(V + 1).random(R, dtype=np.float32))
    picks_R = pick_from_weights(weights_RV, uniforms_R)
    assert picks_R.dtype == torch.int64
    compared = 0
    for r in range(R):
        picked, distance = pick_slowly(weights_RV[r], float(uniforms_R[r]))
        if distance > 1e-6:
            assert int(picks_R[r]) == picked
            compared += 1
    assert compared > 0.9 * R


@pytest.mark.parametrize("V", [2, 64, 65, 130, 1000])
@pytest.mark.parametrize("u", [0.0, 2**-24, 0.5, 1 - 2**-23, LARGEST_UNIFORM, 1.0])
def test_weight_zero_is_never_drawn(V: int, u: float) -> None:
    """Also where whole blocks are zero, at both ends of the uniform's range, and when only one entry is positive.

    1 is outside the range, but a float64 uniform rounded to float32 can be 1.
    """
    many_RV = some_weights(500, V, seed=3, share_of_zeros=0.9)
    tiny_RV = many_RV * 1e-30
    alone_VV = torch.eye(V)
    for weights_RV in (many_RV, tiny_RV, alone_VV, alone_VV * 1e30):
        picks_R = pick_from_weights(weights_RV, torch.full((len(weights_RV),), u))
        assert (weights_RV.gather(1, picks_R[:, None]) > 0).all()
    assert torch.equal(pick_from_weights(alone_VV, torch.full((V,), u)), torch.arange(V))


def test_the_share_of_uniforms_that_pick_an_entry_is_its_probability() -> None:
    """Over an even grid of M uniforms every count is within 2 of M p: no entry is favoured by the two levels."""
    M, V = 20_000, 200
    weights_V = some_weights(1, V, seed=0)[0]
    grid_M = (torch.arange(M) + 0.5) / M
    counts_V = torch.bincount(pick_from_weights(weights_V.expand(M, V), grid_M), minlength=V)
    assert (counts_V - M * weights_V.double() / weights_V.double().sum()).abs().max() <= 2


def test_shifting_logits_changes_no_draw_and_none_overflow() -> None:
    logits_RV = torch.randn(200, 70, generator=torch.Generator().manual_seed(0))
    uniforms_R = torch.rand(200, generator=torch.Generator().manual_seed(1))
    picks_R = pick_from_logits(logits_RV, uniforms_R)
    assert torch.equal(pick_from_logits(logits_RV + 512, uniforms_R), picks_R)
    assert torch.equal(
        pick_from_logits(logits_RV * 1e4, uniforms_R), logits_RV.argmax(dim=1)
    )  # nearest two: 1e-4 apart


def filter_slowly(logits: list[float], options: SamplingOptions) -> list[float]:
    """The reference for one row, as the docstring says it: forbidden, temperature, top-k, top-p."""
    V = len(logits)
    kept = [logit / options.temperature for logit in logits]
    for v in options.forbidden:
        kept[v] = -math.inf
    if options.top_k is not None:
        kth = sorted(kept, reverse=True)[min(options.top_k, V) - 1]
        kept = [logit if logit >= kth else -math.inf for logit in kept]
    if options.top_p is not None:
        total, mass, nucleus = sum(math.exp(logit) for logit in kept), 0.0, set()
        for v in sorted(range(V), key=lambda v: -kept[v]):
            if mass >= options.top_p:
                break
            nucleus.add(v)
            mass += math.exp(kept[v]) / total
        kept = [logit if v in nucleus else -math.inf for v, logit in enumerate(kept)]
    return kept


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(),
        SamplingOptions(temperature=0.3),
        SamplingOptions(top_k=1),
        SamplingOptions(top_k=4),
        SamplingOptions(top_k=100),
        SamplingOptions(top_p=0.05),
        SamplingOptions(top_p=0.7),
        SamplingOptions(top_p=1.0),
        SamplingOptions(forbidden=(0, 3)),
        SamplingOptions(temperature=2.0, top_k=5, top_p=0.8, forbidden=(1,)),
    ],
)
def test_filters_equal_the_plain_loop(options: SamplingOptions) -> None:
    logits_RV = torch.randn(50, 9, generator=torch.Generator().manual_seed(5)).double()
    before_RV = logits_RV.clone()
    expected_RV = torch.tensor([filter_slowly(row, options) for row in logits_RV.tolist()], dtype=torch.float64)
    torch.testing.assert_close(options.apply(logits_RV), expected_RV, rtol=1e-12, atol=1e-12)
    assert torch.equal(logits_RV, before_RV), "the caller's logits are left alone"


def test_the_nucleus_stops_where_its_mass_reaches_p() -> None:
    """Four equal tokens, p = 1/2: two of them are enough."""
    kept_V = SamplingOptions(top_p=0.5).apply(torch.zeros(1, 4))[0] > -math.inf
    assert kept_V.tolist() == [True, True, False, False]


def test_ties_at_the_kth_are_all_kept() -> None:
    kept_V = SamplingOptions(top_k=2).apply(torch.tensor([[1.0, 0.0, 1.0, 1.0]]))[0] > -math.inf
    assert kept_V.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"temperature": math.inf}, "temperature must be"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, "top_p must lie in"),
    ],
)
def test_impossible_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SamplingOptions(**options)


def test_forbidden_tokens_are_checked() -> None:
    check_forbidden((0, 1), 3)
    with pytest.raises(ValueError, match=r"forbidden tokens must lie in \[0, 3\), got 3"):
        check_forbidden((0, 3), 3)
    with pytest.raises(ValueError, match="got -1"):
        check_forbidden((-1,), 3)
    with pytest.raises(ValueError, match="all 2 tokens are forbidden"):
        check_forbidden((0, 1, 1), 2)


# ---------------------------------------------------------------- as a GPU adds


@pytest.mark.parametrize("V", [1, 2, 63, 64, 65, 130, 700])
def test_the_way_of_a_gpu_draws_the_same(V: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first positive entry above the target, by comparison with all, is what bisection finds; N draws a row too."""
    weights_RV = some_weights(200, V, seed=V)
    uniforms_RN = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    expected_RN = pick_from_weights(weights_RV, uniforms_RN)
    for n in range(3):
        assert torch.equal(pick_from_weights(weights_RV, uniforms_RN[:, n]), expected_RN[:, n])
    monkeypatch.setattr(sampling, "sums_rise", lambda device: False)
    assert torch.equal(pick_from_weights(weights_RV, uniforms_RN), expected_RN)


@pytest.mark.parametrize("V", [2, 64, 65, 130, 1000])
@pytest.mark.parametrize("u", [0.0, 2**-24, 0.5, LARGEST_UNIFORM, 1.0])
def test_running_sums_out_of_order_never_draw_weight_zero(V: int, u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every running sum is off by up to four units in the last place, up or down, as a parallel scan may leave it. The
    draw is still within 1e-5 of an edge of what exact sums give."""
    exact_cumsum, rng = torch.Tensor.cumsum, torch.Generator().manual_seed(V)

    def rough_cumsum(x: Tensor, dim: int) -> Tensor:
        sums = exact_cumsum(x, dim=dim)
        return sums * (1 + torch.randint(-4, 5, sums.shape, generator=rng) * 2**-23)

    weights_RV = torch.cat([some_weights(500, V, seed=3, share_of_zeros=0.9), torch.eye(V)])
    monkeypatch.setattr(sampling, "sums_rise", lambda device: False)
    monkeypatch.setattr(torch.Tensor, "cumsum", rough_cumsum)
    picks_R = pick_from_weights(weights_RV, torch.full((len(weights_RV),), u))
    monkeypatch.undo()
    assert (weights_RV.gather(1, picks_R[:, None]) > 0).all()
    share_RV = weights_RV.double() / weights_RV.double().sum(dim=1, keepdim=True)
    upper_R = share_RV.cumsum(dim=1).gather(1, picks_R[:, None]).squeeze(1)
    lower_R = upper_R - share_RV.gather(1, picks_R[:, None]).squeeze(1)
    assert ((lower_R < u + 1e-5) & (upper_R > u - 1e-5)).all()


@pytest.mark.parametrize("rises", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("column", [0, 99])
def test_weights_that_are_no_distribution_are_refused_and_give_an_index_all_the_same(
    rises: bool, bad: float, column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights_RV = torch.ones(4, 100)
    weights_RV[2] = bad if bad == 0.0 else weights_RV[2].index_fill(0, torch.tensor([column]), bad)
    monkeypatch.setattr(sampling, "sums_rise", lambda device: rises)
    with pytest.raises(FloatingPointError, match="is not a distribution"):
        pick_from_weights(weights_RV, torch.full((4,), 0.5))
    found = sampling.pick_block(weights_RV, torch.full((4, 1), 0.5))
    assert not found.is_valid
    picks_R1 = sampling.pick_inside(found)
    assert picks_R1.min() >= 0
    assert picks_R1.max() < 128
