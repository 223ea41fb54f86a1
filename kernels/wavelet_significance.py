"""Which wavelet power is more than red noise has: levels of a wavelet spectrum, at points and of averages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..executors.errors import BackendUnavailableError
from .red_noise import ar1, ar1_spectrum
from .wavelets import Mother, Wavelet, mother

TESTS, BACKGROUNDS = ("local", "time", "scale"), ("band", "peak")
POINTS = 2048  # of the integral over a band: right to 1e-5; to 1e-3, at scales below a sample 1e-2, for g of 0.999


@dataclass(frozen=True, eq=False)
class CwtSignificance:
    """What red noise stays below, in the units of power.

    Attributes
    ----------
    levels : (S,) float64: what the power of red noise exceeds with the probability ``1 - significance_level``; () for
        test "scale".
    background : (S,) float64: the mean power of the red noise, or of its average; () for test "scale".
    dof : degrees of freedom of the chi-square distribution, of the shape of `levels`.
    significance_level : as it was given.
    g, variance : of the red noise.
    """

    levels: NDArray[np.float64]
    background: NDArray[np.float64]
    dof: NDArray[np.float64]
    significance_level: float
    g: float
    variance: float


def cwt_significance(
    x: ArrayLike, dt: float, scales: ArrayLike, *, significance_level: float = 0.95, wavelet: Wavelet = "morlet",
    g: float | None = None, test: str = "local", averaged: Any = None, background: str = "band",
) -> CwtSignificance:  # fmt: skip
    """The power of a wavelet transform that red noise of the same variance and memory would seldom exceed.

    Parameters
    ----------
    x : (n,) series, or its variance as a number.
    dt : sampling interval.
    scales : (S,) of the transform, in the unit of `dt`.
    significance_level : between 0 and 1; 0.95 lets one in twenty exceed it by chance.
    wavelet : of the transform; see `pointsman.cwt`.
    g : lag-1 autocorrelation of the noise; None: that of the series, by `pointsman.ar1`. 0 is white noise.
    test : "local": of the power ``abs(W)**2`` at a point of the time-scale plane, one that was chosen beforehand: of
        all points, the share ``1 - significance_level`` exceeds it by chance. "time": of its average over time, the
        global spectrum.
        "scale": of its average over scales, ``dj * dt / C_delta * sum(abs(W)**2 / s)`` (Torrence and Compo, eq. 24).
    averaged : for "time", how many points were averaged, a number or (S,); None: all n of the series. For "scale", the
        least and the largest scale of the average; None: all of them.
    background : "band": the mean power of the noise, over the band of frequencies that the wavelet takes in. "peak":
        the noise's spectrum at the Fourier period of the scale, as Torrence and Compo have it.

    Returns
    -------
    CwtSignificance

    Raises
    ------
    ValueError
        A level or test that is none; a series that `ar1` refuses; no `g`, or no number of points, with a variance; no
        scale in the range; or a wavelet of an order whose decorrelation is not published, for averages.
    BackendUnavailableError
        SciPy is not installed, for the tests of averages: the package's base install has no quantiles for them.

    Notes
    -----
    Torrence and Compo (1998), Bull. Amer. Meteor. Soc. 79, 61: spectrum of the noise eq. 16; local test eq. 18, with
    one degree of freedom where the wavelet is real; "time" eq. 23; "scale" eqs. 25-28.

    Their background, "peak", is that of a wavelet infinitely narrow in frequency. The mean power of red noise is up to
    7 % larger for Morlet, 45 % for Paul and 67 % for the second derivative of a Gaussian, so that not 5 but up to 6, 13
    and 13 % of it exceed a level of 0.95; "band" integrates the spectrum, and 5 % do. It also knows that at the
    smallest scales a part of the wavelet lies beyond the Nyquist frequency. For white noise at other scales both are
    the same.
    The degrees of freedom of averages are the paper's fits. At the smallest scales of all, where the wavelet is cut off
    at the Nyquist frequency, those of "time" are too many: of white noise not 5 but 12 to 15 % exceed the level of a
    period of 2 dt, and 5 to 9 % that of 2.8 dt; further on it is 5 % for Morlet and Paul, 6 to 8 % for DOG.

    Examples
    --------
    >>> import pointsman as pm
    >>> pm.cwt_significance(1.0, 1.0, [4.0, 8.0], g=0.0).levels.round(2)  # white noise: half of chi-square's 5.99
    array([3., 3.])
    """
    kind, level = mother(wavelet), significance_level
    widths = np.atleast_1d(np.asarray(scales, np.float64))
    _check(dt, widths, level, test, background)
    variance, g, n = _noise(x, g)
    if background == "band":
        noise = variance * _over_band(kind, widths / dt, g)
    else:
        noise = variance * ar1_spectrum(1 / (kind.fourier_factor * widths), g, dt)
    dof = np.full(widths.shape, 2.0 if kind.analytic else 1.0)
    if test == "time":
        points = n if averaged is None else np.asarray(averaged, np.float64)
        if points is None:
            raise ValueError("averaged: found a variance in the place of a series; say how many points were averaged")
        if not np.all(np.isfinite(points) & (np.asarray(points) >= 0)):
            raise ValueError(f"averaged: found {averaged!r}; give numbers of points")
        dof = dof * np.sqrt(1 + (np.maximum(points, 1) * dt / (kind.gamma * widths)) ** 2)
    elif test == "scale":
        noise, dof = _over_scales(kind, widths, noise, dof[0], dt, averaged)
    return CwtSignificance(noise * _quantile(level, dof), noise, dof, level, g, variance)


def _over_band(kind: Mother, steps: NDArray[np.float64], g: float) -> NDArray[np.float64]:
    """Mean power of AR(1) noise of variance 1 at scales of so many samples: its spectrum under the squared wavelet.

    That is the expected value of eq. 4's power, with the sum over frequencies taken as an integral, which it is for
    series much longer than the wavelet.
    """
    u = np.geomspace(1e-3, 1e3, 4096)
    weight = kind.magnitude(u) ** 2
    most = u[weight > 1e-18 * weight.max()][-1]
    ends = np.minimum(most, np.pi * steps)[:, None]  # up to the Nyquist frequency
    middles = (np.arange(POINTS) + 0.5) / POINTS * ends
    spectrum = ar1_spectrum(middles / (2 * np.pi * steps[:, None]), g)
    total: NDArray[np.float64] = np.sum(spectrum * kind.magnitude(middles) ** 2, axis=1) * ends[:, 0] / POINTS
    return total if kind.analytic else 2 * total  # a real wavelet has the negative frequencies as well


def _noise(x: ArrayLike, g: float | None) -> tuple[float, float, int | None]:
    """Variance and memory of the noise, and the length of the series where there is one."""
    if np.ndim(x) == 0:
        variance = float(np.asarray(x))
        if g is None:
            raise ValueError("g: found a variance in the place of a series; give its lag-1 autocorrelation, too")
        if not (variance > 0 and math.isfinite(variance)):
            raise ValueError(f"x: found the variance {variance!r}; it must be above 0")
        return variance, float(g), None
    found = ar1(x)
    series = np.asarray(x, np.float64)
    return float(series.var()), found.g if g is None else float(g), series.size


def _over_scales(
    kind: Mother, widths: NDArray[np.float64], noise: NDArray[np.float64], dof: float, dt: float, averaged: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Background of an average over scales, in the units of eq. 24, and its degrees of freedom (eqs. 25-28)."""
    least, most = (widths[0], widths[-1]) if averaged is None else averaged
    inside = (widths >= least * (1 - 1e-9)) & (widths <= most * (1 + 1e-9))
    count = int(inside.sum())
    if count == 0 or len(widths) < 2:
        raise ValueError(
            f"averaged: found no scales to average from {least:g} to {most:g}; the scales go from {widths[0]:g} to "
            f"{widths[-1]:g}, and at least two are needed to tell their distance"
        )
    chosen, dj = widths[inside], math.log2(widths[1] / widths[0])
    mean = 1 / np.sum(1 / chosen)
    middle = math.sqrt(chosen[0] * chosen[-1])
    freedom = dof * count * mean / middle * math.sqrt(1 + (count * dj / kind.dj0) ** 2)
    return np.asarray(dj * dt / kind.c_delta * np.sum(noise[inside] / chosen)), np.asarray(freedom)


def _quantile(level: float, dof: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of chi-square over its degrees of freedom."""
    if np.all(dof == 2.0):
        return np.full(dof.shape, -math.log1p(-level))
    if np.all(dof == 1.0):
        return np.full(dof.shape, NormalDist().inv_cdf(0.5 + level / 2) ** 2)
    try:
        from scipy.special import chdtri
    except ImportError as error:
        raise BackendUnavailableError(
            "cwt_significance: the levels of averages need SciPy's chi-square quantiles, and scipy is not installed; "
            "pip install 'pointsman[scipy]'"
        ) from error
    found: NDArray[np.float64] = chdtri(dof, 1 - level) / dof
    return found


def need_level(level: float) -> None:
    """Raise ValueError unless this is a probability that a test may have."""
    if not 0 < level < 1:
        raise ValueError(f"significance_level: found {level!r}; allowed is what lies between 0 and 1, such as 0.95")


def _check(dt: float, widths: NDArray[np.float64], level: float, test: str, background: str) -> None:
    need_level(level)
    for name, found, allowed in (("test", test, TESTS), ("background", background, BACKGROUNDS)):
        if found not in allowed:
            raise ValueError(f"{name}: found {found!r}; allowed are {', '.join(allowed)}")
    if not (dt > 0 and math.isfinite(dt)):
        raise ValueError(f"dt: found {dt!r}; the sampling interval must be above 0")
    if widths.ndim != 1 or not (np.isfinite(widths) & (widths > 0)).all():
        raise ValueError(f"scales: found {widths!r}; give one axis of numbers above 0")
