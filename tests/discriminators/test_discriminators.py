"""Discriminators: the network is its formula by both paths, and training is Eq. 5 and nothing else."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import (
    CNNDiscriminator,
    DiscriminatorConfig,
    DiscriminatorTrainer,
    auc,
    cnn,
    discriminators,
    paper_cnn,
    small_cnn,
)

torch.set_num_threads(1)

A, T = 9, 7
SMALL: dict[str, Any] = {"widths": (1, 2, 5), "filters": (4, 3, 6), "embedding_dim": 5}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"pool": "sum"},
    {"highway": "biased"},
    {"highway": "unbiased", "pool": "sum"},
    {"two_way_l2": 0.2, "highway": "biased"},
    {"two_way_l2": 0.0},
    {"spectral_norm": True, "highway": "biased"},
]


def make_cnn(**options: Any) -> CNNDiscriminator:
    """A small network in which every parameter matters (no zero bias, no constant)."""
    with torch_seeded(np.random.default_rng(0)):
        network = CNNDiscriminator(A, T, **SMALL, **options).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.5)
        for _ in range(20):
            network.follow_weights()
    return network


def some_tokens(B: int, seed: int = 0) -> Tensor:
    """Token ids and PAD at the tail."""
    tokens_BT = torch.randint(A, (B, T), generator=torch.Generator().manual_seed(seed))
    lengths_B = torch.randint(1, T + 1, (B,), generator=torch.Generator().manual_seed(seed + 1))
    return tokens_BT.masked_fill(torch.arange(T) >= lengths_B[:, None], A)


def singular_value(weight: Tensor) -> Tensor:
    """The largest of a weight as a matrix, all dimensions but the last taken together."""
    return torch.linalg.matrix_norm(weight.flatten(0, -2).double(), ord=2)


def forward_slowly(network: CNNDiscriminator, tokens_BT: Tensor) -> Tensor:
    """The reference: torch's own convolution, the highway equation unit by unit, in float64."""
    p = {name: parameter.detach().double() for name, parameter in network.named_parameters()}
    if network.filter_norms is not None:
        p |= {name: p[name] / singular_value(p[name]) for name in p if name.endswith("weight") or "filters." in name}
    embedded_BET = functional.embedding(tokens_BT, p["embedding"]).transpose(1, 2)
    features, first = [], 0
    for k, (_, count) in enumerate(network.sizes):
        kernel_FEw = p[f"filters.{k}"].permute(2, 1, 0)
        activation_BFP = functional.conv1d(embedded_BET, kernel_FEw, p["filter_bias"][first : first + count]).relu()
        features.append(activation_BFP.max(dim=2).values if network.pool == "max" else activation_BFP.sum(dim=2))
        first += count
    x_BC = torch.cat(features, dim=1)
    if network.highway is not None:
        y_BC = torch.empty_like(x_BC)
        for b in range(len(x_BC)):
            for c in range(x_BC.shape[1]):
                gate = p["highway.0.weight"][c] @ x_BC[b] + (p["highway.0.bias"][c] if "highway.0.bias" in p else 0)
                transform = p["highway.1.weight"][c] @ x_BC[b] + (
                    p["highway.1.bias"][c] if "highway.1.bias" in p else 0
                )
                t = 1 / (1 + math.exp(-float(gate)))
                y_BC[b, c] = t * max(float(transform), 0.0) + (1 - t) * x_BC[b, c]
        x_BC = y_BC
    outputs = x_BC @ p["output.weight"].T + p["output.bias"]
    if network.two_way_l2 is None:
        return outputs[:, 0]
    probability_B = outputs.softmax(dim=1)[:, 1]  # the authors': class 1 is "real"
    return (probability_B / (1 - probability_B)).log()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_both_paths_equal_a_plain_convolution(options: dict[str, Any]) -> None:
    """Windows (with gradients) and tables (without) within 2e-5 of the reference."""
    network, tokens_BT = make_cnn(**options), some_tokens(12)
    expected_B = forward_slowly(network, tokens_BT)
    assert tokens_BT.numel() > 2 * A, "enough tokens that scoring tabulates"
    for got_B in (network(tokens_BT), network.score(tokens_BT), network.score(tokens_BT[:2])):
        torch.testing.assert_close(got_B.double(), expected_B[: len(got_B)], rtol=2e-5, atol=2e-5)
    assert network(tokens_BT).requires_grad
    assert not network.score(tokens_BT).requires_grad
    assert expected_B.std() > 0.05, "the case tells sequences apart"


def test_the_papers_network_has_its_sizes() -> None:
    network = paper_cnn(5000, 20)
    assert isinstance(network, CNNDiscriminator)
    assert sum(count for _, count in network.sizes) == 1720
    assert [width for width, _ in network.sizes] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20]
    assert network.embedding.shape == (5001, 64)
    assert network.output.out_features == 2
    assert network.dropout.p == 0.25  # keep 0.75
    assert network.two_way_l2 == 0.2
    for layer in ("highway.0", "highway.1"):  # gate and transform
        assert network.get_parameter(layer + ".weight").shape == (1720, 1720)
        assert not network.get_parameter(layer + ".bias").any()
    assert network.filter_bias.tolist() == pytest.approx([0.1] * 1720)
    for weights in (*network.filters, network.output.weight):
        assert weights.abs().max() <= 0.2  # TensorFlow's truncated normal: cut at two standard deviations
    assert float(network.filters[3].detach().std()) == pytest.approx(0.088, abs=0.002)
    unbiased = paper_cnn(50, 20, highway="unbiased")
    assert not [name for name, _ in unbiased.named_parameters() if name.startswith("highway") and "bias" in name]


def test_widths_above_T_are_left_out_with_their_filters() -> None:
    network = paper_cnn(50, 8)
    assert isinstance(network, CNNDiscriminator)
    assert [width for width, _ in network.sizes] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert network.output.in_features == 100 + 4 * 200 + 3 * 100
    assert network.score(torch.zeros(3, 8, dtype=torch.int64)).shape == (3,)
    assert small_cnn(4, 1).score(torch.tensor([[3]])).shape == (1,)


def test_config_rebuilds_the_discriminator_and_names_are_registered() -> None:
    assert list(discriminators) == [
        "causal_gru", "ensemble", "gru", "likelihood_ratio", "paper_cnn", "small_cnn", "transformer"
    ]  # fmt: skip
    for name in ("paper_cnn", "small_cnn"):
        network = discriminators[name](A, T)
        twin = CNNDiscriminator(**network.config)
        twin.load_state_dict(network.state_dict())
        assert torch.equal(twin.score(some_tokens(5)), network.score(some_tokens(5)))


def test_dropout_acts_in_training_alone() -> None:
    for options in ({"dropout": 0.5}, {"dropout": 0.0, "token_dropout": 0.5}):
        network, tokens_BT = make_cnn(**options), some_tokens(30)
        assert torch.equal(network(tokens_BT), network(tokens_BT))
        network.train()
        with torch_seeded(np.random.default_rng(0)):
            assert not torch.equal(network(tokens_BT), network(tokens_BT))
        assert torch.equal(network.score(tokens_BT), network.eval().score(tokens_BT))


def test_dropout_drops_a_quarter_and_rescales() -> None:
    """Keep 0.75 is drop 0.25 (pitfall 2): with unit features the mean is kept. z-test, false alarm 1e-6."""
    layer = paper_cnn(10, 5).get_submodule("dropout").train()
    with torch_seeded(np.random.default_rng(0)):
        dropped = layer(torch.ones(100_000))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    share = float((dropped == 0).float().mean())
    assert abs(share - 0.25) < 4.892 * (0.25 * 0.75 / 100_000) ** 0.5


def test_token_dropout_reads_pad_in_place_of_tokens() -> None:
    """All tokens dropped would be the all-PAD sequence; with probability 0.9 many rows of one token are."""
    network = CNNDiscriminator(A, 1, widths=(1,), filters=4, dropout=0.0, token_dropout=0.9).train()
    with torch_seeded(np.random.default_rng(0)), torch.no_grad():
        logits_B = network(torch.full((1000, 1), 3))
    pad, kept = network.score(torch.tensor([[A], [3]])).tolist()
    is_pad_B, is_kept_B = (logits_B - pad).abs() < 1e-5, (logits_B - kept).abs() < 1e-5
    assert (is_pad_B | is_kept_B).all()
    assert 850 < is_pad_B.sum() < 950  # 900 expected, five standard deviations


@pytest.mark.parametrize("options", [{"highway": "biased"}, {"highway": "unbiased", "pool": "sum"}], ids=str)
def test_sixteen_bits_change_rewards_by_less_than_a_twentieth_and_gradients_little(options: dict[str, Any]) -> None:
    """The error that docs/performance.md states, on D's probability; the gradient keeps its direction."""
    exact, rough, tokens_BT = make_cnn(**options), make_cnn(**options, precision="bfloat16"), some_tokens(200)
    expected_B, got_B = exact.score(tokens_BT), rough.score(tokens_BT)
    error_B = (got_B.sigmoid() - expected_B.sigmoid()).abs()
    assert got_B.dtype == torch.float32
    assert 0 < error_B.max() < 0.05
    gradients = [
        torch.cat([p.flatten() for p in torch.autograd.grad(network(tokens_BT).sum(), list(network.parameters()))])
        for network in (exact, rough)
    ]
    assert functional.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.999


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (2, 3)}, "include width 1"),
        ({"widths": ()}, "widths and filters must be positive"),
        ({"widths": (1, 2), "filters": (3,)}, "equally many"),
        ({"widths": (1, 2), "filters": (3, 0)}, "must be positive"),
        ({"pool": "mean"}, 'pool must be "max" or "sum", got \'mean\''),
        ({"highway": "yes"}, "highway must be"),
        ({"precision": "float16"}, 'precision must be "float32" or "bfloat16", got \'float16\''),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"token_dropout": -0.1}, "token_dropout must lie in"),
    ],
)
def test_impossible_networks_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CNNDiscriminator(A, T, **options)


# ---------------------------------------------------------------- training


def make_trainer(config: DiscriminatorConfig | None = None, **options: Any) -> DiscriminatorTrainer:
    config = config or DiscriminatorConfig(learning_rate=0.01, batch_size=16)
    return DiscriminatorTrainer(make_cnn(**options), some_tokens(100, seed=5), config, np.random.default_rng(2))


def test_it_learns_to_tell_two_kinds_apart() -> None:
    """Real sequences hold the pair (1, 2) somewhere, generated ones the same tokens never in that order."""

    def kinds(n: int, seed: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(seed)
        real, fake = rng.integers(3, A, size=(n, T)), rng.integers(3, A, size=(n, T))
        place = rng.integers(T - 1, size=n)
        for rows, pair in ((real, (1, 2)), (fake, (2, 1))):
            rows[np.arange(n), place], rows[np.arange(n), place + 1] = pair
        return torch.from_numpy(real), torch.from_numpy(fake)

    real_BT, fake_BT = kinds(600, 0)
    with torch_seeded(np.random.default_rng(0)):
        network = small_cnn(A, T, filters=16, embedding_dim=16)
    trainer = DiscriminatorTrainer(network, real_BT, DiscriminatorConfig(learning_rate=0.005), np.random.default_rng(0))
    first = trainer.train(fake_BT)
    last = trainer.train(fake_BT, epochs=8)
    assert trainer.minibatches == 10 + 80
    assert last["loss"] < first["loss"]
    figures = trainer.held_out(*kinds(500, 1))
    assert figures["held_out_auc"] > 0.99
    assert figures["held_out_accuracy"] > 0.95
    assert figures["held_out_loss"] < 0.2
    assert not network.training


@pytest.mark.parametrize("two_way_l2", [None, 0.2])
def test_the_loss_is_equation_5_and_the_step_also_follows_the_l2_term(two_way_l2: float | None) -> None:
    """One step's loss and gradient by hand, in float64: -mean(log D(real)) / 2 - mean(log(1 - D(fake))) / 2, and for
    the gradient + l2 / 2 (||W||^2 + ||b||^2)."""
    trainer = make_trainer(two_way_l2=two_way_l2, dropout=0.0)
    network = copy.deepcopy(trainer.discriminator).double()
    assert isinstance(network, CNNDiscriminator)
    real_BT, fake_BT = some_tokens(16, seed=1), some_tokens(16, seed=2)
    d_real_B, d_fake_B = network(real_BT).sigmoid(), network(fake_BT).sigmoid()
    cross_entropy = -(d_real_B.log().mean() + (1 - d_fake_B).log().mean()) / 2
    weights = network.output.weight, network.output.bias
    l2 = 0.0 if two_way_l2 is None else two_way_l2 * sum((w**2).sum() / 2 for w in weights)
    assert float(torch.as_tensor(network.penalty()).detach()) == pytest.approx(
        float(torch.as_tensor(l2).detach()), rel=1e-6
    )
    gradients = torch.autograd.grad(cross_entropy + l2, list(network.parameters()))
    figures = trainer._update(real_BT, fake_BT)
    assert figures["loss"] == pytest.approx(float(cross_entropy.detach()), rel=1e-5)
    for parameter, gradient in zip(trainer.discriminator.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-4, atol=1e-5)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert figures["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert figures["accuracy_real"] == float((d_real_B > 0.5).float().mean())
    assert figures["accuracy_fake"] == float((d_fake_B <= 0.5).float().mean())


def test_a_minibatch_is_as_many_real_as_generated_and_every_generated_one_is_used_once_an_epoch() -> None:
    trainer, seen = make_trainer(), []
    update = trainer._update

    def watch(real_BT: Tensor, fake_BT: Tensor) -> dict[str, float]:
        seen.append((len(real_BT), fake_BT[:, 0].tolist()))
        return update(real_BT, fake_BT)

    trainer._update = watch  # type: ignore[method-assign]
    fake_BT = torch.arange(40)[:, None].expand(40, T).clone() % A
    fake_BT[:, 0] = torch.arange(40) % A
    trainer.train(fake_BT, epochs=2)
    assert [n for n, _ in seen] == [16, 16, 8] * 2
    assert all(n == len(first) for n, first in seen)
    for epoch in (seen[:3], seen[3:]):
        assert sorted(itertools.chain.from_iterable(first for _, first in epoch)) == sorted(fake_BT[:, 0].tolist())
    assert seen[0][1] != seen[3][1]


def test_a_resumed_training_gives_the_same_bits() -> None:
    whole, first, second = make_trainer(dropout=0.3), make_trainer(dropout=0.3), make_trainer(dropout=0.3)
    fakes = [some_tokens(50, seed=seed) for seed in (10, 20)]
    expected = [whole.train(fake_BT, epochs=2) for fake_BT in fakes]
    got = [first.train(fakes[0], epochs=2)]
    second.train(fakes[1])  # wherever it stands
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    got.append(second.train(fakes[1], epochs=2))
    assert got == expected
    assert second.minibatches == whole.minibatches == 16
    for name, weights in whole.discriminator.state_dict().items():
        assert torch.equal(second.discriminator.state_dict()[name], weights), name


def test_training_and_scoring_move_no_global_random_state() -> None:
    trainer = make_trainer(dropout=0.5, token_dropout=0.2)
    before = torch.random.get_rng_state()
    trainer.train(some_tokens(40))
    trainer.held_out(some_tokens(10), some_tokens(10, seed=4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_without_generated_sequences_does_nothing() -> None:
    trainer = make_trainer()
    assert trainer.train(some_tokens(0)) == {}
    assert trainer.minibatches == 0
    with pytest.raises(ValueError, match="the discriminator needs real sequences, got none"):
        DiscriminatorTrainer(make_cnn(), some_tokens(0), DiscriminatorConfig(), np.random.default_rng(0))


@pytest.mark.parametrize("name", ["batch_size", "check_every", "epochs_per_draw", "learning_rate"])
def test_impossible_configurations_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, got 0"):
        DiscriminatorConfig(**{name: 0})
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        DiscriminatorConfig(weight_decay=-1)


def test_auc_equals_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (5, 8), (40, 30)):
        real, fake = rng.integers(6, size=n) + 1.0, rng.integers(6, size=m) * 1.0  # many ties
        pairs = [1.0 if r > f else 0.5 if r == f else 0.0 for r in real for f in fake]
        assert auc(torch.from_numpy(real), torch.from_numpy(fake)) == pytest.approx(float(np.mean(pairs)), abs=1e-12)
    assert auc(torch.tensor([1.0]), torch.tensor([0.0])) == 1
    assert math.isnan(auc(torch.tensor([]), torch.tensor([0.0])))


@pytest.mark.parametrize("pool", ["max", "sum"])
def test_scoring_in_parts_is_scoring_at_once(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few sequences are pooled, scored or summed together, more than divide evenly too."""
    discriminator = discriminators["small_cnn"](9, 6, widths=(1, 2, 3), filters=4, embedding_dim=4, pool=pool).eval()
    tokens_BT = torch.randint(10, (103, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_B = discriminator(tokens_BT)
    for pooled, rows, block in ((1000, 1000, 1), (10, 3, 2), (7, 100, 5)):
        monkeypatch.setattr(cnn, "POOLED_AT_ONCE", pooled)
        monkeypatch.setattr(cnn, "ROWS_AT_ONCE", rows)
        monkeypatch.setattr(cnn, "rows_per_block", lambda _, block=block: block)
        torch.testing.assert_close(discriminator.score(tokens_BT), expected_B, rtol=0, atol=1e-6)
    assert discriminator.score(tokens_BT[:0]).shape == (0,)
