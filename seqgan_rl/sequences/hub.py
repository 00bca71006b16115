"""Data sets of the Hugging Face Hub as corpora, by name, where the library `datasets` is installed (extra ``text``).

A row's text is cut at line ends, one sequence a line, as in a text file. A data set's own loading script is never run:
from version 4 on the library cannot, and older ones are refused. What is fetched, and where it is kept, is the
library's affair (``HF_HOME``, ``HF_HUB_OFFLINE``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line
from seqgan_rl.sequences.corpus import Corpus
from seqgan_rl.sequences.extras import needed
from seqgan_rl.sequences.lines import MAX_TEXT_BYTES, SPLITS, Source, TextOptions, split_lines

SPLIT_NAMES = {"train": ("train",), "valid": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What data sets call our splits."""

_ROWS = 1_000
_FIRST_ROWS = 32
"""So many tell which column holds text: some data sets have images beside it."""


def from_hub(
    dataset: str | Mapping[str, Any],
    *,
    config: str | None = None,
    column: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    **options: Any,
) -> Corpus:
    """A corpus from a data set of the Hugging Face Hub.

    Args:
        dataset: its name, such as "roneneldan/TinyStories"; or one that is loaded already, a ``DatasetDict``.
        config: which of its configurations, where it has several.
        column: which column holds the text; by default "text", or the only one of strings.
        revision: a commit or tag of the data set: name one, and the corpus stays the same.
        name: what to call the corpus; by default the data set's name.
        options: as those of `Corpus.from_text`, without valid and test: the data set's own validation and test splits
            are taken where it has them, else lines of train are held out.
    """
    checked = TextOptions.of(options)
    if isinstance(dataset, str):
        found, label = _load(dataset, config, revision), dataset
    elif isinstance(dataset, Mapping):
        found, label = dataset, "data set"
    else:
        raise InputError(
            f"dataset: expected a name, or splits by name as a DatasetDict has, got {type(dataset).__name__}; "
            'give one split as {"train": dataset}'
        )
    sources = {}
    for split in SPLITS:
        theirs = next((known for known in SPLIT_NAMES[split] if known in found), None)
        if theirs is not None:
            where = f"data set {label!r}, split {theirs}"
            sources[split] = Source(where, theirs, _lines(found[theirs], column, where))
    if "train" not in sources:
        raise InputError(f"data set {label!r}: expected a split named train, got {', '.join(map(str, found))[:200]}")
    for split in [split for split in sources if split != "train" and not any(map(str.strip, sources[split].lines))]:
        del sources[split]  # some data sets have a split of empty rows
    if not any(map(str.strip, sources["train"].lines)):
        raise InputError(f"{sources['train'].label}: expected at least one line with text in it, got none")
    own = {f"{split}_fraction": 0.0 for split in sources if split != "train"}
    return Corpus.from_sources(sources, replace(checked, **own), label if name is None else name)  # type: ignore[arg-type]


def _load(name: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    library = needed("datasets", "text", f"the data set {name!r}")
    version = str(getattr(library, "__version__", ""))
    if not version.partition(".")[0].isdecimal() or int(version.partition(".")[0]) < 4:
        raise InputError(
            f"data set {name!r}: expected the library datasets of version 4 or later, which runs no code of a data "
            f"set, got {version[:20]!r}; upgrade it with: pip install 'datasets>=4'"
        )
    try:
        found = library.load_dataset(name, config, revision=revision)
    except Exception as error:  # network, names, configurations, formats: the library has many errors
        raise InputError(
            f"data set {name!r}: cannot be loaded ({type(error).__name__}: {one_line(error)}); check its name and "
            "config, and the connection or HF_HUB_OFFLINE"
        ) from None
    if not isinstance(found, Mapping):
        raise InputError(f"data set {name!r}: expected splits by name, got {type(found).__name__}")
    return found


def _lines(rows: Any, column: str | None, where: str) -> list[str]:
    """The lines of a column of text, up to `MAX_TEXT_BYTES` of them."""
    column = _column(rows, column, where)
    lines: list[str] = []
    size = 0
    for text in _texts(rows, column):
        if not isinstance(text, str):
            if text is None:
                continue
            raise InputError(f"{where}: column {column!r} must hold text, got {type(text).__name__}; name another")
        size += len(text) + 1
        if size > MAX_TEXT_BYTES:
            raise InputError(f"{where}: it holds more than {MAX_TEXT_BYTES:,} characters; save a part of it as text")
        lines += split_lines(text)
    return lines


def _texts(rows: Any, column: str) -> Iterable[Any]:
    for batch in rows.select_columns([column]).iter(batch_size=_ROWS):
        yield from batch[column]


def _column(rows: Any, column: str | None, where: str) -> str:
    """The column that is asked for, or "text", or the only one whose first values, missing ones apart, are strings."""
    names = [str(name) for name in rows.column_names]
    if column is None:
        first: Mapping[str, Any] = next(iter(rows.select_columns(names).iter(batch_size=_FIRST_ROWS)), {})
        strings = [name for name in names if isinstance(_first_value(first.get(name, ())), str)]
        column = "text" if "text" in names else strings[0] if len(strings) == 1 else None
    if column not in names:
        got = f"no {column!r}" if column is not None else "more than one" if strings else "none"
        raise InputError(f"{where}: expected one column of text, got {got} among {', '.join(names)[:200]}; name column")
    return column


def _first_value(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)
