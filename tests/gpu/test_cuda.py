"""What only a CUDA device can show: transfers, memory, waiting, failures. Run by `make gpu` where there is one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.conversion import convert, residency
from pointsman.executors.errors import NoCandidateError
from pointsman.executors.prepare import prepare
from pointsman.selector import operations
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.memory import GpuMemory
from pointsman.telemetry.outcome import Failure

pytestmark = pytest.mark.gpu

LIBRARIES = [name for name, capable in registry.array_api_backends() if "cuda" in capable.devices]
GIB = 2**30


# ------------------------------------------------------------------------------------------------------ transfers


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_tensor_on_the_device_stays_there(library, name):
    library(name)
    x = convert(np.arange(1000, dtype="float32"), to=name, device="cuda:0")
    y = IntelligentBackendSelector(history=":memory:").run("element_wise", x)
    assert residency(y) == f"{name}@cuda:0"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_round_trip_changes_nothing(library, name):
    executor = library(name)
    wide = {"int64", "uint64", "float64", "complex128"} if name == "jax" else set()  # x64 is off in this process
    rng = np.random.default_rng(2)
    for dtype in sorted(executor.capabilities.dtypes - {"bfloat16"} - wide):
        plain = (8.0 * rng.standard_normal((64, 65))).astype(dtype)
        for x in (
            plain,
            plain[::-1],
            plain[:, ::2],
            plain.T,
            plain[:0],
            plain[0, 0],
            np.broadcast_to(plain[0], (3, 65)),
        ):
            inside = convert(np.asarray(x), to=name, device="cuda:0")
            assert residency(inside) == f"{name}@cuda:0"
            out = convert(inside, to="numpy")
            assert out.dtype == dtype
            assert out.flags.writeable
            np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_large_array_arrives_whole_and_may_be_overwritten_at_once(library, name):
    """Transfers may be asynchronous: what is written afterwards must not show."""
    library(name)
    x = np.arange(3e7, dtype="float32")
    inside = convert(x, to=name, device="cuda:0")
    x[:] = -1.0
    np.testing.assert_array_equal(convert(inside, to="numpy"), np.arange(3e7, dtype="float32"))


@pytest.mark.parametrize("source", LIBRARIES)
@pytest.mark.parametrize("target", LIBRARIES)
def test_libraries_hand_over_on_the_device_by_copy(library, source, target):
    if source == target:
        pytest.skip("one library")
    library(source), library(target)
    x = np.random.default_rng(3).standard_normal((100, 33)).astype("float32")
    there = convert(convert(x, to=source, device="cuda:0"), to=target, device="cuda:0")
    assert residency(there) == f"{target}@cuda:0"
    np.testing.assert_array_equal(convert(there, to="numpy"), x)


@pytest.mark.parametrize("name", LIBRARIES)
def test_numba_takes_what_lies_on_the_device_without_the_host(library, name, monkeypatch):
    executor, numba = library(name), library("numba")
    x = np.random.default_rng(3).standard_normal((50, 33)).astype("float32")
    inside = convert(x, to=name, device="cuda:0")
    monkeypatch.setattr(type(executor), "convert_out", lambda *_: pytest.fail("it went over the host"))
    lent = numba.convert_in(inside, "cuda:0")
    monkeypatch.undo()
    assert numba.holds(lent)
    np.testing.assert_array_equal(numba.convert_out(lent), x)
    variant = operations.find("element_wise").variant("numba@cuda:0")
    found = prepare(variant, (name,), out=name, out_device="cuda:0").call(inside)
    assert residency(found) == f"{name}@cuda:0"
    np.testing.assert_allclose(convert(found, to="numpy"), operations.find("element_wise").reference(x), rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- memory


def free_bytes() -> int:
    import pynvml

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).free)


def test_the_budget_is_what_nvml_says_less_the_reserve():
    assert GpuMemory(reserve=0.3).budget_bytes("cuda:0") == pytest.approx(0.7 * free_bytes(), rel=0.05)


@pytest.mark.parametrize("name", ["torch", "cupy"])
def test_what_a_pool_holds_counts_as_free_and_can_be_given_back(library, name):
    executor = library(name)
    convert(np.zeros(8), to=name, device="cuda:0")  # starting CUDA takes memory of its own
    executor.free_caches()
    free, memory = free_bytes(), GpuMemory(reserve=0.0)
    x = convert(np.zeros(2 * GIB, "uint8"), to=name, device="cuda:0")
    executor.synchronize(x)
    assert free_bytes() < free - GIB
    del x
    held = executor.reusable_bytes("cuda:0")
    assert held >= 2 * GIB
    memory.refresh("cuda:0")
    assert memory.budget_bytes("cuda:0", held) == pytest.approx(free, rel=0.05)
    executor.free_caches()
    assert executor.reusable_bytes("cuda:0") < GIB
    assert free_bytes() > free - GIB


def test_what_does_not_fit_is_no_candidate():
    huge = WorkloadCharacteristics(operation_type="matmul", data_shape=(400_000, 400_000), require="gpu")
    with pytest.raises(NoCandidateError, match="MiB"):
        IntelligentBackendSelector(history=":memory:").select_backend(huge)


def test_the_threshold_is_the_budget():
    """Just below what NVML has to spare a request is a candidate, just above it is not; nothing is allocated."""
    budget = GpuMemory(reserve=0.3).budget_bytes("cuda:0")
    operation = operations.find("element_wise")
    for share, fits in ((0.8, True), (1.2, False)):
        elements = int(share * budget / operation.bytes(((1,),), {}))
        workload = WorkloadCharacteristics(operation_type="element_wise", data_shape=(elements,), require="gpu")
        selector = IntelligentBackendSelector(history=":memory:")
        if fits:
            assert selector.decide(workload).device == "cuda:0"
        else:
            with pytest.raises(NoCandidateError, match="MiB"):
                selector.decide(workload)


def overflowing(name: str):
    """Asks the library for more memory than any GPU has."""
    size = 1 << 50
    if name == "torch":
        import torch

        return lambda: torch.empty(size, dtype=torch.uint8, device="cuda:0")
    if name == "jax":
        import jax

        # As one buffer of 2**40 bytes; XLA refuses shapes beyond int64 before it looks for memory.
        return lambda: jax.numpy.zeros(1 << 40, dtype="uint8", device=jax.devices("cuda")[0]).block_until_ready()
    if name == "cupy":
        import cupy

        return lambda: cupy.empty(size, dtype="uint8")
    from numba import cuda

    return lambda: cuda.device_array(size, dtype="uint8")


@pytest.mark.parametrize("name", [*LIBRARIES, "numba"])
def test_running_out_of_memory_is_classified_and_survived(library, name):
    executor = library(name)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has a class of its own
        overflowing(name)()
    assert executor.classify(caught.value) is Failure.OUT_OF_MEMORY
    x = np.linspace(0.0, 1.0, 1000, dtype="float32")
    kernel = operations.find("element_wise")
    found = prepare(kernel.variant(f"{name}@cuda:0"), ("numpy",)).call(x)
    np.testing.assert_allclose(found, kernel.reference(x), rtol=1e-5)


@pytest.mark.parametrize("name", [*LIBRARIES, "numba"])
def test_running_out_of_memory_falls_back(library, name):
    """The selector goes on to another candidate, and says which failed and why."""
    executor, full = library(name), overflowing(name)
    selector = IntelligentBackendSelector(history=":memory:")

    def work(backend: str) -> str:
        if backend == name:
            full()
        return backend

    workload = WorkloadCharacteristics(operation_type="overflowing", data_shape=(1000,))
    assert selector.execute_with_monitoring("overflowing", name, work, workload, ["numpy"]) == "numpy"
    assert executor is registry.executor(name)


# ----------------------------------------------------------------------------------------- waiting and late failures


def idle(name: str, y) -> bool:
    """Whether the device has done all it was given, as the library tells without waiting."""
    if name == "torch":
        import torch

        return torch.cuda.current_stream().query()
    if name == "cupy":
        import cupy

        return cupy.cuda.get_current_stream().done
    return y.is_ready()


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_clock_waits_for_the_device(library, name):
    library(name)
    variant = operations.find("matmul").variant(f"{name}@cuda:0")
    x = convert(np.ones((8192, 8192), dtype="float32"), to=name, device="cuda:0")
    prepared = prepare(variant, (name, name), out=name, out_device="cuda:0")
    assert prepared.asynchronous
    for _ in range(3):
        y, split = prepared.split(x, x)
        assert idle(name, y)
        assert split.compute_s > 0.0
        assert split.transfer_s >= 0.0


LATE = {
    "torch": """
import torch
def bad(x):
    return x[torch.full((4,), 1 << 20, device=x.device)] * 2
""",
    "cupy": """
import cupy
kernel = cupy.RawKernel('extern "C" __global__ void k(float *x) { x[1ll << 42] = 1.0f; }', "k")
def bad(x):
    kernel((1,), (32,), (x,))
    return x + 1
""",
    "numba": """
from numba import cuda
@cuda.jit
def kernel(x):
    x[1 << 42] = 1.0
def bad(x):
    kernel[128, 32](x)
    return x
""",
}


@pytest.mark.parametrize("name", list(LATE))
def test_a_failure_that_shows_late_is_the_devices(library, name):
    """The call returns; the error comes when its result is waited for, and no later call works: in its own process."""
    library(name)
    code = f"""
import numpy as np
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.prepare import prepare
{LATE[name]}
executor = registry.ensure({name!r})[0]
call = prepare(Variant("{name}@cuda:0", {name!r}, lambda: bad, device="cuda:0"), ("numpy",)).call
try:
    call(np.ones(64, "float32"))
except Exception as error:
    print(executor.classify(error).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "DRIVER", done.stderr


def test_large_work_goes_to_the_device_and_small_work_does_not():
    selector = IntelligentBackendSelector(history=":memory:")
    small = WorkloadCharacteristics(operation_type="anything", data_shape=(10,))
    large = WorkloadCharacteristics(operation_type="anything", data_shape=(8192, 8192), work=1e12, expected_calls=1000)
    assert selector.select_backend(small) == "numpy"
    assert selector.decide(large).device == "cuda:0"


def test_every_gpu_library_that_is_installed_is_usable():
    """A GPU machine's listing says for each either its devices or why not; nothing is broken in silence."""
    for info in registry.list_backends():
        if "cuda" in info.capabilities.devices:
            assert info.available or info.reason
            if info.available and "cuda:0" in info.devices:
                registry.ensure(info.name)[0].probe()
