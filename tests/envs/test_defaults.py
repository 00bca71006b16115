"""Default weights: the shipped ones are whole and useful, others are fitted once and cached."""

import gc
import hashlib
import json
import weakref
from importlib import resources
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.core.errors import InputError
from seqgan_rl.discriminators.training import auc
from seqgan_rl.envs import defaults
from seqgan_rl.models.oracle import Oracle

torch.set_num_threads(1)

FOLDER = Path(str(resources.files("seqgan_rl.envs"))) / "defaults"


@pytest.fixture
def manifest() -> dict[str, Any]:
    if not (FOLDER / "manifest.json").is_file():
        pytest.skip("no shipped weights; make them with `python -m seqgan_rl.envs.defaults`")
    result: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text())
    return result


def test_shipped_weights_match_their_hashes_and_are_small(manifest: dict[str, Any]) -> None:
    files = {entry["file"] for entry in manifest["models"].values()}
    for entry in manifest["models"].values():
        assert hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert {path.name for path in FOLDER.iterdir()} == files | {"manifest.json"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3e6
    assert manifest["recipe"] == defaults.RECIPE


@pytest.mark.parametrize("env_id", ["SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0"])
def test_default_sizes_are_served_by_shipped_weights(
    env_id: str, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is fitted and nothing is written; a stale manifest would fit for minutes."""
    monkeypatch.setenv("SEQGAN_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(defaults, "LikelihoodTrainer", None)
    monkeypatch.setattr(defaults, "DiscriminatorTrainer", None)
    env = gym.make(env_id, device="cpu", num_rollouts=1).unwrapped
    env.reset(seed=0)
    reward = env.step(np.int64(0))[1]
    assert 0 < float(reward) < 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("env_id", ["SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0"])
def test_the_default_discriminator_tells_real_from_fake(env_id: str, manifest: dict[str, Any]) -> None:
    """AUC > 0.55 on 2,000 fresh oracle samples (or the lines that the fit never saw) against as many of the default
    generator. Standard error about 0.01 (oracle): one without a signal passes once in 10^7."""
    env = gym.make(env_id, num_rollouts=1).unwrapped
    task, rng = env.task, np.random.default_rng(1)  # type: ignore[attr-defined]
    if task.oracle is not None:
        real_BT: Tensor = task.oracle.sample(2000, rng)
    else:
        real_BT = torch.tensor(np.concatenate([task.corpus.valid.tokens_NT, task.corpus.test.tokens_NT]))
    fake_BT = env.rollout_policy.sample(2000, forbidden=task.forbidden, rng=rng)  # type: ignore[attr-defined]
    discriminator = env.reward.discriminator  # type: ignore[attr-defined]
    assert auc(discriminator.score(real_BT), discriminator.score(fake_BT)) > 0.55


def test_other_sizes_are_fitted_once_and_then_read_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEQGAN_RL_CACHE", str(tmp_path))
    oracle = Oracle.from_seed(77, vocab_size=6, sequence_length=3)
    first = defaults.oracle_parts(oracle, effort=0.2)
    discriminator = first.discriminator("small_cnn")
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(defaults, "LikelihoodTrainer", None)
    monkeypatch.setattr(defaults, "DiscriminatorTrainer", None)
    again = defaults.oracle_parts(oracle, effort=0.2)
    tokens_BT = oracle.sample(8, np.random.default_rng(0))
    assert torch.equal(again.generator.log_prob(tokens_BT), first.generator.log_prob(tokens_BT))
    assert torch.equal(again.discriminator("small_cnn").score(tokens_BT), discriminator.score(tokens_BT))
    assert not any(parameter.requires_grad for parameter in again.generator.parameters())


def test_damaged_shipped_weights_are_refused(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "defaults").mkdir()
    for path in FOLDER.iterdir():
        (tmp_path / "defaults" / path.name).write_bytes(
            path.read_bytes()[:-1] + b"\0" if path.suffix != ".json" else path.read_bytes()
        )
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(defaults, "_PARTS", {})  # those of this process are read already
    with pytest.raises(InputError, match="are damaged; install seqgan_rl again"):
        _ = defaults.oracle_parts(Oracle.from_seed(0)).generator


def test_environments_of_one_task_share_their_parts_whatever_their_shaping() -> None:
    one, other = (gym.make("SeqGAN/Oracle-v0", shaping=shaping).unwrapped for shaping in ("rollout", "none"))
    assert one.reward.discriminator is other.reward.discriminator  # type: ignore[attr-defined]


def test_a_process_does_not_gather_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over oracles lets go of the first ones; what is used again and again is kept."""
    monkeypatch.setattr(defaults, "_PARTS", {})
    kept = defaults.oracle_parts(Oracle.from_seed(0, vocab_size=4, sequence_length=3))
    first = weakref.ref(defaults.oracle_parts(Oracle.from_seed(1, vocab_size=4, sequence_length=3)))
    for seed in range(2, defaults.MAX_PARTS + 2):
        defaults.oracle_parts(Oracle.from_seed(seed, vocab_size=4, sequence_length=3))
        assert defaults.oracle_parts(Oracle.from_seed(0, vocab_size=4, sequence_length=3)) is kept
    gc.collect()
    assert len(defaults._PARTS) == defaults.MAX_PARTS
    assert first() is None
