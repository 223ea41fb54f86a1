"""Dask: threads of this process, worker processes on this machine, or the scheduler of the user's own cluster.

Measured (distributed 2026.8): the client sends its messages every 10 ms, so no run costs less, whatever it does; two
worker processes start in 0.8 to 1.5 s. They are started without multiprocessing, which would run a script without a
`__main__` guard again in each of them; and they end with this process, however it ends.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import copy_context
from operator import call
from typing import Any, ClassVar

from ..telemetry import lifetime
from .base import Capabilities
from .dask_pool import Pool, end, start, users
from .errors import BackendUnavailableError, first_line
from .mapping import Method, WorkerDiedError, as_worker
from .native import in_thread
from .parcels import forgetter, packed, parcel, paths, unpacked, unpacker
from .warm import Crew, Engine, WarmExecutor, feed

GRACE_S = 0.3
"""Chunks that nobody wants any more may take so long to end, before the worker processes are ended and start anew."""
LARGE = 1 << 20
"""Chunks above this size go to a worker directly: what is part of a task passes through the scheduler."""
CONNECT_S = 10.0
LOOK_S = 0.1
"""So often a waiting run looks whether its worker processes still exist."""


class DaskExecutor(WarmExecutor):
    """Runs chunks through a `distributed.Client`, one chunk a task.

    "dask/processes" takes, in this order: `client`, `address`, the client that this process has made its default, and
    else worker processes of its own. Of the user's own clients and clusters nothing is ever closed.
    """

    name = "dask"
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods = (
        Method("threads", start_s=0.06, floor_s=0.02, chunk_s=1.7e-3),
        Method("processes", ships=True, start_s=1.44, floor_s=0.03, chunk_s=2e-3, bytes_per_s=2e8),
    )
    options: ClassVar[Mapping[str, str]] = {
        "client": "a distributed.Client: the chunks run on its cluster",
        "address": "of a scheduler, such as 'tcp://10.0.0.1:8786': the chunks run on its cluster",
    }

    def __init__(self) -> None:
        super().__init__()
        self._connected: dict[str, Pool] = {}
        self._given = False  # whether the next run is on a cluster that was given

    def probe(self) -> None:
        """Send a function through cloudpickle and back, and see that dask and distributed fit; nothing is started."""
        import cloudpickle
        import dask
        import distributed

        if cloudpickle.loads(cloudpickle.dumps(lambda x: x * x))(3) != 9:
            raise BackendUnavailableError("a function came back from cloudpickle as another one")
        if dask.__version__ != distributed.__version__:
            raise BackendUnavailableError(f"dask {dask.__version__} needs distributed of the same version")

    def objection(self, method: Method, options: Mapping[str, Any]) -> str | None:
        """Threads of this process are none of a cluster's."""
        given = next((name for name in ("client", "address") if options.get(name) is not None), None)
        return f"{given}= names a cluster: that is dask/processes" if given and not method.ships else None

    def running(self, method: Method) -> bool:
        """Whether workers of `method` run: of our own, or of a cluster that was given or is the process's default."""
        return super().running(method) or (method.ships and (self._given or _default_client() is not None))

    def capacity(self, method: Method, options: Mapping[str, Any]) -> int | None:
        """All threads of the user's own cluster."""
        own = self._users(options) if method.ships else None
        self._given = bool(own and options)
        return own.jobs if own else None

    def shutdown(self) -> None:
        """End what was started here, and close the connections that were opened to schedulers of the user."""
        super().shutdown()
        while self._connected:
            _, pool = self._connected.popitem()
            with suppress(Exception):
                pool.client.close(timeout=2)

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`; hold `turn`. Threads share the process's native threads, which nothing changes.

        Each chunk on a thread runs in a copy of the caller's context variables.
        """
        self.check_options(options)
        chosen = self.method(method)
        why = self.objection(chosen, options)
        if why is not None:
            raise ValueError(why)
        crew = self._crews[chosen.name]
        pool = self._users(options) if chosen.ships else None
        inside = not chosen.ships if pool is None else pool.inside
        sent = b"" if inside else _parcel(work, native_threads)  # before a start that would be in vain
        pool = pool or self._pool(crew, chosen, n_jobs)
        done, left = False, False
        run: _Inside | _Outside | None = None
        try:
            run = _Inside(pool, work) if inside else _Outside(pool, sent)
            yield from feed(run, chunks, n_jobs, until, queues=n_jobs >= pool.jobs)
            done = True
        finally:
            self._given = False
            try:
                left = run is None or run.close(done)
            finally:
                if pool is crew.pool:
                    if not (left and pool.alive):
                        self._dismiss(crew)
                    self._used(crew)

    # ------------------------------------------------------------------------------------------ clusters

    def _users(self, options: Mapping[str, Any]) -> Pool | None:
        """The user's own cluster: asked for, or that of the process's default client."""
        client, address = options.get("client"), options.get("address")
        if client is not None and address is not None:
            raise ValueError("client and address: found both; give one")
        if address is not None:
            return self._connect(str(address))
        if client is None:
            client = _default_client()
        elif client.asynchronous or client.status != "running":
            raise BackendUnavailableError(f"client: found {client!r}, which is asynchronous or closed; give another")
        return None if client is None else users(client)

    def _connect(self, address: str) -> Pool:
        pool = self._connected.get(address)
        if pool is None or pool.client.status != "running":
            from distributed import Client

            try:
                client = Client(address, set_as_default=False, timeout=CONNECT_S)
            except (OSError, ValueError) as error:  # a TimeoutError is an OSError
                raise BackendUnavailableError(f"no Dask scheduler answers at {address!r}: {error}") from error
            self._connected[address] = pool = users(client)
            self._leave_at_exit()
        return users(pool.client)

    def _pool(self, crew: Crew, method: Method, n_jobs: int) -> Pool:
        """Workers of our own, `n_jobs` of them or more."""
        with crew.lock:
            pool: Pool | None = crew.pool
            if pool is not None and (pool.jobs < n_jobs or not pool.alive):
                self._dismiss(crew)
                pool = None
            if pool is None:
                try:
                    pool = start(n_jobs, threads=not method.ships)
                except (OSError, RuntimeError, ImportError) as error:
                    raise BackendUnavailableError(f"Dask cannot start workers here: {error}") from error
                self._keep(crew, pool)
            return pool

    def _end(self, pool: Pool) -> None:
        if pool.inside and _Inside.at_work:  # a thread cannot be ended: what it runs goes on, and its pool with it
            threading.Thread(target=end, args=[pool], daemon=True).start()
        else:
            end(pool)

    def _abandon(self, pool: Pool) -> None:
        with suppress(Exception):
            from distributed.core import Status
            from distributed.deploy.spec import SpecCluster

            SpecCluster._instances.discard(pool.cluster)  # Dask closes these at exit
            pool.cluster.status, pool.client.status = Status.closed, "closed"


# ---------------------------------------------------------------------------------------------- runs


class _Outside(Engine):
    """A run on worker processes: its work is sent to all of them, once."""

    def __init__(self, pool: Pool, work: bytes) -> None:
        import cloudpickle
        from distributed import as_completed

        self.pool, self.dumps, self.token = pool, cloudpickle.dumps, uuid.uuid4().hex
        self.paths = paths() if pool.processes else ()
        self.futures: set[Any] = set()
        self.done = as_completed(loop=pool.client.loop, with_results=True, raise_errors=False)
        sent = [unpacker("cloudpickle"), work]
        try:
            self.unpack, self.work = pool.client.scatter(sent, broadcast=True, hash=False)
        except (OSError, TimeoutError) as error:
            raise BackendUnavailableError(f"no worker of the Dask cluster took the work: {error}") from error

    def submit(self, chunk: Any) -> None:
        client, data = self.pool.client, packed(chunk, self.dumps)
        if len(data) > LARGE:
            data = client.scatter(data, hash=False)
        # The function is scattered too, so that a task consists of names and little else.
        future = client.submit(call, self.unpack, self.token, self.paths, self.work, data, pure=False)
        self.futures.add(future)
        self.done.add(future)

    def wait(self, seconds: float | None) -> Any:
        until = None if seconds is None else time.monotonic() + seconds
        while not self.done.has_ready():  # `next` of it waits without an end, also where no worker is left
            left = LOOK_S if until is None else min(LOOK_S, until - time.monotonic())
            if left <= 0.0:
                raise TimeoutError
            with self.done.thread_condition:
                self.done.thread_condition.wait(left)
            if self.pool.gone and not self.done.has_ready():
                raise WorkerDiedError("all worker processes of dask were lost")
        future, found = next(self.done)
        self.futures.discard(future)
        if isinstance(found, bytes):
            return found
        error = found[1] if isinstance(found, tuple) else found
        if type(error).__name__ in ("KilledWorker", "CancelledError", "FutureCancelledError"):
            raise WorkerDiedError(f"a worker process of dask was lost: {first_line(error)}")
        raise BackendUnavailableError(f"Dask did not run a chunk: {type(error).__name__}: {error}") from error

    def opened(self, found: bytes) -> Any:
        return unpacked(found)

    def close(self, done: bool) -> bool:
        """Drop what is outstanding; whether no worker of our own runs any of it any more."""
        client, ours = self.pool.client, bool(self.pool.processes)
        try:
            if done:
                client.run(forgetter(self.token))
                return True
            client.cancel(list(self.futures))
            until = time.monotonic() + GRACE_S
            while ours and any(client.run(_executing).values()):
                if time.monotonic() > until:
                    return False
                time.sleep(LOOK_S / 5)
        except Exception:
            return False
        return True


class _Inside(Engine):
    """A run on threads of this process: nothing is copied, and Dask is told numbers only."""

    runs: ClassVar[dict[str, _Inside]] = {}
    at_work: ClassVar[set[tuple[str, int]]] = set()  # chunks, of these runs and earlier ones

    def __init__(self, pool: Pool, work: Callable[[Any], Any]) -> None:
        self.client, self.context, self.work = pool.client, copy_context(), as_worker(work)
        self.numbers, self.token = itertools.count(), uuid.uuid4().hex
        self.chunks: dict[int, Any] = {}
        self.futures: dict[int, Any] = {}
        self.found: queue.SimpleQueue[tuple[int, bool, Any]] = queue.SimpleQueue()
        self.runs[self.token] = self

    def submit(self, chunk: Any) -> None:
        number = next(self.numbers)
        self.chunks[number] = chunk
        future = self.futures[number] = self.client.submit(_run_inside, self.token, number, pure=False)
        future.add_done_callback(lambda done: self._ended(number, done.status))

    def _ended(self, number: int, status: str) -> None:
        if status != "finished":
            error = WorkerDiedError(f"a chunk on a thread of dask was lost: its task ended as {status!r}")
            self.found.put((number, False, error))

    def wait(self, seconds: float | None) -> Any:
        try:
            number, good, found = self.found.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        self.futures.pop(number, None)
        if not good and isinstance(found, WorkerDiedError):
            raise found
        return good, found

    def opened(self, found: tuple[bool, Any]) -> Any:
        good, result = found
        if not good:
            raise result
        return result

    def run(self, number: int) -> None:
        self.at_work.add((self.token, number))
        try:
            with in_thread():
                result = self.context.copy().run(self.work, self.chunks.pop(number))
            self.found.put((number, True, result))
        except BaseException as error:  # for the caller to see, not for Dask
            self.found.put((number, False, error))
        finally:
            self.at_work.discard((self.token, number))

    def close(self, done: bool) -> bool:
        """Have no further chunk begun; whether none is at work any more."""
        self.runs.pop(self.token, None)
        if done:
            return True
        with suppress(Exception):
            self.client.cancel(list(self.futures.values()))
        until = time.monotonic() + GRACE_S
        while any(token == self.token for token, _ in tuple(self.at_work)):
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_S / 20)
        return True


def _parcel(work: Callable[[Any], Any], native_threads: int) -> bytes:
    import cloudpickle

    return parcel(work, native_threads, cloudpickle.dumps)


def _run_inside(token: str, number: int) -> None:
    run = _Inside.runs.get(token)
    if run is not None:
        run.run(number)


def _executing(dask_worker: Any) -> int:
    return int(dask_worker.state.executing_count)


# ---------------------------------------------------------------------------------------------- the default client

_PARENTS: list[Any] = []  # clients of the process that this one was forked from: of no use here


def _default_client() -> Any:
    """The client that this process uses by default, if it has one; inside a task of Dask's that is not the user's."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        client = distributed.Client.current()
    except ValueError:
        return None
    usable = client.status == "running" and not client.asynchronous and all(client is not one for one in _PARENTS)
    return client if usable and not _in_task(distributed) else None


def _in_task(distributed: Any) -> bool:
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _after_fork() -> None:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return
    with suppress(Exception):
        _PARENTS.append(distributed.Client.current())
    with suppress(Exception):  # its thread does not exist here, which it does not notice: messages would wait for ever
        utils = distributed.utils
        utils._offload_executor = type(utils._offload_executor)(1, thread_name_prefix="Dask-Offload")


lifetime.in_child(_after_fork)

EXECUTOR = DaskExecutor
