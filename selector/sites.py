"""Where runs that callers make themselves are recorded, and which of them are cold or failing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..executors import registry
from ..executors.base import Variant
from ..telemetry.outcome import Failure, Site
from .constraints import variants_of
from .engine import Choice, Engine
from .operations import find
from .request import Request

if TYPE_CHECKING:
    from .workload import WorkloadCharacteristics

MOST_SITES = 8192


class Sites:
    """Sites of (workload, backend), made once.

    Attributes
    ----------
    known : (workload key, backend) -> site; read on the hot path.
    fresh : sites whose first run may import or compile: it must not enter a steady estimate.
    failing : sites whose breaker the caller's own runs have opened.
    """

    def __init__(self, engine: Callable[[], Engine], choice_of: Callable[[WorkloadCharacteristics], Choice]) -> None:
        self._engine = engine
        self._choice_of = choice_of
        self.known: dict[tuple[Any, str], Site] = {}
        self.fresh: set[Site] = set()
        self.failing: set[Site] = set()

    def of(self, workload: WorkloadCharacteristics, backend: str) -> Site:
        """Where runs of `workload` on `backend` are recorded; ValueError for an unknown backend."""
        found = self.known.get((workload.key, backend))
        if found is None:
            name = backend.partition("@")[0].partition("/")[0]
            registry.row(name)
            request = Request.from_workload(workload)
            label = self._variant_name(workload, backend)
            variant = self._variant(request, label)
            if variant is not None:
                found = request.site(variant)
            else:
                found = Site(request.operation, label, request.dtype, request.shape_class, request.detail,
                             max(request.work or float(request.size), 1.0), request.size)  # fmt: skip
            if len(self.known) >= MOST_SITES:
                self.clear()
            if not registry.imported(name) or registry.executor(name).capabilities.compiles != "never":
                self.fresh.add(found)
            self.known[(workload.key, backend)] = found
        return found

    def first_run(self, site: Site) -> bool:
        """Whether this is the first run at `site`, and may therefore be a cold one; true once."""
        if site not in self.fresh:
            return False
        self.fresh.discard(site)
        return True

    def failed(self, workload: WorkloadCharacteristics, site: Site, failure: Failure, message: str) -> None:
        """Open the breaker, whether or not anything is learned: what does not run must not be chosen again."""
        request = Request.from_workload(workload)
        variant = self._variant(request, site.variant)
        if variant is not None:
            self._engine().failed(request, variant, failure, message)
            self.failing.add(site)

    def recovered(self, site: Site) -> None:
        """A site that had failed gave a result: close its breaker."""
        self.failing.discard(site)
        self._engine().machine.breakers.succeeded((site.operation, site.variant, site.dtype, site.shape_class))

    def clear(self) -> None:
        """Forget them; they are made again when asked for."""
        self.known.clear()
        self.fresh.clear()

    def _variant_name(self, workload: WorkloadCharacteristics, backend: str) -> str:
        """A backend's name stands for the variant that the decision means by it, else for its first one."""
        operation = find(workload.operation_type)
        if operation is None:
            return backend
        chosen = self._choice_of(workload).variant
        if chosen.backend == backend:
            return chosen.name
        names = [v.name for v in operation.variants if v.backend == backend]
        return backend if backend in names or not names else names[0]

    def _variant(self, request: Request, name: str) -> Variant | None:
        engine = self._engine()
        devices = engine.machine.devices(engine.settings())
        return next((v for v in variants_of(request.known_operation(), devices, (name,)) if v.name == name), None)
