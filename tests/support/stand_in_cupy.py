"""A stand-in for CuPy on a machine without a GPU: NumPy behind CuPy's names. It shows nothing about a GPU.

It holds our own code to how CuPy behaves at its border: an array class of its own that NumPy's functions refuse and
that refuses NumPy's arrays; arrays of no dimensions where NumPy gives scalars; devices, on which alone their arrays
may be used; memory pools; error classes. Only what the real CuPy has is offered (`tests/executors/test_cupy.py` checks
the names against the installed wheel); anything else is an AttributeError.
"""

from __future__ import annotations

import operator
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat.numpy as host
import numpy as np
import pytest
from pointsman.executors import conversion, on_jax, on_numba, on_torch, registry
from pointsman.executors.on_cupy import CupyExecutor
from pointsman.telemetry import hardware

GIB = 2**30


class StandInNvml:
    """pynvml on a machine with so many GPUs and a driver for such a CUDA (13000 is 13.0)."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: int = 1, cuda: int = 13000, answers: bool = True) -> None:
        self.gpus, self.cuda, self.answers = gpus, cuda, answers

    def nvmlInit(self) -> None:
        if not self.answers:
            raise self.NVMLError("Driver/library version mismatch")

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "stand-in"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-stand-in-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(free=70 * GIB, total=80 * GIB)


class Device:
    """``with Device(1):`` makes it the current one of this thread."""

    _current = threading.local()
    waited: list[int] = []  # noqa: RUF012 - noted for the tests: which devices were waited for

    def __init__(self, id: int | None = None) -> None:
        self.id = Device.now() if id is None else id
        if self.id >= Device.count:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    count = 2

    @classmethod
    def now(cls) -> int:
        return getattr(cls._current, "stack", [0])[-1]

    def __enter__(self) -> Device:
        if not hasattr(self._current, "stack"):
            Device._current.stack = [0]
        self._current.stack.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        self._current.stack.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def synchronize(self) -> None:
        Device.waited.append(self.id)


def _error(name: str, module: str, base: type = RuntimeError) -> type:
    return type(name, (base,), {"__module__": module})


CUDARuntimeError = _error("CUDARuntimeError", "cupy_backends.cuda.api.runtime")
OutOfMemoryError = _error("OutOfMemoryError", "cupy.cuda.memory", MemoryError)
CompileException = _error("CompileException", "cupy.cuda.compiler", Exception)


def _strip(x: Any) -> Any:
    """The NumPy array inside, checked to lie on the current device; NumPy's own arrays are refused as CuPy does."""
    if isinstance(x, ndarray):
        if x.device.id != Device.now():
            raise ValueError(f"Array device must be same as the current device: {x.device.id} != {Device.now()}")
        return x._inside
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, tuple | list):
        return type(x)(_strip(part) for part in x)
    if isinstance(x, dict):
        return {name: _strip(part) for name, part in x.items()}
    return x


def _dress(x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(np.asarray(x))
    if isinstance(x, tuple):
        parts = [_dress(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


class ndarray:
    """An array on a stand-in for a device."""

    __array_ufunc__ = None

    def __init__(self, inside: np.ndarray) -> None:
        self._inside = inside
        self.device = Device()

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    dtype = property(lambda self: self._inside.dtype)
    shape = property(lambda self: self._inside.shape)
    ndim = property(lambda self: self._inside.ndim)
    size = property(lambda self: self._inside.size)
    strides = property(lambda self: self._inside.strides)
    nbytes = property(lambda self: self._inside.nbytes)
    T = property(lambda self: _dress(_strip(self).T))
    mT = property(lambda self: _dress(np.swapaxes(_strip(self), -1, -2)))
    real = property(lambda self: _dress(_strip(self).real))
    imag = property(lambda self: _dress(_strip(self).imag))

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        return self._inside.copy(order="C")

    def copy(self, order: str = "C") -> ndarray:
        return ndarray(self._inside.copy())  # on the current device, wherever it was

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return self if not copy and self.dtype == dtype else ndarray(_strip(self).astype(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray(_strip(self).reshape(*shape))

    def sum(self, axis: Any = None) -> ndarray:
        return _dress(np.sum(_strip(self), axis=axis))

    def __getitem__(self, key: Any) -> ndarray:
        return _dress(_strip(self)[_strip(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        _strip(self)[_strip(key)] = _strip(value)

    def __len__(self) -> int:
        return len(self._inside)

    def __float__(self) -> float:
        return float(self._inside)

    def __int__(self) -> int:
        return int(self._inside)

    def __bool__(self) -> bool:
        return bool(self._inside)


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift")
_COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert")


def _operators() -> None:
    def of(name: str, swap: bool) -> Any:
        function = getattr(operator, name)

        def method(self: ndarray, other: Any) -> Any:
            pair = (_strip(other), _strip(self)) if swap else (_strip(self), _strip(other))
            return _dress(function(*pair))

        return method

    for name in _BINARY:
        plain = name.rstrip("_")
        setattr(ndarray, f"__{plain}__", of(name, swap=False))
        setattr(ndarray, f"__r{plain}__", of(name, swap=True))
    for name in _COMPARING:
        setattr(ndarray, f"__{name}__", of(name, swap=False))
    for name in _UNARY:
        setattr(ndarray, f"__{name}__", lambda self, name=name: _dress(getattr(operator, name)(_strip(self))))
    ndarray.__hash__ = object.__hash__  # type: ignore[method-assign]


_operators()


class Functions(ModuleType):
    """The array API over stand-in arrays: what `array_api_compat.cupy` is for the real ones."""

    used: set[str] = set()  # noqa: RUF012 - noted for the tests: which names were asked for

    def __init__(self, name: str, source: Any) -> None:
        super().__init__(name)
        self._source = source

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._source, name)
        Functions.used.add(f"{self.__name__}.{name}")
        if isinstance(found, ModuleType):
            return Functions(f"{self.__name__}.{name}", found)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            device = kwargs.pop("device", None)
            with Device(Device.now() if device is None else device.id):
                if name == "asarray" and args and isinstance(args[0], np.ndarray):
                    return ndarray(found(args[0], *args[1:], **{**kwargs, "copy": True}))
                return _dress(found(*_strip(args), **_strip(kwargs)))

        return call


class Pool:
    """A memory pool that holds what the test says."""

    def __init__(self) -> None:
        self.free, self.freed = 0, 0

    def free_bytes(self) -> int:
        return self.free

    def free_all_blocks(self) -> None:
        self.freed, self.free = self.freed + 1, 0


def module() -> ModuleType:
    """What stands in `sys.modules` as ``cupy``."""
    cupy = ModuleType("cupy")
    pool, pinned, plans = Pool(), Pool(), SimpleNamespace(clear=lambda: None)
    xp = Functions("cupy", host)
    offered = {
        "ndarray": ndarray,
        "arange": xp.arange,
        "asarray": xp.asarray,
        "from_dlpack": lambda x: ndarray(np.from_dlpack(x)),
        "cuda": SimpleNamespace(Device=Device),
        "fft": SimpleNamespace(config=SimpleNamespace(get_plan_cache=lambda: plans)),
        "get_default_memory_pool": lambda: pool,
        "get_default_pinned_memory_pool": lambda: pinned,
    }
    for name, value in offered.items():
        setattr(cupy, name, value)
    return cupy


def install(monkeypatch: pytest.MonkeyPatch, gpus: int = 1, cuda: int = 13000) -> CupyExecutor:
    """Have this process find the stand-in as ``cupy``, and GPUs that are not there; until the test ends."""
    import array_api_compat

    cupy, xp = module(), Functions("array_api_compat.cupy", host)
    executor = CupyExecutor()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = StandInNvml(gpus, cuda)
    monkeypatch.setattr(hardware, "driver", lambda: nvml)
    # The GPUs are not there: nobody else must try to use them, whatever is installed.
    monkeypatch.setattr(on_torch, "_built_with_cuda", lambda: False)
    monkeypatch.setattr(on_numba, "_finds_cuda", lambda: False)
    monkeypatch.setattr(on_jax, "find_spec", lambda _: None)
    monkeypatch.setattr(Device, "count", gpus)
    monkeypatch.setattr(Device, "waited", [])
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", xp)
    monkeypatch.setattr(array_api_compat, "cupy", xp, raising=False)
    monkeypatch.setitem(registry._EXECUTORS, "cupy", executor)
    for known in (registry._READY, registry._BROKEN):
        monkeypatch.delitem(known, "cupy", raising=False)
    conversion.forget_types()
    return executor


def remove() -> None:
    """Forget what this process learned with the stand-in; to be called after the test has ended."""
    for known in (registry._READY, registry._BROKEN, registry._MEASURED_S):
        known.pop("cupy", None)
    conversion.forget_types()
