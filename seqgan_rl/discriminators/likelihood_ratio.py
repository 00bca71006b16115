"""Two language models as a discriminator: one of real sequences, one of generated ones; the logit is their log-ratio.

The best possible discriminator is log p(Y) - log G(Y) (Goodfellow et al. 2014, Proposition 1). Here both are estimated,
each by maximum likelihood on its own sequences: a generative classifier, which needs less data than one that is trained
to tell the two apart (Ng and Jordan, NIPS 2001). The mediator of CoT (Lu et al. 2018, arXiv:1804.03782) is its kin.
Letters: B sequences, T tokens each, K models of real sequences, H hidden units.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.discriminators.base import Discriminator, discriminators
from seqgan_rl.models.generator import Generator, LSTMGenerator


@discriminators.register("likelihood_ratio")
class LikelihoodRatioDiscriminator(Discriminator):
    """logit(Y) = Σ_t log p(y_t | Y_{1:t-1}) - log q(y_t | Y_{1:t-1}): p is fitted to real, q to generated sequences.

    p is the mean, token by token, of K models that differ in their initial weights and are each trained alone. q is the
    agent's generator itself, a copy renewed before each retraining, where that is an LSTM of the same sizes; else it is
    fitted too. Nothing is trained by Eq. (5): see :meth:`generative_loss`.

    Args:
        num_actions, sequence_length: the task, see :class:`Discriminator`. EOS is a word like any other here.
        embedding_dim, hidden_dim: of every model, an :class:`~seqgan_rl.models.generator.LSTMGenerator`.
        size: K.
    """

    def __init__(
        self, num_actions: int, sequence_length: int, *, embedding_dim: int = 32, hidden_dim: int = 32, size: int = 2
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 model of real sequences, got {size}")
        super().__init__(num_actions, sequence_length, embedding_dim=embedding_dim, hidden_dim=hidden_dim, size=size)

        def model() -> LSTMGenerator:
            return LSTMGenerator(num_actions, sequence_length, embedding_dim=embedding_dim, hidden_dim=hidden_dim)

        self.real = nn.ModuleList([model() for _ in range(size)])
        self.generated = model()
        self.register_buffer("is_following", torch.tensor(False))

    def log_ratios(self, tokens_BT: Tensor) -> Tensor:
        """log p - log q of every token given its prefix, nats, float32, (B, T), 0 at PAD. Differentiable."""
        return _log_mean([model.log_prob(tokens_BT) for model in self.models_of_real]) - self.generated.log_prob(
            tokens_BT
        )

    is_following: Tensor
    """Whether q is the generator; bool, ()."""

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.forward`."""
        return self.log_ratios(tokens_BT).sum(dim=1)

    @torch.no_grad()
    def score_prefixes(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.score_prefixes`; all prefixes of a sequence are read at once."""
        with evaluation_mode(self):
            return torch.cat([self.log_ratios(part).cumsum(dim=1) for part in self.in_parts(tokens_BT)])

    def generative_loss(self, real_BT: Tensor, generated_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Discriminator.generative_loss`: Σ_t of the negative log-likelihoods over T, each model's of its
        own sequences, a mean over sequences and models; that of q is constant where it is the generator."""
        models = self.models_of_real
        nll_K, logp_KBT = zip(*(_mean_nll(model, real_BT) for model in models), strict=True)
        with torch.set_grad_enabled(not self.is_following):
            nll, logq_BT = _mean_nll(self.generated, generated_BT)
        with torch.no_grad():
            real_B = (_log_mean(logp_KBT) - self.generated.log_prob(real_BT)).sum(dim=1)
            generated_B = (_log_mean([m.log_prob(generated_BT) for m in models]) - logq_BT).sum(dim=1)
        return torch.stack(nll_K).mean(), nll, torch.cat([real_B, generated_B])

    @torch.no_grad()
    def follow(self, generator: Generator) -> None:
        """See :meth:`Discriminator.follow`: q becomes a copy of the generator, if it is of q's kind and sizes. Words
        that are never sampled have their share in it all the same, as they have in p."""
        weights, own = generator.state_dict(), self.generated.state_dict()
        if {name: w.shape for name, w in weights.items()} == {name: w.shape for name, w in own.items()}:
            self.generated.load_state_dict(weights)
            self.is_following.fill_(True)

    def undecayed(self) -> list[nn.Parameter]:
        """See :meth:`Discriminator.undecayed`: biases, which hold the words' frequencies, and q, which is to be no
        smoother than the generator is."""
        return [*self.generated.parameters(), *(weight for weight in self.real.parameters() if weight.dim() <= 1)]

    def features(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.features`: the mean state of every model over the tokens, (B, (K + 1) H)."""
        is_token_BT1 = (tokens_BT != self.num_actions)[:, :, None]
        states_BTF = torch.cat([m.features(tokens_BT) for m in (*self.models_of_real, self.generated)], dim=2)
        return torch.where(is_token_BT1, states_BTF, 0.0).sum(dim=1) / is_token_BT1.sum(dim=1).clamp_min(1)

    @property
    def models_of_real(self) -> list[LSTMGenerator]:
        """The K models that p is the mean of."""
        return [model for model in self.real if isinstance(model, LSTMGenerator)]


def _log_mean(logp_KBT: Sequence[Tensor]) -> Tensor:
    """The log of the mean of K probabilities, (B, T)."""
    return torch.stack(list(logp_KBT)).logsumexp(dim=0) - math.log(len(logp_KBT))


def _mean_nll(model: LSTMGenerator, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_t -log p / T, a mean over sequences, differentiable; and log p of the tokens, (B, T)."""
    weights_BT = torch.full(tokens_BT.shape, 1 / max(1, tokens_BT.numel()), device=tokens_BT.device)
    return model.weighted_nll(tokens_BT, weights_BT)
