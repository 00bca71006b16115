"""``torch.compile`` of the sampler's inner loop: an option that changes no draw, and that nothing depends on."""

import logging
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.models import compiled, kernels, softmax_sampler
from seqgan_rl.models.compiled import Compiled, is_compiled, set_compiled
from seqgan_rl.models.generator import LSTMGenerator

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The setting, and whether the warning was given, are the process's."""
    monkeypatch.setattr(compiled, "_has_warned", False)
    was_compiled = is_compiled()
    yield
    set_compiled(was_compiled)


def make_lstm(num_actions: int = 70) -> LSTMGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LSTMGenerator(num_actions, 4, hidden_dim=6, init_std=1.0)


def sample(generator: LSTMGenerator, is_on: bool) -> Tensor:
    set_compiled(is_on)
    return generator.sample(200, forbidden=(3,), rng=np.random.default_rng(0))


def has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        return bool(get_cpp_compiler())
    except Exception:  # says in several ways that there is none
        return False


def test_compiled_sampling_draws_what_eager_sampling_draws(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In blocks of 64 rows: the same tokens, or at the first that differs a uniform within 1e-5 of a CDF edge."""
    if not has_compiler():
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 64 * 128)
    fresh, calls = Compiled(softmax_sampler.weigh_and_pick_block), []

    def counted(*arguments: Any) -> Any:
        calls.append(tuple(arguments[0].shape))
        return fresh(*arguments)

    monkeypatch.setattr(softmax_sampler, "_compiled_weigh_and_pick", counted)
    generator = make_lstm()
    eager_BT = sample(generator, False)
    assert not calls
    with caplog.at_level(logging.WARNING, "seqgan_rl"):
        compiled_BT = sample(generator, True)
    assert calls == [(64, 128)] * 12  # 3 whole blocks of 4 steps; the last 8 rows are too few to be worth a whole one
    assert [record for record in caplog.records if record.name.startswith("seqgan_rl")] == []
    uniforms_BT = np.random.default_rng(0).random((200, 4), dtype=np.float32)
    differs_B = (compiled_BT != eager_BT).any(dim=1)
    assert differs_B.sum() <= 2
    for b in differs_B.nonzero().squeeze(1).tolist():
        t = int((compiled_BT[b] != eager_BT[b]).nonzero()[0])
        candidates_AT = torch.cat([eager_BT[b, :t].expand(70, t), torch.arange(70)[:, None]], dim=1)
        cdf_A = generator.log_prob(candidates_AT, forbidden=(3,))[:, t].double().exp().cumsum(0)
        assert (cdf_A - float(uniforms_BT[b, t])).abs().min() < 1e-5


def test_a_padded_block_is_cut_to_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 of 64 rows: the function sees 64, the caller gets 40."""
    seen = []

    def uncompiled(*arguments: Any) -> Any:
        seen.append([tuple(part.shape) for part in arguments[:2]])
        return softmax_sampler.weigh_and_pick_block(*arguments)

    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 64 * 128)
    monkeypatch.setattr(softmax_sampler, "_compiled_weigh_and_pick", uncompiled)
    generator, drawn = make_lstm(), []
    for is_on in (False, True):
        set_compiled(is_on)
        drawn.append(generator.sample(40, rng=np.random.default_rng(1)))
    assert seen == [[(64, 128), (64, 1)]] * 4
    assert torch.equal(drawn[0], drawn[1])


def test_without_a_compiler_it_runs_as_it_is_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def compile_nothing(function: Any, **options: Any) -> Any:
        def fail(*arguments: Any) -> Any:
            attempts.append(arguments[0].shape)
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(kernels, "BLOCK_ELEMENTS", 64 * 128)
    monkeypatch.setattr(softmax_sampler, "_compiled_weigh_and_pick", Compiled(softmax_sampler.weigh_and_pick_block))
    expected = [sample(make_lstm(size), False) for size in (70, 200)]
    with caplog.at_level(logging.WARNING, "seqgan_rl"):
        for _ in range(2):
            assert torch.equal(sample(make_lstm(70), True), expected[0])
            assert torch.equal(sample(make_lstm(200), True), expected[1])
    assert attempts == [(64, 128), (32, 256)]  # each shape once
    assert [record.message for record in caplog.records] == [
        "sampling runs without torch.compile, which failed: InvalidCxxCompiler: No working C++ compiler found"
    ]


@pytest.mark.parametrize(("value", "is_on"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_environment_variable_sets_how_a_process_begins(
    value: str | None, is_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEQGAN_RL_COMPILE", raising=False)
    if value is not None:
        monkeypatch.setenv("SEQGAN_RL_COMPILE", value)
    assert runpy.run_path(compiled.__file__)["is_compiled"]() is is_on
