"""The sum of squares stays as accurate as pairwise summation where a running sum loses four digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pointsman.executors.prepare import prepare
from pointsman.selector import operations

CPU = [v for v in operations.find("reduction").variants if v.device == "cpu"]  # those derived for torch and jax too


@pytest.fixture(scope="module")
def ten_million():
    x = np.random.default_rng(10).random(10_000_000, dtype=np.float32)
    x.flags.writeable = False
    wide = x.astype(np.float64)
    return x, math.fsum((wide * wide).tolist())


@pytest.mark.parametrize("variant", CPU, ids=lambda v: v.name)
def test_ten_million_floats_within_a_millionth(variant, ten_million):
    x, exact = ten_million
    found = prepare(variant, ["numpy"]).call(x)
    assert found.dtype == np.float32
    assert abs(float(found) - exact) / exact < 1e-6


@pytest.mark.parametrize("variant", CPU, ids=lambda v: v.name)
def test_layout_does_not_cost_accuracy(variant, ten_million):
    x, _ = ten_million
    tall = x[:3_000_000].reshape(3, -1).T[::2]  # rows of three, every other one: no contiguous run at all
    wide = tall.astype(np.float64)
    assert float(prepare(variant, ["numpy"]).call(tall)) == pytest.approx(float(np.sum(wide * wide)), rel=1e-6)


def test_the_bound_is_one_that_a_running_sum_breaks(ten_million):
    x, exact = ten_million
    running = float(np.cumsum(x[:3_000_000] ** 2, dtype=np.float32)[-1])
    wide = x[:3_000_000].astype(np.float64)
    assert abs(running - float(np.sum(wide * wide))) / exact > 1e-6
