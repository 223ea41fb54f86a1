"""Time for tests: it passes only when told."""

from __future__ import annotations


class Clock:
    """Unix seconds that pass only when told."""

    def __init__(self, now: float = 1.7e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
