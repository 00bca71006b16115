"""A study: Optuna proposes trials of an agent's hyperparameters, each kept in a file of its own.

Every trial is proposed from the finished ones before it and a random stream of its own, so a study that was interrupted
goes on to the same trials as one that was not. In its folder:

study.json                             what decides the trials
trials/0007.json                       a finished trial, written last
best.yaml  trials.csv  history.png     see :mod:`seqgan_rl.comparison.study_results`
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqgan_rl.adversarial.run_folder import locked
from seqgan_rl.comparison.hyperparameters import FITTED, Settings, settings_of, spec_of
from seqgan_rl.comparison.search_space import Range, Space, distributions, space_of
from seqgan_rl.comparison.study_results import draw_history, score_text, summary_of, write_results
from seqgan_rl.comparison.trials import FIRST_SEED, Attempt, Objective, State, Trial, TuneConfig, TuneResult
from seqgan_rl.core.config import read_yaml, typed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text
from seqgan_rl.core.reading import one_line
from seqgan_rl.core.streams import stream
from seqgan_rl.sequences.extras import needed

LOGGER = logging.getLogger(__name__)
STEPS = 10
"""Of a job's budget, at which a trial can be given up."""
STARTUP_TRIALS = 8
"""Drawn at random before the sampler models the finished ones; none of the first so many is given up."""
MIN_FOR_IMPORTANCE = 10
"""Completed trials below which no importance is computed."""


def search(
    config: TuneConfig, objective: Objective, *, metric: str, higher_is_better: bool, about: Mapping[str, Any]
) -> TuneResult:
    """Run the trials that are missing, and write ``best.yaml``, ``trials.csv`` and ``history.png/.svg``.

    Args:
        config: see :class:`TuneConfig`.
        objective: runs one job.
        metric: what the score is called.
        higher_is_better: whether more of it is better.
        about: plain values that decide the scores besides the config, such as the task's settings; a study goes on only
            where they are the same.

    Raises:
        InputError: bad settings, a folder of another study, Optuna is not installed, or no trial came to its end.
    """
    optuna = needed("optuna", "tune", "tuning")
    if config.agent in FITTED:
        raise InputError(f"{config.agent} is fitted to data and has no hyperparameters to search")
    settings = settings_of(config.agent, config.env, Path(config.hyperparameters) if config.hyperparameters else None)
    space = space_of(config.agent, settings, reward=config.own_reward, file=config.search)
    _open(
        config.path,
        {
            **{
                name: getattr(config, name)
                for name in ("agent", "env", "task_name", "reward", "seeds", "budget", "search_seed")
            },
            "metric": metric,
            "settings": settings,
            "space": {name: asdict(part) if isinstance(part, Range) else part for name, part in space.items()},
            "about": about,
        },
    )

    with _quiet(optuna), locked(config.path / ".lock", f"the study in {config.path} is being continued elsewhere"):
        trials = _finished(config.path, space)
        while len(trials) < config.trials:
            trial = _run(optuna, config, objective, trials, space, higher_is_better, settings)
            write_text(_trial_path(config.path, trial.number), json.dumps(asdict(trial)) + "\n")
            trials.append(trial)
            best = write_results(config, settings, trials, metric, higher_is_better)
            LOGGER.info(
                "trial %d (the last is %d): %s %s, best %s, %.0f s",
                *(trial.number, config.trials - 1, metric, score_text(trial), score_text(best) if best else "none"),
                trial.seconds,
            )
        best = write_results(config, settings, trials, metric, higher_is_better)
        if best is None:
            reason = trials[-1].note or trials[-1].state
            raise InputError(
                f"none of the {len(trials)} trials in {config.path} came to its end ({reason}); search smaller "
                "learning rates with --search in another --folder, or ask for more --trials"
            )
        importances = _importances(optuna, trials, space, higher_is_better)
    draw_history(config.path / "history", trials, importances, metric, higher_is_better)
    return TuneResult(
        folder=config.path,
        trials=tuple(trials),
        best=best,
        settings={**settings, **best.params},
        summary=summary_of(config, trials, best, importances, metric),
    )


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna says only what is wrong; it has a verbosity for the whole process."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _open(folder: Path, identity: dict[str, Any]) -> None:
    """Begin a study in this folder, or go on with the one there. InputError where that is another one."""
    path, text = folder / "study.json", json.dumps(identity, indent=1, sort_keys=True) + "\n"
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} holds something else than a study; choose another --folder")
        make_folder(folder / "trials")
        write_text(path, text)
        return
    found, identity = read_yaml(path), json.loads(text)
    different = [name for name in {**found, **identity} if found.get(name) != identity.get(name)]
    if different:
        raise InputError(f"the study in {folder} has another {', '.join(different)}; choose another --folder")


def _trial_path(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}.json"


def _finished(folder: Path, space: Space) -> list[Trial]:
    """The finished trials, in order. InputError for one that was changed."""
    trials: list[Trial] = []
    while (path := _trial_path(folder, len(trials))).exists():
        values = read_yaml(path)
        try:
            trial = Trial(
                number=len(trials),
                state=typed(values["state"], State, "state"),
                params=dict(values["params"]),
                value=typed(values["value"], float | None, "value"),
                reports={str(int(step)): typed(value, float, step) for step, value in dict(values["reports"]).items()},
                seconds=typed(values["seconds"], float, "seconds"),
                note=typed(values["note"], str, "note"),
            )
            if set(trial.params) != (set(space) if trials else set()) or (trial.state == "complete") != _is_finite(
                trial.value
            ):
                raise InputError("its params or value do not fit its state")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no trial: {one_line(error)}; remove it to run it again") from None
        if not all(_is_in(trial.params[name], part) for name, part in space.items() if name in trial.params):
            raise InputError(f"{path} is no trial: a value lies outside of what is searched; remove it to run it again")
        trials.append(trial)
    return trials


def _is_in(value: Any, part: Range | tuple[Any, ...]) -> bool:
    if isinstance(part, Range):
        return isinstance(value, int | float) and part.low <= value <= part.high
    return value in part


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _run(
    optuna: Any,
    config: TuneConfig,
    objective: Objective,
    trials: Sequence[Trial],
    space: Space,
    higher_is_better: bool,
    settings: Settings,
) -> Trial:
    """The next trial. What the objective raises besides divergence ends the search, and this trial is run again."""
    number, start = len(trials), time.perf_counter()
    seed = int(stream(config.search_seed, f"trial {number}").integers(2**31))
    study = _study(optuna, trials, space, higher_is_better, seed)
    asked = study.ask(distributions(optuna, space) if number else {})
    params, note = dict(asked.params), ""
    reports: dict[str, float] = {}
    values: list[float] = []
    settings, where = {**settings, **params}, f"hyperparameters of {config.agent} ({config.env})"
    agent = spec_of(config.agent, settings, reward=config.own_reward, where=where)

    def report(tokens: int, value: float) -> None:
        step = len(values) * STEPS + min(STEPS, STEPS * tokens // config.budget)
        if not math.isfinite(value) or str(step) in reports or step == len(values) * STEPS:
            return
        reports[str(step)] = sum([*values, value]) / (len(values) + 1)
        asked.report(reports[str(step)], step)
        if asked.should_prune():
            raise optuna.TrialPruned

    state: State = "complete"
    try:
        for job_seed in range(FIRST_SEED, FIRST_SEED + config.seeds):
            value = objective(Attempt(agent=agent, settings=settings, seed=job_seed, trial=number, report=report))
            if not math.isfinite(value):
                raise FloatingPointError(f"the score is {value}")
            values.append(value)
    except optuna.TrialPruned:
        state = "pruned"
    except FloatingPointError as error:
        state, reports, note = "diverged", {}, one_line(error)
    return Trial(
        number=number,
        state=state,
        params=params,
        value=sum(values) / len(values) if state == "complete" else None,
        reports=reports,
        seconds=time.perf_counter() - start,
        note=note,
    )


def _study(optuna: Any, trials: Sequence[Trial], space: Space, higher_is_better: bool, seed: int) -> Any:
    """The finished trials as a study in memory. Those that diverged are pruned ones that got nowhere, which the sampler
    ranks last."""
    study = optuna.create_study(
        direction="maximize" if higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
    )
    parts, states = distributions(optuna, space), optuna.trial.TrialState
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if trial.state == "complete" else states.PRUNED,
                value=trial.value,
                params=trial.params,
                distributions=parts if trial.params else {},
                intermediate_values={int(step): value for step, value in trial.reports.items()},
            )
        )
    return study


def _importances(optuna: Any, trials: Sequence[Trial], space: Space, higher_is_better: bool) -> dict[str, float]:
    """Share of each setting in what makes a trial one of the best quarter (PED-ANOVA, Watanabe et al. 2023), largest
    first; empty where too few trials came to their end."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.params]
    if len(complete) < MIN_FOR_IMPORTANCE:
        return {}
    study = _study(optuna, complete, space, higher_is_better, 0)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
