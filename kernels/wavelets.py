r"""Mother wavelets of Torrence and Compo, and the scales, periods and cone of influence that go with them.

A wavelet is named "morlet", "paul" or "dog", or with its order, ("paul", 6), or given as an instance. All are of unit
energy. Their Fourier transforms are those of table 1, which for DOG of odd order, and for Paul of an order that is no
multiple of four, differ by a constant phase from the functions of time in the same table: the Fourier column holds
here, as everywhere where transforms are computed by FFT.

Times (scales, periods, e-folding times) have the unit of `dt`, frequencies its inverse, and angular frequencies are in
radians to that unit.

Source: Torrence and Compo, A practical guide to wavelet analysis, Bull. Amer. Meteor. Soc. 79 (1998): tables 1 and 2,
eq. 9, 10 and 13, sections 3g and 3h. Least order of Morlet: Farge, Annu. Rev. Fluid Mech. 24 (1992).

>>> Morlet().fourier_factor.__round__(3), Paul().fourier_factor.__round__(3), DOG().fourier_factor.__round__(3)
(1.033, 1.396, 3.974)
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


class Mother(ABC):
    """What the three wavelets have in common.

    Attributes
    ----------
    name : "morlet", "paul" or "dog".
    order : w0 of Morlet, m of Paul and DOG.
    analytic : it has no negative frequencies, so that the transform of a real series is complex.
    """

    name: ClassVar[str]
    analytic: ClassVar[bool] = True
    _published: ClassVar[Mapping[float, tuple[float, float, float]]]  # order -> C_delta, gamma, dj0 of table 2

    @property
    @abstractmethod
    def order(self) -> float:
        """The wavelet's parameter: w0 or m."""

    @property
    @abstractmethod
    def fourier_factor(self) -> float:
        """Period of the harmonic that a wavelet of scale 1 answers to most (table 1, last column)."""

    @property
    @abstractmethod
    def e_folding(self) -> float:
        """Time after which the answer of scale 1 to an edge has fallen to e^-2 in power (table 1)."""

    @property
    @abstractmethod
    def at_zero(self) -> float:
        """The wavelet at time zero, from its Fourier transform; 0 for DOG of odd order."""

    @property
    @abstractmethod
    def c_delta_limit(self) -> float:
        """What eq. 13 gives in the limit of ever finer steps and an ever longer range of scales."""

    @property
    def phase(self) -> complex:
        """The constant, 1, -1, i or -i, that `magnitude` is to be multiplied with."""
        return 1.0

    @abstractmethod
    def magnitude(self, angular: Array) -> Array:
        """The Fourier transform at `angular` >= 0 but for its `phase`: real, never negative, in `angular`'s dtype."""

    @abstractmethod
    def envelope(self, time: Array) -> Array:
        """The absolute value of the wavelet of scale 1 but for a factor, float64: what smooths in time."""

    def fourier(self, angular: Array) -> Array:
        """The Fourier transform at any angular frequency (table 1), complex128."""
        w = np.asarray(angular, np.float64)
        positive = self.phase * self.magnitude(np.abs(w))
        if self.analytic:
            return np.where(w > 0, positive, 0.0).astype(np.complex128)
        # The transform of a real function: conjugate at the negative frequencies.
        return np.where(w < 0, np.conj(positive), positive).astype(np.complex128)

    @property
    def c_delta(self) -> float:
        """Factor of reconstruction: table 2 for the orders listed there, else `c_delta_limit`, 0.1 to 2 % off those."""
        published = self._published.get(self.order)
        return self.c_delta_limit if published is None else published[0]

    @property
    def gamma(self) -> float:
        """Decorrelation factor for averages in time (table 2). ValueError for orders that it does not list."""
        return self._listed(1, "gamma, the decorrelation factor in time,")

    @property
    def dj0(self) -> float:
        """Decorrelation length in scale, octaves (table 2). ValueError for orders that it does not list."""
        return self._listed(2, "dj0, the decorrelation length in scale,")

    def _listed(self, place: int, what: str) -> float:
        published = self._published.get(self.order)
        if published is None:
            orders = ", ".join(f"{order:g}" for order in self._published)
            raise ValueError(
                f"wavelet: {what} of {self.name} of order {self.order:g} is not published; it is for order {orders}"
            )
        return published[place]


@dataclass(frozen=True)
class Morlet(Mother):
    """A plane wave of angular frequency `w0` under a Gaussian; complex.

    Raises
    ------
    ValueError : w0 is below 5: the mean of the wavelet would be no zero (Farge 1992).
    """

    w0: float = 6.0
    name: ClassVar[str] = "morlet"
    _published: ClassVar[Mapping[float, tuple[float, float, float]]] = {6.0: (0.776, 2.32, 0.60)}

    def __post_init__(self) -> None:
        _need_order("morlet", "w0", self.w0, least=5.0, most=100.0, whole=False)
        object.__setattr__(self, "w0", float(self.w0))  # equal ones, of single precision too, are one wavelet

    @property
    def order(self) -> float:
        return float(self.w0)

    @property
    def fourier_factor(self) -> float:
        return 4.0 * math.pi / (self.w0 + math.sqrt(2.0 + self.w0**2))

    @property
    def e_folding(self) -> float:
        return math.sqrt(2.0)

    @property
    def at_zero(self) -> float:
        return float(math.pi**-0.25)

    @property
    def c_delta_limit(self) -> float:
        # pi sqrt(2) / ln 2 times Dawson's integral of w0 / sqrt(2) (Rybicki's sum, Comput. Phys. 3 (1989), error
        # exp(-60) with this step): the principal value, as the transform at zero is e^(-w0^2/2) and not zero.
        z, h = self.w0 / math.sqrt(2.0), 0.2
        middle = round(z / h / 2.0) * 2
        odd = range(middle - 61, middle + 62, 2)
        dawson = sum(math.exp(-((z - n * h) ** 2)) / n for n in odd) / math.sqrt(math.pi)
        return math.pi * math.sqrt(2.0) / math.log(2.0) * dawson

    def magnitude(self, angular: Array) -> Array:
        kind = angular.dtype.type
        found: Array = kind(math.pi**-0.25) * np.exp(-((angular - kind(self.w0)) ** 2) / 2)
        return np.where(angular > 0, found, kind(0))

    def envelope(self, time: Array) -> Array:
        return np.exp(-(time**2) / 2)


@dataclass(frozen=True)
class Paul(Mother):
    """The wavelet (1 - i t)^-(m+1): complex, sharper in time and wider in frequency than Morlet."""

    m: int = 4
    name: ClassVar[str] = "paul"
    _published: ClassVar[Mapping[float, tuple[float, float, float]]] = {4.0: (1.132, 1.17, 1.5)}

    def __post_init__(self) -> None:
        _need_order("paul", "m", self.m, least=1, most=40, whole=True)
        object.__setattr__(self, "m", int(self.m))

    @property
    def order(self) -> float:
        return float(self.m)

    @property
    def fourier_factor(self) -> float:
        return 4.0 * math.pi / (2 * self.m + 1)

    @property
    def e_folding(self) -> float:
        return math.sqrt(0.5)

    @property
    def at_zero(self) -> float:
        return 2.0**self.m * math.factorial(self.m) / math.sqrt(math.pi * math.factorial(2 * self.m))

    @property
    def c_delta_limit(self) -> float:
        return math.pi / (self.m * math.log(2.0))

    def magnitude(self, angular: Array) -> Array:
        kind = angular.dtype.type
        # Half of each factor at a time: the power alone would overflow where the exponential is next to nothing.
        root = np.exp(-angular / (2 * self.m)) * np.sqrt(np.maximum(angular, 0))
        found: Array = kind(2.0**self.m / math.sqrt(self.m * math.factorial(2 * self.m - 1))) * root ** (2 * self.m)
        return found

    def envelope(self, time: Array) -> Array:
        found: Array = (1.0 + time**2) ** (-0.5 * (self.m + 1))
        return found


@dataclass(frozen=True)
class DOG(Mother):
    """The derivative of order `m` of a Gaussian: real; of order 2 the Mexican hat."""

    m: int = 2
    name: ClassVar[str] = "dog"
    analytic: ClassVar[bool] = False
    _published: ClassVar[Mapping[float, tuple[float, float, float]]] = {
        2.0: (3.541, 1.43, 1.4),
        6.0: (1.966, 1.37, 0.97),
    }

    def __post_init__(self) -> None:
        _need_order("dog", "m", self.m, least=1, most=40, whole=True)
        object.__setattr__(self, "m", int(self.m))

    @property
    def order(self) -> float:
        return float(self.m)

    @property
    def fourier_factor(self) -> float:
        return 2.0 * math.pi / math.sqrt(self.m + 0.5)

    @property
    def e_folding(self) -> float:
        return math.sqrt(2.0)

    @property
    def phase(self) -> complex:
        return (-1.0, -1j, 1.0, 1j)[self.m % 4]

    @property
    def at_zero(self) -> float:
        if self.m % 2:
            return 0.0
        moment: float = 2.0 ** ((self.m + 1) / 2) * math.gamma((self.m + 1) / 2)
        return self.phase.real * moment / math.sqrt(2.0 * math.pi * math.gamma(self.m + 0.5))

    @property
    def c_delta_limit(self) -> float:
        if self.m % 2:
            raise ValueError(
                f"wavelet: dog of order {self.m} is zero at time zero, so that eq. 11 gives no series back; "
                "an even order does"
            )
        return math.pi / (math.sqrt(2.0) * math.log(2.0)) * math.gamma(self.m / 2) / math.gamma((self.m + 1) / 2)

    def magnitude(self, angular: Array) -> Array:
        kind = angular.dtype.type
        root = np.exp(-(angular**2) / (2 * self.m)) * angular
        found: Array = kind(1.0 / math.sqrt(math.gamma(self.m + 0.5))) * root**self.m
        return found

    def envelope(self, time: Array) -> Array:
        from numpy.polynomial.hermite_e import hermeval

        return np.abs(hermeval(time, [0.0] * self.m + [1.0])) * np.exp(-(time**2) / 2)


MOTHERS: Mapping[str, type[Morlet | Paul | DOG]] = {"morlet": Morlet, "paul": Paul, "dog": DOG}
Wavelet: TypeAlias = str | tuple[str, float] | Mother


def mother(wavelet: Wavelet) -> Mother:
    """The wavelet that a name, a (name, order) or an instance stands for.

    Raises
    ------
    ValueError : unknown name, or an order that the wavelet does not have.
    TypeError : something else altogether.
    """
    if isinstance(wavelet, Mother):
        return wavelet
    name, order = wavelet if isinstance(wavelet, tuple) and len(wavelet) == 2 else (wavelet, None)
    if not isinstance(name, str):
        raise TypeError(f"wavelet: must be a name, (name, order) or an instance; got {wavelet!r}")
    kind = MOTHERS.get(name.lower())
    if kind is None:
        raise ValueError(f"wavelet: must be one of {', '.join(map(repr, MOTHERS))}; got {name!r}")
    if order is None:
        return kind()
    if kind is not Morlet and isinstance(order, float) and order.is_integer():
        order = int(order)
    return kind(order)  # type: ignore[arg-type]


def _need_order(wavelet: str, name: str, order: Any, *, least: float, most: float, whole: bool) -> None:
    kind = numbers.Integral if whole else numbers.Real
    if not isinstance(order, kind) or isinstance(order, bool) or not least <= float(order) <= most:
        raise ValueError(
            f"wavelet: {name} of {wavelet} must be a {'whole ' if whole else ''}number from {least:g} to {most:g}; "
            f"got {order!r}"
        )


def default_s0(wavelet: Mother, dt: float) -> float:
    """The smallest scale: that of a period of two samples (section 3f)."""
    return 2.0 * dt / wavelet.fourier_factor


def default_J(n: int, dt: float, dj: float, s0: float) -> int:
    """Number of the largest scale, that of a wavelet as long as the series (eq. 10, rounded to the nearest)."""
    return max(0, round(math.log2(max(n, 1) * dt / s0) / dj))


def scales(n: int, dt: float = 1.0, *, dj: float = 1 / 12, s0: float | None = None, J: int | None = None,
           wavelet: Wavelet = "morlet") -> Array:  # fmt: skip
    """Scales that a series of `n` samples is transformed at, s0 2^(j dj) for j from 0 to J (eq. 9 and 10).

    Parameters
    ----------
    n : number of samples.
    dt : time between them.
    dj : step in octaves.
    s0 : smallest scale; None: that of a period of 2 dt.
    J : number of the largest scale; None: the one nearest to n dt.
    wavelet : see `mother`.

    Returns
    -------
    float64 array (J + 1,), in the unit of `dt`.
    """
    first = default_s0(mother(wavelet), dt) if s0 is None else s0
    last = default_J(n, dt, dj, first) if J is None else J
    found: Array = first * 2.0 ** (np.arange(last + 1) * dj)
    return found


def cone_of_influence(n: int, dt: float = 1.0, *, wavelet: Wavelet = "morlet") -> Array:
    """The longest period at each sample that the ends of the series do not reach (section 3g).

    An end reaches as far as the e-folding time. Samples at the ends themselves have 0: nothing is beyond reach there.

    Returns
    -------
    float64 array (n,), periods in the unit of `dt`.
    """
    kind = mother(wavelet)
    at = np.arange(n)
    found: Array = kind.fourier_factor / kind.e_folding * dt * np.minimum(at, n - 1 - at)
    return found
