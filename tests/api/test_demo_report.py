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
    "humidity, 2 000 surrogates": {"numpy": 0.5, "torch": 0.1, "torch/1-thread": 0.2, "jax/fft": 0.25,
                                   "pointsman": 0.11},
}  # fmt: skip


def job(title: str, calls: int) -> SimpleNamespace:
    return SimpleNamespace(
        title=title, calls=calls, explain=lambda: SimpleNamespace(variant="scipy/overlap-add", default="numpy")
    )


JOBS = [job("small", 100), job("humidity, 2 000 surrogates", 10)]


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
    for part in (
        "scipy/overlap-add",
        "100 ms",
        "humidity, 2 000 surrogates",
        "oracle",
        "always torch",
        ":memory:",
        "5.100",
    ):
        assert part in text


def test_the_default_is_timed_however_slow_it_is():
    low = {"numpy/fft": 1.0, "numpy/direct": 9.0, "jax": 0.1}
    candidates = {name: SimpleNamespace(prediction=SimpleNamespace(low=seconds)) for name, seconds in low.items()}
    choice = SimpleNamespace(decision=SimpleNamespace(candidate=candidates.get, default="numpy/fft"))
    assert [name for name in low if demo._worth_timing(choice, name)] == ["numpy/fft", "jax"]
