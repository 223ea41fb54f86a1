"""What a decision about a map says: its request, its chunks, what to record, and the error where nothing is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..executors import mapping
from ..executors.errors import NoCandidateError
from ..executors.mapping import Method
from ..selector import maps
from ..selector.engine import Choice
from ..selector.maps import Facts, MapRequest
from ..telemetry.outcome import Failure

LEAST = 10.0
"""A chunk takes at least so many times what handing it over costs."""
LEAST_S = 1e-5
"""Handing a chunk over costs this much at least, whatever a backend says of itself."""
ENOUGH = 400.0
"""Beyond so many times what handing it over costs, a longer chunk saves nothing."""
LONGEST_S = 2.0
"""Seconds that a chunk takes at most: what a worker that is lost takes with it, and what a run that ends waits for."""
UNKNOWN = 16
"""Where nothing is known of an item, a worker gets about so many chunks at most."""
PART = 1.5
"""A chunk is a worker's part of what is left, divided by this: one of half the speed does not hold others up."""


def request_of(choice: Choice) -> MapRequest:
    """The request that was decided."""
    request = choice.request
    assert isinstance(request, MapRequest)
    return request


def chunk_sizes(choice: Choice, method: Method, longest_s: float = LONGEST_S) -> Callable[[int], int]:
    """How many items the next chunk holds, given how many are left.

    In rounds of one chunk for each worker, each round a part of what is left: long chunks first, for few make handing
    over cheap, and short ones at the end, for they keep all workers busy to the last (factoring: Hummel, Schonberg and
    Flynn 1992, Commun. ACM 35(8), 90).

    Parameters
    ----------
    choice, method : what was decided, and how its backend runs chunks.
    longest_s : seconds that a chunk may take unless handing it over would cost too much.
    """
    request, now, same = request_of(choice), 0, 0
    items, jobs, item_s = request.items, request.jobs, request.facts.item_s
    if item_s:
        hand_over_s = max(method.chunk_s, LEAST_S)
        # One process hands all chunks out: many workers need longer ones, or they wait for it.
        least = max(1, math.ceil(max(LEAST, 2.0 * jobs) * hand_over_s / item_s))
        most = max(least, math.ceil(min(longest_s, ENOUGH * hand_over_s) / item_s))
    else:
        least, most = max(1, items // (UNKNOWN * jobs)), max(1, math.ceil(items / (mapping.CHUNKS_A_WORKER * jobs)))

    def size(left: int) -> int:
        nonlocal now, same
        if not same:
            rounds = round(left / (jobs * least))
            if rounds > 2:
                now, same = min(most, max(least, math.ceil(left / (PART * jobs)))), jobs
            else:
                now, same = math.ceil(left / (jobs * max(1, rounds))), jobs * max(1, rounds)
        same -= 1
        return now

    return size


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
