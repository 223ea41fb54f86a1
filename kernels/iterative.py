r"""Jacobi sweeps over a two-dimensional heat problem.

``iterative(u, source=None, *, sweeps=100)`` with `u` of shape (..., n, m), batched over the leading axes: the outermost
rows and columns stay as they are, and each sweep replaces all other values at once by
:math:`u'_{ij} = (u_{i-1,j} + u_{i+1,j} + u_{i,j-1} + u_{i,j+1} + s_{ij}) / 4`. `source` has the shape of `u` or of one
of its grids; its edge is not read. With s = h^2 f / k the sweeps tend to the solution of -k (u_xx + u_yy) = f on a grid
of spacing h; without it they are explicit time steps of the heat equation with dt = h^2 / (4 k). A grid of
fewer than three rows or columns has nothing to sweep and comes back as a copy. `u` is real; the result has its dtype.
Units: `u`, `source` and the result have one unit.

Accuracy: within 5e-6 (single) or 1e-14 (double precision) of the largest magnitude in the result, for up to about 100
sweeps. A sweep never enlarges an error, so the bound grows at most with the number of sweeps, in practice with
its root. A NaN or an infinity reaches what it would reach in so many sweeps; in "scipy/sine" either makes all inner
points of its grid NaN. That variant adds up all sweeps in the sine modes of the grid, each of which a sweep multiplies
by a number: its time does not depend on `sweeps`.

Source: Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., eq. 4.4 (sweep) and section 4.2 (convergence); sine
modes: Demmel, Applied Numerical Linear Algebra, lemma 6.1 and section 6.5.1.

>>> import numpy as np
>>> OPERATION.variant("numpy").load()(np.array([[0.0, 4.0, 0.0], [8.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), sweeps=1)
array([[0., 4., 0.],
       [8., 3., 0.],
       [0., 0., 0.]])
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors import buffers
from ..executors.base import Parameters, Shapes, Variant
from ..selector.portable import Portable
from .base import Arguments, Kernel
from .binding import numba_variant, torch_variants
from .checks import need_array, need_same_dtype
from .iterative_loops import (
    build,
    build_parallel,
    interior,
    jax_plain,
    jax_traced,
    load_torch,
    nothing_to_do,
    wrap,
    wrap_parallel,
)
from .jax_forms import jax_variants
from .spectra import Kept, flops

Array = np.ndarray[Any, Any]
SWEEPS = 100
BLOCK = 32768  # points that are swept at a time, so that their sums stay in the second-level cache
KEPT = Kept(64 << 20)


def _validate(u: Any, source: Any = None, *, sweeps: int = SWEEPS) -> None:
    need_array("iterative", "u", u, dims=2)
    if not isinstance(sweeps, numbers.Integral) or isinstance(sweeps, bool) or sweeps < 0:
        raise ValueError(f"iterative: sweeps must be a whole number of at least 0; got {sweeps!r}")
    if source is not None:
        need_array("iterative", "source", source, dims=2)
        need_same_dtype("iterative", u=u, source=source)
        if tuple(source.shape) not in (tuple(u.shape), tuple(u.shape)[-2:]):
            raise ValueError(
                f"iterative: source must have the shape of u, or of its last two axes; got shapes {tuple(u.shape)} "
                f"and {tuple(source.shape)}"
            )


def _work(shapes: Shapes, parameters: Parameters) -> float:
    sums = 4.0 if len(shapes) < 2 else 5.0
    return sums * math.prod(shapes[0]) * max(1, int(parameters.get("sweeps", SWEEPS)))


def _sine_work(shapes: Shapes, _: Parameters) -> float:
    """Two transforms there and one back, of nearly twice the length along each axis, a quarter of which is new."""
    shape = shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0])
    return 1.5 * math.prod(shape[:-2]) * flops([max(2 * (n - 1), 1) for n in shape[-2:]])


def _bytes(shapes: Shapes, _: Parameters) -> float:
    return 8.0 * (math.prod(shapes[0]) + sum(math.prod(shape) for shape in shapes))


def _workspace(shapes: Shapes, _: Parameters) -> float:
    return 8.0 * math.prod(shapes[0])


def _sine_workspace(shapes: Shapes, _: Parameters) -> float:
    return 32.0 * math.prod(shapes[0])


def _reference(u: Array, source: Array | None = None, *, sweeps: int = SWEEPS) -> Array:
    """Sweep by sweep, in extended precision where the platform has it."""
    y = u.astype(np.longdouble)
    heat = 0 if source is None else source.astype(np.longdouble)[interior]
    for _ in range(sweeps):
        y[interior] = (y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:] + heat) / 4
    return y.astype(np.float64)


def _on_numpy(u: Array, source: Array | None = None, *, sweeps: int = SWEEPS) -> Array:
    """Over the whole stack as one run of memory, which is four times as fast as row by row; then the edges again."""
    y = u.copy(order="C")
    if nothing_to_do(u.shape, sweeps):
        return y
    length, m = y.size, y.shape[-1]
    # On the way over the ends of rows, infinities meet in sums that the edges then take the place of.
    quiet = np.errstate(invalid="ignore", over="ignore")
    with quiet, buffers.borrow(y.shape, y.dtype) as other, buffers.borrow((length,), y.dtype) as heat:
        if source is not None:
            np.multiply(source, 0.25, out=heat.reshape(y.shape))
        grids = (y, other) if sweeps % 2 == 0 else (other, y)  # so that the last sweep ends in y
        if grids[0] is other:
            np.copyto(other, u)
        for sweep in range(sweeps):
            old, new = grids[sweep % 2], grids[1 - sweep % 2]
            given, out = old.reshape(length), new.reshape(length)
            for low in range(m, length - m, BLOCK):
                high = min(low + BLOCK, length - m)
                part = out[low:high]
                np.add(given[low - m : high - m], given[low + m : high + m], out=part)
                np.add(part, given[low - 1 : high - 1], out=part)
                np.add(part, given[low + 1 : high + 1], out=part)
                np.multiply(part, 0.25, out=part)
                if source is not None:
                    np.add(part, heat[low:high], out=part)
            for edge in (np.s_[..., 0, :], np.s_[..., -1, :], np.s_[..., 0], np.s_[..., -1]):
                new[edge] = old[edge]
    return y


def _modes(n: int, m: int, sweeps: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """What all sweeps make of each sine mode of the start, and of a source of one in it."""

    def make() -> Array:
        halved = [np.sin(np.pi * np.arange(1, k - 1) / (2 * (k - 1))) ** 2 for k in (n, m)]
        lost = halved[0][:, None] + halved[1]  # one sweep multiplies the mode by 1 - lost
        slow = lost < 1
        rate = np.log1p(-np.where(slow, lost, 0.0))  # 1 - (1 - lost)^sweeps cancels where little is lost
        power = np.where(slow, np.exp(sweeps * rate), (1 - lost) ** sweeps)
        return np.stack([power, np.where(slow, -np.expm1(sweeps * rate), 1 - power) / lost]).astype(dtype)

    kept = KEPT.get((n, m, sweeps, dtype), make)
    return kept[0], kept[1]


def _load_sine() -> Callable[..., Any]:
    from scipy.fft import dstn, idstn

    def in_sine_modes(u: Array, source: Array | None = None, *, sweeps: int = SWEEPS) -> Array:
        y = u.copy(order="C")
        if nothing_to_do(u.shape, sweeps):
            return y
        power, total = _modes(u.shape[-2], u.shape[-1], int(sweeps), u.dtype)
        heat = np.zeros_like(y[interior])  # what the edges and the source give in each sweep
        heat[..., 0, :] += u[..., 0, 1:-1]
        heat[..., -1, :] += u[..., -1, 1:-1]
        heat[..., :, 0] += u[..., 1:-1, 0]
        heat[..., :, -1] += u[..., 1:-1, -1]
        if source is not None:
            heat += source[interior]
        heat *= 0.25
        modes = dstn(u[interior], type=1, axes=(-2, -1))
        modes *= power
        heat = dstn(heat, type=1, axes=(-2, -1), overwrite_x=True)
        heat *= total
        modes += heat
        y[interior] = idstn(modes, type=1, axes=(-2, -1), overwrite_x=True)
        return y

    return in_sine_modes


def _portable(u: Any, source: Any = None, *, sweeps: int = SWEEPS, xp: Any) -> Any:
    """Writes to nothing, as not every library can."""
    y = u + 0
    if nothing_to_do(u.shape, sweeps):
        return y
    top, bottom, left, right = y[..., :1, :], y[..., -1:, :], y[..., 1:-1, :1], y[..., 1:-1, -1:]
    heat = None if source is None else source[interior]
    for _ in range(sweeps):
        around = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + (y[..., 1:-1, :-2] + y[..., 1:-1, 2:])
        inner = 0.25 * (around if heat is None else around + heat)
        y = xp.concat([top, xp.concat([left, inner, right], axis=-1), bottom], axis=-2)
    return y


def _adjoint(call: Callable[..., Any], _: Any, kwargs: dict[str, Any], y: Array) -> Array:
    """In `u`, from the sweeps themselves, which are symmetric between inner points; the edge gets all that it gave."""
    inner = np.zeros_like(y)
    inner[interior] = y[interior]
    x = y.copy()
    x[interior] = call((inner,), kwargs)[interior]
    given = call((np.zeros_like(y), 4 * inner), kwargs) / 4
    x[..., 0, 1:-1] += given[..., 1, 1:-1]
    x[..., -1, 1:-1] += given[..., -2, 1:-1]
    x[..., 1:-1, 0] += given[..., 1:-1, 1]
    x[..., 1:-1, -1] += given[..., 1:-1, -2]
    return x


def _sample(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    side = max(1, round(math.sqrt(size)))
    return _grids(rng, dtype, (side, side), 50)


def _grids(rng: np.random.Generator, dtype: str, shape: tuple[int, ...], sweeps: int, heat: Any = None) -> Arguments:
    """Random temperatures, and a random source of shape `heat`."""
    u = rng.standard_normal(shape).astype(dtype)
    return (u,) if heat is None else (u, rng.standard_normal(heat).astype(dtype)), {"sweeps": sweeps}


G = np.ones((4, 5))
OPERATION = Kernel(
    name="iterative",
    summary="Jacobi sweeps of a two-dimensional heat problem, batched",
    variants=(
        Variant("numpy", "numpy", lambda: _on_numpy, threads=1, workspace=_workspace),
        Variant("scipy/sine", "scipy", _load_sine, threads=1, work=_sine_work, workspace=_sine_workspace),
        numba_variant("numba", build, wrap, workspace=_workspace),
        numba_variant("numba/parallel", build_parallel, wrap_parallel, workspace=_workspace),
        *torch_variants("torch", load_torch, workspace=_workspace),
        Variant("torch/1-thread", "torch", load_torch, threads=1, gradients=True, workspace=_workspace),
        *jax_variants("jax", jax_plain, jax_traced, traced_static=("sweeps",), workspace=_workspace),
    ),
    portable=Portable(_portable, static=("sweeps",), workspace=_workspace),
    work=_work,
    bytes=_bytes,
    reference=_reference,
    tolerances={"float32": 5e-6, "float64": 1e-14},
    sample=_sample,
    cases={
        "source": lambda rng, dtype: _grids(rng, dtype, (17, 12), 40, (17, 12)),
        "batched": lambda rng, dtype: _grids(rng, dtype, (2, 3, 9, 8), 21),
        "batched, a source each": lambda rng, dtype: _grids(rng, dtype, (3, 9, 8), 20, (3, 9, 8)),
        "batched, one source": lambda rng, dtype: _grids(rng, dtype, (2, 2, 7, 10), 9, (7, 10)),
        "column order": lambda rng, dtype: (
            (np.asfortranarray(rng.standard_normal((20, 11)).astype(dtype)),),
            {"sweeps": 7},
        ),
        "long rows": lambda rng, dtype: _grids(rng, dtype, (4, BLOCK + 9), 3),
        "one sweep": lambda rng, dtype: _grids(rng, dtype, (9, 14), 1, (9, 14)),
        "no sweep": lambda rng, dtype: _grids(rng, dtype, (9, 14), 0, (9, 14)),
        "one inner point": lambda rng, dtype: _grids(rng, dtype, (3, 3), 5),
        "no inner point": lambda rng, dtype: _grids(rng, dtype, (2, 9), 5, (2, 9)),
        "empty": lambda rng, dtype: _grids(rng, dtype, (0, 4, 4), 5, (4, 4)),
        "empty rows": lambda rng, dtype: _grids(rng, dtype, (4, 0), 5),
        "size one": lambda rng, dtype: _grids(rng, dtype, (1, 1), 5),
    },
    validate=_validate,
    wrong=(
        ((G[0],), {}, ValueError, r"u must have at least 2 axes; got shape \(5,\)"),
        ((G,), {"sweeps": -1}, ValueError, "sweeps must be a whole number of at least 0; got -1"),
        ((G,), {"sweeps": 2.0}, ValueError, "got 2.0"),
        ((G, G.T), {}, ValueError, r"shape of u, or of its last two axes; got shapes \(4, 5\) and \(5, 4\)"),
        ((G, G.astype("float32")), {}, TypeError, "one dtype; got u float64, source float32"),
        ((G.astype(int),), {}, TypeError, "u must have dtype float32 or float64; got int64"),
        ((G.tolist(),), {}, TypeError, "u must be an array; got list"),
    ),
    adjoint=_adjoint,
)
