"""The command line: `pointsman backends | explain | run | agreement | calibrate | summary | history | lock | demo`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pointsman import __version__, cli_calibrate, cli_lock
from pointsman.cli_inputs import (
    SHAPE_HELP,
    WrongUseError,
    fitting,
    parse_count,
    parse_dtype,
    parse_operation,
    parse_parameter,
    parse_seconds,
    parse_shapes,
    random,
    shapes_of,
    usual,
    zeros,
)
from pointsman.executors import registry
from pointsman.executors.errors import PointsmanError
from pointsman.selector import operations, settings
from pointsman.telemetry.files import obstacle

Handler = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for wrong use, 130 if interrupted.

    Parameters
    ----------
    argv : arguments without the program's name; None takes the process's.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    handler: Handler = arguments.handler
    try:
        try:
            settings.current()
        except ValueError as error:
            raise WrongUseError(str(error)) from error
        return handler(arguments)
    except WrongUseError as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return 2
    except (PointsmanError, MemoryError) as error:
        print(f"pointsman: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pointsman: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `pointsman summary | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# ---- commands


def _backends(arguments: argparse.Namespace) -> int:
    import pointsman

    now = settings.current()
    listing = pointsman.list_backends(available_only=arguments.available)
    if arguments.available:
        listing = [b for b in listing if b.name not in now.disable]
    if arguments.json:
        rows = []
        for info in listing:
            capable = info.capabilities
            plain = {**vars(capable), "dtypes": sorted(capable.dtypes), "devices": list(capable.devices)}
            said = {"disabled": info.name in now.disable, "forced": info.name == now.force}
            rows.append({**vars(info), "devices": list(info.devices), "capabilities": plain, **said})
        return _print_json(rows)
    off = f"switched off by {now.origin.get('disable', 'settings')}"
    _print_table(
        "backends",
        ("backend", "available", "version", "devices", "gradients", "good for, or why not"),
        [
            (b.name, "yes" if b.available else "no", b.version or "-", " ".join(b.devices) or "-",
             "yes" if b.capabilities.gradients else "no",
             off if b.name in now.disable else b.reason or b.hint)
            for b in listing
        ],
    )  # fmt: skip
    if now.force is not None:
        kind = "arrays" if registry.executor(now.force).capabilities.array else "maps"
        print(f"for {kind}, only {now.force} may be chosen: {now.origin.get('force', 'settings')}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    import pointsman

    selector = pointsman.default_selector()
    operation, shapes = arguments.operation, shapes_of(arguments)
    known = operations.find(operation)
    if known is None or arguments.grad:
        decision = selector.decide(
            pointsman.WorkloadCharacteristics(
                operation_type=operation, shapes=shapes, dtype=arguments.dtype, requires_gradient=arguments.grad,
                expected_calls=arguments.calls, parameters={**usual(known), **dict(arguments.param)},
            )
        )  # fmt: skip
    else:  # what a call would ask, so that what calls have taught counts
        args, keywords = fitting(known, shapes, arguments, zeros)
        dispatcher = selector.dispatcher(operation)
        request = dispatcher.request(args, keywords)
        decision = dispatcher.engine.choose(dataclasses.replace(request, expected_calls=arguments.calls)).decision
    close = operations.close_to(operation) if known is None else None
    if close is not None:
        note = f"no kernel is called {operation!r}; did you mean {close!r}?"
        decision = dataclasses.replace(decision, notes=(*decision.notes, note))
    if arguments.json:
        return _print_json(decision.to_json())
    if sys.stdout.isatty():
        from pointsman.decision_table import print_decision

        print_decision(decision)
    else:
        print(decision.explain())
    return 0


def _run(arguments: argparse.Namespace) -> int:
    import pointsman

    operation = arguments.operation
    known = operations.find(operation)
    if known is None:
        raise _no_operation(operation, operations.names())
    args, keywords = fitting(known, shapes_of(arguments), arguments, random)
    dispatcher = pointsman.default_selector().dispatcher(operation)
    dispatcher.explain(*args, **keywords)  # opens the history, so that the first call is timed without that
    seconds: list[float] = []
    result: Any = None
    for _ in range(arguments.repeat):
        started = time.perf_counter()
        result = pointsman.run(operation, *args, **keywords)
        seconds.append(time.perf_counter() - started)
    pointsman.flush()
    decision = dispatcher.explain(*args, **keywords)
    report = {
        "operation": operation,
        "shapes": [list(x.shape) for x in args],
        "dtype": arguments.dtype,
        "parameters": keywords,
        "first_s": seconds[0],
        "median_s": statistics.median(seconds),
        "calls": len(seconds),
        "result": {"shape": list(np.shape(result)), "dtype": str(result.dtype)},
        "next": {"variant": decision.variant, "rule": decision.rule, "reason": decision.reason},
    }
    if arguments.json:
        return _print_json(report)
    from pointsman.telemetry.show import seconds as text

    print(f"{operation} {' '.join('x'.join(map(str, x.shape)) for x in args)} {arguments.dtype}")
    print(f"  first call {text(seconds[0])}, median of {len(seconds)} {text(report['median_s'])}")
    print(f"  result {np.shape(result)} {result.dtype}")
    print(f"  next call: {decision.variant} [{decision.rule}] {decision.reason}")
    return 0


def _agreement(arguments: argparse.Namespace) -> int:
    from pointsman import agreement_page
    from pointsman.kernels import agreement

    if unknown := [name for name in arguments.operation if name not in agreement.names()]:
        raise _no_operation(unknown[0], agreement.names())
    if arguments.page is not None and not arguments.page.parent.is_dir():
        raise WrongUseError(f"there is no folder {str(arguments.page.parent)!r} to write {arguments.page.name} into")
    rows = agreement.agreement(arguments.operation or None)
    if arguments.page is not None:
        arguments.page.write_text(agreement_page.markdown(rows), encoding="utf-8")
    if arguments.json:
        _print_json([row.to_json() for row in rows])
    else:
        print(agreement_page.grid(rows), end="")
    return 1 if any(row.agrees is False for row in rows) else 0


def _summary(arguments: argparse.Namespace) -> int:
    import pointsman

    summary = pointsman.default_selector().get_performance_summary()
    if arguments.json:
        return _print_json(summary)
    from pointsman.summary_table import print_summary

    print_summary(summary)
    _tell_obstacle(summary["history"]["location"])
    return 0


def _history_path(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    import pointsman

    location = pointsman.default_selector().history.location
    print(location)
    _tell_obstacle(location)
    return 0


def _tell_obstacle(location: str) -> None:
    """Say on the error output why the history cannot be kept; nothing has tried to write it yet."""
    why = "" if location == ":memory:" else obstacle(Path(location))
    if why:
        print(f"pointsman: this history cannot be kept: {why}; choose another with POINTSMAN_HISTORY", file=sys.stderr)


def _history_reset(arguments: argparse.Namespace) -> int:
    import pointsman

    selector, operation = pointsman.default_selector(), arguments.operation
    known = sorted(selector.get_performance_summary()["operations"])
    if operation is not None and operation not in known:
        learned = f"there are: {', '.join(known)}" if known else "there is nothing at all"
        raise WrongUseError(f"nothing is known of {operation!r} in {selector.history.location}; {learned}")
    selector.reset_performance_history(operation)
    print(f"forgot {operation or 'everything'} in {selector.history.location}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from pointsman import demo

    return demo.main([*(["--quick"] if arguments.quick else []), "--budget", str(arguments.budget)])


def _no_operation(name: str, known: Iterable[str]) -> WrongUseError:
    known = list(known)
    return WrongUseError(
        f"no operation is called {name!r}{operations.meant(name, known)}; there are: {', '.join(known)}"
    )


# ---- output


def _print_json(data: Any) -> int:
    print(json.dumps(data, indent=2))
    return 0


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in a version or a path are no markup
    Console().print(table)


# ---- the grammar


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pointsman",
        description="Choose the fastest Python backend for a workload, from what this machine has taught.",
        epilog="POINTSMAN_* variables apply here too (docs/settings.md). Exit code 1: failure, 2: wrong use.",
    )
    parser.add_argument("--version", action="version", version=f"pointsman {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_questions(commands)
    _add_runs(commands)
    _add_memory(commands)
    p = _command(
        commands, "demo", _demo,
        "run a mixed stream of real work and show the choices being learned; some minutes on two cores",
        "pointsman demo --quick",
    )  # fmt: skip
    p.add_argument("--quick", action="store_true", help="a tenth of the calls")
    p.add_argument("--budget", type=parse_seconds, default=45.0, metavar="S",
                   help="seconds for timing every variant afterwards (default 45)")  # fmt: skip
    return parser


def _add_questions(commands: Any) -> None:
    p = _command(commands, "backends", _backends, "list the backends: what is there, and what is missing and why",
                 "pointsman backends --available --json")  # fmt: skip
    p.add_argument("--available", action="store_true", help="only those that can be used here")
    _json_option(p)

    p = _command(
        commands, "explain", _explain,
        "say which backend a workload would get, with predictions and reasons; runs, imports and spends nothing. "
        "Any operation name is legal.",
        "pointsman explain matmul 1000x1000 --dtype float32",
    )  # fmt: skip
    _workload_arguments(p)
    p.add_argument("--grad", action="store_true", help="the result must be differentiable")
    p.add_argument(
        "--calls",
        type=parse_count,
        metavar="N",
        help="calls still to come, which must repay imports and compiling (default: as many as there were)",
    )
    _json_option(p)


def _add_runs(commands: Any) -> None:
    p = _command(
        commands, "run", _run,
        "run a built-in operation on random numbers, record what it took, and say what the next call would use. "
        f"Operations: {', '.join(operations.names()) or 'none'}.",
        "pointsman run fft 1000x4096 --repeat 20",
    )  # fmt: skip
    _workload_arguments(p)
    p.add_argument("--repeat", type=parse_count, default=1, metavar="N", help="calls to make (default 1)")
    _json_option(p)

    p = _command(
        commands, "agreement", _agreement,
        "measure how far each variant is from its float64 reference; imports and compiles: a minute or two. Exit code "
        "1 if one is out of tolerance.",
        "pointsman agreement reduction",
    )  # fmt: skip
    p.add_argument("operation", metavar="OPERATION", nargs="*", help="names of built-in operations (default: all)")
    p.add_argument("--page", type=Path, metavar="FILE", help="write the grid as a page of Markdown too")
    _json_option(p)

    p = _command(commands, "calibrate", cli_calibrate.run, cli_calibrate.WHAT, cli_calibrate.EXAMPLE)
    cli_calibrate.add_arguments(p)
    _json_option(p)


def _add_memory(commands: Any) -> None:
    p = _command(commands, "summary", _summary, "show what was learned, gained, lost and spent",
                 "pointsman summary --json")  # fmt: skip
    _json_option(p)

    p = _command(commands, "history", None, "say where the history lies, or forget it", "pointsman history path")
    actions = p.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "path", _history_path, "print the file that holds the history", "pointsman history path")
    p = _command(actions, "reset", _history_reset, "forget what was learned, of one operation or of all",
                 "pointsman history reset --operation fft")  # fmt: skip
    p.add_argument("--operation", metavar="NAME", help="forget only this operation")
    cli_lock.add_merge(actions, _command)
    cli_lock.add_lock(commands, _command)


def _command(commands: Any, name: str, handler: Handler | None, what: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what.split(";")[0].split(". ")[0], description=what[0].upper() + what[1:],
        epilog=f"example: {example}",
    )  # fmt: skip
    if handler is not None:
        parser.set_defaults(handler=handler)
    return parser


def _workload_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operation", metavar="OPERATION", type=parse_operation, help="its name, such as fft")
    parser.add_argument("shape", metavar="SHAPE", nargs="+", type=parse_shapes, help=SHAPE_HELP)
    parser.add_argument("--dtype", type=parse_dtype, default="float64", help="dtype of the operands (default float64)")
    parser.add_argument("--param", type=parse_parameter, action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter of the operation, such as order=0.5; may be repeated")  # fmt: skip


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print plain JSON, for programs")


if __name__ == "__main__":
    sys.exit(main())
