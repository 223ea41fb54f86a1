"""Monte Carlo runs that are killed by `kill -9` and started again: the same bits, nothing lost, nothing twice."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fault_workers as w
import numpy as np
import pointsman as pm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import METHODS, ahead, grid, lives, simulations_in

N, LEAF = 48, 8

TWO_RUNS = f"""
given = dict(seed=11, backend=sys.argv[1], n_jobs=2, chunk_size=1)
listed = pm.run_monte_carlo(w.steps, {N}, checkpoint="list", **given)
value, info = pm.run_monte_carlo(
    w.steps_of_the_second, {10 * N}, reduce="mean", leaf_size={LEAF}, stop_when=w.precise, checkpoint="fold",
    return_info=True, **given)
print(repr((listed, value, info.done)))
"""
kill_points = st.lists(st.integers(25, 110), min_size=1, max_size=2)


@pytest.fixture(scope="module")
def uninterrupted():
    """What the two runs print if nobody kills them."""
    draws = [w.normal(child) for child in np.random.SeedSequence(11).spawn(10 * N)]
    value, info = pm.run_monte_carlo(
        w.normal, 10 * N, reduce="mean", leaf_size=LEAF, stop_when=w.precise, seed=11, backend="sequential",
        return_info=True,
    )  # fmt: skip
    assert 6 * LEAF < info.done < 2 * N
    assert value.mean == pytest.approx(np.mean(draws[: info.done]), rel=1e-12)
    return repr((draws[:N], value, info.done)) + "\n"


def killed_and_started_again(variant, kills, expected):
    """Kill the two runs after so many simulations of each life have begun, and let the last life end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known, lost = set(), set()
        with lives(folder, TWO_RUNS, variant) as script:
            for kill in [*kills, None]:
                script.begin()
                if kill is None or not script.until(kill):
                    assert script.end() == expected
                else:
                    script.kill()
                began = script.logged()
                assert not known & set(began)  # kept by the lives before
                assert len(began) == len(set(began))
                known = simulations_in(folder / "list", LEAF) | {
                    w.SECOND + index for index in simulations_in(folder / "fold", LEAF)
                }
                lost = set(began) - known
                if kill is not None:
                    assert len(lost) <= ahead(variant)


@pytest.mark.parametrize("variant", grid(METHODS))
@settings(max_examples=2, deadline=None)
@given(kills=kill_points)
def test_a_run_that_is_killed_goes_on_to_the_same_end(uninterrupted, variant, kills):
    killed_and_started_again(variant, kills, uninterrupted)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("variant", grid(METHODS))
@settings(max_examples=25, deadline=None)
@given(kills=kill_points)
def test_however_often_and_wherever_it_is_killed(uninterrupted, variant, kills):
    killed_and_started_again(variant, kills, uninterrupted)
