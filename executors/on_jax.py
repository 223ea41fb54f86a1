"""JAX: arrays computed by XLA, on the host or on a GPU, with gradients.

JAX narrows float64 to float32 unless x64 is on. A call that starts and ends on the host runs whole inside a scope with
x64 on, so its dtypes survive; arrays that are JAX's own already are computed under the process's own setting.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..telemetry.outcome import Failure
from .base import Capabilities, Executor
from .errors import BackendUnavailableError, UnsupportedError
from .on_numba import innermost
from .on_numpy import FLOATS, INTEGERS

_NAMES = INTEGERS | FLOATS | {"bool", "float16"}
_NATIVE = frozenset(np.dtype(name) for name in _NAMES)  # a byte-swapped dtype is equal to none of them
_WIDE = frozenset({"int64", "uint64", "float64", "complex128"})

_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory")
_DRIVER = re.compile(r"cuda|cudnn|cublas|cufft|nccl|driver", re.IGNORECASE)
# Writing to an element is the array code most often written for NumPy alone; jax has no class of its own for it.
_IMMUTABLE = "JAX arrays are immutable"


class JaxExecutor(Executor):
    """Runs functions on JAX arrays; pure functions are jitted."""

    name = "jax"
    kind = "jax"
    capabilities = Capabilities(
        dtypes=_NAMES | {"bfloat16"}, gradients=True, devices=("cpu", "cuda"), asynchronous=True, compiles="shape"
    )
    _started = False

    def devices(self) -> tuple[str, ...]:
        """The host, and GPUs where NVML names some, JAX's CUDA plug-in is installed and the environment allows it."""
        platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME") or ""
        wanted = {name.strip().lower() for name in platforms.split(",") if name.strip()}
        host = ("cpu",) if not wanted or "cpu" in wanted else ()
        if wanted and not wanted & {"cuda", "gpu"}:
            return host
        if not any(find_spec(plugin) for plugin in ("jax_cuda12_plugin", "jax_cuda13_plugin")):
            return host
        from ..telemetry import hardware

        return (*host, *(f"cuda:{i}" for i in range(len(hardware.gpus()))))

    def probe(self) -> None:
        """Differentiate a sum of squares in float64, inside the scope that host calls use."""
        import jax

        with self.scope():
            found = np.asarray(jax.grad(lambda x: (x * x).sum())(jax.numpy.arange(4.0)))
        self._started = True
        if found.dtype != np.float64 or found.tolist() != [0.0, 2.0, 4.0, 6.0]:
            raise BackendUnavailableError(f"the float64 gradient of the sum of squares of 0..3 came out as {found!r}")

    def after_fork(self) -> str | None:
        """XLA's threads stay behind in the parent."""
        return (
            "jax was started before this process was forked, and would wait for ever for threads that stayed behind; "
            "start processes with 'spawn' or 'forkserver' where they shall use it"
        )

    def namespace(self) -> Any:
        """`jax.numpy`, which follows the array API itself."""
        import jax.numpy as xp

        return xp

    def owns(self, x: object) -> bool:
        """Whether `x` is a JAX array; a tracer is one too."""
        jax = sys.modules.get("jax")
        return isinstance(x, getattr(jax, "Array", ()))

    def refuses(self, dtype: str, resident: bool = False) -> str | None:
        """As the contract says; 64-bit arrays that stay in JAX need x64, which is the process's own choice."""
        if resident and dtype in _WIDE and not _x64_on():
            return f"a jax array of {dtype} needs x64, which is off here: {_ENABLE}"
        return super().refuses(dtype, resident)

    def convert_in(self, x: Any, device: str = "cpu") -> Any:
        """Give `x` as a JAX array on `device`: always a copy, as JAX arrays never change."""
        import jax

        place = _place(jax, device)
        if isinstance(x, np.ndarray):
            if x.dtype not in _NATIVE:
                x = _native(x)
            if x.dtype.name in _WIDE and not _x64_on():
                raise UnsupportedError(f"{x.dtype.name} would be narrowed by jax, as x64 is off here: {_ENABLE}")
            # Not device_put: it may alias the NumPy array's memory, and a later write would change the JAX array.
            # And array() itself returns while another thread is still copying (jax 0.10, from 1e5 elements): wait.
            return jax.numpy.array(x, device=place).block_until_ready()
        if isinstance(x, jax.Array):
            return x if place is None else jax.device_put(x, place)
        from .conversion import across

        return across(x, self, device)

    def from_dlpack(self, x: Any) -> Any:
        """A JAX array on the GPU where `x` lies; a copy, because a later write to `x` must not show."""
        import jax

        return jax.numpy.from_dlpack(x).copy()

    def convert_out(self, y: Any) -> np.ndarray[Any, Any]:
        """Give the array as a writable NumPy copy; NumPy's view of JAX memory would be read-only."""
        return np.array(y)

    def astype(self, x: Any, dtype: str) -> Any:
        """Give the array in the dtype of that name."""
        if dtype not in self.capabilities.dtypes:
            raise UnsupportedError(self.refuses(dtype))
        if dtype in _WIDE and not _x64_on():
            raise UnsupportedError(f"jax cannot make {dtype}, as x64 is off here: {_ENABLE}")
        return x.astype(dtype)

    def compile(self, function: Callable[..., Any], static: Sequence[str] = ()) -> Callable[..., Any]:
        """Jit it: compiled for each shape, dtype and value of a static argument."""
        import jax

        compiled: Callable[..., Any] = jax.jit(function, static_argnames=tuple(static))
        return compiled

    def converter(self, function: Callable[..., Any], device: str) -> Callable[[Any], Any]:
        """A jitted function takes NumPy arrays through its C++ path: 10 us a call, where an array first makes it 27.

        It reads them until the result is there, so this is for calls that bring the result to the host.
        """
        import jax

        if not hasattr(function, "_cache_size") or _place(jax, device) is not None:
            return super().converter(function, device)
        convert_in = self.convert_in

        def convert(x: Any) -> Any:
            return x if isinstance(x, np.ndarray) and x.dtype in _NATIVE else convert_in(x)

        return convert

    def scope(self) -> AbstractContextManager[Any]:
        """Turn x64 on for this thread, until the call is over."""
        import jax.experimental

        if hasattr(jax, "enable_x64"):
            return jax.enable_x64(True)  # type: ignore[no-any-return]
        # Before jax 0.8 it was experimental.
        return jax.experimental.enable_x64()  # type: ignore

    def synchronize(self, y: Any) -> None:
        """Wait for every array in `y`."""
        sys.modules["jax"].block_until_ready(y)

    def signatures(self, function: Callable[..., Any]) -> int | None:
        """How many shapes and dtypes the jitted function is compiled for; None where it is not jitted."""
        size = getattr(innermost(function, "_cache_size"), "_cache_size", None)
        return None if size is None else int(size())

    def classify(self, error: BaseException) -> Failure | None:
        """Read XLA's status names; code that needs concrete values cannot be traced: unsupported."""
        errors = sys.modules.get("jax.errors")
        if errors is None:
            return super().classify(error)
        text = str(error)
        if isinstance(error, errors.JaxRuntimeError):
            if _OUT_OF_MEMORY.search(text):
                return Failure.OUT_OF_MEMORY
            if text.startswith("UNIMPLEMENTED"):
                return Failure.UNSUPPORTED
            # A host callback's own exception arrives as INTERNAL too, but names no driver.
            return Failure.DRIVER if re.match("INTERNAL|UNAVAILABLE", text) and _DRIVER.search(text) else None
        if isinstance(error, errors.JAXTypeError | errors.JAXIndexError):
            return Failure.UNSUPPORTED
        if isinstance(error, TypeError) and _IMMUTABLE in text:
            return Failure.UNSUPPORTED
        return super().classify(error)

    def reusable_bytes(self, device: str) -> int:
        """Bytes of XLA's pool on `device` that are free; 0 until JAX runs, because starting it preallocates."""
        if device == "cpu" or not self._started:
            return 0
        import jax

        try:
            stats = _place(jax, device).memory_stats() or {}
        except (RuntimeError, IndexError):  # JAX as it runs here cannot use that device, so it holds nothing there
            return 0
        return max(0, int(stats.get("pool_bytes", 0)) - int(stats.get("bytes_in_use", 0)))


_ENABLE = "jax.config.update('jax_enable_x64', True), or pass NumPy arrays"


def _x64_on() -> bool:
    return bool(sys.modules["jax"].config.jax_enable_x64) if "jax" in sys.modules else _x64_by_environment()


def _x64_by_environment() -> bool:
    return os.environ.get("JAX_ENABLE_X64", "").lower() in {"1", "true", "t", "yes", "y", "on"}


def _place(jax: Any, device: str) -> Any:
    """The device to put arrays on; None where it is the default one and nothing needs saying."""
    if device == "cpu":
        return None if jax.default_backend() == "cpu" else jax.devices("cpu")[0]
    platform, _, index = device.partition(":")
    return jax.devices(platform)[int(index or 0)]


def _native(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    swapped = x.dtype.newbyteorder("=")
    if swapped not in _NATIVE and swapped.name != "bfloat16":
        raise UnsupportedError(f"jax has no dtype for NumPy's {x.dtype}; it has: {', '.join(sorted(_NAMES))}, bfloat16")
    return x.astype(swapped)


EXECUTOR = JaxExecutor
