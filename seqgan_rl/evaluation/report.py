"""The table of scores, and the one sentence that says what it shows.

The sentence is computed from the numbers alone: a change counts if it is larger than two standard errors, and what was
not measured is said to be unknown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from seqgan_rl.evaluation.curve import Gap, TemperatureCurve, check_comparable
from seqgan_rl.evaluation.sample_scores import SampleScores
from seqgan_rl.evaluation.scores import Scores, difference

CONTROLS = ("MLE continued", "constant", "random", "shuffled")
"""Rows that the agent is compared with in :func:`verdict`: what training does without a discriminator's judgement."""

REAL = "real (training)"
"""The column of training sequences in the samples' place."""

REWARDLESS = ("constant", "random", "shuffled")
"""Controls whose reward knows nothing: where one of them beats the temperature curve, beating it is no evidence."""

SIGNIFICANT = 2.0
"""A difference counts from so many standard errors."""

COLLAPSED = 0.5
"""A share of the MLE's entropy, or of its distinct tokens, below which a model has fallen sharply."""

NAMES = {"nll_oracle": "NLL_oracle", "nll_test": "NLL_test"}
ABSENT, DAGGER = "-", "†"


class Row(NamedTuple):
    """One model in the table. A plain tuple (name, scores) or (name, scores, gap) will do."""

    name: str
    scores: Scores | None
    """None: it was not run."""
    gap: Gap | None = None


RowLike = Row | tuple[str, Scores | None] | tuple[str, Scores | None, Gap | None]


@dataclass(frozen=True)
class ScoreTable:
    """Text in rows and columns: printed by rich as it is, or as Markdown."""

    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    """What the numbers are and were measured with."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, in as many parts as the width asks for: rich would cut off what is too wide."""
        for widths in self._parts(options.max_width):
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for i, width in widths.items():
                table.add_column(Text(self.header[i]), justify="right" if i else "left", width=width)
            for row in self.cells:
                table.add_row(*(Text(row[i]) for i in widths))
            yield table
        for note in self.notes:
            yield Text(note, style="dim")

    def _parts(self, width: int) -> list[dict[int, int]]:
        """The columns of each part and their widths; the first column, which names the rows, begins them all."""
        columns = list(zip(self.header, *self.cells, strict=True))
        whole = [max(map(cell_len, column)) for column in columns]
        # titles and names may break at spaces, numbers not
        breakable = [column if i == 0 else column[:1] for i, column in enumerate(columns)]
        words = [max(cell_len(word) for text in texts for word in text.split(" ")) for texts in breakable]
        least = [max([words[i], *(cell_len(cell) for cell in columns[i][1:] if i)]) for i in range(len(columns))]
        parts = [{0: least[0]}]
        for i in range(1, len(columns)):
            if len(parts[-1]) > 1 and _printed_width([*parts[-1].values(), least[i]]) > width:
                parts.append({0: least[0]})
            parts[-1][i] = least[i]
        for part in parts:
            for i in part:
                part[i] += max(0, min(whole[i] - least[i], width - _printed_width(list(part.values()))))
        return parts

    def markdown(self) -> str:
        """A GitHub-flavoured table, then the notes."""
        rule = ["---" if i == 0 else "---:" for i in range(len(self.header))]
        escaped = [[cell.replace("|", r"\|") for cell in row] for row in (self.header, *self.cells)]
        lines = [f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:])]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"


def _printed_width(widths: Sequence[int]) -> int:
    """Characters of a printed row: a space on its left, and two after each column."""
    return 1 + sum(width + 2 for width in widths)


def score_table(rows: Sequence[RowLike]) -> ScoreTable:
    """The table of these models; columns that no model has a value for are left out.

    Raises ValueError if the scores have different signatures (sampling options apart).
    """
    checked = _checked(rows)
    columns = {
        "model": [row.name for row in checked],
        "NLL_oracle": [_cost(row.scores, "nll_oracle") for row in checked],
        "NLL_test": [_cost(row.scores, "nll_test") for row in checked],
        "entropy H": [_cost(row.scores, "entropy") for row in checked],
        "KL(G||O)": [_cost(row.scores, "kl_g_o") for row in checked],
        "cond. JS": [_cost(row.scores, "conditional_js") for row in checked],
        "distinct tokens": [ABSENT if row.scores is None else f"{row.scores.distinct_tokens:,}" for row in checked],
        "unique": [ABSENT if row.scores is None else f"{row.scores.unique_share:.1%}" for row in checked],
        "gap": [_gap_cell(row.gap) for row in checked],
    }
    kept = {name: cells for name, cells in columns.items() if name == "model" or set(cells) - {ABSENT}}
    notes = list(_notes(checked))
    if "cond. JS" in kept:
        notes.insert(1, "cond. JS: Jensen-Shannon of next-token distributions to the oracle's, prefixes half from each")
    return ScoreTable(tuple(kept), tuple(zip(*kept.values(), strict=True)), tuple(notes))


def sample_table(rows: Sequence[tuple[str, SampleScores]]) -> ScoreTable:
    """BLEU and its relatives, diversity and n-gram scores: a line a score, a column a model.

    Raises ValueError if the scores have different signatures (smoothing, references, sizes...), or there are none.
    """
    if not rows:
        raise ValueError("a table of sample scores needs at least one model")
    names, scored = zip(*rows, strict=True)
    for scores in scored[1:]:
        differences = scored[0].signature.differences(scores.signature)
        if differences:
            raise ValueError(f"scores of different signatures cannot be compared ({'; '.join(differences)})")
    metrics = dict.fromkeys(metric for scores in scored for metric in scores.values)
    cells = [(metric, *(_sample_cell(scores, metric) for scores in scored)) for metric in metrics]
    signature = scored[0].signature
    notes = (
        "± standard error over sequences, samples and references; none where a score is no mean",
        f"BLEU: nltk's sentence BLEU, uniform weights, smoothing {signature.smoothing}, EOS no word; references "
        f"{signature.reference_split} {signature.reference_hash} ({signature.reference_size:,}), samples "
        f"{signature.sample_size:,}, V {signature.vocab_size}, training data {signature.train_hash or 'not given'}",
        "ngram_js and word_entropy are biased by the number of samples: compare them "
        + (
            "with the real sequences' column"
            if REAL in names
            else "at equal sizes only; a column of real sequences needs as many in training as there are samples"
        ),
    )
    return ScoreTable(("score", *names), tuple(cells), notes)


def sweep_table(curves: Mapping[str, TemperatureCurve]) -> ScoreTable:
    """Quality and coverage of each model at each temperature, with entropy and distinct tokens beside every pair."""
    points = [
        (name, temperature, point)
        for name, curve in curves.items()
        for temperature, point in zip(curve.temperatures, curve.points, strict=True)
    ]
    for _, _, point in points[1:]:
        check_comparable(points[0][2], point)
    metrics = {"NLL_oracle": "nll_oracle", "NLL_test": "nll_test", "BLEU-4": "bleu_4", "Self-BLEU-4": "self_bleu_4"}
    columns = {
        "model": [name for name, _, _ in points],
        "temperature": [f"{temperature:g}" for _, temperature, _ in points],
        **{title: [_any_cell(point, metric) for _, _, point in points] for title, metric in metrics.items()},
        "entropy H": [_cost(point, "entropy") for _, _, point in points],
        "distinct tokens": [f"{point.distinct_tokens:,}" for _, _, point in points],
    }
    kept = {name: cells for name, cells in columns.items() if set(cells) - {ABSENT}}
    rows = [Row(f"{name} {temperature}", point) for name, temperature, point in points]
    return ScoreTable(tuple(kept), tuple(zip(*kept.values(), strict=True)), tuple(_notes(rows)))


def gap_table(gaps: Mapping[str, Mapping[str, Gap]], baseline: str, level: float = 0.95) -> ScoreTable:
    """Gaps of models to the temperature curve of ``baseline``, each kind with its interval: gaps[model][score]."""
    cells, notes = [], []
    for name, by_score in gaps.items():
        for score, gap in by_score.items():
            if gap.value is None:
                notes.append(f"{name} has no gap in {score}: {gap.reason}")
                continue
            low, high = gap.interval(level) or (math.nan, math.nan)
            cells.append(
                (name, str(gap.kind), f"{gap.value:+.3f}", f"{low:+.3f} to {high:+.3f}", f"{gap.temperature:.2f}")
            )
    header = ("model", "gap", "value", f"{level:.0%} interval", f"temperature of {baseline}")
    notes.append(
        f"model minus the temperature curve of {baseline}; in NLL below 0 is better, in BLEU above 0; intervals are "
        "over sequences, not over training runs"
    )
    return ScoreTable(header, tuple(cells), tuple(notes))


def verdict(rows: Sequence[RowLike], agent: str = "SeqGAN", *, stopped: str = "") -> str:
    """One sentence on the row of the agent: against "MLE", the best of the controls, and the MLE's temperature curve.

    Without an oracle: what happened to NLL_test, entropy and distinct tokens, none of which measures quality.

    Args:
        rows: models as for :func:`score_table`.
        agent: the name of the row that is judged.
        stopped: when and why its training was stopped before its end, said first.
    """
    table = {row.name: row for row in _checked(rows)}
    scores = table[agent].scores if agent in table else None
    mle = table["MLE"].scores if "MLE" in table else None
    before = f"{agent} was stopped early, {stopped}. " if stopped else ""
    if scores is None:
        return f"{before}There is no verdict, because {agent} was not scored."
    quality = "nll_test" if scores.nll_oracle is None else "nll_oracle"
    clauses = [_change(agent, scores, mle, quality), _against_controls(scores, table, quality)]
    if quality == "nll_oracle":
        clauses.append(_against_temperature(table[agent], table))
    else:
        clauses.append("without an oracle none of these numbers measures the quality of the samples")
    clauses.append(_collapse(scores, mle))
    return before + "; ".join(filter(None, clauses)) + "."


def _checked(rows: Sequence[RowLike]) -> list[Row]:
    """The rows, if their names differ and their scores can be compared."""
    checked = [Row(*row) for row in rows]
    names = [row.name for row in checked]
    if len(set(names)) < len(names):
        raise ValueError(f"each model has one row, got {names}")
    scored = [row.scores for row in checked if row.scores is not None]
    for scores in scored[1:]:
        check_comparable(scored[0], scores)
    return checked


def _notes(rows: Sequence[Row]) -> Iterable[str]:
    yield "nats per token ± standard error over sequences (the spread between training runs is not in it)"
    gaps = [row.gap for row in rows if row.gap is not None]
    if any(gap.kind == "nll_oracle at equal nll_test" for gap in gaps):
        yield "gap: NLL_oracle minus that of the MLE's temperature curve at equal NLL_test; below 0 is better"
    if any(gap.kind == "nll_test at equal nll_oracle" for gap in gaps):
        yield f"{DAGGER} gap in NLL_test at equal NLL_oracle, for less NLL_test than the curve ever has"
    for row in rows:
        if row.gap is not None and row.gap.value is None:
            yield f"{row.name} has no gap: {row.gap.reason}"
    signature = next((row.scores.signature for row in rows if row.scores is not None), None)
    if signature is not None:
        parts = {
            "oracle": signature.oracle_hash,
            "corpus": signature.corpus_hash[:16],
            "test": f"{signature.test_hash} ({signature.test_size:,} sequences)",
            "samples": f"{signature.sample_size:,} from seed {signature.seed}",
            "T": signature.sequence_length,
            "V": signature.vocab_size,
            "UNK": f"{signature.unk_rate:.1%}" if signature.unk_rate else None,
        }
        yield ", ".join(f"{name} {part}" for name, part in parts.items() if part)


def _cost(scores: Scores | None, metric: str) -> str:
    value = None if scores is None else getattr(scores, metric)
    return ABSENT if scores is None or value is None else _plus_minus(_size(value), scores.error(metric))


def _any_cell(scores: Scores, metric: str) -> str:
    value = scores.value(metric)
    return ABSENT if math.isnan(value) else _plus_minus(f"{value:.3f}", scores.error(metric))


def _sample_cell(scores: SampleScores, metric: str) -> str:
    value = scores.values.get(metric, math.nan)
    return ABSENT if math.isnan(value) else _plus_minus(f"{value:.3f}", scores.standard_errors.get(metric))


def _gap_cell(gap: Gap | None) -> str:
    if gap is None or gap.value is None:
        return ABSENT
    mark = DAGGER if gap.kind == "nll_test at equal nll_oracle" else ""
    return _plus_minus(f"{gap.value:+.3f}", gap.standard_error) + mark


def _plus_minus(value: str, error: float | None) -> str:
    return value if error is None or not math.isfinite(error) else f"{value} ±{_size(error)}".replace("±0.", "±.")


def _size(value: float) -> str:
    """A magnitude, in a few characters however large it is."""
    return f"{abs(value):.3f}" if abs(value) < 1e6 else f"{abs(value):.3g}"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_size(value)}"


def _change(agent: str, scores: Scores, mle: Scores | None, quality: str) -> str:
    """What the agent did to the scores of its start."""
    metrics = dict.fromkeys((quality, "nll_test"))
    if mle is None:
        costs = " and ".join(f"{NAMES[metric]} {_cost(scores, metric)}" for metric in metrics)
        return f"{agent} scored {costs}, but its MLE start was not scored"
    moves = [_move(scores, mle, metric) for metric in metrics]
    text = f"{agent} {' and '.join(moves)} from its MLE start"
    if quality == "nll_test":
        text += (
            f", with entropy {mle.entropy:.2f} -> {scores.entropy:.2f} "
            f"and distinct tokens {mle.distinct_tokens:,} -> {scores.distinct_tokens:,}"
        )
    return text


def _move(scores: Scores, mle: Scores, metric: str) -> str:
    value, error = difference(scores, mle, metric)
    if not math.isfinite(value):
        return f"took {NAMES[metric]} from {getattr(mle, metric):.3f} to {getattr(scores, metric):.3f}"
    if abs(value) <= SIGNIFICANT * error:
        return f"left {NAMES[metric]} as it was ({_plus_minus(_signed(value), error)})"
    return f"{'lowered' if value < 0 else 'raised'} {NAMES[metric]} by {_plus_minus(_size(value), error)}"


def _against_controls(scores: Scores, table: dict[str, Row], quality: str) -> str:
    """The agent beside the control that is best in ``quality``."""
    controls = {name: table[name].scores for name in CONTROLS if name in table}
    scored = {name: scores for name, scores in controls.items() if scores and math.isfinite(getattr(scores, quality))}
    if not scored:
        return "no control was scored, so this need not be the discriminator's doing"
    name = min(scored, key=lambda name: float(getattr(scored[name], quality)))
    sides = [_beside(scored[name], scores, metric) for metric in dict.fromkeys((quality, "nll_test"))]
    missing = [name for name in CONTROLS if name not in scored]
    lacking = f" ({', '.join(missing)} not scored)" if missing else ""
    return f"beside it, the best control in {NAMES[quality]}, {name}{lacking}, is {' and '.join(sides)}"


def _beside(control: Scores, scores: Scores, metric: str) -> str:
    value, error = difference(control, scores, metric)
    if not math.isfinite(value):
        return f"at {getattr(control, metric):.3f} in {NAMES[metric]} against {getattr(scores, metric):.3f}"
    if abs(value) <= SIGNIFICANT * error:
        return f"level in {NAMES[metric]} ({_plus_minus(_signed(value), error)})"
    return f"{_plus_minus(_size(value), error)} {'worse' if value > 0 else 'better'} in {NAMES[metric]}"


def _against_temperature(row: Row, table: dict[str, Row]) -> str:
    """The gap of the agent's row to the MLE's temperature curve, or what is known without it."""
    gap = row.gap
    if gap is not None and gap.value is not None and gap.kind is not None:
        compared, equal = (NAMES[word] for word in gap.kind.split(" at equal "))
        size = f"{_plus_minus(f'{abs(gap.value):.3f}', gap.standard_error)} in {compared} at equal {equal}"
        if abs(gap.value) <= SIGNIFICANT * (gap.standard_error or 0.0):
            return f"it is within two standard errors of the MLE temperature curve ({size}): no better than temperature"
        if gap.value < 0:
            sentence = f"it lies below the MLE temperature curve by {size}: better than temperature"
            empty = [name for name in REWARDLESS if name in table and _is_below(table[name].gap)]
            if empty:  # as from an overfit MLE, whose own curve is no bar
                sentence += (
                    f", but so without any judgement of a discriminator: {', '.join(empty)}; this proves nothing"
                )
            return sentence
        return f"it lies above the MLE temperature curve by {size}: worse than temperature"
    tempered = table["MLE at equal coverage"].scores if "MLE at equal coverage" in table else None
    if tempered is not None and row.scores is not None:
        sides = [_beside(tempered, row.scores, metric) for metric in NAMES]
        return f"beside it, MLE at temperature {tempered.signature.sampling.temperature:.3g} is {' and '.join(sides)}"
    reason = "no curve was measured" if gap is None else gap.reason
    return f"whether it is better than temperature is unknown ({reason})"


def _is_below(gap: Gap | None) -> bool:
    """Whether a gap is significantly below 0."""
    return gap is not None and gap.value is not None and gap.value < -SIGNIFICANT * (gap.standard_error or 0.0)


def _collapse(scores: Scores, mle: Scores | None) -> str:
    if mle is None:
        return ""
    falls = []
    if scores.entropy < COLLAPSED * mle.entropy:
        falls.append(f"its entropy fell from {mle.entropy:.2f} to {scores.entropy:.2f}")
    if scores.distinct_tokens < COLLAPSED * mle.distinct_tokens:
        falls.append(f"its distinct tokens fell from {mle.distinct_tokens:,} to {scores.distinct_tokens:,}")
    return f"beware of a collapse: {' and '.join(falls)}, below half of the MLE's" if falls else ""
