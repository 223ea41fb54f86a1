"""What bringing arrays to a variant and its result back costs: models of their own, that hold for every operation.

A conversion or transfer is a cost of bytes between two places, whatever is computed there. It is learned as "convert
numpy to jax", from the split of every attempt that was watched and from chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..executors import registry
from ..executors.base import Variant
from ..executors.prepare import Split
from ..telemetry.outcome import QUIET, Outcome, Site
from . import shipped
from .base import CostModel
from .dtypes import itemsize
from .moves import Load, kind_at, load_of, move_site, own_place
from .request import Request

# Of arrays in host memory, measured on a two-core CPU: seconds a call, and units of 16 bytes a second.
FREE = 1e15
_HOST = {
    ("numpy", "torch"): (5e-7, FREE), ("torch", "numpy"): (6e-7, FREE),
    ("numpy", "jax"): (1.1e-5, 5e8), ("jax", "numpy"): (6e-7, FREE),
    ("torch", "jax"): (2e-5, 5e8), ("jax", "torch"): (2e-5, FREE),
}  # fmt: skip
for (_source, _target), (_call_s, _rate) in _HOST.items():
    shipped.declare(f"convert {_source} to {_target}", _target, _call_s, _rate)


class Carriage:
    """Expected seconds of the conversions around a variant.

    Parameters
    ----------
    costs : predicts single moves.
    """

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs

    def __call__(self, site: Site, backend: str) -> float:
        """Seconds of bringing the operand of `site` from where it lies to `backend`, and as much back; 0.0 at home."""
        home = home_of(site.detail)
        place = own_place(backend, site.variant.partition("@")[2] or "cpu")
        if place == home:
            return 0.0
        load = Load(None, site.dtype, site.size, site.size * itemsize(site.dtype))
        return sum(
            self._costs.predict([move_site(load, source, target)], [kind_at(target)], QUIET)[0].seconds
            for source, target in ((home, place), (place, home))
        )


def home_of(detail: str) -> str:
    """Where the operands lie, as the detail of a site tells."""
    last = detail.rpartition(";")[2]
    return last if last and "=" not in last and registry.of_kind(kind_at(last)) is not None else "numpy"


def moves_of(request: Request, variant: Variant, split: Split, result: Any, when: float) -> Iterator[Outcome]:
    """What one watched attempt tells about moving arrays."""
    home, place = request.residency, own_place(variant.backend, variant.device)
    moved_s = split.convert_s + split.transfer_s
    if place == home or moved_s <= 0.0 or split.import_s > 0.0 or split.compiled:
        return
    elements = sum(int(np.prod(shape)) for shape in request.shapes)
    given = Load(None, request.dtype, elements, elements * request.itemsize)
    for load, source, target, seconds in (
        (given, home, place, moved_s - split.back_s), (load_of((result,), {}), place, home, split.back_s),
    ):  # fmt: skip
        if seconds > 0.0 and load.nbytes:
            yield Outcome(move_site(load, source, target), when, seconds, rule="watched", calls=0)
