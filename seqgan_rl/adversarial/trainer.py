"""Algorithm 1 as a run: likelihood pretraining, discriminator pretraining, adversarial training, controls, results.

Each stage draws from random streams of its own, named after it, and can be continued from the last checkpoint; a run
that was killed and continued writes the same numbers as one that was not.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from seqgan_rl.adversarial.agent import global_streams, learn, make_agent, planned_rounds
from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData, prepare_data
from seqgan_rl.adversarial.player import save_player
from seqgan_rl.adversarial.pretrained import Pretrained
from seqgan_rl.adversarial.results import RunResult, write_results
from seqgan_rl.adversarial.rounds import Evaluation, Rounds, RunAdversary
from seqgan_rl.adversarial.run_folder import AgentWriter, RunFolder, new_run_path, read_metrics
from seqgan_rl.adversarial.session import Session, fitting, reward_of_samples
from seqgan_rl.core import distributed
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.modules import check_device
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.discriminators import (
    Discriminator,
    DiscriminatorTrainer,
    discriminators,
    take_embedding,
    train_discriminator,
)
from seqgan_rl.models.compiled import is_compiled, set_compiled
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer, output_bias
from seqgan_rl.models.scheduled_sampling import ScheduledSamplingTrainer
from seqgan_rl.models.vae import SequenceVAE, VAETrainer
from seqgan_rl.rewards import Reward, ShuffledReward, check_batch, rewards
from seqgan_rl.rewards.base import RewardParts, as_reward
from seqgan_rl.rewards.controls import ConstantReward

logger = logging.getLogger(__name__)

CONTINUED_EPOCHS = 20
"""Epochs of the control "mle_continued", and more where the agent has generated more tokens than these hold."""


def train(
    config: RunConfig,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    progress: bool = True,
) -> RunResult:
    """Run everything a config asks for; the same as ``seqgan-rl train``.

    In the processes of ``torchrun`` (:mod:`seqgan_rl.core.distributed`) it is one run: rank 0 writes it, the arguments
    of the others are not looked at, and what they return has no scores.

    Args:
        config: see :func:`seqgan_rl.adversarial.config.preset`.
        run: the run folder; None makes ``runs/PRESET-DATE-TIME``. It must not exist, unless ``resume``.
        resume: continue the run in this folder with its own settings; ``config`` is then not looked at.
        start: another run whose pretrained generator, and discriminator where its settings are these too, are taken
            over instead of trained again; the numbers are those of training them.
        progress: show progress bars.

    Returns:
        The scores of every model, the verdict, and where everything is.

    Raises:
        InputError: bad settings, data or folder.
        FloatingPointError: a loss was not finite; the last checkpoint is good.
    """
    with distributed.joined() as ranks:
        if ranks is not None and ranks.rank > 0:
            return _take_part(ranks)
        with opened(config, run, resume=resume, start=start, progress=progress) as session:
            session.go()
            distributed.leave()
            return write_results(
                session.folder, session.config, session.data, stopped=session.stopped, progress=session.progress
            )


def _take_part(ranks: distributed.Ranks) -> RunResult:
    """The run of rank 0 once more, in a copy of its folder and in silence: what this rank adds is its share of the
    work."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), ranks.folder_of_first() as copied:
            with opened(RunConfig(), copied, resume=True, progress=False) as session:
                session.go()
                distributed.leave()
            return RunResult(copied, (), "")
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def opened(
    config: RunConfig,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    start: str | Path | None = None,
    progress: bool = True,
) -> Iterator["Run"]:
    """A run that is held by this process: :func:`train` without its results, for who scores it otherwise. Arguments and
    errors as there."""
    if resume:
        if run is None:
            raise InputError("resume needs the run folder to continue")
        folder = RunFolder.open(run)
        config = folder.config()
    check_device(config.device)
    distributed.take_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    has_data = resume and (folder / "corpus" / "corpus.json").is_file()
    data = RunData.load(folder) if has_data else prepare_data(config.data)
    _check_parts(config, data)
    pretrained = None if resume or start is None else Pretrained.of(start, config, data)
    if not resume:
        folder = RunFolder.create(new_run_path(config.preset.split("/")[0]) if run is None else run, config)
    with folder.locked(), _compiling(config.compile):
        if not has_data:
            data.save(folder)
            for line in data.corpus.report:
                logger.info("corpus: %s", line)
        if pretrained is not None:
            pretrained.copy_to(folder)
        ranks = distributed.ranks()
        if ranks is not None and ranks.rank == 0:
            ranks.send_folder(folder.path, leave_out=("tensorboard",))
        yield Run(folder, config, data, progress)


@contextmanager
def _compiling(enabled: bool) -> Iterator[None]:
    """Inside, samplers are compiled or not as the run says, whatever the process was set to: the numbers hang on it."""
    before = is_compiled()
    set_compiled(enabled)
    try:
        yield
    finally:
        set_compiled(before)


def _check_parts(config: RunConfig, data: RunData) -> None:
    """Build every part once, so that a setting or a part that does not fit is an InputError before the run begins."""
    vocabulary, T = data.corpus.vocabulary, data.corpus.sequence_length
    for split in ("valid", "test"):
        if len(data.corpus.splits[split]) < 2:
            raise InputError(
                f"corpus {data.corpus.name!r}: at least 2 {split} sequences are needed, got "
                f"{len(data.corpus.splits[split])}; give more text"
            )
    try:
        with torch.random.fork_rng(devices=[]):
            generator: Generator = generators[config.generator.name](
                vocabulary.num_actions, T, vocabulary.has_eos, **config.generator.options
            )
            discriminator = discriminators[config.network.name](vocabulary.num_actions, T, **config.network.options)
        if config.network.pretrained_embedding:
            take_embedding(discriminator, generator)
        parts = RewardParts(
            discriminator=discriminator,
            oracle=data.oracle,
            generator=generator,
            real=lambda: data.split("train"),
            eos_id=vocabulary.eos_id,
            rng=stream(0, "never used"),
        )
        for name in (config.agent.reward, *(control for control in config.controls if control in rewards)):
            check_batch(_reward(config, name, parts), num_envs=config.agent.batch_size, has_eos=vocabulary.has_eos)
        reward_of_samples(config, data)
        for stage in ("mle", *({"scheduled_sampling"} & set(config.controls))):
            if getattr(config, stage).frequency_bias:
                output_bias(generator, f"{stage}.frequency_bias")
        if "vae" in config.controls:
            _vae(config, data)
        if config.agent.rollouts:  # a round's random numbers; taken from the system only when they are written
            np.empty((config.agent.batch_size, T - 1, config.agent.num_rollouts, T), dtype=np.float32)
        env = make_agent(config, data, ConstantReward(), generator.to(config.device), "never used").env
        assert env is not None
        env.close()
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"num_rollouts and batch_size (or a buffer_size) ask for too much memory: {error}") from None
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:  # SB3 asserts what its arguments must be
        raise InputError(f"a part of the run cannot be built: {str(error)[:300].splitlines()[0]}") from error


def _reward(config: RunConfig, name: str, parts: RewardParts) -> Reward:
    """A reward by name; "shuffled" is the agent's own, handed to the wrong sequences."""
    if name == "shuffled":
        return ShuffledReward(as_reward(rewards[config.agent.reward](parts)), parts.rng)
    return as_reward(rewards[name](parts))


def _vae(config: RunConfig, data: RunData) -> SequenceVAE:
    """The autoencoder of the settings, with the generator's sizes."""
    vocabulary, sizes = data.corpus.vocabulary, config.generator
    with torch_seeded(stream(config.seed, "vae init")):
        return SequenceVAE(
            vocabulary.num_actions,
            data.corpus.sequence_length,
            vocabulary.has_eos,
            embedding_dim=sizes.embedding_dim,
            hidden_dim=sizes.hidden_dim,
        )


class _SameWeights(BaseCallback):
    """At the start of every round: rank 0's weights on all ranks, so that unlike machines, which round differently,
    cannot drift apart. (On GPUs torch's random state too: a checkpoint holds that of rank 0's alone.)"""

    def __init__(self, ranks: distributed.Ranks, *networks: torch.nn.Module) -> None:
        super().__init__()
        self.ranks, self.networks = ranks, networks

    def _on_rollout_start(self) -> None:
        for network in self.networks:
            self.ranks.follow_first(network.state_dict().values())
        if torch.cuda.is_initialized():
            self.ranks.follow_first([state := torch.cuda.get_rng_state()])
            torch.cuda.set_rng_state(state)

    def _on_step(self) -> bool:
        return True


@dataclass
class _Stage:
    name: str
    go: Callable[[dict[str, Any] | None], None]
    """Runs the stage, from the state of a checkpoint if one is given."""


class Run(Session):
    """The stages of a run: pretraining, the agent (unless there are no rounds), controls."""

    def __init__(self, folder: RunFolder, config: RunConfig, data: RunData, progress: bool) -> None:
        super().__init__(folder, config, data, progress)
        name, plays = config.agent.algorithm, config.rounds > 0 or config.has_budget
        self.stages = [
            _Stage("mle", self._mle),
            _Stage("discriminator", self._discriminator),
            *([_Stage(name, lambda state: self._agent(name, config.agent.reward, state))] if plays else []),
            *(_Stage(name, self._control(name)) for name in config.controls),
        ]

    def go(self) -> None:
        """All stages that are left."""
        try:
            while self.stage_index < len(self.stages):
                self.stages[self.stage_index].go(self.stage_state)
                self.stage_state = None
                self.stage_index += 1
                self.checkpoint(None)
        finally:
            self.log.close()

    def checkpoint(self, state: dict[str, Any] | None) -> None:
        """See :meth:`Session.checkpoint`; nobody goes on from the copies of ranks above 0."""
        if distributed.is_first():
            super().checkpoint(state)

    # --- stages -------------------------------------------------------------------------------------------------

    def _mle(self, state: dict[str, Any] | None) -> None:
        """Algorithm 1, line 2: pretrain the generator by maximum likelihood."""
        generator = self._new_generator()
        self._fit("mle", "MLE pretraining", generator, self.config.mle, state)
        save_model(self.folder / "mle", generator, self.config.generator.name)

    def _fit(
        self,
        stage: str,
        label: str,
        generator: Generator,
        config: LikelihoodConfig,
        state: dict[str, Any] | None,
        trainer_class: type[LikelihoodTrainer] = LikelihoodTrainer,
    ) -> None:
        rng = stream(self.config.seed, f"{stage} order")
        trainer = trainer_class(generator, self.split("train"), self.split("valid"), config, rng)
        if state is not None:
            with fitting(self.folder):
                trainer.load_state_dict(state)
        with self.bar(label, config.max_epochs, trainer.epoch, unit="epoch") as bar:
            for record in trainer.epochs():
                self.log.write(
                    stage, "epoch", trainer.epoch, {f"mle/{k}": v for k, v in record.items() if k != "epoch"}
                )
                if trainer.epoch % self.config.evaluation.every == 0 or trainer.done:
                    self.evaluate(stage, "epoch", trainer.epoch, generator)
                bar.update()
                bar.set_postfix_str(f"train {record['train_nll']:.3f}  valid {record['valid_nll']:.3f} nats/token")
                self.checkpoint_if_due(trainer.state_dict)

    def _discriminator(self, state: dict[str, Any] | None) -> None:
        """Algorithm 1, lines 3-4: pretrain the discriminator on the pretrained generator's samples."""
        config, generator = self.config.discriminator, self._load_generator("mle")
        trainer = self._new_trainer()
        if self.config.network.pretrained_embedding and state is None:
            take_embedding(trainer.discriminator, generator)
        trainer.discriminator.follow(generator)
        rng = stream(self.config.seed, "discriminator fake")
        best: dict[str, Any] = {"loss": float("inf"), "waited": 0, "trainer": None}
        if state is not None:
            with fitting(self.folder):
                trainer.load_state_dict(state["trainer"])
                rng.bit_generator.state, best = state["rng"], state["best"]

        def fake(n: int) -> Tensor:
            return generator.sample(n, forbidden=self.data.forbidden, rng=rng)

        total = config.pretrain_minibatches
        chunk = max(config.check_every, config.epochs_per_draw * -(-config.draw_size // config.batch_size))
        with self.bar("discriminator", total, trainer.minibatches, unit="minibatch") as bar:
            while trainer.minibatches < total:
                before = trainer.minibatches
                record = train_discriminator(trainer, fake, min(chunk, total - trainer.minibatches))
                record |= self.held_out(trainer, generator)
                self.log.write(
                    "discriminator",
                    "minibatch",
                    trainer.minibatches,
                    {f"discriminator/{key}": value for key, value in record.items()},
                )
                bar.update(trainer.minibatches - before)
                bar.set_postfix_str(
                    f"loss {record['loss']:.3f}, held out {record['held_out_loss']:.3f}, AUC {record['auc']:.3f}"
                )
                if config.pretrain_patience:
                    improved = record["held_out_loss"] < best["loss"]
                    waited = 0 if improved else best["waited"] + 1
                    best = {**best, "waited": waited}
                    if improved:
                        best |= {"loss": record["held_out_loss"], "trainer": copy.deepcopy(trainer.state_dict())}
                    if waited >= config.pretrain_patience:
                        break
                state = {"trainer": trainer.state_dict(), "rng": rng.bit_generator.state, "best": best}
                self.checkpoint_if_due(lambda state=state: state)  # type: ignore[misc]
        if best["trainer"] is not None:
            trainer.load_state_dict(best["trainer"])
        save_model(self.folder / "discriminator", trainer.discriminator, self.config.network.name)
        save_state(self.folder / "discriminator-training", trainer.state_dict())

    def _agent(self, name: str, reward_name: str, state: dict[str, Any] | None) -> None:
        """Algorithm 1, lines 6-14, with the agent playing the Gymnasium environment."""
        config, agent_config = self.config, self.config.agent
        trainer = self._new_trainer()
        with fitting(self.folder):
            trainer.load_state_dict(load_state(self.folder / "discriminator-training"))
        mle = self._load_generator("mle")
        parts = RewardParts(
            discriminator=trainer.discriminator,
            oracle=self.data.oracle,
            generator=mle,
            real=lambda: self.split("train"),
            eos_id=self.data.corpus.vocabulary.eos_id,
            rng=stream(config.seed, f"{name} reward"),
        )
        reward = _reward(config, reward_name, parts)
        agent = make_agent(config, self.data, reward, mle, name)
        agent.set_logger(Logger(None, [AgentWriter(self.log, name)]))
        pays = reward.discriminator is not None
        adversary = RunAdversary(name, trainer, agent_config.rollout_update_rate, config.seed, retrains=pays)
        with (
            self.bar(name, planned_rounds(agent, config), unit="round") as bar,
            global_streams(stream(config.seed, f"{name} algorithm")),
        ):
            loop = Rounds(self, name, agent, reward, adversary, bar, state)
            adversary.loop = loop
            callbacks: list[BaseCallback] = [loop, adversary, Evaluation(loop, mle)]
            if (ranks := distributed.ranks()) is not None:
                callbacks.insert(1, _SameWeights(ranks, agent.policy, trainer.discriminator))
            learn(agent, config, callbacks)
        control = None if name == agent_config.algorithm else self.folder / "controls" / name
        if loop.own_generator is None:
            save_player(control or self.folder / "agent", agent)
        else:
            save_model(control or self.folder / "generator", loop.generator, config.generator.name)
        assert agent.env is not None
        agent.env.close()

    def _control(self, name: str) -> Callable[[dict[str, Any] | None], None]:
        fits = {
            "mle_continued": self._mle_continued,
            "scheduled_sampling": self._scheduled_sampling,
            "vae": self._sequence_vae,
        }
        return fits.get(name) or (lambda state: self._agent(name, name, state))

    def _scheduled_sampling(self, state: dict[str, Any] | None) -> None:
        """Baseline: from the MLE's initial weights, reading more and more of its own tokens."""
        generator, name = self._new_generator(), "scheduled_sampling"
        config = self.config.scheduled_sampling
        self._fit(name, "scheduled sampling", generator, config, state, ScheduledSamplingTrainer)
        save_model(self.folder / "controls" / name, generator, self.config.generator.name)

    def _sequence_vae(self, state: dict[str, Any] | None) -> None:
        """Baseline: a sequence autoencoder of the generator's sizes."""
        vae = _vae(self.config, self.data).to(self.device)
        self._fit("vae", "sequence VAE", vae, self.config.vae, state, VAETrainer)
        save_model(self.folder / "controls" / "vae", vae, "vae")

    def _mle_continued(self, state: dict[str, Any] | None) -> None:
        """Control: what more maximum likelihood would have done with the time."""
        generator, mle = self._load_generator("mle").requires_grad_(True), self.config.mle
        tokens_of_epoch = int((self.split("train") != generator.pad_id).sum())
        epochs = max(CONTINUED_EPOCHS, -(-self._tokens_played() // tokens_of_epoch))
        config = LikelihoodConfig(
            learning_rate=self._last_learning_rate(),
            batch_size=mle.batch_size,
            max_epochs=epochs,
            patience=epochs,
            clip_norm=mle.clip_norm,
            weight_decay=mle.weight_decay,
        )
        self._fit("mle_continued", "MLE continued", generator, config, state)
        save_model(self.folder / "controls" / "mle_continued", generator, self.config.generator.name)

    def _last_learning_rate(self) -> float:
        """The step size with which the MLE ended."""
        rows = [row for row in read_metrics(self.folder) if row.get("agent") == "mle" and "mle/learning_rate" in row]
        return float(rows[-1]["mle/learning_rate"]) if rows else self.config.mle.learning_rate

    def _tokens_played(self) -> int:
        """What the agent has generated, in tokens; 0 where none has played."""
        rows = [row for row in read_metrics(self.folder) if row.get("agent") == self.config.agent.algorithm]
        return max((int(row["tokens"]) for row in rows if row.get("tokens") is not None), default=0)

    # --- parts --------------------------------------------------------------------------------------------------

    def _new_generator(self) -> Generator:
        """The generator of the settings at its initial weights."""
        config, vocabulary = self.config, self.data.corpus.vocabulary
        with torch_seeded(stream(config.seed, "generator init")):
            return generators[config.generator.name](
                vocabulary.num_actions, self.data.corpus.sequence_length, vocabulary.has_eos, **config.generator.options
            ).to(self.device)

    def _load_generator(self, name: str) -> Generator:
        return load_model(self.folder / name, generators).to(self.device)

    def _new_trainer(self) -> DiscriminatorTrainer:
        config, vocabulary = self.config, self.data.corpus.vocabulary
        with torch_seeded(stream(config.seed, "discriminator init")):
            network: Discriminator = discriminators[config.network.name](
                vocabulary.num_actions, self.data.corpus.sequence_length, **config.network.options
            ).to(self.device)
        return DiscriminatorTrainer(
            network, self.split("train"), config.discriminator, stream(config.seed, "discriminator order")
        )
