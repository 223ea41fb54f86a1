"""What a library that holds a selector needs beside deciding: to bind a choice once, and to copy what holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar, cast, overload

from ..executors import registry
from ..executors.base import Variant
from ..executors.errors import BackendUnavailableError, NoCandidateError
from ..executors.fallback import Attempt, run_chain
from ..executors.prepare import prepare
from .engine import Choice
from .failures import classify

if TYPE_CHECKING:
    from .selector import IntelligentBackendSelector
    from .workload import WorkloadCharacteristics

P = ParamSpec("P")
R = TypeVar("R")


class Bindable:
    """The part of `IntelligentBackendSelector` that libraries build on."""

    @overload
    def bind(self, workload: WorkloadCharacteristics) -> Callable[..., Any]: ...
    @overload
    def bind(self, workload: WorkloadCharacteristics, func: Mapping[str, Callable[P, R]]) -> Callable[P, R]: ...
    @overload
    def bind(self, workload: WorkloadCharacteristics, func: Callable[..., R]) -> Callable[..., R]: ...
    def bind(self, workload: WorkloadCharacteristics, func: Any = None) -> Callable[..., Any]:
        """Decide once for `workload`: the returned callable costs what a plain call costs.

        The chosen library is imported now, so that what cannot be imported is passed over here and not in the first
        call. After that nothing is decided, recorded or tried, and nothing falls back: bind again for other sizes,
        and let some calls be measured elsewhere if the choice is to learn.

        Parameters
        ----------
        workload : the request.
        func : a mapping {backend: function}, of which one is returned as it is; or a function that takes ``backend``,
            which is returned with that filled in. Left out: the registered operation of the workload's name, as a
            function of its operands by position (of the kind that ``workload.residency`` says) and its parameters.

        Raises
        ------
        NoCandidateError
            Nothing in `func`, or no variant of the operation, can run the workload; each is listed with its reason.
        TypeError
            There is nothing to choose from: no registered operation of that name, or a `func` of another form.
        ValueError
            The mapping names a backend that does not exist.
        """
        selector = cast("IntelligentBackendSelector", self)
        if isinstance(func, Mapping):
            for name in func:
                with suppress(BackendUnavailableError):  # a name of another version is passed over
                    registry.check_name(name)
        elif func is not None and not selector._monitor.takes_backend(func):
            raise TypeError(
                f"func: {getattr(func, '__qualname__', func)!r} takes no `backend`, so there is nothing to choose; "
                "give a mapping {backend: function}, or a function that takes `backend`"
            )
        choice = selector._known(workload, None).choice
        ways = _variants(choice) if func is None else _callers(choice, func)
        attempts = [Attempt(name, way, partial(classify, backend)) for name, backend, way in ways]
        fail_fast = selector.settings.fail_fast
        bound: Callable[..., Any] = run_chain(attempts, on_outcome=lambda *_: None, fail_fast=fail_fast)
        return bound

    def __copy__(self) -> Self:
        """The selector itself: what it has learned belongs to the process."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """The selector itself: an object that holds one can be copied."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse: an open history and its locks stay in their process."""
        raise TypeError(
            "a selector is not pickled: it holds an open history. In the other process take "
            "pointsman.default_selector() or make one there; processes that share a history file share what they learn"
        )


_Ways = list[tuple[str, str, Callable[[], Callable[..., Any]]]]


def _variants(choice: Choice) -> _Ways:
    """(name, backend, what makes the callable) for each variant of the decision's chain."""
    request = choice.request
    if request.known_operation() is None:
        raise TypeError(
            f"{request.operation!r} is no registered operation, so pointsman has nothing to run for it; give "
            "func={backend: function}"
        )
    kinds = [request.kind] * len(request.shapes)

    def way(variant: Variant) -> Callable[..., Any]:
        return prepare(variant, kinds, out=request.kind, out_device=request.device).call

    chain = [choice.variants[name] for name in choice.decision.chain]
    return [(variant.name, variant.backend, partial(way, variant)) for variant in chain]


def _callers(choice: Choice, func: Any) -> _Ways:
    """The same for the caller's own functions."""
    backends = list(dict.fromkeys(choice.variants[name].backend for name in choice.decision.chain))
    has = [name for name in backends if name in func] if isinstance(func, Mapping) else backends
    if not has:
        given = ", ".join(map(str, func)) or "none at all"
        why = "".join(f"\n  {name}: {reason}" for name, reason in choice.decision.excluded)
        raise NoCandidateError(
            f"{choice.request.describe()}: the mapping has functions for {given}, of which none can run this; those "
            f"that can: {', '.join(backends)}{why}"
        )

    def way(name: str) -> Callable[..., Any]:
        registry.ensure(name)
        return cast(Callable[..., Any], func[name] if isinstance(func, Mapping) else partial(func, backend=name))

    return [(name, name, partial(way, name)) for name in has]
