"""Run folders: checkpoints that cannot be lost, metrics cut back to the last one, nothing overwritten."""

import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from seqgan_rl.adversarial.config import preset
from seqgan_rl.adversarial.run_folder import KEPT, MetricsLog, RunFolder, new_run_path, read_metrics
from seqgan_rl.core.errors import InputError

STATE = {"stage": 0, "metrics_bytes": 0, "state": None}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", preset("quick"))


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_settings_come_back(folder):
    assert RunFolder.open(folder.path).config() == preset("quick")
    assert json.loads((folder / "versions.json").read_text())["python"]


def test_whatever_stands_there_is_not_overwritten(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (folder.path, tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="exists; choose another --run folder"):
            RunFolder.create(path, preset("quick"))
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(InputError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "file" / "run", preset("quick"))


def test_what_is_not_a_run_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for name, words in (("none", "does not exist"), ("file", "not a run folder"), (".", "config.json is missing")):
        with pytest.raises(InputError, match=words):
            RunFolder.open(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"rounds": "x"}', '{"roundz": 1}', "\x00", '{"agent": {"reward": "gone"}}']
)
def test_a_damaged_config_is_an_input_error(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        folder.config()


def test_the_last_checkpoints_are_kept_and_the_newest_is_found(folder):
    assert folder.last_checkpoint() is None
    for number in range(1, 6):
        folder.save_checkpoint(number, {**STATE, "stage": number})
        assert folder.last_checkpoint() == (number, {**STATE, "stage": number})
    assert names(folder) == ["000004", "000005"]
    assert KEPT == 2


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(folder, caplog):
    for number in (1, 2):
        folder.save_checkpoint(number, {**STATE, "stage": number})
    (folder / "checkpoints" / "000002" / "state.json").write_text('{"format": 1')
    with caplog.at_level(logging.WARNING):
        assert folder.last_checkpoint() == (1, {**STATE, "stage": 1})
    assert "000002 is damaged" in caplog.text
    assert "falling back" in caplog.text
    folder.save_checkpoint(2, STATE)  # takes the place of the damaged one
    assert names(folder) == ["000001", "000002"]
    assert folder.last_checkpoint() == (2, STATE)


def test_new_checkpoints_outlive_damaged_ones_with_higher_numbers(folder):
    """A run that had to start again must not lose its new checkpoints to old ones that cannot be read."""
    for number in (7, 8):
        folder.save_checkpoint(number, STATE)
        (folder / "checkpoints" / f"{number:06d}" / "state.json").unlink()
    assert folder.last_checkpoint() is None
    folder.save_checkpoint(1, STATE)
    assert folder.last_checkpoint() == (1, STATE)
    assert names(folder) == ["000001"]


def test_leftovers_of_a_killed_save_are_removed_and_strangers_are_not(folder):
    folder.save_checkpoint(1, STATE)
    for name in (".000002.0123abcd.partial", ".000001.0123abcd.old", "mine", ".mine"):
        (folder / "checkpoints" / name).mkdir()
    folder.save_checkpoint(2, STATE)
    assert names(folder) == [".mine", "000001", "000002", "mine"]


@pytest.mark.parametrize("state", [None, [], {"stage": 0}, {"generator": 1, "metrics_bytes": 0, "state": None}])
def test_another_kind_of_state_is_not_taken_for_a_checkpoint(folder, state):
    folder.save_checkpoint(1, state)
    assert folder.last_checkpoint() is None


def test_numbers_above_a_million_are_still_in_order(folder):
    for number in (999_999, 1_000_000, 1_000_001):
        folder.save_checkpoint(number, {**STATE, "stage": number})
    assert folder.last_checkpoint() == (1_000_001, {**STATE, "stage": 1_000_001})


def test_metrics_are_cut_back_to_what_the_checkpoint_knew(folder):
    log = MetricsLog(folder)
    log.write("mle", "epoch", 1, {"mle/train_nll": 1.5})
    size = log.size
    assert size == (folder / "metrics.jsonl").stat().st_size
    log.write("mle", "epoch", 2, {"mle/train_nll": float("nan")})
    log.close()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"agent": "ml')  # a crash in the middle of a line
    assert [row["epoch"] for row in read_metrics(folder)] == [1, 2]
    log = MetricsLog(folder, size)
    log.write("mle", "epoch", 2, {"mle/train_nll": 1.25})
    log.close()
    rows = read_metrics(folder)
    assert [(row["epoch"], row["mle/train_nll"]) for row in rows] == [(1, 1.5), (2, 1.25)]
    assert all(row["time/seconds"] >= 0 and row["agent"] == "mle" for row in rows)


def test_tensorboard_has_each_agents_metrics_under_the_same_names_also_when_continued(folder):
    log = MetricsLog(folder)
    log.write("ppo", "round", 1, {"eval/nll": 1.5, "agent/loss": float("nan")})
    size = log.size
    log.write("ppo", "round", 2, {"eval/nll": 9.0})  # not in the checkpoint
    log.close()
    log = MetricsLog(folder, size)
    log.write("ppo", "round", 2, {"eval/nll": 1.25})
    log.write("../../rloo", "round", 1, {"eval/nll": 1.0})  # of a file that another wrote
    log.close()
    assert sorted(path.name for path in (folder / "tensorboard").iterdir()) == ["-rloo", "ppo"]
    for name, values in (("ppo", [(1, 1.5), (2, 1.25)]), ("-rloo", [(1, 1.0)])):
        events = EventAccumulator(str(folder / "tensorboard" / name))
        events.Reload()
        assert sorted(events.Tags()["scalars"]) == ["eval/nll", "time/seconds"]
        assert [(event.step, event.value) for event in events.Scalars("eval/nll")] == values


def test_a_run_without_a_name_gets_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = new_run_path("quick")
    first.mkdir(parents=True)
    second = new_run_path("quick")
    assert first.parent.name == "runs"
    assert not second.exists()
    assert second != first
