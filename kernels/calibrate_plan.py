"""What calibrating measures next: the cheapest information first, and nothing that is hopeless or known already.

A plan holds the grid of what could be measured (operation x dtype x form x size x variant). Sizes open from small to
large, a decade at a time, the default variant first. Then the variant goes next whose measurement is worth most a
second: the share of time that it is expected to save, here and at the group's other sizes, over the seconds of its
import, its first call and its samples. Pure: it runs nothing and reads no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..executors.base import Variant
from ..selector.base import CostModel, Prediction
from ..selector.engine import Choice
from ..selector.request import Request
from ..telemetry.outcome import QUIET
from .base import Kernel

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
STACK_FROM = 10_000
"""Elements from which an operation is measured on stacked data too: below, overheads decide in either form."""
ENOUGH = 3
"""Steady samples of a cell that settle it; fast calls get `MOST_SAMPLES` in one go."""
MOST_SAMPLES = 9
SAMPLING_S = 0.05
"""Seconds that the samples of one variant may take beyond the first `ENOUGH`."""
HOPELESS = 3.0
"""A variant that is slower than the best by this factor is left out of further rounds."""
LEAST_WORTH = 0.01
"""Expected saving, as a share of the time, below which nothing more is measured."""
ELSEWHERE = 0.5
"""How much of what a sample teaches carries over to the group's other sizes."""
HUNCH = 0.1
"""What it is worth to look whether a small size was slow for its overhead alone, as a share of what that would save."""
SHARE = 0.3
"""Share of the budget left that one first call may take, import included."""
BASE_S = 2e-3
"""What any step costs: preparing, checking, bookkeeping."""
WEIGHTS = {"float64": 1.0, "float32": 0.8}
OTHER_WEIGHT = 0.2
"""Complex and whole numbers are asked for less often."""


@dataclass(frozen=True, eq=False)
class Series:
    """What sizes share: the row of the report, and the curve that samples of one size tell others about."""

    kernel: Kernel
    dtype: str
    form: str  # "" or "stacked"

    @property
    def title(self) -> str:
        """Its name for people."""
        return " ".join(filter(None, (self.kernel.name, self.dtype, self.form)))


@dataclass(eq=False)
class Cell:
    """One series at one size: where variants compete.

    Attributes
    ----------
    sample_s : seconds that making its data takes.
    settled : variants that are not to be measured here (again), and why.
    """

    series: Series
    size: int
    request: Request
    choice: Choice
    sample_s: float
    settled: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.series.title} {power(self.size)}"


class Step(NamedTuple):
    """What to do next: open the series' next size (`cell` None), or measure `variants` in `cell`."""

    series: Series
    size: int
    cell: Cell | None
    variants: tuple[str, ...]
    rate: float  # worth per second


_Believed = Sequence[tuple[Cell, dict[str, Prediction]]]
"""Cells of one series from small to large, with what is expected in each."""


@dataclass(eq=False)
class Track:
    """How far a series has come."""

    cells: list[Cell] = field(default_factory=list)
    closed: bool = False  # no larger size is to be opened
    step: Step | None = None
    stale: bool = True


class Plan:
    """Chooses the next step.

    Parameters
    ----------
    series : what to measure.
    costs : predicts from everything measured so far.
    cold : gives (import, compilation) seconds that a first call of a variant still costs in a cell.
    sizes : elements of the first operand, ascending.
    """

    def __init__(
        self, series: Sequence[Series], costs: CostModel, cold: Callable[[Cell, Variant], tuple[float, float]],
        sizes: Sequence[int] = SIZES,
    ) -> None:  # fmt: skip
        self._tracks = {one: Track() for one in series}
        self._costs, self._cold, self._sizes = costs, cold, tuple(sizes)
        self.context = QUIET
        self.held_back = False  # something worthwhile was too dear for what is left of the budget

    def next(self, left_s: float) -> Step | None:
        """The step worth most a second that fits into `left_s`; None: nothing is worth it."""
        best: Step | None = None
        for series, track in self._tracks.items():
            if track.stale:
                track.step, track.stale = self._best_of(series, track, left_s), False
            if track.step is not None and (best is None or track.step.rate > best.rate):
                best = track.step
        return best

    def opened(self, cell: Cell) -> None:
        """A size has been opened."""
        self._tracks[cell.series].cells.append(cell)
        self.changed(cell.series)

    def close(self, series: Series) -> None:
        """No larger size of `series` can be measured."""
        self._tracks[series].closed = True
        self.changed(series)

    def changed(self, series: Series | None = None) -> None:
        """Something was measured or imported: look again at everything of that operation and dtype, or at all."""
        for one, track in self._tracks.items():
            if series is None or (one.kernel is series.kernel and one.dtype == series.dtype):
                track.stale = True

    def cells(self) -> Iterator[Cell]:
        """All cells opened so far, series by series, from small to large."""
        for track in self._tracks.values():
            yield from track.cells

    def predictions(self, cell: Cell) -> dict[str, Prediction]:
        """What each candidate of `cell` is expected to take."""
        names = list(cell.choice.sites)
        sites = [cell.choice.sites[name] for name in names]
        backends = [cell.choice.variants[name].backend for name in names]
        return dict(zip(names, self._costs.predict(sites, backends, self.context), strict=True))

    # ------------------------------------------------------------------------------------------ one series

    def _best_of(self, series: Series, track: Track, left_s: float) -> Step | None:
        weight = WEIGHTS.get(series.dtype, OTHER_WEIGHT) * (OTHER_WEIGHT if series.form else 1.0)
        believed = [(cell, self.predictions(cell)) for cell in track.cells]
        rate = _best_rate(believed)
        gains = {
            (cell.size, name): max(_relative_gain(_now(cell, predicted), p), _hunch(believed, cell, name, rate))
            for cell, predicted in believed
            for name, p in predicted.items()
            if open_to(cell, name, p)
        }
        steps = [s for s in (self._opening(series, track, weight),) if s is not None]
        for cell, predicted in believed:
            default = cell.choice.decision.default
            if open_to(cell, default, predicted[default]):
                step = self._of_cell(cell, predicted, {default: 1.0}, weight, left_s)
            else:
                worths = {}
                for name in predicted:
                    here = gains.get((cell.size, name), 0.0)
                    if name != default and here > 0.0:
                        elsewhere = sum(g for (size, n), g in gains.items() if n == name and size != cell.size)
                        worths[name] = here + ELSEWHERE * elsewhere
                step = self._of_cell(cell, predicted, worths, weight, left_s)
            if step is not None:
                steps.append(step)
        return max(steps, key=lambda s: s.rate, default=None)

    def _of_cell(
        self, cell: Cell, predicted: dict[str, Prediction], worths: dict[str, float], weight: float, left_s: float
    ) -> Step | None:
        """The variants of one cell that are worth measuring together, by what a second on the best of them is worth."""
        rates: dict[str, float] = {}
        for name, worth in worths.items():
            p, variant = predicted[name], cell.choice.variants[name]
            import_s, compile_s = self._cold(cell, variant)
            if worth < LEAST_WORTH:
                continue
            if import_s + compile_s + p.high > SHARE * left_s:
                self.held_back = True
                continue
            # An import serves every series that waits for it.
            cold_s = import_s / len(self._tracks) + compile_s
            rates[name] = weight * worth / (BASE_S + cell.sample_s + cold_s + (ENOUGH + 1) * p.mean_s)
        if not rates:
            return None
        top = max(rates.values())
        together = tuple(name for name, rate in rates.items() if rate >= top / HOPELESS)
        return Step(cell.series, cell.size, cell, together, top)

    def _opening(self, series: Series, track: Track, weight: float) -> Step | None:
        """Opening the next size, once the default has run at the one before; its cost is guessed from that."""
        reached = track.cells[-1] if track.cells else None
        least = STACK_FROM if series.form else 0
        size = next((s for s in self._sizes if s >= least and (reached is None or s > reached.size)), None)
        if track.closed or size is None:
            return None
        cost_s = BASE_S
        if reached is not None:
            growth = size / reached.size
            p = self.predictions(reached)[reached.choice.decision.default]
            if not p.evidence:  # not yet, or never: what it computes is what others are checked against
                return None
            cost_s += growth * (reached.sample_s + (ENOUGH + 1) * p.mean_s)
        return Step(series, size, None, (), weight / cost_s)


def open_to(cell: Cell, name: str, prediction: Prediction) -> bool:
    """Whether variant `name` has too few samples in `cell` and nothing speaks against taking some."""
    return name not in cell.settled and prediction.evidence < ENOUGH


def _best_rate(believed: _Believed) -> float:
    """Most declared work a second that any variant has shown; 0.0 where none has run."""
    return max(
        (cell.choice.sites[name].work / p.seconds
         for cell, predicted in believed for name, p in predicted.items() if p.evidence),
        default=0.0,
    )  # fmt: skip


def _hunch(believed: _Believed, cell: Cell, name: str, rate: float) -> float:
    """Worth of looking at a size beyond those where `name` has run, even if its curve promises nothing.

    A small size may have been slow for its overhead alone. At best, the time stays what it was there, and the work is
    done somewhat faster than any so far: that is what declared work says against a quadratic algorithm.
    """
    before = [predicted[name].seconds for c, predicted in believed
              if c.size < cell.size and name in predicted and predicted[name].evidence]  # fmt: skip
    beyond = any(c.size >= cell.size and name in predicted and predicted[name].evidence for c, predicted in believed)
    if not before or beyond or not rate:
        return 0.0
    at_best = max(before[-1], cell.choice.sites[name].work / (HOPELESS * rate))
    return HUNCH * max(0.0, 1.0 - at_best / _now(cell, dict(believed)[cell]))


def _now(cell: Cell, predicted: dict[str, Prediction]) -> float:
    """Seconds of the best that is measured in `cell`; of the default where nothing is."""
    known = [p.mean_s for p in predicted.values() if p.evidence]
    return min(known, default=predicted[cell.choice.decision.default].mean_s)


def _relative_gain(now_s: float, p: Prediction) -> float:
    """E[max(now - t, 0)] / now for log-normal t: what finding out is expected to save, as a share."""
    sigma = max(p.sigma, 1e-3)
    d = (math.log(now_s) - p.mu) / sigma
    return max(0.0, _phi(d) - math.exp(p.mu + 0.5 * sigma * sigma) / now_s * _phi(d - sigma))


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def power(size: int) -> str:
    """A size as people write it: "10^5"."""
    exponent = round(math.log10(size))
    return f"10^{exponent}" if 10**exponent == size else str(size)
