"""Become a job that cannot outlive whoever started it, nor be run twice at once.

``python -I -S guard.py GRACE ARGUMENTS...`` turns into ``python ARGUMENTS...`` (exec: its pid and exit status are the
job's), as the leader of a session, with the job's log as standard output and a pipe as standard input. Only the
launcher holds the pipe's other end and never writes. A watcher beside the job sees it close, when the launcher stops or
however it dies, and then ends the job: SIGINT, after GRACE seconds SIGTERM, after as many again SIGKILL.
The job holds a lock on its log for as long as it or a child of it lives; another one waits for it here.

Standard library only, and no more of it than this: it runs before every job. Not for Windows.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import time

_PAUSE_SECONDS = 0.2


def main() -> None:
    """Start the watcher, wait for the lock, become the job."""
    grace, arguments = float(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # children of `command &` would not hear it,
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # nor those of a Ray worker
    job = os.getpid()
    if os.fork() == 0:
        try:
            _watch(job, grace)
        finally:
            os._exit(0)
    _take_log()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(sys.executable, [sys.executable, *arguments])


def _take_log() -> None:
    """Lock standard output; nothing is locked on a file system without locks."""
    try:
        fcntl.flock(1, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(1, b"waiting for another process that is still running this job\n")
        fcntl.flock(1, fcntl.LOCK_EX)
    except OSError:
        pass


def _watch(job: int, grace: float) -> None:
    """End the job when standard input does, and in any case what it leaves running when it has ended."""
    os.setsid()
    for descriptor in (1, 2):  # not holding the log's lock
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    try:
        while _lives(job):
            if select.select([0], [], [], _PAUSE_SECONDS)[0] and not os.read(0, 1):
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.killpg(job, number)
                    end = time.monotonic() + grace
                    while _lives(job) and time.monotonic() < end:
                        time.sleep(_PAUSE_SECONDS / 10)
                return
    finally:
        with contextlib.suppress(OSError):
            os.killpg(job, signal.SIGKILL)


def _lives(job: int) -> bool:
    """A watcher's parent is the job until that dies."""
    return os.getppid() == job


if __name__ == "__main__":
    main()
