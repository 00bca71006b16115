"""Scores of sequences alone, wherever they are from: BLEU and its relatives, diversity, copies, n-gram divergence.

Formulas and sources: :mod:`seqgan_rl.evaluation.bleu` and :mod:`seqgan_rl.evaluation.diversity`. None of these scores
is a proof of quality: BLEU is blind to order beyond a few words and is raised by any sharpening. Read BLEU (quality)
beside Self-BLEU, backward BLEU and distinct-n (diversity), and beside what real sequences get.
Letters: N sequences, T tokens each, V vocabulary size.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation.bleu import MAX_ORDER, BleuReferences, Smoothing
from seqgan_rl.evaluation.diversity import MAX_ORDER as MAX_DIVERSITY_ORDER
from seqgan_rl.evaluation.diversity import distinct_share, pooled_entropy, pooled_js, repeated_share
from seqgan_rl.evaluation.intervals import Floats, ratio, standard_error
from seqgan_rl.evaluation.music import NUM_PITCHES, music_scores
from seqgan_rl.evaluation.ngrams import UNKNOWN, Ints, NgramIndex, check_words, word_counts
from seqgan_rl.evaluation.signature import Comparable

BLEU_ORDERS = range(2, MAX_ORDER + 1)
DIVERSITY_ORDERS = range(1, MAX_DIVERSITY_ORDER + 1)


@dataclass(frozen=True, kw_only=True)
class SampleSignature(Comparable):
    """What scores of samples were measured with."""

    reference_hash: str
    """Hash of the references' words, in their order."""
    reference_split: str
    """Which split of the corpus the references are."""
    reference_size: int
    """References: more of them raise BLEU."""
    train_hash: str | None
    """Hash of the sequences that copies are counted in; None where copies are not counted."""
    sample_size: int
    """Samples: more of them raise Self-BLEU and lower distinct-n."""
    vocab_size: int
    """V: ids from here up, EOS and PAD, are no words."""
    smoothing: Smoothing
    """Of every BLEU; nltk's name."""
    num_pitches: int | None = None
    """Of the music scores; None where words are no pitches."""


@dataclass(frozen=True, kw_only=True)
class SampleScores:
    """What :class:`SampleScorer` found, by name, such as "bleu_4" (orders 2 to 5) or "ngram_js_1" (orders 1 to 4)."""

    signature: SampleSignature
    values: Mapping[str, float]
    """bleu_n, self_bleu_n, backward_bleu_n; distinct_n, repetition_n, ngram_js_n; word_entropy (nats);
    vocabulary_used (distinct words / V), unique_share, copied_share, mean_words; of music also those of
    :class:`~seqgan_rl.evaluation.music.MusicScores`. NaN: no sequence is long enough."""
    standard_errors: Mapping[str, float]
    """Over sequences, of all but distinct_n, vocabulary_used and unique_share, which are no means (in music also the
    histograms' divergences, pitch_mse and pitches_used). Of the BLEUs over both samples and references, by the
    jackknife."""
    influence: Mapping[str, Floats] = field(default_factory=dict, repr=False, compare=False)
    """Of the BLEUs: what each sample adds to the estimation error, (samples,)."""
    reference_influence: Mapping[str, Floats] = field(default_factory=dict, repr=False, compare=False)
    """Of BLEU and backward BLEU: what each reference adds, (references,)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, which :meth:`from_json` reads back (less ``influence``); NaN becomes None."""
        return {
            "signature": asdict(self.signature),
            "values": {k: None if math.isnan(v) else v for k, v in self.values.items()},
            "standard_errors": {k: None if math.isnan(v) else v for k, v in self.standard_errors.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SampleScores":
        """The scores of a :meth:`to_json` dict."""
        values, errors = (
            {k: math.nan if v is None else float(v) for k, v in value[key].items()}
            for key in ("values", "standard_errors")
        )
        return cls(signature=SampleSignature(**value["signature"]), values=values, standard_errors=errors)


class SampleScorer:
    """Scores sets of samples against one set of references, which is counted once.

    Memory grows with the tokens of references and samples, never with samples times references.

    Args:
        references: held-out sequences, integers, (M, T), M >= 2; ids from ``vocab_size`` up are EOS and PAD.
        vocab_size: V.
        train: training sequences, to count copies and to draw :meth:`real_scores` from; None leaves both out.
        smoothing: of every BLEU.
        split: what to call the references in the signature.
        pitch_of_word: for music, the pitch of each word in [0, 88), or 88 for a word without, integers, (V,); adds the
            scores of :func:`~seqgan_rl.evaluation.music.music_scores`.
    """

    def __init__(
        self,
        references: ArrayLike,
        vocab_size: int,
        *,
        train: ArrayLike | None = None,
        smoothing: Smoothing = "method1",
        split: str = "test",
        pitch_of_word: ArrayLike | None = None,
    ) -> None:
        self.vocab_size, self.smoothing, self.split = vocab_size, smoothing, split
        self._references_MT = check_words(references, vocab_size, "references")
        if len(self._references_MT) < 2:
            raise InputError("references must be at least 2 sequences, got 1")
        self._bleu = BleuReferences(self._references_MT, vocab_size)
        self._index = NgramIndex(self._references_MT, vocab_size, MAX_DIVERSITY_ORDER)
        self._train_NT = None if train is None else check_words(train, vocab_size, "train")
        self._train_rows = None if self._train_NT is None else set(_rows(self._train_NT, vocab_size))
        self._train_hash = None if self._train_NT is None else _hash(self._train_NT, vocab_size)
        self._reference_hash = _hash(self._references_MT, vocab_size)
        self._pitch_of_word = None if pitch_of_word is None else _checked_pitches(pitch_of_word, vocab_size)

    def scores(self, samples: ArrayLike) -> SampleScores:
        """Score samples, integers, (N, any T), N >= 2."""
        words_NT = check_words(samples, self.vocab_size, "samples")
        if len(words_NT) < 2:
            raise InputError("samples must be at least 2 sequences, got 1")
        values, influence, reference_influence = self._bleus(words_NT)
        errors = {
            name: math.hypot(*(standard_error(part[name]) for part in (influence, reference_influence) if name in part))
            for name in values
        }
        for found, found_errors in (
            self._diversity(words_NT),
            self._whole_sequences(words_NT),
            self._music(words_NT),
        ):
            values |= found
            errors |= found_errors
        return SampleScores(
            signature=SampleSignature(
                reference_hash=self._reference_hash,
                reference_split=self.split,
                reference_size=len(self._references_MT),
                train_hash=self._train_hash,
                sample_size=len(words_NT),
                vocab_size=self.vocab_size,
                smoothing=self.smoothing,
                num_pitches=None if self._pitch_of_word is None else NUM_PITCHES,
            ),
            values=values,
            standard_errors=errors,
            influence=influence,
            reference_influence=reference_influence,
        )

    def real_scores(self, sample_size: int, seed: int = 0) -> SampleScores | None:
        """Training sequences in the samples' place: what a perfect generator would get at this number of samples (its
        copies apart). None where the training set is absent or smaller."""
        if self._train_NT is None or len(self._train_NT) < sample_size:
            return None
        rows = np.random.default_rng(seed).choice(len(self._train_NT), sample_size, replace=False)
        return self.scores(self._train_NT[np.sort(rows)])

    def _bleus(self, words_NT: Ints) -> tuple[dict[str, float], dict[str, Floats], dict[str, Floats]]:
        """Values, and influence of samples and of references: a sentence on the mean by its own BLEU, and by what those
        of others would lose without it (jackknife)."""
        own, (N, M) = BleuReferences(words_NT, self.vocab_size), (len(words_NT), len(self._references_MT))
        forward_MN, within_NN, backward_NN = (np.zeros((size, MAX_ORDER)) for size in (M, N, N))
        bleu_NN = self._bleu.sentence_bleu(words_NT, self.smoothing, forward_MN)
        self_bleu_NN = own.leave_one_out(self.smoothing, within_NN)
        backward_bleu_MN = own.sentence_bleu(self._references_MT, self.smoothing, backward_NN)
        means = {"bleu": bleu_NN, "self_bleu": self_bleu_NN, "backward_bleu": backward_bleu_MN}
        of_samples = {
            "bleu": bleu_NN,
            "self_bleu": self_bleu_NN + within_NN,
            "backward_bleu": backward_NN * ((N - 1) / M),
        }
        of_references = {"bleu": forward_MN * ((M - 1) / N), "backward_bleu": backward_bleu_MN}

        def columns(parts: dict[str, Floats]) -> dict[str, Floats]:
            return {f"{name}_{n}": part[:, n - 1] for name, part in parts.items() for n in BLEU_ORDERS}

        values = {name: float(bleu_B.mean()) for name, bleu_B in columns(means).items()}
        centred = [{k: x_B - x_B.mean() for k, x_B in columns(part).items()} for part in (of_samples, of_references)]
        return values, centred[0], centred[1]

    def _diversity(self, words_NT: Ints) -> tuple[dict[str, float], dict[str, float]]:
        own = NgramIndex(words_NT, self.vocab_size, MAX_DIVERSITY_ORDER)
        known = self._index.ids(words_NT)
        entropy, influence_N = pooled_entropy(own.own_ids[0], own.size(1))
        values, errors = dict[str, float](), {"word_entropy": standard_error(influence_N)}
        for n in DIVERSITY_ORDERS:
            values[f"distinct_{n}"] = distinct_share(own.own_ids[n - 1], own.size(n))
        for n in DIVERSITY_ORDERS:
            values[f"repetition_{n}"], influence_N = repeated_share(own.own_ids[n - 1], own.size(n))
            errors[f"repetition_{n}"] = standard_error(influence_N)
        for n in DIVERSITY_ORDERS:
            values[f"ngram_js_{n}"], errors[f"ngram_js_{n}"] = pooled_js(
                known[n - 1], self._index.own_ids[n - 1], own.own_ids[n - 1] != UNKNOWN, self._index.size(n)
            )
        return {**values, "word_entropy": entropy, "vocabulary_used": own.size(1) / self.vocab_size}, errors

    def _whole_sequences(self, words_NT: Ints) -> tuple[dict[str, float], dict[str, float]]:
        rows, lengths_N = _rows(words_NT, self.vocab_size), word_counts(words_NT, self.vocab_size)
        means = {"mean_words": lengths_N}
        if self._train_rows is not None:
            means["copied_share"] = np.array([row in self._train_rows for row in rows], dtype=np.int64)
        found = {name: ratio(x_N, np.ones(len(rows))) for name, x_N in means.items()}
        values = {name: value for name, (value, _) in found.items()}
        return (
            {**values, "unique_share": len(set(rows)) / len(rows)},
            {name: standard_error(influence_N) for name, (_, influence_N) in found.items()},
        )

    def _music(self, words_NT: Ints) -> tuple[dict[str, float], dict[str, float]]:
        if self._pitch_of_word is None:
            return {}, {}
        found = music_scores(self._pitch_of_word[words_NT], self._pitch_of_word[self._references_MT])
        return found.values, found.standard_errors


def _checked_pitches(pitch_of_word: ArrayLike, vocab_size: int) -> Ints:
    """The pitch of every word, and silence for EOS and PAD, (V + 1,)."""
    pitches_V = np.asarray(pitch_of_word)
    if pitches_V.shape != (vocab_size,) or not np.issubdtype(pitches_V.dtype, np.integer) or (pitches_V < 0).any():
        raise InputError(
            f"pitch_of_word must be integers of at least 0, one for each of the {vocab_size} words, got "
            f"{pitches_V.dtype} of shape {pitches_V.shape}"
        )
    return np.append(pitches_V.astype(np.int64), NUM_PITCHES)


def _rows(words_NT: Ints, vocab_size: int) -> list[bytes]:
    """One hashable value a sequence, whatever its padding."""
    lengths = word_counts(words_NT, vocab_size).tolist()
    return [row[:length].tobytes() for row, length in zip(words_NT, lengths, strict=True)]


def _hash(words_NT: Ints, vocab_size: int) -> str:
    digest = hashlib.sha256(word_counts(words_NT, vocab_size).astype("<i8").tobytes())
    digest.update(words_NT[words_NT < vocab_size].astype("<i8").tobytes())
    return digest.hexdigest()[:16]
