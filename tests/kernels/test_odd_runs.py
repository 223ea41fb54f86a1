"""Monte Carlo runs that few would make: odd workers, odd results, odd arguments, and what came before them."""

from __future__ import annotations

import threading
from collections import defaultdict, namedtuple

import numpy as np
import pointsman as pm
import pytest
import simulation_workers as w
from pointsman.executors import registry
from pointsman.executors.mapping import map_methods
from pointsman.kernels.collect import Collector
from pointsman.kernels.simulations import root_of, simulation

VARIANTS = [variant for variant, _, _ in map_methods()]
SHIPPING = [variant for variant, _, method in map_methods() if method.ships]
IN_PROCESS = [variant for variant in VARIANTS if variant not in SHIPPING]

# ---------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("backend", ["auto", "threads", "joblib/loky"])
def test_a_function_that_numba_has_compiled_is_a_worker(backend):
    import numba

    half = numba.njit("float64(uint64)")(lambda seed: seed % np.uint64(1000) / 2.0)
    found = pm.run_monte_carlo(half, 12, seeds="int", seed=1, backend=backend, n_jobs=2)
    assert found == [int(s.generate_state(1, "uint64")[0]) % 1000 / 2.0 for s in np.random.SeedSequence(1).spawn(12)]
    assert pm.get_recommended_backend(10, half) == "sequential"


@pytest.mark.parametrize("backend", ["auto", *VARIANTS])
def test_an_exhausted_iterator_in_a_worker_is_told_with_its_simulation(backend):
    with pytest.raises(RuntimeError, match="the worker raised StopIteration") as caught:
        pm.run_monte_carlo(w.exhausted_at_seven, 12, seed=3, backend=backend, n_jobs=2)
    assert "pointsman: raised by simulation 7; alone again: pointsman.replay(worker, 3, 7)" in caught.value.__notes__


@pytest.mark.parametrize("backend", ["gpu/numpy", "gpu/torch"])
def test_vectorised_workers_that_give_nothing_or_exhaust_an_iterator_are_told_of(backend):
    given = {"seed": 1, "vectorized": True, "backend": backend}
    for nothing in ({}, ()):
        with pytest.raises(TypeError, match="give at least one array"):
            pm.run_monte_carlo(lambda keys, *, xp, nothing=nothing: nothing, 10, **given)
    with pytest.raises(RuntimeError, match="the worker raised StopIteration") as caught:
        pm.run_monte_carlo(lambda keys, *, xp: next(iter(())), 10, **given)
    assert "raised by the batch of simulations 0 to" in caught.value.__notes__[0]


def test_arrays_in_containers_of_any_class_cannot_be_changed():
    Pair = namedtuple("Pair", "x label")

    class Named(list):
        pass

    tree = defaultdict(list, x=np.zeros(3))
    named = Named([np.zeros(3)])
    named.label = "kept"

    def writes(seed, pair, tree, named):
        assert (type(pair), type(tree), type(named)) == (Pair, defaultdict, Named)
        assert (pair.label, tree["new"], named.label) == ("kept", [], "kept")
        for array in (pair.x, tree["x"], named[0]):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1.0

    given = (Pair(np.zeros(3), "kept"), tree, named)
    simulation(writes, root_of(1), given, {})(0)
    assert [array[0] for array in (given[0].x, tree["x"], named[0])] == [0.0] * 3
    assert "new" not in tree


def test_containers_that_cannot_be_copied_or_changed_go_as_they_are():
    class Fixed(dict):
        def __setitem__(self, key, value):
            raise TypeError("fixed")

    class Single(list):
        def __reduce_ex__(self, protocol):
            raise TypeError("there is one only")

    given = (Fixed(x=1), Single([2]))
    assert simulation(lambda seed, *args: args, root_of(1), given, {})(0) == given


# ---------------------------------------------------------------------------------------------- what came before


@pytest.mark.parametrize("backend", SHIPPING)
def test_an_argument_that_cannot_be_sent_bars_no_other(backend):
    def second(seed, x):
        return x

    with pytest.raises(pm.NoCandidateError, match="picklable"):
        pm.run_monte_carlo(second, 4, (threading.Lock(),), seed=1, backend=backend, n_jobs=2)
    assert pm.run_monte_carlo(second, 4, (3,), seed=1, backend=backend, n_jobs=2) == [3] * 4


@pytest.mark.parametrize("backend", ["auto", *VARIANTS])
def test_one_simulation_may_be_enough(backend):
    given = {"seed": 1, "leaf_size": 1, "stop_when": lambda value, n: True, "n_jobs": 2, "return_info": True}
    found, info = pm.run_monte_carlo(w.normal, 10, backend=backend, **given)
    assert (found, info.done) == (pm.run_monte_carlo(w.normal, 1, seed=1), 1)
    assert info.explain()


def test_a_run_that_goes_on_beyond_what_is_now_enough_tells_of_what_counts(tmp_path):
    given = {
        "seed": 1, "leaf_size": 10, "on_error": "collect", "reduce": "mean", "checkpoint": tmp_path / "kept",
        "return_info": True,
    }  # fmt: skip
    pm.run_monte_carlo(w.fails_each_fifth, 200, **given)
    given["stop_when"] = lambda value, n: n >= 50
    value, info = pm.run_monte_carlo(w.fails_each_fifth, 200, **given)
    del given["checkpoint"]
    fresh, plain = pm.run_monte_carlo(w.fails_each_fifth, 200, **given)
    assert (repr(value), info.done, info.failed) == (repr(fresh), plain.done, plain.failed)
    assert (info.done, len(info.failed)) == (50, 10)


@pytest.mark.parametrize("backend", VARIANTS)
def test_what_cannot_be_folded_beyond_the_end_is_never_folded(backend):
    given = {"seed": 1, "leaf_size": 10, "reduce": "mean", "backend": backend, "n_jobs": 2}
    for chunk_size in (None, 7, 200):
        how = {**given, "chunk_size": chunk_size}
        assert pm.run_monte_carlo(w.none_from, 200, (30,), stop_when=lambda value, n: n >= 20, **how).n == 20
        with pytest.raises(TypeError, match="results must be numbers"):
            pm.run_monte_carlo(w.none_from, 200, (10,), stop_when=lambda value, n: n >= 20, **how)


@pytest.mark.parametrize("backend", VARIANTS)
def test_failures_stand_in_the_order_of_simulations(backend):
    _, info = pm.run_monte_carlo(
        w.fails_each_fifth, 100, seed=1, on_error="collect", backend=backend, n_jobs=3, chunk_size=3, return_info=True
    )
    assert [failed.index for failed in info.failed] == list(range(3, 100, 5))


# ---------------------------------------------------------------------------------------------- results


def test_single_results_are_held_against_each_observed_number():
    observed = np.array([0.0, 0.4, 0.6])
    found = pm.run_monte_carlo(lambda seed: 0.5, 3000, seed=1, leaf_size=3, reduce=pm.reducers.Exceedances(observed))
    assert (found.n, found.r.tolist()) == (3000, [3000, 3000, 0])


@pytest.mark.parametrize("reduce", ["mean", "maximum", "minimum", pm.reducers.Histogram(-5, 5)], ids=str)
def test_results_of_another_shape_are_never_taken_for_each_other(reduce):
    def ragged(seed):
        return np.ones(3) if seed.spawn_key[-1] < 10 else 2.0

    with pytest.raises(ValueError, match=r"results must have one shape; found \(3,"):
        pm.run_monte_carlo(ragged, 20, seed=1, leaf_size=10, reduce=reduce)


# ---------------------------------------------------------------------------------------------- arguments


def test_whole_numbers_of_numpy_are_whole_numbers():
    three = np.int64(3)
    found = pm.run_monte_carlo(
        w.normal, three, seed=1, n_jobs=three, chunk_size=three, leaf_size=three, retries=three, native_threads=three,
        backend="threads",
    )  # fmt: skip
    assert found == pm.run_monte_carlo(w.normal, 3, seed=np.array(1))
    assert pm.replay(w.normal, 1, np.int64(2)) == found[2]
    assert pm.get_recommended_backend(three) == "sequential"


@pytest.mark.parametrize("backend", ["sequential", "threads", "joblib/loky", "dask/threads"])
@pytest.mark.parametrize("timeout", [float("inf"), 1e10, 10**400])
def test_a_time_without_end_is_none(backend, timeout):
    assert pm.run_monte_carlo(w.normal, 8, seed=1, backend=backend, n_jobs=2, timeout=timeout)


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        ({"timeout": "3"}, TypeError, "timeout: found '3'; give seconds"),
        ({"timeout": True}, TypeError, "timeout: found True"),
        ({"leaf_size": None}, TypeError, "leaf_size: found None; give a whole number$"),
        ({"n_simulations": None}, TypeError, "n_simulations: found None; give a whole number$"),
        ({"native_threads": 1.0}, TypeError, "native_threads: found 1.0"),
        ({"reduce": {1: "mean", "1": "mean"}}, ValueError, "names must differ"),
        ({"backend": "joblib/threads", "n_jobs": 2, "pre_dispatch": 0}, ValueError, "pre_dispatch: found 0"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_arguments_that_make_no_sense_are_refused(given, kind, says):
    with pytest.raises(kind, match=says):
        pm.run_monte_carlo(**{"worker": w.normal, "n_simulations": 20, "seed": 1, **given})


@pytest.mark.parametrize("wrong", [{"q": 0.5}, {"q": "0.5"}, {"error": 1e-17}])
def test_quantiles_and_histograms_that_cannot_be_are_refused_before_the_run(wrong):
    with pytest.raises((TypeError, ValueError), match="Quantiles: found q="):
        pm.reducers.Quantiles(**wrong)
    for bounds in (("0", 1), (0, 1, 2.7)):
        with pytest.raises(ValueError, match="Histogram: found low="):
            pm.reducers.Histogram(*bounds)


def test_a_replay_wants_a_seed_and_an_index():
    with pytest.raises(TypeError, match="seed: found None; give that of the run"):
        pm.replay(w.normal, None, 1)
    with pytest.raises(TypeError, match="index: found None"):
        pm.replay(w.normal, 1, None)
    with pytest.raises(ValueError, match="native_threads: found 0"):
        pm.replay(w.normal, 1, 1, native_threads=0)


def test_a_backend_that_cannot_say_whether_it_is_there_stops_no_other():
    class Faulty(pm.MonteCarloBackend):
        def is_available(self):
            raise OSError("no such thing")

        def run_tasks(self, function, tasks, *, n_jobs, **options):
            return map(function, tasks)

    pm.register_backend("faulty", Faulty)
    try:
        assert len(pm.run_monte_carlo(w.millisecond, 200, seed=1)) == 200
        assert "faulty" not in pm.list_backends(available_only=True)
        with pytest.raises(pm.BackendUnavailableError, match="available: OSError: no such thing"):
            pm.run_monte_carlo(w.millisecond, 200, seed=1, backend="faulty")
    finally:
        registry.unregister_backend("faulty")


def test_a_leaf_that_is_kept_twice_counts_once():
    sink = Collector(4, reducer=pm.reducers.Moments(), leaf_size=2, stop_when=lambda value, n: n >= 2)
    sink.take(0, [1.0, 2.0])
    sink.receive(0, [(1, None, pm.reducers.Moments().leaf([3.0, 4.0]), [])])
    assert (sink.done, sink.result().n) == (2, 2)
