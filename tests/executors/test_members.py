"""Every backend of the table against the contract; what its capability record says against what it does."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest
from pointsman.executors import on_fftw, registry
from pointsman.executors.base import Executor, Variant
from pointsman.executors.errors import BackendUnavailableError, UnsupportedError
from pointsman.executors.prepare import prepare
from pointsman.executors.table import BACKENDS, BackendType
from pointsman.telemetry.outcome import Failure

# Backends that compute on arrays on the host; a backend that needs an accelerator has tests of its own.
HOST = [
    name
    for name in BACKENDS
    if registry.executor(name).capabilities.array and "cpu" in registry.executor(name).capabilities.devices
]
CELLS = [(name, dtype) for name in HOST for dtype in sorted(registry.executor(name).capabilities.dtypes)]
CONVERTING = [(name, dtype) for name, dtype in CELLS if dtype != "bfloat16"]


def host(name: str):
    """What a host call to this backend happens inside."""
    from contextlib import nullcontext

    return registry.ensure(name)[0].scope() or nullcontext()


def doubled(name: str):
    """x + x on this backend's own arrays, in that backend's own way."""
    return registry.executor(name).adopt(lambda x: x + x)


def sample(dtype: str) -> np.ndarray:
    return np.array([0, 1, 1, 0, 1, 0]).astype(dtype)


def test_the_table_is_in_canonical_order_and_names_backend_types():
    assert list(BACKENDS) == [name for name in BackendType if name in BACKENDS]
    for name in BACKENDS:
        assert registry.executor(name).name == name


@pytest.mark.parametrize("name", BACKENDS)
def test_every_member_is_installed_and_passes_its_own_check(name):
    executor = registry.executor(name)
    assert executor.version()[0].isdigit()
    reason = executor.unusable()
    if reason is not None:
        assert "cpu" not in executor.capabilities.devices, "only a missing accelerator is an excuse"
        assert registry.available(name) == reason
        with pytest.raises(BackendUnavailableError, match=re.escape(reason)):
            registry.ensure(name)
        return
    registry.ensure(name)
    executor.probe()
    assert registry.available(name) is None


@pytest.mark.parametrize(("name", "dtype"), CONVERTING)
def test_every_declared_dtype_computes_without_narrowing(name, dtype):
    prepared = prepare(Variant("v", name, lambda: doubled(name)), ("numpy",))
    x = sample(dtype)
    found = prepared.call(x)
    assert isinstance(found, np.ndarray)
    assert found.flags.writeable
    if not (name == "numba" and dtype in ("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32")):
        assert found.dtype == (x + x).dtype  # Numba's own rule widens small integers, which loses nothing
    np.testing.assert_array_equal(found, x + x)


@pytest.mark.parametrize("name", [n for n in HOST if "bfloat16" in registry.executor(n).capabilities.dtypes])
def test_bfloat16_computes_where_it_is_declared(name):
    executor, _ = registry.ensure(name)
    y = executor.astype(executor.convert_in(np.arange(4, dtype="float32")), "bfloat16")
    assert "bfloat16" in str((y + y).dtype)
    assert float((y + y)[3]) == 6.0


@pytest.mark.parametrize(("name", "dtype"), CONVERTING)
def test_arrays_survive_the_way_in_and_out(name, dtype):
    executor, _ = registry.ensure(name)
    plain = sample(dtype)
    read_only = plain.copy()
    read_only.setflags(write=False)
    forms = {
        "plain": plain,
        "read-only": read_only,
        "negative stride": plain[::-1],
        "every other": plain[::2],
        "transposed": plain.reshape(2, 3).T,
        "empty": plain[:0],
        "no dimensions": np.array(plain[1]),
        "byte-swapped": plain.astype(plain.dtype.newbyteorder("S")),
        "repeated": np.broadcast_to(plain[:1], (3,)),
    }
    for form, x in forms.items():
        before = x.copy()
        with host(name):
            inside = executor.convert_in(x)
            assert executor.owns(inside), form
            out = executor.convert_out(inside)
        assert out.dtype.name == dtype, form
        assert out.shape == x.shape, form
        np.testing.assert_array_equal(out, x, err_msg=form)
        if executor.kind != "numpy":  # NumPy arrays themselves pass as they are
            assert out.flags.writeable, form
            out[...] = 1
            if form in ("read-only", "negative stride", "repeated") or not x.dtype.isnative:
                np.testing.assert_array_equal(x, before, err_msg=form)


@pytest.mark.parametrize("name", HOST)
def test_results_are_written_to_without_touching_the_argument(name):
    x = np.arange(6.0)
    found = prepare(Variant("v", name, lambda: doubled(name)), ("numpy",)).call(x)
    found[:] = -1
    np.testing.assert_array_equal(x, np.arange(6.0))


@pytest.mark.parametrize("name", HOST)
def test_gradients_are_where_they_are_declared(name):
    executor, _ = registry.ensure(name)
    found = None
    if name == "torch":
        x = executor.convert_in(np.arange(3.0)).requires_grad_()
        (x**3).sum().backward()
        found = x.grad.tolist()
    elif name == "jax":
        import jax

        found = jax.grad(lambda x: (x**3).sum())(executor.convert_in(np.arange(3, dtype="float32"))).tolist()
    assert (found == [0.0, 3.0, 12.0]) is executor.capabilities.gradients


@pytest.mark.parametrize("name", [n for n in HOST if registry.executor(n).capabilities.deterministic])
def test_the_same_call_gives_the_same_bits(name):
    x = np.random.default_rng(7).standard_normal(10_001)
    namespace = registry.ensure(name)[0].namespace()
    function = doubled(name) if namespace is None else lambda a: namespace.sum(namespace.sin(a) * a)
    call = prepare(Variant("v", name, lambda: function), ("numpy",)).call
    assert np.asarray(call(x)).tobytes() == np.asarray(call(x)).tobytes()


@pytest.mark.parametrize("name", HOST)
def test_compiling_happens_when_the_record_says(name):
    executor, _ = registry.ensure(name)
    executor.free_caches()
    function = on_fftw.transform if name == "fftw" else executor.compile(lambda x: x + x)  # it plans, nothing else
    prepared = prepare(Variant("v", name, lambda: function), ("numpy",))
    compiled = [prepared.split(x)[1].compiled for x in (np.ones(3), np.ones(3), np.ones(4), np.ones(4, "float32"))]
    expected = {"never": [0, 0, 0, 0], "dtype": [1, 0, 0, 1], "shape": [1, 0, 1, 1]}
    assert list(map(bool, compiled)) == list(map(bool, expected[executor.capabilities.compiles]))
    assert (compiled[0] is None) == (executor.capabilities.compiles == "never")  # which has nothing to say about it


@pytest.mark.parametrize("name", HOST)
def test_no_dimensions_come_out_as_a_numpy_scalar_of_the_same_dtype(name):
    namespace = registry.ensure(name)[0].namespace() or np
    for dtype in ("float32", "float64"):
        found = prepare(Variant("v", name, lambda: lambda x: namespace.sum(x)), ("numpy",)).call(np.ones(5, dtype))
        assert type(found) is np.dtype(dtype).type
        assert found == 5


@pytest.mark.parametrize("name", [n for n in HOST if registry.executor(n).namespace() is not None])
def test_namespaces_have_the_names_of_the_array_api(name):
    xp = registry.executor(name).namespace()
    for function in ("asarray", "mean", "std", "matmul", "permute_dims", "concat", "isdtype", "float64"):
        assert hasattr(xp, function)


@pytest.mark.parametrize("name", HOST)
def test_only_memory_errors_are_listed_by_class(name):
    executor = registry.executor(name)
    assert executor.classify(MemoryError()) is Failure.OUT_OF_MEMORY
    for error in (ValueError("x"), RuntimeError("no"), NotImplementedError("not implemented for odd sizes"),
                  TypeError("t"), KeyError("k"), AssertionError("a")):  # fmt: skip
        assert executor.classify(error) is None


def raised(action) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has classes of its own
        action()
    return caught.value


def test_failures_of_numpy_and_numba_are_recognised():
    assert registry.executor("numpy").classify(raised(lambda: np.empty(10**17))) is Failure.OUT_OF_MEMORY
    numba = registry.ensure("numba")[0]
    call = prepare(Variant("v", "numba", lambda: doubled("numba")), (None,)).call
    assert numba.classify(raised(lambda: call({1: object()}))) is Failure.UNSUPPORTED


def test_failures_of_torch_are_recognised():
    executor = registry.ensure("torch")[0]
    import torch

    assert executor.classify(raised(lambda: torch.empty(10**15))) is Failure.OUT_OF_MEMORY
    assert executor.classify(torch.OutOfMemoryError("CUDA out of memory. Tried ...")) is Failure.OUT_OF_MEMORY
    half = torch.ones(4, dtype=torch.uint16)
    assert executor.classify(raised(lambda: half.sort() and torch.linalg.norm(half))) in (Failure.UNSUPPORTED, None)
    assert executor.classify(raised(lambda: torch.fft.fft(torch.ones(4).half()))) is Failure.UNSUPPORTED
    assert executor.classify(RuntimeError("CUDA error: an illegal memory access was encountered")) is Failure.DRIVER
    assert executor.classify(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")) is Failure.DRIVER
    assert executor.classify(RuntimeError("shape '[3]' is invalid for input of size 4")) is None


def test_failures_of_jax_are_recognised():
    executor = registry.ensure("jax")[0]
    import jax
    import jax.numpy as jnp

    with executor.scope():
        assert executor.classify(raised(lambda: jnp.zeros(10**14).block_until_ready())) is Failure.OUT_OF_MEMORY
    branching = jax.jit(lambda x: x if x.sum() > 0 else -x)
    assert executor.classify(raised(lambda: branching(jnp.ones(3)))) is Failure.UNSUPPORTED
    ragged = jax.jit(lambda x: x[x > 0])
    assert executor.classify(raised(lambda: ragged(jnp.ones(3)))) is Failure.UNSUPPORTED

    def write(x):
        x[0] = 1

    assert executor.classify(raised(lambda: write(jnp.ones(3)))) is Failure.UNSUPPORTED
    error = jax.errors.JaxRuntimeError
    assert executor.classify(error("INTERNAL: CUDA_ERROR_LAUNCH_FAILED")) is Failure.DRIVER
    assert executor.classify(error("INTERNAL: CpuCallback error: ValueError: mine")) is None


def test_float64_survives_jax_whatever_the_process_chose():
    import jax

    executor = registry.ensure("jax")[0]
    assert not jax.config.jax_enable_x64  # the process's own setting
    call = prepare(Variant("v", "jax", lambda: jax.jit(lambda x: x * 2)), ("numpy",)).call
    assert call(np.ones(3)).dtype == np.float64
    assert not jax.config.jax_enable_x64
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        executor.convert_in(np.ones(3))
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        executor.convert_in(np.ones(3, "int64"))
    assert "jax_enable_x64" in executor.refuses("float64", resident=True)
    assert executor.refuses("float64") is None
    assert executor.refuses("float32", resident=True) is None


@pytest.mark.parametrize("name", ["torch", "numba"])
def test_a_thread_count_lasts_for_the_call_only(name):
    library = importlib.import_module(name)
    executor = registry.ensure(name)[0]
    before = library.get_num_threads()
    wanted = 1 if before > 1 else before
    counted = executor.prepare(lambda: library.get_num_threads(), Variant("v", name, list, threads=wanted))
    assert counted() == wanted
    assert library.get_num_threads() == before

    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        executor.prepare(fails, Variant("v", name, list, threads=wanted))()
    assert library.get_num_threads() == before


def test_a_parallel_numba_call_leaves_the_threads_of_torch_as_they_were():
    import numba
    import torch

    def count(x):
        total = 0.0
        for i in numba.prange(x.size):
            total += x[i]
        return total

    compiled = numba.njit(parallel=True)(count)
    call = prepare(Variant("numba/parallel", "numba", lambda: compiled), ("numpy",)).call
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(numba.config.NUMBA_NUM_THREADS + 1)
        assert call(np.ones(1000)) == 1000.0
        assert torch.get_num_threads() == numba.config.NUMBA_NUM_THREADS + 1
    finally:
        torch.set_num_threads(before)


def test_gpus_are_reported_only_where_there_are_some(gpus, monkeypatch):
    torch, jax = registry.executor("torch"), registry.executor("jax")
    gpus(0)
    assert (torch.devices(), jax.devices()) == (("cpu",), ("cpu",))
    gpus(2, built=False)
    assert (torch.devices(), jax.devices()) == (("cpu",), ("cpu",))
    gpus(2)
    assert (torch.devices(), jax.devices()) == (("cpu", "cuda:0", "cuda:1"),) * 2
    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "cpu")
            assert jax.devices() == ("cpu",)
    with monkeypatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cuda")
        assert jax.devices() == ("cuda:0", "cuda:1")


def test_the_build_of_torch_is_read_without_importing_it():
    from pointsman.executors import on_torch

    torch = importlib.import_module("torch")
    assert on_torch._built_with_cuda() == (torch.version.cuda is not None)


def test_an_executor_left_at_its_defaults_is_a_numpy_backend():
    class Plain(Executor):
        name = "plain"
        capabilities = registry.executor("numpy").capabilities

        def probe(self):
            pass

    plain = Plain()
    assert plain.version() == ""
    assert plain.reusable_bytes("cpu") == 0
    assert plain.owns(np.ones(2))
    assert not plain.owns([1.0])
    with pytest.raises(UnsupportedError, match="bfloat16"):
        plain.astype(np.ones(2), "bfloat16")


def test_a_library_that_cannot_use_a_device_holds_no_memory_there():
    """Also once it runs: JAX for the host raises when it is asked for a CUDA device."""
    executor = registry.ensure("jax")[0]
    executor.convert_in(np.zeros(1, np.float32))
    assert executor._started
    assert executor.reusable_bytes("cuda:7") == 0
