"""NumPy: the backend that is always there, and the one whose answers the others must reproduce."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Capabilities, Executor
from .errors import BackendUnavailableError

INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
FLOATS = frozenset({"float32", "float64", "complex64", "complex128"})
EXTENDED = frozenset(np.dtype(kind).name for kind in (np.longdouble, np.clongdouble))  # "float128" with most compilers


class NumpyExecutor(Executor):
    """Runs functions on NumPy arrays as they are; alone in having extended precision, where the platform has it."""

    name = "numpy"
    capabilities = Capabilities(dtypes=INTEGERS | FLOATS | EXTENDED | {"bool", "float16"})

    def probe(self) -> None:
        """Take a scalar product of five numbers."""
        found = float(np.arange(5.0) @ np.arange(5.0))
        if found != 30.0:
            raise BackendUnavailableError(f"the product of 0..4 with itself came out as {found}, not 30.0")

    def namespace(self) -> Any:
        """`array_api_compat.numpy`: NumPy with the array API's names on every supported version."""
        import array_api_compat.numpy as xp

        return xp


EXECUTOR = NumpyExecutor
