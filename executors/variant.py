"""What a backend can do, and what a variant is: the plain data of the contract."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shapes = tuple[tuple[int, ...], ...]
Parameters = Mapping[str, Any]
Cost = Callable[[Shapes, Parameters], float]
"""A declared quantity (work in elementary operations, or bytes) of the operands' shapes and the parameters."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do; the tests hold every entry against reality.

    Attributes
    ----------
    dtypes : names of the NumPy-style dtypes it computes in without narrowing.
    array, map : the facets: computes on arrays; maps a worker over items.
    gradients : it differentiates what it computes.
    devices : kinds of device it can use at all ("cpu", "cuda").
    asynchronous : a call may return before the work is done.
    compiles : when a call compiles: "never", "dtype" (per dtype and layout) or "shape" (per shape as well).
    deterministic : the same call gives the same bits again.
    sets_threads : a variant may name a thread count, set around each call at the cost of less than a microsecond.
    device_bound : a function is written for one kind of device; elsewhere it runs wherever its arrays lie.
    general : it can serve about any operation; a library for one purpose is a candidate only where that is known.
    """

    dtypes: frozenset[str]
    array: bool = True
    map: bool = False
    gradients: bool = False
    devices: tuple[str, ...] = ("cpu",)
    asynchronous: bool = False
    compiles: str = "never"
    deterministic: bool = True
    sets_threads: bool = False
    device_bound: bool = False
    general: bool = True

    @property
    def home(self) -> str:
        """The device that arrays go to where none is named."""
        return "cpu" if "cpu" in self.devices else f"{self.devices[0]}:0"


@dataclass(frozen=True)
class Variant:
    """One way to compute an operation: backend + device + algorithm + threads.

    ``load()`` is called once, on first use; it imports what it needs and returns the function that computes on the
    backend's own arrays (NumPy arrays for numpy, scipy and numba), taking the operation's arguments unchanged.
    """

    name: str  # "numpy", "numpy/fft", "numba/parallel", "torch/1-thread", "torch@cuda:0"
    backend: str
    load: Callable[[], Callable[..., Any]]
    device: str = "cpu"
    threads: int | None = None  # None: whatever the library does by itself
    work: Cost | None = None  # where the algorithm's work differs from the operation's
    workspace: Cost | None = None  # bytes needed beside operands and result
    dtypes: frozenset[str] | None = None  # None: whatever the backend computes in
    gradients: bool = False
    compiles: str | None = None  # None: as the backend does
    accuracy: Mapping[str, float] = field(default_factory=dict)  # dtype -> bound on the error relative to the scale
    supports: Callable[[Shapes, Parameters], str | None] | None = None  # None, or the sentence why not
    module: str = ""  # what `load` imports beyond its library, where that takes long
    module_s: float = 0.0  # seconds of that, typically
    reads_only: bool = False  # its function changes no argument: it may be given copies that are used again

    @property
    def pending_import_s(self) -> float:
        """Seconds of importing its module; 0.0 where it has none, or that is imported already."""
        return 0.0 if self.module in sys.modules else self.module_s
