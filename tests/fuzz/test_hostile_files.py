"""What fuzzing found, each with its smallest input: one clear error, soon, and nothing large is made."""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqgan_rl.adversarial.config import preset
from seqgan_rl.adversarial.data import RunData
from seqgan_rl.adversarial.results import evaluate, sample
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.config import read_yaml, updated
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.reading import read_file
from seqgan_rl.discriminators import discriminators
from seqgan_rl.models.files import load_model, save_model
from seqgan_rl.models.generator import LSTMGenerator, generators
from seqgan_rl.models.oracle import Oracle
from seqgan_rl.sequences import Corpus, Vocabulary
from tests.fuzz.mutations import array_header
from tests.fuzz.targets import unsigned, write_run, written

LOADERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint document": ("state.json", load_state),
    "checkpoint tensors": ("tensors.safetensors", load_state),
    "model": ("state.json", lambda folder: load_model(folder, generators)),
    "oracle": ("oracle.npz", lambda folder: Oracle.from_npz(folder / "oracle.npz")),
    "text": ("text.txt", lambda folder: Corpus.from_text(folder / "text.txt")),
    "corpus facts": ("corpus.json", Corpus.from_files),
    "corpus arrays": ("corpus.npz", Corpus.from_files),
    "settings": ("c.yaml", lambda folder: read_yaml(folder / "c.yaml")),
    "run": ("config.json", lambda folder: RunFolder(folder).config()),
    "metrics": ("metrics.jsonl", lambda folder: read_metrics(RunFolder(folder))),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid file of every kind."""
    save_state(tmp_path / "state", {"x": torch.ones(2)})
    for path in (tmp_path / "state").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "state").rmdir()
    Corpus.from_arrays(np.arange(12).reshape(3, 4) % 5, vocab_size=5).to_files(tmp_path)
    for name in ("oracle.npz", "text.txt", "c.yaml", "config.json", "metrics.jsonl"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "loop"])
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="pipes and devices are those of Unix")
def test_what_is_no_ordinary_file_is_refused_at_once(folder: Path, loader: str, kind: str) -> None:
    """A pipe made its reader wait for ever, a device filled the memory, a folder was a traceback (metrics)."""
    name, load = LOADERS[loader]
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "endless" else name)
    with pytest.raises(
        InputError, match=r"pipe or a device|directory|symbolic|levels of|damaged|cannot be read"
    ) as error:
        load(folder)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("loader", ["checkpoint document", "text", "corpus facts", "settings", "run", "metrics"])
def test_a_file_of_a_terabyte_is_refused_unread(folder: Path, loader: str) -> None:
    name, load = LOADERS[loader]
    with (folder / name).open("wb") as file:
        file.truncate(2**40)  # a hole: takes no disk
    with pytest.raises(InputError, match="it holds 1,099,511,627,776 bytes, expected at most"):
        load(folder)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x", 5) == b"12345"
    with pytest.raises(ValueError, match="it holds 5 bytes, expected at most 4"):
        read_file(tmp_path / "x", 4)


# --- settings ---------------------------------------------------------------------------------------------------


def test_merges_of_merges_do_not_multiply(tmp_path: Path) -> None:
    """Nine levels of twelve merges each are five billion settings in 700 bytes."""
    lines = ["m0: &m0 {seed: 1}"]
    lines += [f"m{i + 1}: &m{i + 1} {{<<: [{', '.join([f'*m{i}'] * 12)}]}}" for i in range(9)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    started = time.perf_counter()
    with pytest.raises(InputError, match=r"c\.yaml cannot be read: more than 10,000 settings are merged by <<"):
        read_yaml(tmp_path / "c.yaml")
    assert time.perf_counter() - started < 5


def test_merges_still_work(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {seed: 1, rounds: 2}\nb: &b {rounds: 3}\nc: {<<: [*b, *a], threads: 4}")
    assert read_yaml(tmp_path / "c.yaml")["c"] == {"seed": 1, "rounds": 3, "threads": 4}


HUGE = "0x" + "f" * 5000


@pytest.mark.parametrize(
    "text",
    [
        f"seed: {HUGE}",
        f"device: {HUGE}",
        f"data: {{level: {HUGE}}}",
        f"data: {HUGE}",
        f"controls: [{HUGE}]",
        f"network: {{highway: [{HUGE}]}}",
        f"{HUGE}: 1",
        "x" * 100_000 + ": 1",
        "controls: [" + "x" * 100_000 + "]",
        "generator: {name: " + "x" * 100_000 + "}",
    ],
    ids=lambda text: text[:30],
)
def test_numbers_that_python_will_not_write_and_endless_names_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml") as error:
        updated(preset("quick"), read_yaml(tmp_path / "c.yaml"), "c.yaml")
    assert len(str(error.value)) < 700


# --- models -----------------------------------------------------------------------------------------------------


def saved(folder: Path, kind: str = "lstm", **config: Any) -> Path:
    """A saved generator with some of its config changed."""
    save_model(folder / "model", LSTMGenerator(7, 4, hidden_dim=3), kind)
    state = load_state(folder / "model")
    state["config"] |= config
    save_state(folder / "model", state)
    return folder / "model"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sequence_length": 4.5}, "sequence_length in its config must be a whole number, got 4.5"),
        ({"sequence_length": True}, "must be a whole number, got True"),
        ({"num_actions": None}, "num_actions in its config must be a whole number"),
        ({"init_std": [1]}, "does not hold a generator"),
        ({"init_std": torch.ones(())}, "its config must hold numbers, texts and lists"),
    ],
)
def test_a_config_of_the_wrong_types_is_refused_when_loaded(tmp_path: Path, config: dict, words: str) -> None:
    """It was a TypeError when the model first was used."""
    with pytest.raises(InputError, match=words):
        load_model(saved(tmp_path, **config), generators)


@pytest.mark.parametrize("start_token", [-1, 7, 10**9, 0.5])
def test_a_start_token_outside_the_vocabulary_is_refused_when_loaded(tmp_path: Path, start_token: Any) -> None:
    """It was an IndexError when the model first was sampled."""
    save_model(tmp_path / "model", LSTMGenerator(7, 4, start_token=0), "lstm")
    state = load_state(tmp_path / "model")
    state["config"]["start_token"] = start_token
    save_state(tmp_path / "model", state)
    with pytest.raises(InputError, match=r"start_token must be None or an action in \[0, 7\)"):
        load_model(tmp_path / "model", generators)


@pytest.mark.parametrize(
    ("weight", "words"),
    [(torch.full((7,), torch.nan), "NaN or infinite"), (torch.ones(7, dtype=torch.int64), "torch.float32, it holds")],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, weight: torch.Tensor, words: str) -> None:
    path = saved(tmp_path)
    state = load_state(path)
    state["weights"]["output_bias"] = weight
    save_state(path, state)
    with pytest.raises(InputError, match=rf"does not hold a generator: .*'output_bias'.*{words}|{words}"):
        load_model(path, generators)


def test_a_count_in_a_config_does_not_build_a_billion_networks(tmp_path: Path) -> None:
    ensemble = discriminators["ensemble"](5, 4, size=2, widths=(1,), filters=2, embedding_dim=2)
    save_model(tmp_path / "model", ensemble, "ensemble")
    state = load_state(tmp_path / "model")
    state["config"]["size"] = 10**9
    save_state(tmp_path / "model", state)
    with pytest.raises(InputError, match=r"its config asks for more than 1,0.. layers and weights, more than it holds"):
        load_model(tmp_path / "model", discriminators)
    assert len(discriminators["ensemble"](5, 4, size=300).state_dict()) > 1000  # who is no file may ask for more


def test_the_name_of_a_kind_is_shown_in_few_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown generator 'xxx") as error:
        load_model(saved(tmp_path, kind="x" * 10**6), generators)
    assert len(str(error.value)) < 500


def test_a_format_is_shown_in_few_words(folder: Path) -> None:
    (folder / "state.json").write_text(json.dumps({"format": ["x" * 10**6], "state": None}))
    with pytest.raises(InputError, match=r"has format .* this version reads 1") as error:
        load_state(folder)
    assert len(str(error.value)) < 500


# --- oracles and corpora ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_oracle_that_would_inflate_is_refused_unread(tmp_path: Path, method: int) -> None:
    """A gigabyte of zeros in a file of one megabyte; of lzma, whatever its size, the dictionary may be one of 4 GB."""
    with zipfile.ZipFile(tmp_path / "o.npz", "w", method) as archive, archive.open("embedding.npy", "w") as member:
        for _ in range(160 if method == zipfile.ZIP_DEFLATED else 1):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match=r"o\.npz .*(would inflate|compressed in a way)"):
        Oracle.from_npz(tmp_path / "o.npz")


@pytest.mark.parametrize(
    "content", [b"no header", array_header("<i4", (2**40,)), array_header("|O", (1,)), b"\x93NUMPY\x01\x00\x02\x00(\n"]
)
def test_members_that_are_no_arrays_are_refused(folder: Path, content: bytes) -> None:
    """Without numpy's header a member comes as bytes, and some headers end its parser by an error of its own."""
    with zipfile.ZipFile(folder / "corpus.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / "corpus.npz", "w") as archive:
        for name, data in (members | {"valid_tokens.npy": content}).items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=r"corpus\.npz"):
        Corpus.from_files(folder)


def test_half_characters_are_refused_where_words_are_read(folder: Path) -> None:
    """JSON can hold them, and no terminal can show them: printing a sample was a traceback."""
    facts = json.loads((folder / "corpus.json").read_text())
    facts["vocabulary"]["words"][0] = "\ud800"
    (folder / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"corpus folder .*: vocabulary: .* holds half of a character"):
        Corpus.from_files(folder)
    with pytest.raises(InputError, match="half of a character"):
        Vocabulary(words=("a", "\udfff"))


def test_what_is_wrong_with_a_vocabulary_names_the_file(folder: Path, tmp_path: Path) -> None:
    facts = json.loads((folder / "corpus.json").read_text())
    facts["vocabulary"]["has_eos"] = 1
    (folder / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=rf"corpus folder '{folder}': vocabulary: has_eos must be a bool, got int"):
        Corpus.from_files(folder)
    (tmp_path / "same.txt").write_text("a\n" * 10 + "b\nc\n")
    with pytest.raises(InputError, match=r"text file .*same\.txt.*at least 2 words"):
        Corpus.from_text(tmp_path / "same.txt", sequence_length=2)


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_files() -> dict[str, bytes]:
    """A run folder with an oracle, a corpus and an MLE generator."""
    return written(write_run)


@pytest.fixture
def run(run_files: dict[str, bytes], tmp_path: Path) -> Path:
    """That run as a folder."""
    for name, data in run_files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path / "run"


def change_config(path: Path, **changes: Any) -> None:
    """Change the config of a saved model as a stranger can, without its digest."""
    document = json.loads(unsigned((path / "state.json").read_bytes()))
    document["state"]["config"] |= changes
    (path / "state.json").write_text(json.dumps(document))


@pytest.mark.parametrize("use", [sample, lambda run: evaluate(run, n_samples=4)])
def test_models_that_do_not_fit_the_corpus_of_their_run_are_refused(run: Path, use: Callable[[Path], object]) -> None:
    """A length of 2^40 fits any weights, and sampling would fill the memory."""
    use(run)
    change_config(run / "mle", sequence_length=2**40)
    with pytest.raises(InputError, match=r"mle does not fit the run's corpus.*got .6, 1099511627776, None"):
        use(run)
    change_config(run / "oracle", sequence_length=5)
    with pytest.raises(InputError, match="oracle does not fit the run's corpus"):
        RunData.load(RunFolder(run))


def test_a_run_without_its_first_model_is_an_input_error(run: Path) -> None:
    shutil.move(run / "mle", run / "generator")
    with pytest.raises(InputError, match="holds no trained generator yet"):
        sample(run)


def test_a_name_that_is_too_long_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        RunFolder.open("x" * 5000)


def test_loading_changes_no_file_and_hands_out_no_mapping_of_it(folder: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    load_state(folder)["x"].add_(1)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
