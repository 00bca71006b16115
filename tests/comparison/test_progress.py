"""What is shown of many jobs: what they have reached, and a picture that fits the terminal."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from seqgan_rl.comparison.launchers import Status, Work, launch
from seqgan_rl.comparison.progress import Display, Glance, glance_at
from seqgan_rl.comparison.records import State


def written(folder: Path, rows: list[object], job: object = None) -> Path:
    (folder / "run").mkdir(parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "run" / "metrics.jsonl").write_text("\n".join(lines))
    if job is not None:
        (folder / "job.json").write_text(json.dumps(job))
    return folder


def round_row(number: int, seconds: float, **more: float | None) -> dict[str, object]:
    return {"agent": "ppo", "round": number, "tokens": 100.0 * number, "time/seconds": seconds, **more}


EVALUATED = {"eval/entropy": 1.0, "eval/nll_oracle": 2.27374}


@pytest.mark.parametrize(
    ("rows", "job", "expected"),
    [
        ([], None, Glance()),
        (["nonsense", "[]", "1", "[" * 10**4], None, Glance()),
        (
            [{"agent": "mle", "epoch": 3, "time/seconds": 1.0}, '{"agent": "ml'],
            {"rounds": 5},
            Glance(stage="mle epoch 3"),
        ),
        (
            [round_row(1, 2.0), round_row(2, 4.0, **EVALUATED), round_row(3, 6.0)],
            {"config": {"rounds": 12, "seed": 0}, "budget": 10**6},
            Glance(stage="ppo round 3 of 12", share=0.25, speed=50.0, score="nll_oracle 2.274"),
        ),
        ([round_row(3, 1.0)], {"tokens": 400}, Glance(stage="ppo round 3", share=0.75)),
        (  # as a comparison's: it goes on until both its tokens and its evaluations are reached
            [round_row(3, 1.0, evaluations=25.0)],
            {"config": {"rounds": 1, "tokens": 300, "scored": 100}, "budget": 10**6, "evaluations": 10},
            Glance(stage="ppo round 3", share=0.25),
        ),
        (
            [round_row(3, 1.0, evaluations=25.0)],
            {"config": {"tokens": 400, "evaluations": 0}},
            Glance(stage="ppo round 3", share=0.75),
        ),
        ([round_row(3, 1.0)], {"rounds": 2}, Glance(stage="ppo round 3 of 2", share=1.0)),
        ([round_row(8, 90.0), round_row(9, 1.0), round_row(10, 2.0)], [1], Glance(stage="ppo round 10", speed=100.0)),
        (
            [{"agent": "\x1b[31m[red]x", "round": 1, "tokens": None, "eval/regret": None}],
            {"rounds": "7", "config": []},
            Glance(stage="[red]x round 1"),
        ),
        ([{"agent": 5, "round": float("nan"), "tokens": 10**400}], {"rounds": 0}, Glance(stage="5")),
    ],
)
def test_what_a_job_has_reached(tmp_path, rows, job, expected):
    assert glance_at(written(tmp_path / "job", rows, job)) == expected


def test_nothing_is_seen_where_nothing_is_or_a_pipe(tmp_path):
    assert glance_at(tmp_path) == Glance()
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "metrics.jsonl")
    assert glance_at(tmp_path) == Glance()


def many(tmp_path: Path) -> tuple[list[Work], dict[str, Status]]:
    """100 jobs: 30 done, 40 running, 10 failed, 20 waiting."""
    works = [Work(name=f"job-{i:02}", folder=tmp_path / str(i), command=()) for i in range(100)]
    statuses = {}
    for i, work in enumerate(works):
        state: State = "done" if i < 30 else "running" if i < 70 else "failed" if i < 80 else "waiting"
        statuses[work.name] = Status(state=state, attempts=1, error="[bold]no" if state == "failed" else "")
    written(works[30].folder, [round_row(1, 2.0), round_row(3, 6.0, **EVALUATED)], {"rounds": 12})
    return works, statuses


@pytest.mark.parametrize(("width", "height"), [(120, 30), (50, 12), (20, 3)])
def test_many_jobs_fit_the_terminal(tmp_path, width, height):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    works, statuses = many(tmp_path)
    lines = console.render_lines(Display(works, statuses, console=console)._picture(), pad=False)
    texts = ["".join(segment.text for segment in line) for line in lines]
    assert len(texts) <= max(height, 10)
    assert max(map(len, texts)) <= width
    if width < 120:
        return
    assert len(texts) == height - 1
    assert " ".join(texts[0].split()) == "job-30 ppo round 3 of 12 25% 0:00:00 50 tokens/s nll_oracle 2.274"
    assert texts[-9:-2] == [
        "and 20 more running",
        "failed  5 more",
        *(f"failed  job-{i}: [bold]no" for i in range(75, 80)),
    ]
    assert texts[-2] == "100 jobs: 30 done, 10 failed, 40 running, 20 waiting"
    assert "40/100" in texts[-1]


def test_time_left_follows_from_what_was_done_since_it_was_first_seen(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("seqgan_rl.comparison.progress.time.monotonic", lambda: now)
    folder = written(tmp_path / "job", [round_row(20, 1.0)], {"rounds": 100})
    works = [Work(name=name, folder=folder, command=()) for name in ("a", "b")]
    statuses = {"a": Status(state="running"), "b": Status()}
    console = Console(file=io.StringIO(), width=200)
    display = Display(works, statuses, console=console)
    display.changed(works[0], statuses["a"])
    console.print(display._picture())
    now += 60
    (folder / "run" / "metrics.jsonl").write_text(json.dumps(round_row(60, 2.0)))
    console.print(display._picture())
    first, second = (text for text in console.file.getvalue().split("ppo") if "%" in text)  # type: ignore[attr-defined]
    assert "left" not in first
    assert "60%  0:01:00  0:01:00 left" in second  # 40 % in a minute, 40 % to come
    assert "0/2  0:01:00  0:04:00 left" in second  # 0.4 of two jobs in a minute, 1.6 to come


def test_a_terminal_has_a_live_picture_and_keeps_the_last(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20, color_system=None)
    works, statuses = many(tmp_path)
    with Display(works, statuses, console=console) as display:
        statuses["job-30"] = Status(state="done", attempts=1)
        display.changed(works[30], statuses["job-30"])
        display.tick()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "30 done" in shown
    assert shown.rindex("31 done, 10 failed, 39 running, 20 waiting") > shown.rindex("30 done")


def test_without_a_terminal_each_change_is_a_line_and_quiet_is_quiet(tmp_path, capsys):
    works = [
        Work(name=name, folder=tmp_path / name, command=("-c", f"raise SystemExit({code!r})"))
        for name, code in (("good", 0), ("bad", "[bold]" + "no " * 60))
    ]
    launch(works, workers=1, attempts=2)
    out, err = capsys.readouterr()
    reason = ("[bold]" + "no " * 60).strip()
    lines = err.splitlines()
    assert out == ""
    assert lines.pop(1).startswith("[1/2] done    good (0:00:0")
    assert lines == [
        "[0/2] running good",
        "[1/2] running bad",
        f"[1/2] again   bad: {reason}",
        "[1/2] running bad",
        f"[2/2] failed  bad: {reason}",
        "2 jobs: 1 done, 1 failed",
    ]
    launch(works, workers=1, progress=False)
    assert capsys.readouterr() == ("", "")


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_that_has_gone_stops_nothing(tmp_path, is_terminal):
    works, statuses = many(tmp_path)
    with Display(works, statuses, console=Console(file=Gone(), force_terminal=is_terminal)) as display:
        display.changed(works[0], statuses["job-00"])
        display.tick()
        display.say("x")
