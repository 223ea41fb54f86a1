"""Runs that Ctrl-C, the clock, an exception or a full disk ends: what was done is kept, and the same call goes on."""

from __future__ import annotations

import threading
import time
from typing import ClassVar

import fault_workers as w
import numpy as np
import pointsman as pm
import pytest
from lives import METHODS, QUICK, SHIPPING, ahead, grid, lives, simulations_in
from pointsman.executors import registry
from pointsman.executors.mapping import MapExecutor, Method
from pointsman.kernels.checkpoint import CheckpointError, CheckpointWarning


def draws(seed, n):
    return [w.normal(child) for child in np.random.SeedSequence(seed).spawn(n)]


def logged(log):
    return [int(line.split()[1]) for line in log.read_text().splitlines()]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


# ---------------------------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = """
given = dict(seed=3, backend=sys.argv[1], n_jobs=2, chunk_size=1, checkpoint="kept")
try:
    pm.run_monte_carlo(w.steps, 5000, **given)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
found, info = pm.run_monte_carlo(w.steps, 150, return_info=True, **given)
print(info.resumed, found, flush=True)
"""


@pytest.mark.parametrize(
    ("variant", "everybody"),
    [
        pytest.param(variant, everybody, marks=() if variant in QUICK else pytest.mark.soak)
        for variant, method in METHODS.items()
        for everybody in (False, True)[: 1 + method.ships]
    ],
)
def test_ctrl_c_keeps_what_is_done_and_the_process_goes_on(variant, everybody, tmp_path):
    """A terminal interrupts the workers as well; a notebook or a scheduler their parent only."""
    with lives(tmp_path, INTERRUPTED, variant) as script:
        script.begin()
        assert script.until(60)
        began = time.monotonic()
        script.interrupt(everybody)
        assert script.answer() == "interrupted"
        assert time.monotonic() - began < 10.0  # what is left takes longer
        known = simulations_in(tmp_path / "kept", 1024)
        assert len(set(script.logged()) - known) <= ahead(variant)
        before = len(script.logged())
        out = script.end("go\n")
        resumed, _, found = out.partition(" ")
        assert int(resumed) == len(known)
        assert found == f"{draws(3, 150)}\n"
        assert not known & set(script.logged()[before:])


# ---------------------------------------------------------------------------------------------- the clock, exceptions


@pytest.mark.usefixtures("no_pool_is_left")
@pytest.mark.parametrize("variant", grid(METHODS))
def test_a_run_whose_time_is_over_goes_on_by_the_same_call(variant, tmp_path, log):
    kept = tmp_path / "kept"
    given = {"worker_args": (str(log),), "seed": 4, "backend": variant, "n_jobs": 2, "chunk_size": 1}
    pm.run_monte_carlo(w.normal, 8, seed=4, backend=variant, n_jobs=2)  # its workers have started
    with pytest.raises(pm.RunTimeoutError, match=rf"\d+ of 3000 simulations were done; {kept} keeps them, and the"):
        pm.run_monte_carlo(w.steps, 3000, timeout=0.4 if variant in QUICK else 2.0, checkpoint=kept, **given)
    time.sleep(0.1)  # a thread cannot be ended: what it is at, it does
    known, began = simulations_in(kept, 1024), logged(log)
    assert known
    assert len(set(began) - known) <= ahead(variant)
    n = len(known) + 30
    found, info = pm.run_monte_carlo(w.steps, n, timeout=60, return_info=True, checkpoint=kept, **given)
    assert found == draws(4, n)
    assert info.resumed == len(known)
    assert not set(logged(log)[len(began) :]) & known


@pytest.mark.usefixtures("no_pool_is_left")
@pytest.mark.parametrize("variant", grid(METHODS))
def test_an_exception_keeps_what_was_done_and_its_note_can_be_pasted(variant, tmp_path, log):
    args, kept = (str(log), str(tmp_path / "mended")), tmp_path / "kept"
    given = {"worker_args": args, "seed": 5, "backend": variant, "n_jobs": 2, "chunk_size": 1, "checkpoint": kept}
    with pytest.raises(ArithmeticError, match=r"simulation 10|simulation 20") as caught:
        pm.run_monte_carlo(w.fails_at_ten, 30, **given)
    with pytest.raises(ArithmeticError, match=str(caught.value)):
        eval(replay_call(caught.value), {"pointsman": pm, "worker": w.fails_at_ten, "worker_args": args})
    known = simulations_in(kept, 1024)
    assert known
    assert not known & {10, 20}
    began = len(logged(log))
    (tmp_path / "mended").touch()  # 20 is not
    for _ in range(
        8
    ):  # on Dask and Ray, which begin chunks in an order of their own, 20 may end a run before 10 begins
        with pytest.raises(ArithmeticError, match="simulation 20"):
            pm.run_monte_carlo(w.fails_at_ten, 30, **given)
        if 10 in logged(log)[began:]:
            break
    assert 10 in logged(log)[began:]
    assert not set(logged(log)[began:]) & known


def test_an_exception_leaves_nothing_of_a_leaf_behind(tmp_path, log):
    """Results that are to be folded are kept now and then, and at the end, however that comes."""
    with pytest.raises(ArithmeticError, match="simulation 10"):
        pm.run_monte_carlo(
            w.fails_at_ten, 30, (str(log),), seed=5, reduce="mean", backend="sequential", checkpoint=tmp_path / "kept"
        )
    assert simulations_in(tmp_path / "kept", 1024) == set(range(10))


def test_what_the_caller_raises_ends_what_the_workers_are_at_before_it_comes_out():
    """A full disk or Ctrl-C may come while a result is put away; nobody else closes what the workers give."""

    class Ours(MapExecutor):
        name = "ours"
        capabilities = pm.Capabilities(dtypes=frozenset(), array=False, map=True)
        methods = (Method(ships=True),)
        ended: ClassVar[list[threading.Thread]] = []

        def probe(self):
            pass

        def run_chunks(self, work, chunks, **options):
            try:
                yield from map(work, chunks)
            finally:
                self.ended.append(threading.current_thread())

    pm.register_backend("ours", Ours)
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            pm.run_monte_carlo(w.normal, 30, seed=1, reduce="mean", stop_when=lambda value, n: 1 / 0, backend="ours")
        assert caught.tb is not None  # which holds all that was under way
        assert Ours.ended == [threading.current_thread()]
    finally:
        registry.unregister_backend("ours")


def replay_call(error):
    return next(note for note in error.__notes__ if "alone again" in note).partition("again: ")[2]


def test_the_call_in_a_note_names_all_that_a_simulation_was_given():
    def worker(seed, x, *, y):
        raise ArithmeticError(f"{type(seed).__name__} {seed} {x} {y}")

    given = {"worker_args": (2,), "worker_kwargs": {"y": 3}}
    with pytest.raises(ArithmeticError) as caught:
        pm.run_monte_carlo(worker, 5, seed=np.random.SeedSequence(7).spawn(2)[1], seeds="int", **given)
    with pytest.raises(ArithmeticError, match=f"^{caught.value}\n"):
        eval(replay_call(caught.value), {"pointsman": pm, "worker": worker, **given})


@pytest.mark.usefixtures("no_pool_is_left")
@pytest.mark.parametrize("reduce", [None, "mean"])
@pytest.mark.parametrize("variant", grid(METHODS))
def test_collected_failures_are_the_same_after_a_resumption(variant, reduce, tmp_path, log):
    given = {
        "worker_args": (str(log),), "seed": 6, "on_error": "collect", "reduce": reduce, "leaf_size": 8, "n_jobs": 2,
        "return_info": True,
    }  # fmt: skip
    whole, told = pm.run_monte_carlo(w.fails_at_ten, 40, backend="sequential", **given)
    pm.run_monte_carlo(w.fails_at_ten, 13, backend="sequential", checkpoint=tmp_path / "kept", **given)
    for _ in range(2):  # the second has nothing left to do
        found, info = pm.run_monte_carlo(w.fails_at_ten, 40, backend=variant, checkpoint=tmp_path / "kept", **given)
        assert without_tracebacks(found) == without_tracebacks(whole)
        assert [(f.index, f.error) for f in info.failed] == [(f.index, f.error) for f in told.failed]
        assert [f.index for f in info.failed] == [10, 20]
    assert info.resumed == 40


def without_tracebacks(results):
    return repr(
        [r.index if isinstance(r, pm.FailedSimulation) else r for r in results] if type(results) is list else results
    )


# ---------------------------------------------------------------------------------------------- the file


FULL = """
import resource
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
given = dict(seed=8, backend=sys.argv[1], n_jobs=2, chunk_size=2, checkpoint="kept", return_info=True)
pm.run_monte_carlo(w.normal, 8, backend=sys.argv[1], n_jobs=2)  # workers that start have files, too
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
try:
    pm.run_monte_carlo(w.arrays, 60, **given)
except ValueError as error:
    print(error, flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
found, info = pm.run_monte_carlo(w.arrays, 60, **given)
print(info.resumed, [float(x.sum()) for x in found], flush=True)
"""


@pytest.mark.parametrize("variant", grid(["sequential", *SHIPPING]))
def test_a_full_disk_ends_a_run_whose_file_is_good_and_goes_on_when_there_is_room(variant, tmp_path, log):
    expected = [float(np.random.default_rng(c).random(100).sum()) for c in np.random.SeedSequence(8).spawn(60)]
    kept = tmp_path / "kept"
    with lives(tmp_path, FULL, variant) as script:
        script.begin()
        assert f"{kept}: there is no room left: File too large. What was put before is in" in script.answer()
        known = simulations_in(kept, 1024)
        assert 5 < len(known) < 25
        began = len(logged(log))
        assert script.end("go\n") == f"{len(known)} {expected}\n"
        assert not set(logged(log)[began:]) & known


def test_a_checkpoint_that_another_process_has_is_refused_before_anything_runs(tmp_path):
    with lives(tmp_path, "pm.run_monte_carlo(w.steps, 9999, seed=1, checkpoint='kept')", "") as script:
        script.begin()
        assert script.until(3)
        with pytest.raises(CheckpointError, match="another process, or another run in this one, is running with it"):
            pm.run_monte_carlo(w.never, 9999, seed=1, checkpoint=tmp_path / "kept")
        script.kill()
    assert simulations_in(tmp_path / "kept", 1024)


@pytest.mark.usefixtures("no_pool_is_left")
@pytest.mark.parametrize("variant", grid(METHODS))
def test_a_folder_that_is_moved_away_costs_no_result_and_is_told(variant, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.warns(CheckpointWarning, match="it is no longer there"):
        found = pm.run_monte_carlo(
            w.moves_at_ten, 30, (str(folder),), seed=9, backend=variant, n_jobs=2, checkpoint=folder / "kept"
        )
    assert found == draws(9, 30)
    assert simulations_in(tmp_path / "folder elsewhere" / "kept", 1024) == set(range(30))
