"""`python -m benchmarks.selection.complaints`: what users complained of, replayed, the rule they blamed against ours.

Each complaint is a small cost matrix and a stream built from the figures in its thread (see `scenarios`). Three answers
to it are replayed with the same draws: the rule complained of, `pointsman` from an empty history, and `pointsman` with
the history of an earlier process. A complaint is won when both of ours cost less in total than the rule (imports,
compilation and trials included) and stay within a stated factor of an oracle that knows every mean in advance. Of
complaints about choices that differ, the learned one must choose the very same in every repeat besides, though each
sees other noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pointsman.selector.learner import Learner

from . import scenarios
from .oracle import Oracle
from .ours import FIRST_ROUND_S, Ours
from .replay import Draws, Policy, Trace, replay
from .scenarios import Scene
from .streams import Call, Stream

CALLS = 2000
REPEATS = 4
"""Ranks, starts or runs that ought to choose the same."""


@dataclass(frozen=True)
class Complaint:
    """One complaint.

    Attributes
    ----------
    threads : where it was made, the first being the one whose figures are used.
    said : what was said, in our words.
    build : makes the scene from calls and a seed.
    blamed : the rule complained of, in words.
    within : total over the oracle's that counts as won: from an empty history, and with a learned one.
    same : whether the complaint is that choices differ: between ranks, starts, or in one run.
    frozen : whether the learned policy is held by `freeze` in the replay, as a lock file would.
    calls : of the stream; None: as many as asked for.
    """

    threads: tuple[str, ...]
    said: str
    build: Callable[[int, int], Scene]
    blamed: str
    within: tuple[float, float]
    same: bool = False
    frozen: bool = False
    calls: int | None = None


@dataclass(frozen=True)
class Verdict:
    """How a complaint was answered; totals are over the oracle's.

    Attributes
    ----------
    differing_rule, differing : share of the calls in which repeats chose differently, or in which a run changed a
        cell's choice; nan where that is not the complaint.
    """

    name: str
    rule: float
    empty: float
    learned: float
    within_empty: float
    within_learned: float
    differing_rule: float
    differing: float

    @property
    def won(self) -> bool:
        """Whether both of ours are within their bounds and beat the rule; of `same` complaints whether nothing differs.

        Where choices are within a few per cent of each other the rule may happen to be as fast: what it loses there is
        sameness, so that is what has to be won.
        """
        good = self.empty <= self.within_empty and self.learned <= self.within_learned
        if math.isnan(self.differing):
            return good and self.empty < self.rule and self.learned < self.rule
        return good and self.differing == 0.0 < self.differing_rule


class Continued(Ours):
    """Ours in a new process: nothing imported or compiled, but the history of an earlier one at hand.

    Parameters
    ----------
    before : the policy of the earlier process, at its end.
    frozen : whether choices are held.
    """

    def __init__(self, before: Ours, *, frozen: bool = False, **options: Any) -> None:
        super().__init__(**options)
        before.history.flush()
        self.history.state.merge_from(before.history.state)
        self.history.ledger = dict(before.history.ledger)
        self.learner = Learner(self.history, self.learner.policy, self.learner.costs)
        self.learner.frozen = frozen
        self._started = self.now = before.now  # outcomes of this process are the later ones
        self._next = self.now + FIRST_ROUND_S

    def choose(self, call: Call) -> str:
        """As ours, at a later time."""
        return super().choose(self._later(call))

    def observe(self, call: Call, variant: str, seconds: float, cold: bool) -> None:
        """As ours, at a later time."""
        super().observe(self._later(call), variant, seconds, cold)

    def failed(self, call: Call, variant: str) -> None:
        """As ours, at a later time."""
        super().failed(self._later(call), variant)

    def _later(self, call: Call) -> Call:
        return dataclasses.replace(call, now=call.now + self._started)


COMPLAINTS: dict[str, Complaint] = {
    "graph-threshold": Complaint(
        ("samyama-ai/samyama-graph#1402",),
        "graphs of a thousand nodes go to the GPU; it pays from a million, is 7.5x slower at 10 000, and begins with "
        "231 ms instead of 1.2",
        scenarios.graph_threshold, "GPU from 1000 nodes", (1.15, 1.10),
    ),
    "borrowed-crossover": Complaint(
        ("SauersML/gam#3024",),
        "a kernel is sent to the GPU by another kernel's crossover and takes 1.172 s instead of 0.627",
        scenarios.borrowed_crossover, "GPU from 50 000 rows", (1.10, 1.05),
    ),
    "each-kernel-its-own": Complaint(
        ("SauersML/gam#3348",),
        "every kernel needs a crossover of its own, not the one of the kernel that happened to be measured",
        scenarios.each_kernel_its_own, "one crossover for all", (1.15, 1.05),
    ),
    "constants-of-another-device": Complaint(
        ("SauersML/gam#761", "SauersML/gam#765", "rjwalters/kicad-tools#1084"),
        "thresholds tuned by hand for one device, without a measurement on this one",
        scenarios.constants_of_another_device, "GPU from 50 000 rows", (1.10, 1.05), calls=10_000,
    ),
    "anothers-winners": Complaint(
        ("tilus#156", "tile-ai/TileOPs#2133"),
        "winners tuned on one card are used on another, or for shapes that nobody measured",
        scenarios.anothers_winners, "winners found on another card", (1.15, 1.15),
    ),
    "knob-nobody-sets": Complaint(
        ("ggml-org/llama.cpp#27425", "ggml-org/llama.cpp#18530"),
        "the threshold can be set, and nobody knows to what: all run the default of 32",
        scenarios.knob_nobody_sets, "GPU from batches of 32", (1.15, 1.05),
    ),
    "held-out-constants": Complaint(
        ("deepseek-ai/DeepGEMM#385", "deepseek-ai/DeepGEMM#406"),
        "constants of unknown origin rank the layouts; what matters is the regret on shapes held out",
        scenarios.held_out_constants, "three constants", (1.10, 1.05), calls=20_000,
    ),
    "switches": Complaint(
        ("Amari#139",),
        "force the CPU, force the GPU, or calibrate: no one switch is right for all operations",
        scenarios.switches, "the better switch, in hindsight", (1.10, 1.05), calls=10_000,
    ),
    "twelve-rows": Complaint(
        ("NVIDIA/cudf#4810", "NVIDIA/cudf#14592", "NVIDIA/cudf#743"),
        "twelve rows take 1.26 s on the GPU and 6.4 ms on the CPU, and nothing says so",
        scenarios.twelve_rows, "always the GPU", (1.15, 1.05), calls=1000,
    ),
    "novel-shapes": Complaint(
        ("remsky/Kokoro-FastAPI#518",),
        "a new shape compiles for 2433 ms instead of running in 268; one that comes back takes 92 instead of 218",
        scenarios.novel_shapes, "compile every shape", (1.10, 1.10), calls=1000,
    ),
    "compiled-sampler": Complaint(
        ("pymc-devs/pymc#7926", "pymc-devs/pymc#8079"),
        "the faster sampler should be taken by itself where its compilation is repaid, and only there",
        scenarios.compiled_sampler, "always the default sampler", (1.35, 1.25),
    ),
    "different-ranks": Complaint(
        ("lattice/quda#182", "lattice/quda#199"),
        "every rank tunes for itself: no two runs give the same bits",
        scenarios.different_ranks, "fastest of one timing each", (1.03, 1.03), same=True, frozen=True,
    ),
    "different-boots": Complaint(
        ("syv-ai/qwen38-27b-rtx3090#75",),
        "a fresh start races the kernels again, and the same conversation takes 74 to 189 tool calls",
        scenarios.different_boots, "fastest of one timing each", (1.03, 1.03), same=True,
    ),
    "timed-cache": Complaint(
        ("ooples/AiDotNet.Tensors#1034",),
        "timing decides which sum is computed: one entry flipped 10 036 of 12 288 outputs",
        scenarios.timed_cache, "timed anew every 50 calls", (1.03, 1.03), same=True,
    ),
    "noisy-scores": Complaint(
        ("alibaba/atrex-kernel-agent#26",),
        "the same code scores 10 to 20 % apart at large sizes, because another tiling won",
        scenarios.noisy_scores, "fastest of one timing each", (1.05, 1.03), same=True, frozen=True,
    ),
}  # fmt: skip


def judge(name: str, calls: int = CALLS, seed: int = 0) -> Verdict:
    """Replay one complaint.

    Raises
    ------
    ValueError
        There is no complaint of that name.
    """
    if name not in COMPLAINTS:
        raise ValueError(f"no complaint {name!r}; there are: {', '.join(COMPLAINTS)}")
    complaint = COMPLAINTS[name]
    scene = complaint.build(complaint.calls or calls, seed)
    draws = Draws(scene.stream, seed)
    least = _total(replay(Oracle(scene.stream), scene.stream, seed, draws=draws))

    def over_oracle(policy: Policy) -> float:
        return _total(replay(policy, scene.stream, seed, draws=draws)) / least

    earlier = Ours()
    replay(earlier, scene.before, seed)
    differing = (math.nan, math.nan)
    if complaint.same:
        differing = (
            _differing(scene.rule, scene.stream, seed),
            _differing(lambda: _again(complaint, earlier), scene.stream, seed),
        )
    return Verdict(
        name, over_oracle(scene.rule()), over_oracle(Ours()), over_oracle(_again(complaint, earlier)),
        *complaint.within, *differing,
    )  # fmt: skip


def _again(complaint: Complaint, earlier: Ours) -> Continued:
    """A later process; where the complaint is that choices differ it does not explore, as production would not."""
    options = {"explore": 0.0} if complaint.same else {}
    return Continued(earlier, frozen=complaint.frozen, **options)


def _total(trace: Trace) -> float:
    return float(trace.paid.sum())


def _differing(make: Callable[[], Policy], stream: Stream, seed: int) -> float:
    """Share of the calls in which repeats with noise of their own chose differently, or one changed its mind."""
    runs = np.array([replay(make(), stream, seed + number).chosen for number in range(REPEATS)])
    between = (runs != runs[0]).any(axis=0)
    cells, first = np.unique(stream.tables.cell, return_index=True)
    opening = np.zeros(int(cells.max()) + 1, dtype=int)
    opening[cells] = first
    within = (runs != runs[:, opening[stream.tables.cell]]).any(axis=0)
    return float((between | within).mean())


# ---------------------------------------------------------------------------------------------------- showing


def main(argv: Sequence[str] | None = None) -> int:
    """Judge and show; the exit code says whether all were won."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection.complaints", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(COMPLAINTS)}")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"length of a stream (default {CALLS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print a list of objects and nothing else")
    options = parser.parse_args(argv)
    if options.calls < 1:
        parser.error(f"found --calls {options.calls}; expected at least 1")
    unknown = [name for name in options.names if name not in COMPLAINTS]
    if unknown:
        parser.error(f"no complaint {', '.join(map(repr, unknown))}; there are: {', '.join(COMPLAINTS)}")
    verdicts = [judge(name, options.calls, options.seed) for name in options.names or COMPLAINTS]
    if options.json:
        json.dump([plain(verdict) for verdict in verdicts], sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        print(table(verdicts))
    return 0 if all(verdict.won for verdict in verdicts) else 1


def plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict and its complaint as JSON-serialisable data; null where a figure does not apply."""
    complaint = COMPLAINTS[verdict.name]
    figures = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in dataclasses.asdict(verdict).items()
    }
    told = {"threads": list(complaint.threads), "said": complaint.said, "blamed": complaint.blamed}
    return {**figures, "won": verdict.won, **told}


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table; totals over the oracle's."""
    lines = [
        "| complaint | rule blamed | its total / oracle | pointsman, empty (bound) | learned (bound) | choices that "
        "differ: rule, pointsman | won |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for verdict in verdicts:
        complaint = COMPLAINTS[verdict.name]
        differing = "-" if math.isnan(verdict.differing) else f"{verdict.differing_rule:.0%}, {verdict.differing:.0%}"
        lines.append(
            f"| {verdict.name} ({complaint.threads[0]}) | {complaint.blamed} | {verdict.rule:.3f} "
            f"| {verdict.empty:.3f} ({verdict.within_empty:.2f}) "
            f"| {verdict.learned:.3f} ({verdict.within_learned:.2f}) "
            f"| {differing} | {'yes' if verdict.won else '**no**'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
