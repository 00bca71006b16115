"""Feed damaged files to every loader, and stop at the first that breaks a promise.

A loader returns or raises InputError: one line that names the file; in seconds, in bounded memory, without running
code and without changing a file. Run as ``python -m tests.fuzz.fuzzer [--inputs N] [--seed S] [--only TARGET]``, or
with ``--coverage``, where libFuzzer (atheris) keeps the inputs that reach new lines of ours. The damaged files of a
failure stay in the folder that is named.
"""

import argparse
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.mutations import MARKER, mutate

SECONDS = 10.0
"""For one input; a load takes milliseconds."""
GROWTH_MB = 300
"""What the largest file here may cost beyond what all files before cost."""
ADDRESS_SPACE = 12 * 2**30
"""More than that is refused by the system, which keeps the machine alive while a fault is found."""
NOT_FILES = ("missing", "empty", "folder", "pipe", "loop", "dangling", "zeros", "device", "sparse", "unreadable")


class BrokenPromiseError(BaseException):
    """What a loader must not do; no ``except Exception`` hides it."""


class Watch:
    """Sees what a load does that no load should: code, processes, files opened for writing."""

    forbidden = ("exec", "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
    changing = (
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.truncate",
        "os.chmod",
        "os.symlink",
        "os.link",
        "shutil.rmtree",
    )

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_on = False
        self.reads_only = True
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "exec" and (not self.reads_only or _is_import(sys._getframe())):
            return  # modules imported when first needed; a command makes dataclasses of its options
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in self.forbidden or (self.reads_only and (event in self.changing or writes)):
            self.seen.append(f"{event} {arguments!r:.200}")


def _is_import(frame: FrameType | None) -> bool:
    """Whether a module is being imported on this stack."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def place(path: Path, kind: str) -> None:
    """Put something that is no readable file in the place of one."""
    path.unlink()
    match kind:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "dangling":
            path.symlink_to("nowhere")
        case "zeros":
            path.symlink_to("/dev/zero")
        case "device":
            path.symlink_to("/dev/full")
        case "sparse":
            with path.open("wb") as file:
                file.truncate(2**36)
        case "unreadable":
            path.touch(mode=0o000)


class Fuzzer:
    """One loader, its valid files in a folder of their own, and the checks around each load."""

    def __init__(self, name: str, target: Any, folder: Path, watch: Watch) -> None:
        self.name, self.target, self.folder, self.watch = name, target, folder, watch
        self.counts = {"read": 0, "refused": 0}
        for file in target.files:
            self.restore(file)
        watch.is_on = False
        target.load(folder)  # valid, and everything that is imported late is now there
        for file in target.files:  # as is what only an error needs
            (folder / file).write_bytes(b"\xff[")
            self._outcome()
            self.restore(file)

    def restore(self, file: str) -> None:
        """The valid file again, whatever stands in its place."""
        path = self.folder / file
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.target.files[file])

    def damage(self, rng: random.Random) -> dict[str, bytes | str]:
        """Which files to replace: by bytes, or by something that is no file."""
        files = list(self.target.files)
        chosen = rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2))))
        return {
            file: rng.choice(NOT_FILES) if rng.random() < 0.03 else mutate(file, self.target.files[file], rng)
            for file in chosen
        }

    def check(self, damaged: dict[str, bytes | str]) -> None:
        """Load the damaged files. Raises BrokenPromiseError where a promise is broken; the files stay then."""
        for file, content in damaged.items():
            if isinstance(content, str):
                place(self.folder / file, content)
            else:
                (self.folder / file).write_bytes(content)
        self.watch.reads_only = not self.name.endswith("command")
        before = peak_mb()
        self.watch.seen.clear()
        self.watch.is_on = True
        try:
            with time_limit(SECONDS):
                refused = self._outcome()
        finally:
            self.watch.is_on = False
        self.counts["read" if refused is None else "refused"] += 1
        if refused is not None:
            self._check_message(refused)
        if peak_mb() > before + GROWTH_MB:
            raise BrokenPromiseError(f"memory rose from {before:.0f} to {peak_mb():.0f} MB")
        if self.watch.seen or Path(MARKER).exists():
            raise BrokenPromiseError(f"ran or wrote something: {self.watch.seen[:3]}")
        for file, content in damaged.items():
            if isinstance(content, bytes) and (self.folder / file).read_bytes() != content:
                raise BrokenPromiseError(f"{file} was changed")
        for file in damaged:
            self.restore(file)
        found = sum(path.is_file() for path in self.folder.rglob("*"))
        if found != len(self.target.files):
            raise BrokenPromiseError(f"{found} files are there, {len(self.target.files)} were")

    def _outcome(self) -> Exception | None:
        from seqgan_rl.core.errors import InputError

        try:
            self.target.load(self.folder)
        except (InputError, *self.target.refusals) as error:
            return error
        except Exception as error:
            raise BrokenPromiseError(f"{type(error).__name__}: {error!s:.300}") from error
        return None

    def _check_message(self, error: Exception) -> None:
        message = str(error)
        names = {part for file in self.target.files for part in Path(file).parts} | {self.folder.name}
        if len(message.splitlines()) != 1 or len(message) > 1000 or not any(name in message for name in names):
            raise BrokenPromiseError(f"the message is not one line that names the file: {message[:300]!r}")


def peak_mb() -> float:
    """The most memory that this process ever held. Not as getrusage says: there a child begins with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """BrokenPromiseError in the block when it takes longer."""

    def stop(*_: object) -> None:
        raise BrokenPromiseError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def say_failure(fuzzer: Fuzzer, error: BaseException, how: str) -> None:
    """What was promised, what happened, and how to see it again."""
    kept = Path(tempfile.mkdtemp(prefix="fuzz-failure-"))
    for path in sorted(fuzzer.folder.rglob("*")):
        if path.is_file() and path.stat().st_size < 2**24:
            (kept / path.relative_to(fuzzer.folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept / path.relative_to(fuzzer.folder))
    traceback.print_exception(error)
    print(f"BROKEN PROMISE of {fuzzer.name} ({how}; files in {kept}): {error}", flush=True)


# --- the two ways of choosing inputs ----------------------------------------------------------------------------


def damage_at_random(fuzzers: list[Fuzzer], num_inputs: int, seed: int, keep_going: bool) -> int:
    """Inputs shared among the loaders by weight; returns how many broke a promise."""
    total, broken, done = sum(fuzzer.target.weight for fuzzer in fuzzers), 0, 0
    for fuzzer in fuzzers:
        share = -(-num_inputs * fuzzer.target.weight // total)
        started = time.perf_counter()
        for i in range(share):
            damaged = fuzzer.damage(random.Random(f"{seed} {fuzzer.name} {i}"))
            try:
                fuzzer.check(damaged)
            except BrokenPromiseError as error:
                say_failure(fuzzer, error, f"--seed {seed} --only '{fuzzer.name}', input {i}")
                broken += 1
                if not keep_going:
                    return broken
                for file in fuzzer.target.files:
                    fuzzer.restore(file)
        done += share
        seconds = time.perf_counter() - started
        print(f"{fuzzer.name}: {share} inputs, {fuzzer.counts}, {seconds:.0f} s, peak {peak_mb():.0f} MB", flush=True)
    print(f"{done} inputs in all, {broken} broken promises", flush=True)
    return broken


def pack(contents: list[bytes]) -> bytes:
    """Some files as one input of libFuzzer."""
    return b"".join(len(content).to_bytes(4, "little") + content for content in contents)


def unpack(data: bytes, count: int) -> list[bytes]:
    """So many files; a length that is wrong takes what is left."""
    contents = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "little")
        contents.append(data[4 : 4 + size])
        data = data[4 + size :]
    return contents


def cover(fuzzer: Fuzzer, num_inputs: int, seed: int) -> None:
    """libFuzzer over one loader, with our damage as its mutator; ends the process."""
    import atheris  # type: ignore[import-untyped,unused-ignore]

    files = list(fuzzer.target.files)
    corpus = Path(tempfile.mkdtemp())
    (corpus / "valid").write_bytes(pack(list(fuzzer.target.files.values())))

    def check(data: bytes) -> None:
        damaged: dict[str, bytes | str] = dict(zip(files, unpack(data, len(files)), strict=True))
        try:
            fuzzer.check(damaged)
        except BrokenPromiseError as error:
            say_failure(fuzzer, error, f"--coverage --seed {seed}")
            sys.stdout.flush()
            os._exit(1)

    def change(data: bytes, max_size: int, mutator_seed: int) -> bytes:
        rng = random.Random(mutator_seed)
        if rng.random() < 0.1:
            return bytes(atheris.Mutate(data, max_size))
        contents = unpack(data, len(files))
        i = rng.randrange(len(files))
        contents[i] = mutate(files[i], contents[i], rng)
        return pack(contents)[:max_size]

    options = [f"-runs={num_inputs}", f"-seed={seed + 1}", "-rss_limit_mb=4096", "-timeout=60", "-max_len=262144"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], check, custom_mutator=change)
    atheris.Fuzz()


def make_fuzzers(only: str | None, import_targets: Callable[[], Any]) -> list[Fuzzer]:
    """The loaders chosen, each with a folder of its own."""
    found, watch = import_targets(), Watch()
    base = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.chdir(base)
    fuzzers = []
    for name, target in found.items():
        if only in (None, name):
            fuzzers.append(Fuzzer(name, target, base / name.replace(" ", "-"), watch))
    return fuzzers


def run() -> int:
    """The command line; exit status 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--keep-going", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")

    def import_targets() -> Any:
        from tests.fuzz.targets import targets

        return targets()

    if options.coverage:
        import atheris  # type: ignore[import-untyped,unused-ignore]

        with atheris.instrument_imports(include=["seqgan_rl"], enable_loader_override=False):
            fuzzers = make_fuzzers(options.only, import_targets)
        cover(fuzzers[0], options.inputs, options.seed)
    fuzzers = make_fuzzers(options.only, import_targets)
    return int(damage_at_random(fuzzers, options.inputs, options.seed, options.keep_going) > 0)


if __name__ == "__main__":
    sys.exit(run())
