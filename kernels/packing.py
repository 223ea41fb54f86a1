"""Plain data as bytes and back, exactly and without pickles: the contents of a checkpoint.

Values are packed by columns: a list of a million floats is one array and a note that it was a list of floats; tuples of
a float and an array are a column of lengths and one of what they hold, which is sorted by kind. So a record of many
small results costs little more than its bytes. The notes are JSON; what follows them are the arrays' bytes.
"""

from __future__ import annotations

import ast
import json
import math
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from .simulations import FailedSimulation

DEEPEST = 64
"""Levels of lists, tuples and dictionaries; one that holds itself has no end."""
KEPT = "None, numbers, text, bytes, NumPy arrays and scalars, and lists, tuples and dictionaries of these"

Node = dict[str, Any]


class UnfitError(TypeError):
    """A value that cannot be packed.

    Attributes
    ----------
    index : which of the values.
    where : what leads to it inside that value, as "['fit'][0]"; "" for the value itself.
    found : what it is.
    """

    def __init__(self, index: int, where: str, found: str) -> None:
        super().__init__(f"value {index}{where}: found {found}; what can be kept: {KEPT}")
        self.index, self.where, self.found = index, where, found


class _Unfit(Exception):
    """Something does not fit; where it stands is looked for afterwards."""


def pack(values: Sequence[Any]) -> bytes:
    """The bytes of `values`.

    Parameters
    ----------
    values : None, bool, int of any size, float, complex, str, bytes; arrays and scalars of NumPy, byte order and
        fields kept, in memory in rows or in columns as they were; `FailedSimulation`; nested lists, tuples and
        dictionaries of these, with keys of these. Subclasses are not taken for what they derive from.

    Raises
    ------
    UnfitError : anything else.
    """
    writer = _Writer()
    try:
        tree = writer.column(values)
    except _Unfit:
        found = next(hit for index, value in enumerate(values) for hit in _culprits(value, index, ""))
        raise UnfitError(*found) from None
    notes = json.dumps({"tree": tree, "sizes": list(map(len, writer.parts))}, separators=(",", ":")).encode("ascii")
    return b"".join((struct.pack("<I", len(notes)), notes, *writer.parts))


def unpack(data: bytes) -> list[Any]:
    """The values that `pack` made `data` from; arrays are new and may be written to.

    Raises
    ------
    ValueError : these bytes were not made by `pack`.
    """
    try:
        start = 4 + struct.unpack_from("<I", data)[0]
        notes = json.loads(data[4:start])
        ends = list(accumulate(notes["sizes"], initial=start))
        if ends[-1] != len(data):
            raise ValueError(f"{len(data)} bytes where {ends[-1]} belong")
        view = memoryview(data)
        return _Reader([view[a:b] for a, b in pairwise(ends)]).column(notes["tree"])
    except (KeyError, TypeError, IndexError, StopIteration, struct.error, SyntaxError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def order_of(x: np.ndarray) -> str:
    """ "F" for an array that lies in columns, "C" for all others."""
    return "F" if x.flags.f_contiguous and not x.flags.c_contiguous else "C"


@lru_cache(maxsize=256)
def description(dtype: np.dtype[Any]) -> str | None:
    """A dtype as text, as in the header of an .npy file; None where that would not bring it back."""
    if dtype.hasobject or dtype.kind not in "biufcmMSUV" or (dtype.kind == "V" and dtype.type is not np.void):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # metadata is left out; nothing computes with it
        try:
            described = np.lib.format.dtype_to_descr(dtype)
            return repr(described) if np.lib.format.descr_to_dtype(described) == dtype else None
        except (ValueError, TypeError):  # overlapping fields
            return None


def _dtype(described: str) -> np.dtype[Any]:
    dtype = np.lib.format.descr_to_dtype(ast.literal_eval(described))
    if dtype.hasobject:
        raise ValueError(f"found an array of {dtype}, whose contents would have to be unpickled")
    return dtype


def _kind(value: Any) -> Any:
    """What values must have in common to stand in one column; None for what does not fit."""
    kind = type(value)
    if kind in _WRITE:
        return kind
    if kind is np.ndarray:
        return None if description(value.dtype) is None else (kind, value.dtype, order_of(value))
    if isinstance(value, np.generic) and kind is value.dtype.type and description(value.dtype) is not None:
        return np.generic, value.dtype, ""
    return None


def _culprits(value: Any, index: int, where: str, depth: int = 0) -> Iterator[tuple[int, str, str]]:
    kind = type(value)
    if depth > DEEPEST:
        yield index, where, f"more than {DEEPEST} levels of lists, tuples and dictionaries"
    elif _kind(value) is None:
        of = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
        yield index, where, f"{kind.__module__}.{kind.__qualname__}{of}".removeprefix("builtins.")
    elif kind in (list, tuple):
        for number, inner in enumerate(value):
            yield from _culprits(inner, index, f"{where}[{number}]", depth + 1)
    elif kind is dict:
        for name, inner in value.items():
            yield from _culprits(name, index, f"{where}, among its keys,", depth + 1)
            yield from _culprits(inner, index, f"{where}[{name!r}]", depth + 1)
    elif kind is FailedSimulation:
        yield from _culprits(_fields(value), index, where, depth)


def _fields(failed: FailedSimulation) -> tuple[int, str, str]:
    return failed.index, failed.error, failed.traceback


class _Writer:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.depth = 0

    def keep(self, part: bytes) -> int:
        self.parts.append(part)
        return len(self.parts) - 1

    def lengths(self, values: Sequence[Any]) -> Any:
        """One number where all are as long, else [the part that holds their lengths]."""
        found = list(map(len, values))
        return found[0] if len(set(found)) == 1 else [self.keep(np.array(found, "<i8").tobytes())]

    def column(self, values: Sequence[Any]) -> Node:
        if not values:
            return {"kind": "none", "n": 0}
        if self.depth > DEEPEST:
            raise _Unfit
        kinds: list[Any] = list(set(map(type, values)))
        each: list[Any] = []
        if len(kinds) > 1 or kinds[0] not in _WRITE:
            each = [_kind(value) for value in values]
            kinds = list(dict.fromkeys(each))
            if None in kinds:
                raise _Unfit
        if len(kinds) == 1:
            kind = kinds[0]
            return (_WRITE[kind] if kind in _WRITE else _WRITE_NUMPY[kind[0]])(self, values)
        number = {kind: code for code, kind in enumerate(kinds)}
        codes = [number[kind] for kind in each]
        shares: list[list[Any]] = [[] for _ in kinds]
        for code, value in zip(codes, values, strict=True):
            shares[code].append(value)
        part = self.keep(np.array(codes, "<i4").tobytes())
        return {"kind": "mixed", "part": part, "of": [self.column(share) for share in shares]}

    def inner(self, values: Sequence[Any]) -> Node:
        """The column of what lies a level deeper."""
        self.depth += 1
        node = self.column(values)
        self.depth -= 1
        return node

    def nones(self, values: Sequence[Any]) -> Node:
        return {"kind": "none", "n": len(values)}

    def bools(self, values: Sequence[Any]) -> Node:
        return {"kind": "bool", "part": self.keep(bytes(values))}

    def ints(self, values: Sequence[int]) -> Node:
        try:
            return {"kind": "int", "part": self.keep(np.array(values, "<i8").tobytes())}
        except OverflowError:
            return {"kind": "hex", "values": [f"{value:x}" for value in values]}

    def floats(self, values: Sequence[float]) -> Node:
        return {"kind": "float", "part": self.keep(np.array(values, "<f8").tobytes())}

    def complexes(self, values: Sequence[complex]) -> Node:
        return {"kind": "complex", "part": self.keep(np.array(values, "<c16").tobytes())}

    def byte_strings(self, values: Sequence[bytes]) -> Node:
        lengths = self.lengths(values)
        return {"kind": "bytes", "n": len(values), "lengths": lengths, "part": self.keep(b"".join(values))}

    def texts(self, values: Sequence[str]) -> Node:
        return {
            "kind": "str",
            "of": self.byte_strings([value.encode("utf-8", "surrogatepass") for value in values]),
        }

    def numpy_texts(self, values: Sequence[Any]) -> Node:
        # Not as an array, which would forget zeros at the end; nor by str(), which does.
        plain = type(values[0]) is np.str_
        return {"kind": "np.str" if plain else "np.bytes",
                "of": self.column(["".join(v) if plain else bytes(list(v)) for v in values])}  # fmt: skip

    def sequences(self, values: Sequence[Any]) -> Node:
        kind = "list" if type(values[0]) is list else "tuple"
        lengths = self.lengths(values)
        of = self.inner(list(chain.from_iterable(values)))
        return {"kind": kind, "n": len(values), "lengths": lengths, "of": of}

    def dicts(self, values: Sequence[dict[Any, Any]]) -> Node:
        # 1, 1.0 and True are equal keys, and not the same: only plain names are compared and kept once.
        same = len(set(map(tuple, values))) == 1 and {type(key) for value in values for key in value} <= {str}
        keys = list(values[0]) if same else list(chain.from_iterable(values))
        held = list(chain.from_iterable(value.values() for value in values))
        return {"kind": "dict", "n": len(values), "lengths": self.lengths(values), "same": same,
                "keys": self.inner(keys), "of": self.inner(held)}  # fmt: skip

    def failed(self, values: Sequence[FailedSimulation]) -> Node:
        return {"kind": "failed", "of": self.column(list(map(_fields, values)))}

    def scalars(self, values: Sequence[Any]) -> Node:
        dtype = values[0].dtype
        part = self.keep(np.array(values, dtype).tobytes())
        return {"kind": "scalar", "n": len(values), "dtype": description(dtype), "part": part}

    def arrays(self, values: Sequence[Any]) -> Node:
        shapes = [value.shape for value in values]
        same = len(set(shapes)) == 1
        part = self.keep(b"".join(value.tobytes("A") for value in values))
        return {"kind": "array", "n": len(values), "dtype": description(values[0].dtype), "order": order_of(values[0]),
                "same": same, "shapes": shapes[:1] if same else shapes, "part": part}  # fmt: skip


_WRITE: dict[Any, Callable[[_Writer, Any], Node]] = {
    type(None): _Writer.nones, bool: _Writer.bools, int: _Writer.ints, float: _Writer.floats,
    complex: _Writer.complexes, bytes: _Writer.byte_strings, str: _Writer.texts, np.str_: _Writer.numpy_texts,
    np.bytes_: _Writer.numpy_texts, list: _Writer.sequences, tuple: _Writer.sequences, dict: _Writer.dicts,
    FailedSimulation: _Writer.failed,
}  # fmt: skip
_WRITE_NUMPY: dict[Any, Callable[[_Writer, Any], Node]] = {
    np.ndarray: _Writer.arrays, np.generic: _Writer.scalars,
}  # fmt: skip


class _Reader:
    def __init__(self, parts: list[memoryview]) -> None:
        self.parts = parts

    def column(self, node: Node) -> list[Any]:
        return _READ[node["kind"]](self, node)

    def numbers(self, node: Node, dtype: str) -> list[Any]:
        made: list[Any] = np.frombuffer(self.parts[node["part"]], dtype).tolist()
        return made

    def pieces(self, node: Node, whole: Any) -> Iterator[Any]:
        """`whole` cut as it was put together."""
        found = node["lengths"]
        lengths = np.frombuffer(self.parts[found[0]], "<i8").tolist() if type(found) is list else [found] * node["n"]
        for end, length in zip(accumulate(lengths), lengths, strict=True):
            yield whole[end - length : end]

    def mixed(self, node: Node) -> list[Any]:
        shares = [iter(self.column(share)) for share in node["of"]]
        return [next(shares[code]) for code in np.frombuffer(self.parts[node["part"]], "<i4").tolist()]

    def byte_strings(self, node: Node) -> list[Any]:
        return list(self.pieces(node, bytes(self.parts[node["part"]])))

    def dicts(self, node: Node) -> list[Any]:
        keys, inner = self.column(node["keys"]), self.pieces(node, self.column(node["of"]))
        named = [keys] * node["n"] if node["same"] else self.pieces(node, keys)
        return [dict(zip(names, values, strict=True)) for names, values in zip(named, inner, strict=True)]

    def scalars(self, node: Node) -> list[Any]:
        dtype = _dtype(node["dtype"])
        found = np.ndarray(node["n"], dtype, self.parts[node["part"]])
        return [value.copy() for value in found] if dtype.kind == "V" else list(found)

    def arrays(self, node: Node) -> list[Any]:
        dtype, part, order = _dtype(node["dtype"]), self.parts[node["part"]], node["order"]
        shapes = node["shapes"] * node["n"] if node["same"] else node["shapes"]
        made, start = [], 0
        for shape in map(tuple, shapes):
            size = math.prod(shape) * dtype.itemsize
            empty = np.ndarray(shape, dtype, order=order)
            made.append(np.ndarray(shape, dtype, part, start, order=order).copy(order) if size else empty)
            start += size
        return made


_READ: dict[str, Callable[[_Reader, Node], list[Any]]] = {
    "none": lambda _, node: [None] * node["n"],
    "bool": lambda reader, node: list(map(bool, reader.parts[node["part"]])),
    "int": lambda reader, node: reader.numbers(node, "<i8"),
    "hex": lambda _, node: [int(value, 16) for value in node["values"]],
    "float": lambda reader, node: reader.numbers(node, "<f8"),
    "complex": lambda reader, node: reader.numbers(node, "<c16"),
    "bytes": _Reader.byte_strings,
    "str": lambda reader, node: [value.decode("utf-8", "surrogatepass") for value in reader.column(node["of"])],
    "np.str": lambda reader, node: list(map(np.str_, reader.column(node["of"]))),
    "np.bytes": lambda reader, node: list(map(np.bytes_, reader.column(node["of"]))),
    "list": lambda reader, node: list(reader.pieces(node, reader.column(node["of"]))),
    "tuple": lambda reader, node: list(map(tuple, reader.pieces(node, reader.column(node["of"])))),
    "dict": _Reader.dicts,
    "failed": lambda reader, node: [FailedSimulation(*fields) for fields in reader.column(node["of"])],
    "scalar": _Reader.scalars,
    "array": _Reader.arrays,
    "mixed": _Reader.mixed,
}
