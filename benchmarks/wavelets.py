"""Wavelets against the libraries that people use: `python -m benchmarks.wavelets`, one thread each.

Significance of coherence: 300 pairs of series, against pycwt, which is run for fewer and multiplied; its time is
proportional to their number (first call included on neither side). Its levels cannot be compared: its red noise is
white, its window in scale twice as wide. Transforms: 100 000 samples at 189 scales, against pycwt and ssqueezepy; the
values are compared first. All sides take turns. `--write` puts the table into README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pointsman as pm
from pointsman.executors.native import held
from pointsman.kernels.base import Kernel
from pointsman.selector import operations

from .report import seconds_text, write_between_markers
from .timing import Watch, conditions, confirm

README = Path(__file__).with_name("README.md")
CASES = {
    "788 x 74 (dt 1, s0 1.936, J 73)": (1.0, 1 / 12, 1.936, 73),
    "1536 x 85 (dt 0.25, s0 0.5, J 84)": (0.25, 1 / 12, 0.5, 84),
}
PAIRS, PEERS_PAIRS = 300, 10
SAMPLES = 100_000
CLOSE = {"float64": 1e-6, "float32": 2e-3}  # of the largest coefficient of a scale
OURS = ("numpy", "scipy", "numba", "fftw")
COHERENCE_GOAL, CWT_GOALS = 20.0, {"pycwt float64": 3.0, "ssqueezepy float32": 1.0}


class Line(NamedTuple):
    """One line of the table: seconds of each side, in the rounds' order."""

    name: str
    seconds: dict[str, list[float]]


# ---- the significance of coherence


def coherence(rounds: int, pairs: int, peers_pairs: int, rng: random.Random) -> list[Line]:
    """For each case ours in both dtypes, and pycwt; seconds for `PAIRS` pairs."""
    lines = []
    for name, (dt, dj, s0, J) in CASES.items():
        ways: dict[str, tuple[int, Callable[[int], Any]]] = {
            f"pointsman {dtype}": (pairs, lambda count, d=dtype, c=(dt, dj, s0, J): _ours(c, d, count))
            for dtype in ("float64", "float32")
        }
        ways["pycwt float64"] = (peers_pairs, lambda count, c=(dt, dj, s0, J): _pycwts(c, count))
        found = _ours((dt, dj, s0, J), "float64", 2)
        confirm(name, bool((found.counts.sum(axis=1) == 2 * found.outside.sum(axis=1)).all() and found.outside.any()))
        for _, (_, run) in ways.items():
            run(2)  # filters are made, and libraries loaded
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in rng.sample(list(ways), len(ways)):
                count, run = ways[way]
                started = time.perf_counter()
                run(count)
                seconds[way].append((time.perf_counter() - started) * PAIRS / count)
        lines.append(Line(name, seconds))
    return lines


def _ours(case: tuple[float, float, float, int], dtype: str, count: int) -> pm.WctSignificance:
    return pm.wct_significance(
        0.3, 0.7, *case, mc_count=count, seed=1, dtype=dtype, cache=False, backend="sequential", native_threads=1
    )


def _pycwts(case: tuple[float, float, float, int], count: int) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return _pycwt().wct_significance(
            0.3, 0.7, *case, wavelet=_pycwt().Morlet(6), mc_count=count, progress=False, cache=False
        )


# ---- the transform


def transforms(rounds: int, samples: int, rng: random.Random) -> list[Line]:
    """Seconds of one transform at all scales: ours by several libraries in both dtypes, and the peers."""
    x = np.cumsum(np.random.default_rng(0).standard_normal(samples))
    x = (x - x.mean()) / x.std()
    ways: dict[str, Callable[[], Any]] = {}
    kernel = operations.find("cwt")
    assert isinstance(kernel, Kernel)
    for name in OURS:
        call = kernel.variant(name).load()
        for dtype in CLOSE:
            ways[f"pointsman {name} {dtype}"] = partial(call, x.astype(dtype), pad=None)
    ways["pycwt float64"] = lambda: _pycwt().cwt(x, 1.0, wavelet=_pycwt().Morlet(6))[0]
    scales = pm.cwt(x[:8], J=2).scales[0] * 2.0 ** (np.arange(_count(samples)) / 12)
    for dtype in CLOSE:
        ways[f"ssqueezepy {dtype}"] = lambda d=dtype: _ssqueezepys(x.astype(d), scales, d)
    _compare(ways)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in rng.sample(list(ways), len(ways)):
            started = time.perf_counter()
            ways[way]()
            seconds[way].append(time.perf_counter() - started)
    return [Line(f"cwt of {samples:,} samples at {_count(samples)} scales", seconds)]


def _count(samples: int) -> int:
    from pointsman.kernels.wavelet_plan import plan

    return plan(samples).J + 1


def _compare(ways: Mapping[str, Callable[[], Any]]) -> None:
    """Each scale against ours in float64, up to a norm; not the first two octaves, where Nyquist's bin counts."""
    usual = ways["pointsman numpy float64"]()[24:]
    for name, run in ways.items():
        found = np.asarray(run())[24:]
        confirm(name, found.shape == usual.shape, f"shape {found.shape}")
        largest = np.abs(usual).max(axis=1, keepdims=True)
        factor = 1.0
        if name.startswith("ssqueezepy"):
            power = np.sum(np.abs(usual) ** 2, axis=1, keepdims=True)
            factor = np.sum(found * usual.conj(), axis=1, keepdims=True) / power
        off = float(np.max(np.abs(found - factor * usual) / (np.abs(factor) * largest)))
        confirm(name, off < CLOSE[name.rpartition(" ")[2]], f"off by {off:.1e}")


def _ssqueezepys(x: Any, scales: Any, dtype: str) -> Any:
    import ssqueezepy

    given = ("morlet", {"mu": 6.0, "dtype": dtype})
    return ssqueezepy.cwt(x, given, scales=scales.astype(dtype), fs=1.0, l1_norm=False, padtype=None)[0]


# ---- one thread each


def _pycwt() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports names that SciPy deprecates
        import pycwt
        from pycwt import helpers
    if hasattr(helpers, "_FFTW_KWARGS_DEFAULT"):
        helpers._FFTW_KWARGS_DEFAULT["threads"] = 1
    return pycwt


@contextlib.contextmanager
def one_thread() -> Any:
    """BLAS, OpenMP, Numba and ssqueezepy's own threads at one."""
    import numba

    before, told = numba.get_num_threads(), os.environ.get("SSQ_PARALLEL")
    os.environ["SSQ_PARALLEL"] = "0"
    numba.set_num_threads(1)
    try:
        with held(1):
            yield
    finally:
        numba.set_num_threads(before)
        if told is None:
            del os.environ["SSQ_PARALLEL"]
        else:
            os.environ["SSQ_PARALLEL"] = told


# ---- telling


def table(lines: Sequence[Line]) -> list[str]:
    """Markdown: a line for each side; ratios are medians of the rounds' own."""
    out = ["| what | who | seconds | ours is faster | goal |", "| --- | --- | ---: | ---: | --- |"]
    for line in lines:
        best = _best(line)
        for who, seconds in line.seconds.items():
            ratio = statistics.median(theirs / ours for ours, theirs in zip(line.seconds[best], seconds, strict=True))
            peer = not who.startswith("pointsman")
            told = f"{ratio:.2f}x" if peer else "**this one**" if who == best else ""
            out.append(
                f"| {line.name} | {who} | {seconds_text(statistics.median(seconds))} | {told} | {_goal(line, who)} |"
            )
    return out


def _best(line: Line) -> str:
    """Ours in double precision, which is what pycwt computes in; the fastest library of those."""
    return min(
        (who for who in line.seconds if who.startswith("pointsman") and who.endswith("float64")),
        key=lambda who: statistics.median(line.seconds[who]),
    )


def _goal(line: Line, who: str) -> str:
    if who.startswith("pointsman"):
        return ""
    goal = CWT_GOALS.get(who) if line.name.startswith("cwt") else COHERENCE_GOAL
    if goal is None:
        return ""
    dtype = who.rpartition(" ")[2]
    same = [statistics.median(s) for w, s in line.seconds.items() if w.startswith("pointsman") and w.endswith(dtype)]
    found = statistics.median(line.seconds[who]) / min(same)
    return f"{goal:g}x in {dtype}: {'yes' if found >= goal else 'NO'}, {found:.2f}x"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wavelets", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny, once; the figures mean nothing")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    options = parser.parse_args(argv)
    rng, watch = random.Random(5), Watch()
    rounds, pairs, peers, samples = (1, 2, 1, 1001) if options.quick else (options.rounds, PAIRS, PEERS_PAIRS, SAMPLES)
    with one_thread():
        with watch.part("coherence"):
            lines = coherence(rounds, pairs, peers, rng)
        with watch.part("cwt"):
            lines += transforms(rounds, samples, rng)
    about = conditions()
    load = "; ".join(
        f"{part} {'BUSY' if seen['busy'] else 'quiet'} ({seen['other_cores']:.2f} cores used by others)"
        for part, seen in watch.parts.items()
    )
    about["versions"] |= {name: metadata.version(name) for name in ("pycwt", "ssqueezepy")}
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = [
        f"{about['date']}; {about['machine']}; Python {about['python']}; {versions}",
        f"load: {load}",
        f"one thread each; {rounds} rounds; coherence: seconds for {PAIRS} pairs, of pycwt's {peers} were run",
    ]
    text = "\n\n".join("\n".join(part) for part in ([f"- {line}" for line in head], table(lines)))
    print(text)
    if options.write:
        write_between_markers(README, "wavelets", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
