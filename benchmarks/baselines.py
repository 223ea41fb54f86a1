"""A size-blind selector, rebuilt from the published rules of an earlier one: what ours is held against.

Averages per (backend, operation), whatever the size; then thresholds on the number of elements. It is the least that a
selector which learns can do; only its cost is of interest here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Work:
    """What the size-blind rule looks at."""

    operation: str
    size: int
    requires_gradient: bool = False


class SizeBlindRule:
    """Lowest mean seconds among backends with enough runs; else fixed thresholds."""

    def __init__(self, available: Sequence[str], least_runs: int = 5) -> None:
        self.available = tuple(available)
        self.least_runs = least_runs
        self._runs: dict[tuple[str, str], dict[str, float]] = {}

    def record(self, backend: str, operation: str, seconds: float, success: bool = True) -> None:
        """Add one run to the cumulative mean of (backend, operation)."""
        seen = self._runs.setdefault((backend, operation), {"count": 0, "failures": 0, "total": 0.0, "mean": 0.0})
        seen["count"] += 1
        if success:
            seen["total"] += seconds
            seen["mean"] = seen["total"] / (seen["count"] - seen["failures"])
        else:
            seen["failures"] += 1

    def select(self, work: Work, preferred: str | None = None) -> str:
        """Preferred, else learned, else the thresholds."""
        if preferred is not None and preferred in self.available:
            return preferred
        return self._learned(work.operation) or self._by_threshold(work)

    def _learned(self, operation: str) -> str | None:
        best, lowest = None, float("inf")
        for backend in self.available:
            seen = self._runs.get((backend, operation))
            if seen is None or seen["count"] < self.least_runs:
                continue
            rate = seen["failures"] / seen["count"]
            score = seen["mean"] * (1.0 + rate)
            if rate <= 0.5 and score < lowest:
                best, lowest = backend, score
        return best

    def _by_threshold(self, work: Work) -> str:
        if work.size < 1000 or (work.size < 10_000 and work.operation in ("element_wise", "simple_ops")):
            return "numba"
        if work.requires_gradient:
            return "torch"
        if work.operation in ("fft", "matmul", "derivative"):
            return "jax"
        return next(name for name in ("torch", "jax", "numba") if name in self.available)
