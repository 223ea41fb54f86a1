"""The cost model: curves over declared work that share strength between sizes.

Per (operation, variant, dtype) the prior mean is overhead + work / rate: the shipped curve of a built-in kernel, else
this machine's best known rate for the operation. A small Gaussian process (Rasmussen and Williams 2006, eq. 2.25-2.26)
over log2 work models how measured log2 seconds differ from it. The level of the overhead and the level of the rate are
unknown apart: what a tiny call took says nothing about the rate, and a huge one nothing about the overhead. All in
octaves; natural logarithms only at the border.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np

from ..telemetry.outcome import Cell, Site
from ..telemetry.sketch import Sketch
from ..telemetry.state import State
from .base import CostModel, Prediction

Array = np.ndarray[Any, np.dtype[Any]]

LN2 = math.log(2.0)
LENGTH, SHAPE_LENGTH = 6.0, 10.0  # octaves; shorter ones were too wiggly across a two-decade gap in replay
OTHER_DETAIL, OTHER_CONTEXT = 0.85, 0.7  # correlation with other parameters, and with the other load
LEVEL_SHIPPED, LEVEL_LEANING, LEVEL_GUESS = 0.7, 1.5, 2.5  # octaves of doubt about overhead and rate
WIGGLE, SLOPE = 0.4, 0.15
MOST_POINTS = 64
LEAN = 0.7  # share of the default's deviation from its shipped curve that the other variants are expected to show

# Shipped guesses for operations without a prior: seconds a call beyond NumPy (dispatch and conversion; measured on a
# two-core CPU), and seconds of a first call. A GPU's share is launch and synchronisation.
OVERHEAD_S = {"scipy": 1e-6, "numba": 3e-7, "torch": 6e-6, "jax": 4e-5, "cupy": 4e-5}
FIRST_CALL_S = {"numba": 0.5, "torch": 0.02, "jax": 0.15, "cupy": 0.3, "scipy": 0.003}
BASE_S, RATE = 2e-6, 5e8
GPU_LAUNCH_S, GPU_RATE, GPU_BYTES_PER_S = 6e-5, 1e12, 1e10
LEAST_DOUBT, LEAST_NOISE = 0.02, 0.03  # octaves: a machine is never more exact than a per cent or two

_Points = dict[str, list[tuple[Cell, str, Sketch]]]


@dataclass(frozen=True, slots=True)
class _Mean:
    """A prior mean: log2 seconds over log2 work, and the share of overhead in it."""

    overhead_s: float
    rate: float
    points: Sequence[Sequence[float]] | None
    shift: float  # octaves that this machine differs from the one of the shipped curve
    level: float  # octaves of doubt about overhead, and about rate

    def __call__(self, x: float) -> float:
        if self.points:
            return _interpolate(self.points, x) + self.shift
        return math.log2(self.overhead_s + math.exp2(x) / self.rate)

    def overhead_share(self, x: float) -> float:
        """Share of the overhead in the time at `x`, 0 to 1."""
        if self.points:
            return min(1.0, math.exp2(self.points[0][1] - _interpolate(self.points, x)))
        return self.overhead_s / (self.overhead_s + math.exp2(x) / self.rate)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Where points lie: work, share of overhead, last axis, parameters, load."""

    x: Array
    share: Array
    axis: Array
    detail: Array
    context: Array


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fitted curve: its mean, its points, their weights, and the factor of their covariance; no points: the prior."""

    mean: _Mean
    at: _Inputs | None = None
    weights: Array | None = None
    factor: Array | None = None


class Curves(CostModel):
    """Gaussian-process curves over log2 work, on top of shipped priors.

    Parameters
    ----------
    state : the sketches to learn from.
    priors : shipped curves; None loads the package's own. ``{"op|variant|dtype": {"points": [[log2 work,
        log2 seconds], ...], "first_s": seconds}}``.
    """

    def __init__(self, state: State, priors: Mapping[str, Any] | None = None) -> None:
        self._state = state
        self._given = priors
        self._fits: dict[tuple[str, str, str], _Fit] = {}
        self._cold: dict[tuple[str, str, str], float] = {}

    def predict(self, sites: Sequence[Site], backends: Sequence[str], context: str) -> list[Prediction]:
        """Predict every site; see `CostModel.predict`."""
        measured = self._measured(sites[0].operation, sites[0].dtype)
        return [
            self._predict(site, backend, context, sites[0], measured)
            for site, backend in zip(sites, backends, strict=True)
        ]

    def compile_s(self, site: Site, backend: str) -> float:
        """Expected first-call seconds: measured for this variant, else shipped, else the backend's usual ones."""
        key = (site.operation, site.variant, site.dtype)
        known = self._cold.get(key)
        if known is None:
            known = self._cold[key] = self._first_call_s(site, backend)
        return known

    def _first_call_s(self, site: Site, backend: str) -> float:
        cold = [
            (sketch.cold_count, sketch.cold_s)
            for (cell, _), sketch in self._state.of(site.operation, site.dtype).items()
            if cell.variant == site.variant and sketch.cold_count
        ]
        if cold:
            return sum(n * s for n, s in cold) / sum(n for n, _ in cold)
        shipped = self._shipped(site)
        if shipped:
            return float(shipped["first_s"])
        usual = FIRST_CALL_S.get(backend, 0.0)
        like = [s for (cell, _), s in self._state.cells.items() if cell.variant == site.variant and s.cold_count]
        # What a first call of this variant took for other operations, with the usual guess as one of them.
        return math.exp((math.log(usual) + sum(math.log(max(s.cold_s, 1e-6)) for s in like)) / (1 + len(like))) if usual else 0.0

    def forget(self, changed: set[tuple[str, str]] | None) -> None:
        """Drop fits of changed groups."""
        for kept in (self._fits, self._cold):
            for key in list(kept):
                if changed is None or (key[0], key[2]) in changed:
                    kept.pop(key, None)

    # ------------------------------------------------------------------------------------------ one curve

    def _predict(self, site: Site, backend: str, context: str, default: Site, measured: _Points) -> Prediction:
        key = (site.operation, site.variant, site.dtype)
        fit = self._fits.get(key)
        if fit is None:
            fit = self._fits[key] = self._fit(site, backend, default, measured)
        x, mean = math.log2(max(site.work, 1.0)), fit.mean
        if fit.at is None or fit.weights is None or fit.factor is None:
            doubt = math.hypot(mean.level, WIGGLE)
            return Prediction(mean(x) * LN2, doubt * LN2, 0, "prior" if mean.points else "guess")
        here = _Inputs(
            np.array([x]), np.array([mean.overhead_share(x)]), np.array([_last_axis(site.shape_class)]),
            np.array([site.detail]), np.array([context]),
        )  # fmt: skip
        k = _covariance(here, fit.at, mean.level)[0]
        v = np.linalg.solve(fit.factor, k)
        variance = float(_covariance(here, here, mean.level)[0, 0] - v @ v)
        sketch = self._state.of(site.operation, site.dtype).get((site.cell, context))
        count = sketch.count if sketch is not None else 0
        mu = mean(x) + float(k @ fit.weights)
        sigma = math.sqrt(max(variance, LEAST_DOUBT**2))
        return Prediction(mu * LN2, sigma * LN2, count, "measured" if count else "nearby")

    def _fit(self, site: Site, backend: str, default: Site, measured: _Points) -> _Fit:
        mean = self._mean(site, backend, default, measured)
        points = sorted(measured.get(site.variant, ()), key=lambda p: -p[2].last_when)[:MOST_POINTS]
        if not points:
            return _Fit(mean)
        x = np.array([s.log2_work for _, _, s in points])
        at = _Inputs(
            x,
            np.array([mean.overhead_share(v) for v in x]),
            np.array([_last_axis(cell.shape_class) for cell, _, _ in points]),
            np.array([cell.detail for cell, _, _ in points]),
            np.array([context for _, context, _ in points]),
        )
        y = np.array([math.log2(max(s.expected_s, 1e-9)) for _, _, s in points])
        residual = y - np.array([mean(v) for v in x])
        noise = np.array([_noise(s) for _, _, s in points])
        try:
            factor = np.linalg.cholesky(_covariance(at, at, mean.level) + np.diag(noise**2))
        except np.linalg.LinAlgError:  # times that make no sense (a damaged file): better the prior than no choice
            return _Fit(mean)
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, residual))
        return _Fit(mean, at, weights, factor)

    def _mean(self, site: Site, backend: str, default: Site, measured: _Points) -> _Mean:
        """What to expect before measuring this variant: its shipped curve, else overhead + work / best known rate."""
        shipped = self._shipped(site)
        if shipped:
            shift = 0.0 if site.variant == default.variant else LEAN * self._shift(default, measured)
            return _Mean(0.0, 0.0, shipped["points"], shift, LEVEL_SHIPPED)
        if "@cuda" in site.variant:
            moved = 0.0 if "cuda" in site.detail else 16.0 * site.size / GPU_BYTES_PER_S  # in and out again
            return _Mean(GPU_LAUNCH_S + moved, GPU_RATE, None, 0.0, LEVEL_GUESS)
        rates = [
            math.exp2(s.log2_work) / s.expected_s for ps in measured.values() for _, _, s in ps if s.expected_s > 0
        ]
        overhead = BASE_S + OVERHEAD_S.get(backend, 0.0)
        if site.variant == default.variant or not rates:
            return _Mean(overhead, RATE, None, 0.0, LEVEL_GUESS)
        return _Mean(overhead, max(rates), None, 0.0, LEVEL_LEANING)

    def _shift(self, default: Site, measured: _Points) -> float:
        """Octaves by which the default has turned out slower here than its shipped curve says."""
        shipped, points = self._shipped(default), measured.get(default.variant)
        if not shipped or not points:
            return 0.0
        off = [math.log2(max(s.expected_s, 1e-9)) - _interpolate(shipped["points"], s.log2_work) for _, _, s in points]
        return float(np.median(off))

    def _measured(self, operation: str, dtype: str) -> _Points:
        """Sketches with steady observations, by variant."""
        out: _Points = {}
        for (cell, context), sketch in self._state.of(operation, dtype).items():
            if sketch.count:
                out.setdefault(cell.variant, []).append((cell, context, sketch))
        return out

    def _shipped(self, site: Site) -> Mapping[str, Any] | None:
        priors = shipped_priors() if self._given is None else self._given
        found: Mapping[str, Any] | None = priors.get(f"{site.operation}|{site.variant}|{site.dtype}")
        return found or _DECLARED.get((site.operation.partition(":")[0], site.variant))


def _noise(sketch: Sketch) -> float:
    """Octaves by which the mean of so few calls may be off: the first call at a size may be slow in many ways."""
    few = FEW.get(sketch.count, 0.0)
    return max(LEAST_NOISE, few, sketch.spread / LN2 / math.sqrt(sketch.count))


FEW = {1: 0.7, 2: 0.25}
_DECLARED: dict[tuple[str, str], Mapping[str, Any]] = {}


def declare(family: str, variant: str, overhead_s: float, rate: float) -> None:
    """Expect `variant` of every operation "family:..." to take overhead + work / rate, as a shipped curve would say.

    The first word counts: a curve does not change under what was fitted to it.
    """
    if (family, variant) not in _DECLARED:
        points = [[x, math.log2(overhead_s + math.exp2(x) / rate)] for x in range(64)]
        _DECLARED[family, variant] = {"points": points, "first_s": 0.0}


def _interpolate(points: Sequence[Sequence[float]], x: float) -> float:
    """Through the points; flat below the first (overhead), proportional to work above the last."""
    if x <= points[0][0]:
        return points[0][1]
    if x >= points[-1][0]:
        return points[-1][1] + (x - points[-1][0])
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise AssertionError("points are sorted by work")


def _last_axis(shape_class: str) -> float:
    """log2 of the first operand's last axis, read off its class: batches of short rows differ from one long row."""
    last = shape_class.split("|", 1)[0].rsplit("x", 1)[-1]
    return float(last) / 2.0 if last.lstrip("-").isdigit() else 0.0


def _covariance(a: _Inputs, b: _Inputs, level: float) -> Array:
    """Covariance in octaves squared: levels of overhead and of rate, trend, wiggle; weaker across parameters and loads.

    The wiggle is a Matern 3/2 (Rasmussen and Williams 2006, eq. 4.17).
    """
    s = math.sqrt(3.0) * (
        np.abs(a.x[:, None] - b.x[None, :]) / LENGTH + np.abs(a.axis[:, None] - b.axis[None, :]) / SHAPE_LENGTH
    )
    overheads = np.multiply.outer(a.share, b.share)
    rates = np.multiply.outer(1.0 - a.share, 1.0 - b.share)
    trend = SLOPE**2 * rates * np.multiply.outer(a.x - 20.0, b.x - 20.0) / LENGTH
    same = np.where(a.detail[:, None] == b.detail[None, :], 1.0, OTHER_DETAIL)
    load = np.where(a.context[:, None] == b.context[None, :], 1.0, OTHER_CONTEXT)
    out: Array = same * load * (level**2 * (overheads + rates) + trend + WIGGLE**2 * (1.0 + s) * np.exp(-s))
    return out


@lru_cache(maxsize=1)
def shipped_priors() -> Mapping[str, Any]:
    """The curves that come with the package (measured on a two-core CPU; `python -m benchmarks.priors` makes them)."""
    text = resources.files(__package__).joinpath("priors.json")
    if not text.is_file():
        return {}
    loaded: dict[str, Any] = json.loads(text.read_text(encoding="utf-8"))
    curves: dict[str, Any] = loaded.get("curves", {})
    return curves
