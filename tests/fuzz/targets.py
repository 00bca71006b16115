"""The loaders under test, each with valid files to damage: tiny ones, so that a load takes a millisecond.

A load also uses what it read (samples, scores, text): a file is either refused, or good for its purpose.
"""

import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from seqgan_rl.adversarial import trainer
from seqgan_rl.adversarial.config import RunConfig, preset
from seqgan_rl.adversarial.data import RunData, prepare_data
from seqgan_rl.adversarial.results import evaluate, sample
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.agents.warm_start import warm_start
from seqgan_rl.cli import main
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.config import as_dict, read_yaml, updated
from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators import discriminators
from seqgan_rl.envs.sb3 import make_sb3_env
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.sequences import Corpus

V, T = 6, 4
Files = dict[str, bytes]
TEXT = "\n".join(f"{a} {b} ." for a in ("a dog", "the cat", "a bird", "my cow") for b in ("runs", "eats", "says it"))
SETTINGS = {
    "data": {"vocab_size": V, "sequence_length": T, "train_size": 64, "test_size": 64},
    "generator": {"embedding_dim": 3, "hidden_dim": 2},
    "network": {"widths": [1, 2], "filters": 3, "embedding_dim": 2},
    "evaluation": {"samples": 4, "final_samples": 4},
}


@dataclass(frozen=True)
class Target:
    """One loader."""

    files: Files
    """Valid files by their path in a folder."""
    load: Callable[[Path], object]
    """Reads the folder."""
    weight: int = 1
    """How many of the inputs it gets."""
    refusals: tuple[type[Exception], ...] = ()
    """Documented errors besides InputError."""


def written(write: Callable[[Path], object]) -> Files:
    """The files that a function writes into a folder."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                files[str(path.relative_to(folder))] = unsigned(data) if path.name == "state.json" else data
    return files


def unsigned(data: bytes) -> bytes:
    """A checkpoint's document without its digest, which damage by accident cannot pass, but a stranger's can."""
    return json.dumps({key: value for key, value in json.loads(data).items() if key != "sha256"}).encode()


def tiny_generator(has_eos: bool = False) -> Generator:
    """An LSTM of 6 actions."""
    return generators["lstm"](V, T, has_eos, embedding_dim=3, hidden_dim=2)


def run_config() -> RunConfig:
    """A run on a tiny oracle."""
    return updated(preset("quick"), SETTINGS)


def _checkpoint(folder: Path) -> None:
    state = {"weights": {"a": torch.ones(2, 3)}, "rng": {1: (2, [3.5, None])}, "keys": np.arange(3), "text": "x"}
    save_state(folder, state)


def _oracle(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"embedding": rng.normal(size=(V, 3)), "V": rng.normal(size=(2, V)), "c": rng.normal(size=V)}
    for gate in "ifoc":
        arrays |= {f"W{gate}": rng.normal(size=(3, 2)), f"U{gate}": rng.normal(size=(2, 2)), f"b{gate}": np.zeros(2)}
    np.savez(folder / "oracle.npz", **{name: array.astype("f4") for name, array in arrays.items()})  # type: ignore[arg-type]


def _text(folder: Path) -> None:
    (folder / "text.txt").write_text(TEXT)
    (folder / "test.txt").write_text("the dog runs .\na dog says it .\nmy bird eats .\n")


def _read_text(folder: Path, level: Any) -> None:
    corpus = Corpus.from_text(folder / "text.txt", test=folder / "test.txt", level=level)
    for split in corpus.splits.values():
        for row in split.tokens_NT[:5]:
            corpus.vocabulary.encode(corpus.vocabulary.decode(row)) if level == "char" else None
            corpus.vocabulary.decode(row).encode()


def _read_corpus(folder: Path) -> None:
    corpus = Corpus.from_files(folder)
    for split in corpus.splits.values():
        for row in split.tokens_NT[:5]:
            corpus.vocabulary.decode(row).encode()
    _ = corpus.content_hash, corpus.unk_rate


def _use_generator(folder: Path) -> None:
    generator = load_model(folder / "model", generators)
    if generator.sequence_length < 1000:  # no weight bounds it; whoever uses the model says whether it fits
        with suppress(FloatingPointError):  # finite weights can be so large that the logits are not
            generator.log_prob(generator.sample(2, rng=np.random.default_rng(0)))


def _use_discriminator(folder: Path) -> None:
    discriminator = load_model(folder / "model", discriminators)
    if discriminator.sequence_length < 1000:
        discriminator.score(torch.randint(0, discriminator.num_actions + 1, (3, discriminator.sequence_length)))


def _use_oracle(folder: Path) -> None:
    oracle = Oracle.from_npz(folder / "oracle.npz", sequence_length=T)
    with suppress(FloatingPointError):
        oracle.log_prob(oracle.sample(2, np.random.default_rng(0)))


def write_run(folder: Path) -> None:
    config = run_config()
    run = RunFolder.create(folder / "run", config)
    data = prepare_data(config.data)
    data.save(run)
    save_model(run / "mle", tiny_generator(), "lstm")
    for number in (1, 2):
        run.save_checkpoint(number, {"stage": 0, "metrics_bytes": 10, "state": {"epoch": number, "w": torch.ones(2)}})
    rows = [{"agent": "seqgan", "round": i, "eval/nll_test": 1.5, "time/seconds": 0.1} for i in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read_run(folder: Path) -> None:
    run = RunFolder.open(folder / "run")
    last = run.last_checkpoint()
    for row in read_metrics(run):
        _ = row.items()
    if last is not None:
        _ = last[1]["stage"] + 1, last[1]["metrics_bytes"] + 1
    data = RunData.load(run)
    _ = run.config(), data.split("train"), data.forbidden
    with suppress(FloatingPointError):
        sample(folder / "run", 2)


def _evaluate_run(folder: Path) -> None:
    with suppress(FloatingPointError):
        evaluate(folder / "run", n_samples=4)


def _settings(folder: Path) -> None:
    (folder / "settings.yaml").write_text(json.dumps(as_dict(run_config()), indent=1))


def _read_settings(folder: Path) -> None:
    path = folder / "settings.yaml"
    config = updated(preset("quick"), read_yaml(path), str(path))
    assert updated(RunConfig(), json.loads(json.dumps(as_dict(config)))) == config


def _command(*arguments: str) -> None:
    """A command prints one line and exits with 2 where something is wrong with its input (1: with the machine)."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(list(arguments))
    assert status in (0, 1, 2), status
    if status:
        said = err.getvalue().strip().splitlines()
        assert said[-1].startswith("seqgan-rl "), said


def _sample_command(folder: Path) -> None:
    _command("sample", "--run", str(folder / "run"), "-n", "2")


def _config_command(folder: Path) -> None:
    """``train`` up to the training itself: how much a run may ask of the machine is its user's choice."""

    def refuse(*_: object, **__: object) -> None:
        raise InputError("settings.yaml is good")

    with patch.object(trainer, "train", refuse):
        _command("train", "--config", str(folder / "settings.yaml"))


def _warm_start() -> Callable[[Path], None]:
    from seqgan_rl import GeneratorPolicy, SeqGAN
    from seqgan_rl.agents.warm_start import generator_kwargs

    options: dict[str, Any] = {"vocab_size": V, "sequence_length": T, "shaping": "none"}
    env = make_sb3_env("SeqGAN/Exact-v0", 2, **options)
    model = SeqGAN(GeneratorPolicy, env, seed=0, device="cpu", policy_kwargs=generator_kwargs(tiny_generator()))
    return lambda folder: void(warm_start(model, folder / "model"))


def void(_: object) -> None:
    """Nothing, whatever comes."""


def targets() -> dict[str, Target]:
    """All loaders by name."""
    torch.manual_seed(0)
    discriminator = discriminators["small_cnn"](V, T, widths=(1, 2), filters=3, embedding_dim=2)
    ensemble = discriminators["ensemble"](V, T, size=2, widths=(1,), filters=2, embedding_dim=2)
    transformer = generators["transformer"](V, T, hidden_dim=4, num_layers=1, num_heads=2)
    model = written(lambda folder: save_model(folder / "model", tiny_generator(), "lstm"))
    run, settings = written(write_run), written(_settings)
    corpus = Corpus.from_arrays(np.arange(24).reshape(6, 4) % 5, vocab_size=5, has_eos=False)
    return {
        "checkpoint": Target(
            written(lambda folder: _checkpoint(folder / "state")), lambda f: load_state(f / "state"), 6
        ),
        "generator": Target(model, _use_generator, 5),
        "discriminator": Target(
            written(lambda folder: save_model(folder / "model", discriminator, "small_cnn")), _use_discriminator, 4
        ),
        "transformer": Target(
            written(lambda folder: save_model(folder / "model", transformer, "transformer")), _use_generator, 2
        ),
        "ensemble": Target(
            written(lambda folder: save_model(folder / "model", ensemble, "ensemble")), _use_discriminator, 2
        ),
        "oracle": Target(written(_oracle), _use_oracle, 4),
        "corpus": Target(written(corpus.to_files), _read_corpus, 6),
        "words": Target(written(_text), lambda folder: _read_text(folder, "word"), 5),
        "characters": Target(written(_text), lambda folder: _read_text(folder, "char"), 4),
        "settings": Target(settings, _read_settings, 3),
        "run": Target(run, _read_run, 2),
        "evaluate": Target(run, _evaluate_run, 1),
        "warm start": Target(model, _warm_start(), 1, (ValueError,)),
        "sample command": Target(run, _sample_command, 1),
        "train command": Target(settings, _config_command, 1),
    }


os.environ.setdefault("OMP_NUM_THREADS", "1")
