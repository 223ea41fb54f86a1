"""The table of backends: one line per member, in canonical order. Listings, tests and docs derive from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Row(NamedTuple):
    """Where a backend is found and what its user must install."""

    module: str  # module of this folder that holds `EXECUTOR`, the Executor subclass
    extra: str  # extra of the package that installs it; "" where the base install has it
    hint: str  # one line for listings
    library: str  # import name, looked up without importing
    import_s: float  # typical seconds of a first import and check; measured on two cores, replaced once measured here


# fmt: off
BACKENDS: Mapping[str, Row] = {
    "numpy": Row("on_numpy", "", "the base install; no overhead, best for small work", "numpy", 0.0),
    "scipy": Row("on_scipy", "scipy", "FFTs with threads and float32, filters, on NumPy arrays", "scipy", 0.35),
    "numba": Row("on_numba", "numba", "compiled loops on NumPy arrays; compiles per dtype", "numba", 0.6),
    "torch": Row("on_torch", "torch", "threads, gradients, GPUs", "torch", 2.5),
    "jax": Row("on_jax", "jax", "fused by XLA, gradients, GPUs; compiles per shape", "jax", 1.2),
    "cupy": Row("on_cupy", "cupy", "NumPy's functions on NVIDIA GPUs", "cupy", 0.7),
    "fftw": Row("on_fftw", "fftw", "FFTs by kept plans, with threads; its wheel holds FFTW (GPL)", "pyfftw", 0.4),
    "sequential": Row("on_sequential", "", "maps in a plain loop; no overhead, best for short runs", "", 0.0),
    "threads": Row("on_threads", "", "maps on threads, for workers that release the interpreter lock or wait", "", 0.0),
    "joblib": Row("on_joblib", "joblib", "maps on threads or warm worker processes", "joblib", 0.25),
    "mpi": Row("on_mpi", "mpi", "maps on the ranks of an MPI job, here or on a cluster", "mpi4py", 0.05),
    "gpu": Row("on_gpu", "", "vectorised Monte Carlo in batches; on the CPU where there is no GPU", "", 0.0),
}
# fmt: on


class BackendType(StrEnum):
    """Names of backends; one without an executor in this version is legal here and refused, by name, on use."""

    AUTO = "auto"
    NUMPY = "numpy"
    SCIPY = "scipy"
    NUMBA = "numba"
    TORCH = "torch"
    JAX = "jax"
    CUPY = "cupy"
    FFTW = "fftw"
    SEQUENTIAL = "sequential"
    THREADS = "threads"
    JOBLIB = "joblib"
    DASK = "dask"
    RAY = "ray"
    MPI = "mpi"
    GPU = "gpu"
    STAN = "stan"
