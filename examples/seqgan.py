"""The reference SeqGAN agent, from an MLE start, against a discriminator retrained after every update.

    python examples/seqgan.py --timesteps 60000

On ``shaping="deferred"`` all rollouts of an episode run in one batch at its end.
"""

import argparse

import torch

import seqgan_rl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=60_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=64)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
V, T = args.vocab_size, args.sequence_length

env = seqgan_rl.make_sb3_env(
    "SeqGAN/Oracle-v0", num_envs=args.num_envs, vocab_size=V, sequence_length=T, shaping="deferred"
)
generator = env.get_attr("rollout_policy")[0]  # the environment's own MLE generator
model = seqgan_rl.SeqGAN("GeneratorPolicy", env, policy_kwargs=seqgan_rl.generator_kwargs(generator), seed=args.seed)
seqgan_rl.warm_start(model, generator)
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
