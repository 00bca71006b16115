"""The vector environment under any order of calls: Hypothesis chooses them, a plain model says what must come."""

from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.envs.vector import SequenceVectorEnv
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.rewards import ConstantReward
from tests.envs.player import Player, TokenCost, no_word_twice, random_action

torch.set_num_threads(1)

B, V, T = 4, 3, 4
MODES = list(AutoresetMode)
REWARDS = [ConstantReward(2.0), lambda tokens_BT, lengths_B: lengths_B / tokens_BT.shape[1]]
prompts = st.lists(st.integers(0, V - 1), max_size=T - 1)
rows = st.lists(st.booleans(), min_size=B, max_size=B).filter(any)
seeds = st.none() | st.integers(0, 99) | st.lists(st.none() | st.integers(0, 99), min_size=B, max_size=B)


class AnyOrderOfCalls(RuleBasedStateMachine):
    """:class:`Player` checks every answer: observations, rewards and their sums, flags, infos, masks."""

    player: Player

    @initialize(
        mode=st.sampled_from(MODES),
        shaping=st.sampled_from(["rollout", "none", "deferred"]),
        observation=st.sampled_from(OBSERVATIONS),
        variable=st.booleans(),
        limit=st.none() | st.integers(1, T + 1),
        penalty=st.sampled_from([None, TokenCost()]),
    )
    def make(
        self,
        mode: AutoresetMode,
        shaping: str,
        observation: str,
        variable: bool,
        limit: int | None,
        penalty: TokenCost | None,
    ) -> None:
        def new() -> SequenceVectorEnv:
            env = gym.make_vec(
                "SeqGAN/Exact-v0",
                num_envs=B,
                autoreset_mode=mode,
                max_episode_steps=limit,
                shaping=shaping,
                observation=observation,
                variable_length=variable,
                vocab_size=V,
                sequence_length=T,
                num_rollouts=2,
            ).unwrapped
            assert isinstance(env, SequenceVectorEnv)
            return env

        self.player = Player(new)
        self.player.apply("set_penalty", penalty)
        self.player.reset(seed=0)

    @rule(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 6), obey=st.booleans())
    def step(self, seed: int, steps: int, obey: bool) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            self.player.step(random_action(rng, self.player, obey=obey))

    @rule(seed=seeds, prefix=st.none() | prompts | st.lists(prompts, min_size=B, max_size=B))
    def reset_all(self, seed: Any, prefix: Any) -> None:
        self.player.reset(seed=seed, prefix=prefix)

    @rule(mask=rows, seed=seeds, prefix=st.none() | prompts | st.lists(prompts, min_size=B, max_size=B))
    def reset_some(self, mask: list[bool], seed: Any, prefix: Any) -> None:
        self.player.reset(np.array(mask), prefix, seed)

    @rule(
        setting=st.one_of(
            st.tuples(st.just("set_shaping"), st.sampled_from(["rollout", "none", "deferred"])),
            st.tuples(st.just("set_prompts"), st.lists(prompts, max_size=3)),
            st.tuples(st.just("set_penalty"), st.sampled_from([None, TokenCost()])),
            st.tuples(st.just("set_reward"), st.sampled_from(REWARDS)),
        )
    )
    def change(self, setting: tuple[str, Any]) -> None:
        self.player.apply(*setting)

    @rule(is_on=st.booleans())
    def set_constraint(self, is_on: bool) -> None:
        self.player.apply("set_constraint", no_word_twice(self.player.env) if is_on else None)

    @rule()
    def set_rollout_policy(self) -> None:
        task = self.player.env.task
        self.player.apply("set_rollout_policy", UniformPolicy(task.num_actions, has_eos=task.has_eos))

    @precondition(lambda self: self.player.env.autoreset_mode == AutoresetMode.SAME_STEP)
    @rule(is_on=st.booleans())
    def hold_and_release(self, is_on: bool) -> None:
        self.player.hold(is_on)
        self.player.release()

    @rule()
    def pop_finished(self) -> None:
        self.player.pop_finished()

    @rule(seed=st.integers(0, 2**32 - 1), mask=rows)
    def rewind(self, seed: int, mask: list[bool]) -> None:
        def play() -> None:
            self.step(seed, 4, True)
            self.player.reset(np.array(mask))
            self.step(seed + 1, 4, False)

        self.player.rewind(play)

    @rule()
    def remake(self) -> None:
        self.player.remake()

    @rule()
    def copy(self) -> None:
        self.player.copy()

    @rule(row=st.integers(0, B - 1), action=st.sampled_from([-1, V + 1, 2**40]))
    def refuse_action(self, row: int, action: int) -> None:
        player = self.player
        if not (player.waiting_B | player.held_B)[row]:
            actions_B = np.zeros(B, dtype=np.int64)
            actions_B[row] = action
            is_blocked = player.env.autoreset_mode == AutoresetMode.DISABLED and player.waiting_B.any()
            player.refuse(lambda env: env.step(actions_B), RuntimeError if is_blocked else ValueError)

    @rule(prefix=st.sampled_from([[V], [0] * T, [0.5], "01", [[0]] * (B + 1)]))
    def refuse_prompt(self, prefix: Any) -> None:
        self.player.refuse(lambda env: env.reset(seed=1, options={"prefix": prefix}), ValueError)


AnyOrderOfCalls.TestCase.settings = settings(max_examples=120, stateful_step_count=25)
test_any_order_of_calls = pytest.mark.filterwarnings("error")(AnyOrderOfCalls.TestCase)
