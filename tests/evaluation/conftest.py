"""Scores made up of chosen numbers, to test what is computed from scores."""

from collections.abc import Callable
from typing import Any

import pytest

from seqgan_rl.evaluation import SampleScores, SampleSignature, Scores, Signature
from seqgan_rl.models.sampling import SamplingOptions


def sample_scores(
    values: dict[str, float], error: float = 0.01, influence: dict[str, Any] | None = None, **signature: Any
) -> SampleScores:
    """Scores of samples with these values, all of one error."""
    given: dict[str, Any] = {
        "reference_hash": "test",
        "reference_split": "test",
        "reference_size": 100,
        "train_hash": None,
        "sample_size": 100,
        "vocab_size": 50,
        "smoothing": "method1",
        **signature,
    }
    errors = dict.fromkeys(values, error)
    return SampleScores(
        signature=SampleSignature(**given), values=values, standard_errors=errors, influence=influence or {}
    )


@pytest.fixture
def make_sample_scores() -> Callable[..., SampleScores]:
    """``make_sample_scores(values, error=.., **signature)``."""
    return sample_scores


@pytest.fixture
def make_scores() -> Callable[..., Scores]:
    """``make_scores(nll_oracle, nll_test, error=.., entropy=.., distinct_tokens=.., samples=.., **signature)``."""

    def make(
        nll_oracle: float | None,
        nll_test: float,
        *,
        error: float = 0.01,
        entropy: float = 2.0,
        distinct_tokens: int = 50,
        temperature: float = 1.0,
        influence: dict[str, Any] | None = None,
        samples: dict[str, float] | None = None,
        **signature: Any,
    ) -> Scores:
        given = {
            "oracle_hash": None if nll_oracle is None else "oracle",
            "corpus_hash": "",
            "test_hash": "test",
            "sample_size": 100,
            "test_size": 100,
            "sequence_length": 20,
            "vocab_size": 50,
            "unk_rate": 0.0,
            "seed": 0,
            "sampling": SamplingOptions(temperature=temperature),
            **signature,
        }
        return Scores(
            signature=Signature(**given),
            nll_oracle=nll_oracle,
            nll_test=nll_test,
            entropy=entropy,
            kl_g_o=None if nll_oracle is None else nll_oracle - entropy,
            kl_o_g=None if nll_oracle is None else 0.1,
            distinct_tokens=distinct_tokens,
            unique_share=1.0,
            copied_share=None,
            mean_length=20.0,
            standard_errors=dict.fromkeys(("nll_oracle", "nll_test", "entropy", "kl_g_o", "kl_o_g"), error),
            influence=influence or {},
            samples=None if samples is None else sample_scores(samples, error),
        )

    return make
