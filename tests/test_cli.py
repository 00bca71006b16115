"""The command line: every bad input is one line and leaves nothing behind; Ctrl-C can be undone; flags beat files."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import seqgan_rl
from seqgan_rl.adversarial.config import preset
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.cli import COMMANDS, main
from seqgan_rl.core.config import updated

ROOT = Path(__file__).parents[1]
TINY = {
    "data": {"vocab_size": 20, "sequence_length": 6, "train_size": 128, "test_size": 64},
    "generator": {"embedding_dim": 4, "hidden_dim": 4},
    "mle": {"max_epochs": 2, "learning_rate": "1e-2"},
    "network": {"widths": [1, 2], "filters": 4, "embedding_dim": 4},
    "discriminator": {"batch_size": 16, "pretrain_minibatches": 4, "check_every": 2, "minibatches_per_round": 1},
    "agent": {"batch_size": 8, "num_rollouts": 2},
    "rounds": 2,
    "evaluation": {"every": 2, "samples": 64, "final_samples": 64},
    "controls": [],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder of its own with the tiny settings in ``tiny.yaml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run, made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    arguments = ["train", "--quiet", "--config", str(folder / "tiny.yaml"), "--run", str(folder / "run")]
    assert main(arguments) == 0
    return folder / "run"


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def complaint(capsys, *arguments) -> str:
    """What a command that must fail says: one line on standard error, nothing on standard output, status 2."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith(f"seqgan-rl {arguments[0]}: "), err
    assert len(lines[0]) < 500
    assert "Traceback" not in err
    return lines[0]


FILES = {
    "empty.txt": b"",
    "blank.txt": b"\n \n\t\n",
    "binary.txt": bytes(range(256)) * 4,
    "latin.txt": "café\n".encode("latin-1") * 50,
    "utf16.txt": ("a b c\n" * 50).encode("utf-16"),
    "one_word.txt": b"a\n" * 99 + b"a a\na a a\n",
    "one_line.txt": b"a b c\n" * 99,
    "few.txt": b"".join(b"word%d and more\n" % i for i in range(8)),
    "long.txt": b"a b c\n" * 20 + b"x y " * 100 + b"\n",
    "unknown.yaml": b"agent: {learning_rat: 1}\n",
    "section.yaml": b"agent: 3\n",
    "data.yaml": b"data: [1]\n",
    "options.yaml": b"agent: {options: [n_epochs]}\n",
    "type.yaml": b"rounds: many\n",
    "preset.yaml": b"preset: quik\n",
    "syntax.yaml": b"rounds: [1\n",
    "list.yaml": b"- 1\n",
    "tag.yaml": b"seed: !!python/object/apply:os.mkdir ['bombed']\n",
    "date.yaml": b"seed: 2020-99-99\n",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--corpus", "none.txt"], ["none.txt", "no such file"]),
        (["--corpus", "empty.txt"], ["empty.txt", "empty"]),
        (["--corpus", "blank.txt"], ["blank.txt"]),
        (["--corpus", "binary.txt"], ["binary.txt", "binary"]),
        (["--corpus", "latin.txt"], ["latin.txt", "UTF-8", "iconv"]),
        (["--corpus", "utf16.txt"], ["utf16.txt", "UTF-8"]),
        (["--corpus", "."], ["directory"]),
        (["--corpus", "one_word.txt"], ["at least 2 words"]),
        (["--corpus", "one_line.txt"], ["distinct lines"]),
        (["--corpus", "few.txt"], ["few", "give more text"]),
        (["--corpus", "long.txt"], ["line 21", "--sequence-length", "--drop-longer"]),
        (["--corpus", "long.txt", "--sequence-length", "2", "--drop-longer"], ["no line has at most 2"]),
        (["--corpus", "few.txt", "--level", "sentence"], ["--level"]),
        (["--corpus", "few.txt", "--min-count", "0"], ["min_count"]),
        (["--corpus", "few.txt", "--max-vocab", "1"], ["max_vocab"]),
        (["--corpus", "proverbs", "--test", "few.txt"], ["test", "built-in"]),
        (["--corpus", "proverbs", "--agent.reward", "oracle"], ["oracle"]),
        (["--level", "char"], ["level", "--corpus"]),
        (["--sequence-length", "1"], ["sequence_length must be at least 2"]),
        (["--sequence-length", "0"], ["sequence_length must be at least 2"]),
        (["--sequence-length", "-3"], ["sequence_length must be at least 2"]),
        (["--vocab-size", "1"], ["vocab_size must be at least 2"]),
        (["--train-size", "0"], ["train_size"]),
        (["--data-seed", "-1"], ["data_seed"]),
        (["--seed", "-1"], ["seed"]),
        (["--rounds", "-1"], ["rounds"]),
        (["--rounds", "x"], ["--rounds", "'x'"]),
        (["--threads", "1000000000"], ["threads"]),
        (["--agent.num-rollouts", "0"], ["num_rollouts must be at least 1"]),
        (["--agent.num-rollouts", "1e99"], ["--agent.num-rollouts", "1e99"]),
        (["--agent.num-rollouts", "1" + "0" * 13], ["num_rollouts", "memory"]),
        (["--agent.num-rollouts", "1" + "0" * 30], ["one_of", "dimension", "memory", "cannot be built"]),
        (["--agent.batch-size", "0"], ["batch_size"]),
        (["--agent.learning-rate", "nan"], ["learning_rate"]),
        (["--agent.reward", "logits"], ["unknown reward 'logits'", "did you mean 'logit'"]),
        (["--agent.baseline", "rolout"], ["baseline", "rolout"]),
        (["--agent.algorithm", "pppo"], ["unknown algorithm 'pppo'", "did you mean 'ppo'"]),
        (["--agent.algorithm", "ppo", "--agent.options", "n_epoch=3"], ["n_epoch", "did you mean 'n_epochs'"]),
        (["--agent.algorithm", "ppo", "--agent.options", "n_epochs"], ["NAME=VALUE"]),
        (["--agent.algorithm", "ppo", "--agent.options", "n_epochs=[1"], ["cannot be read"]),
        (["--agent.algorithm", "ppo", "--agent.options", "gamma=1"], ["gamma", "decided by the run"]),
        (["--agent.algorithm", "ppo", "--preset", "repo2017"], ["PPO does not have weights, normalize, loss"]),
        (["--config", "options.yaml"], ["options must be a mapping"]),
        (["--network.precision", "float16"], ["--network.precision"]),
        (["--mle.batch-size", "0"], ["batch_size must be at least 1"]),
        (["--discriminator.batch-size", "-1"], ["batch_size must be at least 1"]),
        (["--network.dropout", "2"], ["dropout must lie in [0, 1)"]),
        (["--network.filters", "0"], ["filters must be positive"]),
        (["--generator.name", "lsmt"], ["unknown generator 'lsmt'", "lstm"]),
        (["--generator.hidden-dim", "0"], ["hidden_dim"]),
        (["--generator.init-std", "-1"], ["std"]),
        (["--evaluation.samples", "1"], ["samples must be at least 2"]),
        (["--agent.reward", "0.5*logit + 0.5*blue"], ["unknown reward 'blue'", "did you mean 'bleu'"]),
        (["--agent.reward", "0.5*"], ["is no reward", "0.5*discriminator + 0.5*bleu"]),
        (["--agent.algorithm", "rloo", "--agent.options", "beta=-1"], ["beta must be a finite number"]),
        (["--generator.name", "vae"], ["a VAE is no policy"]),
        (["--network.name", "ensemble", "--network.member", "cnn"], ["unknown discriminator 'cnn'"]),
        (["--scheduled-sampling.schedule", "cosine"], ["schedule must be one of inverse_sigmoid"]),
        (["--vae.kl-annealing", "cosine"], ["kl_annealing must be"]),
        (["--controls", "nothing"], ["unknown control 'nothing'", "shuffled"]),
        (["--device", "gpu"], ["device must be 'cpu' or a CUDA device", "got 'gpu'"]),
        (["--device", "cuda:99"], ["cuda:99", "device must be 'cpu'"]),
        (["--oracle", "none.npz"], ["none.npz", "does not exist"]),
        (["--oracle", "binary.txt"], ["binary.txt"]),
        (["--oracle", "--5"], ["oracle"]),
        (["--oracle", "-5"], ["oracle seed"]),
        (["--oracle", "²"], ["²"]),
        (["--preset", "quik"], ["unknown preset 'quik'", "did you mean 'quick'"]),
        (["--preset"], ["--preset"]),
        (["--config"], ["--config"]),
        (["--config", "none.yaml"], ["none.yaml", "does not exist"]),
        (["--config", "binary.txt"], ["binary.txt", "cannot be read"]),
        (["--config", "."], ["cannot be read"]),
        (["--config", "unknown.yaml"], ["unknown.yaml, agent", "learning_rat", "did you mean 'learning_rate'"]),
        (["--config", "section.yaml"], ["agent must be a mapping"]),
        (["--config", "data.yaml"], ["data must be a mapping"]),
        (["--config", "type.yaml"], ["rounds must be a whole number, got 'many'"]),
        (["--config", "preset.yaml"], ["unknown preset 'quik'"]),
        (["--config", "syntax.yaml"], ["syntax.yaml cannot be read"]),
        (["--config", "list.yaml"], ["list.yaml must hold a mapping"]),
        (["--config", "tag.yaml"], ["tag.yaml cannot be read"]),
        (["--config", "date.yaml"], ["date.yaml cannot be read"]),
        (["--roundz", "3"], ["--roundz", "--rounds"]),
        (["stray"], ["stray"]),
        (["--run", "."], ["exists"]),
        (["--run", "few.txt"], ["few.txt exists"]),
        (["--run", "few.txt/run"], ["cannot make the run folder"]),
        (["--run", "/proc/run"], ["/proc/run"]),
        (["--resume", "none"], ["none does not exist"]),
        (["--resume", "few.txt"], ["few.txt is not a run folder"]),
        (["--resume", "."], ["config.json is missing"]),
        (["--resume", ".", "--seed", "3"], ["leave out --seed"]),
        (["--resume=.", "--rounds=3", "--quiet"], ["leave out --rounds"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_bad_input_to_train_is_one_line_and_leaves_nothing(here, capsys, arguments, words):
    for name, content in FILES.items():
        (here / name).write_bytes(content)
    before = snapshot(here)
    line = complaint(capsys, "train", *arguments)
    any_of = words[1:] if words[0] == "one_of" else None
    assert any(word in line for word in any_of) if any_of else all(word in line for word in words), line
    assert snapshot(here) == before


def oracle_arrays(V=8, E=3, H=2):
    arrays = {form + gate: np.ones(s) for form, s in (("W", (E, H)), ("U", (H, H)), ("b", (H,))) for gate in "ifoc"}
    return arrays | {"embedding": np.ones((V, E)), "V": np.ones((H, V)), "c": np.ones(V)}


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("bombed",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"V": np.ones((3, 3))}, "'V' must have shape"),
        ({"embedding": np.ones(3)}, "'embedding'"),
        ({"c": np.full(8, np.nan)}, "NaN"),
        ({"bi": np.full(2, np.inf)}, "infinite"),
        ({"Wi": np.array([[Bomb()]], dtype=object)}, "pickled"),
        ({"Wi": np.array([["a"]])}, "must hold floats"),
        ({"Wi": None}, "lacks the array 'Wi'"),
    ],
)
def test_a_bad_oracle_file_is_one_line(here, capsys, change, words):
    arrays = {key: value for key, value in {**oracle_arrays(), **change}.items() if value is not None}
    np.savez(here / "o.npz", **arrays)
    assert words in complaint(capsys, "train", "--oracle", "o.npz", "--run", "run")
    (here / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    assert "pickle.npz" in complaint(capsys, "train", "--oracle", "pickle.npz", "--run", "run")
    assert not (here / "bombed").exists()
    assert not (here / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_line(here, capsys):
    assert "CUDA" in complaint(capsys, "train", "--device", "cuda")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--run"),
        (["--run", "none"], "none does not exist"),
        (["--run", "."], "config.json is missing"),
        (["--run", "RUN", "-n", "0"], "n must be at least 1"),
        (["--run", "RUN", "-n", "-1"], "n must be at least 1"),
        (["--run", "RUN", "-n", "many"], "many"),
        (["--run", "RUN", "--temperature", "0"], "temperature"),
        (["--run", "RUN", "--temperature", "nan"], "temperature"),
        (["--run", "RUN", "--top-p", "2"], "top_p"),
        (["--run", "RUN", "--top-k", "0"], "top_k"),
        (["--run", "RUN", "--seed", "-1"], "seed"),
        (["--run", "RUN", "--prompt", "1 2 3 4 5 6"], "shorter than the sequence length 6"),
        (["--run", "RUN", "--prompt", "1 zebra"], "'zebra' is not in the vocabulary"),
        (["--run", "RUN", "--model", "gan"], "no model 'gan'"),
        (["--run", "RUN", "--temprature", "1"], "--temprature"),
    ],
)
def test_bad_input_to_sample_is_one_line(here, run, capsys, arguments, words):
    arguments = [str(run) if argument == "RUN" else argument for argument in arguments]
    assert words in complaint(capsys, "sample", *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "none"], "none does not exist"),
        (["--run", "RUN", "--samples", "0"], "n_samples"),
        (["--run", "RUN", "--samples", "-5"], "n_samples"),
        (["--run", "RUN", "--seed", "-1"], "seed"),
    ],
)
def test_bad_input_to_evaluate_is_one_line(here, run, capsys, arguments, words):
    arguments = [str(run) if argument == "RUN" else argument for argument in arguments]
    assert words in complaint(capsys, "evaluate", *arguments)


def test_an_unknown_command_is_one_line(capsys):
    assert "did you mean 'train'" in complaint(capsys, "trian")
    assert "--x" in complaint(capsys, "envs", "--x")


@pytest.mark.parametrize(
    "name", ["config.json", "corpus/corpus.json", "corpus/corpus.npz", "generator/state.json", "oracle/state.json"]
)
def test_a_damaged_run_is_one_line(here, run, capsys, name):
    import shutil

    copy = Path(shutil.copytree(run, here / "copy"))
    for content in (b"", b"{}", b"\x80\x04\x95", (run / name).read_bytes()[:-20]):
        (copy / name).write_bytes(content)
        if not (name == "config.json" and content == b"{}"):  # which is a config of defaults
            assert "copy" in complaint(capsys, "sample", "--run", "copy", "-n", "1")


def test_an_existing_run_is_not_touched_and_resume_is_named(here, run, capsys):
    before = snapshot(run)
    line = complaint(capsys, "train", "--quiet", "--config", "tiny.yaml", "--run", run)
    assert f"{run} exists" in line
    assert f"--resume {run}" in line
    assert snapshot(run) == before


def test_more_memory_than_there_is_is_one_line(here, run, capsys):
    assert main(["sample", "--run", str(run), "-n", "1" + "0" * 14]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "smaller" in err
    assert main(["train", "--vocab-size", "1" + "0" * 13]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "smaller" in err


def test_a_full_disk_is_one_line(here, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "run/state.json")

    monkeypatch.setattr(RunFolder, "save_checkpoint", full)
    assert main(["train", "--quiet", "--config", "tiny.yaml", "--run", "run"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "No space left" in err


def test_a_full_disk_says_how_a_comparison_goes_on(here, capsys, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device", "c/status.json")

    monkeypatch.setattr("seqgan_rl.comparison.compare.compare", full)
    assert main(["compare"]) == 1
    assert capsys.readouterr().err.endswith("'c/status.json'; make room, then start the same command again\n")


def test_a_loss_that_is_not_finite_is_one_line_and_status_1(here, capsys):
    arguments = ["train", "--quiet", "--config", "tiny.yaml", "--run", "run", "--mle.learning-rate", "inf"]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "not finite" in err


# --- what works -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_describes_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "usage: seqgan-rl" in out
    assert err == ""


def test_the_program_describes_itself(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert all(f"  {command} " in out for command in COMMANDS)
    assert main(["--version"]) == 0
    assert seqgan_rl.__version__ in capsys.readouterr().out
    assert main(["envs"]) == 0
    assert "SeqGAN/Oracle-v0" in capsys.readouterr().out


def test_a_preset_then_a_file_then_flags(here, capsys):
    (here / "own.yaml").write_text("preset: text\nrounds: 7\nseed: 3\nagent: {learning_rate: 1e-4}\n")
    (here / "ppo.yaml").write_text("agent: {algorithm: ppo, options: {clip_range: 1e-1, n_epochs: 2}}\n")
    seen = []

    def fake(config, *args, **kwargs):
        seen.append(config)
        raise KeyboardInterrupt

    from seqgan_rl.adversarial import trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train", fake)
        for arguments in (
            [],
            ["--corpus", "proverbs"],
            ["--preset", "corrected", "--seed", "5"],
            ["--config", "own.yaml"],
            ["--config", "own.yaml", "--seed", "5", "--agent.learning-rate", "0.5"],
            ["--config", "own.yaml", "--preset", "quick"],
            ["--config", "ppo.yaml"],
            ["--config", "ppo.yaml", "--agent.options", "n_epochs=3", "target_kl=null", "--compile"],
        ):
            assert main(["train", *arguments]) == 130
    quick, text, corrected, own, flags, both, ppo, ppo_flags = seen
    assert quick == preset("quick")
    assert text.preset == preset("text").preset
    assert text.data.corpus == "proverbs"
    assert corrected == updated(preset("corrected"), {"seed": 5})
    assert own == updated(preset("text"), {"rounds": 7, "seed": 3, "agent": {"learning_rate": 1e-4}})
    assert flags == updated(own, {"seed": 5, "agent": {"learning_rate": 0.5}})
    assert both.preset == preset("quick").preset
    assert both.rounds == 7
    assert both.data == preset("quick").data
    assert ppo.agent == updated(
        preset("quick").agent, {"algorithm": "ppo", "options": {"clip_range": "1e-1", "n_epochs": 2}}
    )
    assert ppo_flags.agent.options == {"n_epochs": 3, "target_kl": None}
    assert (ppo.compile, ppo_flags.compile) == (False, True)
    assert not list(here.glob("runs/*"))


def test_the_function_gives_the_commands_numbers(here, run):
    config = updated(preset("quick"), TINY)
    result = seqgan_rl.train(config, here / "again", progress=False)
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(RunFolder(path))]
        for path in (run, here / "again")
    ]
    assert rows[0] == rows[1]
    assert rows[0]
    assert (run / "results.json").read_text() == (here / "again" / "results.json").read_text()
    assert result.verdict in (run / "results.md").read_text()
    assert RunFolder.open(run).config() == config


def test_a_runs_own_config_makes_the_same_run_again(here, run):
    assert main(["train", "--quiet", "--config", str(run / "config.json"), "--run", "again"]) == 0
    assert RunFolder.open("again").config() == RunFolder.open(run).config()
    assert (here / "again" / "results.json").read_text() == (run / "results.json").read_text()


def test_sample_prints_lines_that_start_with_the_prompt(run, capsys):
    assert main(["sample", "--run", str(run), "-n", "7", "--prompt", "3 4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.startswith("3 4 ") and len(line.split()) == 6 for line in lines)
    assert lines == seqgan_rl.sample(run, 7, prompt="3 4")


def test_evaluate_prints_the_scores_of_all_models(run, capsys):
    assert main(["evaluate", "--run", str(run), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["oracle entropy", "MLE", "SeqGAN"]
    assert main(["evaluate", "--run", str(run), "--samples", "64"]) == 0
    assert "SeqGAN" in capsys.readouterr().out


def test_evaluate_sweeps_over_temperatures(run, here, capsys):
    copy = Path(shutil.copytree(run, here / "copy"))
    assert main(["evaluate", "--run", str(copy), "--samples", "64", "--sweep"]) == 0
    out = capsys.readouterr().out
    for word in ("gap", "bleu_4", "real (training)", "temperature", "Dominated in both nll_oracle and nll_test"):
        assert word in out
    written = {path.name for path in (copy / "scores").iterdir()}
    assert written == {"scores.json", "scores.md", *(f"sweep_{x}.{y}" for x in ("nll", "bleu") for y in ("png", "svg"))}
    assert [*json.loads((copy / "scores" / "scores.json").read_text())["sweep"]] == ["MLE", "SeqGAN"]
    assert main(["evaluate", "--run", str(copy), "--samples", "16", "--sweep", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert len(rows["SeqGAN"]["sweep"]) == 11
    assert {*rows["SeqGAN"]["gaps"]} == {"nll", "bleu_4"}
    assert rows["oracle entropy"]["sweep"] is None


def test_a_run_of_another_agent_is_trained_sampled_and_evaluated(here, capsys):
    arguments = ["train", "--quiet", "--config", "tiny.yaml", "--run", "run", "--rounds", "1"]
    options = ["--agent.algorithm", "dqn", "--agent.options", "learning_starts=0", "batch_size=8"]
    assert main([*arguments, *options]) == 0
    assert "DQN" in capsys.readouterr().out
    assert RunFolder.open("run").config().agent.options == {"learning_starts": 0, "batch_size": 8}
    assert main(["sample", "--run", "run", "-n", "7", "--prompt", "3 4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("3 4 ") and len(line.split()) == 6 for line in lines)
    assert main(["evaluate", "--run", "run", "--json"]) == 0
    names = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert names == ["oracle entropy", "MLE", "DQN"]


# --- in a process of its own ------------------------------------------------------------------------------------


def start(*arguments, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seqgan_rl", *map(str, arguments)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of `make test &` would not hear Ctrl-C
    try:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_a_run_that_resume_finishes(here):
    process = start("train", "--config", "tiny.yaml", "--rounds", "100000", "--run", "my run", cwd=here)
    deadline = time.monotonic() + 90
    while '"round": 3' not in _text(here / "my run" / "metrics.jsonl") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted; continue with: seqgan-rl train --resume 'my run'"
    config = json.loads((here / "my run" / "config.json").read_text())
    (here / "my run" / "config.json").write_text(json.dumps({**config, "rounds": 5}))  # not to wait for 100,000
    process = start("train", "--resume", "my run", cwd=here)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "run folder: my run" in out
    assert (here / "my run" / "results.json").exists()


def test_ctrl_c_before_there_is_a_run_names_none(here, capsys, monkeypatch):
    from seqgan_rl.adversarial import trainer

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "prepare_data", interrupted)
    assert main(["train", "--run", "run"]) == 130
    err = capsys.readouterr().err
    assert "interrupted" in err
    assert "--resume" not in err
    assert not (here / "run").exists()


def test_python_m_says_the_same_and_a_closed_pipe_is_quiet(here, run):
    process = start("sample", "--run", "none", cwd=here)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    process = start("sample", "--run", run, "-n", "50000", cwd=here)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) != 0
    assert process.stderr.read() == ""
    process.stderr.close()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
