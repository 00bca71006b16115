"""The adversarial phase of a run, round by round: callbacks around the agent's one ``learn()``.

In order at the start of every round: :class:`Rounds` writes and saves the round before, :class:`RunAdversary` retrains
the discriminator, :class:`Evaluation` scores the generator.
"""

import copy
import time
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from tqdm.auto import tqdm

from seqgan_rl.adversarial.agent import agent_state, check_finite, load_agent_state
from seqgan_rl.adversarial.callback import AdversarialCallback
from seqgan_rl.adversarial.player import Player
from seqgan_rl.adversarial.round_figures import RoundFigures
from seqgan_rl.adversarial.session import Session, fitting
from seqgan_rl.agents.policy import GeneratorActorCritic
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import DiscriminatorTrainer
from seqgan_rl.evaluation import Scores
from seqgan_rl.models.generator import Generator
from seqgan_rl.rewards import Reward

COLLAPSED = 0.5
"""Share of the MLE's entropy or distinct tokens below which a generator has collapsed."""


class RunAdversary(AdversarialCallback):
    """The GAN loop with this run's trainer; rewards without a discriminator leave it alone."""

    def __init__(
        self, name: str, trainer: DiscriminatorTrainer, rollout_update_rate: float, seed: int, *, retrains: bool
    ) -> None:
        super().__init__(config=trainer.config, trainer=trainer, rollout_update_rate=rollout_update_rate, seed=seed)
        self.rng = stream(seed, f"{name} fake")
        self.retrains = retrains
        self.loop: Rounds | None = None

    def _is_due(self) -> bool:
        is_over = self.loop is not None and self.loop.is_over
        return self.retrains and not is_over and super()._is_due()

    def state_dict(self) -> dict[str, Any]:
        """As of the callback, and how many stored sequences the last relabelling paid: on it depends when the next
        retraining is due."""
        return {**super().state_dict(), "stored": self._stored, "relabelled": self.num_relabelled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        super().load_state_dict(state)
        self._stored, self.num_relabelled = state["stored"], state["relabelled"]


class Stopwatch:
    """Seconds of wall time while it runs; it starts at once."""

    def __init__(self) -> None:
        self.seconds_before = 0.0
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        """In all so far."""
        return self.seconds_before + (0.0 if self._since is None else time.perf_counter() - self._since)

    def stop(self) -> None:
        """Stand still."""
        self.seconds_before, self._since = self.seconds, None

    def start(self) -> None:
        """Run on."""
        self._since = time.perf_counter()


class Rounds(BaseCallback):
    """First at the start of every round: write the last round's row, save, stop when the rounds are done.

    A round is one collection of the algorithm and the update that follows. A checkpoint is thus taken before the
    discriminator's work and the evaluation of a round, and a continued run repeats both from the same state. (For an
    agent that is no generator the discriminator's work is done at the end of a collection; then it is behind us.)
    """

    def __init__(
        self,
        run: Session,
        name: str,
        agent: BaseAlgorithm,
        reward: Reward,
        adversary: RunAdversary,
        bar: "tqdm[Any]",
        state: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.run, self.name, self.agent, self.reward = run, name, agent, reward
        self.adversary, self.bar, self._state = adversary, bar, state
        self.stop_reason = ""
        self.own_generator: Generator | None = getattr(agent.policy, "generator", None)
        """The network that the agent trains, if it is a generator."""
        averages = run.config.agent.averaging > 0 and self.own_generator is not None
        self.average: Generator | None = copy.deepcopy(self.own_generator) if averages else None
        self.round = 0
        """Rounds done, each with its update."""
        self.watch = Stopwatch()
        """Runs while the agent and the discriminator play and train, and stands while they are scored or saved."""
        self.start_scores: dict[str, float] = {}
        self._has_warned = False
        self._has_collected = False
        self.tokens_before = self._tokens_at_start = 0
        """Tokens generated when the last round began."""
        self._is_done = run.config.rounds == 0 and not run.config.has_budget
        self.figures = RoundFigures(agent)
        self._minibatches = 0
        """The discriminator's minibatches when the round began."""

    @property
    def generator(self) -> Generator:
        """What is evaluated and kept: the average of the weights, where one is taken, else the last; of an agent that
        is no generator what it plays."""
        if self.own_generator is None:
            return Player(self.agent)
        return self.own_generator if self.average is None else self.average

    def _on_rollout_start(self) -> None:
        if isinstance(self.agent.policy, GeneratorActorCritic):
            self.agent.policy.forget()  # read anew, as a continued run has to
        if self._state is not None:  # continue: everything is in place now
            with fitting(self.run.folder):
                self._load(self._state)
            self._state = None
            self._minibatches = self._minibatches_now
            self._tokens_at_start = self.agent.num_timesteps
            self.bar.update(self.round - self.bar.n)
            return
        if self._has_collected:
            self._end_round()
        self._minibatches = self._minibatches_now
        self._tokens_at_start = self.agent.num_timesteps
        self.watch.stop()
        self.run.checkpoint_if_due(self._state_dict)
        self.watch.start()

    def _end_round(self) -> None:
        """The update is done: count, check, write."""
        self.round += 1
        self.tokens_before = self._tokens_at_start
        self._has_collected = False
        check_finite(self.agent)
        self.figures.record_update(self._minibatches_now - self._minibatches)
        for name, value in self.used.items():
            self.agent.logger.record(name, value)
        self.agent.logger.dump(self.round)
        self.bar.update(self.round - self.bar.n)
        self._take_average()
        self._check_done()

    def _on_rollout_end(self) -> None:
        self._has_collected = True
        self.figures.record_collection()

    @torch.no_grad()
    def _take_average(self) -> None:
        """average <- averaging * average + (1 - averaging) * weights."""
        if self.average is not None and self.own_generator is not None:
            for mean, last in zip(self.average.parameters(), self.own_generator.parameters(), strict=True):
                mean.lerp_(last, 1 - self.run.config.agent.averaging)

    def _on_step(self) -> bool:
        if not np.isfinite(self.locals["rewards"]).all():
            raise FloatingPointError("a reward is not finite; check the reward, or the discriminator behind it")
        self.figures.observe(self.locals["infos"])
        return not self.is_over

    @property
    def used(self) -> dict[str, float]:
        """What the agent has used so far: tokens generated, sequences scored, seconds of training."""
        scored = self.training_env.get_attr("num_scored", indices=0)[0] + self.adversary.num_relabelled
        return {
            "tokens": self.agent.num_timesteps,
            "evaluations": scored + getattr(self.agent, "num_prefixes_scored", 0),
            "time/training": round(self.watch.seconds, 3),
        }

    @property
    def _minibatches_now(self) -> int:
        return 0 if self.adversary.trainer is None else self.adversary.trainer.minibatches

    @property
    def is_over(self) -> bool:
        """Whether the rounds are done, the budget is used up, or training was stopped; as of the last round's end."""
        return self._is_done or bool(self.stop_reason)

    def _check_done(self) -> None:
        config, used = self.run.config, self.used
        if config.has_budget:
            self._is_done = used["tokens"] >= config.tokens and used["evaluations"] >= config.scored
        else:
            self._is_done = self.round >= config.rounds

    def check(self, scores: Scores, valid_nll: float) -> None:
        """Alarm and stop: compare with the scores at the start of the adversarial phase."""
        now = {"valid_nll": valid_nll, "entropy": scores.entropy, "distinct_tokens": float(scores.distinct_tokens)}
        self.start_scores = self.start_scores or now
        fallen = [key for key in ("entropy", "distinct_tokens") if now[key] < COLLAPSED * self.start_scores[key]]
        if fallen and not self._has_warned:
            self._has_warned = True
            text = " and ".join(f"{key} {self.start_scores[key]:.3g} -> {now[key]:.3g}" for key in fallen)
            self.run.say(f"{self.name}: the generator is collapsing at round {self.round}: {text}")
            shares = {f"alarm/{key}": now[key] / self.start_scores[key] for key in fallen}
            self.run.log.write(self.name, "round", self.round, shares)
        rise = now["valid_nll"] - self.start_scores["valid_nll"]
        if self.own_generator is not None and rise > self.run.config.evaluation.max_nll_rise:
            self.stop_reason = f"validation NLL has risen by {rise:.3g} nats per token"
            self.run.say(f"{self.name}: stopped at round {self.round}: {self.stop_reason}")
            self.run.stopped[self.name] = f"at round {self.round} of {self.bar.total}: {self.stop_reason}"

    def _state_dict(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "agent": agent_state(self.agent),
            "reward": self.reward.state_dict(),
            "adversary": self.adversary.state_dict(),
            "start_scores": self.start_scores,
            "has_warned": self._has_warned,
            "seconds": self.watch.seconds,
            "tokens_before": self.tokens_before,
            "average": None if self.average is None else self.average.state_dict(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        load_agent_state(self.agent, state["agent"])
        self.reward.load_state_dict(state["reward"])
        self.adversary.load_state_dict(state["adversary"])
        self.round, self.start_scores, self._has_warned = state["round"], state["start_scores"], state["has_warned"]
        self.watch.seconds_before += state["seconds"]
        self.tokens_before = state["tokens_before"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._check_done()


class Evaluation(BaseCallback):
    """Last at the start of a round: score the generator every so many rounds, beside the one at the start."""

    def __init__(self, loop: Rounds, start: Generator) -> None:
        super().__init__()
        self.loop, self.start = loop, start

    def _on_rollout_start(self) -> None:
        loop = self.loop
        config = loop.run.config.evaluation
        is_at_mark = any(loop.tokens_before < mark <= loop.agent.num_timesteps for mark in config.at)
        if loop.round % config.every == 0 or loop.is_over or is_at_mark:
            loop.watch.stop()
            self._score()
            loop.watch.start()

    def _score(self) -> None:
        loop, run = self.loop, self.loop.run
        assert loop.adversary.trainer is not None
        generator = loop.generator
        valid_nll, held_out = run.valid_nll(generator), run.held_out(loop.adversary.trainer, generator)
        extra = {"eval/nll_valid": valid_nll} | {f"discriminator/{key}": value for key, value in held_out.items()}
        extra |= {"eval/kl_to_start": run.kl(generator, self.start), **loop.used}
        scores = run.evaluate(loop.name, "round", loop.round, generator, **extra)
        quality = "" if scores.nll_oracle is None else f"NLL_oracle {scores.nll_oracle:.3f}, "
        loop.bar.set_postfix_str(
            f"{quality}NLL_test {scores.nll_test:.3f}, H {scores.entropy:.2f}, AUC {held_out['auc']:.2f}"
        )
        loop.check(scores, valid_nll)

    def _on_step(self) -> bool:
        return True
