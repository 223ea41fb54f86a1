"""Runs candidates in order until one gives a result. Only listed failures lead on to the next."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ..telemetry.outcome import Failure
from .errors import BackendUnavailableError, NoCandidateError, UnsupportedError


class Attempt(NamedTuple):
    """One candidate: its name, how to run it, and which failure an exception of it stands for."""

    name: str
    call: Callable[[], Any]
    classify: Callable[[BaseException], Failure | None]


class OnOutcome(Protocol):
    """Is told about every attempt, in order; `failure` None means that it gave the result."""

    def __call__(self, attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None: ...


_ADVICE = {
    Failure.UNAVAILABLE: "install or repair it, or leave it out",
    Failure.UNSUPPORTED: "ask for another dtype or mode, or leave this backend out",
    Failure.OUT_OF_MEMORY: "make the problem smaller or work in pieces",
    Failure.DRIVER: "check the device and its driver; POINTSMAN_DISABLE_GPU=1 keeps off it",
    Failure.TIMEOUT: "allow more time or make the problem smaller",
    Failure.WRONG_RESULT: "report it: this variant must not be used",
}


def run_chain(
    attempts: Sequence[Attempt], *, on_outcome: OnOutcome, clock: Callable[[], float] = time.perf_counter
) -> Any:
    """The result of the first attempt that gives one.

    An exception that `classify` lists is reported and leads to the next attempt. Any other is the caller's own: it is
    reported as a user error and comes out unchanged at once. KeyboardInterrupt, SystemExit and GeneratorExit come out
    unreported.

    Raises
    ------
    NoCandidateError : nothing is left. `failures` holds (name, failure, message) of each attempt.
    """
    failures: list[tuple[str, Failure, str]] = []
    last: Exception | None = None
    for attempt in attempts:
        started = clock()
        try:
            result = attempt.call()
        except Exception as error:
            seconds = clock() - started
            failure = own_failure(error) or attempt.classify(error) or Failure.USER_ERROR
            message = f"{type(error).__name__}: {error}"
            on_outcome(attempt, seconds, failure, message)
            if failure is Failure.USER_ERROR:
                raise
            failures.append((attempt.name, failure, message))
            last = error
        else:
            on_outcome(attempt, clock() - started, None, "")
            return result
        # The frames hold the failed attempt's arrays, and after running out of memory the next one needs the room.
        traceback.clear_frames(last.__traceback__)
    raise _nothing_left(failures) from last


def own_failure(error: BaseException) -> Failure | None:
    """The failure that one of our own errors stands for, whichever executor was at work."""
    if isinstance(error, NoCandidateError):
        return None  # a call inside the caller's function found nothing to run it: his own error here
    if isinstance(error, BackendUnavailableError):
        return Failure.UNAVAILABLE
    return Failure.UNSUPPORTED if isinstance(error, UnsupportedError) else None


def _nothing_left(failures: list[tuple[str, Failure, str]]) -> NoCandidateError:
    if not failures:
        return _with_failures("there is no candidate to run: give at least one backend that can", failures)
    lines = [f"none of {len(failures)} candidates gave a result:"]
    for name, failure, message in failures:
        first = message.strip().splitlines()[0][:300]
        lines.append(f"  {name}: {failure} ({first}); {_ADVICE[failure]}")
    return _with_failures("\n".join(lines), failures)


def _with_failures(text: str, failures: list[tuple[str, Failure, str]]) -> NoCandidateError:
    error = NoCandidateError(text)
    error.failures = failures
    return error
