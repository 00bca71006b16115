"""One door to every kind of corpus: a file, a folder of MIDI files, or ``hf:NAME``, read as ``level`` says.

A command line and an environment name their data by two words, a source and a level:
    word, char, bpe   a text file, or ``hf:NAME``, ``hf:NAME:CONFIG``, ``hf:NAME#COLUMN`` of the Hugging Face Hub
    integer           a file of ids
    quatrain          a file of poems, marks dropped; ``quatrain-marks`` keeps them
    pitch             a MIDI file or a folder of them: the paper's keys every 0.4 s; ``pitch-rests`` has rests as tokens
A folder that `Corpus.to_files` wrote, ``corpus/`` of a run among them, is a source too, and comes back as it was.
"""

import os
from typing import Any, Literal, get_args

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.sequences.corpus import Corpus
from seqgan_rl.sequences.hub import from_hub
from seqgan_rl.sequences.lines import TextOptions
from seqgan_rl.sequences.midi import NUM_KEYS
from seqgan_rl.sequences.music import SUFFIXES, melodies
from seqgan_rl.sequences.poems import quatrains

CorpusLevel = Literal["word", "char", "bpe", "integer", "quatrain", "quatrain-marks", "pitch", "pitch-rests"]
"""How a corpus can be read; beyond the levels of a `Vocabulary` there are forms of files."""

HUB = "hf:"

_UNIT: dict[str, str] = {
    **{"integer": "word", "pitch": "word", "pitch-rests": "word"},
    **{"quatrain": "char", "quatrain-marks": "char"},
}
"""Level of the vocabulary of what is read at a level, where it has another name."""

_NOT_FOR: dict[str, tuple[str, ...]] = {
    "integer": ("min_count", "lowercase"),
    "quatrain": ("lowercase",),
    "quatrain-marks": ("lowercase",),
    "pitch": ("min_count", "max_vocab", "lowercase", "eos", "test"),
    "pitch-rests": ("min_count", "max_vocab", "lowercase", "eos", "test"),
}


def load_corpus(
    source: str | os.PathLike[str],
    *,
    level: CorpusLevel = "word",
    test: str | os.PathLike[str] | None = None,
    drop_longer: bool = False,
    **options: Any,
) -> Corpus:
    """A corpus from what a command line can say.

    Args:
        source: a file, a folder of MIDI files (level "pitch"), ``hf:NAME[:CONFIG][#COLUMN]``, or a folder that
            `Corpus.to_files` wrote, which is made already and takes no other options (the seed is without effect).
        level: one of `CorpusLevel`.
        test: a file whose lines are the test split.
        drop_longer: drop sequences longer than T instead of refusing them; for "quatrain" and "pitch" also poems of
            another form, and MIDI files that cannot be used.
        options: min_count, max_vocab (for "integer": V), sequence_length, lowercase, eos, seed, as those of
            `Corpus.from_text`; None and defaults count as not given.
    """
    if level not in get_args(CorpusLevel):
        known = list(get_args(CorpusLevel))
        raise InputError(f"level must be one of {', '.join(known)}, got {level!r}{did_you_mean(str(level), known)}")
    given = _given(options, test)
    path = os.fspath(source)
    if os.path.isfile(os.path.join(path, "corpus.json")):
        return _saved(path, level, {**given, "drop_longer": drop_longer or None})
    wrong = [option for option in _NOT_FOR.get(level, ()) if option in given]
    if wrong:
        raise InputError(f"{', '.join(wrong)}: not for level {level!r}; leave it out")
    if path.startswith(HUB) and not os.path.exists(path):
        return _hub(path, level, {**given, "drop_longer": drop_longer})
    if level in ("pitch", "pitch-rests"):
        rests = "token" if level == "pitch-rests" else "hold"
        return melodies(path, rests=rests, drop_bad=drop_longer, **given)
    if os.path.isdir(path) or path.lower().endswith(SUFFIXES):
        found = "a directory" if os.path.isdir(path) else "one of music"
        raise InputError(f"text file {path!r}: expected a file, got {found}; MIDI files are read at --level pitch")
    if level == "integer":
        if "max_vocab" in given:
            given["vocab_size"] = given.pop("max_vocab")
        return Corpus.from_integers(path, drop_longer=drop_longer, **given)
    if level in ("quatrain", "quatrain-marks"):
        keep = level == "quatrain-marks"
        return quatrains(path, keep_punctuation=keep, drop_others=drop_longer, drop_longer=drop_longer, **given)
    return Corpus.from_text(path, level=level, drop_longer=drop_longer, **given)  # type: ignore[arg-type]  # narrowed


def _given(options: dict[str, Any], test: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Options that say something: neither None nor the default."""
    defaults = vars(TextOptions())
    for option in options:
        if option not in defaults:
            known = list(defaults)
            raise TypeError(f"unexpected option {option!r}{did_you_mean(option, known)}; known are {', '.join(known)}")
    given = {option: value for option, value in options.items() if value is not None and value != defaults[option]}
    return given if test is None else {**given, "test": test}


def _saved(path: str, level: str, options: dict[str, Any]) -> Corpus:
    """What `Corpus.to_files` wrote; InputError for options, since it has been made with its own."""
    corpus = Corpus.from_files(path)
    own = {"sequence_length": corpus.sequence_length, "seed": options.get("seed")}  # no seed: its splits are made
    wrong = [option for option, value in options.items() if value is not None and value != own.get(option)]
    if wrong:
        made = f"it is made already, with sequence_length={corpus.sequence_length}"
        raise InputError(f"corpus folder {path!r}: {', '.join(wrong)}: {made}; leave it out")
    vocabulary = corpus.vocabulary
    num_ids = {"integer": vocabulary.vocab_size, "pitch": NUM_KEYS, "pitch-rests": NUM_KEYS + 1}.get(level)
    fits = vocabulary.level == _UNIT.get(level, level) and (
        num_ids is None or vocabulary.words == tuple(map(str, range(num_ids)))
    )
    if level != "word" and not fits:
        raise InputError(
            f"corpus folder {path!r}: level {level!r} does not fit it: it has {vocabulary.vocab_size:,} words of level "
            f"{vocabulary.level!r}; leave level out"
        )
    return corpus


def _hub(source: str, level: str, options: dict[str, Any]) -> Corpus:
    """``hf:NAME[:CONFIG][#COLUMN]``."""
    if level not in ("word", "char", "bpe"):
        raise InputError(f"corpus {source!r}: a data set is read at level word, char or bpe, got {level!r}")
    if "test" in options:
        raise InputError(f"corpus {source!r}: a data set has its own test split, or lines held out; leave test out")
    rest, _, column = source.removeprefix(HUB).partition("#")
    name, _, config = rest.partition(":")
    if not name:
        raise InputError(f"corpus {source!r}: expected hf:NAME, hf:NAME:CONFIG or hf:NAME#COLUMN, got no name")
    return from_hub(name, config=config or None, column=column or None, level=level, **options)
