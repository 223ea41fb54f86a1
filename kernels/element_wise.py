r"""A fused chain of transcendental functions, element by element.

``element_wise(x)``: :math:`y = \sin(x) e^{-x} + \sqrt{|x|}` for real `x` of any shape; the result has its shape and
dtype. Units: `x` in radians, `y` has none. It stands for what a formula of a scientific code does: one that runs
through memory six times unless something fuses it.

Accuracy: within 1e-6 (single) or 1e-15 (double precision) of the largest magnitude in the result. A NaN stays in its
element; below about -88 (single) or -709 (double precision) the exponential overflows to infinity.

Source: the functions' definitions; sin and exp: NIST Digital Library of Mathematical Functions, 4.14.1 and 4.2.19.

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.zeros(2))
array([0., 0.])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import numba_variant
from .checks import need_array
from .on_cuda import cuda_variant, load_chain

Array = np.ndarray[Any, Any]
BLOCK = 16384  # elements; three blocks of float64 stay in a 1 MiB second-level cache


def _validate(x: Any) -> None:
    need_array("element_wise", "x", x)


def _work(shapes: Shapes, _: Parameters) -> float:
    return 30.0 * math.prod(shapes[0])  # sin, exp and sqrt cost about ten elementary operations each


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 16.0 * math.prod(shapes[0])


def _reference(x: Array) -> Array:
    wide = x.astype(np.longdouble)
    return np.asarray(np.sin(wide) * np.exp(-wide) + np.sqrt(np.abs(wide)), dtype=np.float64)


def _on_numpy(x: Array) -> Any:
    y = np.empty(x.shape, x.dtype)
    if x.size <= BLOCK:
        with buffers.borrow(x.shape, x.dtype) as scratch:
            _chain(x, y, scratch)
        return y if y.ndim else y[()]
    flat, out = x.reshape(-1), y.reshape(-1)
    with buffers.borrow((BLOCK,), x.dtype) as scratch:
        for low in range(0, x.size, BLOCK):
            part = flat[low : low + BLOCK]
            _chain(part, out[low : low + BLOCK], scratch[: part.size])
    return y


def _chain(x: Array, y: Array, scratch: Array) -> None:
    np.negative(x, out=scratch)
    np.exp(scratch, out=scratch)
    np.sin(x, out=y)
    np.multiply(y, scratch, out=y)
    np.abs(x, out=scratch)
    np.sqrt(scratch, out=scratch)
    np.add(y, scratch, out=y)


def _build(span: Any) -> Callable[..., Any]:
    def chain(x: Any) -> Any:
        flat = np.ascontiguousarray(x).reshape(x.size)
        y = np.empty(x.size, x.dtype)
        for i in span(x.size):
            v = flat[i]
            y[i] = math.sin(v) * math.exp(-v) + math.sqrt(abs(v))
        return y.reshape(x.shape)

    return chain


def _scalar_as_numpy(compiled: Any) -> Callable[[Array], Any]:
    def chain(x: Array) -> Any:
        y = compiled(x)
        return y if y.ndim else y[()]  # as NumPy's own functions give it

    return chain


def _fused(x: Any, *, xp: Any) -> Any:
    return xp.sin(x) * xp.exp(-x) + xp.sqrt(xp.abs(x))


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (rng.uniform(-3.0, 3.0, max(1, size)).astype(dtype),), {}


OPERATION = Kernel(
    name="element_wise",
    summary="sin(x) exp(-x) + sqrt(|x|), element by element",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1),
        numba_variant("numba", _build, _scalar_as_numpy),
        numba_variant("numba/parallel", _build, _scalar_as_numpy),
        cuda_variant("numba", load_chain),
    ),
    portable=Portable(_fused, one_thread=True),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 1e-6, "float64": 1e-15},
    sample=_sample,
    cases={
        "three axes": lambda rng, dtype: ((rng.uniform(-3, 3, (2, 3, 4)).astype(dtype),), {}),
        "longer than a block": lambda rng, dtype: ((rng.uniform(-3, 3, (3, BLOCK - 7)).astype(dtype),), {}),
        "no axes": lambda rng, dtype: ((np.array(rng.uniform(-3, 3), dtype),), {}),
        "empty": lambda _, dtype: ((np.empty((0, 3), dtype),), {}),
        "size one": lambda rng, dtype: ((rng.uniform(-3, 3, 1).astype(dtype),), {}),
    },
    validate=_validate,
    wrong=(
        ((np.ones(8, complex),), {}, TypeError, "got complex128"),
        ((3.0,), {}, TypeError, "must be an array; got float"),
    ),
)
