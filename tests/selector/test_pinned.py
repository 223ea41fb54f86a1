"""Choices under a lock: the same on every machine, and never a silent fallback."""

from __future__ import annotations

import os

import numpy as np
import pointsman as pm
import pytest
from pointsman.executors import registry
from pointsman.executors.errors import NoCandidateError
from pointsman.selector import maps, settings
from pointsman.selector.lock import Lock, Pin, PinnedError
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.telemetry.history import History

pytestmark = pytest.mark.usefixtures("all_imported")


@pytest.fixture
def second(clock):
    return History(None, background=False, clock=clock, monotonic=clock)


def variants(selector, *workloads):
    return [(d.variant, d.rule) for d in map(selector.decide, workloads)]


# ---- the same everywhere


def test_opposite_histories_and_loads_give_the_same_choices(make, feed, workload, locked, second):
    path = locked(
        ("spectrogram", "float64", "20", "", "scipy"), ("spectrogram", "float64", "33", "", "numpy"),
        ("spectrogram", "float64", "40", "", "torch"),
    )  # fmt: skip
    asked = [workload(n) for n in (1, 1000, 2000, 10**4, 10**5, 10**6, 10**9)]
    asked += [workload(1000, dtype="float32"), workload(1000, parameters={"taps": 3})]
    one, other = make(lock=path), make(lock=path, history=second)
    before = variants(one, *asked)
    for size in (1000, 10**5, 10**6):
        feed(one, workload(size), {"numpy": 1e-4, "scipy": 1.0, "torch": 1.0})
        feed(other, workload(size), {"numpy": 1.0, "numba": 1e-4}, context="busy")
    other._engine.learner.context = "busy"
    for selector in (one, other):
        selector._drop_tables()
    assert variants(one, *asked) == variants(other, *asked) == before
    assert [name for name, _ in before] == [
        "scipy", "scipy", "scipy", "numpy", "numpy", "torch", "torch", "numpy", "numpy",
    ]  # fmt: skip
    assert {rule for _, rule in before} == {"pinned"}
    told = one.decide(asked[1])
    assert path in told.reason
    assert told.set_by == f"configure(lock={path!r})"
    assert told.chain == ("scipy",)
    assert told.trial is None


def test_a_size_never_seen_takes_the_nearest_of_its_kind():
    def pin(shape_class, variant, operation="matmul", detail=""):
        return Pin(operation, "float64", shape_class, detail, variant)

    pins = [pin("20x20|20x20", "a"), pin("12x28|28x12", "b"), pin("30x30|30x30", "c"), pin("e", "d")]
    pins += [pin("90x90", "f"), pin("21x21|21x21", "g"), pin("4", "x", "fft"), pin("8", "y", "fft")]
    lock = Lock(tuple(pins))
    asked = ["20x20|20x20", "21x20|20x20", "13x28|28x12", "11x28|28x12", "40x40|40x40", "25x25|25x25", "", "4"]
    asked += ["12x28|28x16", "95x95|1x1|1", "91x88"]
    found = {shape_class: lock.find("matmul", "float64", shape_class, "").variant for shape_class in asked}
    assert found == {
        "20x20|20x20": "a", "21x20|20x20": "a", "13x28|28x12": "b", "11x28|28x12": "b", "40x40|40x40": "c",
        "25x25|25x25": "g", "": "d", "4": "d", "12x28|28x16": "b", "95x95|1x1|1": "f", "91x88": "f",
    }  # fmt: skip
    assert Lock(lock.pins[::-1]).find("matmul", "float64", "25x25|25x25", "").variant == "g"
    assert lock.find("fft", "float64", "6", "").variant == "x"
    assert lock.find("matmul", "float32", "20x20|20x20", "") is None
    assert lock.find("matmul", "float64", "20x20|20x20", "grad") is None


def test_nothing_is_tried_and_nothing_learned_changes_a_pinned_choice(make, feed, workload, locked, operation):
    calls = []
    operation("toy", slow=lambda x: calls.append("slow") or x, quick=lambda x: calls.append("quick") or x)
    selector = make(lock=locked(("toy", "float64", "20", "", "slow")))
    x = np.ones(1000)
    for _ in range(50):
        selector.run("toy", x)
        selector.flush()
    assert set(calls) == {"slow"}
    [(cell, sketch)] = [(key[0], s) for key, s in selector.history.state.cells.items() if key[0].operation == "toy"]
    assert (cell.variant, sketch.records) == ("slow", 50)  # recorded all the same
    assert sketch.chosen["pinned"] == 50
    assert selector.settings.mode == "pinned"
    assert selector.get_performance_summary()["mode"] == "pinned"


def test_mode_off_pins_and_records_nothing(make, locked, operation):
    operation("toy", slow=np.copy, quick=np.positive)
    selector = make(lock=locked(("toy", "float64", "20", "", "quick")), mode="off")
    selector.run("toy", np.ones(1000))
    selector.flush()
    assert selector.decide(pm.WorkloadCharacteristics(operation_type="toy", data_size=1000)).variant == "quick"
    assert not selector.history.state.cells


def test_without_learning_the_lock_still_decides(make, workload, locked):
    selector = make(False, lock=locked(("spectrogram", "float64", "20", "", "scipy")))
    assert variants(selector, workload(1000)) == [("scipy", "pinned")]


# ---- what cannot run


def test_a_pinned_library_that_is_missing_is_an_error_and_not_another_choice(make, workload, locked, monkeypatch):
    available = registry.available
    monkeypatch.setattr(
        registry, "available", lambda name: "torch is not installed" if name == "torch" else available(name)
    )
    path = locked(("spectrogram", "float64", "20", "", "torch"), ("spectrogram", "float64", "30", "", "numpy"))
    selector = make(lock=path)
    assert variants(selector, workload(10**5)) == [("numpy", "pinned")]
    for size in (1000, 1001):
        with pytest.raises(PinnedError) as error:
            selector.decide(workload(size))
        for part in (f"spectrogram {size} float64", "pinned to torch", path, "torch is not installed", "lock export"):
            assert part in str(error.value)
    assert issubclass(PinnedError, NoCandidateError)
    assert selector.decide(workload(1000, require="numpy")).variant == "numpy"


def test_a_pinned_device_or_backend_that_is_not_there_is_told(make, workload, locked):
    path = locked(
        ("spectrogram", "float64", "20", "", "torch@cuda:0"), ("spectrogram", "float32", "20", "", "nonesuch"),
        ("fft", "float64", "20", "", "numpy/gone"),
    )  # fmt: skip
    selector = make(lock=path)
    with pytest.raises(PinnedError, match="there is no usable cuda:0 here"):
        selector.decide(workload(1000))
    with pytest.raises(PinnedError, match="nonesuch"):
        selector.decide(workload(1000, dtype="float32"))
    with pytest.raises(PinnedError, match="fft has no variant of that name here"):
        selector.decide(workload(1000, operation="fft"))


def test_what_is_switched_off_cannot_be_pinned(make, workload, locked):
    path = locked(("spectrogram", "float64", "20", "", "torch"))
    with pytest.raises(PinnedError, match="disabled by configure"):
        make(lock=path, disable="torch").decide(workload(1000))


def test_a_pinned_choice_that_fails_at_run_time_raises_and_nothing_else_runs(make, locked, operation):
    ran = []

    def full(x):
        ran.append("full")
        raise MemoryError("8 GiB wanted")

    operation("toy", plain=lambda x: ran.append("plain") or x, full=full)
    selector = make(lock=locked(("toy", "float64", "20", "", "full")))
    with pytest.raises(NoCandidateError, match="8 GiB wanted") as error:
        selector.run("toy", np.ones(1000))
    assert "pinned" in str(error.value) or "says so" in str(error.value)
    with pytest.raises(NoCandidateError):
        selector.run("toy", np.ones(1000))
    with pytest.raises(NoCandidateError):
        selector.run("toy", np.ones(1010))
    assert set(ran) == {"full"}


def test_a_known_pinned_call_that_fails_later_raises_too(make, locked, operation):
    ran, broken = [], []

    def fickle(x):
        ran.append("fickle")
        if broken:
            raise MemoryError("gone")
        return x

    operation("toy", plain=lambda x: ran.append("plain") or x, fickle=fickle)
    selector = make(lock=locked(("toy", "float64", "20", "", "fickle")))
    for _ in range(3):
        selector.run("toy", np.ones(1000))
    broken.append(True)
    with pytest.raises(NoCandidateError, match="gone"):
        selector.run("toy", np.ones(1000))
    assert set(ran) == {"fickle"}


def test_a_mark_of_memory_steers_nothing_where_nothing_else_runs(make, locked, workload):
    selector = make(lock=locked(("spectrogram", "float64", "40", "", "scipy")))
    selector.history.marks.failed(("spectrogram", "scipy", "cpu"), 1000, "too much")
    assert variants(selector, workload(2**26)) == [("scipy", "pinned")]


def test_an_unlisted_error_of_a_pinned_variant_is_not_settled_by_the_default(make, locked, operation):
    def odd(x):
        raise ValueError("not for me")

    operation("toy", plain=np.copy, odd=odd)
    selector = make(lock=locked(("toy", "float64", "20", "", "odd")))
    with pytest.raises(ValueError, match="not for me"):
        selector.run("toy", np.ones(1000))


def test_the_default_of_an_unlocked_operation_is_pinned_as_firmly(make, locked, operation):
    ran = []

    def full(x):
        ran.append("full")
        raise MemoryError

    operation("toy", full=full, plain=lambda x: ran.append("plain") or x)
    selector = make(lock=locked())
    for _ in range(3):
        with pytest.raises(NoCandidateError):
            selector.run("toy", np.ones(1000))
    assert set(ran) == {"full"}


# ---- maps and chains


def test_a_map_chooses_by_its_own_costs_under_a_lock_too(make, locked):
    asked = maps.request("map:w", 10_000, maps.Facts(1e-3, 1e-3, 1e-3, True, 8), 2, 2, against={}, require=None)
    free, pinned = (make(**lock)._engine.choose(asked).decision for lock in ({}, {"lock": locked()}))
    assert (pinned.variant, pinned.rule, pinned.chain) == (free.variant, free.rule, free.chain)
    assert len(pinned.chain) > 1


def test_the_steps_of_a_chain_are_pinned_and_stay_at_home(make, locked, operation):
    operation("first", plain=np.copy, other=np.positive)
    operation("then", plain=np.copy, other=np.negative)
    path = locked(("first", "float64", "20", "", "other"), ("then", "float64", "20", "", "other"))
    both = pm.chain("first", "then", selector=make(lock=path))
    x = np.ones(1000)
    for _ in range(3):
        assert both(x).sum() == -1000.0
    legs = both.explain(x).legs
    assert [(leg.variant, leg.rule, leg.place) for leg in legs] == [("other", "pinned", "numpy")] * 2


# ---- what goes over a lock


def test_call_scope_process_and_environment_go_over_a_lock(make, workload, locked):
    path = locked(("spectrogram", "float64", "20", "", "torch"))
    selector, w = make(lock=path), workload(1000)
    assert variants(selector, w, workload(1000, require="scipy")) == [("torch", "pinned"), ("scipy", "required")]
    wished = selector.decide(w, "numba")
    assert (wished.variant, wished.rule, wished.chain) == ("numba", "override", ("numba",))
    with settings.use("jax"):
        assert variants(selector, w) == [("jax", "required")]
    assert variants(make(lock=path, force="numpy"), w) == [("numpy", "required")]
    assert variants(make(lock=path, prefer="numpy"), w) == [("numpy", "override")]
    assert variants(selector, workload(1000, deterministic=True)) == [("numpy", "deterministic")]
    passed = selector.decide(w, "cupy")
    assert (passed.variant, passed.rule) == ("torch", "pinned")
    assert "cupy" in passed.passed_over


def test_a_requirement_that_the_pinned_variant_meets_changes_nothing(make, locked):
    path = locked(("fft", "float64", "20", "", "torch"))
    asked = pm.WorkloadCharacteristics(operation_type="fft", data_size=1000, require="cpu")
    decision = make(lock=path).decide(asked)
    assert (decision.variant, decision.chain) == ("torch", ("torch",))


def test_the_setting_comes_from_the_environment_and_can_be_lifted(monkeypatch, workload, locked):
    path = locked(("spectrogram", "float64", "20", "", "scipy"))
    monkeypatch.setenv("POINTSMAN_LOCK", path)
    settings.reload()
    selector = IntelligentBackendSelector(history=":memory:")
    decision = selector.decide(workload(1000))
    assert (decision.variant, decision.set_by) == ("scipy", "POINTSMAN_LOCK")
    assert selector.select_backend(workload(1000)) == "scipy"
    pm.configure(lock=None)
    assert selector.decide(workload(1000)).rule != "pinned"
    assert settings.current().mode == "select"
    pm.configure(lock=path)
    assert selector.decide(workload(1000)).variant == "scipy"


def test_a_file_is_read_once_and_again_after_a_change_of_settings(monkeypatch, workload, locked):
    path = locked(("spectrogram", "float64", "20", "", "scipy"))
    pm.configure(lock=path)
    selector = IntelligentBackendSelector(history=":memory:")
    assert variants(selector, workload(1000)) == [("scipy", "pinned")]
    locked(("spectrogram", "float64", "20", "", "numba"))
    assert variants(selector, workload(1010)) == [("scipy", "pinned")]  # as all others of this run
    pm.configure(explore=0.01)
    assert variants(selector, workload(1010), workload(1000)) == [("numba", "pinned")] * 2


def test_modes_that_choose_otherwise_contradict_a_lock(locked):
    with pytest.raises(ValueError, match="POINTSMAN_MODE and POINTSMAN_LOCK contradict"):
        Settings.from_environment({"POINTSMAN_MODE": "select", "POINTSMAN_LOCK": "a.json"})
    with pytest.raises(ValueError, match="without a lock file"):
        Settings.from_environment({"POINTSMAN_MODE": "pinned"})
    with pytest.raises(ValueError, match="allowed are the path of a lock file and None"):
        Settings().updated(lock="")
    with pytest.raises(ValueError, match="allowed are the path"):
        Settings().updated(lock=3)
    told = Settings.from_environment({"POINTSMAN_LOCK": "a.json"})
    assert (told.mode, told.lock) == ("pinned", os.path.abspath("a.json"))
    assert Settings.from_environment({"POINTSMAN_MODE": "pinned", "POINTSMAN_LOCK": "a.json"}).mode == "pinned"
