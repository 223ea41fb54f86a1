"""Learners from the literature, each given its best chance: per-size history, UCB1, epsilon-greedy, LinUCB.

All learn from the logarithm of the seconds (but for the history, whose rule is the mean), because costs in one stream
span six decades. None is told what a first call pays for: `Warmed` keeps compilation out of their estimates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .streams import Call

Key = tuple[Hashable, ...]

HISTORY_SAMPLES = 10  # STARPU_CALIBRATE_MINIMUM's default
HISTORY_ERROR = 0.50  # STARPU_HISTORYMAXERROR's default: a sample further from the mean than this is an error
# Chosen in favour of the learners, on 20 000 uniform calls over the old form's quiet two-core matrix.
UCB_WIDTH = 0.1  # e-folds; totals over the oracle 1.54 with 0.03 and 0.1, 1.57 with 0.3, 1.72 with 1, 2.27 with 3
EPSILON = 0.003  # 1.54; 1.60 with 0.01, 1.75 with 0.03, 1.96 with 0.1; after a step, too, least with 0.003
# Of one sample's log seconds, and of the features (river's prior is a fixed standard normal): total 1.34, regret 1.17;
# 1.33 and 1.24 with the features as they are, 1.40 and 1.11 with ten times them, both at precision 10.
LINUCB_PRECISION, LINUCB_SCALE = 100.0, 3.0
LINUCB_CENTRE = 8.0  # e-folds below a second: what the prior expects, near the median of all recorded costs


class Warmed:
    """Keeps the first call of a variant out of what is learned, as its users are told to.

    A second cold call in a row is learned: a per-shape compiler that compiles every time costs that every time.
    """

    def __init__(self) -> None:
        self._last_cold: set[Hashable] = set()

    def counts(self, arm: Hashable, cold: bool) -> bool:
        """Whether this sample is to be learned."""
        if cold and arm not in self._last_cold:
            self._last_cold.add(arm)
            return False
        if not cold:
            self._last_cold.discard(arm)
        return True


class _Arm:
    """Samples of one variant in one cell."""

    __slots__ = ("errors", "mean", "n")

    def __init__(self) -> None:
        self.n, self.mean, self.errors = 0, 0.0, 0

    def add(self, value: float) -> None:
        self.n += 1
        self.mean += (value - self.mean) / self.n


class PerCell:
    """What the learners of one cell at a time share: an arm per variant, nothing known about other sizes."""

    name = "per-cell"

    def __init__(self) -> None:
        self._cells: dict[Key, dict[str, _Arm]] = {}
        self._warmed = Warmed()

    def choose(self, call: Call) -> str:
        """Each variant that has no sample yet, in canonical order; then by the rule of the class."""
        arms = self._arms(call)
        for variant in call.variants:
            if arms[variant].n == 0:
                return variant
        return self._pick(call, arms)

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Learn one sample."""
        if self._warmed.counts((_key(call), variant), cold):
            self._arms(call)[variant].add(math.log(seconds))

    def failed(self, call: Call, variant: str) -> None:
        """These rules know of no failures: here one counts as a sample of a hundred times the mean."""
        arm = self._arms(call)[variant]
        arm.add(arm.mean + math.log(100.0))

    def _pick(self, call: Call, arms: dict[str, _Arm]) -> str:
        raise NotImplementedError

    def _arms(self, call: Call) -> dict[str, _Arm]:
        key = _key(call)
        arms = self._cells.get(key)
        if arms is None:
            arms = self._cells[key] = {}
        if len(arms) < len(call.variants):
            for variant in call.variants:
                arms.setdefault(variant, _Arm())
        return arms


class Ucb1(PerCell):
    """UCB1 on log seconds, per cell (Auer, Cesa-Bianchi and Fischer 2002)."""

    name = "ucb1"

    def __init__(self, width: float = UCB_WIDTH) -> None:
        super().__init__()
        self._width = width

    def _pick(self, call: Call, arms: dict[str, _Arm]) -> str:
        total = sum(arm.n for arm in arms.values())
        spread = self._width * math.sqrt(2.0 * math.log(total))
        return min(call.variants, key=lambda variant: arms[variant].mean - spread / math.sqrt(arms[variant].n))


class EpsilonGreedy(PerCell):
    """The least mean log seconds of the cell, or with a small chance any variant."""

    name = "epsilon-greedy"

    def __init__(self, epsilon: float = EPSILON, seed: int = 0) -> None:
        super().__init__()
        self._epsilon, self._random = epsilon, random.Random(seed)

    def _pick(self, call: Call, arms: dict[str, _Arm]) -> str:
        if self._random.random() < self._epsilon:
            return self._random.choice(call.variants)
        return min(call.variants, key=lambda variant: arms[variant].mean)


class History(PerCell):
    """StarPU's history-based model: ten samples of each variant per exact size, then the least lifetime mean.

    The first measurement is dropped. A sample that is off by more than the limit is counted as an error instead of
    learned; once there are as many errors as samples, the entry is thrown away and measured anew.
    """

    name = "history"

    def __init__(self, samples: int = HISTORY_SAMPLES, error: float = HISTORY_ERROR) -> None:
        super().__init__()
        self._samples, self._limit = samples, 1.0 + error
        self._seen: set[Key] = set()

    def choose(self, call: Call) -> str:
        """The variant with the fewest samples while one has too few, then the least mean."""
        arms = self._arms(call)
        fewest = min(call.variants, key=lambda variant: arms[variant].n)
        if arms[fewest].n < self._samples:
            return fewest
        return min(call.variants, key=lambda variant: arms[variant].mean)

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:  # noqa: ARG002
        """Learn one sample, count it as an error, or throw the entry away."""
        key = (*_key(call), variant)
        if key not in self._seen:
            self._seen.add(key)
            return
        arm = self._arms(call)[variant]
        ratio = seconds / arm.mean if arm.n else 1.0
        if max(ratio, 1.0 / ratio) <= self._limit:
            arm.add(seconds)
            return
        arm.errors += 1
        if arm.errors >= arm.n:
            arm.n, arm.mean, arm.errors = 0, 0.0, 0

    def failed(self, call: Call, variant: str) -> None:
        """Nothing is learned: the runtime has no notion of a failing implementation."""


class LinUcb:
    """Disjoint LinUCB from river: reward -log seconds; features a quadratic in log2 size per (operation, dtype).

    One-hot features of (operation, dtype) that multiply the whole polynomial make the regression block-diagonal; the
    blocks are kept as one small bandit each, which is the same arithmetic and forty times as fast.

    Raises
    ------
    ModuleNotFoundError
        Where river is not installed: ``pip install river`` (a dependency of the benchmark only).
    """

    name = "linucb"

    def __init__(self, precision: float = LINUCB_PRECISION, seed: int = 0) -> None:
        from river import bandit

        self._make: Callable[[], Any] = lambda: bandit.LinUCBDisjoint(beta=precision, seed=seed)
        self._bandits: dict[tuple[str, str], Any] = {}
        self._warmed = Warmed()

    def choose(self, call: Call) -> str:
        """The arm of the highest upper bound, after one pull of each."""
        return str(self._bandit(call).pull(list(call.variants), _features(call)))

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Tell the reward."""
        if self._warmed.counts((call.operation, call.dtype, variant), cold):
            self._bandit(call).update(variant, _features(call), -math.log(seconds) - LINUCB_CENTRE)

    def failed(self, call: Call, variant: str) -> None:
        """A failure is rewarded like a thousand seconds."""
        self._bandit(call).update(variant, _features(call), -math.log(1e3) - LINUCB_CENTRE)

    def _bandit(self, call: Call) -> Any:
        group = (call.operation, call.dtype)
        found = self._bandits.get(group)
        if found is None:
            found = self._bandits[group] = self._make()
            found.burn_in = 1  # river 0.26.1: the argument of the same name ends up as the reward's scaler, and fails
        return found


def learners() -> dict[str, Callable[[], Any]]:
    """Name -> class of every learner that can run here."""
    made: dict[str, Callable[[], Any]] = {kind.name: kind for kind in (History, Ucb1, EpsilonGreedy)}
    if find_spec("river") is not None:
        made[LinUcb.name] = LinUcb
    return made


def absent() -> str | None:
    """One line that says which learner is left out for want of its library, or None."""
    if find_spec("river") is None:
        return f"{LinUcb.name} is left out: river is not installed (pip install river)"
    return None


def _features(call: Call) -> dict[str, float]:
    octaves = (math.log2(max(call.size, 1)) - 10.0) / 5.0  # about -1 to 3, so that one prior fits all coefficients
    return {"one": LINUCB_SCALE, "octaves": LINUCB_SCALE * octaves, "octaves2": LINUCB_SCALE * octaves * octaves}


def _key(call: Call) -> Key:
    return call.operation, call.dtype, call.size, call.parameters, call.shapes
