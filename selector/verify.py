"""Agreement in production: a share of the calls is computed a second time on the reference, and compared.

The reference is the operation's own in float64 where it has one and the call is small (`REFERENCE_WORK`), else the
default variant. What differs by more than was promised is only then the variant's fault if the default does agree: a
function that draws random numbers, keeps state or is ill-conditioned disagrees with itself as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import numpy as np

from ..executors import conversion
from ..executors.base import Variant
from .arguments import all_leaves
from .logs import log
from .operations import Operation
from .request import Request

MOST_BYTES = 64 * 2**20
"""Calls on larger operands are not verified: comparing takes several times their memory."""

REFERENCE_WORK = 1e7
"""Up to so much declared work a float64 reference is affordable: it is chosen for accuracy, not for speed."""

DUE = ["verify"]
"""Stands in the place of an entry's tickets when its next call is to be verified: the hot path looks there anyway."""

_PLAIN = (int, float, complex, str, bytes, type(None), np.generic, np.dtype, type)

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Watched(Protocol):
    """What of an entry counts its calls."""

    call: Callable[..., Any]
    timed: Callable[..., Any]
    tickets: Any
    left: int


class Sampling:
    """Says which calls are verified: of an entry every k-th, from a random phase; of the rest each with chance 1/k.

    Parameters
    ----------
    share : of the calls, above 0.
    random : where phases come from.
    spared : the variant that the others are held against: its own calls are not verified.
    """

    __slots__ = ("_random", "every", "spared")

    def __init__(self, share: float, random: Random, spared: str) -> None:
        self.every = max(1, round(1.0 / share))
        self.spared = spared
        self._random = random

    def draws(self) -> bool:
        """Whether a call that no entry counts is verified."""
        return self._random.random() * self.every < 1.0

    def watch(self, entry: Watched, variant: str) -> None:
        """Have `entry`, which runs `variant`, count its calls and come up for verification."""
        if variant == self.spared:
            return
        entry.left = self._random.randrange(self.every)
        if not entry.left:
            entry.tickets = DUE
        entry.call, entry.timed = _counted(entry, entry.call), _counted(entry, entry.timed)

    def again(self, entry: Watched, tickets: Any) -> None:
        """Begin to count anew: the call that was due is being verified."""
        entry.left = self.every - 1
        entry.tickets = tickets if entry.left else DUE


def _counted(entry: Watched, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        entry.left -= 1
        if entry.left <= 0:
            entry.tickets = DUE
        return call(*args, **kwargs)

    return counted


# ---------------------------------------------------------------------------------------------- the inputs


def copies(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments | None:
    """NumPy copies of the arguments, to compute on a second time; None where that would prove nothing or cost much.

    That is where a result is written into an argument (`out`), where something that may change or be used up is among
    the arguments (a random generator, `self`), and above `MOST_BYTES`.
    """
    nbytes = 0
    for leaf in all_leaves(args, kwargs):
        if conversion.kind_of(leaf) is not None:
            nbytes += int(np.prod(leaf.shape)) * 8
        elif not isinstance(leaf, _PLAIN):
            return None
    if nbytes > MOST_BYTES or kwargs.get("out") is not None:
        return None
    return _copied(args, kwargs)


def _copied(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    def copy(leaf: Any) -> Any:
        if conversion.kind_of(leaf) is None:
            return leaf
        return np.array(conversion.convert(leaf, "numpy"), copy=True)

    again = conversion.map_leaves(copy, args)
    return again, {name: conversion.map_leaves(copy, value) for name, value in kwargs.items()}


def changed(args: tuple[Any, ...], kwargs: Mapping[str, Any], before: Arguments) -> bool:
    """Whether an array among the arguments is no longer what it was, by the bytes."""
    for leaf, was in zip(all_leaves(args, kwargs), all_leaves(*before), strict=True):
        if isinstance(was, np.ndarray):
            now = leaf if isinstance(leaf, np.ndarray) else conversion.convert(leaf, "numpy")
            if now.shape != was.shape or np.ascontiguousarray(now).tobytes() != was.tobytes():
                return True
    return False


def restore(args: tuple[Any, ...], kwargs: Mapping[str, Any], before: Arguments) -> None:
    """Put back what a variant has changed among the caller's arrays, as far as they can be written to."""
    for leaf, was in zip(all_leaves(args, kwargs), all_leaves(*before), strict=True):
        if isinstance(was, np.ndarray):
            kind, _, device = conversion.residency(leaf).partition("@")
            leaf[...] = was if kind == "numpy" else conversion.convert(was, kind, device or "cpu")


# ---------------------------------------------------------------------------------------------- the verdict


def wrong(
    operation: Operation, variant: Variant, request: Request, result: Any, args: tuple[Any, ...],
    kwargs: Mapping[str, Any], before: Arguments, default: Callable[[Arguments], Any],
) -> str | None:  # fmt: skip
    """None if `result` is what it should be, or nothing can be told; else the evidence against `variant`.

    Parameters
    ----------
    args, kwargs : what the variant was called with; where it has changed them, that is undone.
    before : NumPy copies of them, made before the call.
    default : runs the operation's default on NumPy arguments.
    """
    try:
        spoilt = changed(args, kwargs, before)
        found = list(_parts(result))
        expected, bound, what = _reference(operation, variant, request, before, default)
        evidence = "it changed its arguments" if spoilt else _apart(found, expected, bound, what, _exact(operation))
        if evidence is None:
            return None
        own = _copied(*before)
        again = list(_parts(default(own)))
        own_bound = bound + promised(operation, operation.variants[0], request.dtype)
        if changed(*own, before) or _apart(again, expected, own_bound, what, _exact(operation)):
            log.info("%s: cannot be verified: the default does not agree with itself", request.describe())
            return None
    except Exception as error:  # whatever goes wrong in here must not reach the caller, who has a result
        log.info("%s: cannot be verified (%s: %s)", request.describe(), type(error).__name__, error)
        return None
    if spoilt:
        with suppress(Exception):  # what cannot be written to has not been changed
            restore(args, kwargs, before)
    shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape in request.shapes)
    return f"{evidence}; found on {shapes} {request.dtype}"


def _reference(
    operation: Operation, variant: Variant, request: Request, before: Arguments, default: Callable[[Arguments], Any]
) -> tuple[list[Any], float, str]:
    """What the result should be, how far from it is allowed, and what says so."""
    bound = promised(operation, variant, request.dtype)
    plain = operation.variants[0]
    reference = getattr(operation, "reference", None)
    given = _copied(*before)
    if reference is not None and request.work_of(plain) <= REFERENCE_WORK:
        return list(_parts(reference(*given[0], **given[1]))), bound, "the float64 reference"
    bound += promised(operation, plain, request.dtype) if reference is not None else 0.0
    return list(_parts(default(given))), bound, f"the default {plain.name}"


def promised(operation: Operation, variant: Variant, dtype: str) -> float:
    """The error that a variant promises, relative to the largest magnitude of the reference.

    Where nothing is stated, as of a user's own function, half of the digits: the root of the dtype's precision.
    """
    stated = variant.accuracy.get(dtype, getattr(operation, "tolerances", {}).get(dtype))
    if stated is not None:
        return float(stated)
    if dtype == "bfloat16":
        return 0.1
    kind = np.dtype(dtype)
    return float(np.sqrt(np.finfo(kind).eps)) if kind.kind in "fc" else 0.0


def _exact(operation: Operation) -> bool:
    """Whether whole numbers among the results are under contract too: in a user's function a rounded value may tip."""
    return hasattr(operation, "tolerances")


def _apart(found: list[Any], expected: list[Any], bound: float, what: str, exact: bool) -> str | None:
    """The sentence how `found` differs from `expected` by more than `bound`; None where it does not."""
    if len(found) != len(expected):
        return f"it gave {len(found)} values, {what} {len(expected)}"
    for got, right in zip(found, expected, strict=True):
        if got.shape != right.shape:
            return f"it gave shape {got.shape}, {what} {right.shape}"
        if got.dtype.kind not in "fc" and right.dtype.kind not in "fc" and not exact:
            continue
        off = error(got, right)
        if off > bound:
            much = "it is not finite where the other is," if off == np.inf else f"it is off by {off:.1e} of the largest"
            return f"{much} compared with {what}; {bound:.1e} is allowed"
    return None


def _parts(result: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The numbers of a result, as NumPy arrays; what is no number says nothing."""
    for leaf in all_leaves((result,), {}):
        if conversion.kind_of(leaf) is not None:
            yield np.asarray(conversion.convert(leaf, "numpy"))
        elif isinstance(leaf, int | float | complex | np.number | np.bool_):
            yield np.asarray(leaf)


def error(found: Any, expected: Any) -> float:
    """Largest difference, relative to the largest finite magnitude of the reference; of a tuple, the worst part's.

    NaN agrees with NaN and an infinity with the same infinity; where only one side has it, the error is infinite.
    """
    if isinstance(expected, tuple):
        return max((error(f, e) for f, e in zip(found, expected, strict=True)), default=0.0)
    right, got = np.asarray(expected), np.asarray(found)
    wide = _wide(np.result_type(right, got))
    right, got = right.astype(wide, copy=False), got.astype(wide, copy=False)
    if right.shape != got.shape:
        raise ValueError(f"a result of shape {right.shape} is expected; got {got.shape}")
    with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity, which counts as equal
        apart = np.where((got == right) | (np.isnan(got) & np.isnan(right)), 0.0, np.abs(got - right))
    most = float(np.max(apart, initial=0.0))
    if most == 0.0:
        return 0.0
    scale = float(np.max(np.abs(right), initial=0.0, where=np.isfinite(right)))
    return most / scale if np.isfinite(most) and scale else np.inf


def _wide(dtype: np.dtype[Any]) -> type[Any]:
    """What differences are taken in: double precision, and for whole numbers what holds 64 bits where there is such.

    Extended precision takes ten times as long, and tells nothing more of numbers that are themselves rounded.
    """
    if dtype.kind == "c":
        return np.complex128 if dtype.itemsize <= 16 else np.clongdouble
    return np.float64 if dtype.kind == "f" and dtype.itemsize <= 8 else np.longdouble
