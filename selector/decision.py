"""The decision: what was chosen, what comes next if it fails, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..telemetry.show import folded, give_or_take, paragraph, seconds, table, times
from .base import Candidate, Prediction

ORDER = ("call", "scope", "process", "environment", "lock", "learned", "default")
"""Who may decide; whoever stands further to the left goes over the others."""
COLUMNS = ("candidate", "expected", "90 % interval", "once before", "evidence")
LOSERS = 2
"""So many of those that were not chosen are told of in words."""
_BEHIND = {
    "nearby": "measured at other sizes or loads only",
    "prior": "not measured: a prior",
    "guess": "not measured: a guess",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice with its reasons; deciding again with the same table gives the same decision.

    Attributes
    ----------
    operation, workload : name, and the workload in one line.
    variant, backend, device : what will run.
    chain : variants in the order in which they would be tried; the first is the chosen one.
    rule : "override", "required", "pinned", "learned", "prior", "guard", "default", "deterministic"; "untouched" for
        arguments that pointsman leaves alone.
    reason : one sentence.
    set_by : the variable, argument or scope that decided; empty where none did.
    candidates : every candidate with its prediction, in chain order.
    excluded : (variant, sentence why not).
    passed_over : why a preferred backend was not taken; empty where none was asked for, or it was taken.
    calls : calls of this signature still expected.
    trial : a variant that the next executed call may try, or None.
    context : load under which the choice holds ("quiet" or "busy").
    table : number of the table epoch that the decision belongs to.
    """

    operation: str
    workload: str
    variant: str
    backend: str
    device: str
    chain: tuple[str, ...]
    rule: str
    reason: str
    set_by: str = ""
    candidates: tuple[Candidate, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    passed_over: str = ""
    calls: float = 1.0
    trial: str | None = None
    context: str = "quiet"
    table: int = 0
    default: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def predicted_s(self) -> float | None:
        """Typical seconds expected of the chosen variant, without cold costs."""
        found = self.candidate(self.variant)
        return found.prediction.seconds if found else None

    def candidate(self, variant: str) -> Candidate | None:
        """The candidate called `variant`, or None."""
        return next((c for c in self.candidates if c.variant == variant), None)

    @property
    def level(self) -> str:
        """Which of `ORDER` decided."""
        if not self.set_by:
            return "learned" if self.rule in ("learned", "prior") else "default"
        if self.rule == "pinned":
            return "lock"
        if self.set_by.startswith(("require=", "preferred_backend=")):
            return "call"
        if self.set_by.startswith("use("):
            return "scope"
        return "environment" if self.set_by.startswith("POINTSMAN_") else "process"

    def counterfactual(self, variant: str) -> str:
        """What `variant` would take instead, in one line, with the evidence behind that."""
        found = self.candidate(variant)
        if found is None:
            why = dict(self.excluded).get(variant, f"it is not among the candidates: {', '.join(self.chain)}")
            return f"{variant} would not run: {why}"
        p, mine = found.prediction, self.predicted_s
        against = f", {times(p.seconds / mine)}" if mine and variant != self.variant else ""
        cold = f", and {seconds(found.cold_s)} once before" if found.cold_s > p.seconds else ""
        behind = f"{p.evidence} measured" if p.evidence else _BEHIND.get(p.source, p.source)
        return f"{variant} would take {give_or_take(p.seconds, p.low, p.high)}{against}{cold} ({behind})"

    def explain(self) -> str:
        """The decision as text for people."""
        why, *words = self.reasons()
        lines = [f"{self.workload}", f"-> {self.variant}  {why}", *(f"   {line}" for line in words)]
        rows = self.rows()
        if rows:
            grid = [COLUMNS, *(cells for _, cells in rows)]
            widths = [max(len(row[i]) for row in grid) for i in range(len(COLUMNS))]
            marks = [" ", *(">" if chosen else " " for chosen, _ in rows)]
            for mark, row in zip(marks, grid, strict=True):
                cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append(f" {mark} {cells}".rstrip())
        lines += [f"   {line}" for line in self.losers()]
        lines += [f"   not {name}: {why}" for name, why in self.excluded]
        lines += [f"   {line}" for line in self.outlook()]
        return "\n".join(lines)

    __str__ = explain

    def _repr_html_(self) -> str:
        """The decision as a notebook shows it; names and messages in it are escaped."""
        rows = [("chosen" if chosen else "", cells) for chosen, cells in self.rows()]
        return "".join(
            [
                paragraph(f"{self.workload} \u2192 {self.variant}", strong=True),
                *(paragraph(line) for line in self.reasons()),
                table(COLUMNS, rows) if rows else "",
                *(paragraph(line) for line in self.losers()),
                folded(f"{len(self.excluded)} excluded", self.excluded),
                *(paragraph(line) for line in self.outlook()),
            ]
        )

    def reasons(self) -> list[str]:
        """Why, by what and against which wish, a line each."""
        chain = " > ".join(f"[{name}]" if name == self.level else name for name in ORDER)
        decided = f"decided by {self.set_by}: {chain}" if self.set_by else ""
        return [line for line in (f"[{self.rule}] {self.reason}", decided, self.passed_over) if line]

    def rows(self) -> list[tuple[bool, tuple[str, ...]]]:
        """For each candidate, in chain order, whether it is chosen, and its cells under `COLUMNS`."""
        return [(c.variant == self.variant, _cells(c)) for c in self.candidates]

    def losers(self) -> list[str]:
        """What those would take that are quickest once warm, after the chosen one or before it, a line each."""
        others = sorted((c for c in self.candidates if c.variant != self.variant), key=lambda c: c.prediction.seconds)
        return [self.counterfactual(c.variant) for c in others[:LOSERS]]

    def outlook(self) -> list[str]:
        """What is to come, and where the decision belongs, a line each."""
        trial = [f"the next executed call may try {self.trial}, to find out"] if self.trial else []
        more = "call" if self.calls == 1 else "calls"
        last = f"{self.calls:.3g} more {more} expected; table {self.table}, {self.context} machine"
        return [*trial, *self.notes, last]

    def to_json(self) -> dict[str, Any]:
        """The decision as plain data: json.dumps takes it, and nothing is lost that `explain` shows."""
        return {
            "operation": self.operation,
            "workload": self.workload,
            "variant": self.variant,
            "backend": self.backend,
            "device": self.device,
            "chain": list(self.chain),
            "rule": self.rule,
            "reason": self.reason,
            "set_by": self.set_by,
            "level": self.level,
            "passed_over": self.passed_over,
            "default": self.default,
            "candidates": [
                {
                    "variant": c.variant,
                    "backend": c.backend,
                    "device": c.device,
                    "expected_s": c.prediction.seconds,
                    "low_s": c.prediction.low,
                    "high_s": c.prediction.high,
                    "mean_s": c.prediction.mean_s,
                    "import_s": c.import_s,
                    "compile_s": c.compile_s,
                    "evidence": c.prediction.evidence,
                    "source": c.prediction.source,
                }
                for c in self.candidates
            ],
            "counterfactuals": self.losers(),
            "excluded": [{"variant": name, "reason": why} for name, why in self.excluded],
            "calls": self.calls,
            "trial": self.trial,
            "context": self.context,
            "table": self.table,
            "notes": list(self.notes),
        }


def _cells(candidate: Candidate) -> tuple[str, ...]:
    p: Prediction = candidate.prediction
    cold = seconds(candidate.cold_s) if candidate.cold_s else "-"
    evidence = f"{p.evidence} measured" if p.evidence else p.source
    return candidate.variant, seconds(p.seconds), f"{seconds(p.low)} to {seconds(p.high)}", cold, evidence


def left_alone(operation: str, values: Iterable[object]) -> Decision:
    """The decision not to decide: `values` hold what is masked, labelled, traced or the like."""
    kinds = dict.fromkeys(type(value).__qualname__ for value in values)
    return Decision(
        operation, f"{operation} of {', '.join(kinds)}", "original", "", "", ("original",), "untouched",
        "such arguments are left alone: the function itself runs, and nothing is recorded",
    )  # fmt: skip
