"""Run docs/notebook.ipynb from top to bottom and save it with its outputs: `make notebook`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run the notebook in `folder` and return it with outputs; raises nbclient's CellExecutionError if a cell fails."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=900,
        startup_timeout=300,
        # No timestamps, and one text per output stream, so that runs differ less.
        record_timing=False,
        coalesce_streams=True,
        # Suppress the message about the loopback address.
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


if __name__ == "__main__":
    nbformat.write(executed(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.parent), NOTEBOOK)
