"""Configs: typed from YAML, flags and JSON; whatever is wrong is one line that names the key."""

import dataclasses
import json
import math
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgan_rl.adversarial.config import PRESETS, RunConfig, preset
from seqgan_rl.core.config import as_dict, as_nested, read_yaml, updated
from seqgan_rl.core.errors import InputError


def check_one_line(error: InputError) -> None:
    assert "\n" not in str(error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    mode: Literal["mean", "sum"] = "mean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    size: int = 1
    name: str | None = None
    widths: tuple[int, ...] = (1,)
    names: tuple[str, ...] = ()
    on: bool = False
    limit: int | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sise": 2}, r"config: unknown setting 'sise' \(did you mean 'size'\?\)"),
        ({"inner": {"rat": 2}}, r"config, inner: unknown setting 'rat' \(did you mean 'rate'\?\)"),
        ({3: 2}, "unknown setting 3"),
        ({None: 2}, "unknown setting None"),
        ({"size\nx": 2}, "unknown setting"),
        ({"size": "two"}, "config: size must be a whole number, got 'two'"),
        ({"size": 2.5}, "size must be a whole number, got 2.5"),
        ({"size": True}, "size must be a whole number, got True"),
        ({"size": None}, "size must be a whole number, got None"),
        ({"size": []}, "size must be a whole number"),
        ({"size": math.inf}, "size must be a whole number, got inf"),
        ({"size": math.nan}, "size must be a whole number, got nan"),
        ({"size": 0}, "config: size must be at least 1, got 0"),
        ({"inner": 3}, "inner must be a mapping of settings, got 3"),
        ({"inner": None}, "inner must be a mapping of settings"),
        ({"inner": {"rate": "fast"}}, "config, inner: rate must be a number, got 'fast'"),
        ({"inner": {"rate": False}}, "rate must be a number, got False"),
        ({"inner": {"rate": math.nan}}, "rate must be a number, got nan"),
        ({"inner": {"rate": 10**400}}, "rate must be a number"),
        ({"inner": {"mode": "max"}}, "mode must be one of mean, sum; got 'max'"),
        ({"inner": {"mode": ["mean"]}}, "mode must be one of mean, sum"),
        ({"widths": 3}, "widths must be a list, each a whole number, got 3"),
        ({"widths": "12"}, "widths must be a list"),
        ({"widths": [1, "x"]}, "widths must be a whole number, got 'x'"),
        ({"names": "ab"}, "names must be a list, each a text, got 'ab'"),
        ({"on": "yes"}, "on must be true or false, got 'yes'"),
        ({"on": 1}, "on must be true or false, got 1"),
        ({"name": ["a"]}, "name must be a text or null"),
        ({"limit": "x"}, "limit must be a whole number or null, got 'x'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(values, words):
    with pytest.raises(InputError, match=words) as caught:
        updated(Outer(), values)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_numbers_may_be_written_as_yaml_reads_them():
    """YAML 1.1 reads 1e-3 as a text; and a whole number may be written as a float."""
    assert yaml.safe_load("1e-3") == "1e-3"
    config = updated(Outer(), {"size": "3", "inner": {"rate": "1e-3"}, "widths": ["1", 2.0], "limit": "1e3", "name": 7})
    assert (config.size, config.inner.rate, config.widths, config.limit, config.name) == (3, 1e-3, (1, 2), 1000, "7")
    assert updated(Outer(), {"inner": {"rate": 2}}).inner.rate == 2.0
    assert updated(Outer(), {"inner": {"rate": "inf"}}).inner.rate == math.inf
    assert updated(Outer(), {"size": str(2**63 + 1)}).size == 2**63 + 1  # not rounded through a float


@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["size", "name", "widths", "on", "inner", "rate", "mode"]) | st.text(), inner
            )
        ),
        max_leaves=8,
    )
)
@settings(max_examples=300)
def test_any_value_gives_a_config_or_an_input_error(values):
    for where in ({"size": values}, {"inner": values}, {"widths": values}, {"limit": values}, values):
        if isinstance(where, dict):
            try:
                config = updated(Outer(), where)
            except InputError as error:
                check_one_line(error)
            else:
                assert updated(Outer(), as_dict(config)) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json_and_yaml(name, tmp_path):
    config = preset(name)
    for file, text in (("c.json", json.dumps(as_dict(config))), ("c.yaml", yaml.safe_dump(as_dict(config)))):
        (tmp_path / file).write_text(text)
        assert updated(RunConfig(), read_yaml(tmp_path / file)) == config
    (tmp_path / "json.yaml").write_text(json.dumps(as_dict(config)))  # JSON's 1e-05 is a text to YAML
    assert updated(RunConfig(), read_yaml(tmp_path / "json.yaml")) == config
    assert config.preset.split("/")[0] == name


def test_text_of_any_script_survives_json(tmp_path):
    config = updated(RunConfig(), {"data": {"corpus": "Verse 😀 ü.txt"}})
    (tmp_path / "c.json").write_text(json.dumps(as_dict(config)))
    assert updated(RunConfig(), read_yaml(tmp_path / "c.json")) == config


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: b: c",
        "- 1\n- 2",
        "just text",
        "",
        "\t",
        "seed: 2020-13-45",
        "seed: !!int x",
        "seed: !!timestamp x",
        "seed: !!bool x",
        "? [1]\n: 2",
        "seed: *unknown",
        "%",
        "\x00",
        "seed: !!python/object/apply:os.mkdir ['bombed']",
        "seed: !!python/name:os.system",
        "!!python/object/new:os.mkdir ['bombed']",
        "[" * 20_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_bad_or_hostile_yaml_is_refused_in_one_line_and_makes_no_objects(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config file .*c\.yaml") as caught:
        read_yaml(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bombed").exists()


def test_references_that_multiply_do_not_fill_the_memory(tmp_path):
    """A hundred billion strings by nine levels of references: shown in few words."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"] + [
        f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    bomb = read_yaml(tmp_path / "c.yaml")["j"]
    for key in ("size", "widths", "inner", "limit", "name"):
        with pytest.raises(InputError, match=key) as caught:
            updated(Outer(), {key: bomb})
        assert len(str(caught.value)) < 300


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    for name, words in (("none", "does not exist"), ("binary", "cannot be read"), (".", "cannot be read")):
        with pytest.raises(InputError, match=words):
            read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": -1}, "seed"),
        ({"threads": 10**6}, "threads must be at most 1024"),
        ({"rounds": -1}, "rounds"),
        ({"controls": ["constant", "randon"]}, r"unknown control 'randon' \(did you mean 'random'\?\)"),
        ({"data": {"sequence_length": 0}}, "sequence_length must be at least 2"),
        ({"data": {"vocab_size": 1}}, "vocab_size must be at least 2"),
        ({"data": {"data_seed": -1}}, "data_seed"),
        ({"data": {"train_size": 0}}, "train_size must be at least 64"),
        ({"agent": {"num_rollouts": 0}}, "num_rollouts must be at least 1"),
        ({"agent": {"batch_size": 0}}, "batch_size"),
        ({"agent": {"learning_rate": 0}}, "learning_rate"),
        ({"agent": {"reward": "logits"}}, r"unknown reward 'logits' \(did you mean 'logit'\?\)"),
        ({"agent": {"baseline": "rolout"}}, "baseline must be one of"),
        ({"agent": {"rollout_update_rate": 0}}, r"rollout_update_rate must lie in \(0, 1\]"),
        ({"generator": {"name": "lsmt"}}, r"unknown generator 'lsmt' \(did you mean 'lstm'\?\)"),
        ({"generator": {"hidden_dim": 0}}, "hidden_dim must be at least 1"),
        ({"network": {"name": "cnn"}}, "unknown discriminator 'cnn'"),
        ({"mle": {"batch_size": 0}}, "config, mle: batch_size must be at least 1"),
        ({"discriminator": {"check_every": 0}}, "config, discriminator: check_every must be at least 1"),
        ({"evaluation": {"samples": 1}}, "samples must be at least 2"),
    ],
)
def test_settings_of_a_run_that_make_no_sense_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        updated(RunConfig(), values)


def test_an_unknown_preset_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"unknown preset 'quik' \(did you mean 'quick'\?\)"):
        preset("quik")


def test_a_file_may_be_nested_as_the_flags_are() -> None:
    whole = updated(RunConfig(), {"seed": 1, "data": {"vocab_size": 30, "corpus": None}})
    assert updated(RunConfig(), {"seed": 1, "vocab_size": 30, "data": {"corpus": None}}) == whole
    assert as_nested(RunConfig(), {"vocab_size": 30, "rouds": 2}) == {"data": {"vocab_size": 30}, "rouds": 2}
    for values, words in (
        ({"vocab_sise": 30}, r"unknown setting 'vocab_sise' \(did you mean 'vocab_size'"),
        ({"vocab_size": 30, "data": {"vocab_size": 40}}, "vocab_size given twice, here and in data"),
        ({"vocab_size": 30, "data": 3}, "data must be a mapping"),
    ):
        with pytest.raises(InputError, match=words):
            updated(RunConfig(), values)
