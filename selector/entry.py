"""What the tables of the hot path hold: for a signature its bound call, for a workload its backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..executors.prepare import Prepared
from ..telemetry.outcome import Site
from .engine import Choice
from .request import Request
from .traffic import Due

ASYNCHRONOUS_STRIDE = 16
"""Share of device-resident calls that wait for the device in order to be timed."""


class Renewed(Protocol):
    """Keeps choices in tables of its own, and has them made again when a selector has learned."""

    def refresh(self, due: Due | None) -> None:
        """Make the choices that are due again; None drops them all."""

    def flip(self, context: str) -> None:
        """Go by the choices that were made for this load."""


class Entry:
    """What a known signature needs; replaced or dropped, and touched by the hot path without a lock."""

    __slots__ = (
        "call",
        "choice",
        "left",
        "like",
        "prepared",
        "rule",
        "scoped",
        "seen",
        "site",
        "skip",
        "stride",
        "tickets",
        "timed",
    )

    def __init__(self, prepared: Prepared, choice: Choice, like: tuple[Any, ...] = ()) -> None:
        self.prepared = prepared
        self.like = like  # the kinds of arguments that it was prepared for
        self.call = prepared.call
        self.timed = timed_call(prepared)
        self.choice = choice
        self.site: Site = choice.sites[choice.decision.variant]
        self.rule = choice.decision.rule
        self.tickets = choice.tickets
        self.stride = ASYNCHRONOUS_STRIDE if prepared.asynchronous else choice.stride
        self.skip = 0
        self.seen = 0
        self.scoped = False
        self.left = 0  # calls until one is verified
        if choice.sampling is not None:
            choice.sampling.watch(self, choice.decision.variant)


class Known:
    """An entry of the exact table: what a workload's key leads to on the hot path."""

    __slots__ = ("backend", "choice", "request")

    def __init__(self, backend: str, request: Request, choice: Choice) -> None:
        self.backend = backend
        self.request = request
        self.choice = choice


def timed_call(prepared: Prepared) -> Callable[..., Any]:
    """The call for a measurement: where the result may still be being computed on return, it waits for the device."""
    if not prepared.asynchronous:
        return prepared.call
    call, wait = prepared.call, prepared.executor.synchronize

    def waiting(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        wait(result)
        return result

    return waiting
