"""One job: what it records, that it can be killed, and that all jobs of a seed start from the same place."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from seqgan_rl.adversarial import session
from seqgan_rl.adversarial.run_folder import RunFolder
from seqgan_rl.agents.seqgan import SeqGAN
from seqgan_rl.comparison.experiment import Spec, prepare, specs
from seqgan_rl.comparison.jobs import _seconds, main, read_curve, read_record, run_job
from seqgan_rl.comparison.records import Job
from seqgan_rl.core.errors import InputError
from tests.comparison.conftest import tiny_comparison, tiny_run


def write_jobs(root, config) -> dict[tuple[str, str], Spec]:
    config, data = prepare(config)
    found = {(spec.task, spec.agent): spec for spec in specs(config, data)}
    for spec in found.values():
        (root / spec.folder).mkdir(parents=True)
        (root / spec.folder / "job.json").write_text(json.dumps(dataclasses.asdict(spec)))
    return found


def record_of(root, spec) -> Job:
    run_job(root / spec.folder)
    record = read_record(root / spec.folder)
    assert record is not None
    return record


def without_times(job: Job) -> Job:
    return dataclasses.replace(
        job,
        points=tuple(dataclasses.replace(point, seconds=0.0) for point in job.points),
        diagnostics=tuple({k: v for k, v in row.items() if not k.startswith("time/")} for row in job.diagnostics),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def jobs(root):
    config = tiny_comparison(
        agents=("mle", "mle_continued", "seqgan_advantage", "rloo", "dqn", "shuffled"),
        tracks=("adversarial", "frozen"),
        frozen_rewards=("oracle",),
    )
    return write_jobs(root, config)


@pytest.fixture(scope="module")
def records(root, jobs):
    return {key: record_of(root, spec) for key, spec in jobs.items()}


def test_all_agents_start_from_the_same_policy_on_the_same_data(records):
    own = {key: record.points[0].scores for key, record in records.items() if key[0] and key[1] != "dqn"}
    for name in ("nll_oracle", "nll_test", "entropy", "distinct_tokens"):  # (DQN has no probabilities of its own)
        assert len({round(scores[name], 9) for scores in own.values()}) == 1
    assert len({record.hashes["corpus"] for record in records.values()}) == 1
    assert len({record.hashes["oracle"] for record in records.values()}) == 1


def test_points_rise_in_what_was_used_and_end_at_the_budget(records, jobs):
    for key, record in records.items():
        used = [(point.tokens, point.evaluations) for point in record.points]
        assert used == sorted(used)
        if jobs[key].kind == "agent":
            assert used[0] == (0, 0)
            assert record.points[-1].tokens >= jobs[key].budget > record.points[-2].tokens
            assert record.points[-1].seconds > 0
            assert "reward" in record.points[-1].scores
        else:  # what is fitted generates nothing and asks no reward
            assert set(used) <= {(0, 0)}
    assert records["adversarial", "mle_continued"].points[-1].seconds > 0
    with_rollouts = records["adversarial", "seqgan_advantage"].points[-1]
    without = records["adversarial", "rloo"].points[-1]
    assert with_rollouts.tokens == without.tokens == 6 * without.evaluations
    assert with_rollouts.evaluations == (16 * 5 + 1) * without.evaluations


def test_the_gap_is_read_off_the_curve_of_the_start(records, root, jobs):
    curve = read_curve(root / jobs["", "mle"].folder)
    point = records["adversarial", "seqgan_advantage"].points[-1].scores
    assert point["gap"] == pytest.approx(curve.distance(point["nll_oracle"], point["nll_test"]))
    at_one = [p for t, p in zip(curve.temperatures, curve.points, strict=True) if t == 1.0]
    assert records["adversarial", "mle"].points[0].scores["nll_test"] == pytest.approx(at_one[0].nll_test)


def test_a_frozen_reward_is_measured_on_the_policys_own_samples(records):
    for agent in ("mle", "seqgan_advantage", "shuffled"):
        scores = records["frozen-oracle", agent].points[-1].scores
        assert scores["reward"] == pytest.approx(-scores["nll_oracle"], abs=0.3)  # other samples, 128 of each


def test_samples_are_words_with_the_values_of_one_reward_for_all(records):
    for key, record in records.items():
        if key[0]:
            assert len(record.samples) == 12
            assert all(len(sample.words) == len(sample.values) == 6 for sample in record.samples)
    mle, dqn = (records["frozen-oracle", agent].samples for agent in ("mle", "dqn"))
    assert np.mean([s.values[-1] for s in mle]) < 0  # log-likelihoods of whole sequences
    assert mle != dqn


def test_the_sweep_is_of_the_agents_own_policy(records):
    assert records["adversarial", "shuffled"].sweep[0]["temperature"] == 0.5
    entropies = [row["entropy"] for row in records["adversarial", "shuffled"].sweep]
    assert entropies == sorted(entropies)


def test_a_job_that_was_killed_goes_on_to_the_same_record(root, jobs, records, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    shutil.copytree(root / "starts", tmp_path / "starts")
    spec = jobs["adversarial", "seqgan_advantage"]
    folder = tmp_path / spec.folder
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(dataclasses.asdict(spec)))
    train, calls = SeqGAN.train, []

    def dies(agent) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        train(agent)

    with monkeypatch.context() as patch:
        patch.setattr(SeqGAN, "train", dies)
        with pytest.raises(KeyboardInterrupt):
            run_job(folder)
    assert read_record(folder) is None
    again = record_of(tmp_path, spec)
    assert without_times(again) == without_times(records["adversarial", "seqgan_advantage"])


def test_seconds_of_a_fitted_stage_go_on_after_a_pause_and_leave_evaluations_out(tmp_path):
    rows = [
        ("mle", 90.0, {}),
        ("mle_continued", 3.0, {"mle/valid_nll": 2.0}),
        ("mle_continued", 5.0, {"mle/valid_nll": 2.0}),
        ("mle_continued", 2.0, {"mle/valid_nll": 2.0}),  # a process that went on
        ("mle_continued", 9.0, {"eval/nll_test": 2.0}),
    ]
    lines = [json.dumps({"agent": agent, "epoch": 1, **more, "time/seconds": time}) for agent, time, more in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert _seconds(RunFolder(tmp_path), "mle_continued") == 5 + 2


def test_a_job_that_is_done_is_left_alone(root, jobs, records):
    path = root / jobs["adversarial", "rloo"].folder / "record.json"
    before = path.stat().st_mtime_ns
    run_job(path.parent)
    assert path.stat().st_mtime_ns == before


def test_a_corpus_is_compared_by_bleu(tmp_path):
    words = [("cat", "dog"), ("saw", "bit", "met"), ("man", "hat", "bus")]
    lines = [f"the {a} {b} a {c} ." for a, b, c in itertools.product(*words)]
    (tmp_path / "corpus.txt").write_text("\n".join(lines * 12))
    run = tiny_run(data={"corpus": str(tmp_path / "corpus.txt"), "vocab_size": 5000, "sequence_length": None})
    config = tiny_comparison(env="SeqGAN/Corpus-v0", run=run, agents=("mle", "seqgan_advantage"), budget=400)
    jobs = write_jobs(tmp_path / "comparison", config)
    found = {key: record_of(tmp_path / "comparison", spec) for key, spec in jobs.items()}
    scores = found["adversarial", "seqgan_advantage"].points[-1].scores
    assert {"bleu_4", "self_bleu_4", "nll_test"} <= set(scores)
    assert "nll_oracle" not in scores
    spoken = {word for sample in found["adversarial", "mle"].samples for word in sample.words}
    assert spoken <= {"the", "a", ".", "<eos>", *itertools.chain(*words)}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "agent"}', '{"a": 1}', "\x00", '{"kind": 1, "x": {}}'])
def test_a_folder_that_holds_no_job_is_one_line(tmp_path, content, monkeypatch, capsys):
    (tmp_path / "job.json").write_text(content)
    with pytest.raises(InputError):
        run_job(tmp_path)
    monkeypatch.setattr("sys.argv", ["jobs", str(tmp_path)])
    assert main() == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"points": 1}', '{"points": [], "samples": [{"words": 3}]}'])
def test_a_damaged_record_is_no_record(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    assert read_record(tmp_path) is None
