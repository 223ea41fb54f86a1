"""What a chain gains: `python -m benchmarks.chains [--quick] [--json FILE]`.

The pipeline fft -> multiply by a kept spectrum -> inverse fft -> sum of squares, on NumPy input: the learned chain, the
same steps as single calls, and the whole written by hand in NumPy and in torch. Answers are checked before anything is
timed; then all four run in turn, in random order, and the medians are compared. Losses are shown as they are.
Nothing of the user's own is read or written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pointsman as pm

from .timing import Effort, conditions, confirm

SHAPES: tuple[tuple[int, ...], ...] = ((1000,), (10_000,), (100_000,), (1_000_000,), (64, 1000), (64, 16_384))
DTYPES = ("float32", "float64")
TOLERANCES = {"float32": 1e-4, "float64": 1e-10}
LEARNING_S, LEARNING_CALLS = 4.0, 200
"""Each signature is learned for at least so long, and for so many calls."""
HAND = ("numpy", "torch")


@dataclass(frozen=True)
class Row:
    """Seconds of one signature, four ways; the ratios are medians over rounds of neighbouring runs."""

    shape: tuple[int, ...]
    dtype: str
    seconds: dict[str, float]  # medians
    quickest: dict[str, float]  # of all rounds: what a machine without neighbours would give
    against: dict[str, float]  # other way -> how many times longer it takes than the chain
    places: tuple[str, ...]
    variants: tuple[str, ...]


def ways(selector: pm.IntelligentBackendSelector, gain: np.ndarray[Any, Any]) -> dict[str, Callable[[Any], Any]]:
    """The pipeline four ways, each a function of one NumPy array."""
    import torch

    @pm.adaptive(name="bench_filter", pure=True, selector=selector)
    def multiply(spectrum: Any, gain: Any, *, xp: Any = None) -> Any:  # noqa: ARG001
        return spectrum * gain

    @pm.adaptive(name="bench_inverse", pure=True, selector=selector)
    def inverse(spectrum: Any, *, xp: Any = None) -> Any:
        return xp.fft.irfft(spectrum)

    chain = pm.chain("fft", pm.step(multiply, gain), inverse, "reduction", selector=selector)
    kept, threads = torch.from_numpy(gain), torch.get_num_threads()

    def single_calls(x: Any) -> Any:
        return selector.run("reduction", inverse(multiply(selector.run("fft", x), gain)))

    def in_numpy(x: Any) -> Any:
        y = np.fft.irfft(np.fft.rfft(x) * gain).ravel()
        return np.dot(y, y)

    def in_torch(x: Any) -> Any:
        torch.set_num_threads(threads)  # Numba's OpenMP layer resets the count for everybody in the process
        y = torch.fft.irfft(torch.fft.rfft(torch.from_numpy(x)) * kept).ravel()
        return torch.dot(y, y).numpy()[()]

    return {"chain": chain, "single calls": single_calls, "numpy by hand": in_numpy, "torch by hand": in_torch}


def bench(shape: tuple[int, ...], dtype: str, selector: pm.IntelligentBackendSelector, effort: Effort) -> Row:
    """One row: check, learn, compare."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype(dtype)
    gain = np.exp(-np.linspace(0.0, 3.0, shape[-1] // 2 + 1)).astype(dtype)
    named = ways(selector, gain)
    wide = np.fft.irfft(np.fft.rfft(x.astype(np.float64)) * gain.astype(np.float64))
    want = float(np.sum(wide * wide))
    until, calls = time.perf_counter() + effort.block_s * LEARNING_S / Effort().block_s, 0
    while time.perf_counter() < until or calls < min(LEARNING_CALLS, effort.rounds):
        named["chain"](x), named["single calls"](x)
        calls += 1
        if calls % 50 == 0:
            selector.flush()
    selector.flush()
    for name, way in named.items():
        for _ in range(3):
            found = float(way(x))
            confirm(f"{name} {shape} {dtype}", abs(found - want) <= TOLERANCES[dtype] * want, found - want)
    selector.freeze()
    try:
        taken = _interleaved(named, x, effort)
    finally:
        selector.thaw()
    route = named["chain"].explain(x)  # type: ignore[attr-defined]
    against = {
        name: statistics.median(a / b for a, b in zip(taken[name], taken["chain"], strict=True))
        for name in named if name != "chain"
    }  # fmt: skip
    return Row(
        shape, dtype, {name: statistics.median(times) for name, times in taken.items()},
        {name: min(times) for name, times in taken.items()}, against,
        tuple(leg.place for leg in route.legs), tuple(leg.variant for leg in route.legs),
    )  # fmt: skip


def _interleaved(named: dict[str, Callable[[Any], Any]], x: Any, effort: Effort) -> dict[str, list[float]]:
    """Seconds a call, one number per round; the order is another one in each."""
    taken: dict[str, list[float]] = {name: [] for name in named}
    order = list(named)
    for _ in range(effort.rounds):
        effort.rng.shuffle(order)
        for name in order:
            way, many = named[name], 0
            started = time.perf_counter()
            while True:
                way(x)
                many += 1
                ended = time.perf_counter()
                if ended - started >= effort.block_s:
                    break
            taken[name].append((ended - started) / many)
    return taken


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, and how many times longer the other ways take: below one the chain loses."""
    names = list(rows[0].seconds)
    lines = [
        f"| shape | dtype | {' | '.join(f'{name}, ms' for name in names)} | "
        f"{' | '.join(f'{name} / chain' for name in rows[0].against)} | data in |",
        "|" + "---|" * (3 + len(names) + len(rows[0].against)),
    ]
    for row in rows:
        seconds = " | ".join(f"{row.seconds[name] * 1e3:.3g}" for name in names)
        ratios = " | ".join(f"{ratio:.2f}" for ratio in row.against.values())
        lines.append(
            f"| {'x'.join(map(str, row.shape))} | {row.dtype} | {seconds} | {ratios} | {', '.join(row.places)} |"
        )
    for name in rows[0].against:
        mean = statistics.geometric_mean(row.against[name] for row in rows)
        worst = min(row.against[name] for row in rows)
        lines.append(f"\n{name} / chain: geometric mean {mean:.2f}, where the chain does worst {worst:.2f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; losses do not change the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chains", description="Measure what a chain gains.")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures as JSON too")
    arguments = parser.parse_args(argv)
    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        del os.environ[name]
    import jax  # noqa: F401 - imported ahead, so that no import is waited for: what is compared is converged choices

    effort = Effort.quick() if arguments.quick else Effort(rounds=60, block_s=5e-3)
    selector = pm.IntelligentBackendSelector(history=":memory:")
    shapes = SHAPES[:1] if arguments.quick else SHAPES
    rows = [bench(shape, dtype, selector, effort) for dtype in DTYPES for shape in shapes]
    sys.stdout.write(table(rows) + "\n")
    if arguments.json is not None:
        report = {"conditions": conditions(), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
