"""Monte Carlo: a worker, a number and a seed in; the same results out, wherever they were computed."""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from typing import Any, Literal, TypeVar, overload

from ..executors.errors import RunTimeoutError, raised_by_worker
from ..executors.mapping import map_methods, plain, whole
from ..executors.native import held
from ..selector.operations import meant
from .collect import LEAF
from .map import check
from .map_run import How
from .monte_carlo_info import MonteCarloInfo
from .monte_carlo_run import Asked, opened, root_in, simulate
from .progress import shown
from .reducers import reducer_of
from .simulations import SEEDS, FailedSimulation, Root, root_of, simulation
from .vectorized import is_vectorized, run_alone

R = TypeVar("R")
_log = logging.getLogger("pointsman")
ON_ERROR = ("raise", "collect")
ENDLESS_S = 1e8
"""A time of three years is none: engines take no longer ones."""


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
    reduce : what becomes of the results as they come, so that none need be kept: a `pointsman.reducers.Reducer`, "mean"
        (with the variance), "maximum", "minimum", "quantiles", or a dictionary of such. None: a list of all results.
    stop_when : called as ``stop_when(value, n)`` with what the run would give if it ended after n simulations; true
        ends it. Asked after 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, ... leaves, wherever they ran. What workers that were
        further ahead gave, or raised, is dropped.
    leaf_size : simulations that are folded together, in order, before they are merged with others: part of what makes
        a reduced result what it is to the last bit.
    checkpoint : a file that keeps what is done. The same call goes on from there, also after it was killed, and with
        more simulations.
    checkpoint_key : stands for worker and arguments where these cannot be told from others by their contents.
    progress : True for a bar on standard error, or a function called with (simulations done, n_simulations).
    timeout : seconds for the whole run.
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
    n_simulations, n_jobs, chunk_size, native_threads, retries, leaf_size = map(
        plain, (n_simulations, n_jobs, chunk_size, native_threads, retries, leaf_size)
    )
    check(worker, backend, n_jobs, prefer, chunk_size, native_threads)
    _check(n_simulations, seeds, on_error, retries, worker_args, worker_kwargs)
    _check_end(leaf_size, timeout, stop_when, progress)
    check_options(backend_options)
    until = None if timeout is None or timeout > ENDLESS_S else time.monotonic() + timeout
    how = How(n_jobs, prefer, chunk_size, native_threads, rerun, until, backend_options)
    asked = Asked(
        worker, n_simulations, tuple(worker_args), dict(worker_kwargs or {}), str(backend), seeds, on_error, retries,
        reducer_of(reduce), stop_when, leaf_size, vectorized or is_vectorized(worker, backend), how,
    )  # fmt: skip
    with ExitStack() as stack:
        root, kept = root_of(seed), None
        if checkpoint is not None:
            kept = stack.enter_context(opened(asked, root, checkpoint, checkpoint_key, seed is None))
            root = root_in(kept)
        tell = stack.enter_context(shown(n_simulations)) if progress is True else progress or None
        try:
            results, info = simulate(asked, root, kept, tell)
        except RunTimeoutError as late:
            if raised_by_worker(late):
                raise
            raise RunTimeoutError(
                f"timeout={timeout} s is over: {late}; "
                + (f"{checkpoint} keeps them, and the same call goes on from there" if checkpoint is not None else
                   "they are lost, but would be kept with checkpoint=...")
            ) from None  # fmt: skip
    info.seconds = time.perf_counter() - started
    if verbose:
        _log.info("%s", info.explain().partition("\n")[0])
    return (results, info) if return_info else results


def replay(
    worker: Callable[..., R], seed: Any, index: int, worker_args: Sequence[Any] = (),
    worker_kwargs: Mapping[str, Any] | None = None, *, spawn_key: Sequence[int] = (), seeds: str = "sequence",
    native_threads: int = 1, vectorized: bool = False, backend: str = "auto",
) -> R:  # fmt: skip
    """One simulation of a run alone, here, with the very seed that it had there.

    Parameters
    ----------
    worker, seed, worker_args, worker_kwargs, seeds, native_threads, vectorized : as they were given to
        `run_monte_carlo`; `seed` and `spawn_key` stand in its info and in the note of an exception.
    index : which simulation.
    backend : where a vectorised worker computes a batch of this one simulation: "auto", NumPy; "gpu/torch",
        "gpu/torch@cuda:0", as of a run. Any other runs here, whatever is given.

    Returns
    -------
    object
        What it gave, or raises what it raised.
    """
    index = plain(index)
    whole("index", index, least=0, none=False)
    whole("native_threads", native_threads, none=False)
    if seed is None:
        raise TypeError("seed: found None; give that of the run, which stands in its info and in an exception's note")
    _check(1, seeds, "raise", 0, worker_args, worker_kwargs)
    root = root_of(seed)
    if spawn_key:
        root = Root(root.entropy, tuple(spawn_key))
    if vectorized or is_vectorized(worker, backend):
        alone: R = run_alone(worker, index, worker_args, worker_kwargs or {}, root, backend)
        return alone
    with held(native_threads):
        result: R = simulation(worker, root, worker_args, worker_kwargs or {}, seeds=seeds)(index)
    return result


def _check_end(leaf_size: int, timeout: float | None, stop_when: object, progress: object) -> None:
    whole("leaf_size", leaf_size, none=False)
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, Real)):
        raise TypeError(f"timeout: found {timeout!r}; give seconds, or None")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout: found {timeout!r}; give seconds above 0, or None")
    if stop_when is not None and not callable(stop_when):
        raise TypeError(f"stop_when: found {stop_when!r}; give a function of (value, n) that says whether to end")
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress: found {progress!r}; give True, or a function of (simulations done, n_simulations)")


def check_options(given: Iterable[str]) -> None:
    """A TypeError for what is no option of a run.

    A backend's own options are left to it; what no backend knows is an error here, where all names are known.
    """
    for name in given:
        theirs = {name for _, executor, _ in map_methods() for name in executor.options} | {"pure"}
        own = [p.name for p in inspect.signature(run_monte_carlo).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if name not in theirs and name not in own:
            raise TypeError(
                f"run_monte_carlo has no option {name!r}{meant(name, own)}; valid are: {', '.join(own)}, and with a "
                "named backend its own, see get_backend(name).options"
            )


def _check(n_simulations: object, seeds: str, on_error: str, retries: object, args: object, kwargs: object) -> None:
    whole("n_simulations", n_simulations, least=0, none=False)  # type: ignore[arg-type]  # that is what it finds out
    whole("retries", retries, least=0, none=False)  # type: ignore[arg-type]
    for name, value, allowed in (("seeds", seeds, SEEDS), ("on_error", on_error, ON_ERROR)):
        if value not in allowed:
            raise ValueError(f"{name}: found {value!r}; allowed are {', '.join(allowed)}")
    if not isinstance(args, Sequence) or isinstance(args, str | bytes):
        raise TypeError(f"worker_args: found {type(args).__name__}; give a tuple, (x,) for a single argument")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"worker_kwargs: found {type(kwargs).__name__}; give a dictionary of names")
