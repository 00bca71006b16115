"""The oracle: frozen rule, known numbers, and files that are not oracles."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqgan_rl.core.errors import InputError
from seqgan_rl.envs.exact import SequenceTree
from seqgan_rl.models.oracle import Oracle

torch.set_num_threads(1)

V, E, H = 7, 3, 4


def oracle_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A well-formed oracle file's arrays."""
    rng = np.random.default_rng(seed)
    arrays = {"embedding": rng.normal(size=(V, E)), "V": rng.normal(size=(H, V)), "c": rng.normal(size=V)}
    for gate in "ifoc":
        arrays |= {
            "W" + gate: rng.normal(size=(E, H)),
            "U" + gate: rng.normal(size=(H, H)),
            "b" + gate: rng.normal(size=H),
        }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


# ---------------------------------------------------------------- the seed-to-weights rule


@pytest.mark.parametrize(
    ("seed", "small", "large"),
    [
        (0, "07d08059885fdfcb", "c8657bf3c36ca325"),
        (1, "2d690203fb999ccf", "29063029caa735c6"),
        (7, "0b79ad9d7b832995", "75616f7634c4bb19"),
    ],
)
def test_the_rule_from_seed_to_weights_is_frozen(seed: int, small: str, large: str) -> None:
    """Published scores name these hashes; a change here makes every one of them unrepeatable."""
    assert Oracle.from_seed(seed, vocab_size=50, sequence_length=10).hash == small
    assert Oracle.from_seed(seed, vocab_size=5000).hash == large


def test_weights_are_standard_normal_and_frozen() -> None:
    oracle = Oracle.from_seed(0, vocab_size=500)
    weights = torch.cat([parameter.flatten() for parameter in oracle.generator.parameters()])
    assert float(weights.mean()) == pytest.approx(0, abs=0.02)
    assert float(weights.std()) == pytest.approx(1, abs=0.02)
    assert not oracle.generator.training
    assert not any(parameter.requires_grad for parameter in oracle.generator.parameters())


def test_making_an_oracle_moves_no_global_random_state(tmp_path: Path) -> None:
    np.savez(tmp_path / "oracle.npz", **oracle_arrays())  # type: ignore[arg-type]
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    Oracle.from_seed(3, vocab_size=5)
    Oracle.from_npz(tmp_path / "oracle.npz")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]  # noqa: NPY002


def test_entropy_estimate_agrees_with_enumeration() -> None:
    """Two-sided z-test against the exact entropy per token: false alarm 1e-6."""
    oracle, tree = Oracle.from_seed(2, vocab_size=4, sequence_length=4), SequenceTree(4, 4)
    logp_N = oracle.log_prob(tree.sequences()[0]).double().sum(dim=1)
    assert float(logp_N.exp().sum()) == pytest.approx(1, abs=1e-5)
    exact = -float((logp_N.exp() * logp_N).sum()) / 4
    estimate, error = oracle.entropy(4000)
    assert abs(estimate - exact) < 4.892 * error
    assert oracle.entropy(4000) == (estimate, error), "the same samples every time"


@pytest.mark.parametrize(
    ("sizes", "words"), [((1, 5), "vocab_size must be at least 2"), ((5, 1), "at least 2 tokens, got 1")]
)
def test_degenerate_tasks_are_refused(sizes: tuple[int, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Oracle.from_seed(0, vocab_size=sizes[0], sequence_length=sizes[1])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_an_impossible_seed_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match="seed must lie in"):
        Oracle.from_seed(seed, vocab_size=5)


# ---------------------------------------------------------------- the published oracle


def test_published_oracle_scores_as_published(benchmark_data: Callable[[str], Path]) -> None:
    """5.756 ± 0.012 nats per token on its own samples and 11.427 ± 0.017 on uniform tokens (seqgan.md, section 3).

    The tolerance is 4.892 standard errors of this sample and of the published one: false alarm 1e-6.
    """
    oracle, n = Oracle.from_npz(benchmark_data("oracle/seqgan_oracle.npz")), 5000
    assert (oracle.vocab_size, oracle.sequence_length, oracle.generator.start_token) == (5000, 20, 0)
    entropy, error = oracle.entropy(n, seed=1)
    assert 0.003 < error < 0.015
    assert abs(entropy - 5.756) < 4.892 * math.hypot(error, 0.012)
    uniform_BT = torch.from_numpy(np.random.default_rng(0).integers(5000, size=(n, 20)))
    nll_B = -oracle.log_prob(uniform_BT).mean(dim=1)
    assert abs(float(nll_B.mean()) - 11.427) < 4.892 * math.hypot(float(nll_B.std()) / n**0.5, 0.017)


# ---------------------------------------------------------------- files


def test_a_file_gives_the_gates_their_own_weights(tmp_path: Path) -> None:
    """One step by the textbook equations from the file's arrays, gate by gate."""
    a = oracle_arrays()
    np.savez(tmp_path / "oracle.npz", **a)  # type: ignore[arg-type]
    oracle = Oracle.from_npz(tmp_path / "oracle.npz", sequence_length=3)
    assert (oracle.vocab_size, oracle.sequence_length, oracle.source) == (V, 3, "oracle.npz")

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    hidden, cell, total, read = np.zeros(H), np.zeros(H), [], 0
    for token in (4, 1, 6):
        pre = {g: a["embedding"][read] @ a["W" + g] + hidden @ a["U" + g] + a["b" + g] for g in "ifoc"}
        cell = sigmoid(pre["f"]) * cell + sigmoid(pre["i"]) * np.tanh(pre["c"])
        hidden = sigmoid(pre["o"]) * np.tanh(cell)
        logits = hidden @ a["V"] + a["c"]
        total.append(logits[token] - np.log(np.exp(logits).sum()))
        read = token
    np.testing.assert_allclose(oracle.log_prob(torch.tensor([[4, 1, 6]]))[0].numpy(), total, atol=1e-5)


def test_the_hash_names_the_weights(tmp_path: Path) -> None:
    hashes: set[str] = set()
    for seed in (0, 0, 1):
        np.savez(tmp_path / f"{len(hashes)}.npz", **oracle_arrays(seed))  # type: ignore[arg-type]
        hashes.add(Oracle.from_npz(tmp_path / f"{len(hashes)}.npz").hash)
    changed = oracle_arrays()
    changed["bo"][2] += 1e-6
    np.savez_compressed(tmp_path / "changed.npz", **changed)  # type: ignore[arg-type]
    hashes.add(Oracle.from_npz(tmp_path / "changed.npz").hash)
    assert len(hashes) == 3


def nan_in_a_bias(a: dict[str, Any]) -> None:
    a["bf"][1] = np.nan


def too_large_for_float32(a: dict[str, Any]) -> None:
    a["c"] = np.full(V, 1e300)


def wrong_shape(a: dict[str, Any]) -> None:
    a["Uo"] = a["Uo"][:, :-1]


def wrong_rank(a: dict[str, Any]) -> None:
    a["embedding"] = a["embedding"][0]


def empty_array(a: dict[str, Any]) -> None:
    a["embedding"] = a["embedding"][:0]


def missing_key(a: dict[str, Any]) -> None:
    del a["Wc"]


def nothing_at_all(a: dict[str, Any]) -> None:
    a.clear()


def integers(a: dict[str, Any]) -> None:
    a["V"] = np.ones((H, V), dtype=np.int64)


def one_word(a: dict[str, Any]) -> None:
    a |= {"embedding": a["embedding"][:1], "V": a["V"][:, :1], "c": a["c"][:1]}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nan_in_a_bias, "'bf' holds NaN or infinite values"),
        (too_large_for_float32, "'c' holds NaN or infinite values"),
        (wrong_shape, r"'Uo' must have shape \(4, 4\), got \(4, 3\)"),
        (wrong_rank, r"'embedding' must have shape \(any, any\), got \(3,\)"),
        (empty_array, "'embedding' must have shape"),
        (missing_key, "lacks the array 'Wc'; it holds Uc, Uf, Ui"),
        (nothing_at_all, "lacks the array 'embedding'; it holds nothing"),
        (integers, "'V' must hold floats, got int64"),
        (one_word, "vocab_size must be at least 2 words, got 1"),
    ],
)
def test_a_file_that_is_no_oracle_is_refused_in_words(
    tmp_path: Path, damage: Callable[[dict], None], words: str
) -> None:
    arrays: dict[str, Any] = dict(oracle_arrays())
    damage(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=words) as raised:
        Oracle.from_npz(tmp_path / "bad.npz")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_archive_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "oracle.npz"
    with pytest.raises(InputError, match=r"oracle file .*oracle.npz does not exist; give an .npz file or a seed"):
        Oracle.from_npz(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="holds one bare array"):
        Oracle.from_npz(path)
    for content in (b"", b"hello", bytes(range(256)), b"PK\x03\x04 and then nothing"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is not an \.npz archive of plain arrays"):
            Oracle.from_npz(path)
    with pytest.raises(InputError, match=r"is not an \.npz archive"):
        Oracle.from_npz(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path: Path, save: Callable[..., None]) -> None:
    """200 files with flipped bytes or cut short: InputError, or the oracle where the byte did not matter."""
    path, rng = tmp_path / "oracle.npz", np.random.default_rng(0)
    save(path, **oracle_arrays())
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole))] if rng.random() < 0.2 else damaged)
        try:
            Oracle.from_npz(path)
        except InputError:
            refused += 1
    assert refused > 100


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    """Pickled objects in the archive, in a bare array, and as a bare pickle: refused, and the trap unsprung."""
    sprung, path = tmp_path / "sprung", tmp_path / "oracle.npz"
    trap = np.empty((V, E), dtype=object)
    trap[:] = Trap(sprung)
    contents = []
    np.savez(path, **(oracle_arrays() | {"embedding": trap}), allow_pickle=True)
    contents.append(path.read_bytes())
    with path.open("wb") as file:
        np.save(file, trap, allow_pickle=True)
    contents.append(path.read_bytes())
    contents.append(pickle.dumps(Trap(sprung)))
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(InputError, match="pickled objects, which are refused"):
            Oracle.from_npz(path)
        assert not sprung.exists()
    pickle.loads(contents[-1])
    assert sprung.exists(), "the trap works"
