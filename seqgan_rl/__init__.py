"""SeqGAN as reinforcement learning: Gymnasium environments, a reference agent, the GAN loop.

Importing this package registers the environments ``SeqGAN/Oracle-v0``, ``SeqGAN/Corpus-v0`` and ``SeqGAN/Exact-v0``
and loads nothing heavy; public names are loaded when first used.
"""

import importlib
from typing import Any

from gymnasium.envs.registration import register

__version__ = "0.1.0"

_HOMES = {
    "ActorCritic": "seqgan_rl.agents.actor_critic",
    "AdversarialCallback": "seqgan_rl.adversarial.callback",
    "Corpus": "seqgan_rl.sequences",
    "GRPO": "seqgan_rl.agents.grpo",
    "GeneratorPolicy": "seqgan_rl.agents.policy",
    "InputError": "seqgan_rl.core.errors",
    "LSTMGenerator": "seqgan_rl.models.generator",
    "MaskableGeneratorPolicy": "seqgan_rl.agents.masked_policy",
    "ModelPolicy": "seqgan_rl.agents.model_policy",
    "Oracle": "seqgan_rl.models.oracle",
    "RLOO": "seqgan_rl.agents.rloo",
    "Reward": "seqgan_rl.rewards",
    "RunConfig": "seqgan_rl.adversarial.config",
    "SeqGAN": "seqgan_rl.agents.seqgan",
    "SequenceVAE": "seqgan_rl.models.vae",
    "TokenExtractor": "seqgan_rl.agents.extractor",
    "Vocabulary": "seqgan_rl.sequences",
    "evaluate": "seqgan_rl.adversarial.results",
    "generator_kwargs": "seqgan_rl.agents.warm_start",
    "generators": "seqgan_rl.models.generator",
    "make_sb3_env": "seqgan_rl.envs.sb3",
    "preset": "seqgan_rl.adversarial.config",
    "sample": "seqgan_rl.adversarial.results",
    "sample_sequences": "seqgan_rl.agents.sampling",
    "train": "seqgan_rl.adversarial.trainer",
    "warm_start": "seqgan_rl.agents.warm_start",
}
"""Public names and their modules. None may be the name of a subpackage, which would hide it once imported."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


for _name in ("Oracle", "Corpus", "Exact"):
    register(
        id=f"SeqGAN/{_name}-v0",
        entry_point=f"seqgan_rl.envs.environment:{_name}Env",
        vector_entry_point=f"seqgan_rl.envs.vector:{_name}VectorEnv",
    )
