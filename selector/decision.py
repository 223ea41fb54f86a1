"""The decision: what was chosen, what comes next if it fails, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..telemetry.show import folded, paragraph, seconds, table
from .base import Candidate


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice with its reasons; deciding again with the same table gives the same decision.

    Attributes
    ----------
    operation, workload : name, and the workload in one line.
    variant, backend, device : what will run.
    chain : variants in the order in which they would be tried; the first is the chosen one.
    rule : "override", "required", "pinned", "learned", "prior", "guard", "default", "deterministic"; "untouched" for arguments
        that pointsman leaves alone.
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

    def counterfactual(self, variant: str) -> str:
        """What `variant` would take instead, in one line."""
        found = self.candidate(variant)
        if found is None:
            why = dict(self.excluded).get(variant, f"it is not among the candidates: {', '.join(self.chain)}")
            return f"{variant} would not run: {why}"
        p = found.prediction
        cold = f", and {seconds(found.cold_s)} once before" if found.cold_s else ""
        return f"{variant} would take {seconds(p.seconds)} ({seconds(p.low)} to {seconds(p.high)}){cold}"

    def explain(self) -> str:
        """The decision as text for people."""
        why, *words = self._words()
        lines = [f"{self.workload}", f"-> {self.variant}  {why}", *(f"   {line}" for line in words)]
        if self.candidates:
            width = max(len(c.variant) for c in self.candidates)
            lines.append(f"   {'candidate':<{width}}  expected     90 % interval           once before  evidence")
            for c in self.candidates:
                p = c.prediction
                interval = f"{seconds(p.low)} to {seconds(p.high)}"
                cold = seconds(c.cold_s) if c.cold_s else "-"
                evidence = f"{p.evidence} measured" if p.evidence else p.source
                mark = ">" if c.variant == self.variant else " "
                lines.append(
                    f" {mark} {c.variant:<{width}}  {seconds(p.seconds):<11}  {interval:<22}  {cold:<11}  {evidence}"
                )
        lines += [f"   not {name}: {why}" for name, why in self.excluded]
        lines += [f"   {line}" for line in self._outlook()]
        return "\n".join(lines)

    __str__ = explain

    def _repr_html_(self) -> str:
        """The decision as a notebook shows it; names and messages in it are escaped."""
        rows = []
        for c in self.candidates:
            p = c.prediction
            cells = (
                c.variant, seconds(p.seconds), f"{seconds(p.low)} to {seconds(p.high)}",
                seconds(c.cold_s) if c.cold_s else "-", f"{p.evidence} measured" if p.evidence else p.source,
            )  # fmt: skip
            rows.append(("chosen" if c.variant == self.variant else "", cells))
        columns = ("candidate", "expected", "90 % interval", "once before", "evidence")
        return "".join(
            [
                paragraph(f"{self.workload} \u2192 {self.variant}", strong=True),
                *(paragraph(line) for line in self._words()),
                table(columns, rows) if rows else "",
                folded(f"{len(self.excluded)} excluded", self.excluded),
                *(paragraph(line) for line in self._outlook()),
            ]
        )

    def _words(self) -> list[str]:
        """Why, by what and against which wish, a line each."""
        words = [f"[{self.rule}] {self.reason}", f"decided by {self.set_by}" if self.set_by else "", self.passed_over]
        return [line for line in words if line]

    def _outlook(self) -> list[str]:
        """What is to come, a line each."""
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
                    "import_s": c.import_s,
                    "compile_s": c.compile_s,
                    "evidence": c.prediction.evidence,
                    "source": c.prediction.source,
                }
                for c in self.candidates
            ],
            "excluded": [{"variant": name, "reason": why} for name, why in self.excluded],
            "calls": self.calls,
            "trial": self.trial,
            "context": self.context,
            "table": self.table,
            "notes": list(self.notes),
        }


def left_alone(operation: str, values: Iterable[object]) -> Decision:
    """The decision not to decide: `values` hold what is masked, labelled, traced or the like."""
    kinds = dict.fromkeys(type(value).__qualname__ for value in values)
    return Decision(
        operation, f"{operation} of {', '.join(kinds)}", "original", "", "", ("original",), "untouched",
        "such arguments are left alone: the function itself runs, and nothing is recorded",
    )  # fmt: skip
