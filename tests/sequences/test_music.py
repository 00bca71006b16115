"""Melodies: keys come back from the MIDI files they are written to, and a bad file is one clear error."""

import struct
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation.music import LOWEST_MIDI_NOTE, NUM_PITCHES
from seqgan_rl.sequences import Corpus, MelodyOptions, melodies, read_melody, write_midi
from seqgan_rl.sequences import midi as midi_module

mido: Any = import_module("mido")
steps = st.sampled_from([0.4, 0.001, 1 / 3, 16.0])
keys = st.lists(st.integers(0, 87), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("midi") / "tune.mid"


def notes(*played: tuple[int, int, int], channel: int = 0, first: tuple[Any, ...] = ()) -> Any:
    """A track of (start, end, note) in ticks, 480 a beat; by default a beat is half a second."""
    events = [(start, 1, note) for start, _, note in played] + [(end, 0, note) for _, end, note in played]
    track, now = mido.MidiTrack(first), 0
    for tick, is_on, note in sorted(events):
        kind = "note_on" if is_on else "note_off"
        track.append(mido.Message(kind, note=note, velocity=64, channel=channel, time=tick - now))
        now = tick
    return track


def save(path: Path, *tracks: Any, **options: Any) -> Path:
    mido.MidiFile(tracks=list(tracks), **options).save(path)
    return path


def tempo(microseconds: int, wait: int = 0) -> Any:
    return mido.MetaMessage("set_tempo", tempo=microseconds, time=wait)


@given(keys=keys, step=steps, join=st.booleans())
def test_keys_come_back_from_the_file(path: Path, keys: list[int], step: float, join: bool) -> None:
    write_midi(path, keys, step_seconds=step, join_repeats=join)
    assert read_melody(path, MelodyOptions(step_seconds=step)).tolist() == keys


@given(keys=st.lists(st.integers(0, 88), max_size=40), last=st.integers(0, 87))
def test_rests_come_back_where_they_are_tokens_and_are_held_where_not(path: Path, keys: list[int], last: int) -> None:
    """All but those at the end, which nobody hears."""
    keys = [*keys, last]
    write_midi(path, keys)
    assert read_melody(path, MelodyOptions(rests="token")).tolist() == keys
    held: list[int] = []
    for key in keys:
        if key < 88 or held:
            held.append(key if key < 88 else held[-1])
    assert read_melody(path).tolist() == held


@given(keys=keys, transpose=st.integers(-12, 12))
def test_onsets_and_transposition(path: Path, keys: list[int], transpose: int) -> None:
    write_midi(path, keys, join_repeats=False)
    shifted = [key + transpose for key in keys]
    options = MelodyOptions(step_seconds=None, transpose=transpose)
    if all(0 <= key < 88 for key in shifted):
        assert read_melody(path, options).tolist() == shifted
    else:
        with pytest.raises(InputError, match=r"outside of the piano's MIDI notes 21 to 108; transpose otherwise"):
            read_melody(path, options)


def test_a_written_file_is_a_standard_one(path: Path) -> None:
    """Four steps of 0.4 s: A0 for two of them, silence, C8."""
    write_midi(path, [0, 0, 88, 87])
    file = mido.MidiFile(path)
    played = [(m.type, m.note, m.time) for m in file.tracks[0] if not m.is_meta]
    assert played == [("note_on", 21, 0), ("note_off", 21, 960), ("note_on", 108, 480), ("note_off", 108, 480)]
    assert file.length == pytest.approx(1.6)
    assert (LOWEST_MIDI_NOTE, NUM_PITCHES) == (midi_module.LOWEST_NOTE, midi_module.NUM_KEYS)


def test_the_highest_note_is_the_melody(path: Path) -> None:
    """Worked out by hand: at 0, 0.5, 1 and 1.5 s sound 60 over 48, 64 over 48, silence, 67; a drum is none."""
    melody, chords = notes((0, 480, 60), (480, 960, 64), (1440, 1920, 67)), notes((0, 960, 48))
    save(path, melody, chords, notes((0, 1920, 100), channel=9))
    half = MelodyOptions(step_seconds=0.5)
    assert read_melody(path, half).tolist() == [39, 43, 43, 46]
    assert read_melody(path, MelodyOptions(step_seconds=0.5, rests="token")).tolist() == [39, 43, 88, 46]
    assert read_melody(path, MelodyOptions(step_seconds=0.5, track=1)).tolist() == [27, 27]
    assert read_melody(path, MelodyOptions(step_seconds=None)).tolist() == [39, 43, 46]
    assert read_melody(path, MelodyOptions(step_seconds=0.25)).tolist() == [39, 39, 43, 43, 43, 43, 46, 46]


def test_a_low_onset_under_a_high_note_is_none(path: Path) -> None:
    save(path, notes((0, 960, 72)), notes((480, 960, 50), (960, 1440, 55)))
    assert read_melody(path, MelodyOptions(step_seconds=None)).tolist() == [51, 34]


def test_tempo_changes_are_followed_in_all_tracks(path: Path) -> None:
    """The second beat lasts 1.5 s instead of 0.5: samples at 0, 0.5, 1, 1.5."""
    save(path, mido.MidiTrack([tempo(500_000), tempo(1_500_000, wait=480)]), notes((0, 480, 60), (480, 960, 62)))
    assert read_melody(path, MelodyOptions(step_seconds=0.5)).tolist() == [39, 41, 41, 41]


def test_notes_without_end_or_length_and_notes_struck_again(path: Path) -> None:
    """A note that is not let go ends with its track; one of no length is silent; one struck again starts anew."""
    track = mido.MidiTrack([mido.Message("note_on", note=60, time=0), mido.Message("note_on", note=90, time=0)])
    track.append(mido.Message("note_on", note=90, velocity=0, time=0))
    track.append(mido.Message("note_on", note=60, time=480))
    track.append(mido.MetaMessage("end_of_track", time=480))
    save(path, track)
    assert read_melody(path, MelodyOptions(step_seconds=0.5)).tolist() == [39, 39]
    assert read_melody(path, MelodyOptions(step_seconds=None)).tolist() == [39, 39]


def chunk(track: bytes, kind: int = 1, division: int = 480) -> bytes:
    header = b"MThd" + struct.pack(">Lhhh", 6, kind, 1, division)
    return header + b"MTrk" + struct.pack(">L", len(track)) + track


NOTE = b"\x00\x90\x40\x40\x60\x80\x40\x40"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read .it ends too early"),
        (b"not music at all", "cannot be read .MThd not found"),
        (chunk(NOTE)[:-3], "cannot be read .it ends too early"),
        (chunk(b"\x00\x40\x40"), "cannot be read .running status"),
        (chunk(b"\x00\xf4"), "cannot be read .undefined status"),
        (chunk(b"\x00\xff\x51\x01\x00"), "cannot be read"),
        (chunk(b"\x00\xff\x59\x02\x7f\x7f"), "cannot be read"),
        (chunk(NOTE, kind=2), r"independent patterns .type 2."),
        (chunk(NOTE, division=-6360), r"time in film frames .SMPTE."),
        (chunk(NOTE, division=0), "SMPTE"),
        (chunk(b"\x00\xff\x2f\x00"), "no note that could be heard"),
        (chunk(b"\x00\x99\x40\x40\x60\x89\x40\x40"), "percussion, does not count"),
        (chunk(b"\x00\x90\x40\x40" + b"\xff" * 800 + b"\x7f\x80\x40\x40"), "more than 100,000 steps of 0.4 s"),
        (chunk(b"\x00\xff\x51\x03\x00\x00\x00" + NOTE), "no note that could be heard"),  # no time passes
        (chunk(b"\xff" * 1_000_000), "1,000 bytes in a row"),
        (chunk(b"\x00\xf0\xbf\xff\x00"), "cannot be read .Message length 1048448"),
        (bytes(2**20 + 1), "it holds 1,048,577 bytes, expected at most 1,048,576"),
        (chunk(b"\x00\x90\x10\x40\x60\x80\x10\x40"), "note 16 transposed by 0 lies outside"),
    ],
)
def test_bad_files_are_refused_in_one_line_and_soon(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(InputError, match=words) as caught:
        read_melody(path)
    assert str(caught.value).startswith("MIDI file '")
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 2


def test_any_damage_is_an_input_error(path: Path) -> None:
    """Truncated anywhere, or with any bytes changed, a file is read as some melody or refused; nothing crashes."""
    write_midi(path, np.arange(40) % 88)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:size] for size in range(0, len(whole), 7)]
    for _ in range(600):
        changed = bytearray(whole)
        for i in rng.integers(len(whole), size=rng.integers(1, 4)):
            changed[i] = rng.integers(256)
        damaged.append(bytes(changed))
    messages = []
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read_melody(path, MelodyOptions(rests="token"))
            assert found.min() >= 0
            assert found.max() <= 88
        except InputError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert len(damaged) / 4 < len(messages) < len(damaged)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_seconds": 0.0}, r"step_seconds must lie in \[0.001, 16\], got 0.0"),
        ({"step_seconds": float("nan")}, "got nan"),
        ({"rests": "drop"}, "rests must be one of hold, token, got 'drop'"),
        ({"rests": "token", "step_seconds": None}, "rests='token' needs a step"),
        ({"track": -1}, "track must be at least 0"),
        ({"transpose": 128}, "transpose must lie in"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        MelodyOptions(**options)


def test_what_cannot_be_written_or_found(tmp_path: Path, path: Path) -> None:
    for wrong in ([[1, 2]], [1.5], [-1]):
        with pytest.raises(InputError, match="keys must be integers of at least 0"):
            write_midi(path, wrong)
    with pytest.raises(InputError, match=r"cannot be read .*No such file"):
        read_melody(tmp_path / "none.mid")
    write_midi(path, [1])
    with pytest.raises(InputError, match=r"track must lie in \[0, 1\), got 1"):
        read_melody(path, MelodyOptions(track=1))
    with pytest.raises(InputError, match=r"expected files that end in .mid or .midi, got none"):
        melodies(tmp_path)
    with pytest.raises(InputError, match="expected at least one, got none"):
        melodies([])
    with pytest.raises(TypeError, match="unexpected option 'steps'"):
        melodies(path, steps=1)


def test_without_the_library_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_midi(path, [1])
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    for call in (lambda: read_melody(path), lambda: write_midi(path, [1]), lambda: melodies(path, drop_bad=True)):
        with pytest.raises(InputError, match=r"needs the library mido.*pip install 'seqgan_rl\[music\]'"):
            call()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten tunes of 10 keys, tune i from key i upwards, and a file of another kind."""
    (tmp_path / "more").mkdir()
    for i in range(10):
        name = f"tune{i}.mid" if i % 2 else f"more/TUNE{i}.MIDI"
        write_midi(tmp_path / name, range(3 * i, 3 * i + 10))
    (tmp_path / "notes.txt").write_text("not music")
    return tmp_path


@settings(max_examples=5)
@given(seed=st.integers(0, 3))
def test_all_windows_of_a_tune_fall_in_one_split(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("tunes")
    for i in range(8):
        write_midi(folder / f"{i}.mid", [10 * i + k for k in range(8)])
    corpus = melodies(folder, sequence_length=4, valid_fraction=0.25, test_fraction=0.25, seed=seed)
    tunes = {name: {int(key) // 10 for key in split.tokens_NT[:, 0]} for name, split in corpus.splits.items()}
    assert [len(split) for split in corpus.splits.values()] == [8, 4, 4]
    assert [len(tunes[name]) for name in tunes] == [4, 2, 2]
    assert set.union(*tunes.values()) == set(range(8))


def test_a_folder_becomes_a_corpus(folder: Path) -> None:
    corpus = melodies(folder, sequence_length=4, valid_fraction=0, test_fraction=0)
    assert (corpus.vocabulary.vocab_size, corpus.vocabulary.has_eos, corpus.name) == (88, False, folder.name)
    assert len(corpus.train) == 20
    assert corpus.report == ("20 keys left over at the ends of tunes dropped",)
    assert corpus.train.tokens_NT[0].tolist() == [3, 4, 5, 6]  # a folder's own files, by name, before its subfolders
    assert corpus.content_hash == melodies(folder, sequence_length=4, valid_fraction=0, test_fraction=0).content_hash
    corpus.to_files(folder / "saved")
    assert Corpus.from_files(folder / "saved").content_hash == corpus.content_hash
    assert melodies(folder, rests="token", sequence_length=10, seed=1).vocabulary.vocab_size == 89
    with pytest.raises(InputError, match="no tune has 32 keys"):
        melodies(folder)


def test_repeated_windows_leave_the_later_split(folder: Path) -> None:
    for file in folder.rglob("*.mid"):
        write_midi(file, range(10))
    files = sorted(folder.rglob("*.mid"))
    corpus = melodies(files, sequence_length=5, valid_fraction=0.2, test_fraction=0.2)
    assert [len(split) for split in corpus.splits.values()] == [6, 0, 0]
    assert corpus.report == (
        "2 sequences dropped from valid that also stand in train",
        "2 sequences dropped from test that also stand in train or valid",
    )


def test_bad_files_of_a_folder_are_refused_by_name_or_left_out(folder: Path) -> None:
    (folder / "bad.mid").write_bytes(b"MThd")
    with pytest.raises(InputError, match=r"MIDI file '.*bad\.mid': cannot be read"):
        melodies(folder, sequence_length=4)
    corpus = melodies(folder, sequence_length=4, drop_bad=True, valid_fraction=0, test_fraction=0)
    assert len(corpus.train) == 20
    assert corpus.report[0].startswith(f"1 file left out; the first: MIDI file '{folder}/bad.mid': cannot be read")
    high = melodies(folder, sequence_length=4, drop_bad=True, transpose=60, valid_fraction=0, test_fraction=0)
    assert len(high.train) == 14  # tunes 0 to 6 end at key 27 or below
    assert high.report[0].startswith("4 files left out")
    with pytest.raises(InputError, match="no file could be used; the first: "):
        melodies(folder, drop_bad=True, transpose=120)


def test_windows_of_too_few_files_are_held_out(folder: Path) -> None:
    """A copy of a window falls in its split, and nothing of it in another."""
    write_midi(folder / "long.mid", [*range(20), 0, 1, *range(40, 70)], join_repeats=False)
    corpus = melodies(folder / "long.mid", sequence_length=2, valid_fraction=0.2, test_fraction=0.2)
    assert [len(split) for split in corpus.splits.values()] in ([16, 5, 5], [15, 6, 5], [15, 5, 6])
    assert sum(map(len, corpus.splits.values())) == 26
    rows = [{tuple(row) for row in split.tokens_NT.tolist()} for split in corpus.splits.values()]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 25  # (0, 1) twice, in one split
    assert corpus.report == (
        "windows held out in place of whole tunes, of which there are 1: the splits share their pieces",
    )
    two = melodies([folder / "tune1.mid", folder / "tune5.mid"], sequence_length=2)
    assert [len(split) for split in two.splits.values()] == [8, 1, 1]
    assert melodies([folder / "tune1.mid", folder / "tune5.mid"], sequence_length=2, test_fraction=0).report == ()
    with pytest.raises(InputError, match=r"at least 3 distinct windows are needed to split.*got 2"):
        melodies(folder / "tune1.mid", sequence_length=4)
    corpus = melodies(folder / "tune1.mid", sequence_length=4, valid_fraction=0, test_fraction=0)
    assert corpus.train.tokens_NT.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]
