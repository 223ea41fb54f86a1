"""`array-api-strict` as a user's own backend: it has the standard and nothing else, which keeps the kernels to it.

It also shows that a backend which somebody registers gets every kernel that has a portable implementation.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from agreement import assert_agrees, inputs, kernels, suits
from pointsman.executors import registry
from pointsman.executors.base import Capabilities, Executor
from pointsman.executors.on_numpy import FLOATS, INTEGERS
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.selector.selector import IntelligentBackendSelector

PORTABLE = [name for name in KERNELS if operations.find(name).portable is not None]
SIZES = (10, 1001)


class Strict(Executor):
    """The array API standard and nothing else."""

    name = "strict"
    kind = "strict"
    library = "array_api_strict"
    capabilities = Capabilities(dtypes=INTEGERS | FLOATS | {"bool"})

    def probe(self):
        xp = self.namespace()
        assert float(xp.sum(xp.arange(5.0))) == 10.0

    def namespace(self):
        return importlib.import_module("array_api_strict")

    def owns(self, x):
        return type(x).__module__.startswith("array_api_strict")

    def convert_in(self, x, device="cpu"):
        if isinstance(x, np.ndarray):
            return self.namespace().asarray(np.array(x, x.dtype.newbyteorder("=")))
        return x if self.owns(x) else super().convert_in(x, device)

    def convert_out(self, y):
        return np.array(y)

    def astype(self, x, dtype):
        return self.namespace().astype(x, getattr(self.namespace(), dtype))


@pytest.fixture(autouse=True)
def _strict():
    registry.register_backend("strict", Strict)
    yield
    registry.unregister_backend("strict")


def variant_of(kernel):
    portable = kernel.portable
    return kernel.variant(f"strict/{portable.algorithm}" if portable.algorithm else "strict")


GRID = [(name, dtype) for name in PORTABLE for dtype in operations.find(name).tolerances]


@pytest.mark.parametrize(("name", "dtype"), GRID)
def test_a_portable_kernel_keeps_to_the_standard(name, dtype):
    kernel = kernels()[name]
    variant, ran = variant_of(kernel), 0
    for args, kwargs in inputs(kernel, dtype, SIZES):
        if suits(variant, dtype, args, kwargs):
            assert_agrees(kernel, variant, dtype, args, kwargs)
            ran += 1
    assert ran or dtype not in (variant.dtypes or kernel.tolerances)


def test_most_kernels_are_portable():
    assert len(PORTABLE) >= len(KERNELS) - 3


@pytest.mark.parametrize("name", PORTABLE)
def test_arrays_of_the_users_kind_stay_of_that_kind(name):
    kernel, strict = kernels()[name], registry.ensure("strict")[0]
    args, kwargs = kernel.sample(np.random.default_rng(1), 100, "float64")
    inside = [strict.convert_in(a) if isinstance(a, np.ndarray) else a for a in args]
    found = IntelligentBackendSelector(history=":memory:").run(name, *inside, **kwargs)
    assert all(strict.owns(part) for part in (found if isinstance(found, tuple) else (found,)))


def test_the_variants_go_with_the_backend():
    registry.unregister_backend("strict")
    try:
        assert not [v.name for kernel in kernels().values() for v in kernel.variants if v.backend == "strict"]
    finally:
        registry.register_backend("strict", Strict)
