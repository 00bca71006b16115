"""All scores of several models at once: tables, temperature sweep, gaps, Pareto tests and figures.

    evaluator = Evaluator(test_BT, oracle=oracle, train_BT=train_BT, smoothing="method1", js_sequences=512)
    evaluation = evaluate_models({"MLE": mle, "SeqGAN": agent}, evaluator, sweep=SWEEP_TEMPERATURES)
    evaluation.write("scores")

Models are scored one after the other in slices of bounded size; nothing grows with the number of samples but the
samples themselves. Letters: B sequences, T tokens each, A actions.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.evaluation.curve import DEFAULT_TEMPERATURES, Gap, TemperatureCurve
from seqgan_rl.evaluation.figures import sweep_curves
from seqgan_rl.evaluation.pareto import ParetoTest, pareto_test
from seqgan_rl.evaluation.plain import to_plain
from seqgan_rl.evaluation.report import REAL, Row, ScoreTable, gap_table, sample_table, score_table, sweep_table
from seqgan_rl.evaluation.sample_scores import SampleScores
from seqgan_rl.evaluation.scores import Evaluator, Scores
from seqgan_rl.models.decoding import RolloutPolicy, State
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.sampling import SamplingOptions

SWEEP_TEMPERATURES: tuple[float, ...] = tuple(round(0.1 * k, 1) for k in range(5, 16))
"""0.5 to 1.5; temperatures divide the logits."""

PAIRS = (("nll_oracle", "nll_test"), ("bleu_4", "self_bleu_4"))
"""Quality and coverage: what sweeps draw and Pareto tests compare."""

_IMPOSSIBLE = -1e6
"""Below this a log-probability is one of -inf: policies write what they never play as a large negative logit."""


class PolicyGenerator(Generator):
    """Any rollout policy as a generator, so that it can be sampled and scored at any temperature. Not for training.

    Args:
        policy: has ``num_actions``, ``eos_id``, ``initial_state`` and ``step``, such as ``ModelPolicy(model)``.
        sequence_length: T.
    """

    def __init__(self, policy: RolloutPolicy, sequence_length: int) -> None:
        super().__init__(policy.num_actions, sequence_length, policy.eos_id is not None)
        self.policy = policy

    @property
    def device(self) -> torch.device:
        """Where the policy is; the CPU for one that does not say."""
        return torch.device(getattr(self.policy, "device", "cpu"))

    def initial_state(self, batch_size: int) -> State:
        """See :meth:`Generator.initial_state`."""
        return self.policy.initial_state(batch_size)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Generator.step`."""
        return self.policy.step(tokens_B, state)

    def _token_log_prob(self, tokens_BT: Tensor, targets_BT: Tensor, options: SamplingOptions) -> Tensor:
        logp_BT = super()._token_log_prob(tokens_BT, targets_BT, options)
        return logp_BT.masked_fill(logp_BT < _IMPOSSIBLE, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What :func:`evaluate_models` found."""

    rows: tuple[Row, ...]
    """Each model at temperature 1, with its gap where a curve was measured."""
    curves: Mapping[str, TemperatureCurve]
    """Each model at several temperatures; empty without a sweep."""
    baseline: str
    """The model whose temperature curve is the bar."""
    pareto: tuple[ParetoTest, ...]
    """Among the models at temperature 1; one test for each pair of scores that was measured."""
    real: SampleScores | None = None
    """Training sequences in the samples' place, scored by what needs no model."""
    gaps: Mapping[str, Mapping[str, Gap]] = field(default_factory=dict)
    """gaps[model]["nll"] and, with sample scores, gaps[model]["bleu_4"]."""

    def scores(self, name: str) -> Scores:
        """Scores of a model at temperature 1."""
        found = {row.name: row.scores for row in self.rows}
        scores = found.get(name)
        if scores is None:
            raise KeyError(f"no model {name!r}{did_you_mean(name, list(found))}; there are {', '.join(found)}")
        return scores

    @property
    def tables(self) -> dict[str, ScoreTable]:
        """The tables that there is something for: "scores", "samples", "gaps", "sweep"."""
        found = {"scores": score_table(self.rows)}
        sampled = [(row.name, row.scores.samples) for row in self.rows if row.scores and row.scores.samples]
        if sampled:
            real = [] if self.real is None else [(REAL, self.real)]
            found["samples"] = sample_table([*real, *sampled])
        if self.gaps:
            found["gaps"] = gap_table(self.gaps, self.baseline)
        if self.curves:
            found["sweep"] = sweep_table(self.curves)
        return found

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values; every score carries its signature, what is not finite is written as "inf" or
        "nan"."""
        document: dict[str, Any] = {
            "rows": [{"name": row.name, "scores": row.scores.to_json()} for row in self.rows if row.scores],
            "real": None if self.real is None else self.real.to_json(),
            "baseline": self.baseline,
            "gaps": {
                name: {kind: {**asdict(gap), "interval_95": gap.interval()} for kind, gap in gaps.items()}
                for name, gaps in self.gaps.items()
            },
            "pareto": [{**asdict(test), "dominated": test.dominated, "front": test.front} for test in self.pareto],
            "sweep": {name: [point.to_json() for point in curve.points] for name, curve in self.curves.items()},
        }
        plain: dict[str, Any] = to_plain(document)
        return plain

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``scores.json``, ``scores.md`` and the figures of the sweep into a folder, made if absent."""
        folder = Path(folder)
        make_folder(folder)
        texts = [f"## {title}\n\n{table.markdown()}" for title, table in self.tables.items()]
        sentences = [f"{test.sentence()}\n" for test in self.pareto]
        write_text(folder / "scores.json", json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")
        write_text(folder / "scores.md", "\n".join([*texts, *sentences]))
        written = [folder / "scores.json", folder / "scores.md"]
        points = [point for curve in self.curves.values() for point in curve.points]
        for quality, coverage in _measured_pairs(points):
            if not any(math.isfinite(point.value(quality) + point.value(coverage)) for point in points):
                continue
            name = "sweep_nll" if quality == "nll_oracle" else "sweep_bleu"
            written += sweep_curves(self.curves, folder / name, quality=quality, coverage=coverage)
        return written


def evaluate_models(
    models: Mapping[str, Generator | RolloutPolicy],
    evaluator: Evaluator,
    *,
    baseline: str = "MLE",
    sweep: Sequence[float] = (),
    baseline_temperatures: Sequence[float] = DEFAULT_TEMPERATURES,
    floors: Collection[str] = (),
    level: float = 0.95,
    progress: bool = True,
) -> Evaluation:
    """Score models at temperature 1, with ``sweep`` at other temperatures too, and compare them.

    Args:
        models: by name; what is no :class:`Generator` is a rollout policy, see :class:`PolicyGenerator`.
        evaluator: what they are scored with; it says if sample scores and conditional JS are wanted.
        baseline: the model whose temperature curve the gaps are to; it need not be there, and then there are none.
        sweep: temperatures, at least 3, for all models but the baseline; none for no sweep and no gaps.
        baseline_temperatures: those of the baseline, finer, for the gaps are read off its curve.
        floors: names of models that do not compete, such as the oracle: scored, but neither swept nor compared.
        level: of the Pareto tests.
        progress: whether to show a bar.

    Raises:
        InputError: no model, or a sweep of fewer than 3 temperatures.
    """
    _check(models, sweep)
    T = evaluator.test_BT.shape[1]
    players = {
        name: model if isinstance(model, Generator) else PolicyGenerator(model, T) for name, model in models.items()
    }
    wanted: dict[str, Sequence[float]] = dict.fromkeys(players, sweep)
    if sweep and baseline in wanted:
        wanted[baseline] = baseline_temperatures
    wanted |= dict.fromkeys(floors, ())
    scored, curves = _score_all(players, evaluator, wanted, progress)
    rivals = {name: scores for name, scores in scored.items() if name not in floors}
    gaps = {} if baseline not in curves else _gaps(rivals, curves[baseline], baseline)
    real = None
    if evaluator.smoothing is not None:
        real = evaluator.scorer(next(iter(players.values()))).real_scores(evaluator.n_samples, evaluator.seed)
    return Evaluation(
        rows=tuple(Row(name, scores, gaps.get(name, {}).get("nll")) for name, scores in scored.items()),
        curves=curves,
        baseline=baseline,
        pareto=tuple(
            pareto_test(rivals, quality=quality, coverage=coverage, level=level)
            for quality, coverage in _measured_pairs(list(rivals.values()))
            if len(rivals) > 1
        ),
        real=real,
        gaps=gaps,
    )


def _check(models: Mapping[str, object], sweep: Sequence[float]) -> None:
    if not models:
        raise InputError("models must hold at least one model by name, got none")
    if sweep and (len(set(sweep)) < 3 or not min(sweep) > 0):
        raise InputError(f"sweep must hold at least 3 temperatures above 0, got {list(sweep)}; or none for no sweep")


def _score_all(
    players: Mapping[str, Generator], evaluator: Evaluator, wanted: Mapping[str, Sequence[float]], progress: bool
) -> tuple[dict[str, Scores], dict[str, TemperatureCurve]]:
    """Scores at temperature 1, and curves through the wanted temperatures where there are any."""
    scored, curves = dict[str, Scores](), dict[str, TemperatureCurve]()
    total = sum(len({1.0, *wanted[name]}) for name in players)
    with tqdm(total=total, desc=f"{'scoring':<22}", unit="model", disable=not progress) as bar:
        for name, player in players.items():
            found = {}
            for temperature in sorted({1.0, *wanted[name]}):
                found[temperature] = evaluator.scores(player, temperature=temperature)
                bar.update()
            scored[name] = found[1.0]
            if wanted[name]:
                rising = tuple(sorted(set(wanted[name])))
                curves[name] = TemperatureCurve(rising, tuple(found[t] for t in rising))
    return scored, curves


def _gaps(scored: Mapping[str, Scores], curve: TemperatureCurve, baseline: str) -> dict[str, dict[str, Gap]]:
    """Of every other model, in the pairs of scores that were measured."""
    measures = {"nll_oracle": ("nll", curve.gap), "bleu_4": ("bleu_4", curve.bleu_gap)}
    chosen = [measures[quality] for quality, _ in _measured_pairs(curve.points)]
    return {name: {kind: of(scores) for kind, of in chosen} for name, scores in scored.items() if name != baseline}


def _measured_pairs(points: Sequence[Scores]) -> list[tuple[str, str]]:
    """Those of `PAIRS` that every one of these has."""
    return [pair for pair in PAIRS if points and all(metric in point.metrics() for metric in pair for point in points)]
