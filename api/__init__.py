"""pointsman: choose the fastest Python backend for a workload, from what this very machine has taught.

Public names load on first use; `import pointsman` loads no backend but numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pointsman.cli_start as _cli_start  # noqa: F401 - before the imports that take time
import pointsman.kernels as _kernels  # noqa: F401 - announces the built-in operations by name; loads none of them

if TYPE_CHECKING:
    from pointsman.executors.base import Capabilities, Executor, Variant
    from pointsman.executors.conversion import convert
    from pointsman.executors.errors import (
        BackendUnavailableError,
        NoCandidateError,
        PointsmanError,
        RunTimeoutError,
        UnsupportedError,
    )
    from pointsman.executors.monte_carlo_backend import MonteCarloBackend
    from pointsman.executors.opencl import OpenCLWorker
    from pointsman.executors.registry import (
        get_backend,
        list_backends,
        print_backend_info,
        register_backend,
    )
    from pointsman.executors.table import BackendType
    from pointsman.kernels import draws as draws
    from pointsman.kernels import reducers as reducers
    from pointsman.kernels.calibrate import calibrate
    from pointsman.kernels.checkpoint_file import CheckpointError
    from pointsman.kernels.coherence_significance import WctSignificance, wct_significance
    from pointsman.kernels.map import map as map
    from pointsman.kernels.monte_carlo import (
        replay,
        run_monte_carlo,
    )
    from pointsman.kernels.monte_carlo_info import MonteCarloInfo
    from pointsman.kernels.recommended import get_recommended_backend
    from pointsman.kernels.red_noise import AR1, ar1, ar1_surrogate, phase_randomize
    from pointsman.kernels.run import bind, run
    from pointsman.kernels.simulations import FailedSimulation
    from pointsman.kernels.wavelet_significance import CwtSignificance, cwt_significance
    from pointsman.kernels.wavelet_transforms import CwtResult, WctResult, XwtResult, cwt, wct, xwt
    from pointsman.selector.adaptive import adaptive
    from pointsman.selector.chain import chain
    from pointsman.selector.decision import Decision
    from pointsman.selector.operations import Operation, register_operation
    from pointsman.selector.pinning import export_lock
    from pointsman.selector.portable import Portable
    from pointsman.selector.selector import IntelligentBackendSelector
    from pointsman.selector.settings import configure, use
    from pointsman.selector.shared import (
        default_selector,
        flush,
        select_backend,
        select_optimal_backend,
    )
    from pointsman.selector.steps import step
    from pointsman.selector.warmup import warmup
    from pointsman.selector.workload import WorkloadCharacteristics
    from pointsman.telemetry.history import HistoryWarning
    from pointsman.telemetry.outcome import Failure

__version__ = "0.1.0"

__all__ = [
    "AR1",
    "BackendType",
    "BackendUnavailableError",
    "Capabilities",
    "CheckpointError",
    "CwtResult",
    "CwtSignificance",
    "Decision",
    "Executor",
    "FailedSimulation",
    "Failure",
    "HistoryWarning",
    "IntelligentBackendSelector",
    "MonteCarloBackend",
    "MonteCarloInfo",
    "NoCandidateError",
    "OpenCLWorker",
    "Operation",
    "PointsmanError",
    "Portable",
    "RunTimeoutError",
    "UnsupportedError",
    "Variant",
    "WctResult",
    "WctSignificance",
    "WorkloadCharacteristics",
    "XwtResult",
    "adaptive",
    "ar1",
    "ar1_surrogate",
    "bind",
    "calibrate",
    "chain",
    "configure",
    "convert",
    "cwt",
    "cwt_significance",
    "default_selector",
    "draws",
    "export_lock",
    "flush",
    "get_backend",
    "get_recommended_backend",
    "list_backends",
    "phase_randomize",
    "print_backend_info",
    "reducers",
    "register_backend",
    "register_operation",
    "replay",
    "run",
    "run_monte_carlo",
    "select_backend",
    "select_optimal_backend",
    "step",
    "use",
    "warmup",
    "wct",
    "wct_significance",
    "xwt",
]

_HOMES = {
    "AR1": "kernels.red_noise",
    "BackendType": "executors.table",
    "BackendUnavailableError": "executors.errors",
    "Capabilities": "executors.base",
    "CheckpointError": "kernels.checkpoint_file",
    "CwtResult": "kernels.wavelet_transforms",
    "CwtSignificance": "kernels.wavelet_significance",
    "Decision": "selector.decision",
    "Executor": "executors.base",
    "FailedSimulation": "kernels.simulations",
    "Failure": "telemetry.outcome",
    "HistoryWarning": "telemetry.history",
    "IntelligentBackendSelector": "selector.selector",
    "MonteCarloBackend": "executors.monte_carlo_backend",
    "MonteCarloInfo": "kernels.monte_carlo_info",
    "NoCandidateError": "executors.errors",
    "OpenCLWorker": "executors.opencl",
    "Operation": "selector.operations",
    "PointsmanError": "executors.errors",
    "Portable": "selector.portable",
    "RunTimeoutError": "executors.errors",
    "UnsupportedError": "executors.errors",
    "Variant": "executors.base",
    "WctResult": "kernels.wavelet_transforms",
    "WctSignificance": "kernels.coherence_significance",
    "WorkloadCharacteristics": "selector.workload",
    "XwtResult": "kernels.wavelet_transforms",
    "adaptive": "selector.adaptive",
    "ar1": "kernels.red_noise",
    "ar1_surrogate": "kernels.red_noise",
    "bind": "kernels.run",
    "calibrate": "kernels.calibrate",
    "chain": "selector.chain",
    "configure": "selector.settings",
    "convert": "executors.conversion",
    "cwt": "kernels.wavelet_transforms",
    "cwt_significance": "kernels.wavelet_significance",
    "default_selector": "selector.shared",
    "draws": "kernels.draws",
    "export_lock": "selector.pinning",
    "flush": "selector.shared",
    "get_backend": "executors.registry",
    "get_recommended_backend": "kernels.recommended",
    "list_backends": "executors.registry",
    "map": "kernels.map",  # not in __all__: a star import must not replace Python's own
    "phase_randomize": "kernels.red_noise",
    "print_backend_info": "executors.registry",
    "reducers": "kernels.reducers",  # the module itself
    "register_backend": "executors.registry",
    "register_operation": "selector.operations",
    "replay": "kernels.monte_carlo",
    "run": "kernels.run",
    "run_monte_carlo": "kernels.monte_carlo",
    "select_backend": "selector.shared",
    "select_optimal_backend": "selector.shared",
    "step": "selector.steps",
    "use": "selector.settings",
    "warmup": "selector.warmup",
    "wct": "kernels.wavelet_transforms",
    "wct_significance": "kernels.coherence_significance",
    "xwt": "kernels.wavelet_transforms",
}
_MODULES = frozenset({"draws", "reducers"})


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pointsman' has no attribute {name!r}; public names: {', '.join(_HOMES)}")
    module = importlib.import_module(f"pointsman.{home}")
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_HOMES, "__version__"})
