"""What a GPU does here, in one call: `python -m benchmarks.gpu --out record.json`.

Recorded are: every kernel's variants on the first GPU, per dtype and size, with arrays that stay on the device against
the library's own call there, and from NumPy to NumPy against the default variant on the host; transfers both ways per
library and size, with the model (seconds = start + bytes / bandwidth) that fits them; and what memory the driver and
the libraries tell of. Each answer is checked before anything is timed. Calls that are compared take turns, each waits
for the device, and a figure is the median. What fails or cannot run is in the record with its reason. The record is
written after each kernel, and the run ends by itself when its time is up, so that it fits into a borrowed slot.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pointsman.executors import registry
from pointsman.executors.base import Executor, Variant
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.kernels.base import Kernel
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.telemetry import hardware
from pointsman.telemetry.memory import GpuMemory

from .direct import DIRECT
from .timing import conditions, confirm

DEVICE = "cuda:0"
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
BYTES = tuple(4**i for i in range(5, 15))  # 1 KiB to 256 MiB
LONGEST_HOST_S = 2.0  # a default variant that took this long at one size is not run at the next
ROUNDS, SLOT_S = 31, 0.4  # of one comparison, at most
LIBRARIES_OWN: Mapping[str, Mapping[str, str]] = {
    "cupy": {
        "matmul": "cupy.matmul", "fft": "cupy.fft.rfft", "cumulative_sum": "cupy.cumsum", "sort": "cupy.sort",
    },
}  # fmt: skip
"""The libraries' own functions where benchmarks/direct.py has none; torch's and jax's run wherever their arrays lie."""


@dataclass
class Clock:
    """How much may be measured, and until when."""

    rounds: int = ROUNDS
    slot_s: float = SLOT_S
    ends: float = float("inf")

    @property
    def over(self) -> bool:
        return time.perf_counter() > self.ends

    def compare(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each call; they take turns, after one turn that counts for nothing."""
        for call in calls.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        until = time.perf_counter() + self.slot_s
        for turn in range(self.rounds):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - started)
            if turn >= 2 and time.perf_counter() > until:
                break
        return {name: statistics.median(seconds) for name, seconds in taken.items()}


def why_none() -> str | None:
    """None where there is a GPU and a library for it; else the sentence why not, library by library."""
    usable, reasons = [], []
    for name, capable in registry.array_backends():
        if "cuda" not in capable.devices:
            continue
        executor, reason = registry.executor(name), registry.available(name)
        if reason is None and DEVICE in executor.devices():
            usable.append(name)
        reasons.append(f"  {name}: {reason or f'as installed here it cannot use {DEVICE}'}")
    if usable:
        return None
    found = ", ".join(gpu.name for gpu in hardware.gpus())
    head = f"No library here can use {found}." if found else "There is no GPU here that this process may use."
    return "\n".join([head, *reasons, "Nothing was measured and no record was written."])


def on_device(kernel: Kernel, variant: Variant, dtype: str, size: int, clock: Clock, host_s: float) -> dict[str, Any]:
    """One variant at one size: resident calls against the library's own, and from NumPy to NumPy."""
    executor = registry.ensure(variant.backend)[0]
    args, kwargs = kernel.sample(np.random.default_rng(size), size, dtype)
    shapes = tuple(np.shape(a) for a in args)
    if variant.supports is not None and (reason := variant.supports(shapes, kwargs)):
        return {"why_not": reason}
    named = {key: kind_of(value) for key, value in kwargs.items()}
    whole = prepare(variant, tuple(map(kind_of, args)), named)
    _check(kernel, variant, dtype, whole.call(*args, **kwargs), args, kwargs)
    inside = [executor.convert_in(a, DEVICE) if isinstance(a, np.ndarray) else a for a in args]
    own, what = _librarys_own(kernel, variant)

    def waiting(function: Callable[..., Any]) -> Callable[[], object]:
        def call() -> None:
            executor.synchronize(function(*inside, **kwargs))

        return call

    calls: dict[str, Callable[[], object]] = {
        "resident_s": waiting(whole.function),
        "own_s": waiting(executor.prepare(own, variant)),
        "numpy_to_numpy_s": lambda: whole.call(*args, **kwargs),
    }
    row: dict[str, Any] = {"against": what, **clock.compare(calls)}
    row["ratio"] = row["resident_s"] / row["own_s"]
    row["split"] = dict(whole.split(*args, **kwargs)[1]._asdict())
    if host_s < LONGEST_HOST_S:
        first = kernel.variants[0]
        default = prepare(first, tuple(map(kind_of, args)), named).call
        row["host_default_s"] = clock.compare({"host": lambda: default(*args, **kwargs)})["host"]
    return row


def _librarys_own(kernel: Kernel, variant: Variant) -> tuple[Callable[..., Any], str]:
    name = variant.name.partition("@")[0]
    written = LIBRARIES_OWN.get(variant.backend, {}).get(kernel.name)
    if written is not None:
        module, _, function = written.rpartition(".")
        return getattr(importlib.import_module(module), function), "library"
    if variant.backend != "numba" and name in DIRECT.get(kernel.name, {}):
        return DIRECT[kernel.name][name](), "library"
    return variant.load(), "bare"


def _check(
    kernel: Kernel, variant: Variant, dtype: str, found: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Against the default variant, twice as lenient as against the reference, which large sizes cannot afford."""
    expected = kernel.variants[0].load()(*args, **kwargs)
    bound = 2.0 * max(kernel.tolerances[dtype], variant.accuracy.get(dtype, 0.0))
    pairs = zip(*(part if isinstance(part, tuple) else (part,) for part in (found, expected)), strict=True)
    for got, right in pairs:
        error, scale = np.max(np.abs(got - right), initial=0.0), np.max(np.abs(right), initial=0.0)
        confirm(f"{kernel.name} {variant.name} {dtype}", bool(error <= bound * scale), f"off by {error / scale:.1e}")


def transfers(executor: Executor, clock: Clock, sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds to the device and back per number of bytes, and the straight line through them."""
    rows = []
    for count in sizes:
        x = np.arange(count // 4, dtype="float32")
        inside = executor.convert_in(x, DEVICE)
        confirm(f"{executor.name}: transfer", bool(np.array_equal(executor.convert_out(inside), x)))

        def there(x: Any = x) -> None:
            executor.synchronize(executor.convert_in(x, DEVICE))

        taken = clock.compare({"to_s": there, "from_s": lambda y=inside: executor.convert_out(y)})
        rows.append({"bytes": x.nbytes, **taken, **{f"{k}_gb_per_s": x.nbytes / s / 1e9 for k, s in taken.items()}})
        del inside
        executor.free_caches()
        if clock.over:
            break
    return {"library": executor.name, "rows": rows, "to": _line(rows, "to_s"), "from": _line(rows, "from_s")}


def _line(rows: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    """start_s and bytes_per_s of the line that fits best relative to each time."""
    if len(rows) < 2:
        return {}
    seconds = np.array([row[name] for row in rows])
    table = np.stack([1.0 / seconds, np.array([row["bytes"] for row in rows]) / seconds], axis=1)
    (start, slope), *_ = np.linalg.lstsq(table, np.ones(len(rows)), rcond=None)
    return {"start_s": float(start), "bytes_per_s": float(1.0 / slope) if slope > 0.0 else float("inf")}


def memory() -> dict[str, Any]:
    """What the driver has free, what we would let a call take, and what the libraries' pools hold."""
    gpu, held = GpuMemory(), {}
    free = gpu.refresh(DEVICE)
    for name, capable in registry.array_backends():
        if "cuda" in capable.devices and registry.available(name) is None:
            held[name] = registry.executor(name).reusable_bytes(DEVICE)
    budget = gpu.budget_bytes(DEVICE, max(held.values(), default=0))
    return {"free_bytes": free, "reserve": gpu.reserve, "pools_hold_bytes": held, "budget_bytes": budget}


def measure(out: Path, clock: Clock, sizes: Sequence[int], byte_sizes: Sequence[int]) -> dict[str, Any]:
    """Everything, kernel by kernel; `out` is renewed as it grows."""
    record: dict[str, Any] = {
        "conditions": {**conditions(), **hardware.describe()}, "memory": memory(), "transfers": [], "kernels": [],
        "left_out": [], "complete": False,
    }  # fmt: skip
    usable = {}
    for name, capable in registry.array_backends():
        if "cuda" in capable.devices:
            reason = registry.available(name)
            if reason is None and DEVICE not in registry.executor(name).devices():
                reason = f"as installed here it cannot use {DEVICE}"
            if reason is None:
                usable[name] = registry.ensure(name)[0]
            else:
                record["left_out"].append({"backend": name, "why": reason})
    for executor in usable.values():
        record["transfers"].append(_guarded(partial(transfers, executor, clock, byte_sizes), library=executor.name))
        _save(out, record)
    for name in KERNELS:
        kernel: Any = operations.find(name)
        found = [v for v in getattr(kernel, "variants", ()) if v.device == DEVICE and v.backend in usable]
        for dtype in getattr(kernel, "tolerances", {}):
            host_s = 0.0
            for size in sizes:
                for variant in found:
                    if clock.over:
                        record["left_out"].append({"kernel": name, "why": "the time was up"})
                        _save(out, record)
                        return record
                    if variant.dtypes is not None and dtype not in variant.dtypes:
                        continue
                    labels = {"kernel": name, "variant": variant.name, "dtype": dtype, "size": size}
                    row = _guarded(partial(on_device, kernel, variant, dtype, size, clock, host_s), **labels)
                    host_s = max(host_s, row.get("host_default_s", 0.0))
                    record["kernels"].append(row)
                    print(_told(row), flush=True)
        _save(out, record)
    record["memory_afterwards"], record["complete"] = memory(), True
    _save(out, record)
    return record


def _guarded(make: Callable[[], dict[str, Any]], **labels: Any) -> dict[str, Any]:
    """What `make` gives, or the failure: one that cannot run must not cost the others."""
    try:
        return {**labels, **make()}
    except Exception as error:
        return {**labels, "failed": f"{type(error).__name__}: {error}"[:500]}


def _told(row: Mapping[str, Any]) -> str:
    head = f"{row['kernel']} {row['variant']} {row['dtype']} {row['size']:,}"
    if "ratio" not in row:
        return f"{head}: {row.get('failed') or row.get('why_not')}"
    host = f", host {row['host_default_s'] * 1e6:,.0f} us" if "host_default_s" in row else ""
    return (
        f"{head}: resident {row['resident_s'] * 1e6:,.1f} us = {row['ratio']:.2f} x {row['against']}, "
        f"numpy to numpy {row['numpy_to_numpy_s'] * 1e6:,.0f} us{host}"
    )


def _save(out: Path, record: Mapping[str, Any]) -> None:
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    part.replace(out)


def main(argv: Sequence[str] | None = None) -> int:
    """0: measured; 2: there is no GPU to measure, and why is printed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the record (JSON) goes")
    parser.add_argument("--seconds", type=float, default=540.0, help="stop after this long (default: %(default).0f)")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes, once or twice; means nothing")
    given = parser.parse_args(argv)
    reason = why_none()
    if reason is not None:
        print(reason)
        return 2
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory at once
    ends = time.perf_counter() + given.seconds
    clock = Clock(2, 0.0, ends) if given.quick else Clock(ends=ends)
    sizes, byte_sizes = (SIZES[:1], BYTES[:2]) if given.quick else (SIZES, BYTES)
    record = measure(given.out, clock, sizes, byte_sizes)
    failed = [row for row in record["kernels"] if "failed" in row]
    print(f"{len(record['kernels'])} rows, {len(failed)} failed; {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
