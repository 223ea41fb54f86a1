"""Both ways of MPI, on real ranks: a job that a plain program starts, and the job that it is part of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import simulation_workers as s
from pointsman.executors import mpi_job, mpi_rank, on_mpi, registry
from pointsman.executors.errors import BackendUnavailableError, RunTimeoutError
from pointsman.executors.mapping import WorkerDiedError
from processes import alive

SUPPORT = str(Path(s.__file__).parent)
MPI = registry.executor("mpi")
[METHOD] = MPI.methods


@pytest.fixture(scope="module", autouse=True)
def _no_job_is_left():
    registry.ensure("mpi")
    MPI.shutdown()  # of earlier modules
    before = shared_memory()
    yield
    MPI.shutdown()
    assert shared_memory() <= before


def shared_memory() -> set[str]:
    """MPICH's files."""
    folder = Path("/dev/shm")
    return {file.name for file in folder.glob("mpich*")} if folder.is_dir() else set()


def pids(n_jobs: int = 2) -> set[int]:
    """The processes that compute."""
    return set(MPI.map(lambda x: (time.sleep(0.01), os.getpid())[1], range(12), n_jobs=n_jobs, chunk_size=1))


def job_processes() -> list[psutil.Process]:
    """All processes of the job that runs: mpiexec, its proxy, and the ranks."""
    starter = psutil.Process(MPI._job._process.pid)
    return [starter, *starter.children(recursive=True)]


def all_end(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def program(tmp_path: Path, body: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(f"import sys\nsys.path.insert(0, {SUPPORT!r})\n{body}")
    return str(path)


# ---------------------------------------------------------------------------------------------- a job of our own


def test_ranks_stay_for_the_next_run_and_fewer_jobs_use_some_of_them():
    first = pids()
    assert len(first) == 2
    assert os.getpid() not in first
    assert pids() <= first
    assert MPI.running(METHOD)
    assert len(pids(3)) == 3
    job = MPI._job
    assert pids(2)
    assert MPI._job is job


def test_no_more_chunks_run_at_a_time_than_jobs_were_asked_for(tmp_path):
    """On three ranks, too."""

    def together(n):
        mark = tmp_path / str(n)
        mark.touch()
        time.sleep(0.05)
        found = len(list(tmp_path.iterdir()))
        mark.unlink()
        return found

    pids(3)
    assert max(MPI.map(together, range(9), n_jobs=2, chunk_size=1)) <= 2


def test_the_work_reaches_each_rank_once(tmp_path):
    folder = str(tmp_path)

    def arrive():
        (Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return 7

    class Large:
        def __reduce__(self):
            return arrive, ()

    large = Large()

    def worker(x):
        time.sleep(0.005)
        return os.getpid(), large

    found = MPI.map(worker, range(20), n_jobs=2, chunk_size=1)
    assert {value for _, value in found} == {7}
    assert sorted(mark.name.partition("-")[0] for mark in tmp_path.iterdir()) == sorted({str(pid) for pid, _ in found})


def test_a_rank_sees_the_callers_folder_and_search_path(tmp_path, monkeypatch):
    (tmp_path / "only_for_ranks.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    import only_for_ranks

    assert MPI.map(only_for_ranks.triple, range(4), n_jobs=2) == [0, 3, 6, 9]
    assert set(MPI.map(lambda x: os.getcwd(), range(4), n_jobs=2)) == {str(tmp_path)}


def test_native_threads_are_capped_for_libraries_loaded_before_and_later():
    def seen(x):
        import scipy.linalg  # noqa: F401 - brings an OpenBLAS of its own
        from threadpoolctl import threadpool_info

        return {library["num_threads"] for library in threadpool_info()}

    MPI.shutdown()
    for number in (1, 2, 1):
        assert MPI.map(seen, range(4), n_jobs=2, native_threads=number, chunk_size=1) == [{number}] * 4


def test_a_killed_rank_costs_its_job_and_not_the_caller():
    ranks = pids()
    processes = job_processes()
    with pytest.raises(WorkerDiedError, match="MPI rank was lost"):
        MPI.map(lambda x: os.kill(os.getpid(), signal.SIGKILL) if x == 3 else x, range(8), n_jobs=2, chunk_size=1)
    assert not MPI.running(METHOD)
    assert all_end(processes)
    assert not pids() & ranks


def test_a_rank_that_is_killed_between_two_runs_is_replaced_without_a_word():
    ranks = pids()
    processes = job_processes()
    os.kill(min(ranks), signal.SIGKILL)
    assert all_end(processes)
    assert not pids() & ranks


def test_a_chunk_that_nobody_waits_for_is_ended_with_its_job():
    pids()
    processes = job_processes()
    with pytest.raises(RunTimeoutError):
        list(MPI.run_chunks(time.sleep, [60.0, 60.0], n_jobs=2, until=time.monotonic() + 2.0))
    assert not MPI.running(METHOD)
    assert all_end(processes)


def test_a_start_that_is_cut_short_leaves_no_file_behind():
    before = shared_memory()
    for seconds in (0.1, 0.15, 0.2, 0.25, 0.3):
        MPI.shutdown()
        try:
            list(MPI.run_chunks(abs, [1, 2], n_jobs=2, until=time.monotonic() + seconds))
        except RunTimeoutError:
            assert shared_memory() <= before, seconds
    MPI.shutdown()
    assert shared_memory() <= before


def test_a_run_that_is_given_up_keeps_the_job_where_its_chunks_end_soon(monkeypatch):
    monkeypatch.setattr(on_mpi, "PATIENCE_S", 10.0)
    ranks = pids()
    found = MPI.run_chunks(lambda n: n, range(50), n_jobs=2)
    next(found)
    found.close()
    assert pids() <= ranks


def test_leaving_the_program_is_the_callers_affair(monkeypatch):
    monkeypatch.setattr(on_mpi, "PATIENCE_S", 10.0)

    def leaves(x):
        raise SystemExit(x)

    ranks = pids()
    with pytest.raises(SystemExit) as caught:
        MPI.map(leaves, [3, 3], n_jobs=2)
    assert caught.value.code == 3
    assert pids() <= ranks


def test_a_job_that_was_idle_for_long_is_taken_for_gone(monkeypatch):
    pids()
    monkeypatch.setattr(MPI._job, "_used", time.monotonic() - mpi_rank.IDLE_S)
    assert not MPI.running(METHOD)


@pytest.mark.parametrize("command", ["/nowhere/mpiexec", "false", """sh -c 'shift 2; exec "$@"' sh"""])
def test_a_command_that_starts_no_ranks_is_an_error(command):
    """The last one starts Python without MPI's help, as another library's mpiexec does."""
    with pytest.raises(BackendUnavailableError, match=r"cannot be run|ended with status 1|another MPI"):
        MPI.map(abs, [-1, 2], n_jobs=2, mpiexec=command)
    assert not MPI.running(METHOD)


def test_without_mpiexec_or_with_ranks_that_all_run_the_program_it_is_unusable(monkeypatch):
    monkeypatch.setattr(on_mpi, "_FOUND", [])
    monkeypatch.setattr(on_mpi.shutil, "which", lambda *_, **__: None)
    assert "pip install mpich" in MPI.unusable()
    monkeypatch.setenv("PMI_SIZE", "4")
    assert "mpiexec -n 4 python -m mpi4py.futures script.py" in MPI.unusable()


ENDS = """
import os, signal, time, pointsman as pm
mpi = pm.get_backend("mpi")
print(*set(mpi.map(lambda x: (time.sleep(0.01), os.getpid(), os.getppid())[1:], range(9), n_jobs=2, chunk_size=1)))
print(mpi._job._process.pid, flush=True)
running = mpi.run_chunks(time.sleep, [0.0, 60.0, 60.0], n_jobs=2)
next(running)
{end}
"""


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "1 / 0", "sys.exit(3)"])
def test_no_process_outlives_the_caller_however_it_ends(end, tmp_path):
    before = shared_memory()
    command = [sys.executable, program(tmp_path, ENDS.format(end=end))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (3, -9, 1)
    numbers = {int(word.strip("(),")) for word in done.stdout.split()}
    assert len(numbers) == 4  # two ranks, their proxy, mpiexec
    assert all_end(alive(numbers))
    assert done.stderr == "" or (end == "1 / 0" and done.stderr.endswith("ZeroDivisionError: division by zero\n"))
    assert shared_memory() <= before


# ---------------------------------------------------------------------------------------------- a job that has us


SHARED = """
import pickle, numpy as np, pointsman as pm, map_workers as w, simulation_workers as s
matrix = np.random.default_rng(0).standard_normal((60, 60))
runs = [
    pm.run_monte_carlo(s.by_blas, 40, (matrix,), {"shift": 0.5}, seed=11, backend="mpi", n_jobs=2, chunk_size=size)
    for size in (None, 1, 7)
]
mpi = pm.get_backend("mpi")
def where(x):  # of the main program, which has no guard
    import os, sys
    return os.getpid(), os.environ["PMI_RANK"], "pointsman" in sys.modules, os.environ.get("OMP_NUM_THREADS")
found = {
    "runs": runs,
    "first": mpi.running(mpi.methods[0]),
    "where": set(mpi.map(where, range(8), n_jobs=8, chunk_size=1)),
    "one": {rank for _, rank, _, _ in mpi.map(where, range(8), n_jobs=1)},
    "nested": mpi.map(w.maps_again, ["mpi", "auto"], n_jobs=8),
    "job": mpi._job,
}
try:
    mpi.map(w.fails_at_five, range(12), n_jobs=8, chunk_size=1)
except KeyError as error:
    found["error"] = error.__notes__
found["after"] = mpi.map(w.square, range(9), n_jobs=8)
import os, signal
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if "MPI works in that rank only" in str(mpi.unusable()) and not mpi.running(mpi.methods[0]) else 1)
found["child"] = os.waitpid(child, 0)[1]
with open(sys.argv[1], "wb") as file:
    pickle.dump(found, file)
"""


def test_under_mpiexec_the_other_ranks_are_the_workers(tmp_path):
    import pickle

    out, before = tmp_path / "found", shared_memory()
    command = [on_mpi._mpiexec(), "-n", "3", sys.executable, "-m", "mpi4py.futures", program(tmp_path, SHARED)]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = pickle.loads(out.read_bytes())
    from pointsman.executors import native

    matrix = np.random.default_rng(0).standard_normal((60, 60))
    with native.held(1):
        expected = [s.by_blas(child, matrix, 0.5) for child in np.random.SeedSequence(11).spawn(40)]
    assert found["runs"] == [expected] * 3
    assert found["first"]
    assert found["child"] == 0
    assert found["job"] is None
    assert {(rank, threads) for _, rank, _, threads in found["where"]} == {("1", "1"), ("2", "1")}
    assert found["one"] == {"0"}
    assert all("itself a worker" in reason for reason in found["nested"])
    assert (found["error"], found["after"]) == (["pointsman: raised by item 5 of the map"], [x * x for x in range(9)])
    assert shared_memory() <= before


def test_ranks_that_all_run_the_program_are_told_how_to_start_it(tmp_path):
    body = (
        "import pointsman as pm\n"
        "try:\n    pm.map(abs, range(5), 'mpi', n_jobs=2)\nexcept ImportError as error:\n    print(error)\n"
    )
    command = [on_mpi._mpiexec(), "-n", "2", sys.executable, program(tmp_path, body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.count("start it as 'mpiexec -n 2 python -m mpi4py.futures script.py'") == 2, done.stderr


def test_variables_of_another_job_are_not_passed_on():
    assert all(name.startswith(mpi_job.NOT_OURS) for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE"))


def speaks_by_sockets(_):
    """What MPICH is told of shared memory in this process."""
    return os.environ.get("MPIR_CVAR_NOLOCAL")


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("0", "0")])
def test_ranks_speak_by_sockets_unless_the_user_says_otherwise(own, expected, monkeypatch):
    """By shared memory, which MPICH looks into once a millisecond here, results come at 14 MB/s."""
    executor = registry.executor("mpi")
    executor.shutdown()
    if own is not None:
        monkeypatch.setenv("MPIR_CVAR_NOLOCAL", own)
    assert set(executor.map(speaks_by_sockets, range(4), n_jobs=2)) == {expected}
    executor.shutdown()
