"""What our policy is held against: the oracle, fixed choices, fitted tables, and the learners of `bandits`.

`table` names them all. Only the oracle and the best single choice look at the stream; everything else learns what a
`Call` shows and what `observe` tells.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..baselines import SizeBlindRule, Work
from . import bandits
from .oracle import Oracle

if TYPE_CHECKING:
    from .matrix import Cell, Matrix
    from .replay import Policy
    from .streams import Call, Stream

Group = tuple[str, str]  # operation, dtype
Factory = Callable[["Matrix", "Stream"], "Policy"]

ALWAYS = "always-"


class Heedless:
    """A policy that learns nothing."""

    name = ""

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Nothing is learned."""

    def failed(self, call: Call, variant: str) -> None:
        """Nothing is learned; the next choice of the same call has the variant no more."""


class Fixed(Heedless):
    """One variant per (operation, dtype), the default wherever it cannot run."""

    def __init__(self, name: str, variants: Mapping[Group, str]) -> None:
        self.name, self._variants = name, variants

    def choose(self, call: Call) -> str:
        """The fixed variant."""
        return available(call, self._variants.get((call.operation, call.dtype)))


class Threshold(Heedless):
    """Variant A below a size and B from it on, per (operation, dtype): the least sum of log mean seconds.

    Parameters
    ----------
    cells
        What the rules are fitted on.
    left_out
        Whether a size is judged by the rule fitted on all other sizes, as for a size that was never measured.
    """

    def __init__(self, name: str, cells: Iterable[Cell], left_out: bool) -> None:
        self.name, self._left_out = name, left_out
        self._cells = by_group(cells)
        self._sizes = {group: {cell.size for cell in members} for group, members in self._cells.items()}
        self._rules: dict[tuple[Group, int | None], tuple[str, float, str]] = {}

    def choose(self, call: Call) -> str:
        """The variant on this side of the cut."""
        group = (call.operation, call.dtype)
        if group not in self._cells:
            return available(call, None)
        key = (group, call.size if self._left_out and call.size in self._sizes[group] else None)
        rule = self._rules.get(key)
        if rule is None:
            cells = [cell for cell in self._cells[group] if cell.size != key[1]]
            rule = self._rules[key] = fit(cells or self._cells[group])
        below, cut, above = rule
        return available(call, below if call.size < cut else above)


class SizeBlind(Heedless):
    """Averages per (backend, operation) whatever the size, after fixed thresholds: the rule of `benchmarks.baselines`.

    Its "numba" stands for NumPy, as in the original: there is no NumPy among its backends.
    """

    name = "size-blind"
    _OPERATIONS: Mapping[str, str] = {"elementwise": "element_wise"}  # its own words, so that its own rules hold

    def __init__(self, matrix: Matrix) -> None:
        self._variants = {word: simple_variants(matrix, word) for word in ("torch", "jax")}
        self._variants["numba"] = simple_variants(matrix, "numpy")
        self._rule = SizeBlindRule([word for word, known in self._variants.items() if known or word == "numba"])

    def choose(self, call: Call) -> str:
        """Learned if anything is, else by its thresholds."""
        word = self._rule.select(Work(self._operation(call), call.size))
        return available(call, self._variants[word].get((call.operation, call.dtype)))

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:  # noqa: ARG002
        """Add to the mean, first calls included: the rule knows of no cold call."""
        self._rule.record(self._word(call, variant), self._operation(call), seconds)

    def failed(self, call: Call, variant: str) -> None:
        """Count a failure."""
        self._rule.record(self._word(call, variant), self._operation(call), 0.0, success=False)

    def _word(self, call: Call, variant: str) -> str:
        group = (call.operation, call.dtype)
        return next((word for word, known in self._variants.items() if known.get(group) == variant), "numba")

    def _operation(self, call: Call) -> str:
        return self._OPERATIONS.get(call.operation, call.operation)


def table(matrices: Sequence[Matrix]) -> dict[str, Factory]:
    """Name -> factory of every policy beside ours, an always-X for each backend (of these matrices).

    A factory takes the matrix (the quiet one, where a stream has two) and the stream, and returns a new policy. What
    cannot run for want of a library is left out, and a line on stderr says so.
    """
    made: dict[str, Factory] = {Oracle.name: lambda _matrix, stream: Oracle(stream)}
    for backend in dict.fromkeys(name for matrix in matrices for name in backends_of(matrix)):
        made[ALWAYS + backend] = _always(backend)
    made["best-fixed"] = best_fixed
    made["threshold"] = lambda matrix, _: Threshold("threshold", matrix.cells, left_out=False)
    made["threshold-left-out"] = lambda matrix, _: Threshold("threshold-left-out", matrix.cells, left_out=True)
    made[SizeBlind.name] = lambda matrix, _: SizeBlind(matrix)
    for name, make in bandits.learners().items():
        made[name] = _learner(make)
    if (line := bandits.absent()) is not None:
        print(line, file=sys.stderr)
    return made


def available(call: Call, variant: str | None) -> str:
    """`variant` where the call has it, else the default, else the first in canonical order."""
    if variant is not None and variant in call.variants:
        return variant
    return call.default if call.default in call.variants else call.variants[0]


def backends_of(matrix: Matrix) -> list[str]:
    """Backends of the matrix in the order of their variants."""
    return list(dict.fromkeys(backend.name for backend in matrix.backends.values()))


def simple_variants(matrix: Matrix, backend: str) -> dict[Group, str]:
    """Which variant a user of one backend would take, per (operation, dtype).

    The one that bears the backend's name; where there is none, the best of its variants in geometric mean over the
    sizes that most of them can do, which favours the fixed choice.
    """
    chosen: dict[Group, str] = {}
    for group, cells in by_group(matrix.cells).items():
        counts = Counter(variant for cell in cells for variant in cell.timings)
        of_backend = [variant for variant in counts if matrix.backends[variant].name == backend]
        if not of_backend:
            continue
        if backend in of_backend:
            chosen[group] = backend
        else:
            chosen[group] = min(of_backend, key=lambda variant: _log_seconds(cells, variant))
    return chosen


def best_fixed(matrix: Matrix, stream: Stream) -> Fixed:
    """The single fixed choice with the least mean seconds over the whole stream: a backend or a variant's name."""
    candidates = {backend: simple_variants(matrix, backend) for backend in backends_of(matrix)}
    groups = list(by_group(matrix.cells))
    for variant in matrix.backends:
        candidates.setdefault(variant, dict.fromkeys(groups, variant))
    tables = stream.tables
    counts, first = np.bincount(tables.row), np.unique(tables.row, return_index=True)[1]
    cells = [stream.steps[index].cell for index in first.tolist()]

    def total(variants: Mapping[Group, str]) -> float:
        seconds = 0.0
        for row, cell in enumerate(cells):
            variant = variants.get((cell.operation, cell.dtype))
            column = cell.variants.index(variant) if variant in cell.timings else -1
            if column < 0 or not tables.works[row, column]:
                column = int(tables.default[row])
            seconds += float(counts[row] * tables.mean[row, column])
        return seconds

    return Fixed("best-fixed", min(candidates.values(), key=total))


def by_group(cells: Iterable[Cell]) -> dict[Group, list[Cell]]:
    """Cells per (operation, dtype), by size."""
    groups: dict[Group, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.operation, cell.dtype), []).append(cell)
    return {group: sorted(members, key=lambda cell: cell.size) for group, members in groups.items()}


def fit(cells: Sequence[Cell]) -> tuple[str, float, str]:
    """The best rule "A below the cut, B from it on" for cells of one (operation, dtype).

    The cut lies at the geometric mean of two neighbouring sizes; a single variant for all sizes is a rule too.
    """
    cells = sorted(cells, key=lambda cell: cell.size)
    variants = list(dict.fromkeys(variant for cell in cells for variant in cell.timings))
    sizes = sorted({cell.size for cell in cells})
    cuts = [0.0, *(math.sqrt(low * high) for low, high in itertools.pairwise(sizes))]
    rules = []
    for cut in cuts:
        sides = [[cell for cell in cells if cell.size < cut], [cell for cell in cells if cell.size >= cut]]
        (low, below), (high, above) = (
            min((_log_seconds(side, variant), variant) for variant in variants) for side in sides
        )
        rules.append((low + high, below, cut, above))
    _, below, cut, above = min(rules, key=lambda rule: rule[0])
    return below, cut, above


def _log_seconds(cells: Sequence[Cell], variant: str) -> float:
    """Sum of log mean seconds, the default's where the variant cannot run."""
    return sum(math.log((cell.timings.get(variant) or cell.timings[cell.default]).mean_s) for cell in cells)


def _always(backend: str) -> Factory:
    return lambda matrix, _: Fixed(ALWAYS + backend, simple_variants(matrix, backend))


def _learner(make: Callable[[], Policy]) -> Factory:
    return lambda _matrix, _stream: make()
