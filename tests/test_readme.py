"""The README runs."""

import re
from pathlib import Path

import pytest

from seqgan_rl.adversarial import config
from seqgan_rl.core.config import updated

README = Path(__file__).parents[1] / "README.md"


def test_the_library_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Python block as printed, with smaller numbers so that it takes seconds."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    for large, small in (("vocab_size=50", "vocab_size=8, sequence_length=5"), ("20_000", "640"), ("64", "8")):
        assert large in code
        code = code.replace(large, small)
    tiny = updated(
        config.preset("quick"),
        {
            "data": {"vocab_size": 8, "sequence_length": 5, "train_size": 128, "test_size": 128},
            "mle": {"max_epochs": 1},
            "discriminator": {"pretrain_minibatches": 2},
            "agent": {"batch_size": 8, "num_rollouts": 2},
            "rounds": 2,
            "evaluation": {"every": 2, "samples": 64, "final_samples": 64},
        },
    )
    monkeypatch.setitem(config.PRESETS, "quick", tiny)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert all((README.parent / link).exists() for link in links)


def test_every_preset_is_in_the_readme() -> None:
    assert all(f"`{name}`" in README.read_text(encoding="utf-8") for name in config.PRESETS)
