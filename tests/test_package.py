"""The package as a whole: what importing costs, what it offers, and how one does not import it."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import seqgan_rl

ROOT = Path(seqgan_rl.__file__).parents[1]


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, started in the root of the checkout."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_importing_loads_neither_torch_nor_stable_baselines3() -> None:
    """Every spawned worker pays for the import; torch and SB3 load when first used."""
    done = run(
        "import sys, seqgan_rl, gymnasium\n"
        "assert 'SeqGAN/Oracle-v0' in gymnasium.registry\n"
        "dir(seqgan_rl)\n"
        "print([m for m in ('torch', 'stable_baselines3', 'tensorboard', 'matplotlib') if m in sys.modules])\n"
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_the_front_door_links_name_the_right_import(name: str) -> None:
    if not (ROOT / name).exists():
        pytest.skip("not a checkout with symbolic links")
    done = run(f"import {name}")
    assert done.returncode != 0
    assert f"ImportError: `{name}` is a link for readers; write `import seqgan_rl.{name}`" in done.stderr
    assert run(f"import seqgan_rl.{name}").returncode == 0


def test_every_public_name_resolves_and_stays_the_same_once_all_modules_are_loaded() -> None:
    """A public name that is also the name of a subpackage would change its meaning when that is imported."""
    first = {name: getattr(seqgan_rl, name) for name in seqgan_rl.__all__}
    for module in pkgutil.walk_packages(seqgan_rl.__path__, "seqgan_rl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert {name: getattr(seqgan_rl, name) for name in seqgan_rl.__all__} == first
    assert not any(type(value).__name__ == "module" for value in first.values())
    assert set(seqgan_rl.__all__) <= set(dir(seqgan_rl))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'SeqGun'"):
        _ = seqgan_rl.SeqGun


@pytest.mark.parametrize("name", ["Oracle", "Corpus", "Exact"])
def test_ids_are_registered_as_strings(name: str) -> None:
    """Entry points as strings survive JSON and pickling."""
    spec = gym.spec(f"SeqGAN/{name}-v0")
    assert spec.entry_point == f"seqgan_rl.envs.environment:{name}Env"
    assert spec.vector_entry_point == f"seqgan_rl.envs.vector:{name}VectorEnv"
    assert spec.kwargs == {}
    assert not spec.nondeterministic
