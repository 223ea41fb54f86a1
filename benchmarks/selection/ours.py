"""The policy called `pointsman`: the package's own learner, asked and taught as the running package does it.

Sketches, curves, policy, ledger and tables are the package's. What is simulated here is only what surrounds them: the
flusher's rounds on a virtual clock, and which signatures are compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pointsman.executors.breaker import Breakers
from pointsman.selector.base import Candidate, CostModel, Policy, Ranking
from pointsman.selector.costs import Curves
from pointsman.selector.learner import Learner, Option
from pointsman.selector.policy import ValueOfInformation
from pointsman.selector.traffic import concerns
from pointsman.selector.workload import shape_class
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Failure, Outcome, Site

from .matrix import AHEAD, COMPILING

if TYPE_CHECKING:
    from .matrix import Matrix
    from .streams import Call, Stream

FIRST_ROUND_S, SLOWEST_ROUND_S, GROWTH = 0.02, 0.5, 1.25
"""How the flusher paces itself (telemetry.history)."""
EXPLORE = 0.02
EPOCH_S = 1.7e9  # unix time at which the virtual clock starts


class Answer(NamedTuple):
    """An entry of the table."""

    ranking: Ranking
    candidates: tuple[Candidate, ...]
    sites: dict[str, Site]
    default: str
    tickets: list[str]


class Ours:
    """The learner of the package behind the interface of a replay.

    Parameters
    ----------
    priors : shipped curves; an empty mapping starts from nothing.
    policy : replaces the package's.
    explore : share of the default's cost that trials may add.
    """

    def __init__(
        self, name: str = "pointsman", priors: Mapping[str, Any] | None = None, policy: Policy | None = None,
        explore: float = EXPLORE, costs: type[CostModel] = Curves,
    ) -> None:  # fmt: skip
        self.name = name
        self.now = 0.0
        self.explore = explore
        self.history = History(None, background=False, clock=lambda: EPOCH_S + self.now, monotonic=lambda: self.now)
        model = costs(self.history.state, priors={} if priors is None else priors)  # type: ignore[call-arg]
        self.learner = Learner(self.history, policy or ValueOfInformation(), model)
        self.history.subscribe(self._learn)
        self._tables: dict[str, dict[Any, Answer]] = {"quiet": {}, "busy": {}}
        self._warm: set[tuple[object, ...]] = set()
        self._imported: set[str] = set()
        self._breakers = Breakers(lambda: self.now)
        self._round_s, self._next = FIRST_ROUND_S, FIRST_ROUND_S
        self._busy = False
        self._rule = ""

    def choose(self, call: Call) -> str:
        """One executed call's variant: the chosen one, or a trial that the ledger affords."""
        self.now, self._busy = call.now, call.busy
        if self.now >= self._next:
            self._round()
        answer = self._answer(call)
        self._rule = answer.ranking.rule
        if answer.tickets:
            trial = answer.tickets.pop()
            loss = dict(answer.ranking.trials)[trial]
            if trial in call.variants and self.learner.take_trial(answer.sites[trial], loss, self.explore):
                self._rule = "explore"
                return trial
        return next(name for name in answer.ranking.order if name in call.variants)

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Record the outcome as the executors would: an import apart, what compiles as cold."""
        self.now = call.now + seconds
        when, backend = EPOCH_S + self.now, call.backends[variant]
        site = _site(call, variant)
        if backend.name not in self._imported:
            self._imported.add(backend.name)
            import_s = min(backend.import_s, 0.999 * seconds)
            if import_s > 0.0:
                seconds -= import_s
                place = Site("import", backend.name, "", "", "")
                self._record(Outcome(place, when, import_s, import_s=import_s, rule=self._rule))
        fresh, eager = cold and not self._is_warm(call, variant), backend.compiles not in COMPILING
        cold_s = self.learner.once_s(
            site, seconds, trial=self._rule == "explore", compiled=None if eager else fresh, fresh=fresh, eager=eager,
            expected_s=self._expected_s(call, variant),
        )  # fmt: skip
        self._warm.add(_warm_key(call, variant))
        self._record(Outcome(site, when, seconds, compile_s=cold_s, rule=self._rule))
        if self._rule == "explore":  # the flusher hurries where there is news
            self._round_s, self._next = FIRST_ROUND_S, self.now + FIRST_ROUND_S
        self._breakers.succeeded(_breaker_key(site))

    def failed(self, call: Call, variant: str) -> None:
        """Record the failure and leave the variant alone for a while."""
        site = _site(call, variant)
        self._breakers.failed(_breaker_key(site), Failure.DRIVER, "raised")
        when = EPOCH_S + self.now
        self._record(Outcome(site, when, 0.0, failure=Failure.DRIVER, message="raised", rule=self._rule))
        for table in self._tables.values():
            for kept in [k for k, a in table.items() if a.ranking.order[0] == variant or variant in a.tickets]:
                table.pop(kept)

    def _expected_s(self, call: Call, variant: str) -> float:
        found = self.prediction(call, variant)
        return found[1] if found else 0.0

    def prediction(self, call: Call, variant: str) -> tuple[float, float, float] | None:
        """90 % interval and typical seconds of one warm call; None where nothing better than a guess is known."""
        answer = self._tables[self.learner.context].get(_key(call))
        found = next((c for c in answer.candidates if c.variant == variant), None) if answer else None
        if found is None or found.prediction.source == "guess":
            return None
        return found.prediction.low, found.prediction.seconds, found.prediction.high

    # ------------------------------------------------------------------------------------------ as the package does it

    def _record(self, outcome: Outcome) -> None:
        self.history.record(outcome)

    def _round(self) -> None:
        self._round_s = min(GROWTH * self._round_s, SLOWEST_ROUND_S)
        self._next = self.now + self._round_s
        if self._busy:
            self.history.buffer = type(self.history.buffer)(o._replace(context="busy") for o in self.history.buffer)
        self.history.flush()

    def _learn(self, outcomes: list[Outcome], changed: set[tuple[str, str]]) -> None:
        due = self.learner.learn(outcomes, changed, self._breakers.due_groups)
        if due:
            for table in self._tables.values():
                for key in [k for k, answer in table.items() if concerns(due, answer.sites[answer.default])]:
                    table.pop(key)

    def _answer(self, call: Call) -> Answer:
        table = self._tables[self.learner.context]
        key = _key(call)
        found = table.get(key)
        if found is None:
            found = table[key] = self._decide(call)
        return found

    def _decide(self, call: Call) -> Answer:
        sites = {name: _site(call, name) for name in call.variants}
        options = [self._option(call, name, site) for name, site in sites.items() if not self._closed_out(site)]
        if not options:
            options = [self._option(call, name, site) for name, site in sites.items()]
        candidates = self.learner.candidates(options)
        first = options[0].site
        default = call.default if any(o.variant == call.default for o in options) else options[0].variant
        question = self.learner.question(first, candidates, default, explore=self.explore)
        ranking = self.learner.rank(question, first)
        self.learner.adopt(sites, candidates, default, ranking.order[0])
        order = (*ranking.order, *(name for name in call.variants if name not in ranking.order))
        ranking = Ranking(order, ranking.rule, ranking.reason, ranking.trials)
        return Answer(ranking, candidates, sites, default, [name for name, _ in reversed(ranking.trials)])

    def _closed_out(self, site: Site) -> bool:
        return self._breakers.why_closed_out(_breaker_key(site)) is not None

    def _option(self, call: Call, variant: str, site: Site) -> Option:
        backend = call.backends[variant]
        return Option(
            variant, backend.name, "cpu", site, 0.0 if backend.name in self._imported else backend.import_s,
            0.0, self._is_warm(call, variant), backend.compiles == "shape",
        )  # fmt: skip

    def _is_warm(self, call: Call, variant: str) -> bool:
        return call.backends[variant].compiles == AHEAD or _warm_key(call, variant) in self._warm


def _key(call: Call) -> Any:
    return (call.operation, call.dtype, call.shapes, call.parameters, len(call.variants))


def _site(call: Call, variant: str) -> Site:
    return Site(
        call.operation, variant, call.dtype, shape_class(call.shapes), call.parameters,
        max(call.works[variant], 1.0), call.size,
    )  # fmt: skip


def _breaker_key(site: Site) -> tuple[str, str, str, str]:
    return (site.operation, site.variant, site.dtype, site.shape_class)


def _warm_key(call: Call, variant: str) -> tuple[object, ...]:
    how = call.backends[variant].compiles
    shapes = call.shapes if how == "shape" else tuple(map(len, call.shapes)) if how == "dtype" else ()
    return (call.operation, variant, call.dtype, shapes)


CALIBRATED = 4
"""Samples of each variant and cell that calibrating leaves behind."""


def calibrated(matrix: Matrix, stream: Stream) -> Ours:
    """Our policy after `pointsman calibrate` on this machine, while it was quiet: nothing is compiled or imported yet.

    What the stream leaves out has not been measured either.
    """
    policy = Ours("pointsman-calibrated")
    left_out = {step.cell.key for step, judged in zip(stream.steps, stream.judged, strict=True) if judged}
    left_out -= {step.cell.key for step, judged in zip(stream.steps, stream.judged, strict=True) if not judged}
    rng = np.random.default_rng(0)
    for cell in matrix.cells:
        if cell.key in left_out:
            continue
        for variant, timing in cell.timings.items():
            site = Site(
                cell.operation, variant, cell.dtype, shape_class(cell.shapes), cell.parameters,
                max(timing.work, 1.0), cell.size,
            )  # fmt: skip
            compiling = matrix.backends[variant].compiles in COMPILING
            if compiling:
                once = Outcome(site, EPOCH_S, timing.first_s, compile_s=timing.first_s, rule="calibrate", calls=0)
                policy.history.record(once)
            for i in range(CALIBRATED):
                seconds = timing.draw(rng)
                policy.history.record(Outcome(site, EPOCH_S + 1e-3 * i, seconds, rule="calibrate", calls=0))
    policy.history.flush()
    return policy


def table() -> dict[str, Any]:
    """Our policies by name."""

    def plain(matrix: Matrix, stream: Stream) -> Ours:  # noqa: ARG001
        return Ours()

    return {"pointsman": plain, "pointsman-calibrated": calibrated}
