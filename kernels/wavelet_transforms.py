r"""The wavelet transform of a series, the cross transform and the coherence of two, with what a plot of them needs.

>>> import numpy as np
>>> found = cwt(np.cos(2 * np.pi * np.arange(200) / 16))
>>> round(float(found.periods[np.argmax(found.global_spectrum)]))
16
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..executors.conversion import kind_of
from ..executors.registry import executor
from ..selector.settings import use
from ..selector.shared import default_selector
from .checks import need_same_dtype
from .wavelet_plan import Plan, need_description, plan
from .wavelets import Array, Mother, Wavelet


@dataclass(frozen=True, eq=False)
class _Scaled:
    """What belongs to the axes of a result. All times have the unit of `dt`.

    Attributes
    ----------
    scales, periods : (S,) float64; the period of a scale is that of the harmonic it answers to most.
    coi : (N,) float64, the longest period that the ends of the series do not reach: the cone of influence.
    wavelet : the mother wavelet, an instance.
    dt, dj : step in time, and in scale (octaves).
    """

    scales: Array
    periods: Array
    coi: Array
    wavelet: Mother
    dt: float
    dj: float

    @property
    def frequencies(self) -> Array:
        """(S,) frequencies, one over the periods."""
        found: Array = 1.0 / self.periods
        return found

    @property
    def outside(self) -> Array:
        """(S, N) bool: points outside the cone of influence, where the ends of the series do not count."""
        found: Array = self.periods[:, None] < self.coi
        return found


@dataclass(frozen=True, eq=False)
class CwtResult(_Scaled):
    """A wavelet transform. See `cwt`.

    Attributes
    ----------
    W : (..., S, N) complex transform, in the unit of the series, of the array kind of the series.
    mean : of each series, (...), taken off before the transform.
    scales, periods, coi, wavelet, dt, dj, frequencies, outside : of the axes.
    """

    W: Any
    mean: Any

    @property
    def power(self) -> Any:
        """(..., S, N) power abs(W)^2; of white noise its mean is the variance, at every scale."""
        return self.W.real**2 + self.W.imag**2

    @property
    def global_spectrum(self) -> Any:
        """(..., S) power averaged over all of the time (T&C eq. 22), the cone of influence included."""
        return self.power.mean(-1)

    def inverse(self, periods: tuple[float, float] | None = None) -> Any:
        """The series again, or a part of it: the sum over scales (T&C eq. 11 and 29).

        Parameters
        ----------
        periods : the shortest and the longest period to keep, as a filter; None: all of them, and the mean.

        Returns
        -------
        array (..., N)
            Real. With the default scales and Morlet, what has periods far from 2 dt and N dt comes back within 0.5 %;
            shorter and longer ones are weakened, so that white noise comes back within some 15 %. Wavelets that are
            wider in frequency lose more: Paul 2.5 % of a period of 8 dt and DOG 7 % of it (1.2 % of 20 dt), and 31 and
            37 % of white noise.
            C_delta is the limit of eq. 13: with the 0.776 of table 2 all would be 0.3 % too much.

        Raises
        ------
        ValueError : DOG of an odd order, which is zero at time zero; or no scale has such a period.
        """
        least, most = (0.0, np.inf) if periods is None else periods
        kept = np.flatnonzero((self.periods >= least) & (self.periods <= most))
        if not kept.size:
            raise ValueError(
                f"inverse: no scale has a period from {least:g} to {most:g}; there are {self.periods[0]:.4g} to "
                f"{self.periods[-1]:.4g}"
            )
        factor = self.dj * self.dt**0.5 / (self.wavelet.c_delta_limit * self.wavelet.at_zero)
        # One scale after the other, which needs no more memory than the series, in any library.
        total: Any = 0.0
        for j in kept:
            total = total + self.W[..., int(j), :].real * float(factor / self.scales[j] ** 0.5)
        return total if periods is not None else total + self.mean[..., None]


@dataclass(frozen=True, eq=False)
class XwtResult(_Scaled):
    """A cross wavelet transform. See `xwt`.

    Attributes
    ----------
    W12 : (..., S, N) complex, W1 times the conjugate of W2; in the product of the units of the series.
    scales, periods, coi, wavelet, dt, dj, frequencies, outside : of the axes.
    """

    W12: Any

    @property
    def power(self) -> Any:
        """(..., S, N) cross power abs(W12)."""
        return abs(self.W12)

    @property
    def phase(self) -> Any:
        """(..., S, N) angle of W12 in radians, positive where the first series leads."""
        return _angle(self.W12)


@dataclass(frozen=True, eq=False)
class WctResult(XwtResult):
    """Wavelet coherence. See `wct`.

    Attributes
    ----------
    coherence : (..., S, N) squared coherence R^2, from 0 to 1.
    smoothed_phase : (..., S, N) angle of the smoothed cross transform, radians, positive where the first series leads.
    W12, phase, power : of the cross transform, which is not smoothed.
    scales, periods, coi, wavelet, dt, dj, frequencies, outside : of the axes.
    """

    coherence: Any
    smoothed_phase: Any


def cwt(
    x: Any,
    dt: float = 1.0,
    *,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    pad: str | None = "zeros",
    backend: str | None = "auto",
) -> CwtResult:
    """Continuous wavelet transform of a series (Torrence and Compo 1998).

    Parameters
    ----------
    x : real series (..., N), of any array library, or what `numpy.asarray` takes, whose whole numbers become
        float64. Its mean is taken off; trends and units are left to the caller.
    dt : time between samples.
    dj : step from scale to scale, octaves.
    s0 : smallest scale; None: that of a period of 2 dt.
    J : number of the largest scale, s0 2^(J dj); None: the one nearest to N dt.
    wavelet : "morlet", "paul", "dog" for orders 6, 4 and 2; ("paul", 6); or an instance of `kernels.wavelets`.
    pad : "zeros": zeros are appended for two e-folding times of the largest scale, N at most, so that the two ends do
        not reach each other. None: the series is periodic.
    backend : "auto", or the name of the one backend to use.

    Returns
    -------
    CwtResult
        With W (..., S, N) at S = J + 1 scales; float32 gives complex64, float64 complex128.

    Raises
    ------
    ValueError, TypeError : arguments that cannot be; the message says which.

    Notes
    -----
    Conventions (normalisation, Nyquist frequency, padding) and accuracy stand in `kernels.cwt`.

    Examples
    --------
    >>> import numpy as np
    >>> found = cwt(np.random.default_rng(0).standard_normal(512), dt=0.25)
    >>> found.W.shape, float(found.power.mean().round(1))
    ((98, 512), 0.8)
    """
    series, made = _given("cwt", x, dt, dj, s0, J, wavelet, pad)
    return CwtResult(*_axes(made), W=_run("cwt", backend, made, series), mean=series.mean(-1))


def xwt(
    x: Any,
    y: Any,
    dt: float = 1.0,
    *,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    pad: str | None = "zeros",
    backend: str | None = "auto",
) -> XwtResult:
    """Cross wavelet transform of two series: where they have power in common, and which one leads.

    Parameters
    ----------
    x, y : real series (..., N) of one shape and dtype, sampled at the same times.
    dt, dj, s0, J, wavelet, pad, backend : as for `cwt`.

    Returns
    -------
    XwtResult
        With W12 (..., S, N), W of x times the conjugate of W of y. Its angle is positive where `x` leads: for a ``y``
        that is `x` some time later it is 2 pi times that time over the period.

    Raises
    ------
    ValueError, TypeError : arguments that cannot be; the message says which.

    Notes
    -----
    Power is not divided by the scale: where two peaks of unlike periods are compared, the longer one looks larger (Liu
    et al., J. Atmos. Oceanic Technol. 24 (2007)).
    """
    (first, made), second = _given("xwt", x, dt, dj, s0, J, wavelet, pad), _array(y)
    _need_alike("xwt", first, second)
    return XwtResult(*_axes(made), W12=_cross(first, second, made, backend))


def wct(
    x: Any,
    y: Any,
    dt: float = 1.0,
    *,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    pad: str | None = "zeros",
    backend: str | None = "auto",
) -> WctResult:
    """Wavelet coherence of two series: how firmly they keep step, at each time and period.

    How large a coherence of unrelated series would be by chance is told by `wct_significance`.

    Parameters
    ----------
    x, y : real series (..., N) of one shape and dtype, sampled at the same times.
    dt, dj, s0, J, wavelet, pad, backend : as for `cwt`.

    Returns
    -------
    WctResult
        With the squared coherence (..., S, N), from 0 to 1, and the phase by which `x` leads `y`, radians.

    Raises
    ------
    ValueError, TypeError : arguments that cannot be, among them an order of a wavelet for which no width of smoothing
        in scale is published.

    Notes
    -----
    Smoothed in time and scale as by Torrence and Webster (1999) and Grinsted et al. (2004); see `kernels.coherence`.

    Examples
    --------
    >>> import numpy as np
    >>> t = np.arange(300)
    >>> x, y = np.cos(2 * np.pi * t / 20), np.cos(2 * np.pi * (t - 5) / 20)
    >>> noise = 0.1 * np.random.default_rng(0).standard_normal((2, 300))
    >>> found = wct(x + noise[0], y + noise[1])
    >>> at = int(np.argmin(np.abs(found.periods - 20)))
    >>> bool(found.coherence[at, 150] > 0.98), float(found.smoothed_phase[at, 150].round(1))  # a quarter of a turn
    (True, 1.6)
    """
    (first, made), second = _given("wct", x, dt, dj, s0, J, wavelet, pad), _array(y)
    _need_alike("wct", first, second)
    coherency = _run("wavelet_coherence", backend, made, first, second)
    return WctResult(
        *_axes(made),
        W12=_cross(first, second, made, backend),
        coherence=(coherency.real**2 + coherency.imag**2).clip(None, 1),
        smoothed_phase=_angle(coherency),
    )


def _array(x: Any) -> Any:
    """`x` as an array of floating-point numbers, its kind kept."""
    if kind_of(x) is not None:
        return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind in "bui" else x
    found = np.asarray(x)
    return found.astype(np.float64) if found.dtype.kind in "bui" else found


def _given(operation: str, x: Any, *description: Any) -> tuple[Any, Plan]:
    dt, dj, s0, J, wavelet, pad = description
    need_description(operation, dt, dj, s0, J, wavelet, None, pad)
    series = _array(x)
    shape = tuple(series.shape)
    if not shape or not shape[-1]:
        raise ValueError(f"{operation}: a series must have at least one sample along its last axis; got shape {shape}")
    return series, plan(shape[-1], dt, dj=dj, s0=s0, J=J, wavelet=wavelet, pad=pad)


def _need_alike(operation: str, x: Any, y: Any) -> None:
    if tuple(x.shape) != tuple(y.shape):
        raise ValueError(
            f"{operation}: x and y must have one shape; got {tuple(x.shape)} and {tuple(y.shape)} (cut both to the "
            "times that they have in common)"
        )
    need_same_dtype(operation, x=x, y=y)


def _axes(made: Plan) -> tuple[Array, Array, Array, Mother, float, float]:
    return made.scales.copy(), made.periods.copy(), made.coi.copy(), made.wavelet, made.dt, made.dj


def _run(operation: str, backend: str | None, made: Plan, *series: Any) -> Any:
    if backend is None or backend == "auto":
        return default_selector().run(operation, *series, **made.parameters)
    with use(backend):
        return default_selector().run(operation, *series, **made.parameters)


def _cross(x: Any, y: Any, made: Plan, backend: str | None) -> Any:
    return _run("cwt", backend, made, x) * _run("cwt", backend, made, y).conj()


def _angle(w: Any) -> Any:
    kind = kind_of(w)
    if kind in (None, "numpy"):
        return np.angle(w)
    xp = executor("jax" if kind == "tracer" else str(kind)).namespace()
    return xp.atan2(xp.imag(w), xp.real(w))
