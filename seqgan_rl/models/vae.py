"""A variational autoencoder of sequences: an LSTM language model given a Gaussian latent of the whole sequence.

S. Bowman, Vilnis, Vinyals, Dai, Jozefowicz, S. Bengio: "Generating Sentences from a Continuous Space" (CoNLL 2016,
arXiv:1511.06349). The likelihood is estimated by importance sampling: Burda, Grosse, Salakhutdinov: "Importance
Weighted Autoencoders" (ICLR 2016, arXiv:1509.00519).
Letters: B sequences, T tokens each, A actions, E embedding, H hidden units, Z latent dimensions, K importance samples.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.models.decoding import Decoder, State, complete
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.kernels import linear_log_prob
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer
from seqgan_rl.models.sampling import SamplingOptions, ids_on

MAX_SAMPLES = 10_000
"""More importance samples than this are a mistake, or a stranger's file."""


@generators.register("vae")
class SequenceVAE(Generator):
    """p(Y) = ∫ N(z; 0, I) Π_t p(y_t | Y_{1:t-1}, z) dz, with an LSTM encoder q(z | Y) = N(μ(Y), diag σ²(Y)).

    It samples sequences and scores them, and can so be evaluated like any generator. It is no policy: the next-token
    distribution after a prefix is an integral over z that has no closed form, so ``initial_state`` and ``step`` raise,
    and with them everything that goes token by token (rollouts, agents, prompts). :meth:`log_prob` is an estimate.

    Args:
        num_actions, sequence_length, has_eos: the task, see :class:`Generator`.
        embedding_dim: E; encoder and decoder have one embedding table.
        hidden_dim: H, of the encoder and of the decoder.
        latent_dim: Z.
        latent_input: give z to the decoder at every step too, not only as its initial state.
        num_samples: K of :meth:`log_prob`, which costs K times a language model's.

    Initial weights are torch's defaults, from its global generator.
    """

    is_policy = False

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        has_eos: bool = False,
        *,
        embedding_dim: int = 32,
        hidden_dim: int = 32,
        latent_dim: int = 16,
        latent_input: bool = False,
        num_samples: int = 16,
    ) -> None:
        sizes = {"embedding_dim": embedding_dim, "hidden_dim": hidden_dim, "latent_dim": latent_dim}
        super().__init__(
            num_actions, sequence_length, has_eos, **sizes, latent_input=latent_input, num_samples=num_samples
        )
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not isinstance(num_samples, int) or not 1 <= num_samples <= MAX_SAMPLES:
            raise ValueError(f"num_samples must be a whole number in [1, {MAX_SAMPLES}], got {num_samples}")
        A, E, H, Z = num_actions, embedding_dim, hidden_dim, latent_dim
        self.latent_dim, self.latent_input, self.num_samples = Z, latent_input, num_samples
        self.embedding = nn.Embedding(A + 2, E)  # PAD is the start symbol; the last row stands for a dropped word
        self.encoder = nn.LSTM(E, H, batch_first=True)
        self.posterior = nn.Linear(H, 2 * Z)
        self.initial = nn.Linear(Z, 2 * H)
        self.lstm = nn.LSTM(E + Z * latent_input, H, batch_first=True)
        self.output_weight = nn.Parameter(torch.empty(H, A).uniform_(-(H**-0.5), H**-0.5))
        self.output_bias = nn.Parameter(torch.zeros(A))

    # --- the model ----------------------------------------------------------------------------------------------

    def encode(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of q(z | Y), each (B, Z)."""
        hidden_BTH, _ = self.encoder(self.embedding(tokens_BT))
        last_B = (tokens_BT != self.pad_id).sum(dim=1) - 1
        hidden_BH = hidden_BTH[torch.arange(len(tokens_BT), device=tokens_BT.device), last_B]
        mean_BZ, log_variance_BZ = self.posterior(hidden_BH).chunk(2, dim=1)
        return mean_BZ, log_variance_BZ

    def decode(
        self,
        tokens_BT: Tensor,
        latent_BZ: Tensor,
        options: SamplingOptions | None = None,
        read_BT: Tensor | None = None,
    ) -> Tensor:
        """log p(y_t | Y_{1:t-1}, z), (B, T), 0 at PAD; differentiable.

        Args:
            tokens_BT: int64.
            latent_BZ: z.
            options: reshape the distributions; no top-k or top-p.
            read_BT: what the decoder reads in place of the tokens (word dropout); None: the tokens.
        """
        options = options or SamplingOptions()
        if options.filters:
            raise ValueError("the likelihood of a VAE is not known under top_k or top_p; score it without them")
        is_token_BT = tokens_BT != self.pad_id
        before_BT = torch.roll(tokens_BT if read_BT is None else read_BT, 1, dims=1)
        before_BT[:, 0] = self.pad_id
        hidden_BTH, _ = self.lstm(self._inputs(before_BT, latent_BZ), self._initial(latent_BZ))
        bias_A: Tensor = self.output_bias
        if options.forbidden:
            bias_A = bias_A.index_fill(0, ids_on(options.forbidden, bias_A.device), -math.inf)
        targets_R = tokens_BT.masked_fill(~is_token_BT, 0).flatten()
        hidden_RH, bias_A = hidden_BTH.flatten(0, 1) / options.temperature, bias_A / options.temperature
        logp_R = linear_log_prob(hidden_RH, self.output_weight, bias_A, targets_R)
        return torch.where(is_token_BT, logp_R.view(tokens_BT.shape), 0.0)

    def elbo(self, tokens_BT: Tensor, noise_BZ: Tensor, read_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two terms of the evidence lower bound of each sequence, nats, (B,), differentiable: log p(Y | z) at
        z = μ + σ noise, and KL(q(z | Y) || N(0, I)). Their difference is, in expectation over the noise, at most
        log p(Y)."""
        mean_BZ, log_variance_BZ = self.encode(tokens_BT)
        latent_BZ = mean_BZ + (log_variance_BZ / 2).exp() * noise_BZ
        log_likelihood_B = self.decode(tokens_BT, latent_BZ, read_BT=read_BT).sum(dim=1)
        return log_likelihood_B, gaussian_kl(mean_BZ, log_variance_BZ)

    def _inputs(self, read_BT: Tensor, latent_BZ: Tensor) -> Tensor:
        """What the decoder is given at each step."""
        embedded_BTE: Tensor = self.embedding(read_BT)
        if not self.latent_input:
            return embedded_BTE
        return torch.cat([embedded_BTE, latent_BZ[:, None].expand(-1, read_BT.shape[1], -1)], dim=2)

    def _initial(self, latent_BZ: Tensor) -> State:
        """The decoder's first hidden and cell state, (1, B, H)."""
        hidden_BH, cell_BH = self.initial(latent_BZ).tanh().chunk(2, dim=1)
        return hidden_BH[None].contiguous(), cell_BH[None].contiguous()

    # --- as a generator -----------------------------------------------------------------------------------------

    def log_prob(
        self,
        tokens_BT: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        forbidden: tuple[int, ...] = (),
        num_samples: int | None = None,
        rng: np.random.Generator | None = None,
    ) -> Tensor:
        """An importance-sampled estimate of log p(y_t | Y_{1:t-1}), (B, T), 0 at PAD.

        The entries of a row sum to log 1/K Σ_k p(Y | z_k) p(z_k) / q(z_k | Y), z_k ~ q, which is at most log p(Y) in
        expectation and approaches it as K grows: a negative log-likelihood made of it is an *upper* bound. An entry is
        the difference of the same bound for two prefixes, and bounds nothing by itself.

        Args:
            tokens_BT: int64.
            temperature, forbidden: of the decoder, as it samples; z is not touched.
            top_k, top_p: must be None.
            num_samples: K; None: as the model was made.
            rng: None: always the same noise, so that equal sequences in equal rows have equal estimates.
        """
        options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, forbidden=forbidden)
        K, rng = num_samples or self.num_samples, rng or np.random.default_rng(0)
        mean_BZ, log_variance_BZ = self.encode(tokens_BT)
        log_weights, prefixes = [], []
        for _ in range(K):
            noise_BZ = torch.from_numpy(rng.standard_normal(mean_BZ.shape, dtype=np.float32)).to(mean_BZ)
            latent_BZ = mean_BZ + (log_variance_BZ / 2).exp() * noise_BZ
            # log p(z) - log q(z | Y); the constants cancel
            log_weights.append((noise_BZ.square() - latent_BZ.square() + log_variance_BZ).sum(dim=1) / 2)
            prefixes.append(self.decode(tokens_BT, latent_BZ, options).cumsum(dim=1))
        log_weight_KB1, prefix_KBT = torch.stack(log_weights)[:, :, None], torch.stack(prefixes)
        bound_BT = (log_weight_KB1 + prefix_KBT).logsumexp(dim=0) - math.log(K)
        before_BT = nn.functional.pad(bound_BT[:, :-1], (1, 0))
        return bound_BT - before_BT.masked_fill(before_BT == -math.inf, 0.0)  # after what is impossible it stays so

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        prefix: Tensor | list[int] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        forbidden: tuple[int, ...] = (),
        rng: np.random.Generator,
    ) -> Tensor:
        """Draw ``n`` sequences: z from the prior, then the tokens, with the options of :meth:`Generator.sample`.

        Raises:
            ValueError: for a ``prefix``; z would have to be drawn from its posterior.
        """
        if prefix is not None and len(prefix):
            raise ValueError("a VAE continues no prompt: its latent would have to be drawn from the prompt's posterior")
        T, device = self.sequence_length, self.device
        latent_BZ = torch.from_numpy(rng.standard_normal((n, self.latent_dim), dtype=np.float32)).to(device)
        uniforms_BT = torch.from_numpy(rng.random((n, T), dtype=np.float32)).to(device)
        options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, forbidden=forbidden)
        rows_B = torch.arange(n, device=device)
        tokens_BT = torch.full((n, T), self.pad_id, dtype=torch.int64, device=device)
        with evaluation_mode(self):
            decoder = Decoder(_GivenLatent(self, latent_BZ), options)
            return complete(decoder, tokens_BT, rows_B, torch.zeros_like(rows_B), uniforms_BT[:, None])[0]

    def initial_state(self, batch_size: int) -> State:
        """TypeError: there is no state before z is known."""
        raise TypeError("a VAE is no policy: it samples and scores whole sequences, and cannot go on from a prefix")

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """TypeError, as of :meth:`initial_state`."""
        return self.initial_state(len(tokens_B))[0], state


class _GivenLatent:
    """The decoder with one z a row: a policy, for one batch."""

    def __init__(self, vae: SequenceVAE, latent_BZ: Tensor) -> None:
        self.vae, self.latent_BZ = vae, latent_BZ
        self.num_actions, self.eos_id = vae.num_actions, vae.eos_id

    def initial_state(self, batch_size: int) -> State:
        assert batch_size == len(self.latent_BZ)
        hidden_1BH, cell_1BH = self.vae._initial(self.latent_BZ)
        return hidden_1BH[0], cell_1BH[0], self.latent_BZ

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        hidden_BH, cell_BH, latent_BZ = state
        inputs_B1I = self.vae._inputs(tokens_B[:, None], latent_BZ)
        _, (hidden_1BH, cell_1BH) = self.vae.lstm(
            inputs_B1I, (hidden_BH[None].contiguous(), cell_BH[None].contiguous())
        )
        logits_BA = torch.addmm(self.vae.output_bias, hidden_1BH[0], self.vae.output_weight)
        return logits_BA, (hidden_1BH[0], cell_1BH[0], latent_BZ)


def gaussian_kl(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) || N(0, I)), nats, (B,)."""
    return (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(dim=1) / 2


@dataclass(frozen=True, kw_only=True)
class VAEConfig(LikelihoodConfig):
    """How a sequence VAE is fitted. Patience begins when the annealing is over; validation is by the
    importance-weighted bound."""

    kl_annealing: str = "linear"
    """How the weight of the KL term rises from 0 to 1: "linear", "sigmoid" or "none" (always 1)."""
    annealing_minibatches: int = 1000
    """Minibatches until the weight is 1 ("linear"), or twice those until it is one half ("sigmoid")."""
    word_dropout: float = 0.25
    """Share of the words that the decoder reads as "dropped"; the encoder reads them all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kl_annealing not in ("linear", "sigmoid", "none"):
            raise ValueError(f'kl_annealing must be "linear", "sigmoid" or "none", got {self.kl_annealing!r}')
        if self.annealing_minibatches < 1:
            raise ValueError(f"annealing_minibatches must be at least 1, got {self.annealing_minibatches}")
        if not 0 <= self.word_dropout <= 1:
            raise ValueError(f"word_dropout must lie in [0, 1], got {self.word_dropout}")

    def kl_weight(self, minibatch: int) -> float:
        """Weight of the KL term in minibatch i = 0, 1, ...: min(1, i / N), or the logistic function of 10 (i / N - ½),
        which runs from 0.007 to 0.993."""
        share = minibatch / self.annealing_minibatches
        match self.kl_annealing:
            case "linear":
                return min(1.0, share)
            case "sigmoid":
                return 1 / (1 + math.exp(-10 * min(share - 0.5, 50.0)))
            case _:
                return 1.0


class VAETrainer(LikelihoodTrainer):
    """:class:`LikelihoodTrainer` for a :class:`SequenceVAE`: minimises minus the ELBO per token, its KL term annealed.

    Noise and dropped words are drawn from ``rng`` too.
    """

    generator: SequenceVAE
    config: VAEConfig
    _kl = 0.0

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """-(log p(Y | z) - weight * KL), nats per token."""
        vae, is_token_BT = self.generator, tokens_BT != self.generator.pad_id
        noise_BZ = torch.randn(len(tokens_BT), vae.latent_dim, device=tokens_BT.device)  # seeded by `run_epoch`
        is_dropped_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device) < self.config.word_dropout
        read_BT = tokens_BT.masked_fill(is_dropped_BT & is_token_BT, vae.num_actions + 1)
        log_likelihood_B, kl_B = vae.elbo(tokens_BT, noise_BZ, read_BT)
        self._kl = float(kl_B.detach().mean())
        return (self.kl_weight * kl_B - log_likelihood_B).sum() / is_token_BT.sum()

    @property
    def kl_weight(self) -> float:
        """Of the minibatch that comes next."""
        return self.config.kl_weight(self.minibatches)

    def figures(self) -> dict[str, float]:
        """Weight of the KL term, and KL(q || prior) of the last minibatch, nats per sequence: 0 is a latent that says
        nothing."""
        return {"kl_weight": self.kl_weight, "kl": self._kl}

    def _keep_or_stop(self, valid_nll: float) -> None:
        if self.kl_weight < 0.99:  # the objective is not yet the ELBO
            self.best_nll = math.inf
        super()._keep_or_stop(valid_nll)
