"""The flusher's pace: callers wait for a piece of its work, and who wants a round to end for none of its rests."""

from __future__ import annotations

import threading

import pytest
from pointsman.telemetry import pace
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site
from pointsman.telemetry.pace import LONGEST_PAUSE_S, LONGEST_REST_S, PAUSES, RESTS, Pace


class Watch:
    """A clock that stands still, but for work and rests."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def paced(watch) -> Pace:
    found = Pace(watch, watch.sleep)
    found.start()
    return found


def work(watch: Watch, seconds: float) -> None:
    watch.now += seconds


def test_it_rests_after_each_piece_and_after_the_round_by_what_it_worked(paced, watch):
    with paced.round():
        work(watch, 1e-3)
        paced.breathe()
        work(watch, 2e-3)
        paced.breathe()
        work(watch, 1.0)
        paced.breathe()
    assert watch.rests == pytest.approx([PAUSES * 1e-3, PAUSES * 2e-3, LONGEST_PAUSE_S])
    paced.hurry()
    paced.wait()
    assert watch.rests[-1] == LONGEST_REST_S
    with paced.round():
        work(watch, 1e-3)
        paced.breathe()
        work(watch, 1e-3)
    paced.hurry()
    paced.wait()
    assert watch.rests[-1] == pytest.approx(RESTS * 2e-3)  # of the work: the rests in between are none


def test_nobody_waits_for_a_rest(paced, watch):
    with paced.round(), paced.waited_for():
        work(watch, 1.0)
        paced.breathe()
    other = threading.Thread(target=paced.breathe)  # who flushes does so on its own thread
    other.start()
    other.join()
    assert watch.rests == []


def test_a_flush_is_waited_for_and_a_round_in_the_background_is_not(monkeypatch):
    """What a subscriber does between two pieces rests on the flusher's thread, and not while somebody flushes."""
    rested, met, history = [], threading.Event(), History()
    monkeypatch.setattr(pace, "PAUSES", 0.0)
    sleep = history._pace._sleep
    history._pace._sleep = lambda seconds: (rested.append(threading.current_thread().name), sleep(seconds))

    def subscriber(outcomes, changed):
        history.breathe()
        met.set()

    history.subscribe(subscriber)
    history.record(Outcome(Site("op", "numpy", "float64", "1", "", 1.0, 1), 1.7e9, 1e-3))
    assert met.wait(30.0)
    assert rested.count("pointsman-flusher") >= 1
    history._pace._waiting = 1  # somebody is in `flush`
    rested.clear()
    history._pace.breathe()
    assert rested == []
    history._pace._waiting = 0
    history.close()
