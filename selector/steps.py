"""The steps of a chain: which operation, and the operands and parameters that stay the same from call to call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from . import operations
from .adaptive import Adaptive
from .dispatch import Dispatcher
from .operations import Operation
from .selector import IntelligentBackendSelector

_FIXED = (int, float, complex, bool, str, bytes, type(None), np.generic, np.dtype)


class Step:
    """One operation of a chain with what it takes beside the value handed on; made by `step`.

    Attributes
    ----------
    target : an adaptive function, or the name of an operation.
    leading, operands : positional operands before and after the value handed on. They are held, not copied: a change
        made to one in place counts from the next call on.
    parameters : named ones; read-only.
    """

    __slots__ = ("leading", "operands", "parameters", "target")

    def __init__(
        self, target: str | Adaptive[..., Any], leading: tuple[Any, ...] = (), operands: tuple[Any, ...] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.target = target
        self.leading = leading
        self.operands = operands
        self.parameters: Mapping[str, Any] = MappingProxyType(dict(parameters or {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return Step, (self.target, self.leading, self.operands, dict(self.parameters))

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.target if isinstance(self.target, str) else self.target.name

    @property
    def plain(self) -> bool:
        """Whether it takes nothing but the value handed on."""
        return not (self.leading or self.operands or self.parameters)

    @property
    def held(self) -> tuple[Any, ...]:
        """What of its operands and parameters may be another array, or another kind of array, from call to call."""
        return tuple(v for v in (*self.leading, *self.operands, *self.parameters.values()) if not _fixed(v))

    @property
    def owner(self) -> IntelligentBackendSelector | None:
        """The selector that the function was decorated for, if it has one of its own."""
        return None if isinstance(self.target, str) else self.target._own

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call that is handed `args` and `kwargs`."""
        return (*self.leading, *args, *self.operands), {**self.parameters, **kwargs}

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` with this step's operands and parameters put in: what the hot path runs."""
        if self.plain:
            return call
        if not self.operands:
            return functools.partial(call, *self.leading, **self.parameters)
        leading, operands, parameters = self.leading, self.operands, self.parameters

        def with_operands(*args: Any, **kwargs: Any) -> Any:
            return call(*leading, *args, *operands, **parameters, **kwargs)

        return with_operands

    def asked(self, dispatcher: Dispatcher) -> Callable[[], Operation | None]:
        """Gives the operation that the target stands for at the moment: a notebook defines names again."""
        if isinstance(self.target, str):
            return functools.partial(operations.find, self.target)
        return functools.partial(getattr, dispatcher, "operation")

    def dispatcher(self, selector: IntelligentBackendSelector) -> Dispatcher:
        """What runs it by itself."""
        return selector.dispatcher(self.target) if isinstance(self.target, str) else self.target._dispatcher()


def _fixed(value: Any) -> bool:
    """Whether it can neither change nor hold what can."""
    return isinstance(value, _FIXED) or (type(value) is tuple and all(map(_fixed, value)))


def step(operation: str | Operation | Callable[..., Any], /, *operands: Any, **parameters: Any) -> Step:
    """A step of a chain that takes more than the value handed on.

    Parameters
    ----------
    operation : name of a kernel or registered operation, an `Operation`, or a function decorated with `@adaptive`;
        also `functools.partial` of such a function, whose operands come before the value handed on.
    *operands : come after the value handed on: ``step("matmul", w)`` computes ``x @ w``.
    **parameters : named ones: ``step("fft", norm="ortho")``.

    Raises
    ------
    TypeError
        It is a plain function, which has nothing to choose from: decorate it with `@pointsman.adaptive`.
    """
    return as_step(operation, operands, parameters)


def as_step(given: Any, operands: tuple[Any, ...] = (), parameters: Mapping[str, Any] | None = None) -> Step:
    """`given` as a `Step`; see `step` for what it may be."""
    named = dict(parameters or {})
    if isinstance(given, Step):
        return Step(given.target, given.leading, (*given.operands, *operands), {**given.parameters, **named})
    if isinstance(given, functools.partial):
        inner = as_step(given.func, operands, {**given.keywords, **named})
        return Step(inner.target, (*inner.leading, *given.args), inner.operands, inner.parameters)
    if isinstance(given, Operation):
        if operations.find(given.name) is None:
            operations.register_operation(given)
        given = given.name
    bound = getattr(given, "__func__", None)
    if isinstance(bound, Adaptive):  # a method: its instance comes first
        return Step(bound, (given.__self__,), operands, named)
    if not isinstance(given, str | Adaptive):
        raise TypeError(
            f"chain: found {given!r} as a step; give the name of a kernel, a function decorated with "
            "@pointsman.adaptive, or pointsman.step(...) of one of these with its operands and parameters"
        )
    return Step(given, (), operands, named)
