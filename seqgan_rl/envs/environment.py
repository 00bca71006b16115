"""Gymnasium environments of token-by-token generation: ``SeqGAN/Oracle-v0``, ``SeqGAN/Corpus-v0``, ``SeqGAN/Exact-v0``.

The state is the prefix, the action the next token (Yu et al. 2017, section "Sequence Generative Adversarial Nets").
Reaching T tokens or EOS terminates: the horizon is part of the task, never a truncation.
"""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from seqgan_rl.envs.episodes import check_state, checked_options
from seqgan_rl.envs.exact import ExactTask
from seqgan_rl.envs.holder import TaskHolder
from seqgan_rl.envs.observations import encode, observation_space, pick_row
from seqgan_rl.envs.options import CorpusOptions, EnvOptions, ExactOptions, OracleOptions
from seqgan_rl.envs.task import SequenceTask

METADATA: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}
_CELL = 16
"""Pixels of one token in the raster."""


class SequenceEnv(TaskHolder, gym.Env[Any, np.int64]):
    """Token-by-token generation of one sequence.

    Action: ``Discrete(num_actions)``: V words, then EOS where sequences may end early.
    Observation: the prefix, see :func:`seqgan_rl.envs.observations.observation_space`.
    Reward: see :class:`seqgan_rl.envs.episodes.ShapingOptions`; a float.
    ``reset(options={"prefix": [ids]})`` starts from a prompt (T includes it).
    ``info`` at the end: ``sequence`` int64 (T,), ``sequence_reward`` R(Y), and
    ``action_value`` float32 (T,) where something was rolled out;
    ``action_mask`` int8 (num_actions,) always where some action is forbidden.
    """

    metadata: dict[str, Any] = METADATA
    options_class: ClassVar[type[EnvOptions]] = EnvOptions

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        TaskHolder.__init__(self, self.options_class.of(options), num_envs=1)
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(self.task.num_actions)
        self.observation_space = observation_space(self.options.observation, self.task)
        self._is_running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new sequence, from ``options["prefix"]`` if given."""
        prefix = checked_options(options).get("prefix")
        prompt = None if prefix is None else self.episodes.check_prefix(prefix)
        super().reset(seed=seed)  # from here on things change
        self.episodes.begin(0, self._draw_prompt(self.np_random) if prompt is None else prompt)
        self._is_running = True
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Append one token. ValueError for an action out of range; RuntimeError after the end, until ``reset``."""
        if not self._is_running:
            raise RuntimeError("the sequence has ended or not begun; call reset() before step()")
        active_B = np.ones(1, dtype=np.bool_)
        actions_B = self.episodes.check_actions(np.ravel(action), active_B)
        result = self._advance(actions_B, active_B, [self.np_random])
        info = self._info()
        terminated = bool(result.ended_B[0])
        if terminated:
            self._is_running = False
            info["sequence"] = self.episodes.tokens_BT[0].copy()
            info["sequence_reward"] = float(result.sequence_reward_B[0])
            if result.action_value_BT is not None:
                info["action_value"] = result.action_value_BT[0]
        self._retrain_if_due()
        return self._observation(), float(result.reward_B[0]), terminated, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions may be taken, bool, (num_actions,); sb3-contrib's name for it."""
        mask_A: NDArray[np.bool_] = self.masks()[0]
        return mask_A

    def close(self) -> None:
        """Leave the task; nothing else is held."""
        self._leave()

    def render(self) -> Any:
        """The prefix as text ("ansi") or as a row of coloured cells ("rgb_array")."""
        if self.render_mode == "ansi":
            return as_text(self.task, self.episodes.tokens_BT[0])
        if self.render_mode == "rgb_array":
            return as_raster(self.task, self.episodes.tokens_BT[0])
        return None

    def state_dict(self) -> dict[str, Any]:
        """Prefix, random state and stored values, mid-episode too, and a discriminator that it trains."""
        return {
            **self._state(),
            "is_running": self._is_running,
            "rng": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        check_state(state, self.state_dict())
        self._load_state(state)
        self._is_running = state["is_running"]
        self.np_random.bit_generator.state = state["rng"]

    def _observation(self) -> Any:
        tokens_BT, lengths_B = self.episodes.tokens_BT, self.episodes.lengths_B
        return pick_row(encode(self.options.observation, self.task, tokens_BT, lengths_B, self.masks), 0)

    def _info(self) -> dict[str, Any]:
        """What every info holds: the mask where some action may not be taken."""
        return {"action_mask": self.masks()[0].astype(np.int8)} if self.has_masks else {}


class OracleEnv(SequenceEnv):
    """``SeqGAN/Oracle-v0``: the synthetic task, fixed length, V=5000 and T=20 by default."""

    options_class = OracleOptions


class CorpusEnv(SequenceEnv):
    """``SeqGAN/Corpus-v0``: any text corpus, variable length with EOS."""

    options_class = CorpusOptions


class ExactEnv(SequenceEnv):
    """``SeqGAN/Exact-v0``: enumerable tasks, where regret and action values are known exactly."""

    options_class = ExactOptions

    @property
    def exact_task(self) -> ExactTask:
        """The enumerated task: optimum, exact Q and V and regret of any policy."""
        assert isinstance(self.options, ExactOptions)
        return self.options.exact_task()


def as_text(task: SequenceTask, tokens_T: NDArray[np.int64]) -> str:
    """A prefix as readable text: words where there is a vocabulary, else ids."""
    if task.vocabulary is not None:
        return task.vocabulary.decode(tokens_T.tolist())
    return " ".join("." if token == task.eos_id else str(token) for token in tokens_T if token != task.pad_id)


def as_raster(task: SequenceTask, tokens_T: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A prefix as a row of cells, uint8, (16, 16 T, 3): one colour a token, white for PAD."""
    hashed_T = tokens_T.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # spreads neighbouring ids over colours
    colours_T3 = np.stack([(hashed_T >> np.uint64(shift)) % np.uint64(200) for shift in (40, 48, 56)], axis=1)
    colours_T3[tokens_T == task.pad_id] = 255
    return np.tile(np.repeat(colours_T3.astype(np.uint8), _CELL, axis=0)[None], (_CELL, 1, 1))
