"""Stable-Baselines3: PPO that starts from a generator pretrained by maximum likelihood.

The reward is the oracle's log-likelihood per token, which does not move, so the numbers show what PPO learned: within
seconds its sequences are likelier than real ones. They also become few: whoever maximises a fixed reward gives up
variety for it, which is why the number of different sequences stands beside the reward.

    python examples/warm_start_ppo.py --timesteps 20000
"""

import argparse
import time

import numpy as np
import torch
from stable_baselines3 import PPO

import seqgan_rl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=20_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=64)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
V, T = args.vocab_size, args.sequence_length

env = seqgan_rl.make_sb3_env(
    "SeqGAN/Oracle-v0", num_envs=args.num_envs, vocab_size=V, sequence_length=T, reward="oracle", shaping="none"
)
pretrained = env.get_attr("rollout_policy")[0]  # the environment's own: fitted to real sequences
model = PPO(
    seqgan_rl.GeneratorPolicy,
    env,
    gamma=1.0,
    n_steps=2 * T,
    batch_size=args.num_envs * T // 4,
    n_epochs=4,
    learning_rate=1e-3,
    policy_kwargs=seqgan_rl.generator_kwargs(pretrained),
    seed=args.seed,
    device="cpu",
)
seqgan_rl.warm_start(model, pretrained)


def judge() -> tuple[float, int]:
    """Of 512 fresh sequences: the oracle's log-likelihood per token, and how many are different."""
    tokens_NT = seqgan_rl.sample_sequences(model, 512, seed=args.seed)
    reward_N = env.get_attr("reward")[0](tokens_NT, torch.full((512,), T))
    return reward_N.mean().item(), len(tokens_NT.unique(dim=0))


before = judge()
start = time.perf_counter()
model.learn(args.timesteps)
seconds = time.perf_counter() - start
after = judge()

oracle = env.get_attr("task")[0].oracle
real_NT = oracle.sample(512, np.random.default_rng(args.seed))
print(f"mean sequence reward of real sequences: {oracle.log_prob(real_NT).mean():.4f}")
print(f"mean sequence reward: {before[0]:.4f} before, {after[0]:.4f} after")
print(f"different sequences of 512: {before[1]} before, {after[1]} after")
print(f"seconds of learning: {seconds:.0f}")
