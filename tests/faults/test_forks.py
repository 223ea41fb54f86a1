"""A forked child goes on computing: what its parent has started and it has not is passed over, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pointsman.executors import registry
from pointsman.executors.table import BACKENDS
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations

COMPUTING = [
    name
    for name in BACKENDS
    if registry.executor(name).capabilities.array and "cpu" in registry.executor(name).capabilities.devices
]


def kernel_on(backend: str) -> tuple[str, str]:
    """A kernel and a variant of it on this backend, on several threads where it has one, and quick at 1e6 elements."""
    found = [
        (name, variant.name)
        for name in ("element_wise", *KERNELS)
        for variant in operations.find(name).variants
        if variant.backend == backend and variant.device == "cpu"
    ]
    return min(found, key=lambda pair: ("/parallel" not in pair[1] and "/threads" not in pair[1], found.index(pair)))


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "POINTSMAN_HISTORY": ":memory:", **environ},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("backend", COMPUTING)
def test_a_forked_child_computes_whatever_its_parent_had_started(backend):
    """OpenMP ends a child that uses threads which stayed behind, and XLA waits for them for ever."""
    kernel, variant = kernel_on(backend)
    done = python(f"""
import os, signal
import numpy as np
from pointsman.executors import registry
from pointsman.executors.prepare import prepare
from pointsman.selector import operations
import pointsman as pm
kernel = operations.find({kernel!r})
sample = kernel.stack or kernel.sample
args, kwargs = sample(np.random.default_rng(0), 1_000_000, "float64")
call = prepare(kernel.variant({variant!r}), ("numpy",) * len(args), dict.fromkeys(kwargs)).call
expected = call(*args, **kwargs)            # the parent has its threads now
selector = pm.default_selector()
def right():
    found = selector.run({kernel!r}, *args, **kwargs)
    return np.max(np.abs(found - expected)) <= 2 * kernel.tolerances["float64"] * np.max(np.abs(expected))
with pm.use({backend!r}):
    assert right()
child = os.fork()
if not child:
    signal.alarm(20)
    reason = registry.available({backend!r})
    if reason is None:
        with pm.use({backend!r}):           # it can still be demanded, and computes
            os._exit(0 if right() else 3)
    try:
        with pm.use({backend!r}):
            right()
    except pm.BackendUnavailableError as error:
        os._exit(0 if "forked" in str(error) and right() else 4)
    os._exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(call(*args, **kwargs), expected))
""")
    assert done.stdout == "0 True\n", done.stderr


def test_a_learned_parallel_choice_is_passed_over_in_a_child():
    done = python("""
import os, signal
import numpy as np, pointsman as pm
x = np.random.default_rng(0).standard_normal(300_000)
with pm.use("numba"):
    for _ in range(3):
        pm.run("element_wise", x)
from pointsman.executors.prepare import prepare
from pointsman.selector import operations
parallel = prepare(operations.find("element_wise").variant("numba/parallel"), ("numpy",)).call
expected = parallel(x)
child = os.fork()
if not child:
    signal.alarm(60)
    try:
        parallel(x)
    except pm.UnsupportedError as error:
        said = "spawn" in str(error)
    with pm.use("numba"):                 # the serial variant needs no threads
        right = np.allclose(pm.run("element_wise", x), expected, rtol=1e-12)
    os._exit(0 if said and right else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""", NUMBA_THREADING_LAYER="omp")  # fmt: skip
    assert done.stdout == "0\n", done.stderr


def test_parallel_functions_take_turns_under_a_layer_that_cannot_bear_two_callers():
    """Numba's workqueue, which it falls back to, ends the process otherwise."""
    done = python("""
import threading
import numpy as np
from pointsman.executors.prepare import prepare
from pointsman.selector import operations
call = prepare(operations.find("element_wise").variant("numba/parallel"), ("numpy",)).call
x = np.linspace(-1.0, 1.0, 200_000)
expected = call(x)
right = []
threads = [threading.Thread(target=lambda: right.extend(np.array_equal(call(x), expected) for _ in range(30)))
           for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
import numba
print(numba.threading_layer(), len(right), all(right))
""", NUMBA_THREADING_LAYER="workqueue")  # fmt: skip
    assert done.stdout == "workqueue 120 True\n", done.stderr
