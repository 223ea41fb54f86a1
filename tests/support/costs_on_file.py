"""Small cost matrices on file, of both forms, whose every number a test can foresee."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
# Seconds a call take `floor + size * slope` here; the first call costs `once` more.
VARIANTS: dict[str, tuple[float, float, float]] = {
    "numpy": (2e-6, 4e-9, 0.0),
    "numba": (5e-7, 2e-9, 0.3),
    "torch": (2e-5, 1e-9, 0.001),
    "jax": (4e-5, 1.5e-9, 0.05),
}


def entry(seconds: float, first_s: float | None = None, **more: Any) -> dict[str, Any]:
    """Times of one variant that always takes as long."""
    ns = 1e9 * seconds
    times = {"q1_ns": ns, "med_ns": ns, "q3_ns": ns, "min_ns": ns, "max_ns": ns}
    first = ns if first_s is None else 1e9 * first_s
    return {"first_ns": first, "err": 1e-7, "dtype": "float64", "other": [0.0], "n": 100, **times, **more}


def row(operation: str, size: int, r: Mapping[str, Any], dtype: str = "float64", **more: Any) -> dict[str, Any]:
    """One cell as it stands in a file."""
    return {"op": operation, "dtype": dtype, "size": size, "r": dict(r), **more}


def grid(operations: tuple[str, ...] = ("sums", "roots"), slower: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """All sizes of some operations; every time is a straight line in the size."""
    rows = []
    for operation in operations:
        for size in SIZES:
            times = {
                name: entry(slower * (floor + slope * size), slower * (floor + slope * size) + once)
                for name, (floor, slope, once) in VARIANTS.items()
            }
            rows.append(row(operation, size, times, **more))
    return rows


def write(path: Path, rows: list[dict[str, Any]], threads: int = 2, **more: Any) -> Path:
    """A file of the older form, or of the extended one where `more` says its keys."""
    path.write_text(json.dumps({"versions": {}, "threads": threads, "rows": rows, **more}), encoding="utf-8")
    return path
