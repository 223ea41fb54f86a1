"""The truths of a stream - a cell, with what is broken or slower just then - as arrays: a replay only looks them up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .matrix import Cell, Key

if TYPE_CHECKING:
    from .streams import Step, Stream


@dataclass(frozen=True)
class Tables:
    """Distinct truths in rows, variants of the row's cell in columns, in the canonical order; nan beyond them."""

    row: np.ndarray  # by call
    cell: np.ndarray  # by call: number of the cell, whatever is broken, slower or busy
    mean: np.ndarray
    unstalled: np.ndarray
    spread: np.ndarray
    stall_rate: np.ndarray
    stall: np.ndarray
    extra: np.ndarray  # seconds that a first call costs beyond a warm one's mean, never negative
    warmth: np.ndarray  # number of what becomes warm with the first call
    works: np.ndarray  # bool: has a time and is not broken
    default: np.ndarray  # by row: column of the default, or of the first that works
    cells: int


def tabulated(stream: Stream) -> Tables:
    """The truths of a stream as arrays, each once."""
    truths: dict[tuple[int, frozenset[str], tuple[tuple[str, float], ...]], int] = {}
    shown: list[Step] = []
    numbers: dict[Key, int] = {}
    row, cell = np.empty(len(stream), dtype=np.int64), np.empty(len(stream), dtype=np.int64)
    for index, step in enumerate(stream.steps):
        truth = (id(step.cell), step.broken, tuple(step.slower.items()))  # steps keep their cells alive
        number = truths.setdefault(truth, len(shown))
        if number == len(shown):
            shown.append(step)
        row[index] = number
        cell[index] = numbers.setdefault(step.cell.key, len(numbers))
    wide = max(len(step.cell.timings) for step in shown)
    values = np.full((6, len(shown), wide), np.nan)
    warmth = np.zeros((len(shown), wide), dtype=np.int64)
    works = np.zeros((len(shown), wide), dtype=bool)
    default = np.zeros(len(shown), dtype=np.int64)
    slots: dict[tuple[object, ...], int] = {}
    compiling = _compiling(stream)
    for number, step in enumerate(shown):
        for column, (variant, timing) in enumerate(step.cell.timings.items()):
            if variant in step.slower:
                timing = timing.slowed(step.slower[variant])
            slot = _warmth(stream, step.cell, variant)
            paid_once = compiling.get(slot, timing.first_s - timing.mean_s)
            values[:, number, column] = (
                timing.mean_s, timing.unstalled_s, timing.spread, timing.stall_rate, timing.stall_s,
                max(paid_once, 0.0),
            )  # fmt: skip
            warmth[number, column] = slots.setdefault(slot, len(slots))
            works[number, column] = variant not in step.broken
        chosen = step.cell.variants.index(step.cell.default)
        default[number] = chosen if works[number, chosen] else int(np.argmax(works[number]))
    mean, unstalled, spread, rate, stall, extra = values
    return Tables(row, cell, mean, unstalled, spread, rate, stall, extra, warmth, works, default, len(numbers))


def _warmth(stream: Stream, cell: Cell, variant: str) -> tuple[object, ...]:
    """What becomes warm with a first call: code compiled for a dtype (and numbers of axes) serves every size."""
    compiles = stream.matrix.backends[variant].compiles
    if compiles == "dtype":
        return (cell.operation, cell.dtype, variant, tuple(map(len, cell.shapes)))
    if compiles == "never" and stream.once:
        return (cell.operation, cell.dtype, variant)
    return (cell.key, variant)


def _compiling(stream: Stream) -> dict[tuple[object, ...], float]:
    """Seconds of compiling for a dtype: a recording pays them at one of its sizes only, whichever came first."""
    found: dict[tuple[object, ...], float] = {}
    for cell in (*stream.matrix.cells, *{id(step.cell): step.cell for step in stream}.values()):
        for variant, timing in cell.timings.items():
            if stream.matrix.backends[variant].compiles == "dtype":
                slot = _warmth(stream, cell, variant)
                found[slot] = max(found.get(slot, 0.0), timing.first_s - timing.mean_s)
    return found
