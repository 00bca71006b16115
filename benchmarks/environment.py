"""Environment steps per second of every way to play, in one run.

    python benchmarks/environment.py [--vocabulary 5000 --length 20 --rollouts 16 --threads 2 --seconds 3]

Random actions against the default reward (the small discriminator and the MLE generator that come with the package at
the default sizes). A step is one token of one sequence; steps of Gymnasium's NEXT_STEP mode that only reset are not
counted. "deferred" makes the rollouts of a sequence at its end, "rollout" makes those of every step. The collection
phase of SB3's PPO is ``collect_rollouts`` alone (policy included), on the native adapter and on ``DummyVecEnv``.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

import seqgan_rl

ID = "SeqGAN/Oracle-v0"
SHAPINGS = ("none", "deferred", "rollout")


def steps_of_single(options: dict[str, Any]) -> Iterator[int]:
    """One environment; yields steps made."""
    env, rng = gym.make(ID, **options), np.random.default_rng(0)
    env.reset(seed=0)
    while True:
        terminated = env.step(rng.integers(options["vocab_size"]))[2]
        if terminated:
            env.reset()
        yield 1


def steps_of_vector(num_envs: int, mode: str, options: dict[str, Any]) -> Iterator[int]:
    """A vector environment; yields steps made, without those that only reset."""
    envs, rng = gym.make_vec(ID, num_envs=num_envs, vectorization_mode=mode, **options), np.random.default_rng(0)
    try:
        envs.reset(seed=0)
        was_ended_B = np.zeros(num_envs, dtype=np.bool_)
        while True:
            terminated_B = envs.step(rng.integers(options["vocab_size"], size=num_envs))[2]
            yield int((~was_ended_B).sum())
            was_ended_B = terminated_B
    finally:
        envs.close()


def steps_of_collection(num_envs: int, is_native: bool, options: dict[str, Any]) -> Iterator[int]:
    """The collection phase of SB3's PPO; yields steps made."""
    env: VecEnv
    if is_native:
        env = seqgan_rl.make_sb3_env(ID, num_envs=num_envs, **options)
    else:
        env = VecMonitor(DummyVecEnv([lambda: gym.make(ID, **options)] * num_envs))
    T = options["sequence_length"]
    model = PPO("MlpPolicy", env, n_steps=T, batch_size=num_envs * T, gamma=1.0, seed=0, device="cpu")
    nothing: list[BaseCallback] = []
    _, callback = model._setup_learn(10**9, CallbackList(nothing))
    while True:
        model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=T)
        yield num_envs * T


def rate(steps: Iterator[int], seconds: float, whole: int) -> float:
    """Steps per second, over at least ``seconds`` and ``whole`` calls (one round of sequences) after warming up."""
    next(steps)
    made = calls = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or calls % whole:
        made += next(steps)
        calls += 1
    elapsed = time.perf_counter() - start
    steps.close()  # type: ignore[attr-defined] # a generator: lets workers go
    return made / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vocabulary", 5000), ("length", 20), ("rollouts", 16), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, at the least")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="sub-environments of the async one")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    T = arguments.length
    sizes = {"vocab_size": arguments.vocabulary, "sequence_length": T, "num_rollouts": arguments.rollouts}
    threads = f"{arguments.threads} threads"
    print(f"{platform.machine()}, {threads}, torch {torch.__version__}; V={arguments.vocabulary} T={T}", end=" ")
    print(f"N={arguments.rollouts}; env-steps/s\n")
    forms: list[tuple[str, Callable[[dict[str, Any]], Iterator[int]], int]] = [("single", steps_of_single, T)]
    forms.append(("sync, 8", lambda options: steps_of_vector(8, "sync", options), T + 1))
    workers = arguments.workers
    forms.append((f"async, {workers}", lambda options: steps_of_vector(workers, "async", options), T + 1))
    for num_envs in (1, 8, 64, 256):
        forms.append(
            (
                f"native, {num_envs}",
                lambda options, n=num_envs: steps_of_vector(n, "vector_entry_point", options),  # type: ignore[misc]
                T + 1,
            )
        )
    for num_envs in (8, 64):
        for name, is_native in (("DummyVecEnv", False), ("adapter", True)):
            forms.append(
                (
                    f"PPO on {name}, {num_envs}",
                    lambda options, n=num_envs, native=is_native: steps_of_collection(n, native, options),  # type: ignore[misc]
                    1,
                )
            )
    print(f"| {'':22} |" + "".join(f" {shaping:>9} |" for shaping in SHAPINGS))
    print(f"|{'-' * 24}|" + "".join(f"{'-' * 10}:|" for _ in SHAPINGS))
    for name, make, whole in forms:
        rates = [rate(make({**sizes, "shaping": shaping}), arguments.seconds, whole) for shaping in SHAPINGS]
        print(f"| {name:22} |" + "".join(f" {value:9,.0f} |" for value in rates), flush=True)


if __name__ == "__main__":
    main()
