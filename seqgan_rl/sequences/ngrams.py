"""n-gram counts of reference sequences, and sentence BLEU against them, many hypotheses at once.

BLEU is nltk's ``sentence_bleu`` with ``SmoothingFunction().method1`` (Papineni et al. 2002; Chen and Cherry 2014,
smoothing 1 with epsilon 0.1) on token ids, exact in float64.
Letters: N references, B hypotheses, T tokens each, V words, M positions of n-grams (T - n + 1), W n-grams known.
"""

import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError

SMOOTHING = 0.1
"""Matches counted where there are none (method1's epsilon)."""
ROWS_AT_ONCE = 4096
"""Hypotheses scored together."""


class NGramTable:
    """The n-grams of N references for n = 1..max_n, with the largest count of each in one reference.

    An n-gram is known by the number of its first n - 1 words and its last word: no hashing, no collisions.

    Args:
        tokens_NT: word ids >= 0, int64, (N, T); what follows the first ``lengths_N`` words of a row is not read.
        lengths_N: words of each reference, int64, (N,).
        max_n: longest n-grams.
    """

    def __init__(self, tokens_NT: Tensor, lengths_N: Tensor, max_n: int) -> None:
        if len(tokens_NT) == 0:
            raise InputError("BLEU needs at least one reference sequence, got none")
        if max_n < 1:
            raise ValueError(f"max_n must be at least 1, got {max_n}")
        self.max_n, self.lengths_U = max_n, lengths_N.unique()
        self.vocab_size = int(tokens_NT.max()) + 1
        self.keys_W: list[Tensor] = []
        self.largest_count_W: list[Tensor] = []
        """Of each known n-gram, by its number; 0 stands last for one that is not known."""
        previous_NM = torch.zeros_like(tokens_NT)
        for n in range(1, max_n + 1):
            previous_NM = self._learn(n, tokens_NT, lengths_N, previous_NM)

    def _learn(self, n: int, tokens_NT: Tensor, lengths_N: Tensor, previous_NM: Tensor) -> Tensor:
        """Take in the n-grams, given the numbers of the (n-1)-grams that start at each position; returns their own."""
        num_starts = max(0, tokens_NT.shape[1] - n + 1)
        is_whole_NM = torch.arange(num_starts, device=tokens_NT.device) + n <= lengths_N[:, None]
        key_NM = previous_NM[:, :num_starts] * self.vocab_size + tokens_NT[:, n - 1 :]
        keys_W, number_K = key_NM[is_whole_NM].unique(return_inverse=True)
        row_K = is_whole_NM.nonzero()[:, 0]
        pairs_P, count_P = (row_K * max(1, len(keys_W)) + number_K).unique(return_counts=True)
        largest_W = torch.zeros(len(keys_W) + 1, dtype=torch.int64, device=tokens_NT.device)
        largest_W.scatter_reduce_(0, pairs_P % max(1, len(keys_W)), count_P, "amax")
        self.keys_W.append(keys_W)
        self.largest_count_W.append(largest_W)
        number_NM = torch.zeros_like(key_NM)
        number_NM[is_whole_NM] = number_K
        return number_NM

    def to(self, device: torch.device) -> "NGramTable":
        """Move the tables, in place."""
        self.lengths_U = self.lengths_U.to(device)
        self.keys_W = [keys_W.to(device) for keys_W in self.keys_W]
        self.largest_count_W = [count_W.to(device) for count_W in self.largest_count_W]
        return self

    def matches(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Clipped matches of each order: n-grams of a hypothesis that are in a reference, each counted at most as often
        as in the reference that has it most often. int64, (B, max_n)."""
        T = tokens_BT.shape[1]
        number_BM, columns = torch.zeros_like(tokens_BT), []
        for n in range(1, self.max_n + 1):
            num_starts = max(0, T - n + 1)
            is_whole_BM = torch.arange(num_starts, device=tokens_BT.device) + n <= lengths_B[:, None]
            key_BM = number_BM[:, :num_starts] * self.vocab_size + tokens_BT[:, n - 1 :]
            is_word_BM = (number_BM[:, :num_starts] >= 0) & (tokens_BT[:, n - 1 :] < self.vocab_size) & is_whole_BM
            number_BM = self._numbers(n, key_BM, is_word_BM)
            # how often the same n-gram came earlier in the row
            is_same_BMM = number_BM[:, :, None] == number_BM[:, None, :]
            earlier_BM = is_same_BMM.tril(-1).sum(dim=2)
            is_match_BM = (number_BM >= 0) & (earlier_BM < self.largest_count_W[n - 1][number_BM])
            columns.append(is_match_BM.sum(dim=1))
        return torch.stack(columns, dim=1)

    def _numbers(self, n: int, key_BM: Tensor, is_word_BM: Tensor) -> Tensor:
        """Numbers of n-grams by their keys; -1 for one that no reference has."""
        keys_W = self.keys_W[n - 1]
        if len(keys_W) == 0:
            return torch.full_like(key_BM, -1)
        place_BM = torch.searchsorted(keys_W, key_BM.contiguous()).clamp_max(len(keys_W) - 1)
        return torch.where(is_word_BM & (keys_W[place_BM] == key_BM), place_BM, -1)

    def sentence_bleu(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """BLEU-max_n of each hypothesis against all references, in [0, 1], float64, (B,).

        Args:
            tokens_BT: word ids, int64, (B, T); what follows the first ``lengths_B`` words is not read.
            lengths_B: words of each hypothesis, int64, (B,); BLEU of no words is 0.
        """
        parts = zip(tokens_BT.split(ROWS_AT_ONCE), lengths_B.split(ROWS_AT_ONCE), strict=True)
        scores = [self._sentence_bleu(part_BT, part_B) for part_BT, part_B in parts]
        return torch.cat(scores) if len(tokens_BT) else tokens_BT.new_zeros(0, dtype=torch.float64)

    def _sentence_bleu(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        matches_Bn = self.matches(tokens_BT, lengths_B)
        order_n = torch.arange(self.max_n, device=tokens_BT.device)
        possible_Bn = (lengths_B[:, None] - order_n).clamp_min(1)
        smoothed_Bn = torch.where(matches_Bn > 0, matches_Bn.double(), SMOOTHING)
        log_precision_B = (smoothed_Bn / possible_Bn).log().mean(dim=1)
        # the reference length that is nearest, the shorter of two
        difference_BU = self.lengths_U - lengths_B[:, None]
        nearest_B = self.lengths_U[(2 * difference_BU.abs() + (difference_BU > 0)).argmin(dim=1)]
        words_B = lengths_B.double()
        log_brevity_B = (1 - nearest_B / words_B).clamp_max(0)
        return torch.where(matches_Bn[:, 0] > 0, (log_precision_B + log_brevity_B).exp(), 0.0)
