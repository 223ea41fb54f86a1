"""Chains: several operations one after the other, with the intermediate arrays left where they are cheapest."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors import conversion, registry
from ..executors.fallback import own_failure
from .arguments import all_leaves, key_of, stands_apart
from .dispatch import UNSAMPLED, Dispatcher
from .journey import BoundLeg, Journey
from .logs import log
from .moves import brought_home, inside, kind_at, load_of, moved, place_of, places
from .operations import Operation
from .route import Noted, Route, find_route
from .selector import IntelligentBackendSelector
from .settings import SCOPE
from .shared import default_selector
from .steps import Step, as_step
from .tables import MOST_ENTRIES, NEVER
from .traffic import Due

ndarray = np.ndarray
perf_counter = time.perf_counter
Call = Callable[..., Any]
RENEWED = 16
"""Routes that the flusher finds again, at 1.3 ms each (four steps, three places); others when next asked for."""


class Chain:
    """Operations one after the other; made by `chain`. Calling it gives what calling them in turn gives."""

    def __init__(self, *steps: Any, selector: IntelligentBackendSelector | None = None) -> None:
        if not steps:
            raise ValueError("chain: found no step; give at least one operation, such as chain('fft', 'reduction')")
        self.steps: tuple[Step, ...] = tuple(as_step(given) for given in steps)
        self._own = selector
        self._held = tuple(value for step in self.steps for value in step.held)
        self._made: list[Dispatcher] | None = None
        self._noted: dict[Any, Noted] = {}
        self._journeys: dict[Any, Journey] = {}
        self._barred: set[tuple[Any, str]] = set()  # (signature, place): what could not be brought there

    def __repr__(self) -> str:
        return f"<chain {' -> '.join(step.name for step in self.steps)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return chain, self.steps  # what it has learned is its selector's, which stays where it is

    # ------------------------------------------------------------------------------------------ the hot path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the steps: the arguments go to the first, each result to the next, the last one back to the caller."""
        key = _key(self._held, args, kwargs)
        journey = self._journeys.get(key)
        if journey is None or journey.careful:
            return self._slow(key, journey, args, kwargs)
        for leg in journey.legs:
            if leg.asked() is not leg.operation:
                return self._slow(key, None, args, kwargs)
        timed = journey.skip <= 0
        if not timed:
            journey.skip -= 1
        ride = self._ride_timed if timed else self._ride
        if not journey.scopes:
            return ride(key, journey, args, kwargs)
        with inside(journey.scopes):
            return ride(key, journey, args, kwargs)

    def _ride(self, key: Any, journey: Journey, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        done, steady = 0, True
        value: Any = None
        try:
            for leg in journey.legs:
                into = leg.into
                if done:
                    if into is not None:
                        value = into(value)
                    # These three tell nearly always, and at once.
                    known = type(value) is leg.kind and value.dtype is leg.dtype and value.shape == leg.shape
                    if not (known or leg.fits(value)):
                        steady = False
                        break
                    value = leg.call(value)
                elif into is None:
                    value = leg.call(*args, **kwargs)
                else:
                    value = leg.call(*map(into, args), **{name: into(given) for name, given in kwargs.items()})
                done += 1
        except Exception as error:
            return self._rescue(key, journey, done, (value,) if done else args, {} if done else kwargs, error)
        if not steady:
            return self._unsteady(journey, done, (value,), {})
        return value if journey.back is None else journey.back(value)

    def _ride_timed(self, key: Any, journey: Journey, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen = journey.seen = journey.seen + 1
        calls = 1
        if seen > UNSAMPLED:
            journey.skip, calls = journey.stride - 1, journey.stride
        done, steady = 0, True
        try:
            for leg in journey.legs:
                if leg.into_timed is not None:
                    started = perf_counter()
                    args, kwargs = moved(leg.into_timed, args, kwargs)
                    ended = perf_counter()
                    leg.history.buffer.append((leg.move_site, ended, ended - started, "", "", calls))
                if done and not leg.fits(args[0]):
                    steady = False
                    break
                started = perf_counter()
                value = leg.timed(*args, **kwargs)
                leg.note(started, perf_counter(), calls)
                args, kwargs, done = (value,), {}, done + 1
        except Exception as error:
            return self._rescue(key, journey, done, args, kwargs, error)
        if not steady:
            return self._unsteady(journey, done, args, kwargs)
        if journey.back is None:
            return args[0]
        started = perf_counter()
        value = journey.back(args[0])
        ended = perf_counter()
        journey.legs[-1].history.buffer.append((journey.back_site, ended, ended - started, "", "", calls))
        return value

    # ------------------------------------------------------------------------------------------ the other paths

    def _slow(self, key: Any, journey: Journey | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if stands_apart((*args, *self._held), kwargs):
            return self._in_turn(0, args, kwargs)
        noted = self._noted.get(key)
        if noted is None or noted.operations != self._operations():
            self._journeys.pop(key, None)
            return self._first_run(key, args, kwargs)
        if journey is None:
            if len(self._journeys) >= MOST_ENTRIES:
                return self._first_run(key, args, kwargs)
            journey = self._journeys[key] = self._journey(key, noted)
        if journey.varies:
            return brought_home(self._in_turn(0, args, kwargs), journey.noted.home)
        with inside(journey.scopes):
            return self._carefully(key, journey, args, kwargs)

    def _first_run(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Every step as a call of its own: its answer is right, and it tells what the steps are handed."""
        home = place_of(args, kwargs)
        requests, loads = [], []
        value: Any = None
        apart = False
        for step, dispatcher in zip(self.steps, self._dispatchers(), strict=True):
            loads.append(load_of(args, kwargs))
            full, named = step.arguments(args, kwargs)
            apart = apart or stands_apart(full, named)  # an operand that is masked, say: such a step is never moved
            requests.append(dispatcher.request(full, named))
            value = dispatcher(*full, **named)
            args, kwargs = (value,), {}
        loads.append(load_of((value,), {}))
        for kept in (self._noted, self._journeys):
            if len(kept) >= MOST_ENTRIES:
                kept.clear()
        # Arrays in a list are converted only on the way to another library and back, as single calls are.
        if not apart and self._boxed() <= {kind_at(home)}:
            self._noted[key] = Noted(home, tuple(requests), tuple(loads), self._operations())
        return brought_home(value, home)

    def _carefully(self, key: Any, journey: Journey, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the route with every attempt watched: new variants are loaded, trials made, failures followed up."""
        dispatchers = self._dispatchers()
        for done, (leg, dispatcher) in enumerate(zip(journey.legs, dispatchers, strict=True)):
            if leg.into is not None:
                try:
                    args, kwargs = moved(leg.into, args, kwargs)
                except Exception as error:
                    return self._stay(key, journey, done, args, kwargs, error)
            if done and not leg.fits(args[0]):
                return self._unsteady(journey, done, args, kwargs)
            full, named = leg.step.arguments(args, kwargs)
            value = dispatcher._slow(None, leg, full, named)
            leg.bind(dispatcher, args[0] if done else None, full, named)
            args, kwargs = (value,), {}
        journey.settle()
        if not all(leg.bound for leg in journey.legs):
            self._journeys.pop(key, None)  # one has failed: the next call finds another way
        return args[0] if journey.back is None else journey.back(args[0])

    def _rescue(
        self, key: Any, journey: Journey, done: int, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> Any:
        """A known route failed at step `done`: go on with what else runs that step; the next call finds another way."""
        leg, dispatcher = journey.legs[done], self._dispatchers()[done]
        self._journeys.pop(key, None)
        if leg.into is not None and place_of(args, kwargs) != leg.place:
            try:
                args, kwargs = moved(leg.into, args, kwargs)
            except Exception as again:
                return self._stay(key, journey, done, args, kwargs, again)
        value = dispatcher._rescue(leg, error, *leg.step.arguments(args, kwargs))
        return self._rest(journey, done + 1, (value,), {})

    def _stay(
        self, key: Any, journey: Journey, done: int, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> Any:
        """An operand could not be brought to its place: from here on step by step, and never there again."""
        leg = journey.legs[done]
        kinds = {kind_at(place) for place in (leg.place, place_of(args, kwargs))}
        executors = [registry.of_kind(kind) for kind in kinds]
        if not (own_failure(error) or any(executor and executor.classify(error) for executor in executors)):
            raise error
        log.info("%r: %s cannot be brought to %s (%s)", self, leg.choice.request.describe(), leg.place, error)
        if len(self._barred) >= MOST_ENTRIES:
            self._barred.clear()
        self._barred.add((key, leg.place))
        self._journeys.pop(key, None)
        return self._rest(journey, done, args, kwargs)

    def _unsteady(self, journey: Journey, done: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a step is handed depends on more than the signature, so no route can be told from that."""
        journey.varies = journey.careful = True
        return self._rest(journey, done, args, kwargs)

    def _rest(self, journey: Journey, done: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The remaining steps, each as a call of its own, at home."""
        home = journey.noted.home
        if done:
            args = (brought_home(args[0], home),)
        return brought_home(self._in_turn(done, args, kwargs), home)

    def _in_turn(self, done: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for step, dispatcher in zip(self.steps[done:], self._dispatchers()[done:], strict=True):
            full, named = step.arguments(args, kwargs)
            args, kwargs = (dispatcher(*full, **named),), {}
        return args[0]

    # ------------------------------------------------------------------------------------------ routes

    def explain(self, *args: Any, **kwargs: Any) -> Route:
        """The way that a call with these arguments takes: per step variant, place, expected seconds and conversion.

        Runs nothing. What the later steps are handed is known from the first call with such arguments; before that
        the route says so and has no legs.
        """
        key = _key(self._held, args, kwargs)
        if stands_apart((*args, *self._held), kwargs):
            return _untold(args, kwargs, "such arguments are left alone: every step runs them as they are")
        noted, journey = self._noted.get(key), self._journeys.get(key)
        if noted is None or noted.operations != self._operations():
            return _untold(args, kwargs, "not known yet: the first call goes step by step and shows what the steps get")
        if journey is not None and journey.varies:
            return _untold(args, kwargs, "step by step: what the steps get depends on more than the shapes given")
        return journey.route if journey is not None else self._journey(key, noted, look=True).route

    def refresh(self, due: Due | None) -> None:
        """Find the routes again that go through groups where choices are due; None drops them all."""
        if due is None:
            self._journeys.clear()
            self._barred.clear()
            return
        groups = {key[:2] for key in due}
        moves = any(name.startswith("convert ") for name, _ in groups)
        left = RENEWED
        for key, journey in reversed(list(self._journeys.items())):
            requests = journey.noted.requests
            if journey.varies or not (moves or any((r.operation, r.dtype) in groups for r in requests)):
                continue
            left -= 1
            if left < 0 or journey.scoped:
                self._journeys.pop(key, None)
                continue
            try:
                self._journeys[key] = self._journey(key, journey.noted, journey)
            except Exception as error:
                log.info("%r: no route any more (%s)", self, error)
                self._journeys.pop(key, None)

    def flip(self, context: str) -> None:  # noqa: ARG002
        """Find every route again under the load that holds now."""
        found = list(self._journeys.values())
        self.refresh({(r.operation, r.dtype) for journey in found for r in journey.noted.requests})

    def _journey(self, key: Any, noted: Noted, previous: Journey | None = None, *, look: bool = False) -> Journey:
        """The best route, made ready as far as can be without running it."""
        dispatchers = self._dispatchers()
        barred = {place for signature, place in self._barred if signature == key}
        if self._boxed():
            barred.update(places(noted.home, dispatchers[0].engine))
        route, choices = find_route(noted, dispatchers, previous.places if previous else (), barred)
        legs = tuple(
            BoundLeg(step, dispatcher, choice)
            for step, dispatcher, choice in zip(self.steps, dispatchers, choices, strict=True)
        )
        journey = Journey(noted, route, legs)
        if look:
            return journey
        for dispatcher, choice in zip(dispatchers, choices, strict=True):
            dispatcher.engine.adopt(choice)
        engine = dispatchers[0].engine
        if not engine.learning or engine.settings().mode == "off":
            journey.skip = NEVER
        if previous is not None:
            if previous.places != journey.places:
                log.info("%r: now by way of %s (%s)", self, ", ".join(journey.places), route.reason)
            journey.follow(previous)
        return journey

    def _boxed(self) -> set[str]:
        """The kinds of the arrays in lists, tuples and dictionaries that steps hold."""
        boxed = (value for value in self._held if isinstance(value, (list, tuple, dict)))
        return {kind for leaf in all_leaves(tuple(boxed), {}) if (kind := conversion.kind_of(leaf)) is not None}

    def _operations(self) -> tuple[Operation, ...]:
        return tuple(dispatcher.operation for dispatcher in self._dispatchers())

    def _dispatchers(self) -> list[Dispatcher]:
        made = self._made
        if made is None:
            selector = self._own or default_selector()
            made = [step.dispatcher(selector) for step in self.steps]
            for owner in {id(s): s for s in (selector, *(step.owner for step in self.steps)) if s}.values():
                owner.adopt(self)
            self._made = made
        elif any(step.asked(d)() is not d.operation for step, d in zip(self.steps, made, strict=True)):
            selector = self._own or default_selector()
            made = self._made = [step.dispatcher(selector) for step in self.steps]
        return made


def _key(held: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What tells signatures apart; by the same rules as for a single call. What steps hold may change in place."""
    if len(args) == 1 and not kwargs and type(args[0]) is ndarray:
        key: Any = (args[0].shape, args[0].dtype)
    else:
        key = key_of(args, kwargs)
    if held:
        first = held[0]
        if len(held) == 1 and type(first) is ndarray:
            key = (key, first.shape, first.dtype)
        else:
            key = (key, key_of(held, {}))
    here = SCOPE.get()
    return key if here is None else (here, key)


def _untold(args: tuple[Any, ...], kwargs: dict[str, Any], why: str) -> Route:
    return Route(place_of(args, kwargs), (), 0.0, None, {}, why)


def chain(*steps: Any, selector: IntelligentBackendSelector | None = None) -> Chain:
    """Several operations one after the other, as one call that converts between libraries only where that pays.

    Parameters
    ----------
    *steps : each a kernel's or registered operation's name, a function decorated with `@adaptive`, or `step(...)` of
        one of these where it takes more than the value handed on.
    selector : decides and learns; default: the shared one.

    Returns
    -------
    Chain
        Called with the arguments of the first step it gives the result of the last, as the kind of array that came
        in. ``explain(x)`` tells the route: per step the variant, the place and the expected seconds.

    Raises
    ------
    TypeError
        A step is a plain function. The call itself raises what its steps raise.

    Notes
    -----
    The first call with arguments of some shape goes step by step; then the route of least expected seconds is kept,
    and found again when the tables change. Each step is recorded under its own operation, each conversion as
    "convert numpy to jax". A tensor that requires a gradient never leaves torch. Last bits may differ between routes,
    within the kernels' stated tolerances.

    Examples
    --------
    >>> import numpy as np, pointsman as pm
    >>> energy = pm.chain("element_wise", "reduction")
    >>> bool(np.isclose(energy(np.ones(8)), pm.run("reduction", pm.run("element_wise", np.ones(8)))))
    True
    """
    return Chain(*steps, selector=selector)
