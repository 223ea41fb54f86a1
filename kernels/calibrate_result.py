"""What calibrating found out: crossovers and gains by series, as rows, text and plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from math import exp, log
from pathlib import Path
from typing import Any, NamedTuple

from ..selector.base import Prediction
from ..selector.policy import GUARD, TIE
from ..telemetry.files import obstacle
from ..telemetry.history import History
from .calibrate_plan import Cell, Series, power


class Note(NamedTuple):
    """What calibrating tells while it is at work: `kind` is "measuring", "learned", "failed" or "waiting"."""

    kind: str
    text: str
    spent_s: float


@dataclass(frozen=True)
class Row:
    """One operation in one dtype and form.

    Attributes
    ----------
    best : what is fastest from small to large, such as "numpy to 10^3, fftw from 10^4".
    sizes : how many sizes have the default and at least one other variant measured.
    gain : geometric mean over those sizes of the default's time over the best's.
    most, most_at : the largest of these gains, and the size where it is.
    """

    operation: str
    dtype: str
    form: str
    default: str
    best: str
    sizes: int
    gain: float
    most: float
    most_at: int


@dataclass(frozen=True)
class Calibration:
    """What one run of `calibrate` did.

    Attributes
    ----------
    ended : why it ended: "done" (nothing is left that is worth a call), "budget", "interrupted" or "busy".
    budget_s, spent_s : wall seconds allowed, and used.
    samples, first_calls : steady and cold calls recorded.
    known : measurements that the history had already, and that were not made again.
    failures : what failed or gave a wrong result: variant and place -> why.
    trusted : whether the machine was quiet enough.
    busy_cores : the most that others used at one time, in cores.
    rows : what is known now, of what was looked at.
    location : where it is kept.
    obstacle : why it cannot be kept there; "" where it is.
    """

    ended: str
    budget_s: float
    spent_s: float
    samples: int
    first_calls: int
    known: int
    failures: Mapping[str, str]
    trusted: bool
    busy_cores: float
    rows: tuple[Row, ...]
    location: str
    obstacle: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "failures": dict(self.failures), "rows": [asdict(row) for row in self.rows]}


def why_not_kept(history: History) -> str:
    """Why the history is not written to its file; "" where it is, or is meant to stay in memory."""
    if history.location == ":memory:":
        return ""
    return obstacle(Path(history.location)) or (history.status if history.status != "ok" else "")


def rows_of(cells: Iterable[Cell], predictions: Callable[[Cell], Mapping[str, Prediction]]) -> tuple[Row, ...]:
    """The rows of cells that come series by series, from small to large."""
    rows = []
    for series, own in groupby(cells, key=lambda cell: cell.series):
        row = _row(series, [(cell, predictions(cell)) for cell in own])
        if row is not None:
            rows.append(row)
    return tuple(rows)


def _row(series: Series, cells: list[tuple[Cell, Mapping[str, Prediction]]]) -> Row | None:
    winners: list[tuple[int, str, float]] = []
    for cell, predicted in cells:
        default, best = default_and_best(cell, predicted)
        if default is None or sum(p.evidence > 0 for p in predicted.values()) < 2:
            continue
        winners.append((cell.size, best, predicted[default].seconds / predicted[best].seconds))
    if not winners:
        return None
    size, _, most = max(winners, key=lambda w: w[2])
    gain = exp(sum(log(g) for _, _, g in winners) / len(winners))
    default = cells[0][0].choice.decision.default
    return Row(
        series.kernel.name, series.dtype, series.form, default, _in_words(winners), len(winners), gain, most, size
    )


def default_and_best(cell: Cell, predicted: Mapping[str, Prediction]) -> tuple[str | None, str]:
    """The default if it has been measured in `cell`, and what is fastest: the default itself within the guard band."""
    name = cell.choice.decision.default
    if not predicted[name].evidence:
        return None, name
    measured = {n: p.seconds for n, p in predicted.items() if p.evidence}  # in canonical order, which settles a tie
    best = next(n for n, s in measured.items() if s <= (1.0 + TIE) * min(measured.values()))
    return name, best if predicted[name].seconds >= (1.0 + GUARD) * predicted[best].seconds else name


def _in_words(winners: list[tuple[int, str, float]]) -> str:
    runs = [(name, [size for size, _, _ in run]) for name, run in groupby(winners, key=lambda w: w[1])]
    if len(winners) == 1:
        return f"{winners[0][1]} at {power(winners[0][0])}"
    if len(runs) == 1:
        return f"{runs[0][0]} throughout"
    first, last = runs[0], runs[-1]
    between = [f"{name} at {power(s[0])}" if len(s) == 1 else f"{name} {power(s[0])} to {power(s[-1])}"
               for name, s in runs[1:-1]]  # fmt: skip
    return ", ".join([f"{first[0]} to {power(first[1][-1])}", *between, f"{last[0]} from {power(last[1][0])}"])
