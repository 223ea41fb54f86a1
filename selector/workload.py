"""What is to be computed, as far as a choice or a cost depends on it."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from ..executors import conversion, registry
from ..executors.base import Shapes
from .dtypes import BY_SIZE, ITEMSIZE, canonical_dtype
from .request import DEVICES
from .settings import known_backends
from .signature import NO_PARAMETERS, Parameters, detail_of, shape_class

__all__ = ["Key", "Parameters", "WorkloadCharacteristics", "detail_of", "shape_class"]

Key = tuple[str, Shapes, str, str]
"""Identity of a workload: (operation, shapes, dtype, detail)."""

LEVELS = ("fast", "standard", "high")
KINDS = ("numpy", "torch", "jax", "cupy")
ITERATIVE_CALLS = 100  # what `is_iterative` alone says about the calls to come: a loop mostly repays a compilation


class WorkloadCharacteristics(BaseModel):
    """One computation to choose a backend for. Frozen, hashable, picklable.

    Two workloads are equal when nothing differs that a choice or a cost depends on (`expected_calls` counts in
    powers of ten).

    Parameters
    ----------
    operation_type : name of the operation; any name is legal and is learned under that name.
    data_size : elements of the first operand; derived from its shape, or alone standing for a 1-D operand.
    data_shape : shape of the first operand.
    shapes : shapes of all operands; the first is `data_shape`.
    dtype : NumPy-style name, or a dtype of NumPy, torch or jax; float64 unless given.
    dtype_size : bytes per element; alone it stands for a float of 2, 4 or 8 bytes or complex128 (16).
    parameters : what else the work depends on: taps, order, iterations.
    work : elementary operations of one call, where the caller knows them.
    bytes : bytes moved by one call, where the caller knows them.
    is_iterative : called in a loop: counts as ``expected_calls=100`` where that is not given.
    requires_gradient : the result must be differentiable.
    expected_calls : calls of this kind still to come, which must repay imports and compilations.
    residency : where the operands lie: "numpy", "torch", "torch@cuda:0", "jax", "cupy".
    deterministic : the same call must give the same bits again.
    accuracy : a bound on the error relative to the scale of the result, or "fast", "standard", "high".
    require : a backend, or a kind of device ("cpu", "gpu", "cuda"), without which nothing may run.
    requires_gpu : the same as ``require="gpu"``.

    Raises
    ------
    pydantic.ValidationError
        (a ValueError) naming the field, what was found and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    __slots__ = ("_key",)

    operation_type: str
    data_size: int | None = None
    data_shape: tuple[int, ...] | None = None
    shapes: Shapes = ()
    dtype: str = ""  # never empty once built: "" only says "not given"
    dtype_size: int = 0
    parameters: Parameters = NO_PARAMETERS
    work: float | None = None
    bytes: int | None = None
    is_iterative: bool = False
    requires_gradient: bool = False
    expected_calls: int | None = None
    residency: str = "numpy"
    deterministic: bool = False
    accuracy: float | Literal["fast", "standard", "high"] = "standard"
    require: str | None = None

    if TYPE_CHECKING:  # wider than the fields: what is accepted is not what is kept
        _key: Key

        def __init__(
            self,
            *,
            operation_type: str,
            data_size: int | None = None,
            data_shape: Sequence[int] | int | None = None,
            shapes: Sequence[Sequence[int]] | None = None,
            dtype: object = None,
            dtype_size: int | None = None,
            parameters: Mapping[str, Any] | None = None,
            work: float | None = None,
            bytes: int | None = None,
            is_iterative: bool = False,
            requires_gradient: bool = False,
            expected_calls: int | None = None,
            residency: str = "numpy",
            deterministic: bool = False,
            accuracy: float | str = "standard",
            require: str | None = None,
            requires_gpu: bool = False,
        ) -> None: ...

    else:

        def __new__(cls, *positional: Any, **_: Any) -> Self:
            if positional:  # pydantic's own error would name neither the class nor the fields
                raise TypeError(
                    f"{cls.__name__}: found {len(positional)} without a name, beginning with {positional[0]!r:.60}; "
                    "fields are given by name: operation_type=..., data_shape=..."
                )
            return super().__new__(cls)

    @classmethod
    def of(cls, operation: str, *arrays: Any, **hints: Any) -> Self:
        """Read shapes, dtype, residency and gradient need off `arrays` of any library; `hints` override them.

        The dtype is that of the first array; the residency that of the first array which is not NumPy's.

        Raises
        ------
        TypeError
            If an operand is not a plain array: numbers belong into ``parameters={...}``.
        """
        for place, x in enumerate(arrays, 1):
            kind = conversion.kind_of(x)
            if kind is None:
                raise TypeError(
                    f"operand {place} of {operation!r} is {type(x).__name__}, not an array; "
                    "give what is not an array by name: parameters={'order': 0.5}"
                )
            if kind in ("foreign", "tracer"):
                raise TypeError(f"operand {place} of {operation!r}: {conversion.why_refused(x, kind)}")
        if arrays:
            places = [conversion.residency(x) for x in arrays]
            hints.setdefault("dtype", conversion.dtype_name(arrays[0]))
            hints.setdefault("residency", next((place for place in places if place != "numpy"), "numpy"))
            hints.setdefault("requires_gradient", any(conversion.requires_grad(x) for x in arrays))
            hints.setdefault("shapes", tuple(tuple(int(d) for d in x.shape) for x in arrays))
        return cls(operation_type=operation, **hints)

    @property
    def key(self) -> Key:
        """The whole identity as a flat tuple; made once. (The slot `_key` spares the hot path a property call.)"""
        return self._key

    @property
    def history_detail(self) -> str:
        """The part of the detail that a measured cost depends on; `key` adds what only a choice depends on."""
        return detail_of(self.parameters, self.requires_gradient, self.residency)

    @property
    def shape_class(self) -> str:
        """Half-octave class of every axis of every operand."""
        return shape_class(self.shapes)

    @property
    def memory_footprint_mb(self) -> float:
        """The first operand in MiB."""
        return (self.data_size or 0) * self.dtype_size / 2**20

    @property
    def requires_gpu(self) -> bool:
        """Whether a GPU is required."""
        return self.require in ("gpu", "cuda")

    # ---- checks of one field each

    @model_validator(mode="before")
    @classmethod
    def _accept_requires_gpu(cls, given: Any) -> Any:
        if not isinstance(given, dict) or _FIELDS.issuperset(given):
            return given
        valid = [*cls.model_fields, "requires_gpu"]
        unknown = next((str(name) for name in given if name not in valid), None)
        if unknown is not None:
            close = difflib.get_close_matches(unknown, valid, n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"{unknown}: no field is called that{meant}; there are: {', '.join(valid)}")
        if "requires_gpu" not in given:
            return given  # a subclass's own fields
        given = dict(given)
        wanted, required = given.pop("requires_gpu"), given.get("require")
        if not isinstance(wanted, bool):
            raise ValueError(f"requires_gpu: found {wanted!r}; allowed are True and False")
        if wanted and required not in (None, "gpu", "cuda"):
            raise ValueError(f"requires_gpu=True contradicts require={required!r}; give one of them")
        if wanted:
            given["require"] = required or "gpu"
        return given

    @field_validator("operation_type", mode="plain")
    @classmethod
    def _check_name(cls, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"operation_type: found {value!r}; any name is allowed, an empty one is not")
        return str(value)

    @field_validator("data_size", "bytes", "expected_calls", mode="plain")
    @classmethod
    def _check_count(cls, value: Any, info: ValidationInfo) -> int | None:
        least = 1 if info.field_name == "expected_calls" else 0
        return None if value is None else _whole(value, str(info.field_name), least)

    @field_validator("data_shape", mode="before")
    @classmethod
    def _check_shape(cls, value: Any) -> tuple[int, ...] | None:
        return None if value is None else _shape(value, "data_shape")

    @field_validator("shapes", mode="before")
    @classmethod
    def _check_shapes(cls, value: Any) -> Shapes:
        if value is None:
            return ()
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"shapes: found {value!r}; give one shape per operand, such as ((1000, 8), (8,))")
        if any(not isinstance(shape, Sequence) for shape in value):
            raise ValueError(f"shapes: found {value!r}; one shape per operand: for a single one, use data_shape")
        return tuple(_shape(shape, "shapes") for shape in value)

    @field_validator("dtype", mode="plain")
    @classmethod
    def _check_dtype(cls, value: Any) -> str:
        return "" if value is None else canonical_dtype(value)

    @field_validator("dtype_size", mode="plain")
    @classmethod
    def _check_dtype_size(cls, value: Any) -> int:
        if value is None:
            return 0
        size = _whole(value, "dtype_size", 1)
        if size not in ITEMSIZE.values():
            raise ValueError(f"dtype_size: found {size} bytes; allowed are {sorted(set(ITEMSIZE.values()))}")
        return size

    @field_validator("work", mode="plain")
    @classmethod
    def _check_work(cls, value: Any) -> float | None:
        if value is None:
            return None
        if not _is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"work: found {value!r}; allowed is a finite number of operations, 0 or more")
        return float(value)

    @field_validator("residency", mode="plain")
    @classmethod
    def _check_residency(cls, value: Any) -> str:
        kind, _, device = str(value).partition("@")
        if str(value) in ("cpu", "host"):
            return "numpy"
        kinds = KINDS if kind in KINDS else (*KINDS, *(executor.kind for executor in registry.registered()))
        if kind not in kinds or str(value).endswith("@") or (kind == "numpy" and device not in ("", "cpu")):
            raise ValueError(
                f"residency: found {value!r}; allowed are {', '.join(kinds)}, each with a device where it has one "
                "('torch@cuda:0'), and 'cpu' or 'host' for numpy"
            )
        return kind if device in ("", "cpu") else f"{kind}@{device}"

    @field_validator("accuracy", mode="plain")
    @classmethod
    def _check_accuracy(cls, value: Any) -> float | str:
        if isinstance(value, str) and value in LEVELS:
            return str(value)
        if not _is_number(value) or not 0 < value < math.inf:
            levels = ", ".join(map(repr, LEVELS))
            raise ValueError(f"accuracy: found {value!r}; allowed are {levels} and a tolerance above 0")
        return float(value)

    @field_validator("require", mode="plain")
    @classmethod
    def _check_require(cls, value: Any) -> str | None:
        if value is None:
            return None
        allowed = (*known_backends(), *DEVICES)
        if not isinstance(value, str) or str(value) not in allowed:
            raise ValueError(f"require: found {value!r}; allowed are the backends and devices {', '.join(allowed)}")
        return str(value)

    # ---- what follows from what was given

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002 (pydantic's signature)
        """Derive what was left out, refuse what disagrees, and make the key."""
        fields = self.__dict__
        self._agree_on_shape(fields)
        self._agree_on_dtype(fields)
        if self.is_iterative and self.expected_calls is None:
            fields["expected_calls"] = ITERATIVE_CALLS
        self._make_key()

    def _agree_on_shape(self, fields: dict[str, Any]) -> None:
        shape, shapes, size = self.data_shape, self.shapes, self.data_size
        if shape is None:
            shape = shapes[0] if shapes else None if size is None else (size,)
        elif shapes and shapes[0] != shape:
            raise ValueError(
                f"shapes: the first operand is {shapes[0]}, but data_shape is {shape}; "
                "data_shape is the shape of the first operand: leave it out"
            )
        if shape is None:
            return
        elements = math.prod(shape)
        if size is not None and size != elements:
            raise ValueError(
                f"data_size: found {size} elements, but the shape {shape} has {elements}; leave data_size out"
            )
        fields.update(data_shape=shape, shapes=shapes or (shape,), data_size=elements)

    def _agree_on_dtype(self, fields: dict[str, Any]) -> None:
        dtype, itemsize = self.dtype, self.dtype_size
        if not dtype:
            if itemsize and itemsize not in BY_SIZE:
                raise ValueError(
                    f"dtype_size: {itemsize} bytes alone do not name a dtype; allowed alone are {sorted(BY_SIZE)}"
                )
            dtype = BY_SIZE[itemsize or 8]
        elif itemsize and ITEMSIZE[dtype] != itemsize:
            raise ValueError(
                f"dtype_size: found {itemsize} bytes, but {dtype} has {ITEMSIZE[dtype]}; leave dtype_size out"
            )
        fields.update(dtype=dtype, dtype_size=ITEMSIZE[dtype])

    def _make_key(self) -> None:
        parts = [detail_of(self.parameters, self.requires_gradient, self.residency)]
        if self.deterministic:
            parts.append("deterministic")
        if self.accuracy != "standard":
            parts.append(f"accuracy:{self.accuracy}")
        if self.require is not None:
            parts.append(f"require:{self.require}")
        if self.work is not None:
            parts.append(f"work:{self.work!r}")
        if self.bytes is not None:
            parts.append(f"bytes:{self.bytes}")
        if self.expected_calls is not None:
            parts.append(f"calls:1e{len(str(self.expected_calls)) - 1}")
        detail = ";".join(part for part in parts if part)
        object.__setattr__(self, "_key", (self.operation_type, self.shapes, self.dtype, detail))

    # ---- identity

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, WorkloadCharacteristics) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._make_key()  # slots do not travel with pydantic's state

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002
        """A workload that differs in `update`; validated, and derived fields are derived anew.

        `deep` makes no difference: everything inside is immutable.
        """
        if not update:
            return self
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for together in (("data_size", "data_shape", "shapes"), ("dtype", "dtype_size"), ("require", "requires_gpu")):
            if any(name in update for name in together):
                given = {name: value for name, value in given.items() if name not in together}
        return type(self)(**{**given, **update})


_FIELDS = frozenset(WorkloadCharacteristics.model_fields)  # asking the class costs ten times as much


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _whole(value: Any, field: str, least: int) -> int:
    try:
        number = least - 1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{field}: found {value!r}; allowed is a whole number, {least} or more")
    return number


def _shape(value: Any, field: str) -> tuple[int, ...]:
    if type(value) is tuple and all(type(d) is int and d >= 0 for d in value):  # nearly always
        return value
    if isinstance(value, int | np.integer):
        return (_whole(value, field, 0),)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{field}: found {value!r}; give whole numbers, such as (1000, 1000)")
    return tuple(_whole(d, field, 0) for d in value)
