"""Arguments of the environments, with their defaults, and the tasks that they describe.

Every argument is JSON-able; live objects (a reward, a discriminator, a rollout policy) are taken too and stay the same
objects. Tasks are shared: environments made in one process with equal arguments hold one oracle, one discriminator.
"""

import copy
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, get_type_hints
from weakref import WeakValueDictionary

from seqgan_rl.core.config import typed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import Discriminator, discriminators
from seqgan_rl.envs.defaults import DefaultParts, builtin_corpus, corpus_parts, oracle_parts
from seqgan_rl.envs.episodes import ShapingOptions
from seqgan_rl.envs.exact import ExactTask, SequenceTree, TableReward, grammar_reward, oracle_reward, table_reward
from seqgan_rl.envs.observations import check_observation
from seqgan_rl.envs.task import OnlineOptions, SequenceTask
from seqgan_rl.models.decoding import RolloutPolicy, UniformPolicy
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import generators
from seqgan_rl.models.oracle import Oracle, check_task
from seqgan_rl.rewards import Reward, rewards
from seqgan_rl.rewards.base import RewardParts, as_reward
from seqgan_rl.sequences import Corpus

ADVERSARIES = ("frozen", "online")
NEEDS_NO_DISCRIMINATOR = ("constant", "random", "oracle", "oracle_log_ratio", "task")


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
    """A registered name, a :class:`Reward`, or a function of (tokens_BT, lengths_B)."""
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
    """Where rollouts and scoring run."""

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Self:
        """Options from the keyword arguments of ``gym.make``; TypeError for one that does not exist."""
        known = [field.name for field in fields(cls)]
        for name in arguments:
            if name not in known:
                raise TypeError(f"unknown argument {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}")
        return cls(**arguments)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):  # "12" is 12, as command lines write it
            object.__setattr__(self, field.name, typed(getattr(self, field.name), hints[field.name], field.name))
        _ = self.shaping_options
        self._check_adversary()
        check_observation(self.observation)
        if isinstance(self.reward, str):
            _ = rewards[self.reward] if self.reward != "task" else None
        else:
            as_reward(self.reward)
        try:
            hash(self)
        except TypeError as error:
            raise InputError(f"an argument is of a kind that no environment takes: {error}") from None

    def _check_adversary(self) -> None:
        if self.adversary not in ADVERSARIES:
            hint = did_you_mean(self.adversary, list(ADVERSARIES))
            raise InputError(f"adversary must be one of {', '.join(ADVERSARIES)}; got {self.adversary!r}{hint}")
        for name in ("adversary_every", "adversary_minibatches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.adversary == "online" and self.reward in NEEDS_NO_DISCRIMINATOR:
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
        return self.adversary == "frozen" and self.reward not in ("random", "shuffled")

    @property
    def shaping_options(self) -> ShapingOptions:
        """The part that :class:`Episodes` needs."""
        return ShapingOptions(shaping=self.shaping, num_rollouts=self.num_rollouts, gamma=self.gamma)

    def task(self) -> SequenceTask:
        """The task that these arguments describe; equal arguments give one shared task."""
        if self.adversary == "frozen":
            return _shared_task(self)
        task = _online_tasks.get(self)
        if task is None:
            task = _online_tasks[self] = self._build()
            _ = task.adversary  # its errors belong here
        return task

    def release(self, holder: object) -> None:
        """Say that an environment is closed: the next online task with these arguments starts anew after the last."""
        task = _online_tasks.get(self)
        if task is not None:
            task.holders.discard(holder)
            if not task.holders:
                del _online_tasks[self]

    def _build(self) -> SequenceTask:
        raise NotImplementedError(f"{type(self).__name__} describes no task")


_online_tasks: WeakValueDictionary[EnvOptions, SequenceTask] = WeakValueDictionary()


@lru_cache(maxsize=32)
def _shared_task(options: EnvOptions) -> SequenceTask:
    return options._build()


@dataclass(frozen=True, kw_only=True)
class OracleOptions(EnvOptions):
    """Arguments of ``SeqGAN/Oracle-v0``."""

    vocab_size: int = 5000
    """V; with an oracle file, the file's size is taken."""
    sequence_length: int = 20
    """T."""
    oracle: Any = 0
    """A seed, an .npz file of the published oracle's form, or an :class:`Oracle`."""

    def _build(self) -> SequenceTask:
        oracle = _oracle(self.oracle, self.vocab_size, self.sequence_length)
        parts = _Parts(
            self, lambda: oracle_parts(oracle), oracle.vocab_size, oracle.sequence_length, oracle, has_eos=False
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
    """A built-in corpus's name, a text file with one sequence a line, or a :class:`Corpus`."""
    level: str = "word"
    """"word" or "char"."""
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

    def _build(self) -> SequenceTask:
        corpus = self._corpus()
        vocabulary = corpus.vocabulary
        parts = _Parts(
            self,
            lambda: corpus_parts(corpus),
            vocabulary.num_actions,
            corpus.sequence_length,
            None,
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
            return self.corpus
        if self.corpus == "proverbs":
            return builtin_corpus(self.sequence_length, self.level, self.min_count, self.max_vocab)
        return Corpus.from_text(
            self.corpus,
            level=self.level,  # type: ignore[arg-type]
            sequence_length=self.sequence_length,
            drop_longer=self.drop_longer,
            min_count=self.min_count or 1,
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task_name not in ("table", "oracle", "grammar"):
            raise InputError(f'task_name must be "table", "oracle" or "grammar", got {self.task_name!r}')
        check_task(self.vocab_size, self.sequence_length)
        if self.task_name == "oracle" and self.variable_length:
            raise InputError('task_name="oracle" has fixed length; use "table" or "grammar" with variable_length=True')

    def exact_task(self) -> ExactTask:
        """The enumerated task: optimum, exact Q and regret of any policy."""
        return _exact_task(self.vocab_size, self.sequence_length, self.variable_length, self.task_name, self.seed)

    def _build(self) -> SequenceTask:
        exact = self.exact_task()

        def no_default_parts() -> DefaultParts:
            raise InputError(
                "SeqGAN/Exact-v0 has no default generator and discriminator; use reward='task' and "
                "rollout_policy='uniform', or pass objects of your own"
            )

        num_actions = self.vocab_size + self.variable_length
        parts = _Parts(self, no_default_parts, num_actions, self.sequence_length, None, has_eos=self.variable_length)
        return SequenceTask(
            vocab_size=self.vocab_size,
            sequence_length=self.sequence_length,
            has_eos=self.variable_length,
            make_reward=(lambda: TableReward(exact.tree, exact.reward_N)) if self.reward == "task" else parts.reward,
            make_rollout_policy=parts.rollout_policy,
            online=self.online,
            name=f"exact {self.task_name} {self.seed}",
        )


class _Parts:
    """Turns the names in some options into a reward and a rollout policy; fits the default parts only when needed."""

    def __init__(
        self,
        options: EnvOptions,
        fit: Any,
        num_actions: int,
        sequence_length: int,
        oracle: Oracle | None,
        *,
        has_eos: bool,
    ) -> None:
        self.options, self.fit, self.oracle, self.has_eos = options, fit, oracle, has_eos
        self.num_actions, self.sequence_length = num_actions, sequence_length

    def rollout_policy(self) -> RolloutPolicy:
        """The policy that finishes prefixes; checked to fit the task."""
        chosen = self.options.rollout_policy
        policy: RolloutPolicy
        if chosen == "default":
            policy = self.fit().generator.to(self.options.device)
        elif chosen == "uniform":
            policy = UniformPolicy(self.num_actions, self.has_eos)
        elif isinstance(chosen, str | Path):
            policy = load_model(chosen, generators).to(self.options.device)
        else:
            policy = chosen
        check_policy(policy, self.num_actions, has_eos=self.has_eos)
        return policy

    def discriminator(self) -> Discriminator:
        """The discriminator named or given; checked to fit the task."""
        chosen = self.options.discriminator
        if chosen == "default" or chosen in discriminators:
            discriminator = self.fit().discriminator("small_cnn" if chosen == "default" else chosen)
        elif isinstance(chosen, str | Path):
            discriminator = load_model(chosen, discriminators)
        else:
            return _checked_discriminator(chosen, self.num_actions, self.sequence_length)
        _checked_discriminator(discriminator, self.num_actions, self.sequence_length)
        if self.options.adversary == "online":  # the shared one stays as it is
            discriminator = copy.deepcopy(discriminator)
        return discriminator.to(self.options.device)

    def reward(self) -> Reward:
        """The reward named or given, with the parts it needs."""
        chosen = self.options.reward
        if not isinstance(chosen, str):
            return as_reward(chosen)
        needs_discriminator = chosen not in NEEDS_NO_DISCRIMINATOR
        generator = self.fit().generator if chosen == "oracle_log_ratio" else None
        return rewards[chosen](
            RewardParts(
                discriminator=self.discriminator() if needs_discriminator else None,
                oracle=self.oracle,
                generator=generator,
                rng=stream(0, "reward"),
            )
        )


def check_policy(policy: Any, num_actions: int, *, has_eos: bool) -> None:
    """ValueError unless a rollout policy has ``step`` and the task's number of actions and end rule."""
    if not hasattr(policy, "step") or not hasattr(policy, "initial_state"):
        raise ValueError(
            f"a rollout policy needs initial_state(batch_size) and step(tokens, state), got {type(policy).__name__}"
        )
    if policy.num_actions != num_actions:
        raise ValueError(f"rollout policy has {policy.num_actions} actions, the task has {num_actions}")
    eos_id = num_actions - 1 if has_eos else None
    if policy.eos_id != eos_id:
        raise ValueError(
            f"rollout policy ends sequences by {policy.eos_id}, the task by {eos_id}; make it with has_eos={has_eos} "
            f"(of a GeneratorPolicy: policy_kwargs={{'has_eos': {has_eos}}})"
        )


def _checked_discriminator(discriminator: Any, num_actions: int, sequence_length: int) -> Discriminator:
    if not isinstance(discriminator, Discriminator):
        raise ValueError(f"discriminator must be a Discriminator, got {type(discriminator).__name__}")
    got, want = (discriminator.num_actions, discriminator.sequence_length), (num_actions, sequence_length)
    if got != want:
        raise ValueError(
            f"discriminator of another task: it reads {got[0]} actions and {got[1]} tokens, the task has {want[0]} and "
            f"{want[1]}; train one for this vocabulary and length"
        )
    return discriminator


@lru_cache(maxsize=8)
def _oracle(source: int | str | Oracle, vocab_size: int, sequence_length: int) -> Oracle:
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
