"""What a variant did for other operations, and for its own in another dtype: where to begin where it has not run.

Dispatch costs what it costs whatever the operation, and a library that is twice as fast as the default for most
operations probably is for the next. So a variant that is new to an operation is expected at its overhead elsewhere, and
at its usual rate relative to the default, with the doubt that its other operations leave.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean, median, pstdev
from typing import NamedTuple

from ..telemetry.outcome import QUIET
from ..telemetry.sketch import Sketch
from ..telemetry.state import Group, Key, State
from .curves import UNLOADED, Loaded

SMALL_S, LARGE_S = 3e-5, 1e-3
"""Below, a call of the default is mostly overhead; above, it is mostly work."""
NOTHING_S = 1e-6
"""A first call that cost no more beyond a steady one compiled nothing."""
ENOUGH = 3
"""Operations that have to agree before their spread counts as the doubt."""

Measured = Mapping[Key, Sketch]


class Known(NamedTuple):
    """What one variant does elsewhere; octaves but for `cold_s`, and None where nothing tells."""

    cold_s: float  # mean of first calls
    colds: int  # operations and dtypes that it is the mean of
    overhead: float | None  # log2 seconds of a small call
    faster: float | None  # log2 of its rate over the default's, at sizes where work counts
    doubt: float  # of `faster`
    groups: int
    load: Loaded = UNLOADED  # what others on the machine do to it


NOTHING = Known(0.0, 0, None, None, math.inf, 0)


class Elsewhere:
    """Sums up a state by variant, and by backend for variants that only one operation has.

    Parameters
    ----------
    state : the sketches.
    defaults : group -> the variant that the others are held against.
    backends : variant -> its backend.
    """

    def __init__(self, state: State, defaults: Mapping[Group, str], backends: Mapping[str, str]) -> None:
        cold: dict[str, list[float]] = defaultdict(list)
        overhead: dict[str, list[float]] = defaultdict(list)
        faster: dict[str, list[float]] = defaultdict(list)
        stalls: dict[str, list[float]] = defaultdict(list)
        slower: dict[str, list[float]] = defaultdict(list)
        for group in state.groups():
            cells = state.of(*group)
            for name, quiet_s, busy_s in _both(cells):
                if quiet_s < LARGE_S:
                    stalls[name].append(max(busy_s - quiet_s, 0.0))
                else:
                    slower[name].append(math.log2(busy_s / quiet_s))
            for name, seconds in first_calls(cells).items():
                cold[name].append(seconds)
            default = defaults.get(group)
            if default is None:
                continue
            small, large = _held_against(cells, default)
            for name, values in small.items():
                overhead[name].append(median(values))
            for name, values in large.items():
                faster[name].append(median(values))
        kinds = (cold, overhead, faster, stalls, slower)
        self._known: dict[str, Known] = {}
        for name in set().union(*kinds):
            self._known[name] = _known(*(kept.get(name) for kept in kinds))
        of_backend: dict[str, list[str]] = defaultdict(list)
        for name in self._known:
            of_backend[backends.get(name, name)].append(name)
        for backend, names in of_backend.items():
            if backend not in self._known:
                pooled = [[v for name in names for v in kept.get(name, ())] for kept in kinds]
                self._known[backend] = _known(*pooled)

    def of(self, variant: str, backend: str) -> Known:
        """What is known of `variant`, else of its backend."""
        return self._known.get(variant) or self._known.get(backend) or NOTHING


def first_calls(cells: Measured) -> dict[str, float]:
    """Mean seconds that a first call was seen to cost, by variant; warm-ups that compiled nothing do not count."""
    sums: dict[str, list[float]] = {}
    for (cell, _), sketch in cells.items():
        if sketch.cold_count:
            tally = sums.setdefault(cell.variant, [0.0, 0.0])
            if sketch.cold_s > NOTHING_S:
                tally[0] += sketch.cold_count
                tally[1] += sketch.cold_count * sketch.cold_s
    return {name: total / count if count else 0.0 for name, (count, total) in sums.items()}


def _held_against(cells: Measured, default: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """By variant: log2 seconds where the default is quick, log2 of relative rates where it works long."""
    basis = {
        (cell.shape_class, cell.detail, context): sketch
        for (cell, context), sketch in cells.items()
        if cell.variant == default and sketch.count
    }
    small: dict[str, list[float]] = defaultdict(list)
    large: dict[str, list[float]] = defaultdict(list)
    for (cell, context), sketch in cells.items():
        held = basis.get((cell.shape_class, cell.detail, context))
        if held is None or not sketch.count or cell.variant == default:
            continue
        if held.expected_s <= SMALL_S:
            small[cell.variant].append(math.log2(max(sketch.expected_s, 1e-9)))
        elif held.expected_s >= LARGE_S:
            rate = sketch.log2_work - math.log2(max(sketch.expected_s, 1e-9))
            large[cell.variant].append(rate - held.log2_work + math.log2(held.expected_s))
    return small, large


def _both(cells: Measured) -> Iterable[tuple[str, float, float]]:
    """(variant, seconds on the quiet machine, seconds on the busy one) of the cells measured under both loads."""
    for (cell, context), sketch in cells.items():
        quiet = cells.get((cell, QUIET)) if context != QUIET and sketch.count else None
        if quiet is not None and quiet.count:
            yield cell.variant, max(quiet.expected_s, 1e-9), max(sketch.expected_s, 1e-9)


def _known(
    cold: list[float] | None, overhead: list[float] | None, faster: list[float] | None, stalls: list[float] | None,
    slower: list[float] | None,
) -> Known:  # fmt: skip
    groups = len(faster or ())
    load = Loaded(median(stalls) if stalls else 0.0, median(slower) if slower else 0.0)
    return Known(
        fmean(cold) if cold else 0.0,
        len(cold or ()),
        median(overhead) if overhead else None,
        median(faster) if faster else None,
        pstdev(faster) if faster and groups >= ENOUGH else math.inf,
        groups,
        load,
    )
