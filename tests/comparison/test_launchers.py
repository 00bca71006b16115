"""Many jobs at once: their order, what ends them, and that none is lost or left behind. Jobs are `python -c` lines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqgan_rl.comparison import launchers as module
from seqgan_rl.comparison.launchers import Status, Work, cleaned, launch, launchers, locked, read_status, read_tail
from seqgan_rl.core.errors import InputError

pytestmark = pytest.mark.long

QUICK = ("-I", "-S", "-c")
ANY_SECONDS = 20.0
IGNORING = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
STUBBORN_CHILD = (
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
    "preexec_fn=lambda: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)])"
)
posix = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 1.0)


def work(root: Path, name: str, program: str, *, after: tuple[str, ...] = ()) -> Work:
    return Work(name=name, folder=root / name, command=(*QUICK, program), after=after)


def go(works, **options):
    return launch(works, **{"workers": 2, "progress": False, **options})


def states(statuses: dict[str, Status]) -> dict[str, str]:
    return {name: status.state for name, status in statuses.items()}


def log(work: Work) -> str:
    return (work.folder / "log.txt").read_text()


def wait_for(condition: Callable[[], object], seconds: float = ANY_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- order ------------------------------------------------------------------------------------------------------


def test_works_run_in_their_order_and_after_what_they_need(tmp_path):
    say = f"import os; open({str(tmp_path / 'order')!r}, 'a').write('%s ')"
    after = {"a": ("d",), "b": (), "c": ("a", "b"), "d": ("absent",)}
    works = [work(tmp_path, name, say % name, after=after[name]) for name in after]
    changes: list[tuple[str, str]] = []
    found = go(works, workers=1, on_change=lambda work, status: changes.append((work.name, status.state)))
    assert (tmp_path / "order").read_text().split() == ["b", "d", "a", "c"]
    assert set(states(found).values()) == {"done"}
    assert changes == [(name, state) for name in "bdac" for state in ("running", "done")]
    assert list(found) == list("abcd")


def test_what_needs_a_failed_work_fails_with_the_reason_and_is_not_run(tmp_path):
    works = [
        work(tmp_path, "last", "", after=("middle",)),
        work(tmp_path, "middle", "", after=("first",)),
        work(tmp_path, "other", ""),
        work(tmp_path, "first", "raise SystemExit('no data')"),
    ]
    found = go(works)
    assert states(found) == {"last": "failed", "middle": "failed", "other": "done", "first": "failed"}
    assert found["first"].error == "no data"
    assert found["middle"].error == "not run, since first failed: no data"
    assert found["last"].error == "not run, since middle failed: not run, since first failed: no data"
    assert (found["middle"].attempts, (works[1].folder / "log.txt").exists()) == (0, False)
    assert read_status(works[0].folder) == found["last"]


def test_200_works_never_more_than_2_at_once(tmp_path):
    """Each leaves a file while it runs and counts those of the others."""
    (tmp_path / "running").mkdir()
    program = (
        f"import os, time; os.chdir({str(tmp_path / 'running')!r}); n = str(os.getpid()); open(n, 'w').close(); "
        "k = len(os.listdir()); time.sleep(0.03); os.remove(n); raise SystemExit(k > 2)"
    )
    works = [work(tmp_path, f"job-{i}", program) for i in range(200)]
    found = go(works)
    assert set(found.values()) == {Status(state="done", attempts=1, seconds=s.seconds) for s in found.values()}
    assert len(found) == 200


# --- what ends a job --------------------------------------------------------------------------------------------


def test_a_failed_job_is_tried_again_and_goes_on_from_what_it_left(tmp_path):
    one = work(tmp_path, "one", f"import os; p = {str(tmp_path / 'seen')!r}; os.path.exists(p) or os.mkdir(p) or 1 / 0")
    changes: list[tuple[str, str]] = []
    found = go([one], on_change=lambda work, status: changes.append((status.state, status.error)))
    assert (found["one"].state, found["one"].attempts, found["one"].error) == ("done", 2, "")
    reason = "ZeroDivisionError: division by zero"
    assert changes == [("running", ""), ("waiting", reason), ("running", reason), ("done", "")]
    assert log(one).count("=== attempt ") == 2
    assert log(one).startswith("=== attempt 1 of 2, ")


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_signal_is_a_failure_that_is_named(tmp_path, name):
    program = f"import os; print('epoch 3', flush=True); os.kill(os.getpid(), {int(signal.Signals[name])})"
    found = go([work(tmp_path, "one", program)], attempts=3)["one"]
    memory = " (perhaps for want of memory)" if name == "SIGKILL" else ""
    assert (found.state, found.attempts) == ("failed", 3)
    assert found.error == f"killed by {name}{memory}; it last printed: epoch 3"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("try:\n 1 / 0\nexcept ZeroDivisionError:\n {}['x']", "KeyError: 'x'"),
        ("print('\\x1b[31mred \\x1b[0m\\x07\\u202etext\\n\\n'); raise SystemExit(3)", "red text"),
        ("print('10%\\r20%\\r', end=''); raise SystemExit(3)", "20%"),
        ("raise SystemExit(3)", "exit status 3, and nothing was printed"),
        ("import os; os.write(1, b'\\xff\\xfe' * 9); os._exit(1)", "�" * 18),
        ("print('x' * 10**6); raise SystemExit(1)", "x" * 300),
    ],
)
def test_a_failed_job_says_why(tmp_path, program, error):
    one = work(tmp_path, "one", program)
    assert go([one], attempts=1)["one"].error == error
    assert read_status(one.folder).error == error


def test_the_reason_is_that_of_the_last_attempt(tmp_path):
    program = f"import os; p = {str(tmp_path / 'seen')!r}; os.path.exists(p) and os._exit(4); os.mkdir(p); 1 / 0"
    assert go([work(tmp_path, "one", program)])["one"].error == "exit status 4, and nothing was printed"


def test_only_the_end_of_a_log_is_read(tmp_path):
    path = tmp_path / "log.txt"
    with path.open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\n")
    tail = read_tail(path)
    assert tail.endswith("\nthe end\n")
    assert len(tail) == 2**16
    os.mkfifo(tmp_path / "pipe")
    assert read_tail(tmp_path / "pipe") == read_tail(tmp_path / "absent") == read_tail(tmp_path) == ""


def test_a_process_that_cannot_be_started_is_a_failed_job(tmp_path):
    found = go([work(tmp_path, "one", "#" * 10**6), work(tmp_path, "two", "")])
    assert states(found) == {"one": "failed", "two": "done"}
    assert found["one"].error.startswith("cannot be started: ")
    assert found["one"].attempts == 2


@posix
def test_what_a_crashed_job_leaves_running_is_ended_before_the_next_attempt(tmp_path):
    """Its children hold the log's lock."""
    program = (
        f"import os, signal, subprocess, sys; {STUBBORN_CHILD}; "
        f"open({str(tmp_path)!r} + f'/pid-{{child.pid}}', 'w'); os._exit(1)"
    )
    began = time.monotonic()
    go([work(tmp_path, "one", program)])
    pids = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    wait_for(lambda: not any(map(lives, pids)))
    assert time.monotonic() - began < 30


def test_jobs_have_one_thread_no_input_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("SOME_VARIABLE", "x")
    program = (
        "import os, sys; e = os.environ; print(e['OMP_NUM_THREADS'], e['MKL_NUM_THREADS'], e['SOME_VARIABLE'], "
        "repr(sys.stdin.read()), sys.argv, os.getcwd())"
    )
    one = work(tmp_path, "one", program)
    assert states(go([one])) == {"one": "done"}
    assert log(one).splitlines()[1] == f"1 1 x '' ['-c'] {Path.cwd()}"


# --- going on ---------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_run_again(tmp_path):
    count = f"import os; open({str(tmp_path / 'ran')!r}, 'a').write('%s '); "
    works = [work(tmp_path, name, count % name + f"raise SystemExit({name == 'b'})") for name in "abc"]
    assert states(go(works, attempts=1)) == {"a": "done", "b": "failed", "c": "done"}
    (tmp_path / "ran").unlink()
    works[1] = work(tmp_path, "b", count % "b")
    works.append(work(tmp_path, "d", count % "d", after=("a", "b")))
    found = go(works)
    assert set(states(found).values()) == {"done"}
    assert (tmp_path / "ran").read_text().split() == ["b", "d"]
    assert found["b"].attempts == 1
    assert go(works) == found
    assert (tmp_path / "ran").read_text().split() == ["b", "d"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 10**5, '{"state": "done"}',
        '{"state": "odd", "attempts": 1, "error": "", "seconds": 1}',
        '{"state": "done", "attempts": "1", "error": "", "seconds": 1}',
    ],
)  # fmt: skip
def test_a_damaged_status_is_that_of_a_waiting_job(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path) == Status()


def test_a_status_is_kept_as_json(tmp_path):
    one = work(tmp_path, "one", "")
    found = go([one])["one"]
    value = json.loads((one.folder / "status.json").read_text())
    assert value == {"state": "done", "attempts": 1, "error": "", "seconds": found.seconds}
    assert read_status(one.folder) == found
    assert found.seconds > 0


SCRIPT = """
import sys
from pathlib import Path
from seqgan_rl.comparison import launchers
from seqgan_rl.comparison.launchers import Work, launch

launchers.GRACE_SECONDS = 1.0
root, program = Path(sys.argv[1]), sys.argv[2]
works = [Work(name=f"job-{i}", folder=root / f"job-{i}", command=("-c", program, str(root), str(i))) for i in range(4)]
try:
    launch(works, workers=2)
except KeyboardInterrupt:
    sys.exit("interrupted")
"""
WITH_CHILD = (
    "import os, signal, subprocess, sys, time\n"
    "%s\n"
    f"{STUBBORN_CHILD}\n"
    "for pid in (os.getpid(), child.pid): open(f'{sys.argv[1]}/pid-{pid}', 'w').close()\n"
    "time.sleep(60)"
)


def command(root: Path, program: str, hears_ctrl_c: bool = True) -> subprocess.Popen[str]:
    """A launcher in a process of its own, as a shell starts `command` (not as in `make test &`) or `command &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler if hears_ctrl_c else signal.SIG_IGN)
    try:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root), program], stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def pids_of(root: Path) -> list[int]:
    return [int(path.name[4:]) for path in root.glob("pid-*")]


@posix
@pytest.mark.parametrize("first", ["pass", IGNORING])
def test_ctrl_c_leaves_no_orphans_and_the_next_command_goes_on(tmp_path, first):
    process = command(tmp_path, WITH_CHILD % first)
    wait_for(lambda: len(pids_of(tmp_path)) == 4)
    assert read_status(tmp_path / "job-0").state == "running"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=ANY_SECONDS)
    assert process.returncode == 1
    assert said.endswith("4 jobs: 4 waiting\ninterrupted\n")
    wait_for(lambda: not any(map(lives, pids_of(tmp_path))), 5)
    assert [read_status(tmp_path / f"job-{i}").state for i in range(4)] == ["waiting"] * 4
    assert ("KeyboardInterrupt" in (tmp_path / "job-0" / "log.txt").read_text()) == (first == "pass")
    works = [work(tmp_path, f"job-{i}", "") for i in range(4)]
    assert set(states(go(works)).values()) == {"done"}


@posix
@pytest.mark.parametrize("first", ["pass", IGNORING])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_launcher_leaves_no_orphans(tmp_path, first, number):
    process = command(tmp_path, WITH_CHILD % first, hears_ctrl_c=False)
    wait_for(lambda: len(pids_of(tmp_path)) == 4)
    process.send_signal(number)
    process.communicate(timeout=ANY_SECONDS)
    wait_for(lambda: not any(map(lives, pids_of(tmp_path))))
    assert len(pids_of(tmp_path)) == 4  # and no other was begun
    assert ("KeyboardInterrupt" in (tmp_path / "job-0" / "log.txt").read_text()) == (first == "pass")


@posix
def test_a_second_ctrl_c_kills_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 100.0)
    one = work(tmp_path, "one", f"{IGNORING}; import os, time; os.mkdir({str(tmp_path / 'ready')!r}); time.sleep(60)")
    launcher = launchers["local"](works=[one], workers=1, address=None)
    launcher.start(one, "=== attempt 1")
    wait_for((tmp_path / "ready").exists)
    pid = launcher._running["one"][1].pid  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        launcher.stop()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not lives(pid)


@posix
def test_an_error_in_a_callback_stops_the_jobs(tmp_path):
    def fail(work: Work, status: Status) -> None:
        if work.name == "b":
            wait_for(lambda: list(tmp_path.glob("pid-*")))
            raise RuntimeError("no")

    program = f"import os, time; open({str(tmp_path)!r} + f'/pid-{{os.getpid()}}', 'w').close(); time.sleep(60)"
    with pytest.raises(RuntimeError, match="no"):
        go([work(tmp_path, "a", program), work(tmp_path, "b", "")], on_change=fail)
    assert not any(map(lives, pids_of(tmp_path)))
    assert [read_status(tmp_path / name).state for name in "ab"] == ["waiting", "waiting"]


@posix
def test_two_commands_never_run_a_job_at_once(tmp_path):
    """The second one's job waits until the first one's, which it does not know of, has ended."""
    program = "import os, sys, time; p = sys.argv[1] + '/busy-' + sys.argv[2]; os.mkdir(p); time.sleep(1); os.rmdir(p)"
    commands = [command(tmp_path, program) for _ in range(2)]
    for process in commands:
        process.communicate(timeout=2 * ANY_SECONDS)
    assert [process.returncode for process in commands] == [0, 0]
    logs = [(tmp_path / f"job-{i}" / "log.txt").read_text() for i in range(4)]
    assert not [text for text in logs if "Error" in text]
    assert [text for text in logs if "waiting for another process that is still running this job" in text]


def test_a_folder_is_locked_by_one_command(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match=f"are being run by another command .pid {os.getpid()}."):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


# --- what a caller gave -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"launcher": "lokal"}, "unknown launcher 'lokal' .did you mean 'local'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"attempts": 0}, "attempts must be at least 1, got 0"),
        ({"address": "auto"}, "address is for the launcher 'ray', got 'auto'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        go([work(tmp_path, "one", "")], **options)
    assert not (tmp_path / "one").exists()


def test_works_that_cannot_be_told_apart_or_never_begin_are_refused(tmp_path):
    a, b = work(tmp_path, "a", "", after=("b",)), work(tmp_path, "b", "", after=("a",))
    relative = Work(name="c", folder=Path("c"), command=("-c", ""))
    folder = Work(name="c", folder=a.folder, command=("-c", ""))
    for works, message in (
        ([a, a], "name of its own, got 'a' twice"),
        ([a, folder], "folder of its own"),
        ([relative], "must be absolute, got 'c'"),
        ([a, b], "wait for each other: [ab] after [ab] after [ab]"),
    ):
        with pytest.raises(ValueError, match=message):
            go(works)


def test_ray_missing_is_said_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"launcher 'ray' needs the library ray.*pip install 'seqgan_rl\[ray\]'"):
        go([work(tmp_path, "one", "")], launcher="ray")


def test_a_ray_that_does_not_come_up_is_one_line(tmp_path, monkeypatch):
    def init(**options: object) -> None:
        raise Exception("The current node timed out\nduring startup.")  # as Ray's own

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match=r"^no Ray cluster could be started here .The current node timed out during"):
        go([work(tmp_path, "one", "")], launcher="ray")
    with pytest.raises(InputError, match=r"^no Ray cluster could be reached at address local "):
        go([work(tmp_path, "one", "")], launcher="ray", address="local")


def test_no_works_are_done_at_once():
    assert go([]) == {}


def test_cleaned_text_is_one_printable_line():
    assert cleaned("\x1b[1;31ma\x00\n\x9bb\t\u2028c\u200b\ud800", 5) == "a b c"
