"""The documentation is current: links and anchors resolve, generated pages match the code, and the site builds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from docs.generate import DOCS, pages
from tests.conftest import ROOT

TRACKED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True
).stdout.split()
MARKDOWN = [name for name in TRACKED if (ROOT / name).exists()]
SITE: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


@pytest.mark.parametrize("name", MARKDOWN)
def test_every_relative_link_resolves(name: str) -> None:
    page = ROOT / name

    missing = [link for link in relative_links(page) if not (page.parent / link.partition("#")[0]).exists()]

    assert missing == []


@pytest.mark.parametrize("name", MARKDOWN)
def test_every_anchor_is_a_heading_of_its_page(name: str) -> None:
    page = ROOT / name

    missing = []
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if anchor and target.suffix == ".md" and anchor not in anchors(target.resolve()):
            missing.append(link)

    assert missing == []


def test_each_generated_page_is_current() -> None:
    stale = [name for name, text in pages().items() if (DOCS / name).read_text() != text]

    assert stale == [], "run `make docs-reference` and commit the result"


def test_the_navigation_lists_every_page() -> None:
    decisions = ROOT / "docs" / "explanation" / "decisions"
    listed = {f"docs/{path}" for path in leaves(SITE["nav"])}
    listed |= {f"docs/explanation/decisions/{link}" for link in relative_links(decisions / "index.md")}

    assert listed == {name for name in MARKDOWN if name.startswith("docs/")}


def test_each_decision_has_a_number_of_its_own_and_its_title_says_it() -> None:
    files = sorted((ROOT / "docs" / "explanation" / "decisions").glob("0*.md"))

    numbers = [int(file.name[:4]) for file in files]

    assert len(set(numbers)) == len(numbers)
    assert [file.read_text().partition(".")[0] for file in files] == [f"# {number}" for number in numbers]


def test_the_site_builds_strictly_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    # Given a copy of the sources, so that nothing is written into the checkout
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)

    zensical = Path(sys.executable).with_name("zensical")
    build = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert build.returncode == 0, build.stdout + build.stderr
    built = tmp_path / "build" / "site"
    assert (built / "tutorials" / "first-model" / "index.html").is_file()
    assert not list(built.rglob("*.py"))
    loaded = [url for page in built.rglob("*.html") for url in loaded_urls(page.read_text())]
    assert [url for url in loaded if re.match(r"(https?:)?//", url)] == []
    assert "class=mermaid" not in "".join(page.read_text().replace('"', "") for page in built.rglob("*.html"))


def relative_links(page: Path) -> list[str]:
    """Targets of Markdown links and images outside of code, without those that name a host."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub derives them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def leaves(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from leaves(target)


def loaded_urls(page: str) -> list[str]:
    """What a browser fetches by itself: scripts, images, style sheets and preloads, but not links to click on."""
    tags = re.findall(r"<(?:script|img|link|iframe|source|video|audio)\b[^>]*>", page)
    tags = [tag for tag in tags if 'rel="canonical"' not in tag]
    return [url for tag in tags for url in re.findall(r"(?:src|href)=\"?([^\" >]+)", tag)]
