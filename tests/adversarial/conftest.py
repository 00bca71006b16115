"""Runs so small that all of Algorithm 1, with every control, takes a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqgan_rl.adversarial import results, trainer
from seqgan_rl.adversarial.config import CONTROLS, RunConfig, preset
from seqgan_rl.core.config import updated

TINY: dict[str, Any] = {
    "data": {"vocab_size": 20, "sequence_length": 6, "train_size": 128, "test_size": 64},
    "generator": {"embedding_dim": 4, "hidden_dim": 4},
    "mle": {"max_epochs": 4, "patience": 1, "decays": 1, "learning_rate": 0.02},
    "network": {"widths": [1, 2], "filters": 4, "embedding_dim": 4, "token_dropout": 0.1},
    "discriminator": {
        "batch_size": 16,
        "pretrain_minibatches": 8,
        "pretrain_patience": 2,
        "check_every": 2,
        "minibatches_per_round": 2,
    },
    "agent": {"batch_size": 8, "num_rollouts": 2},
    "rounds": 4,
    "evaluation": {"every": 2, "samples": 64, "final_samples": 64},
    "controls": list(CONTROLS),
}


def tiny_config(**changes: Any) -> RunConfig:
    """The tiny settings with some changed."""
    return updated(updated(preset("quick"), TINY), changes)


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures (they have tests of their own, and take three quarters of a tiny run) and a short last control."""
    monkeypatch.setattr(results, "learning_curves", lambda *args: None)
    monkeypatch.setattr(results, "quality_coverage", lambda *args: None)
    monkeypatch.setattr(trainer, "CONTINUED_EPOCHS", 3)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., RunConfig]:
    """``tiny(rounds=2)``: the tiny settings with some changed."""
    return tiny_config


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short lines of different lengths with some rare words."""
    animals, ends = ("cat", "dog", "bird", "cow"), ("", " today", " in the rain", " .")
    lines = [f"the {a} sees {b}{end}" for a in animals for b in ("a ball", "the sea", "me", "you all") for end in ends]
    lines += [f"rare{i} word" for i in range(20)] + [f"a {a} , and a {b}" for a in animals for b in animals]
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
