"""Cost matrices are read from both forms; what the older one lacks is derived; nonsense is refused by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
from costs_on_file import entry, grid, row, write

from benchmarks.selection.matrix import Backend, Matrix, join


def test_the_older_form_is_completed(tmp_path):
    times = {
        "numpy": {"error": "ValueError: no"},
        "scipy_fft": entry(1e-3, 5e-3, q1_ns=0.9e6, q3_ns=1.1e6, max_ns=21e6, n=50),
        "numba_par": entry(2e-3, 0.7),
    }
    matrix = Matrix.load(write(tmp_path / "old.json", [row("conv1d", 1000, times)]))
    (cell,) = matrix.cells
    assert (matrix.name, matrix.context, matrix.threads) == ("old", "quiet", 2)
    assert cell.variants == ("scipy_fft", "numba_par")
    assert cell.default == cell.best == "scipy_fft"  # what failed is no candidate, and no default
    assert cell.shapes == ((1000,), (129,))
    assert cell.works == {"scipy_fft": pytest.approx(1129 * math.log2(1129)), "numba_par": 129_000}
    assert matrix.backends == {"scipy_fft": Backend("scipy", "never", 0.3), "numba_par": Backend("numba", "dtype", 0.6)}
    timing = cell.timings["scipy_fft"]
    assert (timing.low_s, timing.median_s, timing.first_s) == pytest.approx((0.9e-3, 1e-3, 5e-3))
    assert timing.spread == pytest.approx(math.log(1.1 / 0.9) / 1.349)
    assert (timing.stall_rate, timing.stall_s) == pytest.approx((1 / 50, 20e-3))
    assert timing.mean_s == pytest.approx(1e-3 + 20e-3 / 50)


def test_the_extended_form_is_taken_at_its_word(tmp_path):
    times = {
        "numpy": entry(1e-3, mean_ns=1.4e6, low_ns=0.8e6, stall_rate=0.02, stall_ns=2e7, work=5000.0),
        "jax/jit": entry(2e-3, 0.5, mean_ns=2e6, low_ns=2e6, stall_rate=0.0, stall_ns=0.0, work=7000.0),
    }
    rows = [row("fft", 64_000, times, shapes=[[64, 1000]], parameters={"axis": 1}, default="jax/jit", other=[0.9])]
    path = write(
        tmp_path / "new.json", rows, format=2, context="busy", machine={"cores": 2, "date": "2026-01-01"},
        backends={"jax/jit": {"backend": "jax", "compiles": "shape", "import_s": 1.25}},
    )  # fmt: skip
    matrix = Matrix.load(path)
    (cell,) = matrix.cells
    assert matrix.context == "busy"
    assert (cell.shapes, cell.parameters, cell.default) == (((64, 1000),), '{"axis": 1}', "jax/jit")
    assert matrix.backends["jax/jit"] == Backend("jax", "shape", 1.25)
    assert matrix.backends["numpy"] == Backend("numpy", "never", 0.0)
    timing = cell.timings["numpy"]
    assert (timing.low_s, timing.mean_s, timing.stall_rate, timing.stall_s, timing.work) == pytest.approx(
        (0.8e-3, 1.4e-3, 0.02, 20e-3, 5000.0)
    )


@pytest.mark.parametrize(("others", "context"), [([0.0, 0.1], "quiet"), ([0.9, 1.0], "busy")])
def test_a_context_not_said_follows_the_load_of_others(tmp_path, others, context):
    rows = [row("fft", 64, {"numpy": entry(1e-3, other=others)})]
    assert Matrix.load(write(tmp_path / "m.json", rows)).context == context


@pytest.mark.parametrize(
    ("quartiles", "rate", "spread"),
    [((40e-6, 47e-6, 15e-3), 0.375, math.log(47 / 40) / 0.6745), ((40e-6, 14e-3, 15e-3), 0.625, 0.01)],
    ids=["upper quartile", "median as well"],
)
def test_a_quartile_among_the_stalls_is_no_spread(tmp_path, quartiles, rate, spread):
    q1, median, q3 = (1e9 * s for s in quartiles)
    rows = [row("matmul", 64, {"torch": entry(median * 1e-9, q1_ns=q1, q3_ns=q3, max_ns=q3)})]
    timing = Matrix.load(write(tmp_path / "m.json", rows)).cells[0].timings["torch"]
    assert (timing.stall_rate, timing.spread) == pytest.approx((rate, spread))
    assert 40e-6 <= timing.unstalled_s <= 47e-6
    assert timing.mean_s < quartiles[2]


def test_draws_average_to_the_mean(tmp_path):
    times = {"numpy": entry(1e-3, q1_ns=0.7e6, q3_ns=1.6e6, mean_ns=2e6, stall_rate=0.05, stall_ns=15e6)}
    timing = Matrix.load(write(tmp_path / "m.json", [row("fft", 64, times)], format=2)).cells[0].timings["numpy"]
    rng = np.random.default_rng(5)
    assert np.mean([timing.draw(rng) for _ in range(40_000)]) == pytest.approx(2e-3, rel=0.05)
    assert timing.slowed(3.0).draw(np.random.default_rng(1)) == pytest.approx(3 * timing.draw(np.random.default_rng(1)))


def test_a_mean_below_its_own_stalls_leaves_the_rest_a_time(tmp_path):
    times = {"numpy": entry(1e-3, mean_ns=1.1e6, low_ns=0.9e6, stall_rate=0.1, stall_ns=20e6)}
    timing = Matrix.load(write(tmp_path / "m.json", [row("fft", 64, times)])).cells[0].timings["numpy"]
    assert timing.unstalled_s == pytest.approx(0.9e-3)
    assert timing.mean_s == pytest.approx(1.1e-3)


GOOD = [row("fft", 64, {"numpy": entry(1e-3)})]


@pytest.mark.parametrize(
    ("rows", "more", "found"),
    [
        (GOOD, {"threads": "two"}, "found threads 'two'; expected a whole number"),
        (GOOD, {"format": 3}, "found format 3; expected 2"),
        (GOOD, {"context": "noisy"}, "found context 'noisy'; expected one of quiet, busy"),
        (GOOD, {"backends": {"numpy": {"compiles": "often"}}}, "found compiles 'often' of numpy"),
        (GOOD * 2, {}, "row 1: found .* twice"),
        ([row("fft", 0, {"numpy": entry(1e-3)})], {}, "row 0: found size 0 of fft"),
        ([row("fft", 64, {"numpy": entry(-1.0)})], {}, "numpy of fft, float64, 64: found q1_ns -1"),
        ([row("fft", 64, {"numpy": entry(1e-3, q1_ns=2e6)})], {}, "found quartiles .*; expected them in order"),
        ([row("fft", 64, {"numpy": entry(1e-3, stall_rate=1.5)})], {}, "found stall_rate 1.5"),
        ([row("fft", 64, {"numpy": 7})], {}, "found 7 for numpy of fft"),
        ([{"op": "fft"}], {}, "row 0: .*expected 'op', 'dtype', 'size' and 'r'"),
        ([row("fft", 64, {"numpy": {"error": "no"}})], {}, "no time in 1 rows; expected at least one timed variant"),
        ([], {}, "found no rows; expected at least one"),
        (
            [row("fft", 64, {"numpy": entry(1e-3, mean_ns=1e300)})],
            {},
            r"found mean_ns 1e\+300; expected nanosec",
        ),
        ([row("fft", 64, {"numpy": entry(1e-3, med_ns="5")})], {}, "found med_ns '5'; expected nanoseconds"),
        ([row("fft", 64, {"numpy": entry(1e-3, first_ns=True)})], {}, "found first_ns True; expected nanoseconds"),
        ([row("fft", 64, {"numpy": entry(1e-3, max_ns=math.nan)})], {}, "found max_ns nan; expected nanoseconds"),
        (
            [row("fft", 64, {"numpy": entry(1e-3)}, default="numba")],
            {},
            "found default 'numba' of fft; .*of numpy",
        ),
    ],
)
def test_nonsense_is_refused_with_file_finding_and_expectation(tmp_path, rows, more, found):
    path = write(tmp_path / "odd.json", rows, **{"threads": 2, **more})
    with pytest.raises(ValueError, match=f"odd.json: .*{found}"):
        Matrix.load(path)


@pytest.mark.parametrize(("text", "found"), [("{", "not JSON"), ("[1]", "found list"), ('{"a": 1}', r"keys \['a'\]")])
def test_a_file_of_something_else_is_refused(tmp_path, text, found):
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"odd.json: .*{found}"):
        Matrix.load(path)


def test_matrices_join_by_machine_threads_and_context(tmp_path):
    machine = {"machine": {"cores": 2, "date": "2026-01-01"}}
    later = {"machine": {"cores": 2, "date": "2026-02-02"}}
    files = [
        write(tmp_path / "first.json", grid(("sums",)), **machine),
        write(tmp_path / "again.json", grid(("sums", "roots"), slower=7.0), **later),
        write(tmp_path / "busy.json", grid(("sums",)), context="busy", **machine),
        write(tmp_path / "single.json", grid(("sums",)), threads=1, **machine),
        write(tmp_path / "other.json", grid(("sums",)), machine={"cores": 64}),
    ]
    joined = join(Matrix.load(path) for path in files)
    assert [matrix.name for matrix in joined] == ["first", "busy", "single", "other"]
    first = joined[0]
    assert [cell.operation for cell in first] == ["sums"] * 5 + ["roots"] * 5
    assert first.cells[0].timings["numpy"].mean_s == pytest.approx(2.4e-6)  # the first recording stays
    assert first.cells[5].timings["numpy"].mean_s == pytest.approx(7 * 2.4e-6)
    assert first.same == joined[1].same != joined[2].same
