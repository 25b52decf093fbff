"""Imports point down: a module may import only from its own layer and those below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cyclesep"

LAYERS = [
    {"errors", "files", "decoding", "truncation", "audio", "settings", "live_bar"},
    {"segment_pb2", "storage", "folder", "shards", "corpus", "preparation", "excerpts", "spectrograms"},
    {"crops", "generators", "discriminators", "losses", "ranks", "scoring", "provenance"},
    {"cyclegan", "validation"},
    {"checkpoints", "windowing", "separation", "info", "export", "api"}
    | {"report", "tables", "pages", "track_table", "comparison", "aggregation"},
    {"cluster", "ingestion", "training", "evaluation", "tuning"},
    {"commands", "command_help", "commandline", "config_command", "completion", "jobs", "reference"}
    | {"submission", "benchmarks"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
RING = 5
HEAVY = {"torch": 2, "torchaudio": 2, "ray": RING}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def top_name(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def import_object(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, `from cyclesep import x` as cyclesep.x."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    layer = LAYER_OF[top_name(path)]
    for name in import_object(path):
        package, _, rest = name.partition(".")
        if package == "cyclesep" and rest and not rest.startswith("__"):
            assert LAYER_OF[rest.split(".")[0]] <= layer, f"{path.name} (layer {layer}) imports {name} from above"
        assert HEAVY.get(package, 0) <= layer, f"{path.name} (layer {layer}) imports {package}"


def test_every_module_has_its_layer() -> None:
    assert {top_name(path) for path in MODULES} == set(LAYER_OF)
