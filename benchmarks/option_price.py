"""The price of an option, simulated on every map executor: `python -m benchmarks.option_price`.

A European call under geometric Brownian motion, once with NumPy and once in plain Python, against the closed form of
Black and Scholes (1973). Each figure comes from a fresh process with an empty history: the first run pays for imports
and for the start of workers, the second finds them there. The executors take turns, round after round; of each, the
median. The answers are compared first: all must be the same to the last bit, and near the closed form. `--write` puts
the table into docs/monte-carlo-examples.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pointsman as pm
from pointsman.executors import registry
from pointsman.executors.mapping import map_methods

from .report import seconds_text, write_between_markers
from .timing import conditions, confirm

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "monte-carlo-examples.md"
OPTION = (100.0, 105.0, 0.03, 0.2, 1.0)
"""Spot, strike, interest and volatility a year, years."""
ROUNDS, JOBS = 3, 2
PATIENCE_S = 300.0


def simulated_price(seed, spot, strike, rate, volatility, years, paths):  # the docs show it as it is
    """The mean discounted payoff of so many paths."""
    z = np.random.default_rng(seed).standard_normal(paths)
    end = spot * np.exp((rate - volatility**2 / 2) * years + volatility * np.sqrt(years) * z)
    return float(np.exp(-rate * years) * np.maximum(end - strike, 0.0).mean())


def plain_price(
    seed: Any, spot: float, strike: float, rate: float, volatility: float, years: float, paths: int
) -> float:  # fmt: skip
    """The same without NumPy: a loop that holds the interpreter lock."""
    draw = random.Random(int.from_bytes(seed.generate_state(4).tobytes(), "little")).gauss
    drift, scale, total = (rate - volatility**2 / 2) * years, volatility * math.sqrt(years), 0.0
    for _ in range(paths):
        total += max(spot * math.exp(drift + scale * draw(0.0, 1.0)) - strike, 0.0)
    return math.exp(-rate * years) * total / paths


WORKERS = {"NumPy": (simulated_price, 30_000, 10_000), "Python": (plain_price, 6000, 1000)}
"""name -> (worker, simulations, paths of each); about 3 s in place."""


def black_scholes(spot: float, strike: float, rate: float, volatility: float, years: float) -> float:
    """The price by the closed form (Black and Scholes, 1973, eq. 13)."""
    phi, spread = NormalDist().cdf, volatility * math.sqrt(years)
    d = (math.log(spot / strike) + (rate + volatility**2 / 2) * years) / spread
    return spot * phi(d) - strike * math.exp(-rate * years) * phi(d - spread)


def ways() -> list[str]:
    """ "auto", and each way in which a backend that is installed here maps."""
    return ["auto", *(name for name, executor, _ in map_methods() if registry.available(executor.name) is None)]


def once(backend: str, worker: str, share: float) -> dict[str, Any]:
    """Run twice in this process: seconds of the first and the second run, what they gave, and where they ran."""
    function, simulations, paths = WORKERS[worker]
    n, seconds, found = max(2, round(simulations * share)), [], []
    for _ in range(2):
        began = time.perf_counter()
        price, info = pm.run_monte_carlo(
            function, n, (*OPTION, paths), seed=1, reduce="mean", leaf_size=64, backend=backend, n_jobs=JOBS,
            return_info=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
        found.append([price.mean, price.standard_error])
    confirm(f"{backend}, {worker}", found[0] == found[1], found)
    return {"seconds": seconds, "price": found[0], "variant": info.variant}


def in_a_fresh_process(backend: str, worker: str, share: float) -> dict[str, Any]:
    """What `once` gives there, with an empty history."""
    with tempfile.TemporaryDirectory() as folder:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.option_price", "--once", backend, worker, repr(share)], cwd=ROOT,
            env={**clean, "POINTSMAN_HISTORY": folder}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    confirm(f"{backend}, {worker}", done.returncode == 0, done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(rounds: int, share: float) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """worker -> backend -> what each round gave; prices compared with one another and with the closed form."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {worker: {way: [] for way in ways()} for worker in WORKERS}
    exact = black_scholes(*OPTION)
    for _ in range(rounds):
        for worker, by_way in found.items():
            for way in random.sample(list(by_way), len(by_way)):
                by_way[way].append(in_a_fresh_process(way, worker, share))
    for worker, by_way in found.items():
        prices = {tuple(run["price"]) for runs in by_way.values() for run in runs}
        confirm(f"{worker}: one price", len(prices) == 1, prices)
        ((price, error),) = prices
        confirm(f"{worker}: the closed form", abs(price - exact) < 5 * error, (price, error, exact))
    return found


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> list[str]:
    """Markdown: a row for each way, and for each worker the first run, the second, and what the second gained."""
    head = [f"{worker}: first run | second run | x sequential" for worker in found]
    lines = [f"| where | {' | '.join(head)} |", "|---|" + "---:|" * (3 * len(found))]
    for way in ways():
        cells = []
        for by_way in found.values():
            first, again = (statistics.median(run["seconds"][i] for run in by_way[way]) for i in (0, 1))
            base = statistics.median(run["seconds"][1] for run in by_way["sequential"])
            cells += [seconds_text(first), seconds_text(again), f"{base / again:.2f}"]
        chosen = sorted({run["variant"] for by_way in found.values() for run in by_way[way]})
        where = f"`auto`, which took {', '.join(f'`{name}`' for name in chosen)}" if way == "auto" else f"`{way}`"
        lines.append(f"| {where} | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.option_price", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of few simulations; the figures mean nothing")
    parser.add_argument("--write", action="store_true", help="put the table into docs/monte-carlo-examples.md")
    parser.add_argument("--once", nargs=3, metavar=("BACKEND", "WORKER", "SHARE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.once:
        backend, worker, share = options.once
        print(json.dumps(once(backend, worker, float(share))))
        return 0
    found = measure(1, 0.01) if options.quick else measure(ROUNDS, 1.0)
    about = conditions()
    amounts = ", ".join(f"{name} {n} simulations of {paths} paths" for name, (_, n, paths) in WORKERS.items())
    head = f"- {about['date']}; {about['machine']}; {JOBS} workers; {amounts}; medians of {ROUNDS} fresh processes"
    text = "\n".join([head, "", *table(found)])
    print(text)
    if options.write:
        write_between_markers(PAGE, "option price", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
