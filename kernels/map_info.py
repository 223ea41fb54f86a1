"""What a map tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..selector.decision import Decision
from ..telemetry.outcome import Failure
from ..telemetry.show import paragraph
from ..telemetry.show import seconds as readable


@dataclass
class MapInfo:
    """What a map did, and why.

    Attributes
    ----------
    variant : where the items ran that did not run in the pilot: "sequential", "joblib/threads", "joblib/loky".
    reason : one sentence.
    decision : the whole decision; None where the run was too short for one, or there was nothing to choose.
    items, in_place : how many there were, and how many of them ran in the caller's thread.
    item_s : wall seconds of one, as last measured.
    n_jobs, chunks, chunk_size : workers at a time, and what was handed over to them; 0 where nothing was.
    failures : (variant, failure, message) of each attempt that did not give all results.
    seconds : wall seconds of the whole map.
    """

    items: int = 0
    variant: str = "sequential"
    reason: str = ""
    decision: Decision | None = None
    in_place: int = 0
    item_s: float = 0.0
    n_jobs: int = 0
    chunks: int = 0
    chunk_size: int = 0
    failures: list[tuple[str, Failure, str]] = field(default_factory=list)
    seconds: float = 0.0

    def explain(self) -> str:
        """The same as text for people."""
        return "\n".join([*self._lines(), *(self.decision.explain().splitlines() if self.decision else [])])

    __str__ = explain

    def _repr_html_(self) -> str:
        """The same as a notebook shows it; names and messages in it are escaped."""
        first, *rest = self._lines()
        decision = self.decision._repr_html_() if self.decision else ""
        return "".join([paragraph(first, strong=True), *(paragraph(line.strip()) for line in rest), decision])

    def _lines(self) -> list[str]:
        """What is told before the decision."""
        lines = [f"{self._what()} in {readable(self.seconds)} on {self.variant}: {self.reason}"]
        if self.chunks:
            lines.append(
                f"   {self.in_place} in place, {max(0, self._count() - self.in_place)} in {self.chunks} chunks of "
                f"{self.chunk_size} or fewer on {self.n_jobs} workers"
            )
            lines.append(f"   one after the other they would have taken {readable(self._count() * self.item_s)}")
        return lines + [f"   {name} failed, {failure}: {message}" for name, failure, message in self.failures]

    def _what(self) -> str:
        return f"{self.items} items"

    def _count(self) -> int:
        return self.items
