r"""Euclidean distances between the rows of two arrays.

``pairwise_distance(a, b)`` with `a` of shape (n, d) and `b` of shape (m, d) gives (n, m),
:math:`y_{ij} = \sqrt{\sum_k (a_{ik} - b_{jk})^2}`. Both operands are real and have one dtype, which the result keeps.
Units: those of the operands, which must be the same for all features.

Accuracy: within 2e-6 (single) or 1e-14 (double precision) of the largest distance, and each distance within 1e-5 or
1e-13 of itself, for up to about 1e3 features, however near the points and however far from the origin. The quick form
:math:`|a|^2 + |b|^2 - 2 a \cdot b` cancels for near points; the variants that use it ("numpy/gemm", "torch/mm") first
move the origin into the middle of the points and then compute the near pairs again by differences. Squares must
not leave the range of the dtype: distances below 1e-19 (single) or 1e-154 (double precision) come out as zero, above
1e19 or 1e154 as infinity. A NaN reaches every distance from or to its point. The gradient at a distance of zero, where
there is none, is zero. Derivatives may be of any order; for a second one, "torch" keeps all n m d differences. Forward
and within `torch.func`, use "torch": "torch/mm" has what `torch.autograd` needs and no more.

Source: the definition; cancellation: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 1.7.

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.array([[0.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 4.0]]))
array([[4.],
       [5.]])
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
from .binding import numba_variant, torch_variants
from .checks import need_array, need_same_dtype
from .jax_forms import jax_variants
from .pairwise_torch import load_torch

Array = np.ndarray[Any, Any]
BLOCK = 16384  # distances at a time, so that they and one difference each stay in the second-level cache
COLUMNS = 1024  # distances whose sums stay in the first-level cache while all features pass over them
GEMM_BLOCK = 65536  # distances that one matrix product gives: BLAS wants more rows than the cache alone would
NEAR = 0.05  # a squared distance below this share of |a|^2 + |b|^2 has lost more than a digit, and is computed again
STEP = 8  # features that XLA sums in one pass over the distances; more took no less time


def _validate(a: Any, b: Any) -> None:
    need_array("pairwise_distance", "a", a, dims=2)
    need_array("pairwise_distance", "b", b, dims=2)
    need_same_dtype("pairwise_distance", a=a, b=b)
    if not len(a.shape) == len(b.shape) == 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"pairwise_distance: a and b must have two axes, points and features, and as many features; got shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )


def _sizes(shapes: Shapes) -> tuple[int, int, int]:
    """Points of a, points of b, features. One shape alone stands for two operands of that shape."""
    a = shapes[0] or (1,)
    b = shapes[1] if len(shapes) > 1 and shapes[1] else a
    return a[0], b[0], math.prod(a[1:])


def _work(shapes: Shapes, _: Parameters) -> float:
    n, m, d = _sizes(shapes)
    return n * m * (3.0 * d + 10.0)  # a square root costs about ten elementary operations


def _gemm_work(shapes: Shapes, _: Parameters) -> float:
    n, m, d = _sizes(shapes)
    return n * m * (2.0 * d + 16.0) + 4.0 * (n + m) * d


def _bytes(shapes: Shapes, _: Parameters) -> float:
    n, m, d = _sizes(shapes)
    return 8.0 * (n * m + (n + m) * d)


def _gemm_workspace(shapes: Shapes, _: Parameters) -> float:
    n, m, d = _sizes(shapes)
    return 8.0 * ((n + m) * d + 2.0 * n * m)


def _reference(a: Array, b: Array) -> Array:
    """Differences, squares and sums in extended precision where the platform has it."""
    wide_a, wide_b = a.astype(np.longdouble), b.astype(np.longdouble)
    total = np.zeros((a.shape[0], b.shape[0]), np.longdouble)
    for k in range(a.shape[1]):
        total += (wide_a[:, k, None] - wide_b[:, k]) ** 2
    return np.sqrt(total).astype(np.float64)


def _on_numpy(a: Array, b: Array) -> Array:
    """By differences, a block of distances at a time: feature by feature, or all features of few pairs at once."""
    (n, d), m = a.shape, b.shape[0]
    y = np.empty((n, m), a.dtype)
    if y.size == 0 or d == 0:
        y[...] = 0
        return y
    if n * m < 8 * d:
        with buffers.borrow((m, d), a.dtype) as differences:
            for i in range(n):
                np.subtract(a[i], b, out=differences)
                np.einsum("jk,jk->j", differences, differences, out=y[i])
        return np.sqrt(y, out=y)
    columns = np.ascontiguousarray(b.T)
    wide = min(m, BLOCK)
    high = min(n, BLOCK // wide)
    with buffers.borrow((high * wide,), a.dtype) as scratch:
        for i in range(0, n, high):
            for j in range(0, m, wide):
                part = y[i : i + high, j : j + wide]
                square = scratch[: part.size].reshape(part.shape)
                np.subtract(a[i : i + high, :1], columns[0, j : j + wide], out=part)
                np.multiply(part, part, out=part)
                for k in range(1, d):
                    np.subtract(a[i : i + high, k : k + 1], columns[k, j : j + wide], out=square)
                    np.multiply(square, square, out=square)
                    np.add(part, square, out=part)
                np.sqrt(part, out=part)
    return y


def _by_products(a: Array, b: Array) -> Array:
    """By a matrix product about the centre of all points: none is further from it than twice the largest distance."""
    n, m = a.shape[0], b.shape[0]
    if n == 0 or m == 0:
        return np.zeros((n, m), a.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        centre = ((np.add.reduce(a, 0) + np.add.reduce(b, 0)) / (n + m)).astype(a.dtype, copy=False)
        p, q = a - centre, b - centre
    p_square, q_square = np.einsum("ik,ik->i", p, p)[:, None], np.einsum("jk,jk->j", q, q)
    if not np.isfinite(p_square.max() + q_square.max()):
        return _on_numpy(a, b)  # a NaN would reach every point through the centre
    q *= -2
    q = q.T
    y = np.empty((n, m), a.dtype)
    high = min(n, max(64, GEMM_BLOCK // m))
    with buffers.borrow((high, m), a.dtype) as scratch:
        for i in range(0, n, high):
            part = y[i : i + high]
            total = scratch[: part.shape[0]]
            np.matmul(p[i : i + high], q, out=part)
            np.add(p_square[i : i + high], q_square, out=total)
            np.add(part, total, out=part)
            np.multiply(total, NEAR, out=total)
            near = np.flatnonzero(part <= total)
            np.abs(part, out=part)  # a near pair's square may have come out below zero
            np.sqrt(part, out=part)
            if near.size:
                part.reshape(-1)[near] = _pair_by_pair(a[i : i + high], b, near)
    return y


def _pair_by_pair(a: Array, b: Array, pairs: Array) -> Array:
    """Distances of the pairs at these places of the flattened result, by differences, a block at a time."""
    y = np.empty(pairs.size, a.dtype)
    length = max(1, 4 * BLOCK // max(1, a.shape[1]))
    for low in range(0, pairs.size, length):
        i, j = np.divmod(pairs[low : low + length], b.shape[0])
        difference = a[i]
        difference -= b[j]
        np.einsum("pk,pk->p", difference, difference, out=y[low : low + length])
    return np.sqrt(y, out=y)


def _load_scipy() -> Callable[..., Any]:
    from scipy.spatial.distance import cdist

    def distances(a: Array, b: Array) -> Any:
        return cdist(a, b) if a.shape[1] else np.zeros((a.shape[0], b.shape[0]), a.dtype)

    return distances


def _build(span: Any) -> Callable[..., Any]:
    def distances(a: Any, columns: Any) -> Any:
        n, d = a.shape
        m = columns.shape[1]
        y = np.empty((n, m), a.dtype)
        fours = d // 4 * 4
        for row in span(n):
            i = np.int64(row)
            for low in range(0, m, COLUMNS):
                high = min(low + COLUMNS, m)
                # slices, as indices from `range` are known not to be negative and so vectorise
                out = y[i, low:high]
                for j in range(out.size):
                    out[j] = 0
                for k in range(0, fours, 4):  # four at a time: the sums are read and written a quarter as often
                    b0, b1, b2, b3 = (
                        columns[k, low:high],
                        columns[k + 1, low:high],
                        columns[k + 2, low:high],
                        columns[k + 3, low:high],
                    )
                    a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
                    for j in range(out.size):
                        t0, t1, t2, t3 = a0 - b0[j], a1 - b1[j], a2 - b2[j], a3 - b3[j]
                        out[j] += (t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)
                for k in range(fours, d):
                    b0 = columns[k, low:high]
                    a0 = a[i, k]
                    for j in range(out.size):
                        t0 = a0 - b0[j]
                        out[j] += t0 * t0
                for j in range(out.size):
                    out[j] = math.sqrt(out[j])
        return y

    return distances


def _by_columns(compiled: Any) -> Callable[..., Any]:
    def distances(a: Array, b: Array) -> Any:
        return compiled(np.ascontiguousarray(a), np.ascontiguousarray(b.T))

    return distances


def _portable(a: Any, b: Any, *, xp: Any) -> Any:
    """Feature by feature: no array is larger than the result."""
    if a.shape[1] == 0:
        return xp.matmul(a, xp.matrix_transpose(b))
    total = (a[:, :1] - b[:, 0]) ** 2
    for k in range(1, a.shape[1]):
        total = total + (a[:, k : k + 1] - b[:, k]) ** 2
    return _root(total, xp)


def _root(total: Any, xp: Any) -> Any:
    """The square root, with a gradient of zero at zero."""
    zero = total == 0
    return xp.where(zero, xp.zeros_like(total), xp.sqrt(xp.where(zero, xp.ones_like(total), total)))


def _load_torch_mm() -> Callable[..., Any]:
    import torch

    def distances(a: Any, b: Any) -> Any:
        n, m = a.shape[0], b.shape[0]
        with torch.no_grad():
            centre = (a.sum(0) + b.sum(0)) / max(1, n + m)
            if n == 0 or m == 0 or not bool(torch.isfinite((a - centre).square().sum() + (b - centre).square().sum())):
                centre = None
        if centre is None:
            return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        p, q = a - centre, b - centre
        y = torch.cdist(p, q, compute_mode="use_mm_for_euclid_dist")
        with torch.no_grad():
            total = p.square().sum(1)[:, None] + q.square().sum(1)
            i, j = torch.nonzero(y * y <= total.mul_(NEAR), as_tuple=True)
        if i.numel():
            y = y.index_put((i, j), torch.linalg.vector_norm(a[i] - b[j], dim=1))
        return y

    return distances


def _jax_plain(a: Any, b: Any) -> Any:
    """Some features to a pass over the distances, the passes in a loop: XLA would compile a long sum for minutes."""
    import jax
    import jax.numpy as jnp

    rows, columns = a.T[:, :, None], b.T[:, None, :]
    whole = a.shape[1] // STEP

    def some(low: Any, count: int, total: Any) -> Any:
        for k in range(count):
            difference = rows[low + k] - columns[low + k]
            total = total + difference * difference
        return total

    total = jnp.zeros((a.shape[0], b.shape[0]), a.dtype)
    if whole:
        total = jax.lax.fori_loop(0, whole, lambda i, total: some(i * STEP, STEP, total), total)
    return jnp.sqrt(some(whole * STEP, a.shape[1] - whole * STEP, total))


def _jax_traced(a: Any, b: Any) -> Any:
    """One fused sum, whose derivative keeps nothing for each feature as that of a loop would."""
    import jax.numpy as jnp

    return _root(jnp.sum((a[:, None] - b) ** 2, axis=-1), jnp)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    features = max(1, min(32, round(size ** (1 / 3))))
    points = max(1, round(size / features))
    return _points(rng, dtype, points, points, features)


def _points(rng: np.random.Generator, dtype: str, n: int, m: int, d: int) -> Arguments:
    return (rng.standard_normal((n, d)).astype(dtype), rng.standard_normal((m, d)).astype(dtype)), {}


def _clusters(rng: np.random.Generator, dtype: str) -> Arguments:
    """Half of the points within 1e-3 of others, all of them 100 away from the origin."""
    (a, b), _ = _points(rng, dtype, 60, 50, 7)
    b[:25] = a[:25] + (1e-3 * rng.standard_normal((25, 7))).astype(dtype)
    return (a + np.float32(100).astype(dtype), b + np.float32(100).astype(dtype)), {}


def _same(rng: np.random.Generator, dtype: str) -> Arguments:
    (a, _), _ = _points(rng, dtype, 30, 1, 5)
    return (a, a.copy()), {}


P = np.ones((4, 3))
_SPATIAL: dict[str, Any] = {"threads": 1, "module": "scipy.spatial", "module_s": 0.15}
OPERATION = Kernel(
    name="pairwise_distance",
    summary="Euclidean distances between rows: (n, d), (m, d) -> (n, m)",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1),
        Variant("numpy/gemm", "numpy", lambda: _by_products, work=_gemm_work, workspace=_gemm_workspace),
        Variant("scipy", "scipy", _load_scipy, dtypes=frozenset({"float64"}), **_SPATIAL),  # it widens float32 itself
        numba_variant("numba", _build, _by_columns, reorder=True),
        numba_variant("numba/parallel", _build, _by_columns, reorder=True),
        *torch_variants("torch", load_torch),
        *torch_variants("torch/mm", _load_torch_mm, work=_gemm_work, workspace=_gemm_workspace),
        *jax_variants("jax", _jax_plain, _jax_traced),
    ),
    portable=Portable(_portable),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 2e-6, "float64": 1e-14},
    sample=_sample,
    cases={
        "more points in b": lambda rng, dtype: _points(rng, dtype, 5, 70, 3),
        "more than a block": lambda rng, dtype: _points(rng, dtype, 3, BLOCK + 7, 2),
        "many features": lambda rng, dtype: _points(rng, dtype, 6, 5, 1003),
        "one feature": lambda rng, dtype: _points(rng, dtype, 40, 30, 1),
        "clusters far from the origin": _clusters,
        "the same points": _same,
        "no features": lambda rng, dtype: _points(rng, dtype, 3, 2, 0),
        "empty a": lambda rng, dtype: _points(rng, dtype, 0, 3, 2),
        "empty b": lambda rng, dtype: _points(rng, dtype, 3, 0, 2),
        "size one": lambda rng, dtype: _points(rng, dtype, 1, 1, 1),
    },
    validate=_validate,
    wrong=(
        ((P[0], P), {}, ValueError, r"a must have at least 2 axes; got shape \(3,\)"),
        ((P, P.T), {}, ValueError, r"as many features; got shapes \(4, 3\) and \(3, 4\)"),
        ((P[None], P), {}, ValueError, r"two axes, points and features.* got shapes \(1, 4, 3\) and \(4, 3\)"),
        ((P, P.astype("float32")), {}, TypeError, "one dtype; got a float64, b float32"),
        ((P, P.astype(int)), {}, TypeError, "b must have dtype float32 or float64; got int64"),
        ((P, P.tolist()), {}, TypeError, "b must be an array; got list"),
    ),
)
