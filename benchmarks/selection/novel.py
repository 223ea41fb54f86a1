"""Sizes that nobody recorded: cells interpolated, log-log, between two recorded neighbours of one family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .matrix import Cell, Matrix, Timing

TRIES = 8  # draws for a size not seen yet, before a part of the grid counts as used up
PARTS = ("low_s", "median_s", "mean_s", "spread", "work")  # interpolated as logarithms


class Segment(NamedTuple):
    """Two neighbours on the grid: every extent of `upper` is at least that of `lower`."""

    lower: Cell
    upper: Cell

    @property
    def octaves(self) -> float:
        """How far apart they are, in powers of two of the size."""
        return math.log2(self.upper.size / self.lower.size)


class Segments:
    """All neighbours of a matrix, by (operation, dtype).

    The extra cost of a first call is interpolated for per-shape compilers; of any other variant it is the greatest that
    was recorded for the (operation, dtype), because the recording paid it at one of the sizes only.
    """

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.found: dict[tuple[str, str], list[Segment]] = {}
        self._extra: dict[tuple[str, str, str], float] = {}
        for cell in matrix.cells:
            upper = _neighbour(cell, matrix.cells)
            if upper is not None:
                self.found.setdefault((cell.operation, cell.dtype), []).append(Segment(cell, upper))
            for variant, timing in cell.timings.items():
                key = (cell.operation, cell.dtype, variant)
                self._extra[key] = max(self._extra.get(key, 0.0), timing.first_s - timing.mean_s)

    def draw(self, calls: int, rng: np.random.Generator) -> list[Cell]:
        """Cells of ever-new shapes: uniformly over (operation, dtype), then log-uniformly over its sizes.

        Where every size of the grid has been used, sizes come back.

        Raises
        ------
        ValueError
            No (operation, dtype) has two sizes.
        """
        families = list(self.found.values())
        if not families:
            raise ValueError(f"storm: no (operation, dtype) of {self.matrix.name} has two sizes; record more of them")
        weights = [np.cumsum([segment.octaves for segment in segments]) for segments in families]
        seen: set[object] = set()
        cells: list[Cell] = []
        spent = 0
        while len(cells) < calls:
            family = int(rng.integers(len(families)))
            place = rng.random() * weights[family][-1]
            segment = families[family][int(np.searchsorted(weights[family], place, side="right"))]
            share = rng.random()
            outline = _outline(segment, share)
            key = (segment.lower.operation, segment.lower.dtype, segment.lower.parameters, outline)
            if key in seen and spent < TRIES * calls:
                spent += 1
                continue
            seen.add(key)
            cells.append(self.between(segment, outline))
        return cells

    def between(self, segment: Segment, outline: tuple[int, tuple[tuple[int, ...], ...]]) -> Cell:
        """The cell of that size and those shapes, its timings interpolated between the two ends."""
        lower, upper = segment
        size, shapes = outline
        share = math.log(size / lower.size) / math.log(upper.size / lower.size)
        timings = {
            variant: self._timing(segment, variant, share) for variant in lower.timings if variant in upper.timings
        }
        default = lower.default if lower.default in timings else next(iter(timings))
        return Cell(lower.operation, lower.dtype, size, shapes, timings, default, lower.parameters)

    def _timing(self, segment: Segment, variant: str, share: float) -> Timing:
        a, b = segment.lower.timings[variant], segment.upper.timings[variant]
        part = {name: _log_mix(getattr(a, name), getattr(b, name), share) for name in PARTS}
        rate = a.stall_rate + share * (b.stall_rate - a.stall_rate)
        stall_s = a.stall_s + share * (b.stall_s - a.stall_s)
        room_s = max(part["mean_s"] - part["low_s"], 0.0)
        if rate * stall_s > room_s:  # the unstalled calls keep a time
            stall_s = room_s / rate if room_s else 0.0
        if self.matrix.backends[variant].compiles == "shape":
            extra = _log_mix(max(a.first_s - a.mean_s, 1e-9), max(b.first_s - b.mean_s, 1e-9), share)
        else:
            extra = self._extra[segment.lower.operation, segment.lower.dtype, variant]
        return Timing(
            part["low_s"], part["median_s"], part["mean_s"], part["mean_s"] + extra, part["spread"], rate, stall_s,
            max(a.error, b.error), part["work"],
        )  # fmt: skip


def _neighbour(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The next larger cell of the family no extent of which is smaller, and some variant of which is the same."""
    larger = [
        other
        for other in cells
        if (other.operation, other.dtype, other.parameters) == (cell.operation, cell.dtype, cell.parameters)
        and other.size > cell.size
        and [len(shape) for shape in other.shapes] == [len(shape) for shape in cell.shapes]
        and all(m >= n for a, b in zip(other.shapes, cell.shapes, strict=True) for m, n in zip(a, b, strict=True))
        and set(other.timings) & set(cell.timings)
    ]
    return min(larger, key=lambda other: other.size, default=None)


def _outline(segment: Segment, share: float) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Size and shapes at a share of the way, in logarithms; the size follows the shapes as it does at both ends."""
    lower, upper = segment
    shapes = tuple(
        tuple(round(_log_mix(m, n, share)) for m, n in zip(a, b, strict=True))
        for a, b in zip(lower.shapes, upper.shapes, strict=True)
    )
    for rule in (_product, _last):
        if all(rule(cell.shapes) == cell.size for cell in segment):
            return rule(shapes), shapes
    return round(_log_mix(lower.size, upper.size, share)), shapes


def _product(shapes: tuple[tuple[int, ...], ...]) -> int:
    return math.prod(shapes[0]) if shapes else 0


def _last(shapes: tuple[tuple[int, ...], ...]) -> int:
    return shapes[0][-1] if shapes and shapes[0] else 0


def _log_mix(a: float, b: float, share: float) -> float:
    return math.exp((1.0 - share) * math.log(a) + share * math.log(b)) if a > 0 and b > 0 else a + share * (b - a)
