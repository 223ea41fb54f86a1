"""Workers for Monte Carlo: in a module of their own, because worker processes import them by name."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np


def draws(seed: Any, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n)


def ragged(seed: Any) -> Any:
    rng = np.random.default_rng(seed)
    kind = int(rng.integers(4))
    return [None, {"x": rng.random()}, rng.random(int(rng.integers(5))), "text"][kind]


def number(seed: int) -> int:
    assert type(seed) is int
    return seed


def by_blas(seed: Any, matrix: np.ndarray, shift: float = 0.0) -> bytes:
    """Bits that depend on how many threads BLAS has."""
    x = np.random.default_rng(seed).standard_normal(matrix.shape[1])
    return (matrix @ np.outer(x, x) + shift).tobytes() + np.float64(x @ x).tobytes()


def writes(seed: Any, arrays: list[Any]) -> float:
    arrays[0]["x"][0] = 1.0
    return 0.0


def globally(seed: Any, generator: str) -> float:
    return float(np.random.random()) if generator == "numpy" else random.random()  # noqa: NPY002 - as old code does


def fails_at_seven(seed: np.random.SeedSequence) -> float:
    if seed.spawn_key[-1] == 7:
        raise ArithmeticError("seven")
    return float(np.random.default_rng(seed).random())


def fails_from(seed: np.random.SeedSequence, first: int) -> float:
    if seed.spawn_key[-1] >= first:
        raise ArithmeticError("late")
    return normal(seed)


def fails_each_fifth(seed: np.random.SeedSequence) -> float:
    if seed.spawn_key[-1] % 5 == 3:
        raise ArithmeticError("a fifth")
    return normal(seed)


def none_from(seed: np.random.SeedSequence, first: int) -> float | None:
    return None if seed.spawn_key[-1] >= first else normal(seed)


def exhausted_at_seven(seed: np.random.SeedSequence) -> float:
    return normal(seed) if seed.spawn_key[-1] != 7 else float(next(iter(())))


def fails_twice(seed: np.random.SeedSequence, folder: str) -> int:
    """Fails the first two times that it runs, of each simulation; its results are the seeds' own."""
    place = Path(folder) / str(seed.spawn_key[-1])
    runs = len(place.read_text()) if place.exists() else 0
    place.write_text("x" * (runs + 1))
    if runs < 2:
        raise OSError("not yet")
    return int(np.random.default_rng(seed).integers(1 << 60))


def dies_once(seed: np.random.SeedSequence, folder: str) -> int:
    """Kills its process at simulation 20, the first time."""
    mark = Path(folder) / "died"
    if seed.spawn_key[-1] == 20 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    time.sleep(0.005)
    return int(np.random.default_rng(seed).integers(1 << 60))


def threads_seen(_: Any) -> set[int]:
    from threadpoolctl import threadpool_info

    np.ones((64, 64)) @ np.ones((64, 64))
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] in ("blas", "openmp")}


def normal(seed: Any) -> float:
    return float(np.random.default_rng(seed).standard_normal())


def kilobyte(seed: Any) -> np.ndarray:
    return np.random.default_rng(seed).random(128)


def text(seed: Any) -> str:
    rng = np.random.default_rng(seed)
    return str(rng.integers(10)) * int(rng.integers(1, 30))


def fails_always(seed: Any) -> float:
    raise ArithmeticError("always")


def never(seed: Any) -> float:
    raise AssertionError("it was to be refused before anything runs")


def millisecond(seed: Any) -> float:
    until = time.perf_counter() + 1e-3
    while time.perf_counter() < until:
        pass
    return float(np.random.default_rng(seed).random())


def loads_pointsman(seed: Any) -> int:
    """Whether a process that a backend started has imported pointsman; 0 in any other."""
    import multiprocessing
    import sys

    return int("pointsman" in sys.modules and multiprocessing.parent_process() is not None)


def globally_later(seed: Any) -> float:
    time.sleep(0.02)
    return float(np.random.random()) if seed.spawn_key[-1] else 0.0  # noqa: NPY002 - as old code does


def dots(seed: Any, x: np.ndarray) -> float:
    return float(x[0] @ x[1] + x[:, 0] @ x[:, -1])


def raises(seed: Any, error: type[Exception]) -> None:
    if seed.spawn_key[-1] > 1:  # the first one runs in place
        raise error("of the worker")
