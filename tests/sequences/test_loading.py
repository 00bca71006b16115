"""One door for all sources: each goes to its reader with its options, and what does not fit is refused by name."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import Corpus, CorpusLevel, load_corpus, loading, melodies, quatrains, write_midi

TEXT = "".join(f"the dog number {i} runs again\n" for i in range(30))
POEMS = "".join(f"床前明月{c}，疑是地上霜。举头望明月，低头思故乡。\n" for c in "光影灯火星云")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "test.txt").write_text("the dog sleeps\nthe dog number 3 runs again\n")
    (tmp_path / "ids.txt").write_text("".join(f"{i} {i + 1} 2\n" for i in range(20)))
    (tmp_path / "poems.txt").write_text(POEMS)
    (tmp_path / "tunes").mkdir()
    for i in range(4):
        write_midi(tmp_path / "tunes" / f"{i}.mid", [i, 88, *range(i, i + 40)])
    return tmp_path


CASES: dict[str, tuple[str, Callable[[Path], Corpus]]] = {
    "word": ("text.txt", Corpus.from_text),
    "char": ("text.txt", lambda path: Corpus.from_text(path, level="char")),
    "bpe": ("text.txt", lambda path: Corpus.from_text(path, level="bpe")),
    "integer": ("ids.txt", Corpus.from_integers),
    "quatrain": ("poems.txt", quatrains),
    "quatrain-marks": ("poems.txt", lambda path: quatrains(path, keep_punctuation=True)),
    "pitch": ("tunes", melodies),
    "pitch-rests": ("tunes", lambda path: melodies(path, rests="token")),
}


@pytest.mark.parametrize("level", get_args(CorpusLevel))
def test_each_level_goes_to_its_reader_and_comes_back_from_files(folder: Path, level: CorpusLevel) -> None:
    name, read = CASES[level]
    corpus = load_corpus(folder / name, level=level)
    expected = read(folder / name)
    assert (corpus.content_hash, corpus.name, corpus.report) == (
        expected.content_hash,
        expected.name,
        expected.report,
    )
    corpus.to_files(folder / "saved")
    again = Corpus.from_files(folder / "saved")
    assert (again.content_hash, again.vocabulary) == (corpus.content_hash, corpus.vocabulary)
    others = {load_corpus(folder / CASES[other][0], level=other).content_hash for other in get_args(CorpusLevel)}
    assert len(others) == len(CASES)


CHARACTERS: set[CorpusLevel] = {"char", "quatrain", "quatrain-marks"}
FITS: dict[str, set[CorpusLevel]] = {
    **{"word": {"word"}, "bpe": {"bpe"}, "integer": {"integer"}, **dict.fromkeys(CHARACTERS, CHARACTERS)},
    **{"pitch": {"pitch", "integer"}, "pitch-rests": {"pitch-rests", "integer"}},  # keys are ids
}


@pytest.mark.parametrize("level", get_args(CorpusLevel))
def test_a_corpus_that_was_saved_is_a_source_and_comes_back_as_it_was(folder: Path, level: CorpusLevel) -> None:
    name, read = CASES[level]
    corpus = read(folder / name)
    saved = folder / "saved"
    corpus.to_files(saved)
    same: list[dict[str, Any]] = [{}, {"seed": 5, "sequence_length": corpus.sequence_length}]
    for options in same:
        again = load_corpus(saved, **options)
        assert (again.content_hash, again.name, again.report) == (corpus.content_hash, corpus.name, corpus.report)
    refused: list[dict[str, Any]] = [{"max_vocab": 9}, {"sequence_length": 63}, {"drop_longer": True}, {"test": "x"}]
    for wrong in refused:
        with pytest.raises(
            InputError, match=f"'.*saved': {next(iter(wrong))}: it is made already, with .*; leave it out"
        ):
            load_corpus(saved, **wrong)
    for other in {*get_args(CorpusLevel)} - FITS[level] - {"word"}:
        with pytest.raises(InputError, match=f"level '{other}' does not fit it: .*leave level out"):
            load_corpus(saved, level=other)
    for other in FITS[level]:
        assert load_corpus(saved, level=other).content_hash == corpus.content_hash
    (saved / "corpus.npz").unlink()
    with pytest.raises(InputError, match=r"corpus\.npz': cannot be read"):
        load_corpus(saved)


def test_options_reach_the_reader(folder: Path) -> None:
    text, ids, poems, tunes = (folder / name for name in ("text.txt", "ids.txt", "poems.txt", "tunes"))
    found = load_corpus(text, test=folder / "test.txt", min_count=2, sequence_length=9, lowercase=True, seed=3)
    assert found.report == (
        "1 line dropped from test.txt that also stands in train or valid",
        "28 of 33 training units cut from the vocabulary, now <unk>",
    )
    assert found.sequence_length == 9
    assert load_corpus(text, min_count=None, max_vocab=None, eos="auto").content_hash == load_corpus(text).content_hash
    assert load_corpus(ids, level="integer", max_vocab=50).vocabulary.vocab_size == 50
    assert load_corpus(tunes, level="pitch", sequence_length=10).sequence_length == 10
    poems.write_text(POEMS + "no poem\n")
    assert load_corpus(poems, level="quatrain", drop_longer=True).sequence_length == 20


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("text.txt", {"level": "words"}, r"level must be one of word, char, bpe.*got 'words' .did you mean 'word'"),
        ("tunes", {}, "text file .*: expected a file, got a directory; MIDI files are read at --level pitch"),
        ("tunes/1.mid", {"level": "bpe"}, "expected a file, got one of music"),
        ("tunes", {"level": "pitch", "test": "x", "min_count": 2}, "min_count, test: not for level 'pitch'"),
        ("poems.txt", {"level": "quatrain", "lowercase": True}, "lowercase: not for level 'quatrain'"),
        ("ids.txt", {"level": "integer", "min_count": 2}, "min_count: not for level 'integer'"),
        ("text.txt", {"level": "pitch"}, "MIDI file '.*text.txt': cannot be read"),
        ("nowhere", {"level": "pitch"}, "MIDI file '.*nowhere': cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_corpus(folder / name, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=r"unexpected option 'sead' .did you mean 'seed'"):
        load_corpus(folder / name, sead=1)


def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loading, "from_hub", lambda name, **options: asked.append((name, options)))
    load_corpus("hf:us/words", min_count=2)
    load_corpus("hf:us/words:plain#verse", level="bpe", drop_longer=True)
    plain = {"config": None, "column": None, "level": "word", "drop_longer": False, "min_count": 2}
    assert asked[0] == ("us/words", plain)
    assert asked[1] == ("us/words", {"config": "plain", "column": "verse", "level": "bpe", "drop_longer": True})
    with pytest.raises(InputError, match="expected hf:NAME"):
        load_corpus("hf:#text")
    with pytest.raises(InputError, match="read at level word, char or bpe, got 'pitch'"):
        load_corpus("hf:us/words", level="pitch")
    with pytest.raises(InputError, match="leave test out"):
        load_corpus("hf:us/words", test="x.txt")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_published_splits_are_what_they_should_be(folder: Path) -> None:
    train, test = folder / "text.txt", folder / "test.txt"
    files = {"train": (train, sha256(train)), "test": (test, sha256(test).upper())}
    corpus = Corpus.from_split_files(files, valid_fraction=0)
    assert [len(split) for split in corpus.splits.values()] == [30, 0, 1]
    assert corpus.report == ("1 line dropped from test.txt that also stands in train",)
    assert corpus.content_hash == Corpus.from_text(train, test=test, valid_fraction=0).content_hash
    test.write_text(test.read_text() + " ")
    with pytest.raises(InputError, match=r"test file '.*': expected the SHA-256 '[0-9A-F]{64}', got '.*damaged"):
        Corpus.from_split_files(files)
    with pytest.raises(InputError, match="files must name train, and may name valid and test; got 'test'"):
        Corpus.from_split_files({"test": files["test"]})
    with pytest.raises(InputError, match="got 'train', 'dev'"):
        Corpus.from_split_files({"train": files["train"], "dev": files["test"]})
    with pytest.raises(InputError, match=r"valid file '.*none': no such file"):
        Corpus.from_split_files({"train": files["train"], "valid": (folder / "none", "0")})


def test_lines_in_two_files_leave_the_later_one(folder: Path) -> None:
    for name, lines in {"a": "x y\ny x\n", "b": "x y\nx x\n", "c": "x x\ny x\ny y\n"}.items():
        (folder / name).write_text(lines)
    corpus = Corpus.from_text(folder / "a", valid=folder / "b", test=folder / "c")
    assert [len(split) for split in corpus.splits.values()] == [2, 1, 1]
    assert corpus.report == (
        "1 line dropped from b that also stands in train",
        "2 lines dropped from c that also stand in train or valid",
    )
    assert corpus.content_hash == Corpus.from_lines(["x y", "y x"], ["x y", "x x"], ["x x", "y y"]).content_hash


def test_lines_in_memory() -> None:
    corpus = Corpus.from_lines((f"line {i}" for i in range(20)), name="mine", seed=1)
    assert (corpus.name, sum(map(len, corpus.splits.values()))) == ("mine", 20)
    with pytest.raises(InputError, match=r"mine .valid.: expected at least one line with text"):
        Corpus.from_lines(["a b"], [" "], name="mine")
    with pytest.raises(TypeError, match="unexpected option 'levle'"):
        Corpus.from_lines(["a b"], levle="char")


@settings(max_examples=60)
@given(
    content=st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")),
    whole=st.booleans(),
    level=st.sampled_from(["word", "char", "bpe", "integer", "quatrain", "quatrain-marks"]),
)
def test_any_file_is_a_corpus_or_one_line_of_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, whole: bool, level: CorpusLevel
) -> None:
    """Random bytes alone, and after lines that this level reads."""
    folder = tmp_path_factory.mktemp("any")
    start = {"integer": "1 2\n3 4\n5 6\n7 8\n", "quatrain": POEMS, "quatrain-marks": POEMS}.get(level, TEXT)
    (folder / "file.txt").write_bytes(start.encode() + content if whole else content)
    try:
        corpus = load_corpus(folder / "file.txt", level=level, sequence_length=40, drop_longer=True)
    except InputError as error:
        message = str(error)
    else:
        message = ""
        corpus.to_files(folder / "saved")
        assert Corpus.from_files(folder / "saved").content_hash == corpus.content_hash
    assert "\n" not in message
