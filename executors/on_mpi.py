"""MPI: the ranks of a job, through mpi4py.futures.

Two ways, known by where this process runs. In a plain program a job of ranks is started by mpiexec and stays warm until
it was idle for five minutes. Under ``mpiexec -n N python -m mpi4py.futures script.py`` the other N - 1 ranks are there
already, on as many machines as mpiexec was given.

A plain program never initialises MPI itself, but talks to rank 0 of its job over a local socket. For a process that is
part of a job dies with any rank of it, cannot be forked, and MPICH's spawn from a single process waits for ever where
mpiexec is not on the PATH (Open MPI's always does). So a lost rank costs the job and what it was at, and no more.

Measured on two cores: 0.5 s for a start, 0.85 s where they are busy; 5 ms for one chunk there and back, and 2 to 3 ms
that a rank waits for its next one, for mpi4py looks for messages once a millisecond; its variable
MPI4PY_FUTURES_BACKOFF (seconds between two looks) trades idle processor time for that. Items and results: 250 MB/s.
"""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from ..telemetry import lifetime
from .base import Capabilities
from .deadline import in_time, left_s
from .errors import BackendUnavailableError
from .mapping import MapExecutor, Method, WorkerDiedError, cores
from .mpi_job import Job, Shared, shared_ranks
from .parcels import packed, unsendable
from .raised import guarded, reraise
from .turns import in_turn, taken

AHEAD = 2
"""Chunks for each rank that run or wait at rank 0."""
PATIENCE_S = 0.1
"""What runs when nobody wants results any more gets this long to end; then the job is ended."""


class MPIExecutor(MapExecutor):
    """Runs chunks on MPI ranks.

    Where the ranks are mpiexec's (``python -m mpi4py.futures``), they are the caller's own job: a killed rank ends it,
    the caller included, which nothing but a checkpoint survives; a chunk that runs cannot be ended; and `n_jobs` of as
    many as this machine has cores, or more, means all of the ranks.
    """

    name = "mpi"
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods = (Method(ships=True, start_s=0.85, floor_s=0.006, chunk_s=2e-3, bytes_per_s=1.5e8),)
    options: ClassVar[Mapping[str, str]] = {
        "mpiexec": "command that starts ranks on given hosts, with its arguments; '-n N python ...' is added to it"
    }

    def __init__(self) -> None:
        super().__init__()
        self._job: Job | None = None
        self._shared: Shared | None = None
        self._runs = 0
        self._lost: str | None = None  # why this process, which was forked, has none
        self._turn = threading.RLock()
        lifetime.free_in_child(self, "_turn")
        lifetime.in_child(self._forget)
        atexit.register(self.shutdown)

    def unusable(self) -> str | None:
        """Why there are no ranks to be had: no mpiexec, or a job whose ranks all run the same program."""
        if self._lost is not None or shared_ranks():
            return self._lost
        size = next((os.environ[name] for name in SIZES if os.environ.get(name, "1") != "1"), None)
        if size is not None and "mpi4py.futures._core" not in sys.modules:
            return (
                f"this is one of {size} MPI ranks that all run this program; start it as 'mpiexec -n {size} python -m "
                "mpi4py.futures script.py', and it runs once, with the other ranks as workers"
            )
        if _mpiexec() is None:
            return "mpi4py is installed, but no mpiexec stands beside this Python or on the PATH; pip install mpich"
        return None

    def after_fork(self) -> str | None:
        """A child of a process that is part of an MPI job must not use MPI; others start a job of their own."""
        if not shared_ranks():
            return None
        return "this process was forked from a rank of an MPI job, and MPI works in that rank only"

    def probe(self) -> None:
        """Look for what starts ranks, and take a function apart and put it together; a job costs half a second."""
        reason = self.unusable()
        if reason is not None:
            raise BackendUnavailableError(reason)
        import cloudpickle

        found = cloudpickle.loads(cloudpickle.dumps(lambda x: x * x))(3)
        if found != 9:
            raise BackendUnavailableError(f"cloudpickle brought a function back that squares 3 to {found}")

    def version(self) -> str:
        """mpi4py's."""
        try:
            return metadata.version("mpi4py")
        except metadata.PackageNotFoundError:
            return ""

    def running(self, method: Method) -> bool:  # noqa: ARG002
        """Whether there are ranks."""
        return (shared_ranks() and self._lost is None) or (self._job is not None and self._job.alive())

    def turn(self, method: Method) -> AbstractContextManager[Any]:  # noqa: ARG002
        """The ranks are one set for the process."""
        return self._turn

    def busy(self, method: Method) -> bool:  # noqa: ARG002
        """Whether another thread's map uses the ranks."""
        return taken(self._turn)

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`. Hold `turn`."""
        self.check_options(options)
        self.method(method)
        if n_jobs == 1:
            yield from in_turn(work, chunks, until)
            return
        header = sys.path, os.getcwd(), native_threads, _pickled(guarded(work))
        ranks = self._ranks(n_jobs, native_threads, until, options.get("mpiexec"))
        self._runs += 1
        out: set[int] = set()
        try:
            ranks.begin(f"{os.getpid()}-{self._runs}", header)
            yield from _results(ranks, chunks, n_jobs, until, out)
        finally:
            if not ranks.leave(out, PATIENCE_S):
                self.shutdown()

    def _ranks(self, n_jobs: int, native_threads: int, until: float | None, command: str | None) -> Job | Shared:
        """Those that mpiexec gave, or those of our own job, started anew where it has too few or has ended."""
        if shared_ranks():
            self._shared = self._shared or Shared()
            return self._shared
        job, found = self._job, command or _mpiexec()
        if found is None:
            raise BackendUnavailableError(self.unusable() or "")
        if job is None or job.size < n_jobs or job.command != found or not job.alive():
            self.shutdown()
            parts = shlex.split(found) if command else [found]
            self._job = job = Job(found, parts, n_jobs, native_threads, until)
        return job

    def shutdown(self) -> None:
        """End the job that was started here, if there is one; the next run starts another."""
        job, self._job = self._job, None
        if job is not None:
            job.end()

    def _forget(self) -> None:
        """In a forked child: the job is its parent's."""
        self._lost = self.after_fork()
        if self._job is not None:
            _INHERITED.append(self._job)
            self._job.hang_up()
            self._job = None


_INHERITED: list[Any] = []  # kept: what ends with it would complain about a process that is not this one's child
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
_FOUND: list[str] = []


def _mpiexec() -> str | None:
    """The mpiexec of this environment, which is not always on the PATH; else the first on that."""
    if not _FOUND:
        beside = str(Path(sys.executable).parent)
        found = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec")
        if found is None:
            return None
        _FOUND.append(found)
    return _FOUND[0]


def _pickled(x: Any) -> bytes:
    """`x` as bytes, what has no importable name by value."""
    import cloudpickle

    return packed(x, cloudpickle.dumps)


def _results(
    ranks: Job | Shared, chunks: Iterable[Any], n_jobs: int, until: float | None, out: set[int]
) -> Iterator[Any]:
    """What the ranks give, as it comes; `out` holds the numbers of what they still have."""
    import cloudpickle

    waiting = iter(chunks)
    limited = n_jobs < ranks.size and (ranks.own or n_jobs < cores())
    most = n_jobs if limited else AHEAD * ranks.size  # more would run on other ranks
    while True:
        for chunk in islice(waiting, most - len(out) if in_time(until) else 0):
            out.add(ranks.send(_pickled(chunk)))
        if not out:
            left_s(until)
            return
        number, kind, body = ranks.receive(until)
        if number not in out:
            continue  # of a run that was given up
        out.discard(number)
        if kind == "unsent":
            raise unsendable(body.decode())
        if kind != "done":
            raise WorkerDiedError(f"an MPI rank was lost: {body.decode() or kind}")
        good, result = cloudpickle.loads(body)
        if not good:
            reraise(result)
        yield result


EXECUTOR = MPIExecutor
