"""What a user of `conv` would miss beside right numbers: memory."""

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.selector import operations

KERNEL = operations.find("conv")
HOST = [v for v in KERNEL.variants if v.device == "cpu"]
SHAPES = [((50,), (900,)), ((4, 50), (900,)), ((40, 50), (30, 20))]


@pytest.mark.parametrize("variant", HOST, ids=lambda v: v.name)
@pytest.mark.parametrize("mode", ["same", "full"])
@pytest.mark.parametrize(("n", "m"), SHAPES, ids=str)
def test_a_result_keeps_nothing_larger_alive(variant, n, m, mode):
    if variant.supports is not None and variant.supports((n, m), {}) is not None:
        return
    executor = registry.executor(variant.backend)
    registry.ensure(variant.backend)
    rng = np.random.default_rng(0)
    with executor.scope() or np.errstate():
        x, k = (executor.convert_in(rng.standard_normal(shape)) for shape in (n, m))
        y = variant.load()(x, k, mode=mode)
        assert held(y) <= y.size * 8 if isinstance(y, np.ndarray) else held(y) <= np.prod(y.shape) * 8
        assert not hasattr(y, "is_contiguous") or y.is_contiguous()


def held(y):
    """Bytes of memory that stay taken while `y` lives."""
    if hasattr(y, "untyped_storage"):
        return y.untyped_storage().nbytes()
    while getattr(y, "base", None) is not None:
        y = y.base
    return y.nbytes
