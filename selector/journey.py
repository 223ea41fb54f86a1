"""What a chain's tables hold: a route made ready for one signature of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..telemetry.outcome import Site
from .constraints import breaker_key
from .dispatch import Dispatcher
from .engine import MOST_STRIDE, SAMPLE_S, Choice
from .entry import ASYNCHRONOUS_STRIDE, Entry, timed_call
from .moves import Load, handed, load_of, move_site, mover, scopes_of, waiting_mover
from .route import Noted, Route
from .settings import SCOPE
from .steps import Step

Call = Callable[..., Any]


class BoundLeg(Entry):
    """One step of a route, bound: what moves its operand here, and what runs it."""

    __slots__ = (
        "asked",
        "dtype",
        "given",
        "history",
        "into",
        "into_timed",
        "kind",
        "load",
        "move_site",
        "operation",
        "place",
        "shape",
        "step",
    )

    def __init__(self, step: Step, dispatcher: Dispatcher, choice: Choice) -> None:
        self.step = step
        self.asked, self.operation = step.asked(dispatcher), dispatcher.operation
        self.choice = choice
        self.rule = choice.decision.rule
        self.site: Site = choice.sites[choice.decision.variant]
        self.call: Call = not_ready
        self.timed: Call = not_ready
        self.history = dispatcher.engine.history
        self.place = ""
        self.load: Load | None = None
        self.given: Any = None  # what it was handed when it was bound; below, the parts of it for the hot path
        self.kind: Any = None
        self.shape: Any = None
        self.dtype: Any = None
        self.into: Call | None = None
        self.into_timed: Call | None = None
        self.move_site: Site | None = None

    @property
    def bound(self) -> bool:
        """Whether it has run, so that it is loaded, compiled and ready."""
        return self.call is not not_ready

    def bind(self, dispatcher: Dispatcher, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Get ready for `value` handed on and arguments of these kinds, unless the chosen variant has just failed."""
        choice = self.choice
        if dispatcher.engine.machine.breakers.why_closed_out(breaker_key(choice.request, choice.variant)):
            return
        prepared = self.prepared = dispatcher.prepared(choice.variant, choice.request, args, kwargs)
        self.stride = ASYNCHRONOUS_STRIDE if prepared.asynchronous else 1
        self._rests_on(handed(value))
        self.call = self.step.around(prepared.call)
        self.timed = self.step.around(timed_call(prepared))

    def _rests_on(self, given: Any) -> None:
        self.given = given
        if isinstance(given[0], type) and len(given) == 3:
            self.kind, self.shape, self.dtype = given

    def fits(self, value: Any) -> bool:
        """Whether `value` is what this step was planned or bound for; asked at the step's own place."""
        if self.given is None:
            return load_of((value,), {}) == self.load
        return bool(handed(value) == self.given)

    def take_over(self, old: BoundLeg) -> None:
        """Stay ready where an earlier leg was, and nothing has changed."""
        same = (old.place, old.choice.variant, old.operation) == (self.place, self.choice.variant, self.operation)
        if old.bound and same:
            self.call, self.timed, self.stride, self.prepared = old.call, old.timed, old.stride, old.prepared
            self._rests_on(old.given)

    def note(self, started: float, ended: float, calls: int) -> None:
        """Record one steady call."""
        self.history.buffer.append((self.site, ended, ended - started, self.rule, "", calls))
        if not self.history.awake:
            self.history.wake()


def not_ready(*_: Any, **__: Any) -> Any:
    raise RuntimeError("this step has not been prepared")


class Journey:
    """A route made ready for one signature; replaced as a whole, and run without a lock."""

    __slots__ = (
        "back",
        "back_site",
        "careful",
        "legs",
        "noted",
        "route",
        "scoped",
        "scopes",
        "seen",
        "skip",
        "stride",
        "varies",
    )

    def __init__(self, noted: Noted, route: Route, legs: tuple[BoundLeg, ...]) -> None:
        self.noted = noted
        self.route = route
        self.legs = legs
        self.scopes = scopes_of((leg.place for leg in route.legs), noted.home)
        self.seen = self.skip = 0
        self.varies = False
        self.scoped = SCOPE.get() is not None
        before = noted.home
        for leg, told, load in zip(legs, route.legs, noted.loads, strict=False):
            leg.place, leg.load = told.place, load
            if told.place != before:
                leg.into, leg.into_timed = mover(before, told.place), waiting_mover(before, told.place)
                leg.move_site = move_site(load, before, told.place)
            before = told.place
        self.back: Call | None = None if before == noted.home else mover(before, noted.home)
        self.back_site = move_site(noted.loads[-1], before, noted.home)
        total = max(route.total_s or 0.0, 1e-7)
        self.stride = max(1, min(MOST_STRIDE, int(SAMPLE_S / total)))
        self.settle()

    def settle(self) -> None:
        """Run by the tables alone once every step is ready and nothing is left to be tried."""
        self.careful = not all(leg.bound and not leg.choice.tickets for leg in self.legs)
        if any(leg.bound and leg.stride == ASYNCHRONOUS_STRIDE for leg in self.legs):
            self.stride = ASYNCHRONOUS_STRIDE

    def follow(self, previous: Journey) -> None:
        """Take over what an earlier journey had ready, and how far its sampling had come."""
        for leg, old in zip(self.legs, previous.legs, strict=True):
            leg.take_over(old)
        self.settle()
        self.seen = previous.seen
        self.skip = previous.skip if previous.skip > MOST_STRIDE else min(previous.skip, self.stride - 1)

    @property
    def places(self) -> tuple[str, ...]:
        """Where each step runs."""
        return tuple(leg.place for leg in self.legs)
