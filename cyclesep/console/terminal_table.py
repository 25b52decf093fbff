"""The look of tables in the terminal, alike in all commands."""

from collections.abc import Sequence

from rich import box
from rich.table import Table


def plain_table(*left: str, right: Sequence[str] = (), gap: int = 1) -> Table:
    """An empty table with a line under its headings: words to the left, then numbers to the right.

    `gap` is the number of blanks between columns beyond the one that is always there.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap, 0, 0))
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
