"""Errors of this project: a subclass only where a caller would act differently."""

from __future__ import annotations

from collections.abc import Sequence

from ..telemetry.outcome import Failure


class PointsmanError(Exception):
    """Base of every error that pointsman raises of its own accord."""


RAISED = "pointsman: raised by"
"""How the note begins that an exception of a worker gets; "item" or "simulation" follows, and its number."""


def raised_by_worker(error: BaseException) -> bool:
    """Whether a worker of a map raised it: then it is the caller's own, of whatever class it is."""
    begins = (f"{RAISED} item", f"{RAISED} simulation")
    return any(str(note).startswith(begins) for note in getattr(error, "__notes__", ()))


def first_line(error: BaseException) -> str:
    """What an exception says, to the end of the line."""
    return str(error).strip().partition("\n")[0]


class BackendUnavailableError(PointsmanError, ImportError):
    """A backend is missing or broken here; the message says which, and what to do."""


class UnsupportedError(PointsmanError, TypeError):
    """A backend that works cannot compute this request (dtype, gradient, layout, mode)."""


class GradientError(UnsupportedError):
    """A tensor that requires a gradient would have to leave its library: true of these arguments alone."""


class RunTimeoutError(PointsmanError, TimeoutError):
    """The time that a run was given is over; what was done until then stands in its checkpoint, if it has one."""


class WrongResultError(PointsmanError, ArithmeticError):
    """A backend computed something else than the reference; the message holds the evidence."""


class NoCandidateError(PointsmanError, RuntimeError):
    """Nothing is left to try; the message lists each candidate and what happened to it.

    Attributes
    ----------
    failures : (candidate, Failure, message) of each attempt, in order.
    """

    failures: Sequence[tuple[str, Failure, str]] = ()
