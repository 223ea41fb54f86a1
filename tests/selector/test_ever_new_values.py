"""Parameters that take ever new values, such as a seed, do not make every call a workload of its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.kernels.table import KERNELS
from pointsman.selector import signature, traffic
from pointsman.selector.arguments import class_of, key_of, request_of
from pointsman.selector.pinning import _read_detail
from pointsman.selector.request import Request
from pointsman.selector.signature import FAR, MANY, class_of_value, detail_of
from pointsman.selector.traffic import Traffic, class_key
from pointsman.telemetry.outcome import Outcome, Site

X = np.ones(100)


@pytest.fixture(autouse=True)
def _nothing_seen():
    signature._VALUES.clear()
    yield
    signature._VALUES.clear()


def detail(operation: str = "mine.step", **parameters: object) -> str:
    return request_of(operation, (X,), parameters).detail


def test_few_values_are_told_as_they_are():
    for _ in range(3):
        assert [detail(order=order, mode="full") for order in range(MANY)] == [
            f"mode='full',order={order}" for order in range(MANY)
        ]


def test_beyond_many_values_a_number_goes_by_its_half_octave():
    for seed in range(MANY):
        detail(seed=seed, order=3)
    assert detail(seed=500, order=3) == "order=3,seed=~512"
    assert detail(seed=5, order=3) == "order=3,seed=~6"  # it is known now that this is no mode
    assert detail("mine.other", seed=5) == "seed=5"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2**31 + 1, "~2147483648"),
        (-5000, "~-5793"),
        ((5000, 3), "~(5793, 3)"),
        pytest.param(10**400, None, id="huge"),
        (FAR, "1000"),
    ],
)
def test_a_number_far_out_goes_by_its_class_from_the_first(value, told):
    found = detail(n=value)
    assert len(found) < 200
    assert told is None or found == f"n={told}"


def test_ever_new_texts_are_told_apart_no_longer():
    details = [detail(run=f"run-{i}") for i in range(100)]
    assert len(set(details)) == MANY + 1
    assert details[-1] == "run=~''"


def test_what_cannot_vary_much_stays():
    for i in range(2 * MANY):
        detail(flag=bool(i % 2), seed=i)
    assert detail(flag=True, seed=7) == "flag=True,seed=~8"


def test_a_workload_says_the_same_as_a_call(workload):
    asked = workload(100, "mine.step", parameters={"steps": 5000, "order": 2})
    assert Request.from_workload(asked).detail == detail(steps=5000, order=2) == "order=2,steps=~5793"
    other = workload(100, "mine.step", parameters={"steps": 5001, "order": 2})
    assert asked != other  # what is asked stays exact


def test_sites_of_built_in_kernels_stay_as_they_are():
    for operation in KERNELS:
        for sweeps in range(0, 2000, 40):
            assert detail(operation, sweeps=sweeps) == f"sweeps={sweeps}"
    assert not signature._VALUES


def test_what_is_told_by_class_can_be_read_again():
    text = detail(seed=123456, order=3, run="a")
    assert _read_detail(text + ";grad;torch@cuda:0") == (
        {"order": 3, "run": "a", "seed": 131072}, True, "torch@cuda:0"
    )  # fmt: skip


@given(st.integers(1, 10**30))
def test_a_class_is_half_an_octave_wide_and_in_its_own_class(value):
    middle = class_of_value(value)
    assert 2**-0.55 <= middle / value <= 2**0.55
    if value > 16:
        assert class_of_value(middle) == middle
    assert class_of_value(-value) == -middle


def test_the_names_that_are_watched_are_bounded(monkeypatch):
    monkeypatch.setattr(signature, "_NAMES_KEPT", 10)
    for i in range(100):
        detail_of({f"name{i}": i}, operation="mine.step")
    assert len(signature._VALUES) <= 10


def test_calls_with_ever_new_seeds_are_learned_from_together(toy, history):
    dispatcher, _ = toy(plain=lambda x, seed=0: x + seed, other=lambda x, seed=0: seed + x)
    for seed in range(2000):
        assert dispatcher(X, seed=seed)[0] == 1.0 + seed
    history.flush()
    cells = history.state.of("toy", "float64")
    assert len(cells) < 2 * MANY
    assert max(sketch.calls for sketch in cells.values()) > 400
    assert len(dispatcher.tables.entries) < 4 * MANY  # and a new seed of a known class costs no decision


def test_calls_by_class_are_those_of_the_same_mode():
    keys = [key_of((X,), {"mode": mode, "seed": 123456, "run": "a"}) for mode in range(17)]
    assert len({class_of(key, varying=True) for key in keys}) == 17
    one, other = (key_of((X,), {"seed": 123456 + i, "run": f"{i}"}) for i in range(2))
    assert class_of(one, varying=True) == class_of(other, varying=True)
    assert class_of(one) != class_of(other)
    assert all(a != b for a, b in pairwise(class_of(key, varying=True) for key in keys))


def test_the_classes_that_are_counted_are_bounded_and_the_large_ones_stay(monkeypatch):
    monkeypatch.setattr(traffic, "MOST_CLASSES", 100)
    counted = Traffic()

    def site(i: int) -> Site:
        return Site("toy", "plain", "float64", "20", f"tol={i}", 1e3, 1000)

    for i in range(1000):
        counted.count(Outcome(site(i), 1.7e9, 10.0 if i == 3 else 1e-3))
    assert len(counted._classes) <= 100
    assert counted.at(class_key(site(3))).spent_s == 10.0
    assert counted.at(class_key(site(999))) is not None
    assert sorted(map(id, counted._of_group["toy", "float64"])) == sorted(map(id, counted._classes.values()))
