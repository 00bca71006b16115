"""sb3-contrib: RecurrentPPO against a discriminator retrained as it learns.

The observation is the whole prefix, embedded by ``TokenExtractor``, so the LSTM has nothing to remember that it does
not see; the example shows that the recurrent interface works.

    pip install sb3-contrib
    python examples/contrib_recurrent_ppo.py --timesteps 20000
"""

import argparse

import torch
from sb3_contrib import RecurrentPPO

import seqgan_rl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=20_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
V, T = args.vocab_size, args.sequence_length

env = seqgan_rl.make_sb3_env("SeqGAN/Oracle-v0", num_envs=args.num_envs, vocab_size=V, sequence_length=T)
model = RecurrentPPO(
    "MlpLstmPolicy",
    env,
    gamma=1.0,
    n_steps=2 * T,
    batch_size=args.num_envs * T // 2,
    n_epochs=4,
    learning_rate=1e-3,
    ent_coef=0.01,
    policy_kwargs={"features_extractor_class": seqgan_rl.TokenExtractor, "lstm_hidden_size": 64},
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
