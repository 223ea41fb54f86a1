"""Failures of dispatched calls: another variant takes over, what is not ours comes out unchanged, all is remembered."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
from pointsman.executors.errors import NoCandidateError, UnsupportedError
from pointsman.telemetry.outcome import Failure
from toys import failing, summary, teach


def test_a_size_class_is_left_when_its_variant_fails(toy):
    def breaks(x):
        if x.size > 1000:
            raise MemoryError("no room")
        return "other"

    made, selector = toy(plain=lambda x: "plain", other=breaks)
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    assert made(np.ones(1000)) == "other"
    assert made(np.ones(1001)) == "plain"
    assert made.tables.classes == {}
    assert made(np.ones(1002)) == "plain"


def test_a_listed_failure_leads_on_and_is_remembered(toy):
    made, selector = toy(plain=lambda x: "plain", other=failing(MemoryError("big")))
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    x = np.ones(1000)
    assert made(x) == "plain"
    assert "failed once (out of memory: MemoryError: big)" in dict(made.explain(x).excluded)["other"]
    assert summary(selector)["other"]["failures"] == {"out of memory": 1}
    assert summary(selector)["plain"]["rules"]["fallback"] == 1


def test_a_known_call_that_starts_to_fail_is_rescued(toy):
    fail = []

    def other(x):
        if fail:
            raise MemoryError("now")
        return "other"

    made, selector = toy(plain=lambda x: "plain", other=other)
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    x = np.ones(1000)
    assert [made(x), made(x)] == ["other", "other"]
    fail.append(1)
    assert [made(x), made(x)] == ["plain", "plain"]
    assert summary(selector)["other"]["failures"] == {"out of memory": 1}


def test_nothing_left_lists_what_happened_and_what_was_never_tried(toy):
    made, _ = toy(plain=failing(MemoryError("one")), other=failing(UnsupportedError("two")))
    with pytest.raises(NoCandidateError) as error:
        made(np.ones(1000))
    text = str(error.value)
    assert text.startswith("toy 1000 float64: none of 2 candidates gave a result")
    assert "plain: out of memory (MemoryError: one)" in text
    assert "other: unsupported (UnsupportedError: two)" in text
    assert [f for _, f, _ in error.value.failures] == [Failure.OUT_OF_MEMORY, Failure.UNSUPPORTED]


def test_an_error_of_one_backend_alone_is_settled_by_the_default(toy):
    runs = []

    def other(x):
        runs.append(1)
        raise AttributeError("this namespace has no such function")

    made, selector = toy(plain=lambda x: "plain", other=other)
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    x = np.ones(1000)
    assert [made(x) for _ in range(5)] == ["plain"] * 5
    assert len(runs) == 1
    why = dict(made.explain(x).excluded)["other"]
    assert "no such function" in why
    assert "the default plain computed it" in why
    assert summary(selector)["other"]["failures"] == {"unsupported": 1}


def test_without_rerun_the_error_comes_out(toy):
    mine = AttributeError("side effects")
    made, selector = toy(rerun=False, plain=lambda x: "plain", other=failing(mine))
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    with pytest.raises(AttributeError) as caught:
        made(np.ones(1000))
    assert caught.value is mine


@pytest.mark.parametrize("known", [False, True])
def test_a_function_that_always_raises_raises_its_own_error(toy, known):
    fail = [] if known else [1]

    def function(x):
        if fail:
            raise ZeroDivisionError("mine")
        return 1

    made, selector = toy(plain=function, other=function)
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    x = np.ones(1000)
    if known:
        made(x)
        made(x)
        fail.append(1)
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        made(x)
    assert "function" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert made.explain(x).variant == "other"  # it says nothing about the backend
    assert "other" not in {n for n, v in summary(selector).items() if v["failures"]}


def test_the_users_own_exception_is_the_same_object_and_an_interrupt_is_no_failure(toy):
    for mine in (ValueError("mine"), KeyboardInterrupt(), NoCandidateError("of a call inside")):
        made, selector = toy(plain=failing(mine))
        with pytest.raises(type(mine)) as caught:
            made(np.ones(1000))
        assert caught.value is mine
        assert not summary(selector)
