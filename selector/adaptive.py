"""`@adaptive`: a function written once against the array API, run on the backend that suits each call."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import CodeType, MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import numpy as np

from ..executors import conversion, registry
from ..executors.base import Variant
from . import operations
from .arguments import all_leaves
from .decision import Decision
from .dispatch import Dispatcher
from .operations import Operation
from .portable import Portable
from .request import Request
from .selector import IntelligentBackendSelector
from .shared import default_selector
from .warmup import WarmUp, warm_up

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Adaptive(Generic[P, R]):
    """A decorated function: called like the original, run on the backend that is expected to be fastest.

    NumPy in, NumPy out; torch in, torch out; dtypes are never narrowed. Arrays that pointsman has no business with
    (masked arrays, tracers of `jax.jit`, tensors under `torch.compile`) go to the original, unrecorded.
    """

    def __init__(
        self, function: Callable[P, R], *, name: str | None = None, pure: bool = False, deterministic: bool = False,
        protected: bool = False, rerun: bool = True, selector: IntelligentBackendSelector | None = None,
    ) -> None:  # fmt: skip
        self._place = _place_of_xp(function)
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or operation_name(function)
        self._own = selector
        self._deterministic, self._rerun = deterministic, rerun
        self._declared = Operation(name=self.name, portable=Portable(function, pure=pure), protected=protected)
        operations.register_operation(self._declared)
        self._made: Dispatcher | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it: choose, execute, record."""
        made = self._made
        if made is None:
            made = self._dispatcher()
        if (kwargs and kwargs.get("xp") is not None) or len(args) > self._place:
            return self.function(*args, **kwargs)  # the caller has chosen
        return cast(R, made(*args, **kwargs))

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Decision:
        """The decision for these arguments, with its reasons. Runs and imports nothing."""
        return self._dispatcher().explain(*args, **kwargs)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R]:
        """Decide once for arguments like these; the returned call costs what a plain call costs."""
        return self._dispatcher().bind(*args, **kwargs)

    def warmup(
        self, *shapes: Any, dtype: str = "float64", variants: Sequence[str] | str | None = None, **parameters: Any
    ) -> WarmUp:
        """Import and compile ahead what calls on arrays of these shapes may be given.

        Parameters as for `pointsman.warmup`: each shape, tuple of shapes or array stands for one call; `parameters`
        are the function's own keywords. An exception of the function itself comes out.
        """
        return warm_up(self._dispatcher(), shapes, dtype, variants, parameters)

    def variant(self, backend: str, *, name: str | None = None) -> Callable[[F], F]:
        """Add a variant: ``@f.variant("numba")`` above a function of the same arguments (without ``xp``).

        A plain function is compiled by `numba.njit` on first use; one that is compiled already is taken as it is. The
        function takes the backend's own arrays: tensors for torch, JAX arrays for jax, else NumPy's.
        """
        registry.row(backend)

        def add(function: F) -> F:
            executor = registry.executor(backend)
            load = functools.partial(executor.adopt, function)
            gradients = executor.capabilities.gradients
            added = Variant(name=name or backend, backend=backend, load=load, gradients=gradients)
            kept = tuple(v for v in self._declared.variants if v.name != added.name)
            self._declared = replace(self._declared, variants=(*kept, added))
            operations.register_operation(self._declared)
            if self._made is not None:
                self._made.replace(self.operation)
            return function

        return add

    @property
    def operation(self) -> Operation:
        """The operation as the selector sees it."""
        return operations.spread(self._declared)

    def _dispatcher(self) -> Dispatcher:
        if self._made is None:
            selector = self._own or default_selector()
            made = _OwnDispatcher(
                self.operation, selector._engine, original=self._original,
                deterministic=self._deterministic, rerun=self._rerun,
            )  # fmt: skip
            selector.adopt(made)
            self._made = made
        return self._made

    def _original(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The undecorated function, with the namespace of its arrays where that is known."""
        return self.function(*args, **{**kwargs, "xp": _namespace_of(args, kwargs)})

    @overload
    def __get__(self, instance: None, owner: type) -> Adaptive[P, R]: ...
    @overload
    def __get__(
        self: Adaptive[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> AdaptiveMethod[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind as a method, like a plain function."""
        return self if instance is None else AdaptiveMethod(self, instance)

    def __reduce__(self) -> Any:
        """Pickle by name, as functions do; PicklingError where the name leads to something else."""
        where = (self.function.__module__, self.function.__qualname__)
        try:
            found = _find(*where)
        except (ImportError, AttributeError, KeyError) as error:
            found = error
        if found is not self:
            raise pickle.PicklingError(
                f"cannot pickle {self!r}: it goes by its name, and {'.'.join(where)} is not it; "
                "define it at the top of a module, under its own name"
            )
        return (_find, where)

    def __copy__(self) -> Adaptive[P, R]:
        return self

    def __deepcopy__(self, memo: object) -> Adaptive[P, R]:
        return self

    def __repr__(self) -> str:
        return f"<adaptive {self.name}: {', '.join(v.name for v in self.operation.variants)}>"


@dataclass(frozen=True, slots=True)
class _OwnRequest(Request):
    """A request that knows which function it is for."""

    own: Operation | None = None

    def known_operation(self) -> Operation | None:
        """The function's own operation."""
        return self.own


class _OwnDispatcher(Dispatcher):
    """Runs its own function's variants, whatever has been registered under the name since.

    Closures of one factory share their code and so their name and what is learned, but not what they compute; nor
    does a function that somebody still holds after its redefinition.
    """

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """The request that these arguments make."""
        made = super().request(args, kwargs)
        return _OwnRequest(**{f.name: getattr(made, f.name) for f in fields(made)}, own=self.operation)


class AdaptiveMethod(Generic[Q, R]):
    """An adaptive function bound to an instance; name, docstring and the rest are the function's own."""

    __slots__ = ("__func__", "__self__", "__weakref__")  # one is made at each access, so it must be made quickly

    def __init__(self, adaptive: Adaptive[Any, R], instance: object) -> None:
        self.__self__ = instance
        self.__func__ = adaptive

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R:
        return self.__func__(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__.function, name)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__func__.function.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        """Without the instance, as for any bound method."""
        return inspect.signature(MethodType(self.__func__.function, self.__self__))

    def __reduce__(self) -> Any:
        """Pickle as bound methods do."""
        return (getattr, (self.__self__, self.__func__.function.__name__))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdaptiveMethod) and (
            self.__self__ is other.__self__ and self.__func__ is other.__func__
        )

    def __hash__(self) -> int:
        return hash((AdaptiveMethod, self.__func__))

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"

    def explain(self, *args: Q.args, **kwargs: Q.kwargs) -> Decision:
        """The decision for these arguments."""
        return self.__func__.explain(self.__self__, *args, **kwargs)

    def warmup(
        self, *shapes: Any, dtype: str = "float64", variants: Sequence[str] | str | None = None, **parameters: Any
    ) -> WarmUp:
        """Import and compile ahead what calls of this instance's method may be given; see `Adaptive.warmup`."""
        return warm_up(self.__func__._dispatcher(), shapes, dtype, variants, parameters, (self.__self__,))

    def bind(self, *args: Q.args, **kwargs: Q.kwargs) -> Callable[Q, R]:
        """Decide once; the returned call takes the arguments without the instance."""
        return functools.partial(self.__func__.bind(self.__self__, *args, **kwargs), self.__self__)


@overload
def adaptive(function: Callable[P, R], /) -> Adaptive[P, R]: ...
@overload
def adaptive(
    *, name: str | None = None, pure: bool = False, deterministic: bool = False, protected: bool = False,
    rerun: bool = True, selector: IntelligentBackendSelector | None = None,
) -> Callable[[Callable[P, R]], Adaptive[P, R]]: ...  # fmt: skip
def adaptive(
    function: Callable[P, R] | None = None, /, *, name: str | None = None, pure: bool = False,
    deterministic: bool = False, protected: bool = False, rerun: bool = True,
    selector: IntelligentBackendSelector | None = None,
) -> Any:  # fmt: skip
    """Decorate a function written against the array API, so that each call runs where it is fastest.

    Parameters
    ----------
    function : takes arrays first and ``xp=None`` last; `xp` is the array-API namespace to compute with.
    name : how the history knows it; default: module.qualname and a hash of its code.
    pure : it depends on nothing but its arguments, so `jax.jit` may compile it (jit bakes in globals and `self`).
    deterministic : always the default backend: no learned choice, the same bits in every run.
    protected : never explored in line; only what is already known may be chosen.
    rerun : an error that only a non-default backend raises is settled by one run on the default. False forbids that
        for functions with side effects; the error then comes out.
    selector : a selector of its own; default: the shared one.

    Returns
    -------
    Adaptive
        Same signature and docstring; plus ``explain``, ``bind`` and ``variant``.
    """

    def wrap(f: Callable[P, R]) -> Adaptive[P, R]:
        return Adaptive(
            f, name=name, pure=pure, deterministic=deterministic, protected=protected, rerun=rerun, selector=selector
        )

    return wrap if function is None else wrap(function)


def operation_name(function: Callable[..., Any]) -> str:
    """module.qualname plus a hash of the code: an edited function is another operation."""
    text = _fingerprint(function.__code__)
    given: dict[Any, Any] = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
    plain = {name: value for name, value in given.items() if isinstance(value, int | float | str)}
    if plain:  # what a function does by default is part of what it is
        text += f"|{plain!r}"
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{function.__module__}.{function.__qualname__}#{digest}"


def _fingerprint(code: CodeType) -> str:
    constants = [_constant(c) for c in code.co_consts]
    return f"{code.co_code.hex()}|{code.co_names}|{code.co_varnames}|{constants}"


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _fingerprint(value)
    # The order of a set of strings is another one in every process.
    return f"frozenset({sorted(map(repr, value))})" if isinstance(value, frozenset) else repr(value)


def _namespace_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The namespace of the first array that brings one; NumPy's for masked arrays, labelled arrays and the like."""
    for value in all_leaves(args, kwargs):
        library = conversion.library_of(value)
        owner = registry.of_kind(library) if library not in (None, "numpy") else None
        if owner is not None:
            return owner.namespace()
        if conversion.kind_of(value) == "foreign" and not isinstance(value, np.ndarray):
            namespace = getattr(value, "__array_namespace__", None)
            if namespace is not None:
                return namespace()
    return registry.executor("numpy").namespace()


def _place_of_xp(function: Callable[..., Any]) -> int:
    """How many positional arguments leave `xp` to us; TypeError where the function could not be given one."""
    if not hasattr(function, "__code__"):
        found = type(function).__qualname__
        raise TypeError(
            f"@adaptive decorates a Python function, not a {found}; put it below @staticmethod and the like"
        )
    if (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or (inspect.isasyncgenfunction(function))
    ):
        raise TypeError(
            f"@adaptive: {function.__qualname__} is a coroutine or generator function: its call computes nothing; "
            "decorate the plain function that computes, and call it from there"
        )
    names = list(inspect.signature(function).parameters.values())
    for place, parameter in enumerate(names):
        if parameter.name == "xp" and parameter.kind is not parameter.POSITIONAL_ONLY:
            return sys.maxsize if parameter.kind is parameter.KEYWORD_ONLY else place
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in names):
        return sys.maxsize
    raise TypeError(
        f"@adaptive: {function.__qualname__} takes no `xp`; give it the keyword xp=None and compute with xp.sum, "
        "xp.fft and so on, so that it can run on every backend"
    )


def _find(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = found.__dict__[part] if isinstance(found, type) else getattr(found, part)
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found
