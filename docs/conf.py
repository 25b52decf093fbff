"""Configuration of the Sphinx site (`make docs`), whose settings tables come from the config dataclasses."""

from sphinx.application import Sphinx

from benchmarks.command import BENCHMARKS
from cyclesep.cli.job import Job
from cyclesep.cli.print_config import markdown_table
from cyclesep.cli.registry import JOBS, descriptions

project = "cyclesep"
extensions = ["myst_parser"]
# GitHub's slugs for headings, so that a link works in both places.
myst_heading_anchors = 4
nitpicky = True
language = "en"
# For code blocks without a language: they contain commands.
highlight_language = "text"

html_theme = "furo"
html_title = "cyclesep"
html_copy_source = False
html_show_copyright = False

# Markers in a page's source that are replaced by generated text.
REFERENCE, OVERVIEW = "<!-- reference -->", "<!-- overview -->"


def setup(app: Sphinx) -> None:
    """Generate text whenever Sphinx reads a page."""
    app.connect("source-read", fill)


def fill(_app: Sphinx, page: str, source: list[str]) -> None:
    """Insert a job's examples, options and settings into jobs/JOB.md, and the table of jobs into jobs/index.md."""
    folder, _, name = page.rpartition("/")
    if folder == "jobs":
        source[0] = source[0].replace(OVERVIEW, overview()).replace(REFERENCE, reference(name))


def overview() -> str:
    """Return a table of all sub-commands, with links to their pages."""
    rows = [
        f"| {f'[`{name}`]({name}.md)' if name in JOBS else f'`{name}`'} | {description} |"
        for name, description in descriptions().items()
    ]
    return "\n".join(["| `cyclesep` ... | description |", "|---|---|", *rows])


def reference(name: str) -> str:
    """Return the examples, options and settings of a job; for the page `benchmark` those of each benchmark."""
    if name != "benchmark":
        return job_reference(JOBS[name]) if name in JOBS else ""
    return "\n\n".join(
        f"## {each}\n\n{benchmark.description}\n\n{job_reference(benchmark.job(each), depth=3)}"
        for each, benchmark in BENCHMARKS.items()
    )


def job_reference(job: Job, depth: int = 2) -> str:
    """Return examples, options and settings as Markdown, under headings of `depth`."""
    heading = "#" * depth
    examples = "\n".join(f"{job.command} {example}" for example in job.examples)
    parts = [f"{heading} Examples of {job.name}\n\n```text\n{examples}\n```"]
    if job.flags:
        rows = [f"| `{f'{flag.name} {flag.value or str()}'.strip()}` | {flag.description} |" for flag in job.flags]
        parts.append("\n".join([f"{heading} Options of {job.name}\n", "| option | description |", "|---|---|", *rows]))
    # Groups of settings have headings of depth 3.
    table = markdown_table(job.config).replace("\n### ", f"\n{heading}# ")
    return "\n\n".join([*parts, f"{heading} Settings of {job.name}\n\n{table}"])
