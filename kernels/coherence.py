r"""Wavelet coherence of pairs of real series along the last axis, batched over the others.

``wavelet_coherence(x, y, *, dt=1.0, dj=1/12, s0=None, J=None, wavelet="morlet", order=None, pad="zeros")``: `x` and `y`
of one shape (..., n) and dtype give complex (..., J + 1, n),

.. math:: \gamma_n(s) = \frac{S(s^{-1} W^x W^{y*})}{\sqrt{S(s^{-1} |W^x|^2) \, S(s^{-1} |W^y|^2)}},

whose squared magnitude is the squared coherence R^2, between 0 and 1, and whose angle is the phase by which `x` leads
`y`, in radians. float32 gives complex64, float64 complex128. `W` is the transform of the operation "cwt", with its
conventions. Units: none; neither offsets nor factors of the series matter.

Smoothing S is first in time, by weights that fall off as the magnitude of the wavelet itself at that scale,
:math:`e^{-t^2 / 2 s^2}` for Morlet, then in scale, by a boxcar dj0 octaves wide in total (0.6 for Morlet, 1.5 for Paul
of order 4, 1.4 for DOG of order 2), centred, its ends weighted by the part of a step that they cover. (pycwt's is twice
as wide.) Beyond the ends of the series, and beyond the smallest and the largest scale, weights are cut; what they sum
to cancels. With `pad="zeros"` a weight that wraps round is below e^-9 everywhere outside the cone of influence (Morlet;
those of Paul fall off with the fifth power of time only, and wrap round more).

Accuracy: within 2e-4 (single) or 1e-11 (double precision) where the power is of one order at all scales and times, as
in noise. Smoothing in time leaves rounding errors as large as those of the largest power at that scale, so R^2 is
told within 0.005 there, and is NaN where the power of either series is less than that allows: below 3e-5 (single)
or 6e-14 (double precision) of the largest, as in a gap that is filled with a constant, or beside a burst. Where the
power at a whole scale falls below the rounding error of the series, single precision loses all digits of it. A series
that is constant has no coherence: NaN. A NaN or an infinity makes all of its pair NaN.

Source: Torrence and Webster, Interdecadal changes in the ENSO-monsoon system, J. Climate 12 (1999), appendix; Grinsted,
Moore and Jevrejeva, Nonlin. Processes Geophys. 11 (2004), eq. 8 to 11; dj0: Torrence and Compo (1998), table 2.

>>> import numpy as np
>>> x, y = np.random.default_rng(0).standard_normal((2, 100))
>>> R2 = np.abs(OPERATION.variant("numpy").load()(x, y, dj=0.25)) ** 2
>>> R2.shape, bool(R2.max() <= 1.0)
((24, 100), True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from . import wavelet_plan
from .band_limited import BLOCK, inverses
from .base import Arguments, Kernel
from .binding import CORES, in_rows, numba_variant
from .checks import dtype_name, need_array, need_same_dtype, need_samples
from .cwt import STATIC, beside, dense, rows_and_plan, wide
from .spectra import flops
from .wavelet_engines import Engine, on_fftw, on_numpy, on_scipy, spectra, usual_engine
from .wavelet_loops import build_finish
from .wavelet_plan import Plan, plan
from .wavelets import Array, Wavelet

LOST = 256
"""Rounding errors of the largest power at a scale that a power must exceed for its coherence to be told."""


def coherence_of_batch(x: Array, y: Array, plan: Plan, engine: Engine | None = None) -> Array:
    """The squared wavelet coherence of pairs of series, on one thread and without choosing: as a simulation wants it.

    Parameters
    ----------
    x, y : real series (..., n) of one shape and dtype, float32 or float64.
    plan : from `wavelet_plan.plan(n, dt, ...)`.
    engine : from `wavelet_engines`; None: SciPy's transforms where it is installed, else NumPy's.

    Returns
    -------
    Array (..., J + 1, n) of that dtype, from 0 to 1; NaN where a series has no power at all. A pair gives the same bits
    whatever else is in the batch.
    """
    rows_x, rows_y = in_rows(x), in_rows(y)
    out = np.empty((len(rows_x), plan.J + 1, plan.n), x.dtype)
    for result, in_time in zip(out, _smoothed(rows_x, rows_y, plan, engine or usual_engine()), strict=True):
        cross, powers = _in_scale(in_time, len(result), plan.boxcar).swapaxes(0, 1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            np.multiply(powers.real, powers.imag, out=result)
            found = np.square(cross.real)
            found += np.square(cross.imag)
            found /= result
            found[~_told(powers, _floors(in_time, len(result), plan.boxcar))] = np.nan
            np.minimum(found, 1, out=result)
    return out.reshape(*x.shape[:-1], *out.shape[1:])


def _smoothed(x: Array, y: Array, made: Plan, engine: Engine) -> Iterator[Array]:
    """Of one pair after the other W12 / s, and |W1|^2 / s + i |W2|^2 / s, smoothed in time; lost at the next.

    Complex (edge + J + 1 + edge, 2, n), where edges of zeros take what `_in_scale` sums beyond the scales.
    """
    dtype, count, n = np.result_type(x.dtype, np.complex64), made.J + 1, made.n
    groups, filters = made.groups(x.dtype), made.smoother(x.dtype)
    edge = made.boxcar[0] + 1
    with (
        np.errstate(invalid="ignore"),
        buffers.borrow((2, made.size // 2 + 1), dtype, "spectra") as spectrum,
        buffers.borrow((count + 2 * edge, 2, n), dtype, "smoothed") as smoothed,
    ):
        smoothed[:edge] = smoothed[edge + count :] = 0
        for pair in zip(x, y, strict=True):
            spectra(np.stack(pair), made, engine, spectrum, level=True)
            for which, samples in inverses(spectrum, groups, made.size, engine.inverse):
                _products(made.answer(samples[..., :n]), samples)
                in_time = engine.smooth(samples, filters[which])
                smoothed[edge + which.start : edge + which.stop] = in_time[..., :n].swapaxes(0, 1)
            yield smoothed


def _products(found: Array, out: Array) -> None:
    """From W1 and W2 (2, rows, n) to W1 conj(W2) and |W1|^2 + i |W2|^2, and zeros behind them; `out` may be `found`."""
    n = found.shape[-1]
    cross = found[0] * np.conj(found[1])
    powers = np.square(found.real)
    powers += np.square(found.imag)
    out[0, :, :n] = cross
    out[1, :, :n].real = powers[0]
    out[1, :, :n].imag = powers[1]
    out[:, :, n:] = 0


def _in_scale(values: Array, count: int, boxcar: tuple[int, float]) -> Array:
    """Weighted sums of neighbours along the first axis, whose ends are zeros, one more than whole weights on a side."""
    whole, part = boxcar
    total = values[:count] + values[2 * (whole + 1) :]
    total *= values.real.dtype.type(part)
    # Sums of 1, 2, 4, ... neighbours, put together to those of all the whole weights.
    first, left, width, sums = 1, 2 * whole + 1, 1, values
    while left:
        if left & 1:
            total += sums[first : first + count]
            first += width
        left >>= 1
        if left:
            sums, width = sums[:-width] + sums[width:], 2 * width
    return total


def _compiled(finish: Finish) -> Callable[..., Array]:
    return _coherency(usual_engine(), finish)


def _floors(in_time: Array, count: int, boxcar: tuple[int, float]) -> Array:
    """Powers of the two series (J + 1, 1) + i (J + 1, 1) below which rounding errors of smoothing in time show."""
    largest = in_time[:, 1:, :1].copy()
    largest.real[..., 0], largest.imag[..., 0] = in_time[:, 1:].real.max(-1), in_time[:, 1:].imag.max(-1)
    floors: Array = _in_scale(largest, count, boxcar)[:, 0] * (LOST * np.finfo(in_time.dtype).eps)
    return floors


def _told(powers: Any, floors: Any, xp: Any = np) -> Any:
    """Where both powers are above their floors."""
    return (xp.real(powers) > xp.real(floors)) & (xp.imag(powers) > xp.imag(floors))


Finish = Callable[[Array, int, Any, Array, Array], object]


def _coherency(engine: Engine, finish: Finish | None = None) -> Callable[..., Array]:
    """The operation by these transforms; smoothing in scale and the quotient by NumPy, or as `wavelet_loops` has it."""

    def wavelet_coherence(x: Array, y: Array, **description: Any) -> Array:
        made = plan(x.shape[-1], **description)
        rows_x, rows_y = in_rows(x), in_rows(y)
        out = np.empty((len(rows_x), made.J + 1, made.n), np.result_type(x.dtype, np.complex64))
        whole, part = made.boxcar
        for result, in_time in zip(out, _smoothed(rows_x, rows_y, made, engine), strict=True):
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                floors = _floors(in_time, len(result), made.boxcar)
                if finish is not None:
                    finish(in_time, whole, x.dtype.type(part), floors, result)
                    continue
                cross, powers = _in_scale(in_time, len(result), made.boxcar).swapaxes(0, 1)
                result[...] = _ratio(cross, powers, floors, np)
        return out.reshape(*x.shape[:-1], *out.shape[1:])

    return wavelet_coherence


def _ratio(cross: Any, powers: Any, floors: Any, xp: Any) -> Any:
    """Over the root of the powers' product, never above one; NaN where rounding leaves too little of them."""
    product = xp.real(powers) * xp.imag(powers)
    one = xp.ones_like(product)
    found = cross / xp.sqrt(xp.where(_told(powers, floors, xp), product, one * np.nan))
    size = xp.square(xp.real(found)) + xp.square(xp.imag(found))
    return found / xp.sqrt(xp.where(size > 1, size, one))


def _portable(x: Any, y: Any, *, xp: Any, **description: Any) -> Any:
    made = plan(x.shape[-1], **description)
    single = dtype_name(x) == "float32"
    real, complex_dtype = (np.float32, xp.complex64) if single else (np.float64, xp.complex128)
    if 0 in x.shape:
        return xp.zeros((*x.shape[:-1], made.J + 1, made.n), dtype=complex_dtype)
    first, second = (xp.astype(dense(_levelled(z, xp), made, xp=xp), complex_dtype, copy=False) for z in (x, y))
    square = [xp.square(xp.real(w)) + xp.square(xp.imag(w)) for w in (first, second)]
    unit = xp.asarray(1j, dtype=complex_dtype)
    filters = beside(x, made.smoother(real), xp)
    window = beside(x, made.window(np.result_type(real, np.complex64)), xp)

    def smoothed(values: Any) -> Any:
        return xp.fft.ifft(xp.fft.fft(values, n=made.size, axis=-1) * filters, axis=-1)[..., : made.n]

    in_time = smoothed(square[0] + unit * square[1])
    largest = [xp.max(part(in_time), axis=-1, keepdims=True) for part in (xp.real, xp.imag)]
    floors = xp.matmul(window, largest[0] + unit * largest[1]) * (LOST * float(np.finfo(real).eps))
    cross = xp.matmul(window, smoothed(first * xp.conj(second)))
    return _ratio(cross, xp.matmul(window, in_time), floors, xp)


def _levelled(x: Any, xp: Any) -> Any:
    """`x` less its mean and over its largest magnitude; NaN where it is constant."""
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    largest = xp.max(xp.abs(centred), axis=-1, keepdims=True)
    constant = xp.max(x, axis=-1, keepdims=True) == xp.min(x, axis=-1, keepdims=True)
    # NaN put in afterwards, as a constant: through a quotient it would reach every gradient.
    return xp.where(constant, xp.full_like(x, xp.nan), centred / xp.where(constant, xp.ones_like(largest), largest))


def _reference(x: Array, y: Array, **description: Any) -> Array:
    """As it is written, in extended precision where the platform has it."""
    made = plan(x.shape[-1], **description)
    transforms = [wide(z, made) for z in (x, y)]
    size, filters = made.size, made.smoother(np.longdouble)
    window = made.window(np.longdouble)

    def smoothed(values: Array) -> Array:
        in_time = np.fft.ifft(np.fft.fft(values, size) * filters)[..., : made.n]
        in_scale: Array = np.einsum("ij,...jn->...in", window, in_time)
        return in_scale

    first, second = transforms
    powers = [smoothed(np.abs(w) ** 2).real for w in transforms]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(smoothed(first * np.conj(second)) / np.sqrt(powers[0] * powers[1]), np.complex128)


def _validate(
    x: Any,
    y: Any,
    *,
    dt: float = 1.0,
    dj: float = 1 / 12,
    s0: float | None = None,
    J: int | None = None,
    wavelet: Wavelet = "morlet",
    order: float | None = None,
    pad: str | None = "zeros",
) -> None:
    name = "wavelet_coherence"
    need_array(name, "x", x, dims=1)
    need_array(name, "y", y, dims=1)
    need_same_dtype(name, x=x, y=y)
    if tuple(x.shape) != tuple(y.shape):
        raise ValueError(f"{name}: x and y must have one shape; got {tuple(x.shape)} and {tuple(y.shape)}")
    need_samples(name, "x", x)
    kind = wavelet_plan.need_description(name, dt, dj, s0, J, wavelet, order, pad)
    try:
        kind.dj0  # noqa: B018 - the order may be one that no width of smoothing is published for
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _work(shapes: Shapes, parameters: Parameters) -> float:
    rows, _, count, size = rows_and_plan(shapes, parameters)
    return float(rows) * (12 * count + 2) * flops((size,))


def _bytes(shapes: Shapes, parameters: Parameters) -> float:
    rows, n, count, _ = rows_and_plan(shapes, parameters)
    return 16.0 * rows * n * (1 + count)


def _pair_workspace(shapes: Shapes, parameters: Parameters) -> float:
    _, n, count, size = rows_and_plan(shapes, parameters)
    return 16.0 * (8 * BLOCK + 24 * size) + 8.0 * count * size + 16.0 * 8 * n * (count + 10)


def _dense_workspace(shapes: Shapes, parameters: Parameters) -> float:
    rows, _, count, size = rows_and_plan(shapes, parameters)
    return 16.0 * size * count * (1 + 10 * rows)


def pairs(*shape: int, **parameters: Any) -> Callable[[np.random.Generator, str], Arguments]:
    """A case of two series of white noise of that shape, with half of it in common."""

    def case(rng: np.random.Generator, dtype: str) -> Arguments:
        x, y = rng.standard_normal((2, *shape))
        return (x.astype(dtype), (x + y).astype(dtype)), parameters

    return case


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    n = max(8, size)  # one sample alone has no power, and so no coherence
    return pairs(n, dj=0.5, J=min(15, 2 * n.bit_length()))(rng, dtype)


_BY_PAIRS: dict[str, Any] = {"workspace": _pair_workspace}

OPERATION = Kernel(
    name="wavelet_coherence",
    summary="wavelet coherence and phase of pairs of series along the last axis",
    variants=(
        Variant("numpy", "numpy", lambda: _coherency(on_numpy()), threads=1, **_BY_PAIRS),
        Variant("scipy", "scipy", lambda: _coherency(on_scipy()), threads=1, **_BY_PAIRS),
        Variant("scipy/threads", "scipy", lambda: _coherency(on_scipy(CORES)), threads=CORES, **_BY_PAIRS),
        numba_variant("numba", build_finish, _compiled, threads=1, **_BY_PAIRS),
        Variant("fftw", "fftw", lambda: _coherency(on_fftw()), threads=1, **_BY_PAIRS),
        Variant("fftw/threads", "fftw", lambda: _coherency(on_fftw(CORES)), threads=CORES, **_BY_PAIRS),
    ),
    portable=Portable(_portable, static=STATIC, workspace=_dense_workspace),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 2e-4, "float64": 1e-11},
    sample=_sample,
    cases={
        "batched": pairs(2, 3, 40, dt=0.25, s0=0.5),
        "fine steps": pairs(100, dj=0.03, J=60),
        "coarse steps": pairs(100, dj=0.7),
        "paul": pairs(2, 150, wavelet="paul", dj=0.25),
        "dog, periodic": pairs(120, wavelet="dog", pad=None, dj=0.25),
        "dog of order 6": pairs(64, wavelet=("dog", 6)),
        "empty batch": pairs(0, 8, dj=0.5),
        "one scale": pairs(30, s0=4.0, J=0),
    },
    validate=_validate,
    wrong=(
        ((np.ones(8), [1.0]), {}, TypeError, "y must be an array; got list"),
        ((np.ones(8), np.ones(8, "f4")), {}, TypeError, "one dtype; got x float64, y float32"),
        ((np.ones(8), np.ones(9)), {}, ValueError, r"one shape; got \(8,\) and \(9,\)"),
        ((np.ones((2, 0)), np.ones((2, 0))), {}, ValueError, "at least one sample"),
        ((np.ones(8), np.ones(8)), {"dt": -1.0}, ValueError, "dt must be positive and finite; got -1.0"),
        (
            (np.ones(8), np.ones(8)),
            {"wavelet": ("paul", 5)},
            ValueError,
            "paul of order 5 is not published; .* order 4",
        ),
    ),
    result_dtype=lambda dtype: np.result_type(dtype, np.complex64).name,
)
