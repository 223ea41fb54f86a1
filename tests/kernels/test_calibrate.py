"""Calibrating: what is measured, in which order, what is refused, and what it leaves behind. No real time passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from clocks import Clock
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.kernels.base import Kernel
from pointsman.kernels.calibrate import calibrate
from pointsman.selector import operations
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.telemetry.history import History
from pointsman.telemetry.load import Load, LoadMeter
from pointsman.telemetry.outcome import Failure
from pointsman.telemetry.trouble import HistoryWarning

SIZES = (10, 100, 1_000, 10_000, 100_000)


class Meter(LoadMeter):
    """Cores that others use: the last of `cores` for ever, after those before it."""

    def __init__(self, *cores: float) -> None:
        self.cores = list(cores)

    def read(self) -> Load:
        cores = self.cores.pop(0) if len(self.cores) > 1 else self.cores[0]
        return Load(cores, cores > 0.3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    return History(None, background=False, clock=clock, monotonic=clock)


@pytest.fixture
def selector(history: History) -> IntelligentBackendSelector:
    registry.ensure("numpy")
    return IntelligentBackendSelector(history=history, settings=Settings(explore=0.02), enable_gpu=False)


@pytest.fixture(autouse=True)
def _operations_as_found() -> Iterator[None]:
    before = dict(operations._DECLARED)
    yield
    operations._DECLARED.clear()
    operations._DECLARED.update(before)
    operations._KNOWN.clear()


class Toy:
    """A kernel whose variants take the time that is declared for them, by the test's clock."""

    def __init__(self, clock: Clock, seconds: dict[str, Callable[[int], float]], **fields: Any) -> None:
        self.calls: list[tuple[str, int]] = []
        self._clock, self._seconds = clock, seconds
        self.variants = {name: self.computes(name) for name in seconds}
        work = fields.pop("work", {})
        operations.register_operation(
            Kernel(
                name="toy", summary="twice x",
                variants=tuple(
                    Variant(
                        name, "numpy", lambda name=name: lambda x: self.variants[name](x), compiles="never",
                        work=work.get(name),
                    )
                    for name in seconds
                ),
                work=lambda shapes, _: float(shapes[0][0]),
                reference=lambda x: 2.0 * x, tolerances={"float64": 1e-14},
                sample=lambda rng, size, dtype: ((rng.standard_normal(size).astype(dtype),), {}),
                cases={}, validate=lambda x: None, wrong=(), **fields,
            )
        )  # fmt: skip

    def computes(self, name: str, what: Callable[[Any], Any] = lambda x: 2.0 * x) -> Callable[[Any], Any]:
        def call(x: Any) -> Any:
            self.calls.append((name, x.size))
            self._clock.advance(self._seconds[name](x.size))
            return what(x)

        return call

    def sizes(self, name: str) -> set[int]:
        return {size for called, size in self.calls if called == name}


CROSSING = {"plain": lambda n: 1e-5 + 1e-7 * n, "quick": lambda n: 2e-4 + 1e-8 * n}
"""Equal at about two thousand elements."""


@pytest.fixture
def go(selector: IntelligentBackendSelector, clock: Clock) -> Callable[..., Any]:
    """Calibrate the toy; options as for `calibrate`."""

    def run(budget_s: float = 60.0, *, meter: LoadMeter | None = None, **options: Any) -> Any:
        return calibrate(
            ["toy"], budget_s=budget_s, selector=selector, sizes=SIZES, meter=meter or Meter(0.0), clock=clock,
            pause=clock.advance, **options,
        )  # fmt: skip

    return run


def steady(history: History) -> dict[tuple[str, str], int]:
    """(variant, context) -> steady samples."""
    found: dict[tuple[str, str], int] = {}
    for (cell, context), sketch in history.state.cells.items():
        if sketch.count:
            found[cell.variant, context] = found.get((cell.variant, context), 0) + sketch.count
    return found


def test_it_learns_where_the_winner_changes_and_the_next_decision_knows(go, clock, history):
    Toy(clock, CROSSING)
    notes = []
    result = go(tell=notes.append)
    assert (result.ended, result.trusted, result.failures) == ("done", True, {})
    (row,) = result.rows
    assert (row.operation, row.best) == ("toy", "plain to 10^3, quick from 10^4")
    assert row.most_at == 100_000
    assert row.most == pytest.approx((1e-5 + 1e-2) / (2e-4 + 1e-3), rel=0.05)
    assert any(n.kind == "learned" and n.text.startswith("toy float64 10^5: quick 1.2 ms, 8.") for n in notes)
    fresh = IntelligentBackendSelector(history=history, settings=Settings(), enable_gpu=False).dispatcher("toy")
    decided = {n: fresh.explain(np.ones(n)) for n in (100, 100_000, 30_000)}
    assert [d.variant for d in decided.values()] == ["plain", "quick", "quick"]
    sources = [d.candidate(d.variant).prediction.source for d in decided.values()]
    assert sources == ["measured", "measured", "nearby"]


def test_what_it_measures_are_nobodys_calls(go, clock, selector, history):
    Toy(clock, CROSSING)
    go()
    ledger = selector._engine.learner.ledger
    assert (ledger.trials, ledger.actual_s, ledger.default_s) == (0, 0.0, 0.0)
    assert {s.calls for s in history.state.cells.values()} == {0}
    summary = selector.get_performance_summary()
    assert (summary["saved_s"], summary["lost_s"]) == (0.0, 0.0)
    assert selector.dispatcher("toy").explain(np.ones(1000)).calls == 1.0


def test_a_second_run_goes_on_where_the_first_one_ended(go, clock, history):
    toy = Toy(clock, CROSSING)
    # Time for the small sizes alone.
    first = go(0.26)
    assert first.ended == "budget"
    known = steady(history)
    second = go()
    assert second.ended == "done"
    assert second.known > 0
    assert {key: steady(history)[key] >= count for key, count in known.items()} == dict.fromkeys(known, True)
    toy.calls.clear()
    third = go()
    assert (third.samples, toy.calls) == (0, [])
    assert third.rows[0].best == second.rows[0].best


def test_the_budget_is_overshot_by_one_call_at_most(go, clock):
    toy = Toy(clock, {"plain": lambda n: 0.01, "quick": lambda n: 0.02})
    result = go(0.4)
    assert result.ended == "budget"
    assert result.spent_s <= 0.4 + 0.02
    assert len(toy.calls) > 5


def test_a_wrong_result_is_never_timed(go, clock, history):
    toy = Toy(clock, CROSSING)
    toy.variants["quick"] = toy.computes("quick", lambda x: 2.0 * x + 1e-9)
    result = go()
    assert ("quick", "quiet") not in steady(history)
    assert any("quick" in where and "wrong result" in why for where, why in result.failures.items())
    kinds = [s.failures for (c, _), s in history.state.cells.items() if c.variant == "quick"]
    assert all(set(found) == {Failure.WRONG_RESULT} for found in kinds)
    assert all(row.best == "plain throughout" for row in result.rows)


def test_a_variant_that_is_wrong_for_large_data_alone_is_caught_there(go, clock):
    toy = Toy(clock, CROSSING)
    toy.variants["quick"] = toy.computes("quick", lambda x: 2.0 * x if x.size < 100_000 else 2.1 * x)
    assert list(go().failures) == ["toy float64 10^5 quick"]


def test_a_variant_that_breaks_is_left_out_and_the_rest_is_measured(go, clock):
    toy = Toy(clock, CROSSING)

    def breaks(x: Any) -> Any:
        raise RuntimeError("no such device")

    toy.variants["quick"] = breaks
    result = go()
    assert result.ended == "done"
    assert all("no such device" in why for why in result.failures.values())
    assert toy.sizes("plain") == set(SIZES)


def test_a_quadratic_algorithm_is_not_run_where_its_work_rules_it_out(go, clock):
    toy = Toy(
        clock, {"plain": lambda n: 1e-6 + 1e-8 * n, "direct": lambda n: 1e-6 + 1e-8 * n * n},
        work={"direct": lambda shapes, _: float(shapes[0][0]) ** 2},
    )  # fmt: skip
    go()
    assert toy.sizes("plain") == set(SIZES)
    assert max(toy.sizes("direct"), default=0) <= 1_000


def test_losers_leave_the_rounds_early(go, clock):
    toy = Toy(clock, {"plain": lambda n: 1e-4, "slow": lambda n: 1e-3})
    go()
    for size in toy.sizes("slow"):
        assert toy.calls.count(("slow", size)) <= 3  # the first call, and two in turns
        assert toy.calls.count(("plain", size)) > 3


def test_variants_take_turns(go, clock):
    toy = Toy(clock, {"plain": lambda n: 1e-4, "even": lambda n: 1e-4})
    go()
    order = [name for name, size in toy.calls if size == 10]
    longest = max(len(run) for run in "".join(name[0] for name in order[order.index("even") :]).split("p"))
    assert longest <= 2


def test_an_interrupt_keeps_what_was_measured(go, clock, history):
    toy = Toy(clock, CROSSING)
    plain = toy.variants["plain"]

    def stops(x: Any) -> Any:
        if len(toy.calls) == 25:
            raise KeyboardInterrupt
        return plain(x)

    toy.variants["plain"] = stops
    result = go()
    assert result.ended == "interrupted"
    assert sum(steady(history).values()) == result.samples > 10


def test_a_busy_machine_is_waited_for_and_then_not_trusted(go, clock, history):
    Toy(clock, CROSSING)
    notes = []
    result = go(meter=Meter(1.5), tell=notes.append)
    assert not result.trusted
    assert result.busy_cores == 1.5
    assert {context for _, context in steady(history)} == {"busy"}
    waiting = [n for n in notes if n.kind == "waiting"]
    assert waiting[0].text == "the machine is busy: 1.5 cores are used by others; waiting"
    assert 5.0 < notes[len(waiting)].spent_s <= 15.0  # a bounded while


def test_strict_measures_nothing_on_a_busy_machine(go, clock, history):
    toy = Toy(clock, CROSSING)
    result = go(meter=Meter(1.5), strict=True)
    assert (result.ended, result.trusted, result.samples, toy.calls) == ("busy", False, 0, [])


def test_a_machine_that_calms_down_is_trusted(go, clock, history):
    Toy(clock, CROSSING)
    result = go(meter=Meter(1.5, 1.5, 1.5, 0.0))
    assert (result.ended, result.trusted) == ("done", True)
    assert {context for _, context in steady(history)} == {"quiet"}


def test_one_operation_may_be_given_by_its_name_alone(selector, clock):
    Toy(clock, CROSSING)
    result = calibrate("toy", selector=selector, sizes=SIZES, meter=Meter(0.0), clock=clock, pause=clock.advance)
    assert {row.operation for row in result.rows} == {"toy"}


def test_nothing_measured_beside_others_is_nothing_to_trust(go, clock):
    Toy(clock, CROSSING)
    result = go(0.0, meter=Meter(1.5))
    assert (result.samples, result.trusted) == (0, False)
    assert go(0.0).trusted


def test_a_history_that_cannot_be_kept_is_told_before_and_after(clock, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    history = History.open(tmp_path / "file" / "below.sqlite", background=False, clock=clock, monotonic=clock)
    selector = IntelligentBackendSelector(history=history, settings=Settings(), enable_gpu=False)
    Toy(clock, CROSSING)
    notes = []
    with pytest.warns(HistoryWarning):
        result = calibrate("toy", budget_s=1.0, selector=selector, sizes=SIZES, meter=Meter(0.0), clock=clock,
                           pause=clock.advance, tell=notes.append)  # fmt: skip
    assert notes[0].text == f"what is measured cannot be kept: {tmp_path / 'file'} is no folder"
    assert f"{tmp_path / 'file'} is no folder" in result.to_json()["obstacle"]
    assert result.samples > 0


def test_wrong_use_says_what_there_is(selector, history):
    with pytest.raises(ValueError, match=r"no kernel is called 'ftt' \(did you mean 'fft'\?\); there are: matmul, "):
        calibrate(["ftt"], selector=selector)
    off = IntelligentBackendSelector(history=history, settings=Settings(mode="off"))
    with pytest.raises(ValueError, match="nothing would be recorded"):
        calibrate(["fft"], selector=off)
