"""Files from others, damaged by the thousand: every loader refuses them in one line, or reads them, and no more.

``tests/fuzz/fuzzer.py`` says what is promised; ``make soak`` runs a hundred thousand more.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(folder: Path, *arguments: str, timeout: float) -> str:
    """The output of the fuzzer, in a process of its own: its limits of memory and time, and its watch, are for all."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzzer", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits, pipes and devices are those of Linux")
def test_thousands_of_damaged_files_break_no_promise(tmp_path: Path) -> None:
    """2,000 inputs over all loaders; the same ones every time."""
    said = fuzz(tmp_path, "--inputs", "2000", "--seed", "0", timeout=300)
    assert ", 0 broken promises" in said
    assert sum(int(line.split(": ")[1].split()[0]) for line in said.splitlines() if "peak" in line) >= 2000


FAULTS = {
    "raise KeyError('x')": "KeyError",
    "time.sleep(60)": "took more than",
    "b'x' * (600 * 2**20)": "memory rose",
    "os.system('true')": "os.system (b'true',)",
    "pickle.loads(PICKLE)": "ran or wrote something",
    "exec('x = 1')": "ran or wrote something",
    "(folder / 'state.json').write_text('x')": "ran or wrote something",
    "raise InputError('no')": "not one line that names the file",
    "raise InputError(f'{folder} is\\nbad')": "not one line that names the file",
}
"""What a loader may do wrong, and how the fuzzer must call it."""


@pytest.mark.skipif(sys.platform != "linux", reason="limits, pipes and devices are those of Linux")
def test_the_fuzzer_notices_every_broken_promise(tmp_path: Path) -> None:
    """A loader with a fault that shows on some inputs only is found out, and called what it is."""
    loads = "\n".join(
        f"def load_{i}(folder):\n    if b'!' in (folder / 'state.json').read_bytes():\n        {fault}"
        for i, fault in enumerate(FAULTS)
    )
    script = f"""
import os, pickle, shutil, time
from pathlib import Path
from seqgan_rl.core.errors import InputError
from tests.fuzz import fuzzer
from tests.fuzz.mutations import PICKLE
from tests.fuzz.targets import Target
fuzzer.SECONDS = 2.0
watch = fuzzer.Watch()
{loads}
os.chdir({str(tmp_path)!r})
for i in range({len(FAULTS)}):
    target = Target({{"state.json": b"{{}}"}}, globals()[f"load_{{i}}"])
    watched = fuzzer.Fuzzer("x", target, Path(f"x{{i}}"), watch)
    shutil.rmtree("bombed", ignore_errors=True)
    watched.check({{"state.json": b"[1]"}})
    try:
        watched.check({{"state.json": b"!"}})
        print("nothing noticed")
    except fuzzer.BrokenPromiseError as error:
        print(str(error).replace(chr(10), " "))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = done.stdout.splitlines()
    assert len(said) == len(FAULTS), done.stdout + done.stderr
    for (fault, words), line in zip(FAULTS.items(), said, strict=True):
        assert words in line, f"{fault}: {line}"
