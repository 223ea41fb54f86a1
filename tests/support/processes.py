"""Processes that tests have started, which may end at any moment."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def alive(numbers: Iterable[int]) -> list[psutil.Process]:
    """Those of the processes that are still there."""
    found = []
    for number in numbers:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(number))
    return found
