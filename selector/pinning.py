"""Making a lock from what the history knows, and comparing one with this machine."""

from __future__ import annotations

import ast
import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..executors import registry
from ..executors.base import Shapes, Variant
from ..executors.breaker import Breakers
from ..executors.errors import BackendUnavailableError, NoCandidateError
from ..telemetry import hardware
from ..telemetry.history import History
from ..telemetry.memory import read_text
from ..telemetry.outcome import Site
from ..telemetry.show import about, seconds
from ..telemetry.sketch import Sketch
from .constraints import variants_of, why_not
from .engine import Choice, Engine
from .learner import Option
from .lock import Lock, LockError, Pin
from .maps import FAMILY
from .operations import Operation, find
from .overrides import why_missing
from .request import Request
from .selector import IntelligentBackendSelector
from .settings import Settings
from .shared import default_selector
from .signature import VARIES
from .traffic import ClassKey

_PLACE = re.compile(r"[A-Za-z_][\w.-]*(@\w+(:\d+)?)?")
LASTING = 1_000_000
"""Calls of a run that lasts: imports and compiling hardly count."""
NEVER_S = 1e12
"""Stands for the cold cost of a variant that was never measured: a shipped guess is no reason to pin anything to it."""
SIZES = 4
"""So many sizes of one class among its 16 latest calls show a stream of new ones."""
_VECTORS = ("avx512f", "avx2", "avx", "sse4_2", "sve", "asimd")  # the widest first; as /proc/cpuinfo names them


@dataclass(frozen=True, slots=True)
class _Seen(Request):
    """A request of a class that the history knows, made up from what it keeps of it."""

    own: Operation | None = None
    works: Mapping[str, float] = field(default_factory=dict)  # variant -> mean declared work of its calls
    trusted: frozenset[str] = frozenset()  # variants that were measured here, and the default
    repeats: float = math.inf  # calls of one and the same size, as far as the latest ones tell

    def known_operation(self) -> Operation | None:
        return self.own

    def work_of(self, variant: Variant) -> float:
        known = self.works.get(variant.name)
        if known is None and self.works and find(self.operation) is None:
            known = max(self.works.values())
        return known if known is not None else Request.work_of(self, variant)


class _Steady(Engine):
    """Chooses as a fresh process would, whatever has been imported in this one, and only what was measured."""

    def default_of(self, request: Request) -> str:
        """What runs where nothing is known."""
        return self._overrides.default_of(request, self.settings())

    def _option(self, request: Request, variant: Variant, site: Site) -> Option:
        option = Engine._option(self, request, variant, site)
        if isinstance(request, _Seen) and variant.name not in request.trusted:
            return replace(option, import_s=NEVER_S)
        cold = registry.row(variant.backend).library and variant.backend != "numpy"
        option = replace(option, import_s=registry.row(variant.backend).import_s if cold else 0.0)
        if option.per_shape and isinstance(request, _Seen) and request.repeats < (request.expected_calls or 1):
            # Ever-new sizes compile ever again: so much a call, whatever the number of calls.
            compile_s = self.learner.costs.compile_s(site, variant.backend)
            again_s = compile_s * (request.expected_calls or 1) / request.repeats
            option = replace(option, start_s=option.start_s + again_s)
        return option


@dataclass(frozen=True, slots=True)
class Compared:
    """One line of a lock, held against this machine.

    Attributes
    ----------
    pin : the line.
    why_not : "" or why it cannot run here.
    here : the variant that this machine has learned to take instead; "" where it is the same, or nothing is known.
    pinned_s, here_s : seconds a call that this machine expects of either; None: not known.
    """

    pin: Pin
    why_not: str = ""
    here: str = ""
    pinned_s: float | None = None
    here_s: float | None = None

    def told(self) -> str:
        """The comparison in a line; "" where there is nothing to tell."""
        pin = self.pin
        what = " ".join(filter(None, (pin.operation, about(pin.shape_class), pin.dtype, pin.detail)))
        if self.why_not:
            return f"{what}: locked {pin.variant} cannot run here: {self.why_not}"
        if not self.here or self.pinned_s is None or self.here_s is None:
            return ""
        gain = self.pinned_s / self.here_s
        locked, here = (seconds(float(f"{s:.2g}")) for s in (self.pinned_s, self.here_s))
        return f"{what}: locked {pin.variant} {locked}, here {self.here} {here}, {gain:.2g}x faster"

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        pin = self.pin
        names = ("operation", "dtype", "shape_class", "detail", "variant")
        return {
            **{name: getattr(pin, name) for name in names},
            "runs": not self.why_not, "why_not": self.why_not, "here": self.here or None,
            "locked_s": self.pinned_s, "here_s": self.here_s,
        }  # fmt: skip


def export_lock(
    path: str | os.PathLike[str] | None = None, *, calls: int = LASTING,
    selector: IntelligentBackendSelector | None = None,
) -> Lock:  # fmt: skip
    """Make a lock of what is known now, and write it to `path` (None: nowhere).

    For each operation, dtype, size class and detail that the history has seen, it holds what would be chosen on a quiet
    machine in a run that lasts, of what was measured here and the default. Operations of `pm.map` and conversions are
    left out: where a map runs changes no value.

    Parameters
    ----------
    path : written as JSON, replacing what stands there.
    calls : of each size, in a run under this lock: so many must repay an import and a compilation. The default is so
        many that these do not count.
    selector : whose history it is; default: the shared one.

    Raises
    ------
    LockError
        `path` cannot be written.

    See Also
    --------
    docs/pinned.md : what a run under a lock does.
    """
    selector = selector or default_selector()
    selector.flush()
    pins = []
    for key, (_, choice) in _choices(selector, calls).items():
        if choice is not None:
            decision = choice.decision
            chosen = decision.candidates[0].prediction
            told_s = float(f"{chosen.seconds:.2g}")
            pins.append(Pin(*key, decision.variant, told_s, chosen.evidence, decision.rule))
    lock = Lock(tuple(sorted(pins)), machine())
    if path is not None:
        try:
            Path(path).write_text(lock.text(), encoding="utf-8")
        except OSError as error:
            told = error.strerror or error
            raise LockError(
                f"the lock cannot be written to {os.fspath(path)!r} ({told}); choose another file"
            ) from error
    return lock


def compare(lock: Lock, *, selector: IntelligentBackendSelector | None = None) -> list[Compared]:
    """What this machine makes of `lock`, line by line: what cannot run here, and what it has learned to be faster."""
    selector = selector or default_selector()
    selector.flush()
    engine, known = _steady(selector), _choices(selector)
    compared = []
    for pin in lock.pins:
        request, choice = known.get((pin.operation, pin.dtype, pin.shape_class, pin.detail), (None, None))
        compared.append(_compared(engine, pin, request, choice))
    return compared


def unknown_operations(lock: Lock, *, selector: IntelligentBackendSelector | None = None) -> list[str]:
    """Operations of `lock` that are neither registered here nor in the history: only their libraries are compared."""
    selector = selector or default_selector()
    seen = {cell.operation for cell, _ in selector.history.state.cells}
    return sorted({pin.operation for pin in lock.pins if find(pin.operation) is None} - seen)


def versions_apart(lock: Lock) -> list[str]:
    """The libraries whose version is another here than where `lock` was made, a line each."""
    here = libraries()
    locked = lock.machine.get("libraries", {})
    if not isinstance(locked, Mapping):
        return []
    used = {pin.variant.partition("@")[0].partition("/")[0] for pin in lock.pins}
    return [
        f"{name}: locked with {version}, here {here.get(name, 'missing')}"
        for name, version in sorted(locked.items())
        if name in used and here.get(name) != version
    ]


def machine() -> dict[str, Any]:
    """This machine in general words: cores, instruction set, GPUs, versions; nothing that names the host."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    words = flags[1].split() if flags else []
    vectors = next((name for name in _VECTORS if name in words), "")
    return {
        "cores": hardware.usable_cores(),
        "isa": " ".join(filter(None, (platform.machine(), vectors))),
        "gpus": [gpu.name for gpu in hardware.gpus()],
        "python": platform.python_version(),
        "libraries": libraries(),
    }


def libraries() -> dict[str, str]:
    """Backend -> version of its library, of those that are there; imports none."""
    found = {}
    for name in registry.names():
        if registry.row(name).library and registry.available(name) is None:
            version = registry.executor(name).version()
            found[name] = version or _version(registry.row(name).library)
    return found


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


# ---------------------------------------------------------------------------------------------- asking the history


def _steady(selector: IntelligentBackendSelector) -> _Steady:
    """An engine over the selector's history that heeds no wish, explores nothing and changes nothing of the other's."""
    made, now = selector._engine, selector.settings
    settings = Settings(
        disable=now.disable, disable_gpu=now.disable_gpu, gpu_memory_reserve=now.gpu_memory_reserve, log=now.log,
        explore=0.0, origin={name: said for name, said in now.origin.items() if name.startswith("disable")},
    )  # fmt: skip
    own = replace(made.machine, breakers=Breakers())  # what has failed a moment ago says nothing about other runs
    return _Steady(made.history, own, made.learner.policy, made.learner.costs, lambda: settings)


def _choices(selector: IntelligentBackendSelector, calls: int = LASTING) -> dict[ClassKey, tuple[_Seen, Choice | None]]:
    """Each class that the history has seen, in order, with what would be chosen for so many calls; None: nothing."""
    engine = _steady(selector)
    with selector._engine.learner.lock:  # whose curves are asked
        choices: dict[ClassKey, tuple[_Seen, Choice | None]] = {}
        for key, request in _classes(engine.history, calls).items():
            request = replace(request, trusted=request.trusted | {engine.default_of(request)})
            choices[key] = request, _choose(engine, request)
        return choices


def _choose(engine: Engine, request: Request) -> Choice | None:
    try:
        return engine.choose(request)
    except NoCandidateError:
        return None


def _classes(history: History, calls: int) -> dict[ClassKey, _Seen]:
    """The classes that the history has seen, in order, each as a request."""
    classes: dict[ClassKey, list[tuple[str, Sketch]]] = {}
    for (cell, _), sketch in history.state.cells.items():
        family = cell.operation.partition(":")[0]
        if cell.dtype and family != FAMILY and not cell.operation.startswith("convert "):
            key = (cell.operation, cell.dtype, cell.shape_class, cell.detail)
            classes.setdefault(key, []).append((cell.variant, sketch))
    requests = {}
    for key in sorted(classes):
        sketches = classes[key]
        works = {name: math.exp2(sketch.log2_work) for name, sketch in sketches if sketch.count}
        request = _request(key, works, calls, [name for name, _ in sketches])
        measured = {cell.variant for (cell, _), sketch in history.state.of(*key[:2]).items() if sketch.count}
        repeats = min(_repeats(sketch) for _, sketch in sketches)
        requests[key] = replace(request, trusted=frozenset(measured), repeats=repeats)
    return requests


def _repeats(sketch: Sketch) -> float:
    """Calls of one and the same size among the latest; infinite where there are too few to tell."""
    works = [work for _, _, work in sketch.recent]
    sizes = len(set(works))
    return len(works) / sizes if sizes >= SIZES else math.inf


def _request(key: ClassKey, works: Mapping[str, float], calls: int, ran: list[str]) -> _Seen:
    operation, dtype, shape_class, detail = key
    parameters, gradient, residency = _read_detail(detail)
    known = find(operation)
    return _Seen(
        operation, _shapes(shape_class), dtype, parameters, gradient, residency, expected_calls=calls,
        shape_class=shape_class, detail=detail, own=known or _stand_in(operation, ran), works=works,
    )  # fmt: skip


def _shapes(shape_class: str) -> Shapes:
    """Shapes of the class: the middle of each axis."""
    return tuple(
        tuple(0 if axis == "e" else round(2 ** (int(axis) / 2)) for axis in operand.split("x") if axis)
        for operand in shape_class.split("|")
    )


def _read_detail(detail: str) -> tuple[dict[str, Any], bool, str]:
    """Parameters, gradient need and residency, as `detail_of` has written them."""
    residency, gradient = "numpy", False
    head, _, last = detail.rpartition(";")
    if last and last != "grad" and _PLACE.fullmatch(last):
        detail, residency = head, last
        head, _, last = detail.rpartition(";")
    if last == "grad":
        detail, gradient = head, True
    try:
        call = ast.parse(f"f({detail.replace(VARIES, '=')})", mode="eval").body  # a class is told by its middle
        assert isinstance(call, ast.Call)
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}, gradient, residency
    except (SyntaxError, ValueError):  # such as an infinite float: the detail itself still names the class
        return {}, gradient, residency


def _stand_in(operation: str, ran: list[str]) -> Operation:
    """An operation that is defined elsewhere: what has run it, NumPy first."""
    order = registry.names()
    names = sorted({"numpy", *ran}, key=lambda name: (name != "numpy", _place(order, name), name))
    variants = []
    for name in names:
        backend, device = _backend(name), name.partition("@")[2] or "cpu"
        try:
            differentiates = registry.executor(backend).capabilities.gradients
        except (ValueError, BackendUnavailableError):
            continue  # of another version
        variants.append(Variant(name, backend, _elsewhere, device=device, gradients=differentiates))
    return Operation(name=operation, variants=tuple(variants))


def _place(order: list[str], name: str) -> int:
    return order.index(_backend(name)) if _backend(name) in order else len(order)


def _backend(variant: str) -> str:
    return variant.partition("@")[0].partition("/")[0]


def _elsewhere() -> Any:
    raise RuntimeError("this operation is defined elsewhere; it is only compared here")


def _compared(engine: Engine, pin: Pin, request: _Seen | None, choice: Choice | None) -> Compared:
    if request is None:
        request = _request((pin.operation, pin.dtype, pin.shape_class, pin.detail), {}, LASTING, [pin.variant])
    elif find(pin.operation) is None:
        ran = [v.name for v in request.own.variants] if request.own else []
        request = replace(request, own=_stand_in(pin.operation, [*ran, pin.variant]))
    why = _why_not(engine, request, pin.variant)
    locked = choice.decision.candidate(pin.variant) if choice else None
    if locked is not None and locked.prediction.source == "guess":
        locked = None  # nothing is known here that could be told
    if why or choice is None or locked is None or choice.decision.variant == pin.variant:
        return Compared(pin, why)
    chosen = choice.decision.candidates[0]
    return Compared(pin, "", chosen.variant, locked.prediction.seconds, chosen.prediction.seconds)


def _why_not(engine: Engine, request: Request, name: str) -> str:
    """Why the variant `name` cannot run `request` here; "" where it can."""
    settings = engine.settings()
    devices = engine.machine.devices(settings)
    variant = next((v for v in variants_of(request.known_operation(), devices) if v.name == name), None)
    if variant is not None:
        return why_not(request, variant, settings, engine.machine, None) or ""
    return why_missing(request.operation, name, devices)
