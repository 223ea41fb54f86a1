"""The tables of a dispatcher: an entry for each known signature, one set of them for each load of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..executors.base import Variant
from ..executors.errors import NoCandidateError
from ..executors.prepare import Prepared
from ..telemetry.outcome import CONTEXTS
from . import settings
from .arguments import class_of
from .engine import MOST_STRIDE, Choice, Engine, compiles
from .entry import Entry
from .logs import log
from .request import Request
from .settings import SCOPE, scope
from .signature import VARIES
from .traffic import Due, concerns
from .verify import DUE

MOST_ENTRIES = 4096
NEVER = 1 << 62
CLASS_SIZE = 1 << 20
"""Elements up to which a new signature may run by its size class: beyond, a decision costs nothing beside the call."""
SETTLED, MOST_SIGHTINGS = 16, 1 << 15
"""So many calls repay an entry of a signature's own: making one costs 150 us, going by its class 5 us a call."""
RENEWED = 256
"""Entries of a dispatcher that are decided anew by the flusher at once, the latest; dropping more would cost more."""
LATER = 32
"""Of the others, so many in each of its next rounds."""
AHEAD = 16
"""Of those, so many are decided for the other load as well."""


class Tables:
    """Entries by signature and by size class.

    Attributes
    ----------
    entries : for the load that holds now; `flip` changes it by one assignment.
    """

    def __init__(self, engine: Engine, prepared: Mapping[Any, Prepared]) -> None:
        self._engine = engine
        self._prepared = prepared
        self._by_load: dict[str, dict[Any, Entry]] = {context: {} for context in CONTEXTS}
        self.entries = self._by_load[engine.learner.context]
        self.classes: dict[Any, Entry] = {}  # by size class, for signatures that have not been seen before
        self._sightings: dict[Any, int] = {}  # of signatures that have no entry of their own yet
        self._behind: dict[Any, int] = {}  # entries that the others went before -> epoch of the news
        self._varying = False  # whether a parameter takes ever new values

    def flip(self, context: str) -> None:
        """Read the table of this load from now on; signatures that have no entry there are decided when they come."""
        self.entries = self._by_load[context]
        self.classes = {}

    def remember(self, key: Any, prepared: Prepared, choice: Choice, like: tuple[Any, ...]) -> None:
        """Have later calls of signature `key` run by `choice`; `like` says what kinds of arguments it was made for.

        Not where it was overtaken while its call ran: by other settings, or by what was learned meanwhile.
        """
        learner = self._engine.learner
        overtaken = choice.decision.table != learner.epoch and not learner.frozen
        if choice.generation != settings.generation or overtaken:
            return
        entries = self._by_load[choice.decision.context]
        if len(entries) >= MOST_ENTRIES:
            self.clear()  # rare, and cheaper than keeping an order on the hot path
        entry = Entry(prepared, choice, like)
        entry.scoped = scope() is not None
        if not self._engine.learning or self._engine.settings().mode == "off":
            entry.skip = NEVER
        entries[key] = entry
        if not entry.scoped and choice.request.size <= CLASS_SIZE and compiles(choice.variant) != "shape":
            self._varying = self._varying or VARIES in choice.request.detail
            self.classes[class_of(key, varying=self._varying)] = entry

    def class_entry(self, key: Any) -> Entry | None:
        """What runs signatures of this size class; None: decide about this one."""
        seen = self._sightings.get(key, 0) + 1
        if SCOPE.get() is not None or seen > SETTLED:
            return None
        if len(self._sightings) >= MOST_SIGHTINGS:
            self._sightings.clear()
        self._sightings[key] = seen
        found = self.classes.get(class_of(key, varying=self._varying))
        return found if found is not None and (not found.tickets or found.tickets is DUE) else None

    def drop(self, variant: Variant) -> None:
        """Drop every entry that runs `variant`: it has failed."""
        for kept in (*self._by_load.values(), self.classes):
            for key in [k for k, e in list(kept.items()) if e.choice.variant == variant]:
                kept.pop(key, None)

    def clear(self) -> None:
        """Forget all entries."""
        for kept in self._by_load.values():
            kept.clear()
        self.classes.clear()
        self._behind.clear()

    def refresh(self, due: Due) -> None:
        """Make the choices that are due again, for both loads; with none, go on with those that were left earlier."""
        if not due:
            self._go_on()
            return
        for key, entry in list(self.classes.items()):
            if concerns(due, entry.site):
                self.classes.pop(key, None)  # the next new signature decides for its class
        here = self._engine.learner.context
        current = self._by_load[here]
        left = RENEWED
        for key, entry in reversed(list(current.items())):
            request = entry.choice.request
            if not concerns(due, entry.site):
                continue
            left -= 1
            if entry.scoped:  # a scope cannot be entered here
                for kept in self._by_load.values():
                    kept.pop(key, None)
            if left < 0 and not entry.scoped:  # of thousands the latest; the others go on as they are until their turn
                self._behind[key] = self._engine.learner.epoch
            if entry.scoped or left < 0:
                continue
            self._engine.history.breathe()
            self._renew(current, key, entry)
            for context, kept in self._by_load.items():
                if context != here:
                    kept.pop(key, None)
                    if RENEWED - left <= AHEAD and self._seen(request, context):
                        self._engine.history.breathe()
                        self._prepare(kept, key, entry, context)

    def _go_on(self) -> None:
        learner = self._engine.learner
        if not self._behind or learner.frozen:
            return
        current = self._by_load[learner.context]
        for key in list(self._behind)[:LATER]:
            epoch, entry = self._behind.pop(key, 0), current.get(key)
            if entry is None or entry.choice.decision.table >= epoch:  # decided meanwhile
                continue
            self._engine.history.breathe()
            self._renew(current, key, entry)
            for kept in self._by_load.values():
                if kept is not current:
                    kept.pop(key, None)

    def _seen(self, request: Request, context: str) -> bool:
        """Whether anything is known of this operation under that load; else there is nothing to tell the two apart."""
        cells = self._engine.history.state.of(request.operation, request.dtype)
        return any(kind == context for _, kind in cells)

    def _renew(self, kept: dict[Any, Entry], key: Any, entry: Entry) -> None:
        before = entry.choice
        try:
            fresh = self._engine.choose(before.request)
        except NoCandidateError:
            kept.pop(key, None)
            return
        if kept.get(key) is not entry:  # its variant has failed meanwhile, or a call has decided anew
            return
        self._engine.adopt(fresh)
        if fresh.decision.variant != before.decision.variant:
            log.info("%s: %s -> %s (%s: %s)", before.request.describe(), before.decision.variant,
                     fresh.decision.variant, fresh.decision.rule, fresh.decision.reason)  # fmt: skip
            kept.pop(key, None)  # the next call binds the new choice
            return
        renewed = Entry(entry.prepared, fresh, entry.like)
        renewed.seen = entry.seen
        renewed.skip = entry.skip if entry.skip > MOST_STRIDE else min(entry.skip, renewed.stride - 1)
        kept[key] = renewed

    def _prepare(self, kept: dict[Any, Entry], key: Any, entry: Entry, context: str) -> None:
        """Compile the entry for another load ahead, if all that it needs is loaded already."""
        try:
            choice = self._engine.choose(entry.choice.request, context=context)
        except NoCandidateError:
            return
        prepared = self._prepared.get((choice.decision.variant, *entry.like))
        if prepared is None or not self._engine.is_warm(choice.request, choice.variant):
            return  # the first call under that load decides, imports and compiles
        choice.tickets.clear()  # trials are proposed under the load in which they would run
        ready = Entry(prepared, choice, entry.like)
        ready.skip = entry.skip if entry.skip > MOST_STRIDE else 0
        kept[key] = ready
