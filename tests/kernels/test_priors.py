"""The shipped curves fit the tables, and the script that makes them works."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations

SHIPPED = json.loads(resources.files("pointsman.selector").joinpath("priors.json").read_text(encoding="utf-8"))
EXPECTED = {
    f"{name}|{variant.name}|{dtype}"
    for name in KERNELS
    for variant in operations.find(name).variants
    if variant.device == "cpu"
    for dtype in ("float32", "float64")
}


def well_formed(curve):
    works, seconds = zip(*curve["points"], strict=True)
    assert list(works) == sorted(set(works))
    assert list(seconds) == sorted(seconds), "more work is never quicker"
    assert all(-22 < s < 5 for s in seconds), "log2 of seconds between a quarter of a microsecond and half a minute"
    assert 0.0 <= curve["first_s"] < 30.0
    return works


def test_every_cpu_variant_has_a_shipped_curve_and_no_other():
    assert set(SHIPPED["curves"]) == EXPECTED
    for key, curve in SHIPPED["curves"].items():
        assert well_formed(curve)[-1] - curve["points"][0][0] > 10, f"{key} spans less than ten octaves"
    assert {"machine", "versions", "date"} <= set(SHIPPED)


def test_shipped_work_is_what_the_kernel_declares():
    for key, curve in SHIPPED["curves"].items():
        name, variant, _ = key.split("|")
        kernel = operations.find(name)
        work = kernel.variant(variant).work or kernel.work
        if name in ("element_wise", "reduction", "derivative"):
            declared = [math.log2(max(work(((size,),), {"order": 0.5}), 1.0)) for size in (10, 1000)]
            assert all(min(abs(d - w) for w, _ in curve["points"]) < 0.01 for d in declared), key


@pytest.mark.timeout(120)
def test_the_script_measures_every_variant(tmp_path):
    out = tmp_path / "priors.json"
    command = [sys.executable, "-m", "benchmarks.priors", "--out", str(out), "--most", "10", "--budget", "0.2"]
    root = Path(__file__).parents[2]
    subprocess.run([*command, "--operations", "fft,reduction"], cwd=root, check=True, capture_output=True)
    curves = json.loads(out.read_text(encoding="utf-8"))["curves"]
    assert set(curves) == {key for key in EXPECTED if key.startswith(("fft|", "reduction|"))}
    for curve in curves.values():
        well_formed(curve)
