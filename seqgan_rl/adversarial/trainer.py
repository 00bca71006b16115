"""Algorithm 1 as a run: likelihood pretraining, discriminator pretraining, adversarial training, controls, results.

Each stage draws from random streams of its own, named after it, and can be continued from the last checkpoint; a run
that was killed and continued writes the same numbers as one that was not.
"""

import logging
import time
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
from tqdm.auto import tqdm

from seqgan_rl.adversarial.callback import AdversarialCallback, paying_discriminator, train_discriminator
from seqgan_rl.adversarial.config import RunConfig
from seqgan_rl.adversarial.data import RunData, prepare_data
from seqgan_rl.adversarial.results import RunResult, make_evaluator, write_results
from seqgan_rl.adversarial.run_folder import AgentWriter, MetricsLog, RunFolder, new_run_path
from seqgan_rl.agents.policy import GeneratorPolicy
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import stream, torch_seeded
from seqgan_rl.discriminators import Discriminator, DiscriminatorTrainer, discriminators
from seqgan_rl.envs.sb3 import make_sb3_env
from seqgan_rl.evaluation import Evaluator, Scores
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.likelihood import LikelihoodConfig, LikelihoodTrainer, nll_per_token
from seqgan_rl.rewards import Reward, ShuffledReward, rewards
from seqgan_rl.rewards.base import RewardParts, as_reward

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKPOINTS = 15.0
CONTINUED_EPOCHS = 20
"""Epochs of the control "mle_continued": several times the sequences that the agent plays."""
COLLAPSED = 0.5
"""Share of the MLE's entropy or distinct tokens below which a generator has collapsed."""


def train(
    config: RunConfig, run: str | Path | None = None, *, resume: bool = False, progress: bool = True
) -> RunResult:
    """Run everything a config asks for; the same as ``seqgan-rl train``.

    Args:
        config: see :func:`seqgan_rl.adversarial.config.preset`.
        run: the run folder; None makes ``runs/PRESET-DATE-TIME``. It must not exist, unless ``resume``.
        resume: continue the run in this folder with its own settings; ``config`` is then not looked at.
        progress: show progress bars.

    Returns:
        The scores of every model, the verdict, and where everything is.

    Raises:
        InputError: bad settings, data or folder. FloatingPointError: a loss was not finite; the last checkpoint is good.
    """
    if resume:
        if run is None:
            raise InputError("resume needs the run folder to continue")
        folder = RunFolder.open(run)
        config = folder.config()
    _check_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    has_data = resume and (folder / "corpus" / "corpus.json").is_file()
    data = RunData.load(folder) if has_data else prepare_data(config.data)
    _check_parts(config, data)
    if not resume:
        folder = RunFolder.create(new_run_path(config.preset.split("/")[0]) if run is None else run, config)
    if not has_data:
        data.save(folder)
    return _Run(folder, config, data, progress).go()


def _check_device(name: str) -> None:
    """InputError unless the arithmetic can run there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {name!r}; use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} was asked for, but torch finds no such CUDA device; use cpu")


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
            generator = generators[config.generator.name](
                vocabulary.num_actions, T, vocabulary.has_eos, **config.generator.options
            )
            discriminator = discriminators[config.network.name](vocabulary.num_actions, T, **config.network.options)
        parts = RewardParts(
            discriminator=discriminator, oracle=data.oracle, generator=generator, rng=stream(0, "never used")
        )
        for name in (config.agent.reward, *config.controls):
            _ = as_reward(rewards[name](parts)) if name in rewards else None
        if config.agent.rollouts:  # a round's random numbers; taken from the system only when they are written
            np.empty((config.agent.batch_size, T - 1, config.agent.num_rollouts, T), dtype=np.float32)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"num_rollouts and batch_size ask for too much memory: {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"a part of the run cannot be built: {str(error).splitlines()[0][:300]}") from error


@contextmanager
def _fitting(folder: RunFolder) -> Iterator[None]:
    """InputError where the state of a checkpoint does not fit the run's settings."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the last checkpoint of {folder.path} does not fit its config.json ({' '.join(str(error).split())[:150]}); "
            "was one of them changed? Remove its checkpoints folder to train again from the start"
        ) from error


@dataclass
class _Stage:
    name: str
    go: Callable[[dict[str, Any] | None], None]
    """Runs the stage, from the state of a checkpoint if one is given."""


class _Run:
    """One run in progress."""

    def __init__(self, folder: RunFolder, config: RunConfig, data: RunData, progress: bool) -> None:
        self.folder, self.config, self.data, self.progress = folder, config, data, progress
        self.device = torch.device(config.device)
        self.stages = [
            _Stage("mle", self._mle),
            _Stage("discriminator", self._discriminator),
            _Stage("seqgan", lambda state: self._agent("seqgan", config.agent.reward, state)),
            *(_Stage(name, self._control(name)) for name in config.controls),
        ]
        start: tuple[int, dict[str, Any]] = (0, {"stage": 0, "metrics_bytes": 0, "state": None})
        self.number, checkpoint = folder.last_checkpoint() or start
        self.stage_index: int = checkpoint["stage"]
        self._stage_state = checkpoint["state"]
        self.log = MetricsLog(folder, checkpoint["metrics_bytes"])
        self._saved_at = time.monotonic()

    def go(self) -> RunResult:
        """All stages that are left, then the results."""
        try:
            while self.stage_index < len(self.stages):
                self.stages[self.stage_index].go(self._stage_state)
                self._stage_state = None
                self.stage_index += 1
                self.checkpoint(None)
        finally:
            self.log.close()
        return write_results(self.folder, self.config, self.data, progress=self.progress)

    def checkpoint(self, state: dict[str, Any] | None) -> None:
        """Save the state of the running stage; None at the start of one."""
        self.number += 1
        self.folder.save_checkpoint(
            self.number, {"stage": self.stage_index, "metrics_bytes": self.log.size, "state": state}
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

    # --- stages -------------------------------------------------------------------------------------------------

    def _mle(self, state: dict[str, Any] | None) -> None:
        """Algorithm 1, line 2: pretrain the generator by maximum likelihood."""
        config, vocabulary = self.config, self.data.corpus.vocabulary
        with torch_seeded(stream(config.seed, "generator init")):
            generator = generators[config.generator.name](
                vocabulary.num_actions, self.data.corpus.sequence_length, vocabulary.has_eos, **config.generator.options
            ).to(self.device)
        self._fit("mle", "MLE pretraining", generator, config.mle, state)
        save_model(self.folder / "mle", generator, config.generator.name)

    def _fit(
        self, stage: str, label: str, generator: Generator, config: LikelihoodConfig, state: dict[str, Any] | None
    ) -> None:
        rng = stream(self.config.seed, f"{stage} order")
        trainer = LikelihoodTrainer(generator, self.split("train"), self.split("valid"), config, rng)
        if state is not None:
            with _fitting(self.folder):
                trainer.load_state_dict(state)
        with self.bar(label, config.max_epochs, trainer.epoch, unit="epoch") as bar:
            for record in trainer.epochs():
                self.log.write(
                    stage, "epoch", trainer.epoch, {f"mle/{k}": v for k, v in record.items() if k != "epoch"}
                )
                bar.update()
                bar.set_postfix_str(f"train {record['train_nll']:.3f}  valid {record['valid_nll']:.3f} nats/token")
                self.checkpoint_if_due(trainer.state_dict)

    def _discriminator(self, state: dict[str, Any] | None) -> None:
        """Algorithm 1, lines 3-4: pretrain the discriminator on the pretrained generator's samples."""
        config, generator = self.config.discriminator, self._load_generator("mle")
        trainer = self._new_trainer()
        rng = stream(self.config.seed, "discriminator fake")
        best: dict[str, Any] = {"loss": float("inf"), "waited": 0, "trainer": trainer.state_dict()}
        if state is not None:
            with _fitting(self.folder):
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
                record |= self._held_out(trainer, generator)
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
                        best |= {"loss": record["held_out_loss"], "trainer": _copied(trainer.state_dict())}
                    if waited >= config.pretrain_patience:
                        break
                self.checkpoint_if_due(
                    lambda: {"trainer": trainer.state_dict(), "rng": rng.bit_generator.state, "best": best}
                )
        if config.pretrain_patience and total:
            trainer.load_state_dict(best["trainer"])
        save_model(self.folder / "discriminator", trainer.discriminator, self.config.network.name)
        save_state(self.folder / "discriminator-training", trainer.state_dict())

    def _agent(self, name: str, reward_name: str, state: dict[str, Any] | None) -> None:
        """Algorithm 1, lines 6-14, with the SeqGAN agent playing the Gymnasium environment."""
        config, agent_config = self.config, self.config.agent
        trainer = self._new_trainer()
        with _fitting(self.folder):
            trainer.load_state_dict(load_state(self.folder / "discriminator-training"))
        mle = self._load_generator("mle")
        parts = RewardParts(
            discriminator=trainer.discriminator,
            oracle=self.data.oracle,
            generator=mle,
            rng=stream(config.seed, f"{name} reward"),
        )
        if reward_name == "shuffled":  # the agent's own reward, handed to the wrong sequences
            reward: Reward = ShuffledReward(as_reward(rewards[agent_config.reward](parts)), parts.rng)
        else:
            reward = as_reward(rewards[reward_name](parts))
        env = make_sb3_env(
            "SeqGAN/Oracle-v0" if self.data.oracle is not None else "SeqGAN/Corpus-v0",
            num_envs=agent_config.batch_size,
            monitor=False,
            shaping="deferred" if agent_config.rollouts else "none",
            num_rollouts=agent_config.num_rollouts,
            reward=reward,
            rollout_policy=mle,
            device=config.device,
            **({"oracle": self.data.oracle} if self.data.oracle is not None else {"corpus": self.data.corpus}),
            **({"sequence_length": self.data.corpus.sequence_length} if self.data.oracle is not None else {}),
        )
        env.seed(int(stream(config.seed, f"{name} env").integers(2**31)))
        with torch_seeded(stream(config.seed, f"{name} init")):  # weights that are replaced at once
            agent = SeqGAN(
                GeneratorPolicy,
                env,
                learning_rate=agent_config.learning_rate,
                weights=agent_config.weights,
                baseline=agent_config.baseline,
                normalize=agent_config.normalize,
                loss=agent_config.loss,
                max_grad_norm=agent_config.max_grad_norm,
                ent_coef=agent_config.ent_coef,
                kl_coef=agent_config.kl_coef,
                policy_kwargs={
                    "generator": config.generator.name,
                    "generator_options": config.generator.options,
                    "forbidden": self.data.forbidden,
                },
                device=self.device,
            )
        agent.policy.generator.load_state_dict(mle.state_dict())
        agent.policy.rng = stream(config.seed, f"{name} policy")
        agent.reference = mle
        agent.set_logger(Logger(None, [AgentWriter(self.log, name)]))
        pays = paying_discriminator(reward) is not None
        adversary = _AgentAdversary(name, trainer, agent_config.rollout_update_rate, config.seed, retrains=pays)
        with self.bar(name, config.rounds, unit="round") as bar:
            loop = _Rounds(self, name, agent, reward, adversary, bar, state)
            agent.learn(10**15, callback=[loop, adversary, _Evaluation(loop)], log_interval=None)  # type: ignore[arg-type]
        out = self.folder / "generator" if name == "seqgan" else self.folder / "controls" / name
        save_model(out, agent.policy.generator, config.generator.name)
        env.close()

    def _control(self, name: str) -> Callable[[dict[str, Any] | None], None]:
        if name == "mle_continued":
            return self._mle_continued
        return lambda state: self._agent(name, name, state)

    def _mle_continued(self, state: dict[str, Any] | None) -> None:
        """Control: what more maximum likelihood would have done with the time."""
        generator = self._load_generator("mle").requires_grad_(True)
        config = LikelihoodConfig(
            learning_rate=self.config.mle.learning_rate / 5,
            batch_size=self.config.mle.batch_size,
            max_epochs=CONTINUED_EPOCHS,
            patience=CONTINUED_EPOCHS,
        )
        self._fit("mle_continued", "MLE continued", generator, config, state)
        save_model(self.folder / "controls" / "mle_continued", generator, self.config.generator.name)

    # --- parts --------------------------------------------------------------------------------------------------

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

    def _held_out(self, trainer: DiscriminatorTrainer, generator: Generator) -> dict[str, float]:
        """Diagnostics on real sequences that neither network trained on, and fresh generated ones."""
        valid_BT = self.split("valid")[:2048]
        rng = stream(self.config.seed, f"held out {trainer.minibatches}")
        fake_BT = generator.sample(len(valid_BT), forbidden=self.data.forbidden, rng=rng)
        record = trainer.held_out(valid_BT, fake_BT)
        return {"held_out_loss": record["held_out_loss"], "auc": record["held_out_auc"]}


class _AgentAdversary(AdversarialCallback):
    """The GAN loop with this run's trainer; rewards without a discriminator leave it alone."""

    def __init__(
        self, name: str, trainer: DiscriminatorTrainer, rollout_update_rate: float, seed: int, *, retrains: bool
    ) -> None:
        super().__init__(trainer=trainer, rollout_update_rate=rollout_update_rate, seed=seed)
        self.rng = stream(seed, f"{name} fake")
        self.retrains = retrains

    def _is_due(self) -> bool:
        return self.retrains and super()._is_due()


class _Rounds(BaseCallback):
    """First at the start of every round: write the last round's row, save, stop when the rounds are done.

    A checkpoint is thus taken before the discriminator's work and the evaluation of a round, and a continued run
    repeats both from the same state.
    """

    def __init__(
        self,
        run: _Run,
        name: str,
        agent: SeqGAN,
        reward: Reward,
        adversary: _AgentAdversary,
        bar: "tqdm[Any]",
        state: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.run, self.name, self.agent, self.reward = run, name, agent, reward
        self.adversary, self.bar, self._state = adversary, bar, state
        self.note, self.stop_reason = "", ""
        self.start_scores: dict[str, float] = {}
        self._has_warned = False

    @property
    def round(self) -> int:
        """Generator updates done."""
        return self.agent._n_updates

    def _on_rollout_start(self) -> None:
        if self._state is not None:  # continue: everything is in place now
            with _fitting(self.run.folder):
                self._load(self._state)
            self._state = None
            self.bar.update(self.round - self.bar.n)
            return
        if self.round > 0:
            self.agent.logger.dump(self.round)
            self.bar.update(self.round - self.bar.n)
        self.run.checkpoint_if_due(self._state_dict)

    def _on_step(self) -> bool:
        return not self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the rounds are done or training was stopped."""
        return self.round >= self.run.config.rounds or bool(self.stop_reason)

    def check(self, scores: Scores, valid_nll: float) -> None:
        """Alarm and stop: compare with the scores at the start of the adversarial phase."""
        now = {"valid_nll": valid_nll, "entropy": scores.entropy, "distinct_tokens": float(scores.distinct_tokens)}
        self.start_scores = self.start_scores or now
        fallen = [key for key in ("entropy", "distinct_tokens") if now[key] < COLLAPSED * self.start_scores[key]]
        if fallen and not self._has_warned:
            self._has_warned = True
            text = " and ".join(f"{key} {self.start_scores[key]:.3g} -> {now[key]:.3g}" for key in fallen)
            self.run_message(f"{self.name}: the generator is collapsing at round {self.round}: {text}")
        rise = now["valid_nll"] - self.start_scores["valid_nll"]
        if rise > self.run.config.evaluation.max_nll_rise:
            self.stop_reason = f"validation NLL has risen by {rise:.2f} nats per token"
            self.run_message(f"{self.name}: stopped at round {self.round}: {self.stop_reason}")

    def run_message(self, text: str) -> None:
        """Say something without breaking the bar."""
        tqdm.write(text) if self.run.progress else logger.warning(text)

    def _state_dict(self) -> dict[str, Any]:
        policy = self.agent.policy
        return {
            "policy": policy.state_dict(),
            "optimizer": policy.optimizer.state_dict(),
            "rng": policy.rng.bit_generator.state,
            "updates": self.agent._n_updates,
            "num_timesteps": self.agent.num_timesteps,
            "env": self.training_env.env_method("state_dict", indices=0)[0],
            "reward": self.reward.state_dict(),
            "adversary": self.adversary.state_dict(),
            "start_scores": self.start_scores,
            "has_warned": self._has_warned,
        }

    def _load(self, state: dict[str, Any]) -> None:
        policy = self.agent.policy
        policy.load_state_dict(state["policy"])
        policy.optimizer.load_state_dict(state["optimizer"])
        policy.rng.bit_generator.state = state["rng"]
        self.agent._n_updates, self.agent.num_timesteps = state["updates"], state["num_timesteps"]
        self.training_env.env_method("load_state_dict", state["env"])
        self.reward.load_state_dict(state["reward"])
        self.adversary.load_state_dict(state["adversary"])
        self.start_scores, self._has_warned = state["start_scores"], state["has_warned"]


class _Evaluation(BaseCallback):
    """Last at the start of a round: score the generator every so many rounds."""

    def __init__(self, loop: _Rounds) -> None:
        super().__init__()
        self.loop = loop
        run = loop.run
        self.evaluator: Evaluator = make_evaluator(run.data, run.config.evaluation.samples, run.device)
        self.valid_BT = run.split("valid")

    def _on_rollout_start(self) -> None:
        loop, run = self.loop, self.loop.run
        if loop.round % run.config.evaluation.every and not loop.is_over:
            return
        generator = loop.agent.policy.generator
        scores, valid_nll = self.evaluator.scores(generator), nll_per_token(generator, self.valid_BT)
        held_out = run._held_out(loop.adversary.trainer, generator) if loop.adversary.trainer else {}
        record = {f"eval/{key}": value for key, value in scores.metrics().items()} | {"eval/nll_valid": valid_nll}
        record |= {f"discriminator/{key}": value for key, value in held_out.items()}
        run.log.write(loop.name, "round", loop.round, record)
        quality = "" if scores.nll_oracle is None else f"NLL_oracle {scores.nll_oracle:.3f}, "
        loop.bar.set_postfix_str(
            f"{quality}NLL_test {scores.nll_test:.3f}, H {scores.entropy:.2f}, AUC {held_out.get('auc', 0):.2f}"
        )
        loop.check(scores, valid_nll)

    def _on_step(self) -> bool:
        return True


def _copied(state: Any) -> Any:
    """A state whose tensors no longer change with the module they came from."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return type(state)((key, _copied(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return type(state)(_copied(value) for value in state)
    return state


__all__ = ["train"]
