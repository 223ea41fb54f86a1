"""What a Monte Carlo run tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from .map_info import MapInfo
from .simulations import FailedSimulation


@dataclass
class MonteCarloInfo(MapInfo):
    """What a run did, and why; the rest as in `MapInfo`, an item being a simulation.

    Attributes
    ----------
    seed : the seed that was used, drawn where none was given: the same seed gives the same results.
    spawn_key : of the `SeedSequence` that was given; () for plain seeds.
    done : simulations that the result stands for; less than `items` where `stop_when` ended the run.
    resumed : how many of them were done already, by the checkpoint.
    failed : what stands in the results for simulations that raised, where failures were collected.
    """

    seed: int | tuple[int, ...] = 0
    spawn_key: tuple[int, ...] = ()
    done: int = 0
    resumed: int = 0
    failed: list[FailedSimulation] = field(default_factory=list)

    def _lines(self) -> list[str]:
        key = f", spawn_key={self.spawn_key!r}" if self.spawn_key else ""
        told = [f"   seed {self.seed!r}{key}"]
        if self.done < self.items:
            told.append(f"   ended after {self.done} of {self.items} simulations: stop_when said that they were enough")
        if self.resumed:
            told.append(f"   {self.resumed} were done before, by the checkpoint")
        if self.failed:
            told.append(f"   {len(self.failed)} failed, the first: {self.failed[0].index}, {self.failed[0].error}")
        first, *rest = super()._lines()
        return [first, *told, *rest]

    def _what(self) -> str:
        done = f"{self.done} of " if self.done < self.items else ""
        return f"{done}{self.items} simulations"

    def _count(self) -> int:
        return self.done
