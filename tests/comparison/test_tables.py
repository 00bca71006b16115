"""Rows, verdicts and aggregates equal numbers worked out by hand; failures show; CSV gives the same numbers back."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from rich.console import Console

from seqgan_rl.comparison.records import Comparison, Job, Point, State, Task
from seqgan_rl.comparison.statistics import iqm, stratified_bootstrap
from seqgan_rl.comparison.table_text import (
    job_table,
    markdown,
    paired_table,
    points_csv,
    rows_csv,
    score_table,
    terminal,
)
from seqgan_rl.comparison.tables import MARK, AgentRow, Summary, aggregate, summarise, task_table
from seqgan_rl.core.streams import stream
from tests.comparison.synthetic import synthetic_comparison

ADVERSARIAL = Task(name="adversarial", kind="adversarial", label="a GAN", primary="gap", metrics=("gap", "entropy"))
FROZEN = Task(name="frozen", kind="frozen", label="a fixed reward", primary="reward", metrics=("reward",))
EXACT = Task(name="exact", kind="exact", label="a table", primary="regret", metrics=("regret",))
SEEDS = (0.0, 0.01, -0.01, 0.02, -0.02)
"""Noise of five seeds."""


def job(task: Task, agent: str, seed: int, score: float, state: State = "done") -> Job:
    """From score 0 to ``score`` over 100 tokens and 10 evaluations."""
    points = tuple(
        Point(tokens=100 * i, evaluations=10 * i, seconds=4.0 * i, scores={task.primary: score * i}) for i in range(2)
    )
    error = "OutOfMemory" if state == "failed" else ""
    return Job(
        task=task.name, agent=agent, seed=seed, folder=f"{agent}-{seed}", state=state, points=points, error=error
    )


def compared(task: Task, scores: Mapping[str, Sequence[float]], *more: Job) -> Comparison:
    jobs = [job(task, agent, seed, score) for agent, of_seeds in scores.items() for seed, score in enumerate(of_seeds)]
    return Comparison(name="by hand", tasks=(task,), jobs=(*jobs, *more), budget=100, evaluations=5)


def row(
    comparison: Comparison, agent: str, task: Task = ADVERSARIAL, axis: Literal["tokens", "evaluations"] = "tokens"
) -> AgentRow:
    return next(row for row in task_table(comparison, task, axis).rows if row.agent == agent)


def withheld(found: AgentRow) -> str:
    """Why a row has no mark."""
    assert found.verdict is not None
    assert not found.verdict.is_improvement
    return found.verdict.reason


def around(value: float, scale: float = 1.0) -> list[float]:
    return [value + scale * noise for noise in SEEDS]


def test_iqm_mean_and_interval_are_those_worked_out_by_hand() -> None:
    found = row(compared(EXACT, {"ppo": [100.0, 1.0, 2.0, 3.0, 4.0]}), "ppo", EXACT)
    assert found.iqm is not None
    assert found.iqm.value == pytest.approx(3.0)  # without 1 and 100
    assert found.iqm.runs == 5
    of_three = row(compared(EXACT, {"ppo": [1.0, 2.0, 3.0]}), "ppo", EXACT).means["regret"]
    assert of_three.value == pytest.approx(2.0)
    assert of_three.interval == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3))
    )  # t, 2 degrees


def test_scores_and_costs_are_those_at_the_axis() -> None:
    comparison = compared(EXACT, {"ppo": [2.0, 4.0]})
    at_budget, at_evaluations = (row(comparison, "ppo", EXACT, axis) for axis in ("tokens", "evaluations"))
    assert (at_budget.means["regret"].value, at_evaluations.means["regret"].value) == (3.0, 1.5)  # half of the way
    assert (at_budget.tokens, at_budget.evaluations, at_budget.seconds) == (100, 10, 4)
    assert (at_evaluations.tokens, at_evaluations.evaluations, at_evaluations.seconds) == (50, 5, 2)


def test_a_task_with_budgets_of_its_own_is_compared_at_those() -> None:
    task = replace(EXACT, budget=20, evaluations=1)
    comparison = compared(task, {"ppo": [2.0, 4.0]})
    at_budget, at_evaluations = (task_table(comparison, task, axis) for axis in ("tokens", "evaluations"))
    assert (at_budget.amount, at_evaluations.amount) == (20, 1)
    assert at_budget.rows[0].means["regret"].value == pytest.approx(0.6)  # a fifth of the way
    assert at_evaluations.rows[0].means["regret"].value == pytest.approx(0.3)  # a tenth
    assert at_budget.rows[0].tokens == 20
    assert comparison.scores("exact", "ppo", "regret") == pytest.approx({0: 0.4, 1: 0.8})


def test_who_leaves_the_curve_in_a_collapse_does_not_keep_the_gap_from_before() -> None:
    scores = ({"gap": 0.0, "entropy": 5.0}, {"gap": -0.3, "entropy": 5.0}, {"entropy": 5.0})
    points = tuple(Point(tokens=50 * i, evaluations=5 * i, seconds=i, scores=found) for i, found in enumerate(scores))
    collapsed = replace(job(ADVERSARIAL, "ppo", 4, 0.0), points=points)
    assert [collapsed.score_at("tokens", t, "gap") for t in (25, 50)] == [-0.15, -0.3]
    assert all(math.isnan(collapsed.score_at("tokens", t, "gap")) for t in (51, 100, math.inf))
    assert collapsed.score_at("tokens", 75, "entropy") == 5
    comparison = compared(ADVERSARIAL, BETTER | {"ppo": BETTER["ppo"][:4]}, collapsed)
    found = row(comparison, "ppo")
    assert (found.done, found.unscored) == ((0, 1, 2, 3, 4), (4,))
    assert found.verdict is not None
    assert "seed 4 failed or got no gap" in found.verdict.reason
    assert "(4 of 5) |" in score_table(task_table(comparison, ADVERSARIAL, "tokens")).markdown()  # the mean says so


def test_paired_tests_go_over_shared_seeds_and_more_is_better_in_them() -> None:
    scores = {"mle": [2.0, 2.0, 3.0], "random": [3.0, 2.5, 3.5, 9.0], "ppo": [3.0, 4.0, 6.0, 1e6]}
    to_mle, to_random = row(compared(FROZEN, scores), "ppo", FROZEN).comparisons
    assert (to_mle.other, to_mle.runs, to_mle.difference) == ("mle", 3, 2.0)
    assert to_mle.p_value == pytest.approx(0.0742, abs=5e-5)
    assert to_mle.p_holm == 2 * to_mle.p_value
    assert to_random.p_holm == pytest.approx(
        0.20788, abs=5e-6
    )  # 1 - t / √(2 + t²) of t = 1.835325, and above the first
    assert row(compared(EXACT, scores), "ppo", EXACT).comparisons[0].difference == -2.0  # less regret is better


def test_the_best_comes_first_and_who_has_no_score_last() -> None:
    scores = {"dqn": [math.nan] * 2, "mle": [0.5] * 2, "ppo": [0.1] * 2, "trpo": [0.9] * 2}
    assert [r.agent for r in task_table(compared(EXACT, scores), EXACT, "tokens").rows] == ["ppo", "mle", "trpo", "dqn"]
    assert [r.agent for r in task_table(compared(FROZEN, scores), FROZEN, "tokens").rows] == [
        *("trpo", "mle", "ppo", "dqn")
    ]


BETTER = {"mle": [0.0] * 5, "random": around(0.0, -1), "constant": around(0.01), "ppo": around(-0.3, 2)}


def test_the_mark_is_given_where_the_gap_lies_below_0_and_every_control_is_beaten() -> None:
    comparison = compared(ADVERSARIAL, BETTER)
    verdict = row(comparison, "ppo").verdict
    assert verdict is not None
    assert verdict.is_improvement
    assert "random (difference 0.3," in verdict.reason
    assert MARK in score_table(task_table(comparison, ADVERSARIAL, "tokens")).markdown().split("\n")[2]
    assert row(comparison, "mle").verdict is None
    assert row(comparison, "random").verdict is None


def test_who_is_paid_by_a_reward_that_says_nothing_is_a_control_whatever_its_name() -> None:
    of_ppo = compared(ADVERSARIAL, BETTER | {"trpo": around(-0.29, 2)})
    mixed = [
        replace(found, settings={"agent": {"algorithm": "ppo", "reward": "shuffled(logit)"}})
        if found.agent == "trpo"
        else found
        for found in of_ppo.jobs
    ]
    named, paid_at_random = row(of_ppo, "ppo").verdict, replace(of_ppo, jobs=tuple(mixed))
    assert named is not None
    assert named.is_improvement  # trpo is another agent, which need not be beaten
    assert (row(paid_at_random, "trpo").role, row(paid_at_random, "trpo").verdict) == ("control", None)
    assert "not shown to beat trpo" in withheld(row(paid_at_random, "ppo"))


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (BETTER | {"ppo": around(-0.3, 20)}, "not shown to lie below 0"),
        (BETTER | {"constant": around(-0.31)}, "not shown to beat constant"),
        ({"mle": BETTER["mle"], "ppo": BETTER["ppo"]}, "compared with no control"),
        ({agent: of_seeds[:1] for agent, of_seeds in BETTER.items()}, "at least 2 are needed"),
        (BETTER | {"random": [math.nan] * 5}, "random has no gap yet"),
        (BETTER | {"ppo": [*BETTER["ppo"][:4], math.nan]}, "seed 4 failed or got no gap"),
        (BETTER | {"ppo": [math.nan] * 5}, "no finished seed has a gap"),
    ],
)
def test_the_mark_is_withheld_otherwise(scores: Mapping[str, Sequence[float]], reason: str) -> None:
    assert reason in withheld(row(compared(ADVERSARIAL, scores), "ppo"))


def test_the_mark_is_withheld_from_survivors() -> None:
    comparison = compared(ADVERSARIAL, BETTER, job(ADVERSARIAL, "ppo", 5, -9.0, "failed"))
    assert "seed 5 failed" in withheld(row(comparison, "ppo"))


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (
            {"mle": around(0.0, -1), "random": around(0.1, 0.5), "ppo": around(0.5)},
            "it beats the start and every control",
        ),
        ({"mle": around(0.5, -1), "random": around(0.1, 0.5), "ppo": around(0.5)}, "not shown to beat mle"),
        ({"mle": around(0.1, 0.5), "random": around(0.5, -1), "ppo": around(0.5)}, "not shown to beat random"),
        ({"random": around(0.1), "ppo": around(0.5)}, "not compared with mle"),
        ({"mle": around(0.1), "ppo": around(0.5)}, "compared with no control"),
    ],
)
def test_without_a_gap_the_start_must_be_beaten_in_paired_tests(
    scores: Mapping[str, Sequence[float]], reason: str
) -> None:
    found = row(compared(FROZEN, scores), "ppo", FROZEN).verdict
    assert found is not None
    assert found.is_improvement == (reason == "it beats the start and every control")
    assert reason in found.reason
    assert "there is no gap on this task" in task_table(compared(FROZEN, scores), FROZEN, "tokens").notes[3]


def shown(summary: Summary) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal(summary))
    return console.export_text()


def test_failed_and_missing_jobs_show_everywhere() -> None:
    comparison = compared(
        ADVERSARIAL,
        BETTER,
        job(ADVERSARIAL, "a2c", 0, 0.0, "failed"),
        job(ADVERSARIAL, "a2c", 1, 0.0, "waiting"),
        replace(job(ADVERSARIAL, "ppo", 5, -0.3), stopped="NLL_valid rose"),
    )
    found, summary = row(comparison, "a2c"), summarise(comparison)
    assert (found.done, found.failed, found.missing, found.iqm) == ((), (0,), (1, 2, 3, 4, 5), None)
    assert [(cells[1], cells[2], cells[3], cells[5]) for cells in job_table(summary).cells] == [
        ("a2c", "0", "failed", "OutOfMemory"),
        ("a2c", "1", "waiting", ""),
        ("ppo", "5", "stopped", "NLL_valid rose"),
    ]
    for text in (markdown(summary), shown(summary)):
        assert "failed: 0; missing: 1 2 3 4 5" in text
        assert "OutOfMemory" in text
        assert "NLL_valid rose" in text
    assert "OutOfMemory" in points_csv(comparison)


def test_an_infinite_score_shows_and_an_unscored_seed_is_named() -> None:
    summary = summarise(synthetic_comparison())
    dqn = next(row for row in summary.tables[0].rows if row.agent == "dqn")
    assert dqn.means["nll_test"].value == math.inf
    assert dqn.unscored == (0, 1, 2, 3, 4)
    assert "no score: 0 1 2 3 4" in markdown(summary)


@pytest.mark.parametrize(
    ("scores", "expected", "rule"),
    [
        ({"mle": [4.0, 6.0], "ppo": [1.0, 3.0]}, {"mle": [1 / 3, -1 / 3], "ppo": [4 / 3, 2 / 3]}, "1 that of ppo"),
        ({"mle": [1.0, 1.0], "ppo": [2.0, 4.0]}, {"mle": [0.0, 0.0], "ppo": [-0.5, -1.5]}, "none exceeds"),
        ({"mle": [1.0, 1.0], "ppo": [1.0, 1.0]}, {"mle": [0.0, 0.0], "ppo": [0.0, 0.0]}, "all others equal"),
        ({"trpo": [5.0, 5.0], "ppo": [1.0, 3.0]}, {"trpo": [0.0, 0.0], "ppo": [4 / 3, 2 / 3]}, "regret of trpo (5)"),
        ({"mle": [0.0, 0.0], "ppo": [-1.0, -1.0]}, {"mle": [0.0, 0.0], "ppo": [1.0, 1.0]}, "regret of mle (0) and 1"),
    ],
)
def test_scores_are_normalised_to_the_start_and_the_best(
    scores: Mapping[str, Sequence[float]], expected: Mapping[str, Sequence[float]], rule: str
) -> None:
    found = aggregate(compared(EXACT, scores), "exact", "tokens")
    by_agent = {row.agent: row.scores_RM[:, 0] for row in found.rows}
    for agent, of_seeds in expected.items():
        np.testing.assert_allclose(by_agent[agent], of_seeds)
    assert rule in found.notes[0]


def test_aggregates_take_seeds_that_have_every_task_and_name_who_has_none() -> None:
    second = replace(EXACT, name="exact-2")
    first = compared(EXACT, {"mle": [1.0, 1.0, 1.0], "ppo": [0.0, 0.0, 0.5], "a2c": [0.5]})
    jobs = [job(second, "mle", 1, 2.0), job(second, "mle", 2, 2.0), job(second, "ppo", 2, 1.0)]
    found = aggregate(
        Comparison(name="", tasks=(EXACT, second), jobs=(*first.jobs, *jobs), budget=100, evaluations=5),
        "exact",
        "tokens",
    )
    assert {row.agent: row.seeds for row in found.rows} == {"ppo": (2,), "mle": (1, 2)}
    np.testing.assert_allclose(found.rows[0].scores_RM, [[0.5 / (5 / 6), 1.0]])
    assert "a2c is left out" in found.notes[-1]
    assert found.rows[0].over["mle"].value == 1.0


def test_csv_of_rows_gives_the_same_numbers_back() -> None:
    summary = summarise(synthetic_comparison())
    lines = list(csv.DictReader(io.StringIO(rows_csv(summary))))
    rows = [(table, row) for table in summary.tables for row in table.rows]
    assert len(lines) == len(rows) == 3 * 2 * 9
    for line, (table, found) in zip(lines, rows, strict=True):
        assert (line["task"], line["axis"], line["agent"]) == (table.task.name, table.axis, found.agent)
        assert line["iqm"] == "" if found.iqm is None else float(line["iqm"]) == found.iqm.value
        for metric, mean in found.means.items():
            assert float(line[f"{metric}_mean"]) == mean.value
        for test in found.comparisons:
            assert float(line[f"p_holm_{test.other}"]) == test.p_holm
        assert line["is_better_than_mle"] == ("" if found.verdict is None else str(found.verdict.is_improvement))
        assert [int(seed) for seed in line["failed"].split()] == list(found.failed)


def test_csv_of_points_holds_every_score_of_every_job() -> None:
    comparison = synthetic_comparison(seeds=2)
    lines = list(csv.DictReader(io.StringIO(points_csv(comparison))))
    read = {
        (r["task"], r["agent"], int(r["seed"]), float(r["tokens"]), r["metric"]): float(r["score"])
        for r in lines
        if r["metric"]
    }
    assert read == {
        (job.task, job.agent, job.seed, point.tokens, metric): score
        for job in comparison.jobs
        for point in job.points
        for metric, score in point.scores.items()
    }
    assert {(r["task"], r["agent"], int(r["seed"])) for r in lines} == {
        (job.task, job.agent, job.seed) for job in comparison.jobs
    }


def test_the_same_comparison_gives_the_same_text_and_more_agents_leave_intervals_as_they_are() -> None:
    comparison = compared(ADVERSARIAL, BETTER)
    assert markdown(summarise(comparison)) == markdown(summarise(comparison))
    fewer = compared(ADVERSARIAL, {"ppo": BETTER["ppo"]})
    assert row(fewer, "ppo").iqm == row(comparison, "ppo").iqm


def test_a_comparison_of_which_nothing_is_done_has_tables() -> None:
    comparison = synthetic_comparison(seeds=2)
    waiting = replace(comparison, jobs=tuple(replace(job, state="waiting", points=()) for job in comparison.jobs))
    summary = summarise(waiting)
    assert all(row.iqm is None and not row.done and row.missing for table in summary.tables for row in table.rows)
    assert all(not found.rows for found in summary.aggregates)
    assert markdown(summary).count("| waiting |") == len(comparison.jobs)
    assert "no seeds" in score_table(summary.tables[0]).notes[0]
    assert paired_table(summary.tables[0]).cells == ()
    assert "0 of 2" in shown(summary)


def test_errors_of_several_lines_and_bars_stay_in_their_cells() -> None:
    comparison = compared(ADVERSARIAL, BETTER, replace(job(ADVERSARIAL, "a2c", 0, 0.0, "failed"), error="a|b\nc"))
    assert markdown(summarise(comparison)).rstrip().endswith(r"| failed | 0 | a\|b c |")


def test_the_stated_coverage_of_the_bootstrap_is_what_it_is() -> None:
    """For 3 seeds: 400 repetitions have a standard error of 0.022; a false alarm once in 10^4."""
    rng = stream(0, "coverage")
    held = 0
    for scores_R1 in rng.normal(size=(400, 3, 1)):
        low, high = stratified_bootstrap(scores_R1, iqm, resamples=300, rng=rng).interval
        held += low <= 0 <= high
    assert held / 400 == pytest.approx(0.75, abs=0.085)
