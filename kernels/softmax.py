r"""Softmax along the last axis, batched over the others.

``softmax(x)``: :math:`y_i = e^{x_i - m} / \sum_j e^{x_j - m}`, :math:`m = \max_j x_j`, in every row of real `x` of
shape (..., n); the result has the shape and dtype of `x`, lies between 0 and 1, and every row sums to one. `x` has no
units, nor has `y`. Units: none.

Accuracy: within 1e-6 (single) or 5e-15 (double precision) of the largest magnitude in the result, for rows of up to
1e7 samples. Subtracting the largest sample first keeps every exponential between 0 and 1, so no finite row overflows;
what is below the smallest normal number may be zero. -inf gives exactly 0. Where `m` is not finite there is no
softmax: a row with a NaN or +inf anywhere, or of nothing but -inf, is NaN throughout, as in SciPy.

Source: Blanchard, Higham and Higham, Accurately computing the log-sum-exp and softmax functions, IMA J. Numer. Anal.
41 (2021), eq. 1.2 and algorithm 3.2 (shifted form).

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.array([1000.0, 1000.0, -np.inf]))
array([0.5, 0.5, 0. ])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from . import softmax_fused
from .base import Arguments, Kernel
from .binding import in_rows, numba_variant, torch_variants
from .checks import need_array

Array = np.ndarray[Any, Any]
BLOCK = 2**18  # elements of several rows at a time: they stay in the third-level cache, smaller blocks cost more calls
TRUSTED = 4096  # samples of a row up to which torch's own sum is as good as promised; at 1e7 it is off by 2e-3
SHORT = 16  # samples of a row up to which rows are worked on side by side, as columns: NumPy has a cost per row


def _validate(x: Any) -> None:
    need_array("softmax", "x", x, dims=1)


def _work(shapes: Shapes, _: Parameters) -> float:
    return 15.0 * math.prod(shapes[0])  # an exponential costs about ten elementary operations


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 16.0 * math.prod(shapes[0])


def _reference(x: Array) -> Array:
    """In extended precision where the platform has it."""
    if not x.size:
        return np.empty(x.shape)
    wide = x.astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        e = np.exp(wide - np.max(wide, axis=-1, keepdims=True))
    return np.asarray(e / np.sum(e, axis=-1, keepdims=True), dtype=np.float64)


def _on_numpy(x: Array) -> Array:
    y = np.empty(x.shape, x.dtype)
    if not x.size:
        return y
    rows, out, n = in_rows(x), y.reshape(-1, x.shape[-1]), x.shape[-1]
    tall = max(1, BLOCK // n)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN and -max - max is -inf: both are right
        if n > SHORT or len(rows) < n:
            for low in range(0, len(rows), tall):
                _rescale(rows[low : low + tall], out[low : low + tall], -1)
            return y
        for low in range(0, len(rows), tall):
            part = rows[low : low + tall]
            with buffers.borrow((n, part.shape[0]), x.dtype) as columns:
                np.copyto(columns, part.T)
                _rescale(columns, columns, 0)
                np.copyto(out[low : low + tall], columns.T)
    return y


def _rescale(x: Array, y: Array, axis: int) -> None:
    np.subtract(x, np.maximum.reduce(x, axis=axis, keepdims=True), out=y)
    np.exp(y, out=y)
    np.divide(y, np.add.reduce(y, axis=axis, keepdims=True), out=y)


def _load_scipy() -> Callable[[Array], Array]:
    from scipy.special import softmax

    def on_scipy(x: Array) -> Array:
        if not x.size:  # SciPy's maximum of nothing is an error
            return np.empty(x.shape, x.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            y: Array = softmax(x, axis=-1)
        return y

    return on_scipy


def _portable(x: Any, *, xp: Any) -> Any:
    if 0 in x.shape:
        return xp.zeros_like(x)
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def _load_torch() -> Callable[[Any], Any]:
    import torch

    def on_torch(x: Any) -> Any:
        y = torch.softmax(x, -1)
        if x.shape[-1] <= TRUSTED:
            return y
        total = torch.sum(y, -1, keepdim=True)  # in a cascade, unlike the sum inside softmax (torch 2.13)
        return y / total if y.requires_grad else y.div_(total)

    return on_torch


def _several(shapes: Shapes, _: Parameters) -> str | None:
    return None if math.prod(shapes[0][:-1]) > 1 else "one row gives its threads nothing"


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    return (3.0 * rng.standard_normal(shape)).astype(dtype)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (_random(rng, (max(1, size),), dtype),), {}


def _with(dtype: str, *values: float) -> Array:
    return np.array([[0.5, *values, -2.0], [1.0, *reversed(values), 0.0]], dtype)


OPERATION = Kernel(
    name="softmax",
    summary="exponentials that sum to one along the last axis",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1),
        Variant("scipy", "scipy", _load_scipy, threads=1),
        numba_variant("numba", softmax_fused.build, softmax_fused.wrap, fuse=True),
        numba_variant("numba/parallel", softmax_fused.build, softmax_fused.wrap, fuse=True, supports=_several),
        *torch_variants("torch", _load_torch),  # one pass of its own, where steps of the array API take three times it
        Variant("torch/1-thread", "torch", _load_torch, threads=1, gradients=True),
    ),
    portable=Portable(_portable),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 1e-6, "float64": 5e-15},
    sample=_sample,
    stack=lambda rng, size, dtype: ((_random(rng, (16, max(1, size // 16)), dtype),), {}),
    cases={
        "batched": lambda rng, dtype: ((_random(rng, (3, 4, 101), dtype),), {}),
        "many short rows": lambda rng, dtype: ((_random(rng, (40_000, 7), dtype),), {}),
        "more than a block": lambda rng, dtype: ((_random(rng, (70, 4001), dtype),), {}),
        "large": lambda rng, dtype: ((1e4 * _random(rng, (5, 300), dtype),), {}),
        "masked": lambda _, dtype: ((_with(dtype, -np.inf, 1.5),), {}),
        "equal": lambda _, dtype: ((np.full((2, 5000), -3.0, dtype),), {}),
        "empty": lambda _, dtype: ((np.empty((0, 3), dtype),), {}),
        "empty rows": lambda _, dtype: ((np.empty((3, 0), dtype),), {}),
        "size one": lambda rng, dtype: ((_random(rng, (1,), dtype),), {}),
    },
    validate=_validate,
    wrong=(
        ((np.array(1.0),), {}, ValueError, "at least 1 axes"),
        ((np.ones(3, complex),), {}, TypeError, "float32 or float64; got complex128"),
        ((np.ones(3, int),), {}, TypeError, "got int64"),
    ),
)
