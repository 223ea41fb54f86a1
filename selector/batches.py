"""Choosing where batches of a vectorised worker run: its seconds on NumPy, as a request that the engine understands.

The work of a run is the nanoseconds that its simulations would take on NumPy. So a curve over work is what a library
costs to begin with and how much faster it is then, learned like any other; until then stands what is declared here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..executors import registry
from ..executors.base import Variant
from ..executors.on_gpu import OPENCL, GpuExecutor
from ..executors.opencl import why_not
from ..telemetry.outcome import Site
from ..telemetry.show import seconds
from . import operations, shipped
from .operations import Operation, meant
from .request import Request
from .signature import shape_class

FAMILY = "batch"
DTYPE = "int64"
BACKEND = "gpu"
HOST_RATE, GPU_RATE = 1e9, 2e10
"""Nanoseconds of NumPy a second: what a library is taken to do on the host, where its own threads may gain something,
and on a GPU, until it was measured."""
HOST_S, GPU_S = 1e-3, 1e-2
"""What a run of batches costs beside, likewise."""


@dataclass(frozen=True, slots=True)
class BatchRequest(Request):
    """A run of so many simulations of a vectorised worker, of which one takes `item_s` on NumPy."""

    simulations: int = 0
    item_s: float = 0.0
    own: Operation | None = None

    def known_operation(self) -> Operation | None:
        """The worker's operation."""
        return self.own

    def work_of(self, variant: Variant) -> float:  # noqa: ARG002 (the same for all)
        """Nanoseconds on NumPy."""
        return max(self.simulations * self.item_s * 1e9, 1.0)

    def bytes_of(self, variant: Variant) -> int:  # noqa: ARG002
        """None: batches are made as small as memory wants them."""
        return 0

    def site(self, variant: Variant) -> Site:
        """Where outcomes of `variant` are recorded."""
        work = self.work_of(variant)
        return Site(self.operation, variant.name, DTYPE, self.shape_class, self.detail, work, self.simulations)

    def describe(self) -> str:
        """The request in one line."""
        return f"{self.operation}: {self.simulations} simulations of {seconds(self.item_s)} in batches"


def request(name: str, simulations: int, item_s: float, *, opencl: bool = False, require: str | None) -> BatchRequest:
    """The request for a run; `require` is a library or a variant, None: any. `opencl`: the worker is in OpenCL C."""
    variants = tuple(_variants(opencl))
    for variant in variants:
        shipped.declare(FAMILY, variant.name, HOST_S, HOST_RATE)
    for method in methods(opencl):
        shipped.declare(FAMILY, f"{BACKEND}/{method}@cuda:0", GPU_S, GPU_RATE)
    own = Operation(name=name, variants=variants)
    if operations.find(name) is None:  # so that a summary knows its default
        operations.register_operation(own)
    shapes = ((max(1, simulations), max(1, round(item_s * 1e9))),)
    return BatchRequest(
        name, shapes, DTYPE, {}, require=require, shape_class=shape_class(shapes), simulations=simulations,
        item_s=item_s, own=own,
    )  # fmt: skip


def part(whole: BatchRequest, simulations: int) -> BatchRequest:
    """The request for so many of its simulations."""
    shapes = ((max(1, simulations), whole.shapes[0][1]),)
    return replace(whole, simulations=simulations, shapes=shapes, shape_class=shape_class(shapes))


def methods(opencl: bool) -> list[str]:
    """What runs such a worker, in canonical order."""
    executor = registry.executor(BACKEND)
    assert isinstance(executor, GpuExecutor)
    return [OPENCL] if opencl else executor.libraries()


def required(backend: str, opencl: bool) -> str | None:
    """What the engine must keep to for "auto", "gpu", "gpu/torch" or "gpu/torch@cuda:0"; a ValueError lists the names.

    A library stands for itself wherever it can run, on a GPU where there is one.
    """
    root, _, method = backend.partition("/")
    if root not in ("auto", BACKEND) or (root == "auto" and method):
        valid = ", ".join(["auto", BACKEND, *(f"{BACKEND}/{name}" for name in methods(opencl))])
        raise ValueError(f"no vectorised worker runs on {backend!r}; it does on: {valid}")
    if not method:
        return None
    library, _, device = method.partition("@")
    if library not in methods(opencl):
        valid = ", ".join(f"{BACKEND}/{name}" for name in methods(opencl))
        what = "an OpenCLWorker" if opencl else "a vectorised worker"
        raise ValueError(f"{what} does not run on {backend!r}{meant(library, methods(opencl))}; it does on: {valid}")
    if library == OPENCL:
        return None
    return library if not device else f"{BACKEND}/{library}" + (f"@{device}" if device != "cpu" else "")


def library_of(variant: Variant) -> str:
    """The method of the executor that a variant stands for."""
    return variant.name.partition("/")[2].partition("@")[0]


def _variants(opencl: bool) -> list[Variant]:
    if opencl:
        return [Variant(f"{BACKEND}/{OPENCL}", BACKEND, _no_function, compiles="never", supports=_opencl())]
    found = []
    for name in methods(opencl):
        device = registry.executor(name).capabilities.home
        at = "" if device == "cpu" else f"@{device}"
        # What a library compiles it compiles for a batch, and that is in the time of the run.
        found.append(Variant(f"{BACKEND}/{name}{at}", name, _no_function, device=device, compiles="never"))
    return found


def _opencl() -> Callable[..., str | None]:
    why = why_not()
    return lambda *_: why


def _no_function() -> Any:
    raise TypeError("batches have no function of arrays; run them by pointsman.run_monte_carlo")
