"""Runs that fold their results, end early, end in time, or tell how far they are: the same everywhere."""

from __future__ import annotations

import multiprocessing.pool
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pointsman as pm
import pytest
import simulation_workers as w
from pointsman.executors.mapping import map_methods
from pointsman.kernels.collect import Collector
from pointsman.kernels.reducers import reducer_of

METHODS = {variant: method for variant, _, method in map_methods()}
REDUCE = {
    "v": "mean",
    "most": pm.reducers.Maximum(),
    "p": pm.reducers.Exceedances(1.0),
    "bins": pm.reducers.Histogram(-3.0, 3.0, 20),
    "q": pm.reducers.Quantiles((0.1, 0.9)),
}

pytestmark = pytest.mark.usefixtures("no_pool_is_left", "four_cores_and_warm_pools")


def leaf_by_leaf(worker, n, leaf, reducer):
    """What a reduced run must give, by its definition: leaves folded and merged in order."""
    results = [worker(child) for child in np.random.SeedSequence(7).spawn(n)]
    total = None
    for first in range(0, n, leaf):
        state = reducer.leaf(results[first : first + leaf])
        total = state if total is None else reducer.merge(total, state)
    return reducer.result(total)


@pytest.mark.parametrize("backend", ["auto", *METHODS])
@pytest.mark.parametrize(("n_jobs", "chunk_size"), [(1, None), (2, 5), (2, 64), (3, 100), (2, None)])
def test_a_reduced_run_is_the_same_bits_wherever_it_ran(backend, n_jobs, chunk_size):
    expected = leaf_by_leaf(w.normal, 333, 32, reducer_of(REDUCE))
    found = pm.run_monte_carlo(
        w.normal, 333, seed=7, backend=backend, n_jobs=n_jobs, chunk_size=chunk_size, reduce=REDUCE, leaf_size=32
    )
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("backend", METHODS)
def test_failures_are_left_out_of_what_is_folded_and_told(backend):
    value, info = pm.run_monte_carlo(
        w.fails_at_seven, 100, seed=1, reduce="mean", on_error="collect", leaf_size=16, backend=backend, n_jobs=2,
        return_info=True,
    )  # fmt: skip
    assert value.n == 99
    assert [(failed.index, failed.error) for failed in info.failed] == [(7, "ArithmeticError: seven")]
    rest = [w.fails_at_seven(child) for i, child in enumerate(np.random.SeedSequence(1).spawn(100)) if i != 7]
    assert value.mean == pytest.approx(np.mean(rest), rel=1e-14)


def test_a_run_of_failures_alone_has_an_empty_value():
    value = pm.run_monte_carlo(w.fails_always, 10, seed=1, reduce="mean", on_error="collect")
    assert value.n == 0
    assert np.isnan(value.mean)


class Longest(pm.reducers.Reducer):
    """A user's own: the longest text, the first of several."""

    def leaf(self, results):
        return {"text": max(results, key=len, default="")}

    def merge(self, first, second):
        return second if len(second["text"]) > len(first["text"]) else first

    def result(self, state):
        return state["text"]


@pytest.mark.parametrize("backend", METHODS)
def test_a_reducer_of_ones_own_runs_everywhere(backend):
    found = pm.run_monte_carlo(w.text, 200, seed=3, reduce=Longest(), leaf_size=16, backend=backend, n_jobs=2)
    texts = [w.text(child) for child in np.random.SeedSequence(3).spawn(200)]
    assert found == max(texts, key=len)


def test_worker_processes_of_loky_fold_without_importing_pointsman():
    code = (
        "import pointsman as pm, simulation_workers as w\n"
        "reduce = {'most': 'maximum', 'p': pm.reducers.Exceedances(1), 'bins': pm.reducers.Histogram(0, 2)}\n"
        "print(pm.run_monte_carlo(w.loads_pointsman, 64, reduce=reduce, leaf_size=8, backend='joblib/loky', n_jobs=2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert "'most': 0, 'p': PValue(n=64, r=0)" in done.stdout, done.stderr


def test_memory_does_not_grow_with_the_number_of_simulations():
    def peak(n):
        tracemalloc.start()
        try:
            pm.run_monte_carlo(w.kilobyte, n, seed=1, reduce="mean", leaf_size=16, backend="sequential")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)  # what is imported meanwhile
    assert peak(10_000) < peak(1000) + 1_000_000  # a block of some milliseconds; the list would be 9 MB longer


# ---------------------------------------------------------------------------------------------- enough


@pytest.mark.parametrize("backend", ["auto", *METHODS])
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_run_ends_at_the_same_simulation_everywhere(backend, n_jobs):
    asked = []

    def enough(value, n):
        asked.append(n)
        return value.half_width(0.9) < 0.06

    value, info = pm.run_monte_carlo(
        w.normal, 20_000, seed=7, reduce="mean", stop_when=enough, leaf_size=32, backend=backend, n_jobs=n_jobs,
        return_info=True,
    )  # fmt: skip
    assert value.n == info.done == asked[-1] == 864
    assert value.half_width(0.9) < 0.06
    assert repr(value) == repr(leaf_by_leaf(w.normal, 864, 32, pm.reducers.Moments()))
    assert "stop_when said that they were enough" in info.explain()
    assert "864 of 20000 simulations" in info.explain()


def test_a_list_may_end_early_too():
    found = pm.run_monte_carlo(w.normal, 5000, seed=7, stop_when=lambda results, n: max(results) > 2.5, leaf_size=8)
    assert len(found) % 8 == 0
    assert max(found) > 2.5
    assert found == pm.run_monte_carlo(w.normal, len(found), seed=7)


def test_enough_is_asked_after_leaves_a_quarter_more_each_time():
    asked = []
    pm.run_monte_carlo(w.normal, 320, seed=7, reduce="mean", stop_when=lambda v, n: asked.append(n), leaf_size=10)
    assert asked == [10 * k for k in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27)]


@pytest.mark.parametrize("backend", ["auto", *METHODS])
@pytest.mark.parametrize(
    ("reduce", "chunk_size"),
    [(None, None), (None, 100), (pm.reducers.Moments(), 1), (pm.reducers.Moments(), 100)],
    ids=["list", "list in one chunk", "reduced one by one", "reduced in one chunk"],
)
def test_what_fails_beyond_the_end_of_a_run_fails_nowhere_and_what_fails_before_it_everywhere(
    backend, chunk_size, reduce
):
    given = {"seed": 1, "leaf_size": 8, "reduce": reduce, "stop_when": lambda value, n: n >= 32, "backend": backend,
             "n_jobs": 2, "chunk_size": chunk_size}  # fmt: skip
    for first_to_fail in (32, 36, 40):
        found = pm.run_monte_carlo(w.fails_from, 100, (first_to_fail,), **given)
        assert repr(found) == repr(pm.run_monte_carlo(w.normal, 32, seed=1, leaf_size=8, reduce=reduce))
    with pytest.raises(ArithmeticError, match="late") as caught:
        pm.run_monte_carlo(w.fails_from, 100, (31,), **given)
    assert "raised by simulation 31;" in caught.value.__notes__[0]


@pytest.mark.parametrize("backend", ["sequential", "threads"])
def test_an_exception_keeps_its_own_cause_where_a_run_may_end_early(backend):
    def fails(seed):
        raise ValueError("second") from KeyError("first")

    with pytest.raises(ValueError, match="second") as caught:
        pm.run_monte_carlo(fails, 50, seed=1, stop_when=lambda value, n: False, backend=backend, n_jobs=2)
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_the_callers_functions_run_has_its_part_of_the_cores_and_waits_for_nobody():
    """A run inside another asks for other native threads: an error, where it would wait for itself."""

    def asks_for_more(value, n):
        pm.run_monte_carlo(w.normal, 2, native_threads=2)

    with pytest.raises(ValueError, match="inside a run that holds them at 1"):
        pm.run_monte_carlo(w.millisecond, 3000, seed=1, backend="threads", n_jobs=2, reduce="mean",
                           stop_when=asks_for_more)  # fmt: skip


def test_failures_that_a_checkpoint_holds_are_left_out_of_what_is_folded():
    """The file has all results of a leaf, failures among them, and not its state: it was killed in between."""
    from pointsman.kernels.simulations import FailedSimulation

    class Kept:
        def __init__(self):
            self.results = {i: FailedSimulation(i, "ValueError", "") if i == 3 else float(i) for i in range(16)}
            self.states = {}

        def put(self, first, results):
            raise AssertionError("it was kept already")

        def put_state(self, leaf, state, covers=range(0)):
            raise AssertionError("it was kept already")

    sink = Collector(16, collect=True, reducer=pm.reducers.Moments(), leaf_size=16, kept=Kept())
    assert sink.result().n == 15
    assert [failed.index for failed in sink.failed] == [3]
    assert (sink.resumed, len(sink.items)) == (16, 0)


# ---------------------------------------------------------------------------------------------- time, and progress


@pytest.mark.parametrize("backend", ["auto", *METHODS])
def test_a_run_ends_when_its_time_is_over(backend):
    with pytest.raises(pm.RunTimeoutError, match=r"timeout=0\.3 s is over: \d+ of 100000 simulations were done.*lost"):
        pm.run_monte_carlo(w.millisecond, 100_000, seed=1, backend=backend, n_jobs=2, timeout=0.3)


def test_progress_is_told_to_a_function_and_ends_at_the_end():
    told = []
    pm.run_monte_carlo(w.normal, 500, seed=1, progress=lambda done, n: told.append((done, n)))
    assert told[-1] == (500, 500)
    times = iter(np.arange(0.0, 100.0, 0.06))
    seen = []
    sink = Collector(40, tell=lambda done, n: seen.append(done), clock=lambda: float(next(times)))
    for place in range(0, 40, 4):
        sink.take(place, [0.0] * 4)
    assert seen == [8, 16, 24, 32, 40]  # every other one: 0.12 s apart


def test_a_bar_goes_to_standard_error(capsys):
    pm.run_monte_carlo(w.normal, 50, seed=1, progress=True)
    told = capsys.readouterr()
    assert "50/50" in told.err
    assert told.out == ""


def test_in_a_notebook_without_widgets_it_is_plain_text_too(capsys, monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pm.run_monte_carlo(w.normal, 50, seed=1, progress=True)  # a warning of rich's would be an error
    assert "50/50" in capsys.readouterr().err


def test_a_notebook_shows_what_a_run_tells_of_itself():
    def loses(seed):
        raise ArithmeticError("a < b & c")

    _, info = pm.run_monte_carlo(loses, 2000, seed=5, backend="threads", n_jobs=2, on_error="collect", return_info=True)
    shown = info._repr_html_()
    assert "2000 simulations in" in shown
    assert "seed 5" in shown
    assert "2000 failed, the first: 0, ArithmeticError: a &lt; b &amp; c" in shown
    assert info.decision._repr_html_() in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leaf_size": 0}, "leaf_size: found 0; the least is 1"),
        ({"timeout": 0}, "timeout: found 0; give seconds above 0"),
        ({"reduce": "median"}, "names are mean"),
        ({"stop_when": 0.01}, r"stop_when: found 0.01; give a function of \(value, n\)"),
        ({"progress": "yes"}, "progress: found 'yes'; give True, or a function"),
        ({"n_jbos": 2}, "run_monte_carlo has no option 'n_jbos' .did you mean 'n_jobs'"),
        ({"max_nbytes": 2}, "option 'max_nbytes' needs a named backend"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pm.run_monte_carlo(w.never, 10, **options)


# ---------------------------------------------------------------------------------------------- a backend of one's own


class Pool(pm.MonteCarloBackend):
    description = "threads of multiprocessing"

    def run_tasks(self, function, tasks, *, n_jobs, **options):
        with multiprocessing.pool.ThreadPool(n_jobs) as pool:
            yield from pool.imap_unordered(function, tasks)


@pytest.fixture
def mine():
    pm.register_backend("mine", Pool)
    yield pm.get_backend("mine")
    from pointsman.executors import registry

    registry.unregister_backend("mine")


def test_a_backend_of_ones_own_gets_seeds_order_and_reducers_for_nothing(mine):
    expected = pm.run_monte_carlo(w.normal, 200, seed=5)
    assert mine.name == "mine"
    assert mine.run_monte_carlo(w.normal, 200, seed=5, n_jobs=3, chunk_size=7) == expected
    assert pm.run_monte_carlo(w.normal, 200, seed=5, backend="mine", n_jobs=2, reduce="maximum") == max(expected)
    assert "mine" in {info.name for info in pm.list_backends()}
    assert next(info.hint for info in pm.list_backends() if info.name == "mine") == "threads of multiprocessing"
    with pytest.raises(ArithmeticError, match="seven") as caught:
        mine.run_monte_carlo(w.fails_at_seven, 20, seed=1, n_jobs=2)
    assert "raised by simulation 7" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match=r"has no option 'n_jbos' \(did you mean 'n_jobs'"):
        mine.run_monte_carlo(w.normal, 10, n_jbos=3)


def test_one_that_is_not_available_says_so():
    class Away(Pool):
        def is_available(self):
            return False

    pm.register_backend("away", Away)
    try:
        assert "away" not in {info.name for info in pm.list_backends(available_only=True)}
        with pytest.raises(pm.NoCandidateError, match="away says that it is not available here"):
            pm.run_monte_carlo(w.normal, 10, backend="away")
    finally:
        from pointsman.executors import registry

        registry.unregister_backend("away")


@pytest.mark.parametrize("name", sorted({executor.name for _, executor, _ in map_methods()}))
def test_every_map_backend_runs_monte_carlo_and_tells_what_it_can(name):
    backend = pm.get_backend(name)
    assert backend.run_monte_carlo(w.normal, 5, seed=5) == pm.run_monte_carlo(w.normal, 5, seed=5)
    told = backend.get_capabilities()
    assert told["name"] == name
    assert told["available"] is backend.is_available() is True
    assert set(backend.options) < set(told["options"]) >= {"n_jobs", "chunk_size", "native_threads"}
    with pytest.raises(ValueError, match=f"in a run that is to be on {name}; leave it out"):
        backend.run_monte_carlo(w.normal, 5, backend="auto")


# ---------------------------------------------------------------------------------------------- asked ahead


def test_what_is_recommended_can_be_asked_for_and_tells_why():
    few, many = pm.get_recommended_backend(3), pm.get_recommended_backend(10**7, simulation_s=0.1, n_jobs=4)
    assert (few, few.variant) == ("sequential", "sequential")
    assert many != "sequential"
    assert METHODS[many.variant].parallel
    assert "3 simulations of" in few.reason
    assert "(as you say)" in many.reason
    assert pm.run_monte_carlo(w.normal, 3, backend=few, seed=1) == pm.run_monte_carlo(w.normal, 3, seed=1)
    for wrong in (-1, 2.5):
        with pytest.raises((ValueError, TypeError), match="n_simulations"):
            pm.get_recommended_backend(wrong)
    with pytest.raises(ValueError, match="simulation_s: found 0"):
        pm.get_recommended_backend(10, simulation_s=0)


def test_what_was_recorded_of_a_worker_counts():
    pm.run_monte_carlo(w.millisecond, 300, seed=1, backend="auto", n_jobs=2, prefer="processes")
    pm.flush()
    assert "(as recorded of this worker)" in pm.get_recommended_backend(10, w.millisecond).reason
    assert "(as is usual here)" in pm.get_recommended_backend(10, w.normal).reason
