"""`python -m benchmarks.figure_wavelets`: the figure of the page on wavelets, from the series that it shows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pointsman as pm
from pointsman.datasets import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUT = Path(__file__).parents[1] / "docs" / "figures" / "wavelets.png"
SIZE, DPI, FONT = (11.5, 4.4), 130, 10
PAIRS, SEED = 1000, 1
MAP, INK, FAINT = "Blues", "#b3261e", "#00000055"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figure_wavelets", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"file to write (default {OUT.name} among the docs)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"null pairs of the coherence (default {PAIRS})")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(options.pairs).savefig(options.out, dpi=DPI)
    return 0


def draw(pairs: int) -> Figure:
    """El Nino's power on the left, the coherence of the Nile and sunspots on the right."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": FONT, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        left, right = figure.subplots(1, 2)
        _power(left)
        _coherence(right, pairs)
    return figure


def _power(axes: Axes) -> None:
    months = load("elnino").reshape(-1, 12)
    anomaly = (months - months.mean(axis=0)).ravel()
    found = pm.cwt(anomaly, dt=1 / 12)
    levels = pm.cwt_significance(anomaly, 1 / 12, found.scales).levels[:, None]
    years = 1950 + np.arange(anomaly.size) / 12
    shown = axes.pcolormesh(years, found.periods, np.log2(found.power), cmap=MAP, vmin=-4, vmax=6, rasterized=True)
    axes.contour(years, found.periods, found.power / levels, [1.0], colors=INK, linewidths=1.2)
    _frame(axes, years, found, (0.5, 32.0))
    axes.set_title("El Niño: power; outlined: above 95 % of red noise", loc="left", fontsize=FONT)
    bar = axes.figure.colorbar(shown, ax=axes, pad=0.01, ticks=[-4, -2, 0, 2, 4, 6])
    bar.ax.set_yticklabels(["1/16", "1/4", "1", "4", "16", "64"])
    bar.set_label("power, K²")


def _coherence(axes: Axes, pairs: int) -> None:
    nile, sunspots = load("nile"), load("sunspots")[171:271]
    found = pm.wct(nile, sunspots)
    chance = pm.wct_significance(nile, sunspots, mc_count=pairs, seed=SEED, cache=False)
    p = chance.global_p_value(found.coherence).p
    years, levels = 1871 + np.arange(nile.size), chance.levels[:, None]
    shown = axes.pcolormesh(years, found.periods, found.coherence, cmap=MAP, vmin=0, vmax=1, rasterized=True)
    axes.contour(years, found.periods, found.coherence / levels, [1.0], colors=INK, linewidths=1.2)
    _frame(axes, years, found, (2.0, 64.0))
    axes.set_title(f"Nile and sunspots: coherence; of the whole plane p = {p:.2f}", loc="left", fontsize=FONT)
    axes.figure.colorbar(shown, ax=axes, pad=0.01).set_label("squared coherence")


def _frame(axes: Axes, years: Any, found: Any, periods: tuple[float, float]) -> None:
    """Periods upwards on a logarithmic axis, and the cone of influence shaded."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(*periods)
    axes.fill_between(years, np.maximum(found.coi, periods[0]), periods[1], color="white", alpha=0.6, linewidth=0)
    axes.plot(years, found.coi, color=FAINT, linestyle="--", linewidth=1)
    axes.set_xlim(years[0], years[-1])
    axes.set_ylabel("period, years")


if __name__ == "__main__":
    raise SystemExit(main())
