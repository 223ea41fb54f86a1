"""Red noise and other null series: what a record is like if it has memory, or a spectrum, and nothing else to find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHORTEST = 4
"""Values that an estimate needs at the least: below, the mean alone explains most of what there is."""


class AR1(NamedTuple):
    """What `ar1` finds in a series.

    Attributes
    ----------
    g : the lag-1 autocorrelation.
    variance : of the process, in the square of the series' units; of its innovations it is ``variance * (1 - g**2)``.
    mean : of the series.
    bounded : whether the series has a trend, or is like a random walk, so that no stationary process explains it; `g`
        is then the largest that is considered, ``1 - 1/n``. Take the trend out first.
    """

    g: float
    variance: float
    mean: float
    bounded: bool = False


def ar1(x: ArrayLike) -> AR1:
    """The AR(1) process that a series looks like: its lag-1 autocorrelation and variance, freed of the mean's bias.

    Taking out the mean of a short series takes out part of its memory, too. What is left has lag-1 autocorrelation
    (g - m) / (1 - m) and variance (1 - m) times the true ones, where m(g) is the variance of the mean of n values over
    their own; this is solved for g.

    Parameters
    ----------
    x : (n,) array of real numbers, n at least 4; any constant sampling interval.

    Returns
    -------
    AR1
        ``(g, variance, mean, bounded)``; g lies within 1/n of -1 and 1.

    Raises
    ------
    ValueError
        Fewer than 4 values, more than one axis, values that are not finite, or all of them equal.

    Notes
    -----
    Allen and Smith (1996), J. Climate 9, 3373, footnote 4, with the powers g**n, which common implementations drop.
    The estimate is that of the lags 0 and 1 alone; about 30 values are needed for an error of 0.2.

    Examples
    --------
    >>> import numpy as np, pointsman as pm
    >>> pm.ar1(pm.ar1_surrogate(20_000, 0.7, np.random.default_rng(1))).g.__round__(1)
    0.7
    """
    series = np.asarray(x)
    if series.ndim != 1 or series.dtype.kind not in "fiub":
        raise ValueError(f"ar1: found {series.dtype.name} of shape {series.shape}; give one series of real numbers")
    n = series.size
    if n < SHORTEST:
        raise ValueError(f"ar1: found {n} values; the least is {SHORTEST}")
    values = series.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("ar1: found values that are not finite; fill the gaps, or leave them out, first")
    # Squares of the largest and the smallest numbers are none: a power of two takes the values near to one, and leaves
    # no trace where it is not needed.
    unit = math.ldexp(1.0, int(np.frexp(np.abs(values).max())[1]) - 1)
    values /= unit
    mean = float(values.mean())
    values -= mean
    lag0, lag1 = float(values @ values) / n, float(values[:-1] @ values[1:]) / (n - 1)
    if lag0 <= (4 * np.finfo(np.float64).eps * mean) ** 2:
        raise ValueError("ar1: found equal values; a constant series has no spectrum to compare with")
    g, bounded = _solve(lag1 / lag0, n)
    return AR1(g, lag0 / (1 - _of_mean(g, n)) * unit * unit, mean * unit, bounded)


def _of_mean(g: float, n: int) -> float:
    """Variance of the mean of n values of an AR(1) process, over that of a value."""
    return -1 / n + 2 / n**2 * (n - n * g - g + g ** (n + 1)) / (1 - g) ** 2


def _solve(found: float, n: int) -> tuple[float, bool]:
    """The g of which `found` is expected, and whether it had to be bounded from above."""

    def expected(g: float) -> float:
        m = _of_mean(g, n)
        return (g - m) / (1 - m)

    low, high = 1 / n - 1, 1 - 1 / n
    if found >= expected(high):
        return high, True
    if found <= expected(low):
        return low, False
    while True:  # `expected` rises with g: bisection ends at two neighbouring numbers
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return middle, False
        low, high = (middle, high) if expected(middle) < found else (low, middle)


def ar1_spectrum(frequencies: ArrayLike, g: float, dt: float = 1.0) -> NDArray[np.float64]:
    """The power spectrum of an AR(1) process of variance 1, so that white noise has 1 at every frequency.

    Parameters
    ----------
    frequencies : any shape, in cycles per unit of `dt`; negative ones mean the same.
    g : lag-1 autocorrelation, between -1 and 1.
    dt : sampling interval.

    Returns
    -------
    array
        float64 of the shape of `frequencies`: ``(1 - g**2) / (1 + g**2 - 2*g*cos(2*pi*f*dt))``, exact to a few units in
        the last place. Its mean over the frequencies of a Fourier transform is 1 up to g**n.

    Raises
    ------
    ValueError
        |g| is not below 1.

    Notes
    -----
    Torrence and Compo (1998), eq. 16, whose k/N is f*dt.
    """
    g = need_stationary(g)
    angle = np.asarray(frequencies, np.float64) * (np.pi * dt)
    # (1-g)**2 + 4 g sin(angle)**2 is the same as 1 + g**2 - 2 g cos(2 angle), without its cancellation at g near 1.
    spectrum: NDArray[np.float64] = (1 - g * g) / ((1 - g) ** 2 + 4 * g * np.sin(angle) ** 2)
    return spectrum


def ar1_surrogate(
    n: int, g: float, rng: Any = None, *, size: int | Sequence[int] | None = None, sigma: float = 1.0,
    dtype: Any = "float64",
) -> NDArray[Any]:  # fmt: skip
    """Series of an AR(1) process: ``x[t] = g * x[t-1] + sigma * e[t]`` with standard normal e.

    The first value is drawn from the stationary distribution, so there is no start to be thrown away.

    Parameters
    ----------
    n : values of each series.
    g : lag-1 autocorrelation, between -1 and 1; 0 is white noise.
    rng : what `numpy.random.default_rng` takes: a Generator (which advances), a seed, a SeedSequence; None draws one.
    size : so many series, or a shape of them; None: a single one.
    sigma : standard deviation of the innovations; the variance of the values is ``sigma**2 / (1 - g**2)``.
    dtype : "float64" or "float32", also of the numbers that are drawn.

    Returns
    -------
    array
        (n,), or (*size, n): of independent series. The bits depend on the generator and on nothing that is installed
        beside NumPy. The lag-k autocorrelation is g**k to within 1e-15 (float32: 1e-7), and to
        1e-12 for g near 1.

    Raises
    ------
    ValueError
        |g| is not below 1, n or sigma is negative, or another dtype.
    TypeError
        n is no whole number.
    """
    g = need_stationary(g)
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"ar1_surrogate: found n={n!r}; give a whole number of values")
    kind = np.dtype(dtype)
    if kind not in (np.float64, np.float32):
        raise ValueError(f"ar1_surrogate: found dtype {kind.name}; allowed are float64 and float32")
    if n < 0 or not sigma >= 0:
        raise ValueError(f"ar1_surrogate: found n={n}, sigma={sigma!r}; neither may be negative")
    shape = (*_shape(size), n)
    drawn: NDArray[Any] = np.random.default_rng(rng).standard_normal(shape, dtype=kind.type)
    drawn = redden(drawn, g)
    if sigma != 1.0:
        drawn *= kind.type(sigma)
    return drawn


def redden(drawn: NDArray[Any], g: float) -> NDArray[Any]:
    """Make standard normal numbers, in place, into AR(1) series along the last axis; gives them back."""
    if g == 0.0 or drawn.shape[-1] == 0:
        return drawn
    drawn[..., 0] /= math.sqrt(1 - g * g)
    # 1 / (1 - gB) = (1 + gB)(1 + (gB)**2)(1 + (gB)**4)...: whole arrays at a time, and as exact as the recursion. What
    # lies further back than the powers of g that the dtype can tell from nothing is left out.
    lag, weight = 1, float(g)
    least = np.finfo(drawn.dtype).eps / 8 * (1 - abs(g))
    while lag < drawn.shape[-1] and abs(weight) > least:
        drawn[..., lag:] += drawn.dtype.type(weight) * drawn[..., :-lag]
        lag, weight = 2 * lag, weight * weight
    return drawn


def phase_randomize(x: ArrayLike, rng: Any = None, *, size: int | Sequence[int] | None = None) -> NDArray[Any]:
    """Series with the amplitude spectrum of `x`, and so its autocorrelation, but with phases drawn anew.

    What is left of `x` is what is linear in it: the null hypothesis of a stationary Gaussian process.

    Parameters
    ----------
    x : (..., n) real array; the phases of all its series are independent of each other.
    rng : what `numpy.random.default_rng` takes: a Generator (which advances), a seed, a SeedSequence; None draws one.
    size : so many of each series, or a shape of them; None: one.

    Returns
    -------
    array
        The shape of `x`, or (*size, *x.shape); float32 for float32, else float64. The amplitudes are those of `x` to
        within 1e-15 of the largest (float32: 1e-6), the mean is its own. For even n the bin of the Nyquist frequency,
        which has to stay real, keeps its amplitude and is given a sign.

    Raises
    ------
    ValueError
        No axis, or values that are not real or not finite.

    Notes
    -----
    Theiler, Eubank, Longtin, Galdrikian and Farmer (1992), Physica D 58, 77. The series is taken to be periodic: one
    that ends far from where it begins, because of a trend for instance, gets surrogates with too much at high
    frequencies.
    """
    series = np.asarray(x)
    if series.ndim == 0 or series.dtype.kind not in "fiub":
        raise ValueError(f"phase_randomize: found {series.dtype.name} of shape {series.shape}; give real series")
    kind = np.dtype(np.float32 if series.dtype == np.float32 else np.float64)
    series = series.astype(kind, copy=False)
    if not np.isfinite(series).all():
        raise ValueError("phase_randomize: found values that are not finite; fill the gaps first")
    n, generator = series.shape[-1], np.random.default_rng(rng)
    if n == 0:
        return np.empty((*_shape(size), *series.shape), kind)
    spectrum = np.fft.rfft(series)
    turned = np.broadcast_to(spectrum, (*_shape(size), *spectrum.shape)).copy()
    free = turned[..., 1 : (n + 1) // 2]
    free *= np.exp(2j * np.pi * generator.random(free.shape))
    if n % 2 == 0:
        turned[..., -1] *= np.where(generator.random(turned.shape[:-1]) < 0.5, -1.0, 1.0)
    return np.fft.irfft(turned, n).astype(kind, copy=False)


def need_stationary(g: float) -> float:
    """`g` as a float; ValueError unless it can be the lag-1 autocorrelation of a stationary process."""
    if not -1 < g < 1:
        raise ValueError(f"g: found {g!r}; the lag-1 autocorrelation of a stationary series lies between -1 and 1")
    return float(g)


def _shape(size: int | Sequence[int] | None) -> tuple[int, ...]:
    if size is None:
        return ()
    return tuple(int(k) for k in size) if isinstance(size, Sequence) else (int(size),)
