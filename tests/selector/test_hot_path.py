"""What stays off the caller's path: deciding anew after learning, inspecting functions, another scope's choices."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pointsman as pm
import pytest
from pointsman.selector.base import Question, Ranking
from pointsman.selector.policy import ValueOfInformation
from pointsman.telemetry.history import History


class Counting(ValueOfInformation):
    """The built-in policy, counting its answers."""

    def __init__(self) -> None:
        self.asked = 0

    def rank(self, question: Question) -> Ranking:
        self.asked += 1
        return super().rank(question)


@pytest.fixture
def policy() -> Counting:
    return Counting()


@pytest.fixture
def selector(policy: Counting) -> pm.IntelligentBackendSelector:
    return pm.IntelligentBackendSelector(history=History(None, background=False), policy=policy)


def test_a_known_workload_is_decided_anew_by_the_flusher_not_by_the_next_caller(
    selector: pm.IntelligentBackendSelector, policy: Counting
) -> None:
    workload = pm.WorkloadCharacteristics(operation_type="sum_up", data_size=1000, expected_calls=100_000)
    assert selector.select_backend(workload) == "numpy"
    for _ in range(30):
        selector.record(workload, "numpy", seconds=2e-2)
        selector.record(workload, "scipy", seconds=1e-2)
    selector.flush()
    before = policy.asked
    assert selector.select_backend(workload) == "scipy"
    assert selector.decide(workload).rule == "learned"
    assert policy.asked == before


def test_settings_changed_meanwhile_win_over_a_choice_made_anew(
    selector: pm.IntelligentBackendSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = pm.WorkloadCharacteristics(operation_type="sum_up", data_size=1000)
    selector.select_backend(workload)
    adopt = selector._engine.adopt
    before = pm.configure().prefer

    def slowly(choice: Any) -> None:
        adopt(choice)
        pm.configure(prefer="scipy")

    try:
        monkeypatch.setattr(selector._engine, "adopt", slowly)
        selector.record(workload, "numpy", seconds=1e-3)
        selector.flush()
        monkeypatch.undo()
        assert selector.select_backend(workload) == "scipy"
    finally:
        pm.configure(prefer=before)


def test_a_flush_within_a_scope_leaves_nothing_of_the_scope_behind(selector: pm.IntelligentBackendSelector) -> None:
    @pm.adaptive(name="scoped_flush", selector=selector)
    def same(x: Any, *, xp: Any = None) -> Any:
        return x

    x = np.ones(4)
    for _ in range(5):
        same(x)
    with pm.use("numpy"):
        selector.flush()
    for _ in range(5):
        same(x)
    selector.flush()
    rules: Counter[str] = Counter()
    for (cell, _), sketch in selector.history.state.cells.items():
        rules.update(sketch.chosen if cell.operation == "scoped_flush" else {})
    assert rules.total() == 10
    assert "required" not in rules


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_functions_behind_one_decorator_are_told_apart(selector: pm.IntelligentBackendSelector) -> None:
    workload = pm.WorkloadCharacteristics(operation_type="decorated", data_size=4)

    @logged
    def takes(backend: str) -> str:
        return f"on {backend}"

    @logged
    def plain() -> str:
        return "plain"

    for _ in range(2):
        assert selector.execute_with_monitoring("label", "numpy", takes, workload) == "on numpy"
        assert selector.execute_with_monitoring("label", "numpy", plain, workload) == "plain"


def test_objects_that_can_be_called_are_inspected_once(
    selector: pm.IntelligentBackendSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pointsman.selector import monitor

    class Task:
        def __call__(self, backend: str) -> str:
            return backend

    inspected: list[Any] = []
    monkeypatch.setattr(monitor, "_has_backend", lambda func: not inspected.append(func))
    workload, task = pm.WorkloadCharacteristics(operation_type="object", data_size=4), Task()
    for _ in range(3):
        assert selector.execute_with_monitoring("label", "numpy", task, workload) == "numpy"
    assert inspected == [task]
