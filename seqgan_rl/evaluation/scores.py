"""Scores of a generator: quality, coverage and diversity, each with a standard error, under one signature.

All costs are nats per token, Σ nats / Σ tokens over sequences: EOS counts as a token, PAD never does. With G the
generator as it samples (same temperature, top-k, top-p), O the oracle, D the held-out sequences:
    nll_oracle = -E_G log O      entropy = -E_G log G      kl_g_o = nll_oracle - entropy
    nll_test   = -E_D log G                                kl_o_g = nll_test + E_D log O
NLL_oracle is the measure of Yu et al. (arXiv:1609.05473), Section 4; NLL_test is that of Guo et al. (1709.08624).
No one of them suffices: NLL_oracle rewards a generator that repeats one likely sequence, kl_g_o does too, and nll_test
hides it. ``entropy`` and ``distinct_tokens`` show it at once.
Letters: B sequences, T tokens each.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.streams import stream
from seqgan_rl.evaluation.bleu import Smoothing
from seqgan_rl.evaluation.divergence import conditional_js
from seqgan_rl.evaluation.intervals import ratio, standard_error
from seqgan_rl.evaluation.plain import from_plain, to_plain
from seqgan_rl.evaluation.sample_scores import SampleScorer, SampleScores
from seqgan_rl.evaluation.signature import Comparable
from seqgan_rl.models.decoding import State
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.likelihood import sequence_nll
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.sequences.padding import check_tokens

CHUNK = 1024
"""Sequences drawn or scored at a time: bounds memory, changes no number."""

OVER_SAMPLES = ("nll_oracle", "entropy")
OVER_TEST = ("nll_test",)
"""Which sequences a cost is averaged over; costs over the same sequences are paired."""


def sides(metric: str) -> tuple[bool, bool]:
    """Whether the error of a score is over samples, and whether it is over held-out sequences."""
    is_over_both = metric.startswith(("bleu_", "backward_bleu_"))
    return is_over_both or metric not in OVER_TEST, is_over_both or metric in OVER_TEST


@dataclass(frozen=True, kw_only=True)
class Signature(Comparable):
    """What a score was measured with. Scores are compared only where this agrees."""

    may_differ: ClassVar[tuple[str, ...]] = ("sampling",)

    oracle_hash: str | None
    """Which oracle scored the samples; None without one."""
    corpus_hash: str
    """Which corpus, as the caller names it."""
    test_hash: str
    """Hash of the held-out sequences themselves, in their order."""
    sample_size: int
    """Sequences drawn from the generator."""
    test_size: int
    """Held-out sequences."""
    sequence_length: int
    """T."""
    vocab_size: int
    """V, EOS not counted."""
    unk_rate: float
    """Share of UNK among the held-out words; 0 where there is no UNK."""
    seed: int
    """Seed of the samples; the same seed pairs the samples of two generators."""
    sampling: SamplingOptions
    """How the generator was sampled. The one thing that comparable scores may differ in."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one evaluation found. ``None`` where the oracle or the training data is absent."""

    signature: Signature
    nll_oracle: float | None
    """Cost of the generator's samples under the oracle, nats per token. Quality; lower is better."""
    nll_test: float
    """Cost of held-out data under the generator, nats per token. Coverage; lower is better."""
    entropy: float
    """Cost of the generator's samples under the generator itself, nats per token."""
    kl_g_o: float | None
    """KL(G || O), nats per token; a collapsed generator can have little of it."""
    kl_o_g: float | None
    """KL(O || G), nats per token."""
    distinct_tokens: int
    """Different words in the samples."""
    unique_share: float
    """Different sequences / samples."""
    copied_share: float | None
    """Share of the samples that stand in the training data, whole."""
    mean_length: float
    """Tokens a sample, EOS counted."""
    standard_errors: Mapping[str, float]
    """Of the five costs above, over sequences; the spread between training runs is not in them."""
    conditional_js: float | None = None
    """Jensen-Shannon divergence to the oracle at each prefix, nats per token; None where it was not asked for."""
    samples: SampleScores | None = None
    """BLEU, diversity and n-gram scores of the samples; None where they were not asked for."""
    influence: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)
    """Of nll_oracle and entropy (per sample) and nll_test (per held-out sequence): what each sequence adds to the
    estimation error, (B,). For paired errors; not stored in files."""

    def metrics(self) -> dict[str, float]:
        """All numbers that are present, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        own = {name: value for name, value in values.items() if isinstance(value, int | float)}
        return own if self.samples is None else {**self.samples.values, **own}

    def value(self, metric: str) -> float:
        """A number by its name, such as "nll_test" or "bleu_4"; NaN where it was not measured."""
        return float(self.metrics().get(metric, math.nan))

    def error(self, metric: str) -> float:
        """Its standard error over sequences; NaN where it has none."""
        more = {} if self.samples is None else self.samples.standard_errors
        return float({**more, **self.standard_errors}.get(metric, math.nan))

    def influence_of(self, metric: str) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """What each sample, and what each held-out sequence, adds to its estimation error; None where that was not
        kept."""
        own = self.influence.get(metric)
        if own is not None or self.samples is None:
            return (None, own) if metric in OVER_TEST else (own, None)
        return self.samples.influence.get(metric), self.samples.reference_influence.get(metric)

    def differences(self, other: "Scores") -> list[str]:
        """What makes the two incomparable; empty if they can be compared."""
        found = self.signature.differences(other.signature)
        if self.samples is not None and other.samples is not None:
            found += self.samples.signature.differences(other.samples.signature)
        return found

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values, which :meth:`from_json` reads back (less ``influence``); what is not finite is "inf"
        or "nan"."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("influence", "samples")}
        return {
            **to_plain({**values, "signature": None}),
            "signature": asdict(self.signature),
            "samples": None if self.samples is None else self.samples.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scores":
        """The scores of a :meth:`to_json` dict."""
        sampling = dict(value["signature"]["sampling"])
        options = SamplingOptions(**{**sampling, "forbidden": tuple(sampling["forbidden"])})
        signature, samples = Signature(**{**value["signature"], "sampling": options}), value.get("samples")
        read = None if samples is None else SampleScores.from_json(samples)
        numbers = {name: from_plain(part) for name, part in value.items() if name not in ("signature", "samples")}
        return cls(**numbers, signature=signature, samples=read)


class Evaluator:
    """Scores generators against one held-out set, always with the same seed, so that their scores are paired.

    What does not depend on the generator is worked out once. Neither scoring nor its frequency changes anything else:
    randomness comes from a stream of its own, and the generator's training mode is put back.

    Args:
        test_BT: held-out sequences, int64, (B, T), PAD after EOS; at least 2.
        oracle: the true distribution, where it is known.
        train_BT: training sequences, to count copies and to refuse training data given as held-out data.
        n_samples: sequences drawn from a generator, at least 2.
        seed: of the drawn sequences.
        forbidden: ids that are not sampled, such as UNK. Held-out data is scored with all ids possible.
        unk_id: UNK among the words, to report its share.
        corpus_hash: names the corpus in the signature.
        smoothing: score the samples by BLEU, diversity and n-grams too (:class:`SampleScorer`), every BLEU with this
            smoothing; None leaves them out.
        pitch_of_word: for music, as for :class:`SampleScorer`; read where there is a smoothing.
        js_sequences: sequences of each half of the conditional Jensen-Shannon divergence; 0 leaves it out, as does
            the lack of an oracle.

    Raises:
        ValueError: for sizes that cannot be. InputError (one too) for training data given as held-out data.
    """

    def __init__(
        self,
        test_BT: Tensor,
        *,
        oracle: Oracle | None = None,
        train_BT: Tensor | None = None,
        n_samples: int = 4992,
        seed: int = 0,
        forbidden: tuple[int, ...] = (),
        unk_id: int | None = None,
        corpus_hash: str = "",
        smoothing: Smoothing | None = None,
        pitch_of_word: NDArray[np.int64] | None = None,
        js_sequences: int = 0,
    ) -> None:
        if test_BT.ndim != 2 or len(test_BT) < 2:
            raise ValueError(f"test_BT must hold at least 2 sequences, shape (B, T), got shape {tuple(test_BT.shape)}")
        if n_samples < 2:
            raise ValueError(f"n_samples must be at least 2, got {n_samples}")
        if js_sequences < 0 or js_sequences == 1:
            raise ValueError(f"js_sequences must be 0, for none, or at least 2, got {js_sequences}")
        self.smoothing, self.js_sequences, self.train_BT = smoothing, js_sequences, train_BT
        self.pitch_of_word = pitch_of_word
        self._scorers: dict[int, SampleScorer] = {}
        self.test_BT, self.oracle, self.n_samples, self.seed = test_BT, oracle, n_samples, seed
        self.forbidden, self.unk_id, self.corpus_hash = forbidden, unk_id, corpus_hash
        test_rows = _rows(test_BT)
        self._test_hash = hashlib.sha256(b"".join(test_rows)).hexdigest()[:16]
        self._train_rows: frozenset[bytes] | None = None
        if train_BT is not None:
            if train_BT.ndim != 2 or train_BT.shape[1] != test_BT.shape[1]:
                raise ValueError(
                    f"train_BT and test_BT must have the same T, got {tuple(train_BT.shape)}, {tuple(test_BT.shape)}"
                )
            train_rows = _rows(train_BT)
            self._train_rows = frozenset(train_rows)
            shared = sum(row in self._train_rows for row in test_rows)
            if sorted(train_rows) == sorted(test_rows) or _are_copies(shared, len(test_rows), train_rows):
                raise InputError(
                    f'refused: scoring "test" on training data; {shared:,} of the {len(test_rows):,} test sequences '
                    "stand in train_BT; give sequences that were held out"
                )
        self._test_oracle_nats_B = None if oracle is None else _oracle_nats(oracle, test_BT)

    def scores(
        self, generator: Generator, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
    ) -> Scores:
        """Score a generator as it samples with these options.

        With top-k or top-p a held-out token may be impossible; ``nll_test`` is then infinite, which is the truth.
        """
        self._check(generator)
        reshaped = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        sampling = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, forbidden=self.forbidden)
        with evaluation_mode(generator):
            samples_BT = self._sample(generator, sampling)
            own_nats_B = _numpy(sequence_nll(generator, samples_BT, **reshaped, forbidden=self.forbidden))
            test_nats_B = _numpy(sequence_nll(generator, self.test_BT.to(generator.device), **reshaped))
        lengths_B = _numpy((samples_BT != generator.pad_id).sum(dim=1))
        test_lengths_B = _numpy((self.test_BT != generator.pad_id).sum(dim=1))

        js, js_error = self._conditional_js(generator, samples_BT, sampling)
        costs = {
            "entropy": ratio(own_nats_B, lengths_B),
            "nll_test": ratio(test_nats_B, test_lengths_B),
        }
        if self.oracle is not None and self._test_oracle_nats_B is not None:
            oracle_nats_B = _oracle_nats(self.oracle, samples_BT)
            costs["nll_oracle"] = ratio(oracle_nats_B, lengths_B)
            costs["kl_g_o"] = ratio(oracle_nats_B - own_nats_B, lengths_B)
            costs["kl_o_g"] = ratio(test_nats_B - self._test_oracle_nats_B, test_lengths_B)
        rows, means = _rows(samples_BT), {"mean_length": lengths_B}
        if self._train_rows is not None:
            means["copied_share"] = np.array([row in self._train_rows for row in rows], dtype=np.float64)
        words = set(np.unique(_numpy(samples_BT)).tolist()) - {generator.eos_id, generator.pad_id}
        value = {name: cost for name, (cost, _) in costs.items()}
        return Scores(
            signature=self._signature(generator, sampling),
            nll_oracle=value.get("nll_oracle"),
            nll_test=value["nll_test"],
            entropy=value["entropy"],
            kl_g_o=value.get("kl_g_o"),
            kl_o_g=value.get("kl_o_g"),
            distinct_tokens=len(words),
            unique_share=len(set(rows)) / len(rows),
            copied_share=float(means["copied_share"].mean()) if "copied_share" in means else None,
            mean_length=float(lengths_B.mean()),
            conditional_js=js,
            samples=None if self.smoothing is None else self.scorer(generator).scores(_numpy(samples_BT)),
            standard_errors={
                **{name: standard_error(influence_B) for name, (_, influence_B) in costs.items()},
                **{name: standard_error(x_B) for name, x_B in means.items()},
                **js_error,
            },
            influence={name: costs[name][1] for name in (*OVER_SAMPLES, *OVER_TEST) if name in costs},
        )

    def oracle_scores(self) -> Scores:
        """The oracle in the generator's place: the floor that no generator passes. All its costs are its entropy."""
        if self.oracle is None:
            raise ValueError("oracle_scores needs an oracle; give `oracle=` to the Evaluator")
        return self.scores(self.oracle.generator)

    def uniform_scores(self, num_actions: int, *, has_eos: bool = False) -> Scores:
        """A generator that knows nothing: every action equally likely. ``nll_test`` is ln(num_actions)."""
        return self.scores(_Uniform(num_actions, self.test_BT.shape[1], has_eos))

    def scorer(self, generator: Generator) -> SampleScorer:
        """What scores samples of this generator's words; made once."""
        vocab_size = generator.num_actions - (generator.eos_id is not None)
        if vocab_size not in self._scorers:
            train_NT = None if self.train_BT is None else _numpy(self.train_BT)
            self._scorers[vocab_size] = SampleScorer(
                _numpy(self.test_BT),
                vocab_size,
                train=train_NT,
                smoothing=self.smoothing or "method1",
                pitch_of_word=self.pitch_of_word,
            )
        return self._scorers[vocab_size]

    def _conditional_js(
        self, generator: Generator, samples_BT: Tensor, sampling: SamplingOptions
    ) -> tuple[float | None, dict[str, float]]:
        """The divergence and its standard error by name, where it is asked for and there is an oracle."""
        if self.oracle is None or self.js_sequences == 0 or not generator.is_policy:
            return None, {}
        halves = samples_BT[: self.js_sequences], self.test_BT[: self.js_sequences]
        value, error = conditional_js(generator, self.oracle, *halves, sampling)
        return value, {"conditional_js": error}

    def _check(self, generator: Generator) -> None:
        T, oracle = self.test_BT.shape[1], self.oracle
        if generator.sequence_length != T:
            raise ValueError(f"test_BT must have the generator's T={generator.sequence_length}, got T={T}")
        check_tokens(_numpy(self.test_BT), generator.num_actions, eos_id=generator.eos_id)
        if oracle is not None and (oracle.vocab_size, None) != (generator.num_actions, generator.eos_id):
            raise ValueError(
                f"the oracle writes {oracle.vocab_size} words without EOS, the generator has "
                f"{generator.num_actions} actions{'' if generator.eos_id is None else ', EOS among them'}; "
                "they must speak the same language"
            )

    def _sample(self, generator: Generator, options: SamplingOptions) -> Tensor:
        rng, n = stream(self.seed, "evaluation"), self.n_samples
        sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]
        return torch.cat([generator.sample(size, rng=rng, **asdict(options)) for size in sizes])

    def _signature(self, generator: Generator, sampling: SamplingOptions) -> Signature:
        is_word_BT = self.test_BT != generator.pad_id
        if generator.eos_id is not None:
            is_word_BT &= self.test_BT != generator.eos_id
        unk = 0 if self.unk_id is None else int((self.test_BT == self.unk_id).sum())
        return Signature(
            oracle_hash=None if self.oracle is None else self.oracle.hash,
            corpus_hash=self.corpus_hash,
            test_hash=self._test_hash,
            sample_size=self.n_samples,
            test_size=len(self.test_BT),
            sequence_length=generator.sequence_length,
            vocab_size=generator.num_actions - (generator.eos_id is not None),
            unk_rate=unk / max(1, int(is_word_BT.sum())),
            seed=self.seed,
            sampling=sampling,
        )


def evaluate_generator(
    generator: Generator,
    test_BT: Tensor,
    *,
    oracle: Oracle | None = None,
    train_BT: Tensor | None = None,
    n_samples: int = 4992,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    forbidden: tuple[int, ...] = (),
    unk_id: int | None = None,
    corpus_hash: str = "",
) -> Scores:
    """Score one generator once; :class:`Evaluator` says what the arguments are, and scores many for less."""
    evaluator = Evaluator(
        test_BT,
        oracle=oracle,
        train_BT=train_BT,
        n_samples=n_samples,
        seed=seed,
        forbidden=forbidden,
        unk_id=unk_id,
        corpus_hash=corpus_hash,
    )
    return evaluator.scores(generator, temperature=temperature, top_k=top_k, top_p=top_p)


def oracle_scores(oracle: Oracle, test_BT: Tensor, **options: Any) -> Scores:
    """Scores of the oracle itself; ``options`` as for :class:`Evaluator`."""
    return Evaluator(test_BT, oracle=oracle, **options).oracle_scores()


def uniform_scores(test_BT: Tensor, num_actions: int, *, has_eos: bool = False, **options: Any) -> Scores:
    """Scores of uniformly random sequences; ``options`` as for :class:`Evaluator`."""
    return Evaluator(test_BT, **options).uniform_scores(num_actions, has_eos=has_eos)


def combined_error(terms: Sequence[tuple[float, Scores, str]]) -> float:
    """Standard error of Σ weight · scores.metric over terms (weight, scores, metric) of comparable scores.

    Scores of the same seed and held-out data are paired sequence by sequence where their influence values are known (of
    nll_oracle, entropy, nll_test and BLEUs); samples and held-out data are independent. Others, and scores that were
    read from a file, have lost the pairing: then the sum of weight times standard error, signs dropped, is used: a
    bound that holds whatever the correlation.
    """
    groups: dict[tuple[bool, bool], list[tuple[float, Scores, str]]] = {}
    for term in terms:
        groups.setdefault(sides(term[2]), []).append(term)
    paired = {side: _paired_error(group) for side, group in groups.items()}
    if None not in paired.values():
        return _paired_error(terms) or 0.0
    bounds = {
        side: sum(abs(weight) * scores.error(metric) for weight, scores, metric in groups[side])
        if error is None
        else error
        for side, error in paired.items()
    }
    of_samples, of_test, of_both = (bounds.get(side, 0.0) for side in ((True, False), (False, True), (True, True)))
    return math.hypot(of_samples, of_test) + of_both


def _paired_error(terms: Sequence[tuple[float, Scores, str]]) -> float | None:
    """Of the sum over terms, from what each sequence adds to it; None where that was not kept."""
    known = [(weight, scores.influence_of(metric)) for weight, scores, metric in terms]
    if any(of_samples is None and of_test is None for _, (of_samples, of_test) in known):
        return None
    variance = 0.0
    for i in range(2):
        parts = [weight * part for weight, both in known if (part := both[i]) is not None]
        if parts:
            variance += standard_error(np.sum(parts, axis=0)) ** 2
    return math.sqrt(variance)


def difference(one: Scores, other: Scores, metric: str) -> tuple[float, float]:
    """``one`` minus ``other`` in a score, and its standard error: paired for nll_oracle, entropy, nll_test and BLEUs,
    for all others a bound."""
    value = one.value(metric) - other.value(metric)
    return value, combined_error([(1.0, one, metric), (-1.0, other, metric)])


def _oracle_nats(oracle: Oracle, tokens_BT: Tensor) -> NDArray[np.float64]:
    """Cost of each sequence under the oracle, nats, (B,); chunk by chunk."""
    parts = (tokens_BT[start : start + CHUNK].to(oracle.generator.device) for start in range(0, len(tokens_BT), CHUNK))
    return np.concatenate([-_numpy(oracle.log_prob(part).double().sum(dim=1)) for part in parts])


def _are_copies(shared: int, total: int, train_rows: Sequence[bytes]) -> bool:
    """Whether so many of the held-out sequences are training data taken again: most of them, and more than those that
    the training data holds twice explain (Chernoff's bound on that chance is below 1e-6). In a small world they may
    share most."""
    counts = Counter(train_rows)
    repeated = sum(count for count in counts.values() if count > 1)
    chance, share = max(repeated, 1) / len(train_rows), shared / total
    if share <= max(0.5, chance):
        return False
    divergence = share * math.log(share / chance)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - chance))
    return total * divergence > -math.log(1e-6)


def _rows(tokens_BT: Tensor) -> list[bytes]:
    """One hashable value a sequence."""
    return [row.tobytes() for row in np.ascontiguousarray(_numpy(tokens_BT), dtype=np.int64)]


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


class _Uniform(Generator):
    """Every action equally likely, whatever the prefix."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def initial_state(self, batch_size: int) -> State:
        return (torch.zeros(batch_size, 0),)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        return torch.zeros(len(tokens_B), self.num_actions), state

    def _token_log_prob(self, tokens_BT: Tensor, targets_BT: Tensor, options: SamplingOptions) -> Tensor:
        logp_A = options.apply(torch.zeros(self.num_actions, dtype=torch.float64)).log_softmax(dim=0)
        return logp_A[targets_BT]
