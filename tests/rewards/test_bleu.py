"""BLEU of token ids: equal to the definition in plain loops, and to nltk's where that is installed."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.rewards import BLEUReward
from seqgan_rl.sequences import ngrams
from seqgan_rl.sequences.ngrams import NGramTable

torch.set_num_threads(1)


def grams(words: list[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def bleu_slowly(references: list[list[int]], words: list[int], max_n: int) -> float:
    """Papineni et al. 2002 with method 1 of Chen and Cherry: clipped precisions, nearest reference length."""
    logs = []
    for n in range(1, max_n + 1):
        counts = grams(words, n)
        matches = sum(min(count, max(grams(r, n)[gram] for r in references)) for gram, count in counts.items())
        if n == 1 and matches == 0:
            return 0.0
        logs.append(math.log((matches or 0.1) / max(1, sum(counts.values()))))
    nearest = min((abs(len(r) - len(words)), len(r)) for r in references)[1]
    brevity = 1.0 if len(words) > nearest else math.exp(1 - nearest / len(words))
    return brevity * math.exp(sum(logs) / max_n)


def some_case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """References and hypotheses of few words, so that n-grams repeat; some words that no reference has."""
    rng = np.random.default_rng(seed)
    V, T, N, B = (int(rng.integers(low, high)) for low, high in ((2, 7), (1, 9), (1, 7), (5, 15)))
    reference_NT, tokens_BT = rng.integers(V, size=(N, T)), rng.integers(V + 2, size=(B, T))
    lengths = rng.integers(1, T + 1, size=N), rng.integers(0, T + 1, size=B)
    return (
        torch.from_numpy(reference_NT),
        torch.from_numpy(lengths[0]),
        torch.from_numpy(tokens_BT),
        torch.from_numpy(lengths[1]),
    )


@pytest.mark.parametrize("max_n", [1, 2, 4, 5])
def test_bleu_is_the_definition(max_n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 1e-12, over 30 cases with repeats, unknown words, empty and too short hypotheses, in parts."""
    monkeypatch.setattr(ngrams, "ROWS_AT_ONCE", 4)
    scores = []
    for seed in range(30):
        reference_NT, lengths_N, tokens_BT, lengths_B = some_case(seed)
        references = [row[:length].tolist() for row, length in zip(reference_NT, lengths_N, strict=True)]
        expected = [
            bleu_slowly(references, row[:length].tolist(), max_n)
            for row, length in zip(tokens_BT, lengths_B, strict=True)
        ]
        got_B = NGramTable(reference_NT, lengths_N, max_n).sentence_bleu(tokens_BT, lengths_B)
        assert got_B.tolist() == pytest.approx(expected, abs=1e-12)
        scores += expected
    assert len(set(scores)) > 30, "the cases tell hypotheses apart"


def test_bleu_is_nltks() -> None:
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    smoothing = bleu_score.SmoothingFunction().method1
    for seed in range(20):
        reference_NT, lengths_N, tokens_BT, lengths_B = some_case(seed)
        references = [row[:length].tolist() for row, length in zip(reference_NT, lengths_N, strict=True)]
        got_B = NGramTable(reference_NT, lengths_N, 4).sentence_bleu(tokens_BT, lengths_B)
        for row, length, got in zip(tokens_BT, lengths_B, got_B.tolist(), strict=True):
            expected = bleu_score.sentence_bleu(references, row[:length].tolist(), smoothing_function=smoothing)
            assert got == pytest.approx(expected, abs=1e-12)


def test_large_vocabularies_do_not_overflow() -> None:
    """A copy of a reference has BLEU-5 1 with ids near 2^31, where V^5 is far above 2^63."""
    reference_NT = torch.randint(2**31 - 40, 2**31, (50, 9), generator=torch.Generator().manual_seed(0))
    lengths_N = torch.full((50,), 9)
    table = NGramTable(reference_NT, lengths_N, 5)
    assert table.sentence_bleu(reference_NT[:7], lengths_N[:7]).tolist() == [1.0] * 7
    assert (table.sentence_bleu(reference_NT[:7].flip(1), lengths_N[:7]) < 1).all()


def test_the_reward_reads_words_alone() -> None:
    """EOS (6) and PAD (7) are no words: a hypothesis and a reference that end early are compared up to there."""
    reference_NT = torch.tensor([[0, 1, 2, 6, 7], [3, 4, 5, 0, 1]])
    tokens_BT = torch.tensor([[0, 1, 2, 6, 7], [0, 1, 6, 7, 7], [6, 7, 7, 7, 7], [3, 4, 5, 0, 1], [5, 4, 3, 6, 7]])
    lengths_B = torch.tensor([4, 3, 1, 5, 4])
    reward_B = BLEUReward(reference_NT, eos_id=6, max_n=2)(tokens_BT, lengths_B)
    words = [[0, 1, 2], [0, 1], [], [3, 4, 5, 0, 1], [5, 4, 3]]
    expected = [bleu_slowly([[0, 1, 2], [3, 4, 5, 0, 1]], each, 2) for each in words]
    assert reward_B.dtype == torch.float32
    assert reward_B.tolist() == pytest.approx(expected, abs=1e-6)
    assert reward_B[0] == reward_B[3] == 1
    assert reward_B[2] == 0


def test_tables_without_references_or_orders_are_refused() -> None:
    empty_NT = torch.zeros(0, 4, dtype=torch.int64)
    with pytest.raises(InputError, match="BLEU needs at least one reference sequence, got none"):
        NGramTable(empty_NT, empty_NT[:, 0], 2)
    with pytest.raises(ValueError, match="max_n must be at least 1, got 0"):
        NGramTable(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([4, 4]), 0)
