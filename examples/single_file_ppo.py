"""PPO in one file of plain PyTorch, in CleanRL's manner, on the native vector environment.

Shows what an agent without any library needs: ``gym.make_vec``, the dead step after an end, and generalised advantages
that stop at ends. The environment retrains its own discriminator (``adversary="online"``), so this is a GAN although
nothing below knows about one.

    python examples/single_file_ppo.py --timesteps 60000

Letters: S steps of a rollout, B sub-environments, T tokens, V words.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

import seqgan_rl  # noqa: F401 - registers the environments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=60_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

V, T, B = args.vocab_size, args.sequence_length, args.num_envs
S = 2 * (T + 1)  # two sequences and the dead step after each
GAMMA, LAMBDA = 1.0, 0.95  # the environment's gamma is 1; any other discount prefers other sequences
EPOCHS, MINIBATCHES, LEARNING_RATE, CLIP, ENTROPY, VALUE = 4, 4, 1e-3, 0.2, 0.01, 0.5


class Agent(nn.Module):
    """Tokens are names, not numbers: each is embedded, PAD (= V) too, and the embedded prefix is read by an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Embedding(V + 1, 32), nn.Flatten(), nn.Linear(32 * T, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh()
        )
        self.actor, self.critic = nn.Linear(128, V), nn.Linear(128, 1)
        nn.init.orthogonal_(self.actor.weight, 0.01)

    def forward(self, prefixes_BT: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        """Distribution of the next token, and the value (B,)."""
        features_BF = self.body(prefixes_BT)
        return torch.distributions.Categorical(logits=self.actor(features_BF)), self.critic(features_BF).squeeze(1)


torch.manual_seed(args.seed)
envs = gym.make_vec(
    "SeqGAN/Oracle-v0", num_envs=B, vocab_size=V, sequence_length=T, adversary="online", adversary_every=64
)
oracle = envs.unwrapped.task.oracle  # only to judge: the agent never sees it
agent = Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)

obs_SBT, action_SB = torch.zeros(S, B, T, dtype=torch.int64), torch.zeros(S, B, dtype=torch.int64)
logp_SB, reward_SB, value_SB = torch.zeros(S, B), torch.zeros(S, B), torch.zeros(S + 1, B)
terminated_SB, ended_SB, is_dead_SB = (torch.zeros(S, B, dtype=torch.bool) for _ in range(3))
sequence_rewards: list[float] = []
oracle_scores: list[float] = []

observation, _ = envs.reset(seed=args.seed)
obs_BT, was_ended_B = torch.from_numpy(observation), torch.zeros(B, dtype=torch.bool)
for _ in range(max(1, args.timesteps // (S * B))):
    for s in range(S):
        with torch.no_grad():
            distribution, value_SB[s] = agent(obs_BT)
            action_SB[s] = distribution.sample()
            logp_SB[s] = distribution.log_prob(action_SB[s])
        obs_SBT[s] = obs_BT
        # NEXT_STEP autoreset: the step after an end ignores the action, pays 0 and returns the new start. It is no
        # transition of the task, so it is marked here and left out of the batch below.
        is_dead_SB[s] = was_ended_B
        observation, reward_B, terminated_B, truncated_B, infos = envs.step(action_SB[s].numpy())
        obs_BT, reward_SB[s] = torch.from_numpy(observation), torch.from_numpy(reward_B)
        terminated_SB[s] = torch.from_numpy(terminated_B)
        was_ended_B = ended_SB[s] = torch.from_numpy(terminated_B | truncated_B)
        if terminated_B.any():
            finished_RT = torch.from_numpy(infos["sequence"][terminated_B])
            sequence_rewards += infos["sequence_reward"][terminated_B].tolist()
            oracle_scores += oracle.log_prob(finished_RT).mean(dim=1).tolist()

    # Generalised advantages. Under NEXT_STEP the observation after an end is the last one of the old sequence, so
    # value_SB[s + 1] is always the value of the state that step s led to: 0 if terminated, bootstrapped if truncated.
    advantage_SB, next_advantage_B = torch.zeros(S, B), torch.zeros(B)
    with torch.no_grad():
        value_SB[S] = agent(obs_BT)[1]
    for s in reversed(range(S)):
        delta_B = reward_SB[s] + GAMMA * value_SB[s + 1] * ~terminated_SB[s] - value_SB[s]
        next_advantage_B = delta_B + GAMMA * LAMBDA * next_advantage_B * ~ended_SB[s]
        advantage_SB[s] = next_advantage_B
    return_SB = advantage_SB + value_SB[:S]

    is_real_R = ~is_dead_SB.flatten()  # from here on R rows, the dead ones left out
    obs_RT, action_R, logp_R, advantage_R, return_R = (
        column.flatten(0, 1)[is_real_R] for column in (obs_SBT, action_SB, logp_SB, advantage_SB, return_SB)
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(obs_RT)).chunk(MINIBATCHES):
            distribution, value_M = agent(obs_RT[rows])
            ratio_M = (distribution.log_prob(action_R[rows]) - logp_R[rows]).exp()
            scaled_M = (advantage_R[rows] - advantage_R[rows].mean()) / (advantage_R[rows].std() + 1e-8)
            policy_loss = -torch.min(ratio_M * scaled_M, ratio_M.clamp(1 - CLIP, 1 + CLIP) * scaled_M).mean()
            value_loss = 0.5 * (value_M - return_R[rows]).square().mean()
            loss = policy_loss + VALUE * value_loss - ENTROPY * distribution.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()

n = min(256, len(sequence_rewards) // 2)  # the first and the last sequences; each reward is D's of its time
print(f"mean sequence reward: {np.mean(sequence_rewards[:n]):.4f} before, {np.mean(sequence_rewards[-n:]):.4f} after")
print(
    f"oracle log-likelihood per token: {np.mean(oracle_scores[:n]):.4f} before, {np.mean(oracle_scores[-n:]):.4f} after"
)
print(f"discriminator retrainings: {envs.unwrapped.adversary.retrainings}")
