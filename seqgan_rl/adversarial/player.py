"""Agents that are no generators, such as DQN, where a generator is asked for: sampled, scored, saved and loaded.

Letters: B sequences, T tokens each, A actions.
"""

import copy
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from seqgan_rl.adversarial.agent import make_agent
from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.agents.model_policy import ModelPolicy
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.evaluation import PolicyGenerator
from seqgan_rl.models.generator import Generator
from seqgan_rl.rewards.controls import ConstantReward

KIND = "agent"
"""What stands for the name of a generator in a saved agent."""


class Player(PolicyGenerator):
    """The distribution that a model plays, as it is now: that of an actor, or of a value-based model the epsilon-greedy
    one at the exploration rate with which its training ends (its own rate of the moment is a matter of training).

    What it never plays has probability 0, and held-out sequences that hold it an infinite NLL. Not for training.
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        shown = copy.copy(model)  # the same networks
        final = getattr(model, "exploration_final_eps", None)
        if final is not None:
            shown.exploration_rate = final  # type: ignore[attr-defined]
        super().__init__(ModelPolicy(shown), (model.observation_space.shape or (1,))[0])


def save_player(folder: str | Path, model: BaseAlgorithm) -> None:
    """Save the weights of an agent's policy; settings and data of its run are needed to load it."""
    save_state(folder, {"kind": KIND, "weights": model.policy.state_dict()})


def load_player(folder: str | Path, config: RunConfig, data: RunData, mle: Generator) -> Generator:
    """The generator that ``save_model`` wrote there, or the agent of :func:`save_player`. InputError for anything else,
    and for weights that do not fit the settings of the run."""
    state = load_state(folder)
    if not isinstance(state, dict) or state.get("kind") != KIND:
        return data.generator(Path(folder))
    try:
        agent = make_agent(config, data, ConstantReward(), mle, "loaded")
        agent.policy.load_state_dict(state["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{folder} does not hold the {config.agent.algorithm} agent of its run: {reason}") from None
    assert agent.env is not None
    agent.env.close()
    return Player(agent)
