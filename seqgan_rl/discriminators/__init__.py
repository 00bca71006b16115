"""Discriminators: networks that tell real sequences from generated ones, and how one is trained."""

from seqgan_rl.discriminators.base import Discriminator, discriminators
from seqgan_rl.discriminators.cnn import CNNDiscriminator, paper_cnn, small_cnn
from seqgan_rl.discriminators.training import DiscriminatorConfig, DiscriminatorTrainer, auc

__all__ = [
    "CNNDiscriminator",
    "Discriminator",
    "DiscriminatorConfig",
    "DiscriminatorTrainer",
    "auc",
    "discriminators",
    "paper_cnn",
    "small_cnn",
]
