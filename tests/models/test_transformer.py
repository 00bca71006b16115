"""The transformer generator: its cache is a re-reading of the prefix, and what it samples is what it scores."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import Tensor, nn

from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.envs.exact import SequenceTree
from seqgan_rl.models import kernels
from seqgan_rl.models.decoding import concatenate, select
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.models.transformer import TransformerGenerator
from seqgan_rl.rewards.base import FunctionReward
from seqgan_rl.rollout import action_values, prefix_values

torch.set_num_threads(1)

VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tied": True},
    "word 0": {"start_token": 0, "num_layers": 1},
    "tied word 0": {"start_token": 0, "tied": True, "num_heads": 1},
}


def make(num_actions: int, sequence_length: int, has_eos: bool = False, **options: Any) -> TransformerGenerator:
    """A network with weights large enough that its conditionals differ from prefix to prefix."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TransformerGenerator(
            num_actions, sequence_length, has_eos, **{"hidden_dim": 8, "num_heads": 2, "init_std": 0.7} | options
        )


def read_slowly(generator: TransformerGenerator, tokens: list[int]) -> Tensor:
    """The reference: logits (A,) after one prefix, by torch's own pre-norm encoder with a causal mask, float64."""
    D, start = generator.hidden_dim, generator.start_token
    read = [generator.pad_id if start is None else start, *tokens]
    x_1TD = (generator.embedding[read] + generator.positions[: len(read)])[None]
    mask_TT = nn.Transformer.generate_square_subsequent_mask(len(read), dtype=x_1TD.dtype)
    for block in generator.blocks:
        heads = int(block.num_heads)  # type: ignore[arg-type]
        layer = nn.TransformerEncoderLayer(D, heads, 4 * D, 0.0, "gelu", batch_first=True, norm_first=True).eval()
        ours, names = block.state_dict(), {}
        for to, name in (
            ("self_attn.in_proj_", "query_key_value."),
            ("self_attn.out_proj.", "mix."),
            ("linear1.", "expand."),
            ("linear2.", "contract."),
            ("norm1.", "attention_norm."),
            ("norm2.", "feedforward_norm."),
        ):
            names.update({to + kind: ours[name + kind] for kind in ("weight", "bias")})
        layer.load_state_dict(names)
        x_1TD = layer.to(x_1TD.dtype)(x_1TD, src_mask=mask_TT)
    weight_DA = generator.embedding[: generator.num_actions].T if generator.config["tied"] else generator.untied_weight
    assert weight_DA is not None
    return generator.norm(x_1TD[0, -1]) @ weight_DA + generator.output_bias


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_network_is_torchs_layers_under_a_causal_mask(options: dict[str, Any]) -> None:
    """Logits at every prefix of some sequences, in one pass and step by step, within 1e-10 in float64."""
    generator, T = make(6, 5, **options).double(), 5
    tokens_BT = generator.sample(4, rng=np.random.default_rng(0))
    with torch.no_grad():
        whole_BTA = generator.logits(tokens_BT)
        stepped_BTA = Generator.logits(generator, tokens_BT)
        for b in range(4):
            for t in range(T):
                expected_A = read_slowly(generator, tokens_BT[b, :t].tolist())
                torch.testing.assert_close(whole_BTA[b, t], expected_A, rtol=0, atol=1e-10)
                torch.testing.assert_close(stepped_BTA[b, t], expected_A, rtol=0, atol=1e-10)
    assert whole_BTA.std(dim=(0, 1)).max() > 0.1, "logits depend on the prefix"


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_one_pass_equals_steps_in_values_and_gradients(options: dict[str, Any], has_eos: bool) -> None:
    """log_prob, weighted_nll and features against the base class's, which take one step at a time, float32, 1e-5."""
    generator = make(5 + has_eos, 6, has_eos, **options)
    tokens_BT = generator.sample(12, rng=np.random.default_rng(0))
    is_token_BT = tokens_BT != generator.pad_id
    weights_BT = torch.randn(tokens_BT.shape, generator=torch.Generator().manual_seed(0))
    parameters = list(generator.parameters())
    reference_BT = Generator.logits(generator, tokens_BT).log_softmax(dim=2)
    reference_BT = reference_BT.gather(2, tokens_BT.masked_fill(~is_token_BT, 0)[:, :, None]).squeeze(2) * is_token_BT
    expected = torch.autograd.grad(-(reference_BT * weights_BT).sum(), parameters)
    logp_BT = generator.log_prob(tokens_BT)
    nll, detached_BT = generator.weighted_nll(tokens_BT, weights_BT)
    torch.testing.assert_close(logp_BT, reference_BT, rtol=0, atol=1e-5)
    torch.testing.assert_close(detached_BT, reference_BT.detach(), rtol=0, atol=1e-5)
    assert float(nll.detach()) == pytest.approx(-float((reference_BT * weights_BT).sum().detach()), abs=1e-3)
    features = generator.features(tokens_BT), Generator.features(generator, tokens_BT)
    torch.testing.assert_close(
        *(torch.where(is_token_BT[:, :, None], part, 0.0) for part in features), rtol=0, atol=1e-5
    )
    for loss in (-(logp_BT * weights_BT).sum(), nll):
        for got, gradient in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
            torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}, {"forbidden": (1,), "temperature": 1.5}],
    ids=str,
)
def test_sampled_sequences_have_the_reported_probabilities(has_eos: bool, options: dict[str, Any]) -> None:
    """The probabilities of all sequences sum to 1; chi-square of 6,000 samples against them, false alarm 1e-6."""
    V, T, n = 3, 3, 6000
    tree, generator = SequenceTree(V, T, has_eos), make(V + has_eos, T, has_eos)
    tokens_NT, _ = tree.sequences()
    p_N = generator.log_prob(tokens_NT, **options).detach().double().sum(dim=1).exp().numpy()
    assert p_N.sum() == pytest.approx(1, abs=1e-5)
    samples_BT = generator.sample(n, rng=np.random.default_rng(1), **options)
    numbers_B = tree.numbers(samples_BT, (samples_BT != generator.pad_id).sum(dim=1))
    counts_N = np.bincount(numbers_B.numpy(), minlength=tree.num_sequences)
    assert not counts_N[p_N == 0].any()
    common = n * p_N >= 5  # the others are pooled into one cell, where they come to one
    expected = np.append(n * p_N[common], n * p_N[~common].sum())
    observed = np.append(counts_N[common], counts_N[~common].sum())
    kept = expected > 0.5
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-6
    assert observed[~kept].sum() < 15


def test_rows_at_different_positions_go_on_together() -> None:
    """States of prefixes of 0 to 4 tokens, mixed, repeated and stepped as one batch, equal each read alone; the states
    they came from are not changed."""
    generator, T = make(6, 5), 5
    tokens_BT = generator.sample(5, rng=np.random.default_rng(0))
    states, last = [], []
    for b in range(5):
        state, read = generator.initial_state(1), torch.tensor([generator.pad_id])
        for t in range(b):
            state, read = generator.step(read, state)[1], tokens_BT[b, t : t + 1]
        states.append(state)
        last.append(read)
    rows_R = torch.tensor([4, 0, 2, 2, 1, 3, 4])
    together, read_B = concatenate(states), torch.cat(last)
    before = [part.clone() for part in together]
    logits_RA, after = generator.step(read_B[rows_R], select(together, rows_R))
    for index, b in enumerate(rows_R.tolist()):
        expected_A = generator.logits(tokens_BT[b : b + 1])[0, b]
        torch.testing.assert_close(logits_RA[index], expected_A, rtol=0, atol=1e-5)
    assert after[3].tolist() == (rows_R + 1).tolist()
    assert all(torch.equal(part, kept) for part, kept in zip(together, before, strict=True))
    assert (after[0].shape, T) == ((7, 8), 5)
    empty_0A, _ = generator.step(read_B[:0], select(together, slice(0, 0)))
    assert empty_0A.shape == (0, 6)


def test_a_finished_sequence_can_be_read_to_its_last_token() -> None:
    """A vector environment shows finished prefixes once more; T + 1 tokens are read then, start symbol included."""
    generator = make(4, 3)
    state, read_B = generator.initial_state(2), torch.full((2,), generator.pad_id)
    for t in range(4):
        logits_BA, state = generator.step(read_B, state)
        read_B = torch.full((2,), t % 4)
    assert logits_BA.isfinite().all()


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
def test_it_finishes_prefixes_in_rollouts(has_eos: bool) -> None:
    """All prefixes at once equal one prefix at a time: the same completions from the same uniforms."""
    V, T, B, N = 4, 5, 6, 3
    generator = make(V + has_eos, T, has_eos)
    reward = FunctionReward(lambda tokens_BT, lengths_B: (tokens_BT * torch.arange(1, T + 1)).double().sum(dim=1))
    rng = np.random.default_rng(0)
    tokens_BT = generator.sample(B, rng=rng)
    lengths_B = (tokens_BT != generator.pad_id).sum(dim=1)
    uniforms_BTNT = torch.from_numpy(rng.random((B, T - 1, N, T), dtype=np.float32))
    q_BT = action_values(generator, reward, tokens_BT, lengths_B, uniforms_BTNT)
    for t in range(1, T):
        value_B = prefix_values(
            generator, reward, tokens_BT, torch.minimum(lengths_B, torch.tensor(t)), uniforms_BTNT[:, t - 1],
            is_finished_B=lengths_B <= t,
        )  # fmt: skip
        open_B = lengths_B > t
        torch.testing.assert_close(value_B[open_B], q_BT[open_B, t - 1], rtol=0, atol=1e-5)
    assert q_BT.std() > 1


def test_it_is_a_policy() -> None:
    """Cached playing equals re-reading each prefix, the value head reads the features, and a start can be handed on."""
    A, T = 6, 5
    torch.manual_seed(0)
    policy = GeneratorPolicy(
        spaces.Box(0, A, (T,), np.int64),
        spaces.Discrete(A),
        lambda _: 1e-3,
        generator="transformer",
        generator_options={"hidden_dim": 8, "num_heads": 2, "init_std": 0.7},
    )
    nn.init.normal_(policy.value_head.weight)
    tokens_BT, rows_B = torch.full((9, T), A), torch.arange(9)
    for t in range(T):
        actions_B, values_B1, logp_B = policy(tokens_BT)
        with torch.no_grad():
            again_B1, again_logp_B, _ = policy.evaluate_actions(tokens_BT, actions_B)
        torch.testing.assert_close(values_B1, again_B1, rtol=0, atol=1e-5)
        torch.testing.assert_close(logp_B, again_logp_B, rtol=0, atol=1e-5)
        tokens_BT = tokens_BT.clone()
        tokens_BT[rows_B, t] = actions_B
    policy(tokens_BT)  # a finished prefix, whose action is not used
    whole_BT = policy.sequence_log_prob(tokens_BT)
    torch.testing.assert_close(whole_BT[:, -1].detach(), logp_B, rtol=0, atol=1e-5)
    torch.testing.assert_close(policy.sequence_values(tokens_BT)[:, -1].detach(), values_B1[:, 0], rtol=0, atol=1e-5)
    other = copy.deepcopy(policy.generator)
    nn.init.zeros_(other.get_parameter("embedding"))
    other.load_state_dict(policy.generator.state_dict())
    assert torch.equal(other.log_prob(tokens_BT), whole_BT)


def test_it_learns_by_likelihood() -> None:
    """Sequences in which each word is the one before plus 1: a sixth of them is chance, all of the rest is learned."""
    start_N = torch.arange(6).repeat(60)
    tokens_NT = (start_N[:, None] + torch.arange(5)) % 6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = TransformerGenerator(6, 5, hidden_dim=16)
    config = LikelihoodConfig(learning_rate=0.01, max_epochs=12, patience=0, batch_size=32)
    trainer = LikelihoodTrainer(generator, tokens_NT, tokens_NT, config, np.random.default_rng(0))
    assert len(list(trainer.epochs())) == 12
    nats = -float(generator.log_prob(tokens_NT).detach().sum(dim=1).mean())
    assert nats == pytest.approx(np.log(6), abs=0.1)  # of the first word


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make(70, 4)
    whole_BT = generator.sample(50, rng=np.random.default_rng(0))
    logp_BT = generator.log_prob(whole_BT)
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 1)
    assert torch.equal(generator.sample(50, rng=np.random.default_rng(0)), whole_BT)
    torch.testing.assert_close(generator.log_prob(whole_BT), logp_BT, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_it_is_registered_and_a_file_holds_it(options: dict[str, Any], tmp_path: Any) -> None:
    generator = make(5, 3, has_eos=True, **options)
    assert generators["transformer"] is TransformerGenerator
    save_model(tmp_path / "g", generator, "transformer")
    twin = load_model(tmp_path / "g", generators)
    tokens_BT = generator.sample(4, rng=np.random.default_rng(0))
    assert torch.equal(twin.log_prob(tokens_BT), generator.log_prob(tokens_BT))


def test_reading_nothing_first_is_reading_the_start_token() -> None:
    for start_token, is_same in ((0, True), (None, False)):
        generator, zeros_B = make(5, 3, start_token=start_token), torch.zeros(1, dtype=torch.int64)
        pad_1A, _ = generator.step(zeros_B + generator.pad_id, generator.initial_state(1))
        word_1A, _ = generator.step(zeros_B, generator.initial_state(1))
        assert torch.equal(pad_1A, word_1A) is is_same


def test_impossible_sizes_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{"hidden_dim": 6, "num_heads": 4}, {"num_layers": 0}, {"hidden_dim": 0}]
    for options in wrong:
        with pytest.raises(ValueError, match="hidden_dim must be a multiple of num_heads, and all sizes at least 1"):
            make(5, 3, **options)


@pytest.mark.parametrize("start_token", [-1, 5, 10**9, 0.5])
def test_a_start_token_outside_the_vocabulary_is_refused(start_token: Any) -> None:
    """-1 would silently read the last row."""
    with pytest.raises(ValueError, match=r"start_token must be None or an action in \[0, 5\)"):
        TransformerGenerator(5, 4, start_token=start_token)
