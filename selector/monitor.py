"""Running a caller's function with monitoring: which forms it may have, and how the chain is walked."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..executors import registry
from ..executors.errors import NoCandidateError, UnsupportedError
from ..executors.fallback import Attempt, run_chain
from ..telemetry.outcome import Failure
from .failures import CURABLE, classify
from .request import Request

if TYPE_CHECKING:
    from .selector import IntelligentBackendSelector
    from .workload import WorkloadCharacteristics

perf_counter = time.perf_counter
MOST_FORMS = 4096
_SYNCHRONOUS = frozenset({"numpy", "scipy", "numba"})  # spares the hot path a look at the capabilities


class Monitor:
    """Executes callables for a selector; owned by it."""

    def __init__(self, selector: IntelligentBackendSelector) -> None:
        self._selector = selector
        self._takes_backend: dict[CodeType, bool] = {}
        self._waits: dict[str, Callable[[Any], None] | None] = {}
        self._objects: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def execute(
        self, label: str, backend: str | None, func: Callable[..., Any] | Mapping[str, Callable[[], Any]],
        workload: WorkloadCharacteristics, fallback: Sequence[str] | None,
    ) -> Any:  # fmt: skip
        """See `IntelligentBackendSelector.execute_with_monitoring`."""
        selector = self._selector
        if backend is None or backend == "auto":
            backend = selector.select_backend(workload)
        call = self._call_for(func, backend)
        sites = selector.sites
        site = sites.known.get((workload._key, backend)) or sites.of(workload, backend)
        started = perf_counter()
        try:
            result = call()
            if backend not in _SYNCHRONOUS:
                self._wait_for(backend, result)
        except Exception as error:
            return self._fall_back(label, backend, func, workload, fallback, error, perf_counter() - started)
        ended = perf_counter()
        if sites.fresh and sites.first_run(site):
            selector.record(workload, backend, seconds=ended - started, label=label, cold=True, rule="asked")
        elif selector._recording():
            history = selector.history
            history.buffer.append((site, ended, ended - started, "asked", label, 1))
            if not history.awake:
                history.wake()
        if sites.failing and site in sites.failing:
            sites.recovered(site)
        return result

    def _wait_for(self, backend: str, result: Any) -> None:
        """Wait until `result` has been computed: the clock is read after that, and its errors belong to this call."""
        name = backend.partition("@")[0].partition("/")[0]
        if name not in self._waits:
            executor = registry.executor(name)
            self._waits[name] = executor.synchronize if executor.capabilities.asynchronous else None
        wait = self._waits[name]
        if wait is not None and registry.row(name).library in sys.modules:
            wait(result)

    def _call_for(self, func: Any, backend: str) -> Callable[[], Any]:
        """`func` for this backend as a call without arguments."""
        if isinstance(func, Mapping):
            found: Callable[[], Any] | None = func.get(backend)
            return found or partial(_absent, backend, func)
        if self.takes_backend(func):
            return partial(func, backend=backend)
        plain: Callable[[], Any] = func
        return plain

    def takes_backend(self, func: Any) -> bool:
        """Whether `func` has a parameter called `backend`; inspected once, not per call."""
        code = getattr(func, "__code__", None)
        if code is None or func.__dict__:  # a decorator's wrappers share one code object but not what they wrap
            return self._inspected(func)
        known = self._takes_backend.get(code)
        if known is None:
            if len(self._takes_backend) >= MOST_FORMS:
                self._takes_backend.clear()
            known = self._takes_backend[code] = _has_backend(func)
        return known

    def _inspected(self, func: Any) -> bool:
        """The same for wrappers, partials and objects that can be called: known by the object, held weakly."""
        func = getattr(func, "__func__", func)  # a bound method is a new object at each access
        try:
            known = self._objects.get(func)
            if known is None:
                known = self._objects[func] = _has_backend(func)
        except TypeError:  # not hashable, or no weak reference to be had
            return _has_backend(func)
        return known

    def _fall_back(
        self, label: str, backend: str, func: Any, workload: WorkloadCharacteristics,
        fallback: Sequence[str] | None, error: Exception, spent: float,
    ) -> Any:  # fmt: skip
        """Walk the chain after the first attempt failed."""
        failure = classify(backend, error)
        if failure is None:
            raise error
        names = self._chain(workload, backend, fallback)
        if not isinstance(func, Mapping) and not self.takes_backend(func):
            if failure not in CURABLE and names:
                self._told(workload, label, backend, spent, failure, str(error))
                raise _closure(workload, backend, failure, error, names) from error
            names = [backend] if names else []  # the same code once more, and recorded as what it is

        def failed() -> Any:
            raise error

        def told(attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
            took = spent if attempt.call is failed else seconds
            self._told(workload, label, attempt.name, took, failure, message)

        attempts = [Attempt(backend, failed, partial(classify, backend))]
        attempts += [Attempt(name, self._call_for(func, name), partial(classify, name)) for name in names]
        try:
            return run_chain(attempts, on_outcome=told)
        except NoCandidateError as nothing:
            told_error = NoCandidateError(f"{Request.from_workload(workload).describe()}: {nothing}")
            told_error.failures = nothing.failures
            raise told_error from nothing.__cause__

    def _chain(self, workload: WorkloadCharacteristics, backend: str, fallback: Sequence[str] | None) -> list[str]:
        if fallback is not None:
            names = [str(name) for name in fallback]
            for name in names:
                registry.row(name)
            return names
        try:
            choice = self._selector._known(workload, None).choice
        except NoCandidateError:
            return []  # what happened to the first attempt says more
        backends = [choice.variants[name].backend for name in choice.decision.chain]
        return [name for name in dict.fromkeys(backends) if name != backend]

    def _told(
        self, workload: WorkloadCharacteristics, label: str, backend: str, seconds: float, failure: Failure | None,
        message: str,
    ) -> None:  # fmt: skip
        """Record one attempt of a chain; the caller's own errors say nothing about the backend."""
        if failure is not Failure.USER_ERROR:
            self._selector.record(
                workload, backend, seconds=seconds, failure=failure, message=message, label=label, rule="fallback"
            )


def _absent(backend: str, func: Mapping[str, Any]) -> Any:
    raise UnsupportedError(f"the mapping has no callable for {str(backend)!r}; it has: {', '.join(map(str, func))}")


def _has_backend(func: Any) -> bool:
    """Whether a parameter called `backend` is left to fill; a partial's own `backend=` is the caller's word."""
    if isinstance(func, partial) and "backend" in func.keywords:
        return False
    try:
        parameter = inspect.signature(func).parameters.get("backend")
    except (TypeError, ValueError):
        return False  # some built-ins have no signature; they are called without arguments
    return parameter is not None and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY


def _closure(
    workload: WorkloadCharacteristics, backend: str, failure: Failure, error: Exception, left: list[str]
) -> NoCandidateError:
    """The error for a plain closure that failed in a way that running it again cannot cure."""
    request = Request.from_workload(workload)
    told = NoCandidateError(
        f"{request.describe()} failed on {backend} ({failure}: {error}), and {', '.join(left)} could not be tried: the "
        "function is a plain closure that does not know which backend is meant, so running it again would repeat the "
        "very code that failed. Pass a mapping {backend: callable}, or let the function take `backend`."
    )
    told.failures = [(backend, failure, str(error))]
    return told
