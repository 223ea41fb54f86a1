"""Vectorised workers for Monte Carlo, and one in OpenCL C."""

from __future__ import annotations

from typing import Any

import pointsman as pm


def uniforms(keys: Any, n: int = 3, *, xp: Any) -> Any:
    return pm.draws.uniform(keys, n, xp)


def mean_and_extremes(keys: Any, n: int, shift: Any = 0.0, *, xp: Any) -> Any:
    z = pm.draws.normal(keys, n, xp) + shift
    return {"mean": xp.mean(z, axis=1), "ends": (xp.min(z, axis=1), xp.max(z, axis=1)), "first": z[:, :2]}


def option(keys: Any, strike: float, *, xp: Any) -> Any:
    """What a call on a stock of 100 pays after a year, at a volatility of 0.2 and no interest."""
    z = pm.draws.normal(keys, 1, xp)[:, 0]
    gain = 100.0 * xp.exp(0.2 * z - 0.02) - strike
    return xp.where(gain > 0.0, gain, xp.zeros_like(gain))


class Hungry:
    """Runs out of memory on a batch of more than `most`; on some libraries only, where these are named."""

    def __init__(self, most: int, *libraries: str) -> None:
        self.most, self.libraries, self.sizes = most, libraries, []

    def __call__(self, keys: Any, *, xp: Any) -> Any:
        if len(keys) > self.most and (not self.libraries or any(name in xp.__name__ for name in self.libraries)):
            raise MemoryError
        self.sizes.append(len(keys))
        return pm.draws.integers(keys, 1, 1000, xp=xp)[:, 0]


SUM = """
__kernel void sum(__global const uint4 *keys, __global double *results, const long n, const double factor,
                  __global const double *shift)
{
    const size_t i = get_global_id(0);
    double total = 0.0;
    for (long j = 0; j < n; j++)
        total += factor * pm_normal(keys[i], j, 5) + shift[j];
    results[2 * i] = total;
    results[2 * i + 1] = pm_uniform(keys[i], n, 6);
}
"""
