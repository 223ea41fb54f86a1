"""Warm-up: import and compile ahead, on purpose, so that the calls that matter are steady."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..executors import conversion
from ..executors.base import Variant
from ..executors.errors import NoCandidateError
from ..executors.fallback import own_failure
from ..telemetry.memory import host_budget_bytes
from ..telemetry.outcome import Failure, Outcome
from ..telemetry.show import seconds as text
from .arguments import stands_apart
from .constraints import matches
from .dispatch import Dispatcher
from .dtypes import canonical_dtype
from .engine import Choice
from .failures import classify
from .learner import paid_once_s
from .shared import default_selector

RULE = "warmup"
_SEED = 0


class Warmed(NamedTuple):
    """What came of one variant: `seconds` of its import and first call; None where there was none, and `why`."""

    workload: str
    variant: str
    seconds: float | None
    why: str = ""


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up did: a row for every variant of every signature; as text, a line each."""

    rows: tuple[Warmed, ...]

    @property
    def seconds(self) -> float:
        """Wall seconds that importing, compiling and first calls took in all."""
        return sum(row.seconds or 0.0 for row in self.rows)

    def __iter__(self) -> Iterator[Warmed]:
        return iter(self.rows)

    def __str__(self) -> str:
        width = max((len(row.variant) for row in self.rows), default=0)
        lines, workload = [], ""
        for row in self.rows:
            if row.workload != workload:
                workload = row.workload
                lines.append(workload)
            taken = "" if row.seconds is None else text(row.seconds)
            lines.append(f"  {row.variant:<{width}}  {', '.join(filter(None, (taken, row.why)))}")
        return "\n".join(lines)


def warmup(
    operation: str, *shapes: Any, dtype: str = "float64", variants: Sequence[str] | str | None = None, **parameters: Any
) -> WarmUp:
    """Import and compile ahead what calls of a built-in or registered operation may be given.

    Parameters
    ----------
    operation : as for `pointsman.run`.
    *shapes : one call each. A shape such as ``(1000, 1000)`` for one operand, a tuple of shapes for several
        (``((300, 300), (300, 4))``); an array stands for itself wherever a shape may.
    dtype : of the operands that are made up.
    variants : names of variants or backends; "all"; None: the one that would run, and those that a trial may take.
    **parameters : the operation's own keywords, as a call would give them.

    Returns
    -------
    WarmUp
        Seconds for each variant, or why not. A variant that fails is told there, recorded, and left out of later calls.
        A shape that is too large for this machine has a row without a variant.

    Raises
    ------
    ValueError, TypeError
        Unknown operation, variant or dtype, something that is no shape, or arguments that the operation refuses.
    NoCandidateError
        Nothing can run it.

    Examples
    --------
    >>> import pointsman as pm
    >>> report = pm.warmup("fft", (64,), variants=["numpy"])
    >>> [row.variant for row in report]
    ['numpy']
    """
    return warm_up(default_selector().dispatcher(operation), shapes, dtype, variants, parameters)


def warm_up(
    dispatcher: Dispatcher, shapes: Sequence[Any], dtype: str, variants: Sequence[str] | str | None,
    parameters: Mapping[str, Any], instance: tuple[Any, ...] = (),
) -> WarmUp:  # fmt: skip
    """`warmup` for any dispatcher; what `Adaptive.warmup` calls. `instance` goes before the operands of each call."""
    name = dispatcher.operation.name
    if not shapes:
        raise ValueError(f"warmup of {name}: give at least one shape, such as (1000, 1000), or an array as an example")
    rows: list[Warmed] = []
    for shape in shapes:
        _check_given(name, shape, dtype)
    for shape in shapes:
        try:
            args = (*instance, *_operands(shape, dtype))
        except MemoryError as error:
            rows.append(Warmed(f"{name} {shape} {dtype}", "", None, f"its operands do not fit here: {error}"))
            continue
        rows += _one_call(dispatcher, args, dict(parameters), variants)
    return WarmUp(tuple(rows))


def _one_call(
    dispatcher: Dispatcher, args: tuple[Any, ...], kwargs: dict[str, Any], variants: Sequence[str] | str | None
) -> list[Warmed]:
    name = dispatcher.operation.name
    if stands_apart(args, kwargs):
        raise TypeError(
            f"warmup of {name}: such arguments (masked, labelled, traced) are never chosen for; give plain arrays"
        )
    validate = getattr(dispatcher.operation, "validate", None)
    if validate is not None:
        try:
            validate(*args, **kwargs)
        except (TypeError, ValueError) as error:
            error.add_note("Each argument of warmup is one call: the operands of a call go into one tuple, as in "
                           "((300, 300), (300, 4)).")  # fmt: skip
            raise
    request = dispatcher.request(args, kwargs)
    choice = dispatcher.engine.choose(request)
    wanted, rows = _wanted(dispatcher, choice, variants)
    for variant in wanted:
        rows.append(_first_call(dispatcher, choice, variant, args, dict(kwargs)))
    return rows


def _wanted(
    dispatcher: Dispatcher, choice: Choice, variants: Sequence[str] | str | None
) -> tuple[list[Variant], list[Warmed]]:
    """The variants to warm, the chosen one first, and rows for those that were asked for and cannot run."""
    decision = choice.decision
    if variants is None:
        now = next(c.prediction.mean_s for c in decision.candidates if c.variant == decision.variant)
        # What can hardly be faster (95 %) is never tried: nobody has to compile a quadratic sum for large data.
        names = [c.variant for c in decision.candidates if c.prediction.low < now]
        names = list(dict.fromkeys((decision.variant, *names)))
        return [choice.variants[name] for name in names], []
    if variants == "all":
        return [choice.variants[name] for name in decision.chain], []
    asked = (variants,) if isinstance(variants, str) else tuple(variants)
    if not asked:
        raise ValueError(f"warmup of {decision.operation}: no variant is named; give names, 'all', or None to choose")
    known = {v.name: v for v in (*choice.variants.values(), *dispatcher.operation.variants)}
    for wish in asked:
        if not any(matches(v, wish) for v in known.values()):
            raise ValueError(
                f"warmup of {decision.operation}: no variant is called {wish!r}; give 'all' or some of these: "
                f"{', '.join(known)}"
            )
    chosen = [choice.variants[name] for name in decision.chain if any(matches(known[name], wish) for wish in asked)]
    left_out = [
        Warmed(decision.workload, name, None, why)
        for name, why in decision.excluded
        if name in known and any(matches(known[name], wish) for wish in asked)
    ]
    return chosen, left_out


def _first_call(
    dispatcher: Dispatcher, choice: Choice, variant: Variant, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Warmed:
    """One call, recorded as a cold one; a listed failure is recorded as such, the caller's own error comes out."""
    engine, request, workload = dispatcher.engine, choice.request, choice.decision.workload
    if engine.is_warm(request, variant):
        return Warmed(workload, variant.name, 0.0, "warm already")
    started = time.perf_counter()
    try:
        prepared = dispatcher.prepared(variant, request, args, kwargs, RULE)
        began = time.perf_counter()
        with np.errstate(all="ignore"):  # made-up numbers may divide by zero
            _, split = prepared.split(*args, **kwargs)
    except Exception as error:
        seconds = time.perf_counter() - started
        failure = own_failure(error) or classify(variant.backend, error)
        if failure is None:
            _settle(dispatcher, choice, variant, error, args, kwargs)
            failure = Failure.UNSUPPORTED
        message = f"{type(error).__name__}: {error}"
        engine.failed(request, variant, failure, message)
        _record(dispatcher, Outcome(
            choice.sites[variant.name], engine.history.now(), seconds, failure=failure, message=message[:500],
            rule=RULE, calls=0,
        ))  # fmt: skip
        return Warmed(workload, variant.name, None, f"{failure}: {message}")
    ended = time.perf_counter()
    engine.succeeded(request, variant, prepared)
    _record(dispatcher, Outcome(
        choice.sites[variant.name], engine.history.now(), ended - began, convert_s=split.convert_s,
        transfer_s=split.transfer_s, compile_s=paid_once_s(split.compiled, split.compute_s), rule=RULE, calls=0,
    ))  # fmt: skip
    return Warmed(workload, variant.name, ended - started)


def _settle(
    dispatcher: Dispatcher, choice: Choice, variant: Variant, error: Exception, args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:  # fmt: skip
    """Return if the default computes what `variant` raised an unlisted error for; else the error is the caller's."""
    default = choice.variants.get(choice.decision.default)
    if default is None or default.name == variant.name or not dispatcher._rerun:
        raise error
    try:
        with np.errstate(all="ignore"):
            dispatcher.prepared(default, choice.request, args, kwargs, RULE).call(*args, **kwargs)
    except NoCandidateError:
        raise
    except Exception:
        raise error from None


def _record(dispatcher: Dispatcher, outcome: Outcome) -> None:
    engine = dispatcher.engine
    if engine.learning and engine.settings().mode != "off":
        engine.history.record(outcome)


def _operands(given: Any, dtype: str) -> tuple[Any, ...]:
    """The positional arguments of the call that `given` describes; MemoryError where they cannot be made up."""
    if conversion.kind_of(given) is not None:
        return (given,)
    if _is_shape(given):
        return (_made_up(given, dtype),)
    return tuple(_made_up(part, dtype) if _is_shape(part) else part for part in given)


def _check_given(operation: str, given: Any, dtype: str) -> None:
    """Raise where `given` describes no call, before any is made: a number beside no array is a slip in a shape."""
    canonical_dtype(dtype)
    if conversion.kind_of(given) is not None or _is_shape(given):
        return
    if isinstance(given, tuple | list) and any(_is_shape(p) or conversion.kind_of(p) is not None for p in given):
        return
    raise TypeError(
        f"warmup of {operation}: found {given!r}; give a shape such as (1000, 1000), a tuple of shapes for several "
        "operands, or arrays as examples"
    )


def _is_shape(given: Any) -> bool:
    return isinstance(given, tuple) and all(
        isinstance(axis, int | np.integer) and not isinstance(axis, bool) and axis >= 0 for axis in given
    )


def _made_up(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Random numbers between 0.5 and 1.5 (no zeros to divide by, no roots of negative ones), or small whole ones."""
    name = canonical_dtype(dtype)
    if name == "bfloat16":
        raise ValueError("warmup: NumPy has no bfloat16 to make operands of; give tensors as examples")
    kind, rng = np.dtype(name), np.random.default_rng(_SEED)
    # Made as float64 or int64 first. Beyond what is there, Linux would not refuse but end the process.
    left = host_budget_bytes(0.0)
    if 8 * math.prod(map(int, shape)) > left:
        raise MemoryError(f"making them takes more than the {left:.1e} bytes that are left")
    if kind.kind in "biu":
        return rng.integers(0 if kind.kind == "b" else 1, 2 if kind.kind == "b" else 10, shape).astype(kind)
    return np.asarray(rng.uniform(0.5, 1.5, shape), dtype=kind)
