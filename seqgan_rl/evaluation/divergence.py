"""The conditional Jensen-Shannon divergence of a generator to the oracle: exact over the vocabulary at each prefix.

    JS = mean over positions t and prefixes y_{1:t-1} of  ½ KL(G(·|y) ‖ M(·|y)) + ½ KL(O(·|y) ‖ M(·|y)),  M = (G + O)/2
with half of the prefixes from samples of G and half from held-out sequences, which O wrote: nats a token, in [0, ln 2].
KL(G||O) can fall in a collapse; here half of the prefixes and half of every term are the oracle's. And it is bounded,
so that one impossible token does not decide it.
Letters: B sequences, T tokens each, A actions.
"""

import math

import numpy as np
import torch
from torch import Tensor

from seqgan_rl.core.modules import evaluation_mode
from seqgan_rl.evaluation.intervals import Floats
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.models.sampling import SamplingOptions

NUMBERS = 2**22
"""Log-probabilities held at a time, of each model: bounds memory."""


def conditional_js(
    generator: Generator, oracle: Oracle, samples_BT: Tensor, held_out_BT: Tensor, options: SamplingOptions
) -> tuple[float, float]:
    """The divergence, and its standard error over sequences.

    Args:
        generator: G, as it samples with these options.
        oracle: O, of the same actions.
        samples_BT: sequences that G wrote with these options, int64, (B, T), B >= 2.
        held_out_BT: sequences that O wrote, int64, (any number from 2, T).
    """
    halves = [js_by_sequence(generator, oracle, part_BT, options) for part_BT in (samples_BT, held_out_BT)]
    error = math.sqrt(sum(float(js_B.var(ddof=1)) / len(js_B) for js_B in halves)) / 2
    return sum(float(js_B.mean()) for js_B in halves) / 2, error


@torch.no_grad()
def js_by_sequence(generator: Generator, oracle: Oracle, tokens_BT: Tensor, options: SamplingOptions) -> Floats:
    """Mean over the positions of each sequence of JS between the two next-token distributions, nats, (B,)."""
    rows = max(1, NUMBERS // (tokens_BT.shape[1] * generator.num_actions))
    parts = []
    with evaluation_mode(generator):
        for part_BT in tokens_BT.split(rows):
            g_BTA = options.apply(generator.logits(part_BT.to(generator.device))).log_softmax(dim=-1)
            o_BTA = oracle.generator.logits(part_BT.to(oracle.device)).log_softmax(dim=-1).to(g_BTA.device)
            m_BTA = torch.logaddexp(g_BTA, o_BTA) - math.log(2)
            js_BT = (_kl(g_BTA, m_BTA) + _kl(o_BTA, m_BTA)) / 2
            parts.append(js_BT.clamp_min(0).double().mean(dim=1).cpu().numpy())
    return np.concatenate(parts)


def _kl(p_BTA: Tensor, m_BTA: Tensor) -> Tensor:
    """Σ p ln(p/m) from log-probabilities; 0 where p is 0. (B, T)"""
    return torch.where(p_BTA == -torch.inf, 0.0, p_BTA.exp() * (p_BTA - m_BTA)).sum(dim=-1)
