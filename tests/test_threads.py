"""The same numbers on 1 and 2 threads where arithmetic allows, else within a stated tolerance; and on CPU and GPU.

A product of matrices that is split by rows or columns gives each number by the same additions, whoever does them; one
that is split along the sum, as gradients of weights are (a sum over the batch), adds in another order and rounds in
another way. Letters: B sequences, T tokens each, V vocabulary size.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgan_rl.adversarial import results
from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.trainer import train
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.discriminators import Discriminator, DiscriminatorConfig, DiscriminatorTrainer, discriminators
from seqgan_rl.models.generator import Generator, LSTMGenerator
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer, likelihood_loss, nll_per_token
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards.base import FunctionReward
from seqgan_rl.rollout import action_values
from tests.adversarial.conftest import tiny_config
from tests.adversarial.crashing import assert_same_run

T = 20
N = 128
SIZES = {"quick": (50, 8), "paper": (5000, 32)}
"""V and hidden units."""


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Every test leaves the number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def on_1_and_2(work: Callable[[], Any]) -> tuple[Any, Any]:
    """What a function returns on one thread, and on two."""
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        found.append(work())
    return found[0], found[1]


def drawn(part: Generator | Oracle) -> Tensor:
    """N sequences, from the same uniforms every time."""
    return part.sample(N, rng=stream(0, "sample"))


class Parts:
    """A generator, discriminators and real sequences of one size, the same every time."""

    def __init__(self, V: int, hidden: int) -> None:
        self.V = V
        with torch_seeded(stream(0, "threads")):
            self.generator = LSTMGenerator(V, T, False, embedding_dim=32, hidden_dim=hidden, init_std=0.5)
            self.small: Discriminator = discriminators["small_cnn"](V, T).eval()
            self.paper: Discriminator = discriminators["paper_cnn"](V, T).eval()
        self.oracle = Oracle.from_seed(0, vocab_size=V, sequence_length=T)
        self.real_BT = torch.from_numpy(np.random.default_rng(0).integers(V, size=(N, T)))


@pytest.fixture(scope="module")
def small() -> Parts:
    """The sizes of the preset quick."""
    return Parts(*SIZES["quick"])


@pytest.fixture(scope="module", params=SIZES)
def parts(request: pytest.FixtureRequest, small: Parts) -> Parts:
    """Those, and the paper's."""
    return small if request.param == "quick" else Parts(*SIZES[request.param])


# --- the same bits on the machines seen so far; what a BLAS promises is the last digits --------------------------


def test_sampling_gives_the_same_tokens(parts):
    for part in (parts.generator, parts.oracle):
        one_BT, two_BT = on_1_and_2(partial(drawn, part))
        assert torch.equal(one_BT, two_BT)
        assert len(one_BT.unique()) > min(parts.V // 3, 1000)


def test_log_probabilities_and_scores_of_the_small_discriminator_agree_to_1e_5(parts):
    """Measured: the same bits."""
    for work in (
        lambda: parts.generator.log_prob(parts.real_BT).detach(),
        lambda: likelihood_loss(parts.generator, parts.real_BT).detach(),
        lambda: parts.small.score(parts.real_BT),
    ):
        one, two = on_1_and_2(work)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_rollout_values_under_the_small_discriminator_agree_to_1e_5(parts):
    """Measured: the same bits."""
    tokens_BT = parts.real_BT[:8]
    uniforms_BTNT = torch.from_numpy(np.random.default_rng(1).random((8, T - 1, 4, T), dtype=np.float32))
    reward, lengths_B = FunctionReward(lambda tokens_BT, lengths_B: parts.small.score(tokens_BT)), torch.full((8,), T)
    one_BT, two_BT = on_1_and_2(lambda: action_values(parts.generator, reward, tokens_BT, lengths_B, uniforms_BTNT))
    torch.testing.assert_close(one_BT, two_BT, rtol=0, atol=1e-5)
    assert one_BT.std() > 0


def test_a_run_that_names_its_threads_gives_the_same_bytes_whatever_the_machine_has(tmp_path, monkeypatch):
    """``threads=1``, as in the preset quick: OMP_NUM_THREADS and the cores do not matter."""
    monkeypatch.setattr(results, "learning_curves", lambda *args: None)
    monkeypatch.setattr(results, "quality_coverage", lambda *args: None)
    config = tiny_config(controls=[], threads=1)
    assert isinstance(config, RunConfig)
    on_1_and_2(lambda: train(config, tmp_path / str(torch.get_num_threads()), progress=False))
    assert_same_run(tmp_path / "1", tmp_path / "2")


# --- within a tolerance -----------------------------------------------------------------------------------------


def test_scores_of_the_papers_discriminator_agree_to_1e_4(parts):
    """Logits of a few units; measured: up to 8e-6."""
    one_B, two_B = on_1_and_2(lambda: parts.paper.score(parts.real_BT))
    torch.testing.assert_close(one_B, two_B, rtol=0, atol=1e-4)


def gradient(network: torch.nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """All of a network's gradients in a row."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss(), list(network.parameters()))])


def test_gradients_agree_to_1e_5_of_their_norm(parts):
    """Measured: up to 3e-7 of the norm."""
    for network, loss in (
        (parts.generator, lambda: likelihood_loss(parts.generator, parts.real_BT[:64])),
        (parts.small, lambda: parts.small(parts.real_BT[:64]).mean()),
        (parts.paper, lambda: parts.paper(parts.real_BT[:64]).mean()),
    ):
        one, two = on_1_and_2(partial(gradient, network, loss))
        assert (one - two).norm() <= 1e-5 * one.norm()
        assert one.norm() > 0


def test_an_epoch_of_likelihood_training_agrees_to_1e_3_nats(small):
    """Gradients are rounded in another way, and Adam carries that on; measured: 2e-9 nats."""

    def fit() -> float:
        generator = copy.deepcopy(small.generator)
        trainer = LikelihoodTrainer(
            generator, small.real_BT, small.real_BT[:32], LikelihoodConfig(max_epochs=1, patience=0), stream(0, "order")
        )
        trainer.run_epoch()
        return nll_per_token(generator, small.real_BT)

    before = nll_per_token(small.generator, small.real_BT)
    one, two = on_1_and_2(fit)
    assert abs(one - two) < 1e-3
    assert before - one > 0.01


def test_discriminator_training_agrees_to_1e_2_in_logits(small):
    """Adam divides small gradients by their own size, so that rounding can turn a step round; measured: up to 5e-5."""

    def fit(name: str) -> Tensor:
        network = copy.deepcopy(getattr(small, name))
        trainer = DiscriminatorTrainer(network, small.real_BT, DiscriminatorConfig(batch_size=32), stream(0, "order"))
        trainer.train(small.real_BT.flip(1)[:64])
        return network.score(small.real_BT[:32])

    for name in ("small", "paper"):
        one_B, two_B = on_1_and_2(partial(fit, name))
        torch.testing.assert_close(one_B, two_B, rtol=0, atol=1e-2)


# --- CPU and GPU ------------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device to compare with")


@needs_cuda
@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu_does(parts):
    """Logits to 1e-4, log-probabilities to 1e-4 nats, gradients to 1e-4 of their norm (fp32, no TF32)."""
    there_BT = parts.real_BT.cuda()
    for name in ("small", "paper"):
        ours = getattr(parts, name)
        theirs_B = copy.deepcopy(ours).cuda().score(there_BT).cpu()
        torch.testing.assert_close(theirs_B, ours.score(parts.real_BT), rtol=0, atol=1e-4)
    generator = copy.deepcopy(parts.generator).cuda()
    logp_BT = parts.generator.log_prob(parts.real_BT).detach()
    torch.testing.assert_close(generator.log_prob(there_BT).detach().cpu(), logp_BT, rtol=0, atol=1e-4)
    ours_N = gradient(parts.generator, lambda: likelihood_loss(parts.generator, parts.real_BT))
    theirs_N = gradient(generator, lambda: likelihood_loss(generator, there_BT)).cpu()
    assert (ours_N - theirs_N).norm() <= 1e-4 * ours_N.norm()


@needs_cuda
@pytest.mark.gpu
def test_a_gpu_draws_the_same_tokens_except_next_to_an_edge_of_the_cdf(parts):
    """The same uniforms; where a sequence first differs, less than 1e-4 of probability lies between the two tokens."""
    ours_BT = parts.generator.sample(N, rng=stream(0, "sample"))
    theirs_BT = copy.deepcopy(parts.generator).cuda().sample(N, rng=stream(0, "sample")).cpu()
    assert apart(parts.generator, ours_BT, theirs_BT) < 1e-4
    assert (ours_BT == theirs_BT).all(dim=1).float().mean() > 0.5


def apart(generator: Generator, ours_BT: Tensor, theirs_BT: Tensor) -> float:
    """The most probability that lies strictly between the tokens at which two draws first differ."""
    worst = 0.0
    probs_BTV = generator.logits(ours_BT).detach().double().softmax(dim=2)
    for b in (ours_BT != theirs_BT).any(dim=1).nonzero().flatten().tolist():
        t = int((ours_BT[b] != theirs_BT[b]).nonzero()[0])
        low, high = sorted((int(ours_BT[b, t]), int(theirs_BT[b, t])))
        worst = max(worst, float(probs_BTV[b, t, low + 1 : high].sum()))
    return worst


def test_the_measure_between_two_draws_is_right(parts):
    """By hand: neighbours have nothing between them; words 3 and 7 have the probability of 4, 5 and 6."""
    ours_BT = parts.generator.sample(2, rng=stream(0, "sample"))
    ours_BT[:, 5] = 3
    neighbour_BT, other_BT = ours_BT.clone(), ours_BT.clone()
    neighbour_BT[:, 5:] = 4
    other_BT[0, 5:] = 7
    assert apart(parts.generator, ours_BT, ours_BT) == apart(parts.generator, ours_BT, neighbour_BT) == 0
    wanted = float(parts.generator.logits(ours_BT)[0, 5].detach().double().softmax(dim=0)[4:7].sum())
    assert apart(parts.generator, ours_BT, other_BT) == pytest.approx(wanted)
