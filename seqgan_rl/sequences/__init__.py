"""What a sequence is: vocabulary, padding, and corpora of text, ids, poems and music in splits that share no line."""

from seqgan_rl.sequences.corpus import Corpus, Split
from seqgan_rl.sequences.hub import from_hub
from seqgan_rl.sequences.loading import CorpusLevel, load_corpus
from seqgan_rl.sequences.midi import MelodyOptions, read_melody, write_midi
from seqgan_rl.sequences.music import melodies
from seqgan_rl.sequences.padding import check_tokens, lengths_from_tokens, pad_sequences
from seqgan_rl.sequences.poems import quatrains
from seqgan_rl.sequences.vocabulary import UNK, Level, Vocabulary, split_units

__all__ = [
    "UNK",
    "Corpus",
    "CorpusLevel",
    "Level",
    "MelodyOptions",
    "Split",
    "Vocabulary",
    "check_tokens",
    "from_hub",
    "lengths_from_tokens",
    "load_corpus",
    "melodies",
    "pad_sequences",
    "quatrains",
    "read_melody",
    "split_units",
    "write_midi",
]
