"""Rewards of whole sequences: discriminator forms, oracle likelihoods, and the controls that a claim must beat."""

from seqgan_rl.rewards.base import Reward, rewards
from seqgan_rl.rewards.controls import ConstantReward, RandomReward, ShuffledReward
from seqgan_rl.rewards.discriminator import DiscriminatorReward
from seqgan_rl.rewards.oracle import OracleLogLikelihood, OracleLogRatio

__all__ = [
    "ConstantReward",
    "DiscriminatorReward",
    "OracleLogLikelihood",
    "OracleLogRatio",
    "RandomReward",
    "Reward",
    "ShuffledReward",
    "rewards",
]
