"""What a selection costs: known workloads, the forms to ask in, and telling an outcome."""

from __future__ import annotations

import statistics

import numpy as np
import pointsman as pm

from .baselines import SizeBlindRule, Work
from .report import Row
from .timing import Case, Effort, confirm, interleaved, quantile, single_calls

PART = "selecting"
BASES = ("an empty call", "a dict lookup", "the size-blind rule")
SLOW_S, FAST_S = 0.02, 0.01


def nothing() -> None:
    """The empty call that others are compared to."""


def bench(selector: pm.IntelligentBackendSelector, effort: Effort) -> tuple[list[Row], dict[str, float]]:
    """Rows, and the seconds of what ratios refer to. `selector` is the shared one, on a history of its own."""
    workload = learned_workload(selector)
    cases = [*_bases(), *_cases(selector, workload)]
    blocks = interleaved(cases, effort)
    medians = {name: statistics.median(values) for name, values in blocks.items()}
    known = next(case for case in cases if case.name == "select_backend(workload), learned")
    calls, clock = single_calls(known, effort)
    p99, clock_p99 = quantile(calls, 0.99) * 1e9, quantile(clock, 0.99) * 1e9
    rows = [
        Row(PART, known.name, medians[known.name], target_s=3e-7),
        Row(
            PART, known.name, p99 * 1e-9, "p99", 1e-6, f"each call timed alone; the clock itself has {clock_p99:.0f} ns"
        ),
        Row(PART, "pm.select_backend(operation, shape)", medians["pm.select_backend(operation, shape)"]),
        Row(
            PART, "WorkloadCharacteristics(...)", medians["WorkloadCharacteristics(...)"], note="four fields, validated"
        ),
        Row(PART, "WorkloadCharacteristics.of(name, x)", medians["WorkloadCharacteristics.of(name, x)"]),
        Row(PART, "selector.record(...)", medians["selector.record(...)"], target_s=1e-6),
    ]
    return rows, {name: medians[name] for name in BASES}


def learned_workload(selector: pm.IntelligentBackendSelector) -> pm.WorkloadCharacteristics:
    """A workload that was measured on two backends, so that the choice is a learned one."""
    # An operation of the user's own: of a kernel, shipped curves may expect a third backend to be quicker still.
    workload = pm.WorkloadCharacteristics(operation_type="transform", data_shape=(1000, 1000), expected_calls=100_000)
    for _ in range(30):
        selector.record(workload, "numpy", seconds=SLOW_S)
        selector.record(workload, "scipy", seconds=FAST_S)
    selector.flush()
    decision = selector.decide(workload)
    confirm("select_backend", decision.rule == "learned" and decision.backend == "scipy", decision.reason)
    return workload


def _bases() -> list[Case]:
    blind, work, table = SizeBlindRule(("numba", "torch", "jax")), Work("fft", 1_000_000), {("fft", 20): "scipy"}
    for backend, seconds in (("numba", SLOW_S), ("torch", FAST_S), ("jax", SLOW_S)):
        for _ in range(5):
            blind.record(backend, "fft", seconds)
    return [
        Case(BASES[0], "nothing()", {"nothing": nothing}, lambda: nothing() is None),  # type: ignore[func-returns-value]
        Case(BASES[1], "table[key]", {"table": table, "key": ("fft", 20)}, lambda: table[("fft", 20)] == "scipy"),
        Case(BASES[2], "rule.select(work)", {"rule": blind, "work": work}, lambda: blind.select(work) == "torch"),
    ]


def _cases(selector: pm.IntelligentBackendSelector, workload: pm.WorkloadCharacteristics) -> list[Case]:
    x = np.ones(64)
    other = pm.WorkloadCharacteristics(operation_type="bench_record", data_size=1000)  # refits nothing that is timed
    before = selector.history.dropped
    made = "W(operation_type='fft', data_size=1_000_000, data_shape=(1000, 1000), dtype='float64')"
    names = {"selector": selector, "workload": workload, "other": other, "pm": pm, "x": x}
    names["W"] = pm.WorkloadCharacteristics
    return [
        Case("select_backend(workload), learned", "selector.select_backend(workload)", names,
             lambda: selector.select_backend(workload) == selector.decide(workload).backend == "scipy"),
        Case("pm.select_backend(operation, shape)", "pm.select_backend('fft', (1000, 1000))", names,
             lambda: pm.select_backend("fft", (1000, 1000)) == selector.decide(_plain()).backend),
        Case("WorkloadCharacteristics(...)", made, names, lambda: eval(made, dict(names)) == _plain()),
        Case("WorkloadCharacteristics.of(name, x)", "W.of('fft', x)", names,
             lambda: pm.WorkloadCharacteristics.of("fft", x).shapes == ((64,),)),
        Case("selector.record(...)", "selector.record(other, 'scipy', seconds=0.01)", names,
             lambda: _records(selector, other) and selector.history.dropped == before),
    ]  # fmt: skip


def _plain() -> pm.WorkloadCharacteristics:
    return pm.WorkloadCharacteristics(operation_type="fft", data_shape=(1000, 1000))


def _records(selector: pm.IntelligentBackendSelector, workload: pm.WorkloadCharacteristics) -> bool:
    def count() -> int:
        return sum(s.records for s in selector.history.state.cells.values())

    selector.flush()
    before = count()
    selector.record(workload, "scipy", seconds=FAST_S)
    selector.flush()
    return count() == before + 1
