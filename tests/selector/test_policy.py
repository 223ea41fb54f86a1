"""Laws of the policy: pure, deterministic, within its bands and its credit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.selector.base import Candidate, Prediction, Question
from pointsman.selector.policy import GUARD, TIE, ValueOfInformation

POLICY = ValueOfInformation()
SOURCES = ("measured", "nearby", "prior", "guess")


def candidate(variant: str, seconds: float, source: str = "measured", sigma: float = 0.02, **cold: float) -> Candidate:
    return Candidate(variant, variant.partition("/")[0], "cpu", Prediction(math.log(seconds), sigma, 9, source), **cold)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    names = draw(st.lists(st.sampled_from(["numpy", "scipy", "numba", "torch", "jax"]), min_size=1, unique=True))
    cost = st.floats(0.0, 5.0)
    candidates = tuple(
        candidate(
            name,
            draw(st.floats(1e-8, 1e3)),
            draw(st.sampled_from(SOURCES)),
            draw(st.floats(0.02, 3.0)),
            import_s=draw(st.one_of(st.just(0.0), cost)),
            compile_s=draw(st.one_of(st.just(0.0), cost)),
        )
        for name in names
    )
    return Question(
        candidates,
        default=draw(st.sampled_from(names)),
        calls=draw(st.floats(1.0, 1e6)),
        at_stake_s={name: draw(st.floats(0.0, 1e5)) for name in names if draw(st.booleans())},
        import_earned=frozenset(name for name in names if draw(st.booleans())),
        incumbent=draw(st.one_of(st.none(), st.sampled_from([*names, "cupy"]))),
        explore=draw(st.booleans()),
        credit_s=draw(st.floats(0.0, 100.0)),
    )


@given(questions())
def test_an_answer_is_made_of_candidates_and_the_same_each_time(question):
    found = POLICY.rank(question)
    names = [c.variant for c in question.candidates]
    assert sorted(found.order) == sorted(names)
    assert found.trial is None or found.trial in names
    assert found.trial != found.order[0]
    assert POLICY.rank(question) == found


@given(questions())
def test_a_trial_never_risks_more_than_the_credit(question):
    found = POLICY.rank(question)
    if found.trial is None:
        return
    assert question.explore
    assert found.trial_loss_s <= question.credit_s
    tried = next(c for c in question.candidates if c.variant == found.trial)
    chosen = next(c for c in question.candidates if c.variant == found.order[0])
    # 95 % of the belief lies below `high`, and what is cold has to be paid whatever the belief.
    assert found.trial_loss_s >= tried.prediction.high - chosen.prediction.mean_s + tried.cold_s - 1e-9


@given(questions())
def test_what_nobody_knows_anything_about_is_never_chosen_over_the_default(question):
    found = POLICY.rank(question)
    chosen = next(c for c in question.candidates if c.variant == found.order[0])
    assert chosen.variant == question.default or chosen.prediction.source != "guess"


@given(st.floats(1e-7, 10.0), st.floats(-0.9 * TIE, 0.9 * TIE))
def test_within_the_tie_band_the_canonical_order_wins(seconds, difference):
    candidates = (
        candidate("numpy", 3 * seconds),
        candidate("torch", seconds),
        candidate("jax", seconds * (1 + difference)),
    )
    found = POLICY.rank(Question(candidates, "numpy"))
    assert found.order[0] == ("torch" if difference > -TIE / (1 + TIE) else "jax")


def test_within_the_tie_band_the_incumbent_stays():
    candidates = (candidate("numpy", 1.0), candidate("torch", 0.100), candidate("jax", 0.102))
    assert POLICY.rank(Question(candidates, "numpy")).order[0] == "torch"
    assert POLICY.rank(Question(candidates, "numpy", incumbent="jax")).order[0] == "jax"


@pytest.mark.parametrize(("gain", "chosen"), [(GUARD - 0.01, "numpy"), (GUARD + 0.01, "torch")])
def test_a_learned_choice_must_beat_the_default_by_the_guard(gain, chosen):
    found = POLICY.rank(Question((candidate("numpy", 1.0 + gain), candidate("torch", 1.0)), "numpy"))
    assert found.order[0] == chosen
    assert found.rule == ("guard" if chosen == "numpy" else "learned")


def test_cold_costs_are_repaid_by_the_calls_to_come_or_the_default_stays():
    numpy, torch = candidate("numpy", 1.0), candidate("torch", 0.5, import_s=2.5)
    assert POLICY.rank(Question((numpy, torch), "numpy", calls=1)).order[0] == "numpy"
    assert POLICY.rank(Question((numpy, torch), "numpy", calls=100)).order[0] == "torch"
    earned = Question((numpy, torch), "numpy", calls=1, import_earned=frozenset({"torch"}))
    assert POLICY.rank(earned).order[0] == "torch"


def test_a_trial_waits_until_what_is_at_stake_repays_it():
    candidates = (candidate("numpy", 1.0), candidate("torch", 1.0, "guess", sigma=1.5))

    def trial(spent: float, credit: float = 100.0, explore: bool = True) -> str | None:
        stake = {"torch": spent}
        question = Question(candidates, "numpy", at_stake_s=stake, explore=explore, credit_s=credit)
        return POLICY.rank(question).trial

    assert trial(0.0) is None
    assert trial(100.0) == "torch"
    assert trial(100.0, explore=False) is None
    assert trial(100.0, credit=1.0) is None


def test_a_per_shape_compiler_is_tried_only_for_shapes_that_come_back():
    """A stream of ever-new shapes spends much near a size, and none of it would be repaid by compiling one of them."""
    now, jax = candidate("numpy", 1e-3), candidate("jax", 1e-3, "guess", 1.0, compile_s=0.15, per_shape=True)
    asked = {"default": "numpy", "at_stake_s": {"jax": 1e4}, "explore": True, "credit_s": 100.0}
    assert POLICY.rank(Question((now, jax), seen=1.0, **asked)).trial is None
    asked["may_save_s"] = {"jax": 1e4}
    assert POLICY.rank(Question((now, jax), seen=1e4, calls=1e4, **asked)).trial == "jax"
    assert POLICY.rank(Question((now, jax), seen=1.0, **asked)).trial is None


def test_a_compilation_waits_until_the_calls_of_all_sizes_would_repay_it():
    """However much is spent near this size: where the time goes, at large sizes, nothing may be gained."""
    now, numba = candidate("numpy", 1e-3), candidate("numba", 1e-3, "guess", 1.0, compile_s=2.0)
    asked = {"at_stake_s": {"numba": 1e4}, "explore": True, "credit_s": 100.0, "seen": 1e6}
    assert POLICY.rank(Question((now, numba), "numpy", may_save_s={"numba": 1.9}, **asked)).trial is None
    assert POLICY.rank(Question((now, numba), "numpy", may_save_s={"numba": 2.1}, **asked)).trial == "numba"


def test_one_cold_trial_is_proposed_at_a_time():
    """What the first one gains, the next no longer can: both would be paid for before either is known."""
    cold = [candidate(name, 1e-3, "guess", 1.5, compile_s=1.0) for name in ("numba", "jax")]
    warm = candidate("scipy", 1e-3, "guess", 1.5)
    names = ("numba", "jax", "scipy")
    asked = {"at_stake_s": dict.fromkeys(names, 1e4), "may_save_s": dict.fromkeys(names, 1e4), "seen": 1e6}
    question = Question((candidate("numpy", 1e-3), *cold, warm), "numpy", explore=True, credit_s=100.0, **asked)
    assert sorted(name for name, _ in POLICY.rank(question).trials) in (["jax", "scipy"], ["numba", "scipy"])


def test_what_all_sizes_have_repaid_is_compiled_without_further_ado():
    numpy, numba = candidate("numpy", 1e-3), candidate("numba", 1e-4, compile_s=2.0)
    asked = Question((numpy, numba), "numpy", calls=1.0)
    assert POLICY.rank(asked).order[0] == "numpy"
    assert POLICY.rank(replace(asked, compile_earned=frozenset({"numba"}))).order[0] == "numba"


def test_a_compilation_may_take_twice_as_long_as_expected_and_must_fit_the_credit():
    now, numba = candidate("numpy", 1.0), candidate("numba", 1.0, "guess", 1.5, compile_s=2.0)
    asked = {"at_stake_s": {"numba": 1e4}, "may_save_s": {"numba": 1e4}, "seen": 1e6, "explore": True}
    trials = [POLICY.rank(Question((now, numba), "numpy", credit_s=credit, **asked)).trials for credit in (12.0, 20.0)]
    assert trials[0] == ()
    assert trials[1][0][1] > 2 * 2.0


def again(**more: object) -> tuple[str, ...]:
    """Trials proposed where a variant that is known to be twice as slow could be looked at again."""
    lost = candidate("torch", 2.0)
    question = Question(
        (candidate("numpy", 1.0), replace(lost, lately_s=more.pop("lately_s", 2.0))), "numpy", explore=True,
        credit_s=100.0, at_stake_s={"torch": 10.0}, **more,
    )  # fmt: skip
    return tuple(name for name, _ in POLICY.rank(question).trials)


def test_what_has_lost_is_looked_at_again_where_that_costs_a_thousandth():
    assert again(unseen_s={"torch": 500.0}) == ()
    assert again(unseen_s={"torch": 2000.0}) == ("torch",)
    assert again(unseen_s={"torch": 0.0}, lately_s=0.5) == ("torch",)  # its latest call would have won


def test_a_trial_at_a_large_size_waits_for_a_smaller_one_until_that_costs_more():
    large = candidate("torch", 1.0, "guess", sigma=1.5)
    asked = {"explore": True, "credit_s": 1e3, "at_stake_s": {"torch": 1e3}, "untested": frozenset({"torch"})}
    candidates = (candidate("numpy", 1.0), large)
    bound = large.prediction.high - 1.0
    assert POLICY.rank(Question(candidates, "numpy", spent_s=0.5 * bound, **asked)).trial is None
    assert POLICY.rank(Question(candidates, "numpy", spent_s=2.0 * bound, **asked)).trial == "torch"


def test_several_trials_are_proposed_the_most_worthwhile_first():
    unknown = (candidate("torch", 1.0, "guess", sigma=1.0), candidate("jax", 0.5, "guess", sigma=1.0))
    asked = {"explore": True, "credit_s": 1e3, "at_stake_s": {"torch": 1e3, "jax": 1e3}}
    found = POLICY.rank(Question((candidate("numpy", 1.0), *unknown), "numpy", **asked))
    assert [name for name, _ in found.trials] == ["jax", "torch"]


def test_a_variant_that_never_ran_at_this_size_must_gain_more_than_its_doubt():
    known, hoped = candidate("numpy", 1.0), candidate("torch", 0.85, "nearby", sigma=0.4)
    hoped = replace(hoped, prediction=replace(hoped.prediction, evidence=0))
    assert POLICY.rank(Question((known, hoped), "numpy")).rule == "guard"
