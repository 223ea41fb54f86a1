"""What a choice depends on, as plain data: made from a workload, or straight from arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ..executors import registry
from ..executors.base import Parameters, Shapes, Variant
from ..telemetry.outcome import Site
from .dtypes import itemsize
from .operations import Operation, find, is_built_in
from .signature import detail_of, shape_class

if TYPE_CHECKING:
    from .workload import WorkloadCharacteristics

DEVICES = ("cpu", "gpu", "cuda")
"""Kinds of device that a request may insist on."""


@dataclass(frozen=True, slots=True)
class Request:
    """One workload, canonical. `key` names it exactly; `detail` and `shape_class` place it in the history."""

    operation: str
    shapes: Shapes
    dtype: str
    parameters: Parameters = field(default_factory=dict)
    gradient: bool = False
    residency: str = "numpy"
    deterministic: bool = False
    accuracy: float | str = "standard"
    require: str | None = None
    work: float | None = None
    bytes: int | None = None
    expected_calls: int | None = None
    shape_class: str = ""
    detail: str = ""

    def insists_on(self, variant: Variant) -> bool:  # noqa: ARG002 (of arrays, a name asks for what works there)
        """Whether it is to be tried whatever failed before: it was named, and other arguments may do."""
        return False

    @classmethod
    def from_workload(cls, workload: WorkloadCharacteristics) -> Request:
        """The request that a workload stands for."""
        shapes = workload.shapes or ((),)
        parameters = dict(workload.parameters)
        if find(workload.operation_type) is not None:
            # As for a call on arrays: of a known operation the work is declared, and a float is a value, not a size.
            parameters = {name: value for name, value in parameters.items() if not isinstance(value, float)}
        return cls(
            operation=workload.operation_type,
            shapes=shapes,
            dtype=workload.dtype or "float64",
            parameters=parameters,
            gradient=workload.requires_gradient,
            residency=workload.residency,
            deterministic=workload.deterministic,
            accuracy=workload.accuracy,
            require=workload.require,
            work=workload.work,
            bytes=workload.bytes,
            expected_calls=workload.expected_calls,
            shape_class=shape_class(shapes),
            detail=detail_at(workload.operation_type, parameters, workload.requires_gradient, workload.residency),
        )

    @classmethod
    def from_arrays(
        cls, operation: str, shapes: Shapes, dtype: str, parameters: Parameters, gradient: bool, residency: str
    ) -> Request:
        """The request of a call on arrays."""
        detail = detail_at(operation, parameters, gradient, residency)
        return cls(
            operation, shapes, dtype, parameters, gradient, residency,
            shape_class=shape_class(shapes), detail=detail,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Elements of the first operand."""
        return prod(self.shapes[0]) if self.shapes else 1

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return itemsize(self.dtype)

    @property
    def kind(self) -> str:
        """Library whose arrays hold the data."""
        return self.residency.partition("@")[0]

    @property
    def device(self) -> str:
        """Device on which the data lies."""
        return self.residency.partition("@")[2] or "cpu"

    def known_operation(self) -> Operation | None:
        """The registered operation of this name, if there is one."""
        return find(self.operation)

    def heeds(self, wish: str) -> bool:
        """Whether what a scope or a setting insists on is meant for requests of this kind: a backend for arrays, or a
        kind of device."""
        return wish in DEVICES or registry.executor(wish).capabilities.array

    def work_of(self, variant: Variant) -> float:
        """Elementary operations that `variant` needs for it: declared, else counted in elements."""
        if self.work is not None:
            return max(self.work, 1.0) if math.isfinite(self.work) else 1.0
        operation = self.known_operation()
        declared = variant.work or (operation.work if operation else None)
        if declared is not None:
            work = float(declared(self.shapes, self.parameters))
            return max(work, 1.0) if math.isfinite(work) else 1.0
        return max(float(sum(prod(shape) for shape in self.shapes)), 1.0)

    def least_s(self, variant: Variant) -> float:  # noqa: ARG002
        """Seconds that `variant` cannot take less than, whatever was learned; 0.0 where nothing says so."""
        return 0.0

    def repaid_s(self, variant: Variant) -> float:  # noqa: ARG002
        """Seconds of importing and starting `variant` that need not be repaid any more."""
        return 0.0

    def bytes_of(self, variant: Variant) -> int:
        """Bytes of operands, result and the variant's workspace, at this dtype."""
        if self.bytes is not None:
            moved = float(self.bytes)
        else:
            operation = self.known_operation()
            if operation is not None and operation.bytes is not None:
                moved = operation.bytes(self.shapes, self.parameters) * self.itemsize / 8.0
            else:
                moved = 2.0 * self.itemsize * sum(prod(shape) for shape in self.shapes)
        if variant.workspace is not None:
            moved += variant.workspace(self.shapes, self.parameters) * self.itemsize / 8.0
        return int(moved)

    def site(self, variant: Variant) -> Site:
        """Where outcomes of `variant` on this request are recorded."""
        return Site(
            self.operation, variant.name, self.dtype, self.shape_class, self.detail, self.work_of(variant), self.size
        )

    def describe(self) -> str:
        """The request in one line."""
        shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape in self.shapes)
        return f"{self.operation} {shapes} {self.dtype}" + (f" ({self.detail})" if self.detail else "")


def detail_at(operation: str, parameters: Parameters, gradient: bool, residency: str) -> str:
    """The detail of a request's site: of all but built-in operations, what takes ever new values goes by class."""
    return detail_of(parameters, gradient, residency, "" if is_built_in(operation) else operation)
