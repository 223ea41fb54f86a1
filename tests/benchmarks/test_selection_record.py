"""The recorder: what it says of times, who was there, what becomes of disturbed rounds and wrong results."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.kernels import agreement
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.telemetry.load import LoadMeter

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


# ---- what is told of times


def test_a_share_of_stalls_is_a_rate_with_a_length():
    from benchmarks.selection.blocks import statistics

    told = statistics([1e-5] * 980 + [1e-2] * 20)  # the last twenty calls: no change of level, for order means nothing
    assert told["n"] == 1000
    assert told["med_ns"] == told["q1_ns"] == told["q3_ns"] == told["low_ns"] == 10_000
    assert told["stall_rate"] == pytest.approx(0.019)  # one of them is chance
    assert told["stall_ns"] == pytest.approx(9.99e6, rel=1e-3)
    assert told["mean_ns"] == pytest.approx(1e4 + 0.019 * 9.99e6, rel=1e-3)
    assert told["max_ns"] == 10_000_000


def test_one_long_call_among_thousands_is_no_rate():
    from benchmarks.selection.blocks import statistics

    told = statistics([2e-6] * 5000 + [2e-2])
    assert told["stall_rate"] == 0
    assert told["mean_ns"] == 2000


def test_numbers_keep_four_digits():
    from benchmarks.selection.blocks import short

    assert short(123456.7) == 123500
    assert isinstance(short(123456.7), int)
    assert short(0.0123456) == 0.01235


# ---- who was there


class Scripted:
    """Processor seconds, a second apart: cores used by everybody, and by the neighbour; this process uses 0.5."""

    def __init__(self, monkeypatch, everybody, neighbour=()):
        from benchmarks.selection import blocks

        monkeypatch.setattr(blocks, "_own_s", lambda: 0.5 * int(self.now))
        self.now = -1.0
        self._everybody = list(itertools.accumulate(everybody, initial=0.0))
        self._neighbour = list(itertools.accumulate(neighbour, initial=0.0)) or [0.0]

    def at(self, sums):
        return sums[min(int(self.now), len(sums) - 1)]

    def meter(self, own_s):
        return LoadMeter(lambda: (self.at(self._everybody), 2), own_s, lambda: self.now)

    def watch(self, patience_s=0.0):
        from benchmarks.selection.blocks import Watch

        def sleep(seconds):
            self.now += 1.0

        sleep(0.0)
        watch = Watch(lambda: self.at(self._neighbour), patience_s, self.meter, sleep, lambda: self.now)
        watch.read()
        return watch


def test_a_neighbour_that_was_invited_disturbs_nothing_and_a_second_one_does(monkeypatch):
    script = Scripted(monkeypatch, everybody=[1.5, 1.5, 2.0], neighbour=[1.0, 1.0, 0.8])
    watch = script.watch()
    script.now = 2.0
    assert watch.read() == (pytest.approx(1.0), True)
    script.now = 3.0
    other, clean = watch.read()
    assert other == pytest.approx(1.5)
    assert not clean


def test_waiting_ends_when_it_is_quiet_or_patience_does(monkeypatch):
    script = Scripted(monkeypatch, everybody=[1.5, 1.5, 0.5, 0.5])
    watch = script.watch(patience_s=10.0)
    watch.settle()
    assert script.now == 3.0
    assert watch.waited_s == 3.0
    watch = Scripted(monkeypatch, everybody=[1.5] * 9).watch(patience_s=2.0)
    watch.settle()
    assert watch.patience_s == 0.0


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, None])
def test_the_neighbour_ends_with_the_block_whatever_ends_that(monkeypatch, trouble):
    from benchmarks.selection import blocks

    started, popen = [], subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    try:
        with blocks.neighbour() as used_s:
            assert started[0].poll() is None
            assert used_s() >= 0.0
            if trouble is not None:
                raise trouble
    except KeyboardInterrupt:
        pass
    assert started[0].poll() is not None


# ---- recording


class Quiet:
    """A watch of a quiet machine; `rounds` says of each round whether it was clean."""

    def __init__(self, rounds=(), patience_s=0.0):
        self.patience_s, self.waited_s, self.settled = patience_s, 0.0, 0
        self._rounds = list(rounds)
        self._ends = False

    def read(self):
        from benchmarks.selection.blocks import Beside

        self._ends = not self._ends
        clean = self._rounds.pop(0) if self._rounds and not self._ends else True
        return Beside(0.0 if clean else 1.5, clean)

    def settle(self):
        self.settled += 1

    def spend(self, seconds):
        self.patience_s -= 1.0


def recorded(tmp_path, plan, watch=None):
    from benchmarks.selection.record import Recorder

    out = tmp_path / "matrix.json"
    recorder = Recorder(plan, watch or Quiet(), out, lambda line: None, {"numpy": 0.25})
    recorder.run()
    return json.loads(out.read_text())


def small(names=("matmul",), sizes=(100, 1000), **fields):
    from benchmarks.selection.plan import Plan

    fields = {"dtypes": ("float64",), "budget_s": 0.0, "longest_s": 60.0, **fields}
    return Plan(list(names), sizes=sizes, **fields)


@pytest.fixture
def numpy_alone(monkeypatch):
    """Other libraries are as if not installed: nothing is compiled."""
    why = agreement.why_hole
    monkeypatch.setattr(agreement, "why_hole", lambda v, d: why(v, d) if v.backend == "numpy" else "not here")


def test_every_built_in_operation_is_covered_in_both_dtypes():
    from benchmarks.selection.plan import Plan, grid

    sizes = grid(10_000_000)
    assert sizes == (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    rows = list(Plan(list(KERNELS), sizes=sizes).rows())
    found = {(row.kernel.name, row.dtype, row.size) for row in rows if not row.form.name}
    assert found == set(itertools.product(KERNELS, ("float32", "float64"), sizes))
    assert {row.kernel.name for row in rows if row.form.name} >= {"fft", "matmul"}
    assert grid(1000, 2) == (100, 300, 1000)


def test_what_is_written_is_read_by_the_benchmark(tmp_path):
    from benchmarks.selection.matrix import Matrix

    data = recorded(tmp_path, small(("matmul",)))
    matrix = Matrix.load(tmp_path / "matrix.json")
    assert (matrix.context, matrix.threads) == ("quiet", small().threads)
    assert matrix.backends["numpy"].import_s >= 0.25
    for variant in operations.find("matmul").variants:
        if variant.name in matrix.backends:
            compiles = registry.executor(variant.backend).capabilities.compiles
            assert matrix.backends[variant.name][:2] == (variant.backend, compiles)
    assert [cell.shapes for cell in matrix] == [((10, 10),) * 2, ((32, 32),) * 2, ((62, 16), (16, 16))]
    assert [cell.size for cell in matrix] == [100, 1024, 992]
    cell = matrix.cells[0]
    assert cell.default == "numpy"
    variants = [v for v in operations.find("matmul").variants if v.device == "cpu"]
    assert list(cell.timings) == [v.name for v in variants if agreement.why_hole(v, "float64") is None]
    timing = cell.timings["numpy"]
    assert timing.work == 2 * 10**3
    assert timing.error < 1e-13
    assert min(timing.mean_s, timing.low_s, timing.first_s) > 0.0
    old = {"first_ns", "err", "dtype", "other", "n", "med_ns", "q1_ns", "q3_ns", "min_ns", "max_ns"}
    assert old <= set(data["rows"][0]["r"]["numpy"])


def test_the_file_names_no_host_and_no_place_and_has_a_row_a_line(tmp_path, numpy_alone):
    recorded(tmp_path, small(("reduction", "fft")))
    text = (tmp_path / "matrix.json").read_text()
    assert socket.gethostname() not in text
    for place in (str(Path.home()), str(ROOT), sys.prefix, str(tmp_path)):
        assert place not in text
    assert sum(line.startswith('{"op"') for line in text.splitlines()) == text.count('"op"')


def test_parameters_stay_those_of_the_smallest_size(tmp_path, numpy_alone):
    data = recorded(tmp_path, small(("derivative",)))
    assert {row["parameters"] for row in data["rows"]} == {"order=0.5,step=0.01"}


def test_a_wrong_result_or_an_error_counts_no_time_and_stops_nothing(tmp_path, monkeypatch, numpy_alone):
    from benchmarks.selection import blocks

    right = blocks.prepared

    def tampered(name, variant, kinds, names):
        ready = right(name, variant, kinds, names)

        class Ready:
            import_s = 0.0

            @staticmethod
            def call(x):
                if variant == "numpy" and x.size == 1000:
                    raise OSError("cannot read /home/somebody/cache/kernel.so: no room")
                return ready.call(x) * (1.0 + 1e-6 * (variant == "numpy/dot"))

        return Ready()

    monkeypatch.setattr(blocks, "prepared", tampered)
    first, *rest = recorded(tmp_path, small(("reduction",)))["rows"]
    assert rest == []  # nothing was right at 1000 elements
    assert "med_ns" in first["r"]["numpy"]
    assert set(first["r"]["numpy/dot"]) == {"error"}
    assert first["r"]["numpy/dot"]["error"].startswith("ValueError: off by 1.0e-06 of the reference's scale")


def test_errors_are_told_without_places():
    from benchmarks.selection.record import _told

    told = _told(OSError("cannot read /home/somebody/cache/kernel.so: no room for numba/parallel\nmore"))
    assert told == "OSError: cannot read ...: no room for numba/parallel"


def test_a_variant_whose_work_rules_it_out_is_not_called(tmp_path, monkeypatch, numpy_alone):
    from benchmarks.selection import record

    monkeypatch.setattr(record.Recorder, "_predicted_s", lambda self, row, one: 9.0 if row.size == 1000 else 0.0)
    data = recorded(tmp_path, small(("reduction",), longest_s=8.0))
    assert [row["size"] for row in data["rows"]] == [100]


def test_predictions_follow_the_declared_work(tmp_path, numpy_alone):
    from benchmarks.selection.blocks import Contestant
    from benchmarks.selection.record import Recorder

    plan = small(("derivative",))
    recorder = Recorder(plan, Quiet(), tmp_path / "m.json", lambda line: None, {})
    *_, row = plan.rows()
    one = Contestant(row.kernel, "numpy/direct", recorder._given(row), row.size)
    assert recorder._predicted_s(row, one) == 0.0  # never called yet: it may
    recorder._steady["derivative", "float64", "numpy/direct"] = (one.work / 100, 1e-9 * one.work / 100)
    assert recorder._predicted_s(row, one) == pytest.approx(1.99e-9 * one.work)  # a cache may be left: twice
    recorder._steady["derivative", "float64", "numpy/direct"] = (10.0, 0.025)  # that is no work, but a stall
    assert recorder._predicted_s(row, one) == pytest.approx(0.025 + 2 * 3e-8 * one.work, rel=0.01)


def test_disturbed_rounds_are_taken_again_as_long_as_patience_lasts(tmp_path, numpy_alone):
    watch = Quiet([False, True, False, True, True], patience_s=10.0)
    row = recorded(tmp_path, small(("matmul",), sizes=(100,)), watch)["rows"][0]
    assert row["other"] == row["r"]["numpy"]["other"] == [0.0, 0.0, 0.0]
    assert row["r"]["numpy"]["n"] == 6  # two calls in each clean round
    assert watch.settled == 2
    assert not row["disturbed"]


def test_without_patience_the_clean_rounds_count_and_where_there_is_none_all_do_marked(tmp_path, numpy_alone):
    row = recorded(tmp_path, small(("matmul",), sizes=(100,)), Quiet([False, True, True]))["rows"][0]
    assert (row["other"], row["disturbed"], row["r"]["numpy"]["n"]) == ([0.0, 0.0], False, 4)
    row = recorded(tmp_path, small(("matmul",), sizes=(100,)), Quiet([False] * 3))["rows"][0]
    assert (row["other"], row["disturbed"], row["r"]["numpy"]["n"]) == ([1.5] * 3, True, 6)


def test_an_interruption_leaves_the_complete_rows(tmp_path, monkeypatch, numpy_alone):
    from benchmarks.selection.blocks import Contestant
    from benchmarks.selection.matrix import Matrix

    block = Contestant.block

    def stopped(self, share_s):
        if self.size > 100:
            raise KeyboardInterrupt
        block(self, share_s)

    monkeypatch.setattr(Contestant, "block", stopped)
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path, small(("reduction",)))
    assert [cell.size for cell in Matrix.load(tmp_path / "matrix.json")] == [100]


# ---- the command


def test_one_thread_is_asked_of_every_library_before_it_is_imported(monkeypatch, tmp_path):
    from benchmarks.selection import record

    made = record.thread_environment(1, {"HOME": "/", "XLA_FLAGS": "--xla_a=b"})
    assert {made[name] for name in made if name.endswith("_THREADS")} == {"1"}
    assert made["XLA_FLAGS"] == "--xla_a=b --xla_cpu_multi_thread_eigen=false"
    assert record.thread_environment(1, made) == made

    class StartedAgainError(Exception):
        pass

    def execve(path, argv, environ):
        raise StartedAgainError(argv, environ["OMP_NUM_THREADS"])

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    arguments = [str(tmp_path / "m.json"), "--threads", "1"]
    with pytest.raises(StartedAgainError) as caught:
        record.main(arguments)
    assert caught.value.args == ([sys.executable, "-m", "benchmarks.selection.record", *arguments], "1")


def test_variants_of_more_threads_are_no_part_of_a_matrix_of_one(tmp_path, monkeypatch):
    from benchmarks.selection.record import Recorder

    fft = operations.find("fft")
    given = fft.sample(np.random.default_rng(0), 100, "float64")
    recorder = Recorder(small(("fft",), threads=1), Quiet(), tmp_path / "m.json", lambda line: None, {})
    taken = {v.name for v in fft.variants if recorder._refusal(v, "float64", given) is None}
    assert "numpy" in taken
    assert not {"scipy/threads", "fftw/threads"} & taken


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["m.json", "--operations", "sort,nonsense"], "unknown operations ['nonsense']; there are: matmul, fft"),
        (["m.json", "--threads", "0"], "--threads is a number from 1 to"),
        (["m.json", "--largest", "10"], "--largest is at least 100 elements"),
        (["m.json", "--largest", "inf"], "--largest is at least 100 elements"),
        (["m.json", "--budget", "-4"], "--budget is a number of seconds above 0"),
        (["m.json", "--patience", "nan"], "--patience of 0 or more; got 50 and nan"),
        (["nowhere/m.json"], "there is no folder nowhere"),
        (["."], ". is a folder; give the name of a file in it"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(arguments, says, capsys, monkeypatch, tmp_path):
    from benchmarks.selection import record

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        record.main(arguments)
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())
