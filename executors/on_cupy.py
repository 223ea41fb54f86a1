"""CuPy: NumPy's functions on NVIDIA GPUs.

It computes on GPUs only, so without one it is of no use however well it is installed; `unusable` says which part is
missing, from what is installed and what the driver says, without importing it. Its wheels are built for one CUDA each:
cupy-cuda13x needs a driver for CUDA 13, cupy-cuda12x one for CUDA 12 or newer. Neither contains CUDA's libraries: they
come from a CUDA toolkit, from torch's CUDA build or with ``pip install 'cupy-cuda13x[ctk]'``.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from ..telemetry import hardware
from ..telemetry.outcome import Failure
from .base import Capabilities, Executor, Variant
from .errors import BackendUnavailableError, UnsupportedError
from .on_numpy import FLOATS, INTEGERS

_WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")  # "cupy": built from source, for whatever CUDA

# Classes of CuPy's own; the libraries' ones are imported when first used, so they are told by name and module.
_OWN_ERRORS = re.compile(r"(CUDA\w*|CUBLAS|CUSOLVER|CuSparse|CURAND|CuFFT|CuTensor|NVRTC)Error")
_WORDINGS = (
    (Failure.OUT_OF_MEMORY, re.compile(r"MemoryAllocation|OUT_OF_MEMORY|ALLOC_FAILED")),
    (Failure.UNAVAILABLE, re.compile(r"InsufficientDriver|NoDevice|NO_DEVICE|InvalidDevice|StubLibrary")),
)
_NUMPY_MIXED_IN = re.compile(r"Implicit conversion to a NumPy array|Unsupported type <class 'numpy\.ndarray'>")
_NO_LIBRARY = re.compile(
    r"lib(cublas|cufft|curand|cusolver|cusparse|nvrtc)\S*: cannot open|CuPy failed to load lib|CUDA path could"
)


class CupyExecutor(Executor):
    """Runs functions on CuPy arrays, on their device."""

    name = "cupy"
    kind = "cupy"
    install = "for CUDA 13; where the driver is for CUDA 12: pip install cupy-cuda12x"
    capabilities = Capabilities(dtypes=INTEGERS | FLOATS | {"bool", "float16"}, devices=("cuda",), asynchronous=True)

    def __init__(self) -> None:
        self._started = False  # whether CUDA has been started, as asking CuPy's pools would do
        self._answers: dict[str | None, str | None] = {}  # visible devices -> why not; asked for every new workload

    def unusable(self) -> str | None:
        """None, or which of wheel, driver, device and CUDA version is missing or does not fit."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible not in self._answers:
            self._answers[visible] = _why_not(visible)
        return self._answers[visible]

    def devices(self) -> tuple[str, ...]:
        """The GPUs that NVML names, where CuPy can use them; never the host."""
        return () if self.unusable() else tuple(f"cuda:{gpu.index}" for gpu in hardware.gpus())

    def version(self) -> str:
        """Version of the wheel, whichever it is."""
        return next(iter(_installed().values()), "")

    def probe(self) -> None:
        """Sum squares on the GPU: compiles a loop, so that CUDA's compiler is found too."""
        import cupy

        x = cupy.arange(5.0)
        found = float((x * x).sum())
        if found != 30.0:
            raise BackendUnavailableError(f"the sum of the squares of 0..4 came out as {found}, not 30.0")
        self._started = True

    def namespace(self) -> Any:
        """`array_api_compat.cupy`."""
        import array_api_compat.cupy as xp

        return xp

    def owns(self, x: object) -> bool:
        """Whether `x` is a CuPy array."""
        return isinstance(x, getattr(sys.modules.get("cupy"), "ndarray", ()))

    def convert_in(self, x: Any, device: str = "cuda:0") -> Any:
        """Give `x` as a CuPy array on `device`: itself where it lies there, else a copy."""
        import cupy

        index = _index(device)
        if isinstance(x, np.ndarray):
            if x.dtype.name not in self.capabilities.dtypes:
                raise UnsupportedError(self.refuses(x.dtype.name))
            with cupy.cuda.Device(index):
                return cupy.asarray(x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("=")))
        if isinstance(x, cupy.ndarray):
            if x.device.id == index:
                return x
            with cupy.cuda.Device(index):
                return x.copy()  # to the device that is current
        from .conversion import across

        return across(x, self, device)

    def from_dlpack(self, x: Any) -> Any:
        """A CuPy array on the GPU where `x` lies; a copy, because a write to either must not show in the other."""
        import cupy

        shared = cupy.from_dlpack(x)
        with shared.device:
            return shared.copy()

    def convert_out(self, y: Any) -> np.ndarray[Any, Any]:
        """Give the array as a NumPy copy; waits for the work that makes it."""
        array: np.ndarray[Any, Any] = y.get()
        return array

    def astype(self, x: Any, dtype: str) -> Any:
        """Give the array in the dtype of that name."""
        if dtype not in self.capabilities.dtypes:
            raise UnsupportedError(self.refuses(dtype))
        with x.device:
            return x.astype(dtype, copy=False)

    def synchronize(self, y: Any) -> None:
        """Wait for the devices on which arrays of `y` lie; without any, for the current one."""
        cupy = sys.modules["cupy"]
        from .conversion import map_leaves

        found: dict[int, Any] = {}

        def note(leaf: Any) -> None:
            if isinstance(leaf, cupy.ndarray):
                found[leaf.device.id] = leaf.device

        map_leaves(note, y)
        for device in found.values() or (cupy.cuda.Device(),):
            device.synchronize()

    def prepare(self, function: Callable[..., Any], variant: Variant) -> Callable[..., Any]:
        """Run on the variant's device: CuPy refuses arrays of another device than the current one."""
        import cupy

        index, current = _index(variant.device), cupy.cuda.Device

        @functools.wraps(function)
        def on_device(*args: Any, **kwargs: Any) -> Any:
            with current(index):
                return function(*args, **kwargs)

        return on_device

    def classify(self, error: BaseException) -> Failure | None:
        """Read CuPy's error classes; code that mixes in NumPy's arrays cannot run here."""
        kind, text = type(error), str(error)
        if kind.__module__.startswith("cupy") and not isinstance(error, MemoryError):
            if kind.__name__ == "CompileException":
                return Failure.UNSUPPORTED
            if _OWN_ERRORS.fullmatch(kind.__name__):
                return next((failure for failure, wording in _WORDINGS if wording.search(text)), Failure.DRIVER)
        if isinstance(error, ImportError | RuntimeError) and _NO_LIBRARY.search(text):
            return Failure.UNAVAILABLE
        if isinstance(error, TypeError) and _NUMPY_MIXED_IN.search(text):
            return Failure.UNSUPPORTED
        return super().classify(error)

    def free_caches(self) -> None:
        """Give the memory of CuPy's pools and FFT plans back to the devices and the system."""
        if not self._started:
            return
        cupy = sys.modules["cupy"]
        for gpu in hardware.gpus():
            with cupy.cuda.Device(gpu.index):
                cupy.fft.config.get_plan_cache().clear()
                cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def reusable_bytes(self, device: str) -> int:
        """Bytes of CuPy's pool on `device` that no array uses."""
        if device == "cpu" or not self._started:
            return 0
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(_index(device)):
            return int(cupy.get_default_memory_pool().free_bytes())


def _index(device: str) -> int:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        raise UnsupportedError(f"cupy has arrays on GPUs only, not on {device!r}; ask for device='cuda:0'")
    return int(index or 0)


def _installed() -> dict[str, str]:
    """Versions of the wheels that are installed; without importing any."""
    found = {}
    for wheel in _WHEELS:
        try:
            found[wheel] = metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
    return found


def _why_not(visible: str | None) -> str | None:
    wheels = _installed()
    if len(wheels) > 1:
        return f"{' and '.join(wheels)} are installed over each other; uninstall both, then install the one that fits"
    name = next(iter(wheels), "cupy")
    nvml = hardware.driver()
    if nvml is None:
        return f"{name} is installed, but this machine has no NVIDIA driver; it needs an NVIDIA GPU and its driver"
    if visible in ("", "-1"):
        return f"{name} is installed, but CUDA_VISIBLE_DEVICES={visible} hides every GPU; unset it"
    built, offered = _built_for(name), _offered(nvml)
    if isinstance(offered, str):
        return f"{name} is installed, but the NVIDIA driver does not answer: {offered}"
    if not hardware.gpus():
        hidden = "" if visible is None else f" among CUDA_VISIBLE_DEVICES={visible}"
        return f"{name} is installed, but the NVIDIA driver names no GPU{hidden}"
    if built is not None and offered[0] < built:
        other = f", or: pip uninstall {name}; pip install cupy-cuda{offered[0]}x" if offered[0] >= 12 else ""
        return (
            f"{name} is installed, but it needs a driver for CUDA {built} and this one is for CUDA "
            f"{offered[0]}.{offered[1]}; update the driver{other}"
        )
    return None


def _built_for(wheel: str) -> int | None:
    """Major version of the CUDA that a wheel is for; None where its name does not tell."""
    found = re.search(r"cuda(\d+)x", wheel)
    return None if found is None else int(found.group(1))


def _offered(nvml: Any) -> tuple[int, int] | str:
    """The newest CUDA that the driver can run, as (major, minor); or what it answers instead."""
    try:
        nvml.nvmlInit()
        version = int(nvml.nvmlSystemGetCudaDriverVersion())
    except nvml.NVMLError as error:
        return str(error)
    return version // 1000, version % 1000 // 10


EXECUTOR = CupyExecutor
