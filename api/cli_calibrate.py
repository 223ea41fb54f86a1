"""`pointsman calibrate`: its grammar, what it shows while it is at work, and its report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pointsman.cli_inputs import WrongUseError, parse_seconds

WHAT = (
    "measure this machine within a time budget, so that first decisions are informed; a second run goes on where the "
    "first one ended, and Ctrl-C keeps what was measured. Exit code 1 if others kept the machine busy: their share is "
    "recorded as a busy machine's, and the result is not to be trusted for a quiet one, or if it cannot be kept. "
    "130 if interrupted."
)
EXAMPLE = "pointsman calibrate --budget 60 fft matmul"
REDRAW_S = 0.1
SHOWN = ("float64", "float32")
"""Dtypes in the table for people; --json has all of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("operation", metavar="OPERATION", nargs="*", help="names of built-in operations (default: all)")
    parser.add_argument("--budget", type=parse_seconds, default=60.0, metavar="S",
                        help="wall seconds to spend, imports and compiling included (default 60)")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="measure nothing while others keep the machine busy")


def run(arguments: argparse.Namespace) -> int:
    """Calibrate; returns the exit code: 0, 1 if the result is not to be trusted, 130 if interrupted."""
    from pointsman.kernels.calibrate import calibrate
    from rich.console import Console

    console = Console(stderr=arguments.json, highlight=False, soft_wrap=True)
    with _shown(console, arguments.budget, quiet=arguments.json) as tell:
        try:
            result = calibrate(
                arguments.operation or None, budget_s=arguments.budget, strict=arguments.strict, tell=tell
            )
        except ValueError as error:
            raise WrongUseError(str(error)) from error
    if arguments.json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    else:
        _report(console, result)
    if result.obstacle:
        sys.stderr.write(f"pointsman: what was measured is not kept: {result.obstacle}; choose another file with "
                         "POINTSMAN_HISTORY, and run it again\n")  # fmt: skip
    if not result.trusted:
        sys.stderr.write(f"pointsman: {_not_trusted(result)}\n")
    if result.ended == "interrupted":
        return 130
    return 0 if result.trusted and not result.obstacle else 1


@contextmanager
def _shown(console: Any, budget_s: float, *, quiet: bool) -> Iterator[Callable[[Any], None]]:
    """What shows notes as they come: two lines that renew themselves on a terminal, else a line for each lesson."""
    if not console.is_terminal:
        yield lambda note: None if quiet or note.kind == "measuring" else _line(console, note)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    texts = {"measuring": "", "learned": ""}
    drawn = float("-inf")

    # Drawn between measurements only: a thread that redraws would be a busy neighbour of our own.
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def tell(note: Any) -> None:
            nonlocal drawn
            texts["learned" if note.kind == "learned" else "measuring"] = note.text
            if note.kind == "failed":
                _line(console, note)
            if time.monotonic() - drawn < REDRAW_S:
                return
            drawn = time.monotonic()
            head = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=max(budget_s, 1e-9), completed=min(note.spent_s, budget_s), width=30)
            head.add_row(bar, Text(f"{note.spent_s:.0f} of {budget_s:g} s"), Text(texts["measuring"], "cyan"))
            live.update(Group(head, Text(f"learned: {texts['learned']}" if texts["learned"] else "")), refresh=True)

        yield tell


def _line(console: Any, note: Any) -> None:
    from rich.text import Text

    console.print(Text(f"{note.spent_s:5.1f} s  {note.text}"))


def _report(console: Any, result: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = [row for row in result.rows if row.dtype in SHOWN]
    if shown:
        table = Table("operation", "dtype", "fastest, by size", "over the default", "at most",
                      title="what is fastest here", title_justify="left")  # fmt: skip
        for row in shown:
            name = " ".join(filter(None, (row.operation, row.form)))
            most = f"{row.most:.1f}x at {row.most_at:.0e}".replace("e+0", "e")
            table.add_row(*map(Text, (name, row.dtype, row.best, f"{row.gain:.2f}x", most)))
        console.print(table)
    more = len(result.rows) - len(shown)
    if more:
        console.print(f"and {more} more in other dtypes: --json")
    for where, why in result.failures.items():
        console.print(Text(f"left out: {where}: {why}"))
    known = f"; {result.known} measurements were known already" if result.known else ""
    console.print(
        f"{result.samples} samples and {result.first_calls} first calls in {result.spent_s:.1f} of "
        f"{result.budget_s:g} s{known}"
    )
    console.print(Text(f"not kept: {result.obstacle}" if result.obstacle else f"kept in {result.location}"))
    if not result.obstacle:
        console.print(_ENDINGS[result.ended])


_ENDINGS = {
    "budget": "there is more to learn: run it again, and it goes on from here",
    "done": "nothing is left that is worth measuring",
    "interrupted": "interrupted; what was measured is kept: run it again, and it goes on from here",
    "busy": "nothing more was measured, because of --strict",
}


def _not_trusted(result: Any) -> str:
    done = "" if result.ended == "busy" else " What was measured meanwhile counts for a busy machine only."
    return (
        f"the machine is busy: others used up to {result.busy_cores:.1f} cores, so this result is not to be trusted "
        f"for a quiet one.{done} End what is running beside it, and run it again."
    )
