"""`pm.map` where workers would have to start, are at work for others, or would see what the caller does not mean."""

from __future__ import annotations

from types import SimpleNamespace

import map_workers as w
import pointsman as pm
import pytest
from map_workers import Clock, known
from pointsman.executors.mapping import Method, map_methods
from pointsman.kernels import forgone, map_pilot, map_run
from pointsman.kernels.map_pilot import Run
from pointsman.selector.maps import Facts
from pointsman.telemetry.load import Load

PYTHON = Facts(0.5, 0.5, 0.5, shares=False)  # half a second of pure Python an item

SHIPPING = {variant for variant, _, method in map_methods() if method.ships}

pytestmark = pytest.mark.usefixtures("no_pool_is_left", "four_cores_and_warm_pools")


def job(run: Run) -> map_run.Job:
    return map_run.Job(run, map_run.MapInfo(len(run.items)), map_run.How(n_jobs=2))


def decision(facts: Facts, items: int = 40):
    return job(Run(w.square, range(items)))._choose(facts).decision


@pytest.fixture
def cold_pool(monkeypatch):
    """Worker processes take a second to start; gives what sets the cores that others use."""
    start_s = {"sequential": 0.0, "threads": 0.0, "joblib/threads": 0.0, "joblib/loky": 1.0}
    for _, executor, _ in map_methods():
        monkeypatch.setattr(executor, "start_s", lambda variant: start_s.get(variant.name, 5.0))
    monkeypatch.setattr(map_run.os, "cpu_count", lambda: 4)

    def others_use(cores):
        monkeypatch.setattr(map_run, "LoadMeter", lambda: SimpleNamespace(read=lambda: Load(cores, cores > 0.3)))

    return others_use


@pytest.mark.parametrize(
    ("others", "items", "expected"),
    [(0.0, 40, "joblib/loky"), (0.2, 40, "joblib/loky"), (3.0, 40, "sequential"), (0.0, 6, "sequential")],
)
def test_a_first_pool_starts_only_where_cores_are_free_and_the_gain_is_safe(cold_pool, others, items, expected):
    cold_pool(others)
    clock = Clock()
    run = Run(known(clock.worker(0.5), PYTHON), range(items), clock=clock)  # 6 items: 1 s to gain, 1 s to start
    found = job(run)
    found.do("auto")
    assert run.sink.out == list(range(items))
    assert found._info.variant == expected


@pytest.mark.parametrize("item_s", [0.03, 0.3, 3.0])
def test_items_that_wait_need_threads_and_no_cores(item_s):
    facts = Facts(item_s, 0.003, 0.0003, shares=False)
    assert facts.work_ns(Method(), 24, 8, 2) == pytest.approx(3 * item_s * 1e9)
    assert Facts(item_s, item_s, item_s).work_ns(Method(), 24, 8, 2) == pytest.approx(12 * item_s * 1e9)
    assert Facts(item_s, 2 * item_s, item_s).work_ns(Method(), 24, 8, 2) == pytest.approx(24 * item_s * 1e9)


def test_runs_too_short_to_repay_a_start_repay_it_together(cold_pool):
    """Each gains 1 s by workers that take 1 s to start: a single one never does, however often it comes."""
    cold_pool(0.0)
    clock, variants = Clock(), []
    for _ in range(2):
        run = Run(known(clock.worker(0.5), PYTHON), range(6), clock=clock)
        found = job(run)
        found.do("auto")
        assert run.sink.out == list(range(6))
        variants.append(found._info.variant)
    assert variants == ["sequential", "joblib/loky"]


@pytest.mark.parametrize(("warm", "some"), [("joblib/loky", False), ("ray", False), ("threads", True), ("none", True)])
def test_nothing_is_forgone_where_processes_of_another_backend_run_already(monkeypatch, warm, some):
    for _, executor, _ in map_methods():
        monkeypatch.setattr(executor, "start_s", lambda variant: 0.0 if variant.name == warm else 1.0)
    choice = job(Run(w.square, range(40)))._choose(PYTHON)
    assert bool(forgone.promised(choice)) is some


def test_what_was_forgone_repays_one_start_only(cold_pool):
    cold_pool(0.0)
    clock = Clock()
    run = Run(known(clock.worker(0.5), PYTHON), range(6), clock=clock)
    job(run).do("auto")
    assert forgone.SECONDS["joblib/loky"] > 1.0
    assert forgone.SECONDS["mpi"] > 1.0
    job(Run(known(clock.worker(0.5), PYTHON), range(6), clock=clock)).do("auto")
    assert not forgone.SECONDS


def test_a_pool_that_has_to_start_must_repay_its_start(monkeypatch):
    for _, executor, _ in map_methods():
        monkeypatch.setattr(executor, "start_s", lambda variant: 60.0 if variant.name in SHIPPING else 0.0)
    found = decision(PYTHON, 40)
    assert found.variant == "sequential"
    assert found.candidate("joblib/loky").cold_s == 60.0
    assert decision(PYTHON, 4000).variant == "joblib/loky"


def test_a_pool_whose_workers_serve_another_thread_is_not_waited_for(monkeypatch):
    for _, executor, _ in map_methods():
        monkeypatch.setattr(executor, "busy", lambda method: method.ships)
    found = decision(PYTHON)
    assert (found.variant, dict(found.excluded)["joblib/loky"]) == (
        "sequential", "its workers run a map of another thread",
    )  # fmt: skip
    with pm.use("joblib"):
        assert decision(PYTHON).variant == "joblib/loky"


def test_what_is_seen_while_waiting_for_a_core_says_nothing_about_the_interpreter_lock(monkeypatch):
    waited = iter([0.0, 10.0])
    monkeypatch.setattr(map_pilot, "core_wait_s", lambda: next(waited))
    clock = Clock()
    run = Run(clock.worker(0.5), range(1000), clock=clock)
    run.block(1)
    facts = run.watched(None)
    assert facts.shares is None
    assert not facts.waits


def test_weighing_an_item_ends_where_it_takes_too_long():
    ticks = iter(range(1000))
    assert map_pilot._shipped(list(range(10**6)), 2.0, lambda: next(ticks)) == map_pilot.TOO_HEAVY
    assert next(ticks) < 10
    assert 10**6 < map_pilot._shipped(b"x" * 10**6, 60.0) < 1.01 * 10**6
    assert decision(Facts(0.5, 0.5, 0.5, shares=False, item_bytes=map_pilot.TOO_HEAVY)).variant == "sequential"


def test_a_list_that_its_worker_changes_is_mapped_as_it_was():
    for change in (lambda items: items.pop(), lambda items: items.append(0)):
        items = list(range(6))
        assert pm.map(lambda x, items=items, change=change: (change(items) and x) or x, items) == list(range(6))


def test_a_scope_of_the_caller_holds_in_worker_processes():
    with pm.use("scipy"):
        assert pm.map(w.context, range(2), "joblib/loky", n_jobs=2)[0][0] == "scipy"
