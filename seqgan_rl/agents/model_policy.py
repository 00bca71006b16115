"""Any Stable-Baselines3 or sb3-contrib model as a rollout policy: it finishes prefixes as it would play on.

Letters: R rows, T tokens each, A actions.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from seqgan_rl.agents.sampling import masks_from_wrapper, recognised, takes_masks
from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.envs.observations import encode
from seqgan_rl.models.decoding import State

_NEVER = -1e8
"""Logit of what a greedy model does not play. Finite, so that where rollouts may not take its choice all others are
equally likely."""


class ModelPolicy:
    """``softmax(logits)`` is the distribution that the model plays with ``predict(deterministic=False)``, as it is now:
    it follows the model as it learns.

    Every token shows the model its whole prefix again. A policy that holds a generator (SeqGAN, PPO with
    ``GeneratorPolicy`` and others) needs none of this: ``policy.generator`` is a rollout policy itself, and faster.

    Args:
        model: observes "tokens", "tokens_float32", "onehot", "dict" or "last_token". Actor-critics give their
            distribution (under the environment's masks where they take them), DQN and QR-DQN the epsilon-greedy one of
            their present ``exploration_rate``, others (ARS) their action.
        has_eos: whether the last action ends a sequence; None asks the model's environment.

    Raises:
        ValueError: for a model of other spaces, or whose masks or observed masks follow a rule on the prefix.
    """

    def __init__(self, model: BaseAlgorithm, *, has_eos: bool | None = None) -> None:
        env = model.get_env()
        if has_eos is None:
            if env is None or not env.has_attr("has_eos"):
                raise ValueError("the model has no environment that knows if the last action is EOS; pass has_eos=")
            has_eos = bool(env.get_attr("has_eos", indices=0)[0])
        forbidden, sequence_length = (), None
        if env is not None and env.has_attr("forbidden"):
            forbidden, sequence_length = (env.get_attr(name, indices=0)[0] for name in ("forbidden", "sequence_length"))
        self.model = model
        self._kind, self._task = recognised(model, has_eos, forbidden, sequence_length)
        self.num_actions, self.eos_id = self._task.num_actions, self._task.eos_id
        is_recurrent = hasattr(model.policy, "lstm_hidden_state_shape")
        if is_recurrent and env is not None and env.has_attr("has_prompts") and any(env.get_attr("has_prompts")):
            raise ValueError(
                "a recurrent model begins to remember after the prompt, and rollouts do not know where prompts end; "
                "use another rollout policy, or no prompts"
            )
        self._has_masks = env is not None and takes_masks(model, env)
        if env is not None and (self._has_masks or self._kind == "dict") and _masks_follow_a_rule(env):
            raise ValueError(
                "the model's masks follow a rule on the prefix, which rollouts do not know; use a policy without masks"
            )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.policy.device

    def initial_state(self, batch_size: int) -> State:
        """Tokens read (R, T) and how many (R,); of a recurrent model also two LSTM states (R, layers, H)."""
        tokens_RT = torch.full((batch_size, self._task.sequence_length), self.num_actions, device=self.device)
        lengths_R = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        shape = getattr(self.model.policy, "lstm_hidden_state_shape", None)
        if shape is None:
            return tokens_RT, lengths_R
        zeros_RLH = torch.zeros(batch_size, shape[0], shape[2], device=self.device)
        return tokens_RT, lengths_R, zeros_RLH, zeros_RLH

    @torch.no_grad()
    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row, int64 (PAD adds nothing); next-token logits (R, A), float32, and the new state."""
        tokens_RT, lengths_R, *memory = state
        is_token_R = tokens_B != self.num_actions
        column_R1 = lengths_R.clamp_max(tokens_RT.shape[1] - 1)[:, None]  # "last_token" keeps one
        read_RT = tokens_RT.scatter(1, column_R1, tokens_B[:, None])
        tokens_RT = torch.where(is_token_R[:, None], read_RT, tokens_RT)
        lengths_R = torch.where(is_token_R, column_R1.squeeze(1) + 1, lengths_R)
        with evaluation_mode(self.model.policy):
            logits_RA, new_memory = self._logits(self._observation(tokens_RT, lengths_R), tuple(memory))
        return logits_RA, (tokens_RT, lengths_R, *new_memory)

    def _observation(self, tokens_RT: Tensor, lengths_R: Tensor) -> Any:
        """What the model would see of the prefixes, as its policy wants it."""
        tokens, lengths = tokens_RT.cpu().numpy(), lengths_R.cpu().numpy()
        observation = encode(self._kind, self._task, tokens, lengths, lambda: self._masks(len(tokens)))
        normalize = self.model.get_vec_normalize_env()
        if normalize is not None:
            observation = normalize.normalize_obs(observation)
        return self.model.policy.obs_to_tensor(observation)[0]

    def _logits(self, observation: Any, memory: State) -> tuple[Tensor, State]:
        """Logits of what the model plays, and what a recurrent one remembers."""
        policy: Any = self.model.policy
        if memory:
            states = tuple(part_RLH.transpose(0, 1).contiguous() for part_RLH in memory)
            starts_R = torch.zeros(len(memory[0]), device=self.device)
            distribution, states = policy.get_distribution(observation, states, starts_R)
            return distribution.distribution.logits, tuple(part_LRH.transpose(0, 1) for part_LRH in states)
        if hasattr(policy, "get_distribution"):
            rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
            masks = {"action_masks": self._masks(rows)} if self._has_masks else {}
            return policy.get_distribution(observation, **masks).distribution.logits, ()
        greedy_R = policy._predict(observation, deterministic=True)
        exploration = getattr(self.model, "exploration_rate", 0.0)
        probs_RA = torch.nn.functional.one_hot(greedy_R, self.num_actions) * (1.0 - exploration)
        return (probs_RA + exploration / self.num_actions).log().clamp_min(_NEVER), ()

    def _masks(self, rows: int) -> NDArray[np.bool_]:
        """The words that are never forbidden, bool (R, A)."""
        mask_RA = np.ones((rows, self.num_actions), dtype=np.bool_)
        mask_RA[:, list(self._task.forbidden)] = False
        return mask_RA


def _masks_follow_a_rule(env: Any) -> bool:
    has_constraint = env.has_attr("has_constraint") and any(env.get_attr("has_constraint"))
    return has_constraint or masks_from_wrapper(env)
