"""What a reward is: R(Y) of finished sequences.

Letters: B sequences, T tokens each, N real ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError, NotFiniteError
from seqgan_rl.discriminators.base import Discriminator, all_prefixes
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.oracle import Oracle


class Reward(ABC):
    """R(Y), scored in evaluation mode and without gradients; row b is a function of row b alone."""

    @abstractmethod
    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Rewards of finished sequences.

        Args:
            tokens_BT: token ids, int64, (B, T), PAD after EOS.
            lengths_B: tokens of each sequence, EOS counted, int64, (B,).

        Returns:
            reward_B: float32, (B,).
        """

    def score_prefixes(self, tokens_BT: Tensor, pad_id: int) -> Tensor:
        """:meth:`score` of all prefixes Y_{1:t} as if they were finished, float32, (B, T); after the end R(Y) stands
        on."""
        prefixes_RT = all_prefixes(tokens_BT, pad_id)
        return self.score(prefixes_RT, (prefixes_RT != pad_id).sum(dim=1)).view(tokens_BT.shape)

    discriminator: Discriminator | None = None
    """The discriminator behind this reward, if there is one to be retrained."""

    reads_sequences = True
    """Whether the reward depends on the sequences at all; completions for one that does not are never made."""

    depends_on_batch = False
    """Whether :meth:`arrange` makes a value depend on the other rows. One environment alone will not do for that."""
    needs_whole_batch = False
    """Whether it does so in a way that sequences of different lengths would break: they end, and are scored, in groups
    made by chance."""

    def arrange(self, values: Tensor) -> Tensor:
        """Last touch on a batch of action values, (B,) or (B, T), each a mean of scores: noise in their place, a
        permutation, or a scale taken from the batch. Most rewards change nothing here."""
        return values

    @property
    def components(self) -> "tuple[Reward, ...]":
        """The rewards that this one is made of."""
        return ()

    def __call__(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """:meth:`score`, then :meth:`arrange`."""
        return self.arrange(self.score(tokens_BT, lengths_B))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to continue (random state); discriminators are saved by their trainer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - nothing to restore is the usual case
        """Continue where :meth:`state_dict` was taken."""


@dataclass(frozen=True, kw_only=True)
class RewardParts:
    """What a named reward may be built from; a part that a task lacks is None."""

    discriminator: Discriminator | None = None
    oracle: Oracle | None = None
    generator: Generator | None = None
    """The generator at the start of the adversarial phase (frozen by whoever needs it frozen)."""
    real: Callable[[], Tensor] | None = None
    """Gives real training sequences, int64 (N, T), PAD after EOS; called by rewards that compare with them."""
    eos_id: int | None = None
    """The action that ends a sequence, where there is one; PAD is then the next id."""
    rng: np.random.Generator

    def real_sequences(self, reward: str) -> Tensor:
        """Real training sequences, int64 (N, T). InputError naming the reward where the task has none."""
        if self.real is None:
            raise InputError(f"reward {reward!r} compares with real sequences, and the task has none")
        return self.real()


class WrappedReward(Reward):
    """A reward made of another one, whose discriminator is its own."""

    def __init__(self, inner: Reward) -> None:
        self.inner = inner

    @property
    def discriminator(self) -> Discriminator | None:
        """The inner reward's; setting it sets that."""
        return self.inner.discriminator

    @discriminator.setter
    def discriminator(self, discriminator: Discriminator | None) -> None:
        self.inner.discriminator = discriminator

    @property
    def reads_sequences(self) -> bool:  # type: ignore[override]
        """Whether the inner reward does."""
        return self.inner.reads_sequences

    @property
    def components(self) -> tuple[Reward, ...]:
        """The inner reward."""
        return (self.inner,)

    def state_dict(self) -> dict[str, Any]:
        """That of the inner reward."""
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.inner.load_state_dict(state["inner"])


def row_by_row(reward: Reward, whole: str) -> Reward:
    """The reward itself; InputError where it acts on batches of action values: inside another reward, which sees single
    scores, that part of it would silently be lost."""
    if type(reward).arrange is not Reward.arrange:
        raise InputError(
            f"{type(reward).__name__} acts on whole batches of action values and cannot be part of {whole}; use it "
            "alone, or take a reward of single sequences such as 'discriminator', 'logit' or 'bleu'"
        )
    return reward


def check_batch(reward: Reward, *, num_envs: int, has_eos: bool) -> None:
    """InputError where a reward that depends on its batch would be given none: a single environment, or groups made by
    chance of sequences that end at different steps."""
    problem = None
    if reward.depends_on_batch and num_envs < 2:
        problem = "a single environment has no others; play in a vector environment"
    elif reward.needs_whole_batch and has_eos:
        problem = "sequences that end by EOS are scored in groups of equal length; play a task of fixed length"
    if problem is not None:
        raise InputError(
            f"{type(reward).__name__} sets each sequence against the others of its batch, but {problem}, or choose "
            "another reward"
        )


class FunctionReward(Reward):
    """A user's own function ``f(tokens_BT, lengths_B) -> reward_B`` as a reward; its answer is checked."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        B = len(tokens_BT)
        with torch.no_grad():
            answer = self.function(tokens_BT, lengths_B)
        try:
            reward_B = torch.as_tensor(answer, device=tokens_BT.device).detach().float()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"a reward must return shape ({B},), one number a row; got {answer!r:.80}") from None
        if reward_B.shape != (B,):
            raise ValueError(f"a reward must return shape ({B},), one number a row; got shape {tuple(reward_B.shape)}")
        if not reward_B.isfinite().all():
            row = int((~reward_B.isfinite()).nonzero()[0])
            raise NotFiniteError(f"a reward must return finite numbers; got {float(reward_B[row])} in row {row}")
        return reward_B


def as_reward(reward: Reward | Callable[[Tensor, Tensor], Tensor]) -> Reward:
    """A reward as it is, or a function wrapped as one."""
    if isinstance(reward, Reward):
        return reward
    if not callable(reward):
        raise TypeError(f"a reward is a Reward or a function of (tokens_BT, lengths_B), got {type(reward).__name__}")
    return FunctionReward(reward)
