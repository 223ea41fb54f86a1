"""How numbers are shown to people: units they know, and tables for notebooks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Row = tuple[str, Sequence[str]]
"""What kind of row it is ("", "chosen" or "title"), and its cells; a title has one, which spans the table."""

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
WIDE = 0.5
"""An interval is told by its ends where half of it exceeds this share of the value."""

_CELL = "padding:1px 12px 1px 0;text-align:left;background:none;vertical-align:top"
_STYLES = {"": _CELL, "chosen": f"{_CELL};font-weight:bold", "title": f"{_CELL};padding-top:10px;font-style:italic"}


def seconds(s: float) -> str:
    """Seconds in the unit people read: "3.1 ms"."""
    factor, unit = _unit(s)
    return f"{s / factor:.3g} {unit}"


def give_or_take(s: float, low: float, high: float) -> str:
    """Seconds with the interval around them: "3.1 ms +- 0.2"; a wide one by its ends, "3.1 ms (900 us to 11 ms)".

    Intervals are those of log-normal beliefs: only narrow ones are near enough to symmetric to be told by one number.
    """
    half = 0.5 * (high - low)
    if half > WIDE * s:
        return f"{seconds(s)} ({seconds(low)} to {seconds(high)})"
    factor, unit = _unit(s)
    if half < 1e-3 * factor:
        return seconds(s)
    decimals = max(0, -math.floor(math.log10(half / factor)))
    return f"{s / factor:.{decimals}f} {unit} +- {half / factor:.{decimals}f}"


def times(ratio: float) -> str:
    """A ratio of durations in words: "1.4x as long"."""
    if 0.97 < ratio < 1.03:
        return "about as long"
    if ratio >= 100:
        return f"{ratio:.0f}x as long"
    return f"{ratio:.{3 if 0.9 < ratio < 1.1 else 2}g}x as long"


def _unit(s: float) -> tuple[float, str]:
    return next((found for found in UNITS if abs(s) >= found[0]), (1e-9, "ns"))


def about(shape_class: str) -> str:
    """A class of shapes as sizes people know: "20x14|8" is "1024x128 16"."""
    operands = [
        "x".join("0" if axis == "e" else f"{2 ** (int(axis) / 2):.0f}" for axis in operand.split("x"))
        for operand in shape_class.split("|")
        if operand
    ]
    return " ".join(operands)


def share(part: float) -> str:
    """A share in percent, small ones as "<1%"."""
    return f"{part:.0%}" if not 0.0 < part < 0.005 else "<1%"


def paragraph(text: str, *, strong: bool = False) -> str:
    """`text` as HTML, escaped: names of operations and messages of errors are other people's words."""
    weight = "font-weight:bold;" if strong else ""
    return f'<div style="{weight}margin:2px 0">{escape(text)}</div>'


def table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """An HTML table in whatever colours the notebook has; every cell is escaped."""
    head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in columns)
    body = "".join(_row(kind, cells, len(columns)) for kind, cells in rows)
    return f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def folded(title: str, rows: Sequence[Sequence[str]]) -> str:
    """Rows that a click on `title` shows; nothing where there are none."""
    if not rows:
        return ""
    body = "".join(_row("", cells, 0) for cells in rows)
    return f"<details><summary>{escape(title)}</summary><table><tbody>{body}</tbody></table></details>"


def _row(kind: str, cells: Sequence[str], width: int) -> str:
    span = f' colspan="{width}"' if kind == "title" else ""
    inner = "".join(f'<td{span} style="{_STYLES[kind]}">{escape(cell)}</td>' for cell in cells)
    return f"<tr>{inner}</tr>"


def summary_html(summary: Mapping[str, Any]) -> str:
    """A performance summary as HTML: totals, then a table of size classes and variants."""
    totals = (
        f"{summary['total_records']} outcomes; against the defaults {seconds(summary['saved_s'])} saved, "
        f"against the best known {seconds(summary['lost_s'])} lost (estimates, steady calls)"
    )
    rows: list[Row] = []
    failures: list[Sequence[str]] = []
    for operation, classes in summary["operations"].items():
        for one in classes:
            title = " ".join(filter(None, (operation, about(one["shape_class"]), one["dtype"], one["detail"])))
            rows.append(("title", [title]))
            known = {name: v for name, v in one["variants"].items() if v["typical_s"] is not None}
            best = min(known, key=lambda name: known[name]["typical_s"], default=None)
            for name, v in sorted(one["variants"].items(), key=lambda item: item[1]["typical_s"] or float("inf")):
                rows.append(("chosen" if name == best else "", [name, *_cells(v)]))
                failures += [(title, name, f"{count} x {kind}", v["last_failure"] or "")
                             for kind, count in v["failures"].items()]  # fmt: skip
    columns = ("variant", "calls", "share", "typical", "mean", "stalls", "first calls")
    history = summary["history"]
    return (
        paragraph(totals)
        + (table(columns, rows) if rows else paragraph("Nothing has been recorded yet."))
        + folded("failures", failures)
        + paragraph(f"history: {history['location']} ({history['status']})")
    )


def _cells(v: Mapping[str, Any]) -> list[str]:
    return [
        str(v["count"]),
        share(v["share"]),
        "-" if v["typical_s"] is None else seconds(v["typical_s"]),
        "-" if v["mean_s"] is None else seconds(v["mean_s"]),
        f"{v['stall_rate']:.1%}" if v["stall_rate"] else "-",
        seconds(v["cold_s"]) if v["cold_count"] else "-",
    ]
