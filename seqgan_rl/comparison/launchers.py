"""Run many jobs, on this machine or on a Ray cluster, and lose none silently.

A job is a command in a process of its own. Whatever ends it, an exit status, a signal, a machine that went away, is
seen, tried again, and in the end written beside its log as "done" or "failed" with a reason; what is done is not run
again. The same command with the same threads runs on either launcher, so that the numbers are the same.

FOLDER/log.txt      what the job printed, all attempts; locked while it runs (see guard.py)
FOLDER/status.json  a :class:`Status`
"""

import contextlib
import json
import os
import platform
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, get_args

from seqgan_rl.comparison.records import State
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import make_folder, write_text
from seqgan_rl.core.reading import check_file, one_line, read_file
from seqgan_rl.core.registry import Registry
from seqgan_rl.sequences.extras import needed

if TYPE_CHECKING:
    from seqgan_rl.comparison.progress import Display

GRACE_SECONDS = 5.0
"""What a job has to end after SIGINT, and then again after SIGTERM."""
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
"""Every job has one thread, so that no number hangs on how many run beside it."""
_TICK_SECONDS = 0.25
_POLL_SECONDS = 0.02
_TAIL_BYTES = 2**16
_MAX_STATUS_BYTES = 2**16
_NODE_SECONDS = 120.0
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_TRACEBACK = "Traceback (most recent call last):"
_ATTEMPT = "=== attempt "


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job to run."""

    name: str
    """Unique, such as "adversarial/ppo/seed-3"."""
    folder: Path
    """Absolute, and of this work alone; made where absent."""
    command: tuple[str, ...]
    """Arguments after the Python executable, such as ("-m", "some.module", "argument"). The same command again goes on
    from what an attempt that was stopped has left."""
    after: tuple[str, ...] = ()
    """Names of works that must be done before. One that is not among those launched counts as done."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a work is."""

    state: State = "waiting"
    """ "running" of a command that was killed stays until the next command."""
    attempts: int = 0
    """Begun by the last command that ran it."""
    error: str = ""
    """Why it failed, or why it is tried again; one line."""
    seconds: float = 0.0
    """Wall time of all its attempts, of earlier commands too, whose end was seen."""


class Launcher(Protocol):
    """Where attempts run. Made from the works, ``workers`` and ``address`` of :func:`launch`."""

    @property
    def workers(self) -> int:
        """Attempts that may run at once; it may change."""

    def start(self, work: Work, title: str) -> None:
        """Begin an attempt; the title is the line that opens its part of the log."""

    def ended(self, seconds: float) -> list[tuple[str, str]]:
        """Names of works whose attempts have ended, and why they failed, "" if they did not; waits at most so long."""

    def stop(self) -> None:
        """Stop what still runs, and wait until it has."""


launchers: Registry[Callable[..., Launcher]] = Registry("launcher")


def launch(
    works: Iterable[Work],
    *,
    launcher: str = "local",
    workers: int | None = None,
    attempts: int = 2,
    address: str | None = None,
    progress: bool = True,
    on_change: Callable[[Work, Status], None] | None = None,
) -> dict[str, Status]:
    """Run all works that are not done yet, each after those it needs, in the order given.

    Args:
        works: with unique names and folders.
        launcher: "local" (processes here) or "ray" (an existing cluster, or one started here for the time).
        workers: jobs that run at once; None: all cores this process may use, or all CPUs of the Ray cluster.
        attempts: tries in all for a work whose process fails or is killed.
        address: of the Ray cluster, such as "auto"; None: $RAY_ADDRESS, one that runs here, or a new one.
        progress: show all jobs on standard error: live on a terminal, else a line for each change.
        on_change: called with a work and its new status, after that is written.

    Returns:
        The status of every work by name: done or failed.

    Raises:
        InputError: an argument that cannot be used, no Ray, a Ray node that does not see the folders.
        KeyboardInterrupt: Ctrl-C; the jobs have been stopped and wait for the next command.
    """
    works = list(works)
    _check(works)
    check_arguments(launcher, workers, attempts)
    factory = launchers[launcher]
    run = _Run(works, attempts, on_change)
    if run.left():
        from seqgan_rl.comparison.progress import Display  # it imports this module

        with Display(works, run.statuses, enabled=progress) as display:
            run.go(factory(works=run.left(), workers=workers, address=address), display)
    return run.statuses


def check_arguments(launcher: str, workers: int | None, attempts: int) -> None:
    """InputError for what :func:`launch` cannot use."""
    _ = launchers[launcher]
    for name, number in (("workers", workers), ("attempts", attempts)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Inside, no other command may run the jobs of this folder: InputError. The lock goes with the process."""
    from seqgan_rl.adversarial.run_folder import locked as file_locked  # slow to import, not needed on Ray's nodes

    return file_locked(folder / ".lock", f"the jobs in {folder} are being run by another command")


def read_status(folder: Path) -> Status:
    """The status in a work's folder; that of a waiting one where there is none, or none that can be read."""
    try:
        found = json.loads(read_file(folder / "status.json", _MAX_STATUS_BYTES))
        kinds: dict[str, Any] = {"state": str, "attempts": int, "error": str, "seconds": (int, float)}
        is_sound = found.keys() == kinds.keys() and all(isinstance(found[name], kinds[name]) for name in kinds)
        return Status(**found) if is_sound and found["state"] in get_args(State) else Status()
    except (OSError, ValueError, RecursionError, AttributeError):
        return Status()


def read_tail(path: Path) -> str:
    """The end of a text file that may be growing and of any size; "" where it cannot be read."""
    try:
        check_file(path)
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def cleaned(text: str, length: int = 300) -> str:
    """One line of bounded length without control characters, such as colours.

    >>> cleaned("\\x1b[31mred\\x1b[0m \\ttext")
    'red text'
    """
    words = " ".join(_ANSI.sub("", text).split())
    return "".join(c for c in words if unicodedata.category(c)[0] != "C")[:length]


# --- the order of works, and their states -----------------------------------------------------------------------


class _Run:
    """The works of one command."""

    def __init__(self, works: list[Work], attempts: int, on_change: Callable[[Work, Status], None] | None) -> None:
        self.works, self.attempts, self.on_change = works, attempts, on_change
        self.statuses: dict[str, Status] = {}
        self._by_name = {work.name: work for work in works}
        self._began: dict[str, float] = {}
        for work in works:
            before = read_status(work.folder)
            self.statuses[work.name] = before if before.state == "done" else Status(seconds=before.seconds)

    def left(self) -> list[Work]:
        """Works that are still to be run."""
        return [work for work in self.works if self.statuses[work.name].state in ("waiting", "running")]

    def go(self, launcher: Launcher, display: "Display") -> None:
        """Run them all."""
        try:
            while left := self.left():
                workers = launcher.workers
                for work in left:
                    self._next(work, launcher, workers, display)
                if self._began:
                    for name, error in launcher.ended(_TICK_SECONDS):
                        self._ended(self._by_name[name], error, display)
                display.tick()
        except KeyboardInterrupt:
            display.say("stopping the jobs, which go on with the next command; Ctrl-C again kills them")
            raise
        finally:
            try:
                launcher.stop()
            finally:
                for name in list(self._began):  # it was stopped, or never seen to end
                    status = replace(self.statuses[name], state="waiting", seconds=self._seconds(name))
                    self._set(self._by_name[name], status)

    def _next(self, work: Work, launcher: Launcher, workers: int, display: "Display") -> None:
        """Start a waiting work if its turn has come, or fail it if that never will."""
        status = self.statuses[work.name]
        before = {name: self.statuses[name] for name in work.after if name in self.statuses}
        failed = next((name for name in before if before[name].state == "failed"), None)
        if status.state != "waiting":
            return
        if failed is not None:
            reason = cleaned(f"not run, since {failed} failed: {before[failed].error}")
            self._change(work, replace(status, state="failed", error=reason), display)
        elif len(self._began) < workers and all(one.state == "done" for one in before.values()):
            number = status.attempts + 1
            self._began[work.name] = time.monotonic()
            self._change(work, replace(status, state="running", attempts=number), display)
            try:
                launcher.start(work, f"{_ATTEMPT}{number} of {self.attempts}")
            except OSError as error:  # no more processes
                self._ended(work, cleaned(f"cannot be started: {one_line(error)}"), display)

    def _ended(self, work: Work, error: str, display: "Display") -> None:
        status = replace(self.statuses[work.name], seconds=self._seconds(work.name), error=error)
        state: State = "done" if not error else "waiting" if status.attempts < self.attempts else "failed"
        self._change(work, replace(status, state=state), display)

    def _seconds(self, name: str) -> float:
        """Those of a work whose attempt ends now."""
        return round(self.statuses[name].seconds + time.monotonic() - self._began.pop(name), 3)

    def _change(self, work: Work, status: Status, display: "Display") -> None:
        self._set(work, status)
        display.changed(work, status)
        if self.on_change is not None:
            self.on_change(work, status)

    def _set(self, work: Work, status: Status) -> None:
        make_folder(work.folder)
        write_text(work.folder / "status.json", json.dumps(asdict(status), indent=1) + "\n")
        self.statuses[work.name] = status


def _check(works: Sequence[Work]) -> None:
    """ValueError for works that cannot be told apart or whose turn would never come."""
    for what, values in (("name", [work.name for work in works]), ("folder", [str(work.folder) for work in works])):
        twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if twice is not None:
            raise ValueError(f"every work must have a {what} of its own, got {twice!r} twice")
    for work in works:
        if not work.folder.is_absolute():
            raise ValueError(f"the folder of work {work.name!r} must be absolute, got {str(work.folder)!r}")
    try:
        TopologicalSorter({work.name: work.after for work in works}).prepare()
    except CycleError as error:
        raise ValueError(f"works wait for each other: {' after '.join(error.args[1])}") from None


# --- one attempt: the same on every launcher --------------------------------------------------------------------


def _begin(
    work: Work, title: str, variables: Mapping[str, str] | None = None, current: str | None = None
) -> subprocess.Popen[bytes]:
    """Start an attempt on this machine, with some environment variables and in a current folder if given."""
    make_folder(work.folder)
    guard = ["-I", "-S", str(Path(__file__).with_name("guard.py")), str(GRACE_SECONDS)] if os.name != "nt" else []
    with (work.folder / "log.txt").open("ab") as log:
        log.write(f"{title}, {time.strftime('%Y-%m-%d %H:%M:%S')}, {platform.node()}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, *guard, *work.command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(variables or {}), **THREADS},
            cwd=current,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End attempts that still run: their watchers do when the pipe closes. A second Ctrl-C kills them at once."""
    for process in processes:
        _pipe(process).close()
        if os.name == "nt":
            process.terminate()
    end = time.monotonic() + 2 * GRACE_SECONDS + 1
    try:
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _failure(folder: Path, status: int) -> str:
    """Why an attempt that ended with this exit status failed; "" if it did not."""
    if status == 0:
        return ""
    line = _last_line(read_tail(folder / "log.txt"))
    if status > 0:
        return line or f"exit status {status}, and nothing was printed"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    memory = " (perhaps for want of memory)" if name == "SIGKILL" else ""
    return f"killed by {name}{memory}" + (f"; it last printed: {line}" if line else "")


def _last_line(log: str) -> str:
    """What the last attempt in a log said last: its exception, where there is one, else its last line."""
    lines = re.split(r"[\r\n]+", log[max(0, log.rfind(_ATTEMPT)) :])
    starts = [i for i, line in enumerate(lines) if line == _TRACEBACK]
    errors = [line for line in lines[starts[-1] + 1 :] if line[:1].strip()] if starts else []
    printed = [text for line in lines if (text := cleaned(line)) and not line.startswith(_ATTEMPT)]
    return cleaned(errors[0]) if errors else printed[-1] if printed else ""


# --- launchers --------------------------------------------------------------------------------------------------


@launchers.register("local")
class Local:
    """Processes on this machine."""

    def __init__(self, works: Sequence[Work], workers: int | None, address: str | None) -> None:
        if address is not None:
            raise InputError(f"address is for the launcher 'ray', got {address!r} for 'local'; leave it out")
        affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
        self.workers = workers or (len(affinity(0)) if affinity else os.cpu_count() or 1)
        self._running: dict[str, tuple[Work, subprocess.Popen[bytes]]] = {}

    def start(self, work: Work, title: str) -> None:
        """See :class:`Launcher`."""
        self._running[work.name] = (work, _begin(work, title))

    def ended(self, seconds: float) -> list[tuple[str, str]]:
        """See :class:`Launcher`."""
        end = time.monotonic() + seconds
        while True:
            found = [(work, process) for work, process in self._running.values() if process.poll() is not None]
            if found or time.monotonic() >= end:
                break
            time.sleep(_POLL_SECONDS)
        for work, process in found:
            del self._running[work.name]
            _pipe(process).close()
        return [(work.name, _failure(work.folder, process.returncode)) for work, process in found]

    def stop(self) -> None:
        """See :class:`Launcher`."""
        _stop([process for _, process in self._running.values()])


@launchers.register("ray")
class Ray:
    """Tasks of one CPU on a Ray cluster, each the parent of its job's process; the folders must be seen by all nodes.

    Ray itself retries nothing. Where a job waits for a CPU that others use, it counts as running. A cluster that this
    process is connected to already is used, whatever the address.
    """

    def __init__(self, works: Sequence[Work], workers: int | None, address: str | None) -> None:
        self._ray = needed("ray", "ray", "the launcher 'ray'")
        self._workers, self._running = workers, dict[str, Any]()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address)
        folder = Path(os.path.commonpath([work.folder for work in works]))
        self._token = folder / ".seen-by-ray"
        self._check = (str(self._token), secrets.token_hex(16), os.getcwd())
        try:
            make_folder(folder)
            write_text(self._token, self._check[1])
            self._check_nodes()
        except BaseException:
            self.stop()
            raise
        self._variables = {name: value for name, value in os.environ.items() if name.startswith("SEQGAN_RL_")}
        self._attempt = self._ray.remote(num_cpus=1, max_retries=0)(_run_on_node)

    @property
    def workers(self) -> int:
        """As asked for, or the CPUs the cluster has now."""
        return self._workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, work: Work, title: str) -> None:
        """See :class:`Launcher`."""
        self._running[work.name] = self._attempt.options(name=work.name).remote(
            work, title, self._variables, self._check
        )

    def ended(self, seconds: float) -> list[tuple[str, str]]:
        """See :class:`Launcher`."""
        found, _ = self._ray.wait(list(self._running.values()), num_returns=1, timeout=seconds)
        names = [name for name, reference in self._running.items() if reference in found]
        return [(name, self._failure(self._running.pop(name))) for name in names]

    def _failure(self, reference: Any) -> str:
        try:
            failure: str = self._ray.get(reference)
            return failure
        except self._ray.exceptions.RayError as error:
            return cleaned(f"Ray: {_cause(error)}")

    def stop(self) -> None:
        """See :class:`Launcher`."""
        left = list(self._running.values())
        try:
            self._token.unlink(missing_ok=True)  # tasks see that
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=2 * GRACE_SECONDS + 5)
        finally:
            if self._ours:
                self._ray.shutdown()
            else:
                for reference in left:  # those that still wait for a CPU
                    self._ray.cancel(reference)

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user says so
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning
        try:
            _, _, place = (address or os.environ.get("RAY_ADDRESS", "")).rpartition("://")
            host, _, port = place.rpartition(":")
            if port.isdecimal():  # Ray itself tries for many minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            self._ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except Exception as error:  # a bare one where its processes do not come up in time, as on a busy machine
            asked = address or os.environ.get("RAY_ADDRESS")
            what = f"reached at address {asked}" if asked else "started here"
            advice = "leave the address out" if asked else "try again"
            raise InputError(
                f"no Ray cluster could be {what} ({one_line(error)}); start one with `ray start --head`, set "
                f"RAY_AUTH_MODE=token if it asks for a token, or {advice}"
            ) from None

    def _check_nodes(self) -> None:
        """InputError that names a node on which the jobs cannot run."""
        at = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        task = self._ray.remote(num_cpus=0, max_retries=0)(_misses)
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        asked = [
            task.options(scheduling_strategy=at(node["NodeID"], soft=False)).remote(*self._check) for node in nodes
        ]
        for node, answer in zip(nodes, asked, strict=True):
            try:
                missing = self._ray.get(answer, timeout=_NODE_SECONDS)
            except self._ray.exceptions.RayError as error:
                missing = f"it cannot run jobs ({_cause(error)}); install the same seqgan_rl there"
            if missing:
                raise InputError(f"Ray node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {missing}")


def _cause(error: BaseException) -> str:
    """What was raised within a task, or else what Ray says."""
    return one_line(getattr(error, "cause", None) or error)


def _run_on_node(work: Work, title: str, variables: Mapping[str, str], check: tuple[str, str, str]) -> str:
    """An attempt within a Ray task: why it failed, or ""."""
    if missing := _misses(*check):  # a node that has joined since
        return f"Ray node {platform.node()}: {missing}"
    process = _begin(work, title, variables, current=check[2])
    try:
        while (status := _wait(process, 1.0)) is None and _is_wanted(check[0], check[1]):
            pass
    finally:
        _stop([process])
    return "stopped" if status is None else _failure(work.folder, status)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _is_wanted(token: str, content: str) -> bool:
    """Whether the launcher has not taken its token away; a shared file system may fail for a moment."""
    for _ in range(5):
        if read_tail(Path(token)) == content:
            return True
        time.sleep(0.2)
    return False


def _misses(token: str, content: str, current: str) -> str:
    """What this machine does not see of the one that launches; "" if it sees all."""
    if read_tail(Path(token)) != content:
        return f"it does not see the folder {Path(token).parent}; choose one on a file system that all nodes share"
    if not Path(current).is_dir():
        return f"it does not see the current folder {current}; start from one that all nodes share"
    return ""
