"""The house: floors, and what no file may do. Read off the sources, so that nothing needs to be imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("telemetry", "executors", "selector", "kernels", "api")  # each may import what stands before it
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def floors_imported(tree: ast.AST, folder: str) -> set[str]:
    """Floors that a file of `folder` imports from, whichever way it says so."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = {0: [], 1: ["pointsman", folder], 2: ["pointsman"]}[node.level]
            module = ".".join([*above, *filter(None, [node.module])])
            # Only right below the package does the imported name itself tell the floor.
            names += [f"{module}.{alias.name}" for alias in node.names] if module == "pointsman" else [module]
    parts = [name.split(".") for name in names]
    ours = [part[1] if len(part) > 1 else "" for part in parts if part[0] == "pointsman"]
    return {name if name in FLOORS else "api" for name in ours}


def test_the_sources_are_found():
    assert len(SOURCES) > 20
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_the_floors(path):
    folder = path.relative_to(ROOT).parts[0]
    allowed = set(FLOORS[: FLOORS.index(folder) + 1])
    assert floors_imported(ast.parse(path.read_text()), folder) <= allowed


@pytest.mark.parametrize(
    ("folder", "statement", "floors"),
    [
        ("selector", "from ..kernels import fft", {"kernels"}),
        ("selector", "from .. import kernels", {"kernels"}),
        ("selector", "def f():\n    import pointsman.kernels.fft", {"kernels"}),
        ("executors", "from pointsman.selector.workload import shape_class", {"selector"}),
        ("telemetry", "from pointsman import run", {"api"}),
        ("api", "from pointsman.selector import policy\nimport pointsman.demo", {"selector", "api"}),
        ("executors", "from . import registry\nfrom .. import run", {"executors", "api"}),
        ("kernels", "from .base import Kernel\nimport numpy", {"kernels"}),
    ],
)
def test_every_way_of_importing_upwards_is_seen(folder, statement, floors):
    assert floors_imported(ast.parse(statement), folder) == floors


def test_the_face_imports_absolutely_and_the_floors_relatively():
    for path in SOURCES:
        relative = path.relative_to(ROOT).parts[0] != "api"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                ours = node.level > 0 or (node.module or "").split(".")[0] == "pointsman"
                assert not ours or (node.level > 0) == relative, f"{path}:{node.lineno}"


def test_no_file_has_a_name_that_tells_nothing():
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert not [path for path in SOURCES if path.stem.strip("_") in vague]


def test_no_folder_at_the_root_shadows_the_installed_package():
    assert not (ROOT / "pointsman").exists()
