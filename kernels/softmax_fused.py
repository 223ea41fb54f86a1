r"""Softmax in blocks that stay in the cache: the compiled variants of `softmax` (contract there).

Without Intel's vector library Numba calls the exponential for one element at a time, at several times NumPy's cost; so
it is written out here for :math:`z \le 0` in steps that vectorise: :math:`e^z = 2^k e^r` with
:math:`k = \mathrm{round}(z / \ln 2)`, :math:`k \ln 2` subtracted in two parts, and the Taylor polynomial of
:math:`e^r`, :math:`|r| \le \ln(2)/2` (Cody and Waite, Software Manual for the Elementary Functions, 1980, chapter 6).
Results below the smallest normal number are zero. Maxima and sums fold a block in half until one element is left:
that vectorises too, and sums pairwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CHUNK = 2048  # elements of a block: with its scratch it stays in the first-level cache

# Of each format: 1/ln 2; ln 2 with so many zeros at its end that its product with any exponent is exact; the rest of
# ln 2; what leaves a whole number in the low bits when it is added; where results are zero; the bias of the exponent;
# the bits of the mantissa; the polynomial's terms, highest power first. The first five and the last have that format.
_SHORT = (1.4426950408889634, 0.693145751953125, 1.4286068203094173e-06, 1.5 * 2.0**23, -126.75 * math.log(2))
_LONG = (1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10, 1.5 * 2.0**52, -1022.75 * math.log(2))


def _constants(dtype: Any, numbers: tuple[float, ...], bias: int, mantissa: int, degree: int) -> tuple[Any, ...]:
    terms = tuple(dtype(1 / math.factorial(k)) for k in range(degree, -1, -1))
    return (*(dtype(number) for number in numbers), bias, mantissa, terms)


FORMATS = {
    "float32": _constants(np.float32, _SHORT, 127, 23, 7),
    "float64": _constants(np.float64, _LONG, 1023, 52, 13),
}


INTEGERS = {"float32": np.zeros(0, np.int32), "float64": np.zeros(0, np.int64)}  # their dtype is what counts


def build(span: Any) -> Callable[..., Any]:
    """The loops that Numba compiles: groups of rows, one long row or as many short ones as fill a block."""

    def softmax(x: Any, y: Any, count: int, n: int, like: Any, constants: Any) -> None:
        per_ln2, ln2, rest, rounder, lowest, bias, mantissa, terms = constants
        together = max(1, CHUNK // n)
        for group in span((count + together - 1) // together):
            first: int = np.int64(group) * together  # type: ignore[assignment]  # prange counts unsigned
            last = min(count, first + together)
            scratch = np.empty(CHUNK, x.dtype)
            powers = scratch.view(like.dtype)
            for row in range(first, last):
                top = x[row * n]
                for low in range(row * n, (row + 1) * n, CHUNK):
                    left = min(CHUNK, (row + 1) * n - low)
                    part = x[low : low + left]
                    for i in range(left):
                        scratch[i] = part[i]
                    while left > 1:
                        half = (left + 1) // 2
                        for i in range(left - half):
                            a, b = scratch[i], scratch[half + i]
                            scratch[i] = a if a > b else b
                        left = half
                    top = top if top > scratch[0] else scratch[0]
                source, target = x[row * n : (row + 1) * n], y[row * n : (row + 1) * n]
                for i in range(n):
                    target[i] = source[i] - top
            for low in range(first * n, last * n, CHUNK):
                part = y[low : min(low + CHUNK, last * n)]
                for i in range(part.size):
                    z = part[i]
                    z = lowest if z < lowest else z  # not the other way round: NaN stays
                    whole = z * per_ln2 + rounder
                    scratch[i] = whole
                    whole -= rounder
                    z = (z - whole * ln2) - whole * rest
                    value = terms[0]
                    for k in range(1, len(terms)):
                        value = value * z + terms[k]
                    part[i] = value
                for i in range(part.size):
                    powers[i] = (powers[i] + bias) << mantissa
                for i in range(part.size):
                    part[i] *= scratch[i]
            for row in range(first, last):
                total = 0.0
                for low in range(row * n, (row + 1) * n, CHUNK):
                    left = min(CHUNK, (row + 1) * n - low)
                    part = y[low : low + left]
                    for i in range(left):
                        scratch[i] = part[i]
                    while left > 1:
                        half = (left + 1) // 2
                        for i in range(left - half):
                            scratch[i] += scratch[half + i]
                        left = half
                    total += scratch[0]
                scale = x.dtype.type(1.0 / total)
                target = y[row * n : (row + 1) * n]
                for i in range(n):
                    target[i] *= scale

    return softmax


def wrap(compiled: Any) -> Callable[..., Any]:
    """Put shapes around the compiled loops."""

    def softmax(x: Array) -> Array:
        y = np.empty(x.shape, x.dtype)
        if x.size:
            flat = np.ascontiguousarray(x).reshape(-1)
            name, n = x.dtype.name, x.shape[-1]
            compiled(flat, y.reshape(-1), x.size // n, n, INTEGERS[name], FORMATS[name])
        return y

    return softmax
