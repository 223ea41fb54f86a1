"""Running sums keep their accuracy over many equal terms, however rows are cut among threads; infinities stay put."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from pointsman.executors.prepare import prepare
from pointsman.kernels import cumulative_sum
from pointsman.kernels.cumulative_sum import GROUP, LEAF
from pointsman.selector import operations

OPERATION = operations.find("cumulative_sum")
CPU = [v for v in OPERATION.variants if v.device == "cpu"]
on_each_variant = pytest.mark.parametrize("variant", CPU, ids=lambda v: v.name)


def run(variant, x):
    return prepare(variant, ["numpy"]).call(x)


@on_each_variant
@pytest.mark.parametrize("dtype", OPERATION.tolerances)
def test_equal_terms_add_up_to_their_product(variant, dtype):
    x = np.full(3_000_000, 0.1, dtype)
    exact = np.arange(1, x.size + 1) * np.longdouble(x[0])
    bound = variant.accuracy.get(dtype, OPERATION.tolerances[dtype])
    assert np.max(np.abs(run(variant, x) - exact)) <= bound * exact[-1]


def test_the_bound_in_single_precision_is_one_that_numpy_s_own_sum_breaks():
    x = np.full(3_000_000, 0.1, np.float32)
    assert np.cumsum(x)[-1] / (x.size * np.float64(x[0])) - 1.0 < -100 * OPERATION.tolerances["float32"]


@on_each_variant
def test_differences_give_the_samples_back(variant):
    x = np.random.default_rng(1).integers(-50, 50, (2, 70_001)).astype(np.float64)  # sums of integers are exact
    assert np.array_equal(np.diff(run(variant, x), prepend=0.0), x)


@on_each_variant
def test_infinities_and_nan_reach_every_later_sample_and_no_earlier_one(variant):
    x = np.ones(100_000)
    x[40_000], x[60_000], x[80_000] = np.inf, 5.0, np.nan
    y = run(variant, x)
    assert np.array_equal(y[:40_000], np.arange(1, 40_001))
    assert np.all(y[40_000:80_000] == np.inf)
    assert np.isnan(y[80_000:]).all()


@on_each_variant
def test_single_precision_may_pass_through_sums_beyond_its_integers(variant):
    x = np.array([2.0**24, 1.0, 1.0, 1.0, 1.0, -(2.0**24)], np.float32)  # a running float32 sum would end at 0
    assert run(variant, x)[-1] == pytest.approx(4.0, abs=OPERATION.tolerances["float32"] * 2**24)


@pytest.fixture(scope="module")
def compiled():
    return numba.njit(cumulative_sum._build(range))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n", [1, GROUP, GROUP + 1, 4 * GROUP + 1, 5 * GROUP - 1, 6 * GROUP + 4 * LEAF + 3])
def test_however_many_threads_share_a_row_the_sums_are_the_same(compiled, blocks, n):
    x = np.random.default_rng(n).integers(-50, 50, (2, n)).astype(np.float64)
    y = np.full(x.shape, np.nan)
    compiled(x, y, blocks)
    assert np.array_equal(y, np.cumsum(x, axis=-1))
