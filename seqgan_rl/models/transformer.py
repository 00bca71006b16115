"""A small causal transformer (Vaswani et al. 2017; pre-norm as in GPT-2, Radford et al. 2019) as a sequence generator.

The state of a row holds the keys and values of what it has read and how much that is, so that rows in flight can stand
at different positions. Letters: B rows, T tokens each, A actions, D width, L layers, H heads, K = D / H, M positions
kept (T + 1), I inputs of a linear layer.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqgan_rl.models.decoding import State
from seqgan_rl.models.generator import LinearOutputGenerator, generators

MakeLinear = Callable[[int, int], nn.Linear]
"""Makes a linear layer of so many inputs and outputs."""


def attend(query_BQD: Tensor, key_BMD: Tensor, value_BMD: Tensor, is_visible: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(K)) v in each head, (B, Q, D). Differentiable any number of times.

    Args:
        query_BQD, key_BMD, value_BMD: Q queries and M positions a row.
        is_visible: which positions a query sees, bool, that broadcasts to (B, H, Q, M); at least one a query.
        num_heads: H.
    """
    query_BHQK, key_BHMK, value_BHMK = (
        part.unflatten(2, (num_heads, -1)).transpose(1, 2) for part in (query_BQD, key_BMD, value_BMD)
    )
    scores_BHQM = query_BHQK @ key_BHMK.transpose(2, 3) / math.sqrt(query_BHQK.shape[3])
    weights_BHQM = scores_BHQM.masked_fill(~is_visible, -math.inf).softmax(dim=3)
    return (weights_BHQM @ value_BHMK).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + feed-forward(norm(x)).

    Args:
        width: D.
        num_heads: H, which divides D.
        make_linear: makes the linear layers.
        dropout: probability of dropping what a sublayer adds.
    """

    def __init__(
        self, width: int, num_heads: int, *, make_linear: MakeLinear = nn.Linear, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mix = make_linear(width, 3 * width), make_linear(width, width)
        self.expand, self.contract = make_linear(width, 4 * width), make_linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def project(self, x_BQD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, Q, D)."""
        query_BQD, key_BQD, value_BQD = self.query_key_value(self.attention_norm(x_BQD)).chunk(3, dim=2)
        return query_BQD, key_BQD, value_BQD

    def add(self, x_BQD: Tensor, query_BQD: Tensor, key_BMD: Tensor, value_BMD: Tensor, is_visible: Tensor) -> Tensor:
        """x with both sublayers added, where the queries see these positions; see :func:`attend`."""
        attended_BQD = attend(query_BQD, key_BMD, value_BMD, is_visible, self.num_heads)
        x_BQD = x_BQD + self.dropout(self.mix(attended_BQD))
        hidden_BQI = nn.functional.gelu(self.expand(self.feedforward_norm(x_BQD)))
        added_BQD: Tensor = x_BQD + self.dropout(self.contract(hidden_BQI))
        return added_BQD

    def forward(self, x_BTD: Tensor, is_visible: Tensor) -> Tensor:
        """All positions at once, (B, T, D)."""
        return self.add(x_BTD, *self.project(x_BTD), is_visible)


def check_width(width: int, num_heads: int, num_layers: int) -> None:
    """ValueError unless these sizes make a transformer."""
    if num_layers < 1 or num_heads < 1 or width < 1 or width % num_heads:
        raise ValueError(
            f"hidden_dim must be a multiple of num_heads, and all sizes at least 1; got hidden_dim={width}, "
            f"num_heads={num_heads}, num_layers={num_layers}"
        )


@generators.register("transformer")
class TransformerGenerator(LinearOutputGenerator):
    """Causal transformer language model with learned positions and a key-value cache.

    The first part of the state is the normalised output of the last layer: the features of a value head. Without
    dropout, so that what is sampled is what is scored in training too.

    Args:
        num_actions, sequence_length, has_eos: the task, see :class:`Generator`.
        hidden_dim: D, also the size of the embeddings.
        num_layers: L.
        num_heads: H.
        tied: the output layer's weight is the embedding (Press and Wolf 2017).
        init_std: standard deviation of the initial embeddings, positions and output weights. Weights of the layers are
            N(0, 1/I) for I inputs, those that add to the residual over sqrt(2L) (GPT-2); biases are 0.
        start_token: None reads an embedding row of its own before the first token; a word's id reads that word.

    Initial weights come from torch's global generator; see ``seqgan_rl.core.streams.torch_seeded``.
    """

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        has_eos: bool = False,
        *,
        hidden_dim: int = 32,
        num_layers: int = 2,
        num_heads: int = 4,
        tied: bool = False,
        init_std: float = 0.1,
        start_token: int | None = None,
    ) -> None:
        super().__init__(
            num_actions,
            sequence_length,
            has_eos,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            tied=tied,
            init_std=init_std,
            start_token=start_token,
        )
        check_width(hidden_dim, num_heads, num_layers)
        if start_token is not None and not (isinstance(start_token, int) and 0 <= start_token < num_actions):
            raise ValueError(f"start_token must be None or an action in [0, {num_actions}), got {start_token!r}")
        A, D = num_actions, hidden_dim
        self.start_token, self.hidden_dim = start_token, D
        self.embedding = nn.Parameter(torch.empty(A + (start_token is None), D))
        self.positions = nn.Parameter(torch.empty(sequence_length + 1, D))  # the last serves finished sequences alone
        self.blocks = nn.ModuleList([Block(D, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(D)
        self.untied_weight = None if tied else nn.Parameter(torch.empty(D, A))
        self.output_bias = nn.Parameter(torch.zeros(A))
        self._initialise(init_std)

    def _initialise(self, init_std: float) -> None:
        for weight in (self.embedding, self.positions, self.untied_weight):
            if weight is not None:
                nn.init.normal_(weight, std=init_std)
        for name, layer in self.blocks.named_modules():
            if isinstance(layer, nn.Linear):
                adds = name.endswith(("mix", "contract"))
                scale = 1 / math.sqrt(2 * len(self.blocks)) if adds else 1.0
                nn.init.normal_(layer.weight, std=scale / math.sqrt(layer.in_features))
                nn.init.zeros_(layer.bias)

    @property
    def output_weight(self) -> Tensor:  # type: ignore[override]  # tied: a view of the embedding
        """(D, A)."""
        return self.embedding[: self.num_actions].T if self.untied_weight is None else self.untied_weight

    def initial_state(self, batch_size: int) -> State:
        """Features (B, D), keys and values (B, L, M, D), and how many tokens were read, int64 (B,)."""
        L, (M, D) = len(self.blocks), self.positions.shape
        keys, values = self.positions.new_zeros(2, batch_size, L, M, D).unbind(0)
        num_read_B = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        return self.positions.new_zeros(batch_size, D), keys, values, num_read_B

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`Generator.step`. At most T + 1 tokens can be read."""
        _, keys_BLMD, values_BLMD, num_read_B = state
        at_BM = torch.arange(len(self.positions), device=self.device) == num_read_B[:, None]
        longest = int(num_read_B.max()) + 1 if len(num_read_B) else 1
        is_visible_BM = torch.arange(longest, device=self.device) <= num_read_B[:, None]
        x_B1D = (self.embedding[self._rows(tokens_B)] + self.positions[num_read_B])[:, None]
        all_keys, all_values = [], []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            query_B1D, key_B1D, value_B1D = block.project(x_B1D)
            keys_BMD = torch.where(at_BM[:, :, None], key_B1D, keys_BLMD[:, index])
            values_BMD = torch.where(at_BM[:, :, None], value_B1D, values_BLMD[:, index])
            x_B1D = block.add(
                x_B1D, query_B1D, keys_BMD[:, :longest], values_BMD[:, :longest], is_visible_BM[:, None, None]
            )
            all_keys.append(keys_BMD)
            all_values.append(values_BMD)
        hidden_BD = self.norm(x_B1D[:, 0])
        new_state = hidden_BD, torch.stack(all_keys, dim=1), torch.stack(all_values, dim=1), num_read_B + 1
        return torch.addmm(self.output_bias, hidden_BD, self.output_weight), new_state

    def features(self, tokens_BT: Tensor) -> Tensor:
        """Output of the last layer from which each token is predicted, (B, T, D), all positions in one pass."""
        B, T = tokens_BT.shape
        read_BT = torch.cat([tokens_BT.new_full((B, 1), self.pad_id), tokens_BT[:, :-1]], dim=1)
        x_BTD = self.embedding[self._rows(read_BT)] + self.positions[:T]
        is_visible_TT = torch.ones(T, T, dtype=torch.bool, device=tokens_BT.device).tril()
        for block in self.blocks:
            x_BTD = block(x_BTD, is_visible_TT)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD
