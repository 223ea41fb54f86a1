"""What a kernel's result must be, whichever backend made it; shared by the suites that run all kernels somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pointsman.executors.base import Variant
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.kernels.base import Arguments, Kernel
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations


def kernels() -> dict[str, Kernel]:
    """The built-in kernels by name, with the variants that the registered backends give them now."""
    return {name: operations.find(name) for name in KERNELS}  # type: ignore[misc]


def variants(kernel: Kernel, backend: str) -> list[Variant]:
    """Those of one backend."""
    return [variant for variant in kernel.variants if variant.backend == backend]


def inputs(kernel: Kernel, dtype: str, sizes: tuple[int, ...]) -> Iterator[Arguments]:
    """Samples of these sizes, then every named case."""
    for size in sizes:
        yield kernel.sample(np.random.default_rng(size), size, dtype)
    for case in kernel.cases.values():
        yield case(np.random.default_rng(3), dtype)


def parts(result: Any) -> tuple[Any, ...]:
    """The arrays of a result: itself, or those of a tuple."""
    return result if isinstance(result, tuple) else (result,)


def suits(variant: Variant, dtype: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the variant declares that it takes these NumPy arguments."""
    if variant.dtypes is not None and dtype not in variant.dtypes:
        return False
    return variant.supports is None or variant.supports(tuple(np.shape(a) for a in args), kwargs) is None


def assert_agrees(kernel: Kernel, variant: Variant, dtype: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Value within tolerance, shape, dtype, NumPy's types, and inputs as they were; for NumPy arguments."""
    named = {name: kind_of(value) for name, value in kwargs.items()}
    call = prepare(variant, tuple(kind_of(a) for a in args), named).call
    before = [np.array(a) for a in args]
    found, expected = call(*args, **kwargs), kernel.reference(*args, **kwargs)
    what = f"{kernel.name} {variant.name} {dtype} {[np.shape(a) for a in args]} {kwargs}"
    for a, b in zip(args, before, strict=True):
        assert np.array_equal(a, b, equal_nan=True), f"{what}: an input was changed"
    for got, right in zip(parts(found), parts(expected), strict=True):
        assert got.dtype == kernel.result_dtype(dtype), what
        assert got.shape == np.shape(right), what
        assert isinstance(got, np.ndarray if got.ndim else np.generic), what
        assert not got.ndim or got.flags.writeable, what
        if np.size(right):
            bound = variant.accuracy.get(dtype, kernel.tolerances[dtype]) * np.max(np.abs(right))
            assert np.max(np.abs(got - right)) <= bound, what
