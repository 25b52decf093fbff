"""Runs docs/notebook.ipynb from top to bottom and saves it with its outputs: `make notebook`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook with the outputs of running it in `folder`; raises nbclient's CellExecutionError if a cell fails."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=900,
        startup_timeout=300,
        # No times in the file, and one text for what a cell prints piece by piece: runs differ in less.
        record_timing=False,
        coalesce_streams=True,
        # Says at each start that it listens on this machine's loopback.
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


if __name__ == "__main__":
    nbformat.write(executed(nbformat.read(NOTEBOOK, as_version=4), NOTEBOOK.parent), NOTEBOOK)
