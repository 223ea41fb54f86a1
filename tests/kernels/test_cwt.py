"""The continuous wavelet transform against closed forms, the paper's equations and a peer, on every variant."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pointsman as pm
import pytest
from pointsman.datasets import load
from pointsman.executors.prepare import prepare
from pointsman.kernels import band_limited, wavelet_plan
from pointsman.kernels.wavelet_plan import plan
from pointsman.kernels.wavelets import DOG, Morlet, Paul
from pointsman.selector import operations

OPERATION = operations.find("cwt")
VARIANTS = [v for v in OPERATION.variants if v.device == "cpu"]
on_each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
WAVELETS = [Morlet(), Paul(), DOG(), DOG(6)]
each_wavelet = pytest.mark.parametrize("wavelet", WAVELETS, ids=str)


def run(variant, x, **description):
    named = dict.fromkeys(description)
    return prepare(variant, ["numpy"], named).call(x, **description)


@on_each_variant
def test_a_cosine_gives_the_transform_of_its_frequency(variant):
    """cos(w n) = (e^iwn + e^-iwn) / 2, and a harmonic is only weighted: W = psi^*(s w) e^iwn / 2."""
    n, cycles = 240, 17
    w = 2 * np.pi * cycles / n
    for wavelet in (Morlet(), Paul(), DOG(), DOG(3)):
        made = plan(n, 0.5, dj=0.3, wavelet=wavelet, pad=None)
        found = run(variant, np.cos(w * np.arange(n)), **made.parameters)
        steps = made.scales / 0.5
        weight = np.sqrt(2 * np.pi * steps) * np.conj(wavelet.fourier(steps * w))
        expected = weight[:, None] * np.exp(1j * w * np.arange(n)) / 2
        if not wavelet.analytic:
            expected = 2 * expected.real
        assert found == pytest.approx(expected, abs=2e-12)


@each_wavelet
def test_a_spike_gives_the_wavelet_itself(wavelet):
    """Of a unit spike, W(s) is sqrt(dt / s) psi_0^*((n' - n) dt / s) (eq. 2)."""
    x = np.zeros(700)
    x[100], x[600] = 1.0, -1.0  # far away, so that the mean is zero
    found = pm.cwt(x, dt=0.5, s0=8.0, J=0, wavelet=wavelet).W[0, 20:180]
    back = (100 - np.arange(20, 180)) * 0.5 / 8.0
    w = np.arange(-40.0, 40.0, 0.01) + 0.005
    psi = np.exp(1j * np.outer(back, w)) @ wavelet.fourier(w) * 0.01 / math.sqrt(2 * math.pi)
    assert found == pytest.approx(math.sqrt(0.5 / 8.0) * np.conj(psi), abs=2e-6)


@each_wavelet
def test_energy_is_kept(wavelet):
    """Parseval (eq. 14), with the constant that belongs to it: of periods well inside of the range of scales."""
    rng = np.random.default_rng(0)
    n, dj = 4096, 0.1
    spectrum = np.zeros(n // 2 + 1, complex)
    spectrum[60:120] = rng.standard_normal(60) + 1j * rng.standard_normal(60)
    x = np.fft.irfft(spectrum)
    made = pm.cwt(x, dj=dj, wavelet=wavelet, pad=None)
    u = np.arange(1e-3, 60.0, 1e-3)
    both = np.abs(wavelet.fourier(u)) ** 2 + np.abs(wavelet.fourier(-u)) ** 2
    constant = np.pi / math.log(2) * np.sum(both / u) * 1e-3
    found = dj / (constant * n) * np.sum(np.sum(made.power, axis=1) / made.scales)
    assert found == pytest.approx(np.var(x), rel=2e-3)
    assert constant == pytest.approx(wavelet.c_delta, rel=0.04)  # one number stands for both in the paper


@each_wavelet
def test_white_noise_has_its_variance_as_mean_power(wavelet):
    x = 3.0 * np.random.default_rng(1).standard_normal((40, 1000))
    found = pm.cwt(x, dj=0.5, s0=8.0 / wavelet.fourier_factor, J=6, wavelet=wavelet, pad=None)
    inside = np.abs(wavelet.fourier(np.outer(found.scales, 2 * np.pi * np.fft.fftfreq(1000)))) ** 2
    expected = 9.0 * 2 * np.pi * found.scales * np.mean(inside, axis=1)  # close to 9: eq. 17, at any scale
    assert expected == pytest.approx(9.0, rel=0.02)
    # Its relative deviation is about that of as many independent values as wavelets find room.
    room = 40 * 1000 / (found.scales * 3.0)
    assert np.all(np.abs(found.global_spectrum.mean(0) / expected - 1) < 4 / np.sqrt(room))


@each_wavelet
def test_the_inverse_gives_the_series_back(wavelet):
    t = np.arange(1500)
    x = np.cos(2 * np.pi * t / 40) + 0.5 * np.sin(2 * np.pi * t / 90) + 7.0
    found = pm.cwt(x, dt=0.25, wavelet=wavelet)
    middle = slice(600, 900)
    assert found.inverse()[middle] == pytest.approx(x[middle], abs=0.01)
    fast = found.inverse(periods=(0.25 * 30, 0.25 * 53))
    assert fast.mean() == pytest.approx(0.0, abs=0.02)
    if wavelet.name == "morlet":
        assert fast[middle] == pytest.approx(np.cos(2 * np.pi * t / 40)[middle], abs=0.15)
    with pytest.raises(ValueError, match=r"no scale has a period from 1e.06"):
        found.inverse(periods=(1e6, 2e6))


def test_el_nino_comes_back():
    x = load("elnino")
    back = pm.cwt(x, dt=1 / 12, wavelet=("dog", 6)).inverse()
    assert np.std(back - x) < 0.03 * np.std(x)
    found = pm.cwt(x, dt=1 / 12)
    yearly = np.argmax(found.global_spectrum)
    assert found.periods[yearly] == pytest.approx(1.0, rel=0.06)
    assert found.frequencies[yearly] == pytest.approx(1.0, rel=0.06)
    assert found.outside[yearly].mean() > 0.9


@pytest.mark.parametrize("n", [255, 1001])
@pytest.mark.parametrize("dt", [1.0, 0.25])
def test_agrees_with_pycwt_where_no_bin_is_at_the_nyquist_frequency(n, dt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports what SciPy has moved
        import pycwt

    x = np.random.default_rng(2).standard_normal(n)
    x -= x.mean()  # which its Morlet lets through, by e^-18
    for ours, theirs in ((Morlet(), pycwt.Morlet(6)), (Paul(), pycwt.Paul(4)), (DOG(), pycwt.DOG(2))):
        found = pm.cwt(x, dt=dt, J=70, wavelet=ours, pad=None)
        with np.errstate(over="ignore", invalid="ignore"):  # its Paul at negative frequencies
            expected, s, _, coi, *_ = pycwt.cwt(x, dt, 1 / 12, found.scales[0], len(found.scales) - 1, theirs)
        assert found.scales == pytest.approx(s)
        np.testing.assert_allclose(found.W, expected, rtol=0, atol=1e-8)
        assert found.coi[5:-5] == pytest.approx(coi[5:-5], abs=2 * coi[0])  # theirs is half a sample wider


@on_each_variant
def test_the_nyquist_bin_counts_as_a_positive_frequency(variant):
    x = np.cos(np.pi * np.arange(64))
    s = 0.6
    for wavelet in (Morlet(), DOG()):  # once, whether the wavelet has negative frequencies or not
        found = run(variant, x, s0=s, J=0, wavelet=wavelet, pad=None)[0]
        expected = np.sqrt(2 * np.pi * s) * wavelet.fourier(np.array([s * np.pi]))[0] * x
        assert found == pytest.approx(expected, abs=1e-12)


@on_each_variant
def test_offsets_do_not_matter_and_the_transform_is_linear(variant):
    x, y = np.random.default_rng(3).standard_normal((2, 5, 130))
    of_x, of_y = (run(variant, z, dj=0.25) for z in (x, y))
    assert run(variant, 2 * x - 3 * y + 1000.0, dj=0.25) == pytest.approx(2 * of_x - 3 * of_y, abs=1e-10)


@on_each_variant
def test_a_series_gives_the_same_alone_as_in_a_batch(variant):
    x = np.random.default_rng(4).standard_normal((70, 300))
    together = run(variant, x, dj=0.5)
    for row in (0, 33, 69):
        assert run(variant, x[row], dj=0.5) == pytest.approx(together[row], abs=1e-13)


@pytest.mark.parametrize("wavelet", [Morlet(), Paul(), DOG(3)], ids=str)
@pytest.mark.parametrize("n", [9000, 10_007, 2**14])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_short_transforms_are_those_of_the_whole_length(wavelet, n, dtype):
    """Band after band: one step, two steps, a length without divisors, against a plain inverse transform."""
    made = plan(n, dj=1.0, wavelet=wavelet, pad=None)
    x = np.random.default_rng(5).standard_normal(n).astype(dtype)
    kinds = {(group.whole, group.steps < n) for group in made.groups(x.dtype)}
    assert kinds == ({(False, False)} if n == 10_007 else {(True, True), (False, True)})
    bins = np.zeros((len(made.scales), n), complex)
    bins[:, : n // 2 + 1] = np.fft.rfft(x - x.mean()) * made.bank(np.float64)
    expected = made.answer(np.fft.ifft(bins))
    for name in ("numpy", "scipy"):
        found = run(OPERATION.variant(name), x, **made.parameters)
        assert found.dtype == np.result_type(dtype, "c8")
        assert np.max(np.abs(found - expected)) < np.max(np.abs(expected)) * (2e-6 if dtype == "float32" else 4e-15)


def test_threads_change_no_bit():
    x = np.random.default_rng(6).standard_normal((3, 9000))
    for backend in ("scipy", "fftw"):
        one, more = (run(OPERATION.variant(name), x, dj=1.0) for name in (backend, f"{backend}/threads"))
        if backend == "scipy":
            assert np.array_equal(one, more)
        else:  # FFTW plans otherwise for more threads
            assert one == pytest.approx(more, abs=1e-12)


def test_divisors_are_at_least_halved():
    assert band_limited.divisors(96) == (96, 48, 24, 12)
    assert band_limited.divisors(10_007) == (10_007,)
    assert band_limited.divisors(7) == (7,)


def test_any_kind_of_series_is_taken():
    import torch

    whole = load("sunspots").astype(int)
    np.testing.assert_allclose(pm.cwt(whole).W, pm.cwt(list(whole)).W)
    single = pm.cwt(load("sunspots").astype("f4"))
    assert single.W.dtype == np.complex64
    assert single.power.dtype == single.inverse().dtype == np.float32
    tensors = pm.cwt(torch.tensor(load("sunspots")))
    assert isinstance(tensors.W, torch.Tensor)
    assert tensors.inverse().numpy() == pytest.approx(pm.cwt(load("sunspots")).inverse())
    assert pm.cwt(np.ones((2, 3, 50)), backend="numpy").W.shape == (2, 3, len(plan(50).scales), 50)


@pytest.mark.parametrize(
    ("x", "options", "error", "says"),
    [
        (3.0, {}, ValueError, r"cwt: a series must have at least one sample along its last axis; got shape \(\)"),
        (np.ones(9) * 1j, {}, TypeError, "cwt: x must have dtype float32 or float64; got complex128"),
        (np.ones(9), {"dt": 0}, ValueError, "cwt: dt must be positive"),
        (np.ones(9), {"wavelet": "db4"}, ValueError, "cwt: wavelet: must be one of 'morlet', 'paul', 'dog'; got 'db4'"),
        (np.ones(9), {"backend": "fastest"}, ValueError, "fastest"),
        (np.ma.masked_array(np.ones(9), np.ones(9)), {}, pm.UnsupportedError, "MaskedArray"),
    ],
)
def test_what_cannot_be_transformed_is_refused(x, options, error, says):
    with pytest.raises(error, match=says):
        pm.cwt(x, **options)


@pytest.mark.parametrize(
    ("alike", "plain"),
    [
        ({"dt": np.float32(0.25)}, {"dt": 0.25}),
        ({"wavelet": ("morlet", np.float32(6))}, {"wavelet": ("morlet", 6.0)}),
        ({"wavelet": ("paul", np.int64(4))}, {"wavelet": "paul"}),
    ],
    ids=str,
)
def test_what_a_call_gives_does_not_depend_on_equal_numbers_that_were_given_before(alike, plain):
    wavelet_plan._plan.cache_clear()
    x = np.random.default_rng(0).standard_normal(50)
    pm.cwt(x, **alike)
    after = pm.cwt(x, **plain)
    wavelet_plan._plan.cache_clear()
    alone = pm.cwt(x, **plain)
    np.testing.assert_array_equal(after.scales, alone.scales)
    np.testing.assert_array_equal(after.W, alone.W)
    assert repr(after.wavelet) == repr(alone.wavelet)


@pytest.mark.parametrize("wrong", [{"dt": 1e308}, {"s0": 1e300, "J": 600}])
def test_scales_that_no_number_can_hold_are_refused(wrong):
    with pytest.raises(ValueError, match="scales must be finite"):
        pm.cwt(np.ones(8), **wrong)
