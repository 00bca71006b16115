"""Discriminators: networks that tell real sequences from generated ones, and how one is trained."""

from seqgan_rl.discriminators.adversary import Adversary
from seqgan_rl.discriminators.base import Discriminator, discriminators
from seqgan_rl.discriminators.causal_gru import CausalGRUDiscriminator
from seqgan_rl.discriminators.cnn import CNNDiscriminator, paper_cnn, small_cnn
from seqgan_rl.discriminators.diagnostics import auc, calibration_error, mean_per_position, spread
from seqgan_rl.discriminators.embedding import take_embedding
from seqgan_rl.discriminators.ensemble import EnsembleDiscriminator
from seqgan_rl.discriminators.gru import GRUDiscriminator
from seqgan_rl.discriminators.likelihood_ratio import LikelihoodRatioDiscriminator
from seqgan_rl.discriminators.training import DiscriminatorConfig, DiscriminatorTrainer, train_discriminator
from seqgan_rl.discriminators.transformer import TransformerDiscriminator

__all__ = [
    "Adversary",
    "CNNDiscriminator",
    "CausalGRUDiscriminator",
    "Discriminator",
    "DiscriminatorConfig",
    "DiscriminatorTrainer",
    "EnsembleDiscriminator",
    "GRUDiscriminator",
    "LikelihoodRatioDiscriminator",
    "TransformerDiscriminator",
    "auc",
    "calibration_error",
    "discriminators",
    "mean_per_position",
    "paper_cnn",
    "small_cnn",
    "spread",
    "take_embedding",
    "train_discriminator",
]
