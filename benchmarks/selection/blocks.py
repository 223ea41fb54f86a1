"""Blocks of single calls of one variant, with what others used of the machine beside them, and what is told of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pointsman.executors.conversion import kind_of
from pointsman.kernels import agreement
from pointsman.kernels.base import Arguments, Kernel
from pointsman.telemetry.levels import BINS_PER_OCTAVE, Levels, levels
from pointsman.telemetry.load import LoadMeter

from ..priors import REFERENCE_MOST, prepared

WARM = 2  # calls before the timed ones of a block
LONG_S = 0.02  # a longer call leaves no caches worth warming
PAUSE_S = 0.002  # before a block: the threads of some libraries go on spinning for a while after a call
LEAST = 2  # timed calls of a block
WAIT_S = 0.2  # between two looks whether the machine has become quiet; the meter's ticks are 5 % of it
WAIT_MOST_S = 5.0  # at a time
COMPUTING = """
import os, sys
print("computing", flush=True)
while os.getppid() == int(sys.argv[1]):  # whoever is killed outright leaves nobody behind
    for _ in range(1_000_000):
        pass
"""


# ---- who else is there


@contextmanager
def neighbour() -> Iterator[Callable[[], float]]:
    """Another process that computes on one thread, pinned nowhere, for as long as the block lasts.

    Gives what tells the processor seconds that it has used so far.
    """
    command = [sys.executable, "-c", COMPUTING, str(os.getpid())]
    # In a session of its own, so that Ctrl-C reaches only who can clean up.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield lambda: _used_s(process.pid)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _used_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        import psutil

        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Beside(NamedTuple):
    """What others used of the machine over some time, in cores, and whether only those did who were meant to."""

    other_cores: float
    clean: bool


class Watch:
    """Reads what others use, the neighbour's share apart, and waits for those who were not invited to go.

    Parameters
    ----------
    invited : gives the processor seconds of the neighbour; None: nobody is meant to be there.
    patience_s : seconds in all to spend on waiting, and on taking again what was disturbed.
    meter : makes a `LoadMeter` of what is ours.
    """

    def __init__(
        self,
        invited: Callable[[], float] | None = None,
        patience_s: float = 0.0,
        meter: Callable[[Callable[[], float]], LoadMeter] = lambda own_s: LoadMeter(read_own=own_s),
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience_s, self.waited_s = patience_s, 0.0
        self._everybody = meter(_own_s)
        # What the neighbour uses counts as ours, so that the library's own rule judges the rest.
        self._uninvited = meter(lambda: _own_s() + (invited() if invited else 0.0))
        self._sleep, self._clock = sleep, clock

    def read(self) -> Beside:
        """Since the last reading; within 50 ms of that the same again, for counters see no shorter time."""
        return Beside(self._everybody.read().other_cores, not self._uninvited.read().busy)

    def settle(self) -> None:
        """Wait until nobody uninvited computes, for five seconds at most and as long as there is patience."""
        self.read()
        least_s = self.patience_s - WAIT_MOST_S
        while self.patience_s > max(least_s, 0.0):
            started = self._clock()
            self._sleep(WAIT_S)
            clean = self.read().clean
            self.spend(self._clock() - started)
            if clean:
                return

    def spend(self, seconds: float) -> None:
        """Take seconds off the patience."""
        self.patience_s -= seconds
        self.waited_s += seconds


# ---- one variant on one input


class Contestant:
    """One variant on one input: checked in its first call, then timed in blocks."""

    def __init__(self, kernel: Kernel, name: str, given: Arguments, size: int) -> None:
        self.kernel, self.variant, self.size = kernel, kernel.variant(name), size
        self.name = name
        self.args, self.kwargs = given
        ready = prepared(kernel.name, name, tuple(kind_of(a) for a in self.args), tuple(self.kwargs))
        self.import_s: float = ready.import_s  # of parts of the library that only this variant needs
        self._call: Callable[..., Any] = ready.call
        shapes = agreement.shapes(self.args, self.kwargs)
        declared = self.variant.work or kernel.work
        self.work = max(float(declared(shapes, self.kwargs)) if declared else float(self.args[0].size), 1.0)
        self.first_s = self.error = self.seconds_s = float("nan")
        self.blocks: list[list[float]] = []  # a list of seconds for each round
        self.result_dtype = ""

    def first(self) -> Any:
        """Time the first call, compilation included; its result."""
        started = time.perf_counter()
        result = self._call(*self.args, **self.kwargs)
        self.first_s = time.perf_counter() - started
        self.result_dtype = _dtype(result)
        return result

    def check(self, result: Any, expected: Any, trusted: str) -> None:
        """Keep the error of `result`; a ValueError where it is beyond what the variant promises.

        Where `expected` is another variant's result, and no reference's, the two promises add up.
        """
        exact = trusted == "reference"
        self.error = agreement.error(result, expected) if exact else plain_error(result, expected)
        bound = agreement.tolerance(self.kernel, self.variant, self.args[0].dtype.name) * (1 if exact else 2)
        if not self.error <= bound:
            raise ValueError(f"off by {self.error:.1e} of the {trusted}'s scale, where {bound:.1e} is promised")

    def estimate(self) -> None:
        """Time one more call, the first that may be steady."""
        started = time.perf_counter()
        self._call(*self.args, **self.kwargs)
        self.seconds_s = time.perf_counter() - started

    def block(self, share_s: float) -> None:
        """Warm up, then time single calls for about `share_s` seconds, two at least."""
        call, args, kwargs, clock = self._call, self.args, self.kwargs, time.perf_counter
        time.sleep(PAUSE_S)
        for _ in range(0 if self.seconds_s > LONG_S else WARM):
            call(*args, **kwargs)
        seconds: list[float] = []
        ends = clock() + share_s
        after = 0.0
        while after < ends or len(seconds) < LEAST:
            before = clock()
            call(*args, **kwargs)
            after = clock()
            seconds.append(after - before)
        self.blocks.append(seconds)
        self.seconds_s = min(self.seconds_s, sorted(seconds)[len(seconds) // 2])

    def summary(self, rounds: Sequence[int], other: Sequence[float]) -> dict[str, Any]:
        """What the matrix says of the given rounds; times in nanoseconds."""
        return {
            "first_ns": short(self.first_s * 1e9),
            "err": short(self.error, 2),
            "dtype": self.result_dtype,
            "work": short(self.work, 6),
            "other": [round(cores, 2) for cores in other],
            **statistics([s for n in rounds for s in self.blocks[n]]),
        }


def expected_of(kernel: Kernel, given: Arguments, size: int) -> tuple[Any, str]:
    """What a result is held against, and its name: the reference, or where that takes too long the default variant."""
    if size <= REFERENCE_MOST:
        return kernel.reference(*given[0], **given[1]), "reference"
    return kernel.variants[0].load()(*given[0], **given[1]), "default"


def plain_error(found: Any, expected: Any) -> float:
    """As `agreement.error` says it of finite results, but in their own precision: at 1e7 elements that one takes a
    second for each variant."""
    if isinstance(expected, tuple):
        return max(plain_error(f, e) for f, e in zip(found, expected, strict=True))
    scale = float(np.max(np.abs(expected), initial=0.0))
    most = float(np.max(np.abs(np.subtract(found, expected)), initial=0.0))  # of a NaN a NaN, which no bound admits
    return most / scale if scale else (0.0 if most == 0.0 else float("inf"))


def _dtype(result: Any) -> str:
    return str(np.asarray(result[0] if isinstance(result, tuple) else result).dtype)


# ---- what is told of the times


def statistics(seconds: Sequence[float]) -> dict[str, Any]:
    """Count, quantiles, mean and stalls of single calls, in nanoseconds.

    "low", "mean" and the stalls are the learner's own read-outs: a stall is what it calls one, and the mean is of the
    unstalled part plus the share of stalls times their length, so that a single one among thousands of calls is not
    taken for a rate.
    """
    times = np.asarray(seconds)
    least, q1, median, q3, most = np.quantile(times, (0.0, 0.25, 0.5, 0.75, 1.0))
    found = read_out(times)
    told = {
        "min_ns": least, "q1_ns": q1, "low_ns": found.low_s, "med_ns": median, "q3_ns": q3, "max_ns": most,
        "mean_ns": found.expected_s, "stall_ns": found.stall_s,
    }  # fmt: skip
    return {
        "n": len(times),
        **{key: short(value * 1e9) for key, value in told.items()},
        "stall_rate": short(found.stall_rate),
        "spread": short(found.spread),
    }


def read_out(times: np.ndarray[Any, Any]) -> Levels:
    """The learner's read-outs of times that have no order: rounds are shuffled, so there is no change to find."""
    indices = np.floor(BINS_PER_OCTAVE * np.log2(np.maximum(times, 1e-9))).astype(np.int64)
    bins = {int(i): (float((at := indices == i).sum()), float(times[at].sum())) for i in np.unique(indices)}
    return levels(bins, [float(np.median(times))], 1)  # one recent time alone is no change of level


def short(number: float, digits: int = 4) -> float | int:
    """`number` to so many significant digits; whole ones without a point."""
    rounded = float(f"{number:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
