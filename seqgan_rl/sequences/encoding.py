"""Lines of text become ids in splits over one vocabulary, which knows the training lines only.

Words and characters are cut first, so that a line's length is known before anything is held out: lines of more than T
units take no part. Byte-pair pieces are learned from the training lines, so there the split comes first and a line
that turns out too long leaves it afterwards.
Letters: T tokens a sequence.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line
from seqgan_rl.sequences.lines import (
    LONGEST_DEFAULT,
    Source,
    TextOptions,
    count_text,
    split_sources,
)
from seqgan_rl.sequences.vocabulary import SEPARATOR, UNK, Level, Vocabulary, split_units


@dataclass(frozen=True)
class EncodedLines:
    """Ids of the lines of each split, without EOS and PAD."""

    ids_of: "dict[str, list[array[int]]]"
    vocabulary: Vocabulary
    sequence_length: int


def encode_sources(
    sources: dict[str, Source], options: TextOptions, report: list[str], vocabulary: Vocabulary | None = None
) -> EncodedLines:
    """Split and encode lines; ``vocabulary`` is learned from the training lines unless given. InputError for lines
    that are too long or too few, and what was left out is added to ``report``."""
    if options.level == "bpe":
        return _encode_pieces(sources, options, report)
    return _encode_units(sources, options, report, vocabulary)


def _encode_units(
    sources: dict[str, Source], options: TextOptions, report: list[str], vocabulary: Vocabulary | None
) -> EncodedLines:
    level, label = options.level, sources["train"].label
    sources = {split: replace(source, lines=_cut(source.lines, options)) for split, source in sources.items()}
    T = _fit_sequence_length(sources, options)
    sources = {split: _keep_usable(source, level, T, report) for split, source in sources.items()}
    lines_of = split_sources(sources, options, report)
    shortest = min(_num_units(line, level) for line in chain.from_iterable(lines_of.values()))
    has_eos = _needs_eos(options.eos, shortest, T)
    if vocabulary is None:
        try:
            vocabulary = _build(lines_of, options, has_eos, report)
        except InputError as error:
            raise InputError(f"{label}: {one_line(error)}") from None
    else:
        vocabulary = replace(vocabulary, has_eos=has_eos)
    kind = "H" if vocabulary.vocab_size <= 2**16 else "i"
    ids_of = {
        split: [array(kind, vocabulary.encode_units(_units(line, level))) for line in lines]
        for split, lines in lines_of.items()
    }
    return EncodedLines(ids_of, vocabulary, T)


def _cut(lines: Iterable[str], options: TextOptions) -> list[str]:
    """Lines whose units stand apart by the level's separator."""
    level, lowercase, split_punctuation = options.level, options.lowercase, options.split_punctuation
    return [
        SEPARATOR[level].join(split_units(line, level=level, lowercase=lowercase, split_punctuation=split_punctuation))
        for line in lines
    ]


def _units(line: str, level: Level) -> list[str]:
    """The units of a line that was cut and joined again: empty text has none."""
    return list(line) if level == "char" else line.split(" ")


def _num_units(line: str, level: Level) -> int:
    return len(line) if level == "char" else line.count(" ") + 1


def _build(lines_of: dict[str, list[str]], options: TextOptions, has_eos: bool, report: list[str]) -> Vocabulary:
    """The vocabulary of the training lines, with UNK where held-out text needs it."""
    level = options.level

    def units(*names: str) -> Iterable[list[str]]:
        return (_units(line, level) for name in names for line in lines_of[name])

    train_units = set(chain.from_iterable(units("train")))
    vocabulary = Vocabulary.build(
        units("train"),
        level=level,
        min_count=options.min_count,
        max_vocab=options.max_vocab,
        has_eos=has_eos,
        unk=not train_units.issuperset(chain.from_iterable(units("valid", "test"))),
        lowercase=options.lowercase,
        split_punctuation=options.split_punctuation,
    )
    num_cut = len(train_units - set(vocabulary.words))
    if num_cut:
        report.append(f"{num_cut:,} of {len(train_units):,} training units cut from the vocabulary, now {UNK}")
    return vocabulary


def _fit_sequence_length(sources: dict[str, Source], options: TextOptions) -> int:
    """T: as asked, or the longest line up to `LONGEST_DEFAULT`; InputError for a longer line unless it is dropped."""
    level = options.level
    longest = max(_num_units(line, level) for source in sources.values() for line in source.lines)
    T = options.sequence_length or max(2, min(longest, LONGEST_DEFAULT))
    if longest > T and not options.drop_longer:
        label, number, length = next(
            (source.label, number, _num_units(line, level))
            for source in sources.values()
            for number, line in enumerate(source.lines, start=1)
            if _num_units(line, level) > T
        )
        raise InputError(_too_long_text(f"{label}: line {number}", length, level, T, longest))
    return T


def _too_long_text(where: str, length: int, level: Level, T: int, longest: int) -> str:
    return (
        f"{where} has {length} units (level {level}), more than sequence_length={T}; "
        f"allow longer lines with --sequence-length (the longest has {longest}) or drop them with --drop-longer"
    )


def _keep_usable(source: Source, level: Level, T: int, report: list[str]) -> Source:
    """The lines of 1 to T units; what goes is reported."""
    filled = _skip_blank(source, report)
    kept = [line for line in filled if _num_units(line, level) <= T]
    _report_dropped(len(filled) - len(kept), T, source.name, report)
    if not kept:
        raise _nothing_left(source.label, T)
    return replace(source, lines=kept)


def _skip_blank(source: Source, report: list[str]) -> list[str]:
    filled = [line for line in source.lines if line and not line.isspace()]
    if len(filled) < len(source.lines):
        report.append(f"{count_text(len(source.lines) - len(filled), 'empty line')} skipped in {source.name}")
    return filled


def _report_dropped(number: int, T: int, name: str, report: list[str]) -> None:
    if number:
        report.append(f"{count_text(number, 'line')} of more than {T} units dropped from {name}")


def _nothing_left(label: str, T: int) -> InputError:
    return InputError(f"{label}: no line has at most {T} units; raise --sequence-length or choose another --level")


def _needs_eos(eos: str, shortest: int, T: int) -> bool:
    """Whether sequences end by EOS; InputError where they would have to and must not."""
    if eos == "always":
        return True
    if eos == "never" and shortest < T:
        raise InputError(
            f"eos='never' needs every line to have exactly sequence_length={T} units, got one of {shortest}; "
            "use --eos auto"
        )
    return shortest < T


def _encode_pieces(sources: dict[str, Source], options: TextOptions, report: list[str]) -> EncodedLines:
    """Byte-pair pieces: lines keep their white space, and there is no UNK."""
    label = sources["train"].label
    sources = {split: replace(source, lines=_skip_blank(source, report)) for split, source in sources.items()}
    for source in sources.values():
        if not source.lines:
            raise InputError(f"{source.label}: expected one sequence a line, got empty lines only")
    if options.lowercase:
        sources = {s: replace(source, lines=[line.lower() for line in source.lines]) for s, source in sources.items()}
    lines_of = split_sources(sources, options, report)
    vocabulary = Vocabulary.learn_pieces(
        lines_of["train"], max_vocab=options.max_vocab, min_count=options.min_count, lowercase=options.lowercase
    )
    ids_of = {split: list(vocabulary.encode_lines(lines)) for split, lines in lines_of.items()}
    longest = max(map(len, chain.from_iterable(ids_of.values())))
    T = options.sequence_length or max(2, min(longest, LONGEST_DEFAULT))
    for split, ids in ids_of.items():
        kept = [line_ids for line_ids in ids if len(line_ids) <= T]
        if len(kept) < len(ids) and not options.drop_longer:
            i = next(i for i in range(len(ids)) if len(ids[i]) > T)
            where = f"{label}: the line {lines_of[split][i][:40]!r} of {split}"
            raise InputError(_too_long_text(where, len(ids[i]), "bpe", T, longest))
        if ids and not kept:
            raise _nothing_left(f"{label}, split {split}", T)
        _report_dropped(len(ids) - len(kept), T, split, report)
        ids_of[split] = kept
    shortest = min(map(len, chain.from_iterable(ids_of.values())))
    return EncodedLines(ids_of, replace(vocabulary, has_eos=_needs_eos(options.eos, shortest, T)), T)
