"""How a selector keeps what it has decided up to date: tables per load, renewed by the flusher, dropped on changes."""

from __future__ import annotations

import warnings
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ..executors.errors import NoCandidateError
from ..telemetry.history import HistoryWarning
from ..telemetry.outcome import CONTEXTS, Outcome
from . import settings as settings_module
from .entry import Known, Renewed
from .given import member
from .request import Request
from .sites import Sites
from .traffic import Due, concerns

if TYPE_CHECKING:
    from .engine import Engine

RENEWED = 64
"""So many workloads that new outcomes concern are decided anew at once, latest first; the rest when asked for."""


class Keeping:
    """The part of `IntelligentBackendSelector` that holds the tables of its hot path.

    `_exact` is the table of the load that holds now; a change of load replaces it by one assignment.
    """

    _made: Engine | None
    sites: Sites

    def _begin_tables(self) -> None:
        self._by_load: dict[str, dict[Any, Known]] = {context: {} for context in CONTEXTS}
        self._context = CONTEXTS[0]
        self._exact = self._by_load[self._context]
        self._short: dict[tuple[Any, ...], str] = {}
        self._dispatchers: weakref.WeakSet[Renewed] = weakref.WeakSet()

    def adopt(self, dispatcher: Renewed) -> None:
        """Keep a dispatcher's or a chain's choices up to date (weakly)."""
        self._dispatchers.add(dispatcher)

    def _learn(self, outcomes: list[Outcome], changed: set[tuple[str, str]]) -> None:
        """Called after each batch of outcomes, by the flusher. Trouble here must never reach a caller."""
        engine = self._made
        assert engine is not None
        try:
            held = engine.history.state.groups()
            if not changed <= held and not engine.learner.frozen:  # reset, perhaps by another process
                engine.clear(everything=False)
                self._drop_tables()
            due = engine.learn(outcomes, changed)
            if engine.learner.context != self._context:
                self._flip(engine.learner.context)
            if due:
                Context().run(self._refresh, due)  # a flush within `use(...)` must not leave that choice behind
            else:
                Context().run(self._go_on)
        except Exception as error:
            warnings.warn(HistoryWarning(f"learning skipped a batch: {type(error).__name__}: {error}"), stacklevel=2)

    def _flip(self, context: str) -> None:
        """Others have begun, or have ceased, to use the machine: go by the tables that were made for that."""
        self._context = context
        self._exact = self._by_load[context]
        self._short.clear()
        for dispatcher in list(self._dispatchers):
            dispatcher.flip(context)

    def _refresh(self, due: Due) -> None:
        """Make the changed choices again, here and not in a caller's next call: the new curves cost a millisecond."""
        self._short.clear()
        assert self._made is not None
        history = self._made.history
        for context, kept in self._by_load.items():
            left = RENEWED
            for key, known in reversed(list(kept.items())):
                if concerns(due, known.choice.sites[known.choice.decision.variant]):
                    left -= 1
                    if left >= 0:
                        history.breathe()
                        self._renew(key, known.request, context)
                    else:
                        kept.pop(key, None)
        for dispatcher in list(self._dispatchers):
            dispatcher.refresh(due)

    def _go_on(self) -> None:
        for dispatcher in list(self._dispatchers):
            dispatcher.refresh(set())

    def _renew(self, key: Any, request: Request, context: str) -> None:
        """Replace one entry of the exact table; it goes where nothing can run it, or settings change meanwhile."""
        engine, kept = self._made, self._by_load[context]
        assert engine is not None
        before = settings_module.generation
        try:
            choice = engine.choose(request, context=context)
        except NoCandidateError:
            kept.pop(key, None)
            return
        if context == self._context:
            engine.adopt(choice)
        kept[key] = Known(member(choice.decision.backend), request, choice)
        if settings_module.generation != before:
            kept.pop(key, None)

    def _forget_choices(self) -> None:
        for kept in self._by_load.values():
            kept.clear()
        self._exact.clear()  # which may be another one, put there to be watched
        self._short.clear()

    def _drop_tables(self) -> None:
        self._forget_choices()
        self.sites.clear()
        for dispatcher in list(self._dispatchers):
            dispatcher.refresh(None)
