"""Backends that installed packages offer, by an entry point of the group "pointsman.backends".

Finding them reads the metadata of what is installed and imports nothing. A backend's module is loaded when somebody
first asks about that backend: a listing does, or a decision that it could be a candidate in. What is wrong with an
offer is told where backends are listed, and never raised.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .base import Capabilities, Executor
from .errors import BackendUnavailableError

GROUP = "pointsman.backends"


@dataclass(frozen=True)
class Offer:
    """One backend of an installed package.

    Attributes
    ----------
    name : of the backend.
    package : name and version of what was installed.
    value : where its class is, "module:Class".
    problem : what is wrong with it, as far as the metadata tell; "" for nothing.
    """

    name: str
    package: str
    value: str
    problem: str = ""

    def load(self) -> Any:
        """What the entry point leads to; whatever its module raises comes out."""
        return metadata.EntryPoint(self.name, self.value, GROUP).load()

    @property
    def half_imported(self) -> bool:
        """Whether its module is being imported just now, by this thread or another."""
        spec = getattr(sys.modules.get(self.value.partition(":")[0].strip()), "__spec__", None)
        return bool(getattr(spec, "_initializing", False))

    def why_broken(self, error: BaseException) -> str:
        """The sentence for a listing."""
        return (
            f"{self.package} offers it as {self.value}, which cannot be used: {type(error).__name__}: {error}. "
            f"Mend or uninstall that package, or go on without: POINTSMAN_DISABLE={self.name}"
        )


class Broken(Executor):
    """Stands in a listing for a backend that could not be loaded; it can do nothing."""

    capabilities = Capabilities(frozenset(), array=False, devices=())

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason

    def unusable(self) -> str:
        """Why it could not be loaded."""
        return self.reason

    def probe(self) -> None:
        """Never gets this far: it is unavailable."""
        raise BackendUnavailableError(self.reason)


def offers(
    reserved: Collection[str], found: Iterable[metadata.EntryPoint] | None = None
) -> tuple[dict[str, Offer], list[str]]:
    """What installed packages offer, by name in alphabetical order, and complaints; 2 to 4 ms, so ask once.

    Parameters
    ----------
    reserved : names that are built in; an offer of one is passed over with a complaint.
    found : entry points to go by; None: those of the search path.
    """
    if found is None:
        found = metadata.entry_points(group=GROUP)
    by_name: dict[str, list[Offer]] = {}
    for point in sorted(found, key=lambda point: (point.name, _package(point))):
        by_name.setdefault(point.name, []).append(Offer(point.name, _package(point), point.value))
    out, complaints = {}, []
    for name, all_of_it in by_name.items():
        packages = " and ".join(dict.fromkeys(offer.package for offer in all_of_it))
        if name in reserved:
            complaints.append(
                f"{packages} offers a backend called {name!r}, which is a built-in name and stays what it is; its "
                "maintainer must choose another"
            )
            continue
        problem = wrong_name(name) or ""
        if len({offer.value for offer in all_of_it}) > 1:
            problem = f"{packages} offer a backend of this name; uninstall all of them but one"
        out[name] = Offer(name, packages, all_of_it[0].value, problem)
    return out, complaints


def wrong_name(name: object) -> str | None:
    """The sentence why `name` cannot be a backend's; None where it can."""
    if isinstance(name, str) and name.isidentifier() and name == name.lower():
        return None
    return f"a backend's name is a lower-case word such as 'cunumeric', not {name!r}"


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
