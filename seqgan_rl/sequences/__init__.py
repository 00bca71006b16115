"""What a sequence is: vocabulary, padding, and corpora in splits that never share a line."""

from seqgan_rl.sequences.corpus import Corpus, Split
from seqgan_rl.sequences.padding import check_tokens, lengths_from_tokens, pad_sequences
from seqgan_rl.sequences.vocabulary import UNK, Level, Vocabulary, split_units

__all__ = [
    "UNK",
    "Corpus",
    "Level",
    "Split",
    "Vocabulary",
    "check_tokens",
    "lengths_from_tokens",
    "pad_sequences",
    "split_units",
]
