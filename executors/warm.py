"""Workers that stay warm: started by the first run that needs them, kept for the next, ended when idle or at exit."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from ..telemetry import lifetime
from .deadline import left_s
from .errors import RunTimeoutError
from .mapping import MapExecutor, Method, WorkerDiedError
from .turns import taken

AHEAD, MOST_AHEAD = 2, 32
"""Chunks for each worker that are handed over ahead: at first, and where they turn out to be short."""
QUICK_S = 0.02
"""A chunk that follows another within this time is short: the next one is still on its way to the worker by then."""

_END = object()


class Crew:
    """The workers of one method, if there are any: `pool` is whatever its executor made."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pool: Any = None
        self.used = 0.0
        self.timer: threading.Timer | None = None
        lifetime.free_in_child(self, "lock")


class Engine:
    """One run on started workers, as `feed` drives it."""

    def submit(self, chunk: Any) -> None:
        """Hand over a chunk."""
        raise NotImplementedError

    def wait(self, seconds: float | None) -> Any:
        """What stands for the result of some chunk, as soon as one is done; None waits for ever.

        Raises
        ------
        WorkerDiedError : that chunk was lost; others may still come.
        TimeoutError : nothing was done in time.
        """
        raise NotImplementedError

    def opened(self, found: Any) -> Any:
        """The result that stands in what `wait` gave, or raises what the work raised."""
        raise NotImplementedError


class WarmExecutor(MapExecutor):
    """A map backend that keeps the workers which it has started.

    Another `n_jobs` uses as many of them, or has more started. Maps of several threads take turns.
    """

    idle_s: ClassVar[float] = 280.0  # as joblib's

    def __init__(self) -> None:
        super().__init__()
        self._crews = {method.name: Crew() for method in self.methods}
        self._at_exit = False
        _EXECUTORS.add(self)

    @abstractmethod
    def _end(self, pool: Any) -> None:
        """End the workers of `pool` now, whatever they do, and remove its files."""

    @abstractmethod
    def _abandon(self, pool: Any) -> None:
        """In a forked child: see that nothing there ends `pool`, which is the parent's."""

    def turn(self, method: Method) -> AbstractContextManager[Any]:
        """One run at a time on the workers of `method`."""
        return self._crews[method.name].lock

    def busy(self, method: Method) -> bool:
        """Whether another thread's map uses the workers of `method`."""
        return taken(self._crews[method.name].lock)

    def running(self, method: Method) -> bool:
        """Whether workers of `method` run already."""
        return self._crews[method.name].pool is not None

    def shutdown(self) -> None:
        """End all workers that this backend has started; the next run starts new ones. Nothing of the user's ends."""
        for crew in self._crews.values():
            with crew.lock:
                self._dismiss(crew)

    # ------------------------------------------------------------------------------------------ for the members

    def _keep(self, crew: Crew, pool: Any) -> None:
        crew.pool = pool
        self._leave_at_exit()

    def _leave_at_exit(self) -> None:
        if not self._at_exit:
            self._at_exit = True
            atexit.register(self.shutdown)  # later than the engine's own, and so before it

    def _dismiss(self, crew: Crew) -> None:
        pool, crew.pool = crew.pool, None
        if crew.timer is not None:
            crew.timer.cancel()
            crew.timer = None
        if pool is not None:
            self._end(pool)

    def _used(self, crew: Crew) -> None:
        """Note the end of a run; its workers leave when none has come for `idle_s`."""
        crew.used = time.monotonic()
        if crew.pool is not None and crew.timer is None:
            self._watch(crew, self.idle_s)

    def _watch(self, crew: Crew, seconds: float) -> None:
        crew.timer = threading.Timer(seconds, self._look, [crew])
        crew.timer.daemon = True
        crew.timer.start()

    def _look(self, crew: Crew) -> None:
        if not crew.lock.acquire(blocking=False):  # at work
            self._watch(crew, self.idle_s)
            return
        try:
            left = crew.used + self.idle_s - time.monotonic()
            if left > 0.0:
                self._watch(crew, left)
            else:
                self._dismiss(crew)
        finally:
            crew.lock.release()


def feed(engine: Engine, chunks: Iterable[Any], n_jobs: int, until: float | None, *, queues: bool) -> Iterator[Any]:
    """What `engine` gives for each of `chunks`, in the order in which they are done.

    `queues`: it has no more than `n_jobs` workers, so that chunks may wait at them; else no more are outstanding.
    After a loss nothing more is handed over; what is outstanding is still given, and then the loss is raised.
    """
    left, outstanding, last = iter(chunks), 0, time.monotonic()
    ahead = AHEAD * n_jobs if queues else n_jobs
    lost: WorkerDiedError | None = None
    while True:
        while lost is None and outstanding < ahead and (chunk := next(left, _END)) is not _END:
            left_s(until)
            engine.submit(chunk)
            outstanding += 1
        if not outstanding:
            break
        try:
            found = engine.wait(left_s(until))
        except WorkerDiedError as error:
            lost = lost or error
            outstanding -= 1
        except TimeoutError:
            raise RunTimeoutError("the run's time is over") from None
        else:
            outstanding -= 1
            yield engine.opened(found)
        now = time.monotonic()
        if queues and now - last < QUICK_S:
            ahead = min(2 * ahead, MOST_AHEAD * n_jobs)
        last = now
    if lost is not None:
        raise lost


_EXECUTORS: weakref.WeakSet[WarmExecutor] = weakref.WeakSet()
_INHERITED: list[Any] = []  # kept: what ends with it would reach the parent's workers


def _after_fork() -> None:
    """In a forked child: its parent's workers are not its own, nor are the threads that serve them there."""
    for executor in tuple(_EXECUTORS):
        for crew in executor._crews.values():
            pool, crew.pool, crew.timer = crew.pool, None, None
            if pool is not None:
                _INHERITED.append(pool)
                executor._abandon(pool)


lifetime.in_child(_after_fork)
