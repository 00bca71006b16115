"""Which algorithm plays in a run: names, and how each becomes a Stable-Baselines3 model that starts from the MLE.

An algorithm of one's own is a function from :class:`AgentParts` to a model, under ``@algorithms.register("name")``.
Letters: B sub-environments, T tokens in the longest sequence.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from seqgan_rl.agents.actor_critic import ActorCritic
from seqgan_rl.agents.extractor import TokenExtractor
from seqgan_rl.agents.grpo import GRPO
from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.rloo import RLOO
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.agents.warm_start import warm_start
from seqgan_rl.core.config import typed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import Registry, did_you_mean
from seqgan_rl.models.generator import Generator

if TYPE_CHECKING:  # the config looks names up here
    from seqgan_rl.adversarial.config import AgentConfig

MINIBATCH = 256
"""Steps in a minibatch of PPO, or of TRPO's critic, about, where the round divides so."""
BUFFER_BYTES = 2**26
"""Observations in a replay buffer by default, at the most; a checkpoint holds them all."""
SEQGAN_ONLY = ("weights", "baseline", "normalize", "loss", "kl_coef", "mle_coef")
"""Settings of the agent that no other algorithm here has."""
SHARED = ("learning_rate", "max_grad_norm", "ent_coef")
"""Settings of the agent that are arguments of the algorithm under the same name."""
OF_THE_RUN = ("gamma", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "stats_window_size")
AT_LEAST_1 = (
    *("n_steps", "n_epochs", "batch_size", "buffer_size", "train_freq", "target_update_interval"),
    *("n_critic_updates", "cg_max_steps", "line_search_max_iter", "sub_sampling_factor"),
)
"""Options of which 0 or less would stop the algorithm in the middle of its work."""


@dataclass(frozen=True, kw_only=True)
class AgentParts:
    """What an algorithm is made from."""

    config: "AgentConfig"
    """The agent's settings; ``options`` are for the algorithm."""
    generator: Generator
    """The MLE that the agent starts from."""
    generator_kwargs: dict[str, Any]
    """``generator``, ``generator_options`` and ``has_eos`` of a policy, or a ``TokenExtractor``, with that network."""
    forbidden: tuple[int, ...]
    """Words that are never played."""
    real: Callable[[], Tensor]
    """Training sequences, int64, (N, T), on the device."""
    make_env: Callable[[str], VecEnv]
    """From the shaping of the reward ("rollout", "none" or "deferred") to B sub-environments of the run's data."""
    rounds: int
    """Rounds that the agent will play."""
    device: torch.device

    @property
    def round_size(self) -> int:
        """B * T: steps in a round of one sequence from each sub-environment, at the most."""
        return self.config.batch_size * self.generator.sequence_length


algorithms: Registry[Callable[[AgentParts], BaseAlgorithm]] = Registry("algorithm")
"""Algorithms by name: ``factory(parts)`` with :class:`AgentParts`."""


@algorithms.register("seqgan")
def seqgan(parts: AgentParts) -> SeqGAN:
    """The reference: every round one sequence from each sub-environment, all their rollouts in one batch."""
    agent = _made(
        SeqGAN,
        parts,
        policy=GeneratorPolicy,
        shaping="deferred" if parts.config.rollouts else "none",
        **{name: getattr(parts.config, name) for name in SEQGAN_ONLY},
        policy_kwargs=_generator_policy(parts),
    )
    agent.reference = parts.generator
    if parts.config.mle_coef:
        agent.real = parts.real()
    return agent


@algorithms.register("rloo")
def rloo(parts: AgentParts) -> SeqGAN:
    """REINFORCE on whole sequences with a leave-one-out baseline; the KL to the MLE is part of the reward."""
    return _on_sequences(RLOO, parts)


@algorithms.register("grpo")
def grpo(parts: AgentParts) -> SeqGAN:
    """Clipped policy gradient with advantages relative to the batch; the KL to the MLE is part of the loss."""
    return _on_sequences(GRPO, parts)


@algorithms.register("actor_critic")
def actor_critic(parts: AgentParts) -> SeqGAN:
    """A critic that reads prefixes and values every next token."""
    return _on_sequences(ActorCritic, parts)


@algorithms.register("ppo")
def ppo(parts: AgentParts) -> BaseAlgorithm:
    """Clipped policy gradient. Fewer epochs than SB3's 10, which leave the MLE behind in a few rounds."""
    return _on_policy(PPO, parts, n_epochs=4, batch_size=_minibatch(parts))


@algorithms.register("a2c")
def a2c(parts: AgentParts) -> BaseAlgorithm:
    """One gradient step a round. Adam: the first step of SB3's RMSprop is ten times its learning rate."""
    return _on_policy(A2C, parts, use_rms_prop=False, normalize_advantage=True)


@algorithms.register("trpo")
def trpo(parts: AgentParts) -> BaseAlgorithm:
    """Natural gradient within a bound on the KL divergence; the learning rate is the critic's."""
    return _on_policy(_contrib("TRPO"), parts, batch_size=_minibatch(parts))


@algorithms.register("dqn")
def dqn(parts: AgentParts) -> BaseAlgorithm:
    """Q-learning on the features of the MLE; it has no probabilities but the epsilon-greedy ones."""
    return _off_policy(DQN, parts)


@algorithms.register("qrdqn")
def qrdqn(parts: AgentParts) -> BaseAlgorithm:
    """DQN with quantiles of the return."""
    return _off_policy(_contrib("QRDQN"), parts)


def _on_sequences(algorithm: type[SeqGAN], parts: AgentParts) -> SeqGAN:
    """An algorithm of whole sequences that is paid at their end."""
    policy_kwargs = _generator_policy(parts)
    agent: SeqGAN = _made(algorithm, parts, policy=GeneratorPolicy, shaping="none", policy_kwargs=policy_kwargs)
    agent.reference = parts.generator
    return agent


def _on_policy(algorithm: type[BaseAlgorithm], parts: AgentParts, **defaults: Any) -> BaseAlgorithm:
    """Actor-critic on the MLE's network. T steps a round; undiscounted returns, as SeqGAN's action values are."""
    shaping = "rollout" if parts.config.rollouts else "none"
    defaults = {"policy": GeneratorPolicy, "n_steps": parts.generator.sequence_length, "gae_lambda": 1.0, **defaults}
    return _made(algorithm, parts, shaping=shaping, **defaults, policy_kwargs=_generator_policy(parts))


def _off_policy(algorithm: type[BaseAlgorithm], parts: AgentParts) -> BaseAlgorithm:
    """Q-learning, paid at the end of a sequence; sizes follow from the length of the run."""
    T, size = parts.generator.sequence_length, parts.round_size
    extractor = {"features": "generator", **parts.generator_kwargs}
    return _made(
        algorithm,
        parts,
        policy="MlpPolicy",
        shaping="none",
        buffer_size=max(size, min(parts.rounds * size, BUFFER_BYTES // (2 * 8 * T))),
        learning_starts=size,
        train_freq=T,
        gradient_steps=T,
        batch_size=128,
        target_update_interval=5 * size,
        exploration_fraction=0.5,
        exploration_final_eps=0.05,
        policy_kwargs={"features_extractor_class": TokenExtractor, "features_extractor_kwargs": extractor},
    )


def _generator_policy(parts: AgentParts) -> dict[str, Any]:
    return {**parts.generator_kwargs, "forbidden": parts.forbidden}


def _made(algorithm: type[Any], parts: AgentParts, shaping: str, policy_kwargs: Any, **defaults: Any) -> Any:
    """The algorithm with the user's options over the defaults, at the MLE's weights. InputError for a setting or an
    option that it does not have."""
    known = inspect.signature(algorithm).parameters
    options, own = _options(algorithm, parts.config), parts.config
    if algorithm is not SeqGAN:
        _refuse_unread(own, [*SEQGAN_ONLY, *(name for name in SHARED if name not in known)], algorithm.__name__)
    model = algorithm(
        env=parts.make_env(shaping),
        **{name: getattr(own, name) for name in (*SHARED, "score_differences") if name in known},
        **({} if issubclass(algorithm, SeqGAN) else {"gamma": 1.0}),
        **{**defaults, **options},
        policy_kwargs=policy_kwargs,
        device=parts.device,
    )
    return warm_start(model, parts.generator)


def _options(algorithm: type[Any], config: "AgentConfig") -> dict[str, Any]:
    """The user's options of an algorithm, as the types it declares; InputError for what it does not take."""
    parameters = inspect.signature(algorithm).parameters
    settings = [field.name for field in fields(config)]
    taken = [
        name
        for name, parameter in parameters.items()
        if name not in OF_THE_RUN
        and (name not in settings or name == "batch_size")  # ours counts sequences, theirs steps
        and not name.startswith(("_", "policy_", "replay_buffer_", "rollout_buffer_", "use_sde", "sde_"))
        and not isinstance(parameter.annotation, str)
    ]
    if issubclass(algorithm, SeqGAN):
        taken.remove("batch_size")
    found = {}
    for name, value in config.options.items():
        where = f"agent.options: {name}"
        if name not in taken:
            if name in parameters or name in settings:
                raise InputError(
                    f"{where} is not an option; it is "
                    + (f"the setting agent.{name}" if name in settings else "decided by the run")
                )
            raise InputError(
                f"agent.options: unknown option {name!r} of {algorithm.__name__}{did_you_mean(name, taken)}; "
                f"known are {', '.join(taken)}"
            )
        try:
            found[name] = typed(value, parameters[name].annotation, where)
        except TypeError:  # a schedule is a function, which has no name among plain values
            raise InputError(f"{where} must be a number, got {value!r:.60}") from None
        if name in AT_LEAST_1 and found[name] < 1:
            raise InputError(f"{where} must be at least 1, got {value}")
    return found


def _refuse_unread(config: "AgentConfig", unread: list[str], algorithm: str) -> None:
    """InputError for settings that were changed although the algorithm has nothing like them."""
    changed = [
        field.name for field in fields(config) if field.name in unread and getattr(config, field.name) != field.default
    ]
    if changed:
        raise InputError(
            f"agent: {algorithm} does not have {', '.join(changed)}; leave "
            f"{'it' if len(changed) == 1 else 'them'} as in the preset 'corrected', or train with algorithm 'seqgan'"
        )


def _minibatch(parts: AgentParts) -> int:
    """The divisor of the steps of a round nearest to :data:`MINIBATCH`; the whole round where all are far from it."""
    n_steps = parts.config.options.get("n_steps")
    steps = parts.round_size if not isinstance(n_steps, int) else max(1, n_steps) * parts.config.batch_size
    divisors = [size for size in range(MINIBATCH // 4, 2 * MINIBATCH + 1) if steps % size == 0]
    return min(divisors, key=lambda size: abs(size - MINIBATCH), default=steps)


def _contrib(name: str) -> type[BaseAlgorithm]:
    try:
        algorithm: type[BaseAlgorithm] = getattr(importlib.import_module("sb3_contrib"), name)
    except ImportError:
        raise InputError(f"{name} is part of sb3-contrib, which is not installed; pip install sb3-contrib") from None
    return algorithm
