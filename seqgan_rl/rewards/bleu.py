"""BLEU against real sequences as a reward: PG-BLEU, a baseline of Yu et al. 2017.

Letters: B sequences, T tokens each, N references.
"""

from torch import Tensor

from seqgan_rl.rewards.base import Reward, RewardParts
from seqgan_rl.rewards.names import rewards
from seqgan_rl.sequences.ngrams import NGramTable


class BLEUReward(Reward):
    """Sentence BLEU of the words of Y against all references, smoothed as method 1 of Chen and Cherry 2014.

    Args:
        reference_NT: real sequences, int64, (N, T), PAD after EOS.
        eos_id: ends a sequence and is no word; PAD is the next id. None: every sequence has T words.
        max_n: longest n-grams.
    """

    def __init__(self, reference_NT: Tensor, *, eos_id: int | None = None, max_n: int = 4) -> None:
        self.eos_id = eos_id
        # EOS and PAD are the ids from eos_id on
        is_word_NT = reference_NT >= 0 if eos_id is None else reference_NT < eos_id
        self.table = NGramTable(reference_NT, is_word_NT.sum(dim=1), max_n)

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        num_words_B = lengths_B if self.eos_id is None else (tokens_BT < self.eos_id).sum(dim=1)
        return self.table.to(tokens_BT.device).sentence_bleu(tokens_BT, num_words_B).float()


@rewards.register("bleu", needs_discriminator=False)
def bleu(parts: RewardParts) -> Reward:
    """Sentence BLEU-4 against the real training sequences."""
    return BLEUReward(parts.real_sequences("bleu"), eos_id=parts.eos_id)


@rewards.register("bleu2", needs_discriminator=False)
def bleu2(parts: RewardParts) -> Reward:
    """Sentence BLEU-2 against the real training sequences."""
    return BLEUReward(parts.real_sequences("bleu2"), eos_id=parts.eos_id, max_n=2)


@rewards.register("bleu3", needs_discriminator=False)
def bleu3(parts: RewardParts) -> Reward:
    """Sentence BLEU-3 against the real training sequences."""
    return BLEUReward(parts.real_sequences("bleu3"), eos_id=parts.eos_id, max_n=3)
