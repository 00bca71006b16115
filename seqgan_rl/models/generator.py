"""Sequence generators: a policy over next tokens with an incremental contract, and the paper's LSTM.

The contract is two methods, ``initial_state`` and ``step``; sampling, completing prefixes and exact log-probabilities
follow from them. Words are ids 0..V-1, EOS (variable length only) is V, PAD is ``num_actions``; the first step reads
PAD, whose embedding row is the begin-of-sequence symbol.
Letters: B sequences, T tokens each, R rows in flight, A actions (V, or V + 1 with EOS), E embedding, H hidden units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from seqgan_rl.core.registry import Registry
from seqgan_rl.models.decoding import Decoder, State, complete
from seqgan_rl.models.kernels import linear_log_prob, linear_weighted_nll
from seqgan_rl.models.lstm_decoder import LSTMDecoder, lstm_state
from seqgan_rl.models.sampling import PLAIN, SamplingOptions, check_forbidden


class Generator(nn.Module, ABC):
    """A language model over token ids that is at the same time a policy over next tokens.

    Subclasses implement :meth:`initial_state` and :meth:`step`, and take ``(num_actions, sequence_length, has_eos,
    **options)``; everything else follows, and may be overridden where a faster exact way exists.
    """

    is_policy: ClassVar[bool] = True
    """Whether there are next-token distributions. A model without samples and scores whole sequences only."""

    def __init__(self, num_actions: int, sequence_length: int, has_eos: bool, **options: Any) -> None:
        super().__init__()
        if num_actions < 2:
            raise ValueError(f"num_actions must be at least 2, got {num_actions}")
        if sequence_length < 1:
            raise ValueError(f"sequence_length must be at least 1, got {sequence_length}")
        self.num_actions, self.sequence_length = num_actions, sequence_length
        self.eos_id = num_actions - 1 if has_eos else None
        self.config: dict[str, Any] = {
            "num_actions": num_actions,
            "sequence_length": sequence_length,
            "has_eos": has_eos,
            **options,
        }
        """Constructor arguments, JSON-able: with the weights, all that a checkpoint needs."""

    @property
    def pad_id(self) -> int:
        """PAD: one past the last action. Also the symbol read before the first token."""
        return self.num_actions

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """State before the first token of ``batch_size`` sequences."""

    @abstractmethod
    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (PAD first); return next-token logits (B, A), float32, and the new state."""

    def decoder(self, options: SamplingOptions = PLAIN) -> Decoder:
        """A sampler over the weights as they are now."""
        return Decoder(self, options)

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
        """Draw ``n`` sequences.

        Args:
            n: how many.
            prefix: token ids that every sequence starts with, shorter than T, or None.
            temperature, top_k, top_p, forbidden: see :class:`~seqgan_rl.models.sampling.SamplingOptions`.
            rng: the only source of randomness; an (n, T) block of uniforms is always drawn.

        Returns:
            tokens_BT: int64, (n, T), PAD after EOS.
        """
        T = self.sequence_length
        prefix_ids = [] if prefix is None else [int(token) for token in prefix]
        if len(prefix_ids) >= T:
            raise ValueError(f"prefix must be shorter than the sequence length {T}, got {len(prefix_ids)} tokens")
        if any(not 0 <= token < self.num_actions or token == self.eos_id for token in prefix_ids):
            raise ValueError(f"prefix must hold word ids in [0, {self.num_actions - (self.eos_id is not None)})")
        options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, forbidden=forbidden)
        uniforms_BT = torch.from_numpy(rng.random((n, T), dtype=np.float32)).to(self.device)
        tokens_BT = torch.full((n, T), self.pad_id, dtype=torch.int64, device=self.device)
        if prefix_ids:
            tokens_BT[:, : len(prefix_ids)] = torch.tensor(prefix_ids, dtype=torch.int64, device=self.device)
        source_B = torch.arange(n, device=self.device)
        start_B, counts_T = torch.full_like(source_B, len(prefix_ids)), [0] * T
        counts_T[len(prefix_ids)] = n
        decoder = self.decoder(options)
        sequences_BT, _ = complete(decoder, tokens_BT, source_B, start_B, uniforms_BT[:, None], tuple(counts_T))
        decoder.check()
        return sequences_BT

    def log_prob(
        self,
        tokens_BT: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        forbidden: tuple[int, ...] = (),
    ) -> Tensor:
        """Log-probability of every token given its prefix under the distribution that :meth:`sample` draws from.

        Returns:
            logp_BT: nats, float32, (B, T), 0 at PAD, -inf at a token that cannot be drawn. Differentiable.
        """
        options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p, forbidden=forbidden)
        is_token_BT = tokens_BT != self.pad_id
        logp_BT = self._token_log_prob(tokens_BT, tokens_BT.masked_fill(~is_token_BT, 0), options)
        return torch.where(is_token_BT, logp_BT, 0.0)

    def weighted_nll(
        self, tokens_BT: Tensor, weights_BT: Tensor, forbidden: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Sum of the negative log-likelihoods of the tokens times constant weights, (B, T), nats, a differentiable
        scalar; and the log-probabilities, as of :meth:`log_prob` but detached. A token of weight 0 costs nothing, and
        neither does PAD."""
        logp_BT = self.log_prob(tokens_BT, forbidden=forbidden)
        return -torch.where(weights_BT == 0, 0.0, logp_BT * weights_BT).sum(), logp_BT.detach()

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Next-token logits before every token, (B, T, A): column t has read the tokens before t. Differentiable."""
        columns, state = [], self.initial_state(len(tokens_BT))
        last_B = tokens_BT.new_full((len(tokens_BT),), self.pad_id)
        for t in range(tokens_BT.shape[1]):
            logits_BA, state = self.step(last_B, state)
            columns.append(logits_BA)
            last_B = tokens_BT[:, t]
        return torch.stack(columns, dim=1)

    def features(self, tokens_BT: Tensor) -> Tensor:
        """The first part of the state from which each token is predicted, (B, T, F): what a value head reads."""
        columns, state = [], self.initial_state(len(tokens_BT))
        last_B = tokens_BT.new_full((len(tokens_BT),), self.pad_id)
        for t in range(tokens_BT.shape[1]):
            state = self.step(last_B, state)[1]
            columns.append(state[0])
            last_B = tokens_BT[:, t]
        return torch.stack(columns, dim=1)

    def next_logits(self, prefixes_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Next-token logits (B, A) after the first ``lengths_B`` < T tokens, and the features (B, F) they were made
        from, which are the first part of the state. Differentiable."""
        logits, features, state = [], [], self.initial_state(len(prefixes_BT))
        last_B = prefixes_BT.new_full((len(prefixes_BT),), self.pad_id)
        for t in range(int(lengths_B.max()) + 1):
            logits_BA, state = self.step(last_B, state)
            logits.append(logits_BA)
            features.append(state[0])
            last_B = prefixes_BT[:, t]
        rows_B = torch.arange(len(prefixes_BT), device=prefixes_BT.device)
        return torch.stack(logits)[lengths_B, rows_B], torch.stack(features)[lengths_B, rows_B]

    def _token_log_prob(self, tokens_BT: Tensor, targets_BT: Tensor, options: SamplingOptions) -> Tensor:
        """Reference: one step at a time. ``targets_BT`` are the tokens with PAD replaced by 0."""
        logp_BTA = options.apply(self.logits(tokens_BT)).log_softmax(dim=-1)
        return logp_BTA.gather(2, targets_BT[:, :, None]).squeeze(2)


class LinearOutputGenerator(Generator):
    """A generator whose logits are ``features @ output_weight + output_bias``: the features of all positions are formed
    at once, and the output layer is never applied to more of them than needed.

    Subclasses implement :meth:`features` besides the contract of :class:`Generator`.
    """

    output_weight: Tensor
    """(H, A)."""
    output_bias: Tensor
    """(A,)."""
    start_token: int | None
    """The word that is read before the first token; None: an embedding row of its own, the last."""

    @abstractmethod
    def features(self, tokens_BT: Tensor) -> Tensor:
        """What each token is predicted from, (B, T, H): column t has read the tokens before t. Differentiable."""

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Generator.logits`."""
        return self.features(tokens_BT) @ self.output_weight + self.output_bias

    def weighted_nll(
        self, tokens_BT: Tensor, weights_BT: Tensor, forbidden: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Generator.weighted_nll`; gradients of the output layer are formed on the way."""
        is_token_BT = tokens_BT != self.pad_id
        nll, logp_R = linear_weighted_nll(
            self.features(tokens_BT).flatten(0, 1),
            self.output_weight,
            self._output_bias(forbidden),
            tokens_BT.masked_fill(~is_token_BT, 0).flatten(),
            (weights_BT * is_token_BT).flatten(),
        )
        return nll, torch.where(is_token_BT, logp_R.view(tokens_BT.shape), 0.0)

    def next_logits(self, prefixes_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Generator.next_logits`; the output layer is applied once a row."""
        rows_B = torch.arange(len(prefixes_BT), device=prefixes_BT.device)
        hidden_BH = self.features(prefixes_BT[:, : int(lengths_B.max()) + 1])[rows_B, lengths_B]
        return torch.addmm(self.output_bias, hidden_BH, self.output_weight), hidden_BH

    def _token_log_prob(self, tokens_BT: Tensor, targets_BT: Tensor, options: SamplingOptions) -> Tensor:
        if options.filters:
            return super()._token_log_prob(tokens_BT, targets_BT, options)
        hidden_RH = self.features(tokens_BT).flatten(0, 1) / options.temperature
        bias_A = self._output_bias(options.forbidden) / options.temperature
        logp_R = linear_log_prob(hidden_RH, self.output_weight, bias_A, targets_BT.flatten())
        return logp_R.view(tokens_BT.shape)

    def _output_bias(self, forbidden: tuple[int, ...]) -> Tensor:
        """The output bias, -inf at every forbidden token."""
        if not forbidden:
            return self.output_bias
        check_forbidden(forbidden, self.num_actions)
        return self.output_bias.index_fill(0, torch.tensor(forbidden, device=self.output_bias.device), -math.inf)

    def _rows(self, tokens: Tensor) -> Tensor:
        """Embedding rows of tokens; PAD is the start symbol."""
        return tokens if self.start_token is None else tokens.masked_fill(tokens == self.pad_id, self.start_token)


generators: Registry[Callable[..., Generator]] = Registry("generator")
"""Generators by name: ``factory(num_actions, sequence_length, has_eos, **options)``."""


@generators.register("lstm")
class LSTMGenerator(LinearOutputGenerator):
    """One-layer LSTM language model, the paper's generator.

    Gates are in the order input, forget, output, candidate; one bias per gate; every weight is drawn from
    N(0, init_std^2) as in the authors' program.

    Args:
        num_actions, sequence_length, has_eos: the task, see :class:`Generator`.
        embedding_dim: E.
        hidden_dim: H.
        init_std: standard deviation of every initial weight and bias; 0.1 in the authors' program.
        start_token: None reads an embedding row of its own before the first token; the published oracle and the
            presets that mirror the released code read word 0, and then there is no such row.

    Initial weights come from torch's global generator; see ``seqgan_rl.core.streams.torch_seeded``.
    """

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        has_eos: bool = False,
        *,
        embedding_dim: int = 32,
        hidden_dim: int = 32,
        init_std: float = 0.1,
        start_token: int | None = None,
    ) -> None:
        super().__init__(
            num_actions,
            sequence_length,
            has_eos,
            embedding_dim=embedding_dim,
            hidden_dim=hidden_dim,
            init_std=init_std,
            start_token=start_token,
        )
        if embedding_dim < 1 or hidden_dim < 1:
            raise ValueError(f"embedding_dim and hidden_dim must be at least 1, got {embedding_dim} and {hidden_dim}")
        if start_token is not None and not (isinstance(start_token, int) and 0 <= start_token < num_actions):
            raise ValueError(f"start_token must be None or an action in [0, {num_actions}), got {start_token!r}")
        A, E, H = num_actions, embedding_dim, hidden_dim
        self.start_token, self.hidden_dim = start_token, H
        self.embedding = nn.Parameter(torch.empty(A + (start_token is None), E))
        self.input_weight = nn.Parameter(torch.empty(E, 4 * H))
        self.recurrent_weight = nn.Parameter(torch.empty(H, 4 * H))
        self.gate_bias = nn.Parameter(torch.empty(4 * H))
        self.output_weight = nn.Parameter(torch.empty(H, A))
        self.output_bias = nn.Parameter(torch.empty(A))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=init_std)

    def initial_state(self, batch_size: int) -> State:
        """Zero hidden and cell state, each (B, H)."""
        return self.output_weight.new_zeros(2, batch_size, self.hidden_dim).unbind(0)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Generator.step`."""
        state = self._cell(self.embedding[self._rows(tokens_B)] @ self.input_weight, state)
        return torch.addmm(self.output_bias, state[0], self.output_weight), state

    def decoder(self, options: SamplingOptions = PLAIN) -> Decoder:
        """A decoder with the input product tabulated and the softmax fused with the draw; general one for top-k/p."""
        return Decoder(self, options) if options.filters else LSTMDecoder(self, options)

    def features(self, tokens_BT: Tensor) -> Tensor:
        """Hidden state from which each token is predicted, (B, T, H): column t has read the tokens before t."""
        B, T = tokens_BT.shape
        read_BT = torch.cat([tokens_BT.new_full((B, 1), self.pad_id), tokens_BT[:, :-1]], dim=1)
        inputs_BTG = self.embedding[self._rows(read_BT)] @ self.input_weight
        state, columns = self.initial_state(B), []
        for t in range(T):
            state = self._cell(inputs_BTG[:, t], state)
            columns.append(state[0])
        return torch.stack(columns, dim=1)

    def _cell(self, inputs_BG: Tensor, state: State) -> State:
        """One LSTM step from ``inputs_BG`` = embedding @ input_weight; G = 4H."""
        gates_BG = torch.addmm(self.gate_bias, state[0], self.recurrent_weight) + inputs_BG
        return lstm_state(gates_BG, state[1])
