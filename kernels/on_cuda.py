"""GPU forms of three kernels in Numba CUDA; on Numba's device arrays in C order, which are never written to.

Each loader gives a function that launches compiled kernels and returns at once, with the result on the device. A kernel
is compiled per dtype, at its first launch. Sums are formed in one order whatever the GPU, so a call gives the same bits
again. Launches have at least `FEWEST` blocks: Numba warns below 128, and idle blocks cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..executors.base import Variant
from .spectra import Kept

THREADS = 256  # of a block; a power of two, as partial sums are halved
EACH = 16  # elements that one thread of a sum adds up, before the block's sums are paired
FEWEST, MOST = 128, 4096  # blocks of a launch; with more to do, each block takes several turns
KEPT = Kept(64 << 20)  # weights on the device

cuda: Any = None  # Numba's module, once a kernel is loaded; its simulator wants it under this name in the module

_Launch = Callable[[Any], Any]


def cuda_variant(name: str, load: Callable[[], Callable[..., Any]], **fields: Any) -> Variant:
    """The variant `name` + "@cuda:0" of a loader of this module."""
    return Variant(f"{name}@cuda:0", "numba", load, device="cuda:0", **fields)


def load_chain() -> _Launch:
    """sin(x) exp(-x) + sqrt(|x|) of a real array of any shape."""
    kernels = _PerDtype(_chain_kernel)

    def chain(x: Any) -> Any:
        y = cuda.device_array(x.shape, x.dtype)
        if x.size:
            kernels[x.dtype][_blocks(x.size, THREADS), THREADS](x.reshape(x.size), y.reshape(x.size))
        return y

    return kernels.counted(chain)


def load_sum_of_squares() -> _Launch:
    """The sum of squares of a real array of any shape, as an array of no dimensions: of tiles, then of their sums."""
    squares, sums = _PerDtype(partial(_tiles_kernel, squared=True)), _PerDtype(partial(_tiles_kernel, squared=False))

    def sum_of_squares(x: Any) -> Any:
        left, kernels = x.reshape(x.size), squares
        while True:
            count = max(1, -(-left.size // (THREADS * EACH)))
            partial_sums = cuda.device_array(count, x.dtype)
            kernels[x.dtype][_blocks(count, 1), THREADS](left, partial_sums)
            if count == 1:
                return partial_sums.reshape(())
            left, kernels = partial_sums, sums

    return squares.counted(sum_of_squares)


def load_history_sum(weights: Callable[[float, int], np.ndarray[Any, Any]]) -> Callable[..., Any]:
    """The derivative as a direct sum; ``weights(order, n)`` are its float64 weights."""
    kernels = _PerDtype(_history_kernel)

    def history_sum(f: Any, *, order: float, step: float = 1.0) -> Any:
        y = cuda.device_array(f.shape, f.dtype)
        if not f.size:
            return y
        (*_, n), dtype = f.shape, f.dtype
        rows = f.size // n

        def on_device() -> Any:
            return cuda.to_device(weights(float(order), n).astype(dtype, copy=False))

        w = KEPT.get((float(order), n, dtype.name), on_device)
        launch = kernels[dtype][_blocks(rows * -(-n // THREADS), 1), THREADS]
        launch(f.reshape(rows, n), w, dtype.type(float(step) ** -float(order)), y.reshape(rows, n))
        return y

    return kernels.counted(history_sum)


class _PerDtype(dict[Any, Any]):
    """Kernels by dtype, made when first asked for: memory that a block shares has its type fixed in the code."""

    def __init__(self, make: Callable[[Any, Any], Any]) -> None:
        global cuda
        from numba import cuda as found

        super().__init__()
        cuda, self._make = found, make

    def __missing__(self, dtype: Any) -> Any:
        from numba.np.numpy_support import from_dtype

        made = self[dtype] = cuda.jit(self._make(from_dtype(dtype), dtype.type(0)))
        return made

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with what the executor counts compiled signatures by."""
        function.signatures = self  # type: ignore[attr-defined]
        return function


def _blocks(parts: int, each: int) -> int:
    return min(max(-(-parts // each), FEWEST), MOST)


def _chain_kernel(kind: Any, zero: Any) -> Callable[..., None]:  # noqa: ARG001 - no memory is shared
    def chain(x: Any, y: Any) -> None:
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            v = x[i]
            y[i] = math.sin(v) * math.exp(-v) + math.sqrt(abs(v))

    return chain


def _tiles_kernel(kind: Any, zero: Any, *, squared: bool) -> Callable[..., None]:
    threads, each = THREADS, EACH

    def tiles(x: Any, out: Any) -> None:
        """out[b] = the sum of the b-th run of threads * each elements of x."""
        shared = cuda.shared.array(threads, kind)
        t = cuda.threadIdx.x
        for block in range(cuda.blockIdx.x, out.size, cuda.gridDim.x):
            first = np.int64(block) * threads * each + t
            total = zero
            for turn in range(each):
                i = first + turn * threads
                if i < x.size:
                    v = x[i]
                    total += v * v if squared else v
            shared[t] = total
            cuda.syncthreads()
            half = threads // 2
            while half > 0:
                if t < half:
                    shared[t] += shared[t + half]
                cuda.syncthreads()
                half //= 2
            if t == 0:
                out[block] = shared[0]
            cuda.syncthreads()

    return tiles


def _history_kernel(kind: Any, zero: Any) -> Callable[..., None]:
    threads, span = THREADS, 2 * THREADS

    def history(f: Any, w: Any, scale: Any, y: Any) -> None:
        """Each block makes as many samples of a row as it has threads, from one such part of the row after the other.

        Within a part the terms are added up on their own, which keeps the roundings to the length of a part and the
        number of parts.
        """
        rows, n = f.shape
        f_part = cuda.shared.array(threads, kind)
        w_part = cuda.shared.array(span, kind)
        t = cuda.threadIdx.x
        parts = (n + threads - 1) // threads
        for task in range(cuda.blockIdx.x, rows * parts, cuda.gridDim.x):
            row = task // parts
            here = parts - 1 - task % parts  # the longest sums first
            i = here * threads + t
            total = zero
            for there in range(here + 1):
                source = there * threads + t
                f_part[t] = f[row, source] if source < n else zero
                k = (here - there - 1) * threads + 1 + t  # w_part[j] is the weight of a lag of that plus j - t
                w_part[t] = w[k] if k >= 0 and k < n else zero
                w_part[t + threads] = w[k + threads] if k + threads < n else zero
                cuda.syncthreads()
                term = zero
                # Samples after this one stay out: times a weight of zero, a NaN among them would reach it.
                for m in range(threads if there < here else t + 1):
                    term += w_part[t - m + threads - 1] * f_part[m]
                total += term
                cuda.syncthreads()
            if i < n:
                y[row, i] = total * scale

    return history
