"""Hyperparameters of every agent and environment: one YAML file of RL-Zoo's form, and a user's laid over it.

``hyperparameters.yaml`` beside this module says what its keys mean.
"""

import difflib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from seqgan_rl.adversarial.algorithms import SEQGAN_ONLY, AgentParts, algorithms
from seqgan_rl.adversarial.config import AgentConfig
from seqgan_rl.core.config import read_yaml, typed, updated
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import one_line
from seqgan_rl.core.registry import did_you_mean
from seqgan_rl.envs.sb3 import make_sb3_env
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.rewards import rewards

Kind = Literal["start", "fitted", "agent", "control"]
Settings = dict[str, Any]

OURS = Path(__file__).with_name("hyperparameters.yaml")
FITTED: dict[str, Kind] = {
    "mle": "start",
    "mle_continued": "fitted",
    "scheduled_sampling": "fitted",
    "vae": "fitted",
}
"""What is fitted to data and has no settings of an agent."""
ENVIRONMENTS = ("SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0", "SeqGAN/Exact-v0")
SECTIONS = ("default", *ENVIRONMENTS)
FIELDS = tuple(field.name for field in fields(AgentConfig))
INSTEAD = {
    "n_timesteps": "the comparison's --budget says how many tokens an agent generates",
    "policy": "every agent is the comparison's generator; its settings are generator.*",
    "policy_kwargs": "every agent is the comparison's generator; its settings are generator.*",
    "env_wrapper": "all agents play the same environment",
    "vec_env_wrapper": "all agents play the same environment",
    "env_kwargs": "all agents play the same environment; its settings are data.*",
    "frame_stack": "an observation is the whole prefix already",
    "callback": "the comparison decides when the discriminator is trained",
    "options": "write its keys beside the others",
}
"""Keys of RL-Zoo that say nothing here, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """An agent as it takes part in a comparison."""

    name: str
    kind: Kind
    """``start``: the MLE that all start from; ``fitted``: fitted to the same data; ``control``: must be beaten."""
    agent: AgentConfig
    """Its settings, checked; the default ones of what is fitted."""


def known_agents(file: Path | None = None) -> tuple[str, ...]:
    """Names of all agents: what is fitted, ours, and those of a user's file."""
    return tuple(dict.fromkeys([*FITTED, *_read(OURS), *(_read(file) if file else ())]))


def agent_spec(name: str, env_id: str, *, reward: str, file: Path | None = None) -> AgentSpec:
    """An agent's settings for an environment, checked.

    Args:
        name: an agent of :func:`known_agents`.
        env_id: a section of the file, such as ``"SeqGAN/Oracle-v0"``.
        reward: the comparison's, for agents that name none. An agent that names a discriminator's reward is paid by it
            only where the comparison's is one too.
        file: a YAML file of the same form, laid over ours.

    Raises:
        InputError: an unknown agent, environment or key, or a value that the algorithm does not take.
    """
    settings = settings_of(name, env_id, file)
    if name in FITTED:
        return AgentSpec(name=name, kind=FITTED[name], agent=AgentConfig())
    return spec_of(name, settings, reward=reward, where=f"hyperparameters of {name} ({env_id})")


def settings_of(name: str, env_id: str, file: Path | None = None) -> Settings:
    """An agent's settings for an environment by the keys of the files, not yet checked; none of what is fitted.

    Later ones win: ours for all environments, ours for this one, then those of the user's file in the same order. An
    agent of the user's starts from ours of the same name; where it is new, or its algorithm another, from ours that is
    named after its algorithm.
    """
    known = known_agents(file)
    if name not in known:
        raise InputError(f"unknown agent {name!r}{did_you_mean(name, list(known))}; known are {', '.join(known)}")
    if env_id not in ENVIRONMENTS:
        hint = did_you_mean(env_id, list(ENVIRONMENTS))
        raise InputError(f"unknown environment {env_id!r}{hint}; known are {', '.join(ENVIRONMENTS)}")
    if name in FITTED:
        return {}
    ours, theirs = _read(OURS), (_read(file) if file else {}).get(name, {})
    changes = _merged(theirs, env_id)
    base = ours.get(name, {})
    algorithm = _algorithm(name, base)
    if not base or changes.get("algorithm", algorithm) != algorithm:
        base = ours.get(str(changes.get("algorithm", name)), {})
    if not base and not any(section in theirs for section in ("default", env_id)):
        raise InputError(f"hyperparameters of {name}: there are none for {env_id}; add that section, or 'default'")
    return {"algorithm": name, **_merged(base, env_id), **changes}


def spec_of(name: str, settings: Settings, *, reward: str, where: str) -> AgentSpec:
    """An agent with these settings; ``where`` begins what is said of a wrong one."""
    settings = {"reward": reward, **settings}
    kind = typed(settings.pop("kind", "agent"), Literal["agent", "control"], f"{where}: kind")
    if settings["reward"] == "shuffled":
        settings["reward"] = f"shuffled({reward})"
    config = _config(settings, where)
    if rewards.needs_discriminator(config.reward) and not rewards.needs_discriminator(reward):
        config = updated(config, {"reward": reward}, where)
    return AgentSpec(name=name, kind=kind, agent=config)


def _algorithm(name: str, sections: dict[str, Settings]) -> str:
    return str(sections.get("default", {}).get("algorithm", name))


def _merged(sections: dict[str, Settings], env_id: str) -> Settings:
    return {**sections.get("default", {}), **sections.get(env_id, {})}


def _read(path: Path) -> dict[str, dict[str, Settings]]:
    """Agents, their sections, and their settings. InputError where the file has another form."""
    agents = {}
    for name, sections in read_yaml(path).items():
        if isinstance(name, str) and name.startswith("x-"):
            continue
        if name in SECTIONS:  # RL-Zoo has a file for each algorithm
            raise InputError(
                f"{path}: {name} stands where an agent must; agents come first and environments below them, as in "
                f"ppo: {{{name}: {{learning_rate: 1.0e-3}}}}"
            )
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,59}", name):
            raise InputError(
                f"{path}: an agent's name must be up to 60 letters, digits, '_', '-' or '.', since folders are named "
                f"after it; got {name!r:.60}"
            )
        if name in FITTED:
            raise InputError(f"{path}: {name} is fitted to data and has no settings here; they are the comparison's")
        agents[name] = dict(_sections(sections, f"{path}: {name}"))
    return agents


def _sections(sections: Any, where: str) -> Iterator[tuple[str, Settings]]:
    if not isinstance(sections, dict):
        raise InputError(f"{where} must be a mapping of environments to settings, got {sections!r:.60}")
    for env_id, settings in sections.items():
        if env_id not in SECTIONS:
            hint = did_you_mean(str(env_id), list(SECTIONS))
            below = "" if isinstance(settings, dict) else "; settings stand below one of them"
            raise InputError(
                f"{where}: unknown environment {env_id!r:.60}{hint}; known are {', '.join(SECTIONS)}{below}"
            )
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise InputError(f"{where}, {env_id} must be a mapping of settings, got {settings!r:.60}")
        yield env_id, settings


def _config(settings: Settings, where: str) -> AgentConfig:
    """The settings as the agent's config, checked by making the agent on a tiny task."""
    for key, value in settings.items():
        if key in INSTEAD:
            raise InputError(f"{where}: {key} is not for a file here; {INSTEAD[key]}")
        if isinstance(value, str) and value.startswith("lin_"):
            raise InputError(
                f"{where}: {key} must be a number, got the schedule {value!r:.60}; step sizes stay the same"
            )
    ours = {key: value for key, value in settings.items() if key in FIELDS and key != "batch_size"}
    if "n_envs" in settings:
        ours["batch_size"] = typed(settings["n_envs"], int, f"{where}: n_envs")
        if ours["batch_size"] < 1:
            raise InputError(f"{where}: n_envs must be at least 1, got {settings['n_envs']}")
    options = {key: value for key, value in settings.items() if key not in FIELDS and key != "n_envs"}
    if "batch_size" in settings:
        options["batch_size"] = settings["batch_size"]
    config = updated(AgentConfig(), {**ours, "options": options}, where)
    factory = algorithms[config.algorithm]
    unread = [key for key in settings if key in SEQGAN_ONLY]
    if unread and config.algorithm != "seqgan" and factory.__module__ == algorithms["seqgan"].__module__:
        raise InputError(f"{where}: {config.algorithm} does not have {', '.join(unread)}; leave out what is SeqGAN's")
    try:
        _build(config)
    except InputError as error:
        raise InputError(f"{where}: {one_line(error, 600)}{_near_setting(options)}") from None
    except Exception as error:  # SB3 asserts what its arguments must be, and an algorithm may be anybody's
        raise InputError(f"{where}: {config.algorithm} cannot be made: {one_line(error)}") from error
    return config


def _build(config: AgentConfig) -> None:
    """Make the agent on a task of 2 words and 2 tokens, and drop it."""
    sizes = {"embedding_dim": 1, "hidden_dim": 1}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = algorithms[config.algorithm](
            AgentParts(
                config=config,
                generator=LSTMGenerator(2, 2, False, **sizes),
                generator_kwargs={"generator": "lstm", "generator_options": sizes, "has_eos": False},
                forbidden=(),
                real=lambda: torch.zeros(1, 2, dtype=torch.int64),
                make_env=lambda shaping: make_sb3_env(
                    ENVIRONMENTS[-1],
                    num_envs=min(config.batch_size, 64),
                    monitor=False,
                    vocab_size=2,
                    sequence_length=2,
                    shaping=shaping,
                ),
                rounds=1,
                device=torch.device("cpu"),
            )
        )
    if model.env is not None:
        model.env.close()


def _near_setting(options: Settings) -> str:
    """A hint where an option that no algorithm has is nearly a setting of the agent."""
    for key in options:
        near = difflib.get_close_matches(key, [*FIELDS, "n_envs"], n=1, cutoff=0.85)
        if near and key not in FIELDS:
            return f"; or did you mean the setting {near[0]!r}?"
    return ""
