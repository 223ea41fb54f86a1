"""Monte Carlo: a worker, a number and a seed in; the same results out, wherever they were computed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from ..executors.errors import RunTimeoutError
from ..executors.mapping import HERE, Method, whole
from ..executors.native import held
from .collect import LEAF, Collector
from .map import check
from .map_info import MapInfo
from .map_pilot import Run
from .map_run import How, Job
from .progress import shown
from .reducers import reducer_of
from .simulations import SEEDS, FailedSimulation, Root, generators, root_of, simulation

R = TypeVar("R")
_log = logging.getLogger("pointsman")
ON_ERROR = ("raise", "collect")
GLOBAL_GENERATOR = (
    "the worker draws from a global generator (numpy.random or random), which threads share: results would differ from "
    "run to run. Draw from numpy.random.default_rng(seed) instead, or keep to processes"
)


@dataclass
class MonteCarloInfo(MapInfo):
    """What a run did, and why; the rest as in `MapInfo`, an item being a simulation.

    Attributes
    ----------
    seed : the seed that was used, drawn where none was given: the same seed gives the same results.
    spawn_key : of the `SeedSequence` that was given; () for plain seeds.
    done : simulations that the result stands for; less than `items` where `stop_when` ended the run.
    resumed : how many of them were done already, by the checkpoint.
    failed : what stands in the results for simulations that raised, where failures were collected.
    """

    seed: int | tuple[int, ...] = 0
    spawn_key: tuple[int, ...] = ()
    done: int = 0
    resumed: int = 0
    failed: list[FailedSimulation] = field(default_factory=list)

    def explain(self) -> str:
        """The same as text for people."""
        key = f", spawn_key={self.spawn_key!r}" if self.spawn_key else ""
        told = [f"   seed {self.seed!r}{key}"]
        if self.done < self.items:
            told.append(f"   ended after {self.done} of {self.items} simulations: stop_when said that they were enough")
        if self.resumed:
            told.append(f"   {self.resumed} were done before, by the checkpoint")
        if self.failed:
            told.append(f"   {len(self.failed)} failed, the first: {self.failed[0].index}, {self.failed[0].error}")
        first, *rest = super().explain().splitlines()
        return "\n".join([first, *told, *rest])

    def _what(self) -> str:
        done = f"{self.done} of " if self.done < self.items else ""
        return f"{done}{self.items} simulations"

    def _count(self) -> int:
        return self.done

    __str__ = explain


@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    on_error: Literal["raise"] = "raise", reduce: None = None, return_info: Literal[False] = False, **options: Any,
) -> list[R]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    on_error: Literal["raise"] = "raise", reduce: None = None, return_info: Literal[True], **options: Any,
) -> tuple[list[R], MonteCarloInfo]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    on_error: Literal["collect"], reduce: None = None, return_info: Literal[False] = False, **options: Any,
) -> list[R | FailedSimulation]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    on_error: Literal["collect"], reduce: None = None, return_info: Literal[True], **options: Any,
) -> tuple[list[R | FailedSimulation], MonteCarloInfo]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., Any], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    on_error: str = "raise", reduce: Any, return_info: Literal[False] = False, **options: Any,
) -> Any: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., Any], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    on_error: str = "raise", reduce: Any, return_info: Literal[True], **options: Any,
) -> tuple[Any, MonteCarloInfo]: ...  # fmt: skip
def run_monte_carlo(
    worker: Callable[..., Any], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    seeds: str = "sequence", native_threads: int = 1, on_error: str = "raise", retries: int = 0,
    reduce: Any = None, stop_when: Callable[[Any, int], bool] | None = None, leaf_size: int = LEAF,
    checkpoint: str | os.PathLike[str] | None = None, checkpoint_key: str | None = None,
    progress: bool | Callable[[int, int], object] = False, timeout: float | None = None,
    n_jobs: int | None = None, prefer: str | None = None, chunk_size: int | None = None, rerun: bool = True,
    return_info: bool = False, **backend_options: Any,
) -> Any:  # fmt: skip
    """``[worker(seed_i, *worker_args, **worker_kwargs) for i in range(n_simulations)]``, wherever it is done first.

    Simulation i has the i-th child of the seed, all bits of it, so results depend on the seed and on nothing else: not
    on the backend, the number of workers, the chunks or what had to be run again. On one type of CPU they are the same
    to the last bit, for BLAS and OpenMP use `native_threads` threads everywhere, in the caller's process too.

    Parameters
    ----------
    worker : called with its seed first: what `numpy.random.default_rng` takes. The result may be of any type. It must
        draw from that seed alone, and not depend on what other simulations did.
    n_simulations : how many.
    worker_args, worker_kwargs : handed to every simulation. Arrays among them, also in tuples, lists and dictionaries,
        arrive read-only.
    seed : a whole number, a sequence of such, or a `numpy.random.SeedSequence`, which is not changed by it. None draws
        one; it stands in the info.
    verbose : log one line about the run, at level INFO.
    backend : "auto"; or a map backend or one of its variants, see `pointsman.map`.
    seeds : "sequence": the worker gets a `SeedSequence`; "int": 64 bits of it as a number, for workers that want one.
    native_threads : BLAS and OpenMP threads of every simulation. A dot product may differ in its last bits between one
        thread and two, so another number is another run.
    on_error : "raise": the first exception ends the run, with a note that names the simulation and how to run it alone.
        "collect": a `FailedSimulation` stands in its place.
    retries : how many times more a simulation that raised is run, with the same seed.
    reduce : what becomes of the results as they come, so that none need be kept: a `pointsman.reducers.Reducer`, "mean"
        (with the variance), "maximum", "minimum", "quantiles", or a dictionary of such. None: a list of all results.
    stop_when : called as ``stop_when(value, n)`` with what the run would give if it ended after n simulations; true
        ends it. Asked after 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, ... leaves, wherever they ran.
    leaf_size : simulations that are folded together, in order, before they are merged with others: part of what makes
        a reduced result what it is to the last bit.
    checkpoint : a file that keeps what is done. The same call goes on from there, also after it was killed, and with
        more simulations.
    checkpoint_key : stands for worker and arguments where these cannot be told from others by their contents.
    progress : True for a bar on standard error, or a function called with (simulations done, n_simulations).
    timeout : seconds for the whole run.
    n_jobs, prefer, chunk_size, rerun, backend_options : see `pointsman.map`.
    return_info : give ``(results, MonteCarloInfo)``.

    Returns
    -------
    list
        One result for each simulation, in order; as many as were needed, with `stop_when`.
    object
        What the reducer gives, with `reduce`.

    Raises
    ------
    Exception
        The worker's own, unchanged, with a note.
    NoCandidateError
        The named backend cannot run, or worker processes died twice.
    RunTimeoutError
        `timeout` is over. What was done until then stands in the checkpoint.
    CheckpointError
        The checkpoint is another run's, or cannot hold such results.
    ValueError, TypeError
        An argument that makes no sense; or threads were asked for, and the worker draws from a global generator.

    Notes
    -----
    The first simulations run in place, where their use of global generators is seen. Seeds: NumPy's `SeedSequence`
    (O'Neill, 2015), spawned as ``SeedSequence(seed).spawn(n)`` does.

    Examples
    --------
    >>> import numpy as np, pointsman as pm
    >>> def pi(seed, n):
    ...     x, y = np.random.default_rng(seed).random((2, n))
    ...     return 4 * float(np.mean(x * x + y * y < 1))
    >>> estimates = pm.run_monte_carlo(pi, 100, (10_000,), seed=1)
    >>> abs(np.mean(estimates) - np.pi) < 0.01
    True
    """
    started = time.perf_counter()
    check(worker, backend, n_jobs, prefer, chunk_size, native_threads)
    _check(n_simulations, seeds, on_error, retries, worker_args, worker_kwargs, leaf_size, timeout)
    until = None if timeout is None else time.monotonic() + timeout
    root, reducer, collect = root_of(seed), reducer_of(reduce), on_error == "collect"
    with ExitStack() as stack:
        kept = None
        if checkpoint is not None:
            from .checkpoint import Checkpoint
            from .fingerprint import fingerprint_of

            mark = fingerprint_of(
                worker, worker_args, worker_kwargs, root, seeds=seeds, native_threads=native_threads,
                key=checkpoint_key, reduce=reducer, on_error=on_error, leaf_size=leaf_size,
            )  # fmt: skip
            free = ("seed", "spawn_key") if seed is None else ()
            kept = stack.enter_context(Checkpoint.open(checkpoint, mark, free=free))
            drawn = kept.fingerprint["seed"]
            root = Root(tuple(drawn) if isinstance(drawn, list) else drawn, tuple(kept.fingerprint["spawn_key"]))
        simulate = simulation(
            worker, root, worker_args, worker_kwargs or {}, seeds=seeds, collect=collect, retries=retries
        )  # fmt: skip
        info = MonteCarloInfo(n_simulations, seed=root.entropy, spawn_key=root.key)
        tell = stack.enter_context(shown(n_simulations)) if progress is True else progress or None
        sink = Collector(
            n_simulations, collect=collect, reducer=reducer, leaf_size=leaf_size, stop_when=stop_when, kept=kept,
            tell=tell, until=until,
        )  # fmt: skip
        stack.callback(sink.close)
        job = Job(
            Run(simulate, sink.items, sink, noted=False), info,
            How(n_jobs, prefer, chunk_size, native_threads, rerun, until, backend_options),
        )  # fmt: skip
        try:
            _run(job, backend, prefer, native_threads)
        except RunTimeoutError:
            raise _too_late(timeout, sink, checkpoint) from None
        results = sink.result()
    info.done, info.resumed, info.failed = sink.done, sink.resumed, sink.failed
    info.seconds = time.perf_counter() - started
    if verbose:
        _log.info("%s", info.explain().partition("\n")[0])
    return (results, info) if return_info else results


def replay(
    worker: Callable[..., R], seed: Any, index: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, *, spawn_key: Sequence[int] = (), seeds: str = "sequence",
    native_threads: int = 1,
) -> R:  # fmt: skip
    """One simulation of a run alone, here, with the very seed that it had there.

    Parameters
    ----------
    worker, seed, worker_args, worker_kwargs, seeds, native_threads : as they were given to `run_monte_carlo`; `seed`
        and `spawn_key` stand in its info and in the note of an exception.
    index : which simulation.

    Returns
    -------
    object
        What it gave, or raises what it raised.
    """
    whole("index", index, least=0)
    _check(1, seeds, "raise", 0, worker_args, worker_kwargs)
    root = root_of(seed)
    if spawn_key:
        root = Root(root.entropy, tuple(spawn_key))
    with held(native_threads):
        result: R = simulation(worker, root, worker_args, worker_kwargs or {}, seeds=seeds)(index)
    return result


def _run(job: Job, backend: str, prefer: str | None, native_threads: int) -> None:
    executor = job.check(backend)
    run, before, inside = job.run, generators(), HERE.inside
    with held(native_threads):
        if run.left:
            HERE.inside = True
            try:
                run.block(1)
            finally:
                HERE.inside = inside
        if generators() != before:
            named = backend.partition("/")[2]
            ways = [m for m in executor.methods if not named or m.name == named] if executor is not None else []
            if prefer == "threads" or (ways and all(map(_on_threads, ways))):
                raise ValueError(f"{backend if prefer is None else f'prefer={prefer!r}'}: {GLOBAL_GENERATOR}")
        job.rule_out(_on_threads, GLOBAL_GENERATOR, lambda: generators() != before)
        job.do(backend)


def _on_threads(method: Method) -> bool:
    """Whether workers share what belongs to the whole process."""
    return method.parallel and not method.ships


def _too_late(timeout: float | None, sink: Collector, checkpoint: object) -> RunTimeoutError:
    kept = f"{checkpoint} keeps them: the same call goes on from there" if checkpoint is not None else (
        "they are lost; with checkpoint=... they would be kept"
    )  # fmt: skip
    return RunTimeoutError(f"timeout={timeout} s is over: {sink.done} of {sink.n} simulations were done, and {kept}")


def _check(
    n_simulations: object, seeds: str, on_error: str, retries: object, args: object, kwargs: object,
    leaf_size: int = LEAF, timeout: float | None = None,
) -> None:  # fmt: skip
    whole("leaf_size", leaf_size)
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout: found {timeout!r}; give seconds above 0, or None")
    whole("n_simulations", n_simulations, least=0)  # type: ignore[arg-type]  # that is what it finds out
    whole("retries", retries, least=0)  # type: ignore[arg-type]
    if n_simulations is None or retries is None:
        raise TypeError("n_simulations and retries: found None; give whole numbers")
    for name, value, allowed in (("seeds", seeds, SEEDS), ("on_error", on_error, ON_ERROR)):
        if value not in allowed:
            raise ValueError(f"{name}: found {value!r}; allowed are {', '.join(allowed)}")
    if not isinstance(args, Sequence) or isinstance(args, str | bytes):
        raise TypeError(f"worker_args: found {type(args).__name__}; give a tuple, (x,) for a single argument")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"worker_kwargs: found {type(kwargs).__name__}; give a dictionary of names")
