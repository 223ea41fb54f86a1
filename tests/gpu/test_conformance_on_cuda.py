"""Every variant of every kernel on a CUDA device against its contract; the grid derives from the tables."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_agrees, inputs, kernels, parts, suits
from pointsman.executors.conversion import convert, kind_of, residency
from pointsman.executors.prepare import prepare
from pointsman.selector import operations

pytestmark = pytest.mark.gpu

KERNELS = kernels()
GRID = [
    pytest.param(name, variant.name, dtype, id=f"{name}-{variant.name}-{dtype}")
    for name, kernel in KERNELS.items()
    for variant in kernel.variants
    if variant.device.startswith("cuda")
    for dtype in kernel.tolerances
    if variant.dtypes is None or dtype in variant.dtypes
]
SIZES = (10, 1001, 20_000)
by_dtype = pytest.mark.parametrize(("name", "variant", "dtype"), GRID)


def ready(library, name, variant):
    """The kernel and the variant, with the variant's library there."""
    kernel = KERNELS[name]
    found = kernel.variant(variant)
    library(found.backend)
    return kernel, found


@by_dtype
def test_a_variant_agrees_with_its_reference(library, name, variant, dtype):
    kernel, found = ready(library, name, variant)
    ran = 0
    for args, kwargs in inputs(kernel, dtype, SIZES):
        if suits(found, dtype, args, kwargs):
            assert_agrees(kernel, found, dtype, args, kwargs)
            ran += 1
    assert ran


@by_dtype
def test_any_layout_gives_the_same_value_on_the_device(library, name, variant, dtype):
    kernel, found = ready(library, name, variant)
    given = (pair for pair in inputs(kernel, dtype, (1001,)) if suits(found, dtype, *pair) and pair[0][0].ndim)
    (x, *rest), kwargs = next(given)
    strided = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    strided[..., ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for form in (strided[..., ::2], x[..., ::-1].copy()[..., ::-1], frozen, np.asfortranarray(x)):
        assert_agrees(kernel, found, dtype, (form, *rest), kwargs)


@pytest.mark.parametrize(("name", "variant", "dtype"), [cell for cell in GRID if "float" in cell.values[2]])
def test_a_nan_reaches_what_depends_on_it_on_the_device(library, name, variant, dtype):
    kernel, found = ready(library, name, variant)
    given = (pair for pair in inputs(kernel, dtype, (1001,)) if suits(found, dtype, *pair) and pair[0][0].size > 1)
    args, kwargs = next(given)
    args[0].reshape(-1)[args[0].size // 2] = np.nan
    named = {key: kind_of(value) for key, value in kwargs.items()}
    result = prepare(found, tuple(map(kind_of, args)), named).call(*args, **kwargs)
    with np.errstate(invalid="ignore"):
        expected = kernel.reference(*args, **kwargs)
    for got, right in zip(parts(result), parts(expected), strict=True):
        assert np.isnan(got)[np.isnan(right)].all()


@by_dtype
def test_a_resident_call_leaves_its_result_on_the_device(library, name, variant, dtype):
    kernel, found = ready(library, name, variant)
    backend = library(found.backend)
    if backend.kind == "numpy" or (backend.kind == "jax" and dtype == "float64"):
        pytest.skip(f"arrays of {dtype} are not kept on the device by {backend.name} as this process is set")
    args, kwargs = next(pair for pair in inputs(kernel, dtype, (1001,)) if suits(found, dtype, *pair))
    inside = [convert(a, to=found.backend, device="cuda:0") for a in args]
    named = {key: kind_of(value) for key, value in kwargs.items()}
    call = prepare(found, tuple(map(kind_of, inside)), named, out=backend.kind, out_device="cuda:0").call
    for got, right in zip(parts(call(*inside, **kwargs)), parts(kernel.reference(*args, **kwargs)), strict=True):
        assert residency(got) == f"{backend.kind}@cuda:0"
        bound = found.accuracy.get(dtype, kernel.tolerances[dtype]) * np.max(np.abs(right), initial=0.0)
        assert np.max(np.abs(convert(got, to="numpy") - right), initial=0.0) <= bound


GRADIENTS = [(n, v.name) for n, k in KERNELS.items() for v in k.variants if v.backend == "torch" and v.device != "cpu"]


@pytest.mark.parametrize(("name", "variant"), GRADIENTS)
def test_torch_gradients_on_the_device_are_right(library, name, variant):
    kernel, found = ready(library, name, variant)
    import torch

    args, kwargs = kernel.sample(np.random.default_rng(7), 9, "float64")
    tensors = [torch.tensor(a, device="cuda:0", requires_grad=True) for a in args]
    function = found.load()
    assert torch.autograd.gradcheck(lambda *xs: function(*xs, **kwargs), tensors)


def test_numbas_sums_give_the_same_bits_again(library):
    library("numba")
    x = np.random.default_rng(4).standard_normal(10_000_019).astype("float32")
    for name in ("reduction", "element_wise"):
        call = prepare(operations.find(name).variant("numba@cuda:0"), ("numpy",)).call
        assert np.asarray(call(x)).tobytes() == np.asarray(call(x)).tobytes()
    want = operations.find("reduction").reference(x)
    found = prepare(operations.find("reduction").variant("numba@cuda:0"), ("numpy",)).call(x)
    assert abs(float(found) - want) <= 1e-6 * want
