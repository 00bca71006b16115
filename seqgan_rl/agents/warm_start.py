"""Warm start: a pretrained generator moves into the networks of a Stable-Baselines3 model, whatever its algorithm."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from seqgan_rl.agents.extractor import TokenExtractor
from seqgan_rl.agents.policy import GeneratorActorCritic
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import Generator, generators

M = TypeVar("M", bound=BaseAlgorithm)
_DRAWN_WITH = ("init_std",)
"""Options that say how weights were first drawn, not what the network computes."""


def warm_start(model: M, generator: Generator | str | Path) -> M:
    """Copy a pretrained generator into every place of the model's policy that can hold it.

    A generator policy (SeqGAN, PPO, A2C, TRPO, MaskablePPO) then has exactly the generator's probabilities. Of a
    :class:`~seqgan_rl.agents.extractor.TokenExtractor`, wherever it stands (DQN: online and target network),
    "generator" takes the whole network and "flat" its embedding table. The optimiser starts afresh at its learning
    rate, kept decoding states are dropped, and SeqGAN's ``reference`` for the KL is taken anew.

    Args:
        model: changed in place; later changes of the generator do not reach it.
        generator: a :class:`Generator`, or the path of one that ``save_model`` wrote.

    Returns:
        The same model.

    Raises:
        ValueError: where kinds or sizes differ or the policy has no place for a generator; nothing is changed then.
    """
    source = generator if isinstance(generator, Generator) else load_model(generator, generators)
    policy = model.policy
    extractors = [module for module in policy.modules() if isinstance(module, TokenExtractor)]
    holders = [getattr(part, "generator", None) for part in (policy, *extractors)]
    targets = [holder for holder in holders if isinstance(holder, Generator)]
    tables = [extractor.embedding.weight for extractor in extractors if extractor.embedding is not None]
    if not targets and not tables:
        raise ValueError(
            f"the {type(policy).__name__} of this {type(model).__name__} has no place for a generator; use "
            "GeneratorPolicy, or policy_kwargs=dict(features_extractor_class=TokenExtractor)"
        )
    for target in targets:
        _check_same_network(target, source)
    for table in tables:
        _check_same_table(table, source)

    with torch.no_grad():
        for target in targets:
            target.load_state_dict(source.state_dict())
        for table in tables:
            table.copy_(_embedding(source))
    optimizer = getattr(policy, "optimizer", None)
    if optimizer is not None:
        optimizer.state.clear()
    if isinstance(policy, GeneratorActorCritic):
        policy.forget()
    if isinstance(model, SeqGAN):
        model.reference = None
    return model


def generator_kwargs(generator: Generator) -> dict[str, Any]:
    """The ``policy_kwargs`` that give a generator policy, or the ``features_extractor_kwargs`` (with
    ``features="generator"``) that give a ``TokenExtractor``, the same network as this generator.

    >>> from seqgan_rl.models.generator import LSTMGenerator
    >>> generator_kwargs(LSTMGenerator(5, 4, hidden_dim=8))["generator_options"]["hidden_dim"]
    8

    Raises:
        ValueError: if the generator's class is not registered.
    """
    identity = (type(generator).__module__, type(generator).__qualname__)  # a notebook's cell may have been run again
    names = [name for name in generators if _identity(generators[name]) == identity]
    if not names:
        raise ValueError(
            f"{type(generator).__name__} is not a registered generator; put @generators.register(name) above the class"
        )
    task = ("num_actions", "sequence_length", "has_eos")
    options = {name: value for name, value in generator.config.items() if name not in task}
    return {"generator": names[0], "generator_options": options, "has_eos": generator.eos_id is not None}


def _identity(factory: Any) -> tuple[str | None, str | None]:
    return getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)


def _check_same_network(target: Generator, source: Generator) -> None:
    """ValueError unless both compute the same function of the same weights."""
    ours, theirs = ({"class": type(network).__name__, **network.config} for network in (target, source))
    differing = [n for n in {**ours, **theirs} if n not in _DRAWN_WITH and ours.get(n) != theirs.get(n)]
    if not differing:
        return
    parts = [", ".join(f"{name}={config.get(name)!r}" for name in differing) for config in (ours, theirs)]
    is_other_task = not {"num_actions", "sequence_length"}.isdisjoint(differing)
    raise ValueError(
        f"the model's generator and the one given differ: {parts[0]} in the model, {parts[1]} given; "
        + (
            "they are of different tasks, pretrain one on this vocabulary and length"
            if is_other_task
            else "make the model with policy_kwargs=generator_kwargs(generator), or for TokenExtractor "
            'features_extractor_kwargs={"features": "generator", **generator_kwargs(generator)}'
        )
    )


def _check_same_table(table: Tensor, source: Generator) -> None:
    """ValueError unless the generator has an embedding of this size: one row an action, then PAD."""
    embedding = _embedding(source)
    found = None if embedding is None else tuple(embedding.shape)
    if found != tuple(table.shape) or source.num_actions != len(table) - 1:
        raise ValueError(
            f"the TokenExtractor's table has {tuple(table.shape)} (actions and PAD, embedding_dim), the embedding of "
            f"the {type(source).__name__} with {source.num_actions} actions {found}; choose embedding_dim as it has "
            '(and a generator with start_token=None), or features="generator"'
        )


def _embedding(source: Generator) -> Any:
    """The embedding table of a generator, or None."""
    embedding = getattr(source, "embedding", None)
    return embedding.weight if isinstance(embedding, nn.Embedding) else embedding
