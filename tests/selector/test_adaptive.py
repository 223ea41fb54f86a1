"""`@adaptive`: any library's arrays in, the same kind out; what is not ours is left alone."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from anomalies import force, plain_anomaly, records
from pointsman.executors.errors import NoCandidateError
from pointsman.selector import settings
from pointsman.selector.adaptive import Adaptive, adaptive
from pointsman.telemetry.outcome import Outcome

BACKENDS = ("numpy", "torch", "jax")


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


# ---- arguments, methods, identity


def test_an_explicit_namespace_is_respected(selector):
    seen = []

    @adaptive(selector=selector)
    def either(x, xp=None):
        seen.append(xp)
        return x

    x = np.ones(3)
    either(x, xp=np)
    either(x, np)
    assert seen == [np, np]
    assert records(selector) == 0
    either(x, xp=None)
    assert records(selector) == 1


def test_arguments_by_name_and_nested_ones(selector):
    @adaptive(selector=selector)
    def mix(first, *rest, scale=1.0, parts=(), xp=None):
        out = first * scale
        for part in (*rest, *parts):
            out = out + part
        return {"sum": xp.sum(out), "parts": [out, scale]}

    x = np.ones(4)
    for backend in BACKENDS:
        force(selector, force=backend)
        for _ in range(2):
            found = mix(x, x, scale=3.0, parts=[x, 2 * x])
            assert float(found["sum"]) == 28.0
            assert type(found["parts"][0]) is np.ndarray
            assert found["parts"][1] == 3.0
    assert mix(first=x, parts=(x,))["parts"][0].tolist() == [2.0] * 4


class Station:
    def __init__(self, offset):
        self.offset = offset

    @adaptive
    def shifted(self, x, *, xp=None):
        """Shift by the station's offset."""
        return x + xp.asarray(self.offset) * xp.ones_like(x)

    @classmethod
    @adaptive
    def of_class(cls, x, *, xp=None):
        return x, cls.__name__

    @staticmethod
    @adaptive
    def of_none(x, *, xp=None):
        return x


def test_methods():
    station, x = Station(2.0), np.ones(3)
    assert station.shifted(x).tolist() == [3.0] * 3
    assert Station.shifted(station, x).tolist() == [3.0] * 3
    assert isinstance(Station.shifted, Adaptive)
    assert Station.of_class(x)[1] == station.of_class(x)[1] == "Station"
    assert Station.of_none(x).tolist() == station.of_none(x).tolist() == [1.0] * 3
    assert station.shifted.explain(x).variant == "numpy"
    assert station.shifted.bind(x)(x).tolist() == [3.0] * 3
    assert station.shifted.__doc__ == "Shift by the station's offset."
    assert station.shifted == station.shifted != Station(2.0).shifted


@adaptive
def at_top(x, y: float = 1.0, *, xp=None):
    """Sum and a number."""
    return xp.sum(x) + y


def test_identity_is_that_of_the_function():
    assert at_top.__name__ == "at_top"
    assert at_top.__doc__ == "Sum and a number."
    assert list(inspect.signature(at_top).parameters) == ["x", "y", "xp"]
    assert at_top.__wrapped__(np.ones(2), xp=np) == 3.0
    assert "adaptive" in repr(at_top)
    assert at_top(np.ones(2), 2.0) == at_top(np.ones(2), y=2.0) == 4.0


@pytest.fixture
def importable(monkeypatch):
    """This module under its own name, so that pickle can find what it defines."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or inspect.getmodule(plain_anomaly))


def test_pickling_is_by_name(importable):
    assert pickle.loads(pickle.dumps(at_top)) is at_top
    assert pickle.loads(pickle.dumps(Station.shifted)) is Station.shifted
    method = pickle.loads(pickle.dumps(Station(5.0).shifted))
    assert method(np.ones(2)).tolist() == [6.0] * 2
    assert copy.copy(at_top) is at_top
    assert pickle.loads(pickle.dumps(Station.of_none)) is Station.of_none
    assert pickle.loads(pickle.dumps(Station.of_class))(np.ones(2))[1] == "Station"


def scaled_by(factor, selector):
    @adaptive(selector=selector)
    def scaled(x, *, xp=None):
        return x * factor

    return scaled


@pytest.mark.parametrize("backend", BACKENDS)
def test_closures_of_one_factory_share_a_name_and_not_what_they_compute(selector, backend):
    """They would compute with whichever was decorated last."""
    force(selector, force=backend)
    twice, thrice = scaled_by(2.0, selector), scaled_by(3.0, selector)
    assert twice.name == thrice.name
    for size in (3, 3, 4):
        x = np.ones(size)
        assert (twice(x)[0], thrice(x)[0]) == (2.0, 3.0)
        assert (twice.bind(x)(x)[0], thrice.bind(x)(x)[0]) == (2.0, 3.0)
    assert twice.variant("numba")(lambda x: x * 20.0) is not None
    assert [v.name for v in thrice.operation.variants if v.device == "cpu"] == list(BACKENDS)
    with settings.use("numpy"):
        assert thrice(np.ones(5))[0] == 3.0


def test_who_still_holds_a_redefined_function_runs_what_he_holds(selector):
    old = adaptive(name="cell", selector=selector)(lambda x, *, xp=None: x + 1)
    assert old(np.zeros(2))[0] == 1.0
    new = adaptive(name="cell", selector=selector)(lambda x, *, xp=None: x + 2)
    assert [f(np.zeros(n))[0] for n in (2, 3) for f in (old, new)] == [1.0, 2.0, 1.0, 2.0]


def test_what_no_name_leads_to_is_not_pickled_but_copied(selector, importable):
    local = scaled_by(2.0, selector)
    with pytest.raises(pickle.PicklingError, match=r"scaled is not it; define it at the top of a module"):
        pickle.dumps(local)
    assert copy.deepcopy({"f": local})["f"] is local


def test_what_cannot_be_adaptive_is_told_at_once():
    with pytest.raises(TypeError, match=r"without_xp takes no `xp`; give it the keyword xp=None"):

        @adaptive
        def without_xp(x):
            return x

    with pytest.raises(TypeError, match="decorates a Python function, not a ufunc"):
        adaptive(np.sin)
    with pytest.raises(TypeError, match="not a staticmethod"):
        adaptive(staticmethod(plain_anomaly))
    with pytest.raises(TypeError, match="later is a coroutine or generator function: its call computes nothing"):

        @adaptive
        async def later(x, *, xp=None):
            return x

    with pytest.raises(TypeError, match="coroutine or generator"):

        @adaptive
        def pieces(x, *, xp=None):
            yield x


def test_an_edited_function_is_another_operation():
    def made(body):
        names: dict[str, object] = {}
        exec(body, names)
        return adaptive(names["f"]).name

    one = made("def f(x, *, xp=None): return x + 1")
    assert one == made("def f(x, *, xp=None): return x + 1")
    assert one != made("def f(x, *, xp=None): return x + 2")
    assert one != made("def f(x, *, xp=None): return xp.sum(x)")
    ten = made("def f(x, *, steps=10, xp=None): return x + steps")
    assert ten != made("def f(x, *, steps=1000, xp=None): return x + steps")


def test_a_name_is_the_same_in_every_process():
    """The constant in `mode in {"a", "b"}` is a set, and its order is another one in every process."""
    code = """
import pointsman as pm
@pm.adaptive
def f(x, n=3, mode="a", *, xp=None): return x if mode in {"a", "b", "c", "d", "e"} else -x
print(f.name)
"""

    def named(seed):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert len({named(seed) for seed in "123"}) == 1


def test_extended_precision_stays_on_numpy_and_is_kept(anomaly):
    x = np.arange(6, dtype=np.longdouble).reshape(2, 3)
    assert anomaly(x).dtype == np.longdouble
    assert anomaly(x.astype(np.clongdouble)).dtype == np.clongdouble
    assert anomaly.explain(x).chain == ("numpy",)


# ---- variants, errors, options


def teach(selector, function, seconds, x):
    request = function._dispatcher().request((x,), {})
    for name, taken in seconds.items():
        for _ in range(8):
            site = request.site(function.operation.variant(name))
            selector.history.record(Outcome(site, selector.history.now(), taken))
    selector.flush()


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
