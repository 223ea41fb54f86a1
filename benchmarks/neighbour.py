"""What a busy neighbour does to each thread variant: `python -m benchmarks.neighbour [OPERATION...]`.

The neighbour is one process that spins, pinned nowhere. Variants that differ in their threads only take turns, first
with the machine to themselves, then beside the neighbour, and so on in alternation; every call is timed by itself, for
it is the rare long one that counts. Answers are checked first. What others use of the machine is read over each slice
of time; one with more than the neighbour in it is taken again, as long as patience lasts. `--policies` runs the
variants again in fresh processes, once for each setting of OMP_WAIT_POLICY, which libraries read when they are loaded.
`--write` puts the tables into docs/threads.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pointsman.executors.base import Shapes, Variant
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.kernels import agreement
from pointsman.kernels.base import Arguments, Kernel
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.telemetry.load import LoadMeter

from .report import seconds_text, write_between_markers
from .timing import conditions, confirm, quantile

PAGE = Path(__file__).parents[1] / "docs" / "threads.md"
USUAL = ("element_wise", "reduction", "matmul", "fft")
SIZES = (10_000, 100_000, 1_000_000)
DTYPE = "float64"
POLICIES = ("", "PASSIVE", "ACTIVE")  # "": as it comes
SHOWN_BY_POLICY = (("element_wise", "matmul", "fft"), (100_000,))
SLICES, SLICE_S = 3, 0.5  # of calls of one variant, quiet and busy each
OTHERS = {False: (0.0, 0.15), True: (0.4, 1.2)}  # cores that others may use: nobody, or the neighbour alone
SPIN = "print('spinning', flush=True)\nwhile True:\n    pass"


@dataclass(frozen=True)
class Times:
    """Calls of one variant at one size in one state, in seconds."""

    operation: str
    size: int
    variant: str
    busy: bool
    calls: int
    median_s: float
    mean_s: float
    p95_s: float
    clean: bool  # whether nobody but the neighbour was there


class Effort(NamedTuple):
    """How long to measure: slices of each variant and state, and seconds in all to take unclean ones again."""

    slices: int
    slice_s: float
    patience_s: float


class Slice(NamedTuple):
    """Single calls within a short time, and what others used of the machine meanwhile."""

    seconds: list[float]
    other_cores: float


def families(kernel: Kernel) -> list[tuple[str, str]]:
    """(variant on one thread, the same on several), for every pair that `kernel` has on the host."""
    names = [variant.name for variant in kernel.variants if variant.device == "cpu"]
    pairs = []
    for name in names:
        backend, _, rest = name.partition("/")
        if rest == "1-thread":
            pairs.append((name, backend))
        elif rest in ("threads", "parallel"):
            pairs.append((next(other for other in names if other.partition("/")[0] == backend), name))
    return pairs


@contextmanager
def neighbour() -> Iterator[None]:
    """Another process that takes a core for as long as the block lasts."""
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Contestant:
    """One variant on one input, checked and warm."""

    def __init__(self, kernel: Kernel, name: str, given: Arguments, expected: Any) -> None:
        self.name, self.slices = name, {False: list[Slice](), True: list[Slice]()}
        self._args, self._kwargs = given
        variant = kernel.variant(name)
        kinds = tuple(kind_of(a) for a in self._args)
        self._call = prepare(variant, kinds, {key: kind_of(value) for key, value in self._kwargs.items()}).call
        for _ in range(3):
            off = agreement.error(self._call(*self._args, **self._kwargs), expected)
        confirm(f"{kernel.name} {name}", off <= 2 * agreement.tolerance(kernel, variant, DTYPE), f"off by {off:.1e}")

    def run(self, busy: bool, slice_s: float, meter: LoadMeter) -> None:
        """Time single calls for about `slice_s` seconds, two at least."""
        call, args, kwargs, clock = self._call, self._args, self._kwargs, time.perf_counter
        seconds: list[float] = []
        call(*args, **kwargs)
        meter.read()
        ends = clock() + slice_s
        while clock() < ends or len(seconds) < 2:
            started = clock()
            call(*args, **kwargs)
            seconds.append(clock() - started)
        self.slices[busy].append(Slice(seconds, meter.read().other_cores))

    def clean(self, busy: bool) -> list[Slice]:
        """The slices in which nobody else took part."""
        low, high = OTHERS[busy]
        return [piece for piece in self.slices[busy] if low <= piece.other_cores <= high]

    def summary(self, operation: str, size: int, busy: bool) -> Times:
        """What has been timed in one state: in clean slices, where there are any."""
        clean = self.clean(busy)
        ordered = sorted(s for piece in clean or self.slices[busy] for s in piece.seconds)
        mean, median = sum(ordered) / len(ordered), quantile(ordered, 0.5)
        p95 = quantile(ordered, 0.95)
        return Times(operation, size, self.name, busy, len(ordered), median, mean, p95, bool(clean))


def measure(names: Sequence[str], sizes: Sequence[int], effort: Effort) -> list[Times]:
    """Times of every thread variant, quiet and busy."""
    found, rng, patience_s = [], random.Random(6), effort.patience_s
    for name in names:
        kernel = operations.find(name)
        assert isinstance(kernel, Kernel)
        for size in sizes:
            contestants = _contestants(kernel, size)
            both = [(one, busy) for one in contestants for busy in (False, True)]
            for _ in range(effort.slices):
                _turn(both, effort.slice_s, rng)
            while patience_s > 0.0 and (again := [(o, busy) for o, busy in both if len(o.clean(busy)) < effort.slices]):
                patience_s -= _turn(again, effort.slice_s, rng)
            found += [one.summary(name, size, busy) for one, busy in both]
    return found


def _turn(wanted: Sequence[tuple[Contestant, bool]], slice_s: float, rng: random.Random) -> float:
    """One slice of each, in random order, the quiet ones first; returns the seconds it took."""
    started, meter = time.perf_counter(), LoadMeter()
    shuffled = rng.sample(wanted, len(wanted))
    for one, _ in filter(lambda pair: not pair[1], shuffled):
        one.run(False, slice_s, meter)
    with neighbour():
        for one, _ in filter(lambda pair: pair[1], shuffled):
            one.run(True, slice_s, meter)
    return time.perf_counter() - started


def _contestants(kernel: Kernel, size: int) -> list[Contestant]:
    """All take the same input: the one with more axes where some variant's threads need it."""
    pairs = [p for p in families(kernel) if all(agreement.why_hole(kernel.variant(n), DTYPE) is None for n in p)]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    given = kernel.sample(np.random.default_rng(size), size, DTYPE)
    shapes = tuple(a.shape for a in given[0])
    if kernel.stack is not None and not all(_takes(kernel.variant(name), shapes, given[1]) for name in names):
        given = kernel.stack(np.random.default_rng(size), size, DTYPE)
    expected = kernel.variants[0].load()(*given[0], **given[1])
    return [Contestant(kernel, name, given, expected) for name in names]


def _takes(variant: Variant, shapes: Shapes, parameters: dict[str, Any]) -> bool:
    return variant.supports is None or variant.supports(shapes, parameters) is None


# ---- telling


def table(times: Sequence[Times]) -> list[str]:
    """Markdown: a line per variant and size, quiet and busy side by side."""
    lines = [
        "| operation | elements | variant | quiet: median | mean | p95 | busy: median | mean | p95 | mean, ratio |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for quiet, busy in zip(times[::2], times[1::2], strict=True):
        cells = [
            seconds_text(s) + ("" if t.clean else "*") for t in (quiet, busy) for s in (t.median_s, t.mean_s, t.p95_s)
        ]
        ratio = f"{busy.mean_s / quiet.mean_s:.2f}"
        lines.append(f"| {quiet.operation} | {quiet.size:.0e} | {quiet.variant} | {' | '.join(cells)} | {ratio} |")
    return lines


def policy_table(by_policy: dict[str, list[Times]]) -> list[str]:
    """Markdown: mean seconds of each variant under each OMP_WAIT_POLICY, quiet / busy."""
    heads = [policy or "as it comes" for policy in by_policy]
    lines = [
        f"| operation | elements | variant | {' | '.join(heads)} |",
        f"| --- | ---: | --- |{' ---: |' * len(heads)}",
    ]
    for at in range(0, len(next(iter(by_policy.values()))), 2):
        pairs = [times[at : at + 2] for times in by_policy.values()]
        cells = [" / ".join(seconds_text(t.mean_s) + ("" if t.clean else "*") for t in pair) for pair in pairs]
        about = pairs[0][0]
        lines.append(f"| {about.operation} | {about.size:.0e} | {about.variant} | {' | '.join(cells)} |")
    return lines


def under_policy(policy: str, arguments: Sequence[str]) -> list[Times]:
    """The same in a process that starts with OMP_WAIT_POLICY set."""
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environ.update({"OMP_WAIT_POLICY": policy} if policy else {})
    command = [sys.executable, "-m", "benchmarks.neighbour", "--json", "-", *arguments]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return [Times(**row) for row in json.loads(done.stdout)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbour", description=__doc__.splitlines()[0])
    parser.add_argument("operation", nargs="*", metavar="OPERATION", help=f"kernels (default: {', '.join(USUAL)})")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="elements, separated by commas")
    parser.add_argument("--policies", action="store_true", help="also under each OMP_WAIT_POLICY")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds to take disturbed slices again (120)")
    parser.add_argument("--quick", action="store_true", help="two calls of each; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - prints nothing else")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/threads.md")
    options = parser.parse_args(argv)
    if unknown := set(options.operation) - set(KERNELS):
        parser.error(f"unknown operations {sorted(unknown)}; there are: {', '.join(KERNELS)}")
    effort = Effort(1, 0.0, 0.0) if options.quick else Effort(SLICES, SLICE_S, options.patience)
    times = measure(options.operation or USUAL, [int(size) for size in options.sizes.split(",")], effort)
    if options.json is not None:
        text = json.dumps([asdict(t) for t in times], indent=1)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n", encoding="utf-8")
        if options.json == "-":
            return 0
    about = conditions()
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if n in ("numpy", "scipy", "numba", "torch"))
    clean = sum(t.clean for t in times)
    others = "nobody else took part" if clean == len(times) else "*: others took part, so the figures say little"
    head = f"- {about['date']}; {about['machine']}; {versions}; {DTYPE}"
    parts = [[head, f"- {clean} of {len(times)} measured with the neighbour alone, or nobody ({others})"], table(times)]
    if options.policies:
        names, policy_sizes = SHOWN_BY_POLICY
        arguments = [*names, "--sizes", ",".join(map(str, policy_sizes)), "--patience", str(options.patience / 3)]
        arguments += ["--quick"] if options.quick else []
        by_policy = {policy: under_policy(policy, arguments) for policy in POLICIES}
        parts += [["Mean of a call, quiet / busy, by OMP_WAIT_POLICY:"], policy_table(by_policy)]
    text = "\n\n".join("\n".join(lines) for lines in parts)
    print(text)
    if options.write:
        write_between_markers(PAGE, "neighbour", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
