"""Words that a discriminator knows from the start: its embedding begins as the pretrained generator's.

Letters: V words, E embedding.
"""

import torch
from torch import Tensor, nn

from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators.base import Discriminator
from seqgan_rl.discriminators.ensemble import EnsembleDiscriminator
from seqgan_rl.discriminators.likelihood_ratio import LikelihoodRatioDiscriminator
from seqgan_rl.models.generator import Generator


@torch.no_grad()
def take_embedding(discriminator: Discriminator, generator: Generator) -> None:
    """Give a new discriminator, or every member of an ensemble, the generator's embedding of the words.

    The table is rescaled to the standard deviation that the discriminator's own initial values have, so that what
    differs is where the words lie to each other. EOS, which no generator reads, and PAD keep their initial rows.
    In a likelihood ratio the model of generated sequences becomes a copy of the generator, which it is to describe, and
    those of real ones take over its output bias, the frequencies of the words.

    Args:
        discriminator: changed in place; with a parameter ``embedding``, one row an action and perhaps one for PAD.
        generator: left as it is; with a parameter ``embedding``, one row an action and perhaps one for the start.

    Raises:
        InputError: where one of them has no such table, or their widths differ; nothing is changed then.
    """
    if isinstance(discriminator, LikelihoodRatioDiscriminator):
        return _take_model(discriminator, generator)
    networks = discriminator.members if isinstance(discriminator, EnsembleDiscriminator) else [discriminator]
    source_VE = _words(generator, generator, "generator")
    tables = [_words(network, generator, "discriminator") for network in networks]
    for table_VE in tables:
        if table_VE.shape != source_VE.shape:
            raise InputError(
                f"pretrained_embedding: the discriminator has {table_VE.shape[1]} numbers a word and the generator "
                f"{source_VE.shape[1]}; make network.embedding_dim and generator.embedding_dim (hidden_dim of a "
                "transformer) the same"
            )
    for table_VE in tables:
        own, given = (table.std(correction=0) for table in (table_VE, source_VE))
        table_VE.copy_(source_VE * (own / given.clamp_min(torch.finfo(given.dtype).tiny)))


def _take_model(discriminator: LikelihoodRatioDiscriminator, generator: Generator) -> None:
    weights, own = generator.state_dict(), discriminator.generated.state_dict()
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in own.items()}:
        raise InputError(
            "pretrained_embedding: a likelihood_ratio begins as a generator 'lstm' of its own sizes, which this "
            f"{type(generator).__name__} is not; give network and generator the same embedding_dim and hidden_dim, and "
            "leave start_from_word_0 off, or turn network.pretrained_embedding off"
        )
    discriminator.generated.load_state_dict(weights)
    for model in discriminator.models_of_real:
        model.output_bias.copy_(discriminator.generated.output_bias)


def _words(network: nn.Module, generator: Generator, kind: str) -> Tensor:
    """The rows of the words in a network's embedding, (V, E), a view. InputError where it has none."""
    embedding = getattr(network, "embedding", None)
    if not isinstance(embedding, nn.Parameter) or embedding.dim() != 2 or len(embedding) < generator.num_actions:
        raise InputError(
            f"pretrained_embedding: the {kind} {type(network).__name__} has no `embedding` with a row for each of the "
            f"{generator.num_actions} actions; turn network.pretrained_embedding off"
        )
    return embedding.data[: generator.num_actions - (generator.eos_id is not None)]
