"""What users complained of, as cost matrices and streams built from the figures that they gave.

Every builder takes calls and a seed and gives a `Scene`. Where a thread gives seconds they stand here as they are;
sizes that it leaves out are marked "assumed" and follow its figures in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .matrix import Backend, Cell, Matrix, Timing
from .policies import Heedless, available, best_fixed
from .streams import stream_of

if TYPE_CHECKING:
    from .replay import Policy
    from .streams import Call, Stream

CPU, GPU = "cpu", "gpu@cuda:0"
SPREAD = 0.03
Row = tuple[float, ...]
"""Size, then mean seconds of each variant in canonical order; the first variant is the default."""


class Scene(NamedTuple):
    """One complaint, ready to be replayed.

    Attributes
    ----------
    stream : the calls that are judged.
    before : what an earlier process had called, whose history a learned policy starts from.
    rule : makes what the users complained of.
    """

    stream: Stream
    before: Stream
    rule: Callable[[], Policy]


class Rule(Heedless):
    """A choice written down once and for all."""

    def __init__(self, name: str, variant: Callable[[Call], str]) -> None:
        self.name, self._variant = name, variant

    def choose(self, call: Call) -> str:
        """What the rule says, the default where that cannot run."""
        return available(call, self._variant(call))


class TimedOnce:
    """Times each variant once per cell, after a warm-up, and keeps whichever happened to be fastest, for so many calls.

    Parameters
    ----------
    lasts : calls of a cell after which it is timed anew; None: never.
    """

    def __init__(self, name: str = "fastest of one timing each", lasts: int | None = None) -> None:
        self.name, self._lasts = name, lasts
        self._times: dict[object, dict[str, float]] = {}
        self._calls: dict[object, int] = {}

    def choose(self, call: Call) -> str:
        """The next variant that has no time yet, else the fastest."""
        key = (call.operation, call.shapes)
        seen = self._calls[key] = self._calls.get(key, -1) + 1
        if self._lasts is not None and seen and seen % self._lasts == 0:
            self._times.pop(key, None)
        times = self._times.setdefault(key, {})
        untimed = [variant for variant in call.variants if variant not in times]
        return untimed[0] if untimed else min(call.variants, key=lambda variant: times[variant])

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """Keep the first warm time of each."""
        if not cold:
            self._times[call.operation, call.shapes].setdefault(variant, seconds)

    def failed(self, call: Call, variant: str) -> None:
        """Nothing fails here."""


# ---------------------------------------------------------------------------------------------------- building


def machine(
    name: str, rows: Mapping[str, Sequence[Row]], variants: Sequence[str] = (CPU, GPU), *,
    firsts: Mapping[str, float] | None = None, compiles: Mapping[str, str] | None = None,
    spread: float | Mapping[float, float] = SPREAD,
) -> Matrix:  # fmt: skip
    """A matrix from rows of mean seconds by operation.

    Parameters
    ----------
    firsts : seconds that a first call costs beyond a warm one, by variant.
    compiles : what asks for a first call again, by variant; "never" where nothing is said.
    spread : of ln(seconds), for all cells or by size.
    """
    firsts, compiles = firsts or {}, compiles or {}
    cells = []
    for operation, table in rows.items():
        for size, *seconds in table:
            wide = spread[size] if isinstance(spread, Mapping) else spread
            timings = {
                variant: Timing(
                    0.98 * mean, mean, mean, mean + firsts.get(variant, 0.0), wide, 0.0, 0.0, 0.0, float(size)
                )
                for variant, mean in zip(variants, seconds, strict=True)
            }
            cells.append(Cell(operation, "float64", int(size), ((int(size),),), timings, variants[0]))
    backends = {variant: Backend(variant, compiles.get(variant, "never")) for variant in variants}
    return Matrix(name, "quiet", 2, 0.0, tuple(cells), backends, {"made": name})


def line(sizes: Sequence[float], *laws: tuple[float, float]) -> list[Row]:
    """Rows of overhead + size x seconds per element, one (overhead, per element) for each variant."""
    return [(size, *(overhead + size * each for overhead, each in laws)) for size in sizes]


def drawn(matrix: Matrix, calls: int, seed: int, shares: Mapping[float, float] | None = None) -> Stream:
    """Calls over the cells of a matrix: evenly over the operations, within each by the shares of the sizes."""
    weights = np.array([1.0 if shares is None else shares.get(cell.size, 0.0) for cell in matrix.cells])
    rng = np.random.default_rng([seed, len(matrix.cells)])
    chosen = rng.choice(len(weights), size=calls, p=weights / weights.sum())
    return stream_of(matrix.name, matrix, [matrix.cells[index] for index in chosen.tolist()])


def from_size(cut: float, below: str = CPU, above: str = GPU) -> Callable[[], Policy]:
    """The rule "above from this size on"."""
    return lambda: Rule(f"{above} from {cut:g}", lambda call: above if call.size >= cut else below)


def _scene(
    matrix: Matrix, calls: int, seed: int, rule: Callable[[], Policy], shares: Mapping[float, float] | None = None
) -> Scene:
    return Scene(drawn(matrix, calls, seed, shares), drawn(matrix, calls, seed + 1, shares), rule)


# ---------------------------------------------------------------------------------------------------- thresholds


def graph_threshold(calls: int, seed: int) -> Scene:
    """PageRank goes to the GPU from 1000 nodes on; where it was measured, it pays from about a million."""
    rows = [
        (1_000.0, 0.25e-3, 8.2e-3),  # assumed
        (10_000.0, 1.10e-3, 8.31e-3),
        (100_000.0, 4.31e-3, 10.05e-3),
        (1_000_000.0, 59.36e-3, 49.81e-3),
        (4_000_000.0, 260e-3, 185e-3),  # assumed
    ]
    matrix = machine("graph", {"pagerank": rows}, firsts={GPU: 0.2226}, compiles={GPU: "dtype"})
    shares = {1e3: 0.2, 1e4: 0.5, 1e5: 0.25, 1e6: 0.04, 4e6: 0.01}
    return _scene(matrix, calls, seed, from_size(1000), shares)


def borrowed_crossover(calls: int, seed: int) -> Scene:
    """Two kernels share the crossover that was measured for one of them: the other is 1.9x slower there."""
    rows = {
        "gram": [  # assumed, around a crossover between 20 000 and 50 000
            (5e3, 0.010, 0.045), (2e4, 0.040, 0.055), (5e4, 0.100, 0.070), (2e5, 0.400, 0.130),
        ],
        "flex": [(5e3, 0.063, 0.60), (2e4, 0.25, 0.80), (5e4, 0.627, 1.172), (2e5, 2.5, 3.1)],
    }  # fmt: skip
    return _scene(machine("rows", rows), calls, seed, from_size(50_000))


def each_kernel_its_own(calls: int, seed: int) -> Scene:
    """Four kernels that cross at 5 000, 60 000, 700 000 and never, all sent by the crossover of a fifth."""
    sizes = [1e3, 1e4, 1e5, 1e6]
    rows = {
        "first": line(sizes, (1e-5, 4e-8), (2e-4, 2e-9)),
        "second": line(sizes, (1e-5, 2.4e-8), (1.3e-3, 2e-9)),
        "third": line(sizes, (1e-5, 8e-9), (4.2e-3, 2e-9)),
        "never": line(sizes, (1e-5, 5e-9), (3e-3, 9e-9)),
    }
    return _scene(machine("kernels", rows), calls, seed, from_size(20_000))


def constants_of_another_device(calls: int, seed: int) -> Scene:
    """Numbers tuned by hand for one device hold back a far faster one: it wins from 2 000 rows on, not from 50 000."""
    rows = line([500, 2e3, 8e3, 3.2e4, 1.28e5], (1e-5, 1.2e-7), (1.8e-4, 3e-9))
    return _scene(machine("fast card", {"xtwx": rows}), calls, seed, from_size(50_000))


def anothers_winners(calls: int, seed: int) -> Scene:
    """Tuned winners are carried to a machine with another GPU; ours carries the timings there, and learns on."""
    sizes = [256, 1024, 4096, 16384, 65536]
    there = machine("their card", {"gemm": line(sizes, (2e-5, 6e-8), (3e-4, 3e-9))})
    here = machine("this card", {"gemm": line(sizes, (2e-5, 6e-8), (2.5e-3, 4e-8))})
    winners = {cell.key: cell.best for cell in there.cells}
    keys = {cell.shapes: cell.key for cell in there.cells}
    stream, before = drawn(here, calls, seed), drawn(there, calls, seed + 1)
    return Scene(stream, before, lambda: Rule("winners found elsewhere", lambda call: winners[keys[call.shapes]]))


def knob_nobody_sets(calls: int, seed: int) -> Scene:
    """Work goes over the bus from 32 tokens a batch on; on this one it pays from about 150, and nobody measures it."""
    rows = line([1, 8, 32, 64, 128, 512, 2048], (1e-4, 1.5e-3), (0.18, 3.5e-4))  # assumed: experts moved each time
    shares = {1.0: 0.2, 8.0: 0.15, 32.0: 0.25, 64.0: 0.2, 128.0: 0.15, 512.0: 0.04, 2048.0: 0.01}
    return _scene(machine("offload", {"experts": rows}), calls, seed, from_size(32), shares)


def held_out_constants(calls: int, seed: int) -> Scene:
    """Constants of a cost model, tuned on a few shapes of one card: what counts is the regret on other shapes."""
    layouts = ("tile64", "tile128", "tile256")
    sizes = [2.0**k for k in range(10, 21)]
    rows = line(sizes, (4e-6, 1e-9), (9e-6, 1.7e-10), (6e-5, 4e-11))
    matrix = machine("layouts", {"gemm": rows}, layouts)
    hidden = dict.fromkeys(sizes[1::3], 1.0)
    known = {size: 1.0 for size in sizes if size not in hidden}

    def layout(call: Call) -> str:
        return layouts[0] if call.size < 2_000 else layouts[1] if call.size < 20_000 else layouts[2]

    stream, before = drawn(matrix, calls, seed, hidden), drawn(matrix, calls, seed + 1, known)
    return Scene(stream, before, lambda: Rule("three constants", layout))


def switches(calls: int, seed: int) -> Scene:
    """Force the CPU, force the GPU: the better of both switches, chosen in hindsight."""
    sizes = [1e2, 1e3, 1e4, 1e5, 1e6]
    rows = {
        "light": line(sizes, (2e-6, 2e-9), (1.5e-4, 1.8e-9)),
        "heavy": line(sizes, (5e-6, 1e-7), (2e-4, 2e-9)),
    }
    matrix = machine("switches", rows)
    stream = drawn(matrix, calls, seed)
    return Scene(stream, drawn(matrix, calls, seed + 1), lambda: best_fixed(matrix, stream))


def twelve_rows(calls: int, seed: int) -> Scene:
    """Data frames always go to the GPU: 200 times slower at 12 rows, 45 times at 100 000, and right at ten millions."""
    rows = {
        "query": [
            (12, 6.388e-3, 1.262744),
            (1e4, 9e-3, 1.26),  # assumed
            (1e7, 1.9, 1.3),  # assumed
        ],
        "frame": [(1e5, 32.9e-3, 1.5), (1e7, 3.3, 1.6)],  # the larger one assumed
    }
    shares = {12: 0.5, 1e4: 0.2, 1e5: 0.2, 1e7: 0.05}
    return _scene(machine("frames", rows), calls, seed, lambda: Rule("always the GPU", lambda _: GPU), shares)


# ---------------------------------------------------------------------------------------------------- compiling


def novel_shapes(calls: int, seed: int) -> Scene:
    """Every new shape is compiled, 9 times slower than running it as it is; only shapes that come back repay that."""
    lengths = [float(n) for n in range(40, 40 + calls)]
    variants, popular = ("plain", "tuned"), 5
    matrix = machine(
        "speech", {"synthesis": [(n, 0.218, 0.092) for n in lengths]}, variants,
        firsts={"plain": 0.050, "tuned": 2.341}, compiles={"tuned": "shape"},
    )  # fmt: skip
    often = [matrix.cells[int(i)] for i in np.linspace(0, calls - 1, popular)]

    def stream(seed: int) -> Stream:
        rng = np.random.default_rng([seed, popular])
        new = iter(rng.permutation(len(matrix.cells)).tolist())
        repeats = (rng.random(calls) < 0.5).tolist()
        which = rng.integers(popular, size=calls).tolist()
        cells = [often[which[i]] if repeats[i] else matrix.cells[next(new)] for i in range(calls)]
        return stream_of("speech", matrix, cells)

    return Scene(stream(seed), stream(seed + 1), lambda: Rule("compile every shape", lambda _: "tuned"))


def compiled_sampler(calls: int, seed: int) -> Scene:
    """The slow sampler stays the default for every model, though a compiled one repays itself in a few runs."""
    observations = [float(n) for n in range(100, 100 + 20 * 40, 20)]
    rows = [(n, 0.4 + 1e-3 * n, 0.15 + 3e-4 * n) for n in observations]  # assumed
    matrix = machine(
        "models", {"posterior": rows}, ("interpreted", "compiled"), firsts={"compiled": 2.0},
        compiles={"compiled": "shape"},
    )  # fmt: skip
    shares = {n: 1.0 / rank for rank, n in enumerate(observations, start=1)}
    return _scene(matrix, calls, seed, lambda: Rule("the default sampler", lambda _: "interpreted"), shares)


# ---------------------------------------------------------------------------------------------------- determinism


def _near_ties(name: str, spread: float | Mapping[float, float] = 0.02) -> Matrix:
    """Three kernels within 2 % of each other at every size, whose sums differ in the last bits."""
    sizes = [2.0**k for k in range(8, 18)]
    rows = [(n, 1e-5 + 1e-9 * n, 1.004 * (1e-5 + 1e-9 * n), 1.015 * (1e-5 + 1e-9 * n)) for n in sizes]
    return machine(name, {"gemm": rows}, ("rows", "columns", "blocks"), spread=spread)


def different_ranks(calls: int, seed: int) -> Scene:
    """Every rank tunes for itself, and no two runs end with the same bits."""
    return _scene(_near_ties("ranks"), calls, seed, TimedOnce)


def different_boots(calls: int, seed: int) -> Scene:
    """Each fresh start races the kernels again and ends elsewhere: 74 to 189 tool calls for the same conversation."""
    return _scene(_near_ties("boots"), calls, seed, TimedOnce)


def timed_cache(calls: int, seed: int) -> Scene:
    """What a timed cache holds changes while the program runs: 10 036 of 12 288 outputs flipped by one entry."""
    return _scene(_near_ties("cache"), calls, seed, lambda: TimedOnce("timed anew every 50 calls", lasts=50))


def noisy_scores(calls: int, seed: int) -> Scene:
    """The same code scores 10 to 20 % apart at large sizes, and a kernel that is 12 % slower may win the race."""
    sizes = [2.0**k for k in range(8, 18)]
    rows = [(n, 1e-5 + 1e-9 * n, 1.06 * (1e-5 + 1e-9 * n), 1.12 * (1e-5 + 1e-9 * n)) for n in sizes]
    spread = {n: 0.01 if n < 4096 else 0.15 for n in sizes}
    matrix = machine("scores", {"gemm": rows}, ("rows", "columns", "blocks"), spread=spread)
    return _scene(matrix, calls, seed, TimedOnce)
