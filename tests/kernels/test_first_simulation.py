"""Where the first simulation of a run runs, and what it tells."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pointsman as pm
import pytest
import simulation_workers as w
from pointsman.executors.mapping import map_methods
from pointsman.kernels import map_run, monte_carlo_run

SHIPPING = [variant for variant, _, method in map_methods() if method.ships]
THREADS = [variant for variant, _, method in map_methods() if method.parallel and not method.ships]

pytestmark = pytest.mark.usefixtures("no_pool_is_left")


def where(seed):
    """A process."""
    return os.getpid()


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    monkeypatch.setattr(map_run, "_KNOWN", {})
    monkeypatch.setattr(monte_carlo_run, "_CLEAN", set())


@pytest.mark.parametrize("backend", SHIPPING)
def test_a_run_that_is_to_be_on_processes_has_none_in_place(backend):
    """Two long simulations would take as long as one after the other."""
    found, info = pm.run_monte_carlo(where, 2, seed=1, backend=backend, n_jobs=2, return_info=True)
    assert os.getpid() not in found
    assert info.in_place == 0


@pytest.mark.parametrize("backend", THREADS)
def test_threads_do_not_go_on_for_long_when_the_time_is_over(backend):
    """They cannot be ended; that a simulation takes 10 ms was seen in place, so their chunks are short."""
    ran, pause_s = [], threading.Event()

    def worker(seed):
        pause_s.wait(0.01)
        ran.append(seed.spawn_key)

    with pytest.raises(pm.RunTimeoutError):
        pm.run_monte_carlo(worker, 100_000, seed=1, backend=backend, n_jobs=2, timeout=0.3)
    pause_s.wait(0.7)
    before = len(ran)
    pause_s.wait(0.3)
    assert len(ran) == before


def pause(seed, seconds):
    """Nothing."""
    time.sleep(seconds)


def test_a_worker_that_is_known_to_take_long_is_not_waited_for():
    first = pm.run_monte_carlo(pause, 40, (0.02,), seed=1, prefer="threads", n_jobs=2, return_info=True)[1]
    assert first.in_place >= 1
    assert monte_carlo_run._CLEAN
    again = pm.run_monte_carlo(pause, 40, (0.02,), seed=1, prefer="threads", n_jobs=2, return_info=True)[1]
    assert (again.in_place, again.variant) == (0, "threads")


def test_one_that_uses_global_generators_is_looked_at_again_each_time():
    for _ in range(2):
        with pytest.raises(ValueError, match="global generator"):
            pm.run_monte_carlo(w.globally, 8, ("numpy",), seed=1, backend="threads", n_jobs=2)
    assert not monte_carlo_run._CLEAN
    assert np.isfinite(pm.run_monte_carlo(w.normal, 4, seed=1)).all()
