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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.streams import stream
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


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a score was measured with. Scores are compared only where this agrees."""

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

    def differences(self, other: "Signature") -> list[str]:
        """What makes the two incomparable, as "name: this != other"; empty if they can be compared."""
        names = [f.name for f in fields(self) if f.name != "sampling"]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name}: {mine} != {theirs}" for name, mine, theirs in pairs if mine != theirs]

    def comparable_with(self, other: "Signature") -> bool:
        """Whether all but the sampling options is equal."""
        return not self.differences(other)


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
    influence: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False, compare=False)
    """Of nll_oracle and entropy (per sample) and nll_test (per held-out sequence): what each sequence adds to the
    estimation error, (B,). For paired errors; not stored in files."""

    def metrics(self) -> dict[str, float]:
        """All numbers that are present, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, int | float)}

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values, which :meth:`from_json` reads back (less ``influence``)."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "influence"}
        return {
            **values,
            "signature": asdict(self.signature),
            "standard_errors": dict(self.standard_errors),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Scores":
        """The scores of a :meth:`to_json` dict."""
        sampling = dict(value["signature"]["sampling"])
        options = SamplingOptions(**{**sampling, "forbidden": tuple(sampling["forbidden"])})
        return cls(**{**value, "signature": Signature(**{**value["signature"], "sampling": options})})


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
    ) -> None:
        if test_BT.ndim != 2 or len(test_BT) < 2:
            raise ValueError(f"test_BT must hold at least 2 sequences, shape (B, T), got shape {tuple(test_BT.shape)}")
        if n_samples < 2:
            raise ValueError(f"n_samples must be at least 2, got {n_samples}")
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
            if sorted(train_rows) == sorted(test_rows):
                raise InputError('refused: scoring "test" on training data; give sequences that were held out')
            self._train_rows = frozenset(train_rows)
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

        costs = {
            "entropy": _ratio(own_nats_B, lengths_B),
            "nll_test": _ratio(test_nats_B, test_lengths_B),
        }
        if self.oracle is not None and self._test_oracle_nats_B is not None:
            oracle_nats_B = _oracle_nats(self.oracle, samples_BT)
            costs["nll_oracle"] = _ratio(oracle_nats_B, lengths_B)
            costs["kl_g_o"] = _ratio(oracle_nats_B - own_nats_B, lengths_B)
            costs["kl_o_g"] = _ratio(test_nats_B - self._test_oracle_nats_B, test_lengths_B)
        rows = _rows(samples_BT)
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
            copied_share=None if self._train_rows is None else sum(r in self._train_rows for r in rows) / len(rows),
            mean_length=float(lengths_B.mean()),
            standard_errors={name: _error(influence_B) for name, (_, influence_B) in costs.items()},
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

    The metrics are nll_oracle, entropy and nll_test. Scores of the same seed and held-out data are paired sequence by
    sequence; samples and held-out data are independent. Scores that were read from a file have lost the pairing: then
    the sum of weight times standard error, signs dropped, is used: a bound that holds whatever the correlation.
    """
    total = 0.0
    for metrics in (OVER_SAMPLES, OVER_TEST):
        group = [term for term in terms if term[2] in metrics]
        if not group:
            continue
        if all(metric in scores.influence for _, scores, metric in group):
            error = _error(np.sum([weight * scores.influence[metric] for weight, scores, metric in group], axis=0))
        else:
            error = sum(abs(weight) * scores.standard_errors[metric] for weight, scores, metric in group)
        total += error**2
    return math.sqrt(total)


def difference(one: Scores, other: Scores, metric: str) -> tuple[float, float]:
    """``one`` minus ``other`` in nll_oracle, entropy or nll_test, and its (paired) standard error."""
    value = float(getattr(one, metric) - getattr(other, metric))
    return value, combined_error([(1.0, one, metric), (-1.0, other, metric)])


def _ratio(nats_B: NDArray[Any], tokens_B: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
    """Σ nats / Σ tokens, and each sequence's influence on it: delta method of a ratio, mean 0."""
    ratio = float(nats_B.sum() / tokens_B.sum())
    if not math.isfinite(ratio):
        return ratio, np.full(len(nats_B), math.nan)
    return ratio, (nats_B - ratio * tokens_B) / tokens_B.mean()


def _error(influence_B: NDArray[np.float64]) -> float:
    """Standard error of the estimate whose influence values these are; NaN if there is none."""
    return float(influence_B.std(ddof=1) / math.sqrt(len(influence_B)))


def _oracle_nats(oracle: Oracle, tokens_BT: Tensor) -> NDArray[np.float64]:
    """Cost of each sequence under the oracle, nats, (B,); chunk by chunk."""
    parts = (tokens_BT[start : start + CHUNK].to(oracle.generator.device) for start in range(0, len(tokens_BT), CHUNK))
    return np.concatenate([-_numpy(oracle.log_prob(part).double().sum(dim=1)) for part in parts])


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
