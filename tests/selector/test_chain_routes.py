"""Routes of chains: the least expected seconds, conversions charged, failures walked around, changes noticed."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pointsman as pm
import pytest
from chains import SIZE, led, places, plain
from pointsman.executors.errors import UnsupportedError
from pointsman.selector import journey, moves, route
from pointsman.selector.moves import Load
from pointsman.telemetry.outcome import Failure


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# ---------------------------------------------------------------------------------------------- the way


def test_conversions_are_charged_both_ways(double, shift, selector, teach, teach_moves):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(1000.0)
    teach(chain, x, "numpy", 1e-3)
    teach(chain, x, "torch", 1e-4)
    load = moves.load_of((x,), {})
    teach_moves(load, "numpy", "torch", 5e-4)
    told = chain.explain(x)
    assert places(told) == ["torch", "torch"]
    assert told.legs[0].convert_s == pytest.approx(5e-4, rel=0.05)
    assert told.back_s == pytest.approx(5e-4, rel=0.05)
    assert told.total_s == pytest.approx(12e-4, rel=0.1)
    assert told.alternatives["step by step"] == pytest.approx(20e-4, rel=0.1)
    for _ in range(3):
        teach_moves(load, "numpy", "torch", 2e-3)  # dearer than all that is saved
    assert places(chain.explain(x)) == ["numpy", "numpy"]


def test_no_ping_pong_for_one_step_that_is_faster_elsewhere(double, shift, selector, teach, teach_moves):
    chain, x = pm.chain(double, shift, double, selector=selector), np.arange(1000.0)
    teach(chain, x, "numpy", 1e-3)
    teach(chain, x, "numpy", 9e-4, variant="torch", steps=[1])
    teach(chain, x, "torch", 9e-4, steps=[1])
    teach(chain, x, "torch", 9e-3, steps=[0])
    teach_moves(moves.load_of((x,), {}), "numpy", "torch", 3e-4)
    assert places(chain.explain(x)) == ["numpy"] * 3


def test_the_way_may_change_libraries_in_the_middle(double, shift, selector, teach, teach_moves):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(1000.0)
    teach(chain, x, "numpy", 1e-3, steps=[0])
    teach(chain, x, "torch", 1e-2, steps=[0])
    teach(chain, x, "numpy", 1e-2, steps=[1])
    teach(chain, x, "numpy", 1e-2, steps=[1], variant="torch")
    teach(chain, x, "torch", 1e-3, steps=[1])
    teach_moves(moves.load_of((x,), {}), "numpy", "torch", 1e-5)
    assert places(chain.explain(x)) == ["numpy", "torch"]
    assert [chain(x)[3] for _ in range(3)] == [7.0] * 3


def test_a_gain_below_the_guard_changes_nothing(double, shift, selector, teach, teach_moves):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(1000.0)
    teach(chain, x, "numpy", 1e-3)
    teach(chain, x, "numpy", 1e-3, variant="torch")
    teach(chain, x, "torch", 0.97e-3)
    teach_moves(moves.load_of((x,), {}), "numpy", "torch", 1e-7)
    told = chain.explain(x)
    assert places(told) == ["numpy", "numpy"]
    assert "5%" in told.reason


def test_the_cheapest_way_is_found_of_all_there_are(rng):
    load = Load((1,), "float64", 1, 8)
    for _ in range(40):
        where, many = ("numpy", "torch", "jax"), 4
        cost = {(i, p): float(rng.exponential()) for i in range(many) for p in where}
        move = {(p, q): 0.0 if p == q else float(rng.exponential()) for p in where for q in where}
        planner = route._Planner.__new__(route._Planner)
        planner.noted = route.Noted("numpy", (None,) * many, (load,) * (many + 1))  # type: ignore[arg-type]
        planner.places = where
        planner.stops = [{p: route._Stop(None, p, cost[i, p]) for p in where} for i in range(many)]  # type: ignore[arg-type]
        planner.stops[2]["torch"] = None
        planner._move_s = lambda i, p, q, move=move: move[p, q]  # type: ignore[method-assign]
        ways = list(itertools.product(where, repeat=many))
        best = min(ways, key=planner._total)
        assert planner._cheapest() == best
        assert math.isinf(planner._total(("torch",) * many))


def test_what_was_measured_at_home_is_believed_elsewhere_less_its_conversions(
    double, shift, selector, teach, teach_moves
):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(1000.0)
    teach(chain, x, "numpy", 1e-3)
    teach(chain, x, "numpy", 1.4e-3, variant="torch")  # both conversions are in it: 1 ms
    teach_moves(moves.load_of((x,), {}), "numpy", "torch", 5e-4)
    told = chain.explain(x)
    assert places(told) == ["torch", "torch"]
    assert told.alternatives["all in torch"] == pytest.approx(1.8e-3, rel=0.1)


def test_steps_and_conversions_are_recorded_where_they_ran(filtering, teach, teach_moves, selector, rng):
    x = rng.standard_normal(SIZE)
    led(filtering, x, teach, teach_moves, "torch")
    filtering(x)  # watched
    selector.flush()
    before = {key: sketch.count for key, sketch in selector.history.state.cells.items()}
    for _ in range(7):
        filtering(x)
    selector.flush()
    grown = {
        (cell.operation, cell.variant, cell.detail, cell.dtype): sketch.count - before.get((cell, context), 0)
        for (cell, context), sketch in selector.history.state.cells.items()
        if sketch.count != before.get((cell, context), 0)
    }
    assert grown == {
        ("convert numpy to torch", "torch", "", "float64"): 7,
        ("fft", "torch", "torch", "float64"): 7,
        ("multiply", "torch", "torch", "complex128"): 7,
        ("inverse", "torch", "torch", "complex128"): 7,
        ("reduction", "torch", "torch", "float64"): 7,
        ("convert torch to numpy", "numpy", "", "float64"): 7,
    }


def test_learning_goes_on_and_the_way_follows_it(double, shift, selector, teach, teach_moves):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(1000.0)
    led(chain, x, teach, teach_moves, "torch")
    chain(x)
    assert places(chain.explain(x)) == ["torch", "torch"]
    selector.thaw()
    for _ in range(12):
        teach(chain, x, "torch", 0.5)
    assert places(chain.explain(x)) == ["numpy", "numpy"]
    assert chain(x)[1] == 3.0


def test_a_known_signature_goes_by_the_tables_alone(filtering, teach, teach_moves, rng, monkeypatch):
    x = rng.standard_normal(SIZE)
    led(filtering, x, teach, teach_moves, "torch")
    filtering(x)

    def fail(*_, **__):
        raise AssertionError("decided anew")

    monkeypatch.setattr(filtering, "_slow", fail)
    monkeypatch.setattr("pointsman.selector.engine.Engine.choose", fail)
    assert [float(filtering(x)) for _ in range(100)] == pytest.approx([plain(x)] * 100)


def test_trials_are_made_as_in_single_calls(make, history, teach):
    selector = make(explore=0.5)

    @pm.adaptive(name="tried", pure=True, selector=selector)
    def tried(x, *, xp=None):
        return x * 2.0

    chain, x = pm.chain(tried, tried, selector=selector), np.arange(1000.0)
    for _ in range(3):
        chain(x)  # known, and nothing to be tried: so little is at stake
    assert not next(iter(chain._journeys.values())).careful
    teach(chain, x, "numpy", 0.05)
    tickets = [leg.choice.tickets[:] for leg in chain._journey(None, chain._noted[next(iter(chain._noted))]).legs]
    assert any(tickets)
    for _ in range(3):
        assert chain(x)[2] == 8.0
        selector.flush()
    cells = history.state.of("tried", "float64")
    assert any(sketch.chosen["explore"] for sketch in cells.values())


@pytest.mark.parametrize("changes", [{"mode": "off"}, {"mode": "observe"}, {"learning": False}])
def test_without_choosing_every_result_comes_home(make, changes, teach, teach_moves):
    learning = changes.pop("learning", True)
    selector = make(learning, explore=0, **changes)

    @pm.adaptive(name="twice", pure=True, selector=selector)
    def twice(x, *, xp=None):
        return x * 2.0

    chain, x = pm.chain(twice, twice, selector=selector), np.arange(4.0)
    assert [chain(x)[1] for _ in range(4)] == [4.0] * 4
    told = chain.explain(x)
    assert places(told) == ["numpy", "numpy"]
    assert list(told.alternatives) == ["step by step"]


def test_a_scope_binds_every_step_and_leaves_with_it(double, shift, selector):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(4.0)
    chain(x), chain(x)
    with pm.use("torch"):
        assert [chain(x)[1] for _ in range(3)] == [3.0] * 3
        assert {leg.variant for leg in chain.explain(x).legs} == {"torch"}
    assert {leg.variant for leg in chain.explain(x).legs} == {"numpy"}


# ---------------------------------------------------------------------------------------------- failures, changes


def broken(operation, times):
    """An operation whose fast variant fails a few times, as an executor does."""
    left = [times]

    def fast(x):
        if left[0]:
            left[0] -= 1
            raise UnsupportedError("not today")
        return x * 2.0

    return operation("breaks", plain=lambda x: x * 2.0, fast=fast), left


def test_a_failing_step_falls_back_and_the_way_is_found_again(selector, operation, shift, teach):
    _, left = broken(operation, 0)
    chain, x = pm.chain(shift, "breaks", shift, selector=selector), np.ones(3)
    chain(x)
    teach(chain, x, "numpy", 1e-2, variant="plain", steps=[1])
    teach(chain, x, "numpy", 1e-6, variant="fast", steps=[1])
    assert [chain(x)[0] for _ in range(3)] == [5.0] * 3
    assert chain.explain(x).legs[1].variant == "fast"
    left[0] = 1
    assert chain(x)[0] == 5.0
    assert chain.explain(x).legs[1].variant == "plain"
    assert chain(x)[0] == 5.0
    selector.flush()
    failed = [s.failures for (c, _), s in selector.history.state.cells.items() if c.variant == "fast"]
    assert sum(count[Failure.UNSUPPORTED] for count in failed) == 1


def test_the_callers_own_error_comes_out_unchanged(selector, double):
    class Mine(Exception):
        pass

    asked = []

    @pm.adaptive(name="picky", selector=selector)
    def picky(x, *, xp=None):
        if asked:
            raise Mine("no")
        return x

    chain = pm.chain(double, picky, selector=selector)
    for _ in range(3):
        chain(np.ones(2))
    asked.append(True)
    for _ in range(2):
        with pytest.raises(Mine, match=r"^no$"):
            chain(np.ones(2))
    asked.clear()
    assert chain(np.ones(2)).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("when", ["at once", "later"])
def test_an_operand_that_cannot_be_brought_there_stays(filtering, teach, teach_moves, rng, monkeypatch, when):
    x = rng.standard_normal(SIZE)
    led(filtering, x, teach, teach_moves, "torch")
    tried = []

    def refuse(_):
        tried.append(True)
        raise UnsupportedError("no room")

    if when == "at once":
        made = journey.mover
        monkeypatch.setattr(journey, "mover", lambda one, other: refuse if other == "torch" else made(one, other))
    else:
        filtering(x), filtering(x)
        first = next(iter(filtering._journeys.values())).legs[0]
        first.into = first.into_timed = refuse
    for _ in range(4):
        assert float(filtering(x)) == pytest.approx(plain(x), rel=1e-12)
    assert len(tried) == (1 if when == "at once" else 2)  # a known way is tried once more, with care
    assert places(filtering.explain(x)) == ["numpy"] * 4


def test_a_new_variant_and_a_new_definition_count_at_once(selector, operation, double):
    operation("again", plain=lambda x: x + 1.0)
    chain = pm.chain("again", double, selector=selector)
    assert [chain(np.zeros(2))[0] for _ in range(4)] == [2.0] * 4
    operation("again", plain=lambda x: x + 5.0)
    assert [chain(np.zeros(2))[0] for _ in range(4)] == [10.0] * 4

    @double.variant("numpy", name="mine")
    def mine(x):
        return x * 2.0

    chain(np.zeros(2)), chain(np.zeros(2))
    assert chain._journeys[next(iter(chain._journeys))].legs[1].choice.variants["mine"]


def test_settings_and_resets_drop_the_way(selector, double, shift):
    chain, x = pm.chain(double, shift, selector=selector), np.ones(2)
    chain(x), chain(x)
    assert chain._journeys
    selector.reset_performance_history()
    assert not chain._journeys
    assert chain(x).tolist() == [3.0, 3.0]


def test_threads_share_a_chain(filtering, rng):
    data = [rng.standard_normal(SIZE) for _ in range(8)]
    wrong = []

    def work(x):
        for _ in range(30):
            if float(filtering(x)) != pytest.approx(plain(x), rel=1e-12):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(x,)) for x in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------------------------------------- telling


def test_explain_tells_each_step_and_runs_nothing(filtering, teach, teach_moves, rng, monkeypatch):
    x = rng.standard_normal(SIZE)
    unknown = filtering.explain(x)
    assert unknown.legs == ()
    assert "not known yet" in str(unknown)
    led(filtering, x, teach, teach_moves, "torch")
    recorded = len(filtering._dispatchers()[0].engine.history.buffer)
    told = filtering.explain(x)
    assert len(filtering._dispatchers()[0].engine.history.buffer) == recorded
    text = str(told)
    for part in ("fft 512 float64", "torch", "all in torch", "step by step", "faster than bringing every result back"):
        assert part in text
    data = told.to_json()
    assert [leg["operation"] for leg in data["legs"]] == ["fft", "multiply", "inverse", "reduction"]
    assert data["total_s"] < data["alternatives"]["step by step"]
    assert "<pre>" in told._repr_html_()
