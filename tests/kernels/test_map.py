"""`pm.map`: the pilot, the choice, what is learned from it, and what happens when workers fail."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import map_workers as w
import numpy as np
import pointsman as pm
import pytest
from map_workers import Clock, known
from pointsman.executors import registry
from pointsman.executors.mapping import map_methods
from pointsman.kernels import map_pilot, map_run
from pointsman.kernels.map_pilot import SHORT_S, Beat, Run, lets_others_run, pilot
from pointsman.selector import maps
from pointsman.selector.maps import Facts
from pointsman.selector.operations import find
from pointsman.telemetry.outcome import Outcome

VARIANTS = [variant for variant, _, _ in map_methods()]
SHIPPING = [variant for variant, _, method in map_methods() if method.ships]
PYTHON = Facts(0.5, 0.5, 0.5, shares=False)  # half a second of pure Python an item
NATIVE = Facts(0.5, 0.5, 0.5, shares=True)  # the same in a library that releases the GIL
WAITING = Facts(0.5, 0.001, 0.001)  # half a second of waiting for an answer

pytestmark = pytest.mark.usefixtures("no_pool_is_left", "four_cores_and_warm_pools")


def job(run: Run, **options) -> map_run.Job:
    return map_run.Job(run, map_run.MapInfo(len(run.items)), map_run.How(**{"n_jobs": 2, **options}))


def decision(facts: Facts, items: int = 40, **options):
    return job(Run(w.square, range(items)), **options)._choose(facts).decision


def stay(moving: map_run.Job, moves_at_s: float) -> None:
    """Have it that no pool is worth while for items shorter than that."""
    choose = moving._choose

    def chosen(facts, require=None):
        short = "sequential" if facts.item_s < moves_at_s else require
        return choose(facts, short)

    moving._choose = chosen


def told(variant: str, seconds: float, facts: Facts, items: int = 40, times: int = 5) -> None:
    """Have it in the history that maps of `w.square` took so long there."""
    engine = pm.default_selector()._engine
    name = f"map:{map_run.worker_name(w.square)}"
    request = maps.request(name, items, facts, 2, 4, against={}, require=None)
    variants = {v.name: v for v in request.own.variants}
    for _ in range(times):
        engine.history.record(Outcome(request.site(variants[variant]), engine.history.now(), seconds, rule="told"))
    pm.flush()


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("backend", ["auto", *VARIANTS, "joblib"])
def test_results_are_those_of_a_loop(backend):
    expected = [w.any_result(x) for x in range(23)]
    for items in (range(23), list(range(23)), (x for x in range(23)), np.arange(23)):
        assert pm.map(w.any_result, items, backend, n_jobs=2) == expected


@pytest.mark.parametrize("facts", [PYTHON, NATIVE, WAITING], ids=["python", "native", "waiting"])
@pytest.mark.parametrize("n", [2, 3, 17, 50])
def test_results_are_those_of_a_loop_wherever_a_long_run_goes(facts, n):
    results, info = pm.map(known(w.any_result, facts), range(n), n_jobs=2, return_info=True)
    assert results == [w.any_result(x) for x in range(n)]
    assert (info.variant, info.items, info.in_place) == (
        "joblib/loky" if facts is PYTHON else "threads", n, 0,
    )  # fmt: skip


def test_nothing_runs_twice_when_a_run_moves_up():
    clock, ran = Clock(), []

    def worker(x):
        ran.append(x)
        clock.now += 0.001 if len(ran) < 30 else 0.5
        return -x

    known(worker, Facts(0.001, 0.001, 0.001, shares=True))
    run = Run(worker, range(45), clock=clock)
    moving = job(run, prefer="threads")
    stay(moving, moves_at_s=0.1)
    moving.do("auto")
    assert run.sink.out == [-x for x in range(45)]
    assert sorted(ran) == list(range(45))
    assert moving._info.variant == "threads"
    assert 30 <= moving._info.in_place < 45


def test_one_slow_block_does_not_move_a_run():
    clock = Clock()
    run = Run(clock.worker(*[0.001] * 20, 0.05, *[0.001] * 20), range(40), clock=clock)
    known(run.worker, Facts(0.001, 0.001, 0.001, shares=True))
    staying = job(run)
    stay(staying, moves_at_s=0.3)
    staying.do("auto")
    assert (staying._info.variant, staying._info.in_place) == ("sequential", 40)


# ---------------------------------------------------------------------------------------------- the pilot


def test_a_short_run_stays_in_place_and_is_not_recorded(tmp_path):
    _results, info = pm.map(w.square, range(1000), return_info=True)
    assert (info.variant, info.in_place, info.decision) == ("sequential", 1000, None)
    assert "too short" in info.reason
    pm.flush()
    assert not pm.default_selector().history.state.groups()


def test_a_short_run_loads_no_library(tmp_path):
    code = (
        "import sys, pointsman as pm\n"
        "assert pm.map(abs, range(1000)) == list(range(1000))\n"
        "assert pm.get_backend('joblib').map is not None\n"
        "assert 'joblib' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_first_item_that_is_slow_alone_says_nothing_about_the_rest():
    clock = Clock()
    run = Run(clock.worker(4.0, 1e-6), range(1000), clock=clock)
    assert pilot(run, None) is None
    assert run.sink.out == list(range(1000))


@pytest.mark.parametrize("first_s", [1e-6, 0.004])
def test_a_short_run_starts_no_thread_even_if_its_first_item_is_slow(first_s, monkeypatch):
    monkeypatch.setattr(map_pilot, "Beat", None)
    clock = Clock()
    run = Run(clock.worker(first_s, 1e-6), range(1000), clock=clock)
    assert pilot(run, None) is None
    assert run.sink.out == list(range(1000))


def test_the_pilot_of_long_items_ends_after_the_second():
    clock = Clock()
    run = Run(clock.worker(0.5), range(1000), clock=clock)
    facts = pilot(run, None)
    assert run.sink.out[: run.done] == [0, 1]
    assert facts.item_s == pytest.approx(0.5)


def test_the_pilot_ends_only_where_the_rest_is_long():
    clock = Clock()
    run = Run(clock.worker(0.001), range(200), clock=clock)
    assert pilot(run, PYTHON) is not None
    assert run.left * 0.001 >= SHORT_S
    run = Run(clock.worker(0.001), range(20), clock=clock)
    assert pilot(run, PYTHON) is None
    assert run.left == 0


def test_a_thread_that_comes_back_late_had_to_wait_for_the_interpreter():
    assert lets_others_run([0.0001, 0.0002, 0.006], [])
    assert not lets_others_run([0.0055, 0.0051, 0.0001], [1.0])
    assert not lets_others_run([], [])
    beat = Beat()
    beat.start()
    assert beat.stop() in (True, False)
    assert not beat._thread.is_alive()
    assert Facts(0.1, cpu_s=0.001).waits
    assert not Facts(0.1, cpu_s=0.1).waits


# ---------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("facts", "items", "options", "expected"),
    [
        (PYTHON, 40, {}, "joblib/loky"),
        (NATIVE, 40, {}, "threads"),
        (WAITING, 40, {}, "threads"),
        (Facts(0.5, 0.5, 0.5), 40, {}, "joblib/loky"),  # nothing known about the GIL: no threads
        (Facts(1e-5, 1e-5, 1e-5, shares=False), 1000, {}, "sequential"),  # 10 ms in all: below the floor
        (Facts(1e-5, 1e-5, 1e-5, shares=True), 1000, {}, "threads"),
        (Facts(0.01, 0.01, 0.01, shares=False, item_bytes=10**7), 40, {}, "sequential"),  # sending takes longer
        (Facts(0.01, 0.01, 0.01, shares=False, item_bytes=10**4), 40, {}, "joblib/loky"),
        (Facts(0.5, 0.99, 0.5, shares=True), 40, {"n_jobs": 4}, "threads"),  # two native threads each, 4 cores
        (NATIVE, 40, {"prefer": "processes"}, "joblib/loky"),
        (PYTHON, 40, {"prefer": "threads"}, "threads"),
    ],
)
def test_the_costs_decide(facts, items, options, expected):
    found = decision(facts, items, **options)
    assert found.variant == expected
    assert found.default == "sequential"


def test_no_pool_is_started_for_small_items_of_a_worker_known_for_large_ones(monkeypatch):
    for _, executor, _ in map_methods():
        monkeypatch.setattr(executor, "start_s", lambda variant: 1.0)
    _, info = pm.map(known(w.square, PYTHON), range(40), n_jobs=2, return_info=True)
    assert (info.variant, info.in_place) == ("sequential", 40)
    clock = Clock()
    run = Run(known(clock.worker(0.5), NATIVE), range(40), clock=clock)
    moving = job(run, prefer="threads")
    moving.do("auto")
    assert (moving._info.variant, moving._info.in_place) == ("threads", 1)


def test_the_decision_says_why_not():
    excluded = dict(decision(PYTHON).excluded)
    assert all("interpreter lock" in excluded[variant] for variant in ("threads", "joblib/threads"))
    assert "prefer='threads'" in dict(decision(NATIVE, prefer="threads").excluded)["joblib/loky"]
    assert "40 items of 500 ms, 2 workers" in decision(PYTHON).explain()


def test_it_is_learned_that_processes_lose():
    assert decision(PYTHON).variant == "joblib/loky"
    for variant in SHIPPING:
        told(variant, 60.0, PYTHON)
    found = decision(PYTHON)
    assert found.variant == "sequential"
    assert found.candidate("joblib/loky").prediction.evidence == 5


def test_it_is_learned_that_threads_help_whatever_the_pilot_thought():
    assert "joblib/threads" in dict(decision(PYTHON).excluded)
    told("joblib/threads", 7.0, PYTHON)
    told("joblib/loky", 14.0, PYTHON)
    assert decision(PYTHON).variant == "joblib/threads"


def test_a_run_teaches_the_next_one_in_another_process():
    pm.map(known(w.square, PYTHON), range(40), n_jobs=2)
    pm.flush()
    name = f"map:{map_run.worker_name(w.square)}"
    facts, measured = maps.remembered(pm.default_selector().history.state, name)
    assert measured == {"joblib/loky"}
    assert 1e-7 < facts.item_s < 1e-3  # not the half second that it was said to be
    assert find(name).variants[0].name == "sequential"
    summary = pm.default_selector().get_performance_summary()
    assert summary["operations"][name][0]["default"] == "sequential"


def test_the_start_of_a_pool_is_told_apart_from_the_run(monkeypatch):
    executor = registry.executor("joblib")
    monkeypatch.setattr(executor, "_last_use", None)
    monkeypatch.setattr(executor, "_measured_start_s", {})
    pm.map(known(w.square, PYTHON), range(40), n_jobs=2)
    summary = pm.default_selector().get_performance_summary()
    assert summary["imports"]["joblib/loky"]["count"] == 1
    assert executor._measured_start_s["loky"] == pytest.approx(summary["imports"]["joblib/loky"]["seconds"])


def test_an_explicit_run_teaches_what_an_item_takes():
    results, info = pm.map(w.square, range(40), "joblib/threads", n_jobs=2, return_info=True)
    assert (results, info.decision.rule) == ([x * x for x in range(40)], "required")
    assert map_run._KNOWN[w.square.__code__].item_s > 0.0


def test_a_trial_is_recorded_as_one(monkeypatch):
    engine = pm.default_selector()._engine
    told("joblib/loky", 60.0, PYTHON)
    real = engine.choose

    def with_ticket(request, preferred=None):
        choice = real(request, preferred)
        choice.tickets.append("joblib/loky")
        return choice

    monkeypatch.setattr(engine, "choose", with_ticket)
    monkeypatch.setattr(engine, "take_trial", lambda choice: choice.tickets.pop())
    _, info = pm.map(known(w.square, PYTHON), range(40), n_jobs=2, return_info=True)
    assert (info.variant, info.reason) == ("joblib/loky", "tried, to find out")
    pm.flush()
    rules = {rule for sketch in pm.default_selector().history.state.cells.values() for rule in sketch.chosen}
    assert "explore" in rules


# ---------------------------------------------------------------------------------------------- constraints


def test_what_is_disabled_is_not_used(monkeypatch):
    pm.configure(disable=",".join({variant.partition("/")[0] for variant in SHIPPING}))
    _, info = pm.map(known(w.square, PYTHON), range(6), return_info=True)
    assert info.variant == "sequential"
    assert dict(info.decision.excluded)["joblib/loky"].startswith("disabled by")
    with pytest.raises(pm.NoCandidateError, match="disabled by"):
        pm.map(w.square, range(6), "joblib/threads")


def test_without_sequential_everything_goes_to_a_pool():
    pm.configure(disable="sequential")
    _, info = pm.map(w.square, range(6), return_info=True)
    assert (info.variant, info.in_place) == ("joblib/loky", 0)


def test_scopes_and_settings_insist():
    with pm.use("joblib"):
        _, info = pm.map(w.square, range(6), return_info=True)
        assert (info.decision.rule, info.decision.set_by, info.variant) == ("required", "use('joblib')", "joblib/loky")
        assert pm.run("reduction", np.ones(3)) == 3.0  # a backend of maps says nothing about arrays
    with pm.use("sequential"):
        assert pm.map(known(w.square, PYTHON), range(6), return_info=True)[1].variant == "sequential"
    with pm.use("numpy"):  # and the other way round
        assert pm.map(known(w.square, PYTHON), range(6), return_info=True)[1].variant in SHIPPING
    pm.configure(mode="off")
    assert pm.map(known(w.square, PYTHON), range(6), return_info=True)[1].variant == "sequential"


@pytest.mark.parametrize("wish", [{"prefer": "numpy"}, {"force": "numpy"}])
def test_a_wish_about_arrays_leaves_the_pilot_as_it_is(wish):
    pm.configure(**wish)
    clock = Clock()
    run = Run(clock.worker(0.5), range(30), clock=clock)
    moving = job(run, prefer="threads")
    moving.do("auto")
    assert run.sink.out == list(range(30))
    assert (moving._info.variant, moving._info.in_place) == ("threads", 2)


def test_a_preferred_map_backend_is_taken_from_the_first_item_on():
    pm.configure(prefer="joblib")
    _, info = pm.map(w.square, range(6), n_jobs=2, return_info=True)
    assert (info.variant, info.in_place, info.decision.rule) == ("joblib/loky", 0, "override")


def test_a_missing_library_is_an_error_where_it_is_asked_for_and_else_a_reason(monkeypatch):
    monkeypatch.setattr(registry, "_READY", {})
    monkeypatch.setattr(registry, "_FOUND", set())
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    _, info = pm.map(known(w.square, PYTHON), range(6), return_info=True)
    assert "pip install 'pointsman[joblib]'" in dict(info.decision.excluded)["joblib/loky"]
    for backend in ("joblib", "joblib/loky"):
        with pytest.raises(pm.BackendUnavailableError, match=r"pip install 'pointsman\[joblib\]'"):
            pm.map(w.square, range(6), backend)
        with pytest.raises(pm.BackendUnavailableError, match=r"pip install 'pointsman\[joblib\]'"):
            pm.map(w.square, [1], backend)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"backend": "jobllib"}, ValueError, "did you mean 'joblib'"),
        ({"backend": "stan"}, pm.BackendUnavailableError, "not part of this version"),
        ({"backend": "torch"}, ValueError, "no map runs on 'torch'; it does on: sequential, threads, joblib/threads"),
        ({"backend": "joblib/dask"}, ValueError, "joblib maps in no way called 'dask'; it does as: joblib/threads"),
        ({"prefer": "thread"}, ValueError, "prefer: found 'thread'; allowed are processes, threads and None"),
        ({"n_jobs": 0}, ValueError, "n_jobs: found 0"),
        ({"chunk_size": -1}, ValueError, "chunk_size: found -1"),
        ({"max_nbytes": 1}, TypeError, "'max_nbytes' needs a named backend; auto takes: n_jobs, chunk_size"),
        ({"backend": "joblib", "nbytes": 1}, TypeError, "joblib has no option 'nbytes'; valid are: n_jobs"),
        ({"worker": 3}, TypeError, "worker: found 3; give a function of one item"),
        ({"njobs": 2}, TypeError, r"no option 'njobs' \(did you mean 'n_jobs'\?\); valid are: n_jobs"),
        ({"backend": 4}, TypeError, r"backend: found int; the third argument says where .* n_jobs=.*zip"),
    ],
)
def test_wrong_arguments_are_errors_that_say_what_is_right(arguments, error, says):
    with pytest.raises(error, match=says):
        pm.map(**{"worker": w.square, "items": range(4), **arguments})


# ---------------------------------------------------------------------------------------------- telling


def test_workers_are_known_by_their_code():
    class Callable:
        def __call__(self, x):
            return x

        def method(self, x):
            return x

    names = [map_run.worker_name(f) for f in (w.square, partial(w.square), abs, Callable(), Callable().method)]
    assert names[0] == names[1]
    assert names[0].startswith("map_workers.square#")
    assert names[2] == "builtins.abs"
    assert names[3].endswith("Callable")
    assert ".method#" in names[4]
    assert map_run.key(lambda x: x) != map_run.key(lambda x: x + 1)


def test_info_tells_what_happened():
    _, info = pm.map(known(w.square, PYTHON), range(40), n_jobs=2, chunk_size=7, return_info=True)
    assert (info.chunks, info.chunk_size, info.n_jobs) == (6, 7, 2)
    assert info.item_s < 1e-3  # as measured, whatever was known
    text = str(info)
    assert "40 items in" in text
    assert "0 in place, 40 in 6 chunks of 7 or fewer on 2 workers" in text
    assert "candidate" in text
