"""Who may overrule the policy: call > scope > process > environment > pinned (a lock file) > learned > default."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..executors import registry
from ..executors.base import Variant
from ..executors.errors import BackendUnavailableError
from ..telemetry.history import History
from ..telemetry.marks import Held
from . import settings as settings_module
from .base import Question, Ranking
from .constraints import Machine, matches, unfit, variants_of, why_not
from .lock import Lock, PinnedError
from .logs import log
from .maps import MapRequest
from .request import DEVICES, Request
from .settings import Settings, scope


class Overrides:
    """Applies what was asked for beside the workload to what the policy says.

    Parameters
    ----------
    history : says which backends have run an operation.
    machine, settings : what can run here, and what was asked for.
    learning : whether anything is learned at all.
    """

    def __init__(
        self, history: History, machine: Machine, settings: Callable[[], Settings], *, learning: bool = True
    ) -> None:
        self._history = history
        self._machine = machine
        self._settings = settings
        self._learning = learning
        self._read: tuple[str, int, Lock] | None = None

    def insists(self, request: Request, settings: Settings) -> tuple[str | None, str]:
        """What must be used and who says so; call > scope > process > environment."""
        if request.require:
            return request.require, f"require={request.require!r} of the workload"
        here = scope()
        if here is not None and request.heeds(here):
            return here, f"use({here!r})"
        if settings.force is not None and request.heeds(settings.force):
            return settings.force, settings.origin.get("force", "settings")
        return None, ""

    def apply(
        self, request: Request, ranking: Ranking, question: Question, settings: Settings, preferred: str | None,
        who: str, fit: list[Variant],
    ) -> tuple[Ranking, str, str, tuple[str, ...]]:  # fmt: skip
        """Apply requirement, preference, mode and determinism to what the policy says."""
        wish, by_call = _wish(preferred, settings)
        source = f"preferred_backend={preferred!r}" if by_call else settings.origin.get("prefer", "prefer")
        passed = ""
        if wish is not None and (not who or by_call):
            known = [v.name for v in fit if matches(v, str(wish))]
            if known:
                first = next(name for name in ranking.order if name in known)
                order = (first, *(name for name in ranking.order if name != first))
                return Ranking(order, "override", "preferred, and able to run"), source, "", ()
            passed = f"{source} is passed over: {self._why_passed(request, str(wish), request.require)}"
        if who:
            return Ranking(ranking.order, "required", "nothing else is allowed"), who, passed, ()
        order = (question.default, *(name for name in ranking.order if name != question.default))
        if request.deterministic:
            return Ranking(order, "deterministic", "a deterministic workload always takes the default"), "", passed, ()
        if settings.lock is not None and not isinstance(request, MapRequest):
            reason = self._pin_of(request, settings)[1]
            return Ranking(ranking.order, "pinned", reason), settings.origin.get("lock", "lock"), passed, ()
        if settings.mode == "pinned":
            return ranking, "", passed, ()  # a map: where its items run changes no value, so no lock holds it
        if settings.mode != "select" or not self._learning:
            notes: tuple[str, ...] = ()
            if ranking.order[0] != question.default and settings.mode == "advise":
                notes = (f"advice: {ranking.order[0]} ({ranking.reason})",)
                log.info("%s: %s would be better than %s: %s", request.describe(), ranking.order[0],
                         question.default, ranking.reason)  # fmt: skip
            if not self._learning and ranking.rule == "prior":
                return ranking, "", passed, ()  # a shipped prior is not learned, so switching learning off keeps it
            why = f"mode {settings.mode!r} changes nothing" if settings.mode != "select" else "learning is off"
            return Ranking(order, "default", why), settings.origin.get("mode", ""), passed, notes
        return ranking, "", passed, ()

    def pinned(
        self, request: Request, fit: list[Variant], excluded: list[tuple[str, str]], settings: Settings,
        preferred: str | None, who: str | None,
    ) -> list[Variant]:  # fmt: skip
        """Those of `fit` that may run under the lock, if there is one: a single variant; the others go to `excluded`.

        `who` is what must be used, where a call, a scope or a setting insists on something.

        Raises
        ------
        LockError
            The lock file cannot be used.
        PinnedError
            The pinned variant is not among `fit`, and nothing above the lock asks for another.
        """
        if settings.lock is None or request.deterministic or isinstance(request, MapRequest):
            return fit
        name, why = self._pin_of(request, settings)
        chosen = next((v for v in fit if v.name == name), None)
        wish = who or _wish(preferred, settings)[0]
        asked = [v for v in fit if wish is not None and matches(v, str(wish))]
        if asked and chosen not in asked:
            chosen, why = asked[0], f"{str(wish)!r} is asked for, and nothing else is tried under a lock"
        held = next((line for line in excluded if line[0] == name and isinstance(line[1], Held)), None)
        if chosen is None and held is not None and not who:  # it steers away from what may fail; here nothing else runs
            excluded.remove(held)
            known = variants_of(request.known_operation(), self._machine.devices(settings), (_backend(name),))
            chosen = next(v for v in known if v.name == name)
        if chosen is None:
            if who:
                return fit
            told = dict(excluded).get(name) or why_missing(request.operation, name, self._machine.devices(settings))
            raise PinnedError(
                f"{request.describe()} is pinned to {name} ({why}), and that cannot run here: {told}. "
                "Make it able to run, make a lock on a machine like this one (pointsman lock export), ask for another "
                f"backend in this call (require=...), or lift the lock ({settings.origin.get('lock', 'lock')})."
            )
        excluded += [(v.name, f"pinned to {chosen.name}: {why}") for v in fit if v is not chosen]
        return [chosen]

    def _pin_of(self, request: Request, settings: Settings) -> tuple[str, str]:
        """The variant that the lock gives `request`, and why; nothing that this machine has learned plays a part."""
        lock, path = self._lock(settings), settings.lock
        pin = lock.find(request.operation, request.dtype, request.shape_class, request.detail)
        if pin is None:
            family = " ".join(filter(None, (request.operation, request.dtype, request.detail)))
            return self.default_of(request, settings), f"{path} holds no {family}: the default"
        if pin.shape_class == request.shape_class:
            return pin.variant, f"{path} says so"
        return pin.variant, f"{path} says so for {pin.shape_class}, the size nearest to {request.shape_class}"

    def _lock(self, settings: Settings) -> Lock:
        """The content of the lock file: read once, and again after a change of settings, which drops all choices."""
        path, generation = str(settings.lock), settings_module.generation
        if self._read is None or self._read[:2] != (path, generation):
            self._read = (path, generation, Lock.read(path))
        return self._read[2]

    def default_of(self, request: Request, settings: Settings) -> str:
        """The default where neither costs nor what is installed here count: the first that computes it there."""
        variants = variants_of(request.known_operation(), self._machine.devices(settings))

        def away(variant: Variant) -> int:
            at_home = variant.device == request.device and registry.executor(variant.backend).kind == request.kind
            return 0 if at_home else 1 if variant.device == "cpu" else 2

        variants.sort(key=away)
        return next((v for v in variants if unfit(request, v) is None), variants[0]).name

    def named(self, request: Request, *wishes: str | None) -> set[str | None]:
        """Backends that are asked for, or have run the operation."""
        settings = self._settings()
        if settings.lock is not None:
            wishes = (*wishes, _backend(self._pin_of(request, settings)[0]))
        return {*wishes, *(cell.variant for cell, _ in self._history.state.of(request.operation, request.dtype))}

    def may_run(self, request: Request, wish: str | None, variants: Sequence[Variant], settings: Settings) -> bool:
        return wish is not None and any(
            matches(v, wish) and why_not(request, v, settings, self._machine, None) is None for v in variants
        )

    def _why_passed(self, request: Request, wish: str, insists: str | None) -> str:
        settings = self._settings()
        if wish in DEVICES and wish != "cpu" and not self._machine.devices(settings):
            return f"there is no usable {wish.upper()} here"
        reasons = [
            f"{v.name}: {why_not(request, v, settings, self._machine, insists)}"
            for v in variants_of(request.known_operation(), self._machine.devices(settings), (wish,))
            if matches(v, wish)
        ]
        if reasons:
            return "; ".join(reasons)
        try:
            why = registry.available(wish)
        except (ValueError, BackendUnavailableError) as error:
            return str(error)
        return why or f"{request.operation} has no variant on {wish}"


def _wish(preferred: str | None, settings: Settings) -> tuple[str | None, bool]:
    """What is preferred, and whether the call itself says so."""
    by_call = preferred is not None and preferred != "auto"
    return (preferred if by_call else settings.prefer), by_call


def _backend(variant: str) -> str:
    return variant.partition("@")[0].partition("/")[0]


def why_missing(operation: str, name: str, devices: Sequence[str]) -> str:
    """Why there is no variant called `name` here, where `devices` are all accelerators that may be used."""
    backend, device = _backend(name), name.partition("@")[2]
    try:
        missing = registry.available(backend)
    except (ValueError, BackendUnavailableError) as error:
        return str(error)
    if missing is None and device and device not in devices:
        return f"there is no usable {device} here"
    return missing or f"{operation} has no variant of that name here"
