"""Constraints filter before learning: which variants can run this request here and now, and the sentence why not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ..executors import registry
from ..executors.base import Capabilities, Variant
from ..executors.breaker import Breakers
from ..telemetry import memory
from . import settings
from .operations import Operation
from .request import Request
from .settings import Settings

LARGE_WORKSPACE = 256 * 2**20
"""Requests above this many bytes have free memory read again instead of trusting the last reading."""
STRICT, LOOSE = 8.0, 1e4
"""accuracy="high" admits errors of so many units in the last place; "fast" so many."""
_EPS = {"float16": 9.8e-4, "bfloat16": 7.8e-3, "float32": 1.2e-7, "complex64": 1.2e-7}


def _no_function() -> Callable[..., Any]:
    raise RuntimeError("this operation has no function of its own; the caller runs it")


@dataclass
class Machine:
    """What constraints need to know about this process and this computer; tests put in their own."""

    gpu: memory.GpuMemory
    breakers: Breakers
    host_budget: Callable[[], int]
    use_gpu: bool = True
    _host: int | None = None
    _reachable: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def devices(self, settings: Settings) -> tuple[str, ...]:
        """Accelerator devices that may be used; never an imaginary one."""
        return self.gpu.devices() if self.use_gpu and not settings.disable_gpu else ()

    def reachable(self, backend: str) -> tuple[str, ...]:
        """Devices that the installed build of `backend` can use; asked once, for it may ask the driver."""
        if backend not in self._reachable:
            self._reachable[backend] = registry.executor(backend).devices()
        return self._reachable[backend]

    def host_bytes(self, *, fresh: bool) -> int:
        """Bytes of host memory that a call may take."""
        if fresh or self._host is None:
            self._host = self.host_budget()
        return self._host

    def spare(self, variant: Variant) -> int:
        """Bytes that a call of `variant` could take when that was last asked for; 0 where nothing tells it."""
        if variant.device == "cpu":
            return self.host_bytes(fresh=False)
        try:
            reusable = registry.executor(variant.backend).reusable_bytes(variant.device)
            return self.gpu.budget_bytes(variant.device, reusable)
        except LookupError:
            return 0


def variants_of(
    operation: Operation | None, devices: tuple[str, ...], named: Collection[str | None] = ()
) -> list[Variant]:
    """Every variant in canonical order; an operation without variants of its own has one per array backend.

    A library for one purpose (`Capabilities.general`) is among the latter only if it is `named`: asked for, or known
    to have run the operation.
    """
    if operation is not None:
        out = list(operation.variants)
    else:
        backends = registry.array_backends()
        out = [_bare(name, capable) for name, capable in backends if capable.general or name in named]
    names = {v.name for v in out}
    for device in devices:
        for v in list(out):
            name = f"{v.name.partition('@')[0]}@{device}"
            if name not in names and v.threads is None and _moves(v):
                names.add(name)
                out.append(replace(v, name=name, device=device))
    return out


def _bare(name: str, capable: Capabilities) -> Variant:
    """A backend as a variant of an operation whose functions are the caller's."""
    device = capable.home
    at = "" if device == "cpu" else f"@{device}"
    return Variant(f"{name}{at}", name, _no_function, device=device, gradients=capable.gradients)


def _moves(variant: Variant) -> bool:
    """Whether its function runs on an accelerator as soon as its arrays lie there."""
    capable = registry.executor(variant.backend).capabilities
    return "cuda" in capable.devices and not capable.device_bound


def why_not(
    request: Request, variant: Variant, settings: Settings, machine: Machine, restrict: str | None
) -> str | None:
    """None if `variant` can run `request` here and now, else the sentence why not.

    `restrict` is the backend or kind of device that something (workload, scope, settings) insists on.
    """
    if variant.backend in settings.disable:
        return f"disabled by {settings.origin.get('disable', 'settings')}"
    if restrict is not None and not matches(variant, restrict):
        return f"{restrict!r} is required"
    missing = registry.available(variant.backend)
    if missing is not None:
        return missing
    if variant.device != "cpu" and variant.device not in machine.devices(settings):
        return f"there is no usable {variant.device} here"
    if variant.device != "cpu" and variant.device not in machine.reachable(variant.backend):
        return f"{variant.backend} as installed here cannot use {variant.device}"
    return (
        unfit(request, variant)
        or _no_room(request, variant, machine)
        or (None if request.insists_on(variant) else machine.breakers.why_closed_out(breaker_key(request, variant)))
    )


def unfit(request: Request, variant: Variant) -> str | None:
    """None if `variant` can compute what is asked for, else the sentence why not: the same on every machine."""
    executor = registry.executor(variant.backend)
    return (
        _wrong_type(request, variant, executor.capabilities)
        or executor.refuses(request.dtype, resident=request.kind == executor.kind != "numpy")
        or _wrong_gradient(request, variant)
        or _inaccurate(request, variant)
        or (variant.supports(request.shapes, request.parameters) if variant.supports else None)
    )


def breaker_key(request: Request, variant: Variant) -> tuple[str, str, str, str]:
    """What a failure is held against: this variant, for this operation, dtype and size class."""
    return (request.operation, variant.name, request.dtype, request.shape_class)


def place_of(request: Request, variant: Variant) -> tuple[str, str, str]:
    """What a workspace is held against: this variant, for this operation, on its device."""
    return (request.operation, variant.name, variant.device)


def matches(variant: Variant, wanted: str) -> bool:
    """Whether `variant` is what a backend name, variant name or kind of device asks for."""
    if wanted in ("gpu", "cuda"):
        return variant.device != "cpu"
    if wanted == "cpu":
        return variant.device == "cpu"
    return wanted in (variant.backend, variant.name)


def _wrong_type(request: Request, variant: Variant, capable: Capabilities) -> str | None:
    if variant.dtypes is not None and request.dtype not in variant.dtypes:
        return f"it does not compute in {request.dtype}; it does in {', '.join(sorted(variant.dtypes))}"
    if request.deterministic and (variant.device != "cpu" or not capable.deterministic):
        return "it is not deterministic"
    return None


def _wrong_gradient(request: Request, variant: Variant) -> str | None:
    if not request.gradient:
        return None
    if not variant.gradients:
        return "it gives no gradient"
    kind = registry.executor(variant.backend).kind
    if request.kind != "numpy" and kind != request.kind:
        return f"a {request.kind} tensor that requires a gradient never leaves {request.kind}"
    return None


def _inaccurate(request: Request, variant: Variant) -> str | None:
    bound = variant.accuracy.get(request.dtype)
    if bound is None or request.accuracy == "standard":
        return None
    eps = _EPS.get(request.dtype, 2.2e-16)
    wanted = {"high": STRICT * eps, "fast": LOOSE * eps}.get(str(request.accuracy))
    limit = wanted if wanted is not None else float(request.accuracy)
    return f"its error may reach {bound:.1e}, {limit:.1e} is asked for" if bound > limit else None


def _no_room(request: Request, variant: Variant, machine: Machine) -> str | None:
    need = request.bytes_of(variant)
    fresh = need > LARGE_WORKSPACE
    if variant.device == "cpu":
        if not fresh:
            return None  # far below what any machine has; reading memory would cost more than the call
        free = machine.host_bytes(fresh=True)
    else:
        reusable = registry.executor(variant.backend).reusable_bytes(variant.device)
        try:
            if fresh:
                machine.gpu.refresh(variant.device)
            free = machine.gpu.budget_bytes(variant.device, reusable)
        except LookupError as error:
            return str(error)
    if need > free:
        where = "the host" if variant.device == "cpu" else variant.device
        return f"it needs {need / 2**20:,.0f} MiB, {where} has {free / 2**20:,.0f} MiB to spare"
    return machine.breakers.marks.why_not(place_of(request, variant), need, free)


def only_costs_decide(kind: str, home: str) -> bool:
    """Whether no setting or scope wishes for a backend of a kind, or against the one at home: a pilot there counts.

    Parameters
    ----------
    kind : the capability that tells the kind, "map" or "array".
    home : the backend of that kind that needs nothing.
    """
    now = settings.current()
    wishes = (settings.scope(), now.force, now.prefer)
    return home not in now.disable and not any(
        name is not None and getattr(registry.executor(name).capabilities, kind) for name in wishes
    )
