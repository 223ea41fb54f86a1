"""User code, checked by mypy --strict and never run: what a user's own annotations may rely on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, partialmethod
from typing import Any, assert_type

import numpy as np
import pointsman as pm

Array = np.ndarray[Any, np.dtype[np.float64]]


@pm.adaptive
def anomaly(x: Array, *, xp: Any = None) -> Array:
    return (x - xp.mean(x)) / xp.std(x)  # type: ignore[no-any-return]


@pm.adaptive(name="scaled", pure=True)
def scaled(x: Array, factor: float = 2.0, *, xp: Any = None) -> Array:
    return x * factor


@anomaly.variant("numba")
def loop(x: Array) -> Array:
    return x


class Station:
    @pm.adaptive
    def shifted(self, x: Array, offset: float = 0.0, *, xp: Any = None) -> Array:
        return x + offset

    @staticmethod
    @pm.adaptive
    def of_none(x: Array, *, xp: Any = None) -> Array:
        return x

    @property
    def mean(self) -> Array:
        return anomaly(sst)

    smooth = anomaly  # a class attribute
    warmer = partialmethod(shifted, offset=1.0)


sst = np.zeros((3, 4))
assert_type(anomaly(sst), Array)
assert_type(scaled(sst, 3.0), Array)
assert_type(scaled(sst, factor=3.0), Array)
assert_type(loop(sst), Array)
assert_type(anomaly.explain(sst), pm.Decision)
assert_type(scaled.bind(sst)(sst, 3.0), Array)
station = Station()
assert_type(station.shifted(sst), Array)
assert_type(station.shifted(sst, offset=2.0), Array)
assert_type(station.shifted.explain(sst), pm.Decision)
assert_type(station.shifted.bind(sst)(sst), Array)
assert_type(Station.shifted(station, sst), Array)
assert_type(Station.of_none(sst), Array)
assert_type(station.mean, Array)
assert_type(partial(scaled, factor=3.0)(sst), Array)
assert_type(list(map(station.shifted, [sst])), list[Array])
station.shifted(sst, offset="2")  # type: ignore[arg-type]
station.shifted()  # type: ignore[call-arg]
scaled(sst, "3")  # type: ignore[arg-type]
scaled()  # type: ignore[call-arg]

selector = pm.IntelligentBackendSelector(enable_learning=True)
workload = pm.WorkloadCharacteristics(
    operation_type="fft", data_size=1_000_000, data_shape=(1000, 1000), dtype="float64", parameters={"taps": 3}
)
pm.WorkloadCharacteristics.of("fft", sst, expected_calls=10)
pm.WorkloadCharacteristics(operation_type=3)  # type: ignore[arg-type]

decision = selector.decide(workload)
assert_type(decision, pm.Decision)
assert_type(decision.variant, str)
assert_type(decision.predicted_s, float | None)
backend = selector.select_backend(workload, preferred_backend=pm.BackendType.TORCH)
assert_type(backend, str)


def spectrum(backend: str) -> Array:
    return sst


assert_type(
    selector.execute_with_monitoring(
        operation_name="spectrum",
        backend=backend,
        func=spectrum,
        workload=workload,
        fallback_backends=[pm.BackendType.NUMPY, "scipy"],
    ),
    Array,
)
assert_type(selector.execute_with_monitoring("s", None, lambda: 3, workload, []), int)
assert_type(selector.execute_with_monitoring("s", "auto", {"numpy": lambda: 3.0}, workload), float)
PATHS: dict[str, Callable[[Array, int], Array]] = {"numpy": lambda x, taps: x, "torch": lambda x, taps: -x}
assert_type(selector.bind(workload, PATHS)(sst, 3), Array)
selector.bind(workload, PATHS)(sst)  # type: ignore[call-arg]
assert_type(selector.bind(workload, spectrum)(), Array)
assert_type(selector.bind(workload)(sst), Any)
with selector.measure(workload) as measured:
    assert_type(measured, str)
selector.record(workload, backend, seconds=0.012, failure=pm.Failure.TIMEOUT)
assert_type(selector.get_performance_summary(), dict[str, Any])
selector.reset_performance_history("fft")

assert_type(pm.select_backend("matmul", (1000, 1000), requires_gradient=False), str)
assert_type(pm.select_optimal_backend("matmul", (1000, 1000)), str)
with pm.use("torch"):
    pm.run("fft", sst)
    pm.bind("fft", sst)(sst)
    pm.chain("fft", anomaly, pm.step("matmul", sst))(sst)


def simulate(seed: int) -> float:
    return float(seed)


assert_type(pm.map(simulate, range(3)), list[float])
waves = pm.cwt(sst, 0.25, wavelet=("paul", 4))
assert_type(waves, pm.CwtResult)
assert_type(waves.periods, np.ndarray[Any, Any])
waves.inverse(periods=(2.0, 8.0))
assert_type(pm.xwt(sst, sst), pm.XwtResult)
assert_type(pm.wct(sst, sst, backend="numpy", J=30), pm.WctResult)
pm.cwt(sst, wavelet=6)  # type: ignore[arg-type]
results, info = pm.map(simulate, [1, 2], n_jobs=2, return_info=True)
assert_type(results, list[float])
assert_type(info.variant, str)
pm.map(simulate, ["a"])  # type: ignore[arg-type]
pm.configure(explore=0.0)
pm.convert(sst, to="torch")

try:
    pm.get_backend("cupy")
except pm.BackendUnavailableError as error:
    missing: ImportError = error


def draw(seed: np.random.SeedSequence, n: int) -> float:
    return float(np.random.default_rng(seed).random(n).mean())


assert_type(pm.run_monte_carlo(draw, 3, (10,), seed=1), list[float])
draws, about = pm.run_monte_carlo(draw, 3, (10,), on_error="collect", return_info=True)
assert_type(draws, list[float | pm.FailedSimulation])
assert_type(about.seed, int | tuple[int, ...])
assert_type(pm.replay(draw, about.seed, 2, (10,)), float)
null = pm.wct_significance(sst, 0.5, 1.0, J=30, mc_count=10, seed=1, n_jobs=2)
assert_type(null, pm.WctSignificance)
assert_type(null.global_level, float)
assert_type(pm.cwt_significance(sst, 0.25, waves.scales, test="time"), pm.CwtSignificance)
assert_type(pm.ar1(sst), pm.AR1)
pm.phase_randomize(pm.ar1_surrogate(100, 0.5, np.random.default_rng(0), size=3))
pm.wct_significance(sst)  # type: ignore[call-arg]
