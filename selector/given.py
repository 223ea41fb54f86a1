"""What callers pass by name, checked."""

from __future__ import annotations

from contextlib import suppress

from ..executors import registry
from ..executors.errors import BackendUnavailableError
from ..executors.table import BackendType
from ..telemetry.outcome import Failure
from .request import DEVICES


def hint(preferred: str | None) -> str | None:
    """A hint's name; "auto" and None mean no hint."""
    if preferred is None or preferred == "auto":
        return None
    if not isinstance(preferred, str):
        raise TypeError(f"preferred_backend: found {preferred!r}; give a backend's name, 'auto' or None")
    if preferred not in DEVICES:
        with suppress(BackendUnavailableError):  # a name of another version may be wished for, and is passed over
            registry.row(preferred.partition("@")[0].partition("/")[0])
    return str(preferred)


def no_workload(found: object) -> TypeError:
    """The error for what is no workload."""
    return TypeError(
        f"workload: found {found!r}; give a WorkloadCharacteristics, or a name and a shape to pointsman.select_backend"
    )


def failure_of(given: Failure | str) -> Failure:
    """A `Failure` by its value; a ValueError lists them."""
    try:
        return Failure(given)
    except ValueError:
        raise ValueError(f"failure={given!r} is none; allowed are: {', '.join(Failure)}") from None


_MEMBERS = {str(member): member for member in BackendType}


def member(name: str) -> str:
    """The `BackendType` of a built-in backend; a user's own stays the plain string that it is."""
    return _MEMBERS.get(name, name)
