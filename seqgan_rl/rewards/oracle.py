"""Rewards that know the truth: the oracle's log-likelihood, and the log-ratio of oracle to generator.

They are upper bounds for what a discriminator could teach, and machinery checks; no real task has them.
"""

import copy
from typing import Any

from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.likelihood import sequence_nll
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards.base import Reward, RewardParts
from seqgan_rl.rewards.names import rewards


class OracleLogLikelihood(Reward):
    """Mean log-probability under the oracle, nats per token (so that sequences of any length compare)."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        return self.oracle.log_prob(tokens_BT).sum(dim=1) / lengths_B


class OracleLogRatio(Reward):
    """(log O(Y) - log G(Y)) / length, nats per token: the logit of the best possible discriminator, over length.

    G is frozen as it is at construction; :meth:`refresh` freezes it anew.
    """

    def __init__(self, oracle: Oracle, generator: Generator) -> None:
        self.oracle = oracle
        self.refresh(generator)

    def refresh(self, generator: Generator) -> None:
        """Take the ratio to this generator as it is now."""
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """The generator that the ratio is taken to."""
        return {"generator": self.generator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.generator.load_state_dict(state["generator"])

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        nll_B = sequence_nll(self.generator, tokens_BT).float()
        return (self.oracle.log_prob(tokens_BT).sum(dim=1) + nll_B) / lengths_B


def _oracle_of(parts: RewardParts) -> Oracle:
    if parts.oracle is None:
        raise InputError("this reward needs the oracle of the synthetic task; a text corpus has none")
    return parts.oracle


@rewards.register("oracle", needs_discriminator=False)
def likelihood(parts: RewardParts) -> Reward:
    """log O(Y) per token."""
    return OracleLogLikelihood(_oracle_of(parts))


@rewards.register("oracle_log_ratio", needs_discriminator=False)
def log_ratio(parts: RewardParts) -> Reward:
    """log O(Y)/G(Y) per token."""
    if parts.generator is None:
        raise InputError("reward 'oracle_log_ratio' needs the generator that the ratio is taken to")
    return OracleLogRatio(_oracle_of(parts), parts.generator)
