"""What the stages of a run share: its folder, settings, data, metrics and checkpoints."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.results import make_evaluator
from seqgan_rl.adversarial.run_folder import MetricsLog, RunFolder
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream
from seqgan_rl.discriminators import DiscriminatorTrainer
from seqgan_rl.evaluation import Scores
from seqgan_rl.models.generator import Generator
from seqgan_rl.models.likelihood import nll_per_token, sequence_nll
from seqgan_rl.rewards import Reward, rewards
from seqgan_rl.rewards.base import RewardParts, as_reward

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 15.0


class Session:
    """One run in progress, at the stage and state of its last checkpoint."""

    def __init__(self, folder: RunFolder, config: RunConfig, data: RunData, progress: bool) -> None:
        self.folder, self.config, self.data, self.progress = folder, config, data, progress
        self.device = torch.device(config.device)
        start: tuple[int, dict[str, Any]] = (0, {"stage": 0, "metrics_bytes": 0, "state": None})
        self.number, checkpoint = folder.last_checkpoint() or start
        self.stage_index: int = checkpoint["stage"]
        self.stage_state: dict[str, Any] | None = checkpoint["state"]
        self.stopped: dict[str, str] = dict(checkpoint.get("stopped", {}))
        """Why the stages that a guard has stopped were stopped."""
        self.log = MetricsLog(folder, checkpoint["metrics_bytes"])
        smoothing = "method1" if config.evaluation.sample_scores else None
        self.evaluator = make_evaluator(data, config.evaluation.samples, self.device, smoothing=smoothing)
        self.reward_of_samples = reward_of_samples(config, data)
        self._saved_at = time.monotonic()

    def checkpoint(self, state: dict[str, Any] | None) -> None:
        """Save the state of the running stage; None at the start of one."""
        self.number += 1
        self.folder.save_checkpoint(
            self.number,
            {"stage": self.stage_index, "metrics_bytes": self.log.size, "state": state, "stopped": self.stopped},
        )
        self._saved_at = time.monotonic()

    def checkpoint_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state of the running stage if the last save is some time ago."""
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            self.checkpoint(state())

    def split(self, name: str) -> Tensor:
        """Real sequences on the run's device."""
        return self.data.split(name).to(self.device)

    def bar(self, label: str, total: int, done: int = 0, unit: str = "it") -> "tqdm[Any]":
        """A progress bar on standard error."""
        return tqdm(total=total, initial=done, desc=f"{label:<22}", unit=unit, disable=not self.progress, leave=True)

    def say(self, text: str) -> None:
        """Say something without breaking a bar."""
        tqdm.write(text) if self.progress else logger.warning(text)

    def evaluate(self, agent: str, step_name: str, step: int, generator: Generator, **extra: float) -> Scores:
        """Score a generator on the test split, and write one row of ``eval/`` metrics."""
        scores = self.evaluator.scores(generator)
        record = {f"eval/{key}": value for key, value in scores.metrics().items()} | extra
        if self.reward_of_samples is not None:
            record["eval/reward"] = self.mean_reward(generator, self.reward_of_samples)
        self.log.write(agent, step_name, step, record)
        return scores

    def mean_reward(self, generator: Generator, reward: Reward) -> float:
        """Mean reward of sequences drawn for the purpose, the same random numbers every time."""
        n, rng = self.config.evaluation.samples, stream(self.config.seed, "reward of samples")
        tokens_NT = generator.sample(n, forbidden=self.data.forbidden, rng=rng)
        lengths_N = (tokens_NT != generator.pad_id).sum(dim=1)
        return float(reward.score(tokens_NT, lengths_N).mean())

    def valid_nll(self, generator: Generator) -> float:
        """NLL of the validation split, nats per token."""
        return nll_per_token(generator, self.split("valid"))

    def held_out(self, trainer: DiscriminatorTrainer, generator: Generator) -> dict[str, float]:
        """Diagnostics on real sequences that neither network trained on, and fresh generated ones."""
        valid_BT = self.split("valid")[:2048]
        rng = stream(self.config.seed, f"held out {trainer.minibatches}")
        fake_BT = generator.sample(len(valid_BT), forbidden=self.data.forbidden, rng=rng)
        record = trainer.held_out(valid_BT, fake_BT)
        return {"auc" if name == "held_out_auc" else name: value for name, value in record.items()}

    def kl(self, generator: Generator, reference: Generator) -> float:
        """KL(generator ‖ reference) of what the run samples, nats per token, on sequences drawn for the purpose, the
        same random numbers every time."""
        options: dict[str, Any] = {"forbidden": self.data.forbidden}
        tokens_NT = generator.sample(self.config.evaluation.samples, rng=stream(self.config.seed, "kl"), **options)
        excess_N = sequence_nll(reference, tokens_NT, **options) - sequence_nll(generator, tokens_NT, **options)
        return float(excess_N.sum()) / int((tokens_NT != generator.pad_id).sum())


def reward_of_samples(config: RunConfig, data: RunData) -> Reward | None:
    """What evaluations score samples by, if they do. InputError where the task lacks what it needs."""
    if config.evaluation.reward is None:
        return None
    parts = RewardParts(
        oracle=data.oracle,
        real=lambda: data.split("train").to(config.device),
        eos_id=data.corpus.vocabulary.eos_id,
        rng=stream(config.seed, "reward of samples"),
    )
    return as_reward(rewards[config.evaluation.reward](parts))


@contextmanager
def fitting(folder: RunFolder) -> Iterator[None]:
    """InputError where the state of a checkpoint does not fit the run's settings."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the last checkpoint of {folder.path} does not fit its config.json "
            f"({' '.join(str(error).split())[:150]}); "
            "was one of them changed? Remove its checkpoints folder to train again from the start"
        ) from error
