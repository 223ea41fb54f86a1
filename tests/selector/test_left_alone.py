"""What is not ours is left alone: masked and labelled arrays, tracers, torch's transforms."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from anomalies import force, plain_anomaly, records
from pointsman.executors.errors import UnsupportedError
from pointsman.selector.adaptive import adaptive


class Labelled:
    """Stands for a labelled array: its rules are its own."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __mul__(self, factor):
        return Labelled(self.values * factor)


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize(
    "x",
    [
        np.ma.masked_array([1.0, 2.0], [0, 1]),
        np.array([1.0, 2.0]).view(Subclass),
        Labelled([1.0, 2.0]),
        np.array(["2020-01-01"], dtype="datetime64[D]").view("timedelta64[D]"),
        np.array([1, "a", None], dtype=object)[:1],
    ],
    ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', '')}",
)
def test_what_is_no_plain_array_goes_to_the_original_unrecorded(selector, x):
    seen = []

    @adaptive(selector=selector)
    def double(x, *, xp=None):
        seen.append(xp.__name__)
        return x * 2

    for backend in (None, "torch"):
        force(selector, force=backend)
        for given in (x, [x]):
            seen.clear()
            y = double(*given) if isinstance(given, list) else double(given)
            assert type(y) is type(x)
            assert "numpy" in seen[0]
    nested = adaptive(selector=selector)(lambda xs, *, xp=None: xs["a"][0] * 2)
    assert type(nested({"a": [x]})) is type(x)
    assert type(double.bind(x)(x)) is type(x)
    assert double.explain(x).rule == "untouched"
    assert records(selector) == 0


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_matrix_keeps_its_rules(selector):
    m = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    square = adaptive(selector=selector)(lambda x, *, xp=None: x * x)
    assert square(m)[0, 0] == 7.0
    assert records(selector) == 0


def test_tracers_pass_through_untouched(anomaly, selector):
    x = jnp.arange(6.0).reshape(2, 3) ** 2
    expected = plain_anomaly(x, xp=jnp)
    np.testing.assert_allclose(jax.jit(anomaly)(x), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(anomaly)(x), expected, rtol=1e-5)
    first = adaptive(selector=selector)(lambda xs, *, xp=None: xp.sum(xs[0]))
    assert float(jax.jit(first)([x, x])) == float(x.sum())
    gradient = jax.grad(lambda x: anomaly(x)[0, 0])(x)
    assert gradient.shape == x.shape
    assert records(selector) == 0


def test_torch_transforms_pass_through_untouched(anomaly, selector):
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3) ** 2
    expected = anomaly(x)
    before = records(selector)
    assert torch.allclose(torch.func.vmap(anomaly)(x), expected)
    assert torch.func.grad(lambda x: anomaly(x)[0, 0])(x).shape == x.shape
    assert records(selector) == before


def test_torch_compile_passes_through(anomaly, selector):
    x = torch.arange(6.0, dtype=torch.float64).reshape(2, 3) ** 2
    expected = plain_anomaly(x.numpy(), xp=np)
    compiled = torch.compile(lambda x: anomaly(x) + 1.0, backend="eager")
    np.testing.assert_allclose(compiled(x).numpy(), expected + 1.0)


def test_sparse_like_arrays_are_left_to_the_function(selector):
    scipy_sparse = importlib.import_module("scipy.sparse")
    matrix = scipy_sparse.csr_array(np.eye(3))
    double = adaptive(selector=selector)(lambda x, *, xp=None: 2 * x)
    assert scipy_sparse.issparse(double(matrix))
    with pytest.raises(UnsupportedError, match="sparse"):
        selector.run("reduction", matrix)
