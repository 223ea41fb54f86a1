"""The references themselves, against exact arithmetic: everything else is measured against them."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import numpy as np
import pytest
from pointsman.kernels import conv, derivative, element_wise, fft, matmul, reduction


@pytest.mark.parametrize("module", [conv, derivative, element_wise, fft, matmul, reduction])
def test_wrong_arguments_are_told_by_the_operations_own_name(module):
    validate, name = module.OPERATION.validate, module.OPERATION.name
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'colour'"):
        validate(np.ones(3), colour=1)
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing \d required"):
        validate()


def test_swapped_bytes_are_refused_with_the_way_out():
    x = np.ones(3, ">f8")
    with pytest.raises(TypeError, match=r"got >f8 \(convert it first, to this machine's byte order: x.astype") as error:
        fft.OPERATION.validate(x)
    assert "x.astype(x.dtype.name)" in str(error.value)
    fft.OPERATION.validate(x.astype(x.dtype.name))


def test_matmul_reference_is_the_exact_integer_product():
    rng = np.random.default_rng(1)
    a, b = rng.integers(-99, 99, (2, 3, 4)), rng.integers(-99, 99, (4, 5))
    found = matmul.OPERATION.reference(a.astype(float), b.astype(float))
    assert found.dtype == np.float64
    assert found.tolist() == np.einsum("bij,jk->bik", a, b).tolist()


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_fft_reference_is_the_defining_sum(n):
    x = np.random.default_rng(n).standard_normal(n)
    bins = [sum(x[t] * cmath.exp(-2j * math.pi * k * t / n) for t in range(n)) for k in range(n)]
    assert fft.OPERATION.reference(x.astype(complex)) == pytest.approx(bins, abs=1e-13)
    assert fft.OPERATION.reference(x) == pytest.approx(bins[: n // 2 + 1], abs=1e-13)


def test_conv_reference_multiplies_polynomials():
    x, k = [3, -1, 4, 1], [2, 7, -1]
    product = [sum(x[i] * k[t - i] for i in range(4) if 0 <= t - i < 3) for t in range(6)]
    assert conv.OPERATION.reference(np.array(x, float), np.array(k, float)).tolist() == product


@pytest.mark.parametrize(("taps", "first"), [([2], 0), ([2, 7], 0), ([2, 7, -1], 1), ([1, 2, 3, 4, 5, 6], 2)])
def test_conv_reference_same_begins_where_documented(taps, first):
    x, k = np.array([3.0, -1, 4, 1]), np.array(taps, float)
    assert conv.OPERATION.reference(x, k, mode="same").tolist() == np.convolve(x, k)[first : first + 4].tolist()


def test_conv_reference_in_two_axes_is_the_product_of_separable_ones():
    rng = np.random.default_rng(2)
    (u, v), (p, q) = rng.standard_normal((2, 6)), rng.standard_normal((2, 3))
    found = conv.OPERATION.reference(np.outer(u, v), np.outer(p, q))
    assert found == pytest.approx(np.outer(np.convolve(u, p), np.convolve(v, q)), abs=1e-13)


def test_element_wise_reference_on_known_points():
    found = element_wise.OPERATION.reference(np.array([0.0, math.pi, -1.0]))
    assert found == pytest.approx([0.0, math.sqrt(math.pi), 1.0 - math.sin(1.0) * math.e], abs=1e-15)


def test_reduction_reference_is_the_correctly_rounded_sum():
    x = np.random.default_rng(3).standard_normal(10_001)
    exact = sum(Fraction(float(v)) ** 2 for v in x)
    assert reduction.OPERATION.reference(x) == pytest.approx(float(exact), rel=2e-16)


def test_derivative_reference_is_the_exact_sum_of_rational_weights():
    f = [Fraction(v, 8) for v in (3, -7, 20, 5, 11, 1)]
    order, step = Fraction(1, 2), Fraction(1, 4)
    w = [Fraction(1)]
    for k in range(1, len(f)):
        w.append(w[-1] * (1 - (order + 1) / k))
    exact = [float(sum(w[k] * f[n - k] for k in range(n + 1))) * 2.0 for n in range(len(f))]  # (1/4)^(-1/2) = 2
    found = derivative.OPERATION.reference(np.array(f, float), order=float(order), step=float(step))
    assert found == pytest.approx(exact, rel=1e-15)
