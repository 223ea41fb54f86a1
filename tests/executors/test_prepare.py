"""A prepared variant gives what a NumPy user expects, whatever library computed it."""

from __future__ import annotations

import functools
import sys
from collections import namedtuple

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import torch
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.errors import UnsupportedError
from pointsman.executors.prepare import prepare
from pointsman.executors.table import BACKENDS
from pointsman.kernels.table import KERNELS
from pointsman.selector.operations import find

HOST = [name for name in BACKENDS if "cpu" in registry.executor(name).capabilities.devices]
Pair = namedtuple("Pair", "low high")


def variant(backend, function, **fields):
    return Variant("v", backend, lambda: function, **fields)


def test_without_conversions_the_call_is_the_function_itself():
    def function(x):
        return x

    for backend, kind in [("numpy", "numpy"), ("torch", "torch"), ("jax", "jax")]:
        assert prepare(variant(backend, function), (kind,), out=kind).call is function
    assert prepare(variant("numpy", function), (None,), {"y": "foreign"}).call is function


def test_load_runs_once():
    loads = []

    def load():
        loads.append(1)
        return lambda x: x + 1

    prepared = prepare(Variant("v", "torch", load), ("numpy",))
    prepared.call(np.ones(2))
    prepared.split(np.ones(2))
    assert loads == [1]


@pytest.mark.parametrize("backend", HOST)
def test_arguments_of_every_form_are_converted_and_nothing_else(backend):
    kind = registry.executor(backend).kind
    seen = []

    def function(x, factor, parts, *, y, labels, extra=None):
        seen.extend(map(type, (x, factor, parts["a"][0], y, labels, extra)))
        return {"sum": [x + y, parts["a"][0]], "pair": Pair(x, factor), "text": labels, "none": None}

    prepared = prepare(variant(backend, function), ("numpy", None, None), {"y": "numpy", "labels": None})
    x = np.arange(3.0)
    for run in (prepared.call, lambda *args, **kwargs: prepared.split(*args, **kwargs)[0]):
        found = run(x, 2.0, {"a": [x]}, y=x, labels="kept")
        array = {"numpy": np.ndarray, "torch": torch.Tensor, "jax": type(jnp.ones(1))}[kind]
        assert seen == [array, float, array, array, str, type(None)]
        seen.clear()
        assert [type(part) for part in found["sum"]] == [np.ndarray] * 2
        assert type(found["pair"]) is Pair
        np.testing.assert_array_equal(found["pair"].low, x)
        assert found["sum"][0].dtype == np.float64
        np.testing.assert_array_equal(found["sum"][0], x + x)
        assert (found["pair"].high, found["text"], found["none"]) == (2.0, "kept", None)


def test_named_tuples_of_torch_keep_their_names():
    found = prepare(variant("torch", lambda x: torch.max(x, dim=0)), ("numpy",)).call(np.array([1.0, 3.0]))
    assert (found.values, found.indices) == (3.0, 1)
    assert type(found.values) is np.float64


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_torch_in_gives_torch_out_on_any_backend(backend):
    prepared = prepare(variant(backend, lambda x: (x * 2, x.sum())), ("torch",), out="torch")
    double, total = prepared.call(torch.ones(3, dtype=torch.float64))
    assert double.dtype is torch.float64
    assert double.tolist() == [2, 2, 2]
    assert isinstance(total, torch.Tensor)
    assert total.dtype is torch.float64
    assert prepared.split(torch.ones(3))[0][1] == 3.0


def test_jax_in_gives_jax_out_and_runs_under_the_process_setting():
    seen = []

    def function(x):
        seen.append(bool(jax.config.jax_enable_x64))
        return x

    prepare(variant("jax", function), ("jax",), out="jax").call(jnp.ones(2))
    prepare(variant("jax", function), ("numpy",)).call(np.ones(2))
    assert seen == [False, True]
    found = prepare(variant("torch", lambda x: x + 1), ("jax",), out="jax").call(jnp.ones(2))
    assert isinstance(found, jax.Array)
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        prepare(variant("jax", function), ("numpy", "jax"), out="jax").call(np.ones(2))


def test_gradients_stay_in_torch():
    x = torch.ones(3, requires_grad=True)
    prepare(variant("torch", lambda x: (x * x).sum()), ("torch",), out="torch").call(x).backward()
    assert x.grad.tolist() == [2, 2, 2]
    for backend in ("numpy", "numba", "jax"):
        with pytest.raises(UnsupportedError, match=r"detach\(\)"):
            prepare(variant(backend, lambda x: x), ("torch",), out="torch").call(x)
    weight = torch.ones(3, requires_grad=True)  # a parameter that the function closes over
    with pytest.raises(UnsupportedError, match=r"detach\(\)"):
        prepare(variant("torch", lambda x: x * weight), ("numpy",)).call(np.ones(3, "float32"))


@pytest.mark.parametrize("jitted", [False, True])
def test_an_argument_may_be_overwritten_as_soon_as_the_call_returns(jitted):
    function = (lambda x: x + 0) if not jitted else jax.jit(lambda x: x + 0)
    call = prepare(variant("jax", function), ("numpy",)).call
    for _ in range(10):
        x = np.zeros(500_000)
        found = call(x)
        x[:] = 9
        assert not found.any()
        found[:] = 1


def test_jitted_functions_take_byte_swapped_and_refuse_unknown_dtypes():
    call = prepare(variant("jax", jax.jit(lambda x: x + 1)), ("numpy",)).call
    assert call(np.ones(2, ">f8")).tolist() == [2, 2]
    assert call(np.ones(4)[::-2]).tolist() == [2, 2]
    with pytest.raises(UnsupportedError, match="no dtype for"):
        call(np.array(["a"]))


def test_the_time_split_adds_up_and_says_what_compiled():
    prepared = prepare(variant("jax", jax.jit(lambda x: x * 3)), ("numpy",))
    found, split = prepared.split(np.ones(4))
    assert found.tolist() == [3] * 4
    assert split.compiled
    assert split.transfer_s == 0.0
    assert split.compute_s > 0
    _, second = prepared.split(np.ones(4))
    assert not second.compiled
    prepared.call(np.ones(5))
    assert not prepared.split(np.ones(5))[1].compiled  # compiled by the call: both go the same way
    assert second.import_s == 0.0
    assert prepared.executor.signatures(functools.partial(prepared.function)) == 2
    assert prepared.executor.signatures(len) is None


def test_import_seconds_are_told_once(monkeypatch):
    executor = registry.ensure("numpy")[0]
    monkeypatch.setattr(registry, "ensure", lambda _: (executor, 1.5))
    prepared = prepare(variant("numpy", lambda x: x), ("numpy",))
    assert prepared.import_s >= 1.5
    imports = [prepared.split(np.ones(1))[1].import_s for _ in range(2)]
    assert imports == [prepared.import_s, 0.0]


def test_only_device_resident_results_are_asynchronous():
    assert prepare(variant("jax", len), ("jax",), out="jax").asynchronous
    assert not prepare(variant("jax", len), ("numpy",)).asynchronous
    assert not prepare(variant("torch", len), ("torch",), out="torch").asynchronous
    cuda = variant("torch", len, device="cuda:0")
    assert prepare(cuda, ("torch",), out="torch", out_device="cuda:0").asynchronous
    assert not prepare(cuda, ("torch",), out="torch").asynchronous


def test_a_resident_call_waits_before_the_clock_is_read(monkeypatch):
    executor = registry.ensure("jax")[0]
    waited = []
    real = executor.synchronize
    monkeypatch.setattr(executor, "synchronize", lambda y: waited.append(y) or real(y))
    prepared = prepare(variant("jax", jax.jit(lambda x: x + 1)), ("jax",), out="jax")
    found, _ = prepared.split(jnp.ones(3))
    assert waited[-1] is found


def test_the_callers_own_error_comes_out_unchanged():
    error = KeyError("mine")

    def fails(x):
        raise error

    for backend in HOST:
        with pytest.raises(KeyError) as caught:
            prepare(variant(backend, fails), ("numpy",)).call(np.ones(2))
        assert caught.value is error


def test_a_kind_without_a_backend_is_named():
    with pytest.raises(ValueError, match="no backend has arrays of kind 'dask'; those that do: numpy, torch"):
        prepare(variant("numpy", len), ("dask",), out="dask")


def test_what_a_library_has_not_compiled_yet_is_told():
    """Data that is nothing to do compiles nothing: the compilation is still to come, and to be paid for."""
    jitted = numba.njit(lambda x: x + 1.0)
    ready = prepare(variant("numba", lambda x: jitted(x) if x.size else x.copy()), ("numpy",))
    eager = prepare(variant("numpy", np.negative), ("numpy",))
    assert not eager.uncompiled  # it never does
    assert eager.split(np.ones(3))[1].compiled is None

    ready.function.__wrapped__ = jitted
    assert ready.split(np.ones(0))[1].compiled is False
    assert ready.uncompiled
    assert ready.split(np.ones(3))[1].compiled is True
    assert not ready.uncompiled
    assert ready.split(np.ones(3))[1].compiled is False


MODULES = [(kernel.name, v) for kernel in map(find, KERNELS) for v in kernel.variants if v.module]


@pytest.mark.parametrize(("operation", "given"), MODULES, ids=lambda part: getattr(part, "name", part))
def test_a_declared_module_is_what_loading_imports_and_costs_until_then(operation, given, monkeypatch):
    given.load()
    assert given.module in sys.modules
    assert given.pending_import_s == 0.0
    monkeypatch.delitem(sys.modules, given.module)
    assert given.pending_import_s == given.module_s > 0.0
