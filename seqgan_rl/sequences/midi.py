"""Melodies: MIDI files to piano keys at a fixed step, and keys back to a MIDI file that plays.

The paper (Yu et al., arXiv:1609.05473, Section 5) takes the solo track of 695 folk tunes (Nottingham), samples the
pitch every 0.4 s over the 88 keys of a piano, and cuts sequences of length 32. It says nothing of chords, rests and
what is left at a tune's end, and its program has no music task; the rules here:
    pitch        token = MIDI note - 21, after transposition: 0 is A0, 87 is C8
    one voice    the highest note that sounds (skyline), of one track or of all but the percussion channel
    duration     the pitch at 0, 0.4, 0.8 ... seconds, tempo changes followed; or, with ``step_seconds=None``, one token
                 for each onset of a note that is then the highest, whatever its duration
    rests        the last pitch is held (88 tokens, as in the paper), or a rest is token 88
The library `mido` (extra ``music``) reads and writes the files. Files from others are data: bounded in bytes and steps,
and whatever is wrong with one is an InputError.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import write_bytes
from seqgan_rl.core.reading import one_line, read_file
from seqgan_rl.sequences.extras import needed

NUM_KEYS = 88
LOWEST_NOTE = 21
"""MIDI note of key 0, A0."""
REST = NUM_KEYS
"""Token of a rest, where rests are tokens."""

MAX_MIDI_BYTES = 2**20
MAX_STEPS = 100_000
"""Eleven hours at 0.4 s: a longer tune is a damaged file."""

PERCUSSION = 9
"""Channel 10 of General MIDI, counted from 0: its notes are drums, not pitches."""

_LONGEST_RUN = 1_000
"""Bytes with the high bit set in a row: only a number without end has more."""

_DEFAULT_TEMPO = 500_000
_TICKS = 480

Rests = Literal["hold", "token"]


@dataclass(frozen=True, kw_only=True)
class MelodyOptions:
    """How a melody is taken out of a MIDI file."""

    step_seconds: float | None = 0.4
    """Seconds between two tokens, 0.001 to 16; None: one token an onset."""
    rests: Rests = "hold"
    """"hold": silence repeats the last pitch, and that before the first note is left out. "token": it is token 88."""
    track: int | None = None
    """Number of the track, from 0; None: all of them."""
    transpose: int = 0
    """Semitones added to every note, -127 to 127."""

    def __post_init__(self) -> None:
        if self.step_seconds is not None:
            check_step(self.step_seconds)
        if self.rests not in get_args(Rests):
            raise InputError(f"rests must be one of {', '.join(get_args(Rests))}, got {self.rests!r}")
        if self.rests == "token" and self.step_seconds is None:
            raise InputError("rests='token' needs a step; onsets (step_seconds=None) have no rests between them")
        if self.track is not None and self.track < 0:
            raise InputError(f"track must be at least 0, got {self.track}")
        if not -127 <= self.transpose <= 127:
            raise InputError(f"transpose must lie in [-127, 127] semitones, got {self.transpose}")

    @property
    def vocab_size(self) -> int:
        """V: the keys, and the rest where it is a token."""
        return NUM_KEYS + (self.rests == "token")


def check_step(step_seconds: float) -> None:
    """InputError unless a step is 0.001 to 16 seconds."""
    if not 0.001 <= step_seconds <= 16:
        raise InputError(f"step_seconds must lie in [0.001, 16], got {step_seconds}; the paper samples every 0.4")


class Event(NamedTuple):
    """What happens at a tick; events of one tick in the order tempo, note off, note on."""

    tick: int
    kind: int
    value: tuple[int, ...]
    """Tempo in microseconds a beat; or (note, track, channel)."""


TEMPO, OFF, ON = range(3)


def read_melody(path: str | os.PathLike[str], options: MelodyOptions | None = None) -> NDArray[np.int64]:
    """Keys of the melody of a MIDI file, int64, shape (n,), 0..87 and 88 for a rest where rests are tokens.

    InputError for a file that cannot be read, has no note, or has one outside of the piano.
    """
    options = MelodyOptions() if options is None else options
    label = f"MIDI file {os.fspath(path)!r}"
    ticks_per_beat, events = _read_events(path, label, options.track)
    if options.step_seconds is None:
        notes = _onsets(events)
    else:
        notes = list(_sampled(events, ticks_per_beat, round(options.step_seconds * 1e6), label))
        notes = _held(notes) if options.rests == "hold" else notes
    if not any(note is not None for note in notes):
        raise InputError(f"{label}: it has no note that could be heard (channel 10, percussion, does not count)")
    return np.array([REST if note is None else _key(note, options.transpose, label) for note in notes], dtype=np.int64)


def write_midi(
    path: str | os.PathLike[str], keys: ArrayLike, *, step_seconds: float = 0.4, join_repeats: bool = True
) -> None:
    """Write keys as a MIDI file that plays on a piano, one step a token; `read_melody` gives them back.

    Args:
        path: the file to write.
        keys: integers, shape (n,); those from 88 up (rest, EOS, PAD) are silent.
        step_seconds: duration of a token, 0.001 to 16.
        join_repeats: whether a repeated key sounds on, as a long note sampled twice, or is struck again.
    """
    mido = needed("mido", "music", "writing MIDI files")
    check_step(step_seconds)
    keys_n = np.asarray(keys)
    if keys_n.ndim != 1 or not np.issubdtype(keys_n.dtype, np.integer) or (keys_n < 0).any():
        raise InputError(
            f"keys must be integers of at least 0 and shape (n,), got {keys_n.dtype} of shape {keys_n.shape}; "
            "write one melody at a time"
        )
    track = mido.MidiTrack()
    track.append(mido.MetaMessage("set_tempo", tempo=round(step_seconds * 1e6), time=0))  # one beat is one step
    waited = 0
    for key, steps in _runs(keys_n.tolist(), join_repeats):
        if key >= NUM_KEYS:
            waited += steps * _TICKS
            continue
        track.append(mido.Message("note_on", note=key + LOWEST_NOTE, velocity=80, time=waited))
        track.append(mido.Message("note_off", note=key + LOWEST_NOTE, velocity=0, time=steps * _TICKS))
        waited = 0
    track.append(mido.MetaMessage("end_of_track", time=waited))
    written = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=_TICKS, tracks=[track]).save(file=written)
    write_bytes(Path(path), written.getvalue())


def _runs(keys: list[int], join_repeats: bool) -> Iterator[tuple[int, int]]:
    """Keys and how many steps each lasts."""
    start = 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or keys[i] != keys[start] or not join_repeats:
            yield keys[start], i - start
            start = i


def _read_events(path: str | os.PathLike[str], label: str, wanted: int | None) -> tuple[int, list[Event]]:
    """Ticks a beat, and tempo and notes in order of time."""
    mido = needed("mido", "music", "reading MIDI files")
    try:
        data = read_file(path, MAX_MIDI_BYTES)
        if re.search(rb"[\x80-\xff]{%d}" % _LONGEST_RUN, data):  # mido would spend minutes on such a number
            raise ValueError(f"{_LONGEST_RUN:,} bytes in a row with the high bit set are no music")
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    except EOFError:
        raise InputError(f"{label}: cannot be read (it ends too early); give a whole standard MIDI file") from None
    except Exception as error:  # mido has no error of its own: damage shows as whatever breaks first
        raise InputError(f"{label}: cannot be read ({one_line(error)}); give a standard MIDI file") from None
    if file.type == 2 or file.ticks_per_beat <= 0:
        what = "independent patterns (type 2)" if file.type == 2 else "time in film frames (SMPTE)"
        raise InputError(f"{label}: expected a tune in beats, got {what}; convert it to type 0 or 1 first")
    if wanted is not None and wanted >= len(file.tracks):
        raise InputError(f"{label}: track must lie in [0, {len(file.tracks)}), got {wanted}")
    events = [event for i, track in enumerate(file.tracks) for event in _events(track, i, wanted)]
    return file.ticks_per_beat, sorted(events)


def _events(track: Iterable[Any], number: int, wanted: int | None) -> Iterator[Event]:
    """Tempo, which counts for all tracks, and the notes of a wanted track that last; its end silences it."""
    tick = 0
    start_of: dict[tuple[int, ...], int] = {}
    for message in track:
        tick += message.time
        if message.type == "set_tempo":
            yield Event(tick, TEMPO, (message.tempo,))
        elif message.type in ("note_on", "note_off") and wanted in (None, number) and message.channel != PERCUSSION:
            note: tuple[int, ...] = (message.note, number, message.channel)
            yield from _ended(start_of, note, tick)
            if message.type == "note_on" and message.velocity > 0:
                start_of[note] = tick
    for note in list(start_of):
        yield from _ended(start_of, note, tick)


def _ended(start_of: dict[tuple[int, ...], int], note: tuple[int, ...], tick: int) -> Iterator[Event]:
    """Start and end of a note that has sounded up to now."""
    start = start_of.pop(note, tick)
    if start < tick:
        yield Event(start, ON, note)
        yield Event(tick, OFF, note)


def _sampled(events: list[Event], ticks_per_beat: int, step: int, label: str) -> Iterator[int | None]:
    """The highest note at 0, ``step``, 2 ``step`` ... microseconds up to the end of the last note; None for silence.

    Time is counted in microseconds times ``ticks_per_beat``, in whole numbers: nothing is rounded.
    """
    last = max((event.tick for event in events if event.kind == OFF), default=0)
    sounding: set[tuple[int, ...]] = set()
    tick, time, tempo, steps = 0, 0, _DEFAULT_TEMPO, 0
    for event in events:
        if event.tick > last:
            return
        time += (event.tick - tick) * tempo
        tick = event.tick
        passed = -(-time // (step * ticks_per_beat)) - steps  # samples before this event
        if steps + passed > MAX_STEPS:
            raise InputError(
                f"{label}: it lasts more than {MAX_STEPS:,} steps of {step / 1e6:g} s; "
                "use a longer step_seconds, or leave the file out"
            )
        if passed > 0:
            highest = max(sounding)[0] if sounding else None
            for _ in range(passed):
                yield highest
            steps += passed
        if event.kind == TEMPO:
            tempo = event.value[0]
        else:
            (sounding.add if event.kind == ON else sounding.discard)(event.value)


def _held(notes: list[int | None]) -> list[int | None]:
    """Silence repeats the note before it; what is before the first note goes."""
    held: list[int | None] = []
    for note in notes:
        if note is not None or held:
            held.append(held[-1] if note is None else note)
    return held


def _onsets(events: list[Event]) -> list[int | None]:
    """Each note that starts as the highest of those that sound then; of a chord the highest."""
    sounding: set[tuple[int, ...]] = set()
    found: list[int | None] = []
    for i, event in enumerate(events):
        if event.kind == OFF:
            sounding.discard(event.value)
        elif event.kind == ON:
            sounding.add(event.value)
            is_last_of_chord = i + 1 == len(events) or events[i + 1][:2] != event[:2]
            if is_last_of_chord and max(sounding)[0] == event.value[0]:  # events of a chord come by rising note
                found.append(event.value[0])
    return found


def _key(note: int, transpose: int, label: str) -> int:
    key = note + transpose - LOWEST_NOTE
    if not 0 <= key < NUM_KEYS:
        raise InputError(
            f"{label}: note {note} transposed by {transpose} lies outside of the piano's MIDI notes "
            f"{LOWEST_NOTE} to {LOWEST_NOTE + NUM_KEYS - 1}; transpose otherwise, or leave such files out with "
            "drop_bad=True"
        )
    return key
