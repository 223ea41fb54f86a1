"""What a wavelet transform is made with: its scales, the length of its Fourier transforms, and their filters.

A plan is made once per description and kept; so are its filters, 64 MiB of them at most.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np

from . import wavelets
from .band_limited import NOTHING, Group, Groups, grouped
from .checks import need_choice
from .spectra import Kept, fast_length
from .wavelets import Array, Mother, Wavelet

KEPT = Kept(64 << 20)
PADS = ("zeros", None)
FAR = 2.0  # e-folding times of zeros: at the cone's edge what wraps round weighs e^-9 (Morlet, DOG), 3^2 of them


@dataclass(frozen=True)
class Plan:
    """Scales and filters for series of one length. Made by `plan`.

    Attributes
    ----------
    n : samples of a series.
    dt, dj, s0, J : step in time, step in octaves, smallest scale, number of the largest.
    wavelet : the mother wavelet.
    pad : "zeros" or None.
    """

    n: int
    dt: float
    dj: float
    s0: float
    J: int
    wavelet: Mother
    pad: str | None

    @cached_property
    def scales(self) -> Array:
        """(J + 1,) scales, float64, in the unit of dt."""
        return wavelets.scales(self.n, self.dt, dj=self.dj, s0=self.s0, J=self.J, wavelet=self.wavelet)

    @cached_property
    def periods(self) -> Array:
        """(J + 1,) periods of the harmonics that the scales answer to, in the unit of dt."""
        return self.wavelet.fourier_factor * self.scales

    @cached_property
    def coi(self) -> Array:
        """(n,) longest period at each sample that the ends do not reach."""
        return wavelets.cone_of_influence(self.n, self.dt, wavelet=self.wavelet)

    @property
    def parameters(self) -> dict[str, Any]:
        """The description as the operations take it."""
        return {
            "dt": self.dt, "dj": self.dj, "s0": self.s0, "J": self.J,
            "wavelet": self.wavelet.name, "order": self.wavelet.order, "pad": self.pad,
        }  # fmt: skip

    @cached_property
    def size(self) -> int:
        """Length of the Fourier transforms."""
        if self.pad is None:
            return self.n
        zeros = FAR * self.wavelet.e_folding * self.s0 * 2.0 ** (self.J * self.dj) / self.dt
        return fast_length(self.n + math.ceil(min(zeros, self.n)))

    def angular(self, dtype: Any = np.float64) -> Array:
        """Angular frequencies of the bins from zero to the Nyquist frequency, radians to the sample."""
        kind = np.dtype(dtype).type
        pi = np.arctan(kind(1)) * 4  # of extended precision too
        found: Array = np.arange(self.size // 2 + 1).astype(dtype) * (2 * pi / kind(self.size))
        return found

    def steps(self, dtype: Any = np.float64) -> Array:
        """The scales in samples, as a column."""
        found: Array = np.asarray(self.scales, dtype)[:, None] / np.dtype(dtype).type(self.dt)
        return found

    def bank(self, dtype: Any) -> Array:
        """(J + 1, size // 2 + 1) filters of the transform but for their `phase`, all bins, in `dtype`."""
        return self._filters(slice(None), self.size // 2 + 1, dtype)

    def groups(self, dtype: Any) -> list[Group]:
        """The filters for `band_limited.inverses`, in `dtype`, kept."""
        groups: Any = KEPT.get(("groups", self, np.dtype(dtype).char), partial(self._groups, dtype))
        return groups.members  # type: ignore[no-any-return]

    def _groups(self, dtype: Any) -> Any:
        at = np.arange(0.0, 1000.0, 0.01)
        size = np.abs(self.wavelet.magnitude(at))
        reach = at[np.flatnonzero(size > NOTHING[np.dtype(dtype).char] * size.max())[-1]] + 0.01
        bins = self.size // 2 + 1
        ends = np.minimum(reach / self.steps()[:, 0] * self.size / (2 * np.pi) + 2, bins).astype(np.int64)
        return Groups(grouped(lambda rows, end: self._filters(rows, end, dtype), ends, self.size))

    def _filters(self, rows: slice, end: int, dtype: Any) -> Array:
        steps = self.steps(dtype if dtype == np.longdouble else np.float64)[rows]
        found = np.sqrt(2 * np.pi * steps) * self.wavelet.magnitude(steps * self.angular(steps.dtype)[:end])
        if not self.wavelet.analytic:
            # Real: twice the real part of the sum over positive frequencies; the Nyquist bin stands for both of its.
            found[:, 1 : (self.size + 1) // 2] *= 2
        return found.astype(dtype, copy=False)

    def answer(self, samples: Any, xp: Any = np) -> Any:
        """The transform of real series, from the sums over the filters of `bank`: complex, of DOG the real one."""
        phase = self.wavelet.phase
        if self.wavelet.analytic:
            return samples
        part = xp.real(samples) if complex(phase).imag == 0 else xp.imag(samples)
        return part if phase in (1, 1j) else -part  # the real part of their product with the conjugate phase

    def smoother(self, dtype: Any) -> Array:
        """(J + 1, size) spectra of what smooths in time: weights over the scale in samples, 1 / s in all.

        Kept; not to be written to.
        """
        return KEPT.get(("smoother", self, np.dtype(dtype).char), partial(self._smoother, dtype))

    def _smoother(self, dtype: Any) -> Array:
        size = self.size
        away = np.minimum(np.arange(size), size - np.arange(size))
        kind = np.longdouble if dtype == np.longdouble else np.float64
        found = np.empty((len(self.scales), size), dtype)
        for row, step in zip(found, self.steps(kind)[:, 0], strict=True):
            weights = self.wavelet.envelope(away / step)
            half = np.fft.rfft(weights / (np.sum(weights) * step)).real
            row[: half.size] = half
            row[half.size :] = half[1 : size - half.size + 1][::-1]
        return found

    @cached_property
    def boxcar(self) -> tuple[int, float]:
        """Smoothing in scale: how many whole scales on either side, and the weight of the one after them.

        The window is dj0 octaves wide in total, the decorrelation length, and centred on a scale.
        """
        half = max(self.wavelet.dj0 / self.dj - 1.0, 0.0) / 2.0
        whole = int(half + 1e-9)
        return whole, max(half - whole, 0.0)

    def window(self, dtype: Any) -> Array:
        """(J + 1, J + 1) matrix that smooths in scale: the weights of `boxcar`, cut at the smallest and the largest."""
        whole, part = self.boxcar
        apart = np.abs(np.subtract.outer(np.arange(self.J + 1), np.arange(self.J + 1)))
        return np.where(apart <= whole, 1.0, np.where(apart == whole + 1, part, 0.0)).astype(dtype)


def plan(
    n: int,
    dt: float = 1.0,
    *,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    order: float | None = None,
    pad: str | None = "zeros",
) -> Plan:
    """Describe the wavelet transform of series of `n` samples.

    Parameters
    ----------
    n : samples of a series.
    dt : time between them.
    dj : step from scale to scale, octaves.
    s0 : smallest scale; None: that of a period of 2 dt.
    J : number of the largest scale, s0 2^(J dj); None: the one nearest to n dt.
    wavelet : "morlet", "paul", "dog", a (name, order) or an instance.
    order : of a wavelet given by name alone; None: 6, 4 and 2.
    pad : "zeros": append zeros for two e-folding times of the largest scale, n at most, and on to a length that is
        quickly transformed. None: nothing; the series is taken to be periodic.

    Raises
    ------
    ValueError, TypeError : an argument that cannot be; the message says which.
    """
    kind = wavelets.mother(wavelet if order is None or not isinstance(wavelet, str) else (wavelet, order))
    # Plain numbers: what is equal to them, such as 0.1 in single precision as its double, would find another's plan.
    return _plan(int(n), float(dt), float(dj), None if s0 is None else float(s0), J and int(J), kind, pad)


@lru_cache(maxsize=256)
def _plan(n: int, dt: float, dj: float, s0: float | None, J: int | None, wavelet: Mother, pad: str | None) -> Plan:
    first = wavelets.default_s0(wavelet, dt) if s0 is None else float(s0)
    if not math.isfinite(first * (1.0 if J is None else 2.0 ** (J * dj))):
        raise ValueError(f"the scales must be finite; got dt={dt:g}, s0={first:g}, J={J}, dj={dj:g}")
    last = wavelets.default_J(n, dt, dj, first) if J is None else int(J)
    return Plan(n, float(dt), float(dj), first, last, wavelet, pad)


def need_description(
    operation: str,
    dt: float = 1.0,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    order: float | None = None,
    pad: str | None = "zeros",
) -> Mother:
    """Raise ValueError or TypeError unless a plan can be made of this; give the wavelet.

    Parameters
    ----------
    operation : name to begin messages with; the rest as for `plan`.
    """
    for name, value in (("dt", dt), ("dj", dj), ("s0", s0)):
        if name == "s0" and value is None:
            continue
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise TypeError(f"{operation}: {name} must be a real number; got {value!r}")
        if not 0.0 < value < math.inf:
            raise ValueError(f"{operation}: {name} must be positive and finite; got {value!r}")
    if J is not None:
        if not isinstance(J, numbers.Integral) or isinstance(J, bool) or J < 0:
            raise ValueError(f"{operation}: J must be None or a whole number of at least 0; got {J!r}")
        if J * dj > 100:
            raise ValueError(f"{operation}: J * dj, the octaves of scales, must be 100 at most; got {J * dj:.6g}")
    need_choice(operation, "pad", pad, PADS)
    try:
        return wavelets.mother(wavelet if order is None or not isinstance(wavelet, str) else (wavelet, order))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{operation}: {error}") from None


def lengths(n: int, parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Number of scales and length of the transforms of a series of `n`, as declared costs want them: never raising."""
    dj, dt = float(parameters.get("dj", 1 / 12)), float(parameters.get("dt", 1.0))
    try:
        found = plan(max(n, 1), **{**parameters, "dj": dj, "dt": dt})
    except (ValueError, TypeError):
        return 1, max(n, 1)
    return found.J + 1, found.size
