"""A Monte Carlo run once its arguments are known to make sense: single simulations or batches, into one collector."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..executors.errors import RunTimeoutError, raised_by_worker
from ..executors.mapping import HERE, Method
from ..executors.native import held
from ..selector import maps
from .collect import Collector
from .map_pilot import Run
from .map_run import KNOWN_S, MOST_KNOWN, How, Job
from .map_worker import key
from .monte_carlo_info import MonteCarloInfo
from .reducers import Reducer
from .simulations import Root, generators, simulation
from .vectorized import check_batches, rows, run_vectorized

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

GLOBAL_GENERATOR = (
    "the worker draws from a global generator (numpy.random or random), which threads share: results would differ from "
    "run to run. Draw from numpy.random.default_rng(seed) instead, or keep to processes"
)


@dataclass(frozen=True)
class Asked:
    """What the caller of `run_monte_carlo` wants, under the names that it has there."""

    worker: Callable[..., Any]
    n: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    backend: str
    seeds: str
    on_error: str
    retries: int
    reducer: Reducer | None
    stop_when: Callable[[Any, int], bool] | None
    leaf_size: int
    vectorized: bool
    how: How


def opened(asked: Asked, root: Root, path: str | os.PathLike[str], key: str | None, any_seed: bool) -> Checkpoint:
    """The checkpoint at `path`, made or gone on with; with `any_seed` the one that is there says which."""
    from .checkpoint import Checkpoint
    from .fingerprint import fingerprint_of

    mark = fingerprint_of(
        asked.worker, asked.args, asked.kwargs, root, seeds=asked.seeds, native_threads=asked.how.native_threads,
        key=key, reduce=asked.reducer, on_error=asked.on_error, leaf_size=asked.leaf_size, vectorized=asked.vectorized,
    )  # fmt: skip
    return Checkpoint.open(path, mark, free=("seed", "spawn_key") if any_seed else ())


def root_in(kept: Checkpoint) -> Root:
    """The seed that a checkpoint is of."""
    drawn = kept.fingerprint["seed"]
    return Root(tuple(drawn) if isinstance(drawn, list) else drawn, tuple(kept.fingerprint["spawn_key"]))


def simulate(
    asked: Asked, root: Root, kept: Checkpoint | None, tell: Callable[[int, int], object] | None
) -> tuple[Any, MonteCarloInfo]:
    """Run what is not kept yet; what it gives, and what is told of it."""
    info = MonteCarloInfo(asked.n, seed=root.entropy, spawn_key=root.key)
    sink = Collector(
        asked.n, collect=asked.on_error == "collect", reducer=asked.reducer, leaf_size=asked.leaf_size,
        stop_when=asked.stop_when, kept=kept, tell=tell, until=asked.how.until,
    )  # fmt: skip
    try:
        if asked.vectorized:
            _in_batches(asked, root, sink, info)
        else:
            _one_by_one(asked, root, sink, info)
        results = sink.result()
    except RunTimeoutError as late:
        if raised_by_worker(late):  # of a run of its own
            raise
        raise RunTimeoutError(f"{sink.done} of {sink.n} simulations were done") from None
    finally:
        sink.close()
    info.done, info.resumed, info.failed = sink.done, sink.resumed, sorted(sink.failed, key=lambda failed: failed.index)
    return results, info


def _in_batches(asked: Asked, root: Root, sink: Collector, info: MonteCarloInfo) -> None:
    how = asked.how
    pure = check_batches(how.options, {
        "seeds": (asked.seeds, "sequence"), "native_threads": (how.native_threads, 1),
        "on_error": (asked.on_error, "raise"), "retries": (asked.retries, 0), "n_jobs": (how.n_jobs, None),
        "prefer": (how.prefer, None),
    })  # fmt: skip
    begin = sink.items[0] if sink.items else asked.n  # batches come in order, so what is left is the end

    def take(first: int, results: Any) -> bool:
        sink.take(first - begin, results if hasattr(results, "ndim") else rows(results))
        return sink.enough

    run_vectorized(
        asked.worker, asked.n, asked.args, asked.kwargs, root, take, first=begin, backend=asked.backend,
        batch_size=how.chunk_size, pure=pure, until=how.until, info=info,
    )  # fmt: skip


def _one_by_one(asked: Asked, root: Root, sink: Collector, info: MonteCarloInfo) -> None:
    """The first simulation of a worker runs in place, where its use of global generators is seen.

    Not where it would go to processes in any case, nor where it is known, and to take long: others wait meanwhile.
    """
    how, inside = asked.how, HERE.inside
    worker = simulation(
        asked.worker, root, asked.args, asked.kwargs, seeds=asked.seeds, collect=asked.on_error == "collect",
        retries=asked.retries, native_threads=how.native_threads,
    )  # fmt: skip
    run = Run(worker, sink.items, sink, noted=False)
    job = Job(run, info, how)
    job.check(asked.backend)
    with held(how.native_threads):
        before, name, known = generators(), key(asked.worker), job.known
        long = name in _CLEAN and known is not None and known.item_s >= KNOWN_S
        if run.left and not long and not _leaves(asked.backend):
            HERE.inside = True
            try:
                run.block(1)
            finally:
                HERE.inside = inside
            if generators() == before:
                if len(_CLEAN) >= MOST_KNOWN:
                    _CLEAN.clear()
                _CLEAN.add(name)
            elif how.prefer == "threads" or _means_threads(asked.backend):
                named = asked.backend if how.prefer is None else f"prefer={how.prefer!r}"
                raise ValueError(f"{named}: {GLOBAL_GENERATOR}")
        job.rule_out(_on_threads, GLOBAL_GENERATOR, lambda: generators() != before)
        job.do(asked.backend)


_CLEAN: set[Any] = set()  # workers that left the global generators alone


def _leaves(backend: str) -> bool:
    """Whether `backend` names processes, and nothing else."""
    return backend != "auto" and all(method.ships for method in _ways(backend))


def _on_threads(method: Method) -> bool:
    """Whether workers share what belongs to the whole process."""
    return method.parallel and not method.ships


def _means_threads(backend: str) -> bool:
    """Whether `backend` names threads and leaves no other way."""
    return backend != "auto" and all(map(_on_threads, _ways(backend)))


def _ways(backend: str) -> Sequence[Method]:
    executor, (_, _, way) = maps.executor_named(backend), backend.partition("/")
    return [executor.method(way)] if way else executor.methods
