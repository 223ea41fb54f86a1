"""What reducers give: means, p-values, counts, each with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MeanAndVariance:
    """What `Moments` gives; numbers, or arrays of the results' shape.

    Attributes
    ----------
    n : results.
    mean : their mean.
    variance : unbiased (n - 1); NaN for less than two results.
    """

    n: int
    mean: Any
    variance: Any

    @property
    def std(self) -> Any:
        """Standard deviation of the results."""
        return np.sqrt(self.variance)

    @property
    def standard_error(self) -> Any:
        """Of the mean."""
        return np.sqrt(self.variance / self.n) if self.n else math.nan

    def half_width(self, confidence: float = 0.95) -> Any:
        """Half the width of the mean's interval, by the central limit theorem."""
        return _z(confidence) * self.standard_error

    def interval(self, confidence: float = 0.95) -> tuple[Any, Any]:
        """Of the mean, by the central limit theorem."""
        half = self.half_width(confidence)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class PValue:
    """What `Exceedances` gives; whole numbers, or arrays of the results' shape.

    Attributes
    ----------
    n : simulations.
    r : how many of them were at least as large as what was observed.
    """

    n: int
    r: Any

    @property
    def p(self) -> Any:
        """(r + 1) / (n + 1): never 0 (Davison and Hinkley, 1997; Phipson and Smyth, 2010)."""
        return (self.r + 1) / (self.n + 1)

    def interval(self, confidence: float = 0.95) -> tuple[Any, Any]:
        """Of the probability that r / n estimates (Wilson, 1927)."""
        low, high = wilson(np.asarray(self.r) / max(self.n, 1), max(self.n, 1), confidence)
        return item(low), item(high)

    def half_width(self, confidence: float = 0.95) -> Any:
        """Half the width of `interval`."""
        low, high = self.interval(confidence)
        return (high - low) / 2

    def settled(self, level: float = 0.05, confidence: float = 0.999) -> bool:
        """Whether each interval lies on one side of `level`, a share between 0 and 1."""
        if not 0.0 < level < 1.0:  # as `stop_when=PValue.settled` would give the number of simulations
            raise ValueError(f"settled: found level={level}; it is a share, between 0 and 1, such as 0.05")
        low, high = self.interval(confidence)
        return bool(np.all((low > level) | (high < level)))


@dataclass(frozen=True)
class Counts:
    """What `Histogram` gives.

    Attributes
    ----------
    n : results.
    edges : of the bins, shape (bins + 1,).
    counts : int64, shape (..., bins), the leading axes those of a result.
    below, above, nans : of values outside the bins; whole numbers, or arrays of the results' shape.
    """

    n: int
    edges: Array
    counts: Array
    below: Any
    above: Any
    nans: Any

    def quantile(self, q: float) -> Any:
        """The value that a share `q` of the results is below, within one bin; NaN where it lies outside the bins."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"quantile: found q={q}; it is a share, from 0 to 1")
        below = np.asarray(self.below)[..., None]
        reached = np.concatenate([below, below + np.cumsum(self.counts, axis=-1)], axis=-1)
        want = q * (self.n - np.asarray(self.nans))
        flat, wanted = reached.reshape(-1, reached.shape[-1]), np.broadcast_to(want, reached.shape[:-1]).ravel()
        out = np.array([_crossing(self.edges, row, w) for row, w in zip(flat, wanted, strict=True)])
        return item(out.reshape(reached.shape[:-1]))


def _crossing(edges: Array, reached: Array, want: float) -> float:
    """Where the cumulative counts at the edges reach `want`, by a line within the bin."""
    if want < reached[0] or want > reached[-1] or reached[0] == reached[-1]:
        return math.nan
    right = max(1, int(np.searchsorted(reached, want, side="left")))
    step = reached[right] - reached[right - 1]
    within = (want - reached[right - 1]) / step if step else 0.0
    return float(edges[right - 1] + within * (edges[right] - edges[right - 1]))


def item(x: Any) -> Any:
    """A number where there is one only."""
    return x.item() if x is not None and np.ndim(x) == 0 and hasattr(x, "item") else x


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: found {confidence}; it is a share, between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(share: Any, n: int, confidence: float = 0.95) -> tuple[Any, Any]:
    """Where a probability lies, if `share` of n independent trials came true: arrays of the shape of `share`.

    Wilson (1927), J. Amer. Stat. Assoc. 22, 209; lies within 0 and 1, and is right for shares of 0 and 1, too.
    """
    z2 = _z(confidence) ** 2
    middle, width = share + z2 / (2 * n), np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n)))
    low, high = (middle - width) / (1 + z2 / n), (middle + width) / (1 + z2 / n)
    return np.where(share <= 0, 0.0, np.maximum(low, 0.0)), np.where(share >= 1, 1.0, np.minimum(high, 1.0))
