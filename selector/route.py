"""Routes: for each step of a chain what runs it and where its result stays, by least total expected seconds.

The path is found by dynamic programming (Bellman 1957) over the place where the intermediate lies: the cost of a step
at a place is what the engine expects of the variant that would run there, plus the conversion from the place before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..executors.errors import NoCandidateError
from ..telemetry.show import seconds
from .base import Candidate
from .curves import LEAST_SHARE
from .decision import Decision
from .dispatch import Dispatcher
from .engine import Choice
from .moves import Load, inside, move_s, own_place, places, scopes_of
from .operations import Operation
from .policy import GUARD, TIE
from .request import Request, detail_at

BINDING = frozenset({"override", "required", "deterministic"})
"""Rules after which nothing is left to choose within a place."""


class Noted(NamedTuple):
    """What one run told about the signature of a chain's input: everything that planning needs."""

    home: str  # where the input lies, and where the result goes back to
    requests: tuple[Request, ...]  # of each step, as if it ran at home
    loads: tuple[Load, ...]  # before each step, and after the last
    operations: tuple[Operation, ...] = ()  # that ran: with others, all this must be found out again


@dataclass(frozen=True, slots=True)
class Leg:
    """One step of a route.

    Attributes
    ----------
    operation, workload : name, and the request in one line.
    variant, rule, reason : what runs it, and why.
    place : where its operand is brought before it runs, and where its result stays.
    predicted_s : expected seconds of the step, without `convert_s`; what is still cold is shared out over the calls.
    convert_s : expected seconds of bringing the operand here.
    """

    operation: str
    workload: str
    variant: str
    rule: str
    reason: str
    place: str
    predicted_s: float
    convert_s: float


@dataclass(frozen=True, slots=True)
class Route:
    """The way that a chain takes for one signature of its input.

    Attributes
    ----------
    home : where the input lies and the result goes.
    legs : the steps.
    back_s : expected seconds of bringing the result home.
    total_s : of the whole; None before anything is known.
    alternatives : what else there was -> its expected seconds: "step by step" brings every result home, and
        "all in torch" converts at both ends only. Infinite where some step cannot run there or nothing is known.
    reason : one sentence.
    """

    home: str
    legs: tuple[Leg, ...]
    back_s: float
    total_s: float | None
    alternatives: Mapping[str, float]
    reason: str

    def explain(self) -> str:
        """The route as text for people."""
        if not self.legs:
            return self.reason
        rows = [("step", "variant", "data in", "expected", "conversion", "why")]
        for leg in self.legs:
            moved = seconds(leg.convert_s) if leg.convert_s else "-"
            rows.append((leg.workload, leg.variant, leg.place, seconds(leg.predicted_s), moved, leg.rule))
        rows.append(("result", "", self.home, "", seconds(self.back_s) if self.back_s else "-", ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        total = "not known yet" if self.total_s is None else seconds(self.total_s)
        lines.append(f"-> {total} in all: {self.reason}")
        lines += [f"   {name}: {_told(value)}" for name, value in self.alternatives.items()]
        return "\n".join(lines)

    __str__ = explain

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.explain())}</pre>"

    def to_json(self) -> dict[str, Any]:
        """The route as plain data: json.dumps takes it."""
        return {
            "home": self.home,
            "legs": [{name: getattr(leg, name) for name in Leg.__slots__} for leg in self.legs],
            "back_s": self.back_s,
            "total_s": self.total_s,
            "alternatives": {
                name: value if math.isfinite(value) else None for name, value in self.alternatives.items()
            },
            "reason": self.reason,
        }


class _Stop(NamedTuple):
    """One step at one place."""

    choice: Choice
    variant: str
    seconds: float


def find_route(
    noted: Noted, dispatchers: Sequence[Dispatcher], previous: tuple[str, ...] = (), barred: Collection[str] = ()
) -> tuple[Route, tuple[Choice, ...]]:
    """The route of least expected seconds, and the choice that runs each of its steps.

    Pure, like a decision. It leaves the home place only where that saves more than the guard of 5 %, and the
    places of the `previous` route only for more than the tie band; `barred` places are left out.

    Raises
    ------
    NoCandidateError
        Nothing can run some step at home.
    """
    with inside(scopes_of(places(noted.home, dispatchers[0].engine), noted.home)):
        return _Planner(noted, dispatchers, barred).route(previous)


class _Planner:
    def __init__(self, noted: Noted, dispatchers: Sequence[Dispatcher], barred: Collection[str]) -> None:
        self.noted = noted
        self.dispatchers = dispatchers
        self.engine = dispatchers[0].engine
        self._moves: dict[tuple[int, str, str], float] = {}
        self._known: dict[int, set[tuple[str, str]]] = {}
        home = noted.home
        self.at_home = [self._home_stop(i) for i in range(len(noted.requests))]
        settings = self.engine.settings()
        free = self.engine.learning and settings.mode == "select" and not any(
            request.gradient or request.deterministic for request in noted.requests
        )  # fmt: skip
        found = places(home, self.engine) if free else (home,)
        self.places = tuple(place for place in found if place == home or place not in barred)
        self.stops = [
            {place: self.at_home[i] if place == home else self._stop(i, place) for place in self.places}
            for i in range(len(noted.requests))
        ]

    def route(self, previous: tuple[str, ...]) -> tuple[Route, tuple[Choice, ...]]:
        """See `find_route`."""
        home = self.noted.home
        many = len(self.noted.requests)
        stay = (home,) * many
        step_by_step = self._total(stay)
        best = self._cheapest()
        total = self._total(best)
        if len(previous) == many and set(previous) <= set(self.places):
            kept = self._total(previous)
            if kept <= total * (1.0 + TIE):
                best, total = previous, kept
        reason = f"every result comes back to {home}: no other way is expected to gain the {GUARD:.0%} it must bring"
        if best != stay and total * (1.0 + GUARD) < step_by_step:
            reason = f"expected {step_by_step / total:.2f}x faster than bringing every result back to {home}"
        else:
            best, total = stay, step_by_step
        alternatives = {"step by step": step_by_step}
        alternatives.update({f"all in {p}": self._total((p,) * many) for p in self.places if p != home})
        return self._told(best, total, alternatives, reason)

    def _told(
        self, path: tuple[str, ...], total: float, alternatives: dict[str, float], reason: str
    ) -> tuple[Route, tuple[Choice, ...]]:
        legs, choices, before = [], [], self.noted.home
        for i, place in enumerate(path):
            stop = self._at(i, place)
            choice = stop.choice if stop.variant == stop.choice.decision.variant else _led_by(stop)
            decision = choice.decision
            legs.append(
                Leg(decision.operation, decision.workload, decision.variant, decision.rule, decision.reason, place,
                    stop.seconds, self._move_s(i, before, place))
            )  # fmt: skip
            choices.append(choice)
            before = place
        back_s = self._move_s(len(path), before, self.noted.home)
        return Route(self.noted.home, tuple(legs), back_s, total, alternatives, reason), tuple(choices)

    def _cheapest(self) -> tuple[str, ...]:
        """Dynamic programming over the place where the intermediate lies."""
        home = self.noted.home
        paths: dict[str, tuple[float, tuple[str, ...]]] = {home: (0.0, ())}
        for i in range(len(self.noted.requests)):
            longer = {}
            for place in self.places:
                stop = self.stops[i][place]
                if stop is None:
                    continue
                cost, path = min(
                    ((c + self._move_s(i, before, place), p) for before, (c, p) in paths.items()), key=lambda o: o[0]
                )
                longer[place] = (cost + stop.seconds, (*path, place))
            paths = longer
        last = len(self.noted.requests)
        return min(
            ((c + self._move_s(last, place, home), p) for place, (c, p) in paths.items()), key=lambda o: o[0]
        )[1]  # fmt: skip

    def _total(self, path: tuple[str, ...]) -> float:
        total, before = 0.0, self.noted.home
        for i, place in enumerate(path):
            stop = self.stops[i].get(place)
            if stop is None:
                return math.inf
            total += self._move_s(i, before, place) + stop.seconds
            before = place
        return total + self._move_s(len(path), before, self.noted.home)

    def _move_s(self, i: int, source: str, target: str) -> float:
        """Expected seconds of moving what is handed to step `i`."""
        key = (i, source, target)
        found = self._moves.get(key)
        if found is None:
            found = self._moves[key] = move_s(self.noted.loads[i], source, target, self.engine)
        return found

    # ------------------------------------------------------------------------------------------ one step at one place

    def _at(self, i: int, place: str) -> _Stop:
        stop = self.stops[i][place]
        assert stop is not None, "a route goes only where its steps can run"
        return stop

    def _home_stop(self, i: int) -> _Stop:
        """What a single call would run, at what is expected of it with its conversions."""
        choice = self.dispatchers[i].engine.choose(self._request(i, self.noted.home))
        decision = choice.decision
        costs = {c.variant: c.prediction.mean_s + _cold_s(c, decision) for c in decision.candidates}
        chosen = decision.candidates[0]
        if chosen.prediction.source == "nearby" and not self._measured(i, choice, chosen.variant):
            # Measured where its own arrays lie, and nowhere else: the conversions come on top.
            own = own_place(chosen.backend, chosen.device)
            costs[chosen.variant] += self._there_and_back_s(i, own)
            known = [c.variant for c in decision.candidates if self._measured(i, choice, c.variant)]
            if known and decision.rule not in BINDING:
                best = min((*known, chosen.variant), key=costs.__getitem__)
                return _Stop(choice, best, costs[best])
        return _Stop(choice, chosen.variant, costs[chosen.variant])

    def _stop(self, i: int, place: str) -> _Stop | None:
        """The cheapest way to run step `i` on an operand at `place`, leaving its result there; None: none is known.

        Only variants whose own arrays lie there: what converts by itself is a move, a step and a move.
        """
        request, engine = self._request(i, place), self.dispatchers[i].engine
        try:
            choice = engine.choose(request)
        except NoCandidateError:
            return None
        decision = choice.decision
        open_ = decision.candidates if decision.rule not in BINDING else decision.candidates[:1]
        costs = {
            c.variant: self._seconds(i, c, choice) for c in open_ if own_place(c.backend, c.device) == place
        }  # fmt: skip
        least = min(costs.values(), default=math.inf)
        if not math.isfinite(least):
            return None
        order = [name for name in choice.variants if name in costs]  # within the tie band the canonical order wins
        chosen = next(name for name in order if costs[name] <= least * (1.0 + TIE))
        return _Stop(choice, chosen, costs[chosen])

    def _seconds(self, i: int, candidate: Candidate, choice: Choice) -> float:
        """Expected seconds of a variant where its own arrays lie: measured there, else at home less the conversions.

        What was measured at one residency tells nothing about conversions at another, so the curves are not asked to.
        """
        cold_s = _cold_s(candidate, choice.decision)
        if self._measured(i, choice, candidate.variant):
            return candidate.prediction.mean_s + cold_s
        home = self.at_home[i].choice
        found = home.decision.candidate(candidate.variant)
        if found is None or not (found.prediction.source == "prior" or self._measured(i, home, candidate.variant)):
            return math.inf
        taken = found.prediction.mean_s
        pure = taken - self._there_and_back_s(i, own_place(candidate.backend, candidate.device))
        return max(pure, LEAST_SHARE * taken) + (cold_s if found.compile_s else 0.0)

    def _there_and_back_s(self, i: int, place: str) -> float:
        """Expected seconds of the conversions that a single call makes to compute step `i` at `place`."""
        return self._move_s(i, self.noted.home, place) + self._move_s(i + 1, place, self.noted.home)

    def _measured(self, i: int, choice: Choice, variant: str) -> bool:
        """Whether the variant has been measured with operands that lie as in `choice`, of whatever size."""
        site = choice.sites[variant]
        found = self._known.get(i)
        if found is None:
            cells = self.dispatchers[i].engine.history.state.of(site.operation, site.dtype).items()
            found = self._known[i] = {(cell.variant, cell.detail) for (cell, _), sketch in cells if sketch.count}
        return (variant, site.detail) in found

    def _request(self, i: int, place: str) -> Request:
        """The request of step `i` on an operand at `place`."""
        made = self.noted.requests[i]
        changes: dict[str, Any] = {
            "residency": place,
            "detail": detail_at(made.operation, made.parameters, made.gradient, place),
        }
        if hasattr(made, "own"):  # an adaptive function's request carries its variants, which may have grown
            changes["own"] = self.dispatchers[i].operation
        return replace(made, **changes)


def _cold_s(candidate: Candidate, decision: Decision) -> float:
    return candidate.cold_s / max(decision.calls, 1.0)


def _led_by(stop: _Stop) -> Choice:
    """The choice with the variant in front that is cheapest where the data lies."""
    choice = stop.choice
    chain = (stop.variant, *(name for name in choice.decision.chain if name != stop.variant))
    variant = choice.variants[stop.variant]
    by_name = {c.variant: c for c in choice.decision.candidates}
    decision = replace(
        choice.decision, variant=variant.name, backend=variant.backend, device=variant.device, chain=chain,
        candidates=tuple(by_name[name] for name in chain), rule="learned",
        reason="the cheapest where its operand lies, conversions counted",
    )  # fmt: skip
    return replace(choice, decision=decision)


def _told(value: float) -> str:
    return seconds(value) if math.isfinite(value) else "cannot be told: a step cannot run there, or was never measured"
