"""A decision explains itself: counterfactuals in words, who decided, the evidence; and when an accelerator loses."""

from __future__ import annotations

import json
import logging
import math
from html import escape

import pytest
from pointsman.selector.advice import EVERY_S, Advice
from pointsman.selector.base import Candidate, Prediction
from pointsman.selector.decision import LOSERS, Decision
from pointsman.selector.request import Request
from pointsman.selector.settings import Settings, use
from pointsman.telemetry.show import give_or_take, times

GIB = 2**30


def belief(seconds: float, sigma: float = 0.04, evidence: int = 8, source: str = "measured") -> Prediction:
    return Prediction(math.log(seconds), sigma, evidence, source)


def decision(*candidates: Candidate, **fields: object) -> Decision:
    names = tuple(c.variant for c in candidates)
    told = {"chain": names, "rule": "learned", "reason": "it is fastest", "candidates": candidates, **fields}
    return Decision("solve", "solve 8 float64", names[0], candidates[0].backend, "cpu", **told)


def candidate(name: str, seconds: float, *, cold_s: float = 0.0, **how: object) -> Candidate:
    return Candidate(name, name.partition("/")[0], "cpu", belief(seconds, **how), compile_s=cold_s)


# ---------------------------------------------------------------------------------------------------- words for numbers


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((3.1e-3, 2.9e-3, 3.3e-3), "3.1 ms +- 0.2"),
        ((123e-6, 100e-6, 146e-6), "123 us +- 23"),
        ((2.0, 1.98, 2.02), "2.00 s +- 0.02"),
        ((2e-3, 1e-3, 4e-3), "2 ms (1 ms to 4 ms)"),  # +- 1.5 would hide that it may well be 4
        ((2e-6, 2e-6, 2e-6), "2 us"),
        ((0.0, 0.0, 0.0), "0 ns"),
    ],
)
def test_an_interval_is_told_by_one_number_only_where_it_is_narrow(interval, text):
    assert give_or_take(*interval) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.4, "1.4x as long"), (0.71, "0.71x as long"), (1.01, "about as long"), (1.06, "1.06x as long"),
     (12.3, "12x as long"), (1234.0, "1234x as long")],
)  # fmt: skip
def test_ratios_read_as_people_say_them(ratio, text):
    assert times(ratio) == text


# ---------------------------------------------------------------------------------------------------- counterfactuals


def test_the_counterfactual_is_a_sentence_with_interval_ratio_cold_cost_and_evidence():
    made = decision(
        candidate("scipy", 2.2e-3), candidate("numba", 3.1e-3), candidate("jax", 1.1e-3, cold_s=2.0),
        excluded=(("torch@cuda:0", "there is no usable cuda:0 here"),),
    )  # fmt: skip
    assert made.counterfactual("numba") == "numba would take 3.1 ms +- 0.2, 1.4x as long (8 measured)"
    assert made.counterfactual("jax").endswith(", 0.5x as long, and 2 s once before (8 measured)")
    assert made.counterfactual("torch@cuda:0") == "torch@cuda:0 would not run: there is no usable cuda:0 here"
    assert made.counterfactual("scipy") == "scipy would take 2.2 ms +- 0.1 (8 measured)"
    assert "not among the candidates: scipy, numba, jax" in made.counterfactual("cupy")


@pytest.mark.parametrize(
    ("source", "told"), [("nearby", "other sizes or loads only"), ("prior", "not measured"), ("guess", "a guess")]
)
def test_what_was_not_measured_is_said_to_be_so(source, told):
    made = decision(candidate("numpy", 1e-3), candidate("numba", 2e-3, evidence=0, source=source, sigma=0.8))
    assert told in made.counterfactual("numba")
    assert told in made.explain()


def test_the_quickest_others_are_told_in_words_in_text_page_and_data():
    made = decision(*(candidate(name, s * 1e-3) for s, name in enumerate(["numpy", "numba", "torch", "jax"], 1)))
    lost = [made.counterfactual(name) for name in ("numba", "torch")]
    assert made.losers() == lost
    assert len(lost) == LOSERS
    assert all(f"\n   {line}\n" in made.explain() for line in lost)
    assert "jax would take" not in made.explain()
    eager = decision(*(candidate(name, s) for name, s in {"numpy": 4e-3, "jax": 9e-3, "scipy": 7e-3}.items()),
                     candidate("numba", 1e-3, cold_s=3.0))  # fmt: skip
    assert [line.split()[0] for line in eager.losers()] == ["numba", "scipy"]  # what it would be once it is compiled
    assert all(escape(line) in made._repr_html_() for line in lost)
    assert json.loads(json.dumps(made.to_json()))["counterfactuals"] == lost


def test_the_columns_of_the_text_stay_aligned_whatever_the_names():
    made = decision(candidate("a-very-long-variant/of-many-threads", 1e-3), candidate("numpy", 123e-6, cold_s=1.0))
    head, *rows = made.explain().splitlines()[2:5]
    where = head.index("expected")
    assert [row[where - 1] for row in rows] == [" ", " "]
    assert rows[0][where:].startswith("1 ms")
    assert rows[1][where:].startswith("123 us")


# ---------------------------------------------------------------------------------------------------- who decided


def test_the_level_that_decided_stands_in_the_order_of_levels(make, workload, all_imported):
    w = workload()
    selector = make(explore=0, prefer="scipy")
    assert selector.decide(w).level == "process"
    environment = Settings.from_environment({"POINTSMAN_PREFER": "scipy"})
    by_environment = make(settings=environment).decide(w)
    assert by_environment.level == "environment"
    chain = "call > scope > process > [environment] > lock > learned > default"
    assert f"decided by POINTSMAN_PREFER: {chain}" in by_environment.explain()
    assert escape(chain) in by_environment._repr_html_()
    assert selector.decide(w, "torch").level == "call"
    assert selector.decide(workload(require="torch")).level == "call"
    with use("torch"):
        assert selector.decide(w).level == "scope"
    assert make(explore=0).decide(w).level == "default"


def test_where_nobody_interfered_no_order_is_shown(make, workload, feed, all_imported):
    selector, w = make(explore=0), workload()
    feed(selector, w, {"numpy": 4e-3, "torch": 1e-3})
    made = selector.decide(w)
    assert (made.variant, made.level) == ("torch", "learned")
    assert "decided by" not in made.explain()
    assert made.to_json()["level"] == "learned"


def test_a_preference_that_costs_time_shows_what_it_costs(make, workload, feed, all_imported):
    selector, w = make(explore=0, prefer="numpy"), workload()
    feed(selector, w, {"numpy": 4e-3, "torch": 1e-3})
    made = selector.decide(w)
    assert (made.variant, made.rule) == ("numpy", "override")
    assert "0.25x as long" in made.counterfactual("torch")


# ---------------------------------------------------------------------------------------------------- the accelerator


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="pointsman")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "pointsman"]


@pytest.fixture
def on_gpu(make, gpu, clock, all_imported):
    """A selector with one GPU, whose advice goes by the standing clock."""

    def build(**changes):
        selector = make(explore=0, gpu_memory=gpu(64 * GIB), **changes)
        selector._engine.advice = Advice(clock)
        return selector

    return build


SLOW_GPU = {"numpy": 1e-4, "torch@cuda:0": 5e-3}


def test_a_gpu_that_would_lose_is_told_of_once(on_gpu, workload, feed, said):
    selector, w = on_gpu(), workload(100)
    feed(selector, w, SLOW_GPU)
    assert selector.select_backend(w) == "numpy"
    [line] = said()
    assert line.startswith("spectrogram 100 float64: torch@cuda:0 would lose 4.9 ms a call: it would take 5.0 ms +-")
    assert "numpy takes 100 us +-" in line
    for _ in range(20):  # new evidence, new tables
        feed(selector, w, {"numpy": 1e-4})
    selector.select_backend(workload(100, expected_calls=7))
    assert len(said()) == 1


def test_one_line_a_minute_and_the_next_one_says_how_many_there_would_have_been(on_gpu, workload, feed, clock, said):
    selector = on_gpu()
    sizes = [workload(n) for n in (100, 1000, 10_000, 100_000)]
    for w in sizes:
        feed(selector, w, SLOW_GPU)
    clock.advance(2 * EVERY_S)
    for w in sizes[:3]:
        selector.select_backend(w)
    assert [line.split(":")[0] for line in said()] == ["spectrogram 100 float64"]
    clock.advance(0.9 * EVERY_S)
    selector.select_backend(sizes[3])
    assert len(said()) == 1
    clock.advance(0.2 * EVERY_S)
    selector.select_backend(workload(100_000, expected_calls=9))
    assert len(said()) == 2
    assert said()[1].startswith("spectrogram 100000 float64")
    assert "2 other size classes likewise" in said()[1]


def test_a_gpu_that_somebody_insists_on_is_held_against_what_it_keeps_out(on_gpu, workload, feed, said):
    selector, w = on_gpu(), workload(100, require="gpu")
    feed(selector, workload(100), SLOW_GPU)
    said_before = len(said())
    assert selector.decide(w).chain == ("torch@cuda:0",)
    [line] = said()[said_before:]
    assert "torch@cuda:0 runs (require='gpu' of the workload) and loses 4.9 ms a call" in line
    assert "numpy would take 100 us" in line


def test_a_backend_preferred_by_name_that_is_slower_than_the_plain_one_is_told_of(make, workload, feed, clock, said,
                                                                                 all_imported):  # fmt: skip
    selector, w = make(explore=0, prefer="jax"), workload(100)
    selector._engine.advice = Advice(clock)
    feed(selector, w, {"numpy": 1e-5, "jax": 1e-4})
    assert selector.select_backend(w) == "jax"
    [line] = said()
    assert "jax runs (configure(prefer='jax')) and loses 90 us a call" in line


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, {"numpy": 5e-3, "torch@cuda:0": 1e-4}),  # it wins
        ({}, {"numpy": 1.00e-3, "torch@cuda:0": 1.03e-3}),  # nearly as fast
        ({}, {"numpy": 1e-7}),  # that a GPU takes a hundred times as long is a guess, however likely
        ({"prefer": "jax"}, {"numpy": 1e-7}),  # nor is it known of what was asked for
        ({"prefer": "numpy"}, {"numpy": 5e-3, "torch": 1e-4}),  # the plain one is no accelerator
        ({"disable_gpu": True}, SLOW_GPU),
    ],
)
def test_where_no_accelerator_clearly_loses_nothing_is_said(on_gpu, workload, feed, said, changes, seconds):
    selector, w = on_gpu(**changes), workload(100)
    feed(selector, w, seconds)
    selector.select_backend(w)
    assert said() == []


def test_a_single_slow_call_on_the_gpu_is_no_proof(on_gpu, workload, feed, said):
    selector, w = on_gpu(), workload(100)
    feed(selector, w, {"numpy": 1e-4}, times=8)
    feed(selector, w, {"torch@cuda:0": 1.3e-4}, times=1)
    selector.select_backend(w)
    assert said() == []


def test_explaining_says_nothing_in_the_log(on_gpu, workload, feed, said):
    """Only what is adopted is told: whoever asks is shown it anyway."""
    selector, w = on_gpu(), workload(100)
    feed(selector, w, SLOW_GPU)
    selector._engine.choose(Request.from_workload(w))
    assert said() == []
