r"""Matrix product, batched.

``matmul(a, b)`` with `a` of shape (..., m, k) and `b` of shape (..., k, n) gives (..., m, n),
:math:`c_{ij} = \sum_l a_{il} b_{lj}`; the leading axes broadcast (array API, `matmul`). Both operands have one dtype,
which the result keeps. Units: those of `a` times those of `b`.

Accuracy: within 1e-5 (single) or 1e-13 (double precision) of the largest magnitude in the result, for inner lengths up
to about 1e4; the error grows with the square root of the inner length. A GPU that the process has allowed TF32 is
less exact. A NaN reaches its row (in `a`) or column (in `b`).

Source: Golub and Van Loan, Matrix Computations, 4th ed., section 1.1; error bound section 2.7.

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
array([[1., 2.],
       [3., 4.]])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .checks import INEXACT, need_array, need_same_dtype

Array = np.ndarray[Any, Any]


def _validate(a: Any, b: Any) -> None:
    need_array("matmul", "a", a, dims=2, dtypes=INEXACT)
    need_array("matmul", "b", b, dims=2, dtypes=INEXACT)
    need_same_dtype("matmul", a=a, b=b)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"matmul: the last axis of a and the last but one of b must agree; got shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    try:
        np.broadcast_shapes(tuple(a.shape)[:-2], tuple(b.shape)[:-2])
    except ValueError as error:
        raise ValueError(
            f"matmul: the leading axes of a and b must broadcast; got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        ) from error


def _sizes(shapes: Shapes) -> tuple[int, int, int, int]:
    """Batch, m, k, n. One shape alone stands for two operands of that shape, a size alone for square ones."""
    if len(shapes) == 1 and len(shapes[0]) < 2:
        side = math.isqrt(math.prod(shapes[0]))
        return 1, side, side, side
    a, b = shapes[0], shapes[1] if len(shapes) > 1 else shapes[0]
    batch = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    return batch, a[-2] if len(a) > 1 else 1, a[-1], b[-1]


def _work(shapes: Shapes, _: Parameters) -> float:
    batch, m, k, n = _sizes(shapes)
    return 2.0 * batch * m * k * n


def _bytes(shapes: Shapes, _: Parameters) -> float:
    batch, m, k, n = _sizes(shapes)
    return 8.0 * (batch * m * n + batch * (m * k + k * n))


def _reference(a: Array, b: Array) -> Array:
    """Sums in extended precision where the platform has it."""
    wide = np.clongdouble if np.iscomplexobj(a) else np.longdouble
    product: Array = np.matmul(a.astype(wide), b.astype(wide))
    return product.astype(np.complex128 if np.iscomplexobj(a) else np.float64)


def _product(a: Any, b: Any, *, xp: Any) -> Any:
    return xp.matmul(a, b)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    n = max(1, round(math.sqrt(size)))
    return (_random(rng, (n, n), dtype), _random(rng, (n, n), dtype)), {}


_X, _M = np.ones(8), np.ones((3, 4))

OPERATION = Kernel(
    name="matmul",
    summary="matrix product, batched: (..., m, k) x (..., k, n)",
    variants=(Variant("numpy", "numpy", lambda: np.matmul),),
    portable=Portable(_product, one_thread=True),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 1e-5, "float64": 1e-13, "complex64": 1e-5, "complex128": 1e-13},
    sample=_sample,
    cases={
        "rectangular": lambda rng, dtype: ((_random(rng, (3, 17), dtype), _random(rng, (17, 5), dtype)), {}),
        "batched": lambda rng, dtype: ((_random(rng, (4, 3, 6), dtype), _random(rng, (4, 6, 2), dtype)), {}),
        "broadcast": lambda rng, dtype: ((_random(rng, (5, 1, 2, 3), dtype), _random(rng, (4, 3, 2), dtype)), {}),
        "empty inner": lambda rng, dtype: ((_random(rng, (3, 0), dtype), _random(rng, (0, 2), dtype)), {}),
        "empty": lambda rng, dtype: ((_random(rng, (0, 3), dtype), _random(rng, (3, 2), dtype)), {}),
        "size one": lambda rng, dtype: ((_random(rng, (1, 1), dtype), _random(rng, (1, 1), dtype)), {}),
    },
    validate=_validate,
    wrong=(
        ((_X, _X), {}, ValueError, r"a must have at least 2 axes; got shape \(8,\)"),
        ((_M, _M), {}, ValueError, r"must agree; got shapes \(3, 4\) and \(3, 4\)"),
        ((np.ones((2, 3, 4)), np.ones((5, 4, 3))), {}, ValueError, "leading axes of a and b must broadcast"),
        ((_M, np.ones((4, 3), "float32")), {}, TypeError, "one dtype; got a float64, b float32"),
        ((_M, np.ones((4, 3), int)), {}, TypeError, "b must have dtype float32 or .* got int64"),
    ),
    adjoint=lambda call, args, kwargs, y: call((y, args[1].T), kwargs),
)
