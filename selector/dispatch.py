"""Calls on arrays: from arguments to a bound variant in about a microsecond, recorded on the way out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from logging import INFO, WARNING
from typing import Any, Protocol

import numpy as np

from ..executors import conversion, registry
from ..executors.base import Variant
from ..executors.errors import NoCandidateError, UnsupportedError, WrongResultError
from ..executors.fallback import Attempt, run_chain
from ..executors.prepare import Prepared, prepare
from ..telemetry.history import History
from ..telemetry.outcome import Failure, Outcome
from . import verify
from .arguments import all_leaves, key_of, request_of, stands_apart
from .carriage import moves_of
from .decision import Decision, left_alone
from .engine import Choice, Engine, compiles
from .entry import Entry
from .failures import classify, import_outcome
from .logs import log
from .operations import Operation
from .request import Request
from .settings import SCOPE
from .tables import Tables
from .traffic import Due

ndarray = np.ndarray
perf_counter = time.perf_counter

UNSAMPLED = 64
"""Every one of an entry's first calls is recorded; only then does sampling begin."""


class Original(Protocol):
    """What runs arguments that pointsman leaves alone (tracers, masked arrays, ...)."""

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function as if pointsman were not there."""


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
        self._prepared: dict[Any, Prepared] = {}
        self.tables = Tables(engine, self._prepared)
        self._entries = self.tables.entries  # of the load that holds: the hot path saves itself a step
        self._loaded: dict[str, Callable[..., Any]] = {}
        self._history: History = engine.history
        self._append = engine.history.buffer.append

    # ------------------------------------------------------------------------------------------ the hot path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the operation: choose, execute, record."""
        if len(args) == 1 and not kwargs and type(args[0]) is ndarray:
            x = args[0]
            key: Any = (x.shape, x.dtype)
        else:
            key = key_of(args, kwargs)
        here = SCOPE.get()
        if here is not None:
            key = (here, key)
        entry = self._entries.get(key)
        if entry is None or entry.tickets:
            return self._slow(key, entry, args, kwargs)
        if entry.skip > 0:  # two threads may both count the last one down
            entry.skip -= 1
            try:
                return entry.call(*args, **kwargs)
            except Exception as error:
                return self._rescue(entry, error, args, kwargs)
        started = perf_counter()
        try:
            result = entry.timed(*args, **kwargs)
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

    def _slow(self, key: Any, entry: Entry | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if stands_apart(args, kwargs):
            return self._untouched(args, kwargs)
        due = entry is not None and getattr(entry, "tickets", None) is verify.DUE  # a chain's entries count no calls
        counting, choice = (entry if due else None), (entry.choice if entry is not None else None)
        if choice is None:
            known = self.tables.class_entry(key)
            if known is not None and known.tickets is not verify.DUE:
                return self._by_class(known, args, kwargs)
            counting = known
            if self._validate is not None:
                self._validate(*args, **kwargs)
            choice = self.engine.choose(self.request(args, kwargs))
            self.engine.adopt(choice)
        order, rule, sampling = choice.decision.chain, choice.decision.rule, choice.sampling
        trial = None
        if choice.tickets and not self.engine.settings().fail_fast:  # an error of a trial would be of our own making
            trial = self.engine.take_trial(choice)
        if trial is not None:
            log.debug("%s: trying %s", choice.request.describe(), trial)
            order, rule = (trial, *(name for name in order if name != trial)), "explore"
        check = False
        if sampling is not None:
            check = counting is not None or trial is not None or (entry is None and sampling.draws())
            if counting is not None:
                sampling.again(counting, counting.choice.tickets)
                key = None  # the entry that counts its calls stays
        return self._walk(choice, order, rule, key, args, kwargs, check=check)

    def _walk(
        self, choice: Choice, order: tuple[str, ...], rule: str, key: Any, args: tuple[Any, ...],
        kwargs: dict[str, Any], already: tuple[Attempt, ...] = (), *, check: bool = False,
    ) -> Any:  # fmt: skip
        """Try the variants in `order`, recording each attempt.

        `already` holds one that has failed; `check`: verify the first of `order`.
        """
        culprit, fail_fast = "", self.engine.settings().fail_fast
        default = self.operation.variants[0].name
        if check and default in order[1:]:  # should the first be wrong, what it was compared with comes next
            order = (order[0], default, *(name for name in order[1:] if name != default))

        def told(attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
            nonlocal culprit
            if failure is Failure.USER_ERROR:
                culprit = attempt.name
            elif failure is not None:
                self._note_failure(choice, choice.variants[attempt.name], failure, message, seconds, rule)

        attempts = [*already]
        for name in order:
            variant, used = choice.variants[name], "fallback" if attempts else rule
            checked = check and not attempts and name != default and self._rerun
            call = partial(self._attempt, choice, variant, used, key, args, kwargs, check=checked)
            again = call if self._rerun else None
            attempts.append(Attempt(name, call, partial(classify, variant.backend), again))
        try:
            return run_chain(attempts, on_outcome=told, fail_fast=fail_fast)
        except Exception as error:
            if culprit and not fail_fast:
                return self._settle(choice, culprit, error, args, kwargs)
            if isinstance(error, NoCandidateError) and not fail_fast:
                raise _exhausted(choice, error) from error.__cause__
            raise

    def _attempt(
        self, choice: Choice, variant: Variant, rule: str, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
        *, check: bool = False,
    ) -> Any:  # fmt: skip
        prepared = self.prepared(variant, choice.request, args, kwargs, rule)
        request, site = choice.request, choice.sites[variant.name]
        warm = self.engine.is_warm(request, variant)
        before = verify.copies(args, kwargs) if check else None
        with self.engine.announced(request, variant):
            started = perf_counter()
            result, split = prepared.split(*args, **kwargs)
            seconds = perf_counter() - started
        if before is not None:
            evidence = verify.wrong(self.operation, variant, request, result, args, kwargs, before, self._plain)
            if evidence is not None:
                raise WrongResultError(evidence)
        how, compiled = compiles(variant), split.compiled
        if compiled and warm and how == "shape":
            compiled = False  # what was made for this shape had not been kept: every call pays that
        once_s = self.engine.learner.once_s(
            site, seconds, trial=rule == "explore", compiled=compiled, fresh=not warm, eager=how == "never",
            expected_s=choice.expected_s(variant.name),
        )  # fmt: skip
        compile_s = min(once_s, split.compute_s)
        self._record(
            Outcome(
                site, self._history.now(), seconds, convert_s=split.convert_s, transfer_s=split.transfer_s,
                compile_s=compile_s, rule=rule,
            )
        )  # fmt: skip
        for moved in moves_of(request, variant, split, result, self._history.now()):
            self._record(moved)
        self.engine.succeeded(request, variant, prepared)
        if key is not None and variant.name == choice.decision.variant:
            self.tables.remember(key, prepared, choice, _like(request, args, kwargs))
        return result

    def _plain(self, arguments: verify.Arguments) -> Any:
        """The default's result for NumPy arguments, unrecorded."""
        args, kwargs = arguments
        request = self.request(args, kwargs)
        return self.prepared(self.operation.variants[0], request, args, kwargs).call(*args, **kwargs)

    def _by_class(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a new signature by its size class's choice: ever-new shapes cost a few microseconds, not a decision."""
        if self._validate is not None:
            self._validate(*args, **kwargs)
        site = entry.site
        timed, calls = entry.skip <= 0, 1
        if not timed:
            entry.skip -= 1
        started = perf_counter()
        try:
            result = (entry.timed if timed else entry.call)(*args, **kwargs)
        except Exception as error:
            return self._rescue(entry, error, args, kwargs)
        ended = perf_counter()
        if timed:
            seen = entry.seen = entry.seen + 1
            if seen > UNSAMPLED:
                entry.skip, calls = entry.stride - 1, entry.stride
            elements = next((a.size for a in args if type(a) is ndarray), site.size)
            work = site.work * elements / max(site.size, 1)
            self._history.buffer.append(
                (site._replace(work=work, size=elements), ended, ended - started, entry.rule, "", calls)
            )
            if not self._history.awake:
                self._history.wake()
        return result

    def _rescue(self, entry: Entry, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A known call failed: walk on with the rest of its chain, or let the caller's own error out unchanged."""
        choice = entry.choice
        variant = choice.variant

        def failed() -> Any:
            raise error

        again = partial(self._attempt, choice, variant, entry.rule, None, args, kwargs) if self._rerun else None
        first = Attempt(variant.name, failed, partial(classify, variant.backend), again)
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
        level = WARNING if failure is Failure.WRONG_RESULT else INFO
        log.log(level, "%s: %s failed (%s: %s)", choice.request.describe(), variant.name, failure, message)
        self.engine.failed(choice.request, variant, failure, message)
        outcome = Outcome(
            choice.sites[variant.name], self._history.now(), seconds, failure=failure, message=message[:500], rule=rule
        )
        self._record(outcome)
        self.tables.drop(variant)

    def _record(self, outcome: Outcome) -> None:
        if self.engine.learning and self.engine.settings().mode != "off":
            self._history.record(outcome)
            if outcome.rule == "explore":
                self._history.hurry()

    def _untouched(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._original is None:
            odd = next((x for x in all_leaves(args, kwargs) if conversion.kind_of(x) == "foreign"), None)
            if odd is not None:
                raise UnsupportedError(
                    f"{self.operation.name} got a {type(odd).__module__}.{type(odd).__qualname__}; it takes plain "
                    "NumPy, torch, jax or cupy arrays. Pass the bare array (for a masked array .filled(...), for a "
                    "Series .to_numpy())."
                )
            if self._validate is not None:
                self._validate(*args, **kwargs)
            native = self._native(args, kwargs)
            function = self._loaded.get(native.name)
            if function is None:
                # Not by way of the registry: its check would itself be traced, and fail.
                function = self._loaded[native.name] = native.load()
            return function(*args, **kwargs)
        return self._original(args, kwargs)

    def _native(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant:
        """The first variant of the library that traces or transforms these arguments; else the default."""
        kinds = {conversion.library_of(x) for x in all_leaves(args, kwargs)} - {None, "numpy"}
        own = (v for v in self.operation.variants if v.device == "cpu" and registry.executor(v.backend).kind in kinds)
        return next(own, self.operation.variants[0])

    # ------------------------------------------------------------------------------------------ for others

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """The request that these arguments make."""
        return request_of(self.operation.name, args, kwargs, deterministic=self._deterministic)

    def prepared(
        self, variant: Variant, request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any], rule: str = ""
    ) -> Prepared:
        """`variant` as a plain callable for arguments of these kinds; imports its library on first use."""
        kinds, named, out = like = _like(request, args, kwargs)
        key = (variant.name, *like)
        found = self._prepared.get(key)
        if found is None:
            kind, _, device = out.partition("@")
            found = prepare(variant, kinds, dict(named), out=kind, out_device=device or "cpu")
            if found.import_s:
                self._record(import_outcome(variant.backend, found.import_s, self._history.now(), rule))
            self._prepared[key] = found
        return found

    def bind(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Decide once for arguments like these and return the plain call; nothing is recorded, nothing is tried."""
        if stands_apart(args, kwargs):
            return lambda *args, **kwargs: self._untouched(args, kwargs)
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
        fail_fast = self.engine.settings().fail_fast
        found: Prepared = run_chain(attempts, on_outcome=lambda *_: None, fail_fast=fail_fast)
        return found.call

    def explain(self, *args: Any, **kwargs: Any) -> Decision:
        """The decision for these arguments, with its reasons. Runs, imports and spends nothing."""
        if stands_apart(args, kwargs):
            return left_alone(self.operation.name, all_leaves(args, kwargs))
        return self.engine.choose(self.request(args, kwargs)).decision

    def replace(self, operation: Operation) -> None:
        """Take over changed variants."""
        self.operation = operation
        self._prepared.clear()
        self._loaded.clear()
        self.tables.clear()

    def refresh(self, due: Due | None) -> None:
        """Make the choices that are due again; None drops them all."""
        if due is None:
            self.tables.clear()
        else:
            self.tables.refresh(due)

    def flip(self, context: str) -> None:
        """Go by the choices that were made for this load."""
        self.tables.flip(context)
        self._entries = self.tables.entries


def _like(request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What kinds of arguments a prepared call is made for, and where its result goes."""
    named = tuple((name, conversion.kind_of(value)) for name, value in kwargs.items())
    return tuple(map(conversion.kind_of, args)), named, request.residency


def _exhausted(choice: Choice, error: NoCandidateError) -> NoCandidateError:
    """The error that says for which request nothing is left, and what was never tried."""
    excluded = "".join(f"\n  {name}: not tried, {why}" for name, why in choice.decision.excluded)
    told = NoCandidateError(f"{choice.request.describe()}: {error}{excluded}")
    told.failures = error.failures
    return told
