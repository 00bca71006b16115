"""The report in a real browser: what people see and can do, on a phone and a desk, light and dark, by keyboard.

It needs Playwright's Python package and any Chromium on the PATH; nothing is downloaded, and no network is used.
"""

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seqgan_rl.comparison.figures import figures
from seqgan_rl.comparison.records import Comparison
from seqgan_rl.comparison.report import write_report
from seqgan_rl.comparison.tables import summarise
from tests.comparison.test_report import HOSTILE, WORDS, hostile

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright: pip install -c constraints.txt playwright"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH: apt-get install chromium"),
]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = (360, 768, 1440)

Open = Callable[..., Any]
"""From options of a browser context to a page that shows the report."""


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return dataclasses.replace(hostile(), name="x" * 200)


@pytest.fixture(scope="module")
def address(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(comparison, tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Whatever a test does on a page, it must not make an error, send a request or run what a run wrote."""
    pages, said, requested = list[Any](), list[str](), list[str]()

    def open_page(width: int = 1440, height: int = 900, **options: Any) -> Any:
        page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(address)
        pages.append((page, options.get("java_script_enabled", True)))
        return page

    yield open_page
    ran = [page.evaluate("window.hacked") for page, has_script in pages if has_script]
    for page, _ in pages:
        page.context.close()
    assert said == []
    assert {url for url in requested if url != "data:,"} == {address}
    assert ran == [None] * len(ran)


def test_tables_show_the_numbers_of_the_summary(open_page: Open, comparison: Comparison) -> None:
    page, summary = open_page(), summarise(comparison)
    for table in summary.tables:
        found = page.locator(f"table.results[data-task='{table.task.name}'][data-axis='{table.axis}']")
        assert found.is_visible()
        assert found.locator("tbody th").all_inner_texts() == [row.agent for row in table.rows]
        shown = found.locator("tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(c => c.innerText))")
        for cells, row in zip(shown, table.rows, strict=True):
            if row.iqm is None:
                assert cells[1] == "–"
                continue
            numbers = [float(number) for number in re.findall(r"[\d.e-]+", cells[1].replace("\N{MINUS SIGN}", "-"))]
            assert numbers == pytest.approx([row.iqm.value, *row.iqm.interval], abs=6e-4)
            is_marked = row.verdict is not None and row.verdict.is_improvement
            assert ("✓ better than MLE" in cells) == is_marked
            assert f"{len(row.done)} of 3" in cells[4]
    assert page.locator(".mark.good").count() > 0
    first = page.locator("dl.reasons").first
    assert all(row.verdict.reason in first.inner_text() for row in summary.tables[0].rows if row.verdict)


def test_tables_sort_by_any_column_and_keep_what_is_missing_last(open_page: Open) -> None:
    page = open_page()
    table = page.locator("table.results").first
    column = 1

    def values() -> list[str]:
        found: list[str] = table.locator(f"tbody tr > :nth-child({column + 1})").evaluate_all(
            "cells => cells.map(cell => cell.dataset.value)"
        )
        return found

    head = table.locator(f"thead th:nth-child({column + 1})")
    assert head.get_attribute("aria-sort") == "ascending"
    start = values()
    numbers = [float(value) for value in start if value]
    assert start[-1] == ""  # DQN has no gap
    assert numbers == sorted(numbers)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert values() == [*reversed(start[:-1]), ""]
    agents = table.locator("thead th").first
    agents.get_by_role("button").press("Enter")
    assert (agents.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("ascending", None)
    names = table.locator("tbody th").all_inner_texts()
    assert names == sorted(names)
    column = table.locator("thead th", has_text="nll_test").evaluate("head => head.cellIndex")
    head = table.locator(f"thead th:nth-child({column + 1})")  # DQN's is infinite
    head.get_by_role("button").click()
    assert values()[-1] == "Infinity"


def test_every_figure_is_seen_and_the_axis_of_curves_switches(open_page: Open, comparison: Comparison) -> None:
    page, names = open_page(), [drawing.name for drawing in figures(comparison)]
    assert page.locator("figure").evaluate_all("all => all.map(f => f.dataset.figure).sort()") == sorted(names)

    def seen() -> set[str]:
        return {name for name in names if page.locator(f"[data-figure='{name}'] svg").is_visible()}

    curves = {axis: f"learning-adversarial-{axis}" for axis in ("tokens", "evaluations", "seconds")}
    others = {name for name in names if not name.startswith("learning-")}
    shown = others | {curves["tokens"], "learning-exact-table-tokens"}
    assert seen() == shown
    for name in shown:
        box = page.locator(f"[data-figure='{name}'] svg").bounding_box()
        assert box["width"] > 300
        assert box["height"] > 150
        assert page.locator(f"[data-figure='{name}'] svg path").count() > 10
    bar = page.get_by_role("group", name="Horizontal axis").first
    button = bar.get_by_role("button", name="seconds of training")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert bar.locator("[aria-pressed='true']").count() == 1
    assert seen() == others | {curves["seconds"], "learning-exact-table-tokens"}


def test_samples_are_coloured_by_value_and_follow_the_choice(open_page: Open, comparison: Comparison) -> None:
    page = open_page()
    panels = page.locator(".panel")
    names = panels.locator("h3").all_inner_texts()
    assert names[-1] == "mle"
    assert len(names) == 3
    places = [panels.nth(i).bounding_box() for i in range(3)]
    assert len({place["y"] for place in places}) == 1  # side by side
    job = next(job for job in comparison.of("adversarial", "mle") if job.seed == 0)
    samples = panels.nth(2).locator(".tokens")
    assert samples.count() == len(job.samples)
    tokens = samples.nth(1).locator(".token")
    assert tokens.all_inner_texts() == list(job.samples[1].words)
    shown = tokens.evaluate_all(
        "all => all.map(t => [Number(t.dataset.value), getComputedStyle(t).backgroundColor, t.ariaLabel])"
    )
    assert [value for value, _, _ in shown] == pytest.approx(job.samples[1].values, rel=1e-3)
    assert len({colour for _, colour, _ in shown}) == len({value for value, _, _ in shown})
    assert all(f"value {value:.4g}" in label for value, _, label in shown)
    before = panels.nth(2).inner_text()
    page.select_option("#sample-seed", "1")
    assert panels.nth(2).inner_text() != before
    page.get_by_role("checkbox", name="random").check()
    assert set(panels.locator("h3").all_inner_texts()) == {*names, "random"}
    page.get_by_role("checkbox", name="mle", exact=True).uncheck()
    assert set(panels.locator("h3").all_inner_texts()) == {*names[:2], "random"}
    page.select_option("#sample-task", "1")
    assert page.locator(".token").first.inner_text() == "</script>"
    assert page.locator("#sample-seed").input_value() == "1"


def test_the_colours_part_low_from_high(open_page: Open) -> None:
    """Orange has more red than blue, blue the reverse, whatever the theme; values in the middle have neither."""
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        rgb = (
            page.locator(".tokens")
            .first.locator(".token")
            .evaluate_all(f"all => {{ {_RGB} return all.map(t => rgb(getComputedStyle(t).backgroundColor)); }}")
        )
        assert rgb[0][0] - rgb[0][2] > 80  # 0.0
        assert rgb[8][2] - rgb[8][0] > 80  # 0.8
        assert abs(rgb[4][2] - rgb[4][0]) < 40  # 0.4


def test_values_show_by_mouse_tap_and_keyboard(open_page: Open) -> None:
    page = open_page(width=360, height=800, has_touch=True)
    tip, tokens = page.locator(".tip"), page.locator(".tokens").nth(1).locator(".token")

    def says(i: int) -> bool:
        value = tokens.nth(i).evaluate("token => Number(token.dataset.value).toPrecision(4)")
        text = tip.inner_text().replace("\N{MINUS SIGN}", "-") if tip.is_visible() else ""
        found = re.fullmatch(r"value (\S+), position (\d+)", text)
        return found is not None and float(found[1]) == float(value) and int(found[2]) == i + 1

    assert not tip.is_visible()
    tokens.nth(4).hover()
    assert says(4)
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    tokens.nth(2).tap()
    assert says(2)
    assert page.locator(".tokens").nth(1).locator("[tabindex='0']").count() == 1
    tokens.nth(0).focus()
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 19),
        ("ArrowRight", 19),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert tokens.nth(expected).evaluate("token => token === document.activeElement")
        assert says(expected)
        place = tip.bounding_box()
        assert 0 <= place["x"] <= 360 - place["width"]
    unknown = page.locator(".token.unknown").first
    unknown.focus()
    assert tip.inner_text() == f"value unknown, position {len(WORDS)}"


def test_hostile_text_is_shown_and_does_not_run(open_page: Open) -> None:
    page = open_page()
    words = page.locator(".tokens").first.locator(".token")
    assert words.nth(0).inner_text() == "</script>"
    assert words.nth(1).inner_text() == HOSTILE
    assert page.locator("body img, body script:not([type])").count() == 1  # the report's own script
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.locator("pre code").first.inner_text() == HOSTILE
    assert page.locator(".problems").inner_text().count(HOSTILE) == 1
    assert page.locator("svg text", has_text="<b onclick=x>$x_1$</b>").count() > 0


def test_runs_can_be_filtered(open_page: Open, comparison: Comparison) -> None:
    page = open_page()
    runs = page.locator("details.run")
    assert runs.count() == len(comparison.jobs)
    assert not runs.first.is_visible()
    page.fill("#run-filter", "ppo seed 2")
    assert [text.split(",")[0] for text in runs.locator("visible=true").locator("strong").all_inner_texts()] == [
        "ppo"
    ] * 2
    assert page.locator("#run-count").inner_text() == f"2 of {len(comparison.jobs)} runs"
    page.fill("#run-filter", "algorithm ppo, seed 2, exact-table")
    assert page.locator("#run-count").inner_text().startswith("1 of")
    runs.locator("visible=true").first.locator("summary").click()
    assert "agent.algorithm" in runs.locator("visible=true").first.inner_text()
    page.fill("#run-filter", "")
    assert page.locator("#run-count").inner_text() == f"{len(comparison.jobs)} of {len(comparison.jobs)} runs"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(open_page: Open, width: int) -> None:
    page = open_page(width=width, height=800)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wide = page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const isOut = (e) => e.getBoundingClientRect().right > width + 0.5 && !e.closest('.scroll, .plot, .sr');
          const out = [...document.querySelectorAll('body *')].filter(isOut).map((e) => e.outerHTML.slice(0, 90));
          return [document.documentElement.scrollWidth - width, out];
        }"""
    )
    assert wide == [0, []]
    scrolled = page.locator(".scroll").first.evaluate("box => [box.scrollWidth > box.clientWidth, box.tabIndex]")
    assert scrolled[1] == 0
    if width == 360:
        assert scrolled[0]  # in its own box


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for theme in (scheme, "dark" if scheme == "light" else "light"):
        found = page.evaluate(_CONTRAST)
        assert found["texts"] > 500
        assert found["paper"] > 0.8 if theme == "light" else found["paper"] < 0.05
        assert found["low"] == []
        page.locator(".theme").click()


def test_all_but_the_interactive_parts_show_without_script(open_page: Open, comparison: Comparison) -> None:
    page = open_page(java_script_enabled=False)
    names = [drawing.name for drawing in figures(comparison)]
    assert all(page.locator(f"[data-figure='{name}'] svg").is_visible() for name in names)
    assert page.locator("table.results").first.is_visible()
    assert page.locator("noscript").is_visible()
    assert not page.locator("#sample-browser").is_visible()
    assert not page.locator(".theme").is_visible()


def test_it_can_be_printed(open_page: Open) -> None:
    page = open_page(width=1016, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".theme").is_visible()
    assert page.locator("table.results").first.is_visible()
    assert page.evaluate(f"() => {{ {_RGB} return rgb(getComputedStyle(document.body).backgroundColor); }}") == [
        253,
        253,
        251,
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == 1016  # tables fit on A4 across
    assert page.pdf(prefer_css_page_size=True)[:4] == b"%PDF"


_RGB = """
const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
const context = canvas.getContext('2d', { willReadFrequently: true });
const seen = new Map();
const rgba = (colour) => {
  if (!seen.has(colour)) {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    seen.set(colour, [...context.getImageData(0, 0, 1, 1).data]);
  }
  return seen.get(colour);
};
const rgb = (colour) => rgba(colour).slice(0, 3);
"""
"""Any colour of CSS as red, green and blue, 0 to 255."""

_CONTRAST = (
    "() => {"
    + _RGB
    + """
const luminance = (colour) => {
  const [r, g, b] = rgb(colour).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (rgba(colour)[3] === 255) return colour;
  }
  return 'white';
};
const low = [];
let texts = 0;
for (const element of document.querySelectorAll('body *')) {
  const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join('').trim();
  if (!text || !element.checkVisibility() || element.closest('script, option, noscript')) continue;
  const style = getComputedStyle(element);
  const [a, b] = [luminance(element.closest('svg') ? style.fill : style.color), luminance(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  texts += 1;
  if (!(ratio >= 4.5)) low.push([ratio, element.tagName, text.slice(0, 40)]);
}
return { low, texts, paper: luminance(behind(document.body)) };
}"""
)
"""Every element with text of its own whose contrast (WCAG 2.2) is below 4.5, how many there are, and the paper."""
