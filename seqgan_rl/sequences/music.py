"""A corpus of melodies from MIDI files: windows of T piano keys, all windows of a tune in one split.

Word ids are keys, as `seqgan_rl.evaluation.music` scores them. Letters: T keys a window, n keys a tune.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqgan_rl.core.errors import InputError
from seqgan_rl.sequences.corpus import Corpus
from seqgan_rl.sequences.extras import needed
from seqgan_rl.sequences.lines import SPLITS, check_fractions, check_seed, check_sequence_length, count_text, hold_out
from seqgan_rl.sequences.midi import MelodyOptions, read_melody

SUFFIXES = (".mid", ".midi")
MAX_FILES = 200_000


def melodies(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    sequence_length: int = 32,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
    seed: int = 0,
    drop_bad: bool = False,
    name: str | None = None,
    **options: Any,
) -> Corpus:
    """A corpus of piano keys from MIDI files; needs the extra ``music``.

    Args:
        source: a MIDI file, a folder that is searched with those in it, or a list of files.
        sequence_length: T: tunes are cut into windows that do not overlap, and what is left at the end is dropped
            and reported. The paper's 32 by default.
        valid_fraction: share of the files that are held out for validation; 0 for none.
        test_fraction: share of the files that are held out for testing; 0 for none.
        seed: which files are held out; windows, where there are fewer files than splits. A window that also stands in
            an earlier split is dropped from the later one.
        drop_bad: leave out and report files that cannot be read or have notes outside of the piano, instead of
            refusing them all.
        name: what to call the corpus; by default that of the file or folder.
        options: those of `MelodyOptions`: step_seconds, rests, track, transpose.
    """
    check_sequence_length(sequence_length)
    check_fractions(valid_fraction, test_fraction)
    check_seed(seed)
    rule = _melody_options(options)
    needed("mido", "music", "reading MIDI files")
    files, label, default_name = _midi_files(source)
    report: list[str] = []
    windows_of: dict[str, NDArray[np.int64]] = {}
    num_short, num_left = 0, 0
    for file, keys in _read_all(files, rule, drop_bad, label, report).items():
        num_windows = len(keys) // sequence_length
        num_short += num_windows == 0
        num_left += len(keys) % sequence_length
        if num_windows:
            windows_of[file] = keys[: num_windows * sequence_length].reshape(num_windows, sequence_length)
    if num_left:
        left = f"{count_text(num_left, 'key')} left over at the ends of tunes dropped"
        report.append(f"{left}, {count_text(num_short, 'whole tune')} among them" if num_short else left)
    if not windows_of:
        raise InputError(f"{label}: no tune has {sequence_length} keys; lower --sequence-length or step_seconds")
    too_few = len(windows_of) < 1 + (valid_fraction > 0) + (test_fraction > 0)
    parts = _windows_apart(windows_of, report) if too_few else windows_of
    held_out = hold_out(parts, valid_fraction, test_fraction, seed, label, "window" if too_few else "file")
    splits = [[parts[part] for part in parts if held_out.get(part, "train") == split] for split in SPLITS]
    empty = np.empty((0, sequence_length), dtype=np.int64)
    train, valid, test = (np.concatenate([empty, *windows]) for windows in splits)
    name = default_name if name is None else name
    corpus = Corpus.from_arrays(train, valid, test, vocab_size=rule.vocab_size, name=name)
    return replace(corpus, report=(*report, *corpus.report))


def _windows_apart(windows_of: dict[str, NDArray[np.int64]], report: list[str]) -> dict[str, NDArray[np.int64]]:
    """Windows by what they hold, copies together: where there are too few tunes, each can fall in another split."""
    report.append(
        f"windows held out in place of whole tunes, of which there are {len(windows_of)}: the splits share their pieces"
    )
    copies: dict[str, list[NDArray[np.int64]]] = {}
    for window in chain.from_iterable(windows_of.values()):
        copies.setdefault(" ".join(map(str, window)), []).append(window)
    return {keys: np.stack(windows) for keys, windows in copies.items()}


def _melody_options(options: dict[str, Any]) -> MelodyOptions:
    known = [field.name for field in fields(MelodyOptions)]
    for option in options:
        if option not in known:
            raise TypeError(f"unexpected option {option!r}; known are {', '.join(known)}")
    return MelodyOptions(**options)


def _midi_files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[list[str], str, str]:
    """Paths by name, a folder's own before those of its subfolders; what errors begin with; and a name."""
    if not isinstance(source, str | os.PathLike):
        paths = sorted(os.fspath(path) for path in source)
        if not paths:
            raise InputError("MIDI files: expected at least one, got none")
        return paths, "MIDI files", "melodies"
    path = os.fspath(source)
    if not os.path.isdir(path):
        return [path], f"MIDI file {path!r}", Path(path).stem
    paths = []
    for folder, folders, names in os.walk(path):  # does not follow links to folders: no loops
        folders.sort()
        paths += [os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(SUFFIXES)]
        if len(paths) > MAX_FILES:
            raise InputError(f"MIDI folder {path!r}: expected at most {MAX_FILES:,} files, got more; name a part of it")
    if not paths:
        raise InputError(f"MIDI folder {path!r}: expected files that end in {' or '.join(SUFFIXES)}, got none")
    return paths, f"MIDI folder {path!r}", Path(path).name


def _read_all(
    files: Iterable[str], rule: MelodyOptions, drop_bad: bool, label: str, report: list[str]
) -> dict[str, NDArray[np.int64]]:
    """Keys of each file."""
    found: dict[str, NDArray[np.int64]] = {}
    reasons = []
    for file in files:
        try:
            found[file] = read_melody(file, rule)
        except InputError as error:
            if not drop_bad:
                raise
            reasons.append(str(error))
    if reasons:
        report.append(f"{count_text(len(reasons), 'file')} left out; the first: {reasons[0]}")
    if not found:
        raise InputError(f"{label}: no file could be used; the first: {reasons[0]}")
    return found
