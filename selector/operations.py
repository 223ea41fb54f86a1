"""Operations as the selector sees them: a name, variants in canonical order, declared work.

Kernels (a floor above) are operations with a reference and tolerances; user functions become operations through
`@adaptive`. The selector finds either by name here, so it never imports upwards.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..executors import registry
from ..executors.base import Cost, Variant
from ..executors.errors import BackendUnavailableError
from .portable import Portable, with_derived


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A named family of computations.

    Attributes
    ----------
    name : how workloads and the history refer to it.
    variants : ways to compute it, in canonical order; the first is the default and needs nothing but the base install.
        Of an operation that `find` gives, those derived from `portable` are among them.
    portable : one array-API implementation, from which a variant is derived for every backend with arrays of its own.
    work : elementary operations of one call, as a function of shapes and parameters; None: elements are counted.
    bytes : operands and result in bytes at 8 bytes an element; None: operands twice over.
    protected : never explored in line.
    """

    name: str
    variants: tuple[Variant, ...] = ()
    portable: Portable | None = None
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


_DECLARED: dict[str, Operation] = {}
_KNOWN: dict[str, Operation] = {}  # with the variants that their portable implementation gives
_PROVIDED: dict[str, str] = {}


def provide(table: Mapping[str, str]) -> None:
    """Announce operations by (name -> module holding `OPERATION`), loaded when first asked for."""
    _PROVIDED.update(table)


def register_operation(operation: Operation) -> None:
    """Make `operation` known by its name, replacing an earlier one of that name (a notebook redefines functions).

    `pointsman.run`, `explain` and workloads of that name then choose among its variants.

    Raises
    ------
    TypeError
        It is no `Operation`.
    ValueError
        Its name is that of a built-in kernel, it has neither variants nor a portable implementation, or one of its
        variants is for a backend that does not exist.
    """
    if not isinstance(operation, Operation):
        raise TypeError(
            f"register_operation: found {operation!r}; give an Operation(name=..., variants=(...)), or decorate your "
            "function with @pointsman.adaptive"
        )
    name = operation.name
    if name in _PROVIDED:
        raise ValueError(
            f"{name!r} is the name of a built-in kernel and stays what it is; choose another, such as 'mylib.{name}'"
        )
    if not operation.variants and operation.portable is None:
        raise ValueError(
            f"operation {name!r} has nothing to run: give it variants=(...), or portable=Portable(function)"
        )
    for variant in operation.variants:
        try:
            registry.row(variant.backend)
        except BackendUnavailableError:
            continue  # of another version: it is no candidate, and the others are
        except ValueError as error:
            raise ValueError(f"operation {name!r}, variant {variant.name!r}: {error}") from None
    _DECLARED[name] = operation
    _KNOWN.pop(name, None)


def find(name: str) -> Operation | None:
    """The operation called `name`, or None: any name is legal, an unknown one simply has no variants of its own."""
    found = _KNOWN.get(name)
    if found is None:
        declared = _DECLARED.get(name)
        if declared is None:
            if name not in _PROVIDED:
                return None
            declared = _DECLARED[name] = importlib.import_module(_PROVIDED[name]).OPERATION
        found = _KNOWN[name] = spread(declared)
    return found


def is_built_in(name: str) -> bool:
    """Whether `name` is that of a kernel of ours, whose parameters are few and known."""
    return name in _PROVIDED


def spread(operation: Operation) -> Operation:
    """`operation` with a variant for every backend that its portable implementation runs on."""
    if operation.portable is None:
        return operation
    return replace(operation, variants=with_derived(operation.variants, operation.portable))


def names() -> list[str]:
    """Names that have variants of their own, built-in ones first."""
    return [*_PROVIDED, *(name for name in _DECLARED if name not in _PROVIDED)]


def close_to(name: str, known: Iterable[str] | None = None) -> str | None:
    """The one of `known` (the built-in kernels) that a mistyped `name` may have meant."""
    close = difflib.get_close_matches(str(name), _PROVIDED if known is None else known, n=1)
    return close[0] if close else None


def meant(name: str, known: Iterable[str]) -> str:
    """What an error appends to an unknown `name`: " (did you mean 'fft'?)", or "" where none of `known` is close."""
    close = close_to(name, known)
    return "" if close is None else f" (did you mean {close!r}?)"


registry.on_change(_KNOWN.clear)
