"""The report as text: what it says, that it holds everything it needs, and that nothing in it can run or call out."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from seqgan_rl.comparison import report
from seqgan_rl.comparison.figures import figures
from seqgan_rl.comparison.records import Comparison, Job, Sample
from seqgan_rl.comparison.report import printable, write_report
from tests.comparison.synthetic import synthetic_comparison

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"&amp;"
WORDS = (
    "</script>",
    HOSTILE,
    "a\u2028b\u2029c",
    "שלום",
    "\u202ereversed",
    "👩‍🔬",
    "\x00\n\x7f",
    "\ud800",
    "",
    "long" * 500,
)


def small(agents: tuple[str, ...] = ("mle", "seqgan", "ppo", "dqn", "random"), seeds: int = 3) -> Comparison:
    """Two tasks of the synthetic comparison with two scores each, so that it is drawn in seconds."""
    whole = synthetic_comparison(seeds=seeds)
    kept = {"adversarial": ("gap", "nll_test"), "exact-table": ("regret", "kl")}
    tasks = tuple(dataclasses.replace(t, metrics=kept[t.name]) for t in whole.tasks if t.name in kept)
    jobs = tuple(
        dataclasses.replace(
            job, diagnostics=tuple({k: row[k] for k in ("tokens", "agent/reward")} for row in job.diagnostics)
        )
        for job in whole.jobs
        if job.agent in agents and job.task in kept
    )
    return dataclasses.replace(whole, tasks=tasks, jobs=jobs)


def hostile() -> Comparison:
    """Text that must not run, or break the page, wherever a run can put text."""
    comparison = small()

    def spoiled(job: Job) -> Job:
        agent = "<b onclick=x>$x_1$</b>" if job.agent == "seqgan" else job.agent
        error = f"{HOSTILE}\x00\u202e\ud800" if job.error else ""
        samples = (Sample(words=WORDS, values=(*(i / 10 for i in range(9)), math.nan)), *job.samples)
        settings = {**job.settings, HOSTILE: {"\ud800": HOSTILE}}
        stopped = HOSTILE if job.stopped else ""
        spoilt = dataclasses.replace(
            job, agent=agent, error=error, stopped=stopped, settings=settings, hashes={"x": HOSTILE}
        )
        return dataclasses.replace(spoilt, samples=samples) if job.samples else spoilt

    return dataclasses.replace(
        comparison, name=HOSTILE, command=HOSTILE, machine=HOSTILE, jobs=tuple(map(spoiled, comparison.jobs))
    )


class Page(HTMLParser):
    """Elements and attributes of a page, its scripts, and the text outside them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements = list[tuple[str, dict[str, str | None]]]()
        self.text = ""
        self.scripts = list[str]()
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.elements if attribute in attrs]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return hostile()


@pytest.fixture(scope="module")
def folder(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "new"
    assert write_report(comparison, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For pages whose figures do not matter."""
    monkeypatch.setattr(report, "figures", lambda comparison: [])


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"img", "iframe", "object", "embed", "base", "form", "video", "audio"})
    assert page.values("src") == []
    links = page.values("href") + page.values("xlink:href")
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert "@import" not in str(page.elements)


def test_only_the_script_of_the_report_may_run(page: Page, comparison: Comparison) -> None:
    policy = next(
        attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert len(page.scripts) == 2
    data, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert re.search(r"[<>&\u2028\u2029]", data) is None
    assert HOSTILE in page.text  # as text


def test_ids_are_unique_and_links_have_a_target(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in page.values("href") + page.values("xlink:href") if link.startswith("#")}
    assert targets <= set(ids)


def test_samples_are_embedded_as_they_are_but_for_what_does_not_print(page: Page) -> None:
    task = json.loads(page.scripts[0])[0]
    job = task["agents"][0]["seeds"][0]
    sample = job["samples"][0]
    assert sample["words"] == [
        *("</script>", HOSTILE, "a⟨U+2028⟩b⟨U+2029⟩c", "שלום", "⟨U+202E⟩reversed", "👩‍🔬", "␀␊⟨U+007F⟩", "⟨U+D800⟩"),
        *("(empty)", "long" * 25 + "… (2,000 letters)"),
    ]
    assert sample["values"] == [*(i / 10 for i in range(9)), None]
    assert (sample["length"], job["total"], len(job["samples"])) == (10, 5, 5)
    scale = task["scale"]
    assert scale["high"] - scale["middle"] == pytest.approx(scale["middle"] - scale["low"])
    assert scale["low"] < scale["middle"]


def test_the_folder_has_the_same_as_files(folder: Path, comparison: Comparison) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["report", "report.html"]
    names = [drawing.name for drawing in figures(comparison)]
    assert len(names) == 13
    found = {path.name: path.read_bytes() for path in (folder / "report" / "figures").iterdir()}
    assert sorted(found) == sorted(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    assert all(data[:4] == (b"\x89PNG" if name.endswith("png") else b"<svg") for name, data in found.items())
    points = list(csv.DictReader(io.StringIO((folder / "report" / "points.csv").read_text())))
    assert {(row["task"], row["seed"]) for row in points} == {(job.task, str(job.seed)) for job in comparison.jobs}
    rows = list(csv.DictReader(io.StringIO((folder / "report" / "tables.csv").read_text())))
    assert len(rows) == 2 * 2 * 5  # tasks, axes, agents
    text = (folder / "report" / "report.md").read_text()
    assert all(f"](figures/{name}.png)" in text for name in names)
    assert "## adversarial, at the budget of tokens" in text


@pytest.mark.usefixtures("undrawn")
def test_budgets_are_those_of_the_tasks(tmp_path: Path) -> None:
    adversarial, exact = small().tasks
    exact = dataclasses.replace(exact, budget=2_000, evaluations=500)
    both = dataclasses.replace(small(), tasks=(adversarial, exact), budget=10_000, evaluations=3_000)

    def written(comparison: Comparison) -> str:
        write_report(comparison, tmp_path)
        return (tmp_path / "report" / "report.md").read_text()

    text = written(both)
    assert "- Budget: 10,000 generated tokens (adversarial); 2,000 generated tokens (exact-table)\n" in text
    assert "- Second budget: 3,000 reward evaluations (adversarial); 500 reward evaluations (exact-table)\n" in text
    jobs = tuple(job for job in both.jobs if job.task == exact.name)
    text = written(dataclasses.replace(both, tasks=(exact,), jobs=jobs))
    assert "- Budget: 2,000 generated tokens\n- Second budget: 500 reward evaluations\n" in text


@pytest.mark.usefixtures("undrawn")
def test_what_failed_or_is_missing_stands_at_the_top(tmp_path: Path) -> None:
    text = write_report(small(), tmp_path).read_text()
    top = Page(text[: text.index('id="glance"')]).text
    assert "Of 30 jobs: 1 failed and 1 not finished" in top
    assert re.search(r"adversarial, ppo, seed 2: failed after 3 attempts\s*NotFiniteError: the loss is nan", top)
    assert "exact-table, random, seed 2: running" in top
    assert "1 stopped early by a guard" in top
    assert "have finished" not in top


@pytest.mark.usefixtures("undrawn")
def test_many_failed_jobs_are_folded_under_their_number(tmp_path: Path) -> None:
    whole = small(("mle", "seqgan", "ppo"), seeds=3)
    jobs = tuple(dataclasses.replace(job, state="failed", error="boom") for job in whole.jobs)

    def folded(kept: tuple[Job, ...]) -> str:
        text = write_report(dataclasses.replace(whole, jobs=kept), tmp_path).read_text()
        found = re.search(r"<details( open)?><summary>(\d+ failed)", text)
        assert found is not None
        return f"{found[2]}{found[1] or ''}"

    assert folded(jobs[:12]) == "12 failed open"
    assert folded(jobs) == "18 failed"


@pytest.mark.usefixtures("undrawn")
def test_seeds_that_were_never_asked_for_are_named(tmp_path: Path) -> None:
    whole = small(("mle", "seqgan"))
    jobs = tuple(job for job in whole.jobs if (job.task, job.agent, job.seed) != ("exact-table", "mle", 1))
    text = Page(write_report(dataclasses.replace(whole, jobs=jobs), tmp_path).read_text()).text
    assert "exact-table: mle was never asked for seed 1, which other agents have." in text


@pytest.mark.usefixtures("undrawn")
def test_a_complete_comparison_says_so(tmp_path: Path) -> None:
    page = Page(write_report(small(("mle", "seqgan")), tmp_path).read_text())
    assert "✓ All 12 jobs have finished." in page.text
    assert not any((attrs.get("class") or "") == "problems" for _, attrs in page.elements)


@pytest.mark.parametrize("state", ["waiting", "failed"])
def test_a_comparison_without_any_result_has_a_report(state: Any, tmp_path: Path) -> None:
    whole = small(("mle", "ppo"), seeds=1)
    jobs = tuple(Job(task=job.task, agent=job.agent, seed=0, folder=job.folder, state=state) for job in whole.jobs)
    text = Page(write_report(dataclasses.replace(whole, jobs=jobs), tmp_path).read_text()).text
    assert f"Of 4 jobs: 4 {'failed' if state == 'failed' else 'not finished'}" in text
    assert "No finished job has samples." in text
    assert "none of 1 agents is shown to be better than MLE" in text


@pytest.mark.usefixtures("undrawn")
def test_a_new_report_replaces_the_old_one_and_is_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    comparison = small(("mle", "seqgan"), seeds=2)
    first = write_report(comparison, tmp_path).read_text()
    (tmp_path / "report" / "old.txt").write_text("of an earlier report")
    assert write_report(comparison, tmp_path).read_text() == first
    assert not (tmp_path / "report" / "old.txt").exists()


@pytest.mark.usefixtures("undrawn")
def test_settings_stand_once_where_all_runs_share_them(tmp_path: Path) -> None:
    text = write_report(small(("mle", "seqgan"), seeds=2), tmp_path).read_text()
    assert text.count("<dt>task.vocab_size</dt><dd>500</dd>") == 2  # tasks
    assert text.count("<dt>agent.algorithm</dt><dd>seqgan</dd>") == 4  # runs
    assert text.count("<dt>hash of corpus</dt>") == 8


@pytest.mark.usefixtures("undrawn")
def test_many_long_samples_are_cut_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SAMPLE_TOKENS", 0)
    whole = small(("mle", "seqgan"), seeds=1)
    long = Sample(words=("w",) * 5000, values=(0.5,) * 5000)
    jobs = tuple(dataclasses.replace(job, samples=(long, long)) for job in whole.jobs)
    page = Page(write_report(dataclasses.replace(whole, jobs=jobs), tmp_path).read_text())
    (found,) = json.loads(page.scripts[0])[0]["agents"][0]["seeds"]
    assert [(len(s["words"]), len(s["values"]), s["length"]) for s in found["samples"]] == [(100, 100, 5000)]
    assert found["total"] == 2


def test_printable_text_is_left_alone() -> None:
    assert printable("naïve שלום 👩‍🔬 $x_1$ <b>") == "naïve שלום 👩‍🔬 $x_1$ <b>"
    assert printable("\t\x1b[31m\u2066") == "␉␛[31m⟨U+2066⟩"
