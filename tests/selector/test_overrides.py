"""Overrides: call > scope > configure > environment > learned > default; the decision names what won."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pointsman.executors import registry
from pointsman.executors.errors import NoCandidateError
from pointsman.selector import settings
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings

pytestmark = pytest.mark.usefixtures("all_imported")


@pytest.fixture
def follows(history, make):
    """A selector that follows the settings of the process, on the fake machine."""

    def build() -> IntelligentBackendSelector:
        selector = make()
        selector._fixed = None
        return selector

    return build


def test_each_level_goes_over_the_one_below(follows, feed, workload, monkeypatch):
    selector, w = follows(), workload(10**5)
    won = []

    def choose(preferred=None):
        decision = selector.decide(w, preferred)
        won.append((decision.variant, decision.rule, decision.set_by))
        assert selector.select_backend(w, preferred) == decision.variant

    choose()
    feed(selector, w, {"numpy": 5e-3, "scipy": 1e-3})
    choose()
    monkeypatch.setenv("POINTSMAN_PREFER", "numba")
    settings.reload()
    choose()
    settings.configure(prefer="torch")
    choose()
    with settings.use("jax"):
        choose()
        choose("numpy")
    choose("numpy")
    choose()
    assert won == [
        ("numpy", "default", ""),
        ("scipy", "learned", ""),
        ("numba", "override", "POINTSMAN_PREFER"),
        ("torch", "override", "configure(prefer='torch')"),
        ("jax", "required", "use('jax')"),
        ("numpy", "override", "preferred_backend='numpy'"),
        ("numpy", "override", "preferred_backend='numpy'"),
        ("torch", "override", "configure(prefer='torch')"),
    ]


def test_a_preference_that_cannot_run_leaves_the_scope_in_force(make, workload):
    with settings.use("torch"):
        decision = make().decide(workload(requires_gradient=True), "numpy")
    assert (decision.variant, decision.set_by) == ("torch", "use('torch')")
    assert "numpy: it gives no gradient" in decision.passed_over


def test_what_the_workload_requires_goes_over_everything(make, workload):
    with settings.use("torch"):
        decision = make(force="jax").decide(workload(require="scipy"), "numpy")
    assert decision.chain == ("scipy",)
    assert decision.set_by == "require='scipy' of the workload"


def test_force_allows_nothing_else_and_fails_where_it_cannot_run(make, workload, monkeypatch):
    forced = Settings.from_environment({"POINTSMAN_FORCE_SCIPY": "1"})
    selector = make(settings=forced)
    decision = selector.decide(workload())
    assert (decision.chain, decision.set_by) == (("scipy",), "POINTSMAN_FORCE_SCIPY")
    assert "decided by POINTSMAN_FORCE_SCIPY" in decision.explain()
    with pytest.raises(NoCandidateError, match="'scipy' is demanded by POINTSMAN_FORCE_SCIPY") as error:
        selector.decide(workload(requires_gradient=True))
    assert "it gives no gradient" in str(error.value)
    missing = "scipy is not installed; pip install 'pointsman[scipy]'"
    monkeypatch.setattr(registry, "available", lambda name: missing if name == "scipy" else None)
    with pytest.raises(ImportError, match=r"it cannot run: scipy is not installed; pip install"):
        make(settings=forced).decide(workload())


def test_disabled_backends_are_named_with_the_variable(make, workload):
    disabled = Settings.from_environment({"POINTSMAN_DISABLE": "torch,numba", "POINTSMAN_DISABLE_JAX": "1"})
    decision = make(settings=disabled).decide(workload(), "torch")
    assert set(decision.chain) == {"numpy", "scipy"}
    why = "disabled by POINTSMAN_DISABLE and POINTSMAN_DISABLE_JAX"
    on_host = {name: reason for name, reason in decision.excluded if "@" not in name}
    assert on_host == {"numba": why, "torch": why, "jax": why}
    assert decision.passed_over == f"preferred_backend='torch' is passed over: torch: {why}"


@pytest.mark.parametrize("mode", ["off", "observe", "advise", "select"])
def test_modes(make, feed, workload, history, mode, caplog):
    w = workload(10**5)
    feed(make(), w, {"numpy": 5e-3, "torch": 1e-3}, times=400)
    selector = make(mode=mode, explore=1.0)
    before = sum(s.records for s in history.state.cells.values())
    with caplog.at_level("INFO", "pointsman"):
        decision = selector.decide(w)
    selector.execute_with_monitoring("s", None, lambda backend: backend, w)
    history.flush()
    recorded = sum(s.records for s in history.state.cells.values()) - before
    assert decision.variant == ("torch" if mode == "select" else "numpy")
    assert recorded == (0 if mode == "off" else 1)
    assert mode == "select" or decision.trial is None
    advised = [note for note in decision.notes if note.startswith("advice: torch")]
    assert bool(advised) == (mode == "advise") == ("torch would be better than numpy" in caplog.text)
    if mode != "select":
        assert decision.set_by == f"configure(mode={mode!r})"


def test_settings_that_contradict_each_other_fail_at_the_first_decision(workload, monkeypatch):
    monkeypatch.setenv("POINTSMAN_FORCE", "jax")
    monkeypatch.setenv("POINTSMAN_DISABLE_JAX", "1")
    selector = IntelligentBackendSelector(history=":memory:")  # no error yet
    for _ in range(2):
        with pytest.raises(ValueError, match="POINTSMAN_FORCE and POINTSMAN_DISABLE_JAX contradict each other"):
            selector.select_backend(workload())
    monkeypatch.delenv("POINTSMAN_DISABLE_JAX")
    assert selector.select_backend(workload()) == "jax"


def test_a_wrong_variable_is_no_error_at_import():
    code = (
        "import pointsman as pm\n"
        "selector = pm.IntelligentBackendSelector(history=':memory:')\n"
        "@pm.adaptive\n"
        "def f(x, *, xp=None): return x\n"
        "try: pm.select_backend('fft', (10,))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"POINTSMAN_MODE": "fast", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("POINTSMAN_MODE: found 'fast'")
    assert "off, observe, advise, select" in done.stdout


def test_changed_settings_reach_known_choices_at_once(follows, workload):
    selector, w = follows(), workload()
    assert selector.select_backend(w) == selector.select("spectrogram", (1000,)) == "numpy"
    settings.configure(force="scipy")
    assert selector.select_backend(w) == selector.select("spectrogram", (1000,)) == "scipy"
    settings.configure(force=None, disable=["numpy"])
    assert selector.select_backend(w) != "numpy"


def test_a_scope_reaches_the_convenience_form_and_leaves_nothing_behind(follows):
    selector = follows()
    for _ in range(2):
        assert selector.select("spectrogram", (1000,)) == "numpy"
        with settings.use("jax"):
            assert selector.select("spectrogram", (1000,)) == "jax"


def test_the_gpu_reserve_follows_the_settings(monkeypatch, workload):
    selector = IntelligentBackendSelector(history=":memory:")
    selector.select_backend(workload())
    settings.configure(gpu_memory_reserve=0.5)
    assert selector._engine.machine.gpu.reserve == 0.5


@pytest.mark.parametrize("wrong", ["nonsense", "TORCH", ""])
def test_an_unknown_preference_is_an_error_that_lists_the_backends(make, workload, wrong):
    with pytest.raises(ValueError, match="numpy, scipy, numba, torch, jax"):
        make().select_backend(workload(), wrong)


def test_a_preference_of_the_wrong_type_and_no_workload_are_told_apart(make, workload):
    with pytest.raises(TypeError, match="preferred_backend: found 3"):
        make().select_backend(workload(), 3)
    with pytest.raises(TypeError, match="workload: found 'fft'"):
        make().select_backend("fft")
    with pytest.raises(TypeError, match="workload: found 'fft'"):
        make().decide("fft")


def test_a_wish_for_a_device_or_for_what_is_to_come_is_passed_over_with_the_reason(make, workload):
    assert "there is no usable GPU here" in make().decide(workload(), "gpu").passed_over
    assert "not part of this version" in make().decide(workload(), "stan").passed_over
    required = workload(require="torch")
    assert "'torch' is required" in make().decide(required, "numpy").passed_over
