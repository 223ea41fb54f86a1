"""Word of an accelerator that loses: a line where a GPU, or what somebody asked for, is slower than what else there is.

Said where a choice is adopted, so never on the hot path, and only where the predictions leave no doubt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..telemetry.show import give_or_take, seconds
from .base import Candidate, Prediction
from .constraints import variants_of, why_not
from .logs import log
from .maps import MapRequest
from .policy import GUARD

if TYPE_CHECKING:
    from .engine import Choice, Engine

EVERY_S = 60.0
"""Between two lines, whatever they are about."""
ASKED = frozenset({"override", "required"})
"""Rules under which somebody named what is to run."""
MOST_KEPT = 20_000
SURE = 1.645  # standard deviations: 95 % of the belief


class Loss(NamedTuple):
    """A variant that loses, and what it loses against; `runs` says whether it runs all the same."""

    slow: Candidate
    fast: Candidate
    runs: bool


class Advice:
    """Logs that an accelerator loses: once for each (operation, dtype, size class), and one line a minute in all.

    Parameters
    ----------
    clock : seconds that only grow; injected by tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -math.inf
        self._told: set[tuple[str, str, str]] = set()
        self._waiting: set[tuple[str, str, str]] = set()  # classes whose line fell into another one's minute
        self._looked: dict[tuple[str, ...], int] = {}  # what was looked at -> under which table

    def consider(self, choice: Choice, engine: Engine) -> None:
        """Say so if an accelerator loses by this choice, or if choosing it would have lost."""
        request, decision = choice.request, choice.decision
        size_class = (request.operation, request.dtype, request.shape_class)
        if size_class in self._told or isinstance(request, MapRequest):
            return
        place = (*size_class, request.detail, decision.variant, decision.set_by, decision.context)
        if self._looked.get(place, -1) >= decision.table:
            return  # the same predictions as last time
        if len(self._looked) > MOST_KEPT:
            self._looked.clear()
            self._waiting.clear()
        loss = loss_of(choice, engine)
        if loss is None:
            self._looked[place] = decision.table
            return
        now = self._clock()
        if now < self._next:
            self._waiting.add(size_class)
            return
        self._next = now + EVERY_S
        self._told.add(size_class)
        self._waiting.discard(size_class)
        log.warning("%s%s", _sentence(choice, loss), self._others())

    def _others(self) -> str:
        if not self._waiting:
            return ""
        many, self._waiting = len(self._waiting), set()
        return f"; {many} other size {'class' if many == 1 else 'classes'} likewise, as `pointsman explain` tells"


def loss_of(choice: Choice, engine: Engine) -> Loss | None:
    """The accelerator that clearly loses in this choice, if one does.

    A GPU that runs is held against the variants of the host, one that does not against what runs instead. A variant of
    the host counts where it was asked for by name, and is held against the operation's first variant, the plain one.
    """
    decision = choice.decision
    chosen = decision.candidate(decision.variant)
    if chosen is None:
        return None
    asked = decision.rule in ASKED
    if chosen.device == "cpu" and not asked:
        gpus = [c for c in decision.candidates if c.device != "cpu"]
        slow = _fastest(gpus)
        return Loss(slow, chosen, False) if slow and surely_slower(slow.prediction, chosen.prediction) else None
    others = [c for c in decision.candidates if c.device == "cpu" and c is not chosen]
    variants = variants_of(choice.request.known_operation(), ())
    if decision.rule == "required" and variants and chosen.variant != variants[0].name:
        others += kept_out(choice, engine)
    if chosen.device == "cpu":
        others = [c for c in others if variants and c.variant == variants[0].name]
    fast = _fastest(others)
    return Loss(chosen, fast, True) if fast and surely_slower(chosen.prediction, fast.prediction) else None


def kept_out(choice: Choice, engine: Engine) -> tuple[Candidate, ...]:
    """Variants of the host that could run as well, were nothing else insisted on."""
    request, settings = choice.request, engine.settings()
    free = [
        v
        for v in variants_of(request.known_operation(), ())
        if v.name not in choice.variants
        and v.device == "cpu"
        and why_not(request, v, settings, engine.machine, None) is None
    ]
    if not free:
        return ()
    with engine.learner.lock:
        options = [engine._option(request, v, request.site(v)) for v in free]
        return engine.learner.candidates(options, choice.decision.context)


def surely_slower(a: Prediction, b: Prediction) -> bool:
    """Whether `a` takes longer than `b`, by more than the guard and beyond what is in doubt; guesses tell nothing."""
    if "guess" in (a.source, b.source):
        return False
    return a.mu - b.mu > max(math.log1p(GUARD), SURE * math.hypot(a.sigma, b.sigma))


def _fastest(candidates: Iterable[Candidate]) -> Candidate | None:
    known = [c for c in candidates if c.prediction.source != "guess"]
    return min(known, key=lambda c: c.prediction.mean_s, default=None)


def _sentence(choice: Choice, loss: Loss) -> str:
    decision, slow, fast = choice.decision, loss.slow.prediction, loss.fast.prediction
    lost = seconds(slow.seconds - fast.seconds)
    takes, would = (give_or_take(p.seconds, p.low, p.high) for p in (slow, fast))
    if loss.runs:
        why = f" ({decision.set_by})" if decision.set_by else ""
        return (
            f"{decision.workload}: {loss.slow.variant} runs{why} and loses {lost} a call: it takes {takes}, "
            f"{loss.fast.variant} would take {would}"
        )
    return (
        f"{decision.workload}: {loss.slow.variant} would lose {lost} a call: it would take {takes}, "
        f"{loss.fast.variant} takes {would} and runs"
    )
