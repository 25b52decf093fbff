"""How Sphinx turns these pages into a site that opens from disk (`make docs`); settings come from the dataclasses."""

from sphinx.application import Sphinx

from benchmarks.command import BENCHMARKS
from cyclesep.cli.main import JOBS, TOOLS, Job, import_object
from cyclesep.cli.print_config import markdown_table

project = "cyclesep"
extensions = ["myst_parser"]
# The slugs that GitHub gives to headings, so that a link works here and there.
myst_heading_anchors = 4
nitpicky = True
language = "en"
# Of blocks that name none: they hold commands.
highlight_language = "text"

html_theme = "furo"
html_title = "cyclesep"
html_copy_source = False
html_show_copyright = False

# In a page's source: where its generated part goes.
REFERENCE, OVERVIEW = "<!-- reference -->", "<!-- overview -->"


def setup(app: Sphinx) -> None:
    """Fill in what is generated whenever Sphinx reads a page."""
    app.connect("source-read", fill)


def fill(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put a job's examples, options and settings into jobs/JOB.md, and the table of all jobs into jobs/index.md."""
    folder, _, name = page.rpartition("/")
    if folder == "jobs":
        source[0] = source[0].replace(OVERVIEW, overview()).replace(REFERENCE, reference(name))


def overview() -> str:
    """A table of all sub-commands, each with a link to its page where it has one."""
    told = {name: f"[`{name}`]({name}.md)" for name in (*JOBS, "benchmark")}
    rows = [
        f"| {told.get(name, f'`{name}`')} | {chosen.sentence} |"
        for table in (JOBS, TOOLS)
        for name, chosen in table.items()
    ]
    return "\n".join(["| `cyclesep` ... | what it does |", "|---|---|", *rows])


def reference(name: str) -> str:
    """What the command line knows about a job: examples, options and settings; of `benchmark`, of each benchmark."""
    if name != "benchmark":
        return job_reference(name, JOBS[name]) if name in JOBS else ""
    return "\n\n".join(
        f"## {each}\n\n{job.sentence}\n\n{job_reference(f'benchmark {each}', job, depth=3)}"
        for each, job in BENCHMARKS.items()
    )


def job_reference(name: str, job: Job, depth: int = 2) -> str:
    """Examples, options and settings as Markdown, under headings of `depth`."""
    heading = "#" * depth
    examples = "\n".join(f"cyclesep {name} {example}" for example in job.examples)
    parts = [f"{heading} Examples of {name}\n\n```text\n{examples}\n```"]
    if job.flags:
        rows = [f"| `{f'{flag.name} {flag.value or str()}'.strip()}` | {flag.sentence} |" for flag in job.flags]
        parts.append("\n".join([f"{heading} Options of {name}\n", "| option | what it does |", "|---|---|", *rows]))
    # Groups of settings have headings of depth 3.
    table = markdown_table(import_object(job.config)).replace("\n### ", f"\n{heading}# ")
    return "\n\n".join([*parts, f"{heading} Settings of {name}\n\n{table}"])
