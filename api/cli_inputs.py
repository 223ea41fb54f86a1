"""What the command line is given, as arguments of operations: shapes, dtypes, parameters, and arrays made of them."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from pointsman.selector import operations
from pointsman.selector.dtypes import canonical_dtype

MOST_CALLS = 10**15  # a float still counts them one by one
Shapes = tuple[tuple[int, ...], ...]

SHAPE_HELP = "axes joined by x or commas, operands by | or as further arguments: 1000x1000, 4096, '512x64|64x8'"


class WrongUseError(Exception):
    """The command makes no sense; the message says what would. Exit code 2."""


def shapes_of(arguments: argparse.Namespace) -> Shapes:
    """The shapes of all operands, however many each argument named."""
    return tuple(shape for given in arguments.shape for shape in given)


def parse_shapes(text: str) -> Shapes:
    """One argument as shapes, operands joined by |."""
    shapes = []
    for operand in text.split("|"):
        axes = re.split(r"[x,]", operand.strip().strip("()").rstrip(","))
        if not all(axis.strip().isdecimal() for axis in axes):
            raise argparse.ArgumentTypeError(f"{text!r} is no shape: {SHAPE_HELP}")
        shapes.append(tuple(int(axis) for axis in axes))
    return tuple(shapes)


def parse_dtype(text: str) -> str:
    """The canonical name of a dtype."""
    try:
        return canonical_dtype(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_parameter(text: str) -> tuple[str, Any]:
    """NAME=VALUE, where VALUE is JSON or else a plain string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no parameter; give NAME=VALUE, such as order=0.5 or mode=same")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_operation(text: str) -> str:
    """Any name but an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an operation has a name, such as fft; found an empty one")
    return text


def parse_count(text: str) -> int:
    """A whole number from 1 to `MOST_CALLS`."""
    if not text.isdecimal() or len(text) > len(str(MOST_CALLS)) or not 1 <= int(text) <= MOST_CALLS:
        raise argparse.ArgumentTypeError(
            f"{text!r:.40} is no count; give a whole number, 1 or more ({MOST_CALLS:.0e} at most)"
        )
    return int(text)


def parse_seconds(text: str) -> float:
    """A duration in seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; give seconds, 0 or more")
    return value


def usual(known: operations.Operation | None) -> dict[str, Any]:
    """Parameters that the operation's own sample input has."""
    sample = getattr(known, "sample", None)
    return {} if sample is None else dict(sample(np.random.default_rng(0), 1, "float64")[1])


def fitting(
    known: operations.Operation, shapes: Shapes, arguments: argparse.Namespace, make: Callable[..., Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of these shapes that the operation accepts; an operand that was left out gets a fitting shape."""
    keywords = {**usual(known), **dict(arguments.param)}
    validate = getattr(known, "validate", None)
    if validate is None:
        return tuple(make(shape, arguments.dtype) for shape in shapes), keywords
    takes = [p.name for p in inspect.signature(validate).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := [name for name in keywords if name not in takes]:
        has = f"it has: {', '.join(takes)}" if takes else "it has none"
        raise WrongUseError(f"{known.name} has no parameter {unknown[0]!r}; {has}")
    roots, swapped = tuple(max(1, math.isqrt(d)) for d in shapes[0]), shapes[0][:-2] + shapes[0][-2:][::-1]
    problem: Exception | None = None
    for tried in (shapes, (*shapes, roots), (*shapes, swapped), (*shapes, shapes[0])):
        try:
            validate(*(zeros(shape, arguments.dtype) for shape in tried), **keywords)
        except (TypeError, ValueError) as error:
            # A missing argument is the least telling of the complaints.
            problem = error if problem is None or "missing" in str(problem) else problem
            continue
        return tuple(make(shape, arguments.dtype) for shape in tried), keywords
    raise WrongUseError(f"{known.name} does not accept this: {problem}") from problem


def zeros(shape: tuple[int, ...], dtype: str) -> Any:
    """An array of any shape that takes the memory of one element."""
    return np.broadcast_to(np.zeros((), _numpy_dtype(dtype)), shape)


def random(shape: tuple[int, ...], dtype: str) -> Any:
    """An array of random numbers, the same each time."""
    rng, kind = np.random.default_rng(0), _numpy_dtype(dtype)
    if kind.kind in "biu":
        return rng.integers(0, 2 if kind.kind == "b" else 100, shape).astype(kind)
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape) if kind.kind == "c" else values).astype(kind)


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    if dtype == "bfloat16":
        raise WrongUseError("dtype bfloat16 has no NumPy arrays to run on; take float32, or float16")
    return np.dtype(dtype)
