"""`run_monte_carlo`: the same seeds and bits everywhere, read-only arguments, failures that can be replayed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pointsman as pm
import pytest
import simulation_workers as w
from pointsman.executors import native
from pointsman.executors.mapping import map_methods
from threadpoolctl import threadpool_info

VARIANTS = [variant for variant, _, _ in map_methods()]

pytestmark = pytest.mark.usefixtures("no_pool_is_left", "four_cores_and_warm_pools")


def exactly(results) -> str:
    """Types and values to the last bit, as text: Python writes floats so that they read back the same."""
    return repr([("array", r.dtype.str, r.tolist()) if isinstance(r, np.ndarray) else r for r in results])


# ---------------------------------------------------------------------------------------------- the same everywhere


def test_simulation_i_has_the_ith_child_of_the_seed():
    children = np.random.SeedSequence(42).spawn(50)
    expected = [w.draws(child) for child in children]
    np.testing.assert_array_equal(pm.run_monte_carlo(w.draws, 50, seed=42), expected)
    whole = [int(child.generate_state(1, np.uint64)[0]) for child in children]
    assert pm.run_monte_carlo(w.number, 50, seed=42, seeds="int") == whole
    assert len(set(whole)) == 50
    assert max(whole) > 2**60  # all of 64 bits


@pytest.mark.parametrize("backend", ["auto", *VARIANTS])
@pytest.mark.parametrize(("n_jobs", "chunk_size"), [(1, None), (2, 1), (2, 7), (3, None)])
def test_results_are_the_same_bits_wherever_they_come_from(backend, n_jobs, chunk_size):
    matrix = np.random.default_rng(0).standard_normal((120, 120))
    given = {"worker_args": (matrix,), "worker_kwargs": {"shift": 0.5}, "seed": [1, 2, 3]}
    with native.held(1):
        expected = [w.by_blas(child, matrix, 0.5) for child in np.random.SeedSequence([1, 2, 3]).spawn(23)]
    found = pm.run_monte_carlo(w.by_blas, 23, backend=backend, n_jobs=n_jobs, chunk_size=chunk_size, **given)
    assert found == expected
    assert exactly(pm.run_monte_carlo(w.ragged, 23, seed=9, backend=backend, n_jobs=n_jobs)) == exactly(
        [w.ragged(child) for child in np.random.SeedSequence(9).spawn(23)]
    )


@pytest.mark.parametrize("backend", VARIANTS)
@pytest.mark.parametrize("how", ["strided", "transposed", "broadcast"])
def test_bits_do_not_depend_on_how_an_argument_lies_in_memory_when_it_is_sent(backend, how):
    """Another process gets it contiguous, and BLAS sums other strides in another order."""
    x = np.random.default_rng(0).random((300, 400))
    x = {"strided": x[:, ::2], "transposed": x.reshape(30, 10, 400).transpose(2, 0, 1)[:300, :, 0],
         "broadcast": np.broadcast_to(x[0, ::2], (300, 200))}[how]  # fmt: skip
    found = pm.run_monte_carlo(w.dots, 6, (x,), seed=1, backend=backend, n_jobs=2, chunk_size=1)
    assert len(set(found)) == 1
    assert found == pm.run_monte_carlo(w.dots, 6, (x,), seed=1)


@pytest.mark.parametrize("backend", VARIANTS)
def test_more_simulations_begin_with_the_same_ones(backend):
    few, many = (pm.run_monte_carlo(w.draws, n, seed=5, backend=backend, n_jobs=2) for n in (10, 30))
    np.testing.assert_array_equal(few, many[:10])


def test_a_seed_that_is_not_given_is_drawn_once_and_told():
    first, info = pm.run_monte_carlo(w.draws, 12, return_info=True)
    again = pm.run_monte_carlo(w.draws, 12, seed=info.seed)
    np.testing.assert_array_equal(first, again)
    assert info.seed != pm.run_monte_carlo(w.draws, 1, return_info=True)[1].seed
    assert f"seed {info.seed}" in info.explain()


def test_a_seed_sequence_is_read_and_not_changed():
    parent = np.random.SeedSequence(7).spawn(3)[2]
    found, info = pm.run_monte_carlo(w.draws, 4, seed=parent, return_info=True)
    assert parent.n_children_spawned == 0
    assert (info.seed, info.spawn_key) == (7, (2,))
    np.testing.assert_array_equal(found, [w.draws(child) for child in parent.spawn(4)])
    np.testing.assert_array_equal(pm.replay(w.draws, 7, 3, spawn_key=(2,)), found[3])


def test_nothing_to_simulate_gives_nothing():
    assert pm.run_monte_carlo(w.draws, 0, seed=1) == []


# ---------------------------------------------------------------------------------------------- native threads


@pytest.mark.parametrize("backend", VARIANTS)
def test_native_threads_are_the_same_number_on_every_executor_and_afterwards_what_they_were(backend):
    w.threads_seen(None)
    before = {library["filepath"]: library["num_threads"] for library in threadpool_info()}
    environment = {name: os.environ.get(name) for name in native.VARIABLES}
    for number in (1, 2):
        seen = pm.run_monte_carlo(w.threads_seen, 6, backend=backend, n_jobs=2, native_threads=number)
        assert seen == [{number}] * 6
    assert {library["filepath"]: library["num_threads"] for library in threadpool_info()} == before
    assert {name: os.environ.get(name) for name in native.VARIABLES} == environment


def test_openmp_is_held_on_every_thread_that_computes():
    """Its number belongs to the thread: what the caller's thread sets does not reach the others."""
    import torch

    pm.run_monte_carlo(w.threads_seen, 4, backend="sequential")
    assert any(library["user_api"] == "openmp" for library in threadpool_info())
    before = torch.get_num_threads()
    for number in (1, 3):
        for backend in ("threads", "joblib/threads"):
            seen = pm.run_monte_carlo(w.threads_seen, 6, backend=backend, n_jobs=2, native_threads=number)
            assert seen == [{number}] * 6
    assert torch.get_num_threads() == before


LOADS = """
from pointsman.executors import native
from pointsman.telemetry.hardware import usable_cores
from threadpoolctl import threadpool_info
with native.held(1):
    import scipy.linalg, torch
    assert {library["num_threads"] for library in threadpool_info()} == {1}
assert {library["num_threads"] for library in threadpool_info()} == {usable_cores()}, threadpool_info()
"""


def test_runs_that_overlap_share_one_number_and_wait_for_another():
    """However they end, the process has its own number again; two settings that crossed would leave a wrong one."""
    before = [library["num_threads"] for library in threadpool_info()]
    inside, go, order = threading.Event(), threading.Event(), []

    def first():
        with native.held(1):
            inside.set()
            go.wait(10)
            order.append("first")

    def other(number):
        with native.held(number):
            order.append(number)

    one = threading.Thread(target=first)
    one.start()
    inside.wait(10)
    same, different = (threading.Thread(target=other, args=(number,)) for number in (1, 2))
    same.start()
    same.join(10)
    different.start()
    go.set()
    for thread in (one, different):
        thread.join(10)
    assert order == [1, "first", 2]
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_each_thread_has_its_own_openmp_number_again_whoever_leaves_last():
    """OpenMP's number is the thread's: the last to leave cannot give the first one's back."""
    import torch

    torch.ones(8).sum()
    joined, left, seen = threading.Event(), threading.Event(), []

    def number():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"}

    def first():
        seen.append(number())
        with native.held(1):
            seen.append(number())
            other.start()
            joined.wait(10)
        seen.append(number())
        left.set()

    def second():
        with native.held(1):
            joined.set()
            left.wait(10)

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    one.join(20)
    other.join(20)
    assert seen[0] != {1}
    assert seen == [seen[0], {1}, seen[0]]


FORKS = """
import os, signal, threading
from pointsman.executors import native

def other():
    with native.held(1):
        inside.set()
        go.wait(30)

inside, go = threading.Event(), threading.Event()
thread = threading.Thread(target=other)
thread.start()
inside.wait(30)
with native.held(1):
    child = os.fork()
if child == 0:
    signal.alarm(30)  # ends it, should it wait
    with native.held(2):
        os._exit(0)
go.set()
thread.join(30)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.parametrize("script", [LOADS, FORKS], ids=["loads", "forks"])
def test_native_threads_in_a_process_of_its_own(script, tmp_path):
    """A library that is loaded in a run begins with its number, and has its own afterwards. A child that is forked in a
    run leaves it, and waits for no thread that exists in its parent only."""
    environment = {name: value for name, value in os.environ.items() if name not in native.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_run_inside_a_run_that_holds_another_number_is_refused_and_does_not_wait_for_itself():
    def outer(seed, number):
        return pm.run_monte_carlo(w.draws, 2, seed=1, native_threads=number)

    assert len(pm.run_monte_carlo(outer, 2, (1,), backend="sequential")) == 2
    with pytest.raises(ValueError, match=r"found 2 inside a run that holds them at 1"):
        pm.run_monte_carlo(outer, 2, (2,), backend="sequential")


# ---------------------------------------------------------------------------------------------- what workers may do


@pytest.mark.parametrize("backend", VARIANTS)
def test_arguments_arrive_read_only(backend):
    mine = np.zeros(3)
    with pytest.raises(ValueError, match="read-only"):
        pm.run_monte_carlo(w.writes, 8, ([{"x": mine}],), backend=backend, n_jobs=2)
    mine[0] = 2.0  # the caller's own stays writable


def test_a_worker_that_draws_globally_later_on_is_found_before_workers_start():
    """It waits, so threads would be best for it; its first simulation draws nothing."""
    found, info = pm.run_monte_carlo(w.globally_later, 40, seed=1, n_jobs=2, return_info=True)
    assert len(found) == 40
    assert "draws from a global generator" in dict(info.decision.excluded)["joblib/threads"]


@pytest.mark.parametrize("generator", ["numpy", "python"])
def test_a_worker_that_draws_globally_is_kept_from_threads(generator):
    given = {"worker_args": (generator,), "seed": 1, "n_jobs": 2}
    for how in ({"backend": "threads"}, {"backend": "joblib/threads"}, {"prefer": "threads"}):
        with pytest.raises(ValueError, match=r"draws from a global generator.*default_rng\(seed\)"):
            pm.run_monte_carlo(w.globally, 8, **given, **how)
    _, info = pm.run_monte_carlo(w.globally, 8, backend="joblib", return_info=True, **given)
    assert info.variant == "joblib/loky"
    reasons = dict(info.decision.excluded)
    assert "global generator" in reasons["joblib/threads"]


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("backend", VARIANTS)
@pytest.mark.parametrize("error", [pm.UnsupportedError, pm.RunTimeoutError, pm.BackendUnavailableError])
def test_our_own_errors_raised_by_a_worker_are_its_own(backend, error):
    with pytest.raises(error, match="of the worker") as caught:
        pm.run_monte_carlo(w.raises, 8, (error,), seed=1, backend=backend, n_jobs=2)
    assert "raised by simulation" in caught.value.__notes__[0]
    assert str(caught.value) == "of the worker"


@pytest.mark.parametrize("backend", VARIANTS)
def test_an_exception_names_its_simulation_and_how_to_run_it_alone(backend):
    with pytest.raises(ArithmeticError, match="seven") as caught:
        pm.run_monte_carlo(w.fails_at_seven, 20, seed=3, backend=backend, n_jobs=2)
    note = next(note for note in caught.value.__notes__ if "simulation 7" in note)
    assert "pointsman.replay(worker, 3, 7)" in note
    with pytest.raises(ArithmeticError, match="seven"):
        pm.replay(w.fails_at_seven, 3, 7)
    assert pm.replay(w.fails_at_seven, 3, 8) == w.fails_at_seven(np.random.SeedSequence(3).spawn(9)[8])


@pytest.mark.parametrize("backend", VARIANTS)
def test_collected_failures_stand_in_their_place(backend):
    found, info = pm.run_monte_carlo(
        w.fails_at_seven, 20, seed=3, backend=backend, n_jobs=2, on_error="collect", return_info=True
    )
    assert [i for i, result in enumerate(found) if isinstance(result, pm.FailedSimulation)] == [7]
    assert (found[7].index, found[7].error) == (7, "ArithmeticError: seven")
    assert "fails_at_seven" in found[7].traceback
    assert info.failed == [found[7]]
    assert found[:7] == [w.fails_at_seven(child) for child in np.random.SeedSequence(3).spawn(7)]


@pytest.mark.parametrize("backend", VARIANTS)
def test_retries_run_the_same_seed_again(backend, tmp_path):
    given = {"worker_args": (str(tmp_path),), "seed": 4, "backend": backend, "n_jobs": 2}
    found = pm.run_monte_carlo(w.fails_twice, 9, retries=2, **given)
    assert found == [
        int(np.random.default_rng(child).integers(1 << 60)) for child in np.random.SeedSequence(4).spawn(9)
    ]
    for place in tmp_path.iterdir():
        place.unlink()
    with pytest.raises(OSError, match="not yet"):
        pm.run_monte_carlo(w.fails_twice, 9, retries=1, **given)


@pytest.mark.parametrize("backend", [variant for variant, _, method in map_methods() if method.ships])
def test_a_worker_process_that_is_killed_costs_its_chunk_and_no_bit(backend, tmp_path):
    found, info = pm.run_monte_carlo(
        w.dies_once, 40, (str(tmp_path),), seed=6, backend=backend, n_jobs=2, return_info=True
    )
    assert found == [int(np.random.default_rng(c).integers(1 << 60)) for c in np.random.SeedSequence(6).spawn(40)]
    assert len(info.failures) == 1


# ---------------------------------------------------------------------------------------------- nonsense


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"n_simulations": -1}, ValueError, "the least is 0"),
        ({"n_simulations": 2.5}, TypeError, "whole number"),
        ({"n_simulations": None}, TypeError, "n_simulations"),
        ({"seed": -3}, ValueError, "seed: found -3"),
        ({"seed": "abc"}, TypeError, "seed: found 'abc'"),
        ({"seed": 1.5}, TypeError, "SeedSequence"),
        ({"seed": True}, TypeError, "seed: found True"),
        ({"seeds": "words"}, ValueError, "allowed are sequence, int"),
        ({"on_error": "ignore"}, ValueError, "allowed are raise, collect"),
        ({"worker_args": np.ones(3)}, TypeError, "give a tuple"),
        ({"worker_kwargs": [1]}, TypeError, "give a dictionary"),
        ({"retries": -1}, ValueError, "retries: found -1"),
        ({"backend": "abacus"}, ValueError, "abacus"),
        ({"n_jbos": 2}, TypeError, "n_jbos"),
        ({"native_threads": 0}, ValueError, "native_threads"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(given, error, said):
    ran = []
    with pytest.raises(error, match=said):
        pm.run_monte_carlo(lambda seed: ran.append(seed), **{"n_simulations": 5, **given})
    assert not ran


def test_a_seed_sequence_of_another_pool_is_refused():
    with pytest.raises(ValueError, match="pool_size=8; give one of the usual size"):
        pm.run_monte_carlo(w.draws, 2, seed=np.random.SeedSequence(5, pool_size=8))
