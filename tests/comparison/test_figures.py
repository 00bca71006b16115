"""Every figure draws, for whole and for odd comparisons; what it draws are the numbers; SVGs can stand in one page."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from seqgan_rl.comparison.figures import Drawing, figures, svg, write_figures
from seqgan_rl.comparison.panels import INK
from seqgan_rl.comparison.records import Comparison, Job
from tests.comparison.synthetic import synthetic_comparison

TASKS = ("adversarial", "frozen-oracle", "exact-table")
NAMES = {
    *("profiles", "improvement"),
    *("quality-coverage-adversarial", "over-optimisation-adversarial", "regret-kl-exact-table"),
    *(f"learning-{task}-{axis}" for task in TASKS for axis in ("tokens", "evaluations", "seconds")),
    *(f"diagnostics-{task}" for task in TASKS),
}


@pytest.fixture(scope="module")
def whole() -> Comparison:
    return synthetic_comparison()


@pytest.fixture(scope="module")
def drawings(whole: Comparison) -> dict[str, Drawing]:
    return {drawing.name: drawing for drawing in figures(whole)}


def with_jobs(comparison: Comparison, change: Callable[[Job], Job | None]) -> Comparison:
    return replace(comparison, jobs=tuple(job for old in comparison.jobs if (job := change(old)) is not None))


def few(comparison: Comparison) -> Comparison:
    return with_jobs(comparison, lambda job: job if job.agent in ("mle", "seqgan", "dqn") else None)


def named(comparison: Comparison, name: str) -> Drawing:
    return next(drawing for drawing in figures(comparison) if drawing.name == name)


def lines(figure: Figure, panel: int = 0) -> dict[str, np.ndarray]:
    """What stands in the legend of a panel, as (K, 2)."""
    found = figure.axes[panel].get_lines()
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in found if str(line.get_label())[0] != "_"}


def test_every_figure_draws(drawings: dict[str, Drawing]) -> None:
    assert set(drawings) == NAMES
    for drawing in drawings.values():
        assert drawing.draw().axes, drawing.name
        assert drawing.title
        assert "seed" in drawing.caption or "run" in drawing.caption


def single_seed() -> Comparison:
    return few(synthetic_comparison(seeds=1))


def single_agent() -> Comparison:
    return with_jobs(synthetic_comparison(seeds=2), lambda job: job if job.agent == "seqgan" else None)


def only_the_start() -> Comparison:
    return with_jobs(synthetic_comparison(seeds=2), lambda job: job if job.agent == "mle" else None)


def nan_scores() -> Comparison:
    def change(job: Job) -> Job:
        bad = math.nan if job.seed == 0 else math.inf
        points = tuple(
            replace(p, scores=dict.fromkeys(p.scores, bad) if job.agent == "seqgan" or i == 1 else p.scores)
            for i, p in enumerate(job.points)
        )
        rows = tuple({key: value if key == "tokens" else bad for key, value in row.items()} for row in job.diagnostics)
        return replace(job, points=points, diagnostics=rows)

    return with_jobs(few(synthetic_comparison(seeds=2)), change)


@pytest.mark.parametrize("make", [single_seed, single_agent, only_the_start, nan_scores])
@pytest.mark.filterwarnings("error")
def test_odd_comparisons_draw(make: Callable[[], Comparison]) -> None:
    drawings = figures(make())
    assert drawings
    for drawing in drawings:
        assert drawing.draw().axes, drawing.name


def test_nothing_is_drawn_of_a_comparison_that_waits(whole: Comparison, tmp_path: Path) -> None:
    waiting = with_jobs(whole, lambda job: replace(job, state="waiting", points=(), diagnostics=(), sweep=()))
    assert figures(waiting) == []
    assert write_figures(waiting, tmp_path) == []


def test_a_learning_curve_is_the_mean_over_seeds(whole: Comparison, drawings: dict[str, Drawing]) -> None:
    figure = drawings["learning-adversarial-tokens"].draw()
    drawn = lines(figure)
    expected = float(np.mean(list(whole.scores("adversarial", "seqgan", "gap").values())))
    np.testing.assert_allclose(drawn["seqgan"][-1], (whole.budget, expected))
    np.testing.assert_allclose(drawn["mle"], [(0, 0), (whole.budget, 0)])  # it does not move: a level line
    assert "dqn" not in drawn  # it has no gap
    assert "dqn" in lines(figure, panel=1)
    assert "4 to 5 seeds" in drawings["learning-adversarial-tokens"].caption


def test_the_band_is_the_t_interval_or_the_range_and_the_caption_says_which(whole: Comparison) -> None:
    def top(comparison: Comparison) -> float:
        """Of the band of SeqGAN at the budget."""
        band = named(comparison, "learning-frozen-oracle-tokens").draw().axes[0].collections[1]
        path = band.get_paths()[0].vertices
        return float(np.asarray(path)[np.asarray(path)[:, 0] == comparison.budget, 1].max())

    def caption(comparison: Comparison) -> str:
        return named(comparison, "learning-frozen-oracle-tokens").caption

    three = with_jobs(few(whole), lambda job: job if job.seed < 3 else None)
    two = with_jobs(few(whole), lambda job: job if job.seed < 2 else None)
    of_three, of_two = (
        np.array(list(part.scores("frozen-oracle", "seqgan", "reward").values())) for part in (three, two)
    )
    assert top(three) == pytest.approx(of_three.mean() + 4.302653 * of_three.std(ddof=1) / math.sqrt(3), rel=1e-6)
    assert top(two) == pytest.approx(of_two.max())
    assert "95% t-intervals" in caption(three)
    assert "worst to the best seed" in caption(two)
    assert "One seed has no band" in caption(with_jobs(two, lambda job: job if job.seed == 0 else None))


def test_reward_evaluations_are_on_a_logarithmic_scale_and_who_asks_for_none_is_level(
    drawings: dict[str, Drawing],
) -> None:
    figure = drawings["learning-adversarial-evaluations"].draw()
    assert figure.axes[0].get_xscale() == "log"
    drawn = lines(figure)
    assert drawn["mle_continued"][0, 1] == drawn["mle_continued"][-1, 1]
    np.testing.assert_allclose(drawn["mle_continued"][:, 0], [drawn["ppo"][0, 0], drawn["seqgan"][-1, 0]])


def test_over_optimisation_goes_from_the_start_to_the_last_score(
    whole: Comparison, drawings: dict[str, Drawing]
) -> None:
    drawn = lines(drawings["over-optimisation-adversarial"].draw())
    ends = [np.mean(list(whole.scores("adversarial", "ppo", metric).values())) for metric in ("reward", "gap")]
    np.testing.assert_allclose(drawn["ppo"][-1], ends)


def test_bleu_stands_for_quality_where_there_is_no_oracle(whole: Comparison) -> None:
    def change(job: Job) -> Job:
        points = tuple(replace(point, scores={"bleu_4": 0.5, "self_bleu_4": 0.25}) for point in job.points)
        return replace(job, points=points, sweep=({"temperature": 1.0, "bleu_4": 0.5, "self_bleu_4": 0.25},))

    axes = named(with_jobs(few(whole), change), "quality-coverage-adversarial").draw().axes[0]
    assert "Self-BLEU-4" in axes.get_xlabel()
    assert "BLEU-4 (more is better)" in axes.get_ylabel()


def test_entropy_and_distinct_tokens_stand_beside_the_pair(whole: Comparison) -> None:
    def change(job: Job) -> Job:
        scores = {"nll_oracle": 5.0, "nll_test": 4.0, "entropy": 3.0, "distinct_tokens": 2.0}
        points = tuple(replace(point, scores=scores) for point in job.points)
        return replace(job, points=points, sweep=({"temperature": 1.0, **scores},))

    panels = named(with_jobs(few(whole), change), "quality-coverage-adversarial").draw().axes
    labels = [axes.get_ylabel() for axes in panels]
    assert [label.split(",")[0].split(" (")[0] for label in labels] == ["NLL_oracle", "entropy", "distinct tokens"]
    drawn = [set(np.concatenate([np.asarray(line.get_ydata()) for line in axes.get_lines()])) for axes in panels]
    assert drawn == [{5.0}, {3.0}, {2.0}]


def test_sixteen_agents_differ_in_colour_or_dash_and_in_marker() -> None:
    jobs = synthetic_comparison(seeds=1).of("frozen-oracle", "ppo")
    agents = [f"agent {i}" for i in range(16)]
    comparison = replace(
        synthetic_comparison(seeds=1), jobs=tuple(replace(job, agent=agent) for job in jobs for agent in agents)
    )
    figure = named(comparison, "learning-frozen-oracle-tokens").draw()
    drawn = [line for line in figure.axes[0].get_lines() if str(line.get_label()) in agents]
    looks = {(str(line.get_color()), str(line.get_linestyle()), str(line._unscaled_dash_pattern)) for line in drawn}  # type: ignore[attr-defined]
    assert len(drawn) == len(looks) == 16
    assert len({(str(line.get_color()), str(line.get_marker())) for line in drawn}) == 16


@pytest.mark.parametrize(("far", "is_cut"), [(-1e6, True), (1e6, False)])
def test_only_what_is_far_worse_than_the_others_is_cut_and_the_panel_says_so(far: float, is_cut: bool) -> None:
    def change(job: Job) -> Job:
        shift = far if job.agent == "dqn" else 0.0
        return replace(job, points=tuple(replace(p, scores={"reward": p.scores["reward"] + shift}) for p in job.points))

    comparison = synthetic_comparison(seeds=2)
    comparison = with_jobs(comparison, lambda job: change(job) if job.task == "frozen-oracle" else None)
    axes = named(comparison, "learning-frozen-oracle-tokens").draw().axes[0]
    low, high = axes.get_ylim()
    assert (-9 < low < high < -4) == is_cut
    assert ("are cut" in axes.get_title(loc="left").replace("\n", " ")) == is_cut


def test_svgs_can_stand_in_one_page(whole: Comparison, tmp_path: Path) -> None:
    comparison = replace(few(whole), tasks=(replace(whole.tasks[1], metrics=("reward",)),))
    paths = write_figures(comparison, tmp_path)
    assert {path.suffix for path in paths} == {".svg", ".png"}
    assert len(paths) == 2 * len(figures(comparison))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths if path.suffix == ".png")
    ids = list[str]()
    for path in paths:
        if path.suffix != ".svg":
            continue
        text = path.read_text()
        own = {element.get("id", "") for element in ET.fromstring(text).iter()} - {""}
        assert all(found.startswith(path.stem) for found in own)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= own
        assert text.startswith(f'<svg id="{path.stem}"')
        assert "#000000" not in text
        assert INK in text
        assert ">seqgan<" in text  # text stays text
        ids += own
    assert len(ids) == len(set(ids))


def test_the_same_numbers_give_the_same_svg_and_names_are_no_formulas(whole: Comparison) -> None:
    odd = with_jobs(few(whole), lambda job: replace(job, agent="$a_1$ <b>") if job.agent == "seqgan" else job)
    first, second = (svg(named(odd, "learning-frozen-oracle-tokens")) for _ in range(2))
    assert first == second
    assert "$a_1$ &lt;b&gt;" in first


def test_a_legend_of_many_long_names_is_whole_and_leaves_the_panels_their_room() -> None:
    whole = synthetic_comparison(seeds=1)
    jobs = [job for job in whole.jobs if job.task == "adversarial"]
    many = [replace(job, agent=f"{job.agent}_{'x' * 40}_{n}") for job in jobs if job.agent != "dqn" for n in range(3)]
    comparison = replace(whole, tasks=whole.tasks[:1], jobs=tuple(jobs + many))
    for name in ("quality-coverage-adversarial", "profiles", "learning-adversarial-tokens"):
        figure = named(comparison, name).draw()
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, panel = legend.get_window_extent(), figure.axes[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 < panel.y0
        assert panel.height > 1.2 * figure.dpi


def test_curves_over_tokens_end_at_the_budget_though_a_job_went_on(whole: Comparison) -> None:
    """Agents without rollouts play ten times as long for the table at equal reward evaluations."""

    def longer(job: Job) -> Job:
        if job.agent != "ppo":
            return job
        points = tuple(replace(point, tokens=10 * point.tokens) for point in job.points)
        rows = tuple({**row, "tokens": 10 * row["tokens"]} for row in job.diagnostics)
        return replace(job, points=points, diagnostics=rows)

    comparison = with_jobs(whole, longer)
    drawn = lines(named(comparison, "learning-adversarial-tokens").draw())
    assert {line[-1, 0] for line in drawn.values()} == {whole.budget}
    expected = float(np.mean(list(comparison.scores("adversarial", "ppo", "gap").values())))
    assert drawn["ppo"][-1, 1] == pytest.approx(expected)  # as in the table
    assert lines(named(comparison, "diagnostics-adversarial").draw())["ppo"][-1, 0] == whole.budget
