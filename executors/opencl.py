"""Workers written in OpenCL C: compiled on first use, run on the first GPU that OpenCL finds, else on any device."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..telemetry.outcome import Failure
from .errors import BackendUnavailableError, UnsupportedError
from .opencl_source import DRAWS

_MISSING = "pyopencl is not installed; pip install 'pointsman[opencl]'"
_BUILDING = threading.RLock()


class OpenCLWorker:
    """A vectorised worker in OpenCL C: one work item is one simulation.

    The kernel's first parameters are ``__global const uint4 *keys, __global T *results``; then come the worker's
    arguments: a float is a ``double``, an int a ``long``, a NumPy scalar of what it is, an array a ``__global const``
    pointer to its elements in C order. Work item i has key ``keys[i]`` and writes ``results[i * size + ...]``.

    In front of the source stand ``pm_uniform(key, i, stream)`` and ``pm_normal(key, i, stream)``, number i of
    `pointsman.draws.uniform` and `normal`; ``pm_uniform2`` and ``pm_normal2(key, block, stream)``, numbers 2 block and
    2 block + 1, for half the work; and in float32 ``pm_uniform4f`` and ``pm_normal4f``, four at a time. Uniform numbers
    are the same bits as there, normal ones up to the device's logarithm and sine.

    Parameters
    ----------
    source : OpenCL C.
    kernel : name of the function to run.
    dtype : of the results.
    shape : of the result of one simulation; () for a number.

    Examples
    --------
    >>> import pointsman as pm
    >>> die = pm.OpenCLWorker('''
    ... __kernel void die(__global const uint4 *keys, __global double *results, const long sides)
    ... {
    ...     const size_t i = get_global_id(0);
    ...     results[i] = 1 + floor(sides * pm_uniform(keys[i], 0, 0));
    ... }''', "die")
    """

    def __init__(self, source: str, kernel: str, dtype: Any = "float64", shape: Sequence[int] = ()) -> None:
        if not isinstance(source, str) or not isinstance(kernel, str) or not kernel.isidentifier():
            raise TypeError(f"OpenCLWorker: found a kernel called {kernel!r}; give OpenCL C and the name of its kernel")
        if kernel not in source:
            raise ValueError(f"OpenCLWorker: the source has no kernel {kernel!r}; name the function to run")
        self.source, self.kernel, self.dtype, self.shape = source, kernel, np.dtype(dtype), tuple(shape)
        self.__qualname__ = f"{kernel}#{hashlib.sha256(source.encode()).hexdigest()[:8]}"  # what a history knows it by
        self.__module__ = "opencl"

    def __repr__(self) -> str:
        return f"OpenCLWorker({self.kernel!r}, {self.dtype.name}, {self.shape})"

    @property
    def bytes_each(self) -> int:
        """Bytes that a simulation takes on the host and the device: keys in both forms, and results."""
        return 4 * (8 + 4 + 4) + 2 * int(self.dtype.itemsize) * math.prod(self.shape)

    def __call__(self, keys: Any, *args: Any, xp: Any = None) -> np.ndarray[Any, Any]:
        """Simulate.

        Parameters
        ----------
        keys : NumPy array, shape (batch, 4): of `pointsman.draws.keys`.
        args : see the class.
        xp : not used; every vectorised worker has it.

        Returns
        -------
        ndarray, shape (batch, \\*shape)

        Raises
        ------
        BackendUnavailableError : there is no pyopencl, or no device.
        UnsupportedError : the device has no double precision, and float64 was asked for.
        TypeError : an argument that is neither a number nor an array.
        pyopencl.Error : the compiler's own words, or what the device said.
        """
        del xp
        import_opencl()
        out = np.empty((len(keys), *self.shape), self.dtype)
        if out.size == 0:
            return out
        import pyopencl as cl

        context, device = _device(os.getpid())
        if self.dtype == np.float64 and not device.double_fp_config:
            raise UnsupportedError(f"{device.name} has no double precision; give dtype='float32'")
        queue, flags = cl.CommandQueue(context), cl.mem_flags
        given = np.ascontiguousarray(keys, dtype=np.uint32)
        with _BUILDING:
            kernel = cl.Kernel(_program(self.source, os.getpid()), self.kernel)  # its arguments belong to this call
        buffers = [
            cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=given),
            cl.Buffer(context, flags.WRITE_ONLY, out.nbytes),
        ]
        kernel(queue, (len(given),), None, *buffers, *(_argument(cl, context, x) for x in args))
        cl.enqueue_copy(queue, out, buffers[1])
        queue.finish()
        return out


def import_opencl() -> None:
    """Import pyopencl; a BackendUnavailableError where it is missing or finds no device."""
    why = why_not()
    if why is not None:
        raise BackendUnavailableError(why)
    _device(os.getpid())


def why_not() -> str | None:
    """None, or the sentence why OpenCL is of no use here, as far as is known without importing it."""
    return _MISSING if find_spec("pyopencl") is None else None


def room_bytes(on_host: int, on_gpu: int) -> int:
    """What a batch may take of the device, a CPU or a GPU; never more than one of its buffers may hold."""
    import pyopencl as cl

    _, device = _device(os.getpid())
    return min(on_gpu if device.type & cl.device_type.GPU else on_host, int(device.max_mem_alloc_size))


def classify(error: BaseException) -> Failure | None:
    """The failure that an exception of pyopencl stands for; None: the source's own, such as what does not compile."""
    cl = sys.modules.get("pyopencl")
    if cl is None or not isinstance(error, cl.Error):
        return None
    text = str(error)
    memory = ("MEM_OBJECT_ALLOCATION_FAILURE", "OUT_OF_RESOURCES", "OUT_OF_HOST_MEMORY", "INVALID_BUFFER_SIZE")
    if any(code in text for code in memory):
        return Failure.OUT_OF_MEMORY
    gone = ("DEVICE_NOT_AVAILABLE", "COMPILER_NOT_AVAILABLE", "LINKER_NOT_AVAILABLE")
    return Failure.DRIVER if any(code in text for code in gone) else None


@cache
def _device(pid: int) -> tuple[Any, Any]:  # noqa: ARG001 (a forked child has to have its own)
    """(context, device): the first GPU, else the first device of any kind."""
    import pyopencl as cl

    try:
        found = [device for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.Error as error:
        raise BackendUnavailableError(f"pyopencl is installed, but finds no OpenCL driver: {error}") from error
    if not found:
        raise BackendUnavailableError(
            "pyopencl is installed, but no OpenCL driver has a device; pip install pocl-binary-distribution for one"
        )
    device = next((device for device in found if device.type & cl.device_type.GPU), found[0])
    return cl.Context([device]), device


@cache
def _program(source: str, pid: int) -> Any:
    import pyopencl as cl

    context, _ = _device(pid)
    return cl.Program(context, DRAWS + source).build(options=["-w"])


def _argument(cl: Any, context: Any, x: Any) -> Any:
    if isinstance(x, np.ndarray) and x.size:
        flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        return cl.Buffer(context, flags, hostbuf=np.ascontiguousarray(x))
    if isinstance(x, np.generic):
        return x
    if isinstance(x, int) and not isinstance(x, bool):
        return np.int64(x)
    if isinstance(x, float):
        return np.float64(x)
    raise TypeError(f"an OpenCL worker takes whole numbers, floats, NumPy scalars and arrays; found {type(x).__name__}")
