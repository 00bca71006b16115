import io
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from seqgan_rl.evaluation import (
    Gap,
    Row,
    SampleScores,
    Scores,
    TemperatureCurve,
    gap_table,
    sample_table,
    score_table,
    sweep_table,
    verdict,
)

MakeScores = Callable[..., Scores]


def below(value: float, error: float = 0.01) -> Gap:
    return Gap(value=value, standard_error=error, kind="nll_oracle at equal nll_test", temperature=0.8)


def printed(table: object, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_markdown_by_hand(make_scores: MakeScores) -> None:
    rows: list[Row] = [
        Row("MLE", make_scores(3.0, 2.5, error=0.0094, entropy=2.25, distinct_tokens=4700)),
        Row("Seq|GAN", make_scores(2.5, 2.5), below(-0.1)),
        Row("shuffled", None),
    ]
    head, rule, *body = score_table(rows).markdown().splitlines()[:5]
    assert head == r"| model | NLL_oracle | NLL_test | entropy H | KL(G\|\|O) | distinct tokens | unique | gap |"
    assert rule == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert body == [
        "| MLE | 3.000 ±.009 | 2.500 ±.009 | 2.250 ±.009 | 0.750 ±.009 | 4,700 | 100.0% | - |",
        r"| Seq\|GAN | 2.500 ±.010 | 2.500 ±.010 | 2.000 ±.010 | 0.500 ±.010 | 50 | 100.0% | -0.100 ±.010 |",
        "| shuffled | - | - | - | - | - | - | - |",
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_loses_no_digit(make_scores: MakeScores, width: int) -> None:
    rows = [Row("MLE at equal coverage", make_scores(13.0, 2.5), below(-0.1)), Row("[bold]", make_scores(2.5, 12.5))]
    text = printed(score_table(rows), width)
    assert "…" not in text
    for part in ("13.000", "12.500", "-0.100", "NLL_oracle", "KL(G||O)", "[bold]"):
        assert part in text


@pytest.mark.parametrize("width", [30, 80, 110])
def test_a_table_of_many_models_is_continued_below(make_sample_scores: Callable[..., SampleScores], width: int) -> None:
    scored = {f"number {i}": make_sample_scores({"bleu_4": 0.100 + i / 1000}, 0.017) for i in range(12)}
    text = printed(sample_table(list(scored.items())), width)
    assert "…" not in text
    for i in range(12):
        assert f"{0.100 + i / 1000:.3f}" in text
    assert text.count("±.017") == 12
    assert max(map(len, text.splitlines())) <= width
    assert text.count("bleu_4") > 1


def test_columns_without_values_are_dropped(make_scores: MakeScores) -> None:
    table = score_table([("MLE", make_scores(None, 2.5)), ("SeqGAN", make_scores(None, 2.4))])
    assert table.header == ("model", "NLL_test", "entropy H", "distinct tokens", "unique")


def test_notes_say_what_the_numbers_are(make_scores: MakeScores) -> None:
    other_kind = Gap(value=-0.01, standard_error=0.001, kind="nll_test at equal nll_oracle", temperature=1.0)
    scores = make_scores(3.0, 2.5, unk_rate=0.031, corpus_hash="c0ffee")
    rows = [("MLE", scores, below(0.0)), ("a", scores, other_kind), ("b", scores, Gap(reason="it is far away"))]
    text = score_table(rows).markdown()
    assert "| -0.010 ±.001† |" in text
    assert "† gap in NLL_test at equal NLL_oracle" in text
    assert "b has no gap: it is far away" in text
    assert (
        "oracle oracle, corpus c0ffee, test test (100 sequences), samples 100 from seed 0, T 20, V 50, UNK 3.1%" in text
    )


def test_infinite_cost_is_shown_as_such(make_scores: MakeScores) -> None:
    assert "| inf |" in score_table([("top-k", make_scores(3.0, math.inf, error=math.nan))]).markdown()


def test_rows_that_cannot_be_compared_are_refused(make_scores: MakeScores) -> None:
    rows = [("MLE", make_scores(3.0, 2.5)), ("SeqGAN", make_scores(3.0, 2.5, oracle_hash="other"))]
    for function in (score_table, verdict):
        with pytest.raises(ValueError, match="oracle_hash: oracle != other"):
            function(rows)
    with pytest.raises(ValueError, match="one row"):
        score_table([("MLE", None), ("MLE", None)])
    score_table([("MLE", make_scores(3.0, 2.5)), ("MLE at equal coverage", make_scores(3.0, 2.5, temperature=0.7))])


def test_verdict_on_a_success(make_scores: MakeScores) -> None:
    """Errors .01 each, unpaired: a difference is known to .02 at the least."""
    assert verdict([
        ("oracle entropy", make_scores(1.9, 1.9)),
        ("uniform", make_scores(6.0, 3.9)),
        ("MLE", make_scores(3.3, 2.5)),
        ("MLE continued", make_scores(3.31, 2.48)),
        ("constant", make_scores(3.5, 2.51)),
        ("random", make_scores(3.7, 2.53)),
        ("shuffled", make_scores(3.1, 2.7)),
        ("SeqGAN", make_scores(2.6, 2.55), below(-0.1)),
    ]) == (
        "SeqGAN lowered NLL_oracle by 0.700 ±.020 and raised NLL_test by 0.050 ±.020 from its MLE start; "
        "beside it, the best control in NLL_oracle, shuffled, is 0.500 ±.020 worse in NLL_oracle and 0.150 ±.020 worse "
        "in NLL_test; it lies below the MLE temperature curve by 0.100 ±.010 in NLL_oracle at equal NLL_test: better "
        "than temperature."
    )  # fmt: skip


def test_verdict_on_a_failure(make_scores: MakeScores) -> None:
    sentence = verdict([
        ("MLE", make_scores(3.3, 2.5)),
        ("MLE continued", make_scores(3.3, 2.4)),
        ("constant", make_scores(3.1, 2.5)),
        ("SeqGAN", make_scores(3.4, 2.6), below(0.2)),
    ])  # fmt: skip
    assert sentence == (
        "SeqGAN raised NLL_oracle by 0.100 ±.020 and raised NLL_test by 0.100 ±.020 from its MLE start; "
        "beside it, the best control in NLL_oracle, constant (random, shuffled not scored), is 0.300 ±.020 better in "
        "NLL_oracle and 0.100 ±.020 better in NLL_test; it lies above the MLE temperature curve by 0.200 ±.010 in "
        "NLL_oracle at equal NLL_test: worse than temperature."
    )


def test_verdict_on_ties(make_scores: MakeScores) -> None:
    same = make_scores(3.3, 2.5)
    sentence = verdict([("MLE", same), ("random", make_scores(3.32, 2.49)), ("SeqGAN", same, below(-0.02))])
    assert "left NLL_oracle as it was (+0.000 ±.020) and left NLL_test as it was" in sentence
    assert "is level in NLL_oracle (+0.020 ±.020) and level in NLL_test (-0.010 ±.020)" in sentence
    assert "within two standard errors of the MLE temperature curve" in sentence
    assert "no better than temperature" in sentence
    assert "collapse" not in sentence


def test_verdict_in_nll_test_at_equal_nll_oracle(make_scores: MakeScores) -> None:
    gap = Gap(value=-0.03, standard_error=0.001, kind="nll_test at equal nll_oracle", temperature=1.0)
    sentence = verdict([("MLE", make_scores(3.3, 2.5)), ("SeqGAN", make_scores(3.3, 2.4), gap)])
    assert "below the MLE temperature curve by 0.030 ±.001 in NLL_test at equal NLL_oracle: better" in sentence


def test_verdict_warns_of_a_collapse_even_where_all_else_shines(make_scores: MakeScores) -> None:
    mle = make_scores(9.6, 7.6, entropy=7.4, distinct_tokens=4700)
    fallen = make_scores(0.93, 8.0, entropy=0.02, distinct_tokens=186)
    sentence = verdict([("MLE", mle), ("SeqGAN", fallen, below(-5.0))])
    assert (
        "better than temperature; beware of a collapse: its entropy fell from 7.40 to 0.02 and its distinct" in sentence
    )
    assert sentence.endswith("tokens fell from 4,700 to 186, below half of the MLE's.")
    only_tokens = verdict([("MLE", mle), ("SeqGAN", make_scores(9.0, 7.6, entropy=7.0, distinct_tokens=2000))])
    assert "collapse: its distinct tokens fell from 4,700 to 2,000" in only_tokens
    assert "entropy" not in only_tokens


def test_verdict_says_what_is_not_known(make_scores: MakeScores) -> None:
    mle, seqgan = make_scores(3.3, 2.5), make_scores(2.6, 2.55)
    assert (
        verdict([("MLE", mle)])
        == verdict([("SeqGAN", None)])
        == ("There is no verdict, because SeqGAN was not scored.")
    )
    alone = verdict([("SeqGAN", seqgan)])
    assert "SeqGAN scored NLL_oracle 2.600 ±.010 and NLL_test 2.550 ±.010, but its MLE start was not scored" in alone
    assert "no control was scored, so this need not be the discriminator's doing" in alone
    assert "whether it is better than temperature is unknown (no curve was measured)" in alone
    assert "unknown (too far)" in verdict([("MLE", mle), ("SeqGAN", seqgan, Gap(reason="too far"))])
    assert "no control was scored" in verdict([("MLE", mle), ("random", None), ("SeqGAN", seqgan)])


def test_verdict_without_a_curve_uses_the_mle_at_equal_coverage(make_scores: MakeScores) -> None:
    rows = [("MLE at equal coverage", make_scores(2.7, 2.55, temperature=0.83)), ("SeqGAN", make_scores(2.6, 2.55))]
    sentence = verdict(rows)
    assert "MLE at temperature 0.83 is 0.100 ±.020 worse in NLL_oracle and level in NLL_test (+0.000 ±.020)" in sentence


def test_verdict_on_numbers_that_are_none(make_scores: MakeScores) -> None:
    diverged = make_scores(math.nan, math.inf)
    rows = [
        Row("MLE", make_scores(3.3, 2.5)),
        Row("random", make_scores(3.4, 2.6)),
        Row("SeqGAN", diverged, Gap(reason="a score is not a finite number")),
    ]
    sentence = verdict(rows)
    assert "SeqGAN took NLL_oracle from 3.300 to nan and took NLL_test from 2.500 to inf" in sentence
    assert "random (MLE continued, constant, shuffled not scored), is at 3.400 in NLL_oracle against nan" in sentence
    assert "unknown (a score is not a finite number)" in sentence
    assert "no control was scored" in verdict([("SeqGAN", make_scores(3.0, 2.5)), ("random", diverged)])


def test_verdict_names_the_agent_and_says_that_it_was_stopped(make_scores: MakeScores) -> None:
    rows = [("MLE", make_scores(3.3, 2.5)), ("PPO", make_scores(3.3, 2e9))]
    plain, stopped = verdict(rows, "PPO"), verdict(rows, "PPO", stopped="at round 2 of 4: its NLL rose")
    assert plain.startswith("PPO left NLL_oracle as it was")
    assert "raised NLL_test by 2e+09 ±.020" in plain
    assert "SeqGAN" not in plain
    assert stopped == f"PPO was stopped early, at round 2 of 4: its NLL rose. {plain}"
    assert verdict(rows) == "There is no verdict, because SeqGAN was not scored."


def test_verdict_on_text(make_scores: MakeScores) -> None:
    rows = [
        ("MLE", make_scores(None, 4.0, entropy=4.1, distinct_tokens=900)),
        ("random", make_scores(None, 4.2)),
        ("shuffled", make_scores(None, 4.1)),
        ("SeqGAN", make_scores(None, 4.3, entropy=3.0, distinct_tokens=700)),
    ]
    assert verdict(rows) == (
        "SeqGAN raised NLL_test by 0.300 ±.020 from its MLE start, with entropy 4.10 -> 3.00 and distinct tokens 900 "
        "-> 700; beside it, the best control in NLL_test, shuffled (MLE continued, constant not scored), is "
        "0.200 ±.020 better in NLL_test; without an oracle none of these numbers measures the quality of the samples."
    )


def test_verdict_takes_back_what_a_reward_that_knows_nothing_does_too(make_scores: MakeScores) -> None:
    """From an overfit MLE even a constant reward gets below that model's own curve (pilot, "Traps met")."""
    rows = [Row("MLE", make_scores(9.1, 8.9)), Row("SeqGAN", make_scores(8.8, 9.2), below(-0.17))]
    controls = [Row("constant", make_scores(8.7, 9.4), below(-0.2)), Row("random", make_scores(9.0, 9.0), below(-0.01))]
    assert verdict([*rows, *controls]).endswith(
        "better than temperature, but so without any judgement of a discriminator: constant; this proves nothing."
    )
    assert verdict([*rows, controls[1]]).endswith(": better than temperature.")


def test_sample_table_by_hand(make_sample_scores: Callable[..., SampleScores]) -> None:
    one = make_sample_scores({"bleu_4": 0.5, "distinct_2": math.nan})
    table = sample_table([("MLE", one), ("SeqGAN", make_sample_scores({"bleu_4": 0.25}, error=math.nan))])
    assert table.header == ("score", "MLE", "SeqGAN")
    assert table.cells == (("bleu_4", "0.500 ±.010", "0.250"), ("distinct_2", "-", "-"))
    notes = table.markdown()
    assert "smoothing method1" in notes
    assert "compare them at equal sizes only; a column of real sequences needs" in notes
    with_real = sample_table([("real (training)", one), ("MLE", one)]).markdown()
    assert "compare them with the real sequences' column" in with_real
    assert "references test test (100), samples 100, V 50, training data not given" in notes
    with pytest.raises(ValueError, match="reference_size: 100 != 7"):
        sample_table([("MLE", one), ("SeqGAN", make_sample_scores({"bleu_4": 0.25}, reference_size=7))])
    with pytest.raises(ValueError, match="at least one model"):
        sample_table([])


def test_scores_whose_samples_were_scored_otherwise_are_refused(
    make_scores: MakeScores, make_sample_scores: Callable[..., SampleScores]
) -> None:
    one = make_scores(3.0, 2.5, samples={"bleu_4": 0.5})
    other = replace(one, samples=make_sample_scores({"bleu_4": 0.5}, smoothing="none"))
    with pytest.raises(ValueError, match="smoothing: method1 != none"):
        score_table([("MLE", one), ("SeqGAN", other)])
    score_table([("MLE", one), ("SeqGAN", make_scores(3.0, 2.5))])  # what is not there differs in nothing


def test_sweep_table_has_entropy_and_distinct_tokens_beside_every_pair(make_scores: MakeScores) -> None:
    temperatures = (0.5, 1.0, 1.5)
    points = [make_scores(None, 2.0 + t, temperature=t, samples={"bleu_4": t / 2}) for t in temperatures]
    table = sweep_table({"MLE": TemperatureCurve(temperatures, tuple(points))})
    assert table.header == ("model", "temperature", "NLL_test", "BLEU-4", "entropy H", "distinct tokens")
    assert table.cells[0] == ("MLE", "0.5", "2.500 ±.010", "0.250 ±.010", "2.000 ±.010", "50")
    other = TemperatureCurve(temperatures, (make_scores(None, 2.0, seed=1),) * 3)
    with pytest.raises(ValueError, match="seed: 0 != 1"):
        sweep_table({"MLE": TemperatureCurve(temperatures, tuple(points)), "SeqGAN": other})


def test_gap_table_gives_intervals_and_reasons() -> None:
    table = gap_table({"SeqGAN": {"nll": below(-0.1), "bleu_4": Gap(reason="too far")}}, "MLE")
    assert table.cells == (("SeqGAN", "nll_oracle at equal nll_test", "-0.100", "-0.120 to -0.080", "0.80"),)
    assert "SeqGAN has no gap in bleu_4: too far" in table.notes


def test_conditional_js_has_a_column_where_it_was_measured(make_scores: MakeScores) -> None:
    measured = replace(
        make_scores(3.0, 2.5), conditional_js=0.125, standard_errors=dict.fromkeys(["conditional_js", "nll_test"], 0.01)
    )
    table = score_table([("MLE", replace(measured, nll_oracle=None, kl_g_o=None, entropy=math.nan))])
    assert table.cells[0][table.header.index("cond. JS")] == "0.125 ±.010"
    assert "cond. JS: Jensen-Shannon of next-token" in table.notes[1]
