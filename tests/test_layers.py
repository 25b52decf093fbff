"""The package's structure: sixteen rooms, imports that point down between them, and configs that import fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import CHECKOUT

PACKAGE = CHECKOUT / "cyclesep"

# From the top. A room imports from rooms below it, and from itself.
ROOMS = (
    "cli", "reports", "tuning", "training", "evaluation", "inference", "checkpoints", "cyclegan", "metrics", "data",
    "models", "cluster", "audio", "storage", "console", "config",
)  # fmt: skip
# Modules that no room owns.
SHARED = ("errors",)
# The lowest room that may import each library.
LOWEST = {"torch": "cluster", "ray": "cluster"}
# What a config may not import, so that help and completion answer at once.
SLOW = ("torch", "ray", "scipy", "matplotlib", "pyarrow", "lmdb", "musdb", "boto3", "museval", "pandas")

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)
CONFIGS = sorted(path for path in PACKAGE.rglob("config.py"))


def room_of(name: str) -> str:
    return name.split(".")[1]


def imported_names(path: Path) -> set[str]:
    """Return the dotted names that a file imports; `from cyclesep import x` counts as cyclesep.x."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_the_package_has_these_rooms_and_no_loose_modules() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    room = ROOMS.index(room_of(module_name(path)))
    for name in imported_names(path):
        package, _, rest = name.partition(".")
        if package == "cyclesep" and rest and not rest.startswith("__") and room_of(name) not in SHARED:
            assert ROOMS.index(room_of(name)) >= room, f"{relative(path)} imports {name}, which is above it"
        if package in LOWEST:
            assert room <= ROOMS.index(LOWEST[package]), f"{relative(path)} imports {package}"


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_a_config_imports_nothing_slow(path: Path) -> None:
    code = f"import sys, {module_name(path)}; print(*sorted({set(SLOW)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.strip() == ""


def test_no_test_imports_from_another_test() -> None:
    for path in (CHECKOUT / "tests").rglob("*.py"):
        for name in imported_names(path):
            stem = name.split(".")[-2] if name.startswith("tests.") else ""
            assert not stem.startswith("test_"), f"{path.name} imports {name}"
