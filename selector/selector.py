"""`IntelligentBackendSelector`: the public object that decides, runs, records and tells."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ..executors import registry
from ..executors.breaker import Breakers
from ..telemetry import lifetime, memory
from ..telemetry.history import History
from ..telemetry.outcome import Failure, Outcome
from ..telemetry.summary import summarize
from . import settings as settings_module
from .assembly import Parts, assemble
from .base import CostModel, Policy
from .bindable import Bindable
from .decision import Decision
from .dispatch import Dispatcher
from .engine import Engine
from .entry import Known
from .failures import classify
from .given import failure_of, hint, member, no_workload
from .keeping import Keeping
from .monitor import Monitor
from .operations import find, meant, names
from .request import Request
from .settings import SCOPE, Settings
from .sites import Sites

if TYPE_CHECKING:
    from .workload import WorkloadCharacteristics

T = TypeVar("T")
MOST_WORKLOADS = 8192
perf_counter = time.perf_counter
lifetime.free_in_child(registry, "_LOCK")
lifetime.free_in_child(settings_module)


class IntelligentBackendSelector(Keeping, Bindable):
    """Chooses a backend for a workload from what this machine has taught, and learns from every outcome.

    Parameters
    ----------
    enable_learning : False neither reads the history for choosing nor records; default rules and shipped priors decide.
    enable_gpu : False leaves accelerators out.
    history : path, folder, ":memory:", or a `History`; None: the settings' file, else the user's cache folder.
    policy, costs : replaceable parts; None takes the built-in ones.
    settings : fixed settings; None follows the process's (environment, `pm.configure`).
    gpu_memory, host_budget, breakers, clock : readings of the machine, to be injected in tests and replays.

    Notes
    -----
    The first decision on an unknown workload takes up to a millisecond and imports nothing; a known one is a dict hit.
    Selectors in one process that use the same history file share what they learn.
    """

    def __init__(
        self, enable_learning: bool = True, enable_gpu: bool = True, *,
        history: str | os.PathLike[str] | History | None = None, policy: Policy | None = None,
        costs: CostModel | None = None, settings: Settings | None = None,
        gpu_memory: memory.GpuMemory | None = None, host_budget: Callable[[], int] | None = None,
        breakers: Breakers | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._fixed = settings
        self._history_argument = history
        self._parts = Parts(policy, costs, gpu_memory, host_budget, breakers, clock, enable_gpu)
        self._enable_learning = enable_learning
        self._lock = threading.RLock()
        self._begin_tables()
        self._runners: dict[str, Dispatcher] = {}
        self._made: Engine | None = None
        settings_module.on_change(self._settings_changed)
        registry.on_change(self._drop_tables)
        self.sites = Sites(lambda: self._engine, lambda workload: self._known(workload, None).choice)
        self._monitor = Monitor(self)
        lifetime.free_in_child(self)

    # ------------------------------------------------------------------------------------------ deciding

    def select_backend(self, workload: WorkloadCharacteristics, preferred_backend: str | None = None) -> str:
        """The backend to use for `workload`; under a microsecond once known.

        Parameters
        ----------
        workload : the request.
        preferred_backend : a hint (name, `BackendType`, "auto" or None), passed over where it cannot run; the
            decision says why. ``workload.require`` is the constraint form.

        Returns
        -------
        str
            A `BackendType` member for built-in backends, the registered name for a user's own.

        Raises
        ------
        NoCandidateError
            Nothing can run it; the message lists each candidate and its reason.
        """
        if preferred_backend is None:
            try:
                known = self._exact.get(workload._key)
            except AttributeError:
                raise no_workload(workload) from None
            if known is not None and SCOPE.get() is None:
                return known.backend
        return self._known(workload, preferred_backend).backend

    def decide(self, workload: WorkloadCharacteristics, preferred_backend: str | None = None) -> Decision:
        """The whole decision: variant, fallback chain, predictions with intervals, reasons in and out. Pure."""
        return self._known(workload, preferred_backend).choice.decision

    explain = decide

    def _known(self, workload: WorkloadCharacteristics, preferred: str | None) -> Known:
        try:
            key = workload._key
        except AttributeError:
            raise no_workload(workload) from None
        preferred = hint(preferred)
        plain = preferred is None and SCOPE.get() is None
        table = self._exact
        if plain:
            known = table.get(key)
            if known is not None:
                return known
        request = Request.from_workload(workload)
        choice = self._engine.choose(request, preferred)
        self._engine.adopt(choice)
        known = Known(member(choice.decision.backend), request, choice)
        if plain and (self._enable_learning or not self._engine.machine.breakers.any_open):
            if len(table) >= MOST_WORKLOADS:
                table.clear()
            table[key] = known
        return known

    def select(
        self, operation_type: str, data_shape: tuple[int, ...], requires_gradient: bool = False,
        preferred_backend: str | None = None, dtype: str = "float64",
    ) -> str:  # fmt: skip
        """`select_backend` without a workload object: see `pointsman.select_backend`."""
        key = (operation_type, data_shape, requires_gradient, preferred_backend, dtype)
        try:
            found = self._short.get(key)
        except TypeError:  # a list as a shape
            found = None
        if found is not None and SCOPE.get() is None:
            return found
        from .workload import WorkloadCharacteristics  # with pydantic, which a first call on arrays need not wait for

        workload = WorkloadCharacteristics(
            operation_type=operation_type, data_shape=data_shape, requires_gradient=requires_gradient, dtype=dtype
        )
        backend = self.select_backend(workload, preferred_backend)
        if SCOPE.get() is None:
            if len(self._short) >= MOST_WORKLOADS:
                self._short.clear()
            self._short[(operation_type, workload.data_shape, requires_gradient, preferred_backend, dtype)] = backend
        return backend

    # ------------------------------------------------------------------------------------------ running

    def execute_with_monitoring(
        self, operation_name: str, backend: str | None, func: Callable[..., T] | Mapping[str, Callable[[], T]],
        workload: WorkloadCharacteristics, fallback_backends: Sequence[str] | None = None,
    ) -> T:  # fmt: skip
        """Run `func`, record the outcome under the workload's operation, fall back on listed failures.

        Parameters
        ----------
        operation_name : a label kept with the outcome; learning goes by ``workload.operation_type``.
        backend : where to run; "auto" or None takes the decision's.
        func : a mapping {backend: callable without arguments}; a function that takes ``backend``; or a plain closure,
            which is never run again for a failure that running it again cannot cure.
        workload : the request.
        fallback_backends : tried in exactly this order; None takes the decision's own chain, [] forbids fallback.

        Raises
        ------
        NoCandidateError
            Nothing is left; it lists each candidate and what happened. The caller's own exceptions come out unchanged.
        """
        result: T = self._monitor.execute(operation_name, backend, func, workload, fallback_backends)
        return result

    @contextmanager
    def measure(self, workload: WorkloadCharacteristics) -> Iterator[str]:
        """Give the backend to use; the time of the block is recorded as its outcome. Never explores.

        Exceptions leave unchanged; a listed failure (out of memory, unsupported, ...) is recorded as one.
        """
        known = self._known(workload, None)
        backend = known.backend
        self.sites.of(workload, backend)  # made before the run, which may import the library
        started = perf_counter()
        try:
            yield backend
        except Exception as error:
            failure = classify(backend, error)
            if failure is not None:
                self.record(workload, backend, seconds=perf_counter() - started, failure=failure, message=str(error))
            raise
        seconds = perf_counter() - started
        self.record(workload, backend, seconds=seconds, cold=self.sites.first_run(self.sites.of(workload, backend)))

    def record(
        self, workload: WorkloadCharacteristics, backend: str, *, seconds: float,
        failure: Failure | str | None = None, message: str = "", label: str = "", cold: bool = False,
        rule: str = "told",
    ) -> None:  # fmt: skip
        """Tell what a run that pointsman did not make took.

        Parameters
        ----------
        workload, backend : what ran where.
        seconds : wall seconds, >= 0, measured after device work had finished.
        failure : one of `Failure`'s values if it gave no result.
        label : kept with the outcome.
        cold : True if the time contains an import or a compilation; it then never enters a steady estimate.
        rule : what led to the run, for the record.

        Raises
        ------
        ValueError
            Negative or not finite seconds, an unknown backend or failure.
        """
        if not (seconds >= 0.0 and seconds < float("inf")):
            raise ValueError(f"seconds must be finite and not negative, got {seconds!r}")
        sites = self.sites
        site = sites.known.get((workload._key, backend)) or sites.of(workload, str(backend))
        kind = None if failure is None else failure_of(failure)
        if kind is not None and kind is not Failure.USER_ERROR:
            sites.failed(workload, site, kind, message)
            self._forget_choices()
        elif sites.failing and kind is None and site in sites.failing:
            sites.recovered(site)
        if not self._recording():
            return
        history, cold_s = self._engine.history, seconds if cold else 0.0
        if kind is None and not (cold or message):  # the common case takes the short form of the hot path
            history.buffer.append((site, perf_counter(), seconds, rule, label, 1))
            if not history.awake:
                history.wake()
            return
        outcome = Outcome(  # by position: by name takes twice as long, and this is a caller's loop
            site, history.now(), seconds, 0.0, 0.0, 0.0, cold_s, 0, kind, message[:500], label, "quiet", rule
        )
        history.record(outcome)

    def run(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """Run a built-in kernel or registered operation: choose, execute, record in one call."""
        runner = self._runners.get(operation)
        if runner is None or runner.operation is not find(operation):  # a notebook defines a name again
            runner = self.dispatcher(operation)
        return runner(*args, **kwargs)

    def dispatcher(self, operation: str) -> Dispatcher:
        """The dispatcher of a registered operation of this name; ValueError where there is none."""
        runner, found = self._runners.get(operation), find(operation)
        if runner is not None and found is not None and runner.operation is not found:
            runner.replace(found)
        if runner is None:
            if found is None:
                raise ValueError(
                    f"no operation {operation!r} to run{meant(operation, names())}; there are: {', '.join(names())}. "
                    "Decorate your own function with @pointsman.adaptive."
                )
            runner = Dispatcher(found, self._engine, validate=getattr(found, "validate", None))
            self._runners[operation] = runner
            self._dispatchers.add(runner)
        return runner

    # ------------------------------------------------------------------------------------------ telling

    def get_performance_summary(self) -> dict[str, Any]:
        """What was learned, gained, lost and spent, as plain JSON-serialisable data; seconds throughout."""
        self.history.flush()
        settings = self.settings
        out = summarize(self.history, self._default_of)
        out["learning_enabled"] = self._enable_learning
        out["mode"] = settings.mode
        ledger = self._engine.learner.ledger
        out["exploration"] = {**ledger.to_json(settings.explore), "in_all": dict(self.history.ledger)}
        return out

    def _default_of(self, operation: str) -> str | None:
        found = find(operation)
        return found.variants[0].name if found else "numpy"

    def reset_performance_history(self, operation: str | None = None) -> None:
        """Forget everything, or one operation: file, sketches, tables. Other processes notice at their next write."""
        self.history.reset(operation)
        self._engine.clear(everything=operation is None)
        self._drop_tables()

    def flush(self) -> None:
        """Have everything recorded so far on disk and learned from."""
        self.history.flush()

    def freeze(self) -> None:
        """Stop changing choices (and exploring) until `thaw`; outcomes are still recorded."""
        self._engine.learner.frozen = True

    def thaw(self) -> None:
        """Let choices change again, from everything recorded meanwhile."""
        self._engine.learner.frozen = False
        self._learn([], self.history.state.groups())

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._fixed or settings_module.current()

    @property
    def history(self) -> History:
        """Where outcomes go."""
        return self._engine.history

    # ------------------------------------------------------------------------------------------ the engine

    @property
    def _engine(self) -> Engine:
        """Made at the first decision: so that a wrong setting is an error there, and not at import."""
        made = self._made
        return made if made is not None else self._make()

    def _make(self) -> Engine:
        with self._lock:
            if self._made is not None:
                return self._made
            made = assemble(self._parts, self._history_argument, lambda: self.settings, self._enable_learning)
            self._made = made
            if self._enable_learning:
                made.history.subscribe(self._learn)
            return made

    def _settings_changed(self) -> None:
        if self._made is not None and self._parts.gpu_memory is None:
            self._made.machine.gpu.reserve = self.settings.gpu_memory_reserve
        self._drop_tables()

    def _recording(self) -> bool:
        return self._enable_learning and self.settings.mode != "off"
