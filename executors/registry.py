"""The registry of backends: who is there, who is missing, who is broken; and the first use of each.

Nothing is imported to answer whether a backend is there. It is imported, and made to prove itself on a tiny real
computation, the first time that it is used. Backends stand in the table, or are a user's own: registered in this
process, or offered by an installed package.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import MethodType
from typing import TextIO
from weakref import WeakMethod

from ..telemetry import lifetime
from .base import Capabilities, Executor
from .conversion import forget_types
from .entry_points import Broken, Offer, offers, wrong_name
from .errors import BackendUnavailableError
from .table import BACKENDS, BackendType, Row

_LOCK = threading.RLock()
_EXECUTORS: dict[str, Executor] = {}
_REGISTERED: dict[str, Row | None] = {}  # a user's own, in the order of registration; None: offered, not loaded yet
_OFFERED: dict[str, Offer] = {}  # by installed packages
_LOOKED: list[bool] = []  # whether installed packages have been looked through
_READY: dict[str, Executor] = {}  # imported and checked
_BROKEN: dict[str, str] = {}  # imported or checked without success: why
_MEASURED_S: dict[str, float] = {}
_LOST: dict[str, str] = {}  # started before this process was forked, and of no use here: why
_LISTENERS: list[Callable[[], object] | WeakMethod[Callable[[], object]]] = []
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
    return [*BACKENDS, *(name for name in _own() if name not in BACKENDS)]


def check_name(name: str) -> None:
    """Nothing if `name` has an executor, installed or not; else the error that `row` raises, with the valid names."""
    row(name)


def array_backends() -> list[tuple[str, Capabilities]]:
    """Names and capabilities of the backends that compute on arrays, in canonical order, installed or not."""
    known = ((name, executor(name).capabilities) for name in names())
    return [(name, capabilities) for name, capabilities in known if capabilities.array]


def array_api_backends() -> list[tuple[str, Capabilities]]:
    """Those of `array_backends` whose arrays are of their own kind: a function of the array API runs on them."""
    return [(name, capabilities) for name, capabilities in array_backends() if executor(name).kind == name]


def on_change(listener: Callable[[], object]) -> None:
    """Have `listener` called whenever a backend is registered, taken out or lost; an object is not kept alive by it."""
    _LISTENERS.append(WeakMethod(listener) if isinstance(listener, MethodType) else listener)


def registered() -> list[Executor]:
    """The executors of a user's own: registered, or offered by an installed package."""
    return [executor(name) for name in list(_own())]


def row(name: str) -> Row:
    """The table line of `name`.

    Raises
    ------
    BackendUnavailableError : the name is known, but this version has no executor for it.
    ValueError : no backend has this name; the message lists those that have one.
    """
    found = BACKENDS.get(name)
    if found is None and name in _own():
        found = _REGISTERED.get(name) or _loaded(name)[0]
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
    if name not in BACKENDS and name in _own():
        return _EXECUTORS.get(name) or _loaded(name)[1]
    where = row(name)
    with _LOCK:
        if name not in _EXECUTORS:
            module = importlib.import_module(f".{where.module}", __package__)
            _EXECUTORS[str(name)] = module.EXECUTOR()
        return _EXECUTORS[name]


def of_kind(kind: str) -> Executor | None:
    """The executor whose own arrays are of `kind`; None where there is none."""
    if kind in BACKENDS and executor(kind).kind == kind:
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
    found = executor(name)
    return _missing(row(name), found.install) or _BROKEN.get(name) or _LOST.get(name) or found.unusable()


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
        except (Exception, SystemExit) as error:  # some end the program where something of theirs is missing
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

    Beside the contract, two attributes are read where they are there: `library`, the import name of what it needs
    (missing where that cannot be found), and `import_s`, the typical seconds of importing that.
    A package that offers a backend to every process names the class as an entry point of "pointsman.backends".

    Raises
    ------
    TypeError : it is no Executor, leaves a method out, or its attributes are of the wrong type.
    ValueError : the name is taken (pass ``replace=True`` for one of your own) or is not a plain lower-case word.
    """
    wrong = wrong_name(name)
    if wrong is not None:
        raise ValueError(wrong)
    if name in list(BackendType):
        raise ValueError(f"{str(name)!r} is a built-in name and stays what it is; choose another")
    if name in _own() and not replace:
        by = f" by {_OFFERED[name].package}" if name in _OFFERED else ""
        raise ValueError(f"a backend called {name!r} is registered already{by}; pass replace=True to replace it")
    found = _validated(name, executor)
    with _LOCK:
        _forget(name)
        _REGISTERED[name] = _row_of(found, "registered here")
        _EXECUTORS[name] = found
        _changed()


def unregister_backend(name: str) -> None:
    """Take a backend of your own out again; a ValueError lists those that there are."""
    if name not in _own():
        raise ValueError(f"no registered backend is called {name!r}; there are: {', '.join(_own()) or 'none'}")
    with _LOCK:
        _forget(name)
        _changed()


def _changed() -> None:
    forget_types()
    for kept in list(_LISTENERS):
        listener = kept() if isinstance(kept, WeakMethod) else kept
        if listener is None:
            _LISTENERS.remove(kept)
        else:
            listener()


def _after_fork() -> None:
    for name, found in list(_READY.items()):
        reason = found.after_fork()
        if reason is not None:
            del _READY[name]
            _LOST[name] = reason
    _changed()


lifetime.in_child(_after_fork)


def _forget(name: str) -> None:
    for known in (_REGISTERED, _OFFERED, _EXECUTORS, _READY, _BROKEN, _MEASURED_S):
        known.pop(name, None)


def _own() -> dict[str, Row | None]:
    """A user's own backends; the first look goes through the installed packages, whose modules it leaves alone."""
    if not _LOOKED:
        with _LOCK:
            if not _LOOKED:
                found, complaints = offers(list(BackendType))
                _OFFERED.update(found)
                for name in found:
                    _REGISTERED.setdefault(name, None)
                _LOOKED.append(True)
                for complaint in complaints:
                    warnings.warn(complaint, stacklevel=3)
    return _REGISTERED


def _loaded(name: str) -> tuple[Row, Executor]:
    """The line and the executor of a backend that an installed package offers; its module is loaded, now."""
    offer = _OFFERED[name]
    reason = offer.problem
    if not reason:
        # Without the lock: the module may ask the registry in turn, and another thread may be importing it already.
        try:
            found = _validated(name, offer.load())
            line = _row_of(found, "", f" [{offer.package}]")
            found.unusable(), found.devices(), found.version()
        except (Exception, SystemExit) as error:
            reason = offer.why_broken(error)
    if reason:
        found = Broken(name, reason)
        line = Row("", "", f"offered by {offer.package}", "", 0.0)
        if offer.half_imported:  # its own code decides something while it is being imported: not for good
            return line, found
    with _LOCK:
        if _REGISTERED.get(name) is None:
            _REGISTERED[name], _EXECUTORS[name] = line, found
            _changed()
        return _REGISTERED[name] or line, _EXECUTORS[name]


def _row_of(found: Executor, otherwise: str, more: str = "") -> Row:
    """The line of a user's own backend, read off its class."""
    told = vars(type(found)).get("description")
    hint = (told if isinstance(told, str) else found.__doc__ or otherwise).strip().partition("\n")[0]
    return Row("", "", hint + more, str(getattr(found, "library", "")), float(getattr(found, "import_s", 0.0)))


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
    if getattr(given, "name", None) == "":
        given.name = name
    if getattr(given, "name", None) != name:
        raise ValueError(f"backend {name!r}: the executor calls itself {getattr(given, 'name', None)!r}; use one name")
    if not isinstance(getattr(given, "capabilities", None), Capabilities):
        raise TypeError(f"backend {name!r}: `capabilities` must be a Capabilities record")
    if not isinstance(given.kind, str) or not given.kind:
        raise TypeError(f"backend {name!r}: `kind` must name whose arrays it computes on, such as 'numpy'")
    return given


def _missing(where: Row, more: str = "") -> str | None:
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
    return f"{where.library} is not installed; {how}" + (f" ({more})" if more else "")
