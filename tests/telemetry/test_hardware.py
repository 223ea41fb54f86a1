"""What the machine has, told by faked drivers, files and counters."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from pointsman.telemetry import hardware
from pointsman.telemetry.load import LoadMeter
from pointsman.telemetry.memory import GpuMemory, host_budget_bytes

GIB = 2**30


class NVMLError(Exception):
    """As in pynvml: no subclass of RuntimeError or OSError."""


class FakeNvml:
    """pynvml in all shapes: `devices` are (name, uuid, total GiB, free GiB); `broken` names the failing call."""

    NVMLError = NVMLError

    def __init__(self, *devices, broken: str = "", as_bytes: bool = False) -> None:
        self.devices = list(devices)
        self.broken, self.as_bytes = broken, as_bytes
        self.reads = 0

    def _maybe(self, call: str) -> None:
        if call == self.broken:
            raise NVMLError(f"{call} failed")

    def nvmlInit(self):
        self._maybe("init")

    def nvmlDeviceGetCount(self):
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        name = self.devices[handle][0]
        return name.encode() if self.as_bytes else name

    def nvmlDeviceGetUUID(self, handle):
        return self.devices[handle][1]

    def nvmlDeviceGetMemoryInfo(self, handle):
        self._maybe("memory")
        self.reads += 1
        _, _, total, free = self.devices[handle]
        return SimpleNamespace(total=total * GIB, free=free * GIB)


TWO = (("H100", "GPU-aa11", 80, 60), ("T4", "GPU-bb22", 16, 8))


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_two_devices_are_found():
    assert hardware.gpus(FakeNvml(*TWO)) == (
        hardware.Gpu(0, "H100", 80.0, "GPU-aa11"),
        hardware.Gpu(1, "T4", 16.0, "GPU-bb22"),
    )
    assert hardware.gpus(FakeNvml(*TWO, as_bytes=True))[0].name == "H100"  # as older bindings answer


@pytest.mark.parametrize(
    "nvml",
    [FakeNvml(*TWO, broken="init"), FakeNvml(), FakeNvml(*TWO, broken="memory")],
    ids=["library", "none", "read"],
)
def test_no_library_no_device_and_a_broken_driver_are_no_gpu(nvml):
    assert hardware.gpus(nvml) == ()
    memory = GpuMemory(nvml)
    assert memory.devices() == ()
    with pytest.raises(LookupError, match=r"'cuda:0'.*usable here: none"):
        memory.budget_bytes("cuda:0")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", []),
        ("-1", []),
        ("1", ["T4"]),
        ("1,0", ["T4", "H100"]),
        ("GPU-bb", ["T4"]),
        ("0,-1,1", ["H100"]),
        ("0,7,1", ["H100"]),
        ("1,1", ["T4"]),
    ],
)
def test_cuda_visible_devices_is_honoured_in_its_order_up_to_the_first_that_is_none(monkeypatch, value, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    found = hardware.gpus(FakeNvml(*TWO))
    assert [gpu.name for gpu in found] == names
    assert [gpu.index for gpu in found] == list(range(len(names)))


def test_the_budget_is_of_the_device_that_cuda_would_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert GpuMemory(FakeNvml(*TWO), reserve=0.5).budget_bytes("cuda:0") == 4 * GIB


def test_a_gpu_budget_is_free_memory_plus_the_own_pool_less_the_reserve():
    memory = GpuMemory(FakeNvml(*TWO))
    assert memory.devices() == ("cuda:0", "cuda:1")
    assert memory.budget_bytes("cuda:0") == int(60 * GIB * 0.7)
    assert memory.budget_bytes("cuda:0", reusable=20 * GIB) == int(80 * GIB * 0.7)
    with pytest.raises(LookupError, match="cuda:0, cuda:1"):
        memory.budget_bytes("cuda:2")
    with pytest.raises(ValueError, match=r"\[0, 1\).*1\.5"):
        GpuMemory(reserve=1.5)


def test_a_gpu_is_asked_at_most_once_a_minute_or_when_told_to():
    now, nvml = [0.0], FakeNvml(("T4", "GPU-bb22", 16, 8))
    memory = GpuMemory(nvml, clock=lambda: now[0], reserve=0.0)
    memory.devices()
    before = nvml.reads
    memory.budget_bytes("cuda:0")
    nvml.devices[0] = ("T4", "GPU-bb22", 16, 2)
    now[0] = 59.0
    assert memory.budget_bytes("cuda:0") == 8 * GIB
    assert nvml.reads == before + 1
    now[0] = 60.0
    assert memory.budget_bytes("cuda:0") == 2 * GIB
    nvml.devices[0] = ("T4", "GPU-bb22", 16, 1)
    assert memory.refresh("cuda:0") == memory.budget_bytes("cuda:0") == GIB


def test_a_device_that_stops_answering_is_an_error_and_never_an_old_number():
    now, nvml = [0.0], FakeNvml(*TWO)
    memory = GpuMemory(nvml, clock=lambda: now[0])
    memory.budget_bytes("cuda:0")
    nvml.broken, now[0] = "memory", 100.0
    for _ in range(2):
        with pytest.raises(LookupError, match="memory failed"):
            memory.budget_bytes("cuda:0")


def test_no_reading_is_ever_infinite():
    assert math.isfinite(host_budget_bytes())
    assert 0 < host_budget_bytes() <= host_budget_bytes(reserve=0.0)


def test_the_host_budget_is_the_least_of_the_system_and_every_cgroup_around_us():
    table = {
        "/proc/self/cgroup": "0::/user/job\n",
        "/sys/fs/cgroup/user/job/memory.max": "max\n",
        "/sys/fs/cgroup/user/job/memory.current": "1\n",
        "/sys/fs/cgroup/user/memory.max": f"{4 * GIB}\n",
        "/sys/fs/cgroup/user/memory.current": f"{3 * GIB}\n",
        "/sys/fs/cgroup/user/memory.stat": f"anon 5\ninactive_file {GIB}\n",
    }
    assert host_budget_bytes(0.5, available=lambda: 100 * GIB, read=table.get) == GIB
    assert host_budget_bytes(0.5, available=lambda: GIB, read=table.get) == GIB // 2
    table["/sys/fs/cgroup/user/memory.current"] = f"{6 * GIB}"  # over the limit: nothing, and not less than nothing
    assert host_budget_bytes(0.5, available=lambda: 100 * GIB, read=table.get) == 0


def test_the_older_cgroup_files_are_read_as_well():
    table = {
        "/proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n",
        "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{8 * GIB}",
        "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{6 * GIB}",
        "/sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 7\ntotal_inactive_file {2 * GIB}",
    }
    assert host_budget_bytes(0.0, available=lambda: 100 * GIB, read=table.get) == 4 * GIB


def test_a_cpu_quota_limits_the_usable_cores(monkeypatch):
    monkeypatch.setattr(hardware, "cgroup_files", lambda _: iter(["max 100000", "150000 100000"]))
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert hardware.usable_cores() == 2


def test_the_description_is_json_and_the_fingerprint_names_the_host(monkeypatch):
    facts = hardware.describe(FakeNvml(*TWO))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert facts["gpus"][1] == {"index": 1, "name": "T4", "memory_gib": 16.0, "uuid": "GPU-bb22"}
    here = hardware.fingerprint.__wrapped__()
    assert here == hardware.fingerprint() == hardware.fingerprint.__wrapped__()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.fingerprint.__wrapped__() == here  # hiding a GPU must not lose what was learned
    monkeypatch.setattr(hardware.socket, "gethostname", lambda: "elsewhere")
    assert hardware.fingerprint.__wrapped__() != here


class Counters:
    """Processor seconds of everybody and of ourselves, and the time."""

    def __init__(self, cores: int = 2) -> None:
        self.now = self.all = self.own = 0.0
        self.cores = cores
        self.meter = LoadMeter(lambda: (self.all, self.cores), lambda: self.own, lambda: self.now)

    def after(self, seconds: float, others: float, own: float):
        """The load after `seconds` in which others used `others` cores and we `own`."""
        self.now += seconds
        self.own += own * seconds
        self.all += (own + others) * seconds
        return self.meter.read()


def test_a_neighbour_makes_the_machine_busy_and_our_own_work_does_not():
    counters = Counters()
    assert not counters.meter.read().busy  # unknown yet
    assert counters.after(0.5, others=0.0, own=2.0) == pytest.approx((0.0, False))
    assert counters.after(0.5, others=1.0, own=1.0) == pytest.approx((1.0, True))
    assert counters.after(0.5, others=0.1, own=1.0) == pytest.approx((0.1, False))


def test_within_the_resolution_of_the_counters_the_answer_stands():
    counters = Counters()
    counters.meter.read()
    assert counters.after(0.5, others=1.0, own=0.0).busy
    assert counters.after(0.04, others=0.0, own=0.0).busy
    assert not counters.after(0.5, others=0.0, own=0.0).busy
    # Two ticks of 10 ms more than was used are no neighbour in so short a time.
    assert not counters.after(0.05, others=0.02 / 0.05, own=0.0).busy


def test_a_large_machine_is_not_busy_with_its_daemons():
    counters = Counters(cores=64)
    counters.meter.read()
    assert not counters.after(1.0, others=2.0, own=0.0).busy
    assert counters.after(1.0, others=8.0, own=0.0).busy


def test_the_real_counters_can_be_read():
    meter = LoadMeter()
    assert meter.read() == (0.0, False)
    assert meter.read().other_cores >= 0.0
