"""`@adaptive`: any library's arrays in, the same kind out; variants, errors and options."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from anomalies import BACKENDS, force, plain_anomaly, records
from pointsman.executors.errors import NoCandidateError
from pointsman.selector import settings
from pointsman.selector.adaptive import adaptive
from toys import teach


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_in_numpy_out_on_every_backend_and_never_narrowed(anomaly, selector, backend, dtype):
    force(selector, force=backend)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    before = x.copy()
    for _ in range(3):  # the first call, the one that binds, and a bound one
        y = anomaly(x)
        assert type(y) is np.ndarray
        assert y.dtype == dtype
        assert y.flags.writeable
        np.testing.assert_allclose(y, plain_anomaly(x, xp=np), rtol=1e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_array_equal(x, before)
    assert anomaly.explain(x).variant == backend
    assert records(selector) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes_and_layouts_that_trip_conversions(selector, backend):
    total = adaptive(selector=selector, name="total")(lambda x, *, xp=None: (xp.sum(x), 2.0 * x))
    force(selector, force=backend)
    x = np.arange(12.0).reshape(3, 4)
    readonly = x.copy()
    readonly.flags.writeable = False
    for given in (np.array(3.0), np.empty((0, 4)), x[:, ::-1], x[::-2, ::3], readonly, x.T, x.astype(">f8")):
        for _ in range(2):
            value, double = total(given)
            assert np.asarray(value) == given.sum()
            np.testing.assert_array_equal(double, 2.0 * given)
            assert np.asarray(double).shape == given.shape


def test_torch_in_torch_out_with_its_gradient(anomaly, selector):
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        y = anomaly(x)
        assert type(y) is torch.Tensor
        assert y.dtype is torch.float64
        (gradient,) = torch.autograd.grad((y**3).sum(), x)
        z = x.detach().requires_grad_()
        mean, std = z.mean(-1, keepdim=True), z.std(-1, keepdim=True, correction=0)
        (expected,) = torch.autograd.grad((((z - mean) / std) ** 3).sum(), z)
        assert torch.allclose(gradient, expected)
    assert anomaly.explain(x).chain == ("torch",)
    assert type(anomaly(x.detach().float())) is torch.Tensor


def test_torch_in_torch_out_also_where_another_library_computes(anomaly, selector):
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    expected = anomaly(x)
    for backend in ("numpy", "jax"):
        force(selector, force=backend)
        y = anomaly(x)
        assert (type(y), y.dtype) == (torch.Tensor, torch.float64)
        assert torch.allclose(y, expected)


def test_jax_in_jax_out(anomaly, selector):
    x = jnp.array([[1.0, 2.0, 4.0]], dtype="float32")
    for backend in (None, "numpy", "torch"):
        force(selector, force=backend)
        for _ in range(2):
            y = anomaly(x)
            assert isinstance(y, jax.Array)
            assert y.dtype == "float32"
            np.testing.assert_allclose(y, plain_anomaly(np.asarray(x), xp=np), rtol=1e-5)


def test_a_float64_jax_array_is_never_computed_in_float32(selector):
    double = adaptive(selector=selector, name="double")(lambda x, *, xp=None: xp.asarray(2.0) * x + 1e-12)
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        x = jnp.asarray(np.array([1.0, 1.0 + 1e-12]))
    assert x.dtype == "float64"
    assert "jax" not in double.explain(x).chain
    assert "x64" in dict(double.explain(x).excluded)["jax"]


def test_extended_precision_stays_on_numpy_and_is_kept(anomaly):
    x = np.arange(6, dtype=np.longdouble).reshape(2, 3)
    assert anomaly(x).dtype == np.longdouble
    assert anomaly(x.astype(np.clongdouble)).dtype == np.clongdouble
    assert anomaly.explain(x).chain == ("numpy",)


def test_a_users_own_variant_is_compiled_chosen_and_run(selector):
    @adaptive(selector=selector)
    def ema(x, *, xp=None):
        return xp.cumsum(x) / x.shape[0]

    @ema.variant("numba")
    def loop(x):
        out = np.empty_like(x)
        total = 0.0
        for i in range(x.size):
            total += x[i]
            out[i] = total / x.size
        return out

    x = np.arange(1000.0)
    force(selector, force="numba")
    np.testing.assert_allclose(ema(x), np.cumsum(x) / 1000)
    force(selector, force=None)
    teach(selector, ema, {"numpy": 1e-3, "numba": 1e-6}, x)
    assert ema.explain(x).variant == "numba"
    compiled = ema._dispatcher().prepared(ema.operation.variant("numba"), ema._dispatcher().request((x,), {}), (x,), {})
    assert compiled.function.signatures  # compiled, not a plain loop that is called so
    np.testing.assert_allclose(ema(x), np.cumsum(x) / 1000)
    assert loop(np.ones(2)).tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="no backend is called 'nunba'"):
        ema.variant("nunba")


def test_a_function_that_only_numpy_can_run_stays_there(selector):
    calls = []

    @adaptive(selector=selector)
    def in_place(x, *, xp=None):
        calls.append(xp.__name__)
        x = x + 0.0
        x[0] = 7.0
        return x

    x = np.ones(1000)
    force(selector, prefer="jax")
    for _ in range(3):
        assert in_place(x)[0] == 7.0
    assert sum("jax" in name for name in calls) == 1
    assert "jax" not in in_place.explain(x).chain


def test_a_function_that_always_raises_raises_its_own(selector):
    @adaptive(selector=selector)
    def broken(x, *, xp=None):
        raise LookupError("mine")

    x = np.ones(1000)
    teach(selector, broken, {"numpy": 1e-3, "torch": 1e-6}, x)
    for _ in range(3):
        with pytest.raises(LookupError, match="mine"):
            broken(x)


def test_rerun_can_be_forbidden(selector):
    calls = []

    @adaptive(selector=selector, rerun=False)
    def once(x, *, xp=None):
        calls.append(1)
        raise LookupError("mine")

    x = np.ones(1000)
    teach(selector, once, {"numpy": 1e-3, "torch": 1e-6}, x)
    with pytest.raises(LookupError):
        once(x)
    assert len(calls) == 1


def test_deterministic_and_protected_functions(make, feed):
    selector = make(explore=1.0)
    x = np.ones(1000)
    fixed = adaptive(selector=selector, deterministic=True)(lambda x, *, xp=None: x)
    teach(selector, fixed, {"numpy": 1e-3, "torch": 1e-6}, x)
    assert fixed.explain(x).variant == "numpy"
    safe = adaptive(selector=selector, protected=True)(lambda x, *, xp=None: x + 1)
    teach(selector, safe, {"numpy": 10.0}, x)
    assert safe.explain(x).trial is None


def test_pure_functions_are_jitted_and_others_are_not(selector):
    for pure in (False, True):
        tracers = []

        def look(x, *, xp=None, tracers=tracers):
            tracers.append(isinstance(x, jax.core.Tracer))
            return x * 2

        function = adaptive(selector=selector, pure=pure, name=f"pure {pure}")(look)
        force(selector, force="jax")
        assert function(np.ones(3)).tolist() == [2.0] * 3
        assert tracers[-1] is pure


def test_scopes(anomaly, selector):
    x = np.random.default_rng(0).standard_normal((3, 5))
    expected = anomaly(x)
    for backend in BACKENDS:
        with settings.use(backend):
            assert anomaly.explain(x).variant == backend
            np.testing.assert_allclose(anomaly(x), expected)
    with settings.use("scipy"), pytest.raises(NoCandidateError, match="no variant on scipy"):
        anomaly(x)


def test_explaining_and_binding_spend_nothing(make):
    selector = make(explore=1.0)
    function = adaptive(selector=selector)(lambda x, *, xp=None: x)
    x = np.ones(1000)
    function(x)
    teach(selector, function, {"numpy": 0.5}, x)
    first = function.explain(x)
    assert first.trial is not None
    for _ in range(300):
        assert function.explain(x) == first
    function.bind(x)(x)
    assert function.explain(x) == first


def test_a_shared_selector_learns_from_decorated_functions(tmp_path):
    from pointsman.selector.shared import default_selector

    mine = adaptive(name="mine")(lambda x, *, xp=None: xp.sum(x))
    for _ in range(5):
        mine(np.ones(5))
    assert "mine" in default_selector().get_performance_summary()["operations"]
