"""The price of an option on every executor, once and small."""

from __future__ import annotations

import pytest
from pointsman.executors.mapping import map_methods

from benchmarks import option_price


def test_the_closed_form_is_that_of_the_textbook():
    # Hull, "Options, futures and other derivatives", the example of the chapter on Black, Scholes and Merton.
    assert round(option_price.black_scholes(42.0, 40.0, 0.1, 0.2, 0.5), 2) == 4.76


@pytest.mark.parametrize("worker", option_price.WORKERS)
def test_a_run_comes_near_the_closed_form(worker):
    found = option_price.once("sequential", worker, 0.01)
    price, error = found["price"]
    assert abs(price - option_price.black_scholes(*option_price.OPTION)) < 5 * error
    assert 0.0 < error < 0.1
    assert len(found["seconds"]) == 2


def test_a_fresh_process_gives_the_same_price():
    found = option_price.in_a_fresh_process("sequential", "Python", 0.005)
    assert found["price"] == option_price.once("joblib/threads", "Python", 0.005)["price"]
    assert found["variant"] == "sequential"


def test_the_table_has_a_row_for_each_way_and_is_relative_to_sequential():
    ways = option_price.ways()
    assert set(ways) == {"auto", *(name for name, _, _ in map_methods())}
    slow = {way: [{"seconds": [9.0, 2.0 if way == "sequential" else 1.0], "variant": way}] for way in ways}
    lines = option_price.table({"NumPy": slow})
    assert len(lines) == 2 + len(ways)
    assert any(line.endswith("| 9 s | 2 s | 1.00 |") for line in lines if "`sequential`" in line)
    assert all(line.endswith("| 9 s | 1 s | 2.00 |") for line in lines[2:] if "`sequential`" not in line)
