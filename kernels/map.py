"""`map`: a worker over items, in place, on threads or on processes, wherever it is done first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, overload

from ..executors.mapping import listed, whole, workers
from .map_info import MapInfo
from .map_pilot import Listed, Run
from .map_run import How, Job

T = TypeVar("T")
R = TypeVar("R")
PREFER = ("processes", "threads")


@overload
def map(
    worker: Callable[[T], R], items: Iterable[T], backend: str = "auto", *, n_jobs: int | None = None,
    prefer: str | None = None, chunk_size: int | None = None, native_threads: int = 1, rerun: bool = True,
    return_info: Literal[False] = False, **options: Any,
) -> list[R]: ...  # fmt: skip
@overload
def map(
    worker: Callable[[T], R], items: Iterable[T], backend: str = "auto", *, n_jobs: int | None = None,
    prefer: str | None = None, chunk_size: int | None = None, native_threads: int = 1, rerun: bool = True,
    return_info: Literal[True], **options: Any,
) -> tuple[list[R], MapInfo]: ...  # fmt: skip
def map(
    worker: Callable[[Any], Any], items: Iterable[Any], backend: str = "auto", *, n_jobs: int | None = None,
    prefer: str | None = None, chunk_size: int | None = None, native_threads: int = 1, rerun: bool = True,
    return_info: bool = False, **options: Any,
) -> Any:  # fmt: skip
    """``[worker(item) for item in items]``, in order, run where it is done first.

    The first items run in place; a map whose rest takes less than 20 ms stays there. For a longer one their cost, size
    and use of the interpreter lock decide between going on in place, threads and processes; what the run then took is
    recorded under the worker's name, and the next map of this worker starts from it.

    Parameters
    ----------
    worker : takes one item; the result may be of any type. It must not depend on state that it shares with other
        items: it may run in another thread or process.
    items : an iterable. A list, tuple or range is taken as it is; anything else, a generator too, is listed first.
    backend : "auto"; or a map backend ("sequential", "threads", "joblib", "mpi") or one of its variants ("joblib/loky",
        "joblib/threads"), which is then used for all items.
    n_jobs : workers at a time; None or -1: the cores that this process may use, -2: all but one.
    prefer : "processes" or "threads": a hint which of the two to consider, where there is a choice.
    chunk_size : items that are handed over together; None: long chunks first, shorter ones at the end.
    native_threads : BLAS and OpenMP threads in each worker process. Threads and the caller's own thread share those of
        the process, which stay as they are.
    rerun : whether items of a worker process that died may be run again, once, in a new process. False forbids it for
        workers with side effects.
    return_info : give ``(results, MapInfo)``.
    options : of a named backend, see ``pointsman.get_backend(name).options``.

    Returns
    -------
    list
        One result for each item, in the order of the items.

    Raises
    ------
    Exception
        The worker's own, unchanged, with a note that names its item. Items after it may have run.
    NoCandidateError
        The named backend cannot run, or worker processes died twice; each attempt is listed with its reason.
    ValueError, TypeError
        An unknown backend or option (the valid ones are listed), or a value out of range.

    Notes
    -----
    A map that a worker of another map makes runs in place. Worker processes stay for the next map until they have been
    idle for five minutes.

    Examples
    --------
    >>> import pointsman as pm
    >>> pm.map(abs, [-2, -1, 0])
    [2, 1, 0]
    """
    started = time.perf_counter()
    check(worker, backend, n_jobs, prefer, chunk_size, native_threads)
    given = listed(items)
    sink = Listed(len(given))
    run, info = Run(worker, given, sink), MapInfo(len(given))
    Job(run, info, How(n_jobs, prefer, chunk_size, native_threads, rerun, options=options)).do(backend)
    info.seconds = time.perf_counter() - started
    return (sink.out, info) if return_info else sink.out


def check(
    worker: object, backend: object, n_jobs: int | None, prefer: str | None, chunk_size: int | None, native_threads: int
) -> None:
    """Raise what `map` says it raises for arguments that make no sense, before an item is drawn or run."""
    if not callable(worker):
        raise TypeError(f"worker: found {worker!r}; give a function of one item")
    if prefer is not None and prefer not in PREFER:
        raise ValueError(f"prefer: found {prefer!r}; allowed are {', '.join(PREFER)} and None")
    if n_jobs is not None:
        workers(n_jobs)
    if chunk_size is not None or type(native_threads) is not int or native_threads != 1:
        whole("chunk_size", chunk_size)
        whole("native_threads", native_threads, none=False)
    if not isinstance(backend, str):
        raise TypeError(
            f"backend: found {type(backend).__name__}; the third argument says where to run: 'auto', 'sequential', "
            "'threads', 'joblib' or a variant such as 'joblib/loky'. Workers at a time are n_jobs=...; several "
            "iterables become one by zip(...)"
        )
