"""What a user of `neural_network` would miss: the gradients against differences and torch, kinks, NaN, training."""

import functools
import itertools

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.conversion import kind_of
from pointsman.executors.prepare import prepare
from pointsman.selector import operations

KERNEL = operations.find("neural_network")
HOST = [v.name for v in KERNEL.variants if v.device == "cpu"]


def shapes_of(args, kwargs):
    return tuple(a.shape for a in (*args, *kwargs.values()) if kind_of(a) is not None)


def net(activation="tanh", gradients=False, dtype="float64", widths=(3, 7, 4, 2), samples=6):
    rng = np.random.default_rng(8)
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [rng.standard_normal((a, b)).astype(dtype), rng.standard_normal(b).astype(dtype)]
    args = (rng.standard_normal((samples, widths[0])).astype(dtype), *layers)
    kwargs = {"activation": activation}
    if gradients:
        kwargs["cotangent"] = rng.standard_normal((samples, widths[-1])).astype(dtype)
    return args, kwargs


@functools.cache
def prepared(name, kinds, named):
    return prepare(KERNEL.variant(name), kinds, dict(named))


def call(name, args, kwargs):
    named = tuple((parameter, kind_of(value)) for parameter, value in kwargs.items())
    return prepared(name, tuple(map(kind_of, args)), named).call(*args, **kwargs)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_reference_has_the_gradients_that_differences_give(activation):
    args, kwargs = net(activation, gradients=True)
    wide = [a.astype(np.longdouble) for a in args]
    v, h = kwargs["cotangent"], np.longdouble(1e-6)

    def values(place, index, by):
        """The forward equations once more, written on their own."""
        x, *layers = [a.copy() for a in wide]
        (x, *layers)[place][index] += by
        for w, b in zip(layers[::2], layers[1::2], strict=True):
            x = x @ w + b
            if w is not layers[-2]:
                x = np.tanh(x) if activation == "tanh" else np.maximum(x, 0)
        return float(np.sum(x * v))

    for place, gradient in enumerate(KERNEL.reference(*args, **kwargs)):
        for index in np.ndindex(gradient.shape):
            difference = (values(place, index, h) - values(place, index, -h)) / float(2 * h)
            assert gradient[index] == pytest.approx(difference, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", HOST)
def test_gradients_are_those_of_torch(name, activation):
    import torch

    args, kwargs = net(activation, gradients=True)
    x, *layers = tensors = [torch.tensor(a, requires_grad=True) for a in args]
    function = torch.tanh if activation == "tanh" else torch.relu
    for place in range(0, len(layers), 2):
        x = torch.nn.functional.linear(x, layers[place].T, layers[place + 1])
        x = function(x) if place < len(layers) - 2 else x
    expected = torch.autograd.grad(x, tensors, torch.tensor(kwargs["cotangent"]))
    found = call(name, args, kwargs)
    assert type(found) is tuple
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs.numpy(), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", HOST)
def test_relu_at_the_kink_and_nan(name):
    w, one = np.ones((1, 1)), np.ones(1)
    x = np.array([[-1.0], [0.0], [2.0], [np.nan]])
    zero = np.zeros(1)
    values = call(name, (x, w, zero, w, one), {"activation": "relu"})
    assert values[:3].tolist() == [[1.0], [1.0], [3.0]]
    assert np.isnan(values[3, 0])
    v = np.array([[1.0], [1.0], [1.0], [np.nan]])
    found = call(name, (x, w, zero, w, one), {"activation": "relu", "cotangent": v})
    assert found[0][:3].tolist() == [[0.0], [0.0], [1.0]]
    assert np.isnan(found[0][3, 0])
    clean = call(name, (x[:3], w, zero, w, one), {"activation": "relu", "cotangent": v[:3]})
    assert [part.tolist() for part in clean[1:]] == [[[2.0]], [1.0], [[2.0]], [3.0]]


@pytest.mark.parametrize("name", HOST)
def test_steps_along_the_gradients_train_it(name):
    (x, *parameters), _ = net(widths=(1, 16, 1), samples=64)
    target = np.cos(x)
    losses = []
    for _ in range(30):
        y = call(name, (x, *parameters), {"activation": "tanh"})
        losses.append(np.mean((y - target) ** 2))
        _, *gradients = call(name, (x, *parameters), {"activation": "tanh", "cotangent": 2 * (y - target) / y.size})
        parameters = [p - 0.02 * g for p, g in zip(parameters, gradients, strict=True)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", [n for n in HOST if KERNEL.variant(n).backend == "torch"])
def test_torch_differentiates_values_and_gradients(name, activation):
    import torch

    args, kwargs = net(activation, gradients=True, widths=(2, 3, 2), samples=3)
    function = KERNEL.variant(name).load()
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    v = torch.tensor(kwargs["cotangent"], requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: function(*a, activation=activation), tensors)
    assert torch.autograd.gradcheck(
        lambda v, *a: function(*a, activation=activation, cotangent=v), [v, *tensors], atol=1e-6
    )


def test_declared_work_is_about_threefold_where_gradients_are_asked_for():
    args, kwargs = net(widths=(64, 128, 128, 2), samples=100, gradients=True)
    shapes = shapes_of(args, kwargs)
    assert 2.5 < KERNEL.work(shapes, {}) / KERNEL.work(shapes[:-1], {}) < 3.0
    assert KERNEL.bytes(shapes, {}) > KERNEL.bytes(shapes[:-1], {})


def test_the_selector_runs_it_with_gradients(monkeypatch, tmp_path):
    import pointsman as pm

    monkeypatch.setenv("POINTSMAN_HISTORY", str(tmp_path / "history.db"))
    args, kwargs = net("relu", gradients=True)
    found = pm.run("neural_network", *args, **kwargs)
    for mine, right in zip(found, KERNEL.reference(*args, **kwargs), strict=True):
        assert mine == pytest.approx(right, rel=1e-12, abs=1e-13)
    tensor = registry.executor("torch").convert_in(args[0]).requires_grad_()
    torch_args = (tensor, *(registry.executor("torch").convert_in(a) for a in args[1:]))
    pm.run("neural_network", *torch_args, activation="relu").sum().backward()
    assert tensor.grad.shape == args[0].shape
