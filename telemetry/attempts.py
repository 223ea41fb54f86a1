"""Large runs on the host announce themselves, so that one that the kernel kills leaves word.

Linux promises more memory than there is, and then ends the process without an exception. A row that says "begun" and
has no living owner is all that such a run leaves; whoever reads it takes its workspace for one that failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from .marks import Mark, Place
from .memory import read_text

if TYPE_CHECKING:
    from .history import History

PATIENT_S = 0.25
"""How long a large run waits for others to finish writing before it goes ahead unannounced."""


class Begun(NamedTuple):
    """A run that has begun: `owner` names its process, `spare` is what memory there was to spare, in bytes."""

    place: Place
    bytes: int
    spare: int
    started: float  # unix time
    owner: str

    def as_mark(self) -> Mark:
        """What it stands for once its process is gone."""
        why = "its process was killed in the middle of it"
        return Mark(failed=self.bytes, failed_at=self.started, spare=self.spare, message=why)


@contextmanager
def announced(history: History, place: Place, nbytes: int, spare: int) -> Iterator[None]:
    """Have it in the file, for as long as the block runs, that a run of so many bytes has begun.

    Costs about 0.1 ms. Where the file cannot be written, the block runs all the same.
    """
    recorder, disk = history._recorder, history._disk
    number = None
    if recorder is not None:
        begun = Begun(place, nbytes, spare, history.now(), owner(os.getpid()) or "")
        with disk:
            number = recorder.announce(begun, PATIENT_S)
    try:
        yield
    finally:
        if recorder is not None and number is not None:
            with disk:
                recorder.retract(number, PATIENT_S)


def owner(pid: int, started: Callable[[int], str | None] | None = None) -> str | None:
    """What names a process for as long as it lives: boot, process namespace, number and start; None if it is gone."""
    when = (started or _started)(pid)
    return None if when is None else f"{_here()}/{pid}/{when}"


def is_gone(name: str) -> bool:
    """Whether the process that `owner` named has ended; False where that cannot be seen from here."""
    where, _, rest = name.rpartition("/")
    where, _, pid = where.rpartition("/")
    boot, _, space = where.partition("/")
    our_boot, _, our_space = _here().partition("/")
    if boot != our_boot:
        return True
    if space != our_space or not (pid.isdigit() and rest):
        return False  # a container's: its processes have numbers of their own
    return owner(int(pid)) != name


@lru_cache(maxsize=1)
def _here() -> str:
    boot = (read_text("/proc/sys/kernel/random/boot_id") or "").strip()
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{boot}/{space}"


def _started(pid: int) -> str | None:
    """When a process began, in whatever unit the system counts; None if there is no such process, or only its shell."""
    text = read_text(f"/proc/{pid}/stat")
    if text is not None:
        state, *rest = text.rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None
