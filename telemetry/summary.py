"""What was learned, saved and lost, as plain JSON-able data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import hardware
from .history import History
from .outcome import Cell
from .show import summary_html
from .sketch import Sketch


class Summary(dict[str, Any]):
    """Plain data, as `json.dumps` takes it, that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return summary_html(self)


SizeClass = tuple[str, str, str, str]
"""(operation, dtype, shape class, detail): where variants compete"""


def summarize(
    history: History, default_of: Callable[[str], str | None], ledger_names: Iterable[str] | None = None
) -> Summary:
    """All that the history tells, in data that `json.dumps` takes.

    Parameters
    ----------
    history : flushed by the caller, if it should be up to date.
    default_of : gives the variant that an operation would run without learning; None: not known.
    ledger_names : entries of the ledger to show under "exploration"; None: all.

    Returns
    -------
    dict
        ``operations``: name -> list of size classes (dtype, shape_class, detail) with ``variants``: name -> count
        (steady calls), measured (those that were timed: short calls are sampled), typical_s, mean_s, expected_s,
        stall_rate, stall_s, cold_count, cold_s, failures, share, rules.
        ``saved_s``: what the default is expected to take, less what the variants that ran are, over all steady calls
        where both are known. ``lost_s``: the same against the best variant known. Estimates, not clock readings.
        ``imports``: backend -> count and mean seconds of its imports; they belong to no operation, and do not count
        among ``total_records``. Also ``recent_backends``, ``exploration``, ``devices``, ``history``.
    """
    classes, imports = _by_size_class(history)
    operations: dict[str, list[dict[str, Any]]] = {}
    saved_s = lost_s = 0.0
    for (operation, dtype, shape_class, detail), variants in sorted(classes.items()):
        saved, lost = _account(variants, default_of(operation))
        saved_s += saved
        lost_s += lost
        attempts = sum(_attempts(sketch) for sketch in variants.values())
        operations.setdefault(operation, []).append(
            {
                "dtype": dtype,
                "shape_class": shape_class,
                "detail": detail,
                "default": default_of(operation),
                "saved_s": saved,
                "lost_s": lost,
                "variants": {name: _variant(sketch, attempts) for name, sketch in sorted(variants.items())},
            }
        )
    ledger = history.ledger
    names = ledger if ledger_names is None else ledger_names
    return Summary(
        total_records=sum(sketch.records for variants in classes.values() for sketch in variants.values()),
        operations=operations,
        imports={name: {"count": sketch.cold_count, "seconds": sketch.cold_s} for name, sketch in imports.items()},
        saved_s=saved_s,
        lost_s=lost_s,
        exploration={name: ledger.get(name, 0.0) for name in names},
        recent_backends=[
            {"variant": variant, "operation": operation, "seconds": seconds, "when": when}
            for variant, operation, seconds, when in tuple(history.recent)
        ],
        devices=hardware.describe(),
        history={"location": history.location, "status": history.status, "dropped": history.dropped},
    )


def _by_size_class(history: History) -> tuple[dict[SizeClass, dict[str, Sketch]], dict[str, Sketch]]:
    """Sketches of all variants that compete, quiet and busy times taken together; and those of the imports."""
    classes: dict[SizeClass, dict[str, Sketch]] = {}
    for (cell, _), sketch in history.state.cells.items():
        variants = classes.setdefault(_size_class(cell), {})
        if cell.variant in variants:
            together = variants[cell.variant].copy()
            together.merge(sketch)
            sketch = together
        variants[cell.variant] = sketch
    # Importing belongs to a backend and to no workload: it has no dtype.
    imports = [classes.pop(size_class) for size_class in list(classes) if not size_class[1]]
    return classes, {name: sketch for variants in imports for name, sketch in sorted(variants.items())}


def _size_class(cell: Cell) -> SizeClass:
    return cell.operation, cell.dtype, cell.shape_class, cell.detail


def _account(variants: Mapping[str, Sketch], default: str | None) -> tuple[float, float]:
    """Seconds saved against the default and lost against the best, in steady calls of one size class.

    Expected seconds on both sides: the time that happened to be spent on the best variant would make a loss of noise.
    """
    expected_s = {name: sketch.expected_s for name, sketch in variants.items() if sketch.count}
    if not expected_s:
        return 0.0, 0.0
    best_s, default_s = min(expected_s.values()), expected_s.get(default or "")
    lost = sum(variants[name].calls * (seconds - best_s) for name, seconds in expected_s.items())
    if default_s is None:
        return 0.0, lost
    return sum(variants[name].calls * (default_s - seconds) for name, seconds in expected_s.items()), lost


def _attempts(sketch: Sketch) -> int:
    return sketch.calls + sketch.cold_count + sketch.failure_count


def _variant(sketch: Sketch, attempts: int) -> dict[str, Any]:
    steady = bool(sketch.count)
    return {
        "count": sketch.calls,
        "measured": sketch.count,
        "typical_s": sketch.median_s if steady else None,
        "mean_s": sketch.mean_s if steady else None,
        "expected_s": sketch.expected_s if steady else None,
        "stall_rate": sketch.stall_rate,
        "stall_s": sketch.stall_s,
        "cold_count": sketch.cold_count,
        "cold_s": sketch.cold_s,
        "failures": {str(kind): count for kind, count in sketch.failures.items()},
        "last_failure": sketch.last_failure[1] if sketch.last_failure else None,
        "share": _attempts(sketch) / max(attempts, 1),
        "rules": dict(sketch.chosen),
    }
