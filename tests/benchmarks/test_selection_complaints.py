"""The users' complaints: each is built as it was told, and each is won."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.selection import complaints, scenarios
from benchmarks.selection.complaints import COMPLAINTS, Continued, Verdict, judge
from benchmarks.selection.ours import Ours
from benchmarks.selection.replay import replay

CALLS = complaints.CALLS


def means(scene, operation, size):
    """Mean seconds by variant in a cell of a scene."""
    found = [c for c in scene.stream.matrix.cells if (c.operation, c.size) == (operation, size)]
    return {variant: timing.mean_s for variant, timing in found[0].timings.items()}


# ---- built as told


@pytest.mark.parametrize(
    ("build", "operation", "size", "slower"),
    [
        (scenarios.graph_threshold, "pagerank", 10_000, 7.5),
        (scenarios.graph_threshold, "pagerank", 100_000, 2.3),
        (scenarios.graph_threshold, "pagerank", 1_000_000, 1 / 1.19),
        (scenarios.borrowed_crossover, "flex", 50_000, 1.9),
        (scenarios.twelve_rows, "query", 12, 198),
        (scenarios.twelve_rows, "frame", 100_000, 45.6),
    ],
)
def test_a_scene_has_the_figures_that_were_complained_of(build, operation, size, slower):
    scene = build(50, 0)
    cpu, gpu = means(scene, operation, size).values()
    assert gpu / cpu == pytest.approx(slower, rel=0.03)
    call = next(s.call for s in build(400, 0).stream if (s.call.operation, s.call.size) == (operation, size))
    assert scene.rule().choose(call) == scenarios.GPU  # that is where the rule sends it


def test_a_new_shape_costs_nine_times_as_much_compiled_and_half_as_much_when_it_comes_back():
    scene = scenarios.novel_shapes(50, 0)
    first = {variant: timing.first_s for variant, timing in scene.stream.matrix.cells[0].timings.items()}
    assert first == pytest.approx({"plain": 0.268, "tuned": 2.433})
    assert means(scene, "synthesis", 40) == pytest.approx({"plain": 0.218, "tuned": 0.092})
    shapes = [step.call.shapes for step in scene.stream]
    assert len(set(shapes)) > 20  # some come back, the others never do
    assert max(map(shapes.count, shapes)) >= 3


def test_the_first_call_of_the_accelerator_is_paid_once():
    scene = scenarios.graph_threshold(200, 0)
    trace = replay(scene.rule(), scene.stream, 0)
    assert trace.cold.sum() == pytest.approx(0.2226)


def test_held_out_sizes_are_held_out():
    scene = scenarios.held_out_constants(200, 0)
    seen, asked = ({step.call.size for step in stream} for stream in (scene.before, scene.stream))
    assert not seen & asked


def test_the_same_seed_gives_the_same_calls_and_another_gives_others():
    for complaint in COMPLAINTS.values():
        first, again, other = (complaint.build(60, seed).stream for seed in (1, 1, 2))
        keys = [[step.cell.key for step in stream] for stream in (first, again, other)]
        assert keys[0] == keys[1] != keys[2]


# ---- the rules blamed


def test_one_timing_each_decides_and_is_taken_anew_when_it_is_old():
    scene = scenarios.different_ranks(400, 0)
    for lasts in (None, 20):
        trace = replay(scenarios.TimedOnce(lasts=lasts), scene.stream, 0)
        changes = 0
        for cell in np.unique(scene.stream.tables.cell):
            chosen = trace.chosen[scene.stream.tables.cell == cell]
            assert chosen[:6].tolist() == [0, 0, 1, 1, 2, 2]  # a warm-up, then the timing
            changes += np.count_nonzero(np.diff(chosen[6:]))
        assert (changes == 0) == (lasts is None)


# ---- ours, started with a history


def test_a_later_process_knows_what_an_earlier_one_learned_and_has_nothing_compiled():
    scene = scenarios.graph_threshold(400, 0)
    earlier = Ours()
    replay(earlier, scene.before, 0)
    earlier.history.flush()
    held = {key: sketch.count for key, sketch in earlier.history.state.cells.items()}
    later = Continued(earlier)
    assert {key: sketch.count for key, sketch in later.history.state.cells.items()} == held
    trace = replay(later, scene.stream, 0)
    assert trace.cold.sum() == pytest.approx(0.2226)  # paid once more
    assert later.history.now() > earlier.history.now()  # so that what it saw counts as the later


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_one_keeps_the_choices_it_came_with(frozen):
    """On another card they are wrong, and only one that goes on learning leaves them."""
    scene = scenarios.anothers_winners(600, 0)
    earlier = Ours()
    replay(earlier, scene.before, 0)
    trace = replay(Continued(earlier, frozen=frozen), scene.stream, 0)
    changes = sum(np.ptp(trace.chosen[scene.stream.tables.cell == cell]) for cell in set(scene.stream.tables.cell))
    assert bool(changes) is not frozen


# ---- won


@pytest.mark.parametrize("name", COMPLAINTS)
def test_a_complaint_is_won(name):
    verdict = judge(name, CALLS)
    assert verdict.won, verdict
    assert verdict.rule >= 1.0


@pytest.mark.parametrize(
    ("changes", "won"),
    [
        ({}, True),
        ({"learned": 2.5}, False),  # beyond its bound
        ({"empty": 2.5, "within_empty": 3.0}, False),  # within its bound, and worse than the rule
        ({"rule": 1.02, "differing_rule": 0.5, "differing": 0.0}, True),  # as fast, and not the same
        ({"rule": 1.02, "differing_rule": 0.5, "differing": 0.01}, False),
        ({"rule": 1.02, "differing_rule": 0.0, "differing": 0.0}, False),  # then there was nothing to complain of
    ],
)
def test_what_counts_as_won(changes, won):
    plain = {
        "name": "twelve-rows", "rule": 2.0, "empty": 1.05, "learned": 1.04, "within_empty": 1.1, "within_learned": 1.05,
        "differing_rule": math.nan, "differing": math.nan,
    }  # fmt: skip
    assert Verdict(**{**plain, **changes}).won is won


# ---- the command


def test_the_command_prints_a_table_and_json(capsys):
    assert complaints.main(["different-ranks", "--calls", "60"]) in (0, 1)
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading.count("|") == row.count("|")
    assert "lattice/quda#182" in row
    complaints.main(["graph-threshold", "--calls", "60", "--json"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["threads"] == ["samyama-ai/samyama-graph#1402"]
    assert found["differing"] is None
    assert {"rule", "empty", "learned", "won", "said", "blamed"} <= set(found)


@pytest.mark.parametrize(("arguments", "said"), [(["nobody"], "no complaint 'nobody'"), (["--calls", "0"], "at least")])
def test_what_cannot_be_meant_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        complaints.main(arguments)
    assert said in capsys.readouterr().err


def test_an_unknown_complaint_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="twelve-rows"):
        judge("nobody")
