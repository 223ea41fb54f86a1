"""The summary as people see it."""

from __future__ import annotations

import io

import pytest
from pointsman.summary_table import print_summary
from pointsman.telemetry.show import about, seconds
from rich.console import Console

VARIANT = {
    "count": 12, "typical_s": 2e-3, "mean_s": 2.5e-3, "expected_s": 2.1e-3, "stall_rate": 0.1, "stall_s": 5e-3,
    "cold_count": 1, "cold_s": 0.25, "failures": {}, "last_failure": None, "share": 0.75, "rules": {"learned": 12},
}  # fmt: skip
FAILED = {
    **VARIANT, "count": 0, "typical_s": None, "mean_s": None, "stall_rate": 0.0, "cold_count": 0, "cold_s": 0.0,
    "failures": {"out of memory": 4}, "share": 0.25,
}  # fmt: skip
EMPTY = {
    "operations": {}, "recent_backends": [], "total_records": 0, "saved_s": 0.0, "lost_s": 0.0,
    "exploration": {}, "imports": {}, "history": {"location": ":memory:", "status": "ok", "dropped": 0},
}  # fmt: skip


def printed(summary: dict, width: int = 200) -> str:
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=width))
    return out.getvalue()


def test_every_number_stands_in_the_table():
    one = {"dtype": "float32", "shape_class": "20x14|8", "detail": "mode='same'",
           "variants": {"torch": VARIANT, "jax": FAILED}}  # fmt: skip
    text = printed({**EMPTY, "operations": {"conv": [one]}, "total_records": 17, "saved_s": 3.0, "lost_s": 0.02})
    for part in ["conv 1024x128 16", "float32 mode='same'", "> torch", "12", "75%", "2 ms", "2.5 ms", "10.0%",
                 "250 ms", "failed 4 times: out of memory", "17 outcomes", "3 s saved", "20 ms lost"]:  # fmt: skip
        assert part in text
    assert text.index("torch") < text.index("jax")  # what was never measured comes last


def test_brackets_in_a_name_are_no_markup():
    one = {"dtype": "float64", "shape_class": "", "detail": "window=(1, 2)", "variants": {"numpy": VARIANT}}
    assert "solve[red]" in printed({**EMPTY, "operations": {"solve[red]": [one]}})


def test_an_empty_history_says_how_to_fill_it():
    assert "pointsman run" in printed(EMPTY)


@pytest.mark.parametrize(("s", "text"), [(2.0, "2 s"), (-0.5, "-500 ms"), (3.14e-5, "31.4 us"), (0.0, "0 ns")])
def test_seconds_are_read_in_the_fitting_unit(s, text):
    assert seconds(s) == text


def test_an_empty_axis_is_zero():
    assert about("ex0") == "0x1"
    assert about("") == ""


def test_nothing_is_cut_off_in_eighty_columns():
    long = {**VARIANT, "count": 123456, "typical_s": 1.234e-3, "mean_s": 0.12345, "cold_s": 0.12345}
    one = {"dtype": "float32", "shape_class": "20x14|8", "detail": "mode='same'", "variants": {"torch/1-thread": long}}
    text = printed({**EMPTY, "operations": {"my.own.module.function#deadbeef": [one]}}, width=80)
    for part in ("torch/1-thread", "123456", "75%", "1.23 ms", "123 ms", "10.0%", "first"):
        assert part in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_exploring_and_imports_of_all_processes_are_told():
    ledger = {"trials": 0.0, "explored_s": 0.0, "in_all": {"trials": 7.0, "explored_s": 2.0, "earned_s": 0.5}}
    text = printed({**EMPTY, "exploration": ledger, "imports": {"torch": {"count": 2, "seconds": 3.0}}})
    assert "7 trials, 2 s lost in them, 500 ms gained" in text
    assert "torch 3 s" in text


def test_small_shares_and_single_failures_are_told_as_such():
    rare = {**FAILED, "share": 0.001, "failures": {"driver": 1}}
    one = {"dtype": "float64", "shape_class": "2", "detail": "", "variants": {"jax": rare}}
    text = printed({**EMPTY, "operations": {"solve": [one]}})
    assert "<1%" in text
    assert "failed once: driver" in text
