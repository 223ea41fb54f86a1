"""Each variant of each kernel against the library's own direct call: `python -m benchmarks.kernels [OPERATION...]`.

NumPy arrays in, NumPy arrays out, conversion included on both sides. Both answers are checked before anything is timed.
Within a size all variants take turns, in random order; each is timed next to its direct call, and a ratio is the
median of the ratios of such neighbours. What looks like a loss is measured again with four times the effort, and the
second figure counts. `--write` puts the tables into README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.kernels import agreement
from pointsman.kernels.base import Arguments, Kernel
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations

from .direct import direct
from .report import seconds_text, write_between_markers
from .timing import Watch, conditions, confirm

README = Path(__file__).with_name("README.md")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
DTYPES = ("float64", "float32")
ROUGHLY = {"float64": 1e-9, "float32": 1e-3}  # so far from the reference a library's own call may be
LONGEST_S = 0.1  # a call that is expected to take longer is not made
REFERENCE_MOST = 10_000  # elements up to which the reference, quadratic in places, is affordable
BLOCK_S = 3e-4
FEWEST, MOST = 5, 61  # rounds
GOAL, COUNTS_FROM_S = 1.05, 1e-4
DERIVATIVE_GOALS_S = {1_000: 2.1e-5, 10_000: 1.7e-4, 100_000: 2.0e-3, 1_000_000: 3.4e-2}
"""Kept weight spectrum and kept buffers, one thread, float64: the measured floor of a few lines of NumPy."""


@dataclass(frozen=True)
class Result:
    """One variant at one size, in seconds a call."""

    operation: str
    variant: str
    dtype: str
    size: int
    against: str  # "library" or "bare"
    ours_s: float
    direct_s: float
    ratio: float

    @property
    def lost(self) -> bool:
        """Whether there is enough work to judge, and the goal is missed."""
        return self.direct_s >= COUNTS_FROM_S and self.ratio > GOAL


class Pair:
    """A variant and its direct call on one input: checked, then timed side by side."""

    def __init__(self, kernel: Kernel, name: str, given: Arguments) -> None:
        variant, self.given = kernel.variant(name), given
        args, kwargs = given
        kinds, named = tuple(kind_of(a) for a in args), {key: kind_of(value) for key, value in kwargs.items()}
        self.kernel, self.variant = kernel, variant
        self._ours = prepare(variant, kinds, named).call
        self._direct, self.against = direct(kernel, variant)
        self.times: list[tuple[float, float]] = []

    def check(self, expected: Any, slack: float) -> None:
        """Raise unless both give the answer; the library's own call need not keep our promise to the last digits."""
        args, kwargs = self.given
        dtype = args[0].dtype.name
        bound = slack * agreement.tolerance(self.kernel, self.variant, dtype)
        for who, call, limit in (("ours", self._ours, bound), ("direct", self._direct, ROUGHLY[dtype])):
            off = agreement.error(call(*args, **kwargs), expected)
            confirm(f"{self.kernel.name} {self.variant.name} {who}", off <= limit, f"off by {off:.1e}")

    def warm(self) -> float:
        """Seconds of a call, the quickest of a few; finds how many make a block."""
        took = min(self._seconds(call, 1) for _ in range(2) for call in (self._ours, self._direct))
        self._calls = max(1, math.ceil(BLOCK_S / max(took, 1e-7)))
        return took

    def round(self, rng: random.Random) -> float:
        """Time one block of each, the first of them as likely to be ours as not; returns the seconds it took."""
        started = time.perf_counter()
        first, second = (self._ours, self._direct) if rng.random() < 0.5 else (self._direct, self._ours)
        self._seconds(first, 1)  # what ran before may have left threads spinning, and other data in the cache
        times = self._seconds(first, self._calls), self._seconds(second, self._calls)
        self.times.append(times if first is self._ours else times[::-1])
        return time.perf_counter() - started

    def result(self, size: int) -> Result:
        """What has been measured."""
        ours, theirs = zip(*self.times, strict=True)
        return Result(
            self.kernel.name, self.variant.name, self.given[0][0].dtype.name, size, self.against,
            statistics.median(ours), statistics.median(theirs), statistics.median(a / b for a, b in self.times),
        )  # fmt: skip

    def _seconds(self, call: Callable[..., Any], calls: int) -> float:
        args, kwargs = self.given
        started = time.perf_counter()
        for _ in range(calls):
            call(*args, **kwargs)
        return (time.perf_counter() - started) / calls


def measure(
    names: Sequence[str], sizes: Sequence[int], budget_s: float, rng: random.Random, say: Callable[[str], None]
) -> list[Result]:
    """Results of every variant that runs on the host, at every size that it can afford."""
    results: list[Result] = []
    share_s = budget_s / len(names) / len(DTYPES) / len(sizes)
    for name in names:
        started = time.perf_counter()
        for dtype in DTYPES:
            known: dict[str, tuple[float, float]] = {}  # variant -> work and seconds at the largest size so far
            for size in sizes:
                results += _one_size(_kernel(name), dtype, size, known, share_s, rng)
        say(f"{name}: {time.perf_counter() - started:.1f} s")
    return results


def _one_size(
    kernel: Kernel, dtype: str, size: int, known: dict[str, tuple[float, float]], share_s: float, rng: random.Random
) -> list[Result]:
    pairs, expected = [], {}
    for name, given in _inputs(kernel, dtype, size).items():
        shapes = tuple(a.shape for a in given[0])
        work = (kernel.variant(name).work or kernel.work or (lambda *_: 1.0))(shapes, given[1])
        if name in known and 2 * known[name][1] * work / known[name][0] > LONGEST_S:  # leaving a cache may double it
            continue
        if id(given) not in expected:
            trusted = kernel.reference if size <= REFERENCE_MOST else kernel.variants[0].load()
            expected[id(given)] = trusted(*given[0], **given[1])
        pair = Pair(kernel, name, given)
        pair.check(expected[id(given)], 1.0 if size <= REFERENCE_MOST else 2.0)
        known[name] = work, pair.warm()
        pairs.append(pair)
    _turns(pairs, share_s, MOST, rng)
    for pair in [pair for pair in pairs if pair.result(size).lost]:
        pair.times.clear()
        _turns([pair], 4 * share_s / len(pairs), 4 * MOST, rng)
    for pair in pairs:  # a neighbour may have stalled the first calls for longer than the next size would take
        known[pair.variant.name] = known[pair.variant.name][0], min(ours for ours, _ in pair.times)
    return [pair.result(size) for pair in pairs]


def _turns(pairs: list[Pair], budget_s: float, most: int, rng: random.Random) -> None:
    spent, order = 0.0, list(pairs)
    for taken in range(most):
        if spent > budget_s and taken >= FEWEST:
            break
        rng.shuffle(order)
        spent += sum(pair.round(rng) for pair in order)


def _inputs(kernel: Kernel, dtype: str, size: int) -> dict[str, Arguments]:
    """Variant -> input of about this size: the plain sample, or one with more axes where it needs them."""
    plain = kernel.sample(np.random.default_rng(size), size, dtype)
    stacked = plain if kernel.stack is None else kernel.stack(np.random.default_rng(size), size, dtype)
    found = {}
    for variant in kernel.variants:
        if agreement.why_hole(variant, dtype) is None and variant.device == "cpu":
            for given in (plain, stacked):
                shapes = tuple(a.shape for a in given[0])
                if variant.supports is None or variant.supports(shapes, given[1]) is None:
                    found[variant.name] = given
                    break
    return found


def _kernel(name: str) -> Kernel:
    found = operations.find(name)
    assert isinstance(found, Kernel)
    return found


# ---- telling


def table(results: Sequence[Result]) -> list[str]:
    """Markdown: a line per variant and dtype, sizes across; time and ratio, losses in bold."""
    sizes = sorted({r.size for r in results})
    heads = [f"{size:.0e}".replace("e+0", "e") for size in sizes]
    lines = [
        f"| operation | variant | dtype | against | {' | '.join(heads)} |",
        f"| --- | --- | --- | --- |{' ---: |' * len(sizes)}",
    ]
    keys = dict.fromkeys((r.operation, r.variant, r.dtype, r.against) for r in results)
    found = {(r.operation, r.variant, r.dtype, r.size): r for r in results}
    for operation, variant, dtype, against in keys:
        cells = [_cell(found.get((operation, variant, dtype, size))) for size in sizes]
        lines.append(f"| {operation} | {variant} | {dtype} | {against} | {' | '.join(cells)} |")
    return lines


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    ratio = f"{result.ratio:.2f}x"
    return f"{seconds_text(result.ours_s)} {f'**{ratio}**' if result.lost else ratio}"


def derivative(results: Sequence[Result]) -> list[str]:
    """Markdown: the best variant of `derivative` against the measured floor; empty where it was not measured."""
    rows = []
    for size, goal_s in DERIVATIVE_GOALS_S.items():
        cells = [r for r in results if (r.operation, r.dtype, r.size) == ("derivative", "float64", size)]
        if cells:
            best = min(cells, key=lambda r: r.ours_s)
            met = "yes" if best.ours_s <= goal_s else f"NO, {best.ours_s / goal_s:.2f}x"
            texts = (f"{size:,}", seconds_text(goal_s), seconds_text(best.ours_s), best.variant, met)
            rows.append(f"| {' | '.join(texts)} |")
    head = ["| samples | goal | best variant | which | met |", "| ---: | ---: | ---: | --- | --- |"]
    return [*head, *rows] if rows else []


def summary(results: Sequence[Result]) -> str:
    """How many reach the goal, and which do not."""
    judged = [r for r in results if r.direct_s >= COUNTS_FROM_S]
    lost = [r for r in judged if r.lost]
    text = f"{len(judged) - len(lost)} of {len(judged)} cells above {seconds_text(COUNTS_FROM_S)} within {GOAL}x"
    losses = ", ".join(f"{r.operation} {r.variant} {r.dtype} {r.size:.0e} ({r.ratio:.2f}x)" for r in lost)
    return f"{text}; lost: {losses}" if lost else text


def report(results: Sequence[Result], watch: Watch) -> str:
    """Conditions, summary and tables as Markdown."""
    about = conditions()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = "; ".join(
        f"{'BUSY' if seen['busy'] else 'quiet'} ({seen['other_cores']:.2f} cores used by others)"
        for seen in watch.parts.values()
    )
    machine = f"{about['date']}; {about['machine']}; Python {about['python']}; {versions}"
    head = [machine, f"load: {load}", summary(results)]
    tables = [derivative(results), table(results)]
    return "\n\n".join("\n".join(lines) for lines in [[f"- {line}" for line in head], *tables] if lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 0 whether or not the goal is reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("operation", nargs="*", metavar="OPERATION", help="names of kernels (default: all)")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds of timing at first (default 150)")
    parser.add_argument("--quick", action="store_true", help="two sizes, next to no rounds; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures as JSON too")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    options = parser.parse_args(argv)
    if unknown := set(options.operation) - set(KERNELS):
        parser.error(f"unknown operations {sorted(unknown)}; there are: {', '.join(KERNELS)}")
    names, watch = options.operation or list(KERNELS), Watch()
    sizes, budget_s = (SIZES[:2], 0.0) if options.quick else (SIZES, options.budget)
    with watch.part("kernels"):
        results = measure(names, sizes, budget_s, random.Random(5), lambda line: print(line, file=sys.stderr))
    text = report(results, watch)
    print(text)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", encoding="utf-8")
    if options.write:
        write_between_markers(README, "kernels", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
