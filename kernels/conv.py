r"""Convolution in one or two dimensions.

``conv(x, k, *, mode="full")``: with one-dimensional `k` of m taps, along the last axis of `x` (..., n), batched over
the rest: :math:`y_t = \sum_j k_j x_{t-j}` with zeros beyond the ends; with two-dimensional `k`, `x` must have two axes
and both are convolved. `mode` "full" gives n + m - 1 samples an axis, "same" the middle n of them, starting at
(m - 1) // 2: an odd kernel is centred, an even one sits half a sample late, as in scipy.signal. Both operands
have one dtype, real or complex, which the result keeps. Units: those of `x` times those of `k`.

Accuracy: within 5e-6 (single) or 1e-14 (double precision) of the largest magnitude in the result. The direct variants
are that close in quiet stretches of the result too; an FFT spreads the rounding error of its loudest part over its
whole length. A NaN reaches every sample that depends on it, and in the FFT variants its whole row or block, as does
an infinity there, as NaN. An empty axis cannot be convolved and is a ValueError.

Source: Oppenheim and Schafer, Discrete-Time Signal Processing, 3rd ed., eq. 2.49 (sum), section 8.7.3 (overlap-add).

>>> import numpy as np
>>> OPERATION.variant("numpy/direct").load()(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0]))
array([1., 3., 5., 3.])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import CORES, numba_variant, torch_variants
from .checks import FLOATS, INEXACT, need_array, need_choice, need_same_dtype, need_samples
from .conv_direct import at, build, load_jax, load_torch, on_numpy, window, wrap
from .spectra import fast_length, filtered, flops, workspace
from .transforms import NUMPY, Engine, on_fftw, on_scipy

Array = np.ndarray[Any, Any]
MODES = ("full", "same")


def _validate(x: Any, k: Any, *, mode: str = "full") -> None:
    need_array("conv", "x", x, dims=1, dtypes=INEXACT)
    need_array("conv", "k", k, dims=1, dtypes=INEXACT)
    need_same_dtype("conv", x=x, k=k)
    if len(k.shape) > 2 or (len(k.shape) == 2 and len(x.shape) != 2):
        raise ValueError(
            f"conv: k must have one axis, or two where x has two; got shapes {tuple(x.shape)} and {tuple(k.shape)}"
        )
    need_samples("conv", "x", x, len(k.shape))
    need_samples("conv", "k", k, len(k.shape))
    need_choice("conv", "mode", mode, MODES)


def _sizes(shapes: Shapes) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Rows, lengths of the convolved axes of x, and of k. One shape alone stands for two operands of that shape."""
    x = shapes[0] or (1,)
    k = shapes[1] if len(shapes) > 1 else x[-1:]
    return math.prod(x[: len(x) - len(k)]), x[len(x) - len(k) :], k


def _padded(n: tuple[int, ...], m: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(fast_length(max(a + b - 1, 1)) for a, b in zip(n, m, strict=True))


def _fft_work(shapes: Shapes, _: Parameters) -> float:
    rows, n, m = _sizes(shapes)
    return (2.0 * rows + 1.0) * flops(_padded(n, m))


def _direct_work(shapes: Shapes, _: Parameters) -> float:
    rows, n, m = _sizes(shapes)
    return 2.0 * rows * math.prod(n) * math.prod(m)


def _overlap_work(shapes: Shapes, _: Parameters) -> float:
    """Blocks of about eight times the kernel, near what SciPy finds best; one transform where that is all."""
    rows, n, m = _sizes(shapes)
    blocks, lengths = 1, []
    for a, b in zip(n, m, strict=True):
        length = fast_length(min(8 * b, a + b - 1))
        lengths.append(length)
        blocks *= max(1, math.ceil((a + b - 1) / max(length - b + 1, 1)))
    return (2.0 * rows * blocks + 1.0) * flops(lengths)


def _fft_workspace(shapes: Shapes, _: Parameters) -> float:
    rows, n, m = _sizes(shapes)
    return 16.0 * (rows + 1) * math.prod(_padded(n, m))


def _block_workspace(shapes: Shapes, _: Parameters) -> float:
    rows, n, m = _sizes(shapes)
    return workspace(rows, _padded(n, m))


def _bytes(shapes: Shapes, _: Parameters) -> float:
    rows, n, m = _sizes(shapes)
    full = math.prod(a + b - 1 for a, b in zip(n, m, strict=True))
    return 8.0 * (rows * (math.prod(n) + full) + math.prod(m))


def _reference(x: Array, k: Array, *, mode: str = "full") -> Array:
    """Tap by tap, in extended precision where the platform has it."""
    wide = np.clongdouble if np.iscomplexobj(x) else np.longdouble
    lead, n = x.shape[: x.ndim - k.ndim], x.shape[x.ndim - k.ndim :]
    y = np.zeros((*lead, *(a + b - 1 for a, b in zip(n, k.shape, strict=True))), wide)
    for j, tap in np.ndenumerate(k.astype(wide)):
        y[at(j, n)] += tap * x.astype(wide)
    cut: Array = y[at(*window(n, k.shape, mode))]
    return cut.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _by_fft(x: Array, k: Array, *, mode: str = "full", engine: Engine = NUMPY) -> Array:
    n = x.shape[x.ndim - k.ndim :]
    start, length = window(n, k.shape, mode)
    if x.size == 0:  # an empty batch
        return np.empty((*x.shape[: x.ndim - k.ndim], *length), x.dtype)
    sizes = _padded(n, k.shape)
    with engine.pair(k.shape, sizes, k.dtype) as taps:
        return filtered(x, taps.forward(k), sizes, at(start, length)[1:], engine=engine)


def _load_overlap_add() -> Callable[..., Any]:
    from scipy.signal import oaconvolve

    def convolve(x: Array, k: Array, *, mode: str = "full") -> Any:
        if x.size == 0:  # SciPy forgets shape and dtype of an empty batch
            return on_numpy(x, k, mode=mode)
        axes = tuple(range(-k.ndim, 0))
        y = oaconvolve(x, k.reshape((1,) * (x.ndim - k.ndim) + k.shape), mode=mode, axes=axes)
        return y if y.base is None else y.copy()  # a window onto a longer array would keep all of that alive

    return convolve


def _load_convolve2d() -> Callable[..., Any]:
    from scipy.signal import convolve2d

    def convolve(x: Array, k: Array, *, mode: str = "full") -> Any:
        return convolve2d(x, k, mode=mode)

    return convolve


def _two_axes(shapes: Shapes, _: Parameters) -> str | None:
    return None if len(shapes) > 1 and len(shapes[1]) == 2 else "scipy's direct form is two-dimensional only"


def _portable(x: Any, k: Any, *, mode: str = "full", xp: Any) -> Any:
    lead, n = tuple(x.shape[: x.ndim - k.ndim]), tuple(x.shape[x.ndim - k.ndim :])
    start, length = window(n, tuple(k.shape), mode)
    if 0 in lead:  # torch's MKL transform refuses an empty batch
        return xp.zeros((*lead, *length), dtype=x.dtype)
    sizes, axes = _padded(n, tuple(k.shape)), tuple(range(-k.ndim, 0))
    if xp.isdtype(x.dtype, "complex floating"):
        product = xp.fft.fftn(x, s=sizes, axes=axes) * xp.fft.fftn(k, s=sizes, axes=axes)
        y = xp.fft.ifftn(product, s=sizes, axes=axes)
    else:
        product = xp.fft.rfftn(x, s=sizes, axes=axes) * xp.fft.rfftn(k, s=sizes, axes=axes)
        y = xp.fft.irfftn(product, s=sizes, axes=axes)
    if length == sizes:
        return y
    return y[at(start, length)] + 0  # a copy: a window onto the padded array would keep all of that alive


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    n = max(1, size)
    return (_random(rng, (n,), dtype), _random(rng, (max(1, round(math.sqrt(n))),), dtype)), {}


def _image(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    side, taps = max(1, round(math.sqrt(size))), max(1, round(size**0.25))
    return (_random(rng, (side, side), dtype), _random(rng, (taps, taps), dtype)), {}


def _pair(x: tuple[int, ...], k: tuple[int, ...], mode: str) -> Callable[[np.random.Generator, str], Arguments]:
    return lambda rng, dtype: ((_random(rng, x, dtype), _random(rng, k, dtype)), {"mode": mode})


def _adjoint(call: Callable[..., Any], args: tuple[Any, ...], _: dict[str, Any], y: Array) -> Array:
    x, k = args
    back = call((y, np.flip(k).copy()), {"mode": "full"})
    window_of_x: Array = back[tuple(slice(m - 1, m - 1 + n) for m, n in zip(k.shape, x.shape, strict=True))]
    return window_of_x


_X = np.ones(8)
_IN_BLOCKS: dict[str, Any] = {"threads": 1, "workspace": _block_workspace}
_SIGNAL: dict[str, Any] = {"threads": 1, "module": "scipy.signal", "module_s": 0.7}
_TORCH_DIRECT = torch_variants("torch/direct", load_torch, work=_direct_work)

OPERATION = Kernel(
    name="conv",
    summary="convolution: one-dimensional and batched, or two-dimensional; full or same",
    variants=(
        Variant("numpy/fft", "numpy", lambda: _by_fft, **_IN_BLOCKS),
        Variant("numpy/direct", "numpy", lambda: on_numpy, threads=1, work=_direct_work),
        Variant("scipy/fft", "scipy", lambda: partial(_by_fft, engine=on_scipy()), **_IN_BLOCKS),
        Variant("scipy/overlap-add", "scipy", _load_overlap_add, work=_overlap_work, **_SIGNAL),
        Variant("scipy/direct", "scipy", _load_convolve2d, work=_direct_work, supports=_two_axes, **_SIGNAL),
        numba_variant("numba/direct", build, wrap, work=_direct_work),
        _TORCH_DIRECT[0],
        Variant("jax/direct", "jax", load_jax, gradients=True, work=_direct_work, dtypes=frozenset(FLOATS)),
        Variant("fftw/fft", "fftw", lambda: partial(_by_fft, engine=on_fftw()), **_IN_BLOCKS),
        Variant(
            "fftw/threads",
            "fftw",
            lambda: partial(_by_fft, engine=on_fftw(CORES)),
            threads=CORES,
            workspace=_block_workspace,
        ),
        _TORCH_DIRECT[1],
    ),
    portable=Portable(_portable, algorithm="fft", static=("mode",), workspace=_fft_workspace),
    work=_fft_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 5e-6, "float64": 1e-14, "complex64": 5e-6, "complex128": 1e-14},
    sample=_sample,
    stack=_image,
    cases={
        "same, odd": _pair((40,), (7,), "same"),
        "same, even": _pair((41,), (8,), "same"),
        "kernel longer than x": _pair((5,), (12,), "same"),
        "batched": _pair((2, 3, 20), (4,), "full"),
        "batched, many rows, same": _pair((9, 20), (3,), "same"),
        "empty batch": _pair((0, 20), (3,), "full"),
        "two axes": _pair((9, 12), (3, 5), "full"),
        "two axes, same, even": _pair((12, 9), (4, 2), "same"),
        "size one": _pair((1,), (1,), "full"),
    },
    validate=_validate,
    wrong=(
        ((_X, np.ones((3, 4))), {}, ValueError, r"one axis, or two where x has two; got shapes \(8,\) and \(3, 4\)"),
        ((_X, np.ones((2, 2, 2))), {}, ValueError, "k must have one axis"),
        ((_X, _X[:0]), {}, ValueError, "k must have at least one sample"),
        ((_X[:0], _X), {}, ValueError, "x must have at least one sample"),
        ((_X, _X), {"mode": "valid"}, ValueError, "'full', 'same'; got 'valid'"),
        ((_X, _X.astype(complex)), {}, TypeError, "one dtype; got x float64, k complex128"),
    ),
    adjoint=_adjoint,
)
