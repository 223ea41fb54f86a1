"""Numba: compiled loops over NumPy arrays, compiled once per combination of dtypes and layouts."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..telemetry.outcome import Failure
from .base import Capabilities, Executor, Variant
from .errors import BackendUnavailableError
from .on_numpy import FLOATS, INTEGERS


def _check(x: Any) -> float:
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total


class NumbaExecutor(Executor):
    """Runs dispatchers made by `numba.njit`. float16 is left out: Numba has it on GPUs only."""

    name = "numba"
    capabilities = Capabilities(dtypes=INTEGERS | FLOATS | {"bool"}, compiles="dtype", sets_threads=True)

    def probe(self) -> None:
        """Compile a loop and sum five numbers."""
        import numba

        found = numba.njit(_check)(np.arange(5.0))
        if found != 10.0:
            raise BackendUnavailableError(f"the compiled sum of 0..4 came out as {found}, not 10.0")

    def adopt(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a plain function; one that is compiled already is taken as it is."""
        import numba

        if hasattr(function, "signatures"):
            return function
        compiled: Callable[..., Any] = numba.njit(nogil=True)(function)
        return compiled

    def prepare(self, function: Callable[..., Any], variant: Variant) -> Callable[..., Any]:
        """Run with `variant.threads` threads: Numba masks its pool per calling thread, so nothing else notices."""
        threads = variant.threads
        if threads is None:
            return function
        import numba

        most = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]

        @functools.wraps(function)
        def with_threads(*args: Any, **kwargs: Any) -> Any:
            before = numba.get_num_threads()
            numba.set_num_threads(min(threads, most))
            try:
                return function(*args, **kwargs)
            finally:
                numba.set_num_threads(before)

        return with_threads

    def signatures(self, function: Callable[..., Any]) -> int | None:
        """How many signatures the dispatcher behind `function` has compiled."""
        signatures = getattr(innermost(function, "signatures"), "signatures", None)
        return None if signatures is None else len(signatures)

    def classify(self, error: BaseException) -> Failure | None:
        """What Numba cannot compile is unsupported; what compiled code raises is the caller's."""
        errors = sys.modules.get("numba.core.errors")
        if errors is not None and isinstance(error, errors.NumbaError):
            return Failure.UNSUPPORTED
        return super().classify(error)


def innermost(function: Any, attribute: str) -> Any:
    """The callable inside partials and `functools.wraps` layers that has `attribute`, or the last one reached."""
    while not hasattr(function, attribute):
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    return function


EXECUTOR = NumbaExecutor
