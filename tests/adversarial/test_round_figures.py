"""What a round's row says of algorithms that are not ours, and of any agent's distance from its start."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqgan_rl.adversarial.round_figures import RoundFigures
from seqgan_rl.adversarial.session import Session
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.models.generator import LSTMGenerator


class Logger(dict):
    def record(self, name: str, value: float) -> None:
        self[name] = value


def some_agent(max_grad_norm: float = 5.0) -> Any:
    weights = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    return SimpleNamespace(
        policy=SimpleNamespace(optimizer=torch.optim.Adam(weights)),
        action_space=spaces.Discrete(3),  # PAD is 3
        logger=Logger(),
        max_grad_norm=max_grad_norm,
        rollout_buffer=SimpleNamespace(advantages=np.array([[1.0, -1.0], [3.0, 1.0]], dtype=np.float32)),
    )


def test_rewards_values_and_advantages_of_a_collection_by_hand() -> None:
    agent = some_agent()
    figures = RoundFigures(agent)
    figures.observe(
        [{}, {"sequence_reward": 1.0, "sequence": np.array([0, 2, 3]), "action_value": np.array([2, 4, 0])}]
    )
    figures.observe(
        [{"sequence_reward": 4.0, "sequence": np.array([1, 0, 1]), "action_value": np.array([4, 6, 8])}, {}]
    )
    figures.record_collection()
    assert agent.logger.pop("agent/weight_p5") == pytest.approx(-0.7)
    assert agent.logger.pop("agent/weight_p95") == pytest.approx(2.7)
    assert agent.logger == {
        "agent/reward": 2.5,
        "agent/value_first": 3.0,
        "agent/value_middle": 5.0,
        "agent/value_last": 8.0,  # the first sequence has ended before
        "agent/weight_spread": pytest.approx(2**0.5),
    }
    agent.logger.clear()
    figures.record_collection()  # nothing has ended in the next one
    assert "agent/reward" not in agent.logger
    assert "agent/value_first" not in agent.logger


def test_gradients_are_a_mean_over_the_steps_and_the_discriminators_work_is_for_each() -> None:
    agent = some_agent(max_grad_norm=3.0)
    figures, optimizer = RoundFigures(agent), agent.policy.optimizer
    (first, second), zeros = optimizer.param_groups[0]["params"], torch.zeros(3)
    for gradient in (torch.tensor([0.6, 0.8]), torch.tensor([3.0, 4.0])):
        first.grad, second.grad = gradient, zeros
        torch.nn.utils.clip_grad_norm_([first, second], 3.0)
        optimizer.step()
    figures.record_update(minibatches=5)
    assert agent.logger == {
        "agent/gradient_norm": pytest.approx(2.0),  # of 1 and 5 cut to 3
        "agent/was_clipped": 0.5,
        "discriminator/minibatches_per_update": 2.5,
    }
    agent.logger.clear()
    figures.record_update(minibatches=5)
    assert not agent.logger, "a round without a step has none of these"


def test_an_algorithm_that_clips_nothing_has_no_share_of_clipped_steps() -> None:
    agent = some_agent(max_grad_norm=0.0)
    figures = RoundFigures(agent)
    agent.policy.optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    agent.policy.optimizer.step()
    figures.record_update(minibatches=1)
    assert set(agent.logger) == {"agent/gradient_norm", "discriminator/minibatches_per_update"}


@pytest.mark.parametrize("forbidden", [(), (1,)])
def test_the_divergence_from_the_start_is_that_of_enumeration(forbidden: tuple[int, ...]) -> None:
    """Two words and EOS, T = 3; false alarm 1e-6."""
    with torch_seeded(np.random.default_rng(0)):
        generator, start = (LSTMGenerator(3, 3, True, hidden_dim=3, embedding_dim=3, init_std=1.0) for _ in range(2))
    session: Any = SimpleNamespace(
        config=SimpleNamespace(evaluation=SimpleNamespace(samples=20_000), seed=0),
        data=SimpleNamespace(forbidden=forbidden),
    )
    tokens_NT = every_sequence()
    options: dict[str, Any] = {"forbidden": forbidden}
    with torch.no_grad():
        own_N, other_N = (g.log_prob(tokens_NT, **options).sum(dim=1).double() for g in (generator, start))
    probability_N, length_N = own_N.exp(), (tokens_NT != 3).sum(dim=1)
    assert float(probability_N.sum()) == pytest.approx(1, abs=1e-6)
    can_be_N = probability_N > 0
    excess_N = (own_N - other_N)[can_be_N]
    mean = float((probability_N[can_be_N] * excess_N).sum())
    error = float(((probability_N[can_be_N] * excess_N.square()).sum() - mean**2).sqrt()) / 20_000**0.5
    mean_length = float((probability_N * length_N).sum())
    assert Session.kl(session, generator, start) == pytest.approx(mean / mean_length, abs=6 * error / mean_length)
    assert Session.kl(session, generator, generator) == 0


def every_sequence() -> torch.Tensor:
    """All sequences of words 0 and 1, EOS 2 and PAD 3 in three places."""
    rows = [[2, 3, 3], *([a, 2, 3] for a in (0, 1)), *([a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1, 2))]
    return torch.tensor(rows)
