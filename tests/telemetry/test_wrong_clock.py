"""A clock that ran ahead and was set back: what it stamped is present from then on, and what comes later counts."""

from __future__ import annotations

import time

import pytest
from clocks import Clock
from hypothesis import given
from hypothesis import strategies as st
from pointsman.telemetry.history import History
from pointsman.telemetry.merging import merge
from pointsman.telemetry.outcome import Failure, Outcome, Site
from pointsman.telemetry.sketch import HALF_LIFE_S, Sketch
from pointsman.telemetry.state import State

SITE = Site("fft", "numpy", "float64", "20", "", 1024.0, 1000)
KEY = SITE.cell, "quiet"
NOW = 1.7e9
YEAR_S = 365 * 86_400.0
AHEAD = [3600.0, 86_400.0, 30 * 86_400.0, YEAR_S, 100 * YEAR_S]


def timed(seconds: float, count: int, start: float) -> list[Outcome]:
    return [Outcome(SITE, start + i, seconds, rule="learned") for i in range(count)]


def weights_of(sketch: Sketch) -> list[float]:
    """Of the bins, from the shortest times to the longest, the newest time weighing one."""
    newest = 2.0 ** (sketch.epoch * 64 - sketch.last_when / HALF_LIFE_S)
    return [sketch.bins[index][0] * newest for index in sorted(sketch.bins)]


@pytest.mark.parametrize("ahead_s", AHEAD)
def test_new_outcomes_count_once_the_clock_is_right_again(ahead_s):
    clock = Clock(NOW + ahead_s)
    history = History(None, background=False, clock=clock, monotonic=clock)
    for outcome in timed(0.01, 200, clock() - 200.0):
        history.record(outcome)
    history.flush()
    clock.now = NOW
    for outcome in timed(0.05, 20, NOW):
        history.record(outcome)
        clock.advance(1.0)
    history.flush()
    sketch = history.state.cells[KEY]
    assert sketch.expected_s == pytest.approx(0.05)
    assert sketch.recent[-1][0] == NOW + 19.0
    assert sketch.last_when <= clock()
    assert sketch.count == 220
    clock.advance(2 * 86_400.0)  # two half-lives: the old times no longer outweigh the new
    for outcome in timed(0.05, 20, clock()):
        history.record(outcome)
    history.flush()
    weights = weights_of(history.state.cells[KEY])
    assert weights == pytest.approx([50.0, 25.0], rel=0.01)


@pytest.mark.parametrize("ahead_s", AHEAD)
def test_a_file_that_was_written_by_a_wrong_clock_is_put_right(tmp_path, ahead_s):
    def told(path, start: float, outcomes: list[Outcome]) -> Sketch:
        clock = Clock(start)
        history = History(path, background=False, clock=clock, monotonic=clock)
        for outcome in outcomes:
            history.record(outcome)
            clock.advance(1.0)
        history.close()
        return history.state.cells[KEY]

    path = tmp_path / "history.sqlite"
    told(path, NOW + ahead_s, timed(0.01, 50, NOW + ahead_s))
    told(path, NOW, timed(0.05, 20, NOW))
    sketch = told(path, NOW + 20.0, [])
    assert sketch.expected_s == pytest.approx(0.05)
    assert sketch.last_when == sketch.last_seen == NOW + 19.0
    assert weights_of(sketch) == pytest.approx([50.0, 20.0], rel=0.01)


def test_the_rest_of_the_future_is_set_back_too():
    failed = Outcome(SITE, NOW + YEAR_S, 0.0, failure=Failure.DRIVER, message="then")
    sketch = Sketch()
    sketch.add(failed)
    sketch.add_many(timed(0.02, 3, NOW + YEAR_S))
    sketch.add_many(timed(0.01, 3, NOW - 10.0))
    before = sketch.to_json()
    present = sketch.as_of(NOW)
    assert present.last_failure == (NOW, "then")
    assert [seconds for _, seconds, _ in present.recent] == [0.01] * 3 + [0.02] * 3  # in their order
    assert present.recent[-1][0] == present.last_when == present.last_seen == NOW
    assert sketch.to_json() == before  # what was published stays as it was
    assert present.as_of(NOW) is present
    present.merge(Sketch.from_json(present.to_json()))
    assert present.count == 12


@given(st.lists(st.floats(0.0, 200 * HALF_LIFE_S), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_a_right_clock_changes_nothing_in_whatever_order_outcomes_arrive(ages, rng):
    outcomes = [Outcome(SITE, NOW - age, 0.01 + age * 1e-9) for age in ages]
    believing, state = State(), State(Clock(NOW))
    believing.apply(outcomes)
    rng.shuffle(outcomes)
    for outcome in outcomes:
        state.apply([outcome])
    one, other = believing.cells[KEY], state.cells[KEY]
    assert one.recent == other.recent
    assert (one.last_when, one.last_seen, one.epoch) == (other.last_when, other.last_seen, other.epoch)
    for index in one.bins.keys() | other.bins.keys():
        nothing = (0.0, 0.0)
        assert one.bins.get(index, nothing) == pytest.approx(other.bins.get(index, nothing), rel=1e-6, abs=1e-20)


def test_a_merge_puts_a_wrong_clock_right(tmp_path):
    now = time.time()
    for name, start, seconds in (("a", now - 100.0, 0.05), ("b", now + YEAR_S, 0.01)):
        history = History(tmp_path / f"{name}.sqlite", background=False, clock=Clock(start + 50.0))
        for outcome in timed(seconds, 30, start):
            history.record(outcome)
        history.close()
    merge([tmp_path / "a.sqlite", tmp_path / "b.sqlite"], tmp_path / "c.sqlite")
    sketch = History(tmp_path / "c.sqlite", background=False).state.cells[KEY]
    assert sketch.last_when < now + 1000.0
    assert weights_of(sketch) == pytest.approx([30.0, 30.0], rel=0.01)
