"""The policy: expected cost with cold starts amortised, a guard, trials by value of information."""

from __future__ import annotations

import math

from ..telemetry.levels import LEVEL_FACTOR
from .base import Candidate, Policy, Question, Ranking

TIE = 0.03
"""Within this band noise decides, so the canonical order does."""
GUARD = 0.05
"""A learned choice must beat the default by this much, or the default runs."""
HORIZON = 2.0
"""Calls to come, as a multiple of those seen. As many again is the ski-rental bound; two was better in replay."""
CAUTION = 0.5
"""Standard deviations of doubt that a variant which has not run at this size must beat the default by."""
WATCHED_S = 1e-3
"""What trying costs beside the call itself: it is watched, told and learned from at once."""
COLD_DOUBT = 2.0
"""A compilation may take so many times as long as expected: on another machine, of other dtypes, beside others."""
LOOK_AGAIN = 1e-3
"""Share of what is spent that looking again at a variant which has lost may cost."""
LOOK_ONCE = 0.01
"""The same, for the only time, where nothing but a prior speaks against a variant."""
MOST_TRIALS = 4
"""Proposed at once; each has its own call, and the credit is asked again before it."""


class ValueOfInformation(Policy):
    """Choose by expected seconds; try a candidate when what it may save exceeds what finding out may cost.

    A trial is proposed when (expected relative gain) x (seconds at stake) x `HORIZON` exceeds its
    expected loss, cold start included, and the 95 % upper bound of that loss fits the credit.
    """

    name = "value-of-information"

    def rank(self, question: Question) -> Ranking:
        """Answer `question`; see the class for the rules."""
        default = next((c for c in question.candidates if c.variant == question.default), question.candidates[0])
        scores = {c.variant: _score(c, question, default) for c in question.candidates}
        order = sorted(question.candidates, key=lambda c: scores[c.variant])
        best = order[0]
        chosen, rule, reason = _choose(question, scores, best, default)
        rest = [c for c in order if c is not chosen]
        ranked = (chosen.variant, *(c.variant for c in rest))
        return Ranking(ranked, rule, reason, _trials(question, chosen, rest))


def _score(candidate: Candidate, question: Question, default: Candidate) -> float:
    """Expected seconds a call: what is cold divided by the calls still expected, and what follows failures."""
    many = _many(question)
    compiled = max(question.calls, question.seen, 1.0) if candidate.per_shape else many
    instead_s = candidate.failing * default.prediction.mean_s  # runs after an attempt that gave nothing
    compile_s = 0.0 if candidate.variant in question.compile_earned else candidate.compile_s
    return candidate.prediction.mean_s + _import_s(candidate, question) / many + compile_s / compiled + instead_s


def _import_s(candidate: Candidate, question: Question) -> float:
    return 0.0 if candidate.backend in question.import_earned else candidate.import_s


def _many(question: Question) -> float:
    """Calls over which what is paid once is shared out."""
    return max(question.calls, question.usual, 1.0)


def _choose(
    question: Question, scores: dict[str, float], best: Candidate, default: Candidate
) -> tuple[Candidate, str, str]:
    floor = scores[best.variant]
    informed = [c for c in question.candidates if c.prediction.source != "guess"]
    if not informed:
        return default, "default", "nothing is known about any candidate yet"
    if best.prediction.source == "guess":
        known = min(informed, key=lambda c: scores[c.variant])
        best, floor = known, scores[known.variant]
    for candidate in question.candidates:  # canonical order
        if candidate.prediction.source != "guess" and scores[candidate.variant] <= floor * (1.0 + TIE):
            best = candidate
            break
    incumbent = next((c for c in informed if c.variant == question.incumbent), None)
    if incumbent is not None and scores[incumbent.variant] <= floor * (1.0 + TIE):
        best = incumbent  # within noise, staying put beats flapping
    if best is default:
        if default.prediction.source in ("measured", "nearby"):
            faster = any(c.prediction.mean_s < default.prediction.mean_s and c.cold_s for c in informed)
            cold = f"what would be faster is not repaid, cold as it is, by the {_many(question):.3g} calls expected"
            return default, "learned", cold if faster else "the default is the fastest that is known here"
        return default, "default", "nothing promises to beat the default"
    gain = scores[default.variant] / scores[best.variant]
    margin = GUARD if best.prediction.evidence else max(GUARD, math.expm1(CAUTION * best.prediction.sigma))
    if gain < 1.0 + margin:
        doubt = "a change must bring" if margin == GUARD else "its doubt asks for"
        return default, "guard", f"{best.variant} would gain {gain - 1:.1%}, less than the {margin:.0%} {doubt}"
    rule = "learned" if best.prediction.source in ("measured", "nearby") else "prior"
    cold = ", cold starts included" if any(c.cold_s for c in question.candidates) else ""
    return best, rule, f"expected {gain:.2f}x faster than the default {default.variant}{cold}"


def _trials(question: Question, chosen: Candidate, rest: list[Candidate]) -> tuple[tuple[str, float], ...]:
    """Candidates worth one call each, the most worthwhile first, with the upper bounds of their losses."""
    if not question.explore:
        return ()
    now = chosen.prediction.mean_s
    strike = now * (1.0 - TIE)  # what gains less would not be chosen
    found = []
    for candidate in rest:
        belief = candidate.prediction
        stake = question.at_stake_s.get(candidate.variant, 0.0)
        if belief.sigma <= 0.0 or stake <= 0.0:
            continue
        gain = belief.gain_s(strike)
        worth = gain / now * stake
        loss = max(0.0, belief.mean_s - now) + gain + WATCHED_S
        cold_s = candidate.compile_s + _import_s(candidate, question)
        if candidate.per_shape and candidate.compile_s and gain * question.seen * HORIZON <= loss + candidate.compile_s:
            continue  # what is compiled for one shape must be repaid by that shape: a stream of new ones never does
        net = worth * HORIZON - loss - cold_s
        if cold_s:
            net = min(net, question.may_save_s.get(candidate.variant, 0.0) - cold_s)
        if net <= 0.0 and _due_again(candidate, now, question):
            net = now  # little, so that whatever is new comes first
        bound = max(0.0, belief.high - now) + candidate.import_s + COLD_DOUBT * candidate.compile_s
        if candidate.variant in question.untested and question.spent_s < bound:
            continue  # a smaller size tells first, unless waiting for it has cost as much as trying here may
        if net > 0.0 and bound <= question.credit_s:
            found.append((net, candidate.variant, bound, cold_s > WATCHED_S))
    found.sort(key=lambda trial: -trial[0])
    once = [trial for trial in found if trial[3]][1:]  # one at a time: what the first gains the next no longer can
    return tuple((variant, bound) for _, variant, bound, _ in [t for t in found if t not in once][:MOST_TRIALS])


def _due_again(candidate: Candidate, now: float, question: Question) -> bool:
    """Whether a variant that has lost here is to be looked at again: machines and libraries change.

    After so much has been spent without it that looking costs a thousandth; and again at once while its latest call
    would have won, until enough calls say so for its level to count as changed, or one says the contrary.
    """
    if candidate.lately_s is None:  # it never ran here: what is believed of it may be wrong by any factor
        costs = max(candidate.prediction.mean_s - now, 0.2 * now) + candidate.cold_s
        worth = question.spent_s * LOOK_ONCE > costs and not (candidate.per_shape and candidate.compile_s)
        return worth and candidate.prediction.source == "prior"
    if candidate.cold_s:
        return False
    if candidate.lately_s * LEVEL_FACTOR < now and now - candidate.lately_s > WATCHED_S / 10.0:
        return True
    since = question.unseen_s.get(candidate.variant, 0.0)
    return since * LOOK_AGAIN > max(candidate.prediction.mean_s - now, 0.2 * now) + WATCHED_S
