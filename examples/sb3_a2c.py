"""Stable-Baselines3: A2C, whose actor is a generator, against a discriminator retrained as it learns.

A2C updates every ``n_steps``; here that is one sequence of every sub-environment. The discriminator is retrained after
every 64 sequences of the agent.

    python examples/sb3_a2c.py --timesteps 40000
"""

import argparse

import torch
from stable_baselines3 import A2C

import seqgan_rl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=40_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
V, T = args.vocab_size, args.sequence_length

env = seqgan_rl.make_sb3_env("SeqGAN/Oracle-v0", num_envs=args.num_envs, vocab_size=V, sequence_length=T)
model = A2C(
    seqgan_rl.GeneratorPolicy,
    env,
    gamma=1.0,
    n_steps=T,
    learning_rate=3e-3,
    seed=args.seed,
    device="cpu",
)
adversary = seqgan_rl.AdversarialCallback(every=64)


def judge() -> tuple[float, float]:
    """Of fresh sequences: the mean reward under the discriminator as it is now, which moves, and the oracle's
    log-likelihood per token, which does not and which the agent never sees."""
    tokens_NT = seqgan_rl.sample_sequences(model, 512, seed=args.seed)
    reward, oracle = env.get_attr("reward")[0], env.get_attr("task")[0].oracle
    lengths_N = torch.full((len(tokens_NT),), T)
    return reward(tokens_NT, lengths_N).mean().item(), oracle.log_prob(tokens_NT).mean().item()


before = judge()
model.learn(args.timesteps, callback=adversary)
after = judge()

print(f"mean sequence reward: {before[0]:.4f} before, {after[0]:.4f} after")
print(f"oracle log-likelihood per token: {before[1]:.4f} before, {after[1]:.4f} after")
print(f"discriminator retrainings: {adversary.retrainings}")
