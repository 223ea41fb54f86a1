"""The contract of a backend: what an executor does, and what a variant is."""

# ruff: noqa: ARG002, B027 - a default does nothing with arguments that a member needs

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from ..telemetry.outcome import Failure
from .errors import UnsupportedError

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
    reads_only: bool = False  # its function changes no argument: it may be given copies that are used again


class Executor(ABC):
    """Runs variants on one library. One instance per process; constructing it imports nothing."""

    name: str
    kind: str = "numpy"  # whose arrays it computes on: "numpy", "torch", "jax", "cupy"
    capabilities: Capabilities
    install: str = ""  # what to say beside the extra's name on how to install the library

    def devices(self) -> tuple[str, ...]:
        """Devices usable here and now, found without importing the library."""
        return ("cpu",)

    def unusable(self) -> str | None:
        """None, or the sentence why it is of no use here though its library is installed; never imports that."""
        return None

    @abstractmethod
    def probe(self) -> None:
        """Run something tiny for real and check the number; raise BackendUnavailableError if that fails."""

    def start_s(self, variant: Variant) -> float:
        """Seconds before a first run of `variant` that starting its workers takes; 0.0 where none have to start."""
        return 0.0

    def namespace(self) -> Any:
        """The array-API namespace of its arrays (imports the library); None where functions take NumPy arrays."""
        return None

    def version(self) -> str:
        """Version of the library, without importing it; "" where nothing tells it."""
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return ""

    def refuses(self, dtype: str, resident: bool = False) -> str | None:
        """None, or the sentence why arrays of `dtype` are not computed here.

        `resident`: the arrays are this library's own and stay so; otherwise they are converted in and out.
        """
        if dtype in self.capabilities.dtypes:
            return None
        return f"{self.name} does not compute in {dtype}; it does in: {', '.join(sorted(self.capabilities.dtypes))}"

    def is_asynchronous(self, device: str) -> bool:
        """Whether a call on `device` may return before the work is done."""
        return self.capabilities.asynchronous

    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this executor's kind. Never imports the library."""
        return isinstance(x, np.ndarray)

    def holds(self, x: object) -> bool:
        """Whether `x` is an array in a form of its own, of no kind, that its functions take and give on a device."""
        return False

    def convert_in(self, x: Any, device: str = "cpu") -> Any:
        """Give `x` (a NumPy array or another library's array) as an array of this kind on `device`, never narrowed."""
        if isinstance(x, np.ndarray):
            return x
        from .conversion import across

        return across(x, self, device)

    def convert_out(self, y: Any) -> np.ndarray[Any, Any]:
        """Give `y` as a writable NumPy array of the same dtype."""
        return np.asarray(y)

    def astype(self, x: Any, dtype: str) -> Any:
        """Give `x`, an array of this kind, in the dtype of that name; UnsupportedError where the library lacks it."""
        try:
            wanted = np.dtype(dtype)
        except TypeError:
            wanted = None
        # jax's dependency ml_dtypes adds bfloat16 to NumPy: what may be asked for must not hang on what is imported.
        if wanted is None or wanted.isbuiltin != 1:
            raise UnsupportedError(f"NumPy has no dtype {dtype!r}; ask for float32 or another NumPy dtype")
        return x.astype(wanted, copy=False)

    def converter(self, function: Callable[..., Any], device: str) -> Callable[[Any], Any]:
        """The cheapest safe way to make an array argument of `function`, in a call that waits for its result."""
        return self.convert_in if device == "cpu" else lambda x: self.convert_in(x, device)

    def scope(self) -> AbstractContextManager[Any] | None:
        """What a whole host-in, host-out call (convert in, run, convert out) must happen inside; None for nothing."""
        return None

    def synchronize(self, y: Any) -> None:
        """Wait until `y` has been computed; nothing to do where calls are synchronous."""

    def adopt(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What runs a plain function of this backend's own arrays: compiled only where it could not run otherwise."""
        return function

    def compile(self, function: Callable[..., Any], static: Sequence[str] = ()) -> Callable[..., Any]:
        """Compile a function of nothing but its arguments where that helps; `static` names those that are no array."""
        return self.adopt(function)

    def prepare(self, function: Callable[..., Any], variant: Variant) -> Callable[..., Any]:
        """Wrap a loaded function in what the library needs around each call (thread count)."""
        return function

    def signatures(self, function: Callable[..., Any]) -> int | None:
        """How many signatures of `function` are compiled; None where the library does not compile or cannot say."""
        return None

    def classify(self, error: BaseException) -> Failure | None:
        """The failure an exception stands for; None: it is the caller's own and comes out unchanged."""
        return Failure.OUT_OF_MEMORY if isinstance(error, MemoryError) else None

    def free_caches(self) -> None:
        """Give cached memory back to the device or the system."""

    def reusable_bytes(self, device: str) -> int:
        """Bytes of `device` that this process's own pool holds and would use again; never starts a device."""
        return 0
