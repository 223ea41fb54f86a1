r"""Continuous wavelet transform of real series along the last axis, batched over the others.

``cwt(x, *, dt=1.0, dj=1/12, s0=None, J=None, wavelet="morlet", order=None, pad="zeros")``: `x` of shape (..., n) gives
complex (..., J + 1, n),

.. math:: W_n(s) = \sum_k \hat x_k \, \hat\psi^*(s \omega_k) e^{i \omega_k n \delta t}, \qquad
          \hat\psi(s \omega) = (2 \pi s / \delta t)^{1/2} \, \hat\psi_0(s \omega),

at the scales s0 2^(j dj). float32 gives complex64, float64 complex128: never promoted, never narrowed. Scales and `dt`
are in one unit of time; the wavelets have unit energy at every scale, so that white noise of unit variance has a power
|W|^2 of one on average. Units: those of `x`.

Conventions: the mean of each series is taken off first. `pad="zeros"` then appends zeros for two e-folding times of the
largest scale, as many as there are samples at most, and on to a length of small prime factors; `pad=None` appends
nothing and takes the series to be periodic. The bin at the Nyquist frequency, where the transform has an even length,
counts as a positive frequency with its full weight, as in eq. 5 of the source. Frequencies of the analytic wavelets
(Morlet, Paul) are positive; what DOG gives is real, with an imaginary part of zero. Detrending is left to the caller.

Accuracy: within 5e-6 (single) or 2e-14 (double precision) of the largest magnitude in the result. Where a series has
its power at small scales, large ones of little power have a larger error relative to themselves. A NaN or an infinity
makes all of its row NaN.

Source: Torrence and Compo, A practical guide to wavelet analysis, Bull. Amer. Meteor. Soc. 79 (1998), eq. 3 to 6, 9
and 10, table 1, section 3f (padding).

>>> import numpy as np
>>> W = OPERATION.variant("numpy").load()(np.cos(np.arange(64.0) * np.pi / 4), dj=0.5)
>>> W.shape, int(np.argmax(np.abs(W[:, 32]))), round(2.0 * 2**0.5**1, 2)  # the period is 8: two octaves up
((11, 64), 4, 2.83)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from . import wavelet_plan
from .band_limited import BLOCK, Fill, inverses
from .base import Arguments, Kernel
from .binding import CORES, in_rows, numba_variant
from .checks import dtype_name, need_array, need_samples
from .spectra import flops
from .wavelet_engines import Engine, on_fftw, on_numpy, on_scipy, spectra, usual_engine
from .wavelet_loops import build_fill
from .wavelet_plan import Plan, plan
from .wavelets import Array, Wavelet

STATIC = ("dt", "dj", "s0", "J", "wavelet", "order", "pad")
AT_ONCE = 1 << 22  # samples that the portable form transforms at a time


def _validate(
    x: Any,
    *,
    dt: float = 1.0,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    order: float | None = None,
    pad: str | None = "zeros",
) -> None:
    need_array("cwt", "x", x, dims=1)
    need_samples("cwt", "x", x)
    wavelet_plan.need_description("cwt", dt, dj, s0, J, wavelet, order, pad)


def _transform(x: Array, engine: Engine, made: Plan, fill: Fill | None) -> Array:
    rows, dtype = in_rows(x), np.result_type(x.dtype, np.complex64)
    out = np.empty((len(rows), made.J + 1, made.n), dtype)
    groups = made.groups(x.dtype)
    step = max(1, BLOCK // made.size)
    for low in range(0, len(rows), step):
        block, result = rows[low : low + step], out[low : low + step]
        with buffers.borrow((len(block), made.size // 2 + 1), dtype, "spectra") as spectrum:
            spectra(block, made, engine, spectrum)
            # Without padding the samples are made where they stay: one pass less over the result.
            into = result if made.size == made.n else None
            for which, samples in inverses(spectrum, groups, made.size, engine.inverse, into, fill):
                if into is None or not made.wavelet.analytic:
                    np.copyto(result[:, which], made.answer(samples[..., : made.n]))
    return out.reshape(*x.shape[:-1], *out.shape[1:])


def _with(engine: Engine, fill: Fill | None = None) -> Callable[..., Array]:
    def cwt(x: Array, **description: Any) -> Array:
        return _transform(x, engine, plan(x.shape[-1], **description), fill)

    return cwt


def _compiled(fill: Fill) -> Callable[..., Array]:
    return _with(usual_engine(), fill)


def dense(x: Any, made: Plan, *, xp: Any) -> Any:
    """The transform by the array API: every filter as long as the spectrum; complex (..., J + 1, n)."""
    single = dtype_name(x) == "float32"
    bank = made.bank(np.float32 if single else np.float64)
    spectrum = xp.fft.rfft(x - xp.mean(x, axis=-1, keepdims=True), n=made.size, axis=-1)[..., None, :]
    many, parts = max(1, AT_ONCE // (max(math.prod(x.shape[:-1]), 1) * made.size)), []
    for low in range(0, len(bank), many):
        part = beside(x, bank[low : low + many], xp)
        parts.append(made.answer(xp.fft.ifft(spectrum * part, n=made.size, axis=-1)[..., : made.n], xp))
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-2)


def beside(x: Any, constants: Array, xp: Any) -> Any:
    """Constants as an array like `x`; JAX takes NumPy's, as an array being traced tells no device."""
    return constants if "jax" in xp.__name__ else xp.asarray(constants, device=x.device)


def _portable(x: Any, *, xp: Any, **description: Any) -> Any:
    made = plan(x.shape[-1], **description)
    complex_dtype = xp.complex64 if dtype_name(x) == "float32" else xp.complex128
    if 0 in x.shape:
        return xp.zeros((*x.shape[:-1], made.J + 1, made.n), dtype=complex_dtype)
    return xp.astype(dense(x, made, xp=xp), complex_dtype, copy=False)


def _reference(x: Array, **description: Any) -> Array:
    return np.asarray(wide(x, plan(x.shape[-1], **description)), np.complex128)


def wide(x: Array, made: Plan) -> Array:
    """The sum over all bins in extended precision where the platform has it."""
    if not x.size:
        return np.empty((*x.shape[:-1], made.J + 1, made.n), np.clongdouble)
    given = x.astype(np.longdouble)
    spectrum = np.fft.rfft(given - given.mean(axis=-1, keepdims=True), made.size)
    whole = np.zeros((*x.shape[:-1], made.J + 1, made.size), np.clongdouble)
    whole[..., : made.size // 2 + 1] = spectrum[..., None, :] * made.bank(np.longdouble)
    return np.asarray(made.answer(np.fft.ifft(whole)[..., : made.n]), np.clongdouble)


def rows_and_plan(shapes: Shapes, parameters: Parameters) -> tuple[int, int, int, int]:
    """Series, samples of each, scales, and length of the transforms."""
    shape = shapes[0] or (1,)
    count, size = wavelet_plan.lengths(shape[-1], {k: v for k, v in parameters.items() if k in STATIC})
    return math.prod(shape[:-1]), shape[-1], count, size


def _work(shapes: Shapes, parameters: Parameters) -> float:
    rows, _, count, size = rows_and_plan(shapes, parameters)
    return float(rows) * (2 * count + 1) * flops((size,))


def _bytes(shapes: Shapes, parameters: Parameters) -> float:
    rows, n, count, _ = rows_and_plan(shapes, parameters)
    return 8.0 * rows * n * (1 + 2 * count)


def _block_workspace(shapes: Shapes, parameters: Parameters) -> float:
    # Samples and bins of a block, padded series and its spectrum; the factors of the steps, and the filters' bands.
    return 16.0 * (4 * BLOCK + 24 * rows_and_plan(shapes, parameters)[3])


def _dense_workspace(shapes: Shapes, parameters: Parameters) -> float:
    rows, _, count, size = rows_and_plan(shapes, parameters)
    return 8.0 * size * (count + 2 * rows) + 32.0 * min(rows * size * count, max(AT_ONCE, rows * size))


def noise(*shape: int, **parameters: Any) -> Callable[[np.random.Generator, str], Arguments]:
    """A case of white noise of that shape."""
    return lambda rng, dtype: ((rng.standard_normal(shape).astype(dtype),), parameters)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    n = max(1, size)
    # 16 scales at most: results that are 200 times as large as the series would soon fill the memory.
    return (rng.standard_normal(n).astype(dtype),), {"dj": 0.5, "J": min(15, 2 * n.bit_length())}


_IN_BLOCKS: dict[str, Any] = {"workspace": _block_workspace}

OPERATION = Kernel(
    name="cwt",
    summary="continuous wavelet transform along the last axis: Morlet, Paul, DOG",
    variants=(
        Variant("numpy", "numpy", lambda: _with(on_numpy()), threads=1, **_IN_BLOCKS),
        Variant("scipy", "scipy", lambda: _with(on_scipy()), threads=1, **_IN_BLOCKS),
        Variant("scipy/threads", "scipy", lambda: _with(on_scipy(CORES)), threads=CORES, **_IN_BLOCKS),
        numba_variant("numba", build_fill, _compiled, fuse=True, threads=1, **_IN_BLOCKS),
        Variant("fftw", "fftw", lambda: _with(on_fftw()), threads=1, **_IN_BLOCKS),
        Variant("fftw/threads", "fftw", lambda: _with(on_fftw(CORES)), threads=CORES, **_IN_BLOCKS),
    ),
    portable=Portable(_portable, static=STATIC, workspace=_dense_workspace),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 5e-6, "float64": 2e-14},
    sample=_sample,
    cases={
        "batched": noise(2, 3, 25, dt=0.25, s0=0.5),
        "many short series": noise(40, 50, dj=0.25),
        "paul": noise(300, wavelet="paul", dt=0.5, dj=0.25),
        "dog, periodic": noise(2, 120, wavelet="dog", pad=None),
        "odd dog": noise(64, wavelet="dog", order=3, dj=0.25),
        "odd length, periodic": noise(101, pad=None, wavelet=("morlet", 8.0)),
        "in two steps": noise(9000, pad=None, dj=0.5),
        "empty batch": noise(0, 8, dj=0.5),
        "one scale": noise(30, s0=4.0, J=0),
        "size one": noise(1),
    },
    validate=_validate,
    wrong=(
        (([1.0, 2.0],), {}, TypeError, "x must be an array; got list"),
        ((np.ones(8, complex),), {}, TypeError, "got complex128"),
        ((np.ones((3, 0)),), {}, ValueError, "at least one sample"),
        ((np.ones(8),), {"dt": 0.0}, ValueError, "dt must be positive and finite; got 0.0"),
        ((np.ones(8),), {"dj": "fine"}, TypeError, "dj must be a real number; got 'fine'"),
        ((np.ones(8),), {"s0": math.inf}, ValueError, "s0 must be positive and finite; got inf"),
        ((np.ones(8),), {"J": -1}, ValueError, "J must be None or a whole number of at least 0; got -1"),
        ((np.ones(8),), {"J": 10_000}, ValueError, "octaves of scales, must be 100 at most; got 833.3"),
        ((np.ones(8),), {"pad": "mirror"}, ValueError, "pad must be one of 'zeros', None; got 'mirror'"),
        ((np.ones(8),), {"wavelet": "haar"}, ValueError, "one of 'morlet', 'paul', 'dog'; got 'haar'"),
        ((np.ones(8),), {"wavelet": "paul", "order": 0}, ValueError, "m of paul must be a whole number .*; got 0"),
        ((np.ones(8),), {"wavelet": ("morlet", 3)}, ValueError, "w0 of morlet must be a number from 5 to 100; got 3"),
        ((np.ones(8),), {"wavelet": 6}, TypeError, "must be a name, .name, order. or an instance; got 6"),
    ),
    result_dtype=lambda dtype: np.result_type(dtype, np.complex64).name,
)
