"""Paying a replay buffer anew: stored rewards are those of the discriminator as it was.

Letters: S stored sequences, T tokens each, A actions; PAD is A.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from seqgan_rl.agents.sampling import recognised
from seqgan_rl.rewards import Reward

_AT_ONCE = 4096
"""Sequences rebuilt and scored together."""


def check_replay(model: OffPolicyAlgorithm) -> None:
    """ValueError unless finished sequences can be rebuilt from what the model stores, and paid anew."""
    env = model.get_env()
    assert env is not None
    kind, _ = recognised(
        model, *(env.get_attr(name, indices=0)[0] for name in ("has_eos", "forbidden", "sequence_length"))
    )
    if kind == "last_token":
        raise ValueError(
            "a replay buffer is paid anew from the prefixes stored in it, and observation='last_token' does not hold "
            "them; make the environment with observation='tokens' (or 'tokens_float32', 'onehot', 'dict')"
        )
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and normalizer.norm_reward:
        raise ValueError(
            "VecNormalize(norm_reward=True) scales stored rewards by statistics of the old discriminator; "
            "use norm_reward=False with a replay agent"
        )
    if any(env.env_is_wrapped(gym.RewardWrapper) + env.env_is_wrapped(gym.wrappers.NormalizeReward)):
        raise ValueError(
            "a wrapper changes the rewards of this environment, which stored ones would lose when they are paid anew; "
            "use an on-policy agent, or put what the wrapper does into reward="
        )
    if env.get_attr("has_penalty", indices=0)[0]:
        raise ValueError(
            "the penalty of this environment is part of the stored rewards and would be lost when they are paid anew; "
            "use an on-policy agent, or env.set_penalty(None)"
        )


def relabel(buffer: ReplayBuffer, reward: Reward, num_actions: int, eos_id: int | None, device: torch.device) -> int:
    """Set all rewards of the ring to the terminal reward R(Y) as it is now; returns the number of sequences paid.

    Sequences are rebuilt from observation and action, since the last next observation is not kept under
    ``optimize_memory_usage``; n-step buffers store one-step rewards, so they need nothing else.
    """
    rows = buffer.buffer_size if buffer.full else buffer.pos
    is_end_RE = buffer.dones[:rows].astype(np.bool_) & ~buffer.timeouts[:rows].astype(np.bool_)
    if buffer.full and buffer.optimize_memory_usage:  # overwritten by the newest next observation, never sampled
        is_end_RE[buffer.pos] = False
    ends_S2 = np.argwhere(is_end_RE)
    paid, scores = [np.empty((0, 2), dtype=np.int64)], [torch.empty(0)]
    for start in range(0, len(ends_S2), _AT_ONCE):
        chunk_S2 = ends_S2[start : start + _AT_ONCE]
        tokens_ST, lengths_S, is_whole_S = _sequences(buffer, chunk_S2, num_actions, eos_id)
        tokens, lengths = torch.from_numpy(tokens_ST[is_whole_S]), torch.from_numpy(lengths_S[is_whole_S])
        paid.append(chunk_S2[is_whole_S])
        scores.append(reward.score(tokens.to(device), lengths.to(device)).cpu())
    buffer.rewards[:rows] = 0
    row_S, env_S = np.concatenate(paid).T
    buffer.rewards[row_S, env_S] = reward.arrange(torch.cat(scores)).numpy()
    return len(row_S)


def _sequences(
    buffer: ReplayBuffer, ends_S2: NDArray[np.int64], num_actions: int, eos_id: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The sequences that end at some (row, sub-environment), int64 (S, T), their lengths (S,), and whether each is
    whole: a time limit may have cut it."""
    row_S, env_S = ends_S2.T
    space, stored = buffer.observation_space, buffer.observations
    if isinstance(space, spaces.Dict):
        space, stored = space["tokens"], stored["tokens"]
    assert isinstance(space, spaces.Box)
    prefixes: NDArray[Any] = stored[row_S, env_S]
    if space.high.max() == num_actions:
        tokens_ST = prefixes.astype(np.int64)
    else:  # one-hot, PAD is all zeros
        onehot_STA = prefixes.reshape(len(prefixes), space.shape[0] // num_actions, num_actions)
        tokens_ST = np.where(onehot_STA.any(axis=2), onehot_STA.argmax(axis=2), num_actions)
    S, T = tokens_ST.shape
    actions_S = buffer.actions[row_S, env_S].reshape(S).astype(np.int64)
    lengths_S = (tokens_ST != num_actions).sum(axis=1) + 1
    tokens_ST[np.arange(S), lengths_S - 1] = actions_S
    return tokens_ST, lengths_S, (lengths_S == T) | (actions_S == (-1 if eos_id is None else eos_id))
