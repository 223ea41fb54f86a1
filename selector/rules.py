"""Default rules: what runs until there is evidence. Every learned choice is held against the one made here."""

from __future__ import annotations

from collections.abc import Sequence

from ..executors import registry
from .base import Candidate
from .request import Request

SMALL_WORK = 1e6
"""Below so many elementary operations (about a millisecond) no GPU is considered."""
REPAY = 2.0
"""A GPU must promise this factor over the host, transfer both ways included, before anything was measured."""


def default_of(request: Request, candidates: Sequence[Candidate], work: float, calls: float = 1.0) -> tuple[str, str]:
    """The default variant and the rule behind it; `candidates` stand in canonical order, `calls` are still expected."""
    home = [c for c in candidates if _kind(c) == request.kind and c.device == request.device] or [
        c for c in candidates if c.device == "cpu"
    ]
    if not home:
        return candidates[0].variant, f"only {candidates[0].device} is left"
    first = home[0]
    if request.gradient:
        return first.variant, f"a gradient is needed: {first.backend} differentiates"
    if first.device != "cpu":
        return first.variant, f"the data lies on {first.device}"
    if work >= SMALL_WORK:
        gpus = [c for c in candidates if c.device != "cpu"]
        best = min(gpus, key=lambda c: c.prediction.seconds, default=None)
        if best is not None and best.prediction.seconds * REPAY + best.cold_s / calls < first.prediction.seconds:
            return best.variant, "the data fits the GPU and the work repays the transfer"
    if request.kind != "numpy":
        return first.variant, f"the data is held by {request.kind}"
    return first.variant, f"{first.backend} needs no import and no compilation"


def _kind(candidate: Candidate) -> str:
    return registry.executor(candidate.backend).kind
