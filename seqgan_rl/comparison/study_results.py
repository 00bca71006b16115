"""What people read of a study: its best trial, a table of all, and how the search went."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seqgan_rl.comparison.hyperparameters import Settings
from seqgan_rl.comparison.trials import FIRST_SEED, Trial, TuneConfig
from seqgan_rl.core.files import write_text
from seqgan_rl.evaluation.figures import COLOURS, dress, new_figure, write_figure


def write_results(
    config: TuneConfig, settings: Settings, trials: Sequence[Trial], metric: str, higher_is_better: bool
) -> Trial | None:
    """``trials.csv``, and ``best.yaml`` where there is a best trial, which is returned."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "state", metric, "seconds", *names, "note"])
    for trial in trials:
        params = [trial.params.get(name, settings.get(name, "")) for name in names]
        value = "" if trial.value is None else trial.value
        writer.writerow([trial.number, trial.state, value, round(trial.seconds, 1), *params, trial.note])
    write_text(config.path / "trials.csv", table.getvalue())
    best = _best(trials, higher_is_better)
    if best is not None:
        found = {config.agent: {config.env: {**settings, **best.params}}}
        write_text(
            config.path / "best.yaml",
            f"# seqgan-rl tune: trial {best.number} of {len(trials)}, {metric} {best.value:.4g} over "
            f"{config.seeds} seeds from {FIRST_SEED} at {config.budget:,} tokens, task {config.task_name}.\n"
            f"# The settings as they were (trial 0): {score_text(trials[0])}.\n"
            + yaml.safe_dump(found, sort_keys=False),
        )
    return best


def _best(trials: Sequence[Trial], higher_is_better: bool) -> Trial | None:
    """The first of those with the best score."""
    sign = -1 if higher_is_better else 1
    complete = [trial for trial in trials if trial.value is not None]
    return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def draw_history(
    path: Path, trials: Sequence[Trial], importances: Mapping[str, float], metric: str, higher_is_better: bool
) -> None:
    """Left the score of every trial and the best so far, right how much each setting matters."""
    figure = new_figure(4.6 * (1 + bool(importances)), 3.4)
    axes = figure.add_subplot(1, 1 + bool(importances), 1)
    complete = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    numbers, values = zip(*complete, strict=True)
    better = max if higher_is_better else min
    axes.scatter(numbers, values, s=16, color=COLOURS[0], label="trial")
    axes.step(
        numbers,
        [better(values[: i + 1]) for i in range(len(values))],
        where="post",
        color=COLOURS[1],
        linewidth=1.4,
        label="best so far",
    )
    for state, marker in (("pruned", "x"), ("diverged", "^")):
        own = [trial.number for trial in trials if trial.state == state]
        if own:  # they have no score of their own: on the edge
            axes.plot(
                own, [0.02] * len(own), marker, color="#777777", transform=axes.get_xaxis_transform(), label=state
            )
    dress(axes, title=metric, xlabel="trial (0: the settings as they were)")
    axes.legend(fontsize=8, frameon=False)
    if importances:
        axes = figure.add_subplot(1, 2, 2)
        names = list(importances)[::-1]
        axes.barh(names, [importances[name] for name in names], color=COLOURS[0])
        dress(axes, title="importance (PED-ANOVA)", xlabel="share")
    write_figure(figure, path)


def summary_of(
    config: TuneConfig, trials: Sequence[Trial], best: Trial, importances: Mapping[str, float], metric: str
) -> str:
    """A few lines for people."""
    lines = [
        f"best of {len(trials)} trials: {best.number}, {metric} {score_text(best)}",
        f"the settings as they were (trial 0): {score_text(trials[0])}",
        *(f"  {name}: {_plain(value)}" for name, value in best.params.items()),
    ]
    if importances:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in importances.items())
        lines.append(f"importance of the settings: {shares}")
    given_up = {state: sum(trial.state == state for trial in trials) for state in ("pruned", "diverged")}
    lines += [f"{count} trials {state}" for state, count in given_up.items() if count]
    return "\n".join([*lines, f"use it: seqgan-rl compare --hyperparameters {config.path / 'best.yaml'}"])


def score_text(trial: Trial) -> str:
    """A trial's score, or why it has none."""
    return trial.state if trial.value is None else f"{trial.value:.4g}"


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
