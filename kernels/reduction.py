r"""Sum of squares over all elements, as accurate as pairwise summation.

``reduction(x)``: :math:`s = \sum_i x_i^2` over every element of real `x` of any shape. The result has no axes: a NumPy
scalar of `x`'s dtype for a NumPy array, the library's own zero-dimensional array otherwise. Units: those of `x`,
squared. An empty array sums to zero.

Accuracy: pairwise summation's, (log2(n) + a small constant) roundings rather than n: within 1e-6 (single) or 1e-14
(double precision) of the sum at 1e7 elements. "numpy/dot" adds up 4096 products at a time as BLAS sees fit, which
is as good in practice and is declared at twice the error. A NaN anywhere makes the sum NaN.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 4.6 (pairwise summation).

>>> import numpy as np
>>> float(OPERATION.variant("numpy").load()(np.array([3.0, 4.0])))
25.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..executors.registry import executor
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import numba_variant
from .checks import need_array
from .on_cuda import cuda_variant, load_sum_of_squares

Array = np.ndarray[Any, Any]
BLOCK = 16384  # elements squared at a time, so that the squares stay in the cache
DOT_BLOCK = 4096  # below OpenBLAS's own threshold for threads, and short enough for its plain accumulation
LEAF = 1024  # elements that one vectorised loop adds up before partial sums are paired


def _validate(x: Any) -> None:
    need_array("reduction", "x", x)


def _work(shapes: Shapes, _: Parameters) -> float:
    return 2.0 * math.prod(shapes[0])


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 8.0 * math.prod(shapes[0]) + 8.0


def _reference(x: Array) -> np.float64:
    wide = x.astype(np.longdouble).reshape(-1)
    return np.float64(np.sum(wide * wide))


def _on_numpy(x: Array) -> Any:
    # NumPy sums pairwise along one contiguous run only, so any layout is made one run first; a copy only if it must
    flat = x.ravel(order="K")
    if flat.size <= BLOCK:
        return np.add.reduce(flat * flat)
    partial = np.empty(-(-flat.size // BLOCK), x.dtype)
    with buffers.borrow((BLOCK,), x.dtype) as squares:
        for i in range(partial.size):
            part = flat[i * BLOCK : (i + 1) * BLOCK]
            partial[i] = np.add.reduce(np.multiply(part, part, out=squares[: part.size]))
    return np.add.reduce(partial)


def _blas(x: Array) -> Any:
    flat = x.ravel(order="K")
    if flat.size <= DOT_BLOCK:
        return np.dot(flat, flat)
    parts = (flat[low : low + DOT_BLOCK] for low in range(0, flat.size, DOT_BLOCK))
    return np.add.reduce(np.fromiter((np.dot(part, part) for part in parts), x.dtype))


def _build(span: Any) -> Callable[..., Any]:
    def sum_of_squares(flat: Any) -> Any:
        leaves = (flat.size + LEAF - 1) // LEAF
        partial = np.zeros(max(leaves, 1), flat.dtype)
        for leaf in span(leaves):
            low = np.int64(leaf) * LEAF  # prange counts unsigned, and unsigned minus signed is float64 in Numba
            total = flat.dtype.type(0)
            part = flat[low : low + LEAF]
            for i in range(part.size):  # over indices, as Numba's array iterator does not vectorise
                total += part[i] * part[i]
            partial[leaf] = total
        while leaves > 1:
            half = (leaves + 1) // 2
            for i in range(leaves - half):
                partial[i] += partial[half + i]
            leaves = half
        return partial[0]

    return sum_of_squares


def _scalar(compiled: Any) -> Callable[[Array], Any]:
    def sum_of_squares(x: Array) -> Any:
        return x.dtype.type(compiled(x.ravel(order="K")))  # Numba hands scalars out as Python floats

    return sum_of_squares


def _load_jax() -> Callable[..., Any]:
    """XLA sums in a tree since 0.10 (off by 3e-8 for 3e7 equal terms in single precision), before that in lanes."""
    import jax

    xp = executor("jax").namespace()
    in_tree = jax.__version_info__ >= (0, 10)
    function = (lambda x: xp.sum(x * x)) if in_tree else partial(_in_steps, xp=xp)
    compiled: Callable[..., Any] = jax.jit(function)
    return compiled


def _in_steps(x: Any, *, xp: Any) -> Any:
    """Leaves first: a library need not promise pairwise sums."""
    flat = xp.reshape(x, (-1,))
    whole = flat.shape[0] // LEAF * LEAF
    leaves = xp.reshape(flat[:whole], (-1, LEAF))
    rest = flat[whole:]
    return xp.sum(xp.sum(leaves * leaves, axis=-1)) + xp.sum(rest * rest)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (rng.standard_normal(max(1, size)).astype(dtype),), {}


OPERATION = Kernel(
    name="reduction",
    summary="sum of squares over all elements, pairwise-accurate",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1),
        Variant("numpy/dot", "numpy", lambda: _blas, threads=1, accuracy={"float32": 2e-6, "float64": 2e-14}),
        numba_variant("numba", _build, _scalar, reorder=True),
        numba_variant("numba/parallel", _build, _scalar, reorder=True),
        cuda_variant("numba", load_sum_of_squares),
        Variant("jax", "jax", _load_jax, gradients=True),
    ),
    portable=Portable(_in_steps, one_thread=True),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 1e-6, "float64": 1e-14},
    sample=_sample,
    cases={
        "two axes": lambda rng, dtype: ((rng.standard_normal((7, 9)).astype(dtype),), {}),
        "whole leaves": lambda rng, dtype: ((rng.standard_normal((2, LEAF)).astype(dtype),), {}),
        "longer than a block": lambda rng, dtype: ((rng.standard_normal((3, BLOCK + 5)).astype(dtype),), {}),
        "column order": lambda rng, dtype: ((np.asfortranarray(rng.standard_normal((50, 41)).astype(dtype)),), {}),
        "no axes": lambda rng, dtype: ((np.array(rng.standard_normal(), dtype),), {}),
        "empty": lambda _, dtype: ((np.empty((0, 3), dtype),), {}),
        "size one": lambda rng, dtype: ((rng.standard_normal(1).astype(dtype),), {}),
    },
    validate=_validate,
    wrong=(
        ((np.ones(8, complex),), {}, TypeError, "got complex128"),
        ((np.ones(3, int),), {}, TypeError, "got int64"),
    ),
)
