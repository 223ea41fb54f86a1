"""Choosing off the hot path: request -> constraints -> predictions -> policy -> choice, and what outcomes change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from ..executors import registry
from ..executors.base import Variant
from ..executors.errors import BackendUnavailableError
from ..telemetry.history import History
from ..telemetry.outcome import Failure, Outcome, Site
from . import rules
from .base import Candidate, CostModel, Policy, Prediction, Question, Ranking
from .constraints import LARGE_WORKSPACE, Machine, breaker_key, matches, variants_of, why_not
from .decision import Decision
from .failures import nothing_left, of_these_arguments
from .ledger import Ledger
from .logs import follow, log
from .request import Request
from .settings import Settings, on_change, scope
from .traffic import ClassKey, SizeClass, Traffic, class_key
from .workload import DEVICES

SAMPLE_S = 2e-4
"""Calls faster than this are sampled once learned, so that no entry records more than about 5 000 calls a second."""
MOST_STRIDE = 256
MOST_KEPT = 20_000
PROCESSES = "processes"
"""Ledger entry of the history: how many processes have recorded, so that their calls can be averaged."""


@dataclass(slots=True)
class Choice:
    """A decision with what executing it needs. `tickets` holds trials; each is popped by exactly one call."""

    request: Request
    decision: Decision
    variants: dict[str, Variant]
    sites: dict[str, Site]
    default_s: float
    tickets: list[str] = field(default_factory=list)
    trial_loss_s: float = 0.0  # what a trial may lose at most
    stride: int = 1

    @property
    def variant(self) -> Variant:
        """The chosen variant."""
        return self.variants[self.decision.variant]


class Engine:
    """Makes choices and keeps what they rest on. Shared by all entry points of one selector."""

    def __init__(
        self, history: History, machine: Machine, policy: Policy, costs: CostModel, settings: Callable[[], Settings],
        *, learning: bool = True,
    ) -> None:  # fmt: skip
        self.history = history
        self.machine = machine
        self.policy = policy
        self.costs = costs
        self.settings = settings
        self.learning = learning
        self.frozen = False
        self.epoch = 0
        self.context = self._last_context = "quiet"
        self.ledger = Ledger(history)
        self._processes = history.ledger.get(PROCESSES, 0.0)  # that have recorded something before this one
        self._counted = False
        follow(settings())
        on_change(self._settings_changed)
        self.traffic = Traffic()
        self._lock = threading.RLock()
        self._predictions: dict[tuple[ClassKey, str, tuple[str, ...]], list[Prediction]] = {}
        self._warm: set[tuple[object, ...]] = set()
        self._handed_out: set[tuple[ClassKey, str]] = set()  # trials whose outcome has not been learned from
        self._at_risk_s = 0.0  # what trials may have lost since the last batch was learned from
        self._epochs = count(1)

    def _settings_changed(self) -> None:
        follow(self.settings())

    # ------------------------------------------------------------------------------------------ choosing

    def choose(self, request: Request, preferred: str | None = None) -> Choice:
        """Decide about `request`. Imports nothing, runs nothing, changes nothing that a later decision sees.

        Raises
        ------
        NoCandidateError
            No variant satisfies the constraints; each is listed with its reason.
        """
        settings = self.settings()
        operation = request.known_operation()
        devices = self.machine.devices(settings)
        insists, who = self._insists(request, settings)
        variants = variants_of(
            operation, devices, self._named(request, insists, preferred) if operation is None else ()
        )
        if insists is not None and not request.require and self._may_run(request, preferred, variants, settings):
            insists, who = None, ""  # the call goes over scope, process and environment
        fit, excluded = [], []
        for variant in variants:
            why = why_not(request, variant, settings, self.machine, insists)
            if why is None:
                fit.append(variant)
            else:
                excluded.append((variant.name, why))
        if not fit:
            raise nothing_left(request.describe(), excluded, insists, who)
        protected = operation is not None and operation.protected
        with self._lock:
            return self._choose(request, fit, excluded, settings, preferred, who, protected)

    def _choose(
        self, request: Request, fit: list[Variant], excluded: list[tuple[str, str]], settings: Settings,
        preferred: str | None, who: str, protected: bool,
    ) -> Choice:  # fmt: skip
        sites = {v.name: request.site(v) for v in fit}
        key = class_key(next(iter(sites.values())))
        seen = self.traffic.at(key) or SizeClass()
        candidates = self._candidates(request, fit, sites, key)
        calls = self._calls_expected(request, sites[fit[0].name])
        default, default_rule = rules.default_of(request, candidates, sites[fit[0].name].work, calls)
        told = request.expected_calls is not None
        usual = 0.0 if told else seen.usual or self._usual(key)
        exploring = self.learning and settings.mode == "select" and settings.explore > 0.0 and not self.frozen
        question = Question(
            candidates, default, calls, self.traffic.calls_of(sites[fit[0].name]), usual,
            at_stake_s=self.traffic.at_stake(key, candidates),
            import_earned=self.traffic.imports_earned(candidates),
            incumbent=seen.incumbent,
            explore=exploring and not (protected or request.deterministic or who),
            credit_s=self.ledger.credit_s(settings.explore),
        )  # fmt: skip
        ranking = self.policy.rank(question)
        ranking, set_by, passed_over, notes = self._override(request, ranking, question, settings, preferred, who, fit)
        reason = default_rule if ranking.rule == "default" and ranking.order[0] == default else ranking.reason
        chosen = next(v for v in fit if v.name == ranking.order[0])
        by_name = {c.variant: c for c in candidates}
        decision = Decision(
            operation=request.operation, workload=request.describe(), variant=chosen.name, backend=chosen.backend,
            device=chosen.device, chain=ranking.order, rule=ranking.rule, reason=reason, set_by=set_by,
            candidates=tuple(by_name[name] for name in ranking.order), excluded=tuple(excluded),
            passed_over=passed_over, calls=max(calls, usual), trial=ranking.trial, context=self.context,
            table=self.epoch, default=default, notes=notes,
        )  # fmt: skip
        expected = by_name[chosen.name].prediction.seconds
        return Choice(
            request, decision, {v.name: v for v in fit}, sites,
            default_s=by_name[default].prediction.seconds,
            tickets=[ranking.trial] if ranking.trial else [], trial_loss_s=ranking.trial_loss_s,
            stride=max(1, min(MOST_STRIDE, int(SAMPLE_S / max(expected, 1e-7)))),
        )  # fmt: skip

    def adopt(self, choice: Choice) -> None:
        """Note that calls will run by this choice: what the ledger and the import rule need to know about its class."""
        decision = choice.decision
        by_name = {c.variant: c for c in decision.candidates}
        basis, expected = by_name[decision.default].prediction, by_name[decision.variant].prediction
        with self._lock:
            seen = self.traffic.of(choice.sites[decision.default])
            seen.default_s, seen.default_known = basis.mean_s, basis.source in ("measured", "nearby")
            seen.chosen_s = expected.mean_s
            seen.usual = seen.usual or self._usual(class_key(choice.sites[decision.default]))
            seen.wishes = {}
            for c in decision.candidates:
                gain = expected.mean_s - c.prediction.mean_s
                if c.import_s and gain > 0.0 and c.prediction.source != "guess":
                    seen.wishes[c.backend] = max(seen.wishes.get(c.backend, 0.0), gain)
            if seen.calls and decision.rule not in ("override", "required"):  # one call's wish binds no other
                seen.incumbent = decision.variant

    def _usual(self, key: ClassKey) -> float:
        """Calls of a size class that processes before this one made, on average."""
        if not self.learning or not self._processes:
            return 0.0
        cells = self.history.state.of(key[0], key[1]).items()
        return sum(s.calls for (c, _), s in cells if c[3:] == key[2:]) / self._processes

    def take_trial(self, choice: Choice) -> str | None:
        """The variant that this call is to try: handed out once a class, and only while the credit covers it."""
        try:
            trial = choice.tickets.pop()  # whichever thread comes first
        except IndexError:
            return None
        key = (class_key(choice.sites[trial]), trial)
        with self._lock:
            left = self.ledger.credit_s(self.settings().explore) - self._at_risk_s
            if self.frozen or key in self._handed_out or choice.trial_loss_s > left:
                return None
            self._handed_out.add(key)
            self._at_risk_s += choice.trial_loss_s
        return trial

    def _insists(self, request: Request, settings: Settings) -> tuple[str | None, str]:
        """What must be used and who says so; call > scope > process > environment."""
        if request.require:
            return request.require, f"require={request.require!r} of the workload"
        here = scope()
        if here is not None and request.heeds(here):
            return here, f"use({here!r})"
        if settings.force is not None and request.heeds(settings.force):
            return settings.force, settings.origin.get("force", "settings")
        return None, ""

    def _override(
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
        if settings.mode != "select" or not self.learning:
            notes: tuple[str, ...] = ()
            if ranking.order[0] != question.default and settings.mode == "advise":
                notes = (f"advice: {ranking.order[0]} ({ranking.reason})",)
                log.info("%s: %s would be better than %s: %s", request.describe(), ranking.order[0],
                         question.default, ranking.reason)  # fmt: skip
            if not self.learning and ranking.rule == "prior":
                return ranking, "", "", ()  # a shipped prior is not learned, so switching learning off keeps it
            why = f"mode {settings.mode!r} changes nothing" if settings.mode != "select" else "learning is off"
            return Ranking(order, "default", why), settings.origin.get("mode", ""), "", notes
        return ranking, "", "", ()

    def _named(self, request: Request, *wishes: str | None) -> set[str | None]:
        """Backends that are asked for, or have run the operation."""
        return {*wishes, *(cell.variant for cell, _ in self.history.state.of(request.operation, request.dtype))}

    def _may_run(self, request: Request, wish: str | None, variants: Sequence[Variant], settings: Settings) -> bool:
        return wish is not None and any(
            matches(v, wish) and why_not(request, v, settings, self.machine, None) is None for v in variants
        )

    def _why_passed(self, request: Request, wish: str, insists: str | None) -> str:
        settings = self.settings()
        if wish in DEVICES and wish != "cpu" and not self.machine.devices(settings):
            return f"there is no usable {wish.upper()} here"
        reasons = [
            f"{v.name}: {why_not(request, v, settings, self.machine, insists)}"
            for v in variants_of(request.known_operation(), self.machine.devices(settings), (wish,))
            if matches(v, wish)
        ]
        if reasons:
            return "; ".join(reasons)
        try:
            why = registry.available(wish)
        except (ValueError, BackendUnavailableError) as error:
            return str(error)
        return why or f"{request.operation} has no variant on {wish}"

    # ------------------------------------------------------------------------------------------ the parts of a question

    def _candidates(
        self, request: Request, fit: list[Variant], sites: dict[str, Site], key: ClassKey
    ) -> tuple[Candidate, ...]:
        names = tuple(v.name for v in fit)
        cache = (key, self.context, names)
        predictions = self._predictions.get(cache)
        if predictions is None:
            predictions = self.costs.predict([sites[n] for n in names], [v.backend for v in fit], self.context)
            if len(self._predictions) > MOST_KEPT:
                self._predictions.clear()
            self._predictions[cache] = predictions
        return tuple(
            Candidate(v.name, v.backend, v.device, p, *self._cold(request, v, sites[v.name]), compiles(v) == "shape")
            for v, p in zip(fit, predictions, strict=True)
        )

    def _cold(self, request: Request, variant: Variant, site: Site) -> tuple[float, float]:
        """(import, compile and start of workers) seconds still to be paid."""
        import_s = 0.0 if registry.imported(variant.backend) else registry.import_cost_s(variant.backend)
        compile_s = 0.0 if self.is_warm(request, variant) else self.costs.compile_s(site, variant.backend)
        return import_s, compile_s + registry.executor(variant.backend).start_s(variant)

    def _warm_key(self, request: Request, variant: Variant) -> tuple[object, ...]:
        how = compiles(variant)
        if how == "shape":
            return (request.operation, variant.name, request.dtype, request.shapes, request.detail)
        ranks = tuple(map(len, request.shapes)) if how == "dtype" else ()
        return (request.operation, variant.name, request.dtype, ranks, request.gradient)

    def is_warm(self, request: Request, variant: Variant) -> bool:
        """Whether this signature has run in this process, so that nothing is left to compile."""
        return request.known_operation() is None or self._warm_key(request, variant) in self._warm

    def warmed(self, request: Request, variant: Variant) -> None:
        """Note that this signature has run."""
        if len(self._warm) > MOST_KEPT:
            self._warm.clear()
        self._warm.add(self._warm_key(request, variant))

    def _calls_expected(self, request: Request, site: Site) -> float:
        """Calls of this signature still to come: as said, else as many as there have been (ski rental)."""
        if request.expected_calls is not None:
            return float(request.expected_calls)
        return max(1.0, self.traffic.calls_of(site))

    # ------------------------------------------------------------------------------------------ learning

    def learn(self, outcomes: Sequence[Outcome], changed: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Take in a batch that the history has applied; returns the groups whose choices must be made again."""
        with self._lock:
            failed, changed_level = set(), set()
            for outcome in outcomes:
                self._count(outcome)
                if outcome.failure is not None:
                    failed.add((outcome.site.operation, outcome.site.dtype))
                elif self.traffic.surprised(outcome) and not self.frozen:
                    changed_level.add((outcome.site.operation, outcome.site.dtype))
            flipped = self._flips(outcomes)
            self._at_risk_s = 0.0
            due = failed if self.frozen else failed | changed_level | self.machine.breakers.due_groups()
            if not self.frozen:
                due |= self.traffic.grown(changed)
            if flipped and not self.frozen:
                due |= self.traffic.groups()
            if due:
                self.costs.forget(due)
                self._predictions = {k: v for k, v in self._predictions.items() if k[0][:2] not in due}
                self._handed_out = {key for key in self._handed_out if key[0][:2] not in due}
                self.epoch = next(self._epochs)
            return due

    def _count(self, outcome: Outcome) -> None:
        trial = outcome.rule == "explore"
        if not self._counted:
            self._counted = True
            self.history.add_ledger(PROCESSES, 1.0)
        if outcome.site.operation == "import" and not outcome.site.dtype:
            self.ledger.paid(outcome.seconds, 0.0, trial=trial, attempts=0)
            return
        seen, calls = self.traffic.count(outcome), float(outcome.calls)
        basis = seen.default_s if seen.default_known else outcome.seconds
        self.ledger.paid(outcome.seconds * calls, basis * calls, trial=trial, usual=seen.chosen_s if trial else 0.0)

    def _flips(self, outcomes: Sequence[Outcome]) -> bool:
        """Take over the load that two batches in a row were labelled with; a passing one is not worth new tables."""
        label = outcomes[-1].context if outcomes else self.context
        flips = label != self.context and label == self._last_context
        self._last_context = label
        if flips:
            self.context = label
        return flips

    def failed(self, request: Request, variant: Variant, failure: Failure, message: str) -> None:
        """Open the breaker for a listed failure and remember how much memory was too much."""
        if of_these_arguments():
            return
        key = breaker_key(request, variant)
        self.machine.breakers.failed(key, failure, message)
        if failure is Failure.OUT_OF_MEMORY:
            place = (request.operation, variant.name, variant.device)
            self.machine.breakers.too_much(place, request.bytes_of(variant), message)

    def succeeded(self, request: Request, variant: Variant) -> None:
        """Close the breaker, if one was open, and remember that the signature is warm."""
        self.machine.breakers.succeeded(breaker_key(request, variant))
        self.warmed(request, variant)
        nbytes = request.bytes_of(variant)
        if nbytes > LARGE_WORKSPACE:  # smaller ones tell nothing about where memory ends
            self.machine.breakers.fitted((request.operation, variant.name, variant.device), nbytes)

    def clear(self, *, everything: bool = True) -> None:
        """Forget all that was seen (the history was reset); `everything`: open breakers and the ledger as well."""
        with self._lock:
            if everything:
                self.machine.breakers.clear()
                self.ledger.clear()
                self._processes, self._counted = 0.0, False
            self.traffic.clear()
            self._handed_out.clear()
            self._predictions.clear()
            self.costs.forget(None)
            self.epoch = next(self._epochs)


def compiles(variant: Variant) -> str:
    """When calls of `variant` compile: "never", "dtype" or "shape"."""
    return variant.compiles or registry.executor(variant.backend).capabilities.compiles
