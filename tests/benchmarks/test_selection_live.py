"""The live benchmark: what is called, on what, who is beside it, and what the totals are held against."""

from __future__ import annotations

import contextlib
import io
import json
import random
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from pointsman.kernels import agreement

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def matrix():
    """Small cells of three operations, as recorded."""
    from benchmarks.selection.live import MATRIX
    from benchmarks.selection.matrix import Matrix

    whole = Matrix.load(MATRIX)
    kept = [c for c in whole if c.operation in ("reduction", "derivative", "fft") and c.size <= 1000]
    return whole.with_cells(kept)


def course_of(matrix, calls=60, *, hog=False, names=("reduction", "derivative", "fft")):
    from benchmarks.selection.live import lay_out

    return lay_out(matrix, names, calls, 3, hog=hog)


# ---- what is called


def test_inputs_are_those_that_were_recorded(matrix):
    course = course_of(matrix, 200)
    assert course.skipped == 0
    assert len(course.cells) == len(course.inputs) > 10
    for cell, one in zip(course.cells, course.inputs, strict=True):
        args, kwargs = one.make()
        assert agreement.shapes(args, kwargs) == cell.shapes
        assert args[0].dtype == cell.dtype


def test_calls_are_those_of_the_replay_and_the_same_for_one_seed(matrix):
    course = course_of(matrix)
    assert [course.cells[number].key for number in course.calls] == [step.cell.key for step in course.stream]
    assert course.calls == course_of(matrix).calls


def test_cells_that_take_long_are_left_out(matrix, monkeypatch):
    from benchmarks.selection import live
    from benchmarks.selection.matrix import Matrix

    monkeypatch.setattr(live, "LONGEST_S", 0.05)
    course = live.lay_out(Matrix.load(live.MATRIX), ["fft"], 40, 0, hog=False)
    assert {cell.size for cell in course.matrix} == {
        c.size for c in Matrix.load(live.MATRIX) if c.operation == "fft" and c.timings[c.default].mean_s < 0.05
    }
    assert max(cell.size for cell in course.matrix) < 10_000_000


def test_cells_of_other_shapes_or_parameters_are_left_out_not_run_on_something_else(matrix):
    from dataclasses import replace

    cells = [replace(c, parameters="order=0.7") if c.operation == "derivative" else c for c in matrix]
    course = course_of(matrix.with_cells(cells))
    assert course.skipped == sum(c.operation == "derivative" for c in matrix)
    assert {one.operation for one in course.inputs} == {"reduction", "fft"}


def test_an_operation_without_cells_is_refused(matrix):
    with pytest.raises(ValueError, match="no cell of sort"):
        course_of(matrix, names=("sort",))


def test_a_fixed_backend_takes_the_default_where_it_has_no_variant(matrix):
    from benchmarks.selection.live import choices_of

    course = course_of(matrix, 200)
    chosen = choices_of("always-numba", course)
    for cell, variant in zip(course.cells, chosen, strict=True):
        assert variant.startswith("numba") if cell.operation != "fft" else variant == "numpy"
    with pytest.raises(ValueError, match=r"no policy 'always-abacus'; there are: .*always-torch"):
        choices_of("always-abacus", course)


@pytest.mark.parametrize("policy", ["always-numpy", "always-torch"])
def test_a_fixed_backend_takes_the_operations_default_even_where_it_took_too_long_to_be_recorded(matrix, policy):
    """Whoever writes NumPy everywhere pays for it there too, and so does pointsman, which begins with it there."""
    from benchmarks.selection.live import choices_of

    slow = ("numpy", "torch")  # of large cells, only the fast ones were recorded
    without = [cell.only([v for v in cell.timings if not v.startswith(slow)]) for cell in matrix]
    chosen = choices_of(policy, course_of(matrix.with_cells(without), 200))
    assert {name.partition("/")[0] for name in chosen} == {"numpy"}


def test_the_second_run_follows_the_run_whose_history_it_has():
    from benchmarks.selection.live import AGAIN, OURS, POLICIES, _ordered

    orders = [_ordered(POLICIES, random.Random(seed)) for seed in range(40)]
    assert all(order.index(OURS) < order.index(AGAIN) for order in orders)
    assert all(sorted(order) == sorted(POLICIES) for order in orders)
    assert len({order[0] for order in orders}) > 3


# ---- what came of it


def scripted(course, costs):
    """A child whose calls take what `costs(cell, variant, neighbours)` says, the first one of a cell 1 s more."""

    def child(task, history=None):
        cells = course.cells
        if task["kind"] == "measuring":
            rows = [
                [[n, v, [costs(cells[n], v, beside)] * 3] for n, vs in enumerate(task["contenders"]) for v in vs]
                for beside in range(task["phases"])
            ]
            first = [[n, v, 1.0 + costs(cells[n], v, 0)] for n, vs in enumerate(task["contenders"]) for v in vs]
            return {"imports": {"numpy": 0.0, "scipy": 7.0, "numba": 7.0, "fftw": 7.0}, "first": first, "phases": rows}
        chosen = task.get("choices", [cell.default for cell in cells])
        seen, seconds = set(), []
        for index, n in enumerate(task["calls"]):
            seconds.append(costs(cells[n], chosen[n], int(index in course.hog)) + (n not in seen))
            seen.add(n)
        told = {"import_s": 0.5, "compile_s": 0.25, "explore_s": 0.125, "explored": 2, "processor_s": 1.0}
        return {**told, "seconds": seconds, "variants": dict(Counter(chosen[n] for n in task["calls"]))}

    return child


def run_scripted(course, costs, policies=("pointsman", "always-numpy"), rounds=1):
    from benchmarks.selection.live import run

    return run(course, policies, rounds, 0, 1.0, lambda line: None, scripted(course, costs))


def test_totals_are_held_against_the_best_that_was_timed_live(matrix):
    course = course_of(matrix, names=("reduction",))

    def costs(cell, variant, neighbours):
        return 2e-3 if variant.startswith("numpy") else 1e-3

    results = run_scripted(course, costs)
    # Seconds of imports and compilation would be spent to save milliseconds: the oracle leaves them alone.
    assert results["oracle"]["total_s"] == pytest.approx(60 * 2e-3)
    ours = results["policies"]["pointsman"]
    assert ours["total_s"] == pytest.approx(60 * 2e-3 + len(course.cells))
    assert ours["total_over_oracle"] == pytest.approx(ours["total_s"] / (60 * 2e-3))
    assert ours["learned_over_oracle"] == pytest.approx(1.0)
    assert ours["backends"] == {"numpy": 1.0}
    assert ours["explored"] == 2


def test_the_oracle_pays_for_imports_and_compilation_where_they_are_worth_it(matrix):
    course = course_of(matrix, 120, names=("reduction",))

    def costs(cell, variant, neighbours):
        return 1.0 if variant.startswith("numpy") else 1e-3

    results = run_scripted(course, costs)
    compiled = {(cell.operation, cell.dtype, tuple(map(len, cell.shapes))) for cell in course.cells}
    assert results["oracle"]["backends"] == {"numba": 1.0}
    # A compilation serves every size of its dtype; its price is what a first call takes beyond the others.
    assert results["oracle"]["total_s"] == pytest.approx(120 * 1e-3 + 7.0 + 1.0 * len(compiled))
    assert results["policies"]["always-numpy"]["learned_over_oracle"] == pytest.approx(1000.0)


def test_beside_a_neighbour_the_oracle_takes_what_is_best_there(matrix):
    course = course_of(matrix, 300, hog=True, names=("fft",))
    slow = {0: "scipy", 1: "numpy"}

    def costs(cell, variant, neighbours):
        return 1.0 if variant == slow[neighbours] else 0.5 if variant in slow.values() else 2.0

    from benchmarks.selection.live import contenders_of

    both = {n for n, cell in enumerate(course.cells) if {"numpy", "scipy"} <= set(contenders_of(cell))}
    assert both
    results = run_scripted(course, costs)
    least = sum(0.5 if n in both or not beside else 1.0 for n, beside in _with_neighbours(course))
    assert results["oracle"]["total_s"] == pytest.approx(least + 7.0)
    assert course.turns == [(100, 1), (200, 0)]


def _with_neighbours(course):
    return [(n, index in course.hog) for index, n in enumerate(course.calls)]


def test_what_fixed_policies_took_in_the_stream_counts_for_the_oracle(matrix):
    from benchmarks.selection.live_figures import pooled

    course = course_of(matrix, names=("reduction",))
    default = [cell.default for cell in course.cells]
    measured = {"phases": [[[n, v, [1.0]] for n, v in enumerate(default)]]}
    runs = {"always-numpy": [{"seconds": [9.0 + index for index in range(60)]}]}
    samples = pooled(course, runs, {"always-numpy": default}, measured)
    n, calls = course.calls[0], [i for i, n in enumerate(course.calls) if n == course.calls[0]]
    assert len(calls) > 1
    assert samples[n, default[n], 0] == [1.0, *(9.0 + i for i in calls[1:])]  # the first call was a cold one


# ---- the command


def test_the_command_prints_and_writes_what_was_found(matrix, tmp_path, capsys):
    from benchmarks.selection import live

    course = live.lay_out(live.Matrix.load(live.MATRIX), ["reduction"], 50, 0, hog=False)
    child = scripted(course, lambda cell, variant, neighbours: 1e-3)
    out = tmp_path / "live.json"
    asked = ["--calls", "50", "--operations", "reduction", "--rounds", "2", "--out", str(out)]
    assert live.main(asked, child) == 0
    shown = capsys.readouterr().out
    results = json.loads(out.read_text())
    assert set(results["policies"]) == set(live.POLICIES)
    assert all(policy in shown for policy in live.POLICIES)
    assert all(len(row["totals_s"]) == 2 for row in results["policies"].values())
    assert len(results["other_cores"]) == 2 * len(live.POLICIES)
    table = live.markdown(results).splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert live.main([*asked, "--json"], child) == 0
    assert json.loads(capsys.readouterr().out)["conditions"]["calls"] == 50


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--operations", "knit"], "has no operation knit; it has: matmul"),
        (["--policies", "always-abacus"], "no policy 'always-abacus'; there are"),
        (["--policies", "pointsman-second-run"], "needs the history of pointsman"),
        (["--calls", "0"], "expected at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused(asked, message, capsys):
    from benchmarks.selection import live

    with pytest.raises(SystemExit):
        live.main(["--operations", "reduction", "--calls", "5", *asked], lambda *_: pytest.fail("nothing may run"))
    assert message in capsys.readouterr().err


def test_an_interrupted_run_writes_nothing(tmp_path):
    from benchmarks.selection import live

    def child(task, history=None):
        raise KeyboardInterrupt

    out = tmp_path / "live.json"
    assert live.main(["--calls", "5", "--operations", "reduction", "--out", str(out)], child) == 130
    assert not out.exists()


# ---- for real


def task_of(course, kind, **more):
    return {"kind": kind, "inputs": course.inputs, "calls": course.calls, "turns": course.turns, **more}


def recorded_neighbour(seen):
    @contextlib.contextmanager
    def neighbour():
        seen.append("comes")
        yield
        seen.append("goes")

    return neighbour


def test_a_neighbour_is_there_exactly_as_long_as_it_is_asked_for(monkeypatch):
    from benchmarks.selection import live

    seen, answers = [], io.StringIO()

    def told():
        yield "what some library prints\n"
        yield live.MARK + '{"neighbours": 1}\n'
        assert (seen, answers.getvalue().count("\n")) == (["comes"], 2)  # the task, and an answer
        yield live.MARK + '{"neighbours": 0}\n'
        assert (seen, answers.getvalue().count("\n")) == (["comes", "goes"], 3)
        yield live.MARK + '{"result": {"seconds": [1.0]}}\n'

    monkeypatch.setattr(live, "neighbour", recorded_neighbour(seen))
    process = SimpleNamespace(stdin=answers, stdout=told())
    assert live._followed(process, {"kind": "fixed"}, contextlib.ExitStack()) == {"seconds": [1.0]}
    assert json.loads(answers.getvalue().splitlines()[0]) == {"kind": "fixed"}


def test_a_run_learns_in_the_history_it_is_given_under_no_settings_of_the_user(matrix, monkeypatch, tmp_path):
    from benchmarks.selection import live

    seen = []
    monkeypatch.setattr(live, "neighbour", recorded_neighbour(seen))
    monkeypatch.setenv("POINTSMAN_FORCE", "torch")
    course = course_of(matrix, 12, hog=True)
    result = live.in_child(task_of(course, "learning"), tmp_path / "history.sqlite")
    assert len(result["seconds"]) == 12
    assert sum(result["variants"].values()) == 12
    assert set(result["variants"]) != {"torch"}
    assert (tmp_path / "history.sqlite").exists()
    assert seen == ["comes", "goes"]


def test_imports_are_no_calls_and_only_what_compiles_compiles():
    from pointsman.telemetry.outcome import Outcome, Site

    from benchmarks.selection.live_run import parts_of

    def of(operation, variant, **more):
        return Outcome(Site(operation, variant, "float64", "20", ""), 0.0, **more)

    told = parts_of(
        [
            of("import", "numba", seconds=0.5, import_s=0.5, rule="explore"),
            of("reduction", "numba", seconds=0.25, compile_s=0.25, rule="explore"),
            of("reduction", "numpy", seconds=0.125, compile_s=0.125, rule="default"),
            of("reduction", "numpy", seconds=0.001, rule="learned", calls=9),
        ]
    )
    assert told == {
        "import_s": 0.5, "compile_s": 0.25, "explore_s": 0.75, "explored": 1, "variants": {"numba": 1, "numpy": 10},
    }  # fmt: skip


def test_the_contenders_are_timed_alone_and_beside_the_neighbour(matrix, monkeypatch):
    from benchmarks.selection import live

    monkeypatch.setattr(live, "neighbour", contextlib.nullcontext)
    course = course_of(matrix, 4, hog=True)
    contenders = [[cell.default] for cell in course.cells]
    task = {**task_of(course, "measuring", contenders=contenders, phases=2, budget_s=0.0, seed=0), "turns": [[1, 1]]}
    result = live.in_child(task)
    for rows in result["phases"]:
        assert {(n, v) for n, v, _ in rows} == {(n, vs[0]) for n, vs in enumerate(contenders)}
        assert all(len(seconds) == 3 for _, _, seconds in rows)
    assert {(n, v) for n, v, _ in result["first"]} == {(n, vs[0]) for n, vs in enumerate(contenders)}


def test_ctrl_c_leaves_no_process_behind(matrix, monkeypatch):
    from benchmarks.selection import live

    started = []

    class Kept(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    @contextlib.contextmanager
    def neighbour():
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(live.subprocess, "Popen", Kept)
    monkeypatch.setattr(live, "neighbour", neighbour)
    course = course_of(matrix, 6, hog=True)
    with pytest.raises(KeyboardInterrupt):
        live.in_child(task_of(course, "fixed", choices=[cell.default for cell in course.cells]))
    assert [process.returncode for process in started] == [-9]


def test_a_child_that_fails_is_an_error_not_a_result(matrix, capfd):
    from benchmarks.selection import live

    course = course_of(matrix, 3)
    with pytest.raises(RuntimeError, match="found that it ended with 1 before its result"):
        live.in_child(task_of(course, "fixed", choices=["abacus"] * len(course.cells)))
    assert "abacus" in capfd.readouterr().err
