"""What a replay says about a policy, as plain numbers; nan where a measure has nothing to go by."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .replay import Trace

HARM = 1.03  # the tie band: a converged choice slower than the default by more than this does harm
WINDOW, RECOVERED = 10, 1.1  # calls, and the running geometric regret under which a policy has recovered
LAST = 0.2  # share of a group's calls that tells what a policy converged to


def measure(trace: Trace, oracle_trace: Trace, always: Mapping[str, Trace]) -> dict[str, float]:
    """All measures of one policy in one stream.

    Parameters
    ----------
    oracle_trace : of the policy that knows everything, and compiles too.
    always : traces of the fixed policies; the best of them is what learning has to beat.

    Returns
    -------
    dict
        regret_geomean, regret_p95, regret_max : mean seconds of the choice (and of attempts that raised) over the
        best's, over the judged calls (the last fifth; of each phase in `switch`; the sizes left out in `unseen`).
        regret_first : geometric mean over the first judged decision of each cell.
        regret_<group> : over a stream's named parts. regret_all : over all calls.
        regret_over_oracle : the choice over the oracle's, which leaves uncompiled what its calls would never pay for;
        it may be under 1.
        regret_since_change : over all calls from the first change on.
        harm_rate, harm_worst : of the choices converged to, the share that is slower than the default by more than 3 %,
        and the worst ratio (at least 1). flips : changes of the choice by cell, in the judged calls.
        closed_gap : share of the logarithmic regret of the best fixed policy that is gone; 1 is the best in every call.
        total_s, total_over_oracle, total_over_best_fixed : everything paid. learning_cost_s : paid beyond what the
        choices converged to would have cost. cold_s, wasted_s : shares of the total.
        decisions_per_s : from the median time of a decision (wall clock: the only measure that no seed fixes).
        recovery_calls, recovery_s : see `recovery`. coverage, median_error, predicted : see `calibration`.
    """
    judged, regret = trace.stream.judged, trace.regret
    paid, oracle_s = float(trace.paid.sum()), float(oracle_trace.paid.sum())
    fixed_s = min((float(other.paid.sum()) for other in always.values()), default=math.nan)
    found = {
        "regret_geomean": _geomean(regret[judged]),
        "regret_p95": float(np.quantile(regret[judged], 0.95)),
        "regret_max": float(regret[judged].max()),
        "regret_first": _geomean(regret[judged][_firsts(trace.stream.tables.cell[judged])]),
        "regret_all": _geomean(regret),
        "regret_over_oracle": _geomean(regret[judged] / oracle_trace.regret[judged]),
    }
    for name, mask in trace.stream.groups.items():
        found[f"regret_{name}"] = _geomean(regret[judged & mask])
    if trace.stream.changes:
        found["regret_since_change"] = _geomean(regret[trace.stream.changes[0] :])
    found |= _harm(trace)
    found["closed_gap"] = _closed_gap(trace, always)
    found |= {
        "total_s": paid,
        "total_over_oracle": paid / oracle_s,
        "total_over_best_fixed": paid / fixed_s,
        "learning_cost_s": _learning_cost_s(trace),
        "cold_s": float(trace.cold.sum()),
        "wasted_s": float(trace.wasted.sum()),
    }
    timed = trace.decided[~np.isnan(trace.decided)]
    found["decisions_per_s"] = 1.0 / max(float(np.median(timed)), 1e-9) if timed.size else math.nan
    found["recovery_calls"], found["recovery_s"] = recovery(trace)
    return found | calibration(trace)


def best_fixed(always: Mapping[str, Trace]) -> str:
    """The fixed policy of least regret over the judged calls."""
    return min(always, key=lambda name: _geomean(always[name].regret[always[name].stream.judged]))


def recovery(trace: Trace) -> tuple[float, float]:
    """Calls and virtual seconds until a cell's choices are good again after a change of the truth.

    Counted in each cell that a change touches (what was best there is now more than 1.1x slower than what is best): its
    calls after the change, up to the first ten in a row whose geometric regret is under 1.1; all of them where there is
    none. The median over the cells; where the truth changes several times, the worst of the medians. A cell with fewer
    than ten calls in a phase is not counted.
    """
    calls, seconds = [], []
    elapsed = np.concatenate([[0.0], np.cumsum(trace.paid)])
    turns = (0, *trace.stream.changes, len(trace.stream))
    for before, turn, after in zip(turns, turns[1:], turns[2:], strict=False):
        counted = [
            _recovered(trace.regret[where], elapsed[np.append(where, after)] - elapsed[turn])
            for where in _touched(trace, before, turn, after)
        ]
        if counted:
            calls.append(float(np.median([count for count, _ in counted])))
            seconds.append(float(np.median([spent for _, spent in counted])))
    return max(calls, default=math.nan), max(seconds, default=math.nan)


def calibration(trace: Trace) -> dict[str, float]:
    """How good the predictions were, over steady calls that had one: judged calls where there are any.

    coverage : share of the observed seconds within the 90 % interval. median_error : of |typical / mean - 1|, against
    the variant's true mean rather than one draw. predicted : how many calls.
    """
    usable = trace.steady & ~np.isnan(trace.typical)
    usable = usable & trace.stream.judged if (usable & trace.stream.judged).any() else usable
    if not usable.any():
        return {"coverage": math.nan, "median_error": math.nan, "predicted": 0.0}
    seconds = trace.observed[usable]
    inside = (trace.low[usable] <= seconds) & (seconds <= trace.high[usable])
    error = np.abs(trace.typical[usable] / trace.mean[usable] - 1.0)
    return {"coverage": float(inside.mean()), "median_error": float(np.median(error)), "predicted": float(usable.sum())}


def _geomean(values: np.ndarray) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values.size else math.nan


def _firsts(cells: np.ndarray) -> np.ndarray:
    return np.unique(cells, return_index=True)[1]


def _by_cell(trace: Trace, where: np.ndarray) -> list[np.ndarray]:
    """Indices of calls, in order, one array for each truth's cell and phase."""
    cell, phase = trace.stream.tables.cell[where], trace.stream.phases[where]
    order = np.lexsort((where, phase, cell))
    edges = np.flatnonzero((np.diff(cell[order]) != 0) | (np.diff(phase[order]) != 0)) + 1
    return np.split(where[order], edges)


def _settled(chosen: np.ndarray) -> int:
    """The column chosen most often; of equals the later one."""
    values, counts = np.unique(chosen, return_counts=True)
    often = set(values[counts == counts.max()].tolist())
    return int(next(column for column in reversed(chosen.tolist()) if column in often))


def _harm(trace: Trace) -> dict[str, float]:
    ratios, flips = [], []
    mean, row = trace.stream.tables.mean, trace.stream.tables.row
    for where in _by_cell(trace, np.flatnonzero(trace.stream.judged)):
        chosen = trace.chosen[where]
        last = where[-1]
        ratios.append(mean[row[last], _settled(chosen)] / trace.default[last])
        flips.append(np.count_nonzero(np.diff(chosen)))
    harmed = np.asarray(ratios)
    return {
        "harm_rate": float((harmed > HARM).mean()),
        "harm_worst": max(float(harmed.max()), 1.0),
        "flips": float(np.mean(flips)),
    }


def _closed_gap(trace: Trace, always: Mapping[str, Trace]) -> float:
    """Against the best of each call: in a short stream an oracle, which must compile, leaves much of the gap itself."""
    if not always:
        return math.nan
    judged = trace.stream.judged
    loss = math.log(_geomean(trace.regret[judged]))
    fixed = math.log(_geomean(always[best_fixed(always)].regret[judged]))
    return (fixed - loss) / fixed if fixed > 1e-9 else math.nan


def _learning_cost_s(trace: Trace) -> float:
    """What was paid beyond the mean seconds of the choice that each cell came to in each phase."""
    mean, row = trace.stream.tables.mean, trace.stream.tables.row
    cost = float(trace.paid.sum())
    for where in _by_cell(trace, np.arange(len(trace.stream))):
        settled = _settled(trace.chosen[where[-max(1, int(LAST * len(where))) :]])
        cost -= float(mean[row[where], settled].sum())
    return cost


def _touched(trace: Trace, before: int, turn: int, after: int) -> list[np.ndarray]:
    """By touched cell, the indices of its calls from the change to the next one."""
    tables = trace.stream.tables
    working = np.where(tables.works, tables.mean, np.inf)
    old = {int(c): int(r) for c, r in zip(tables.cell[before:turn], tables.row[before:turn], strict=True)}
    touched = []
    for where in _by_cell(trace, np.arange(turn, after)):
        former = old.get(int(tables.cell[where[0]]))
        if former is None or len(where) < WINDOW:
            continue
        now = tables.row[where[0]]
        if working[now, np.argmin(working[former])] > RECOVERED * working[now].min():
            touched.append(where)
    return touched


def _recovered(regret: np.ndarray, elapsed: np.ndarray) -> tuple[int, float]:
    """Calls and seconds before the first window that is good; `elapsed` has one more entry, the phase's end."""
    running = np.convolve(np.log(regret), np.full(WINDOW, 1.0 / WINDOW), mode="valid")
    good = np.flatnonzero(running < math.log(RECOVERED))
    start = int(good[0]) if good.size else len(regret)
    return start, float(elapsed[start]) if start else 0.0
