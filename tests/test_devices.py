"""What would break or stall a GPU, found on a CPU: tensors made on no named device, and values read back to the host.

Everything here watches the operators that reach the dispatcher. Reading a value (``.item()``, ``bool(tensor)``,
``tolist``) waits for the GPU, and so does an operator whose result's shape depends on values; a factory call without a
device makes a CPU tensor whatever the model is on; ``torch.tensor(list)`` is a copy from the host.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from seqgan_rl.discriminators import CNNDiscriminator, Discriminator, paper_cnn, small_cnn
from seqgan_rl.models import lstm_decoder, sampling
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.rewards import DiscriminatorReward
from seqgan_rl.rollout import action_values

torch.set_num_threads(1)

HOST_READS = {"_local_scalar_dense", "bincount", "equal", "masked_select", "nonzero", "_unique2", "unique_dim"}
HOST_READS |= {"repeat_interleave.Tensor", "unique_consecutive"}
"""Operators (of one overload, where another stays on the device) that wait for a GPU."""

HOST_WRITES = {torch.tensor, torch.as_tensor}
FACTORIES = {torch.zeros, torch.ones, torch.empty, torch.full, torch.arange, torch.rand, torch.randn, torch.eye}


class Watch(TorchDispatchMode):
    """Writes down what would stall a GPU (``reads``) or leave it (``leaks``)."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.leaks: list[str] = []
        self._calls = _WatchedCalls(self)

    def __enter__(self) -> "Watch":
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        has_mask = any(part.dtype in (torch.bool, torch.uint8) for part in _indices(name, args))
        if name in HOST_READS or func.__name__ in HOST_READS or has_mask:
            self.reads.append(name)
        if name == "_to_copy" and kwargs.get("device") not in (None, args[0].device):
            self.leaks.append(name)
        return func(*args, **kwargs)


class _WatchedCalls(TorchFunctionMode):
    """The part that no operator shows: how functions of torch are called."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.tolist, Tensor.numpy):
            self.watch.reads.append(func.__name__)
        if func in HOST_WRITES or (func in FACTORIES and kwargs.get("device") is None):
            self.watch.leaks.append(func.__name__)
        return func(*args, **kwargs)


def _indices(name: str, args: Any) -> list[Tensor]:
    """The index tensors of an indexing operator."""
    return [part for part in args[1] if part is not None] if name in ("index", "index_put", "index_put_") else []


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders are static, and draws take the way that trusts no running sum."""
    monkeypatch.setattr(lstm_decoder, "runs_static", lambda device: True)
    monkeypatch.setattr(sampling, "sums_rise", lambda device: False)


@pytest.mark.parametrize(
    "stalls",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.all()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 0).unique(),
        lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.int64, device=x.device)),
    ],
)
def test_the_watch_sees_what_waits(stalls: Any) -> None:
    with Watch() as watch:
        stalls(torch.ones(4, device="cpu"))
    assert watch.reads
    assert not watch.leaks


@pytest.mark.parametrize(
    "leaks",
    [
        lambda x: torch.zeros(3),
        lambda x: torch.arange(3),
        lambda x: torch.tensor([1, 2]),
        lambda x: torch.rand(2),
        lambda x: x.to("meta"),
    ],
)
def test_the_watch_sees_what_leaves_the_device(leaks: Any) -> None:
    with Watch() as watch:
        leaks(torch.ones(4, device="cpu"))
    assert watch.leaks
    assert not watch.reads


def test_the_watch_lets_pass_what_stays() -> None:
    with Watch() as watch:
        x = torch.ones(4, device="cpu")
        x = torch.where(x > 0, x, 0.0)[torch.arange(3, device=x.device)].new_zeros(2, 4).repeat_interleave(3, dim=1)
        x.index_put_((torch.zeros(1, dtype=torch.int64, device=x.device),), x.new_ones(12))
    assert (watch.reads, watch.leaks) == ([], [])


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize("make", [small_cnn, paper_cnn])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_rollout_reward_stays_on_its_device_and_is_waited_for_at_its_end(has_eos: bool, make: Any) -> None:
    """From prefixes to action values, scoring included; the one value read says that all distributions were some. Where
    sequences end early, which completions count is asked once, when all are made."""
    B, T, N, A = 4, 6, 5, 30
    options = SamplingOptions(temperature=0.9, forbidden=(3,))
    generator, discriminator = LSTMGenerator(A, T, has_eos), make(A, T)
    tokens_BT = generator.sample(B, rng=np.random.default_rng(0))
    lengths_B = (tokens_BT != generator.pad_id).sum(dim=1)
    uniforms = torch.from_numpy(np.random.default_rng(1).random((B, T - 1, N, T), dtype=np.float32))
    action_values(generator, DiscriminatorReward(discriminator), tokens_BT, lengths_B, uniforms, options=options)
    with Watch() as watch:
        action_values(generator, DiscriminatorReward(discriminator), tokens_BT, lengths_B, uniforms, options=options)
    assert watch.reads == ["nonzero"] * has_eos + ["_local_scalar_dense"]
    assert watch.leaks == []


@pytest.mark.usefixtures("as_on_a_gpu")
def test_sampling_reads_one_value_at_its_end() -> None:
    generator = LSTMGenerator(30, 6, True)
    with Watch() as watch:
        generator.sample(8, rng=np.random.default_rng(0))
    assert watch.reads == ["_local_scalar_dense"]
    assert watch.leaks == []


@pytest.mark.parametrize("pool", ["max", "sum"])
def test_scoring_stays_on_its_device(pool: str) -> None:
    """Enough tokens that the tables of all of them are made; for fewer, those that occur are looked up first."""
    discriminator: Discriminator = CNNDiscriminator(20, 5, pool=pool, highway="biased")
    tokens_BT = torch.randint(21, (40, 5), generator=torch.Generator().manual_seed(0))
    with Watch() as watch:
        discriminator.score(tokens_BT)
    assert (watch.reads, watch.leaks) == ([], [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_the_cpu_draws() -> None:
    """Same uniforms: the same tokens, except in rows that a CDF edge within rounding sent another way (1 % at most);
    run three times, so that the second records a graph and the third replays it."""
    generator = LSTMGenerator(500, 8, True, init_std=0.5)
    expected_BT = generator.sample(400, rng=np.random.default_rng(0))
    generator.to("cuda")
    for _ in range(3):
        tokens_BT = generator.sample(400, rng=np.random.default_rng(0)).cpu()
        assert (tokens_BT != expected_BT).any(dim=1).float().mean() < 0.01
