"""Runs candidates in order until one gives a result. Only listed failures lead on to the next."""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ..telemetry.outcome import Failure
from . import registry
from .errors import BackendUnavailableError, NoCandidateError, UnsupportedError, WrongResultError, raised_by_worker


class Attempt(NamedTuple):
    """One candidate: its name, how to run it, and which failure an exception of it stands for.

    `again` runs it once more after it ran out of memory and what could be freed was; None: it must not run twice.
    """

    name: str
    call: Callable[[], Any]
    classify: Callable[[BaseException], Failure | None]
    again: Callable[[], Any] | None = None


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
    attempts: Sequence[Attempt], *, on_outcome: OnOutcome, clock: Callable[[], float] = time.perf_counter,
    fail_fast: bool = False, free: Callable[[], None] | None = None,
) -> Any:  # fmt: skip
    """The result of the first attempt that gives one.

    An exception that `classify` lists is reported and leads to the next attempt. Any other is the caller's own: it is
    reported as a user error and comes out unchanged at once. KeyboardInterrupt, SystemExit and GeneratorExit come out
    unreported.

    Parameters
    ----------
    on_outcome : is told of each attempt.
    clock : seconds.
    fail_fast : a listed failure comes out at once too, as it was raised, and nothing runs twice.
    free : gives memory back after an attempt has run out of it (None: `free_memory`). That attempt is then made
        `again` where it may be, and counts as one.

    Raises
    ------
    NoCandidateError : nothing is left. `failures` holds (name, failure, message) of each attempt.
    """
    failures: list[tuple[str, Failure, str]] = []
    last: Exception | None = None
    for attempt in attempts:
        started = clock()
        calls = [attempt.call] if attempt.again is None or fail_fast else [attempt.call, attempt.again]
        while calls:
            call = calls.pop(0)
            try:
                result = call()
            except Exception as error:
                last, failure = error, own_failure(error) or attempt.classify(error) or Failure.USER_ERROR
                if failure is not Failure.OUT_OF_MEMORY:
                    calls.clear()
                if not calls:
                    message = f"{type(error).__name__}: {error}"
                    on_outcome(attempt, clock() - started, failure, message)
                    if failure is Failure.USER_ERROR or fail_fast:
                        raise
                    failures.append((attempt.name, failure, message))
            else:
                on_outcome(attempt, clock() - started, None, "")
                return result
            # The frames hold the failed attempt's arrays, and the next run needs the room.
            traceback.clear_frames(last.__traceback__)
            if failure is Failure.OUT_OF_MEMORY and (calls or attempt.again is None):
                (free or free_memory)()
    raise _nothing_left(failures) from last


def free_memory() -> None:
    """Give back what can be: arrays in reference cycles, and what the libraries in use keep for themselves."""
    gc.collect()
    for name in registry.names():
        with contextlib.suppress(Exception):  # trouble here must not hide the failure that led here
            if registry.imported(name):
                registry.executor(name).free_caches()


def own_failure(error: BaseException) -> Failure | None:
    """The failure that one of our own errors stands for, whichever executor was at work."""
    if raised_by_worker(error) or isinstance(error, NoCandidateError):
        return None  # a call inside the caller's function found nothing to run it: his own error here
    if isinstance(error, BackendUnavailableError):
        return Failure.UNAVAILABLE
    if isinstance(error, WrongResultError):
        return Failure.WRONG_RESULT
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
