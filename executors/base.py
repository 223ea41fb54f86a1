"""The contract of a backend: what an executor does. What a variant is stands in `variant`, and may be had from here."""

# ruff: noqa: ARG002, B027 - a default does nothing with arguments that a member needs

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any

import numpy as np

from ..telemetry.outcome import Failure
from .errors import UnsupportedError
from .variant import Capabilities, Cost, Parameters, Shapes, Variant

__all__ = ["Capabilities", "Cost", "Executor", "Parameters", "Shapes", "Variant"]


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

    def after_fork(self) -> str | None:
        """Called in a forked child, for a backend in use: None, or the sentence why it is of no use there.

        A library's threads do not exist in the child, and what waits for them waits for ever.
        """
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
