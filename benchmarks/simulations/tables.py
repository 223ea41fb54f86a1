"""A table of figures: for a terminal, for a page, and as plain data. And how much effort goes into it."""

from __future__ import annotations

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..report import seconds_text

GOAL, WORST, HARM = 1.05, 1.15, 1.03


@dataclass
class Effort:
    """How long to measure. `quick` is for the tests: every step once, the figures mean nothing."""

    quick: bool = False
    rounds: int = 9
    fewest: int = 3
    budget_s: float = 12.0  # for the rounds of one cell, which are as many as it affords
    rng: random.Random = field(default_factory=lambda: random.Random(4))

    @classmethod
    def least(cls) -> Effort:
        """One round."""
        return cls(True, 1, 1, 0.0)


@dataclass(frozen=True)
class Table:
    """Texts for people, `data` for machines."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    data: Any = None

    def text(self) -> str:
        """Aligned, for a terminal."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        shown = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([f"-- {self.name}", *(line.rstrip() for line in shown), *self.notes])

    def markdown(self) -> str:
        """For a page."""
        lines = [self.head, ["---", *("---:" for _ in self.head[1:])], *self.rows]
        return "\n".join([*(f"- {note}" for note in self.notes), "", *(f"| {' | '.join(line)} |" for line in lines)])


def turns(ways: Mapping[str, Callable[[], float]], effort: Effort) -> dict[str, list[float]]:
    """Seconds that each way tells, the ways taking turns, in each round in another order."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order, began = list(ways), time.monotonic()
    for taken in range(effort.rounds):
        if taken >= effort.fewest and time.monotonic() - began > effort.budget_s:
            break
        effort.rng.shuffle(order)
        for name in order:
            seconds[name].append(ways[name]())
    return seconds


def say(*cells: str) -> None:
    """A row as soon as it is there, on standard error: a table takes minutes."""
    print("  ".join(cells), file=sys.stderr, flush=True)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of neighbours in time."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def times(value: float, limit: float | None = GOAL) -> str:
    """A ratio as text, bold where it is above `limit`."""
    text = f"{value:.2f}x" if value < 99.5 else f"{value:.0f}x"
    return f"**{text}**" if limit is not None and value > limit else text


def verdict(ratios: Mapping[str, float], limit: float, what: str) -> str:
    """How many of the ratios are within `limit`, their geometric mean, and the losses."""
    if not ratios:
        return f"{what}: nothing measured"
    mean = math.exp(statistics.fmean(math.log(value) for value in ratios.values()))
    lost = {name: value for name, value in sorted(ratios.items(), key=lambda pair: -pair[1]) if value > limit}
    told = ", ".join(f"{name} ({value:.2f}x)" for name, value in lost.items())
    return (
        f"{what}: {len(ratios) - len(lost)} of {len(ratios)} within {limit}x, geometric mean {mean:.2f}x"
        + (f"; lost: {told}" if lost else "")
    )  # fmt: skip


def cell(n: int, cost_s: float) -> str:
    """What a cell is called."""
    return f"{count(n)} x {seconds_text(cost_s)}"


def count(n: int) -> str:
    """1000 as 1e3."""
    power = len(str(n)) - 1
    return f"1e{power}" if n >= 1000 and n == 10**power else f"{n:,}"


def megabytes(nbytes: float) -> str:
    """Bytes for people."""
    return f"{nbytes / 1e6:.0f} MB" if nbytes >= 1e6 else f"{nbytes:.0f} B"
