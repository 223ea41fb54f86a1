"""`execute_with_monitoring`: forms of functions, the exact order of the chain, failures, what is recorded."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from pointsman.executors.errors import NoCandidateError, UnsupportedError
from pointsman.executors.table import BackendType
from pointsman.telemetry.outcome import Failure

pytestmark = pytest.mark.usefixtures("all_imported")


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def scripted(ran):
    """`scripted(torch=error, numpy=3)`: takes `backend`, notes it, gives or raises what the script says."""

    def script(**results: object):
        def run(backend: str) -> object:
            ran.append(backend)
            found = results.get(backend, 0)
            if isinstance(found, BaseException):
                raise found
            return found

        return run

    return script


def recorded(selector, operation="spectrogram"):
    """variant -> (count, failures) of everything recorded under `operation`."""
    found = selector.get_performance_summary()["operations"].get(operation, [])
    return {name: (v["count"], v["failures"]) for c in found for name, v in c["variants"].items()}


def test_a_function_that_takes_backend_is_told_which(make, workload, scripted, ran):
    assert make().execute_with_monitoring("s", "scipy", scripted(scipy=5), workload()) == 5
    assert ran == ["scipy"]


def test_a_mapping_gives_each_backend_its_own(make, workload):
    selector = make()
    func = {"numpy": lambda: "n", BackendType.TORCH: lambda: "t"}
    assert selector.execute_with_monitoring("s", "torch", func, workload()) == "t"
    assert selector.execute_with_monitoring("s", BackendType.NUMPY, func, workload()) == "n"
    assert selector.execute_with_monitoring("s", None, func, workload()) == "n"
    assert selector.execute_with_monitoring("s", "auto", func, workload()) == "n"


def test_a_mapping_without_the_backend_goes_on_to_one_that_it_has(make, workload):
    """And what a mapping leaves out is held against no backend: nothing of it ran."""
    selector, w = make(), workload()
    assert selector.execute_with_monitoring("s", "scipy", {"jax": lambda: "j"}, w) == "j"
    assert set(recorded(selector)) == {"jax"}
    assert selector.decide(w, "scipy").backend == "scipy"


def test_of_a_mapping_the_first_in_the_decisions_chain_runs(make, workload):
    selector, w = make(), workload()
    choice = selector.decide(w).chain
    func = {name: lambda name=name: name for name in choice[2:4]}
    assert selector.execute_with_monitoring("s", None, func, w) == choice[2]
    assert set(recorded(selector)) == {choice[2]}


def test_a_backend_of_another_version_is_unavailable_and_the_chain_goes_on(make, workload, scripted, ran):
    selector, stan = make(), BackendType.STAN
    assert selector.execute_with_monitoring("s", stan, scripted(numpy=7), workload(), ["numpy"]) == 7
    assert selector.execute_with_monitoring("s", "torch", scripted(torch=MemoryError()), workload(), [stan, "jax"]) == 0
    assert ran == ["numpy", "torch", "jax"]
    assert set(recorded(selector)) == {"numpy", "torch", "jax"}
    with pytest.raises(NoCandidateError, match=r"(?s)stan: unavailable.*not part of this version.*jax: out of memory"):
        selector.execute_with_monitoring("s", stan, scripted(jax=MemoryError()), workload(), ["jax"])


def test_a_closure_for_a_backend_of_another_version_still_runs_once(make, workload):
    def count(result):
        calls.append(1)
        if isinstance(result, BaseException):
            raise result
        return result

    calls = []
    fallback = [BackendType.STAN, "numpy", "jax"]
    assert make().execute_with_monitoring("s", "stan", lambda: count(7), workload(), fallback) == 7
    with pytest.raises(NoCandidateError, match=r"(?s)stan: unavailable.*numpy: out of memory"):
        make().execute_with_monitoring("s", "stan", lambda: count(MemoryError("big")), workload(), fallback)
    assert len(calls) == 2


def test_a_requirement_holds_in_the_chain_and_against_the_named_backend(make, workload, scripted, ran):
    w = workload(require="torch")
    with pytest.raises(ValueError, match="backend='numpy' and require='torch' of the workload contradict each other"):
        make().execute_with_monitoring("s", "numpy", scripted(), w)
    with pytest.raises(NoCandidateError, match=r"numpy: unsupported .*'torch' is required"):
        make().execute_with_monitoring("s", "torch", scripted(torch=MemoryError()), w, ["numpy"])
    assert ran == ["torch"]
    assert make().execute_with_monitoring("s", "numpy", scripted(numpy=3), workload(require="cpu")) == 3
    with pytest.raises(NoCandidateError, match="'gpu' is demanded"):
        make().execute_with_monitoring("s", "numpy", scripted(), workload(require="gpu"))


async def _later():
    return 1


def _piecewise():
    yield 1


@pytest.mark.parametrize("func", [_later, _piecewise, functools.partial(_later)])
def test_functions_whose_call_computes_nothing_are_refused_not_timed(make, workload, func):
    selector = make()
    with pytest.raises(TypeError, match=r"nothing that could be timed.*measure"):
        selector.execute_with_monitoring("s", "numpy", func, workload())
    assert recorded(selector) == {}


def test_a_library_that_is_missing_or_broken_leads_on_and_any_other_import_error_comes_out(make, workload, scripted):
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    broken = ImportError("libc10.so: cannot open shared object file", name="torch._C")
    selector = make()
    for error in (missing, broken):
        assert selector.execute_with_monitoring("s", "torch", scripted(torch=error), workload(), ["numpy"]) == 0
    assert recorded(selector)["torch"] == (0, {"unavailable": 2})
    for error in (ImportError("cannot import name 'f'", name="mine"), ImportError("no name")):
        with pytest.raises(ImportError, match=str(error)):
            make().execute_with_monitoring("s", "torch", scripted(torch=error), workload(), ["numpy"])


def test_wrong_arguments_say_what_was_found_and_what_to_give(make, workload, scripted):
    execute = make().execute_with_monitoring
    with pytest.raises(TypeError, match="workload: found 'fft'; give a WorkloadCharacteristics"):
        execute("s", "numpy", scripted(), "fft")
    with pytest.raises(TypeError, match="func: found 5; give a function"):
        execute("s", "numpy", 5, workload())
    with pytest.raises(TypeError, match=r"fallback_backends: found 'numpy'; give a list"):
        execute("s", "torch", scripted(), workload(), "numpy")
    with pytest.raises(ValueError, match="no backend is called 'numpi'"):  # also where it would not have been needed
        execute("s", "numpy", scripted(), workload(), ["torch", "numpi"])


class Model:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def fit(self, backend: str = "?") -> str:
        self.seen.append(backend)
        return backend

    def plain(self) -> str:
        return "plain"

    def __call__(self, *, backend: str) -> str:
        return f"called on {backend}"


def decorated(f):
    @functools.wraps(f)
    def inner(*args, **kwargs):
        return f(*args, **kwargs)

    return inner


def with_backend(backend):
    return backend


def without_backend():
    return "none"


@pytest.mark.parametrize(
    ("func", "result"),
    [
        (with_backend, "scipy"),
        (without_backend, "none"),
        (lambda backend: backend, "scipy"),
        (Model().fit, "scipy"),
        (Model().plain, "plain"),
        (Model(), "called on scipy"),
        (functools.partial(with_backend), "scipy"),
        (functools.partial(with_backend, backend="jax"), "jax"),  # the caller's own word is kept
        (functools.partial(np.zeros, 2), None),
        (dict, {}),
        (np.random.default_rng(1).random, None),
        (lambda **options: options, {}),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_every_form_of_callable_gets_backend_exactly_if_it_takes_it(make, workload, func, result):
    found = make().execute_with_monitoring("s", "scipy", func, workload())
    if result is not None:
        assert found == result


def test_wrappers_made_by_one_decorator_are_told_apart(make, workload):
    """They share one code object, and only one of them takes `backend`."""
    selector = make()
    for _ in range(2):
        assert selector.execute_with_monitoring("s", "scipy", decorated(without_backend), workload()) == "none"
        assert selector.execute_with_monitoring("s", "scipy", decorated(with_backend), workload()) == "scipy"


def test_the_chain_is_walked_in_exactly_the_given_order(make, workload, scripted, ran):
    selector, w = make(), workload()
    failing = scripted(torch=MemoryError("big"), jax=UnsupportedError("no"), scipy=MemoryError("big"), numba=9)
    chain = ["jax", BackendType.SCIPY, "numba", "numpy"]
    assert selector.execute_with_monitoring("spectrum", "torch", failing, w, fallback_backends=chain) == 9
    assert ran == ["torch", "jax", "scipy", "numba"]
    assert recorded(selector) == {
        "torch": (0, {"out of memory": 1}),
        "jax": (0, {"unsupported": 1}),
        "scipy": (0, {"out of memory": 1}),
        "numba": (1, {}),
    }


def test_none_walks_the_decisions_own_chain(make, feed, workload, scripted, ran):
    selector, w = make(explore=0, disable={"numba"}), workload(10**5)
    feed(selector, w, {"numpy": 5e-3, "scipy": 4e-3, "torch": 1e-3, "jax": 2e-3})
    assert selector.decide(w).chain == ("torch", "jax", "scipy", "numpy")
    failing = scripted(torch=MemoryError(), jax=MemoryError(), scipy=MemoryError(), numpy=1)
    assert selector.execute_with_monitoring("s", None, failing, w) == 1
    assert ran == ["torch", "jax", "scipy", "numpy"]


def test_an_empty_list_forbids_fallback(make, workload, scripted, ran):
    with pytest.raises(NoCandidateError, match=r"torch: out of memory \(MemoryError: big\)") as error:
        make().execute_with_monitoring("s", "torch", scripted(torch=MemoryError("big")), workload(), [])
    assert ran == ["torch"]
    assert isinstance(error.value.__cause__, MemoryError)


def test_when_nothing_is_left_each_candidate_is_listed(make, workload, scripted):
    failing = scripted(torch=MemoryError("one"), jax=UnsupportedError("two"))
    with pytest.raises(NoCandidateError) as error:
        make().execute_with_monitoring("s", "torch", failing, workload(), ["jax"])
    assert [(b, f) for b, f, _ in error.value.failures] == [
        ("torch", Failure.OUT_OF_MEMORY),
        ("jax", Failure.UNSUPPORTED),
    ]
    text = str(error.value)
    assert "spectrogram 1000 float64" in text
    assert "torch: out of memory (MemoryError: one); make the problem smaller" in text
    assert "jax: unsupported (UnsupportedError: two); ask for another dtype" in text


def test_a_plain_closure_is_not_run_again_for_what_that_cannot_cure(make, workload):
    runs = []

    def closure():
        runs.append(1)
        raise MemoryError("big")

    with pytest.raises(NoCandidateError, match="plain closure that does not know which backend is meant") as error:
        make().execute_with_monitoring("s", "torch", closure, workload(), ["numpy", "scipy"])
    assert len(runs) == 1
    assert "numpy, scipy could not be tried" in str(error.value)
    assert "{backend: callable}" in str(error.value)


def test_a_plain_closure_is_run_once_more_where_that_may_cure_it(make, workload):
    """What it then takes is recorded for the backend that it runs on, not for the next one's name."""
    runs = []

    def closure():
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return "cured"

    selector = make()
    assert selector.execute_with_monitoring("s", "torch", closure, workload(), ["numpy"]) == "cured"
    assert len(runs) == 2
    assert recorded(selector) == {"torch": (1, {"driver": 1})}


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3), NoCandidateError("inner")])
def test_the_callers_own_exception_comes_out_unchanged(make, workload, scripted, ran, error):
    selector = make()
    with pytest.raises(type(error)) as caught:
        selector.execute_with_monitoring("s", "torch", scripted(torch=error), workload(), ["numpy"])
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert caught.traceback[-1].name == "run"  # where it was raised
    assert ran == ["torch"]
    assert recorded(selector) == {}


def test_a_users_exception_in_a_fallback_ends_the_chain(make, workload, scripted, ran):
    mine = ValueError("mine")
    selector, failing = make(), scripted(torch=MemoryError(), jax=mine)
    with pytest.raises(ValueError, match="mine") as caught:
        selector.execute_with_monitoring("s", "torch", failing, workload(), ["jax", "numpy"])
    assert caught.value is mine
    assert ran == ["torch", "jax"]


def test_each_attempt_is_recorded_under_the_operation_with_its_label(make, workload, scripted, history):
    seen = []
    selector = make()
    selector.flush()  # the selector subscribes first
    history.subscribe(lambda outcomes, _: seen.extend(outcomes))
    failing = scripted(torch=MemoryError("big"), jax=1)
    selector.execute_with_monitoring("derivative_alpha_0.5", "torch", failing, workload(), ["jax"])
    selector.execute_with_monitoring("derivative_alpha_0.7", "numpy", lambda: 1, workload())
    history.flush()
    assert [(o.site.operation, o.site.variant, o.label, o.failure, o.rule) for o in seen] == [
        ("spectrogram", "torch", "derivative_alpha_0.5", Failure.OUT_OF_MEMORY, "fallback"),
        ("spectrogram", "jax", "derivative_alpha_0.5", None, "fallback"),
        ("spectrogram", "numpy", "derivative_alpha_0.7", None, "asked"),
    ]
    assert all(o.seconds >= 0 for o in seen)


def test_what_failed_is_kept_out_of_the_next_decision(make, feed, workload, scripted, ran):
    selector, w = make(explore=0, disable={"scipy", "numba", "jax"}), workload(10**5)
    feed(selector, w, {"numpy": 5e-3, "torch": 1e-3})
    failing = scripted(torch=MemoryError("big"), numpy=1)
    selector.execute_with_monitoring("s", None, failing, w)
    assert selector.select_backend(w) == "numpy"
    selector.execute_with_monitoring("s", None, failing, w)
    assert ran == ["torch", "numpy", "numpy"]


def test_a_preference_is_passed_over_with_the_reason_and_a_requirement_is_not(make, workload):
    selector = make()
    decision = selector.decide(workload(requires_gradient=True), "scipy")
    assert decision.variant == "torch"
    assert decision.passed_over == "preferred_backend='scipy' is passed over: scipy: it gives no gradient"
    assert "passed over" in decision.explain()
    for nothing in (None, "auto", BackendType.AUTO):
        assert selector.decide(workload(), nothing).passed_over == ""
    assert selector.select_backend(workload(), BackendType.SCIPY) is BackendType.SCIPY
    with pytest.raises(ValueError, match="no backend is called 'tensorflow'"):
        selector.decide(workload(), "tensorflow")
    later = selector.decide(workload(), BackendType.STAN)
    assert "'stan' is not part of this version" in later.passed_over
    with pytest.raises(NoCandidateError, match="demanded by require='scipy'"):
        selector.decide(workload(requires_gradient=True, require="scipy"))


def test_wrong_names_in_the_chain_are_errors_that_list_the_right_ones(make, workload, scripted):
    with pytest.raises(ValueError, match=r"no backend is called 'numpi'.*numpy, scipy"):
        make().execute_with_monitoring("s", "numpi", scripted(), workload())
    with pytest.raises(ValueError, match=r"no backend is called 'numpi'"):
        make().execute_with_monitoring("s", "torch", scripted(torch=MemoryError()), workload(), ["numpi"])


def test_the_failure_is_what_comes_out_where_the_decision_has_no_candidates(make, workload, scripted):
    selector, w = make(disable=["torch", "jax"]), workload(requires_gradient=True)
    with pytest.raises(NoCandidateError, match="torch: out of memory"):
        selector.execute_with_monitoring("s", "torch", scripted(torch=MemoryError("big")), w)


def test_the_clock_is_read_after_the_device_has_finished(make, workload, monkeypatch):
    """And an error of unfinished work belongs to this call, not to the next."""
    from pointsman.executors import registry

    waited = []

    def synchronize(result):
        waited.append(result)
        if result == "late":
            raise MemoryError("RESOURCE_EXHAUSTED")

    import jax  # noqa: F401 - results of jax exist only where it is imported

    monkeypatch.setattr(registry.executor("jax"), "synchronize", synchronize)
    selector = make()
    assert selector.execute_with_monitoring("s", "jax", lambda: "soon", workload()) == "soon"
    assert waited == ["soon"]
    assert selector.execute_with_monitoring("s", "jax", {"jax": lambda: "late", "numpy": lambda: 2}, workload()) == 2
    assert recorded(selector)["jax"] == (0, {"out of memory": 1})  # the first may have compiled: it is no steady time


def test_a_first_run_that_may_compile_never_enters_a_steady_estimate(make, workload):
    """Only the first of a workload, and only where the backend imports or compiles."""
    selector, w = make(), workload()
    for _ in range(3):
        selector.execute_with_monitoring("s", "numba", lambda: 1, w)
        selector.execute_with_monitoring("s", "numpy", lambda: 1, w)
    with selector.measure(w):
        pass
    assert recorded(selector)["numba"][0] == 2
    assert recorded(selector)["numpy"][0] == 4
