"""What is remembered of one (cell, context): a decayed histogram of steady seconds, cold costs and failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from heapq import nlargest
from typing import Any

import numpy as np

from .levels import BINS_PER_OCTAVE, RECENT, Bins, Levels, levels
from .outcome import Failure, Outcome

HALF_LIFE_S = 86_400.0
"""Age at which a steady time counts half."""

_EPOCH_S = 64 * HALF_LIFE_S  # weights stay within 2**64 of their landmark
_NEGLIGIBLE = 2.0**-80  # below the rounding of any sum with the newest time, whose weight is at least one
_MANY = 32  # from here on NumPy is faster than a loop (measured)
_SHORTEST_S = 1e-9
_AHEAD_S = 60.0  # by so much a clock may have run ahead before what it stamped is put right

# What a file may say; beyond, it is damaged: a call of 30 000 years, work of 2**256, and counts that floats hold.
_LONGEST_S, _MOST_WORK, _MOST = 1e12, 256.0, 2**53


class Sketch:
    """Bounded memory of any number of outcomes; merging sketches is the same as adding their outcomes to one.

    Neither the order of arrival nor the split into sub-sketches changes what is read out, up to rounding. Durations
    are wall seconds. Read-outs of steady times are NaN while there are none.
    """

    __slots__ = (
        "_levels",
        "bins",
        "calls",
        "chosen",
        "cold_count",
        "cold_total_s",
        "count",
        "epoch",
        "failures",
        "last_failure",
        "last_seen",
        "last_when",
        "recent",
        "total_s",
        "work_sum",
    )

    def __init__(self) -> None:
        self.count = 0  # steady times measured
        self.calls = 0  # steady calls they stand for: short calls are sampled
        self.total_s = 0.0  # of those calls
        self.work_sum = 0.0  # of log2(work)
        self.epoch = 0  # the landmark of the weights, in units of 64 half-lives
        self.bins: Bins = {}
        self.recent: list[tuple[float, float, float]] = []  # (when, seconds, log2 of work), in order
        self.last_when = 0.0  # of the steady times: the weights refer to it
        self.last_seen = 0.0  # of anything
        self.chosen: Counter[str] = Counter()
        self.cold_count = 0
        self.cold_total_s = 0.0
        self.failures: Counter[Failure] = Counter()
        self.last_failure: tuple[float, str] | None = None
        self._levels: Levels | None = None

    def add(self, outcome: Outcome) -> None:
        """Take in one outcome: a failure, a cold time or a steady time."""
        self.add_many((outcome,))

    def add_many(self, outcomes: Iterable[Outcome]) -> None:
        """Take in outcomes that belong to this cell and context."""
        steady = []
        site, work = None, 0.0
        for outcome in outcomes:
            if outcome.when > self.last_seen:
                self.last_seen = outcome.when
            if outcome.failure is not None:
                self._add_failure(outcome)
                continue
            calls = outcome.calls
            if outcome.rule:
                self.chosen[outcome.rule] += calls
            if outcome.import_s > 0.0 or outcome.compile_s > 0.0:  # outcome.cold, without the call
                self.cold_count += 1
                self.cold_total_s += outcome.import_s + outcome.compile_s
                continue
            if outcome.site is not site:
                site = outcome.site
                work = math.log2(max(site.work, 1.0))
            seconds = max(outcome.seconds, _SHORTEST_S)
            steady.append((outcome.when, seconds, work))
            self.calls += calls
            self.total_s += seconds * calls
        if steady:
            self._add_steady(steady)
            self._levels = None

    def merge(self, other: Sketch) -> None:
        """Take in all that `other` holds, as if its outcomes had been added here."""
        if other.epoch > self.epoch:
            self._rescale(other.epoch)
        factor = 2.0 ** (64 * (other.epoch - self.epoch))
        for index, (weight, seconds) in other.bins.items():
            self._put(index, weight * factor, seconds * factor)
        self.count += other.count
        self.calls += other.calls
        self.total_s += other.total_s
        self.work_sum += other.work_sum
        self.recent = sorted(nlargest(RECENT, self.recent + other.recent))
        self.last_when = max(self.last_when, other.last_when)
        self.last_seen = max(self.last_seen, other.last_seen)
        self.chosen.update(other.chosen)
        self.cold_count += other.cold_count
        self.cold_total_s += other.cold_total_s
        self.failures.update(other.failures)
        self.last_failure = max(self.last_failure or (-math.inf, ""), other.last_failure or (-math.inf, ""))
        if self.last_failure[0] == -math.inf:
            self.last_failure = None
        self._levels = None

    def copy(self) -> Sketch:
        """An independent sketch of the same content."""
        twin = Sketch()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.bins, twin.recent = dict(self.bins), list(self.recent)
        twin.chosen, twin.failures = Counter(self.chosen), Counter(self.failures)
        return twin

    def as_of(self, now: float, news: Sketch | None = None) -> Sketch:
        """This sketch, or where it holds stamps later than `now` (unix time) one that does not.

        A clock that ran ahead and was set back must not make all that comes later old: what it stamped is present from
        then on, and older than `news`, which come in with it.
        """
        if max(self.last_seen, self.last_when) <= now + _AHEAD_S:
            return self
        if news is not None and news.recent:
            now = min(now, news.recent[0][0])
        twin = self.copy()
        twin._levels = None
        twin.last_seen = min(self.last_seen, now)
        if self.last_failure is not None:
            twin.last_failure = (min(self.last_failure[0], now), self.last_failure[1])
        ahead_s = self.last_when - now
        if ahead_s > 0.0:
            twin.epoch, twin.last_when = _epoch(now), now
            factor = 2.0 ** (64 * (self.epoch - twin.epoch) - ahead_s / HALF_LIFE_S)
            twin.bins = {}
            for index, (weight, seconds) in self.bins.items():  # whose stamps nobody knows: all of them go back
                twin._put(index, weight * factor, seconds * factor)
            latest = ((when - ahead_s if when > now else when, *rest) for when, *rest in self.recent)
            twin.recent = sorted((when, seconds, work) for when, seconds, work in latest)
        return twin

    # Read-outs

    @property
    def levels(self) -> Levels:
        """All read-outs of the steady times, computed once per change."""
        if self._levels is None:
            newest = 2.0 ** (self.epoch * 64 - self.last_when / HALF_LIFE_S)  # the newest time then weighs one
            bins = {index: (weight * newest, seconds * newest) for index, (weight, seconds) in self.bins.items()}
            self._levels = levels(bins, [seconds for _, seconds, _ in self.recent], self.count)
        return self._levels

    @property
    def low_s(self) -> float:
        """25 % quantile."""
        return self.levels.low_s

    @property
    def median_s(self) -> float:
        """50 % quantile."""
        return self.levels.median_s

    @property
    def mean_s(self) -> float:
        """Mean of everything, stalls included, recent times counting more."""
        return self.levels.mean_s

    @property
    def spread(self) -> float:
        """Standard deviation of the natural logarithm of the unstalled times, estimated from quartiles."""
        return self.levels.spread

    @property
    def stall_rate(self) -> float:
        """Share of calls that stall; one isolated stall counts as none."""
        return self.levels.stall_rate

    @property
    def stall_s(self) -> float:
        """Mean length of a stall beyond the unstalled time, in seconds; 0 without any."""
        return self.levels.stall_s

    @property
    def expected_s(self) -> float:
        """What one more call is expected to cost: unstalled time plus stall rate times stall length."""
        return self.levels.expected_s

    @property
    def log2_work(self) -> float:
        """Mean of log2(work) of the steady times; 0 without any."""
        return self.work_sum / self.count if self.count else 0.0

    @property
    def cold_s(self) -> float:
        """Mean seconds of import and compilation of the cold times; 0 without any."""
        return self.cold_total_s / self.cold_count if self.cold_count else 0.0

    @property
    def failure_count(self) -> int:
        """Attempts that gave no result."""
        return self.failures.total()

    @property
    def records(self) -> int:
        """Outcomes taken in: steady, cold and failed."""
        return self.count + self.cold_count + self.failure_count

    # Storage

    def to_json(self) -> dict[str, Any]:
        """Content as plain data with short keys; `from_json` gives the same sketch back, to nine digits."""
        data: dict[str, Any] = {
            "n": self.count,
            "m": self.calls,
            "t": self.total_s,
            "w": self.work_sum,
            "e": self.epoch,
            "z": self.last_when,
            "s": self.last_seen,
            "b": [n for index, (weight, s) in self.bins.items() for n in (index, _short(weight), _short(s))],
            "r": [n for when, seconds, work in self.recent for n in (round(when, 6), _short(seconds), round(work, 4))],
        }
        if self.chosen:
            data["c"] = dict(self.chosen)
        if self.cold_count:
            data["k"] = [self.cold_count, self.cold_total_s]
        if self.last_failure is not None:
            data["f"] = {str(kind): count for kind, count in self.failures.items()}
            data["l"] = list(self.last_failure)
        return data

    @classmethod
    def from_json(cls, data: Any) -> Sketch:
        """Inverse of `to_json`; a ValueError for anything that it cannot have given, so that read-outs make sense."""
        try:
            sketch = cls._read(data)
            sketch._check()
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"no sketch: {type(error).__name__}: {error}") from error
        return sketch

    @classmethod
    def _read(cls, data: dict[str, Any]) -> Sketch:
        sketch = cls()
        sketch.count, sketch.total_s, sketch.work_sum = data["n"], data["t"], data["w"]
        sketch.calls = data.get("m", sketch.count)  # the first schema knew no sampling
        sketch.epoch, sketch.last_when, sketch.last_seen = data["e"], data["z"], data["s"]
        flat = data["b"]
        sketch.bins = dict(zip(flat[::3], zip(flat[1::3], flat[2::3], strict=True), strict=True))
        flat = data["r"]
        sketch.recent = sorted(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        sketch.chosen.update(data.get("c", {}))
        sketch.cold_count, sketch.cold_total_s = data.get("k", (0, 0.0))
        sketch.failures.update({Failure(kind): count for kind, count in data.get("f", {}).items()})
        if "l" in data:
            sketch.last_failure = (data["l"][0], str(data["l"][1]))
        return sketch

    def _check(self) -> None:
        """Raise for what no outcomes can have made; every comparison is false for NaN, and so is that of a sum with it.

        A history of thousands of sketches is read at the start of every process: the least and the most of many numbers
        are found many times faster than each of them is compared.
        """
        counts = (self.count, self.calls, self.cold_count, *self.chosen.values(), *self.failures.values())
        whens, steady_s, works = zip(*self.recent, strict=True) if self.recent else ((self.last_when,), (1.0,), (0.0,))
        failed_at, _ = self.last_failure or (0.0, "")
        stamps = (self.last_seen, self.last_when, failed_at, *whens)
        newest = 2.0 ** ((self.last_when - self.epoch * _EPOCH_S) / HALF_LIFE_S)
        log2, most = math.log2, 1.001 * newest * self.count  # of the weight of so many
        sound = (
            {*map(type, counts)} == {int}
            and 0 <= min(counts) <= max(counts) <= _MOST
            and math.isfinite(sum(stamps) + sum(steady_s) + sum(works))
            and -_MOST <= min(stamps) <= max(stamps) <= _MOST
            and bool(self.bins) == bool(self.recent) == bool(self.count)
            and max(whens) <= self.last_when + 1e-3
            and _SHORTEST_S / 2 <= min(steady_s) <= max(steady_s) <= _LONGEST_S
            and 0.0 <= min(works) <= max(works) <= _MOST_WORK
            and 0.0 <= self.work_sum <= _MOST_WORK * self.count
            and 0.0 <= self.total_s <= _LONGEST_S * _MOST
            and 0.0 <= self.cold_total_s <= _LONGEST_S * _MOST
            and self.epoch == _epoch(self.last_when)
            and all(
                0.0 < weight <= most and abs(BINS_PER_OCTAVE * log2(seconds / weight) - index - 0.5) < 1.0  # its mean
                for index, (weight, seconds) in self.bins.items()
            )
        )
        if not sound:
            raise ValueError("counts, times or weights that no calls can have left")

    # How it is kept

    def _add_failure(self, outcome: Outcome) -> None:
        assert outcome.failure is not None
        self.failures[outcome.failure] += 1
        self.last_failure = max(self.last_failure or (-math.inf, ""), (outcome.when, outcome.message))

    def _add_steady(self, steady: list[tuple[float, float, float]]) -> None:
        newest = max(steady)[0]
        if newest >= (self.epoch + 1) * _EPOCH_S:
            self._rescale(_epoch(newest))
        landmark = self.epoch * _EPOCH_S
        if len(steady) < _MANY:
            for when, seconds, work in steady:
                weight = 2.0 ** ((when - landmark) / HALF_LIFE_S)
                self._put(math.floor(BINS_PER_OCTAVE * math.log2(seconds)), weight, weight * seconds)
                self.work_sum += work
        else:
            self._add_array(np.array(steady), landmark)
        self.count += len(steady)
        self.last_when = max(self.last_when, newest)
        self.recent = sorted(nlargest(RECENT, self.recent + steady))

    def _add_array(self, steady: np.ndarray[Any, Any], landmark: float) -> None:
        whens, seconds, works = steady.T
        weights = np.exp2((whens - landmark) / HALF_LIFE_S)
        indices = np.floor(BINS_PER_OCTAVE * np.log2(seconds)).astype(np.int64)
        first = int(indices.min())
        weight = np.bincount(indices - first, weights)
        weighted = np.bincount(indices - first, weights * seconds)
        for offset in np.flatnonzero(weight).tolist():
            self._put(first + offset, float(weight[offset]), float(weighted[offset]))
        self.work_sum += float(works.sum())

    def _put(self, index: int, weight: float, seconds: float) -> None:
        before = self.bins.get(index, (0.0, 0.0))
        total = before[0] + weight
        if total > _NEGLIGIBLE:
            self.bins[index] = (total, before[1] + seconds)

    def _rescale(self, epoch: int) -> None:
        factor = 2.0 ** (64 * (self.epoch - epoch))
        self.epoch = epoch
        bins, self.bins = self.bins, {}
        for index, (weight, seconds) in bins.items():
            self._put(index, weight * factor, seconds * factor)


def _epoch(when: float) -> int:
    """The landmark for weights of which the newest is stamped `when`."""
    return max(int(when // _EPOCH_S), 0)


def _short(number: float) -> float:
    """`number` to nine digits: a third of the reading time, far below what a clock tells."""
    return float(f"{number:.9g}")
