"""The notebook: it runs, is saved with its outputs, and uses existing public names only."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.support.paths import CHECKOUT

DOCS = CHECKOUT / "docs"
NOTEBOOK = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
# Appended to the notebook to check that the separator has learned something.
LEARNED = """
medians = {name: np.median([row.values["SDR"] for row in rows if row.system == name]) for name in names}
assert medians["IRM2"] > medians["cyclesep"] > max(medians["mixture"], 0), medians
"""


def source() -> ast.Module:
    return ast.parse("\n\n".join(cell.source for cell in CODE))


def outputs(kind: str) -> list[Any]:
    return [output for cell in CODE for output in cell.outputs if output.output_type == kind]


def texts() -> list[str]:
    """Return all text outputs."""
    streams = [output.text for output in outputs("stream")]
    shown = [*outputs("display_data"), *outputs("execute_result")]
    return streams + [text for output in shown for kind, text in output.data.items() if kind.startswith("text/")]


def test_imports_of_the_cells_exist_and_are_public() -> None:
    imports = [node for node in ast.walk(source()) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        for alias in node.names:
            module = importlib.import_module(str(node.module))
            assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
            assert not alias.name.startswith("_")
    assert sum(str(node.module).startswith("cyclesep") for node in imports) >= 5


def test_module_attributes_used_by_the_cells_exist() -> None:
    modules = {"cyclesep": "cyclesep", "score_display": "cyclesep.evaluation.score_display"}
    modules |= {"metrics": "cyclesep.metrics", "settings": "cyclesep.config.settings"}
    used = [
        (modules[node.value.id], node.attr)
        for node in ast.walk(source())
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    ]
    assert len(used) >= 8
    for module, name in used:
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


def test_it_is_saved_with_the_outputs_of_one_complete_run() -> None:
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not outputs("error")
    assert sum("image/png" in output.data for output in outputs("display_data")) >= 5
    assert sum(text.count("<audio controls src=") for text in texts()) >= 4
    assert any("uSDR: mean over tracks" in text for text in texts()), "the table of scores"


def test_its_outputs_contain_no_warnings_and_no_local_paths() -> None:
    for text in texts():
        read = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
        assert not re.search(r"warn|deprecat|traceback|\(pid=|pid:", read, re.IGNORECASE), read
        assert not re.search(r"(^|[\s'\"=(])/\w+/", read), read


def test_it_is_small_enough_for_the_web() -> None:
    assert (DOCS / "notebook.ipynb").stat().st_size < 1_500_000


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(900)
def test_it_runs_and_its_separator_beats_the_mixture(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("run_notebook", DOCS / "run_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    notebook = nbformat.read(DOCS / "notebook.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LEARNED))
    done = module.executed(notebook, tmp_path)
    assert [output for cell in done.cells for output in cell.get("outputs", []) if output.output_type == "error"] == []
