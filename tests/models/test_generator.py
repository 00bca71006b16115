"""The generator: what it samples is what it scores, step by step and all at once, by both decoders."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from seqgan_rl.envs.exact import SequenceTree
from seqgan_rl.models import kernels
from seqgan_rl.models.decoding import Decoder, State, complete
from seqgan_rl.models.generator import Generator, LSTMGenerator, generators
from seqgan_rl.models.sampling import SamplingOptions

torch.set_num_threads(1)


def make_lstm(
    num_actions: int, sequence_length: int, has_eos: bool = False, seed: int = 0, **options: Any
) -> LSTMGenerator:
    """An LSTM with weights large enough that its conditionals differ from prefix to prefix."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LSTMGenerator(
            num_actions, sequence_length, has_eos, **{"embedding_dim": 4, "hidden_dim": 6, "init_std": 1.0} | options
        )


class SumGenerator(Generator):
    """A user's generator with only the two methods of the contract: logits depend on the sum of the tokens read."""

    def __init__(self, num_actions: int, sequence_length: int, has_eos: bool) -> None:
        super().__init__(num_actions, sequence_length, has_eos)
        self.frequency = nn.Parameter(torch.linspace(0.3, 2.0, num_actions))

    def initial_state(self, batch_size: int) -> State:
        return (torch.zeros(batch_size),)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        total_B = state[0] + tokens_B
        return 2 * torch.sin(total_B[:, None] * self.frequency), (total_B,)


def draw(decoder: Decoder, tokens_BT: Tensor, start: int, uniforms_BT: Tensor) -> Tensor:
    """Complete every row after its first ``start`` tokens."""
    rows_B = torch.arange(len(tokens_BT))
    return complete(decoder, tokens_BT, rows_B, torch.full_like(rows_B, start), uniforms_BT[:, None])[0]


# ---------------------------------------------------------------- sampled frequencies are the reported probabilities

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sharp": {"temperature": 0.6},
    "flat": {"temperature": 1.7},
    "top_k": {"top_k": 2},
    "top_p": {"top_p": 0.7},
    "forbidden": {"forbidden": (1,)},
    "all": {"temperature": 1.4, "top_k": 3, "top_p": 0.9, "forbidden": (0,)},
}


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("prefix", [[], [2]], ids=["", "prefix"])
@pytest.mark.parametrize("kind", ["fused", "generic", "user"])
def test_sampled_sequences_have_the_reported_probabilities(
    has_eos: bool, name: str, prefix: list[int], kind: str
) -> None:
    """Chi-square over whole sequences: false alarm 1e-6 a case; none with probability 0 is ever drawn."""
    V, T, n = 3, 3, 6000
    tree, options = SequenceTree(V, T, has_eos), OPTIONS[name]
    generator: Generator = (
        SumGenerator(V + has_eos, T, has_eos) if kind == "user" else make_lstm(V + has_eos, T, has_eos)
    )
    tokens_NT, _ = tree.sequences()
    logp_NT = generator.log_prob(tokens_NT, **options)[:, len(prefix) :]
    starts_N = (tokens_NT[:, : len(prefix)] == torch.tensor(prefix, dtype=torch.int64)).all(dim=1)
    p_N = torch.where(starts_N, logp_NT.double().sum(dim=1).exp(), 0.0).detach().numpy()
    assert p_N.sum() == pytest.approx(1, abs=1e-5)  # the reported probabilities are a distribution

    if kind == "generic":
        uniforms_BT = torch.from_numpy(np.random.default_rng(1).random((n, T), dtype=np.float32))
        given_BT = torch.full((n, T), generator.pad_id)
        given_BT[:, : len(prefix)] = torch.tensor(prefix, dtype=torch.int64)
        samples_BT = draw(Decoder(generator, SamplingOptions(**options)), given_BT, len(prefix), uniforms_BT)
    else:
        samples_BT = generator.sample(n, prefix=prefix, rng=np.random.default_rng(1), **options)
    numbers_B = tree.numbers(samples_BT, (samples_BT != generator.pad_id).sum(dim=1))
    counts_N = np.bincount(numbers_B.numpy(), minlength=tree.num_sequences)
    assert not counts_N[p_N == 0].any()

    order = np.argsort(p_N)[::-1]
    expected, observed = n * p_N[order], counts_N[order]
    rare = expected < 5  # pooled into one cell, as the chi-square approximation asks
    expected, observed = (
        np.append(expected[~rare], expected[rare].sum()),
        np.append(observed[~rare], observed[rare].sum()),
    )
    kept = expected > 0.5
    if kept.sum() > 1:
        statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
        assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-6
    assert observed[~kept].sum() < 15  # Poisson tail of at most 0.5 expected: far below 1e-6


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_probabilities_of_all_sequences_sum_to_one(has_eos: bool, options: dict[str, Any]) -> None:
    generator = make_lstm(4 + has_eos, 4, has_eos).double()
    tokens_NT, _ = SequenceTree(4, 4, has_eos).sequences()
    assert float(generator.log_prob(tokens_NT, **options).detach().sum(dim=1).exp().sum()) == pytest.approx(
        1, abs=1e-12
    )


# ---------------------------------------------------------------- the fused decoder is the generic one


@pytest.mark.parametrize(
    ("num_actions", "options"),
    [
        (2, {}),
        (3, {"has_eos": True}),
        (64, {"start_token": 0}),
        (65, {}),
        (100, {"has_eos": True, "start_token": 0}),
        (1000, {}),
    ],
)
@pytest.mark.parametrize("name", ["plain", "sharp", "flat", "forbidden"])
def test_fused_decoder_draws_what_the_generic_one_draws(num_actions: int, options: dict[str, Any], name: str) -> None:
    """From equal uniforms, token by token. A row may leave the other only where its uniform is within 1e-5 of a CDF
    edge of the distribution that ``log_prob`` reports."""
    B, T, start = 700, 5, 1
    generator = make_lstm(num_actions, T, **options)
    settings = OPTIONS[name]
    uniforms_BT = torch.from_numpy(np.random.default_rng(7).random((B, T), dtype=np.float32))
    given_BT = torch.randint(num_actions - 1, (B, T), generator=torch.Generator().manual_seed(0))
    fused = generator.decoder(SamplingOptions(**settings))
    assert type(fused) is not Decoder
    fused_BT = draw(fused, given_BT, start, uniforms_BT)
    generic_BT = draw(Decoder(generator, SamplingOptions(**settings)), given_BT, start, uniforms_BT)
    different_B = (fused_BT != generic_BT).any(dim=1)
    assert different_B.sum() <= 0.01 * B
    for b in different_B.nonzero().squeeze(1).tolist():
        t = int((fused_BT[b] != generic_BT[b]).nonzero()[0])
        candidates_AT = torch.cat([fused_BT[b, :t].expand(num_actions, t), torch.arange(num_actions)[:, None]], dim=1)
        cdf_A = generator.log_prob(candidates_AT, **settings)[:, t].double().exp().cumsum(0)
        assert (cdf_A - uniforms_BT[b, t]).abs().min() < 1e-5


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling and scoring in blocks of 16 rows gives what one block gives."""
    generator = make_lstm(70, 4)
    whole_BT = generator.sample(50, rng=np.random.default_rng(0))
    logp_BT = generator.log_prob(whole_BT)
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 1)
    assert kernels.rows_per_block(70) == 16
    assert torch.equal(generator.sample(50, rng=np.random.default_rng(0)), whole_BT)
    torch.testing.assert_close(generator.log_prob(whole_BT), logp_BT, rtol=0, atol=1e-5)


def test_a_decoder_is_frozen_when_it_is_made() -> None:
    """Training the generator afterwards changes no draw of a decoder made before."""
    generator = make_lstm(5, 6)
    decoder, uniforms_BT = generator.decoder(), torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
    nothing_BT = torch.full((40, 6), generator.pad_id)
    before_BT = draw(decoder, nothing_BT, 0, uniforms_BT)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(draw(decoder, nothing_BT, 0, uniforms_BT), before_BT)
    assert not torch.equal(draw(generator.decoder(), nothing_BT, 0, uniforms_BT), before_BT)


def test_rows_of_different_starts_advance_together_as_if_alone() -> None:
    """Completions that share their sequences' states equal completions one at a time; kept prefixes are kept."""
    B, T = 6, 5
    generator = make_lstm(4, T, has_eos=True)
    known_BT = torch.randint(3, (B, T), generator=torch.Generator().manual_seed(2))
    source_R = torch.tensor([5, 0, 0, 3, 2, 2, 1, 4])
    start_R = torch.tensor([0, 0, 1, 1, 3, 3, 3, 4])
    uniforms_RT = torch.rand(8, T, generator=torch.Generator().manual_seed(3))
    together_RT, lengths_R = complete(generator.decoder(), known_BT, source_R, start_R, uniforms_RT[:, None])
    for r in range(8):
        one = slice(r, r + 1)
        alone_1T, length_1 = complete(
            generator.decoder(), known_BT[source_R[one]], torch.tensor([0]), start_R[one], uniforms_RT[one, None]
        )
        assert torch.equal(together_RT[one], alone_1T)
        assert torch.equal(lengths_R[one], length_1)
        assert torch.equal(together_RT[r, : start_R[r]], known_BT[source_R[r], : start_R[r]])
        assert (together_RT[r, lengths_R[r] :] == generator.pad_id).all()


# ---------------------------------------------------------------- log_prob


def log_prob_slowly(
    generator: LSTMGenerator, tokens_BT: Tensor, temperature: float, forbidden: tuple[int, ...]
) -> Tensor:
    """The reference: gate equations of one sequence at a time, in the order of the docstring, plain softmax."""
    g, H = generator, generator.hidden_dim
    rows = []
    for tokens_T in tokens_BT:
        hidden_H, cell_H, read, columns = torch.zeros(H).double(), torch.zeros(H).double(), g.pad_id, []
        for token in tokens_T.tolist():
            if token == g.pad_id:
                columns.append(torch.zeros(()).double())
                continue
            row = g.start_token if read == g.pad_id and g.start_token is not None else read
            gates = g.embedding[row] @ g.input_weight + hidden_H @ g.recurrent_weight + g.gate_bias
            i, f, o, c = gates[:H], gates[H : 2 * H], gates[2 * H : 3 * H], gates[3 * H :]
            cell_H = f.sigmoid() * cell_H + i.sigmoid() * c.tanh()
            hidden_H = o.sigmoid() * cell_H.tanh()
            scaled = (hidden_H @ g.output_weight + g.output_bias) / temperature
            allowed = [a for a in range(g.num_actions) if a not in forbidden]
            columns.append(scaled[token] - scaled[allowed].exp().sum().log())
            read = token
        rows.append(torch.stack(columns))
    return torch.stack(rows)


@pytest.mark.parametrize("start_token", [None, 0])
@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize(("temperature", "forbidden"), [(1.0, ()), (0.7, (2,))])
def test_log_prob_and_its_gradient_equal_the_plain_loop(
    start_token: int | None,
    has_eos: bool,
    temperature: float,
    forbidden: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values and gradients within 1e-6 in float64, over several blocks of rows, PAD and forbidden tokens included."""
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 1)
    generator = make_lstm(5 + has_eos, 5, has_eos, start_token=start_token).double()
    tokens_BT = generator.sample(9, forbidden=forbidden, rng=np.random.default_rng(0))
    weights_BT = torch.randn(tokens_BT.shape, generator=torch.Generator().manual_seed(4)).double()
    results = []
    for logp_BT in (
        generator.log_prob(tokens_BT, temperature=temperature, forbidden=forbidden),
        log_prob_slowly(generator, tokens_BT, temperature, forbidden),
        Generator._token_log_prob(
            generator,
            tokens_BT,
            tokens_BT.masked_fill(tokens_BT == generator.pad_id, 0),
            SamplingOptions(temperature=temperature, forbidden=forbidden),
        ).masked_fill(tokens_BT == generator.pad_id, 0.0),
    ):
        gradients = torch.autograd.grad((logp_BT * weights_BT).sum(), list(generator.parameters()))
        results.append([logp_BT, *gradients])
    for other in results[1:]:
        for got, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    if has_eos:
        assert (results[0][0][tokens_BT == generator.pad_id] == 0).all()
        assert (tokens_BT == generator.pad_id).any(), "the case holds PAD"


def test_a_forbidden_token_has_minus_infinity_and_harms_no_gradient() -> None:
    generator = make_lstm(6, 4)
    tokens_BT = torch.tensor([[0, 1, 2, 3], [5, 4, 3, 2]])
    logp_BT = generator.log_prob(tokens_BT, forbidden=(2, 5))
    assert torch.equal(logp_BT == -math.inf, (tokens_BT == 2) | (tokens_BT == 5))
    logp_BT[logp_BT > -math.inf].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in generator.parameters())
    drawn_BT = generator.sample(2000, forbidden=(2, 5), rng=np.random.default_rng(0))
    assert not ((drawn_BT == 2) | (drawn_BT == 5)).any()
    assert set(drawn_BT.unique().tolist()) == {0, 1, 3, 4}


def test_scores_in_float32_are_within_rounding_of_float64() -> None:
    generator = make_lstm(50, 10)
    tokens_BT = generator.sample(20, rng=np.random.default_rng(0))
    single_BT = generator.log_prob(tokens_BT).double()
    torch.testing.assert_close(single_BT, generator.double().log_prob(tokens_BT), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("num_actions", [2, 70])
def test_weights_scaled_by_100_do_not_overflow(num_actions: int) -> None:
    """Logits of several hundred: scores stay finite, and both decoders draw tokens of positive probability."""
    generator = make_lstm(num_actions, 5, hidden_dim=32)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(100)
    samples_BT = generator.sample(200, rng=np.random.default_rng(0))
    logp_BT = generator.log_prob(samples_BT)
    assert logp_BT.isfinite().all()
    assert logp_BT.min() > -30  # nothing that has no chance is drawn
    uniforms_BT = torch.from_numpy(np.random.default_rng(0).random((200, 5), dtype=np.float32))
    generic_BT = draw(Decoder(generator), torch.full_like(samples_BT, generator.pad_id), 0, uniforms_BT)
    assert (generic_BT == samples_BT).all(dim=1).float().mean() > 0.99


# ---------------------------------------------------------------- sizes, seeds, errors


def test_the_released_generator_has_333_320_parameters() -> None:
    generator = LSTMGenerator(5000, 20, start_token=0)
    assert sum(parameter.numel() for parameter in generator.parameters()) == 333_320
    assert float(torch.cat([p.detach().flatten() for p in generator.parameters()]).std()) == pytest.approx(
        0.1, rel=0.01
    )


def test_start_token_0_is_the_word_0() -> None:
    """Reading PAD first is reading word 0; a generator with a start symbol of its own tells them apart."""
    zeros_B = torch.zeros(1, dtype=torch.int64)
    for start_token, is_same in ((0, True), (None, False)):
        generator = make_lstm(5, 3, start_token=start_token)
        pad_1A, _ = generator.step(zeros_B + generator.pad_id, generator.initial_state(1))
        word_1A, _ = generator.step(zeros_B, generator.initial_state(1))
        assert torch.equal(pad_1A, word_1A) is is_same


@pytest.mark.parametrize("kind", ["lstm", "user"])
def test_one_seed_gives_one_sample_and_no_global_random_state_moves(kind: str) -> None:
    generator = make_lstm(9, 6, True) if kind == "lstm" else SumGenerator(9, 6, True)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    first_BT = generator.sample(30, rng=np.random.default_rng(5))
    generator.log_prob(first_BT)
    assert torch.equal(generator.sample(30, rng=np.random.default_rng(5)), first_BT)
    assert not torch.equal(generator.sample(30, rng=np.random.default_rng(6)), first_BT)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # type: ignore[index]  # noqa: NPY002
    assert random.getstate() == states[2]


def test_the_amount_of_randomness_used_depends_on_the_shape_alone() -> None:
    """An (n, T) block whatever the prefix, the options and the lengths: what follows in the stream stays in place."""
    generator, after = make_lstm(5, 6, True), []
    for options in ({}, {"prefix": [0, 1]}, {"top_k": 2}, {"temperature": 5.0}):
        rng = np.random.default_rng(0)
        generator.sample(7, rng=rng, **options)
        after.append(rng.random())
    assert len(set(after)) == 1


def test_impossible_requests_are_refused() -> None:
    generator, rng = make_lstm(5, 3, has_eos=True), np.random.default_rng(0)
    with pytest.raises(ValueError, match="prefix must be shorter than the sequence length 3, got 3 tokens"):
        generator.sample(1, prefix=[0, 1, 2], rng=rng)
    for bad in ([4], [5], [-1]):  # EOS, PAD, nothing
        with pytest.raises(ValueError, match=r"prefix must hold word ids in \[0, 4\)"):
            generator.sample(1, prefix=bad, rng=rng)
    with pytest.raises(ValueError, match="all 5 tokens are forbidden"):
        generator.sample(1, forbidden=tuple(range(5)), rng=rng)
    with pytest.raises(ValueError, match="num_actions must be at least 2, got 1"):
        LSTMGenerator(1, 3)
    with pytest.raises(ValueError, match="sequence_length must be at least 1, got 0"):
        LSTMGenerator(2, 0)
    assert generator.sample(0, rng=rng).shape == (0, 3)
    assert "lstm" in generators


def test_config_rebuilds_the_generator() -> None:
    generator = make_lstm(5, 3, has_eos=True, start_token=0)
    twin = LSTMGenerator(**generator.config)
    twin.load_state_dict(generator.state_dict())
    tokens_BT = generator.sample(4, rng=np.random.default_rng(0))
    assert torch.equal(twin.log_prob(tokens_BT), generator.log_prob(tokens_BT))
