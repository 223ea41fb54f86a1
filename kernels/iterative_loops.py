"""The whole loop of sweeps compiled by Numba and JAX, and in torch: variants of `iterative` (contract there)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .binding import in_rows

Array = np.ndarray[Any, Any]
interior = np.s_[..., 1:-1, 1:-1]
LARGE = 16 << 20  # bytes of one grid from which two no longer stay in the caches, and several sweeps go at a time
DEPTH = 8  # sweeps at a time then: 1.8 times as fast as one, and no slower than more


def nothing_to_do(shape: Sequence[int], sweeps: int) -> bool:
    """Whether the result is the start: no sweep, or no point that has four neighbours."""
    return bool(sweeps == 0) or 0 in shape or min(shape[-2:]) < 3


def in_stack(source: Array | None, u: Array) -> Array:
    """`source` for every grid of the stack `u`, contiguous; an empty stack for None."""
    if source is None:
        return np.empty((0, 0, 0), u.dtype)
    return in_rows(np.broadcast_to(source, u.shape), 2)


def build(span: Any) -> Callable[..., Any]:
    """Grid by grid; so many sweeps as `depth` says follow each other two rows apart, while rows are in the cache."""

    def sweep_all(stack: Any, heat: Any, sweeps: int, depth: int, quarter: Any) -> Any:
        n, m = stack.shape[1:]
        result = stack.copy()
        spare = np.empty((n, m), stack.dtype)
        for plane in span(stack.shape[0]):
            a, b = result[plane], spare
            for i in range(n):  # `b[:] = a` would have Numba compile a message about shapes, which takes four seconds
                for j in range(m):
                    b[i, j] = a[i, j]
            done = 0
            while done < sweeps:
                now = min(depth, sweeps - done)
                for wave in range(1, n - 1 + 2 * (now - 1)):
                    for s in range(max(0, (wave - n + 3) // 2), min(now, (wave + 1) // 2)):
                        row = wave - 2 * s  # what it reads from the sweep before is complete, and not yet overwritten
                        old, new = (a, b) if s % 2 == 0 else (b, a)
                        # slices, as indices from `range` are known not to be negative and so vectorise
                        above, below = old[row - 1, 1 : m - 1], old[row + 1, 1 : m - 1]
                        left, right, out = old[row, : m - 2], old[row, 2:], new[row, 1 : m - 1]
                        if heat.shape[0] > 0:
                            warm = heat[plane, row, 1 : m - 1]
                            for j in range(out.size):
                                out[j] = ((above[j] + below[j]) + (left[j] + right[j]) + warm[j]) * quarter
                        else:
                            for j in range(out.size):
                                out[j] = ((above[j] + below[j]) + (left[j] + right[j])) * quarter
                if now % 2 == 1:
                    a, b = b, a
                done += now
            if sweeps % 2 == 1:  # the last sweep ended in the spare grid, wherever that is by now
                for i in range(n):
                    for j in range(m):
                        result[plane, i, j] = a[i, j]
        return result

    return sweep_all


def wrap(compiled: Any) -> Callable[..., Any]:
    """Put shapes around the serial loop."""

    def sweep_all(u: Array, source: Array | None = None, *, sweeps: int = 100) -> Array:
        if nothing_to_do(u.shape, sweeps):
            return u.copy()
        stack = in_rows(u, 2)
        depth = DEPTH if stack[0].nbytes > LARGE else 1
        y: Array = compiled(stack, in_stack(source, u), int(sweeps), depth, u.dtype.type(0.25))
        return y.reshape(u.shape)

    return sweep_all


def build_parallel(span: Any) -> Callable[..., Any]:
    """Sweep by sweep, the rows of all grids shared out among the threads."""

    def sweep_all(stack: Any, heat: Any, sweeps: int, quarter: Any) -> Any:
        planes, n, m = stack.shape
        old, new = stack.copy(), stack.copy()
        for _ in range(sweeps):
            for place in span(planes * (n - 2)):
                plane = np.int64(place) // (n - 2)  # prange counts unsigned
                row = np.int64(place) % (n - 2) + 1
                above, below = old[plane, row - 1, 1 : m - 1], old[plane, row + 1, 1 : m - 1]
                left, right, out = old[plane, row, : m - 2], old[plane, row, 2:], new[plane, row, 1 : m - 1]
                if heat.shape[0] > 0:
                    warm = heat[plane, row, 1 : m - 1]
                    for j in range(out.size):
                        out[j] = ((above[j] + below[j]) + (left[j] + right[j]) + warm[j]) * quarter
                else:
                    for j in range(out.size):
                        out[j] = ((above[j] + below[j]) + (left[j] + right[j])) * quarter
            old, new = new, old
        return old

    return sweep_all


def wrap_parallel(compiled: Any) -> Callable[..., Any]:
    """Put shapes around the parallel loop."""

    def sweep_all(u: Array, source: Array | None = None, *, sweeps: int = 100) -> Array:
        if nothing_to_do(u.shape, sweeps):
            return u.copy()
        y: Array = compiled(in_rows(u, 2), in_stack(source, u), int(sweeps), u.dtype.type(0.25))
        return y.reshape(u.shape)

    return sweep_all


def _swept_in_place(u: Any, source: Any, sweeps: int) -> Any:
    """On the stack as one run of memory, as in the NumPy variant."""
    import torch

    grids = [u.clone(memory_format=torch.contiguous_format) for _ in range(2)]
    m, length = u.shape[-1], u.numel()
    flat = [grid.view(length) for grid in grids]
    heat = None if source is None else (source * 0.25).expand(u.shape).reshape(length)[m : length - m]
    edges = [[grid[..., 0], grid[..., -1], grid[..., 0, :], grid[..., -1, :]] for grid in grids]
    for sweep in range(sweeps):
        old, out = flat[sweep % 2], flat[1 - sweep % 2][m : length - m]
        torch.add(old[: length - 2 * m], old[2 * m :], out=out)
        out.add_(old[m - 1 : length - m - 1]).add_(old[m + 1 : length - m + 1]).mul_(0.25)
        if heat is not None:
            out.add_(heat)
        for mine, kept in zip(edges[1 - sweep % 2], edges[sweep % 2], strict=True):
            mine.copy_(kept)
    return grids[sweeps % 2]


def load_torch() -> Callable[..., Any]:
    """Sweeps in place, outside of autograd, with a derivative of their own: it keeps nothing, however many they are."""
    import torch

    class Sweeps(torch.autograd.Function):
        @staticmethod
        def forward(u: Any, source: Any, sweeps: int) -> Any:
            return _swept_in_place(u, source, sweeps)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004 - a linear map keeps no result
            ctx.sweeps, ctx.has_source = inputs[2], inputs[1] is not None

        @staticmethod
        def vmap(info: Any, axes: Any, u: Any, source: Any, sweeps: int) -> Any:
            """The mapped axis goes first, where a batch is anyway."""

            def first(x: Any, axis: int | None) -> Any:
                return x if x is None else x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)

            return apply(first(u, axes[0]), first(source, axes[1]), sweeps), 0

        @staticmethod
        def jvp(ctx: Any, u: Any, source: Any, _: Any) -> Any:
            """The map is linear: what it makes of the tangents."""
            return apply(torch.zeros_like(source) if u is None else u, source, ctx.sweeps)

        @staticmethod
        def backward(ctx: Any, y: Any) -> Any:
            """The adjoint: inner points take part symmetrically, an edge gets back what it gave in every sweep."""
            inner = torch.nn.functional.pad(y[interior], (1, 1, 1, 1))
            swept = apply(inner, None, ctx.sweeps)
            given = apply(torch.zeros_like(inner), inner, ctx.sweeps)
            pad = torch.nn.functional.pad
            edge = (
                pad(given[..., 1:2, 1:-1], (1, 1, 0, y.shape[-2] - 1))
                + pad(given[..., -2:-1, 1:-1], (1, 1, y.shape[-2] - 1, 0))
                + pad(given[..., 1:-1, 1:2], (0, y.shape[-1] - 1, 1, 1))
                + pad(given[..., 1:-1, -2:-1], (y.shape[-1] - 1, 0, 1, 1))
            )
            return y - inner + swept + edge, given if ctx.has_source else None, None

    apply: Callable[..., Any] = Sweeps.apply

    def sweep_all(u: Any, source: Any = None, *, sweeps: int = 100) -> Any:
        if nothing_to_do(u.shape, sweeps):
            return u.clone()
        return apply(u, None if source is None else source.expand(u.shape), int(sweeps))

    return sweep_all


def jax_plain(u: Any, source: Any = None, *, sweeps: Any = 100) -> Any:
    """`sweeps` is traced along, so that one compilation serves any number."""
    import jax
    import jax.numpy as jnp

    if min(u.shape[-2:]) < 3 or u.size == 0:
        return jnp.asarray(u)
    edge = [(0, 0)] * (u.ndim - 2) + [(1, 1)] * 2
    inside = jnp.pad(jnp.ones(tuple(k - 2 for k in u.shape[-2:]), bool), 1)

    def sweep(_: Any, y: Any) -> Any:
        # padded and masked: XLA fuses that into one pass over the grid, and writes a slice in two
        wide = jnp.pad(y, edge)
        around = (wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]) + (wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:])
        return jnp.where(inside, 0.25 * (around if source is None else around + source), y)

    return jax.lax.fori_loop(0, sweeps, sweep, u)


def jax_traced(u: Any, source: Any = None, *, sweeps: int = 100) -> Any:
    """`sweeps` is a constant: JAX differentiates no loop that ends it knows not when."""
    return jax_plain(u, source, sweeps=int(sweeps))
