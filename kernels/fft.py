r"""Discrete Fourier transform along the last axis, batched over the others.

``fft(x, *, n=None, norm=None)``: :math:`X_k = \sum_{t=0}^{n-1} x_t e^{-2 \pi i k t / n}`. Real `x` gives the n//2 + 1
bins from zero to the Nyquist frequency (`rfft`), complex `x` all n bins (`fft`). `n` cuts the axis or pads it with
zeros to that length first; `norm` is None or "backward" (no factor), "ortho" (1/sqrt(n)) or "forward" (1/n). float32
and complex64 give complex64, float64 and complex128 give complex128: never promoted, never narrowed. Units: those
of `x`.

Accuracy: within 2e-6 (single) or 1e-14 (double precision) of the largest magnitude in the result, for any length up to
about 1e7. A NaN reaches every bin of its row. An empty last axis has no transform and is a ValueError.

Source: Cooley and Tukey, Math. Comp. 19 (1965), eq. 1; Bluestein (1970) for lengths with large prime factors.

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.array([1.0, 0.0, 0.0, 0.0]))
array([1.+0.j, 1.+0.j, 1.+0.j])
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import CORES
from .checks import INEXACT, need_array, need_choice, need_samples
from .spectra import awkwardness

Array = np.ndarray[Any, Any]
_REAL = {"f": np.float32, "F": np.float32, "d": np.float64, "D": np.float64}
NORMS = (None, "backward", "ortho", "forward")


def _validate(x: Any, *, n: int | None = None, norm: str | None = None) -> None:
    need_array("fft", "x", x, dims=1, dtypes=INEXACT)
    need_samples("fft", "x", x)
    if n is not None and (not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1):
        raise ValueError(f"fft: n must be None or a whole number of at least 1; got {n!r}")
    need_choice("fft", "norm", norm, NORMS)


def _length(shapes: Shapes, parameters: Parameters) -> tuple[int, int]:
    """Rows, and the length of their transform."""
    shape = shapes[0] or (1,)
    n = parameters.get("n")
    return math.prod(shape[:-1]), shape[-1] if n is None else int(n)


def _work(shapes: Shapes, parameters: Parameters) -> float:
    rows, n = _length(shapes, parameters)
    return 2.5 * rows * n * math.log2(max(n, 2)) * awkwardness(n)


def _bytes(shapes: Shapes, parameters: Parameters) -> float:
    rows, n = _length(shapes, parameters)
    return 8.0 * (math.prod(shapes[0]) + 2 * rows * n)  # a complex input's result; a real one's is half of it


def _reference(x: Array, *, n: int | None = None, norm: Any = None) -> Array:
    """NumPy's transform in extended precision where the platform has it."""
    if np.iscomplexobj(x):
        return np.fft.fft(x.astype(np.clongdouble), n, norm=norm).astype(np.complex128)
    return np.fft.rfft(x.astype(np.longdouble), n, norm=norm).astype(np.complex128)


def _on_numpy(x: Array, *, n: int | None = None, norm: Any = None) -> Array:
    spectrum = np.fft.fft(x, n, norm=norm) if x.dtype.kind == "c" else np.fft.rfft(x, n, norm=norm)
    if x.dtype.itemsize * (1 if x.dtype.kind == "c" else 2) != spectrum.dtype.itemsize:
        return spectrum.astype(np.complex64)  # NumPy before 2.0 computes and answers in double precision only
    return spectrum


def _on_scipy(workers: int) -> Callable[[], Callable[..., Any]]:
    def load() -> Callable[..., Any]:
        from scipy import fft as sp

        def transform(x: Array, *, n: int | None = None, norm: str | None = None) -> Any:
            if x.dtype.kind == "c":
                return sp.fft(x, n, norm=norm, workers=workers)
            return sp.rfft(x, n, norm=norm, workers=workers)

        return transform

    return load


def _on_fftw(threads: int) -> Callable[[], Callable[..., Any]]:
    def load() -> Callable[..., Any]:
        from ..executors import on_fftw

        def transform(x: Array, *, n: int | None = None, norm: str | None = None) -> Array:
            spectrum = on_fftw.transform(x, n, threads=threads)
            if norm in ("ortho", "forward"):
                length = x.shape[-1] if n is None else n
                spectrum *= _REAL[x.dtype.char](length**-0.5 if norm == "ortho" else 1.0 / length)
            return spectrum

        return transform

    return load


def _transform(x: Any, *, n: int | None = None, norm: str | None = None, xp: Any) -> Any:
    kind = norm or "backward"
    is_complex = xp.isdtype(x.dtype, "complex floating")
    if 0 in x.shape:  # an empty batch: torch's MKL transform refuses it
        bins = x.shape[-1] if n is None else n
        dtype = xp.complex64 if x.dtype in (xp.float32, xp.complex64) else xp.complex128
        return xp.zeros((*x.shape[:-1], bins if is_complex else bins // 2 + 1), dtype=dtype)
    if is_complex:
        return xp.fft.fft(x, n=n, axis=-1, norm=kind)
    return xp.fft.rfft(x, n=n, axis=-1, norm=kind)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (_random(rng, (max(1, size),), dtype),), {}


OPERATION = Kernel(
    name="fft",
    summary="Fourier transform along the last axis: rfft of real input, fft of complex input",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1, accuracy={"float32": 4e-7, "complex64": 4e-7}),
        Variant("scipy", "scipy", _on_scipy(1), threads=1),
        Variant(
            "scipy/threads",
            "scipy",
            _on_scipy(-1),
            threads=CORES,
            supports=lambda shapes, _: (
                None if len(shapes[0]) > 1 and math.prod(shapes[0][:-1]) > 1 else "one row gives its threads nothing"
            ),
        ),
        Variant("fftw", "fftw", _on_fftw(1), threads=1),
        Variant("fftw/threads", "fftw", _on_fftw(CORES), threads=CORES),
    ),
    portable=Portable(_transform, static=("n", "norm"), one_thread=True),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 2e-6, "float64": 1e-14, "complex64": 2e-6, "complex128": 1e-14},
    sample=_sample,
    stack=lambda rng, size, dtype: ((_random(rng, (16, max(1, size // 16)), dtype),), {}),
    cases={
        "batched": lambda rng, dtype: ((_random(rng, (3, 4, 30), dtype),), {}),
        "padded": lambda rng, dtype: ((_random(rng, (2, 10), dtype),), {"n": 16}),
        "cut, ortho": lambda rng, dtype: ((_random(rng, (2, 10), dtype),), {"n": 7, "norm": "ortho"}),
        "prime, forward": lambda rng, dtype: ((_random(rng, (101,), dtype),), {"norm": "forward"}),
        "empty batch": lambda rng, dtype: ((_random(rng, (0, 8), dtype),), {}),
        "size one": lambda rng, dtype: ((_random(rng, (1,), dtype),), {}),
    },
    validate=_validate,
    wrong=(
        (([1.0, 2.0],), {}, TypeError, "x must be an array; got list"),
        ((np.array(1.0),), {}, ValueError, "at least 1 axes"),
        ((np.ones((3, 0)),), {}, ValueError, r"at least one sample .* got shape \(3, 0\)"),
        ((np.ones(8),), {"n": 0}, ValueError, "n must be None or a whole number of at least 1; got 0"),
        ((np.ones(8),), {"n": 2.5}, ValueError, "got 2.5"),
        ((np.ones(8),), {"norm": "orthogonal"}, ValueError, "None, 'backward', 'ortho', 'forward'; got 'orthogonal'"),
        ((np.ones(8, "float16"),), {}, TypeError, "got float16"),
    ),
    result_dtype=lambda dtype: np.result_type(dtype, np.complex64).name,
    adjoint=lambda call, _, kwargs, y: np.conj(call((np.conj(y),), kwargs)),
)
