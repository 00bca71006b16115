"""What a run found: the table of all its models, the verdict, figures and samples; and reading a run again."""

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    Evaluator,
    Row,
    Scores,
    ScoreTable,
    TemperatureCurve,
    learning_curves,
    quality_coverage,
    score_table,
    verdict,
)
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import Generator, generators

NAMES = {
    **{"mle": "MLE", "mle_continued": "MLE continued", "seqgan": "SeqGAN"},
    **{"ppo": "PPO", "a2c": "A2C", "trpo": "TRPO", "dqn": "DQN", "qrdqn": "QR-DQN"},
}
"""Rows of the table by the name of the stage; controls, and algorithms of one's own, keep theirs."""


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


def make_evaluator(data: RunData, n_samples: int, device: torch.device | str = "cpu", seed: int = 0) -> Evaluator:
    """Scores on the test split, with UNK not sampled."""
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
    )


def write_results(folder: RunFolder, config: RunConfig, data: RunData, *, progress: bool = True) -> RunResult:
    """Score every model of a finished run on the test split and write table, verdict, figures and samples."""
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
    result = RunResult(folder.path, tuple(rows), _verdict(rows, agent))
    _write(folder, data, result, curve, generators_by_name.get(config.agent.algorithm, generators_by_name["mle"]))
    return result


def _verdict(rows: list[Row], agent: str) -> str:
    """:func:`verdict` judges the row "SeqGAN" and speaks of it; here of the agent in its place."""
    return verdict([row._replace(name="SeqGAN") if row.name == agent else row for row in rows]).replace("SeqGAN", agent)


def _add_equal_coverage(rows: list[Row], evaluator: Evaluator, mle: Generator, agent: str) -> None:
    """After the MLE: the MLE at the temperature at which its NLL_test is the agent's."""
    names = [row.name for row in rows]
    gap = rows[names.index(agent)].gap if agent in names else None
    if gap is not None and gap.temperature is not None:
        scores = evaluator.scores(mle, temperature=gap.temperature)
        rows.insert(names.index("MLE") + 1, Row("MLE at equal coverage", scores))


def _write(
    folder: RunFolder, data: RunData, result: RunResult, curve: TemperatureCurve | None, best: Generator
) -> None:
    document = {
        "verdict": result.verdict,
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
    write_text(folder / "results.json", json.dumps(document, indent=1) + "\n")
    write_text(folder / "results.md", f"{result.table.markdown()}\n{result.verdict}\n")
    tokens_BT = best.sample(50, forbidden=data.forbidden, rng=stream(0, "samples"))
    write_text(folder / "samples.txt", "\n".join(as_lines(data, tokens_BT)) + "\n")
    (folder / "figures").mkdir(exist_ok=True)
    records = [row for row in read_metrics(folder) if "round" in row]
    if any("eval/nll_test" in record for record in records):
        learning_curves(records, folder / "figures" / "learning_curves")
    if curve is not None:
        quality_coverage(curve, result.rows, folder / "figures" / "quality_coverage")


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
    """Sequences as text, one a line."""
    return [data.corpus.vocabulary.decode(row) for row in tokens_BT.tolist()]


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


def evaluate(
    run: str | Path, *, n_samples: int | None = None, seed: int = 0
) -> tuple[ScoreTable, list[dict[str, Any]]]:
    """Scores of all generators of a run on its test split, as a table and as JSON-able rows with their signatures."""
    folder = RunFolder.open(run)
    load_run(run)
    data, samples = RunData.load(folder), folder.config().evaluation.final_samples if n_samples is None else n_samples
    if seed < 0:
        raise InputError(f"seed must be at least 0, got {seed}")
    try:
        evaluator = make_evaluator(data, samples, seed=seed)
    except ValueError as error:
        raise InputError(str(error)) from None
    found, config = models_of(folder), folder.config()
    rows = [Row(NAMES.get(name, name), evaluator.scores(_load(found, name, config, data))) for name in found]
    if data.oracle is not None:
        rows.insert(0, Row("oracle entropy", evaluator.oracle_scores()))
    documents = [{"name": row.name, "scores": row.scores.to_json()} for row in rows if row.scores is not None]
    return score_table(rows), documents
