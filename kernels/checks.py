"""Checks that the kernels share: cheap, of types, dtypes and shapes only, the same whichever variant will run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FLOATS = ("float32", "float64")
INEXACT = (*FLOATS, "complex64", "complex128")
_INTO_INT32 = ("bool", "int8", "int16", "uint8", "uint16")
_INTO_INT64 = ("int32", "uint32")
_INTO_FLOAT64 = ("float16", "bfloat16", *_INTO_INT32, *_INTO_INT64)


def dtype_name(x: Any) -> str:
    """NumPy's name of the dtype of an array of any library ("torch.float32" is "float32")."""
    return str(x.dtype).rpartition(".")[2]


def need_array(operation: str, argument: str, x: Any, *, dims: int = 0, dtypes: Sequence[str] = FLOATS) -> None:
    """Raise unless `x` is an array with at least `dims` axes and one of `dtypes`.

    Raises
    ------
    TypeError
        `x` is no array, or has another dtype; nothing is converted silently.
    ValueError
        `x` has too few axes.
    """
    if not (hasattr(x, "dtype") and hasattr(x, "shape")):
        raise TypeError(f"{operation}: {argument} must be an array; got {type(x).__name__} (try numpy.asarray)")
    if dtype_name(x) not in dtypes:
        raise TypeError(
            f"{operation}: {argument} must have dtype {' or '.join(dtypes)}; got {x.dtype}{_way_out(x, dtypes)}"
        )
    if len(x.shape) < dims:
        raise ValueError(f"{operation}: {argument} must have at least {dims} axes; got shape {tuple(x.shape)}")


def _way_out(x: Any, dtypes: Sequence[str]) -> str:
    """How to convert `x` to one of `dtypes` without losing anything; "" where there is no such way."""
    name = dtype_name(x)
    native = str(getattr(x.dtype, "name", name))
    if getattr(x.dtype, "isnative", True) is False and native in dtypes:
        return " (convert it first, to this machine's byte order: x.astype(x.dtype.name))"
    if native in _INTO_INT32 and "int32" in dtypes:
        return " (convert it first, for example to int32)"
    if native in _INTO_INT64 and "int64" in dtypes:
        return " (convert it first, for example to int64)"
    if native in _INTO_FLOAT64 and "float64" in dtypes:
        return " (convert it first, for example to float64)"
    if native == "uint64" and "int64" in dtypes:
        return " (int64 holds values below 2**63: convert it first where that is enough)"
    if native in ("int64", "uint64") and "float64" in dtypes:
        return " (float64 is exact up to 2**53: convert it first where that is enough)"
    return ""


def need_same_dtype(operation: str, **arrays: Any) -> None:
    """Raise TypeError unless all `arrays` have one dtype: libraries promote mixed ones differently."""
    found = {name: dtype_name(x) for name, x in arrays.items()}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in found.items())
        raise TypeError(f"{operation}: the operands must have one dtype; got {listed} (convert one of them first)")


def need_samples(operation: str, argument: str, x: Any, axes: int = 1) -> None:
    """Raise ValueError if one of the last `axes` axes of `x` is empty."""
    if 0 in tuple(x.shape)[len(x.shape) - axes :]:
        raise ValueError(
            f"{operation}: {argument} must have at least one sample along its last "
            f"{'axis' if axes == 1 else f'{axes} axes'}; got shape {tuple(x.shape)}"
        )


def need_choice(operation: str, argument: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    if not any(value is a or (isinstance(value, str) and value == a) for a in allowed):
        listed = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{operation}: {argument} must be one of {listed}; got {value!r}")
