"""The site built by `make docs`: no warnings, no broken links, no external resources."""

import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from benchmarks.command import BENCHMARKS
from cyclesep.cli.registry import JOBS
from cyclesep.config.schema import list_settings
from tests.support.paths import CHECKOUT

ROOT = CHECKOUT
DOCS = ROOT / "docs"
# All in one process, which builds the site once.
pytestmark = pytest.mark.xdist_group("site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with the options of `make docs`, so that any warning is an error."""
    place = tmp_path_factory.mktemp("site")
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if " -m sphinx " in line)
    words = shlex.split(recipe.partition(" -m sphinx ")[2])
    command = [sys.executable, "-m", "sphinx", *words[:-1], str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


class Page(HTMLParser):
    """The ids, loaded resources and links of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a":
            self.linked.append(given.get("href") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(given.get("href") or "")
        elif given.get("src"):
            self.loaded.append(given["src"] or "")


def test_links_resolve_and_no_resource_is_external(site: Path) -> None:
    pages = {file: Page(file) for file in site.rglob("*.html")}
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    for file, page in pages.items():
        for link in page.linked + page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                assert link not in page.loaded, f"{file.name} loads {link}"
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            assert target.is_file(), f"{file.relative_to(site)}: {link}"
            assert not parts.fragment or target not in pages or parts.fragment in pages[target].ids, link


@pytest.mark.parametrize("name", [*JOBS, "benchmark"])
def test_every_job_has_a_page_with_all_its_settings(site: Path, name: str) -> None:
    text = (site / "jobs" / f"{name}.html").read_text(encoding="utf-8")
    for job in [each.job(name) for name, each in BENCHMARKS.items()] if name == "benchmark" else [JOBS[name]]:
        assert all(f">{setting.name}<" in text for setting in list_settings(job.config))
        assert all(flag.name in text for flag in job.flags)
