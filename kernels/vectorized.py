"""Vectorised Monte Carlo: a worker that computes a whole batch of simulations, on the library where that is fastest."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..executors import registry
from ..executors.deadline import left_s
from ..executors.errors import RunTimeoutError
from ..executors.fallback import Attempt, run_chain
from ..executors.mapping import whole
from ..executors.on_gpu import OPENCL, GpuExecutor, Simulations, takes_batches
from ..executors.opencl import OpenCLWorker
from ..selector import batches
from ..selector.batches import BatchRequest
from ..selector.constraints import only_costs_decide
from ..selector.engine import Choice, Engine
from ..selector.failures import classify, import_outcome
from ..selector.shared import default_selector
from ..telemetry.outcome import Failure, Outcome
from .map_info import MapInfo
from .map_worker import worker_name
from .seed_keys import keys
from .simulations import Root

Take = Callable[[int, Any], bool]
PILOT, MORE = 256, 8
"""Simulations of the first batch on NumPy, and how many times more of each next one."""
WEIGH_S = 0.1
"""Seconds that a batch takes at most in which memory is watched."""
LONG_S = 0.01
"""A batch of the pilot that takes this long tells what a simulation costs."""
SHORT_S = 0.05
"""A rest that takes less stays on NumPy: importing another library takes longer, and starting a GPU."""
NOT_VECTORISED = (
    "a vectorised worker has a parameter xp, the array namespace: worker(keys, ..., xp) gets the keys of a whole batch "
    "of simulations and gives an array whose first axis is the batch. A worker of single simulations runs on "
    "sequential, joblib and the other map backends"
)


def run_vectorized(
    worker: Callable[..., Any], n: int, args: Sequence[Any], kwargs: Mapping[str, Any], root: Root, take: Take, *,
    first: int = 0, backend: str = "auto", batch_size: int | None = None, pure: bool = False,
    until: float | None = None, info: MapInfo | None = None,
) -> MapInfo:  # fmt: skip
    """Simulate in batches, and hand each batch's results on as soon as they are there.

    Simulation i has the i-th child of the seed for its key, whatever the batch and the library. So results depend on
    the seed, except that libraries differ in the last bits of a logarithm or a sum, and that a library may compute a
    row in another way in a batch of another shape.

    Parameters
    ----------
    worker : ``worker(keys, *args, xp=namespace, **kwargs)`` -> an array whose first axis is the batch, or a tuple, list
        or dictionary of such. `keys` has shape (batch, 4); `pointsman.draws` makes random numbers of it. Or an
        `OpenCLWorker`.
    n, args, kwargs, root : as of `run_monte_carlo`.
    take : called as ``take(first, results)`` for each batch in order, with NumPy arrays of its own; says whether that
        is enough.
    first : the simulation to begin with.
    backend : "auto" or "gpu": the fastest; "gpu/torch": one library, on a GPU where there is one; "gpu/torch@cuda:0" or
        "gpu/torch@cpu": there.
    batch_size : simulations at a time; None: as memory allows. Halved where it runs out.
    pure : the worker depends on its arguments alone: JAX may compile it as a whole.
    until : a time by `time.monotonic`; a batch that has begun is brought to its end.
    info : filled in and returned; None makes one.

    Raises
    ------
    TypeError : the worker is not vectorised, or its result has not the batch for its first axis.
    ValueError : a backend that runs no vectorised worker.
    NoCandidateError : nothing that may run it can.
    RunTimeoutError : `until` has passed.
    Exception : the worker's own, unchanged, with a note that names the batch.
    """
    whole("batch_size", batch_size)
    if not takes_batches(worker):
        raise TypeError(f"backend={backend!r}, worker {worker!r}: {NOT_VECTORISED}")
    info = info or MapInfo(n)
    batch = _Batches(worker, n, args, kwargs, root, take, first, backend, batch_size, pure, until, info)
    started = time.perf_counter()
    if first < n:
        batch.run()
    info.seconds = time.perf_counter() - started
    return info


def run_alone(
    worker: Callable[..., Any], index: int, args: Sequence[Any], kwargs: Mapping[str, Any], root: Root, backend: str
) -> Any:
    """The result of one simulation, in a batch of its own; without a library's name on NumPy, or in OpenCL."""
    if not takes_batches(worker):
        raise TypeError(f"worker {worker!r}: {NOT_VECTORISED}")
    is_opencl = isinstance(worker, OpenCLWorker)
    batches.required(backend, is_opencl)
    library, _, device = backend.partition("/")[2].partition("@")
    library = library or (OPENCL if is_opencl else "numpy")
    executor = registry.ensure(batches.BACKEND)[0]
    assert isinstance(executor, GpuExecutor)
    if library != OPENCL:
        device = device or registry.ensure(library)[0].capabilities.home
    job = Simulations(worker, functools.partial(keys, root), index + 1, tuple(args), dict(kwargs))
    runs = executor.run_batches(job, method=library, device=device or "cpu", first=index, batch_size=1)
    [(_, results, _)] = runs
    return rows(results)[0]


def check_batches(options: Mapping[str, Any], refused: Mapping[str, tuple[Any, Any]]) -> bool:
    """Raise for what a run of batches has no use for: (found, what it must be left at) by name; whether it is pure."""
    for name, (found, default) in refused.items():
        if found != default:
            raise ValueError(
                f"{name}={found!r} has no meaning for a vectorised worker, which computes whole batches; leave it at "
                f"{default!r}"
            )
    for name in options:
        if name != "pure":
            raise TypeError(f"gpu has no option {name!r}; valid are: chunk_size, pure")
    return bool(options.get("pure"))


def is_vectorized(worker: Any, backend: str) -> bool:
    """Whether a run is one of batches though nobody says so: by the backend's name, or by the worker's class."""
    return isinstance(worker, OpenCLWorker) or str(backend).partition("/")[0] == batches.BACKEND


def rows(results: Any) -> list[Any]:
    """One result for each simulation of a batch: Python numbers of an array of numbers, else arrays, in the same form.

    A tuple, list or dictionary of arrays becomes a list of tuples, lists or dictionaries.
    """
    if isinstance(results, Mapping):
        return [dict(zip(results, row, strict=True)) for row in zip(*map(rows, results.values()), strict=True)]
    if isinstance(results, tuple | list):
        make = getattr(results, "_make", type(results))
        return [make(row) for row in zip(*map(rows, results), strict=True)]
    found: list[Any] = results.tolist() if results.ndim == 1 else list(results)
    return found


class _Batches:
    """One call of `run_vectorized`; used once."""

    def __init__(
        self, worker: Callable[..., Any], n: int, args: Sequence[Any], kwargs: Mapping[str, Any], root: Root,
        take: Take, first: int, backend: str, batch_size: int | None, pure: bool, until: float | None, info: MapInfo,
    ) -> None:  # fmt: skip
        self._opencl = isinstance(worker, OpenCLWorker)
        self._require = batches.required(backend, self._opencl)
        self._job = Simulations(worker, functools.partial(keys, root), n, tuple(args), dict(kwargs), pure)
        self._take = take
        self._batch_size = batch_size
        self._until = until
        self._info = info
        self._name = f"{batches.FAMILY}:{worker_name(worker)}"
        self._done = self._first = first
        self._enough = False
        self._bytes_each = 0
        self._item_s = 0.0
        self._rule = ""
        self._tried: set[str] = set()
        executor = registry.ensure(batches.BACKEND)[0]
        assert isinstance(executor, GpuExecutor)
        self._executor = executor

    def run(self) -> None:
        """Pilot, decide, run; again after a trial."""
        info = self._info
        if isinstance(self._job.worker, OpenCLWorker):
            self._bytes_each = self._job.worker.bytes_each
        else:
            if self._require in (None, "numpy", "gpu/numpy") and only_costs_decide("array", "numpy"):
                over = self._pilot()
                info.chunks = 0  # those of the pilot are told as what ran in place
                if over:
                    info.variant, info.reason, info.in_place = (
                        "gpu/numpy",
                        "the run is too short for more",
                        self._done - self._first,
                    )
                    return
            else:
                self._weigh()
        info.in_place, info.n_jobs = self._done - self._first, 1
        while self._left:
            choice = self._choose()
            trial = self._trial(choice)
            self._rule = "explore" if trial else choice.decision.rule
            info.reason = "tried, to find out" if trial else choice.decision.reason
            names = [trial] if trial else []
            self._attempt_all(choice, names + [name for name in choice.decision.chain if name not in names], trial)

    # ------------------------------------------------------------------------------------------ the pilot

    def _pilot(self) -> bool:
        """Run batches on NumPy until it is known what a simulation costs; whether nothing is left to do then."""
        job = self._job
        size = min(self._batch_size or 1, PILOT)
        took = self._simulate("numpy", "cpu", min(self._done + size, job.count), size)
        size = min(self._batch_size, PILOT) if self._batch_size else self._bearable(took)
        if self._left:
            before = self._done

            def some() -> float:
                return self._simulate("numpy", "cpu", min(self._done + size, job.count), size)

            _, nbytes = self._executor.weigh(some)
            self._bytes_each = -(-nbytes // (self._done - before))
        most = self._batch_size or self._executor.batch_size(self._bytes_each)
        while self._left:
            size = max(1, min(most, MORE * size))
            before = self._done
            took = self._simulate("numpy", "cpu", min(before + size, job.count), size)
            self._item_s = took / (self._done - before)
            if (took > LONG_S or size == most) and self._left_s >= SHORT_S:
                return False
        return True

    @staticmethod
    def _bearable(first_s: float) -> int:
        """Simulations of a batch that is to be weighed, where one alone took so long."""
        return max(1, min(PILOT, int(WEIGH_S / max(first_s, 1e-9))))

    def _weigh(self) -> None:
        """What a simulation takes of memory and time on NumPy, where the results must come from elsewhere."""
        count = 1

        def once() -> list[Any]:
            left_s(self._until)
            return list(self._executor.run_batches(replace(self._job, count=count), batch_size=count))

        try:
            once()
            took = self._timed(once)
            count = min(self._bearable(took), self._job.count)
            _, nbytes = self._executor.weigh(once)
            if count > 1:
                took = self._timed(once)
        except RunTimeoutError:
            raise
        except Exception:  # it runs on that library only; then memory is guessed at, and nothing is learned
            return
        self._bytes_each = -(-nbytes // count)
        self._item_s = took / count

    @staticmethod
    def _timed(call: Callable[[], object]) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    @property
    def _left(self) -> int:
        return 0 if self._enough else self._job.count - self._done

    @property
    def _left_s(self) -> float:
        return self._left * self._item_s

    # ------------------------------------------------------------------------------------------ choosing

    def _choose(self) -> Choice:
        engine, left = default_selector()._engine, self._left
        request = batches.request(self._name, left, self._item_s, opencl=self._opencl, require=self._require)
        choice = engine.choose(request)
        engine.adopt(choice)
        self._info.decision, self._info.item_s = choice.decision, self._item_s
        return choice

    def _trial(self, choice: Choice) -> str | None:
        """A variant to try on one batch; each at most once a run."""
        engine = default_selector()._engine
        if not choice.tickets or self._require is not None or engine.settings().fail_fast:
            return None
        found = engine.take_trial(choice)
        if found is None or found in self._tried:
            return None
        self._tried.add(found)
        return found

    # ------------------------------------------------------------------------------------------ running

    def _simulate(self, method: str, device: str, stop: int, size: int | None) -> float:
        """Run batches up to `stop`, hand them on, and give the seconds that they took."""
        spent = 0.0
        found = self._executor.run_batches(
            self._job, method=method, device=device, first=self._done, stop=stop, batch_size=size,
            bytes_each=self._bytes_each, until=self._until,
        )  # fmt: skip
        for first, results, seconds in found:
            spent += seconds
            count = _length(results)
            self._done = first + count
            if self._take(first, results):
                self._enough = True
                break
            self._info.chunks += 1
            self._info.chunk_size = max(self._info.chunk_size, count)
        return spent

    def _attempt_all(self, choice: Choice, names: Sequence[str], trial: str | None) -> None:
        """What is left, on the first of `names` that can; a trial is one batch."""

        def attempt(name: str) -> Attempt:
            call = functools.partial(self._attempt, choice, name, one=name == trial)
            method = batches.library_of(choice.variants[name])
            known = self._executor.failure_of if method == OPENCL else lambda e, m: classify(m, e)
            return Attempt(name, call, functools.partial(_swapped, known, method))

        fast = default_selector()._engine.settings().fail_fast
        run_chain([attempt(name) for name in names], on_outcome=functools.partial(self._told, choice), fail_fast=fast)

    def _attempt(self, choice: Choice, name: str, one: bool) -> None:
        engine, variant = default_selector()._engine, choice.variants[name]
        method, before = batches.library_of(variant), self._done
        if method != OPENCL:
            _, import_s = registry.ensure(method)
            if import_s:
                self._keep(engine, import_outcome(method, import_s, engine.history.now()))
        self._info.variant = name
        size = self._batch_size or self._executor.batch_size(self._bytes_each, method, variant.device)
        stop = before + size if one else self._job.count
        spent = self._simulate(method, variant.device, min(stop, self._job.count), size)
        if not self._item_s:  # nothing to compare with
            return
        assert isinstance(choice.request, BatchRequest)
        site = batches.part(choice.request, self._done - before).site(variant)
        rule = "fallback" if self._info.failures else self._rule
        self._keep(engine, Outcome(site, engine.history.now(), spent, rule=rule))
        engine.succeeded(choice.request, variant)

    def _told(self, choice: Choice, attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
        if failure is None or failure is Failure.USER_ERROR:
            return
        engine = default_selector()._engine
        self._info.failures.append((attempt.name, failure, message))
        engine.failed(choice.request, choice.variants[attempt.name], failure, message)
        site = choice.sites[attempt.name]
        self._keep(
            engine,
            Outcome(site, engine.history.now(), seconds, failure=failure, message=message[:500], rule=self._rule),
        )

    def _keep(self, engine: Engine, outcome: Outcome) -> None:
        if engine.learning and engine.settings().mode != "off":
            engine.history.record(outcome)


def _length(results: Any) -> int:
    """Simulations of a batch."""
    while not isinstance(results, np.ndarray):
        results = next(iter(results.values() if isinstance(results, Mapping) else results), None)
        if results is None:
            raise TypeError("the worker gave an empty tuple, list or dictionary; give at least one array in it")
    return len(results)


def _swapped(known: Callable[[BaseException, str], Failure | None], method: str, error: BaseException) -> Any:
    return known(error, method)
