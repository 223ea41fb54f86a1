"""The GPU benchmark without a GPU: it says so and writes nothing; on the stand-in for CuPy it records every kernel."""

from __future__ import annotations

import importlib
import json
import operator
from functools import partial

import pytest
import stand_in_cupy
from agreement import kernels, variants
from pointsman.kernels.table import KERNELS
from pointsman.telemetry import hardware
from pointsman.telemetry.memory import GpuMemory

from benchmarks import gpu


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hardware, "driver", lambda: None)
    out = tmp_path / "record.json"
    assert gpu.main(["--out", str(out)]) == 2
    printed = capsys.readouterr().out
    assert "There is no GPU here that this process may use." in printed
    for name in ("torch", "jax", "cupy", "numba"):
        assert f"  {name}: " in printed
    assert "no record was written" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def record(tmp_path, monkeypatch, capsys):
    """What a quick run records on the stand-in; its figures mean nothing."""
    stand_in_cupy.install(monkeypatch)
    monkeypatch.setattr(gpu, "GpuMemory", partial(GpuMemory, stand_in_cupy.StandInNvml()))
    monkeypatch.setattr(gpu, "LIBRARIES_OWN", {})  # the stand-in has none of them
    out = tmp_path / "record.json"
    assert gpu.main(["--out", str(out), "--quick"]) == 0
    yield json.loads(out.read_text())
    stand_in_cupy.remove()


def test_every_kernel_is_in_the_record_with_its_comparison(record):
    assert record["complete"]
    expected = {(k.name, v.name, dtype) for k in kernels().values() for v in variants(k, "cupy")
                for dtype in k.tolerances if v.dtypes is None or dtype in v.dtypes}  # fmt: skip
    assert {(row["kernel"], row["variant"], row["dtype"]) for row in record["kernels"]} == expected
    for row in record["kernels"]:
        assert "failed" not in row, row
        if "why_not" not in row:
            assert row["ratio"] == row["resident_s"] / row["own_s"]
            assert row["numpy_to_numpy_s"] > 0.0
            assert row["against"] == "bare"
    assert {row["kernel"] for row in record["kernels"] if "ratio" in row} == {name for name, *_ in expected}


def test_the_libraries_own_functions_are_there():
    for module, table in gpu.LIBRARIES_OWN.items():
        library = importlib.import_module(module)
        for kernel, path in table.items():
            assert kernel in KERNELS
            assert callable(operator.attrgetter(path.partition(".")[2])(library))


def test_transfers_and_memory_are_recorded_and_what_is_left_out_is_named(record):
    (found,) = record["transfers"]
    assert found["library"] == "cupy"
    assert [row["bytes"] for row in found["rows"]] == list(gpu.BYTES[:2])
    assert {"start_s", "bytes_per_s"} == set(found["to"]) == set(found["from"])
    assert record["memory"]["budget_bytes"] == int(0.7 * 70 * stand_in_cupy.GIB)
    assert {row["backend"] for row in record["left_out"]} >= {"torch", "jax", "numba"}


def test_the_model_of_a_transfer_is_the_line_through_it():
    rows = [{"bytes": n, "to_s": 1e-5 + n / 2e10} for n in (1e3, 1e5, 1e7)]
    line = gpu._line(rows, "to_s")
    assert line["start_s"] == pytest.approx(1e-5)
    assert line["bytes_per_s"] == pytest.approx(2e10)


def test_a_wrong_answer_or_an_error_fails_its_own_row_only():
    row = gpu._guarded(lambda: 1 // 0, kernel="matmul")
    assert row == {"kernel": "matmul", "failed": "ZeroDivisionError: integer division or modulo by zero"}
