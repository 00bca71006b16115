import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqgan_rl.evaluation import Row, Scores, TemperatureCurve, learning_curves, quality_coverage, sweep_curves

MakeScores = Callable[..., Scores]
RECORDS: list[dict[str, Any]] = [
    {"round": i, "agent": agent, "eval/nll_oracle": 3 - i / 10, "discriminator/auc": 0.9, "agent/reward": 0.1 * i}
    for agent in ("SeqGAN", "random")
    for i in range(5)
]


@pytest.fixture
def curve(make_scores: MakeScores) -> TemperatureCurve:
    temperatures = (0.5, 0.75, 1.0, 1.25)
    return TemperatureCurve(temperatures, tuple(make_scores(5 + t, 2 + (t - 1) ** 2) for t in temperatures))


def texts(svg: Path) -> str:
    """Text is drawn as paths; matplotlib leaves it in comments."""
    return svg.read_text(encoding="utf-8")


def test_learning_curves_draw_what_is_there(tmp_path: Path) -> None:
    records = [*RECORDS, {"discriminator/loss": 0.6}, {"round": 5, "eval/nll_oracle": None, "note": "text"}]
    png, svg = learning_curves(records, tmp_path / "figures" / "T=0.5")  # a dot is no suffix
    assert (png.name, svg.name) == ("T=0.5.png", "T=0.5.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = texts(svg)
    for present in ("NLL_oracle", "discriminator", "reward", "SeqGAN", "random", "adversarial round"):
        assert f"<!-- {present}" in drawn
    for absent in ("NLL_test", "discriminator loss", "distinct tokens"):
        assert f"<!-- {absent}" not in drawn
    assert sorted(path.name for path in png.parent.iterdir()) == ["T=0.5.png", "T=0.5.svg"]  # nothing half-written


def test_learning_curves_over_tokens_of_one_agent(tmp_path: Path) -> None:
    _, svg = learning_curves([{"tokens": 10 * i, "eval/entropy": 2.0} for i in range(40)], tmp_path / "a.png")
    assert svg == tmp_path / "a.svg"
    assert "<!-- tokens" in texts(svg)


def test_quality_coverage_shows_models_and_temperatures(
    curve: TemperatureCurve, make_scores: MakeScores, tmp_path: Path
) -> None:
    rows = [
        Row("uniform", make_scores(9.0, 4.0)),
        Row("MLE", make_scores(6.0, 2.0)),
        Row("SeqGAN", make_scores(5.6, 2.05)),
        Row("shuffled", None),
        Row("random", make_scores(6.0, float("inf"))),
    ]
    _, svg = quality_coverage(curve, rows, tmp_path / "plot")
    drawn = texts(svg)
    beside = ("entropy", "distinct tokens")  # a collapse can hide from the pair
    for present in ("T=1 ", "T=0.5", "MLE temperature curve", "SeqGAN", "close-up", "all models", *beside):
        assert f"<!-- {present}" in drawn
    for absent in ("uniform", "shuffled", "random"):
        assert f"<!-- {absent}" not in drawn
    quality_coverage(curve, [], tmp_path / "curve_alone")


def test_sweep_curves_leave_out_what_is_infinite(
    curve: TemperatureCurve, make_scores: MakeScores, tmp_path: Path
) -> None:
    partly = [make_scores(5.0, math.inf if t < 0.6 else 2 + t) for t in curve.temperatures]
    greedy = [make_scores(5.0, math.inf) for _ in curve.temperatures]
    curves = {name: TemperatureCurve(curve.temperatures, tuple(p)) for name, p in (("DQN", partly), ("ARS", greedy))}
    _, svg = sweep_curves({"MLE": curve, **curves}, tmp_path / "sweep.png")
    drawn = texts(svg)
    for present in ("MLE", "DQN", "entropy", "distinct tokens", "NLL_test", "NLL_oracle"):
        assert f"<!-- {present}" in drawn
    assert "<!-- ARS" not in drawn
    for nothing in ({}, {"ARS": curves["ARS"]}):
        with pytest.raises(ValueError, match="must hold finite nll_oracle and nll_test"):
            sweep_curves(nothing, tmp_path / "none")
    with pytest.raises(ValueError, match="must hold finite bleu_4 and self_bleu_4"):
        sweep_curves({"MLE": curve}, tmp_path / "none", quality="bleu_4", coverage="self_bleu_4")


def test_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    one, other = learning_curves(RECORDS, tmp_path / "1"), learning_curves(RECORDS, tmp_path / "2")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_nothing_to_draw_is_an_error(make_scores: MakeScores, tmp_path: Path) -> None:
    for records in ([], [{"round": 1}], [{"eval/nll_oracle": 2.0}]):
        with pytest.raises(ValueError, match="records must hold one of round, tokens, step"):
            learning_curves(records, tmp_path / "none")
    without = TemperatureCurve((0.5, 1.0, 1.5), tuple(make_scores(None, x) for x in (2.1, 2.0, 2.2)))
    with pytest.raises(ValueError, match="needs an oracle"):
        quality_coverage(without, [], tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_loaded_only_to_draw_and_pyplot_never(tmp_path: Path) -> None:
    code = (
        "import sys; from seqgan_rl.evaluation import learning_curves; assert 'matplotlib' not in sys.modules;"
        f"learning_curves([{{'round': 1, 'eval/entropy': 2.0}}], {str(tmp_path / 'x')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
