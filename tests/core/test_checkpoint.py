"""Checkpoints: any nested state comes back equal, files appear whole, and a stranger's file is data."""

import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqgan_rl.core import checkpoint
from seqgan_rl.core.checkpoint import load_state, save_state
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import remove_leftovers, write_text

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
SHAPES = st.lists(st.integers(0, 3), max_size=3)
NUMBERS = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text()
TENSORS = st.builds(
    lambda shape, dtype, value: torch.full(shape, value).to(dtype), SHAPES, st.sampled_from(DTYPES), st.integers(0, 3)
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.int64, np.float32, np.float64, np.bool_, np.uint8, np.int32]),
    hnp.array_shapes(min_dims=0, min_side=0),
)
KEYS = st.text() | st.integers(-(2**70), 2**70) | st.booleans() | st.none() | st.just("__kind__")
STATES = st.recursive(
    NUMBERS | TENSORS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


@settings(max_examples=80)
@given(state=STATES)
def test_any_nested_state_comes_back_equal(state):
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "c", state)
        assert_equal(state, load_state(Path(folder) / "c"))
        assert os.listdir(folder) == ["c"]


def test_optimiser_and_random_state_come_back(tmp_path):
    """int keys, tuples, 0-dimensional tensors, None, and the 128-bit integers of PCG64 and Philox's arrays."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    rngs = [np.random.Generator(kind(5)) for kind in (np.random.PCG64, np.random.Philox, np.random.MT19937)]
    state = {"optimizer": optimizer.state_dict(), "rngs": [rng.bit_generator.state for rng in rngs]}
    save_state(tmp_path / "c", state)
    back = load_state(tmp_path / "c")
    fresh = torch.optim.AdamW(model.parameters(), amsgrad=True)
    fresh.load_state_dict(back["optimizer"])
    assert_equal(dict(fresh.state_dict()), dict(optimizer.state_dict()))
    for rng, stored in zip(rngs, back["rngs"], strict=True):
        other = np.random.Generator(type(rng.bit_generator)(0))
        other.bit_generator.state = stored
        assert (rng.random(5) == other.random(5)).all()


def test_views_and_gradients_are_saved_by_value(tmp_path):
    base = torch.arange(12.0).view(3, 4).requires_grad_(True)
    array = np.arange(6)[::-2]
    array.setflags(write=False)
    save_state(tmp_path / "c", {"column": base[:, 1], "transposed": base.T, "array": array, "float": np.float32(0.1)})
    back = load_state(tmp_path / "c")
    assert back["column"].tolist() == [1, 5, 9]
    assert back["transposed"].shape == (4, 3)
    assert back["array"].tolist() == [5, 3, 1]
    assert back["float"] == float(np.float32(0.1))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, {(1, 2): 3}, {np.int64(1): 2}, np.array(["a"])])
def test_what_cannot_be_saved_is_refused_before_the_old_file_is_touched(tmp_path, value):
    save_state(tmp_path / "c", {"old": 1})
    with pytest.raises(TypeError):
        save_state(tmp_path / "c", {"new": value})
    assert load_state(tmp_path / "c") == {"old": 1}
    assert os.listdir(tmp_path) == ["c"]


def test_what_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAX_JSON_BYTES", 1000)
    save_state(tmp_path / "c", {"old": 1})
    with pytest.raises(ValueError, match="outside tensors and arrays; 1,000 at most"):
        save_state(tmp_path / "c", {"new": list(range(1000))})
    save_state(tmp_path / "d", {"new": np.arange(1000)})
    assert load_state(tmp_path / "c") == {"old": 1}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_an_error_at_any_call_leaves_the_old_checkpoint(tmp_path, monkeypatch, function, error):
    """A full disk, Ctrl-C: whichever system call fails, the old state stands and nothing is left over."""
    save_state(tmp_path / "c", {"old": torch.ones(3)})
    owner, name = {
        "write": (checkpoint, "write_synced"),
        "fsync": (os, "fsync"),
        "replace": (os, "replace"),
    }[function]
    real = getattr(owner, name)
    for failing_call in range(1, 3):
        calls = 0

        def fail(*args):
            nonlocal calls
            calls += 1
            if calls == failing_call:  # noqa: B023 - called within this turn of the loop
                raise error
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(type(error)):
                save_state(tmp_path / "c", {"new": torch.zeros(3)})
        assert_equal(load_state(tmp_path / "c"), {"old": torch.ones(3)})
        assert os.listdir(tmp_path) == ["c"]


def test_what_a_killed_save_had_set_aside_is_found_and_put_back(tmp_path):
    """Between the two renamings of a replacement neither folder is at its name."""
    save_state(tmp_path / "c", {"old": 1})
    (tmp_path / "c").rename(tmp_path / ".c.0123abcd.old")
    (tmp_path / ".c.0123abcd.partial").mkdir()
    (tmp_path / ".mine.old").mkdir()
    assert load_state(tmp_path / "c") == {"old": 1}
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine.old", "c"]
    assert load_state(tmp_path / "c") == {"old": 1}


def test_a_changed_number_is_noticed_and_a_checkpoint_from_before_there_were_digests_is_read(tmp_path):
    save_state(tmp_path / "c", {"x": 12345, "w": torch.ones(2)})
    path = tmp_path / "c" / "state.json"
    document = json.loads(path.read_text())
    path.write_text(path.read_text().replace("12345", "12346"))
    with pytest.raises(InputError, match="is damaged: its content is not what was written"):
        load_state(path.parent)
    del document["sha256"]
    path.write_text(json.dumps(document))
    assert load_state(path.parent)["x"] == 12345


def test_text_files_appear_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="space"):
            write_text(tmp_path / "a.txt", "new and longer")
    assert (tmp_path / "a.txt").read_text() == "old"


def check_one_line(error: InputError) -> None:
    assert "\n" not in str(error)


# --- files from others ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "c"
    state = {"weights": {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bool)}, "rng": {1: (2, [3.5])}}
    save_state(folder, state)
    return folder


def copied(good: Path, folder: str) -> Path:
    return Path(shutil.copytree(good, Path(folder) / "c"))


@settings(max_examples=150)
@given(data=st.data(), name=st.sampled_from(["state.json", "tensors.safetensors"]))
def test_a_truncated_or_changed_file_gives_an_input_error_or_the_state_of_changed_bytes(good, data, name):
    with tempfile.TemporaryDirectory() as folder:
        path = copied(good, folder) / name
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans(), label="truncate"):
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        else:
            for _ in range(data.draw(st.integers(1, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            load_state(path.parent)
        except InputError as error:
            check_one_line(error)


@settings(max_examples=100)
@given(content=st.binary(max_size=200), name=st.sampled_from(["state.json", "tensors.safetensors"]))
def test_random_bytes_give_an_input_error(good, content, name):
    with tempfile.TemporaryDirectory() as folder:
        path = copied(good, folder) / name
        path.write_bytes(content)
        with pytest.raises(InputError):
            load_state(path.parent)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["__kind__", "name", "items", "format", "state", "x"]), inner, max_size=4)
        | st.fixed_dictionaries(
            {"__kind__": st.sampled_from(["tensor", "array", "tuple", "pairs", "code"]) | inner},
            optional={"name": inner | st.just("0"), "items": inner},
        )
    ),
    max_leaves=10,
)


@settings(max_examples=150)
@given(state=JSON, format_=st.just(1) | JSON)
def test_any_json_document_gives_a_state_or_an_input_error(good, state, format_):
    with tempfile.TemporaryDirectory() as folder:
        path = copied(good, folder)
        (path / "state.json").write_text(json.dumps({"format": format_, "state": state}))
        try:
            load_state(path)
        except InputError as error:
            check_one_line(error)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bombed",))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"format": 1, "state": ' + b'{"a":' * 50_000,
        b'{"format": 1, "state": ' + b"9" * 10_000 + b"}",
        b'{"format": 2, "state": null}',
        b'{"format": 1}',
        b"[1]",
        b"null",
        b'{"format": 1, "state": {"__kind__": "tensor", "name": "../../etc/passwd"}}',
        b'{"format": 1, "state": {"__kind__": "pairs", "items": [[[1], 2]]}}',
        b'{"format": 1, "state": {"__kind__": "os.system", "items": ["true"]}}',
        pickle.dumps(Bomb()),
    ],
    ids=lambda content: repr(content[:40]),
)
def test_hostile_json_is_refused_and_runs_nothing(good, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = copied(good, str(tmp_path))
    (path / "state.json").write_bytes(content)
    with pytest.raises(InputError, match="checkpoint"):
        load_state(path)
    assert not (tmp_path / "bombed").exists()


def test_hostile_tensors_are_refused_and_run_nothing(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = copied(good, str(tmp_path))
    header = json.dumps({"0": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    huge = len(header).to_bytes(8, "little") + header
    for content in (pickle.dumps(Bomb()), b"\xff" * 8, huge, safetensors.torch.save({})):
        (path / "tensors.safetensors").write_bytes(content)
        with pytest.raises(InputError):
            load_state(path)
    torch.save(Bomb(), path / "tensors.safetensors")
    with pytest.raises(InputError):
        load_state(path)
    assert not (tmp_path / "bombed").exists()


def test_missing_pieces_are_named(good, tmp_path):
    with pytest.raises(InputError, match=r"none is not a checkpoint: state\.json is missing"):
        load_state(tmp_path / "none")
    path = copied(good, str(tmp_path))
    (path / "tensors.safetensors").unlink()
    with pytest.raises(InputError, match=r"tensors\.safetensors is missing"):
        load_state(path)
    (path / "tensors.safetensors").mkdir()
    with pytest.raises(InputError):
        load_state(path)
    (path / "state.json").unlink()
    (path / "state.json").mkdir()
    with pytest.raises(InputError):
        load_state(path)


def test_an_oversized_document_is_refused_unread(good, tmp_path):
    path = copied(good, str(tmp_path))
    with (path / "state.json").open("wb") as file:
        file.truncate(2**33)  # a hole: takes no disk
    with pytest.raises(InputError, match="it holds 8,589,934,592 bytes, expected at most"):
        load_state(path)
