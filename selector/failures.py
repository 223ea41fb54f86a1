"""The listed failures: which exceptions lead to a fallback. Everything else is the caller's own."""

from __future__ import annotations

import sys

from ..executors import registry
from ..executors.errors import (
    BackendUnavailableError,
    GradientError,
    NoCandidateError,
    UnsupportedError,
    raised_by_worker,
)
from ..telemetry.outcome import Failure, Outcome, Site
from .request import DEVICES

CURABLE = frozenset({Failure.DRIVER, Failure.TIMEOUT})
"""Failures that running the very same code again may cure."""


def classify(backend: str, error: BaseException) -> Failure | None:
    """The failure that `error` stands for on `backend`; None: the caller's own, to come out unchanged."""
    if raised_by_worker(error) or isinstance(error, NoCandidateError):
        return None
    if isinstance(error, BackendUnavailableError):
        return Failure.UNAVAILABLE
    if isinstance(error, UnsupportedError):
        return Failure.UNSUPPORTED
    if isinstance(error, ImportError):  # of the library itself: missing, or installed without what it needs
        try:
            library = registry.row(backend).library or backend
        except (ValueError, BackendUnavailableError):
            library = backend
        return Failure.UNAVAILABLE if error.name and error.name.split(".")[0] == library else None
    try:
        executor = registry.executor(backend)
    except (ValueError, BackendUnavailableError):
        return Failure.OUT_OF_MEMORY if isinstance(error, MemoryError) else None
    found = executor.classify(error)
    return None if found is Failure.USER_ERROR else found


def of_these_arguments() -> bool:
    """Whether the error being handled tells of this call's arguments alone, so that it must keep no variant out."""
    return isinstance(sys.exc_info()[1], GradientError)


def import_outcome(backend: str, seconds: float, when: float, rule: str = "") -> Outcome:
    """What importing a library cost, as an outcome of its own: it belongs to no single operation."""
    return Outcome(Site("import", backend, "", "", ""), when, seconds, import_s=seconds, rule=rule)


def nothing_left(what: str, excluded: list[tuple[str, str]], insists: str | None, who: str) -> NoCandidateError:
    """The error for a request that no variant may run; `insists` is what `who` demands."""
    listed = "\n".join(f"  {name}: {why}" for name, why in excluded)
    asked = f"{insists!r} is demanded by {who}, and " if insists else ""
    if insists and insists not in DEVICES:
        listed = "\n".join(f"  {n}: {w}" for n, w in excluded if "is required" not in w) or (
            f"  there is no variant on {insists}"
        )
        try:
            missing = registry.available(insists.partition("@")[0].partition("/")[0])
        except (ValueError, BackendUnavailableError) as error:
            missing = str(error)
        if missing:
            return _Unavailable(f"{what}: {asked}it cannot run: {missing}")
    return NoCandidateError(
        f"no backend can run {what}: {asked}every candidate is excluded:\n{listed}\n"
        "Relax the constraint named above, install another backend, or pass NumPy arrays."
    )


class _Unavailable(NoCandidateError, BackendUnavailableError):
    """A demanded backend is missing: also an ImportError."""
