"""Data sets of the Hub, by a stand-in for the library `datasets`, which is large: nothing is fetched."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import from_hub, hub


class Rows:
    """The part of ``datasets.Dataset`` that is used: columns of equal length, read in batches."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns
        self.column_names = list(columns)

    def select_columns(self, names: list[str]) -> "Rows":
        return Rows(**{name: self.columns[name] for name in names})

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        for start in range(0, max(map(len, self.columns.values()), default=0), batch_size):
            yield {name: column[start : start + batch_size] for name, column in self.columns.items()}


DATA = {
    "train": Rows(id=list(range(40)), text=[f"word{i % 7} is here\nand word{i} there" for i in range(40)]),
    "validation": Rows(id=[1, 2], text=["word1 is here", "word2 was\r\n\r\nnever here"]),
    "test": Rows(id=[1], text=[""]),
}
NO_SPLITS: dict[str, Any] = {"valid_fraction": 0, "test_fraction": 0}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module ``datasets`` that knows one data set and keeps what it was asked."""
    module: Any = ModuleType("datasets")
    module.__version__ = "5.2.0"
    module.asked = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        module.asked.append((arguments, options))
        if arguments[0] != "us/words":
            raise FileNotFoundError(f"no data set\n{arguments[0]}")
        return DATA

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_data_set_is_read_line_by_line_in_its_own_splits(library: Any) -> None:
    corpus = from_hub("us/words", config="plain", revision="v1")
    assert library.asked == [(("us/words", "plain"), {"revision": "v1"})]  # and never trust_remote_code
    assert corpus.name == "us/words"
    assert corpus.report == (
        "1 empty line skipped in validation",
        "1 line dropped from validation that also stands in train",
    )
    valid = [corpus.vocabulary.decode(tokens_T) for tokens_T in corpus.valid.tokens_NT]
    assert valid == ["word2 <unk>", "<unk> here"]
    assert len(corpus.train) + len(corpus.test) == 80  # the test split is empty, so lines of train are held out
    assert len(corpus.test) > 0


def test_levels_and_other_options_are_those_of_text(library: Any) -> None:
    corpus = from_hub("us/words", level="bpe", max_vocab=270, **NO_SPLITS)
    assert corpus.vocabulary.level == "bpe"
    assert corpus.vocabulary.decode(corpus.train.tokens_NT[0]) == "word0 is here"
    with pytest.raises(TypeError, match="unexpected option 'sed'"):
        from_hub("us/words", sed=1)


def test_splits_that_are_loaded_already_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    corpus = from_hub({"train": Rows(verse=["a b", None, "b a"], number=[1, 2, 3])}, name="verses", **NO_SPLITS)
    assert (corpus.name, len(corpus.train)) == ("verses", 2)
    first_is_missing = Rows(verse=[None, "a b", "b a"], number=[1, 2, 3])
    assert from_hub({"train": first_is_missing}, **NO_SPLITS).content_hash == corpus.content_hash
    with pytest.raises(InputError, match=r"'us/words' needs the library datasets.*pip install 'seqgan_rl\[text\]'"):
        from_hub("us/words")


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ({"test": Rows(text=["a"])}, {}, "expected a split named train, got test"),
        ({"train": Rows(a=["x y"], b=["y x"])}, {}, "got more than one among a, b; name column"),
        ({"train": Rows(a=[1], b=[2])}, {}, "expected one column of text, got none among a, b"),
        (
            Rows(text=["a b"]),
            {},
            "expected a name, or splits by name .*got Rows; give one split as",
        ),
        ({"train": Rows(a=["x y"])}, {"column": "c"}, "got no 'c' among a"),
        ({"train": Rows(a=[1])}, {"column": "a"}, "column 'a' must hold text, got int"),
        ({"train": Rows(text=[])}, {}, "at least one line with text in it, got none"),
        ({"train": Rows(text=["", " \n"])}, {}, "split train: expected at least one line with text"),
        ({"train": Rows(text=["a b"])}, {}, "at least 3 distinct lines are needed to split"),
        ({"train": Rows(text=["a \ud800"])}, {}, "half of a character"),
    ],
)
def test_bad_data_is_refused_in_one_line(data: Any, options: dict[str, Any], words: str) -> None:
    fractions: dict[str, Any] = {} if "distinct" in words else NO_SPLITS
    with pytest.raises(InputError, match=words) as caught:
        from_hub(data, **options, **fractions)
    assert "\n" not in str(caught.value)


def test_too_much_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_TEXT_BYTES", 100)
    with pytest.raises(InputError, match="more than 100 characters; save a part of it"):
        from_hub(DATA)


def test_errors_of_the_library_are_one_line_each(library: Any) -> None:
    with pytest.raises(InputError, match=r"'us/none': cannot be loaded .FileNotFoundError: no data set us/none"):
        from_hub("us/none")
    library.load_dataset = lambda *_, **__: [1]
    with pytest.raises(InputError, match="expected splits by name, got list"):
        from_hub("us/words")
    for version in ("2.14.0", "", "x"):
        library.__version__ = version
        with pytest.raises(InputError, match=r"version 4 or later, which runs no.*got '"):
            from_hub("us/words")
