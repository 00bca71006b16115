"""The Ray launcher on a local cluster: the same jobs, the same numbers, and nothing left behind (`make test-rllib`)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seqgan_rl.comparison import launchers as module
from seqgan_rl.comparison.launchers import Work, launch, launchers, read_status
from seqgan_rl.core.errors import InputError

ray = pytest.importorskip("ray", reason="Ray pins another Gymnasium: run `make test-rllib`")
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="folders and processes are looked up in /proc"
)
TRAINED = (
    "import os, random, sys, torch; torch.manual_seed(int(sys.argv[1])); x = torch.randn(50, 50, requires_grad=True); "
)
TRAINED += "(x @ x).softmax(-1).log().sum().backward(); print(x.grad.double().sum().item().hex(), "
TRAINED += "torch.get_num_threads(), os.environ.get('SEQGAN_RL_CACHE'), os.getcwd())"


@pytest.fixture(scope="module")
def cluster():
    """One that this process has started itself, as a user's program may have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


def work(root: Path, name: str, program: str, *more: str, after: tuple[str, ...] = ()) -> Work:
    return Work(name=name, folder=root / name, command=("-c", program, *more), after=after)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_address_where_nothing_is(tmp_path):
    with pytest.raises(InputError, match=r"no Ray cluster could be reached at address 127\.0\.0\.1:1 "):
        launch([work(tmp_path, "one", "")], launcher="ray", address="127.0.0.1:1", progress=False)
    assert not (tmp_path / "one").exists()


def test_the_same_numbers_states_and_reasons_as_local(tmp_path, cluster, capfd):
    """Also of jobs that fail, are killed, are tried again and wait for others; and Ray says nothing itself."""
    found = {}
    for launcher in ("local", "ray"):
        root = tmp_path / launcher
        again = f"import os; p = {str(root / 'seen')!r}; os.path.exists(p) or os.mkdir(p) or 1 / 0"
        works = [
            *(work(root, f"seed-{i}", TRAINED, str(i)) for i in range(3)),
            work(root, "needs", "", after=("fails",)),
            work(root, "fails", "raise ValueError('no')"),
            work(root, "killed", "import os; print('x', flush=True); os.kill(os.getpid(), 9)"),
            work(root, "again", again),
        ]
        statuses = launch(works, launcher=launcher, workers=2, progress=False)
        logs = ["\n".join(read_log(one.folder)) for one in works[:3]]
        found[launcher] = ([(n, s.state, s.attempts, s.error) for n, s in statuses.items()], logs)
        assert statuses == {one.name: read_status(one.folder) for one in works}
        assert not [path for path in root.iterdir() if path.name.startswith(".")]
    assert found["local"] == found["ray"]
    states = {name: state for name, state, *_ in found["ray"][0]}
    assert [name for name in states if states[name] == "failed"] == ["needs", "fails", "killed"]
    assert f" 1 {os.environ['SEQGAN_RL_CACHE']} {Path.cwd()}" in found["ray"][1][0]
    assert len(set(found["ray"][1])) == 3
    assert ray.is_initialized()  # it was not ours to stop
    assert capfd.readouterr() == ("", "")


def read_log(folder: Path) -> list[str]:
    return [line for line in (folder / "log.txt").read_text().splitlines() if not line.startswith("===")]


def test_a_node_that_does_not_see_the_folder_is_named(tmp_path, cluster, monkeypatch):
    """/proc/self/fd/N is a folder of this process; for one on a node it is something else, or nothing."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.dup2(descriptor, 200)
    try:
        folder = Path("/proc/self/fd/200/job")
        one = Work(name="one", folder=folder, command=("-c", ""))
        with pytest.raises(
            InputError, match=r"Ray node \S+ \([\d.]+\): it does not see the folder /proc/self/fd/200/job"
        ):
            launch([one], launcher="ray", progress=False)
        with monkeypatch.context() as patch:  # a node that comes later
            patch.setattr(module.Ray, "_check_nodes", lambda self: None)
            status = launch([one], launcher="ray", progress=False, attempts=2)["one"]
        assert (status.state, status.attempts) == ("failed", 2)
        assert "it does not see the folder /proc/self/fd/200/job; choose one on a file system" in status.error
    finally:
        os.close(descriptor)
        os.close(200)
    assert not list((tmp_path / "job").glob(".*"))


def test_a_worker_that_dies_is_a_failed_attempt_and_its_job_is_stopped(tmp_path, cluster):
    program = (
        "import os, sys, time; p = sys.argv[1]; os.path.exists(p) and sys.exit(); "
        "open(p, 'w').write(f'{os.getpid()} {os.getppid()}'); os.rename(p, p + '-ready'); open(p, 'w'); time.sleep(60)"
    )
    one = work(tmp_path, "one", program, str(tmp_path / "pids"))
    launcher = launchers["ray"](works=[one], workers=1, address=None)
    try:
        launcher.start(one, "=== attempt 1")
        wait_for((tmp_path / "pids-ready").exists)
        job, worker = map(int, (tmp_path / "pids-ready").read_text().split())
        os.kill(worker, signal.SIGKILL)
        ended: list[tuple[str, str]] = []
        while not ended:
            ended = launcher.ended(1.0)
        assert ended[0][0] == "one"
        assert ended[0][1].startswith("Ray: ")
        wait_for(lambda: not lives(job), 10)
    finally:
        launcher.stop()


SCRIPT = """
import sys
from pathlib import Path
from seqgan_rl.comparison.launchers import Work, launch
root = Path(sys.argv[1])
program = (
    "import os, sys, time\\n"
    "open(f'{sys.argv[1]}/pid-{os.getpid()}', 'w').close()\\n"
    "time.sleep(100)"
)
works = [Work(name=f"job-{i}", folder=root / f"job-{i}", command=("-c", program, str(root))) for i in range(3)]
try:
    launch(works, launcher="ray", workers=1)
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_or_killed_launcher_leaves_no_orphans(tmp_path, number):
    """With a cluster that it has started itself; the next command goes on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: list(tmp_path.glob("pid-*")))
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    (pid,) = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    wait_for(lambda: not lives(pid))
    state = read_status(tmp_path / "job-0").state
    if number == signal.SIGINT:
        assert said.splitlines()[-2:] == ["3 jobs: 3 waiting", "interrupted"]
        assert "KeyboardInterrupt" in (tmp_path / "job-0" / "log.txt").read_text()
        assert state == "waiting"
    else:
        assert process.returncode == -number
        assert state == "running"
