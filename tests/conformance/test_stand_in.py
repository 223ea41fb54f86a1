"""Every portable kernel, and the selector, on a stand-in for CuPy: no GPU, but CuPy's rules at its border.

The real thing is in tests/gpu. Here: that the derived variants load, run, convert both ways and agree; that kernels
never mix NumPy's arrays in; that a device array stays where it is; that running out of memory is survived.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import stand_in_cupy
from agreement import assert_agrees, inputs, kernels, suits, variants
from pointsman.executors import registry
from pointsman.executors.conversion import convert, residency
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.memory import GpuMemory

GRID = [
    (name, variant.name, dtype)
    for name in KERNELS
    for variant in variants(operations.find(name), "cupy")
    for dtype in operations.find(name).tolerances
    if variant.dtypes is None or dtype in variant.dtypes
]


@pytest.fixture(autouse=True)
def _cupy(monkeypatch):
    stand_in_cupy.install(monkeypatch)
    registry.ensure("cupy")
    yield
    stand_in_cupy.remove()


@pytest.fixture
def selector():
    """One that believes in the GPU that the stand-in tells of."""
    return IntelligentBackendSelector(
        history=":memory:", gpu_memory=GpuMemory(stand_in_cupy.StandInNvml()), settings=Settings().updated(explore=0)
    )


@pytest.mark.parametrize(("name", "variant", "dtype"), GRID)
def test_a_derived_variant_runs_by_cupys_rules(monkeypatch, name, variant, dtype):
    monkeypatch.setattr(stand_in_cupy.Functions, "used", set())
    kernel = kernels()[name]
    chosen, ran = kernel.variant(variant), 0
    for args, kwargs in inputs(kernel, dtype, (10, 1001)):
        if suits(chosen, dtype, args, kwargs):
            assert_agrees(kernel, chosen, dtype, args, kwargs)
            ran += 1
    assert ran
    asked = stand_in_cupy.Functions.used
    monkeypatch.undo()  # the real namespace again: what was asked for must be in it
    importlib.import_module("cupy")
    real = importlib.import_module("array_api_compat.cupy")
    assert asked
    for path in asked:
        found = real
        for part in path.removeprefix("array_api_compat.cupy.").removeprefix("cupy.").split("."):
            found = getattr(found, part)


def test_every_kernel_has_a_variant_on_cupy():
    assert {name for name, *_ in GRID} >= {name for name in KERNELS if operations.find(name).portable is not None}


def test_requiring_the_gpu_finds_it(selector):
    workload = WorkloadCharacteristics(operation_type="matmul", data_shape=(512, 512), require="gpu")
    decision = selector.decide(workload)
    assert decision.variant == "cupy@cuda:0"
    assert decision.device == "cuda:0"


def test_an_array_on_the_device_stays_there(selector):
    x = convert(np.linspace(0.0, 1.0, 1000), to="cupy")
    y = selector.run("element_wise", x)
    assert residency(y) == "cupy@cuda:0"
    want = operations.find("element_wise").reference(np.linspace(0.0, 1.0, 1000))
    np.testing.assert_allclose(convert(y, to="numpy"), want, rtol=1e-14)


def test_running_out_of_memory_falls_back_to_the_host(selector, monkeypatch):
    def full(*_):
        raise stand_in_cupy.OutOfMemoryError("Out of memory allocating 8,000 bytes (allocated so far: 0 bytes).")

    x = np.linspace(0.0, 1.0, 1000)
    want = operations.find("element_wise").reference(x)
    workload = WorkloadCharacteristics(operation_type="element_wise", data_shape=x.shape)
    assert selector.decide(workload, "cupy").variant == "cupy@cuda:0"
    monkeypatch.setattr(stand_in_cupy.Functions, "__getattr__", lambda self, name: full)
    y = selector.run("element_wise", convert(x, to="cupy"))
    assert residency(y) == "cupy@cuda:0"  # as it came in, though computed elsewhere
    np.testing.assert_allclose(convert(y, to="numpy"), want, rtol=1e-14)
