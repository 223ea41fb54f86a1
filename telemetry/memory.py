"""How much memory a workload may take, on the host and on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

Read = Callable[[str], str | None]
"""Gives the text of a file, or None where it cannot be read."""


def read_text(path: str) -> str | None:
    """The text of a small file, or None where it cannot be read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None


class GpuMemory:
    """Memory that may be used on each GPU, read at most once a minute.

    Parameters
    ----------
    nvml : a module that looks like pynvml; None: the real one where a driver is present.
    clock : monotonic seconds.
    reserve : share of the free memory that is left alone.
    max_age_s : for how long a reading is used again.
    """

    def __init__(
        self,
        nvml: Any = None,
        clock: Callable[[], float] = time.monotonic,
        reserve: float = 0.3,
        max_age_s: float = 60.0,
    ) -> None:
        if not 0.0 <= reserve < 1.0:
            raise ValueError(f"reserve must lie in [0, 1), the share of free memory to leave alone; got {reserve!r}")
        self._nvml = nvml
        self._clock = clock
        self.reserve = reserve
        self.max_age_s = max_age_s
        self._handles: dict[str, Any] | None = None
        self._free: dict[str, tuple[float, int]] = {}  # device -> (read at, bytes)

    def devices(self) -> tuple[str, ...]:
        """Names of the GPUs that this process may use, such as "cuda:0"; empty without any."""
        if self._handles is None:
            from .hardware import visible_gpus

            self._handles = {f"cuda:{gpu.index}": handle for gpu, handle in visible_gpus(self._nvml)}
        return tuple(self._handles)

    def budget_bytes(self, device: str, reusable: int = 0) -> int:
        """Bytes that a workload may take on `device`: (free + `reusable`) x (1 - reserve).

        Parameters
        ----------
        reusable : bytes that this process's own pools hold there but do not use; the driver counts them as taken.

        Raises
        ------
        LookupError
            There is no such GPU, or it cannot be asked.
        """
        known = self._free.get(device)
        if known is None or self._clock() - known[0] >= self.max_age_s:
            return self._budget(self.refresh(device), reusable)
        return self._budget(known[1], reusable)

    def refresh(self, device: str) -> int:
        """Read the free bytes of `device` now; raises LookupError as `budget_bytes` does."""
        from .hardware import driver

        names = self.devices()
        handle = (self._handles or {}).get(device)
        if handle is None:
            raise LookupError(f"asked for the memory of {device!r}; GPUs usable here: {', '.join(names) or 'none'}")
        nvml = self._nvml or driver()
        try:
            free = int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
        except nvml.NVMLError as error:
            self._free.pop(device, None)
            raise LookupError(f"asked for the memory of {device!r}; the driver answered: {error}") from error
        self._free[device] = (self._clock(), free)
        return free

    def _budget(self, free: int, reusable: int) -> int:
        return int((free + reusable) * (1.0 - self.reserve))


def host_budget_bytes(
    reserve: float = 0.1, *, available: Callable[[], int] | None = None, read: Read = read_text
) -> int:
    """Bytes that a workload may take on the host: what the system and every enclosing cgroup have left, less a reserve.

    Linux promises more memory than there is and then kills the process without an exception, so this is a constraint.

    Parameters
    ----------
    reserve : share to leave alone.
    available : gives the bytes that the system has left; None: psutil.
    read : gives the text of a file under /proc or /sys.
    """
    left = _available() if available is None else available()
    for limit, used in _cgroup_limits(read):
        left = min(left, max(limit - used, 0))
    return int(left * (1.0 - reserve))


@cache
def spare_bytes() -> int:
    """What a library may keep for later: a 32nd of the host's budget when it was first asked for, 128 MiB at least."""
    return max(128 * 2**20, host_budget_bytes() // 32)


def cgroup_files(name: str, read: Read = read_text) -> Iterator[str]:
    """Texts of the cgroup v2 file `name` of this process's cgroup and those around it, innermost first."""
    for folder in _folders(read, controller=""):
        text = read(f"/sys/fs/cgroup{folder}{name}")
        if text is not None:
            yield text.strip()


def _cgroup_limits(read: Read) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot be reclaimed) of each cgroup around this process that has a limit."""
    places = [("/sys/fs/cgroup", folder, "memory.max", "memory.current", "") for folder in _folders(read, "")]
    places += [
        ("/sys/fs/cgroup/memory", folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        for folder in _folders(read, "memory")
    ]
    for root, folder, limit_name, used_name, prefix in places:
        limit = (read(f"{root}{folder}{limit_name}") or "").strip()
        used = (read(f"{root}{folder}{used_name}") or "").strip()
        if limit.isdigit() and used.isdigit():  # "max" where there is no limit
            cached = _stat(read(f"{root}{folder}memory.stat") or "", f"{prefix}inactive_file")
            yield int(limit), max(int(used) - cached, 0)


def _folders(read: Read, controller: str) -> list[str]:
    """This process's cgroup in the hierarchy of `controller` ("": v2) and all its parents, as "/a/b/", ..., "/"."""
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            inner = PurePosixPath(path)
            return [f"{str(folder).rstrip('/')}/" for folder in (inner, *inner.parents)]
    return []


def _stat(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _available() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
