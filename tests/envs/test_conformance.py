"""The environments as users of Gymnasium meet them: every way to make one, every argument, the checkers, the vector
contract against SyncVectorEnv, common wrappers, and what is said to a wrong argument.

Run with the oldest supported Gymnasium, too: ``pip install --no-deps --target DIR gymnasium==1.1.0``, then
``PYTHONPATH=DIR python -m pytest tests/envs``.
"""

import copy
import functools
import gc
import itertools
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import gymnasium.wrappers.vector as vector_wrappers
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import seqgan_rl  # noqa: F401 - registers the environments
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import Discriminator, discriminators
from seqgan_rl.envs import defaults, options
from seqgan_rl.envs.environment import SequenceEnv
from seqgan_rl.envs.episodes import SHAPINGS
from seqgan_rl.envs.exact import SequenceTree, TableReward
from seqgan_rl.envs.observations import OBSERVATIONS
from seqgan_rl.envs.options import CorpusOptions, EnvOptions, ExactOptions, OracleOptions
from seqgan_rl.envs.vector import SequenceVectorEnv
from seqgan_rl.models.decoding import UniformPolicy
from seqgan_rl.models.files import save_model
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.rewards import ConstantReward, OracleLogLikelihood
from seqgan_rl.rewards.discriminator import DiscriminatorReward
from seqgan_rl.sequences import Corpus

torch.set_num_threads(1)

ORACLE, CORPUS, EXACT = IDS = ("SeqGAN/Oracle-v0", "SeqGAN/Corpus-v0", "SeqGAN/Exact-v0")
OPTIONS: dict[str, type[EnvOptions]] = {ORACLE: OracleOptions, CORPUS: CorpusOptions, EXACT: ExactOptions}
WAYS = ("vector_entry_point", None, "sync", "async")
AUTORESETS = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
TEXT = "\n".join(["a b c d", "b a", "c c a b", "d", "a d d", "c", "b b a c", "d a", "e"] * 9)


def by_length(tokens_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """A reward function of a user."""
    return 1.0 / lengths_B + tokens_BT[:, 0] / 100


def tiny_discriminator(num_actions: int, sequence_length: int) -> Discriminator:
    with torch_seeded(np.random.default_rng(0)):
        return discriminators["small_cnn"](
            num_actions, sequence_length, widths=(1, 2), filters=4, embedding_dim=4
        ).eval()


def tiny_generator(num_actions: int, sequence_length: int, *, has_eos: bool) -> LSTMGenerator:
    with torch_seeded(np.random.default_rng(0)):
        return LSTMGenerator(num_actions, sequence_length, has_eos).eval()


@dataclass(frozen=True)
class File:
    """An argument that is the path of this file."""

    name: str


LIVE_CORPUS = object()
"""Stands for a Corpus of the text."""


@pytest.fixture(scope="module", autouse=True)
def quick_default_parts() -> Iterator[None]:
    """Default parts that must be fitted are fitted with little effort: here they need only be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "oracle_parts", functools.partial(defaults.oracle_parts, effort=0.05))
        patch.setattr(options, "corpus_parts", functools.partial(defaults.corpus_parts, effort=0.05))
        patch.setattr(defaults, "_PARTS", {})
        options._shared_task.cache_clear()
        yield
    options._shared_task.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files and folders that arguments may name."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "text.txt").write_text(TEXT)
    (folder / "empty.txt").write_text("")
    (folder / "plain.npz").write_text("not an archive")
    np.savez(folder / "other.npz", weights=np.ones(3))
    gates = {f"{form}{gate}": np.ones((4, 4) if form != "b" else 4) for form in "WUb" for gate in "ifoc"}
    np.savez(folder / "oracle.npz", embedding=np.eye(6, 4), V=np.ones((4, 6)), c=np.arange(6.0), **gates)  # type: ignore[arg-type]
    for env_id, (A, T, has_eos) in SIZES.items():
        name = env_id[7:-3]
        save_model(folder / f"{name}-discriminator", tiny_discriminator(A, T), "small_cnn")
        save_model(folder / f"{name}-generator", tiny_generator(A, T, has_eos=has_eos), "lstm")
    return folder


def filled(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments with the paths of files and the live corpus in place."""

    def value_of(value: Any) -> Any:
        if value is LIVE_CORPUS:
            return Corpus.from_text(folder / "text.txt", sequence_length=5)
        return str(folder / value.name) if isinstance(value, File) else value

    return {name: value_of(value) for name, value in arguments.items()}


# ---------------------------------------------------------------- small environments, and every argument of each

SIZES = {ORACLE: (7, 4, False), CORPUS: (6, 5, True), EXACT: (4, 4, True)}
"""Actions, tokens, and whether there is an EOS, with the arguments below."""
DISCRIMINATORS = {env_id: tiny_discriminator(A, T) for env_id, (A, T, _) in SIZES.items()}
SMALL: dict[str, dict[str, Any]] = {
    ORACLE: {"vocab_size": 7, "sequence_length": 4, "rollout_policy": "uniform"},
    CORPUS: {"corpus": File("text.txt"), "sequence_length": 5, "rollout_policy": "uniform"},
    EXACT: {"vocab_size": 3, "sequence_length": 4, "variable_length": True},
}
for _env_id, _arguments in SMALL.items():
    _arguments |= {"num_rollouts": 2, "discriminator": DISCRIMINATORS[_env_id]}
ONLINE = {"adversary": "online", "adversary_every": 2, "adversary_minibatches": 1}
ANY_SIZE = {"reward": "constant"}
"""A reward that fits every size."""


def common_arguments(env_id: str) -> dict[str, list[dict[str, Any]]]:
    """By field: arguments that give it another value than the default, alone or with what that value needs."""
    A, T, has_eos = SIZES[env_id]
    name, generator = env_id[7:-3], tiny_generator(A, T, has_eos=has_eos)
    rewards = ["logit", "discriminator", "constant", "random", ConstantReward(2.0), by_length]
    rewards += ["oracle", "oracle_log_ratio"] if env_id == ORACLE else []
    parts = [DISCRIMINATORS[env_id], File(f"{name}-discriminator"), "small_cnn"]
    policies = ["default", "uniform", UniformPolicy(A, has_eos), generator, File(f"{name}-generator")]
    return {
        "num_rollouts": [{"num_rollouts": 1}],
        "shaping": [{"shaping": shaping} for shaping in SHAPINGS],
        "gamma": [{"gamma": 0.9}],
        "reward": [{"reward": reward} for reward in [*rewards, DiscriminatorReward(DISCRIMINATORS[env_id])]],
        "discriminator": [
            {"discriminator": part, "reward": "discriminator"}
            for part in parts
            if env_id != EXACT or part != "small_cnn"
        ],
        "rollout_policy": [{"rollout_policy": p} for p in policies if env_id != EXACT or p != "default"],
        "observation": [{"observation": observation} for observation in OBSERVATIONS],
        "adversary": [ONLINE] if env_id != EXACT else [],  # Exact has no real sequences
        "adversary_every": [{"adversary_every": 3}],
        "adversary_minibatches": [{"adversary_minibatches": 2}],
        "device": [{"device": "cpu:0"}],
    }


ARGUMENTS: dict[str, dict[str, list[dict[str, Any]]]] = {
    ORACLE: common_arguments(ORACLE)
    | {
        "vocab_size": [{"vocab_size": 9, **ANY_SIZE}],
        "sequence_length": [{"sequence_length": 3, **ANY_SIZE}],
        "oracle": [
            {"oracle": 3},
            {"oracle": File("oracle.npz"), "vocab_size": 6, "sequence_length": 3, "reward": "oracle"},
            {"oracle": Oracle.from_seed(1, vocab_size=7, sequence_length=4)},
        ],
    },
    CORPUS: common_arguments(CORPUS)
    | {
        "corpus": [
            {"corpus": File("text.txt")},
            {"corpus": LIVE_CORPUS},
            {"corpus": "proverbs", "sequence_length": 12, **ANY_SIZE},
        ],
        "level": [{"level": "char", "sequence_length": 9, **ANY_SIZE}],
        "sequence_length": [{"sequence_length": 7, **ANY_SIZE}],
        "drop_longer": [{"drop_longer": True, "sequence_length": 3, **ANY_SIZE}],
        "min_count": [{"min_count": 10, **ANY_SIZE}],
        "max_vocab": [{"max_vocab": 4, **ANY_SIZE}],
        "sample_unk": [{"sample_unk": True, "max_vocab": 4, **ANY_SIZE}],
    },
    EXACT: common_arguments(EXACT)
    | {
        "vocab_size": [{"vocab_size": 5}],
        "sequence_length": [{"sequence_length": 3}],
        "variable_length": [{"variable_length": True}],
        "task_name": [{"task_name": "grammar"}, {"task_name": "oracle", "variable_length": False}],
        "seed": [{"seed": 7}],
    },
}
CASES = [(env_id, field, case) for env_id in IDS for field, cases in ARGUMENTS[env_id].items() for case in cases]


def case_name(value: Any) -> str | None:
    """A short name for a test."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v if isinstance(v, str | int | float) else type(v).__name__}" for k, v in value.items())
    return value[7:-3] if value in IDS else None


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*fork\(\)", category=DeprecationWarning)  # Python 3.12, async
        yield


def play(env: gym.Env[Any, Any], shaping: str, seed: int = 0) -> dict[str, Any]:
    """One sequence of random allowed actions, every promise of Gymnasium's `Env` checked; the last info."""
    task = env.unwrapped.task  # type: ignore[attr-defined]
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    assert observation in env.observation_space
    actions: list[int] = []
    while True:
        action = env.action_space.sample(mask=info.get("action_mask"))
        actions.append(int(action))
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert (type(reward), type(terminated), truncated) == (float, bool, False)
        if terminated:
            break
    padded = actions + [task.pad_id] * (task.sequence_length - len(actions))
    assert info["sequence"].dtype == np.int64
    assert info["sequence"].tolist() == padded
    assert type(info["sequence_reward"]) is float
    assert ("action_value" in info) == (shaping != "none")
    assert len(actions) == task.sequence_length or actions[-1] == task.eos_id
    return info


def play_vector(env: gym.vector.VectorEnv[Any, Any, Any], shaping: str) -> None:
    """Random actions until each row has finished a sequence (NEXT_STEP mode), every promise of `VectorEnv` checked."""
    B, rng = env.num_envs, np.random.default_rng(0)
    T = 40
    rows: list[list[int]] = [[] for _ in range(B)]
    finished_B, was_done_B = np.zeros(B, dtype=np.bool_), np.zeros(B, dtype=np.bool_)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    observations, infos = env.reset(seed=0)
    assert observations in env.observation_space
    for _ in range(T):
        actions_B = rng.integers(env.single_action_space.n, size=B)  # type: ignore[attr-defined]
        observations, rewards_B, terminated_B, truncated_B, infos = env.step(actions_B)
        assert observations in env.observation_space
        assert (rewards_B.dtype, rewards_B.shape) == (np.float64, (B,))
        assert terminated_B.dtype == truncated_B.dtype == np.bool_
        assert not truncated_B.any()
        for row in range(B):
            rows[row] = [] if was_done_B[row] else [*rows[row], int(actions_B[row])]
        if terminated_B.any():
            assert infos["_sequence"].tolist() == infos["_sequence_reward"].tolist() == terminated_B.tolist()
            assert (infos["sequence"].dtype, infos["sequence_reward"].dtype) == (np.int64, np.float64)
            assert ("action_value" in infos) == (shaping != "none")
        for row in np.flatnonzero(terminated_B).tolist():
            assert infos["sequence"][row][: len(rows[row])].tolist() == rows[row]
        finished_B, was_done_B = finished_B | terminated_B, terminated_B
        if finished_B.all():
            return
    raise AssertionError(f"rows without a finished sequence after {T} steps: {~finished_B}")


# ---------------------------------------------------------------- every way to make one


@pytest.mark.parametrize("env_id", IDS, ids=case_name)
def test_no_argument_is_needed(env_id: str) -> None:
    """Default sizes, default weights, an id with its module or without."""
    with no_warnings():
        for name in (env_id, f"seqgan_rl:{env_id}"):
            with gym.make(name) as env:
                play(env, "rollout")
        with gym.make("seqgan_rl:" + env_id, render_mode="ansi") as env:
            play(env, "rollout")
            assert isinstance(env.render(), str)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("env_id", IDS, ids=case_name)
def test_no_argument_is_needed_for_many(env_id: str, way: str | None) -> None:
    with no_warnings():
        env = gym.make_vec(f"seqgan_rl:{env_id}", num_envs=2, vectorization_mode=way)
        try:
            assert isinstance(env.unwrapped, SequenceVectorEnv) == (way in (None, "vector_entry_point"))
            play_vector(env, "rollout")
        finally:
            env.close()


def test_a_fresh_interpreter_needs_no_import() -> None:
    """The module before the colon registers the ids: what RLlib's workers and rl-zoo3 have."""
    code = (
        "import gymnasium as gym, sys\n"
        "assert not any(m.startswith('seqgan') for m in sys.modules)\n"
        "for name in ('Oracle', 'Corpus', 'Exact'):\n"
        "    env = gym.make(f'seqgan_rl:SeqGAN/{name}-v0', num_rollouts=1)\n"
        "    env.reset(seed=0)\n"
        "    print(env.step(env.action_space.sample())[0].shape)\n"
        "    print(gym.make_vec(f'seqgan_rl:SeqGAN/{name}-v0', num_envs=3).reset(seed=0)[0].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == ["(20,)", "(3, 20)", "(32,)", "(3, 32)", "(4,)", "(3, 4)"]


def test_importing_loads_nothing_heavy() -> None:
    code = "import seqgan_rl, sys; print({'torch', 'stable_baselines3'} & set(sys.modules) or 'nothing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stderr, done.stdout) == ("", "nothing\n")


# ---------------------------------------------------------------- every argument


@pytest.mark.parametrize("env_id", IDS, ids=case_name)
def test_every_argument_is_covered_here(env_id: str) -> None:
    """An argument that is added needs a line in ARGUMENTS, with a value that is not the default."""
    default = OPTIONS[env_id]()
    assert set(ARGUMENTS[env_id]) == {field.name for field in fields(OPTIONS[env_id])}
    for name, cases in ARGUMENTS[env_id].items():
        others = [case[name] for case in cases if case[name] != getattr(default, name)]
        assert others or (env_id, name) == (EXACT, "adversary"), name


@pytest.mark.parametrize(("env_id", "field", "case"), CASES, ids=case_name)
def test_every_argument_works_in_a_single_environment(
    env_id: str, field: str, case: dict[str, Any], folder: Path
) -> None:
    arguments = filled(SMALL[env_id] | case, folder)
    with no_warnings():
        env = gym.make(env_id, **arguments)
        for seed in range(3):
            play(env, arguments.get("shaping", "rollout"), seed)
        single = env.unwrapped
        assert isinstance(single, SequenceEnv)
        assert getattr(single.options, field) == arguments[field]
        if arguments.get("adversary") == "online":
            assert single.adversary is not None
            assert single.adversary.retrainings > 0
        env.close()


@pytest.mark.parametrize(
    ("env_id", "case", "way"),
    [(env_id, case, None) for env_id, _, case in CASES]
    + [
        (env_id, cases[-1], way)
        for env_id, way in itertools.product(IDS, WAYS)
        for cases in ARGUMENTS[env_id].values()
        if cases and way is not None
    ],
    ids=case_name,
)
def test_every_argument_works_in_a_vector_environment(
    env_id: str, case: dict[str, Any], way: str | None, folder: Path
) -> None:
    """Every value by default (natively), the last value of every argument in the other ways."""
    arguments = filled(SMALL[env_id] | case, folder)
    with no_warnings():
        env = gym.make_vec(env_id, num_envs=2, vectorization_mode=way, **arguments)
        try:
            assert env.num_envs == 2
            play_vector(env, arguments.get("shaping", "rollout"))
        finally:
            env.close()


@pytest.mark.parametrize("way", ["vector_entry_point", None])
def test_shuffled_rewards_are_for_native_vector_environments(way: str | None, folder: Path) -> None:
    arguments = filled(SMALL[CORPUS] | {"reward": "shuffled"}, folder)
    for shaping in SHAPINGS:
        play_vector(
            gym.make_vec(CORPUS, num_envs=4, vectorization_mode=way, **arguments | {"shaping": shaping}), shaping
        )
    with pytest.raises(ValueError, match="others of its batch, but a single environment"):
        gym.make(CORPUS, **arguments)


@pytest.mark.parametrize("way", [None, "vector_entry_point", "sync"])
def test_live_objects_stay_the_same_objects_however_they_are_made(way: str | None) -> None:
    """Gymnasium copies the arguments that an id is registered with; those given to `make` must not be."""
    A, T, has_eos = SIZES[EXACT]
    generator = tiny_generator(A, T, has_eos=has_eos)
    arguments = SMALL[EXACT] | {"reward": "discriminator", "rollout_policy": generator}
    env = gym.make_vec(EXACT, num_envs=2, vectorization_mode=way, **arguments)
    _ = env.spec  # reading it copies arguments
    for one in getattr(env.unwrapped, "envs", [env]):
        assert one.unwrapped.reward.discriminator is DISCRIMINATORS[EXACT]
        assert one.unwrapped.rollout_policy is generator


@pytest.mark.parametrize("env_id", [ORACLE, CORPUS])
def test_64_environments_of_default_size_share_the_frozen_parts(
    env_id: str, record_property: Callable[[str, object], None]
) -> None:
    """Native and 64 single ones: one oracle (or corpus), one discriminator, one rollout policy."""
    start = time.perf_counter()
    native = gym.make_vec(env_id, num_envs=64).unwrapped
    record_property("native_seconds", time.perf_counter() - start)
    start = time.perf_counter()
    sync = SyncVectorEnv([lambda: gym.make(env_id) for _ in range(64)])
    record_property("sync_seconds", time.perf_counter() - start)
    envs: list[Any] = [native, *(env.unwrapped for env in sync.envs)]
    for part in ("task.oracle", "task.corpus", "task", "reward", "reward.discriminator", "rollout_policy"):
        objects = []
        for env in envs:
            value = env
            for name in part.split("."):
                value = getattr(value, name)
            objects.append(value)
        assert all(value is objects[0] for value in objects), part


def test_a_text_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    before: Any = gym.make(CORPUS, corpus=str(path), shaping="none", reward="constant").unwrapped
    path.write_text(TEXT.replace("a", "changed") + "\nx y x y x y x")
    after: Any = gym.make(CORPUS, corpus=str(path), shaping="none", reward="constant").unwrapped
    assert "changed" not in before.task.vocabulary.words
    assert "changed" in after.task.vocabulary.words


def test_an_oracle_and_a_model_that_have_changed_are_read_again(tmp_path: Path) -> None:
    """Files unchanged give the same task."""

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        gates = {f"{form}{gate}": rng.normal(size=(4, 4) if form != "b" else 4) for form in "WUb" for gate in "ifoc"}
        arrays = {"embedding": rng.normal(size=(7, 4)), "V": rng.normal(size=(4, 7)), "c": rng.normal(size=7), **gates}
        np.savez(tmp_path / "oracle.npz", **arrays)  # type: ignore[arg-type]
        with torch_seeded(rng):
            save_model(tmp_path / "generator", LSTMGenerator(7, 4, has_eos=False), "lstm")
            save_model(tmp_path / "discriminator", discriminators["small_cnn"](7, 4, filters=4 + seed), "small_cnn")

    names = {"oracle": "oracle.npz", "rollout_policy": "generator", "discriminator": "discriminator"}
    arguments: dict[str, Any] = {name: str(tmp_path / file) for name, file in names.items()} | {"sequence_length": 4}
    write(0)
    before, same = (gym.make(ORACLE, **arguments).unwrapped.task for _ in range(2))  # type: ignore[attr-defined]
    write(1)
    after = gym.make(ORACLE, **arguments).unwrapped.task  # type: ignore[attr-defined]
    tokens_BT = torch.zeros((1, 4), dtype=torch.int64)
    assert same is before
    assert after.oracle.hash != before.oracle.hash
    assert not torch.equal(after.rollout_policy.log_prob(tokens_BT), before.rollout_policy.log_prob(tokens_BT))
    assert not torch.equal(after.reward.discriminator.score(tokens_BT), before.reward.discriminator.score(tokens_BT))


@pytest.mark.parametrize("env_id", IDS, ids=case_name)
def test_default_parts_are_made_at_the_first_step(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have to be fitted; whatever else is wrong is found before."""
    monkeypatch.setattr(defaults, "_PARTS", {})
    monkeypatch.setattr(defaults.DefaultParts, "_shipped_or_cached", lambda *_: pytest.fail("made at construction"))
    options._shared_task.cache_clear()
    rewards: list[dict[str, Any]] = [{}, {"reward": "oracle_log_ratio"}] if env_id == ORACLE else [{}]
    for arguments in rewards:
        env: Any = gym.make(env_id, **arguments).unwrapped
        env.reset(seed=0)
        assert {"reward", "rollout_policy"}.isdisjoint(vars(env.task)) or env_id == EXACT
    options._shared_task.cache_clear()


# ---------------------------------------------------------------- the checkers


def complaint(env_id: str, **arguments: Any) -> str | None:
    """What Gymnasium's or SB3's checker says against an environment, warnings included; None if nothing."""
    with no_warnings():
        try:
            check_env(gym.make(env_id, **arguments).unwrapped)
            sb3_check_env(gym.make(env_id, **arguments))
        except (AssertionError, Warning, gym.error.Error) as error:
            return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("env_id", IDS, ids=case_name)
def test_both_checkers_accept_every_kind(env_id: str, observation: str, shaping: str, folder: Path) -> None:
    arguments = filled(SMALL[env_id], folder) | {"observation": observation, "shaping": shaping, **ANY_SIZE}
    arguments |= {"min_count": 10} if env_id == CORPUS else {}  # with forbidden words
    for render_mode in (None, "ansi", "rgb_array"):
        assert complaint(env_id, **arguments, render_mode=render_mode) is None


@pytest.mark.parametrize(("env_id", "field", "case"), CASES, ids=case_name)
def test_both_checkers_accept_every_argument(env_id: str, field: str, case: dict[str, Any], folder: Path) -> None:
    """Names, files and live objects (Reward, function, Discriminator, generator, Oracle, Corpus)."""
    assert complaint(env_id, **filled(SMALL[env_id] | case, folder)) is None


# ---------------------------------------------------------------- the native vector environment is SyncVectorEnv


def assert_same(one: Any, other: Any, tolerance: float, where: str = "") -> None:
    """Equal in structure, type and dtype; numbers within the tolerance."""
    if isinstance(one, torch.Tensor):
        one, other = one.numpy(), other.numpy()
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            assert_same(one[key], other[key], tolerance, f"{where}[{key!r}]")
    elif isinstance(one, list | tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        assert len(one) == len(other), where
        for i, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, tolerance, f"{where}[{i}]")
    elif isinstance(one, np.ndarray | np.generic | float):
        assert np.asarray(one).dtype == np.asarray(other).dtype, where
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=tolerance, err_msg=where)
    else:
        assert one == other, where


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "fixed": (EXACT, SMALL[EXACT] | {"variable_length": False}),
    "EOS": (EXACT, SMALL[EXACT]),
    "LSTM": (ORACLE, SMALL[ORACLE] | {"rollout_policy": tiny_generator(7, 4, has_eos=False), "reward": "logit"}),
    "UNK": (CORPUS, SMALL[CORPUS] | {"min_count": 10, "reward": by_length}),
}
"""What the comparison is played on: a fixed horizon, EOS, a rollout policy with a state, forbidden actions."""
B = 4


def pair(
    env_id: str, mode: AutoresetMode, limit: int | None = None, **arguments: Any
) -> tuple[SequenceVectorEnv, SyncVectorEnv]:
    """The native environment, and its definition: single environments, one after the other."""

    def make() -> gym.Env[Any, Any]:
        env = gym.make(env_id, **arguments).unwrapped
        return env if limit is None else TimeLimit(env, limit)

    native = gym.make_vec(env_id, num_envs=B, autoreset_mode=mode, max_episode_steps=limit, **arguments).unwrapped
    assert isinstance(native, SequenceVectorEnv)
    return native, SyncVectorEnv([make for _ in range(B)], autoreset_mode=mode)


def random_reset(rng: np.random.Generator, has_prompts: bool, mask_B: np.ndarray | None) -> dict[str, Any]:
    """Keyword arguments of `reset`: seed an int, a list with gaps or none; a prompt or none; these rows or all."""
    seeds: list[Any] = [
        None,
        int(rng.integers(1000)),
        [None if rng.random() < 0.3 else int(s) for s in rng.integers(99, size=B)],
    ]
    options: dict[str, Any] = {} if mask_B is None else {"reset_mask": mask_B.copy()}
    if has_prompts and rng.random() < 0.7:
        options["prefix"] = rng.integers(2, size=rng.integers(3)).tolist()
    return {"seed": seeds[rng.integers(3)], "options": options or None}


SITUATIONS = list(itertools.product(SHAPINGS, (False, True), (None, 2)))
"""Shaping, whether there are prompts, time limit."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("mode", AUTORESETS, ids=lambda mode: mode.name)
def test_native_equals_sync_whatever_happens(mode: AutoresetMode, observation: str, kind: str, folder: Path) -> None:
    """One of the situations, another for each test: resets of all or some rows at any time, with new seeds or without.
    Observations, flags and the structure, masks and dtypes of infos exactly, numbers to 1e-5; the random generators of
    all rows end in the same state."""
    turn = 2 * AUTORESETS.index(mode) + 3 * OBSERVATIONS.index(observation) + 5 * list(KINDS).index(kind)
    shaping, has_prompts, limit = SITUATIONS[turn % len(SITUATIONS)]
    env_id, arguments = KINDS[kind]
    arguments = filled(arguments, folder) | {"observation": observation, "shaping": shaping}
    native, sync = pair(env_id, mode, limit, **arguments, gamma=1.0 if has_prompts else 0.8)
    rng = np.random.default_rng(turn)
    seeds: list[int | None] = [int(seed) for seed in rng.integers(1000, size=B)]
    prompt = {"prefix": [1]} if has_prompts else None
    assert_same(native.reset(seed=seeds, options=prompt), sync.reset(seed=seeds, options=prompt), 1e-5, "start")
    done_B = np.zeros(B, dtype=np.bool_)
    for _ in range(14):
        mask_B = done_B & (mode == AutoresetMode.DISABLED)
        if rng.random() < 0.2:
            mask_B |= rng.random(B) < 0.4
        if mask_B.any():
            how = random_reset(rng, has_prompts, None if rng.random() < 0.2 else mask_B)
            # SyncVectorEnv takes the mask out of the options that it is given
            assert_same(native.reset(**copy.deepcopy(how)), sync.reset(**copy.deepcopy(how)), 1e-5, "reset")
        actions_B = rng.integers(native.task.num_actions, size=B)
        mine, theirs = native.step(actions_B), sync.step(actions_B)
        assert_same(mine, theirs, 1e-5, "step")
        done_B = mine[2] | mine[3]
    assert native.state_dict()["rngs"] == [env.unwrapped.np_random.bit_generator.state for env in sync.envs]


@pytest.mark.parametrize("way", ["vector_entry_point", "sync"])
def test_a_list_of_seeds_is_that_of_single_environments(way: str, folder: Path) -> None:
    """None goes on with the row's own generator; rewards tell the rollouts' randomness apart."""
    env_id, arguments = KINDS["LSTM"]
    arguments = filled(arguments, folder)
    env = gym.make_vec(env_id, num_envs=3, vectorization_mode=way, **arguments)
    singles = [gym.make(env_id, **arguments) for _ in range(3)]
    starts: list[list[int | None]] = [[5, 5, 2**31], [None, 7, None], [1, None, 3]]
    for seeds in starts:
        env.reset(seed=seeds)  # type: ignore[arg-type]
        for single, seed in zip(singles, seeds, strict=True):
            single.reset(seed=seed)
        for _ in range(3):
            rewards_B = env.step(np.zeros(3, dtype=np.int64))[1]
            assert rewards_B == pytest.approx([single.step(np.int64(0))[1] for single in singles], abs=1e-5)


# ---------------------------------------------------------------- wrappers


def numpy_to_torch(env: Any) -> Any:
    """An extra of Gymnasium since 1.2."""
    try:
        return vector_wrappers.NumpyToTorch(env)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


DICT, FLOATS = {"observation": "dict"}, {"observation": "tokens_float32"}
WRAPPERS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "DictInfoToList": ({}, vector_wrappers.DictInfoToList),
    "FilterObservation": (DICT, lambda env: vector_wrappers.FilterObservation(env, ["tokens"])),
    "FlattenObservation, tokens": ({}, vector_wrappers.FlattenObservation),
    "FlattenObservation, dict": (DICT, vector_wrappers.FlattenObservation),
    "FlattenObservation, last_token": ({"observation": "last_token"}, vector_wrappers.FlattenObservation),
    "ReshapeObservation": ({}, lambda env: vector_wrappers.ReshapeObservation(env, (5, 1))),
    "RescaleObservation": (FLOATS, lambda env: vector_wrappers.RescaleObservation(env, np.float32(0), np.float32(1))),
    "DtypeObservation": ({}, lambda env: vector_wrappers.DtypeObservation(env, np.float32)),
    "NormalizeObservation": (FLOATS, vector_wrappers.NormalizeObservation),
    "TransformObservation": (FLOATS, lambda env: vector_wrappers.TransformObservation(env, lambda obs: obs)),
    "VectorizeTransformObservation": (
        DICT,
        lambda env: vector_wrappers.VectorizeTransformObservation(env, gym.wrappers.FlattenObservation),
    ),
    "TransformReward": ({}, lambda env: vector_wrappers.TransformReward(env, lambda reward: 2 * reward)),
    "ClipReward": ({}, lambda env: vector_wrappers.ClipReward(env, 0.0, 0.5)),
    "NormalizeReward": ({}, lambda env: vector_wrappers.NormalizeReward(env, gamma=1.0)),
    "TransformAction": ({}, lambda env: vector_wrappers.TransformAction(env, lambda action: action % 2)),
    "NumpyToTorch": ({}, numpy_to_torch),
    "NumpyToTorch, dict": (DICT, numpy_to_torch),
}


@pytest.mark.parametrize("mode", AUTORESETS, ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", WRAPPERS)
def test_vector_wrappers_do_to_native_what_they_do_to_sync(name: str, mode: AutoresetMode, folder: Path) -> None:
    """With EOS and forbidden actions; Gymnasium's observation wrappers refuse SAME_STEP, its normaliser DISABLED."""
    if name.startswith("NumpyToTorch") and mode != AutoresetMode.NEXT_STEP:
        pytest.skip("Gymnasium 1.1 converts neither final observations nor masks")
    options, wrap = WRAPPERS[name]
    env_id, arguments = KINDS["UNK"]
    envs = pair(env_id, mode, **filled(arguments, folder) | options)
    try:
        native, sync = (wrap(env) for env in envs)
    except (ValueError, AssertionError) as error:  # until 1.3 it was an assertion
        assert "Observation" in name
        assert mode != AutoresetMode.NEXT_STEP
        pytest.skip(str(error))
    assert native.single_observation_space == sync.single_observation_space
    assert_same(native.reset(seed=3), sync.reset(seed=3), 1e-5, "reset")
    rng = np.random.default_rng(0)
    for _ in range(9):
        actions_B: Any = rng.integers(2 if name == "TransformAction" else 6, size=B)
        actions_B = torch.from_numpy(actions_B) if name.startswith("NumpyToTorch") else actions_B
        mine, theirs = native.step(actions_B), sync.step(actions_B)
        assert_same(mine, theirs, 1e-4 if "Normalize" in name else 1e-5, "step")
        done_B = np.asarray(mine[2] | mine[3])
        if mode == AutoresetMode.DISABLED and done_B.any():
            native.reset(options={"reset_mask": done_B.copy()})
            sync.reset(options={"reset_mask": done_B.copy()})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
def test_recorded_statistics_are_those_of_the_sequences(mode: AutoresetMode, folder: Path) -> None:
    """Return R(Y) (γ = 1) and length in tokens, for every finished sequence; also when only some rows are reset."""
    env_id, arguments = KINDS["EOS"]
    native, _ = pair(env_id, mode, **filled(arguments, folder))
    env = vector_wrappers.RecordEpisodeStatistics(native)
    env.reset(seed=0)
    rng, found = np.random.default_rng(0), 0
    for _ in range(40):
        _, _, terminated_B, _, infos = env.step(rng.integers(4, size=B))
        assert ("episode" in infos) == terminated_B.any() == ("sequence" in infos)
        for row in np.flatnonzero(terminated_B).tolist():
            found += 1
            assert infos["_episode"][row]
            assert infos["episode"]["r"][row] == pytest.approx(infos["sequence_reward"][row], abs=1e-6)
            assert infos["episode"]["l"][row] == (infos["sequence"][row] != native.task.pad_id).sum()
        if mode == AutoresetMode.DISABLED and terminated_B.any():
            env.reset(options={"reset_mask": terminated_B.copy()})
    assert found > 30


def test_final_infos_of_same_step_become_lists(folder: Path) -> None:
    """`final_obs` and `final_info` row by row, and the mask of the new start beside them."""
    env_id, arguments = KINDS["UNK"]
    native, _ = pair(env_id, AutoresetMode.SAME_STEP, **filled(arguments, folder))
    env: Any = vector_wrappers.DictInfoToList(native)
    assert all(set(info) == {"action_mask"} for info in env.reset(seed=0)[1])
    eos = native.task.eos_id
    infos = env.step(np.array([eos, 0, eos, 1]))[4]
    assert [set(info) for info in infos] == [{"final_obs", "final_info", "action_mask"}, {"action_mask"}] * 2
    for row in (0, 2):
        assert infos[row]["final_obs"].tolist() == infos[row]["final_info"]["sequence"].tolist()
        assert set(infos[row]["final_info"]) == {"sequence", "sequence_reward", "action_value", "action_mask"}


# ---------------------------------------------------------------- errors name the fix


def refusal(act: Callable[[], Any]) -> str:
    """The message of the one ValueError or TypeError that this raises, without what `gym.make` adds to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            act()
        except (ValueError, TypeError) as error:
            return str(error).split(" was raised from the environment creator")[0]
        except Exception as error:
            raise AssertionError(f"raised {type(error).__name__}: {error}") from error
    raise AssertionError("nothing was raised")


REFUSED = [
    # parts of another task
    (
        EXACT,
        {"reward": "discriminator", "discriminator": tiny_discriminator(9, 4)},
        "discriminator .* 9 actions and 4 tokens, .* train",
    ),
    (
        EXACT,
        {"reward": "discriminator", "discriminator": tiny_discriminator(4, 9)},
        "discriminator .* 4 actions and 9 tokens, .* train",
    ),
    (EXACT, {"reward": "discriminator", "discriminator": 3}, "discriminator must be a Discriminator, got int"),
    (EXACT, {"reward": "discriminator", "discriminator": [1]}, "an argument is of a kind that no environment takes"),
    (ORACLE, {"discriminator": File("Exact-discriminator")}, "discriminator of another task: it reads 4 actions"),
    (ORACLE, {"discriminator": File("Oracle-generator")}, "unknown discriminator 'lstm'; known are"),
    (EXACT, {"rollout_policy": UniformPolicy(9, has_eos=True)}, "rollout policy has 9 actions, the task has 4"),
    (EXACT, {"rollout_policy": tiny_generator(4, 4, has_eos=False)}, "rollout policy ends .* has_eos=True"),
    (ORACLE, {"rollout_policy": UniformPolicy(7, has_eos=True)}, "rollout policy ends .* has_eos=False"),
    (ORACLE, {"rollout_policy": File("Exact-generator")}, "rollout policy has 4 actions, the task has 7"),
    (EXACT, {"rollout_policy": 3}, "a rollout policy needs initial_state"),
    (EXACT, {"rollout_policy": "default"}, "no default generator and discriminator; use .* rollout_policy='uniform'"),
    (EXACT, {"reward": "discriminator", "discriminator": "default"}, "no default .* use reward='task'"),
    *(
        (env_id, {"reward": reward}, f"reward='{reward}' is only for SeqGAN/Oracle-v0; {env_id} takes .* logit")
        for env_id in (CORPUS, EXACT)
        for reward in ("oracle", "oracle_log_ratio")
    ),
    *(
        (env_id, {"reward": "task"}, f"reward='task' is only for SeqGAN/Exact-v0; {env_id} takes .* logit")
        for env_id in (ORACLE, CORPUS)
    ),
    (ORACLE, {"rollout_policy": tiny_generator(7, 9, has_eos=False)}, "rollout policy writes 9 tokens, .* has 4"),
    (ORACLE, {"reward": DiscriminatorReward(DISCRIMINATORS[EXACT])}, "the reward's discriminator is of another task"),
    (EXACT, {"reward": OracleLogLikelihood(Oracle.from_seed(0, vocab_size=4, sequence_length=4))}, "reward's oracle"),
    (EXACT, {"reward": TableReward(SequenceTree(4, 4), torch.zeros(256))}, "the reward's table .* has_eos=True"),
    (EXACT, ONLINE, "adversary=.online. .* reward='task'"),
    (EXACT, ONLINE | {"reward": "logit"}, "neither a corpus nor an oracle"),
    (ORACLE, ONLINE | {"reward": ConstantReward()}, "adversary=.online. .* this reward has none"),
    # names
    *((env_id, {"observation": "pixels"}, "observation must be one of tokens, .* got 'pixels'") for env_id in IDS),
    *((env_id, {"shaping": "roll"}, "shaping must be one of rollout, none, deferred; got 'roll'") for env_id in IDS),
    *((env_id, {"reward": "logits"}, "unknown reward 'logits' .did you mean 'logit'") for env_id in IDS),
    *((env_id, {"adversary": "offline"}, "adversary must be one of frozen, online; got 'offline'") for env_id in IDS),
    *((env_id, {"num_rollout": 1}, "keyword argument 'num_rollout' .did you mean 'num_rollouts'") for env_id in IDS),
    *(
        (env_id, {"frameskip": 1}, f"{env_id} got an unexpected keyword argument 'frameskip'; known are .*num_rollouts")
        for env_id in IDS
    ),
    *((env_id, {name: None}, f"{name} must be a") for env_id in IDS for name in ("observation", "shaping", "device")),
    (EXACT, {"reward": 3}, "a reward is a Reward or a function"),
    (EXACT, {"reward": None}, "a reward is a Reward or a function"),
    (EXACT, {"task_name": "tables"}, "task_name must be"),
    (CORPUS, {"level": "chars"}, "level must be one of word, char, bpe.*got 'chars'"),
    # numbers
    *((env_id, {"num_rollouts": n}, f"num_rollouts must be at least 1, got {n}") for env_id in IDS for n in (0, -1)),
    *((env_id, {"gamma": g}, r"gamma must lie in \(0, 1\], got") for env_id in IDS for g in (-1, 0, 1.1)),
    *((env_id, {"adversary_every": 0}, "adversary_every must be at least 1, got 0") for env_id in IDS),
    *((env_id, {"adversary_minibatches": -1}, "adversary_minibatches must be at least 1") for env_id in IDS),
    *(
        (env_id, {"vocab_size": n}, f"vocab_size must be at least 2 .*{n}")
        for env_id in (ORACLE, EXACT)
        for n in (-1, 1)
    ),
    *(
        (env_id, {"sequence_length": n}, f"sequence_length must be at least 2.*{n}")
        for env_id in IDS
        for n in (-1, 0, 1)
    ),
    *((env_id, {"sequence_length": 2.5}, "sequence_length must be a whole number") for env_id in IDS),
    (EXACT, {"vocab_size": 100, "sequence_length": 100}, "vocab_size=100, sequence_length=100 make .* try "),
    (EXACT, {"variable_length": "yes"}, "variable_length must be true or false, got 'yes'"),
    (EXACT, {"task_name": "oracle", "variable_length": False, "seed": -1}, "seed must be at least 0, got -1"),
    (EXACT, {"seed": -1}, "seed must be at least 0, got -1"),
    (ORACLE, {"oracle": -1}, "the oracle's seed must lie in"),
    *((CORPUS, {"min_count": n}, f"min_count must be at least 1, got {n}") for n in (0, -1)),
    *((CORPUS, {"max_vocab": n}, f"max_vocab must be at least 2, got {n}") for n in (1, 0, -1)),
    *(
        (CORPUS, {"corpus": "proverbs", name: 0}, f"{name} must be at least .*got 0")
        for name in ("sequence_length", "min_count", "max_vocab")
    ),
    # files
    (ORACLE, {"oracle": "missing.npz"}, "oracle file missing.npz does not exist; give an .npz file or a seed"),
    (ORACLE, {"oracle": File("plain.npz")}, "oracle file .*plain.npz is not an .npz archive"),
    (ORACLE, {"oracle": File("other.npz")}, "oracle file .*other.npz lacks the array 'embedding'"),
    (ORACLE, {"oracle": File("")}, "oracle file .* is not an .npz archive"),
    (CORPUS, {"corpus": "missing.txt"}, "text file 'missing.txt': no such file; check the path"),
    (CORPUS, {"corpus": File("empty.txt")}, "text file .*: expected one sequence a line, got an empty file"),
    (CORPUS, {"corpus": File("")}, "text file .*: expected a file, got a directory"),
    (CORPUS, {"sequence_length": 3}, "more than sequence_length=3; .* --drop-longer"),
    # devices
    *(
        (env_id, {"device": device}, f"device must be 'cpu' or a CUDA device that is here .*, got '{device}'")
        for env_id in IDS
        for device in ["gpu", "0", "meta", "xpu", "cuda:99", *([] if torch.cuda.is_available() else ["cuda"])]
    ),
    # sources
    *(
        (ORACLE, {"oracle": value}, "oracle must be a seed .an integer., an .npz file or an Oracle, got ")
        for value in (None, 2.5, b"x", object(), True)
    ),
    *(
        (CORPUS, {"corpus": value}, "corpus must be a file, .* a built-in corpus .proverbs. or a Corpus, got ")
        for value in (None, 3, object(), b"x")
    ),
    *(
        (ORACLE, {name: value}, f"{name} must be one of default, .* folder .* no folder '{value}' .did you mean")
        for name, value in (("discriminator", "small_cn"), ("rollout_policy", "unifrom"))
    ),
    *(
        (CORPUS, {"corpus": LIVE_CORPUS, name: value}, f"{name}=.* beside a finished corpus, .* leave {name} out")
        for name, value in (
            ("sequence_length", 9),
            ("level", "char"),
            ("max_vocab", 3),
            ("min_count", 2),
            ("drop_longer", True),
        )
    ),
    *(
        (ORACLE, {"oracle": oracle, "vocab_size": 9, "sequence_length": 4}, "vocab_size=9 .* beside a finished oracle")
        for oracle in (File("oracle.npz"), Oracle.from_seed(1, vocab_size=7, sequence_length=4))
    ),
    (
        ORACLE,
        {"oracle": Oracle.from_seed(1, vocab_size=7, sequence_length=4), "sequence_length": 9},
        "sequence_length=9 .* beside a finished oracle, whose sequence_length is 4; leave sequence_length out",
    ),
]


@pytest.mark.parametrize("is_vector", [False, True], ids=["single", "vector"])
@pytest.mark.parametrize(("env_id", "arguments", "words"), REFUSED, ids=case_name)
def test_a_wrong_argument_is_named(
    env_id: str, arguments: dict[str, Any], words: str, is_vector: bool, folder: Path
) -> None:
    """One ValueError (InputError is one) or TypeError, at construction."""
    arguments = filled(SMALL[env_id] | arguments, folder)
    make: Any = functools.partial(gym.make_vec, num_envs=2) if is_vector else gym.make
    message = refusal(lambda: make(env_id, **arguments))
    assert re.search(words, message), message


PROMPTS = [
    ([0] * 4, "has 4 tokens; it must be shorter than the sequence length 4"),
    ([3], r"must hold word ids in \[0, 3\), got 3"),  # EOS
    ([0, 4], r"must hold word ids in \[0, 3\), got 4"),  # PAD
    ([-1], r"must hold word ids in \[0, 3\), got -1"),
    ([0.5], "prefix.* must be a list of token ids"),
    (np.array([0.5]), "prefix.* must be a list of token ids"),
    ([float("nan")], "prefix.* must be a list of token ids"),
    ([True], "prefix.* must be a list of token ids"),
    ([None], "prefix.* must be a list of token ids"),
    ("a b", "prefix"),
    (b"ab", "prefix.* must be a list of token ids"),
    (["0"], "prefix"),
    ([[0]], "prefix"),
    ([[[0]], [[1]]], "prefix"),
    ([[0], 1], "prefix.* must be a list of token ids"),
    ({0: 1}, "prefix.* must be a list of token ids"),
    ({1, 2}, "prefix.* must be a list of token ids"),
]
NOT_LISTS = [3, np.array(1), np.array(None), object()]


@pytest.mark.parametrize(("prefix", "words"), [*PROMPTS, *((value, "prefix.* must be a list") for value in NOT_LISTS)])
def test_a_wrong_prompt_is_named(prefix: Any, words: str) -> None:
    env: Any = gym.make(EXACT, **SMALL[EXACT]).unwrapped
    env.reset(seed=0)
    before = env.state_dict()
    assert re.search(words, refusal(lambda: env.reset(seed=5, options={"prefix": prefix})))
    assert_same(env.state_dict(), before, 0)
    play(env, "rollout")  # it goes on


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        *PROMPTS,
        *((value, "prefix.* must be a list of token ids such as .0, 1., got ") for value in NOT_LISTS),
        ([[0]] * 3, "prefix.* must be one prompt or 2 of them, got 3"),
        ([[0], [3]], r"must hold word ids in \[0, 3\), got 3"),
        ([[0], [0] * 4], "has 4 tokens"),
        (np.zeros((3, 1), dtype=np.int64), "prefix.* must be one prompt or 2 of them, got 3"),
    ],
)
def test_a_wrong_prompt_of_many_is_named_and_changes_nothing(prefix: Any, words: str) -> None:
    env: Any = gym.make_vec(EXACT, num_envs=2, **SMALL[EXACT]).unwrapped
    env.reset(seed=0)
    env.step(np.array([1, 2]))
    before = env.state_dict()
    assert re.search(words, refusal(lambda: env.reset(seed=5, options={"prefix": prefix})))
    assert_same(env.state_dict(), before, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            ({name: count}, f"{name} must be an integer of at least 1, got {count!r}")
            for name in ("num_envs", "max_episode_steps")
            for count in (0, -2, 2.5, "2", True)
        ),
        *(
            ({"autoreset_mode": mode}, f"autoreset_mode must be one of NEXT_STEP, SAME_STEP, DISABLED, got {mode!r}")
            for mode in ("sometimes", None, 1)
        ),
    ],
    ids=case_name,
)
def test_a_wrong_argument_of_the_vector_environment_is_named(arguments: dict[str, Any], words: str) -> None:
    assert re.search(words, refusal(lambda: gym.make_vec(EXACT, **{"num_envs": 2} | SMALL[EXACT] | arguments)))


@pytest.mark.parametrize("mode", AUTORESETS, ids=lambda mode: mode.name)
def test_an_autoreset_mode_goes_by_name_or_value(mode: AutoresetMode) -> None:
    for written in (mode, mode.name, mode.name.lower(), mode.value):
        env: Any = gym.make_vec(EXACT, num_envs=2, autoreset_mode=written, **SMALL[EXACT])
        assert env.metadata["autoreset_mode"] is mode


def test_a_refused_vector_environment_dies_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gymnasium before 1.3 closes it in `__del__`; what fails there is printed beside the error that matters."""
    heard: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    for arguments in ({"nonsense": 1}, {"autoreset_mode": "never"}, {"task_name": "none"}):
        refusal(lambda arguments=arguments: gym.make_vec(EXACT, num_envs=2, **arguments))  # type: ignore[misc]
    gc.collect()
    assert heard == []


def test_an_unknown_render_mode_only_warns(folder: Path) -> None:
    """SB3's `make_vec_env` tries modes and takes no ValueError; `gym.make` warns, and nothing is drawn."""
    with pytest.warns(UserWarning, match="render_mode='sketch' that is not in the possible render_modes"):
        env = gym.make(EXACT, render_mode="sketch", **SMALL[EXACT])
    play(env, "rollout")
    assert env.unwrapped.render() is None
    assert gym.make_vec(EXACT, num_envs=2, render_mode="sketch", **SMALL[EXACT]).render() is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda tokens_BT, lengths_B: torch.zeros(len(tokens_BT), 2), r"shape \(2,\), one number a row; got shape"),
        (lambda tokens_BT, lengths_B: 1.0, r"shape \(2,\), one number a row; got shape \(\)"),
        (lambda tokens_BT, lengths_B: lengths_B[:1], r"shape \(2,\), one number a row; got shape \(1,\)"),
        (lambda tokens_BT, lengths_B: None, r"shape \(2,\), one number a row; got None"),
        (lambda tokens_BT, lengths_B: "abc", r"shape \(2,\), one number a row; got 'abc'"),
        (lambda tokens_BT, lengths_B: torch.tensor([0, float("nan")]), "finite numbers; got nan in row 1"),
        (lambda tokens_BT, lengths_B: [float("-inf"), 0], "finite numbers; got -inf in row 0"),
    ],
)
def test_a_wrong_answer_of_a_reward_function_is_named(answer: Any, words: str) -> None:
    env: Any = gym.make(EXACT, **SMALL[EXACT] | {"reward": answer}).unwrapped
    env.reset(seed=0)
    assert re.search(f"a reward must return {words}", refusal(lambda: env.step(np.int64(0))))


@pytest.mark.parametrize("is_vector", [False, True], ids=["single", "vector"])
def test_a_wrong_call_is_named_and_changes_nothing(is_vector: bool) -> None:
    env: Any = gym.make_vec(EXACT, num_envs=2, **SMALL[EXACT]) if is_vector else gym.make(EXACT, **SMALL[EXACT])
    env = env.unwrapped
    env.reset(seed=0)
    before = env.state_dict()
    for act, words in (
        (lambda: env.reset(seed=5, options="abc"), "options must be a dictionary such as .* or None, got 'abc'"),
        (lambda: env.reset(seed=5, options={"prefx": [0]}), "unknown key 'prefx' .did you mean 'prefix'"),
        (lambda: env.reset(seed=5, options={"reset_masks": None}), "'reset_masks' .did you mean 'reset_mask'"),
        (lambda: env.load_state_dict({}), "state lacks tokens, lengths, start, values, num_scored, adversary, .*rng"),
        (lambda: env.load_state_dict(None), "state lacks tokens, .* state_dict.. of an equal environment .* not None"),
        (lambda: env.step([0, 1, 2]), r"actions must be integers of shape \([12],\), got int64 of shape \(3,\)"),
    ):
        assert re.search(words, refusal(act)), refusal(act)
        assert_same(env.state_dict(), before, 0)
    env.reset(options={"of a wrapper": 3})


def test_one_bad_seed_of_many_changes_nothing() -> None:
    env: Any = gym.make_vec(EXACT, num_envs=2, **SMALL[EXACT]).unwrapped
    env.reset(seed=0)
    env.step(np.array([1, 2]))
    before = env.state_dict()
    with pytest.raises(gym.error.Error, match="-1"):
        env.reset(seed=[1, -1])
    assert_same(env.state_dict(), before, 0)


@pytest.mark.parametrize("size", [{"vocab_size": 100, "sequence_length": 100}, {"vocab_size": 5000}, {"vocab_size": 2}])
def test_what_a_task_too_large_is_told_to_try_works(size: dict[str, Any]) -> None:
    size = {"sequence_length": 30} | size
    message = refusal(lambda: gym.make(EXACT, **size))
    hints = re.search("; try (.*), or the task", message)
    assert hints is not None, message
    for hint in hints[1].split(" or "):
        changed = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", hint)}
        gym.make(EXACT, **size | changed | {"variable_length": True})


# ---------------------------------------------------------------- devices


def test_an_environment_on_another_device_leaves_the_first_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "meta" stands for a GPU: equal tasks share fitted parts and oracle on one device, whichever it is."""
    monkeypatch.setattr(options, "check_device", lambda name: None)
    sizes: dict[str, Any] = {"vocab_size": 7, "sequence_length": 4}

    def parts(device: str, shaping: str) -> list[Any]:
        oracle, ratio, discriminator = (
            gym.make(ORACLE, device=device, shaping=shaping, reward=reward, **sizes).unwrapped
            for reward in ("oracle", "oracle_log_ratio", "discriminator")
        )
        env: Any = discriminator
        rewards: list[Any] = [oracle.reward, ratio.reward]  # type: ignore[attr-defined]
        own = [rewards[1].generator]  # a copy in any case
        return [env.rollout_policy, env.reward.discriminator, rewards[0].oracle, rewards[1].oracle, *own]

    first, second = parts("cpu", "rollout"), parts("meta", "rollout")
    assert [part.device.type for part in first] == ["cpu"] * 5
    assert [part.device.type for part in second] == ["meta"] * 5
    for device, those in (("cpu:0", first), ("meta", second)):
        assert all(one is other for one, other in zip(parts(device, "deferred")[:4], those[:4], strict=True))
