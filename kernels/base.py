"""The contract of a kernel: an operation with a float64 reference, tolerances and inputs to test it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..selector.operations import Operation

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Mistake = tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]
"""Wrong arguments (args, kwargs), the error that they are, and a regular expression for its message."""


def _same(dtype: str) -> str:
    return dtype


@dataclass(frozen=True, kw_only=True)
class Kernel(Operation):
    """An operation that pointsman implements itself.

    Attributes
    ----------
    summary : one line for listings.
    reference : float64 (complex128) NumPy implementation, the most accurate one, not the fastest.
    tolerances : dtype -> largest error of any admitted variant, relative to the largest reference magnitude.
    sample : ``sample(rng, size, dtype) -> (args, kwargs)``: NumPy inputs whose first operand has about `size` elements.
    stack : like `sample`, with more axes, for variants that do not take the plain one; None where all do.
    cases : names -> ``case(rng, dtype) -> (args, kwargs)``: further inputs a user would try (modes, 2-D, odd sizes).
    validate : raises ValueError or TypeError for wrong arguments, the same for every variant; cheap, shapes only.
    wrong : what `validate` must refuse, and how.
    result_dtype : dtype of the operands -> dtype of the result; the same unless said.
    adjoint : of a linear operation: ``adjoint(call, args, kwargs, y)`` is its adjoint in the first operand applied to
        `y`, made from ``call(args, kwargs)``; None where it is not linear.
    nan_policy : what a NaN in the input does, as documented: "propagates" (anywhere it mathematically reaches).
    """

    summary: str
    reference: Callable[..., Any]
    tolerances: Mapping[str, float]
    sample: Callable[[np.random.Generator, int, str], Arguments]
    cases: Mapping[str, Callable[[np.random.Generator, str], Arguments]]
    validate: Callable[..., None]
    wrong: Sequence[Mistake]
    stack: Callable[[np.random.Generator, int, str], Arguments] | None = None
    result_dtype: Callable[[str], str] = _same
    adjoint: Callable[..., Any] | None = None
    nan_policy: str = "propagates"

    def __post_init__(self) -> None:
        """Let Python's own message about a missing or unknown argument name the operation."""
        self.validate.__qualname__ = self.name
        # What every kernel promises, and the conformance tests hold it to.
        object.__setattr__(self, "variants", tuple(replace(v, reads_only=True) for v in self.variants))
