"""Choosing off the hot path: request -> constraints -> predictions -> policy -> choice, and what outcomes change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from random import Random

from ..executors import registry
from ..executors.base import Variant
from ..executors.prepare import Prepared
from ..telemetry.attempts import announced
from ..telemetry.history import History
from ..telemetry.marks import Held
from ..telemetry.outcome import Failure, Outcome, Site
from ..telemetry.state import Group
from . import rules
from . import settings as settings_module
from .advice import Advice
from .base import CostModel, Policy
from .constraints import LARGE_WORKSPACE, Machine, breaker_key, place_of, variants_of, why_not
from .decision import Decision
from .failures import nothing_left, of_these_arguments
from .learner import MOST_KEPT, Learner, Option
from .logs import follow
from .overrides import Overrides
from .request import Request
from .settings import Settings, on_change
from .traffic import Due
from .verify import Sampling

SAMPLE_S = 2e-4
"""Calls faster than this are sampled once learned, so that no entry records more than about 5 000 calls a second."""
MOST_STRIDE = 256


@dataclass(slots=True)
class Choice:
    """A decision with what executing it needs. `tickets` holds trials, best last; exactly one call pops each."""

    request: Request
    decision: Decision
    variants: dict[str, Variant]
    sites: dict[str, Site]
    default_s: float
    tickets: list[str] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)  # what each trial may lose at most, seconds
    generation: int = 0  # of the settings under which it was made
    stride: int = 1
    sampling: Sampling | None = None  # which calls are verified; None: none of them

    @property
    def variant(self) -> Variant:
        """The chosen variant."""
        return self.variants[self.decision.variant]

    def expected_s(self, variant: str) -> float:
        """Seconds that a steady call of a candidate is expected to take; 0.0 where that is no more than a guess."""
        known = (c.prediction for c in self.decision.candidates if c.variant == variant)
        return next((p.seconds for p in known if p.source != "guess"), 0.0)


class Engine:
    """Makes choices: constraints, what the learner expects, overrides. Shared by all entry points of one selector.

    Attributes
    ----------
    learner : what is known, and what outcomes change in it.
    machine : what constraints need to know about this process and this computer.
    random : which calls are verified begins with it; to be replaced where that must be known beforehand.
    advice : says when an accelerator loses.
    """

    def __init__(
        self, history: History, machine: Machine, policy: Policy, costs: CostModel, settings: Callable[[], Settings],
        *, learning: bool = True,
    ) -> None:  # fmt: skip
        self.history = history
        self.machine = machine
        self.settings = settings
        self.learning = learning
        self.learner = Learner(history, policy, costs)
        self._overrides = Overrides(history, machine, settings, learning=learning)
        self.advice = Advice()
        self._warm: set[tuple[object, ...]] = set()
        self.random = Random()
        machine.breakers.marks = history.marks  # what is kept out stays so in the next process
        follow(settings())
        on_change(self._settings_changed)

    def _settings_changed(self) -> None:
        follow(self.settings())

    # ------------------------------------------------------------------------------------------ choosing

    def choose(self, request: Request, preferred: str | None = None, *, context: str | None = None) -> Choice:
        """Decide about `request`. Imports nothing, runs nothing, changes nothing that a later decision sees.

        Parameters
        ----------
        preferred : a hint, passed over where it cannot run.
        context : the load to decide for; None: the one that holds now.

        Raises
        ------
        NoCandidateError
            No variant satisfies the constraints; each is listed with its reason.
        """
        generation, settings = settings_module.generation, self.settings()  # in this order: the other may change
        operation = request.known_operation()
        devices = self.machine.devices(settings)
        asks = self._overrides
        insists, who = asks.insists(request, settings)
        variants = variants_of(operation, devices, asks.named(request, insists, preferred) if operation is None else ())
        if insists is not None and not request.require and asks.may_run(request, preferred, variants, settings):
            insists, who = None, ""  # the call goes over scope, process and environment
        fit, excluded = [], []
        for variant in variants:
            why = why_not(request, variant, settings, self.machine, insists)
            if why is None:
                fit.append(variant)
            else:
                excluded.append((variant.name, why))
        held = {} if fit else {name: why for name, why in excluded if isinstance(why, Held)}
        if held:  # a mark of memory passes over what did not fit while there is something else to run
            fit = [v for v in variants if v.name in held]
            excluded = [(name, why) for name, why in excluded if name not in held]
        fit = asks.pinned(request, fit, excluded, settings, preferred, insists)
        if not fit:
            raise nothing_left(request.describe(), excluded, insists, who)
        protected = operation is not None and operation.protected
        with self.learner.lock:
            choice = self._choose(request, fit, excluded, settings, preferred, who, protected, context)
        choice.generation = generation
        if held:
            notes = tuple(f"{name} {why}; nothing else is left, so it is tried" for name, why in held.items())
            choice.decision = replace(choice.decision, notes=(*choice.decision.notes, *notes))
        return choice

    def _choose(
        self, request: Request, fit: list[Variant], excluded: list[tuple[str, str]], settings: Settings,
        preferred: str | None, who: str, protected: bool, context: str | None,
    ) -> Choice:  # fmt: skip
        learner, sites = self.learner, {v.name: request.site(v) for v in fit}
        first = sites[fit[0].name]
        context = context or learner.context
        candidates = learner.candidates([self._option(request, v, sites[v.name]) for v in fit], context)
        calls = learner.calls_expected(first, request.expected_calls)
        default, default_rule = rules.default_of(request, candidates, first.work, calls)
        exploring = self.learning and settings.mode == "select"
        question = learner.question(
            first, candidates, default, told=request.expected_calls, learning=self.learning,
            explore=settings.explore if exploring and not (protected or request.deterministic or who) else 0.0,
        )  # fmt: skip
        ranking = learner.rank(question, first, context)
        ranking, set_by, passed_over, notes = self._overrides.apply(
            request, ranking, question, settings, preferred, who, fit
        )
        reason = default_rule if ranking.rule == "default" and ranking.order[0] == default else ranking.reason
        chosen = next(v for v in fit if v.name == ranking.order[0])
        by_name = {c.variant: c for c in candidates}
        decision = Decision(
            operation=request.operation, workload=request.describe(), variant=chosen.name, backend=chosen.backend,
            device=chosen.device, chain=ranking.order, rule=ranking.rule, reason=reason, set_by=set_by,
            candidates=tuple(by_name[name] for name in ranking.order), excluded=tuple(excluded),
            passed_over=passed_over, calls=max(question.calls, question.usual), trial=ranking.trial,
            context=context, table=learner.epoch, default=default, notes=notes,
        )  # fmt: skip
        expected = by_name[chosen.name].prediction.seconds
        return Choice(
            request, decision, {v.name: v for v in fit}, sites,
            default_s=by_name[default].prediction.seconds,
            tickets=[name for name, _ in reversed(ranking.trials)], losses=dict(ranking.trials),
            stride=max(1, min(MOST_STRIDE, int(SAMPLE_S / max(expected, 1e-7)))),
            sampling=self._sampling(request, settings),
        )  # fmt: skip

    def _sampling(self, request: Request, settings: Settings) -> Sampling | None:
        """Which calls of a choice are verified: none that record a gradient, and none without a default to go by."""
        operation = request.known_operation() if settings.verify else None
        if operation is None or request.gradient:
            return None
        return Sampling(settings.verify, self.random, operation.variants[0].name)

    def adopt(self, choice: Choice) -> None:
        """Note that calls will run by this choice: what the ledger and the import rule need to know about its class."""
        decision = choice.decision
        self.learner.adopt(
            choice.sites, decision.candidates, decision.default, decision.variant,
            binding=decision.rule in ("override", "required", "pinned"), learning=self.learning,
        )  # fmt: skip
        self.advice.consider(choice, self)

    def take_trial(self, choice: Choice) -> str | None:
        """The variant that this call is to try: handed out once a class, and only while the credit covers it."""
        try:
            trial = choice.tickets.pop()  # whichever thread comes first
        except IndexError:
            return None
        taken = self.learner.take_trial(choice.sites[trial], choice.losses.get(trial, 0.0), self.settings().explore)
        return trial if taken else None

    # ------------------------------------------------------------------------------------------ what is still cold

    def _option(self, request: Request, variant: Variant, site: Site) -> Option:
        import_s = 0.0 if registry.imported(variant.backend) else registry.import_cost_s(variant.backend)
        start_s = registry.executor(variant.backend).start_s(variant) + variant.pending_import_s
        repaid_s = request.repaid_s(variant)
        if repaid_s:
            import_s, start_s = max(0.0, import_s - max(0.0, repaid_s - start_s)), max(0.0, start_s - repaid_s)
        return Option(
            variant.name, variant.backend, variant.device, site, import_s, start_s, self.is_warm(request, variant),
            compiles(variant) == "shape", request.least_s(variant),
        )  # fmt: skip

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

    # ------------------------------------------------------------------------------------------ learning

    def learn(self, outcomes: Sequence[Outcome], changed: set[Group]) -> Due:
        """Take in a batch that the history has applied; returns where choices must be made again."""
        return self.learner.learn(outcomes, changed, self.machine.breakers.due_groups)

    def failed(self, request: Request, variant: Variant, failure: Failure, message: str) -> None:
        """Open the breaker for a listed failure; remember how much memory was too much, and who computes wrongly."""
        if of_these_arguments():
            return
        breakers, key = self.machine.breakers, breaker_key(request, variant)
        if failure is Failure.WRONG_RESULT:
            breakers.disqualify(key, variant.backend, message)
            return
        breakers.failed(key, failure, message)
        nbytes = request.bytes_of(variant)
        # Less on the host tells nothing about where memory ends, and is not asked about.
        if failure is Failure.OUT_OF_MEMORY and (variant.device != "cpu" or nbytes > LARGE_WORKSPACE):
            breakers.marks.failed(place_of(request, variant), nbytes, message, self.machine.spare(variant))

    def succeeded(self, request: Request, variant: Variant, prepared: Prepared | None = None) -> None:
        """Close the breaker, if one was open, and remember that the signature is warm, if it had anything to compile:
        empty data may be nothing to do."""
        self.machine.breakers.succeeded(breaker_key(request, variant))
        if prepared is None or not prepared.uncompiled:
            self.warmed(request, variant)
        nbytes = request.bytes_of(variant)
        if nbytes > LARGE_WORKSPACE:
            self.machine.breakers.marks.fitted(place_of(request, variant), nbytes)

    def announced(self, request: Request, variant: Variant) -> AbstractContextManager[None]:
        """To be held during an attempt: a large one on the host leaves word in the history, for it may be killed."""
        nbytes = request.bytes_of(variant)
        if variant.device != "cpu" or nbytes <= LARGE_WORKSPACE:
            return nullcontext()
        return announced(self.history, place_of(request, variant), nbytes, self.machine.spare(variant))

    def clear(self, *, everything: bool = True) -> None:
        """Forget all that was seen (the history was reset); `everything`: open breakers and the ledger as well."""
        if everything:
            self.machine.breakers.clear()
        self.learner.clear(everything=everything)


def compiles(variant: Variant) -> str:
    """When calls of `variant` compile: "never", "dtype" or "shape"."""
    return variant.compiles or registry.executor(variant.backend).capabilities.compiles
