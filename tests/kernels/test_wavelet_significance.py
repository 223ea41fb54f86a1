"""Levels of wavelet power: closed forms, the papers' equations, and as many false positives as they say."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pointsman as pm
import pytest
from pointsman.executors.errors import BackendUnavailableError
from pointsman.kernels.red_noise import ar1_spectrum
from pointsman.kernels.wavelets import DOG, Morlet, Paul

WAVELETS = (Morlet(), Morlet(12.0), Paul(), DOG(), DOG(6))
SCALES = 2.0 * 2.0 ** (np.arange(25) / 4)


def by_hand(x, scales, wavelet, dt=1.0):
    """Torrence and Compo's eq. 4 and 6 at the sample in the middle: (..., n) to (..., S)."""
    n = x.shape[-1]
    angular = 2 * np.pi * np.fft.fftfreq(n, dt)
    filters = np.sqrt(2 * np.pi * scales / dt)[:, None] * np.conj(wavelet.fourier(scales[:, None] * angular))
    back = np.exp(1j * angular * (n // 2) * dt) / n
    weights = np.fft.fft(filters * back)  # of each sample in the sum
    return x @ weights.T


# ------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("background", ["band", "peak"])
def test_white_noise_has_the_same_level_everywhere(background):
    complex_, real = (
        pm.cwt_significance(3.0, 0.5, SCALES, wavelet=wavelet, g=0.0, background=background)
        for wavelet in ("morlet", "dog")
    )
    np.testing.assert_allclose(complex_.levels, 3.0 * 5.991464547107979 / 2, rtol=1e-5)
    np.testing.assert_allclose(real.levels, 3.0 * 3.841458820694124, rtol=1e-5)
    np.testing.assert_allclose(complex_.background, 3.0, rtol=1e-5)
    assert (set(complex_.dof), set(real.dof)) == ({2.0}, {1.0})


def test_the_papers_background_is_not_flat():
    """Eq. 16 at the Fourier period of each scale: from 0.18 of the variance to 5.7 times as much."""
    g, dt = 0.7, 0.25
    found = pm.cwt_significance(1.0, dt, SCALES * dt, g=g, background="peak")
    periods = SCALES * 4 * np.pi / (6 + np.sqrt(38.0))
    expected = (1 - g**2) / (1 + g**2 - 2 * g * np.cos(2 * np.pi / periods))
    np.testing.assert_allclose(found.background, expected, rtol=1e-12)
    assert found.background.max() / found.background.min() > 20


@pytest.mark.parametrize("wavelet", WAVELETS, ids=str)
@pytest.mark.parametrize("g", [-0.5, 0.3, 0.95])
def test_the_band_is_the_expected_power_of_equation_4(wavelet, g):
    n, scales = 4096, 2.1 / wavelet.fourier_factor * 2.0 ** (np.arange(17) / 4)  # the first ones reach beyond Nyquist's
    frequencies = np.fft.fftfreq(n)
    squared = 2 * np.pi * scales[:, None] * np.abs(wavelet.fourier(2 * np.pi * scales[:, None] * frequencies)) ** 2
    expected = np.mean(squared * ar1_spectrum(frequencies, g), axis=1)
    found = pm.cwt_significance(1.0, 1.0, scales, wavelet=wavelet, g=g)
    np.testing.assert_allclose(found.background, expected, rtol=3e-3)


def test_a_series_brings_its_own_variance_and_memory():
    x = 7.0 + pm.ar1_surrogate(400, 0.6, 1, sigma=2.0)
    found = pm.cwt_significance(x, 1.0, SCALES)
    assert found.variance == pytest.approx(x.var())
    assert found.g == pm.ar1(x).g
    again = pm.cwt_significance(x.var(), 1.0, SCALES, g=pm.ar1(x).g)
    np.testing.assert_array_equal(found.levels, again.levels)
    assert (pm.cwt_significance(x, 1.0, SCALES, g=0.0).g, again.significance_level) == (0.0, 0.95)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_pycwt_agrees_where_it_is_right(level):
    """A variance in the place of a series: for a series it divides the frequencies by its length once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports names that SciPy deprecates
        import pycwt

    given = {"alpha": 0.72, "significance_level": level, "wavelet": "morlet"}
    local, _ = pycwt.significance(1.7, 0.25, SCALES, 0, **given)
    ours = {"significance_level": level, "g": 0.72, "background": "peak"}
    found = pm.cwt_significance(1.7, 0.25, SCALES, **ours)
    np.testing.assert_allclose(found.levels, local, rtol=1e-12)
    np.testing.assert_allclose(found.levels / found.background * found.dof / 2, -np.log1p(-level), rtol=1e-12)
    averaged, _ = pycwt.significance(1.7, 0.25, SCALES, 2, dof=[SCALES[4], SCALES[12]], **given)
    found = pm.cwt_significance(1.7, 0.25, SCALES, test="scale", averaged=(SCALES[4], SCALES[12]), **ours)
    assert found.levels == pytest.approx(averaged, rel=1e-12)


def test_averages_over_time_have_the_papers_degrees_of_freedom():
    found = pm.cwt_significance(1.0, 0.25, SCALES, g=0.5, test="time", averaged=500)
    np.testing.assert_allclose(found.dof, 2 * np.sqrt(1 + (500 * 0.25 / (2.32 * SCALES)) ** 2), rtol=1e-12)
    each = pm.cwt_significance(1.0, 0.25, SCALES, g=0.5, test="time", averaged=np.full(SCALES.shape, 500))
    np.testing.assert_array_equal(each.levels, found.levels)
    real = pm.cwt_significance(1.0, 0.25, SCALES, g=0.5, test="time", averaged=500, wavelet="dog")
    np.testing.assert_allclose(real.dof, np.sqrt(1 + (500 * 0.25 / (1.43 * SCALES)) ** 2), rtol=1e-12)
    series = pm.ar1_surrogate(500, 0.5, 0)
    np.testing.assert_array_equal(pm.cwt_significance(series, 0.25, SCALES, test="time").dof, found.dof)
    assert (np.diff(found.levels / found.background) > 0).all()  # the more is averaged, the less is left to chance


# --------------------------------------------------------------------------------------------------- false positives


@pytest.mark.parametrize("wavelet", WAVELETS, ids=str)
@pytest.mark.parametrize("g", [0.0, 0.7])
def test_one_in_twenty_exceeds_the_local_level_by_chance(wavelet, g):
    """The binomial interval: 20 000 series, 5 %, so 4.3 standard deviations are 0.66 %."""
    trials, n, scales = 20_000, 255, SCALES[:9:2]
    x = pm.ar1_surrogate(n, g, 12, size=trials)
    power = np.abs(by_hand(x, scales, wavelet)) ** 2
    assert power.mean(axis=0) == pytest.approx(pm.cwt_significance(1 / (1 - g**2), 1.0, scales, g=g,
                                                                   wavelet=wavelet).background, rel=0.06)  # fmt: skip
    levels = pm.cwt_significance(1 / (1 - g**2), 1.0, scales, g=g, wavelet=wavelet).levels
    rates = np.mean(power > levels, axis=0)
    assert np.abs(rates - 0.05).max() < 4.3 * np.sqrt(0.05 * 0.95 / trials)


def test_the_papers_own_background_lets_more_through():
    """Why "band" is what is taken: the second derivative of a Gaussian, g = 0.95, 13 % instead of 5 %."""
    x, scales, given = pm.ar1_surrogate(255, 0.95, 3, size=4000), [2.5], {"g": 0.95, "wavelet": "dog"}
    power = np.abs(by_hand(x, np.array(scales), DOG())) ** 2
    peak, band = (
        np.mean(power > pm.cwt_significance(1 / (1 - 0.95**2), 1.0, scales, background=background, **given).levels)
        for background in ("peak", "band")
    )
    assert peak > 0.1
    assert band == pytest.approx(0.05, abs=0.015)


def test_the_level_of_an_average_over_time_is_seldom_exceeded():
    """The paper's degrees of freedom are a fit, so only roughly as seldom."""
    wavelet, scales, n = Morlet(), np.array([3.0, 8.0]), 512
    x = pm.ar1_surrogate(n, 0.5, 4, size=600)
    spectrum, angular = np.fft.fft(x), 2 * np.pi * np.fft.fftfreq(n)
    for s in scales:
        transform = np.fft.ifft(spectrum * np.sqrt(2 * np.pi * s) * wavelet.fourier(s * angular))
        level = pm.cwt_significance(1 / 0.75, 1.0, [s], g=0.5, test="time", averaged=n).levels
        assert 0.02 < np.mean(np.mean(np.abs(transform) ** 2, axis=1) > level) < 0.09


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"significance_level": 1.0}, "significance_level: found 1.0"), ({"test": "global"}, "local, time, scale"),
        ({"background": "flat"}, "band, peak"), ({"dt": 0.0}, "dt: found 0.0"), ({"g": None}, "give its lag-1"),
        ({"g": 1.0}, "between -1 and 1"), ({"x": -1.0}, "must be above 0"), ({"scales": [1.0, -1.0]}, "above 0"),
        ({"scales": [[1.0]]}, "one axis"), ({"test": "time"}, "say how many points"), ({"wavelet": "haar"}, "'haar'"),
        ({"test": "scale", "averaged": (500.0, 600.0)}, "no scales to average from 500 to 600"),
        ({"test": "time", "averaged": 9, "wavelet": ("paul", 7)}, "not published"), ({"x": np.ones(9)}, "constant"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(given, said):
    usual = {"x": 1.0, "dt": 1.0, "scales": SCALES, "g": 0.5}
    with pytest.raises(ValueError, match=said):
        pm.cwt_significance(**{**usual, **given})


def test_without_scipy_points_are_tested_and_averages_say_what_is_missing(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert pm.cwt_significance(1.0, 1.0, SCALES, g=0.5).levels.shape == SCALES.shape
    with pytest.raises(BackendUnavailableError, match=r"pip install 'pointsman\[scipy\]'"):
        pm.cwt_significance(1.0, 1.0, SCALES, g=0.5, test="time", averaged=100)
