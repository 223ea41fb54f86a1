"""CuPy without a GPU: why it cannot be used here, exactly; and our side of its border, against a stand-in for it."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest
import stand_in_cupy
from pointsman.executors import on_cupy, registry
from pointsman.executors.base import Variant
from pointsman.executors.conversion import convert, kind_of, residency
from pointsman.executors.errors import BackendUnavailableError, UnsupportedError
from pointsman.executors.on_cupy import CupyExecutor
from pointsman.executors.prepare import prepare
from pointsman.telemetry import hardware
from pointsman.telemetry.outcome import Failure
from stand_in_cupy import StandInNvml

DTYPES = sorted(CupyExecutor.capabilities.dtypes)


@pytest.fixture
def cupy(monkeypatch):
    """The executor, on a stand-in for CuPy with two GPUs."""
    yield stand_in_cupy.install(monkeypatch, gpus=2)
    stand_in_cupy.remove()


# --------------------------------------------------------------------------------------------- why it cannot be used

NO_DRIVER = "but this machine has no NVIDIA driver; it needs an NVIDIA GPU and its driver"


@pytest.mark.parametrize(
    ("wheels", "nvml", "visible", "answer"),
    [
        (["cupy-cuda13x"], None, None, f"cupy-cuda13x is installed, {NO_DRIVER}"),
        (["cupy-cuda13x"], StandInNvml(answers=False), None, "the NVIDIA driver does not answer: Driver/library"),
        (["cupy-cuda13x"], StandInNvml(gpus=0), None, "the NVIDIA driver names no GPU"),
        (["cupy-cuda13x"], StandInNvml(), "7", "names no GPU among CUDA_VISIBLE_DEVICES=7"),
        (["cupy-cuda13x"], StandInNvml(), "-1", "CUDA_VISIBLE_DEVICES=-1 hides every GPU; unset it"),
        (
            ["cupy-cuda13x"], StandInNvml(cuda=12040), None,
            "cupy-cuda13x is installed, but it needs a driver for CUDA 13 and this one is for CUDA 12.4; update the "
            "driver, or: pip uninstall cupy-cuda13x; pip install cupy-cuda12x",
        ),
        (["cupy-cuda12x"], StandInNvml(cuda=11080), None, "this one is for CUDA 11.8; update the driver"),
        (["cupy-cuda12x"], StandInNvml(cuda=13000), None, None),
        (["cupy"], StandInNvml(cuda=11080), None, None),
        (["cupy-cuda13x", "cupy-cuda12x"], StandInNvml(), None, "installed over each other; uninstall both"),
    ],
)  # fmt: skip
def test_the_answer_names_what_is_missing(monkeypatch, wheels, nvml, visible, answer):
    monkeypatch.setattr(on_cupy, "_installed", lambda: dict.fromkeys(wheels, "14.2.0"))
    monkeypatch.setattr(hardware, "driver", lambda: nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cupy = CupyExecutor()
    found = cupy.unusable()
    assert (found is None) == (answer is None)
    assert answer is None or answer in found
    assert bool(cupy.devices()) == (answer is None)


def test_the_installed_wheel_says_so_without_being_imported(fresh_python, monkeypatch):
    code = """
import sys
from pointsman.telemetry import hardware
hardware.driver = lambda: None
from pointsman.executors import registry
print(registry.available("cupy"))
info = next(info for info in registry.list_backends() if info.name == "cupy")
print(info.available, info.devices, info.reason == registry.available("cupy"), "cupy" in sys.modules)
try:
    registry.get_backend("cupy")
except ImportError as error:
    print(error)
"""
    sentence = f"{next(iter(on_cupy._installed()))} is installed, {NO_DRIVER}"
    assert fresh_python(code).splitlines() == [sentence, "False () True False", sentence]


def test_a_missing_wheel_is_told_with_the_wheel_for_each_cuda(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    monkeypatch.setattr(registry, "_FOUND", set())
    monkeypatch.delitem(registry._READY, "cupy", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'pointsman\[cupy\]' \(for CUDA 13; .*cupy-cuda12x"):
        registry.get_backend("cupy")


# ------------------------------------------------------------------------------------- the stand-in and the real one


def test_all_that_the_stand_in_offers_is_in_the_real_one():
    real, offered = importlib.import_module("cupy"), stand_in_cupy.module()
    for name in (name for name in vars(offered) if not name.startswith("__")):
        assert hasattr(real, name), name
    names = [name for name in dir(stand_in_cupy.ndarray) if name not in dir(object) and name != "_inside"]
    assert [n for n in names if n not in dir(real.ndarray) and n not in ("__dict__", "__weakref__")] == []
    assert "get(self, stream=None, order='C', out=None, blocking=True)" in real.ndarray.get.__doc__
    for name in ("id", "synchronize", "__enter__", "__exit__"):
        assert hasattr(real.cuda.Device, name), name
    for name in ("free_bytes", "free_all_blocks"):
        assert hasattr(real.get_default_memory_pool(), name), name
    assert hasattr(real.get_default_pinned_memory_pool(), "free_all_blocks")
    assert callable(real.fft.config.get_plan_cache)
    for stand_in in (stand_in_cupy.CUDARuntimeError, stand_in_cupy.OutOfMemoryError, stand_in_cupy.CompileException):
        error = getattr(importlib.import_module(stand_in.__module__), stand_in.__name__)
        assert issubclass(error, stand_in.__bases__)


def test_failures_of_the_real_one_are_recognised():
    real, classify = importlib.import_module("cupy"), CupyExecutor().classify
    cuda, memory = real.cuda.runtime.CUDARuntimeError, importlib.import_module("cupy.cuda.memory")
    assert classify(cuda(2)) is Failure.OUT_OF_MEMORY
    assert classify(cuda(35)) is Failure.UNAVAILABLE  # the driver is too old, or there is none
    assert classify(cuda(100)) is Failure.UNAVAILABLE  # no device
    assert classify(cuda(700)) is Failure.DRIVER  # illegal address
    assert classify(memory.OutOfMemoryError(1 << 50, 0)) is Failure.OUT_OF_MEMORY
    assert classify(importlib.import_module("cupy.cuda.compiler").CompileException("e", "s", "n", ())) is (
        Failure.UNSUPPORTED
    )
    library = "libcufft.so.12: cannot open shared object file: No such file or directory"
    assert classify(ImportError(library)) is Failure.UNAVAILABLE
    assert classify(TypeError("Unsupported type <class 'numpy.ndarray'>")) is Failure.UNSUPPORTED
    for own in (ValueError("x"), RuntimeError("the headers differ"), ImportError("no module named mine"), TypeError()):
        assert classify(own) is None


# ------------------------------------------------------------------------------------------- against the stand-in


def test_it_proves_itself_and_is_listed_with_its_devices(cupy):
    assert registry.ensure("cupy")[0] is cupy
    info = next(info for info in registry.list_backends(available_only=True) if info.name == "cupy")
    assert info.devices == ("cuda:0", "cuda:1")


def test_a_wrong_number_makes_it_broken(cupy, monkeypatch):
    monkeypatch.setattr(stand_in_cupy.ndarray, "sum", lambda self: 31.0)
    with pytest.raises(BackendUnavailableError, match=r"came out as 31\.0, not 30\.0"):
        registry.ensure("cupy")


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_survive_the_way_in_and_out(cupy, dtype):
    plain = np.array([0, 1, 1, 0, 1, 0]).astype(dtype)
    swapped = plain.astype(plain.dtype.newbyteorder("S"))
    for x in (plain, plain[::-1], plain[::2], plain[:0], plain[1], swapped, np.broadcast_to(plain[:1], (3,))):
        inside = convert(np.asarray(x), to="cupy")
        assert kind_of(inside) == "cupy"
        assert residency(inside) == "cupy@cuda:0"
        out = convert(inside, to="numpy")
        assert (type(out), out.dtype.name, out.shape) == (np.ndarray, dtype, np.shape(x))
        np.testing.assert_array_equal(out, x)
        out[...] = 0
        np.testing.assert_array_equal(convert(inside, to="numpy"), x)


def test_what_it_lacks_is_refused_never_narrowed(cupy):
    with pytest.raises(UnsupportedError, match="cupy does not compute in"):
        convert(np.ones(3, np.longdouble), to="cupy")
    with pytest.raises(UnsupportedError, match="cupy does not compute in bfloat16"):
        convert(np.ones(3), to="cupy", dtype="bfloat16")
    with pytest.raises(UnsupportedError, match=r"cannot use device 'cpu' here; it can use: cuda:0, cuda:1"):
        convert(np.ones(3), to="cupy", device="cpu")
    assert convert(convert(np.ones(3), to="cupy"), to="numpy", dtype="float32").dtype == np.float32


def test_arrays_go_to_the_device_that_is_named(cupy):
    first = convert(np.arange(3.0), to="cupy")
    assert convert(first, to="cupy") is first
    second = convert(first, to="cupy", device="cuda:1")
    assert residency(second) == "cupy@cuda:1"
    assert convert(second, to="cupy") is second
    assert convert(second, to="numpy").tolist() == [0.0, 1.0, 2.0]


def test_tensors_come_and_go_over_the_host(cupy):
    torch = importlib.import_module("torch")
    inside = convert(torch.arange(3.0), to="cupy")
    assert residency(inside) == "cupy@cuda:0"
    assert convert(inside, to="torch").tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(UnsupportedError, match="its gradient would be lost"):
        convert(torch.ones(3, requires_grad=True), to="cupy")


def test_a_variant_runs_on_its_device_whatever_is_current(cupy):
    """The stand-in refuses, as CuPy does, arrays of another device than the current one."""
    doubled = prepare(Variant("cupy@cuda:1", "cupy", lambda: lambda x: x + x, device="cuda:1"), ("numpy",))
    assert doubled.call(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    x = convert(np.arange(3.0), to="cupy", device="cuda:1")
    here = Variant("cupy@cuda:1", "cupy", lambda: lambda x: x + x, device="cuda:1")
    resident = prepare(here, ("cupy",), out="cupy", out_device="cuda:1")
    assert resident.asynchronous
    y, _ = resident.split(x)
    assert residency(y) == "cupy@cuda:1"
    assert set(stand_in_cupy.Device.waited) == {1}


def test_no_dimensions_come_out_as_a_numpy_scalar(cupy):
    found = prepare(Variant("cupy@cuda:0", "cupy", lambda: lambda x: x.sum(), device="cuda:0"), ("numpy",)).call
    assert type(found(np.ones(5, "float32"))) is np.float32


def test_numpy_mixed_in_is_unsupported_not_the_callers_error(cupy):
    mixed = prepare(Variant("cupy@cuda:0", "cupy", lambda: lambda x: x + np.ones(3), device="cuda:0"), ("numpy",)).call
    inside = convert(np.ones(3), to="cupy")
    for wrong in (
        lambda: mixed(np.ones(3)),
        lambda: cupy.namespace().add(inside, np.ones(3)),
        lambda: np.asarray(inside),
    ):
        with pytest.raises(TypeError) as caught:
            wrong()
        assert cupy.classify(caught.value) is Failure.UNSUPPORTED


def test_pools_are_counted_and_emptied_only_once_it_has_started(cupy):
    import sys

    pool = sys.modules["cupy"].get_default_memory_pool()
    pool.free = 5000
    assert cupy.reusable_bytes("cuda:0") == 0
    cupy.free_caches()
    assert pool.freed == 0
    registry.ensure("cupy")
    assert cupy.reusable_bytes("cuda:0") == 5000
    assert cupy.reusable_bytes("cpu") == 0
    cupy.free_caches()
    assert pool.freed == 2  # on either device
    assert cupy.reusable_bytes("cuda:0") == 0


def test_its_version_is_the_wheels():
    assert re.match(r"\d+\.\d+", CupyExecutor().version())
