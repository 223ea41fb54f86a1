"""Overrides: what the environment, `configure` and `use` say, parsed strictly, each with the name of what set it."""

from __future__ import annotations

import difflib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from ..executors import registry
from ..executors.table import BackendType

PREFIX = "POINTSMAN_"
MODES = ("off", "observe", "advise", "select", "pinned")
LOGS = ("debug", "info", "warning", "error", "critical")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_VARIABLES = {
    "POINTSMAN_FORCE": "force",
    "POINTSMAN_PREFER": "prefer",
    "POINTSMAN_DISABLE": "disable",
    "POINTSMAN_DISABLE_GPU": "disable_gpu",
    "POINTSMAN_MODE": "mode",
    "POINTSMAN_LOCK": "lock",
    "POINTSMAN_EXPLORE": "explore",
    "POINTSMAN_HISTORY": "history",
    "POINTSMAN_GPU_MEMORY_RESERVE": "gpu_memory_reserve",
    "POINTSMAN_LOG": "log",
    "POINTSMAN_VERIFY": "verify",
    "POINTSMAN_FAIL_FAST": "fail_fast",
    "POINTSMAN_CACHE": "cache",
}
_PLAIN = frozenset(_VARIABLES.values()) - {"force", "prefer", "disable"}  # which name no backend


def known_backends() -> tuple[str, ...]:
    """Names of the backends that can be chosen: those of the table, and the user's own."""
    return tuple(registry.names())


@dataclass(frozen=True)
class Settings:
    """What was asked for beside the calls themselves.

    Attributes
    ----------
    force : the only backend that may be chosen.
    prefer : a backend to take wherever it can run.
    disable : backends that are never chosen.
    disable_gpu : whether GPUs are left alone.
    mode : "off" (the default variant, nothing recorded), "observe" (the default variant, recorded), "advise" (the
        same, and what would have been chosen is explained), "select", or "pinned": what it is where there is a lock.
    lock : a lock file, whose choices are taken wherever nothing above says otherwise; an absolute path, or None.
    explore : share of the expected cost that exploring may add, 0 to 1.
    history : file or folder of the history, ":memory:", or None for the user's cache folder.
    gpu_memory_reserve : share of the free GPU memory that is left alone, 0 to below 1.
    log : level of the "pointsman" logger.
    verify : share of the calls that are computed a second time on the reference and compared, 0 to 1.
    fail_fast : whether a listed failure comes out at once, as the backend raised it, instead of a fallback.
    cache : folder where results of long simulations are kept, "off", or None: the folder "results" beside the history.
    origin : field -> what set it; fields that nothing set are missing.
    """

    force: str | None = None
    prefer: str | None = None
    disable: frozenset[str] = frozenset()
    disable_gpu: bool = False
    mode: str = "select"
    explore: float = 0.02
    history: str | None = None
    gpu_memory_reserve: float = 0.3
    log: str = "warning"
    verify: float = 0.0
    fail_fast: bool = False
    lock: str | None = None
    cache: str | None = None
    origin: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False)

    def __post_init__(self) -> None:
        if "mode" not in self.origin and self.mode in ("select", "pinned"):  # nobody said it: it follows the lock
            object.__setattr__(self, "mode", "select" if self.lock is None else "pinned")

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, backends: Iterable[str] | None = None
    ) -> Settings:
        """Read every POINTSMAN_* variable of `environ` (the process's own unless given).

        An empty value means "not set", and so does a false ``POINTSMAN_FORCE_<BACKEND>`` or
        ``POINTSMAN_DISABLE_<BACKEND>``.

        Raises
        ------
        ValueError
            For an unknown variable, backend or value, naming the valid ones, and for two variables that contradict
            each other, naming both.
        """
        environ = os.environ if environ is None else environ
        given = {name: text.strip() for name, text in sorted(environ.items()) if name.startswith(PREFIX)}
        given = {name: text for name, text in given.items() if text}
        if backends is not None:
            known = tuple(backends)
        else:  # looking for other packages' backends takes 10 ms: where nothing names one, nobody waits for it
            known = known_backends() if any(_VARIABLES.get(name) not in _PLAIN for name in given) else ()
        values: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for name, text in given.items():
            _read_variable(name, text, known, values, origin)
        settings = cls(**values, origin=MappingProxyType(origin))
        settings._refuse_contradictions(known)
        return settings

    def updated(self, *, backends: Iterable[str] | None = None, **changes: Any) -> Settings:
        """These settings with `changes`, checked as strictly as the environment.

        Raises
        ------
        TypeError
            For an unknown setting; the message lists the valid ones.
        ValueError
            For an unknown backend or value, and for settings that contradict each other.
        """
        known = known_backends() if backends is None else tuple(backends)
        names = [f.name for f in fields(self) if f.name != "origin"]
        origin = dict(self.origin)
        for name, value in changes.items():
            if name not in names:
                hint, valid = _close(name, names), ", ".join(names)
                raise TypeError(f"configure(): no setting is called {name!r}{hint}; valid are: {valid}")
            origin[name] = f"configure({name}={value!r})"
            changes[name] = _check(name, value, origin[name], known)
        settings = replace(self, **changes, origin=MappingProxyType(origin))
        settings._refuse_contradictions(known)
        return settings

    def _refuse_contradictions(self, known: tuple[str, ...]) -> None:
        for name in ("force", "prefer"):
            backend = getattr(self, name)
            if backend is not None and backend in self.disable:
                one, other = self.origin.get(name, name), self.origin.get("disable", "disable")
                raise ValueError(f"{one} and {other} contradict each other: {backend} cannot be both; drop one of them")
        mode, lock = self.origin.get("mode", "mode"), self.origin.get("lock", "lock")
        if self.lock is not None and self.mode not in ("off", "pinned"):
            raise ValueError(
                f"{mode} and {lock} contradict each other: with a lock the mode is 'pinned', or 'off' to record "
                "nothing; drop one of them (lock=None lifts a lock)"
            )
        if self.lock is None and self.mode == "pinned":
            raise ValueError(
                f"{mode}: found 'pinned' without a lock file; name one by POINTSMAN_LOCK or configure(lock=...)"
            )
        if known and self.disable.issuperset(known):
            source, valid = self.origin.get("disable", "disable"), ", ".join(known)
            raise ValueError(f"{source} leaves no backend to run; known are: {valid}")


def _read_variable(
    name: str, text: str, known: tuple[str, ...], values: dict[str, Any], origin: dict[str, str]
) -> None:
    """Put what one variable says into `values` and `origin`."""
    if name in _VARIABLES:
        setting = _VARIABLES[name]
        value = _check(setting, text, name, known)
    else:
        aliases = {f"{PREFIX}{verb.upper()}_{b.upper()}": (verb, b) for verb in ("force", "disable") for b in known}
        if name not in aliases:
            valid = [*_VARIABLES, *aliases]
            raise ValueError(f"{name} is no setting{_close(name, valid)}; valid are: {', '.join(valid)}")
        setting, backend = aliases[name]
        if not _boolean(text, name):
            return
        value = frozenset({backend}) if setting == "disable" else backend
    if setting == "disable" and setting in values:
        values[setting] |= value
        origin[setting] += f" and {name}"
        return
    if setting in values and values[setting] != value:
        raise ValueError(
            f"{origin[setting]} and {name} contradict each other: {values[setting]!r} and {value!r}; drop one of them"
        )
    values[setting] = value
    origin.setdefault(setting, name)


def _check(setting: str, value: Any, source: str, known: tuple[str, ...]) -> Any:
    """`value` as `setting` keeps it."""
    if setting in ("force", "prefer"):
        return None if value is None else _backend(value, source, known)
    if setting == "disable":
        listed = value.split(",") if isinstance(value, str) else () if value is None else value
        if not isinstance(listed, Iterable):
            raise ValueError(f"{source}: found {value!r}; give backends, such as 'torch,numba' or ['torch', 'numba']")
        return frozenset(_backend(part, source, known) for part in listed if str(part).strip())
    if setting in ("disable_gpu", "fail_fast"):
        return _boolean(value, source)
    if setting in ("mode", "log"):
        return _one_of(value, source, MODES if setting == "mode" else LOGS)
    if setting in ("history", "cache"):
        if value is not None and not isinstance(value, str | os.PathLike):
            word = "':memory:'" if setting == "history" else "'off'"
            raise ValueError(f"{source}: found {value!r}; allowed are a path, {word} and None")
        return None if value is None else os.fspath(value)
    if setting == "lock":
        if value is not None and not (isinstance(value, str | os.PathLike) and str(value).strip()):
            raise ValueError(f"{source}: found {value!r}; allowed are the path of a lock file and None")
        return None if value is None else os.path.abspath(os.path.expanduser(os.fspath(value)))
    return _share(value, source, closed=setting in ("explore", "verify"))


def _backend(value: object, source: str, known: tuple[str, ...]) -> str:
    name = str(value).strip().lower()
    if name in list(BackendType) and name not in (*known, BackendType.AUTO):
        raise ValueError(f"{source}: {name!r} is not part of this version; valid are: {', '.join(known)}")
    if name not in known:
        raise ValueError(f"{source}: no backend is called {name!r}{_close(name, known)}; valid are: {', '.join(known)}")
    return name


def _boolean(value: object, source: str) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE + FALSE:
        raise ValueError(f"{source}: found {value!r}; allowed are {', '.join(TRUE)} and {', '.join(FALSE)}")
    return word in TRUE


def _one_of(value: object, source: str, allowed: tuple[str, ...]) -> str:
    word = str(value).strip().lower()
    if word not in allowed:
        raise ValueError(f"{source}: found {value!r}{_close(word, allowed)}; allowed are {', '.join(allowed)}")
    return word


def _share(value: object, source: str, *, closed: bool) -> float:
    try:
        share = float(str(value))
    except ValueError:
        share = -1.0
    if not (0.0 <= share <= 1.0 if closed else 0.0 <= share < 1.0):
        raise ValueError(f"{source}: found {value!r}; allowed is a share from 0 to {'1' if closed else 'below 1'}")
    return share


def _close(name: str, valid: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


# ---- one scope

SCOPE: ContextVar[str | None] = ContextVar("pointsman_use", default=None)
scope: Callable[[], str | None] = SCOPE.get  # the bound method itself: it is read on every call


def use(backend: str | None) -> AbstractContextManager[None]:
    """Use `backend` and nothing else within a ``with`` block; "auto" or None gives the choice back.

    What it cannot run is a `NoCandidateError` there: a demanded backend is never silently replaced. For a wish that
    gives way, see `configure(prefer=...)`.

    Blocks nest; threads and asyncio tasks do not see each other's.

    Raises
    ------
    ValueError
        For an unknown backend; the message lists the valid ones.
    """
    free = backend is None or str(backend) == "auto"
    return _within(None if free else _backend(backend, f"use({str(backend)!r})", known_backends()))


@contextmanager
def _within(backend: str | None) -> Iterator[None]:
    token = SCOPE.set(backend)
    try:
        yield
    finally:
        SCOPE.reset(token)


# ---- the process

generation = 0
"""Changes whenever the settings of the process do."""

_lock = threading.Lock()
_current: Settings | None = None
_listeners: list[Callable[[], Callable[[], None] | None]] = []


def current() -> Settings:
    """The settings of this process: the environment, read at the first decision, and what `configure` changed.

    Raises
    ------
    ValueError
        If the environment does not make sense; every call says so until it does.
    """
    return _current or _set(lambda: _current or Settings.from_environment())


def configure(**changes: Any) -> Settings:
    """Change settings of this process, over what the environment says; returns the new ones.

    Parameters
    ----------
    **changes : fields of `Settings`: force, prefer, disable, disable_gpu, mode, explore, history,
        gpu_memory_reserve, log, lock, verify, fail_fast, cache.

    Raises
    ------
    TypeError, ValueError
        As `Settings.updated` does; then nothing has changed.
    """
    return _set(lambda: (_current or Settings.from_environment()).updated(**changes))


def reload() -> Settings:
    """Read the environment again and forget what `configure` changed."""
    return _set(Settings.from_environment)


def on_change(callback: Callable[[], None]) -> None:
    """Call `callback` after every change; methods are held weakly, so a dropped selector is not kept alive."""
    held = weakref.WeakMethod(callback) if hasattr(callback, "__self__") else lambda: callback
    with _lock:
        _listeners[:] = [kept for kept in _listeners if kept() is not None]
        _listeners.append(held)


def _set(make: Callable[[], Settings]) -> Settings:
    global _current, generation
    with _lock:
        before, _current = _current, make()
        now = _current
        changed = before is not None and before != now
        generation += changed
        callbacks = [callback for held in _listeners if (callback := held()) is not None]
    if changed:
        for callback in callbacks:
            callback()
    return now
