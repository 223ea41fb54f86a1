"""Streams of calls over the cells of a cost matrix, deterministic under a seed; what a policy sees of each call.

A stream is laid out once, as tables over its distinct truths (a cell with what is broken or slower just then), so that
every policy replays the very same calls with the very same draws.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .matrix import CONTEXTS, Backend, Cell, Key, Matrix
from .novel import Segments
from .truths import Tables, tabulated

NOTHING: Mapping[str, float] = {}
BREAKS, HEALS, LEFT_OUT, STEPS, LAST = 0.3, 0.8, 0.8, 0.5, 0.8  # shares of a stream's calls
SLOWER = 3.0


@dataclass(frozen=True, slots=True)
class Call:
    """All that a policy may see of a call.

    Attributes
    ----------
    now : virtual seconds, the sum of what was paid so far.
    variants : in the canonical order; those that have failed in this call are dropped.
    works : declared elementary operations, by variant.
    backends : of every variant of the matrix.
    busy : what a load meter says; it follows the truth half a virtual second late.
    """

    index: int
    now: float
    operation: str
    dtype: str
    size: int
    shapes: tuple[tuple[int, ...], ...]
    parameters: str
    variants: tuple[str, ...]
    default: str
    works: Mapping[str, float]
    backends: Mapping[str, Backend]
    busy: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A call and the truth about it, which no honest policy sees.

    `call.now` is 0 and `call.busy` the truth here; the replay fills in what the policy has paid and the meter says.
    """

    call: Call
    cell: Cell
    broken: frozenset[str]
    slower: Mapping[str, float]


@dataclass(frozen=True)
class Stream:
    """The calls of one stream, a sequence of steps, and the tables the replay reads.

    Attributes
    ----------
    matrix : what the policies may be told about the machine; the quiet one where there are two.
    judged : by call, whether the measures of what was learned are about it.
    changes : indices of the calls at which the truth changes.
    groups : named parts of the judged calls, as masks by call.
    imports : whether the first use of a backend costs its import.
    once : whether a variant that never compiles starts cold once for its (operation, dtype), not for each cell.
    """

    name: str
    matrix: Matrix
    steps: Sequence[Step]
    judged: np.ndarray
    changes: tuple[int, ...] = ()
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    imports: bool = False
    once: bool = False

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    @cached_property
    def phases(self) -> np.ndarray:
        """By call, how many changes of the truth came before."""
        phases: np.ndarray = np.searchsorted(np.asarray(self.changes, dtype=int), np.arange(len(self)), side="right")
        return phases

    @cached_property
    def tables(self) -> Tables:
        """The truths as arrays."""
        return tabulated(self)

    def draws(self, seed: int) -> np.ndarray:
        """Seconds that each variant would take in each call, shape (calls, variants); nan where there is none.

        The same for every policy, so that luck separates none of them.
        """
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        table, shape = self.tables, (len(self), self.tables.mean.shape[1])
        rows, spread = table.row, table.spread[table.row]
        seconds = table.unstalled[rows] * np.exp(spread * rng.standard_normal(shape) - 0.5 * spread**2)
        stalled = rng.random(shape) < table.stall_rate[rows]
        drawn: np.ndarray = seconds + stalled * table.stall[rows] * rng.standard_exponential(shape)
        return drawn


# ---------------------------------------------------------------------------------------------------- making them


def uniform(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """Uniformly over (operation, dtype), then over its cells."""
    matrix = matrices[0]
    return stream_of("uniform", matrix, _spread(matrix.cells, calls, _rng("uniform", seed)))


def cold(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """As uniform, in a process that has imported nothing: the first use of a backend costs its import."""
    matrix = matrices[0]
    return stream_of("cold", matrix, _spread(matrix.cells, calls, _rng("cold", seed)), imports=True)


def zipf(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """A few cells often, most of them rarely: weight 1 / rank in a drawn order."""
    matrix, rng = matrices[0], _rng("zipf", seed)
    order = rng.permutation(len(matrix.cells))
    weights = 1.0 / np.arange(1, len(order) + 1)
    drawn = rng.choice(order, size=calls, p=weights / weights.sum())
    return stream_of("zipf", matrix, [matrix.cells[index] for index in drawn])


def unseen(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """Sizes left out while learning: the last fifth draws inner ones first, then sizes at an end of the grid."""
    matrix, rng = matrices[0], _rng("unseen", seed)
    inner: list[Cell] = []
    ends: list[Cell] = []
    for cells in _families(matrix.cells):
        sizes = sorted({cell.size for cell in cells})
        if len(sizes) < 3:
            continue
        end = int(rng.integers(2)) * (len(sizes) - 1) if len(sizes) > 3 else -1
        between = [i for i in range(1, len(sizes) - 1) if abs(i - end) > 1 or end < 0] or list(range(1, len(sizes) - 1))
        middle = int(rng.choice(between))
        inner.extend(cell for cell in cells if cell.size == sizes[middle])
        if end >= 0:
            ends.extend(cell for cell in cells if cell.size == sizes[end])
    if not inner:
        raise ValueError(f"unseen: no (operation, dtype) of {matrix.name} has three sizes; record more of them")
    hidden = {cell.key for cell in (*inner, *ends)}
    known = [cell for cell in matrix.cells if cell.key not in hidden]
    turn = int(LEFT_OUT * calls)
    half = turn + (calls - turn) // (2 if ends else 1)
    cells = _spread(known, turn, rng) + _spread(inner, half - turn, rng) + _spread(ends or inner, calls - half, rng)
    index = np.arange(calls)
    groups = {"inside": (index >= turn) & (index < half), "ends": index >= half}
    return stream_of("unseen", matrix, cells, judged=index >= turn, groups=groups)


def storm(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """Ever-new shapes: sizes between the recorded ones, each seen once; a per-shape compiler compiles every time."""
    matrix = matrices[0]
    cells = Segments(matrix).draw(calls, _rng("storm", seed))
    return stream_of("storm", matrix, cells, once=True)


def switch(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """Quiet, busy, quiet again, in thirds: two matrices of one machine, and the cells that both have."""
    quiet, busy = matrices[0], _other(matrices)
    pairs: dict[Key, tuple[Cell, Cell]] = {}
    loaded = {cell.key: cell for cell in busy.cells}
    for cell in quiet.cells:
        other = loaded.get(cell.key)
        common = [name for name in cell.timings if other is not None and name in other.timings]
        if other is not None and common:
            beside = other.only(common)
            ordered = {name: beside.timings[name] for name in common}
            default = cell.default if cell.default in common else common[0]
            pairs[cell.key] = (
                cell.only(common),
                Cell(cell.operation, cell.dtype, cell.size, cell.shapes, ordered, default, cell.parameters),
            )
    if not pairs:
        raise ValueError(f"switch: {quiet.name} and {busy.name} have no cell in common; record both on one grid")
    matrix = quiet.with_cells(first for first, _ in pairs.values())
    turns = (calls // 3, 2 * calls // 3)
    drawn = _spread(matrix.cells, calls, _rng("switch", seed))
    load = [turns[0] <= index < turns[1] for index in range(calls)]
    cells = [pairs[cell.key][truth] for cell, truth in zip(drawn, load, strict=True)]
    index, judged = np.arange(calls), np.zeros(calls, dtype=bool)
    for start, end in zip((0, *turns), (*turns, calls), strict=True):
        judged |= (index >= start + LAST * (end - start)) & (index < end)
    under = np.asarray(load)
    return stream_of(
        "switch", matrix, cells, judged=judged, changes=turns, load=load, groups={"busy": under, "quiet": ~under}
    )


def breaking(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """The variant that is best in most cells raises from 30 % of the calls on, and works again from 80 % on."""
    matrix = matrices[0]
    victim = _favourite([cell for cell in matrix.cells if len(cell.timings) > 1] or matrix.cells)
    turns = (int(BREAKS * calls), int(HEALS * calls))
    drawn = _spread(matrix.cells, calls, _rng("break", seed))
    broken = [
        frozenset((victim,)) if turns[0] <= index < turns[1] and len(cell.timings) > 1 else frozenset()
        for index, cell in enumerate(drawn)
    ]
    return stream_of("break", matrix, drawn, changes=turns, broken=broken)


def step(matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """At half, the variant that is best in most cells becomes three times slower, and stays so."""
    matrix = matrices[0]
    turn, slower = int(STEPS * calls), {_favourite(matrix.cells): SLOWER}
    drawn = _spread(matrix.cells, calls, _rng("step", seed))
    return stream_of(
        "step", matrix, drawn, changes=(turn,), slower=[NOTHING if i < turn else slower for i in range(calls)]
    )


NEEDS = {  # what `possible` asks for
    "switch": "it needs a quiet and a busy matrix of one machine and number of threads, with cells in common",
    "unseen": "it needs an (operation, dtype) with three sizes",
    "storm": "it needs an (operation, dtype) with two sizes",
}
Maker = Callable[[Sequence[Matrix], int, int], Stream]
STREAMS: dict[str, Maker] = {
    "uniform": uniform,
    "zipf": zipf,
    "unseen": unseen,
    "storm": storm,
    "switch": switch,
    "break": breaking,
    "step": step,
    "cold": cold,
}


def possible(matrices: Sequence[Matrix]) -> list[str]:
    """Names of the streams that these matrices of one machine (the first one leads) suffice for."""
    names = list(STREAMS)
    quiet, busy = ({cell.key for m in matrices if m.context == context for cell in m} for context in CONTEXTS)
    if not quiet & busy:
        names.remove("switch")
    if not any(len({cell.size for cell in cells}) > 2 for cells in _families(matrices[0].cells)):
        names.remove("unseen")
    if not Segments(matrices[0]).found:
        names.remove("storm")
    return names


def build(name: str, matrices: Sequence[Matrix], calls: int, seed: int) -> Stream:
    """Make a stream over matrices of one machine, the quiet one first.

    Raises
    ------
    ValueError
        No stream has that name, or the matrices do not suffice for it.
    """
    if name not in STREAMS:
        raise ValueError(f"no stream {name!r}; there are: {', '.join(STREAMS)}")
    if calls < 1:
        raise ValueError(f"found {calls} calls; a stream needs at least 1")
    return STREAMS[name](matrices, calls, seed)


def _other(matrices: Sequence[Matrix]) -> Matrix:
    for matrix in matrices:
        if matrix.context != matrices[0].context:
            return matrix
    raise ValueError(
        f"switch: found only {matrices[0].context} matrices ({', '.join(m.name for m in matrices)}); "
        "give a quiet and a busy one of the same machine and number of threads"
    )


def _rng(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), 1])  # draws of seconds have a generator of their own


def _families(cells: Sequence[Cell]) -> list[list[Cell]]:
    families: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        families.setdefault((cell.operation, cell.dtype), []).append(cell)
    return list(families.values())


def _spread(cells: Sequence[Cell], calls: int, rng: np.random.Generator) -> list[Cell]:
    families = _families(cells)
    which, where = rng.integers(len(families), size=calls), rng.random(calls)
    return [
        families[family][int(place * len(families[family]))]
        for family, place in zip(which.tolist(), where.tolist(), strict=True)
    ]


def _favourite(cells: Sequence[Cell]) -> str:
    return Counter(cell.best for cell in cells).most_common(1)[0][0]


def stream_of(
    name: str, matrix: Matrix, cells: Sequence[Cell], *, judged: np.ndarray | None = None,
    changes: tuple[int, ...] = (), groups: Mapping[str, np.ndarray] | None = None, load: Sequence[bool] | None = None,
    broken: Sequence[frozenset[str]] | None = None, slower: Sequence[Mapping[str, float]] | None = None,
    imports: bool = False, once: bool = False,
) -> Stream:  # fmt: skip
    """These calls of a matrix's cells, one after the other, as a stream.

    Parameters
    ----------
    name, matrix, judged, changes, groups, imports, once : as in `Stream`; judged None: the last fifth of the calls.
    cells : one for each call.
    load : by call, whether the machine is busy; None: as when the matrix was measured.
    broken, slower : by call, the variants that fail, and those that take so many times as long.
    """
    busy, whole = matrix.context == "busy", frozenset[str]()
    backends = matrix.backends
    if not imports:  # a policy is told what will be charged here
        backends = {variant: backend._replace(import_s=0.0) for variant, backend in backends.items()}
    steps = [
        Step(
            Call(
                index, 0.0, cell.operation, cell.dtype, cell.size, cell.shapes, cell.parameters, cell.variants,
                cell.default, cell.works, backends, busy if load is None else load[index],
            ),
            cell,
            whole if broken is None else broken[index],
            NOTHING if slower is None else slower[index],
        )
        for index, cell in enumerate(cells)
    ]  # fmt: skip
    if judged is None:
        judged = np.arange(len(steps)) >= LAST * len(steps)
    return Stream(name, matrix, steps, judged, changes, groups or {}, imports, once)
