"""Batches of vectorised workers on a CUDA device: the same simulations as on the host, and halved when it is full."""

from __future__ import annotations

import numpy as np
import pointsman as pm
import pytest
from pointsman import draws
from pointsman.executors import registry
from pointsman.executors.on_gpu import Simulations

pytestmark = pytest.mark.gpu

LIBRARIES = [name for name, capable in registry.array_api_backends() if "cuda" in capable.devices]
GIB = 2**30


def keys(first: int, count: int) -> np.ndarray:
    return draws.keys(5, count, first=first)


@pytest.mark.parametrize("name", LIBRARIES)
def test_batches_on_the_device_are_those_of_the_host(library, name):
    library(name)

    def worker(keys, shift, *, xp):
        grid = xp.arange(5, dtype=xp.float64)  # goes to the device though nobody says so
        return draws.uniform(keys, 5, xp), draws.normal(keys, 5, xp) + shift + grid, draws.integers(keys, 5, 99, xp=xp)

    shift = np.linspace(0.0, 1.0, 5)
    expected, info = pm.run_monte_carlo(worker, 5000, (shift,), seed=1, backend="gpu/numpy", return_info=True)
    found, info = pm.run_monte_carlo(worker, 5000, (shift,), seed=1, backend=f"gpu/{name}@cuda:0", return_info=True)
    assert info.variant == f"gpu/{name}@cuda:0"
    for i in (0, 2, 1):
        mine, theirs = ([row[i] for row in rows] for rows in (found, expected))
        np.testing.assert_allclose(mine, theirs, rtol=1e-13 * (i == 1), atol=1e-13 * (i == 1))


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_full_device_halves_the_batch(library, name):
    executor = library(name)

    def hungry(keys, *, xp):
        block = xp.zeros((keys.shape[0], GIB), dtype=xp.float32) + xp.astype(keys[:, :1], xp.float32)
        return xp.sum(block, axis=1) > 0.0

    job = Simulations(hungry, keys, 512)
    gpu = registry.executor("gpu")
    first, found, _ = next(gpu.run_batches(job, method=name, device="cuda:0", batch_size=512))
    assert first == 0
    assert len(found) < 512
    executor.free_caches()
