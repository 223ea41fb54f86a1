r"""Sorting along the last axis, batched over the others.

``sort(x, *, descending=False)``: every row of `x`, of shape (..., n), in ascending order; in descending order it is the
reverse of that. The result has the shape and dtype of `x`: float32, float64, int32 or int64. Units: those of `x`.

Accuracy: exact, the same values on every variant, but for one thing: JAX takes subnormal numbers for zeros, and so does
not put them in order among themselves and zeros. A NaN counts as larger than everything, infinity included: it is
last in ascending order and first in descending order, as in NumPy; its sign and payload may change. Zeros of both
signs are equal, and their order among themselves is not promised.

Source: Knuth, The Art of Computer Programming, vol. 3, 2nd ed., section 5.2.5, algorithm R (radix list sort), with
counts in place of lists.

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.array([3.0, 1.0, 2.0]))
array([1., 2., 3.])
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from . import sort_radix
from .base import Arguments, Kernel
from .binding import numba_variant
from .checks import need_array, need_choice

Array = np.ndarray[Any, Any]
DTYPES = ("float32", "float64", "int32", "int64")


def _validate(x: Any, *, descending: bool = False) -> None:
    need_array("sort", "x", x, dims=1, dtypes=DTYPES)
    need_choice("sort", "descending", descending, (False, True))


def _work(shapes: Shapes, _: Parameters) -> float:
    n = shapes[0][-1] if shapes[0] else 1
    return math.prod(shapes[0]) * math.log2(n + 1.0)  # comparisons


def _passes(shapes: Shapes, _: Parameters) -> float:
    return 8.0 * math.prod(shapes[0])  # moves: one for each element and byte of a float64


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 16.0 * math.prod(shapes[0])


def _spare(shapes: Shapes, _: Parameters) -> float:
    return 8.0 * math.prod(shapes[0])


def _reference(x: Array, *, descending: bool = False) -> Array:
    y = np.sort(x.astype(np.float64 if x.dtype.kind == "f" else np.int64), axis=-1)
    return y[..., ::-1] if descending else y


def _on_numpy(x: Array, *, descending: bool = False) -> Array:
    y = np.sort(x, axis=-1)
    return y[..., ::-1].copy() if descending else y


def _sorted(x: Any, *, descending: bool = False, xp: Any) -> Any:
    return xp.sort(x, axis=-1, descending=descending, stable=False)  # equal values are not told apart


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    scale = 1e6 if dtype.startswith("int") else 1.0
    return (scale * rng.standard_normal(shape)).astype(dtype)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (_random(rng, (max(1, size),), dtype),), {}


OPERATION = Kernel(
    name="sort",
    summary="values in order along the last axis",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1),
        numba_variant(
            "numba", sort_radix.build, partial(sort_radix.wrap, parallel=False), work=_passes, workspace=_spare
        ),
        numba_variant(
            "numba/parallel", sort_radix.build, partial(sort_radix.wrap, parallel=True), work=_passes, workspace=_spare
        ),
    ),
    portable=Portable(_sorted, static=("descending",), one_thread=True),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances=dict.fromkeys(DTYPES, 0.0),
    sample=_sample,
    cases={
        "batched": lambda rng, dtype: ((_random(rng, (3, 4, 101), dtype),), {}),
        "many short rows": lambda rng, dtype: ((_random(rng, (5000, 7), dtype),), {}),
        "many long rows": lambda rng, dtype: ((_random(rng, (150, 300), dtype),), {}),
        "descending": lambda rng, dtype: ((_random(rng, (2, 1001), dtype),), {"descending": True}),
        "few values": lambda rng, dtype: ((rng.integers(-3, 3, 2000).astype(dtype),), {}),
        "in order already": lambda _, dtype: ((np.arange(-500, 500).astype(dtype),), {}),
        "empty": lambda _, dtype: ((np.empty((0, 3), dtype),), {}),
        "empty rows": lambda _, dtype: ((np.empty((3, 0), dtype),), {"descending": True}),
        "size one": lambda rng, dtype: ((_random(rng, (1,), dtype),), {}),
    },
    validate=_validate,
    wrong=(
        ((np.array(1.0),), {}, ValueError, "at least 1 axes"),
        ((np.ones(3, complex),), {}, TypeError, "float32 or .* got complex128"),
        ((np.ones(3),), {"descending": "yes"}, ValueError, "must be one of False, True; got 'yes'"),
    ),
    nan_policy="sorts as the largest value",
)
