"""What one simulation costs beyond a plain loop that spawns the same seeds, in the caller's process."""

from __future__ import annotations

import statistics
from typing import Any

from .apart import Apart
from .tables import Effort, Table, count

TARGET_US = 2.0
SIZES = (1_000, 10_000, 100_000)
OVER = {"sequential": "loop", "auto": "loop", "sequential, mean": "loop, mean", "auto, mean": "loop, mean"}


def table(effort: Effort) -> Table:
    """Microseconds a simulation of each way, and the median of the differences within a round."""
    sizes = (300,) if effort.quick else SIZES
    rows, data, missed = [], [], []
    for n in sizes:
        rounds = effort.rounds if effort.quick else max(7, min(101, 2_000_000 // n))
        with Apart() as process:
            seconds = process.call("overhead", 250.0, n=n, rounds=rounds)
        for way, base in OVER.items():
            row = _figures(n, way, seconds[way], seconds[base])
            data.append(row)
            met = row["difference_us"] <= TARGET_US
            if not met:
                missed.append(f"{count(n)} {way}")
            rows.append([
                count(n), way, f"{row['base_us']:.2f}", f"{row['us']:.2f}", f"{row['difference_us']:.2f}",
                "yes" if met else "**NO**", f"{row['us'] / row['base_us']:.2f}x",
            ])  # fmt: skip
    head = ["simulations", "way", "plain loop, us", "ours, us", "difference, us", f"within {TARGET_US:g} us", "ratio"]
    told = f"{len(rows) - len(missed)} of {len(rows)} within {TARGET_US:g} us a simulation" + (
        f"; missed: {', '.join(missed)}" if missed else ""
    )
    return Table("overhead", head, rows, [told], data)


def _figures(n: int, way: str, ours: list[float], base: list[float]) -> dict[str, Any]:
    return {
        "n": n, "way": way, "base_us": statistics.median(base) / n * 1e6, "us": statistics.median(ours) / n * 1e6,
        "difference_us": statistics.median(a - b for a, b in zip(ours, base, strict=True)) / n * 1e6,
    }  # fmt: skip
