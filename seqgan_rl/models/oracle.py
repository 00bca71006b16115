"""The oracle: a frozen LSTM that writes the "real" data of the synthetic task and can score any sequence exactly.

Section "Synthetic Data Experiments" of Yu et al. (arXiv:1609.05473): an LSTM with weights from N(0, 1). Oracles differ
in entropy from seed to seed, so each is named by a hash of its arrays, and no two hashes belong in one ranking.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import check_file, one_line
from seqgan_rl.models.generator import LSTMGenerator

_GATES = "ifoc"
"""Input, forget, output, candidate: the order in :class:`LSTMGenerator` and in the published file's key names."""
_ALWAYS_ALLOWED = 2**27
"""Bytes that the arrays of any file may have."""


class Oracle:
    """A frozen generator of known distribution.

    Args:
        generator: the LSTM; it is switched to evaluation and its weights are frozen in place.
        source: where it is from, for reports ("seed 0", a file name).
    """

    def __init__(self, generator: LSTMGenerator, source: str) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.source = source
        digest = hashlib.sha256(f"start {generator.start_token}".encode())
        for name, parameter in sorted(generator.named_parameters()):
            digest.update(
                f"{name} {tuple(parameter.shape)}".encode() + parameter.detach().cpu().numpy().astype("<f4").tobytes()
            )
        self.hash: str = digest.hexdigest()[:16]

    @classmethod
    def from_seed(
        cls,
        seed: int,
        *,
        vocab_size: int = 5000,
        sequence_length: int = 20,
        embedding_dim: int = 32,
        hidden_dim: int = 32,
    ) -> "Oracle":
        """Weights from N(0, 1). The rule from seed to weights is frozen: numpy's legacy ``RandomState(seed)``, float64
        normals in the order of ``named_parameters``, each array in C order, rounded to float32."""
        check_task(vocab_size, sequence_length)
        if not 0 <= seed < 2**32:
            raise InputError(f"the oracle's seed must lie in [0, 2^32), got {seed}")
        generator = _unset(vocab_size, sequence_length, embedding_dim=embedding_dim, hidden_dim=hidden_dim)
        random_state = np.random.RandomState(seed)
        with torch.no_grad():
            for _, parameter in generator.named_parameters():
                parameter.copy_(torch.from_numpy(random_state.standard_normal(tuple(parameter.shape))))
        return cls(generator, f"seed {seed}")

    @classmethod
    def from_npz(cls, path: str | Path, *, sequence_length: int = 20) -> "Oracle":
        """The published oracle, or one of its form: arrays ``embedding``, ``Wi Ui bi`` (and f, o, c), ``V``, ``c``.

        Nothing in the file is executed: object arrays are refused. Raises InputError for anything but such a file.
        """
        path = Path(path)
        arrays = _read_arrays(path)
        embedding = _array(path, arrays, "embedding", (None, None))
        vocab_size, embedding_dim = embedding.shape
        hidden_dim = _array(path, arrays, "Ui", (None, None)).shape[0]
        if vocab_size < 2:
            raise InputError(
                f"oracle file {path}: vocab_size must be at least 2 words, got {vocab_size} in 'embedding'"
            )
        check_task(vocab_size, sequence_length)
        E, H, V = embedding_dim, hidden_dim, vocab_size
        gates = {
            form: np.concatenate([_array(path, arrays, form + gate, shape) for gate in _GATES], axis=-1)
            for form, shape in (("W", (E, H)), ("U", (H, H)), ("b", (H,)))
        }
        generator = _unset(V, sequence_length, embedding_dim=E, hidden_dim=H, start_token=0)
        weights = {
            "embedding": embedding,
            "input_weight": gates["W"],
            "recurrent_weight": gates["U"],
            "gate_bias": gates["b"],
            "output_weight": _array(path, arrays, "V", (H, V)),
            "output_bias": _array(path, arrays, "c", (V,)),
        }
        generator.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        return cls(generator, path.name)

    @property
    def vocab_size(self) -> int:
        """V; the oracle's sequences are of fixed length, without EOS."""
        return self.generator.num_actions

    @property
    def sequence_length(self) -> int:
        """T."""
        return self.generator.sequence_length

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.generator.device

    def to(self, device: torch.device | str) -> "Oracle":
        """Move the weights, as ``nn.Module.to`` does."""
        self.generator.to(device)
        return self

    def sample(self, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` sequences of the data distribution, int64, (n, T)."""
        return self.generator.sample(n, rng=rng)

    @torch.no_grad()
    def log_prob(self, tokens_BT: Tensor) -> Tensor:
        """Log-probability of every token given its prefix, nats, (B, T); computed in slices of bounded memory."""
        return torch.cat([self.generator.log_prob(part) for part in tokens_BT.split(4096)])

    def entropy(self, n: int = 9984, seed: int = 0) -> tuple[float, float]:
        """Monte-Carlo entropy, nats per token, and its standard error, from ``n`` own samples."""
        nll_B = -self.log_prob(self.sample(n, np.random.default_rng(seed))).mean(dim=1).double()
        return float(nll_B.mean()), float(nll_B.std() / n**0.5)

    def __repr__(self) -> str:
        return f"Oracle({self.source}, V={self.vocab_size}, T={self.sequence_length}, hash={self.hash})"


def check_task(vocab_size: int, sequence_length: int) -> None:
    """Raise InputError for a vocabulary of fewer than 2 words or sequences of fewer than 2 tokens."""
    if vocab_size < 2:
        raise InputError(f"vocab_size must be at least 2 words, got {vocab_size}")
    if sequence_length < 2:
        raise InputError(f"sequence_length must be at least 2 tokens, got {sequence_length}")


def _unset(*args: Any, **options: Any) -> LSTMGenerator:
    """A generator whose weights are about to be set: its own first draws leave torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        return LSTMGenerator(*args, **options)


def _read_arrays(path: Path) -> dict[str, Any]:
    """All arrays of an .npz file, without running any code in it."""
    try:
        num_bytes = check_file(path)
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"oracle file {path} holds one bare array; expected an .npz archive of named arrays")
            assert archive.zip is not None
            _check_members(archive.zip.infolist(), num_bytes)
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise InputError(f"oracle file {path} does not exist; give an .npz file or a seed (an integer)") from None
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in many ways: zlib.error, BadZipFile, EOFError, MemoryError...
        hint = "it may be damaged"
        if "pickle" in str(error).lower():
            hint = "or holds pickled objects, which are refused"
        elif isinstance(error, ValueError):
            hint = one_line(error)
        raise InputError(f"oracle file {path} is not an .npz archive of plain arrays ({hint})") from None


def _check_members(members: list[zipfile.ZipInfo], num_bytes: int) -> None:
    """ValueError where a small file would fill the memory; weights hardly compress."""
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("its arrays are compressed in a way that numpy does not write")
    if sum(member.file_size for member in members) > max(_ALWAYS_ALLOWED, 4 * num_bytes):
        raise ValueError("it would inflate to far more than its size")


def _array(path: Path, arrays: dict[str, Any], key: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """One finite float32 array of this shape (None: any size)."""
    if key not in arrays:
        raise InputError(
            f"oracle file {path} lacks the array {key!r}; it holds {', '.join(sorted(arrays))[:200] or 'nothing'}"
        )
    array = arrays[key]
    if not isinstance(array, np.ndarray):  # numpy hands out members without its header as bytes
        raise InputError(f"oracle file {path}: {key!r} is not an array; the file may be damaged")
    if array.dtype.kind != "f":
        raise InputError(f"oracle file {path}: array {key!r} must hold floats, got {array.dtype}")
    fits = array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    if not fits or array.size == 0:
        wanted = "(" + ", ".join("any" if want is None else str(want) for want in shape) + ")"
        raise InputError(f"oracle file {path}: array {key!r} must have shape {wanted}, got {array.shape}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"oracle file {path}: array {key!r} holds NaN or infinite values (as float32)")
    return array
