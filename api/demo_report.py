"""What the demo prints at its end: choices, totals against the oracle and each fixed backend, the cost of learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pointsman as pm
from pointsman.telemetry.show import seconds as _time
from rich.box import SIMPLE_HEAD
from rich.table import Table

Times = dict[str, dict[str, float]]
"""job -> variant, or "pointsman" -> mean seconds of one call"""

WIDE = 124
"""Columns of a terminal from which on everything is shown."""


class Job(Protocol):
    """What a report needs to know of a kind of call."""

    title: str
    calls: int

    def explain(self) -> pm.Decision:
        """What would run now."""
        ...


def report(
    console: Any, work: Sequence[Job], ran: dict[str, Any], table: Times, first: dict[str, str],
    before: int,
) -> None:  # fmt: skip
    """Print what was chosen, what it took against the others, and what learning cost."""
    chosen = Table(
        title="what is chosen now", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    left, right = ("job", "at the start", "now", "which is"), ("calls", "takes", "NumPy", "best")
    shown = ["job", "now", "takes", "NumPy", "best"]
    if console.width >= WIDE:
        shown = ["job", "calls", "at the start", "now", "takes", "NumPy", "best", "which is"]
    for heading in shown:
        least = None if heading in left else 7  # a number that is cut off says nothing
        chosen.add_column(heading, justify="left" if heading in left else "right", no_wrap=True, min_width=least)
    for job in work:
        decision, row = job.explain(), table[job.title]
        best_s, best = min((s, name) for name, s in row.items() if name != "pointsman")
        text = (job.title, first[job.title], decision.variant, best)
        numbers = (str(job.calls), _time(row["pointsman"]), _time(_numpy(row)), _time(best_s))
        cells = dict(zip((*left, *right), (*text, *numbers), strict=True))
        chosen.add_row(*(cells[heading] for heading in shown))
    console.print(chosen)
    rows = totals(work, table)
    oracle = rows[0][1]
    title = f"the stream's {len(ran['calls']):,} calls under each policy"
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("policy", "seconds", "x oracle", ""):
        out.add_column(heading, justify="right" if heading in ("seconds", "x oracle") else "left", no_wrap=True)
    for name, seconds, note in rows:
        out.add_row(name, f"{seconds:.3f}", f"{seconds / oracle:.3f}", note)
    spent = float(ran["seconds"].sum())
    out.add_row("pointsman, this run", f"{spent:.3f}", f"{spent / oracle:.3f}", "imports, compiling, trials")
    console.print(out)
    console.print("checked results only; where a backend lacks a job, NumPy does it; fixed backends import for free")
    _paid_back(console, ran, table, rows)
    summary = pm.default_selector().get_performance_summary()
    ledger = summary["exploration"]
    console.print(
        f"learning: {ledger['trials']:.0f} trials, {ledger['explored_s']:.2f} s lost in them, "
        f"{ledger['earned_by_exploring_s']:.2f} s gained; allowance {ledger['allowance_s']:.0f} s, "
        f"overshoot {ledger['overshoot_s']:.2f} s\n"
        f"history: {summary['total_records']:,} outcomes ({before:,} of them from before this run), by which "
        f"{summary['saved_s']:.1f} s were saved against the defaults and {summary['lost_s']:.1f} s lost against the "
        "best known"
    )
    console.print(f"it lies in {summary['history']['location']}", soft_wrap=True, highlight=False)
    console.print(
        "see it with `pointsman summary`, ask with `pointsman explain fft 1000x4096`; run this again to start from it"
    )


def _paid_back(console: Any, ran: dict[str, Any], table: Times, rows: Any) -> None:
    """After how many calls learning had paid for itself, against the best single backend."""
    fixed = min((r for r in rows if r[0].startswith("always")), key=lambda r: r[1])
    backend = fixed[0].removeprefix("always ")
    other = np.array([_always(table, backend, job.title) for job in ran["calls"]])
    default = np.array([_numpy(table[j.title]) for j in ran["calls"]])
    for name, costs in ((f"always {backend} (the best single backend)", other), ("always numpy", default)):
        ahead = np.cumsum(costs) - np.cumsum(ran["seconds"])
        behind = np.nonzero(ahead < 0)[0]
        if ahead[-1] >= 0:
            last = int(behind[-1]) + 2 if behind.size else 1
            console.print(
                f"learning paid for itself against {name} after {last:,} calls; ahead by {ahead[-1]:.2f} s at the end"
            )
        else:
            lead = float(np.mean(costs[ran["cut"] :] - ran["seconds"][ran["cut"] :]))
            more = f"{-ahead[-1] / lead:,.0f} more calls like the last ones" if lead > 0 else "never at this rate"
            console.print(
                f"learning has not yet paid for itself against {name}: {-ahead[-1]:.2f} s behind; it will after {more}"
            )


def totals(work: Sequence[Job], table: Times) -> list[tuple[str, float, str]]:
    """Seconds of the whole stream under each policy, from the same table of times."""
    count = {job.title: job.calls for job in work}
    rows = []

    def total(pick: Callable[[str], float]) -> float:
        return sum(count[title] * pick(title) for title in table)

    rows.append(("oracle, the best each time", total(lambda t: _best(table[t])), ""))
    rows.append(("pointsman, learned", total(lambda t: table[t]["pointsman"]), "its own overhead included"))
    backends = sorted({name.partition("/")[0] for row in table.values() for name in row} - {"pointsman"})
    for backend in backends:
        lacking = [t for t in table if _of_backend(table[t], backend) is None]
        note = f"lacks {len(lacking)} of {len(table)} jobs" if lacking else ""
        rows.append((f"always {backend}", total(partial(_always, table, backend)), note))
    return rows


def _always(table: Times, backend: str, title: str) -> float:
    """Seconds of a job on this backend whatever happens; NumPy's where the backend cannot do it."""
    return _of_backend(table[title], backend) or _numpy(table[title])


def _best(row: dict[str, float]) -> float:
    return min(seconds for name, seconds in row.items() if name != "pointsman")


def _of_backend(row: dict[str, float], backend: str) -> float | None:
    """The backend's plain variant, else the best of its variants: the kindest reading of "always"."""
    own = [s for name, s in row.items() if name.partition("/")[0] == backend]
    return min(own) if own else None


def _numpy(row: dict[str, float]) -> float:
    return _of_backend(row, "numpy") or max(row.values())
