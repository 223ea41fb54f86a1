"""Variants compiled by Numba, variants that need torch itself, and how arrays are laid out for both."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors.base import Variant

REORDER = {"reassoc", "contract", "nsz"}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_variants(name: str, load: Callable[[], Callable[..., Any]], **fields: Any) -> tuple[Variant, Variant]:
    """The variant `name` of a function that needs torch itself, on the CPU and on the first GPU."""
    return (
        Variant(name, "torch", load, gradients=True, **fields),
        Variant(f"{name}@cuda:0", "torch", load, device="cuda:0", gradients=True, **fields),
    )


def numba_variant(
    name: str,
    build: Callable[[Any], Callable[..., Any]],
    wrap: Callable[[Any], Callable[..., Any]] | None = None,
    *,
    reorder: bool = False,
    fuse: bool = False,
    **fields: Any,
) -> Variant:
    """A variant compiled by Numba on first use, on several threads if `name` ends in "/parallel".

    ``build(span)`` gives the plain function; `span` is `range` or `numba.prange`. Being part of the closure it also
    keeps the two apart in Numba's disk cache, whose key leaves the parallel flag out. ``wrap(compiled)`` may put
    Python around the compiled function. `reorder` allows sums in another order, which vector code needs; NaN and
    infinity keep their meaning. `fuse` allows no more than a product and a sum in one rounding.
    """
    parallel = name.endswith("/parallel")

    def load() -> Callable[..., Any]:
        import numba

        options: dict[str, Any] = {
            "cache": True,
            "nogil": True,
            "parallel": parallel,
            "fastmath": REORDER if reorder else {"contract"} if fuse else False,
        }
        compiled = numba.njit(**options)(build(numba.prange if parallel else range))
        if wrap is None:
            plain: Callable[..., Any] = compiled
            return plain
        wrapped: Any = wrap(compiled)
        wrapped.signatures = compiled.overloads  # live: whoever asks sees what has been compiled by then
        wrapped.targetoptions = compiled.targetoptions
        return wrapped  # type: ignore[no-any-return]

    return Variant(name, "numba", load, **fields)


def in_rows(x: np.ndarray[Any, Any], axes: int = 1) -> np.ndarray[Any, Any]:
    """`x` as a C-contiguous stack: everything but the last `axes` axes flattened; copies only where it must."""
    tail = x.shape[x.ndim - axes :]
    rows = 1
    for length in x.shape[: x.ndim - axes]:  # -1 is ambiguous where an axis is empty
        rows *= length
    return np.ascontiguousarray(x).reshape(rows, *tail)
