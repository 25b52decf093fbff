"""The pages of the documentation: links resolve, and commands and settings are valid."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from benchmarks.command import BENCHMARKS, run_benchmark
from cyclesep.cli.job import Job
from cyclesep.cli.main import main
from cyclesep.cli.registry import JOBS, TOOLS
from cyclesep.config import settings
from cyclesep.config.overrides import read_sources
from cyclesep.config.schema import list_settings
from cyclesep.errors import ConfigError
from tests.support.paths import CHECKOUT

ROOT = CHECKOUT
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Records of past runs, whose names may have changed since.
HISTORY = [DOCS / "log.md", *(DOCS / "results").glob("*.md")]
PRESENT = [page for page in PAGES if page not in HISTORY]
# Its commands need the code that the page adds.
EXTENDING = DOCS / "extending.md"

ENDS_COMMAND = {">", ">>", "|", "&&", ";"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command in a page: the arguments after `cyclesep`."""

    page: Path
    line: int
    words: tuple[str, ...]
    whole: bool
    """Whether it can be run as it is, without omissions."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def code(page: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield line, text and whether it is a whole line, for each line of a code block and each code span."""
    for token in tokens(page):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "fence" and token.info in ("", "text", "bash"):
            for text in re.sub(r"\\\n\s*", "", token.content).splitlines():
                yield line, text, True
        for child in token.children or ():
            if child.type == "code_inline":
                yield line, child.content, False


def commands(page: Path) -> Iterator[Command]:
    for line, text, alone in code(page):
        if not re.search(r"(^|[\s/])(cyclesep [a-z]+|submit [a-z-]\S*|\w+\.py [a-z]\S*)(\s|$)", text):
            continue
        typed = shlex.split(text, comments=True)
        starts = [
            at
            for at, word in enumerate(typed)
            if word.rpartition("/")[2] == "cyclesep" or word == "cluster/submit" or re.fullmatch(r"jobs/\w+\.py", word)
        ]
        words = typed[starts[0] + 1 :] if starts else []
        if starts and typed[starts[0]] == "cluster/submit" and "--" in words:
            # Options of `ray job submit`.
            words = words[words.index("--") + 1 :]
        if starts and typed[starts[0]].endswith(".py"):
            words = [Path(typed[starts[0]]).stem, *words]
        end = next((at for at, word in enumerate(words) if word in ENDS_COMMAND), len(words))
        words = words[:end]
        # In a table of scores a number follows the name, in an output a colon.
        if words and re.fullmatch(r"[a-z]+", words[0]):
            whole = alone and "..." not in words
            yield Command(page=page, line=line, words=tuple(word for word in words if word != "..."), whole=whole)


COMMANDS = [command for page in PRESENT if page != EXTENDING for command in commands(page)]


def links(page: Path) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str):
                yield target


def anchors(page: Path) -> set[str]:
    """Return GitHub's slugs of the headings of a page."""
    found = tokens(page)
    titles = [after.content for token, after in pairwise(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT)
        assert not parts.fragment or parts.fragment in anchors(target), f"{link}: no such heading"


def test_pages_have_commands_for_every_job() -> None:
    assert len(COMMANDS) > 50
    assert set(JOBS) <= {command.words[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_valid(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    monkeypatch.chdir(tmp_path)
    words = validating_arguments(command)
    if not words:
        return
    name, *rest = words
    with pytest.raises(SystemExit) as ended:
        run_benchmark(rest) if name == "benchmark" else main(words)
    assert ended.value.code == 0, f"cyclesep {shlex.join(command.words)}\n{capsys.readouterr().err}"


def validating_arguments(command: Command) -> list[str]:
    """Return arguments with which `main` validates a command without running it; empty if it only names a job."""
    name, *rest = command.words
    if name in ("config", "completion"):
        return [name, *rest]
    if name == "JOB" or rest in ([], ["NAME"]):
        assert name in (*JOBS, *TOOLS, "JOB", "benchmark")
        return []
    if name == "benchmark":
        assert rest[0] in BENCHMARKS
        return [name, *rest, "--print-config"]
    assert name in JOBS, f"no job named {name}"
    if stand_in(JOBS[name], rest) or not command.whole:
        return ["config", name, *without_options(JOBS[name], rest)]
    return [name, *rest, "--print-config"]


def stand_in(job: Job, words: Sequence[str]) -> bool:
    """Create the files that a user would have, and return whether any was created; configs in jobs/ must exist."""
    made = False
    for word in words:
        path = Path(word)
        is_yaml = path.suffix == ".yaml"
        if is_yaml and word.startswith("jobs/"):
            assert path.is_file(), f"{word} does not exist"
        elif is_yaml or (job.checkpoint_setting and "=" not in word and not word.startswith("-")):
            file = path if is_yaml else path / "config.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            made = True
    return made


def without_options(job: Job, words: Sequence[str]) -> list[str]:
    left, known = [], {flag.name: flag for flag in job.flags}
    following = iter(words)
    for word in following:
        if word in known:
            assert known[word].value is None or next(following, None)
        elif not word.startswith("--"):
            left.append(word)
    return left


def spans_of_settings() -> list[tuple[str, str]]:
    """Return page and text of code spans that consist of `name=value` overrides."""
    found = {
        (str(page.relative_to(ROOT)), text)
        for page in PRESENT
        for _, text, alone in code(page)
        if not alone and re.fullmatch(r"[a-z][a-z0-9_.]*=[^\s\"'(=.][^\s\"'(]*( [a-z][a-z0-9_.]*=\S+)*", text)
    }
    return sorted(found)


@cache
def known_settings() -> list[tuple[Job, set[str]]]:
    jobs = [*JOBS.values(), *(benchmark.job(name) for name, benchmark in BENCHMARKS.items())]
    return [(job, {setting.name for setting in list_settings(job.config)}) for job in jobs]


@pytest.mark.parametrize(("page", "text"), spans_of_settings(), ids=str)
def test_settings_in_a_page_are_valid_for_a_job(page: str, text: str) -> None:
    words = text.split()
    names = {word.partition("=")[0] for word in words}
    takers = [job for job, known in known_settings() if names <= known]
    assert takers, f"{page}: no job has {' and '.join(names)}"
    assert any(takes(job, words) for job in takers), f"{page}: no job accepts {text}"


def takes(job: Job, words: Sequence[str]) -> bool:
    try:
        settings.check_partial(job.config, read_sources(job.config, [], words))
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {match for _, text, _ in code(page) for match in re.findall(r"(?:^|`)make ([a-z-]+)", text)}
    assert named <= targets


def test_separator_and_recipe_of_the_extending_page_train(tmp_path: Path) -> None:
    """Apply the page's changes to a copy of the code, run its examples and validate its commands."""
    shutil.copytree(ROOT / "cyclesep", tmp_path / "cyclesep", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = {kind: [token.content for token in tokens(EXTENDING) if token.info == kind] for kind in ("diff", "python")}
    for change in blocks["diff"]:
        subprocess.run(["git", "apply", "-"], input=change, cwd=tmp_path, check=True, text=True)
    asked = [[*command.words, "--print-config"] for command in commands(EXTENDING) if command.whole]
    assert len(asked) == 2
    script = "\n".join([*blocks["python"], "from cyclesep.cli.main import run_job"])
    for name, *words in asked:
        script += f"\ntry:\n    run_job({name!r}, {words!r})\nexcept SystemExit as ended:\n    assert ended.code == 0"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "separator/overdub" in done.stdout
    assert "recipe: overdub" in done.stdout
    assert "name: dilated" in done.stdout
