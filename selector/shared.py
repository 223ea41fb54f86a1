"""The one selector that a process shares, and the forms that use it without naming it."""

from __future__ import annotations

import sys
import threading

from ..telemetry import lifetime
from .selector import IntelligentBackendSelector

_shared: IntelligentBackendSelector | None = None
_shared_lock = threading.Lock()
lifetime.free_in_child(sys.modules[__name__], "_shared_lock")


def default_selector() -> IntelligentBackendSelector:
    """The selector behind `pm.run`, `pm.select_backend` and `@pm.adaptive`: one for the process."""
    global _shared
    if _shared is None:
        with _shared_lock:
            if _shared is None:
                _shared = IntelligentBackendSelector()
    return _shared


def select_backend(
    operation_type: str, data_shape: tuple[int, ...], requires_gradient: bool = False,
    preferred_backend: str | None = None, dtype: str = "float64",
) -> str:  # fmt: skip
    """The backend for an operation on an array of this shape, from the process's shared selector.

    Parameters
    ----------
    operation_type : any name; it is learned under that name.
    data_shape : shape of the (first) operand.
    requires_gradient : whether the result must be differentiable.
    preferred_backend : a hint, passed over where it cannot run.
    dtype : NumPy-style name.

    Returns
    -------
    str
        A `BackendType` for built-in backends.

    Examples
    --------
    >>> import pointsman as pm
    >>> str(pm.select_backend("my_small_sum", (10,)))
    'numpy'
    """
    return default_selector().select(operation_type, data_shape, requires_gradient, preferred_backend, dtype)


select_optimal_backend = select_backend


def flush() -> None:
    """Have everything recorded so far by the shared selector on disk."""
    default_selector().flush()
