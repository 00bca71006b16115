"""sb3-contrib: QR-DQN against a discriminator retrained as it learns.

As with DQN, the callback switches the environment to the terminal reward and relabels the replay buffer after every
retraining; ``TokenExtractor`` embeds the tokens.

    pip install sb3-contrib
    python examples/contrib_qrdqn.py --timesteps 20000
"""

import argparse

import torch
from sb3_contrib import QRDQN

import seqgan_rl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=20_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
V, T = args.vocab_size, args.sequence_length

env = seqgan_rl.make_sb3_env("SeqGAN/Oracle-v0", num_envs=args.num_envs, vocab_size=V, sequence_length=T)
model = QRDQN(
    "MlpPolicy",
    env,
    gamma=1.0,
    learning_starts=min(1_000, args.timesteps // 2),
    train_freq=T,
    gradient_steps=T,
    batch_size=128,
    buffer_size=20_000,
    learning_rate=1e-3,
    target_update_interval=500,
    exploration_fraction=0.5,
    policy_kwargs={"features_extractor_class": seqgan_rl.TokenExtractor, "n_quantiles": 25},
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
