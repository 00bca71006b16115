"""MaskableGeneratorPolicy: GeneratorPolicy's numbers, less what is masked; under MaskablePPO."""

import importlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback

from seqgan_rl import GeneratorPolicy, make_sb3_env
from seqgan_rl.core.streams import torch_seeded

contrib = pytest.importorskip("sb3_contrib")
from seqgan_rl.agents.masked_policy import MaskableGeneratorPolicy  # noqa: E402

torch.set_num_threads(1)

V, T = 4, 5  # with EOS: 5 actions, PAD = 5
A = V + 1
OPTIONS = {"embedding_dim": 4, "hidden_dim": 6, "init_std": 1.0}


def make_policy(cls: Any = MaskableGeneratorPolicy, seed: int = 0, **options: Any) -> Any:
    with torch_seeded(np.random.default_rng(seed)):
        policy = cls(
            spaces.Box(0, A, (T,), np.int64),
            spaces.Discrete(A),
            lambda _: 0.01,
            generator_options=OPTIONS,
            has_eos=True,
            **options,
        )
        torch.nn.init.normal_(policy.value_head.weight)
    policy.set_training_mode(False)
    return policy


def some_prefixes(n: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    is_read = np.arange(T) < rng.integers(0, T, size=n)[:, None]
    return torch.as_tensor(np.where(is_read, rng.integers(0, V, size=(n, T)), A))


def some_masks(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = rng.random((n, A)) < 0.5
    masks[np.arange(n), rng.integers(A, size=n)] = True
    return masks


def test_without_masks_it_is_the_generator_policy() -> None:
    masked, plain, obs_BT = make_policy(), make_policy(GeneratorPolicy), some_prefixes(12)
    actions_B, values_B1, logp_B = plain(obs_BT)
    for one, other in zip(masked(obs_BT), (actions_B, values_B1, logp_B), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(
        masked.evaluate_actions(obs_BT, actions_B), plain.evaluate_actions(obs_BT, actions_B), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert torch.equal(masked.predict_values(obs_BT), plain.predict_values(obs_BT))
    assert plain.samples_freely
    assert not masked.samples_freely


@pytest.mark.parametrize("kind", ["bool array", "int array", "float tensor", "bool tensor"])
def test_masked_probabilities_are_those_of_the_rest(kind: str) -> None:
    """Against GeneratorPolicy's probabilities, zeroed and divided by their sum; entropies by their definition."""
    obs_BT, masks = some_prefixes(30), some_masks(30)
    given: Any = {
        "bool array": masks,
        "int array": masks.astype(np.int8),
        "float tensor": torch.as_tensor(masks).float(),
        "bool tensor": torch.as_tensor(masks),
    }[kind]
    policy = make_policy()
    expected_BA = make_policy(GeneratorPolicy).get_distribution(obs_BT).distribution.probs.detach() * torch.as_tensor(
        masks
    )
    expected_BA /= expected_BA.sum(dim=1, keepdim=True)
    distribution = policy.get_distribution(obs_BT, given).distribution
    torch.testing.assert_close(distribution.probs, expected_BA, rtol=0, atol=1e-6)
    assert (distribution.probs[~torch.as_tensor(masks)] == 0).all()
    for a in range(A):
        _, logp_B, entropy_B = policy.evaluate_actions(obs_BT, torch.full((30,), a), given)
        torch.testing.assert_close(logp_B.exp(), expected_BA[:, a], rtol=0, atol=1e-6)
        assert torch.isneginf(logp_B[~torch.as_tensor(masks)[:, a]]).all()
        expected_entropy_B = -torch.where(expected_BA > 0, expected_BA * expected_BA.log(), 0.0).sum(dim=1)
        torch.testing.assert_close(entropy_B, expected_entropy_B, rtol=0, atol=1e-5)
    actions_B, _, logp_B = policy(obs_BT, action_masks=given)
    torch.testing.assert_close(logp_B.exp(), expected_BA.gather(1, actions_B[:, None]).squeeze(1), rtol=0, atol=1e-6)
    best_B, _ = policy.predict(obs_BT.numpy(), deterministic=True, action_masks=given)
    assert best_B.tolist() == expected_BA.argmax(dim=1).tolist()


def test_gradients_stay_finite_under_masks() -> None:
    policy, obs_BT, masks = make_policy(forbidden=(1,)), some_prefixes(30), some_masks(30)
    masks[:, 0] = True
    _, logp_B, entropy_B = policy.evaluate_actions(obs_BT, torch.zeros(30, dtype=torch.int64), masks)
    (logp_B.sum() + entropy_B.sum()).backward()
    gradients = [p.grad for p in policy.generator.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any((gradient != 0).any() for gradient in gradients)


def test_masked_actions_are_never_drawn() -> None:
    """Chi-square of 40,000 draws by ``forward`` and by ``predict``; false alarm 1e-6 each."""
    policy, n, allowed = make_policy(forbidden=(3,)), 40_000, np.array([0, 2])
    obs_BT = torch.tensor([[2, A, A, A, A]]).repeat(n, 1)
    masks = np.tile(np.array([1, 0, 1, 1, 0]), (n, 1))
    p_A = policy.get_distribution(obs_BT[:1], masks[:1]).distribution.probs[0].detach().double().numpy()
    for actions in (
        policy(obs_BT, action_masks=masks)[0].numpy(),
        policy.predict(obs_BT.numpy(), action_masks=masks)[0],
    ):
        counts = np.bincount(actions, minlength=A)
        assert counts[allowed].sum() == n
        assert stats.chisquare(counts[allowed], p_A[allowed] / p_A[allowed].sum() * n).pvalue > 1e-6


def test_one_prefix_takes_one_mask() -> None:
    policy = make_policy()
    action, _ = policy.predict(np.full(T, A), action_masks=np.arange(A) == 2)
    assert action == 2


def test_masks_that_leave_nothing_are_refused() -> None:
    policy, obs_BT, masks = make_policy(forbidden=(1,)), some_prefixes(3), np.ones((3, A), dtype=bool)
    masks[2] = np.arange(A) == 1  # allows what is forbidden, nothing else
    words = r"leave no action in row 2; at least one must be allowed that is not among the policy's forbidden \(1,\)"
    for call in (policy, policy.get_distribution, policy._predict):
        with pytest.raises(ValueError, match=words):
            call(obs_BT, action_masks=masks)
    with pytest.raises(ValueError, match=words):
        policy.evaluate_actions(obs_BT, torch.zeros(3, dtype=torch.int64), action_masks=masks)
    with pytest.raises(ValueError, match=r"action_masks must have shape \(3, 5\), got \(3, 4\)"):
        policy(obs_BT, action_masks=masks[:, :4])


def test_other_observations_are_refused_by_its_name() -> None:
    space = spaces.Dict({"action_mask": spaces.Box(0, 1, (A,), np.int8), "tokens": spaces.Box(0, A, (T,), np.int64)})
    with pytest.raises(ValueError, match=r"MaskableGeneratorPolicy reads prefixes, .* observation='tokens'"):
        MaskableGeneratorPolicy(space, spaces.Discrete(A), lambda _: 0.01)


class OldLogProbs(BaseCallback):
    """At the end of every rollout: noted log-probabilities are those of the policy that is trained, masks are kept."""

    worst = 0.0
    rollouts = 0

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        length = buffer.observations.shape[-1]
        obs = torch.as_tensor(buffer.observations.reshape(-1, length))
        actions, masks = torch.as_tensor(buffer.actions.reshape(-1)), buffer.action_masks.reshape(len(obs), -1)
        with torch.no_grad():
            _, logp, _ = self.model.policy.evaluate_actions(obs, actions, masks)  # type: ignore[operator]
        self.worst = max(self.worst, float((logp - torch.as_tensor(buffer.log_probs.reshape(-1))).abs().max()))
        assert (masks[np.arange(len(obs)), actions.long()] == 1).all()
        assert (masks == 0).any()
        self.rollouts += 1

    def _on_step(self) -> bool:
        return True


def test_maskable_ppo_trains_it_and_saves_it(small_text: str, tmp_path: Any) -> None:
    """On a corpus whose mask rules out UNK; rollouts of 4 steps cut sequences of 6: weights change in mid-episode."""
    env = make_sb3_env("SeqGAN/Corpus-v0", 6, corpus=small_text, min_count=2, reward="random", shaping="none")
    model = contrib.MaskablePPO(
        MaskableGeneratorPolicy,
        env,
        n_steps=4,
        batch_size=12,
        learning_rate=0.05,
        ent_coef=0.1,
        seed=0,
        device="cpu",
        policy_kwargs={"has_eos": True, "generator_options": OPTIONS},
    )
    before = {name: weight.clone() for name, weight in model.policy.generator.state_dict().items()}
    check = OldLogProbs()
    model.learn(6 * 4 * 6, callback=check)
    assert check.rollouts == 6
    assert check.worst < 1e-5
    assert any(not torch.equal(weight, before[name]) for name, weight in model.policy.generator.state_dict().items())

    model.save(tmp_path / "model.zip")
    again = contrib.MaskablePPO.load(tmp_path / "model.zip", device="cpu")
    assert isinstance(again.policy, MaskableGeneratorPolicy)
    obs_BT, masks = torch.as_tensor(env.reset()), np.stack(env.env_method("action_masks"))
    assert torch.equal(
        again.policy.get_distribution(obs_BT, masks).distribution.probs,
        model.policy.get_distribution(obs_BT, masks).distribution.probs,
    )


def test_playing_apart_leaves_no_trace() -> None:
    policy, obs_BT = make_policy(), some_prefixes(6)
    policy(obs_BT)
    cache, state = policy._cache, policy.rng.bit_generator.state
    with policy.apart(np.random.default_rng(7)):
        first = policy(obs_BT[:2])[0]
        assert policy._cache is not cache
    assert policy._cache is cache
    assert policy.rng.bit_generator.state == state
    with policy.apart(np.random.default_rng(7)):
        assert torch.equal(policy(obs_BT[:2])[0], first)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sb3_contrib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "seqgan_rl.agents.masked_policy")
    with pytest.raises(ImportError, match=r"pip install 'seqgan_rl\[contrib\]'"):
        importlib.import_module("seqgan_rl.agents.masked_policy")
