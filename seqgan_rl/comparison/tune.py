"""Search an agent's hyperparameters with Optuna: a trial is a job of a comparison, on seeds that no comparison has.

Every trial is proposed from the finished ones before it and a random stream of its own, so a study that was interrupted
goes on to the same trials as one that was not. A study is a folder:

study.json                             what decides the trials
trials/0007.json                       a finished trial, written last
starts/seed-1000/                      what all trials of a seed start from
runs/trial-0007/AGENT/seed-1000/       a job, see :mod:`seqgan_rl.comparison.jobs`
best.yaml  trials.csv  history.png     what people read
"""

import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from seqgan_rl.adversarial.config import RunConfig, preset
from seqgan_rl.adversarial.run_folder import RunFolder, locked, read_metrics
from seqgan_rl.comparison.experiment import CompareConfig, ExactTrack, Spec, prepare, specs, tasks_of
from seqgan_rl.comparison.hyperparameters import FITTED, AgentSpec, Settings, settings_of, spec_of
from seqgan_rl.comparison.jobs import _points_along, read_curve, read_record, read_spec
from seqgan_rl.comparison.launchers import Local, Work
from seqgan_rl.comparison.records import METRICS
from seqgan_rl.comparison.search_space import Range, Space, distributions, space_of
from seqgan_rl.core.config import as_dict, read_yaml, typed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text
from seqgan_rl.core.reading import one_line
from seqgan_rl.core.streams import stream
from seqgan_rl.evaluation.figures import COLOURS, _dress, _figure, _write
from seqgan_rl.sequences.extras import needed

LOGGER = logging.getLogger(__name__)
FIRST_SEED = 1_000
"""Tuning counts its seeds from here, comparisons from 0: settings are judged on seeds that had no part in their
choice."""
STEPS = 10
"""Of a job's budget, at which a trial can be given up."""
STARTUP_TRIALS = 8
"""Drawn at random before the sampler models the finished ones; none of the first so many is given up."""
POLL_SECONDS = 1.0
"""Between two looks at what a job has written."""
MIN_FOR_IMPORTANCE = 10
"""Completed trials below which no importance is computed."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search an agent's hyperparameters: trials of full jobs, each proposed from those before it."""

    agent: str = "ppo"
    """An agent of the hyperparameters file."""
    env: str = "SeqGAN/Oracle-v0"
    """SeqGAN/Oracle-v0, SeqGAN/Corpus-v0 or SeqGAN/Exact-v0."""
    task: str | None = None
    """adversarial, frozen-oracle, frozen-bleu (or another reward that stays as it is), exact-table, exact-grammar or
    exact-oracle. None: adversarial, or exact-table on SeqGAN/Exact-v0."""
    reward: str = "logit"
    """The reward of the adversarial task, for agents that have none of their own."""
    trials: int = 30
    """Trials in all; the first has the settings as they are. The same command with more goes on."""
    seeds: int = 2
    """Seeds of each trial, 1000, 1001...; the score is their mean."""
    budget: int = 50_000
    """Tokens that a job generates."""
    search_seed: int = 0
    """Of the search."""
    hyperparameters: str | None = None
    """A YAML file laid over the hyperparameters of the library, from which the search starts."""
    search: str | None = None
    """A YAML file of what is searched, in place of the table in docs/tuning.md: a setting's name, then {low: 1.0e-4,
    high: 1.0e-2, log: true} (whole numbers where both ends are) or a list of choices."""
    folder: str | None = None
    """Folder of the study. None: runs/tune-AGENT-ENV-TASK. An interrupted study goes on there."""
    exact: ExactTrack = field(default_factory=ExactTrack)
    """Sizes of the exact tasks; tasks and budget are those above."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: preset("corrected"))
    """Data, network, MLE and discriminator; agent, seed, rounds and controls are the search's."""

    def __post_init__(self) -> None:
        for name in ("trials", "seeds", "budget"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.search_seed < 0:
            raise InputError(f"search_seed must be at least 0, got {self.search_seed}")
        _ = self.comparison

    @property
    def task_name(self) -> str:
        """The task, with its default filled in."""
        return self.task or ("exact-table" if self.env == "SeqGAN/Exact-v0" else "adversarial")

    @property
    def own_reward(self) -> str:
        """The reward of agents that have none of their own, on this task."""
        track, _, name = self.task_name.partition("-")
        return {"frozen": name, "exact": "oracle"}.get(track, self.reward)

    @property
    def path(self) -> Path:
        """The study's folder."""
        return Path(self.folder or f"runs/tune-{self.agent}-{self.env.rpartition('/')[2]}-{self.task_name}")

    @property
    def comparison(self) -> CompareConfig:
        """The comparison whose jobs are the trials'. Its data are others than a comparison of the same settings has:
        another draw from the oracle or split of the corpus, never a test file; other rewards of an exact task."""
        track, _, name = self.task_name.partition("-")
        data = replace(self.run.data, data_seed=self.run.data.data_seed + FIRST_SEED, test=None)
        exact = replace(self.exact, budget=self.budget, task_seed=self.exact.task_seed + FIRST_SEED)
        return CompareConfig(
            agents=(self.agent,),
            env=self.env,
            tracks=(track,),
            seeds=1,
            budget=self.budget,
            evaluations=1,  # no further than the budget
            reward=self.reward,
            frozen_rewards=(name,) if track == "frozen" else (),
            hyperparameters=self.hyperparameters,
            exact=replace(exact, tasks=(name,)) if track == "exact" else exact,
            run=replace(self.run, data=data),
        )


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One job of a trial."""

    agent: AgentSpec
    settings: Settings
    """The same by the keys of the hyperparameters file."""
    seed: int
    trial: int
    report: Callable[[int, float], None]
    """To be called with the tokens so far and the score, after each evaluation; it raises what gives the trial up."""


Objective = Callable[[Attempt], float]
"""Runs a job and returns its score. FloatingPointError: it diverged."""
State = Literal["complete", "pruned", "diverged"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial, as a file of the study keeps it."""

    number: int
    state: State
    params: dict[str, Any]
    """What was searched; nothing in trial 0, which has the settings as they are."""
    value: float | None
    """Mean score over the seeds; None unless complete."""
    reports: dict[str, float]
    """Scores along the way, by tenths of the budget (the second seed's from 10 on)."""
    seconds: float
    note: str = ""
    """Why it diverged."""


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What a study has found."""

    folder: Path
    trials: tuple[Trial, ...]
    best: Trial
    settings: Settings
    """Of the best trial, by the keys of the hyperparameters file."""
    summary: str
    """A few lines for people."""


def tune(config: TuneConfig) -> TuneResult:
    """Search on jobs of a comparison, and write ``best.yaml``, ``trials.csv`` and ``history.png/.svg`` into the study's
    folder; the same as ``seqgan-rl tune``.

    Raises:
        InputError: bad settings, a folder of another study, Optuna is not installed, or no trial came to its end.
    """
    needed("optuna", "tune", "tuning")  # before the data, which may take a while
    comparison, data = prepare(config.comparison)
    jobs = list(specs(comparison, data))
    task = tasks_of(comparison)[0]
    job = next((job for job in jobs if job.agent == config.agent and job.kind in ("agent", "exact")), None)
    if job is None:
        raise InputError(f"{config.agent} does not play on {config.task_name}")
    start = next((job for job in jobs if job.kind == "start"), None)

    def objective(attempt: Attempt) -> float:
        if start is not None:
            _make(config.path, _with_seed(start, attempt.seed))
        goes_beyond = "evaluations" if job.kind == "exact" else "scored"
        settings = {**job.config, "agent": as_dict(attempt.agent.agent), goes_beyond: 0}
        own = _with_seed(replace(job, task=f"trial-{attempt.trial:04d}", config=settings), attempt.seed)

        def watch() -> None:
            for tokens, score in _scores_along(config.path, own, task.primary):
                attempt.report(tokens, score)

        folder = _make(config.path, own, watch)
        record = read_record(folder)
        if record is None:
            raise InputError(f"{folder / 'record.json'} cannot be read; remove {folder} to run it again")
        return record.score_at("tokens", config.budget, task.primary)

    about = {name: value for name, value in as_dict(comparison).items() if name not in ("agents", "hyperparameters")}
    metric = METRICS[task.primary]
    return search(config, objective, metric=task.primary, higher_is_better=metric.higher_is_better, about=about)


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
            best = _write_results(config, settings, trials, metric, higher_is_better)
            LOGGER.info(
                "trial %d (the last is %d): %s %s, best %s, %.0f s",
                *(trial.number, config.trials - 1, metric, _shown(trial), _shown(best) if best else "none"),
                trial.seconds,
            )
        best = _write_results(config, settings, trials, metric, higher_is_better)
        if best is None:
            reason = trials[-1].note or trials[-1].state
            raise InputError(
                f"none of the {len(trials)} trials in {config.path} came to its end ({reason}); search smaller "
                "learning rates with --search in another --folder, or ask for more --trials"
            )
        importances = _importances(optuna, trials, space, higher_is_better)
    _draw(config.path / "history", trials, importances, metric, higher_is_better)
    return TuneResult(
        folder=config.path,
        trials=tuple(trials),
        best=best,
        settings={**settings, **best.params},
        summary=_summary(config, trials, best, importances, metric),
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


# --- jobs -------------------------------------------------------------------------------------------------------


def _with_seed(job: Spec, seed: int) -> Spec:
    return replace(job, seed=seed, config={**job.config, "seed": seed})


def _make(root: Path, job: Spec, watch: Callable[[], object] = lambda: None) -> Path:
    """Run a job in a process of its own, or go on with it, and return its folder. ``watch`` is called while it runs and
    once after; what it raises ends the job."""
    folder = (root / job.folder).resolve()
    if (folder / "job.json").is_file() and asdict(read_spec(folder)) != json.loads(json.dumps(asdict(job))):
        raise InputError(f"{folder} was begun with other settings, perhaps by another version; remove it")
    if not (folder / "record.json").is_file():
        make_folder(folder)
        write_text(folder / "job.json", json.dumps(asdict(job), indent=1) + "\n")
        work = Work(name=job.folder, folder=folder, command=("-m", "seqgan_rl.comparison.jobs", str(folder)))
        launcher = Local([work], 1, None)
        launcher.start(work, job.folder)
        try:
            while not (ended := launcher.ended(POLL_SECONDS)):
                watch()
        finally:
            launcher.stop()
        error = ended[0][1]
        if error.startswith("FloatingPointError: "):
            raise FloatingPointError(error.partition(": ")[2])
        if error:
            raise InputError(f"{folder} stopped: {error}; once that is mended, the same command goes on with it")
    watch()
    return folder


def _scores_along(root: Path, job: Spec, metric: str) -> list[tuple[int, float]]:
    """Tokens and score of the evaluations that a job has written so far."""
    folder = root / job.folder
    if not (folder / "run" / "metrics.jsonl").is_file():
        return []
    run = RunFolder(folder / "run")
    if job.kind == "exact":
        return [(row["tokens"], row[f"eval/{metric}"]) for row in read_metrics(run) if f"eval/{metric}" in row]
    curve = read_curve(root / "starts" / f"seed-{job.seed}")
    points = _points_along(run, job.config["agent"]["algorithm"], curve)
    return [(point.tokens, point.scores.get(metric, math.nan)) for point in points]


# --- the study --------------------------------------------------------------------------------------------------


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


# --- what it writes ---------------------------------------------------------------------------------------------


def _best(trials: Sequence[Trial], higher_is_better: bool) -> Trial | None:
    """The first of those with the best score."""
    sign = -1 if higher_is_better else 1
    complete = [trial for trial in trials if trial.value is not None]
    return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)


def _write_results(
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
            f"# The settings as they were (trial 0): {_shown(trials[0])}.\n" + yaml.safe_dump(found, sort_keys=False),
        )
    return best


def _importances(optuna: Any, trials: Sequence[Trial], space: Space, higher_is_better: bool) -> dict[str, float]:
    """Share of each setting in what makes a trial one of the best quarter (PED-ANOVA, Watanabe et al. 2023), largest
    first; empty where too few trials came to their end."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.params]
    if len(complete) < MIN_FOR_IMPORTANCE:
        return {}
    study = _study(optuna, complete, space, higher_is_better, 0)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _draw(
    path: Path, trials: Sequence[Trial], importances: Mapping[str, float], metric: str, higher_is_better: bool
) -> None:
    """Left the score of every trial and the best so far, right how much each setting matters."""
    figure = _figure(4.6 * (1 + bool(importances)), 3.4)
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
    _dress(axes, title=metric, xlabel="trial (0: the settings as they were)")
    axes.legend(fontsize=8, frameon=False)
    if importances:
        axes = figure.add_subplot(1, 2, 2)
        names = list(importances)[::-1]
        axes.barh(names, [importances[name] for name in names], color=COLOURS[0])
        _dress(axes, title="importance (PED-ANOVA)", xlabel="share")
    _write(figure, path)


def _summary(
    config: TuneConfig, trials: Sequence[Trial], best: Trial, importances: Mapping[str, float], metric: str
) -> str:
    lines = [
        f"best of {len(trials)} trials: {best.number}, {metric} {_shown(best)}",
        f"the settings as they were (trial 0): {_shown(trials[0])}",
        *(f"  {name}: {_plain(value)}" for name, value in best.params.items()),
    ]
    if importances:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in importances.items())
        lines.append(f"importance of the settings: {shares}")
    given_up = {state: sum(trial.state == state for trial in trials) for state in ("pruned", "diverged")}
    lines += [f"{count} trials {state}" for state, count in given_up.items() if count]
    return "\n".join([*lines, f"use it: seqgan-rl compare --hyperparameters {config.path / 'best.yaml'}"])


def _shown(trial: Trial) -> str:
    return trial.state if trial.value is None else f"{trial.value:.4g}"


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
