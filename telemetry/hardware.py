"""What this machine has: processor, memory, GPUs, and which of it this process may use."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .memory import cgroup_files, read_text


@dataclass(frozen=True)
class Gpu:
    """One GPU as CUDA programs see it.

    Attributes
    ----------
    index : its number for CUDA, that is the 0 of "cuda:0", after CUDA_VISIBLE_DEVICES.
    name, uuid : as the driver gives them.
    memory_gib : all its memory, in GiB.
    """

    index: int
    name: str
    memory_gib: float
    uuid: str


def gpus(nvml: Any = None) -> tuple[Gpu, ...]:
    """The GPUs that this process may use; empty without a driver, a device, or a readable one.

    ``CUDA_VISIBLE_DEVICES`` is honoured. No GPU library is loaded; with `nvml` None, `pynvml` is, where a driver is
    present. CUDA numbers unequal GPUs by speed unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``; here they stand in bus order.

    Parameters
    ----------
    nvml : a module that looks like pynvml, for tests.
    """
    return tuple(gpu for gpu, _ in visible_gpus(nvml))


def visible_gpus(nvml: Any = None) -> list[tuple[Gpu, Any]]:
    """As `gpus`, each with its NVML handle."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    nvml = nvml or driver()
    if nvml is None:
        return []
    found = []
    for index, handle in enumerate(_visible(nvml, _handles(nvml), os.environ.get("CUDA_VISIBLE_DEVICES"))):
        try:
            total = nvml.nvmlDeviceGetMemoryInfo(handle).total
            name, uuid = _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle))
        except nvml.NVMLError:
            break  # a device that cannot be asked cannot be used, and CUDA numbers no device after it
        found.append((Gpu(index, name, total / 2**30, uuid), handle))
    return found


def driver() -> Any:
    """`pynvml`, where an NVIDIA driver is present; None elsewhere. Loads nothing on a Linux machine without one."""
    traces = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
    if sys.platform == "linux" and not any(map(os.path.exists, traces)):
        return None
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def usable_cores() -> int:
    """Processor cores that this process may use: affinity and cgroup quota considered, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for text in cgroup_files("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            cores = min(cores, -(-int(quota) // int(period)))
    return max(cores, 1)


def describe(nvml: Any = None) -> dict[str, Any]:
    """The machine as JSON-able data: cpu, cores (usable here), memory_gib, gpus, os, python."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "gpus": [asdict(gpu) for gpu in gpus(nvml)],
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


@cache
def fingerprint() -> str:
    """Twelve hex digits that name this host: a home folder may be shared by many.

    Which of the GPUs a process may see does not change it.
    """
    facts = (
        _cpu_model(),
        str(os.cpu_count()),
        str(round(_memory_bytes() / 2**30)),
        *_gpu_names(),
        platform.machine(),
        socket.gethostname(),
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _handles(nvml: Any) -> list[Any]:
    try:
        nvml.nvmlInit()
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:  # no library, no driver, no permission: no GPU
        return []


def _visible(nvml: Any, handles: list[Any], wanted: str | None) -> list[Any]:
    """The devices that CUDA_VISIBLE_DEVICES names, in its order, up to the first that does not exist (as CUDA does)."""
    if wanted is None:
        return handles
    chosen: list[Any] = []
    for entry in (part.strip() for part in wanted.split(",")):
        handle = None
        if entry.isdigit():
            handle = handles[int(entry)] if int(entry) < len(handles) else None
        elif entry.startswith(("GPU-", "MIG-")):
            handle = _by_uuid(nvml, handles, entry)
        if handle is None or handle in chosen:
            break
        chosen.append(handle)
    return chosen


def _by_uuid(nvml: Any, handles: list[Any], prefix: str) -> Any:
    try:
        for handle in handles:
            if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(prefix):
                return handle
        return nvml.nvmlDeviceGetHandleByUUID(prefix) if prefix.startswith("MIG-") else None
    except nvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)  # older NVML bindings give bytes


def _gpu_names() -> list[str]:
    folder = Path("/proc/driver/nvidia/gpus")
    if folder.is_dir():  # much faster than NVML, which takes a tenth of a second to start
        texts = [read_text(str(path)) or "" for path in sorted(folder.glob("*/information"))]
        return [line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line[:5] == "Model"]
    nvml = driver()
    if nvml is None:
        return []
    try:
        return [_text(nvml.nvmlDeviceGetName(handle)) for handle in _handles(nvml)]
    except nvml.NVMLError:
        return []


def _cpu_model() -> str:
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    import psutil

    return int(psutil.virtual_memory().total)
