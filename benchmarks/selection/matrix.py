"""Cost matrices: what every variant took in every cell of a machine's grid, read from files of two forms.

A cell is one operation at one size, dtype and shape; a matrix is the cells of one machine in one context. The older
form has quartiles only; what it lacks is derived here, so that a replay never asks which form a file had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .older import declared_shapes, declared_work, guessed_backend

FORMAT = 2  # of the extended form; the older one names none
CONTEXTS = ("quiet", "busy")
BUSY_CORES = 0.3  # where no context is said: above this median of others' cores a recording was busy
LEAST_SPREAD, MOST_SPREAD = 0.01, 1.5
QUARTILES = 1.349  # between the quartiles of a normal distribution, in standard deviations
STALL_FACTOR, STALL_MIN_S = 3.0, 1e-3  # the scheduler stalls a thread for milliseconds; a slow microsecond is no stall
MOST_NS = 1e18  # thirty years: what is longer is no time, and would drown every sum
COMPILING = ("dtype", "shape")
COMPILES = ("never", *COMPILING)
AHEAD = "ahead"
"""What compiles, and has done so before the stream."""
PASSING = frozenset(
    {"date", "units", "versions", "python", "waited_s", "note"}
)  # of `machine`: not what makes it the same one


class Backend(NamedTuple):
    """The library behind a variant; `compiles` says what asks for a new compilation, `import_s` is paid once."""

    name: str
    compiles: str = "never"
    import_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """One variant in one cell; seconds.

    Attributes
    ----------
    first_s : the whole first call, compilation included.
    spread : standard deviation of ln(seconds) of the calls that did not stall.
    stall_rate, stall_s : share of the calls that stall, and the mean length beyond the unstalled time.
    error : relative to the reference; nan where unknown.
    work : elementary operations that the variant declares for this cell.
    """

    low_s: float
    median_s: float
    mean_s: float
    first_s: float
    spread: float
    stall_rate: float
    stall_s: float
    error: float
    work: float

    @property
    def unstalled_s(self) -> float:
        """Mean of the calls that did not stall."""
        return self.mean_s - self.stall_rate * self.stall_s

    def draw(self, rng: np.random.Generator) -> float:
        """Seconds of one warm call: lognormal, now and then stalled; the expectation is `mean_s`."""
        seconds = self.unstalled_s * math.exp(self.spread * rng.standard_normal() - 0.5 * self.spread**2)
        if rng.random() < self.stall_rate:
            seconds += self.stall_s * rng.standard_exponential()
        return float(seconds)

    def slowed(self, factor: float) -> Timing:
        """The same variant `factor` times slower; what is paid once stays."""
        return replace(
            self,
            low_s=self.low_s * factor,
            median_s=self.median_s * factor,
            mean_s=self.mean_s * factor,
            first_s=self.first_s + (factor - 1.0) * self.mean_s,
            stall_s=self.stall_s * factor,
        )


class Key(NamedTuple):
    """What makes two cells the same one."""

    operation: str
    dtype: str
    size: int
    parameters: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Cell:
    """One operation at one size, dtype and shapes: the timing of every variant, in the canonical order."""

    operation: str
    dtype: str
    size: int
    shapes: tuple[tuple[int, ...], ...]
    timings: Mapping[str, Timing]
    default: str
    parameters: str = ""

    @cached_property
    def key(self) -> Key:
        """Operation, dtype, size, parameters and shapes."""
        return Key(self.operation, self.dtype, self.size, self.parameters, self.shapes)

    @cached_property
    def best(self) -> str:
        """The variant of least mean seconds; of equals the first."""
        return min(self.timings, key=lambda variant: self.timings[variant].mean_s)

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants in the canonical order."""
        return tuple(self.timings)

    @cached_property
    def works(self) -> Mapping[str, float]:
        """Declared elementary operations by variant."""
        return {variant: timing.work for variant, timing in self.timings.items()}

    def only(self, variants: Iterable[str]) -> Cell:
        """The same cell with none but these variants; the default stays if it is among them."""
        kept = {name: self.timings[name] for name in self.timings if name in set(variants)}
        return replace(self, timings=kept, default=self.default if self.default in kept else next(iter(kept)))


@dataclass(frozen=True)
class Matrix:
    """The cells recorded on one machine in one context.

    Attributes
    ----------
    other_cores : median of the cores that other processes used during the recording.
    backends : by variant.
    machine : general words (cores, instruction set, versions, date).
    """

    name: str
    context: str
    threads: int
    other_cores: float
    cells: tuple[Cell, ...]
    backends: Mapping[str, Backend]
    machine: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Matrix:
        """Read a matrix of either form.

        Raises
        ------
        ValueError
            The file is not a cost matrix: names the file, what was found and what is expected.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a file of recorded costs") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error}); expected a cost matrix with 'rows'") from None
        try:
            return _matrix(path.stem, data)
        except _Nonsense as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def same(self) -> str:
        """Equal for matrices of one machine with one number of threads, whatever the context and the date."""
        kept = {name: value for name, value in self.machine.items() if name not in PASSING}
        return json.dumps([self.threads, kept], sort_keys=True)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def with_cells(self, cells: Iterable[Cell]) -> Matrix:
        """The same machine and context with these cells."""
        return replace(self, cells=tuple(cells))

    def warmed(self) -> Matrix:
        """What it costs after everything was imported and compiled ahead, as `warmup` does: steady calls alone."""
        cells = [
            replace(
                cell, timings={name: replace(timing, first_s=timing.mean_s) for name, timing in cell.timings.items()}
            )
            for cell in self.cells
        ]
        backends = {name: Backend(backend.name, AHEAD) for name, backend in self.backends.items()}
        return replace(self, cells=tuple(cells), backends=backends)


class _Nonsense(ValueError):
    """What is wrong with the content; the caller adds the file."""


def join(matrices: Iterable[Matrix]) -> list[Matrix]:
    """One matrix for each machine and context; where two recorded the same cell, the first one stays."""
    joined: dict[tuple[str, str], Matrix] = {}
    for matrix in matrices:
        known = joined.get((matrix.same, matrix.context))
        if known is None:
            joined[matrix.same, matrix.context] = matrix
            continue
        cells = {cell.key: cell for cell in (*matrix.cells, *known.cells)}  # the order is made good below
        order = dict.fromkeys(cell.key for cell in (*known.cells, *matrix.cells))
        joined[matrix.same, matrix.context] = replace(
            known, cells=tuple(cells[key] for key in order), backends={**matrix.backends, **known.backends}
        )
    return list(joined.values())


# ---------------------------------------------------------------------------------------------------- reading


def _matrix(name: str, data: Any) -> Matrix:
    if not isinstance(data, Mapping) or not isinstance(data.get("rows"), list):
        found = f"keys {sorted(data)}" if isinstance(data, Mapping) else type(data).__name__
        raise _Nonsense(f"found {found}; expected an object with a list 'rows'")
    if data.get("format", FORMAT) != FORMAT:
        raise _Nonsense(f"found format {data['format']!r}; expected {FORMAT}, or none for the older form")
    if not data["rows"]:
        raise _Nonsense("found no rows; expected at least one with a timed variant")
    threads = data.get("threads")
    if not isinstance(threads, int) or threads < 1:
        raise _Nonsense(f"found threads {threads!r}; expected a whole number from 1")
    cells: dict[Key, Cell] = {}
    others: list[float] = []
    for number, row in enumerate(data["rows"]):
        try:
            cell = _cell(row)
        except _Nonsense as error:
            raise _Nonsense(f"row {number}: {error}") from None
        others.extend(_others(row))
        if cell is not None and cells.setdefault(cell.key, cell) is not cell:
            raise _Nonsense(f"row {number}: found {cell.key} twice; expected every cell once")
    if not cells:
        raise _Nonsense(f"found no time in {len(data['rows'])} rows; expected at least one timed variant")
    other = float(np.median(others)) if others else 0.0
    context = data.get("context") or ("busy" if other > BUSY_CORES else "quiet")
    if context not in CONTEXTS:
        raise _Nonsense(f"found context {context!r}; expected one of {', '.join(CONTEXTS)}")
    machine = data.get("machine", {"versions": data.get("versions", {})})
    if not isinstance(machine, Mapping):
        machine = {"machine": machine}
    backends = _backends(data.get("backends", {}), cells.values())
    return Matrix(name, context, threads, other, tuple(cells.values()), backends, machine)


def _cell(row: Any) -> Cell | None:
    if (
        not isinstance(row, Mapping)
        or not {"op", "dtype", "size", "r"} <= set(row)
        or not isinstance(row["r"], Mapping)
    ):
        found = sorted(row) if isinstance(row, Mapping) else row
        raise _Nonsense(f"found {found}; expected 'op', 'dtype', 'size' and 'r'")
    operation, dtype, size = row["op"], row["dtype"], row["size"]
    if not isinstance(size, int) or size < 1:
        raise _Nonsense(f"found size {size!r} of {operation}; expected a whole number from 1")
    timings = {}
    for variant, entry in row["r"].items():
        if not isinstance(entry, Mapping):
            raise _Nonsense(f"found {entry!r} for {variant} of {operation}; expected an object of times or an 'error'")
        if "med_ns" not in entry:
            continue  # it failed there, or was never run: not a candidate
        try:
            timings[variant] = _timing(entry, entry.get("work", declared_work(operation, variant, size)))
        except (_Nonsense, TypeError, KeyError) as error:
            raise _Nonsense(f"{variant} of {operation}, {dtype}, {size}: {error}") from None
    if not timings:
        return None
    shapes = row.get("shapes") or declared_shapes(operation, size)
    default = row.get("default") or next(iter(timings))
    if default not in row["r"]:
        raise _Nonsense(f"found default {default!r} of {operation}; expected one of {', '.join(row['r'])}")
    return Cell(
        operation,
        dtype,
        size,
        tuple(tuple(int(n) for n in shape) for shape in shapes),
        timings,
        default if default in timings else next(iter(timings)),
        _canonical(row.get("parameters", "")),
    )


def _canonical(parameters: Any) -> str:
    """One text for equal parameters; none are the empty text."""
    if not parameters:
        return ""
    return parameters if isinstance(parameters, str) else json.dumps(parameters, sort_keys=True)


def _timing(entry: Mapping[str, Any], work: float) -> Timing:
    given = {name: value for name, value in entry.items() if name.endswith("_ns") and value is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_NS:
            raise _Nonsense(f"found {name} {value!r}; expected nanoseconds, {MOST_NS:g} at most")
    seconds = {name[:-3]: value * 1e-9 for name, value in given.items()}
    for name in ("q1", "med", "q3", "max", "first"):
        if not seconds.get(name, 0.0) > 0.0:
            raise _Nonsense(f"found {name}_ns {entry.get(f'{name}_ns')!r}; expected nanoseconds above 0")
    if not seconds["q1"] <= seconds["med"] <= seconds["q3"]:
        raise _Nonsense(
            f"found quartiles {entry['q1_ns']}, {entry['med_ns']}, {entry['q3_ns']}; expected them in order"
        )
    limit = STALL_FACTOR * seconds["q1"] + STALL_MIN_S
    calm = [seconds[name] for name in ("q1", "med", "q3") if seconds[name] <= limit]
    spread = math.log(calm[-1] / calm[0]) / (QUARTILES if len(calm) == 3 else QUARTILES / 2)
    # Of a skewed sample the quartiles' average follows the mean far better than exp(spread^2 / 2) would.
    unstalled = sum(calm) / len(calm)
    rate, stall = entry.get("stall_rate"), seconds.get("stall", 0.0)
    if rate is None:
        worst = seconds["max"] if len(calm) == 3 else seconds["q3"]
        stalled = worst > limit
        # A quartile among the stalls: their share lies within a quarter, of which the middle is taken.
        rate = (
            (1.0 / max(int(entry.get("n", 1)), 2) if len(calm) == 3 else 0.875 - 0.25 * len(calm)) if stalled else 0.0
        )
        stall = worst - unstalled if stalled else 0.0
    if not 0.0 <= rate <= 1.0 or stall < 0.0:
        raise _Nonsense(f"found stall_rate {rate!r}, stall_ns {stall * 1e9:g}; expected a share and a length")
    low = seconds.get("low", seconds["q1"])
    mean = seconds.get("mean", unstalled + rate * stall)
    if not mean > 0.0:
        raise _Nonsense(f"found mean_ns {entry['mean_ns']!r}; expected nanoseconds above 0")
    if rate > 0.0:  # a recorded mean and its stalls must leave the unstalled calls a time
        stall = max(min(stall, (mean - min(low, mean)) / rate), 0.0)
    error = entry.get("err")
    return Timing(
        low, seconds["med"], mean, seconds["first"], min(max(spread, LEAST_SPREAD), MOST_SPREAD), float(rate), stall,
        math.nan if error is None else float(error), max(float(work), 1.0),
    )  # fmt: skip


def _others(row: Mapping[str, Any]) -> list[float]:
    """Cores that others used beside the blocks of a row, wherever the form keeps them."""
    found = [row.get("other")] + [entry.get("other") for entry in row["r"].values()]
    values: list[float] = []
    for other in found:
        if other is not None:
            values.extend(map(float, other if isinstance(other, list) else [other]))
    return values


def _backends(said: Mapping[str, Any], cells: Iterable[Cell]) -> dict[str, Backend]:
    backends = {}
    for variant in dict.fromkeys(variant for cell in cells for variant in cell.timings):
        name, compiles, import_s = guessed_backend(variant)
        entry = said.get(variant, {})
        compiles = entry.get("compiles", compiles)
        if compiles not in COMPILES:
            raise _Nonsense(f"found compiles {compiles!r} of {variant}; expected one of {', '.join(COMPILES)}")
        backends[variant] = Backend(entry.get("backend", name), compiles, float(entry.get("import_s", import_s)))
    return backends
