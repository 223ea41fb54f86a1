"""Native threads: those of BLAS and OpenMP, held at one number while the bits of a run depend on it.

    with held(1):                 # the whole process
        ...
        with in_thread():         # on every thread that computes for it
            ...

threadpoolctl sets OpenBLAS's and MKL's number for the process, OpenMP's for the calling thread; and two settings that
overlap and end in the wrong order would leave a wrong number for good. So there is one holder: runs that want the same
number share it, and one that wants another waits its turn. Taking hold takes about half a millisecond.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ..telemetry import lifetime
from ..telemetry.hardware import usable_cores
from .mapping import HERE

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Read by libraries when they are loaded, which may happen in the middle of a run."""


class _Holder:
    """The number that is held now, by how many, and how to give it back."""

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self.number = 0
        self.runs = 0
        self.limits: Any = None
        self.known: set[str] = set()  # libraries that were loaded when it was taken
        self.environment: dict[str, str | None] = {}

    def take(self, number: int) -> None:
        controller = _libraries()
        self.known = {library.filepath for library in controller.lib_controllers}
        self.limits = controller.select(user_api="blas").limit(limits=number)
        self.environment = {name: os.environ.get(name) for name in VARIABLES}
        os.environ.update(dict.fromkeys(VARIABLES, str(number)))
        self.number = number

    def give_back(self) -> None:
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.limits.restore_original_limits()
        for library in _libraries().lib_controllers:  # loaded meanwhile: what they would have begun with
            if library.filepath not in self.known:
                library.set_num_threads(_usual())
        self.number, self.limits = 0, None


_HOLDER = _Holder()


def _in_child() -> None:
    """A child forked in the middle of a run may still leave it, and waits for nobody who exists in its parent only."""
    global _HOLDER
    _HOLDER.turn = threading.Condition()
    _HOLDER = _Holder()


lifetime.in_child(_in_child)


@contextmanager
def held(number: int) -> Iterator[None]:
    """Hold the native threads of this process at `number`; afterwards they are what they were.

    Raises
    ------
    ValueError : this is a worker of a run that holds another number, and would wait for itself.
    """
    holder = _HOLDER
    with holder.turn:
        if HERE.inside and holder.runs and holder.number != number:
            raise ValueError(
                f"native_threads: found {number} inside a run that holds them at {holder.number}; give the same number "
                "to both, or run one after the other"
            )
        holder.turn.wait_for(lambda: not holder.runs or holder.number == number)
        if not holder.runs:
            holder.take(number)
        holder.runs += 1
    try:
        with in_thread():  # OpenMP's number is the thread's own, and each gives its own back
            yield
    finally:
        with holder.turn:
            holder.runs -= 1
            if not holder.runs:
                holder.give_back()
                holder.turn.notify_all()


def in_thread() -> Any:
    """A context in which the calling thread uses as many OpenMP threads as are held; nothing where none are."""
    number = _HOLDER.number  # once: a run that another thread ends meanwhile takes it back
    if not _HOLDER.runs or _HOLDER.limits is None or not number:
        return nullcontext()
    return _libraries().select(user_api="openmp").limit(limits=number)


_FOUND: dict[int, Any] = {}


def _libraries() -> Any:
    """threadpoolctl's view of the libraries that are loaded; looking for them takes half a millisecond.

    Libraries come with modules: while there are as many of these as before, there is nothing new.
    """
    from threadpoolctl import ThreadpoolController

    modules = len(sys.modules)
    found = _FOUND.get(modules)
    if found is None:
        found = ThreadpoolController()
        _FOUND.clear()
        _FOUND[len(sys.modules)] = found
    return found


def _usual() -> int:
    """Threads that a library begins with where nobody says otherwise."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(told) if told.isdigit() and int(told) else usable_cores()
