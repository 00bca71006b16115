"""sb3-contrib: MaskablePPO, whose actor is a generator, under a constraint on what may follow what.

Here no token may follow itself. MaskablePPO asks the environment for its ``action_masks()``, and the policy never takes
what they rule out. Rollouts of the environment, which only estimate values, do not know the rule.

    pip install sb3-contrib
    python examples/contrib_maskable_ppo.py --timesteps 40000
"""

import argparse

import numpy as np
import torch
from sb3_contrib import MaskablePPO

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


def differs_from_last(tokens_BT: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    """Which tokens may come next, bool, (B, V): all but the last one of each prefix."""
    last_B = tokens_BT[np.arange(len(tokens_BT)), np.maximum(lengths_B - 1, 0)]  # PAD = V where there is none yet
    return np.arange(V) != last_B[:, None]


env.env_method("set_constraint", differs_from_last)
model = MaskablePPO(
    seqgan_rl.MaskableGeneratorPolicy,
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
repeats_N = (seqgan_rl.sample_sequences(model, 512, seed=args.seed).diff(dim=1) == 0).any(dim=1)
print(f"sequences with a token that follows itself: {int(repeats_N.sum())} of 512")
