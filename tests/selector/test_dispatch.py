"""Dispatching: what was learned is run, outcomes counted once, tables bounded, timing on the device."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pointsman as pm
import pytest
from pointsman.executors import on_fftw, registry
from pointsman.executors.errors import NoCandidateError, UnsupportedError
from pointsman.selector import dispatch as dispatch_module
from pointsman.selector import settings
from pointsman.selector import tables as tables_module
from pointsman.selector.entry import ASYNCHRONOUS_STRIDE
from toys import failing, summary, teach


def test_it_runs_what_was_learned(toy):
    made, selector = toy(plain=lambda x: "plain", other=lambda x: "other")
    x = np.ones(1000)
    assert made(x) == "plain"
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    assert made.explain(x).variant == "other"
    assert [made(x), made(x), made(x)] == ["other"] * 3
    assert made(np.ones(1010)) == "other"  # a new shape of the same class


def test_ever_new_shapes_are_run_by_their_size_class_without_a_decision(toy, monkeypatch):
    made, selector = toy(plain=lambda x: x.size, other=lambda x: -x.size)
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    made(np.ones(1000))

    def decides(*_: object) -> None:
        raise AssertionError("a decision was made")

    monkeypatch.setattr(selector._engine, "choose", decides)
    assert [made(np.ones(n)) for n in range(990, 1010)] == [-n for n in range(990, 1010)]
    monkeypatch.undo()
    selector.flush()
    assert summary(selector)["other"]["count"] == 8 + 20
    site = next(c for c, _ in selector.history.state.cells if c.variant == "other")
    assert selector.history.state.cells[site, "quiet"].log2_work == pytest.approx(np.log2(1000), abs=0.05)


def test_a_signature_that_comes_back_gets_an_entry_of_its_own(toy):
    made, _ = toy(plain=lambda x: x.size)
    made(np.ones(1000))
    for _ in range(tables_module.SETTLED):
        made(np.ones(1001))
    assert len(made._entries) == 1
    made(np.ones(1001))
    assert len(made._entries) == 2


@pytest.mark.parametrize("overtaken", ["by settings", "by what was learned", ""])
def test_a_choice_that_is_overtaken_while_its_call_runs_is_not_kept(toy, monkeypatch, overtaken):
    def meanwhile(x):
        if overtaken == "by settings":
            monkeypatch.setattr(settings, "generation", settings.generation + 1)
        elif overtaken:
            selector._engine.learner.epoch += 1
        return x

    made, selector = toy(plain=meanwhile)
    made(np.ones(1000))
    assert len(made._entries) == (0 if overtaken else 1)


def test_each_call_is_recorded_once_also_by_eight_threads(toy, monkeypatch):
    monkeypatch.setattr(dispatch_module, "UNSAMPLED", 10**9)
    made, selector = toy(plain=lambda x: x + 1.0)
    results, barrier = [], threading.Barrier(8)

    def work(n: int) -> None:
        barrier.wait()
        results.extend(float(made(np.full(n % 3 + 1, float(n)))[0]) == n + 1.0 for _ in range(200))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1600
    assert all(results)
    assert selector.get_performance_summary()["total_records"] == 1600


def test_sampled_calls_stand_for_those_between(toy, clock, monkeypatch):
    seen = []
    made, selector = toy(plain=lambda x: x)
    selector.flush()
    selector.history.subscribe(lambda outcomes, _: seen.extend(outcomes))
    x = np.ones(1000)
    teach(selector, made, {"plain": 1e-6})
    for _ in range(dispatch_module.UNSAMPLED + 1):
        made(x)
    stride = made._entries[(x.shape, x.dtype)].stride
    assert stride == pytest.approx(200, abs=2)  # 200 us a sample
    for _ in range(10 * stride):
        made(x)
    selector.flush()
    ours = [o for o in seen if o.rule != ""]
    assert sum(o.calls for o in ours) == pytest.approx(dispatch_module.UNSAMPLED + 2 + 10 * stride, abs=stride)
    assert len(ours) < dispatch_module.UNSAMPLED + 15


def test_a_count_that_two_threads_passed_does_not_stop_the_sampling(toy):
    made, _ = toy(plain=lambda x: x)
    x = np.ones(10)
    made(x)
    entry = made._entries[(x.shape, x.dtype)]
    entry.skip = -1  # two threads counted the last one down
    made(x)
    assert entry.seen == 1


def test_a_timed_call_waits_for_the_device_and_the_others_do_not(toy, monkeypatch):
    waited = []
    numpy = registry.executor("numpy")
    monkeypatch.setattr(numpy, "synchronize", waited.append)
    monkeypatch.setattr(numpy, "is_asynchronous", lambda device: True)
    made, selector = toy(plain=lambda x: x)
    x = np.ones(10)
    made(x)
    waited.clear()
    for _ in range(dispatch_module.UNSAMPLED + 1):
        made(x)
    assert len(waited) == dispatch_module.UNSAMPLED + 1
    selector.flush()  # choices are made again; what is timed still waits
    waited.clear()
    entry = made._entries[(x.shape, x.dtype)]
    seen = entry.seen
    for _ in range(5 * ASYNCHRONOUS_STRIDE):
        made(x)
    assert len(waited) == made._entries[(x.shape, x.dtype)].seen - seen == 5


def test_first_calls_are_cold_where_the_library_compiles(toy):
    made, selector = toy(plain=lambda x: x)
    made(np.ones(1000))
    made(np.ones(1000))
    assert (summary(selector)["plain"]["cold_count"], summary(selector)["plain"]["count"]) == (1, 1)


@pytest.mark.parametrize("most_bytes", [0, 10**6])
def test_what_is_made_anew_in_every_call_is_what_every_call_takes(make, history, monkeypatch, most_bytes):
    """FFTW's largest plans are not kept: only the first plan of a shape is a cost that is paid once."""
    registry.executor("fftw").free_caches()
    monkeypatch.setattr(on_fftw, "MOST_BYTES", most_bytes)
    told = []
    history.subscribe(lambda outcomes, _: told.extend(o for o in outcomes if o.site.operation == "fft"))
    dispatcher = make().dispatcher("fft")
    with pm.use("fftw"):
        for _ in range(4):
            dispatcher(np.ones(1000))
            dispatcher.tables.clear()  # so that every call is a watched one
    history.flush()
    assert [o.cold for o in told] == [True, False, False, False]


# ---- scopes, settings, tables


def test_a_scope_is_followed_and_leaves_known_choices_alone(make):
    selector = make(explore=0)
    x = np.linspace(0.0, 1.0, 64)
    numpy_first = selector.run("fft", x)
    runner = selector.dispatcher("fft")
    with settings.use("scipy"):
        assert runner.explain(x).variant.startswith("scipy")
        np.testing.assert_allclose(selector.run("fft", x), numpy_first, atol=1e-13)
    assert runner.explain(x).variant == "numpy"
    found = selector.get_performance_summary()["operations"]["fft"][0]["variants"]
    assert {name.partition("/")[0] for name in found} == {"numpy", "scipy"}
    with settings.use("numba"), pytest.raises(NoCandidateError, match=r"use\('numba'\)"):
        selector.run("fft", x)


def test_dtypes_are_recorded_apart_also_of_several_arrays(toy, history):
    made, _ = toy(plain=lambda x, y: x + y)
    for dtype in ("float32", "float64") * 3:
        x = np.ones(5, dtype)
        assert made(x, x).dtype == dtype
        assert made(x, y=x).dtype == dtype
    history.flush()
    counts = {
        cell.dtype: sketch.records for (cell, _), sketch in history.state.cells.items() if cell.operation == "toy"
    }
    assert counts == {"float32": 6, "float64": 6}


def test_five_thousand_shapes_leave_bounded_tables(toy, monkeypatch):
    monkeypatch.setattr(tables_module, "MOST_ENTRIES", 500)
    made, _ = toy(plain=lambda x: x.shape)
    for n in range(5000):
        assert made(np.broadcast_to(0.0, (n + 1,)).copy() if n < 3 else np.empty(n + 1)) == (n + 1,)
        assert len(made._entries) <= 500


def test_text_and_bytes_and_lists_may_be_parameters(toy, history):
    made, selector = toy(plain=lambda *args, **kwargs: (args, kwargs))
    x = np.ones(3)
    args, kwargs = (b"\0" * 5000, "t" * 5000, [1, 2, "x", None], {"a": 1, 2: x}), {"flag": True, "n": np.int64(3)}
    found = made(x, *args, **kwargs)
    assert found[0][1:] == args
    assert found[1] == kwargs
    selector.flush()
    assert all(len(cell.detail) < 300 for cell, _ in history.state.cells)


def test_mode_off_records_nothing_for_good(toy):
    made, selector = toy(options={"mode": "off"}, plain=lambda x: x, other=lambda x: x)
    x = np.ones(1000)
    for _ in range(3):
        made(x)
    teach(selector, made, {"plain": 1e-3})  # others share the history, and make the tables new
    before = selector.get_performance_summary()["total_records"]
    for _ in range(3):
        made(x)
    assert selector.get_performance_summary()["total_records"] == before


def test_freezing_spends_no_ticket(toy):
    made, selector = toy(options={"explore": 1.0}, plain=lambda x: "plain", other=lambda x: "other")
    x = np.ones(1000)
    made(x)
    teach(selector, made, {"plain": 0.5}, times=200)
    assert made.explain(x).trial == "other"
    selector.freeze()
    assert [made(x) for _ in range(5)] == ["plain"] * 5


def test_bind_decides_once_and_records_nothing(toy, history):
    made, selector = toy(plain=lambda x, k=1: ("plain", k), other=lambda x, k=1: ("other", k))
    x = np.ones(1000)
    bound = made.bind(x, k=2)
    assert bound(x, k=3) == ("plain", 3)
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    assert bound(x) == ("plain", 1)
    before = sum(s.records for s in history.state.cells.values())
    selector.flush()
    assert sum(s.records for s in history.state.cells.values()) == before


def test_the_explanation_tells_all_in_text_and_json(toy):
    made, selector = toy(
        options={"explore": 1.0}, plain=lambda x: x, other=lambda x: x, broken=failing(MemoryError("m"))
    )
    teach(selector, made, {"plain": 2e-3, "other": 1e-3, "broken": 1e-4})
    x = np.ones(1000)
    made(x)
    decision = made.explain(x)
    text, data = decision.explain(), json.loads(json.dumps(decision.to_json()))
    assert "expected 2.00x faster than the default plain" in text
    for part in ("> other", "plain", "8 measured", "not broken: failed once", decision.workload):
        assert part in text
    assert data["chain"] == list(decision.chain) == ["other", "plain"]
    assert data["excluded"][0]["variant"] == "broken"
    assert [c["expected_s"] for c in data["candidates"]] == [c.prediction.seconds for c in decision.candidates]
    assert str(decision) == text
    assert "expected 2.00x faster than the default plain" in decision._repr_html_()
    assert decision.counterfactual("plain").endswith(", 2x as long (8 measured)")
    assert "failed once" in decision.counterfactual("broken")
    assert "not among the candidates" in decision.counterfactual("cupy")


def test_many_tasks_of_one_loop_do_not_disturb_each_other(toy):
    made, _ = toy(plain=lambda x: x.sum())

    async def one(n: int) -> bool:
        with settings.use("numpy" if n % 2 else None):
            await asyncio.sleep(0)
            return float(made(np.ones(n + 1))) == n + 1.0

    async def everything() -> list[bool]:
        return await asyncio.gather(*(one(n) for n in range(50)))

    assert all(asyncio.run(everything()))


def test_kernels_refuse_what_is_no_plain_array_with_advice(make):
    with pytest.raises(UnsupportedError, match=r"numpy\.ma.*MaskedArray.*\.filled"):
        make().run("fft", np.ma.masked_array(np.ones(4), [0, 1, 0, 0]))
    with pytest.raises(ValueError, match=r"no operation 'fftt' to run .*; there are: .*matmul"):
        make().run("fftt", np.ones(3))


def test_kernels_inside_transformed_functions_run_on_the_library_that_transforms(make):
    import jax
    import torch

    selector, x = make(), np.linspace(0.0, 1.0, 16, dtype=np.float32)
    expected = np.fft.rfft(x)
    jitted = jax.jit(lambda x: selector.run("fft", x))(x)
    np.testing.assert_allclose(np.asarray(jitted), expected, atol=1e-5)
    mapped = torch.func.vmap(lambda x: selector.run("fft", x))(torch.from_numpy(np.stack([x, x])))
    np.testing.assert_allclose(mapped[1].numpy(), expected, atol=1e-5)
    assert selector.get_performance_summary()["total_records"] == 0


def test_a_name_that_is_defined_again_runs_the_new_function(make):
    """As in a notebook: `run` goes by the name, and the name means the last definition."""
    from pointsman.selector.adaptive import adaptive

    selector = make()
    adaptive(name="defined_twice", selector=selector)(lambda x, *, xp=None: xp.sum(x) + 1.0)
    assert selector.run("defined_twice", np.ones(3)) == 4.0
    adaptive(name="defined_twice", selector=selector)(lambda x, *, xp=None: xp.sum(x) + 2.0)
    assert [selector.run("defined_twice", np.ones(3)) for _ in range(3)] == [5.0] * 3


def test_a_kernel_refuses_what_is_no_number_in_its_own_words(make):
    with pytest.raises(TypeError, match="fft"):
        make().run("fft", np.array(["a", "b"]))
