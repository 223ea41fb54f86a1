"""Threads: the standard library's own, begun for a run and gone with it.

Measured on two cores: a run costs 0.1 ms for each thread and 20 us for each chunk, more where
the worker needs the interpreter lock for part of its time.
"""

from __future__ import annotations

import platform
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from itertools import islice
from typing import Any

from .base import Capabilities
from .deadline import arrived, in_time, left_s
from .errors import BackendUnavailableError
from .mapping import MapExecutor, Method, as_worker
from .native import in_thread
from .turns import in_turn

AHEAD = 2
"""Chunks for each thread that are begun or wait: so none is idle while the caller is busy with a result."""


class ThreadsExecutor(MapExecutor):
    """Runs chunks on threads of this process. They gain where the worker releases the interpreter lock, or waits."""

    name = "threads"
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods = (Method(floor_s=3e-4, chunk_s=1e-4),)

    def probe(self) -> None:
        """Square three numbers on two threads."""
        found = self.map(lambda x: x * x, [1, 2, 3], n_jobs=2)
        if found != [1, 4, 9]:
            raise BackendUnavailableError(f"the squares of 1, 2, 3 came out as {found}")

    def version(self) -> str:
        """Python's."""
        return platform.python_version()

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`. Threads share the process's native threads, which nothing changes.

        Each chunk runs in a copy of the caller's context variables. A thread cannot be ended: where results are no
        longer wanted it finishes its chunk, begins no other, and keeps neither the caller nor the interpreter waiting.
        """
        self.check_options(options)
        self.method(method)
        del native_threads
        if n_jobs == 1:
            yield from in_turn(work, chunks, until)
            return
        inside, waiting = as_worker(work), iter(chunks)
        crew, out = _Crew(inside, copy_context(), n_jobs), 0
        try:
            while True:
                for chunk in islice(waiting, AHEAD * n_jobs - out if in_time(until) else 0):
                    crew.give(chunk)
                    out += 1
                if not out:
                    left_s(until)
                    break
                good, result = crew.take(until)
                out -= 1
                if not good:
                    raise result
                yield result
        finally:
            crew.dismiss(idle=not out)


class _Crew:
    """Threads that share a queue of chunks; each is begun when there is a chunk for it."""

    def __init__(self, work: Callable[[Any], Any], context: Context, most: int) -> None:
        self._work = work
        self._context = context
        self._most = most
        self._threads: list[threading.Thread] = []
        self._chunks: queue.SimpleQueue[Any] = queue.SimpleQueue()  # (chunk,), or None: no more
        self._results: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._stopped = False

    def give(self, chunk: Any) -> None:
        self._chunks.put((chunk,))
        if len(self._threads) < self._most:
            # Daemons: the interpreter would wait at its end for others, as long as a chunk may take.
            thread = threading.Thread(target=self._serve, name="pointsman-map", daemon=True)
            thread.start()
            self._threads.append(thread)

    def take(self, until: float | None) -> tuple[bool, Any]:
        """(True, result) or (False, exception) of the next chunk that is done; a RunTimeoutError where none is."""
        return arrived(self._results, until)

    def dismiss(self, *, idle: bool) -> None:
        self._stopped = True
        for _ in self._threads:
            self._chunks.put(None)
        for thread in self._threads if idle else ():
            thread.join()

    def _serve(self) -> None:
        with in_thread():  # once: what is loaded later finds the number in the environment
            while True:
                found = self._chunks.get()
                if found is None or self._stopped:
                    return
                try:
                    # Scopes, np.errstate, decimal: as where the map was called, and no chunk's changes in another.
                    done = True, self._context.copy().run(self._work, *found)
                except BaseException as error:  # SystemExit, too, is for the caller
                    done = False, error
                self._results.put(done)
                del found, done


EXECUTOR = ThreadsExecutor
