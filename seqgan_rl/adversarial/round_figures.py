"""What the row of a round says of an algorithm that is not ours: rewards, advantages and gradients, as SeqGAN's own.

Letters: N sequences, T tokens each, A actions (PAD is A).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from seqgan_rl.agents.seqgan import SeqGAN, record_spread, record_values

AT_THE_LIMIT = 1 - 1e-4
"""Share of ``max_grad_norm`` above which a gradient counts as cut: what is left after clipping differs by rounding."""


class RoundFigures:
    """Gathers what happens in a round and records it with the agent's logger. SeqGAN and its relatives record their
    own; of them only steps are counted.

    Args:
        agent: its policy's optimiser is watched. What it steps on has been clipped already, so a norm is at most
            ``max_grad_norm``.
    """

    def __init__(self, agent: BaseAlgorithm) -> None:
        self.agent, self._is_ours = agent, isinstance(agent, SeqGAN)
        self.num_steps = 0
        """Gradient steps of the policy's optimiser in this round."""
        self._norms: list[Tensor] = []
        self._rewards: list[float] = []
        self._sequences: list[tuple[NDArray[Any], NDArray[Any]]] = []
        """Tokens and action values of the sequences that ended in this round, where something was rolled out."""
        optimizer = getattr(agent.policy, "optimizer", None)
        if isinstance(optimizer, torch.optim.Optimizer):
            optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.num_steps += 1
        if not self._is_ours:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            self._norms.append(torch.nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))

    def observe(self, infos: Iterable[dict[str, Any]]) -> None:
        """Take in what a step of the environments tells."""
        for info in infos:
            if "sequence_reward" in info and not self._is_ours:
                self._rewards.append(info["sequence_reward"])
                if "action_value" in info:
                    self._sequences.append((info["sequence"], info["action_value"]))

    def record_collection(self) -> None:
        """At the end of a collection: mean reward, action values by position, spread of the advantages."""
        if self._rewards:
            self.agent.logger.record("agent/reward", float(np.mean(self._rewards)))
        if self._sequences:
            tokens_NT, value_NT = (torch.from_numpy(np.stack(part)) for part in zip(*self._sequences, strict=True))
            assert isinstance(self.agent.action_space, spaces.Discrete)
            record_values(self.agent.logger, value_NT, tokens_NT != int(self.agent.action_space.n))
        advantages = getattr(getattr(self.agent, "rollout_buffer", None), "advantages", None)
        if advantages is not None and not self._is_ours:
            record_spread(self.agent.logger, torch.from_numpy(np.asarray(advantages)))
        self._rewards.clear()
        self._sequences.clear()

    def record_update(self, minibatches: int) -> None:
        """At the end of a round: the gradient, and the discriminator's minibatches of the round for each step."""
        logger = self.agent.logger
        if self._norms:
            norms = torch.stack(self._norms).double()
            logger.record("agent/gradient_norm", float(norms.mean()))
            limit = getattr(self.agent, "max_grad_norm", None)
            if limit:  # TRPO, which clips nothing, has 0
                logger.record("agent/was_clipped", float((norms >= AT_THE_LIMIT * limit).double().mean()))
        if self.num_steps:
            logger.record("discriminator/minibatches_per_update", minibatches / self.num_steps)
        self.num_steps = 0
        self._norms.clear()
