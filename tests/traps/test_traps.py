"""The traps that others fell into: a test with its name for each that selecting and running can fall into.

The others are tested where they belong: first-call costs and quantiles in tests/telemetry, seeds and p-values with the
Monte Carlo runner, baselines in benchmarks.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.breaker import Breakers
from pointsman.executors.errors import NoCandidateError
from pointsman.selector import settings
from pointsman.selector.adaptive import adaptive
from pointsman.selector.costs import Curves
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.history import History
from pointsman.telemetry.memory import GpuMemory
from pointsman.telemetry.outcome import Failure, Outcome


class NoGpu:
    """A driver that finds nothing."""

    class NVMLError(Exception):
        pass

    def nvmlInit(self):
        raise self.NVMLError("driver not loaded")


@pytest.fixture
def history():
    return History(None, background=False, clock=lambda: 1.7e9)


@pytest.fixture
def selector(history, monkeypatch):
    monkeypatch.setattr(registry, "imported", lambda name: True)
    return IntelligentBackendSelector(
        history=history,
        settings=Settings(explore=0.0),
        gpu_memory=GpuMemory(NoGpu()),
        host_budget=lambda: 8 * 2**30,
        breakers=Breakers(),
        costs=Curves(history.state, priors={}),
    )


def workload(size=10**5, operation="spectrogram", **fields):
    return WorkloadCharacteristics(operation_type=operation, data_size=size, **fields)


def feed(selector, w, seconds, times=8, **fields):
    for backend, taken in seconds.items():
        for value in taken if isinstance(taken, list) else [taken] * times:
            selector.history.record(Outcome(selector.sites.of(w, backend), selector.history.now(), value, **fields))
    selector.flush()


def test_averages_that_ignore_size(selector):
    """ "Averages that ignore size." Five tiny numpy runs must not beat five huge torch runs."""
    feed(selector, workload(10), {"numpy": 1e-6}, times=50)
    feed(selector, workload(10**7), {"numpy": 0.9, "torch": 0.1}, times=5)
    assert selector.select_backend(workload(10**7)) == "torch"
    assert selector.select_backend(workload(10)) == "numpy"


def test_learning_that_is_never_fed_because_keys_differ(selector):
    """ "Learning that is never fed because keys differ on write and read." """
    for _ in range(9):
        selector.execute_with_monitoring("derivative_alpha_0.5", "scipy", lambda: None, workload())
    selector.flush()
    assert selector.decide(workload()).candidate("scipy").prediction.evidence == 9


def test_a_fallback_that_reruns_the_closure_that_just_failed(selector):
    """ "A fallback that reruns the closure that just failed." """
    runs = []

    def closure():
        runs.append(1)
        raise MemoryError("too big")

    with pytest.raises(NoCandidateError, match="would repeat the very code that failed"):
        selector.execute_with_monitoring("s", "torch", closure, workload(), ["numpy"])
    assert len(runs) == 1


def test_no_gpu_read_as_infinite_gpu_memory(selector):
    """ "No GPU read as infinite GPU memory." """
    for n in (300, 2**14):
        decision = selector.decide(WorkloadCharacteristics(operation_type="matmul", data_shape=(n, n), work=1e15))
        assert {c.device for c in decision.candidates} == {"cpu"}
    with pytest.raises(NoCandidateError, match="MiB to spare"):
        selector.decide(workload(10**12))


def test_a_learned_choice_that_skips_the_gradient_or_memory_constraint(selector):
    """ "A learned choice that skips the gradient or memory constraint." """
    feed(selector, workload(requires_gradient=True), {"numpy": 1e-9, "torch": 1.0})
    assert selector.select_backend(workload(requires_gradient=True)) == "torch"
    feed(selector, workload(2**31), {"numpy": 1e-9})
    with pytest.raises(NoCandidateError):
        selector.select_backend(workload(2**31))


def test_lock_in_on_the_only_backend_ever_measured(history, selector):
    """ "Lock-in on the only backend ever measured." """
    exploring = IntelligentBackendSelector(
        history=history, settings=Settings(), gpu_memory=GpuMemory(NoGpu()), costs=Curves(history.state, priors={})
    )
    w = workload()
    exploring.select_backend(w)
    feed(selector, w, {"numpy": 1.0}, times=50)
    assert exploring.decide(w).trial is not None
    assert exploring.select_backend(w) == "numpy"  # but asking never explores


def test_lifetime_means(selector):
    """ "Lifetime means." After a thousand fast runs, ten slow ones are enough."""
    feed(selector, workload(), {"torch": 1e-3}, times=1000)
    feed(selector, workload(), {"numpy": 2e-3}, times=10)
    assert selector.select_backend(workload()) == "torch"
    feed(selector, workload(), {"torch": 5e-3}, times=10)
    assert selector.select_backend(workload()) == "numpy"


def test_medians_that_hide_stalls(selector):
    """ "Medians that hide stalls." A stall of 20 ms on every fifth call costs more than it saves."""
    feed(selector, workload(), {"numpy": 2e-3, "torch": [1e-3, 1e-3, 2e-2, 1e-3, 1e-3] * 8})
    assert selector.select_backend(workload()) == "numpy"


def test_compile_time_in_the_mean(selector):
    """ "Compile time in the mean." """
    feed(selector, workload(), {"numpy": 2e-3, "jax": 1e-3})
    feed(selector, workload(), {"jax": [3.0, 3.0]}, compile_s=3.0)
    assert selector.select_backend(workload()) == "jax"
    assert selector.decide(workload()).predicted_s == pytest.approx(1e-3, rel=0.05)


def test_gpu_timed_without_synchronising(selector, monkeypatch):
    """ "GPU timed without synchronising." The clock is read when the device has finished, not when it has started."""
    import jax  # noqa: F401
    from pointsman.selector import monitor

    now = [0.0]

    def finish(result):
        now[0] += 0.5

    monkeypatch.setattr(monitor, "perf_counter", lambda: now[0])
    monkeypatch.setattr(registry.executor("jax"), "synchronize", finish)
    for _ in range(3):
        selector.execute_with_monitoring("s", "jax", lambda: None, workload())
    selector.flush()
    assert selector.decide(workload()).candidate("jax").prediction.seconds == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("name", ["DISABLE_TORCH", "FORCE_JAX", "DISABLE_GPU"])
def test_environment_value_0_read_as_true(name):
    """ "Environment value "0" read as true." """
    found = Settings.from_environment({f"POINTSMAN_{name}": "0"})
    assert (found.force, found.disable, found.disable_gpu) == (None, frozenset(), False)


def test_caches_keyed_by_id_or_by_shape_alone(selector):
    """ "Caches keyed by `id()` or by shape alone." Another array, dtype or parameter of one shape is another call."""
    shift = adaptive(selector=selector)(lambda x, by=0, *, xp=None: x + by)
    for _ in range(3):
        for start in (0.0, 5.0):
            assert shift(np.full(4, start)).tolist() == [start] * 4  # each array may have the id of the last one
        assert shift(np.zeros(4, np.float32)).dtype == np.float32
        assert shift(np.zeros(4, np.int64), 3).tolist() == [3] * 4
        assert shift(np.zeros(4), by=7).tolist() == [7.0] * 4
    short, long = workload(parameters={"taps": 3}), workload(parameters={"taps": 4096})
    feed(selector, short, {"numpy": 1e-4, "scipy": 1e-2})
    feed(selector, long, {"numpy": 1e-2, "scipy": 1e-4})
    assert (selector.select_backend(short), selector.select_backend(long)) == ("numpy", "scipy")


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_float64_narrowed_to_float32(selector, backend):
    """ "float64 narrowed to float32." Not in the result, and not on the way."""
    add = adaptive(selector=selector)(lambda x, *, xp=None: x + 1e-12)
    x = np.ones(3)
    with settings.use(backend):
        y = add(x)
    assert y.dtype == np.float64
    assert (y != x).all()


def test_async_errors_surfacing_in_the_next_call(selector, monkeypatch):
    """ "Async errors surfacing in the next call." What fails on the device fails in its own call, and falls back."""
    import jax  # noqa: F401

    def finish(result):
        if result == "lost":
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    executor = registry.executor("jax")
    monkeypatch.setattr(executor, "synchronize", finish)
    monkeypatch.setattr(executor, "classify", lambda error: Failure.OUT_OF_MEMORY)
    functions = {"jax": lambda: "lost", "numpy": lambda: "saved"}
    assert selector.execute_with_monitoring("s", "jax", functions, workload(), ["numpy"]) == "saved"


def test_probes_with_side_effects():
    """ "Probes with side effects." Listing, deciding and explaining import nothing and start no thread."""
    code = (
        "import sys, threading, pointsman as pm\n"
        "pm.list_backends()\n"
        "w = pm.WorkloadCharacteristics(operation_type='matmul', data_shape=(500, 500), requires_gradient=True)\n"
        "s = pm.default_selector(); s.select_backend(w); print(s.decide(w).explain() != '')\n"
        "print(sorted({'torch', 'jax', 'numba', 'scipy'} & set(sys.modules)), threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["True", "[] 1"]


def test_a_summary_that_is_not_json(selector):
    """ "A summary that is not JSON." """
    feed(selector, workload(), {"numpy": 1e-3})
    selector.record(workload(), "torch", seconds=0.1, failure="driver", message="lost")
    found = json.loads(json.dumps(selector.get_performance_summary(), allow_nan=False))
    assert found["total_records"] == 9


def test_a_winner_that_did_not_compute(selector):
    """ "A winner that did not compute." A run that failed in no time is no fast run."""
    feed(selector, workload(), {"numpy": 1e-3})
    feed(selector, workload(), {"torch": 1e-9}, failure="unsupported")
    decision = selector.decide(workload())
    assert decision.variant == "numpy"
    assert decision.candidate("torch").prediction.evidence == 0
