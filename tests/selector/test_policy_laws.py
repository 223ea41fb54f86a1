"""Laws that hold for whatever happens: constraints, the ledger, order of arrival, replay, freezing, protection."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.breaker import Breakers
from pointsman.executors.errors import NoCandidateError
from pointsman.selector import operations
from pointsman.selector.costs import Curves
from pointsman.selector.learner import Learner, Option
from pointsman.selector.ledger import ALLOWANCE_S
from pointsman.selector.operations import Operation
from pointsman.selector.policy import ValueOfInformation
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.history import History
from pointsman.telemetry.memory import GpuMemory
from pointsman.telemetry.outcome import Outcome, Site

pytestmark = pytest.mark.usefixtures("all_imported")
# The fixtures say which libraries count as imported and put back what was registered: the same for every example.
# The examples are always the same; a failing one is shown as it was found, for to make it smaller takes minutes.
LAWS = settings(
    max_examples=25, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
BACKENDS = ("numpy", "scipy", "numba", "torch", "jax")
SIZES = (100, 10**4, 10**6)
SHARE = 0.02
EPOCH_S = 1.7e9


class Clock:
    def __init__(self, now: float = EPOCH_S) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class NoGpu:
    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        raise self.NVMLError("none")


def selector_on(history: History, clock: Clock, host: int = 2**36, **changes) -> IntelligentBackendSelector:
    return IntelligentBackendSelector(
        history=history, settings=Settings().updated(**changes), gpu_memory=GpuMemory(NoGpu()),
        host_budget=lambda: host, breakers=Breakers(clock), costs=Curves(history.state, priors={}),
    )  # fmt: skip


def new_history(clock: Clock) -> History:
    return History(None, background=False, clock=clock, monotonic=clock)


seconds = st.floats(1e-7, 10.0)


# ---- constraints


@st.composite
def constrained(draw: st.DrawFn) -> dict[str, object]:
    asked: dict[str, object] = {"data_size": draw(st.sampled_from(SIZES)), "operation_type": "anything"}
    asked["dtype"] = draw(st.sampled_from(["float64", "float32", "complex128"]))
    asked["requires_gradient"] = draw(st.booleans())
    asked["deterministic"] = draw(st.booleans())
    if draw(st.booleans()):
        asked["require"] = draw(st.sampled_from([*BACKENDS, "cpu"]))
    if draw(st.booleans()):
        asked["bytes"] = draw(st.sampled_from([2**20, 2**31, 2**40]))
    return asked


@LAWS
@given(
    constrained(), st.dictionaries(st.sampled_from(BACKENDS), seconds, min_size=1),
    st.sets(st.sampled_from(BACKENDS[1:]), max_size=2), st.integers(0, 400),
)  # fmt: skip
def test_no_time_makes_a_choice_or_a_trial_break_a_constraint(asked, taken, disabled, times):
    """Whatever was measured, and however much is at stake: nothing in the chain may violate what was asked for."""
    clock = Clock()
    selector = selector_on(new_history(clock), clock, host=2**36, explore=1.0, disable=",".join(sorted(disabled)))
    plain = WorkloadCharacteristics(
        operation_type="anything", data_size=asked["data_size"], dtype=asked["dtype"],
        requires_gradient=asked["requires_gradient"],
    )  # fmt: skip
    for backend, took in taken.items():
        site = selector.sites.of(plain, backend)
        selector.history.record(Outcome(site, clock(), took, calls=max(times, 1)))
    selector.flush()
    try:
        decision = selector.decide(WorkloadCharacteristics(**asked))
    except NoCandidateError:
        assert asked.get("require") or asked.get("bytes") == 2**40 or asked["requires_gradient"]
        return
    named = {*decision.chain, *([decision.trial] if decision.trial else [])}
    assert decision.variant in named
    assert not {name.partition("@")[0].partition("/")[0] for name in named} & disabled
    assert all("@" not in name for name in named)  # there is no GPU
    if asked["requires_gradient"]:
        assert named <= {"torch", "jax"}
    if asked.get("require") in BACKENDS:
        assert named == {asked["require"]}
    if asked["deterministic"]:
        assert decision.trial is None
        assert all(registry.executor(name).capabilities.deterministic for name in named)
    assert asked.get("bytes") != 2**40  # more than the host has


# ---- the ledger, and replay


class Step(NamedTuple):
    """One call of a driven learner: what ran, why, what it took; of a trial what it and all that are out may lose, and
    what the ledger's sums allow."""

    variant: str
    rule: str
    seconds: float
    at_risk_s: float
    credit_s: float


def drive(seed: int, calls: int, *, explore: float = SHARE, batch: int = 4) -> tuple[list[Step], Learner]:
    """Have a learner run calls whose costs are drawn, no trial's beyond the bound that was announced for it.

    A variant's cost at a size is drawn when it first runs: for a trial below the bound, for a choice around what was
    expected of it. From then on it takes that, give or take a per cent.
    """
    chance, clock = random.Random(seed), Clock()
    history = new_history(clock)
    learner = Learner(history, ValueOfInformation(), Curves(history.state, priors={}))
    history.subscribe(learner.learn)
    names = BACKENDS[: chance.randint(2, 5)]
    sizes = [10 ** chance.randint(2, 7) for _ in range(chance.randint(1, 3))]
    truth: dict[tuple[str, int], float] = {}
    base, trace, at_risk_s = 10 ** chance.uniform(-5, 1), [], 0.0
    for number in range(calls):
        size = chance.choice(sizes)
        sites = {name: Site("op", name, "float64", str(round(2 * math.log2(size))), "", size, size) for name in names}
        options = [Option(name, name, "cpu", site) for name, site in sites.items()]
        candidates = learner.candidates(options)
        question = learner.question(sites[names[0]], candidates, names[0], explore=explore)
        ranking = learner.rank(question, sites[names[0]])
        learner.adopt(sites, candidates, names[0], ranking.order[0])
        name, rule = ranking.order[0], ranking.rule
        expected = next(c for c in candidates if c.variant == name).prediction.mean_s
        bound, sums = math.inf, learner.ledger
        credit_s = ALLOWANCE_S + explore * sums.default_s + sums.default_s - sums.actual_s
        for trial, loss in ranking.trials:
            if learner.take_trial(sites[trial], loss, explore):
                name, rule, bound, at_risk_s = trial, "explore", expected + loss, at_risk_s + loss
                break
        fresh = (base * size**0.5 * 1e-2) if name == names[0] else min(expected, bound)
        took = truth.setdefault((name, size), fresh * (1.0 if name == names[0] else chance.uniform(0.05, 1.0)))
        took = min(took * chance.uniform(0.99, 1.01), bound)
        clock.now += took
        history.record(Outcome(sites[name], clock(), took, rule=rule))
        trace.append(Step(name, rule, took, at_risk_s, credit_s))
        if number % batch == 0:
            history.flush()
            at_risk_s = 0.0
    history.flush()
    return trace, learner


@LAWS
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_exploring_never_costs_more_than_the_credit_while_bounds_hold(seed, batch):
    trace, learner = drive(seed, 300, batch=batch)
    ledger = learner.ledger.to_json(SHARE)
    assert ledger["overshoot_s"] == 0.0
    assert ledger["trials"] == sum(step.rule == "explore" for step in trace)
    assert ledger["spent_in_all_s"] == pytest.approx(sum(step.seconds for step in trace))
    assert all(step.at_risk_s <= step.credit_s for step in trace if step.rule == "explore")


def test_a_default_slower_than_expected_is_no_cost_of_exploring():
    """At a size ten times larger the default takes thirty times as long as its curve says; nothing was tried."""
    clock = Clock()
    history = new_history(clock)
    learner = Learner(history, ValueOfInformation(), Curves(history.state, priors={}))
    history.subscribe(learner.learn)
    for size, took in ((10**6, 0.1), (10**7, 30.0)):
        sites = {name: Site("op", name, "float64", str(size), "", size, size) for name in BACKENDS[:2]}
        options = [Option(name, name, "cpu", site) for name, site in sites.items()]
        candidates = learner.candidates(options)
        learner.adopt(sites, candidates, "numpy", "numpy")
        for _ in range(8):
            clock.now += took
            history.record(Outcome(sites["numpy"], clock(), took, rule="default"))
        history.flush()
    assert learner.ledger.to_json(SHARE)["overshoot_s"] == 0.0
    assert learner.ledger.credit_s(SHARE) >= ALLOWANCE_S


def test_the_driven_learners_do_explore():
    """Else the law above would say nothing."""
    assert sum(step.rule == "explore" for seed in range(10) for step in drive(seed, 300)[0]) > 20


@LAWS
@given(st.integers(0, 10**6), st.floats(0.0, 0.5))
def test_a_trial_is_handed_out_only_while_all_that_are_out_fit_the_credit(seed, share):
    """Twenty classes ask before anything is learned: what they may lose together stays within what there is."""
    chance = random.Random(seed)
    history = new_history(Clock())
    learner = Learner(history, ValueOfInformation(), Curves(history.state, priors={}))
    learner.ledger.paid(chance.uniform(0.0, 100.0), chance.uniform(0.0, 100.0))
    credit, handed = learner.ledger.credit_s(share), 0.0
    for number in range(20):
        loss = chance.uniform(0.0, 3.0)
        site = Site("op", "torch", "float64", str(number), "", 1.0, 1)
        if learner.take_trial(site, loss, share):
            handed += loss
            assert not learner.take_trial(site, loss, share)  # its ticket is used up
    assert handed <= credit


@settings(LAWS, max_examples=8)
@given(st.integers(0, 10**6))
def test_the_same_seed_gives_the_same_trace(seed):
    assert drive(seed, 200)[0] == drive(seed, 200)[0]


def test_without_a_share_to_explore_nothing_is_tried():
    for seed in range(5):
        assert not any(step.rule == "explore" for step in drive(seed, 200, explore=0.0)[0])


# ---- order of arrival


@st.composite
def observed(draw: st.DrawFn) -> list[tuple[str, int, float, float]]:
    """(backend, size, age in seconds, what it took), all of different ages.

    Near-ties are common, and a backend may have changed its level.
    """
    count = draw(st.integers(4, 60))
    ages = draw(st.lists(st.integers(0, 10**6), min_size=count, max_size=count, unique=True))
    level = {name: draw(st.sampled_from([1e-4, 1.01e-4, 1e-3, 0.1])) for name in BACKENDS[:3]}
    turn, factor = draw(st.integers(0, 10**6)), draw(st.sampled_from([1.0, 0.1, 3.0, 100.0]))
    made = []
    for age in ages:
        name = draw(st.sampled_from(BACKENDS[:3]))
        took = level[name] * draw(st.sampled_from([0.99, 1.0, 1.0, 1.01, 20.0]))
        made.append((name, draw(st.sampled_from(SIZES[:2])), float(age), took * (factor if age < turn else 1.0)))
    return made


@settings(LAWS, max_examples=60)
@given(observed(), st.randoms(use_true_random=False))
def test_the_order_in_which_time_stamped_outcomes_arrive_changes_nothing(given_, chance):
    """Neither the sketches nor the choices, however they are shuffled and however the batches fall."""
    shuffled = list(given_)
    chance.shuffle(shuffled)
    found = []
    for order, batch in ((given_, len(given_)), (shuffled, len(given_)), (shuffled, chance.randint(1, 7))):
        clock = Clock()
        selector = selector_on(new_history(clock), clock, explore=0.0)
        for number, (backend, size, age, took) in enumerate(order, start=1):
            w = WorkloadCharacteristics(operation_type="op", data_size=size)
            selector.history.record(Outcome(selector.sites.of(w, backend), EPOCH_S - age, took))
            if number % batch == 0:
                selector.flush()
        selector.flush()
        workloads = [WorkloadCharacteristics(operation_type="op", data_size=size) for size in (*SIZES, 3000)]
        found.append((selector.history.state, [selector.decide(w) for w in workloads]))
    (state, decisions), *others = found
    for other, decided in others:
        assert other.cells.keys() == state.cells.keys()
        for key, sketch in state.cells.items():
            assert other.cells[key].count == sketch.count
            assert other.cells[key].expected_s == pytest.approx(sketch.expected_s, rel=1e-9)
        for one, two in zip(decisions, decided, strict=True):
            assert two.variant == one.variant
            assert two.predicted_s == pytest.approx(one.predicted_s, rel=1e-6)


@pytest.mark.parametrize("order", [("scipy", "torch"), ("torch", "scipy")])
def test_of_two_within_the_tie_band_the_one_first_told_of_has_no_advantage(order):
    clock = Clock()
    selector = selector_on(new_history(clock), clock, explore=0.0)
    w = WorkloadCharacteristics(operation_type="op", data_size=10**4)
    for backend in (*order, "numpy"):
        for age in range(8):
            took = {"scipy": 1.01e-3, "torch": 1e-3, "numpy": 5e-3}[backend]
            selector.history.record(Outcome(selector.sites.of(w, backend), EPOCH_S - age, took))
    selector.flush()
    assert selector.decide(w).variant == "scipy"  # the canonical order decides, as for a fresh process


# ---- freezing, protection


@LAWS
@given(observed(), observed())
def test_a_frozen_selector_chooses_as_it_did_whatever_is_learned(before, after):
    clock = Clock()
    selector = selector_on(new_history(clock), clock, explore=1.0)
    workloads = {size: WorkloadCharacteristics(operation_type="op", data_size=size) for size in SIZES}

    def learn(outcomes: list[tuple[str, int, float, float]]) -> None:
        for backend, size, age, took in outcomes:
            clock.now += 1.0
            selector.history.record(Outcome(selector.sites.of(workloads[size], backend), clock() - 1e-6 * age, took))
        selector.flush()

    learn(before)
    held = {size: selector.select_backend(w) for size, w in workloads.items()}
    selector.freeze()
    for part in (after[::2], after[1::2]):
        learn(part)
        assert {size: selector.select_backend(w) for size, w in workloads.items()} == held
    assert not any(selector._engine.learner.take_trial(Site("op", "torch", "float64", "1"), 0.0, 1.0) for _ in "ab")


@LAWS
@given(st.lists(st.tuples(st.sampled_from(["plain", "other", "third"]), seconds), max_size=40), st.integers(1, 10**6))
def test_a_protected_operation_is_never_explored(outcomes, size):
    """However much is at stake, and however little is known of the rest."""
    clock = Clock()
    variants = tuple(Variant(name, "numpy", lambda: len, compiles="never") for name in ("plain", "other", "third"))
    for protected in (True, False):
        operations.register_operation(Operation(name="guarded", variants=variants, protected=protected))
        selector = selector_on(new_history(clock), clock, explore=1.0)
        w = WorkloadCharacteristics(operation_type="guarded", data_size=size)
        request = selector._known(w, None).request
        for name, took in outcomes:
            clock.now += 1.0
            site = request.site(next(v for v in variants if v.name == name))
            selector.history.record(Outcome(site, clock(), took, calls=1000))
            selector.flush()
            decision = selector.decide(w)
            assert not (protected and decision.trial)
            choice = selector._engine.choose(request)
            assert not (protected and (choice.tickets or selector._engine.take_trial(choice)))
