"""How far every variant of every kernel is from its float64 reference, on this machine: the agreement grid.

Rows are the product of the tables: kernel x variant x dtype of the kernel's contract. Each is measured on the kernel's
own inputs, NumPy arrays in and out, or it is a hole that says why. The conformance tests take the inputs and the
measure of error from here, so that there is one meaning of "agrees".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..executors import registry
from ..executors.base import Variant
from ..executors.conversion import kind_of
from ..executors.errors import BackendUnavailableError
from ..executors.prepare import Prepared, prepare
from ..selector import operations as known
from ..selector.verify import error as error
from ..telemetry import hardware
from .base import Kernel

SIZES = (10, 1001, 20_000)
"""Elements of the samples: short, odd, and longer than any block or leaf that a variant works in."""

_SEED_OF_CASES = 3


@dataclass(frozen=True)
class Given:
    """One input of a kernel's contract, and what the reference makes of it."""

    label: str  # "20000 elements", or the case's name
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: Any

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the operands, as declared costs and `supports` take them."""
        return shapes(self.args, self.kwargs)


@dataclass(frozen=True)
class Row:
    """One variant in one dtype.

    Attributes
    ----------
    tolerance : the error that is promised, relative to the largest reference magnitude.
    error : the largest one found, relative likewise; None where nothing could be run.
    worst : the input that gave it.
    inputs : how many inputs were run.
    hole : why nothing was run; "" if something was.
    failure : what a variant raised that should have run; "" if nothing.
    """

    kernel: str
    variant: str
    dtype: str
    tolerance: float
    error: float | None = None
    worst: str = ""
    inputs: int = 0
    hole: str = ""
    failure: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the promise is kept; None for a hole."""
        if self.hole:
            return None
        return not self.failure and self.error is not None and self.error <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite error, which JSON lacks, is None: `agrees` is false then."""
        finite = self.error is not None and np.isfinite(self.error)
        return {**asdict(self), "error": self.error if finite else None, "agrees": self.agrees}


def agreement(operations: Sequence[str] | None = None, dtypes: Sequence[str] | None = None) -> list[Row]:
    """Measure every variant against its kernel's reference, here and now.

    Imports the backends that are installed and compiles what has to be compiled: a minute or two in all. Nothing is
    recorded in the history.

    Parameters
    ----------
    operations : names of kernels; None: all there are, registered ones after the built-in ones.
    dtypes : names of the dtypes to measure; None: all of each contract.

    Returns
    -------
    list of Row
        In the order of the tables: kernels, their dtypes, their variants in canonical order.

    Raises
    ------
    ValueError : no kernel has one of the names, or the contract of none has one of the dtypes.
    """
    kernels = [_kernel(name) for name in (operations if operations is not None else names())]
    possible = dict.fromkeys(dtype for kernel in kernels for dtype in kernel.tolerances)
    for dtype in dtypes or ():
        if dtype not in possible:
            raise ValueError(f"no contract has dtype {dtype!r}; there are: {', '.join(possible)}")
    return [
        row
        for kernel in kernels
        for dtype in kernel.tolerances
        if dtypes is None or dtype in dtypes
        for row in _measured(kernel, dtype)
    ]


def names() -> list[str]:
    """Names of the operations that have a reference to agree with."""
    return [name for name in known.names() if isinstance(known.find(name), Kernel)]


def inputs(kernel: Kernel, dtype: str) -> Iterator[Given]:
    """Samples of each size, one with more axes where there is one, then every named case; the same each time."""
    for size in SIZES:
        args, kwargs = kernel.sample(np.random.default_rng(size), size, dtype)
        yield Given(f"{size} elements", args, kwargs, kernel.reference(*args, **kwargs))
    if kernel.stack is not None:
        args, kwargs = kernel.stack(np.random.default_rng(SIZES[-1]), SIZES[-1], dtype)
        yield Given(f"{SIZES[-1]} elements, stacked", args, kwargs, kernel.reference(*args, **kwargs))
    for label, case in kernel.cases.items():
        args, kwargs = case(np.random.default_rng(_SEED_OF_CASES), dtype)
        yield Given(label, args, kwargs, kernel.reference(*args, **kwargs))


def shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the operands, positional ones first: what declared costs and `supports` take."""
    return tuple(tuple(np.shape(a)) for a in (*args, *kwargs.values()) if kind_of(a) is not None)


def tolerance(kernel: Kernel, variant: Variant, dtype: str) -> float:
    """The error that `variant` promises: its own bound where it has one, else the kernel's."""
    return variant.accuracy.get(dtype, kernel.tolerances[dtype])


def _kernel(name: str) -> Kernel:
    found = known.find(name)
    if not isinstance(found, Kernel):
        raise ValueError(f"no kernel is called {name!r}; there are: {', '.join(names())}")
    return found


def _measured(kernel: Kernel, dtype: str) -> list[Row]:
    given = list(inputs(kernel, dtype))
    return [_row(kernel, variant, dtype, given) for variant in kernel.variants]


def _row(kernel: Kernel, variant: Variant, dtype: str, given: Sequence[Given]) -> Row:
    bound = tolerance(kernel, variant, dtype)
    about = (kernel.name, variant.name, dtype, bound)
    reason = why_hole(variant, dtype)
    if reason is not None:
        return Row(*about, hole=reason)
    refusals = {one.label: variant.supports(one.shapes, one.kwargs) if variant.supports else None for one in given}
    fitting = [one for one in given if refusals[one.label] is None]
    if not fitting:
        return Row(*about, hole=f"it takes none of the contract's inputs: {next(iter(refusals.values()))}")
    worst, label = -1.0, ""
    made: dict[Any, Prepared] = {}
    for one in fitting:
        try:
            off = error(_call(variant, one, made), one.expected)
        except BackendUnavailableError as trouble:
            return Row(*about, hole=str(trouble))
        except Exception as trouble:  # whatever a variant raises here is a finding, and no reason to stop
            return Row(*about, worst=one.label, failure=f"{type(trouble).__name__}: {trouble}")
        if off > worst:
            worst, label = off, one.label
    return Row(*about, worst, label, len(fitting))


def _call(variant: Variant, one: Given, made: dict[Any, Prepared]) -> Any:
    kinds = tuple(kind_of(a) for a in one.args)
    named = tuple((name, kind_of(value)) for name, value in one.kwargs.items())
    if (kinds, named) not in made:
        made[kinds, named] = prepare(variant, kinds, dict(named))
    return made[kinds, named].call(*one.args, **one.kwargs)


def why_hole(variant: Variant, dtype: str) -> str | None:
    """None if `variant` can be measured in `dtype` here, else the sentence why not."""
    # The device first: without one it does not matter which GPU libraries happen to be installed.
    kind = variant.device.partition(":")[0]
    if kind == "cuda" and not hardware.gpus():
        return "no CUDA device where this was measured"
    missing = registry.available(variant.backend)
    if missing is not None:
        return missing
    executor = registry.executor(variant.backend)
    if variant.device not in executor.devices():
        return f"{variant.backend} as installed here cannot use {variant.device}"
    if variant.dtypes is not None and dtype not in variant.dtypes:
        return f"not one of its dtypes: {', '.join(sorted(variant.dtypes))}"
    return executor.refuses(dtype)
