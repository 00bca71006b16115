"""The real sequences of a run: drawn from an oracle, or read from a text."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seqgan_rl.adversarial.config import DataConfig
from seqgan_rl.adversarial.run_folder import RunFolder
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream
from seqgan_rl.envs.defaults import builtin_corpus
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, LSTMGenerator, generators
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.sequences import Corpus, load_corpus

TEXT_ONLY = ("level", "test", "min_count", "max_vocab", "drop_longer", "lowercase", "eos")
"""Settings that mean nothing without a text."""


@dataclass(frozen=True)
class RunData:
    """A corpus, and the oracle behind it where it is synthetic."""

    corpus: Corpus
    oracle: Oracle | None

    def split(self, name: str) -> Tensor:
        """Token ids of a split, int64, (N, T)."""
        return torch.tensor(self.corpus.splits[name].tokens_NT)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Words that are not sampled: UNK."""
        unk = self.corpus.vocabulary.unk_id
        return () if unk is None else (unk,)

    def save(self, folder: RunFolder) -> None:
        """Keep the data with the run, so that it can be continued and scored when its sources are gone."""
        if self.oracle is not None:
            save_model(folder / "oracle", self.oracle.generator, "lstm")
        self.corpus.to_files(folder / "corpus")  # last: where it is, all is there

    @classmethod
    def load(cls, folder: RunFolder) -> "RunData":
        """What :meth:`save` wrote. InputError if it is not there or damaged."""
        oracle = None
        if (folder / "oracle").is_dir():
            generator = load_model(folder / "oracle", generators)
            if not isinstance(generator, LSTMGenerator):
                raise InputError(f"{folder / 'oracle'} does not hold an oracle")
            source = folder.config().data.oracle
            oracle = Oracle(generator, f"seed {int(source)}" if _is_seed(source) else Path(source).name)
        data = cls(Corpus.from_files(folder / "corpus"), oracle)
        if oracle is not None:
            data._check_fits(oracle.generator, folder / "oracle")
        return data

    def generator(self, path: Path) -> Generator:
        """A generator that ``save_model`` wrote. InputError unless it is one of these sequences."""
        generator = load_model(path, generators)
        self._check_fits(generator, path)
        return generator

    def _check_fits(self, generator: Generator, path: Path) -> None:
        vocabulary, T = self.corpus.vocabulary, self.corpus.sequence_length
        wanted = (vocabulary.num_actions, T, vocabulary.eos_id)
        found = (generator.num_actions, generator.sequence_length, generator.eos_id)
        if found != wanted:
            raise InputError(
                f"{path} does not fit the run's corpus: num_actions, sequence_length and EOS must be {wanted}, "
                f"got {found}"
            )


def prepare_data(config: DataConfig) -> RunData:
    """Draw or read the data that a config describes. InputError for anything wrong with it."""
    if config.corpus is not None:
        return RunData(_text(config, config.corpus), None)
    ignored = [
        f.name for f in dataclasses.fields(config) if f.name in TEXT_ONLY and getattr(config, f.name) != f.default
    ]
    if ignored:
        raise InputError(f"{', '.join(ignored)}: settings of a text, but no corpus is given; add --corpus FILE")
    T = 20 if config.sequence_length is None else config.sequence_length
    if _is_seed(config.oracle):
        seed = int(config.oracle)
        if not 0 <= seed < 2**32:
            raise InputError(f"oracle seed must lie in [0, 2^32), got {seed}")
        oracle = Oracle.from_seed(seed, vocab_size=config.vocab_size, sequence_length=T)
    else:
        oracle = Oracle.from_npz(config.oracle, sequence_length=T)
    rng = stream(config.data_seed, "data")
    sizes = {"train": config.train_size, "valid": max(64, config.test_size // 4), "test": config.test_size}
    drawn = {name: oracle.sample(n, rng).numpy() for name, n in sizes.items()}
    corpus = Corpus.from_arrays(
        drawn["train"],
        drawn["valid"],
        drawn["test"],
        vocab_size=oracle.vocab_size,
        drop_overlap=False,  # independent draws of a known distribution; dropping repeats would bias NLL_test
        name=f"oracle {oracle.hash}",
    )
    return RunData(corpus, oracle)


def _is_seed(oracle: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", oracle) is not None


def _text(config: DataConfig, source: str) -> Corpus:
    if source == "proverbs" and not Path(source).exists():
        if config.test is not None or config.eos != "auto":
            raise InputError("test and eos are for texts of your own; the built-in corpus comes as it is")
        if config.level not in ("word", "char", "bpe"):
            raise InputError(f"level {config.level!r} is for files; the built-in corpus is read at word, char or bpe")
        return builtin_corpus(config.sequence_length, config.level, config.min_count, config.max_vocab)
    return load_corpus(
        source,
        level=config.level,
        test=config.test,
        min_count=config.min_count,
        max_vocab=config.max_vocab,
        sequence_length=config.sequence_length,
        drop_longer=config.drop_longer,
        eos=config.eos,
        lowercase=config.lowercase,
        seed=config.data_seed,
    )
