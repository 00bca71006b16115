"""SeqGAN with the adversarial callback, round after round: memory stays, and the logs grow by the round only."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from seqgan_rl import AdversarialCallback, GeneratorPolicy, SeqGAN, make_sb3_env
from seqgan_rl.adversarial.run_folder import AgentWriter, MetricsLog, RunFolder, read_metrics
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import DiscriminatorConfig, discriminators

if TYPE_CHECKING:
    from tests.soak.conftest import Clock, Growth

torch.set_num_threads(1)

V, T, B = 4, 5, 8
ROUNDS = 2_000
"""At the least, in a whole soak."""
EVERY = 5
"""Rounds between two samples."""


class Watch(BaseCallback):
    """Samples memory and the sizes of the logs every ``EVERY`` rounds; stops when the time is over."""

    def __init__(self, folder: RunFolder, clock: "Clock", growth: "Growth") -> None:
        super().__init__()
        self.folder, self.clock, self.growth = folder, clock, growth
        self.rounds = 0
        self.sizes: list[tuple[int, int, int]] = []
        """Rounds, bytes of metrics.jsonl, bytes of TensorBoard events."""

    def _on_step(self) -> bool:
        return self.clock.has_time or self.rounds % EVERY > 0

    def _on_rollout_end(self) -> None:
        self.rounds += 1
        if self.rounds % EVERY:
            return
        mb = self.growth.sample(self.rounds)
        events = sum(path.stat().st_size for path in (self.folder / "tensorboard").rglob("events*"))
        self.sizes.append((self.rounds, (self.folder / "metrics.jsonl").stat().st_size, events))
        self.clock.tell(f"{self.rounds:,} rounds, {mb:.0f} MB", every=20)


def play(folder: RunFolder, watch: BaseCallback, steps: int) -> Any:
    """Train until the watch says stop, with the logs of a run."""
    with torch_seeded(np.random.default_rng(0)):
        discriminator = discriminators["small_cnn"](V + 1, T, widths=(1, 2), filters=4, embedding_dim=4)
    env = make_sb3_env(
        "SeqGAN/Exact-v0",
        B,
        reward="discriminator",
        discriminator=discriminator,
        shaping="deferred",
        vocab_size=V,
        sequence_length=T,
        variable_length=True,
        num_rollouts=2,
    )
    agent = SeqGAN(
        GeneratorPolicy,
        env,
        seed=0,
        device="cpu",
        policy_kwargs={"has_eos": True, "generator_options": {"embedding_dim": 4, "hidden_dim": 4}},
    )
    real_BT = torch.tensor([[0, 1, 2, 3, 0], [1, 1, 4, 5, 5], [2, 4, 5, 5, 5]])
    config = DiscriminatorConfig(batch_size=8, minibatches_per_round=1)
    log = MetricsLog(folder)
    agent.set_logger(Logger(None, [AgentWriter(log, "seqgan")]))
    agent.learn(steps, callback=[AdversarialCallback(real_BT, config), watch])
    log.close()
    env.close()
    return agent


def test_training_rounds(
    tmp_path: Path, clock: "Clock", growth: "Growth", record_property: Callable[[str, object], None]
) -> None:
    """Thousands of rounds of Algorithm 1 at a tiny size."""
    clock.take(0.2)
    folder = RunFolder(tmp_path)
    watch = Watch(folder, clock, growth)
    agent = play(folder, watch, 10**12)
    assert all(weight.isfinite().all() for weight in agent.policy.parameters())
    assert len(read_metrics(folder)) >= watch.rounds - 1
    if clock.seconds >= 0.2 * 3600:
        assert watch.rounds >= ROUNDS
    rounds_K, metrics_K, events_K = np.array(watch.sizes, dtype=np.float64).T
    lines = []
    for name, bytes_K in (("metrics.jsonl", metrics_K), ("events", events_K)):
        halves = [np.polyfit(part, size, 1)[0] for part, size in zip(*map(split, (rounds_K, bytes_K)), strict=True)]
        assert math.isclose(*halves, rel_tol=0.1), f"{name}: {halves[0]:.0f} bytes a round, then {halves[1]:.0f}"
        lines.append(f"{name} {halves[0]:.0f} then {halves[1]:.0f} bytes a round")
    again = Watch(RunFolder(tmp_path / "again"), clock, growth)  # stops after ``EVERY`` rounds, since the time is over
    again.folder.path.mkdir()
    line = growth.check("rounds", 1_000, lambda: play(again.folder, again, 10**12))
    record_property("summary", f"{watch.rounds:,} rounds; {', '.join(lines)}; {line}")


def split(series_K: np.ndarray) -> list[np.ndarray]:
    """Its two halves."""
    return [series_K[: len(series_K) // 2], series_K[len(series_K) // 2 :]]
