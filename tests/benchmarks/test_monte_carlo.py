"""The benchmark of Monte Carlo runs, once and tiny: answers are compared, losses are shown. No figure is judged."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks import monte_carlo
from benchmarks.simulations import choosing, engines, hand, memory, overhead, scaling, tables, work
from benchmarks.simulations.apart import Apart, FailedError, TooLongError
from benchmarks.timing import WrongAnswerError


def test_tables_are_measured_printed_and_written(tmp_path, monkeypatch, capsys):
    page, out = tmp_path / "page.md", tmp_path / "out.json"
    asked = ["overhead", "joblib", "auto-warm", "scaling"]
    page.write_text("".join(f"<!-- {name}: begin (generated) -->\n<!-- {name}: end -->\n" for name in asked))
    monkeypatch.setattr(monte_carlo, "PAGE", page)
    monkeypatch.setattr(monte_carlo, "SCALING", page)
    chosen = [word for name in asked for word in ("--only", name)]
    assert monte_carlo.main([*chosen, "--quick", "--write", "--json", str(out)]) == 0
    shown, written, data = capsys.readouterr().out, page.read_text(), json.loads(out.read_text())
    assert set(data) == set(asked)
    for way in overhead.OVER:
        assert f"| 300 | {way} |" in written
    (found,) = data["joblib"]["data"]
    assert found["variant"] == "joblib/loky"
    assert found["hand_size"] in engines.sizes_for(found["n"])
    assert min(*found["ours_s"], *found["hand_s"], found["naive_ratio"]) > 0
    (run,) = data["auto-warm"]["data"]
    assert set(run["seconds"]) >= {"auto", "sequential"}
    assert data["scaling"]["data"]["floors"]["joblib"]["task_s"] > 0
    assert written.count("| joblib, ") == len(scaling.NODES)
    assert "joblib/loky over hand-written joblib, warm" in shown
    assert "auto over one by one" in written


def test_memory_is_that_of_a_fresh_process_and_a_way_that_fails_is_told(monkeypatch):
    lines = (memory.LINES[0], memory.Line("no such way", (100,), {"backend": "no_such_backend"}))
    monkeypatch.setattr(memory, "LINES", lines)
    good, bad = memory.table(tables.Effort.least()).rows
    assert good[-1] == "yes"
    assert "no_such_backend" in bad[-1]


def test_what_hangs_or_dies_is_ended_and_said():
    with Apart() as process:
        with pytest.raises(FailedError, match=r"range\(\) arg 3 must not be zero"):
            process.call("by_hand", engine="threads", n=0, kind="python", steps=1, size=0)
        assert process.call("variants")[0] == "sequential"
        started = time.monotonic()
        with pytest.raises(TooLongError, match="by_hand took too long"):
            process.call("by_hand", 0.3, engine="threads", n=40, kind="python", steps=10_000_000, size=10)
        assert time.monotonic() - started < 20.0
        with pytest.raises(FailedError, match="the process died"):
            process.call("variants")
    with Apart() as process:
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(FailedError, match="the process died"):
            process.call("variants")
        folder = Path(process._folder.name)
    assert not folder.exists()


@pytest.mark.parametrize("kind", list(work.WORKERS))
def test_hand_written_runs_give_the_same_simulations_whatever_the_size(kind):
    threads = hand.Threads(2)
    alone = [work.WORKERS[kind](seed, 5) for seed in work.children(23)]
    try:
        assert threads.each(23, kind, 5) == alone
        assert [threads.run(23, kind, 5, size) for size in (1, 7, 23, 100)] == [alone] * 4
    finally:
        threads.close()
    assert work.right(work.sample(alone), kind, 5)
    assert not work.right([[3, alone[3] ^ 1]], kind, 5)


def test_other_answers_are_never_timed():
    one = engines._Cell("joblib", "python", 8, 1e-5)
    alone = [work.python(seed, one.steps) for seed in work.children(8)]

    def found(results):
        return {"digest": work.digest(results), "sample": work.sample(results)}

    one._checked("ours", found(alone))
    with pytest.raises(WrongAnswerError, match="joblib, 8 x 10 us, by hand"):
        one._checked("by hand", found([*alone[:-1], alone[-1] ^ 1]))
    with pytest.raises(WrongAnswerError, match="one by one"):
        engines._Cell("joblib", "python", 8, 1e-5)._checked("ours", found([x ^ 1 for x in alone]))


def test_losses_are_shown():
    run = choosing.Run("python", 1000, 1e-5, 50_000_000, 1)
    found = {"auto": [0.2, 0.24], "sequential": [0.1, 0.2], "threads": [0.4, 0.4]}
    table = choosing._table("auto-warm", [(run, found, "threads"), (run._replace(n=10), {}, "")])
    assert table.rows[0] == [
        "1e3 x 10 us, 50 MB", "150 ms", "220 ms", "threads", "150 ms", "sequential", "**1.60x**", "**1.60x**"
    ]  # fmt: skip
    assert table.rows[1][1] == "no result"
    assert table.notes[0].endswith("0 of 1 within 1.05x, geometric mean 1.60x; lost: 1e3 x 10 us, 50 MB (1.60x)")


def test_what_cannot_be_the_best_is_left_out_and_what_is_compared_is_not():
    assert choosing._contenders({"auto": 9.0, "sequential": 8.0, "threads": 1.0, "ray": 1.4, "mpi": 1.6}) == [
        "auto", "sequential", "threads", "ray"
    ]  # fmt: skip


def test_cells_of_more_than_a_minute_are_named_not_run():
    run, skipped = engines.cells()
    assert all(n * cost_s <= engines.LONGEST_S for n, cost_s in run)
    assert {*run, *skipped} == {(n, c) for n in engines.SIZES for c in engines.COSTS_S} | set(engines.EXTRA)
    for n, _ in run:
        assert all(n / size <= engines.MOST_TASKS for size in engines.sizes_for(n))
        assert engines.sizes_for(n)[-1] >= n // 2


FLOOR, CALLER = scaling.Floor(1e-3, 1e8), scaling.Caller(1e-7, 8.0, 1e-5, 200.0, 1000)


def test_the_slowest_part_is_predicted_to_limit():
    def at(workers, chunk_s, **given):
        return scaling.predict(FLOOR, CALLER, workers, own_chunk_s=chunk_s, cost_s=1e-2, **given)

    few = at(100, 2.0)
    assert (few.limit, few.per_s, few.least_chunk_s) == ("cores", pytest.approx(1e4), pytest.approx(0.2))
    many = at(10_000, 2.0)  # a thousand chunks of two hundred simulations are handed out in a second
    assert (many.limit, many.per_s) == ("scheduler", pytest.approx(2e5))
    assert many.least_chunk_s == pytest.approx(20.0)
    assert many.needed_per_s == pytest.approx(1e6)
    huge = at(1_000_000, 1e5)
    assert (huge.limit, huge.per_s) == ("caller", pytest.approx(1e7))
    slow = scaling.predict(scaling.Floor(1e-3, 1e5), CALLER, 1000, own_chunk_s=9.0)
    assert (slow.limit, slow.per_s) == ("results", pytest.approx(1.25e4))
    folded = at(1_000_000, 1e5, reduced=True)
    assert (folded.limit, folded.per_s) == ("cores", pytest.approx(1e8))


def test_arguments_go_to_each_worker_or_once_to_each_machine():
    each = scaling.predict(FLOOR, CALLER, 320, own_chunk_s=2.0, nodes=10)
    once = scaling.predict(FLOOR, CALLER, 320, own_chunk_s=2.0, nodes=10, per_worker=False)
    assert each.ships_s == pytest.approx(320 * 0.5)
    assert once.ships_s == pytest.approx(10 * 0.5)


def test_the_prediction_is_made_again_from_floors_alone():
    table = scaling.predicted({"joblib": FLOOR}, CALLER)
    assert [row[0] for row in table.rows] == [f"joblib, {nodes:,} x 32" for nodes in scaling.NODES]
    assert table.rows[0][5] == "cores"
    assert scaling.own_chunk_s("joblib/loky", 32) == pytest.approx(0.2, rel=0.1)
