"""The nine behaviours that the earlier selector's suite named, here with assertions."""

from __future__ import annotations

import pytest
from pointsman.executors.table import BackendType
from pointsman.selector import selector as selector_module
from pointsman.selector import settings
from pointsman.selector import shared as shared_module
from pointsman.selector import sites as sites_module
from pointsman.selector.engine import Engine
from pointsman.selector.shared import select_backend, select_optimal_backend
from pointsman.selector.workload import WorkloadCharacteristics

pytestmark = pytest.mark.usefixtures("all_imported")
GIB = 2**30


def matmul(n: int, **fields: object) -> WorkloadCharacteristics:
    return WorkloadCharacteristics(operation_type="matmul", shapes=((n, n), (n, n)), **fields)


@pytest.mark.parametrize("operation", ["fft", "matmul", "element_wise", "derivative", "anything"])
def test_1_small_data_stays_on_numpy(make, gpu, libraries, operation):
    libraries()
    shape = (10, 10)
    w = WorkloadCharacteristics(operation_type=operation, data_shape=shape)
    assert make(gpu_memory=gpu(64 * GIB)).select_backend(w) is BackendType.NUMPY


def test_2_large_data_goes_to_the_gpu_when_there_is_one(make, gpu):
    large = matmul(8192)
    decision = make(gpu_memory=gpu(64 * GIB)).decide(large)
    assert (decision.variant, decision.device) == ("torch@cuda:0", "cuda:0")
    assert decision.reason == "the data fits the GPU and the work repays the transfer"
    without = make(gpu_memory=gpu(None)).decide(large)
    assert without.device == "cpu"
    assert {c.device for c in without.candidates} == {"cpu"}
    assert dict(without.excluded)["torch@cuda:0"] == "there is no usable cuda:0 here"


def test_2_the_gpu_must_repay_the_import_as_well(make, gpu, libraries):
    libraries()
    selector = make(gpu_memory=gpu(64 * GIB))
    assert selector.decide(matmul(512)).device == "cpu"  # half a second of work, by the guess
    assert selector.decide(matmul(512, expected_calls=1000)).device == "cuda:0"


@pytest.mark.parametrize("switch", [{"disable_gpu": True}, {"enable_gpu": False}])
def test_2_the_gpu_can_be_switched_off(make, gpu, switch):
    selector = make(gpu_memory=gpu(64 * GIB), **({} if "enable_gpu" in switch else switch))
    selector._parts = selector._parts._replace(use_gpu=switch.get("enable_gpu", True))
    assert selector.decide(matmul(8192)).device == "cpu"


def test_2_a_torch_that_is_not_built_for_the_gpu_is_no_gpu_candidate(make, gpu, monkeypatch):
    from pointsman.executors import registry

    memory = gpu(64 * GIB)
    monkeypatch.setattr(registry.executor("torch"), "devices", lambda: ("cpu",))
    decision = make(gpu_memory=memory).decide(matmul(8192))
    assert decision.device == "cpu"
    assert dict(decision.excluded)["torch@cuda:0"] == "torch as installed here cannot use cuda:0"


def test_3_gradients_need_torch(make, gpu):
    for size in (10, 8192):
        assert make().select_backend(matmul(size, requires_gradient=True)) is BackendType.TORCH
    anything = WorkloadCharacteristics(operation_type="loss", data_size=10, requires_gradient=True)
    decision = make().decide(anything)
    assert decision.backend == "torch"
    assert set(decision.chain) == {"torch", "jax"}
    assert decision.reason == "a gradient is needed: torch differentiates"


@pytest.mark.parametrize("operation", ["fft", "matmul", "derivative"])
def test_4_mathematical_operations_go_to_jax_where_it_measures_faster(make, feed, operation):
    shapes = ((256, 256), (256, 256)) if operation == "matmul" else ((256, 256),)
    w = WorkloadCharacteristics(operation_type=operation, shapes=shapes, parameters={})
    without = make()
    assert without.decide(w).rule in ("default", "prior")
    assert without.select_backend(w) is BackendType.NUMPY
    feed(without, w, {"jax": 3e-3, "numpy": 1e-3})
    assert make().select_backend(w) is BackendType.NUMPY
    feed(without, w, {"jax": 1e-4, "numpy": 1e-3}, times=60)
    assert make().decide(w).rule == "learned"
    expects_many = w.model_copy(update={"expected_calls": 10_000})  # so that the compilation is repaid
    assert make().select_backend(expects_many) is BackendType.JAX


def test_5_it_learns_from_what_it_ran(make, workload, clock, monkeypatch):
    """Nothing is told: the outcomes come from `execute_with_monitoring` alone, on a scripted clock."""
    from pointsman.selector import monitor

    selector, w = make(explore=0), workload(10**5)
    now = [0.0]
    monkeypatch.setattr(monitor, "perf_counter", lambda: now[0])

    def run(backend: str) -> str:
        now[0] += {"numpy": 5e-3, "scipy": 1e-3}[backend]
        return backend

    for backend in ("numpy", "scipy") * 8:
        assert selector.execute_with_monitoring("s", backend, run, w) == backend
    selector.flush()
    assert selector.select_backend(w) is BackendType.SCIPY
    assert selector.decide(w).predicted_s == pytest.approx(1e-3, rel=0.05)


def test_6_gpu_memory_is_what_is_free_less_the_reserve(make, gpu, clock):
    """Inputs, outputs and workspace by dtype against free memory x (1 - reserve)."""
    need = 3 * 8 * 8192**2 / GIB  # 1.5 GiB for a, b and c in float64

    def device(free: float, reserve: float = 0.3, **fields: object) -> str:
        memory = gpu(int(free * GIB), reserve=reserve)
        return make(gpu_memory=memory).decide(matmul(8192, **fields)).device

    assert device(need / 0.7 * 1.01) == "cuda:0"
    assert device(need / 0.7 * 0.99) == "cpu"
    assert device(need * 1.01, reserve=0.0) == "cuda:0"
    assert device(need / 0.7 * 0.51, dtype="float32") == "cuda:0"
    excluded = dict(make(gpu_memory=gpu(GIB)).decide(matmul(8192)).excluded)
    assert excluded["torch@cuda:0"] == "it needs 1,536 MiB, cuda:0 has 717 MiB to spare"


def test_6_memory_is_read_once_a_minute_and_again_before_a_large_workspace(make, gpu, clock):
    memory = gpu(8 * GIB, clock=clock)
    selector = make(gpu_memory=memory)
    selector.decide(matmul(64))
    selector._drop_tables()
    start = memory.fake.readings
    for _ in range(5):
        selector._drop_tables()
        selector.decide(matmul(64))
    assert memory.fake.readings == start
    selector.decide(matmul(8192))
    assert memory.fake.readings == start + 1
    clock.advance(61.0)
    selector._drop_tables()
    selector.decide(matmul(64))
    assert memory.fake.readings == start + 2


def test_6_a_gpu_that_cannot_be_asked_is_excluded_with_the_drivers_words(make, gpu):
    memory = gpu(8 * GIB)
    selector = make(gpu_memory=memory)
    selector.decide(matmul(64))
    memory.fake.free = -1
    decision = selector.decide(matmul(8192))
    assert decision.device == "cpu"
    assert "GPU is lost" in dict(decision.excluded)["torch@cuda:0"]


def test_7_the_convenience_form_shares_one_selector(libraries):
    libraries()
    assert select_optimal_backend is select_backend
    assert select_backend("matmul", (10, 10)) is BackendType.NUMPY
    assert select_backend("matmul", [10, 10]) is BackendType.NUMPY
    assert select_backend("mine", (10, 10), requires_gradient=True) is BackendType.TORCH
    assert select_backend("matmul", (10, 10), preferred_backend="jax") is BackendType.JAX
    assert select_backend("matmul", (10, 10)) is BackendType.NUMPY
    shared = shared_module.default_selector()
    w = WorkloadCharacteristics(operation_type="mine", data_shape=(10,))
    shared.record(w, "scipy", seconds=1.0, failure="driver")
    shared.record(w, "numpy", seconds=1.0, failure="driver")
    assert select_backend("mine", (10,)) not in ("numpy", "scipy")


def test_7_a_failure_reaches_the_convenience_form_at_once(libraries):
    shared = shared_module.default_selector()
    assert select_backend("mine", (10,)) is BackendType.NUMPY
    w = WorkloadCharacteristics(operation_type="mine", data_shape=(10,))
    shared.record(w, "numpy", seconds=1.0, failure="driver")
    assert select_backend("mine", (10,)) is not BackendType.NUMPY


def test_8_fallback_passes_the_next_backend_on(make, workload):
    """The earlier selector ran the same failing code again."""
    ran = []

    def run(backend: str) -> str:
        ran.append(backend)
        if backend == "torch":
            raise MemoryError("too big")
        return backend

    selector = make()
    chain = [BackendType.NUMPY]
    assert selector.execute_with_monitoring("s", "torch", run, workload(), fallback_backends=chain) == "numpy"
    assert ran == ["torch", "numpy"]


class Counting(dict):
    """Counts what is asked of it."""

    asked = 0

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)


def test_9_a_known_workload_costs_one_lookup(make, workload, monkeypatch):
    """No choice, no lock, no SQLite, no settings: each would raise here."""
    selector, w = make(), workload()
    known = selector.select_backend(w)
    selector._exact = Counting(selector._exact)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("not on the hot path")

    monkeypatch.setattr(Engine, "choose", forbidden)
    monkeypatch.setattr(Engine, "_choose", forbidden)
    monkeypatch.setattr(WorkloadCharacteristics, "__init__", forbidden)
    monkeypatch.setattr(settings, "current", forbidden)
    monkeypatch.setattr(selector, "_lock", None)
    monkeypatch.setattr(selector._engine.learner, "lock", None)
    monkeypatch.setattr(selector.history, "state", None)
    for _ in range(100):
        assert selector.select_backend(w) is known
    assert selector._exact.asked == 100


def test_9_a_known_shape_makes_no_model(make, monkeypatch):
    selector = make()
    known = selector.select("spectrogram", (100,))
    monkeypatch.setattr(WorkloadCharacteristics, "__init__", None)  # calling it would be a TypeError
    assert selector.select("spectrogram", (100,)) is known


def test_9_tables_stay_bounded(make, monkeypatch):
    monkeypatch.setattr(selector_module, "MOST_WORKLOADS", 50)
    monkeypatch.setattr(sites_module, "MOST_SITES", 50)
    selector = make()
    for n in range(500):
        selector.select("spectrogram", (n + 1,))
        selector.sites.of(WorkloadCharacteristics(operation_type="spectrogram", data_shape=(n + 1,)), "numpy")
    assert max(len(selector._exact), len(selector._short), len(selector.sites.known)) <= 50
