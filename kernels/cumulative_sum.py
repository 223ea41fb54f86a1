r"""Running sums along the last axis, batched over the others.

``cumulative_sum(x)``: :math:`y_i = \sum_{j \le i} x_j` along the last axis of real `x` of shape (..., n); the result
has the shape and dtype of `x`. Units: those of `x`.

Accuracy: up to n = 1e7, relative to the largest sum of magnitudes :math:`\sum_{j \le i} |x_j|`, within 1e-5 (single) or
1e-9 (double precision) on every variant: in double precision that is one running sum's n roundings, in single
precision far less, where one running sum loses a tenth of ten million equal terms. "numpy" and "torch" on the host add
single precision up in double precision and are within 2e-7; so are the Numba variants, and within 2e-13 in double
precision, since they begin running sums afresh and add up the sums of the blocks, as JAX and the devices do. A NaN
makes itself and every later sample of its row NaN, and none before it. A block's own sum may overflow where the
running sum would not have. JAX takes subnormal numbers for zeros, in `x` and in the result.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.2; Blelloch, Prefix sums and their
applications, CMU-CS-90-190 (1990), section 1.2 (sums of blocks first, for several threads).

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.array([1.0, 2.0, 3.0]))
array([1., 3., 6.])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import in_rows, numba_variant
from .checks import need_array

Array = np.ndarray[Any, Any]
BLOCK = 16384  # elements of a running sum of NumPy's; as float64 they stay in the second-level cache
LEAF = 128  # elements of a running sum of the compiled loops; four go on at a time, as each addition has to wait
GROUP = 128 * LEAF  # elements whose sums are added to one running sum


def _validate(x: Any) -> None:
    need_array("cumulative_sum", "x", x, dims=1)


def _work(shapes: Shapes, _: Parameters) -> float:
    return 1.0 * math.prod(shapes[0])


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 16.0 * math.prod(shapes[0])


def _reference(x: Array) -> Array:
    """Sums in extended precision where the platform has it."""
    return np.cumsum(x, axis=-1, dtype=np.longdouble).astype(np.float64)


def _on_numpy(x: Array) -> Array:
    """`np.cumsum`; of single precision in double precision, block by block so that those stay in the cache."""
    if x.dtype != np.float32:
        return np.add.accumulate(x, -1)
    if x.size <= BLOCK:
        return np.add.accumulate(x, -1, np.float64).astype(np.float32)
    n = x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    rows, out = x.reshape(-1, n), y.reshape(-1, n)
    tall, long = max(1, BLOCK // n), min(n, BLOCK)
    with buffers.borrow((tall, long), np.float64) as wide:
        for top in range(0, len(rows), tall):
            for low in range(0, n, long):
                part = rows[top : top + tall, low : low + long]
                sums = wide[: part.shape[0], : part.shape[1]]
                before = wide[0, -1] if low else 0.0
                sums[...] = part
                sums[0, 0] += before  # of one row: where there are several, they are no longer than this block
                np.add.accumulate(sums, -1, out=sums)
                out[top : top + tall, low : low + long] = sums
    return y


def _build(span: Any) -> Callable[..., Any]:
    """The loops that Numba compiles: rows, each cut into `blocks`, one thread a block; sums are in double precision."""

    def sums(rows: Any, out: Any, blocks: int) -> None:
        count, n = rows.shape
        length = (n + blocks * GROUP - 1) // (blocks * GROUP) * GROUP
        blocks = max(1, (n + length - 1) // length) if n else 1  # every block but the last is whole
        before = np.zeros((count, blocks), np.float64)  # sums of the blocks to the left
        for task in span(count * (blocks - 1)):
            row, block = np.int64(task) // (blocks - 1), np.int64(task) % (blocks - 1)
            for start in range(block * length, (block + 1) * length, GROUP):
                group = 0.0
                for low in range(start, start + GROUP, LEAF):
                    x, s0 = rows[row, low : low + LEAF], 0.0
                    for i in range(LEAF):
                        s0 += x[i]
                    group += s0
                before[row, block + 1] += group
        for row in range(count):
            for block in range(1, blocks):
                before[row, block] += before[row, block - 1]
        for task in span(count * blocks):
            row, block = np.int64(task) // blocks, np.int64(task) % blocks
            at, end = int(block * length), min(n, int((block + 1) * length))
            base, group = before[row, block], 0.0
            while at < end:
                x, y = rows[row, at : min(end, at + 4 * LEAF)], out[row, at : min(end, at + 4 * LEAF)]
                if x.size == 4 * LEAF:
                    s0 = s1 = s2 = s3 = 0.0
                    for i in range(LEAF):
                        s0 += x[i]
                        s1 += x[i + LEAF]
                        s2 += x[i + 2 * LEAF]
                        s3 += x[i + 3 * LEAF]
                        y[i] = s0
                        y[i + LEAF] = s1
                        y[i + 2 * LEAF] = s2
                        y[i + 3 * LEAF] = s3
                    c0 = base + group
                    c1, c2, c3 = c0 + s0, c0 + (s0 + s1), c0 + (s0 + s1 + s2)
                    for i in range(LEAF):
                        y[i] += c0
                        y[i + LEAF] += c1
                        y[i + 2 * LEAF] += c2
                        y[i + 3 * LEAF] += c3
                    group += s0 + s1 + s2 + s3
                else:
                    s0 = base + group
                    for i in range(x.size):
                        s0 += x[i]
                        y[i] = s0
                at += x.size
                if at % GROUP == 0:
                    base, group = base + group, 0.0

    return sums


def _wrap(compiled: Any, *, parallel: bool) -> Callable[..., Any]:
    def sums(x: Array) -> Array:
        rows, y, blocks = in_rows(x), np.empty(x.shape, x.dtype), 1
        if parallel and x.size > GROUP:
            import numba

            blocks = min(-(-numba.get_num_threads() // len(rows)), x.shape[-1] // GROUP + 1)
        compiled(rows, y.reshape(rows.shape), blocks)
        return y

    return sums


def _in_blocks(x: Any, *, xp: Any) -> Any:
    """No library need add up better than one running sum does; blocks also halve the time of XLA's own on the host."""
    n = x.shape[-1]
    if n <= 4 * LEAF:
        return xp.cumulative_sum(x, axis=-1)
    count = n // LEAF
    whole = count * LEAF
    blocks = xp.cumulative_sum(xp.reshape(x[..., :whole], (*x.shape[:-1], count, LEAF)), axis=-1)
    ends = _in_blocks(blocks[..., -1], xp=xp)
    starts = xp.concat([xp.zeros_like(ends[..., :1]), ends[..., :-1]], axis=-1)
    y = xp.reshape(blocks + starts[..., None], (*x.shape[:-1], whole))
    if whole == n:
        return y
    return xp.concat([y, xp.cumulative_sum(x[..., whole:], axis=-1) + ends[..., -1:]], axis=-1)


def _load_torch() -> Callable[[Any], Any]:
    import torch

    return lambda x: torch.cumsum(x, -1)  # on the host it adds up single precision in double precision


def _adjoint(call: Callable[..., Array], _: tuple[Any, ...], kwargs: dict[str, Any], y: Array) -> Array:
    return call((y[..., ::-1].copy(),), kwargs)[..., ::-1]


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (_random(rng, (max(1, size),), dtype),), {}


IN_DOUBLE = {"float32": 2e-7}
BLOCKED = {"float32": 2e-7, "float64": 2e-13}

OPERATION = Kernel(
    name="cumulative_sum",
    summary="running sums along the last axis",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1, accuracy=IN_DOUBLE),
        numba_variant("numba", _build, partial(_wrap, parallel=False), reorder=True, accuracy=BLOCKED),
        numba_variant("numba/parallel", _build, partial(_wrap, parallel=True), reorder=True, accuracy=BLOCKED),
        Variant("torch", "torch", _load_torch, gradients=True, accuracy=IN_DOUBLE),
        Variant("torch/1-thread", "torch", _load_torch, threads=1, gradients=True, accuracy=IN_DOUBLE),
    ),
    portable=Portable(_in_blocks),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 1e-5, "float64": 1e-9},
    sample=_sample,
    cases={
        "batched": lambda rng, dtype: ((_random(rng, (3, 4, 101), dtype),), {}),
        "a few long rows": lambda rng, dtype: ((_random(rng, (3, 2 * GROUP + 700), dtype),), {}),
        "many short rows": lambda rng, dtype: ((_random(rng, (9000, 7), dtype),), {}),
        "equal terms": lambda _, dtype: ((np.full(50_000, 0.1, dtype),), {}),
        "empty": lambda _, dtype: ((np.empty((0, 3), dtype),), {}),
        "empty rows": lambda _, dtype: ((np.empty((3, 0), dtype),), {}),
        "size one": lambda rng, dtype: ((_random(rng, (1,), dtype),), {}),
    },
    validate=_validate,
    wrong=(
        ((np.array(1.0),), {}, ValueError, "at least 1 axes"),
        ((np.ones(3, int),), {}, TypeError, "float32 or float64; got int64"),
        (([1.0, 2.0],), {}, TypeError, "must be an array; got list"),
    ),
    adjoint=_adjoint,
)
