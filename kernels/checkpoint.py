"""Checkpoints: what a Monte Carlo run has done so far, in a file that a killed run goes on from.

    with Checkpoint.open("run.checkpoint", fingerprint_of(worker, args, kwargs, root, ...)) as checkpoint:
        done = checkpoint.results                    # of runs before this one
        checkpoint.put(first, results)               # in the file when this returns, whatever happens to the process

The file is bound to one run by its fingerprint; the number of simulations is not part of it, so a longer run goes on
from a shorter one. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ..telemetry import lifetime
from .checkpoint_file import ANEW, CheckpointError, CheckpointWarning, RecordFile
from .packing import KEPT, UnfitError, pack, unpack

__all__ = ["Checkpoint", "CheckpointError", "CheckpointWarning"]

SYNC_S = 1.0
"""A power cut costs the results of no more seconds than this; the end of the process costs none."""


class Checkpoint:
    """What a run has done so far; `Checkpoint.open` makes one, and leaving its context closes it.

    Its methods may be called from several threads. A forked child finds it closed.

    Attributes
    ----------
    results : {index of a simulation: its result}, those found in the file and those put since.
    states : {leaf: state of a reducer}, likewise.
    fingerprint : which run it belongs to.
    made_with : what the file was begun with, for information: versions, machine.
    cut_bytes : of an unfinished record that was found at its end and cut off.
    """

    def __init__(self, file: RecordFile, monotonic: Callable[[], float]) -> None:
        self.results: dict[int, Any] = {}
        self.states: dict[int, dict[str, Any]] = {}
        self.fingerprint: dict[str, Any] = file.about["fingerprint"]
        self.made_with: dict[str, str] = file.about["made_with"]
        self.cut_bytes = 0
        self._file = file
        self._monotonic = monotonic
        self._synced = monotonic()
        self._lock = threading.RLock()
        lifetime.free_in_child(self)
        _OPEN.add(self)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], fingerprint: Mapping[str, Any], *, free: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Checkpoint:  # fmt: skip
        """Begin a checkpoint at `path`, or go on with the one that is there.

        Parameters
        ----------
        path : of the file; its folder must exist.
        fingerprint : which run it belongs to: names and JSON values, see `fingerprint_of`.
        free : names of the fingerprint that may be otherwise in a file that is there; what it says counts.
        monotonic : the clock, in seconds, that says when to have the disk keep what was written.

        Raises
        ------
        CheckpointError
            The file belongs to another run, is in use, is no checkpoint, is of a newer format, or is damaged before
            its end; or it cannot be made or opened. A file that is refused is left as it is.

        Warns
        -----
        CheckpointWarning : the file system has no locks, so nothing keeps a second process from using it as well.
        """
        wanted = json.loads(json.dumps(dict(fingerprint)))
        file = RecordFile(path, {"fingerprint": wanted, "made_with": _made_with()})
        try:
            _same_run(file, wanted, free)
            checkpoint = cls(file, monotonic)
            checkpoint._read()
        except BaseException:
            file.leave()
            raise
        return checkpoint

    def put(self, first: int, results: Sequence[Any]) -> None:
        """Add the results of simulations `first`, `first` + 1 and so on, as one record.

        Raises
        ------
        CheckpointError
            A result that cannot be kept, no room left, or the file cannot be written. What was put before is safe;
            of these results nothing is in the file.
        """
        self._put(["results", first, list(results)], range(first, first + len(results)))

    def put_at(self, indices: Sequence[int], results: Sequence[Any]) -> None:
        """As `put`, of the simulations at `indices`."""
        if len(indices) != len(results):
            raise ValueError(f"checkpoint: found {len(indices)} indices and {len(results)} results; give as many")
        plain = [int(index) for index in indices]
        self._put(["scattered", plain, list(results)], plain)

    def put_state(self, leaf: int, state: Mapping[str, Any], covers: range = range(0)) -> None:
        """Add the state of a reducer that has taken in all of one leaf.

        Parameters
        ----------
        leaf : its number.
        state : names and plain data.
        covers : simulations that it stands for; their results are needed no longer, and leave `results`.

        Raises
        ------
        CheckpointError : as `put`.
        """
        self._put(["state", leaf, dict(state), covers.start, covers.stop], None)

    def close(self) -> None:
        """Have the disk keep everything, and let others use the file; nothing where it is closed.

        Raises
        ------
        CheckpointError : the disk did not take what was written.

        Warns
        -----
        CheckpointWarning : the file was deleted, moved or replaced meanwhile.
        """
        with self._lock:
            if self._file.is_open:
                try:
                    self._file.sync()
                finally:
                    self._file.leave()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, record: list[Any], indices: Sequence[int] | None) -> None:
        try:
            packed = pack(record)
        except UnfitError as error:
            raise self._unfit(error, indices) from None
        with self._lock:
            self._file.append(packed)
            self._take(record)
            if self._monotonic() - self._synced >= SYNC_S:
                self._file.sync()
                self._synced = self._monotonic()

    def _unfit(self, error: UnfitError, indices: Sequence[int] | None) -> CheckpointError:
        number, _, rest = error.where.removeprefix("[").partition("]")  # the first step leads to one of the results
        whose, where = ("the state", error.where)
        if indices is not None:
            whose, where = f"the result of simulation {indices[int(number)]}", rest
        found = f"holds {error.found} at {where}" if where else f"is {error.found}"
        return CheckpointError(
            f"checkpoint {self._file.path}: {whose} {found}; what can be kept: {KEPT}. Have the worker give these (a "
            "named tuple or a dataclass as a dictionary, a tensor as an array), or run without a checkpoint"
        )

    def _read(self) -> None:
        for at, packed in self._file.records():
            try:
                self._take(unpack(packed))
            except (ValueError, TypeError, OverflowError) as error:
                raise CheckpointError(
                    f"checkpoint {self._file.path}: the record at byte {at} cannot be understood: {error}; {ANEW}"
                ) from error
        self.cut_bytes = self._file.cut_bytes

    def _take(self, record: list[Any]) -> None:
        kind, which, what, *rest = record
        if kind == "results":
            self.results.update(enumerate(what, which))
        elif kind == "scattered":
            self.results.update(zip(which, what, strict=True))
        elif kind == "state":
            self.states[which] = what
            for index in range(*rest):
                self.results.pop(index, None)
        else:
            raise ValueError(f"found a record of kind {kind!r}")


_OPEN: weakref.WeakSet[Checkpoint] = weakref.WeakSet()


def _in_child() -> None:
    """A forked child writes nothing, and does not keep the file locked when its parent is gone."""
    for checkpoint in tuple(_OPEN):
        checkpoint._file.leave()


lifetime.in_child(_in_child)


def _made_with() -> dict[str, str]:
    return {
        "pointsman": importlib.metadata.version("pointsman"), "numpy": np.__version__,
        "python": platform.python_version(), "machine": platform.machine(), "system": platform.system(),
    }  # fmt: skip


def _same_run(file: RecordFile, wanted: dict[str, Any], free: Sequence[str]) -> None:
    found = file.about["fingerprint"]
    wanted |= {name: found[name] for name in free if name in found}
    if found == wanted:
        return
    lines = [
        f"   {name}: asked {_told(wanted, name)}, found {_told(found, name)}"
        for name in dict.fromkeys([*wanted, *found])
        if _told(wanted, name) != _told(found, name)
    ]
    raise CheckpointError("\n".join([f"checkpoint {file.path}: it belongs to another run; {ANEW}", *lines]))


def _told(fingerprint: dict[str, Any], name: str) -> str:
    return json.dumps(fingerprint[name]) if name in fingerprint else "nothing"
