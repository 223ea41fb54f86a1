"""What maps forwent by running in place because workers would have had to start, and when that repays a start.

Nobody knows how many maps are still to come. Whoever starts workers once what they would have saved is what their
start costs pays at most twice what somebody pays who knows (rent or buy: Karlin, Manasse, Rudolph and Sleator 1988,
Algorithmica 3, 79).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..selector import maps
from ..selector.engine import Choice
from ..telemetry import lifetime
from .map_choice import request_of

SECONDS: dict[str, float] = {}
"""By variant, of this process, since a map last ran on worker processes."""


def promised(choice: Choice) -> dict[str, float]:
    """The seconds that each variant would save that has yet to start, if it ran; nothing where others run already."""
    request, gains, started = request_of(choice), dict[str, float](), False
    for found in choice.decision.candidates:
        executor, method = maps.executor_of(found.variant)
        if method.ships and not executor.start_s(choice.variants[found.variant]):
            started = True
        elif method.ships:
            gains[found.variant] = request.items * request.facts.item_s - found.prediction.seconds
    return {} if started else {variant: gain_s for variant, gain_s in gains.items() if gain_s > 0.0}


def add(seconds: Mapping[str, float]) -> None:
    """Note that a map ran in place, and what it forwent."""
    for variant, saved_s in seconds.items():
        SECONDS[variant] = SECONDS.get(variant, 0.0) + saved_s


def used() -> None:
    """Note that a map ran on workers: there are some, and nothing is forgone any more, whichever they are."""
    SECONDS.clear()


lifetime.in_child(SECONDS.clear)
