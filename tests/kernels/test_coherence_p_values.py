"""P-values of coherence: one test with the levels, never zero, and none where there is no coherence."""

from __future__ import annotations

import numpy as np
import pointsman as pm
import pytest
from pointsman.kernels.reduced import wilson

SMALL = {"dt": 1.0, "dj": 0.25, "s0": 2.0, "J": 8}
QUICK = {**SMALL, "mc_count": 20, "n": 96, "seed": 5}
HERE = {"cache": False, "backend": "sequential"}


@pytest.fixture(scope="module")
def null():
    """400 pairs of 200 values of white noise."""
    return pm.wct_significance(0.0, 0.0, **SMALL, n=200, mc_count=400, seed=1, **HERE)


def test_p_values_are_never_zero_and_count_what_is_as_large(null):
    total = null.counts.sum(axis=1)
    values = np.array([0.0, 0.3, 0.5004, 0.9, 0.95, 0.9999, 1.0, 1.0, 0.2])
    p, low, high = null.p_values(values)
    expected = [(row[int(v * 1000) if v < 1 else 999 :].sum() + 1) / (row.sum() + 1)
                for row, v in zip(null.counts, values, strict=True)]  # fmt: skip
    np.testing.assert_allclose(p, expected, rtol=1e-12)
    assert p[0] == 1.0
    np.testing.assert_allclose(p[5:8], 1 / (total[5:8] + 1), rtol=1e-12)
    assert ((low <= p) & (p <= high)).all()
    plane = null.p_values(np.repeat(values[:, None], 200, axis=1))
    np.testing.assert_array_equal(plane.p, np.repeat(p[:, None], 200, axis=1))
    np.testing.assert_array_equal(np.isnan(null.p_values(np.full(9, np.nan)).p), True)


def test_the_level_and_the_p_value_are_one_test(null):
    above, below = null.p_values(null.levels + 0.001).p, null.p_values(null.levels - 0.001).p
    assert ((above <= 0.05) & (below >= 0.05)).all()
    plane = np.zeros((9, 200))
    for towards, significant in ((1.0, True), (0.0, False)):
        plane[3, 100] = np.nextafter(null.global_level, towards)
        p, low, high = null.global_p_value(plane)
        assert (p <= 0.05) == significant
        assert low < p < high


def test_the_largest_coherence_is_looked_for_outside_of_the_cone(null):
    plane = np.where(null.outside, 0.1, 1.0)
    assert null.global_p_value(plane).p == 1.0
    plane[4, 100] = 1.0
    assert null.global_p_value(plane).p == 1 / 401


def test_too_few_pairs_have_no_global_level():
    assert np.isnan(pm.wct_significance(0, 0, **{**QUICK, "mc_count": 18}, **HERE).global_level)
    enough = pm.wct_significance(0, 0, **{**QUICK, "mc_count": 19}, **HERE)
    assert enough.global_level == enough.maxima.max()


@pytest.mark.parametrize("n", [1, 30, 300])
def test_the_interval_covers_as_often_as_it_says(n):
    """Of Wilson: on average over p, and for p = 0.05, which is what is asked for here."""
    from math import comb

    for p in (0.05, 0.5):
        chances = np.array([comb(n, r) * p**r * (1 - p) ** (n - r) for r in range(n + 1)])
        low, high = wilson(np.arange(n + 1) / n, n)
        assert chances[(low <= p) & (p <= high)].sum() > 0.92
    assert (float(wilson(0.0, n)[0]), float(wilson(1.0, n)[1])) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_a_plane_without_any_coherence_has_no_p_value(null):
    assert np.isnan(null.global_p_value(np.full(null.outside.shape, np.nan))).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.5, np.inf])
def test_what_is_no_coherence_is_refused(null, wrong):
    plane = np.full(null.outside.shape, 0.5)
    plane[0, plane.shape[1] // 2] = wrong
    for ask in (null.p_values, null.global_p_value):
        with pytest.raises(ValueError, match="squared coherences lie from 0 to 1"):
            ask(plane)


def test_the_axes_of_a_result_belong_to_the_caller():
    given = {"dj": 0.5, "mc_count": 3, "seed": 1, "n": 60, "cache": False}
    before = pm.wct_significance(0.1, 0.2, **given)
    kept = before.levels.copy(), before.periods.copy()
    before.periods[:] = before.scales[:] = 1.0
    again = pm.wct_significance(0.1, 0.2, **given)
    np.testing.assert_array_equal(again.periods, kept[1])
    np.testing.assert_array_equal(again.levels, kept[0])


def test_the_wrong_plane_is_refused(null):
    with pytest.raises(ValueError, match=r"found shape \(9, 100\), and the null series gave \(9, 200\)"):
        null.global_p_value(np.zeros((9, 100)))
    with pytest.raises(ValueError, match=r"found shape \(8,\); give \(9,\) or \(9, n\)"):
        null.p_values(np.zeros(8))
