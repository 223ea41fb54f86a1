"""What `pm.map` costs and gains: against a plain loop, and against `joblib.Parallel` written by hand.

``python -m benchmarks.mapping`` prints the table. All columns of a row are measured in turn, round after round, so that
a busy neighbour meets them all; of each, the median and, in brackets, the fastest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pointsman as pm

from .timing import confirm

ROUNDS = 9
SMALL_S = 2e-3
"""What takes less is repeated within a round."""
MATRIX = np.random.default_rng(0).standard_normal((300, 300))


def nothing(x: int) -> int:
    """Cost next to nothing."""
    return x


def microsecond(x: int) -> int:
    """About a microsecond of Python."""
    total = 0
    for i in range(24):
        total += i
    return total + x


def python(x: int) -> int:
    """About 50 ms of Python, which holds the interpreter lock."""
    total = 0
    for i in range(1_000_000):
        total += i
    return total + x


def native(x: int) -> float:
    """About 50 ms in NumPy, which mostly releases the lock."""
    return float(sum(np.sort(MATRIX, axis=None)[x] for _ in range(10)))


def waiting(x: int) -> int:
    """50 ms of waiting."""
    time.sleep(0.05)
    return x


class Row(NamedTuple):
    """One line: a name, and seconds for each column."""

    name: str
    seconds: dict[str, list[float]]


def rows(rounds: int = ROUNDS, many: int = 100_000, long: int = 8) -> list[Row]:
    """Measure everything; `many` is the most items of a microsecond, `long` the number of items of 50 ms."""
    out = []
    for worker, n in ((nothing, 10), (nothing, 1000), (microsecond, 10), (microsecond, 1000), (microsecond, many)):
        items = list(range(n))
        ways = {"loop": lambda w=worker, i=items: [w(x) for x in i], "pm.map": lambda w=worker, i=items: pm.map(w, i)}
        out.append(Row(f"{n} x {worker.__name__}", _measure(ways, rounds)))
    for worker in (waiting, native, python):
        items = list(range(long))
        for kind in ("threading", "loky"):
            confirm("joblib", _by_hand(kind, worker, items)() == [worker(x) for x in items])  # and its pool is warm
        ways = {
            "loop": lambda w=worker, i=items: [w(x) for x in i],
            "pm.map": lambda w=worker, i=items: pm.map(w, i),
            "joblib threads": _by_hand("threading", worker, items),
            "joblib loky": _by_hand("loky", worker, items),
        }
        out.append(Row(f"{long} x {worker.__name__}", _measure(ways, rounds)))
    return out


def _by_hand(kind: str, worker: Callable[[int], Any], items: list[int]) -> Callable[[], list[Any]]:
    """What a user of joblib would write."""
    import joblib

    def run() -> list[Any]:
        with joblib.parallel_config(backend=kind, n_jobs=-1):
            found: list[Any] = joblib.Parallel()(joblib.delayed(worker)(x) for x in items)
        return found

    return run


def _measure(ways: dict[str, Callable[[], list[Any]]], rounds: int) -> dict[str, list[float]]:
    expected = ways["loop"]()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    repeats = {}
    for name, run in ways.items():
        confirm(name, run() == expected)
        started = time.perf_counter()
        run()
        repeats[name] = max(1, int(SMALL_S / (time.perf_counter() - started)))
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return seconds


def show(measured: list[Row]) -> str:
    """The table as text."""
    lines = []
    for row in measured:
        loop = statistics.median(row.seconds["loop"])
        cells = [f"{row.name:<22}"]
        for name, seconds in row.seconds.items():
            middle = statistics.median(seconds)
            cells.append(f"{name} {_unit(middle)} [{_unit(min(seconds))}] {middle / loop:.2f}x")
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _unit(s: float) -> str:
    factor, unit = next(((f, u) for f, u in ((1.0, "s"), (1e-3, "ms")) if s >= f), (1e-6, "us"))
    return f"{s / factor:.3g} {unit}"


if __name__ == "__main__":
    print(show(rows()))
