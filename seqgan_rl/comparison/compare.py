"""A comparison from settings to report: make what is missing, collect what is there. As ``seqgan-rl compare``.

A comparison is a folder:

comparison.json           its settings
starts/seed-0/            data, MLE and discriminator that all agents of a seed start from
runs/TASK/AGENT/seed-0/   one job each, see :mod:`seqgan_rl.comparison.jobs`
report.html  report/      what people read
"""

import dataclasses
import json
import logging
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqgan_rl.adversarial.data import RunData
from seqgan_rl.comparison.experiment import CompareConfig, Spec, prepare, specs, tasks_of
from seqgan_rl.comparison.jobs import command_of, read_record, read_spec
from seqgan_rl.comparison.launchers import Work, check_arguments, launch, locked, read_status
from seqgan_rl.comparison.records import Comparison, Job
from seqgan_rl.comparison.report import write_report
from seqgan_rl.comparison.tracking import track as hand_over
from seqgan_rl.comparison.tracking import wandb_module
from seqgan_rl.core.config import as_dict, read_yaml, updated
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text

logger = logging.getLogger(__name__)
SETTINGS = "comparison.json"
MAY_GROW = ("agents", "seeds", "tracks", "frozen_rewards")
"""Settings that a later command may change: it adds to what is there."""
MAY_DIFFER = (*MAY_GROW, "hyperparameters")
"""And a file of settings of new agents; those of every job that is there are held against its own (:func:`_is_new`)."""


def compare(
    config: CompareConfig,
    folder: str | Path,
    *,
    launcher: str = "local",
    workers: int | None = None,
    address: str | None = None,
    attempts: int = 2,
    track: bool = False,
    progress: bool = True,
    command: Sequence[str] = (),
) -> Comparison:
    """Run the jobs that are missing in a folder, then write the report of all that is there.

    Args:
        config: what to compare; in a folder that holds a comparison already only agents, seeds, tracks, frozen rewards
            and the hyperparameters of new agents may differ, and what is new is added.
        folder: of the comparison; made where it does not exist.
        launcher: "local" or "ray".
        workers: jobs at once; None: one for each core.
        address: of a Ray cluster; None starts one here.
        attempts: how often a job is tried before it counts as failed.
        track: hand curves to Weights & Biases at the end.
        progress: show what runs.
        command: that made it, for the report.

    Raises:
        InputError: settings, data or folder are wrong; nothing has been written then.
    """
    folder = Path(folder)
    wandb = wandb_module() if track else None
    check_arguments(launcher, workers, attempts)
    config, data = prepare(config)
    stored, wanted = _check_folder(folder, config), list(specs(config, data))
    to_write = [spec for spec in wanted if _is_new(folder, spec)]
    _check_data(folder, wanted, data)
    works = [_work(folder, spec) for spec in wanted]
    make_folder(folder)
    with locked(folder):
        _write_settings(folder, config, stored, command)
        for spec in to_write:
            make_folder(folder / spec.folder)
            write_text(folder / spec.folder / "job.json", json.dumps(dataclasses.asdict(spec), indent=1) + "\n")
        for spec in wanted:  # a record that is gone, or damaged, is made again
            if read_status(folder / spec.folder).state == "done" and read_record(folder / spec.folder) is None:
                (folder / spec.folder / "status.json").unlink()
                (folder / spec.folder / "record.json").unlink(missing_ok=True)
        try:
            launch(works, launcher=launcher, workers=workers, address=address, attempts=attempts, progress=progress)
        finally:  # an interrupted comparison has a report too, which says what is missing
            comparison = collect(folder)
            write_report(comparison, folder)
        if wandb is not None:
            hand_over(comparison, folder, wandb)
    return comparison


def collect(folder: str | Path) -> Comparison:
    """All that a comparison's folder holds, finished or not. InputError where it is none."""
    folder = Path(folder)
    stored = _stored(folder)
    if stored is None:
        raise InputError(f"{folder} holds no comparison; `seqgan-rl compare --folder {folder}` makes one")
    config = _config(folder, stored)
    jobs = [_job(folder, read_spec(path.parent)) for path in sorted((folder / "runs").glob("*/*/seed-*/job.json"))]
    order = {agent: number for number, agent in enumerate(config.agents)}
    jobs.sort(key=lambda job: (order.get(job.agent, len(order)), job.agent, job.seed))
    return Comparison(
        name=folder.resolve().name,
        tasks=tasks_of(config),
        jobs=tuple(jobs),
        budget=config.budget,
        evaluations=config.evaluations,
        settings=as_dict(config),
        command=str(stored.get("command", "")),
        machine=str(stored.get("machine", "")),
    )


def _work(folder: Path, spec: Spec) -> Work:
    after = () if spec.kind in ("start", "exact") else (f"starts/seed-{spec.seed}",)
    path = (folder / spec.folder).resolve()
    return Work(
        name=spec.folder.removeprefix("runs/"),
        folder=path,
        command=command_of(spec, path),
        after=after,
    )


def _job(folder: Path, spec: Spec) -> Job:
    """A job's record, or what is known of one that has none."""
    record, status = read_record(folder / spec.folder), read_status(folder / spec.folder)
    if record is not None:
        return dataclasses.replace(record, attempts=status.attempts)
    return Job(
        task=spec.task,
        agent=spec.agent,
        seed=spec.seed,
        folder=spec.folder,
        state="waiting" if status.state == "done" else status.state,
        error=status.error,
        attempts=status.attempts,
        settings=spec.config,
    )


def _is_new(folder: Path, spec: Spec) -> bool:
    """Whether a job has to be written down. InputError where it was begun with other settings."""
    try:
        there = read_spec(folder / spec.folder)
    except InputError:  # not there, or damaged
        return True
    then, now = (_flat(json.loads(json.dumps(dataclasses.asdict(part)))) for part in (there, spec))
    different = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if different:
        raise InputError(
            f"{folder / spec.folder} was made with other settings: "
            + "; ".join(f"{name} ({then.get(name)!r:.60} there, {now.get(name)!r:.60} now)" for name in different[:3])
            + "; have the hyperparameters changed? Choose another --folder, or remove that one"
        )
    return False


def _check_data(folder: Path, wanted: Sequence[Spec], data: RunData | None) -> None:
    """InputError where a start was made from other data under the same names: seeds would differ in more than that."""
    for spec in wanted:
        record = read_record(folder / spec.folder) if spec.kind == "start" and data is not None else None
        if record is not None and data is not None and record.hashes.get("corpus") != data.corpus.content_hash[:16]:
            raise InputError(
                f"{folder / spec.folder} was made from other data: a file that the settings name has changed since; "
                "put it back, or choose another --folder"
            )


# --- the folder's settings --------------------------------------------------------------------------------------


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / SETTINGS
    return read_yaml(path) if path.is_file() else None


def _config(folder: Path, stored: dict[str, Any]) -> CompareConfig:
    settings = stored.get("settings")
    if not isinstance(settings, dict):
        raise InputError(f"{folder / SETTINGS} is not the settings of a comparison")
    return updated(CompareConfig(), settings, str(folder / SETTINGS))


def _check_folder(folder: Path, config: CompareConfig) -> dict[str, Any] | None:
    """The stored settings, if any. InputError where others than may grow differ, or something else stands there."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"folder {folder} is a file; choose another --folder")
    stored = _stored(folder)
    if stored is None:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"folder {folder} exists and holds no comparison; choose another --folder")
        return None
    before = _config(folder, stored)
    then, now = _flat(as_dict(before)), _flat(as_dict(config))
    different = [
        f"{name} ({then.get(name)!r:.60} there, {now.get(name)!r:.60} now)"
        for name in now
        if name not in MAY_DIFFER and then.get(name) != now[name] and not _is_left_open(name, then, now)
    ]
    if different:
        raise InputError(
            f"the comparison in {folder} has other settings: {'; '.join(different)}; choose another --folder, or leave "
            "them as they are there (agents, their hyperparameters, seeds, tracks and frozen rewards may be added)"
        )
    return stored


def _is_left_open(name: str, then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether it is the second budget of tracks with data, which a comparison of exact tasks alone does not have."""
    return name == "evaluations" and 0 in (then.get(name), now[name])


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with the names that flags have."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _write_settings(folder: Path, config: CompareConfig, stored: dict[str, Any] | None, command: Sequence[str]) -> None:
    if stored is not None:
        before = _config(folder, stored)
        grown: dict[str, Any] = {
            name: list(dict.fromkeys((*getattr(before, name), *getattr(config, name))))
            for name in MAY_GROW
            if name != "seeds"
        }
        largest = {name: max(getattr(before, name), getattr(config, name)) for name in ("seeds", "evaluations")}
        file = config.hyperparameters or before.hyperparameters
        config = updated(config, {**grown, **largest, "hyperparameters": file})
    document = {
        "settings": as_dict(config),
        "command": shlex.join(command) or str((stored or {}).get("command", "")),
        "machine": _machine(),
    }
    write_text(folder / SETTINGS, json.dumps(document, indent=1) + "\n")


def _machine() -> str:
    """What the jobs run on, in words."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {model}, Python {platform.python_version()}, torch {torch.__version__}"
