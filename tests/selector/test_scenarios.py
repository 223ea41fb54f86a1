"""Scripted scenarios on the live selector: what it must do when something goes wrong, and no sooner.

Toy operations move the clock by scripted seconds; each flush is one learned batch. Nothing sleeps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import pytest
from pointsman.executors import fallback, prepare, registry
from pointsman.executors.base import Variant
from pointsman.executors.breaker import Breakers
from pointsman.selector import dispatch, operations
from pointsman.selector.costs import Curves
from pointsman.selector.ledger import ALLOWANCE_S
from pointsman.selector.operations import Operation
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.telemetry.outcome import Failure, Outcome

GIB = 2**30
Seconds = Callable[[int], float]


class World:
    """Calls of an operation "toy" whose variants take scripted seconds, by a clock that nothing else moves.

    Attributes
    ----------
    takes : variant -> seconds of a call, as a function of the size; may be replaced at any time.
    attempts : (variant, size) of every attempt, those that raise included.
    """

    def __init__(self, selector, clock, takes: Mapping[str, Seconds]) -> None:
        self.selector, self.clock, self.takes = selector, clock, dict(takes)
        self.attempts: list[tuple[str, int]] = []
        self.started = clock.now

    @property
    def spent_s(self) -> float:
        return self.clock.now - self.started

    def run(self, name: str, x):
        self.attempts.append((name, x.size))
        self.clock.advance(self.takes[name](x.size))
        return x

    def teach(self, size: int, seconds: Mapping[str, float], times: int = 8) -> None:
        """Record what the variants took at a size, as if they had run."""
        dispatcher = self.selector.dispatcher("toy")
        request = dispatcher.request((np.ones(size),), {})
        for name, taken in seconds.items():
            site = request.site(dispatcher.operation.variant(name))
            for _ in range(times):
                self.clock.advance(1.0)
                self.selector.history.record(Outcome(site, self.clock(), taken))
        self.selector.flush()

    def calls(self, number: int, size: int = 1000, batch: int = 5) -> list[str]:
        """Make so many calls, learning after each batch; the variant that gave each result."""
        x, ran = np.ones(size), []
        for made in range(1, number + 1):
            assert self.selector.run("toy", x) is not None
            ran.append(self.attempts[-1][0])
            if made % batch == 0:
                self.selector.flush()
        return ran


@pytest.fixture
def world(make, clock, history, gpu, monkeypatch):
    """`world(plain=f, other=g)`: a world of these variants, in canonical order, the first being the default.

    Options: `explore`, `priors` (shipped curves), `compiles` (by variant), `workspace` (bytes by size), `selector`.
    """
    monkeypatch.setattr(dispatch, "perf_counter", clock)
    monkeypatch.setattr(prepare, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setitem(fallback.run_chain.__kwdefaults__, "clock", clock)

    def build(
        explore: float = 0.0, priors: Mapping[str, object] | None = None, compiles: Mapping[str, str] | None = None,
        workspace: Callable[[int], float] | None = None, **takes: Seconds,
    ) -> World:  # fmt: skip
        selector = IntelligentBackendSelector(
            history=history, settings=Settings().updated(explore=explore), gpu_memory=gpu(None),
            host_budget=lambda: 64 * GIB, breakers=Breakers(clock), costs=Curves(history.state, priors=priors or {}),
        )  # fmt: skip
        made = World(selector, clock, takes)
        variants = tuple(
            Variant(
                name, "numpy", lambda name=name: lambda x: made.run(name, x),
                compiles=(compiles or {}).get(name, "never"),
                workspace=None if workspace is None else lambda shapes, _: workspace(math.prod(shapes[0])),
            )
            for name in takes
        )  # fmt: skip
        operations.register_operation(Operation(name="toy", variants=variants))
        return made

    return build


def always(seconds: float) -> Seconds:
    return lambda size: seconds


# ---- outliers, stalls, steps


@pytest.mark.usefixtures("all_imported")
@pytest.mark.parametrize("odd", [300.0, 1 / 300.0], ids=["slow", "fast"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_single_time_300x_off_changes_nothing(make, feed, workload, backend, odd):
    """Neither the choice nor its rule, and what is expected of either by a few per cent at most."""
    usual = {"numpy": 2e-3, "torch": 1e-3}
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, usual, times=20)
    before = selector.decide(w)
    feed(selector, w, {backend: [odd * usual[backend]]})
    for _ in range(2):  # at once, and when more has come
        after = selector.decide(w)
        assert (after.variant, after.rule) == ("torch", before.rule)
        for name in usual:
            expected = before.candidate(name).prediction.seconds
            assert after.candidate(name).prediction.seconds == pytest.approx(expected, rel=0.05)
        feed(selector, w, usual, times=3)


@pytest.mark.usefixtures("all_imported")
def test_stalls_on_one_call_in_a_hundred_are_priced_in_and_one_alone_is_not(make, feed, workload):
    """By its median torch is 10 % faster; one call in a hundred stalls for 20 ms, which costs 0.2 ms a call."""
    rare, often = workload(10**5, operation="rare"), workload(10**5, operation="often")
    selector = make(explore=0)
    calm = [1e-3] * 99
    feed(selector, rare, {"numpy": 1.1e-3, "torch": [*calm, *calm, 0.021, *calm, *calm]}, times=400)
    feed(selector, often, {"numpy": 1.1e-3, "torch": ([*calm[:50], 0.021, *calm[:49]]) * 10}, times=400)
    assert selector.decide(rare).variant == "torch"
    assert selector.decide(often).variant == "numpy"
    expected = selector.decide(often).candidate("torch").prediction
    assert expected.seconds == pytest.approx(1.2e-3, rel=0.04)
    assert selector.decide(rare).candidate("torch").prediction.seconds == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_variant_that_becomes_three_times_slower_is_left_within_ten_calls(world, batch):
    toy = world(plain=always(2e-3), other=always(1e-3))
    toy.teach(1000, {"plain": 2e-3, "other": 1e-3}, times=300)
    assert toy.calls(20, batch=batch) == ["other"] * 20
    toy.takes["other"] = always(3e-3)
    toy.calls(10, batch=batch)
    assert toy.calls(30, batch=batch) == ["plain"] * 30


def test_four_slow_calls_in_a_row_are_no_step(world):
    toy = world(plain=always(2e-3), other=always(1e-3))
    toy.teach(1000, {"plain": 2e-3, "other": 1e-3}, times=300)
    toy.takes["other"] = always(3e-3)
    assert toy.calls(4, batch=2) == ["other"] * 4
    toy.takes["other"] = always(1e-3)
    assert toy.calls(20, batch=2) == ["other"] * 20


# ---- failures, memory


class Flaky(RuntimeError):
    pass


@pytest.mark.parametrize("unit", [1e-3, 1.0], ids=["calls of a millisecond", "calls of a second"])
def test_a_variant_that_fails_in_four_of_ten_calls_is_left(world, monkeypatch, unit):
    """It is faster whenever it works, and costs more than the default all in all: 0.8 + 0.4 x 1 against 1."""
    classify = registry.executor("numpy").classify
    monkeypatch.setattr(
        registry.executor("numpy"), "classify", lambda e: Failure.DRIVER if isinstance(e, Flaky) else classify(e)
    )
    toy = world(plain=always(unit), other=always(0.8 * unit))
    toy.teach(1000, {"plain": unit, "other": 0.8 * unit}, times=30)
    tried = Counter()

    def flaky(size: int) -> float:
        tried["other"] += 1
        if tried["other"] % 5 in (0, 2):
            toy.clock.advance(0.8 * unit)
            raise Flaky("lost the device")
        return 0.8 * unit

    toy.takes["other"] = flaky
    toy.started = toy.clock.now
    toy.calls(400)
    assert toy.spent_s < 1.05 * 400 * unit
    late = [name for name, _ in toy.attempts][-200:]
    assert late.count("other") <= 10


def test_what_did_not_fit_keeps_larger_sizes_off_and_smaller_ones_go_on(world):
    toy = world(plain=always(1e-2), other=always(1e-3), workspace=lambda size: size * 2**20)
    for size in (1000, 4000, 16_000):
        toy.teach(size, {"plain": 1e-2, "other": 1e-3})

    def full(size: int) -> float:
        if size >= 4000:
            raise MemoryError("no room")
        return 1e-3

    toy.takes["other"] = full
    assert toy.calls(3, 1000) == ["other"] * 3
    assert toy.calls(1, 4000) == ["plain"]
    failed = toy.attempts.count(("other", 4000))
    assert failed in (1, 2)  # once more after caches were freed
    assert toy.calls(5, 4000) == ["plain"] * 5
    assert toy.calls(5, 16_000) == ["plain"] * 5
    assert toy.attempts.count(("other", 4000)) == failed
    assert ("other", 16_000) not in toy.attempts
    assert toy.calls(5, 1000) == ["other"] * 5
    assert toy.calls(5, 2000) == ["other"] * 5  # larger than what is known to fit, smaller than what failed
    excluded = dict(toy.selector.dispatcher("toy").explain(np.ones(16_000)).excluded)
    assert "4,000.1 MiB failed" in excluded["other"]


# ---- novel shapes


def _flat(seconds: float, first_s: float = 0.0) -> dict[str, object]:
    """A shipped curve that says the same at every size."""
    return {"points": [[x, math.log2(seconds)] for x in range(41)], "first_s": first_s}


def test_a_storm_of_new_shapes_sends_nothing_to_a_per_shape_compiler(world):
    """It is known to be ten times faster once compiled, and compiling takes as long as 150 calls without it."""
    seen = set()

    def jitted(size: int) -> float:
        first = size not in seen
        seen.add(size)
        return 0.15 if first else 1e-4

    priors = {"toy|plain|float64": _flat(1e-3), "toy|jitted|float64": _flat(1e-4, first_s=0.15)}
    toy = world(explore=0.02, priors=priors, compiles={"jitted": "shape"}, plain=always(1e-3), jitted=jitted)
    for size in range(5000, 5600):
        toy.calls(1, size, batch=1)
    assert Counter(name for name, _ in toy.attempts) == {"plain": 600}
    assert toy.calls(2000, 7000, batch=20)[-1000:] == ["jitted"] * 1000  # one that comes back is worth it
    assert seen == {7000}


def test_a_shape_compiled_for_its_own_sake_sends_no_new_shape_of_its_class_after_it(world):
    priors = {"toy|plain|float64": _flat(1e-3), "toy|jitted|float64": _flat(1e-4, first_s=0.15)}
    toy = world(explore=0.02, priors=priors, compiles={"jitted": "shape"}, plain=always(1e-3), jitted=always(1e-4))
    toy.teach(7000, {"plain": 1e-3})
    toy.takes["jitted"] = lambda size: 1e-4 if ("jitted", size) in toy.attempts[:-1] else 0.15
    assert toy.calls(2000, 7000, batch=20)[-1000:] == ["jitted"] * 1000
    for size in range(7001, 7101):
        toy.calls(1, size, batch=1)
    assert {size for name, size in toy.attempts if name == "jitted"} == {7000}


# ---- load


@pytest.mark.usefixtures("all_imported")
def test_a_busy_phase_ends_without_a_trace(make, feed, workload):
    """While others compute, torch takes twenty times as long; afterwards it is chosen and expected as before."""
    selector, w = make(explore=0), workload(10**5)
    feed(selector, w, {"numpy": 2e-3, "torch": 1e-3}, times=30)
    engine, state = selector._engine, selector.history.state
    assert selector.decide(w).variant == "torch"
    expected = selector.decide(w).candidate("torch").prediction.seconds
    quiet = {key: sketch for key, sketch in state.cells.items() if key[1] == "quiet"}
    for _ in range(10):
        feed(selector, w, {"torch": [2e-2]}, context="busy")
    assert engine.learner.context == "busy"
    assert selector.decide(w).variant == "numpy"
    feed(selector, w, {"numpy": 2.1e-3}, context="busy", times=50)
    assert selector.decide(w).variant == "numpy"
    assert {key: sketch for key, sketch in state.cells.items() if key[1] == "quiet"} == quiet
    for _ in range(10):
        feed(selector, w, {"numpy": [2e-3]})
    assert engine.learner.context == "quiet"
    assert selector.decide(w).variant == "torch"
    assert selector.decide(w).candidate("torch").prediction.seconds == pytest.approx(expected, rel=0.02)
    assert not selector.decide(w).excluded or "torch" not in dict(selector.decide(w).excluded)


@pytest.mark.usefixtures("all_imported")
def test_a_busy_phase_is_noticed_within_ten_calls_and_so_is_its_end(make, feed, workload):
    """Both loads are known from before; the machine changes, and calls come two to a batch."""
    takes = {"quiet": {"numpy": 2e-3, "torch": 1e-3}, "busy": {"numpy": 2.1e-3, "torch": 2e-2}}
    selector, w = make(explore=0), workload(10**5)
    for load in ("busy", "quiet"):
        for _ in range(2):
            feed(selector, w, takes[load], times=30, context=load)
    for load, best in (("quiet", "torch"), ("busy", "numpy"), ("quiet", "torch"), ("busy", "numpy")):
        for _ in range(5):
            ran = selector.select_backend(w)
            feed(selector, w, {ran: [takes[load][ran]] * 2}, context=load)
        assert selector.select_backend(w) == best


# ---- an accelerator that loses


def test_an_accelerator_that_loses_on_small_data_is_used_for_large_data_alone(world):
    """Two milliseconds to get there: 350 times slower at a dozen elements, twice as fast at a hundred thousand."""
    toy = world(explore=0.02, plain=lambda n: 5e-6 + 5e-8 * n, far=lambda n: 2e-3 + 2e-9 * n)
    for _ in range(40):
        for size in (12, 1000, 100_000):
            toy.calls(20, size, batch=10)
    far = Counter(size for name, size in toy.attempts if name == "far")
    assert far[12] + far[1000] <= 4  # looked at, and left
    assert toy.calls(40, 12) == ["plain"] * 40
    assert toy.calls(40, 1000) == ["plain"] * 40
    assert toy.calls(40, 100_000) == ["far"] * 40
    best = 800 * (5e-6 + 6e-7 + 5e-6 + 5e-5 + 2.2e-3)
    assert toy.spent_s < 1.25 * best


# ---- priors


def test_a_prior_that_promises_a_thousandth_costs_one_batch(world):
    """It says 1 us where 1 ms is the truth, against a default of 0.1 ms: what believing it costs is told at once."""
    priors = {"toy|plain|float64": _flat(1e-4), "toy|other|float64": _flat(1e-6)}
    toy = world(explore=0.02, priors=priors, plain=always(1e-4), other=always(1e-3))
    ran = toy.calls(500, batch=5)
    assert ran.count("other") <= 10  # the first batch holds one cold call, which says nothing of the steady time
    assert ran[20:] == ["plain"] * 480
    assert toy.spent_s < 500 * 1e-4 + 10 * 1e-3


def test_a_prior_that_threatens_a_thousandfold_is_found_out_within_the_budget(world):
    """It says 100 ms where 0.1 ms is the truth, against a default of 1 ms."""
    priors = {"toy|plain|float64": _flat(1e-3), "toy|other|float64": _flat(0.1)}
    toy = world(explore=0.02, priors=priors, plain=always(1e-3), other=always(1e-4))
    ran = toy.calls(20_000, batch=50)
    assert ran[-100:] == ["other"] * 100
    assert toy.spent_s < 20_000 * 1e-3 * 1.02 + ALLOWANCE_S


def test_a_machine_a_thousand_times_slower_than_every_prior_keeps_their_order(world):
    """Both curves are wrong alike: one batch of the other is what that costs, and nothing has to be explored."""
    priors = {"toy|plain|float64": _flat(1e-6), "toy|other|float64": _flat(2e-7)}
    toy = world(explore=0.0, priors=priors, plain=always(1e-3), other=always(2e-4))
    assert toy.calls(20).count("plain") <= 5
    assert toy.calls(100) == ["other"] * 100
