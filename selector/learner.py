"""What learns: predictions, traffic, ledger, policy and load, over sites alone.

It knows no library, no array and no clock, so that what chooses on this machine also replays on recorded costs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import median

from ..telemetry.history import History
from ..telemetry.outcome import CONTEXTS, QUIET, Cell, Outcome, Site
from ..telemetry.sketch import Sketch
from ..telemetry.state import Group
from .base import Candidate, CostModel, Policy, Prediction, Question, Ranking
from .ledger import Ledger
from .traffic import TO_COME, ClassKey, Due, SizeClass, Traffic, class_key

MOST_KEPT = 20_000
WARM_UP_S = 0.05
"""A variant's first trial at a size class that takes less is a warm-up: it would tell of plans, caches, page faults."""
WARMED_S = 1e-9
"""Said to be paid once in a warm-up: that there was one, and that nothing was compiled in it."""
DEAR_S = 0.1
"""A trial that may lose so much waits for what one of a rival has to tell, in its (operation, dtype)."""
LOST_S = 60.0
"""A trial that has told nothing for so long, beyond what it may take, will not (its caller was interrupted)."""
ON_PURPOSE = frozenset({"warmup", "calibrate"})
"""Rules of runs that somebody asked for in order to learn: no cost of exploring."""
SURPRISES = 2
"""So many calls outside their predicted interval confirm a change of load."""
REPLAYED, LATEST, REGRESSION = 4, 6, 0.01
"""A change of choice is held against at least and at most so many recent calls of both variants; it may not be slower
by more than this."""
PROCESSES = "processes"
"""Ledger entry of the history: how many processes have recorded, so that their calls can be averaged."""


@dataclass(frozen=True, slots=True)
class Option:
    """A variant that may run a request, as the learner sees it.

    Attributes
    ----------
    variant, backend, device : its names.
    site : where its outcomes on this request are recorded.
    import_s : seconds of importing its library; 0.0 where it is imported already.
    start_s : seconds of starting workers that do not run yet.
    warm : whether this signature has run, so that nothing is left to compile.
    per_shape : whether every new shape compiles anew.
    least_s : seconds that it cannot take less than, whatever was learned.
    """

    variant: str
    backend: str
    device: str
    site: Site
    import_s: float = 0.0
    start_s: float = 0.0
    warm: bool = True
    per_shape: bool = False
    least_s: float = 0.0


class Learner:
    """Answers what is known about options, and takes in outcomes. Shared by all entry points of one selector.

    Parameters
    ----------
    history : where outcomes come from; its owner calls `learn` with each batch.
    policy, costs : the parts that decide and predict.
    """

    def __init__(self, history: History, policy: Policy, costs: CostModel) -> None:
        self.history = history
        self.policy = policy
        self.costs = costs
        self.frozen = False
        self.epoch = 0
        self.context = self._last_context = QUIET
        self.ledger = Ledger(history)
        self.traffic = Traffic()
        self.lock = threading.RLock()
        self._processes = history.ledger.get(PROCESSES, 0.0)  # that have recorded something before this one
        self._counted = False
        self._predictions: dict[tuple[ClassKey, str, tuple[str, ...], int], list[Prediction]] = {}
        self._handed_out: dict[tuple[ClassKey, str], tuple[float, float]] = {}  # trials at large: (loss, when)
        self._warmed_up: set[Cell] = set()
        self._epochs = count(1)

    # ------------------------------------------------------------------------------------------ asking

    def candidates(self, options: Sequence[Option], context: str | None = None) -> tuple[Candidate, ...]:
        """The options with what each is expected to take under a load; guesses lean on the first, the default's."""
        context = context or self.context
        key = class_key(options[0].site)
        names = tuple(option.variant for option in options)
        cache = (key, context, names, round(4.0 * math.log2(max(options[0].site.work, 1.0))))
        predictions = self._predictions.get(cache)
        if predictions is None:
            predictions = self.costs.predict([o.site for o in options], [o.backend for o in options], context)
            if len(self._predictions) > MOST_KEPT:
                self._predictions.clear()
            self._predictions[cache] = predictions
        cells = self.history.state.of(key[0], key[1])
        seen = self.traffic.at(key)
        failing = seen.failing if seen is not None else {}
        return tuple(
            Candidate(
                o.variant, o.backend, o.device, p.at_least(o.least_s), o.import_s, self._start_s(o), o.per_shape,
                failing.get(o.variant, 0.0),
                _lately_s(cells.get((o.site.cell, context)), o.site) if p.evidence else None,
            )
            for o, p in zip(options, predictions, strict=True)
        )  # fmt: skip

    def expected_s(self, site: Site, backend: str) -> float:
        """Typical seconds of what has no rivals, such as a conversion."""
        with self.lock:
            return self.costs.predict([site], [backend], self.context)[0].seconds

    def _start_s(self, option: Option) -> float:
        compile_s = 0.0 if option.warm else self.costs.compile_s(option.site, option.backend)
        return compile_s + option.start_s

    def calls_expected(self, site: Site, told: float | None = None) -> float:
        """Calls of this signature still to come: as told, else a share of those that there have been."""
        return float(told) if told is not None else max(1.0, TO_COME * self.traffic.calls_of(site))

    def question(
        self, site: Site, candidates: tuple[Candidate, ...], default: str, *, told: float | None = None,
        explore: float = 0.0, learning: bool = True,
    ) -> Question:  # fmt: skip
        """Everything that the policy may look at.

        Parameters
        ----------
        site : of the first candidate.
        default : variant that runs when nothing is known.
        told : calls still expected, where somebody says so.
        explore : share of the default's cost that trials may add; 0 proposes none.
        learning : whether what earlier processes did counts.
        """
        key = class_key(site)
        seen = self.traffic.at(key) or SizeClass()
        usual = 0.0 if told is not None or not learning else seen.usual or self._usual(key)
        return Question(
            candidates, default, self.calls_expected(site, told), self.traffic.calls_of(site), usual,
            at_stake_s=self.traffic.at_stake(key, candidates),
            may_save_s=self.traffic.may_save(key, candidates),
            untested=self.traffic.untested(key, candidates),
            spent_s=seen.spent_s,
            unseen_s={variant: seen.spent_s - then for variant, then in seen.last.items()},
            import_earned=self.traffic.imports_earned(candidates),
            compile_earned=self.traffic.compiles_earned(key, candidates),
            incumbent=seen.incumbent,
            explore=explore > 0.0 and not self.frozen,
            credit_s=self.ledger.credit_s(explore),
        )  # fmt: skip

    def rank(self, question: Question, site: Site, context: str | None = None) -> Ranking:
        """The policy's answer, held against recent history where it would change what runs.

        `site` is any of the question's. A variant takes over from one that has run here lately only if its own latest
        times here, where it has some, are not longer: curves share strength, and may share an error too.
        """
        ranking = self.policy.rank(question)
        first, before = ranking.order[0], question.incumbent
        former = next((c for c in question.candidates if c.variant == before), None)
        if former is None or before == first or former.cold_s or former.failing:
            return ranking  # what is to be paid before it runs here, or when it fails, its latest calls do not tell
        cells = self.history.state.of(site.operation, site.dtype)
        where = context or self.context
        new, old = (cells.get((site.cell._replace(variant=name), where)) for name in (first, former.variant))
        if new is None or old is None or min(new.count, old.count) < REPLAYED:
            return ranking
        lately = [median(seconds for _, seconds, _ in sketch.recent[-LATEST:]) for sketch in (new, old)]
        if lately[0] <= lately[1] * (1.0 + REGRESSION):
            return ranking
        order = (former.variant, *(name for name in ranking.order if name != before))
        reason = f"{first} is predicted faster, but its latest calls here took {lately[0] / lately[1]:.2f}x as long"
        return Ranking(order, "learned", reason, tuple(t for t in ranking.trials if t[0] != before))

    def _usual(self, key: ClassKey) -> float:
        """Calls of a size class that processes before this one made, on average."""
        if not self._processes:
            return 0.0
        cells = self.history.state.of(key[0], key[1]).items()
        return sum(s.calls for (c, _), s in cells if c[3:] == key[2:]) / self._processes

    def adopt(
        self, sites: Mapping[str, Site], candidates: Collection[Candidate], default: str, chosen: str, *,
        binding: bool = False, learning: bool = True,
    ) -> None:  # fmt: skip
        """Note that calls will run by this choice: what the ledger and the import rule need to know about its class.

        `binding`: somebody insisted on it, which binds no other call.
        """
        by_name = {c.variant: c for c in candidates}
        basis, expected = by_name[default].prediction, by_name[chosen].prediction
        with self.lock:
            seen = self.traffic.of(sites[default])
            seen.default = default
            seen.default_s, seen.default_known = basis.mean_s, basis.source in ("measured", "nearby")
            seen.chosen_s, seen.low_s, seen.high_s = expected.mean_s, expected.low, expected.high
            if learning:
                seen.usual = seen.usual or self._usual(class_key(sites[default]))
            seen.wishes, seen.promises = {}, {}
            for c in candidates:
                if c.cold_s:
                    seen.promises[c.variant] = c.prediction.gain_s(expected.mean_s) / expected.mean_s
                gain = expected.mean_s - c.prediction.mean_s
                if c.cold_s and gain > 0.0 and c.prediction.source != "guess":
                    seen.wishes[c.variant] = c.backend if c.import_s else "", gain
            if seen.calls and not binding:
                if chosen != seen.incumbent:  # what was slow before is past
                    seen.lately_s = min(seen.lately_s, expected.mean_s)
                seen.incumbent = chosen

    def take_trial(self, site: Site, loss_s: float, share: float) -> bool:
        """Whether the call at hand is to try the variant of `site`: once a class, while the credit covers `loss_s`."""
        key = (class_key(site), site.variant)
        with self.lock:
            now = self.history.now()
            self._handed_out = {k: v for k, v in self._handed_out.items() if now - v[1] < LOST_S + v[0]}
            left = self.ledger.credit_s(share) - sum(loss for loss, _ in self._handed_out.values())
            waits = loss_s > DEAR_S and any(
                where[:2] == key[0][:2] and variant != site.variant for where, variant in self._handed_out
            )
            if self.frozen or share <= 0.0 or waits or key in self._handed_out or loss_s > left:
                return False
            self._handed_out[key] = loss_s, now
        return True

    def once_s(
        self, site: Site, seconds: float, *, trial: bool, compiled: bool | None = None, fresh: bool = False,
        eager: bool = True, expected_s: float = 0.0,
    ) -> float:  # fmt: skip
        """Seconds of a call that were paid once; above 0.0 it says nothing about what later calls take.

        Parameters
        ----------
        trial : whether it was made to find out.
        compiled : whether the library says that it compiled; None: it does not say.
        fresh : whether nothing like it has run in this process.
        eager : whether the variant never compiles.
        expected_s : what a later call is expected to take, where that is known.
        """
        seen = self.traffic.at(class_key(site))
        if trial and eager and not compiled and seen is not None and seconds < seen.chosen_s:
            return 0.0  # even so it beats what runs: that is news enough
        if compiled or (fresh and compiled is None):
            return paid_once_s(compiled, seconds, expected_s)
        return WARMED_S if trial and self._warms_up(site, seconds) else 0.0

    def _warms_up(self, site: Site, seconds: float) -> bool:
        if seconds >= WARM_UP_S or site.cell in self._warmed_up:
            return False
        if len(self._warmed_up) > MOST_KEPT:
            self._warmed_up.clear()
        self._warmed_up.add(site.cell)
        known = self.history.state.of(site.operation, site.dtype)
        return not any((site.cell, context) in known for context in CONTEXTS)

    # ------------------------------------------------------------------------------------------ learning

    def learn(self, outcomes: Sequence[Outcome], changed: set[Group], recovered: Callable[[], set[Group]] = set) -> Due:
        """Take in a batch that the history has applied; returns where choices must be made again.

        What a trial has told may call for another in its class; in the others, unless it won, when there is more to
        tell. `recovered` gives the groups in which something that had failed may be tried again.
        """
        with self.lock:
            failed: set[Group] = set()
            news: set[Group] = set()
            tried: Due = set()
            surprises = 0
            for outcome in outcomes:
                self._count(outcome)
                site, trial = outcome.site, outcome.rule == "explore"
                if trial:
                    self._handed_out.pop((class_key(site), site.variant), None)
                if outcome.failure is not None:
                    failed.add((site.operation, site.dtype))
                    continue
                surprises += self.traffic.outside(outcome)
                if (self.traffic.surprised(outcome) or (trial and self._beats(outcome))) and not self.frozen:
                    news.add((site.operation, site.dtype))
                elif trial and not self.frozen:
                    tried.add(class_key(site))
            self.traffic.forget_promises(news)
            flipped = self._flips(outcomes, surprises)
            groups = failed if self.frozen else failed | news | recovered()
            if not self.frozen:
                groups |= self.traffic.grown(changed)
                groups |= changed - {(o.site.operation, o.site.dtype) for o in outcomes}  # what other processes tell
            if flipped:
                groups |= changed
            stale = groups | {(key[0], key[1]) for key in tried}
            if stale:
                self.costs.forget(stale)
                self._predictions = {k: v for k, v in self._predictions.items() if k[0][:2] not in stale}
            if flipped:  # every choice is another one, though nothing that it rests on has changed
                groups |= self.traffic.groups()
            due = tried | groups
            if due:
                self.epoch = next(self._epochs)
            return due

    def _beats(self, outcome: Outcome) -> bool:
        """Whether a trial took less than what runs there: then it may do so at other sizes."""
        seen = self.traffic.at(class_key(outcome.site))
        return seen is not None and not outcome.cold and outcome.seconds < seen.chosen_s

    def _count(self, outcome: Outcome) -> None:
        trial, on_purpose = outcome.rule == "explore", outcome.rule in ON_PURPOSE
        if not (self._counted or on_purpose):
            self._counted = True
            self.history.add_ledger(PROCESSES, 1.0)
        if outcome.site.operation == "import" and not outcome.site.dtype:
            if not on_purpose:
                self.ledger.paid(outcome.seconds, 0.0, trial=trial, attempts=0)
            return
        if outcome.calls > 1:  # one of many: a stall in it is no stall in all of them
            known = self.traffic.at(class_key(outcome.site))
            if known is not None and outcome.seconds > known.high_s:
                once = outcome._replace(calls=1)
                outcome = outcome._replace(seconds=known.chosen_s, calls=outcome.calls - 1)
                self._count(once)
        seen, calls = self.traffic.count(outcome), float(outcome.calls)
        by_default = outcome.site.variant == seen.default  # what it takes is what it would have taken
        basis = seen.default_s if seen.default_known and not by_default else outcome.seconds
        self.ledger.paid(outcome.seconds * calls, basis * calls, trial=trial, usual=seen.chosen_s if trial else 0.0)

    def _flips(self, outcomes: Sequence[Outcome], surprises: int) -> bool:
        """Take over the load that this batch was labelled with: at once if calls took what nobody expected, else when
        the next batch says the same; a passing load is not worth new tables."""
        label = outcomes[-1].context if outcomes else self.context
        flips = not self.frozen and label != self.context and (label == self._last_context or surprises >= SURPRISES)
        self._last_context = label
        if flips:
            self.context = label
        return flips

    def clear(self, *, everything: bool = True) -> None:
        """Forget all that was seen (the history was reset); `everything`: the ledger as well."""
        with self.lock:
            if everything:
                self.ledger.clear()
                self._processes, self._counted = 0.0, False
            self.traffic.clear()
            self._handed_out.clear()
            self._warmed_up.clear()
            self._predictions.clear()
            self.costs.forget(None)
            self.epoch = next(self._epochs)


def paid_once_s(compiled: bool | None, seconds: float, expected_s: float = 0.0) -> float:
    """Seconds of a first call that no later one costs; `compiled` is what the library says, None where it does not."""
    if compiled is None:
        return max(seconds - expected_s, WARMED_S)
    return max(seconds, WARMED_S) if compiled else WARMED_S


def _lately_s(sketch: Sketch | None, site: Site) -> float | None:
    """What the latest call took, for as much work as `site` has."""
    if sketch is None or not sketch.recent:
        return None
    _, seconds, work = sketch.recent[-1]
    return seconds * max(site.work, 1.0) / math.exp2(work)
