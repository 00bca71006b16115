"""Every example runs to its end, and what it prints is meaningful."""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
TINY = ("--timesteps", "800", "--vocab-size", "12", "--sequence-length", "5", "--num-envs", "4")

NEEDS: dict[str, tuple[str, ...]] = {
    "contrib_maskable_ppo.py": ("sb3_contrib",),
    "contrib_qrdqn.py": ("sb3_contrib",),
    "contrib_recurrent_ppo.py": ("sb3_contrib",),
    "contrib_trpo.py": ("sb3_contrib",),
    "rllib_ppo.py": ("ray",),
    "sb3_a2c.py": (),
    "sb3_dqn.py": (),
    "sb3_ppo.py": (),
    "seqgan.py": (),
    "single_file_ppo.py": (),
    "torchrl_ppo.py": ("torchrl",),
    "warm_start_ppo.py": (),
}
"""What each example needs besides this package."""


def run(name: str, *arguments: str) -> str:
    """What an example prints; skips where a client is missing. Caches go where the tests' caches go."""
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}, which is not installed here")
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def before_and_after(what: str, printed: str) -> tuple[float, float]:
    """The two numbers of a line; both finite."""
    found = re.search(rf"^{what}: (\S+) before, (\S+) after$", printed, flags=re.MULTILINE)
    assert found, printed
    before, after = float(found[1]), float(found[2])
    assert math.isfinite(before)
    assert math.isfinite(after)
    return before, after


def test_every_example_is_run_here() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", sorted(set(NEEDS) - {"warm_start_ppo.py"}))
def test_a_gan_example_retrains_its_discriminator(name: str) -> None:
    """Rewards are probabilities, log-likelihoods of 12 words are negative, and the discriminator has been retrained."""
    printed = run(name, *TINY)
    assert all(0 < reward < 1 for reward in before_and_after("mean sequence reward", printed))
    assert all(score < 0 for score in before_and_after("oracle log-likelihood per token", printed))
    found = re.search(r"^discriminator retrainings: (\d+)$", printed, flags=re.MULTILINE)
    assert found, printed
    assert int(found[1]) >= 1
    if name == "contrib_maskable_ppo.py":
        assert "sequences with a token that follows itself: 0 of 512" in printed


def test_ppo_gets_better_from_its_warm_start() -> None:
    """The fixed reward of 512 sequences, standard error below 0.03, rises by more than 0.3 nats per token."""
    before, after = before_and_after(
        "mean sequence reward", run("warm_start_ppo.py", *TINY, "--timesteps", "6000", "--num-envs", "16")
    )
    assert after > before + 0.3
