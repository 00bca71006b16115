"""Models as files: what is read back, and what is refused before anything large is made."""

from pathlib import Path

import pytest
import torch

from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import LSTMGenerator, generators


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    generator = LSTMGenerator(7, 4, has_eos=True, hidden_dim=3, start_token=0)
    save_model(tmp_path / "model", generator, "lstm")
    again = load_model(tmp_path / "model", generators)
    assert again.config == generator.config
    assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(("name", "value"), [("hidden_dim", 10**7), ("num_actions", 10**9), ("embedding_dim", 5)])
def test_a_config_larger_than_its_weights_is_refused_unmade(tmp_path: Path, name: str, value: int) -> None:
    """A file of a few bytes must not make a network that fills the memory."""
    save_model(tmp_path / "model", LSTMGenerator(7, 4), "lstm")
    state = load_state(tmp_path / "model")
    state["config"][name] = value
    save_state(tmp_path / "model", state)
    with pytest.raises(InputError, match="does not hold a generator: its config wants"):
        load_model(tmp_path / "model", generators)


def test_an_unknown_name_is_refused_with_a_hint(tmp_path: Path) -> None:
    save_model(tmp_path / "model", LSTMGenerator(7, 4), "lsmt")
    with pytest.raises(InputError, match=r"unknown generator 'lsmt' \(did you mean 'lstm'\?\)"):
        load_model(tmp_path / "model", generators)
