"""The vocabulary: deterministic order, exact round trips, clear refusals."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences import UNK, Level, Vocabulary, split_units

LEVELS: tuple[Level, ...] = ("word", "char")
lines_of_text = st.lists(st.text(max_size=30), min_size=1, max_size=6)
rules = st.fixed_dictionaries(
    {"level": st.sampled_from(LEVELS), "lowercase": st.booleans(), "split_punctuation": st.booleans()}
)


def build(text: str, **options: Any) -> Vocabulary:
    return Vocabulary.build([line.split() for line in text.split("/")], **options)


@given(lines=lines_of_text, rule=rules, has_eos=st.booleans())
def test_arbitrary_unicode_makes_the_round_trip(lines: list[str], rule: dict[str, Any], has_eos: bool) -> None:
    units = [split_units(line, **rule) for line in lines]
    vocabulary = Vocabulary.build([*units, ["a"], ["b"]], has_eos=has_eos, **rule)
    for line, line_units in zip(lines, units, strict=True):
        ids = vocabulary.encode(line)
        decoded = vocabulary.decode([*ids, vocabulary.pad_id])
        assert [vocabulary.words[i] for i in ids] == line_units
        assert vocabulary.encode(decoded.strip()) == ids  # text that was decoded is text to encode
        assert decoded == (" " if rule["level"] == "word" else "").join(line_units)


@given(lines=lines_of_text, rule=rules)
def test_nothing_but_white_space_is_lost_in_cutting(lines: list[str], rule: dict[str, Any]) -> None:
    for line in lines:
        expected = line.lower() if rule["lowercase"] else line
        if rule["level"] == "word":
            assert "".join(split_units(line, **rule)) == "".join(expected.split())
        else:
            assert "".join(split_units(line, **rule)) == expected.strip()


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("skiing at night.", "skiing at night ."),
        ("an old-fashioned, owner's (3.5) car...", "an old-fashioned , owner's ( 3.5 ) car . . ."),
        ("函谷，壮皇居。", "函谷，壮皇居 。"),
        ("¿qué? «été»", "¿ qué ? « été »"),
        ("हिन्दी। ٣٫٥؟", "हिन्दी । ٣٫٥ ؟"),
        (f"a {UNK} of {UNK}", f"a {UNK} of {UNK}"),
        ("5$ -- ok", "5 $ - - ok"),
        ("so👨‍👩‍👧‍👦! ❤️🏳️‍🌈🇩🇪🇫🇷👍🏽", "so 👨‍👩‍👧‍👦 ! ❤️ 🏳️‍🌈 🇩🇪 🇫🇷 👍🏽"),
        ("!\u0301क\u094d\u200dष।", "!\u0301 क\u094d\u200dष ।"),
    ],
)
def test_punctuation_is_peeled_off_words_in_any_script(text: str, units: str) -> None:
    assert split_units(text) == units.split(" ")


def test_order_is_by_falling_count_then_string() -> None:
    assert build("b a c/b a/b d").words == ("b", "a", "c", "d")
    assert build("d b/a b c/a b").words == ("b", "a", "c", "d")  # whatever the order of the lines


def test_ids_of_eos_and_pad() -> None:
    fixed, variable = build("a b c"), build("a b c", has_eos=True)
    assert (fixed.vocab_size, fixed.num_actions, fixed.eos_id, fixed.pad_id) == (3, 3, None, 3)
    assert (variable.vocab_size, variable.num_actions, variable.eos_id, variable.pad_id) == (3, 4, 3, 4)


def test_cut_words_become_unk_which_is_the_last_word() -> None:
    vocabulary = build("a a a b b c d", min_count=2)
    assert vocabulary.words == ("a", "b", UNK)
    assert vocabulary.unk_id == 2
    assert vocabulary.encode("b zebra") == [1, 2]
    assert vocabulary.decode([1, 2]) == f"b {UNK}"
    assert build("a a a b b c d", max_vocab=3).words == ("a", "b", UNK)  # UNK counts
    assert build("a a b", max_vocab=2).words == ("a", "b")  # nothing to cut


def test_unk_is_there_only_when_needed() -> None:
    assert build("a b").unk_id is None
    assert build("a b", unk=True).unk_id == 2
    assert build(f"{UNK} a {UNK} b").words == ("a", "b", UNK)  # text that holds UNK already


def test_an_unknown_unit_without_unk_is_named() -> None:
    with pytest.raises(InputError, match=r"'zebra' is not among the 2 units.*no <unk>; use known units \(such as 'a'"):
        build("a b").encode("a zebra")


def test_decoding_stops_at_eos_and_pad_and_refuses_other_ids() -> None:
    vocabulary = build("a b", has_eos=True)
    assert vocabulary.decode([0, 1, 2, 0]) == "a b"
    assert vocabulary.decode([0, 3, 0]) == "a"
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=rf"token ids must lie in \[0, 3\), or be PAD=3, got {bad}"):
            vocabulary.decode([0, bad])


@pytest.mark.parametrize("level", LEVELS)
def test_json_round_trip_keeps_hash_and_ids(level: Level) -> None:
    vocabulary = Vocabulary.build(["aéb\U0001f600", "a "] if level == "char" else [["é", "b"]], level=level, unk=True)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert again.content_hash == vocabulary.content_hash


def test_hash_changes_with_whatever_decides_ids() -> None:
    variants = [
        build("a b"),
        build("a b b"),
        build("a b", unk=True),
        build("a b", has_eos=True),
        build("a b", lowercase=True),
        build("a b", split_punctuation=False),
        build("a b", level="char"),
    ]
    assert len({vocabulary.content_hash for vocabulary in variants}) == len(variants)


GOOD = {"words": ["a", "b"], "level": "word", "has_eos": True, "lowercase": False, "split_punctuation": True}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "an object with the keys.*got list"),
        ({"words": ["a", "b"]}, r"keys.*got \['words'\]"),
        ({**GOOD, "extra": 1}, "extra"),
        ({**GOOD, "words": "ab"}, "words must be a list, got str"),
        ({**GOOD, "words": ["a", 3]}, "must be strings, got int at id 1"),
        ({**GOOD, "words": ["a", "b", "a"]}, "distinct, got 'a' more than once"),
        ({**GOOD, "words": ["a"]}, "at least 2 words"),
        ({**GOOD, "words": ["a", UNK]}, "at least 2 words besides <unk>"),
        ({**GOOD, "words": [UNK, "a", "b"]}, "<unk> must be the last word, got it at id 0"),
        ({**GOOD, "words": ["a", "b c"]}, "'b c' is not one unit"),
        ({**GOOD, "words": ["a", ""]}, "'' is not one unit"),
        ({**GOOD, "words": ["a", "bc"], "level": "char"}, "'bc' is not one unit at level 'char'"),
        ({**GOOD, "level": "byte"}, "level must be one of word, char, bpe, got 'byte'"),
        ({**GOOD, "has_eos": 1}, "has_eos must be a bool, got int"),
    ],
)
def test_bad_json_is_refused_in_one_line(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Vocabulary.from_json(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"max_vocab": 1}, "max_vocab must be at least 2, got 1"),
        ({"min_count": 9}, "at least 2 words besides <unk> are needed.*--min-count"),
    ],
)
def test_bad_cuts_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build("a b", **options)
