"""Convolutional text discriminators: the paper's CNN with highway (Zhang and LeCun 2015; Yu et al. 2017) and a small one.

Letters: B sequences, T tokens each, P windows, E embedding, F filters of one width, C = all features.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgan_rl.discriminators.base import Discriminator, discriminators

PAPER_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
PAPER_FILTERS = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)


class CNNDiscriminator(Discriminator):
    """Embedding, convolutions of several widths, pooling over positions, optional highway, dropout, logit.

    Args:
        num_actions: A; ids 0..A-1 are tokens, A is PAD (embedded like a token).
        sequence_length: T. Widths above T are left out, with their filters.
        widths, filters: one filter count per width, or one count for all.
        embedding_dim: E.
        pool: "max" over positions, or "sum" of the rectified activations.
        highway: "none"; "biased": one highway layer (Srivastava et al. 2015), t*relu(h) + (1-t)*x, gate bias 0;
            "unbiased": the same without bias vectors, as in the 2016 program.
        dropout: probability of dropping a feature before the output (the paper keeps 0.75: 0.25).
        token_dropout: probability of reading PAD instead of a token, in training.
        two_way_l2: None gives one logit. A number gives the authors' two-way softmax (the logit is the difference),
            whose output layer is penalised with this times half its squared norm.
    """

    def __init__(
        self,
        num_actions: int,
        sequence_length: int,
        *,
        widths: tuple[int, ...] = (1, 2, 3, 4, 5),
        filters: tuple[int, ...] | int = 64,
        embedding_dim: int = 64,
        pool: str = "max",
        highway: str = "none",
        dropout: float = 0.25,
        token_dropout: float = 0.0,
        two_way_l2: float | None = None,
    ) -> None:
        counts = (filters,) * len(widths) if isinstance(filters, int) else tuple(filters)
        super().__init__(
            num_actions,
            sequence_length,
            widths=list(widths),
            filters=list(counts),
            embedding_dim=embedding_dim,
            pool=pool,
            highway=highway,
            dropout=dropout,
            token_dropout=token_dropout,
            two_way_l2=two_way_l2,
        )
        _check(widths, counts, pool, highway, dropout, token_dropout)
        self.sizes = [(w, f) for w, f in zip(widths, counts, strict=True) if w <= sequence_length]
        C, E = sum(f for _, f in self.sizes), embedding_dim
        self.pool, self.token_dropout, self.two_way_l2 = pool, token_dropout, two_way_l2
        # initial values as in the authors' program
        self.embedding = nn.Parameter(torch.empty(num_actions + 1, E).uniform_(-1, 1))
        self.filters = nn.ParameterList([_truncated_normal(torch.empty(w, E, f)) for w, f in self.sizes])
        self.filter_bias = nn.Parameter(torch.full((C,), 0.1))
        self.highway: nn.ModuleList | None = None
        if highway != "none":
            self.highway = nn.ModuleList([nn.Linear(C, C, bias=highway == "biased") for _ in ("gate", "transform")])
            for layer in self.highway:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(C, 1 if two_way_l2 is None else 2)
        _truncated_normal(self.output.weight)
        nn.init.constant_(self.output.bias, 0.1)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.forward`."""
        if self.training and self.token_dropout > 0:
            dropped_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device) < self.token_dropout
            tokens_BT = tokens_BT.masked_fill(dropped_BT, self.num_actions)
        features_BC = self._pooled(tokens_BT)
        if self.highway is not None:
            gate_BC, transform_BC = (layer(features_BC) for layer in self.highway)
            features_BC = torch.lerp(features_BC, transform_BC.relu(), gate_BC.sigmoid())
        outputs = self.output(self.dropout(features_BC))
        return outputs[:, 0] if self.two_way_l2 is None else outputs[:, 1] - outputs[:, 0]

    def _pooled(self, tokens_BT: Tensor) -> Tensor:
        """Pooled features (B, C). Without gradients and for many tokens the filters are tabulated first: a window's
        activation is then a sum of w table rows instead of a product (exact up to rounding, 20 times faster)."""
        bias = self.filter_bias.split([f for _, f in self.sizes])
        tabulate = not torch.is_grad_enabled() and tokens_BT.numel() > 2 * self.num_actions
        embedded_BTE = None if tabulate else functional.embedding(tokens_BT, self.embedding)
        pooled = []
        for weight_wEF, bias_F in zip(self.filters, bias, strict=True):
            if embedded_BTE is None:
                activation_BPF = self._gathered(tokens_BT, weight_wEF)
            else:
                w, E, F = weight_wEF.shape
                windows_BPwE = embedded_BTE.unfold(1, w, 1).transpose(2, 3)  # (B, T-w+1, w, E)
                activation_BPF = windows_BPwE.reshape(*windows_BPwE.shape[:2], w * E) @ weight_wEF.view(w * E, F)
            if self.pool == "max":  # relu and bias commute with the maximum
                pooled.append((activation_BPF.amax(dim=1) + bias_F).relu())
            else:
                pooled.append((activation_BPF + bias_F).relu().sum(dim=1))
        return torch.cat(pooled, dim=1)

    def _gathered(self, tokens_BT: Tensor, weight_wEF: Tensor) -> Tensor:
        """Window activations (B, P, F) as sums of rows of embedding @ filter tables."""
        w, _, F = weight_wEF.shape
        table = torch.matmul(self.embedding, weight_wEF).flatten(0, 1)  # (w * (A + 1), F)
        offset_w = torch.arange(w, device=tokens_BT.device) * len(self.embedding)
        windows = (tokens_BT.unfold(1, w, 1) + offset_w).flatten(0, 1)  # (B * P, w)
        return functional.embedding_bag(windows, table, mode="sum").view(len(tokens_BT), -1, F)

    def penalty(self) -> Tensor | float:
        """The authors' L2 term: two_way_l2 * (||W||^2 + ||b||^2) / 2 of the output layer."""
        if not self.two_way_l2:
            return 0.0
        return self.two_way_l2 * 0.5 * (self.output.weight.square().sum() + self.output.bias.square().sum())


def _truncated_normal(tensor: Tensor) -> Tensor:
    """N(0, 0.1^2) cut at two standard deviations, as TensorFlow's ``truncated_normal`` (torch's default: at +-2)."""
    return nn.init.trunc_normal_(tensor, std=0.1, a=-0.2, b=0.2)


def _check(
    widths: tuple[int, ...], counts: tuple[int, ...], pool: str, highway: str, dropout: float, token_dropout: float
) -> None:
    if not widths or len(widths) != len(counts) or min(itertools.chain(widths, counts)) < 1 or min(widths) != 1:
        raise ValueError(f"widths and filters must be positive, equally many and include width 1: {widths}, {counts}")
    if pool not in ("max", "sum"):
        raise ValueError(f'pool must be "max" or "sum", got {pool!r}')
    if highway not in ("none", "biased", "unbiased"):
        raise ValueError(f'highway must be "none", "biased" or "unbiased", got {highway!r}')
    for name, value in (("dropout", dropout), ("token_dropout", token_dropout)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}")


@discriminators.register("paper_cnn")
def paper_cnn(num_actions: int, sequence_length: int, **options: Any) -> CNNDiscriminator:
    """The paper's discriminator: 1,720 filters of widths 1-10, 15 and 20, highway, keep 0.75, L2 0.2 on the output."""
    settings: dict[str, Any] = {
        "widths": PAPER_WIDTHS,
        "filters": PAPER_FILTERS,
        "highway": "biased",
        "two_way_l2": 0.2,
        **options,
    }
    return CNNDiscriminator(num_actions, sequence_length, **settings)


@discriminators.register("small_cnn")
def small_cnn(num_actions: int, sequence_length: int, **options: Any) -> CNNDiscriminator:
    """Widths 1-5 with 64 filters each, one logit, no highway: enough for small tasks, minutes instead of days."""
    return CNNDiscriminator(num_actions, sequence_length, **options)
