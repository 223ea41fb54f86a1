"""Policies that ours is held against do what their names say, the report shows losses, and figures are drawn."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from benchmarks.selection import bandits, figures, policies, report, streams
from benchmarks.selection.matrix import Backend, Cell, Matrix, Timing
from benchmarks.selection.measures import measure
from benchmarks.selection.oracle import Oracle
from benchmarks.selection.replay import Draws, replay

BACKENDS = {
    "numpy": Backend("numpy"),
    "numba": Backend("numba", "dtype", 0.6),
    "numba_par": Backend("numba", "dtype", 0.6),
    "jax": Backend("jax", "shape", 1.5),
}


def timing(mean_s, first_s=None):
    return Timing(0.97 * mean_s, 0.99 * mean_s, mean_s, first_s or mean_s, 0.05, 0.0, 0.0, 0.0, 1.0)


def cell(size, seconds, operation="sum", firsts=()):
    """A cell from {variant: mean seconds}; `firsts` names first calls in seconds."""
    firsts = dict(firsts)
    timings = {name: timing(mean, firsts.get(name)) for name, mean in seconds.items()}
    return Cell(operation, "float64", size, ((size,),), timings, next(iter(timings)))


def matrix(*cells, context="quiet"):
    return Matrix("made", context, 2, 0.0, cells, BACKENDS, {"cores": 2})


def grid(context="quiet", factor=1.0):
    """Two operations over five sizes: NumPy wins the small ones, jax or Numba the large ones after a first call."""
    cells = []
    for operation, slope in (("sum", 1.0), ("sort", 3.0)):
        for size in (100, 1000, 10_000, 100_000, 1_000_000):
            numpy = 1e-9 * slope * size + 2e-6
            seconds = {
                "numpy": numpy, "numba": 0.3 * numpy + 4e-6, "numba_par": factor * (0.2 * numpy + 3e-5),
                "jax": 0.15 * numpy + 1e-4,
            }  # fmt: skip
            cells.append(cell(size, seconds, operation, {"numba": 0.2, "numba_par": 0.4, "jax": 0.1}))
    return matrix(*cells, context=context)


MATRICES = [grid(), grid("busy", 40.0)]
NAMES = list(policies.table(MATRICES))


@pytest.fixture(scope="module", params=list(streams.STREAMS))
def replayed(request):
    """Traces of all policies in one stream."""
    stream = streams.build(request.param, MATRICES, 400, 3)
    draws, table = Draws(stream, 3), policies.table(MATRICES)
    return {name: replay(make(stream.matrix, stream), stream, 3, draws=draws) for name, make in table.items()}


def choices(policy, stream):
    return replay(policy, stream, 0).variants()


# ---------------------------------------------------------------------------------------------------- the oracle


def test_nobody_pays_less_than_the_oracle(replayed):
    totals = {name: trace.paid.sum() for name, trace in replayed.items()}
    assert min(totals.values()) >= totals["oracle"] * (1.0 - 1e-12)
    assert replayed["oracle"].wasted.sum() == 0.0


@pytest.mark.parametrize(("calls", "wanted"), [(100, "numpy"), (2000, "numba")])
def test_the_oracle_compiles_where_the_calls_pay_for_it(calls, wanted):
    stream = streams.build(
        "uniform", [matrix(cell(100, {"numpy": 1e-3, "numba": 1e-4}, firsts={"numba": 1.0}))], calls, 0
    )
    assert set(choices(Oracle(stream), stream)) == {wanted}


@pytest.mark.parametrize(("mean", "wanted"), [(1e-3, "numba"), (3.2e-3, "numpy")])
def test_the_oracle_imports_for_several_cells_what_pays_for_none_alone(mean, wanted):
    # A hundred calls of each of two cells at a gain of 4 ms: 0.8 s together for an import of 0.6 s; 0.36 s at 1.8 ms.
    cells = [cell(size, {"numpy": 5e-3, "numba": mean}) for size in (100, 200)]
    stream = streams.build("cold", [matrix(*cells)], 200, 0)
    assert set(choices(Oracle(stream), stream)) == {wanted}


def test_the_oracle_sends_ever_new_shapes_to_no_per_shape_compiler():
    cells = [
        cell(n, {"numpy": 1e-3, "numba": 8e-4, "jax": 1e-4}, firsts={"numba": 0.01, "jax": 0.1}) for n in (10, 10**6)
    ]
    stream = streams.build("storm", [matrix(*cells)], 300, 0)
    assert set(choices(Oracle(stream), stream)) == {"numba"}


def test_the_oracle_changes_with_the_machine():
    quiet, busy = (cell(100, {"numpy": 1e-3, "numba_par": seconds}) for seconds in (1e-4, 1e-2))
    stream = streams.build("switch", [matrix(quiet), matrix(busy, context="busy")], 300, 0)
    assert choices(Oracle(stream), stream) == ["numba_par"] * 100 + ["numpy"] * 100 + ["numba_par"] * 100


# ---------------------------------------------------------------------------------------------------- fixed, tables


def test_a_fixed_choice_takes_its_plain_variant_else_its_best_else_the_default():
    cells = (
        cell(100, {"numpy": 1e-3, "numba": 1e-3, "numba_par": 1e-4}, "both"),
        cell(100, {"numpy": 1e-3, "numba_par": 1e-4}, "parallel"),
        cell(100, {"numpy": 1e-3, "jax": 1e-4}, "neither"),
    )
    given = matrix(*cells)
    stream = streams.build("uniform", [given], 60, 0)
    policy = policies.table([given])["always-numba"](given, stream)
    chosen = {step.cell.operation: variant for step, variant in zip(stream, choices(policy, stream), strict=True)}
    assert chosen == {"both": "numba", "parallel": "numba_par", "neither": "numpy"}


def test_the_best_fixed_choice_is_the_cheapest_over_the_stream(replayed):
    fixed = {name: trace.mean.sum() for name, trace in replayed.items() if name.startswith("always-")}
    assert replayed["best-fixed"].mean.sum() <= min(fixed.values()) * (1.0 + 1e-12)


def test_a_threshold_is_fitted_where_two_variants_cross():
    cells = [cell(n, {"numpy": 1e-6 * n, "numba": 1e-4 + 1e-7 * n, "jax": 1.0}) for n in (10, 100, 1000, 10_000)]
    below, cut, above = policies.fit(cells)
    assert (below, above) == ("numpy", "numba")
    assert 100 < cut < 1000


def test_a_left_out_size_is_judged_by_the_others_and_an_unknown_one_by_all():
    # Numba is best at 1000 alone: only the table that has seen this size knows.
    seconds = {10: 1e-3, 100: 1e-3, 1000: 1e-5, 10_000: 1e-3}
    cells = [cell(n, {"numpy": 1e-4, "numba": numba}) for n, numba in seconds.items()]
    stream = streams.build("uniform", [matrix(*cells)], 40, 0)
    for left_out, wanted in ((False, "numba"), (True, "numpy")):
        policy = policies.Threshold("threshold", cells[:3], left_out)
        at = {step.cell.size: variant for step, variant in zip(stream, choices(policy, stream), strict=True)}
        assert at[1000] == wanted
        assert at[10_000] == "numba"  # not among the three it was fitted on: the rule for large sizes


def test_the_size_blind_rule_learns_one_variant_for_all_sizes():
    stream = streams.build("uniform", MATRICES, 400, 3)
    chosen = choices(policies.table(MATRICES)["size-blind"](stream.matrix, stream), stream)
    late = [(step.cell.operation, variant) for step, variant in zip(stream, chosen, strict=True)][200:]
    assert len(set(late)) == 2  # one for each operation


# ---------------------------------------------------------------------------------------------------- learners


def test_every_policy_gives_the_same_answers_again():
    stream = streams.build("break", MATRICES, 300, 1)
    table = policies.table(MATRICES)
    for name in NAMES:
        first, second = (choices(table[name](stream.matrix, stream), stream) for _ in range(2))
        assert first == second, name


@pytest.mark.parametrize("make", [bandits.Ucb1, bandits.EpsilonGreedy, bandits.History])
def test_a_learner_ends_with_the_best_variant_of_each_cell(make):
    small = cell(10, {"numpy": 1e-5, "numba": 1e-4}, firsts={"numba": 1.0})
    large = cell(1000, {"numpy": 1e-3, "numba": 1e-4}, firsts={"numba": 1.0})
    stream = streams.build("uniform", [matrix(small, large)], 400, 0)
    last = list(zip(stream, choices(make(), stream), strict=True))[-50:]
    right = [variant == step.cell.best for step, variant in last]
    assert sum(right) >= 48


def test_history_drops_the_first_sample_takes_ten_of_each_then_the_least_mean():
    stream = streams.build("uniform", [matrix(cell(10, {"numpy": 1e-4, "numba": 5e-5}, firsts={"numba": 1.0}))], 60, 0)
    chosen = choices(bandits.History(), stream)
    assert Counter(chosen[:22]) == {"numpy": 11, "numba": 11}
    assert set(chosen[22:]) == {"numba"}


def test_history_is_thrown_away_when_errors_reach_samples():
    policy, call = bandits.History(samples=2), streams.build("uniform", [grid()], 1, 0)[0].call
    for seconds in (9.0, 1.0, 1.0):
        policy.observe(call, "numpy", seconds, False)
    for seconds in (3.0, 3.0):
        policy.observe(call, "numpy", seconds, False)
    for variant in call.variants[1:]:
        for _ in range(3):
            policy.observe(call, variant, 2.0, False)
    assert policy.choose(call) == "numpy"  # it has no samples any more: measured anew


def test_a_compilation_is_learned_only_where_it_comes_back():
    warmed = bandits.Warmed()
    assert [warmed.counts("arm", cold) for cold in (True, False, True, True, True)] == [False, True, False, True, True]


def test_linucb_knows_a_size_between_two_that_it_has_seen():
    cells = [cell(2**k, {"numpy": 1e-7 * 2**k, "jax": 1e-5}) for k in (1, 3, 5, 9, 11, 13)]
    stream = streams.build("uniform", [matrix(*cells)], 400, 0)
    policy = bandits.LinUcb()
    replay(policy, stream, 0)
    for power, wanted in ((4, "numpy"), (10, "jax")):
        unseen = cell(2**power, {"numpy": 1.0, "jax": 1.0})
        assert policy.choose(streams.build("uniform", [matrix(unseen)], 1, 0)[0].call) == wanted


def test_without_river_linucb_is_left_out_and_a_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(bandits, "find_spec", lambda name: None)
    assert set(NAMES) - set(policies.table(MATRICES)) == {"linucb"}
    assert "pip install river" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- report, figures

FIGURES = {
    "oracle": {"total_over_oracle": 1.0, "regret_geomean": 1.0, "coverage": math.nan},
    "ucb1": {"total_over_oracle": 1.5, "regret_geomean": 1.004, "coverage": None},
    "pointsman": {"total_over_oracle": 1.1, "regret_geomean": 1.01, "coverage": None},
}


def test_a_table_is_in_the_order_of_totals_and_has_no_empty_column():
    lines = report.stream_table(FIGURES).splitlines()
    assert lines[0] == "| policy | total / oracle | regret |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| oracle", "| **pointsman**", "| ucb1"]


def test_what_ours_loses_is_told_with_the_winner():
    assert report.losses(FIGURES) == "pointsman is beaten in: regret 1.010 (ucb1: 1.004)."
    assert "beaten in no column" in str(report.losses({**FIGURES, "ucb1": {"regret_geomean": 2.0}}))


def test_the_tables_come_between_the_markers(tmp_path):
    page, found = tmp_path / "README.md", tmp_path / "found.json"
    page.write_text("before\n<!-- selection: begin (generated) -->\nold\n<!-- selection: end -->\nafter\n")
    found.write_text('{"uniform": {"pointsman": {"total_over_oracle": 1.25}}}')
    report.write(report.read(found), ["20 calls"], page)
    text = page.read_text()
    assert (text[:7], text[-7:]) == ("before\n", "\nafter\n")
    assert "old" not in text
    assert all(part in text for part in ("- 20 calls", "### uniform", "1.250"))
    found.write_text('["uniform"]')
    with pytest.raises(ValueError, match="expected"):
        report.read(found)


def test_the_page_has_a_place_for_the_tables():
    text = report.PAGE.read_text(encoding="utf-8")
    assert text.count(f"<!-- {report.MARKER}: begin") == text.count(f"<!-- {report.MARKER}: end") == 1


class Knowing(bandits.Ucb1):
    """Stands for ours: it predicts."""

    name = figures.OURS

    def prediction(self, call, variant):
        return 1e-6, 1e-4, 1e-2


def test_every_figure_is_drawn(tmp_path):
    stream = streams.build("step", MATRICES, 200, 0)
    traces = {"oracle": replay(Oracle(stream), stream, 0), figures.OURS: replay(Knowing(), stream, 0)}
    paths = figures.draw(tmp_path / "new", "step@one machine", traces)
    assert [path.name for path in paths] == [
        f"step_one_machine_{kind}.png" for kind in ("regret", "predicted", "choices")
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert measure(traces[figures.OURS], traces["oracle"], {})["total_over_oracle"] > 1.0


def test_early_ratios_far_below_one_are_drawn_along_the_edge():
    stream = streams.build("cold", MATRICES, 200, 0)
    oracle = replay(Oracle(stream), stream, 0)
    dear, cheap = (dataclasses.replace(oracle, paid=np.full(200, seconds)) for seconds in (1.0, 1e-4))
    (axes,) = figures.regret_figure("cold", {"oracle": dear, figures.OURS: cheap}).axes
    (line,) = [line for line in axes.lines if line.get_label().startswith(figures.OURS)]
    assert axes.get_ylim()[0] < min(line.get_ydata()) == figures.LOWEST


def test_a_ring_is_where_ours_loses_to_the_oracle_that_compiles_too():
    ours = [figures.Place(i, "fft", 10, "numpy", regret) for i, regret in enumerate((1.0, 1.5, 2.0, 3.2))]
    oracle = [figures.Place(i, "fft", 10, "numba", regret) for i, regret in enumerate((1.0, 1.0, 1.9, 3.0))]
    assert [place.cell for place in figures.worse_than(ours, oracle)] == [1]


def test_the_map_shows_what_a_policy_came_to():
    pair = [cell(n, {"numpy": 1e-6 * n, "numba": 1e-4}) for n in (10, 1000)]
    stream = streams.build("uniform", [matrix(*pair)], 200, 0)
    places = figures.converged(replay(policies.Fixed("numpy", {("sum", "float64"): "numpy"}), stream, 0))
    assert sorted((place.size, place.backend, round(place.regret, 6)) for place in places) == [
        (10, "numpy", 1.0),
        (1000, "numpy", 10.0),
    ]
