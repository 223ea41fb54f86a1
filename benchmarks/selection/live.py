"""A stream of real calls on this machine, one policy after the other: python -m benchmarks.selection.live [--hog]

The calls are drawn uniformly over (operation, dtype) and then over the cells of a recorded matrix. Every policy makes
the very same calls in a new process, so that nothing is imported or compiled beforehand, and pays for all of it. With
--hog a neighbour computes on one thread through the middle third. What the oracle is, `live_figures` says.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pointsman.executors import registry
from pointsman.kernels import agreement
from pointsman.kernels.base import Kernel
from pointsman.selector import operations
from pointsman.selector.signature import detail_of
from pointsman.telemetry.load import LoadMeter

from ..report import write_between_markers
from ..timing import conditions
from . import streams
from .blocks import neighbour
from .live_figures import Result, figures, markdown, text
from .live_run import MARK, Input
from .matrix import Cell, Matrix
from .plan import LARGEST, ODD, grid
from .policies import ALWAYS, Fixed, Threshold, backends_of, simple_variants

ROOT = Path(__file__).parents[2]
MATRIX = Path(__file__).with_name("matrices") / "cpu2-quiet.json"
PAGE = Path(__file__).with_name("README.md")
OURS, AGAIN, THRESHOLD = "pointsman", "pointsman-second-run", "threshold"
POLICIES = (OURS, AGAIN, "always-numpy", "always-fftw", "always-torch", "always-numba", THRESHOLD)
LONGEST_S = 1.0  # cells whose default takes longer by the matrix are left out: a stream is to take a minute
NEAR = 2.0  # a variant that the matrix has within this factor of the best may be the best here and now
CALLS, BUDGET_S = 1500, 30.0


@dataclass(frozen=True)
class Course:
    """The calls that every policy makes.

    Attributes
    ----------
    matrix : what fixed policies are fitted on: the cells drawn from, with the variants that can run here.
    stream : the replay's form of the same calls, with the matrix's costs.
    cells, inputs : those that occur, and what to make of each.
    calls : by call, the number of its cell.
    hog : the calls that have a neighbour beside them.
    skipped : cells whose inputs this version makes otherwise.
    """

    matrix: Matrix
    stream: streams.Stream
    cells: tuple[Cell, ...]
    inputs: tuple[Input, ...]
    calls: tuple[int, ...]
    hog: range
    skipped: int

    @property
    def turns(self) -> list[tuple[int, int]]:
        """(call, neighbours from there on)."""
        return [(self.hog.start, 1), (self.hog.stop, 0)] if self.hog else []


# ---------------------------------------------------------------------------------------------------- what is called


def lay_out(matrix: Matrix, names: Sequence[str], calls: int, seed: int, *, hog: bool) -> Course:
    """Draw the calls over the cells that this machine can run in good time.

    Raises
    ------
    ValueError
        None of the cells is of these operations, short enough and known to this version.
    """
    cells, inputs, skipped = [], {}, 0
    for cell in matrix:
        here = [v for v in cell.timings if registry.available(matrix.backends[v].name) is None]
        if cell.operation not in names or not here or cell.timings[cell.default].mean_s >= LONGEST_S:
            continue
        if (one := input_of(cell)) is None:
            skipped += 1
            continue
        inputs[cell.key] = one
        cells.append(cell.only(here))
    if not cells:
        found = ", ".join(dict.fromkeys(cell.operation for cell in matrix))
        raise ValueError(f"{matrix.name} has no cell of {', '.join(names)} below {LONGEST_S} s; it has: {found}")
    kept = matrix.with_cells(cells)
    stream = streams.build("uniform", [kept], calls, seed)
    drawn = {step.cell.key: step.cell for step in stream}
    number = {key: place for place, key in enumerate(drawn)}
    return Course(
        kept, stream, tuple(drawn.values()), tuple(inputs[key] for key in drawn),
        tuple(number[step.cell.key] for step in stream),
        range(calls // 3, 2 * calls // 3) if hog else range(0), skipped,
    )  # fmt: skip


def input_of(cell: Cell) -> Input | None:
    """What makes arguments of the cell's very shapes and parameters; None where this version makes none like them."""
    kernel = operations.find(cell.operation)
    if not isinstance(kernel, Kernel):
        return None
    asked = sorted(grid(LARGEST, 3), key=lambda size: abs(size - cell.size))[:3]
    forms = ["", ODD[cell.operation][0]] if cell.operation in ODD else ["", "stacked"] if kernel.stack else [""]
    for form in forms:
        for size in dict.fromkeys((cell.size, *asked)):
            one = Input(cell.operation, cell.dtype, form, size)
            args, kwargs = one.make()
            plain = {name: value for name, value in kwargs.items() if not hasattr(value, "shape")}
            if agreement.shapes(args, kwargs) == cell.shapes and detail_of(plain) == cell.parameters:
                return one
    return None


def choices_of(policy: str, course: Course) -> list[str]:
    """What a fixed policy takes for each cell of the course.

    Where it has nothing, or what it would take was too slow to be recorded, it runs the operation's own default, as
    its user would; the matrix may say another, for want of a recording.

    Raises
    ------
    ValueError
        There is no such policy; names those that there are.
    """
    always = {ALWAYS + name: name for name in backends_of(course.matrix)}
    if policy == THRESHOLD:
        chooser: Any = Threshold(policy, course.matrix.cells, left_out=False)
    elif policy in always:
        chooser = Fixed(policy, simple_variants(course.matrix, always[policy]))
    else:
        raise ValueError(f"no policy {policy!r}; there are: {', '.join((OURS, AGAIN, THRESHOLD, *always))}")
    calls: dict[int, streams.Call] = {}
    for index, number in enumerate(course.calls):
        calls.setdefault(number, course.stream[index].call)
    usual = [one.kernel.variants[0].name for one in course.inputs]
    return [
        chooser.choose(replace(calls[number], variants=(default, *calls[number].variants), default=default))
        for number, default in enumerate(usual)
    ]


# ---------------------------------------------------------------------------------------------------- running them


def in_child(task: Mapping[str, Any], history: Path | None = None) -> Result:
    """Have a new process do `task`, with the neighbours that it asks for; its result.

    Raises
    ------
    RuntimeError
        The process ended without one; what it complained of is on stderr.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    with tempfile.TemporaryDirectory() as cache:
        # Compiling is part of what is compared: only a second run finds the history and what Numba keeps of the first.
        learns = history is not None and task["kind"] == "learning"
        environment["NUMBA_CACHE_DIR"] = str(history.with_suffix(".numba")) if history and learns else cache
        environment["POINTSMAN_HISTORY"] = str(history or Path(cache) / "unused.sqlite")
        command = [sys.executable, "-m", f"{__package__}.live_run"]
        # In a session of its own, so that Ctrl-C reaches only who can clean up.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT, text=True,
            start_new_session=True,
        ) as process, ExitStack() as neighbours:  # fmt: skip
            neighbours.callback(process.kill)
            return _followed(process, task, neighbours.enter_context(ExitStack()))


def _followed(process: subprocess.Popen[str], task: Mapping[str, Any], neighbours: ExitStack) -> Result:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(task) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if not line.startswith(MARK):
            continue
        told = json.loads(line.removeprefix(MARK))
        if "result" in told:
            result: Result = told["result"]
            return result
        neighbours.close()
        for _ in range(told["neighbours"]):
            neighbours.enter_context(neighbour())
        process.stdin.write("so it is\n")
        process.stdin.flush()
    ended = process.wait()
    raise RuntimeError(
        f"asked a process for a {task['kind']} run; found that it ended with {ended} before its result: see what it "
        "says above, or leave that policy out with --policies"
    )


def run(
    course: Course, policies: Sequence[str], rounds: int, seed: int, budget_s: float, say: Callable[[str], object],
    child: Callable[..., Result] = in_child,
) -> Result:  # fmt: skip
    """Run every policy `rounds` times in shuffled order, then time the contenders; what `figures` makes of it all."""
    fixed = {policy: choices_of(policy, course) for policy in policies if policy not in (OURS, AGAIN)}
    base: dict[str, Any] = {"inputs": course.inputs, "calls": course.calls, "turns": course.turns}
    rng, runs, load = random.Random(seed), defaultdict[str, list[Result]](list), []
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for policy in _ordered(policies, rng):
                say(f"round {turn + 1} of {rounds}: {policy}")
                if policy in fixed:
                    task = {**base, "kind": "fixed", "choices": fixed[policy]}
                else:
                    task = {**base, "kind": "learning"}
                meter = LoadMeter()
                meter.read()
                runs[policy].append(child(task, Path(folder) / "history.sqlite"))
                load.append(meter.read().other_cores)  # a neighbour of ours has ended, and counts as us
    say("timing the contenders")
    contenders = [contenders_of(cell) for cell in course.cells]
    turns = [(0, 0), (1, 1)] if course.hog else []
    task = {
        **base, "kind": "measuring", "turns": turns, "contenders": contenders, "phases": 2 if course.hog else 1,
        "budget_s": budget_s, "seed": seed,
    }  # fmt: skip
    measured = child(task)
    return figures(course, {policy: runs[policy] for policy in policies}, fixed, measured, load)


def _ordered(policies: Sequence[str], rng: random.Random) -> list[str]:
    """Shuffled, but the second run after the one whose history it has."""
    order = rng.sample(list(policies), len(policies))
    if AGAIN in order and order.index(AGAIN) < order.index(OURS):
        first, second = order.index(AGAIN), order.index(OURS)
        order[first], order[second] = order[second], order[first]
    return order


def contenders_of(cell: Cell) -> list[str]:
    """The variants that may be the best here and now, and the default."""
    within = NEAR * cell.timings[cell.best].mean_s
    return [name for name, timing in cell.timings.items() if timing.mean_s <= within or name == cell.default]


# ---------------------------------------------------------------------------------------------------- the command


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection.live", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=CALLS, help=f"length of the stream (default {CALLS})")
    parser.add_argument("--hog", action="store_true", help="a neighbour computes through the middle third")
    parser.add_argument("--matrix", type=Path, default=MATRIX, help=f"recorded costs (default {MATRIX.name})")
    parser.add_argument("--operations", help="comma-separated names (default: all of the matrix)")
    parser.add_argument(
        "--policies", default=",".join(POLICIES), help=f"comma-separated (default {','.join(POLICIES)})"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each policy, in shuffled order (default 1)")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_S, help=f"seconds of timing the contenders (default {BUDGET_S:g})"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON and nothing else")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to FILE as JSON")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    return parser


def main(argv: Sequence[str] | None = None, child: Callable[..., Result] = in_child) -> int:
    """Run and show; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    policies = list(dict.fromkeys(options.policies.split(",")))
    if min(options.calls, options.rounds) < 1:
        parser.error(f"found --calls {options.calls}, --rounds {options.rounds}; expected at least 1 of each")
    if AGAIN in policies and OURS not in policies:
        parser.error(f"{AGAIN} needs the history of {OURS}; ask for both")
    try:
        matrix = Matrix.load(options.matrix)
        recorded = dict.fromkeys(cell.operation for cell in matrix)
        names = options.operations.split(",") if options.operations else list(recorded)
        if unknown := [name for name in names if name not in recorded]:
            raise ValueError(f"{matrix.name} has no operation {', '.join(unknown)}; it has: {', '.join(recorded)}")
        course = lay_out(matrix, names, options.calls, options.seed, hog=options.hog)
        for policy in policies:
            if policy not in (OURS, AGAIN):
                choices_of(policy, course)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if course.skipped:
        say(f"{course.skipped} cells are left out: this version makes no inputs of their shapes and parameters")
    try:
        results = run(course, policies, options.rounds, options.seed, options.budget, say, child)
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        return 130
    except RuntimeError as error:
        say(str(error))
        return 1
    results["conditions"] = {
        **conditions(), "calls": options.calls, "cells": len(course.cells), "matrix": matrix.name, "hog": options.hog,
        "rounds": options.rounds, "seed": options.seed, "longest_s": LONGEST_S,
    }  # fmt: skip
    _put(results, options)
    return 0


def _put(results: Result, options: argparse.Namespace) -> None:
    whole = json.dumps(results, indent=1)
    if options.out is not None:
        options.out.write_text(whole + "\n", encoding="utf-8")
    if options.write:
        write_between_markers(PAGE, "live-busy" if options.hog else "live-quiet", markdown(results))
    print(whole if options.json else text(results))


if __name__ == "__main__":
    sys.exit(main())
