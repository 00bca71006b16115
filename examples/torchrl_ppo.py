"""TorchRL: ClipPPOLoss and a collector on the native vector environment.

TorchRL resets ended sub-environments itself, so the environment is made with ``autoreset_mode="Disabled"``, the mode
that TorchRL prefers (it refuses Gymnasium's default). The environment retrains its own discriminator
(``adversary="online"``), so this is a GAN although nothing below knows about one.

    pip install torchrl
    python examples/torchrl_ppo.py --timesteps 40000
"""

import argparse

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, RewardSum, TransformedEnv, check_env_specs
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import seqgan_rl  # noqa: F401 - registers the environments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=40_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

V, T, B = args.vocab_size, args.sequence_length, args.num_envs
frames = 2 * T * B  # two sequences of each sub-environment in a batch
torch.manual_seed(args.seed)


def network(outputs: int) -> nn.Module:
    """Tokens are names, not numbers: each is embedded, PAD (= V) too, and the embedded prefix is read by an MLP."""
    return nn.Sequential(Embedding(), nn.Linear(32 * T, 128), nn.Tanh(), nn.Linear(128, outputs))


class Embedding(nn.Embedding):
    """Prefixes (..., T) as features (..., 32 T)."""

    def __init__(self) -> None:
        super().__init__(V + 1, 32)

    def forward(self, prefixes: Tensor) -> Tensor:
        """Embed and flatten the last dimension."""
        return super().forward(prefixes).flatten(-2)


native = gym.make_vec(
    "SeqGAN/Oracle-v0",
    num_envs=B,
    vocab_size=V,
    sequence_length=T,
    autoreset_mode="Disabled",
    adversary="online",
    adversary_every=64,
)
oracle = native.unwrapped.task.oracle  # only to judge: the agent never sees it
env = TransformedEnv(GymWrapper(native, categorical_action_encoding=True), RewardSum())
env.set_seed(args.seed)
check_env_specs(env)

policy = ProbabilisticActor(
    TensorDictModule(network(V), in_keys=["observation"], out_keys=["logits"]),
    in_keys=["logits"],
    distribution_class=torch.distributions.Categorical,
    return_log_prob=True,
)
critic = ValueOperator(network(1), in_keys=["observation"])
advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)  # the environment's gamma
loss_module = ClipPPOLoss(policy, critic, entropy_coeff=0.01, critic_coeff=0.5, normalize_advantage=True)
optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)
collector = Collector(
    env,
    policy,
    frames_per_batch=frames,
    total_frames=max(1, args.timesteps // frames) * frames,
    auto_register_policy_transforms=True,
)

mean_rewards, oracle_scores = [], []
for batch in collector:
    is_end = batch["next", "done"].squeeze(-1)
    mean_rewards.append(batch["next", "episode_reward"][is_end].mean().item())  # shaped rewards sum to R(Y)
    oracle_scores.append(oracle.log_prob(batch["next", "observation"][is_end]).mean().item())
    for _ in range(4):
        with torch.no_grad():
            advantage(batch)
        rows = batch.flatten()
        for indices in torch.randperm(len(rows)).chunk(4):
            losses = loss_module(rows[indices])
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
            optimizer.step()
collector.shutdown()

print(f"mean sequence reward: {mean_rewards[0]:.4f} before, {mean_rewards[-1]:.4f} after")
print(f"oracle log-likelihood per token: {oracle_scores[0]:.4f} before, {oracle_scores[-1]:.4f} after")
print(f"discriminator retrainings: {native.unwrapped.adversary.retrainings}")
