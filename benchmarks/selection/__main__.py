"""`python -m benchmarks.selection MATRIX...`: replay streams of calls over recorded cost matrices against policies."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import streams
from .matrix import CONTEXTS, Matrix, join
from .measures import measure
from .replay import Draws, Policy, Trace, replay

CALLS = 20_000
LEAST_CALLS = 20  # of each phase of a stream the last fifth is judged, and must not be empty
ORACLE, FIXED = "oracle", ("always", "best-fixed")  # how the names of fixed policies begin
COLUMNS = (
    "total_over_oracle", "regret_geomean", "regret_p95", "regret_max", "harm_rate", "harm_worst", "closed_gap",
    "learning_cost_s", "recovery_calls", "coverage", "decisions_per_s",
)  # fmt: skip
Factory = Callable[[Matrix, streams.Stream], Policy]
Results = dict[str, dict[str, dict[str, float]]]


def policies(matrices: Sequence[Matrix]) -> dict[str, Factory]:
    """Every policy there is for these matrices, ours first where it can be imported.

    A factory takes the matrix that a stream is made of and the stream itself (a sequence of steps), which only policies
    that know everything look at.
    """
    try:
        ours = importlib.import_module(f"{__package__}.ours").table()
    except ModuleNotFoundError as error:  # a replay of other policies needs no pointsman
        if error.name not in (f"{__package__}.ours", "pointsman"):
            raise
        ours = {}
    return {**ours, **importlib.import_module(f"{__package__}.policies").table(matrices)}


def machines(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """The matrices of each machine and number of threads, joined by context, quiet before busy."""
    found: dict[str, list[Matrix]] = {}
    for matrix in join(matrices):
        found.setdefault(matrix.same, []).append(matrix)
    return [sorted(group, key=lambda matrix: CONTEXTS.index(matrix.context)) for group in found.values()]


def traces(
    stream: streams.Stream, table: Mapping[str, Factory], names: Sequence[str], seed: int
) -> Iterator[tuple[str, Trace]]:
    """Replay the named policies, one after the other, with the same draws."""
    draws = Draws(stream, seed)
    for name in names:
        yield name, replay(table[name](stream.matrix, stream), stream, seed, draws=draws)


def measured(
    stream: streams.Stream, table: Mapping[str, Factory], asked: Sequence[str], seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, Trace]]:
    """Measures and traces of the policies asked for; the oracle and the fixed ones are replayed in any case."""
    needed = [name for name in table if name in asked or name == ORACLE or name.startswith(FIXED)]
    done = dict(traces(stream, table, needed, seed))
    always = {name: trace for name, trace in done.items() if name.startswith(FIXED)}
    return {name: measure(done[name], done[ORACLE], always) for name in asked}, done


def main(argv: Sequence[str] | None = None) -> int:
    """Replay and show; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__)
    parser.add_argument("matrices", nargs="+", metavar="MATRIX", help="JSON files of recorded costs")
    parser.add_argument("--policy", action="append", metavar="NAME", help="only these policies (may be repeated)")
    parser.add_argument("--stream", action="append", metavar="NAME", help="only these streams (may be repeated)")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"length of a stream (default {CALLS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true", help="with everything imported and compiled before the stream")
    parser.add_argument("--json", action="store_true", help="print {stream: {policy: measures}} and nothing else")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw figures into this folder")
    options = parser.parse_args(argv)
    if options.calls < LEAST_CALLS:
        parser.error(f"found --calls {options.calls}; expected at least {LEAST_CALLS}")
    if options.seed < 0:
        parser.error(f"found --seed {options.seed}; expected 0 or more")
    if options.figures is not None and (why := _no_figures(options.figures)):
        parser.error(f"--figures {options.figures}: {why}")
    try:
        loaded = [Matrix.load(path) for path in options.matrices]
        groups = machines([matrix.warmed() for matrix in loaded] if options.warm else loaded)
    except ValueError as error:
        parser.error(str(error))
    table = policies([matrix for group in groups for matrix in group])
    asked = options.policy or list(table)
    for kind, given, known in (("policy", asked, list(table)), ("stream", options.stream or [], list(streams.STREAMS))):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error(f"no {kind} {', '.join(map(repr, unknown))}; there are: {', '.join(known)}")
    for name in options.stream or ():
        short = [group[0].name for group in groups if name not in streams.possible(group)]
        if len(short) == len(groups):
            parser.error(f"{', '.join(short)} does not suffice for the stream {name!r}: {streams.NEEDS[name]}")
        for lacking in short:  # a machine that has enough is no worse for one beside it that has not
            print(f"{lacking}: no stream {name!r}: {streams.NEEDS[name]}", file=sys.stderr)
    results = _all(groups, table, asked, options)
    if options.json:
        json.dump(_plain(results), sys.stdout, indent=1)
        sys.stdout.write("\n")
    return 0


def _all(groups: list[list[Matrix]], table: Mapping[str, Factory], asked: list[str], options: Any) -> Results:
    results: Results = {}
    for number, group in enumerate(groups):
        possible = streams.possible(group)
        for name in [name for name in options.stream or possible if name in possible]:
            stream = streams.build(name, group, options.calls, options.seed)
            # One machine's streams go by their plain names; those of a further one say which.
            label = name if number == 0 else f"{name}@{group[0].name}"
            results[label], done = measured(stream, table, asked, options.seed)
            if not options.json:
                print(_table(label, stream, results[label]), flush=True)
            if options.figures is not None:
                _draw(options.figures, label, done)
    return results


def _no_figures(folder: Path) -> str:
    """Why no figures can be drawn into `folder`, found before anything is replayed; "" where they can."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is missing; pip install matplotlib"
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        return f"{there} is no folder; give one, or a name that is free"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written; give another folder"


def _draw(folder: Path, label: str, done: Mapping[str, Trace]) -> None:
    """Figures need matplotlib, so their module is loaded only where they are asked for."""
    importlib.import_module(f"{__package__}.figures").draw(folder, label, done)


def _table(label: str, stream: streams.Stream, rows: Mapping[str, Mapping[str, float]]) -> str:
    wide = max(map(len, rows))
    heads = [name.replace("_", " ") for name in COLUMNS]
    lines = [f"\n{label}: {len(stream)} calls, {stream.tables.cells} cells, {stream.matrix.name}"]
    lines.append(f"{'':<{wide}}  " + "  ".join(heads))
    for name, row in rows.items():
        cells = (f"{_number(row[column]):>{len(head)}}" for column, head in zip(COLUMNS, heads, strict=True))
        lines.append(f"{name:<{wide}}  " + "  ".join(cells))
    return "\n".join(lines)


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.2g}"


def _plain(results: Results) -> Any:
    """JSON has no nan: null stands for a measure that has nothing to go by."""
    return {
        stream: {
            policy: {name: value if math.isfinite(value) else None for name, value in row.items()}
            for policy, row in rows.items()
        }
        for stream, rows in results.items()
    }


if __name__ == "__main__":
    sys.exit(main())
