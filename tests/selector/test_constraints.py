"""Constraints filter before learning: what is excluded is never chosen, never in the chain and never tried."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.errors import BackendUnavailableError, NoCandidateError
from pointsman.selector.operations import Operation, register_operation
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.outcome import Failure

BACKENDS = ("numpy", "scipy", "numba", "torch", "jax")
GIB = 2**30


@pytest.mark.usefixtures("all_imported")
@budget(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_excluded_is_never_in_the_decision(data, make, feed):
    disable = data.draw(st.sets(st.sampled_from(BACKENDS), max_size=4), label="disable")
    allowed = [b for b in BACKENDS if b not in disable]
    selector = make(disable=disable, explore=1.0)
    workload = WorkloadCharacteristics(
        operation_type="laws",
        data_size=data.draw(st.sampled_from([10, 10_000, 10**8]), label="size"),
        dtype=data.draw(st.sampled_from(["float32", "float64", "float16", "complex128", "int64", "bfloat16"])),
        requires_gradient=data.draw(st.booleans(), label="gradient"),
        require=data.draw(st.sampled_from([None, *allowed]), label="require"),
        work=data.draw(st.sampled_from([None, 1e6])),
    )
    failed = data.draw(st.sets(st.sampled_from(allowed), max_size=2), label="failed")
    feed(selector, workload, {b: data.draw(st.floats(1e-6, 10.0)) for b in BACKENDS}, times=2)
    for backend in failed:
        selector.record(workload, backend, seconds=0.1, failure=Failure.DRIVER)
    selector.flush()
    may = {
        b
        for b in allowed
        if workload.dtype in registry.executor(b).capabilities.dtypes
        and (not workload.requires_gradient or registry.executor(b).capabilities.gradients)
        and workload.require in (None, b)
        and b not in failed
    }
    if not may:
        with pytest.raises(NoCandidateError) as error:
            selector.decide(workload)
        assert all(f"  {b}: " in str(error.value) for b in BACKENDS if workload.require in (None, b))
        return
    decision = selector.decide(workload)
    assert set(decision.chain) == may
    assert {c.variant for c in decision.candidates} == may
    assert decision.trial is None or decision.trial in may
    assert decision.variant == decision.chain[0]
    assert {name for name, _ in decision.excluded if "@" not in name} == set(BACKENDS) - may
    assert all(why for _, why in decision.excluded)


def test_a_learned_choice_never_skips_the_gradient(make, feed, workload, all_imported):
    """The fastest by far cannot differentiate."""
    selector, w = make(), workload(5000, requires_gradient=True)
    feed(selector, w, {"numpy": 1e-6, "numba": 1e-6, "torch": 0.1, "jax": 0.5})
    assert selector.select_backend(w) == "torch"
    assert dict(selector.decide(w).excluded)["numpy"] == "it gives no gradient"


def test_a_torch_tensor_that_requires_a_gradient_never_leaves_torch(make, feed, workload, all_imported):
    selector, w = make(), workload(5000, requires_gradient=True, residency="torch")
    feed(selector, w, {"torch": 1.0, "jax": 1e-6})
    decision = selector.decide(w)
    assert decision.chain == ("torch",)
    assert "never leaves torch" in dict(decision.excluded)["jax"]


def test_host_memory_is_a_constraint_only_above_what_every_machine_has(make, workload):
    big = workload(2 * GIB // 8)
    with pytest.raises(NoCandidateError, match=r"numpy: it needs 4,096 MiB, the host has 1,024 MiB to spare"):
        make(host=GIB).decide(big)
    assert make(host=5 * GIB).decide(big).variant == "numpy"
    assert make(host=0).decide(workload(1000)).variant == "numpy"


def test_declared_workspace_counts(make):
    roomy = Variant("numpy/wide", "numpy", lambda: len, workspace=lambda shapes, _: 100.0 * 8 * shapes[0][0])
    register_operation(Operation(name="hungry", variants=(Variant("numpy", "numpy", lambda: len), roomy)))
    w = WorkloadCharacteristics(operation_type="hungry", data_size=GIB // 64)
    decision = make(host=GIB).decide(w)
    assert decision.chain == ("numpy",)
    assert "it needs" in dict(decision.excluded)["numpy/wide"]


def test_accuracy_excludes_variants_with_a_looser_bound(make):
    fast = Variant("numpy/fast", "numpy", lambda: len, accuracy={"float64": 1e-6})
    register_operation(Operation(name="approximate", variants=(Variant("numpy", "numpy", lambda: len), fast)))

    def chain(**accuracy: object) -> tuple[str, ...]:
        return make().decide(WorkloadCharacteristics(operation_type="approximate", data_size=9, **accuracy)).chain

    assert chain() == ("numpy", "numpy/fast")
    assert chain(accuracy="high") == ("numpy",)
    assert chain(accuracy=1e-8) == ("numpy",)
    assert chain(accuracy=1e-5) == ("numpy", "numpy/fast")


def test_an_operation_may_refuse_shapes_and_parameters_with_a_sentence(make):
    def supports(shapes, parameters):
        return None if parameters.get("taps", 1) < 100 else "taps must stay below 100"

    picky = Variant("numpy/direct", "numpy", lambda: len, supports=supports)
    register_operation(Operation(name="picky", variants=(Variant("numpy", "numpy", lambda: len), picky)))
    w = WorkloadCharacteristics(operation_type="picky", data_size=9, parameters={"taps": 4096})
    assert dict(make().decide(w).excluded)["numpy/direct"] == "taps must stay below 100"


def test_require_is_never_a_silent_fallback(make, workload, monkeypatch):
    with pytest.raises(NoCandidateError, match="'scipy' is demanded by require='scipy' of the workload") as error:
        make().decide(workload(requires_gradient=True, require="scipy"))
    assert "it gives no gradient" in str(error.value)
    with pytest.raises(NoCandidateError, match="'gpu' is demanded"):
        make().decide(workload(requires_gpu=True))

    def without_torch(name: str) -> str | None:
        return "torch is not installed; pip install 'pointsman[torch]'" if name == "torch" else None

    monkeypatch.setattr(registry, "available", without_torch)
    with pytest.raises(ImportError, match=r"pip install 'pointsman\[torch\]'") as missing:
        make().decide(workload(require="torch"))
    assert isinstance(missing.value, NoCandidateError | BackendUnavailableError)


def test_deterministic_always_takes_the_default(make, feed, workload, all_imported):
    selector, w = make(), workload(deterministic=True)
    feed(selector, workload(), {"numpy": 1.0, "torch": 1e-4})
    decision = selector.decide(w)
    assert (decision.variant, decision.rule, decision.trial) == ("numpy", "deterministic", None)


def test_a_jax_array_of_float64_needs_x64(make, workload):
    decision = make().decide(workload(residency="jax", dtype="float64"))
    assert "jax" not in decision.chain
    assert "x64" in dict(decision.excluded)["jax"]
    assert "jax" in make().decide(workload(residency="jax", dtype="float32")).chain
