"""The cost model: curves over declared work that share strength between sizes.

Per (operation, variant, dtype) a small Gaussian process (Rasmussen and Williams 2006, eq. 2.25-2.26) over log2 work
models how measured log2 seconds differ from a prior mean. The prior mean is the shipped curve of a built-in kernel,
else overhead + work / rate, leaning on what the default has been measured to take. All in octaves; natural logs only
at the border.
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

from ..telemetry.outcome import Site
from ..telemetry.state import State
from .base import CostModel, Prediction

Array = np.ndarray[Any, np.dtype[Any]]

LN2 = math.log(2.0)
LENGTH, SHAPE_LENGTH = 6.0, 10.0  # octaves; shorter ones were too wiggly across a two-decade gap in replay
OTHER_DETAIL, OTHER_CONTEXT = 0.85, 0.7  # correlation with other parameters, and with the other load
LEVEL_KNOWN, LEVEL_UNKNOWN = 0.8, 2.0  # octaves of doubt about a shipped curve's level, and about a guess
WIGGLE, SLOPE = 0.5, 0.25
MOST_POINTS = 64
LEAN = 0.7  # share of the default's deviation from its own prior that the others are expected to show as well

# Shipped guesses for operations without a prior: seconds a call beyond NumPy (dispatch and conversion; measured on a
# two-core CPU), and seconds of a first call. A GPU's share is launch and synchronisation.
OVERHEAD_S = {"scipy": 1e-6, "numba": 3e-7, "torch": 6e-6, "jax": 4e-5, "cupy": 4e-5}
FIRST_CALL_S = {"numba": 0.5, "torch": 0.02, "jax": 0.15, "cupy": 0.3, "scipy": 0.003}
BASE_S, RATE = 2e-6, 5e8
GPU_RATE, GPU_BYTES_PER_S = 1e12, 1e10


@dataclass(frozen=True, slots=True)
class _Fit:
    """A fitted curve: points, their weights, and the factor of their covariance."""

    x: Array
    shape: Array
    detail: tuple[str, ...]
    context: tuple[str, ...]
    weights: Array
    factor: Array


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
        self._priors = shipped_priors() if priors is None else priors
        self._fits: dict[tuple[str, str, str], tuple[_Fit | None, float]] = {}

    def predict(self, sites: Sequence[Site], backends: Sequence[str], context: str) -> list[Prediction]:
        """Predict every site; see `CostModel.predict`."""
        base, prior = self._posterior(sites[0], backends[0], context, None)
        out = [base]
        for site, backend in zip(sites[1:], backends[1:], strict=True):
            out.append(self._posterior(site, backend, context, (sites[0], base, prior))[0])
        return out

    def compile_s(self, site: Site, backend: str) -> float:
        """Expected first-call seconds: measured for this variant, else shipped, else the backend's usual ones."""
        cold = [
            (sketch.cold_count, sketch.cold_s)
            for (cell, _), sketch in self._state.of(site.operation, site.dtype).items()
            if cell.variant == site.variant and sketch.cold_count
        ]
        if cold:
            return sum(n * s for n, s in cold) / sum(n for n, _ in cold)
        shipped = self._shipped(site)
        return float(shipped["first_s"]) if shipped else FIRST_CALL_S.get(backend, 0.0)

    def forget(self, changed: set[tuple[str, str]] | None) -> None:
        """Drop fits of changed groups."""
        for key in list(self._fits):
            if changed is None or (key[0], key[2]) in changed:
                self._fits.pop(key, None)

    # ------------------------------------------------------------------------------------------ one curve

    def _posterior(
        self, site: Site, backend: str, context: str, base: tuple[Site, Prediction, float] | None
    ) -> tuple[Prediction, float]:
        """The belief about `site`, and the prior mean it started from (octaves)."""
        x = math.log2(max(site.work, 1.0))
        mean, level, shipped = self._prior(site, backend, base)
        key = (site.operation, site.variant, site.dtype)
        if key not in self._fits:
            self._fits[key] = self._fit(site)
        fit, offset = self._fits[key]
        if fit is None:
            sigma = math.hypot(level, WIGGLE)
            return Prediction(mean * LN2, sigma * LN2, 0, "prior" if shipped else "guess"), mean
        k = _kernel(
            np.array([x]), np.array([_last_axis(site.shape_class)]), (site.detail,), (context,),
            fit.x, fit.shape, fit.detail, fit.context,
        )[0]  # fmt: skip
        v = np.linalg.solve(fit.factor, k)
        own = _own_mean(x, offset, self._shipped(site))
        mu = own + float(k @ fit.weights)
        variance = float(_kernel_diagonal(x) - v @ v)
        cell = self._state.of(site.operation, site.dtype).get((site.cell, context))
        count = cell.count if cell is not None else 0
        sigma = math.sqrt(max(variance, 0.02**2))
        return Prediction(mu * LN2, sigma * LN2, count, "measured" if count else "nearby"), mean

    def _fit(self, site: Site) -> tuple[_Fit | None, float]:
        points = [
            (cell, context, sketch)
            for (cell, context), sketch in self._state.of(site.operation, site.dtype).items()
            if cell.variant == site.variant and sketch.count
        ]
        if not points:
            return None, 0.0
        points.sort(key=lambda p: -p[2].last_when)
        points = points[:MOST_POINTS]
        x = np.array([s.log2_work for _, _, s in points])
        y = np.array([math.log2(max(s.expected_s, 1e-9)) for _, _, s in points])
        shape = np.array([_last_axis(cell.shape_class) for cell, _, _ in points])
        detail = tuple(cell.detail for cell, _, _ in points)
        context = tuple(c for _, c, _ in points)
        shipped = self._shipped(site)
        raw = y - np.array([_own_mean(float(v), 0.0, shipped) for v in x])
        offset = float(np.median(raw))  # the level; the process models what is left
        noise = np.array([max(0.03, s.spread / LN2 / math.sqrt(s.count)) for _, _, s in points])
        cov = _kernel(x, shape, detail, context, x, shape, detail, context) + np.diag(noise**2)
        factor = np.linalg.cholesky(cov)
        weights = np.linalg.solve(factor.T, np.linalg.solve(factor, raw - offset))
        return _Fit(x, shape, detail, context, weights, factor), offset

    def _prior(
        self, site: Site, backend: str, base: tuple[Site, Prediction, float] | None
    ) -> tuple[float, float, bool]:
        """Prior mean (octaves), doubt about its level, and whether a shipped curve stands behind it."""
        shipped = self._shipped(site)
        x = math.log2(max(site.work, 1.0))
        if shipped:
            mean = _interpolate(shipped["points"], x)
            if base is not None and base[1].source != "guess":
                mean += LEAN * (base[1].mu / LN2 - base[2])
            return mean, LEVEL_KNOWN, True
        if base is None or "@cuda" in site.variant:
            return _guess(site), LEVEL_UNKNOWN, False
        seconds = base[1].seconds * max(site.work, 1.0) / max(base[0].work, 1.0) + OVERHEAD_S.get(backend, 0.0)
        doubt = 1.2 if base[1].source in ("measured", "nearby") else LEVEL_UNKNOWN
        return math.log2(seconds), doubt, False

    def _shipped(self, site: Site) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self._priors.get(f"{site.operation}|{site.variant}|{site.dtype}")
        return found


def _guess(site: Site) -> float:
    """Overhead + work / rate in octaves, for a variant nobody has timed."""
    work = max(site.work, 1.0)
    if "@cuda" in site.variant:
        moved = 0.0 if "cuda" in site.detail else 16.0 * site.size / GPU_BYTES_PER_S  # in and out again
        return math.log2(6e-5 + moved + work / GPU_RATE)
    return math.log2(BASE_S + work / RATE)


def _own_mean(x: float, offset: float, shipped: Mapping[str, Any] | None) -> float:
    if shipped:
        return offset + _interpolate(shipped["points"], x)
    return offset + math.log2(BASE_S + 2.0**x / RATE)


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


def _matern(d: Array) -> Array:
    """Matern 3/2 (Rasmussen and Williams 2006, eq. 4.17)."""
    s = math.sqrt(3.0) * d
    return (1.0 + s) * np.exp(-s)


def _kernel(
    x: Array, shape: Array, detail: tuple[str, ...], context: tuple[str, ...],
    x2: Array, shape2: Array, detail2: tuple[str, ...], context2: tuple[str, ...],
) -> Array:  # fmt: skip
    """Covariance in octaves squared: level + trend + wiggle, weaker across parameters and loads."""
    d = np.abs(x[:, None] - x2[None, :]) / LENGTH
    ds = np.abs(shape[:, None] - shape2[None, :]) / SHAPE_LENGTH
    same = np.where(np.array(detail)[:, None] == np.array(detail2)[None, :], 1.0, OTHER_DETAIL)
    load = np.where(np.array(context)[:, None] == np.array(context2)[None, :], 1.0, OTHER_CONTEXT)
    trend = SLOPE**2 * (x[:, None] - 16.0) * (x2[None, :] - 16.0) / LENGTH
    out: Array = same * load * (LEVEL_KNOWN**2 + trend + WIGGLE**2 * _matern(d) * _matern(ds))
    return out


def _kernel_diagonal(x: float) -> float:
    return LEVEL_KNOWN**2 + SLOPE**2 * (x - 16.0) ** 2 / LENGTH + WIGGLE**2


@lru_cache(maxsize=1)
def shipped_priors() -> Mapping[str, Any]:
    """The curves that come with the package (measured on a two-core CPU; `python -m benchmarks.priors` makes them)."""
    text = resources.files(__package__).joinpath("priors.json")
    if not text.is_file():
        return {}
    loaded: dict[str, Any] = json.loads(text.read_text(encoding="utf-8"))
    curves: dict[str, Any] = loaded.get("curves", {})
    return curves
