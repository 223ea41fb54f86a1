"""What the tests of this room share: outcomes to remember, and the file to remember them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pointsman.telemetry.outcome import Outcome, Site


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "history.sqlite"


@pytest.fixture
def outcome() -> Callable[..., Outcome]:
    """Make an outcome: `outcome(seconds, when, operation=..., variant=..., **fields)`."""

    def make(
        seconds: float = 0.01,
        when: float = 1.7e9,
        *,
        operation: str = "fft",
        variant: str = "numpy",
        dtype: str = "float64",
        shape_class: str = "20",
        work: float = 1e6,
        **fields: Any,
    ) -> Outcome:
        return Outcome(Site(operation, variant, dtype, shape_class, "", work, 1000), when, seconds, **fields)

    return make
