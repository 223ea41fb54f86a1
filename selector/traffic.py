"""What has been asked for so far: calls and seconds by size class, and what they say about calls to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..telemetry.levels import LEVEL_FACTOR
from ..telemetry.outcome import Outcome, Site
from ..telemetry.state import Group
from .base import Candidate

REFIT_GROWTH = 0.25
"""A group is fitted anew when its observations have grown by this share: work stays logarithmic in calls."""
MOST_GROWN = 8
"""So many groups at once, those that have grown most; the others have their turn after the next batch."""
MOST_SIGNATURES = 20_000
MOST_CLASSES = 4096
"""Beyond, the half of the size classes that took the least time is forgotten; their sketches stay."""
TO_COME = 0.6
"""Calls still to come, as a multiple of those seen, where it is asked whether they repay what is paid once. As many
again is the ski-rental bound; purchases turn out to be worth less than they promised, so less was better in replay."""
SURPRISE, SURPRISES = LEVEL_FACTOR, 6
"""So many calls in a row that differ by this factor from what was expected are a change of level: fit anew."""
LEAST_SURPRISE_S = 2e-5
"""A slow path, a page fault or a timer's tick is no news about a short call."""
LATELY = 0.2
"""Weight of the newest call in the mean of the latest."""
NEAR, AHEAD = 6.0, 16.0
"""Octaves of work over which what was spent at another size counts half: at neighbours, and at sizes yet untried."""
TELLING_S = 1e-4
"""A smaller size that takes at least this long tells something about rates, and so has to be tried first."""

ClassKey = tuple[str, str, str, str]
"""(operation, dtype, shape class, detail): where variants compete"""
Due = set[Group | ClassKey]
"""Where choices have to be made again: whole groups, and single classes."""


@dataclass(slots=True)
class SizeClass:
    """What has been seen of one class, and what was expected of it when its choice was last made."""

    x: float = 0.0  # log2 of the default's work: where it lies on the size axis
    calls: float = 0.0
    usual: float = 0.0  # calls that a process has made of it so far, on average
    spent_s: float = 0.0
    lately_s: float = 0.0  # mean of the latest calls that were no trials
    incumbent: str | None = None
    default: str = ""
    default_s: float = 0.0
    default_known: bool = False
    chosen_s: float = 0.0
    low_s: float = 0.0  # 90 % interval of its calls
    high_s: float = math.inf
    surprises: int = 0  # calls in a row that took quite another time than expected
    patience: int = SURPRISES
    last: dict[str, float] = field(default_factory=dict)  # variant -> `spent_s` when it last ran
    failing: dict[str, float] = field(default_factory=dict)  # variant -> share of its latest attempts that failed
    promises: dict[str, float] = field(default_factory=dict)  # cold variant -> share of its time that it may save
    wishes: dict[str, tuple[str, float]] = field(
        default_factory=dict
    )  # cold variant -> (backend, seconds saved a call)

    @property
    def ahead_s(self) -> float:
        """Seconds that as many calls again would take as the latest do: what used to be slow is past."""
        return min(self.spent_s, self.calls * self.lately_s)


class Traffic:
    """Counts by size class, signature and group; not thread-safe: the engine locks."""

    def __init__(self) -> None:
        self._classes: dict[ClassKey, SizeClass] = {}
        self._of_group: dict[Group, list[SizeClass]] = {}
        self._tried: dict[tuple[str, str, str], float] = {}  # (operation, dtype, variant) -> largest size, log2 work
        self._signatures: dict[tuple[ClassKey, int], float] = {}
        self._saved: dict[str, float] | None = None  # backend not imported -> seconds that it would have saved
        self._tally: dict[Group, list[float]] = {}  # group -> [seen, seen at the last fit]

    def at(self, key: ClassKey) -> SizeClass | None:
        """What has been seen at `key`; None: nothing."""
        return self._classes.get(key)

    def of(self, site: Site) -> SizeClass:
        """The class of `site`, made if need be."""
        key = class_key(site)
        seen = self._classes.get(key)
        if seen is None:
            if len(self._classes) >= MOST_CLASSES:
                self._forget_half()
            seen = self._classes[key] = SizeClass(x=math.log2(max(site.work, 1.0)))
            self._of_group.setdefault(key[:2], []).append(seen)
        return seen

    def _forget_half(self) -> None:
        by_time = sorted(self._classes.items(), key=lambda item: -item[1].spent_s)
        self._classes = dict(by_time[: MOST_CLASSES // 2])
        self._of_group = {}
        for key, seen in self._classes.items():
            self._of_group.setdefault(key[:2], []).append(seen)

    def groups(self) -> set[Group]:
        """Groups that have been seen."""
        return set(self._tally)

    def count(self, outcome: Outcome) -> SizeClass:
        """Count one outcome; returns its class."""
        site, calls = outcome.site, float(outcome.calls)
        seen, self._saved = self.of(site), None
        if outcome.failure is None:
            mark = (site.operation, site.dtype, site.variant)
            self._tried[mark] = max(self._tried.get(mark, -math.inf), seen.x)
        seen.calls += calls
        if not outcome.cold:  # what is paid once is not to be paid again
            seen.spent_s += outcome.seconds * calls
        seen.last[site.variant] = seen.spent_s
        failing = seen.failing.get(site.variant, 0.0)
        if failing or outcome.failure is not None:
            seen.failing[site.variant] = failing + LATELY * ((outcome.failure is not None) - failing)
        if outcome.rule != "explore" and calls and not outcome.cold:
            share = LATELY if seen.lately_s else 1.0
            seen.lately_s += share * (outcome.seconds - seen.lately_s)
        if len(self._signatures) > MOST_SIGNATURES:
            self._signatures.clear()
        signature = (class_key(site), site.size)
        self._signatures[signature] = self._signatures.get(signature, 0.0) + calls
        # What was measured on purpose stands for no call, and is something learned all the same.
        self._tally.setdefault((site.operation, site.dtype), [0.0, 0.0])[0] += max(calls, 1.0)
        return seen

    def outside(self, outcome: Outcome) -> bool:
        """Whether a steady call of what was chosen took a time far outside its predicted interval."""
        seen = self.of(outcome.site)
        if outcome.cold or outcome.site.variant != seen.incumbent:
            return False
        return not seen.low_s / SURPRISE < outcome.seconds < seen.high_s * SURPRISE

    def surprised(self, outcome: Outcome) -> bool:
        """Whether this is the last of a row of calls that shows a change of level."""
        seen = self.of(outcome.site)
        if outcome.cold or outcome.site.variant != seen.incumbent or not seen.chosen_s:
            return False
        ratio, size = outcome.seconds / seen.chosen_s, outcome.site.work / math.exp2(seen.x)
        usual = min(1.0, size) / SURPRISE < ratio < max(1.0, size) * SURPRISE
        if usual or abs(outcome.seconds - seen.chosen_s) < LEAST_SURPRISE_S:
            seen.surprises = 0
            return False
        seen.surprises += 1
        if seen.surprises < seen.patience:
            return False
        seen.surprises, seen.patience = 0, 2 * seen.patience  # where fitting anew does not help, do it ever less often
        return True

    def grown(self, changed: set[Group]) -> set[Group]:
        """Those of the changed groups that have grown enough since they were last fitted; they count as fitted now."""
        grown = {}
        for group in changed:
            seen, fitted = self._tally.setdefault(group, [0.0, 0.0])
            if seen - fitted >= max(1.0, REFIT_GROWTH * fitted):
                grown[group] = seen / fitted if fitted else math.inf
        due = set(sorted(grown, key=lambda group: (-grown[group], group))[:MOST_GROWN])
        for group in due:
            self._tally[group][1] = self._tally[group][0]
        return due

    def calls_of(self, site: Site) -> float:
        """Calls seen of exactly this signature."""
        return self._signatures.get((class_key(site), site.size), 0.0)

    def at_stake(self, key: ClassKey, candidates: Sequence[Candidate]) -> dict[str, float]:
        """Seconds that as many calls again would take, of what a trial here would teach about: here, nearby, and where
        it is yet untried."""
        here = self._classes.get(key)
        if here is None or not here.spent_s:
            return {}
        known = untried = 0.0
        for c in self._of_group[key[:2]]:
            ahead_s, away = c.ahead_s, abs(c.x - here.x)
            known += ahead_s * math.exp2(-away / NEAR)
            untried += ahead_s * math.exp2(-away / (AHEAD if c.x > here.x else NEAR))
        tops = {c.variant: self._tried.get((key[0], key[1], c.variant), -math.inf) for c in candidates}
        return {variant: untried if here.x > top + 0.5 else known for variant, top in tops.items()}

    def may_save(self, key: ClassKey, candidates: Sequence[Candidate]) -> dict[str, float]:
        """Seconds that cold candidates may save in the calls of every size still to come: what is paid once for all
        sizes must be repaid by what each of them gains, and large ones may gain nothing."""
        cold = [c.variant for c in candidates if c.cold_s]
        return {
            variant: TO_COME * sum(c.ahead_s * c.promises.get(variant, 0.0) for c in self._of_group.get(key[:2], ()))
            for variant in cold
        }

    def untested(self, key: ClassKey, candidates: Sequence[Candidate]) -> frozenset[str]:
        """Variants that have never run at a smaller telling size: nobody has to run a quadratic algorithm on large data
        to find out that it is one."""
        here = self._classes.get(key)
        if here is None:
            return frozenset()
        near, out = self._of_group[key[:2]], set()
        for candidate in candidates:
            top = self._tried.get((key[0], key[1], candidate.variant), -math.inf)
            if any(top < c.x - 0.5 < here.x - 1.0 and _comes_first(c, candidate) for c in near):
                out.add(candidate.variant)
        return frozenset(out)

    def forget_promises(self, groups: set[Group]) -> None:
        """What was promised against a choice that has been overtaken is promised no longer; choosing anew says."""
        for group in groups:
            for seen in self._of_group.get(group, ()):
                seen.promises, seen.wishes = {}, {}
        self._saved = None

    def imports_earned(self, candidates: Sequence[Candidate]) -> frozenset[str]:
        """Backends whose import is repaid by the calls so far, or by those that earlier processes usually made."""
        pending = {c.backend: c.import_s for c in candidates if c.import_s}
        if not pending:
            return frozenset()
        if self._saved is None:
            self._saved = {}
            for seen in self._classes.values():
                best: dict[str, float] = {}
                for backend, gain in seen.wishes.values():
                    best[backend] = max(best.get(backend, 0.0), gain)
                for backend, gain in best.items():
                    self._saved[backend] = self._saved.get(backend, 0.0) + gain * max(TO_COME * seen.calls, seen.usual)
        saved = self._saved
        return frozenset(b for b, cost in pending.items() if saved.get(b, 0.0) >= cost)

    def compiles_earned(self, key: ClassKey, candidates: Sequence[Candidate]) -> frozenset[str]:
        """Variants whose compilation, once for all shapes, is repaid by such calls in all sizes of the group."""
        pending = {c.variant: c.compile_s for c in candidates if c.compile_s and not c.per_shape}
        if not pending:
            return frozenset()
        saved = dict.fromkeys(pending, 0.0)
        for seen in self._of_group.get(key[:2], ()):
            for variant in pending.keys() & seen.wishes.keys():
                saved[variant] += seen.wishes[variant][1] * max(TO_COME * seen.calls, seen.usual)
        return frozenset(v for v, cost in pending.items() if saved[v] >= cost)

    def clear(self) -> None:
        """Forget it all."""
        for kept in (self._classes, self._of_group, self._tried, self._signatures, self._tally):
            kept.clear()
        self._saved = None


def _comes_first(smaller: SizeClass, candidate: Candidate) -> bool:
    """Whether a smaller size has to be tried first: it tells about rates, and its calls could repay a cold start."""
    return smaller.chosen_s >= TELLING_S and smaller.spent_s > 0.0 and smaller.spent_s >= candidate.cold_s


def concerns(due: Due, site: Site) -> bool:
    """Whether the choice at `site` has to be made again."""
    return (site.operation, site.dtype) in due or class_key(site) in due


def class_key(site: Site) -> ClassKey:
    """The class that `site` belongs to."""
    return (site.operation, site.dtype, site.shape_class, site.detail)
