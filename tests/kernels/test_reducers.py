"""Reducers against closed forms and against the whole list; states merge as if all results had come at once."""

from __future__ import annotations

import json
import math
import pickle
from fractions import Fraction

import numpy as np
import pointsman as pm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.kernels import reducers
from pointsman.kernels.reducers import NAMED, Reducer, Several, reducer_of

GIVEN = {
    "Moments": pm.reducers.Moments(),
    "Maximum": pm.reducers.Maximum(),
    "Minimum": pm.reducers.Minimum(),
    "Exceedances": pm.reducers.Exceedances(0.5),
    "Histogram": pm.reducers.Histogram(-3.0, 3.0, 12),
    "Quantiles": pm.reducers.Quantiles((0.1, 0.5, 1.0)),
    "Several": Several({"a": pm.reducers.Moments(), "b": pm.reducers.Maximum()}),
}
ARRAYS = [name for name in GIVEN if name != "Quantiles"]


def folded(reducer: Reducer, results, leaf: int):
    """The value, by leaves of that size."""
    states = [reducer.leaf(results[i : i + leaf]) for i in range(0, len(results), leaf)]
    total = states[0]
    for state in states[1:]:
        total = reducer.merge(total, state)
    return reducer.result(total)


def test_every_reducer_is_in_the_grid():
    known = {
        name for name, found in vars(reducers).items()
        if isinstance(found, type) and issubclass(found, Reducer) and not name.startswith("_") and found is not Reducer
    }  # fmt: skip
    assert known == set(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("leaf", [1, 7, 64, 1000])
def test_the_value_does_not_depend_on_leaves_beyond_rounding(name, leaf):
    results = np.random.default_rng(1).standard_normal(1000).tolist()
    flat = np.array([*_numbers(folded(GIVEN[name], results, leaf))])
    np.testing.assert_allclose(flat, [*_numbers(folded(GIVEN[name], results, 1000))], rtol=1e-13)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_reduced_element_by_element(name):
    results = list(np.random.default_rng(2).standard_normal((200, 2, 3)))
    whole = folded(GIVEN[name], results, 50)
    for i, j in np.ndindex(2, 3):
        alone = [*_numbers(folded(GIVEN[name], [r[i, j] for r in results], 50))]
        np.testing.assert_allclose([*_numbers(_element(whole, i, j))], alone, rtol=1e-14)


def _element(value, i, j):
    if isinstance(value, dict):
        return {name: _element(part, i, j) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return value[i, j] if value.ndim >= 2 else value
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(*(_element(getattr(value, name), i, j) for name in value.__dataclass_fields__))
    return value


def _numbers(value):
    if isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _numbers(getattr(value, name))
    else:
        yield from np.ravel(value).astype(float).tolist()


@pytest.mark.parametrize("name", GIVEN)
def test_what_workers_get_is_the_same_fold(name):
    results = [0.25, -1.0, 2.0, 0.5]
    here, there = GIVEN[name].leaf(results), GIVEN[name].in_workers()(results)
    assert repr(here) == repr(there)


@pytest.mark.parametrize("name", GIVEN)
def test_describe_is_plain_data_and_tells_parameters_apart(name):
    text = json.dumps(GIVEN[name].describe())
    assert name == "Several" or name in text
    assert json.dumps(pm.reducers.Exceedances(np.array([1.0, 2.0])).describe()) != json.dumps(
        pm.reducers.Exceedances(np.array([1.0, 3.0])).describe()
    )


# ---------------------------------------------------------------------------------------------- each against the truth


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), st.integers(1, 20))
def test_mean_and_variance_are_those_of_exact_arithmetic(values, leaf):
    found = folded(pm.reducers.Moments(), values, leaf)
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    variance = sum((v - mean) ** 2 for v in exact) / (len(exact) - 1)
    largest = max(map(abs, values))
    assert found.n == len(values)
    assert found.mean == pytest.approx(float(mean), rel=1e-13, abs=1e-14 * largest)
    assert found.variance == pytest.approx(float(variance), rel=1e-9, abs=1e-20 * largest**2 + 1e-300)


def test_a_large_mean_costs_the_variance_no_digits():
    values = (1e9 + np.arange(10_000) % 7).tolist()
    assert folded(pm.reducers.Moments(), values, 1024).variance == pytest.approx(np.var(np.arange(10_000) % 7, ddof=1))


def test_complex_results_have_a_complex_mean_and_a_real_variance():
    found = folded(pm.reducers.Moments(), [1 + 1j, 1 - 1j, 3 + 0j], 2)
    assert found.mean == pytest.approx(5 / 3)
    assert found.variance == pytest.approx(((4 / 9 + 1) * 2 + 16 / 9) / 2)


def test_intervals_of_the_mean_and_of_a_share():
    found = folded(pm.reducers.Moments(), [0.0, 2.0] * 50, 10)
    low, high = found.interval(0.95)
    assert (low + high) / 2 == pytest.approx(1.0)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(100 / 99 / 100), rel=1e-6)
    assert found.half_width(0.95) == pytest.approx((high - low) / 2)
    share = folded(pm.reducers.Exceedances(1.0), [0.0] * 90 + [1.0] * 10, 10)
    assert (share.n, share.r, share.p) == (100, 10, 11 / 101)  # as large as what was observed counts
    for bound in share.interval(0.95):  # Wilson's: where the observed share lies 1.96 standard errors of the bound off
        assert abs(0.1 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 100), rel=1e-6)
    assert folded(pm.reducers.Exceedances(9.0), [0.0] * 99, 10).p == 1 / 100  # never 0
    assert not share.settled(0.1)
    assert share.settled(0.5)
    with pytest.raises(ValueError, match="level=1024"):
        share.settled(1024)  # what `stop_when=PValue.settled` would ask


def test_a_histogram_counts_edges_outsiders_and_nans_where_they_belong():
    values = [0.0, 0.5, 1.0, 1.999, 2.0, -0.1, 2.1, math.inf, -math.inf, math.nan]
    found = folded(pm.reducers.Histogram(0.0, 2.0, 2), values, 3)
    assert found.counts.tolist() == [2, 3]  # the last bin includes its end
    assert (found.below, found.above, found.nans, found.n) == (2, 2, 1, 10)
    assert found.edges.tolist() == [0.0, 1.0, 2.0]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(1, 200))
def test_values_just_within_a_histogram_are_within_it(low, width, bins):
    high = low + width
    inside = [math.nextafter(high, low), high, low, math.nextafter(low, high)]
    outside = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]
    found = folded(pm.reducers.Histogram(low, high, bins), inside + outside, 4)
    assert (int(found.counts.sum()), found.below, found.above) == (4, 1, 1)


def test_what_is_no_number_counts_as_large_and_infinities_have_quantiles():
    assert folded(pm.reducers.Exceedances(1.0), [math.nan] * 9, 3).p == 1.0
    found = folded(pm.reducers.Quantiles((0.0, 0.5, 1.0)), [1.0, math.inf, -math.inf], 2)
    assert (found[0.0], found[1.0]) == (-math.inf, math.inf)


def test_quantiles_of_a_histogram_are_within_a_bin():
    values = np.random.default_rng(3).random(5000)
    found = folded(pm.reducers.Histogram(0.0, 1.0, 200), values.tolist(), 512)
    for q in (0.0, 0.05, 0.5, 0.95, 1.0):
        assert found.quantile(q) == pytest.approx(np.quantile(values, q), abs=1 / 200)
    assert math.isnan(folded(pm.reducers.Histogram(0.5, 1.0, 10), values.tolist(), 512).quantile(0.1))  # lies outside
    with pytest.raises(ValueError, match="it is a share"):
        found.quantile(95)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=200), st.integers(1, 50))
def test_quantiles_are_within_their_relative_error(values, leaf):
    shares = (0.0, 0.3, 0.5, 0.9, 1.0)
    found = folded(pm.reducers.Quantiles(shares, error=0.01), values, leaf)
    ordered = sorted(values)
    for q in shares:
        rank = q * (len(values) - 1)
        near = {ordered[math.floor(rank)], ordered[math.ceil(rank)]}
        assert any(found[q] == pytest.approx(v, rel=0.0101, abs=1.1e-300) for v in near)


def test_a_nan_is_no_extreme_that_goes_unseen():
    assert math.isnan(folded(pm.reducers.Maximum(), [1.0, math.nan, 2.0, 3.0], 2))
    assert folded(pm.reducers.Minimum(), [3, 1, 2], 2) == 1


# ---------------------------------------------------------------------------------------------- asking for one


def test_words_and_dictionaries_stand_for_reducers():
    assert reducer_of(None) is None
    assert {name: type(reducer_of(name)) for name in NAMED} == dict(NAMED)
    assert set(reducer_of({"a": "mean", "b": pm.reducers.Maximum()}).parts) == {"a", "b"}
    with pytest.raises(ValueError, match=r"found 'median'; names are mean, maximum, minimum, quantiles"):
        reducer_of("median")
    for wrong in (3, {}, {"a": None}, np.mean):
        with pytest.raises(TypeError, match="give a Reducer, one of mean"):
            reducer_of(wrong)


def test_a_reducer_that_results_do_not_suit_says_so():
    with pytest.raises(TypeError, match="results must be numbers, or arrays of one shape; found dict"):
        pm.reducers.Moments().leaf([{"a": 1}])
    with pytest.raises(TypeError, match="single numbers"):
        pm.reducers.Quantiles().leaf([np.zeros(3)])
    for wrong in ((1.0, 0.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match="give low < high"):
            pm.reducers.Histogram(*wrong)


@pytest.mark.parametrize("name", GIVEN)
def test_nothing_to_fold_is_a_state_too(name):
    reducer = GIVEN[name]
    if name != "Histogram":
        reducer.result(reducer.leaf([]))
    some = reducer.leaf([0.25, 1.0])
    assert repr(reducer.merge(reducer.leaf([]), some)) == repr(some)


@pytest.mark.parametrize("name", GIVEN)
def test_reducers_travel(name):
    again = pickle.loads(pickle.dumps(GIVEN[name]))
    assert again.describe() == GIVEN[name].describe()
