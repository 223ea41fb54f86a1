"""The contract of a kernel: an operation with a float64 reference, tolerances and inputs to test it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..selector.operations import Operation

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Kernel(Operation):
    """An operation that pointsman implements itself.

    Attributes
    ----------
    summary : one line for listings.
    reference : float64 (complex128) NumPy implementation, the most accurate one, not the fastest.
    tolerances : dtype -> largest error of any admitted variant, relative to the largest reference magnitude.
    sample : ``sample(rng, size, dtype) -> (args, kwargs)``: NumPy inputs whose first operand has about `size` elements.
    cases : names -> ``case(rng, dtype) -> (args, kwargs)``: further inputs a user would try (modes, 2-D, odd sizes).
    validate : raises ValueError or TypeError for wrong arguments, the same for every variant; cheap, shapes only.
    nan_policy : what a NaN in the input does, as documented: "propagates" (anywhere it mathematically reaches).
    """

    summary: str
    reference: Callable[..., Any]
    tolerances: Mapping[str, float]
    sample: Callable[[np.random.Generator, int, str], Arguments]
    cases: Mapping[str, Callable[[np.random.Generator, str], Arguments]]
    validate: Callable[..., None]
    nan_policy: str = "propagates"

    def __post_init__(self) -> None:
        """Let Python's own message about a missing or unknown argument name the operation."""
        self.validate.__qualname__ = self.name
