"""TorchRL takes the environments by id and checks their specs; examples/torchrl_ppo.py learns with it."""

from typing import Any

import pytest
import torch

torchrl_envs = pytest.importorskip("torchrl.envs", reason="needs the extra: pip install 'seqgan_rl[torchrl]'")

SIZES: dict[str, Any] = {"vocab_size": 8, "sequence_length": 4, "num_rollouts": 2}


@pytest.mark.parametrize("observation", ["tokens", "tokens_float32", "onehot", "dict", "last_token"])
def test_an_environment_by_id_passes_torchrls_check(observation: str) -> None:
    env = torchrl_envs.GymEnv("seqgan_rl:SeqGAN/Oracle-v0", observation=observation, **SIZES)
    torchrl_envs.check_env_specs(env, seed=0)
    played = env.rollout(4)
    assert played.batch_size == torch.Size([4])
    assert played["next", "terminated"].flatten().tolist() == [False] * 3 + [True]
    assert torch.isfinite(played["next", "reward"]).all()
    env.close()


def test_the_mask_reaches_torchrls_action_mask(small_text: str) -> None:
    """A thousand random actions under the mask, none of them UNK."""
    inner = torchrl_envs.GymEnv(
        "seqgan_rl:SeqGAN/Corpus-v0", corpus=small_text, min_count=2, observation="dict", shaping="none",
        categorical_action_encoding=True,
    )  # fmt: skip
    unk = inner.unwrapped.task.forbidden[0]
    env = torchrl_envs.TransformedEnv(inner, torchrl_envs.ActionMask())
    actions = torch.cat([env.rollout(6)["action"].flatten() for _ in range(250)])
    assert len(actions) > 500
    assert (actions != unk).all()
    assert len(actions.unique()) == inner.unwrapped.task.num_actions - 1
    env.close()
