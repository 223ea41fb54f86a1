"""Scripted failures of a chain, with exact counts of what ran and what was reported."""

from __future__ import annotations

import gc
import traceback
import weakref

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.errors import BackendUnavailableError, NoCandidateError, UnsupportedError
from pointsman.executors.fallback import Attempt, run_chain
from pointsman.telemetry.outcome import Failure


class Chain:
    """Attempts that do what the script says, and a record of what happened."""

    def __init__(self, **script):
        self.ran, self.told = [], []
        self.attempts = [self._attempt(name, deed) for name, deed in script.items()]

    def _attempt(self, name, deed):
        def call():
            self.ran.append(name)
            if isinstance(deed, BaseException):
                raise deed
            return deed() if callable(deed) else deed

        def classify(error):
            return Failure.DRIVER if isinstance(error, OSError) else registry.executor("numpy").classify(error)

        return Attempt(name, call, classify)

    def run(self):
        ticks = iter(range(100))
        return run_chain(
            self.attempts,
            on_outcome=lambda attempt, seconds, failure, message: self.told.append(
                (attempt.name, seconds, failure, message)
            ),
            clock=lambda: float(next(ticks)),
        )


def test_the_first_that_works_answers_and_the_rest_never_run():
    chain = Chain(torch=MemoryError("4 GiB"), jax=OSError("device lost"), numpy=42, scipy=43)
    assert chain.run() == 42
    assert chain.ran == ["torch", "jax", "numpy"]
    assert chain.told == [
        ("torch", 1.0, Failure.OUT_OF_MEMORY, "MemoryError: 4 GiB"),
        ("jax", 1.0, Failure.DRIVER, "OSError: device lost"),
        ("numpy", 1.0, None, ""),
    ]


def test_a_result_of_none_is_a_result():
    chain = Chain(torch=None, numpy=1)
    assert chain.run() is None
    assert chain.ran == ["torch"]


def test_our_own_errors_are_listed_whatever_the_executor_says():
    chain = Chain(torch=BackendUnavailableError("torch is not installed"), jax=UnsupportedError("no float99"), numpy=1)
    assert chain.run() == 1
    assert [failure for _, _, failure, _ in chain.told] == [Failure.UNAVAILABLE, Failure.UNSUPPORTED, None]


def test_the_callers_own_error_comes_out_at_once_with_its_traceback():
    def his_code():
        raise ValueError("his own")

    chain = Chain(torch=MemoryError(), jax=his_code, numpy=1)
    with pytest.raises(ValueError, match="his own") as caught:
        chain.run()
    assert chain.ran == ["torch", "jax"]
    assert chain.told[-1][2] is Failure.USER_ERROR
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "his_code"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_nested_call_that_found_nothing_is_the_callers_own_error():
    inner = NoCandidateError("nothing inside")
    chain = Chain(torch=inner, numpy=1)
    with pytest.raises(NoCandidateError) as caught:
        chain.run()
    assert caught.value is inner
    assert chain.ran == ["torch"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_leaving_is_no_failure(error):
    chain = Chain(torch=error, numpy=1)
    with pytest.raises(type(error)) as caught:
        chain.run()
    assert caught.value is error
    assert chain.ran == ["torch"]
    assert chain.told == []


def test_when_nothing_is_left_the_error_lists_everything():
    last = OSError("device lost\nand a long dump")
    chain = Chain(torch=MemoryError("4 GiB"), jax=last)
    with pytest.raises(NoCandidateError) as caught:
        chain.run()
    assert caught.value.__cause__ is last
    assert caught.value.failures == [
        ("torch", Failure.OUT_OF_MEMORY, "MemoryError: 4 GiB"),
        ("jax", Failure.DRIVER, "OSError: device lost\nand a long dump"),
    ]
    lines = str(caught.value).splitlines()
    assert lines[0] == "none of 2 candidates gave a result:"
    assert lines[1] == "  torch: out of memory (MemoryError: 4 GiB); make the problem smaller or work in pieces"
    assert lines[2].startswith("  jax: driver (OSError: device lost); check the device")
    assert len(lines) == 3


def test_an_empty_chain_says_so():
    with pytest.raises(NoCandidateError, match="no candidate to run") as caught:
        Chain().run()
    assert caught.value.failures == []


def test_arrays_of_a_failed_attempt_are_released_before_the_next_runs():
    class Array(np.ndarray):
        pass

    held = []

    def exhausts():
        array = np.ones(10).view(Array)
        held.append(weakref.ref(array))
        raise MemoryError("no room")

    def next_one():
        gc.collect()
        return held[0]()

    assert Chain(torch=exhausts, numpy=next_one).run() is None


def test_the_chain_does_not_rerun_what_failed():
    calls = []

    def fails():
        calls.append(1)
        raise MemoryError

    with pytest.raises(NoCandidateError):
        Chain(torch=fails).run()
    assert calls == [1]
