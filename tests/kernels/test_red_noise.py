"""Red noise: what is estimated and what is drawn, against closed forms; surrogates keep what they promise."""

from __future__ import annotations

import numpy as np
import pointsman as pm
import pytest
from pointsman.kernels.red_noise import ar1_spectrum, redden

GS = (-0.9, -0.3, 0.0, 0.3, 0.72, 0.95)


# ------------------------------------------------------------------------------------------------------- surrogates


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("g", [*GS, 0.9999])
def test_they_obey_the_recursion(g, dtype):
    n = 3000
    noise = np.random.default_rng(3).standard_normal((2, n), dtype=dtype)
    x = pm.ar1_surrogate(n, g, 3, size=2, dtype=dtype)
    assert (x.dtype, x.shape) == (np.dtype(dtype), (2, n))
    expected = noise.astype(np.longdouble)
    expected[:, 0] /= np.sqrt(1 - np.longdouble(g) ** 2)
    for t in range(1, n):
        expected[:, t] += g * expected[:, t - 1]
    bound = 40 * np.finfo(dtype).eps / (1 - abs(g)) ** 0.5
    assert np.abs(x - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("g", GS)
def test_variance_and_memory_are_those_of_the_process_from_the_first_value_on(g):
    x = pm.ar1_surrogate(12, g, np.random.default_rng(1), size=100_000, sigma=2.0)
    variance = 4.0 / (1 - g**2)
    deviation = 5 * variance * np.sqrt(2 / len(x))
    assert np.abs(x.var(axis=0) - variance).max() < deviation
    for lag in (1, 2, 5):
        assert np.mean(x[:, 0] * x[:, lag]) == pytest.approx(variance * g**lag, abs=deviation)
    assert abs(x.mean()) < 5 * np.sqrt(variance / len(x))


def test_without_memory_it_is_the_noise_itself():
    np.testing.assert_array_equal(pm.ar1_surrogate(9, 0, 4), np.random.default_rng(4).standard_normal(9))


def test_a_generator_goes_on_and_a_seed_begins_again():
    rng = np.random.default_rng(2)
    first, second = (pm.ar1_surrogate(5, 0.5, rng) for _ in range(2))
    assert np.abs(first - second).min() > 0
    np.testing.assert_array_equal(first, pm.ar1_surrogate(5, 0.5, 2))
    seed = np.random.SeedSequence(8)
    assert pm.ar1_surrogate(5, 0.5, seed, size=(2, 3)).shape == (2, 3, 5)


def test_a_series_in_a_batch_is_what_it_is_alone():
    noise = np.random.default_rng(0).standard_normal((3, 4, 50))
    alone = redden(noise[1, 2].copy(), 0.8)
    np.testing.assert_array_equal(redden(noise, 0.8)[1, 2], alone)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_the_shortest_ones(n):
    assert pm.ar1_surrogate(n, 0.5, 0, size=3).shape == (3, n)
    assert pm.phase_randomize(np.ones(n), 0, size=3).shape == (3, n)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"g": 1.0}, "between -1 and 1"), ({"g": -1.5}, "between -1 and 1"), ({"g": float("nan")}, "between -1 and 1"),
        ({"n": -1}, "negative"), ({"sigma": -1.0}, "negative"), ({"dtype": "float16"}, "float64 and float32"),
    ],
)  # fmt: skip
def test_what_is_no_process_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        pm.ar1_surrogate(**{"n": 5, "g": 0.5, "rng": 0, **given})


def test_a_number_of_values_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"n=5\.7; give a whole number"):
        pm.ar1_surrogate(5.7, 0.3)


# --------------------------------------------------------------------------------------------------------- estimates


@pytest.mark.parametrize("factor", [1e-300, 1e-170, 1e155, 1e300])
def test_the_memory_of_a_series_does_not_depend_on_its_unit(factor):
    x = np.random.default_rng(3).standard_normal(200).cumsum() / 3
    found, plain = pm.ar1(x * factor), pm.ar1(x)
    assert found.g == pytest.approx(plain.g, rel=1e-12)
    assert found.mean / factor == pytest.approx(plain.mean, rel=1e-12)
    assert np.sqrt(found.variance) == (np.inf if factor > 1e154 else pytest.approx(np.sqrt(plain.variance) * factor))


@pytest.mark.parametrize("g", GS)
def test_the_estimate_finds_what_was_put_in(g):
    found = pm.ar1(5.0 + pm.ar1_surrogate(100_000, g, 7, sigma=3.0))
    assert found.g == pytest.approx(g, abs=5 * np.sqrt((1 - g**2) / 1e5))
    assert found.variance == pytest.approx(9 / (1 - g**2), rel=0.1)
    assert found.mean == pytest.approx(5.0, abs=0.9)
    assert not found.bounded


@pytest.mark.parametrize("g", [0.0, 0.5])
def test_the_mean_of_a_short_series_takes_no_memory_out(g):
    """Taken as it is, the lag-1 autocorrelation of 40 values falls short by (1 + 3g) / 40, here 0.025 and 0.06."""
    found = [pm.ar1(x) for x in pm.ar1_surrogate(40, g, 11, size=3000)]
    assert np.mean([f.g for f in found]) == pytest.approx(g, abs=0.045)
    assert np.mean([f.variance for f in found]) * (1 - g**2) == pytest.approx(1.0, abs=0.03)


def test_what_it_solves_is_allen_and_smiths_equation():
    x = np.random.default_rng(0).standard_normal(25).cumsum() * 0.3 + np.random.default_rng(1).standard_normal(25)
    found, centred, n = pm.ar1(x), x - x.mean(), x.size
    lags = np.arange(1, n)
    of_mean = 1 / n + 2 / n**2 * np.sum((n - lags) * found.g**lags)  # the double sum itself
    lag0, lag1 = np.mean(centred**2), np.mean(centred[1:] * centred[:-1])
    assert lag1 / lag0 == pytest.approx((found.g - of_mean) / (1 - of_mean), rel=1e-12)
    assert found.variance == pytest.approx(lag0 / (1 - of_mean), rel=1e-12)


def test_a_trend_is_bounded_and_said():
    found = pm.ar1(np.arange(50.0))
    assert (found.g, found.bounded) == (1 - 1 / 50, True)
    assert -1 < pm.ar1([1, -1] * 10).g < -0.9


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([1.0, 2.0, 3.0], "found 3 values; the least is 4"), (np.ones((3, 4)), r"shape \(3, 4\)"),
        ([1.0, np.nan, 2.0, 3.0], "not finite"), (np.full(9, 0.1), "constant"), (np.ones(9) * 1j, "complex128"),
    ],
)  # fmt: skip
def test_a_series_that_has_no_estimate_is_refused(x, said):
    with pytest.raises(ValueError, match=said):
        pm.ar1(x)


@pytest.mark.parametrize("g", GS)
def test_the_spectrum_is_the_transform_of_the_autocorrelation(g):
    n, dt = 2048, 0.25
    frequencies = np.fft.fftfreq(n, dt)
    lags = np.minimum(np.arange(n), n - np.arange(n))
    np.testing.assert_allclose(ar1_spectrum(frequencies, g, dt), np.fft.fft(g**lags).real, rtol=1e-9, atol=1e-10)
    assert ar1_spectrum(0.0, g) == pytest.approx((1 + g) / (1 - g))
    assert ar1_spectrum(0.5, g) == pytest.approx((1 - g) / (1 + g))


# ------------------------------------------------------------------------------------------------------------ phases


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
@pytest.mark.parametrize("n", [2, 3, 64, 65])
def test_new_phases_keep_amplitudes_and_mean(n, dtype):
    x = (10 * np.random.default_rng(n).standard_normal((2, n)) + 30).astype(dtype)
    found = pm.phase_randomize(x, 1, size=(3,))
    assert found.shape == (3, 2, n)
    assert found.dtype == (np.float32 if dtype == "float32" else np.float64)
    close = 2e-5 if dtype == "float32" else 1e-13
    expected = np.broadcast_to(np.abs(np.fft.rfft(x.astype(float))), (3, 2, n // 2 + 1))
    np.testing.assert_allclose(np.abs(np.fft.rfft(found.astype(float))), expected, atol=close * n * 30)
    np.testing.assert_allclose(found.mean(axis=-1), np.broadcast_to(x.mean(axis=-1), (3, 2)), rtol=close)


def test_phases_are_uniform_and_independent():
    x = np.random.default_rng(0).standard_normal(16)
    found = np.fft.rfft(pm.phase_randomize(x, 5, size=20_000))
    turns = found / np.fft.rfft(x)
    inner = turns[:, 1:-1]
    assert np.abs(inner.mean(axis=0)).max() < 5 / np.sqrt(20_000)
    assert np.abs((inner**2).mean(axis=0)).max() < 5 / np.sqrt(20_000)
    together = inner[:, :-1] * inner[:, 1:].conj()
    assert np.abs(together.mean(axis=0)).max() < 5 / np.sqrt(20_000)
    assert np.abs(turns[:, -1].imag).max() < 1e-12
    assert abs(turns[:, -1].real.mean()) < 5 / np.sqrt(20_000)  # either sign, and nothing between
    np.testing.assert_allclose(np.abs(turns[:, -1]), 1.0)


def test_series_that_have_no_phases_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        pm.phase_randomize([1.0, np.inf])
    with pytest.raises(ValueError, match="give real series"):
        pm.phase_randomize(3.0)
