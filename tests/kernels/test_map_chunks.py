"""How the items of a map are cut into chunks."""

from __future__ import annotations

import pytest
from map_workers import square
from pointsman.executors import registry
from pointsman.executors.mapping import Method
from pointsman.kernels import map_choice, map_run
from pointsman.kernels.map_pilot import Run
from pointsman.selector.maps import Facts

pytestmark = pytest.mark.usefixtures("four_cores_and_warm_pools")


def chosen(run, item_s, n_jobs=2):
    how = map_run.How(n_jobs=n_jobs, prefer="processes")
    return map_run.Job(run, map_run.MapInfo(len(run.items)), how)._choose(Facts(item_s, item_s))


def cut(item_s, items, n_jobs=2):
    """The chunks of so many items for worker processes of joblib."""
    run = Run(square, range(items))
    sizes = map_choice.chunk_sizes(chosen(run, item_s, n_jobs), registry.executor("joblib").method("loky"))
    return [part for _, part in run.sink.cut(run.items, 0, sizes)]


def test_chunks_are_worth_handing_over_and_short_at_the_end():
    for items in range(2, 6):
        assert {len(part) for part in cut(1.0, items)} <= {1, 2}
        assert len(cut(1.0, items)[-1]) == 1
    assert [len(part) for part in cut(1e-6, 1000)] == [500, 500]  # no worker is left without one
    for item_s, items in ((0.5, 40), (1e-4, 10_000), (1e-3, 1000), (1e-5, 10**6), (0.0, 300)):
        parts = cut(item_s, items)
        assert [i for part in parts for i in part] == list(range(items))
        sizes = [len(part) for part in parts[:-1]]
        assert min(sizes) * item_s >= 7 * 5e-4 or not item_s  # what a chunk costs, times ten or nearly so
        assert max(sizes) * item_s <= 2.0
    parts = cut(1e-4, 10_000)
    assert len(parts[0]) >= 3 * len(parts[-1])


@pytest.mark.parametrize("n_jobs", [2, 3, 8])
@pytest.mark.parametrize("late", [1.0, 4.0])
def test_all_workers_are_busy_to_the_end(n_jobs, late):
    """Whoever is free takes the next chunk: nobody waits long for the last, also where the second half is slower."""
    items = 4000
    costs = [1e-3 * (1.0 if i < items / 2 else late) for i in range(items)]
    free = [0.0] * n_jobs
    for part in cut(1e-3, items, n_jobs):
        at = free.index(min(free))
        free[at] += 5e-4 + sum(costs[i] for i in part)
    assert max(free) <= 1.05 * sum(costs) / n_jobs


@pytest.mark.parametrize("item_s", [1e-9, 1e-5, 1.0])
@pytest.mark.parametrize("left_s", [0.0, 2.0])
def test_chunks_hold_something_even_where_handing_over_is_said_to_cost_nothing(item_s, left_s):
    choice = chosen(Run(square, range(1000)), item_s)
    size = map_choice.chunk_sizes(choice, Method(ships=True), left_s)
    assert all(1 <= size(left) <= 500 for left in (1000, 999, 7, 2, 1))
