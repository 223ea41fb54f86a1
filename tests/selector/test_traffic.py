"""What the counts say: which size comes first, and which load the tables follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pointsman.selector.base import Candidate, Prediction
from pointsman.selector.costs import Curves
from pointsman.selector.traffic import MOST_GROWN, TO_COME, Traffic, class_key
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


def adopted(traffic: Traffic, gain: float, per_shape: bool = False) -> Candidate:
    """A cold candidate that would save this share of the time at the small size, and nothing at the large one."""
    cold = candidate(compile_s=0.02, per_shape=per_shape)
    for size, share in ((10**4, gain), (10**6, 0.0)):
        seen = traffic.of(site(size))
        seen.promises, seen.wishes = {"other": share}, {"other": ("", share * seen.chosen_s)}
    return cold


def test_what_is_compiled_for_all_sizes_is_repaid_by_what_each_of_them_gains(traffic):
    """A hundred calls of 1 ms are at stake where something is gained, a second where nothing is."""
    cold = adopted(traffic, 0.5)
    for size in (10**4, 10**6):
        assert traffic.may_save(class_key(site(size)), [cold]) == {"other": pytest.approx(TO_COME * 0.05)}
        assert traffic.compiles_earned(class_key(site(size)), [cold]) == {"other"}
    assert traffic.may_save(class_key(site(10**4)), [candidate()]) == {}
    cold = adopted(traffic, 0.3)
    assert traffic.compiles_earned(class_key(site(10**6)), [cold]) == frozenset()
    assert traffic.compiles_earned(class_key(site(10**6)), [adopted(traffic, 0.5, per_shape=True)]) == frozenset()


def test_a_choice_that_was_overtaken_leaves_no_promises(traffic):
    """Two kernels that would each repay themselves need not both be compiled: the second is held against the first."""
    cold = adopted(traffic, 0.5)
    key = class_key(site(10**4))
    traffic.forget_promises({("another", "float64")})
    assert traffic.compiles_earned(key, [cold]) == {"other"}
    traffic.forget_promises({("op", "float64")})
    assert traffic.may_save(key, [cold]) == {"other": 0.0}
    assert traffic.compiles_earned(key, [cold]) == frozenset()


def test_what_earlier_processes_usually_called_repays_compiling_at_once(traffic):
    cold = adopted(traffic, 0.01)
    assert not traffic.compiles_earned(class_key(site(10**4)), [cold])
    traffic.of(site(10**4)).usual = 10_000.0
    assert traffic.compiles_earned(class_key(site(10**4)), [cold]) == {"other"}


def test_imports_are_repaid_by_the_best_of_a_library_in_each_class(traffic):
    library = Candidate("other/a", "other", "cpu", Prediction(-5.0, 0.1, 3, "measured"), import_s=0.05)
    seen = traffic.of(site(10**4))
    seen.wishes = {"other/a": ("other", 4e-4), "other/b": ("other", 5e-4)}
    assert traffic.imports_earned([library]) == frozenset()  # 60 calls to come save 0.03 s; both together nothing more
    for _ in range(100):
        traffic.count(Outcome(site(10**4), 1.7e9, 1e-3))
    assert traffic.imports_earned([library]) == {"other"}


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


def test_of_many_groups_that_have_grown_those_that_have_most_come_first_and_all_in_the_end(traffic):
    """Fitting all of them at once would take the interpreter from callers for a tenth of a second."""
    groups = {(f"op{number:02}", "float64") for number in range(3 * MOST_GROWN)}
    old = {group for group in groups if group[0] < "op04"}

    def call(group: tuple[str, str], times: int) -> None:
        for _ in range(times):
            traffic.count(Outcome(site(100)._replace(operation=group[0]), 1.7e9, 1e-3))

    for group in old:
        call(group, 100)
    while traffic.grown(old):
        pass
    for group in groups:
        call(group, 50)
    rounds = []
    while due := traffic.grown(groups):
        rounds.append(due)
    assert [len(due) for due in rounds] == [MOST_GROWN] * 3
    assert set().union(*rounds) == groups
    assert old <= rounds[-1]  # half as many again, where the others are new


def test_a_trial_renews_its_own_class_and_its_group_when_there_is_more_to_tell(make, workload):
    learner = make()._engine.learner
    group = ("op", "float64")
    learner.learn([Outcome(site(100), 1.7e9, 1e-3)] * 100, {group})
    trial = Outcome(site(100, "other"), 1.7e9, 1e-3, rule="explore")
    assert learner.learn([trial], {group}) == {class_key(site(100))}
    assert group in learner.learn([Outcome(site(100), 1.7e9, 1e-3)] * 50, {group})
