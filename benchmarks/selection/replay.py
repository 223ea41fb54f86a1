"""Replay: one policy through one stream of calls, without running anything; what it chose and what that cost.

A policy observes drawn seconds; what it is charged is the mean of its choice, plus what was cold, imported or wasted on
a failure: luck plays no part in a total. The draw for a call and a variant is the same for every policy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .streams import Call, Stream

METER_DELAY_S = 0.5  # virtual: a load meter that reads counters once a second lags by half of it
FAILED_SHARE = 0.2  # of its mean time a variant has used when it raises
TIMED_EVERY = 16  # of the decisions, one is timed
PREDICTED_EVERY = 8  # of the calls that no measure judges, one is asked for its prediction


class Policy(Protocol):
    """What chooses.

    May also have `prediction(call, variant) -> (low, typical, high) | None`: seconds of one warm call, the 90 %
    interval and what is typical.
    """

    name: str

    def choose(self, call: Call) -> str:
        """Name one of `call.variants`."""
        ...

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Take what the call took, import included; `cold` says that something was paid that is paid once."""
        ...

    def failed(self, call: Call, variant: str) -> None:
        """Take that the variant raised; `choose` follows, without it among the variants."""
        ...


@dataclass(frozen=True)
class Trace:
    """What one policy did; arrays by call, seconds.

    Attributes
    ----------
    chosen : column of the variant that ran, in the canonical order of the cell.
    paid : all that the call was charged: mean + cold + wasted.
    mean, best, default : warm mean of the variant that ran, of the best that worked, of the default.
    cold : charged once: what a first call cost beyond the mean, and imports.
    wasted : charged for attempts that raised.
    observed : what the policy was told, cold costs included.
    steady : bool, nothing cold was in `observed`.
    decided : wall seconds of a sampled share of the decisions, else nan.
    low, typical, high : the policy's prediction for what it chose, before it ran; nan where there is none.
    """

    policy: str
    stream: Stream
    chosen: np.ndarray
    paid: np.ndarray
    mean: np.ndarray
    best: np.ndarray
    default: np.ndarray
    cold: np.ndarray
    wasted: np.ndarray
    observed: np.ndarray
    steady: np.ndarray
    decided: np.ndarray
    low: np.ndarray
    typical: np.ndarray
    high: np.ndarray

    @property
    def regret(self) -> np.ndarray:
        """By call, the mean seconds of the choice, attempts that raised included, over those of the best."""
        regret: np.ndarray = (self.mean + self.wasted) / self.best
        return regret

    def variants(self) -> list[str]:
        """By call, the name of the variant that ran."""
        return [step.cell.variants[i] for step, i in zip(self.stream.steps, self.chosen.tolist(), strict=True)]


class Draws:
    """The drawn seconds of one stream under one seed, as nested lists: made once for all policies."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.stream, self.seed = stream, seed
        tables = stream.tables
        self.seconds: list[list[float]] = stream.draws(seed).tolist()
        self.mean: list[list[float]] = tables.mean.tolist()
        self.extra: list[list[float]] = tables.extra.tolist()
        self.warmth: list[list[int]] = tables.warmth.tolist()
        self.rows: list[int] = tables.row.tolist()
        self.slots = int(tables.warmth.max()) + 1
        working = np.where(tables.works, tables.mean, np.inf)
        self.best = working.min(axis=1)[tables.row]
        self.default = tables.mean[np.arange(len(tables.default)), tables.default][tables.row]


def replay(
    policy: Policy, stream: Stream, seed: int, *, draws: Draws | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Trace:  # fmt: skip
    """Drive the policy through every call of the stream.

    Parameters
    ----------
    draws : of this stream and seed, where several policies share them.

    Raises
    ------
    ValueError
        The policy chose a variant that the call does not offer.
    """
    if draws is None or draws.stream is not stream or draws.seed != seed:
        draws = Draws(stream, seed)
    run = _Run(policy, stream, draws, clock)
    for index in range(len(stream)):
        run.call(index)
    return Trace(
        policy.name, stream, np.asarray(run.chosen), np.asarray(run.paid), np.asarray(run.mean), draws.best,
        draws.default, np.asarray(run.cold), np.asarray(run.wasted), np.asarray(run.observed), np.asarray(run.steady),
        run.decided, *run.predicted.T,
    )  # fmt: skip


class _Meter:
    """The truth about the load, half a virtual second late."""

    def __init__(self, busy: bool) -> None:
        self.shown = self.truth = busy
        self._coming: deque[tuple[float, bool]] = deque()

    def read(self, now: float, truth: bool) -> bool:
        if truth != self.truth:
            self.truth = truth
            self._coming.append((now + METER_DELAY_S, truth))
        while self._coming and self._coming[0][0] <= now:
            self.shown = self._coming.popleft()[1]
        return self.shown


class _Run:
    """State of one replay."""

    def __init__(self, policy: Policy, stream: Stream, draws: Draws, clock: Callable[[], float]) -> None:
        self.policy, self.stream, self.draws, self.clock = policy, stream, draws, clock
        self.predict = getattr(policy, "prediction", None)
        self.meter = _Meter(stream.steps[0].call.busy)
        self.now = 0.0
        self.warm = bytearray(draws.slots)
        self.imported: set[str] = set()
        self.chosen: list[int] = []
        self.paid: list[float] = []
        self.mean: list[float] = []
        self.cold: list[float] = []
        self.wasted: list[float] = []
        self.observed: list[float] = []
        self.steady: list[bool] = []
        self.decided = np.full(len(stream), np.nan)
        self.predicted = np.full((len(stream), 3), np.nan)
        self.asked = (stream.judged | (np.arange(len(stream)) % PREDICTED_EVERY == 0)).tolist()

    def call(self, index: int) -> None:
        """One call: choose until something works, charge, tell the policy."""
        step, draws = self.stream.steps[index], self.draws
        call = _shown(step.call, self.now, self.meter.read(self.now, step.call.busy), step.call.variants)
        variant = self._choose(call, index % TIMED_EVERY == 0)
        order, row = step.cell.variants, draws.rows[index]
        wasted = 0.0
        while variant in step.broken:
            wasted += FAILED_SHARE * draws.mean[row][order.index(variant)]
            self.policy.failed(call, variant)
            left = tuple(name for name in call.variants if name != variant)
            call = _shown(call, self.now + wasted, call.busy, left)
            variant = self._choose(call, False)
        column = order.index(variant)
        if self.predict is not None and self.asked[index]:
            found = self.predict(call, variant)
            if found is not None:
                self.predicted[index] = found
        mean, seconds, once, slot = (
            draws.mean[row][column],
            draws.seconds[index][column],
            0.0,
            draws.warmth[row][column],
        )
        first = not self.warm[slot]
        if first:
            self.warm[slot] = 1
            once = draws.extra[row][column]
            seconds = mean + once
        imported = self._import_s(variant)
        once += imported
        seconds += imported
        self._keep(column, mean, once, wasted, seconds, not (first or imported))
        self.policy.observe(call, variant, seconds, bool(first or imported))

    def _choose(self, call: Call, timed: bool) -> str:
        if timed:
            start = self.clock()
            variant = self.policy.choose(call)
            self.decided[call.index] = self.clock() - start
        else:
            variant = self.policy.choose(call)
        if variant not in call.variants:
            raise ValueError(
                f"policy {self.policy.name!r} chose {variant!r} in call {call.index} of {self.stream.name}; "
                f"it offers: {', '.join(call.variants)}"
            )
        return variant

    def _import_s(self, variant: str) -> float:
        if not self.stream.imports:
            return 0.0
        backend = self.stream.matrix.backends[variant]
        if backend.name in self.imported:
            return 0.0
        self.imported.add(backend.name)
        return backend.import_s

    def _keep(self, column: int, mean: float, once: float, wasted: float, seconds: float, steady: bool) -> None:
        paid = mean + once + wasted
        self.chosen.append(column)
        self.mean.append(mean)
        self.cold.append(once)
        self.wasted.append(wasted)
        self.paid.append(paid)
        self.observed.append(seconds)
        self.steady.append(steady)
        self.now += paid


def _shown(call: Call, now: float, busy: bool, variants: tuple[str, ...]) -> Call:
    """The call as the policy sees it; `dataclasses.replace` would take longer than the rest of the replay."""
    default = call.default if call.default in variants or not variants else variants[0]
    return Call(
        call.index, now, call.operation, call.dtype, call.size, call.shapes, call.parameters, variants, default,
        call.works, call.backends, busy,
    )  # fmt: skip
