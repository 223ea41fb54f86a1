"""What ``backend="auto"`` chooses, beside every backend named outright: in fresh processes, and once all is warm.

Cold: the run is the first of its process; imports of engines and the start of workers count. A backend that takes
longer to start than the best so far takes in all cannot be the best, and is not run. Warm: each way has a process of
its own that has had the run twice, and all take turns.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ..report import seconds_text
from ..timing import confirm
from . import inside, work
from .apart import Apart, FailedError, TooLongError
from .tables import GOAL, HARM, WORST, Effort, Table, cell, megabytes, ratio, say, times, turns, verdict

SIZES, COSTS_S, BYTES = (10, 1_000, 100_000), (1e-5, 1e-3, 0.03), (0, 1_000_000, 50_000_000)
LONGEST_S = 20.0
HOPELESS = 1.5
"""A way that takes so many times as long as the best one, warm, does not take part in the rounds."""
LEAST_S = 0.005
"""Warm runs are repeated for so long within a turn."""
COLD = Effort(rounds=3, fewest=1, budget_s=7.0)
WARM = Effort(rounds=9, fewest=3, budget_s=6.0)
TIMEOUT_S = 60.0
SEQUENTIAL, AUTO = "sequential", "auto"
Found = dict[str, list[float]]


class Run(NamedTuple):
    """A cell of the grid."""

    kind: str
    n: int
    cost_s: float
    nbytes: int
    steps: int

    def named(self) -> str:
        """For people."""
        size = megabytes(self.nbytes) if self.nbytes else "none"
        return f"{cell(self.n, self.cost_s)}, {size}" + ("" if self.kind == "python" else ", releases the GIL")

    def asked(self, way: str) -> dict[str, Any]:
        """As `inside.ours` takes it."""
        return {"backend": way, "n": self.n, "kind": self.kind, "steps": self.steps, "nbytes": self.nbytes}


def runs(quick: bool = False) -> list[Run]:
    """The grid: workers that hold the interpreter lock, and a few that release it."""
    grid = [("python", n, cost_s, b) for n in SIZES for cost_s in COSTS_S for b in BYTES if n * cost_s <= LONGEST_S]
    grid += [("native", 1_000, 1e-3, 0), ("native", 1_000, 1e-3, BYTES[-1])]
    if quick:
        grid = [("python", 20, 1e-5, 0)]
    steps = {key: work.steps_for(*key) for key in dict.fromkeys((kind, cost_s) for kind, _, cost_s, _ in grid)}
    return [Run(kind, n, cost_s, b, steps[kind, cost_s]) for kind, n, cost_s, b in grid]


def ways(quick: bool = False) -> list[str]:
    """Every variant that runs here, and "auto"."""
    return [AUTO, *([SEQUENTIAL, "joblib/threads"] if quick else inside.variants())]


# ---- cold


def cold(effort: Effort) -> Table:
    """Each run as the first of a process."""
    there = ways(effort.quick)
    starts = {way: _start(way, effort) for way in there}
    rows = []
    for run in runs(effort.quick):
        rows.append(_cold(run, starts, effort if effort.quick else COLD))
        say("auto-cold", run.named())
    return _table("auto-cold", rows)


def _cold(run: Run, starts: dict[str, float], effort: Effort) -> tuple[Run, Found, str]:
    """One run: what may be the best, once; then what may still be, in turn. The first time tells, and counts not."""
    checked, first = _Checked(run), dict[str, float]()
    for way in sorted(starts, key=lambda way: starts[way]):
        if starts[way] < min(first.values(), default=math.inf):
            with suppress(TooLongError, FailedError):  # then it is not the best
                first[way] = checked.fresh(way)
    return run, _in_turn({way: partial(checked.fresh, way) for way in _contenders(first)}, effort), checked.chosen


def _start(way: str, effort: Effort) -> float:
    """The least seconds that a run of next to nothing takes in a fresh process."""
    if way in (AUTO, SEQUENTIAL):
        return 0.0
    least_s, nothing = math.inf, _Checked(Run("python", 8, 1e-5, 0, 20))
    for _ in range(1 if effort.quick else 2):
        with suppress(TooLongError, FailedError):
            least_s = min(least_s, nothing.fresh(way))
    return least_s


# ---- warm


def warm(effort: Effort) -> Table:
    """Each run again and again, each way in a process of its own that stays."""
    there, rows = ways(effort.quick), []
    processes: dict[str, Apart] = {}
    try:
        for run in runs(effort.quick):
            checked, second = _Checked(run), dict[str, float]()
            for way in there:
                if way not in processes:
                    processes[way] = Apart()
                try:
                    checked.timed(processes[way], way)
                    second[way] = checked.timed(processes[way], way)
                except (TooLongError, FailedError):  # it is not the best; the next run has a new process
                    processes.pop(way).close()
            calls: dict[str, Callable[[], float]] = {
                way: partial(checked.timed, processes[way], way, LEAST_S) for way in _contenders(second)
            }
            say("auto-warm", run.named())
            rows.append((run, _in_turn(calls, effort if effort.quick else WARM), checked.chosen))
    finally:
        for process in processes.values():
            process.close()
    return _table("auto-warm", rows)


class _Checked:
    """A run whose answers are compared before its times are taken."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.digest = ""
        self.chosen = ""  # by "auto", the last time

    def fresh(self, way: str) -> float:
        """In a process of its own."""
        with Apart() as process:
            process.call("prepare", TIMEOUT_S, nbytes=self.run.nbytes)
            return self.timed(process, way)

    def timed(self, process: Apart, way: str, least_s: float = 0.0) -> float:
        """In that process."""
        found = process.call("ours", TIMEOUT_S, **self.run.asked(way), least_s=least_s)
        run, name = self.run, f"{way}, {self.run.named()}"
        if not self.digest:
            good = work.right(found["sample"], run.kind, run.steps, run.nbytes)
            confirm(name, good, "other results than one by one")
            self.digest = found["digest"]
        confirm(name, found["digest"] == self.digest, "other results than another backend's")
        if way == AUTO:
            self.chosen = found["variant"]
        return float(found["seconds"])


def _in_turn(calls: dict[str, Callable[[], float]], effort: Effort) -> Found:
    """The rounds of a run; nothing where one does not get there."""
    try:
        return turns(calls, effort)
    except (TooLongError, FailedError):
        return {}


def _contenders(seconds: dict[str, float]) -> list[str]:
    """What may be the best, and what everything is compared with."""
    most = HOPELESS * min(seconds.values())
    return [way for way, took in seconds.items() if way in (AUTO, SEQUENTIAL) or took <= most]


# ---- telling


def _table(name: str, measured: Iterable[tuple[Run, Found, str]]) -> Table:
    head = [
        "simulations, argument", "one by one", "auto", "it took", "best named", "which", "over best", "over one by one"
    ]  # fmt: skip
    rows, data, best_ratios, harm = [], [], dict[str, float](), dict[str, float]()
    for run, found, chosen in measured:
        if AUTO not in found or SEQUENTIAL not in found:
            rows.append([run.named(), *["no result"] * 2, *[""] * 5])
            continue
        named = {way: statistics.median(seconds) for way, seconds in found.items() if way != AUTO}
        best = min(named, key=lambda way: named[way])
        over, beyond = ratio(found[AUTO], found[best]), ratio(found[AUTO], found[SEQUENTIAL])
        best_ratios[run.named()], harm[run.named()] = over, beyond
        data.append({**run._asdict(), "seconds": found, "chosen": chosen, "over_best": over, "over_sequential": beyond})
        rows.append([
            run.named(), seconds_text(named[SEQUENTIAL]), seconds_text(statistics.median(found[AUTO])), chosen,
            seconds_text(named[best]), best, times(over), times(beyond, HARM),
        ])  # fmt: skip
    notes = [
        verdict(best_ratios, GOAL, "auto over the best named backend"),
        verdict(best_ratios, WORST, "the same, the worst that is accepted"),
        verdict(harm, HARM, "auto over one by one"),
    ]
    return Table(name, head, rows, notes, data)
