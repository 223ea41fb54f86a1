"""The agreement grid: the page in the docs is what the tables and the measurement give now."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointsman import agreement_page, cli
from pointsman.executors.base import Variant
from pointsman.kernels import agreement
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.telemetry import hardware

PAGE = (Path(__file__).parents[2] / "docs" / "agreement.md").read_text(encoding="utf-8")
HOLES = dict(re.findall(r"^(\d+)\. (.*) \(\d+\)$", PAGE, re.MULTILINE))


def cells(page):
    """(operation, variant, dtype) -> text of the cell."""
    found = {}
    for section in page.split("\n## ")[1:]:
        name, *lines = section.splitlines()
        tables = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        if tables:
            (_, *dtypes), _, *rows = tables
            for variant, *texts in rows:
                found.update({(name, variant, d): text for d, text in zip(dtypes, texts, strict=True)})
    return found


CELLS = cells(PAGE)


def tolerance(name, variant, dtype):
    kernel = operations.find(name)
    return agreement.tolerance(kernel, kernel.variant(variant), dtype)


def test_the_page_has_exactly_the_rows_of_the_tables():
    """One that fails here after a change of kernels or backends wants `make agreement`."""
    expected = {
        (name, variant.name, dtype)
        for name in KERNELS
        for variant in operations.find(name).variants
        for dtype in operations.find(name).tolerances
    }
    assert set(CELLS) == expected


def test_every_error_on_the_page_is_within_the_tolerance_of_the_code():
    for key, text in CELLS.items():
        if not text.startswith("["):
            error, promised = map(float, text.split(" / "))
            assert promised == pytest.approx(tolerance(*key), rel=1e-5), key
            assert error <= promised, key


def test_every_hole_is_explained():
    """A library that was not installed is no excuse; a device that is not there is, for the device's variants."""
    for (name, variant, dtype), text in CELLS.items():
        if text.startswith("["):
            reason, found = HOLES[text.strip("[]")], operations.find(name).variant(variant)
            if found.device == "cpu":
                assert dtype not in (found.dtypes or ()), (name, variant, reason)
                assert reason.startswith("not one of its dtypes: ") or "does not compute in" in reason
            else:
                assert reason == "no CUDA device where this was measured"


def test_nothing_on_the_page_names_the_machine():
    words = [hardware.fingerprint(), *(part for part in hardware.describe()["cpu"].split() if len(part) > 5)]
    assert not [word for word in words if word in PAGE]


@pytest.mark.parametrize(("name", "dtypes"), [("matmul", ("float32", "complex128")), ("reduction", ("float64",))])
def test_measured_again_it_is_much_the_same(name, dtypes):
    rows = agreement.agreement([name], dtypes)
    assert {(row.variant, row.dtype) for row in rows} == {(v, d) for n, v, d in CELLS if n == name and d in dtypes}
    for row in rows:
        text = CELLS[name, row.variant, row.dtype]
        if row.hole or text.startswith("["):
            assert operations.find(name).variant(row.variant).device != "cpu" or row.hole in HOLES.values()
            continue
        assert row.agrees, row
        unit = float(np.finfo(row.dtype).eps) / 4  # other processors round otherwise; below this it is luck
        shown = max(float(text.split(" / ")[0]), unit)
        assert 1 / 20 < max(row.error, unit) / shown < 20, (row, text)


# ---- what the measurement notices, on kernels that are made to be wrong


def broken(name, change, monkeypatch, **fields):
    """A copy of the reduction kernel called `name` whose second variant is `change` of the first."""
    kernel = operations.find("reduction")
    right = kernel.variants[0].load()
    wrong = Variant("numpy/wrong", "numpy", lambda: lambda x: change(right(x)), **fields)
    made = replace(kernel, name=name, variants=(kernel.variants[0], wrong), portable=None)
    monkeypatch.setitem(operations._DECLARED, name, made)
    monkeypatch.setattr(operations, "_KNOWN", {})
    return made


def refuse(x):
    raise ArithmeticError("no such sum")


@pytest.mark.parametrize(
    ("change", "agrees", "told"),
    [
        (lambda y: y, True, ""),
        (lambda y: y * (1 + 1e-9), False, "error 1e-09"),
        (lambda y: y * np.nan, False, "error inf"),
        (refuse, False, "ArithmeticError: no such sum"),
    ],
    ids=["right", "slightly off", "nan", "raises"],
)
def test_a_wrong_variant_is_found_and_told(change, agrees, told, monkeypatch, capsys):
    broken("crooked", change, monkeypatch)
    first, second = agreement.agreement(["crooked"], ["float64"])
    assert (first.agrees, second.agrees) == (True, agrees)
    code = cli.main(["agreement", "crooked"])
    out = capsys.readouterr().out
    assert code == (0 if agrees else 1)
    assert told in out
    assert ("**" in out) is not agrees
    assert cli.main(["agreement", "crooked", "--json"]) == code
    listed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [row["agrees"] for row in listed if row["dtype"] == "float64"] == [True, agrees]


def test_a_variants_own_bound_counts(monkeypatch):
    off = 1 + 1e-9
    broken("crooked", lambda y: y * off, monkeypatch, accuracy={"float64": 1e-8})
    assert agreement.agreement(["crooked"], ["float64"])[1].agrees


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"device": "cuda:0"}, "no CUDA device"),
        ({"dtypes": frozenset({"float32"})}, "not one of its dtypes: float32"),
        ({"supports": lambda shapes, parameters: "only on Sundays"}, "only on Sundays"),
    ],
    ids=lambda part: str(part)[:20],
)
def test_a_hole_has_its_reason_and_is_no_failure(fields, reason, monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    broken("crooked", lambda y: y, monkeypatch, **fields)
    _, hole = agreement.agreement(["crooked"], ["float64"])
    assert hole.agrees is None
    assert hole.error is None
    assert reason in hole.hole


def test_a_missing_backend_is_a_hole_that_says_how_to_fill_it(monkeypatch):
    from pointsman.executors import registry

    monkeypatch.setattr(registry, "available", lambda name: f"{name} is not installed; pip install {name}")
    assert {row.hole for row in agreement.agreement(["reduction"], ["float64"]) if row.variant == "torch"} == {
        "torch is not installed; pip install torch"
    }


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), 0.2),
        (np.float32(2.0), np.float64(4.0), 0.5),
        (np.array([1j, 3.0]), np.array([1.0, 4.0]), math.sqrt(2) / 4),
        ((np.ones(3), np.array([5.0])), (np.ones(3), np.array([4.0])), 0.25),
        (np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 2.0]), 0.5),
        (np.array([np.nan, 1.0]), np.array([1.0, 1.0]), math.inf),
        (np.array([1.0]), np.array([np.inf]), math.inf),
        (np.array([1e-300]), np.array([0.0]), math.inf),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0.0),
        (np.array([2**62 + 1]), np.array([2**62]), 2.0**-62),
        (np.array([True, False]), np.array([True, True]), 1.0),
    ],
)
def test_errors_are_relative_to_the_largest_magnitude(found, expected, error):
    assert agreement.error(found, expected) == pytest.approx(error, rel=1e-12)


def test_another_shape_is_no_small_error():
    with pytest.raises(ValueError, match=r"shape \(3,\) is expected; got \(1,\)"):
        agreement.error(np.ones(1), np.ones(3))


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "0"), (3e-16, "3e-16"), (3.01e-16, "4e-16"), (9.5e-8, "1e-07"), (1e-7, "1e-07"), (math.inf, "inf")],
)
def test_errors_are_rounded_up_to_one_digit(error, text):
    assert agreement_page.rounded_up(error) == text


def test_rounding_never_turns_agreement_into_disagreement():
    row = agreement.Row("reduction", "numpy", "float64", 1.5e-14, 1.4e-14, "10 elements", 1)
    assert "| 1.5e-14 / 1.5e-14 |" in agreement_page.grid([row])
    assert "| **2e-14 / 1.5e-14** |" in agreement_page.grid([replace(row, error=1.6e-14)])


def test_wrong_names_list_the_right_ones(capsys, tmp_path):
    with pytest.raises(ValueError, match="no kernel is called 'fftt'; there are: matmul, fft"):
        agreement.agreement(["fftt"])
    with pytest.raises(ValueError, match="no contract has dtype 'int7'; there are: float32"):
        agreement.agreement(["fft"], ["int7"])
    assert cli.main(["agreement", "fftt"]) == 2
    assert "did you mean 'fft'" in capsys.readouterr().err
    assert cli.main(["agreement", "fft", "--page", str(tmp_path / "absent" / "page.md")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_page_is_written_as_it_is_read(monkeypatch, capsys, tmp_path):
    broken("crooked", lambda y: y, monkeypatch)
    page = tmp_path / "page.md"
    assert cli.main(["agreement", "crooked", "--page", str(page)]) == 0
    capsys.readouterr()
    found = cells(page.read_text(encoding="utf-8"))
    assert set(found) == {("crooked", v, d) for v in ("numpy", "numpy/wrong") for d in ("float32", "float64")}
    assert found["crooked", "numpy", "float64"].endswith(" / 1e-14")
