"""The agreement grid for people: tables that read well in a terminal, and a page of them for the documentation."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Sequence

from pointsman.executors import registry
from pointsman.kernels.agreement import Row
from pointsman.selector import operations

_INTRODUCTION = """\
# The agreement grid

Every variant of every built-in operation, held against the operation's float64 reference: the largest error found on
its samples (10, 1001 and 20000 elements) and named cases, NumPy arrays in and out, over the tolerance that it promises.
Both are relative to the largest magnitude in the reference's result; errors are rounded up to one digit, and another
processor or library version may change that digit. A number in brackets is a hole: its reason stands at the end.

`make agreement` renews this page; `pointsman agreement` measures the same on your machine, and ends with exit code 1 if
a variant is out of tolerance.
"""


def rounded_up(error: float) -> str:
    """One significant digit, never less than `error`: 0, 3e-16."""
    if error == 0.0 or not math.isfinite(error):
        return f"{error:g}"
    exponent = math.floor(math.log10(error))
    digit = math.ceil(error / 10.0**exponent - 1e-9)  # 3e-16 / 1e-16 is a little more than 3
    return f"{digit * 10.0**exponent:.0e}"


def markdown(rows: Sequence[Row]) -> str:
    """The whole page."""
    return f"{_INTRODUCTION}\n{grid(rows)}"


def grid(rows: Sequence[Row]) -> str:
    """A table per operation, variants down, dtypes across; then what was not measured, and what went wrong."""
    reasons = list(dict.fromkeys(row.hole for row in rows if row.hole))
    out = [f"- Measured with {_libraries()}.", f"- {_sentence(_total(rows))}"]
    for kernel in dict.fromkeys(row.kernel for row in rows):
        out += ["", f"## {kernel}", "", *_table(kernel, [row for row in rows if row.kernel == kernel], reasons)]
    if reasons:
        out += ["", "## Holes", ""]
        counts = Counter(row.hole for row in rows)
        out += [f"{number}. {reason} ({counts[reason]})" for number, reason in enumerate(reasons, 1)]
    wrong = [row for row in rows if row.agrees is False]
    if wrong:
        out += ["", "## Out of tolerance", ""]
        out += [
            f"- {row.kernel} {row.variant} {row.dtype} on {row.worst}: {row.failure or f'error {row.error:.2g}'}"
            for row in wrong
        ]
    return "\n".join(out) + "\n"


def _table(kernel: str, rows: Sequence[Row], reasons: Sequence[str]) -> list[str]:
    dtypes, variants = list(dict.fromkeys(row.dtype for row in rows)), list(dict.fromkeys(row.variant for row in rows))
    cells = {(row.variant, row.dtype): _cell(row, reasons) for row in rows}
    known = operations.find(kernel)
    body = [["variant", *dtypes], *([variant, *(cells[variant, dtype] for dtype in dtypes)] for variant in variants)]
    widths = [max(len(line[i]) for line in body) for i in range(len(body[0]))]
    rule = [("-" * width) if i == 0 else f"{'-' * (width - 1)}:" for i, width in enumerate(widths)]
    padded = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))] for line in body
    ]
    table = (f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))
    return [_sentence(getattr(known, "summary", kernel)), "", *table]


def _cell(row: Row, reasons: Sequence[str]) -> str:
    if row.hole:
        return f"[{reasons.index(row.hole) + 1}]"
    shown = rounded_up(row.error or 0.0)
    if row.agrees and float(shown) > row.tolerance:  # what keeps its promise must not look as if it did not
        shown = f"{row.tolerance:g}"
    text = "failed" if row.failure else f"{shown} / {row.tolerance:g}"
    return text if row.agrees else f"**{text}**"


def _total(rows: Sequence[Row]) -> str:
    counts = Counter(row.agrees for row in rows)
    worst = max((row for row in rows if row.agrees), key=_share, default=None)
    text = f"{counts[True]} of {counts[True] + counts[False]} measured agree with the reference, {counts[None]} holes"
    if worst is None:
        return text
    return f"{text}; nearest to its tolerance: {worst.kernel} {worst.variant} {worst.dtype}, {_share(worst):.0%}"


def _share(row: Row) -> float:
    return (row.error or 0.0) / row.tolerance if row.tolerance else 0.0


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _libraries() -> str:
    versions = (
        f"{b.name} {b.version}"
        for b in registry.list_backends(available_only=True)
        if b.capabilities.array and b.version
    )
    python = ".".join(platform.python_version_tuple()[:2])
    return f"Python {python} on {platform.system()} {platform.machine()}, {', '.join(dict.fromkeys(versions))}"
