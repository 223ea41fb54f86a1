r"""Grunwald-Letnikov derivative of any real order, from samples.

``derivative(f, *, order, step=1.0)`` along the last axis of real `f`, sampled every `step`, batched over the rest:
:math:`y_n = h^{-\alpha} \sum_{k=0}^{n} w_k f_{n-k}` with :math:`w_0 = 1, w_k = w_{k-1} (1 - (\alpha + 1) / k)`. The
first sample is the lower terminal: what lies before it counts as zero, so a constant has a derivative of
:math:`t^{-\alpha} / \Gamma(1 - \alpha)`, not zero. It agrees with the Riemann-Liouville derivative to first order in
the step. Order 1 is the backward difference, 0 the identity, a negative order a fractional integral (-1 the running
sum). Orders from -2 to 2 are accepted. `f` of shape (..., n) gives (..., n) in `f`'s dtype; an empty axis stays empty.
Units: those of `f` over those of `step` to the power `order`. The factor h^-order must be a normal number of `f`'s
dtype, between 1.2e-38 and 3.4e38 in single and 2.2e-308 and 1.8e308 in double precision; otherwise it is a ValueError,
and `step` wants another unit.

Accuracy: within 1e-6 (single) or 3e-15 (double precision) of max|f| h^-order sum|w_k|, whichever the variant. Where
the result is much smaller than that (a smooth `f`, fine steps, a high order: 1e4 times for 4e4 samples of a slow sine
and order 1.5) its relative error is larger in the same ratio; rounding `f` itself does as much, so use double
precision there. A NaN reaches every later sample of its row, and so does an infinity, as infinity or NaN; in the FFT
variants either makes the whole row NaN. The FFT variants keep the weights' spectrum per order, length and dtype, 64 MiB
at most.

Source: Podlubny, Fractional Differential Equations (1999), eq. 7.1-7.4 (weights and sum); by FFT: Lubich, SIAM J.
Math. Anal. 17 (1986), section 2 (discrete convolution form).

>>> import numpy as np
>>> OPERATION.variant("numpy/direct").load()(np.array([1.0, 4.0, 9.0]), order=1, step=0.5)
array([ 2.,  6., 10.])
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from ..executors.base import Parameters, Shapes, Variant
from ..executors.registry import executor
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import CORES, in_rows, numba_variant
from .checks import FLOATS, dtype_name, need_array
from .on_cuda import cuda_variant, load_history_sum
from .spectra import Kept, fast_length, filtered, flops, workspace
from .transforms import NUMPY, Engine, on_fftw, on_scipy

Array = np.ndarray[Any, Any]
LOWEST, HIGHEST = -2.0, 2.0
RANGE = {name: (float(np.finfo(name).tiny), float(np.finfo(name).max)) for name in FLOATS}  # of normal numbers
KEPT = Kept(64 << 20)


def _validate(f: Any, *, order: float, step: float = 1.0) -> None:
    need_array("derivative", "f", f, dims=1)
    for name, value in (("order", order), ("step", step)):
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise TypeError(f"derivative: {name} must be a real number; got {value!r}")
        try:
            float(value)
        except OverflowError:  # of a whole number or a fraction, whose digits no message should list
            raise ValueError(f"derivative: {name} must fit a float; got a larger {type(value).__name__}") from None
    power, h = float(order), float(step)
    if not LOWEST <= power <= HIGHEST:
        raise ValueError(f"derivative: order must lie between {LOWEST:g} and {HIGHEST:g}; got {power!r}")
    if not 0.0 < h < math.inf:
        raise ValueError(f"derivative: step must be positive and finite; got {h!r}")
    try:
        scale = h**-power
    except OverflowError:
        scale = math.inf
    least, most = RANGE["float32"]
    if least <= scale <= most:  # in any dtype: its name takes as long to ask for as all the rest
        return
    least, most = RANGE[dtype_name(f)]
    if not least <= scale <= most:
        raise ValueError(
            f"derivative: step**-order must be between {least:.2g} and {most:.2g}, the range of {dtype_name(f)}; got "
            f"{scale:.3g} from order {power!r} and step {h!r} (change the unit of step)"
        )


def weights(order: float, n: int) -> Array:
    """The first `n` Grunwald-Letnikov weights of `order` in float64, kept; not to be written to."""
    return KEPT.get(("weights", order, n), partial(_weights, order, n, np.float64))


def _weights(order: float, n: int, dtype: Any) -> Array:
    w = np.ones(n, dtype)
    k = np.arange(1, n, dtype=dtype)
    np.cumprod((k - 1 - dtype(order)) / k, out=w[1:])
    return w


def _spectrum(order: float, n: int, itemsize: int) -> tuple[Array, int]:
    """Spectrum of the weights, and the transform's length: long enough that nothing wraps round."""
    size = fast_length(2 * n - 1)

    def make() -> Array:
        return np.fft.rfft(_weights(order, n, np.float64), size).astype(
            np.complex64 if itemsize == 4 else np.complex128, copy=False
        )

    return KEPT.get(("spectrum", order, n, itemsize), make), size


def _rows(shapes: Shapes) -> tuple[int, int]:
    shape = shapes[0] or (1,)
    return math.prod(shape[:-1]), shape[-1]


def _fft_work(shapes: Shapes, _: Parameters) -> float:
    rows, n = _rows(shapes)
    return 2.0 * rows * flops((fast_length(max(2 * n - 1, 1)),))


def _direct_work(shapes: Shapes, _: Parameters) -> float:
    rows, n = _rows(shapes)
    return float(rows) * n * (n + 1)


def _full_work(shapes: Shapes, _: Parameters) -> float:
    rows, n = _rows(shapes)
    return 2.0 * rows * n * n  # np.convolve also computes the half that is cut off


def _fft_workspace(shapes: Shapes, _: Parameters) -> float:
    rows, n = _rows(shapes)
    return 16.0 * (rows + 1) * fast_length(max(2 * n - 1, 1))


def _block_workspace(shapes: Shapes, _: Parameters) -> float:
    rows, n = _rows(shapes)
    return workspace(rows, (fast_length(max(2 * n - 1, 1)),))


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 16.0 * math.prod(shapes[0])


def _reference(f: Array, *, order: float, step: float = 1.0) -> Array:
    """The sum as it is written, in extended precision where the platform has it."""
    wide = f.astype(np.longdouble)
    n = f.shape[-1]
    total = np.zeros_like(wide)
    if n:
        for k, w in enumerate(_weights(order, n, np.longdouble)):
            total[..., k:] += w * wide[..., : n - k]
    return np.asarray(total * np.longdouble(step) ** -np.longdouble(order), dtype=np.float64)


def _by_fft(f: Array, *, order: float, step: float = 1.0, engine: Engine = NUMPY) -> Array:
    n = f.shape[-1]
    if f.size == 0:
        return np.empty(f.shape, f.dtype)
    response, size = _spectrum(float(order), n, f.itemsize)
    return filtered(f, response, (size,), (slice(0, n),), float(step) ** -float(order), engine)


def _by_numpy_sum(f: Array, *, order: float, step: float = 1.0) -> Array:
    y = np.empty(f.shape, f.dtype)
    if f.size == 0:
        return y
    n = f.shape[-1]
    w = weights(float(order), n).astype(f.dtype, copy=False)
    rows, out = f.reshape(-1, n), y.reshape(-1, n)
    for i in range(rows.shape[0]):
        out[i] = np.convolve(rows[i], w)[:n]
    y *= f.dtype.type(float(step) ** -float(order))
    return y


def _build(span: Any) -> Callable[..., Any]:
    def history_sum(f: Any, w_back: Any, scale: Any) -> Any:
        rows, n = f.shape
        y = np.empty_like(f)
        half = (n + 1) // 2
        for pair in span(rows * half):  # samples i and n - 1 - i together are the same work for every pair
            row = np.int64(pair) // half
            first = np.int64(pair) % half
            for i in (first, n - 1 - first):
                total = f.dtype.type(0)
                w_part = w_back[n - 1 - i :]
                f_part = f[row, : i + 1]
                for k in range(f_part.size):
                    total += w_part[k] * f_part[k]
                y[row, i] = total * scale
        return y

    return history_sum


def _with_weights(compiled: Any) -> Callable[..., Any]:
    def history_sum(f: Array, *, order: float, step: float = 1.0) -> Array:
        if f.size == 0:
            return np.empty(f.shape, f.dtype)
        w_back = np.ascontiguousarray(weights(float(order), f.shape[-1])[::-1], dtype=f.dtype)
        y: Array = compiled(in_rows(f), w_back, f.dtype.type(float(step) ** -float(order)))
        return y.reshape(f.shape)

    return history_sum


def _filter(f: Any, response: Any, size: int, scale: Any, *, xp: Any) -> Any:
    y = xp.fft.irfft(xp.fft.rfft(f, n=size, axis=-1) * response, n=size, axis=-1)
    return y[..., : f.shape[-1]] * scale


def _portable(f: Any, *, order: float, step: float = 1.0, xp: Any) -> Any:
    if 0 in f.shape:
        return xp.zeros_like(f)
    response, size = _spectrum(float(order), f.shape[-1], 4 if f.dtype == xp.float32 else 8)
    return _filter(f, _beside(f, response, (float(order), f.shape[-1]), xp), size, float(step) ** -float(order), xp=xp)


def _beside(f: Any, response: Array, of: tuple[float, int], xp: Any) -> Any:
    """`response` as an array like `f`; on a GPU it is kept, as the way there takes longer than the transforms."""
    move = partial(xp.asarray, response, device=f.device)
    device = str(f.device)
    if "cuda" not in device.lower():
        return move()
    # What torch makes in inference mode is of no use outside of it.
    inference = getattr(xp, "is_inference_mode_enabled", bool)()
    return KEPT.get((xp.__name__, device, inference, of, response.dtype.char), move)


def _load_jax_fft() -> Callable[..., Any]:
    import jax

    xp = executor("jax").namespace()
    jitted: Any = jax.jit(partial(_filter, xp=xp), static_argnums=2)

    def by_fft(f: Any, *, order: float, step: float = 1.0) -> Any:
        if 0 in f.shape:
            return xp.zeros_like(f)
        response, size = _spectrum(float(order), f.shape[-1], 4 if dtype_name(f) == "float32" else 8)
        return jitted(f, response, size, float(step) ** -float(order))

    wrapped: Any = by_fft
    wrapped._cache_size = jitted._cache_size  # how many shapes are compiled, for whoever asks
    return by_fft


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    n = max(1, size)
    return (rng.standard_normal(n).astype(dtype),), {"order": 0.5, "step": 1.0 / n}


def _noise(*shape: int, **parameters: float) -> Callable[[np.random.Generator, str], Arguments]:
    return lambda rng, dtype: ((rng.standard_normal(shape).astype(dtype),), parameters)


_IN_BLOCKS: dict[str, Any] = {"threads": 1, "workspace": _block_workspace}

OPERATION = Kernel(
    name="derivative",
    summary="Grunwald-Letnikov derivative of fractional order along the last axis",
    variants=(
        Variant("numpy/fft", "numpy", lambda: _by_fft, **_IN_BLOCKS),
        Variant("numpy/direct", "numpy", lambda: _by_numpy_sum, threads=1, work=_full_work),
        Variant("scipy/fft", "scipy", lambda: partial(_by_fft, engine=on_scipy()), **_IN_BLOCKS),
        numba_variant("numba/direct", _build, _with_weights, reorder=True, work=_direct_work),
        numba_variant("numba/parallel", _build, _with_weights, reorder=True, work=_direct_work),
        cuda_variant("numba/direct", partial(load_history_sum, weights), work=_direct_work),
        Variant("jax/fft", "jax", _load_jax_fft, gradients=True, workspace=_fft_workspace),
        Variant("fftw/fft", "fftw", lambda: partial(_by_fft, engine=on_fftw()), **_IN_BLOCKS),
        Variant(
            "fftw/threads",
            "fftw",
            lambda: partial(_by_fft, engine=on_fftw(CORES)),
            threads=CORES,
            workspace=_block_workspace,
        ),
    ),
    portable=Portable(_portable, algorithm="fft", workspace=_fft_workspace),
    work=_fft_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 5e-6, "float64": 2e-14},
    sample=_sample,
    cases={
        "batched": _noise(2, 3, 25, order=0.3, step=0.1),
        "order zero": _noise(20, order=0.0),
        "backward difference": _noise(20, order=1, step=0.5),
        "second difference": _noise(20, order=2.0),
        "half integral": _noise(33, order=-0.5, step=2.0),
        "running sum": _noise(33, order=-1),
        "empty": _noise(0, order=0.5),
        "empty batch": _noise(0, 4, order=0.5),
        "size one": _noise(1, order=0.5, step=0.25),
    },
    validate=_validate,
    wrong=(
        ((np.ones(8),), {"order": 2.5}, ValueError, "between -2 and 2; got 2.5"),
        ((np.ones(8),), {"order": math.nan}, ValueError, "got nan"),
        ((np.ones(8),), {"order": "half"}, TypeError, "order must be a real number; got 'half'"),
        ((np.ones(8),), {"order": 0.5, "step": 0.0}, ValueError, "step must be positive and finite; got 0.0"),
        ((np.ones(8),), {"order": 0.5, "step": math.inf}, ValueError, "got inf"),
        ((np.ones(8),), {"order": 0.5, "step": 10**400}, ValueError, "step must fit a float; got a larger int"),
        ((np.ones(8),), {"order": -(10**5000)}, ValueError, "order must fit a float; got a larger int"),
        ((np.ones(8),), {"order": 1, "step": Fraction(1, 10**400)}, ValueError, "positive and finite; got 0.0"),
        ((np.ones(8),), {"order": 2, "step": 1e-300}, ValueError, "float64; got inf from order 2.0"),
        ((np.ones(8),), {"order": -2, "step": 1e-300}, ValueError, "got 0 from .*change the unit of step"),
        ((np.ones(8, "f4"),), {"order": 1.5, "step": 1e-26}, ValueError, r"float32; got 1e\+39 from order 1.5"),
        ((np.ones(8, "f4"),), {"order": -1.5, "step": 1e-26}, ValueError, "between 1.2e-38 .* got 1e-39"),
        ((np.ones(8, complex),), {"order": 0.5}, TypeError, "got complex128"),
        ((np.array(1.0),), {"order": 0.5}, ValueError, "at least 1 axes"),
    ),
    adjoint=lambda call, _, kwargs, y: call((y[::-1].copy(),), kwargs)[::-1],
)
