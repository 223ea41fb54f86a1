"""What a run of Monte Carlo is known by on another day, in another process: its worker, arguments and seed.

Equal fingerprints must mean equal results, so whatever is not certain counts as different: whoever edits a comment of
the worker has another run. What a fingerprint sees of a function: its source, defaults, what it closes over, and
the global functions and data that it uses, where they are the user's own. Installed libraries, files and the inside of
modules are not looked into; `checkpoint_key` is for those.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import os
import struct
import sysconfig
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..executors import conversion
from .checkpoint_file import CheckpointError
from .packing import UnfitError, description, order_of, pack
from .simulations import Root

_SHORT = 60
_SCALARS = {type(None), bool, int, float, complex, str, bytes}
_CALLABLES = (types.FunctionType, types.MethodType, functools.partial, type)
_BUILT_IN = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.ClassMethodDescriptorType, np.ufunc,
)  # fmt: skip


def fingerprint_of(
    worker: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None, root: Root, *, seeds: str,
    native_threads: int, key: str | int | None = None, reduce: Any = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """What a checkpoint is bound to.

    Parameters
    ----------
    worker, args, kwargs, root, seeds, native_threads : of the run. The number of simulations is not part of it.
    key : the user's own mark, changed when something changes that cannot be seen from here. Given, it also stands for
        arguments that cannot be known again.
    reduce : the run's reducer, if it has one.
    more : further JSON values that results depend on.

    Returns
    -------
    dict
        Names and JSON values, for people to read: plain arguments as they are, others as digests of 128 bits (BLAKE2b).

    Raises
    ------
    CheckpointError : something cannot be known again in another process, and no key was given.
    """
    made: dict[str, Any] = {"worker": _name(_innermost(worker)), "code": _digest("the worker", worker, key)}
    for name, value in [*((f"argument {i}", x) for i, x in enumerate(args)),
                        *((f"argument {name}", x) for name, x in sorted((kwargs or {}).items()))]:  # fmt: skip
        made[name] = _told(name, value, key)
    entropy = root.entropy if isinstance(root.entropy, int) else list(root.entropy)
    made |= {"seed": entropy, "spawn_key": list(root.key), "seeds": seeds, "native_threads": native_threads}
    if reduce is not None:
        made["reduce"] = f"{_name(reduce)} {_digest('the reducer', reduce, key)}"
    return {**made, **more, "checkpoint_key": key}


def digest(value: Any) -> str:
    """128 bits of what `value` is, as text: the same in every process, another one for another value.

    Raises
    ------
    TypeError : it cannot be known again, or holds something that cannot be.
    """
    hasher = _Hasher()
    hasher.add(value)
    return hasher.hash.hexdigest()


def _digest(what: str, value: Any, key: object) -> str:
    try:
        return digest(value)
    except (TypeError, RecursionError) as error:
        if key is None:
            raise CheckpointError(
                f"checkpoint: {what} ({_name(value)}) cannot be known again in another process: {error}. Give "
                "checkpoint_key=, a text or number of your own that stands for it and changes when it does"
            ) from error
        return "known by the key"


def _told(what: str, value: Any, key: object) -> Any:
    if value is None or (type(value) in (bool, int, float, str) and len(repr(value)) <= _SHORT):
        return repr(value)
    of = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    return f"{of} {_digest(what, value, key)}"


def _name(value: Any) -> str:
    """module.qualname of a function or class; of anything else, that of its class."""
    named = value if isinstance(value, _CALLABLES) and hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _innermost(worker: Any) -> Any:
    while isinstance(worker, functools.partial):
        worker = worker.func
    return worker


@cache
def _installed() -> tuple[str, ...]:
    """Folders of Python and of what was installed: not the user's own code."""
    paths = sysconfig.get_paths()
    return tuple(os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


_ELSEWHERE = ("site-packages", "dist-packages")  # a user's site, a distribution's


class _Hasher:
    """Takes in values, each with what it is and how long, so that no two sequences of values look alike."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.within: dict[int, int] = {}  # what is being taken in: {address: how deep}
        self.known: dict[int, tuple[bytes, Any]] = {}  # by address, which its object keeps from being given away

    def note(self, mark: str, data: bytes | memoryview = b"") -> None:
        self.hash.update(struct.pack("<IQ", len(mark), memoryview(data).nbytes) + mark.encode())
        self.hash.update(data)

    def add(self, value: Any) -> None:
        if conversion.library_of(value) not in (None, "numpy"):
            return self._tensor(value)
        kind = type(value)
        if kind in (np.ndarray, np.memmap):
            return self._array(value)
        try:
            if kind not in (list, tuple, dict):  # which may hold arrays: those are better not copied
                return self.note("plain", pack([value]))
        except UnfitError:
            pass
        if id(value) in self.within:
            return self.note(f"within {self.within[id(value)]}")
        if id(value) not in self.known:  # by content: whether two equal lists are one differs from process to process
            outer, self.hash = self.hash, hashlib.blake2b(digest_size=16)
            self.within[id(value)] = len(self.within)
            try:
                self._compound(value)
                self.known[id(value)] = self.hash.digest(), value
            finally:
                self.hash = outer
                del self.within[id(value)]
        return self.note("compound", self.known[id(value)][0])

    def _compound(self, value: Any) -> None:
        kind = type(value)
        if kind in (list, tuple):
            if set(map(type, value)) <= _SCALARS:
                self.note(kind.__name__, pack(value))
            else:
                self._all(kind.__name__, value)
        elif kind is dict:
            self._all("dict", [list(value), list(value.values())])
        elif kind in (set, frozenset):
            self._all(kind.__name__, sorted(map(digest, value)))
        elif isinstance(value, (*_CALLABLES, *_BUILT_IN)):
            self._callable(value)
        elif isinstance(value, types.ModuleType):
            self.note("module", value.__name__.encode())
        elif value is getattr(np.random.random, "__self__", None):  # the global generator, as scipy.stats holds it: no
            self.note("global generator")  # part of a run, whose draws from it are the user's own affair
        elif inspect.isfunction(inner := getattr(value, "py_func", None) or getattr(value, "__wrapped__", None)):
            self._all(f"{_name(kind)} of", [inner])  # numba, jax.jit, functools.cache
        else:
            self._by_parts(value)

    def _all(self, mark: str, values: Sequence[Any]) -> None:
        self.note(f"{mark} {len(values)}")
        for value in values:
            self.add(value)

    def _array(self, x: np.ndarray) -> None:
        described = description(x.dtype)
        if described is None:
            if x.dtype != object:
                raise TypeError(f"found an array of {x.dtype}")
            return self._all(f"objects {x.shape}", x.ravel().tolist())
        order = order_of(x)
        data = np.ascontiguousarray(x.T if order == "F" else x)
        return self.note(
            f"array {described} {x.shape} {order}", data.reshape(-1).view(np.uint8).data if data.size else b""
        )

    def _tensor(self, x: Any) -> None:
        self.note(f"{_name(x)} {x.dtype}")
        plain = x.detach() if hasattr(x, "detach") else x
        self._array(np.asarray(conversion.convert(plain, "numpy")))

    def _by_parts(self, value: Any) -> None:
        """An object as what copies of it are made from, `__reduce_ex__`, which nobody calls here."""
        made = value.__reduce_ex__(4)  # TypeError: cannot pickle '_io.TextIOWrapper' object
        if isinstance(made, str):
            return self.note("named", f"{_name(value)} {made}".encode())
        build, parts, state, items, pairs = (*made, None, None, None)[:5]
        return self._all("object", [build, parts, state, list(items or ()), [list(pair) for pair in pairs or ()]])

    # ----------------------------------------------------------------------------------------------- code

    def _callable(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self._all("partial", [value.func, value.args, sorted(value.keywords.items())])
        elif isinstance(value, types.MethodType):
            self._all("method", [value.__func__, value.__self__])
        elif isinstance(value, types.FunctionType):
            self.note("function", _name(value).encode())
            if _is_own(value.__code__.co_filename, value.__module__):
                self._function(value)
        elif isinstance(value, type):
            self.note("class", _name(value).encode())
            self._class(value)
        else:  # built in, or of a library's compiled part
            owner = getattr(value, "__self__", None)
            self.note("built in", getattr(value, "__qualname__", getattr(value, "__name__", "")).encode())
            self.add(getattr(value, "__module__", None) if owner is None or inspect.ismodule(owner) else owner)

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        source = _source(function)
        # Two lambdas on one line have one source, and a function made by exec has none.
        self.note("source", b"" if source is None else source.encode())
        if source is None or function.__name__ == "<lambda>":
            self._code(code)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self.note("closes over", name.encode())
            self.add(_content(cell))
        for name in sorted(set(_globals(code))):
            if name in function.__globals__ and _is_telling(value := function.__globals__[name]):
                self.note("global", name.encode())
                self.add(value)

    def _class(self, kind: type) -> None:
        """The functions and plain data of a class of the user's own; of another one, its name has been noted."""
        functions = [part for value in vars(kind).values() for part in _functions(value)]
        if not any(_is_own(function.__code__.co_filename, function.__module__) for function in functions):
            return
        for name, value in sorted(vars(kind).items()):
            if found := _functions(value):
                self._all(f"has {name}", found)
            elif not name.startswith("__") and _is_telling(value):
                self._all(f"has {name}", [value])
        self._all("bases", kind.__bases__)

    def _code(self, code: types.CodeType) -> None:
        self.note("code", code.co_code)
        self.add([code.co_names, code.co_varnames, code.co_freevars])
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self._all("constant", [constant])


def _is_own(filename: str, module: str | None) -> bool:
    """Whether code is the user's own; ours changes with our version only, and would be looked into for nothing."""
    if (module or "").partition(".")[0] == "pointsman":
        return False
    path = os.path.realpath(filename)
    return not (filename.startswith("<frozen") or path.startswith(_installed()) or any(x in path for x in _ELSEWHERE))


def _source(function: types.FunctionType) -> str | None:
    try:  # of the code: a function's would be that of what it wraps
        return textwrap.dedent(inspect.getsource(function.__code__)).rstrip()
    except (OSError, TypeError, SyntaxError):
        return None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return "empty"


def _globals(code: types.CodeType) -> Iterator[str]:
    """Names of globals that `code`, and what is defined in it, reads; without those that it sets: counters, caches."""
    found = list(dis.get_instructions(code))
    written = {step.argval for step in found if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    yield from {step.argval for step in found if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")} - written
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def _is_telling(value: Any) -> bool:
    """Whether a global is data or code; of the rest (modules, locks, caches) it is not clear what belongs to a run."""
    if isinstance(value, types.FunctionType | functools.partial | type | np.ndarray | np.generic):
        return True
    if type(value) in (tuple, list, dict):
        return all(map(_is_telling, value.values() if type(value) is dict else value))
    return type(value) in _SCALARS


def _functions(value: Any) -> list[types.FunctionType]:
    """The functions behind an attribute of a class: itself, a property's, a class method's."""
    parts = [value, *(getattr(value, name, None) for name in ("__func__", "fget", "fset", "func", "__wrapped__"))]
    return [part for part in parts if isinstance(part, types.FunctionType)]
