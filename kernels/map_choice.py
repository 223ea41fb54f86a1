"""What a decision about a map says: its request, its chunks, what to record, and the error where nothing is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..executors import mapping
from ..executors.errors import NoCandidateError
from ..executors.mapping import Method
from ..selector import maps
from ..selector.engine import Choice
from ..selector.maps import Facts, MapRequest
from ..telemetry.outcome import Failure

CHUNK_COST = 100.0
"""A chunk takes at least so many times what handing it over costs."""
LEAST_S = 1e-5
"""Handing a chunk over costs this much at least, whatever a backend says of itself."""
ENOUGH = 400.0
"""Beyond so many times what handing it over costs, a longer chunk saves nothing, and leaves workers idle at the end."""
LONGEST_S = 2.0
"""Seconds that a chunk takes at most: what a worker that is lost takes with it, and what a run that ends waits for."""


def request_of(choice: Choice) -> MapRequest:
    """The request that was decided."""
    request = choice.request
    assert isinstance(request, MapRequest)
    return request


def chunk_size(choice: Choice, method: Method, longest_s: float = LONGEST_S) -> int:
    """Items a chunk: enough to make handing over cheap, few enough to keep all workers busy to the end.

    `longest_s`: seconds that a chunk may take unless handing it over would cost too much.
    """
    request = request_of(choice)
    fair = max(1, math.ceil(request.items / request.jobs))
    even = max(1, math.ceil(request.items / (mapping.CHUNKS_A_WORKER * request.jobs)))
    item_s = request.facts.item_s
    if not item_s:
        return even
    hand_over_s = max(method.chunk_s, LEAST_S)
    # One process hands all chunks out: many workers need longer ones, or they wait for it.
    cheap = math.ceil(max(CHUNK_COST, 2.0 * request.jobs) * hand_over_s / item_s)
    enough_s = min(longest_s, ENOUGH * hand_over_s)
    return max(1, min(fair, max(cheap, min(math.ceil(even / 2), math.ceil(enough_s / item_s)))))


def resited(choice: Choice, variant: str, items: int, facts: Facts) -> Choice:
    """`choice` for what was run indeed, so that it is recorded as that."""
    asked = request_of(choice)
    request = maps.request(asked.operation, items, facts, asked.jobs, asked.cores, against={}, require=asked.require)
    return replace(choice, sites={**choice.sites, variant: request.site(choice.variants[variant])})


def nothing_left(choice: Choice, failures: Sequence[tuple[str, Failure, str]]) -> NoCandidateError:
    """The error that lists what was tried, and what was not and why."""
    lines = [f"  {name}: {failure} ({message})" for name, failure, message in failures]
    lines += [f"  {name}: not tried, {why}" for name, why in choice.decision.excluded]
    if failures[-1][1] is Failure.DRIVER:
        lines.append(
            "  sequential: not tried, for what kills a worker process kills this one. backend='sequential' does "
            "run it here."
        )
    error = NoCandidateError("\n".join([f"{choice.request.describe()}: not all items gave a result:", *lines]))
    error.failures = failures
    return error
