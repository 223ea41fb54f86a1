"""The clock of a calibration, and how busy others keep the machine meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from ..telemetry.load import Load, LoadMeter

READ_EVERY_S = 0.25
PATIENCE_S = 10.0
"""Seconds that a busy machine is waited for at most; of the budget, no more than a sixth."""
NAP_S = 0.5


class Watch:
    """The clock, and how busy others keep the machine."""

    def __init__(
        self, meter: LoadMeter, clock: Callable[[], float], pause: Callable[[float], None], patience_s: float
    ) -> None:
        self._meter, self.clock, self.pause, self.patience_s = meter, clock, pause, patience_s
        self.started = self._read_at = clock()
        self.load = meter.read()  # where the first interval begins
        self.most_cores = self.busy_s = self.measured_s = 0.0

    def spent_s(self) -> float:
        """Seconds since it all began."""
        return self.clock() - self.started

    def look(self, *, now: bool = False) -> Load:
        """The load since the last look, which is at least a quarter of a second ago unless `now`."""
        at = self.clock()
        if now or at - self._read_at >= READ_EVERY_S:
            self._read_at, self.load = at, self._meter.read()
            self.most_cores = max(self.most_cores, self.load.other_cores)
        return self.load

    def wait(self, tell: Callable[[str], None]) -> Load:
        """Wait for a quiet machine while there is patience left."""
        load = self.look()
        if load.busy and self.patience_s > 0.0:
            tell(f"{busy_text(load)}; waiting")
        while load.busy and self.patience_s > 0.0:
            self.patience_s -= NAP_S
            self.pause(NAP_S)
            load = self.look(now=True)
        return load


def busy_text(load: Load) -> str:
    """How busy others keep the machine, as a sentence."""
    return f"the machine is busy: {load.other_cores:.1f} cores are used by others"
