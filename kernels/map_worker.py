"""What a map knows its worker by, and the worker inside the caller's scope."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..selector.adaptive import operation_name


def worker_name(worker: Callable[..., Any]) -> str:
    """How the history knows a worker: module.qualname, and a hash of its code where it has some."""
    inner = _inner(worker)
    inner = getattr(inner, "py_func", inner)  # Numba's functions show only the code of the one behind
    if hasattr(inner, "__code__"):
        return operation_name(inner)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{named.__module__}.{named.__qualname__}"


def _inner(worker: Any) -> Any:
    """The function behind a partial or a bound method."""
    while isinstance(worker, functools.partial):
        worker = worker.func
    return getattr(worker, "__func__", worker)


def scoped(work: Callable[[Any], Any], wish: str) -> Callable[[Any], Any]:
    """`work` in another process inside the caller's ``use(wish)``; a closure without globals, see `each`."""

    def run(chunk: Any) -> Any:
        import importlib

        with importlib.import_module("pointsman").use(wish):
            return work(chunk)

    return run


def key(worker: Any) -> Any:
    """What a worker is known by in this process: nothing that keeps the caller's objects alive."""
    inner = _inner(worker)
    return getattr(inner, "__code__", None) or (getattr(inner, "__qualname__", ""), type(inner))
