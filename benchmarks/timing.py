"""Timing small things: interleaved blocks, single calls, and what the machine was doing meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import statistics
import sys
import time
import timeit
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pointsman.telemetry.load import LoadMeter

LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax", "pyfftw", "pydantic", "sqlite-utils")
COLLECTING = "import gc; gc.enable()"  # timeit switches the collector off, users do not


class WrongAnswerError(AssertionError):
    """A benchmark would have timed something that does not give the right answer."""


@dataclass(frozen=True)
class Case:
    """A statement to time, with the names it uses and a check of its answer, which runs before any timing."""

    name: str
    statement: str
    names: Mapping[str, Any]
    check: Callable[[], bool]


@dataclass
class Effort:
    """How long to measure. `quick` is for the tests: every step once or twice, the figures mean nothing."""

    rounds: int = 300
    block_s: float = 5e-4
    singles: int = 20_000
    processes: int = 9
    decisions: int = 400
    outcomes: int = 1_000_000
    cells: int = 1000
    tight_loop: int = 300_000
    rng: random.Random = field(default_factory=lambda: random.Random(2))

    @classmethod
    def quick(cls) -> Effort:
        """A few hundredths of a second for each case."""
        return cls(3, 2e-5, 100, 1, 8, 2_000, 24, 3_000)


def confirm(name: str, right: bool, found: object = "") -> None:
    """Raise WrongAnswerError unless `right`."""
    if not right:
        raise WrongAnswerError(
            f"{name}: the answer is wrong, so its time means nothing{f' ({found})' if found else ''}"
        )


def interleaved(cases: Sequence[Case], effort: Effort) -> dict[str, list[float]]:
    """Seconds a call, one number per block, after every answer has been checked.

    In each round every case runs one block, in random order, so that a drift of the machine meets all alike; the
    n-th numbers of two cases are neighbours in time. The cost of the empty loop is taken off.
    """
    for case in cases:
        confirm(case.name, case.check())
    timers = {case.name: timeit.Timer(case.statement, COLLECTING, globals=dict(case.names)) for case in cases}
    loop = timeit.Timer("pass", COLLECTING)
    numbers = {name: _calls_per_block(timer, effort.block_s) for name, timer in timers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    order = list(timers)
    for _ in range(effort.rounds):
        effort.rng.shuffle(order)
        empty = loop.timeit(1000) / 1000
        for name in order:
            seconds[name].append(timers[name].timeit(numbers[name]) / numbers[name] - empty)
    return seconds


def difference(blocks: Mapping[str, Sequence[float]], case: str, bare: str) -> float:
    """Median over the rounds of what `case` costs beyond `bare`, in seconds."""
    return statistics.median(a - b for a, b in zip(blocks[case], blocks[bare], strict=True))


def single_calls(case: Case, effort: Effort) -> tuple[list[float], list[float]]:
    """Sorted seconds of individually timed calls, less the median cost of reading the clock; and the clock's own."""
    timed, clock = _single_loop(case.statement, case.names), _single_loop("pass", {})
    calls, pairs = array("q"), array("q")
    batch = max(1, effort.singles // 20)
    for _ in range(20):
        timed(batch, calls.append, time.perf_counter_ns)
        clock(batch, pairs.append, time.perf_counter_ns)
    usual = statistics.median(pairs)
    return sorted((t - usual) * 1e-9 for t in calls), sorted((t - usual) * 1e-9 for t in pairs)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _calls_per_block(timer: timeit.Timer, block_s: float) -> int:
    number = 1
    while number < 1_000_000:
        took = min(timer.timeit(number) for _ in range(3))  # the first call may be the one that decides
        if took >= block_s / 4:
            return max(1, round(number * block_s / max(took, 1e-9)))
        number *= 4
    return number


def _single_loop(statement: str, names: Mapping[str, Any]) -> Callable[..., None]:
    code = (
        f"def loop(count, keep, clock):\n for _ in range(count):\n  a = clock()\n  {statement}\n  keep(clock() - a)\n"
    )
    space = dict(names)
    exec(code, space)
    loop: Callable[..., None] = space["loop"]
    return loop


class Watch:
    """What others used of the machine during each part of a run."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        self._meter = LoadMeter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Read the load over the block."""
        self._meter.read()
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        if took < 0.06:  # the meter needs that long to see anything
            time.sleep(0.06)
        load = self._meter.read()
        self.parts[name] = {"seconds": took, "other_cores": load.other_cores, "busy": load.busy}


def conditions() -> dict[str, Any]:
    """Machine, versions and date, in words that identify nobody."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {memory:.0f} GiB, {platform.system()}",
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "versions": versions,
        "clock_s": time.get_clock_info("perf_counter").resolution,
    }
