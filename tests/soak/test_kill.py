"""Runs killed at random moments, and on a disk that is full, resume to the numbers of an uninterrupted run.

The command line in a process of its own, with a checkpoint after every epoch, check and round. All of it takes a
quarter of the soak.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqgan_rl.adversarial import results, session, trainer
from seqgan_rl.cli import main
from seqgan_rl.core.config import as_dict
from seqgan_rl.core.errors import InputError
from tests.adversarial.conftest import tiny_config
from tests.adversarial.crashing import assert_same_run, numbers

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
SHARE = {"seqgan": 0.08, "ppo": 0.05, "a2c": 0.05, "dqn": 0.05}
"""Of the soak's time, by algorithm; the full disk has 0.02."""


class Program:
    """``seqgan-rl train --quiet`` in a forked process, which starts at once; figures are left out."""

    def __init__(self, *arguments: str) -> None:
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the process has ended
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                torch.set_num_threads(1)  # the parent's threads are not here
                session.SECONDS_BETWEEN_CHECKPOINTS, trainer.CONTINUED_EPOCHS = 0, 3
                vars(results).update(learning_curves=lambda *args: None, quality_coverage=lambda *args: None)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(self.output.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                status = main(["train", "--quiet", *arguments])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def end(self, seconds: float = 600) -> tuple[int | None, str]:
        """Wait, for so long. Returns the exit status and the complaints; None where it goes on."""
        deadline, ended, status = time.monotonic() + seconds, 0, 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.002)
        if not ended:
            return None, ""
        with self.output:
            self.output.seek(0)
            return os.waitstatus_to_exitcode(status), self.output.read()

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL, unless it is done by then. Returns whether it was killed."""
        status, complaint = self.end(seconds)
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.output.close()
            return True
        assert status == 0, complaint
        return False


def settings(algorithm: str, folder: Path) -> str:
    """A file of settings that go through every stage in seconds; the test skips where the algorithm is unknown."""
    agent: dict[str, Any] = {} if algorithm == "seqgan" else {"algorithm": algorithm}
    try:
        config = tiny_config(rounds=20, agent=agent, controls=["mle_continued", "random"])
    except InputError as error:
        pytest.skip(f"this version cannot train {algorithm}: {error}")
    (folder / "config.yaml").write_text(json.dumps(as_dict(config)))
    return str(folder / "config.yaml")


@pytest.mark.parametrize("algorithm", SHARE)
def test_kills(algorithm, tmp_path, clock, record_property):
    """Of dqn, whose replay buffer is kept too, the same is asked as of the others."""
    clock.take(SHARE[algorithm])
    config, whole = settings(algorithm, tmp_path), tmp_path / "whole"
    began = time.monotonic()
    status, complaint = Program("--config", config, "--run", str(whole)).end()
    assert status == 0, complaint
    length = time.monotonic() - began
    rows, chance, kills, runs = len(numbers(whole)), random.Random(algorithm), 0, 0
    assert rows > 50
    while clock.has_time or not kills:
        run = tmp_path / f"run{runs}"
        arguments: tuple[str, ...] = ("--config", config, "--run", str(run))
        while Program(*arguments).kill_after(chance.random() * length if clock.has_time or not kills else 600):
            kills += 1
            clock.tell(f"{kills} kills, {runs} runs resumed to the same {rows} rows", every=30)
            if (run / "config.json").exists():
                arguments = ("--resume", str(run))
        assert_same_run(whole, run)
        runs += 1
    assert kills > 0
    record_property("summary", f"{kills} kills, {runs} runs resumed to the same {rows} rows")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB; skipped where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs is Linux's")
def test_full_disk(tmp_path, small_disk, clock, record_property):
    """A real one, full at random moments; with room again the run goes on to the same numbers."""
    clock.take(0.02)
    config, whole, chance = settings("seqgan", tmp_path), tmp_path / "whole", random.Random(0)
    assert Program("--config", config, "--run", str(whole)).end()[0] == 0
    run, ballast = small_disk / "run", small_disk / "ballast"
    full = runs = 0
    arguments: tuple[str, ...] = ("--config", config, "--run", str(run))
    while clock.has_time or not full:
        space = os.statvfs(small_disk)
        free = space.f_bavail * space.f_frsize
        ballast.write_bytes(bytes(int(free * chance.uniform(0.5, 1))))
        status, complaint = Program(*arguments).end()
        ballast.unlink()
        if status == 0:
            assert_same_run(whole, run)
            runs += 1
            shutil.rmtree(run)
        else:
            full += 1
            assert status == 1, complaint
            assert len(complaint.splitlines()) == 1, complaint
            assert "No space left on device" in complaint
            if (run / "checkpoints").is_dir():
                assert not list((run / "checkpoints").glob(".*"))
        has_begun = (run / "config.json").exists()
        arguments = ("--resume", str(run)) if has_begun else ("--config", config, "--run", str(run))
        clock.tell(f"full {full} times, {runs} runs done", every=30)
    if run.exists():
        status, complaint = Program(*arguments).end()
        assert status == 0, complaint
        assert_same_run(whole, run)
    record_property("summary", f"full {full} times; every run went on to the same numbers")
