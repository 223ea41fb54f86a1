"""The first items of a map, run in place: their results count, and they tell what the rest will cost."""

from __future__ import annotations

import pickle
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..executors.errors import RAISED
from ..executors.mapping import each
from ..selector.maps import Facts

SHORT_S = 0.02
"""A rest that takes less is run in place without further thought: to decide may take 3 % of it."""
BLOCK_S = 0.005
"""Seconds between two looks at the clock."""
WATCH_S = 0.012
"""Seconds of work during which the interpreter lock is watched: two or three of its switching intervals."""
BEAT_S, BEATS = 5e-4, 24
SPIN_S = 1e-4
"""Seconds that the lock is then held in turn: a worker that lets go of it for moments only stands still meanwhile."""
GOES_ON = 0.5
"""A worker that computes for this share of those seconds can do without the lock."""
HELD = 0.4
"""A thread that gets the interpreter only after this share of the switching interval has had to wait for it."""
CROWDED = 0.1
"""A thread that waited for a core for this share of the time: what was seen meanwhile tells of others as well."""
WEIGH_S, WEIGH_SHARE = 0.005, 0.25
"""Seconds, or the share of an item's own, within which it must be pickled; what takes longer is not worth sending."""
TOO_HEAVY = 1 << 40


class Sink(Protocol):
    """Where the results of a run go."""

    enough: bool  # nothing more need be run
    streams: bool  # wants results as they come: in place, in blocks of `BLOCK_S`

    def go_on(self) -> None:
        """Called before each block in place; raises where the run must not go on."""

    def take(self, place: int, results: list[Any]) -> None:
        """Results of the items from `place` on, run in place."""

    def receive(self, place: int, found: Any) -> None:
        """What the chunk from `place` on gave in a worker."""

    def work(self, worker: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`worker` for a chunk, as workers run it: gives (place, found, time of begin, seconds)."""

    def cut(self, items: Sequence[Any], first: int, size: Callable[[int], int]) -> Iterator[Any]:
        """`items` from `first` on in chunks; `size` says of how many items about, given how many are left."""


class Listed:
    """Results in a list, in the order of the items."""

    __slots__ = ("enough", "out", "streams")

    def __init__(self, items: int) -> None:
        self.out: list[Any] = [None] * items
        self.enough = self.streams = False

    def go_on(self) -> None:
        """No reason not to."""

    def take(self, place: int, results: list[Any]) -> None:
        """See `Sink.take`."""
        self.out[place : place + len(results)] = results

    receive = take

    def work(self, worker: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """See `Sink.work`."""
        return each(worker)

    def cut(self, items: Sequence[Any], first: int, size: Callable[[int], int]) -> Iterator[Any]:
        """See `Sink.cut`."""
        while first < len(items):
            end = first + size(len(items) - first)
            yield first, items[first:end]
            first = end


class Run:
    """Items being run one after the other in the caller's thread.

    Parameters
    ----------
    worker, items : what to run on what.
    sink : takes the results; None: a list.
    clock : wall seconds.
    noted : whether an exception gets a note that names the place of its item.
    """

    __slots__ = ("_sample", "clock", "done", "item_s", "items", "noted", "sink", "worker")

    def __init__(
        self, worker: Callable[[Any], Any], items: Sequence[Any], sink: Sink | None = None,
        clock: Callable[[], float] = time.perf_counter, noted: bool = True,
    ) -> None:  # fmt: skip
        self.worker = worker
        self.items = items
        self.sink: Sink = Listed(len(items)) if sink is None else sink
        self.clock = clock
        self.noted = noted
        self.done = 0
        self.item_s = 0.0  # of the latest block
        self._sample: Any = None  # the first result of the latest block

    @property
    def left(self) -> int:
        """Items that have not run, and still should."""
        return 0 if self.sink.enough else len(self.items) - self.done

    @property
    def left_s(self) -> float:
        """Seconds that they would take in place."""
        return self.left * self.item_s

    def block(self, size: int) -> None:
        """Run the next `size` items, or as many as there are."""
        self.sink.go_on()
        worker, first, out = self.worker, self.done, list[Any]()
        failure: Exception | None = None
        started = self.clock()
        try:
            for item in self.items[first : first + size]:
                out.append(worker(item))
        except StopIteration as error:  # it would end an iterator somewhere on its way, and results with it
            failure = RuntimeError(f"the worker raised StopIteration at item {first + len(out)} of the map")
            failure.__cause__ = error
        except Exception as error:
            failure = error
            note = f"{RAISED} item {first + len(out)} of the map"
            if self.noted and note not in getattr(error, "__notes__", ()):  # a kept instance comes again
                error.add_note(note)
        finally:  # a failure leaves what came before it
            self.item_s = (self.clock() - started) / (len(out) or 1)
            self.done = first + len(out)
            if out:
                self._sample = out[0]
                self.sink.take(first, out)
        if failure is not None and not self.sink.enough:
            raise failure

    def until(self, seconds: float) -> int:
        """Items that take about so many seconds; at most eight times as many as have run."""
        most = 8 * self.done or 1
        return max(1, min(most, int(seconds / self.item_s))) if self.item_s > 0.0 else most

    def watched(self, known: Facts | None) -> Facts:
        """Run one more block, and find out what can be told of its items."""
        shares = known.shares if known is not None else None
        beat = Beat() if shares is None else None
        if beat is not None:
            beat.start()
        own, everyone, first = time.thread_time(), time.process_time(), self.done
        queued = core_wait_s()
        try:
            watch_s = BLOCK_S if beat is None else WATCH_S
            self.block(max(1, int(watch_s / self.item_s)) if self.item_s > 0.0 else 1)
        finally:
            if beat is not None:
                shares = beat.stop()
        ran = self.done - first
        cpu_s, own_s = (time.process_time() - everyone) / ran, (time.thread_time() - own) / ran
        if core_wait_s() - queued > CROWDED * ran * self.item_s:  # the beat came late, or items slow, for that reason
            shares, cpu_s = known.shares if known is not None else None, max(cpu_s, self.item_s)
        nbytes = 0
        if self.left_s >= SHORT_S:  # else nobody asks
            within_s = max(WEIGH_S, WEIGH_SHARE * self.item_s)
            nbytes = _shipped(self.items[first], within_s) + _shipped(self._sample, within_s)
        return Facts(self.item_s, cpu_s, own_s, shares, nbytes)


def pilot(run: Run, known: Facts | None) -> Facts | None:
    """Run items until all are done (None), or until the rest is known to be long: then what is known of an item.

    A first item is often cold, so two are run at least: it may import, compile, or fill a cache.
    """
    run.block(1)
    again = True
    while run.left:
        if run.left_s < SHORT_S:
            run.block(run.until(BLOCK_S))
        elif again and run.item_s < BLOCK_S:
            run.block(run.until(1e-3))
            again = False
        else:
            facts = run.watched(known)
            if run.left_s >= SHORT_S:
                return facts
    return None


class Beat:
    """Tells whether other threads get to run: a thread that sleeps, notes how late it comes back, and holds the lock.

    One that wants the interpreter lock while another thread computes in Python gets it after a switching interval
    (5 ms); if the other releases it, at once. That may be for moments only, as short NumPy calls do: so the lock is
    held for a while, and whether the caller's thread computes meanwhile is looked at.
    """

    def __init__(self) -> None:
        self._late: list[float] = []
        self._went_on: list[float] = []
        self._done = threading.Event()
        self._caller = _cpu_clock()
        self._thread = threading.Thread(target=self._beat, name="pointsman-beat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _beat(self) -> None:
        clock, caller = time.perf_counter, self._caller
        for _ in range(BEATS):
            before = clock()
            if self._done.wait(BEAT_S):
                return
            now = clock()
            self._late.append(now - before - BEAT_S)
            if caller is not None:
                used, until = caller(), now + SPIN_S
                while clock() < until:
                    pass
                self._went_on.append((caller() - used) / (clock() - now))

    def stop(self) -> bool:
        """End; whether other threads could run meanwhile."""
        self._done.set()
        self._thread.join()
        return lets_others_run(self._late, self._went_on)


def _cpu_clock() -> Callable[[], float] | None:
    """Reads the processor seconds of the calling thread from any thread; None where the system has no such clock."""
    try:
        clock = time.pthread_getcpuclockid(threading.get_ident())
        time.clock_gettime(clock)
    except (AttributeError, OSError):
        return None
    return lambda: time.clock_gettime(clock)


def lets_others_run(late: list[float], went_on: list[float]) -> bool:
    """Whether another thread could run beside the watched one.

    Parameters
    ----------
    late : seconds by which it came back late, each time.
    went_on : shares of the time for which it then held the interpreter lock that the watched one computed.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return True
    if not late or statistics.median(late) >= HELD * sys.getswitchinterval():  # none: not one turn in all the time
        return False
    return not went_on or statistics.median(went_on) > GOES_ON


def core_wait_s() -> float:
    """Seconds that this thread has waited for a core while it could have run; 0.0 where the system does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0


class _Heavy(Exception):
    pass


class _Scales:
    """A file that counts what is written to it, for so many seconds."""

    def __init__(self, within_s: float, clock: Callable[[], float]) -> None:
        self.nbytes = 0
        self._clock = clock
        self._until = clock() + within_s

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.nbytes += size
        if self._clock() > self._until:
            raise _Heavy
        return size


def _shipped(x: Any, within_s: float, clock: Callable[[], float] = time.perf_counter) -> int:
    """Bytes of `x` on its way to another process; 0 where that cannot be told, `TOO_HEAVY` where it takes long."""
    nbytes = getattr(x, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    scales = _Scales(within_s, clock)
    try:
        pickle.Pickler(scales, pickle.HIGHEST_PROTOCOL).dump(x)  # writes 64 KiB at a time
    except _Heavy:
        return TOO_HEAVY
    except Exception:  # cloudpickle may still do it, and if not, the run says so
        return 0
    return scales.nbytes
