"""Crash safety: killed, out of room or out of power at every call that changes the disk, alone and in a whole run.

Every point is tried in a forked child; the parent looks at what is left.
"""

import errno
import itertools
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqgan_rl.adversarial import session
from seqgan_rl.adversarial.config import RunConfig, preset
from seqgan_rl.adversarial.data import RunData, prepare_data
from seqgan_rl.adversarial.run_folder import MetricsLog, RunFolder, read_metrics
from seqgan_rl.adversarial.trainer import train
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.cli import main
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.config import as_dict
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import remove_leftovers, write_text
from seqgan_rl.rewards import rewards
from tests.adversarial.crashing import Calls, Disk, assert_same_run, die_at, full_at, in_child, tell

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="crashes are made with fork, and open files are named by /proc"
    ),
]

STATE = {"stage": 0, "metrics_bytes": 0}
TENSOR = torch.arange(40.0)


# --- what is saved, and what must be there whenever it was stopped ----------------------------------------------


class Saving:
    """One kind of save: how things stand before, the save, and a check of what is found after it was stopped."""

    stride = 1
    """Every so many-th call is tried."""

    def prepare(self, folder: Path) -> None:
        """How things stand before."""

    def save(self, folder: Path) -> None:
        """The save."""
        raise NotImplementedError

    def save_again(self, folder: Path, found: str) -> None:
        """The save that follows one that was stopped."""
        self.save(folder)

    def found(self, folder: Path) -> str:
        """ "old" or "new": AssertionError, or any other error, for everything between."""
        raise NotImplementedError


class State(Saving):
    """A folder of state that takes the place of another."""

    def prepare(self, folder):
        save_state(folder / "c", {"x": TENSOR})

    def save(self, folder):
        save_state(folder / "c", {"x": TENSOR + 1})

    def found(self, folder):
        before = load_state(folder / "c")["x"]  # found where it is set aside, too
        remove_leftovers(folder)
        assert os.listdir(folder) == ["c"]
        x = load_state(folder / "c")["x"]
        assert torch.equal(x, before)
        return {0.0: "old", 40.0: "new"}[float((x - TENSOR).sum())]


class Text(Saving):
    """A text file that takes the place of another."""

    def prepare(self, folder):
        write_text(folder / "a.txt", "old" * 100)

    def save(self, folder):
        write_text(folder / "a.txt", "new" * 200)

    def found(self, folder):
        remove_leftovers(folder)
        assert os.listdir(folder) == ["a.txt"]
        return {"old" * 100: "old", "new" * 200: "new"}[(folder / "a.txt").read_text()]


class Checkpoint(Saving):
    """A run's third checkpoint, at which the first one goes."""

    def prepare(self, folder):
        run = RunFolder.create(folder / "run", preset("quick"))
        for number in (1, 2):
            run.save_checkpoint(number, {**STATE, "state": TENSOR + number})

    def save(self, folder):
        with RunFolder.open(folder / "run").locked():
            RunFolder(folder / "run").save_checkpoint(3, {**STATE, "state": TENSOR + 3})

    def found(self, folder):
        run = RunFolder.open(folder / "run")
        with run.locked():
            found = run.last_checkpoint()
        assert found is not None
        number, state = found
        assert torch.equal(state["state"], TENSOR + number)
        assert not [name for name in os.listdir(run / "checkpoints") if not name.isdecimal()]
        shutil.rmtree(run / "checkpoints" / f"{number:06d}")
        before = run.last_checkpoint()
        assert before is not None
        assert before[0] == number - 1
        return {2: "old", 3: "new"}[number]


class AfterDamage(Saving):
    """A checkpoint that takes the place of a damaged one."""

    def prepare(self, folder):
        run = RunFolder.create(folder / "run", preset("quick"))
        for number in (1, 2):
            run.save_checkpoint(number, {**STATE, "state": TENSOR + number})
        (run / "checkpoints" / "000002" / "tensors.safetensors").write_bytes(b"")

    def save(self, folder):
        with RunFolder.open(folder / "run").locked():
            RunFolder(folder / "run").save_checkpoint(2, {**STATE, "state": TENSOR + 3})

    def found(self, folder):
        run = RunFolder.open(folder / "run")
        with run.locked():
            found = run.last_checkpoint()
        assert found is not None
        return {1.0: "old", 3.0: "new"}[float(found[1]["state"][0])]


class Creation(Saving):
    """A new run folder, two folders deep."""

    def save(self, folder):
        RunFolder.create(folder / "runs" / "run", preset("quick"))

    def save_again(self, folder, found):
        if found == "old":
            return self.save(folder)
        with RunFolder.open(folder / "runs" / "run").locked():
            pass

    def found(self, folder):
        run = folder / "runs" / "run"
        try:
            assert RunFolder.open(run).config() == preset("quick")
        except InputError as error:
            words = (f"{run} does not exist", f"start it again with its settings and --run {run}")
            if not any(word in str(error) for word in words):
                raise
            return "old"
        assert json.loads((run / "versions.json").read_text())["python"]
        with pytest.raises(InputError, match=f"exists; choose another --run folder, or .* --resume {run}"):
            RunFolder.create(run, preset("quick"))
        return "new"


class Data(Saving):
    """The data of a run: several files, each written as those above are, so that not every call need be tried."""

    stride = 5
    data: RunData

    def prepare(self, folder):
        from tests.adversarial.conftest import tiny_config

        config = tiny_config()
        self.data = prepare_data(config.data)
        RunFolder.create(folder / "run", config)

    def save(self, folder):
        with RunFolder.open(folder / "run").locked():
            self.data.save(RunFolder(folder / "run"))

    def found(self, folder):
        run = RunFolder(folder / "run")
        if not (run / "corpus" / "corpus.json").is_file():  # what a resumed run goes by
            return "old"
        data = RunData.load(run)
        assert data.corpus.content_hash == self.data.corpus.content_hash
        assert data.oracle is not None
        assert self.data.oracle is not None
        assert data.oracle.hash == self.data.oracle.hash
        return "new"


class Metrics(Saving):
    """Metrics cut back to the last checkpoint, and one more row."""

    def prepare(self, folder):
        run = RunFolder.create(folder / "run", preset("quick"))
        log = MetricsLog(run)
        for epoch in (1, 2, 3):
            log.write("mle", "epoch", epoch, {"x": epoch})
        log.close()

    def save(self, folder):
        with RunFolder.open(folder / "run").locked():
            self.write(RunFolder(folder / "run"))

    def write(self, run):
        rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        log = MetricsLog(run, len("".join(rows[:2])))
        log.write("mle", "epoch", 4, {"x": 4})
        assert log.size == (run / "metrics.jsonl").stat().st_size
        log.close()

    def found(self, folder):
        found = [row["epoch"] for row in read_metrics(RunFolder(folder / "run"))]
        assert found[:2] == [1, 2]
        return "new" if found == [1, 2, 4] else "old"


SAVINGS = (State, Text, Checkpoint, AfterDamage, Creation, Data, Metrics)


@pytest.fixture(params=SAVINGS, ids=lambda kind: kind.__name__)
def saving(request: pytest.FixtureRequest) -> Saving:
    """Each kind of save."""
    return request.param()


def copies(saving: Saving, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """1, 2, 3... and each time the folder as it stands before the save."""
    (tmp_path / "before").mkdir()
    saving.prepare(tmp_path / "before")
    for k in itertools.count(1, saving.stride):
        yield k, Path(shutil.copytree(tmp_path / "before", tmp_path / "now"))
        shutil.rmtree(tmp_path / "now")


def test_a_save_killed_at_any_call_leaves_the_old_or_the_new(saving, tmp_path, caplog):
    """And the next save works, and leaves nothing of the killed one behind."""
    seen, k = [], 0
    for k, folder in copies(saving, tmp_path):
        status, report = in_child(lambda: (Calls(folder, die_at(k)), saving.save(folder)))  # noqa: B023 - called at once
        assert status in (0, -signal.SIGKILL), report
        with caplog.at_level(logging.WARNING):
            looked_at = Path(shutil.copytree(folder, tmp_path / "looked_at"))
            seen.append(saving.found(looked_at))
            shutil.rmtree(looked_at)
        saving.save_again(folder, seen[-1])
        assert saving.found(folder) == "new"
        assert list(folder.rglob(".*")) == []
        if status == 0:
            break
    assert k > 5
    if not isinstance(saving, Metrics):  # its last row may be torn when it is synced
        assert seen == sorted(seen, reverse=True)  # old, ..., old, new, ..., new
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert isinstance(saving, AfterDamage) or "damaged" not in caplog.text


def test_a_save_that_finds_no_room_leaves_the_old_and_no_rubbish(saving, tmp_path):
    """From the k-th call on nothing more goes onto the disk, for every k."""
    failed = 0
    for k, folder in copies(saving, tmp_path):
        before = {str(path.relative_to(folder)) for path in folder.rglob("*")}

        def save_and_look(k=k, folder=folder, before=before):
            calls = Calls(folder, full_at(k, errno.ENOSPC))
            try:
                saving.save(folder)
            except OSError as raised:
                if raised.errno != errno.ENOSPC:
                    raise
            except InputError as raised:
                if "cannot make the run folder" not in str(raised):
                    raise
            else:
                return "saved"
            calls.is_off = True
            after = {str(path.relative_to(folder)) for path in folder.rglob("*")}
            assert not {name for name in after - before if "/." in f"/{name}"}, after - before
            return "failed"

        status, report = in_child(save_and_look)
        assert status == 0, report
        if report == "saved":
            break
        failed += 1
        looked_at = Path(shutil.copytree(folder, tmp_path / "looked_at"))
        saving.save_again(folder, saving.found(looked_at))
        shutil.rmtree(looked_at)
        assert saving.found(folder) == "new"
    assert failed > 3


def test_a_save_that_loses_power_at_any_call_leaves_the_old_or_the_new(saving, tmp_path):
    """What was not synced is lost, or not, folder by folder; when the save has returned, nothing can be lost."""
    (tmp_path / "before").mkdir()
    saving.prepare(tmp_path / "before")
    folder = Path(shutil.copytree(tmp_path / "before", tmp_path / "now"))

    def save_and_tell() -> str:
        report: list[tuple[str, str, str, str]] = []
        calls = Calls(folder, tell(report))
        saving.save(folder)
        calls.is_off = True
        return json.dumps(report)

    disk = Disk(folder)
    status, report = in_child(save_and_tell)
    assert status == 0, report
    calls, states = json.loads(report), 0
    for call in ([], *calls):
        if call and call[0] != "fsync":
            disk.do(*call)
        for state in disk.after_power_loss(tmp_path / "state"):
            found = saving.found(state)
            states += 1
    assert len([call for call in calls if call[0] == "synced"]) > 1
    assert states > len(calls)
    for state in disk.after_power_loss(tmp_path / "state"):
        assert saving.found(state) == "new"
    assert found == "new"


# --- whole runs -------------------------------------------------------------------------------------------------


ALGORITHMS = ("seqgan", "ppo", "a2c")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Callable[[str], tuple[RunConfig, Path]]:
    """``whole("ppo")``: settings, and one uninterrupted run of them."""
    made: dict[str, tuple[RunConfig, Path]] = {}

    def make(algorithm: str) -> tuple[RunConfig, Path]:
        if algorithm not in made:
            agent = {} if algorithm == "seqgan" else {"algorithm": algorithm}
            try:
                config = tiny(rounds=3, agent=agent, controls=["random"])
            except InputError as error:
                pytest.skip(f"this version has no {algorithm}: {error}")
            run = tmp_path_factory.mktemp(algorithm) / "run"
            train(config, run, progress=False)
            made[algorithm] = config, run
        return made[algorithm]

    return make


@pytest.fixture
def always_saving(monkeypatch) -> None:
    """A checkpoint whenever there may be one."""
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)


def run_until(config: RunConfig, run: Path, k: int, *, resume: bool = False) -> tuple[int, str]:
    """Train in a child that dies at the k-th call, or else tells how many calls there were."""

    def go() -> int:
        calls = Calls(run, die_at(k))
        train(config, run, resume=resume, progress=False)
        return calls.number

    return in_child(go)


@pytest.mark.usefixtures("always_saving")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_killed_at_any_call_again_and_again_resumes_to_the_same_bytes(whole, tmp_path, algorithm):
    config, reference = whole(algorithm)
    status, report = run_until(config, tmp_path / "whole", 10**9)
    assert status == 0, report
    assert_same_run(reference, tmp_path / "whole")
    total, chance = int(report), random.Random(algorithm)
    assert total > 200
    for attempt in range(2 if algorithm == "seqgan" else 1):
        run = tmp_path / str(attempt)
        status, report = run_until(config, run, chance.randrange(20, total))
        assert status == -signal.SIGKILL, report
        while status != 0:  # a fifth of the work at a time, at the least
            status, report = run_until(config, run, chance.randrange(total // 5, total), resume=True)
            assert status in (0, -signal.SIGKILL), report
        assert_same_run(reference, run)


@pytest.mark.usefixtures("always_saving")
@pytest.mark.parametrize("k", [3, 60, 300])
def test_a_run_whose_disk_is_full_says_so_in_one_line_and_resumes_to_the_same_bytes(whole, tmp_path, capfd, k):
    config, reference = whole("seqgan")
    (tmp_path / "config.yaml").write_text(json.dumps(as_dict(config)))
    arguments = ["train", "--quiet", "--config", str(tmp_path / "config.yaml"), "--run", str(tmp_path / "run")]

    def fill() -> int:
        Calls(tmp_path / "run", full_at(k, errno.ENOSPC))
        return main(arguments)

    status, report = in_child(fill)
    assert (status, report) == (0, "1")
    complaint = capfd.readouterr().err
    assert len(complaint.splitlines()) == 1
    assert "No space left on device" in complaint
    if k > 20:
        assert f"make room, then continue with --resume {tmp_path / 'run'}" in complaint
        found = RunFolder(tmp_path / "run").last_checkpoint()
        assert k < 250 or found is not None
        train(config, tmp_path / "run", resume=True, progress=False)
    else:  # it had not begun
        train(config, tmp_path / "run", progress=False)
    assert_same_run(reference, tmp_path / "run")


@pytest.mark.usefixtures("always_saving")
def test_a_run_whose_files_may_not_grow_resumes_when_they_may(whole, tmp_path, capfd):
    """A limit of the system on the size of a file: real writes fail, in the middle of a checkpoint."""
    config, reference = whole("seqgan")

    def limited() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
        try:
            train(config, tmp_path / "run", progress=False)
        except OSError as error:
            return f"{error.errno} {error}"
        return "done"

    status, report = in_child(limited)
    assert status == 0, report
    assert report.startswith(f"{errno.EFBIG} ")
    assert "make room, then continue with --resume" in report
    assert not list((tmp_path / "run").rglob(".*"))
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(reference, tmp_path / "run")


# --- damage -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(whole, tmp_path_factory) -> Path:
    """A run stopped in the middle of the agent's work, with two checkpoints of it."""
    config, _ = whole("seqgan")
    run, calls, real = tmp_path_factory.mktemp("killed") / "run", [], SeqGAN.train

    def stop_at_the_third(self: SeqGAN) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        patch.setattr(SeqGAN, "train", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(config, run, progress=False)
    states = [load_state(path) for path in (run / "checkpoints").iterdir()]
    assert [state["stage"] for state in states] == [2, 2]
    return run


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    """One bit in the middle, which no parser notices."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def another(path: Path) -> None:
    """The file of the checkpoint before."""
    path.write_bytes((sorted(path.parent.parent.iterdir())[-2] / path.name).read_bytes())


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, empty, zero, flip, another], ids=lambda f: f.__name__)
def test_a_damaged_newest_checkpoint_falls_back_says_so_and_gives_the_same_numbers(
    whole, killed, tmp_path, caplog, damage, name
):
    config, reference = whole("seqgan")
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    damage(newest / name)
    with caplog.at_level(logging.WARNING):
        found = RunFolder(run).last_checkpoint()
    assert found is not None
    assert found[0] == int(newest.name) - 1
    assert found[1]["state"] is not None
    complaints = [record.getMessage() for record in caplog.records]
    assert len(complaints) == 1
    assert str(newest) in complaints[0]
    assert "falling back to the checkpoint before" in complaints[0]
    if damage in (Path.unlink, flip):
        train(config, run, resume=True, progress=False)
        assert_same_run(reference, run)


def test_no_flipped_bit_goes_unnoticed(tmp_path, caplog):
    """Of 300 single flips each gives the checkpoint before, or (a digest's own name, a space) the state as it was."""
    run = RunFolder.create(tmp_path / "run", preset("quick"))
    for number in (1, 2):
        run.save_checkpoint(number, {**STATE, "state": {"rng": (7, "x", 0.25), "weights": TENSOR + number}})
    chance, passed = random.Random(0), 0
    for path in sorted((run / "checkpoints" / "000002").iterdir()) * 150:
        content = path.read_bytes()
        place = chance.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :])
        found = run.last_checkpoint()
        assert found is not None
        assert found[1]["state"]["rng"] == (7, "x", 0.25)
        assert torch.equal(found[1]["state"]["weights"], TENSOR + found[0])
        passed += found[0] == 2
        path.write_bytes(content)
    assert passed < 30


def test_metrics_that_are_too_short_are_told(tmp_path, caplog):
    run = RunFolder.create(tmp_path / "run", preset("quick"))
    with caplog.at_level(logging.WARNING):
        MetricsLog(run, 100).close()
    assert "shorter than the checkpoint says (0 of 100 bytes)" in caplog.text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_never_saved(tmp_path, bad):
    run = RunFolder.create(tmp_path / "run", preset("quick"))
    run.save_checkpoint(1, {**STATE, "state": {"mask": torch.tensor([-torch.inf]), "best": float("inf")}})
    with pytest.raises(FloatingPointError, match=r"state\.policy\.weight is not finite"):
        run.save_checkpoint(2, {**STATE, "state": {"policy": {"weight": torch.tensor([1.0, bad])}}})
    found = run.last_checkpoint()
    assert found is not None
    assert found[0] == 1


# --- one process at a time --------------------------------------------------------------------------------------


def test_a_run_that_another_process_continues_is_refused_and_free_when_that_is_killed(whole, killed, tmp_path):
    config, reference = whole("seqgan")
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (ready, tell_ready), (stop, tell_stop) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with RunFolder(run).locked():
            os.write(tell_ready, b".")
            os.read(stop, 1)
        os._exit(1)
    try:
        assert os.read(ready, 1) == b"."
        with pytest.raises(InputError, match=rf"run {run} is being continued by another process \(pid {child}\)"):
            train(config, run, resume=True, progress=False)
        assert {path: path.read_bytes() for path in before} == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for end in (ready, tell_ready, stop, tell_stop):
        os.close(end)
    assert (run / ".lock").exists()  # held by nobody
    train(config, run, resume=True, progress=False)
    assert_same_run(reference, run)


def test_the_lock_is_given_back_after_an_error_and_after_a_race_for_its_file(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", preset("quick"))
    for error in (KeyboardInterrupt, InputError("no"), OSError(5, "no")):
        with pytest.raises(error if isinstance(error, type) else type(error)), run.locked():
            raise error
        assert not (run / ".lock").exists()
    import fcntl

    real, calls = fcntl.flock, list[int]()

    def removed_meanwhile(file, how):
        if not calls:  # its last holder removes it between our opening and our locking it
            (run / ".lock").unlink()
        calls.append(how)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with run.locked():
        assert len(calls) == 2
        assert (run / ".lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(InputError, match="another process"), run.locked():
            pass
    assert not (run / ".lock").exists()


def test_a_system_without_locks_runs_unlocked(tmp_path, monkeypatch, caplog):
    import fcntl

    from seqgan_rl.adversarial import run_folder

    run = RunFolder.create(tmp_path / "run", preset("quick"))

    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    for owner, name, value in ((run_folder, "fcntl", None), (fcntl, "flock", no_locks)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            with run.locked(), run.locked():
                pass
            assert not (run / ".lock").exists()


# --- numbers that are not finite --------------------------------------------------------------------------------


@pytest.fixture
def own_rewards() -> Iterator[None]:
    """Rewards of one's own by name: "test_nan", "test_inf", and "test_one_word", which pays for word 3 alone."""

    def paying(wrong: float) -> Callable[[Any], Any]:
        return lambda parts: lambda tokens_BT, lengths_B: torch.full((len(tokens_BT),), wrong)

    rewards.register("test_nan")(paying(float("nan")))
    rewards.register("test_inf")(paying(float("inf")))
    share: Any = lambda parts: lambda tokens_BT, lengths_B: (tokens_BT == 3).float().mean(dim=1)  # noqa: E731
    rewards.register("test_one_word")(share)
    yield
    for name in ("test_nan", "test_inf", "test_one_word"):
        del rewards._factories[name]


DIVERGING: dict[str, tuple[dict[str, Any], int]] = {
    "mle": ({"mle": {"learning_rate": 3e38}}, 0),
    "discriminator": ({"discriminator": {"learning_rate": 1e30, "weight_decay": 0.0}}, 1),
    "agent": ({"agent": {"learning_rate": 3e38}}, 2),
    "nan reward": ({"agent": {"reward": "test_nan"}}, 2),
    "inf reward": ({"agent": {"reward": "test_inf"}}, 2),
}
"""What diverges: settings, and the stage at which the run stops."""


@pytest.mark.usefixtures("always_saving", "own_rewards")
@pytest.mark.parametrize("part", DIVERGING)
def test_numbers_that_are_not_finite_stop_the_run_in_one_line_with_a_good_checkpoint(tiny, tmp_path, capsys, part):
    """And --resume meets the same error from the same checkpoint: nothing is lost."""
    changes, stage = DIVERGING[part]
    (tmp_path / "config.yaml").write_text(json.dumps(as_dict(tiny(**changes, rounds=30, controls=[]))))
    run, seen = tmp_path / "run", []
    begin = ["train", "--quiet", "--config", str(tmp_path / "config.yaml"), "--run", str(run)]
    for arguments in (begin, ["train", "--quiet", "--resume", str(run)], ["train", "--quiet", "--resume", str(run)]):
        assert main(arguments) == 1
        complaint = capsys.readouterr().err
        assert len(complaint.splitlines()) == 1
        assert re.search("stopped: .*finite.*; checkpoints written before it are good", complaint)
        found = RunFolder(run).last_checkpoint()
        seen.append((complaint, found and found[0], len(read_metrics(RunFolder(run)))))
        assert stage == (0 if found is None else found[1]["stage"])
        assert_finite(found)
    assert seen[0] == seen[1] == seen[2]


def assert_finite(state: Any) -> None:
    if isinstance(state, torch.Tensor):
        assert torch.isfinite(state).all()
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            assert_finite(value)


@pytest.mark.usefixtures("own_rewards")
@pytest.mark.parametrize("is_hacked", [True, False], ids=["hacked", "healthy"])
def test_reward_hacking_is_alarmed_and_a_healthy_run_is_not(tiny, tmp_path, caplog, is_hacked):
    """A reward for one word is best served by saying nothing else; the alarm tells the round, what fell and to what."""
    agent: dict[str, Any] = {"reward": "test_one_word", "learning_rate": 0.1} if is_hacked else {"reward": "logit"}
    evaluation = {"every": 10, "max_nll_rise": 1e9}
    config = tiny(agent={**agent, "batch_size": 32}, rounds=40, evaluation=evaluation, controls=[])
    with caplog.at_level(logging.WARNING):
        result = train(config, tmp_path / "run", progress=False)
    rows = [row for row in read_metrics(RunFolder(tmp_path / "run")) if row["agent"] == "seqgan"]
    assert [row["round"] for row in rows if "eval/entropy" in row] == [0, 10, 20, 30, 40]
    entropy = [row["eval/entropy"] for row in rows if "eval/entropy" in row]
    paid = [row["agent/reward"] for row in rows if "agent/reward" in row]
    alarms = [record.getMessage() for record in caplog.records if "collapsing" in record.getMessage()]
    if is_hacked:
        assert paid[-1] > 0.9 > 0.3 > paid[0]
        assert entropy[-1] < 0.5 * entropy[0]
        assert len(alarms) == 1
        assert alarms[0].startswith("seqgan: the generator is collapsing at round ")
        assert "entropy" in alarms[0]
        assert "beware of a collapse: its entropy fell from" in result.verdict
    else:
        assert entropy[-1] > 0.8 * entropy[0]
        assert alarms == []
        assert "collapse" not in result.verdict
