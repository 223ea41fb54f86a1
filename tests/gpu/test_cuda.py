"""What only a CUDA device can show. Run by `make gpu` on a machine that has one; the list of names is the contract."""

from __future__ import annotations

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.conversion import convert, residency
from pointsman.executors.errors import NoCandidateError
from pointsman.executors.prepare import prepare
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.memory import GpuMemory

pytestmark = pytest.mark.gpu

VARIANTS = [
    (name, variant.name)
    for name in KERNELS
    for variant in operations.find(name).variants  # type: ignore[union-attr]
    if variant.device.startswith("cuda")
]


@pytest.mark.parametrize(("kernel", "variant"), VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_variant_agrees_with_its_reference(kernel, variant, dtype):
    operation = operations.find(kernel)
    args, kwargs = operation.sample(np.random.default_rng(1), 1000, dtype)
    prepared = prepare(operation.variant(variant), ("numpy",) * len(args), dict.fromkeys(kwargs))
    got, want = prepared.call(*args, **kwargs), operation.reference(*args, **kwargs)
    scale = float(np.max(np.abs(want)))
    assert float(np.max(np.abs(np.asarray(got) - want))) <= operation.tolerances[dtype] * scale


def test_a_tensor_on_the_device_stays_there():
    x = convert(np.arange(1000.0), to="torch", device="cuda:0")
    y = IntelligentBackendSelector(history=":memory:").run("element_wise", x)
    assert residency(y) == "torch@cuda:0"


def test_a_round_trip_changes_nothing():
    x = np.random.default_rng(2).standard_normal((64, 64))
    assert np.array_equal(convert(convert(x, to="torch", device="cuda:0"), to="numpy"), x)


def test_the_budget_is_what_nvml_says_less_the_reserve():
    import pynvml

    pynvml.nvmlInit()
    free = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).free
    assert GpuMemory(reserve=0.3).budget_bytes("cuda:0") == pytest.approx(0.7 * free, rel=0.05)


def test_what_does_not_fit_is_no_candidate():
    huge = WorkloadCharacteristics(operation_type="matmul", data_shape=(400_000, 400_000), require="gpu")
    with pytest.raises(NoCandidateError, match="MiB"):
        IntelligentBackendSelector(history=":memory:").select_backend(huge)


def test_running_out_of_memory_is_classified_and_survived():
    torch = pytest.importorskip("torch", reason="the device's library")
    executor, _ = registry.ensure("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda:0")
    assert str(executor.classify(caught.value)) == "out of memory"


def test_the_clock_waits_for_the_device():
    x = convert(np.ones((4096, 4096), dtype="float32"), to="torch", device="cuda:0")
    operation = operations.find("matmul")
    prepared = prepare(operation.variant("torch@cuda:0"), ("torch", "torch"), out="torch", out_device="cuda:0")
    prepared.split(x, x)
    _, split = prepared.split(x, x)
    assert prepared.asynchronous
    assert split.compute_s > 0.0


def test_large_work_goes_to_the_device_and_small_work_does_not():
    selector = IntelligentBackendSelector(history=":memory:")
    small = WorkloadCharacteristics(operation_type="anything", data_shape=(10,))
    large = WorkloadCharacteristics(operation_type="anything", data_shape=(8192, 8192), work=1e12, expected_calls=1000)
    assert selector.select_backend(small) == "numpy"
    assert selector.decide(large).device == "cuda:0"
