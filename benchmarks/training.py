"""Time of each unit of training beside its plain form, in one run.

    python benchmarks/training.py [--batch 64 --length 20 --vocabulary 5000 --rollouts 16 --threads 2]

The units of the paper's size: one likelihood minibatch (plain: nn.LSTM and cross_entropy over all logits), sampling 64
sequences (plain: softmax and torch.multinomial), one discriminator minibatch of the paper's network (32 real and 32
generated; plain: conv2d), the policy-gradient step alone and with its rollout reward. From them the whole of `repo2017`
is estimated: 120 epochs of likelihood, 50 x 3 epochs of the discriminator, then 200 rounds of one policy update and
5 x 3 epochs of the discriminator, each epoch 9,984 real and as many generated sequences.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rollout import convolved_logits
from torch import Tensor, nn
from torch.nn import functional

from seqgan_rl.discriminators import CNNDiscriminator, DiscriminatorConfig, DiscriminatorTrainer, paper_cnn
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.rewards import DiscriminatorReward
from seqgan_rl.rollout import action_values


class PlainLSTM(nn.Module):
    """The paper's generator of stock parts."""

    def __init__(self, V: int) -> None:
        super().__init__()
        self.embedding, self.lstm, self.output = (
            nn.Embedding(V + 1, 32),
            nn.LSTM(32, 32, batch_first=True),
            nn.Linear(32, V),
        )

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Mean cross-entropy, nats per token."""
        start_B1 = torch.full_like(tokens_BT[:, :1], self.embedding.num_embeddings - 1)
        hidden_BTH = self.lstm(self.embedding(torch.cat([start_B1, tokens_BT[:, :-1]], dim=1)))[0]
        return functional.cross_entropy(self.output(hidden_BTH).flatten(0, 1), tokens_BT.flatten())

    @torch.no_grad()
    def sample(self, n: int, T: int) -> Tensor:
        """Step by step, one multinomial draw each."""
        last_B, state, columns = torch.full((n,), self.embedding.num_embeddings - 1), None, []
        for _ in range(T):
            hidden_B1H, state = self.lstm(self.embedding(last_B)[:, None], state)
            last_B = torch.multinomial(self.output(hidden_B1H[:, 0]).softmax(dim=1), 1).squeeze(1)
            columns.append(last_B)
        return torch.stack(columns, dim=1)


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    """Median of ``repeats`` calls after two."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[2:])


def stepper(network: nn.Module, loss: Callable[[], Tensor], fused: bool = False) -> Callable[[], None]:
    """One Adam step on a loss."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


Row = tuple[str, float, float]
"""What, its milliseconds, and those of its plain form (NaN: not measured)."""


def generator_rows(
    generator: LSTMGenerator, data_NT: Tensor, B: int, repeats: int, rng: np.random.Generator
) -> list[Row]:
    """The likelihood minibatch, and sampling."""
    T, plain, batch_BT = data_NT.shape[1], PlainLSTM(generator.num_actions), data_NT[:B]
    trainer = LikelihoodTrainer(generator, data_NT, batch_BT, LikelihoodConfig(), rng)
    return [
        (
            "likelihood minibatch",
            milliseconds(lambda: trainer.update(batch_BT), repeats),
            milliseconds(stepper(plain, lambda: plain.loss(batch_BT)), repeats),
        ),
        (
            f"sampling {B} sequences",
            milliseconds(lambda: generator.sample(B, rng=rng), repeats),
            milliseconds(lambda: plain.sample(B, T), max(3, repeats // 5)),
        ),
    ]


def discriminator_row(
    discriminator: CNNDiscriminator, data_NT: Tensor, half: int, repeats: int, rng: np.random.Generator
) -> Row:
    """One minibatch of the paper's network: ``half`` real and as many generated."""
    plain = paper_cnn(discriminator.num_actions, discriminator.sequence_length)
    trainer = DiscriminatorTrainer(discriminator, data_NT, DiscriminatorConfig(batch_size=half), rng)
    is_real_B = torch.cat([torch.ones(half), torch.zeros(half)])

    def plain_loss() -> Tensor:
        return functional.binary_cross_entropy_with_logits(convolved_logits(plain, data_NT[: 2 * half]), is_real_B)

    return (
        f"discriminator minibatch, {half} + {half}",
        milliseconds(lambda: trainer.train(data_NT[-half:]), max(3, repeats // 3)),
        milliseconds(stepper(plain, plain_loss), max(3, repeats // 5)),
    )


def update_rows(
    generator: LSTMGenerator, discriminator: CNNDiscriminator, tokens_BT: Tensor, N: int, repeats: int, rng: Any
) -> list[Row]:
    """The policy-gradient step, alone and with its sampling and rollout reward."""
    (B, T), reward = tokens_BT.shape, DiscriminatorReward(discriminator)
    q_BT, lengths_B = torch.rand(B, T), torch.full((B,), T)
    uniforms = torch.from_numpy(rng.random((B, T - 1, N, T), dtype=np.float32))
    update = stepper(generator, lambda: generator.weighted_nll(tokens_BT, q_BT / B)[0], fused=True)

    def adversarial_update() -> None:
        action_values(generator, reward, generator.sample(B, rng=rng), lengths_B, uniforms)
        update()

    return [
        ("policy-gradient step alone", milliseconds(update, repeats), float("nan")),
        ("adversarial update, whole", milliseconds(adversarial_update, 3), float("nan")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 64), ("length", 20), ("vocabulary", 5000), ("rollouts", 16), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    B, T, V, N = options.batch, options.length, options.vocabulary, options.rollouts
    rng, repeats, half = np.random.default_rng(0), options.repeats, B // 2
    generator, discriminator = LSTMGenerator(V, T), paper_cnn(V, T)
    data_NT = torch.from_numpy(rng.integers(V, size=(B * 4, T)))
    likelihood, sampling = generator_rows(generator, data_NT, B, repeats, rng)
    minibatch = discriminator_row(discriminator, data_NT, half, repeats, rng)
    step, whole = update_rows(generator, discriminator, data_NT[:B], N, repeats, rng)

    print(f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}; B={B} T={T} V={V} N={N}\n")
    print(f"| {'milliseconds':34} | this library | plain | ratio |\n|{'-' * 36}|-------------:|------:|------:|")
    for name, ours, theirs in (likelihood, sampling, minibatch, step, whole):
        beside = "" if np.isnan(theirs) else f"{theirs:.1f}"
        ratio = "" if np.isnan(theirs) else f"{theirs / ours:.1f}"
        print(f"| {name:34} | {ours:12.1f} | {beside:>5} | {ratio:>5} |")
    minibatches, rounds = (50 * 3 + 200 * 15) * (9_984 / half), 200
    of_discriminator = minibatches * minibatch[1] / 3.6e6
    hours = (120 * (9_984 / B) * likelihood[1] + rounds * whole[1]) / 3.6e6 + of_discriminator
    print(f"\n`repo2017` from these: {hours:.1f} hours, the discriminator {of_discriminator:.1f} of them")


if __name__ == "__main__":
    main()
