"""Runs the Numba CUDA variants in Numba's simulator and prints, as one line of JSON each, what did not hold.

A program of its own: whether Numba simulates is settled when it is imported. The simulator runs the kernels' Python,
a thread of the host for each of the GPU's: it shows indices, sums and barriers to be right, but neither the compiled
code nor its speed. Blocks are made small, so that arrays of a size it can manage still need many of them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

import numpy as np
from agreement import assert_agrees, inputs, kernels
from numba import cuda
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.conversion import convert
from pointsman.executors.prepare import prepare
from pointsman.kernels import on_cuda
from pointsman.kernels.base import Kernel

SIZES = {"derivative": (10, 100)}  # quadratic in the size
BLOCKS = {"reduction": (16, 256), "derivative": (16, 0)}  # threads, elements of a thread
RNG = np.random.default_rng(5)


def pairs() -> list[tuple[Kernel, Variant]]:
    """Every kernel's variants that are written for a GPU."""
    found = [(kernel, variant) for kernel in kernels().values() for variant in kernel.variants]
    return [(kernel, v) for kernel, v in found if v.backend == "numba" and v.device != "cpu"]


def agrees(kernel: Kernel, variant: Variant, dtype: str) -> None:
    """Samples and every named case."""
    for args, kwargs in inputs(kernel, dtype, SIZES.get(kernel.name, (10, 1001))):
        assert_agrees(kernel, variant, dtype, args, kwargs)


def any_layout(kernel: Kernel, variant: Variant, dtype: str) -> None:
    """Strided, backwards, transposed, read-only, byte-swapped and repeated inputs."""
    (x,), kwargs = kernel.sample(RNG, 60, dtype)
    strided = np.zeros((60, 2), dtype)
    strided[:, 0] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    table = x.reshape(6, 10)
    for given in (strided[:, 0], x[::-1], table.T, np.asfortranarray(table), frozen, np.broadcast_to(x[:10], (3, 10))):
        assert_agrees(kernel, variant, dtype, (given,), kwargs)
    swapped = x.astype(x.dtype.newbyteorder("S"))
    call = prepare(variant, ("numpy",), dict.fromkeys(kwargs)).call
    assert np.array_equal(call(swapped, **kwargs), call(x, **kwargs))


def nan_reaches_what_depends_on_it(kernel: Kernel, variant: Variant, dtype: str) -> None:
    """And nothing before it, in a causal sum."""
    (x,), kwargs = kernel.sample(RNG, 60, dtype)
    x[37] = np.nan
    found = prepare(variant, ("numpy",), dict.fromkeys(kwargs)).call(x, **kwargs)
    assert np.array_equal(np.isnan(found), np.isnan(kernel.reference(x, **kwargs)))


def stays_on_the_device(kernel: Kernel, variant: Variant, dtype: str) -> None:
    """The function itself takes and gives device arrays, counts what it compiled, and gives the same bits again."""
    numba = registry.ensure("numba")[0]
    prepared = prepare(variant, ("numpy",), dict.fromkeys(kernel.sample(RNG, 10, dtype)[1]))
    (x,), kwargs = kernel.sample(RNG, 60, dtype)
    assert numba.signatures(prepared.function) == 0
    inside = numba.convert_in(x, "cuda:0")
    assert numba.holds(inside)
    first, second = (prepared.function(inside, **kwargs) for _ in range(2))
    assert numba.holds(first)
    assert numba.convert_out(first).tobytes() == numba.convert_out(second).tobytes()
    assert numba.convert_out(inside).tobytes() == x.tobytes()
    assert numba.signatures(prepared.function) == 1
    assert convert(inside, to="torch").numpy().tobytes() == x.tobytes()
    result, split = prepared.split(x, **kwargs)
    assert not numba.holds(result)
    assert split.transfer_s > 0.0
    assert split.convert_s == 0.0


def many_levels(kernel: Kernel, variant: Variant, dtype: str) -> None:
    """Several launches for one sum, and blocks that take several turns."""
    on_cuda.THREADS, on_cuda.EACH, on_cuda.FEWEST, on_cuda.MOST = 4, 1, 1, 3
    for size in (1, 3, 4, 5, 16, 17, 65):
        (x,), kwargs = kernel.sample(RNG, size, dtype)
        assert_agrees(kernel, variant, dtype, (x,), kwargs)


def tensors_come_back(kernel: Kernel, variant: Variant, dtype: str) -> None:
    """A caller who passes another library's arrays gets that library's arrays."""
    import torch

    (x,), kwargs = kernel.sample(RNG, 20, dtype)
    call = prepare(variant, ("torch",), dict.fromkeys(kwargs), out="torch").call
    found = call(torch.from_numpy(x.copy()), **kwargs)
    assert isinstance(found, torch.Tensor)
    assert np.array_equal(found.numpy(), prepare(variant, ("numpy",), dict.fromkeys(kwargs)).call(x, **kwargs))


CHECKS = (agrees, any_layout, nan_reaches_what_depends_on_it, stays_on_the_device, many_levels, tensors_come_back)


def main() -> None:
    """Run what there is to check; the report names each check, held or not."""
    assert not hasattr(cuda, "driver") or "simulator" in cuda.to_device.__module__, "this needs the simulator"
    settings: Any = (on_cuda.THREADS, on_cuda.EACH)
    for kernel, variant in pairs():
        for check in CHECKS:
            for dtype in kernel.tolerances:
                on_cuda.THREADS, on_cuda.EACH = BLOCKS.get(kernel.name, (8, settings[1]))
                on_cuda.FEWEST, on_cuda.MOST = 1, 4
                on_cuda.KEPT = type(on_cuda.KEPT)(1 << 20)
                wrong = ""
                try:
                    check(kernel, variant, dtype)
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}"
                report = {"variant": f"{kernel.name} {variant.name} {dtype}", "check": check.__name__, "wrong": wrong}
                sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
