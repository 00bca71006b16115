"""Quatrains: poems of four verses of 5 or 7 characters each, one poem a line of the file.

The paper (Yu et al., arXiv:1609.05473, Section 5) has 16,394 Chinese quatrains of "four lines of twenty characters in
total", one token a character. Here a verse is what stands between two marks (punctuation of any script, Unicode
category P; a symbol such as □, which stands for an illegible character, belongs to its verse). White space counts
nowhere, so files with a space between characters are read too. A line without any mark is cut into four equal verses.
Without the marks, as in the paper, a quatrain has 20 or 28 tokens; with them 24 or 32.
"""

import os
import unicodedata
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences.corpus import Corpus
from seqgan_rl.sequences.lines import Source, TextOptions, count_text, read_source

VERSES = 4
VERSE_LENGTHS = (5, 7)


def quatrains(
    path: str | os.PathLike[str],
    *,
    keep_punctuation: bool = False,
    drop_others: bool = False,
    valid: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    name: str | None = None,
    **options: Any,
) -> Corpus:
    """A corpus of quatrains at level "char" from a UTF-8 file, one poem a line.

    Args:
        path: the file; empty lines are skipped.
        keep_punctuation: whether marks are tokens too, or dropped as in the paper.
        drop_others: leave out and report lines that are no quatrains, instead of refusing the file.
        valid: likewise, the validation split; else a share of the lines is held out.
        test: likewise, the test split.
        name: what to call the corpus; by default the file's stem.
        options: as those of `Corpus.from_text`, without level, lowercase and split_punctuation.
    """
    for option in ("level", "lowercase", "split_punctuation"):
        if option in options:
            raise InputError(f"{option}: poems are read character by character; leave {option} out")
    checked = TextOptions.of({**options, "level": "char"})
    sources: dict[str, Source] = {}
    report: list[str] = []
    for split, file in (("train", path), ("valid", valid), ("test", test)):
        if file is not None:
            source = read_source(file, "poem file")
            sources[split] = _poems_only(source, keep_punctuation, drop_others, report)
    corpus = Corpus.from_sources(sources, checked, Path(path).stem if name is None else name)
    return replace(corpus, report=(*report, *corpus.report))


def verses(line: str) -> tuple[str, ...]:
    """What stands between the marks of a line, without white space; four equal parts where there is no mark.

    >>> verses("床前明月光，疑是地上霜。 举头望明月，低头思故乡。")
    ('床前明月光', '疑是地上霜', '举头望明月', '低头思故乡')
    """
    text = "".join(line.split())
    parts = tuple("".join(group) for is_mark, group in groupby(text, _is_mark) if not is_mark)
    if len(parts) == 1 and len(text) == len(parts[0]) and len(text) % VERSES == 0:
        size = len(text) // VERSES
        parts = tuple(text[i * size : (i + 1) * size] for i in range(VERSES))
    return parts


def is_quatrain(parts: tuple[str, ...]) -> bool:
    """Whether verses are four of one length, 5 or 7."""
    return len(parts) == VERSES and len({*map(len, parts)}) == 1 and len(parts[0]) in VERSE_LENGTHS


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "P"


def _poems_only(source: Source, keep_punctuation: bool, drop_others: bool, report: list[str]) -> Source:
    """Each quatrain as one line of characters; InputError for other lines unless they are dropped."""
    lines, num_others = [], 0
    for number, line in enumerate(source.lines, start=1):
        parts = verses(line)
        if not parts or is_quatrain(parts):
            lines.append("".join(line.split()) if keep_punctuation and parts else "".join(parts))
        elif drop_others:
            num_others += 1
        else:
            found = f"{len(parts)} of {', '.join(str(len(part)) for part in parts[:8])}"
            raise InputError(
                f"{source.label}: line {number}: expected {VERSES} verses of {' or '.join(map(str, VERSE_LENGTHS))} "
                f"characters, all of one length, got {found}; leave such lines out with drop_others=True"
            )
    if not any(lines):
        raise InputError(f"{source.label}: no line is a quatrain; one poem a line, its verses between marks, is needed")
    if num_others:
        report.append(f"{count_text(num_others, 'line')} of other forms than quatrains dropped from {source.name}")
    return replace(source, lines=lines)
