"""The summary as tables for people; the data itself is `IntelligentBackendSelector.get_performance_summary`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pointsman.telemetry.show import about, seconds, share
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what was learned, gained, lost and spent.

    Parameters
    ----------
    summary : as `get_performance_summary` gives it.
    console : where to print; None: the standard output.
    """
    console = console or Console()
    if summary["operations"]:
        console.print(_variants(summary["operations"]))
        console.print(
            "sizes stand for classes of about that size; > marks the fastest known. typical (median) and mean are of\n"
            "steady calls, first is the mean of the calls that compiled or were a process's first\n"
        )
    else:
        console.print("Nothing has been recorded yet: run something, for example `pointsman run fft 1000x4096`.")
    if summary["recent_backends"]:
        recent = ", ".join(f"{r['operation']} on {r['variant']}" for r in summary["recent_backends"])
        console.print(f"recent: {recent}", markup=False)
    console.print(
        f"{summary['total_records']} outcomes; against the defaults {seconds(summary['saved_s'])} saved, "
        f"against the best known {seconds(summary['lost_s'])} lost (estimates, steady calls)"
    )
    if summary["imports"]:
        imports = (f"{name} {seconds(told['seconds'])}" for name, told in summary["imports"].items())
        console.print(f"imports: {', '.join(imports)}", markup=False)
    ledger = summary["exploration"].get("in_all", {})  # of all processes; the rest is of this one
    console.print(
        f"exploring: {ledger.get('trials', 0.0):.0f} trials, {seconds(ledger.get('explored_s', 0.0))} lost in them, "
        f"{seconds(ledger.get('earned_s', 0.0))} gained"
    )
    history = summary["history"]
    console.print(f"history: {history['location']} ({history['status']})", soft_wrap=True, markup=False)


def _variants(operations: Mapping[str, Any]) -> Table:
    # Narrow enough for 80 columns, which is what a pipe gets.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant", overflow="fold")
    for name in ("calls", "share", "typical", "mean", "stalls", "first"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7 if name in ("mean", "first") else None)
    for operation, classes in operations.items():
        for one in classes:
            title = " ".join(filter(None, (operation, about(one["shape_class"]), one["dtype"], one["detail"])))
            table.add_row(Text(title, "bold"))
            best = min((v["typical_s"] for v in one["variants"].values() if v["typical_s"] is not None), default=None)
            for name, v in sorted(one["variants"].items(), key=lambda item: item[1]["typical_s"] or float("inf")):
                fastest = v["typical_s"] is not None and v["typical_s"] == best
                table.add_row(Text(f"{'>' if fastest else ' '} {name}"), *_cells(v))
                for kind, count in v["failures"].items():
                    table.add_row(Text(f"    failed {'once' if count == 1 else f'{count} times'}: {kind}"))
            table.add_section()
    return table


def _cells(v: Mapping[str, Any]) -> list[str]:
    return [
        str(v["count"]),
        share(v["share"]),
        _or_dash(v["typical_s"]),
        _or_dash(v["mean_s"]),
        f"{v['stall_rate']:.1%}" if v["stall_rate"] else "-",
        seconds(v["cold_s"]) if v["cold_count"] else "-",
    ]


def _or_dash(s: float | None) -> str:
    return "-" if s is None else seconds(s)
