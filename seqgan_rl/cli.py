"""The command line: ``seqgan-rl train | sample | evaluate | compare | report | tune | envs``.

Each command is a Python function first.

Whatever is wrong with what a user gave is said in one line on standard error, and the exit status is 2; a run stopped
by Ctrl-C exits with 130 and says how to go on.
"""

import argparse
import contextlib
import errno
import io
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from seqgan_rl import __version__
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.extensions import VARIABLE, import_named_by_user

if TYPE_CHECKING:
    from seqgan_rl.adversarial.config import RunConfig

A = TypeVar("A")
C = TypeVar("C")
PROGRAM = "seqgan-rl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the program; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    try:
        if command not in COMMANDS:
            from seqgan_rl.core.registry import did_you_mean

            hint = did_you_mean(command, list(COMMANDS))
            raise InputError(f"unknown command {command!r}{hint}; known are {', '.join(COMMANDS)}")
        import_named_by_user()
        return COMMANDS[command](rest)
    except InputError as error:
        print(f"{PROGRAM} {command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"{PROGRAM} {command}: stopped: {error}; checkpoints written before it are good", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{PROGRAM} {command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, a file that may not be written
        reason, is_full = " ".join(str(error).split()), error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; make room, then start the same command again" if is_full and "make room" not in reason else ""
        print(f"{PROGRAM} {command}: stopped: {reason}{advice}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "no more memory"
        print(f"{PROGRAM} {command}: {reason}; ask for smaller sizes", file=sys.stderr)
        return 1


# --- train ------------------------------------------------------------------------------------------------------


def _train(arguments: list[str]) -> int:
    """Train on the oracle, or on your own text: a preset, then a YAML file, then flags."""
    import tyro
    from rich.console import Console

    from seqgan_rl.adversarial.config import PRESETS, RunConfig, preset
    from seqgan_rl.adversarial.run_folder import new_run_path
    from seqgan_rl.adversarial.trainer import train
    from seqgan_rl.core.config import as_nested, read_yaml, updated
    from seqgan_rl.core.distributed import is_first

    # what decides the defaults of everything else is read first
    early = _early(arguments, "--preset", "--config", "--corpus", "--resume")
    from_file = {} if early.config is None else as_nested(RunConfig(), read_yaml(early.config), str(early.config))
    file_data, file_preset = from_file.get("data"), from_file.pop("preset", None)
    corpus = early.corpus or (file_data.get("corpus") if isinstance(file_data, dict) else None)
    name = str(early.preset or file_preset or ("quick" if corpus is None else "text"))
    settings = updated(preset(name.split("/")[0]), from_file, str(early.config))

    @dataclass(frozen=True, kw_only=True)
    class TrainArguments:
        """Train SeqGAN: likelihood pretraining, discriminator pretraining, adversarial training, controls, a table.

        --agent.algorithm puts RLOO, GRPO, actor-critic, PPO, A2C, TRPO, DQN or QR-DQN in SeqGAN's place.
        Settings are a preset's, then those of a YAML file, then flags. Without --corpus the data are an oracle's.
        """

        preset: Annotated[str, tyro.conf.arg(help=f"One of {', '.join(PRESETS)}.")] = name
        config: Annotated[str | None, tyro.conf.arg(help="A YAML file of settings, nested as the flags are.")] = None
        run: Annotated[str | None, tyro.conf.arg(help="Run folder to make. None: runs/PRESET-DATE-TIME.")] = None
        resume: Annotated[str | None, tyro.conf.arg(help="Continue the run in this folder, with its settings.")] = None
        start: Annotated[
            str | None,
            tyro.conf.arg(help="A run to take the MLE from and, where its settings are these, the discriminator."),
        ] = None
        quiet: Annotated[bool, tyro.conf.arg(help="No progress bars.")] = False
        settings: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: settings)

    chosen = _parse(TrainArguments, "train", arguments)
    if chosen.resume is not None:
        extra = [word for word in arguments if word.startswith("--") and word not in ("--resume", "--quiet")]
        extra = [word for word in extra if not word.startswith("--resume=")]
        if extra:
            raise InputError(f"--resume continues with the run's own settings; leave out {', '.join(extra)}")
    run = chosen.resume or chosen.run or str(new_run_path(chosen.settings.preset.split("/")[0]))
    try:
        resume = chosen.resume is not None
        result = train(chosen.settings, run, resume=resume, start=chosen.start, progress=not chosen.quiet)
    except KeyboardInterrupt:
        if not (Path(run) / "config.json").is_file():
            raise
        print(f"\ninterrupted; continue with: {PROGRAM} train --resume {shlex.quote(run)}", file=sys.stderr)
        return 130
    if not is_first():
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(result.table)
    console.print(f"\n{result.verdict}\n", highlight=False)
    print(f"run folder: {result.folder}  (results.md, samples.txt, figures/, checkpoints/, tensorboard/)")
    return 0


# --- sample, evaluate, envs -------------------------------------------------------------------------------------


def _sample(arguments: list[str]) -> int:
    """Print sequences from a run's generator."""
    import tyro

    from seqgan_rl.adversarial.results import sample
    from seqgan_rl.adversarial.run_folder import RunFolder
    from seqgan_rl.core.files import make_folder
    from seqgan_rl.sequences import write_midi

    @dataclass(frozen=True, kw_only=True)
    class SampleArguments:
        """Print sequences from a run's generator, one a line."""

        run: str
        """Run folder."""
        n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 20
        """How many."""
        prompt: str = ""
        """Text that every sequence starts with."""
        temperature: float = 1.0
        """Divides the logits: below 1 is safer, above 1 more varied."""
        top_k: int | None = None
        """Draw from the k likeliest tokens only."""
        top_p: float | None = None
        """Draw from the smallest set of tokens with this probability."""
        seed: int = 0
        """Another seed gives other sequences."""
        model: str | None = None
        """mle, the algorithm (seqgan) or a control; None takes the agent's, or the MLE's before there is one."""
        midi: str | None = None
        """Of a run on music: write each sequence as a MIDI file into this folder too."""

    chosen = _parse(SampleArguments, "sample", arguments)
    options = dict(vars(chosen))
    midi = options.pop("midi")
    if midi is not None and not RunFolder.open(chosen.run).config().data.level.startswith("pitch"):
        raise InputError(f"midi is for runs on music (--level pitch or pitch-rests); {chosen.run} is none")
    lines = sample(options.pop("run"), options.pop("n"), **options)
    print("\n".join(lines))
    if midi is not None:
        make_folder(Path(midi))
        for number, line in enumerate(lines):
            write_midi(Path(midi) / f"{number:04}.mid", [int(word) for word in line.split() if word.isdecimal()])
    return 0


def _evaluate(arguments: list[str]) -> int:
    """Print the scores of a run's generators, with their signature; --sweep over temperatures."""
    from rich.console import Console

    from seqgan_rl.adversarial.results import evaluate_run

    @dataclass(frozen=True, kw_only=True)
    class EvaluateArguments:
        """Print the scores of all generators of a run on its test split, with their signature."""

        run: str
        """Run folder."""
        samples: int | None = None
        """Sequences drawn from each generator; None takes the run's setting."""
        seed: int = 0
        """Seed of the drawn sequences."""
        sweep: bool = False
        """Score at eleven temperatures too, with gaps to the MLE's curve and figures, into the run's folder scores/."""
        json: bool = False
        """Print JSON, one object a model, instead of tables."""

    chosen = _parse(EvaluateArguments, "evaluate", arguments)
    evaluation = evaluate_run(
        chosen.run, n_samples=chosen.samples, seed=chosen.seed, sweep=chosen.sweep, progress=not chosen.json
    )
    if chosen.json:
        document = evaluation.to_json()
        more = ("gaps", "sweep") if chosen.sweep else ()
        for row in document["rows"]:
            print(json.dumps({**row, **{key: document[key].get(row["name"]) for key in more}}, allow_nan=False))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 110)
    for table in evaluation.tables.values():
        console.print(table)
    for test in evaluation.pareto:
        console.print(test.sentence(), highlight=False)
    if chosen.sweep:
        print(f"written to {Path(chosen.run) / 'scores'}: scores.json, scores.md and figures")
    return 0


def _envs(arguments: list[str]) -> int:
    """List the environments and their arguments."""
    import dataclasses

    from seqgan_rl.envs.options import CorpusOptions, ExactOptions, OracleOptions

    @dataclass(frozen=True, kw_only=True)
    class EnvsArguments:
        """List the environments and the arguments of ``gym.make`` with their defaults."""

    _parse(EnvsArguments, "envs", arguments)
    for name, options in (("Oracle", OracleOptions), ("Corpus", CorpusOptions), ("Exact", ExactOptions)):
        print(f'SeqGAN/{name}-v0   gym.make("SeqGAN/{name}-v0", ...), gym.make_vec(..., num_envs=64)')
        for option in dataclasses.fields(options):
            print(f"    {option.name}={option.default!r}")
    return 0


# --- compare, report --------------------------------------------------------------------------------------------


def _compare(arguments: list[str]) -> int:
    """Compare algorithms: a grid of agents, tasks and seeds, with statistics and a report."""
    import tyro
    from rich.console import Console

    from seqgan_rl.adversarial.config import PRESETS
    from seqgan_rl.comparison.compare import compare
    from seqgan_rl.comparison.experiment import CompareConfig
    from seqgan_rl.comparison.table_text import terminal
    from seqgan_rl.comparison.tables import summarise

    name, settings = _comparison_settings(CompareConfig, arguments)

    @dataclass(frozen=True, kw_only=True)
    class CompareArguments:
        """Compare agents on sequence generation: every agent on every task with every seed, from the same start.

        Start the command again to run what is missing; add agents, seeds or tracks and it adds them to the report.
        """

        preset: Annotated[str, tyro.conf.arg(help=f"Data, networks, pretraining: one of {', '.join(PRESETS)}.")] = name
        config: Annotated[str | None, tyro.conf.arg(help="A YAML file of settings, nested as the flags are.")] = None
        folder: Annotated[str, tyro.conf.arg(help="Where the comparison is kept.")] = "comparisons/compare"
        launcher: Annotated[str, tyro.conf.arg(help="local (processes) or ray.")] = "local"
        workers: Annotated[int | None, tyro.conf.arg(help="Jobs at once. None: one for each core.")] = None
        address: Annotated[str | None, tyro.conf.arg(help="Of a Ray cluster, such as auto. None starts one here.")] = (
            None
        )
        attempts: Annotated[int, tyro.conf.arg(help="Tries of a job before it counts as failed.")] = 2
        track: Annotated[bool, tyro.conf.arg(help="Hand finished jobs to Weights & Biases, where installed.")] = False
        quiet: Annotated[bool, tyro.conf.arg(help="No display of the jobs.")] = False
        settings: Annotated[CompareConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: settings)

    chosen = _parse(CompareArguments, "compare", arguments)
    _refuse_decided(
        chosen.settings.run,
        name,
        "the comparison; use --seeds, --budget, --evaluations, --agents, and --hyperparameters FILE for settings of "
        "agents",
    )
    comparison = compare(
        chosen.settings,
        chosen.folder,
        launcher=chosen.launcher,
        workers=chosen.workers,
        address=chosen.address,
        attempts=chosen.attempts,
        track=chosen.track,
        progress=not chosen.quiet,
        command=(PROGRAM, "compare", *arguments),
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(terminal(summarise(comparison)))
    unfinished = [job for job in comparison.jobs if job.state != "done"]
    for job in unfinished:
        print(f"{PROGRAM} compare: {job.state}: {job.folder}: {job.error}", file=sys.stderr)
    print(f"report: {Path(chosen.folder) / 'report.html'}  (figures, tables and CSV in report/)")
    return 1 if unfinished else 0


def _report(arguments: list[str]) -> int:
    """Write the report of a comparison again, of all that its folder holds."""
    from seqgan_rl.comparison.compare import collect
    from seqgan_rl.comparison.report import write_report

    @dataclass(frozen=True, kw_only=True)
    class ReportArguments:
        """Write the report of a comparison again, finished or not: one HTML file, figures, tables and CSV."""

        folder: str = "comparisons/compare"
        """The comparison's."""

    chosen = _parse(ReportArguments, "report", arguments)
    print(f"report: {write_report(collect(chosen.folder), Path(chosen.folder))}")
    return 0


def _tune(arguments: list[str]) -> int:
    """Search an agent's hyperparameters with Optuna, for use in a comparison."""
    import tyro

    from seqgan_rl.adversarial.config import PRESETS
    from seqgan_rl.comparison.trials import TuneConfig
    from seqgan_rl.comparison.tune import tune

    name, settings = _comparison_settings(TuneConfig, arguments)

    @dataclass(frozen=True, kw_only=True)
    class TuneArguments:
        """Search an agent's hyperparameters: trials of full jobs, each proposed from those before it."""

        preset: Annotated[str, tyro.conf.arg(help=f"Data, networks, pretraining: one of {', '.join(PRESETS)}.")] = name
        config: Annotated[str | None, tyro.conf.arg(help="A YAML file of settings, nested as the flags are.")] = None
        settings: Annotated[TuneConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: settings)

    chosen = _parse(TuneArguments, "tune", arguments).settings
    _refuse_decided(
        chosen.run,
        name,
        "the search; use --seeds and --budget, and --hyperparameters FILE for settings of the agent",
    )
    print(tune(chosen).summary)
    return 0


def _comparison_settings(kind: Callable[..., C], arguments: list[str]) -> tuple[str, C]:
    """The preset's name, and what the settings of a comparison or a search are before flags: a preset's, then those of
    a YAML file."""
    import dataclasses

    from seqgan_rl.adversarial.config import preset
    from seqgan_rl.core.config import as_nested, read_yaml, updated

    early = _early(arguments, "--preset", "--config", "--corpus", "--env")
    from_file = {} if early.config is None else read_yaml(early.config)
    file_preset = from_file.pop("preset", None)
    from_file = as_nested(kind(), from_file, str(early.config))
    run_of_file = from_file.get("run")
    data_of_file = run_of_file.get("data") if isinstance(run_of_file, dict) else None
    corpus = early.corpus or (data_of_file.get("corpus") if isinstance(data_of_file, dict) else None)
    name = str(early.preset or file_preset or ("corrected" if corpus is None else "text"))
    base = dataclasses.replace(preset(name.split("/")[0]), controls=())
    environment = early.env or from_file.get("env") or ("SeqGAN/Oracle-v0" if corpus is None else "SeqGAN/Corpus-v0")
    if corpus is not None:  # else the default settings would not fit each other
        base = dataclasses.replace(base, data=dataclasses.replace(base.data, corpus=str(corpus)))
    settings = updated(kind(run=base, env=str(environment)), from_file, str(early.config))
    return name, settings


def _refuse_decided(run: "RunConfig", name: str, by: str) -> None:
    """InputError where settings of a run are not its preset's that each job has of its own."""
    import dataclasses

    from seqgan_rl.adversarial.config import preset

    base = dataclasses.replace(preset(name.split("/")[0]), controls=())
    own = ("seed", "rounds", "tokens", "scored", "controls", "agent")
    refused = [name for name in own if getattr(run, name) != getattr(base, name)]
    if refused:
        raise InputError(f"{', '.join(refused)}: decided by {by}")


# --- parsing ----------------------------------------------------------------------------------------------------


def _early(arguments: list[str], *flags: str) -> argparse.Namespace:
    """The flags that decide the defaults of others, read before all."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags:
        first.add_argument(flag)
    try:
        return first.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None


def _parse(kind: Callable[..., A], command: str, arguments: list[str]) -> A:
    """Arguments as a dataclass; what tyro has to complain of becomes one line."""
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=f"{PROGRAM} {command}", args=arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}", " ", line).strip() for line in complaint.getvalue().splitlines()]
        text = re.sub(r"(For full helptext,.*)|(Argument helptext:.*)", "", " ".join(filter(None, lines)))
        raise InputError(f"{' '.join(text.split())} (see {PROGRAM} {command} --help)") from None


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "sample": _sample,
    "evaluate": _evaluate,
    "compare": _compare,
    "report": _report,
    "tune": _tune,
    "envs": _envs,
}


def _overview() -> str:
    lines = "\n".join(f"  {name:<10}{(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND [OPTIONS]\n\nSeqGAN as reinforcement learning.\n\ncommands:\n{lines}\n\n"
        f"{PROGRAM} COMMAND --help describes a command; {PROGRAM} --version prints the version.\n"
        f"{VARIABLE}=mine.py {PROGRAM} ... knows what mine.py registers (algorithms, rewards, networks).\n\n"
        f"examples:\n"
        f"  {PROGRAM} train                                     the quick preset: minutes, with all controls\n"
        f"  {PROGRAM} train --corpus captions.txt --level word  your own text, one sequence a line\n"
        f"  {PROGRAM} train --corpus tunes/ --level pitch       a folder of MIDI files\n"
        f'  {PROGRAM} sample --run runs/RUN -n 20 --prompt "a man"\n'
        f"  {PROGRAM} evaluate --run runs/RUN --sweep             gaps to the MLE's temperature curve, with figures"
    )
