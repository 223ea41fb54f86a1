"""A selector that runs on no hardware, by a clock that stands still, and what feeds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anomalies import plain_anomaly
from chains import double, filtering, multiply, shift, teach, teach_moves  # noqa: F401 - fixtures
from clocks import Clock
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.breaker import Breakers
from pointsman.selector import operations
from pointsman.selector.adaptive import adaptive
from pointsman.selector.costs import Curves
from pointsman.selector.dispatch import Dispatcher
from pointsman.selector.lock import Lock, Pin
from pointsman.selector.operations import Operation
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.history import History
from pointsman.telemetry.memory import GpuMemory
from pointsman.telemetry.outcome import Outcome

GIB = 2**30


class FakeNvml:
    """pynvml with one GPU, or none."""

    class NVMLError(Exception):
        pass

    def __init__(self, free: int | None) -> None:
        self.free = free
        self.readings = 0

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 0 if self.free is None else 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Fake 80"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return "GPU-fake"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self.readings += 1
        if self.free is None or self.free < 0:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(free=self.free, total=80 * GIB)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(None, background=False, clock=clock, monotonic=clock)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which libraries count as imported; without a call, what the test process happens to have."""

    def imported(*names: str) -> None:
        monkeypatch.setattr(registry, "imported", lambda name: name == "numpy" or name in names)
        monkeypatch.setattr(registry, "import_cost_s", lambda name: registry.row(name).import_s)

    return imported


@pytest.fixture
def all_imported(libraries: Callable[..., None]) -> None:
    libraries("scipy", "numba", "torch", "jax")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., GpuMemory]:
    """Pretend to have one GPU with so much free memory, and a torch that is built for it; None: no GPU."""

    def pretend(free: int | None, *, clock: Callable[[], float] | None = None, **options: Any) -> GpuMemory:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        nvml = FakeNvml(free)
        torch = registry.executor("torch")
        monkeypatch.setattr(torch, "devices", lambda: ("cpu",) if free is None else ("cpu", "cuda:0"))
        memory = GpuMemory(nvml, clock=clock or Clock(), **options)
        memory.fake = nvml  # type: ignore[attr-defined]
        return memory

    return pretend


@pytest.fixture
def make(history: History, clock: Clock, gpu: Callable[..., GpuMemory]) -> Callable[..., IntelligentBackendSelector]:
    """A selector on `history`; settings by name (`explore=0`), everything else by the selector's own arguments."""

    def build(
        enable_learning: bool = True, *, history: History = history, gpu_memory: GpuMemory | None = None,
        host: int = 64 * GIB, settings: Settings | None = None, **changes: Any,
    ) -> IntelligentBackendSelector:  # fmt: skip
        return IntelligentBackendSelector(
            enable_learning,
            history=history,
            settings=settings or Settings().updated(**changes),
            gpu_memory=gpu_memory or gpu(None),
            host_budget=lambda: host,
            breakers=Breakers(clock),
            costs=Curves(history.state, priors={}) if enable_learning else None,
        )

    return build


@pytest.fixture
def feed(clock: Clock) -> Callable[..., list[Outcome]]:
    """Record what backends took for a workload, one second apart, and learn from it."""

    def outcomes(
        selector: IntelligentBackendSelector, workload: WorkloadCharacteristics,
        seconds: Mapping[str, float | Sequence[float]], times: int = 8, **fields: Any,
    ) -> list[Outcome]:  # fmt: skip
        made = []
        for backend, taken in seconds.items():
            for value in taken if isinstance(taken, Sequence) else [taken] * times:
                clock.advance(1.0)
                made.append(Outcome(selector.sites.of(workload, backend), clock(), value, **fields))
        for outcome in made:
            selector.history.record(outcome)
        selector.history.flush()
        return made

    return outcomes


@pytest.fixture(autouse=True)
def _operations_as_found() -> Iterator[None]:
    before = dict(operations._DECLARED)
    yield
    operations._DECLARED.clear()
    operations._DECLARED.update(before)
    operations._KNOWN.clear()


@pytest.fixture
def operation() -> Callable[..., Operation]:
    """Register an operation whose variants are functions of NumPy arrays: ``operation("toy", plain=f, other=g)``.

    The first is the default.
    """

    def register(name: str, /, *, protected: bool = False, **functions: Any) -> Operation:
        made = Operation(
            name=name,
            variants=tuple(Variant(label, "numpy", lambda f=f: f, compiles="never") for label, f in functions.items()),
            protected=protected,
        )
        operations.register_operation(made)
        return made

    return register


@pytest.fixture
def toy(make: Callable[..., IntelligentBackendSelector], operation: Callable[..., Operation]) -> Callable[..., Any]:
    """`toy(plain=f, other=g)`: (dispatcher, selector) of an operation; the selector's settings by `options=`."""

    def build(
        *, rerun: bool = True, options: dict[str, Any] | None = None, **functions: Any
    ) -> tuple[Dispatcher, IntelligentBackendSelector]:
        selector = make(**(options or {"explore": 0}))
        made = Dispatcher(operation("toy", **functions), selector._engine, rerun=rerun)
        selector.adopt(made)
        return made, selector

    return build


@pytest.fixture
def locked(tmp_path: Path) -> Callable[..., str]:
    """Write a lock: ``locked(("spectrogram", "float64", "20", "", "torch"))``; gives its path."""

    def write(*choices: tuple[str, str, str, str, str]) -> str:
        path = tmp_path / "test.lock.json"
        path.write_text(Lock(tuple(Pin(*choice) for choice in choices)).text())
        return str(path)

    return write


@pytest.fixture
def workload() -> Callable[..., WorkloadCharacteristics]:
    """`workload(1000)`: a workload of so many elements; fields by name."""

    def of(size: int = 1000, operation: str = "spectrogram", **fields: Any) -> WorkloadCharacteristics:
        return WorkloadCharacteristics(operation_type=operation, data_size=size, **fields)

    return of


@pytest.fixture
def selector(make):
    return make(explore=0)


@pytest.fixture
def anomaly(selector):
    return adaptive(selector=selector, name="anomaly")(plain_anomaly)
