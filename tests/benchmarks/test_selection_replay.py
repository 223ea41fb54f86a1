"""Streams and replay: what a policy sees, what it is told and what it is charged; then the measures, on scripts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from costs_on_file import SIZES, VARIANTS, entry, grid, row, write

from benchmarks.selection import streams
from benchmarks.selection.matrix import Matrix
from benchmarks.selection.measures import measure
from benchmarks.selection.novel import Segments
from benchmarks.selection.ours import Ours
from benchmarks.selection.replay import replay


class Scripted:
    """Chooses what a function of (call, calls of the cell so far) names; keeps what it was told."""

    def __init__(self, script, name="scripted"):
        self.script, self.name = script, name
        self.calls, self.told, self.failures, self.seen = [], [], [], {}

    def choose(self, call):
        cell = (call.operation, call.dtype, call.shapes)
        nth = self.seen.get(cell, 0)
        self.seen[cell] = nth + 1
        self.calls.append(call)
        return self.script(call, nth)

    def observe(self, call, variant, seconds, cold):
        self.told.append((call.index, variant, seconds, cold))

    def failed(self, call, variant):
        self.failures.append((call.index, variant))


def always(variant):
    return Scripted(lambda call, _: variant if variant in call.variants else call.default, f"always-{variant}")


def best_of(stream):
    def script(call, _):
        step = stream[call.index]
        return min(
            (name for name in call.variants if name not in step.broken),
            key=lambda name: step.cell.timings[name].mean_s * step.slower.get(name, 1.0),
        )

    return Scripted(script, "oracle")


@pytest.fixture
def quiet(tmp_path):
    return Matrix.load(write(tmp_path / "quiet.json", grid()))


@pytest.fixture
def busy(tmp_path):
    rows = grid(("sums",), slower=5.0)
    del rows[0]["r"]["jax"]  # not every variant was measured in both
    return Matrix.load(write(tmp_path / "busy.json", rows, context="busy"))


@pytest.fixture
def noisy(tmp_path):
    times = {
        "numpy": entry(1e-3, q1_ns=0.8e6, q3_ns=1.3e6, mean_ns=1.5e6, stall_rate=0.03, stall_ns=15e6),
        "torch": entry(2e-3, q1_ns=1.8e6, q3_ns=2.3e6),
    }
    return Matrix.load(write(tmp_path / "noisy.json", [row("sums", 1000, times)]))


# ---------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize("name", streams.STREAMS)
def test_the_same_seed_replays_the_same_and_another_one_does_not(name, quiet, busy):
    def trace(seed):
        stream = streams.build(name, [quiet, busy], 200, seed)
        return replay(Scripted(lambda call, nth: call.variants[nth % len(call.variants)]), stream, seed)

    first, again, other = trace(3), trace(3), trace(4)
    for part in ("chosen", "paid", "observed", "best", "default"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
    assert not np.array_equal(first.paid, other.paid)


def test_luck_is_shared_and_never_charged(noisy):
    stream = streams.build("uniform", [noisy], 4000, 0)
    numpy, mixed = always("numpy"), Scripted(lambda call, _: call.variants[call.index % 2])
    trace, other = replay(numpy, stream, 0), replay(mixed, stream, 0)
    same = {index: seconds for index, variant, seconds, cold in mixed.told if variant == "numpy" and not cold}
    assert len(same) > 1900
    assert all(numpy.told[index][2] == seconds for index, seconds in same.items())
    np.testing.assert_allclose(trace.paid, 1.5e-3)  # the mean, whatever was drawn
    assert trace.observed.mean() == pytest.approx(1.5e-3, rel=0.1)
    assert trace.observed.std() > 1e-3
    assert not np.array_equal(other.paid, trace.paid)


def test_a_first_call_costs_its_whole_time_once(quiet):
    stream = streams.build("uniform", [quiet], 300, 0)
    policy = always("jax")
    trace = replay(policy, stream, 0)
    floor, slope, once = VARIANTS["jax"]
    cold = [(index, seconds) for index, _, seconds, cold in policy.told if cold]
    assert len(cold) == len(quiet.cells)
    for index, seconds in cold:
        assert seconds == pytest.approx(floor + slope * stream[index].cell.size + once)
    warm = sum(floor + slope * step.cell.size for step in stream)
    assert trace.paid.sum() == pytest.approx(warm + once * len(quiet.cells))
    assert policy.calls[-1].now == pytest.approx(trace.paid[:-1].sum())


def test_code_compiled_for_a_dtype_serves_every_size(tmp_path):
    rows = []
    for operation in ("sums", "roots"):  # as recorded: the first size paid for all
        for number, size in enumerate(SIZES):
            times = {"numpy": entry(3e-6), "numba": entry(1e-6, 0.4 if number == 0 else 2e-6)}
            rows.append(row(operation, size, times))
    matrix = Matrix.load(write(tmp_path / "m.json", rows))
    for name in ("uniform", "zipf", "cold", "step", "storm"):
        stream = streams.build(name, [matrix], 400, 0)
        policy = always("numba")
        trace = replay(policy, stream, 0)
        operations = [step.cell.operation for step in stream]
        firsts = sorted(operations.index(operation) for operation in ("sums", "roots"))
        assert [index for index, *_, cold in policy.told if cold] == firsts
        assert trace.cold[firsts] - (0.6 if name == "cold" else 0.0) * np.eye(2)[0] == pytest.approx(0.4 - 1e-6)


def test_an_import_is_charged_once_where_the_process_is_fresh(quiet):
    imports = {}
    for name in ("uniform", "cold"):
        policy = always("torch")
        trace = replay(policy, streams.build(name, [quiet], 300, 0), 0)
        imports[name] = trace.cold.sum() - VARIANTS["torch"][2] * len(quiet.cells)
        assert policy.calls[0].backends["torch"].import_s == (2.5 if name == "cold" else 0.0)  # told what is charged
    assert imports == {"uniform": pytest.approx(0.0, abs=1e-12), "cold": pytest.approx(2.5)}
    assert policy.told[0][2] > 2.5  # observed as the wall clock would see it
    assert policy.told[0][3]


def test_a_failing_variant_is_dropped_from_the_call_and_its_time_is_charged(quiet):
    stream = streams.build("break", [quiet], 1000, 0)
    broken = {index for index, step in enumerate(stream) if step.broken}
    assert (min(broken), max(broken)) == (300, 799)
    policy = always("numba")  # the best in most cells
    trace = replay(policy, stream, 0)
    assert [index for index, _ in policy.failures] == sorted(broken)
    second = {call.index: call for call in policy.calls if "numba" not in call.variants}
    assert set(second) == broken
    for index in broken:
        size = stream[index].cell.size
        wasted = 0.2 * (VARIANTS["numba"][0] + VARIANTS["numba"][1] * size)
        numpy = VARIANTS["numpy"][0] + VARIANTS["numpy"][1] * size
        assert trace.wasted[index] == pytest.approx(wasted)
        assert trace.paid[index] == pytest.approx(wasted + numpy)
        assert second[index].now == pytest.approx(trace.paid[:index].sum() + wasted)
        assert trace.regret[index] == pytest.approx((wasted + numpy) / trace.best[index])
    assert trace.wasted[800:].sum() == 0.0


def test_a_choice_that_the_call_does_not_offer_is_an_error(quiet):
    stream = streams.build("uniform", [quiet], 10, 0)
    with pytest.raises(ValueError, match=r"'scripted' chose 'cupy' in call 0 of uniform; it offers: numpy, numba"):
        replay(Scripted(lambda *_: "cupy"), stream, 0)


def test_decisions_are_timed_on_a_sample_by_the_clock_given(quiet):
    ticks = itertools.count(step=0.25)
    trace = replay(always("numpy"), streams.build("uniform", [quiet], 160, 0), 0, clock=lambda: next(ticks))
    assert np.flatnonzero(~np.isnan(trace.decided)).tolist() == list(range(0, 160, 16))
    assert measure(trace, trace, {})["decisions_per_s"] == pytest.approx(4.0)


# ---------------------------------------------------------------------------------------------------- streams


def test_the_meter_follows_the_load_half_a_second_late(quiet, busy):
    stream = streams.build("switch", [quiet, busy], 3000, 0)
    policy = always("numpy")
    trace = replay(policy, stream, 0)
    truth = np.array([step.call.busy for step in stream])
    assert np.flatnonzero(np.diff(truth)).tolist() == [999, 1999]
    began = np.concatenate([[0.0], np.cumsum(trace.paid)])
    shown = [call.busy for call in policy.calls]
    for turn, value in ((1000, True), (2000, False)):
        seen = next(index for index in range(turn, 3000) if shown[index] == value)
        assert began[seen - 1] < began[turn] + 0.5 <= began[seen]


def test_switch_has_the_cells_and_variants_of_both(quiet, busy):
    stream = streams.build("switch", [quiet, busy], 3000, 0)
    assert {step.cell.operation for step in stream} == {"sums"}
    smallest = [step for step in stream if step.cell.size == SIZES[0]]
    assert {step.call.variants for step in smallest} == {("numpy", "numba", "torch")}
    times = {step.call.busy: step.cell.timings["numpy"].mean_s for step in smallest}
    assert times[True] == pytest.approx(5 * times[False])
    assert set(stream.phases[stream.judged]) == {0, 1, 2}  # the busy phase is judged as well


def test_sizes_left_out_come_last_and_alone(quiet):
    stream = streams.build("unseen", [quiet], 2000, 0)
    learned = {step.cell.key for step in stream.steps[:1600]}
    inner = {step.cell.key for step in stream.steps[1600:1800]}
    ends = {step.cell.key for step in stream.steps[1800:]}
    assert not learned & (inner | ends)
    assert sorted(key.operation for key in inner) == sorted(key.operation for key in ends) == ["roots", "sums"]
    assert all(key.size in SIZES[1:-1] for key in inner)
    assert all(key.size in (SIZES[0], SIZES[-1]) for key in ends)
    assert np.flatnonzero(stream.judged).tolist() == list(range(1600, 2000))
    assert stream.groups["inside"].sum() == stream.groups["ends"].sum() == 200


def test_a_storm_has_no_shape_twice_and_compiles_as_each_compiler_must(quiet):
    stream = streams.build("storm", [quiet], 1000, 0)
    assert len({step.cell.key for step in stream}) == 1000
    extra = {name: replay(always(name), stream, 0).cold.sum() for name in VARIANTS}
    assert extra["jax"] == pytest.approx(1000 * 0.05)  # for each shape
    assert extra["numba"] == pytest.approx(2 * 0.3)  # for each operation and dtype
    assert extra["torch"] == pytest.approx(2 * 0.001)
    assert extra["numpy"] == pytest.approx(0.0, abs=1e-12)


def test_new_sizes_lie_on_the_power_law_between_their_neighbours(tmp_path):
    rows = [row("matmul", n, {"numpy": entry(1e-9 * n**3), "torch": entry(1e-7 * n**2)}) for n in (10, 100, 1000)]
    matrix = Matrix.load(write(tmp_path / "m.json", rows))
    for cell in Segments(matrix).draw(50, np.random.default_rng(0)):
        assert cell.shapes == ((cell.size, cell.size), (cell.size, cell.size))
        assert cell.timings["numpy"].mean_s == pytest.approx(1e-9 * cell.size**3)
        assert cell.timings["torch"].median_s == pytest.approx(1e-7 * cell.size**2)
        assert cell.works["numpy"] == pytest.approx(cell.size**3)


def test_shapes_of_another_outline_are_no_neighbours(tmp_path):
    shapes = {100: [[10, 10]], 400: [[4, 100]], 900: [[30, 30]], 1000: [[1000]]}
    rows = [row("sort", n, {"numpy": entry(1e-6 * n)}, shapes=shape) for n, shape in shapes.items()]
    found = Segments(Matrix.load(write(tmp_path / "m.json", rows))).found
    assert [(s.lower.size, s.upper.size) for s in found["sort", "float64"]] == [(100, 900)]


def test_zipf_favours_few_cells_and_uniform_none(quiet):
    counts = {}
    for name in ("uniform", "zipf"):
        cell = streams.build(name, [quiet], 5000, 0).tables.cell
        counts[name] = np.sort(np.bincount(cell))[::-1] / 5000
    np.testing.assert_allclose(counts["uniform"], 0.1, atol=0.02)
    weights = 1 / np.arange(1, 11)
    np.testing.assert_allclose(counts["zipf"], weights / weights.sum(), atol=0.02)


def test_a_step_slows_the_favourite_down_for_good(quiet):
    stream = streams.build("step", [quiet], 1000, 0)
    trace = replay(always("numba"), stream, 0)
    floor, slope, _ = VARIANTS["numba"]
    warm = np.array([floor + slope * step.cell.size for step in stream])
    np.testing.assert_allclose(trace.mean / warm, np.repeat([1.0, 3.0], 500))


# ---------------------------------------------------------------------------------------------------- measures


def test_the_best_choice_has_no_regret_and_the_default_does_no_harm(quiet):
    stream = streams.build("uniform", [quiet], 1000, 0)
    oracle, numpy = replay(best_of(stream), stream, 0), replay(always("numpy"), stream, 0)
    best, default = (measure(trace, oracle, {"always-numpy": numpy}) for trace in (oracle, numpy))
    assert best["regret_geomean"] == best["regret_max"] == best["total_over_oracle"] == best["closed_gap"] == 1.0
    assert default["regret_geomean"] == pytest.approx(np.exp(np.log(numpy.regret[800:]).mean()))
    assert default["regret_over_oracle"] == pytest.approx(default["regret_geomean"])
    assert default["regret_max"] == pytest.approx(numpy.regret[800:].max())
    assert (default["harm_rate"], default["harm_worst"], default["closed_gap"], default["flips"]) == (0, 1, 0, 0)
    assert default["total_over_oracle"] == pytest.approx(numpy.paid.sum() / oracle.paid.sum())
    assert default["total_over_best_fixed"] == 1.0
    assert default["learning_cost_s"] == pytest.approx(0.0, abs=1e-9)
    assert best["learning_cost_s"] == pytest.approx(oracle.cold.sum())


def test_harm_counts_cells_whose_settled_choice_loses_to_the_default(quiet):
    stream = streams.build("uniform", [quiet], 2000, 0)
    smallest = SIZES[0]

    def script(call, nth):  # one trial at each size now and then; at the smallest size the wrong choice
        return "torch" if call.size == smallest or nth % 9 == 0 else "numpy"

    found = measure(replay(Scripted(script), stream, 0), replay(best_of(stream), stream, 0), {})
    assert found["harm_rate"] == pytest.approx(2 / 10)
    assert found["harm_worst"] == pytest.approx((2e-5 + 1e-9 * 100) / (2e-6 + 4e-9 * 100))
    assert found["flips"] > 1


@pytest.mark.parametrize("late", [0, 4, 1000])
def test_recovery_counts_a_cells_calls_until_its_choice_is_good_again(late, tmp_path):
    times = {"numpy": entry(1.05e-3), "numba": entry(1e-3)}
    matrix = Matrix.load(write(tmp_path / "even.json", [row("sums", size, times) for size in SIZES]))
    stream = streams.build("step", [matrix], 1000, 0)
    late_calls = {}

    def script(call, _):
        if call.index < 500:
            return "numba"
        late_calls[call.size] = late_calls.get(call.size, 0) + 1
        return "numpy" if late_calls[call.size] > late else "numba"

    trace, oracle = replay(Scripted(script), stream, 0), replay(best_of(stream), stream, 0)
    found = measure(trace, oracle, {})
    assert found["recovery_calls"] == (late if late < 1000 else np.median(list(late_calls.values())))
    spent = trace.paid[500:].sum()
    assert found["recovery_s"] == pytest.approx({0: 0.0, 1000: spent}.get(late, found["recovery_s"]))
    assert 0.0 <= found["recovery_s"] <= 1.001 * spent


def test_without_a_change_there_is_no_recovery(quiet):
    trace = replay(always("numpy"), streams.build("uniform", [quiet], 50, 0), 0)
    assert math.isnan(measure(trace, trace, {})["recovery_calls"])


def test_intervals_are_held_against_steady_seconds(noisy):
    class Seer(Scripted):
        def prediction(self, call, variant):
            return (0.0, 1.8e-3, 1e-3) if call.index % 2 else (0.0, 1.2e-3, 1.0)

    stream = streams.build("uniform", [noisy], 2000, 0)
    trace = replay(Seer(lambda *_: "numpy"), stream, 0)
    judged = trace.observed[1600:]
    inside = np.where(np.arange(1600, 2000) % 2, judged <= 1e-3, True)
    found = measure(trace, trace, {})
    assert found["coverage"] == pytest.approx(inside.mean())
    assert found["median_error"] == pytest.approx(0.2)
    assert found["predicted"] == 400
    assert math.isnan(measure(replay(always("numpy"), stream, 0), trace, {})["coverage"])


def test_a_cold_call_says_nothing_about_an_interval(quiet):
    policy = always("jax")
    policy.prediction = lambda call, variant: (0.0, 1.0, 10.0)
    trace = replay(policy, streams.build("storm", [quiet], 200, 0), 0)  # jax compiles in every call
    assert measure(trace, trace, {})["predicted"] == 0.0


def test_what_was_warmed_ahead_costs_what_steady_calls_cost_from_the_first_one(quiet):
    """So that what choosing is worth can be told from what compiling costs."""
    ahead = quiet.warmed()
    for cell, warm in zip(quiet, ahead, strict=True):
        assert {v: t.mean_s for v, t in cell.timings.items()} == {v: t.first_s for v, t in warm.timings.items()}
    stream = streams.build("cold", [ahead], 100, 0)
    assert {backend.import_s for backend in stream[0].call.backends.values()} == {0.0}
    paid = [replay(always("torch"), streams.build("cold", [m], 100, 0), 0).cold.sum() for m in (ahead, quiet)]
    assert paid[0] == 0.0 < paid[1]
    options = [o for o in _options(Ours(), stream[0].call) if o.variant == "torch"]
    assert options[0].warm
    assert not [o for o in _options(Ours(), streams.build("cold", [quiet], 100, 0)[0].call) if o.warm]


def _options(policy, call):
    return [policy._option(call, name, None) for name in call.variants]
