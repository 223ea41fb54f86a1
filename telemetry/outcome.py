"""What one attempt did: the unit that everything above learns from."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

QUIET, BUSY = CONTEXTS = ("quiet", "busy")
"""Loads of the machine that outcomes are labelled with."""


class Failure(StrEnum):
    """Why an attempt gave no result. Only listed causes lead to a fallback."""

    UNAVAILABLE = "unavailable"  # the library is missing or broken, or its device is gone
    UNSUPPORTED = "unsupported"  # this backend cannot compute this request
    OUT_OF_MEMORY = "out of memory"
    DRIVER = "driver"
    TIMEOUT = "timeout"
    WRONG_RESULT = "wrong result"
    USER_ERROR = "user error"  # the caller's own exception: never a reason to fall back


class Site(NamedTuple):
    """One (workload, variant) as the history knows it; made once per table entry, never on the hot path."""

    operation: str
    variant: str
    dtype: str
    shape_class: str  # half-octave class of every axis of every operand, e.g. "20x14|8"
    detail: str = ""  # canonical text of what else the cost depends on: parameters, gradient, residency
    work: float = 1.0  # declared work of exactly this workload (elements where nothing is declared)
    size: int = 1  # elements of the first operand

    @property
    def cell(self) -> Cell:
        """The part that names a sketch: everything but the exact size."""
        return Cell(*self[:5])


class Cell(NamedTuple):
    """The key of one sketch, apart from the context."""

    operation: str
    variant: str
    dtype: str
    shape_class: str
    detail: str


class Outcome(NamedTuple):
    """One attempt. All durations are wall seconds; `seconds` includes the parts named after it."""

    site: Site
    when: float  # unix time at which the attempt ended
    seconds: float
    convert_s: float = 0.0
    transfer_s: float = 0.0
    import_s: float = 0.0
    compile_s: float = 0.0  # a first call's whole compute time: it cannot be told apart
    peak_bytes: int = 0
    failure: Failure | None = None
    message: str = ""
    label: str = ""
    context: str = QUIET
    rule: str = ""  # the rule that chose it: "learned", "explore", "override", ...
    calls: int = 1  # calls it stands for: very short calls are sampled once they are known

    @property
    def cold(self) -> bool:
        """Whether import or compilation is in it: such a time never enters a steady estimate."""
        return self.import_s > 0.0 or self.compile_s > 0.0
