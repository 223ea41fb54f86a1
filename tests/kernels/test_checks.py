"""Advice about a dtype that an operation does not take: given where following it loses nothing, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from pointsman.kernels import fft, matmul, pairwise_distance, sort
from pointsman.kernels.checks import INEXACT, need_array

FITTING = ["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16"]


def told(kernel, x) -> str:
    with pytest.raises(TypeError, match=rf"^{kernel.name}: \w+ must have dtype float32 or float64.*; got ") as error:
        kernel.validate(*[x] * (2 if kernel.name in ("matmul", "pairwise_distance") else 1))
    return str(error.value)


@pytest.mark.parametrize("kernel", [fft.OPERATION, matmul.OPERATION, pairwise_distance.OPERATION, sort.OPERATION])
@pytest.mark.parametrize("dtype", FITTING)
def test_the_advised_dtype_holds_every_value(kernel, dtype):
    x = np.ones((3, 3), dtype)
    if kernel.name == "sort" and dtype == "int32":
        return kernel.validate(x)
    advised = told(kernel, x).partition("for example to ")[2].rstrip(")")
    assert np.can_cast(x.dtype, advised, "safe")
    kernel.validate(*[x.astype(advised)] * (2 if kernel.name in ("matmul", "pairwise_distance") else 1))
    return None


@pytest.mark.parametrize(("dtype", "advised"), [("uint8", "int32"), ("bool", "int32"), ("uint32", "int64")])
def test_integers_to_be_sorted_stay_integers(dtype, advised):
    assert told(sort.OPERATION, np.ones(3, dtype)).endswith(f"(convert it first, for example to {advised})")


def test_integers_of_64_bit_are_told_up_to_where_the_conversion_is_exact():
    for dtype in ("int64", "uint64"):
        assert "float64 is exact up to 2**53" in told(fft.OPERATION, np.ones(3, dtype))
    assert "int64 holds values below 2**63" in told(sort.OPERATION, np.ones(3, "uint64"))


@pytest.mark.parametrize(
    "x",
    [np.ones((3, 3), complex), np.ones((3, 3), np.clongdouble), np.ones((3, 3), np.longdouble),
     np.zeros((3, 3), "M8[s]"), np.zeros((3, 3), ">M8[s]"), np.zeros((3, 3), "m8[s]"), np.zeros((3, 3), "f8,i4"),
     np.zeros((3, 3), object), np.zeros((3, 3), "U4"), np.zeros((3, 3), ">c16")],
    ids=lambda x: x.dtype.str,
)  # fmt: skip
def test_what_would_lose_something_is_given_no_advice(x):
    for kernel in (pairwise_distance.OPERATION, sort.OPERATION):
        assert "convert" not in told(kernel, x)


def test_half_precision_of_torch_has_a_way_out():
    import torch

    for dtype in (torch.bfloat16, torch.float16, torch.bool):
        with pytest.raises(TypeError, match="for example to float64"):
            need_array("fft", "x", torch.ones(3, dtype=dtype), dtypes=INEXACT)
