"""What a fork, and the end of a process, mean for locks and for open histories."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol


class Kept(Protocol):
    """What a history does when its process forks or ends."""

    _rounds: Any
    _disk: Any

    def _after_fork(self) -> None: ...

    def _leave(self) -> None: ...


_HISTORIES: weakref.WeakSet[Kept] = weakref.WeakSet()
_LOCKS: list[tuple[weakref.ref[Any], str]] = []
_HELD: list[Any] = []  # locks held across a fork
_IN_CHILD: list[Callable[[], None]] = []
_FORK_PATIENCE_S = 2.0


def look_after(history: Kept) -> None:
    """Have `history` survive forks and be closed when the process ends; it is not kept alive."""
    _HISTORIES.add(history)


def free_in_child(owner: Any, attribute: str = "_lock") -> None:
    """Have `owner`'s lock free in every forked child, whoever held it at the moment of the fork.

    A thread that holds a lock while another one forks does not exist in the child, where nobody would ever release it.

    Parameters
    ----------
    owner : an object or module that weak references can point to; it is not kept alive.
    attribute : where its lock stands.
    """
    _LOCKS[:] = [kept for kept in _LOCKS if kept[0]() is not None]
    _LOCKS.append((weakref.ref(owner), attribute))


def in_child(callback: Callable[[], None]) -> None:
    """Have `callback`, a function of a module, called in every forked child, after its locks have been freed."""
    _IN_CHILD.append(callback)


def _before_fork() -> None:
    # A child forked while another thread is inside SQLite, or imports something, inherits those locks as taken, and
    # would wait for ever. So the flusher ends its round first; whoever else is inside SQLite gets the same chance.
    for history in tuple(_HISTORIES):
        for lock in (history._rounds, history._disk):
            if lock.acquire(timeout=_FORK_PATIENCE_S):
                _HELD.append(lock)


def _after_fork_in_parent() -> None:
    while _HELD:
        _HELD.pop().release()


def _after_fork_in_child() -> None:
    _HELD.clear()
    _free_locks()
    for history in tuple(_HISTORIES):
        history._after_fork()
    for callback in _IN_CHILD:
        callback()


def _free_locks() -> None:
    for reference, attribute in _LOCKS:
        owner = reference()
        lock = getattr(owner, attribute, None)
        if lock is None:
            continue
        if lock.acquire(blocking=False):  # free, or held by the thread that forked and lives on
            lock.release()
        else:
            setattr(owner, attribute, threading.RLock())


def _at_exit() -> None:
    for history in tuple(_HISTORIES):
        history._leave()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
