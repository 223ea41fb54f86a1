"""The file of a checkpoint: text that says whose it is, then records, each added by one write.

::

    pointsman checkpoint, format 1; header of 412 bytes, CRC-32 1a2b3c4d
    {
     "fingerprint": { ...
    }
    \\x93rec <length of the data> <its CRC-32> <CRC-32 of the head so far> <the data> \\x93rec ...

A process that is killed leaves whole records and at most the beginning of one more. A power cut may also leave a last
record whose bytes never reached the disk. Both are cut off by the next run. Anything wrong with other records following
it is damage, and refused: nothing that was computed is dropped unasked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import mmap
import os
import re
import stat
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..executors.errors import PointsmanError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("pointsman")

FORMAT = 1
_TITLE = re.compile(rb"pointsman checkpoint, format (\d{1,9})(?:; header of (\d{1,9}) bytes, CRC-32 ([0-9a-f]{8})\n)?")
_MARK = b"\x93rec"
_HEAD = struct.Struct("<4sQII")
_LARGEST_WRITE = 1 << 30  # Linux writes at most 2 GiB at a time
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
ANEW = "give another path, or delete the file to begin anew"


class CheckpointError(PointsmanError, ValueError):
    """A checkpoint cannot be used: another run's, in use, damaged, full, or not made for such results."""


class CheckpointWarning(UserWarning):
    """A checkpoint is used without something that it normally has."""


class RecordFile:
    """An open file of records, locked against other processes.

    Attributes
    ----------
    path : where it is.
    about : what its header says.
    cut_bytes : of an unfinished record that was found at its end and cut off.

    Parameters
    ----------
    path : of the file; it is made where there is none.
    about : the header of a new file, as JSON values.

    Raises
    ------
    CheckpointError
        No checkpoint, a newer format, a damaged header, in use elsewhere, or the file cannot be made or opened.

    Warns
    -----
    CheckpointWarning : the file system has no locks.
    """

    _handle = -1
    _lost = False  # whether it was said that the file is gone

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(os.fspath(path)))).resolve()
        self.cut_bytes = 0
        try:
            self._handle = self._opened(_header(about))
            self.about, self._start = self._read_header()
        except OSError as error:
            self.leave()
            raise CheckpointError(f"checkpoint {self.path}: it cannot be made or opened: {error.strerror}") from error
        except BaseException:
            self.leave()
            raise

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of each record; afterwards the file ends with the last good one.

        Raises
        ------
        CheckpointError : a record is damaged, and others follow it.
        """
        size = os.fstat(self._handle).st_size
        with os.fdopen(os.dup(self._handle), "rb") as file:
            at = file.seek(self._start)
            while at < size:
                head = _head(file.read(_HEAD.size))
                whole = head is not None and at + _HEAD.size + head[0] <= size
                data = file.read(head[0]) if head is not None and whole else b""
                if head is None or not whole or zlib.crc32(data) != head[1]:
                    if head is None or whole:
                        self._refuse_if_more(at, at + 1 if head is None else at + _HEAD.size + head[0])
                    self._cut(at, size)
                    return
                yield at, data
                at += _HEAD.size + len(data)

    def append(self, data: bytes) -> None:
        """Add a record, or nothing.

        Raises
        ------
        CheckpointError : the disk is full, or the file cannot be written or is closed.
        """
        if self._handle < 0:
            raise CheckpointError(f"checkpoint {self.path}: it is closed")
        start = struct.pack("<4sQI", _MARK, len(data), zlib.crc32(data))
        self._write(b"".join((start, struct.pack("<I", zlib.crc32(start)), data)))

    def sync(self) -> None:
        """Have the disk keep what was added.

        Raises
        ------
        CheckpointError : it does not.

        Warns
        -----
        CheckpointWarning : the file was deleted, moved or replaced; said once.
        """
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise self._unwritten(error) from error
        if not self._lost and not self._is_at_path(os.fstat(self._handle)):
            self._lost = True
            warnings.warn(
                f"checkpoint {self.path}: it is no longer there, but was deleted, moved or replaced in the middle of "
                "the run. The run goes on, and no later one will find what it did; where the file was moved, move it "
                "back",
                CheckpointWarning, stacklevel=2,
            )  # fmt: skip

    def leave(self) -> None:
        """Close the file as it is; others may have it."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        self.leave()

    @property
    def is_open(self) -> bool:
        """Whether records can be added."""
        return self._handle >= 0

    # ----------------------------------------------------------------------------------------------- opening

    def _opened(self, header: bytes) -> int:
        if not self.path.parent.is_dir():
            raise CheckpointError(f"checkpoint {self.path}: there is no folder {self.path.parent}; make it first")
        while True:
            try:
                flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
                handle = os.open(self.path, flags)
            except FileNotFoundError:
                self._create(header)
                continue
            try:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    raise CheckpointError(f"checkpoint {self.path}: found a device or a pipe; give the path of a file")
                self._take_lock(handle)
                if self._is_at_path(found):
                    if os.fstat(handle).st_size == 0:  # an empty file made by others: tempfile, touch
                        os.write(handle, header)
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # deleted or replaced since it was opened: whoever has it has another file

    def _is_at_path(self, found: os.stat_result) -> bool:
        try:
            return os.path.samestat(found, os.stat(self.path))
        except OSError:  # its folder may have been replaced, too
            return False

    def _create(self, header: bytes) -> None:
        """Make the file with its header in one step, unless another process is faster."""
        handle, beside = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(header)
                file.flush()
                os.fsync(handle)
            try:
                os.link(beside, self.path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                if not self.path.exists():
                    os.rename(beside, self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        with contextlib.suppress(OSError):  # not every system lets a folder be opened
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _take_lock(self, handle: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"checkpoint {self.path}: another process, or another run in this one, is running with it; wait for "
                "that run to end, or give another path"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"checkpoint {self.path}: its file system has no locks ({error.strerror}); see to it that no other "
                "process uses it at the same time",
                CheckpointWarning, stacklevel=6,
            )  # fmt: skip

    def _read_header(self) -> tuple[Any, int]:
        """What it says, and where the records begin."""
        with os.fdopen(os.dup(self._handle), "rb") as file:
            file.seek(0)
            title = _TITLE.match(file.readline(128))
            if title is None:
                raise CheckpointError(f"checkpoint {self.path}: found another file there; give another path")
            number = int(title[1])
            if number > FORMAT:
                raise CheckpointError(
                    f"checkpoint {self.path}: a newer pointsman wrote it, in format {number}; this one reads formats "
                    f"up to {FORMAT}. Use that version, or give another path"
                )
            text = file.read(int(title[2])) if title[2] else b""
            if not text or f"{zlib.crc32(text):08x}".encode() != title[3]:
                raise CheckpointError(f"checkpoint {self.path}: its header is damaged; {ANEW}")
            return json.loads(text), file.tell()

    # ----------------------------------------------------------------------------------- writing, and its troubles

    def _write(self, data: bytes) -> None:
        before = os.lseek(self._handle, 0, os.SEEK_END)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest[:_LARGEST_WRITE]) :]
        except BaseException as error:  # Ctrl-C between two parts as well
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, before)
            if not isinstance(error, OSError):
                raise
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> CheckpointError:
        what = "there is no room left" if error.errno in _FULL else "it cannot be written"
        return CheckpointError(
            f"checkpoint {self.path}: {what}: {error.strerror}. What was put before is in it: put that right, and run "
            "again with the same checkpoint"
        )

    def _refuse_if_more(self, at: int, after: int) -> None:
        """Refuse a file with a bad record at `at` if the head of another one stands at `after` or later."""
        with mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ) as file:
            while (after := file.find(_MARK, after)) >= 0:
                if _head(file[after : after + _HEAD.size]) is not None:
                    raise CheckpointError(
                        f"checkpoint {self.path}: damaged at byte {at}, with other records after it; nothing was "
                        f"changed. Restore a copy; or cut it off there (truncate -s {at} PATH), which keeps what "
                        f"stands before; or {ANEW}"
                    )
                after += 1

    def _cut(self, at: int, size: int) -> None:
        """Drop the beginning of a record that an end of the process, or of the power, left."""
        os.ftruncate(self._handle, at)
        self.cut_bytes = size - at
        _log.warning(
            "checkpoint %s: its last record was not finished; %d bytes were cut off, and those simulations run again",
            self.path, self.cut_bytes,
        )  # fmt: skip


def _header(about: Mapping[str, Any]) -> bytes:
    text = json.dumps(about, indent=1).encode("ascii") + b"\n"
    return b"pointsman checkpoint, format %d; header of %d bytes, CRC-32 %08x\n%s" % (
        FORMAT, len(text), zlib.crc32(text), text,
    )  # fmt: skip


def _head(data: bytes) -> tuple[int, int] | None:
    """(length, CRC-32) that the head of a record tells; None where it is none."""
    if len(data) < _HEAD.size:
        return None
    mark, length, check, own = _HEAD.unpack(data)
    return (length, check) if mark == _MARK and own == zlib.crc32(data[: _HEAD.size - 4]) else None
