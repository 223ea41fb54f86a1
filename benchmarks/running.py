"""What running through pointsman costs beyond the bare call."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pointsman as pm

from .report import Row
from .timing import Case, Effort, difference, interleaved

PART = "running"
KNOWN_AFTER = 300  # calls after which every entry samples
MONITORED_S, CALL_S, BOUND_S = 2e-6, 3e-6, 5e-8
NEW_SHAPE_S = 1e-5  # "a few microseconds" in the design; the number is ours


@pm.adaptive(name="bench_one")
def one(x: Any, *, xp: Any = None) -> Any:  # noqa: ARG001
    """One array in, the same out: what is left is the call."""
    return x


@pm.adaptive(name="bench_each")
def each(x: Any, *, xp: Any = None) -> Any:  # noqa: ARG001
    """As `one`; made to record every call."""
    return x


@pm.adaptive(name="bench_two")
def two(x: Any, y: Any, *, xp: Any = None) -> Any:  # noqa: ARG001
    """Two arrays."""
    return x


def bench(selector: pm.IntelligentBackendSelector, effort: Effort) -> list[Row]:
    """Rows of `execute_with_monitoring`, `@adaptive`, `bind` and `run`; `selector` is the shared one."""
    import torch

    x = np.arange(32.0)
    monitored, monitored_rows = _monitored(selector)
    called, called_rows = _called(selector, x, torch.arange(32, dtype=torch.float64))
    selector.freeze()  # choices stay put while they are timed, as they do once learning is over
    try:
        for entry in each._dispatcher()._entries.values():
            entry.stride = 1  # what calls of 0.2 ms and more have
        blocks = interleaved([*monitored, *called], effort)
    finally:
        selector.thaw()
        selector.flush()
    rows = [
        Row(PART, name, difference(blocks, case, bare), "median", target, note)
        for name, case, bare, target, note in (*monitored_rows, *called_rows)
    ]
    recording = Row(
        PART, "recording inside a call", difference(blocks, "each(x)", "one(x)"), "median", 1e-6,
        "a recorded call over a sampled-out one: two clock readings and the outcome",
    )  # fmt: skip
    return [*rows, recording]


def _monitored(selector: pm.IntelligentBackendSelector) -> tuple[list[Case], list[tuple[Any, ...]]]:
    """`execute_with_monitoring` with each form of function, learning on and off."""
    workload = pm.WorkloadCharacteristics(operation_type="bench_closure", data_size=1)
    unlearned = pm.IntelligentBackendSelector(enable_learning=False)
    answer = object()

    def closure() -> object:
        return answer

    def takes(backend: str) -> object:  # noqa: ARG001
        return answer

    forms: tuple[tuple[str, Any, str], ...] = (
        ("closure", closure, "closure()"),
        ("mapping", {"numpy": closure}, "closure()"),
        ("takes backend", takes, "takes(backend='numpy')"),
    )
    cases = [
        Case("bare closure()", "closure()", {"closure": closure}, lambda: closure() is answer),
        Case("bare takes(backend='numpy')", "takes(backend='numpy')", {"takes": takes},
             lambda: takes(backend="numpy") is answer),
    ]  # fmt: skip
    rows = []
    for form, func, bare in forms:
        for learning, who in (("on", selector), ("off", unlearned)):
            name = f"execute_with_monitoring, {form}, learning {learning}"
            names = {"run": who.execute_with_monitoring, "func": func, "workload": workload}

            def right(func: Any = func, who: pm.IntelligentBackendSelector = who) -> bool:
                return who.execute_with_monitoring("label", "numpy", func, workload) is answer

            cases.append(Case(name, "run('label', 'numpy', func, workload)", names, right))
            rows.append((name, name, f"bare {bare}", MONITORED_S if learning == "on" else None, "over the bare call"))
    return cases, rows


def _called(selector: pm.IntelligentBackendSelector, x: Any, t: Any) -> tuple[list[Case], list[tuple[Any, ...]]]:
    """`@adaptive`, `bind` and `run`, each next to the function that was chosen."""
    total = float((x * x).sum())
    for _ in range(2):  # choices are made anew after what the first calls have taught
        for _ in range(KNOWN_AFTER):
            one(x), each(x), two(x, x), one(t), pm.run("reduction", x)
        selector.flush()
    names: dict[str, Any] = {
        "one": one, "two": two, "each": each, "x": x, "t": t, "run": pm.run,
        "chosen": _chosen(one, x), "chosen_two": _chosen(two, x, x), "chosen_torch": _chosen(one, t),
        "bound": one.bind(x), "bound_run": selector.dispatcher("reduction").bind(x),
    }  # fmt: skip
    long = np.zeros(60_000)
    shapes = cycle([long[:n] for n in range(30_000, 60_000)])  # each comes round a few times at most
    names["shapes"] = shapes
    checks: dict[str, Callable[[], bool]] = {
        "one(x)": lambda: one(x) is names["chosen"](x),
        "each(x)": lambda: each(x) is x,
        "two(x, x)": lambda: two(x, x) is names["chosen_two"](x, x),
        "one(t)": lambda: one(t) is names["chosen_torch"](t),
        "chosen(x)": lambda: one.explain(x).backend == "numpy" and names["chosen"](x) is x,
        "chosen_two(x, x)": lambda: names["chosen_two"](x, x) is x,
        "chosen_torch(t)": lambda: one.explain(t).backend == "torch" and names["chosen_torch"](t) is t,
        "one(next(shapes))": lambda: one(view := next(shapes)) is view,
        "chosen(next(shapes))": lambda: names["chosen"](view := next(shapes)) is view,
        "bound(x)": lambda: names["bound"](x) is one(x),
        "run('reduction', x)": lambda: abs(pm.run("reduction", x) - total) <= 1e-12 * total,
        "bound_run(x)": lambda: names["bound_run"](x) == pm.run("reduction", x),
    }
    cases = [Case(statement, statement, names, check) for statement, check in checks.items()]
    rows = [
        (
            "@adaptive, one NumPy array",
            "one(x)",
            "chosen(x)",
            CALL_S,
            "over the chosen function; known, so mostly untimed",
        ),
        ("@adaptive, one array, each call recorded", "each(x)", "chosen(x)", CALL_S, "as calls above 0.2 ms are"),
        ("@adaptive, two NumPy arrays", "two(x, x)", "chosen_two(x, x)", CALL_S, ""),
        ("@adaptive, one torch tensor", "one(t)", "chosen_torch(t)", CALL_S, ""),
        (
            "@adaptive, a new shape each time",
            "one(next(shapes))",
            "chosen(next(shapes))",
            NEW_SHAPE_S,
            "by its size class, after the class's first call",
        ),
        ("f.bind(x)", "bound(x)", "chosen(x)", BOUND_S, "over the plain call"),
        ("pm.run('reduction', x)", "run('reduction', x)", "bound_run(x)", CALL_S, "over the bound variant"),
    ]
    return cases, rows


def _chosen(function: Any, *args: Any) -> Callable[..., Any]:
    """The chosen variant as its author would call it."""
    decision = function.explain(*args)
    variant: Callable[..., Any] = function.operation.variant(decision.variant).load()
    return variant
