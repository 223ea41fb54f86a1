"""Vectorised Monte Carlo: distributions, the same simulations everywhere, a choice that is learned, flat memory."""

from __future__ import annotations

import math
import subprocess
import sys

import batch_workers as w
import numpy as np
import pointsman as pm
import pytest
from pointsman import draws
from pointsman.executors import registry
from pointsman.executors.errors import NoCandidateError, RunTimeoutError
from pointsman.kernels import vectorized
from pointsman.kernels.map_worker import worker_name
from pointsman.kernels.simulations import root_of
from pointsman.kernels.vectorized import rows, run_vectorized
from pointsman.selector import batches
from pointsman.selector.shared import default_selector
from pointsman.telemetry.outcome import Failure, Outcome
from scipy import stats

HOST = [f"gpu/{n}" for n in batches.methods(False) if "cpu" in registry.executor(n).capabilities.devices]


def run(worker, n, *args, **more):
    """All results, as one array, and the info."""
    parts = []
    info = run_vectorized(worker, n, args, {}, root_of(1), lambda _, found: parts.append(found), **more)
    return np.concatenate(parts), info


@pytest.fixture
def imported(monkeypatch):
    """Every library is there already, and a pilot on this machine takes as long as on any other."""
    for name in HOST:
        registry.ensure(name.partition("/")[2])
    monkeypatch.setattr(vectorized, "LONG_S", 0.0)
    monkeypatch.setattr(vectorized, "SHORT_S", 0.0)


def executed(name: str) -> dict[str, int]:
    """Outcomes by variant that the history holds of a worker."""
    selector = default_selector()
    selector.flush()
    found = selector._engine.history.state.of(f"batch:{name}", batches.DTYPE)
    return {cell.variant: round(sketch.count) for (cell, _), sketch in found.items() if sketch.count}


# ---------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("backend", ["auto", "gpu", *HOST])
def test_simulation_i_is_the_same_wherever_it_runs(backend):
    expected = draws.uniform(draws.keys(42, 700), 2)
    for size in (None, 64):
        found, info = pm.run_monte_carlo(
            w.uniforms, 700, (2,), seed=42, vectorized=True, backend=backend, chunk_size=size, return_info=True
        )
        assert len(found) == 700
        np.testing.assert_array_equal(found, expected)
        assert (info.seed, info.items) == (42, 700)
        assert info.variant == (backend if "/" in backend else "gpu/numpy")
        assert size is None or info.chunk_size == size


def test_seeds_are_those_of_any_other_run():
    parent = np.random.SeedSequence(7).spawn(3)[2]
    found, info = pm.run_monte_carlo(w.uniforms, 5, seed=parent, vectorized=True, return_info=True)
    words = [child.generate_state(4).astype(np.int64) for child in parent.spawn(5)]
    np.testing.assert_array_equal(found, draws.uniform(np.array(words), 3))
    assert info.spawn_key == (2,)
    first, info = pm.run_monte_carlo(w.uniforms, 5, vectorized=True, return_info=True)
    np.testing.assert_array_equal(first, pm.run_monte_carlo(w.uniforms, 5, seed=info.seed, vectorized=True))


@pytest.mark.parametrize("backend", ["auto", "gpu", *HOST])
def test_one_simulation_of_a_batch_can_be_replayed_alone(backend):
    def fails_at_three(keys, n, *, xp):
        first = pm.draws.uniform(keys, n, xp)
        if bool(xp.any(first[:, 0] == w.uniforms(draws.keys(42, 4), 2, xp=np)[3, 0])):
            raise ArithmeticError("three")
        return first

    found = pm.run_monte_carlo(w.mean_and_extremes, 40, (12,), seed=42, vectorized=True, backend=backend)
    alone = pm.replay(w.mean_and_extremes, 42, 7, (12,), vectorized=True, backend=backend)
    assert list(alone) == ["mean", "ends", "first"]
    np.testing.assert_array_equal(alone["first"], found[7]["first"])
    np.testing.assert_allclose(alone["mean"], found[7]["mean"], rtol=1e-12)
    with pytest.raises(ArithmeticError, match="three"):
        pm.replay(fails_at_three, 42, 3, (2,), vectorized=True, backend=backend)
    np.testing.assert_array_equal(
        pm.replay(fails_at_three, 42, 4, (2,), vectorized=True, backend=backend), draws.uniform(draws.keys(42, 5), 2)[4]
    )


def test_what_is_not_vectorised_or_runs_nowhere_is_not_replayed_as_such():
    with pytest.raises(TypeError, match="a vectorised worker has a parameter xp"):
        pm.replay(abs, 1, 0, vectorized=True)
    with pytest.raises(ValueError, match="does not run on 'gpu/tosch'"):
        pm.replay(w.uniforms, 1, 0, vectorized=True, backend="gpu/tosch")


@pytest.mark.parametrize("backend", ["auto", *HOST])
def test_results_have_the_distribution_of_plain_simulations(backend):
    """The mean of 12 normal numbers is normal with variance 1/12; an option has the price of Black and Scholes."""
    found = pm.run_monte_carlo(w.mean_and_extremes, 20_000, (12,), seed=3, vectorized=True, backend=backend)
    assert list(found[0]) == ["mean", "ends", "first"]
    assert stats.kstest([r["mean"] for r in found], "norm", args=(0.0, 12**-0.5)).pvalue > 0.01
    largest = [float(r["ends"][1]) for r in found]
    assert stats.kstest(largest, lambda x: stats.norm.cdf(x) ** 12).pvalue > 0.01
    pays = pm.run_monte_carlo(w.option, 200_000, (95.0,), seed=4, backend="gpu" if backend == "auto" else backend)
    d = math.log(100 / 95) / 0.2 + 0.1
    price = 100 * stats.norm.cdf(d) - 95 * stats.norm.cdf(d - 0.2)
    assert abs(np.mean(pays) - price) < 4 * np.std(pays) / math.sqrt(len(pays))


def test_rows_are_what_plain_simulations_would_give():
    a, b = np.arange(3.0), np.arange(6).reshape(3, 2)
    assert rows(a) == [0.0, 1.0, 2.0]
    assert type(rows(a)[0]) is float
    assert [type(x) for x in rows(np.array([True]))] == [bool]
    found = rows({"a": a, "b": (b, a)})
    assert [r["a"] for r in found] == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(found[2]["b"][0], [4, 5])
    assert pm.run_monte_carlo(w.uniforms, 0, vectorized=True) == []


def test_opencl_runs_what_is_written_for_it():
    worker = pm.OpenCLWorker(w.SUM, "sum", shape=(2,))
    found, info = pm.run_monte_carlo(worker, 500, (3, 1.0, np.zeros(3)), seed=1, return_info=True)
    expected = draws.normal(draws.keys(1, 500), 3, stream=5).sum(axis=1)
    np.testing.assert_allclose(np.array(found)[:, 0], expected, rtol=1e-12, atol=1e-12)
    assert info.variant == "gpu/opencl"
    np.testing.assert_allclose(pm.replay(worker, 1, 9, (3, 1.0, np.zeros(3))), found[9], rtol=1e-12)
    with pytest.raises(ValueError, match="OpenCLWorker does not run on 'gpu/torch'; it does on: gpu/opencl"):
        pm.run_monte_carlo(worker, 500, (3, 1.0, np.zeros(3)), backend="gpu/torch")
    with pytest.raises(TypeError, match="worker_args"):
        pm.run_monte_carlo(worker, 5, worker_kwargs={"n": 3})


# ---------------------------------------------------------------------------------------------- choosing


def test_a_short_run_stays_on_numpy_and_imports_nothing(tmp_path):
    code = """
import sys, pointsman as pm
found = pm.run_monte_carlo(lambda keys, xp: pm.draws.normal(keys, 3, xp), 1000, vectorized=True, seed=1)
assert len(found) == 1000
print(sorted({"torch", "jax", "cupy", "pyopencl", "scipy", "numba"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_what_a_run_took_is_recorded_and_the_faster_library_is_chosen(imported):
    name = worker_name(w.uniforms)
    for backend in HOST:
        run(w.uniforms, 3000, 4, backend=backend)
    assert set(executed(name)) == set(HOST)
    _, info = run(w.uniforms, 200_000, 4)
    engine = default_selector()._engine
    for variant, factor in ((v, 0.02 if v == "gpu/torch" else 1.0) for v in HOST for _ in range(8)):
        request = batches.request(f"batch:{name}", 180_000, info.item_s, require=None)
        site = request.site(next(v for v in request.own.variants if v.name == variant))
        engine.history.record(Outcome(site, engine.history.now(), factor * site.work * 1e-9))
    pm.flush()
    found, info = run(w.uniforms, 200_000, 4)
    assert info.variant == "gpu/torch"
    assert info.decision.rule == "learned"
    assert 0 < info.in_place < 200_000
    np.testing.assert_array_equal(found, draws.uniform(draws.keys(1, 200_000), 4))


@pytest.mark.parametrize("how", ["use", "configure"])
def test_settings_and_scopes_are_heeded(how):
    if how == "use":
        with pm.use("jax"):
            _, info = run(w.uniforms, 300)
    else:
        pm.configure(force="jax")
        _, info = run(w.uniforms, 300)
    assert (info.variant, info.in_place) == ("gpu/jax", 0)


def test_a_worker_that_only_one_library_knows_runs_there():
    def in_torch(keys, *, xp):
        import torch

        return torch.special.erf(pm.draws.uniform(keys, 1, xp)[:, 0])

    found, info = run(in_torch, 300, backend="gpu/torch")
    assert info.variant == "gpu/torch"
    assert 0.0 <= found.min() < found.max() < 0.85
    assert executed(worker_name(in_torch)) == {}


# ---------------------------------------------------------------------------------------------- failures


def test_a_library_that_fails_hands_over_to_the_next_and_nothing_is_lost():
    worker = w.Hungry(0, "torch")
    pm.configure(prefer="torch")
    found, info = run(worker, 2000)
    np.testing.assert_array_equal(found, draws.integers(draws.keys(1, 2000), 1, 1000)[:, 0])
    assert [(name, failure) for name, failure, _ in info.failures] == [("gpu/torch", Failure.OUT_OF_MEMORY)]
    assert info.variant != "gpu/torch"
    with pytest.raises(NoCandidateError, match=r"gpu/torch: .*out of memory"):
        run(worker, 2000, backend="gpu/torch")


def test_results_are_handed_on_as_they_come():
    taken = []

    def take(first, found):
        taken.append((first, len(found)))
        if first >= 500:
            raise ArithmeticError("enough")

    with pytest.raises(ArithmeticError, match="enough"):
        run_vectorized(w.uniforms, 10**6, (), {}, root_of(1), take, batch_size=100, backend="gpu/numpy")
    assert taken == [(first, 100) for first in range(0, 600, 100)]
    with pytest.raises(RunTimeoutError):
        run(w.uniforms, 1000, until=0.0)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"worker": lambda seed: 1.0, "backend": "gpu"}, TypeError, "has a parameter xp"),
        ({"worker": lambda seed: 1.0, "vectorized": True}, TypeError, "sequential, joblib"),
        ({"backend": "joblib", "vectorized": True}, ValueError, "no vectorised worker runs on 'joblib'.*gpu/numpy"),
        ({"backend": "gpu/trch"}, ValueError, "did you mean 'torch'.*gpu/numpy"),
        ({"backend": "gpu", "n_jobs": 2}, ValueError, "n_jobs=2 has no meaning for a vectorised worker"),
        ({"backend": "gpu", "on_error": "collect"}, ValueError, "on_error='collect' has no meaning"),
        ({"backend": "gpu", "seeds": "int"}, ValueError, "seeds='int' has no meaning"),
        ({"backend": "gpu", "jit": True}, TypeError, "run_monte_carlo has no option 'jit'; valid are: seeds"),
        ({"backend": "gpu", "chunk_size": 0}, ValueError, "the least is 1"),
        ({"backend": "gpu/torch@cuda:7"}, NoCandidateError, "cuda:7"),
    ],
)
def test_wrong_use_says_what_is_right(given, error, text):
    given = {"worker": w.uniforms, "n_simulations": 300, "seed": 1} | given
    with pytest.raises(error, match=text):
        pm.run_monte_carlo(**given)


# ---------------------------------------------------------------------------------------------- memory

MEMORY = """
from pathlib import Path
import pointsman as pm
from pointsman.kernels.simulations import root_of
from pointsman.kernels.vectorized import run_vectorized

def squares(keys, n, *, xp):
    return xp.sum(pm.draws.normal(keys, n, xp) ** 2, axis=1)

total = [0.0, 0]
def take(first, found):
    total[0] += float(found.sum())
    total[1] += len(found)

peaks = []
for n in (100_000, 1_500_000):
    run_vectorized(squares, n, (2,), {}, root_of(1), take, backend="gpu/numpy")
    status = Path("/proc/self/status").read_text()
    peaks.append(int(status.partition("VmHWM:")[2].split()[0]) >> 10)
print(total[1], abs(total[0] / total[1] - 2) < 0.02, *peaks)
"""


def test_memory_is_flat_in_the_number_of_simulations(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    count, right, few, many = done.stdout.split()
    assert (count, right) == ("1600000", "True")
    assert int(many) < 300
    assert int(many) - int(few) < 40  # MiB, where the results alone would be 12 and the keys 48


@pytest.mark.parametrize("backend", ["auto", "gpu", "gpu/numpy", "gpu/numpy@cpu"])
def test_no_simulation_on_numpy_is_computed_in_vain(backend):
    """The first batches tell what the others will cost, and count."""
    seen = []

    def worker(keys, xp):
        seen.append(len(keys))
        return keys[:, 0]

    found = pm.run_monte_carlo(worker, 300, seed=1, backend=backend, vectorized=True)
    assert sum(seen) == len(found) == 300
