"""Prefixes as features, for policies that are not generators: DQN, QR-DQN, RecurrentPPO, PPO with an MLP and others.

Letters: B sequences, T tokens each, A actions (PAD is A), E embedding, F features of a generator.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from seqgan_rl.models.generator import Generator, generators


class TokenExtractor(BaseFeaturesExtractor):
    """Embeds prefixes, finished sequences too; for ``policy_kwargs=dict(features_extractor_class=TokenExtractor)``.

    Args:
        observation_space: "tokens" or "tokens_float32" of the environments, or "dict", of which "tokens" is read.
        features: "flat": the embeddings of all T positions side by side, (B, T * E), where PAD has an embedding of its
            own; "generator": the hidden state of a generator that has read the prefix, (B, F): the same network as
            :class:`~seqgan_rl.agents.policy.GeneratorPolicy` has, trained by the algorithm.
        embedding_dim: E of "flat".
        generator, generator_options, has_eos: the generator of "generator", as of ``GeneratorPolicy``. It reads up to
            T + 1 symbols: the start and T tokens.

    Raises:
        ValueError: for an observation that is not of tokens, or an unknown name.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features: str = "flat",
        embedding_dim: int = 32,
        generator: str = "lstm",
        generator_options: dict[str, Any] | None = None,
        has_eos: bool = False,
    ) -> None:
        if features not in ("flat", "generator"):
            raise ValueError(f'features must be "flat" or "generator", got {features!r}')
        A, T = _token_sizes(observation_space)
        self.generator: Generator | None
        self.embedding: nn.Embedding | None
        if features == "flat":
            if embedding_dim < 1:
                raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
            super().__init__(observation_space, T * embedding_dim)
            self.embedding, self.generator = nn.Embedding(A + 1, embedding_dim), None
        else:
            network = generators[generator](A, T, has_eos, **(generator_options or {}))
            super().__init__(observation_space, network.initial_state(1)[0].shape[1])
            self.embedding, self.generator = None, network
        self.num_actions = A

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Features (B, features_dim), float32, of prefixes (B, T) of any dtype, or of a dict that holds them."""
        observed = observations["tokens"] if isinstance(observations, dict) else observations
        tokens_BT = observed.long()  # SB3 hands floats, exact for ids below 2^24
        if self.embedding is not None:
            flat: Tensor = self.embedding(tokens_BT).flatten(1)
            return flat
        assert self.generator is not None
        lengths_B = (tokens_BT != self.num_actions).sum(dim=1)
        # features[:, t] has read t tokens, so a whole sequence needs one column more
        longer_BT = nn.functional.pad(tokens_BT, (0, 1), value=self.num_actions)[:, : int(lengths_B.max()) + 1]
        rows_B = torch.arange(len(tokens_BT), device=tokens_BT.device)
        return self.generator.features(longer_BT)[rows_B, lengths_B]


def _token_sizes(space: spaces.Space[Any]) -> tuple[int, int]:
    """A and T of a space of prefixes."""
    tokens = space.spaces.get("tokens") if isinstance(space, spaces.Dict) else space
    if isinstance(tokens, spaces.Box) and len(tokens.shape) == 1:
        A = float(np.max(tokens.high))
        if (tokens.low == 0).all() and (tokens.high == A).all() and A.is_integer() and A >= 2:  # "onehot" reaches to 1
            return int(A), tokens.shape[0]
    raise ValueError(
        f"TokenExtractor reads prefixes, Box(0, A, (T,)) with PAD = A; got {space}; make the environment with "
        "observation='tokens'"
    )
