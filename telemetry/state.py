"""The sketches in memory: what the cost model reads and the flusher renews."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping

from .outcome import Cell, Outcome, Site
from .sketch import Sketch

Key = tuple[Cell, str]
"""(cell, context)"""

Group = tuple[str, str]
"""(operation, dtype): what is refitted together"""


class State:
    """Sketches by (cell, context), indexed by (operation, dtype).

    A published sketch is never changed again but replaced, so that readers need no lock: what `of` and `cells` gave
    stays as it was while a writer goes on.

    Parameters
    ----------
    clock : unix time; what is stamped later than that becomes present (see `Sketch.as_of`). None: stamps are believed.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._groups: dict[Group, dict[Key, Sketch]] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in tuple(self._groups.values()))

    @property
    def cells(self) -> dict[Key, Sketch]:
        """All sketches, as a dict of the caller's own."""
        groups = tuple(self._groups.values())
        return {key: sketch for group in groups for key, sketch in group.items()}

    def of(self, operation: str, dtype: str) -> Mapping[Key, Sketch]:
        """The sketches of one operation and dtype; safe to iterate while others write, not to be changed."""
        return self._groups.get((operation, dtype), {})

    def groups(self) -> set[Group]:
        """The (operation, dtype) pairs that have sketches."""
        return set(self._groups)

    def apply(self, outcomes: Iterable[Outcome]) -> set[Group]:
        """Take in `outcomes`; returns the groups that changed."""
        by_key: dict[tuple[Site, str], list[Outcome]] = {}
        site, context, same = None, "", []
        for outcome in outcomes:
            if outcome.site is not site or outcome.context != context:  # hashing a site costs more than all the rest
                site, context = outcome.site, outcome.context
                same = by_key.setdefault((site, context), [])
            same.append(outcome)
        delta: dict[Key, Sketch] = {}
        for (site, context), same in by_key.items():
            key = (site.cell, context)
            sketch = delta.get(key)
            if sketch is None:
                sketch = delta[key] = Sketch()
            sketch.add_many(same)
        return self._merge(delta)

    def merge_from(self, other: State) -> set[Group]:
        """Take in all that `other` holds; returns the groups that changed."""
        return self._merge(other.cells)

    def replace(self, cells: Mapping[Key, Sketch]) -> set[Group]:
        """Put `cells` in the place of what stood under their keys; returns their groups."""
        with self._lock:
            return self._swap(cells)

    def reload(self, cells: Mapping[Key, Sketch]) -> set[Group]:
        """Hold `cells` and nothing else; returns the groups there were and are."""
        with self._lock:
            gone, self._groups = set(self._groups), {}
            return gone | self._swap(cells)

    def forget(self, operation: str | None = None) -> set[Group]:
        """Drop the sketches of `operation`, or all; returns the groups that are gone."""
        with self._lock:
            gone = {group for group in self._groups if operation is None or group[0] == operation}
            self._groups = {group: cells for group, cells in self._groups.items() if group not in gone}
        return gone

    def after_fork(self) -> None:
        """Replace the lock, which another thread may have held when this process was forked."""
        self._lock = threading.Lock()

    def _merge(self, delta: Mapping[Key, Sketch]) -> set[Group]:
        with self._lock:
            merged, now = {}, self._now()
            for key, sketch in delta.items():
                known = self._groups.get((key[0].operation, key[0].dtype), {}).get(key)
                fresh = sketch.as_of(now)
                twin = fresh.copy() if known is None else known.as_of(now, fresh).copy()
                if known is not None:
                    twin.merge(fresh)
                merged[key] = twin
            return self._swap(merged)

    def _now(self) -> float:
        return math.inf if self._clock is None else self._clock()

    def _swap(self, cells: Mapping[Key, Sketch]) -> set[Group]:
        fresh: dict[Group, dict[Key, Sketch]] = {}
        now = self._now()
        for key, sketch in cells.items():
            group = (key[0].operation, key[0].dtype)
            if group not in fresh:
                fresh[group] = dict(self._groups.get(group, {}))
            fresh[group][key] = sketch.as_of(now)
        self._groups = {**self._groups, **fresh}
        return set(fresh)
