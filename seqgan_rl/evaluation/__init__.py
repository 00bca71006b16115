"""How good a generator is: scores with signatures, the temperature curve and the gap to it, tables and figures."""

from seqgan_rl.evaluation.bleu import BleuReferences, backward_bleu, bleu, self_bleu
from seqgan_rl.evaluation.curve import (
    DEFAULT_TEMPERATURES,
    Gap,
    RunsGap,
    TemperatureCurve,
    gap_over_runs,
    temperature_curve,
)
from seqgan_rl.evaluation.divergence import conditional_js
from seqgan_rl.evaluation.diversity import distinct_n, ngram_entropy, ngram_js, repetition
from seqgan_rl.evaluation.figures import learning_curves, quality_coverage, sweep_curves
from seqgan_rl.evaluation.models import SWEEP_TEMPERATURES, Evaluation, PolicyGenerator, evaluate_models
from seqgan_rl.evaluation.music import MusicScores, music_scores
from seqgan_rl.evaluation.pareto import ParetoTest, pareto_test
from seqgan_rl.evaluation.report import Row, ScoreTable, gap_table, sample_table, score_table, sweep_table, verdict
from seqgan_rl.evaluation.sample_scores import SampleScorer, SampleScores, SampleSignature
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
    "SWEEP_TEMPERATURES",
    "BleuReferences",
    "Evaluation",
    "Evaluator",
    "Gap",
    "MusicScores",
    "ParetoTest",
    "PolicyGenerator",
    "Row",
    "RunsGap",
    "SampleScorer",
    "SampleScores",
    "SampleSignature",
    "ScoreTable",
    "Scores",
    "Signature",
    "TemperatureCurve",
    "backward_bleu",
    "bleu",
    "conditional_js",
    "difference",
    "distinct_n",
    "evaluate_generator",
    "evaluate_models",
    "gap_over_runs",
    "gap_table",
    "learning_curves",
    "music_scores",
    "ngram_entropy",
    "ngram_js",
    "oracle_scores",
    "pareto_test",
    "quality_coverage",
    "repetition",
    "sample_table",
    "score_table",
    "self_bleu",
    "sweep_curves",
    "sweep_table",
    "temperature_curve",
    "uniform_scores",
    "verdict",
]
