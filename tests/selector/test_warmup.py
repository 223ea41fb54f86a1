"""Warm-up: compiled ahead, told, and counted neither as calls nor as trials."""

from __future__ import annotations

import numpy as np
import pointsman as pm
import pytest
import torch
from pointsman.executors import registry
from pointsman.executors.errors import UnsupportedError
from pointsman.selector import operations
from pointsman.selector.adaptive import adaptive
from pointsman.selector.learner import Learner
from pointsman.selector.warmup import warm_up
from pointsman.telemetry.outcome import Failure, Outcome


@pytest.fixture
def toy(toy):
    registry.ensure("numpy")  # its check counts as an import
    return toy


def sketches(selector):
    selector.flush()
    return {cell.variant: sketch for (cell, _), sketch in selector.history.state.cells.items() if cell.dtype}


def warm(made, *shapes, dtype="float64", variants="all", **parameters):
    return warm_up(made, shapes, dtype, variants, parameters)


def test_the_next_call_is_steady_and_the_first_ones_are_cold(toy):
    made, selector = toy(plain=lambda x: x + 1.0, other=lambda x: x + 1.0)
    rows = list(warm(made, (1000,)))
    assert [row.variant for row in rows] == ["plain", "other"]
    assert all(row.seconds is not None for row in rows)
    assert {name: (s.count, s.cold_count) for name, s in sketches(selector).items()} == {
        "plain": (0, 1), "other": (0, 1),
    }  # fmt: skip
    made(np.ones(1000))
    assert (sketches(selector)["plain"].count, sketches(selector)["plain"].cold_count) == (1, 1)


def test_it_is_neither_a_call_nor_a_trial(toy):
    made, selector = toy(plain=lambda x: x + 1.0, other=lambda x: x + 1.0)
    warm(made, (1000,), (10, 10))
    selector.flush()
    ledger = selector._engine.learner.ledger
    assert (ledger.trials, ledger.actual_s, ledger.explored_s) == (0, 0.0, 0.0)
    assert made.explain(np.ones(1000)).calls == 1.0


def test_what_is_warm_is_left_alone(toy):
    made, selector = toy(plain=lambda x: x + 1.0)
    warm(made, (1000,))
    (row,) = warm(made, (1000,))
    assert (row.seconds, row.why) == (0.0, "warm already")
    assert sketches(selector)["plain"].cold_count == 1


def test_without_a_wish_the_hopeless_stay_cold(toy):
    made, selector = toy(plain=lambda x: x, other=lambda x: x, third=lambda x: x)
    request = made.request((np.ones(1000),), {})
    for name, seconds in {"plain": 1e-3, "other": 1.0, "third": 1e-4}.items():
        for _ in range(8):
            selector.history.record(
                Outcome(request.site(made.operation.variant(name)), selector.history.now(), seconds)
            )
    selector.flush()
    assert [row.variant for row in warm(made, (1000,), variants=None)] == ["third"]


def test_variants_go_by_their_own_name_or_their_backends(toy):
    made, _ = toy(plain=lambda x: x, other=lambda x: x)
    assert [row.variant for row in warm(made, (10,), variants=["other"])] == ["other"]
    assert [row.variant for row in warm(made, (20,), variants="numpy")] == ["plain", "other"]
    with pytest.raises(ValueError, match=r"no variant is called 'othr'.*plain, other"):
        warm(made, (10,), variants=["othr"])


def test_a_listed_failure_is_told_recorded_and_not_raised(toy):
    def refuses(x):
        raise UnsupportedError("not here")

    made, selector = toy(plain=lambda x: x, other=refuses)
    plain, other = warm(made, (1000,))
    assert plain.seconds is not None
    assert other.seconds is None
    assert "unsupported" in other.why
    assert "not here" in other.why
    assert sketches(selector)["other"].failures == {Failure.UNSUPPORTED: 1}
    assert made.explain(np.ones(1000)).chain == ("plain",)


def test_an_unlisted_error_is_settled_by_the_default(toy):
    def breaks(x):
        raise RuntimeError("of this variant alone")

    made, selector = toy(plain=lambda x: x, other=breaks)
    _, other = warm(made, (1000,))
    assert "of this variant alone" in other.why
    assert sketches(selector)["other"].failures == {Failure.UNSUPPORTED: 1}
    made, _ = toy(rerun=False, plain=lambda x: x, other=breaks)
    with pytest.raises(RuntimeError, match="of this variant alone"):
        warm(made, (1000,))


def test_an_error_of_the_function_itself_comes_out(selector):
    @adaptive(selector=selector, name="wrong")
    def wrong(x, *, xp=None):
        raise ZeroDivisionError("my own")

    with pytest.raises(ZeroDivisionError, match="my own"):
        wrong.warmup((10,))


@pytest.mark.parametrize("kind", ["shape", "numpy", "torch"])
def test_an_adaptive_function_takes_shapes_and_examples(anomaly, selector, kind):
    x = {"shape": (3, 5), "numpy": np.ones((3, 5)), "torch": torch.ones((3, 5), dtype=torch.float64)}[kind]
    rows = list(anomaly.warmup(x, variants=["numpy", "torch"]))
    assert sorted(row.variant for row in rows if row.seconds is not None) == ["numpy", "torch"]
    assert all(row.why for row in rows if row.seconds is None)
    assert all(s.count == 0 for s in sketches(selector).values())


def test_operands_of_one_call_stand_in_one_tuple(selector):
    @adaptive(selector=selector, name="scaled")
    def scaled(x, y, *, factor=1.0, xp=None):
        return xp.sum(x) * y * factor

    (row,) = scaled.warmup(((10,), (3, 4)), variants=["numpy"], factor=2.0)
    assert row.workload == "scaled 10 3x4 float64"
    (row,) = scaled.warmup((np.ones(10), 2.0), variants=["numpy"])
    assert row.workload == "scaled 10 float64"
    with pytest.raises(TypeError, match="found 'ten'; give a shape"):
        scaled.warmup("ten")
    with pytest.raises(ValueError, match="at least one shape"):
        scaled.warmup()


def test_a_built_in_operation_is_warmed_by_name():
    report = pm.warmup("matmul", ((8, 8), (8, 2)), (np.ones((4, 4)), np.ones((4, 4))), variants=["numpy"])
    assert [row.workload for row in report] == ["matmul 8x8 8x2 float64", "matmul 4x4 4x4 float64"]
    assert "matmul 8x8 8x2 float64\n  numpy" in str(report)
    with pytest.raises(TypeError) as caught:
        pm.warmup("matmul", (8, 8), (8, 2))
    assert "operands of a call go into one tuple" in caught.value.__notes__[0]


def test_numbers_alone_are_no_shape(toy):
    made, _ = toy(plain=lambda x: x)
    for given in ((2.5,), (10, 2.5), []):
        with pytest.raises(TypeError, match="give a shape such as"):
            warm(made, (10,), given)


def test_naming_no_variant_is_a_slip(toy):
    made, _ = toy(plain=lambda x: x)
    with pytest.raises(ValueError, match="no variant is named; give names, 'all', or None"):
        warm(made, (10,), variants=[])


def test_a_shape_beyond_this_machine_is_told_and_the_others_are_warmed(toy):
    made, _ = toy(plain=lambda x: x + 1.0)
    beyond, further, fits = warm(made, (10**12,), (10**400,), (10,))
    assert (beyond.variant, beyond.seconds) == ("", None)
    assert "do not fit here" in beyond.why
    assert "do not fit here" in further.why
    assert (fits.variant, fits.seconds is None) == ("plain", False)


def test_a_method_is_warmed_for_its_instance(selector):
    class Scale:
        factor = 3.0

        @adaptive(selector=selector, name="scale")
        def apply(self, x, *, xp=None):
            return self.factor * x

    (row,) = Scale().apply.warmup((10,), variants=["numpy"])
    assert (row.workload, row.seconds is None) == ("scale 10 float64", False)


def test_data_that_is_nothing_to_do_leaves_the_compilation_to_come(make):
    """A grid without inner points is its own result: Numba compiles nothing, and the next call is no warm one."""
    dispatcher = make().dispatcher("iterative")
    variant = operations.find("iterative").variant("numba")
    for size, warm in ((2, False), (4, True)):
        u = np.zeros((size, size))
        with pm.use("numba"):
            dispatcher(u, sweeps=1)
        assert dispatcher.engine.is_warm(dispatcher.request((u,), {"sweeps": 1}), variant) is warm


def test_what_a_trial_took_is_judged_with_its_conversions(make, monkeypatch, history):
    """Against what runs, whose time holds them too: computing alone may be quicker, and the call not."""
    judged, once_s = [], Learner.once_s

    def spy(self, site, seconds, **more):
        judged.append((site, seconds))
        return once_s(self, site, seconds, **more)

    monkeypatch.setattr(Learner, "once_s", spy)
    told = []
    history.subscribe(lambda outcomes, _: told.extend(outcomes))
    with pm.use("jax"):
        make().dispatcher("fft")(np.ones(1000))
    history.flush()
    found = [(o.site, o.seconds) for o in told if o.site.operation == "fft"]
    assert found == judged
    assert all(o.convert_s > 0.0 and o.compile_s <= o.seconds - o.convert_s for o in told if o.site.operation == "fft")
