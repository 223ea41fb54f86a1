"""What other operations, another dtype, another load and another place of the data tell about a variant that is new."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pointsman.executors.base import Variant
from pointsman.executors.prepare import Split
from pointsman.selector.carriage import Carriage, home_of, moves_of
from pointsman.selector.costs import FIRST_CALL_S, Curves
from pointsman.selector.curves import Loaded
from pointsman.selector.learner import WARMED_S
from pointsman.selector.request import Request
from pointsman.telemetry.outcome import Outcome, Site
from pointsman.telemetry.state import State

NOW = 1.7e9


def site(operation: str, variant: str, size: int, dtype: str = "float64", detail: str = "") -> Site:
    return Site(operation, variant, dtype, str(round(2 * math.log2(size))), detail, float(size), size)


def feed(state: State, place: Site, seconds: float, *, context: str = "quiet", calls: int = 12, **more: float) -> None:
    state.apply(Outcome(place, NOW + i, seconds, context=context, **more) for i in range(calls))


def predicted(model: Curves, operation: str, size: int, dtype: str = "float64", context: str = "quiet") -> dict:
    sites = [site(operation, name, size, dtype) for name in ("numpy", "quick", "slow")]
    found = model.predict(sites, ["numpy", "numba", "joblib"], context)
    return dict(zip(("numpy", "quick", "slow"), found, strict=True))


@pytest.fixture
def learned() -> tuple[State, Curves]:
    """Three operations in which "quick" is four times as fast as NumPy at large sizes, and "slow" twice as slow."""
    state = State()
    model = Curves(state, priors={})
    for operation in ("a", "b", "c"):
        for size, base in ((100, 4e-6), (10**6, 8e-3)):
            for name, factor in (("numpy", 1.0), ("quick", 0.25), ("slow", 2.0)):
                feed(state, site(operation, name, size), base * (factor if size > 1e4 else 1.0))
        predicted(model, operation, 100)  # tells which variant the others are held against
    model.forget(None)
    return state, model


def test_a_new_operation_begins_with_what_each_variant_did_in_others(learned):
    state, model = learned
    feed(state, site("new", "numpy", 10**6), 1e-2)
    found = predicted(model, "new", 10**6)
    assert found["quick"].source == found["slow"].source == "guess"
    assert found["quick"].seconds == pytest.approx(2.5e-3, rel=0.2)
    assert found["slow"].seconds == pytest.approx(2e-2, rel=0.2)


def test_another_dtype_of_the_operation_tells_more_than_other_operations(learned):
    state, model = learned
    feed(state, site("a", "numpy", 10**6, "float32"), 4e-3)  # half of what it takes in float64
    found = predicted(model, "a", 10**6, "float32")
    assert found["quick"].source == "prior"
    assert found["quick"].seconds == pytest.approx(1e-3, rel=0.2)
    assert found["quick"].sigma < predicted(model, "d", 10**6)["quick"].sigma


def test_large_sizes_in_another_dtype_tell_nothing_of_overhead(learned):
    """A variant that was only measured where it takes 40 ms may well take microseconds on little data."""
    state, model = learned
    for name, seconds in (("numpy", 0.2), ("quick", 0.04)):
        feed(state, site("large", name, 10**7), seconds)
    found = predicted(model, "large", 100, "float32")["quick"]
    assert found.source == "prior"
    assert found.seconds < 1e-4


def curve(seconds_of_an_element: float) -> dict:
    points = [[x, math.log2(2e-6 + 2.0**x * seconds_of_an_element)] for x in range(0, 30, 2)]
    return {"points": points, "first_s": 0.0}


def test_what_a_shipped_curve_got_wrong_in_one_dtype_is_put_right_in_the_other():
    """It promises that "quick" wins; at the largest size it takes twenty times as long as that, in either dtype."""
    said = {"numpy": 1e-8, "quick": 2e-9}
    priors = {f"op|{name}|{dtype}": curve(s) for name, s in said.items() for dtype in ("float32", "float64")}
    state = State()
    model = Curves(state, priors=priors)
    before = predicted(model, "op", 2**24, "float32")
    assert before["quick"].seconds == pytest.approx(2**24 * 2e-9, rel=0.05)
    for size, factor in ((2**12, 1.0), (2**24, 20.0)):
        feed(state, site("op", "quick", size), 2e-6 + factor * size * 2e-9)
        feed(state, site("op", "numpy", size), 2e-6 + size * 1e-8)
    model.forget(None)
    after = {size: predicted(model, "op", size, "float32") for size in (2**12, 2**24)}
    assert after[2**24]["quick"].seconds == pytest.approx(20 * 2**24 * 2e-9, rel=0.3)
    assert after[2**12]["quick"].seconds == pytest.approx(2e-6 + 2**12 * 2e-9, rel=0.3)
    assert after[2**24]["numpy"].seconds == pytest.approx(2**24 * 1e-8, rel=0.3)
    assert after[2**24]["quick"].source == "prior"
    assert after[2**24]["quick"].sigma < before["quick"].sigma


def test_a_slow_machine_is_not_counted_twice_where_both_dtypes_say_so():
    """Everything takes three times what the curves say; what the default shows in both is one and the same news."""
    priors = {f"op|{name}|{dtype}": curve(1e-9) for name in ("numpy", "quick") for dtype in ("float32", "float64")}
    state = State()
    model = Curves(state, priors=priors)
    for name, dtype in (("numpy", "float64"), ("quick", "float64"), ("numpy", "float32")):
        feed(state, site("op", name, 2**24, dtype), 3 * 2**24 * 1e-9)
    assert predicted(model, "op", 2**24, "float32")["quick"].seconds == pytest.approx(3 * 2**24 * 1e-9, rel=0.3)


def test_a_load_does_to_a_variant_here_what_it_did_to_it_elsewhere(learned):
    state, model = learned
    for operation in ("a", "b", "c"):
        feed(state, site(operation, "quick", 100), 8e-3, context="busy")  # it spins, and is stalled
        feed(state, site(operation, "numpy", 100), 4e-6, context="busy")
    feed(state, site("new", "numpy", 100), 4e-6)
    feed(state, site("new", "quick", 100), 2e-6)
    model.forget(None)
    quiet, busy = (predicted(model, "new", 100, context=context) for context in ("quiet", "busy"))
    assert quiet["quick"].seconds < quiet["numpy"].seconds
    assert busy["quick"].seconds > 100 * busy["numpy"].seconds


def test_first_calls_of_a_variant_cost_what_they_cost_elsewhere(learned):
    state, model = learned
    usual = model.compile_s(site("new", "quick", 100), "numba")
    assert usual == FIRST_CALL_S["numba"]  # while nothing was measured
    for operation in ("a", "b", "c", "d"):
        feed(state, site(operation, "quick", 100), 0.02, calls=1, compile_s=0.02)
        model.forget(None)
        before, usual = usual, model.compile_s(site("new", "quick", 100), "numba")
        assert 0.02 < usual < before
    assert usual < 0.4 * FIRST_CALL_S["numba"]


def test_a_warm_up_that_compiled_nothing_says_nothing_about_compiling(learned):
    state, model = learned
    feed(state, site("a", "quick", 100), 2.0, calls=1, compile_s=2.0)
    for size in (200, 400, 800):
        feed(state, site("a", "quick", size), 1e-4, calls=1, compile_s=WARMED_S)
    model.forget(None)
    assert model.compile_s(site("a", "quick", 1600), "numba") == pytest.approx(2.0)


@pytest.mark.parametrize("load", [Loaded(), Loaded(8e-3, 0.0), Loaded(0.0, 1.0), Loaded(4e-3, 0.5)])
def test_taking_a_load_off_undoes_putting_it_on(load):
    for seconds in (1e-2, 1.0):
        y = math.log2(seconds)
        assert load.taken_off(load.put_on(y)) == pytest.approx(y)


def test_data_that_lies_elsewhere_costs_its_way_here_and_back():
    """Measured with NumPy arrays; asked for torch's: the conversion to torch falls away, and another one comes in."""
    state = State()
    model = Curves(state, priors={})
    moves = {("", "torch"): 3e-3, ("torch", "numpy"): 2e-3}
    model.carry = lambda place, backend: moves.get((place.detail, backend), 0.0)
    for name, seconds in (("numpy", 1e-2), ("torch", 5e-3)):
        feed(state, site("op", name, 10**6), seconds)
    names = ("numpy", "torch")
    at_home, away = (
        [p.seconds for p in model.predict([site("op", n, 10**6, detail=d) for n in names], names, "quiet")]
        for d in ("", "torch")
    )
    assert at_home == pytest.approx([1e-2, 5e-3], rel=0.05)
    assert away == pytest.approx([1.2e-2, 2e-3], rel=0.05)


def test_moves_are_priced_by_bytes_for_every_operation():
    carry = Carriage(Curves(State(), priors={}))
    assert carry(site("anything", "numpy", 10**6), "numpy") == 0.0
    assert carry(site("anything", "torch", 10**6), "torch") < 1e-5  # shares memory
    small, large = (carry(site("anything", "jax", size), "jax") for size in (10**3, 10**7))
    assert large > 100 * small  # JAX copies
    assert home_of("order=0.5;torch") == "torch"
    assert home_of("order=0.5") == home_of("") == "numpy"


def test_a_watched_call_tells_what_its_conversions_took():
    request = Request.from_arrays("op", ((1000,),), "float64", {}, False, "torch")
    variant = Variant("numpy", "numpy", lambda: lambda x: x)
    split = Split(3e-3, 0.0, 1e-2, 0.0, False, 1e-3)
    there, back = moves_of(request, variant, split, np.zeros(500), NOW)
    assert (there.site.operation, there.seconds, there.site.size) == ("convert torch to numpy", 2e-3, 1000)
    assert (back.site.operation, back.seconds, back.site.size) == ("convert numpy to torch", 1e-3, 500)
    assert not list(moves_of(request, variant, split._replace(compiled=True), np.zeros(500), NOW))
