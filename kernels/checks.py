"""Checks that the kernels share: cheap, of types, dtypes and shapes only, the same whichever variant will run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FLOATS = ("float32", "float64")
INEXACT = (*FLOATS, "complex64", "complex128")


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
        swapped = getattr(x.dtype, "isnative", True) is False
        advice = (
            f"for example to {dtypes[1]}" if not swapped else "to this machine's byte order: x.astype(x.dtype.name)"
        )
        raise TypeError(
            f"{operation}: {argument} must have dtype {' or '.join(dtypes)}; got {x.dtype} (convert it first, {advice})"
        )
    if len(x.shape) < dims:
        raise ValueError(f"{operation}: {argument} must have at least {dims} axes; got shape {tuple(x.shape)}")


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
