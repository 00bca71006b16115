"""Algorithm 1 as a run: whole, repeatable, undisturbed by evaluation, resumable from anywhere to the same numbers."""

import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from seqgan_rl.adversarial import results, rounds, session, trainer
from seqgan_rl.adversarial.config import CONTROLS, PRESETS, DataConfig
from seqgan_rl.adversarial.results import evaluate, load_run, sample
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.adversarial.trainer import train
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.core.checkpoint import load_state
from seqgan_rl.core.config import as_dict
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.files import write_synced
from seqgan_rl.discriminators import Discriminator, DiscriminatorTrainer, discriminators
from seqgan_rl.models.files import load_model
from seqgan_rl.models.generator import Generator, generators
from seqgan_rl.models.likelihood import LikelihoodTrainer
from seqgan_rl.rewards import Reward, rewards
from seqgan_rl.sequences import Corpus

ROOT = Path(__file__).parents[2]
MODELS = ("mle", "generator", "discriminator", *(f"controls/{name}" for name in CONTROLS))


def numbers(run) -> list[dict]:
    """``metrics.jsonl`` less timings, key order kept."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(RunFolder(run))]


def lines(run) -> str:
    """The same as text, for a comparison byte by byte."""
    return "\n".join(json.dumps(row) for row in numbers(run))


def weights(run) -> dict[str, torch.Tensor]:
    found = [name for name in MODELS if (Path(run) / name).is_dir()]
    return {f"{m}/{k}": v for m in found for k, v in load_state(Path(run) / m)["weights"].items()}


def assert_same_run(a, b) -> None:
    assert lines(a) == lines(b)
    left, right = weights(a), weights(b)
    assert list(left) == list(right)
    assert "generator/embedding" in left
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    for name in ("results.json", "samples.txt"):
        assert (Path(a) / name).read_text() == (Path(b) / name).read_text()


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """One uninterrupted tiny run with all controls; figures too."""
    config, run = tiny(), tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "CONTINUED_EPOCHS", 3)
        return config, run, train(config, run, progress=False)


# --- what a run is ----------------------------------------------------------------------------------------------


def test_a_run_writes_everything(finished):
    _config, run, result = finished
    expected = {"config.json", "versions.json", "metrics.jsonl", "results.json", "results.md", "samples.txt"}
    expected |= {"corpus", "oracle", "tensorboard", "checkpoints", "mle", "discriminator", "discriminator-training"}
    assert {path.name for path in run.iterdir()} == expected | {"generator", "controls", "figures"}
    assert {path.name for path in (run / "controls").iterdir()} == set(CONTROLS)
    assert {"learning_curves.png", "quality_coverage.png"} <= {path.name for path in (run / "figures").iterdir()}
    agents = {row["agent"].replace(" ", "-") for row in read_metrics(RunFolder(run))}
    assert {path.parent.name for path in (run / "tensorboard").glob("*/events*")} == agents
    names = [row.name for row in result.rows if row.name != "MLE at equal coverage"]
    wanted = ["oracle entropy", "uniform", "MLE", "MLE continued", "SeqGAN", "constant", "random", "shuffled"]
    assert sorted(names) == sorted(wanted)
    assert result.verdict in (run / "results.md").read_text()
    assert len((run / "samples.txt").read_text().splitlines()) == 50
    assert result.folder == run
    assert result.scores("SeqGAN").nll_oracle > 0


def test_a_run_has_a_row_for_every_epoch_check_round_and_evaluation(finished):
    _config, run, _ = finished
    rows = numbers(run)
    assert list(dict.fromkeys(row["agent"] for row in rows)) == ["mle", "discriminator", "seqgan", *CONTROLS]
    epochs = [row["epoch"] for row in rows if row["agent"] == "mle" and "mle/valid_nll" in row]
    assert epochs == list(range(1, len(epochs) + 1))
    assert 1 <= len(epochs) <= 4
    scored = [row["epoch"] for row in rows if row["agent"] == "mle" and "eval/nll_test" in row]
    assert scored == [epoch for epoch in epochs if epoch % 2 == 0 or epoch == epochs[-1]]
    for name in ("seqgan", "constant", "random", "shuffled"):
        mine = [row for row in rows if row["agent"] == name]
        assert [row["round"] for row in mine if "agent/loss" in row] == [1, 2, 3, 4]
        assert [row["round"] for row in mine if "eval/nll_test" in row] == [0, 2, 4]
        retrained = ["discriminator/loss" in row for row in mine if "agent/loss" in row]
        assert retrained == [name in ("seqgan", "shuffled")] * 4 or retrained == [False] + [True] * 3
        assert all(np.isfinite(v) for row in mine for k, v in row.items() if k != "agent"), name


def test_all_start_from_the_mle(finished):
    _, run, _ = finished
    starts = [row for row in numbers(run) if row.get("round") == 0]
    assert len({row["eval/nll_test"] for row in starts}) == 1
    assert len(starts) == 4


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(finished, tmp_path):
    config, run, _ = finished
    train(config, tmp_path / "again", progress=False)
    assert_same_run(run, tmp_path / "again")
    train(type(config)(**{**vars(config), "seed": 1, "controls": ()}), tmp_path / "other", progress=False)
    assert (
        load_run(run)[1].corpus.content_hash == load_run(tmp_path / "other")[1].corpus.content_hash
    )  # the data is shared
    ours = [row for row in numbers(run) if row["agent"] in ("mle", "seqgan")]
    others = [row for row in numbers(tmp_path / "other") if row["agent"] in ("mle", "seqgan")]
    assert ours[0]["mle/train_nll"] != others[0]["mle/train_nll"]
    assert ours[-1]["eval/nll_oracle"] != others[-1]["eval/nll_oracle"]


def test_global_random_state_neither_matters_nor_changes(finished, tmp_path, tiny):
    _config, run, _ = finished
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the point of the test
    before = torch.get_rng_state(), np.random.get_state(legacy=True)[1].copy()  # type: ignore[index]  # noqa: NPY002
    train(tiny(controls=[]), tmp_path / "run", progress=False)
    mine = [row for row in numbers(run) if row["agent"] in ("mle", "discriminator", "seqgan")]
    assert mine == numbers(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state(legacy=True)[1] == before[1]).all()  # type: ignore[index]  # noqa: NPY002


def test_evaluating_more_often_changes_no_training_number(finished, tiny, tmp_path):
    _, run, _ = finished
    train(tiny(evaluation={"every": 1, "samples": 30, "final_samples": 64}), tmp_path / "often", progress=False)
    assert len(numbers(tmp_path / "often")) > len(numbers(run))
    training = [
        [row for row in numbers(r) if not any(k.startswith("eval/") for k in row)] for r in (run, tmp_path / "often")
    ]
    assert training[0] == training[1]
    left, right = weights(run), weights(tmp_path / "often")
    assert all(torch.equal(left[key], right[key]) for key in left)


# --- resume -----------------------------------------------------------------------------------------------------


class Interrupt:
    """Raises KeyboardInterrupt at the n-th call of a function."""

    def __init__(self, monkeypatch, owner, name, at):
        real, self.calls = getattr(owner, name), 0

        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)


def train_until(monkeypatch, owner, name, at, config, run, resume=False) -> None:
    """Train, checkpointing whenever possible, and stop by KeyboardInterrupt at the ``at``-th call of a function."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
        Interrupt(patch, owner, name, at)
        with pytest.raises(KeyboardInterrupt):
            train(config, run, resume=resume, progress=False)


PLACES = {
    "mle": (LikelihoodTrainer, "update", (1, 7)),
    "discriminator": (DiscriminatorTrainer, "_update", (4, 12)),
    "agent": (SeqGAN, "train", (1, 4, 10)),
    "play": (SeqGAN, "_play_one_each", (5, 14)),
    "evaluation": (rounds.Evaluation, "_on_rollout_start", (1, 3)),
    "model": (trainer, "save_model", (1, 2, 4)),
    "training": (trainer, "save_state", (1,)),
    "checkpoint": (RunFolder, "save_checkpoint", (1, 9, 20)),
    "results": (trainer, "write_results", (1,)),
    "writing": (results, "_write", (1,)),
}


@pytest.mark.parametrize(("place", "at"), [(place, at) for place in PLACES for at in PLACES[place][2]])
def test_a_run_interrupted_anywhere_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch, place, at):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config, run, _ = finished
    train_until(monkeypatch, *PLACES[place][:2], at, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(run, tmp_path / "run")
    assert not [path for path in tmp_path.rglob(".*")]


def test_a_run_interrupted_again_and_again_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config, run, _ = finished
    resume = False
    for at in (9, 4, 3, 2, 2):
        train_until(monkeypatch, RunFolder, "save_checkpoint", at, config, tmp_path / "run", resume)
        resume = True
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(run, tmp_path / "run")


VARIANTS: dict[str, dict] = {
    "own rollout policy": {"agent": {"rollout_update_rate": 0.5}, "controls": []},
    "random": {"agent": {"reward": "random"}, "controls": []},
    "shuffled": {"agent": {"reward": "shuffled", "baseline": "leave_one_out"}, "controls": []},
    "no rollouts": {"agent": {"rollouts": False, "baseline": "position_mean"}, "controls": []},
    "regularised": {"agent": {"ent_coef": 0.1, "kl_coef": 0.1, "baseline": "learned"}, "controls": []},
    "mle mixed in": {"agent": {"mle_coef": 0.3}, "controls": ["random"]},
    "paper": {
        "network": {"name": "paper_cnn"},
        "generator": {"start_from_word_0": True},
        "mle": {"patience": 0, "shuffle": False},
        "discriminator": {"draw_size": 32, "epochs_per_draw": 2, "pretrain_patience": 0},
        "agent": {"reward": "discriminator", "weights": "q", "normalize": False, "loss": "sum"},
        "controls": [],
    },
    "text": {"controls": ["shuffled"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_run_resumes_to_the_same_bytes(tiny, tmp_path, monkeypatch, text_file, variant):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    data = {"data": {"corpus": str(text_file), "min_count": 3, "sequence_length": None}} if variant == "text" else {}
    config = tiny(**VARIANTS[variant], **data)
    train(config, tmp_path / "whole", progress=False)
    train_until(monkeypatch, SeqGAN, "train", 3, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_finished_run_resumes_to_its_results_without_training(finished, tmp_path, monkeypatch):
    config, run, result = finished
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "results.json").unlink()
    for owner, name in ((LikelihoodTrainer, "update"), (DiscriminatorTrainer, "_update"), (SeqGAN, "learn")):
        Interrupt(monkeypatch, owner, name, 1)
    again = train(config, copy, resume=True, progress=False)
    assert again.verdict == result.verdict
    assert_same_run(run, copy)


def test_a_run_that_takes_its_pretraining_over_gives_the_same_bytes(finished, tmp_path, monkeypatch):
    config, source, _ = finished
    monkeypatch.setattr(trainer, "CONTINUED_EPOCHS", 3)
    same = train(config, tmp_path / "same", start=source, progress=False)
    assert_same_run(same.folder, source)
    other = dataclasses.replace(config, network=dataclasses.replace(config.network, filters=3))
    run = train(other, tmp_path / "other", start=source, progress=False)
    alone = train(other, tmp_path / "alone", progress=False)
    assert_same_run(run.folder, alone.folder)


@pytest.mark.parametrize("changes", [{"seed": 9}, {"data": DataConfig(vocab_size=6, sequence_length=4, data_seed=8)}])
def test_a_start_with_other_settings_is_refused(finished, tiny, tmp_path, changes):
    with pytest.raises(InputError, match=f"another {next(iter(changes))}"):
        train(dataclasses.replace(tiny(), **changes), tmp_path / "run", start=finished[1], progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mle", "step_size"), [({"patience": 0}, 0.01), ({"patience": 1, "decays": 1, "learning_rate": 0.2}, 0.04)]
)
def test_continued_mle_begins_with_the_step_size_that_the_mle_ended_with(tiny, tmp_path, mle, step_size):
    config = tiny(mle={"max_epochs": 20, "learning_rate": 0.01, **mle}, rounds=0, controls=["mle_continued"])
    train(config, tmp_path / "run", progress=False)
    rows = [row for row in numbers(tmp_path / "run") if "mle/learning_rate" in row]
    assert [row["mle/learning_rate"] for row in rows if row["agent"] == "mle"][-1] == pytest.approx(step_size)
    assert next(row for row in rows if row["agent"] == "mle_continued")["mle/learning_rate"] == pytest.approx(step_size)


@pytest.mark.parametrize("name", list(PRESETS))
def test_scheduled_sampling_is_regularised_as_the_mle_that_it_is_compared_with(name):
    config = PRESETS[name]
    for setting in ("weight_decay", "frequency_bias"):
        assert getattr(config.scheduled_sampling, setting) == getattr(config.mle, setting)


def test_mle_continued_has_the_agents_budget_and_clips_as_the_mle_did(tiny, tmp_path, monkeypatch):
    """9 rounds of 8 sub-environments and T = 6 are 432 tokens, an epoch of 64 sequences 384: two epochs."""
    monkeypatch.setattr(trainer, "CONTINUED_EPOCHS", 1)
    configs, fit = {}, trainer.Run._fit

    def noting(self, stage, label, generator, config, *rest):
        configs[stage] = config
        fit(self, stage, label, generator, config, *rest)

    monkeypatch.setattr(trainer.Run, "_fit", noting)
    changes = {"data": {"train_size": 64}, "mle": {"clip_norm": 0.5, "weight_decay": 0.1}}
    train(tiny(**changes, rounds=9, controls=["mle_continued"]), tmp_path / "run", progress=False)
    continued = configs["mle_continued"]
    assert (continued.max_epochs, continued.patience) == (2, 2)
    assert (continued.clip_norm, continued.weight_decay, continued.frequency_bias) == (0.5, 0.1, False)


def test_resume_goes_by_the_runs_own_settings(finished, tiny, tmp_path):
    _, run, _ = finished
    copy = shutil.copytree(run, tmp_path / "run")
    train(tiny(seed=5, rounds=9), copy, resume=True, progress=False)
    assert_same_run(run, copy)


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(finished, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config, run, _ = finished
    train_until(monkeypatch, SeqGAN, "train", 4, config, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        train(config, tmp_path / "run", resume=True, progress=False)
    assert "is damaged" in caplog.text
    assert "falling back" in caplog.text
    assert_same_run(run, tmp_path / "run")


def test_a_run_without_a_readable_checkpoint_starts_again(finished, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config, run, _ = finished
    train_until(monkeypatch, SeqGAN, "train", 4, config, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        (path / "state.json").write_text("{}")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(run, tmp_path / "run")


@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [(*PLACES[place][:2], at) for place, at in (("mle", 3), ("discriminator", 3), ("agent", 3))],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(finished, tmp_path, monkeypatch, owner, name, at):
    """Settings changed by hand, or a state that is not one."""
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config, _, _ = finished
    train_until(monkeypatch, owner, name, at, config, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    found = folder.last_checkpoint()
    assert found is not None
    assert found[1]["state"] is not None
    changed = as_dict(config)
    changed["network"]["filters"] = changed["generator"]["hidden_dim"] = 5
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=r"the last checkpoint of .* does not fit its config\.json"):
        train(config, folder.path, resume=True, progress=False)
    (folder / "config.json").write_text(json.dumps(as_dict(config)))
    states: tuple[Any, ...] = ({}, [], {"agent": 1, "trainer": 1})
    for state in states:
        folder.save_checkpoint(found[0], {**found[1], "state": state})
        with pytest.raises(InputError, match="does not fit") as caught:
            train(config, folder.path, resume=True, progress=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("owner_name", ["RunData.save", "Corpus.to_files", "save_model"])
def test_a_run_killed_while_its_data_was_being_kept_resumes(finished, tmp_path, monkeypatch, owner_name):
    from seqgan_rl.adversarial import data

    config, run, _ = finished
    owner, name = {
        "RunData.save": (data.RunData, "save"),
        "Corpus.to_files": (Corpus, "to_files"),
        "save_model": (data, "save_model"),
    }[owner_name]
    train_until(monkeypatch, owner, name, 1, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(run, tmp_path / "run")


def test_a_full_disk_leaves_a_run_that_resumes(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config, run, _ = finished
    calls = []

    def full(path, content):
        calls.append(path)
        if len(calls) > 40:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        write_synced(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("seqgan_rl.core.checkpoint.write_synced", full)
        with pytest.raises(OSError, match="space"):
            train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)
    assert_same_run(run, tmp_path / "run")


PROGRAM = """
import sys
from seqgan_rl.adversarial import results, session, trainer
from seqgan_rl.cli import main
session.SECONDS_BETWEEN_CHECKPOINTS, trainer.CONTINUED_EPOCHS = 0.05, 3
results.learning_curves = results.quality_coverage = lambda *args: None
raise SystemExit(main(sys.argv[1:]))
"""


def program(*arguments, cwd):
    """The command line in a process of its own, with checkpoints every 50 ms."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(("algorithm", "attempt"), [("seqgan", 0)])  # of others, and often: test_crash.py, make soak
def test_a_run_killed_with_sigkill_resumes_to_the_same_bytes(tiny, tmp_path, algorithm, attempt):
    agent = {"algorithm": algorithm, "rollout_update_rate": 0.7}
    config = tiny(rounds=15, agent=agent, controls=["random", "shuffled"])
    train(config, tmp_path / "whole", progress=False)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(as_dict(config)))
    process = program("train", "--quiet", "--config", "c.yaml", "--run", "run", cwd=tmp_path)
    chance = random.Random(attempt)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(chance.random() * 1.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = program("train", "--quiet", "--resume", "run", cwd=tmp_path)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr.decode()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# --- texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["word", "char"])
def test_a_text_of_ones_own(tiny, tmp_path, text_file, level):
    """Trains, decodes, keeps prompts, never says <unk>, pads only after EOS; and the file may go before --resume."""
    own = Path(shutil.copy(text_file, tmp_path / "own.txt"))
    data = {"corpus": str(own), "level": level, "min_count": 3, "sequence_length": None}
    config = tiny(data=data, controls=["constant"])
    train(config, tmp_path / "run", progress=False)
    _, run_data, generator = load_run(tmp_path / "run")
    vocabulary = run_data.corpus.vocabulary
    assert vocabulary.has_eos
    assert vocabulary.has_unk
    tokens_BT = generator.sample(300, forbidden=run_data.forbidden, rng=np.random.default_rng(0))
    assert not torch.isin(tokens_BT, torch.tensor(vocabulary.unk_id)).any()
    ended_BT = torch.isin(tokens_BT, torch.tensor(vocabulary.eos_id)).cumsum(1) > 0
    is_pad_BT = tokens_BT == vocabulary.pad_id
    assert torch.equal(is_pad_BT[:, 1:], ended_BT[:, :-1])
    assert not is_pad_BT[:, 0].any()
    for prompt in ("", "the", "the cat"):
        texts = sample(tmp_path / "run", 40, prompt=prompt, temperature=1.5)
        assert len(texts) == 40
        assert all(text.startswith(prompt) and "<unk>" not in text for text in texts)
    assert (
        sample(tmp_path / "run", 5, seed=1)
        == sample(tmp_path / "run", 5, seed=1)
        != sample(tmp_path / "run", 5, seed=2)
    )
    assert sample(tmp_path / "run", 3, top_k=1, top_p=0.5)
    assert sample(tmp_path / "run", 1, model="constant")
    assert "<unk>" not in (tmp_path / "run" / "samples.txt").read_text()
    for prompt in ("zebra Q", "the <unk>" if level == "word" else "~"):
        with pytest.raises(InputError, match=r"prompt: .* is not in the vocabulary"):
            sample(tmp_path / "run", prompt=prompt)
    own.unlink()
    before = lines(tmp_path / "run"), weights(tmp_path / "run")["generator/embedding"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert (lines(tmp_path / "run"), True) == (
        before[0],
        torch.equal(before[1], weights(tmp_path / "run")["generator/embedding"]),
    )
    _table, rows = evaluate(tmp_path / "run", n_samples=64)
    assert [row["name"] for row in rows] == ["MLE", "SeqGAN", "constant"]


def test_an_oracle_file_may_go_before_resume(tiny, tmp_path):
    V, E, H = 20, 4, 4
    rng = np.random.default_rng(0)
    arrays = {
        form + gate: rng.normal(size=s) for form, s in (("W", (E, H)), ("U", (H, H)), ("b", (H,))) for gate in "ifoc"
    }
    arrays |= {"embedding": rng.normal(size=(V, E)), "V": rng.normal(size=(H, V)), "c": rng.normal(size=V)}
    np.savez(tmp_path / "oracle.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})  # type: ignore[arg-type]
    config = tiny(data={"oracle": str(tmp_path / "oracle.npz")}, controls=[], rounds=1)
    train(config, tmp_path / "run", progress=False)
    before = lines(tmp_path / "run"), (tmp_path / "run" / "results.json").read_text()
    (tmp_path / "oracle.npz").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert lines(tmp_path / "run") == before[0]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == json.loads(before[1])["rows"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"seed": -1}, "seed"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"prompt": "1 2 3 4 5 6"}, "prefix must be shorter"),
        ({"prompt": "20"}, "prompt: '20' is not in the vocabulary"),
        ({"model": "nothing"}, "no model 'nothing'; it has mle"),
    ],
)
def test_wrong_arguments_of_sample_are_named(finished, options, words):
    with pytest.raises(InputError, match=words):
        sample(finished[1], **options)


@pytest.mark.parametrize(("options", "words"), [({"n_samples": 0}, "n_samples"), ({"seed": -1}, "seed")])
def test_wrong_arguments_of_evaluate_are_named(finished, options, words):
    with pytest.raises(InputError, match=words):
        evaluate(finished[1], **options)


# --- when training goes wrong -----------------------------------------------------------------------------------


class WrongLater(Reward):
    """1, and from the tenth scoring on ``wrong``."""

    def __init__(self, wrong: float) -> None:
        self.wrong, self.calls = wrong, 0

    def score(self, tokens_BT, lengths_B):
        self.calls += 1
        return torch.full((len(tokens_BT),), self.wrong if self.calls >= 10 else 1.0) * (tokens_BT[:, 0] % 2)


def nan_later(parts):
    return WrongLater(float("nan"))


def inf_later(parts):
    return WrongLater(float("inf"))


@pytest.mark.parametrize("reward", ["test_nan_later", "test_inf_later"])
def test_a_reward_that_is_not_finite_stops_the_run_and_the_last_checkpoint_is_good(tiny, tmp_path, monkeypatch, reward):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    with pytest.raises(FloatingPointError, match="not finite"):
        train(tiny(agent={"reward": reward}, rounds=30, controls=[]), tmp_path / "run", progress=False)
    found = RunFolder(tmp_path / "run").last_checkpoint()
    assert found is not None
    assert found[1]["stage"] == 2
    assert found[1]["state"]["round"] >= 1
    assert all(torch.isfinite(w).all() for w in found[1]["state"]["agent"]["networks"]["policy"].values())
    assert sample(tmp_path / "run", 2, model="mle")


@pytest.mark.parametrize(
    "changes",
    [{"mle": {"learning_rate": float("inf")}}, {"discriminator": {"learning_rate": 1e20, "weight_decay": 0.0}}],
)
def test_a_likelihood_or_discriminator_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, changes):
    with pytest.raises(FloatingPointError, match="not finite"):
        train(tiny(**changes), tmp_path / "run", progress=False)


def test_a_run_that_collapses_says_so(tiny, tmp_path, caplog):
    """The oracle's log-likelihood alone is best served by repeating its likeliest sequence."""
    config = tiny(
        agent={"reward": "oracle", "learning_rate": 0.1, "batch_size": 32},
        rounds=40,
        evaluation={"every": 10, "max_nll_rise": 1e9},
        controls=[],
    )
    with caplog.at_level(logging.WARNING):
        train(config, tmp_path / "run", progress=False)
    alarms = [r.getMessage() for r in caplog.records if "collapsing" in r.getMessage()]
    assert len(alarms) == 1
    assert "seqgan: the generator is collapsing at round" in alarms[0]
    rows = [row for row in read_metrics(RunFolder(tmp_path / "run")) if any(key.startswith("alarm/") for key in row)]
    assert len(rows) == 1
    assert 0 < min(value for key, value in rows[0].items() if key.startswith("alarm/")) < 0.5
    assert "entropy" in alarms[0]
    assert max(row.get("round", 0) for row in numbers(tmp_path / "run")) == 40


def test_the_guard_stops_a_run_whose_validation_nll_rises_and_the_controls_go_on(tiny, tmp_path, caplog):
    config = tiny(
        agent={"reward": "oracle", "learning_rate": 0.1, "batch_size": 32},
        rounds=40,
        evaluation={"every": 5, "max_nll_rise": 0.3},
        controls=["mle_continued"],
    )
    with caplog.at_level(logging.WARNING):
        result = train(config, tmp_path / "run", progress=False)
    assert "seqgan: stopped at round" in caplog.text
    assert "validation NLL has risen by" in caplog.text
    assert max(row["round"] for row in numbers(tmp_path / "run") if row["agent"] == "seqgan") < 40
    assert result.scores("MLE continued") is not None


# --- parts of one's own -----------------------------------------------------------------------------------------


class Bigram(Generator):
    """Logits looked up by the last token; takes no options."""

    def __init__(self, num_actions: int, sequence_length: int, has_eos: bool) -> None:
        super().__init__(num_actions, sequence_length, has_eos)
        self.table = torch.nn.Parameter(torch.randn(num_actions + 1, num_actions) * 0.1)

    def initial_state(self, batch_size):
        return (self.table.new_zeros(batch_size, 1),)

    def step(self, tokens_B, state):
        return self.table[tokens_B], state


class OptionalBigram(Bigram):
    """Takes whatever options there are."""

    def __init__(self, num_actions, sequence_length, has_eos, **options):
        super().__init__(num_actions, sequence_length, has_eos)
        self.config |= options


class Bag(Discriminator):
    """A weight for each word, summed."""

    def __init__(self, num_actions: int, sequence_length: int, *, embedding_dim: int = 1) -> None:
        super().__init__(num_actions, sequence_length, embedding_dim=embedding_dim)
        self.weight = torch.nn.Embedding(num_actions + 1, embedding_dim)

    def forward(self, tokens_BT):
        return self.weight(tokens_BT).sum(dim=(1, 2))


def even(parts):
    """A plain function: the share of even words."""
    return lambda tokens_BT, lengths_B: (tokens_BT % 2 == 0).float().mean(dim=1)


class Noisy(Reward):
    """A reward with a state of its own."""

    def __init__(self, parts) -> None:
        self.rng = parts.rng

    def score(self, tokens_BT, lengths_B):
        return torch.from_numpy(self.rng.random(len(tokens_BT), dtype=np.float32))

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.rng.bit_generator.state = state["rng"]


@pytest.mark.parametrize(
    ("generator", "reward"),
    [("test_bigram", "test_even"), ("test_bigram", "logit"), ("test_bigram_of_any_size", "test_noisy")],
)
def test_parts_of_ones_own_train_resume_and_sample(tiny, tmp_path, monkeypatch, generator, reward):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    config = tiny(
        generator={"name": generator},
        network={"name": "test_bag"},
        agent={"reward": reward},
        controls=["shuffled", "mle_continued"],
    )
    train(config, tmp_path / "whole", progress=False)
    train_until(monkeypatch, SeqGAN, "train", 3, config, tmp_path / "run")
    train(config, tmp_path / "run", resume=True, progress=False)
    assert lines(tmp_path / "whole") == lines(tmp_path / "run")
    assert len(sample(tmp_path / "run", 3, prompt="1 2")) == 3
    _, rows = evaluate(tmp_path / "run", n_samples=64)
    assert {"MLE", "SeqGAN", "shuffled"} <= {row["name"] for row in rows}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"agent": {"reward": "oracle"}, "data": {"corpus": "proverbs", "sequence_length": None}},
            "this reward needs the oracle",
        ),
        ({"network": {"dropout": 2}}, r"dropout must lie in \[0, 1\)"),
        ({"network": {"widths": [3]}}, "widths and filters"),
        ({"generator": {"init_std": -1}}, "std"),
        ({"agent": {"num_rollouts": 10**13}}, "memory"),
        (
            {"generator": {"name": "test_bigram"}, "mle": {"frequency_bias": True}},
            "mle.frequency_bias needs a generator",
        ),
        (
            {
                "generator": {"name": "test_bigram"},
                "scheduled_sampling": {"frequency_bias": True},
                "controls": ["scheduled_sampling"],
            },
            "scheduled_sampling.frequency_bias needs a generator with an output_bias of .*, which Bigram has not",
        ),
        ({"device": "gpu"}, "device must be 'cpu' or a CUDA device"),
        ({"device": "cuda:99"}, "CUDA"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tiny, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        train(tiny(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


OWN: tuple[tuple[Any, str, Any], ...] = (
    (rewards, "test_nan_later", nan_later),
    (rewards, "test_inf_later", inf_later),
    (generators, "test_bigram", Bigram),
    (generators, "test_bigram_of_any_size", OptionalBigram),
    (discriminators, "test_bag", Bag),
    (rewards, "test_even", even),
    (rewards, "test_noisy", Noisy),
)


@pytest.fixture(scope="module", autouse=True)
def own_names():
    """The parts above under their names, for these tests only."""
    for registry, name, factory in OWN:
        registry.register(name)(factory)
    yield
    for registry, name, _ in OWN:
        del registry._factories[name]


def test_the_kept_generator_is_the_average_of_the_weights(tiny, tmp_path):
    """average <- 0.75 * average + 0.25 * weights, from the MLE on; averaging changes nothing of what is trained."""
    for averaging in (0.0, 0.75):
        train(tiny(agent={"averaging": averaging}, rounds=1, controls=[]), tmp_path / str(averaging), progress=False)
    mle, last, mean = (
        load_model(tmp_path / path, generators).state_dict() for path in ("0.0/mle", "0.0/generator", "0.75/generator")
    )
    for name in mean:
        torch.testing.assert_close(mean[name], 0.75 * mle[name] + 0.25 * last[name])
    trained = [
        [{k: v for k, v in row.items() if k.startswith("agent/")} for row in read_metrics(RunFolder(tmp_path / a))]
        for a in ("0.0", "0.75")
    ]
    assert trained[0] == trained[1]
