"""Sketches in memory: grouped, shared with readers, merged."""

from __future__ import annotations

import threading

from pointsman.telemetry.state import State


def test_outcomes_are_grouped_by_operation_and_dtype_and_kept_apart_by_context(outcome):
    state = State()
    changed = state.apply(
        [
            outcome(),
            outcome(context="busy"),
            outcome(dtype="float32"),
            outcome(operation="matmul", variant="torch"),
            outcome(work=2e6),
        ]
    )
    assert changed == {("fft", "float64"), ("fft", "float32"), ("matmul", "float64")} == state.groups()
    group = state.of("fft", "float64")
    assert {context for _, context in group} == {"quiet", "busy"}
    quiet = next(sketch for (_, context), sketch in group.items() if context == "quiet")
    assert quiet.count == 2  # sizes within one class share a sketch
    assert len(state) == len(state.cells) == 4
    assert state.of("fft", "int8") == {}


def test_what_a_reader_holds_stays_as_it_was(outcome):
    state = State()
    state.apply([outcome()])
    before = state.of("fft", "float64")
    state.apply([outcome(0.02), outcome(variant="torch")])
    assert [sketch.count for sketch in before.values()] == [1]
    assert sorted(sketch.count for sketch in state.of("fft", "float64").values()) == [1, 2]


def test_readers_may_iterate_while_writers_write(outcome):
    state = State()
    done = threading.Event()
    failures = []

    def read():
        while not done.is_set():
            try:
                sum(sketch.count for sketch in state.of("fft", "float64").values())
                len(state.cells)
            except RuntimeError as error:  # "dictionary changed size during iteration"
                failures.append(error)
                return

    reader = threading.Thread(target=read)
    writers = [
        threading.Thread(
            target=lambda: [state.apply([outcome(shape_class=str(i % 50)), outcome(dtype="int8")]) for i in range(300)]
        )
        for _ in range(2)
    ]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    assert sum(sketch.count for sketch in state.cells.values()) == 1200


def test_forgetting_one_operation_or_all(outcome):
    state = State()
    state.apply([outcome(), outcome(operation="matmul")])
    assert state.forget("fft") == {("fft", "float64")}
    assert state.groups() == {("matmul", "float64")}
    assert state.forget() == {("matmul", "float64")}
    assert state.cells == {}


def test_merging_states_adds_their_counts_and_shares_nothing(outcome):
    one, other = State(), State()
    one.apply([outcome()])
    other.apply([outcome(), outcome(variant="torch")])
    assert one.merge_from(other) == {("fft", "float64")}
    assert sorted(sketch.count for sketch in one.cells.values()) == [1, 2]
    one.apply([outcome(variant="torch")])
    assert sorted(sketch.count for sketch in other.cells.values()) == [1, 1]
