"""Batches: a vectorised worker on many keys at a time, on any array library or OpenCL; on the CPU without a GPU.

A class of its own. Nothing that maps plain workers knows it, for they have no use here. What a batch is drawn from, and
how keys become numbers, is decided above; here are devices, memory and the way in and out.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..telemetry import memory
from ..telemetry.outcome import Failure
from . import opencl, registry
from .base import Capabilities, Executor, Variant
from .conversion import kind_of, map_leaves
from .deadline import left_s
from .errors import BackendUnavailableError
from .opencl import OpenCLWorker

OPENCL = "opencl"
HOST_BYTES = 32 << 20
"""What a batch may take on the host: little enough for memory to stay flat, and more than enough (0.1 ms of overhead
are 1 % of it) to keep an array library busy."""
DEVICE_BYTES, DEVICE_SHARE = 1 << 30, 0.25
"""On a GPU: so much, and at most this share of what is free there."""
MOST = 1 << 20
"""Simulations of a batch, however small they are."""
GUESS = 1 << 14
"""Bytes of a simulation of which nothing is known."""

Keys = Callable[[int, int], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Simulations:
    """What there is to simulate.

    Attributes
    ----------
    worker : called as ``worker(keys, *args, xp=namespace, **kwargs)`` with keys of shape (batch, 4), int64, on the
        library and device of the batch; gives an array whose first axis is the batch, or a tuple, list or dictionary of
        such.
    keys : gives those of simulations ``first`` to ``first + count - 1``, as a NumPy array.
    count : how many there are.
    args, kwargs : NumPy arrays among them, also in tuples, lists and dictionaries, are converted once.
    pure : the worker depends on its arguments alone, and may be compiled as a whole (by JAX).
    """

    worker: Callable[..., Any]
    keys: Keys
    count: int
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    pure: bool = False


class GpuExecutor(Executor):
    """Runs vectorised workers. Its methods are the array libraries, and OpenCL for an `OpenCLWorker`."""

    name = "gpu"
    capabilities = Capabilities(dtypes=frozenset(), array=False, devices=("cpu", "cuda"), deterministic=False)

    def __init__(self) -> None:
        self._memory = memory.GpuMemory()

    def devices(self) -> tuple[str, ...]:
        """The host, and the GPUs that some library can use."""
        found = {device: None for method in self.libraries() for device in _usable(method)}
        return tuple({"cpu": None} | found)

    def version(self) -> str:
        """NumPy's: the library that is always there."""
        return np.__version__

    def probe(self) -> None:
        """Sum the words of three keys, in batches of two."""
        job = Simulations(lambda keys, xp: xp.sum(keys, axis=1), lambda first, n: np.full((n, 4), 1) * first, 3)
        found = [float(x) for _, results, _ in self.run_batches(job, batch_size=2) for x in results]
        if found != [0.0, 0.0, 8.0]:
            raise BackendUnavailableError(f"the sums of three keys came out as {found}")

    def refuses(self, dtype: str, resident: bool = False) -> str | None:  # noqa: ARG002 (a kernel in C takes anything)
        """None: what is computed is the worker's business."""
        return None

    def libraries(self) -> list[str]:
        """The array libraries that run functions of the array API, in canonical order; NumPy first."""
        return [name for name, _ in registry.array_api_backends()]

    def run_batches(
        self, job: Simulations, *, method: str = "numpy", device: str = "cpu", first: int = 0,
        stop: int | None = None, batch_size: int | None = None, bytes_each: int = 0, until: float | None = None,
    ) -> Iterator[tuple[int, Any, float]]:  # fmt: skip
        """Give (place of the first, results, seconds) of batch after batch, in order.

        Parameters
        ----------
        method, device : an array library, or "opencl"; and where.
        first, stop : which simulations; `stop` None: to the last.
        batch_size : simulations at a time; None: as many as memory allows. A batch that runs out of memory is halved,
            down to a single simulation, and later ones keep that size.
        bytes_each : of a simulation while it runs, as `weigh` tells; 0: not known.
        until : a time by `time.monotonic`.

        Yields
        ------
        (int, object, float)
            Results are writable NumPy arrays of their own, in the tuple, list or dictionary that the worker gave.

        Raises
        ------
        TypeError : the worker gave something else than arrays with the batch for their first axis.
        MemoryError, or the library's own : out of memory with a single simulation.
        BackendUnavailableError : the library or device cannot be used.
        RunTimeoutError : `until` has passed before another batch.
        Exception : the worker's own, with a note that names the simulations.
        """
        run = _runner(job, method, device)
        last = job.count if stop is None else min(stop, job.count)
        size = batch_size or self.batch_size(bytes_each, method, device)
        halved = False
        compiled = 0  # simulations that the library has compiled a batch for, where it does that for each shape
        while first < last:
            left_s(until)
            count = min(size, last - first)
            asked = max(count, compiled if compiled == size else 0)  # filled up with simulations that nobody asked for
            began = time.perf_counter()
            try:
                results = run(first, asked)
            except Exception as error:
                if asked == 1 or self.failure_of(error, method) is not Failure.OUT_OF_MEMORY:
                    note = f"pointsman: raised by the batch of simulations {first} to {first + count - 1}"
                    if isinstance(error, StopIteration):  # it would end this generator
                        ended = RuntimeError("the worker raised StopIteration")
                        ended.add_note(note)
                        raise ended from error
                    error.add_note(note)
                    raise
                traceback.clear_frames(error.__traceback__)  # they hold the arrays of the batch
                size, results = asked // 2, None
            if results is None:
                _give_back(method, everything=not halved)
                halved = True
                continue
            compiled = asked if _per_shape(method) else 0
            if asked > count:
                results = map_leaves(functools.partial(_shortened, count), results)
            yield first, results, time.perf_counter() - began
            first += count

    def batch_size(self, bytes_each: int, method: str = "numpy", device: str = "cpu") -> int:
        """Simulations of `bytes_each` (0: not known) that make a batch there."""
        each = max(1, bytes_each or GUESS)
        return max(1, min(MOST, self._room(method, device) // each))

    def weigh(self, call: Callable[[], Any]) -> tuple[Any, int]:
        """What ``call()`` gives, and the bytes that NumPy took meanwhile at the most, the result included.

        Under `tracemalloc`, which NumPy reports to. Where the caller traces already, his peak is not reset, and what
        he held before counts.
        """
        traced = tracemalloc.is_tracing()
        if not traced:
            tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            found = call()
            return found, max(1, tracemalloc.get_traced_memory()[1] - before)
        finally:
            if not traced:
                tracemalloc.stop()

    def failure_of(self, error: BaseException, method: str) -> Failure | None:
        """The failure that an exception stands for in a batch on `method`; None: the worker's own."""
        if method == OPENCL:
            return opencl.classify(error) or self.classify(error)
        return registry.executor(method).classify(error)

    def _room(self, method: str, device: str) -> int:
        if method == OPENCL:
            return opencl.room_bytes(HOST_BYTES, DEVICE_BYTES)
        if device == "cpu":
            return min(HOST_BYTES, memory.host_budget_bytes() // 2)
        try:
            reusable = registry.executor(method).reusable_bytes(device)
            return min(DEVICE_BYTES, int(DEVICE_SHARE * self._memory.budget_bytes(device, reusable)))
        except LookupError:  # nothing tells what is free: what is too much is halved
            return DEVICE_BYTES


# ---------------------------------------------------------------------------------------------- one batch


def _give_back(method: str, *, everything: bool) -> None:
    """Free what a batch that ran out of memory left; arrays in reference cycles, which are slow to find, once a run."""
    if everything:
        gc.collect()
    if method != OPENCL:
        registry.executor(method).free_caches()


def takes_batches(worker: Any) -> bool:
    """Whether `worker` is vectorised: an `OpenCLWorker`, or a function with a parameter `xp`."""
    if isinstance(worker, OpenCLWorker):
        return True
    try:
        return "xp" in inspect.signature(worker).parameters
    except (TypeError, ValueError):  # of a function in C nothing can be told
        return False


def _usable(method: str) -> tuple[str, ...]:
    return registry.executor(method).devices() if registry.available(method) is None else ()


def _per_shape(method: str) -> bool:
    return method != OPENCL and registry.executor(method).capabilities.compiles == "shape"


def _runner(job: Simulations, method: str, device: str) -> Callable[[int, int], Any]:
    """The function of (first, count) that simulates a batch and brings the results to the host."""
    if method == OPENCL or isinstance(job.worker, OpenCLWorker):
        return _on_opencl(job, method)
    library, _ = registry.ensure(method)
    xp, scope = library.namespace(), library.scope
    arrays: list[Any] = []
    with scope() or nullcontext():
        args, kwargs = map_leaves(
            lambda x: _Place(arrays, library.convert_in(_frozen(x), device)) if isinstance(x, np.ndarray) else x,
            (tuple(job.args), dict(job.kwargs)),
        )

    def simulate(keys: Any, arrays: list[Any]) -> Any:
        given, named = map_leaves(lambda x: arrays[x.index] if isinstance(x, _Place) else x, (args, kwargs))
        return job.worker(keys, *given, xp=xp, **named)

    function = library.compile(simulate) if job.pure else simulate
    function = library.prepare(function, Variant(f"gpu/{method}", method, lambda: simulate, device=device))

    def run(first: int, count: int) -> Any:
        with scope() or nullcontext(), _default(method, device):
            found = function(library.convert_in(job.keys(first, count), device), arrays)
            return map_leaves(lambda x: _to_host(library, x, count), found)

    return run


def _shortened(count: int, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x[:count].copy()


def _frozen(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A view that cannot be written to: libraries that would share its memory make a copy."""
    view = x.view()
    view.setflags(write=False)
    return view


class _Place:
    """Where an array argument stands in the list of them: compiled functions take arrays, and hold the rest."""

    __slots__ = ("index",)

    def __init__(self, arrays: list[Any], array: Any) -> None:
        self.index = len(arrays)
        arrays.append(array)


def _on_opencl(job: Simulations, method: str) -> Callable[[int, int], Any]:
    if method != OPENCL or not isinstance(job.worker, OpenCLWorker):
        kind = type(job.worker).__name__
        raise TypeError(
            f"gpu/{method}: found a worker of type {kind}; gpu/opencl runs an OpenCLWorker, and nothing else"
        )
    if job.kwargs:
        raise TypeError(f"gpu/opencl: found {next(iter(job.kwargs))!r}=...; a kernel has no names, give worker_args")
    opencl.import_opencl()
    return lambda first, count: job.worker(job.keys(first, count), *job.args)


def _default(method: str, device: str) -> AbstractContextManager[Any]:
    """Where arrays go that a worker makes without saying where: to the keys."""
    if method == "torch" and device != "cpu":
        place: AbstractContextManager[Any] = sys.modules["torch"].device(device)
        return place
    return nullcontext()


def _to_host(library: Executor, x: Any, count: int) -> np.ndarray[Any, Any]:
    kind = kind_of(x)
    array = library.convert_out(x) if kind == library.kind else x
    if kind not in (library.kind, "numpy") or array.ndim == 0 or len(array) != count:
        found = f"an array of shape {tuple(array.shape)}" if hasattr(array, "shape") else type(x).__name__
        raise TypeError(
            f"the worker gave {found} for a batch of {count} simulations; give an array whose first axis is the "
            "batch, or a tuple, list or dictionary of such"
        )
    return array if array.base is None or array.flags.owndata else array.copy()


EXECUTOR = GpuExecutor
