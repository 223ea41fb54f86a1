"""Names of dtypes: one spelling for what NumPy, torch and jax call by many."""

from __future__ import annotations

import numpy as np

ITEMSIZE: dict[str, int] = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
for _wide in (np.longdouble, np.clongdouble):  # another name of float64 where the platform has no more
    ITEMSIZE.setdefault(np.dtype(_wide).name, np.dtype(_wide).itemsize)
"""Known dtypes and their bytes per element."""

BY_SIZE: dict[int, str] = {2: "float16", 4: "float32", 8: "float64", 16: "complex128"}
"""What a size in bytes alone stands for."""


def itemsize(dtype: str) -> int:
    """Bytes of one element; NumPy does not know bfloat16."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def canonical_dtype(dtype: object) -> str:
    """Name `dtype` the NumPy way.

    Parameters
    ----------
    dtype : a name ("float64", "f4", "double"), a NumPy dtype or scalar type, a Python type, a torch or jax dtype.

    Raises
    ------
    ValueError
        If it is none of the known dtypes; the message lists them.
    """
    if isinstance(dtype, str) and dtype in ITEMSIZE:
        return str(dtype)
    name = str(dtype)
    if name.startswith("torch."):  # a torch dtype has no NumPy form, and asking torch would import it
        name = name.removeprefix("torch.")
    else:
        try:
            name = np.dtype(dtype).name  # type: ignore[call-overload]
        except TypeError:
            name = ""
    if name not in ITEMSIZE:
        raise ValueError(f"dtype {dtype!r} is not known; known are: {', '.join(ITEMSIZE)}")
    return name
