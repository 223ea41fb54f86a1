"""What a library does with us: bind a choice, hold a selector, decorate its classes, travel to workers and tasks."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import os
import pickle
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pointsman as pm
import pytest
from anomalies import plain_anomaly, records
from pointsman.executors.errors import NoCandidateError, UnsupportedError
from pointsman.executors.registry import BackendUnavailableError
from pointsman.selector import settings
from pointsman.selector.adaptive import adaptive


def smooth_numpy(x, taps=3):
    return np.convolve(x, np.ones(taps) / taps, "same")


def smooth_torch(x, taps=3):
    raise AssertionError("not chosen in these tests unless asked for")


PATHS = {"torch": smooth_torch, "numpy": smooth_numpy}


# ---- binding


def test_a_bound_choice_is_the_librarys_own_function(selector, workload, feed):
    """So that it costs what it costs without us."""
    assert selector.bind(workload(), PATHS) is smooth_numpy
    assert selector.bind(workload(require="torch"), PATHS) is smooth_torch
    with settings.use("torch"):
        assert selector.bind(workload(), PATHS) is smooth_torch
    feed(selector, workload(10**6), {"numpy": 1e-1, "torch": 1e-3})
    assert selector.bind(workload(10**6), PATHS) is smooth_torch
    before = selector.get_performance_summary()["total_records"]
    selector.bind(workload(operation="another"), PATHS)(np.ones(9))
    assert selector.get_performance_summary()["total_records"] == before


def test_a_function_of_the_backend_has_it_filled_in(selector, workload):
    def smooth(x, taps, *, backend):
        return backend, len(x), taps

    assert selector.bind(workload(), smooth)(np.ones(3), 5) == ("numpy", 3, 5)
    assert selector.bind(workload(require="jax"), smooth)(np.ones(3), taps=5) == ("jax", 3, 5)


def test_binding_passes_over_what_cannot_be_imported(selector, workload, feed, monkeypatch):
    from pointsman.executors import registry

    def ensure(name):
        if name == "torch":
            raise BackendUnavailableError("libtorch.so is gone")
        return real(name)

    real = registry.ensure
    monkeypatch.setattr(registry, "ensure", ensure)
    feed(selector, workload(), {"numpy": 1e-1, "torch": 1e-3})
    assert selector.decide(workload()).backend == "torch"
    assert selector.bind(workload(), PATHS) is smooth_numpy
    with pytest.raises(NoCandidateError, match=r"libtorch\.so is gone"):
        selector.bind(workload(), {"torch": smooth_torch})


def test_names_of_backends_to_come_are_passed_over(selector, workload):
    assert selector.bind(workload(), {"stan": smooth_torch, "numpy": smooth_numpy}) is smooth_numpy


@pytest.mark.parametrize(
    ("func", "error", "text"),
    [
        ({"nmupy": smooth_numpy}, ValueError, r"no backend is called 'nmupy': did you mean 'numpy'"),
        ({}, NoCandidateError, r"has functions for none at all, .* those that can: numpy, "),
        ({"stan": smooth_numpy}, NoCandidateError, r"has functions for stan, of which none can run this"),
        (smooth_numpy, TypeError, r"'smooth_numpy' takes no `backend`, so there is nothing to choose"),
        (3, TypeError, r"give a function that takes `backend`"),
        (None, TypeError, r"'spectrogram' is no registered operation, .* give func=\{backend: function\}"),
    ],
)
def test_what_cannot_be_bound_is_told(selector, workload, func, error, text):
    with pytest.raises(error, match=text):
        selector.bind(workload(), func)


def test_a_required_backend_that_the_mapping_lacks_is_an_error(selector, workload):
    with pytest.raises(NoCandidateError, match=r"functions for torch, numpy, of which none .* those that can: jax"):
        selector.bind(workload(require="jax"), PATHS)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_a_workload_of_a_kernel_binds_its_variant(selector, backend):
    x = np.random.default_rng(0).standard_normal((8, 8))
    workload = pm.WorkloadCharacteristics.of("matmul", x, x, require=backend)
    product = selector.bind(workload)
    found = product(x, x)
    assert (type(found), found.dtype) == (np.ndarray, x.dtype)
    np.testing.assert_allclose(found, x @ x, rtol=1e-12)
    assert records(selector) == 0


def test_a_bound_kernel_takes_arrays_of_the_kind_that_the_workload_says(selector):
    import torch

    x = torch.ones(4, 4, dtype=torch.float64, requires_grad=True)
    product = selector.bind(pm.WorkloadCharacteristics.of("matmul", x, x))
    product(x, x).sum().backward()
    assert x.grad.tolist() == [[8.0] * 4] * 4


def test_the_public_short_form_binds_and_checks_once():
    x = np.arange(6.0).reshape(2, 3)
    assert pm.bind("reduction", x)(x) == pm.run("reduction", x)
    with pytest.raises(ValueError, match="no operation 'sum' to run; there are: matmul"):
        pm.bind("sum", x)
    with pytest.raises(ValueError, match=r"^matmul: "):
        pm.bind("matmul", x, x)


# ---- in classes


class Station:
    def __init__(self, offset):
        self.offset, self.series = offset, np.ones(4)

    @adaptive
    def shifted(self, x, scale=1.0, *, xp=None):
        return xp.abs(x) * scale + self.offset

    @property
    def total(self):
        """What a property computes goes in by an argument: arrays inside `self` are seen by nobody."""
        return Station.sum_of(self.series)

    @functools.cached_property
    def cached(self):
        return self.shifted(self.series)

    @staticmethod
    @adaptive
    def sum_of(x, *, xp=None):
        return xp.sum(x)

    @classmethod
    @adaptive
    def of(cls, x, *, xp=None):
        return cls.__name__, xp.sum(x)

    @adaptive
    def documented(self, x, *, xp=None):
        """Words."""
        return x

    thrice = functools.partialmethod(shifted, scale=3.0)
    alias = shifted


class Buoy(Station):
    def shifted(self, x):
        return super().shifted(x) + 100.0


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_every_way_into_a_class(backend):
    x, station = np.ones(3), Station(1.0)
    with settings.use(backend):
        assert station.total == 4.0
        assert station.cached is station.cached
        assert station.thrice(x).tolist() == [4.0] * 3
        assert station.alias(x).tolist() == [2.0] * 3
        assert Buoy(1.0).shifted(x).tolist() == [102.0] * 3
        assert Buoy.of(x)[0] == Buoy(0.0).of(x)[0] == "Buoy"
        assert functools.partial(station.shifted, scale=5.0)(x).tolist() == [6.0] * 3
        assert [y[0] for y in map(station.shifted, [x, -x])] == [2.0, 2.0]
        assert functools.reduce(lambda a, f: f(a), [station.shifted, station.alias], x).tolist() == [3.0] * 3


def test_what_is_put_into_a_class_or_on_an_instance_behaves_as_a_function_does(monkeypatch):
    @adaptive
    def raised(self, x, *, xp=None):
        return x + self.offset

    monkeypatch.setattr(Station, "raised", raised, raising=False)
    assert Station(2.0).raised(np.ones(2)).tolist() == [3.0] * 2
    station = Station(0.0)
    station.plain = Station.sum_of  # on an instance nothing is bound
    assert station.plain(np.ones(2)) == 2.0


def test_a_bound_method_is_its_function_to_those_who_look():
    method = Station(1.0).shifted
    assert (method.__name__, method.__qualname__) == ("shifted", "Station.shifted")
    assert list(inspect.signature(method).parameters) == ["x", "scale", "xp"]
    assert Station(1.0).documented.__doc__ == "Words."
    assert method.__code__ is Station.shifted.function.__code__
    assert repr(method).startswith("<bound <adaptive ")
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        method.explian(np.ones(3))


def test_a_bound_method_is_bound_once_for_its_instance():
    one, other, x = Station(1.0), Station(2.0), np.ones(3)
    f, g = one.shifted.bind(x), other.shifted.bind(x)
    assert (f(x)[0], g(x)[0], f(2.0 * x)[0]) == (2.0, 3.0, 3.0)
    one.offset = 10.0
    assert f(x)[0] == 11.0  # the instance is the same one


# ---- copies and pickles


def test_an_object_that_holds_a_selector_can_be_copied(selector):
    estimator = {"selector": selector, "weights": np.ones(3)}
    twin = copy.deepcopy(estimator)
    assert twin["selector"] is selector is copy.copy(selector)
    assert twin["weights"] is not estimator["weights"]


def test_a_selector_is_not_pickled_and_says_what_to_do(selector):
    with pytest.raises(TypeError, match=r"a selector is not pickled: .* pointsman.default_selector\(\)"):
        pickle.dumps({"estimator": selector})


@pytest.fixture
def importable(monkeypatch):
    """This module under its own name, so that pickle can find what it defines."""
    monkeypatch.setitem(sys.modules, __name__, inspect.getmodule(Station))


def test_what_does_travel(selector, workload, importable):
    x = np.ones(3)
    for thing in [
        workload(7),
        selector.decide(workload(7)),
        selector.get_performance_summary(),
        pm.list_backends(),
        pm.Failure.TIMEOUT,
    ]:
        again = pickle.loads(pickle.dumps(thing))
        assert (again, type(again)) == (thing, type(thing))
    for call in [functools.partial(Station.shifted, scale=2.0), Station(1.0).shifted, Station(1.0).alias]:
        travelled = pickle.loads(pickle.dumps(call))
        given = (Station(1.0), x) if isinstance(call, functools.partial) else (x,)
        assert travelled(*given).tolist() == call(*given).tolist()


@pytest.mark.parametrize("error", [NoCandidateError, UnsupportedError, BackendUnavailableError])
def test_errors_come_back_from_workers(error):
    again = pickle.loads(pickle.dumps(error("why")))
    assert (type(again), str(again)) == (error, "why")


# ---- tasks and threads


def test_scopes_of_tasks_do_not_leak_into_each_other():
    f = adaptive(name="of tasks")(plain_anomaly)
    x = np.ones((2, 3)) + np.arange(3.0)
    seen = []

    async def work(name, backend, turns):
        with settings.use(backend):
            for _ in range(turns):
                f(x)
                seen.append((name, f.explain(x).backend))
                await asyncio.sleep(0)
            inner = await asyncio.to_thread(lambda: f.explain(x).backend)
        return inner, f.explain(x).set_by

    async def bystander():
        for _ in range(3):
            seen.append(("none", f.explain(x).set_by))
            await asyncio.sleep(0)

    async def main():
        return await asyncio.gather(work("a", "numpy", 3), work("b", "torch", 3), bystander())

    a, b, _ = asyncio.run(main())
    assert (a, b) == (("numpy", ""), ("torch", ""))
    assert seen[:3] == [("a", "numpy"), ("b", "torch"), ("none", "")]  # they did take turns
    assert set(seen) == {("a", "numpy"), ("b", "torch"), ("none", "")}


def test_a_pools_threads_have_no_scope_but_that_of_their_own_calls():
    """As with every context variable; `contextvars.copy_context().run` takes a scope along."""
    f = adaptive(name="of threads")(plain_anomaly)
    x = np.ones((2, 3))

    def scoped(backend):
        with settings.use(backend):
            return f.explain(x).backend

    with settings.use("torch"), ThreadPoolExecutor(2) as pool:
        assert pool.submit(lambda: f.explain(x).set_by).result() == ""
        assert list(pool.map(scoped, ["numpy", "jax"] * 4)) == ["numpy", "jax"] * 4
        assert f.explain(x).backend == "torch"


# ---- other processes

SPAWNED = """
import multiprocessing, os, sys
import numpy as np
import pointsman as pm

@pm.adaptive(name="lib.power")
def power(x, *, xp=None):
    return xp.sum(x * x, axis=-1)

class Model:
    def __init__(self, scale):
        self.scale = scale

    @pm.adaptive(name="lib.scaled")
    def scaled(self, x, *, xp=None):
        return self.scale * xp.sum(x)

def work(seed, scaled, results):
    for number in range(10):
        x = np.random.default_rng((seed, number)).standard_normal((4, 8))
        assert np.allclose(power(x), (x * x).sum(-1)) and scaled(np.ones(4)) == 12.0
    pm.flush()
    results.put(os.getpid())

if __name__ == "__main__":
    power(np.ones((4, 8)))
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    workers = [context.Process(target=work, args=(seed, Model(3.0).scaled, results)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {results.get(), results.get()} == {worker.pid for worker in workers}
    summary = pm.default_selector().get_performance_summary()
    [one] = summary["operations"]["lib.power"]
    print(summary["history"]["status"], sum(v["count"] + v["cold_count"] for v in one["variants"].values()))
"""


def test_spawned_workers_compute_and_add_to_one_history(tmp_path):
    script, history = tmp_path / "work.py", tmp_path / "history.sqlite"
    script.write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, "-W", "error", script], env={**os.environ, "POINTSMAN_HISTORY": str(history)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["ok", "21"]
    with closing(sqlite3.connect(history)) as file:
        assert file.execute("pragma integrity_check").fetchone() == ("ok",)
