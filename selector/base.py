"""The contracts of choosing: what a cost model predicts and what a policy is asked.

Deciding is pure. Clock, randomness, memory readings and history come in as arguments, so that any policy replays on
recorded history without hardware.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..telemetry.outcome import Site


@dataclass(frozen=True, slots=True)
class Prediction:
    """Expected steady seconds of one call, as a log-normal belief.

    Attributes
    ----------
    mu, sigma : location and scale of the natural logarithm of the mean seconds of calls.
    evidence : steady observations in this very cell.
    source : "measured" (this cell), "nearby" (other sizes), "prior" (shipped, or this variant in another dtype),
        "guess" (declared work, and what the variant does elsewhere).
    noise : scale by which single calls scatter around that mean.
    """

    mu: float
    sigma: float
    evidence: int
    source: str
    noise: float = 0.0

    @property
    def seconds(self) -> float:
        """Typical (median) seconds."""
        return math.exp(self.mu)

    @property
    def mean_s(self) -> float:
        """Expected seconds; doubt counts against a candidate, but a wild guess must not count without bound."""
        return math.exp(self.mu + 0.5 * min(self.sigma, 1.0) ** 2)

    @property
    def low(self) -> float:
        """Lower end of the interval in which 90 % of single calls are expected, seconds."""
        return math.exp(self.mu - 1.645 * math.hypot(self.sigma, self.noise))

    @property
    def high(self) -> float:
        """Upper end of that interval, seconds; 95 % of single calls are expected below it."""
        return math.exp(self.mu + 1.645 * math.hypot(self.sigma, self.noise))

    def at_least(self, seconds: float) -> Prediction:
        """The same, or `seconds` where it expects less than that."""
        return self if seconds <= 0.0 or self.seconds >= seconds else replace(self, mu=math.log(seconds))

    def gain_s(self, now_s: float) -> float:
        """Expected seconds saved a call that takes `now_s` at present, if what turns out slower is not kept.

        E[max(now_s - t, 0)] for log-normal t: the put of Black and Scholes (1973), with `now_s` as the strike.
        """
        if self.sigma <= 0.0:
            return max(0.0, now_s - self.seconds)
        d = (math.log(now_s) - self.mu) / self.sigma
        return max(0.0, now_s * _phi(d) - math.exp(self.mu + 0.5 * self.sigma**2) * _phi(d - self.sigma))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant that satisfies every constraint of this workload here and now."""

    variant: str
    backend: str
    device: str
    prediction: Prediction
    import_s: float = 0.0  # seconds of importing the library; 0.0 where it is imported already
    compile_s: float = 0.0  # seconds of a first call of this signature; 0.0 where it is compiled already
    per_shape: bool = False  # every new shape compiles anew, so that what is compiled serves this signature alone
    failing: float = 0.0  # share of its latest attempts here that failed
    lately_s: float | None = None  # what its latest call took here; None: it has not run here under this load

    @property
    def cold_s(self) -> float:
        """Seconds to be paid once before the first steady call."""
        return self.import_s + self.compile_s


@dataclass(frozen=True, slots=True)
class Question:
    """Everything a policy may look at.

    Attributes
    ----------
    candidates : in canonical order; never empty.
    default : variant that runs when nothing is known.
    calls : calls of this signature still expected (at least 1).
    seen : calls of this signature so far.
    usual : calls of this size class that earlier processes made, on average.
    at_stake_s : variant -> seconds already spent on what a trial here would teach about: this size, its neighbours,
        larger ones. The natural guess for what is still to come.
    may_save_s : cold variant -> seconds that it may save in the calls of all sizes still to come.
    untested : variants that have never run at a smaller size at which they would cost far less.
    spent_s : seconds spent at this very size.
    unseen_s : variant -> seconds spent at this very size since it last ran here; none but those that have.
    import_earned : backends whose import the calls so far would already have repaid.
    compile_earned : variants that the calls so far, of all sizes, would have repaid compiling once.
    incumbent : what ran last time, if anything.
    explore : whether a trial may be proposed at all.
    credit_s : seconds that a trial's loss may cost at most.
    """

    candidates: tuple[Candidate, ...]
    default: str
    calls: float = 1.0
    seen: float = 0.0
    usual: float = 0.0
    at_stake_s: Mapping[str, float] = field(default_factory=dict)
    may_save_s: Mapping[str, float] = field(default_factory=dict)
    untested: frozenset[str] = frozenset()
    spent_s: float = 0.0
    unseen_s: Mapping[str, float] = field(default_factory=dict)
    import_earned: frozenset[str] = frozenset()
    compile_earned: frozenset[str] = frozenset()
    incumbent: str | None = None
    explore: bool = False
    credit_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """A policy's answer.

    Attributes
    ----------
    order : variants, best first; the rest is the fallback chain.
    rule : "learned", "prior", "guard" or "default".
    reason : one sentence.
    trials : variants worth a call each to find out about, the most worthwhile first, each with the 95 % upper bound of
        what that call costs beyond the chosen one, seconds.
    """

    order: tuple[str, ...]
    rule: str
    reason: str
    trials: tuple[tuple[str, float], ...] = ()

    @property
    def trial(self) -> str | None:
        """The variant most worth a call, or None."""
        return self.trials[0][0] if self.trials else None

    @property
    def trial_loss_s(self) -> float:
        """What a call of `trial` costs at most beyond the chosen one."""
        return self.trials[0][1] if self.trials else 0.0


class CostModel(ABC):
    """Predicts steady seconds from the history."""

    @abstractmethod
    def predict(self, sites: Sequence[Site], backends: Sequence[str], context: str) -> list[Prediction]:
        """One prediction for each site; `sites[0]` is the default's, on which guesses about the others lean."""

    @abstractmethod
    def compile_s(self, site: Site, backend: str) -> float:
        """Expected seconds of a first call beyond a steady one."""

    @abstractmethod
    def forget(self, changed: set[tuple[str, str]] | None) -> None:
        """Drop what was fitted for the changed (operation, dtype) groups; all of them for None."""


class Policy(ABC):
    """Turns predictions into a ranking; holds no state of its own between questions."""

    name: str

    @abstractmethod
    def rank(self, question: Question) -> Ranking:
        """Answer `question`. Pure: the same question gives the same answer."""


def _phi(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
