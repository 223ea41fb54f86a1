"""Learning, replayed without hardware: recorded outcomes in, choices out."""

from __future__ import annotations

import gc
import json
import random
import weakref

import pytest
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Failure, Outcome

pytestmark = pytest.mark.usefixtures("all_imported")


def test_small_sizes_one_backend_large_sizes_another(make, feed, workload):
    selector = make(explore=0)
    for size in (10, 100, 10**6, 10**7):
        feed(selector, workload(size), {"numpy": 1e-6 + 1e-8 * size, "torch": 3e-5 + 1e-9 * size})
    assert selector.select_backend(workload(10)) == "numpy"
    assert selector.select_backend(workload(10**7)) == "torch"
    assert selector.select_backend(workload(30)) == "numpy"
    assert selector.select_backend(workload(3 * 10**6)) == "torch"
    decision = selector.decide(workload(10**7))
    assert decision.rule == "learned"
    assert decision.predicted_s == pytest.approx(1e-2, rel=0.05)
    assert decision.candidates[0].prediction.low < 1e-2 < decision.candidates[0].prediction.high


def test_the_choice_follows_this_size_and_not_an_average_over_sizes(make, feed, workload):
    """numpy looks 1000x better on average only because it was measured on small data."""
    selector = make(explore=0)
    feed(selector, workload(10), {"numpy": 1e-6}, times=50)
    feed(selector, workload(10**7), {"torch": 0.01}, times=5)
    feed(selector, workload(10**7), {"numpy": 0.5}, times=2)
    assert selector.select_backend(workload(10**7)) == "torch"


def test_one_outlier_changes_nothing(make, feed, workload):
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 1e-3}, times=20)
    before = selector.decide(w)
    feed(selector, w, {"torch": [0.3]})
    after = selector.decide(w)
    assert (after.variant, after.chain) == (before.variant, before.chain) == ("torch", before.chain)
    assert after.predicted_s == pytest.approx(before.predicted_s, rel=0.05)


def test_a_rate_of_stalls_does_change_it(make, feed, workload):
    """The median is the same: only an expectation sees what a stall on every fifth call costs."""
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": [*([1e-3] * 4), 0.02] * 6}, times=30)
    assert selector.select_backend(w) == "numpy"


def test_a_change_of_level_is_noticed_within_ten_calls(make, feed, workload):
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 1e-3}, times=300)
    assert selector.select_backend(w) == "torch"
    feed(selector, w, {"torch": 5e-3}, times=10)
    assert selector.select_backend(w) == "numpy"


def test_cold_times_are_kept_apart_from_steady_ones(make, feed, workload):
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 1e-3})
    feed(selector, w, {"torch": [4.0]}, compile_s=4.0)
    assert selector.select_backend(w) == "torch"
    assert selector.decide(w).predicted_s == pytest.approx(1e-3, rel=0.05)


def test_arrival_order_does_not_matter(make, clock, workload):
    w, random_ = workload(10**5), random.Random(3)
    given = [
        ("numpy" if i % 3 else "torch", 1e9 + i, random_.lognormvariate(-7 if i % 3 else -7.5, 0.3)) for i in range(60)
    ]
    decisions = []
    for shuffled in range(3):
        selector = make(history=History(None, background=False, clock=clock), explore=0)
        random_.shuffle(given) if shuffled else None
        for backend, when, seconds in given:
            selector.history.record(Outcome(selector.sites.of(w, backend), when, seconds))
        selector.flush()
        decisions.append(selector.decide(w))
    assert len({d.chain for d in decisions}) == 1
    for d in decisions[1:]:
        assert d.predicted_s == pytest.approx(decisions[0].predicted_s, rel=1e-6)


def test_learning_goes_by_the_workloads_operation_whatever_the_label(make, workload):
    selector, w = make(), workload(5000, operation="derivative_like")
    for _ in range(5):
        selector.execute_with_monitoring("derivative_alpha_0.5", "numpy", lambda: None, w)
    selector.record(w, "numpy", seconds=1e-3, label="another")
    operations = selector.get_performance_summary()["operations"]
    assert set(operations) == {"derivative_like"}
    assert operations["derivative_like"][0]["variants"]["numpy"]["count"] == 6
    assert selector.decide(w).candidate("numpy").prediction.evidence == 6


def test_parameters_tell_workloads_apart(make, feed, workload):
    selector = make(explore=0)
    short, long = workload(10**4, parameters={"taps": 3}), workload(10**4, parameters={"taps": 4096})
    feed(selector, short, {"numpy": 1e-4, "scipy": 3e-4})
    feed(selector, long, {"numpy": 4e-2, "scipy": 5e-4})
    assert selector.select_backend(short) == "numpy"
    assert selector.select_backend(long) == "scipy"


def test_the_only_backend_ever_measured_does_not_lock_the_choice_in(make, feed, workload, libraries):
    libraries()
    selector, w = make(explore=0.02), workload(10**6)
    feed(selector, w, {"numpy": 0.05}, times=4)
    early = selector.decide(w).trial
    feed(selector, w, {"numpy": 0.05}, times=400)
    assert early is None  # it would not have been repaid yet
    assert selector.decide(w).variant == "numpy"
    assert selector.decide(w).trial is not None
    assert make(explore=0).decide(w).trial is None


def test_protected_operations_are_never_explored(make, feed, operation, workload):
    operation("careful", protected=True, plain=len, other=len)
    selector, w = make(explore=1.0), workload(10**6, operation="careful")
    feed(selector, w, {"numpy": 0.05}, times=400)
    assert selector.decide(w).trial is None


def test_two_selectors_on_one_history_share_what_they_learn(make, feed, workload):
    one, other, w = make(explore=0), make(explore=0), workload(10**5)
    assert other.select_backend(w) == "numpy"
    feed(one, w, {"numpy": 2e-3, "torch": 1e-3})
    assert other.select_backend(w) == "torch"
    assert other.decide(w).candidate("torch").prediction.evidence == 8


def test_what_two_selectors_explore_is_booked_once(make, feed, workload):
    one, other, w = make(), make(), workload(10**5)
    feed(one, w, {"numpy": 1e-3})
    one.select_backend(w), other.select_backend(w)
    feed(one, w, {"torch": [0.5]}, rule="explore")
    assert one.history.ledger["trials"] == 1
    assert one.history.ledger["explored_s"] == pytest.approx(0.5, rel=0.01)
    del one
    feed(other, w, {"torch": [0.5]}, rule="explore")
    assert other.history.ledger["trials"] == 2


def test_without_learning_nothing_is_read_and_nothing_recorded(make, feed, workload, history):
    feed(make(), workload(10**5), {"numpy": 2e-3, "torch": 1e-3})
    before = sum(s.records for s in history.state.cells.values())
    selector, w = make(enable_learning=False), workload(10**5)
    assert selector.select_backend(w) == "numpy"
    assert selector.decide(w).candidate("numpy").prediction.evidence == 0
    selector.execute_with_monitoring("s", None, lambda: 1, w)
    selector.record(w, "torch", seconds=1e-9)
    with selector.measure(w):
        pass
    selector.flush()
    assert sum(s.records for s in history.state.cells.values()) == before
    assert selector.get_performance_summary()["learning_enabled"] is False


def test_without_learning_a_backend_that_failed_is_kept_out_all_the_same(make, workload):
    selector, w = make(enable_learning=False), workload(10**5)
    selector.record(w, "numpy", seconds=0.1, failure=Failure.DRIVER)
    assert selector.select_backend(w) != "numpy"


def test_reset_clears_file_tables_and_choices(make, feed, workload, tmp_path, clock):
    path = tmp_path / "history.sqlite"
    history = History(path, background=False, clock=clock, monotonic=clock)
    selector, w, v = make(history=history, explore=0), workload(10**5), workload(10**5, operation="other")
    for each in (w, v):
        feed(selector, each, {"numpy": 2e-3, "torch": 1e-3})
        assert selector.select_backend(each) == "torch"
    selector.reset_performance_history("spectrogram")
    assert (selector.select_backend(w), selector.select_backend(v)) == ("numpy", "torch")
    assert selector.get_performance_summary()["total_records"] == 16
    selector.reset_performance_history()
    assert selector.select_backend(v) == "numpy"
    assert selector.get_performance_summary()["total_records"] == 0
    history.close()
    again = make(history=History(path, background=False, clock=clock), explore=0)
    assert again.select_backend(v) == "numpy"


def test_a_reset_by_another_process_takes_back_what_was_chosen(make, feed, workload, tmp_path, clock):
    path = tmp_path / "history.sqlite"
    history, others = (History(path, background=False, clock=clock, monotonic=clock) for _ in range(2))
    selector, w = make(history=history, explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 1e-3})
    assert selector.select_backend(w) == "torch"
    others.reset("spectrogram")
    others.close()
    selector.flush()
    assert selector.select_backend(w) == "numpy"
    assert selector.decide(w).rule == "default"
    history.close()


def test_an_unknown_failure_is_refused_with_those_that_there_are(make, workload):
    with pytest.raises(ValueError, match=r"failure='oom' is none; allowed are: .*out of memory"):
        make().record(workload(), "numpy", seconds=1.0, failure="oom")


def test_what_was_learned_is_there_in_the_next_process(make, feed, workload, tmp_path, clock):
    path = tmp_path / "history.sqlite"
    first = make(history=History(path, background=False, clock=clock, monotonic=clock), explore=0)
    feed(first, workload(10**5), {"numpy": 2e-3, "torch": 1e-3})
    first.history.close()
    second = make(history=History(path, background=False, clock=clock), explore=0)
    assert second.select_backend(workload(10**5)) == "torch"


def test_freeze_keeps_choices_and_thaw_lets_them_go(make, feed, workload):
    selector, w = make(), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 3e-3})
    before = selector.decide(w)
    selector.freeze()
    feed(selector, w, {"torch": 1e-4}, times=50)
    assert selector.decide(w) == before
    assert selector.get_performance_summary()["total_records"] == 66  # recorded all the same
    selector.thaw()
    assert selector.select_backend(w) == "torch"


def test_a_failing_backend_is_held_out_and_tried_again(make, feed, workload, clock):
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 1e-3})
    assert selector.select_backend(w) == "torch"
    selector.record(w, "torch", seconds=0.1, failure=Failure.DRIVER, message="lost")
    selector.flush()
    assert selector.select_backend(w) == "numpy"
    assert "failed once (driver: lost), tried again in" in dict(selector.decide(w).excluded)["torch"]
    clock.advance(1.5)
    feed(selector, workload(10), {"numpy": 1e-6}, times=1)  # any outcome lets due breakers be noticed
    assert selector.select_backend(w) == "torch"
    selector.record(w, "torch", seconds=0.1, failure=Failure.DRIVER, message="lost")
    clock.advance(0.5)
    feed(selector, workload(10), {"numpy": 1e-6}, times=1)
    assert selector.select_backend(w) == "numpy"  # the second wait is longer
    feed(selector, workload(10), {"numpy": 1e-6}, times=1)
    assert selector.select_backend(w) == "torch"
    assert selector.execute_with_monitoring("s", "torch", lambda: 7, w) == 7
    assert selector._engine.machine.breakers.why_closed_out(("spectrogram", "torch", "float64", "33")) is None
    assert not selector._engine.machine.breakers._open  # closed by the result, so the next wait is short again


def test_a_good_run_that_is_told_closes_the_breaker(make, workload, clock):
    selector, w = make(explore=0), workload(10**5)
    for _ in range(3):
        selector.record(w, "torch", seconds=0.1, failure=Failure.DRIVER)
        assert "tried again in 1.0 s" in dict(selector.decide(w).excluded)["torch"]  # the first wait each time
        clock.advance(1.5)
        selector.record(w, "torch", seconds=1e-3)


def test_a_failure_holds_for_its_size_class_and_dtype_only(make, feed, workload):
    selector = make(explore=0)
    for size in (100, 10**5):
        feed(selector, workload(size), {"numpy": 2e-3, "torch": 1e-3})
    selector.record(workload(10**5), "torch", seconds=0.1, failure=Failure.DRIVER)
    assert selector.select_backend(workload(10**5)) == "numpy"
    assert selector.select_backend(workload(100)) == "torch"


def test_out_of_memory_keeps_larger_ones_out_too(make, workload, clock):
    selector = make(explore=0)
    selector.record(workload(10**8), "numpy", seconds=0.1, failure=Failure.OUT_OF_MEMORY, message="no room")
    assert "numpy" in dict(selector.decide(workload(4 * 10**8)).excluded)
    assert "numpy" in selector.decide(workload(10**6)).chain


def test_explaining_a_thousand_times_changes_nothing(make, feed, workload, history):
    selector, w = make(), workload(10**6)
    feed(selector, w, {"numpy": 0.05}, times=400)
    first = selector.decide(w)
    assert first.trial is not None
    for _ in range(1000):
        selector.select_backend(w)
        selector.decide(w)
        selector.explain(w)
    assert selector.decide(w) == first
    selector._drop_tables()
    assert selector.decide(w) == first  # made anew from the same evidence
    assert not history.buffer
    assert "trials" not in history.ledger


def test_a_wish_for_one_call_binds_no_other(make, feed, workload):
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 3e-3, "scipy": 1.02e-3, "torch": 1e-3})
    assert selector.select_backend(w) == "scipy"
    for _ in range(3):
        assert selector.select_backend(w, "torch") == "torch"
    selector._drop_tables()
    assert selector.select_backend(w) == "scipy"


def test_recorded_seconds_must_make_sense(make, workload):
    selector = make()
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds must be finite"):
            selector.record(workload(), "numpy", seconds=wrong)
    with pytest.raises(ValueError, match="no backend is called 'numpi'"):
        selector.record(workload(), "numpi", seconds=1.0)
    with pytest.raises(ValueError, match="lost"):
        selector.record(workload(), "numpy", seconds=1.0, failure="lost")


def test_measure_records_the_block_and_typed_failures_only(make, workload):
    selector, w = make(), workload()
    with selector.measure(w) as backend:
        assert backend == "numpy"
    with pytest.raises(MemoryError), selector.measure(w):
        raise MemoryError("full")
    with pytest.raises(KeyError), selector.measure(w):
        raise KeyError("mine")
    summary = selector.get_performance_summary()
    found = summary["operations"]["spectrogram"][0]["variants"]["numpy"]
    assert (found["count"], found["failures"]) == (1, {"out of memory": 1})


def test_the_summary_is_json_and_adds_up(make, feed, workload):
    selector = make()
    feed(selector, workload(10**5), {"numpy": 2e-3, "torch": 1e-3}, times=10)
    feed(selector, workload(10), {"numpy": 1e-6}, times=15)
    found = json.loads(json.dumps(selector.get_performance_summary()))
    assert found["total_records"] == 35
    assert len(found["recent_backends"]) == 10
    assert found["mode"] == "select"
    torch = next(c for c in found["operations"]["spectrogram"] if "torch" in c["variants"])
    assert torch["saved_s"] == pytest.approx(10 * 1e-3, rel=0.1)  # ten times 1 ms instead of 2
    assert torch["lost_s"] == pytest.approx(10 * 1e-3, rel=0.1)  # and ten times 2 ms instead of 1
    assert found["exploration"]["share"] == 0.02


def test_a_selector_needs_no_arguments_and_survives_being_dropped():
    selector = IntelligentBackendSelector(history=":memory:")
    history = selector.history
    alive = weakref.ref(selector)
    del selector
    gc.collect()
    assert alive() is None  # a history that outlives it does not keep it
    history.flush()


def test_what_earlier_processes_called_often_is_worth_an_import_from_the_start(
    make, feed, workload, history, libraries
):
    """The calls still expected are those of this process, or those that a process usually makes."""
    libraries()  # nothing is imported in this process
    w = workload(10**6)
    feed(make(), w, {"numpy": 1e-2, "torch": 1e-3}, times=2000)
    fresh = make(explore=0)
    assert history.ledger["processes"] == 1.0
    assert fresh.decide(w).variant == "torch"
    assert fresh.decide(workload(10**6, expected_calls=1)).variant == "numpy"  # who says otherwise is believed
