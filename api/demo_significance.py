"""The demo's Monte Carlo: whether the Nile follows the sun, on the executor that is chosen, and what that gained."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pointsman as pm
from pointsman import datasets
from pointsman.telemetry.show import seconds as _time

SEED = 20


def significance(console: Any, pairs: int) -> None:
    """Test the wavelet coherence of two real series against `pairs` of red noise; print the answer and where it ran."""
    nile, sunspots = datasets.load("nile"), datasets.load("sunspots")[171:271]  # 1871 to 1970
    found = pm.wct(nile, sunspots)
    given: dict[str, Any] = {"mc_count": pairs, "seed": SEED, "cache": False}
    pm.wct_significance(nile, sunspots, **given | {"mc_count": 8})  # imports and plans, which belong to neither side
    started = time.perf_counter()
    chance = pm.wct_significance(nile, sunspots, **given)
    chosen_s = time.perf_counter() - started
    started = time.perf_counter()
    again = pm.wct_significance(nile, sunspots, backend="sequential", **given)
    alone_s = time.perf_counter() - started
    same = bool(np.array_equal(chance.counts, again.counts) and np.array_equal(chance.maxima, again.maxima))
    p = chance.global_p_value(found.coherence)
    verdict = "chance shows as much" if p.p > 0.05 else "more than chance shows"
    console.print(
        f"does the Nile follow the sun? wavelet coherence of 100 years against {pairs:,} pairs of red noise: "
        f"p = {p.p:.2f} ({p.low:.2f} to {p.high:.2f}), {verdict}"
    )
    info = chance.info
    assert info is not None  # nothing was kept
    console.print(
        f"   ran on {info.variant} in {_time(chosen_s)}, in a plain loop {_time(alone_s)} ({alone_s / chosen_s:.2f}x); "
        f"{'the same bits' if same else 'OTHER BITS'}. Why there: {info.reason}",
        highlight=False,
    )
