"""Every map backend of the table, in each of its ways, against the contract of `MapExecutor`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress

import map_workers as w
import numpy as np
import pointsman as pm
import psutil
import pytest
from pointsman.executors import mapping, on_joblib, registry
from pointsman.executors.base import Capabilities, Variant
from pointsman.executors.errors import RunTimeoutError, UnsupportedError
from pointsman.executors.mapping import MapExecutor, Method, WorkerDiedError, each, map_methods
from pointsman.executors.table import BACKENDS
from pointsman.telemetry.outcome import Failure

WAYS = {variant: (executor, method) for variant, executor, method in map_methods()}
SHIPPING = [variant for variant, (_, method) in WAYS.items() if method.ships]
IN_PROCESS = [variant for variant in WAYS if variant not in SHIPPING]


pytestmark = pytest.mark.usefixtures("no_pool_is_left")


def run(variant: str, worker, items, **options):
    executor, method = WAYS[variant]
    return executor.map(worker, items, method=method.name, **{"n_jobs": 2, **options})


def chunks(variant: str, work, given, **options):
    executor, method = WAYS[variant]
    return executor.run_chunks(work, given, method=method.name, n_jobs=2, **options)


def test_the_map_backends_are_those_whose_record_says_so():
    mapping_names = {name for name in BACKENDS if registry.executor(name).capabilities.map}
    assert mapping_names == {executor.name for executor, _ in WAYS.values()} == {
        "sequential", "threads", "joblib", "dask", "ray", "mpi",
    }  # fmt: skip
    assert not mapping_names & {name for name, _ in registry.array_backends()}
    assert next(iter(WAYS)) == "sequential"  # the default, and the end of every chain


@pytest.mark.parametrize("variant", WAYS)
def test_every_backend_passes_its_own_check(variant):
    executor, _ = WAYS[variant]
    assert registry.ensure(executor.name)[0] is executor
    executor.probe()


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("variant", WAYS)
def test_results_of_any_type_come_in_the_order_of_the_items(variant, chunk_size):
    assert run(variant, w.any_result, range(20), chunk_size=chunk_size) == [w.any_result(x) for x in range(20)]


@pytest.mark.parametrize("variant", WAYS)
@pytest.mark.parametrize(
    "items", [[], (3,), {2: 0, 5: 0}, np.arange(4), (x for x in range(7))], ids=["empty", "one", "dict", "array", "gen"]
)
def test_any_iterable_is_mapped(variant, items):
    items = list(items)
    assert run(variant, w.square, iter(items)) == [x * x for x in items]


@pytest.mark.parametrize("variant", WAYS)
def test_nothing_is_waited_for_when_the_time_of_a_run_is_over(variant):
    """What was done until then has been given; a chunk in another process or on another thread is left behind."""
    parallel = WAYS[variant][1].parallel
    given = [(0, [0.0]), (1, [2.0 if parallel else 0.4]), (2, [0.0]), (3, [0.0])]
    done = []
    assert run(variant, w.square, range(4)) == [0, 1, 4, 9]  # the workers run
    until = time.monotonic() + (1.5 if parallel else 0.3)
    with pytest.raises(RunTimeoutError):
        done.extend(found[0] for found in chunks(variant, each(time.sleep), given, until=until))
    assert 0 in done
    assert 1 not in done if parallel else 3 not in done


@pytest.mark.parametrize("variant", WAYS)
def test_a_closure_is_mapped_everywhere(variant):
    offset = 10
    assert run(variant, lambda x: x + offset, range(5)) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("n_jobs", [None, 1, -1, 3])
@pytest.mark.parametrize("variant", WAYS)
def test_the_number_of_workers_does_not_change_the_results(variant, n_jobs):
    assert run(variant, w.square, range(9), n_jobs=n_jobs) == [x * x for x in range(9)]


@pytest.mark.parametrize("variant", WAYS)
def test_the_workers_exception_comes_out_as_it_is_with_the_item(variant):
    with pytest.raises(KeyError, match="five") as caught:
        run(variant, w.fails_at_five, range(12), chunk_size=4)
    assert caught.value.__notes__ == ["pointsman: raised by item 5 of the map"]
    with pytest.raises(FileNotFoundError) as missing:
        run(variant, w.file_missing, [8])
    assert (missing.value.errno, missing.value.filename) == (2, "file8")


@pytest.mark.parametrize("variant", WAYS)
def test_an_exception_that_pickle_cannot_rebuild_keeps_class_and_attributes(variant):
    with pytest.raises(w.Awkward) as caught:
        run(variant, w.awkward, range(3))
    assert (caught.value.args, caught.value.code) == (("odd",), 7)
    assert caught.value.__notes__[0].startswith("pointsman: raised by item ")


@pytest.mark.parametrize("variant", SHIPPING)
def test_the_remote_traceback_is_the_cause(variant):
    with pytest.raises(KeyError) as caught:
        run(variant, w.fails_at_five, range(6))
    assert "map_workers.py" in str(caught.value.__cause__)


@pytest.mark.parametrize("variant", WAYS)
def test_unknown_options_and_methods_are_errors_that_list_the_valid_ones(variant):
    executor, _ = WAYS[variant]
    with pytest.raises(TypeError, match=rf"{executor.name} has no option 'nice'; valid are: n_jobs, chunk_size"):
        executor.map(w.square, [1], nice=3)
    with pytest.raises(ValueError, match=rf"maps in no way called 'warp'; it does as: {executor.name}"):
        executor.map(w.square, [1], method="warp")


@pytest.mark.parametrize(
    ("option", "value", "error", "says"),
    [
        ("n_jobs", 0, ValueError, "n_jobs: found 0; give"),
        ("n_jobs", 1.5, TypeError, "n_jobs: found 1.5; give a whole number"),
        ("n_jobs", True, TypeError, "n_jobs: found True"),
        ("chunk_size", 0, ValueError, "chunk_size: found 0; the least is 1"),
        ("native_threads", -1, ValueError, "native_threads: found -1"),
    ],
)
def test_values_out_of_range_are_refused(option, value, error, says):
    with pytest.raises(error, match=says):
        registry.executor("sequential").map(w.square, [1], **{option: value})


def test_numbers_of_workers_count_from_the_cores(monkeypatch):
    monkeypatch.setattr(mapping, "cores", lambda: 8)
    assert [mapping.workers(n) for n in (None, -1, -2, -20, 3)] == [8, 8, 7, 1, 3]


@pytest.mark.parametrize("variant", SHIPPING)
def test_what_cannot_be_sent_is_unsupported_and_says_so(variant):
    import threading

    lock = threading.Lock()
    for worker, items in ((w.square, [lock, lock]), (lambda x: (x, lock), range(3)), (w.gives_a_lock, range(3))):
        with pytest.raises(UnsupportedError, match=r"must be picklable.*lock"):
            run(variant, worker, items)


@pytest.mark.parametrize("variant", SHIPPING)
def test_a_killed_process_is_a_lost_worker_and_the_next_run_has_new_ones(variant):
    executor, method = WAYS[variant]
    with pytest.raises(WorkerDiedError, match="lost") as caught:
        run(variant, w.dies, range(8), chunk_size=1)
    assert executor.classify(caught.value) is Failure.DRIVER
    assert executor.classify(RuntimeError("mine")) is None
    assert executor.running(method) == (variant == "ray")  # which puts another process in its place by itself
    assert run(variant, w.square, range(4)) == [0, 1, 4, 9]
    assert executor.running(method)


@pytest.mark.parametrize("variant", SHIPPING)
def test_native_threads_are_capped_in_worker_processes(variant):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    assert run(variant, w.environment, names) == ["1", "1", "1"]
    assert run(variant, w.environment, names, native_threads=2) == ["2", "2", "2"]
    for number in (1, 2):
        seen = run(variant, w.threads_after_loading, ["scipy.linalg"] * 4, native_threads=number)
        assert seen == [{number}] * 4


@pytest.mark.parametrize("variant", WAYS)
def test_closing_early_drops_the_rest_without_a_word_and_leaves_a_working_backend(variant):
    found = chunks(variant, each(w.square), [(i, [i]) for i in range(30)])
    assert next(found)[1]
    found.close()
    assert list(found) == []
    assert run(variant, w.square, range(4)) == [0, 1, 4, 9]


@pytest.mark.parametrize("variant", WAYS)
def test_any_work_on_any_chunk_is_run(variant):
    assert sorted(chunks(variant, sum, [(1, 2), (3, 4), (5,)])) == [3, 5, 7]


@pytest.mark.parametrize("variant", WAYS)
def test_a_map_is_made_where_an_event_loop_runs(variant):
    """As in a notebook."""

    async def made():
        return run(variant, w.square, range(4))

    assert asyncio.run(made()) == [0, 1, 4, 9]


@pytest.mark.parametrize("variant", IN_PROCESS)
def test_items_run_in_this_process_where_nothing_is_shipped(variant):
    import os

    assert set(run(variant, w.process, range(6))) == {os.getpid()}


@pytest.mark.parametrize("variant", WAYS)
def test_a_start_is_charged_until_the_workers_run(variant, monkeypatch):
    executor, method = WAYS[variant]
    monkeypatch.setattr(executor, "_measured_start_s", {})
    monkeypatch.setattr(executor, "running", lambda method: False)
    assert executor.start_s(Variant(variant, executor.name, list)) == method.start_s
    executor.started(method, 0.125)
    assert executor.start_s(Variant(variant, executor.name, list)) == 0.125
    monkeypatch.setattr(executor, "running", lambda method: True)
    assert executor.start_s(Variant(variant, executor.name, list)) == 0.0


def test_workers_of_another_process_or_long_ago_do_not_count_as_running(monkeypatch):
    executor, method = WAYS["joblib/loky"]
    monkeypatch.setattr(executor, "_last_use", (-1, 1e18))
    assert not executor.running(method)
    import os

    monkeypatch.setattr(executor, "_last_use", (os.getpid(), -1e9))
    assert not executor.running(method)


def test_a_backend_of_ones_own_needs_run_chunks_and_a_check():
    class Backwards(MapExecutor):
        """Runs the last chunk first."""

        name = "backwards"
        capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
        methods = (Method(parallel=False),)

        def probe(self):
            assert self.map(abs, [-1, 2]) == [1, 2]

        def run_chunks(self, work, chunks, **options):
            for chunk in reversed(list(chunks)):
                yield work(chunk)

    pm.register_backend("backwards", Backwards)
    try:
        assert "backwards" in [variant for variant, _, _ in map_methods()]
        assert pm.get_backend("backwards").map(w.square, range(10), chunk_size=2) == [x * x for x in range(10)]
    finally:
        registry.unregister_backend("backwards")


# ---------------------------------------------------------------------------------------------- what chunks run in


@pytest.mark.parametrize("variant", IN_PROCESS)
def test_context_variables_hold_in_the_callers_process(variant):
    import decimal

    with pm.use("scipy"), np.errstate(divide="raise"), decimal.localcontext() as context:
        context.prec = 5
        assert set(run(variant, w.context, range(8), chunk_size=1)) == {("scipy", "raise", 5)}


@pytest.mark.parametrize("variant", WAYS)
def test_large_arrays_may_be_changed_and_come_back_writable(variant):
    arrays = [np.ones(200_000) for _ in range(2)]
    results = run(variant, w.doubled, arrays, chunk_size=1)
    assert [(float(x.sum()), x.flags.writeable) for x in results] == [(400_000.0, True)] * 2
    assert {float(x[0]) for x in arrays} == ({1.0} if variant in SHIPPING else {2.0})


@pytest.mark.parametrize("variant", SHIPPING)
def test_maps_of_several_threads_take_turns_whatever_becomes_of_each(variant):
    found: dict[str, list] = {"good": [], "bad": []}

    def maps(name, worker, n_jobs):
        for _ in range(3):
            try:
                found[name].append(run(variant, worker, range(12), chunk_size=1, n_jobs=n_jobs))
            except KeyError:
                found[name].append(None)

    started = [
        threading.Thread(target=maps, args=arguments, daemon=True)
        for arguments in (("good", w.square, 2), ("bad", w.fails_at_five, 3))
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(60)
    assert found == {"good": [[x * x for x in range(12)]] * 3, "bad": [None] * 3}


def test_workers_of_loky_that_someone_else_ended_are_lost_workers():
    def ended():
        raise RuntimeError("The executor underlying Parallel has been shutdown. This is likely due to")
        yield

    with pytest.raises(WorkerDiedError, match="were ended"):
        on_joblib._next(ended())


@pytest.mark.parametrize("variant", SHIPPING)
def test_whether_another_thread_has_the_workers_is_told(variant):
    executor, method = WAYS[variant]
    seen = []
    with executor.turn(method):
        assert not executor.busy(method)
        other = threading.Thread(target=lambda: seen.append(executor.busy(method)))
        other.start()
        other.join()
    assert (seen, executor.busy(method)) == ([True], False)


SCRIPT = """
import os, signal, sys
import pointsman as pm

def loaded(x):
    return "pointsman" in sys.modules

def map(n_jobs=2):
    return pm.map(lambda x: x * x, range(6), VARIANT, n_jobs=n_jobs) == [x * x for x in range(6)]

print(pm.map(loaded, range(4), VARIANT, n_jobs=2), flush=True)
pid = os.fork()
if pid == 0:
    signal.alarm(30)  # ends it, should it wait
    try:
        sys.exit(0 if map() else 1)
    except pm.BackendUnavailableError as error:
        os._exit(0 if "forked" in str(error) and VARIANT == "ray" else 1)
assert os.waitpid(pid, 0)[1] == 0
assert map()
"""


@pytest.mark.parametrize("variant", SHIPPING)
def test_a_plain_script_needs_no_guard_and_a_child_that_it_forks_has_workers_of_its_own(variant, tmp_path):
    """No worker process runs the script again, nor imports what it does not need; nothing of it is left, and nothing
    is said. Ray cannot be used in a forked child, which is told so."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("VARIANT", repr(variant)))
    with tempfile.TemporaryDirectory(dir="/tmp") as files:  # a short path, for Ray's sockets
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "TMPDIR": files, "HOME": str(tmp_path), MARK: "1"},
        )  # fmt: skip
        left = os.listdir(files)
    assert (done.stdout, done.returncode) == ("[False, False, False, False]\n", 0), done.stderr
    assert processes_with(MARK) == []
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    if variant != "joblib/loky":  # which complains, at the end of a forked child, of what is its parent's
        assert (done.stderr, left) == ("", [])


MARK = f"STARTED_BY_TEST_{os.getpid()}"  # in the environment of what a test starts, and of what that starts


def processes_with(mark: str) -> list[str]:
    """The commands of those that are left, after a while."""
    for _ in range(50):
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if mark in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline())[:200])
        if not left:
            break
        time.sleep(0.1)
    return left


@pytest.mark.parametrize("variant", IN_PROCESS)
def test_an_exception_that_a_worker_keeps_collects_no_notes(variant):
    kept = ValueError("kept")

    def fails(x):
        raise kept

    for _ in range(3):
        with pytest.raises(ValueError, match="kept"):
            run(variant, fails, [1])
    assert kept.__notes__ == ["pointsman: raised by item 0 of the map"]


@pytest.mark.parametrize("variant", IN_PROCESS)
def test_a_map_within_a_map_runs_in_place_on_every_backend(variant):
    assert all("another map" in reason for reason in run(variant, w.maps_again, ["joblib"] * 2, n_jobs=2))
