"""`python -m benchmarks.selection.figure_docs MATRIX`: the figure of the page "How pointsman decides".

Left: what the package's own cost model makes of every second size of one operation, and what its policy would choose.
Right: a stream of calls over the whole matrix, learning, importing and compiling included.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pointsman.selector.base import Candidate, Prediction, Question
from pointsman.selector.costs import Curves
from pointsman.selector.policy import ValueOfInformation
from pointsman.selector.workload import shape_class
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site

from .__main__ import ORACLE, policies, traces
from .figures import BLACK, BLUE, DPI, GREEN, GREY, ORANGE, PINK, RED, SETTLED, SKY
from .matrix import Cell, Matrix
from .replay import Trace
from .streams import build

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUT = Path(__file__).parents[2] / "docs" / "figures" / "how-selection-decides.png"
SIZE, FONT = (11.5, 4.6), 10.5
TAUGHT = 8  # steady calls of each variant at each size that is measured
GRID = 240
LONG = 1e9  # calls still expected: nothing is cold any more, what is shown is the steady choice
LOOKS = ((GREY, "s"), (ORANGE, "o"), (BLUE, "^"))
RIVALS: Mapping[str, tuple[str, str]] = {
    "threshold-left-out": (GREEN, "--"), "linucb": (PINK, "-."), "ucb1": (SKY, "-"), "history": (RED, ":"),
}  # fmt: skip


class Point(NamedTuple):
    """What is expected at one size: by variant, and which of them is chosen."""

    size: float
    predictions: tuple[Prediction, ...]
    chosen: str


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection.figure_docs", description=__doc__)
    parser.add_argument("matrix", metavar="MATRIX", help="JSON file of recorded costs")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file to write (default {OUT.name} among the docs)")
    parser.add_argument("--operation", default="sort")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--variants", default="numpy,numba,numba/parallel", help="three of them, the default first")
    parser.add_argument("--stream", default="cold")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        matrix = Matrix.load(options.matrix)
        cells = family(matrix, options.operation, options.dtype, options.variants.split(","))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    stream = build(options.stream, [matrix], options.calls, options.seed)
    table = policies([matrix])
    names = [n for n in table if n in (ORACLE, "pointsman", *RIVALS) or n.startswith("always-")]
    done = dict(traces(stream, table, names, options.seed))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(cells, matrix, done, options.seed).savefig(options.out, dpi=DPI)
    return 0


def family(matrix: Matrix, operation: str, dtype: str, variants: Sequence[str]) -> list[Cell]:
    """The cells of one operation and dtype by size, with these variants only; one form of shapes, the commonest.

    Raises
    ------
    ValueError
        There are fewer than three sizes at which all these variants were timed.
    """
    forms: dict[tuple[object, ...], list[Cell]] = {}
    for cell in matrix:
        if cell.operation == operation and cell.dtype == dtype and set(variants) <= set(cell.timings):
            kept = Cell(
                operation, dtype, cell.size, cell.shapes, {v: cell.timings[v] for v in variants}, variants[0],
                cell.parameters,
            )  # fmt: skip
            stacked = tuple(len(shape) > 1 and shape[0] < shape[-1] for shape in cell.shapes)
            forms.setdefault((cell.parameters, tuple(map(len, cell.shapes)), stacked), []).append(kept)
    cells = sorted(max(forms.values(), key=len, default=[]), key=lambda cell: cell.size)
    if len(cells) < 3:
        raise ValueError(
            f"{matrix.name} has {len(cells)} sizes of {operation} {dtype} with {', '.join(variants)}; it takes three"
        )
    return cells


def learned(cells: Sequence[Cell], matrix: Matrix, seed: int) -> list[Point]:
    """What the cost model, taught at every second size, expects over all sizes, and what the policy makes of it."""
    rng, state = np.random.default_rng(seed), History(None, background=False, clock=lambda: 1.7e9)
    for cell in cells[::2]:
        for variant, timing in cell.timings.items():
            site = _site(cell, variant, cell.shapes, timing.work, cell.size)
            for _ in range(TAUGHT):
                state.record(Outcome(site, 1.7e9, timing.draw(rng)))
    state.flush()
    curves, policy = Curves(state.state, priors={}), ValueOfInformation()
    sizes = np.array([cell.size for cell in cells], dtype=float)
    backends = [matrix.backends[variant].name for variant in cells[0].timings]
    points = []
    for size in np.geomspace(sizes[0], sizes[-1], GRID):
        sites = [
            _site(cells[0], variant, _shapes(cells, size),
                  float(_between(sizes, [c.timings[variant].work for c in cells], size)), round(size))
            for variant in cells[0].timings
        ]  # fmt: skip
        found = curves.predict(sites, backends, "quiet")
        candidates = tuple(
            Candidate(s.variant, b, "cpu", p) for s, b, p in zip(sites, backends, found, strict=True)
        )  # fmt: skip
        ranking = policy.rank(Question(candidates, cells[0].default, calls=LONG))
        points.append(Point(float(size), tuple(found), ranking.order[0]))
    return points


def draw(cells: Sequence[Cell], matrix: Matrix, done: Mapping[str, Trace], seed: int) -> Figure:
    """Both panels."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": FONT, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1.0))
    _curves(left, cells, learned(cells, matrix, seed))
    _regret(right, done)
    return figure


def _curves(axes: Axes, cells: Sequence[Cell], points: Sequence[Point]) -> None:
    sizes = [point.size for point in points]
    for column, (variant, (colour, shape)) in enumerate(zip(cells[0].timings, LOOKS, strict=False)):
        found = [point.predictions[column] for point in points]
        axes.fill_between(sizes, [p.low for p in found], [p.high for p in found], color=colour, alpha=0.2, linewidth=0)
        axes.plot(sizes, [p.seconds for p in found], color=colour, linewidth=1.8, label=variant)
        for part, face in ((cells[::2], colour), (cells[1::2], "white")):
            axes.plot(
                [c.size for c in part], [c.timings[variant].mean_s for c in part], shape, color=colour,
                markerfacecolor=face, markersize=6,
            )  # fmt: skip
        chosen = [point.chosen == variant for point in points]
        axes.fill_between(
            sizes, 0.0, 0.035, where=chosen, color=colour, linewidth=0, transform=axes.get_xaxis_transform()
        )
    for before, after in pairwise(points):
        if before.chosen != after.chosen:
            axes.axvline(after.size, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log", yscale="log", xlabel="elements", ylabel="seconds a call", xlim=(sizes[0] / 1.4, sizes[-1] * 1.4)
    )
    axes.legend(loc="upper left", frameon=False)
    axes.set_title(
        f"{cells[0].operation}, {cells[0].dtype}: filled sizes were measured, hollow ones held back;\n"
        "shaded: 90 % of calls; band below: what is chosen", fontsize=FONT,
    )  # fmt: skip


def _regret(axes: Axes, done: Mapping[str, Trace]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    warm = np.cumsum(done[ORACLE].best)
    best = min((n for n in done if n.startswith("always-")), key=lambda name: float(done[name].paid.sum()))
    lines = [(best, GREY, "--", 1.6)] + [(n, *RIVALS[n], 1.6) for n in RIVALS if n in done]
    lines += [("pointsman", BLUE, "-", 3.0), (ORACLE, BLACK, "-", 1.2)]
    calls = np.unique(np.geomspace(min(SETTLED, len(warm)), len(warm), 400).astype(int))
    top = 1.5
    for name, colour, dashes, width in sorted(lines, key=lambda line: -float(done[line[0]].paid.sum())):
        ratio = (np.cumsum(done[name].paid) / warm)[calls - 1]
        top = max(top, float(ratio.max()))
        axes.plot(calls, ratio, color=colour, linestyle=dashes, linewidth=width, label=f"{name} {ratio[-1]:.2f}")
    axes.set(xscale="log", yscale="log", xlabel="calls so far", ylabel="seconds paid so far / warm seconds of the best")
    axes.set_ylim(0.95, 1.2 * top)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="policy, and its last value",
        alignment="left",
    )  # fmt: skip
    stream = done[ORACLE].stream
    cold = ", imports" if stream.imports else ""
    axes.set_title(
        f"replay of {len(stream):,} mixed calls from nothing known;\nlearning{cold} and compiling included",
        fontsize=FONT,
    )  # fmt: skip


def _site(cell: Cell, variant: str, shapes: tuple[tuple[int, ...], ...], work: float, size: int) -> Site:
    return Site(cell.operation, variant, cell.dtype, shape_class(shapes), cell.parameters, max(work, 1.0), size)


def _shapes(cells: Sequence[Cell], size: float) -> tuple[tuple[int, ...], ...]:
    """Shapes between those of the recorded sizes, each axis in proportion."""
    sizes = np.array([cell.size for cell in cells], dtype=float)
    return tuple(
        tuple(
            max(1, round(float(_between(sizes, [cell.shapes[i][axis] for cell in cells], size))))
            for axis in range(len(shape))
        )
        for i, shape in enumerate(cells[0].shapes)
    )


def _between(sizes: np.ndarray, values: Sequence[float], size: float) -> float:
    return float(np.exp(np.interp(np.log(size), np.log(sizes), np.log(np.maximum(values, 1.0)))))


if __name__ == "__main__":
    raise SystemExit(main())
