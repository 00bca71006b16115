"""The generator as a Stable-Baselines3 policy: one network for SeqGAN, PPO, A2C and TRPO, from one warm start.

:class:`GeneratorActorCritic` is all of it but the base class that an algorithm asks for; MaskablePPO asks for another
(``masked_policy.py``). Letters: B sequences, T tokens each, A actions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from seqgan_rl.models.decoding import State, concatenate, select
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.sampling import SamplingOptions, check_forbidden, pick_from_logits

NEVER = -1e30
"""Logit, in a distribution, of an action that is never taken. All probabilities are what they are with -inf, its own 0,
but the gradient of a KL divergence (TRPO's), NaN where both distributions have -inf, is a number."""
Masks = NDArray[Any] | Tensor | None
"""Which actions may be taken: bool or 0 and 1, (B, A); None allows all."""


class GeneratorActorCritic(BasePolicy):
    """Actor: the generator. Critic: a linear head on its features, whose gradient stays out of the generator.

    Decodes incrementally while it plays: the state at each prefix is kept, so a step costs one token however long the
    prefix is. Numbers are those of re-reading the prefix, which is done whenever the prefix is not the one expected or
    the weights have changed.

    Args:
        observation_space: "tokens" (or "tokens_float32") of the environments: prefixes padded with ``action_space.n``.
        action_space: ``Discrete``.
        lr_schedule: given by the algorithm.
        generator: a registered name.
        generator_options: further arguments of the generator, JSON-able.
        has_eos: whether the last action ends a sequence.
        forbidden: actions that are never taken; their probability is 0.
        value_gradient: let the critic's gradient into the generator.
        **kwargs: passed on to the policy class of SB3.

    Wherever ``action_masks`` are taken, an action that they rule out has probability 0; ValueError for a row in which
    none is left.
    """

    samples_freely: ClassVar[bool] = True
    """Draws from its generator alone; False where masks from outside take part."""
    distribution_class: ClassVar[type[Any]] = CategoricalDistribution
    """SB3's wrapping of the next-token distribution."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        generator: str = "lstm",
        generator_options: dict[str, Any] | None = None,
        has_eos: bool = False,
        forbidden: tuple[int, ...] = (),
        value_gradient: bool = False,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
            raise ValueError(f"{type(self).__name__} needs a Discrete action space from 0, got {action_space}")
        A = int(action_space.n)
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"{type(self).__name__} reads prefixes, Box(0, {A}, (T,)); got {observation_space}; make the "
                "environment with observation='tokens'"
            )
        if float(observation_space.high.max()) != A:
            raise ValueError(
                f"{type(self).__name__} expects token ids up to PAD = {A}, got an observation space up to "
                f"{observation_space.high.max()}"
            )
        check_forbidden(forbidden, A)
        self._arguments: dict[str, Any] = {
            "generator": generator,
            "generator_options": dict(generator_options or {}),
            "has_eos": has_eos,
            "forbidden": tuple(forbidden),
            "value_gradient": value_gradient,
        }
        self.num_actions, self.sequence_length = A, int(observation_space.shape[0])
        self.sampling_options = SamplingOptions(forbidden=tuple(forbidden))
        super().__init__(
            observation_space, action_space, lr_schedule, optimizer_kwargs=optimizer_kwargs or {}, **kwargs
        )

    def _build(self, lr_schedule: Schedule) -> None:
        arguments = self._arguments
        self.generator: Generator = generators[arguments["generator"]](
            self.num_actions, self.sequence_length, arguments["has_eos"], **arguments["generator_options"]
        )
        features = self.generator.initial_state(1)[0].shape[1]
        self.value_head = nn.Linear(features, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        # seeded by the algorithm through torch's global generator
        self.rng = np.random.default_rng(int(torch.randint(2**62, ())))
        self._cache: tuple[Tensor, State, tuple[int, ...]] | None = None
        can_fuse = self.optimizer_class in (torch.optim.Adam, torch.optim.AdamW)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            **{"lr": lr_schedule(1), **({"fused": True} if can_fuse else {}), **self.optimizer_kwargs},
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        return {**data, **self._arguments}

    def train(self, mode: bool = True) -> Self:
        """As of any module. Training forgets the states kept: TRPO changes weights by ``parameter.data``, unnoticed."""
        if mode:
            self.forget()
        super().train(mode)
        return self

    def forget(self) -> None:
        """Drop the decoding states kept; the next call reads its prefixes anew. Call it after a change of weights by
        ``parameter.data``, which nothing notices."""
        self._cache = None

    @contextmanager
    def apart(self, rng: np.random.Generator) -> Iterator[None]:
        """Inside, actions are drawn with ``rng`` and nothing is remembered from before; afterwards the random stream
        and the states kept are those of before: playing inside leaves no trace."""
        kept, self.rng, self._cache = (self.rng, self._cache), rng, None
        try:
            yield
        finally:
            self.rng, self._cache = kept

    @torch.no_grad()
    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Masks = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log-probabilities (B,) at prefixes (B, T); decodes incrementally."""
        logits_BA, features_BF = self._advance(self._tokens(obs))
        logits_BA = self._allowed(logits_BA, action_masks)
        actions_B = self._pick(logits_BA, deterministic)
        logp_BA = logits_BA.log_softmax(dim=-1)
        return actions_B, self.value_head(features_BF), logp_BA.gather(1, actions_B[:, None]).squeeze(1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False, action_masks: Masks = None) -> Tensor:
        with torch.no_grad():
            logits_BA, _ = self._advance(self._tokens(observation))
            return self._pick(self._allowed(logits_BA, action_masks), deterministic)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Masks = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log-probabilities (B,) and entropies (B,), differentiable; prefixes are read anew."""
        distribution, features_BF = self._distribution(obs, action_masks)
        logp_B = distribution.log_prob(actions.flatten())
        logp_B = logp_B.masked_fill(logp_B <= NEVER, -math.inf)
        return self._value(features_BF), logp_B, distribution.entropy()

    def get_distribution(self, obs: PyTorchObs, action_masks: Masks = None) -> Any:
        """Next-token distribution at prefixes (B, T), differentiable; an SB3 ``Distribution``. An action that is never
        taken has probability 0 and a finite logit, -1e30."""
        return self._distribution(obs, action_masks)[0]

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """V at prefixes, (B, 1)."""
        tokens_BT = self._tokens(obs)
        # a finished sequence has no next token; its value is not used, so any prefix of it will do
        lengths_B = self._lengths(tokens_BT).clamp_max(self.sequence_length - 1)
        return self._value(self.generator.next_logits(tokens_BT, lengths_B)[1])

    def sequence_values(self, tokens_BT: Tensor) -> Tensor:
        """V(Y_{1:t-1}) before every token, (B, T), differentiable in the head."""
        return self._value(self.generator.features(tokens_BT)).squeeze(2)

    def sequence_log_prob(self, tokens_BT: Tensor) -> Tensor:
        """Log-probability of every token of whole sequences under this policy, (B, T), 0 at PAD; differentiable."""
        return self.generator.log_prob(tokens_BT, forbidden=self.sampling_options.forbidden)

    def weighted_nll(self, tokens_BT: Tensor, weights_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Σ weight * -log-probability over the tokens of whole sequences, a differentiable scalar, and the
        log-probabilities (B, T), detached; see :meth:`Generator.weighted_nll`."""
        return self.generator.weighted_nll(tokens_BT, weights_BT, self.sampling_options.forbidden)

    def _value(self, features: Tensor) -> Tensor:
        values: Tensor = self.value_head(features if self._arguments["value_gradient"] else features.detach())
        return values

    def _distribution(self, obs: PyTorchObs, action_masks: Masks) -> tuple[Distribution, Tensor]:
        tokens_BT = self._tokens(obs)
        logits_BA, features_BF = self.generator.next_logits(tokens_BT, self._lengths(tokens_BT))
        distribution: Distribution = self.distribution_class(self.num_actions)
        logits_BA = self._allowed(logits_BA, action_masks).clamp_min(NEVER)
        return distribution.proba_distribution(logits_BA), features_BF

    def _allowed(self, logits_BA: Tensor, action_masks: Masks) -> Tensor:
        """The logits with -inf at every action that is forbidden or masked."""
        logits_BA = self.sampling_options.apply(logits_BA)
        if action_masks is None:
            return logits_BA
        mask = torch.as_tensor(action_masks, device=logits_BA.device).bool()
        if mask.numel() != logits_BA.numel():
            raise ValueError(f"action_masks must have shape {tuple(logits_BA.shape)}, got {tuple(mask.shape)}")
        logits_BA = logits_BA.masked_fill(~mask.view_as(logits_BA), -math.inf)
        is_empty_B = torch.isneginf(logits_BA).all(dim=1)
        if is_empty_B.any():
            raise ValueError(
                f"action_masks leave no action in row {int(is_empty_B.nonzero()[0])}; at least one must be allowed "
                f"that is not among the policy's forbidden {self.sampling_options.forbidden}"
            )
        return logits_BA

    def _tokens(self, obs: PyTorchObs) -> Tensor:
        assert isinstance(obs, Tensor), "the policy reads one tensor of prefixes"
        return obs.long()

    def _lengths(self, tokens_BT: Tensor) -> Tensor:
        return (tokens_BT != self.generator.pad_id).sum(dim=1)

    def _pick(self, logits_BA: Tensor, deterministic: bool) -> Tensor:
        if deterministic:
            return logits_BA.argmax(dim=-1)
        uniforms_B = torch.from_numpy(self.rng.random(len(logits_BA), dtype=np.float32)).to(logits_BA.device)
        return pick_from_logits(logits_BA, uniforms_B)

    def _advance(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Next-token logits and features at prefixes, continuing from the states of the call before where possible."""
        pad, lengths_B = self.generator.pad_id, self._lengths(tokens_BT)
        last_index_B1 = (lengths_B - 1).clamp_min(0)[:, None]
        last_B = tokens_BT.gather(1, last_index_B1).squeeze(1)  # PAD where the prefix is empty
        before_BT = tokens_BT.scatter(1, last_index_B1, pad)  # the prefix less its last token
        weights = tuple(mark for p in self.generator.parameters() for mark in (p.data_ptr(), p._version))
        state = self.generator.initial_state(len(tokens_BT))
        unread_B = lengths_B > 0
        if self._cache is not None and self._cache[2] == weights and self._cache[0].shape == tokens_BT.shape:
            known_BT, known_state, _ = self._cache
            is_known_B = unread_B & (known_BT == before_BT).all(dim=1)
            state = _where(is_known_B, known_state, state)
            unread_B = unread_B & ~is_known_B
        if unread_B.any():
            rows_R = unread_B.nonzero().squeeze(1)
            state = _put(state, rows_R, self._read(before_BT[rows_R], lengths_B[rows_R] - 1))
        logits_BA, state = self.generator.step(last_B, state)
        self._cache = (tokens_BT.clone(), state, weights)
        return logits_BA, state[0]

    def _read(self, tokens_RT: Tensor, lengths_R: Tensor) -> State:
        """States from which the token after the first ``lengths_R`` ones is read."""
        states = [self.generator.initial_state(len(tokens_RT))]
        last_R = tokens_RT.new_full((len(tokens_RT),), self.generator.pad_id)
        for t in range(int(lengths_R.max()) + 1):
            states.append(self.generator.step(last_R, states[-1])[1])
            last_R = tokens_RT[:, t]
        rows = range(len(tokens_RT))
        return concatenate([select(states[int(lengths_R[row]) + 1], slice(row, row + 1)) for row in rows])


class GeneratorPolicy(GeneratorActorCritic, ActorCriticPolicy):
    """The generator as policy of SeqGAN, PPO, A2C and TRPO; see :class:`GeneratorActorCritic`."""


def _where(condition_B: Tensor, yes: State, no: State) -> State:
    """Row by row, one state or the other."""
    return tuple(torch.where(condition_B.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in zip(yes, no, strict=True))


def _put(state: State, rows_R: Tensor, new: State) -> State:
    """The state with some rows replaced."""
    return tuple(part.index_copy(0, rows_R, new_part) for part, new_part in zip(state, new, strict=True))
