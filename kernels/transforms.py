"""Fourier transforms there and back, by NumPy, SciPy or FFTW: what `spectra.filtered` is made of.

with engine.pair(x.shape, sizes, x.dtype) as pair:
    spectrum = pair.forward(x)                 # zeros appended up to `sizes`
    spectrum *= response
    y = pair.backward(cut) / gain              # a copy: what a pair gives is lost at the end of the block

`gain` is the number of samples, or 1 where the engine says that it is `scaled`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ..executors import buffers

Array = np.ndarray[Any, Any]
_Kind: TypeAlias = type[BaseException] | None
_Error: TypeAlias = BaseException | None
_Trace: TypeAlias = TracebackType | None
SPECTRUM = {"f": "F", "d": "D", "F": "F", "D": "D"}  # type of samples -> type of their spectrum
_TAKES_OUT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


class Pair(Protocol):
    """A transform and its inverse over the last one or two axes, in work arrays that belong to it."""

    def __enter__(self) -> Pair: ...

    def __exit__(self, kind: _Kind, error: _Error, trace: _Trace) -> None: ...

    def forward(self, x: Array) -> Array:
        """The spectrum of `x`; of real `x` the bins from zero to the Nyquist frequency. To be filtered in place."""

    def backward(self, cut: tuple[slice, ...]) -> Array:
        """What the spectrum stands for now, times the gain; of the last axes only `cut`."""


class Engine(NamedTuple):
    """Whose transforms.

    Attributes
    ----------
    pair : called with the shape of the samples, the transform's lengths and the dtype of the samples.
    at_once : how many padded samples of a batch suit one pair; more are better taken one block after another.
    least : how many rows a block has at least.
    scaled : there and back gives the samples again, not the samples times their number.
    """

    pair: Callable[[tuple[int, ...], tuple[int, ...], Any], Pair]
    at_once: int
    least: int = 1
    scaled: bool = False


class _OnNumpy:
    __slots__ = ("_kind", "_last", "_lent", "_outer", "_sizes", "_spectrum")

    def __init__(self, shape: tuple[int, ...], sizes: tuple[int, ...], dtype: Any) -> None:
        self._kind, self._sizes, self._last = dtype.char, sizes, sizes[-1]
        self._outer = shape[:-1] if len(sizes) == 1 else (*shape[:-2], sizes[0])

    def __enter__(self) -> _OnNumpy:
        bins = self._last if self._kind in "FD" else self._last // 2 + 1
        lent = buffers.borrow((*self._outer, bins), SPECTRUM[self._kind])
        self._lent = [lent]
        self._spectrum = lent.__enter__()
        return self

    def __exit__(self, kind: _Kind, error: _Error, trace: _Trace) -> None:
        for lent in self._lent:
            lent.__exit__(kind, error, trace)

    def forward(self, x: Array) -> Array:
        spectrum, transform = self._spectrum, np.fft.fft if self._kind in "FD" else np.fft.rfft
        if len(self._sizes) == 1:
            _into(spectrum, transform, x, self._last)
            return spectrum
        rows = x.shape[-2]
        _into(spectrum[..., :rows, :], transform, x, self._last)
        spectrum[..., rows:, :] = 0
        _into(spectrum, np.fft.fft, spectrum, None, axis=-2)
        return spectrum

    def backward(self, cut: tuple[slice, ...]) -> Array:
        spectrum, outer = self._spectrum, self._outer
        if len(cut) == 2:
            _into(spectrum, np.fft.ifft, spectrum, None, axis=-2)
            # Rows that are cut away need no transform along the last axis.
            spectrum, outer = spectrum[..., cut[0], :], (*outer[:-1], cut[0].stop - cut[0].start)
        lent = buffers.borrow((*outer, self._last), self._kind)
        samples = lent.__enter__()
        self._lent.append(lent)
        transform = np.fft.ifft if self._kind in "FD" else np.fft.irfft
        # With norm="forward" NumPy hands its loops a Python integer as the factor, and single precision then takes the
        # way through double, which is three times slower.
        _into(samples, transform, spectrum, self._last)
        return samples[..., cut[-1]]


def _into(out: Array, transform: Any, x: Array, n: int | None, **options: Any) -> None:
    if _TAKES_OUT:
        transform(x, n, out=out, **options)
    else:  # NumPy before 2.0 has no `out`, and answers in double precision
        out[...] = transform(x, n, **options)


NUMPY = Engine(_OnNumpy, at_once=1 << 22, scaled=True)  # it computes its twiddle factors in every call: few calls
"""NumPy's transforms, into kept buffers: a fresh temporary above 128 KiB costs page faults on every call."""


class _OnScipy:
    __slots__ = ("_axes", "_fft", "_kind", "_last", "_lent", "_spectrum")

    def __init__(self, fft: Any, shape: tuple[int, ...], sizes: tuple[int, ...], dtype: Any) -> None:
        self._fft, self._kind, self._axes, self._last = fft, dtype.char, len(sizes), sizes[-1]
        self._lent = buffers.borrow((*shape[: len(shape) - len(sizes)], *sizes), dtype.char)

    def __enter__(self) -> _OnScipy:
        return self

    def __exit__(self, kind: _Kind, error: _Error, trace: _Trace) -> None:
        pass

    def forward(self, x: Array) -> Array:
        fft, is_complex = self._fft, self._kind in "FD"
        with self._lent as samples:  # padding is left to nobody: SciPy would do it in a fresh array
            _fill(samples, x, self._axes)
            if self._axes == 1:
                self._spectrum: Array = fft.fft(samples) if is_complex else fft.rfft(samples)
            else:
                self._spectrum = (fft.fftn if is_complex else fft.rfftn)(samples, axes=(-2, -1))
        return self._spectrum

    def backward(self, cut: tuple[slice, ...]) -> Array:
        fft, spectrum = self._fft, self._spectrum
        if len(cut) == 2:
            spectrum = fft.ifft(spectrum, axis=-2, norm="forward", overwrite_x=True)[..., cut[0], :]
        transform = fft.ifft if self._kind in "FD" else fft.irfft
        samples: Array = transform(spectrum, self._last, norm="forward", overwrite_x=True)
        return samples[..., cut[-1]]


def on_scipy() -> Engine:
    """SciPy's transforms; the padded samples lie in a kept buffer, what it gives is fresh: it has no `out`."""
    from scipy import fft

    return Engine(partial(_OnScipy, fft), at_once=1 << 16, least=2)  # it computes two rows with the same instructions


class _OnFftw:
    __slots__ = ("_axes", "_lent", "_plan")

    def __init__(self, lend: Any, threads: int, shape: tuple[int, ...], sizes: tuple[int, ...], dtype: Any) -> None:
        self._axes = len(sizes)
        self._lent = lend((*shape[: len(shape) - len(sizes)], *sizes), dtype, len(sizes), threads)

    def __enter__(self) -> _OnFftw:
        self._plan = self._lent.__enter__()
        return self

    def __exit__(self, kind: _Kind, error: _Error, trace: _Trace) -> None:
        self._lent.__exit__(kind, error, trace)

    def forward(self, x: Array) -> Array:
        plan = self._plan
        _fill(plan.samples, x, self._axes)
        plan.forward()
        spectrum: Array = plan.spectrum
        return spectrum

    def backward(self, cut: tuple[slice, ...]) -> Array:
        plan = self._plan
        plan.backward()
        samples: Array = plan.samples[(..., *cut)]
        return samples


def on_fftw(threads: int = 1) -> Engine:
    """FFTW's transforms on so many threads, in the work arrays of their plans."""
    from ..executors.on_fftw import lend

    # What is in the second-level cache is transformed 1.3 times faster; more threads need more rows to share out.
    return Engine(partial(_OnFftw, lend, threads), at_once=1 << 16 if threads == 1 else 1 << 20)


def _fill(samples: Array, x: Array, axes: int) -> None:
    """Put `x` into `samples`, and zeros behind it."""
    n = x.shape[-1]
    if axes == 1:
        samples[..., :n] = x
    else:
        rows = x.shape[-2]
        samples[..., :rows, :n] = x
        samples[..., rows:, :] = 0
        samples = samples[..., :rows, :]
    samples[..., n:] = 0
