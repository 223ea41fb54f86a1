"""Monte Carlo: a worker, a number and a seed in; the same results out, wherever they were computed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

from ..executors.mapping import HERE, whole
from ..executors.native import held
from .map import check
from .map_info import MapInfo
from .map_pilot import Run
from .map_run import Job
from .simulations import SEEDS, FailedSimulation, Root, generators, root_of, simulation
from .vectorized import in_batches, is_vectorized

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
    failed : what stands in the results for simulations that raised, where failures were collected.
    """

    seed: int | tuple[int, ...] = 0
    spawn_key: tuple[int, ...] = ()
    failed: list[FailedSimulation] = field(default_factory=list)

    def explain(self) -> str:
        """The same as text for people."""
        key = f", spawn_key={self.spawn_key!r}" if self.spawn_key else ""
        told = [f"   seed {self.seed!r}{key}"]
        if self.failed:
            told.append(f"   {len(self.failed)} failed, the first: {self.failed[0].index}, {self.failed[0].error}")
        first, *rest = super().explain().splitlines()
        return "\n".join([first, *told, *rest])

    __str__ = explain


@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    seeds: str = "sequence", native_threads: int = 1, on_error: Literal["raise"] = "raise", retries: int = 0,
    n_jobs: int | None = None, prefer: str | None = None, chunk_size: int | None = None, rerun: bool = True,
    vectorized: bool = False, return_info: Literal[False] = False, **backend_options: Any,
) -> list[R]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    seeds: str = "sequence", native_threads: int = 1, on_error: Literal["raise"] = "raise", retries: int = 0,
    n_jobs: int | None = None, prefer: str | None = None, chunk_size: int | None = None, rerun: bool = True,
    vectorized: bool = False, return_info: Literal[True], **backend_options: Any,
) -> tuple[list[R], MonteCarloInfo]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    seeds: str = "sequence", native_threads: int = 1, on_error: Literal["collect"], retries: int = 0,
    n_jobs: int | None = None, prefer: str | None = None, chunk_size: int | None = None, rerun: bool = True,
    vectorized: bool = False, return_info: Literal[False] = False, **backend_options: Any,
) -> list[R | FailedSimulation]: ...  # fmt: skip
@overload
def run_monte_carlo(
    worker: Callable[..., R], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    seeds: str = "sequence", native_threads: int = 1, on_error: Literal["collect"], retries: int = 0,
    n_jobs: int | None = None, prefer: str | None = None, chunk_size: int | None = None, rerun: bool = True,
    vectorized: bool = False, return_info: Literal[True], **backend_options: Any,
) -> tuple[list[R | FailedSimulation], MonteCarloInfo]: ...  # fmt: skip
def run_monte_carlo(
    worker: Callable[..., Any], n_simulations: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, seed: Any = None, verbose: bool = False, backend: str = "auto", *,
    seeds: str = "sequence", native_threads: int = 1, on_error: str = "raise", retries: int = 0,
    n_jobs: int | None = None, prefer: str | None = None, chunk_size: int | None = None, rerun: bool = True,
    vectorized: bool = False, return_info: bool = False, **backend_options: Any,
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
    backend : "auto"; or a map backend or one of its variants, see `pointsman.map`; or "gpu", which runs vectorised
        workers, or one library of it: "gpu/torch", "gpu/torch@cuda:0".
    seeds : "sequence": the worker gets a `SeedSequence`; "int": 64 bits of it as a number, for workers that want one.
    native_threads : BLAS and OpenMP threads of every simulation. A dot product may differ in its last bits between one
        thread and two, so another number is another run.
    on_error : "raise": the first exception ends the run, with a note that names the simulation and how to run it alone.
        "collect": a `FailedSimulation` stands in its place.
    retries : how many times more a simulation that raised is run, with the same seed.
    n_jobs, prefer, chunk_size, rerun, backend_options : see `pointsman.map`.
    vectorized : the worker is one of batches, ``worker(keys, *worker_args, xp=namespace, **worker_kwargs)``: it gets
        the keys of many simulations, shape (batch, 4), from which `pointsman.draws` makes numbers, and gives an array
        whose first axis is the batch, or a tuple, list or dictionary of such. It runs on the array library where that
        is fastest, on a GPU where there is one. So does an `OpenCLWorker`. `chunk_size` is then the batch's;
        ``pure=True`` lets JAX compile the worker as a whole. The numbers are others than those of `default_rng`, and
        libraries may differ in the last bits.
    return_info : give ``(results, MonteCarloInfo)``.

    Returns
    -------
    list
        One result for each simulation, in order.

    Raises
    ------
    Exception
        The worker's own, unchanged, with a note.
    NoCandidateError
        The named backend cannot run, or worker processes died twice.
    ValueError, TypeError
        An argument that makes no sense; or threads were asked for, and the worker draws from a global generator.

    Notes
    -----
    The first simulation runs in place, where its use of global generators is seen. Seeds: NumPy's `SeedSequence`
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
    _check(n_simulations, seeds, on_error, retries, worker_args, worker_kwargs)
    root = root_of(seed)
    if vectorized or is_vectorized(worker, backend):
        refused = {"seeds": (seeds, "sequence"), "native_threads": (native_threads, 1), "on_error": (on_error, "raise"),
                   "retries": (retries, 0), "n_jobs": (n_jobs, None), "prefer": (prefer, None)}  # fmt: skip
        info = MonteCarloInfo(n_simulations, seed=root.entropy, spawn_key=root.key)
        results = in_batches(
            worker, n_simulations, worker_args, worker_kwargs or {}, root, info, backend=backend,
            batch_size=chunk_size, options=backend_options, refused=refused,
        )  # fmt: skip
        return (results, info) if return_info else results
    collect = on_error == "collect"
    simulate = simulation(worker, root, worker_args, worker_kwargs or {}, seeds=seeds, collect=collect, retries=retries)
    info = MonteCarloInfo(n_simulations, seed=root.entropy, spawn_key=root.key)
    run = Run(simulate, range(n_simulations))
    job = Job(run, info, n_jobs, prefer, chunk_size, native_threads, rerun, backend_options)
    job.check(backend)
    with held(native_threads):
        if _draws_globally(run):
            if prefer == "threads" or backend.endswith("/threads"):
                raise ValueError(f"{backend if prefer is None else f'prefer={prefer!r}'}: {GLOBAL_GENERATOR}")
            job.rule_out(lambda method: method.parallel and not method.ships, GLOBAL_GENERATOR)
        results = job.automatic() if backend == "auto" else job.named(backend)
    if collect:
        results = [found if good else FailedSimulation(*found) for good, found in results]
        info.failed = [result for result in results if type(result) is FailedSimulation]
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


def _draws_globally(run: Run) -> bool:
    """Run the first simulation, and find out whether it drew from a generator that belongs to the whole process."""
    if not run.items:
        return False
    before, inside = generators(), HERE.inside
    HERE.inside = True
    try:
        run.block(1)
    finally:
        HERE.inside = inside
    return generators() != before


def _check(n_simulations: object, seeds: str, on_error: str, retries: object, args: object, kwargs: object) -> None:
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
