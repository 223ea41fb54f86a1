"""Runs on an engine beside the same simulations written for it by hand, with tasks of the best size a search finds.

Both sides have processes of their own, with warm workers, and take turns. The hand-written side is the stronger of what
people write: see `hand`. A cell of more than a minute on one core is not run.
"""

from __future__ import annotations

import statistics
from typing import Any

from ..report import seconds_text
from ..timing import confirm
from . import inside, work
from .apart import Apart, FailedError, TooLongError
from .hand import HANDS, OURS
from .tables import GOAL, Effort, Table, cell, ratio, say, times, turns, verdict

SIZES, COSTS_S = (1_000, 10_000, 100_000), (1e-5, 1e-3, 0.1)
LONGEST_S = 60.0
EXTRA = ((50, 0.1),)
"""What stands in for the cells of 100 ms, which take 100 s and more."""
MOST_TASKS = 2_000
"""A search does not try sizes that make more tasks; the naive form runs so many simulations at most."""
HOPELESS = 1.5
"""A size that took so many times as long as the best one, once, is not tried again."""
SEARCHES, SEARCH_S = 2, 4.0
START = (1_000, 1e-3)
TIMEOUT_S = 150.0


def cells() -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(simulations, cost) that are run, and those that would take too long."""
    grid = [(n, cost_s) for cost_s in COSTS_S for n in SIZES]
    return [c for c in grid if c[0] * c[1] <= LONGEST_S] + list(EXTRA), [c for c in grid if c[0] * c[1] > LONGEST_S]


def sizes_for(n: int) -> list[int]:
    """The sizes of tasks that a search tries."""
    tried = {1, 10, 100, 1000, *(max(1, -(-n // parts)) for parts in (2, 4, 8, 16, 32, 64))}
    return sorted(size for size in tried if size <= n and n / size <= MOST_TASKS)


def table(engine: str, effort: Effort) -> Table:
    """One engine's cells; where pointsman cannot run on it here, that is the table."""
    kind, head = HANDS[engine].kind, [
        "simulations", "one core", "by hand, warm", "its best size", f"{OURS[engine]}", "our size", "ratio",
        "naive, same units",
    ]  # fmt: skip
    if OURS[engine] not in inside.variants():
        return Table(engine, head, [], [f"{OURS[engine]} does not run here"], [])
    run, skipped = ([(60, 1e-5)], []) if effort.quick else cells()
    rows, data, ratios = [], [], dict[str, float]()
    for n, cost_s in run:
        try:
            found = _Cell(engine, kind, n, cost_s).measured(effort)
        except (TooLongError, FailedError) as error:
            rows.append([cell(n, cost_s), seconds_text(n * cost_s), str(error).partition("\n")[0], *[""] * 5])
            data.append({"n": n, "cost_s": cost_s, "error": str(error)})
            continue
        data.append(found)
        ratios[cell(n, cost_s)] = found["ratio"]
        rows.append(_row(found))
        say(engine, *rows[-1])
    notes = [verdict(ratios, GOAL, f"{OURS[engine]} over hand-written {engine}, warm")]
    if not effort.quick:
        start = _start(engine, kind, effort)
        data.append(start)
        notes.append(start["told"])
    if skipped:
        notes.append(f"not run, above {LONGEST_S:.0f} s on one core: {', '.join(cell(*c) for c in skipped)}")
    return Table(engine, head, rows, notes, data)


def _row(found: dict[str, Any]) -> list[str]:
    ours, hand = statistics.median(found["ours_s"]), statistics.median(found["hand_s"])
    return [
        cell(found["n"], found["cost_s"]), seconds_text(found["n"] * found["cost_s"]), seconds_text(hand),
        str(found["hand_size"]), seconds_text(ours), str(found["size"]), times(found["ratio"]),
        times(found["naive_ratio"], None),
    ]  # fmt: skip


class _Cell:
    """So many simulations of one cost on one engine."""

    def __init__(self, engine: str, kind: str, n: int, cost_s: float) -> None:
        self.engine, self.kind, self.n, self.cost_s = engine, kind, n, cost_s
        self.steps = work.steps_for(kind, cost_s)
        self.digest = ""

    def measured(self, effort: Effort) -> dict[str, Any]:
        """Answers compared, the size searched for, both sides timed in turn."""
        with Apart() as theirs, Apart() as mine:
            self._hand(theirs, max(1, self.n // 4))
            for _ in range(2):  # the first run teaches what a simulation costs
                self._ours(mine)
            best = self._search(theirs, effort)
            told: dict[str, Any] = {}

            def ours() -> float:
                told.update(self._ours(mine))
                return float(told["seconds"])

            seconds = turns({"ours": ours, "hand": lambda: self._hand(theirs, best)["seconds"]}, effort)
            naive_n = max(1, min(self.n, MOST_TASKS, int(3.0 / self.cost_s)))
            naive = turns({"naive": lambda: self._naive(theirs, naive_n)}, Effort(rounds=1, fewest=1))["naive"]
        ours_each = statistics.median(seconds["ours"]) / self.n
        return {
            "engine": self.engine, "kind": self.kind, "n": self.n, "cost_s": self.cost_s, "hand_s": seconds["hand"],
            "hand_size": best, "ours_s": seconds["ours"], "size": told["size"], "chunks": told["chunks"],
            "variant": told["variant"], "ratio": ratio(seconds["ours"], seconds["hand"]), "naive_n": naive_n,
            "naive_ratio": naive[0] / naive_n / ours_each,
        }  # fmt: skip

    def _search(self, process: Apart, effort: Effort) -> int:
        """The best size of tasks."""
        left, seconds = sizes_for(self.n), dict[int, list[float]]()
        rounds = 1 if effort.quick or self.n * self.cost_s > SEARCH_S else SEARCHES
        for _ in range(rounds):
            for size in left:
                seconds.setdefault(size, []).append(self._hand(process, size)["seconds"])
            least = min(statistics.median(seconds[size]) for size in left)
            left = [size for size in left if statistics.median(seconds[size]) <= HOPELESS * least]
        return min(left, key=lambda size: statistics.median(seconds[size]))

    def _hand(self, process: Apart, size: int) -> dict[str, Any]:
        found: dict[str, Any] = process.call("by_hand", TIMEOUT_S, **self._asked(), size=size)
        return self._checked("by hand", found)

    def _naive(self, process: Apart, n: int) -> float:
        found = process.call("by_hand", TIMEOUT_S, **{**self._asked(), "n": n}, size=None)
        return float(found["seconds"])

    def _ours(self, process: Apart) -> dict[str, Any]:
        given = {**self._asked(), "backend": OURS[self.engine]}
        del given["engine"]
        found = self._checked("ours", process.call("ours", TIMEOUT_S, **given))
        confirm("ours", found["variant"] == OURS[self.engine], f"it ran on {found['variant']}")
        return found

    def _asked(self) -> dict[str, Any]:
        return {"engine": self.engine, "n": self.n, "kind": self.kind, "steps": self.steps}

    def _checked(self, who: str, found: dict[str, Any]) -> dict[str, Any]:
        """Raise unless these are the results of every other run so far, and a sample of them is right."""
        name = f"{self.engine}, {cell(self.n, self.cost_s)}, {who}"
        if not self.digest:
            confirm(name, work.right(found["sample"], self.kind, self.steps), "other results than one by one")
            self.digest = found["digest"]
        confirm(name, found["digest"] == self.digest, "other results than the other side's")
        return found


def _start(engine: str, kind: str, effort: Effort) -> dict[str, Any]:
    """Both sides in fresh processes: imports, workers and the run."""
    n, cost_s = START
    one = _Cell(engine, kind, n, cost_s)
    size = -(-n // 16)

    def fresh(call: Any) -> float:
        with Apart() as process:
            return float(call(process)["seconds"])

    few = Effort(rounds=3, fewest=2, budget_s=effort.budget_s, rng=effort.rng)
    ways = {"ours": lambda: fresh(one._ours), "hand": lambda: fresh(lambda process: one._hand(process, size))}
    try:
        seconds = turns(ways, few)
    except (TooLongError, FailedError) as error:
        return {"error": str(error), "told": f"start-up counted: {str(error).partition(chr(10))[0]}"}
    middle = {way: seconds_text(statistics.median(found)) for way, found in seconds.items()}
    told = (
        f"start-up counted, {cell(n, cost_s)} in a fresh process: by hand {middle['hand']}, ours {middle['ours']}, "
        f"{times(ratio(seconds['ours'], seconds['hand']))}"
    )
    return {"n": n, "cost_s": cost_s, "hand_s": seconds["hand"], "ours_s": seconds["ours"], "told": told}
