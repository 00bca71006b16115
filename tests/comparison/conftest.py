"""Tiny comparisons: seconds, not minutes."""

from typing import Any

from seqgan_rl.adversarial.config import RunConfig, preset
from seqgan_rl.comparison.experiment import CompareConfig, ExactTrack
from seqgan_rl.core.config import updated

TINY_RUN: dict[str, Any] = {
    "data": {"vocab_size": 20, "sequence_length": 6, "train_size": 512, "test_size": 128},
    "mle": {"max_epochs": 6},
    "discriminator": {"pretrain_minibatches": 20, "check_every": 10, "minibatches_per_round": 1},
    "evaluation": {"final_samples": 128},
    "controls": [],
}


def tiny_run(**changes: Any) -> RunConfig:
    """Settings of the runs, some changed."""
    return updated(updated(preset("quick"), TINY_RUN), changes)


def tiny_comparison(**changes: Any) -> CompareConfig:
    """A comparison of three agents on one task with one seed, some settings changed."""
    return CompareConfig(
        **{
            "agents": ("mle", "seqgan_advantage", "shuffled"),
            "seeds": 1,
            "budget": 800,
            "evaluations": 1,
            "exact": ExactTrack(tasks=("table",), vocab_size=3, sequence_length=3, budget=600),
            "run": tiny_run(),
            **changes,
        }
    )
