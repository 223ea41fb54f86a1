"""The executor `gpu`: batches of a vectorised worker on every library, memory, failures; and OpenCL on the CPU."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import batch_workers as w
import numpy as np
import pointsman as pm
import pytest
import stand_in_cupy
from pointsman import draws
from pointsman.executors import registry
from pointsman.executors.errors import BackendUnavailableError, RunTimeoutError
from pointsman.executors.mapping import map_methods
from pointsman.executors.on_gpu import MOST, OPENCL, Simulations, takes_batches
from pointsman.telemetry.outcome import Failure

GPU = registry.executor("gpu")
HOST = [name for name in GPU.libraries() if "cpu" in registry.executor(name).capabilities.devices]
N = 103
SHIFT = np.linspace(-1.0, 1.0, 7)


def keys(first: int, count: int) -> np.ndarray:
    return draws.keys(5, count, first=first)


def joined(batches):
    """The batches of a run as one, and where they began."""
    batches = list(batches)
    parts = [results for _, results, _ in batches]
    return np.concatenate(parts), [first for first, _, _ in batches]


def test_it_is_a_backend_that_maps_nothing():
    assert not GPU.capabilities.map
    assert "gpu" not in [executor.name for _, executor, _ in map_methods()]
    with pytest.raises(ValueError, match="no map runs on 'gpu'"):
        pm.map(abs, [1, 2], "gpu")
    assert GPU.devices() == ("cpu",)


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("method", HOST)
def test_batches_of_any_size_give_the_same_simulations(method, pure):
    job = Simulations(w.mean_and_extremes, keys, N, (7,), {"shift": SHIFT}, pure)
    [(_, whole, _)] = GPU.run_batches(Simulations(w.mean_and_extremes, keys, N, (7,), {"shift": SHIFT}))
    z = draws.normal(keys(0, N), 7) + SHIFT
    np.testing.assert_allclose(whole["mean"], z.mean(axis=1), rtol=1e-12)
    for size in (1, 40, N, 1000) if method == "numpy" else (40,):
        batches = list(GPU.run_batches(job, method=method, batch_size=size))
        assert [first for first, _, _ in batches] == list(range(0, N, size))
        for first, found, seconds in batches:
            here = slice(first, first + size)
            assert seconds > 0.0
            assert type(found["ends"]) is tuple
            for a, b in ((found["mean"], whole["mean"]), (found["ends"][1], whole["ends"][1])):
                assert type(a) is np.ndarray
                np.testing.assert_allclose(a, b[here], rtol=1e-12)
            assert found["first"].base is None, "a view would keep the whole batch in memory"


def test_some_of_the_simulations_can_be_asked_for():
    found, begins = joined(GPU.run_batches(Simulations(w.uniforms, keys, N), first=10, stop=31, batch_size=8))
    assert begins == [10, 18, 26]
    np.testing.assert_array_equal(found, draws.uniform(keys(10, 21), 3))


@pytest.mark.parametrize("method", HOST)
def test_a_batch_that_runs_out_of_memory_is_halved_and_nothing_changes(method):
    worker = w.Hungry(most=12)
    found, begins = joined(GPU.run_batches(Simulations(worker, keys, N), method=method, batch_size=64))
    np.testing.assert_array_equal(found, draws.integers(keys(0, N), 1, 1000)[:, 0])
    assert begins == list(range(0, N, 8))
    assert set(worker.sizes) <= {8, N % 8}


def test_out_of_memory_with_a_single_simulation_comes_out():
    worker = w.Hungry(most=0)
    with pytest.raises(MemoryError) as caught:
        list(GPU.run_batches(Simulations(worker, keys, N), batch_size=8))
    assert caught.value.__notes__ == ["pointsman: raised by the batch of simulations 0 to 0"]


def test_an_error_of_the_worker_comes_out_with_its_batch():
    def fails(keys, *, xp):
        if len(keys) == 3:
            raise ArithmeticError("three")
        return keys[:, 0]

    with pytest.raises(ArithmeticError, match="three") as caught:
        list(GPU.run_batches(Simulations(fails, keys, 43), batch_size=20))
    assert caught.value.__notes__ == ["pointsman: raised by the batch of simulations 40 to 42"]


@pytest.mark.parametrize("method", HOST)
@pytest.mark.parametrize("wrong", [lambda keys, xp: 1.0, lambda keys, xp: xp.sum(keys), lambda keys, xp: keys[1:]])
def test_a_result_without_the_batch_is_refused(method, wrong):
    with pytest.raises(TypeError, match="batch of 20 simulations; give an array whose first axis is the batch"):
        list(GPU.run_batches(Simulations(wrong, keys, 20), method=method))


@pytest.mark.parametrize("method", HOST)
def test_arguments_cannot_be_changed(method):
    table = np.zeros(4)

    def writes(keys, table, *, xp):
        table[0] = 1.0
        return keys[:, 0]

    # Torch has no read-only tensors: the worker writes to a copy of its own.
    refused = contextlib.nullcontext() if method == "torch" else pytest.raises(Exception, match=r"read-only|immutable")
    with refused:
        list(GPU.run_batches(Simulations(writes, keys, 4, (table,)), method=method))
    assert table[0] == 0.0


def test_a_run_ends_in_time():
    runs = GPU.run_batches(Simulations(w.uniforms, keys, N), batch_size=10, until=time.monotonic() + 60.0)
    assert next(runs)[0] == 0
    with pytest.raises(RunTimeoutError):
        next(GPU.run_batches(Simulations(w.uniforms, keys, N), until=time.monotonic() - 1.0))


# ---------------------------------------------------------------------------------------------- memory


def test_what_a_batch_takes_is_weighed_and_bounds_the_next(monkeypatch):
    def once():
        return list(GPU.run_batches(Simulations(w.uniforms, keys, 500, (1000,)), batch_size=500))

    result, nbytes = GPU.weigh(once)
    assert len(result) == 1
    assert 500 * 1000 * 8 <= nbytes < 10 * 500 * 1000 * 8
    assert not tracemalloc.is_tracing()
    assert GPU.batch_size(nbytes // 500) * nbytes // 500 <= 33 << 20
    assert GPU.batch_size(1) == MOST
    monkeypatch.setattr("pointsman.telemetry.memory.host_budget_bytes", lambda: 2 << 20)
    assert GPU.batch_size(1 << 10) == 1 << 10
    assert GPU.batch_size(1 << 30) == 1


def test_a_callers_own_tracing_goes_on():
    tracemalloc.start()
    try:
        assert GPU.weigh(lambda: np.ones(10**6))[1] >= 8 * 10**6
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------- a GPU that is not there


@pytest.fixture
def cupy(monkeypatch):
    yield stand_in_cupy.install(monkeypatch)
    monkeypatch.undo()
    stand_in_cupy.remove()


def test_cupy_gets_keys_and_arguments_on_its_device(cupy):
    job = Simulations(w.mean_and_extremes, keys, N, (7,), {"shift": SHIFT})
    [(_, whole, _)] = GPU.run_batches(job)
    sizes = []
    for first, found, _ in GPU.run_batches(job, method="cupy", device="cuda:0", batch_size=40):
        sizes.append(len(found["mean"]))
        np.testing.assert_allclose(found["mean"], whole["mean"][first : first + 40], rtol=1e-12)
    assert sizes == [40, 40, 23]
    assert GPU.devices() == ("cpu", "cuda:0")
    # A quarter of 70 % of the stand-in's 70 GiB is more than a batch needs.
    assert GPU.batch_size(1 << 20, "cupy", "cuda:0") == 1 << 10


def test_a_full_gpu_halves_the_batch(cupy):
    worker = w.Hungry(20, "cupy")

    def out_of_memory(keys, *, xp):
        try:
            return worker(keys, xp=xp)
        except MemoryError:
            raise stand_in_cupy.OutOfMemoryError("Out of memory allocating 1 bytes") from None

    found, begins = joined(
        GPU.run_batches(Simulations(out_of_memory, keys, N), method="cupy", device="cuda:0", batch_size=N)
    )
    assert begins == list(range(0, N, 12))
    np.testing.assert_array_equal(found, draws.integers(keys(0, N), 1, 1000)[:, 0])


# ---------------------------------------------------------------------------------------------- OpenCL


def test_opencl_draws_the_numbers_of_numpy():
    worker = pm.OpenCLWorker(w.SUM, "sum", shape=(2,))
    assert takes_batches(worker)
    job = Simulations(worker, keys, N, (7, 0.5, SHIFT))
    found, begins = joined(GPU.run_batches(job, method=OPENCL, batch_size=40))
    assert begins == [0, 40, 80]
    expected = (0.5 * draws.normal(keys(0, N), 7, stream=5) + SHIFT).sum(axis=1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found[:, 1], draws.uniform(keys(0, N), 8, stream=6)[:, 7])


def test_opencl_has_float32_too():
    source = """
    __kernel void eight(__global const uint4 *keys, __global float *results)
    {
        const size_t i = get_global_id(0);
        vstore4(pm_uniform4f(keys[i], 1, 3), 0, results + 8 * i);
        vstore4(pm_normal4f(keys[i], 1, 3), 1, results + 8 * i);
    }"""
    found = pm.OpenCLWorker(source, "eight", "float32", (8,))(keys(0, 20))
    drawn = {"dtype": "float32", "stream": 3}
    np.testing.assert_array_equal(found[:, :4], draws.uniform(keys(0, 20), 8, **drawn)[:, 4:])
    np.testing.assert_allclose(found[:, 4:], draws.normal(keys(0, 20), 8, **drawn)[:, 4:], rtol=1e-5, atol=1e-5)


def test_wrong_opencl_says_so():
    import pyopencl as cl

    with pytest.raises(ValueError, match="no kernel 'product'"):
        pm.OpenCLWorker(w.SUM, "product")
    with pytest.raises(TypeError, match="found a kernel called ''"):
        pm.OpenCLWorker(w.SUM, "")
    with pytest.raises(TypeError, match="found str"):
        pm.OpenCLWorker(w.SUM, "sum", shape=(2,))(keys(0, 1), "seven")
    broken = pm.OpenCLWorker("__kernel void f(__global const uint4 *k, __global double *r) { r[0] = x; }", "f")
    with pytest.raises(cl.RuntimeError, match="undeclared identifier 'x'") as caught:
        list(GPU.run_batches(Simulations(broken, keys, 4), method=OPENCL))
    assert GPU.failure_of(caught.value, OPENCL) is None
    with pytest.raises(TypeError, match="gpu/opencl runs an OpenCLWorker"):
        next(GPU.run_batches(Simulations(w.uniforms, keys, 4), method=OPENCL))
    with pytest.raises(cl.Error) as caught:
        cl.Buffer(cl.Context(cl.get_platforms()[0].get_devices()), cl.mem_flags.READ_ONLY, 1 << 50)
    assert GPU.failure_of(caught.value, OPENCL) is Failure.OUT_OF_MEMORY


def test_opencl_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("pointsman.executors.opencl.find_spec", lambda _: None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'pointsman\[opencl\]'"):
        pm.OpenCLWorker(w.SUM, "sum", shape=(2,))(keys(0, 1), 1, 1.0, SHIFT)
