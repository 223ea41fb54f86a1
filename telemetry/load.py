"""How busy others keep this machine: the context that outcomes are labelled with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

BUSY_CORES = 0.3
"""From here on a neighbour changes which variant is fastest on two cores (measured)."""

_BUSY_SHARE = 0.05  # of all cores: on a large machine some daemon is always at work
_SHORTEST_S = 0.05  # counters advance in ticks of 10 ms
_TICK_ERROR_S = 0.02  # a tick each at both ends


class Load(NamedTuple):
    """What others use of the machine, in cores, and whether that counts as busy."""

    other_cores: float
    busy: bool


class LoadMeter:
    """Processor use of everybody but this process, over the time between two readings.

    The load average lags by half a minute; counters see a neighbour within a second. Child processes that still run
    count as others, for the system charges them to us only when they end.

    Parameters
    ----------
    read_stat : gives (processor seconds used by all, cores); None: from /proc/stat, or psutil where there is none.
    read_own : gives the processor seconds used by this process and its ended children.
    clock : monotonic seconds.
    """

    def __init__(
        self,
        read_stat: Callable[[], tuple[float, int]] | None = None,
        read_own: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_stat = read_stat or _all_seconds
        self._read_own = read_own or _own_seconds
        self._clock = clock
        self._before: tuple[float, float, float] | None = None
        self._load = Load(0.0, False)

    def read(self) -> Load:
        """The load since the last reading; within 50 ms of it the same answer again, and quiet until it is known."""
        now = self._clock()
        if self._before is not None and now - self._before[0] < _SHORTEST_S:
            return self._load
        everybody, cores = self._read_stat()
        own = self._read_own()
        before, self._before = self._before, (now, everybody, own)
        if before is not None:
            interval = now - before[0]
            other = max(0.0, (everybody - before[1]) - (own - before[2])) / interval
            limit = max(BUSY_CORES, _BUSY_SHARE * cores) + _TICK_ERROR_S / interval
            self._load = Load(other, other > limit)
        return self._load


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _all_seconds() -> tuple[float, int]:
    cores = os.cpu_count() or 1
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        import psutil

        times = psutil.cpu_times()
        return sum(times) - times.idle - getattr(times, "iowait", 0.0), cores
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[1:9])
    # Time stolen by other guests of the host is taken from us as well.
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK"), cores
