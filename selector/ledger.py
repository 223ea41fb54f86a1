"""The ledger of exploring: what trials cost, against what the default would have cost."""

from __future__ import annotations

import weakref

from ..telemetry.history import History

ALLOWANCE_S = 5.0
"""Start-up allowance: one import and a few compilations, so that learning can begin before it has earned anything."""


_KEEPERS: weakref.WeakKeyDictionary[History, weakref.ref[Ledger]] = weakref.WeakKeyDictionary()


class Ledger:
    """Seconds owed and earned, net of the default.

    The promise: exploring costs at most `share` more than what the default alone would have cost, after the
    start-up allowance. A trial that beats the default earns credit, because a budget that is a share of the time spent
    would stop learning exactly where the default is terrible.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        _KEEPERS.setdefault(history, weakref.ref(self))
        self.clear()

    def clear(self) -> None:
        """Start anew."""
        self.default_s = 0.0  # what the default would have cost for the calls so far
        self.actual_s = 0.0  # what they did cost, cold starts and trials included
        self.explored_s = 0.0  # lost in trials, beyond what the chosen variant would have cost
        self.earned_s = 0.0  # gained in trials
        self.overshoot_s = 0.0  # the most by which the promise was ever exceeded
        self.trials = 0

    def _note(self, name: str, amount: float) -> None:
        """Add to what is kept with the history: one ledger does, however many selectors share the history."""
        keeper = _KEEPERS[self._history]()
        if keeper is None:
            _KEEPERS[self._history] = weakref.ref(self)
        if keeper is None or keeper is self:
            self._history.add_ledger(name, amount)

    def paid(
        self, seconds: float, default_s: float, *, trial: bool = False, usual: float = 0.0, attempts: int = 1
    ) -> None:
        """Book one attempt, or what belongs to one (an import: ``attempts=0``)."""
        self.actual_s += seconds
        self.default_s += default_s
        if trial:
            self.trials += attempts
            lost = seconds - usual
            if lost > 0:
                self.explored_s += lost
                self._note("explored_s", lost)
            else:
                self.earned_s -= lost
                self._note("earned_s", -lost)
            if attempts:
                self._note("trials", float(attempts))

    def credit_s(self, share: float) -> float:
        """Seconds that the next trial may lose."""
        credit = ALLOWANCE_S + share * self.default_s + (self.default_s - self.actual_s)
        self.overshoot_s = max(self.overshoot_s, -credit)
        return max(0.0, credit)

    def to_json(self, share: float) -> dict[str, float]:
        """The ledger as plain data, seconds."""
        return {
            "allowance_s": ALLOWANCE_S,
            "share": share,
            "default_would_have_cost_s": self.default_s,
            "spent_in_all_s": self.actual_s,
            "explored_s": self.explored_s,
            "earned_by_exploring_s": self.earned_s,
            "trials": float(self.trials),
            "credit_s": self.credit_s(share),
            "overshoot_s": self.overshoot_s,
        }
