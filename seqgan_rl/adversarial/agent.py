"""The agent of a run: how it is made from settings and data, and all that must be kept for it to go on exactly.

Everything that an algorithm of Stable-Baselines3 draws from belongs to that: PPO shuffles with NumPy's global
generator, DQN explores with it and with the action space's. Inside :func:`global_streams` they are the run's own.
"""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from seqgan_rl.adversarial.algorithms import AgentParts, algorithms
from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.agents.policy import GeneratorActorCritic
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.envs.sb3 import make_sb3_env
from seqgan_rl.models.generator import Generator
from seqgan_rl.rewards import Reward

COUNTERS = (
    *("num_timesteps", "num_prefixes_scored", "_n_updates", "_episode_num", "_n_calls"),
    *("exploration_rate", "_current_progress_remaining", "_last_obs", "_last_episode_starts", "_last_original_obs"),
)
"""What an algorithm counts and where it stands; each has some of these."""
RECENT = ("ep_info_buffer", "ep_success_buffer")
STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of a replay buffer, each with one row a step."""


def make_agent(config: RunConfig, data: RunData, reward: Reward, generator: Generator, name: str) -> BaseAlgorithm:
    """The algorithm of the settings at the weights of this generator, in an environment of the data that pays this
    reward. ``name`` is that of its random streams. InputError for settings that it does not take."""

    def make_env(shaping: str) -> VecEnv:
        env = make_sb3_env(
            "SeqGAN/Oracle-v0" if data.oracle is not None else "SeqGAN/Corpus-v0",
            num_envs=config.agent.batch_size,
            monitor=False,
            shaping=shaping,
            num_rollouts=config.agent.num_rollouts,
            reward=reward,
            rollout_policy=generator,
            device=config.device,
            **({"oracle": data.oracle} if data.oracle is not None else {"corpus": data.corpus}),
        )
        env.seed(int(stream(config.seed, f"{name} env").integers(2**31)))
        return env

    T = data.corpus.sequence_length
    parts = AgentParts(
        config=config.agent,
        generator=generator,
        generator_kwargs={
            "generator": config.generator.name,
            "generator_options": config.generator.options,
            "has_eos": data.corpus.vocabulary.has_eos,
        },
        forbidden=data.forbidden,
        real=lambda: data.split("train").to(config.device),
        make_env=make_env,
        rounds=max(config.rounds, -(-max(config.tokens // T, config.scored) // config.agent.batch_size)),
        device=torch.device(config.device),
    )
    return seeded_agent(parts, config.seed, name)


def seeded_agent(parts: AgentParts, seed: int, name: str) -> BaseAlgorithm:
    """The algorithm made from its parts, with random streams of its own."""
    with torch_seeded(stream(seed, f"{name} init")):
        agent = algorithms[parts.config.algorithm](parts)
    agent.action_space.seed(int(stream(seed, f"{name} actions").integers(2**31)))
    if isinstance(agent.policy, GeneratorActorCritic):
        agent.policy.rng = stream(seed, f"{name} policy")
    if isinstance(agent, SeqGAN):
        agent.real_rng = stream(seed, f"{name} real")
    return agent


def learn(agent: BaseAlgorithm, config: RunConfig, callbacks: list[BaseCallback]) -> None:
    """Play and train until the callbacks stop it at the start of the round after the last. FloatingPointError where the
    policy's distribution is no longer one."""
    total = total_steps(agent, config)
    if config.tokens:  # what is scheduled, such as DQN's exploration, is done by then, however far evaluations go on
        _schedule_over(agent, config.tokens)
    try:
        agent.learn(total, callback=callbacks, log_interval=None)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        # torch's words for a distribution of NaN, and for a step that is no float
        if not any(words in str(error) for words in ("to satisfy the constraint", "without overflow")):
            raise
        raise FloatingPointError(
            "the policy or its update is not finite; lower the agent's learning rate or check the reward"
        ) from error


def _schedule_over(agent: BaseAlgorithm, steps: int) -> None:
    """Let schedules run over so many steps instead of all that ``learn`` is given, and then stay at their end."""
    update = agent._update_current_progress_remaining

    def update_over_steps(num_timesteps: int, total_timesteps: int) -> None:
        update(min(num_timesteps, steps), steps)

    agent._update_current_progress_remaining = update_over_steps  # type: ignore[method-assign]


def total_steps(agent: BaseAlgorithm, config: RunConfig) -> int:
    """More steps than all rounds, or the budget, can have, so that ``learn`` comes to the start of one round more,
    where the last is written. Schedules run over these, or over the budget's tokens."""
    if not config.has_budget:
        return config.rounds * round_steps(agent) + 1
    T, is_shaped = _length(agent), _is_shaped(agent)
    # each token of a sequence is paid by one evaluation at least where prefixes are valued, else each sequence is
    needed = max(config.tokens, config.scored * (1 if is_shaped else T))
    return needed + agent.n_envs * T + round_steps(agent) + 1  # sequences that are not finished yet are paid for later


def planned_rounds(agent: BaseAlgorithm, config: RunConfig) -> int:
    """Rounds of the run; with a budget what it comes to where no sequence ends early."""
    if not config.has_budget:
        return config.rounds
    T, N = _length(agent), config.agent.num_rollouts if _is_shaped(agent) else 0
    steps = max(config.tokens, config.scored * T // (1 + N * (T - 1)))
    return max(1, -(-steps // round_steps(agent)))


def round_steps(agent: BaseAlgorithm) -> int:
    """Steps of one collection, at the most."""
    B, T = agent.n_envs, _length(agent)
    if isinstance(agent, OnPolicyAlgorithm) and not isinstance(agent, SeqGAN):
        T = agent.n_steps
    elif isinstance(agent, OffPolicyAlgorithm):
        every: Any = agent.train_freq  # set up as a TrainFreq
        T = every.frequency * (T if every.unit.value == "episode" else 1)
    return B * T


def _length(agent: BaseAlgorithm) -> int:
    """T of its environment."""
    return int(agent.observation_space.shape[0])  # type: ignore[index]


def _is_shaped(agent: BaseAlgorithm) -> bool:
    """Whether its environment values prefixes by rollouts."""
    assert agent.env is not None
    return bool(agent.env.get_attr("shaping", indices=0)[0] != "none")


@contextmanager
def global_streams(rng: np.random.Generator) -> Iterator[None]:
    """Inside, the global generators of torch, NumPy and Python are seeded by ``rng``; afterwards they are as before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch_seeded(rng):
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        random.seed(int(rng.integers(2**63)))
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def agent_state(agent: BaseAlgorithm) -> dict[str, Any]:
    """Networks, optimisers, counters, the environment mid-episode, the replay buffer and all random states: what
    :func:`load_agent_state` needs to go on as if nothing had happened. Taken at the start of a round."""
    env, policy, buffer = agent.get_env(), agent.policy, getattr(agent, "replay_buffer", None)
    assert env is not None
    networks, tensors = agent._get_torch_save_params()
    return {
        "networks": {name: attrgetter(name)(agent).state_dict() for name in networks},
        "tensors": {name: attrgetter(name)(agent).detach().clone() for name in tensors},
        "counters": {name: getattr(agent, name) for name in COUNTERS if hasattr(agent, name)},
        "recent": {name: list(getattr(agent, name) or ()) for name in RECENT},
        "env": env.env_method("state_dict", indices=0)[0],
        "buffer": None if buffer is None else _buffer_state(buffer),
        "policy_rng": policy.rng.bit_generator.state if isinstance(policy, GeneratorActorCritic) else None,
        "real_rng": agent.real_rng.bit_generator.state if isinstance(agent, SeqGAN) else None,
        "actions_rng": agent.action_space.np_random.bit_generator.state,
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy_rng": np.random.get_state(legacy=False),  # noqa: NPY002
        "python_rng": random.getstate(),
    }


def load_agent_state(agent: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Continue where :func:`agent_state` was taken; inside ``learn``, at the start of its first round, so that nothing
    is reset afterwards."""
    env, policy = agent.get_env(), agent.policy
    assert env is not None
    for name, value in state["networks"].items():
        attrgetter(name)(agent).load_state_dict(value)
    for name, value in state["tensors"].items():
        attrgetter(name)(agent).data.copy_(value)
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    for name, values in state["recent"].items():
        setattr(agent, name, deque(values, maxlen=agent._stats_window_size))
    env.env_method("load_state_dict", state["env"])
    if state["buffer"] is not None:
        _load_buffer(agent.replay_buffer, state["buffer"])  # type: ignore[attr-defined]
    if isinstance(policy, GeneratorActorCritic):
        policy.rng.bit_generator.state = state["policy_rng"]
    if isinstance(agent, SeqGAN) and "real_rng" in state:  # not in states from before there was one
        agent.real_rng.bit_generator.state = state["real_rng"]
    agent.action_space.np_random.bit_generator.state = state["actions_rng"]
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    np.random.set_state(state["numpy_rng"])  # noqa: NPY002
    random.setstate(state["python_rng"])


def _buffer_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """The rows in use."""
    return {
        "pos": buffer.pos,
        "full": buffer.full,
        "rows": {name: getattr(buffer, name)[: buffer.size()].copy() for name in STORED if hasattr(buffer, name)},
    }


def _load_buffer(buffer: ReplayBuffer, state: dict[str, Any]) -> None:
    for name, rows in state["rows"].items():
        getattr(buffer, name)[: len(rows)] = rows
    buffer.pos, buffer.full = state["pos"], state["full"]


def check_finite(agent: BaseAlgorithm) -> None:
    """FloatingPointError unless the losses recorded, all weights and all stored rewards are finite numbers."""
    for name, value in agent.logger.name_to_value.items():
        if name.endswith("loss") and not np.isfinite(value):
            raise FloatingPointError(f"{name} is not finite; lower the agent's learning rate or check the reward")
    for name, weight in agent.policy.named_parameters():
        if not weight.isfinite().all():
            raise FloatingPointError(
                f"weight {name!r} of the policy is not finite; lower the agent's learning rate or check the reward"
            )
    buffer = getattr(agent, "replay_buffer", None)
    if buffer is not None and not np.isfinite(buffer.rewards[: buffer.size()]).all():
        raise FloatingPointError("a reward in the replay buffer is not finite; check the reward")
