"""Rewards of whole sequences: forms of D, BLEU, oracle likelihoods, and the controls that a claim must beat."""

from seqgan_rl.rewards.base import Reward, check_batch
from seqgan_rl.rewards.bleu import BLEUReward
from seqgan_rl.rewards.controls import ConstantReward, RandomReward, ShuffledReward
from seqgan_rl.rewards.discriminator import DiscriminatorReward, MaliGANReward
from seqgan_rl.rewards.mixture import MixtureReward
from seqgan_rl.rewards.names import formula_of, rewards, wrappers
from seqgan_rl.rewards.oracle import OracleLogLikelihood, OracleLogRatio
from seqgan_rl.rewards.rankgan import RankGANReward
from seqgan_rl.rewards.rescaled import NormalisedReward, RankReward

__all__ = [
    "BLEUReward",
    "ConstantReward",
    "DiscriminatorReward",
    "MaliGANReward",
    "MixtureReward",
    "NormalisedReward",
    "OracleLogLikelihood",
    "OracleLogRatio",
    "RandomReward",
    "RankGANReward",
    "RankReward",
    "Reward",
    "ShuffledReward",
    "check_batch",
    "formula_of",
    "rewards",
    "wrappers",
]
