"""Calls on arrays: from arguments to a bound variant in about a microsecond, recorded on the way out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..executors import conversion
from ..executors.base import Variant
from ..executors.errors import NoCandidateError, UnsupportedError
from ..executors.fallback import Attempt, run_chain
from ..executors.prepare import Prepared, prepare
from ..telemetry.history import History
from ..telemetry.outcome import Failure, Outcome, Site
from .decision import Decision
from .engine import Choice, Engine
from .failures import classify, import_outcome
from .operations import Operation
from .request import Request
from .settings import SCOPE, scope

ndarray = np.ndarray
perf_counter = time.perf_counter

MOST_ENTRIES = 4096
UNSAMPLED = 64
"""Every one of an entry's first calls is recorded; only then does sampling begin."""
ASYNCHRONOUS_STRIDE = 16
"""Share of device-resident calls that wait for the device in order to be timed."""
NEVER = 1 << 62
_PLAIN = frozenset({int, str, bool, type(None), bytes})


class Original(Protocol):
    """What runs arguments that pointsman leaves alone (tracers, masked arrays, ...)."""

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function as if pointsman were not there."""


class _Entry:
    """What a known signature needs; replaced or dropped, and touched by the hot path without a lock."""

    __slots__ = ("call", "choice", "rule", "seen", "site", "skip", "stride", "tickets")

    def __init__(self, call: Callable[..., Any], choice: Choice | None, stride: int) -> None:
        self.call = call
        self.choice = choice
        self.site: Site | None = choice.sites[choice.decision.variant] if choice else None
        self.rule = choice.decision.rule if choice else ""
        self.tickets: list[str] = choice.tickets if choice else []
        self.stride = stride
        self.skip = 0 if choice else NEVER
        self.seen = 0


class Dispatcher:
    """Runs one operation on whatever arguments come.

    Parameters
    ----------
    operation : its variants.
    engine : makes the choices.
    original : runs arguments that must pass through untouched; None: such arguments are a TypeError.
    validate : raises for wrong arguments, on the first call of a signature.
    rerun : whether an unlisted error of a non-default variant may be settled by one run of the default.
    deterministic : always take the default.
    """

    def __init__(
        self, operation: Operation, engine: Engine, *, original: Original | None = None,
        validate: Callable[..., None] | None = None, rerun: bool = True, deterministic: bool = False,
    ) -> None:  # fmt: skip
        self.operation = operation
        self.engine = engine
        self._original = original
        self._validate = validate
        self._rerun = rerun
        self._deterministic = deterministic
        self._entries: dict[Any, _Entry] = {}
        self._prepared: dict[Any, Prepared] = {}
        self._history: History = engine.history
        self._append = engine.history.buffer.append

    # ------------------------------------------------------------------------------------------ the hot path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the operation: choose, execute, record."""
        if len(args) == 1 and not kwargs and type(args[0]) is ndarray:
            x = args[0]
            key: Any = (x.shape, x.dtype)
        else:
            key = _key(args, kwargs)
        entry = self._entries.get(key)
        if entry is None or entry.tickets or SCOPE.get() is not None:
            return self._slow(key, entry, args, kwargs)
        if entry.skip:
            entry.skip -= 1
            try:
                return entry.call(*args, **kwargs)
            except Exception as error:
                return self._rescue(entry, error, args, kwargs)
        started = perf_counter()
        try:
            result = entry.call(*args, **kwargs)
        except Exception as error:
            return self._rescue(entry, error, args, kwargs)
        ended = perf_counter()
        seen = entry.seen = entry.seen + 1
        if seen > UNSAMPLED:
            entry.skip = entry.stride - 1
            self._append((entry.site, ended, ended - started, entry.rule, "", entry.stride))
        else:
            self._append((entry.site, ended, ended - started, entry.rule, "", 1))
        if not self._history.awake:
            self._history.wake()
        return result

    # ------------------------------------------------------------------------------------------ the other paths

    def _slow(self, key: Any, entry: _Entry | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kinds = [conversion.kind_of(a) for a in (*args, *kwargs.values())]
        if "foreign" in kinds or "tracer" in kinds or any(map(conversion.passes_through, (*args, *kwargs.values()))):
            return self._untouched(args, kwargs)
        scoped = scope() is not None
        choice = entry.choice if entry is not None and not scoped else None
        if choice is None:
            if self._validate is not None:
                self._validate(*args, **kwargs)
            choice = self.engine.choose(self.request(args, kwargs))
            self.engine.adopt(choice)
        order, rule = choice.decision.chain, choice.decision.rule
        if choice.tickets:
            try:
                trial = choice.tickets.pop()  # consumed once, whichever thread comes first
            except IndexError:
                pass
            else:
                order, rule = (trial, *(name for name in order if name != trial)), "explore"
        return self._walk(choice, order, rule, None if scoped else key, args, kwargs)

    def _walk(
        self, choice: Choice, order: tuple[str, ...], rule: str, key: Any, args: tuple[Any, ...],
        kwargs: dict[str, Any], already: tuple[Attempt, ...] = (),
    ) -> Any:  # fmt: skip
        """Try the variants in `order`, recording each attempt; `already` holds one that has failed."""
        culprit = ""

        def told(attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
            nonlocal culprit
            if failure is Failure.USER_ERROR:
                culprit = attempt.name
            elif failure is not None:
                self._note_failure(choice, choice.variants[attempt.name], failure, message, seconds, rule)

        attempts = [*already]
        for name in order:
            variant, used = choice.variants[name], "fallback" if attempts else rule
            call = partial(self._attempt, choice, variant, used, key, args, kwargs)
            attempts.append(Attempt(name, call, partial(classify, variant.backend)))
        try:
            return run_chain(attempts, on_outcome=told)
        except NoCandidateError as error:
            raise _exhausted(choice, error) from error.__cause__
        except Exception as error:
            return self._settle(choice, culprit, error, args, kwargs)

    def _attempt(
        self, choice: Choice, variant: Variant, rule: str, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        prepared = self.prepared(variant, choice.request, args, kwargs)
        request = choice.request
        warm = self.engine.is_warm(request, variant)
        started = perf_counter()
        result, split = prepared.split(*args, **kwargs)
        seconds = perf_counter() - started
        compile_s = split.compute_s if split.compiled or not warm else 0.0
        self._record(
            Outcome(
                choice.sites[variant.name], self._history.now(), seconds, convert_s=split.convert_s,
                transfer_s=split.transfer_s, compile_s=compile_s, rule=rule,
            )
        )  # fmt: skip
        self.engine.succeeded(request, variant)
        if key is not None and variant.name == choice.decision.variant:
            self._remember(key, prepared, choice)
        return result

    def _remember(self, key: Any, prepared: Prepared, choice: Choice) -> None:
        if len(self._entries) >= MOST_ENTRIES:
            self._entries.clear()  # rare, and cheaper than keeping an order on the hot path
        entry = _Entry(prepared.call, choice, ASYNCHRONOUS_STRIDE if prepared.asynchronous else choice.stride)
        if prepared.asynchronous:
            entry.call = _Sampled(prepared)
            entry.skip = 0
        if not self.engine.learning or self.engine.settings().mode == "off":
            entry.skip = NEVER
        self._entries[key] = entry

    def _rescue(self, entry: _Entry, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A known call failed: walk on with the rest of its chain, or let the caller's own error out unchanged."""
        choice = entry.choice
        if choice is None:
            raise error
        variant = choice.variant

        def failed() -> Any:
            raise error

        first = Attempt(variant.name, failed, partial(classify, variant.backend))
        return self._walk(choice, choice.decision.chain[1:], entry.rule, None, args, kwargs, (first,))

    def _settle(
        self, choice: Choice, culprit: str, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """An unlisted error: one run of the default tells "unsupported here" from "the caller's own"."""
        default = choice.variants.get(choice.decision.default)
        if not self._rerun or default is None or default.name == culprit:
            raise error
        result = self.prepared(default, choice.request, args, kwargs).call(*args, **kwargs)
        message = f"{type(error).__name__}: {error}; the default {default.name} computed it"
        variant = choice.variants[culprit]
        self._note_failure(choice, variant, Failure.UNSUPPORTED, message, 0.0, choice.decision.rule)
        return result

    def _note_failure(
        self, choice: Choice, variant: Variant, failure: Failure, message: str, seconds: float, rule: str
    ) -> None:
        self.engine.failed(choice.request, variant, failure, message)
        outcome = Outcome(
            choice.sites[variant.name], self._history.now(), seconds, failure=failure, message=message[:500], rule=rule
        )
        self._record(outcome)
        self._entries = {k: e for k, e in self._entries.items() if e.choice is None or e.choice.variant != variant}

    def _record(self, outcome: Outcome) -> None:
        if self.engine.learning and self.engine.settings().mode != "off":
            self._history.record(outcome)

    def _untouched(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._original is None:
            odd = next((type(a) for a in (*args, *kwargs.values()) if conversion.kind_of(a) == "foreign"), None)
            if odd is None:
                return self.prepared(self.operation.variants[0], None, args, kwargs).call(*args, **kwargs)
            raise UnsupportedError(
                f"{self.operation.name} got a {odd.__module__}.{odd.__qualname__}; it takes plain NumPy, torch, jax or "
                "cupy arrays. Pass the bare array (for a masked array .filled(...), for a Series .to_numpy())."
            )
        return self._original(args, kwargs)

    # ------------------------------------------------------------------------------------------ for others

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """The request that these arguments make."""
        return request_of(self.operation.name, args, kwargs, deterministic=self._deterministic)

    def prepared(
        self, variant: Variant, request: Request | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Prepared:
        """`variant` as a plain callable for arguments of these kinds; imports its library on first use."""
        kinds = tuple(map(conversion.kind_of, args))
        named = tuple((name, conversion.kind_of(value)) for name, value in kwargs.items())
        out = request.residency if request is not None else "numpy"
        key = (variant.name, kinds, named, out)
        found = self._prepared.get(key)
        if found is None:
            kind, _, device = out.partition("@")
            found = prepare(variant, kinds, dict(named), out=kind, out_device=device or "cpu")
            if found.import_s:
                self._record(import_outcome(variant.backend, found.import_s, self._history.now()))
            self._prepared[key] = found
        return found

    def bind(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Decide once for arguments like these and return the plain call; nothing is recorded, nothing is tried."""
        if self._validate is not None:
            self._validate(*args, **kwargs)
        choice = self.engine.choose(self.request(args, kwargs))
        attempts = [
            Attempt(
                name,
                partial(self.prepared, choice.variants[name], choice.request, args, kwargs),
                partial(classify, choice.variants[name].backend),
            )
            for name in choice.decision.chain
        ]
        found: Prepared = run_chain(attempts, on_outcome=lambda *_: None)
        return found.call

    def explain(self, *args: Any, **kwargs: Any) -> Decision:
        """The decision for these arguments, with its reasons. Runs, imports and spends nothing."""
        return self.engine.choose(self.request(args, kwargs)).decision

    def replace(self, operation: Operation) -> None:
        """Take over changed variants."""
        self.operation = operation
        self._prepared.clear()
        self._entries.clear()

    def refresh(self, due: set[tuple[str, str]] | None) -> None:
        """Make the choices of the changed (operation, dtype) groups again; None drops them all."""
        if due is None:
            self._entries.clear()
            return
        for key, entry in list(self._entries.items()):
            choice = entry.choice
            if choice is None or (choice.request.operation, choice.request.dtype) not in due:
                continue
            try:
                fresh = self.engine.choose(choice.request)
                self.engine.adopt(fresh)
            except NoCandidateError:
                self._entries.pop(key, None)
                continue
            if fresh.decision.variant != choice.decision.variant:
                self._entries.pop(key, None)  # the next call binds the new choice
                continue
            renewed = _Entry(entry.call, fresh, entry.stride if isinstance(entry.call, _Sampled) else fresh.stride)
            renewed.seen = entry.seen
            self._entries[key] = renewed


class _Sampled:
    """A call whose result is still being computed on return: timed calls wait for the device, the others do not."""

    __slots__ = ("_count", "_prepared")

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._count += 1
        result = self._prepared.call(*args, **kwargs)
        if self._count <= UNSAMPLED or self._count % ASYNCHRONOUS_STRIDE == 1:
            self._prepared.executor.synchronize(result)
        return result


def _key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What tells signatures apart: shapes, dtypes, devices; values of plain parameters; types of all else."""
    key: list[Any] = []
    for value in args:
        kind = type(value)
        if kind is ndarray:
            key.append(value.shape)
            key.append(value.dtype)
        elif kind is float:
            key.append(float)
        elif kind in _PLAIN:
            key.append(kind)
            key.append(value)
        else:
            key.append(_other(value))
    for name, value in kwargs.items():
        key.append(name)
        kind = type(value)
        if kind is ndarray:
            key.append(value.shape)
            key.append(value.dtype)
        elif kind is float:
            key.append(float)
        elif kind in _PLAIN:
            key.append(kind)
            key.append(value)
        else:
            key.append(_other(value))
    return tuple(key)


def _other(value: Any) -> Any:
    kind = conversion.kind_of(value)
    if kind == "torch":
        if conversion.passes_through(value):
            return _Unique()
        return (type(value), value.shape, value.dtype, value.requires_grad, value.device)
    if kind in ("jax", "cupy"):
        return (type(value), value.shape, value.dtype, conversion.residency(value))
    if kind == "tracer":
        return _Unique()
    if isinstance(value, (tuple, list)):
        return (type(value), *(_key((item,), {}) for item in value))
    if isinstance(value, dict):
        return (dict, *((name, _key((item,), {})) for name, item in value.items()))
    return type(value)


class _Unique:
    """A key that no table holds: such a call always takes the careful path."""

    __slots__ = ()


def request_of(
    operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, deterministic: bool = False
) -> Request:
    """Read a request off arguments: arrays give shapes, dtype, residency; plain values are parameters."""
    shapes: list[tuple[int, ...]] = []
    parameters: dict[str, Any] = {}
    dtype, residency, gradient = "", "numpy", False
    named = [(f"arg{i}", value) for i, value in enumerate(args)] + list(kwargs.items())
    for name, value in named:
        for leaf in _leaves(value):
            kind = conversion.kind_of(leaf)
            if kind is not None:
                shapes.append(tuple(map(int, leaf.shape)))
                dtype = dtype or conversion.dtype_name(leaf)
                gradient = gradient or conversion.requires_grad(leaf)
                if kind != "numpy" and residency == "numpy":
                    residency = conversion.residency(leaf)
            elif type(leaf) in _PLAIN and leaf is not None:
                parameters[name] = leaf
    built = Request.from_arrays(operation, tuple(shapes) or ((),), dtype or "float64", parameters, gradient, residency)
    return replace(built, deterministic=True) if deterministic else built


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value]


def _exhausted(choice: Choice, error: NoCandidateError) -> NoCandidateError:
    """The error that says for which request nothing is left, and what was never tried."""
    excluded = "".join(f"\n  {name}: not tried, {why}" for name, why in choice.decision.excluded)
    told = NoCandidateError(f"{choice.request.describe()}: {error}{excluded}")
    told.failures = error.failures
    return told
