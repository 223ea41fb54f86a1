"""`pointsman demo`: a mixed stream of real work on public-domain series, chosen call by call, learned from as it runs.

The stream runs once. Then every variant of every call is timed in interleaved rounds, results checked first, so that
the totals of the stream can be held against an oracle and against each single fixed backend on the same minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pointsman as pm
from pointsman import datasets

Array = np.ndarray[Any, Any]
SEED = 20
LEARNED_SHARE = 0.2
"""The last share of the stream counts as "once it has learned"."""
PATIENCE_S = 0.8
"""Seconds of timing that one variant of one job gets at most."""
LEAST_ROUNDS, MOST_ROUNDS = 4, 60
TOLERANCE = {"float64": 1e-8, "float32": 2e-3}


@pm.adaptive
def anomaly(x: Any, *, xp: Any = None) -> Any:
    """Standardised anomalies along the last axis."""
    x = x - xp.mean(x, axis=-1, keepdims=True)
    return x / xp.std(x, axis=-1, keepdims=True)


@pm.adaptive(pure=True)
def humidity(t: Any, *, xp: Any = None) -> Any:
    """Saturation specific humidity over water at `t` degrees C and 1013.25 hPa (Bolton 1980, eq. 10)."""
    vapour = 6.112 * xp.exp(17.67 * t / (t + 243.5))
    return 0.622 * vapour / (1013.25 - 0.378 * vapour)


OWN: dict[str, Any] = {"anomaly": anomaly, "humidity": humidity}


@dataclass
class Job:
    """One kind of call: what is computed on which data, and how often the stream asks for it."""

    title: str
    operation: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    calls: int = 100

    def run(self) -> Any:
        """The call as a user writes it."""
        own = OWN.get(self.operation)
        return own(*self.args) if own is not None else pm.run(self.operation, *self.args, **self.kwargs)

    def explain(self) -> pm.Decision:
        """What would run now, and why."""
        decision: pm.Decision = self.dispatcher.explain(*self.args, **self.kwargs)
        return decision

    @property
    def dispatcher(self) -> Any:
        """What makes the call."""
        own = OWN.get(self.operation)
        if own is not None:
            return own._dispatcher()
        return pm.default_selector().dispatcher(self.operation)


def jobs(quick: bool) -> list[Job]:
    """The stream's ingredients: spectra, fractional derivatives, convolutions, anomalies, matrices, of many sizes."""
    rng = np.random.default_rng(SEED)
    sst, sunspots = datasets.load("elnino"), datasets.load("sunspots")
    co2, nile = datasets.load("co2"), datasets.load("nile")
    scale = 10 if quick else 1

    def surrogates(x: Array, rows: int, block: int = 12) -> Array:
        """Block-bootstrap ensemble of a series (Kuensch 1989): the shape that significance tests work on."""
        starts = rng.integers(0, x.size - block, size=(rows, x.size // block))
        out: Array = x[(starts[..., None] + np.arange(block)).reshape(rows, -1)]
        return out

    def finer(x: Array, n: int) -> Array:
        return np.asarray(np.interp(np.linspace(0, x.size - 1, n), np.arange(x.size), x))

    def lagged(x: Array, window: int) -> Array:
        """Trajectory matrix of singular spectrum analysis (Broomhead and King 1986)."""
        view = np.lib.stride_tricks.sliding_window_view(x - x.mean(), window)
        return np.ascontiguousarray(view)

    hann = np.hanning(129) / np.hanning(129).sum()
    image = lagged(co2, 800)[:800].astype("float32")
    blur = np.outer(np.hanning(15), np.hanning(15)).astype("float32")
    out = [
        Job("Nile spectrum", "fft", (nile,), calls=800),
        Job("El Nino spectrum", "fft", (sst,), calls=600),
        Job("spectra, 64 surrogates", "fft", (surrogates(sst, 64),), calls=400),
        Job("spectra, 2 000, float32", "fft", (surrogates(co2, 2000).astype("float32"),), calls=400),
        Job("half derivative, sunspots", "derivative", (sunspots,), {"order": 0.5}, 500),
        Job("half derivative, 10 000", "derivative", (finer(co2, 10_000),), {"order": 0.5}, 300),
        Job("half derivative, 300 000", "derivative", (finer(co2, 300_000),), {"order": 0.5}, 240),
        Job("smoothing, sunspots", "conv", (sunspots, hann), {"mode": "same"}, 500),
        Job("smoothing, 500 000", "conv", (finer(co2, 500_000), hann), {"mode": "same"}, 600),
        Job("blur of an image, float32", "conv", (image, blur), {"mode": "same"}, 400),
        Job("anomalies, El Nino", "anomaly", (sst.reshape(61, 12).T,), calls=500),
        Job("anomalies, 400 surrogates", "anomaly", (surrogates(sst, 400),), calls=300),
        Job("anomalies, 4 000, float32", "anomaly", (surrogates(sst, 4000).astype("float32"),), calls=240),
        Job("humidity at El Nino", "humidity", (sst,), calls=500),
        Job("humidity, 2 000 surrogates", "humidity", (surrogates(sst, 2000),), calls=500),
        Job("covariance, 100 lags", "matmul", (lagged(sst, 100).T.copy(), lagged(sst, 100)), calls=400),
        Job("covariance, 900 lags", "matmul", (lagged(co2, 900).T.copy(), lagged(co2, 900)), calls=160),
        Job("transcendental, 2 000", "element_wise", (finer(sunspots / 50, 2_000),), calls=500),
        Job("transcendental, 1 000 000", "element_wise", (finer(sunspots / 50, 1_000_000),), calls=600),
        Job("power of 1 000 samples", "reduction", (finer(sst, 1_000),), calls=600),
        Job("power of 3 000 000", "reduction", (finer(sst, 3_000_000),), calls=900),
    ]
    for job in out:
        job.calls = max(2, job.calls // scale)
    return out


def stream(work: list[Job]) -> Iterator[Job]:
    """The calls in random order, the same one for every run."""
    order = [job for job in work for _ in range(job.calls)]
    return (order[i] for i in np.random.default_rng(SEED + 1).permutation(len(order)))


class InjectedFailure(MemoryError):
    """What the demo raises on purpose, in the place of the library."""


def survive_one_failure(say: Callable[[str], None]) -> None:
    """One listed failure, as a real out-of-memory would look, and the chain that survives it."""
    workload = pm.WorkloadCharacteristics.of("demo_survival", datasets.load("co2"))

    def fails() -> float:
        raise InjectedFailure("injected: no memory left for this array")

    selector = pm.default_selector()
    result = selector.execute_with_monitoring(
        "survival", "scipy", {"scipy": fails, "numpy": lambda: float(np.ptp(datasets.load("co2")))}, workload, ["numpy"]
    )
    why = dict(selector.decide(workload).excluded).get("scipy", "not yet held out")
    say(f"injected an out-of-memory on scipy: numpy took over and gave {result:.2f} ppm; scipy now: {why}")


def run_stream(work: list[Job], say: Callable[[str], None], tick: Callable[[], None]) -> dict[str, Any]:
    """Run the stream; returns seconds per job, in all and in its last part, and when choices changed."""
    selector = pm.default_selector()
    calls = list(stream(work))
    cut = int(len(calls) * (1 - LEARNED_SHARE))
    shown: dict[str, str] = {}
    seconds = np.zeros(len(calls))
    for index, job in enumerate(calls):
        started = time.perf_counter()
        job.run()
        seconds[index] = time.perf_counter() - started
        tick()
        if index % 50 == 49:
            for each in work:
                chosen = each.explain()
                if shown.get(each.title, chosen.default) != chosen.variant:
                    before = shown.get(each.title, chosen.default)
                    say(f"call {index + 1}: {each.title}: {before} -> {chosen.variant} ({chosen.rule})")
                shown[each.title] = chosen.variant
        if index == len(calls) // 3:
            survive_one_failure(say)
        if index == len(calls) // 2:
            chosen_now = Counter(each.explain().backend for each in work if each.explain().backend != "numpy")
            victim = chosen_now.most_common(1)[0][0] if chosen_now else "scipy"
            say(f"disabling {victim} for {len(calls) // 20} calls, as POINTSMAN_DISABLE={victim} would")
            pm.configure(disable=[victim])
        if index == len(calls) // 2 + len(calls) // 20:
            pm.configure(disable=[])
            say(f"{victim} is allowed again")
    selector.flush()
    return {"calls": calls, "seconds": seconds, "cut": cut}


def measure(work: list[Job], budget_s: float, tick: Callable[[float], None]) -> dict[str, dict[str, float]]:
    """Mean seconds of every variant of every job, and of pointsman itself; results are checked first.

    Single calls in random order, as in the stream: a call repeated in a row finds its data in the cache. Calls through
    pointsman are timed like the others, so both sides see the same minutes.
    """
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for job in work:
        runner = job.dispatcher
        request = runner.request(job.args, job.kwargs)
        choice = runner.engine.choose(request)
        default = choice.variants[choice.decision.default]  # the conformance suite holds it against the reference
        want = np.asarray(runner.prepared(default, request, job.args, job.kwargs).call(*job.args, **job.kwargs))
        scale = float(np.max(np.abs(want))) or 1.0
        for name, variant in choice.variants.items():
            if not _worth_timing(choice, name):
                continue
            bound = partial(runner.prepared(variant, request, job.args, job.kwargs).call, *job.args, **job.kwargs)
            error = float(np.max(np.abs(np.asarray(bound()) - want))) / scale
            if error <= TOLERANCE.get(request.dtype, 1e-8):
                calls[job.title, name] = bound
        calls[job.title, "pointsman"] = job.run
    times: dict[tuple[str, str], list[float]] = {pair: [] for pair in calls}
    begins = time.perf_counter()
    rng = np.random.default_rng(SEED + 2)
    for round_ in range(MOST_ROUNDS):
        for index in rng.permutation(len(calls)):
            pair = list(calls)[index]
            row = times[pair]
            if row and sum(row) > PATIENCE_S:
                continue  # a slow loser has had its share of the time
            started = time.perf_counter()
            calls[pair]()
            row.append(time.perf_counter() - started)
            tick(time.perf_counter() - begins)
        if time.perf_counter() - begins > budget_s and round_ >= LEAST_ROUNDS:
            break
    table: dict[str, dict[str, float]] = {}
    for (title, name), row in times.items():
        table.setdefault(title, {})[name] = statistics.fmean(row)
    return table


def _worth_timing(choice: Any, name: str) -> bool:
    """A quadratic algorithm at a size where its declared work rules it out is not run for show.

    The default always is timed: all the others are held against it.
    """
    found = choice.decision.candidate(name)
    return name == choice.decision.default or (found is not None and found.prediction.low < 0.5)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pointsman demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls (for tests)")
    parser.add_argument("--budget", type=float, default=45.0, help="seconds for timing every variant (default 45)")
    options = parser.parse_args(argv)
    from pointsman.demo_report import report
    from pointsman.demo_significance import significance
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console()
    selector = pm.default_selector()
    before = selector.get_performance_summary()["total_records"]
    console.print(
        f"[bold]pointsman demo[/] on this machine; history: {selector.history.location}\n"
        + (f"starting from {before:,} outcomes learned earlier" if before else "starting with an empty history")
    )
    work = jobs(options.quick)
    at_first = {job.title: job.explain() for job in work}
    first = {title: decision.variant for title, decision in at_first.items()}
    known = sum(any(c.prediction.source == "measured" for c in d.candidates) for d in at_first.values())
    console.print(f"measured on this machine already: {known} of the {len(work)} jobs")
    n = sum(job.calls for job in work)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("running the stream", total=n)
        ran = run_stream(work, progress.console.print, lambda: progress.advance(task))
        budget_s = 3.0 if options.quick else options.budget
        timing = progress.add_task("checking and timing every variant, seconds", total=round(budget_s))
        table = measure(
            work, budget_s, lambda spent_s: progress.update(timing, completed=min(int(spent_s), round(budget_s)))
        )
    significance(console, 160 if options.quick else 2000)
    report(console, work, ran, table, first, before)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
