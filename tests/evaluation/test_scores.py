import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.evaluation import (
    Evaluator,
    Scores,
    difference,
    evaluate_generator,
    oracle_scores,
    uniform_scores,
)
from seqgan_rl.evaluation.scores import combined_error
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle

V, T = 7, 5


def make_generator(seed: int = 0, num_actions: int = V, length: int = T, *, has_eos: bool = False) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(seed)):
        return LSTMGenerator(num_actions, length, has_eos, embedding_dim=4, hidden_dim=4, init_std=1.0)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle.from_seed(3, vocab_size=V, sequence_length=T, embedding_dim=4, hidden_dim=4)


@pytest.fixture(scope="module")
def held_out_BT(oracle: Oracle) -> Tensor:
    return oracle.sample(300, np.random.default_rng(0))


@pytest.fixture(scope="module")
def train_BT(oracle: Oracle) -> Tensor:
    return oracle.sample(400, np.random.default_rng(1))


def token_nats(
    generator: LSTMGenerator, tokens_BT: Tensor, temperature: float = 1.0, forbidden: tuple[int, ...] = ()
) -> list[list[float]]:
    """Slow reference: one sequence and one step at a time, PAD left out."""
    rows = []
    for tokens in tokens_BT.tolist():
        state, last, nats = generator.initial_state(1), generator.pad_id, []
        for token in tokens:
            if token == generator.pad_id:
                break
            with torch.no_grad():
                logits_1A, state = generator.step(torch.tensor([last]), state)
            weights = [
                0.0 if a in forbidden else math.exp(x / temperature) for a, x in enumerate(logits_1A[0].tolist())
            ]
            nats.append(-math.log(weights[token] / sum(weights)))
            last = token
        rows.append(nats)
    return rows


def ratio_and_error(rows: list[list[float]]) -> tuple[float, float]:
    """Σ nats / Σ tokens and its delta-method standard error, in plain loops."""
    n, tokens = len(rows), sum(map(len, rows))
    ratio = sum(map(sum, rows)) / tokens
    residuals = [sum(row) - ratio * len(row) for row in rows]
    return ratio, math.sqrt(sum(r * r for r in residuals) / (n - 1) / n) / (tokens / n)


def test_every_score_equals_the_slow_reference(oracle: Oracle, held_out_BT: Tensor, train_BT: Tensor) -> None:
    generator = make_generator()
    options: dict[str, Any] = {"n_samples": 200, "seed": 5, "temperature": 0.8, "forbidden": (2,)}
    samples_BT = generator.sample(200, rng=stream(5, "evaluation"), temperature=0.8, forbidden=(2,))
    train_BT = torch.cat([train_BT, samples_BT[:3]])
    scores = evaluate_generator(generator, held_out_BT, oracle=oracle, train_BT=train_BT, **options)

    own = token_nats(generator, samples_BT, 0.8, (2,))
    under_oracle = token_nats(oracle.generator, samples_BT)
    test = token_nats(generator, held_out_BT, 0.8)  # word 2 is forbidden to sample, and scored all the same
    test_under_oracle = token_nats(oracle.generator, held_out_BT)
    kl_g_o = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(under_oracle, own, strict=True)]
    kl_o_g = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(test, test_under_oracle, strict=True)]
    expected = {"nll_oracle": under_oracle, "nll_test": test, "entropy": own, "kl_g_o": kl_g_o, "kl_o_g": kl_o_g}
    for name, rows in expected.items():
        value, error = ratio_and_error(rows)
        assert getattr(scores, name) == pytest.approx(value, abs=2e-6), name
        assert scores.standard_errors[name] == pytest.approx(error, rel=1e-4), name

    samples, train = [tuple(row) for row in samples_BT.tolist()], {tuple(row) for row in train_BT.tolist()}
    assert scores.distinct_tokens == len(set(itertools.chain(*samples))) == V - 1
    assert scores.unique_share == len(set(samples)) / 200
    assert scores.copied_share == sum(sample in train for sample in samples) / 200 > 0
    assert scores.mean_length == T


def test_variable_length_is_sum_of_nats_over_sum_of_tokens() -> None:
    generator = make_generator(num_actions=4, length=6, has_eos=True)  # words 0..2, EOS 3, PAD 4
    held_out = torch.tensor([[0, 3, 4, 4, 4, 4], [3, 4, 4, 4, 4, 4], [1, 2, 0, 1, 2, 0], [2, 2, 1, 3, 4, 4]])
    scores = evaluate_generator(generator, held_out, n_samples=100, unk_id=2)
    samples_BT = generator.sample(100, rng=stream(0, "evaluation"))
    lengths = [len(row) for row in token_nats(generator, samples_BT)]
    assert len(set(lengths)) > 2
    assert (scores.nll_test, scores.standard_errors["nll_test"]) == pytest.approx(
        ratio_and_error(token_nats(generator, held_out)), rel=1e-5
    )
    assert scores.entropy == pytest.approx(ratio_and_error(token_nats(generator, samples_BT))[0], abs=2e-6)
    assert scores.mean_length == np.mean(lengths)
    assert scores.distinct_tokens == 3  # neither EOS nor PAD is a word
    assert scores.signature.unk_rate == 4 / 10  # EOS and PAD are no words
    assert scores.signature.vocab_size == 3


def test_pad_is_never_scored() -> None:
    """What follows EOS, and what a generator would say after it, has no influence."""
    generator = make_generator(num_actions=4, length=6, has_eos=True)
    held_out = torch.tensor([[0, 3, 4, 4, 4, 4], [1, 2, 0, 1, 3, 4]])
    whole = evaluate_generator(generator, held_out, n_samples=50)
    by_hand = generator.log_prob(held_out)[held_out != 4]
    assert whole.nll_test == pytest.approx(-float(by_hand.detach().sum()) / 7, abs=1e-6)
    step = generator.step

    def loud_after_eos(tokens_B: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits_BA, new_state = step(tokens_B, state)
        return torch.where((tokens_B == 3)[:, None], torch.tensor([50.0, 0, 0, 0]), logits_BA), new_state

    generator.step = loud_after_eos  # type: ignore[method-assign]
    generator._token_log_prob = lambda *a: super(LSTMGenerator, generator)._token_log_prob(*a)  # type: ignore[method-assign]
    assert evaluate_generator(generator, held_out, n_samples=50).nll_test == pytest.approx(whole.nll_test, abs=1e-6)


def test_uniform_costs_log_of_the_actions(oracle: Oracle) -> None:
    """ln 5000 = 8.517193 nats, whatever the data."""
    held_out = torch.from_numpy(np.random.default_rng(0).integers(5000, size=(20, 4)))
    scores = uniform_scores(held_out, 5000, n_samples=20)
    assert scores.nll_test == pytest.approx(math.log(5000), abs=1e-12)
    assert scores.entropy == pytest.approx(8.517193, abs=1e-6)
    assert scores.standard_errors["nll_test"] == pytest.approx(0, abs=1e-12)
    with_eos = uniform_scores(torch.tensor([[0, 2, 3], [2, 3, 3]]), 3, has_eos=True, n_samples=50)
    assert with_eos.nll_test == pytest.approx(math.log(3))


def test_oracle_scores_itself_at_its_entropy(oracle: Oracle, held_out_BT: Tensor) -> None:
    scores = oracle_scores(oracle, held_out_BT, n_samples=2000)
    entropy, error = oracle.entropy()
    assert (
        scores.nll_oracle
        == scores.entropy
        == pytest.approx(entropy, abs=5 * math.hypot(error, scores.standard_errors["entropy"]))
    )
    assert (scores.kl_g_o, scores.kl_o_g) == pytest.approx((0, 0), abs=1e-9)
    with pytest.raises(ValueError, match="needs an oracle"):
        Evaluator(held_out_BT).oracle_scores()


def test_estimates_agree_with_enumeration() -> None:
    """V=3, T=3: all 27 sequences. Two-sided z-tests, 5 scores: false alarm below 1e-5 for each (|z| < 4.42)."""
    oracle = Oracle.from_seed(1, vocab_size=3, sequence_length=3, embedding_dim=3, hidden_dim=3)
    generator = make_generator(4, 3, 3)
    all_BT = torch.tensor(list(itertools.product(range(3), repeat=3)))
    log_g_B = generator.log_prob(all_BT).double().sum(dim=1).detach()
    log_o_B = oracle.log_prob(all_BT).double().sum(dim=1)
    g_B, o_B = log_g_B.exp(), log_o_B.exp()
    exact = {
        "nll_oracle": -(g_B * log_o_B).sum() / 3,
        "entropy": -(g_B * log_g_B).sum() / 3,
        "kl_g_o": (g_B * (log_g_B - log_o_B)).sum() / 3,
        "nll_test": -(o_B * log_g_B).sum() / 3,
        "kl_o_g": (o_B * (log_o_B - log_g_B)).sum() / 3,
    }
    held_out = oracle.sample(20_000, np.random.default_rng(2))
    scores = evaluate_generator(generator, held_out, oracle=oracle, n_samples=20_000, seed=1)
    for name, truth in exact.items():
        z = (getattr(scores, name) - float(truth)) / scores.standard_errors[name]
        assert abs(z) < 4.42, name


def test_seed_decides_all_numbers_and_chunks_none(
    oracle: Oracle, held_out_BT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator()
    first = evaluate_generator(generator, held_out_BT, oracle=oracle, n_samples=100)
    again = evaluate_generator(generator, held_out_BT, oracle=oracle, n_samples=100)
    other = evaluate_generator(generator, held_out_BT, oracle=oracle, n_samples=100, seed=1)
    assert first == again
    assert first.nll_test == other.nll_test
    assert first.entropy != other.entropy
    monkeypatch.setattr("seqgan_rl.evaluation.scores.CHUNK", 7)
    chunked = evaluate_generator(generator, held_out_BT, oracle=oracle, n_samples=100)
    assert chunked.nll_oracle == pytest.approx(first.nll_oracle, abs=1e-6)
    assert chunked.unique_share == first.unique_share


def test_scoring_disturbs_nothing(oracle: Oracle, held_out_BT: Tensor) -> None:
    """Neither global randomness, nor gradients, nor the mode of any part of the generator."""

    class Dropping(LSTMGenerator):
        def __init__(self) -> None:
            super().__init__(V, T, embedding_dim=4, hidden_dim=4)
            self.awake, self.asleep = nn.Dropout(0.5), nn.Dropout(0.5)

        def log_prob(self, tokens_BT: Tensor, **options: Any) -> Tensor:
            assert not self.awake.training
            return super().log_prob(tokens_BT, **options)

    generator = Dropping()
    generator.asleep.eval()
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    Evaluator(held_out_BT, oracle=oracle, n_samples=50).scores(generator)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert numpy_state == str(np.random.get_state())  # noqa: NPY002
    assert (generator.training, generator.awake.training, generator.asleep.training) == (True, True, False)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in generator.parameters())


def test_training_data_as_test_is_refused(oracle: Oracle, held_out_BT: Tensor, train_BT: Tensor) -> None:
    with pytest.raises(InputError, match='scoring "test" on training data'):
        Evaluator(train_BT, train_BT=train_BT)
    with pytest.raises(InputError, match="held out"):
        Evaluator(train_BT.flip(0), train_BT=train_BT)  # in another order
    Evaluator(held_out_BT, train_BT=train_BT)


def test_part_of_the_training_data_is_refused_and_a_small_world_is_not() -> None:
    """A slice of it, or it with some held-out sequences; of 2^3 sequences all stand in both splits by chance alone."""
    rng = np.random.default_rng(0)
    train_BT, held_out_BT = (torch.from_numpy(rng.integers(0, 50, (200, 8))) for _ in range(2))
    for copies in (train_BT[::4], train_BT[:10], torch.cat([train_BT, held_out_BT[:50]])):
        with pytest.raises(InputError, match=r'refused: scoring "test" on training data; \d+ of the \d+ test'):
            Evaluator(copies, train_BT=train_BT)
    Evaluator(torch.cat([held_out_BT, train_BT[:50]]), train_BT=train_BT)  # some stand in both: told by the corpus
    small_BT = torch.from_numpy(rng.integers(0, 2, (400, 3)))
    Evaluator(small_BT[:100], train_BT=small_BT[100:])


def test_wrong_arguments_are_named(oracle: Oracle, held_out_BT: Tensor) -> None:
    with pytest.raises(ValueError, match="at least 2 sequences"):
        Evaluator(held_out_BT[:1])
    with pytest.raises(ValueError, match="n_samples must be at least 2"):
        Evaluator(held_out_BT, n_samples=1)
    with pytest.raises(ValueError, match="same T"):
        Evaluator(held_out_BT, train_BT=held_out_BT[:, 1:])
    with pytest.raises(ValueError, match="generator's T=9"):
        Evaluator(held_out_BT).scores(make_generator(length=9))
    with pytest.raises(ValueError, match="token ids must lie in"):
        Evaluator(held_out_BT).scores(make_generator(num_actions=3))
    with pytest.raises(ValueError, match="same language"):
        Evaluator(held_out_BT, oracle=oracle).scores(make_generator(num_actions=V + 1))
    with pytest.raises(ValueError, match="temperature must be"):
        Evaluator(held_out_BT).scores(make_generator(), temperature=0)


def test_absent_oracle_and_training_data_give_none(held_out_BT: Tensor) -> None:
    scores = evaluate_generator(make_generator(), held_out_BT, n_samples=50)
    assert (scores.nll_oracle, scores.kl_g_o, scores.kl_o_g, scores.copied_share) == (None,) * 4
    assert set(scores.metrics()) == {"nll_test", "entropy", "distinct_tokens", "unique_share", "mean_length"}


def test_truncated_sampling_admits_that_it_cannot_write_the_data(oracle: Oracle, held_out_BT: Tensor) -> None:
    scores = evaluate_generator(make_generator(), held_out_BT, oracle=oracle, n_samples=50, top_k=1)
    assert scores.nll_test == scores.kl_o_g == math.inf
    assert scores.entropy == 0
    assert Counter(map(math.isnan, scores.standard_errors.values())) == {True: 2, False: 4}


def test_scores_survive_json(oracle: Oracle, held_out_BT: Tensor) -> None:
    scores = evaluate_generator(
        make_generator(), held_out_BT, oracle=oracle, n_samples=50, forbidden=(1,), corpus_hash="c"
    )
    assert Scores.from_json(json.loads(json.dumps(scores.to_json()))) == scores


def test_comparable_unless_anything_but_sampling_differs(oracle: Oracle, held_out_BT: Tensor) -> None:
    generator, evaluator = make_generator(), Evaluator(held_out_BT, oracle=oracle, n_samples=50)
    plain = evaluator.scores(generator).signature
    assert plain.comparable_with(evaluator.scores(generator, temperature=2.0).signature)
    for other in (
        Evaluator(held_out_BT, n_samples=50),
        Evaluator(held_out_BT, oracle=oracle, n_samples=51),
        Evaluator(held_out_BT, oracle=oracle, n_samples=50, seed=1),
        Evaluator(held_out_BT.flip(0), oracle=oracle, n_samples=50),
        Evaluator(held_out_BT, oracle=oracle, n_samples=50, corpus_hash="other"),
    ):
        assert not plain.comparable_with(other.scores(generator).signature)
    assert plain.differences(
        Evaluator(held_out_BT, oracle=oracle, n_samples=50, seed=1).scores(generator).signature
    ) == ["seed: 0 != 1"]


def test_paired_error_is_that_of_the_differences(oracle: Oracle, held_out_BT: Tensor) -> None:
    evaluator = Evaluator(held_out_BT, oracle=oracle, n_samples=500)
    one, other = evaluator.scores(make_generator(0)), evaluator.scores(make_generator(0), temperature=0.9)
    plain, sharper = (token_nats(make_generator(0), held_out_BT, temperature) for temperature in (1.0, 0.9))
    nats = [sum(a) - sum(b) for a, b in zip(plain, sharper, strict=True)]
    value, error = difference(one, other, "nll_test")
    assert value == pytest.approx(np.mean(nats) / T, abs=1e-6)
    assert error == pytest.approx(np.std(nats, ddof=1) / math.sqrt(len(nats)) / T, rel=1e-4)
    assert error < 0.5 * one.standard_errors["nll_test"]  # pairing pays
    assert difference(one, one, "nll_oracle") == (0, 0)

    read_back = Scores.from_json(other.to_json())  # unpaired: the bound, never less
    bound = one.standard_errors["nll_test"] + other.standard_errors["nll_test"]
    assert difference(one, read_back, "nll_test")[1] == pytest.approx(bound)


def test_errors_over_samples_and_over_held_out_data_add_in_squares(make_scores: Any) -> None:
    x, y = np.array([1.0, -1.0, 0.0, 0.0]), np.array([2.0, 0.0, -2.0, 0.0])
    scores = make_scores(3.0, 2.0, influence={"nll_oracle": x, "nll_test": y})
    by_hand = math.sqrt((2 / 3) / 4 + 9 * (8 / 3) / 4)
    assert combined_error([(1.0, scores, "nll_oracle"), (-3.0, scores, "nll_test")]) == pytest.approx(by_hand)


def test_bleu_is_over_samples_and_held_out_data(make_scores: Any) -> None:
    """Unpaired, its error may go with those of scores over either, and is added to them; they are independent."""
    scores = make_scores(3.0, 2.5, samples={"bleu_4": 0.5, "self_bleu_4": 0.5})
    terms = [(1.0, scores, "nll_test"), (1.0, scores, "self_bleu_4")]
    assert combined_error(terms) == pytest.approx(math.hypot(0.01, 0.01))
    assert combined_error([*terms, (-1.0, scores, "bleu_4")]) == pytest.approx(math.hypot(0.01, 0.01) + 0.01)
