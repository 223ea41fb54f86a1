"""Every variant of every kernel against its contract; the grid derives from the tables.

GPU variants have their own named list in tests/gpu. Errors are relative to the largest reference magnitude.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.kernels import agreement
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations

OPERATIONS = {name: operations.find(name) for name in KERNELS}
PAIRS = [(name, v.name) for name, k in OPERATIONS.items() for v in k.variants if v.device == "cpu"]

kernels = pytest.mark.parametrize("name", list(KERNELS))
pairs = pytest.mark.parametrize(("name", "variant"), PAIRS, ids=lambda part: part)


def by_dtype(only=None):
    """Parametrize over kernels x variants x dtypes that the variant computes in."""
    grid = [
        pytest.param(name, variant, dtype, id=f"{name}-{variant}-{dtype}")
        for name, variant in PAIRS
        for dtype in OPERATIONS[name].tolerances
        if dtype in (OPERATIONS[name].variant(variant).dtypes or OPERATIONS[name].tolerances)
        and (only is None or dtype in only)
    ]
    return pytest.mark.parametrize(("name", "variant", "dtype"), grid)


@functools.cache
def prepared(name, variant, kinds, names):
    return prepare(OPERATIONS[name].variant(variant), kinds, dict(names))


def call(name, variant, args, kwargs):
    named = tuple((parameter, kind_of(value)) for parameter, value in kwargs.items())
    return prepared(name, variant, tuple(kind_of(a) for a in args), named).call(*args, **kwargs)


@functools.cache
def sampled(name, size, dtype):
    args, kwargs = OPERATIONS[name].sample(np.random.default_rng(size), size, dtype)
    return args, kwargs, OPERATIONS[name].reference(*args, **kwargs)


def supported(name, variant, args, kwargs):
    supports = OPERATIONS[name].variant(variant).supports
    return supports is None or supports(agreement.shapes(args, kwargs), kwargs) is None


def suitable(name, variant, size, dtype):
    """A sample; one with more axes for variants that need them."""
    kernel = OPERATIONS[name]
    args, kwargs = kernel.sample(np.random.default_rng(size), size, dtype)
    if not supported(name, variant, args, kwargs):
        args, kwargs = kernel.stack(np.random.default_rng(size), size, dtype)
    return args, kwargs


def parts(result):
    """The arrays of a result: itself, or those of a tuple."""
    return result if isinstance(result, tuple) else (result,)


def assert_agrees(name, variant, dtype, args, kwargs, expected):
    """Value, shape, dtype, a fresh writable result, and inputs as they were."""
    kernel = OPERATIONS[name]
    kernel.validate(*args, **kwargs)
    given = [*args, *(value for value in kwargs.values() if kind_of(value) is not None)]
    before = [a.copy() for a in given]
    result = call(name, variant, args, kwargs)
    what = f"{name} {variant} {dtype} {[a.shape for a in args]} {kwargs}"
    for a, b in zip(given, before, strict=True):
        assert np.array_equal(a, b, equal_nan=True), f"{what}: an input was changed"
    assert type(result) is tuple or not isinstance(expected, tuple), what
    for found, right in zip(parts(result), parts(expected), strict=True):
        assert found.dtype == kernel.result_dtype(dtype), what
        assert found.shape == np.shape(right), what
        if found.ndim:
            assert type(found) is np.ndarray, what
            assert found.flags.writeable, what
            assert not any(np.shares_memory(found, a) for a in given), what
        else:
            assert isinstance(found, np.generic), what
        assert agreement.error(found, right) <= agreement.tolerance(kernel, kernel.variant(variant), dtype), what


@by_dtype()
def test_agrees_with_the_reference(name, variant, dtype):
    for size in agreement.SIZES:
        args, kwargs, expected = sampled(name, size, dtype)
        if supported(name, variant, args, kwargs):
            assert_agrees(name, variant, dtype, args, kwargs, expected)


@by_dtype()
def test_agrees_on_every_named_case(name, variant, dtype):
    kernel = OPERATIONS[name]
    for case in kernel.cases.values():
        args, kwargs = case(np.random.default_rng(3), dtype)
        if supported(name, variant, args, kwargs):
            assert_agrees(name, variant, dtype, args, kwargs, kernel.reference(*args, **kwargs))


@kernels
def test_every_variant_supports_some_input_of_the_contract(name):
    kernel = OPERATIONS[name]
    inputs = [kernel.sample(np.random.default_rng(0), 100, "float64")]
    inputs += [case(np.random.default_rng(0), "float64") for case in kernel.cases.values()]
    for variant in kernel.variants:
        assert any(supported(name, variant.name, *given) for given in inputs), variant.name


@by_dtype(only=["float64"])
def test_any_layout_gives_the_same_value(name, variant, dtype):
    (x, *rest), kwargs = suitable(name, variant, 1001, dtype)
    expected = OPERATIONS[name].reference(x, *rest, **kwargs)
    strided = np.zeros((*x.shape[:-1], 2 * x.shape[-1]))
    strided[..., ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    for given in (strided[..., ::2], x[..., ::-1].copy()[..., ::-1], frozen):
        assert_agrees(name, variant, dtype, (given, *rest), kwargs, expected)


@by_dtype(only=["float32"])
def test_a_nan_reaches_at_least_what_depends_on_it(name, variant, dtype):
    args, kwargs = suitable(name, variant, 1001, dtype)
    args[0].reshape(-1)[args[0].size // 2] = np.nan
    with np.errstate(invalid="ignore"):
        expected = OPERATIONS[name].reference(*args, **kwargs)
        found = call(name, variant, args, kwargs)
    assert any(np.isnan(right).any() for right in parts(expected))
    for got, right in zip(parts(found), parts(expected), strict=True):
        assert np.isnan(got)[np.isnan(right)].all()


# ------------------------------------------------------------------------------------------------------ laws


LINEAR = [(name, variant) for name, variant in PAIRS if OPERATIONS[name].adjoint is not None]


@pytest.mark.parametrize(("name", "variant"), LINEAR, ids=lambda part: part)
def test_dot_test_and_linearity(name, variant):
    kernel = OPERATIONS[name]
    dtype = kernel.result_dtype("float64")  # a real transform has no adjoint among the transforms; a complex one has
    args, kwargs = suitable(name, variant, 100, dtype)
    rng = np.random.default_rng(6)
    image = call(name, variant, args, kwargs)
    y = rng.standard_normal(image.shape).astype(dtype)
    forth, back = np.vdot(y, image), np.vdot(kernel.adjoint(partial(call, name, variant), args, kwargs, y), args[0])
    assert forth == pytest.approx(back, abs=1e-12 * np.linalg.norm(y) * np.linalg.norm(image))
    other = rng.standard_normal(args[0].shape).astype(dtype)
    mixed = call(name, variant, (2.0 * args[0] - 3.0 * other, *args[1:]), kwargs)
    expected = 2.0 * image - 3.0 * call(name, variant, (other, *args[1:]), kwargs)
    assert mixed == pytest.approx(expected, abs=1e-11 * np.max(np.abs(expected)))


GRADIENTS = [(n, v) for n, v in PAIRS if OPERATIONS[n].variant(v).gradients]


def tiny(name):
    return OPERATIONS[name].sample(np.random.default_rng(7), 9, "float64")


@pytest.mark.parametrize(("name", "variant"), [p for p in GRADIENTS if p[1].startswith("torch")], ids=lambda p: p)
def test_torch_gradients_are_right_in_every_operand(name, variant):
    import torch

    args, kwargs = tiny(name)
    function = OPERATIONS[name].variant(variant).load()
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    assert torch.autograd.gradcheck(lambda *xs: function(*xs, **kwargs), tensors)


@pytest.mark.parametrize(("name", "variant"), [p for p in GRADIENTS if p[1].startswith("jax")], ids=lambda p: p)
def test_jax_gradients_are_right_in_every_operand(name, variant):
    import jax

    args, kwargs = tiny(name)
    function = OPERATIONS[name].variant(variant).load()
    with registry.executor("jax").scope():

        def total(*xs):
            y = function(*xs, **kwargs)
            return (y.real**2 + y.imag**2).sum() if y.dtype.kind == "c" else (y**2).sum()

        found = jax.grad(total, argnums=tuple(range(len(args))))(*(jax.numpy.array(a) for a in args))
        for place, gradient in enumerate(found):
            for index in ((0,) * args[place].ndim, (-1,) * args[place].ndim):
                h, ends = 1e-6, []
                for sign in (1, -1):
                    moved = [a.copy() for a in args]
                    moved[place][index] += sign * h
                    ends.append(float(total(*(jax.numpy.array(a) for a in moved))))
                assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-6)


def test_every_variant_of_a_differentiating_backend_claims_gradients():
    for name, variant in PAIRS:
        backend = OPERATIONS[name].variant(variant).backend
        assert OPERATIONS[name].variant(variant).gradients == registry.executor(backend).capabilities.gradients


# ------------------------------------------------------------------------------------------------ declarations


@kernels
def test_declared_costs_grow_with_size(name):
    kernel = OPERATIONS[name]
    rising = [kernel.work, kernel.bytes, *(c for v in kernel.variants for c in (v.work, v.workspace) if c is not None)]
    for cost in rising:
        costs = []
        for size in (1, 10, 100, 1000, 10_000, 100_000):
            args, kwargs = kernel.sample(np.random.default_rng(0), size, "float32")
            costs.append(cost(tuple(a.shape for a in args), kwargs))
        assert all(isinstance(c, float) and math.isfinite(c) and c > 0 for c in costs), (name, costs)
        assert costs == sorted(set(costs)), (name, costs)


@kernels
def test_declared_costs_take_what_a_bare_description_tells(name):
    """A workload may name one shape and no parameters; empty axes are legal."""
    kernel = OPERATIONS[name]
    for shapes in (((8, 8),), ((8,),), ((0, 3),)):
        for cost in (
            kernel.work,
            kernel.bytes,
            *(v.work for v in kernel.variants),
            *(v.workspace for v in kernel.variants),
        ):
            assert cost is None or cost(shapes, {}) >= 0.0


@kernels
def test_the_contract_is_complete(name):
    kernel = OPERATIONS[name]
    first = kernel.variants[0]
    assert kernel.name == name
    assert first.backend == "numpy", "the default needs nothing but the base install"
    assert first.dtypes is None
    assert first.supports is None, "the default runs whatever is valid"
    assert len({v.name for v in kernel.variants}) == len(kernel.variants)
    assert {v.backend for v in kernel.variants} <= set(registry.names())
    for variant in kernel.variants:
        assert variant.name.partition("@")[0].partition("/")[0] == variant.backend
        assert (variant.device == "cpu") == ("@" not in variant.name)
        assert set(variant.accuracy) <= set(kernel.tolerances)
    module = importlib.import_module(KERNELS[name])
    for section in ("Accuracy:", "Units:", "Source:", "NaN", ">>>"):
        assert section in module.__doc__, f"{KERNELS[name]} does not document {section}"
    assert doctest.testmod(module) == doctest.TestResults(0, doctest.testmod(module).attempted)


MISTAKES = [(name, number) for name, kernel in OPERATIONS.items() for number in range(len(kernel.wrong))]


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_wrong_arguments_are_named_before_any_variant_runs(name, number):
    args, kwargs, kind, message = OPERATIONS[name].wrong[number]
    with pytest.raises(kind, match=f"^{name}: .*{message}"):
        OPERATIONS[name].validate(*args, **kwargs)


@kernels
def test_arrays_of_other_libraries_are_valid_arguments(name):
    import torch

    args, kwargs = OPERATIONS[name].sample(np.random.default_rng(0), 10, "float32")
    assert OPERATIONS[name].validate(*(torch.from_numpy(a) for a in args), **kwargs) is None


def test_importing_every_kernel_loads_no_backend_but_numpy():
    libraries = {registry.row(name).library for name in registry.names()} - {"numpy"}
    code = (
        "import sys, importlib\nfrom pointsman.kernels.table import KERNELS\n"
        "for m in KERNELS.values(): importlib.import_module(m)\n"
        f"print(sorted(set(sys.modules) & {libraries!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
