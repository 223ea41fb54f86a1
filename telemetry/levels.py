"""Seconds to expect, read out of a histogram: robust against one outlier, honest about a rate of stalls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

BINS_PER_OCTAVE = 32

RECENT = 16
"""How many of the latest times are kept as they are."""

Bins = dict[int, tuple[float, float]]
"""floor(32 log2 seconds) -> (weight, weight x seconds)."""

STALL_FACTOR = 3.0
STALL_MIN_S = 1e-3  # a scheduler stalls a thread for 4 to 24 ms (measured); a slow microsecond call is no stall
LEVEL_FACTOR = 1.3
"""What counts as a change of level."""
_LEVEL_RUN = 6  # that many calls in a row make one
_DRIFT_FACTOR = 1.15
_SHARE_MISSED = (0.171, 0.264)  # seen 0 or at most 1 time among 16: 5 % chance at these shares
_LEAST_SPREAD = 0.02  # of the order of a bin's width
_FEW = 4
_FEW_SPREAD = 0.1  # under four times say nothing about their spread


class Levels(NamedTuple):
    """Read-outs of steady times; seconds, but for `spread` (of the natural logarithm) and `stall_rate`."""

    low_s: float
    median_s: float
    mean_s: float
    centre_s: float  # of the unstalled part
    spread: float
    stall_rate: float
    stall_s: float
    expected_s: float


NONE = Levels(math.nan, math.nan, math.nan, math.nan, math.nan, 0.0, 0.0, math.nan)


def levels(bins: Bins, recent: Sequence[float], count: int) -> Levels:
    """Read-outs of `bins` (weights relative to the newest time) or, after a change of level, of the latest times only.

    Parameters
    ----------
    bins : all steady times.
    recent : the latest of them, in order of time.
    count : how many there are in all.
    """
    if not bins:
        return NONE
    fresh = sum(weight for weight, _ in bins.values())
    if fresh < min(_LEVEL_RUN, count):  # after a long pause a single new call would outweigh all the others
        return _of(_binned(recent))
    run = _changed(bins, recent)
    if run:
        return _of(_binned(recent[-run:]))
    long_term = _of(bins)
    if count <= len(recent):
        return long_term
    latest = _of(_binned(recent))
    return latest if _drifted(latest, recent, long_term, bins) else long_term


def _changed(bins: Bins, recent: Sequence[float]) -> int:
    """How many of the latest times lie all above or all below the level before them; 0: no change of level."""
    lowest, highest = min(recent[-_LEVEL_RUN:]), max(recent[-_LEVEL_RUN:])
    # Taking n times out of a total moves its median by no more than n / 2: mostly that settles it at once.
    total, half = sum(weight for weight, _ in bins.values()), len(recent) / 2.0
    least, most = _quantiles(bins, (max(0.5 - half / total, 0.0), min(0.5 + half / total, 1.0)))
    if lowest <= least * LEVEL_FACTOR and highest * LEVEL_FACTOR >= most:
        return 0
    rest = dict(bins)
    found = 0
    for length, seconds in enumerate(reversed(recent), start=1):
        lowest, highest = min(lowest, seconds), max(highest, seconds)
        index = _index(seconds)
        weight, weighted = rest.get(index, (0.0, 0.0))
        if weight - 1.0 > 1e-3:  # the latest weigh close to one each
            rest[index] = (weight - 1.0, max(weighted - seconds, 0.0))
        else:
            rest.pop(index, None)
        if length < _LEVEL_RUN:
            continue
        if not rest:
            break
        before = _quantiles(rest, (0.5,))[0]
        if lowest > before * LEVEL_FACTOR or highest * LEVEL_FACTOR < before:
            found = length
    return found


def _drifted(latest: Levels, recent: Sequence[float], long_term: Levels, bins: Bins) -> bool:
    """Whether the latest times have left the long-term ones: by their quantiles, allowing for their own scatter, or
    because a long-term share that can hardly be missing among them by chance (5 %) is: a past is not carried along
    once it is a minority, and a change of level is not mistaken for a rate of stalls."""
    factor = _DRIFT_FACTOR * math.exp(3.0 * latest.spread / math.sqrt(RECENT))
    if not long_term.low_s / factor <= latest.low_s <= long_term.low_s * factor:
        return True
    if not long_term.median_s / factor <= latest.median_s <= long_term.median_s * factor:
        return True
    order, total = sorted(recent), sum(weight for weight, _ in bins.values())
    for strays, share in enumerate(_SHARE_MISSED):
        longest, shortest = order[-1 - strays] * _DRIFT_FACTOR, order[strays] / _DRIFT_FACTOR
        above = sum(weight for weight, weighted in bins.values() if weighted > longest * weight)
        below = sum(weight for weight, weighted in bins.values() if weighted < shortest * weight)
        if max(above, below) > share * total:
            return True
    return False


def _of(bins: Mapping[int, tuple[float, float]]) -> Levels:
    total = sum(weight for weight, _ in bins.values())
    mean_s = sum(weighted for _, weighted in bins.values()) / total
    low_s, median_s = _quantiles(bins, (0.25, 0.5))
    limit = _stall_limit(low_s)
    stalled_weight = stalled_s = 0.0
    unstalled = {}
    for index, (weight, weighted) in bins.items():
        if weighted / weight > limit:
            stalled_weight += weight
            stalled_s += weighted
        else:
            unstalled[index] = (weight, weighted)
    quarter, half, three_quarters = _quantiles(unstalled, (0.25, 0.5, 0.75))
    centre_s = _centre(unstalled, half)
    spread = max(math.log(three_quarters / quarter) / 1.349, _LEAST_SPREAD)
    if total < _FEW - 0.5:
        spread = max(spread, _FEW_SPREAD)
    stall_rate = max(stalled_weight - 1.0, 0.0) / total  # one isolated stall is chance, not a rate
    stall_s = stalled_s / stalled_weight - centre_s if stalled_weight else 0.0
    return Levels(low_s, median_s, mean_s, centre_s, spread, stall_rate, stall_s, centre_s + stall_rate * stall_s)


def _stall_limit(low_s: float) -> float:
    return max(STALL_FACTOR * low_s, low_s + STALL_MIN_S)


def _centre(bins: Mapping[int, tuple[float, float]], median_s: float) -> float:
    """Mean of the unstalled times with the longest single one replaced by their median: one outlier changes nothing.

    The low quantile alone would hide jitter below the length of a stall that is paid on every tenth call.
    """
    weight, weighted = bins[max(bins)]
    replaced = min(weight, 1.0)
    total = sum(pair[0] for pair in bins.values())
    total_s = sum(pair[1] for pair in bins.values())
    return (total_s + replaced * (median_s - weighted / weight)) / total


def _quantiles(bins: Mapping[int, tuple[float, float]], shares: Sequence[float]) -> list[float]:
    """Quantiles, linear between the means of neighbouring bins and never reaching into a gap between modes."""
    order = sorted(bins)
    weights = [bins[index][0] for index in order]
    means = [bins[index][1] / bins[index][0] for index in order]
    total = sum(weights)
    found = []
    for share in shares:
        target, below, place = share * total, 0.0, 0
        while place < len(order) - 1 and below + weights[place] < target:
            below += weights[place]
            place += 1
        offset = target - below - weights[place] / 2.0  # from the middle of the bin's weight
        other = place + (1 if offset > 0.0 else -1)
        value = means[place]
        if 0 <= other < len(order) and abs(order[other] - order[place]) <= 2:
            value += (means[other] - value) * abs(offset) / (weights[place] + weights[other]) * 2.0
        found.append(value)
    return found


def _binned(times: Sequence[float]) -> Bins:
    bins: Bins = {}
    for seconds in times:
        index = _index(seconds)
        weight, weighted = bins.get(index, (0.0, 0.0))
        bins[index] = (weight + 1.0, weighted + seconds)
    return bins


def _index(seconds: float) -> int:
    return math.floor(BINS_PER_OCTAVE * math.log2(seconds))
