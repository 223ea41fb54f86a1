"""`calibrate`: measure this machine on purpose, within a time budget, so that first decisions are informed ones.

Outcomes go to the history by the same door as those of calls, under the rule "calibrate"; each stands for no call of
anybody's, so that neither the ledger of exploring nor the traffic of size classes counts them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..executors import registry
from ..executors.base import Variant
from ..executors.errors import NoCandidateError
from ..executors.fallback import own_failure
from ..selector import operations as known_operations
from ..selector.base import Prediction
from ..selector.costs import Curves
from ..selector.entry import timed_call
from ..selector.failures import classify
from ..selector.learner import paid_once_s
from ..selector.selector import IntelligentBackendSelector
from ..selector.shared import default_selector
from ..telemetry.load import LoadMeter
from ..telemetry.outcome import BUSY, QUIET, Failure, Outcome
from ..telemetry.show import seconds as text
from ..telemetry.state import State
from . import agreement
from .base import Arguments, Kernel
from .calibrate_plan import ENOUGH, HOPELESS, MOST_SAMPLES, SAMPLING_S, SIZES, Cell, Plan, Series, Step
from .calibrate_result import Calibration, Note, default_and_best, rows_of, why_not_kept
from .calibrate_watch import PATIENCE_S, READ_EVERY_S, Watch

RULE = "calibrate"
REFERENCE_MOST = 1_000
"""Elements up to which the reference, quadratic in places, is affordable; the default's own result beyond."""
KEPT_MOST = 100_000
"""Elements up to which data is kept for the next visit."""
WRITE_EVERY_S = 1.0
BUSY_SHARE = 0.1
"""Share of the measuring during which others may be at work before the result is not trusted."""


def calibrate(
    operations: Sequence[str] | str | None = None, *, budget_s: float = 60.0, strict: bool = False,
    selector: IntelligentBackendSelector | None = None, tell: Callable[[Note], None] | None = None,
    sizes: Sequence[int] = SIZES, meter: LoadMeter | None = None, clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> Calibration:  # fmt: skip
    """Measure built-in operations over sizes and dtypes into the history, the most telling measurements first.

    A second run goes on where the first one ended. An interrupt (Ctrl-C) ends it early; what was measured is kept.

    Parameters
    ----------
    operations : names of kernels, or one; None or none: all there are, registered ones too.
    budget_s : wall seconds, imports and compilations included; the last call may overshoot it.
    strict : measure nothing while others use the machine; otherwise such times are recorded as a busy machine's.
    selector : whose history it goes to; None: the shared one.
    tell : called with what is being measured and what was learned.
    sizes : elements of the first operand, ascending.
    meter, clock, pause : readings of the machine, to be injected in tests.

    Raises
    ------
    ValueError
        An operation has no sample inputs to be measured on (those that have are listed), or nothing would be recorded.
    """
    names, operations = agreement.names(), (operations,) if isinstance(operations, str) else operations
    for name in operations or ():
        if name not in names:
            close = known_operations.meant(name, names)
            raise ValueError(f"calibrate: no kernel is called {name!r}{close}; there are: {', '.join(names)}")
    selector = selector or default_selector()
    kernels = [k for n in (operations or names) if isinstance(k := known_operations.find(n), Kernel)]
    engine = selector.dispatcher(kernels[0].name).engine
    if not engine.learning or engine.settings().mode == "off":
        raise ValueError("calibrate: nothing would be recorded: learning is off (enable_learning, POINTSMAN_MODE=off)")
    run = _Run(selector, kernels, budget_s, strict, tell or (lambda _: None), sizes,
               Watch(meter or LoadMeter(), clock, pause, min(PATIENCE_S, budget_s / 6.0)))  # fmt: skip
    return run.run()


@dataclass(eq=False)
class _Data:
    """The inputs of a cell, what its result should be, and who has been checked against it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    expected: Any = None
    bound: float = 0.0  # error of `expected` itself


class _Run:
    """One run: takes the plan's steps until the budget is spent."""

    def __init__(
        self, selector: IntelligentBackendSelector, kernels: Iterable[Kernel], budget_s: float, strict: bool,
        tell: Callable[[Note], None], sizes: Sequence[int], watch: Watch,
    ) -> None:  # fmt: skip
        self._selector, self._budget_s, self._strict, self._tell, self._watch = selector, budget_s, strict, tell, watch
        self._history = selector.history
        # Its own copy of what is known, so that the next step may follow from this one without a flush between.
        self._state = State()
        self._state.replace(self._history.state.cells)
        self._costs = Curves(self._state)
        series = [
            Series(kernel, dtype, form)
            for kernel in kernels
            for dtype in kernel.tolerances
            for form in (("", "stacked") if kernel.stack is not None else ("",))
        ]
        self.plan = Plan(series, self._costs, self._cold, sizes)
        self._data: dict[Cell, _Data] = {}
        self._checked: set[tuple[Cell, str]] = set()
        self._pending: list[Outcome] = []  # of the step at work
        self._unwritten, self._wrote_at = 0, watch.clock()
        self.samples = self.first_calls = self.known = 0
        self.failures: dict[str, str] = {}

    def run(self) -> Calibration:
        """Measure; see `calibrate`."""
        watch = self._watch
        if why := why_not_kept(self._history):
            self._say("failed", f"what is measured cannot be kept: {why}")
        try:
            watch.pause(READ_EVERY_S)
            watch.look(now=True)
            ended = self._steps()
        except KeyboardInterrupt:
            ended = "interrupted"
        finally:
            self._take_in()
            self._history.flush()
        quiet = watch.busy_s <= BUSY_SHARE * watch.measured_s if watch.measured_s else not watch.load.busy
        return Calibration(
            ended, self._budget_s, watch.spent_s(), self.samples, self.first_calls, self.known, self.failures,
            quiet and ended != "busy", watch.most_cores, rows_of(self.plan.cells(), self.plan.predictions),
            self._history.location, why_not_kept(self._history),
        )  # fmt: skip

    def _left(self) -> float:
        return self._budget_s - self._watch.spent_s()

    def _say(self, kind: str, what: str) -> None:
        self._tell(Note(kind, what, self._watch.spent_s()))

    def _steps(self) -> str:
        """Take steps; returns why it ended."""
        while True:
            load = self._watch.wait(partial(self._say, "waiting"))
            if load.busy and self._strict:
                return "busy"
            context = BUSY if load.busy else QUIET
            if context != self.plan.context:
                self.plan.context = context
                self.plan.changed()
            step = self.plan.next(self._left())
            if step is None:
                return "budget" if self.plan.held_back or self._left() <= 0.0 else "done"
            if self._left() <= 0.0:
                return "budget"
            began = self._watch.clock()
            if step.cell is None:
                self._open(step)
            else:
                self._visit(step.cell, step.variants)
            taken = self._watch.clock() - began
            self._watch.measured_s += taken
            self._watch.busy_s += taken if self._watch.load.busy else 0.0

    # ------------------------------------------------------------------------------------------ steps

    def _open(self, step: Step) -> None:
        """Make the data of a series' next size, and see who may run it."""
        series = step.series
        began = self._watch.clock()
        args, kwargs = self._sample(series, step.size)
        sample_s = self._watch.clock() - began
        runner = self._selector.dispatcher(series.kernel.name)
        try:
            choice = runner.engine.choose(runner.request(args, kwargs))
        except NoCandidateError:  # too large for this machine's memory, mostly
            self.plan.close(series)
            return
        cell = Cell(series, step.size, choice.request, choice, sample_s)
        if step.size <= KEPT_MOST:
            self._data[cell] = _Data(args, kwargs)
        self.plan.opened(cell)
        self.known += sum(p.evidence >= ENOUGH for p in self.plan.predictions(cell).values())

    def _visit(self, cell: Cell, names: tuple[str, ...]) -> None:
        """Check and time `names` in turns, with the best one known so far among them."""
        data = self._data.get(cell) or _Data(*self._sample(cell.series, cell.size))
        predicted = self.plan.predictions(cell)
        default = cell.choice.decision.default
        self._say("measuring", f"{cell.title}: {', '.join(names)}")
        try:
            self._expect(cell, data)
        except Exception as error:  # of the default, by which all others are checked
            self._failed(cell, default, error, 0.0)
            self.plan.close(cell.series)
            self._take_in()
            return
        calls: dict[str, Callable[[], Any]] = {}
        for name in names:
            call = self._first_call(cell, name, data, predicted[name])
            if call is not None:
                calls[name] = call
        rivals = [n for n, p in predicted.items() if p.evidence and n not in names and n not in cell.settled]
        if calls and rivals:
            rival = min(rivals, key=lambda n: predicted[n].mean_s)
            call = self._first_call(cell, rival, data, predicted[rival])
            if call is not None:
                calls[rival] = call
        self._rounds(cell, calls, predicted)
        if default in cell.settled:
            self.plan.close(cell.series)
        self._take_in()
        if names != (default,) and calls:
            self._say("learned", self._lesson(cell))

    def _rounds(self, cell: Cell, calls: dict[str, Callable[[], Any]], predicted: Mapping[str, Prediction]) -> None:
        """Let the calls take turns; who is far behind the best leaves early."""
        clock, times = self._watch.clock, {name: list[float]() for name in calls}
        active, site, began = list(calls), cell.choice.sites, clock()
        for turn in range(MOST_SAMPLES):
            if not active or (turn >= ENOUGH and clock() - began > SAMPLING_S * len(calls)):
                return
            for name in active[turn % len(active) :] + active[: turn % len(active)]:
                if (times[name][-1] if times[name] else predicted[name].mean_s) > self._left():
                    return
                started = clock()
                try:
                    calls[name]()
                except Exception as error:
                    self._failed(cell, name, error, clock() - started)
                    active.remove(name)
                    continue
                seconds = clock() - started
                times[name].append(seconds)
                self._pending.append(Outcome(site[name], self._history.now(), seconds, rule=RULE, calls=0))
                self.samples += 1
            best = min((min(t) for t in times.values() if t), default=0.0)
            for name in [n for n in active if len(times[n]) > 1 and min(times[n]) > HOPELESS * best]:
                active.remove(name)
                cell.settled[name] = f"more than {HOPELESS:g}x slower than the best"

    def _first_call(self, cell: Cell, name: str, data: _Data, p: Prediction) -> Callable[[], Any] | None:
        """Load, call once and check; gives the call to be timed, or None where that will not be."""
        runner, clock = self._selector.dispatcher(cell.series.kernel.name), self._watch.clock
        variant = cell.choice.variants[name]
        cold_s = sum(self._cold(cell, variant))
        if cold_s + p.mean_s > self._left():
            cell.settled[name] = "its first call may take longer than is left"
            return None
        warm, engine = runner.engine.is_warm(cell.request, variant), runner.engine
        started = clock()
        try:
            imported = registry.imported(variant.backend)
            prepared = runner.prepared(variant, cell.request, data.args, data.kwargs, RULE)
            if not imported:
                self.plan.changed()  # what is imported makes others of its library cheap
            began = clock()
            result, split = prepared.split(*data.args, **data.kwargs)
            seconds = clock() - began
            engine.succeeded(cell.request, variant, prepared)
            if not warm or split.compiled:
                first_s = paid_once_s(split.compiled, split.compute_s, p.seconds if p.source != "guess" else 0.0)
                self._pending.append(Outcome(
                    cell.choice.sites[name], self._history.now(), seconds, convert_s=split.convert_s,
                    transfer_s=split.transfer_s, compile_s=first_s, rule=RULE, calls=0,
                ))  # fmt: skip
                self.first_calls += 1
            self._check(cell, name, data, result)
        except Exception as error:
            self._failed(cell, name, error, clock() - started)
            return None
        return partial(timed_call(prepared), *data.args, **data.kwargs)

    # ------------------------------------------------------------------------------------------ results

    def _expect(self, cell: Cell, data: _Data) -> None:
        """Find out what the result should be: from the reference, beyond its means from the default."""
        if data.expected is not None:
            return
        kernel, default = cell.series.kernel, cell.choice.variants[cell.choice.decision.default]
        if cell.size <= REFERENCE_MOST:
            data.expected = kernel.reference(*data.args, **data.kwargs)
            return
        runner = self._selector.dispatcher(kernel.name)
        prepared = runner.prepared(default, cell.request, data.args, data.kwargs, RULE)
        data.expected = prepared.call(*data.args, **data.kwargs)
        data.bound = agreement.tolerance(kernel, default, cell.series.dtype)

    def _check(self, cell: Cell, name: str, data: _Data, result: Any) -> None:
        """Raise if a variant's first result in this cell is out of tolerance."""
        if (cell, name) in self._checked:
            return
        self._checked.add((cell, name))
        bound = data.bound + agreement.tolerance(cell.series.kernel, cell.choice.variants[name], cell.series.dtype)
        error = _error(result, data.expected)
        if not error <= bound:
            raise _WrongResultError(f"off by {error:.1e} of the largest magnitude; it promises {bound:.1e}")

    def _failed(self, cell: Cell, name: str, error: Exception, seconds: float) -> None:
        """Note a failure as a call would, and leave the variant alone in this cell."""
        variant = cell.choice.variants[name]
        failure = Failure.WRONG_RESULT if isinstance(error, _WrongResultError) else (
            own_failure(error) or classify(variant.backend, error) or Failure.UNSUPPORTED
        )  # fmt: skip
        message = f"{type(error).__name__}: {error}" if failure is not Failure.WRONG_RESULT else str(error)
        cell.settled[name] = message
        self.failures[f"{cell.title} {name}"] = f"{failure}: {message}"
        self._selector.dispatcher(cell.series.kernel.name).engine.failed(cell.request, variant, failure, message)
        self._pending.append(Outcome(
            cell.choice.sites[name], self._history.now(), seconds, failure=failure, message=message[:500], rule=RULE,
            calls=0,
        ))  # fmt: skip
        self._say("failed", f"{cell.title}: {name} {failure}: {message}")

    def _take_in(self) -> None:
        """Label what was measured by the load of its time, learn from it, and pass it on to the history."""
        load = self._watch.look()
        pending, self._pending = self._pending, []
        if pending:
            context = BUSY if load.busy else QUIET
            outcomes = [outcome._replace(context=context) for outcome in pending]
            changed = self._state.apply(outcomes)
            self._costs.forget(changed)
            for cell in self.plan.cells():
                if (cell.series.kernel.name, cell.series.dtype) in changed:
                    self.plan.changed(cell.series)
            for outcome in outcomes:
                self._history.record(outcome)
            self._unwritten += len(outcomes)
        now = self._watch.clock()
        if self._unwritten and now - self._wrote_at >= WRITE_EVERY_S:
            # Between measurements, where it disturbs none; in a thread, so that Ctrl-C ends the wait and not the write.
            writer = threading.Thread(target=self._history.flush, name="pointsman-calibrate")
            writer.start()
            writer.join()
            self._unwritten, self._wrote_at = 0, self._watch.clock()

    def _lesson(self, cell: Cell) -> str:
        predicted = self.plan.predictions(cell)
        default, best = default_and_best(cell, predicted)
        if default is None or best == default:
            name = cell.choice.decision.default
            return f"{cell.title}: {name} {text(predicted[name].seconds)}, the fastest"
        ratio = predicted[default].seconds / predicted[best].seconds
        return f"{cell.title}: {best} {text(predicted[best].seconds)}, {ratio:.1f}x {default}"

    # ------------------------------------------------------------------------------------------ inputs and costs

    def _sample(self, series: Series, size: int) -> Arguments:
        make = series.kernel.stack if series.form and series.kernel.stack is not None else series.kernel.sample
        return make(np.random.default_rng(size), size, series.dtype)

    def _cold(self, cell: Cell, variant: Variant) -> tuple[float, float]:
        """Seconds of import and of compilation that a first call of `variant` in `cell` still costs."""
        engine = self._selector.dispatcher(cell.series.kernel.name).engine
        import_s = 0.0 if registry.imported(variant.backend) else registry.import_cost_s(variant.backend)
        import_s += variant.pending_import_s
        if engine.is_warm(cell.request, variant):
            return import_s, 0.0
        return import_s, self._costs.compile_s(cell.choice.sites[variant.name], variant.backend)


class _WrongResultError(Exception):
    """A variant computed something else."""


def _error(found: Any, expected: Any) -> float:
    """`agreement.error`; of large real or complex arrays in double precision, which is ten times as fast."""
    right, got = np.asarray(expected), np.asarray(found)
    if isinstance(expected, tuple) or right.size <= KEPT_MOST or right.dtype.kind not in "fc" or (
        right.shape != got.shape
    ):  # fmt: skip
        return agreement.error(found, expected)
    wide = np.complex128 if right.dtype.kind == "c" else np.float64
    apart = float(np.max(np.abs(got.astype(wide) - right.astype(wide))))
    scale = float(np.max(np.abs(right)))
    if not np.isfinite(apart) or not np.isfinite(scale):
        return agreement.error(found, expected)
    return apart / scale if scale else (0.0 if apart == 0.0 else np.inf)
