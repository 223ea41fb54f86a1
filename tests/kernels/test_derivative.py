"""The fractional derivative against closed forms and exact identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.prepare import prepare
from pointsman.kernels import derivative
from pointsman.selector import operations

D = operations.find("derivative")
ON_NUMPY = [v for v in D.variants if v.device == "cpu" and registry.executor(v.backend).kind == "numpy"]
variants = pytest.mark.parametrize("variant", ON_NUMPY, ids=lambda v: v.name)


def relative_error(n, power, order, apply):
    """Largest error on [0.1, 1] against the Riemann-Liouville derivative of t^power, relative to its largest value."""
    t = np.linspace(0.0, 1.0, n + 1)
    exact = math.gamma(power + 1) / math.gamma(power + 1 - order) * t ** (power - order)
    late = t >= 0.1
    return np.max(np.abs(apply(t**power, order=order, step=1.0 / n) - exact)[late]) / np.max(np.abs(exact[late]))


@variants
@pytest.mark.parametrize(("power", "order"), [(2.0, 0.3), (2.0, 0.5), (2.0, 0.8), (1.0, 0.5), (3.0, 1.5), (1.0, -0.5)])
def test_converges_to_the_closed_form_of_powers_at_first_order(variant, power, order):
    apply = variant.load()
    coarse, fine = (relative_error(n, power, order, apply) for n in (512, 1024))
    assert fine < 2e-3
    assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.02)


def test_error_on_the_square_is_the_one_published_for_this_formula():
    # kernel peers, measured with full history: 3.7e-4 at 1025 samples and order one half
    assert relative_error(1024, 2.0, 0.5, D.variant("numpy/fft").load()) == pytest.approx(3.7e-4, rel=0.02)


@variants
def test_a_constant_has_a_derivative(variant):
    n = 1000
    y = variant.load()(np.ones(n + 1), order=0.5, step=1.0 / n)
    t = np.linspace(0.0, 1.0, n + 1)[100:]
    assert y[100:] == pytest.approx(t**-0.5 / math.gamma(0.5), rel=5e-3)


@variants
def test_a_tiny_signal_is_not_taken_for_a_constant(variant):
    t = np.linspace(0.0, 1.0, 1025)
    y = variant.load()(1e-9 * t**2, order=0.5, step=1.0 / 1024)
    assert y[-1] == pytest.approx(1e-9 * 2 / math.gamma(2.5), rel=1e-3)


@variants
def test_order_one_is_the_backward_difference_and_minus_one_the_running_sum(variant):
    f = np.random.default_rng(5).standard_normal(200)
    apply = variant.load()
    assert apply(f, order=1, step=0.25) == pytest.approx(np.diff(f, prepend=0.0) * 4, abs=1e-12)
    assert apply(f, order=-1, step=0.5) == pytest.approx(np.cumsum(f) * 0.5, abs=1e-12)
    assert apply(f, order=0) == pytest.approx(f, abs=1e-14)


@variants
@pytest.mark.parametrize(("first", "second"), [(0.5, 0.5), (0.3, 0.9), (0.7, -0.7), (1.5, -0.5)])
def test_orders_add_up(variant, first, second):
    f = np.random.default_rng(6).standard_normal(300)
    apply = variant.load()
    twice = apply(apply(f, order=first, step=0.1), order=second, step=0.1)
    scale = np.max(np.abs(apply(f, order=first, step=0.1)))
    assert twice == pytest.approx(apply(f, order=first + second, step=0.1), abs=1e-12 * max(scale, 1.0))


@pytest.mark.parametrize("order", [0.5, 1.5])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 3e-15)])
def test_the_documented_bound_holds_where_the_result_is_small(dtype, bound, order):
    f = np.sin(np.linspace(0.0, 10.0, 3000)).astype(dtype)
    exact = D.reference(f, order=order)
    scale = np.max(np.abs(f)) * np.sum(np.abs(derivative.weights(order, f.size)))
    assert scale > 30 * np.max(np.abs(exact))
    for variant in (v for v in D.variants if v.device == "cpu"):
        y = prepare(variant, ["numpy"], {"order": None}).call(f, order=order)
        assert np.max(np.abs(y - exact)) < bound * scale, variant.name


def test_rows_do_not_leak_into_each_other():
    f = np.random.default_rng(7).standard_normal((3, 2, 50))
    for variant in ON_NUMPY:
        apply = variant.load()
        y = apply(f, order=0.4)
        for index in np.ndindex(3, 2):
            assert y[index] == pytest.approx(apply(f[index], order=0.4), abs=1e-13), variant.name


def test_one_future_sample_changes_nothing_before_it():
    f = np.random.default_rng(8).standard_normal(64)
    later = f.copy()
    later[40] += 100.0
    for variant in ON_NUMPY:
        apply = variant.load()
        assert apply(later, order=0.5)[:40] == pytest.approx(apply(f, order=0.5)[:40], abs=1e-12), variant.name


def test_changing_the_order_never_answers_with_the_kept_weights_of_another():
    f = np.random.default_rng(9).standard_normal(100)
    apply = D.variant("numpy/fft").load()
    for order in (0.5, 0.25, 0.5, 1.0):
        assert apply(f, order=order) == pytest.approx(D.reference(f, order=order), abs=1e-12)
    for n in (99, 100, 51):
        assert apply(f[:n], order=0.5) == pytest.approx(D.reference(f[:n], order=0.5), abs=1e-12)


def test_kept_weights_stay_bounded(monkeypatch):
    kept = derivative.Kept(1 << 16)
    monkeypatch.setattr(derivative, "KEPT", kept)
    apply = D.variant("numpy/fft").load()
    for i in range(20):
        apply(np.ones(1000), order=0.01 * i)
        assert 0 < kept.nbytes <= 1 << 16


def test_a_spectrum_is_sent_to_a_gpu_once_and_not_from_inference_to_training(monkeypatch):
    monkeypatch.setattr(derivative, "KEPT", derivative.Kept(1 << 16))
    sent = []

    class Gpu:
        float32, __name__, inference = "float32", "gpu", False

        def asarray(self, x, device):
            sent.append((x.size, device))
            return x

        def is_inference_mode_enabled(self):
            return self.inference

    class On:
        dtype, device = "float64", "cuda:0"

    gpu, response = Gpu(), np.ones(9, complex)
    for _ in range(3):
        assert derivative._beside(On(), response, (0.5, 8), gpu) is response
    assert sent == [(9, "cuda:0")]
    derivative._beside(On(), response, (0.25, 8), gpu)
    gpu.inference = True
    derivative._beside(On(), response, (0.5, 8), gpu)
    On.device = "cpu"
    derivative._beside(On(), response, (0.5, 8), gpu)
    derivative._beside(On(), response, (0.5, 8), gpu)
    assert len(sent) == 5


@pytest.mark.parametrize(("dtype", "step"), [("float32", 1.09e-19), ("float64", 1.5e-154)])
def test_a_factor_at_the_end_of_the_range_loses_no_digits(dtype, step):
    least = float(np.finfo(dtype).tiny)
    assert least < step**2 < 1.1 * least
    f = (np.random.default_rng(10).uniform(1, 2, 3000) * least**-0.5).astype(dtype)
    exact = D.reference(f, order=-2, step=step)
    for variant in (v for v in D.variants if v.device == "cpu"):
        y = prepare(variant, ["numpy"], {"order": None, "step": None}).call(f, order=-2, step=step)
        assert np.max(np.abs(y - exact)) < D.tolerances[dtype] * np.max(exact), variant.name


def test_steps_as_long_as_the_factor_fits_are_allowed():
    for dtype, step in (("float32", 1e-25), ("float32", 1e25), ("float64", 1e-200), ("float64", 1e200)):
        assert D.validate(np.ones(3, dtype), order=1.5, step=step) is None
        assert D.validate(np.ones(3, dtype), order=np.float32(-1.5), step=np.float64(step)) is None
