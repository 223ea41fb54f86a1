"""Chains: the answer of the single calls, whatever the way; nothing stale, gradients kept, odd arrays let alone."""

from __future__ import annotations

import functools

import numpy as np
import pointsman as pm
import pytest
from chains import GAIN, KINDS, SIZE, led, places, plain
from pointsman.executors import conversion


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# ---------------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("place", KINDS)
@pytest.mark.parametrize("home", ["numpy", "torch"])
def test_every_way_gives_the_answer_of_the_single_calls(filtering, teach, teach_moves, rng, home, place):
    x = pm.convert(rng.standard_normal(SIZE), home)
    told = led(filtering, x, teach, teach_moves, place)
    assert places(told) == [place] * 4
    for _ in range(5):  # watched, then by the tables, timed
        result = filtering(x)
        assert conversion.residency(result) == home
        assert conversion.dtype_name(result) == "float64"
        assert float(result) == pytest.approx(plain(np.asarray(x)), rel=1e-12)
    assert places(filtering.explain(x)) == [place] * 4


def test_jax_arrays_come_back_as_jax_arrays(filtering, rng):
    x = pm.convert(rng.standard_normal(SIZE).astype("float32"), "jax")
    gain = GAIN.astype("float32")
    chain = pm.chain("fft", pm.step(filtering.steps[1].target, gain), *filtering.steps[2:], selector=filtering._own)
    for _ in range(3):
        result = chain(x)
        assert conversion.residency(result) == "jax"
        assert float(result) == pytest.approx(plain(np.asarray(x)), rel=1e-4)


@pytest.mark.parametrize("place", KINDS)
def test_arrays_of_a_result_are_writable_and_new(double, shift, selector, teach, teach_moves, place):
    chain, x = pm.chain(double, shift, selector=selector), np.arange(5.0)
    led(chain, x, teach, teach_moves, place)
    for _ in range(3):
        result = chain(x)
        assert type(result) is np.ndarray
        result[:] = -1.0
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert chain(x).tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]


def test_a_step_takes_operands_before_and_after_and_parameters(selector, multiply, rng):
    @pm.adaptive(name="minus", selector=selector)
    def minus(a, b, *, times=1, xp=None):
        return (a - b) * times

    x, w = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    chain = pm.chain(pm.step("matmul", w), functools.partial(minus, w), pm.step(minus, 1.0, times=3), selector=selector)
    for _ in range(4):
        assert np.allclose(chain(x), ((w - x @ w) - 1.0) * 3)
    assert np.allclose(pm.chain(multiply, "reduction", selector=selector)(x, y=w), ((x * w) ** 2).sum())


def test_a_kept_operand_of_another_library_changes_nothing_about_the_result(multiply, shift, selector):
    import torch

    kept = torch.full((3,), 2.0, dtype=torch.float64)
    chain = pm.chain(shift, pm.step(multiply, kept), selector=selector)
    for _ in range(4):
        result = chain(np.arange(3.0))
        assert (type(result), result.tolist()) == (np.ndarray, [2.0, 4.0, 6.0])


def test_a_method_and_an_operation_are_steps(selector, operation):
    class Scaled:
        factor = 3.0

        @pm.adaptive(selector=selector)
        def scale(self, x, *, xp=None):
            return x * self.factor

    toy = operation("toy", plain=lambda x: x + 1.0)
    chain = pm.chain(Scaled().scale, toy, selector=selector)
    assert [chain(np.ones(2)).tolist() for _ in range(3)] == [[4.0, 4.0]] * 3


def test_what_is_no_step_is_refused():
    with pytest.raises(TypeError, match=r"sin.*decorated with\s*@pointsman.adaptive"):
        pm.chain(np.sin)
    with pytest.raises(ValueError, match="no step"):
        pm.chain()
    with pytest.raises(ValueError, match=r"no operation 'no_such'"):
        pm.chain("no_such")(np.ones(3))


def test_tuples_and_empty_arrays_travel(selector, teach, teach_moves):
    @pm.adaptive(name="split", selector=selector)
    def split(x, *, xp=None):
        return x[::2], x[1::2]

    @pm.adaptive(name="join", selector=selector)
    def join(parts, *, xp=None):
        return xp.concat(parts)

    chain = pm.chain(split, join, selector=selector)
    led(chain, np.arange(4.0), teach, teach_moves, "torch")
    for _ in range(3):
        assert chain(np.arange(4.0)).tolist() == [0.0, 2.0, 1.0, 3.0]
        assert chain(np.empty(0)).shape == (0,)


# ---------------------------------------------------------------------------------------------- never stale


@pytest.mark.parametrize("place", KINDS)
def test_edits_in_place_between_calls_count(filtering, teach, teach_moves, rng, place):
    x = rng.standard_normal(SIZE)
    led(filtering, x, teach, teach_moves, place)
    view = x[::2]
    for edit in (lambda: x.__setitem__(3, 7.0), lambda: np.negative(view, out=view), lambda: np.copyto(x, 1.0)):
        edit()
        for _ in range(2):
            assert float(filtering(x)) == pytest.approx(plain(x), rel=1e-12)


@pytest.mark.parametrize("place", KINDS)
@pytest.mark.parametrize("edit", ["add_", "numpy", "data", "detach"])
def test_edits_of_a_tensor_count_whatever_they_are_made_through(
    double, shift, selector, teach, teach_moves, place, edit
):
    import torch

    chain, t = pm.chain(double, shift, selector=selector), torch.zeros(6, dtype=torch.float64)
    led(chain, t, teach, teach_moves, place)
    for value in (1.0, 2.0, 3.0):
        if edit == "add_":
            t.add_(1.0)
        elif edit == "numpy":
            t.numpy()[...] = value
        elif edit == "data":
            t.data.fill_(value)
        else:
            t.detach().fill_(value)
        for _ in range(2):
            assert chain(t).tolist() == [2.0 * value + 1.0] * 6


@pytest.mark.parametrize("place", KINDS)
def test_edits_of_a_kept_operand_count(multiply, shift, selector, teach, teach_moves, place):
    kept = np.ones(5)
    chain, x = pm.chain(shift, pm.step(multiply, kept), selector=selector), np.zeros(5)
    led(chain, x, teach, teach_moves, place)
    for value in (1.0, 2.0, 3.0):
        kept[:] = value
        for _ in range(2):
            assert chain(x).tolist() == [value] * 5


def test_other_arrays_of_the_same_shape_are_not_taken_for_the_first(filtering, teach, teach_moves, rng):
    led(filtering, rng.standard_normal(SIZE), teach, teach_moves, "torch")
    for _ in range(20):  # each freed before the next is made, so that identities recur
        x = rng.standard_normal(SIZE)
        assert float(filtering(x)) == pytest.approx(plain(x), rel=1e-12)
        del x


# ---------------------------------------------------------------------------------------------- gradients, odd arrays


def test_a_gradient_keeps_every_step_in_torch(filtering, teach, teach_moves, rng):
    import torch

    data = rng.standard_normal(SIZE)
    led(filtering, torch.from_numpy(data), teach, teach_moves, "numpy")
    x = torch.from_numpy(data.copy()).requires_grad_()
    for _ in range(3):
        x.grad = None
        filtering(x).backward()
        assert {leg.place for leg in filtering.explain(x).legs} == {"torch"}
        y = np.fft.irfft(np.fft.rfft(data) * GAIN)
        assert np.allclose(x.grad.numpy(), 2.0 * np.fft.irfft(np.fft.rfft(y) * GAIN))


def test_a_kept_operand_that_requires_a_gradient_gets_one(multiply, shift, selector):
    import torch

    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    chain = pm.chain(shift, pm.step(multiply, weight), selector=selector)
    for _ in range(3):
        weight.grad = None
        chain(torch.arange(3.0, dtype=torch.float64)).sum().backward()
        assert weight.grad.tolist() == [1.0, 2.0, 3.0]


def test_traced_and_masked_arrays_pass_through_unrecorded(double, shift, selector):
    import jax

    chain = pm.chain(double, shift, selector=selector)
    assert jax.jit(chain)(np.ones(2, "float32")).tolist() == [3.0, 3.0]
    assert float(jax.grad(lambda x: chain(x).sum())(1.5)) == 2.0
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    assert chain(masked).tolist() == [3.0, None]
    selector.flush()
    assert not selector.history.state.cells
    assert "left alone" in str(chain.explain(masked))


def test_a_masked_operand_of_a_step_keeps_its_mask(multiply, shift, selector):
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    chain = pm.chain(shift, pm.step(multiply, masked), selector=selector)
    for _ in range(4):
        assert chain(np.ones(2)).tolist() == [2.0, None]


@pytest.mark.parametrize("times", [1, 4])  # before another shape comes: while the way is new, and once it is known
def test_shapes_that_depend_on_the_data_go_step_by_step(selector, shift, times):
    @pm.adaptive(name="positive", selector=selector)
    def positive(x, *, xp=None):
        return x[x > 0]

    chain = pm.chain(positive, shift, "reduction", selector=selector)
    others = ([1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, -1.0, -1.0])
    for x in ([1.0, -1.0, 1.0],) * times + others * 2:
        assert float(chain(np.array(x))) == 4.0 * x.count(1.0)
    assert "more than the shapes" in str(chain.explain(np.ones(3)))
