"""The kernel benchmarks run, tiny: every variant is there, held against a call that is right. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointsman.kernels import agreement
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations

ROOT = Path(__file__).parents[2]
OPERATIONS = {name: operations.find(name) for name in KERNELS}


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def run(*argv):
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measurable(name, dtype):
    return {
        v.name for v in OPERATIONS[name].variants if v.device == "cpu" and agreement.why_hole(v, dtype) is None
    }  # fmt: skip


def test_every_variant_on_the_host_is_measured_and_shown(tmp_path):
    out = tmp_path / "kernels.json"
    text = run("benchmarks.kernels", "fft", "reduction", "--quick", "--json", str(out))
    rows = json.loads(out.read_text())
    for name in ("fft", "reduction"):
        for dtype in ("float32", "float64"):
            found = {row["variant"] for row in rows if (row["operation"], row["dtype"]) == (name, dtype)}
            assert found == measurable(name, dtype)
    for row in rows:
        assert f"| {row['operation']} | {row['variant']} | {row['dtype']} | {row['against']} |" in text
        assert min(row["ours_s"], row["direct_s"], row["ratio"]) > 0
    assert "above 100 us within 1.05x" in text


def test_the_written_calls_belong_to_variants_that_exist():
    from benchmarks.direct import DIRECT

    for name, calls in DIRECT.items():
        assert set(calls) <= {variant.name for variant in OPERATIONS[name].variants}, name


@pytest.mark.parametrize("name", list(KERNELS))
def test_every_variant_has_a_call_to_be_held_against_and_it_is_right(name):
    from benchmarks import kernels

    kernel = OPERATIONS[name]
    inputs = kernels._inputs(kernel, "float64", 30)
    assert set(inputs) == measurable(name, "float64")
    for variant, given in inputs.items():
        if not variant.startswith("jax"):  # compiled anew for each of them: seconds
            kernels.Pair(kernel, variant, given).check(kernel.reference(*given[0], **given[1]), 1.0)


def test_a_wrong_answer_is_never_timed():
    from benchmarks import kernels
    from benchmarks.timing import WrongAnswerError

    kernel = OPERATIONS["reduction"]
    given = kernel.sample(np.random.default_rng(0), 10, "float64")
    pair = kernels.Pair(kernel, "numpy", given)
    with pytest.raises(WrongAnswerError, match="reduction numpy ours"):
        pair.check(kernel.reference(*given[0]) * (1 + 1e-9), 1.0)
    pair._direct = lambda x: -1.0
    with pytest.raises(WrongAnswerError, match="reduction numpy direct"):
        pair.check(kernel.reference(*given[0]), 1.0)


def results(**fields):
    from benchmarks.kernels import Result

    usual = Result("derivative", "numpy/fft", "float64", 1000, "library", 2e-5, 2e-4, 1.0)
    return replace(usual, **fields)


def test_losses_are_judged_where_there_is_work_and_shown():
    from benchmarks import kernels

    fine, small, lost = results(), results(direct_s=5e-5, ratio=3.0), results(size=10_000, ratio=1.2)
    assert [r.lost for r in (fine, small, lost)] == [False, False, True]
    assert kernels.summary([fine, small]) == "1 of 1 cells above 100 us within 1.05x"
    assert kernels.summary([fine, lost]).endswith("1 of 2 cells above 100 us within 1.05x; lost: derivative numpy/fft "
                                                  "float64 1e+04 (1.20x)")  # fmt: skip
    assert "**1.20x**" in "\n".join(kernels.table([fine, lost]))
    assert "**" not in "\n".join(kernels.table([fine, small]))


def test_the_derivative_is_held_against_its_measured_floor():
    from benchmarks import kernels

    slow = results(variant="scipy/fft", ours_s=9e-5)
    (row,) = kernels.derivative([slow, results()])[2:]
    assert row == "| 1,000 | 21 us | 20 us | numpy/fft | yes |"
    (row,) = kernels.derivative([slow])[2:]
    assert row.endswith("| scipy/fft | NO, 4.29x |")
    assert kernels.derivative([results(operation="fft")]) == []


def test_the_neighbour_is_measured_for_every_pair_of_thread_variants():
    from benchmarks.neighbour import families

    rows = json.loads(run("benchmarks.neighbour", "element_wise", "--sizes", "100", "--quick", "--json", "-"))
    pairs = families(OPERATIONS["element_wise"])
    assert {"numba/parallel", "torch/1-thread"} <= {name for pair in pairs for name in pair}
    assert [(r["variant"], r["busy"]) for r in rows] == [(v, b) for pair in pairs for v in pair for b in (False, True)]
    assert all(r["calls"] >= 2 and r["mean_s"] > 0 for r in rows)


def test_families_have_one_thread_on_the_left_and_several_on_the_right():
    from benchmarks.neighbour import families

    found = {name: families(kernel) for name, kernel in OPERATIONS.items()}
    assert ("torch/1-thread", "torch") in found["element_wise"]
    assert ("numba", "numba/parallel") in found["reduction"]
    assert ("scipy", "scipy/threads") in found["fft"]
    assert ("numba/direct", "numba/parallel") in found["derivative"]
