"""What identifies a workload beside its name and dtype: classes of shapes, and parameters as canonical text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..executors.base import Shapes

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

Value = int | float | str | bool | None | tuple["Value", ...]
"""What a parameter may be."""

_PLAIN = (int, float, bool, type(None))  # their str is their repr
_CLASSES: dict[Shapes, str] = {}
_CLASSES_KEPT = 4096  # shapes seen by one process; a stream of ever new shapes must not grow memory

MANY, FAR = 32, 1000
"""A parameter that has had more values than that in this process, and a whole number beyond that, go by their class:
a seed, or the number of a step, must not make every call a workload of its own."""
VARIES = "=~"
"""What a detail says between the name and the class of such a parameter."""
_VALUES: dict[tuple[str, str], set[Any]] = {}  # by operation and name; so many and one more where there are many
_NAMES_KEPT = 4096


def shape_class(shapes: Shapes) -> str:
    """Half-octave class of every axis of every operand, such as "20x14|8".

    An axis of ``d`` elements has class ``round(2 log2 d)``, an empty one "e". Memoised: 60 ns once known.
    """
    found = _CLASSES.get(shapes)
    if found is None:
        axes = ((str(round(2 * math.log2(d))) if d else "e" for d in shape) for shape in shapes)
        found = "|".join(map("x".join, axes))
        if len(_CLASSES) >= _CLASSES_KEPT:
            _CLASSES.clear()
        _CLASSES[shapes] = found
    return found


def detail_of(
    parameters: Mapping[str, Any], gradient: bool = False, residency: str = "numpy", operation: str = ""
) -> str:
    """Canonical text of what a measured cost depends on beside operation, shapes and dtype.

    With the name of an operation, whole numbers, texts and tuples of it that take ever new values (`MANY`, `FAR`) are
    told by class, such as "seed=~46341": a number by its half-octave, as an axis is. Without, everything is told as it
    is.

    Raises
    ------
    TypeError
        If a parameter is not a number, string, bool, None or tuple of such.
    """
    if not parameters and not gradient and residency == "numpy":
        return ""
    parts = [_text(parameters, operation)] if parameters else []
    if gradient:
        parts.append("grad")
    if residency != "numpy":
        parts.append(residency)
    return ";".join(parts)


def _text(parameters: Mapping[str, Any], operation: str) -> str:
    if isinstance(parameters, Parameters) and not operation:
        return parameters.text
    texts = []
    for name in sorted(parameters):
        value = parameters[name]
        if type(value) not in _PLAIN:
            value = _plain(name, value)
        if operation and type(value) in (int, str, tuple) and _varies(operation, name, value):
            texts.append(f"{name}{VARIES}{class_of_value(value)!r}")
        else:
            texts.append(f"{name}={value!r}")
    return ",".join(texts)


def _varies(operation: str, name: str, value: Value) -> bool:
    """Whether this parameter takes ever new values, as far as this process has seen; `value` counts among them."""
    values = _VALUES.get((operation, name))
    if values is None:
        if len(_VALUES) >= _NAMES_KEPT:
            _VALUES.clear()
        values = _VALUES[operation, name] = set()
    if len(values) <= MANY:
        values.add(value)
    return len(values) > MANY or _far(value)


def _far(value: Value) -> bool:
    if isinstance(value, tuple):
        return any(map(_far, value))
    return type(value) is int and abs(value) > FAR


def class_of_value(value: Value) -> Value:
    """What stands for all values of the same class: the middle of a number's half-octave, an empty text."""
    if isinstance(value, tuple):
        return tuple(map(class_of_value, value))
    if type(value) is int and value:
        middle = round(math.exp2(round(2.0 * math.log2(min(abs(value), 1 << 512))) / 2.0))
        return middle if value > 0 else -middle
    return "" if type(value) is str else value


def _plain(name: str, value: Any) -> Value:
    """`value` as plain Python data, so that np.float64(0.5) and 0.5 are one parameter."""
    kind = type(value)
    if kind in _PLAIN or kind is str:
        return value  # type: ignore[no-any-return]
    if isinstance(value, np.generic):
        return _plain(name, value.item())
    if isinstance(value, str | int | float):  # an enum member, mostly
        base = next(base for base in (str, int, float) if isinstance(value, base))
        return base(value.value if hasattr(value, "value") else value)
    if isinstance(value, list | tuple):
        return tuple(_plain(name, item) for item in value)
    raise TypeError(
        f"parameters: {name!r} is {kind.__name__}; allowed are int, float, str, bool, None and tuples of these "
        "(what an array holds does not belong here: give its size, or leave it out)"
    )


class Parameters(Mapping[str, Value]):
    """A frozen mapping of what else the work depends on; order does not matter.

    Raises
    ------
    TypeError
        If a name is not a string, or a value not a number, string, bool, None or tuple of such.
    """

    __slots__ = ("_items", "text")

    text: str

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        given = dict(items or {})
        for name in given:
            if not isinstance(name, str) or not name.isidentifier():
                raise TypeError(f"parameters: a name must be a string that could name an argument, not {name!r}")
        self._items = {name: _plain(name, given[name]) for name in sorted(given)}
        self.text = ",".join(f"{name}={value!r}" for name, value in self._items.items())

    def __getitem__(self, name: str) -> Value:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (dict(self._items),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": True}

    @classmethod
    def _validate(cls, given: Any) -> Parameters:
        if isinstance(given, Parameters):
            return given
        if given is None or isinstance(given, Mapping):
            try:
                return cls(given)
            except TypeError as error:  # pydantic turns only ValueError into a report that names the field
                raise ValueError(str(error)) from error
        raise ValueError(f"parameters: found {type(given).__name__}; give a mapping of names to numbers or strings")


NO_PARAMETERS = Parameters()
