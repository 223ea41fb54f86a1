"""Measure what every built-in variant costs on this machine: the curves that the package ships with.

    make priors                            every operation
    make priors OPERATIONS=sort,softmax    only these; the curves of the others stay

NumPy arrays in, NumPy arrays out, conversion included, as the executors do it; libraries are imported before the
clock starts. Variants take turns within a size. A result is checked before its times count: against the float64
reference at small sizes, against the default variant (which has passed) beyond. The statistic is the lower quartile
of short samples in the quietest of several passes, so that a neighbour's stalls are not shipped to everybody.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pointsman.executors import registry
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.kernels.base import Arguments, Kernel
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations

SIZES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
DTYPES = ("float32", "float64")
LONGEST_S = 0.5  # a call that is expected to take longer is not made
REFERENCE_MOST = 10_000  # elements up to which the reference, quadratic in places, is affordable
PASSES = 3
SAMPLE_S, SAMPLES = 3e-5, 21  # shortest sample worth timing; most samples of one cell


@functools.cache
def prepared(name: str, variant: str, kinds: tuple[str | None, ...], names: tuple[str, ...]) -> Any:
    """The variant ready to be called; one for all sizes, as in a real process."""
    return prepare(_kernel(name).variant(variant), kinds, dict.fromkeys(names))


class Cell:
    """One variant on one input: called, checked and timed."""

    def __init__(self, kernel: Kernel, variant: str, given: Arguments) -> None:
        self.kernel, self.variant = kernel, kernel.variant(variant)
        self.args, self.kwargs = given
        kinds = tuple(kind_of(a) for a in self.args)
        self._ready = prepared(kernel.name, variant, kinds, tuple(self.kwargs))
        self._call = self._ready.call
        shapes = tuple(a.shape for a in self.args)
        self.work = (self.variant.work or kernel.work or (lambda *_: 1.0))(shapes, self.kwargs)
        self.times: list[float] = []

    def first(self, expected: Any) -> tuple[float, bool]:
        """Seconds of the first call, and whether it may have compiled; raises if its result is wrong."""
        ready = self._ready
        known = ready.executor.signatures(ready.function)
        started = time.perf_counter()
        result = ready.call(*self.args, **self.kwargs)
        seconds = time.perf_counter() - started
        compiled = known is None or (ready.executor.signatures(ready.function) or 0) > known
        dtype = self.args[0].dtype.name
        bound = 2 * self.variant.accuracy.get(dtype, self.kernel.tolerances[dtype])
        error = np.max(np.abs(result - expected)) if np.size(expected) else 0.0
        if not error <= bound * np.max(np.abs(expected)):
            raise AssertionError(f"{self.kernel.name} {self.variant.name} {dtype} {self.args[0].shape}: error {error}")
        return seconds, compiled

    def warm(self) -> None:
        """Call until buffers and caches are warm, and find how many calls make a sample."""
        self._call(*self.args, **self.kwargs)
        started = time.perf_counter()
        self._call(*self.args, **self.kwargs)
        self.repeat = max(1, math.ceil(SAMPLE_S / (time.perf_counter() - started)))

    def sample(self) -> float:
        """Time one short sample; returns the seconds it took."""
        call, args, kwargs = self._call, self.args, self.kwargs
        started = time.perf_counter()
        for _ in range(self.repeat):
            call(*args, **kwargs)
        seconds = time.perf_counter() - started
        self.times.append(seconds / self.repeat)
        return seconds


class Curve:
    """What one variant cost at every size so far, in one dtype."""

    def __init__(self) -> None:
        self.best: dict[float, float] = {}  # work -> seconds, the quietest pass
        self.firsts: dict[float, float] = {}  # work -> seconds of the first call, where it may have compiled
        self.called: set[float] = set()  # work that has been called at all

    def expected_s(self, work: float) -> float:
        """Seconds of a call, extrapolated in proportion from the largest size measured; 0.0 for a start."""
        if work in self.best or not self.best:
            return self.best.get(work, 0.0)
        return self.best[max(self.best)] * work / max(self.best)

    def as_json(self, per_shape: bool) -> dict[str, Any]:
        """Points with rising work, and the seconds that a first call costs beyond a steady one."""
        extra = [max(self.firsts[work] - self.best[work], 0.0) for work in self.firsts]
        # compiled per shape: each first call has its price; per dtype or never: only the very first has, and where the
        # smallest data are nothing to do that is not the one with the smallest
        first_s = 0.0 if not extra else float(np.median(extra)) if per_shape else extra[0]
        points: list[list[float]] = []
        least = math.inf
        for work in sorted(self.best, reverse=True):
            least = min(least, self.best[work])  # less work is never slower: where it seems so, all passes stalled
            points.insert(0, [round(math.log2(max(work, 1.0)), 2), round(math.log2(least), 2)])
        return {"points": points, "first_s": float(f"{first_s:.3g}")}


def measure(names: list[str], sizes: list[int], budget_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Curves by "operation|variant|dtype"."""
    curves: dict[tuple[str, str, str], Curve] = defaultdict(Curve)
    share_s = budget_s / PASSES / len(DTYPES) / len(sizes) / len(names)
    for turn in range(PASSES):
        for name in names:
            started = time.perf_counter()
            for dtype in DTYPES:
                for size in sizes:
                    _one_size(name, dtype, size, curves, share_s)
            say(f"pass {turn + 1}, {name}: {time.perf_counter() - started:.1f} s")
    out = {}
    for (name, variant, dtype), curve in curves.items():
        backend = registry.executor(_kernel(name).variant(variant).backend)
        out[f"{name}|{variant}|{dtype}"] = curve.as_json(backend.capabilities.compiles == "shape")
    return out


def _one_size(name: str, dtype: str, size: int, curves: dict[tuple[str, str, str], Curve], share_s: float) -> None:
    """Measure the variants that can afford this size, in turns."""
    kernel = _kernel(name)
    plain = kernel.sample(np.random.default_rng(size), size, dtype)
    stacked = (kernel.stack or kernel.sample)(np.random.default_rng(size), size, dtype)
    groups: list[tuple[Arguments, list[str]]] = [(plain, []), (stacked, [])]
    for variant in _on_cpu(name):
        supports = kernel.variant(variant).supports
        fits = supports is None or supports(tuple(a.shape for a in plain[0]), plain[1]) is None
        groups[0 if fits else 1][1].append(variant)
    cells: list[Cell] = []
    for given, variants in groups:
        expected = None
        for variant in variants:
            cell, curve = Cell(kernel, variant, given), curves[name, variant, dtype]
            if 2 * curve.expected_s(cell.work) > LONGEST_S:  # leaving a cache may double it
                continue
            if cell.work not in curve.called:
                curve.called.add(cell.work)
                if expected is None:
                    trusted = kernel.reference if size <= REFERENCE_MOST else kernel.variants[0].load()
                    expected = trusted(*given[0], **given[1])
                seconds, compiled = cell.first(expected)
                if compiled:
                    curve.firsts[cell.work] = seconds
            cell.warm()
            cells.append(cell)
    spent = 0.0
    for taken in range(SAMPLES):
        if spent > share_s and taken >= 3:
            break
        spent += sum(cell.sample() for cell in cells)
    for cell in cells:
        curve = curves[name, cell.variant.name, dtype]
        seconds = float(np.quantile(cell.times, 0.25))
        curve.best[cell.work] = min(seconds, curve.best.get(cell.work, math.inf))


def _kernel(name: str) -> Kernel:
    found = operations.find(name)
    assert isinstance(found, Kernel)
    return found


def _on_cpu(name: str) -> list[str]:
    return [v.name for v in _kernel(name).variants if v.device == "cpu"]


def machine() -> dict[str, Any]:
    """The class of machine, in general words."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    isa = next((isa for isa in ("avx512f", "avx2", "asimd") if isa in flags), "unknown")
    versions = {name: registry.executor(name).version() for name in registry.names()}
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {isa}",
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
        "units": "points: [log2 of the variant's declared work, log2 of seconds a call], quietest pass",
    }


def main(argv: list[str] | None = None) -> int:
    """Measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.priors", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--budget", type=float, default=200.0, help="seconds of sampling in all (default 200)")
    parser.add_argument("--operations", default=",".join(KERNELS), help="comma-separated names (default: all)")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest size, in elements")
    options = parser.parse_args(argv)
    names = options.operations.split(",")
    unknown = set(names) - set(KERNELS)
    if unknown:
        parser.error(f"unknown operations {sorted(unknown)}; there are: {', '.join(KERNELS)}")
    sizes = [size for size in SIZES if size <= options.most]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache  # an empty one: a first call's price is to be seen
        for backend in dict.fromkeys(variant.backend for name in names for variant in _kernel(name).variants):
            if registry.available(backend) is None:
                registry.ensure(backend)
        curves = measure(names, sizes, options.budget, lambda line: print(line, file=sys.stderr))
    if options.out.exists():  # curves of what was not measured now are kept, where what they are of is still there
        old = json.loads(options.out.read_text(encoding="utf-8"))["curves"]
        curves = {**{key: curve for key, curve in old.items() if key.split("|")[0] not in names}, **curves}
    order = [f"{name}|{variant}|{dtype}" for name in KERNELS for variant in _on_cpu(name) for dtype in DTYPES]
    curves = {key: curves[key] for key in order if key in curves}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(curve)}" for key, curve in curves.items())
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in machine().items())
    options.out.write_text(f'{{\n{head},\n "curves": {{\n{lines}\n }}\n}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
