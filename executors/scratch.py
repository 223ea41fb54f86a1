"""Folders for the files of an engine: gone with it, and with the next of their kind where its process was killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ..telemetry import lifetime

try:
    import fcntl
except ImportError:  # not on POSIX: what a killed process left stays
    fcntl = None  # type: ignore[assignment]

OWNER = "owner"
"""File in each that is locked while its process lives. The number of a process may mean another one elsewhere."""
_HELD: dict[str, int] = {}


def make(prefix: str, where: str | None = None) -> str:
    """The path of a new folder in `where`, or among temporary files; what killed processes left of `prefix` goes."""
    where = where or tempfile.gettempdir()
    _sweep(where, prefix)
    folder = tempfile.mkdtemp(prefix=prefix, dir=where)
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks
            _HELD[folder] = os.open(Path(folder, "new"), os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(_HELD[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(Path(folder, "new"), Path(folder, OWNER))  # locked already when others see it
    return folder


def remove(folder: str) -> None:
    """Remove a folder and all that is in it; "" is none."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        handle = _HELD.pop(folder, None)
        if handle is not None:
            os.close(handle)


def _sweep(where: str, prefix: str) -> None:
    if fcntl is None:
        return
    for owner in Path(where).glob(f"{prefix}*/{OWNER}"):
        with suppress(OSError):  # it is in use, or another user's, or gone meanwhile
            handle = os.open(owner, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(owner.parent, ignore_errors=True)
            finally:
                os.close(handle)


def _after_fork() -> None:
    """In a forked child: the folders are its parent's."""
    while _HELD:
        _, handle = _HELD.popitem()
        os.close(handle)


lifetime.in_child(_after_fork)
