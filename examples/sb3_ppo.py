"""Stable-Baselines3: PPO, whose actor is a generator, against a discriminator retrained as it learns.

PPO is paid at every step by Monte-Carlo rollouts (the environment's default shaping), and its ``gamma`` is the
environment's. ``GeneratorPolicy`` reads tokens as names and decodes one token a step.

    python examples/sb3_ppo.py --timesteps 40000
"""

import argparse

import torch
from stable_baselines3 import PPO

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
model = PPO(
    seqgan_rl.GeneratorPolicy,
    env,
    gamma=1.0,
    n_steps=2 * T,
    batch_size=args.num_envs * T // 2,
    n_epochs=4,
    learning_rate=3e-3,
    seed=args.seed,
    device="cpu",
)
adversary = seqgan_rl.AdversarialCallback()


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
