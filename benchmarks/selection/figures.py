"""Figures of a replay: what learning cost over the calls, how good predictions were, and what was chosen where.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; shapes say the same once more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .replay import Trace

OURS, ORACLE, ALWAYS = "pointsman", "oracle", "always-"
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A",
)  # fmt: skip
LINES: Mapping[str, tuple[str, Any]] = {  # colour and dashes of what is drawn beside ours
    "threshold-left-out": (ORANGE, "--"),
    "linucb": (GREEN, "-."),
    "ucb1": (SKY, "-"),
    "epsilon-greedy": (PINK, ":"),
    "history": (RED, (0, (5, 1))),
    "size-blind": (GREY, (0, (3, 1, 1, 1))),
}
BACKENDS: Mapping[str, tuple[str, str]] = {  # colour and shape
    "numpy": (GREY, "s"), "scipy": (SKY, "D"), "numba": (ORANGE, "o"), "torch": (RED, "^"), "jax": (GREEN, "v"),
    "fftw": (PINK, "P"), "joblib": (BLUE, "X"), "cupy": ("#F0E442", "*"),
}  # fmt: skip
OTHER = (BLACK, "h")
WORSE = 1.10  # a choice of ours that is this much slower than the oracle's is marked on the map
LOWEST = 0.2  # shown for less as well: an oracle that compiles in its first calls is far above everybody then
FIRST, SETTLED = 10, 100  # calls before a curve begins, and from which on it must fit: the first ratios say nothing
POINTS = 400  # of predictions shown
CROWDED = 200  # cells on one map, from which on its marks are small
WIDTH, DPI, FONT = 8.0, 150, 11  # inches; legible when shown 800 pixels wide


@dataclass(frozen=True)
class Place:
    """What a policy came to in one cell; `regret` is over the best variant there."""

    cell: int
    line: str  # operation and dtype
    size: int
    backend: str
    regret: float


def draw(folder: Path, label: str, traces: Mapping[str, Trace]) -> list[Path]:
    """Draw every figure that these traces of one stream have something for.

    Parameters
    ----------
    folder
        Where the PNG files go; made if it is missing.
    label
        Name of the stream, in titles and file names.
    traces
        By policy; the oracle's is among them.

    Raises
    ------
    ModuleNotFoundError
        Where matplotlib is not installed: ``pip install matplotlib``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"regret": regret_figure(label, traces)}
    shown = traces.get(OURS)
    if shown is None or np.isnan(shown.typical).all():
        shown = next((trace for trace in traces.values() if not np.isnan(trace.typical).all()), None)
    if shown is not None:
        figures["predicted"] = prediction_figure(label, shown)
    if OURS in traces:
        figures["choices"] = choice_figure(label, {name: traces[name] for name in (OURS, ORACLE)})
    paths = []
    for kind, figure in figures.items():
        paths.append(folder / f"{re.sub('[^A-Za-z0-9_.-]+', '_', label)}_{kind}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def regret_figure(label: str, traces: Mapping[str, Trace]) -> Figure:
    """All that was paid so far over what the oracle has paid so far, by the number of calls."""
    oracle, low, top = np.cumsum(traces[ORACLE].paid), 1.0, 1.5
    figure, (axes,) = _figure(4.8)
    for name, colour, dashes, width in _lines(traces):
        ratio = np.cumsum(traces[name].paid) / oracle
        calls = np.unique(np.geomspace(min(FIRST, len(ratio)), len(ratio), 400).astype(int))
        low = min(low, float(ratio[calls - 1].min()))
        top = max(top, float(ratio[min(SETTLED, len(ratio)) - 1 :].max()))
        axes.plot(
            calls,
            np.maximum(ratio[calls - 1], LOWEST),
            color=colour,
            linestyle=dashes,
            linewidth=width,
            label=_told(name, ratio[-1]),
        )
    for change in traces[ORACLE].stream.changes:
        axes.axvline(change, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="calls", ylabel="seconds paid so far / the oracle's")
    axes.axhline(1.0, color=BLACK, linewidth=0.8)
    _plain_ticks(axes, max(low, LOWEST), top)
    changes = " (dotted: the machine changes)" if traces[ORACLE].stream.changes else ""
    figure.suptitle(f"Stream “{label}”: learning and compiling included{changes}", fontsize=FONT + 1)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="policy, at the end")
    return figure


def prediction_figure(label: str, trace: Trace) -> Figure:
    """Predicted seconds against measured ones, with the 90 % interval, of calls that paid nothing once."""
    usable = np.flatnonzero(trace.steady & ~np.isnan(trace.typical))
    judged = usable[trace.stream.judged[usable]]
    where = judged if judged.size else usable
    shown = where[np.linspace(0, len(where) - 1, min(POINTS, len(where))).astype(int)]
    measured, typical = trace.observed[shown], trace.typical[shown]
    low, high = trace.low[shown], trace.high[shown]
    inside = (low <= measured) & (measured <= high)
    figure, (axes,) = _figure(6.4)
    for mask, colour, shape, told in ((inside, BLUE, "o", "inside"), (~inside, RED, "X", "outside")):
        axes.vlines(measured[mask], low[mask], high[mask], color=colour, alpha=0.35, linewidth=1.2)
        axes.plot(measured[mask], typical[mask], shape, color=colour, markersize=4, label=told)
    ends = [min(measured.min(), low[low > 0].min(initial=np.inf)), max(measured.max(), high.max())]
    axes.plot(ends, ends, color=BLACK, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="measured seconds", ylabel="predicted seconds")
    covered = float(np.mean((trace.low[where] <= trace.observed[where]) & (trace.observed[where] <= trace.high[where])))
    axes.set_title(
        f"Stream “{label}”: predictions of {trace.policy} before the call, 90 % intervals;\n"
        f"{100 * covered:.0f} % of {len(where)} measured calls lie inside ({len(shown)} shown)",
        fontsize=FONT,
    )
    axes.legend(loc="upper left", frameon=False, title="measured lies")
    return figure


def choice_figure(label: str, traces: Mapping[str, Trace]) -> Figure:
    """Which backend each policy came to, over size and operation; rings where ours is worse than the oracle's."""
    places = {name: converged(trace) for name, trace in traces.items()}
    rows = sorted({place.line for some in places.values() for place in some}, reverse=True)
    figure, panels = _figure(1.9 + 0.27 * len(rows), len(places))
    lost = worse_than(places[OURS], places[ORACLE])
    for axes, (name, some) in zip(panels, places.items(), strict=True):
        _map(axes, some, lost if name == OURS else [], rows)
        told = f": {len(lost)} of {len(some)} over 10 %\nslower than the oracle's choice" if name == OURS else ""
        axes.set_title(f"{name}{told}", fontsize=FONT)
        axes.set_xlabel("size (elements; edge of a matrix)")
    panels[0].set_yticks(range(len(rows)), rows)
    for axes in panels[1:]:
        axes.set_yticks(range(len(rows)), [])
    crowded = max(map(len, places.values())) > CROWDED
    seen = list(dict.fromkeys(place.backend for some in places.values() for place in some))
    figure.legend(handles=_keys(seen, crowded), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(f"Stream “{label}”: backend chosen; the oracle compiles only where it pays", fontsize=FONT)
    return figure


def converged(trace: Trace) -> list[Place]:
    """By cell, the variant chosen most often in the judged calls, and its mean seconds over the best's."""
    chosen: dict[int, Counter[int]] = {}
    last: dict[int, int] = {}
    for index in np.flatnonzero(trace.stream.judged).tolist():
        cell = int(trace.stream.tables.cell[index])
        chosen.setdefault(cell, Counter())[int(trace.chosen[index])] += 1
        last[cell] = index
    places = []
    for cell, counts in chosen.items():
        column, index = counts.most_common(1)[0][0], last[cell]
        truth = trace.stream.steps[index].cell
        backend = trace.stream.matrix.backends[truth.variants[column]].name
        mean = trace.stream.tables.mean[trace.stream.tables.row[index], column]
        regret = float(mean / trace.best[index])
        places.append(Place(cell, f"{truth.operation}, {truth.dtype}", truth.size, backend, regret))
    return places


def worse_than(ours: Sequence[Place], oracle: Sequence[Place]) -> list[Place]:
    """Places where our choice is `WORSE` than the oracle's, which leaves uncompiled what would not pay."""
    floor = {place.cell: place.regret for place in oracle}
    return [place for place in ours if place.regret > WORSE * floor[place.cell]]


def _map(axes: Axes, places: Sequence[Place], lost: Sequence[Place], rows: Sequence[str]) -> None:
    crowded = len(places) > CROWDED
    for backend in dict.fromkeys(place.backend for place in places):
        mine = [place for place in places if place.backend == backend]
        colour, shape = BACKENDS.get(backend, OTHER)
        axes.scatter(
            [place.size for place in mine], [rows.index(place.line) for place in mine], s=12 if crowded else 46,
            c=colour, marker=shape, linewidths=0,
        )  # fmt: skip
    below = 0.32 if crowded else 0.0
    axes.plot(
        [place.size for place in lost], [rows.index(place.line) - below for place in lost], linestyle="",
        marker="|" if crowded else "o", markersize=4 if crowded else 12, markerfacecolor="none", markeredgecolor=BLACK,
    )  # fmt: skip
    axes.set(xscale="log", ylim=(-0.6, len(rows) - 0.4), axisbelow=True)
    axes.grid(axis="y", linewidth=0.4)


def _keys(backends: Sequence[str], crowded: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    keys = []
    for backend in backends:
        colour, shape = BACKENDS.get(backend, OTHER)
        keys.append(Line2D([], [], color=colour, marker=shape, linestyle="", markersize=7, label=backend))
    shape, size = ("|", 7) if crowded else ("o", 11)
    ring = Line2D([], [], marker=shape, linestyle="", markersize=size, markerfacecolor="none", markeredgecolor=BLACK)
    ring.set_label("over 10 % slower than the oracle's choice")
    keys.append(ring)
    return keys


def _lines(traces: Mapping[str, Trace]) -> list[tuple[str, str, Any, float]]:
    """Name, colour, dashes and width of what is drawn: ours, the rivals, and the best always-X."""
    fixed = [name for name in traces if name.startswith(ALWAYS)]
    lines: list[tuple[str, str, Any, float]] = []
    if fixed:
        lines.append((min(fixed, key=lambda name: traces[name].paid.sum()), GREY, ":", 1.8))
    lines += [(name, *LINES[name], 1.6) for name in LINES if name in traces]
    if OURS in traces:
        lines.append((OURS, BLUE, "-", 3.0))
    return sorted(lines, key=lambda line: -float(traces[line[0]].paid.sum()))


def _told(name: str, ratio: float) -> str:
    return f"{name} {ratio:.2f}" if ratio < 100 else f"{name} {ratio:.0f}"


def _plain_ticks(axes: Axes, low: float, top: float) -> None:
    """Ratios from a little below `low` to a little above `top`, written as people write them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_ylim(0.95 * low, 1.2 * top)
    fine = top < 3 and low > 0.5
    ticks = [0.6, 0.8, 1, 1.1, 1.2, 1.5, 2, 3] if fine else [1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 1e4]
    ticks += [] if fine else [LOWEST, 0.3, 0.5, 0.7]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{' or less' if value == LOWEST else ''}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _figure(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": FONT, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)
