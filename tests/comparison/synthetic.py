"""A comparison that looks like a real one, made in milliseconds: for tests of tables, figures and report.

It has what they must cope with: a failed, a waiting and a running job, one stopped by a guard, an agent with fewer
seeds, a greedy agent without a gap (its NLL_test is infinite), and scores that only some tasks have.
"""

import hashlib
import math

import numpy as np
from numpy.random import Generator

from seqgan_rl.comparison.records import Comparison, Job, Point, Sample, State, Task
from seqgan_rl.core.streams import stream

BUDGET = 200_000
SEQUENCE_LENGTH = 20
EVALUATIONS = BUDGET // SEQUENCE_LENGTH
ROUNDS = 10
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5)

TASKS = (
    Task(
        name="adversarial",
        kind="adversarial",
        label="SeqGAN/Oracle-v0, V=500, T=20, discriminator trained along",
        primary="gap",
        metrics=("gap", "nll_oracle", "nll_test", "entropy", "distinct_tokens", "kl_g_o", "reward"),
    ),
    Task(
        name="frozen-oracle",
        kind="frozen",
        label="SeqGAN/Oracle-v0, V=500, T=20, reward: oracle log-likelihood",
        primary="reward",
        metrics=("reward", "nll_test", "entropy"),
    ),
    Task(
        name="exact-table",
        kind="exact",
        label="SeqGAN/Exact-v0, V=6, T=6, a seeded table of rewards",
        primary="regret",
        metrics=("regret", "regularised_regret", "kl", "exact_entropy"),
    ),
)

EFFECTS = {
    "mle": 0.0,
    "mle_continued": 0.04,
    "seqgan": 0.6,
    "seqgan_advantage": 1.0,
    "ppo": 0.5,
    "dqn": -0.4,
    "constant": 0.0,
    "random": -0.1,
    "shuffled": -0.05,
}
"""How far each agent comes from the MLE's score (0) to the best one's (1)."""

SECONDS = {"seqgan": 300.0, "seqgan_advantage": 330.0, "ppo": 55.0, "dqn": 90.0}


def synthetic_comparison(seeds: int = 5, seed: int = 0) -> Comparison:
    """The same comparison for the same arguments; see the module for what is in it.

    Args:
        seeds: jobs of an agent on a task, at least 1; of the last seed, one of PPO has failed and one of DQN waits.
        seed: of all numbers.
    """
    jobs = []
    for task in TASKS:
        for agent in EFFECTS:
            fewer = 2 if (task.kind, agent) == ("exact", "seqgan_advantage") else 0
            for s in range(max(1, seeds - fewer)):
                jobs.append(_job(task, agent, s, stream(seed, f"{task.name} {agent} {s}"), last=s == seeds - 1))
    return Comparison(
        name="synthetic",
        tasks=TASKS,
        jobs=tuple(jobs),
        budget=BUDGET,
        evaluations=EVALUATIONS,
        settings={"agents": list(EFFECTS), "seeds": seeds, "budget": BUDGET, "env": "SeqGAN/Oracle-v0"},
        command=f"seqgan-rl compare --agents {','.join(EFFECTS)} --seeds {seeds} --budget {BUDGET}",
        machine="2 cores, no GPU",
    )


def _job(task: Task, agent: str, seed: int, rng: Generator, *, last: bool) -> Job:
    state, share = _state(task, agent, last=last)
    stopped = ""
    if (task.kind, agent, seed) == ("adversarial", "seqgan", 1):
        share, stopped = 0.6, "round 6 of 10: NLL_valid rose by 1.31 nats per token, above the guard's 1.0"
    start = float(stream(seed, f"{task.name} start").normal(0, 0.03))  # all agents of a seed start from the same MLE
    points = () if state == "waiting" else _points(task, agent, rng, share, start)
    is_done = state == "done"
    settings = {
        "agent": {"algorithm": agent, "learning_rate": 0.01, "batch_size": 64},
        "task": {"name": task.name, "sequence_length": SEQUENCE_LENGTH, "vocab_size": 500},
        "seed": seed,
    }
    return Job(
        task=task.name,
        agent=agent,
        seed=seed,
        folder=f"{task.name}/{agent}/seed-{seed}",
        state=state,
        error="NotFiniteError: the loss is nan in update 37 | lower the learning rate" if state == "failed" else "",
        attempts={"failed": 3, "waiting": 0}.get(state, 1),
        stopped=stopped,
        points=points,
        diagnostics=_diagnostics(task, points, rng),
        sweep=_sweep(points[-1], rng) if is_done and agent != "dqn" and task.kind == "adversarial" else (),
        samples=_samples(task, rng) if is_done else (),
        settings=settings,
        hashes={name: _hash(name, task.name, *extra) for name, extra in _HASHED.items()}
        | {"settings": _hash(repr(settings))},
    )


_HASHED: dict[str, tuple[str, ...]] = {"oracle": (), "corpus": (), "versions": ("torch 2.8",)}


def _state(task: Task, agent: str, *, last: bool) -> tuple[State, float]:
    """The state of a job, and which share of its training it has done."""
    if last and (task.kind, agent) == ("adversarial", "ppo"):
        return "failed", 0.4
    if last and (task.kind, agent) == ("frozen", "dqn"):
        return "waiting", 0.0
    if last and (task.kind, agent) == ("exact", "random"):
        return "running", 0.5
    return "done", 1.0


def _points(task: Task, agent: str, rng: Generator, share: float, start: float) -> tuple[Point, ...]:
    rounds = 0 if agent == "mle" else round(ROUNDS * share)
    luck = float(rng.normal(0, 0.08))
    points = []
    for r in range(rounds + 1):
        tokens = BUDGET * r // ROUNDS
        evaluations = tokens // SEQUENCE_LENGTH
        if agent.startswith("seqgan"):  # 16 rollouts of each prefix
            evaluations *= 16 * (SEQUENCE_LENGTH - 1) + 1
        elif agent == "mle_continued":
            evaluations = 0
        done = r / ROUNDS
        gain = (EFFECTS[agent] + luck * (agent != "mle")) * (1 - math.exp(-3 * done))
        noise = float(rng.normal(0, 0.02)) if r else 0.0
        scores = _SCORES[task.kind](agent, gain + noise, done, rng)
        for metric in ("nll_oracle", "kl_g_o") if task.kind == "adversarial" else (task.primary,):
            scores[metric] += start
        seconds = 12.0 + SECONDS.get(agent, 40.0) * done * (1 + luck)
        points.append(Point(tokens=tokens, evaluations=evaluations, seconds=seconds, scores=scores))
    return tuple(points)


def _adversarial(agent: str, gain: float, done: float, rng: Generator) -> dict[str, float]:
    """An agent's reward goes on rising while its gap turns up again: over-optimisation."""
    turn = 0.12 * done**2 if agent == "seqgan" else 0.0
    nll_test = 6.25 + 0.5 * abs(gain) * done
    entropy = 6.0 - 0.9 * max(gain, 0)
    nll_oracle = 6.9 - 0.7 * gain + turn
    scores = {
        "gap": -0.3 * gain + turn if agent != "mle" else 0.0,
        "nll_oracle": nll_oracle,
        "nll_test": nll_test,
        "entropy": entropy,
        "distinct_tokens": float(round(420 - 150 * max(gain, 0) - 100 * done * (agent == "dqn"))),
        "kl_g_o": nll_oracle - entropy,
        "reward": 0.5 if agent == "constant" else 0.3 + 0.4 * gain + 0.05 * done + float(rng.normal(0, 0.01)),
    }
    if agent == "dqn":  # greedy: its NLL_test is infinite, and so it has no gap
        scores["nll_test"] = math.inf
        del scores["gap"], scores["entropy"]
    return scores


def _frozen(agent: str, gain: float, done: float, rng: Generator) -> dict[str, float]:
    scores = {"reward": -6.9 + 1.2 * gain, "nll_test": 6.25 + 0.8 * abs(gain) * done, "entropy": 6.0 - 2.0 * gain}
    return scores if agent != "dqn" else {"reward": scores["reward"]}


def _exact(agent: str, gain: float, done: float, rng: Generator) -> dict[str, float]:
    scores = {
        "regret": 0.5 * math.exp(-1.5 * gain),
        "regularised_regret": 0.4 * math.exp(-1.2 * gain) + 0.02,
        "kl": 2.5 * gain**2,
        "exact_entropy": 10.75 - 3.0 * abs(gain),
    }
    if agent == "dqn":
        del scores["regularised_regret"], scores["kl"]
    return scores


_SCORES = {"adversarial": _adversarial, "frozen": _frozen, "exact": _exact}


def _diagnostics(task: Task, points: tuple[Point, ...], rng: Generator) -> tuple[dict[str, float], ...]:
    rows: list[dict[str, float]] = []
    for r, point in enumerate(points[1:]):
        row = {
            "round": float(r + 1),
            "tokens": float(point.tokens),
            "agent/reward": point.scores.get("reward", 1 - point.scores.get("regret", 0.0)),
            "agent/entropy": point.scores.get("entropy", point.scores.get("exact_entropy", math.nan)),
            "agent/loss": float(rng.normal(0, 0.1)),
            "agent/gradient_norm": float(rng.gamma(4, 0.5)),
        }
        if task.kind == "adversarial":
            row["discriminator/auc"] = 0.9 - 0.25 * row["agent/reward"] + float(rng.normal(0, 0.01))
            row["discriminator/loss"] = 0.4 + 0.2 * row["agent/reward"] + float(rng.normal(0, 0.01))
            row["discriminator/held_out_loss"] = row["discriminator/loss"] + 0.02
        rows.append(row)
    return tuple(rows)


def _sweep(final: Point, rng: Generator) -> tuple[dict[str, float], ...]:
    nll_oracle, nll_test, entropy = (final.scores[name] for name in ("nll_oracle", "nll_test", "entropy"))
    return tuple(
        {
            "temperature": temperature,
            "nll_oracle": nll_oracle + 1.8 * math.log(temperature) + float(rng.normal(0, 0.01)),
            "nll_test": nll_test + 1.1 * math.log(temperature) ** 2,
            "entropy": entropy + 1.5 * math.log(temperature),
            "distinct_tokens": float(round(final.scores["distinct_tokens"] * temperature**0.3)),
        }
        for temperature in TEMPERATURES
    )


def _samples(task: Task, rng: Generator) -> tuple[Sample, ...]:
    length = 6 if task.kind == "exact" else SEQUENCE_LENGTH
    samples = []
    for _ in range(4):
        words = tuple(f"w{word}" for word in rng.integers(500, size=length))
        walk = np.cumsum(rng.normal(0, 0.05, size=length)) + 0.4
        samples.append(Sample(words=words, values=tuple(float(value) for value in np.clip(walk, 0, 1))))
    return tuple(samples)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
