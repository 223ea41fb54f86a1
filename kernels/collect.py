"""The results of a Monte Carlo run on their way to the caller: in order, folded, kept, told of, and counted.

A run is divided into leaves of `leaf_size` simulations, the last one shorter. Leaves are folded and merged in order,
and whether enough was done is asked after a fixed number of them: nothing depends on where simulations ran.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..executors.errors import RunTimeoutError
from ..executors.mapping import HERE, Chunk, each
from ..executors.raised import guarded, reraise
from .reducers import Reducer, State
from .simulations import FailedSimulation

LEAF = 1024
"""Simulations to a leaf, where nobody says otherwise."""
STEP = 1.25
"""Whether enough was done is asked after so many times as many leaves as the time before."""
AHEAD = 16
"""Where a run may end early, a chunk is at most this part of the simulations before it, but a leaf at least."""
SAVE_S = 0.02
"""Where leaves are folded, results of one that is not complete are kept after so many seconds."""
TELL_S = 0.1
"""Seconds between two reports of progress."""


class Kept(Protocol):
    """What outlives a killed run; see `Checkpoint`."""

    @property
    def results(self) -> Mapping[int, Any]:
        """Simulation -> its result."""

    @property
    def states(self) -> Mapping[int, Mapping[str, Any]]:
        """Leaf -> what it was folded to."""

    def put(self, first: int, results: Sequence[Any]) -> None:
        """Keep results of simulations from `first` on."""

    def put_state(self, leaf: int, state: Mapping[str, Any], covers: range = range(0)) -> None:
        """Keep what a whole leaf was folded to, instead of the results of the simulations that it covers."""


class Collector:
    """The sink of a Monte Carlo run; see `map_pilot.Sink`.

    Parameters
    ----------
    n : simulations.
    collect : results come as (True, result) or (False, what `FailedSimulation` is made of).
    reducer : what becomes of the results; None: a list.
    leaf_size : simulations to a leaf.
    stop_when : asked with what the run would give if it ended there, and with how many simulations that is.
    kept : holds what an earlier run did, and is told what this one does.
    tell : called with (simulations done, n).
    until : a time by `clock` when the run must have ended.
    clock : seconds.
    """

    def __init__(
        self, n: int, *, collect: bool = False, reducer: Reducer | None = None, leaf_size: int = LEAF,
        stop_when: Callable[[Any, int], bool] | None = None, kept: Kept | None = None,
        tell: Callable[[int, int], object] | None = None, until: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.n = n
        self.done = 0
        self.enough = False
        self.failed: list[FailedSimulation] = []
        self.streams = not (reducer is None and stop_when is None and kept is None and tell is None and until is None)
        self._collect, self._reducer, self._size, self._stop_when = collect, reducer, leaf_size, stop_when
        self._kept, self._tell, self._until, self._clock = kept, tell, until, clock
        self._out: list[Any] = [] if reducer is not None else [None] * n
        self._parts: dict[int, list[Any]] = {}  # results of leaves that are not complete
        self._missing: dict[int, int] = {}  # how many of them are still to come
        self._states: dict[int, State | None] = {}  # of leaves whose turn to be merged has not come
        self._total: State | None = None
        self._raised: dict[int, Any] = {}  # leaf -> what its worker raised, until its turn comes
        self._merged = 0  # leaves, from the first on
        self._ask = 1  # after so many leaves
        self._unsaved: list[tuple[int, list[Any]]] = []
        self._saved = self._told = clock()
        self.items: Sequence[int] = range(n)
        self.resumed = 0
        self._resuming = False
        if kept is not None:
            self._resume(kept)

    # ------------------------------------------------------------------------------------------ as a sink

    def go_on(self) -> None:
        """Raise where the time is over."""
        if self._until is not None and self._clock() > self._until:
            raise RunTimeoutError("the run's time is over")

    def take(self, place: int, results: Any) -> None:
        """Results of the items from `place` on, run here: a list, or an array of them."""
        with _inside():
            for index, part in self._stretches(place, results):
                self._put(index, part)
            self._after()

    def receive(self, place: int, found: Any) -> None:
        """What a worker gave for the chunk from `place` on."""
        if self._reducer is None and self._stop_when is None:
            self.take(place, found)
            return
        with _inside():
            for leaf, index, part, failed in found:
                if failed is None:  # where runs may end early, in place it might never have been begun
                    self._raised.setdefault(index // self._size, part)
                    self._merge()
                elif leaf is None:
                    self._put(index, part)
                elif not self.enough and leaf >= self._merged and leaf not in self._states:
                    self._fold(leaf, part, [FailedSimulation(*each) for each in failed])
            self._after()

    def work(self, worker: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`worker` for a chunk; whole leaves of it are folded where they were run."""
        work = each(worker, False)
        if self._reducer is None and self._stop_when is None:
            return work
        leaf_of = None if self._reducer is None else self._reducer.in_workers()
        return _by_leaf(work, leaf_of, self._size, self._collect, self._stop_when is not None)

    def cut(self, items: Sequence[Any], first: int, size: Callable[[int], int]) -> Iterator[Chunk]:
        """Chunks of about ``size(items left)``.

        Where leaves are folded and a chunk is about one or longer, it is of whole ones. Where a run may end early,
        chunks are no longer than a share of what lies before them.
        """
        while first < len(items):
            unit, index = size(len(items) - first), items[first]
            if self._stop_when is not None:
                unit = min(unit, max(self._size, index // AHEAD))
            end = first + unit
            if self._reducer is not None and unit >= self._size // 2:
                end = first + max(1, round(unit / self._size)) * self._size - index % self._size
            yield first, items[first : min(end, len(items))]
            first = end

    # ------------------------------------------------------------------------------------------ what comes out

    def result(self) -> Any:
        """What the caller gets, all items having been run."""
        if self._kept is not None:
            self._save()
        with _inside():
            if self._tell is not None:
                self._tell(self.done, self.n)
            return self._value(self.done)

    def close(self) -> None:
        """Keep what has not been kept yet; to be called however a run ends."""
        if self._kept is not None:
            self._save()

    # ------------------------------------------------------------------------------------------ inside

    def _stretches(self, place: int, results: Any) -> Iterator[tuple[int, Any]]:
        """(index of the first simulation, results), cut where indices leave something out and where leaves end."""
        items, at, end = self.items, 0, len(results)
        whole = isinstance(items, range)
        while at < end:
            index = items[place + at]
            most = min(end - at, self._size - index % self._size)
            if not whole:
                most = next((k for k in range(1, most) if items[place + at + k] != index + k), most)
            yield index, results[at : at + most]
            at += most

    def _put(self, index: int, results: Any) -> None:
        """Results of simulations from `index` on, all of one leaf."""
        leaf, size = index // self._size, self._size
        if self.enough or leaf < self._merged or leaf in self._states:
            return  # not needed any more, or done already
        if self._reducer is not None and len(results) == size and not self._collect and not self._resuming:
            state = self._leaf(leaf, results)
            if leaf not in self._raised:
                self._fold(leaf, state, [])
            return
        if not isinstance(results, list):
            results = results.tolist() if results.ndim == 1 else list(results)
        if self._collect:
            results = [self._opened(found) for found in results]
        if self._kept is not None:
            self._unsaved.append((index, results))
        self.done += len(results)
        if self._reducer is None:
            self._out[index : index + len(results)] = results
        else:
            part = self._parts.get(leaf)
            if part is None:
                part = self._parts[leaf] = [None] * self._length(leaf)
            part[index - leaf * size : index - leaf * size + len(results)] = results
        self._missing[leaf] = self._missing.get(leaf, self._length(leaf)) - len(results)
        if self._missing[leaf] == 0:
            del self._missing[leaf]
            self._complete(leaf)

    def _opened(self, found: tuple[bool, Any]) -> Any:
        good, value = found
        if good:
            return value
        failed = FailedSimulation(*value)
        self.failed.append(failed)
        return failed

    def _complete(self, leaf: int) -> None:
        """All results of a leaf are here."""
        if self._reducer is None:
            self._states[leaf] = None
            self._merge()
            return
        part = [result for result in self._parts.pop(leaf) if type(result) is not FailedSimulation]
        state = self._leaf(leaf, part) if part else None
        if leaf in self._raised:
            return
        if self._kept is not None and self._length(leaf) == self._size:
            lost = [result for result in self.failed if result.index // self._size == leaf]
            self._keep(leaf, state, lost)
        self._states[leaf] = state
        self._merge()

    def _leaf(self, leaf: int, results: Sequence[Any]) -> State | None:
        """Fold the results of a leaf. Where a run may end early, what that raises waits for the leaf's turn."""
        assert self._reducer is not None
        try:
            return self._reducer.leaf(results)
        except Exception as error:
            if self._stop_when is None:
                raise
            self._raised[leaf] = (error, (), {}, traceback.format_exc())
            self._merge()
            return None

    def _fold(self, leaf: int, state: State | None, failed: list[FailedSimulation]) -> None:
        """A whole leaf has been folded by a worker."""
        if self.enough:  # what is kept of an earlier run may go beyond the end of this one
            return
        self._parts.pop(leaf, None)
        self.done += self._missing.pop(leaf, self._length(leaf))
        self.failed += failed
        if self._kept is not None:
            self._keep(leaf, state, failed)
        self._states[leaf] = state
        self._merge()

    def _merge(self) -> None:
        """Merge the leaves whose turn it is, and ask whether that is enough; raise what a worker raised in the next."""
        while not self.enough:
            if self._merged in self._raised:
                reraise(self._raised[self._merged])
            if self._merged not in self._states:
                break
            state = self._states.pop(self._merged)
            self._merged += 1
            if state is not None and self._reducer is not None:
                self._total = state if self._total is None else self._reducer.merge(self._total, state)
            if self._stop_when is not None and self._merged == self._ask:
                self._ask = max(self._ask + 1, int(self._ask * STEP))
                done = min(self.n, self._merged * self._size)
                if self._stop_when(self._value(done), done):
                    self.enough, self.done = True, done
                    self.failed = [failed for failed in self.failed if failed.index < done]

    def _value(self, done: int) -> Any:
        """What the run gives if it ends after `done` simulations."""
        if self._reducer is None:
            return self._out if done == self.n else self._out[:done]
        return self._reducer.result(self._reducer.leaf([]) if self._total is None else self._total)

    def _length(self, leaf: int) -> int:
        return min(self._size, self.n - leaf * self._size)

    def _after(self) -> None:
        """Save and tell, now and then."""
        if self._kept is None and self._tell is None:
            return
        now = self._clock()
        if self._unsaved and (self._reducer is None or now - self._saved > SAVE_S):
            self._save()
            self._saved = now
        if self._tell is not None and now - self._told > TELL_S:
            self._told = now
            self._tell(self.done, self.n)

    # ------------------------------------------------------------------------------------------ kept

    def _keep(self, leaf: int, state: State | None, failed: list[FailedSimulation]) -> None:
        assert self._kept is not None
        self._unsaved = [(index, part) for index, part in self._unsaved if index // self._size != leaf]
        covers = range(leaf * self._size, (leaf + 1) * self._size)
        self._kept.put_state(leaf, {"state": state, "failed": failed}, covers)

    def _save(self) -> None:
        assert self._kept is not None
        while self._unsaved:  # an interrupt leaves what it kept from being put, for `close`
            index, results = self._unsaved[0]
            try:
                self._kept.put(index, results)
            except Exception:
                self._unsaved.clear()  # once is enough to fail, and to say so
                raise
            del self._unsaved[0]

    def _resume(self, kept: Kept) -> None:
        """Go on from what is kept."""
        whole = self.n // self._size
        states = {leaf: held for leaf, held in kept.states.items() if leaf < whole} if self._reducer else {}
        given = {
            index: result
            for index, result in sorted(kept.results.items())
            if index < self.n and index // self._size not in states
        }
        self._kept = None  # all this is kept already
        for leaf, held in sorted(states.items()):
            self._fold(leaf, held["state"], list(held["failed"]))
        collect, self._collect, self._resuming = self._collect, False, True  # failures stand among them, and stay
        self.items = list(given)
        self.failed += [result for result in given.values() if type(result) is FailedSimulation]
        self.take(0, list(given.values()))
        self._collect, self._kept, self._resuming = collect, kept, False
        self.resumed = self.done
        if self.enough:
            self.items = range(0)
            return
        first = next((i for i in range(self.n) if i not in given and i // self._size not in states), self.n)
        if self.done == first:  # what is kept is the beginning
            self.items = range(first, self.n)
        else:
            self.items = [i for i in range(first, self.n) if i not in given and i // self._size not in states]
        self.failed.sort(key=lambda failed: failed.index)


@contextmanager
def _inside() -> Iterator[None]:
    """While the caller's own functions run: a run that they make has its part of the cores already."""
    before, HERE.inside = HERE.inside, True
    try:
        yield
    finally:
        HERE.inside = before


# A closure without globals: cloudpickle sends it by value, see `executors.mapping`.


def _by_leaf(
    work: Callable[[Any], Any], leaf_of: Callable[[Sequence[Any]], Any] | None, size: int, collect: bool, tells: bool
) -> Callable[[Any], Any]:
    """`work` that gives (leaf, None, state, failed) for whole leaves, and (None, index, results, ()) for the rest.

    Without `leaf_of`, all is given as results. With `tells`, what a worker raises is given after what was done before
    it, as (None, index, what `reraise` takes, None).
    """

    def stretch(given: Any) -> Any:
        part, whole = given
        _, results, _, took = work(part)
        if not whole or leaf_of is None:
            return False, results, (), took
        failed = [value for good, value in results if not good] if collect else []
        if collect:
            results = [value for good, value in results if good]
        return True, leaf_of(results) if results else None, failed, took

    trial = guarded(stretch) if tells else lambda given: (True, stretch(given))

    def run(chunk: Any) -> Any:
        from time import perf_counter

        first, items = chunk
        found: list[Any] = []
        began, seconds, at = perf_counter(), 0.0, 0
        while at < len(items):
            index = items[at]
            end = min(len(items), at + size - index % size)
            whole = end - at == size and items[end - 1] - index == size - 1
            if not whole:  # at most to where something is left out
                end = next((k for k in range(at + 1, end) if items[k] != index + k - at), end)
            good, given = trial(((first + at, items[at:end]), whole))
            if not good:
                found.append((None, index, given, None))
                break
            folded, result, failed, took = given
            seconds, at = seconds + took, end
            found.append((index // size, None, result, failed) if folded else (None, index, result, failed))
        return first, found, began, seconds

    return run
