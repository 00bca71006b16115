"""What every discriminator promises, and the formulas of the recurrent, attending and joint ones."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import (
    CausalGRUDiscriminator,
    CNNDiscriminator,
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorTrainer,
    EnsembleDiscriminator,
    GRUDiscriminator,
    TransformerDiscriminator,
    discriminators,
    take_embedding,
)
from seqgan_rl.discriminators import base as discriminators_base
from seqgan_rl.discriminators.spectral import SpectralLinear, SpectralNorm
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, LSTMGenerator
from seqgan_rl.models.transformer import TransformerGenerator

torch.set_num_threads(1)

A, T = 9, 7
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "small_cnn": ("small_cnn", {"widths": (1, 2, 3), "filters": 5, "embedding_dim": 6}),
    "cnn sum": ("small_cnn", {"widths": (1, 3), "filters": 5, "embedding_dim": 6, "pool": "sum"}),
    "cnn highway": ("small_cnn", {"widths": (1, 2), "filters": 5, "embedding_dim": 6, "highway": "biased"}),
    "cnn spectral": ("small_cnn", {"widths": (1, 2), "filters": 5, "embedding_dim": 6, "spectral_norm": True}),
    "gru": ("gru", {"embedding_dim": 6, "hidden_dim": 5}),
    "gru spectral": ("gru", {"embedding_dim": 6, "hidden_dim": 5, "spectral_norm": True}),
    "causal_gru": ("causal_gru", {"embedding_dim": 6, "hidden_dim": 5}),
    "causal_gru spectral": ("causal_gru", {"embedding_dim": 6, "hidden_dim": 5, "spectral_norm": True}),
    "transformer": ("transformer", {"embedding_dim": 8, "num_heads": 2}),
    "transformer spectral": ("transformer", {"embedding_dim": 8, "num_heads": 2, "spectral_norm": True}),
    "ensemble": ("ensemble", {"member": "gru", "size": 3, "embedding_dim": 6, "hidden_dim": 4}),
    "likelihood_ratio": ("likelihood_ratio", {"embedding_dim": 6, "hidden_dim": 5}),
    "ensemble cnn": ("ensemble", {"size": 2, "widths": (1, 2), "filters": 4, "embedding_dim": 5, "two_way_l2": 0.2}),
}
DISCRIMINATIVE = [case for case in CASES if case != "likelihood_ratio"]
"""Those that read embedded tokens and are trained by Eq. (5)."""


def make(case: str, seed: int = 0, **options: Any) -> Discriminator:
    name, settings = CASES[case]
    with torch_seeded(np.random.default_rng(seed)):
        return discriminators[name](A, T, **settings, **options).eval()


def some_tokens(B: int, seed: int = 0) -> Tensor:
    """Token ids and PAD at the tail."""
    tokens_BT = torch.randint(A, (B, T), generator=torch.Generator().manual_seed(seed))
    lengths_B = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(seed + 1))
    return tokens_BT.masked_fill(torch.arange(T) >= lengths_B[:, None], A)


# ---------------------------------------------------------------- promises of all


@pytest.mark.parametrize("case", CASES)
def test_a_row_scores_alone_as_in_a_batch_and_in_parts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, tokens_BT = make(case), some_tokens(41)
    logits_B = network.score(tokens_BT)
    assert (logits_B.shape, logits_B.dtype, logits_B.requires_grad) == ((41,), torch.float32, False)
    assert logits_B.std() > 0.01, "the case tells sequences apart"
    for b in (0, 40):
        torch.testing.assert_close(network.score(tokens_BT[b : b + 1])[0], logits_B[b], rtol=0, atol=1e-5)
    monkeypatch.setattr(discriminators_base, "ROWS_AT_ONCE", 3)
    torch.testing.assert_close(network.train().score(tokens_BT), logits_B, rtol=0, atol=1e-5)
    assert network.training
    assert network.score(tokens_BT[:0]).shape == (0,)


@pytest.mark.parametrize("case", DISCRIMINATIVE)
def test_features_and_embedded_tokens_lead_to_the_same_logit(case: str) -> None:
    """features -> output is forward, and so is embed -> read, with the same gradients."""
    network, tokens_BT = make(case), some_tokens(8)
    features_BF = network.features(tokens_BT)
    assert features_BF.dim() == 2
    if isinstance(network, EnsembleDiscriminator):
        expected_KB = torch.stack([member(tokens_BT) for member in network.members])
        torch.testing.assert_close(network.member_logits(tokens_BT), expected_KB)
        torch.testing.assert_close(network(tokens_BT), expected_KB.mean(dim=0))
        members = [member.features(tokens_BT) for member in network.members]  # type: ignore[operator]
        torch.testing.assert_close(features_BF, torch.cat(members, dim=1))
        return
    logits_B1 = network.output(features_BF)  # type: ignore[operator]
    torch.testing.assert_close(logits_B1[:, 0], network(tokens_BT), rtol=1e-5, atol=1e-6)
    assert torch.equal(network.member_logits(tokens_BT)[0], network(tokens_BT))
    read_B = network.read(network.embed(tokens_BT), tokens_BT)
    torch.testing.assert_close(read_B, network(tokens_BT), rtol=1e-5, atol=1e-5)
    weights = list(network.parameters())
    expected = torch.autograd.grad(network(tokens_BT).sum(), weights)
    for got, gradient in zip(torch.autograd.grad(read_B.sum(), weights), expected, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-5)


PAD_UNREAD = (
    "gru",
    "gru spectral",
    "causal_gru",
    "causal_gru spectral",
    "transformer",
    "transformer spectral",
    "ensemble",
)


@pytest.mark.parametrize("case", PAD_UNREAD)
def test_pad_is_not_read(case: str) -> None:
    """A sequence of n tokens has the same logit and gradients however far it is padded."""
    network, tokens_BT = make(case), some_tokens(20)
    for n in (1, 3, 5):
        rows_BT = tokens_BT[(tokens_BT != A).sum(dim=1) == n]
        assert len(rows_BT)
        torch.testing.assert_close(network.score(rows_BT[:, :n]), network.score(rows_BT), rtol=0, atol=1e-6)
    changed = make(case)
    if hasattr(changed, "embedding"):
        embedded_BTE = network.embed(tokens_BT) + 5.0 * (tokens_BT == A)[:, :, None]  # garbage where PAD is
        torch.testing.assert_close(network.read(embedded_BTE, tokens_BT), network(tokens_BT), rtol=0, atol=1e-6)
    assert network.score(torch.full((1, T), A)).isfinite().all()


@pytest.mark.parametrize("case", CASES)
def test_a_file_and_a_pickle_hold_the_network(case: str, tmp_path: Any) -> None:
    """With its spectral norms: subprocess environments are sent pickles."""
    network, tokens_BT = make(case), some_tokens(9)
    save_model(tmp_path / "d", network, CASES[case][0])
    for twin in (load_model(tmp_path / "d", discriminators), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin.score(tokens_BT), network.score(tokens_BT))
        assert twin.config == network.config


@pytest.mark.parametrize("case", DISCRIMINATIVE)
def test_it_learns_and_resumes_to_the_same_bits(case: str) -> None:
    """Real sequences are of words 0-5, generated ones of 3-8; with every option of training at once. Twelve minibatches
    in one go equal four, a checkpoint taken to another trainer, and eight."""
    config = DiscriminatorConfig(
        learning_rate=0.02, batch_size=16, label_smoothing=0.1, gradient_penalty=0.01, replay_share=0.3, replay_size=40
    )
    real_BT, fake_BT = some_tokens(64, seed=1), some_tokens(64, seed=2)
    real_BT = torch.where(real_BT == A, A, real_BT % 6)
    fake_BT = torch.where(fake_BT == A, A, 3 + fake_BT % 6)

    def trainer(seed: int) -> DiscriminatorTrainer:
        network = make(case, seed, dropout=0.2, token_dropout=0.1)
        return DiscriminatorTrainer(network, real_BT, config, np.random.default_rng(seed))

    whole, first, second = trainer(0), trainer(0), trainer(1)
    records = [whole.train(fake_BT, epochs=1), whole.train(fake_BT, epochs=2)]
    assert first.train(fake_BT, epochs=1) == records[0]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.train(fake_BT, epochs=2) == records[1]
    for name, value in whole.discriminator.state_dict().items():
        assert torch.equal(second.discriminator.state_dict()[name], value), name
    assert len(second.replay) == 40
    assert records[1]["squared_gradient"] > 0
    for _ in range(6):
        whole.train(fake_BT)
    assert whole.held_out(real_BT, fake_BT)["held_out_auc"] > 0.9


# ---------------------------------------------------------------- the recurrent one


def test_the_gru_is_torchs_over_packed_sequences() -> None:
    """Last states of both directions and maxima over the tokens, within 1e-6."""
    network, tokens_BT = make("gru"), some_tokens(30)
    assert isinstance(network, GRUDiscriminator)
    lengths_B = (tokens_BT != A).sum(dim=1)
    torchs = nn.GRU(6, 5, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for index, suffix in enumerate(("", "_reverse")):
            for part, name in enumerate(("ih", "hh")):
                torchs.get_parameter(f"weight_{name}_l0{suffix}").copy_(network.weights[2 * index + part].T)
                torchs.get_parameter(f"bias_{name}_l0{suffix}").copy_(network.biases[2 * index + part])
    packed = nn.utils.rnn.pack_padded_sequence(
        network.embed(tokens_BT), lengths_B, batch_first=True, enforce_sorted=False
    )
    outputs, last_2BH = torchs(packed)
    states_BTG = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, padding_value=-math.inf)[0]
    largest_BG = states_BTG.amax(dim=1)
    expected_BF = torch.cat([last_2BH[0], largest_BG[:, :5], last_2BH[1], largest_BG[:, 5:]], dim=1)
    torch.testing.assert_close(network.features(tokens_BT), expected_BF, rtol=0, atol=1e-6)


def test_the_causal_grus_logit_is_the_mean_of_a_slow_loop_over_prefixes() -> None:
    """Token by token with torch's cell, the head after each, EOS (here word 0) like any token; the prefix's logit does
    not know what follows, and the gradient is that of the loop."""
    network, tokens_BT = make("causal_gru"), some_tokens(12)
    assert isinstance(network, CausalGRUDiscriminator)
    cell = nn.GRUCell(6, 5)
    with torch.no_grad():
        cell.weight_ih.copy_(network.weights[0].T)
        cell.weight_hh.copy_(network.weights[1].T)
        cell.bias_ih.copy_(network.biases[0])
        cell.bias_hh.copy_(network.biases[1])
    expected, positions_BT = [], network.position_logits(tokens_BT)
    for b, row in enumerate(tokens_BT.tolist()):
        hidden_1H, logits = torch.zeros(1, 5), []
        for t, token in enumerate(row[: row.index(A)] if A in row else row):
            hidden_1H = cell(network.embedding[token][None], hidden_1H)
            logits.append(network.output(hidden_1H).squeeze())
            torch.testing.assert_close(positions_BT[b, t], logits[-1], rtol=0, atol=1e-6)
        assert (positions_BT[b, len(logits) :] == 0).all()
        expected.append(sum(logits) / len(logits))
    expected_B = torch.stack(expected)
    torch.testing.assert_close(network(tokens_BT), expected_B, rtol=0, atol=1e-6)
    weights = [network.embedding, network.output.weight]
    gradients = (torch.autograd.grad(logit_B.square().sum(), weights) for logit_B in (network(tokens_BT), expected_B))
    for got, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 4] = torch.where(changed_BT[:, 4] == A, A, (changed_BT[:, 4] + 1) % A)
    assert torch.equal(network.position_logits(changed_BT)[:, :4], positions_BT[:, :4])
    assert not torch.equal(network.position_logits(changed_BT)[:, 4:], positions_BT[:, 4:])


# ---------------------------------------------------------------- the attending one


def test_the_transformer_is_torchs_pre_norm_encoder() -> None:
    """Layer by layer with the same weights, PAD as key mask, then mean and maximum over the tokens, within 1e-5."""
    network, tokens_BT = make("transformer"), some_tokens(30)
    assert isinstance(network, TransformerDiscriminator)
    is_pad_BT = tokens_BT == A
    x_BTD = network.embed(tokens_BT) + network.positions
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).eval()
        pairs = {
            "self_attn.in_proj_": "query_key_value.",
            "self_attn.out_proj.": "mix.",
            "linear1.": "expand.",
            "linear2.": "contract.",
            "norm1.": "attention_norm.",
            "norm2.": "feedforward_norm.",
        }
        ours = block.state_dict()
        layer.load_state_dict(
            {to + kind: ours[name + kind] for to, name in pairs.items() for kind in ("weight", "bias")}
        )
        x_BTD = layer(x_BTD, src_key_padding_mask=is_pad_BT)
    x_BTD = network.norm(x_BTD)
    rows = zip(x_BTD, is_pad_BT, strict=True)
    expected = [torch.cat([x[~is_pad].mean(dim=0), x[~is_pad].amax(dim=0)]) for x, is_pad in rows]
    torch.testing.assert_close(network.features(tokens_BT), torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gru", {"hidden_dim": 0}, "embedding_dim and hidden_dim must be at least 1"),
        ("gru", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ("transformer", {"embedding_dim": 6, "num_heads": 4}, "hidden_dim must be a multiple of num_heads"),
        ("transformer", {"token_dropout": -0.5}, "token_dropout must lie in"),
        ("ensemble", {"size": 0}, "size must be at least 1 member, got 0"),
        ("ensemble", {"member": "ensemble"}, "member must name a single discriminator"),
        ("ensemble", {"member": "gur"}, "unknown discriminator 'gur'"),
    ],
)
def test_impossible_networks_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        discriminators[name](A, T, **options)


# ---------------------------------------------------------------- the generator's words


def generator_of(width: int, start_token: int | None = None, std: float = 0.1) -> LSTMGenerator:
    """With EOS, the last action."""
    with torch_seeded(np.random.default_rng(8)):
        return LSTMGenerator(A, T, True, embedding_dim=width, hidden_dim=3, start_token=start_token, init_std=std)


@pytest.mark.parametrize("case", ["small_cnn", "gru spectral", "causal_gru", "transformer", "ensemble"])
@pytest.mark.parametrize("start_token", [None, 0])
def test_a_discriminator_takes_the_generators_words_at_its_own_scale(case: str, start_token: int | None) -> None:
    """Words are the generator's times one number, of the standard deviation they had; the rows of EOS and PAD and all
    other weights are as before, the generator too, and later training reaches one of the two alone."""
    network, V = make(case), A - 1
    width = next(p for name, p in network.named_parameters() if name.endswith("embedding")).shape[1]
    generator, before = generator_of(width, start_token), copy.deepcopy(network.state_dict())
    kept = copy.deepcopy(generator.state_dict())
    take_embedding(network, generator)
    assert all(torch.equal(weight, kept[name]) for name, weight in generator.state_dict().items())
    for name, weight in network.state_dict().items():
        if not name.endswith("embedding"):
            assert torch.equal(weight, before[name]), name
            continue
        own = before[name][:V].std(correction=0)
        scale = own / generator.embedding[:V].std(correction=0)
        torch.testing.assert_close(weight[:V], (generator.embedding[:V] * scale).detach())
        assert float(weight[:V].std(correction=0)) == pytest.approx(float(own), rel=1e-5)
        assert torch.equal(weight[V:], before[name][V:])
    trainer = DiscriminatorTrainer(network, some_tokens(16), DiscriminatorConfig(), np.random.default_rng(0))
    trainer.train(some_tokens(16, seed=3))
    taken = torch.cat([p.detach()[:V] for name, p in network.named_parameters() if name.endswith("embedding")])
    assert not torch.equal(taken, torch.cat([w[:V] for n, w in before.items() if n.endswith("embedding")]))
    assert torch.equal(generator.embedding, kept["embedding"])


def test_an_embedding_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    class Bag(Discriminator):
        def __init__(self) -> None:
            super().__init__(A, T)
            self.weight = nn.Parameter(torch.zeros(A + 1))

        def forward(self, tokens_BT: Tensor) -> Tensor:
            return self.weight[tokens_BT].sum(dim=1)

    network = make("ensemble")
    before = copy.deepcopy(network.state_dict())
    refused: tuple[tuple[Discriminator, Generator, str], ...] = (
        (
            network,
            generator_of(5),
            r"6 numbers a word and the generator 5; .*network\.embedding_dim and generator\.emb",
        ),
        (network, TransformerGenerator(A, T, hidden_dim=8), "6 numbers a word and the generator 8"),
        (Bag(), generator_of(5), "the discriminator Bag has no `embedding`"),
        (
            discriminators["gru"](4, T, embedding_dim=5),
            generator_of(5),
            "GRUDiscriminator has no `embedding` with a row",
        ),
    )
    for discriminator, generator, words in refused:
        with pytest.raises(InputError, match=words):
            take_embedding(discriminator, generator)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_an_embedding_of_one_point_is_no_division_by_zero() -> None:
    network = make("gru")
    take_embedding(network, generator_of(6, std=0.0))
    assert network.score(some_tokens(3)).isfinite().all()


# ---------------------------------------------------------------- ensembles


def test_members_of_an_ensemble_are_trained_as_if_alone() -> None:
    """Each member's gradient is that of its own Eq. 5 (with its penalty) over K, whatever the others say."""
    ensemble = make("ensemble cnn")
    assert isinstance(ensemble, EnsembleDiscriminator)
    config = DiscriminatorConfig(gradient_penalty=0.5)
    real_BT, fake_BT = some_tokens(16, seed=1), some_tokens(16, seed=2)
    trainer = DiscriminatorTrainer(ensemble, real_BT, config, np.random.default_rng(0))
    alone = [copy.deepcopy(member) for member in ensemble.members]
    trainer._update(real_BT, fake_BT)
    assert not torch.equal(*(network.score(real_BT) for network in alone)), "the members differ"  # type: ignore[operator]
    for member, single in zip(ensemble.members, alone, strict=True):
        assert isinstance(single, Discriminator)
        d_real_B, d_fake_B = single(real_BT).sigmoid(), single(fake_BT).sigmoid()
        loss = -(d_real_B.log().mean() + (1 - d_fake_B).log().mean()) / 2
        loss = loss + single.penalty() + 0.25 * single.squared_gradient(real_BT)
        gradients = torch.autograd.grad(loss / 2, list(single.parameters()))
        for parameter, gradient in zip(member.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_an_ensemble_drops_options_that_its_members_do_not_take() -> None:
    """So that one table of settings serves all kinds."""
    network = discriminators["ensemble"](A, T, member="gru", size=2, widths=(1, 2), hidden_dim=3, embedding_dim=4)
    assert network.config == {
        "num_actions": A, "sequence_length": T, "member": "gru", "size": 2, "hidden_dim": 3, "embedding_dim": 4
    }  # fmt: skip
    convolutional = discriminators["ensemble"](A, T, size=1, hidden_dim=3, filters=4)
    assert "hidden_dim" not in convolutional.config
    with pytest.raises(InputError):
        discriminators["ensemble"](A, T, member="none")


# ---------------------------------------------------------------- spectral normalisation


def test_a_normalised_weight_has_spectral_norm_1_and_follows_training() -> None:
    with torch_seeded(np.random.default_rng(0)):
        layer = SpectralLinear(12, 5)
        norm = SpectralNorm(torch.randn(3, 4, 6))
        weight_wEF = torch.randn(3, 4, 6)
        norm.settle(weight_wEF)
    for normalised in (layer.norm(layer.weight), norm(weight_wEF).flatten(0, 1)):
        assert float(torch.linalg.matrix_norm(normalised.detach(), ord=2)) == pytest.approx(1, abs=0.02)
    with torch.no_grad():
        layer.weight.mul_(3).add_(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
    layer.eval()
    left = layer.norm.left_I.clone()
    layer(torch.ones(1, 12))
    assert torch.equal(layer.norm.left_I, left), "it stands still in evaluation"
    layer.train()
    for _ in range(40):
        layer(torch.ones(1, 12))
    assert float(torch.linalg.matrix_norm(layer.norm(layer.weight).detach(), ord=2)) == pytest.approx(1, abs=1e-3)


def test_the_gradient_goes_through_the_norm() -> None:
    """d f(W / sigma(W)) / d W in float64, at the exact singular vector, equals that through torch's svd."""
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    with torch_seeded(np.random.default_rng(0)):
        norm = SpectralNorm(weight).eval()
    for _ in range(20):
        norm.settle(weight)
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    (got,) = torch.autograd.grad((norm(weight) * target).sum(), weight)
    (expected,) = torch.autograd.grad((weight / torch.linalg.matrix_norm(weight, ord=2) * target).sum(), weight)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_a_spectral_cnn_bounds_its_logit() -> None:
    """|logit difference| <= sqrt(sum of the widths) |difference of embedded sequences|, since each position stands in w
    windows of width w and no layer stretches; with weights 30 times as large, which without the norm would break it."""
    network, tokens_BT = make("cnn spectral"), some_tokens(12)
    assert isinstance(network, CNNDiscriminator)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name != "embedding":
                weight.mul_(30)
    for _ in range(5):
        network.follow_weights()
    with torch.no_grad():
        embedded_BTE, logits_B = network.embed(tokens_BT), network(tokens_BT)
    bound = math.sqrt(sum(width for width, _ in network.sizes)) * 1.001
    for a in range(12):
        for b in range(a):
            change = float((embedded_BTE[a] - embedded_BTE[b]).norm())
            assert abs(float(logits_B[a] - logits_B[b])) <= bound * change + 1e-6
    assert logits_B.std() > 0.1
