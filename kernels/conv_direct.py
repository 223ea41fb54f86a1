"""Convolution as it is written, sample by tap: the direct variants of `conv` (contract and units there)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .binding import in_rows

Array = np.ndarray[Any, Any]
BLOCK = 4096  # output samples whose sums stay in the first-level cache while all taps pass over them


def window(n: tuple[int, ...], m: tuple[int, ...], mode: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the result begins within the full convolution, and how long it is, for each axis."""
    if mode == "full":
        return (0,) * len(n), tuple(a + b - 1 for a, b in zip(n, m, strict=True))
    return tuple((b - 1) // 2 for b in m), n


def at(start: tuple[int, ...], length: tuple[int, ...]) -> tuple[Any, ...]:
    """Index of a box in the last axes."""
    return (..., *(slice(s, s + a) for s, a in zip(start, length, strict=True)))


def on_numpy(x: Array, k: Array, *, mode: str = "full") -> Array:
    """`np.convolve` row by row, or tap by tap over all rows at once: whichever is the shorter loop."""
    lead, n = x.shape[: x.ndim - k.ndim], x.shape[x.ndim - k.ndim :]
    start, length = window(n, k.shape, mode)
    if x.ndim == 1:
        whole = np.convolve(x, k)
        # a window onto a longer array would keep all of that alive
        return whole if mode == "full" else whole[start[0] : start[0] + length[0]].copy()
    if k.ndim == 1 and x.size // n[0] <= k.size:
        y = np.empty((*lead, *length), x.dtype)
        rows, out = x.reshape(-1, n[0]) if x.size else x.reshape(0, n[0]), y.reshape(-1, length[0])
        for i in range(rows.shape[0]):
            out[i] = np.convolve(rows[i], k)[start[0] : start[0] + length[0]]
        return y
    full = np.zeros((*lead, *(a + b - 1 for a, b in zip(n, k.shape, strict=True))), x.dtype)
    for j, tap in np.ndenumerate(k):
        full[at(j, n)] += tap * x
    cut: Array = full[at(start, length)]
    return cut if mode == "full" else cut.copy()


def build(span: Any) -> Callable[..., Any]:
    """The loop that Numba compiles: stacks of two-dimensional planes; one-dimensional rows are planes of one row."""

    def planes(x: Any, k: Any, start0: int, start1: int, y: Any) -> None:
        n0, n1 = x.shape[1:]
        m0, m1 = k.shape
        length0, length1 = y.shape[1:]
        for plane in span(x.shape[0]):
            for i in range(length0):
                for low in range(0, length1, BLOCK):
                    high = min(low + BLOCK, length1)
                    for a in range(max(0, i + start0 - n0 + 1), min(m0, i + start0 + 1)):
                        for b in range(m1):
                            tap = k[a, b]
                            first = max(low, b - start1)
                            last = min(high, n1 + b - start1)
                            if first < last:
                                # slices, as indices from `range` are known not to be negative and so vectorise
                                out = y[plane, i, first:last]
                                source = x[plane, i + start0 - a, first + start1 - b : last + start1 - b]
                                for c in range(out.size):
                                    out[c] += tap * source[c]

    return planes


def wrap(compiled: Any) -> Callable[..., Any]:
    """Put shapes around the compiled loop."""

    def convolve(x: Array, k: Array, *, mode: str = "full") -> Array:
        lead, n = x.shape[: x.ndim - k.ndim], x.shape[x.ndim - k.ndim :]
        start, length = window(n, k.shape, mode)
        y = np.zeros((*lead, *length), x.dtype)
        if k.ndim == 1:
            compiled(in_rows(x)[:, None], in_rows(k), 0, start[0], in_rows(y)[:, None])
        else:
            compiled(in_rows(x, 2), np.ascontiguousarray(k), start[0], start[1], in_rows(y, 2))
        return y

    return convolve


def _padding(n: tuple[int, ...], m: tuple[int, ...], mode: str) -> list[tuple[int, int]]:
    """Zeros before and after each axis that make the library's "valid" correlation our mode."""
    start, length = window(n, m, mode)
    before = [b - 1 - s for b, s in zip(m, start, strict=True)]
    return [(p, a + b - 1 - c - p) for p, a, b, c in zip(before, length, m, n, strict=True)]


def load_torch() -> Callable[..., Any]:
    """`torch.nn.functional.conv1d` and `conv2d`, which correlate: the kernel is flipped."""
    from torch.nn import functional

    def convolve(x: Any, k: Any, *, mode: str = "full") -> Any:
        lead, n = x.shape[: x.ndim - k.ndim], tuple(x.shape[x.ndim - k.ndim :])
        padding = _padding(n, tuple(k.shape), mode)
        padded = functional.pad(x.reshape(-1 if x.numel() else 0, 1, *n), [p for pair in padding[::-1] for p in pair])
        correlate = functional.conv1d if k.ndim == 1 else functional.conv2d
        y = correlate(padded, k.flip(tuple(range(k.ndim)))[None, None])
        return y.reshape(*lead, *y.shape[2:])

    return convolve


def load_jax() -> Callable[..., Any]:
    """XLA's own convolution, which correlates: the kernel is flipped."""
    import jax
    import jax.numpy as jnp

    def convolve(x: Any, k: Any, *, mode: str = "full") -> Any:
        lead, n = x.shape[: x.ndim - k.ndim], x.shape[x.ndim - k.ndim :]
        _, length = window(n, k.shape, mode)
        if 0 in lead:
            return jnp.zeros((*lead, *length), x.dtype)
        y = jax.lax.conv_general_dilated(
            x.reshape(-1, 1, *n),
            jnp.flip(k)[None, None],
            window_strides=(1,) * k.ndim,
            padding=_padding(n, k.shape, mode),
            precision=jax.lax.Precision.HIGHEST,
        )
        return y.reshape(*lead, *length)

    jitted: Callable[..., Any] = jax.jit(convolve, static_argnames=("mode",))
    return jitted
