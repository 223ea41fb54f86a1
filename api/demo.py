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


def measure(work: list[Job], budget_s: float, tick: Callable[[], None]) -> dict[str, dict[str, float]]:
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
        tick()
    times: dict[tuple[str, str], list[float]] = {pair: [] for pair in calls}
    ends = time.perf_counter() + budget_s
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
        if time.perf_counter() > ends and round_ >= LEAST_ROUNDS:
            break
    table: dict[str, dict[str, float]] = {}
    for (title, name), row in times.items():
        table.setdefault(title, {})[name] = statistics.fmean(row)
    return table


def _worth_timing(choice: Any, name: str) -> bool:
    """A quadratic algorithm at a size where its declared work rules it out is not run for show."""
    found = choice.decision.candidate(name)
    return found is not None and found.prediction.low < 0.5


def totals(work: list[Job], table: dict[str, dict[str, float]]) -> list[tuple[str, float, str]]:
    """Seconds of the whole stream under each policy, from the same table of times."""
    count = {job.title: job.calls for job in work}
    rows = []

    def total(pick: Callable[[str], float]) -> float:
        return sum(count[title] * pick(title) for title in table)

    rows.append(("oracle: the fastest checked variant of each call", total(lambda t: _best(table[t])), ""))
    rows.append(("pointsman, learned (its own overhead included)", total(lambda t: table[t]["pointsman"]), ""))
    backends = sorted({name.partition("/")[0] for row in table.values() for name in row} - {"pointsman"})
    for backend in backends:
        lacking = [t for t in table if _of_backend(table[t], backend) is None]
        note = f"NumPy for {len(lacking)} of {len(table)} jobs that it lacks" if lacking else ""
        rows.append((f"always {backend}", total(partial(_always, table, backend)), note))
    return rows


def _always(table: dict[str, dict[str, float]], backend: str, title: str) -> float:
    """Seconds of a job on this backend whatever happens; NumPy's where the backend cannot do it."""
    return _of_backend(table[title], backend) or _numpy(table[title])


def _best(row: dict[str, float]) -> float:
    return min(seconds for name, seconds in row.items() if name != "pointsman")


def _of_backend(row: dict[str, float], backend: str) -> float | None:
    """The backend's plain variant, else the best of its variants: the kindest reading of "always"."""
    own = [s for name, s in row.items() if name.partition("/")[0] == backend]
    return min(own) if own else None


def _numpy(row: dict[str, float]) -> float:
    return _of_backend(row, "numpy") or max(row.values())


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pointsman demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls (for tests)")
    parser.add_argument("--budget", type=float, default=45.0, help="seconds for timing every variant (default 45)")
    options = parser.parse_args(argv)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(width=max(Console().width, 110))
    selector = pm.default_selector()
    before = selector.get_performance_summary()["total_records"]
    console.print(
        f"[bold]pointsman demo[/] on this machine; history: {selector.history.location}\n"
        + (f"starting from {before:,} outcomes learned earlier" if before else "starting with an empty history")
    )
    work = jobs(options.quick)
    first = {job.title: job.explain().variant for job in work}
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
        timing = progress.add_task("checking and timing every variant", total=len(work))
        table = measure(work, 3.0 if options.quick else options.budget, lambda: progress.advance(timing))
    report(console, work, ran, table, first, before)
    return 0


def report(
    console: Any, work: list[Job], ran: dict[str, Any], table: dict[str, dict[str, float]], first: dict[str, str],
    before: int,
) -> None:  # fmt: skip
    """Print what was chosen, what it took against the others, and what learning cost."""
    from rich.table import Table

    chosen = Table(title="what is chosen now", title_justify="left")
    for heading in ("job", "calls", "at the start", "now", "takes", "best of all", "NumPy"):
        right = heading in ("calls", "takes", "NumPy")
        chosen.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for job in work:
        decision, row = job.explain(), table[job.title]
        best = min((s, name) for name, s in row.items() if name != "pointsman")
        chosen.add_row(
            job.title, str(job.calls), first[job.title], decision.variant,
            _time(row["pointsman"]), f"{_time(best[0])} {best[1]}", _time(_numpy(row)),
        )  # fmt: skip
    console.print(chosen)
    rows = totals(work, table)
    oracle = rows[0][1]
    out = Table(title=f"the stream's {len(ran['calls']):,} calls under each policy, seconds", title_justify="left")
    for heading in ("policy", "seconds", "x oracle", ""):
        out.add_column(heading, justify="right" if heading in ("seconds", "x oracle") else "left")
    for name, seconds, note in rows:
        out.add_row(name, f"{seconds:.3f}", f"{seconds / oracle:.3f}", note)
    spent = float(ran["seconds"].sum())
    out.add_row(
        "pointsman, this run, learning included", f"{spent:.3f}", f"{spent / oracle:.3f}", "imports, compiling, trials"
    )
    console.print(out)
    _paid_back(console, ran, table, rows)
    summary = pm.default_selector().get_performance_summary()
    ledger = summary["exploration"]
    console.print(
        f"learning: {ledger['trials']:.0f} trials, {ledger['explored_s']:.2f} s lost in them, "
        f"{ledger['earned_by_exploring_s']:.2f} s gained; allowance {ledger['allowance_s']:.0f} s, "
        f"overshoot {ledger['overshoot_s']:.2f} s\n"
        f"records: {summary['total_records']:,} in the history ({before:,} of them from before this run)\n"
        f"history: {summary['history']['location']}  (see `pointsman summary`, `pointsman explain`)"
    )


def _paid_back(console: Any, ran: dict[str, Any], table: dict[str, dict[str, float]], rows: Any) -> None:
    """After how many calls learning had paid for itself, against the best single backend."""
    fixed = min((r for r in rows if r[0].startswith("always")), key=lambda r: r[1])
    backend = fixed[0].removeprefix("always ")
    other = np.array([_always(table, backend, job.title) for job in ran["calls"]])
    default = np.array([_numpy(table[j.title]) for j in ran["calls"]])
    for name, costs in ((f"always {backend}, the best single backend", other), ("always numpy", default)):
        ahead = np.cumsum(costs) - np.cumsum(ran["seconds"])
        behind = np.nonzero(ahead < 0)[0]
        if ahead[-1] >= 0:
            last = int(behind[-1]) + 2 if behind.size else 1
            console.print(
                f"learning paid for itself against {name} after {last:,} calls; ahead by {ahead[-1]:.2f} s at the end"
            )
        else:
            lead = float(np.mean(costs[ran["cut"] :] - ran["seconds"][ran["cut"] :]))
            more = f"{-ahead[-1] / lead:,.0f} more calls like the last ones" if lead > 0 else "never at this rate"
            console.print(
                f"learning has not yet paid for itself against {name}: {-ahead[-1]:.2f} s behind; it will after {more}"
            )


def _time(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


if __name__ == "__main__":
    raise SystemExit(main())
