"""Numba: compiled loops over NumPy arrays, compiled once per combination of dtypes and layouts; on GPUs too.

A function is written for the host or for a GPU, and its variant says for which. On a GPU it takes and gives Numba's
own device arrays, in rows (C order). They live between conversion in and conversion out only: callers never meet them.
Numba needs CUDA's compiler there: ``pip install 'numba-cuda[cu13]'`` brings it (``[cu12]`` for a driver of CUDA 12),
and takes the place of the CUDA target that Numba itself contains, which is deprecated but works with a CUDA 12 toolkit.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..telemetry import hardware, lifetime
from ..telemetry.outcome import Failure
from .base import Capabilities, Executor, Variant
from .errors import BackendUnavailableError, UnsupportedError
from .on_numpy import FLOATS, INTEGERS

_OUT_OF_MEMORY = re.compile(r"OUT_OF_MEMORY|cudaErrorMemoryAllocation")
_NO_CUDA = {"CudaSupportError", "NvvmSupportError", "NvrtcSupportError"}  # a part of CUDA that cannot be found
_CUDA_FAILED = {"CudaDriverError", "CudaRuntimeError", "NvvmError", "NvrtcError", "LinkerError"}


def _check(x: Any) -> float:
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total


class NumbaExecutor(Executor):
    """Runs dispatchers made by `numba.njit`, and launchers of kernels made by `numba.cuda.jit`.

    float16 is left out: Numba has it on GPUs only.
    """

    name = "numba"
    capabilities = Capabilities(
        dtypes=INTEGERS | FLOATS | {"bool"}, devices=("cpu", "cuda"), asynchronous=True, compiles="dtype",
        sets_threads=True, device_bound=True,
    )  # fmt: skip
    _started = False  # whether a variant for a GPU has been made ready: waiting would start CUDA otherwise
    _layer = ""  # Numba's threading layer, once it is known
    _left_behind = False  # whether that was OpenMP, and this process has been forked since

    def __init__(self) -> None:
        self._turn: Any = threading.RLock()  # None where several threads may call at once
        lifetime.free_in_child(self, "_turn")

    def devices(self) -> tuple[str, ...]:
        """The host, and the first GPU where NVML names one and CUDA's compiler can be found."""
        return ("cpu", "cuda:0") if hardware.gpus() and _finds_cuda() else ("cpu",)

    def is_asynchronous(self, device: str) -> bool:
        """Kernels on a GPU return early, functions on the host do not."""
        return device != "cpu"

    def probe(self) -> None:
        """Compile a loop and sum five numbers."""
        import numba

        found = numba.njit(_check)(np.arange(5.0))
        if found != 10.0:
            raise BackendUnavailableError(f"the compiled sum of 0..4 came out as {found}, not 10.0")

    def holds(self, x: object) -> bool:
        """Whether `x` is one of Numba's device arrays."""
        return bool(getattr(type(x), "__cuda_ndarray__", False))

    def convert_in(self, x: Any, device: str = "cpu") -> Any:
        """Give `x` as a NumPy array, or on a GPU as a device array in C order: itself, or else a copy."""
        if device == "cpu":
            return super().convert_in(x)
        if self.holds(x):
            return x
        cuda = _cuda()
        if not isinstance(x, np.ndarray):
            lent = _lent(x)
            if lent is None:
                return super().convert_in(x, device)  # over the host, and here again as a NumPy array
            own = cuda.device_array(lent.shape, lent.dtype)
            own.copy_to_device(lent)
            return own
        if x.dtype.name not in self.capabilities.dtypes:
            raise UnsupportedError(self.refuses(x.dtype.name))
        return cuda.to_device(np.asarray(x, x.dtype.newbyteorder("="), order="C"))

    def converter(self, function: Callable[..., Any], device: str) -> Callable[[Any], Any]:  # noqa: ARG002
        """What another library has on the GPU is lent, not copied: no function here writes to its arguments."""
        if device == "cpu":
            return self.convert_in

        def convert(x: Any) -> Any:
            lent = None if isinstance(x, np.ndarray) or self.holds(x) else _lent(x)
            return self.convert_in(x, device) if lent is None else lent

        return convert

    def convert_out(self, y: Any) -> np.ndarray[Any, Any]:
        """Give `y` as a writable NumPy array; waits for the kernels that make it."""
        array: np.ndarray[Any, Any] = y.copy_to_host() if self.holds(y) else np.asarray(y)
        return array

    def synchronize(self, y: Any) -> None:  # noqa: ARG002 - all work of the device is waited for
        """Wait for the GPU, where one is in use."""
        if self._started:
            sys.modules["numba.cuda"].synchronize()

    def adopt(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a plain function; one that is compiled already is taken as it is."""
        import numba

        if hasattr(function, "signatures"):
            return function
        compiled: Callable[..., Any] = numba.njit(nogil=True)(function)
        return compiled

    def prepare(self, function: Callable[..., Any], variant: Variant) -> Callable[..., Any]:
        """Run with `variant.threads` threads: Numba masks its pool per calling thread, so nothing else notices."""
        if variant.device != "cpu":
            self._started = True
        threads = variant.threads
        if threads is None:
            parallel = getattr(innermost(function, "targetoptions"), "targetoptions", {}).get("parallel")
            return self._on_threads(function) if parallel and variant.device == "cpu" else function
        import numba

        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]

        @functools.wraps(function)
        def with_threads(*args: Any, **kwargs: Any) -> Any:
            before = numba.get_num_threads()
            numba.set_num_threads(min(threads, most))
            try:
                return function(*args, **kwargs)
            finally:
                numba.set_num_threads(before)

        return with_threads

    def _on_threads(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A parallel function as a good neighbour.

        Numba's OpenMP layer sets the thread count of the calling thread, and torch asks OpenMP for its own. In a child
        forked afterwards OpenMP ends the process. The layer called workqueue ends it where two threads call at once.
        """

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._left_behind:
                raise UnsupportedError(
                    "this process was forked after Numba had started its threads; start processes with 'spawn'"
                )
            torch = sys.modules.get("torch")
            before = getattr(torch, "get_num_threads", _no_count)()  # torch may be being imported by another thread
            turn = self._turn
            try:
                if turn is None:
                    return function(*args, **kwargs)
                with turn:
                    result = function(*args, **kwargs)
                self._learn_layer()
                return result
            finally:
                if before is not None and torch.get_num_threads() != before:  # type: ignore[union-attr]
                    torch.set_num_threads(before)  # type: ignore[union-attr]

        return call

    def _learn_layer(self) -> None:
        """Which threading layer Numba has taken, which it tells once a parallel function has run."""
        import numba

        with contextlib.suppress(ValueError):
            self._layer = numba.threading_layer()  # type: ignore[attr-defined]
            if self._layer in ("omp", "tbb"):
                self._turn = None  # these take calls from several threads at once

    def after_fork(self) -> None:
        """OpenMP's threads stay behind in the parent; functions that are not parallel do not need them."""
        self._left_behind = self._left_behind or self._layer == "omp"

    def signatures(self, function: Callable[..., Any]) -> int | None:
        """How many signatures the dispatcher behind `function` has compiled."""
        signatures = getattr(innermost(function, "signatures"), "signatures", None)
        return None if signatures is None else len(signatures)

    def classify(self, error: BaseException) -> Failure | None:
        """What Numba cannot compile is unsupported; what compiled code raises is the caller's."""
        if type(error).__module__.startswith("numba"):  # or "numba_cuda": CUDA's classes lie elsewhere in each
            names = {kind.__name__ for kind in type(error).__mro__}
            if names & _NO_CUDA:
                return Failure.UNAVAILABLE
            if names & _CUDA_FAILED:
                return Failure.OUT_OF_MEMORY if _OUT_OF_MEMORY.search(str(error)) else Failure.DRIVER
        errors = sys.modules.get("numba.core.errors")
        if errors is not None and isinstance(error, errors.NumbaError):
            return Failure.UNSUPPORTED
        return super().classify(error)

    def free_caches(self) -> None:
        """Have the GPU memory freed that Numba has put off freeing."""
        if self._started:
            sys.modules["numba.cuda"].current_context().deallocations.clear()


def _no_count() -> None:
    return None


def _cuda() -> Any:
    import numba.cuda

    return numba.cuda


def _lent(x: Any) -> Any:
    """A device array over the memory of another library's array on a GPU; None if it is none or needs a gradient."""
    interface = None if getattr(x, "requires_grad", False) else getattr(x, "__cuda_array_interface__", None)
    if interface is None:
        return None
    if interface.get("strides") is not None:
        x = x.contiguous() if hasattr(x, "contiguous") else x.copy()
    cuda = _cuda()
    cuda.synchronize()  # the interface does not say on which streams `x` is being computed
    return cuda.as_cuda_array(x, sync=False)


@functools.lru_cache(maxsize=1)
def _finds_cuda() -> bool:
    """Whether CUDA's compiler (NVVM) lies where Numba looks for it; the package numba-cuda has its own ways."""
    if find_spec("numba_cuda") is not None:
        return True
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", sys.prefix]
    return any(Path(home, "nvvm").is_dir() for home in homes if home)


def innermost(function: Any, attribute: str) -> Any:
    """The callable inside partials and `functools.wraps` layers that has `attribute`, or the last one reached."""
    while not hasattr(function, attribute):
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    return function


EXECUTOR = NumbaExecutor
