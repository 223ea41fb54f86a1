"""The summary is plain data and its sums are right."""

from __future__ import annotations

import json

import pytest
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Failure
from pointsman.telemetry.summary import summarize


@pytest.fixture
def history(outcome):
    history = History.open(":memory:", background=False)
    for i in range(10):
        history.record(outcome(0.010, 1.7e9 + i, rule="rules"))
    for i in range(10):
        context = "busy" if i % 2 else "quiet"
        history.record(outcome(0.004, 1.7e9 + i, variant="torch", rule="learned", calls=3, context=context))
    history.record(outcome(2.0, variant="torch", import_s=1.5, compile_s=0.5, rule="explore"))
    history.record(outcome(0.0, variant="jax", failure=Failure.OUT_OF_MEMORY, message="no room"))
    history.record(outcome(0.5, 1.7e9 + 99, operation="solve", variant="scipy", dtype="float32"))
    history.add_ledger("explored_s", 0.25)
    history.flush()
    return history


def test_it_is_json_and_tells_each_variant_apart(history):
    summary = summarize(history, {"fft": "numpy"}.get)
    assert json.loads(json.dumps(summary)) == summary
    (size_class,) = summary["operations"]["fft"]
    variants = size_class["variants"]
    assert (size_class["dtype"], size_class["shape_class"], size_class["default"]) == ("float64", "20", "numpy")
    torch = variants["torch"]
    assert (torch["count"], torch["measured"], torch["cold_count"], torch["cold_s"]) == (30, 10, 1, 2.0)
    assert torch["typical_s"] == torch["mean_s"] == pytest.approx(0.004)
    assert torch["rules"] == {"learned": 30, "explore": 1}
    assert torch["share"] == pytest.approx(31 / 42)
    assert variants["jax"]["failures"] == {"out of memory": 1}
    assert variants["jax"]["last_failure"] == "no room"
    assert variants["jax"]["typical_s"] is None
    assert summary["total_records"] == 23
    assert summary["exploration"] == {"explored_s": 0.25}
    assert summary["history"] == {"location": ":memory:", "status": "memory (as asked)", "dropped": 0}
    assert set(summary["devices"]) >= {"cpu", "cores", "memory_gib", "gpus"}


def test_saved_and_lost_seconds(history):
    summary = summarize(history, {"fft": "numpy"}.get)
    assert summary["saved_s"] == pytest.approx(30 * (0.010 - 0.004))
    assert summary["lost_s"] == pytest.approx(10 * (0.010 - 0.004))


def test_nothing_counts_as_saved_where_the_default_was_not_measured(history):
    assert summarize(history, {}.get)["saved_s"] == 0.0
    assert summarize(history, {"fft": "scipy", "solve": "numpy"}.get)["saved_s"] == 0.0


def test_the_last_ten_choices_are_listed_in_order(history):
    recent = summarize(history, {}.get)["recent_backends"]
    assert len(recent) == 10
    assert recent[-1] == {"variant": "scipy", "operation": "solve", "seconds": 0.5, "when": 1.7e9 + 99}


def test_an_empty_history_has_a_summary():
    summary = summarize(History.open(":memory:", background=False), {}.get, ["explored_s"])
    assert (summary["total_records"], summary["operations"], summary["saved_s"]) == (0, {}, 0.0)
    assert summary["exploration"] == {"explored_s": 0.0}


def test_noise_of_the_only_variant_is_no_loss(outcome):
    history = History.open(":memory:", background=False)
    for i in range(20):
        history.record(outcome(0.010 if i % 3 else 0.013, 1.7e9 + i))
    history.flush()
    summary = summarize(history, {"fft": "numpy"}.get)
    assert (summary["saved_s"], summary["lost_s"]) == (0.0, 0.0)


def test_imports_stand_apart(history, outcome):
    before = summarize(history, {}.get)
    for seconds in (2.0, 4.0):
        history.record(outcome(seconds, operation="import", variant="torch", dtype="", import_s=seconds))
    history.flush()
    summary = summarize(history, {}.get)
    assert summary["imports"] == {"torch": {"count": 2, "seconds": 3.0}}
    for name in ("operations", "total_records", "recent_backends", "saved_s", "lost_s"):
        assert summary[name] == before[name]
