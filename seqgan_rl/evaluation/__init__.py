"""How good a generator is: scores with signatures, the temperature curve and the gap to it, tables and figures."""

from seqgan_rl.evaluation.curve import DEFAULT_TEMPERATURES, Gap, TemperatureCurve, temperature_curve
from seqgan_rl.evaluation.figures import learning_curves, quality_coverage
from seqgan_rl.evaluation.report import Row, ScoreTable, score_table, verdict
from seqgan_rl.evaluation.scores import (
    Evaluator,
    Scores,
    Signature,
    difference,
    evaluate_generator,
    oracle_scores,
    uniform_scores,
)

__all__ = [
    "DEFAULT_TEMPERATURES",
    "Evaluator",
    "Gap",
    "Row",
    "ScoreTable",
    "Scores",
    "Signature",
    "TemperatureCurve",
    "difference",
    "evaluate_generator",
    "learning_curves",
    "oracle_scores",
    "quality_coverage",
    "score_table",
    "temperature_curve",
    "uniform_scores",
    "verdict",
]
