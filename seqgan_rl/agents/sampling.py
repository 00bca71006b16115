"""Finished sequences from any Stable-Baselines3 or sb3-contrib model, without disturbing its training.

Letters: B sub-environments, T tokens.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import Tensor

from seqgan_rl.agents.policy import GeneratorActorCritic
from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.observations import OBSERVATIONS, observation_space
from seqgan_rl.envs.options import EnvOptions
from seqgan_rl.envs.sb3 import SB3VecEnv
from seqgan_rl.envs.task import SequenceTask
from seqgan_rl.envs.vector import SequenceVectorEnv
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.rewards.controls import ConstantReward

_ROWS = 256
"""Sequences played side by side."""


def sample_sequences(
    model: BaseAlgorithm,
    n: int,
    *,
    env: VecEnv | gym.Env[Any, Any] | None = None,
    deterministic: bool = False,
    seed: int | None = None,
) -> Tensor:
    """Play ``n`` whole sequences.

    The model's environment, every random state that training draws from and the policy's mode are left as they were.
    Rows are independent; DQN throws a coin for each where its ``predict`` throws one for the whole batch.

    Args:
        model: any algorithm; recurrent ones carry their state, those that take action masks get them.
        n: how many, at least 1.
        env: where to play. None: an environment like the model's own, with its prompts and masks, that pays nothing.
            Another is reset (and seeded where ``seed`` is given) and must put the whole sequence into
            ``info["sequence"]`` at its end; each of its sub-environments gives an equal share, since the first n to
            finish would be the short ones.
        deterministic: as of ``predict``.
        seed: makes the draw reproducible; None draws anew at every call.

    Returns:
        tokens: int64, (n, T), PAD after EOS.

    Raises:
        ValueError: where no environment like the model's can be made, or the one given has other spaces.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    with _apart(model, rng):
        played = _twin(model, min(n, _ROWS)) if env is None else _checked(model, env)
        if env is None or seed is not None:
            played.seed(int(rng.integers(2**31)))
        return torch.from_numpy(_play(model, played, n, deterministic, rng))


def takes_masks(model: BaseAlgorithm, env: VecEnv) -> bool:
    """Whether the model plays under the masks of this environment."""
    return "action_masks" in inspect.signature(model.predict).parameters and env.has_attr("action_masks")


def masks_from_wrapper(env: VecEnv) -> bool:
    """Whether masks come from sb3-contrib's ``ActionMasker``, so that no other environment has them."""
    try:
        from sb3_contrib.common.wrappers import ActionMasker
    except ImportError:
        return False
    return any(env.env_is_wrapped(ActionMasker))


def recognised(
    model: BaseAlgorithm, has_eos: bool, forbidden: tuple[int, ...], sequence_length: int | None = None
) -> tuple[str, SequenceTask]:
    """Which observation of the environments a model sees, and the bare task that has it. ValueError for other spaces.

    Without the sequence length it is read off the space; "last_token" does not say it, and it is 1 then.
    """
    space, actions = model.observation_space, model.action_space
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise ValueError(f"token by token is played with Discrete actions from 0, got {actions}")
    A, tokens = int(actions.n), space.spaces.get("tokens", space) if isinstance(space, spaces.Dict) else space
    size = tokens.shape[0] if tokens.shape else 1
    for kind in OBSERVATIONS:
        task = SequenceTask(
            vocab_size=A - has_eos,
            sequence_length=sequence_length or (size // A if kind == "onehot" else size),
            has_eos=has_eos,
            make_reward=ConstantReward,
            make_rollout_policy=lambda: UniformPolicy(A, has_eos),
            forbidden=forbidden,
        )
        if task.sequence_length and observation_space(kind, task) == space:
            return kind, task
    of_length = f" of {sequence_length} tokens" if sequence_length else ""
    raise ValueError(
        f"the model sees {space}, which is none of {', '.join(OBSERVATIONS)}{of_length} with {A} actions; make it with "
        "an environment of this library whose observations no wrapper changes"
    )


@contextmanager
def _apart(model: BaseAlgorithm, rng: np.random.Generator) -> Iterator[None]:
    """Inside, all that a model draws from is seeded by ``rng`` and its policy is in evaluation mode; afterwards all is
    as it was."""
    policy, space = model.policy, model.action_space
    numpy_state, space_state = np.random.get_state(), space.np_random.bit_generator.state  # noqa: NPY002
    own = policy.apart(rng.spawn(1)[0]) if isinstance(policy, GeneratorActorCritic) else nullcontext()
    with torch_seeded(rng), evaluation_mode(policy), own:
        np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
        space.seed(int(rng.integers(2**31)))
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            space.np_random.bit_generator.state = space_state


def _twin(model: BaseAlgorithm, num_envs: int) -> VecEnv:
    """A native environment that plays as the model's own one does, and rolls out nothing."""
    own = model.get_env()
    if own is None:
        raise ValueError("the model has no environment; pass one as env=")
    if not own.has_attr("has_constraint"):
        raise ValueError("the model's environment is not one of this library; pass one to play in as env=")

    def attribute(name: str) -> Any:
        return own.get_attr(name, indices=0)[0]

    try:
        kind, task = recognised(model, *(attribute(name) for name in ("has_eos", "forbidden", "sequence_length")))
    except ValueError as error:
        raise ValueError(f"{error}, or sample with an environment wrapped alike as env=") from None
    twin = _Twin(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, observation=kind, rules=task)
    if attribute("has_prompts"):
        twin.set_prompts(attribute("prompts"))
    if takes_masks(model, own) or kind == "dict":
        if masks_from_wrapper(own) or (attribute("has_constraint") and isinstance(own.unwrapped, SubprocVecEnv)):
            raise ValueError(
                "the masks of the model's environment come from an ActionMasker, or from a rule in another process; "
                "pass an environment that has them as env="
            )
        twin.set_constraint(attribute("constraint"))
    normalize = model.get_vec_normalize_env()
    if normalize is None:
        return SB3VecEnv(twin)
    normalize = copy.copy(normalize)  # as it pickles: without its environment, with the same statistics
    normalize.training = False
    normalize.set_venv(SB3VecEnv(twin))
    return normalize


@dataclass(frozen=True, kw_only=True)
class _RuleOptions(EnvOptions):
    """Nothing but the rules of a task, and a reward that costs nothing."""

    reward: Any = "constant"
    shaping: str = "none"
    rules: Any = field(default=None, compare=False)

    def task(self) -> SequenceTask:
        """The rules."""
        task: SequenceTask = self.rules
        return task


class _Twin(SequenceVectorEnv):
    options_class = _RuleOptions


def _checked(model: BaseAlgorithm, env: VecEnv | gym.Env[Any, Any]) -> VecEnv:
    """The environment given, as a ``VecEnv`` that fits the model."""
    if not isinstance(env, VecEnv | gym.Env):
        raise ValueError(f"env must be a VecEnv or a gym.Env, got {type(env).__name__}")
    own, given = model.get_env(), env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    busy = [] if own is None else [own.unwrapped, *(part.unwrapped for part in getattr(own.unwrapped, "envs", []))]
    if any(env.unwrapped is part for part in busy):
        raise ValueError(
            "env is the model's own environment, which playing would tear out of its episode; pass another"
        )
    for name in ("observation_space", "action_space"):
        if getattr(given, name) != getattr(model, name):
            raise ValueError(f"env has {name} {getattr(given, name)}, the model {getattr(model, name)}")
    return given


def _play(
    model: BaseAlgorithm, env: VecEnv, n: int, deterministic: bool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """``n`` sequences in turn from all sub-environments, each giving as many as the others up to one."""
    B, A = env.num_envs, int(model.action_space.n)  # type: ignore[attr-defined]
    wanted_B = [n // B + (row < n % B) for row in range(B)]
    found: list[list[NDArray[np.int64]]] = [[] for _ in range(B)]
    exploration = None if deterministic else getattr(model, "exploration_rate", None)
    has_masks = takes_masks(model, env)
    obs: Any = env.reset()
    state, starts_B = None, np.ones(B, dtype=np.bool_)
    while any(len(sequences) < wanted for sequences, wanted in zip(found, wanted_B, strict=True)):
        masks = {"action_masks": np.stack(env.env_method("action_masks"))} if has_masks else {}
        is_greedy = deterministic or exploration is not None
        actions_B, state = model.predict(obs, state, starts_B, is_greedy, **masks)
        if exploration is not None:
            actions_B = np.where(rng.random(B) < exploration, rng.integers(A, size=B), actions_B)
        obs, _, starts_B, infos = env.step(actions_B)
        for row in np.flatnonzero(starts_B):
            if "sequence" not in infos[row]:
                raise ValueError(
                    "an episode ended without info['sequence']; play in an environment of this library that is not "
                    "truncated"
                )
            found[row].append(infos[row]["sequence"])
    return np.stack([found[row][turn] for turn in range(wanted_B[0]) for row in range(B) if turn < wanted_B[row]])
