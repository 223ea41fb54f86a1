"""The oracle: it knows the whole stream and every true mean, and pays for imports and compilation as all do."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .streams import Call, Stream

WEIGHED = 10  # variants of which every set is weighed; of more, sets of the few below
FEW = 3  # as many as a stream has phases: a cell is never worth more variants than truths


@dataclass(frozen=True)
class _Component:
    """Truths that share what is warm: one cell, or one (operation, dtype) where nearly all is warm for every shape.

    Arrays have a row per truth and a column per variant.
    """

    rows: NDArray[np.int64]  # numbers of the truths, in the order of the stream
    variants: tuple[str, ...]
    seconds: NDArray[np.float64]  # of all calls of the truth, with first calls that only this truth pays; inf if broken
    shared: NDArray[np.float64]  # first call's extra seconds that are paid once for several truths of the component
    slots: NDArray[np.int64]  # number of what becomes warm: truths of equal numbers share that first call


@dataclass(frozen=True)
class _Plan:
    """One set of variants: what it costs, what it needs that others need too, and the column for each truth."""

    seconds: float
    backends: frozenset[str]
    compiled: frozenset[int]  # slots that several components share: paid by the group
    columns: NDArray[np.intp]


@dataclass(frozen=True)
class _Group:
    """The components of one (operation, dtype), and the compilations that serve several of them."""

    components: list[_Component]
    plans: list[list[_Plan]]
    compiling: dict[int, float]  # slot -> seconds

    def best(self, barred: frozenset[str]) -> tuple[float, list[_Plan]]:
        """Least seconds, and the plan of each component, without the barred backends."""
        left = [[plan for plan in some if not plan.backends & barred] for some in self.plans]
        found: tuple[float, list[_Plan]] = (np.inf, [])
        for size in range(len(self.compiling) + 1):
            for some in itertools.combinations(self.compiling, size):
                within = [[plan for plan in plans if plan.compiled <= set(some)] for plans in left]
                if not all(within):
                    continue
                chosen = [min(plans, key=lambda plan: plan.seconds) for plans in within]
                total = sum(self.compiling[slot] for slot in some) + sum(plan.seconds for plan in chosen)
                if total < found[0]:
                    found = total, chosen
        return found


class Oracle:
    """Per cell the variants that minimise means + first calls + imports over the whole stream, then the best of them.

    It is exact where a cell has one truth or all sets of its variants can be weighed (up to ten variants). In streams
    whose truth changes it knows the truth of each call, and pays a second first call only if that is worth it.
    """

    name = "oracle"

    def __init__(self, stream: Stream) -> None:
        groups = _groups(stream)
        barred = _not_worth_importing(stream, groups)
        self._row = stream.tables.row
        self._planned: dict[int, str] = {}
        for group in groups:
            for component, plan in zip(group.components, group.best(barred)[1], strict=True):
                for row, column in zip(component.rows.tolist(), plan.columns.tolist(), strict=True):
                    self._planned[row] = component.variants[column]

    def choose(self, call: Call) -> str:
        """The planned variant."""
        planned = self._planned[int(self._row[call.index])]
        if planned in call.variants:
            return planned
        return call.default if call.default in call.variants else call.variants[0]

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Nothing is left to learn."""

    def failed(self, call: Call, variant: str) -> None:
        """It does not happen to whom knows what is broken."""


def _groups(stream: Stream) -> list[_Group]:
    table = stream.tables
    first_call, counts = np.unique(table.row, return_index=True)[1], np.bincount(table.row)
    owners = {variant: backend.name for variant, backend in stream.matrix.backends.items()}
    slots = np.bincount(_slots(stream, first_call), minlength=int(table.warmth.max()) + 1)
    rows: dict[tuple[str, str], dict[object, list[int]]] = {}
    for row in np.argsort(first_call).tolist():
        key = stream.steps[first_call[row]].cell.key
        parts = rows.setdefault((key.operation, key.dtype), {})
        parts.setdefault(None if stream.once else key, []).append(row)
    groups = []
    for parts in rows.values():
        components = [_component(stream, some, first_call, counts, slots) for some in parts.values()]
        users = Counter(slot for component in components for slot in np.unique(component.slots).tolist() if slot >= 0)
        compiling: dict[int, float] = {}
        for component in components:
            several = np.isin(component.slots, [slot for slot, count in users.items() if count > 1])
            compiling |= dict(zip(component.slots[several].tolist(), component.shared[several].tolist(), strict=True))
            component.shared[several] = 0.0  # the group pays it
        plans = [list(_plans(component, owners, frozenset(compiling))) for component in components]
        groups.append(_Group(components, plans, compiling))
    return groups


def _slots(stream: Stream, first_call: NDArray[np.intp]) -> NDArray[np.int64]:
    """Numbers of what becomes warm, once for each truth that shares it."""
    table = stream.tables
    widths = [len(stream.steps[call].cell.timings) for call in first_call.tolist()]
    return np.concatenate([table.warmth[row, :width] for row, width in enumerate(widths)])


def _component(
    stream: Stream, rows: Sequence[int], first_call: NDArray[np.intp], counts: NDArray[np.intp],
    slots: NDArray[np.intp],
) -> _Component:  # fmt: skip
    table = stream.tables
    names = [stream.steps[first_call[row]].cell.variants for row in rows]
    variants = tuple(dict.fromkeys(variant for some in names for variant in some))
    place = {variant: column for column, variant in enumerate(variants)}
    seconds = np.full((len(rows), len(variants)), np.inf)
    shared, numbers = np.zeros_like(seconds), np.full(seconds.shape, -1, dtype=np.int64)
    for number, (row, some) in enumerate(zip(rows, names, strict=True)):
        columns, width = [place[variant] for variant in some], len(some)
        alone = slots[table.warmth[row, :width]] == 1
        extra = table.extra[row, :width]
        cost = counts[row] * table.mean[row, :width] + np.where(alone, extra, 0.0)
        seconds[number, columns] = np.where(table.works[row, :width], cost, np.inf)
        shared[number, columns] = np.where(alone, 0.0, extra)
        numbers[number, columns] = table.warmth[row, :width]
    return _Component(np.asarray(rows), variants, seconds, shared, numbers)


def _plans(component: _Component, owners: Mapping[str, str], common: frozenset[int]) -> Iterator[_Plan]:
    """A plan for every set of variants that could be the best."""
    wide, truths = len(component.variants), np.arange(len(component.rows))
    most = 1 if len(component.rows) == 1 else wide if wide <= WEIGHED else FEW
    for size in range(1, min(most, wide) + 1):
        for some in itertools.combinations(range(wide), size):
            among = component.seconds[:, some]
            columns = np.asarray(some)[np.argmin(among, axis=1)]
            seconds = float(among.min(axis=1).sum())
            if not np.isfinite(seconds):
                continue
            first = np.unique(component.slots[truths, columns], return_index=True)[1]
            seconds += float(component.shared[first, columns[first]].sum())
            used = frozenset(owners[component.variants[column]] for column in np.unique(columns))
            yield _Plan(seconds, used, common & set(component.slots[truths, columns].tolist()), columns)


def _not_worth_importing(stream: Stream, groups: Sequence[_Group]) -> frozenset[str]:
    """Backends to leave alone: the sum of imports and of each group's best plan is least without them."""
    prices = {backend.name: backend.import_s for backend in stream.matrix.backends.values() if backend.import_s > 0.0}
    if not stream.imports:
        return frozenset()
    best, least = frozenset[str](), np.inf
    for size in range(len(prices) + 1):
        for some in itertools.combinations(prices, size):
            barred = frozenset(prices) - set(some)
            total = sum(prices[backend] for backend in some) + sum(group.best(barred)[0] for group in groups)
            if total < least:
                best, least = barred, total
    return best
