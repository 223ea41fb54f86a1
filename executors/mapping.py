"""The contract of a map backend: chunks of items in, one result for each chunk out.

A map backend is a row of the one registry whose capabilities say ``map=True``. It runs on an engine as it is; what an
item is, how many make a chunk, and where a run belongs is decided above.
"""

from __future__ import annotations

import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import Any, ClassVar

from ..telemetry import hardware
from ..telemetry.outcome import Failure
from . import registry
from .above import OFFERED
from .base import Executor, Variant
from .errors import PointsmanError

CHUNKS_A_WORKER = 4
"""Where nothing is known of the cost of an item: so many chunks for each worker even out unequal ones."""

COMMON: Mapping[str, str] = {
    "n_jobs": "workers at a time; None: the cores that this process may use; -1: the same, -2: all but one",
    "chunk_size": "items that are handed over together; None: long chunks first, shorter ones at the end",
    "native_threads": "BLAS and OpenMP threads in each worker process",
}
"""Options of every map backend. A backend's own stand in its `options`."""


class WorkerDiedError(PointsmanError, RuntimeError):
    """A process that ran a chunk is gone (killed, crashed, out of memory) and took the chunk's result with it."""


@dataclass(frozen=True)
class Method:
    """One way in which a map backend runs chunks; each is a variant of every map.

    Attributes
    ----------
    name : "loky", "threads"; "" where the backend has one way only.
    parallel : whether chunks run at the same time.
    ships : worker, items and results are pickled and sent: the chunks run in other processes.
    start_s : typical seconds until workers that do not run yet have begun; replaced once measured.
    floor_s : least seconds of a run, its workers started.
    chunk_s : seconds that one more chunk costs.
    bytes_per_s : of items and results that are sent.
    """

    name: str = ""
    parallel: bool = True
    ships: bool = False
    start_s: float = 0.0
    floor_s: float = 0.0
    chunk_s: float = 0.0
    bytes_per_s: float = 5e8


Chunk = tuple[int, Sequence[Any]]
"""The place of the first item, and the items: a plain tuple, for a class of ours would be imported where it arrives."""


class MapExecutor(Executor):
    """Runs a function on chunks. Adds to `Executor` what follows; arrays are none of its business."""

    methods: ClassVar[tuple[Method, ...]] = (Method(),)
    options: ClassVar[Mapping[str, str]] = {}  # beyond COMMON: name -> one line

    def __init__(self) -> None:
        self._measured_start_s: dict[str, float] = {}

    @abstractmethod
    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """Give ``work(chunk)`` for every chunk, in the order in which they are done.

        `work` says in its result which chunk it was; large arguments that it holds reach each worker once. `chunks` is
        consumed as workers become free. Closing the iterator drops what has not been given yet, and ends what still
        runs where the engine can. `until` is a time by `time.monotonic`; None waits for ever.

        Raises
        ------
        UnsupportedError : function, chunk or result cannot be sent to a worker.
        BackendUnavailableError : the workers cannot be started here.
        WorkerDiedError : a worker process was lost. What was given until then is good.
        RunTimeoutError : `until` has passed, and nothing was done that could be given.
        Exception : whatever `work` raised, of its own class, with its notes.
        """

    def map(
        self, worker: Callable[[Any], Any], items: Iterable[Any], *, method: str = "", n_jobs: int | None = None,
        chunk_size: int | None = None, native_threads: int = 1, **options: Any,
    ) -> list[Any]:  # fmt: skip
        """``[worker(item) for item in items]``, on this backend and no other. Nothing is chosen, nothing recorded.

        Parameters
        ----------
        worker : takes one item; the results may be of any type.
        items : an iterable; one that is no sequence is listed first.
        method : one of `methods`; "" takes the first.
        n_jobs, chunk_size, native_threads, options : see `COMMON`, and `options` of this class.

        Raises
        ------
        TypeError : an option that this backend does not have; the message lists those that it has.
        ValueError : an option's value is out of range.
        Exception : of the worker, unchanged, with a note that names the item; see also `run_chunks`.
        """
        self.check_options(options)
        chosen = self.method(method or self._fitting(options))
        jobs = (self.capacity(chosen, options) if n_jobs is None else None) or workers(n_jobs)
        items = listed(items)
        size = whole("chunk_size", chunk_size) or -(-len(items) // (CHUNKS_A_WORKER * jobs)) or 1
        whole("native_threads", native_threads)
        out: list[Any] = [None] * len(items)
        with self.turn(chosen):
            runs = self.run_chunks(
                each(worker), chunked(items, size), method=chosen.name, n_jobs=jobs, native_threads=native_threads,
                **options,
            )  # fmt: skip
            for first, results, _, _ in runs:
                out[first : first + len(results)] = results
        return out

    @property
    def description(self) -> str:
        """One line for listings."""
        return registry.row(self.name).hint

    def is_available(self) -> bool:
        """Whether it can be used here and now, as far as is known without importing its library."""
        return registry.available(self.name) is None

    def get_capabilities(self) -> dict[str, Any]:
        """What it can do, and which options it takes: plain data."""
        return {
            "name": self.name,
            "description": self.description,
            "available": self.unusable() is None and self.is_available(),
            "parallel": any(method.parallel for method in self.methods),
            "processes": any(method.ships for method in self.methods),
            "methods": [method.name for method in self.methods if method.name],
            "options": {**COMMON, **self.options},
        }

    def run_monte_carlo(self, *args: Any, **kwargs: Any) -> Any:
        """`pointsman.run_monte_carlo` on this backend."""
        if kwargs.setdefault("backend", self.name).partition("/")[0] != self.name:
            raise ValueError(
                f"backend: found {kwargs['backend']!r} in a run that is to be on {self.name}; leave it out"
            )
        return OFFERED["run_monte_carlo"](*args, **kwargs)

    def shutdown(self) -> None:
        """End the workers that are kept for the next run; the next one starts others."""

    def objection(self, method: Method, options: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """None, or the sentence why a run with these options of its own is not for `method`."""
        return None

    def capacity(self, method: Method, options: Mapping[str, Any]) -> int | None:  # noqa: ARG002
        """Workers that n_jobs=None means where they are not of this machine: those of the user's own cluster."""
        return None

    def _fitting(self, options: Mapping[str, Any]) -> str:
        return next((method.name for method in self.methods if self.objection(method, options) is None), "")

    def turn(self, method: Method) -> AbstractContextManager[Any]:  # noqa: ARG002 (most need none)
        """Held around `run_chunks` and the use of its results: threads that cannot share workers take turns."""
        return nullcontext()

    def busy(self, method: Method) -> bool:  # noqa: ARG002
        """Whether `turn` would have to wait for another thread now."""
        return False

    def method(self, name: str = "") -> Method:
        """The method called `name`, "" for the first; a ValueError lists them."""
        for method in self.methods:
            if not name or method.name == name:
                return method
        known = ", ".join(f"{self.name}/{method.name}" if method.name else self.name for method in self.methods)
        raise ValueError(f"{self.name} maps in no way called {name!r}; it does as: {known}")

    def check_options(self, given: Iterable[str]) -> None:
        """A TypeError for an option that this backend does not have; it lists those that it has."""
        unknown = next((name for name in given if name not in self.options), None)
        if unknown is not None:
            valid = ", ".join([*COMMON, *self.options])
            raise TypeError(f"{self.name} has no option {unknown!r}; valid are: {valid}")

    def running(self, method: Method) -> bool:
        """Whether workers of `method` run already, so that nothing has to be started."""
        return method.start_s == 0.0

    def start_s(self, variant: Variant) -> float:
        """Seconds until the workers of `variant` have begun; 0.0 where they run."""
        method = self.method(variant.name.partition("/")[2])
        return 0.0 if self.running(method) else self._measured_start_s.get(method.name, method.start_s)

    def started(self, method: Method, seconds: float) -> None:
        """Note what a start took."""
        self._measured_start_s[method.name] = seconds

    def refuses(self, dtype: str, resident: bool = False) -> str | None:  # noqa: ARG002 (any item will do)
        """None: items may be anything."""
        return None

    def classify(self, error: BaseException) -> Failure | None:
        """A lost worker is a failure of this backend; what the worker raised never is."""
        return Failure.DRIVER if isinstance(error, WorkerDiedError) else None


# ---------------------------------------------------------------------------------------------- for those above


@cache
def map_methods() -> list[tuple[str, MapExecutor, Method]]:
    """(variant name, executor, method) of every map backend, in canonical order, installed or not."""
    found = []
    for name in registry.names():
        executor = registry.executor(name)
        if isinstance(executor, MapExecutor):
            found += [(f"{name}/{m.name}" if m.name else name, executor, m) for m in executor.methods]
    return found


registry.on_change(map_methods.cache_clear)


def listed(items: Iterable[Any]) -> Sequence[Any]:
    """`items` as a sequence whose slices are plain and that no worker changes: a tuple, a range, else a new list."""
    return items if type(items) is tuple or type(items) is range else list(items)


def chunked(items: Sequence[Any], size: int, first: int = 0) -> Iterator[Chunk]:
    """`items` from `first` on, `size` at a time."""
    for start in range(first, len(items), size):
        yield start, items[start : start + size]


def whole(name: str, value: int | None, least: int = 1, *, none: bool = True) -> int | None:
    """`value`, a whole number of `least` or more, or None if `none` is; else a TypeError or ValueError."""
    if value is not None or not none:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: found {value!r}; give a whole number" + (", or None" if none else ""))
        if value < least:
            raise ValueError(f"{name}: found {value}; the least is {least}")
    return value


def plain(number: Any) -> Any:
    """A whole number of another library, such as NumPy's, as Python's own; anything else as it is."""
    return int(number) if isinstance(number, Integral) and not isinstance(number, int) else number


@cache
def cores() -> int:
    """Cores that this process may use, as found at the first question: reading them takes half a millisecond."""
    return hardware.usable_cores()


def workers(n_jobs: int | None) -> int:
    """How many workers `n_jobs` means here; 0 and what is no number are errors."""
    if n_jobs is None:
        return cores()
    whole("n_jobs", n_jobs, least=-(1 << 30))
    if n_jobs == 0:
        raise ValueError("n_jobs: found 0; give a number of workers, None or -1 for all cores, -2 for all but one")
    return n_jobs if n_jobs > 0 else max(1, cores() + 1 + n_jobs)


# ---------------------------------------------------------------------------------------------- what workers run
#
# A closure without globals: cloudpickle sends such by value, and a worker process that has no use for pointsman need
# not import it, which takes 0.1 s.


def each(worker: Callable[[Any], Any], noted: bool = True) -> Callable[[Chunk], tuple[int, list[Any], float, float]]:
    """`worker` for a chunk: (place of the first item, results, time of begin by `perf_counter`, seconds of work).

    An exception gets a note that names its item, unless it is not `noted`.
    """

    def work(chunk: Any) -> tuple[int, list[Any], float, float]:
        from time import perf_counter

        first, items = chunk
        began, out = perf_counter(), []
        try:
            for item in items:
                out.append(worker(item))
        except StopIteration as error:  # generators are on its way, and Python itself would make this of it there
            raise RuntimeError(f"the worker raised StopIteration at item {first + len(out)} of the map") from error
        except Exception as error:
            note = f"pointsman: raised by item {first + len(out)} of the map"
            if noted and note not in getattr(error, "__notes__", ()):  # one that a worker keeps comes again and again
                error.add_note(note)
            raise
        return first, out, began, perf_counter() - began

    return work


# ---------------------------------------------------------------------------------------------- maps within maps


class _Here(threading.local):
    inside = False  # whether this thread runs items of a map right now


HERE = _Here()


def as_worker(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`work` for a thread of this process: maps that its items make run in place."""

    def run(chunk: Any) -> Any:
        before, HERE.inside = HERE.inside, True
        try:
            return work(chunk)
        finally:
            HERE.inside = before

    return run


MARK = "runs_items_of_a_pointsman_map"  # set on the `current_process()` of our worker processes


def why_in_place(*, asked: bool = False) -> str | None:
    """None, or the sentence why a map that is made here must not start workers of its own.

    `asked`: it names a backend; that is refused in a worker of ours only, not in any process that Python started.
    """
    if HERE.inside:
        return "it is made by a worker of another map, which has its share of the cores already"
    multiprocessing = sys.modules.get("multiprocessing")  # in a process that it started it is always loaded
    if multiprocessing is None:
        return None
    marked, parent = getattr(multiprocessing.current_process(), MARK, False), multiprocessing.parent_process()
    if not marked and (parent is None or asked):
        return None
    return f"this is itself a worker, of process {parent.pid if parent else os.getppid()}, and shares the cores"
