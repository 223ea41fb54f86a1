"""What a cluster would do, by arithmetic from what was measured on one machine: a prediction, no measurement.

One process hands out chunks and takes results, whatever the number of workers; so it is what limits, once the cores do
not. See docs/scaling.md for the formulas.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from ..report import seconds_text
from .apart import Apart, FailedError, TooLongError
from .hand import HANDS, OURS
from .tables import Effort, Table, count, megabytes, say

NODES, CORES = (1, 10, 100, 1000), 32
MARGIN = 2.0
"""The scheduler is to be busy for half of its time: chunks do not end evenly, and results cost it time as well."""
LINK_BYTES_PER_S = 1e9
"""Assumed: what one machine sends or receives at most, over 10 Gbit/s."""
RUN_S, COST_S, ARGUMENT_BYTES = 600.0, 1e-2, 50_000_000
"""The run: as many simulations of 10 ms as all cores do in ten minutes, with 50 MB of arguments for all of them."""
ON_CLUSTERS = ("dask", "ray", "mpi")


@dataclass(frozen=True)
class Floor:
    """What one more chunk costs whoever hands it out, and what comes back; measured on one machine.

    Attributes
    ----------
    task_s : seconds of one more chunk that does nothing, its workers warm.
    bytes_per_s : of results that reach the caller.
    bare_task_s, bare_bytes_per_s : the same of the engine used by hand, for comparison.
    """

    task_s: float
    bytes_per_s: float
    bare_task_s: float = math.nan
    bare_bytes_per_s: float = math.nan


@dataclass(frozen=True)
class Caller:
    """What results cost the caller.

    Attributes
    ----------
    result_s, result_bytes : of one number in a list.
    leaf_s, leaf_bytes : of a leaf of `leaf` simulations that a worker has folded.
    """

    result_s: float
    result_bytes: float
    leaf_s: float
    leaf_bytes: float
    leaf: int


@dataclass(frozen=True)
class Prediction:
    """One engine on so many workers.

    Attributes
    ----------
    least_chunk_s : seconds that a chunk must take so that the scheduler keeps up.
    chunk_s : seconds of the chunks that pointsman makes by itself.
    per_s : simulations a second with those; `needed_per_s`: with chunks of `least_chunk_s`, where that is longer.
    limit : what keeps `per_s` from being more.
    ships_s : seconds until the arguments have reached everybody.
    lost_share : share of the run that is idle at its end, at most, with chunks of `least_chunk_s`.
    """

    workers: int
    least_chunk_s: float
    chunk_s: float
    per_s: float
    needed_per_s: float
    limit: str
    ships_s: float
    lost_share: float


def predict(
    floor: Floor, caller: Caller, workers: int, *, own_chunk_s: float, cost_s: float = COST_S, reduced: bool = False,
    run_s: float = RUN_S, nodes: int = 1, per_worker: bool = True,
) -> Prediction:  # fmt: skip
    """Simulations a second, by the slowest of cores, scheduler, results and the caller.

    Parameters
    ----------
    floor, caller : measured.
    workers : at a time, of one core each, on `nodes` machines.
    own_chunk_s : seconds of the chunks that pointsman makes.
    cost_s : of one simulation.
    reduced : whether workers fold their results; a list of numbers otherwise.
    run_s : seconds of the run if the cores were the limit.
    per_worker : whether the arguments are sent to each worker, or once to each machine.
    """
    least_s = max(cost_s, MARGIN * workers * floor.task_s)
    chunk_s = max(own_chunk_s, cost_s)
    if reduced:
        each_s, nbytes = caller.leaf_s / caller.leaf, caller.leaf_bytes / caller.leaf
    else:
        each_s, nbytes = caller.result_s, caller.result_bytes
    bytes_per_s = min(LINK_BYTES_PER_S, floor.bytes_per_s)

    def rates(seconds: float) -> dict[str, float]:
        return {
            "cores": workers / cost_s,
            "scheduler": seconds / cost_s / floor.task_s,
            "results": bytes_per_s / nbytes,
            "caller": 1.0 / each_s,
        }

    own, long = rates(chunk_s), rates(max(chunk_s, least_s))
    limit = min(own, key=lambda name: own[name])
    copies = workers if per_worker else nodes
    return Prediction(
        workers, least_s, chunk_s, own[limit], min(long.values()), limit, ARGUMENT_BYTES * copies / bytes_per_s,
        min(1.0, max(chunk_s, least_s) / run_s),
    )  # fmt: skip


def own_chunk_s(variant: str, workers: int, cost_s: float = COST_S, run_s: float = RUN_S) -> float:
    """Seconds of the chunks that pointsman makes for a run of `run_s` on so many workers."""
    from pointsman.kernels.map_choice import chunk_sizes
    from pointsman.selector import maps

    n = round(run_s * workers / cost_s)
    request = maps.request(
        "map:scaling", n, maps.Facts(cost_s, cost_s, cost_s), workers, workers, against={}, require=None
    )
    choice = cast(Any, SimpleNamespace(request=request))
    return chunk_sizes(choice, maps.executor_of(variant)[1])(request.items) * cost_s


# ---- measuring, and telling


def floors(engines: Sequence[str], effort: Effort) -> tuple[dict[str, Floor], Caller]:
    """Measure them, of our runs and of the engine used by hand; one that does not get there is left out."""
    found: dict[str, Floor] = {}
    tasks, nbytes, parts = (100, 10_000, 4) if effort.quick else (2_000, 1_000_000, 60)
    with Apart() as process:
        caller = Caller(**process.call("collecting", leaves=4 if effort.quick else 400))
    for engine in engines:
        own, hand = dict[str, list[float]](), dict[str, list[float]]()
        try:
            with Apart() as ours, Apart() as theirs:
                for _ in range(effort.fewest):
                    given = {"tasks": tasks, "nbytes": nbytes, "parts": parts}
                    for told, process, name in ((own, ours, "our_floors"), (hand, theirs, "floors")):
                        who = {"backend": OURS[engine]} if process is ours else {"engine": engine}
                        for key, value in process.call(name, 90.0, **who, **given).items():
                            told.setdefault(key, []).append(value)
        except (TooLongError, FailedError) as error:
            say(engine, str(error))
            continue
        middle = {(at, key): statistics.median(told[key]) for at, told in enumerate((own, hand)) for key in told}
        found[engine] = Floor(middle[0, "task_s"], middle[0, "rate"], middle[1, "task_s"], middle[1, "rate"])
    return found, caller


def table(effort: Effort) -> Table:
    """Measure the floors, and predict."""
    engines = ("joblib",) if effort.quick else ON_CLUSTERS
    found, caller = floors(engines, effort)
    return predicted(found, caller)


def predicted(found: Mapping[str, Floor], caller: Caller) -> Table:
    """The table from floors that were measured: nothing is measured here."""
    head = [
        "engine, nodes x cores", "chunk at least", "our chunk", "list: simulations/s", "of all cores", "limit",
        "longer chunks", "reduced", "limit then", "50 MB to all", "idle at the end",
    ]  # fmt: skip
    rows, data = [], []
    for engine, floor in found.items():
        for nodes in NODES:
            workers = nodes * CORES
            given: dict[str, Any] = {
                "own_chunk_s": own_chunk_s(OURS[engine], workers), "nodes": nodes, "per_worker": engine != "ray",
            }  # fmt: skip
            listed = predict(floor, caller, workers, **given)
            folded = predict(floor, caller, workers, reduced=True, **given)
            longer = predict(floor, caller, workers, reduced=True, **{**given, "own_chunk_s": listed.least_chunk_s})
            data.append({"engine": engine, "nodes": nodes, "listed": vars(listed), "folded": vars(folded)})
            rows.append([
                f"{engine}, {nodes:,} x {CORES}", seconds_text(listed.least_chunk_s), seconds_text(listed.chunk_s),
                _rate(listed.per_s), f"{listed.per_s * COST_S / workers:.0%}", listed.limit, _rate(listed.needed_per_s),
                _rate(folded.needed_per_s), longer.limit, seconds_text(listed.ships_s), f"{listed.lost_share:.1%}",
            ])  # fmt: skip
    measured = ", ".join(
        f"{engine} {seconds_text(floor.task_s)} a chunk ({1 / floor.task_s:,.0f} a second; by hand "
        f"{seconds_text(floor.bare_task_s)}), results at {megabytes(floor.bytes_per_s)}/s (by hand "
        f"{megabytes(floor.bare_bytes_per_s)}/s)"
        for engine, floor in found.items()
    )
    notes = [
        f"measured on one machine: {measured}",
        f"measured at the caller: {seconds_text(caller.result_s)} and {caller.result_bytes:.0f} bytes a number in a "
        f"list; {seconds_text(caller.leaf_s)} and {caller.leaf_bytes:.0f} bytes a folded leaf of {caller.leaf}",
        f"predicted for {seconds_text(COST_S)} a simulation, {RUN_S:.0f} s of work for all cores, links of "
        f"{megabytes(LINK_BYTES_PER_S)}/s",
    ]
    return Table("scaling", head, rows, notes, {"predictions": data, "floors": {k: vars(v) for k, v in found.items()}})


def _rate(per_s: float) -> str:
    power = math.floor(math.log10(per_s)) if per_s > 0 else 0
    return count(round(per_s)) if power < 4 else f"{per_s:.1e}".replace("e+0", "e")


assert set(ON_CLUSTERS) <= set(HANDS)
