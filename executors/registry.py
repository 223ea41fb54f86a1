"""The registry of backends: who is there, who is missing, who is broken; and the first use of each.

Nothing is imported to answer whether a backend is there. It is imported, and made to prove itself on a tiny real
computation, the first time that it is used.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TextIO

from .base import Capabilities, Executor
from .conversion import forget_types
from .errors import BackendUnavailableError
from .table import BACKENDS, BackendType, Row

_LOCK = threading.RLock()
_EXECUTORS: dict[str, Executor] = {}
_REGISTERED: dict[str, Row] = {}  # a user's own, in the order of registration
_READY: dict[str, Executor] = {}  # imported and checked
_BROKEN: dict[str, str] = {}  # imported or checked without success: why
_MEASURED_S: dict[str, float] = {}
_FOUND: set[str] = set()  # libraries that are on the search path; one that is not may still be installed


@dataclass(frozen=True)
class BackendInfo:
    """What a listing says about one backend, found without importing it."""

    name: str
    available: bool
    reason: str  # "" or why it cannot be used
    version: str
    extra: str  # extra that installs it, "" for the base install
    hint: str
    devices: tuple[str, ...]
    capabilities: Capabilities


def names() -> list[str]:
    """Names of the backends that have an executor, in canonical order, a user's own last."""
    return [*BACKENDS, *(name for name in _REGISTERED if name not in BACKENDS)]


def check_name(name: str) -> None:
    """Nothing if `name` has an executor, installed or not; else the error that `row` raises, with the valid names."""
    row(name)


def array_backends() -> list[tuple[str, Capabilities]]:
    """Names and capabilities of the backends that compute on arrays, in canonical order, installed or not."""
    known = ((name, executor(name).capabilities) for name in names())
    return [(name, capabilities) for name, capabilities in known if capabilities.array]


def registered() -> list[Executor]:
    """The executors that a user registered."""
    return [_EXECUTORS[name] for name in list(_REGISTERED)]


def row(name: str) -> Row:
    """The table line of `name`.

    Raises
    ------
    BackendUnavailableError : the name is known, but this version has no executor for it.
    ValueError : no backend has this name; the message lists those that have one.
    """
    found = _REGISTERED.get(name) or BACKENDS.get(name)
    if found is not None:
        return found
    known = ", ".join(names())
    if name == BackendType.AUTO:
        raise ValueError(f"'auto' is no backend but the wish to have one chosen; the backends are: {known}")
    if name in list(BackendType):
        raise BackendUnavailableError(f"{str(name)!r} is not part of this version; it has: {known}")
    close = difflib.get_close_matches(str(name), names(), n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"no backend is called {str(name)!r}: {meant}the backends are: {known}")


def executor(name: str) -> Executor:
    """The executor of `name`, whether its library is installed or not; one instance per process."""
    found = _EXECUTORS.get(name)
    if found is not None:
        return found
    where = row(name)
    with _LOCK:
        if name not in _EXECUTORS:
            module = importlib.import_module(f".{where.module}", __package__)
            _EXECUTORS[str(name)] = module.EXECUTOR()
        return _EXECUTORS[name]


def of_kind(kind: str) -> Executor | None:
    """The executor whose own arrays are of `kind`; None where there is none ("cupy")."""
    if kind in BACKENDS:
        return executor(kind)
    return next((found for found in registered() if found.kind == kind), None)


def get_backend(name: str) -> Executor:
    """The executor of `name`; nothing is imported yet.

    Raises
    ------
    BackendUnavailableError : it is missing, broken, or not part of this version. Also an ImportError.
    ValueError : no backend has this name.
    """
    found = executor(name)
    reason = available(name)
    if reason is not None:
        raise BackendUnavailableError(reason)
    return found


def available(name: str) -> str | None:
    """None if `name` can be used, as far as is known without importing it; else the sentence why not."""
    if name in _READY:
        return None
    return _missing(row(name)) or _BROKEN.get(name)


def imported(name: str) -> bool:
    """Whether the library of `name` is imported already, by whomever."""
    library = row(name).library
    return not library or sys.modules.get(library) is not None


def import_cost_s(name: str) -> float:
    """Seconds that a first use of `name` costs for import and check: as measured in this process, else typical."""
    return _MEASURED_S.get(name, row(name).import_s)


def ensure(name: str) -> tuple[Executor, float]:
    """The executor of `name`, imported and checked; and the seconds this took now, 0.0 if it was ready.

    Raises
    ------
    BackendUnavailableError : it is missing, or its import or check failed (remembered: neither is tried again).
    ValueError : no backend has this name.
    """
    ready = _READY.get(name)
    if ready is not None:
        return ready, 0.0
    with _LOCK:
        if name in _READY:
            return _READY[name], 0.0
        found = get_backend(name)
        library = row(name).library
        started = time.perf_counter()
        try:
            if library:
                importlib.import_module(library)
            found.probe()
        except Exception as error:
            where = f"{library} is installed" if library else f"{name!s} is registered"
            _BROKEN[str(name)] = (
                f"{where} but failed its check: {type(error).__name__}: {error}. Reinstall it, or go on without: "
                f"POINTSMAN_DISABLE={name!s}"
            )
            raise BackendUnavailableError(_BROKEN[name]) from error
        _READY[str(name)] = found
        _MEASURED_S[str(name)] = time.perf_counter() - started
        return found, _MEASURED_S[name]


def list_backends(available_only: bool = False) -> list[BackendInfo]:
    """What there is and what is missing, in canonical order, found without importing any library."""
    listing = []
    for name in names():
        found, where, reason = executor(name), row(name), available(name)
        if reason is None or not available_only:
            version = found.version() if reason is None else ""
            devices = found.devices() if reason is None else ()
            info = BackendInfo(
                name, reason is None, reason or "", version, where.extra, where.hint, devices, found.capabilities
            )
            listing.append(info)
    return listing


def print_backend_info(file: TextIO | None = None) -> None:
    """Print a table of the backends to `file` (the standard output)."""
    lines = [("backend", "version", "devices", "good for, or why not")]
    for info in list_backends():
        lines.append((info.name, info.version or "-", " ".join(info.devices) or "-", info.reason or info.hint))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    out = file or sys.stdout
    for name, version, devices, text in lines:
        out.write(f"{name:{widths[0]}}  {version:{widths[1]}}  {devices:{widths[2]}}  {text}\n")


def register_backend(name: str, executor: Executor | type[Executor], *, replace: bool = False) -> None:
    """Add a backend of your own to this process, as an `Executor` subclass or an instance of one.

    Raises
    ------
    TypeError : it is no Executor, leaves a method out, or its attributes are of the wrong type.
    ValueError : the name is taken (pass ``replace=True`` for one of your own) or is not a plain lower-case word.
    """
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        raise ValueError(f"a backend's name is a lower-case word such as 'cunumeric', not {name!r}")
    if name in list(BackendType):
        raise ValueError(f"{str(name)!r} is a built-in name and stays what it is; choose another")
    if name in _REGISTERED and not replace:
        raise ValueError(f"a backend called {name!r} is registered already; pass replace=True to replace it")
    found = _validated(name, executor)
    with _LOCK:
        _forget(name)
        library = str(getattr(found, "library", ""))
        _REGISTERED[name] = Row("", "", (found.__doc__ or "registered here").strip().splitlines()[0], library, 0.0)
        _EXECUTORS[name] = found
        forget_types()


def unregister_backend(name: str) -> None:
    """Take a backend of your own out again; a ValueError lists those that there are."""
    if name not in _REGISTERED:
        raise ValueError(f"no registered backend is called {name!r}; there are: {', '.join(_REGISTERED) or 'none'}")
    with _LOCK:
        _forget(name)
        forget_types()


def _forget(name: str) -> None:
    for known in (_REGISTERED, _EXECUTORS, _READY, _BROKEN, _MEASURED_S):
        known.pop(name, None)


def _validated(name: str, given: Executor | type[Executor]) -> Executor:
    if isinstance(given, type):
        if not issubclass(given, Executor):
            raise TypeError(f"backend {name!r}: {given.__qualname__} is not a subclass of pointsman's Executor")
        if inspect.isabstract(given):
            missing = ", ".join(sorted(given.__abstractmethods__))
            raise TypeError(f"backend {name!r}: {given.__qualname__} leaves out {missing}")
        given = given()
    if not isinstance(given, Executor):
        raise TypeError(f"backend {name!r}: expected an Executor or a subclass of it, got {type(given).__qualname__}")
    if getattr(given, "name", None) != name:
        raise ValueError(f"backend {name!r}: the executor calls itself {getattr(given, 'name', None)!r}; use one name")
    if not isinstance(getattr(given, "capabilities", None), Capabilities):
        raise TypeError(f"backend {name!r}: `capabilities` must be a Capabilities record")
    if not isinstance(given.kind, str) or not given.kind:
        raise TypeError(f"backend {name!r}: `kind` must name whose arrays it computes on, such as 'numpy'")
    return given


def _missing(where: Row) -> str | None:
    """Why the library cannot be found, or None; a look at the search path, no import."""
    if not where.library or where.library in _FOUND:
        return None
    try:
        spec = find_spec(where.library)
    except ImportError:  # an import hook refuses it
        spec = None
    except ValueError:  # a module without a spec, put into sys.modules by hand: it is there
        return None
    # Without a loader it is a mere folder of that name on the path, such as a project called "jax".
    if spec is not None and spec.origin is not None:
        _FOUND.add(where.library)  # a look at the search path costs 30 us, and every unknown workload asks
        return None
    how = f"pip install 'pointsman[{where.extra}]'" if where.extra else f"pip install {where.library}"
    return f"{where.library} is not installed; {how}"
