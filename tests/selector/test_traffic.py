"""What the counts say: which size comes first, and which load the tables follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pointsman.selector.base import Candidate, Prediction
from pointsman.selector.costs import Curves
from pointsman.selector.traffic import Traffic, class_key
from pointsman.telemetry.outcome import Outcome, Site


def site(size: int, variant: str = "plain") -> Site:
    return Site("op", variant, "float64", str(round(2 * math.log2(size))), "", float(size), size)


@pytest.fixture
def traffic() -> Traffic:
    """A hundred calls at a small size of 1 ms, ten at a large one of 100 ms."""
    counted = Traffic()
    for size, seconds, calls in ((10**4, 1e-3, 100), (10**6, 0.1, 10)):
        for _ in range(calls):
            counted.count(Outcome(site(size), 1.7e9, seconds)).chosen_s = seconds
    return counted


def candidate(**cold: float) -> Candidate:
    return Candidate("other", "numpy", "cpu", Prediction(-5.0, 1.0, 0, "guess"), **cold)


def test_a_smaller_size_that_tells_something_comes_first(traffic):
    other = candidate()
    assert "other" in traffic.untested(class_key(site(10**6)), [other])
    assert "other" not in traffic.untested(class_key(site(10**4)), [other])
    traffic.count(Outcome(site(10**4, "other"), 1.7e9, 1e-3))
    assert "other" not in traffic.untested(class_key(site(10**6)), [other])


def test_a_smaller_size_that_cannot_repay_the_cold_start_bars_no_larger_one(traffic):
    costly = candidate(compile_s=0.5)  # of which the 0.1 s spent on the small size would be no repayment
    assert "other" not in traffic.untested(class_key(site(10**6)), [costly])


def test_tables_follow_a_load_that_lasts_and_not_a_passing_one(make, workload):
    engine, w = make()._engine, Outcome(site(100), 1.7e9, 1e-3)
    busy = w._replace(context="busy")
    engine.learn([busy], set())
    assert engine.learner.context == "quiet"
    engine.learn([w], set())
    engine.learn([busy], set())
    assert engine.learner.context == "quiet"
    engine.learn([busy], set())
    assert engine.learner.context == "busy"


def test_times_that_make_no_sense_leave_the_prior(make, feed, workload, history, monkeypatch):
    """A damaged history must not keep anything from being chosen."""
    selector, w = make(), workload()
    feed(selector, w, {"numpy": 1e-3})

    def fails(_: object) -> None:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(np.linalg, "cholesky", fails)
    place = selector.sites.of(w, "numpy")
    assert Curves(history.state, priors={}).predict([place], ["numpy"], "quiet")[0].source == "guess"
