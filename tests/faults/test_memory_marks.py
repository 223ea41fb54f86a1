"""Running out of memory: marks that outlive the process, what is tried next, and runs that were killed."""

from __future__ import annotations

import numpy as np
import pytest
from announced import attempts
from clocks import Clock
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.breaker import Breakers
from pointsman.executors.errors import NoCandidateError
from pointsman.executors.fallback import Attempt, run_chain
from pointsman.selector import operations
from pointsman.selector.operations import Operation
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.history import History
from pointsman.telemetry.marks import DAY_S, Held
from pointsman.telemetry.memory import GpuMemory
from pointsman.telemetry.outcome import Failure, Outcome

PLACE = ("fft", "torch", "cuda:0")
MIB, GIB = 2**20, 2**30
HOUR = 3600.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(path, clock):
    def open_():
        return History(path, background=False, clock=clock, monotonic=clock)

    return open_


# ---- the walk


def test_an_attempt_that_ran_out_of_memory_is_made_once_more_after_freeing():
    happened, told = [], []
    full = iter([True, False])

    def call():
        happened.append("run")
        if next(full):
            raise MemoryError("big")
        return 42

    found = run_chain(
        [Attempt("torch", call, registry.executor("numpy").classify, call)],
        on_outcome=lambda attempt, seconds, failure, message: told.append((attempt.name, failure)),
        free=lambda: happened.append("free"),
    )
    assert found == 42
    assert happened == ["run", "free", "run"]
    assert told == [("torch", None)]  # it did fit, so no mark is left


def test_it_is_made_once_more_only_and_frees_for_the_next_one_too():
    happened, told = [], []

    def fails():
        happened.append("run")
        raise MemoryError("big")

    attempts = [
        Attempt("torch", fails, registry.executor("numpy").classify, fails),
        Attempt("closure", fails, registry.executor("numpy").classify),
        Attempt("numpy", lambda: 1, registry.executor("numpy").classify),
    ]
    found = run_chain(
        attempts,
        on_outcome=lambda attempt, seconds, failure, message: told.append((attempt.name, failure)),
        free=lambda: happened.append("free"),
    )
    assert found == 1
    assert happened == ["run", "free", "run", "run", "free"]
    assert told == [("torch", Failure.OUT_OF_MEMORY), ("closure", Failure.OUT_OF_MEMORY), ("numpy", None)]


def test_every_library_in_use_gives_its_caches_back(monkeypatch, make_selector):
    freed = []
    for name in ("numpy", "scipy", "torch"):
        monkeypatch.setattr(registry.executor(name), "free_caches", lambda name=name: freed.append(name))
    monkeypatch.setattr(registry, "imported", lambda name: name in ("numpy", "torch"))
    selector = make_selector({"plain": lambda x: 1, "other": _full})
    assert selector.run("toy", np.ones(3)) == 1
    assert freed == ["numpy", "torch"]


def test_trouble_in_freeing_hides_nothing(monkeypatch, make_selector):
    def broken():
        raise RuntimeError("driver is gone")

    monkeypatch.setattr(registry.executor("numpy"), "free_caches", broken)
    assert make_selector({"plain": lambda x: 1, "other": _full}).run("toy", np.ones(3)) == 1


def _full(x):
    raise MemoryError("Unable to allocate 1 TiB")


@pytest.fixture
def make_selector(clock):
    """A selector that has learned to run "other" of the operation "toy" on arrays of three elements."""
    before = dict(operations._DECLARED)

    def build(functions, history=None, spare=64 * GIB, learned=True, **settings):
        made = Operation(
            name="toy",
            variants=tuple(
                Variant(name, "numpy", lambda f=f: f, compiles="never", workspace=_gibibytes)
                for name, f in functions.items()
            ),
        )
        operations.register_operation(made)
        selector = IntelligentBackendSelector(
            history=history or History(None, background=False, clock=clock, monotonic=clock),
            settings=Settings().updated(explore=0, **settings), gpu_memory=GpuMemory(_NoGpu()),
            host_budget=lambda: spare() if callable(spare) else spare, breakers=Breakers(clock),
        )  # fmt: skip
        for n in (3, 40) if learned else ():
            request = selector.dispatcher("toy").request((np.ones(n),), {})
            for name, taken in {"plain": 1e-3, "other": 1e-4}.items():
                site = request.site(made.variant(name))
                for _ in range(8):
                    selector.history.record(Outcome(site, selector.history.now(), taken))
        selector.flush()
        return selector

    yield build
    operations._DECLARED.clear()
    operations._DECLARED.update(before)
    operations._KNOWN.clear()


def _gibibytes(shapes, parameters):
    """As many GiB of workspace as there are elements."""
    return float(GIB * shapes[0][0])


class _NoGpu:
    class NVMLError(Exception):
        pass

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 0


def explained(selector, n):
    return selector.dispatcher("toy").explain(np.ones(n))


def test_a_real_memory_error_leaves_a_mark_that_the_next_process_heeds(make_selector, opened, clock):
    functions = {"plain": lambda x: "plain", "other": lambda x: np.empty(2**50) if x.size >= 3 else "other"}
    first = opened()
    selector = make_selector(functions, first)
    assert selector.run("toy", np.ones(2)) == "other"
    assert selector.run("toy", np.ones(3)) == "plain"
    assert first.marks.memory["toy", "other", "cpu"].fitted == 2 * GIB + 2 * 8 * 2
    selector.flush()
    first.close()

    clock.advance(HOUR)
    selector = make_selector(functions, opened(), learned=False)
    why = dict(explained(selector, 40).excluded)["other"]
    assert why.startswith("needs 40,960.0 MiB, and 3,072.0 MiB failed (out of memory: ")
    assert "Unable to allocate 8.00 PiB" in why
    assert "2,048.0 MiB fitted; tried again in 23.0 h, or with more than 81,920.0 MiB to spare" in why
    assert explained(selector, 3).chain == ("plain",)
    assert "other" in explained(selector, 2).chain
    clock.advance(DAY_S)
    assert "other" in explained(selector, 40).chain


def test_memory_that_has_become_free_lifts_the_mark(make_selector):
    spare = [10 * GIB]
    selector = make_selector({"plain": lambda x: "plain", "other": _full}, spare=lambda: spare[0])
    assert selector.run("toy", np.ones(3)) == "plain"
    place = ("toy", "other", "cpu")
    assert selector.history.marks.memory[place].spare == 10 * GIB
    assert isinstance(selector.history.marks.why_not(place, 4 * GIB, 10 * GIB), Held)
    spare[0] = 20 * GIB
    assert selector.history.marks.why_not(place, 4 * GIB, 20 * GIB) is None


def test_where_nothing_else_is_left_a_mark_forbids_nothing(make_selector, clock):
    fails = [1]

    def only(x):
        if fails:
            raise MemoryError("for now")
        return "fits"

    selector = make_selector({"plain": only}, learned=False)
    with pytest.raises(NoCandidateError, match="for now"):
        selector.run("toy", np.ones(3))
    fails.clear()
    clock.advance(0.1)
    decision = explained(selector, 3)
    assert (decision.chain, decision.excluded) == (("plain",), ())
    assert "3,072.0 MiB failed (out of memory: MemoryError: for now)" in decision.explain()
    assert "nothing else is left, so it is tried" in decision.explain()
    assert selector.run("toy", np.ones(3)) == "fits"
    assert explained(selector, 3).notes == ()


def test_a_small_request_on_the_host_leaves_no_mark(make_selector):
    selector = make_selector({"plain": lambda x: 1, "other": _full})
    for variant in selector.dispatcher("toy").operation.variants:
        object.__setattr__(variant, "workspace", None)
    assert selector.run("toy", np.ones(3)) == 1
    assert selector.history.marks.memory == {}


def test_torchs_own_error_is_one_of_memory_and_leads_on(make_selector):
    import torch

    executor = registry.executor("torch")
    assert executor.classify(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")) is (
        Failure.OUT_OF_MEMORY
    )
    runs = []

    def on_torch(x):
        runs.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    selector = make_selector({"plain": lambda x: "plain"}, learned=False)
    declared = operations.find("toy")
    extended = Operation(name="toy", variants=(*declared.variants, Variant("torch", "torch", lambda: on_torch)))
    operations.register_operation(extended)
    request = selector.dispatcher("toy").request((np.ones(3),), {})
    choice = selector._engine.choose(request)
    assert selector.dispatcher("toy")._walk(choice, ("torch", "plain"), "asked", None, (np.ones(3),), {}) == "plain"
    assert len(runs) == 2  # once more after the caches were freed


# ---- no fallback at all


def test_fail_fast_lets_the_listed_failure_out_as_it_was_raised(make_selector):
    raised = MemoryError("big")
    runs = []

    def other(x):
        runs.append(1)
        raise raised

    selector = make_selector({"plain": lambda x: "plain", "other": other}, fail_fast=True)
    with pytest.raises(MemoryError) as caught:
        selector.run("toy", np.ones(3))
    assert caught.value is raised
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert runs == [1]
    assert "other" in dict(explained(selector, 3).excluded)  # it is remembered all the same
    assert selector.run("toy", np.ones(3)) == "plain"


def test_fail_fast_holds_for_known_calls_unlisted_errors_and_callables(make_selector):
    error = []

    def other(x):
        if error:
            raise error[0]
        return "other"

    selector = make_selector({"plain": lambda x: "plain", "other": other}, fail_fast=True)
    assert [selector.run("toy", np.ones(3)) for _ in range(3)] == ["other"] * 3
    error.append(MemoryError("now"))
    with pytest.raises(MemoryError, match="now"):
        selector.run("toy", np.ones(3))
    selector = make_selector({"plain": lambda x: "plain", "other": other}, fail_fast=True)
    error[:] = [AttributeError("no such function")]
    with pytest.raises(AttributeError, match="no such function"):  # not even settled by the default
        selector.run("toy", np.ones(3))
    workload = WorkloadCharacteristics(operation_type="mine", data_shape=(3,))
    mapping = {"numpy": lambda: _full(0), "scipy": lambda: 1}
    with pytest.raises(MemoryError, match="1 TiB"):
        selector.execute_with_monitoring("m", "numpy", mapping, workload, ["scipy"])


def test_a_large_run_is_announced_while_it_runs_and_no_longer(make_selector, opened, path):
    seen = []

    def watches(x):
        seen.append(attempts(path) if x.size > 0 else [])
        if x.size == 3:
            raise ValueError("mine")
        return 1

    history = opened()
    history.marks.fitted(PLACE, 1)
    history.flush()
    selector = make_selector({"plain": watches}, history, learned=False)
    selector.run("toy", np.ones(2))
    with pytest.raises(ValueError, match="mine"):
        selector.run("toy", np.ones(3))
    assert seen == [[("toy", "plain", "cpu", n * (GIB + 16))] for n in (2, 3)]
    assert attempts(path) == []
