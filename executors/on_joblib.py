"""joblib: worker processes of loky that stay warm between calls, and threads.

Measured (joblib 1.6): `joblib.Parallel` sleeps in steps of 10 ms while work is outstanding, so that none of its calls
costs less than 11 ms. Taken where they arrive, results of worker processes are there after 3 ms. Starting two processes
takes 0.1 to 0.65 s, and longer where the machine is busy.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from functools import cache
from typing import Any, ClassVar

from ..telemetry import lifetime
from .base import Capabilities
from .deadline import arrived, left_s
from .errors import BackendUnavailableError, RunTimeoutError, first_line
from .mapping import MapExecutor, Method, WorkerDiedError, as_worker
from .native import in_thread
from .parcels import unsendable
from .raised import guarded, reraise
from .turns import in_turn, taken

IDLE_S = 280.0
"""loky's workers leave after 300 idle seconds."""
LOOK_S = 0.5
"""So often they look whether the process that started them still exists."""
COUNT_S, LOCK_S = 1.0, 10.0
"""So long joblib may take to count a result that has come, and to hand over a chunk, on a machine that stalls."""


class JoblibExecutor(MapExecutor):
    """Runs chunks through `joblib.Parallel`, one chunk a task: joblib's own batching is switched off."""

    name = "joblib"
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods = (
        Method("threads", floor_s=1e-3, chunk_s=2e-4),
        Method("loky", ships=True, start_s=0.65, floor_s=3e-3, chunk_s=5e-4),
    )
    options: ClassVar[Mapping[str, str]] = {
        "max_nbytes": "arrays above this size are shared through files with worker processes; None: never",
        "mmap_mode": "how workers open such arrays: 'c' (default: changes stay in the worker), 'r', 'r+', 'w+', None",
        "temp_folder": "where such files go",
        "pre_dispatch": "chunks handed over ahead: a number, or text such as '2*n_jobs'",
    }

    def __init__(self) -> None:
        super().__init__()
        self._last_use: tuple[int, float] | None = None  # (process, time) of the last run on worker processes
        self._turn = threading.RLock()
        lifetime.free_in_child(self, "_turn")

    def probe(self) -> None:
        """Square three numbers on two threads; a pool of processes would cost half a second."""
        found = self.map(lambda x: x * x, [1, 2, 3], method="threads", n_jobs=2)
        if found != [1, 4, 9]:
            raise BackendUnavailableError(f"the squares of 1, 2, 3 came out as {found}")

    def running(self, method: Method) -> bool:
        """Whether worker processes were used lately, and by this very process."""
        if not method.ships:
            return True
        used = self._last_use
        return used is not None and used[0] == os.getpid() and time.monotonic() - used[1] < IDLE_S

    def turn(self, method: Method) -> AbstractContextManager[Any]:
        """loky's workers are one set for the process: an error ends them all, another `n_jobs` restarts them."""
        return self._turn if method.ships else nullcontext()

    def shutdown(self) -> None:
        """End the worker processes, whoever uses them."""
        pool: Any = sys.modules.get("joblib.externals.loky.reusable_executor")
        if pool is not None and pool._executor is not None:
            pool._executor.shutdown(wait=True, kill_workers=True)
        self._last_use = None

    def busy(self, method: Method) -> bool:
        """Whether another thread's map uses the worker processes."""
        return method.ships and taken(self._turn)

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`. Threads share the process's native threads, which nothing changes.

        Each chunk runs on a thread in a copy of the caller's context variables. On processes, hold `turn`.
        """
        self.check_options(options)
        ahead = options.get("pre_dispatch")
        if isinstance(ahead, int) and ahead < 1:  # joblib would wait for ever
            raise ValueError(f"pre_dispatch: found {ahead!r}; the least is 1, or give text such as '2*n_jobs'")
        chosen = self.method(method)
        if n_jobs == 1 or (chosen.ships and _is_daemon()):
            yield from in_turn(work, chunks, until)
        elif chosen.ships:
            yield from self._on_processes(work, chunks, n_jobs, native_threads, until, options)
        else:
            yield from self._on_threads(work, chunks, n_jobs, until, options)

    def _on_threads(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], n_jobs: int, until: float | None,
        options: dict[str, Any],
    ) -> Iterator[Any]:  # fmt: skip
        stopped, context, inside = threading.Event(), copy_context(), as_worker(work)

        def run(chunk: Any) -> Any:
            if stopped.is_set():  # a thread cannot be ended, but it need not begin another chunk
                return None
            with in_thread():
                return context.copy().run(inside, chunk)  # scopes, np.errstate, decimal: as where the map was called

        try:
            yield from _outputs(run, chunks, "threading", until, options, n_jobs=n_jobs)
        finally:
            stopped.set()

    def _on_processes(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], n_jobs: int, native_threads: int,
        until: float | None, options: dict[str, Any],
    ) -> Iterator[Any]:  # fmt: skip
        options = {"mmap_mode": "c", **options}  # joblib's "r" makes large arrays, and no others, read-only
        inside, done = _leaving(guarded(work)), False
        outputs = _outputs(
            inside, chunks, "loky", until, options, n_jobs=n_jobs, inner_max_num_threads=native_threads
        )  # fmt: skip
        try:
            while (found := _next(outputs)) is not None:
                self._last_use = (os.getpid(), time.monotonic())
                good, result = found
                if not good:
                    reraise(result)
                yield result
            done = True
        finally:
            outputs.close()
            if not done:
                self._last_use = None  # joblib has killed them


def _is_daemon() -> bool:
    """Whether this process may not start others, such as those of `multiprocessing.Pool`."""
    multiprocessing = sys.modules.get("multiprocessing")  # in a process that it started it is always loaded
    return multiprocessing is not None and bool(multiprocessing.current_process().daemon)


def _leaving(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`run` for a process that ends with the one that started it.

    After a `kill -9` of that, loky's workers would stay for five minutes, at work or idle; and for ever where one has
    a large result to give, for nobody reads it. The system's own signal for it (PR_SET_PDEATHSIG) comes when a thread
    of the parent ends. A closure without globals: cloudpickle sends it by value.
    """
    parent, look_s = os.getpid(), LOOK_S
    if os.name != "posix":  # elsewhere the number of a parent stays when it is gone
        return run

    def leaving(chunk: Any) -> Any:
        import multiprocessing
        import os
        import threading
        import time

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(look_s)
            os._exit(1)

        me: Any = multiprocessing.current_process()
        here = os.getpid() == parent  # joblib starts no processes where it finds that it cannot
        if not here and not getattr(me, "leaves_with_its_parent", False):
            me.leaves_with_its_parent = True
            threading.Thread(target=watch, name="pointsman-parent", daemon=True).start()
        return run(chunk)

    return leaving


def _next(outputs: Iterator[tuple[bool, Any]]) -> tuple[bool, Any] | None:
    """The next of `outputs`, None at their end; the engine's own errors in our words."""
    try:
        return next(outputs, None)
    except RunTimeoutError:  # an OSError, too
        raise
    except BrokenExecutor as error:
        raise WorkerDiedError(f"a worker process of loky was lost: {first_line(error)}") from error
    except (pickle.PicklingError, TypeError, AttributeError) as error:  # the work's own errors come as results
        cause = error.__cause__ if isinstance(error, pickle.PicklingError) else None
        raise unsendable(str(cause or error) or type(error).__name__) from error  # its last line, of a traceback
    except (OSError, ImportError, NotImplementedError) as error:
        raise BackendUnavailableError(f"loky cannot start processes here: {error}") from error
    except RuntimeError as error:  # the caller's own use of joblib has ended loky's workers, which are one set
        if "shutdown" not in str(error):
            raise
        raise WorkerDiedError(f"the worker processes of loky were ended: {first_line(error)}") from error


@cache
def _engine(backend: str) -> Any:
    """joblib's backend of that name, which says at once what has come: `joblib.Parallel` looks every 10 ms."""
    from joblib.parallel import BACKENDS

    class Prompt(BACKENDS[backend]):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def retrieve_result_callback(self, out: Any) -> list[Any]:
            try:
                found = super().retrieve_result_callback(out)
            except BaseException:
                self.arrived.put(_FAILED)
                raise
            self.arrived.put(found)
            return []  # nothing for joblib to keep

        def abort_everything(self, ensure_ready: bool = True) -> None:
            """Take back what loky has queued: its manager thread fails on what is left there when workers are killed.

            It hands out the next one itself when one is done, under a lock: with that held, none is on its way there.
            """
            queued = getattr(getattr(self, "_workers", None), "_work_ids", None)  # threads have none
            held = self.parallel._lock.acquire(timeout=LOCK_S)
            try:
                with suppress(queue.Empty):
                    while queued is not None:
                        queued.get(block=False)
            finally:
                if held:
                    self.parallel._lock.release()
            super().abort_everything(ensure_ready)

    return Prompt


_FAILED, _ENDED = object(), object()


def _outputs(
    run: Callable[[Any], Any], chunks: Iterable[Any], backend: str, until: float | None, options: dict[str, Any],
    **config: Any,
) -> Generator[Any, None, None]:  # fmt: skip
    """What `run` gives for each chunk, as it comes."""
    import joblib

    engine, given = _engine(backend)(), 0

    def tasks() -> Iterator[Any]:
        nonlocal given
        try:
            for chunk in chunks:
                left_s(until)  # nothing more is begun
                given += 1
                yield joblib.delayed(run)(chunk)
            engine.arrived.put(_ENDED)
        except Exception:
            engine.arrived.put(_FAILED)
            raise

    left_s(until)
    with joblib.parallel_config(backend=engine, **config):
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, **options)
        outputs = parallel(tasks())
    try:
        if parallel._backend is engine:  # else joblib has found that it cannot start any, and runs them here
            yield from _arriving(parallel, engine.arrived, lambda: given, until)
        for output in outputs:
            yield output
            left_s(until)
    finally:
        _close(outputs)


def _arriving(
    parallel: Any, results: queue.SimpleQueue[Any], given: Callable[[], int], until: float | None
) -> Iterator[Any]:
    """What has come, until all has, or joblib has an error to raise."""
    taken, ended = 0, False
    while not ended or taken < given():
        found = arrived(results, until)
        if found is _FAILED:
            return
        if found is _ENDED:
            ended = True
        else:
            taken += 1
            yield from found
    patience = time.monotonic() + COUNT_S  # joblib itself would sleep, were it asked before it has counted the last
    while parallel.n_completed_tasks < taken and time.monotonic() < patience:
        time.sleep(1e-5)
    with parallel._lock:
        pass


def _close(outputs: Any) -> None:
    """End what is still outstanding; joblib warns that there was some, which whoever closes knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Exception):
            outputs.close()


_INHERITED: list[Any] = []  # kept: what ends with it would write to pipes of the parent


def _after_fork() -> None:
    """In a forked child: its parent's worker processes, and the threads that serve them, are not its own."""
    pool: Any = sys.modules.get("joblib.externals.loky.reusable_executor")
    if pool is not None:
        _INHERITED.append(pool._executor)
        pool._executor = pool._executor_kwargs = None
        pool._executor_lock = threading.RLock()
    engine: Any = sys.modules.get("joblib.externals.loky.process_executor")
    if engine is not None:
        engine._threads_wakeups.clear()
        engine._global_shutdown_lock = threading.Lock()


lifetime.in_child(_after_fork)

EXECUTOR = JoblibExecutor
