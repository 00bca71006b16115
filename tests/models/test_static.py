"""The static completion, which GPUs run, and its recording: run here on a CPU, against the ragged completion."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.envs.exact import SequenceTree, TableReward, table_reward
from seqgan_rl.models import decoding, lstm_decoder, sampling, softmax_sampler
from seqgan_rl.models.decoding import complete
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.graphs import GraphCache
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.models.softmax_sampler import FusedKernel, SoftmaxSampler
from seqgan_rl.rewards.base import FunctionReward
from seqgan_rl.rollout import action_values, prefix_values

torch.set_num_threads(1)


def make_lstm(num_actions: int, sequence_length: int, has_eos: bool, seed: int = 0, **options: Any) -> LSTMGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LSTMGenerator(num_actions, sequence_length, has_eos, embedding_dim=4, hidden_dim=6, **options)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """``as_on_a_gpu(True)``: decoders made from now on are static, and draws trust no running sum."""

    def switch(is_on: bool) -> None:
        monkeypatch.setattr(lstm_decoder, "runs_static", lambda device: is_on)
        monkeypatch.setattr(sampling, "sums_rise", lambda device: not is_on)

    return switch


# ---------------------------------------------------------------- equal to the ragged completion


@pytest.mark.parametrize("has_eos", [False, True], ids=["fixed", "eos"])
@pytest.mark.parametrize("start_token", [None, 0])
@pytest.mark.parametrize(
    "options", [SamplingOptions(), SamplingOptions(temperature=0.7, forbidden=(2, 5))], ids=["plain", "forbidden"]
)
@pytest.mark.parametrize("starts", [[0] * 5, [4] * 5, [0, 0, 2, 3, 5], [1, 2, 3, 4, 5]])
def test_static_completion_equals_the_ragged_one_token_by_token(
    has_eos: bool, start_token: int | None, options: SamplingOptions, starts: list[int], as_on_a_gpu: Any
) -> None:
    B, T, N, A = 4, 6, 7, 70
    generator = make_lstm(A, T, has_eos, start_token=start_token, init_std=1.0)
    rng = torch.Generator().manual_seed(1)
    known_BT = torch.randint(A - 1, (B, T), generator=rng)
    source_P, start_P = torch.tensor([3, 0, 0, 2, 1]), torch.tensor(starts)
    uniforms_PNT = torch.rand(5, N, T, generator=rng)
    ragged = generator.decoder(options)
    assert not ragged.is_static
    ragged_RT, ragged_lengths_R = complete(ragged, known_BT, source_P, start_P, uniforms_PNT)
    as_on_a_gpu(True)
    static = generator.decoder(options)
    assert static.is_static
    static_RT, static_lengths_R = complete(static, known_BT, source_P, start_P, uniforms_PNT)
    static.check()
    assert torch.equal(static_RT, ragged_RT)
    assert torch.equal(static_lengths_R, ragged_lengths_R)
    if has_eos and starts == [0] * 5:
        assert (static_lengths_R < T).any()
    assert not torch.isin(static_RT[:, 5], torch.tensor(options.forbidden)).any()


def test_a_prefix_that_has_ended_is_returned_as_it_was(as_on_a_gpu: Any) -> None:
    generator, eos = make_lstm(5, 6, has_eos=True), 4
    known_BT = torch.tensor([[1, eos, 5, 5, 5, 5], [1, 2, 0, 3, 3, eos]])
    as_on_a_gpu(True)
    full_RT, lengths_R = complete(
        generator.decoder(), known_BT, torch.tensor([0, 1]), torch.tensor([3, 4]), torch.rand(2, 8, 6)
    )
    assert torch.equal(full_RT[:8], known_BT[:1].expand(8, 6))
    assert (lengths_R[:8] == 2).all()
    assert torch.equal(full_RT[8:, :4], known_BT[1:, :4].expand(8, 4))


@pytest.mark.parametrize("size", [(3, 4, False), (3, 4, True), (2, 5, True)], ids=["V3T4", "V3T4eos", "V2T5eos"])
@pytest.mark.parametrize("has_prompt", [False, True], ids=["", "prompt"])
def test_values_are_the_same_both_ways(size: tuple[int, int, bool], has_prompt: bool, as_on_a_gpu: Any) -> None:
    """Action values of sequences of all lengths, and prefix values of unordered rows, finished and unfinished."""
    tree, N, B = SequenceTree(*size), 5, 12
    T = tree.sequence_length
    generator = make_lstm(tree.num_actions, T, tree.has_eos, init_std=1.0)
    reward = TableReward(tree, table_reward(tree, seed=2))
    tokens_NT, lengths_N = tree.sequences()
    rows_B = torch.from_numpy(np.random.default_rng(0).permutation(tree.num_sequences)[:B])
    tokens_BT, lengths_B = tokens_NT[rows_B], lengths_N[rows_B]
    uniforms_BTNT = torch.rand(len(rows_B), T - 1, N, T, generator=torch.Generator().manual_seed(0))
    start_B = torch.minimum(torch.arange(len(rows_B)) % 3, lengths_B - 1) if has_prompt else None
    so_far_B = torch.minimum(torch.arange(len(rows_B)) % T + 1, lengths_B)
    values = []
    for is_on in (False, True):
        as_on_a_gpu(is_on)
        q_BT = action_values(generator, reward, tokens_BT, lengths_B, uniforms_BTNT, start_B=start_B)
        value_B = prefix_values(
            generator, reward, tokens_BT, so_far_B, uniforms_BTNT[:, 0], is_finished_B=so_far_B == lengths_B
        )
        values.append(torch.cat([q_BT, value_B[:, None]], dim=1))
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-6)
    assert values[0].std() > 0.1


@pytest.mark.parametrize("has_prompt", [False, True], ids=["", "prompt"])
def test_a_reward_sees_the_same_sequences_both_ways(has_prompt: bool, as_on_a_gpu: Any) -> None:
    """Completions of what had ended, or lay within a prompt, are not scored: some rewards keep count."""
    T, B, N = 6, 10, 3
    generator = make_lstm(8, T, True, init_std=1.0)
    tokens_BT = generator.sample(B, rng=np.random.default_rng(0))
    lengths_B = (tokens_BT != generator.pad_id).sum(dim=1)
    start_B = torch.minimum(torch.arange(B) % 3, lengths_B - 1) if has_prompt else None
    uniforms_BTNT = torch.rand(B, T - 1, N, T, generator=torch.Generator().manual_seed(0))
    seen = []
    for is_on in (False, True):
        as_on_a_gpu(is_on)

        def length(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
            seen.append(tokens_BT)
            return lengths_B.float()

        action_values(generator, FunctionReward(length), tokens_BT, lengths_B, uniforms_BTNT, start_B=start_B)
    assert torch.equal(seen[0], seen[1])
    assert (lengths_B < T).any()


def test_a_diverged_generator_is_found_at_the_end(as_on_a_gpu: Any) -> None:
    """No launch waits for the check, and what is drawn until then are token ids."""
    generator = make_lstm(5, 6, has_eos=False)
    with torch.no_grad():
        generator.output_bias[1] = torch.nan
    as_on_a_gpu(True)
    decoder, nothing_BT = generator.decoder(), torch.full((3, 6), generator.pad_id)
    full_RT, _ = complete(decoder, nothing_BT, torch.arange(3), torch.zeros(3).long(), torch.rand(3, 1, 6))
    assert full_RT.min() >= 0
    assert full_RT.max() < 5
    with pytest.raises(FloatingPointError, match="the generator has diverged"):
        decoder.check()
    with pytest.raises(FloatingPointError, match="the generator has diverged"):
        generator.sample(2, rng=np.random.default_rng(0))


# ---------------------------------------------------------------- recorded graphs


class StandInGraph:
    """Runs the function again, on the recorded inputs and into the recorded outputs, as a CUDA graph does."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> None:
        self.function, self.inputs, self.outputs, self.replays = function, inputs, function(*inputs), 0

    def replay(self) -> None:
        self.replays += 1
        for output, new in zip(self.outputs, self.function(*self.inputs), strict=True):
            output.copy_(new)


class Recorder:
    """A ``capture`` that remembers its graphs."""

    def __init__(self) -> None:
        self.graphs: list[StandInGraph] = []

    def __call__(self, function: Any, inputs: tuple[Tensor, ...]) -> tuple[StandInGraph, tuple[Tensor, ...]]:
        self.graphs.append(StandInGraph(function, inputs))
        return self.graphs[-1], self.graphs[-1].outputs


def doubled(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (2 * x + y,)


def test_a_function_is_recorded_the_second_time_and_replayed_from_then_on() -> None:
    recorder = Recorder()
    graphs = GraphCache(capture=recorder, device_type="cpu")
    results = [graphs.run("key", doubled, (torch.full((3,), float(i)), torch.ones(3)))[0] for i in range(4)]
    assert [len(recorder.graphs), recorder.graphs[0].replays] == [1, 3]
    for i, result in enumerate(results):  # also those handed out before later replays
        assert torch.equal(result, torch.full((3,), 2.0 * i + 1))


def test_what_was_recorded_under_inference_mode_is_replayed_outside_it() -> None:
    """As agents play, and then train."""
    recorder = Recorder()
    graphs = GraphCache(capture=recorder, device_type="cpu")
    with torch.inference_mode():
        for _ in range(2):
            graphs.run("key", doubled, (torch.ones(3), torch.ones(3)))
    result = graphs.run("key", doubled, (torch.full((3,), 2.0), torch.ones(3)))[0]
    assert torch.equal(result, torch.full((3,), 5.0))
    assert not result.requires_grad
    assert recorder.graphs[0].replays == 2


def test_another_key_or_shape_has_its_own_graph_and_the_longest_unused_is_dropped() -> None:
    recorder = Recorder()
    graphs = GraphCache(limit=2, capture=recorder, device_type="cpu")

    def run(key: str, n: int) -> None:
        x = torch.rand(n)
        assert torch.equal(graphs.run(key, doubled, (x, x))[0], 3 * x)

    for key, n in [("a", 3), ("a", 3), ("a", 4), ("a", 4)]:
        run(key, n)
    assert len(recorder.graphs) == 2
    run("a", 3)  # so that ("a", 4) is the longest unused
    run("b", 3)
    assert len(graphs) == 2
    run("a", 3)
    assert len(recorder.graphs) == 2
    run("a", 4)
    run("a", 4)  # dropped, so recorded anew
    assert [len(recorder.graphs), len(graphs)] == [3, 2]


def test_where_recording_fails_the_function_runs_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    attempts = []

    def failing(function: Any, inputs: Any) -> Any:
        attempts.append(inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = GraphCache(capture=failing, device_type="cpu")
    with caplog.at_level(logging.WARNING):
        for i in range(8):
            x = torch.full((1 + i % 2,), float(i))
            assert torch.equal(graphs.run("key", doubled, (x, x))[0], 3 * x)
    assert len(attempts) == 2  # once each of two shapes, then never again
    assert [record.message for record in caplog.records] == [
        "rollouts run without CUDA graphs: one could not be recorded: operation not permitted when stream is capturing"
    ]


def test_on_other_devices_nothing_is_recorded() -> None:
    recorder = Recorder()
    graphs = GraphCache(capture=recorder)
    for _ in range(3):
        assert torch.equal(graphs.run("key", doubled, (torch.ones(1), torch.ones(1)))[0], torch.full((1,), 3.0))
    assert (len(graphs), recorder.graphs) == (0, [])


def test_a_replayed_rollout_follows_the_generator_as_it_is_trained(
    as_on_a_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recording serves all updates, and another generator of the same sizes; every sample equals the ragged one."""
    recorder = Recorder()
    monkeypatch.setattr(decoding, "_graphs", GraphCache(capture=recorder, device_type="cpu"))
    generators = [make_lstm(9, 5, True, seed=seed, init_std=1.0) for seed in (0, 1)]
    drawn = []
    for update in range(5):
        generator = generators[update % 2]
        pair = []
        for is_on in (False, True):
            as_on_a_gpu(is_on)
            pair.append(generator.sample(40, prefix=[1], rng=np.random.default_rng(3)))
        assert torch.equal(pair[0], pair[1])
        drawn.append(pair[1])
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(-0.5)
    assert [len(recorder.graphs), recorder.graphs[0].replays] == [1, 4]
    assert not torch.equal(drawn[0], drawn[2])


# ---------------------------------------------------------------- the fused kernel's fallback


def test_where_the_fused_kernel_fails_the_plain_path_draws_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failing(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no C compiler\nand a long story")

    weight_IV, hidden_RH, uniforms_RN = torch.randn(5, 64), torch.randn(3, 4), torch.rand(3, 2)
    expected_RN, _ = SoftmaxSampler(weight_IV, subtract_max=True).draw(hidden_RH, uniforms_RN)
    sampler, kernel = SoftmaxSampler(weight_IV, subtract_max=True), FusedKernel()
    kernel._draw, sampler._fused = failing, kernel
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(sampler.draw(hidden_RH, uniforms_RN)[0], expected_RN)
    assert [record.message for record in caplog.records] == [
        "sampling runs without the fused Triton kernel: no C compiler"
    ]


def test_a_cpu_never_asks_for_the_fused_kernel() -> None:
    assert SoftmaxSampler(torch.randn(5, 64), subtract_max=True)._fused is None
    assert softmax_sampler.fused_kernel.is_usable
