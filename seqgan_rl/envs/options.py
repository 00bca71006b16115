"""Arguments of the environments, with their defaults, and the tasks that they describe.

Every argument is JSON-able; live objects (a reward, a discriminator, a rollout policy) are taken too and stay the same
objects. Tasks are shared: environments made in one process with equal arguments hold one oracle, one discriminator.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints
from weakref import WeakValueDictionary

import numpy as np

from seqgan_rl.core.config import typed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import check_device
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.discriminators import discriminators
from seqgan_rl.envs.defaults import builtin_corpus, corpus_parts, oracle_parts
from seqgan_rl.envs.episodes import ShapingOptions
from seqgan_rl.envs.exact import ExactTask, SequenceTree, TableReward, grammar_reward, oracle_reward, table_reward
from seqgan_rl.envs.observations import check_observation
from seqgan_rl.envs.parts import Parts, needs_discriminator, needs_generator
from seqgan_rl.envs.task import OnlineOptions, SequenceTask, drawn_sequences, train_sequences
from seqgan_rl.models.oracle import Oracle, check_task
from seqgan_rl.rewards import formula_of, rewards
from seqgan_rl.rewards.base import as_reward
from seqgan_rl.sequences import Corpus, load_corpus
from seqgan_rl.sequences.corpus import BUILTIN

ADVERSARIES = ("frozen", "online")
MAY_BE_FILES = ("oracle", "corpus", "discriminator", "rollout_policy")
HOMES = {"oracle": "SeqGAN/Oracle-v0", "oracle_log_ratio": "SeqGAN/Oracle-v0", "task": "SeqGAN/Exact-v0"}
"""Named rewards that only one environment has what is needed for."""
OF_BATCHES = ("shuffled", "rank", "maligan")
"""Named rewards, and wrappers of rewards, that set a sequence against the others of its batch."""
UNREPEATABLE = ("random", "shuffled", "normalised")
"""Named rewards, and wrappers of rewards, that pay a sequence otherwise the next time."""


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """Arguments common to all environments."""

    num_rollouts: int = 16
    """N of Eq. (4)."""
    shaping: str = "rollout"
    """"rollout", "none" or "deferred", see :class:`ShapingOptions`."""
    gamma: float = 1.0
    """The discount of the agent."""
    reward: Any = "discriminator"
    """A registered name, a formula such as "0.5*discriminator + 0.5*bleu" or the same as a dict of weights by name, a
    :class:`Reward`, or a function of (tokens_BT, lengths_B)."""
    discriminator: Any = "default"
    """"default", a registered name (fitted on first use), a saved one's folder, or a :class:`Discriminator`."""
    rollout_policy: Any = "default"
    """"default" (an MLE generator), "uniform", a saved generator's folder, or anything with ``step``."""
    observation: str = "tokens"
    """"tokens", "tokens_float32", "onehot", "dict" or "last_token"."""
    adversary: str = "frozen"
    """"frozen": the discriminator stays as it is, or a callback retrains it. "online": the environment retrains it on
    the sequences finished in it, for agents without callbacks; environments of one process with equal arguments share
    one discriminator, which starts anew once all of them are closed."""
    adversary_every: int = 64
    """Finished sequences between two retrainings (online)."""
    adversary_minibatches: int = 10
    """Minibatches of a retraining, each 64 real and 64 finished sequences (online)."""
    device: str = "cpu"
    """Where rollouts and scoring run: "cpu", "cuda" or "cuda:1"."""

    env_id: ClassVar[str] = "the environment"

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Self:
        """Options from the keyword arguments of ``gym.make``; TypeError for one that does not exist."""
        known = [field.name for field in fields(cls)]
        for name in arguments:
            if name not in known:
                raise TypeError(  # in Python's words: TorchRL's GymEnv looks for them and tries again without it
                    f"{cls.env_id} got an unexpected keyword argument {name!r}{did_you_mean(name, known)}; "
                    f"known are {', '.join(known)}"
                )
        return cls(**arguments)

    def __post_init__(self) -> None:
        if isinstance(self.reward, Mapping):
            object.__setattr__(self, "reward", _formula(self.reward))
        hints = get_type_hints(type(self))
        for field in fields(self):  # "12" is 12, as command lines write it
            object.__setattr__(self, field.name, typed(getattr(self, field.name), hints[field.name], field.name))
        check_device(self.device)
        _ = self.shaping_options
        self._check_adversary()
        check_observation(self.observation)
        if isinstance(self.reward, str):
            self._check_reward_name()
        else:
            as_reward(self.reward)
        try:
            hash(self)
        except TypeError as error:
            raise InputError(f"an argument is of a kind that no environment takes: {error}") from None

    def _check_reward_name(self) -> None:
        _ = rewards[self.reward] if self.reward != "task" else None
        homes = {HOMES.get(name, self.env_id) for name in rewards.names_in(self.reward)} - {self.env_id}
        if homes:
            known = [name for name in (*rewards, "task") if HOMES.get(name, self.env_id) == self.env_id]
            raise InputError(
                f"reward={self.reward!r} is only for {homes.pop()}; {self.env_id} takes {', '.join(known)}, "
                "or a function of (tokens_BT, lengths_B)"
            )

    def _check_beside(self, source: str, **own: Any) -> None:
        """InputError for an argument that asks for something else than a finished oracle or corpus has."""
        for name, value in own.items():
            given = getattr(self, name)
            if given not in (getattr(type(self), name), value):
                raise InputError(
                    f"{name}={given!r} was given beside a finished {source}, whose {name} is {value!r}; "
                    f"leave {name} out, or make the {source} with it"
                )

    def _check_adversary(self) -> None:
        if self.adversary not in ADVERSARIES:
            hint = did_you_mean(self.adversary, list(ADVERSARIES))
            raise InputError(f"adversary must be one of {', '.join(ADVERSARIES)}; got {self.adversary!r}{hint}")
        for name in ("adversary_every", "adversary_minibatches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.adversary == "online" and isinstance(self.reward, str) and not needs_discriminator(self.reward):
            raise InputError(
                f'adversary="online" retrains a discriminator, but reward={self.reward!r} has none; '
                'use reward="discriminator" or "logit", or adversary="frozen"'
            )

    @property
    def online(self) -> OnlineOptions | None:
        """How the environment retrains its discriminator; None where it does not."""
        if self.adversary == "frozen":
            return None
        return OnlineOptions(every=self.adversary_every, minibatches=self.adversary_minibatches)

    @property
    def is_deterministic(self) -> bool:
        """Whether an episode follows from its seed alone."""
        return self.adversary == "frozen" and not self._mentions(UNREPEATABLE)

    @property
    def is_of_batch(self) -> bool:
        """Whether the name of the reward says that it sets a sequence against the others of its batch."""
        return self._mentions(OF_BATCHES)

    def _mentions(self, names: tuple[str, ...]) -> bool:
        """Whether one of these rewards or wrappers stands in the reward's name or formula."""
        return isinstance(self.reward, str) and not {*re.findall(r"\w+", self.reward)}.isdisjoint(names)

    @property
    def is_reward_fitted(self) -> bool:
        """Whether the reward has default parts, which may have to be fitted and are made when first needed."""
        if not isinstance(self.reward, str):
            return False
        is_default = self.discriminator == "default" or self.discriminator in discriminators
        return needs_generator(self.reward) or (needs_discriminator(self.reward) and is_default)

    @property
    def shaping_options(self) -> ShapingOptions:
        """The part that :class:`Episodes` needs."""
        return ShapingOptions(shaping=self.shaping, num_rollouts=self.num_rollouts, gamma=self.gamma)

    @cached_property
    def _stamps(self) -> tuple["Stamp", ...]:
        """What the files that the arguments name were when the task was first asked for."""
        return tuple(_stamp(getattr(self, name, None)) for name in MAY_BE_FILES)

    def task(self) -> SequenceTask:
        """The task that these arguments describe; equal arguments, and files unchanged, give one shared task."""
        key = (self, self._stamps)
        if self.adversary == "frozen":
            return _shared_task(*key)
        task = _online_tasks.get(key)
        if task is None:
            task = self._checked_task()
            _ = task.adversary  # its errors belong here
            _online_tasks[key] = task
        return task

    def release(self, holder: object) -> None:
        """Say that an environment is closed: the next online task with these arguments starts anew after the last."""
        task = _online_tasks.get((self, self._stamps))
        if task is not None:
            task.holders.discard(holder)
            if not task.holders:
                del _online_tasks[self, self._stamps]

    def _checked_task(self) -> SequenceTask:
        """A new task, with those of its parts that need no fitting: what is wrong with them belongs to ``gym.make``."""
        task = self._build()
        if self.rollout_policy != "default":
            _ = task.rollout_policy
        if not self.is_reward_fitted:
            _ = task.reward
        return task

    def _parts(self, **task: Any) -> Parts:
        """What makes the reward and the rollout policy of a task."""
        return Parts(
            reward_choice=self.reward,
            discriminator_choice=self.discriminator,
            policy_choice=self.rollout_policy,
            device=self.device,
            is_online=self.adversary == "online",
            **task,
        )

    def _build(self) -> SequenceTask:
        raise NotImplementedError(f"{type(self).__name__} describes no task")


Stamp = tuple[tuple[str, int, int], ...] | None
_online_tasks: WeakValueDictionary[tuple[EnvOptions, tuple[Stamp, ...]], SequenceTask] = WeakValueDictionary()


@lru_cache(maxsize=32)
def _shared_task(options: EnvOptions, stamps: tuple[Stamp, ...]) -> SequenceTask:
    return options._checked_task()


def _stamp(source: Any) -> Stamp:
    """Paths, times of change and sizes of the file, or of the files of the folder, that an argument names, if any."""
    try:
        path = Path(source).absolute()
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return tuple((str(file), status.st_mtime_ns, status.st_size) for file in files for status in [file.stat()])
    except (TypeError, ValueError, OSError):  # no path, or nothing there: whoever reads it says so
        return None


@dataclass(frozen=True, kw_only=True)
class OracleOptions(EnvOptions):
    """Arguments of ``SeqGAN/Oracle-v0``."""

    vocab_size: int = 5000
    """V; with an oracle file, the file's size is taken."""
    sequence_length: int = 20
    """T."""
    oracle: Any = 0
    """A seed, an .npz file of the published oracle's form, or an :class:`Oracle`."""

    env_id: ClassVar[str] = "SeqGAN/Oracle-v0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.oracle, bool) or not isinstance(self.oracle, int | np.integer | str | Path | Oracle):
            raise InputError(f"oracle must be a seed (an integer), an .npz file or an Oracle, got {self.oracle!r:.80}")

    def _build(self) -> SequenceTask:
        oracle = _oracle(self.oracle, self.vocab_size, self.sequence_length, _stamp(self.oracle))
        self._check_beside("oracle", vocab_size=oracle.vocab_size, sequence_length=oracle.sequence_length)
        parts = self._parts(
            fit=lambda: oracle_parts(oracle),
            oracle=oracle,
            real=lambda: drawn_sequences(oracle, 0),
            num_actions=oracle.vocab_size,
            sequence_length=oracle.sequence_length,
            has_eos=False,
        )
        return SequenceTask(
            vocab_size=oracle.vocab_size,
            sequence_length=oracle.sequence_length,
            has_eos=False,
            make_reward=parts.reward,
            make_rollout_policy=parts.rollout_policy,
            oracle=oracle,
            online=self.online,
            name=f"oracle {oracle.hash}",
        )


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(EnvOptions):
    """Arguments of ``SeqGAN/Corpus-v0``."""

    corpus: Any = "proverbs"
    """A built-in corpus's name; a file, a folder of MIDI files or "hf:NAME", read as ``level`` says; a folder that
    ``Corpus.to_files`` wrote; or a :class:`Corpus`."""
    level: str = "word"
    """"word", "char", "bpe", "integer", "quatrain", "quatrain-marks", "pitch" or "pitch-rests"; see docs/corpora.md."""
    sequence_length: int | None = None
    """T; None takes the longest line up to 64 (built-in corpora: 32, longer lines dropped)."""
    drop_longer: bool = False
    """Drop lines longer than T instead of refusing them."""
    min_count: int | None = None
    """Words seen less often in training become UNK; None: 1 (built-in corpora: 2)."""
    max_vocab: int | None = None
    """Keep at most so many words."""
    sample_unk: bool = False
    """Whether the action mask allows UNK."""

    env_id: ClassVar[str] = "SeqGAN/Corpus-v0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.corpus, str | os.PathLike | Corpus):
            raise InputError(
                f"corpus must be a file, a folder of MIDI files, hf:NAME, a built-in corpus ({', '.join(BUILTIN)}) or "
                f"a Corpus, got {self.corpus!r:.80}"
            )

    def _build(self) -> SequenceTask:
        corpus = self._corpus()
        vocabulary = corpus.vocabulary
        parts = self._parts(
            fit=lambda: corpus_parts(corpus),
            real=lambda: train_sequences(corpus),
            num_actions=vocabulary.num_actions,
            sequence_length=corpus.sequence_length,
            has_eos=vocabulary.has_eos,
        )
        return SequenceTask(
            vocab_size=vocabulary.vocab_size,
            sequence_length=corpus.sequence_length,
            has_eos=vocabulary.has_eos,
            make_reward=parts.reward,
            make_rollout_policy=parts.rollout_policy,
            forbidden=() if self.sample_unk or vocabulary.unk_id is None else (vocabulary.unk_id,),
            vocabulary=vocabulary,
            corpus=corpus,
            online=self.online,
            name=f"corpus {corpus.content_hash[:16]}",
        )

    def _corpus(self) -> Corpus:
        if isinstance(self.corpus, Corpus):
            vocabulary = self.corpus.vocabulary
            self._check_beside(
                "corpus",
                level=vocabulary.level,
                sequence_length=self.corpus.sequence_length,
                drop_longer=False,
                min_count=None,
                max_vocab=vocabulary.vocab_size,
            )
            return self.corpus
        if self.corpus == "proverbs":
            return builtin_corpus(self.sequence_length, self.level, self.min_count, self.max_vocab)
        return load_corpus(
            self.corpus,
            level=self.level,  # type: ignore[arg-type]
            sequence_length=self.sequence_length,
            drop_longer=self.drop_longer,
            min_count=self.min_count,
            max_vocab=self.max_vocab,
        )


@dataclass(frozen=True, kw_only=True)
class ExactOptions(EnvOptions):
    """Arguments of ``SeqGAN/Exact-v0``: tasks small enough to enumerate, whose optimum is known."""

    reward: Any = "task"
    """"task": the enumerated reward of ``task``; else as in the other environments."""
    rollout_policy: Any = "uniform"
    vocab_size: int = 4
    """V; V^T may reach about 10^6."""
    sequence_length: int = 4
    """T."""
    variable_length: bool = False
    """Whether there is an EOS action."""
    task_name: str = "table"
    """"table": uniform random rewards; "oracle": log-likelihood of a seeded one; "grammar": 1 in a seeded language."""
    seed: int = 0
    """Seed of the task."""

    env_id: ClassVar[str] = "SeqGAN/Exact-v0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task_name not in ("table", "oracle", "grammar"):
            raise InputError(f'task_name must be "table", "oracle" or "grammar", got {self.task_name!r}')
        check_task(self.vocab_size, self.sequence_length)
        if self.task_name == "oracle" and self.variable_length:
            raise InputError('task_name="oracle" has fixed length; use "table" or "grammar" with variable_length=True')
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        if self.rollout_policy == "default" or self.is_reward_fitted:
            raise InputError(
                "SeqGAN/Exact-v0 has no default generator and discriminator; use reward='task' and "
                "rollout_policy='uniform', or pass objects of your own"
            )

    def exact_task(self) -> ExactTask:
        """The enumerated task: optimum, exact Q and regret of any policy."""
        return _exact_task(self.vocab_size, self.sequence_length, self.variable_length, self.task_name, self.seed)

    def _build(self) -> SequenceTask:
        exact = self.exact_task()
        parts = self._parts(
            num_actions=self.vocab_size + self.variable_length,
            sequence_length=self.sequence_length,
            has_eos=self.variable_length,
        )
        return SequenceTask(
            vocab_size=self.vocab_size,
            sequence_length=self.sequence_length,
            has_eos=self.variable_length,
            make_reward=(lambda: TableReward(exact.tree, exact.reward_N)) if self.reward == "task" else parts.reward,
            make_rollout_policy=parts.rollout_policy,
            online=self.online,
            name=f"exact {self.task_name} {self.seed}",
        )


def _formula(weights: Mapping[str, Any]) -> str:
    """The formula of a dict of weights by name. InputError where it is none."""
    try:
        return formula_of(weights)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"reward must map names to numbers, got {dict(weights)!r:.80}") from None


@lru_cache(maxsize=8)
def _oracle(source: int | str | Oracle, vocab_size: int, sequence_length: int, stamp: Stamp = None) -> Oracle:
    if isinstance(source, Oracle):
        return source
    if isinstance(source, str | Path):
        return Oracle.from_npz(source, sequence_length=sequence_length)
    return Oracle.from_seed(source, vocab_size=vocab_size, sequence_length=sequence_length)


@lru_cache(maxsize=8)
def _exact_task(vocab_size: int, sequence_length: int, has_eos: bool, name: str, seed: int) -> ExactTask:
    tree = SequenceTree(vocab_size, sequence_length, has_eos)
    if name == "table":
        return ExactTask(tree, table_reward(tree, seed))
    if name == "grammar":
        return ExactTask(tree, grammar_reward(tree, seed))
    return ExactTask(tree, oracle_reward(tree, _oracle(seed, vocab_size, sequence_length)))
