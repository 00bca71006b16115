"""The fused kernel: its draws are those of the CPU path, in Triton's interpreter; and it compiles for real GPUs.

Triton decides at import whether it interprets, so each kind runs in a process of its own; the tests read its answers.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seqgan_rl.models.sampling import padded_size, pick_from_logits

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (`pip install 'seqgan_rl[gpu]'`)"
)

ALLOWED = 1e-5
"""How near to a CDF edge a uniform must lie for the two paths to differ."""

INTERPRETED = """
import sys, torch
from seqgan_rl.models.triton_pick import draw
cases = torch.load(sys.argv[1])
torch.save({name: draw(*case) for name, case in cases.items()}, sys.argv[2])
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from seqgan_rl.models import triton_pick
pointers = dict.fromkeys(["hidden", "weight", "largest", "sums", "uniforms"], "*fp32")
types = pointers | {"picks": "*i64", "is_valid": "*i8"} | dict.fromkeys("RHVKN", "i32")
constants = {"M": triton_pick.ROWS, "C": 64, "PADDED_H": 32, "NUM_BLOCKS": triton_pick.BLOCKS, "PADDED_K": 128}
for kernel in (triton_pick._sum_blocks, triton_pick._pick):
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    values = {name: constants[name] for name in kernel.arg_names if name in constants}
    for capability in (80, 90):
        source = ASTSource(fn=kernel, signature=signature, constexprs=values)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert compiled.metadata.shared <= 48 * 1024, compiled.metadata.shared
        assert "tf32" not in compiled.asm["ptx"]
        print(capability, kernel.__name__, len(compiled.asm["cubin"]))
"""


def run_apart(code: str, *arguments: str, **environment: str) -> str:
    """Standard output of Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# name: rows, draws of each, hidden units, classes, standard deviation of the logits' weights
SIZES = {
    "one row": (1, 1, 32, 5000, 0.3),
    "many rows": (70, 1, 32, 130, 0.5),
    "odd units": (5, 3, 7, 1000, 1.0),
    "one unit over a power of two": (17, 1, 33, 64, 0.5),
    "two classes": (3, 2, 1, 2, 1.0),
    "a block and one": (16, 2, 12, 65, 3.0),
}
NOT_DISTRIBUTIONS = {"nan": torch.nan, "infinite": torch.inf, "nothing allowed": -torch.inf}


def make_case(R: int, N: int, H: int, V: int, std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weights with the bias as last row and token 1 forbidden, padded; uniforms with both ends."""
    rng = torch.Generator().manual_seed(V)
    hidden_RH = torch.randn(R, H, generator=rng).tanh()
    weight_IV = torch.randn(H + 1, V, generator=rng) * std
    if V > 2:
        weight_IV[-1, 1] = -torch.inf
    padding = (0, padded_size(V) - V)
    weight_IV = torch.cat(
        [
            torch.nn.functional.pad(weight_IV[:-1], padding),
            torch.nn.functional.pad(weight_IV[-1:], padding, value=-torch.inf),
        ]
    )
    uniforms_RN = torch.rand(R, N, generator=rng)
    uniforms_RN[0, 0], uniforms_RN[-1, -1] = 0.0, 1 - 2**-24
    return hidden_RH, weight_IV, uniforms_RN


def make_cases() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    cases = {name: make_case(*size) for name, size in SIZES.items()}
    for name, bad in NOT_DISTRIBUTIONS.items():
        hidden_RH, weight_IV, uniforms_RN = make_case(3, 1, 4, 70, 1.0)
        if name == "nothing allowed":
            weight_IV[-1] = bad
        else:
            weight_IV[-1, 66] = bad
        cases[name] = (hidden_RH, weight_IV, uniforms_RN)
    hidden_RH, weight_IV, _ = make_case(1, 1, 8, 10, 0.4)
    cases["frequencies"] = (hidden_RH, weight_IV, torch.rand(1, 150, generator=torch.Generator().manual_seed(9)))
    return cases


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of a case to the interpreted kernel's picks and whether it found distributions."""
    folder = tmp_path_factory.mktemp("triton")
    torch.save(make_cases(), folder / "cases.pt")
    run_apart(INTERPRETED, str(folder / "cases.pt"), str(folder / "drawn.pt"), TRITON_INTERPRET="1")
    answers: dict[str, tuple[Tensor, Tensor]] = torch.load(folder / "drawn.pt")
    return answers


@pytest.mark.parametrize("name", SIZES)
def test_the_kernel_draws_what_the_cpu_path_draws(name: str, drawn: Any) -> None:
    """From equal uniforms, token by token, except where the uniform is within 1e-5 of a CDF edge."""
    hidden_RH, weight_IV, uniforms_RN = make_cases()[name]
    logits_RV = hidden_RH @ weight_IV[:-1] + weight_IV[-1]
    picks_RN, is_valid = drawn[name]
    assert bool(is_valid)
    assert (picks_RN.dtype, picks_RN.shape) == (torch.int64, uniforms_RN.shape)
    assert (logits_RV.gather(1, picks_RN) > -torch.inf).all(), "a token that cannot be drawn was"
    different_RN = picks_RN != pick_from_logits(logits_RV, uniforms_RN)
    cdf_RV = logits_RV.double().softmax(dim=1).cumsum(dim=1)
    for r, n in different_RN.nonzero().tolist():
        assert (cdf_RV[r] - uniforms_RN[r, n]).abs().min() < ALLOWED
    assert different_RN.sum() <= 1


@pytest.mark.parametrize("name", NOT_DISTRIBUTIONS)
def test_what_is_no_distribution_is_said_to_be_none(name: str, drawn: Any) -> None:
    picks_RN, is_valid = drawn[name]
    assert not bool(is_valid)
    assert picks_RN.min() >= 0
    assert picks_RN.max() < padded_size(70)


def test_frequencies_are_the_probabilities(drawn: Any) -> None:
    """Chi-square of 150 draws against the exact softmax; false alarm 1e-6."""
    hidden_RH, weight_IV, uniforms_RN = make_cases()["frequencies"]
    p_V = (hidden_RH @ weight_IV[:-1] + weight_IV[-1])[0].double().softmax(dim=0).numpy()
    counts_V = np.bincount(drawn["frequencies"][0].flatten().numpy(), minlength=len(p_V))
    assert not counts_V[p_V == 0].any()
    expected_V = uniforms_RN.numel() * p_V
    is_rare_V = expected_V < 5
    expected = np.append(expected_V[~is_rare_V], expected_V[is_rare_V].sum())
    observed = np.append(counts_V[~is_rare_V], counts_V[is_rare_V].sum())
    expected, observed = expected[expected > 0], observed[expected > 0]
    assert len(expected) >= 6
    assert stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1) > 1e-6


def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """To machine code of compute capability 8.0 and 9.0 (A100, H100 and H200), in at most 48 KiB of shared memory and
    without TF32."""
    lines = run_apart(COMPILED, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    assert [line.split()[:2] for line in lines] == [
        [capability, name] for name in ("_sum_blocks", "_pick") for capability in ("80", "90")
    ]
    assert all(int(line.split()[2]) > 1000 for line in lines)
