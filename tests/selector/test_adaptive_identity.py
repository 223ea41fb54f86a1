"""`@adaptive` functions are functions: how they are called, bound as methods, named, pickled and told apart."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from anomalies import BACKENDS, force, plain_anomaly, records
from pointsman.selector import settings
from pointsman.selector.adaptive import Adaptive, adaptive


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
