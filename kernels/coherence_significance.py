"""Which wavelet coherence is more than chance: levels and p-values from pairs of series that have nothing in common."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..executors.mapping import whole
from .coherence import coherence_of_batch
from .monte_carlo import check_options, run_monte_carlo
from .monte_carlo_info import MonteCarloInfo
from .red_noise import ar1, need_stationary, phase_randomize, redden
from .reduced import wilson
from .result_cache import code_of, key_of, shared
from .simulations import Root, root_of
from .wavelet_engines import on_numpy, on_scipy
from .wavelet_plan import Plan, need_description, plan
from .wavelet_significance import need_level
from .wavelets import Wavelet, default_s0

BINS = 1000
"""Of the histogram of coherence, from 0 to 1: p-values and levels of a point are known to 1/1000 in coherence."""
BLOCK, MOST_SIMULATIONS = 8, 128
"""Pairs in a simulation; more where there would be more simulations than that, whose histograms take memory."""
CODE = (
    "band_limited", "binding", "coherence", "coherence_significance", "red_noise", "simulations", "spectra",
    "wavelet_engines", "wavelet_plan", "wavelets",
)  # fmt: skip
"""Modules whose code makes the numbers: a result is not given again once one of them has changed."""
NULLS = ("ar1", "phase")
DTYPES = ("float64", "float32")


class PValue(NamedTuple):
    """A p-value, and where the one of infinitely many simulations lies with a confidence of 95 % (Wilson, 1927)."""

    p: Any
    low: Any
    high: Any


@dataclass(frozen=True, eq=False)
class WctSignificance:
    """What the coherence of series that have nothing in common stays below.

    Attributes
    ----------
    levels : (S,) float64: of the coherence at a point of the time-scale plane, one that was chosen beforehand; NaN for
        scales that have no point outside of the cone of influence.
    global_level : what the largest coherence of the plane, outside of the cone, stays below with the probability
        `significance_level`; NaN where there are too few pairs to tell.
    significance_level : of both.
    scales, periods : (S,) float64, in the unit of dt.
    counts : (S, 1000) int64: histogram of the null coherences, from 0 to 1, at points outside of the cone.
    maxima : (mc_count,) float64: the largest coherence of each pair.
    mc_count : how many pairs.
    n : length of the series that were drawn.
    seed, spawn_key : of the pairs, drawn where none was given.
    g : lag-1 autocorrelations of the pairs; None where phases were randomized.
    info : of the Monte Carlo run; None where the result was kept from an earlier call.
    """

    levels: NDArray[np.float64]
    global_level: float
    significance_level: float
    scales: NDArray[np.float64]
    periods: NDArray[np.float64]
    counts: NDArray[np.int64] = field(repr=False)
    maxima: NDArray[np.float64] = field(repr=False)
    mc_count: int
    n: int
    seed: int | tuple[int, ...]
    spawn_key: tuple[int, ...]
    g: tuple[float, float] | None
    info: MonteCarloInfo | None = field(repr=False)
    outside: NDArray[np.bool_] = field(repr=False)

    def p_values(self, coherence: ArrayLike) -> PValue:
        """How probable it is that a coherence this large is chance, for each point by itself.

        Parameters
        ----------
        coherence : (S,) or (S, n) squared coherences.

        Returns
        -------
        PValue
            Each part of the shape of `coherence`: (r + 1) / (n + 1), where r of the n null coherences of the same scale
            are as large, in steps of 1/1000 of coherence. NaN where the scale has none, or the coherence is NaN. Points
            of one pair are not independent, so the interval takes only one of each pair to be: it is a wide one.
        """
        found = np.asarray(coherence, np.float64)
        if found.ndim not in (1, 2) or found.shape[0] != len(self.scales):
            raise ValueError(
                f"coherence: found shape {found.shape}; give ({len(self.scales)},) or ({len(self.scales)}, n), a row "
                "for each scale that the levels were computed for"
            )
        _in_bounds(found)
        total = self.counts.sum(axis=1)
        as_large = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]
        rows = np.arange(len(found)).reshape(-1, *[1] * (found.ndim - 1))
        undefined = np.isnan(found) | (total[rows] == 0)
        r = as_large[rows, _bins(np.where(undefined, 0.0, found))]
        p = np.where(undefined, np.nan, (r + 1) / (total[rows] + 1))
        low, high = wilson(r / np.maximum(total[rows], 1), self.mc_count)
        return PValue(p, np.where(undefined, np.nan, low), np.where(undefined, np.nan, high))

    def global_p_value(self, coherence: ArrayLike) -> PValue:
        """How probable it is that chance has so large a coherence anywhere in the plane outside of the cone.

        Parameters
        ----------
        coherence : (S, n) squared coherences of series as long as those that were drawn.

        Returns
        -------
        PValue
            (r + 1) / (mc_count + 1), where r pairs have a maximum as large; NaN where no point has a coherence.
        """
        found = np.asarray(coherence, np.float64)
        if found.shape != self.outside.shape:
            raise ValueError(
                f"coherence: found shape {found.shape}, and the null series gave {self.outside.shape}; a longer plane "
                "has larger maxima by chance: give wct_significance the series themselves, or n"
            )
        there = _in_bounds(found)[self.outside]
        if np.isnan(there).all():
            return PValue(math.nan, math.nan, math.nan)
        r = int(np.sum(self.maxima >= np.nanmax(there)))
        low, high = wilson(r / self.mc_count, self.mc_count)
        return PValue((r + 1) / (self.mc_count + 1), float(low), float(high))


def wct_significance(
    al1: ArrayLike, al2: ArrayLike, dt: float = 1.0, dj: float = 1 / 12, s0: float | None = None, J: int | None = None,
    significance_level: float = 0.95, wavelet: Wavelet = "morlet", mc_count: int = 300, *, seed: Any = None,
    null: str = "ar1", n: int | None = None, pad: str | None = "zeros", dtype: str = "float64", cache: bool = True,
    backend: str | None = "auto", **options: Any,
) -> WctSignificance:  # fmt: skip
    """How large a wavelet coherence has to be to be more than chance, by Monte Carlo.

    Pairs of independent series are drawn, each like one of the two in question, and their coherence is computed as
    `pointsman.wct` does.

    Parameters
    ----------
    al1, al2 : each (n,) series; or, for ``null="ar1"``, its lag-1 autocorrelation as a number.
    dt, dj, s0, J, wavelet, pad : as for `pointsman.wct`.
    significance_level : between 0 and 1.
    mc_count : pairs of series. A level of 0.95 is known to about 0.01 with 300.
    seed : as for `pointsman.run_monte_carlo`; None: any will do, and the one that was drawn stands in the result.
    null : "ar1": red noise of the same lag-1 autocorrelation, by `pointsman.ar1`. "phase": the series themselves with
        phases drawn anew; keeps their whole spectrum, cycles included, and takes them to be periodic.
    n : length of the series to be drawn; None: that of the series given, or for coefficients
        ``6 * s0 * 2**(J*dj) / dt``, so that the largest scale has points outside of the cone of influence, too.
    dtype : "float64" or "float32": of the numbers that are drawn and transformed; two dtypes draw two sets of pairs.
    cache : keep the result, and give one that was kept before. See `pointsman.configure` for the place.
    backend, **options : of `pointsman.run_monte_carlo`, such as ``n_jobs``.

    Returns
    -------
    WctSignificance

    Raises
    ------
    ValueError, TypeError
        Arguments that make no sense; series that differ in length, or that `ar1` refuses; coefficients where phases are
        to be randomized; or scales without a single point outside of the cone of influence.

    Notes
    -----
    One simulation is a block of pairs of fixed size, whose result is integers and the pairs' maxima: so the levels are
    the same to the last bit for a seed, wherever and in whatever pieces it runs. Points within the cone of influence
    are not counted. Local levels: Grinsted, Moore and Jevrejeva (2004), Nonlin. Processes Geophys. 11, 561. P-values:
    Davison and Hinkley (1997), Bootstrap methods and their application, chapter 4.

    Examples
    --------
    >>> import pointsman as pm
    >>> null = pm.wct_significance(0.3, 0.5, s0=2.0, J=24, dj=0.25, mc_count=100, seed=1, cache=False)
    >>> bool((null.levels > 0.5).all()), bool(null.levels.max() < null.global_level < 1.0)
    (True, True)
    """
    need_level(significance_level)
    _check(mc_count, null, dtype, options)
    whole("n", n)
    pair, length = _pair(al1, al2, null, n)
    need_description("wct_significance", dt, dj, s0, J, wavelet, pad=pad)
    described = _planned(length, dt, dj, s0, J, wavelet, pad)
    outside = np.asarray(described.periods[:, None] < described.coi)
    _ = described.boxcar  # refuses wavelets whose smoothing in scale is not known, before anything runs
    engine = "numpy" if importlib.util.find_spec("scipy") is None else "scipy"  # the same for all that take part
    if not outside.any():
        raise ValueError(
            f"wct_significance: series of {described.n} values have no point outside of the cone of influence at "
            f"scales from {described.scales[0]:g}; give longer series, or a smaller s0"
        )
    root = None if seed is None else root_of(seed)
    kept = shared() if cache else None
    key = "" if kept is None else key_of(
        "wct_significance", code_of(*CODE), pair=pair, plan=_facts(described), mc_count=mc_count, dtype=dtype,
        seed=root, engine=(engine, metadata.version(engine)), native_threads=options.get("native_threads", 1),
    )  # fmt: skip
    found = None if kept is None else kept.get(key)
    if found is not None and not {"counts", "maxima"} <= set(found[0]):  # somebody else's file
        found = None
    info: MonteCarloInfo | None = None
    facts: dict[str, Any]
    if found is None:
        root = root or root_of(None)
        given = {"last": mc_count, "dtype": dtype, "engine": engine}
        counts, maxima, info = _run(described, outside.shape[0], pair, given, root, backend or "auto", options)
        facts = {"seed": root.entropy, "spawn_key": root.key}
        if kept is not None:
            kept.put(key, {"counts": counts, "maxima": maxima}, facts)
    else:
        arrays, facts = found
        counts, maxima = arrays["counts"], arrays["maxima"]
    entropy = facts["seed"]
    return WctSignificance(
        _levels(counts, significance_level), _order_statistic(maxima, significance_level), significance_level,
        described.scales.copy(), described.periods.copy(), counts, maxima, mc_count, described.n,
        tuple(entropy) if isinstance(entropy, list) else entropy, tuple(facts["spawn_key"]),
        pair if isinstance(pair[0], float) else None, info, outside,
    )  # fmt: skip


# ---- what is drawn


def _pair(al1: ArrayLike, al2: ArrayLike, null: str, n: int | None) -> tuple[tuple[Any, Any], int | None]:
    """What the null series are like, two coefficients or two series; and how long they are to be."""
    given = [np.asarray(al) for al in (al1, al2)]
    sizes = {x.size for x in given if x.ndim}
    if len(sizes) > 1:
        found = " and ".join(str(x.size) for x in given)
        raise ValueError(f"wct_significance: found series of {found} values; give two of the same length")
    length = sizes.pop() if sizes else None
    if null == "ar1":
        first, second = (ar1(x).g if x.ndim else need_stationary(float(x)) for x in given)
        return (first, second), length if n is None else n
    if not all(x.ndim for x in given):
        raise ValueError('wct_significance: found a number where null="phase" randomizes a series; give both series')
    for x in given:
        if x.ndim != 1 or x.dtype.kind not in "fiub" or not np.isfinite(x).all():
            raise ValueError(
                f"wct_significance: found {x.dtype} of shape {x.shape}; give series of finite real numbers"
            )
        if np.ptp(x) == 0:
            raise ValueError("wct_significance: found equal values; a constant series has no coherence with anything")
    if n not in (None, length):
        raise ValueError(f"n: found {n}; surrogates of a series with new phases are as long as it is, {length}")
    return (given[0], given[1]), length


def _planned(
    length: int | None, dt: float, dj: float, s0: float | None, J: int | None, wavelet: Wavelet, pad: str | None
) -> Plan:
    if length is None:
        if J is None:
            raise ValueError("wct_significance: found coefficients, and neither J nor n; give one of them, or series")
        least = default_s0(plan(1, dt, wavelet=wavelet, J=0).wavelet, dt) if s0 is None else s0
        length = math.ceil(6 * least * 2 ** (J * dj) / dt)
    return plan(length, dt, dj=dj, s0=s0, J=J, wavelet=wavelet, pad=pad)


def _facts(described: Plan) -> dict[str, Any]:
    return {part.name: getattr(described, part.name) for part in dataclasses.fields(described)}


# ---- the simulation


def _run(
    described: Plan, scales: int, pair: tuple[Any, Any], given: dict[str, Any], root: Root, backend: str,
    options: dict[str, Any],
) -> tuple[NDArray[np.int64], NDArray[np.float64], MonteCarloInfo]:  # fmt: skip
    block = max(BLOCK, math.ceil(given["last"] / MOST_SIMULATIONS))
    results, info = run_monte_carlo(
        coherence_of_null, math.ceil(given["last"] / block), (described, *pair), {"block": block, **given},
        seed=np.random.SeedSequence(root.entropy, spawn_key=root.key), backend=backend, return_info=True, **options,
    )  # fmt: skip
    counts = np.zeros((scales, BINS), np.int64)
    for some, _ in results:
        counts += some
    return counts, np.concatenate([maxima for _, maxima in results]), info


def coherence_of_null(
    seed: np.random.SeedSequence,
    described: Plan,
    first: Any,
    second: Any,
    *,
    block: int,
    last: int,
    dtype: str,
    engine: str,
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """One simulation: histogram (S, 1000) and maxima of the coherences of `block` pairs, fewer in the last one."""
    rng, pairs = np.random.default_rng(seed), min(block, last - int(seed.spawn_key[-1]) * block)
    outside = described.periods[:, None] < described.coi
    places = (np.nonzero(outside)[0] * BINS).astype(np.intp)
    counts, maxima = np.zeros(len(outside) * BINS, np.int64), np.empty(pairs)
    transforms = on_scipy() if engine == "scipy" else on_numpy()
    for pair in range(pairs):  # one at a time: the plane of a pair fits into the cache, and into memory
        x, y = (_drawn(like, rng, described.n, np.dtype(dtype)) for like in (first, second))
        found = coherence_of_batch(x, y, described, transforms)[outside]
        at = _bins(found)
        at += places
        maxima[pair] = found.max()
        if np.isnan(maxima[pair]):  # no power somewhere: the other points count
            maxima[pair], at = np.nanmax(found), at[~np.isnan(found)]
        counts += np.bincount(at, minlength=counts.size)
    return counts.reshape(-1, BINS).astype(np.uint32), maxima


def _drawn(like: Any, rng: np.random.Generator, n: int, dtype: Any) -> NDArray[Any]:
    """Red noise of the coefficient `like`, or the series `like` with other phases."""
    if isinstance(like, np.ndarray):
        return phase_randomize(like, rng).astype(dtype, copy=False)
    return redden(rng.standard_normal(n, dtype=dtype.type), like)


def _in_bounds(coherence: NDArray[np.float64]) -> NDArray[np.float64]:
    """`coherence`, none of which is below 0 or above 1; NaN may be there."""
    wrong = (coherence < 0) | (coherence > 1)
    if wrong.any():
        raise ValueError(f"coherence: found {coherence[wrong][0]:g}; squared coherences lie from 0 to 1")
    return coherence


def _bins(coherence: NDArray[Any]) -> NDArray[np.intp]:
    with np.errstate(invalid="ignore"):  # the bin of a NaN is looked at by nobody
        found: NDArray[np.intp] = (coherence * coherence.dtype.type(BINS)).astype(np.intp)
    return np.minimum(found, BINS - 1, out=found)


# ---- what is made of it


def _levels(counts: NDArray[np.int64], level: float) -> NDArray[np.float64]:
    """The quantile of each row's histogram, interpolated within its bin."""
    edges, found = np.arange(BINS + 1) / BINS, np.full(len(counts), np.nan)
    for s, row in enumerate(counts):
        if row.any():
            below = np.concatenate(([0], np.cumsum(row)))
            rises = np.concatenate(([True], row > 0)) | np.concatenate((row > 0, [False]))
            found[s] = np.interp(level, below[rises] / below[-1], edges[rises])
    return found


def _order_statistic(maxima: NDArray[np.float64], level: float) -> float:
    """What a further maximum stays below with probability `level`: the same test as (r + 1) / (n + 1) <= 1 - level."""
    place = math.ceil(level * (maxima.size + 1) - 1e-9)
    return float(np.sort(maxima)[place - 1]) if place <= maxima.size else math.nan


def _check(mc_count: object, null: str, dtype: str, options: dict[str, Any]) -> None:
    if isinstance(mc_count, bool) or not isinstance(mc_count, int | np.integer) or mc_count < 1:
        raise ValueError(f"mc_count: found {mc_count!r}; give a whole number of pairs, 1 at the least")
    for name, found, allowed in (("null", null, NULLS), ("dtype", dtype, DTYPES)):
        if found not in allowed:
            raise ValueError(f"{name}: found {found!r}; allowed are {', '.join(allowed)}")
    if taken := {"seeds", "on_error", "return_info", "reduce", "stop_when", "leaf_size", "vectorized"} & set(options):
        raise TypeError(f"wct_significance: {', '.join(sorted(taken))} cannot be given; the run has its own")
    check_options(options)
