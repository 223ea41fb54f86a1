"""What came of a live run: totals of every policy and of the oracle, and how they are told.

The oracle is the one of the replay, over what was timed live: single calls of the best variants in shuffled rounds,
pooled with the warm calls of the fixed policies. It knows every mean, imports and compiles only what is worth it, and
pays for that once. Parts of a library that are imported later are free for it, and so are the first calls of what
never compiles. Its least of several measured means is a little too low, the more so the fewer the calls.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..report import seconds_text
from . import streams
from .matrix import Cell, Timing
from .oracle import Oracle
from .replay import replay

if TYPE_CHECKING:
    from .live import Course

Result = dict[str, Any]
Samples = dict[tuple[int, str, int], list[float]]  # cell, variant, neighbours -> seconds of warm calls
PARTS = ("import_s", "compile_s", "explore_s", "explored", "processor_s")


def figures(
    course: Course, runs: Mapping[str, Sequence[Result]], fixed: Mapping[str, Sequence[str]], measured: Result,
    load: Sequence[float],
) -> Result:  # fmt: skip
    """Totals and what they are made of, of every policy and of the oracle; medians over the rounds."""
    samples = pooled(course, runs, fixed, measured)
    trace = replay(Oracle(timed := live_stream(course, samples, measured)), timed, 0)
    cut = int(streams.LAST * len(course.calls))
    least_s, learned_s = float(trace.paid.sum()), float(trace.mean[cut:].sum())
    backend_of = {variant: backend.name for variant, backend in course.matrix.backends.items()}

    def shares(variants: Mapping[str, int]) -> dict[str, float]:
        calls: Counter[str] = Counter()
        for variant, count in variants.items():
            calls[backend_of.get(variant, variant.partition("/")[0])] += count
        return {name: round(count / max(calls.total(), 1), 4) for name, count in calls.most_common()}

    told = {}
    for policy, results in runs.items():
        totals = [sum(result["seconds"]) for result in results]
        last = statistics.median(sum(result["seconds"][cut:]) for result in results)
        variants = sum((Counter(result["variants"]) for result in results), Counter[str]())
        told[policy] = {
            "total_s": statistics.median(totals), "total_over_oracle": statistics.median(totals) / least_s,
            "learned_over_oracle": last / learned_s, "totals_s": totals,
            **{
                name: statistics.median(result[name] for result in results)
                for name in PARTS
            },
            "backends": shares(variants),
        }  # fmt: skip
    oracle = {
        "total_s": least_s, "learned_s": learned_s, "cold_s": float(trace.cold.sum()),
        "backends": shares(Counter(trace.variants())),
    }  # fmt: skip
    return {"oracle": oracle, "policies": told, "other_cores": [round(cores, 2) for cores in load]}


def pooled(
    course: Course, runs: Mapping[str, Sequence[Result]], fixed: Mapping[str, Sequence[str]], measured: Result
) -> Samples:
    """Warm calls of the contenders: those timed afterwards, and those that fixed policies made in the stream."""
    samples: Samples = {}
    for neighbours, rows in enumerate(measured["phases"]):
        for number, variant, seconds in rows:
            samples[number, variant, neighbours] = list(seconds)
    for policy, choices in fixed.items():
        for result in runs[policy]:
            seen: set[int] = set()
            for index, number in enumerate(course.calls):
                key = (number, choices[number], int(index in course.hog))
                if number in seen and key in samples:
                    samples[key].append(result["seconds"][index])
                seen.add(number)
    return samples


def live_stream(course: Course, samples: Samples, measured: Result) -> streams.Stream:
    """The course as a stream of the replay, every mean as it was found live."""
    first = {(number, variant): seconds for number, variant, seconds in measured["first"]}
    backends = {
        variant: backend._replace(import_s=measured["imports"].get(backend.name, backend.import_s))
        for variant, backend in course.matrix.backends.items()
    }

    def cell_of(number: int, neighbours: int) -> Cell:
        recorded, timings = course.cells[number], {}
        for variant, timing in recorded.timings.items():
            if (number, variant, neighbours) not in samples:
                continue
            mean = statistics.fmean(samples[number, variant, neighbours])
            compiles = backends[variant].compiles != "never"
            started = max(first[number, variant], mean) if compiles else mean
            timings[variant] = Timing(mean, mean, mean, started, 0.01, 0.0, 0.0, timing.error, timing.work)
        default = recorded.default if recorded.default in timings else next(iter(timings))
        return replace(recorded, timings=timings, default=default)

    truths = {
        (number, beside): cell_of(number, beside)
        for number, beside in {(number, int(index in course.hog)) for index, number in enumerate(course.calls)}
    }
    steps = []
    for index, (step, number) in enumerate(zip(course.stream, course.calls, strict=True)):
        cell = truths[number, int(index in course.hog)]
        call = replace(step.call, variants=cell.variants, default=cell.default, works=cell.works, backends=backends)
        steps.append(replace(step, call=call, cell=cell))
    matrix = replace(course.matrix, backends=backends).with_cells(truths.values())
    return replace(course.stream, name="live", matrix=matrix, steps=steps, imports=True)


# ---------------------------------------------------------------------------------------------------- telling


def rows_of(results: Result) -> list[list[str]]:
    """Head and rows as texts, by total, the oracle first."""
    oracle = results["oracle"]
    head = ["policy", "total", "/ oracle", "last fifth / oracle", "imports", "compiling", "trials", "calls"]
    lines = [head, ["oracle", seconds_text(oracle["total_s"]), "1", "1", *_cold(oracle), _calls(oracle["backends"])]]
    for policy, row in sorted(results["policies"].items(), key=lambda pair: pair[1]["total_s"]):
        low, high = min(row["totals_s"]), max(row["totals_s"])
        spread = f" ({low:.3g}-{high:.3g})" if len(row["totals_s"]) > 1 else ""
        trials = f"{row['explored']:.0f}, {seconds_text(row['explore_s'])}" if row["explored"] else ""
        lines.append(
            [
                policy, f"{row['total_s']:.3g} s{spread}", f"{row['total_over_oracle']:.3f}",
                f"{row['learned_over_oracle']:.3f}", seconds_text(row["import_s"]), seconds_text(row["compile_s"]),
                trials, _calls(row["backends"]),
            ]
        )  # fmt: skip
    return lines


def _cold(oracle: Result) -> tuple[str, str, str]:
    return f"{seconds_text(oracle['cold_s'])} with compiling", "", ""


def _calls(backends: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in backends.items() if share >= 0.005)


def about(results: Result) -> str:
    """The conditions, in a line."""
    said = results["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    beside = "a neighbour on one thread in the middle third" if said["hog"] else "nobody else meant to be there"
    return (
        f"{said['date']}; {said['machine']}; Python {said['python']}; {versions}; {said['calls']} calls over "
        f"{said['cells']} cells of {said['matrix']}, seed {said['seed']}, {said['rounds']} round(s); {beside}; others "
        f"used {statistics.median(results['other_cores'] or [0.0]):.2f} cores (median of the runs)"
    )


def markdown(results: Result) -> str:
    """The table for README.md."""
    head, *lines = ["| " + " | ".join(line) + " |" for line in rows_of(results)]
    return "\n".join([f"- {about(results)}", "", head, "|---" * 8 + "|", *lines])


def text(results: Result) -> str:
    """The table for a terminal."""
    lines = rows_of(results)
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([about(results), *table])
