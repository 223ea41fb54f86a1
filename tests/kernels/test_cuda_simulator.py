"""The Numba CUDA variants in Numba's simulator, in a process of their own; on a device they run in tests/gpu."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.kernels.table import KERNELS
from pointsman.selector import constraints, operations
from pointsman.telemetry.outcome import Failure

GRID = [
    f"{name} {variant.name} {dtype}"
    for name in KERNELS
    for variant in operations.find(name).variants
    if variant.backend == "numba" and variant.device != "cpu"
    for dtype in operations.find(name).tolerances
]
CHECKS = (
    "agrees", "any_layout", "nan_reaches_what_depends_on_it", "stays_on_the_device", "many_levels", "tensors_come_back",
)  # fmt: skip


@pytest.fixture(scope="module")
def reports(request):
    """What each check found, by variant with dtype and by check."""
    support = request.config.rootpath / "tests" / "support"
    paths = os.pathsep.join([str(support), *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(support / "simulated_cuda.py")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(report["variant"], report["check"]): report["wrong"] for report in found}


def test_the_three_kernels_have_a_variant():
    assert {line.partition(" ")[0] for line in GRID} == {"element_wise", "reduction", "derivative"}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("variant", GRID)
def test_it_holds_in_the_simulator(reports, variant, check):
    assert reports[variant, check] == ""


def test_the_program_runs_these_checks_on_these_variants_and_no_other(reports):
    assert set(reports) == {(variant, check) for variant in GRID for check in CHECKS}


def test_a_host_function_of_numba_is_no_gpu_variant():
    """Numba's functions are written for one kind of device; torch's run wherever their arrays lie."""
    for name in KERNELS:
        ours = operations.find(name)
        for extra in (v for v in constraints.variants_of(ours, ("cuda:0", "cuda:1")) if v not in ours.variants):
            assert extra.backend != "numba", (name, extra.name)
    bare = constraints.variants_of(None, ("cuda:0",))
    assert "numba" in {v.name for v in bare}
    assert "numba@cuda:0" not in {v.name for v in bare}


def test_the_gpu_counts_only_where_cudas_compiler_is_found(monkeypatch):
    from pointsman.executors import on_numba
    from pointsman.telemetry import hardware

    numba = registry.executor("numba")
    for gpus, compiler, devices in (
        ((), True, ("cpu",)),
        ((object(),), False, ("cpu",)),
        ((object(), object()), True, ("cpu", "cuda:0")),  # Numba's current device is the first
    ):
        monkeypatch.setattr(hardware, "gpus", lambda gpus=gpus: gpus)
        monkeypatch.setattr(on_numba, "_finds_cuda", lambda compiler=compiler: compiler)
        assert numba.devices() == devices


def test_cudas_compiler_is_looked_for_without_importing(monkeypatch, tmp_path):
    from pointsman.executors import on_numba

    monkeypatch.setattr(on_numba, "find_spec", lambda _: None)
    monkeypatch.setattr(on_numba.sys, "prefix", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    on_numba._finds_cuda.cache_clear()
    before = on_numba._finds_cuda.__wrapped__()
    (tmp_path / "toolkit" / "nvvm").mkdir(parents=True)
    assert on_numba._finds_cuda.__wrapped__()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert on_numba._finds_cuda.__wrapped__() == before
    monkeypatch.setattr(on_numba, "find_spec", lambda name: object() if name == "numba_cuda" else None)
    assert on_numba._finds_cuda.__wrapped__()
    on_numba._finds_cuda.cache_clear()


def test_failures_of_cuda_are_recognised_in_either_package():
    classify = registry.executor("numba").classify

    def error(name, module, text, base=Exception):
        return type(name, (base,), {"__module__": module})(text)

    full = "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"
    for module in ("numba.cuda.cudadrv.error", "numba_cuda.numba.cuda.cudadrv.error"):
        driver = type("CudaDriverError", (Exception,), {"__module__": module})
        assert classify(error("CudaAPIError", module, full, driver)) is Failure.OUT_OF_MEMORY
        assert classify(error("CudaAPIError", module, "[700] CUDA_ERROR_ILLEGAL_ADDRESS", driver)) is Failure.DRIVER
        assert classify(error("CudaSupportError", module, "no driver", ImportError)) is Failure.UNAVAILABLE
        assert classify(error("NvvmSupportError", module, "libNVVM not found", ImportError)) is Failure.UNAVAILABLE
    assert classify(error("CudaAPIError", "mine", full)) is None


def test_the_real_classes_have_these_names():
    from numba.cuda.cudadrv import driver, error

    numba = registry.ensure("numba")[0]
    assert numba.classify(error.CudaSupportError("no driver")) is Failure.UNAVAILABLE
    assert numba.classify(driver.CudaAPIError(2, "CUDA_ERROR_OUT_OF_MEMORY")) is Failure.OUT_OF_MEMORY
    assert numba.classify(driver.CudaAPIError(700, "CUDA_ERROR_ILLEGAL_ADDRESS")) is Failure.DRIVER
    assert numba.classify(error.NvvmError("broken")) is Failure.DRIVER


def test_waiting_and_freeing_start_no_cuda():
    """On the host nothing is asynchronous, and CUDA must not be started to find that out."""
    from pointsman.executors.on_numba import NumbaExecutor

    numba = NumbaExecutor()
    numba.synchronize(1.0)
    numba.free_caches()
    assert not numba.is_asynchronous("cpu")
    assert numba.is_asynchronous("cuda:0")
    assert numba.prepare(len, Variant("numba", "numba", list)) is len
    assert not numba._started
