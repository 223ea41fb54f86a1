"""A sketch is robust, follows a change of level, and does not depend on order or split."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.telemetry.outcome import Failure, Outcome, Site
from pointsman.telemetry.sketch import HALF_LIFE_S, Sketch

SITE = Site("fft", "numpy", "float64", "20", "", 1024.0, 1000)
NOW = 1.7e9


def sketch_of(outcomes) -> Sketch:
    sketch = Sketch()
    sketch.add_many(outcomes)
    return sketch


def timed(values, start: float = NOW, step: float = 1.0) -> list[Outcome]:
    return [Outcome(SITE, start + i * step, seconds, rule="learned") for i, seconds in enumerate(values)]


def noisy(seconds: float, count: int, seed: int = 1, sigma: float = 0.02) -> list[float]:
    rng = random.Random(seed)
    return [seconds * rng.lognormvariate(0.0, sigma) for _ in range(count)]


def check_same(one: Sketch, other: Sketch) -> None:
    """Both sketches hold the same, up to rounding."""
    assert (one.count, one.calls, one.cold_count, one.failures, one.chosen) == (
        other.count,
        other.calls,
        other.cold_count,
        other.failures,
        other.chosen,
    )
    assert one.recent == other.recent
    assert one.last_failure == other.last_failure
    assert (one.last_when, one.last_seen) == (other.last_when, other.last_seen)
    assert one.total_s == pytest.approx(other.total_s)
    assert one.cold_s == pytest.approx(other.cold_s)
    assert one.log2_work == pytest.approx(other.log2_work)
    same_bins(one, other)


def same_bins(one: Sketch, other: Sketch) -> None:
    """Bins to six digits: quantiles may lie on the edge between two, where rounding decides."""
    assert one.epoch == other.epoch
    for index in one.bins.keys() | other.bins.keys():
        nothing = (0.0, 0.0)
        # 2**-80 of the newest weight is dropped, so a weight that small may be there or not
        assert one.bins.get(index, nothing) == pytest.approx(other.bins.get(index, nothing), rel=1e-6, abs=1e-20)


EVENTS = st.builds(
    lambda when, seconds, kind, calls: Outcome(
        SITE,
        when,
        seconds,
        compile_s=seconds if kind == "cold" else 0.0,
        failure=Failure.DRIVER if kind == "failed" else None,
        message=f"at {when}" if kind == "failed" else "",
        rule=kind,
        calls=calls,
    ),
    when=st.floats(NOW, NOW + 200 * HALF_LIFE_S).map(lambda when: round(when, 3)),
    seconds=st.floats(1e-6, 1e2),
    calls=st.integers(1, 100),
    kind=st.sampled_from(["learned", "explore", "cold", "failed"]),
)


@given(st.lists(EVENTS, max_size=60), st.randoms(use_true_random=False))
def test_arrival_order_of_time_stamped_outcomes_does_not_matter(events, rng):
    shuffled = list(events)
    rng.shuffle(shuffled)
    one_by_one = Sketch()
    for event in shuffled:
        one_by_one.add(event)
    check_same(sketch_of(events), one_by_one)


@given(st.lists(EVENTS, max_size=30), st.lists(EVENTS, max_size=30), st.lists(EVENTS, max_size=30))
def test_merging_is_adding_and_its_order_and_grouping_do_not_matter(first, second, third):
    a, b, c = sketch_of(first), sketch_of(second), sketch_of(third)
    left = a.copy()
    left.merge(b)
    left.merge(c)
    right = c.copy()
    inner = b.copy()
    inner.merge(a)
    right.merge(inner)
    check_same(left, right)
    check_same(left, sketch_of(first + second + third))
    check_same(a, sketch_of(first))  # merging leaves its argument and the copied original alone


@given(st.lists(EVENTS, max_size=40))
def test_json_keeps_what_is_read_out(events):
    sketch = sketch_of(events)
    back = Sketch.from_json(json.loads(json.dumps(sketch.to_json())))
    same_bins(back, sketch)
    assert [number for entry in back.recent for number in entry] == pytest.approx(
        [number for entry in sketch.recent for number in entry], rel=1e-8
    )
    assert (back.records, back.chosen, back.failures, back.last_failure) == (
        sketch.records,
        sketch.chosen,
        sketch.failures,
        sketch.last_failure,
    )
    assert (back.cold_s, back.log2_work) == (sketch.cold_s, sketch.log2_work)


def test_merging_across_years_neither_overflows_nor_forgets_the_new():
    old, new = sketch_of(timed([1.0] * 20, start=1.0)), sketch_of(timed([0.1] * 20, start=4e9))
    old.merge(new)
    assert old.count == 40
    assert old.expected_s == pytest.approx(0.1)
    new.merge(sketch_of(timed([1.0] * 20, start=1.0)))
    check_same(old, new)


def test_yesterday_counts_half():
    sketch = sketch_of(
        timed([0.010] * 20, start=NOW, step=0.001) + timed([0.011] * 20, start=NOW + HALF_LIFE_S, step=0.001)
    )
    assert sketch.mean_s == pytest.approx((0.010 + 2 * 0.011) / 3, rel=1e-4)


def test_many_at_once_are_the_same_as_one_by_one():
    outcomes = timed(noisy(0.01, 500, sigma=0.5))
    single = Sketch()
    for outcome in outcomes:
        single.add(outcome)
    check_same(single, sketch_of(outcomes))


def test_one_outlier_changes_nothing():
    values = noisy(0.01, 20)
    before = sketch_of(timed(values)).expected_s
    for place in (0, 10, 20):  # even where it is the very latest
        with_outlier = sketch_of(timed([*values[:place], 3.0, *values[place:]]))
        assert with_outlier.expected_s == pytest.approx(before, rel=0.01)
        assert with_outlier.stall_rate == 0.0
    short = noisy(2e-6, 20)
    assert sketch_of(timed([*short, 300 * 2e-6])).expected_s == pytest.approx(
        sketch_of(timed(short)).expected_s, rel=0.01
    )


def test_a_rate_of_stalls_is_paid_for_though_the_median_hides_it():
    values = [0.0002] * 9 + [0.0102]
    sketch = sketch_of(timed(values * 20))
    assert sketch.median_s == pytest.approx(0.0002)
    assert sketch.stall_rate == pytest.approx(0.1, rel=0.06)
    assert sketch.stall_s == pytest.approx(0.010, rel=0.01)
    assert sketch.expected_s == pytest.approx(0.0002 + 0.1 * 0.010, rel=0.06)


def test_jitter_of_microsecond_calls_is_no_stall_but_is_paid_for():
    sketch = sketch_of(timed(([2e-6] * 9 + [3e-4]) * 20))
    assert sketch.stall_rate == 0.0
    assert sketch.expected_s == pytest.approx(0.9 * 2e-6 + 0.1 * 3e-4, rel=0.06)


def test_stalls_that_have_ended_are_not_expected_for_ever():
    stalling = ([0.001] * 3 + [0.021] * 3) * 20
    assert sketch_of(timed(stalling)).expected_s == pytest.approx(0.011, rel=0.1)
    assert sketch_of(timed(stalling + [0.001] * 20)).expected_s == pytest.approx(0.001)
    assert sketch_of(timed([*stalling, *[0.001] * 20, 0.021, 0.001])).expected_s == pytest.approx(0.001)


@pytest.mark.parametrize("factor", [4.0, 0.25])
@pytest.mark.parametrize("before", [8, 40, 1000])
def test_a_change_of_level_is_followed_within_ten_calls_and_stays_followed(before, factor):
    old, level = noisy(0.01, before), 0.01 * factor
    new = noisy(level, 3 * before, seed=2)
    for calls in (10, 16, 30, before, before + 10, before + 40, 3 * before):
        sketch = sketch_of(timed(old + new[:calls]))
        assert sketch.low_s == pytest.approx(level, rel=0.05)
        assert sketch.expected_s == pytest.approx(level, rel=0.1)


def test_three_slow_calls_are_not_yet_a_change_of_level():
    assert sketch_of(timed(noisy(0.01, 40) + [0.02] * 3)).expected_s == pytest.approx(0.01, rel=0.1)


def test_a_single_call_after_a_long_pause_does_not_outweigh_all_before():
    values = timed(noisy(0.01, 100))
    later = Outcome(SITE, NOW + 30 * HALF_LIFE_S, 3.0)
    assert sketch_of([*values, later]).expected_s == pytest.approx(0.01, rel=0.05)


def test_cold_times_never_enter_the_steady_estimate():
    cold = [Outcome(SITE, NOW, 3.0, import_s=2.0, compile_s=0.5), Outcome(SITE, NOW, 1.5, compile_s=1.5)]
    sketch = sketch_of(timed([0.01] * 5) + cold)
    assert (sketch.count, sketch.cold_count, sketch.cold_s) == (5, 2, 2.0)
    assert sketch.mean_s == pytest.approx(0.01)


def test_failures_are_counted_by_type_and_the_latest_is_kept():
    sketch = sketch_of(
        [
            Outcome(SITE, NOW + 2, 9.0, failure=Failure.OUT_OF_MEMORY, message="second"),
            Outcome(SITE, NOW + 1, 9.0, failure=Failure.DRIVER, message="first"),
        ]
    )
    assert sketch.failures == {Failure.OUT_OF_MEMORY: 1, Failure.DRIVER: 1}
    assert sketch.failure_count == 2
    assert sketch.last_failure == (NOW + 2, "second")
    assert sketch.count == 0
    assert math.isnan(sketch.expected_s)


def test_spread_is_that_of_the_unstalled_times():
    values = noisy(0.01, 400, sigma=0.2)
    assert sketch_of(timed(values)).spread == pytest.approx(0.2, rel=0.15)
    stalling = [0.5 if i % 10 == 0 else seconds for i, seconds in enumerate(values)]
    assert sketch_of(timed(stalling)).spread == pytest.approx(0.2, rel=0.15)
    assert sketch_of(timed([0.01] * 50)).spread > 0.0


def test_a_sampled_time_is_one_measurement_and_many_calls():
    sketch = sketch_of([Outcome(SITE, NOW, 0.01, rule="learned", calls=50), Outcome(SITE, NOW, 0.02, rule="learned")])
    assert (sketch.count, sketch.calls, sketch.chosen["learned"]) == (2, 51, 51)
    assert sketch.total_s == pytest.approx(0.52)
    assert sketch.mean_s == pytest.approx(0.015)


def test_equal_times_are_read_out_exactly():
    sketch = sketch_of(timed([0.0123] * 10))
    assert sketch.low_s == sketch.median_s == pytest.approx(0.0123, rel=1e-12)
    assert sketch.log2_work == 10.0


def test_quantiles_are_interpolated_inside_a_bin_and_never_lie_in_a_gap():
    rng = random.Random(3)
    uniform = sketch_of(timed([rng.uniform(0.01, 0.02) for _ in range(4000)]))
    assert uniform.low_s == pytest.approx(0.0125, rel=0.01)
    assert uniform.median_s == pytest.approx(0.015, rel=0.01)
    two_modes = sketch_of(timed([0.01, 1.0] * 49 + [0.01] * 2))
    assert two_modes.median_s == pytest.approx(0.01)
