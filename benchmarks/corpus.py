"""Loading a large text: seconds and peak memory at every level.

    python benchmarks/corpus.py [--lines 1000000 --level word]

Lines of 8 to 14 words, Zipf-distributed over 50,000 word types, are written to a temporary file; each level is loaded
in a process of its own, and its peak memory is that process's, Python and libraries included. Level "integer" reads
lines of 20 ids below 5,000. Wanted: 1,000,000 lines in less than 30 s and 2 GB.
"""

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LEVELS = ("word", "char", "bpe", "integer")


def write_text(path: Path, num_lines: int) -> None:
    """Zipf words, a full stop at the end."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for start in range(0, num_lines, 50_000):
            n = min(50_000, num_lines - start)
            words_NT, lengths_N = rng.zipf(1.3, (n, 14)) % 50_000, rng.integers(8, 15, n)
            for words, length in zip(words_NT.tolist(), lengths_N.tolist(), strict=True):
                file.write(" ".join(f"w{word}" for word in words[:length]) + ".\n")


def write_integers(path: Path, num_lines: int) -> None:
    """Uniform ids, the form of the published oracle data."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for start in range(0, num_lines, 50_000):
            for ids in rng.integers(0, 5_000, (min(50_000, num_lines - start), 20)).tolist():
                file.write(" ".join(map(str, ids)) + "\n")


def load(path: Path, level: str) -> None:
    """Load one corpus and print what it took."""
    from seqgan_rl.sequences import load_corpus

    options = {"sequence_length": 128, "drop_longer": True} if level == "char" else {}
    start = time.perf_counter()
    corpus = load_corpus(path, level=level, max_vocab=5_000, **options)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kilobytes on Linux
    print(
        f"{level:8} {sum(map(len, corpus.splits.values())):>10,} {corpus.vocabulary.vocab_size:>8,} "
        f"{corpus.sequence_length:>4} {seconds:>8.1f} {peak:>8.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--level", choices=LEVELS, action="append", help="one level; by default all of them")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load is not None:
        load(options.load, options.level[0])
        return
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {options.lines:,} lines")
    print(f"{'level':8} {'sequences':>10} {'V':>8} {'T':>4} {'seconds':>8} {'peak GB':>8}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        text, integers = Path(folder) / "text.txt", Path(folder) / "integers.txt"
        write_text(text, options.lines)
        write_integers(integers, options.lines)
        for level in options.level or LEVELS:
            path = integers if level == "integer" else text
            subprocess.run([sys.executable, __file__, "--load", str(path), "--level", level], check=True)


if __name__ == "__main__":
    main()
