"""One map on its way: pilot, decision, workers, and what is learned from it."""

from __future__ import annotations

import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..executors import mapping, registry
from ..executors.errors import NoCandidateError
from ..executors.fallback import Attempt, run_chain
from ..executors.mapping import HERE, Chunk, MapExecutor, Method, chunked, cores, map_methods, workers
from ..selector import maps, settings
from ..selector.engine import Choice, Engine
from ..selector.failures import classify, import_outcome
from ..selector.maps import WAITS, Facts
from ..selector.shared import default_selector
from ..telemetry.load import LoadMeter
from ..telemetry.outcome import Failure, Outcome, Site
from . import forgone
from .map_choice import LONGEST_S, chunk_sizes, nothing_left, request_of, resited
from .map_info import MapInfo
from .map_pilot import BLOCK_S, SHORT_S, Run, pilot
from .map_worker import key, scoped, worker_name

CHANGED = 1.5
"""A rest that has become longer than expected by this factor is decided about anew."""
FAR = 2.0
"""Workers that share cores and caches may well take longer than items in place, but not by this factor."""
KNOWN_S = 0.005
"""A worker known to take this long an item is decided about at once: its pilot would cost more than it tells."""
MOST_KNOWN = 1024
START_MARGIN = 1.3
"""Where no run of the kind was measured, a pool must gain so many times what its start is expected to take."""
LOOK_S, LOOK_AGAIN_S = 0.1, 1.0
"""Seconds of work in place that tell how many cores are free; and until one that found too few is repeated."""
TOO_SHORT = "the run is too short to repay a pool"

_KNOWN: dict[Any, Facts] = {}


@dataclass(frozen=True)
class How:
    """How the caller wants a map to be run; see `map`. `until`: a time by `time.monotonic` when it must have ended."""

    n_jobs: int | None = None
    prefer: str | None = None
    chunk_size: int | None = None
    native_threads: int = 1
    rerun: bool = True
    until: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class Job:
    """One call of `map`; used once. The results go to the sink of `run`."""

    def __init__(self, run: Run, info: MapInfo, how: How) -> None:
        self.run = run
        self._info = info
        self._how = how
        self._rule = ""
        self._free: int | None = None  # cores that others leave; None: not looked
        self._against: dict[str, str] = {}
        self._promised: dict[str, float] | None = None  # what pools would have saved that have yet to start
        self._never: Callable[[], dict[str, str]] = dict

    def rule_out(self, which: Callable[[Method], bool], why: str, whether: Callable[[], bool]) -> None:
        """Have no part of it run by such methods, if `whether` says so when it is decided; `why` is the sentence."""
        self._never = lambda: {name: why for name, _, way in map_methods() if which(way)} if whether() else {}

    def check(self, backend: str) -> MapExecutor | None:
        """The executor that `backend` names, None for "auto"; errors for what is unknown, and for unknown options."""
        if backend == "auto":
            if self._how.options:
                raise maps.no_option(next(iter(self._how.options)))
            return None
        executor = maps.executor_named(backend)
        executor.check_options(self._how.options)
        return executor

    @property
    def known(self) -> Facts | None:
        """What earlier runs of this process have found out about the worker."""
        return _KNOWN.get(key(self.run.worker))

    # ------------------------------------------------------------------------------------------ the two ways in

    def do(self, backend: str) -> None:
        """Run all items, where `backend` says."""
        if backend == "auto":
            self._automatic()
        else:
            self._named(backend)

    def _automatic(self) -> None:
        """Pilot, then decide."""
        run = self.run
        self.check("auto")
        why = self._why_here(asked=False)
        if why is not None:
            self._in_place(why)
            return
        HERE.inside = True
        try:
            facts = known = self.known if _KNOWN else None
            if maps.by_costs() and (known is None or known.item_s < KNOWN_S):
                facts = pilot(run, known)
                if facts is None:
                    self._in_place(TOO_SHORT)
                    return
            self._settle(facts or Facts(0.0))
        finally:
            HERE.inside = False

    def _named(self, backend: str) -> None:
        """All items on the backend or variant that was asked for."""
        executor = self.check(backend)
        why = self._why_here(asked=True)
        if why is None and executor is not None and all(not m.parallel for m in executor.methods):
            why = "it was asked for"
        if why is not None:
            missing = registry.available(backend.partition("/")[0])
            if missing is not None:
                self._choose(Facts(0.0), backend)  # the error that says what to install
            self._in_place(why)
            return
        if not self.run.left:
            self._in_place("what ran in place was enough")
            return
        first = Facts(0.0).taking(self.run.item_s) if self.run.done else Facts(0.0)
        choice = self._choose(self.known or first, backend)
        self._rule, self._info.reason = choice.decision.rule, "it was asked for"
        self._pool(choice, choice.decision.variant)

    def _why_here(self, *, asked: bool) -> str | None:
        """None, or the sentence why no worker is started whatever the items cost."""
        if len(self.run.items) < 2:
            return "there is nothing to share out"
        if self._how.n_jobs is not None and workers(self._how.n_jobs) == 1:
            return "one worker at a time was asked for"
        return mapping.why_in_place(asked=asked)

    def _in_place(self, reason: str) -> None:
        run, info = self.run, self._info
        before, HERE.inside = HERE.inside, HERE.inside or len(run.items) > 1  # a single item may well map in parallel
        try:
            while run.left:
                run.block(run.until(BLOCK_S) if run.sink.streams else run.left)
        finally:
            HERE.inside = before
        info.reason, info.in_place, info.item_s = reason, run.done, run.item_s

    # ------------------------------------------------------------------------------------------ deciding

    def _settle(self, facts: Facts) -> None:
        """Decide about what is left, and do it; anew where it turns out to be longer than it looked."""
        while self.run.left:
            choice = self._choose(facts)
            trial = default_selector()._engine.take_trial(choice) if choice.tickets else None
            variant, self._rule = trial or choice.decision.variant, "explore" if trial else choice.decision.rule
            self._info.reason = "tried, to find out" if trial else choice.decision.reason
            if not maps.executor_of(variant)[1].parallel:
                facts = self._go_on(choice)
            elif self._doubtful(choice, variant):
                found = pilot(self.run, None)
                if found is None:
                    self._in_place(TOO_SHORT)
                    return
                facts = found
            elif not self._unsure(choice, variant):
                self._pool(choice, variant)
                return

    def _doubtful(self, choice: Choice, variant: str) -> bool:
        """Run one item before something is started that costs more; whether it took less than half of what was known.

        What was known is of other items: nobody wants a pool started for small ones.
        """
        run, candidate = self.run, choice.decision.candidate(variant)
        known_s = request_of(choice).facts.item_s
        if run.done or candidate is None or candidate.cold_s <= known_s or self._rule in ("required", "override"):
            return False
        run.block(1)
        return 2.0 * run.item_s < known_s

    def _unsure(self, choice: Choice, variant: str) -> bool:
        """Whether to decide again, because a start that may not pay now looks different.

        Items run in place while the cores are watched, and nothing is lost by it.
        """
        run, candidate, request = self.run, choice.decision.candidate(variant), request_of(choice)
        executor, method = maps.executor_of(variant)
        if candidate is None or not method.ships or self._rule in ("required", "override", "explore"):
            return False
        if not executor.start_s(choice.variants[variant]):
            return False
        if self._free is None:
            meter, began = LoadMeter(), run.clock()
            meter.read()
            while run.left and (spent := run.clock() - began) < LOOK_S:
                run.block(run.until(LOOK_S - spent))
            others = meter.read().other_cores
            self._free = max(1, min(cores(), round((os.cpu_count() or 1) - others)))
            self._info.in_place = run.done
            return True
        gain_s = request.items * request.facts.item_s - candidate.prediction.seconds
        if candidate.prediction.evidence or gain_s > START_MARGIN * candidate.cold_s:
            return False
        self._against[variant] = "its workers would have to start, and what that gains is too little to rely on"
        return True

    def _choose(self, facts: Facts, require: str | None = None) -> Choice:
        engine = default_selector()._engine
        name = self._name()
        past, measured = maps.remembered(engine.history.state, name)
        if not facts.item_s and past is not None:
            facts = past
        against = maps.objections(facts, self._how.prefer, measured, asked=require, patient=not maps.by_costs())
        jobs, free = workers(self._how.n_jobs), self._free or cores()
        against |= self._against | self._never()
        if require is not None:
            ruled_out, there = maps.on_named(require, self._how.options)
            against |= ruled_out
            if there is not None and self._how.n_jobs is None:
                jobs = free = there
        request = maps.request(
            name, self.run.left, facts, jobs, free, against=against, require=require, forgone=forgone.SECONDS
        )  # fmt: skip
        choice = engine.choose(request)
        engine.adopt(choice)
        if require is None and self._promised is None:
            self._promised = forgone.promised(choice)
        self._info.decision, self._info.item_s = choice.decision, facts.item_s
        return choice

    def _name(self) -> str:
        size = self._how.chunk_size  # chunks of another size are another thing to learn
        return f"{maps.FAMILY}:{worker_name(self.run.worker)}" + (f" by {size}" if size else "")

    def _go_on(self, choice: Choice) -> Facts:
        """Go on in place; what is known of an item, when all is done or it has changed."""
        run, info, facts = self.run, self._info, request_of(choice).facts
        began, bound, surprises = time.perf_counter(), CHANGED * facts.item_s or math.inf, 0
        first, learned = run.done, facts
        while run.left:
            run.block(run.until(BLOCK_S))
            # Two blocks in a row: a single one may just have been stalled by a neighbour.
            surprises = surprises + 1 if run.item_s > bound and run.left_s > SHORT_S else 0
            if surprises == 2:
                learned = facts.taking(run.item_s)
                self._against.clear()
                break
            if self._free is not None and self._free < cores() and time.perf_counter() - began > LOOK_AGAIN_S:
                self._free = None
                break
        info.variant, info.in_place = "sequential", run.done
        if not run.left:
            if run.done < len(run.items):  # enough was done before the end
                choice = resited(choice, "sequential", run.done - first, facts)
            self._record(choice, "sequential", time.perf_counter() - began)
            _remember(run.worker, facts)
            forgone.add(self._promised or {})
        return learned

    # ------------------------------------------------------------------------------------------ workers

    def _pool(self, choice: Choice, chosen: str) -> None:
        """Run what is left on workers; where they fail in a listed way, on what comes next."""
        run, info = self.run, self._info
        first, done = run.done, set[int]()
        _, method = maps.executor_of(chosen)
        if self._how.chunk_size:
            chunks = list(chunked(run.items, self._how.chunk_size, first))
        else:
            left_s = math.inf if self._how.until is None else max(0.0, self._how.until - time.monotonic())
            chunks = list(run.sink.cut(run.items, first, chunk_sizes(choice, method, min(LONGEST_S, left_s / 10))))
        info.variant, info.in_place = chosen, first
        info.n_jobs, info.chunks = request_of(choice).jobs, len(chunks)
        info.chunk_size = max((len(part) for _, part in chunks), default=0)

        def attempt(variant: str) -> Attempt:
            left = [chunk for chunk in chunks if chunk[0] not in done]
            call = functools.partial(self._attempt, choice, variant, left, done)
            return Attempt(variant, call, functools.partial(classify, variant.partition("/")[0]))

        told = functools.partial(self._told, choice)
        try:
            run_chain([attempt(chosen)], on_outcome=told, fail_fast=default_selector().settings.fail_fast)
        except NoCandidateError as nothing:
            if not info.failures:
                raise  # the worker's own
            rest = self._after(choice, chosen, method)
            if not rest:
                raise nothing_left(choice, self._info.failures) from nothing
            info.variant = rest[0]
            try:
                run_chain([attempt(rest[0])], on_outcome=told)
            except NoCandidateError as again:
                if len(info.failures) < 2:
                    raise
                raise nothing_left(choice, self._info.failures) from again
        run.done, info.chunks = len(run.items), len(done)

    def _after(self, choice: Choice, failed: str, method: Method) -> list[str]:
        """Where to go on after a failure.

        What killed a worker process would kill this one, so its items get one more process and never run in place.
        """
        if self._info.failures[-1][1] is Failure.DRIVER:
            return [failed] if method.ships and self._how.rerun else []
        names = [name for name in choice.decision.chain if name != failed]
        return [name for name in names if not maps.executor_of(name)[1].parallel] or names[:1]

    def _attempt(self, choice: Choice, variant: str, chunks: list[Chunk], done: set[int]) -> None:
        engine, request = default_selector()._engine, request_of(choice)
        executor, method = maps.executor_of(variant)
        _, import_s = registry.ensure(executor.name)
        if import_s:
            self._keep(engine, import_outcome(executor.name, import_s, engine.history.now()))
        sink, how = self.run.sink, self._how
        work, wish = sink.work(self.run.worker), settings.scope()
        if method.ships and wish is not None and not registry.executor(wish).capabilities.map:
            work = scoped(work, wish)
        with executor.turn(method):
            cold, busy, begin, items = not executor.running(method), 0.0, math.inf, 0
            started, cpu_s = time.perf_counter(), time.process_time()
            feed = itertools.takewhile(lambda _: not sink.enough, chunks)
            sizes = {place: len(part) for place, part in chunks}
            longest_s = max(sizes.values()) * request.facts.item_s
            runs = executor.run_chunks(
                work, feed, method=method.name, n_jobs=request.jobs, native_threads=how.native_threads, until=how.until,
                **how.options,
            )  # fmt: skip
            try:
                for place, found, began, seconds in runs:
                    sink.receive(place, found)
                    done.add(place)
                    items += sizes[place]
                    busy += seconds
                    begin = min(begin, began)
                    if sink.enough and (not method.ships or longest_s > method.start_s):
                        break  # costs less than to wait for what is under way
            finally:  # here and now: left to the garbage collector, any thread might close it, and much later
                getattr(runs, "close", bool)()
            took, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
        start_s = min(max(0.0, begin - started), took) if cold else 0.0
        if method.ships:
            forgone.used()
        if cold:
            executor.started(method, start_s)
            start = Outcome(Site("import", variant, "", "", ""), engine.history.now(), start_s, import_s=start_s)
            self._keep(engine, start)
        facts = request.facts
        if items:
            if not method.ships and cpu_s > WAITS * took:  # threads that took turns waited for the interpreter as well
                busy = min(busy, cpu_s)
            if not facts.item_s <= busy / items < facts.item_s * FAR:  # known of a cold one, of other arguments, or not
                facts = facts.taking(busy / items)
            self._info.item_s = facts.item_s
        if facts is not request.facts or items != request.items:
            choice = resited(choice, variant, items, facts)
        self._record(choice, variant, took - start_s)
        _remember(self.run.worker, facts)

    # ------------------------------------------------------------------------------------------ telling

    def _told(self, choice: Choice, attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
        if failure is None or failure is Failure.USER_ERROR:
            return
        engine = default_selector()._engine
        self._info.failures.append((attempt.name, failure, message))
        for name in maps.alike(attempt.name, failure):
            if name in choice.variants:
                engine.failed(choice.request, choice.variants[name], failure, message)
        site, now = choice.sites[attempt.name], engine.history.now()
        self._keep(engine, Outcome(site, now, seconds, failure=failure, message=message[:500], rule=self._rule))

    def _record(self, choice: Choice, variant: str, seconds: float) -> None:
        engine, rule = default_selector()._engine, "fallback" if self._info.failures else self._rule
        self._keep(engine, Outcome(choice.sites[variant], engine.history.now(), seconds, rule=rule))
        engine.succeeded(choice.request, choice.variants[variant])

    def _keep(self, engine: Engine, outcome: Outcome) -> None:
        if engine.learning and engine.settings().mode != "off":
            engine.history.record(outcome)


# ---------------------------------------------------------------------------------------------- small questions


def _remember(worker: Any, facts: Facts) -> None:
    if len(_KNOWN) >= MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN[key(worker)] = facts
