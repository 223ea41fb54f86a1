"""The cost model: curves over declared work that share strength between sizes, dtypes and operations.

Per (operation, variant, dtype) a prior mean and a Gaussian process around it (`curves`). The mean is, in this order:
the shipped curve of a built-in kernel; what this machine measured for the same variant in another dtype; overhead +
work / rate with the variant's usual overhead and its usual rate relative to the default's (`elsewhere`); overhead +
work / rate with what is known of the operation's rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from ..telemetry.outcome import QUIET, Site
from ..telemetry.state import State
from . import shipped
from .base import CostModel, Prediction
from .curves import LEAST_SHARE, LN2, Fit, Mean, Place, Point, fit, interpolate, log2_s
from .elsewhere import Elsewhere, first_calls

LEVEL_SHIPPED, LEVEL_SIBLING, LEVEL_LEANING, LEVEL_GUESS = 0.7, 0.5, 1.5, 2.5
"""Octaves of doubt about overhead and rate, by where the prior mean comes from."""
BEST = 0.5  # weight of the operation's best rate against the mean of its rates, where a new variant is guessed
LEVEL_ELSEWHERE = 0.9  # at least
LEAN = 0.7  # share of the default's deviation from its shipped curve that the other variants are expected to show
GRID = 2.0  # octaves between the points by which a curve of another dtype is handed on

# Guesses for operations without a prior: seconds a call beyond NumPy (dispatch and conversion; measured on a two-core
# CPU), and seconds of a first call. A GPU's share is launch and synchronisation.
OVERHEAD_S = {"scipy": 1e-6, "numba": 3e-7, "torch": 6e-6, "jax": 4e-5, "cupy": 4e-5, "fftw": 3e-6, "joblib": 1e-3}
FIRST_CALL_S = {"numba": 1.5, "torch": 0.02, "jax": 0.1, "cupy": 0.3, "scipy": 0.003, "fftw": 0.007}
FIRST_CALLS = 2  # measured ones of other operations that these weigh as much as
BASE_S, RATE = 2e-6, 5e8
GPU_LAUNCH_S, GPU_RATE, GPU_BYTES_PER_S = 6e-5, 1e12, 1e10
SCATTER, ENOUGH = 0.1, 8
"""Scatter of single calls (natural logarithm) where so many have not been seen."""
RENEWED_EVERY = 8
"""What other operations tell is summed up again after so many changes."""

_Points = dict[str, list[Point]]
_Key = tuple[str, str, str]
"""(operation, variant, dtype)"""


class Curves(CostModel):
    """Gaussian-process curves over log2 work, on top of what is known before.

    Parameters
    ----------
    state : the sketches to learn from.
    priors : shipped curves; None loads the package's own. ``{"op|variant|dtype": {"points": [[log2 work,
        log2 seconds], ...], "first_s": seconds}}``.

    Attributes
    ----------
    carry : gives the seconds of the conversions around a variant, from where the data of a site lies and back; None:
        nothing is known of them. What is measured with the data in one place then tells about data in another.
    """

    def __init__(self, state: State, priors: Mapping[str, Any] | None = None) -> None:
        self._state = state
        self._given = priors
        self._fits: dict[_Key, Fit] = {}
        self._cold: dict[_Key, float] = {}
        self._defaults: dict[tuple[str, str], str] = {}
        self._backends: dict[str, str] = {}
        self._elsewhere: Elsewhere | None = None
        self._measured: dict[tuple[str, str], _Points] = {}
        self._siblings: dict[_Key, Fit] = {}
        self._changes = 0
        self.carry: Callable[[Site, str], float] | None = None

    def predict(self, sites: Sequence[Site], backends: Sequence[str], context: str) -> list[Prediction]:
        """Predict every site; see `CostModel.predict`."""
        default = sites[0]
        self._defaults.setdefault((default.operation, default.dtype), default.variant)
        for site, backend in zip(sites, backends, strict=True):
            self._backends.setdefault(site.variant, backend)
        return [self._predict(site, backend, context, default) for site, backend in zip(sites, backends, strict=True)]

    def compile_s(self, site: Site, backend: str) -> float:
        """Expected first-call seconds: measured for this variant here, shipped, measured elsewhere, or the usual."""
        key = (site.operation, site.variant, site.dtype)
        known = self._cold.get(key)
        if known is None:
            known = self._cold[key] = self._first_call_s(site, backend)
        return known

    def _first_call_s(self, site: Site, backend: str) -> float:
        measured = first_calls(self._state.of(site.operation, site.dtype)).get(site.variant)
        if measured is not None:
            return measured
        curve = self._shipped(site)
        if curve:
            return float(curve["first_s"])
        usual = FIRST_CALL_S.get(backend, 0.0)
        known = self._others().of(site.variant, backend)
        return (FIRST_CALLS * usual + known.colds * known.cold_s) / (FIRST_CALLS + known.colds) if usual else 0.0

    def forget(self, changed: set[tuple[str, str]] | None) -> None:
        """Drop fits of changed groups, and of the same operations in other dtypes, which may rest on them."""
        operations = None if changed is None else {operation for operation, _ in changed}
        everything: tuple[dict[Any, Any], ...] = (self._fits, self._cold, self._measured, self._siblings)
        for kept in everything:
            for key in list(kept):
                if operations is None or key[0] in operations:
                    kept.pop(key, None)
        self._changes += 1
        if changed is None or self._changes % RENEWED_EVERY == 1:
            self._elsewhere = None

    # ------------------------------------------------------------------------------------------ one curve

    def _predict(self, site: Site, backend: str, context: str, default: Site) -> Prediction:
        key = (site.operation, site.variant, site.dtype)
        curve = self._fits.get(key)
        if curve is None:
            mean = self._mean(site, backend, default)
            points = self._points(site.operation, site.dtype).get(site.variant, ())
            curve = self._fits[key] = fit(mean, points, self._others().of(site.variant, backend).load)
        moves = self._moves(site, backend, curve) if self.carry is not None and site.detail else None
        detail = site.detail if moves is None else site.detail.rpartition(";")[0]
        mu, sigma = curve.ask(Place(_log2_work(site), site.shape_class, detail, context))
        if moves is not None:
            seconds = math.exp2(mu)
            mu = math.log2(max(seconds - moves[0], LEAST_SHARE * seconds) + moves[1])
        if curve.at is None and "@cuda" in site.variant and "cuda" not in site.detail:
            mu = math.log2(math.exp2(mu) + 16.0 * site.size / GPU_BYTES_PER_S)  # in and out again
        if curve.at is None:
            return Prediction(mu * LN2, sigma * LN2, 0, curve.mean.source, SCATTER)
        sketch = self._state.of(site.operation, site.dtype).get((site.cell, context))
        count = sketch.count if sketch is not None else 0
        noise = sketch.spread if sketch is not None and count >= ENOUGH else max(curve.scatter, SCATTER)
        return Prediction(mu * LN2, sigma * LN2, count, "measured" if count else "nearby", noise)

    def _moves(self, site: Site, backend: str, curve: Fit) -> tuple[float, float] | None:
        """(seconds of the conversions in the calls that were fitted, NumPy's; those here); None: the same."""
        assert self.carry is not None
        seen = {str(detail).rpartition(";")[2] for detail in curve.at.detail} if curve.at is not None else set()
        if site.detail.rpartition(";")[2] in seen:
            return None
        there_s, here_s = self.carry(site._replace(detail=""), backend), self.carry(site, backend)
        return None if here_s == there_s else (there_s, here_s)

    def _mean(self, site: Site, backend: str, default: Site) -> Mean:
        """What to expect before measuring this variant; see the module."""
        points = self._points(site.operation, site.dtype)
        curve = self._shipped(site)
        if curve:
            return self._corrected(site, default, curve["points"], points)
        sibling = self._of_sibling(site, default)
        if sibling is not None:
            return sibling
        if "@cuda" in site.variant:
            return Mean(GPU_LAUNCH_S, GPU_RATE, None, 0.0, LEVEL_GUESS)
        overhead = BASE_S + OVERHEAD_S.get(backend, 0.0)
        if site.variant == default.variant:
            return Mean(overhead, RATE, None, 0.0, LEVEL_GUESS)
        known = self._others().of(site.variant, backend)
        if known.overhead is not None:
            overhead = math.exp2(known.overhead)
        held = [s for _, _, s in _calm(points.get(default.variant, ()))]
        if known.faster is not None and held:
            largest = max(held, key=lambda s: s.log2_work)
            rate = math.exp2(largest.log2_work - log2_s(largest) + known.faster)
            level = max(LEVEL_ELSEWHERE, known.doubt) if math.isfinite(known.doubt) else LEVEL_LEANING
            return Mean(overhead, rate, None, 0.0, min(level, LEVEL_GUESS))
        rates = [max(s.log2_work - log2_s(s) for _, _, s in _calm(found)) for found in points.values()]
        if not rates:
            return Mean(overhead, RATE, None, 0.0, LEVEL_GUESS)
        centre = BEST * max(rates) + (1.0 - BEST) * fmean(rates)  # one that stands out says less about the next
        return Mean(overhead, math.exp2(centre), None, 0.0, LEVEL_LEANING)

    def _of_sibling(self, site: Site, default: Site) -> Mean | None:
        """The curve of the same variant in another dtype, moved by what the default differs between the two."""
        for other in self._other_dtypes(site):
            theirs = self._points(site.operation, other)
            points = _calm(theirs.get(site.variant, ()))
            if not points:
                continue
            theirs_default = (
                self._points(site.operation, site.dtype).get(default.variant, ()),
                theirs.get(default.variant, ()),
            )
            shift = 0.0 if site.variant == default.variant else _difference(*theirs_default)
            key = (site.operation, site.variant, other)
            curve = self._siblings.get(key)
            if curve is None:
                mean = self._plain(site.variant, theirs)
                curve = self._siblings[key] = fit(mean, points)
            last = max(s.log2_work for _, _, s in points)
            grid = np.arange(0.0, last + 1.5 * GRID, GRID)  # down to nothing but overhead: large sizes tell of none
            y = curve.over(grid, points)
            return Mean(0.0, 0.0, np.stack([grid, y], 1).tolist(), shift, LEVEL_SIBLING, "prior")
        return None

    def _corrected(self, site: Site, default: Site, shipped_s: Sequence[Sequence[float]], points: _Points) -> Mean:
        """The shipped curve, moved by what this machine makes of the shipped curve of another dtype, and of the
        default's."""
        own = site.variant == default.variant
        shift = 0.0 if own else LEAN * self._shift(default, points)
        for other in self._other_dtypes(site):
            theirs = self._points(site.operation, other)
            found, there = _calm(theirs.get(site.variant, ())), site._replace(dtype=other)
            said = self._shipped(there)
            if not found or not said:
                continue
            key = (site.operation, site.variant, other)
            fitted = self._siblings.get(key)
            if fitted is None:
                mean = Mean(0.0, 0.0, said["points"], 0.0, LEVEL_SHIPPED)
                fitted = self._siblings[key] = fit(mean, found)
            x = np.array(sorted({p[0] for p in shipped_s} | {s.log2_work for _, _, s in found}))
            off = fitted.over(x, found) - np.array([interpolate(said["points"], v) for v in x])
            y = np.array([interpolate(shipped_s, v) for v in x]) + off
            if not own:  # what the default's shift here says beyond what it says there
                shift -= LEAN * self._shift(default._replace(dtype=other), theirs)
            return Mean(0.0, 0.0, np.stack([x, y], 1).tolist(), shift, LEVEL_SIBLING, "prior")
        return Mean(0.0, 0.0, shipped_s, shift, LEVEL_SHIPPED, "prior")

    def _other_dtypes(self, site: Site) -> list[str]:
        return sorted(d for operation, d in self._state.groups() if operation == site.operation and d != site.dtype)

    def _plain(self, variant: str, points: _Points) -> Mean:
        backend = self._backends.get(variant, "")
        known = self._others().of(variant, backend).overhead
        overhead = BASE_S + OVERHEAD_S.get(backend, 0.0) if known is None else math.exp2(known)
        rates = [math.exp2(s.log2_work - log2_s(s)) for found in points.values() for _, _, s in found]
        return Mean(overhead, max(rates), None, 0.0, LEVEL_LEANING)

    def _shift(self, default: Site, measured: _Points) -> float:
        """Octaves by which the default has turned out slower here than its shipped curve says."""
        curve, points = self._shipped(default), [p for p in measured.get(default.variant, ()) if p[1] == QUIET]
        if not curve or not points:
            return 0.0
        return median(log2_s(s) - interpolate(curve["points"], s.log2_work) for _, _, s in points)

    def _points(self, operation: str, dtype: str) -> _Points:
        """Sketches with steady observations, by variant."""
        known = self._measured.get((operation, dtype))
        if known is not None:
            return known
        out: _Points = self._measured.setdefault((operation, dtype), {})
        for (cell, context), sketch in self._state.of(operation, dtype).items():
            if sketch.count:
                out.setdefault(cell.variant, []).append((cell, context, sketch))
        return out

    def _others(self) -> Elsewhere:
        if self._elsewhere is None:
            self._elsewhere = Elsewhere(self._state, self._defaults, self._backends)
        return self._elsewhere

    def _shipped(self, site: Site) -> Mapping[str, Any] | None:
        return shipped.curve_of(site.operation, site.variant, site.dtype, self._given)


def _calm(points: Sequence[Point]) -> Sequence[Point]:
    """Those measured on a quiet machine, where there are any: what a load does to others is not known from these."""
    return [point for point in points if point[1] == QUIET] or points


def _difference(here: Sequence[Point], there: Sequence[Point]) -> float:
    """Octaves by which one variant takes longer in one dtype than in another, at the sizes measured in both."""
    known = {(cell.shape_class, cell.detail, context): sketch for cell, context, sketch in there}
    both = [
        log2_s(sketch) - log2_s(known[cell.shape_class, cell.detail, context])
        for cell, context, sketch in here
        if (cell.shape_class, cell.detail, context) in known
    ]
    return median(both) if both else 0.0


def _log2_work(site: Site) -> float:
    return math.log2(max(site.work, 1.0))
