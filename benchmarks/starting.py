"""What starting costs: imports, first decisions, reading a long history; and recording without pause."""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pointsman as pm
from pointsman.executors.table import BACKENDS
from pointsman.selector.constraints import variants_of
from pointsman.selector.operations import find
from pointsman.selector.traffic import REFIT_GROWTH
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site

from .report import Row
from .timing import Effort, confirm, quantile

PART = "starting"
OPERATIONS = ("fft", "matmul", "conv", "derivative", "reduction", "never_heard_of")

FRESH = """
import json, os, sys, time
start = time.perf_counter()
import numpy
from pydantic import BaseModel
class Model(BaseModel):  # most of pydantic loads with the first model
    x: int
base = time.perf_counter()
import pointsman as pm
pm.IntelligentBackendSelector, pm.WorkloadCharacteristics, pm.adaptive, pm.run
loaded = time.perf_counter()
selector = pm.IntelligentBackendSelector(history=os.environ["HISTORY_HERE"])
workload = pm.WorkloadCharacteristics(operation_type="fft", data_shape=(1000, 1000))
before, at = set(sys.modules), time.perf_counter()
backend = selector.select_backend(workload)
first = time.perf_counter() - at
new = sorted(set(sys.modules) - before)
print(json.dumps({"base": base - start, "ours": loaded - base, "first": first, "new": new, "backend": backend,
    "loaded": [name for name in sys.argv[1:] if name in sys.modules]}))
"""


def bench(selector: pm.IntelligentBackendSelector, effort: Effort, folder: Path) -> list[Row]:
    """Rows; `selector` is the shared one, `folder` takes the files that are made."""
    return [
        *_fresh(effort, folder),
        *_unknown(effort, folder),
        _long_history(effort, folder),
        *_tight(selector, effort),
    ]


def _fresh(effort: Effort, folder: Path) -> list[Row]:
    """Import and first decision in fresh interpreters, which must load no backend but numpy."""
    others = [row.library for name, row in BACKENDS.items() if name != "numpy"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("POINTSMAN_", "PYTHONDONTWRITE"))}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")  # an installed package is compiled already
    runs: list[dict[str, Any]] = []
    for n in range(effort.processes + 1):
        environment["HISTORY_HERE"] = str(folder / f"fresh{n}.sqlite")
        done = subprocess.run(
            [sys.executable, "-c", FRESH, *others], env=environment, check=True, capture_output=True, text=True
        )
        runs.append(json.loads(done.stdout))
        confirm("import pointsman", runs[-1]["loaded"] == [], runs[-1]["loaded"])
        confirm("first decision of a process", runs[-1]["backend"] in BACKENDS, runs[-1]["backend"])
    runs = runs[1:]  # the first one compiles
    middle = {key: statistics.median(run[key] for run in runs) for key in ("base", "ours", "first")}
    foreign = sorted(
        {name.partition(".")[0] for name in runs[-1]["new"]} - set(sys.stdlib_module_names) - {"pointsman"}
    )
    note = f"loads modules of: {', '.join(foreign) or 'nothing foreign'}; reads shipped priors, opens the history"
    return [
        Row(PART, "import pointsman and its main names, all in", middle["base"] + middle["ours"], target_s=0.15,
            note=f"fresh interpreter, compiled; numpy and a pydantic model alone {middle['base'] * 1e3:.0f} ms"),
        Row(PART, "the same beyond numpy and a pydantic model", middle["ours"]),
        Row(PART, "first decision of a process", middle["first"], note=note),
    ]  # fmt: skip


def _unknown(effort: Effort, folder: Path) -> list[Row]:
    """Decisions on workloads never seen, in a running process: nothing known, and everything else known."""
    rows = []
    for name, learned in (("nothing measured", False), ("its operation measured", True)):
        history = History(folder / "learned.sqlite" if learned else None, background=False)
        if learned:
            _fill(history, 20 * effort.cells, effort.cells, effort.rng)
        selector = pm.IntelligentBackendSelector(history=history)
        for operation in OPERATIONS:  # the kernels' own modules, and the fits of what was measured
            selector.decide(_workload(operation, 7))
        modules, seconds = set(sys.modules), []
        for n, operation in zip(range(effort.decisions), itertools.cycle(OPERATIONS), strict=False):
            seconds.append(_decision(selector, _workload(operation, 1000 + 3 * n)))
        new = set(sys.modules) - modules
        confirm("first decision on an unknown workload", not new, sorted(new)[:3])
        rows += _median_and_p99(f"first decision on an unknown workload, {name}", seconds, "no module was imported")
        if learned:
            rows += _refitted(selector, effort)
        history.close()
    return rows


def _refitted(selector: pm.IntelligentBackendSelector, effort: Effort) -> list[Row]:
    """The next decision on a known workload after enough news that its operation's curves are fitted anew."""
    seconds = []
    for operation in OPERATIONS:
        workload, told = _workload(operation, 7), 1
        for _ in range(max(1, effort.decisions // 25)):
            before = selector.decide(workload).table
            for _ in range(int(REFIT_GROWTH * told) + 1):  # as much news as it takes
                selector.record(workload, "numpy", seconds=1e-5)
                told += 1
            selector.flush()
            seconds.append(_decision(selector, workload))
            confirm("decision after a refit", selector.decide(workload).table > before)
    return _median_and_p99(
        "next decision after its operation was learned anew", seconds, "decided again behind the caller"
    )


def _decision(selector: pm.IntelligentBackendSelector, workload: pm.WorkloadCharacteristics) -> float:
    started = time.perf_counter()
    backend = selector.select_backend(workload)
    seconds = time.perf_counter() - started
    confirm("first decision", backend == selector.decide(workload).backend)
    return seconds


def _median_and_p99(name: str, seconds: list[float], note: str) -> list[Row]:
    target = 1e-3 if "unknown" in name else None
    return [
        Row(PART, name, statistics.median(seconds), target_s=target, note=note),
        Row(PART, name, quantile(sorted(seconds), 0.99), "p99", target),
    ]


def _workload(operation: str, n: int) -> pm.WorkloadCharacteristics:
    shapes = {"matmul": ((n, 64), (64, n)), "conv": ((n,), (15,))}.get(operation, ((n,),))
    parameters = {"order": 0.5} if operation == "derivative" else None
    return pm.WorkloadCharacteristics(operation_type=operation, shapes=shapes, parameters=parameters)


def _long_history(effort: Effort, folder: Path) -> Row:
    """Open a file that a million outcomes went into."""
    path = folder / "long.sqlite"
    history = History(path, background=False)
    _fill(history, effort.outcomes, effort.cells, effort.rng)
    total = sum(sketch.records for sketch in history.state.cells.values())
    history.close()
    seconds = []
    for _ in range(effort.processes):
        started = time.perf_counter()
        again = History(path, background=False)
        seconds.append(time.perf_counter() - started)
        found = sum(sketch.records for sketch in again.state.cells.values())
        confirm("load a history", found == total == effort.outcomes, f"{found} of {effort.outcomes} outcomes")
        again.close()
    size = path.stat().st_size / 2**20
    note = f"{effort.outcomes:,} outcomes in {len(again.state.cells):,} sketches; file {size:.0f} MiB with the log"
    return Row(PART, "load a history of a million outcomes", statistics.median(seconds), target_s=0.05, note=note)


def _fill(history: History, outcomes: int, cells: int, rng: random.Random) -> None:
    """Put outcomes spread evenly over cells into a history, as a long life would, in batches."""
    pairs = [(name, variant.name) for name in OPERATIONS for variant in variants_of(find(name), ())]
    sites = []
    for n, (operation, variant) in zip(range(cells), itertools.cycle(pairs), strict=False):
        level = n // len(pairs)
        size, detail = 1 << (4 + level % 20), f"order={level // 20}" if level >= 20 else ""
        sites.append(Site(operation, variant, "float64", str(2 * (size.bit_length() - 1)), detail, float(size), size))
    confirm("fill a history", len({site.cell for site in sites}) == cells)
    now = history.now()
    waiting = []
    for n in range(outcomes):
        site = sites[n % cells]
        usual = 1e-6 + site.size * 1e-9
        waiting.append(Outcome(site, now - (outcomes - n) * 0.1, usual * rng.lognormvariate(0.0, 0.2), rule="learned"))
        if len(waiting) == 50_000 or n == outcomes - 1:
            history.buffer.extend(waiting)
            history.flush()
            waiting.clear()


def _tight(selector: pm.IntelligentBackendSelector, effort: Effort) -> list[Row]:
    """Record as fast as a loop can, with the flusher at work behind it."""
    workload = pm.WorkloadCharacteristics(operation_type="bench_tight", data_size=1000)
    history, record, count = selector.history, selector.record, effort.tight_loop
    record(workload, "numpy", seconds=1e-6)
    selector.flush()
    dropped, before = history.dropped, _tight_records(history)
    started, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        record(workload, "numpy", seconds=1e-6)
    took = time.perf_counter() - started
    selector.flush()
    whole = time.process_time() - processor
    kept, counted = _tight_records(history) - before, history.dropped - dropped
    confirm("recording in a tight loop", 0 < kept <= count - counted, f"{kept} kept + {counted} dropped of {count}")
    lost = count - kept
    fate = f"{lost:,} of {count:,} dropped" + (f", {lost - counted:,} of them uncounted" if lost > counted else "")
    return [
        Row(PART, "recording in a tight loop", took / count, "mean", note=f"{count / took:,.0f} outcomes/s; {fate}"),
        Row(PART, "the same, all threads, learned and on disk", whole / kept, "mean",
            note="processor time for each outcome kept"),
    ]  # fmt: skip


def _tight_records(history: History) -> int:
    return sum(sketch.records for (cell, _), sketch in history.state.cells.items() if cell.operation == "bench_tight")
