"""Fourier transforms for wavelets, by NumPy, SciPy or FFTW: there, back by short steps, and smoothing in one go."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..executors import buffers
from .band_limited import Inverse, Work
from .wavelet_plan import Plan
from .wavelets import Array

Smooth: TypeAlias = Callable[[Array, Array], Array]
_TAKES_OUT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


class Engine(NamedTuple):
    """Whose transforms.

    Attributes
    ----------
    forward : ``forward(x, out)``: the real transform of `x` along the last axis, written to `out`.
    inverse : see `band_limited`.
    smooth : ``smooth(z, spectra)``: complex `z` (..., rows, L), which may be lost, filtered along the last axis by real
        `spectra` (rows, L) of all bins.
    """

    forward: Callable[[Array, Array], object]
    inverse: Inverse
    smooth: Smooth


class _InBuffers:
    """Inverse transforms by a function of an array and an axis, which may lose the array."""

    scaled = True

    def __init__(self, inverse: Callable[[Array, int], Array]) -> None:
        self._inverse = inverse

    @contextmanager
    def along(self, shape: tuple[int, int, int, int], dtype: Any, into: Array | None = None) -> Iterator[Work]:
        if into is not None:
            yield into, lambda: self._inverse(into, 2)
            return
        with buffers.borrow(shape, dtype, "samples") as room:
            yield room, lambda: self._inverse(room, 2)


class _InPlans:
    """Inverse transforms in the work arrays of FFTW's plans."""

    scaled = False

    def __init__(self, lend: Any, threads: int) -> None:
        self._lend, self._threads = lend, threads

    @contextmanager
    def along(self, shape: tuple[int, int, int, int], dtype: Any, into: Array | None = None) -> Iterator[Work]:  # noqa: ARG002
        rows, count, steps, apart = shape
        last = apart == 1
        flat = (rows * count, steps) if last else (rows * count, steps, apart)
        with self._lend(flat, dtype, 1 if last else -2, self._threads) as lent:

            def run() -> Array:
                lent.backward()
                samples: Array = lent.samples.reshape(shape)
                return samples

            yield lent.spectrum.reshape(shape), run


def on_numpy() -> Engine:
    """NumPy's transforms."""
    if not _TAKES_OUT:  # NumPy before 2.0 has no `out`, and answers in double precision

        def forward(x: Array, out: Array) -> None:
            out[...] = np.fft.rfft(x)

        def inverse(z: Array, axis: int) -> Array:
            z[...] = np.fft.ifft(z, axis=axis)
            return z

        def smooth(z: Array, filters: Array) -> Array:
            z[...] = np.fft.ifft(np.fft.fft(z) * filters)
            return z

        return Engine(forward, _InBuffers(inverse), smooth)

    def smooth_in_place(z: Array, filters: Array) -> Array:
        np.fft.fft(z, out=z)
        np.multiply(z, filters, out=z)
        return np.fft.ifft(z, out=z)

    return Engine(
        lambda x, out: np.fft.rfft(x, out=out),
        _InBuffers(lambda z, axis: np.fft.ifft(z, axis=axis, out=z)),
        smooth_in_place,
    )


def on_scipy(workers: int = 1) -> Engine:
    """SciPy's transforms on so many threads."""
    from scipy import fft

    def forward(x: Array, out: Array) -> None:
        out[...] = fft.rfft(x, workers=workers)

    def inverse(z: Array, axis: int) -> Array:
        found: Array = fft.ifft(z, axis=axis, overwrite_x=True, workers=workers)
        return found

    def smooth(z: Array, filters: Array) -> Array:
        spectrum = fft.fft(z, overwrite_x=True, workers=workers)
        np.multiply(spectrum, filters, out=spectrum)
        return inverse(spectrum, -1)

    return Engine(forward, _InBuffers(inverse), smooth)


def on_fftw(threads: int = 1) -> Engine:
    """FFTW's transforms on so many threads."""
    from ..executors import on_fftw as fftw

    def forward(x: Array, out: Array) -> None:
        out[...] = fftw.transform(x, threads=threads)

    def smooth(z: Array, filters: Array) -> Array:
        with fftw.lend(z.shape, z.dtype, 1, threads) as lent:
            np.copyto(lent.samples, z)
            lent.forward()
            np.multiply(lent.spectrum, filters * filters.dtype.type(1 / z.shape[-1]), out=lent.spectrum)
            lent.backward()
            np.copyto(z, lent.samples)
        return z

    return Engine(forward, _InPlans(fftw.lend, threads), smooth)


@lru_cache(maxsize=1)
def usual_engine() -> Engine:
    """SciPy's transforms where it is installed, else NumPy's."""
    return on_numpy() if importlib.util.find_spec("scipy") is None else on_scipy()


def spectra(rows: Array, made: Plan, engine: Engine, out: Array, *, level: bool = False) -> None:
    """Write the transforms of `rows` (m, n), less their means and padded as the plan says, to `out` (m, bins).

    `level`: each row is multiplied by a power of two that takes its largest sample to between a half and one, so that
    products of four samples neither overflow nor vanish, and a constant row, of which rounding would be left, is NaN.
    """
    with np.errstate(invalid="ignore"), buffers.borrow((len(rows), made.size), rows.dtype, "padded") as padded:
        means, samples = rows.mean(axis=-1, keepdims=True, dtype=np.float64), padded[:, : made.n]
        np.subtract(rows, means, out=samples, casting="same_kind")
        padded[:, made.n :] = 0
        if level:
            samples[np.ptp(rows, axis=-1) == 0] = np.nan
            _, exponents = np.frexp(np.max(np.abs(samples), axis=-1, keepdims=True))
            np.ldexp(samples, -exponents, out=samples)
        engine.forward(padded, out)
