"""What a user of `iterative` would miss: the mathematics, sweeps in depth, derivatives, one compilation for all."""

import functools

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.kernels import iterative_loops
from pointsman.selector import operations

KERNEL = operations.find("iterative")
HOST = [v.name for v in KERNEL.variants if v.device == "cpu"]
host = pytest.mark.parametrize("name", HOST)


@functools.cache
def function(name):
    return KERNEL.variant(name).load()


def on_host(name, *arrays, sweeps):
    executor = registry.executor(KERNEL.variant(name).backend)
    with executor.scope() or np.errstate():
        return executor.convert_out(function(name)(*map(executor.convert_in, arrays), sweeps=sweeps))


def sine_mode(n, m, p, q):
    """A mode of the grid, and the factor by which a sweep shrinks it."""
    x, y = np.pi * np.arange(n) / (n - 1), np.pi * np.arange(m) / (m - 1)
    grid = np.sin(p * x)[:, None] * np.sin(q * y)
    grid[[0, -1]] = 0.0
    grid[:, [0, -1]] = 0.0
    return grid, (np.cos(p * np.pi / (n - 1)) + np.cos(q * np.pi / (m - 1))) / 2


@host
@pytest.mark.parametrize(("p", "q", "sweeps"), [(1, 1, 500), (2, 3, 20), (9, 6, 31), (18, 10, 50)])
def test_a_sine_mode_decays_by_its_own_factor(name, p, q, sweeps):
    mode, factor = sine_mode(20, 12, p, q)
    assert on_host(name, mode, sweeps=sweeps) == pytest.approx(mode * factor**sweeps, abs=1e-14)


@host
def test_a_harmonic_temperature_stays(name):
    x, y = np.meshgrid(np.arange(9.0), np.arange(11.0), indexing="ij")
    u = x * x - y * y + 3 * x * y
    assert on_host(name, u, sweeps=77) == pytest.approx(u, abs=1e-12)


@host
def test_a_source_is_balanced_by_the_curvature_it_causes(name):
    x, y = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 2, 17), indexing="ij")
    h = 1 / 8
    exact = x**2 * (1 - x) + y**2  # -(u_xx + u_yy) = 6 x - 4, which the five points give without error
    start = np.zeros_like(exact)
    start[[0, -1]], start[:, [0, -1]] = exact[[0, -1]], exact[:, [0, -1]]
    assert on_host(name, start, h * h * (6 * x - 4), sweeps=1500) == pytest.approx(exact, abs=1e-12)


@host
def test_sweeps_in_two_calls_are_sweeps_in_one_and_never_leave_the_range(name):
    rng = np.random.default_rng(2)
    u, source = rng.uniform(-1, 1, (2, 13, 8)), rng.standard_normal((13, 8))
    twice = on_host(name, on_host(name, u, source, sweeps=3), source, sweeps=4)
    assert twice == pytest.approx(on_host(name, u, source, sweeps=7), abs=1e-13)
    assert np.abs(on_host(name, u, sweeps=5)).max() <= np.abs(u).max()


@host
def test_the_edge_of_the_source_is_not_read(name):
    u, source = np.ones((6, 7)), np.ones((6, 7))
    expected = on_host(name, u, source, sweeps=4)
    source[[0, -1]], source[:, [0, -1]] = np.nan, np.inf
    assert np.array_equal(on_host(name, u, source, sweeps=4), expected)


@pytest.mark.parametrize("sweeps", [1, 7, 8, 9, 16, 21])
@pytest.mark.parametrize("shape", [(3, 3), (4, 9), (40, 30), (3, 12, 10)])
def test_several_sweeps_at_a_time_are_the_same_sweeps(monkeypatch, sweeps, shape):
    monkeypatch.setattr(iterative_loops, "LARGE", 0)
    rng = np.random.default_rng(4)
    u, source = rng.standard_normal(shape), rng.standard_normal(shape)
    assert np.array_equal(
        function("numba")(u, source, sweeps=sweeps), function("numba/parallel")(u, source, sweeps=sweeps)
    )


def test_the_sine_form_takes_a_million_sweeps_and_gives_the_steady_state():
    x, y = np.meshgrid(np.arange(30.0), np.arange(25.0), indexing="ij")
    u = 2 * x - y + 1
    start = np.where((x % 29 == 0) | (y % 24 == 0), u, -5.0)
    assert function("scipy/sine")(start, sweeps=10**6) == pytest.approx(u, abs=1e-11)


def test_jax_compiles_once_for_any_number_of_sweeps():
    executor = registry.executor("jax")
    run = KERNEL.variant("jax").load()
    u = np.random.default_rng(0).standard_normal((5, 23))
    with executor.scope():
        before = executor.signatures(run)
        for sweeps in (1, 2, 30):
            assert np.array(run(u, sweeps=sweeps)) == pytest.approx(KERNEL.reference(u, sweeps=sweeps), abs=1e-15)
        assert executor.signatures(run) == before + 1


def test_jax_transforms_a_call():
    import jax
    import jax.numpy as jnp

    run = function("jax")
    rng = np.random.default_rng(3)
    u, source, v = (rng.standard_normal((6, 5)) for _ in range(3))
    with registry.executor("jax").scope():
        value, tangent = jax.jvp(lambda x: run(x, sweeps=4), (jnp.array(u),), (jnp.array(v),))
        assert np.array(value) == pytest.approx(KERNEL.reference(u, sweeps=4), abs=1e-14)
        assert np.array(tangent) == pytest.approx(KERNEL.reference(v, sweeps=4), abs=1e-14)  # linear in u
        back = jax.grad(lambda s: (run(jnp.array(u), s, sweeps=4) * v).sum())(jnp.array(source))
        forth = KERNEL.reference(np.zeros_like(u), source, sweeps=4)
        assert float((back * source).sum()) == pytest.approx(float((forth * v).sum()), rel=1e-12)
        stacked = jax.vmap(lambda x: run(x, sweeps=4))(jnp.stack([u, v]))
        assert np.array(stacked[1]) == pytest.approx(KERNEL.reference(v, sweeps=4), abs=1e-14)


@pytest.mark.parametrize("shapes", [((5, 4), (5, 4)), ((2, 4, 5), (4, 5)), ((3, 3), (3, 3)), ((2, 6), (2, 6))])
def test_torch_gradients_in_start_and_source(shapes):
    import torch

    rng = np.random.default_rng(6)
    given = [torch.tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda u, s: function("torch")(u, s, sweeps=5), given)
    assert torch.autograd.gradgradcheck(lambda u, s: function("torch")(u, s, sweeps=3) ** 2, given)


def test_torch_transforms_a_call():
    import torch

    run = function("torch")
    u = torch.from_numpy(np.random.default_rng(7).standard_normal((3, 6, 5)))
    mapped = torch.func.vmap(lambda x: run(x, sweeps=3))(u)
    assert torch.allclose(mapped, run(u, sweeps=3), rtol=0, atol=1e-14)
    source = torch.ones_like(u)
    one = torch.func.vmap(lambda s: run(u[0], s, sweeps=3))(source)
    assert torch.allclose(one, run(u[0], source[0], sweeps=3).expand(u.shape), rtol=0, atol=1e-14)
    each = torch.func.vmap(torch.func.grad(lambda x: (run(x, sweeps=3) ** 2).sum()))(u)
    assert torch.allclose(each, torch.func.grad(lambda x: (run(x, sweeps=3) ** 2).sum())(u), rtol=0, atol=1e-13)


def test_torch_keeps_nothing_for_each_sweep():
    import torch

    u = torch.zeros((5, 5), dtype=torch.float64, requires_grad=True)
    y = function("torch")(u, sweeps=1000)
    assert y.grad_fn.name() == "SweepsBackward"
    assert y.grad_fn.next_functions[0][0].name().endswith("AccumulateGrad")


@host
def test_infinities_on_the_edge_make_no_warning_of_their_own(name):
    u = np.random.default_rng(8).standard_normal((2, 6, 7))
    u[1, 0, 0], u[0, -1, -1], u[0, -1, -2], u[1, 0, 1] = np.inf, -np.inf, np.inf, -np.inf
    found, expected = on_host(name, u, sweeps=3), KERNEL.reference(u, sweeps=3)
    clear = np.isfinite(expected) & (name != "scipy/sine")  # where it is documented to spread
    assert found[clear] == pytest.approx(expected[clear], abs=1e-13)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch itself, at its first derivative forward
def test_torch_derivatives_forward():
    import torch

    run = function("torch")
    rng = np.random.default_rng(9)
    u, source = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((2, 5, 4), (5, 4)))
    for given in ((u, source), (u, None)):
        watched = [None if x is None else x.clone().requires_grad_() for x in given]
        assert torch.autograd.gradcheck(lambda *x: run(*x, sweeps=3), watched, check_forward_ad=True)
    one = torch.func.jacfwd(lambda s: run(u, s, sweeps=3))(source)
    assert torch.allclose(one, torch.func.jacrev(lambda s: run(u, s, sweeps=3))(source), rtol=0, atol=1e-14)
    energy = lambda x: (run(x, source, sweeps=3) ** 3).sum()  # noqa: E731
    twice = torch.func.jacfwd(torch.func.jacfwd(energy))(u)
    assert torch.allclose(twice, torch.func.jacrev(torch.func.jacrev(energy))(u), rtol=0, atol=1e-12)
