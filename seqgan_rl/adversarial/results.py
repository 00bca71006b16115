"""What a run found: the table of all its models, the verdict, figures and samples; and reading a run again."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.player import load_player
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import write_text
from seqgan_rl.core.streams import stream
from seqgan_rl.evaluation import (
    DEFAULT_TEMPERATURES,
    SWEEP_TEMPERATURES,
    Evaluation,
    Evaluator,
    Row,
    Scores,
    ScoreTable,
    TemperatureCurve,
    evaluate_models,
    learning_curves,
    quality_coverage,
    score_table,
    verdict,
)
from seqgan_rl.evaluation.plain import to_plain
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import Generator, generators

NAMES = {
    **{"mle": "MLE", "mle_continued": "MLE continued", "seqgan": "SeqGAN"},
    **{"ppo": "PPO", "a2c": "A2C", "trpo": "TRPO", "dqn": "DQN", "qrdqn": "QR-DQN"},
    **{"rloo": "RLOO", "grpo": "GRPO", "actor_critic": "Actor-critic"},
    **{"scheduled_sampling": "Scheduled sampling", "vae": "VAE"},
}
"""Rows of the table by the name of the stage; controls, and algorithms of one's own, keep theirs."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
JS_SEQUENCES = 256
"""Sequences of each half of the conditional Jensen-Shannon divergence in :func:`evaluate_run`."""


@dataclass(frozen=True)
class RunResult:
    """Scores of every model of a run."""

    folder: Path
    rows: tuple[Row, ...]
    verdict: str
    """One sentence, computed from the numbers."""

    @property
    def table(self) -> ScoreTable:
        """The scores as a table; ``rich`` prints it, ``.markdown()`` writes it."""
        return score_table(self.rows)

    def scores(self, name: str) -> Scores:
        """Scores of the row with this name, such as "SeqGAN"."""
        for row in self.rows:
            if row.name == name and row.scores is not None:
                return row.scores
        raise KeyError(f"no model {name!r} in this run; there are {', '.join(row.name for row in self.rows)}")


def make_evaluator(
    data: RunData, n_samples: int, device: torch.device | str = "cpu", seed: int = 0, **options: Any
) -> Evaluator:
    """Scores on the test split, with UNK not sampled; ``options`` as for :class:`Evaluator`."""
    if data.oracle is not None:
        data.oracle.generator.to(device)
    return Evaluator(
        data.split("test").to(device),
        oracle=data.oracle,
        train_BT=data.split("train"),
        n_samples=n_samples,
        seed=seed,
        forbidden=data.forbidden,
        unk_id=data.corpus.vocabulary.unk_id,
        corpus_hash=data.corpus.content_hash[:16],
        **options,
    )


def write_results(
    folder: RunFolder,
    config: RunConfig,
    data: RunData,
    *,
    stopped: Mapping[str, str] = MappingProxyType({}),
    progress: bool = True,
) -> RunResult:
    """Score every model of a finished run on the test split and write table, verdict, figures and samples.

    Args:
        folder, config, data: the run.
        stopped: when and why stages were stopped before their end, by stage.
        progress: show a bar.
    """
    evaluator = make_evaluator(data, config.evaluation.final_samples, config.device)
    found = models_of(folder)
    mle = load_model(found["mle"], generators).to(config.device)
    generators_by_name = {name: load_player(path, config, data, mle).to(config.device) for name, path in found.items()}
    agent = NAMES.get(config.agent.algorithm, config.agent.algorithm)
    curve, rows = None, list[Row]()
    steps = len(generators_by_name) + (len(DEFAULT_TEMPERATURES) + 3 if data.oracle is not None else 0)
    with tqdm(total=steps, desc=f"{'scoring':<22}", unit="model", disable=not progress) as bar:
        if data.oracle is not None:
            points = []
            for temperature in DEFAULT_TEMPERATURES:
                points.append(evaluator.scores(generators_by_name["mle"], temperature=temperature))
                bar.update()
            curve = TemperatureCurve(tuple(DEFAULT_TEMPERATURES), tuple(points))
            rows += [
                Row("oracle entropy", evaluator.oracle_scores()),
                Row("uniform", evaluator.uniform_scores(data.corpus.vocabulary.num_actions)),
            ]
            bar.update(2)
        for name, generator in generators_by_name.items():
            scores = evaluator.scores(generator)
            rows.append(Row(NAMES.get(name, name), scores, None if curve is None else curve.gap(scores)))
            bar.update()
        _add_equal_coverage(rows, evaluator, generators_by_name["mle"], agent)
        bar.update()
    sentence = verdict(rows, agent, stopped=stopped.get(config.agent.algorithm, ""))
    result = RunResult(folder.path, tuple(rows), sentence)
    best = generators_by_name.get(config.agent.algorithm, generators_by_name["mle"])
    _write(folder, data, result, _document(data, result, curve, stopped), best)
    _draw(folder, result, curve, agent)
    return result


def _add_equal_coverage(rows: list[Row], evaluator: Evaluator, mle: Generator, agent: str) -> None:
    """After the MLE: the MLE at the temperature at which its NLL_test is the agent's."""
    names = [row.name for row in rows]
    gap = rows[names.index(agent)].gap if agent in names else None
    if gap is not None and gap.temperature is not None:
        scores = evaluator.scores(mle, temperature=gap.temperature)
        rows.insert(names.index("MLE") + 1, Row("MLE at equal coverage", scores))


def _document(
    data: RunData, result: RunResult, curve: TemperatureCurve | None, stopped: Mapping[str, str]
) -> dict[str, Any]:
    """What ``results.json`` holds."""
    return {
        "verdict": result.verdict,
        "stopped": {NAMES.get(name, name): reason for name, reason in stopped.items()},
        "oracle": None if data.oracle is None else {"source": data.oracle.source, "hash": data.oracle.hash},
        "corpus": {"name": data.corpus.name, "hash": data.corpus.content_hash, "report": list(data.corpus.report)},
        "rows": [
            {
                "name": row.name,
                "scores": None if row.scores is None else row.scores.to_json(),
                "gap": None if row.gap is None else asdict(row.gap),
            }
            for row in result.rows
        ],
        "curve": None if curve is None else [point.to_json() for point in curve.points],
    }


def _write(folder: RunFolder, data: RunData, result: RunResult, document: dict[str, Any], best: Generator) -> None:
    """Numbers, table, verdict and samples."""
    write_text(folder / "results.json", json.dumps(to_plain(document), indent=1, allow_nan=False) + "\n")
    write_text(folder / "results.md", f"{result.table.markdown()}\n{result.verdict}\n")
    tokens_BT = best.sample(50, forbidden=data.forbidden, rng=stream(0, "samples"))
    write_text(folder / "samples.txt", "\n".join(as_lines(data, tokens_BT)) + "\n")


def _draw(folder: RunFolder, result: RunResult, curve: TemperatureCurve | None, agent: str) -> None:
    """The figures of a run."""
    (folder / "figures").mkdir(exist_ok=True)
    records = [row for row in read_metrics(folder) if "round" in row]
    if any("eval/nll_test" in record for record in records):
        learning_curves(records, folder / "figures" / "learning_curves")
    if curve is not None:
        quality_coverage(curve, result.rows, folder / "figures" / "quality_coverage", agent)


def models_of(folder: RunFolder) -> dict[str, Path]:
    """The models of a run by the name of their stage: mle, mle_continued, the algorithm (seqgan), controls. That of an
    algorithm is a generator, or in ``agent/`` the weights of one that has none."""
    controls, algorithm = folder / "controls", folder.config().agent.algorithm
    found = {"mle": folder / "mle", "mle_continued": controls / "mle_continued"}
    found[algorithm] = folder / "generator" if (folder / "generator").is_dir() else folder / "agent"
    if controls.is_dir():
        found |= {path.name: path for path in sorted(controls.iterdir()) if not path.name.startswith(".")}
    return {name: path for name, path in found.items() if path.is_dir()}


def as_lines(data: RunData, tokens_BT: torch.Tensor) -> list[str]:
    """Sequences as text, one a line; control characters, which byte-pair pieces can hold, are written \\xNN."""
    texts = (data.corpus.vocabulary.decode(row) for row in tokens_BT.tolist())
    return [_CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text) for text in texts]


def load_run(run: str | Path, model: str | None = None) -> tuple[RunFolder, RunData, Generator]:
    """A run's data and one of its generators; None: the agent's, or the MLE's where training has not got so far."""
    folder = RunFolder.open(run)
    found = models_of(folder)
    if "mle" not in found:
        raise InputError(f"run {run} holds no trained generator yet; continue it with --resume {run}")
    config = folder.config()
    name = model or (config.agent.algorithm if config.agent.algorithm in found else "mle")
    if name not in found:
        raise InputError(f"run {run} holds no model {name!r}; it has {', '.join(found)}")
    data = RunData.load(folder)
    return folder, data, _load(found, name, config, data)


def _load(found: dict[str, Path], name: str, config: RunConfig, data: RunData) -> Generator:
    """A model of a run, on the CPU."""
    cpu = dataclasses.replace(config, device="cpu")
    return load_player(found[name], cpu, data, load_model(found["mle"], generators))


def sample(
    run: str | Path,
    n: int = 20,
    *,
    prompt: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    model: str | None = None,
) -> list[str]:
    """Text from a run's generator, the same as ``seqgan-rl sample``. InputError for a folder that is not a run, or a
    prompt that its vocabulary cannot say."""
    _, data, generator = load_run(run, model)
    vocabulary = data.corpus.vocabulary
    if n < 1 or seed < 0:
        raise InputError(f"n must be at least 1 and seed at least 0, got {n} and {seed}")
    for unit in vocabulary.split(prompt):
        if unit not in vocabulary.words or vocabulary.encode_units([unit]) == [vocabulary.unk_id]:
            raise InputError(f"prompt: {unit!r} is not in the vocabulary of this run; use words of its training text")
    try:
        tokens_BT = generator.sample(
            n,
            prefix=vocabulary.encode(prompt),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            forbidden=data.forbidden,
            rng=stream(seed, "samples"),
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    return as_lines(data, tokens_BT)


def evaluate_run(
    run: str | Path, *, n_samples: int | None = None, seed: int = 0, sweep: bool = False, progress: bool = False
) -> Evaluation:
    """All scores of all models of a run on its test split, the same as ``seqgan-rl evaluate``.

    Args:
        run: the run folder.
        n_samples: sequences drawn from each model; None takes the run's setting.
        seed: of the drawn sequences.
        sweep: score at other temperatures too, with the gaps to the MLE's curve, and write tables and figures into the
            run's folder ``scores/``.
        progress: show a bar.
    """
    folder = RunFolder.open(run)
    load_run(run)
    data, config = RunData.load(folder), folder.config()
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    samples = config.evaluation.final_samples if n_samples is None else n_samples
    pitch_of_word = None
    if config.data.level.startswith("pitch"):  # words are piano keys 0 to 87; 88 is a rest or <unk>
        words = data.corpus.vocabulary.words
        pitch_of_word = np.array([int(word) if word.isdecimal() and int(word) < 88 else 88 for word in words])
    try:
        evaluator = make_evaluator(
            data, samples, seed=seed, smoothing="method1", js_sequences=JS_SEQUENCES, pitch_of_word=pitch_of_word
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    found = models_of(folder)
    oracle = {} if data.oracle is None else {"oracle entropy": data.oracle.generator}
    evaluation = evaluate_models(
        {**oracle, **{NAMES.get(name, name): _load(found, name, config, data) for name in found}},
        evaluator,
        sweep=SWEEP_TEMPERATURES if sweep else (),
        floors=tuple(oracle),
        progress=progress,
    )
    if sweep:
        evaluation.write(folder / "scores")
    return evaluation


def evaluate(
    run: str | Path, *, n_samples: int | None = None, seed: int = 0
) -> tuple[ScoreTable, list[dict[str, Any]]]:
    """The table of :func:`evaluate_run`, and its JSON-able rows with their signatures."""
    evaluation = evaluate_run(run, n_samples=n_samples, seed=seed)
    return evaluation.tables["scores"], evaluation.to_json()["rows"]
