"""A variant made ready to call: loaded, with just the conversions that given kinds of argument need."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import registry
from .base import Executor, Variant
from .conversion import kind_of, map_leaves
from .reuse import IMMUTABLE, reusing

_Function = Callable[..., Any]
_Leaf = Callable[[Any], Any]
_LEFT_ALONE = frozenset({None, "foreign", "tracer"})
_CONTAINERS = frozenset({tuple, list, dict})


class Split(NamedTuple):
    """Where the time of one call went, in wall seconds; `compute_s` is read after device work has finished."""

    convert_s: float  # a jitted JAX function converts its arguments itself: that is in `compute_s`
    transfer_s: float  # conversions to and from another device than the host
    compute_s: float
    import_s: float  # import and check; in the first measured call only
    compiled: bool | None  # whether the library compiled in this call, as it says itself; None: it does not say
    back_s: float = 0.0  # the part of `convert_s` or `transfer_s` that brought the result back


class _Plan(NamedTuple):
    """Which arguments are converted, decided once."""

    places: tuple[int, ...]  # positional arrays
    names: tuple[str, ...]  # named arrays
    loose: tuple[int, ...]  # positional arguments that are no array, but may be a list of some
    loose_names: tuple[str, ...]


class Prepared:
    """A variant ready to be called with arguments of fixed kinds; made by `prepare`.

    Attributes
    ----------
    call : the fastest form, arguments and result as the caller has them. Where no conversion is needed it is the
        loaded function itself.
    function : the loaded function, on the backend's own arrays.
    executor, variant : what runs it, and what it is.
    import_s : seconds that importing and checking took in `prepare`; 0.0 if nothing was left to import.
    asynchronous : whether `call` may return before the work is done.
    """

    __slots__ = (
        "_alone", "_into", "_out", "_plan", "_unreported_s",
        "asynchronous", "call", "executor", "function", "import_s", "variant",
    )  # fmt: skip

    call: _Function
    function: _Function
    executor: Executor
    variant: Variant
    import_s: float
    asynchronous: bool
    _alone: bool  # one array is all there is to convert, and all there is
    _plan: _Plan
    _into: _Leaf  # converts one array argument
    _out: _Leaf | None  # converts a whole result; None where it stays as it is
    _unreported_s: float

    @property
    def uncompiled(self) -> bool:
        """Whether its library says that nothing of it has been compiled yet."""
        return self.executor.signatures(self.function) == 0

    def split(self, *args: Any, **kwargs: Any) -> tuple[Any, Split]:
        """Call with every part timed, device work waited for: slower than `call`, with the same result."""
        executor, device, clock = self.executor, self.variant.device, time.perf_counter
        known = executor.signatures(self.function)
        with (executor.scope() if self._out else None) or nullcontext():
            started = clock()
            args, kwargs = _converted(args, kwargs, self._plan, self._into)
            if executor.is_asynchronous(device):
                executor.synchronize((args, kwargs))
            before = clock()
            result = self.function(*args, **kwargs)
            executor.synchronize(result)
            after = clock()
            if self._out is not None:
                result = self._out(result)
            ended = clock()
        moved_s, on_host = (before - started) + (ended - after), device == "cpu"
        compiled = None if known is None else (executor.signatures(self.function) or 0) > known
        import_s, self._unreported_s = self._unreported_s, 0.0
        parts = (moved_s, 0.0) if on_host else (0.0, moved_s)
        return result, Split(*parts, after - before, import_s, compiled, ended - after)


def prepare(
    variant: Variant,
    kinds: Sequence[str | None],
    kwarg_kinds: Mapping[str, str | None] | None = None,
    out: str = "numpy",
    out_device: str = "cpu",
) -> Prepared:
    """Load `variant` and make it callable with arguments of these kinds.

    Exactly the array arguments of another kind than the backend's are converted in, those in lists, tuples and
    dictionaries too. Arrays in the result are converted to kind `out`; what is no array is left alone. An array of no
    dimensions comes out to NumPy as a NumPy scalar, as NumPy's own functions give it. Results are writable, and share
    memory with an argument only where the function returns that argument or a view of it, as with NumPy.

    Parameters
    ----------
    variant : what to run.
    kinds, kwarg_kinds : `kind_of` each positional argument, and of each named one.
    out : kind of array that the caller wants back: the kind that came in.
    out_device : device on which arrays of kind `out` came in and are wanted back.

    Raises
    ------
    BackendUnavailableError : the backend is missing or broken.
    """
    executor, import_s = registry.ensure(variant.backend)
    started, modules = time.perf_counter(), len(sys.modules)
    function = executor.prepare(variant.load(), variant)
    if len(sys.modules) != modules:
        import_s += time.perf_counter() - started  # it imported more of its library: `scipy.signal` takes seconds
    elsewhere = variant.device != out_device
    self = Prepared()
    self.variant, self.executor, self.function = variant, executor, function
    self.import_s = self._unreported_s = import_s
    self._out = outward(executor, out, out_device) if executor.kind != out or elsewhere else None
    # A result that stays where it is may come back before the arguments have been read: those are copied then.
    host_call = self._out is not None
    into, device = executor.convert_in, variant.device
    self._into = executor.converter(function, device) if host_call else partial(into, device=device)
    if variant.reads_only and out in IMMUTABLE and executor.kind != out:  # where the result is a copy in any case
        self._into = reusing(self._into, (executor.kind, device))
    self._plan = _planned(executor.kind, elsewhere, kinds, kwarg_kinds or {}, converts=host_call)
    self._alone = self._plan.places == (0,) and len(kinds) == 1 and not kwarg_kinds
    self.asynchronous = self._out is None and executor.is_asynchronous(variant.device)
    self.call = _calling(self)
    return self


def _planned(
    own: str, elsewhere: bool, kinds: Sequence[str | None], named: Mapping[str, str | None], *, converts: bool
) -> _Plan:
    def moves(kind: str | None) -> bool:
        return kind not in _LEFT_ALONE and (kind != own or elsewhere)

    return _Plan(
        tuple(place for place, kind in enumerate(kinds) if moves(kind)),
        tuple(name for name, kind in named.items() if moves(kind)),
        tuple(place for place, kind in enumerate(kinds) if kind is None and converts),
        tuple(name for name, kind in named.items() if kind is None and converts),
    )


def _calling(prepared: Prepared) -> _Function:
    """The closure with as few steps as the conversions allow: it is on the hot path."""
    function, plan, outward, scope = prepared.function, prepared._plan, prepared._out, prepared.executor.scope
    if outward is None and not plan.places and not plan.names:
        return function
    into = prepared._into

    def any_form(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _converted(args, kwargs, plan, into)
        result = function(*args, **kwargs)
        return result if outward is None else outward(result)

    def one_array(x: Any) -> Any:
        result = function(into(x))
        return result if outward is None else outward(result)

    call = one_array if prepared._alone else any_form
    if outward is None or scope() is None:
        return call

    def scoped(*args: Any, **kwargs: Any) -> Any:
        with scope() or nullcontext():
            return call(*args, **kwargs)

    return scoped


def _converted(
    args: tuple[Any, ...], kwargs: dict[str, Any], plan: _Plan, into: _Leaf
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    places, names, loose, loose_names = plan
    if places or loose:
        changed = list(args)
        for place in places:
            changed[place] = into(changed[place])
        for place in loose:
            if type(changed[place]) in _CONTAINERS:
                changed[place] = map_leaves(_arrays_only(into), changed[place])
        args = tuple(changed)
    for name in names:
        kwargs[name] = into(kwargs[name])
    for name in loose_names:
        if type(kwargs[name]) in _CONTAINERS:
            kwargs[name] = map_leaves(_arrays_only(into), kwargs[name])
    return args, kwargs


def _arrays_only(into: _Leaf) -> _Leaf:
    return lambda leaf: leaf if kind_of(leaf) in _LEFT_ALONE else into(leaf)


def outward(executor: Executor, out: str, device: str) -> _Leaf:
    """What turns the arrays of a result of `executor` into kind `out` on `device`."""
    own = executor.kind
    if out == "numpy":
        to_numpy = executor.convert_out

        def leaf(y: Any) -> Any:
            array = to_numpy(y)
            return array if array.ndim else array[()]
    else:
        target = registry.of_kind(out)
        if target is None:
            kinds = ", ".join(name for name, _ in registry.array_api_backends())
            raise ValueError(f"no backend has arrays of kind {out!r}; those that do: {kinds}")
        into = registry.ensure(target.name)[0].convert_in

        def leaf(y: Any) -> Any:
            return into(executor.convert_out(y) if executor.holds(y) else y, device)

    def each(y: Any) -> Any:
        if kind_of(y) == own or executor.holds(y):
            return leaf(y)
        if isinstance(y, (tuple, list, dict)):
            return map_leaves(each, y)
        if own == "numpy" and isinstance(y, np.generic):
            return leaf(np.asarray(y))
        return y

    return each
