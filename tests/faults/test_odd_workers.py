"""Monte Carlo of workers that do what they should not, and in places where others have workers: results or an error."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import fault_workers as w
import numpy as np
import pointsman as pm
import pytest
from lives import METHODS, SHIPPING, ahead, grid, groups, lives
from pointsman.telemetry.outcome import Failure

pytestmark = pytest.mark.usefixtures("no_pool_is_left")


def draws(seed, n):
    return [w.normal(child) for child in np.random.SeedSequence(seed).spawn(n)]


def run(variant, worker, *args, n=12, **options):
    return pm.run_monte_carlo(worker, n, args, seed=1, backend=variant, n_jobs=2, chunk_size=1, **options)


# ---------------------------------------------------------------------------------------------- killed workers


@pytest.mark.parametrize("variant", grid(SHIPPING))
def test_a_killed_worker_costs_what_it_was_at(variant, tmp_path):
    log = tmp_path / "log"
    found, info = run(variant, w.kills_its_process, str(log), 1, n=60, return_info=True)
    assert found == draws(1, 60)
    assert [failure for _, failure, _ in info.failures] == [Failure.DRIVER]
    runs = Counter(int(line.split()[1]) for line in log.read_text().splitlines())
    assert set(runs) == set(range(60))
    assert runs[20] == 2
    assert max(runs.values()) == 2
    assert sum(count == 2 for count in runs.values()) <= ahead(variant)


@pytest.mark.parametrize(("times", "rerun", "runs"), [(9, True, 2), (1, False, 1)], ids=["twice", "rerun=False"])
@pytest.mark.parametrize("variant", grid(SHIPPING))
def test_a_worker_that_is_killed_again_ends_the_run_and_what_was_done_is_kept(variant, times, rerun, runs, tmp_path):
    log, mended = tmp_path / "log", tmp_path / "mended"
    args = (variant, w.kills_its_process, str(log), times, str(mended))
    given = {"n": 60, "checkpoint": tmp_path / "kept", "return_info": True, "reduce": "mean", "leaf_size": 4}
    with pytest.raises(pm.NoCandidateError, match="lost") as caught:
        run(*args, rerun=rerun, **given)
    assert [failure for _, failure, _ in caught.value.failures] == [Failure.DRIVER] * runs
    assert log.read_text().split("\n").count("1 20") == runs
    mended.touch()
    found, info = run(*args, **given)
    assert repr(found) == repr(pm.run_monte_carlo(w.normal, 60, seed=1, reduce="mean", leaf_size=4))
    assert info.resumed > 0


# ---------------------------------------------------------------------------------------------- odd workers


FORKS = """
print(pm.run_monte_carlo(w.prints_and_forks, 12, seed=1, backend=sys.argv[1], n_jobs=2, chunk_size=1))
"""


@pytest.mark.parametrize("variant", grid(METHODS))
def test_a_worker_may_print_and_fork(variant, tmp_path):
    """In a process of its own: libraries that other tests have loaded here warn where this one forks."""
    with lives(tmp_path, FORKS, variant) as script:
        script.begin()
        assert script.end().splitlines()[-1] == f"{list(range(12))}"


@pytest.mark.parametrize("variant", grid(METHODS))
def test_what_is_no_exception_comes_out_as_of_a_loop(variant):
    with pytest.raises(w.Unusual, match="five"):
        run(variant, w.raises_unusual, on_error="collect", retries=1)
    assert run(variant, w.number) == list(range(12))


@pytest.mark.parametrize("variant", grid(METHODS))
def test_an_exit_is_the_callers_or_ends_the_worker_process(variant):
    """By SystemExit a worker of Dask or Ray ends; it is the same as a process that was killed."""
    ends = variant in ("dask/processes", "ray")
    with pytest.raises(pm.NoCandidateError if ends else SystemExit, match="lost" if ends else "^3$"):
        run(variant, w.exits, on_error="collect", retries=1)
    assert run(variant, w.number) == list(range(12))


@pytest.mark.parametrize("variant", grid(SHIPPING))
def test_a_worker_that_ends_its_process_ends_the_run_and_not_ours(variant):
    with pytest.raises(pm.NoCandidateError, match="lost"):
        run(variant, w.ends_its_process)
    assert run(variant, w.number) == list(range(12))


@pytest.mark.parametrize("variant", grid(METHODS))
def test_a_result_that_cannot_be_pickled_is_given_here_or_refused(variant):
    if METHODS[variant].ships:
        with pytest.raises(pm.NoCandidateError, match=r"results must be picklable .*lock"):
            run(variant, w.gives_a_lock)
    else:
        assert type(run(variant, w.gives_a_lock)[5]) is type(threading.Lock())


@pytest.mark.parametrize("variant", grid(METHODS))
def test_a_large_result_is_one_like_others(variant):
    size = 10**8 if METHODS[variant].bytes_per_s > 5e7 else 10**7  # in bytes
    found = run(variant, w.gives_bytes, size, n=7)
    assert found[5].nbytes == size
    assert found[5][-1] == 5.0
    assert found[:5] == [0, 1, 2, 3, 4]


MAIN = """
def mine(seed, x):
    return w.number(seed) * x
factor = 3
def closure(seed):
    return mine(seed, factor)
for variant in sys.argv[1:]:
    for worker in (lambda seed: mine(seed, factor), closure):
        print(variant, pm.run_monte_carlo(worker, 6, seed=1, backend=variant, n_jobs=2), flush=True)
"""


@pytest.mark.parametrize("variants", groups(METHODS))
def test_lambdas_and_functions_of_a_script_without_a_guard_run_everywhere(variants, tmp_path):
    with lives(tmp_path, MAIN, *variants) as script:
        script.begin()
        assert script.end().splitlines() == [f"{name} [0, 3, 6, 9, 12, 15]" for name in variants for _ in range(2)]


# ---------------------------------------------------------------------------------------------- odd places


@pytest.mark.parametrize("outer", grid(METHODS))
def test_a_run_within_a_run_starts_no_workers(outer):
    expected = [draws(seed, 6) for seed in range(4)]
    for inner in ("auto", *SHIPPING):
        assert run(outer, w.runs_again, inner, n=4) == expected


@pytest.mark.parametrize("variant", grid(METHODS))
def test_threads_and_event_loops_may_run_simulations(variant):
    async def cell():
        return run(variant, w.normal, n=20)

    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(pm.run_monte_carlo, w.normal, 20, seed=seed, backend=variant, n_jobs=2) for seed in (1, 2, 3)
        ]
        assert asyncio.run(cell()) == draws(1, 20)
        assert [run.result(60) for run in runs] == [draws(seed, 20) for seed in (1, 2, 3)]


IN_A_POOL = """
import multiprocessing
def in_worker(variant):
    found, info = pm.run_monte_carlo(w.normal, 20, seed=1, backend=variant, n_jobs=2, return_info=True)
    return found, len(multiprocessing.active_children())
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found, children in pool.map(in_worker, sys.argv[1:]):
            print(children, found)
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("variants", groups(METHODS))
def test_a_run_in_a_worker_of_a_pool_of_multiprocessing(variants, tmp_path):
    with lives(tmp_path, IN_A_POOL, "auto", *variants) as script:
        script.begin()
        assert script.end().splitlines() == [f"0 {draws(1, 20)}"] * (1 + len(variants))
        assert not script.complaints
