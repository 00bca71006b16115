"""The environment pages say what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from seqgan_rl.envs.options import CorpusOptions, EnvOptions, ExactOptions, OracleOptions

PAGES = Path(__file__).parents[2] / "docs" / "environments"
ORDER = (
    "Description",
    "Action space",
    "Observation space",
    "Starting state",
    "Rewards",
    "Episode end",
    "Info",
    "Arguments",
    "Version history",
)
COMMON = {"render_mode": "None"} | {field.name: repr(field.default) for field in fields(EnvOptions)}


@pytest.mark.parametrize(
    ("page", "options"),
    [("README", EnvOptions), ("oracle", OracleOptions), ("corpus", CorpusOptions), ("exact", ExactOptions)],
)
def test_a_page_has_gymnasiums_order_and_every_argument_with_its_default(page: str, options: type[EnvOptions]) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in ORDER] == list(ORDER)
    arguments = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", text.split("## Arguments")[1], flags=re.MULTILINE))
    expected = {field.name: repr(field.default) for field in fields(options)}
    own = {name: default for name, default in expected.items() if COMMON.get(name) != default}
    assert arguments == (COMMON if page == "README" else own)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGES / link).exists(), link
