"""Which hyperparameters a search goes over, and between which ends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqgan_rl.comparison.hyperparameters import Settings, spec_of
from seqgan_rl.core.config import read_yaml, typed
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.registry import did_you_mean


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included."""

    low: float
    high: float
    log: bool = False
    """Drawn uniformly in the logarithm."""
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"low must be a finite number below high, got {self.low} and {self.high}")
        if self.log and not self.low > 0:
            raise InputError(f"low must be above 0 where log is true, got {self.low}")


Space = Mapping[str, Range | tuple[Any, ...]]
RATE = Range(1e-4, 1e-2, log=True)
SIZE = (32, 64, 128, 256)
BONUS = Range(1e-5, 1e-1, log=True)
SPACES: dict[str, Space] = {
    "seqgan": {"learning_rate": RATE, "n_envs": SIZE, "ent_coef": BONUS, "max_grad_norm": Range(0.5, 10, log=True)},
    "rloo": {"learning_rate": RATE, "n_envs": SIZE, "beta": Range(1e-3, 1, log=True)},
    "grpo": {
        "learning_rate": RATE,
        "n_envs": SIZE,
        "beta": Range(1e-3, 1, log=True),
        "n_epochs": Range(1, 8, whole=True),
        "clip_range": Range(0.05, 0.4),
    },
    "actor_critic": {
        "learning_rate": RATE,
        "n_envs": SIZE,
        "critic_learning_rate": Range(1e-3, 3e-2, log=True),
        "critic_update_rate": Range(1e-2, 1, log=True),
        "variance_penalty": Range(1e-5, 1e-1, log=True),
    },
    "ppo": {
        "learning_rate": Range(3e-5, 3e-3, log=True),
        "n_epochs": Range(1, 10, whole=True),
        "clip_range": Range(0.05, 0.4),
        "ent_coef": BONUS,
        "gae_lambda": Range(0.8, 1.0),
        "target_kl": Range(5e-3, 0.5, log=True),
    },
    "a2c": {"learning_rate": RATE, "n_envs": SIZE, "ent_coef": BONUS, "gae_lambda": Range(0.8, 1.0)},
    "trpo": {
        "learning_rate": RATE,
        "target_kl": Range(1e-3, 0.1, log=True),
        "n_critic_updates": Range(1, 20, whole=True),
        "gae_lambda": Range(0.8, 1.0),
    },
    "dqn": {
        "learning_rate": Range(3e-5, 3e-3, log=True),
        "batch_size": (64, 128, 256),
        "gradient_steps": Range(5, 80, log=True, whole=True),
        "exploration_fraction": Range(0.1, 0.9),
        "exploration_final_eps": Range(0.01, 0.3, log=True),
    },
}
"""What is searched, by algorithm. Of an algorithm that is not here: the learning rate."""
SPACES["qrdqn"] = SPACES["dqn"]


def space_of(agent: str, settings: Settings, *, reward: str, file: str | None = None) -> Space:
    """What is searched for an agent with these settings: what a user's file names, else its algorithm's entry above.

    InputError where a value at an end of it is none that the agent takes.
    """
    algorithm, where = str(settings["algorithm"]), f"search of {agent}"
    space = _read(file) if file else SPACES.get(algorithm, {"learning_rate": RATE})
    spec_of(agent, settings, reward=reward, where=where)
    for name, part in space.items():
        ends = (part.low, part.high) if isinstance(part, Range) else part
        for value in ends:
            spec_of(agent, {**settings, name: value}, reward=reward, where=where)
    return space


def _read(path: str) -> Space:
    space: dict[str, Range | tuple[Any, ...]] = {}
    for name, part in read_yaml(path).items():
        where = f"{path}: {name!s:.60}"
        if isinstance(part, list) and len(part) > 1 and all(isinstance(v, bool | int | float | str) for v in part):
            space[str(name)] = tuple(part)
            continue
        if not isinstance(part, dict):
            raise InputError(f"{where} must be a mapping with low and high, or a list of choices, got {part!r:.60}")
        for key in part:
            if key not in ("low", "high", "log"):
                hint = did_you_mean(str(key), ["low", "high", "log"])
                raise InputError(f"{where}: unknown key {key!r:.60}{hint}; known are low, high, log")
        try:
            low, high = part["low"], part["high"]
        except KeyError as error:
            raise InputError(f"{where} must have low and high; {error.args[0]} is missing") from None
        try:
            space[str(name)] = Range(
                typed(low, float, "low"),
                typed(high, float, "high"),
                log=typed(part.get("log", False), bool, "log"),
                whole=isinstance(low, int) and isinstance(high, int),
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    if not space:
        raise InputError(f"{path} names nothing to search")
    return space


def distributions(optuna: Any, space: Space) -> dict[str, Any]:
    """The same for Optuna."""
    kinds = optuna.distributions
    return {
        name: kinds.CategoricalDistribution(part)
        if not isinstance(part, Range)
        else kinds.IntDistribution(int(part.low), int(part.high), log=part.log)
        if part.whole
        else kinds.FloatDistribution(part.low, part.high, log=part.log)
        for name, part in space.items()
    }
