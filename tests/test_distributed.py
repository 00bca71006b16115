"""One run on several ranks: the same values and gradients as one process with the whole batch, one folder, one end.

The ranks of most tests are forks of this process in a gloo group; whole runs are started by torchrun as users do.
Letters: W ranks, B sequences, T tokens each.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from seqgan_rl.adversarial import results, session
from seqgan_rl.adversarial.rounds import Rounds
from seqgan_rl.adversarial.run_folder import RunFolder, read_metrics
from seqgan_rl.adversarial.trainer import train
from seqgan_rl.core import distributed
from seqgan_rl.core.distributed import Ranks, is_first, joined
from seqgan_rl.core.errors import InputError
from seqgan_rl.core.streams import torch_seeded
from seqgan_rl.discriminators import DiscriminatorConfig, DiscriminatorTrainer, discriminators
from seqgan_rl.envs.exact import SequenceTree
from seqgan_rl.models import lstm_decoder
from seqgan_rl.models.generator import LSTMGenerator
from seqgan_rl.rewards import rewards
from seqgan_rl.rewards.base import Reward, RewardParts
from seqgan_rl.rollout import action_values, prefix_values
from tests.adversarial.conftest import TINY, tiny_config
from tests.adversarial.crashing import assert_same_run

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ranks are forked"),
]
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SECONDS = 60
"""A group that takes longer has hung."""


def statuses(W: int, work: Callable[[int], Any], folder: Path) -> list[int]:
    """How W forked processes ended, each in torchrun's environment and with the answer of ``work(rank)`` in a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(W):
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{W}"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
            status = 1
            try:
                torch.save(work(rank), folder / f"rank{rank}.pt")
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def on_ranks(W: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """What each of W ranks in one group returns."""

    def in_group(rank: int) -> Any:
        with joined() as ranks:
            assert ranks == Ranks(rank, W)
            return work()

    assert statuses(W, in_group, folder) == [0] * W
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(W)]


# ---------------------------------------------------------------- without a group


def test_alone_there_is_no_group() -> None:
    with joined() as ranks:
        assert ranks is None
        assert distributed.ranks() is None
        assert not torch.distributed.is_initialized()
    assert is_first()


@given(counts=st.lists(st.integers(0, 5), max_size=6), W=st.integers(1, 7))
def test_every_row_is_in_one_share(counts: list[int], W: int) -> None:
    group_B = np.repeat(np.arange(len(counts)), counts)
    shares = [group_B[Ranks(rank, W).share] for rank in range(W)]
    assert sorted(np.concatenate(shares)) == list(group_B)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for rank, share in enumerate(shares):
        assert Ranks(rank, W).counts(counts) == tuple(np.bincount(share, minlength=len(counts)))


@pytest.mark.parametrize("is_transposed", [False, True], ids=["rows", "columns"])
def test_each_rank_draws_its_rows_of_the_whole_dropout(is_transposed: bool) -> None:
    """Rows in memory one after the other, or columns, as 1x1 convolutions leave them."""
    x_BF = torch.rand(3, 7).T if is_transposed else torch.rand(7, 3)

    def drawn(x_BF: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        dropped_BF = nn.Dropout(0.4)(x_BF)
        masks = torch.rand((len(x_BF), 2)), torch.rand(len(x_BF), 1, 2)
        # of no batch: not touched
        return dropped_BF, functional.dropout(dropped_BF, 0.3, False), *masks, torch.rand(5)

    whole = drawn(x_BF)
    for rank in range(3):
        mine = Ranks(rank, 3).share
        own_BF = x_BF.T[:, [*range(7)][mine]].T if is_transposed else x_BF[mine]
        with Ranks(rank, 3).whole_draws(7):
            part = drawn(own_BF)
        assert all(torch.equal(a, b[mine]) for a, b in zip(part[:4], whole[:4], strict=True))
        assert torch.equal(part[4], whole[4])


def test_gpus_are_one_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    distributed.take_device("cuda")  # alone: torch's choice
    monkeypatch.setattr(distributed, "_ranks", Ranks(3, 4))
    distributed.take_device("cpu")
    distributed.take_device("cuda")
    assert taken == [1]
    with pytest.raises(InputError, match="expected 'cuda', got 'cuda:0'"):
        distributed.take_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="number 3 on a machine with 2; start torchrun with --nproc-per-node 2"):
        distributed.take_device("cuda")


# ---------------------------------------------------------------- action values


def value_cases() -> Iterator[tuple[str, Callable[[], tuple[Tensor, ...]]]]:
    """Name, and values of all prefixes, of some prefixes, and what the reward remembers."""

    def case(formula: str, *, V: int = 6, T: int = 5, has_eos: bool = False, prompts: bool = False, B: int = 7) -> Any:
        def work() -> tuple[Tensor, ...]:
            with torch_seeded(np.random.default_rng(8)):
                generator = LSTMGenerator(V + has_eos, T, has_eos, hidden_dim=5, init_std=1.0)
                discriminator = discriminators["small_cnn"](V + has_eos, T, widths=(1, 2), filters=5, embedding_dim=4)
            rng = np.random.default_rng(3)
            tokens_NT, lengths_N = SequenceTree(V, T, has_eos).sequences()
            rows_B = torch.from_numpy(rng.permutation(len(tokens_NT))[:B])
            tokens_BT, lengths_B = tokens_NT[rows_B], lengths_N[rows_B]
            uniforms_BTNT = torch.from_numpy(rng.random((B, T - 1, 3, T), dtype=np.float32))
            parts = RewardParts(discriminator=discriminator, real=lambda: tokens_NT[::7], rng=rng)
            reward: Reward = NeedsRows() if formula == "needs rows" else rewards[formula](parts)
            start_B = (lengths_B - 1).clamp_max(2) * torch.arange(B).remainder(2) if prompts else None
            q_BT = action_values(generator, reward, tokens_BT, lengths_B, uniforms_BTNT, start_B=start_B)
            values_B = prefix_values(
                generator, reward, tokens_BT, lengths_B.clamp_max(2), uniforms_BTNT[:, -1], is_finished_B=lengths_B <= 2
            )
            return q_BT, values_B, torch.tensor([reward.state_dict().get("count", 0)])

        return work

    for formula in (
        "discriminator",
        "normalised(logit)",
        "0.5*logit + 0.5*normalised(bleu)",
        "shuffled",
        "rank(logit)",
    ):
        yield formula, case(formula)
    yield "maligan", case("maligan")
    yield "ends early", case("logit", V=3, has_eos=True)
    yield "ends early, remembered", case("normalised", V=3, has_eos=True, prompts=True)
    yield "prompts", case("bleu", prompts=True)
    yield "fewer rows than ranks", case("needs rows", T=2, B=1)


class NeedsRows(Reward):
    """A user's reward that cannot take an empty batch."""

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        assert len(tokens_BT) > 0
        return (tokens_BT * lengths_B[:, None]).sum(dim=1).float()


@pytest.mark.parametrize("W", [2, 3])
def test_values_are_those_of_one_process(W: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rewards with a memory too, which is the same on every rank; also where completion is static, as on GPUs."""
    cases = dict(value_cases())

    def work() -> dict[str, tuple[Tensor, ...]]:
        found = {name: case() for name, case in cases.items()}
        with monkeypatch.context() as patch:
            patch.setattr(lstm_decoder, "runs_static", lambda device: True)
            return found | {f"{name}, static": case() for name, case in cases.items()}

    alone = work()
    assert len({tuple(q_BT.flatten().tolist()) for q_BT, _, _ in alone.values()}) >= len(cases)  # cases differ
    for found in on_ranks(W, work, tmp_path):
        for name, parts in alone.items():
            for part, whole in zip(found[name], parts, strict=True):
                assert torch.allclose(part, whole, atol=1e-6, rtol=0), name


# ---------------------------------------------------------------- the discriminator's gradient

NETWORKS: dict[str, dict[str, Any]] = {
    "small_cnn": {"widths": (1, 2, 3), "filters": 4, "embedding_dim": 4, "dropout": 0.3, "token_dropout": 0.2},
    "paper_cnn": {"widths": (1, 2), "filters": 4, "embedding_dim": 4, "dropout": 0.3, "spectral_norm": True},
    "gru": {"embedding_dim": 4, "hidden_dim": 3, "dropout": 0.3, "token_dropout": 0.2, "spectral_norm": True},
    "transformer": {"embedding_dim": 4, "num_layers": 1, "num_heads": 2, "dropout": 0.3, "token_dropout": 0.2},
    "ensemble": {"size": 2, "widths": (1, 2), "filters": 3, "embedding_dim": 4, "dropout": 0.3},
}


def trained(name: str, gradient_penalty: float) -> dict[str, Tensor]:
    """The gradient of the first of eight minibatches, of 7 (every fourth of 1) real sequences and as many others; what
    was recorded, and logits after them. (Not weights: Adam makes steps of gradients that are 0 but for rounding.)"""
    rng, T = np.random.default_rng(5), 6
    with torch_seeded(rng):
        network = discriminators[name](12, T, **NETWORKS[name])
    config = DiscriminatorConfig(batch_size=7, gradient_penalty=gradient_penalty, label_smoothing=0.1, replay_share=0.3)
    real_BT, fake_BT = (torch.from_numpy(rng.integers(12, size=(n, T))) for n in (30, 22))
    fake_BT[::2, 4:] = 12  # PAD
    trainer = DiscriminatorTrainer(network, real_BT, config, rng)
    gradients: dict[str, Tensor] = {}
    step = trainer.optimizer.step

    def watched() -> None:
        if not gradients:
            gradients.update(
                {f"gradient {n}": p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
            )
        step()

    trainer.optimizer.step = watched  # type: ignore[assignment, method-assign]
    trainer.train(fake_BT)
    record = trainer.train(fake_BT.flip(0))
    return {
        **gradients,
        "logits": network.score(real_BT),
        **{f"record {n}": torch.tensor(value) for n, value in record.items()},
    }


@pytest.mark.parametrize("W", [2, 3])
def test_gradients_are_those_of_one_process(W: int, tmp_path: Path) -> None:
    """With dropout of features and of tokens, gradient penalty, spectral norm, the authors' L2 term, ensembles, older
    negatives, uneven shares, and a minibatch smaller than the number of ranks."""
    cases = [(name, penalty) for name in NETWORKS for penalty in (0.0, 1.0)]

    def work() -> list[dict[str, Tensor]]:
        return [trained(*case) for case in cases]

    alone = work()
    on_each = on_ranks(W, work, tmp_path)
    for case, whole, *others in zip(cases, alone, *on_each, strict=True):
        assert len([key for key in whole if key.startswith("gradient")]) > 4
        for key, value in whole.items():
            close = 1e-6 if key.startswith("gradient") else 1e-4
            for found in others:
                assert torch.allclose(found[key], value, atol=close, rtol=10 * close), (case, key)
                assert torch.equal(found[key], others[0][key])  # the same bits on all ranks


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def small_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No figures; where ranks keep their copies."""
    monkeypatch.setattr(results, "learning_curves", lambda *args: None)
    monkeypatch.setattr(results, "quality_coverage", lambda *args: None)
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    return copies


def copies_in(folder: Path) -> list[Path]:
    """What ranks above 0 have left of their copies of a run."""
    return list(folder.glob("seqgan_rl-rank-*"))


def assert_close_runs(a: Path, b: Path) -> None:
    """The same rows with numbers within 1e-4, and the same files."""
    rows = [read_metrics(RunFolder(run)) for run in (a, b)]
    assert len(rows[0]) == len(rows[1]) > 10
    for left, right in zip(*rows, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            if not key.startswith("time/"):
                assert left[key] == (right[key] if isinstance(right[key], str) else pytest.approx(right[key], abs=1e-4))
    files = [{str(p.relative_to(run)) for p in run.rglob("*") if "tensorboard" not in p.parts} for run in (a, b)]
    assert {name for name in files[0] if "checkpoints" not in name} == {
        name for name in files[1] if "checkpoints" not in name
    }


def torchrun(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=2 * SECONDS)


def test_torchrun_trains_one_run_with_the_numbers_of_one_process(small_ends: Path, tmp_path: Path) -> None:
    settings = {**TINY, "controls": ["shuffled"], "agent": {**TINY["agent"], "reward": "normalised(logit)"}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"preset": "quick", **settings}))
    run = tmp_path / "two"
    program = ("-m", "--", "seqgan_rl", "train", "--config", str(tmp_path / "tiny.yaml"), "--quiet", "--run", str(run))
    done = torchrun(*program, folder=small_ends)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1
    train(tiny_config(**settings), tmp_path / "one", progress=False)
    (tmp_path / "one" / "figures").rmdir()
    assert {path.name for path in (run / "figures").iterdir()} >= {"learning_curves.png"}
    for path in (run / "figures").iterdir():
        path.unlink()
    (run / "figures").rmdir()
    assert_close_runs(tmp_path / "one", run)
    assert copies_in(small_ends) == []


def test_a_killed_run_of_two_ranks_is_continued_to_the_same_numbers(small_ends: Path, tmp_path: Path) -> None:
    """Whichever was killed, the other ends too, and no copy of the run stays behind."""
    config = tiny_config(controls=[], rounds=3)
    end_round = Rounds._end_round

    def go(path: Path, resume: bool) -> list[int]:
        return statuses(2, lambda rank: len(train(config, path, resume=resume, progress=False).rows), tmp_path)

    assert go(tmp_path / "whole", False) == [0, 0]
    assert torch.load(tmp_path / "rank0.pt") > 0
    assert torch.load(tmp_path / "rank1.pt") == 0  # its scores are rank 0's
    for killed, ends in ((0, [-signal.SIGKILL, 1]), (1, [1, -signal.SIGKILL])):

        def end_of_one(loop: Rounds, killed: int = killed) -> None:
            end_round(loop)
            if loop.round == 2 and is_first() == (killed == 0):
                os.kill(os.getpid(), signal.SIGKILL)

        run, started = tmp_path / f"killed{killed}", time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Rounds, "_end_round", end_of_one)
            assert go(run, False) == ends
        while copies_in(small_ends):  # removed by a process that outlives the rank
            time.sleep(0.1)
            assert time.monotonic() - started < SECONDS / 2
        assert RunFolder(run).last_checkpoint() is not None
        assert go(run, True) == [0, 0]
        assert_same_run(tmp_path / "whole", run)


def test_an_error_on_another_rank_ends_all(small_ends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without torchrun, which ends the others when one has failed."""
    update = DiscriminatorTrainer._update

    def fails(trainer: DiscriminatorTrainer, *batch: Tensor) -> dict[str, float]:
        if not is_first() and trainer.minibatches == 3:
            raise FloatingPointError("out of luck")
        return update(trainer, *batch)

    monkeypatch.setattr(DiscriminatorTrainer, "_update", fails)
    started, run = time.monotonic(), tmp_path / "run"
    assert statuses(2, lambda rank: train(tiny_config(), run, progress=False), tmp_path) == [1, 1]
    assert time.monotonic() - started < SECONDS / 2
    assert (run / "mle").is_dir()
    assert not (run / "discriminator").exists()
    assert copies_in(small_ends) == []
