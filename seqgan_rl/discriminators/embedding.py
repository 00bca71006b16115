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
    The models of real sequences of a likelihood ratio take over the generator's output bias, which holds the
    frequencies of the words, and nothing else: they are to differ.

    Args:
        discriminator: changed in place; with a parameter ``embedding``, one row an action and perhaps one for PAD.
        generator: left as it is; with a parameter ``embedding``, one row an action and perhaps one for the start.

    Raises:
        InputError: where one of them has no such table, or their widths differ; nothing is changed then.
    """
    if isinstance(discriminator, LikelihoodRatioDiscriminator):
        return _take_output_bias(discriminator, generator)
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


def _take_output_bias(discriminator: LikelihoodRatioDiscriminator, generator: Generator) -> None:
    bias_A = getattr(generator, "output_bias", None)
    if not isinstance(bias_A, Tensor) or len(bias_A) != discriminator.num_actions:
        raise InputError(
            "pretrained_embedding: a likelihood_ratio takes the generator's `output_bias`, a number an action, which "
            f"{type(generator).__name__} has not; turn network.pretrained_embedding off"
        )
    for model in discriminator.models_of_real:
        model.output_bias.copy_(bias_A)


def _words(network: nn.Module, generator: Generator, kind: str) -> Tensor:
    """The rows of the words in a network's embedding, (V, E), a view. InputError where it has none."""
    embedding = getattr(network, "embedding", None)
    if not isinstance(embedding, nn.Parameter) or embedding.dim() != 2 or len(embedding) < generator.num_actions:
        raise InputError(
            f"pretrained_embedding: the {kind} {type(network).__name__} has no `embedding` with a row for each of the "
            f"{generator.num_actions} actions; turn network.pretrained_embedding off"
        )
    return embedding.data[: generator.num_actions - (generator.eos_id is not None)]
