"""One curve: measured log2 seconds over log2 work as a small Gaussian process around a prior mean.

Rasmussen and Williams 2006, eq. 2.25-2.26. The level of the overhead and the level of the rate are unknown apart: what
a tiny call took says nothing about the rate, and a huge one nothing about the overhead. All in octaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median  # NumPy's imports more of NumPy, and a fork may come at any moment
from typing import Any, NamedTuple

import numpy as np

from ..telemetry.outcome import QUIET, Cell
from ..telemetry.sketch import Sketch

Array = np.ndarray[Any, np.dtype[Any]]
LN2 = math.log(2.0)
LENGTH, SHAPE_LENGTH = 6.0, 10.0  # octaves; shorter ones were too wiggly across a two-decade gap in replay
OTHER_DETAIL, OTHER_CONTEXT = 0.85, 0.35  # correlation with other parameters, and with the other load
WIGGLE, SLOPE = 0.4, 0.15
MOST_POINTS = 64
LEAST_SHARE = 0.2
"""At least this share of a measured time is left when something that is only expected (a stall, a conversion) is taken
off it."""
MOSTLY = 0.5  # share of a guess from which on it counts as overhead
LEAST_DOUBT, LEAST_NOISE = 0.02, 0.03  # octaves: a machine is never more exact than a per cent or two
FEW = {1: 0.7, 2: 0.25}
"""Octaves by which the mean of so few calls may be off: the first calls at a size may be slow in many ways."""

Point = tuple[Cell, str, Sketch]
"""(cell, context, what was measured there)"""


@dataclass(frozen=True, slots=True)
class Mean:
    """A prior mean: log2 seconds over log2 work, and the share of overhead in it."""

    overhead_s: float
    rate: float
    points: Sequence[Sequence[float]] | None
    shift: float  # octaves that this machine differs from the one of the shipped curve
    level: float  # octaves of doubt about overhead, and about rate
    source: str = "guess"  # what to call it where nothing was measured

    def __call__(self, x: float) -> float:
        if self.points:
            return interpolate(self.points, x) + self.shift
        return math.log2(self.overhead_s + math.exp2(x) / self.rate)

    def overhead_share(self, x: float) -> float:
        """Share of the overhead in the time at `x`, 0 to 1."""
        if self.points:
            return min(1.0, math.exp2(self.points[0][1] - interpolate(self.points, x)))
        return self.overhead_s / (self.overhead_s + math.exp2(x) / self.rate)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where points lie: work, share of overhead, last axis, parameters, load."""

    x: Array
    share: Array
    axis: Array
    detail: Array
    context: Array


class Place(NamedTuple):
    """Where a curve is asked."""

    x: float
    shape_class: str
    detail: str
    context: str


class Loaded(NamedTuple):
    """What others on the machine do to a variant: a stall a call, and a slower pace; nothing, until it was seen."""

    stall_s: float = 0.0
    slower: float = 0.0  # octaves

    def put_on(self, y: float) -> float:
        """log2 seconds on a busy machine of what takes `y` on a quiet one."""
        return math.log2(math.exp2(y + self.slower) + self.stall_s) if self.stall_s else y + self.slower

    def taken_off(self, y: float) -> float:
        """The inverse; what is mostly stall tells little about the rest."""
        return math.log2(max(math.exp2(y) - self.stall_s, LEAST_SHARE * math.exp2(y))) - self.slower


UNLOADED = Loaded()


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted curve: its mean, its points, their weights, and the factor of their covariance; no points: the prior."""

    mean: Mean
    at: Inputs | None = None
    weights: Array | None = None
    factor: Array | None = None
    scatter: float = 0.0  # of single calls, natural logarithm: the median over the points
    load: Loaded = UNLOADED

    def ask(self, place: Place) -> tuple[float, float]:
        """(expected log2 seconds, standard deviation in octaves) of the mean of calls there."""
        y, doubt = self._quiet(place)
        return (self.load.put_on(y) if place.context != QUIET else y), doubt

    def over(self, x: Array, like: Sequence[Point]) -> Array:
        """Expected log2 seconds at every `x` on a quiet machine, of calls shaped like the points of about that work."""
        prior = np.array([self.mean(v) for v in x])
        if self.at is None or self.weights is None:
            return prior
        works, axes = zip(*sorted((s.log2_work, last_axis(cell.shape_class)) for cell, _, s in like), strict=True)
        here = Inputs(
            x, np.array([self.mean.overhead_share(v) for v in x]), np.interp(x, works, axes),
            np.full(len(x), like[0][0].detail), np.full(len(x), QUIET),
        )  # fmt: skip
        return np.asarray(prior + covariance(here, self.at, self.mean.level) @ self.weights)

    def _quiet(self, place: Place) -> tuple[float, float]:
        mean = self.mean
        if self.at is None or self.weights is None or self.factor is None:
            return mean(place.x), math.hypot(mean.level, WIGGLE)
        here = Inputs(
            np.array([place.x]), np.array([mean.overhead_share(place.x)]), np.array([last_axis(place.shape_class)]),
            np.array([place.detail]), np.array([place.context]),
        )  # fmt: skip
        k = covariance(here, self.at, mean.level)[0]
        v = np.linalg.solve(self.factor, k)
        variance = float(covariance(here, here, mean.level)[0, 0] - v @ v)
        return mean(place.x) + float(k @ self.weights), math.sqrt(max(variance, LEAST_DOUBT**2))


def fit(mean: Mean, points: Sequence[Point], load: Loaded = UNLOADED) -> Fit:
    """The curve through `points`, the latest of them; the prior where there are none or they make no sense.

    `load` is what a busy machine does to this variant elsewhere; the curve describes how this one differs.
    """
    latest = sorted(points, key=lambda p: -p[2].last_when)[:MOST_POINTS]
    if not latest:
        return Fit(mean, load=load)
    mean = adapted(mean, latest)
    x = np.array([s.log2_work for _, _, s in latest])
    at = Inputs(
        x,
        np.array([mean.overhead_share(v) for v in x]),
        np.array([last_axis(cell.shape_class) for cell, _, _ in latest]),
        np.array([cell.detail for cell, _, _ in latest]),
        np.array([context for _, context, _ in latest]),
    )
    y = np.array([log2_s(s) if c == QUIET else load.taken_off(log2_s(s)) for _, c, s in latest])
    residual = y - np.array([mean(v) for v in x])
    noise = np.array([doubt_of(s) for _, _, s in latest])
    try:
        factor = np.linalg.cholesky(covariance(at, at, mean.level) + np.diag(noise**2))
    except np.linalg.LinAlgError:  # times that make no sense (a damaged file): better the prior than no choice
        return Fit(mean, load=load)
    weights = np.linalg.solve(factor.T, np.linalg.solve(factor, residual))
    return Fit(mean, at, weights, factor, median(s.spread for _, _, s in latest), load)


def adapted(mean: Mean, points: Sequence[Point]) -> Mean:
    """`mean` with its overhead taken from the smallest size that was measured, where that is mostly overhead.

    A guessed overhead may be off by a thousand, which must not be taken for the rate: of a sum of both, what is large
    at a small size is the overhead.
    """
    if mean.points or not points:
        return mean
    smallest = min((sketch for _, _, sketch in points), key=lambda s: s.log2_work)
    x, seconds = smallest.log2_work, smallest.expected_s
    if mean.overhead_share(x) < MOSTLY or seconds <= 2.0 * math.exp2(mean(x)):
        return mean
    return replace(mean, overhead_s=seconds - math.exp2(x) / mean.rate)


def log2_s(sketch: Sketch) -> float:
    """log2 of the seconds expected of one more call."""
    return math.log2(max(sketch.expected_s, 1e-9))


def doubt_of(sketch: Sketch) -> float:
    """Octaves by which the mean of the calls seen may be off."""
    return max(LEAST_NOISE, FEW.get(sketch.count, 0.0), sketch.spread / LN2 / math.sqrt(sketch.count))


def interpolate(points: Sequence[Sequence[float]], x: float) -> float:
    """Through the points; flat below the first (overhead), proportional to work above the last."""
    if x <= points[0][0]:
        return points[0][1]
    if x >= points[-1][0]:
        return points[-1][1] + (x - points[-1][0])
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise AssertionError("points are sorted by work")


def last_axis(shape_class: str) -> float:
    """log2 of the first operand's last axis, read off its class: batches of short rows differ from one long row."""
    last = shape_class.split("|", 1)[0].rsplit("x", 1)[-1]
    return float(last) / 2.0 if last.lstrip("-").isdigit() else 0.0


def covariance(a: Inputs, b: Inputs, level: float) -> Array:
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
