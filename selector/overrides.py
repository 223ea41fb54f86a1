"""Who may overrule the policy, and in which order: call > scope > process > environment > learned > default."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..executors import registry
from ..executors.base import Variant
from ..executors.errors import BackendUnavailableError
from ..telemetry.history import History
from .base import Question, Ranking
from .constraints import Machine, matches, variants_of, why_not
from .logs import log
from .request import Request
from .settings import Settings, scope
from .workload import DEVICES


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
        by_call = preferred is not None and preferred != "auto"
        wish = preferred if by_call else settings.prefer
        source = f"preferred_backend={preferred!r}" if by_call else settings.origin.get("prefer", "prefer")
        passed = ""
        if wish is not None and (not who or by_call):
            known = [v.name for v in fit if matches(v, str(wish))]
            if known:
                first = next(name for name in ranking.order if name in known)
                order = (first, *(name for name in ranking.order if name != first))
                return Ranking(order, "override", "preferred, and able to run"), source, "", ()
            passed = f"{source} is passed over: {self._why_passed(request, str(wish), request.require)}"
            if not who:
                return ranking, "", passed, ()
        if who:
            return Ranking(ranking.order, "required", "nothing else is allowed"), who, passed, ()
        order = (question.default, *(name for name in ranking.order if name != question.default))
        if request.deterministic:
            return Ranking(order, "deterministic", "a deterministic workload always takes the default"), "", "", ()
        if settings.mode != "select" or not self._learning:
            notes: tuple[str, ...] = ()
            if ranking.order[0] != question.default and settings.mode == "advise":
                notes = (f"advice: {ranking.order[0]} ({ranking.reason})",)
                log.info("%s: %s would be better than %s: %s", request.describe(), ranking.order[0],
                         question.default, ranking.reason)  # fmt: skip
            if not self._learning and ranking.rule == "prior":
                return ranking, "", "", ()  # a shipped prior is not learned, so switching learning off keeps it
            why = f"mode {settings.mode!r} changes nothing" if settings.mode != "select" else "learning is off"
            return Ranking(order, "default", why), settings.origin.get("mode", ""), "", notes
        return ranking, "", "", ()

    def named(self, request: Request, *wishes: str | None) -> set[str | None]:
        """Backends that are asked for, or have run the operation."""
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
