"""The ledger: a scripted stream in which exploring costs what it may and no more."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pointsman.selector.dispatch import Dispatcher
from pointsman.selector.ledger import ALLOWANCE_S, Ledger
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome


@pytest.fixture
def ledger(history: History) -> Ledger:
    return Ledger(history)


def test_credit_is_allowance_plus_share_plus_earnings(ledger, history):
    assert ledger.credit_s(0.02) == ALLOWANCE_S
    ledger.paid(100.0, 100.0)
    assert ledger.credit_s(0.02) == pytest.approx(ALLOWANCE_S + 2.0)
    ledger.paid(3.0, 1.0, trial=True, usual=1.0)
    assert ledger.credit_s(0.02) == pytest.approx(ALLOWANCE_S + 2.02 - 2.0)
    ledger.paid(1.0, 11.0, trial=True, usual=11.0)  # found something ten seconds faster
    assert ledger.credit_s(0.02) == pytest.approx(ALLOWANCE_S + 2.24 + 8.0)
    assert (ledger.explored_s, ledger.earned_s, ledger.trials) == (2.0, 10.0, 2)
    assert history.ledger == {"explored_s": 2.0, "trials": 2.0, "earned_s": 10.0}


def test_an_overshoot_is_reported_and_leaves_no_credit(ledger):
    ledger.paid(ALLOWANCE_S + 7.0, 0.0, trial=True)
    assert ledger.credit_s(0.02) == 0.0
    assert ledger.to_json(0.02)["overshoot_s"] == pytest.approx(7.0)


def test_a_stream_explores_within_its_budget_and_finds_the_fastest(make, feed, workload, history, libraries, clock):
    """Calls run as the decision says, trials included; what they take is scripted."""
    libraries()  # nothing is imported, so each library's first call costs its import as well
    truth = {"numpy": 0.02, "scipy": 0.05, "numba": 0.03, "torch": 0.004, "jax": 0.06}
    chance, selector, w = random.Random(1), make(explore=0.02), workload(10**6)
    spent, tried, imported, chosen = 0.0, 0, set(), []
    for _ in range(2000):
        selector._drop_tables()
        decision = selector.decide(w)
        backend = decision.trial or decision.backend
        chosen.append(backend)
        seconds = truth[backend] * chance.lognormvariate(0.0, 0.05)
        cold = decision.candidate(backend).import_s
        rule = "explore" if decision.trial else decision.rule
        tried += rule == "explore"
        feed(selector, w, {backend: [seconds]}, rule=rule)
        if cold:
            imported.add(backend)
            libraries(*imported)
            history.record(outcome_of_import(backend, cold, clock()))
            history.flush()
        spent += seconds + cold
    assert chosen[-500:] == ["torch"] * 500
    assert spent < 2000 * truth["numpy"]  # it has paid for itself, imports included
    ledger = selector.get_performance_summary()["exploration"]
    assert ledger["overshoot_s"] == 0.0
    assert ledger["trials"] == tried < 40
    assert ledger["spent_in_all_s"] == pytest.approx(spent)


def outcome_of_import(backend: str, seconds: float, when: float):
    from pointsman.selector.failures import import_outcome

    return import_outcome(backend, seconds, when, "explore")


def test_a_ticket_is_spent_once_however_many_shapes_and_tables_hold_it(make, operation, history):
    """Between two batches of learning a class is tried once, and all trials together stay within the credit."""
    calls = {"plain": 0, "other": 0}

    def counted(name):
        def run(x):
            calls[name] += 1
            return x

        return run

    toy = operation("toy", plain=counted("plain"), other=counted("other"))
    selector = make(explore=1.0)
    dispatch = Dispatcher(toy, selector._engine)
    selector.adopt(dispatch)
    for n in range(1000, 1050):  # one size class
        dispatch(np.ones(n))
    assert calls["other"] == 0  # nothing was known to be at stake
    for _ in range(200):
        history.record(_slow(selector, toy, dispatch))
    history.flush()
    for _ in range(3):
        for n in range(1000, 1050):
            dispatch(np.ones(n))
    assert calls["other"] == 1


def _slow(selector, toy, dispatch):
    from pointsman.telemetry.outcome import Outcome

    request = dispatch.request((np.ones(1000),), {})
    return Outcome(request.site(toy.variants[0]), selector.history.now(), 0.5)


def test_a_trial_beyond_the_credit_left_is_not_run(make, operation, history):
    toy = operation("toy", plain=lambda x: x, other=lambda x: x)
    selector = make(explore=1.0)
    dispatch = Dispatcher(toy, selector._engine)
    dispatch(np.ones(1000))
    for _ in range(200):
        history.record(_slow(selector, toy, dispatch))
    history.flush()
    choice = selector._engine.choose(dispatch.request((np.ones(1000),), {}))
    assert choice.tickets == ["other"]
    selector._engine.learner.ledger.paid(1e9, 0.0)  # the credit of the time when it was decided is gone
    assert selector._engine.take_trial(choice) is None
    assert not choice.tickets


def test_a_trial_counts_against_the_credit_until_it_tells(make, operation, history):
    """Batches that say nothing of it come and go meanwhile; two trials must not spend the same credit."""
    toy = operation("toy", plain=lambda x: x, other=lambda x: x, third=lambda x: x)
    learner = make(explore=1.0)._engine.learner
    request = Dispatcher(toy, make()._engine).request((np.ones(1000),), {})
    plain, other, third = (request.site(v) for v in toy.variants)
    assert learner.take_trial(other, 0.7 * ALLOWANCE_S, 0.02)
    assert not learner.take_trial(other, 0.0, 0.02)  # it is at large
    learner.learn([Outcome(plain, history.now(), 1e-6)], set())
    assert not learner.take_trial(third, 0.7 * ALLOWANCE_S, 0.02)
    assert not learner.take_trial(third, 0.0, 0.0)  # exploring was switched off meanwhile
    learner.learn([Outcome(other, history.now(), 1e-6, rule="explore")], set())
    assert learner.take_trial(third, 0.7 * ALLOWANCE_S, 0.02)


def test_a_dear_trial_waits_for_what_a_rivals_has_to_tell(make, operation, history):
    """Once one kernel was compiled the other may not be worth it any more; at other shapes the same one may go on."""
    toy = operation("toy", plain=lambda x: x, other=lambda x: x, third=lambda x: x)
    learner = make(explore=1.0)._engine.learner
    dispatch = Dispatcher(toy, make()._engine)
    here, there = ([dispatch.request((np.ones(n),), {}).site(v) for v in toy.variants] for n in (1000, 10**6))
    dear = 0.3 * ALLOWANCE_S
    assert learner.take_trial(here[1], dear, 0.02)
    assert not learner.take_trial(there[2], dear, 0.02)
    assert learner.take_trial(there[1], dear, 0.02)
    assert learner.take_trial(there[2], 1e-3, 0.02)  # a cheap one need not wait
    learner.learn([Outcome(s, history.now(), 1e-6, rule="explore") for s in (here[1], there[1], there[2])], set())
    assert learner.take_trial(here[2], dear, 0.02)


def test_what_was_slow_before_the_choice_changed_is_not_at_stake_any_more(make, operation, history):
    toy = operation("toy", plain=lambda x: x, other=lambda x: x)
    engine = make()._engine
    dispatch = Dispatcher(toy, engine)
    request = dispatch.request((np.ones(1000),), {})
    dispatch(np.ones(1000))
    plain, other = (request.site(v) for v in toy.variants)
    for site, seconds, rule in ((plain, 0.5, "default"), (other, 0.01, "explore")):
        for _ in range(50):
            history.record(Outcome(site, history.now(), seconds, rule=rule))
        history.flush()
        engine.adopt(engine.choose(request))
    assert engine.learner.traffic.of(plain).incumbent == "other"
    assert engine.learner.traffic.of(plain).lately_s == pytest.approx(0.01, rel=0.1)
