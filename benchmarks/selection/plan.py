"""What a recording covers: operations, dtypes, sizes and the few shapes with which size alone misleads."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from pointsman.kernels.base import Arguments, Kernel
from pointsman.kernels.binding import CORES
from pointsman.selector import operations

DTYPES = ("float32", "float64")
SMALLEST, LARGEST = 100, 10_000_000
ODD_SIZES = (1_000, 10_000, 100_000, 1_000_000)
Sample = Callable[[np.random.Generator, int, str], Arguments]


class Form(NamedTuple):
    """A family of inputs of one operation: one shape for each size."""

    name: str  # "" for the plain one
    sample: Sample
    sizes: tuple[int, ...]


class Planned(NamedTuple):
    """One row to be recorded."""

    kernel: Kernel
    dtype: str
    form: Form
    size: int


@dataclass
class Plan:
    """What to record, and how long to take over it.

    Attributes
    ----------
    budget_s : seconds of blocks, in all.
    patience_s : seconds to wait for quiet and to take again what was disturbed, in all.
    longest_s : a call that is expected to take longer is not made; None: a row's even share, a second at most.
    """

    names: Sequence[str]
    context: str = "quiet"
    threads: int = CORES
    sizes: tuple[int, ...] = ()
    budget_s: float = 50.0
    patience_s: float = 30.0
    longest_s: float | None = None
    dtypes: Sequence[str] = DTYPES
    rng: random.Random = field(default_factory=lambda: random.Random(4))

    def rows(self) -> Iterator[Planned]:
        """All rows, the sizes of each form rising: the small ones tell which large ones are out of reach."""
        for name in self.names:
            kernel = operations.find(name)
            assert isinstance(kernel, Kernel)
            for dtype in self.dtypes:
                for form in forms_of(kernel, self.sizes):
                    for size in form.sizes:
                        yield Planned(kernel, dtype, form, size)


def grid(largest: int, per_decade: int = 1) -> tuple[int, ...]:
    """Sizes from 100 to `largest` elements, evenly spaced in the logarithm, to one digit."""
    steps = math.floor(per_decade * math.log10(largest / SMALLEST) + 1e-9) + 1
    exact = (SMALLEST * 10 ** (step / per_decade) for step in range(steps))
    return tuple(dict.fromkeys(int(float(f"{size:.0e}")) for size in exact))


def _rows_of_64(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    return (rng.standard_normal((64, max(1, size // 64))).astype(dtype),), {}


def _tall(rng: np.random.Generator, size: int, dtype: str) -> Arguments:
    tall, square = rng.standard_normal((max(1, size // 16), 16)), rng.standard_normal((16, 16))
    return (tall.astype(dtype), square.astype(dtype)), {}


# Shapes with which size alone misleads, beside the stacks that some kernels know themselves.
ODD: Mapping[str, tuple[str, Sample]] = {"fft": ("64 rows", _rows_of_64), "matmul": ("tall", _tall)}


def forms_of(kernel: Kernel, sizes: tuple[int, ...]) -> list[Form]:
    """The families of inputs to measure a kernel on: the plain one at all sizes, and an odd one, if any, at few."""
    forms = [Form("", kernel.sample, sizes)]
    odd = ODD.get(kernel.name) or (("stacked", kernel.stack) if kernel.stack is not None else None)
    if odd is not None:
        forms.append(Form(*odd, tuple(size for size in sizes if size in ODD_SIZES)))
    return forms
