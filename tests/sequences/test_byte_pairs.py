"""Byte-pair pieces: any text comes back exactly, the same merges every time, and no file runs code."""

import json
import pickle
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import UNK, Corpus, Vocabulary, extras, split_units
from seqgan_rl.sequences import byte_pairs as bp

LINES = [f"the dog runs to the {place} , again and again ." for place in ("house", "horse", "hill", "hut")] * 3


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.learn_pieces(LINES, max_vocab=300, has_eos=True)


@given(text=st.text(), tail=st.sampled_from(["", " the  dog   again ", "\t\r\n \u3000\u2028", "é\U0001f600<unk>\0"]))
def test_any_text_comes_back_exactly(vocabulary: Vocabulary, text: str, tail: str) -> None:
    ids = vocabulary.encode(text + tail)
    assert vocabulary.decode([*ids, vocabulary.eos_id or 0, 0]) == text + tail
    assert vocabulary.encode_units(vocabulary.split(text + tail)) == ids
    assert all(0 <= i < vocabulary.vocab_size for i in ids)


@given(lines=st.lists(st.text(max_size=30), max_size=5))
def test_many_lines_are_encoded_as_one_by_one(vocabulary: Vocabulary, lines: list[str]) -> None:
    assert [ids.tolist() for ids in vocabulary.encode_lines(lines)] == [vocabulary.encode(line) for line in lines]


def test_known_words_are_one_piece_and_bytes_are_the_first_256(vocabulary: Vocabulary) -> None:
    assert vocabulary.words[:256] == tuple(sorted(bp.CHARACTER_OF_BYTE.values()))
    assert "Ġagain" in vocabulary.words
    assert vocabulary.split("the the again") == ["the", "Ġthe", "Ġagain"]
    assert vocabulary.split("zé") == ["z", "Ã", "©"]
    assert vocabulary.unk_id is None


def test_encoding_is_that_of_the_library_on_ordinary_text(vocabulary: Vocabulary) -> None:
    """The distinct words are encoded one by one; on whole lines the library says the same."""
    tokenizer = bp.make_tokenizer(vocabulary.words, vocabulary.merges)
    for line in [*LINES, "two  spaces   and more ", " 12,000 dogs' houses (again)!", "函谷，壮皇居。"]:
        assert vocabulary.encode(line) == tokenizer.encode(line).ids


def slow_merges(lines: list[str], count: int) -> list[str]:
    """The first merges by the definition: count all pairs, join the most frequent, ties by smaller ids."""
    alphabet = sorted(bp.CHARACTER_OF_BYTE.values())
    ids = {character: i for i, character in enumerate(alphabet)}
    cut = [list(f"Ġ{word}" if k else word) for line in lines for k, word in enumerate(line.split(" "))]
    made: list[str] = []
    for _ in range(count):
        counts: dict[tuple[str, str], int] = {}
        for word in cut:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        made.append(best[0] + best[1])
        ids.setdefault(made[-1], len(ids))
        for word in cut:
            for i in range(len(word) - 2, -1, -1):
                if i + 1 < len(word) and (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [made[-1]]
    return made


def test_merges_are_those_of_the_definition(vocabulary: Vocabulary) -> None:
    """Words of letters between single spaces, so that words are what merges stay within."""
    lines = [line.replace(" ,", "").replace(" .", "") for line in LINES]
    learned = Vocabulary.learn_pieces(lines, max_vocab=256 + 20)
    assert ["".join(merge) for merge in learned.merges] == slow_merges(lines, 20)


def test_another_process_learns_the_same_pieces() -> None:
    code = f"from seqgan_rl.sequences import Vocabulary; print(Vocabulary.learn_pieces({LINES!r}).content_hash)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == Vocabulary.learn_pieces(LINES).content_hash


def test_pairs_seen_once_stay_apart_and_sizes_are_kept() -> None:
    assert Vocabulary.learn_pieces(["abc", "def"]).vocab_size == 256
    assert ("a", "b") in Vocabulary.learn_pieces(["abc", "abd"]).merges
    assert ("a", "b") not in Vocabulary.learn_pieces(["abc", "abd"], min_count=3).merges
    assert Vocabulary.learn_pieces(LINES, max_vocab=260).vocab_size == 260
    with pytest.raises(InputError, match="max_vocab must be at least 257 at level 'bpe', got 256"):
        Vocabulary.learn_pieces(LINES, max_vocab=256)


def test_many_lines_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["aa", "bb", "cc", "dd"] * 2
    monkeypatch.setattr(bp, "MAX_LINES", 4)
    assert bp.learn_merges(lines, 300) == bp.learn_merges(["aa", "cc", "aa", "cc"], 300) == (("a", "a"), ("c", "c"))


def test_bytes_that_are_no_text_are_shown_as_such(vocabulary: Vocabulary) -> None:
    first = vocabulary.words.index(bp.CHARACTER_OF_BYTE[0xC3])
    assert vocabulary.decode([first]) == "\ufffd"
    with pytest.raises(InputError, match=r"half of one .* at position 1"):
        vocabulary.encode("a\ud800")


def test_json_pickle_and_lower_case(vocabulary: Vocabulary) -> None:
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary == pickle.loads(pickle.dumps(vocabulary))
    assert again.content_hash == vocabulary.content_hash
    lower = Vocabulary.learn_pieces(["THE DOG", "The Dog"], lowercase=True)
    assert lower.decode(lower.encode("THE Dog")) == "the dog"
    assert len({v.content_hash for v in (vocabulary, lower, Vocabulary.learn_pieces(LINES, max_vocab=301))}) == 3


def test_decoding_and_loading_need_no_library(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = vocabulary.encode("the dog")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = Vocabulary.from_json(vocabulary.to_json())
    assert again.decode(ids) == "the dog"
    with pytest.raises(InputError, match=r"level 'bpe' needs the library tokenizers.*pip install 'seqgan_rl\[text\]'"):
        again.encode("the dog")


def test_a_missing_library_is_named_with_its_extra() -> None:
    with pytest.raises(InputError, match=r"^this needs the library no_such_thing.*seqgan_rl\[text\]") as caught:
        extras.needed("no_such_thing.part", "text", "this")
    assert "\n" not in str(caught.value)
    assert extras.needed("json", "text", "this") is json


def changed(**changes: Any) -> dict[str, Any]:
    return {**Vocabulary.learn_pieces(LINES, max_vocab=260).to_json(), **changes}


BYTES = sorted(bp.CHARACTER_OF_BYTE.values())
SPELLED = [["<", "u"], ["<u", "n"], ["<un", "k"], ["<unk", ">"]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (changed(merges=[["a", "b"]]), "must be the 256 bytes and then what the merges make"),
        (changed(words=["a", "b"]), "got 2 words and 4 merges that do not fit"),
        (changed(merges=[["ab", "c"]]), "merge 0 joins 'ab', which no merge before it has made"),
        (changed(merges=[["a", "\u4e00"]]), "merge 0 joins '一'"),
        (changed(merges=[["a", 1]]), "merges must be pairs of strings"),
        (changed(merges=["ab"]), "merges must be pairs of strings, got 'ab' at 0"),
        (changed(merges={}), "merges must be a list, got dict"),
        (changed(level="word"), "keys"),
        ({key: value for key, value in changed().items() if key != "merges"}, "keys"),
        (changed(merges=SPELLED, words=[*BYTES, "<u", "<un", "<unk", UNK]), f"without {UNK}"),
    ],
)
def test_bad_json_is_refused_in_one_line(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Vocabulary.from_json(value)
    assert "\n" not in str(caught.value)


def test_merges_at_another_level_are_refused() -> None:
    with pytest.raises(InputError, match="merges belong to level 'bpe'"):
        Vocabulary(words=("a", "b"), merges=(("a", "b"),))
    with pytest.raises(InputError, match="cuts by merges that a vocabulary has learned"):
        split_units("a b", level="bpe")


lines_of_text = st.lists(st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), max_size=20))


@settings(max_examples=40)
@given(lines=lines_of_text, seed=st.integers(0, 3))
def test_a_corpus_of_any_text_keeps_every_line_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], seed: int
) -> None:
    """White space at the edges too; and what is saved is what is loaded."""
    folder = tmp_path_factory.mktemp("text")
    lines = [" a line", "a line ", "a  line", "a line", *lines]
    (folder / "text.txt").write_bytes("\n".join(lines).encode("utf-8"))
    corpus = Corpus.from_text(folder / "text.txt", level="bpe", seed=seed, sequence_length=100)
    found = {
        name: [corpus.vocabulary.decode(tokens_T) for tokens_T in split.tokens_NT]
        for name, split in corpus.splits.items()
    }
    kept = [line for line in lines if line.strip()]
    assert sorted(chain.from_iterable(found.values())) == sorted(kept)
    assert sum(map(len, map(set, found.values()))) == len(set(kept))  # no line stands in two splits
    corpus.to_files(folder / "saved")
    again = Corpus.from_files(folder / "saved")
    assert (again.vocabulary, again.content_hash) == (corpus.vocabulary, corpus.content_hash)


def test_merges_come_from_the_training_lines_only(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("aa bb\nbb aa\naa aa\n")
    (tmp_path / "test.txt").write_text("zz zz zz\nzz aa\n")
    corpus = Corpus.from_text(tmp_path / "train.txt", level="bpe", test=tmp_path / "test.txt", valid_fraction=0)
    assert set(corpus.vocabulary.words[256:]) == {"aa", "bb", "Ġaa"}  # " bb" is seen once, and "zz" in no line of train
    assert corpus.unk_rate["test"] == 0


def test_longer_lines_are_refused_or_dropped_after_the_split(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ab ab\n" * 3 + "\n" + "x y z u v w\n")
    options: dict[str, Any] = {"level": "bpe", "valid_fraction": 0, "test_fraction": 0, "sequence_length": 4}
    with pytest.raises(
        InputError, match=r"text.txt': the line 'x y z u v w' of train has 11 units .level bpe., more than.*=4"
    ):
        Corpus.from_text(path, **options)
    corpus = Corpus.from_text(path, **options, drop_longer=True)
    assert len(corpus.train) == 3
    assert corpus.report == ("1 empty line skipped in text.txt", "1 line of more than 4 units dropped from train")
    path.write_text("x y z u v w\n")
    with pytest.raises(InputError, match="split train: no line has at most 4 units"):
        Corpus.from_text(path, **options, drop_longer=True)
