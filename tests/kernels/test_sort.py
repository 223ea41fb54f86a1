"""Sorting is exact for every bit pattern, in both orders, however a row is dealt out among threads."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from pointsman.executors.prepare import prepare
from pointsman.kernels import sort_radix
from pointsman.selector import operations

OPERATION = operations.find("sort")
GRID = [
    pytest.param(v, dtype, id=f"{v.name}-{dtype}")
    for v in OPERATION.variants
    if v.device == "cpu"
    for dtype in v.dtypes or OPERATION.tolerances
]
on_each_variant = pytest.mark.parametrize(("variant", "dtype"), GRID)


def run(variant, x, **kwargs):
    return prepare(variant, ["numpy"], dict.fromkeys(kwargs)).call(x, **kwargs)


def patterns(dtype, n):
    """Any bits at all: NaNs of both signs and all payloads, infinities, subnormals, zeros of both signs, extremes."""
    x = np.random.default_rng(n).integers(0, 256, n * np.dtype(dtype).itemsize, np.uint8).view(dtype).copy()
    if dtype.startswith("float"):
        tiny = np.finfo(dtype).smallest_subnormal
        special = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, np.finfo(dtype).max, np.finfo(dtype).min]
    else:
        special = [0, -1, 1, np.iinfo(dtype).max, np.iinfo(dtype).min]
    x[: len(special)] = special
    return np.random.default_rng(5).permutation(x)


def in_order(x, descending):
    y = np.sort(x, axis=-1)
    return y[..., ::-1] if descending else y


@on_each_variant
@pytest.mark.parametrize("descending", [False, True])
def test_any_bits_come_out_as_numpy_sorts_them_with_nans_at_the_large_end(variant, dtype, descending):
    for n in (30, 2000, 50_000):
        x = patterns(dtype, n)
        found, expected = run(variant, x, descending=descending), in_order(x, descending)
        if dtype.startswith("float"):
            assert np.array_equal(np.sort(found), np.sort(x), equal_nan=True), "values were lost"
            if variant.backend == "jax":  # XLA compares subnormal numbers as zeros
                found, expected = (np.where(np.abs(y) < np.finfo(dtype).tiny, 0.0, y) for y in (found, expected))
        assert np.array_equal(found, expected, equal_nan=dtype.startswith("float"))


@on_each_variant
def test_sorting_again_and_turning_back_changes_nothing(variant, dtype):
    x = np.random.default_rng(3).permutation(1000).astype(dtype)
    y = run(variant, x)
    assert np.array_equal(run(variant, y), y)
    assert np.array_equal(run(variant, x, descending=True), y[::-1])
    assert np.array_equal(run(variant, -x)[::-1], -y)


@pytest.fixture(scope="module")
def compiled():
    return numba.njit(sort_radix.build(range))


@pytest.mark.parametrize("dtype", OPERATION.tolerances)
@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize("kind", ["any bits", "one value", "two values", "in order"])
def test_however_many_threads_share_a_row_it_is_sorted(compiled, dtype, parts, kind):
    x = {
        "any bits": lambda: patterns(dtype, 3001),
        "one value": lambda: np.full(3001, 7, dtype),  # nothing to deal out by: one thread has it all
        "two values": lambda: (np.arange(3001) % 2).astype(dtype),
        "in order": lambda: np.arange(3001).astype(dtype),
    }[kind]()
    unsigned = np.dtype(f"u{x.itemsize}")
    for flip in (False, True):
        y, spare = np.empty_like(x), np.empty(x.size, unsigned)
        ends = np.empty(parts + 1, np.int64)
        is_float = dtype.startswith("float")
        compiled(x.view(unsigned), y.view(unsigned), spare, ends, parts, (0,) * x.itemsize, is_float, flip)
        assert np.array_equal(y, in_order(x, flip), equal_nan=is_float)


@on_each_variant
def test_rows_do_not_mix(variant, dtype):
    x = np.random.default_rng(8).permutation(60_000).reshape(3, 5, 4000).astype(dtype)
    assert np.array_equal(run(variant, x), in_order(x, False))
