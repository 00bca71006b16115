"""Files of integers: one sequence of ids a line, as the published SeqGAN program writes its oracle's samples.

Ids are the words themselves, "0".."V-1"; there is no UNK. Letters: V vocabulary size.
"""

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences.lines import Source
from seqgan_rl.sequences.vocabulary import Vocabulary

MAX_INFERRED = 1_000_000
"""A larger V must be given: one stray number must not fill the memory."""

_MAX_DIGITS = 18


def canonical_lines(source: Source, vocab_size: int | None) -> Source:
    """The same lines with ids in their shortest form and one space between them.

    InputError, with the line's number, for what is no id: V and larger, and 10^6 and larger where V is not given.
    """
    limit = MAX_INFERRED if vocab_size is None else vocab_size
    known: dict[str, str] = {}
    lines = []
    for number, line in enumerate(source.lines, start=1):
        words = line.split()
        try:
            lines.append(" ".join([known[word] for word in words]))
        except KeyError:
            for word in words:
                known[word] = _canonical(word, limit, vocab_size is not None, f"{source.label}: line {number}")
            lines.append(" ".join([known[word] for word in words]))
    return Source(source.label, source.name, lines)


def _canonical(word: str, limit: int, is_given: bool, where: str) -> str:
    if not (word.isascii() and word.isdecimal() and len(word) <= _MAX_DIGITS):
        raise InputError(
            f"{where}: expected ids (integers of at least 0) between spaces, got {word[:40]!r}; "
            "text is read at another level, such as word"
        )
    if int(word) >= limit:
        advice = "give a larger one, or leave it out" if is_given else "give vocab_size (--max-vocab) if it is meant"
        raise InputError(f"{where}: expected ids below vocab_size={limit}, got {word}; {advice}")
    return str(int(word))


def integer_vocabulary(sources: dict[str, Source], vocab_size: int | None) -> Vocabulary:
    """The words "0".."V-1"; V is one more than the largest id of all splits unless given."""
    if vocab_size is None:
        distinct = {word for source in sources.values() for line in source.lines for word in line.split()}
        vocab_size = max(2, 1 + max(map(int, distinct), default=0))
    return Vocabulary(words=tuple(map(str, range(vocab_size))), split_punctuation=False)
