"""Default generator and discriminator of an environment: shipped for the default sizes, fitted and cached for others.

An environment made with no arguments must work at once with a reward that tells real from fake. The shipped weights
are made by ``python -m seqgan_rl.envs.defaults`` (a few minutes) and named in ``defaults/manifest.json`` with their
hashes; they are stored in half precision.
"""

import copy
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file, save_file

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.discriminators import Discriminator, DiscriminatorConfig, DiscriminatorTrainer, discriminators
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, LSTMGenerator, generators
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.sequences import Corpus

logger = logging.getLogger(__name__)
RECIPE = 2
"""Version of the fitting recipe below; part of every cache key."""


@dataclass(kw_only=True)
class DefaultParts:
    """A generator fitted to the data of a task, and discriminators of that data from the generator's samples."""

    key: str
    """Names the data: task, sizes and content hash."""
    data: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    """Training and validation sequences, made when first needed."""
    num_actions: int
    sequence_length: int
    has_eos: bool
    effort: float = 1.0
    """Multiplies the epochs and minibatches of the fit."""
    _discriminators: dict[str, Discriminator] = field(default_factory=dict)

    @cached_property
    def generator(self) -> Generator:
        """Early-stopped MLE."""
        return self._shipped_or_cached("generator", self._fit_generator, generators, "lstm").requires_grad_(False)

    def discriminator(self, name: str) -> Discriminator:
        """A registered discriminator, trained on real sequences against the generator's."""
        if name not in self._discriminators:
            self._discriminators[name] = self._shipped_or_cached(
                "discriminator", lambda: self._fit_discriminator(name), discriminators, name
            )
        return self._discriminators[name]

    def _shipped_or_cached(self, part: str, fit: Callable[[], Any], factories: Any, name: str) -> Any:
        shipped = _shipped(f"{self.key}-{part}", name, factories)
        if shipped is not None:
            return shipped
        digest = hashlib.sha256(f"{RECIPE} {self.key} {part} {name}".encode()).hexdigest()[:16]
        folder = cache_folder() / f"{part}-{digest}"
        if folder.exists():
            try:
                return load_model(folder, factories)
            except InputError as error:
                logger.warning("%s; it is made anew", error)
        logger.info("fitting a default %s for %s; it will be kept in %s", part, self.key, folder)
        model = fit()
        try:
            save_model(folder, model, name)
        except OSError as error:
            logger.warning("could not keep the fitted %s in %s (%s); it will be fitted again", part, folder, error)
        return model

    def _fit_generator(self) -> Generator:
        train_BT, valid_BT = self.data()
        rng = stream(RECIPE, f"default generator {self.key}")
        with torch_seeded(rng):
            generator = LSTMGenerator(self.num_actions, self.sequence_length, self.has_eos)
        config = LikelihoodConfig(max_epochs=max(1, round(6 * self.effort)), patience=1, decays=1)
        for _ in LikelihoodTrainer(generator, train_BT, valid_BT, config, rng).epochs():
            pass
        return generator.eval()

    def _fit_discriminator(self, name: str) -> Discriminator:
        train_BT, _ = self.data()
        rng = stream(RECIPE, f"default discriminator {self.key}")
        options = {"widths": (1, 2, 3), "embedding_dim": 32, "init_scale": 0.3} if name == "small_cnn" else {}
        with torch_seeded(rng):
            discriminator = discriminators[name](self.num_actions, self.sequence_length, **options)
        config = DiscriminatorConfig(weight_decay=0.5)
        trainer = DiscriminatorTrainer(discriminator, train_BT, config, rng)
        n = round(300 * self.effort) * config.batch_size
        trainer.train(self.generator.sample(n, rng=rng))
        return discriminator.eval()


def oracle_parts(oracle: Oracle, effort: float = 1.0) -> DefaultParts:
    """Default parts of the synthetic task."""

    def data() -> tuple[torch.Tensor, torch.Tensor]:
        tokens_BT = oracle.sample(5500, stream(RECIPE, f"default data {oracle.hash}"))
        return tokens_BT[:5000], tokens_BT[5000:]

    return _shared_parts(
        key=f"oracle-{oracle.hash}-t{oracle.sequence_length}",
        data=data,
        num_actions=oracle.vocab_size,
        sequence_length=oracle.sequence_length,
        has_eos=False,
        effort=effort,
    )


def corpus_parts(corpus: Corpus, effort: float = 1.0) -> DefaultParts:
    """Default parts of a text corpus."""

    def data() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(corpus.train.tokens_NT[:20_000]), torch.tensor(corpus.valid.tokens_NT[:2_000])

    return _shared_parts(
        key=f"corpus-{corpus.content_hash[:16]}-t{corpus.sequence_length}",
        data=data,
        num_actions=corpus.vocabulary.num_actions,
        sequence_length=corpus.sequence_length,
        has_eos=corpus.vocabulary.has_eos,
        effort=effort,
    )


_PARTS: dict[tuple[str, float], DefaultParts] = {}
MAX_PARTS = 32
"""As many are kept in a process as tasks; others are loaded from the cache again."""


def _shared_parts(*, key: str, effort: float, **arguments: Any) -> DefaultParts:
    """One set of parts for the same data in a process."""
    parts = _PARTS.pop((key, effort), None) or DefaultParts(key=key, effort=effort, **arguments)
    _PARTS[key, effort] = parts  # the last used is last
    while len(_PARTS) > MAX_PARTS:
        del _PARTS[next(iter(_PARTS))]
    return parts


_COPIES: WeakKeyDictionary[Any, dict[torch.device, Any]] = WeakKeyDictionary()


def on_device(part: Any, device: str) -> Any:
    """A shared model or oracle if it is on the device, else its one copy there: it must not be moved under others."""
    there = torch.empty(0, device=device).device  # "cuda" with its number, "cpu:0" without
    if part.device == there:
        return part
    copies = _COPIES.setdefault(part, {})
    if there not in copies:
        copies[there] = copy.deepcopy(part).to(there)
    return copies[there]


def builtin_corpus(
    sequence_length: int | None = None, level: Any = "word", min_count: int | None = None, max_vocab: int | None = None
) -> Corpus:
    """The shipped text, lower-cased, at most 32 tokens a line and rare words as UNK unless told otherwise."""
    longest = 32 if level == "word" else 128
    return Corpus.builtin(
        "proverbs",
        level=level,
        sequence_length=longest if sequence_length is None else sequence_length,
        drop_longer=True,
        min_count=(2 if level == "word" else 1) if min_count is None else min_count,
        max_vocab=max_vocab,
        lowercase=True,
    )


def cache_folder() -> Path:
    """Where fitted defaults are kept: ``$SEQGAN_RL_CACHE``, else ``$XDG_CACHE_HOME/seqgan_rl``."""
    if "SEQGAN_RL_CACHE" in os.environ:
        return Path(os.environ["SEQGAN_RL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqgan_rl"


def _shipped(key: str, name: str, factories: Any) -> Any | None:
    """The shipped model of this key and kind, or None; its file must have the hash that the manifest names."""
    folder = resources.files("seqgan_rl.envs") / "defaults"
    manifest_file = folder / "manifest.json"
    if not manifest_file.is_file():
        return None
    entry = json.loads(manifest_file.read_text())["models"].get(key)
    if entry is None or entry["kind"] != name:
        return None
    with resources.as_file(folder / entry["file"]) as path:
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise InputError(f"shipped weights {path} are damaged; install seqgan_rl again")
        with torch.random.fork_rng():
            model = factories[name](**entry["config"])
        model.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return model.eval()


def make_shipped() -> None:
    """Fit the default sizes with four times the effort and write them with their manifest into the package."""
    folder = Path(__file__).parent / "defaults"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    models = {}
    for parts in (oracle_parts(Oracle.from_seed(0), effort=4), corpus_parts(builtin_corpus(), effort=4)):
        for part, name, model in (
            ("generator", "lstm", parts._fit_generator()),
            ("discriminator", "small_cnn", parts._fit_discriminator("small_cnn")),
        ):
            file = f"{parts.key.split('-')[0]}-{part}.safetensors"
            save_file({key: weight.half().contiguous() for key, weight in model.state_dict().items()}, folder / file)
            (folder / file).chmod(0o644)  # readable wherever the package is installed for all
            models[f"{parts.key}-{part}"] = {
                "file": file,
                "kind": name,
                "config": model.config,
                "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
            }
    (folder / "manifest.json").write_text(json.dumps({"recipe": RECIPE, "models": models}, indent=1) + "\n")


if __name__ == "__main__":
    make_shipped()
