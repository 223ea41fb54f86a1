"""Ray: worker processes on this machine, or the user's own cluster.

Measured (Ray 2.60): a task costs 1.5 ms, or half of that in a row; to start takes 4 to 6 s, a dozen processes and 1 GB,
so a choice of ours hardly ever starts it. Where this process has called `ray.init` itself, that is what is used.
"""

from __future__ import annotations

import atexit
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from ..telemetry import lifetime
from . import scratch
from .base import Capabilities
from .errors import BackendUnavailableError, first_line
from .mapping import Method, WorkerDiedError, cores
from .parcels import Dumps, packed, parcel, paths, unpacked, unpacker
from .raised import SPARED
from .warm import Engine, WarmExecutor, feed

GRACE_S = 0.5
"""Chunks that nobody wants any more may take so long to end at an interrupt, before their processes are ended."""
STORE_BYTES = 1 << 29
"""Of shared memory, for the work of a run and for chunks and results above 100 kB; what is more goes to the disk."""
SMALL = 20_000
"""Bytes of a run's work that go along with each chunk: Ray sends up to 100 kB with a task."""
LOST = (
    "WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError",
    "OwnerDiedError", "TaskCancelledError",
)  # fmt: skip
"""What Ray raises where a task's process is gone; by name, for versions differ in what they have."""
MOST_PATH = 28
"""Characters of a temporary folder, beyond which Ray's sockets get too long a path."""
FORKED = "this process was forked from one that uses Ray, which works in that one only: start this one by spawn"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}  # the second: no token is left in the home folder
_FORKED: list[bool] = []


@dataclass
class Pool:
    """What was started here: the folder of its session, and its CPUs; "" and 0 where it was only connected to."""

    folder: str
    cpus: int = 0
    over: threading.Event | None = None  # set at its end, for a thread that waits until then


class RayExecutor(WarmExecutor):
    """Runs chunks as Ray tasks of one CPU each. A Ray that the user has started or initialised is never shut down."""

    name = "ray"
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods = (Method(ships=True, start_s=5.0, floor_s=0.015, chunk_s=1.5e-3, bytes_per_s=2e8),)
    options: ClassVar[Mapping[str, str]] = {
        "address": "of the user's own cluster: 'auto', 'host:6379', 'ray://host:10001'; else RAY_ADDRESS, if it is set",
    }

    def probe(self) -> None:
        """Send a function through Ray's pickler and back; nothing is started."""
        from ray import cloudpickle

        if cloudpickle.loads(cloudpickle.dumps(lambda x: x * x))(3) != 9:
            raise BackendUnavailableError("a function came back from Ray's cloudpickle as another one")

    def unusable(self) -> str | None:
        """A forked child cannot talk to its parent's Ray, nor start another."""
        return FORKED if _FORKED else None

    def after_fork(self) -> str | None:
        """See `unusable`; it is asked before what is registered here has its turn."""
        _after_fork()
        return self.unusable()

    def running(self, method: Method) -> bool:  # noqa: ARG002 (it has one only)
        """Whether Ray is initialised in this process, by whomever."""
        return not _FORKED and _initialised()

    def capacity(self, method: Method, options: Mapping[str, Any]) -> int | None:  # noqa: ARG002
        """All CPUs of the user's own cluster."""
        if _FORKED or (self._crews[""].pool is None and not (_initialised() or _address(options))):
            return None
        self._start(1, options)
        return None if self._ours() else _cpus()

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`; hold `turn`."""
        self.check_options(options)
        self.method(method)
        if _FORKED:
            raise BackendUnavailableError(FORKED)
        crew = self._crews[""]
        sent = parcel(work, native_threads, _dumps())  # before a start that would be in vain
        self._start(n_jobs, options)
        there = crew.pool.cpus if self._ours() else _cpus()  # to ask takes a millisecond
        run, done = None, False
        try:
            run = _Run(sent, min(1.0, there / n_jobs))
            yield from feed(run, chunks, n_jobs, until, queues=n_jobs >= there)
            done = True
        finally:
            if run is not None and not done:
                run.close()
            self._used(crew)

    # ------------------------------------------------------------------------------------------ beginning and end

    def _ours(self) -> bool:
        pool: Pool | None = self._crews[""].pool
        return pool is not None and bool(pool.folder)

    def _start(self, n_jobs: int, options: Mapping[str, Any]) -> None:
        """See that Ray is initialised: by the user, whatever the address then, else at the address, else here.

        Raises
        ------
        BackendUnavailableError : it does not answer there, or cannot start here.
        """
        crew, address = self._crews[""], _address(options)
        with crew.lock:
            if self._ours() and (address or not _initialised()):
                self._dismiss(crew)
            if _initialised():
                return
            self._dismiss(crew)
            pool = Pool("") if address else Pool(_folder(), max(n_jobs, cores()), threading.Event())
            try:
                with _as_it_was():
                    _connect(address) if address else _begin(pool)
            except (OSError, RuntimeError, ValueError, ImportError) as error:
                scratch.remove(pool.folder)
                where = f"Ray does not answer at {address!r}" if address else "Ray cannot start here"
                raise BackendUnavailableError(f"{where}: {first_line(error)}") from error
            except BaseException:  # Ctrl-C
                _end(pool)
                raise
            self._keep(crew, pool)

    def _end(self, pool: Pool) -> None:
        _end(pool)

    def _abandon(self, pool: Pool) -> None:
        """See `_after_fork`."""


def _address(options: Mapping[str, Any]) -> str:
    return str(options.get("address") or os.environ.get("RAY_ADDRESS", ""))


def _initialised() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _folder() -> str:
    """A new one for a session; below it Ray has sockets, whose whole path must not exceed 107 characters."""
    usual = tempfile.gettempdir()
    return scratch.make("pm-ray-", usual if len(usual) < MOST_PATH else "/tmp")


def _begin(pool: Pool) -> None:
    """Start Ray on a thread that lives as long as it does: the kernel ends its processes with that thread."""
    if threading.current_thread() is threading.main_thread():
        _init(pool.cpus, pool.folder)
        return
    told: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def start() -> None:
        try:
            _init(pool.cpus, pool.folder)
        except BaseException as error:
            told.put(error)
            return
        told.put(None)
        if pool.over is not None:
            pool.over.wait()

    threading.Thread(target=start, name="pointsman-ray", daemon=True).start()
    error = told.get()
    if error is not None:
        raise error


def _init(n_jobs: int, folder: str) -> None:
    import ray

    ray.init(
        address="local", num_cpus=n_jobs, include_dashboard=False, object_store_memory=STORE_BYTES,
        log_to_driver=False, configure_logging=False, _temp_dir=folder,
    )  # fmt: skip


def _connect(address: str) -> None:
    import ray

    ray.init(address=address, log_to_driver=False, configure_logging=False)


def _end(pool: Pool) -> None:
    ray = sys.modules.get("ray")
    if ray is not None:
        with suppress(Exception):
            ray.shutdown(wait_for_processes=True)
    scratch.remove(pool.folder)
    if pool.over is not None:
        pool.over.set()


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Around `ray.init`: it takes the handler of SIGTERM for itself, and reads settings from the environment."""
    import logging

    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    missing = [name for name in _QUIET if name not in os.environ]
    os.environ.update({name: _QUIET[name] for name in missing})
    log = logging.getLogger("ray")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        for name in missing:
            os.environ.pop(name, None)
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)


# ---------------------------------------------------------------------------------------------- runs


class _Run(Engine):
    """A run on Ray's workers: its work lies in shared memory, once on each node."""

    def __init__(self, work: bytes, cpus: float) -> None:
        import numpy as np
        import ray

        self.ray, self.dumps, self.token, self.paths = ray, _dumps(), uuid.uuid4().hex, paths()
        # Ray hands out an array as a view of its shared memory; bytes it would copy. What is small goes along with each
        # chunk, which takes 3 ms less than the way by the shared memory.
        self.work = work if len(work) <= SMALL else ray.put(np.frombuffer(work, dtype=np.uint8))
        # More workers than CPUs share these: Ray counts in steps of 1e-4.
        self.call = _task().options(num_cpus=int(cpus * 1e4) / 1e4, max_retries=0)
        self.outstanding: list[Any] = []

    def submit(self, chunk: Any) -> None:
        self.outstanding.append(self.call.remote(self.token, self.paths, self.work, packed(chunk, self.dumps)))

    def wait(self, seconds: float | None) -> Any:
        ready, _ = self.ray.wait(self.outstanding, num_returns=1, timeout=seconds)
        if not ready:
            raise TimeoutError
        self.outstanding.remove(ready[0])
        try:
            return self.ray.get(ready[0])
        except Exception as error:
            names = [kind.__name__ for kind in type(error).__mro__]
            if any(name in LOST for name in names):
                raise WorkerDiedError(f"a worker process of ray was lost: {first_line(error)}") from error
            raise BackendUnavailableError(f"Ray did not run a chunk: {names[0]}: {error}") from error

    def opened(self, found: bytes) -> Any:
        return unpacked(found)

    def close(self) -> None:
        """Interrupt what is outstanding; what does not heed that ends with its process, and others take its place."""
        with suppress(Exception):
            for force in (False, True):
                for task in self.outstanding:
                    self.ray.cancel(task, force=force)
                if not self.outstanding:
                    break
                _, self.outstanding = self.ray.wait(
                    self.outstanding, num_returns=len(self.outstanding), timeout=GRACE_S
                )


def _dumps() -> Dumps:
    from ray import cloudpickle

    dumps: Dumps = cloudpickle.dumps
    return dumps


@cache
def _task() -> Any:
    import ray

    unpack, spared, here = unpacker("ray.cloudpickle"), SPARED, (os.getpid(), socket.gethostname())

    def run(token: str, paths: tuple[str, ...], parcel: Any, chunk: bytes) -> bytes:
        import os
        import socket

        try:
            return unpack(token, paths, parcel, chunk)
        except KeyboardInterrupt as interrupt:  # by `ray.cancel`, at any line
            if getattr(interrupt, spared, False) or (os.getpid(), socket.gethostname()) == here:
                raise
            # In the midst of an import, or of what we keep in the process: another process takes its place.
            raise SystemExit(0) from None

    return ray.remote(run)


def _after_fork() -> None:
    """In a forked child: Ray's connection is of no use, and its own end must not end the parent's processes.

    Ray's library (2.60) crashes where such a child ends other than by `os._exit`, as multiprocessing has it end.
    """
    if _FORKED or not _initialised():
        return
    _FORKED.append(True)
    with suppress(Exception):
        private = sys.modules["ray"]._private
        atexit.unregister(private.worker.shutdown)
        private.worker._global_node = None


lifetime.in_child(_after_fork)

EXECUTOR = RayExecutor
