"""Memory of the caller's process: flat in the number of simulations, where they are reduced as they come."""

from __future__ import annotations

from typing import Any, NamedTuple

from .apart import Apart, FailedError, TooLongError
from .tables import Effort, Table, count, megabytes

TARGET_BYTES = 300e6
GPU = "gpu/numpy"


class Line(NamedTuple):
    """One way to run; one that fails here is a row that says so."""

    name: str
    sizes: tuple[int, ...]
    given: dict[str, Any]
    vectorized: bool = False
    bounded: bool = True  # has the target; a list of all results has none


LINES = (
    Line("reduce='mean'", (10_000, 100_000, 1_000_000), {"backend": "sequential", "reduce": "mean"}),
    Line("reduce='mean', chosen", (10_000, 100_000, 1_000_000), {"backend": "auto", "reduce": "mean"}),
    Line("vectorised, reduce='mean'", (100_000, 1_000_000, 10_000_000), {"backend": GPU, "reduce": "mean"}, True),
    Line("a list of all results", (10_000, 100_000, 1_000_000), {"backend": "sequential"}, bounded=False),
)


def table(effort: Effort) -> Table:
    """Peaks of fresh processes."""
    rows, data, missed = [], [], []
    for line in LINES:
        for n in (line.sizes[0] // 100,) if effort.quick else line.sizes:
            try:
                with Apart() as process:
                    found = process.call("memory", 120.0, n=n, given=line.given, vectorized=line.vectorized)
            except (TooLongError, FailedError) as error:
                said = str(error).strip().splitlines()[-1]
                rows.append([line.name, count(n), "", "", "", said])
                data.append({"line": line.name, "n": n, "error": str(error)})
                continue
            met = found["peak"] <= TARGET_BYTES
            if line.bounded and not met:
                missed.append(f"{line.name} {count(n)}")
            data.append({"line": line.name, "n": n, **found})
            rows.append([
                line.name, count(n), megabytes(found["before"]), megabytes(found["peak"]), f"{found['seconds']:.3g} s",
                ("yes" if met else "**NO**") if line.bounded else "no target",
            ])  # fmt: skip
    head = ["run", "simulations", "before it", "at its peak", "seconds", f"under {megabytes(TARGET_BYTES)}"]
    told = "all under the target" if not missed else f"missed: {', '.join(missed)}"
    return Table("memory", head, rows, [f"resident memory of the caller's process; {told}"], data)
