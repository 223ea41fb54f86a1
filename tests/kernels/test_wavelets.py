"""Mother wavelets, scales and cones against closed forms, numerical integrals and the paper's tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pointsman.kernels import wavelets
from pointsman.kernels.wavelet_plan import plan
from pointsman.kernels.wavelets import DOG, MOTHERS, Morlet, Paul, cone_of_influence, mother, scales

ORDERS = [Morlet(), Morlet(10), Paul(), Paul(1), Paul(7), DOG(), DOG(6), DOG(3), DOG(40), Paul(40)]
each = pytest.mark.parametrize("wavelet", ORDERS, ids=str)
FINE = np.arange(-150.0, 150.0, 1e-3) + 5e-4


def integral(values):
    return np.sum(values) * 1e-3


@each
def test_the_energy_is_one(wavelet):
    assert integral(np.abs(wavelet.fourier(FINE)) ** 2) == pytest.approx(1.0, rel=1e-9)


@each
def test_the_value_at_time_zero_is_the_integral_of_the_transform(wavelet):
    found = integral(wavelet.fourier(FINE)) / math.sqrt(2 * math.pi)
    assert wavelet.at_zero == pytest.approx(found, abs=1e-7)


@each
def test_only_analytic_wavelets_have_no_negative_frequencies(wavelet):
    below = wavelet.fourier(np.array([-0.5, -3.0]))
    if wavelet.analytic:
        assert not below.any()
    else:
        assert below == pytest.approx(np.conj(wavelet.fourier(np.array([0.5, 3.0]))))
    assert wavelet.fourier(np.array([0.0])) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("wavelet", "time", "wanted"),  # table 1, functions of time
    [
        (Morlet(), 0.7, math.pi**-0.25 * np.exp(6j * 0.7 - 0.7**2 / 2)),
        (Paul(), 0.7, 2**4 * 24 / math.sqrt(math.pi * math.factorial(8)) * (1 - 0.7j) ** -5),
        (DOG(), 0.7, (1 - 0.7**2) * math.exp(-(0.7**2) / 2) / math.sqrt(math.gamma(2.5))),
        (
            DOG(6),
            0.7,
            -(0.7**6 - 15 * 0.7**4 + 45 * 0.7**2 - 15) * math.exp(-(0.7**2) / 2) / math.sqrt(math.gamma(6.5)),
        ),
    ],
    ids=str,
)
def test_transforms_belong_to_the_functions_of_time(wavelet, time, wanted):
    found = integral(wavelet.fourier(FINE) * np.exp(1j * FINE * time)) / math.sqrt(2 * math.pi)
    assert found == pytest.approx(wanted, abs=1e-7)
    assert wavelet.envelope(np.array([time]))[0] / wavelet.envelope(np.array([0.0]))[0] == pytest.approx(
        abs(wanted / wavelet.at_zero), rel=1e-6
    )


@pytest.mark.parametrize("order", [1, 3, 5])
def test_a_dog_of_odd_order_has_the_sign_of_the_fourier_column(order):
    assert DOG(order).fourier(np.array([1.0]))[0] / -(1j**order) == pytest.approx(
        math.exp(-0.5) / math.sqrt(math.gamma(order + 0.5))
    )


@each
def test_a_harmonic_answers_most_at_its_own_period(wavelet):
    s = np.geomspace(0.05, 50.0, 400_001)  # scales of a wave of angular frequency 1: period 2 pi
    power = s * np.abs(wavelet.fourier(s)) ** 2
    assert wavelet.fourier_factor * s[np.argmax(power)] == pytest.approx(2 * math.pi, rel=1e-4)


@pytest.mark.parametrize(
    ("wavelet", "factor", "efold", "c_delta", "gamma", "dj0"),  # tables 1 and 2
    [
        (Morlet(), 1.033, 1.414, 0.776, 2.32, 0.60),
        (Paul(), 1.396, 0.707, 1.132, 1.17, 1.5),
        (DOG(), 3.974, 1.414, 3.541, 1.43, 1.4),
        (DOG(6), 2.465, 1.414, 1.966, 1.37, 0.97),
    ],
    ids=str,
)
def test_tables_of_the_paper(wavelet, factor, efold, c_delta, gamma, dj0):
    assert wavelet.fourier_factor == pytest.approx(factor, abs=6e-4)
    assert wavelet.e_folding == pytest.approx(efold, abs=6e-4)
    assert (wavelet.c_delta, wavelet.gamma, wavelet.dj0) == (c_delta, gamma, dj0)
    assert wavelet.c_delta_limit == pytest.approx(c_delta, rel=0.022)


@pytest.mark.parametrize("wavelet", [w for w in ORDERS if w.at_zero], ids=str)
def test_c_delta_is_the_sum_of_equation_13(wavelet):
    dj, n = 0.05, 4096
    s = 0.02 * 2.0 ** (dj * np.arange(320))
    w = 2 * np.pi * np.fft.fftfreq(n)
    of_a_delta = [np.mean(np.sqrt(2 * np.pi * one) * wavelet.fourier(one * w)).real for one in s]
    total = dj / wavelet.at_zero * np.sum(np.array(of_a_delta) / np.sqrt(s))
    assert wavelet.c_delta_limit == pytest.approx(total, rel=0.04)  # scales above the largest are left out
    # The limit: sum -> integral over ds / (s ln 2), then by parts.
    limit = integral(wavelet.fourier(FINE).real / np.abs(FINE)) * math.sqrt(math.pi / 2) / math.log(2) / wavelet.at_zero
    assert wavelet.c_delta_limit == pytest.approx(limit, rel=1e-6)


def test_what_is_not_published_is_refused_and_c_delta_computed():
    assert Morlet(8.0).c_delta == Morlet(8.0).c_delta_limit
    with pytest.raises(
        ValueError, match=r"gamma, the decorrelation factor .* of paul of order 6 is not published; it is for order 4"
    ):
        _ = Paul(6).gamma
    with pytest.raises(ValueError, match=r"dj0, .* of dog of order 4 is not published; it is for order 2, 6"):
        _ = DOG(4).dj0
    with pytest.raises(ValueError, match="dog of order 3 is zero at time zero"):
        _ = DOG(3).c_delta


def test_wavelets_are_named_in_three_ways():
    assert mother("morlet") == mother(("Morlet", 6)) == mother(Morlet()) == Morlet(6.0)
    assert mother(("paul", 4.0)) == Paul(4)
    assert {name: type(mother(name)) for name in MOTHERS} == dict(MOTHERS)
    assert len({Morlet(), Morlet(6.0), Paul()}) == 2


@pytest.mark.parametrize(
    ("wavelet", "error", "says"),
    [
        ("haar", ValueError, "one of 'morlet', 'paul', 'dog'; got 'haar'"),
        (("morlet", 2), ValueError, "w0 of morlet must be a number from 5 to 100; got 2"),
        (("paul", 2.5), ValueError, "m of paul must be a whole number from 1 to 40; got 2.5"),
        (("dog", True), ValueError, "got True"),
        (6, TypeError, "must be a name, .name, order. or an instance; got 6"),
    ],
)
def test_other_wavelets_are_refused(wavelet, error, says):
    with pytest.raises(error, match=f"^wavelet: .*{says}"):
        mother(wavelet)


def test_scales_are_those_of_equations_9_and_10():
    # Section 3f: N = 504 seasons, dt = 1/4 year, s0 = 2 dt, dj = 1/8, J = 64: from 0.5 to 128 years.
    found = scales(504, 0.25, dj=0.125, s0=0.5)
    assert len(found) - 1 == round(8 * math.log2(504 * 0.25 / 0.5)) == 64
    assert found[0] == 0.5
    assert found[-1] == pytest.approx(128.0, rel=1e-12)
    default = scales(100_000)
    assert len(default) == 189
    assert default[0] * Morlet().fourier_factor == pytest.approx(2.0)
    assert len(scales(1)) == 1


def test_the_cone_reaches_as_far_as_the_e_folding_time():
    for wavelet in ("morlet", "paul", "dog"):
        kind = mother(wavelet)
        cone = cone_of_influence(101, 0.5, wavelet=wavelet)
        assert cone.shape == (101,)
        assert cone[0] == cone[-1] == 0.0
        assert cone == pytest.approx(cone[::-1])
        # A scale whose e-folding time is the distance of 30 samples to the end is on its edge there.
        assert cone[30] == pytest.approx(kind.fourier_factor * 15.0 / kind.e_folding)


def test_the_edge_of_a_series_falls_off_in_the_cone():
    """The answer to a spike at the end is down by e^-2 in power where the cone of a scale ends (section 3g)."""
    x = np.zeros(400)
    x[0] = 1.0
    from pointsman.selector.operations import find

    for wavelet in ("morlet", "dog"):
        made = plan(400, wavelet=wavelet, s0=40.0, J=0)
        W = find("cwt").variant("numpy").load()(x, s0=40.0, J=0, wavelet=wavelet)[0]
        away = round(made.wavelet.e_folding * 40.0)
        assert made.coi[away] == pytest.approx(made.periods[0], rel=0.01)
        if wavelet == "morlet":
            assert abs(W[away]) ** 2 / abs(W[0]) ** 2 == pytest.approx(math.exp(-2), rel=0.1)


def test_padding_keeps_the_ends_apart():
    made = plan(1000, s0=2.0, J=48)  # the largest scale is 32
    assert made.size >= 1000 + 2 * math.sqrt(2) * 32
    assert made.size < 1.1 * (1000 + 2 * math.sqrt(2) * 32)
    assert plan(1000).size <= 2100
    assert plan(997, pad=None).size == 997
    assert plan(1000) is plan(1000)
    assert wavelets.default_J(1, 1.0, 1 / 12, 2.0) == 0
