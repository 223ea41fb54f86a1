"""Simulations of a given cost, and arguments of a given size. Worker processes import this module, so it is light."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SEED = 20_261_121
MASK = (1 << 64) - 1


def trivial(seed: np.random.SeedSequence) -> int:
    """As cheap as a simulation can be: its own number."""
    return seed.spawn_key[-1]


def letters(seed: np.random.SeedSequence, nbytes: int) -> bytes:
    """A result of so many bytes."""
    return bytes([seed.spawn_key[-1] % 256]) * nbytes


def python(seed: np.random.SeedSequence, steps: int, data: Any = None) -> int:
    """`steps` of a generator in Python, which holds the interpreter lock; one number of `data` goes in."""
    x = int(seed.generate_state(1)[0])
    if data is not None:
        x ^= int(data[x % len(data)])
    for _ in range(steps):
        x = (x * 6364136223846793005 + 1442695040888963407) & MASK
    return x


def native(seed: np.random.SeedSequence, steps: int, data: Any = None) -> int:
    """`steps` of a hash in C, which releases the lock; one number of `data` goes in."""
    word = int(seed.generate_state(1)[0])
    if data is not None:
        word ^= int(data[word % len(data)])
    found = hashlib.pbkdf2_hmac("sha256", word.to_bytes(8, "little"), b"", max(1, steps))
    return int.from_bytes(found[:8], "little")


def uniform_mean(keys: Any, *, xp: Any) -> Any:
    """A cheap vectorised simulation: the mean of eight uniform numbers."""
    from pointsman import draws

    return draws.uniform(keys, 8, xp=xp).mean(-1)


WORKERS: dict[str, Callable[..., int]] = {"python": python, "native": native}


def children(n: int) -> list[np.random.SeedSequence]:
    """The seeds of n simulations, as NumPy spawns them."""
    return np.random.SeedSequence(SEED).spawn(n)


def steps_for(kind: str, cost_s: float) -> int:
    """How many steps make a simulation of `kind` take `cost_s` here, nobody else being at work."""
    worker, (seed,) = WORKERS[kind], children(1)
    few, many = 10, 4000
    one = (_seconds(worker, seed, many) - _seconds(worker, seed, few)) / (many - few)
    return max(1, few + round((cost_s - _seconds(worker, seed, few)) / one))


def _seconds(worker: Callable[..., int], seed: np.random.SeedSequence, steps: int) -> float:
    """Of one call; the median of the fastest of a few groups, for others only ever make it longer."""
    groups = []
    for _ in range(5):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            worker(seed, steps)
            times.append(time.perf_counter() - began)
        groups.append(min(times))
    return statistics.median(groups)


def ballast(nbytes: int) -> Any:
    """An argument of so many bytes; None for 0."""
    return np.arange(nbytes // 8, dtype=np.int64) if nbytes else None


def digest(results: Sequence[int]) -> str:
    """All results in a few letters."""
    return hashlib.sha256(np.asarray(results, dtype=np.uint64).tobytes()).hexdigest()[:16]


def sample(results: Sequence[int], most: int = 40) -> list[list[int]]:
    """A few results, spread evenly: [index, result] each."""
    step = max(1, len(results) // most)
    return [[i, int(results[i])] for i in range(0, len(results), step)]


def right(found: Sequence[Sequence[int]], kind: str, steps: int, nbytes: int = 0) -> bool:
    """Whether a sample holds what these simulations give when each is run alone, here."""
    data, worker = ballast(nbytes), WORKERS[kind]
    seeds = (np.random.SeedSequence(SEED, spawn_key=(index,)) for index, _ in found)
    return all(worker(seed, steps, data) == result for seed, (_, result) in zip(seeds, found, strict=True))
