"""Operations as the selector sees them: a name, variants in canonical order, declared work.

Kernels (a floor above) are operations with a reference and tolerances; user functions become operations through
`@adaptive`. The selector finds either by name here, so it never imports upwards.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..executors.base import Cost, Variant


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A named family of computations.

    Attributes
    ----------
    name : how workloads and the history refer to it.
    variants : ways to compute it, in canonical order; the first is the default and needs nothing but the base install.
    work : elementary operations of one call, as a function of shapes and parameters; None: elements are counted.
    bytes : operands and result in bytes at 8 bytes an element; None: operands twice over.
    protected : never explored in line.
    """

    name: str
    variants: tuple[Variant, ...]
    work: Cost | None = None
    bytes: Cost | None = None
    protected: bool = False

    def variant(self, name: str) -> Variant:
        """The variant called `name`; a ValueError lists the known ones."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise ValueError(f"operation {self.name!r} has no variant {name!r}; it has: {known}")


_KNOWN: dict[str, Operation] = {}
_PROVIDED: dict[str, str] = {}


def provide(table: Mapping[str, str]) -> None:
    """Announce operations by (name -> module holding `OPERATION`), loaded when first asked for."""
    _PROVIDED.update(table)


def register(operation: Operation) -> None:
    """Make `operation` known by its name, replacing an earlier one of that name (a notebook redefines functions)."""
    _KNOWN[operation.name] = operation


def find(name: str) -> Operation | None:
    """The operation called `name`, or None: any name is legal, an unknown one simply has no variants of its own."""
    found = _KNOWN.get(name)
    if found is None and name in _PROVIDED:
        found = _KNOWN[name] = importlib.import_module(_PROVIDED[name]).OPERATION
    return found


def names() -> list[str]:
    """Names that have variants of their own, built-in ones first."""
    return [*_PROVIDED, *(name for name in _KNOWN if name not in _PROVIDED)]
