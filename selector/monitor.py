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
from ..executors.errors import BackendUnavailableError, NoCandidateError, PointsmanError, UnsupportedError
from ..executors.fallback import Attempt, run_chain
from ..telemetry.outcome import Failure, Site
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
        self._legal: set[str] = set()  # names that have been found to be backends
        self._keys: set[str] = set()  # keys of mappings that have been found to be backends, variants or devices

    def execute(
        self, label: str, backend: str | None, func: Callable[..., Any] | Mapping[str, Callable[[], Any]],
        workload: WorkloadCharacteristics, fallback: Sequence[str] | None,
    ) -> Any:  # fmt: skip
        """See `IntelligentBackendSelector.execute_with_monitoring`."""
        selector = self._selector
        if fallback and not self._legal.issuperset(fallback):
            self._check(fallback)
        if backend is None or backend == "auto":
            backend = self._chosen(func, workload)
        call = self._call_for(func, backend)
        sites = selector.sites
        try:
            site = sites.known.get((workload._key, backend)) or self._site(workload, backend)
        except BackendUnavailableError as error:
            return self._fall_back(label, backend, func, workload, fallback, error, 0.0, ran=False)
        except AttributeError:
            if hasattr(workload, "_key"):
                raise
            raise TypeError(f"workload: found {workload!r}; give a WorkloadCharacteristics") from None
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

    def _chosen(self, func: Any, workload: WorkloadCharacteristics) -> str:
        """The decision's backend; of a mapping's backends the one that comes first in the decision's chain."""
        backend = self._selector.select_backend(workload)
        if isinstance(func, Mapping) and backend not in func:
            choice = self._selector._known(workload, None).choice
            backends = (choice.variants[name].backend for name in choice.decision.chain)
            return next((name for name in backends if name in func), backend)
        return backend

    def _site(self, workload: WorkloadCharacteristics, backend: str) -> Site:
        """Where runs of `workload` on `backend` are recorded, checked the first time."""
        if workload.require is not None and not self._satisfies(workload, backend):
            raise ValueError(
                f"backend={str(backend)!r} and require={workload.require!r} of the workload contradict each other; "
                "drop one of them"
            )
        return self._selector.sites.of(workload, backend)

    def _satisfies(self, workload: WorkloadCharacteristics, backend: str) -> bool:
        """Whether `backend` is what the workload requires; NoCandidateError where nothing is."""
        require = workload.require
        if require == "cpu":
            return "@" not in backend
        if require in ("gpu", "cuda"):
            return "@" in backend or backend in {
                variant.backend for variant in self._selector._known(workload, None).choice.variants.values()
            }
        return require is None or backend.partition("@")[0].partition("/")[0] == require

    def _check(self, fallback: Sequence[str]) -> None:
        """Refuse what is no list of backends before anything runs; a backend of another version is told in its turn."""
        if isinstance(fallback, str) or not isinstance(fallback, Sequence):
            raise TypeError(
                f"fallback_backends: found {fallback!r}; give a list of backends, such as ['numpy'], or None for the "
                "decision's own chain"
            )
        for name in fallback:
            try:
                registry.row(name)
            except BackendUnavailableError:
                continue
            self._legal.add(name)

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
            if not (func and self._keys.issuperset(func)):
                self._check_mapping(func)
            found: Callable[[], Any] | None = func.get(backend)
            return partial(_absent, backend, func) if found is None else found
        if self.takes_backend(func):
            return partial(func, backend=backend)
        plain: Callable[[], Any] = func
        return plain

    def _check_mapping(self, func: Mapping[str, Any]) -> None:
        """Refuse a mapping that cannot be what was meant; its keys are looked at once, not per call."""
        if not func:
            raise TypeError("func: found an empty mapping; give {backend: function without arguments}")
        for key, call in func.items():
            if not callable(call):
                raise TypeError(
                    f"func[{str(key)!r}]: found {type(call).__name__}, which cannot be called; give a function without "
                    "arguments, such as lambda: f(x)"
                )
            try:
                registry.row(str(key).partition("@")[0].partition("/")[0])
            except BackendUnavailableError:
                pass  # of another version: no candidate, and no mistake
            except ValueError as error:
                raise ValueError(f"func: {error}") from None
        self._keys.update(func)

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
        fallback: Sequence[str] | None, error: Exception, spent: float, *, ran: bool = True,
    ) -> Any:  # fmt: skip
        """Walk the chain after the first attempt failed; `ran`: the function did run."""
        if isinstance(func, Mapping) and isinstance(error, TypeError):
            self._check_mapping(func)  # of known keys, but perhaps with a value that is no function
        failure = classify(backend, error)
        if failure is None:
            raise error
        if self._selector.settings.fail_fast:
            if ran:
                self._told(workload, label, backend, spent, failure, str(error))
            raise error
        names = self._chain(workload, backend, fallback)
        refused: dict[str, Exception] = {
            name: why for name in names if (why := self._why_not_tried(func, workload, name))
        }
        if not ran or (isinstance(func, Mapping) and backend not in func):
            refused[backend] = error
        if not isinstance(func, Mapping) and not self.takes_backend(func):
            if not ran:  # it still has its one run
                names = names[: next((i for i, name in enumerate(names, 1) if name not in refused), None)]
            elif failure not in CURABLE and names:
                self._told(workload, label, backend, spent, failure, str(error))
                raise _closure(workload, backend, failure, error, names) from error
            else:
                names = [backend] if names else []  # the same code once more, and recorded as what it is

        def failed() -> Any:
            raise error

        def told(attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
            if attempt.name in refused:
                return  # nothing ran, and that is not the backend's fault
            took = spent if attempt.call is failed else seconds
            self._told(workload, label, attempt.name, took, failure, message)

        attempts = [Attempt(backend, failed, partial(classify, backend))]
        for name in names:
            call = partial(_raise, refused[name]) if name in refused else self._call_for(func, name)
            attempts.append(Attempt(name, call, partial(classify, name)))
        try:
            return run_chain(attempts, on_outcome=told)
        except NoCandidateError as nothing:
            told_error = NoCandidateError(f"{Request.from_workload(workload).describe()}: {nothing}")
            told_error.failures = nothing.failures
            raise told_error from nothing.__cause__

    def _chain(self, workload: WorkloadCharacteristics, backend: str, fallback: Sequence[str] | None) -> list[str]:
        if fallback is not None:
            return [str(name) for name in fallback]
        try:
            choice = self._selector._known(workload, None).choice
        except NoCandidateError:
            return []  # what happened to the first attempt says more
        backends = [choice.variants[name].backend for name in choice.decision.chain]
        return [name for name in dict.fromkeys(backends) if name != backend]

    def _why_not_tried(self, func: Any, workload: WorkloadCharacteristics, name: str) -> PointsmanError | None:
        """Why the next in the chain is passed by without a run; None: it may run."""
        try:
            registry.row(name)
            if not self._satisfies(workload, name):
                return UnsupportedError(f"{workload.require!r} is required")
        except BackendUnavailableError as error:
            return error
        except NoCandidateError:
            return UnsupportedError(f"{workload.require!r} is required")
        if isinstance(func, Mapping) and name not in func:
            return _not_in(func, name)
        return None

    def _told(
        self, workload: WorkloadCharacteristics, label: str, backend: str, seconds: float, failure: Failure | None,
        message: str,
    ) -> None:  # fmt: skip
        """Record one attempt of a chain; the caller's own errors say nothing about the backend."""
        if failure is not Failure.USER_ERROR:
            self._selector.record(
                workload, backend, seconds=seconds, failure=failure, message=message, label=label, rule="fallback"
            )


def _not_in(func: Mapping[str, Any], backend: str) -> UnsupportedError:
    has = ", ".join(map(str, func))
    return UnsupportedError(f"the mapping has no callable for {str(backend)!r}; it has: {has}")


def _absent(backend: str, func: Mapping[str, Any]) -> Any:
    raise _not_in(func, backend)


def _raise(error: Exception) -> Any:
    raise error


def _has_backend(func: Any) -> bool:
    """Whether a parameter called `backend` is left to fill; a partial's own `backend=` is the caller's word."""
    if not callable(func):
        raise TypeError(
            f"func: found {func!r}; give a function that takes `backend`, a mapping {{backend: function}}, or a "
            "function without arguments"
        )
    if inspect.iscoroutinefunction(func) or inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(
            f"func: {getattr(func, '__qualname__', func)!r} is a coroutine or generator function: calling it computes "
            "nothing that could be timed. Run it inside `with selector.measure(workload) as backend:`"
        )
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
