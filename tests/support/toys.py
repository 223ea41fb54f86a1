"""What tests of dispatching share: times told instead of taken, functions that fail, and what was counted."""

from __future__ import annotations

import numpy as np
from pointsman.selector.adaptive import Adaptive
from pointsman.telemetry.outcome import Outcome


def teach(selector, made, seconds, x=None, *, times=8):
    """Let the history say what each variant of a dispatcher, or of an adaptive function, takes for arrays like `x`."""
    x = np.ones(1000) if x is None else x
    made = made._dispatcher() if isinstance(made, Adaptive) else made
    request = made.request((x,), {})
    for name, taken in seconds.items():
        for _ in range(times):
            site = request.site(made.operation.variant(name))
            selector.history.record(Outcome(site, selector.history.now(), taken))
    selector.flush()


def summary(selector):
    found = selector.get_performance_summary()["operations"].get("toy", [])
    return {name: v for c in found for name, v in c["variants"].items()}


def failing(error):
    def run(x):
        raise error

    return run
