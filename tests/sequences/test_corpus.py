"""The corpus: splits that never share a line, the same every time, and a clear word for every bad file."""

import json
import time
import zipfile
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import UNK, Corpus, Split

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write("a b\\nc d")``: path of a file with this text or these bytes."""

    def write_file(content: str | bytes, name: str = "text.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write_file


def texts(corpus: Corpus, split: str) -> list[str]:
    return [corpus.vocabulary.decode(tokens_T) for tokens_T in corpus.splits[split].tokens_NT]


def numbered(n: int) -> str:
    """Lines that differ in one word each."""
    return "".join(f"line number w{i}\n" for i in range(n))


small_lines = st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(" ".join), max_size=30)


@given(lines=small_lines, level=st.sampled_from(["word", "char"]), seed=st.integers(0, 5), fraction=st.floats(0, 0.3))
def test_splits_are_whole_and_disjoint(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], level: Any, seed: int, fraction: float
) -> None:
    """Three known units in every line, so no UNK: different lines have different ids, and text comes back exactly."""
    lines = ["a b c", "b c a", "c a b", "a c b", *lines]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines))
    corpus = Corpus.from_text(path, level=level, seed=seed, valid_fraction=fraction, test_fraction=fraction)
    found = {name: texts(corpus, name) for name in corpus.splits}
    assert sorted(chain.from_iterable(found.values())) == sorted(filter(None, lines))
    for a, b in combinations(found, 2):
        assert set(found[a]).isdisjoint(found[b])
    assert bool(found["valid"]) == bool(found["test"]) == (fraction > 0)


@given(
    lines=st.lists(st.text(max_size=12), max_size=30),
    level=st.sampled_from(["word", "char"]),
    lowercase=st.booleans(),
    split_punctuation=st.booleans(),
)
def test_any_text_makes_a_valid_corpus_and_the_same_one_again(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], level: Any, lowercase: bool, split_punctuation: bool
) -> None:
    folder = tmp_path_factory.mktemp("text")
    path = folder / "text.txt"
    path.write_bytes("\n".join([*numbered(8).split("\n"), *lines]).replace("\0", "").encode("utf-8"))
    read = path.read_text(encoding="utf-8").split("\n")
    first, again = (
        Corpus.from_text(path, level=level, lowercase=lowercase, split_punctuation=split_punctuation) for _ in range(2)
    )
    assert sum(map(len, first.splits.values())) == sum(bool(line.strip()) for line in read)
    assert first.content_hash == again.content_hash
    first.to_files(folder)
    assert Corpus.from_files(folder).content_hash == first.content_hash


def test_text_comes_back_in_the_order_of_the_file(write: Write) -> None:
    corpus = Corpus.from_text(write("A dog runs.\n\n  the cat\r\nA dog runs.\n"), valid_fraction=0, test_fraction=0)
    assert texts(corpus, "train") == ["A dog runs .", "the cat", "A dog runs ."]
    assert corpus.train.lengths_N.tolist() == [4, 3, 4]  # EOS counts; a line of exactly T words has none
    assert corpus.vocabulary.eos_id == 6
    assert corpus.report == ("1 empty line skipped in text.txt",)
    assert len(corpus.valid) == len(corpus.test) == 0


def test_copies_of_a_line_fall_in_one_split(write: Write) -> None:
    corpus = Corpus.from_text(write(numbered(40) * 3), valid_fraction=0.25, test_fraction=0.25)
    assert [len(split) for split in corpus.splits.values()] == [60, 30, 30]
    seen = [set(texts(corpus, name)) for name in corpus.splits]
    unknown = f"line number {UNK}"
    assert all((a & b) <= {unknown} for a, b in combinations(seen, 2))
    assert corpus.unk_rate["train"] == 0.0
    assert corpus.unk_rate["valid"] == pytest.approx(1 / 3)


def test_another_seed_holds_out_other_lines(write: Write) -> None:
    path = write(numbered(40))
    assert Corpus.from_text(path, seed=1).content_hash == Corpus.from_text(path, seed=1).content_hash
    assert Corpus.from_text(path, seed=1).content_hash != Corpus.from_text(path, seed=2).content_hash


def test_a_test_file_loses_the_lines_that_stand_elsewhere(write: Write) -> None:
    test = write("line number w3\nnew line\nline number w3.\nline number w5\n", "held.txt")
    corpus = Corpus.from_text(write(numbered(9)), test=test, valid_fraction=0.2)
    assert texts(corpus, "test") == [f"{UNK} line", f"line number w3 {UNK}"]
    assert len(corpus.train) == 7
    assert len(corpus.valid) == 2
    assert corpus.report == ("2 lines dropped from held.txt that also stand in train or valid",)


def test_the_vocabulary_knows_train_only(write: Write) -> None:
    corpus = Corpus.from_text(write("a b\nb a\n"), test=write("c a\n", "held.txt"), valid_fraction=0)
    assert corpus.vocabulary.words == ("a", "b", UNK)
    assert corpus.unk_rate == {"train": 0.0, "valid": 0.0, "test": 0.5}


def test_cut_units_are_reported(write: Write) -> None:
    corpus = Corpus.from_text(write("a a b\nb a c\n"), min_count=2, valid_fraction=0, test_fraction=0)
    assert corpus.report == (f"1 of 3 training units cut from the vocabulary, now {UNK}",)
    assert corpus.unk_rate["train"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("text", "options", "has_eos"),
    [
        ("a b\nb a", {}, False),
        ("a b\nb", {}, True),
        ("a b\nb a", {"sequence_length": 3}, True),
        ("a b\nb a", {"eos": "always"}, True),
        ("a b\nb a", {"eos": "never"}, False),
        ("a\nb", {}, True),  # T is at least 2
    ],
)
def test_eos_is_there_when_some_line_does_not_fill_T(
    write: Write, text: str, options: dict[str, Any], has_eos: bool
) -> None:
    corpus = Corpus.from_text(write(text), valid_fraction=0, test_fraction=0, **options)
    assert corpus.vocabulary.has_eos is has_eos
    assert texts(corpus, "train") == text.split("\n")


def test_longer_lines_are_dropped_when_asked(write: Write) -> None:
    corpus = Corpus.from_text(
        write("a b\n" + "a " * 65 + "\nb\n"), drop_longer=True, valid_fraction=0, test_fraction=0, sequence_length=3
    )
    assert texts(corpus, "train") == ["a b", "b"]
    assert corpus.report == ("1 line of more than 3 units dropped from text.txt",)


def test_characters_keep_inner_spaces(write: Write) -> None:
    corpus = Corpus.from_text(write("\ufeffab c\nc ba\n"), level="char", valid_fraction=0, test_fraction=0)
    assert corpus.vocabulary.words == (" ", "a", "b", "c")
    assert texts(corpus, "train") == ["ab c", "c ba"]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"", {}, "text.txt': expected one sequence a line, got an empty file"),
        (b" \n\t\n", {}, "empty file"),
        (b"a b\n\0\1", {}, "binary file.*byte offset 4"),
        (b"\xef\xbb\xbfa b\nc\xffd\n", {}, r"UTF-8 text, got the byte 0xff at byte offset 8.*iconv"),
        (b"a\xc3", {}, "byte 0xc3 at byte offset 1"),
        (b"a a\na\n", {"valid_fraction": 0, "test_fraction": 0}, "at least 2 words"),
        (b"a b\nb a\n", {}, r"at least 3 distinct lines are needed to split.*got 2.*valid_fraction=0"),
        (b"a\n" + b"a b\n" * 9, {"sequence_length": 1}, "sequence_length must be at least 2, got 1"),
        (b"b\n" + b"a " * 70, {}, r"line 2 has 70 units.*sequence_length=64.*--sequence-length.*70.*--drop-longer"),
        (b"a " * 70, {"level": "char"}, "line 1 has 139 units .level char"),
        (b"a b c", {"sequence_length": 2, "drop_longer": True}, "no line has at most 2 units"),
        (b"a b", {"sequence_length": -3}, "sequence_length must be at least 2, got -3"),
        (b"a b", {"min_count": 0}, "min_count must be at least 1, got 0"),
        (b"a b", {"max_vocab": -1}, "max_vocab must be at least 2, got -1"),
        (b"a b", {"valid_fraction": 1.0}, r"valid_fraction must lie in \[0, 1\), got 1.0"),
        (b"a b", {"test_fraction": -0.1}, "test_fraction must lie in"),
        (b"a b", {"test_fraction": float("nan")}, "test_fraction must lie in.*nan"),
        (b"a b", {"valid_fraction": 0.5, "test_fraction": 0.5}, "must be less than 1, got 0.5 . 0.5"),
        (b"a b", {"level": "byte"}, "level must be one of word, char, bpe, got 'byte'"),
        (b"a b", {"eos": "maybe"}, "eos must be one of auto, always, never, got 'maybe'"),
        (b"a b", {"seed": -1}, "seed must be at least 0, got -1"),
        (
            b"a b\nb",
            {"eos": "never", "valid_fraction": 0, "test_fraction": 0},
            "eos='never' needs every line.*sequence_length=2 units",
        ),
    ],
)
def test_bad_text_and_options_are_refused_in_one_line(
    write: Write, content: bytes, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Corpus.from_text(write(content), **options)
    assert "\n" not in str(caught.value)


def test_bad_paths_are_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt': no such file; check the path"):
        Corpus.from_text(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="expected a file, got a directory"):
        Corpus.from_text(tmp_path)
    text = write(numbered(9))
    with pytest.raises(InputError, match=r"nowhere\.txt': no such file"):
        Corpus.from_text(text, test=tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="every line also stands in train or valid"):
        Corpus.from_text(text, test=text)  # "test" scores on training data are refused
    with pytest.raises(InputError, match="built-in corpora are proverbs, got 'psalms'"):
        Corpus.builtin("psalms")


def test_the_builtin_corpus_is_ready_to_use() -> None:
    corpus = Corpus.builtin()
    assert corpus.name == "proverbs"
    assert corpus.sequence_length <= 60
    assert sum(map(len, corpus.splits.values())) == 3595
    assert not corpus.report
    assert "The fear of the LORD is the beginning of knowledge : but fools despise wisdom and instruction ." in (
        text for name in corpus.splits for text in texts(corpus, name)
    )


def test_arrays_become_a_corpus_and_lose_overlap() -> None:
    train, valid, test = [[0, 1], [2, 2], [0, 1]], [[2, 2], [1, 0]], [[0, 1], [1, 0], [2, 0]]
    corpus = Corpus.from_arrays(train, valid, test, vocab_size=3)
    assert corpus.vocabulary.words == ("0", "1", "2")
    assert [split.tokens_NT.tolist() for split in corpus.splits.values()] == [train, [[1, 0]], [[2, 0]]]
    assert corpus.report == (
        "1 sequence dropped from valid that also stands in train",
        "2 sequences dropped from test that also stand in train or valid",
    )
    whole = Corpus.from_arrays(train, valid, test, vocab_size=3, drop_overlap=False)
    assert [len(split) for split in whole.splits.values()] == [3, 2, 3]
    assert whole.report == ()
    variable = Corpus.from_arrays([[0, 1], [3, 4], [2, 3]], vocab_size=3, has_eos=True)
    assert variable.train.lengths_N.tolist() == [2, 1, 2]


def test_bad_arrays_are_refused() -> None:
    with pytest.raises(InputError, match="vocab_size must be at least 2, got 1"):
        Corpus.from_arrays([[0, 0]], vocab_size=1)
    with pytest.raises(InputError, match="sequence_length must be at least 2, got 1"):
        Corpus.from_arrays([[0], [1]], vocab_size=2)
    with pytest.raises(ValueError, match="got 7 at sequence 0, position 1"):
        Corpus.from_arrays([[0, 7]], vocab_size=3)
    with pytest.raises(InputError, match=r"test must have shape \(N, 2\)"):
        Corpus.from_arrays([[0, 1]], None, [[0, 1, 1]], vocab_size=2)
    with pytest.raises(InputError, match="without EOS every sequence must fill T=2"):
        Corpus.from_arrays([[0, 2], [0, 1]], vocab_size=2)
    with pytest.raises(InputError, match="train must hold at least one sequence"):
        Corpus.from_arrays(np.empty((0, 3), int), vocab_size=2)


def test_nothing_in_a_corpus_can_be_changed() -> None:
    ids = np.array([[0, 1], [1, 0]])
    corpus = Corpus.from_arrays(ids, vocab_size=2)
    ids[0, 0] = 1
    assert corpus.train.tokens_NT[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        corpus.train.tokens_NT[0, 0] = 1
    with pytest.raises(AttributeError):
        corpus.sequence_length = 3  # type: ignore[misc]


def test_the_hash_changes_with_content_and_not_with_the_name() -> None:
    base = Corpus.from_arrays([[0, 1], [1, 0]], [[1, 1]], vocab_size=2)
    assert base.content_hash == Corpus.from_arrays([[0, 1], [1, 0]], [[1, 1]], vocab_size=2, name="x").content_hash
    others = [
        Corpus.from_arrays([[0, 1], [1, 1]], [[1, 0]], vocab_size=2),
        Corpus.from_arrays([[0, 1]], [[1, 0], [1, 1]], vocab_size=2),
        Corpus.from_arrays([[0, 1], [1, 0]], None, [[1, 1]], vocab_size=2),
        Corpus.from_arrays([[0, 1], [1, 0]], [[1, 1]], vocab_size=3),
        Corpus.from_arrays([[0, 1], [1, 0]], [[1, 1]], vocab_size=2, has_eos=True),
    ]
    assert len({base.content_hash, *(corpus.content_hash for corpus in others)}) == 6


@pytest.fixture
def saved(tmp_path: Path, write: Write) -> tuple[Corpus, Path]:
    corpus = Corpus.from_text(write(numbered(20) + "\nthe last one\n"), min_count=2)
    corpus.to_files(tmp_path / "corpus")
    return corpus, tmp_path / "corpus"


def test_files_round_trip(saved: tuple[Corpus, Path]) -> None:
    corpus, folder = saved
    again = Corpus.from_files(folder)
    assert again.content_hash == corpus.content_hash
    assert again.vocabulary == corpus.vocabulary
    assert (again.name, again.report, again.unk_rate) == (corpus.name, corpus.report, corpus.unk_rate)
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", "corpus.npz"]


def damage_pickle(folder: Path) -> None:
    arrays = dict(np.load(folder / "corpus.npz"))
    arrays["train_tokens"] = np.array([{"an": "object"}])
    np.savez(folder / "corpus.npz", **arrays)


def damage_compress(folder: Path) -> None:
    with zipfile.ZipFile(folder / "corpus.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_tokens.npy", bytes(10_000))


def damage_facts(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        facts = json.loads((folder / "corpus.json").read_text())
        (folder / "corpus.json").write_text(json.dumps({**facts, **changes}))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "corpus.npz").unlink(), "corpus.npz': cannot be read.*No such file.*to_files"),
        (lambda folder: (folder / "corpus.npz").write_bytes(b"garbage"), "corpus.npz': cannot be read.*not a zip"),
        (damage_pickle, "corpus.npz': cannot be read.*allow_pickle=False"),
        (damage_compress, "corpus.npz': cannot be read.*compressed"),
        (lambda folder: np.savez(folder / "corpus.npz", x=np.zeros(2)), "corpus.npz': cannot be read.*train_tokens"),
        (lambda folder: (folder / "corpus.json").unlink(), "corpus.json': cannot be read.*No such file"),
        (lambda folder: (folder / "corpus.json").write_bytes(b"\xff{"), "corpus.json': cannot be read"),
        (lambda folder: (folder / "corpus.json").write_text("[" * 100_000), "corpus.json': cannot be read"),
        (lambda folder: (folder / "corpus.json").write_text("[1]"), "expected an object with format_version"),
        (damage_facts(sequence_length=True), "expected an object"),
        (damage_facts(sequence_length=7), r"train must have shape \(N, 7\)"),
        (damage_facts(format_version=99), "expected format_version 1, got 99"),
        (damage_facts(vocabulary={}), "vocabulary: expected an object"),
        (damage_facts(content_hash="0"), "expected content with the hash '0'.*make them again"),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    saved: tuple[Corpus, Path], damage: Callable[[Path], object], words: str
) -> None:
    folder = saved[1]
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        Corpus.from_files(folder)
    assert "\n" not in str(caught.value)


def test_any_damage_to_the_arrays_is_an_input_error(saved: tuple[Corpus, Path]) -> None:
    """Truncated anywhere, or with any byte changed, a file loads as what it was or is refused; it never crashes."""
    corpus, folder = saved
    path = folder / "corpus.npz"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:size] for size in range(0, len(whole), 97)]
    for i in rng.integers(len(whole), size=300):
        damaged.append(whole[:i] + bytes([whole[i] ^ int(rng.integers(1, 256))]) + whole[i + 1 :])
    messages = []
    for content in damaged:
        path.write_bytes(content)
        try:
            assert Corpus.from_files(folder).content_hash == corpus.content_hash
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > len(damaged) / 2
    assert not any("\n" in message for message in messages)


def test_arrays_of_the_wrong_type_are_refused(saved: tuple[Corpus, Path]) -> None:
    arrays = dict(np.load(saved[1] / "corpus.npz"))
    arrays["valid_tokens"] = arrays["valid_tokens"].astype(float)
    np.savez(saved[1] / "corpus.npz", **arrays)
    with pytest.raises(InputError, match=r"valid_tokens must be int32 with 2 dimension.*got float64"):
        Corpus.from_files(saved[1])


def test_split_lengths_must_fit() -> None:
    vocabulary = Corpus.from_arrays([[0, 1]], vocab_size=2).vocabulary
    good, wrong = Split(np.array([[0, 1]]), np.array([2])), Split(np.array([[0, 1]]), np.array([1]))
    with pytest.raises(InputError, match="split valid: lengths_N do not fit tokens_NT"):
        Corpus(train=good, valid=wrong, test=good, vocabulary=vocabulary, sequence_length=2, name="x")


def test_coco_captions(benchmark_data: Callable[[str], Path]) -> None:
    train, test = benchmark_data("text/image_coco_train.txt"), benchmark_data("text/image_coco_test.txt")
    corpus = Corpus.from_text(train, test=test)
    assert len(corpus.train) + len(corpus.valid) == 10_000
    assert len(corpus.test) == 10_000 - 15
    assert corpus.report == ("15 lines dropped from image_coco_test.txt that also stand in train or valid",)
    assert corpus.sequence_length == 37
    assert "several people skiing on a trail at night ." in texts(corpus, "test")
    assert Corpus.from_text(train, split_punctuation=False).sequence_length == 35


def test_chinese_quatrains(benchmark_data: Callable[[str], Path]) -> None:
    corpus = Corpus.from_text(benchmark_data("text/chinese_quatrains.txt"), valid_fraction=0, test_fraction=0)
    assert (corpus.sequence_length, corpus.vocabulary.vocab_size, corpus.vocabulary.has_eos) == (24, 4771, False)
    assert len(corpus.train) == 16_394


def test_two_hundred_thousand_lines_load_in_seconds(write: Write) -> None:
    """A million must take well under 30 s; a fifth of them in 6 s of processor time says so with room to spare."""
    rng = np.random.default_rng(0)
    words = rng.zipf(1.3, size=(200_000, 8)) % 20_000
    path = write("\n".join(" ".join(f"w{word}" for word in line) for line in words.tolist()))
    start = time.process_time()
    corpus = Corpus.from_text(path, max_vocab=5_000)
    assert sum(map(len, corpus.splits.values())) == 200_000
    assert time.process_time() - start < 6


def test_a_corpus_of_text_is_read_only_too(write: Write) -> None:
    """Its arrays are not copied on the way in, so they must be locked where they are made."""
    corpus = Corpus.from_text(write(numbered(9)))
    for split in corpus.splits.values():
        for array in (split.tokens_NT, split.lengths_N):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    ids = np.array([[0, 1]])
    view = ids[:]
    view.setflags(write=False)  # locked, but over memory that is not
    split = Split(view, np.array([2]))
    ids[0, 0] = 1
    assert split.tokens_NT[0, 0] == 0
