"""How the rollout reward grows with batch, rollouts, length and vocabulary, beside what the counts say.

    python benchmarks/growth.py [--threads 2 --repeats 3 --figure growth.png]

One size is varied at a time around B=16, T=20, V=5000, N=16 (the paper's generator and discriminator). Completing the
prefixes and scoring the completions are timed apart. Counts: completing draws B N T (T-1) / 2 tokens of V logits each
(the N completions of a prefix share their first distribution), scoring reads B (N (T-1) + 1) sequences.
"""

import argparse
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.discriminators import paper_cnn
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.rewards import DiscriminatorReward
from seqgan_rl.rollout import action_values

BASE = {"B": 16, "N": 16, "T": 20, "V": 5000}
SWEEPS = {"B": (8, 16, 32, 64), "N": (4, 8, 16, 32), "T": (10, 20, 30, 40), "V": (500, 5000, 20_000, 50_000)}


class TimedReward(DiscriminatorReward):
    """The discriminator's reward, and how long it took."""

    seconds = 0.0

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """See :meth:`Reward.score`."""
        start = time.perf_counter()
        result = super().score(tokens_BT, lengths_B)
        self.seconds += time.perf_counter() - start
        return result


def seconds_of(size: dict[str, int], repeats: int) -> tuple[float, float]:
    """Median seconds of completing and of scoring."""
    B, N, T, V = (size[name] for name in "BNTV")
    generator, reward = LSTMGenerator(V, T), TimedReward(paper_cnn(V, T).eval())
    rng = np.random.default_rng(0)
    tokens_BT, lengths_B = generator.sample(B, rng=rng), torch.full((B,), T)
    uniforms = torch.from_numpy(rng.random((B, T - 1, N, T), dtype=np.float32))
    completing, scoring = [], []
    for _ in range(repeats + 1):
        reward.seconds, start = 0.0, time.perf_counter()
        action_values(generator, reward, tokens_BT, lengths_B, uniforms)
        scoring.append(reward.seconds)
        completing.append(time.perf_counter() - start - reward.seconds)
    return statistics.median(completing[1:]), statistics.median(scoring[1:])  # the first is a warm-up


def counts(size: dict[str, int]) -> tuple[float, float]:
    """Logits drawn from, and sequences scored."""
    B, N, T, V = (size[name] for name in "BNTV")
    tokens = B * N * (T - 1) * (T - 2) / 2 + B * (T - 1)  # the first of N is shared
    return tokens * V, B * (N * (T - 1) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="also draw it, to this .png or .svg")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}; around {BASE}; seconds, and")
    print("in brackets the ratio to the line before beside the ratio of the counts\n")
    measured: dict[str, list[tuple[int, float, float]]] = {}
    print("|    size | completing |  time, count | scoring |  time, count |")
    print("|--------:|-----------:|-------------:|--------:|-------------:|")
    for name, values in SWEEPS.items():
        rows = measured[name] = []
        before: dict[str, int] | None = None
        for value in values:
            size = BASE | {name: value}
            rows.append((value, *seconds_of(size, options.repeats)))
            growth = ["", ""]
            if before is not None:
                times = [now / then for now, then in zip(rows[-1][1:], rows[-2][1:], strict=True)]
                expected = [now / then for now, then in zip(counts(size), counts(before), strict=True)]
                growth = [f"{t:.2f}, {e:.2f}" for t, e in zip(times, expected, strict=True)]
            before = size
            print(
                f"| {name}={value:<6}| {rows[-1][1]:10.3f} | {growth[0]:>12} | {rows[-1][2]:7.3f} | {growth[1]:>12} |",
                flush=True,
            )
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    if options.figure is not None:
        draw(measured, options.figure)


def draw(measured: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Four panels, one a size: seconds of both parts, logarithmic, and the counts through the first point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.2), constrained_layout=True)
    for axis, (name, rows) in zip(axes, measured.items(), strict=True):
        values = [row[0] for row in rows]
        for part, label in enumerate(("completing", "scoring")):
            seconds = [row[1 + part] for row in rows]
            expected = [counts(BASE | {name: value})[part] for value in values]
            (line,) = axis.plot(values, seconds, "o-", label=label)
            axis.plot(values, [seconds[0] * e / expected[0] for e in expected], ":", color=line.get_color())
        axis.set(xscale="log", yscale="log", xlabel=name, title=f"seconds over {name}")
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
    axes[0].legend(title="dotted: by count")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
