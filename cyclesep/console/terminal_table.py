"""The style of tables in the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table


def plain_table(*left: str, right: Sequence[str] = (), gap: int = 1) -> Table:
    """Return an empty table with a line below its headings: left-aligned text columns, then right-aligned numbers.

    `gap` is the number of spaces between columns in addition to the one that rich always adds.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, gap, 0, 0))
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
