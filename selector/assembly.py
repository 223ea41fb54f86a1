"""Putting an engine together from given parts and built-in ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from ..executors.breaker import Breakers
from ..telemetry import lifetime, memory
from ..telemetry.history import History
from ..telemetry.state import State
from .base import CostModel, Policy
from .carriage import Carriage
from .constraints import Machine
from .costs import Curves
from .engine import Engine
from .policy import ValueOfInformation
from .settings import Settings


class Parts(NamedTuple):
    """What a caller may replace (None: the built-in one), and whether accelerators count."""

    policy: Policy | None
    costs: CostModel | None
    gpu_memory: memory.GpuMemory | None
    host_budget: Callable[[], int] | None
    breakers: Breakers | None
    clock: Callable[[], float]
    use_gpu: bool


def assemble(
    parts: Parts, history: str | os.PathLike[str] | History | None, settings: Callable[[], Settings], learning: bool
) -> Engine:
    """An engine; without learning it neither reads a history for choosing nor opens one by itself."""
    now = settings()
    if not isinstance(history, History):
        if history is None:
            history = now.history if learning else ":memory:"  # nothing is read and nothing is recorded
        history = History.open(history)
    machine = Machine(
        parts.gpu_memory or memory.GpuMemory(reserve=now.gpu_memory_reserve),
        parts.breakers or Breakers(parts.clock),
        parts.host_budget or memory.host_budget_bytes,
        parts.use_gpu,
    )
    costs = parts.costs or Curves(history.state if learning else State())
    if isinstance(costs, Curves):
        costs.carry = Carriage(costs)
    engine = Engine(history, machine, parts.policy or ValueOfInformation(), costs, settings, learning=learning)
    # The flusher is at work in these whenever there is something to learn: a fork may come at any moment.
    lifetime.free_in_child(engine.learner, "lock")
    lifetime.free_in_child(machine.breakers)
    return engine
