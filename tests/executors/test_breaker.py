"""Breakers, scripted with a clock that moves only when told."""

from __future__ import annotations

import re
import threading

import pytest
from pointsman.executors import breaker
from pointsman.executors.breaker import Breakers
from pointsman.telemetry.outcome import Failure

KEY = ("fft", "torch", "float32", "20")
OTHER = ("fft", "torch", "float64", "20")
PLACE = ("fft", "torch", "cuda:0")


@pytest.fixture
def breakers(clock):
    return Breakers(clock)


def test_nothing_is_kept_out_before_it_failed(breakers):
    assert breakers.why_closed_out(KEY) is None
    breakers.succeeded(KEY)
    assert breakers.marks.why_not(PLACE, 10**18) is None


def test_a_failure_keeps_out_for_a_second_then_twice_as_long_each_time(breakers, clock):
    waits = []
    for _ in range(11):
        breakers.failed(KEY, Failure.DRIVER, "CUDA error")
        before = clock.now
        while breakers.why_closed_out(KEY) is not None:
            clock.advance(0.5)
        waits.append(clock.now - before)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert breakers.why_closed_out(OTHER) is None


def test_the_sentence_says_how_often_why_and_when_again(breakers, clock):
    breakers.failed(KEY, Failure.OUT_OF_MEMORY, "tried to allocate 4 GiB")
    clock.advance(1)
    breakers.failed(KEY, Failure.OUT_OF_MEMORY, "tried to allocate 4 GiB")
    clock.advance(0.5)
    assert breakers.why_closed_out(KEY) == (
        "failed 2 times (out of memory: tried to allocate 4 GiB), tried again in 1.5 s"
    )
    breakers.failed(OTHER, Failure.TIMEOUT, "")
    assert breakers.why_closed_out(OTHER) == "failed once (timeout), tried again in 1.0 s"


def test_asking_changes_nothing(breakers, clock):
    breakers.failed(KEY, Failure.DRIVER, "x")
    clock.advance(1)
    assert [breakers.why_closed_out(KEY) for _ in range(3)] == [None] * 3


def test_a_success_closes_and_the_next_failure_starts_over(breakers, clock):
    for _ in range(4):
        breakers.failed(KEY, Failure.DRIVER, "x")
        clock.advance(100)
    breakers.succeeded(KEY)
    breakers.failed(KEY, Failure.DRIVER, "x")
    assert "once" in breakers.why_closed_out(KEY)
    clock.advance(1)
    assert breakers.why_closed_out(KEY) is None


def test_what_works_again_at_one_size_may_try_again_at_once_at_the_others(breakers, clock):
    """A driver that was mended is mended at every size; what can never work is not."""
    larger, never, another = (*KEY[:3], "30"), (*KEY[:3], "40"), ("sort", *KEY[1:])
    for key in (KEY, larger, another):
        for _ in range(5):
            breakers.failed(key, Failure.DRIVER, "x")
            clock.advance(0.1 if key == larger else 40)
    breakers.failed(larger, Failure.DRIVER, "x")
    breakers.failed(never, Failure.UNSUPPORTED, "x")
    breakers.failed(another, Failure.DRIVER, "x")
    assert breakers.why_closed_out(larger) is not None
    breakers.due_groups()
    breakers.succeeded(KEY)
    assert breakers.why_closed_out(larger) is None
    assert None not in (breakers.why_closed_out(never), breakers.why_closed_out(another))
    assert breakers.due_groups() == {("fft", "float32")}
    clock.advance(1)
    breakers.failed(larger, Failure.DRIVER, "x")  # it still fails there: patience goes on where it was
    assert breakers.why_closed_out(larger).startswith("failed 7 times")


def test_failures_of_attempts_that_were_under_way_do_not_double_the_wait(breakers, clock):
    for _ in range(20):
        breakers.failed(KEY, Failure.DRIVER, "x")
    assert "20 times" in breakers.why_closed_out(KEY)
    clock.advance(1)
    assert breakers.why_closed_out(KEY) is None


def test_unsupported_stays_out_and_the_callers_error_never_counts(breakers, clock):
    breakers.failed(KEY, Failure.UNSUPPORTED, "no float16")
    clock.advance(10**9)
    assert breakers.why_closed_out(KEY) == "failed once (unsupported: no float16), not tried again in this process"
    breakers.failed(KEY, Failure.DRIVER, "x")
    assert "not tried again" in breakers.why_closed_out(KEY)
    breakers.failed(OTHER, Failure.USER_ERROR, "ValueError")
    assert breakers.why_closed_out(OTHER) is None


def test_a_wrong_result_keeps_out_at_every_size_for_as_long_as_the_version_stays(breakers, monkeypatch):
    monkeypatch.setattr(breaker, "version_of", lambda backend: f"{backend} 1.0")
    breakers.disqualify(KEY, "torch", "off by 3")
    for size in ("20", "40"):
        assert breakers.why_closed_out((*KEY[:3], size)) == (
            "disqualified, wrong result (off by 3) with torch 1.0; another version, or `pointsman history reset "
            "--operation fft`, lets it run again"
        )
    assert breakers.why_closed_out(OTHER) is None
    breakers.succeeded(KEY)
    assert breakers.why_closed_out(KEY) is not None
    monkeypatch.setattr(breaker, "version_of", lambda backend: f"{backend} 1.1")
    assert breakers.why_closed_out(KEY) is None
    breakers.clear()
    monkeypatch.undo()
    assert breakers.why_closed_out(KEY) is None


def test_the_version_is_the_librarys_and_ours():
    assert re.fullmatch(r"numpy \d+\.\S+ and pointsman \d\S*", breaker.version_of("numpy"))
    assert breaker.version_of("nonsense").startswith("nonsense ? and pointsman")


def test_groups_whose_wait_has_ended_are_told_once(breakers, clock):
    breakers.failed(KEY, Failure.DRIVER, "x")
    breakers.failed(OTHER, Failure.UNSUPPORTED, "x")
    assert breakers.due_groups() == set()
    clock.advance(1)
    assert breakers.due_groups() == {("fft", "float32")}
    assert breakers.due_groups() == set()
    breakers.failed(KEY, Failure.DRIVER, "x")
    clock.advance(2)
    assert breakers.due_groups() == {("fft", "float32")}


def test_failures_told_from_many_threads_are_all_counted(breakers):
    def fail():
        for _ in range(200):
            breakers.failed(KEY, Failure.DRIVER, "x")

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "800 times" in breakers.why_closed_out(KEY)
    breakers.clear()
    assert breakers.why_closed_out(KEY) is None
