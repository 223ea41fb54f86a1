"""Softmax sums to one, does not mind a shift, keeps masks exact, and says NaN where there is none."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numba
import numpy as np
import pytest
from pointsman.executors.prepare import prepare
from pointsman.kernels import softmax_fused
from pointsman.selector import operations

OPERATION = operations.find("softmax")
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
GRID = [
    pytest.param(v, dtype, id=f"{v.name}-{dtype}")
    for v in OPERATION.variants
    if v.device == "cpu"
    for dtype in OPERATION.tolerances
]
on_each_variant = pytest.mark.parametrize(("variant", "dtype"), GRID)


def run(variant, x):
    return prepare(variant, ["numpy"]).call(x)


@on_each_variant
def test_rows_are_probabilities_and_sum_to_one(variant, dtype):
    for shape in ((40, 3), (3, 300_000)):  # a running sum in single precision would be off by 1e-5
        y = run(variant, (5 * np.random.default_rng(1).standard_normal(shape)).astype(dtype))
        assert np.all((y >= 0.0) & (y <= 1.0))
        assert np.sum(y, axis=-1, dtype=np.longdouble) == pytest.approx(1.0, abs=20 * EPS[dtype])


@on_each_variant
def test_a_shift_by_whole_numbers_changes_nothing(variant, dtype):
    x = np.random.default_rng(2).integers(-20, 20, (4, 500)).astype(dtype)
    assert run(variant, x + 4096) == pytest.approx(run(variant, x), rel=4 * EPS[dtype])


@on_each_variant
def test_closed_forms_in_forty_digits(variant, dtype):
    x = np.array([[0.0, 1.0, -30.0, 2.5, -87.0], [700.0, 699.0, 1e4, 0.0, 9999.0]], dtype)
    with localcontext(prec=40):
        e = [[Decimal(float(v)).exp() for v in row] for row in x]
        exact = np.array([[float(v / sum(row)) for v in row] for row in e])
    assert run(variant, x) == pytest.approx(exact, rel=100 * EPS[dtype], abs=float(np.finfo(dtype).tiny))


@on_each_variant
def test_the_largest_and_the_lowest_numbers_do_not_overflow(variant, dtype):
    big = np.finfo(dtype).max
    y = run(variant, np.array([[big, 0.0, -big], [-big, -big, -big]], dtype))
    assert y == pytest.approx(np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]), rel=2 * EPS[dtype])


@on_each_variant
def test_minus_infinity_is_exactly_zero_and_rows_without_a_softmax_are_nan(variant, dtype):
    inf, nan = np.inf, np.nan
    x = np.array(
        [[0.0, -inf, 0.0, -inf], [1.0, nan, 0.0, 2.0], [inf, 0.0, 1.0, -inf], [-inf] * 4, [3.0, 3.0, 3.0, 3.0]], dtype
    )
    for repeats in (1, 1000):  # short rows, and long ones of the same values
        y = run(variant, np.repeat(x, repeats, axis=-1)) * repeats
        assert np.array_equal(y[0].reshape(4, -1)[:, 0], [0.5, 0.0, 0.5, 0.0])
        assert np.isnan(y[1:4]).all()
        assert y[4] == pytest.approx(0.25, rel=20 * EPS[dtype])


@on_each_variant
def test_a_nan_stays_in_its_row_wherever_it_lies(variant, dtype):
    for n in (7, 5000):
        for place in (0, n // 2, n - 1):
            x = np.zeros((3, n), dtype)
            x[1, place] = np.nan
            assert np.array_equal(np.isnan(run(variant, x)), np.repeat([[False], [True], [False]], n, axis=1))


@pytest.mark.parametrize(("dtype", "worst"), [("float32", 2e-7), ("float64", 4e-16)])
def test_the_written_out_exponential_is_within_two_units_in_the_last_place(dtype, worst):
    fused = softmax_fused.wrap(numba.njit(softmax_fused.build(range)))
    z = -np.linspace(0.0, -np.log(np.finfo(dtype).tiny) * 0.999, 40_001).astype(dtype)
    rows = np.stack([np.zeros_like(z), z], axis=-1)  # the ratio of the two results is the exponential of z
    y = fused(rows).astype(np.longdouble)
    exact = np.exp(z.astype(np.longdouble))
    kept = exact > np.finfo(dtype).tiny * 4
    assert np.max(np.abs(y[:, 1] * (1 + exact) / exact - 1)[kept]) <= 2 * worst
