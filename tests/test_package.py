"""The package as installed: public names, laziness in a fresh interpreter, and the files that must travel with it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pointsman as pm
import pytest
from pointsman.executors.table import BACKENDS

PUBLIC = """
AR1 CwtSignificance WctSignificance ar1 ar1_surrogate cwt_significance phase_randomize wct_significance
CwtResult WctResult XwtResult cwt wct xwt BackendType BackendUnavailableError Capabilities CheckpointError Decision
Executor FailedSimulation Failure HistoryWarning
IntelligentBackendSelector MonteCarloBackend MonteCarloInfo NoCandidateError OpenCLWorker Operation PointsmanError
Portable RunTimeoutError UnsupportedError Variant WorkloadCharacteristics adaptive bind calibrate chain configure
convert default_selector draws export_lock flush get_backend get_recommended_backend list_backends print_backend_info
reducers register_backend register_operation replay run run_monte_carlo select_backend
select_optimal_backend step use warmup
""".split()  # noqa: SIM905 (quotes around each would bury the names)

# Heavy libraries that a plain import must not load: every backend but numpy, and what only some commands need.
LAZY = {row.library for row in BACKENDS.values()} - {"numpy"} | {
    "sqlite_utils",
    "rich",
    "pandas",
    "psutil",
    "pynvml",
    "threadpoolctl",
}


def fresh(code: str, tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter of its own, with a history of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, "POINTSMAN_HISTORY": str(tmp_path), **environ}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def loaded_by(code: str, tmp_path: Path) -> set[str]:
    done = fresh(f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))", tmp_path)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_public_names_are_exactly_these():
    assert sorted(pm.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(pm, name) is not None
        assert name in dir(pm)


def test_map_is_public_but_a_star_import_leaves_pythons_own_alone():
    assert pm.map(abs, [-1, 2]) == [1, 2]
    assert "map" in dir(pm)
    names: dict[str, object] = {}
    exec("from pointsman import *", names)
    assert "map" not in names


def test_a_wrong_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match=r"'seletc'.*select_backend"):
        pm.seletc  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import pointsman",
        "from pointsman import *",
        "import pointsman as pm; pm.list_backends()",
        "import pointsman as pm; pm.select_backend('fft', (1_000_000,))",
        "import pointsman as pm; pm.default_selector().decide("
        "pm.WorkloadCharacteristics(operation_type='matmul', data_shape=(2000, 2000)))",
    ],
    ids=["import", "star", "list", "select", "decide"],
)
def test_nothing_heavy_is_loaded_before_something_runs(code, tmp_path):
    # A decision opens the history and reads the machine, for which psutil is fair.
    allowed = {"psutil", "pynvml", "sqlite_utils"} if "select" in code or "decide" in code else set()
    assert not (LAZY - allowed) & loaded_by(code, tmp_path)


@pytest.mark.parametrize(
    "call", ["run('softmax', np.ones(8))", "map(abs, range(8))", "run_monte_carlo(abs, 0, seed=1)"]
)
def test_a_first_call_does_not_wait_for_what_only_workloads_by_name_need(call, tmp_path):
    loaded = loaded_by(f"import numpy as np, pointsman as pm; pm.{call}", tmp_path)
    assert "pointsman.selector.selector" in loaded
    assert "pydantic" not in loaded


def test_the_heavy_libraries_are_really_there_to_be_loaded():
    libraries = [row.library for row in BACKENDS.values() if row.library]
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    assert not missing, "the test above would pass for want of anything to load"


@pytest.mark.parametrize(
    "name", ["py.typed", "data/README.md", "data/co2.csv", "data/elnino.csv", "data/nile.csv", "data/sunspots.csv"]
)
def test_files_that_are_no_modules_travel_with_the_package(name):
    assert files("pointsman").joinpath(name).is_file()


@pytest.mark.parametrize("folder", ["kernels", "selector", "executors", "telemetry"])
def test_the_mapped_folders_are_installed_under_the_package(folder):
    found = importlib.util.find_spec(f"pointsman.{folder}")
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).is_file()


def test_the_wheel_is_what_is_tested_when_it_should_be():
    inside = Path(pm.__file__).is_relative_to(sys.prefix)
    assert inside or not os.environ.get("TESTED_WHEEL"), f"{pm.__file__} is not the installed wheel"


def test_a_wrong_environment_fails_at_the_first_decision_and_not_at_import(tmp_path):
    done = fresh("import pointsman; print('imported')", tmp_path, POINTSMAN_MODE="fast")
    assert (done.returncode, done.stdout) == (0, "imported\n")
    done = fresh("import pointsman as pm; pm.select_backend('fft', (8,))", tmp_path, POINTSMAN_MODE="fast")
    assert done.returncode == 1
    assert "POINTSMAN_MODE: found 'fast'; allowed are off, observe, advise, select" in done.stderr
