"""What the demo prints at its end fits the terminal, and its sums are right."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pointsman as pm
import pytest
from pointsman import demo, demo_report
from pointsman.selector import settings, shared
from rich.console import Console

TIMES = {
    "small": {"numpy": 1e-3, "torch": 4e-3, "pointsman": 1e-3},
    "large, of a long name": {"numpy": 0.5, "torch": 0.1, "torch/1-thread": 0.2, "jax/fft": 0.25, "pointsman": 0.11},
}  # fmt: skip


def job(title: str, calls: int) -> SimpleNamespace:
    return SimpleNamespace(
        title=title, calls=calls, explain=lambda: SimpleNamespace(variant="torch/1-thread", default="numpy")
    )


JOBS = [job("small", 100), job("large, of a long name", 10)]


@pytest.fixture
def selector(monkeypatch):
    selector = pm.IntelligentBackendSelector(history=":memory:", settings=settings.Settings())
    monkeypatch.setattr(shared, "_shared", selector)
    return selector


def test_each_policy_is_charged_for_all_calls():
    rows = {name: (seconds, note) for name, seconds, note in demo_report.totals(JOBS, TIMES)}
    found = {name.removeprefix("always "): pytest.approx(seconds) for name, (seconds, _) in rows.items()}
    assert found == {
        "oracle, the best each time": 0.1 + 1.0, "pointsman, learned": 0.1 + 1.1, "numpy": 0.1 + 5.0,
        "torch": 0.4 + 1.0, "jax": 0.1 + 2.5,
    }  # fmt: skip
    assert rows["always jax"][1] == "lacks 1 of 2 jobs"
    assert rows["always numpy"][1] == ""


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_fits_the_terminal_and_cuts_nothing(selector, width):
    out = io.StringIO()
    ran = {"calls": JOBS, "seconds": np.array([0.2, 0.3]), "cut": 1}
    demo_report.report(Console(file=out, width=width), JOBS, ran, TIMES, dict.fromkeys(TIMES, "numpy"), 0)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for part in ("torch/1-thread", "large, of a long name", "oracle", "always torch", ":memory:", "5.100"):
        assert part in text


def test_every_backend_is_timed_where_its_best_variant_is_slow():
    def candidate(variant: str, seconds: float) -> SimpleNamespace:
        return SimpleNamespace(
            variant=variant, backend=variant.partition("/")[0], prediction=SimpleNamespace(mean_s=seconds, low=seconds)
        )

    slow = [candidate("numpy/fft", 1.0), candidate("numpy/direct", 9.0), candidate("torch", 5.0), candidate("jax", 0.1)]
    choice = SimpleNamespace(decision=SimpleNamespace(candidates=slow, default="numpy/fft"))
    timed = [c.variant for c in slow if demo._worth_timing(choice, c.variant)]
    assert timed == ["numpy/fft", "torch", "jax"]
