"""A decision as a terminal shows it; as plain text, `Decision.explain` says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pointsman.selector.decision import COLUMNS
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pointsman.selector.decision import Decision


def print_decision(decision: Decision, console: Console | None = None) -> None:
    """Print what was chosen, why, and what each candidate would take.

    Parameters
    ----------
    decision : as `decide` or `explain` gives it.
    console : where to print; None: the standard output.
    """
    console = console or Console()

    def line(text: str, style: str = "") -> None:
        # Text: brackets in a name or a message are no markup.
        console.print(Padding(Text(text, style), (0, 0, 0, 3), expand=False))

    console.print(Text(decision.workload))
    why, *words = decision.reasons()
    console.print(Text.assemble("-> ", (decision.variant, "bold green"), f"  {why}"))
    for text in words:
        line(text)
    if decision.candidates:
        console.print(_candidates(decision))
    for text in decision.losers():
        line(text)
    for name, reason in decision.excluded:
        line(f"not {name}: {reason}", "dim")
    for text in decision.outlook():
        line(text)


def _candidates(decision: Decision) -> Table:
    # Narrow enough for 80 columns.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    first, *others = COLUMNS
    table.add_column(f"  {first}", overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name == "evidence" else "right", no_wrap=True)
    for chosen, (variant, *cells) in decision.rows():
        style = "bold green" if chosen else ""
        table.add_row(Text(f"{'>' if chosen else ' '} {variant}"), *map(Text, cells), style=style)
    return table
