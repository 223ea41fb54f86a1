"""What a user of `pairwise_distance` would miss: near points, far origins, NaN where it belongs, memory, gradients."""

import functools

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.kernels import pairwise_distance
from pointsman.selector import operations

KERNEL = operations.find("pairwise_distance")
TORCH = [v.name for v in KERNEL.variants if v.backend == "torch" and v.device == "cpu"]


@functools.cache
def function(name):
    return KERNEL.variant(name).load()


def on_host(name, a, b):
    variant = KERNEL.variant(name)
    executor = registry.executor(variant.backend)
    with executor.scope() or np.errstate():
        return executor.convert_out(function(name)(executor.convert_in(a), executor.convert_in(b)))


HOST = [v.name for v in KERNEL.variants if v.device == "cpu"]


def near_and_far(dtype, offset):
    """Points whose coordinates, and their differences, are exact: pairs from 2^-8 to 2^6 apart, `offset` from zero."""
    rng = np.random.default_rng(5)
    a = rng.integers(-32, 32, (80, 6)).astype(dtype)
    b = a.copy()
    b[:, 0] += np.exp2(rng.integers(-8, 6, 80))
    return (a + np.float32(offset)).astype(dtype), (b + np.float32(offset)).astype(dtype)


@pytest.mark.parametrize("offset", [0.0, 1024.0])
@pytest.mark.parametrize(
    ("name", "dtype", "bound"),
    [
        (name, dtype, bound)
        for name in HOST
        for dtype, bound in {"float32": 1e-5, "float64": 1e-13}.items()
        if dtype in (KERNEL.variant(name).dtypes or KERNEL.tolerances)
    ],
)
def test_every_distance_is_right_to_itself_however_near_the_points_and_far_the_origin(name, dtype, bound, offset):
    a, b = near_and_far(dtype, offset)
    expected = KERNEL.reference(a, b)
    assert expected[expected > 0].min() < 1e-2 < 1e2 < expected.max()
    found = on_host(name, a, b)
    assert np.all(np.abs(found - expected) <= bound * expected)


@pytest.mark.parametrize("name", HOST)
def test_a_nan_stays_in_its_row_and_an_infinity_in_its_column(name):
    a, b = near_and_far("float64", 0.0)
    a[3, 1], b[7, 2] = np.nan, np.inf
    found = on_host(name, a, b)
    assert np.isnan(found[3]).all()
    rest = np.delete(found, 3, 0)
    assert np.isinf(rest[:, 7]).all()
    assert np.isfinite(np.delete(rest, 7, 1)).all()


def test_the_product_form_repairs_near_pairs_in_more_than_one_block(monkeypatch):
    monkeypatch.setattr(pairwise_distance, "BLOCK", 16)
    monkeypatch.setattr(pairwise_distance, "GEMM_BLOCK", 64)
    rng = np.random.default_rng(1)
    a = rng.standard_normal((300, 4))
    b = np.concatenate([a[:150] + 1e-9, rng.standard_normal((40, 4))])
    found, expected = function("numpy/gemm")(a, b), KERNEL.reference(a, b)
    assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", TORCH)
def test_torch_gradients_of_near_and_equal_points(name):
    import torch

    a = torch.tensor([[0.0, 1.0], [2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.0, 1.0], [2.0, 2.0 + 1e-6]], dtype=torch.float64, requires_grad=True)
    y = function(name)(a, b)
    y[0, 0].backward(retain_graph=True)
    assert a.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]  # no distance: zero, not NaN
    y[1, 1].backward()
    assert a.grad[1].tolist() == pytest.approx([0.0, -1.0], abs=1e-9)
    assert b.grad[1].tolist() == pytest.approx([0.0, 1.0], abs=1e-9)


@pytest.mark.parametrize("name", TORCH)
def test_torch_second_derivatives_with_create_graph(name):
    import torch

    rng = np.random.default_rng(2)
    a, b = (torch.tensor(rng.standard_normal((n, 3)), requires_grad=True) for n in (4, 5))
    assert torch.autograd.gradcheck(function(name), (a, b))
    assert torch.autograd.gradgradcheck(function(name), (a, b))
    assert torch.autograd.gradgradcheck(lambda x: function(name)(x, b.detach()), (a,))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch itself, at its first derivative forward
@pytest.mark.parametrize("outer", ["jacfwd", "jacrev"])
@pytest.mark.parametrize("inner", ["jacfwd", "jacrev"])
def test_torch_transforms_give_the_second_derivatives_of_the_formula(outer, inner):
    import torch

    rng = np.random.default_rng(4)
    a, b, weights = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((4, 3), (5, 3), (4, 5)))

    def twice(distances, at, to):
        first = getattr(torch.func, inner)(lambda x: (weights * distances(x, to) ** 3).sum())
        return getattr(torch.func, outer)(first)(at)

    expected = twice(lambda x, to: (x[:, None] - to).square().sum(-1).sqrt(), a, b)
    assert torch.allclose(twice(function("torch"), a, b), expected, rtol=0, atol=1e-11)
    assert torch.isfinite(twice(function("torch"), a, torch.cat([a, b[:1]]))).all()
    mapped = torch.func.vmap(lambda x: twice(function("torch"), x, b))(torch.stack([b[:4], a]))
    assert torch.allclose(mapped[1], expected, rtol=0, atol=1e-11)


def test_jax_gradient_of_equal_points_is_zero_and_a_call_may_be_transformed():
    import jax
    import jax.numpy as jnp

    distances = function("jax")
    with registry.executor("jax").scope():
        a = jnp.array([[0.0, 1.0], [3.0, 5.0]])
        assert jax.grad(lambda x: distances(x, a)[0, 0])(a).tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert jax.jacfwd(lambda x: distances(x, a)[0, 1])(a)[0].tolist() == pytest.approx([-0.6, -0.8])
        stacked = jax.vmap(distances, (0, None))(jnp.stack([a, 2 * a]), a)
        assert stacked[1, 0].tolist() == pytest.approx([1.0, np.hypot(3.0, 3.0)])
        assert jax.jit(distances)(a, a).tolist() == distances(a, a).tolist()


@pytest.mark.parametrize("features", [1, 7, 8, 9, 64])
def test_every_feature_counts_once_however_many_make_a_step(features):
    a = np.eye(features)[:5] * np.arange(1, features + 1)
    b = -a
    for name in HOST:
        assert on_host(name, a, b) == pytest.approx(KERNEL.reference(a, b), rel=1e-13), name


def test_scipy_is_asked_for_double_precision_only():
    assert KERNEL.variant("scipy").dtypes == {"float64"}
    assert function("scipy")(np.ones((2, 3)), np.zeros((1, 3))).tolist() == [[3**0.5], [3**0.5]]
