"""The command line: `pointsman backends | explain | run | summary | history | demo`."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pointsman import __version__
from pointsman.executors.errors import PointsmanError
from pointsman.selector import operations, settings
from pointsman.selector.dtypes import canonical_dtype

Shapes = tuple[tuple[int, ...], ...]
Handler = Callable[[argparse.Namespace], int]

SHAPE_HELP = "axes joined by x or commas, operands by | or as further arguments: 1000x1000, 4096, '512x64|64x8'"


class WrongUseError(Exception):
    """The command makes no sense; the message says what would. Exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for wrong use.

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
    except BrokenPipeError:  # `pointsman summary | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# ---- commands


def _backends(arguments: argparse.Namespace) -> int:
    import pointsman

    listing = pointsman.list_backends(available_only=arguments.available)
    if arguments.json:
        rows = []
        for info in listing:
            capable = info.capabilities
            plain = {**vars(capable), "dtypes": sorted(capable.dtypes), "devices": list(capable.devices)}
            rows.append({**vars(info), "devices": list(info.devices), "capabilities": plain})
        return _print_json(rows)
    _print_table(
        "backends",
        ("backend", "available", "version", "devices", "gradients", "good for, or why not"),
        [
            (b.name, "yes" if b.available else "no", b.version or "-", " ".join(b.devices) or "-",
             "yes" if b.capabilities.gradients else "no", b.reason or b.hint)
            for b in listing
        ],
    )  # fmt: skip
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    import pointsman

    selector = pointsman.default_selector()
    operation, shapes = arguments.operation, _shapes(arguments)
    known = operations.find(operation)
    if known is None or arguments.grad:
        decision = selector.decide(
            pointsman.WorkloadCharacteristics(
                operation_type=operation, shapes=shapes, dtype=arguments.dtype, requires_gradient=arguments.grad,
                parameters={**_usual(known), **dict(arguments.param)},
            )
        )  # fmt: skip
    else:  # what a call would ask, so that what calls have taught counts
        args, keywords = _arguments(known, shapes, arguments, _zeros)
        decision = selector.dispatcher(operation).explain(*args, **keywords)
    if arguments.json:
        return _print_json(decision.to_json())
    print(decision.explain())
    return 0


def _run(arguments: argparse.Namespace) -> int:
    import pointsman

    operation = arguments.operation
    known = operations.find(operation)
    if known is None:
        names = operations.names()
        close = difflib.get_close_matches(operation, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise WrongUseError(f"no operation is called {operation!r}{hint}; there are: {', '.join(names)}")
    args, keywords = _arguments(known, _shapes(arguments), arguments, _random)
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
    from pointsman.summary_table import seconds as text

    print(f"{operation} {' '.join('x'.join(map(str, x.shape)) for x in args)} {arguments.dtype}")
    print(f"  first call {text(seconds[0])}, median of {len(seconds)} {text(report['median_s'])}")
    print(f"  result {np.shape(result)} {result.dtype}")
    print(f"  next call: {decision.variant} [{decision.rule}] {decision.reason}")
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    import pointsman

    summary = pointsman.default_selector().get_performance_summary()
    if arguments.json:
        return _print_json(summary)
    from pointsman.summary_table import print_summary

    print_summary(summary)
    return 0


def _history_path(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    import pointsman

    print(pointsman.default_selector().history.location)
    return 0


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


# ---- inputs


def _shapes(arguments: argparse.Namespace) -> Shapes:
    return tuple(shape for given in arguments.shape for shape in given)


def _parse_shapes(text: str) -> Shapes:
    shapes = []
    for operand in text.split("|"):
        axes = re.split(r"[x,]", operand.strip().strip("()").rstrip(","))
        if not all(axis.strip().isdecimal() for axis in axes):
            raise argparse.ArgumentTypeError(f"{text!r} is no shape: {SHAPE_HELP}")
        shapes.append(tuple(int(axis) for axis in axes))
    return tuple(shapes)


def _parse_dtype(text: str) -> str:
    try:
        return canonical_dtype(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parse_parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no parameter; give NAME=VALUE, such as order=0.5 or mode=same")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number, 1 or more")
    return int(text)


def _parse_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; give seconds, 0 or more")
    return value


def _usual(known: operations.Operation | None) -> dict[str, Any]:
    """Parameters that the operation's own sample input has."""
    sample = getattr(known, "sample", None)
    return {} if sample is None else dict(sample(np.random.default_rng(0), 1, "float64")[1])


def _arguments(
    known: operations.Operation, shapes: Shapes, arguments: argparse.Namespace, make: Callable[..., Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of these shapes that the operation accepts; an operand that was left out gets a fitting shape."""
    keywords = {**_usual(known), **dict(arguments.param)}
    validate = getattr(known, "validate", None)
    if validate is None:
        return tuple(make(shape, arguments.dtype) for shape in shapes), keywords
    takes = [p.name for p in inspect.signature(validate).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := [name for name in keywords if name not in takes]:
        has = f"it has: {', '.join(takes)}" if takes else "it has none"
        raise WrongUseError(f"{known.name} has no parameter {unknown[0]!r}; {has}")
    roots, swapped = tuple(max(1, math.isqrt(d)) for d in shapes[0]), shapes[0][:-2] + shapes[0][-2:][::-1]
    problem: Exception | None = None
    for tried in (shapes, (*shapes, roots), (*shapes, swapped)):
        try:
            validate(*(_zeros(shape, arguments.dtype) for shape in tried), **keywords)
        except (TypeError, ValueError) as error:
            # A missing argument is the least telling of the complaints.
            problem = error if problem is None or "missing" in str(problem) else problem
            continue
        return tuple(make(shape, arguments.dtype) for shape in tried), keywords
    raise WrongUseError(f"{known.name} does not accept this: {problem}") from problem


def _zeros(shape: tuple[int, ...], dtype: str) -> Any:
    """An array of any shape that takes the memory of one element."""
    return np.broadcast_to(np.zeros((), _numpy_dtype(dtype)), shape)


def _random(shape: tuple[int, ...], dtype: str) -> Any:
    rng, kind = np.random.default_rng(0), _numpy_dtype(dtype)
    if kind.kind in "biu":
        return rng.integers(0, 2 if kind.kind == "b" else 100, shape).astype(kind)
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if kind.kind == "c" else values).astype(kind)


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    if dtype == "bfloat16":
        raise WrongUseError("dtype bfloat16 has no NumPy arrays to run on; take float32, or float16")
    return np.dtype(dtype)


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
    _json_option(p)

    p = _command(
        commands, "run", _run,
        "run a built-in operation on random numbers, record what it took, and say what the next call would use. "
        f"Operations: {', '.join(operations.names()) or 'none'}.",
        "pointsman run fft 1000x4096 --repeat 20",
    )  # fmt: skip
    _workload_arguments(p)
    p.add_argument("--repeat", type=_parse_count, default=1, metavar="N", help="calls to make (default 1)")
    _json_option(p)

    p = _command(commands, "summary", _summary, "show what was learned, gained, lost and spent",
                 "pointsman summary --json")  # fmt: skip
    _json_option(p)

    p = _command(commands, "history", None, "say where the history lies, or forget it", "pointsman history path")
    actions = p.add_subparsers(title="actions", metavar="ACTION", required=True)
    _command(actions, "path", _history_path, "print the file that holds the history", "pointsman history path")
    p = _command(actions, "reset", _history_reset, "forget what was learned, of one operation or of all",
                 "pointsman history reset --operation fft")  # fmt: skip
    p.add_argument("--operation", metavar="NAME", help="forget only this operation")

    p = _command(
        commands, "demo", _demo,
        "run a mixed stream of real work and show the choices being learned; some minutes on two cores",
        "pointsman demo --quick",
    )  # fmt: skip
    p.add_argument("--quick", action="store_true", help="a tenth of the calls")
    p.add_argument("--budget", type=_parse_seconds, default=45.0, metavar="S",
                   help="seconds for timing every variant afterwards (default 45)")  # fmt: skip
    return parser


def _command(commands: Any, name: str, handler: Handler | None, what: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what.split(";")[0].split(". ")[0], description=what[0].upper() + what[1:],
        epilog=f"example: {example}",
    )  # fmt: skip
    if handler is not None:
        parser.set_defaults(handler=handler)
    return parser


def _workload_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("operation", metavar="OPERATION", help="name of the operation, such as fft")
    parser.add_argument("shape", metavar="SHAPE", nargs="+", type=_parse_shapes, help=SHAPE_HELP)
    parser.add_argument("--dtype", type=_parse_dtype, default="float64", help="dtype of the operands (default float64)")
    parser.add_argument("--param", type=_parse_parameter, action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter of the operation, such as order=0.5; may be repeated")  # fmt: skip


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print plain JSON, for programs")


if __name__ == "__main__":
    sys.exit(main())
