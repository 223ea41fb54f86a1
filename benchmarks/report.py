"""Rows of figures, as text for a terminal, as Markdown for README.md, and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- {name}: begin (generated) -->", "<!-- {name}: end -->"
RATIOS_BELOW_S = 1e-3  # how many empty calls an import takes tells nobody anything


@dataclass(frozen=True)
class Row:
    """One figure in seconds, and what it should be."""

    part: str
    name: str
    seconds: float
    statistic: str = "median"
    target_s: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        return None if self.target_s is None else self.seconds <= self.target_s


@dataclass(frozen=True)
class Report:
    """All rows of one run, with what they are compared to and under which conditions they were measured."""

    conditions: dict[str, Any]
    load: dict[str, dict[str, Any]]
    bases: dict[str, float]  # name -> seconds: what ratios refer to, measured in the same rounds
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [{**asdict(row), "met": row.met, "ratios": self.ratios(row)} for row in self.rows]
        return {"conditions": self.conditions, "load": self.load, "bases_s": self.bases, "rows": rows}

    def ratios(self, row: Row) -> dict[str, float]:
        """`row` in units of each base."""
        if row.seconds >= RATIOS_BELOW_S:
            return {}
        return {name: row.seconds / base for name, base in self.bases.items()}

    def header(self) -> list[str]:
        """Conditions, one line each."""
        about = self.conditions
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        load = "; ".join(
            f"{part} {'BUSY' if seen['busy'] else 'quiet'} ({seen['other_cores']:.2f} cores used by others)"
            for part, seen in self.load.items()
        )
        bases = ", ".join(f"{name} {seconds_text(base)}" for name, base in self.bases.items())
        return [
            f"{about['date']}; {about['machine']}; Python {about['python']}; {versions}",
            f"load: {load}",
            f"ratios are to, in the same rounds: {bases}",
        ]

    def table(self) -> list[list[str]]:
        """Head and rows as texts."""
        bases = list(self.bases)
        lines = [["what", "statistic", "figure", "target", "met", *(f"x {name}" for name in bases), "note"]]
        for row in self.rows:
            ratios = self.ratios(row)
            met = {None: "", True: "yes", False: "NO"}[row.met]
            target = "" if row.target_s is None else seconds_text(row.target_s)
            shown = [f"{ratios[name]:.3g}" if name in ratios else "" for name in bases]
            lines.append([row.name, row.statistic, seconds_text(row.seconds), target, met, *shown, row.note])
        return lines

    def missed(self) -> list[Row]:
        """Rows whose target is not reached."""
        return [row for row in self.rows if row.met is False]

    def summary(self) -> str:
        """How many targets are met, and which are not."""
        judged = [row for row in self.rows if row.met is not None]
        missed = ", ".join(f"{row.name} ({row.seconds / (row.target_s or 1.0):.2f}x)" for row in self.missed())
        return f"{len(judged) - len(self.missed())} of {len(judged)} targets met" + (
            f"; missed: {missed}" if missed else ""
        )


def print_report(report: Report) -> None:
    """Print conditions and table, aligned."""
    lines = report.table()
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    print("\n".join(report.header()))
    part = ""
    for row, line in zip([None, *report.rows], lines, strict=True):
        if row is not None and row.part != part:
            part = row.part
            print(f"-- {part}")
        cells = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=False))
        ]
        print("  ".join([*cells, line[-1]]).rstrip())
    print(report.summary())


def markdown(report: Report) -> str:
    """The same for README.md."""
    head, *lines = report.table()
    out = [*(f"- {line}" for line in report.header()), f"- {report.summary()}", ""]
    out += [_cells(head), _cells(["---", "---", *("---:" for _ in head[2:-1]), "---"])]
    out += [_cells(line) for line in lines]
    return "\n".join(out)


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name` in a file; ValueError where there are none."""
    whole = path.read_text(encoding="utf-8")
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path.name} has no place for the table; it needs the lines {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def seconds_text(seconds: float) -> str:
    """Seconds in the unit people read, two or three digits."""
    size = abs(seconds)
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if size >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
