"""One job of a comparison: a run, and the record of what it found.

``python -m seqgan_rl.comparison.jobs FOLDER [MODULE...]``, with modules that register what its settings name.

job.json        what it is (:class:`~seqgan_rl.comparison.experiment.Spec`)
run/            the run, as ``seqgan-rl train`` leaves it, but for the table: it is resumed where it was left
curve.json      of a start: its MLE at many temperatures
record.json     written last (:class:`~seqgan_rl.comparison.records.Job`)
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.results import load_run, make_evaluator
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.adversarial.trainer import Run, opened
from seqgan_rl.comparison.exact import ExactJob, run_exact
from seqgan_rl.comparison.experiment import Spec
from seqgan_rl.comparison.records import Job, Point, Sample
from seqgan_rl.core.config import read_yaml, updated
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.extensions import import_all, modules_behind
from seqgan_rl.core.files import write_text
from seqgan_rl.core.reading import one_line, read_file
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import discriminators
from seqgan_rl.evaluation import DEFAULT_TEMPERATURES, SWEEP_TEMPERATURES, Scores, TemperatureCurve
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import Generator
from seqgan_rl.rewards import rewards
from seqgan_rl.rewards.base import RewardParts, as_reward
from seqgan_rl.rollout import action_values

SAMPLES, ROLLOUTS = 12, 16
SWEEP_SAMPLES = 2048
MOST_ROWS = 200
"""Diagnostics kept of a job, evenly spread."""
SWEPT = ("nll_oracle", "nll_test", "entropy", "distinct_tokens", "bleu_4", "self_bleu_4")
_MAX_BYTES = 2**26


def run_job(folder: str | Path, *, progress: bool = False) -> None:
    """Do what ``job.json`` in a folder says, or go on with it; nothing if its record is there.

    Raises:
        InputError: the folder holds no job, or its run does not fit.
        FloatingPointError: a loss, weight or reward was not finite.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    if (folder / "record.json").is_file():
        return
    if spec.kind == "exact":
        job = updated(ExactJob(), spec.config, str(folder / "job.json"))
        run_exact(job, folder / "run", progress)
        record = _exact_record(spec, folder / "run")
    else:
        record = _run(spec, folder, progress)
    write_text(folder / "record.json", json.dumps(_plain(dataclasses.asdict(record)), allow_nan=False) + "\n")


def command_of(spec: Spec, folder: Path) -> tuple[str, ...]:
    """What Python is to be started with for this job. InputError where its settings name a part of the user's own that
    another process cannot import."""
    return "-m", "seqgan_rl.comparison.jobs", str(folder), *modules_behind(dataclasses.asdict(spec))


def read_spec(folder: Path) -> Spec:
    """What ``job.json`` of a folder holds. InputError where that is no job."""
    path = folder / "job.json"
    try:
        return Spec(**read_yaml(path))
    except TypeError as error:
        raise InputError(f"{path} is not the job of a comparison: {one_line(error)}") from None


def read_record(folder: Path) -> Job | None:
    """What a finished job found; None where there is no record, or one that cannot be read."""
    try:
        value = json.loads(read_file(folder / "record.json", _MAX_BYTES))
        points = [
            Point(**{**point, "scores": {name: _number(score) for name, score in point["scores"].items()}})
            for point in value.pop("points")
        ]
        samples = [
            Sample(words=tuple(s["words"]), values=tuple(map(_number, s["values"]))) for s in value.pop("samples")
        ]
        diagnostics, sweep = tuple(value.pop("diagnostics")), tuple(value.pop("sweep"))
        return Job(points=tuple(points), samples=tuple(samples), diagnostics=diagnostics, sweep=sweep, **value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _run(spec: Spec, folder: Path, progress: bool) -> Job:
    config = updated(RunConfig(), spec.config, str(folder / "job.json"))
    start = (
        None if spec.kind == "start" else folder.parents[len(Path(spec.folder).parts) - 1] / f"starts/seed-{spec.seed}"
    )
    begun = (folder / "run" / "config.json").is_file()
    with opened(
        config, folder / "run", resume=begun, start=None if start is None else start / "run", progress=progress
    ) as run:
        run.go()
        if start is None:
            return _start_record(spec, folder, run)
        return _run_record(spec, run, start)


def _start_record(spec: Spec, folder: Path, run: Run) -> Job:
    """Measure the curve that all jobs of this seed are compared with."""
    _, data, mle = load_run(run.folder.path, "mle")
    temperatures = DEFAULT_TEMPERATURES if data.oracle is not None else SWEEP_TEMPERATURES
    curve = TemperatureCurve.measure(mle, _evaluator(data, run.config.evaluation.final_samples), temperatures)
    document = {"temperatures": curve.temperatures, "points": [point.to_json() for point in curve.points]}
    write_text(folder / "curve.json", json.dumps(document, allow_nan=False) + "\n")
    sweep = _swept(curve.temperatures, curve.points)
    return dataclasses.replace(_record(spec, _hashes(run)), sweep=sweep)


def read_curve(start: Path) -> TemperatureCurve:
    """The temperature curve of a start. InputError where there is none."""
    try:
        value = json.loads(read_file(start / "curve.json", _MAX_BYTES))
        return TemperatureCurve(tuple(value["temperatures"]), tuple(map(Scores.from_json, value["points"])))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{start / 'curve.json'} cannot be read: {one_line(error)}; remove {start} to make it again"
        ) from None


def _run_record(spec: Spec, run: Run, start: Path) -> Job:
    curve, config = read_curve(start), run.config
    stage = config.agent.algorithm if spec.kind == "agent" else (*config.controls, "mle")[0]
    _, data, generator = load_run(run.folder.path, stage)
    if spec.kind == "agent":
        points = points_along(run.folder, stage, curve)
    else:
        _, _, mle = load_run(run.folder.path, "mle")
        points = [_point_of(run, data, mle, curve, {})]
        if stage != "mle":
            used = {"time/training": _seconds(run.folder, stage)}  # it generates nothing, and nothing scores it
            points.append(_point_of(run, data, generator, curve, used))
    if stage == "mle":
        sweep = _swept(curve.temperatures, curve.points)
    else:
        evaluator = _evaluator(data, min(SWEEP_SAMPLES, config.evaluation.final_samples))
        sweep = _swept(SWEEP_TEMPERATURES, [evaluator.scores(generator, temperature=t) for t in SWEEP_TEMPERATURES])
    return dataclasses.replace(
        _record(spec, _hashes(run)),
        points=tuple(points),
        diagnostics=_diagnostics(run.folder, stage),
        sweep=sweep,
        samples=_samples(spec, data, generator, start),
        stopped=run.stopped.get(stage, ""),
    )


def _record(spec: Spec, hashes: dict[str, str]) -> Job:
    """A finished job, without what it measured; the settings' hash is added to the others."""
    settings = json.dumps(spec.config, sort_keys=True).encode()
    return Job(
        task=spec.task,
        agent=spec.agent,
        seed=spec.seed,
        folder=spec.folder,
        state="done",
        settings=spec.config,
        hashes={"settings": hashlib.sha256(settings).hexdigest()[:16], **hashes},
    )


def _hashes(run: Run) -> dict[str, str]:
    versions = read_file(run.folder / "versions.json", _MAX_BYTES)
    hashes = {
        "corpus": run.data.corpus.content_hash[:16],
        "versions": hashlib.sha256(versions).hexdigest()[:16],
    }
    return hashes if run.data.oracle is None else {**hashes, "oracle": run.data.oracle.hash}


def _evaluator(data: RunData, n_samples: int) -> Any:
    """The scores of evaluations along a run: BLEU where there is no oracle."""
    return make_evaluator(data, n_samples, smoothing=None if data.oracle is not None else "method1")


def points_along(folder: RunFolder, stage: str, curve: TemperatureCurve) -> list[Point]:
    """The evaluations that an agent's run has written so far, with their gaps to the MLE's curve."""
    rows = [row for row in read_metrics(folder) if row.get("agent") == stage and "round" in row]
    points, paid = [], math.nan
    for row in rows:
        paid = _number(row.get("agent/reward", paid))
        if "eval/nll_test" in row:
            points.append(_point({"eval/reward": paid, **row}, curve))
    return points


def _point_of(run: Run, data: RunData, generator: Generator, curve: TemperatureCurve, used: dict[str, float]) -> Point:
    """A model that does not play, scored as those that do are."""
    scores = _evaluator(data, run.config.evaluation.samples).scores(generator.to(run.device))
    row: dict[str, Any] = {f"eval/{name}": value for name, value in scores.metrics().items()} | used
    if run.reward_of_samples is not None:
        row["eval/reward"] = run.mean_reward(generator, run.reward_of_samples)
    return _point(row, curve)


def _point(row: dict[str, Any], curve: TemperatureCurve) -> Point:
    names = ("nll_oracle", "nll_test", "entropy", "distinct_tokens", "kl_g_o", "reward", "bleu_4", "self_bleu_4")
    scores = {name: _number(row.get(f"eval/{name}")) for name in names}
    scores["gap"] = curve.distance(scores["nll_oracle"], scores["nll_test"])
    if math.isfinite(scores["bleu_4"]):
        scores["bleu_gap"] = curve.bleu_distance(scores["bleu_4"], scores["self_bleu_4"])
    return Point(
        tokens=int(row.get("tokens", 0)),
        evaluations=int(row.get("evaluations", 0)),
        seconds=float(row.get("time/training", 0.0)),
        scores={name: score for name, score in scores.items() if math.isfinite(score)},
    )


def _seconds(folder: RunFolder, stage: str) -> float:
    """Wall time of a fitted stage, which comes first in the processes of its run; evaluations not counted."""
    seconds = before = 0.0
    for row in read_metrics(folder):
        if row.get("agent") == stage:
            now = float(row.get("time/seconds", 0.0))
            if "eval/nll_test" not in row:
                seconds += now - before if now >= before else now  # less: the clock of a continued run, begun at 0
            before = now
    return seconds


def _diagnostics(folder: RunFolder, stage: str) -> tuple[dict[str, float], ...]:
    rows: dict[int, dict[str, float]] = {}
    for row in read_metrics(folder):
        if row.get("agent") == stage and "round" in row:
            numbers = {name: _number(value) for name, value in row.items() if not isinstance(value, str)}
            rows.setdefault(row["round"], {}).update({n: v for n, v in numbers.items() if math.isfinite(v)})
    kept = list(rows.values())
    return tuple(kept[:: max(1, -(-len(kept) // MOST_ROWS))])


def _swept(temperatures: Sequence[float], points: Sequence[Scores]) -> tuple[dict[str, float], ...]:
    return tuple(
        {"temperature": t, **{name: point.value(name) for name in SWEPT if math.isfinite(point.value(name))}}
        for t, point in zip(temperatures, points, strict=True)
    )


def _samples(spec: Spec, data: RunData, generator: Generator, start: Path) -> tuple[Sample, ...]:
    """Sequences with the value of each token: by the start's discriminator, or the frozen reward, after rollouts of the
    MLE, so that the colours of all agents mean the same."""
    _, _, mle = load_run(start / "run", "mle")
    vocabulary, rng = data.corpus.vocabulary, stream(spec.seed, "samples")
    parts = RewardParts(
        discriminator=load_model(start / "run" / "discriminator", discriminators),
        oracle=data.oracle,
        generator=mle,
        real=lambda: data.split("train"),
        eos_id=vocabulary.eos_id,
        rng=rng,
    )
    tokens_BT = generator.cpu().sample(SAMPLES, forbidden=data.forbidden, rng=rng)
    lengths_B = (tokens_BT != generator.pad_id).sum(dim=1)
    B, T = tokens_BT.shape
    uniforms = torch.from_numpy(rng.random((B, T - 1, ROLLOUTS, T), dtype="float32"))
    q_BT = action_values(mle, as_reward(rewards[spec.reward](parts)), tokens_BT, lengths_B, uniforms)
    words = [*vocabulary.words, *(["<eos>"] if vocabulary.has_eos else [])]
    return tuple(
        Sample(words=tuple(words[token] for token in row[:length]), values=tuple(values[:length]))
        for row, values, length in zip(tokens_BT.tolist(), q_BT.tolist(), lengths_B.tolist(), strict=True)
    )


def _exact_record(spec: Spec, folder: Path) -> Job:
    rows = [row for row in read_metrics(RunFolder(folder)) if "round" in row]
    points = [
        Point(
            tokens=int(row["tokens"]),
            evaluations=int(row["evaluations"]),
            seconds=float(row["time/training"]),
            scores={name[5:]: _number(value) for name, value in row.items() if name.startswith("eval/")},
        )
        for row in rows
        if "eval/regret" in row
    ]
    samples = [
        Sample(words=tuple(sample["words"]), values=tuple(sample["values"]))
        for sample in json.loads(read_file(folder / "samples.json", _MAX_BYTES))
    ]
    return dataclasses.replace(
        _record(spec, {}),
        points=tuple(points),
        diagnostics=_diagnostics(RunFolder(folder), spec.agent),
        samples=tuple(samples[:SAMPLES]),
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _plain(value: Any) -> Any:
    """Without numbers that JSON does not have: they are null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    """Run the job of the folder in the first argument, the modules in the others imported; 0 if it is done, else 1
    and a line on standard error."""
    try:
        import_all(sys.argv[2:])
        run_job(sys.argv[1])
    except (InputError, FloatingPointError) as error:
        print(f"{type(error).__name__}: {one_line(error, 500)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
