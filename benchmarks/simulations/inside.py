"""What `Apart` processes are told to do; each function gives plain data. Nothing is imported before it is needed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from . import work
from .hand import HANDS, Hand, letters, nothing

_HANDS: dict[str, Hand] = {}
_DATA: dict[int, Any] = {}


def end() -> None:
    """End what was started here by hand; pointsman ends its own."""
    while _HANDS:
        _HANDS.popitem()[1].close()


def variants() -> list[str]:
    """Names of the variants that run simulations here, in canonical order."""
    from pointsman.executors import registry
    from pointsman.executors.mapping import map_methods

    return [name for name, executor, _ in map_methods() if registry.available(executor.name) is None]


def versions(names: list[str]) -> dict[str, str]:
    """Of packages; those that are not installed are left out."""
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# ---- by hand


def by_hand(engine: str, n: int, kind: str, steps: int, size: int | None) -> dict[str, Any]:
    """Seconds of a hand-written run, `size` simulations to a task, None for the naive form; started where it must."""
    began = time.perf_counter()
    hand = _hand(engine)
    results = hand.each(n, kind, steps) if size is None else hand.run(n, kind, steps, size)
    return _told(time.perf_counter() - began, results)


def _hand(engine: str) -> Hand:
    if engine not in _HANDS:
        _HANDS[engine] = HANDS[engine](_jobs())
    return _HANDS[engine]


def _jobs() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def floors(engine: str, tasks: int, nbytes: int, parts: int) -> dict[str, float]:
    """Seconds of one more task that does nothing, its workers warm; and bytes of results a second to the caller."""
    hand = _hand(engine)

    def run(function: Callable[..., Any], given: list[tuple[Any, ...]], right: Callable[[Any], Any]) -> float:
        began = time.perf_counter()
        found = hand.tasks(function, given)
        seconds = time.perf_counter() - began
        if [right(each) for each in found] != [right(function(*args)) for args in given]:
            raise AssertionError(f"{engine}: {len(given)} tasks gave something else than they should")
        return seconds

    def empty(n: int) -> float:
        return run(nothing, [(i,) for i in range(n)], int)

    empty(100)
    few, many = empty(tasks // 10), empty(tasks)
    run(letters, [(i, nbytes) for i in range(2)], len)
    rate = nbytes * parts / run(letters, [(i, nbytes) for i in range(parts)], len)
    return {"task_s": _one_more(few, many, tasks), "rate": rate}


def _one_more(few_s: float, many_s: float, tasks: int) -> float:
    """Seconds of one more task, from what a tenth of them took, and all; a microsecond at least, whatever the noise."""
    return max(1e-6, (many_s - few_s) / (tasks - tasks // 10))


def our_floors(backend: str, tasks: int, nbytes: int, parts: int) -> dict[str, float]:
    """The same two of `run_monte_carlo`, with chunks of one simulation: seconds of one more, and bytes a second."""
    import pointsman as pm

    def run(worker: Callable[..., Any], n: int, args: tuple[Any, ...] = ()) -> float:
        began = time.perf_counter()
        found = pm.run_monte_carlo(worker, n, args, seed=work.SEED, backend=backend, chunk_size=1)
        seconds = time.perf_counter() - began
        if len(found) != n or (not args and found != list(range(n))):
            raise AssertionError(f"{backend}: {n} simulations gave other numbers than their own")
        return seconds

    run(work.trivial, 100)
    few, many = run(work.trivial, tasks // 10), run(work.trivial, tasks)
    run(work.letters, 2, (nbytes,))
    return {"task_s": _one_more(few, many, tasks), "rate": nbytes * parts / run(work.letters, parts, (nbytes,))}


# ---- ours


def prepare(nbytes: int) -> None:
    """Have the argument ready, and pointsman imported, as in a program that has begun."""
    import pointsman as pm

    _DATA[nbytes] = work.ballast(nbytes)
    pm.run_monte_carlo  # noqa: B018 - loads it


def ours(backend: str, n: int, kind: str, steps: int, nbytes: int = 0, least_s: float = 0.0) -> dict[str, Any]:
    """Seconds of `run_monte_carlo`, repeated until `least_s` have passed; pointsman's import counts at the first."""
    if nbytes not in _DATA:
        _DATA[nbytes] = work.ballast(nbytes)
    args = (steps, _DATA[nbytes]) if nbytes else (steps,)
    worker = work.WORKERS[kind]
    times: list[float] = []
    first = began = time.perf_counter()
    import pointsman as pm

    while True:
        results, info = pm.run_monte_carlo(worker, n, args, seed=work.SEED, backend=backend, return_info=True)
        now = time.perf_counter()
        times.append(now - began)
        if now - first >= least_s:
            break
        began = time.perf_counter()
    told = _told(statistics.median(times), results)
    return {**told, "variant": info.variant, "chunks": info.chunks, "size": info.chunk_size, "why": info.reason}


def _told(seconds: float, results: list[int]) -> dict[str, Any]:
    return {"seconds": seconds, "digest": work.digest(results), "sample": work.sample(results)}


# ---- overhead


def overhead(n: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way to run n trivial simulations, the ways taking turns, in each round in another order."""
    import random

    import numpy as np
    import pointsman as pm

    def plain() -> Any:
        return [work.trivial(child) for child in np.random.SeedSequence(work.SEED).spawn(n)]

    def plain_mean() -> Any:
        x = np.array(plain())
        return float(x.mean()), float(x.var(ddof=1))

    def on(backend: str, reduce: Any = None) -> Callable[[], Any]:
        def run() -> Any:
            found = pm.run_monte_carlo(work.trivial, n, seed=work.SEED, backend=backend, reduce=reduce)
            return found if reduce is None else (float(found.mean), float(found.variance))

        return run

    ways = {
        "loop": plain, "sequential": on("sequential"), "auto": on("auto"),
        "loop, mean": plain_mean, "sequential, mean": on("sequential", "mean"), "auto, mean": on("auto", "mean"),
    }  # fmt: skip
    right, moments = list(range(n)), ((n - 1) / 2, n * (n + 1) / 12)  # of the numbers below n
    for name, way in ways.items():
        found = way()
        good = found == right if "mean" not in name else bool(np.allclose(found, moments, rtol=1e-12, atol=0.0))
        if not good:
            raise AssertionError(f"{name}: {n} simulations gave something else than their numbers")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order, rng = list(ways), random.Random(3)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


# ---- memory


def memory(n: int, given: dict[str, Any], vectorized: bool) -> dict[str, float]:
    """Bytes at the peak of this process before and after a run, and its seconds."""
    import pointsman as pm

    worker = work.uniform_mean if vectorized else work.trivial
    options = {"vectorized": True, **given} if vectorized else given
    pm.run_monte_carlo(worker, 10, seed=work.SEED, **options)  # what is loaded is loaded
    before = _peak()
    began = time.perf_counter()
    found = pm.run_monte_carlo(worker, n, seed=work.SEED, **options)
    seconds = time.perf_counter() - began
    mean = getattr(found, "mean", None)
    if mean is None:
        mean = statistics.fmean(found)
    expected, slack = (0.5, 5.0 / (96.0 * n) ** 0.5) if vectorized else ((n - 1) / 2, 1e-9 * n)
    if abs(mean - expected) > slack:
        raise AssertionError(f"the mean of {n} simulations is {mean}, and should be {expected}")
    return {"before": before, "peak": _peak(), "seconds": seconds}


def _peak() -> float:
    import resource
    import sys
    from pathlib import Path

    try:  # of this program; what getrusage tells begins with the size of the process that started it
        told = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()
        return float(told[0]) * 1024.0
    except (OSError, IndexError, ValueError):
        size = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return size if sys.platform == "darwin" else size * 1024.0


# ---- what the caller does with results


def collecting(leaves: int) -> dict[str, float]:
    """Seconds and bytes at the caller: of a float in a list, and of a leaf folded by a worker."""
    import pickle

    from pointsman.kernels.collect import LEAF, Collector
    from pointsman.kernels.reducers import reducer_of

    def seconds(reduce: Any) -> tuple[float, int]:
        reducer = reducer_of(reduce)
        sink = Collector(leaves * LEAF, collect=False, reducer=reducer, leaf_size=LEAF)
        chunk = sink.work(lambda index: index * 0.5)
        sent = [pickle.dumps(chunk((i, range(i, i + LEAF)))) for i in range(0, leaves * LEAF, LEAF)]
        began = time.perf_counter()
        for data in sent:
            place, found, _, _ = pickle.loads(data)
            sink.receive(place, found)
        took = time.perf_counter() - began
        sink.result()
        return took / leaves, len(sent[-1])

    listed, folded = seconds(None), seconds("mean")
    return {
        "result_s": listed[0] / LEAF, "result_bytes": listed[1] / LEAF, "leaf_s": folded[0], "leaf_bytes": folded[1],
        "leaf": LEAF,
    }  # fmt: skip
