"""Environments under random calls for as long as there is time: every answer as it must be, and nothing grows.

Letters: B sub-environments, V words, T tokens, A actions.
"""

import gc
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import discriminators
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.envs.sb3 import make_sb3_env
from seqgan_rl.envs.vector import SequenceVectorEnv
from seqgan_rl.envs.wrappers import (
    KLPenalty,
    KLToReference,
    LastTokenObservation,
    MaskedDictObservation,
    NGramConstraint,
    OneHotObservation,
    PromptSampling,
    RepetitionConstraint,
    all_of,
    known_ngrams,
    no_repeated_ngrams,
)
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.rewards import ConstantReward, DiscriminatorReward
from tests.envs.player import Player, TokenCost, assert_same, no_word_twice, random_action

if TYPE_CHECKING:
    from tests.soak.conftest import Clock, Growth

torch.set_num_threads(1)

MODES = list(AutoresetMode)
SHAPINGS = ("rollout", "none", "deferred")
FULL = float(os.environ.get("SOAK_MINUTES", "60")) >= 60


def by_length(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """A reward by a function."""
    return lengths_B / tokens_BT.shape[1]


def tiny_discriminator(num_actions: int, sequence_length: int) -> Any:
    with torch_seeded(np.random.default_rng(0)):
        return discriminators["small_cnn"](
            num_actions, sequence_length, widths=(1, 2), filters=4, embedding_dim=4
        ).eval()


def tiny_generator(num_actions: int, sequence_length: int, has_eos: bool, seed: int) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(seed)):
        return LSTMGenerator(num_actions, sequence_length, has_eos, embedding_dim=4, hidden_dim=4).eval()


# ---------------------------------------------------------------- random play


class Scenes:
    """Environments of every kind, made at random, each played for a while by a :class:`Player`."""

    def __init__(self, text: str, rng: np.random.Generator) -> None:
        self.text, self.rng = text, rng
        self.kinds: dict[str, Callable[[], None]] = {
            "bulk": self.bulk,
            "shaped": self.shaped,
            "text": self.text_with_masks,
            "shuffled": self.shuffled,
            "online": self.online,
            "beside single": self.beside_single,
        }
        self.played = dict.fromkeys(self.kinds, 0)
        self.steps = self.sequences = self.resets = self.rewinds = 0

    def play(self, kinds: list[str]) -> None:
        """One scene of each of these kinds."""
        for kind in kinds:
            before = self.steps
            self.kinds[kind]()
            self.played[kind] += self.steps - before

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def exact(self, **options: Any) -> dict[str, Any]:
        """Arguments of a small enumerable task."""
        return {
            "env_id": "SeqGAN/Exact-v0",
            "vocab_size": int(self.rng.integers(2, 7)),
            "sequence_length": int(self.rng.integers(2, 7)),
            "variable_length": self.chance(0.5),
            "observation": self.pick(*OBSERVATIONS),
            "seed": int(self.rng.integers(4)),
            **options,
        }

    def bulk(self) -> None:
        self.run(self.exact(shaping="none", num_rollouts=2), num_envs=256, calls=160)

    def shaped(self) -> None:
        names = ("table", "grammar", "table")
        options = self.exact(shaping=self.pick("rollout", "deferred"), num_rollouts=2, task_name=self.pick(*names))
        self.run(options, num_envs=int(self.rng.integers(1, 17)), calls=60)

    def text_with_masks(self) -> None:
        """UNK forbidden, variable length, a function as reward, sometimes another's generator and discriminator."""
        options = {
            "env_id": "SeqGAN/Corpus-v0",
            "corpus": self.text,
            "min_count": 2,
            "num_rollouts": 2,
            "rollout_policy": "uniform",
            "reward": by_length,
            "shaping": self.pick(*SHAPINGS),
            "observation": self.pick(*OBSERVATIONS),
        }
        self.run(options, num_envs=int(self.rng.integers(1, 17)), calls=60)

    def shuffled(self) -> None:
        options = self.exact(reward="shuffled", shaping=self.pick(*SHAPINGS), num_rollouts=2, variable_length=True)
        options["discriminator"] = tiny_discriminator(options["vocab_size"] + 1, options["sequence_length"])
        self.run(options, num_envs=8, calls=60, is_repeatable=False)

    def online(self) -> None:
        """Retrained every 40 sequences on what was played; its state too goes back and on."""
        options = {
            "env_id": "SeqGAN/Oracle-v0",
            "vocab_size": 8,
            "sequence_length": 4,
            "num_rollouts": 2,
            "shaping": self.pick(*SHAPINGS),
            "rollout_policy": "uniform",
            "discriminator": tiny_discriminator(8, 4),
            "adversary": "online",
            "adversary_every": 40,
            "adversary_minibatches": 1,
        }
        self.run(options, num_envs=8, calls=40)

    def run(self, options: dict[str, Any], num_envs: int, calls: int, is_repeatable: bool = True) -> None:
        """Random calls of everything that an environment has."""
        env_id, rng = options.pop("env_id"), self.rng
        options |= {
            "num_envs": num_envs,
            "autoreset_mode": self.pick(*MODES),
            "max_episode_steps": self.pick(None, None, 1, 3, 5),
        }

        def make() -> SequenceVectorEnv:
            env = gym.make_vec(env_id, **options).unwrapped
            assert isinstance(env, SequenceVectorEnv)
            return env

        player = Player(make, is_repeatable=is_repeatable)
        player.reset(seed=int(rng.integers(2**31)))
        obeys = self.chance(0.5)
        for _ in range(calls):
            player.step(random_action(rng, player, obey=obeys))
            if self.chance(0.15):
                self.do_something_else(player)
        player.pop_finished()
        player.env.close()
        self.steps += player.steps
        self.sequences += player.sequences
        self.resets += player.resets
        self.rewinds += player.rewinds

    def prompt(self, env: SequenceVectorEnv) -> list[int]:
        words = [word for word in range(env.task.vocab_size) if word not in env.forbidden]
        return self.rng.choice(words, size=self.rng.integers(env.sequence_length)).tolist()

    def do_something_else(self, player: Player) -> None:
        env, rng, task = player.env, self.rng, player.env.task
        B, what = env.num_envs, int(rng.integers(14))
        mask_B = rng.random(B) < 0.3
        mask_B[rng.integers(B)] = True
        if what <= 2:  # a reset: of some or all, with a prompt or one each, with seeds or without
            seeds = [self.pick(None, int(seed)) for seed in rng.integers(2**31, size=B)]
            prefix = self.pick(None, self.prompt(env), [self.prompt(env) for _ in range(B)])
            player.reset(self.pick(mask_B, mask_B, None), prefix, self.pick(None, int(rng.integers(2**31)), seeds))
        elif what == 3:
            player.apply("set_shaping", self.pick(*SHAPINGS))
        elif what == 4:
            player.apply("set_prompts", [self.prompt(env) for _ in range(rng.integers(4))])
        elif what == 5:
            player.apply("set_constraint", no_word_twice(env) if self.chance(0.7) else None)
        elif what == 6:
            player.apply("set_penalty", self.pick(None, TokenCost()))
        elif what == 7 and not env.is_online and player.is_repeatable:
            discriminator = tiny_discriminator(task.num_actions, task.sequence_length)
            player.apply("set_reward", self.pick(ConstantReward(2.0), by_length, DiscriminatorReward(discriminator)))
        elif what == 8:
            generator = tiny_generator(task.num_actions, task.sequence_length, task.has_eos, int(rng.integers(9)))
            player.apply("set_rollout_policy", self.pick(UniformPolicy(task.num_actions, task.has_eos), generator))
        elif what == 9 and env.autoreset_mode == AutoresetMode.SAME_STEP:
            player.hold(self.chance(0.5))
            player.release()
        elif what == 10:
            actions = [random_action(rng, player) for _ in range(3 + env.sequence_length)]
            player.rewind(lambda: player.play(actions))
        elif what == 11:
            player.remake()
        elif what == 12 and B <= 16:
            player.copy()
        elif what == 13:
            player.refuse(lambda env: env.reset(options={"prefix": [task.vocab_size]}), ValueError)

    # --- beside single environments -------------------------------------------------------------------------------

    def beside_single(self) -> None:
        """The native environment with everything set in it, beside wrapped single ones in a loop: all answers equal."""
        options = self.exact(shaping=self.pick(*SHAPINGS), num_rollouts=2, observation="tokens", sequence_length=4)
        env_id, V, has_eos = options.pop("env_id"), options["vocab_size"], options["variable_length"]
        A, T, B = V + has_eos, options["sequence_length"], 5
        real_NT = self.rng.integers(V, size=(12, T))
        generators = [tiny_generator(A, T, has_eos, seed) for seed in range(2)]
        prompts = [[], [0], [1, 0]]
        parts = {name: self.chance(0.5) for name in ("prompts", "n-grams", "repetition", "KL")}
        observed = self.pick(None, OneHotObservation, LastTokenObservation, MaskedDictObservation)

        def single() -> gym.Env[Any, Any]:
            env: Any = gym.make(env_id, **options).unwrapped
            env = PromptSampling(env, prompts) if parts["prompts"] else env
            env = NGramConstraint(env, 2, real_NT) if parts["n-grams"] else env
            env = RepetitionConstraint(env, 1) if parts["repetition"] else env
            env = KLPenalty(env, generators[0], generators[1], 0.3) if parts["KL"] else env
            return env if observed is None else observed(env)

        mode = self.pick(*MODES)
        sync = SyncVectorEnv([single] * B, autoreset_mode=mode)
        kind = {} if observed is None else {"observation": observed.kind}
        native: Any = gym.make_vec(env_id, num_envs=B, autoreset_mode=mode, **(options | kind)).unwrapped
        if parts["prompts"]:
            native.set_prompts(prompts)
        rules = {"n-grams": known_ngrams(real_NT, 2, A), "repetition": no_repeated_ngrams(1, A)}
        chosen = [rule for name, rule in rules.items() if parts[name]]
        native.set_constraint(all_of(*chosen) if chosen else None)
        if parts["KL"]:
            native.set_penalty(KLToReference(generators[0], generators[1], 0.3))
        self.play_both(native, sync, 60)

    def play_both(self, native: Any, sync: SyncVectorEnv, steps: int) -> None:
        rng, B = self.rng, native.num_envs
        seed = int(rng.integers(2**31))
        assert_same(native.reset(seed=seed), sync.reset(seed=seed))
        for _ in range(steps):
            actions_B = rng.integers(native.task.num_actions, size=B)
            mine, theirs = native.step(actions_B), sync.step(actions_B)
            assert_same(mine, theirs, 1e-5)
            over_B = mine[2] | mine[3]
            is_due = native.autoreset_mode == AutoresetMode.DISABLED and over_B.any()
            if is_due or self.chance(0.03):
                mask_B = over_B if is_due else rng.random(B) < 0.5
                mask_B[0] |= not mask_B.any()
                options = {"reset_mask": mask_B}
                assert_same(native.reset(options=dict(options)), sync.reset(options=dict(options)))
        self.steps += steps * B
        native.close()
        sync.close()


def test_random_steps(
    small_text: str, clock: "Clock", growth: "Growth", record_property: Callable[[str, object], None]
) -> None:
    """Every answer of every call is held against a plain model; 10 million steps in a whole soak; memory stays."""
    clock.take(0.7)
    scenes = Scenes(small_text, np.random.default_rng(0))
    order = ["bulk", "bulk", "bulk", *scenes.kinds]
    while clock.has_time:
        for kind in order:
            scenes.play([kind])
            mb = growth.sample(scenes.steps)
        clock.tell(f"{scenes.steps:,} steps, {scenes.sequences:,} sequences, {mb:.0f} MB", every=20)
    if FULL:
        assert scenes.steps >= 10_000_000
    assert all(scenes.played.values())
    line = growth.check("steps", 1_000_000, lambda: scenes.play(order))
    kinds = ", ".join(f"{kind} {steps:,}" for kind, steps in scenes.played.items())
    record_property(
        "summary",
        f"{scenes.steps:,} steps ({kinds}), {scenes.sequences:,} sequences, {scenes.resets:,} resets, "
        f"{scenes.rewinds:,} states returned to bit for bit; {line}",
    )


# ---------------------------------------------------------------- making and closing


def open_things() -> dict[str, int]:
    """What a process must not gather."""
    gc.collect()
    return {
        "objects": len(gc.get_objects()),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "python threads": threading.active_count(),
    }


def make_and_close(cycle: int, text: str) -> None:
    """One environment of each kind; the tasks and the live objects are new ones each time."""
    task: dict[str, Any] = {"vocab_size": 4, "sequence_length": 3, "num_rollouts": 2, "shaping": SHAPINGS[cycle % 3]}
    oracle = task | {"oracle": cycle, "rollout_policy": "uniform", "reward": "oracle"}
    online = oracle | {"reward": "discriminator", "discriminator": tiny_discriminator(4, 3), "adversary": "online"}
    made: list[Any] = [
        gym.make("SeqGAN/Exact-v0", seed=cycle, **task),
        gym.make("SeqGAN/Oracle-v0", **oracle),
        gym.make("SeqGAN/Oracle-v0", vocab_size=8, sequence_length=4),  # default parts, from the cache
        gym.make_vec("SeqGAN/Oracle-v0", num_envs=3, **online, adversary_every=2, adversary_minibatches=1),
        gym.make("SeqGAN/Corpus-v0", corpus=text, min_count=2, reward=lambda _, n: n * 0.5, rollout_policy="uniform"),
        make_sb3_env("SeqGAN/Exact-v0", 3, seed=cycle, **task),
    ]
    inner = gym.make("SeqGAN/Exact-v0", variable_length=True, **task)
    made.append(MaskedDictObservation(RepetitionConstraint(PromptSampling(inner, [[0], [1]]), 1)))
    for env in made:
        env.reset()
        for _ in range(3):
            actions = np.array([0] * getattr(env, "num_envs", 1))
            step = env.step(actions if hasattr(env, "num_envs") else np.int64(0))
            if not hasattr(env, "num_envs") and step[2]:
                env.reset()
        env.close()


def test_making_and_closing(
    small_text: str, clock: "Clock", growth: "Growth", record_property: Callable[[str, object], None]
) -> None:
    """After 60 rounds (more than any cache holds) objects, files and threads stay as many as they are."""
    clock.take(0.12)
    cycles, first = 0, {}
    while clock.has_time or cycles < 200:
        if cycles == 60:
            first = open_things()
        make_and_close(cycles, small_text)
        cycles += 1
        mb = growth.sample(cycles)
        clock.tell(f"{7 * cycles:,} environments, {mb:.0f} MB", every=20)
    last = open_things()
    assert last["objects"] - first["objects"] < 0.5 * (cycles - 60), (first, last)
    for name in ("files", "threads", "python threads"):
        assert last[name] == first[name], (name, first, last)
    # a hundred thousand tasks an hour, of new sizes and objects, leave the allocator's heap in pieces: 150 bytes each
    line = growth.check("rounds", 1_000, lambda: make_and_close(cycles, small_text), bound=64)
    record_property(
        "summary",
        f"{7 * cycles:,} environments made, played and closed; since round 60 objects "
        f"{last['objects'] - first['objects']:+d}, files and threads +0; {line}",
    )
