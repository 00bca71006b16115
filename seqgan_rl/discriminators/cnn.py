"""Convolutional discriminators: the paper's CNN with highway (Zhang and LeCun 2015; Yu et al. 2017), and a small one.

Letters: B sequences, T tokens each, P windows, E embedding, F filters of one width, C = all features.
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.discriminators.base import ROWS_AT_ONCE, Discriminator, check_probabilities, discriminators
from seqgan_rl.discriminators.spectral import SpectralLinear, SpectralNorm, settle, weight_in_use
from seqgan_rl.models.kernels import linear, rows_per_block

POOLED_AT_ONCE = 10_240
"""Sequences whose features are held together while they are scored: 70 MB for the paper's 1,720."""
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
        init_scale: multiplies the initial embedding and output weights; 1 is the authors'. With a large vocabulary 0.3
            generalises better (docs/results.md, `corrected/1`).
        spectral_norm: divide every filter bank, the highway's and the output's weights by their spectral norms.
        precision: "float32", or "bfloat16": the large products in 16 bits (the highway, and the windows where they are
            multiplied), everything else in 32. Faster where the processor or GPU has such products, much slower where
            it has not; what it costs in accuracy is in docs/performance.md.
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
        init_scale: float = 1.0,
        spectral_norm: bool = False,
        precision: str = "float32",
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
            init_scale=init_scale,
            spectral_norm=spectral_norm,
            precision=precision,
        )
        _check(widths, counts, pool, highway, precision)
        check_probabilities(dropout=dropout, token_dropout=token_dropout)
        self.sizes = [(w, f) for w, f in zip(widths, counts, strict=True) if w <= sequence_length]
        C, E = sum(f for _, f in self.sizes), embedding_dim
        self.pool, self.token_dropout, self.two_way_l2 = pool, token_dropout, two_way_l2
        self.precision, make_linear = precision, SpectralLinear if spectral_norm else nn.Linear
        # initial values as in the authors' program
        self.embedding = nn.Parameter(torch.empty(num_actions + 1, E).uniform_(-init_scale, init_scale))
        self.filters = nn.ParameterList([_truncated_normal(torch.empty(w, E, f)) for w, f in self.sizes])
        self.filter_bias = nn.Parameter(torch.full((C,), 0.1))
        self.highway: nn.ModuleList | None = None
        if highway != "none":
            layers = [make_linear(C, C, bias=highway == "biased") for _ in ("gate", "transform")]
            self.highway = nn.ModuleList(layers)
            for layer in layers:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(dropout)
        self.output = make_linear(C, 1 if two_way_l2 is None else 2)
        _truncated_normal(self.output.weight)
        with torch.no_grad():
            self.output.weight.mul_(init_scale)
        nn.init.constant_(self.output.bias, 0.1)
        self.filter_norms = nn.ModuleList([SpectralNorm(weight) for weight in self.filters]) if spectral_norm else None
        self.follow_weights()

    def follow_weights(self) -> None:
        """Find the spectral norms anew after weights were changed by hand."""
        settle(self)
        for norm, weight in zip(self.filter_norms or [], self.filters, strict=False):
            assert isinstance(norm, SpectralNorm)
            norm.settle(weight)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.forward`."""
        return self._head(self._pooled(self._drop(tokens_BT)))

    def features(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.features`: after the highway."""
        return self._highway(self._pooled(self._drop(tokens_BT)))

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.embed`."""
        return functional.embedding(self._drop(tokens_BT), self.embedding)

    def read(self, embedded_BTE: Tensor, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.read`; PAD is read like a token."""
        biases = self.filter_bias.split([f for _, f in self.sizes])
        pooled = [
            self._pool(self._window_products(embedded_BTE, weight_wEF), bias_F, None)
            for weight_wEF, bias_F in zip(self._filters(), biases, strict=True)
        ]
        return self._head(torch.cat(pooled, dim=1))

    def _drop(self, tokens_BT: Tensor) -> Tensor:
        """The tokens, in training some of them hidden behind PAD."""
        if not self.training or self.token_dropout == 0:
            return tokens_BT
        dropped_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device) < self.token_dropout
        return tokens_BT.masked_fill(dropped_BT, self.num_actions)

    @torch.no_grad()
    def score(self, tokens_BT: Tensor) -> Tensor:
        """See :meth:`Discriminator.score`; the tables serve many sequences."""
        if len(tokens_BT) == 0:
            return torch.empty(0, device=self.device)
        with evaluation_mode(self):
            logits = [
                self._head(features_BC)
                for part_BT in tokens_BT.split(POOLED_AT_ONCE)
                for features_BC in self._pooled(part_BT).split(ROWS_AT_ONCE)
            ]
        return torch.cat(logits)

    def _head(self, features_BC: Tensor) -> Tensor:
        """From pooled features to logits (B,)."""
        outputs = self.output(self.dropout(self._highway(features_BC)))
        return outputs[:, 0] if self.two_way_l2 is None else outputs[:, 1] - outputs[:, 0]

    def _highway(self, features_BC: Tensor) -> Tensor:
        """Pooled features through the highway layer, where there is one."""
        if self.highway is None:
            return features_BC
        gate_BC, transform_BC = (
            self._linear(features_BC, weight_in_use(layer), layer.bias)  # type: ignore[arg-type]
            for layer in self.highway
        )
        return torch.lerp(features_BC, transform_BC.relu(), gate_BC.sigmoid())

    def _filters(self) -> list[Tensor]:
        """The filter banks in use, each (w, E, F)."""
        if self.filter_norms is None:
            return list(self.filters)
        return [norm(weight) for norm, weight in zip(self.filter_norms, self.filters, strict=True)]

    def _pooled(self, tokens_BT: Tensor) -> Tensor:
        """Pooled features (B, C).

        A window's activation is a sum of w rows of the table embedding @ filter, one row per position: for fewer
        distinct tokens than windows that is less work than a product per window, and exact up to rounding. Where every
        activation needs its gradient (the sum over positions), the product per window is the faster one.
        """
        rows_BT, embedding_UE = tokens_BT, self.embedding
        if tokens_BT.numel() < 4 * len(self.embedding):  # tabulate only the U tokens that occur
            unique_U, rows_BT = tokens_BT.unique(return_inverse=True)
            embedding_UE = functional.embedding(unique_U, self.embedding)  # type: ignore[assignment]
        sizes = [f for _, f in self.sizes]
        if torch.is_grad_enabled():
            pooled = [
                self._pooled_at(rows_BT, embedding_UE, weight_wEF, bias_F)
                for weight_wEF, bias_F in zip(self._filters(), self.filter_bias.split(sizes), strict=True)
            ]
            return torch.cat(pooled, dim=1)
        features_BC = embedding_UE.new_empty(len(tokens_BT), sum(sizes))
        scratch = embedding_UE.new_empty(max(w * f for w, f in self.sizes) * len(embedding_UE))
        for weight_wEF, bias_F, features_BF in zip(
            self._filters(), self.filter_bias.split(sizes), features_BC.split(sizes, dim=1), strict=True
        ):
            self._pooled_at(rows_BT, embedding_UE, weight_wEF, bias_F, features_BF, scratch)
        return features_BC

    def _pooled_at(
        self,
        rows_BT: Tensor,
        embedding_UE: Tensor,
        weight_wEF: Tensor,
        bias_F: Tensor,
        out: Tensor | None = None,
        scratch: Tensor | None = None,
    ) -> Tensor:
        """Pooled features of one width, (B, F); where no gradient is needed, into ``out``, the table in ``scratch``."""
        (w, _, F), U = weight_wEF.shape, len(embedding_UE)
        num_windows = len(rows_BT) * (rows_BT.shape[1] - w + 1)
        if num_windows < U or (self.pool == "sum" and out is None):
            activation_BPF = self._window_products(functional.embedding(rows_BT, embedding_UE), weight_wEF)
            return self._pool(activation_BPF, bias_F, out)
        table_wUF = None if scratch is None else scratch[: w * U * F].view(w, U, F)
        table_XF = torch.bmm(embedding_UE.expand(w, -1, -1), weight_wEF, out=table_wUF).flatten(0, 1)  # (w * U, F)
        starts_w = torch.arange(w, device=rows_BT.device) * U
        if out is None:
            largest_BF: Tensor = _LargestWindow.apply(table_XF, rows_BT.unfold(1, w, 1) + starts_w)
            return (largest_BF + bias_F).relu()
        size = rows_per_block(rows_BT.shape[1] * table_XF.shape[1])
        for part_BT, part_BF in zip(rows_BT.split(size), out.split(size), strict=True):
            self._pool(_window_sums(table_XF, part_BT.unfold(1, w, 1) + starts_w), bias_F, part_BF)
        return out

    def _window_products(self, embedded_BTE: Tensor, weight_wEF: Tensor) -> Tensor:
        """Activations of all windows, (B, P, F), as products of window and filter."""
        w, E, F = weight_wEF.shape
        windows_BPwE = embedded_BTE.unfold(1, w, 1).transpose(2, 3)  # (B, T-w+1, w, E)
        (B, P), weight_FK = windows_BPwE.shape[:2], weight_wEF.view(w * E, F).T
        return self._linear(windows_BPwE.reshape(B * P, w * E), weight_FK, None).view(B, P, F)

    def _linear(self, x_RK: Tensor, weight_MK: Tensor, bias_M: Tensor | None) -> Tensor:
        """A large product, in this network's precision."""
        return linear(x_RK, weight_MK, bias_M, bfloat16=self.precision == "bfloat16")

    def _pool(self, activation_BPF: Tensor, bias_F: Tensor, out: Tensor | None) -> Tensor:
        """Bias, rectifier and pooling over positions, (B, F); bias and rectifier commute with the maximum. Where no
        gradient is needed, into ``out``."""
        if self.pool == "sum":
            return torch.sum((activation_BPF + bias_F).relu(), dim=1, out=out)
        if out is None:
            return (activation_BPF.amax(dim=1) + bias_F).relu()
        return torch.amax(activation_BPF, dim=1, out=out).add_(bias_F).relu_()

    def penalty(self) -> Tensor | float:
        """The authors' L2 term: two_way_l2 * (||W||^2 + ||b||^2) / 2 of the output layer."""
        if not self.two_way_l2:
            return 0.0
        return self.two_way_l2 * 0.5 * (self.output.weight.square().sum() + self.output.bias.square().sum())


def _window_sums(table_XF: Tensor, windows_BPw: Tensor) -> Tensor:
    """Activations of all windows, (B, P, F), as sums of table rows."""
    B, P, _ = windows_BPw.shape
    return functional.embedding_bag(windows_BPw.flatten(0, 1), table_XF, mode="sum").view(B, P, -1)


class _LargestWindow(torch.autograd.Function):
    """Largest window sum of each feature, (B, F). Only the window that won has a gradient, so backward touches w table
    entries per feature instead of all windows."""

    @staticmethod
    def forward(ctx: Any, table_XF: Tensor, windows_BPw: Tensor) -> Tensor:
        largest_BF, window_BF = _window_sums(table_XF, windows_BPw).max(dim=1)
        ctx.save_for_backward(windows_BPw, window_BF)
        ctx.table_shape = table_XF.shape
        return largest_BF

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BF: Tensor) -> tuple[Tensor, None]:
        windows_BPw, window_BF = ctx.saved_tensors
        (X, F), w = ctx.table_shape, windows_BPw.shape[2]
        rows_BFw = windows_BPw.gather(1, window_BF[:, :, None].expand(-1, -1, w))
        entries_BFw = rows_BFw * F + torch.arange(F, device=grad_BF.device)[:, None]
        grad_table = grad_BF.new_zeros(X * F)
        grad_table.scatter_add_(0, entries_BFw.flatten(), grad_BF[:, :, None].expand(-1, -1, w).flatten())
        return grad_table.view(X, F), None


def _truncated_normal(tensor: Tensor) -> Tensor:
    """N(0, 0.1^2) cut at two standard deviations, as TensorFlow's ``truncated_normal`` (torch's default: at +-2)."""
    return nn.init.trunc_normal_(tensor, std=0.1, a=-0.2, b=0.2)


def _check(
    widths: tuple[int, ...],
    counts: tuple[int, ...],
    pool: str,
    highway: str,
    precision: str,
) -> None:
    if not widths or len(widths) != len(counts) or min(itertools.chain(widths, counts)) < 1 or min(widths) != 1:
        raise ValueError(f"widths and filters must be positive, equally many and include width 1: {widths}, {counts}")
    if pool not in ("max", "sum"):
        raise ValueError(f'pool must be "max" or "sum", got {pool!r}')
    if highway not in ("none", "biased", "unbiased"):
        raise ValueError(f'highway must be "none", "biased" or "unbiased", got {highway!r}')
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f'precision must be "float32" or "bfloat16", got {precision!r}')


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


small_cnn = discriminators.register("small_cnn")(CNNDiscriminator)
"""Widths 1-5 with 64 filters each, one logit, no highway: enough for small tasks, minutes instead of days."""
