"""What a call's arguments say: the key of its signature, and the request that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..executors import conversion
from .request import Request
from .signature import class_of_value, shape_class

ndarray = np.ndarray
LONGEST = 8
"""So many items of a list, and eight times as many characters of a text, tell costs apart."""
FEW = 16
"""A whole number up to that may be a mode, which only itself is like."""
_PLAIN = frozenset({int, str, bool, type(None), bytes})
_NO_NUMBERS = frozenset("OSUVMm")  # kinds of NumPy dtypes that no backend but NumPy has, and no kernel computes in


def key_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What tells signatures apart: shapes, dtypes, devices; values of plain parameters; types of all else."""
    key: list[Any] = list(kwargs)
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind is ndarray:
            key.append(value.shape)
            key.append(value.dtype)
        elif kind is float:
            key.append(float)
        elif kind in _PLAIN:
            key.append(kind)
            key.append(value)
        else:
            key.append(_other(value))
    return tuple(key)


def class_of(key: Any, *, varying: bool = False) -> Any:
    """The key of a signature's size class: NumPy shapes by their half-octave classes, all else as it is.

    `varying`: whole numbers beyond `FEW` and texts by their classes too, since some of them take ever new values.
    """
    parts: list[Any] = [
        shape_class((part,)) if type(part) is tuple and (not part or type(part[0]) is int) else part for part in key
    ]
    if varying:
        for place in range(1, len(parts)):
            part, kind = parts[place], parts[place - 1]
            if kind is str or (kind is int and abs(part) > FEW):
                parts[place] = class_of_value(part)
    return tuple(parts)


def _other(value: Any) -> Any:
    kind = conversion.kind_of(value)
    if kind == "torch":
        if conversion.passes_through(value):
            return Unique()
        return (type(value), value.shape, value.dtype, value.requires_grad, value.device)
    if kind in ("tracer", "foreign"):
        return Unique()
    if kind in ("jax", "cupy"):
        return (type(value), value.shape, value.dtype, conversion.residency(value))
    if kind not in (None, "numpy"):  # of a user's own backend: its dtypes need not be hashable
        return (type(value), tuple(value.shape), conversion.dtype_name(value), conversion.residency(value))
    if isinstance(value, (tuple, list)):
        return (type(value), *(key_of((item,), {}) for item in value))
    if isinstance(value, dict):
        return (dict, *((name, key_of((item,), {})) for name, item in value.items()))
    return type(value)


class Unique:
    """A key that no table holds: such a call always takes the careful path."""

    __slots__ = ()


def leaves(value: Any) -> Iterator[Any]:
    """What nested lists, tuples and dictionaries hold."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value


def all_leaves(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The leaves of every argument."""
    yield from leaves(args)
    for value in kwargs.values():
        yield from leaves(value)


def stands_apart(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether something in there must be left as it is: traced, masked, labelled, or an array of no numbers."""
    for leaf in all_leaves(args, kwargs):
        if type(leaf) is ndarray:
            if leaf.dtype.kind in _NO_NUMBERS:
                return True
            continue
        kind = conversion.kind_of(leaf)
        if kind in ("foreign", "tracer") or (kind == "torch" and conversion.passes_through(leaf)):
            return True
    return False


def request_of(
    operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, deterministic: bool = False
) -> Request:
    """Read a request off arguments: arrays give shapes, dtype, residency; plain values are parameters."""
    shapes: list[tuple[int, ...]] = []
    parameters: dict[str, Any] = {}
    dtype, residency, gradient = "", "numpy", False
    for name, value in [*((f"arg{i}", value) for i, value in enumerate(args)), *kwargs.items()]:
        plain: list[Any] = []
        for leaf in leaves(value):
            kind = conversion.kind_of(leaf)
            if kind is not None:
                shapes.append(tuple(map(int, leaf.shape)))
                dtype = dtype or conversion.dtype_name(leaf)
                gradient = gradient or conversion.requires_grad(leaf)
                if kind != "numpy" and residency == "numpy":
                    residency = conversion.residency(leaf)
            elif type(leaf) in _PLAIN and leaf is not None:
                plain.append(_parameter(leaf))
        if plain:
            parameters[name] = plain[0] if len(plain) == 1 else tuple(plain[:LONGEST])
    built = Request.from_arrays(operation, tuple(shapes) or ((),), dtype or "float64", parameters, gradient, residency)
    return replace(built, deterministic=True) if deterministic else built


def _parameter(value: Any) -> Any:
    if type(value) is bytes:
        return len(value)
    return value[: 8 * LONGEST] if type(value) is str else value
