"""What can befall a history file, told apart by what to do about it."""

from __future__ import annotations

import ctypes
import errno
import sqlite3
from enum import Enum


class HistoryWarning(UserWarning):
    """The history cannot be kept as asked; results are not affected."""


class Trouble(Enum):
    """What to do after an error."""

    LOCKED = "try again soon"
    FULL = "try again much later"
    CORRUPT = "move the file aside and start anew"
    READ_ONLY = "use what was read, write nothing"
    UNUSABLE = "go on in memory"


_BY_CODE = {
    5: Trouble.LOCKED,  # SQLITE_BUSY
    6: Trouble.LOCKED,  # SQLITE_LOCKED
    8: Trouble.READ_ONLY,  # SQLITE_READONLY
    10: Trouble.FULL,  # SQLITE_IOERR: also what a file-size limit looks like
    11: Trouble.CORRUPT,  # SQLITE_CORRUPT
    13: Trouble.FULL,  # SQLITE_FULL
    15: Trouble.LOCKED,  # SQLITE_PROTOCOL: many processes opened the file at once
    26: Trouble.CORRUPT,  # SQLITE_NOTADB
}


def trouble_of(error: Exception) -> Trouble:
    """Which trouble an exception stands for; content that cannot be understood counts as corrupt."""
    if isinstance(error, sqlite3.Error):
        return _BY_CODE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, Trouble.UNUSABLE)
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return Trouble.FULL if full else Trouble.UNUSABLE
    return Trouble.CORRUPT


def leak(connection: sqlite3.Connection) -> None:
    """Keep `connection` from ever being closed, even when the interpreter ends.

    SQLite forbids closing, in a forked child, a connection that its parent opened. A list would not do: module
    contents are released at exit, and the connection closed with them.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
