"""The sequence VAE against numerical integration over its latent: bounds, samples, annealing, and what it is not."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from seqgan_rl import Oracle
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.envs.exact import SequenceTree
from seqgan_rl.evaluation import Evaluator
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import generators
from seqgan_rl.models.likelihood import nll_per_token, sequence_nll
from seqgan_rl.models.sampling import SamplingOptions
from seqgan_rl.models.vae import SequenceVAE, VAEConfig, VAETrainer, _GivenLatent, gaussian_kl
from seqgan_rl.sequences.padding import lengths_from_tokens

torch.set_num_threads(1)

CASES: dict[str, dict[str, Any]] = {
    "one latent": {"latent_dim": 1, "latent_input": False},
    "two latents": {"latent_dim": 2, "latent_input": True},
}


def make_vae(num_actions: int = 4, sequence_length: int = 3, has_eos: bool = True, **options: Any) -> SequenceVAE:
    """Weights so large that the latent decides what is said."""
    options = {"embedding_dim": 4, "hidden_dim": 6} | options
    with torch_seeded(np.random.default_rng(0)):
        vae = SequenceVAE(num_actions, sequence_length, has_eos, **options)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name in ("initial.weight", "output_weight", "lstm.weight_ih_l0"):
                parameter.mul_(3)
    return vae.eval()


def quadrature(dim: int, nodes: int = 60) -> tuple[Tensor, Tensor]:
    """Nodes (Q, Z) and weights (Q,) of the integral over N(0, I), float64 (Gauss-Hermite)."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    grid = np.stack(np.meshgrid(*[x] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    weight = np.prod(np.stack(np.meshgrid(*[w] * dim, indexing="ij"), axis=-1).reshape(-1, dim), axis=1)
    return torch.from_numpy(grid), torch.from_numpy(weight)


@torch.no_grad()
def given(vae: SequenceVAE, tokens_NT: Tensor, latent_QZ: Tensor, **options: Any) -> Tensor:
    """log p(Y_{1:t} | z) of every sequence and node, (N, Q, T)."""
    Q = len(latent_QZ)
    rows = tokens_NT.repeat_interleave(Q, dim=0), latent_QZ.to(vae.output_weight.dtype).repeat(len(tokens_NT), 1)
    return vae.decode(*rows, SamplingOptions(**options)).view(len(tokens_NT), Q, -1).cumsum(dim=2)


def exact_log_prob(vae: SequenceVAE, tokens_NT: Tensor, **options: Any) -> Tensor:
    """log p(Y_{1:t}), (N, T), by quadrature over the prior."""
    nodes, weights = quadrature(vae.latent_dim)
    return (given(vae, tokens_NT, nodes, **options) + weights.log()[:, None]).logsumexp(dim=1)


# ---------------------------------------------------------------- bounds


def test_the_kl_is_that_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    mean_BZ, log_variance_BZ = torch.randn(2, 5, 3, generator=rng, dtype=torch.float64)
    q, p = (
        Independent(Normal(m, s), 1)
        for m, s in ((mean_BZ, (log_variance_BZ / 2).exp()), (0 * mean_BZ, 1 + 0 * mean_BZ))
    )
    torch.testing.assert_close(gaussian_kl(mean_BZ, log_variance_BZ), kl_divergence(q, p), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_probabilities_of_all_sequences_sum_to_1_and_the_elbo_stays_below_them(case: str) -> None:
    """By quadrature over prior and posterior, float64. log p(Y) - ELBO = KL(q(z | Y) || p(z | Y)), and the latent
    matters: some sequences are several times as likely under one z as on average."""
    vae = make_vae(**CASES[case]).double()
    tokens_NT, _ = SequenceTree(3, 3, has_eos=True).sequences()
    logp_N = exact_log_prob(vae, tokens_NT)[:, -1]
    assert float(logp_N.exp().sum()) == pytest.approx(1, abs=1e-9)
    nodes_QZ, weights_Q = quadrature(vae.latent_dim, 30)
    with torch.no_grad():
        mean_NZ, log_variance_NZ = vae.encode(tokens_NT)
    terms = [torch.stack(vae.elbo(tokens_NT, node_Z.expand(len(tokens_NT), -1))).detach() for node_Z in nodes_QZ]
    likelihood_QN, kl_QN = torch.stack(terms).unbind(1)
    elbo_N = (weights_Q[:, None] * (likelihood_QN - kl_QN)).sum(dim=0)
    torch.testing.assert_close(kl_QN[0], gaussian_kl(mean_NZ, log_variance_NZ))
    # the gap by its definition: E_q[log q(z | Y) - log p(Y, z) + log p(Y)]
    sigma_NZ = (log_variance_NZ / 2).exp()
    latent_QNZ = mean_NZ + sigma_NZ * nodes_QZ[:, None]
    log_q_QN = Normal(mean_NZ, sigma_NZ).log_prob(latent_QNZ).sum(dim=2)
    log_prior_QN = Normal(0.0, 1.0).log_prob(latent_QNZ).sum(dim=2)
    gap_N = (weights_Q[:, None] * (log_q_QN - log_prior_QN - likelihood_QN + logp_N)).sum(dim=0)
    torch.testing.assert_close(logp_N - elbo_N, gap_N, rtol=0, atol=1e-9)
    assert (gap_N > 0).all()
    assert (likelihood_QN.max(dim=0).values - logp_N).max() > 0.5


@pytest.mark.parametrize("case", CASES)
def test_the_importance_weighted_bound_rises_with_k_to_the_truth(case: str) -> None:
    """300 estimates for each of 40 sequences. Mean bounds at K = 1, 4, 16 rise and stay below log p(Y) by quadrature;
    K = 256 is within 0.01 nats; exp of the bound is unbiased for p(Y_{1:t}) at every t: z-test, false alarm 1e-6."""
    vae, n = make_vae(**CASES[case]), 300
    tokens_NT, lengths_N = SequenceTree(3, 3, has_eos=True).sequences()
    exact_NT = exact_log_prob(copy.deepcopy(vae).double(), tokens_NT)
    rng, mean_of = np.random.default_rng(0), {}
    for K in (1, 4, 16):
        with torch.no_grad():
            rows_RT = vae.log_prob(tokens_NT.repeat(n, 1), num_samples=K, rng=rng).double()
        bound_SNT = rows_RT.view(n, len(tokens_NT), -1).cumsum(dim=2)
        mean_of[K] = float(bound_SNT[:, :, -1].mean())
        error_SNT = bound_SNT.exp() - exact_NT.exp()
        z_NT = error_SNT.mean(dim=0) / (error_SNT.std(dim=0) / math.sqrt(n) + 1e-9)
        assert float(z_NT.abs().max()) < stats.norm.isf(1e-6 / (2 * 120)), K
    truth = float(exact_NT[:, -1].mean())
    assert mean_of[1] < mean_of[4] < mean_of[16] < truth
    assert mean_of[4] - mean_of[1] > 0.01
    with torch.no_grad():
        fine_NT = vae.log_prob(tokens_NT, num_samples=256).double()
    assert float(fine_NT.sum(dim=1).mean()) == pytest.approx(truth, abs=0.01)
    assert (fine_NT[tokens_NT == 4] == 0).all()
    assert lengths_N.min() == 1


def test_scores_are_reproducible_and_temperature_and_forbidden_words_reach_them() -> None:
    vae = make_vae(**CASES["one latent"], num_samples=256)
    tokens_NT, _ = SequenceTree(3, 3, has_eos=True).sequences()
    assert torch.equal(sequence_nll(vae, tokens_NT), sequence_nll(vae, tokens_NT))
    for options in ({"temperature": 0.5}, {"forbidden": (1,)}):
        exact_N = exact_log_prob(copy.deepcopy(vae).double(), tokens_NT, **options)[:, -1]
        found_N = -sequence_nll(vae, tokens_NT, **options)
        assert torch.equal(found_N.isinf(), exact_N.isinf())
        is_possible_N = exact_N.isfinite()
        assert float((found_N - exact_N)[is_possible_N].abs().mean()) < 0.05
        assert float(exact_N.exp().sum()) == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "forbidden": (2,)}], ids=["plain", "reshaped"])
def test_samples_follow_the_marginal_distribution(case: str, options: dict[str, Any]) -> None:
    """20,000 sequences against quadrature, all 40 of the task; chi-square, false alarm 1e-6."""
    vae, n = make_vae(**CASES[case]), 20_000
    tree = SequenceTree(3, 3, has_eos=True)
    tokens_NT, _ = tree.sequences()
    p_N = exact_log_prob(copy.deepcopy(vae).double(), tokens_NT, **options)[:, -1].exp().numpy()
    tokens_BT = vae.sample(n, rng=np.random.default_rng(0), **options)
    lengths_B = torch.from_numpy(lengths_from_tokens(tokens_BT.numpy(), 4))
    counts_N = np.bincount(tree.numbers(tokens_BT, lengths_B).numpy(), minlength=len(p_N))
    frequent = p_N * n > 5
    assert counts_N[p_N == 0].sum() == 0
    assert (
        stats.chisquare(
            [*counts_N[frequent], counts_N[~frequent].sum() + 1e-9],
            [*(p_N[frequent] * n), n * p_N[~frequent].sum() + 1e-9],
        ).pvalue
        > 1e-6
    )


def test_decoding_step_by_step_is_decoding_at_once() -> None:
    vae = make_vae(**CASES["two latents"])
    tokens_BT, latent_BZ = torch.tensor([[0, 1, 2], [2, 3, 4]]), torch.randn(2, 2)
    policy, last_B, columns = _GivenLatent(vae, latent_BZ), torch.tensor([4, 4]), []
    state = policy.initial_state(2)
    for t in range(3):
        logits_BA, state = policy.step(last_B, state)
        last_B = tokens_BT[:, t]
        columns.append(logits_BA.log_softmax(dim=1).gather(1, last_B.clamp_max(3)[:, None]))
    expected_BT = torch.where(tokens_BT == 4, 0.0, torch.cat(columns, dim=1))
    torch.testing.assert_close(vae.decode(tokens_BT, latent_BZ), expected_BT)


def test_it_is_evaluated_saved_and_loaded_like_a_generator(tmp_path: Path) -> None:
    oracle = Oracle.from_seed(0, vocab_size=4, sequence_length=3)
    test_BT = oracle.sample(200, np.random.default_rng(1))
    vae = make_vae(4, 3, has_eos=False, latent_dim=2)
    scores = Evaluator(test_BT, oracle=oracle, n_samples=300).scores(vae, temperature=0.9)
    assert scores.nll_test == pytest.approx(nll_per_token(vae, test_BT, temperature=0.9), abs=1e-9)
    assert scores.nll_oracle is not None
    save_model(tmp_path / "vae", vae, "vae")
    again = load_model(tmp_path / "vae", generators)
    assert isinstance(again, SequenceVAE)
    assert torch.equal(again.sample(9, rng=np.random.default_rng(2)), vae.sample(9, rng=np.random.default_rng(2)))
    assert torch.equal(sequence_nll(again, test_BT), sequence_nll(vae, test_BT))


def test_what_it_cannot_do_says_so() -> None:
    vae, tokens_BT = make_vae(), torch.tensor([[0, 1, 2]])
    with pytest.raises(TypeError, match="a VAE is no policy: it samples and scores whole sequences"):
        vae.initial_state(1)
    with pytest.raises(TypeError, match="a VAE is no policy"):
        vae.step(tokens_BT[:, 0], ())
    with pytest.raises(ValueError, match="a VAE continues no prompt"):
        vae.sample(2, prefix=[1], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="not known under top_k or top_p"):
        vae.log_prob(tokens_BT, top_k=2)
    with pytest.raises(ValueError, match="latent_dim must be at least 1, got 0"):
        SequenceVAE(4, 3, latent_dim=0)
    with pytest.raises(ValueError, match=r"num_samples must be a whole number in \[1, 10000\], got 1000000"):
        SequenceVAE(4, 3, num_samples=10**6)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"annealing_minibatches": 50}, {0: 0.0, 10: 0.2, 50: 1.0, 99: 1.0}),
        ({"annealing_minibatches": 50, "kl_annealing": "sigmoid"}, {0: 1 / (1 + math.exp(5)), 25: 0.5, 10**6: 1.0}),
        ({"kl_annealing": "none"}, {0: 1.0, 7: 1.0}),
    ],
)
def test_the_weight_of_the_kl_rises_as_asked(options: dict[str, Any], expected: dict[int, float]) -> None:
    config = VAEConfig(**options)
    for i, weight in expected.items():
        assert config.kl_weight(i) == pytest.approx(weight, abs=1e-12)


def two_topics(n: int, rng: np.random.Generator) -> Tensor:
    """T = 8; a sequence speaks of words 0 and 1 or of words 2 and 3, at random. ln 2 + 8 ln 2 = 6.24 nats a sequence,
    0.78 a token; a model that does not know what a sequence is about would pay ln 4 = 1.39."""
    return torch.from_numpy(2 * rng.integers(2, size=(n, 1)) + rng.integers(2, size=(n, 8)))


def small_trainer(**options: Any) -> VAETrainer:
    rng = np.random.default_rng(3)
    data_BT = two_topics(240, rng)
    config = VAEConfig(**{"batch_size": 20, "max_epochs": 6, "patience": 1, "annealing_minibatches": 30} | options)
    with torch_seeded(np.random.default_rng(9)):
        vae = SequenceVAE(4, 8, embedding_dim=8, hidden_dim=16, latent_dim=2, num_samples=4)
    return VAETrainer(vae, data_BT[:200], data_BT[200:], config, rng)


def test_the_latent_learns_what_a_sequence_is_about() -> None:
    """With half of the words dropped the topic goes through the latent, at a cost near ln 2 = 0.69 nats, and the bound
    comes near the truth of 0.780 nats a token. Samples are of one topic, each as often."""
    trainer = small_trainer(word_dropout=0.5, max_epochs=25, patience=0)
    last = list(trainer.epochs())[-1]
    vae = trainer.generator
    assert last["kl"] > 0.5
    assert 0.77 < nll_per_token(vae, two_topics(500, np.random.default_rng(5)), num_samples=64) < 0.80
    is_second_BT = vae.sample(500, rng=np.random.default_rng(6)) >= 2
    assert float((is_second_BT.all(dim=1) | ~is_second_BT.any(dim=1)).double().mean()) > 0.95
    assert 0.4 < float(is_second_BT.double().mean()) < 0.6


def test_the_loss_is_minus_the_annealed_elbo_a_token() -> None:
    """With the same noise and the same dropped words, drawn here once more; dropped ones are read as the last row."""
    trainer = small_trainer(word_dropout=0.5)
    vae, tokens_BT, trainer.minibatches = trainer.generator, trainer.train_BT[:20], 12
    with torch_seeded(np.random.default_rng(0)):
        loss = float(trainer.loss(tokens_BT).detach())
    with torch_seeded(np.random.default_rng(0)):
        noise_BZ, is_dropped_BT = torch.randn(20, 2), torch.rand(20, 8) < 0.5
    mean_BZ, log_variance_BZ = vae.encode(tokens_BT)
    latent_BZ = mean_BZ + log_variance_BZ.exp().sqrt() * noise_BZ
    read_BT = torch.where(is_dropped_BT, 5, tokens_BT)
    likelihood = vae.decode(tokens_BT, latent_BZ, read_BT=read_BT).sum()
    expected = (0.4 * gaussian_kl(mean_BZ, log_variance_BZ).sum() - likelihood) / 160
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    undropped = float((likelihood - vae.decode(tokens_BT, latent_BZ).sum()).detach()) / 160
    assert abs(undropped) > 1e-3


def test_patience_begins_when_the_annealing_is_over() -> None:
    """Three epochs of ten minibatches anneal. Nothing that was found before or in them stops the run (patience 1, no
    decays, and a validation score to begin with that nothing reaches), and the weights after it are kept."""
    trainer = small_trainer(decays=0)
    trainer.best_nll = -1.0
    history = list(trainer.epochs())
    assert [figures["kl_weight"] for figures in history][:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert len(history) > 3
    best = min(figures["valid_nll"] for figures in history[1:])
    assert nll_per_token(trainer.generator, trainer.valid_BT) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("epochs_before", [0, 2, 4])
def test_a_resumed_training_gives_the_same_bits(epochs_before: int) -> None:
    whole, first, second = small_trainer(), small_trainer(), small_trainer()
    expected = list(whole.epochs())
    got = [first.run_epoch() for _ in range(epochs_before)]
    second.rng.random(17)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    got += list(second.epochs())
    assert got == expected
    for name, weights in whole.generator.state_dict().items():
        assert torch.equal(second.generator.state_dict()[name], weights), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kl_annealing": "cosine"}, 'kl_annealing must be "linear", "sigmoid" or "none", got \'cosine\''),
        ({"annealing_minibatches": 0}, "annealing_minibatches must be at least 1, got 0"),
        ({"word_dropout": 1.5}, r"word_dropout must lie in \[0, 1\], got 1.5"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        VAEConfig(**options)
