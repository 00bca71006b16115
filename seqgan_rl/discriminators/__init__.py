"""Discriminators: networks that tell real sequences from generated ones, and how one is trained."""

from seqgan_rl.discriminators.adversary import Adversary
from seqgan_rl.discriminators.base import Discriminator, discriminators
from seqgan_rl.discriminators.cnn import CNNDiscriminator, paper_cnn, small_cnn
from seqgan_rl.discriminators.training import DiscriminatorConfig, DiscriminatorTrainer, auc, train_discriminator

__all__ = [
    "Adversary",
    "CNNDiscriminator",
    "Discriminator",
    "DiscriminatorConfig",
    "DiscriminatorTrainer",
    "auc",
    "discriminators",
    "paper_cnn",
    "small_cnn",
    "train_discriminator",
]
