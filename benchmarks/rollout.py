"""Time of one rollout reward, beside the plain loop that other implementations use, in one run.

    python benchmarks/rollout.py [--batch 64 --length 20 --vocabulary 5000 --rollouts 16 --threads 2 --device cpu]

The unit of work is the paper's: B=64 sequences of T=20 tokens, V=5000, N=16 completions of each of the T-1 prefixes,
scored by the paper's discriminator (1,720 filters, highway). The plain loop finishes one prefix and one rollout at a
time, draws with ``torch.multinomial`` and convolves every window; it is linear in N, so only some of its rollouts are
run and the time is scaled. Both estimate the same values, and the means are compared. Beside it the same with the
sampler through ``torch.compile`` (where there is a C++ compiler), and with the discriminator in 16 bits, and what these
change in D(Y).
"""

import argparse
import copy
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqgan_rl.discriminators import CNNDiscriminator, paper_cnn
from seqgan_rl.models.compiled import set_compiled
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.rewards import DiscriminatorReward
from seqgan_rl.rollout import action_values


@torch.no_grad()
def plain_loop(generator: LSTMGenerator, discriminator: CNNDiscriminator, tokens_BT: Tensor, rollouts: int) -> Tensor:
    """Action values (B, T) as the published ports compute them."""
    (B, T), device = tokens_BT.shape, tokens_BT.device
    q_BT = torch.zeros(B, T, device=device)
    for _ in range(rollouts):
        for t in range(1, T):
            completed_BT, state = tokens_BT.clone(), generator.initial_state(B)
            last_B = torch.full((B,), generator.pad_id, device=device)
            for s in range(T):
                logits_BV, state = generator.step(last_B, state)
                if s >= t:
                    completed_BT[:, s] = torch.multinomial(logits_BV.softmax(dim=1), 1).squeeze(1)
                last_B = completed_BT[:, s]
            q_BT[:, t - 1] += torch.sigmoid(convolved_logits(discriminator, completed_BT)) / rollouts
    q_BT[:, T - 1] = torch.sigmoid(convolved_logits(discriminator, tokens_BT))
    return q_BT


def convolved_logits(discriminator: CNNDiscriminator, tokens_BT: Tensor) -> Tensor:
    """The discriminator's logits with one two-dimensional convolution per filter width."""
    embedded_B1TE = functional.embedding(tokens_BT, discriminator.embedding)[:, None]
    pooled = []
    biases = discriminator.filter_bias.split([count for _, count in discriminator.sizes])
    for weight_wEF, bias_F in zip(discriminator.filters, biases, strict=True):
        activation = functional.conv2d(embedded_B1TE, weight_wEF.permute(2, 0, 1)[:, None], bias_F).relu()
        pooled.append(activation.amax(dim=(2, 3)))
    features_BC = torch.cat(pooled, dim=1)
    if discriminator.highway is not None:
        gate_BC, transform_BC = (layer(features_BC) for layer in discriminator.highway)
        features_BC = torch.lerp(features_BC, transform_BC.relu(), gate_BC.sigmoid())
    outputs_B2 = discriminator.output(features_BC)
    return outputs_B2[:, 1] - outputs_B2[:, 0]


def timed(function: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median seconds over ``repeats`` calls, and the last result; a GPU's work is waited for."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        if result.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def floor_seconds(B: int, T: int, V: int, N: int, discriminator: CNNDiscriminator, H: int = 32) -> dict[str, float]:
    """What the arithmetic alone takes at the best rates of the CPU, measured here: the GEMMs of the output layer, the
    filter tables and the highway (by torch.mm or as oneDNN's 1x1 convolution), and the exponentials in cache."""
    draws = B * N * (T - 1) * (T - 2) / 2 + B * (T - 1)  # N completions share their first distribution
    sequences, C = B * (N * (T - 1) + 1), len(discriminator.filter_bias)
    E = discriminator.embedding.shape[1]
    table_columns = sum(width * count for width, count in discriminator.sizes)
    zeros_RV, exps_RV = torch.zeros(2, 256, V)
    exp_rate = zeros_RV.numel() / timed(lambda: torch.exp(zeros_RV, out=exps_RV), repeats=30)[0]
    seconds = {"exponentials": draws * V / exp_rate}
    products = {
        "output layer": (256, H, V, draws / 256),
        "filter tables": (V + 1, E, table_columns, 1.0),
        "highway": (2048, C, 2 * C, sequences / 2048),
    }
    for name, (R, K, M, calls) in products.items():
        a_RK, b_KM = torch.randn(R, K), torch.randn(K, M)
        columns_1KR1 = a_RK.T.reshape(1, K, R, 1).contiguous(memory_format=torch.channels_last)
        filters_MK11 = b_KM.T.reshape(M, K, 1, 1).contiguous()
        product_RM = torch.empty(R, M)
        by_mm = timed(lambda a=a_RK, b=b_KM, out=product_RM: torch.mm(a, b, out=out), repeats=30)[0]  # type: ignore[misc]
        by_conv = timed(lambda a=columns_1KR1, b=filters_MK11: functional.conv2d(a, b), repeats=30)[0]  # type: ignore[misc]
        seconds[name] = calls * min(by_mm, by_conv)
    return seconds


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_16_bits(discriminator: CNNDiscriminator) -> CNNDiscriminator:
    """The same weights, multiplied in 16 bits."""
    rough = copy.deepcopy(discriminator)
    rough.precision = "bfloat16"
    return rough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batch", 64), ("length", 20), ("vocabulary", 5000), ("rollouts", 16), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--reference-rollouts", type=int, default=1, help="of the plain loop; its time is scaled to N")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device, on_cpu = torch.device(options.device), options.device == "cpu"
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    B, T, V, N = options.batch, options.length, options.vocabulary, options.rollouts
    generator, discriminator = LSTMGenerator(V, T).to(device), paper_cnn(V, T).eval().to(device)
    tokens_BT = generator.sample(B, rng=np.random.default_rng(0))
    uniforms = torch.from_numpy(np.random.default_rng(1).random((B, T - 1, N, T), dtype=np.float32)).to(device)
    lengths_B, exact = torch.full((B,), T, device=device), DiscriminatorReward(discriminator)
    rough = DiscriminatorReward(in_16_bits(discriminator))

    def ours(reward: DiscriminatorReward, repeats: int) -> tuple[float, Tensor, float]:
        seconds, q_BT = timed(lambda: action_values(generator, reward, tokens_BT, lengths_B, uniforms), repeats)
        return seconds, q_BT, peak_mb()

    ours(exact, 1)  # on a GPU, captures its graph
    eager, eager_BT, eager_mb = ours(exact, options.repeats)
    in_16, _, _ = ours(rough, 1)
    probe_RT = torch.randint(V, (2048, T)).to(device)
    error_R = rough.score(probe_RT, lengths_B) - exact.score(probe_RT, lengths_B)
    part, plain_BT = timed(
        lambda: plain_loop(generator, discriminator, tokens_BT, options.reference_rollouts), repeats=1
    )
    plain = part * N / options.reference_rollouts
    error = f"D(Y) changes by {error_R.abs().max():.4f} at the most, {error_R.mean():+.5f} on average"
    lines = [
        ("this library", eager, f"median of {options.repeats}; peak memory {eager_mb:.0f} MB"),
        ("  D in 16 bits", in_16, error),
        ("plain loop", plain, f"{options.reference_rollouts} of {N} rollouts run, scaled; ratio {plain / eager:.1f}"),
    ]
    if on_cpu:
        set_compiled(True)
        ours(exact, 1)  # compiles
        compiled, compiled_BT, compiled_mb = ours(exact, options.repeats)
        parts = floor_seconds(B, T, V, N, discriminator)
        floor = sum(parts.values())
        mean = f"mean action value {compiled_BT.mean():.4f}"
        lines += [
            ("compiled", compiled, f"peak memory {compiled_mb:.0f} MB; {mean}"),
            ("floor", floor, f"{floor / eager:.0%} of our time, {floor / compiled:.0%} of the compiled"),
            *(("  " + name, seconds, "") for name, seconds in parts.items()),
        ]
    print(
        f"{platform.machine()}, {device}, {options.threads} threads, torch {torch.__version__}; B={B} T={T} V={V} N={N}"
    )
    for name, seconds, remark in lines:
        print(f"  {name:18} {seconds:8.3f} s   {remark}")
    print(f"  mean action value: {eager_BT.mean():.4f}, of the plain loop {plain_BT.mean():.4f}")


if __name__ == "__main__":
    main()
