"""Chains whose steps hold something that changes, or hand on something else than before; redefinitions; copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pointsman as pm
import pytest
from chains import KINDS, led, places
from pointsman.executors.errors import GradientError


@pm.adaptive(name="sum_of_first_axis", pure=True)
def first_axis(x, *, xp=None):
    return xp.sum(x * 2.0, axis=0)


@pytest.fixture
def first_of(selector):
    @pm.adaptive(name="first_of", selector=selector)
    def first_of(x, held, *, xp=None):
        return x * held[0]

    return first_of


def breakers(chain):
    return chain._dispatchers()[0].engine.machine.breakers


# ---------------------------------------------------------------------------------------------- what steps hold


@pytest.mark.parametrize("place", KINDS)
def test_a_held_tensor_may_come_to_require_a_gradient(selector, teach, teach_moves, place):
    import torch

    w, x = torch.eye(4, dtype=torch.float64) * 2.0, torch.ones(4, 4, dtype=torch.float64)
    chain = pm.chain(pm.step("matmul", w), "reduction", selector=selector)
    led(chain, x, teach, teach_moves, place)
    for _ in range(5):
        assert float(chain(x)) == 64.0
    w.requires_grad_(True)
    for _ in range(3):
        w.grad = None
        chain(x).backward()
        assert w.grad.tolist() == [[16.0] * 4] * 4
    w.requires_grad_(False)
    assert not chain(x).requires_grad
    assert not breakers(chain).any_open


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "torch"])
def test_a_gradient_that_would_be_lost_is_an_error_of_its_own(kind):
    import torch

    with pytest.raises(GradientError, match="detach"):
        pm.convert(torch.ones(2, requires_grad=True), kind)


def test_a_gradient_refused_keeps_no_variant_out(selector, operation):
    refuses, ran = [], []

    def careful(x):
        if refuses:
            raise GradientError("it would be lost")
        ran.append(True)
        return x + 1.0

    operation("refuses", careful=careful, plain=lambda x: x + 1.0)
    assert selector.run("refuses", np.ones(2)).tolist() == [2.0, 2.0]
    refuses.append(True)
    assert selector.run("refuses", np.ones(2)).tolist() == [2.0, 2.0]
    refuses.clear()
    ran.clear()
    assert selector.run("refuses", np.ones(2)).tolist() == [2.0, 2.0]
    assert ran


def test_a_held_list_may_come_to_hold_arrays_of_another_kind(selector, first_of, shift):
    import torch

    held = [np.ones(3)]
    chain, x = pm.chain(pm.step(first_of, held), shift, selector=selector), np.arange(3.0)
    for _ in range(4):
        chain(x)
    for value in (np.full(3, 3.0), torch.full((3,), 4.0, dtype=torch.float64), np.full((2, 3), 5.0)):
        held[0] = value
        for _ in range(3):
            assert np.array_equal(chain(x), x * np.asarray(value) + 1.0)
    held[0] = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert chain(x).requires_grad
    held[0] = np.ma.masked_array(np.ones(3), mask=[False, True, False])
    for _ in range(3):
        assert chain(x).tolist() == [1.0, None, 3.0]
    assert "left alone" in str(chain.explain(x))


def test_arrays_in_a_held_list_stay_with_their_step(selector, first_of, shift, teach, teach_moves):
    chain, x = pm.chain(pm.step(first_of, [np.full(3, 2.0)]), shift, selector=selector), np.arange(3.0)
    told = led(chain, x, teach, teach_moves, "torch")
    for _ in range(4):
        assert chain(x).tolist() == [1.0, 3.0, 5.0]
    assert places(told) == ["numpy", "numpy"]
    assert not breakers(chain).any_open


def test_a_held_array_with_another_shape_or_dtype_is_another_signature(multiply, shift, selector):
    kept = np.ones(4)
    chain, x = pm.chain(pm.step(multiply, kept), shift, selector=selector), np.ones(1)
    for _ in range(4):
        assert chain(x).shape == (4,)
    kept.resize(6, refcheck=False)
    for _ in range(4):
        assert chain(x).shape == (6,)
    assert [leg.workload.split()[1:3] for leg in chain.explain(x).legs] == [["1", "6"], ["6", "float64"]]


def test_parameters_of_a_step_are_read_only():
    made = pm.step("derivative", order=0.5)
    with pytest.raises(TypeError, match="item assignment"):
        made.parameters["order"] = 1.0


# ---------------------------------------------------------------------------------------------- what is handed on


@pytest.mark.parametrize("place", ["numpy", "torch"])
@pytest.mark.parametrize("times", [1, 2, 8, 90])  # watched, bound, timed, sampled
def test_a_dtype_that_depends_on_the_data_is_validated_as_in_single_calls(selector, teach, teach_moves, place, times):
    @pm.adaptive(name="root", pure=True, selector=selector)
    def root(x, *, xp=None):
        return xp.sqrt(xp.astype(x, xp.complex128)) if bool(xp.any(x < 0)) else xp.sqrt(x)

    chain, x = pm.chain(root, "reduction", selector=selector), np.ones(16)
    led(chain, x, teach, teach_moves, place)
    for _ in range(times):
        assert chain(x) == 16.0
    for _ in range(3):
        with pytest.raises(TypeError, match="complex128"):
            chain(-x)
    assert not breakers(chain).any_open
    assert chain(x) == 16.0


@pytest.mark.parametrize("times", [2, 90])
def test_a_kind_of_value_that_depends_on_the_data_goes_step_by_step(selector, shift, times):
    @pm.adaptive(name="hide", selector=selector)
    def hide(x, *, xp=None):
        return np.ma.masked_array(x, mask=x < 0) if (x < 0).any() else x

    @pm.adaptive(name="kind_of_it", selector=selector)
    def kind_of_it(x, *, xp=None):
        return [type(x).__name__]

    chain, x = pm.chain(hide, kind_of_it, selector=selector), np.ones(4)
    for _ in range(times):
        assert chain(x) == ["ndarray"]
    assert chain(-x) == ["MaskedArray"]
    assert "more than the shapes" in str(chain.explain(x))


# ---------------------------------------------------------------------------------------------- redefinitions, copies


def test_a_step_defined_again_with_another_shape_is_planned_again(selector, operation):
    operation("mine", plain=lambda x: x * 2.0)
    chain, x = pm.chain("mine", "softmax", selector=selector), np.ones((4, 4))
    for _ in range(4):
        assert chain(x).shape == (4, 4)
    operation("mine", plain=lambda x: x.sum(axis=0))
    for _ in range(4):
        assert chain(x).tolist() == [0.25] * 4
    assert [leg.workload.split()[1] for leg in chain.explain(x).legs] == ["4x4", "4"]


@pytest.mark.parametrize("twin", [lambda chain: pickle.loads(pickle.dumps(chain)), copy.deepcopy, copy.copy])
def test_a_used_chain_can_be_copied(selector, twin):
    chain, x = pm.chain(pm.step("fft", norm="ortho"), selector=selector), np.ones(4)
    other, y = pm.chain("sort", first_axis, selector=selector), np.ones((3, 2))
    for _ in range(3):
        chain(x), other(y)
    assert np.allclose(twin(chain)(x), chain(x))
    assert twin(other)(y).tolist() == [6.0, 6.0]
    assert repr(twin(other)) == repr(other)
