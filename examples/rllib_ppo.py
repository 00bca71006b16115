"""RLlib: PPO on the registered id, with its default encoder on one-hot prefixes.

RLlib makes the native vector environment itself (``gym_env_vectorize_mode="vector_entry_point"``), from the id with
the module in front, so that it works in remote env runners too. The environment retrains its own discriminator
(``adversary="online"``): RLlib needs no callback. Each env runner has an environment and a discriminator of its own,
so use one.

    pip install "ray[rllib]"        # in an environment of its own: Ray pins Gymnasium
    python examples/rllib_ppo.py --timesteps 40000
"""

import argparse
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--timesteps", type=int, default=40_000)
parser.add_argument("--vocab-size", type=int, default=50)
parser.add_argument("--sequence-length", type=int, default=10)
parser.add_argument("--num-envs", type=int, default=32)
parser.add_argument("--num-env-runners", type=int, default=0, help="0: in this process; 1: in a process of its own")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
steps_per_iteration = 2 * args.sequence_length * args.num_envs
config = (
    PPOConfig()
    .environment(
        "seqgan_rl:SeqGAN/Oracle-v0",
        env_config={
            "vocab_size": args.vocab_size,
            "sequence_length": args.sequence_length,
            "observation": "onehot",
            "adversary": "online",
            "adversary_every": 64,
        },
    )
    .env_runners(
        num_env_runners=args.num_env_runners,
        num_envs_per_env_runner=args.num_envs,
        gym_env_vectorize_mode="vector_entry_point",
    )
    .training(
        gamma=1.0,  # the environment's; RLlib's default of 0.99 prefers other sequences
        lambda_=0.95,
        lr=1e-3,
        train_batch_size_per_learner=steps_per_iteration,
        minibatch_size=steps_per_iteration // 4,
        num_epochs=4,
        entropy_coeff=0.01,
        vf_clip_param=10.0,
    )
    .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[128, 128], vf_share_layers=False))
    .debugging(seed=args.seed, log_level="ERROR")
)
algorithm = config.build_algo()


def look(runner: Any) -> Any:
    """In an env runner: retrainings so far, and the oracle's log-likelihood per token of the last sequences."""
    if runner.env is None:  # the local runner, where there are remote ones
        return None
    env = runner.env.unwrapped
    tokens_NT = torch.from_numpy(np.stack(list(env.adversary.sequences)[-2 * env.num_envs :]))
    return env.adversary.retrainings, env.task.oracle.log_prob(tokens_NT).mean().item()


mean_rewards, looks = [], []  # shaped rewards sum to R(Y), so an episode's return is the reward of its sequence
for _ in range(max(1, args.timesteps // steps_per_iteration)):
    result = algorithm.train()
    mean_rewards.append(result["env_runners"]["episode_return_mean"])
    looks += [seen for seen in algorithm.env_runner_group.foreach_env_runner(look) if seen]
algorithm.stop()
ray.shutdown()

print(f"mean sequence reward: {mean_rewards[0]:.4f} before, {mean_rewards[-1]:.4f} after")
print(f"oracle log-likelihood per token: {looks[0][1]:.4f} before, {looks[-1][1]:.4f} after")
print(f"discriminator retrainings: {looks[-1][0]}")
