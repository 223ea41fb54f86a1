"""One map on its way: pilot, decision, workers, and what is learned from it."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..executors import mapping, registry
from ..executors.errors import NoCandidateError
from ..executors.fallback import Attempt, run_chain
from ..executors.mapping import HERE, Chunk, MapExecutor, Method, chunked, cores, each, map_methods, workers
from ..selector import maps, settings
from ..selector.engine import Choice, Engine
from ..selector.failures import classify, import_outcome
from ..selector.maps import Facts, MapRequest
from ..selector.shared import default_selector
from ..telemetry.load import LoadMeter
from ..telemetry.outcome import Failure, Outcome, Site
from .map_info import MapInfo
from .map_pilot import BLOCK_S, SHORT_S, Run, pilot
from .map_worker import key, scoped, worker_name

CHUNK_COST = 100.0
"""A chunk takes at least so many times what handing it over costs."""
CHANGED = 1.5
"""A rest that has become longer than expected by this factor is decided about anew."""
KNOWN_S = 0.005
"""A worker known to take this long an item is decided about at once: its pilot would cost more than it tells."""
MOST_KNOWN = 1024
START_MARGIN = 1.3
"""Where no run of the kind was measured, a pool must gain so many times what its start is expected to take."""
LOOK_S, LOOK_AGAIN_S = 0.1, 1.0
"""Seconds of work in place that tell how many cores are free; and until one that found too few is repeated."""
TOO_SHORT = "the run is too short to repay a pool"

_KNOWN: dict[Any, Facts] = {}


class Job:
    """One call of `map`; used once."""

    def __init__(
        self, run: Run, info: MapInfo, n_jobs: int | None, prefer: str | None, chunk_size: int | None,
        native_threads: int, rerun: bool, options: dict[str, Any],
    ) -> None:  # fmt: skip
        self._run = run
        self._info = info
        self._n_jobs = n_jobs
        self._prefer = prefer
        self._chunk_size = chunk_size
        self._native_threads = native_threads
        self._rerun = rerun
        self._options = options
        self._rule = ""
        self._free: int | None = None  # cores that others leave; None: not looked
        self._against: dict[str, str] = {}
        self._never: dict[str, str] = {}

    def rule_out(self, which: Callable[[Method], bool], why: str) -> None:
        """Have no part of it run by such methods; `why` is the sentence that says so."""
        self._never = {variant: why for variant, _, method in map_methods() if which(method)}

    def check(self, backend: str) -> MapExecutor | None:
        """The executor that `backend` names, None for "auto"; errors for what is unknown, and for unknown options."""
        if backend == "auto":
            if self._options:
                raise maps.no_option(next(iter(self._options)))
            return None
        executor = maps.executor_named(backend)
        executor.check_options(self._options)
        return executor

    # ------------------------------------------------------------------------------------------ the two ways in

    def automatic(self) -> list[Any]:
        """Pilot, then decide."""
        run = self._run
        self.check("auto")
        why = self._why_here(asked=False)
        if why is not None:
            return self._in_place(why)
        HERE.inside = True
        try:
            known = _KNOWN.get(key(run.worker)) if _KNOWN else None
            facts: Facts | None = known
            if _plain() and (known is None or known.item_s < KNOWN_S):
                facts = pilot(run, known)
                if facts is None:
                    return self._in_place(TOO_SHORT)
            self._settle(facts or Facts(0.0))
        finally:
            HERE.inside = False
        return run.out

    def named(self, backend: str) -> list[Any]:
        """All items on the backend or variant that was asked for."""
        executor = self.check(backend)
        why = self._why_here(asked=True)
        if why is None and executor is not None and all(not m.parallel for m in executor.methods):
            why = "it was asked for"
        if why is not None:
            missing = registry.available(backend.partition("/")[0])
            if missing is not None:
                self._choose(Facts(0.0), backend)  # the error that says what to install
            return self._in_place(why)
        choice = self._choose(_KNOWN.get(key(self._run.worker)) or Facts(0.0), backend)
        self._rule, self._info.reason = choice.decision.rule, "it was asked for"
        self._pool(choice, choice.decision.variant)
        return self._run.out

    def _why_here(self, *, asked: bool) -> str | None:
        """None, or the sentence why no worker is started whatever the items cost."""
        if len(self._run.items) < 2:
            return "there is nothing to share out"
        if self._n_jobs is not None and workers(self._n_jobs) == 1:
            return "one worker at a time was asked for"
        return mapping.why_in_place(asked=asked)

    def _in_place(self, reason: str) -> list[Any]:
        run, info = self._run, self._info
        before, HERE.inside = HERE.inside, HERE.inside or len(run.items) > 1  # a single item may well map in parallel
        try:
            if run.left:
                run.block(run.left)
        finally:
            HERE.inside = before
        info.reason, info.in_place, info.item_s = reason, len(run.out), run.item_s
        return run.out

    # ------------------------------------------------------------------------------------------ deciding

    def _settle(self, facts: Facts) -> None:
        """Decide about what is left, and do it; anew where it turns out to be longer than it looked."""
        while self._run.left:
            choice = self._choose(facts)
            trial = default_selector()._engine.take_trial(choice) if choice.tickets else None
            variant, self._rule = trial or choice.decision.variant, "explore" if trial else choice.decision.rule
            self._info.reason = "tried, to find out" if trial else choice.decision.reason
            if not maps.executor_of(variant)[1].parallel:
                facts = self._go_on(choice)
            elif self._doubtful(choice, variant):
                found = pilot(self._run, None)
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
        run, candidate = self._run, choice.decision.candidate(variant)
        known_s = _facts(choice).item_s
        if run.out or candidate is None or candidate.cold_s <= known_s or self._rule in ("required", "override"):
            return False
        run.block(1)
        return 2.0 * run.item_s < known_s

    def _unsure(self, choice: Choice, variant: str) -> bool:
        """Whether to decide again, because a start that may not pay now looks different.

        Items run in place while the cores are watched, and nothing is lost by it.
        """
        run, candidate, request = self._run, choice.decision.candidate(variant), _request(choice)
        if candidate is None or not candidate.cold_s or self._rule in ("required", "override", "explore"):
            return False
        if not request.methods[variant].ships:
            return False
        if self._free is None:
            meter, began = LoadMeter(), run.clock()
            meter.read()
            while run.left and (spent := run.clock() - began) < LOOK_S:
                run.block(run.until(LOOK_S - spent))
            others = meter.read().other_cores
            self._free = max(1, min(cores(), round((os.cpu_count() or 1) - others)))
            self._info.in_place = len(run.out)
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
        against = maps.objections(facts, self._prefer, measured, asked=require, patient=not _plain())
        jobs, free = workers(self._n_jobs), self._free or cores()
        against |= self._against | self._never
        if require is not None:
            ruled_out, there = maps.on_named(require, self._options)
            against |= ruled_out
            if there is not None and self._n_jobs is None:
                jobs = free = there
        request = maps.request(name, self._run.left, facts, jobs, free, against=against, require=require)
        choice = engine.choose(request)
        engine.adopt(choice)
        self._info.decision, self._info.item_s = choice.decision, facts.item_s
        return choice

    def _name(self) -> str:
        return f"{maps.FAMILY}:{worker_name(self._run.worker)}"

    def _go_on(self, choice: Choice) -> Facts:
        """Go on in place; what is known of an item, when all is done or it has changed."""
        run, info, facts = self._run, self._info, _facts(choice)
        began, bound, surprises = time.perf_counter(), CHANGED * facts.item_s or math.inf, 0
        learned = facts
        while run.left:
            run.block(run.until(BLOCK_S))
            # Two blocks in a row: a single one may just have been stalled by a neighbour.
            surprises = surprises + 1 if run.item_s > bound and run.left_s > SHORT_S else 0
            if surprises == 2:
                learned = replace(facts, item_s=run.item_s, cpu_s=facts.cpu_s * run.item_s / facts.item_s)
                self._against.clear()
                break
            if self._free is not None and self._free < cores() and time.perf_counter() - began > LOOK_AGAIN_S:
                self._free = None
                break
        info.variant, info.in_place = "sequential", len(run.out)
        if not run.left:
            self._record(choice, "sequential", time.perf_counter() - began)
            _remember(run.worker, facts)
        return learned

    # ------------------------------------------------------------------------------------------ workers

    def _pool(self, choice: Choice, chosen: str) -> None:
        """Run what is left on workers; where they fail in a listed way, on what comes next."""
        run, info = self._run, self._info
        first, done = len(run.out), dict[int, list[Any]]()
        _, method = maps.executor_of(chosen)
        size = self._chunk_size or _chunk_size(choice, method)
        chunks = list(chunked(run.items, size, first))
        info.variant, info.in_place = chosen, first
        info.n_jobs, info.chunks, info.chunk_size = _request(choice).jobs, len(chunks), size

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
                raise self._nothing_left(choice) from nothing
            info.variant = rest[0]
            try:
                run_chain([attempt(rest[0])], on_outcome=told)
            except NoCandidateError as again:
                if len(info.failures) < 2:
                    raise
                raise self._nothing_left(choice) from again
        for place in sorted(done):
            run.out += done[place]

    def _after(self, choice: Choice, failed: str, method: Method) -> list[str]:
        """Where to go on after a failure.

        What killed a worker process would kill this one, so its items get one more process and never run in place.
        """
        if self._info.failures[-1][1] is Failure.DRIVER:
            return [failed] if method.ships and self._rerun else []
        names = [name for name in choice.decision.chain if name != failed]
        return [name for name in names if not maps.executor_of(name)[1].parallel] or names[:1]

    def _attempt(self, choice: Choice, variant: str, chunks: list[Chunk], done: dict[int, list[Any]]) -> None:
        engine, request = default_selector()._engine, _request(choice)
        executor, method = maps.executor_of(variant)
        _, import_s = registry.ensure(executor.name)
        if import_s:
            self._keep(engine, import_outcome(executor.name, import_s, engine.history.now()))
        work, wish = each(self._run.worker), settings.scope()
        if method.ships and wish is not None and not registry.executor(wish).capabilities.map:
            work = scoped(work, wish)
        with executor.turn(method):
            cold, busy, begin = not executor.running(method), 0.0, math.inf
            started = time.perf_counter()
            runs = executor.run_chunks(
                work, chunks, method=method.name, n_jobs=request.jobs, native_threads=self._native_threads,
                **self._options,
            )  # fmt: skip
            for place, results, began, seconds in runs:
                done[place] = results
                busy += seconds
                begin = min(begin, began)
            took = time.perf_counter() - started
        items = sum(len(items) for _, items in chunks)
        start_s = min(max(0.0, begin - started), took) if cold else 0.0
        if cold:
            executor.started(method, start_s)
            start = Outcome(Site("import", variant, "", "", ""), engine.history.now(), start_s, import_s=start_s)
            self._keep(engine, start)
        facts = request.facts
        if not facts.item_s:
            facts = Facts(busy / items, busy / items, busy / items, None, facts.item_bytes)
            measured = maps.request(
                request.operation, items, facts, request.jobs, request.cores, against={}, require=request.require
            )
            choice = replace(choice, sites={**choice.sites, variant: measured.site(choice.variants[variant])})
            self._info.item_s = facts.item_s
        self._record(choice, variant, took - start_s)
        _remember(self._run.worker, facts)

    # ------------------------------------------------------------------------------------------ telling

    def _told(self, choice: Choice, attempt: Attempt, seconds: float, failure: Failure | None, message: str) -> None:
        if failure is None or failure is Failure.USER_ERROR:
            return
        engine = default_selector()._engine
        self._info.failures.append((attempt.name, failure, message))
        engine.failed(choice.request, choice.variants[attempt.name], failure, message)
        self._keep(
            engine,
            Outcome(
                choice.sites[attempt.name], engine.history.now(), seconds, failure=failure, message=message[:500],
                rule=self._rule,
            ),
        )  # fmt: skip

    def _record(self, choice: Choice, variant: str, seconds: float) -> None:
        engine, rule = default_selector()._engine, "fallback" if self._info.failures else self._rule
        self._keep(engine, Outcome(choice.sites[variant], engine.history.now(), seconds, rule=rule))
        engine.succeeded(choice.request, choice.variants[variant])

    def _keep(self, engine: Engine, outcome: Outcome) -> None:
        if engine.learning and engine.settings().mode != "off":
            engine.history.record(outcome)

    def _nothing_left(self, choice: Choice) -> NoCandidateError:
        """The error that lists what was tried, and what was not and why."""
        info = self._info
        lines = [f"  {name}: {failure} ({message})" for name, failure, message in info.failures]
        lines += [f"  {name}: not tried, {why}" for name, why in choice.decision.excluded]
        if info.failures[-1][1] is Failure.DRIVER:
            lines.append(
                "  sequential: not tried, for what kills a worker process kills this one. backend='sequential' does "
                "run it here."
            )
        error = NoCandidateError("\n".join([f"{choice.request.describe()}: not all items gave a result:", *lines]))
        error.failures = info.failures
        return error


# ---------------------------------------------------------------------------------------------- small questions


def _remember(worker: Any, facts: Facts) -> None:
    if len(_KNOWN) >= MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN[key(worker)] = facts


def _plain() -> bool:
    """Whether nothing but the costs decides: then the pilot may run first, in place."""
    now = settings.current()
    wishes = (settings.scope(), now.force, now.prefer)
    if any(name is not None and registry.executor(name).capabilities.map for name in wishes):
        return False
    return "sequential" not in now.disable


def _request(choice: Choice) -> MapRequest:
    request = choice.request
    assert isinstance(request, MapRequest)
    return request


def _facts(choice: Choice) -> Facts:
    return _request(choice).facts


def _chunk_size(choice: Choice, method: Method) -> int:
    """Items a chunk: enough to make handing over cheap, few enough to keep all workers busy to the end."""
    request = _request(choice)
    fair = max(1, math.ceil(request.items / request.jobs))
    even = max(1, math.ceil(request.items / (mapping.CHUNKS_A_WORKER * request.jobs)))
    item_s = request.facts.item_s
    if not item_s:
        return even
    return min(fair, max(math.ceil(CHUNK_COST * method.chunk_s / item_s), math.ceil(even / 2)))
