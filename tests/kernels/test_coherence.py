"""Wavelet coherence: what it must be for series that are known, and what the papers' sums give, on every variant."""

from __future__ import annotations

import numpy as np
import pointsman as pm
import pytest
from pointsman.datasets import load
from pointsman.executors.prepare import prepare
from pointsman.kernels.coherence import coherence_of_batch
from pointsman.kernels.wavelet_engines import on_fftw, on_numpy, on_scipy
from pointsman.kernels.wavelet_plan import plan
from pointsman.kernels.wavelets import DOG, Morlet, Paul
from pointsman.selector import operations

OPERATION = operations.find("wavelet_coherence")
VARIANTS = [v for v in OPERATION.variants if v.device == "cpu"]
on_each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
each_wavelet = pytest.mark.parametrize("wavelet", [Morlet(), Paul(), DOG()], ids=str)
ENGINES = {"numpy": on_numpy, "scipy": on_scipy, "fftw": on_fftw}
each_engine = pytest.mark.parametrize("engine", ENGINES)


def run(variant, x, y, **description):
    return prepare(variant, ["numpy"] * 2, dict.fromkeys(description)).call(x, y, **description)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@each_wavelet
def test_it_is_the_quotient_of_the_papers(wavelet):
    """Torrence and Webster (1999), Grinsted et al. (2004), with sums in time and scale written out."""
    n, dj, dt = 90, 0.25, 0.5
    x, y = noise(2, n)
    described = plan(n, dt, dj=dj, J=20, wavelet=wavelet)
    first, second = (pm.cwt(z, dt, dj=dj, J=20, wavelet=wavelet).W for z in (x, y))
    s = described.scales[:, None]
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) * dt
    width = wavelet.dj0 / dj  # scales that a boxcar of dj0 octaves covers: whole ones, and a part of the next
    offsets = np.abs(np.subtract.outer(np.arange(21), np.arange(21)))
    window = np.clip((width + 1) / 2 - offsets, 0.0, 1.0)

    def smoothed(values):
        in_time = np.empty_like(values)
        for row, line, scale in zip(in_time, values / s, s[:, 0], strict=True):
            total = wavelet.envelope(np.arange(-2000, 2001) * dt / scale).sum()
            row[:] = wavelet.envelope(apart / scale) @ line / total
        return window @ in_time

    cross = smoothed(first * np.conj(second))
    powers = [smoothed(np.abs(w) ** 2) for w in (first, second)]
    expected = np.abs(cross) ** 2 / (powers[0] * powers[1])
    found = pm.wct(x, y, dt, dj=dj, J=20, wavelet=wavelet)
    # Where the weights at the ends have room to wrap round, they may.
    inside = found.outside if wavelet.name != "paul" else found.outside & (found.periods[:, None] < 4.0)
    assert inside.sum() > 300
    tolerance = 2e-3 if wavelet.name != "paul" else 2e-2  # tails of Paul's fall off with the fifth power only
    assert found.coherence[inside] == pytest.approx(expected[inside], abs=tolerance)
    assert np.exp(1j * found.smoothed_phase[inside]) == pytest.approx(np.exp(1j * np.angle(cross[inside])), abs=0.1)


@pytest.mark.parametrize(
    ("dj", "whole", "part"), [(1 / 12, 3, 0.1), (0.25, 0, 0.7), (0.1, 2, 0.5), (0.6, 0, 0.0), (1.0, 0, 0.0)]
)
def test_the_boxcar_is_0_6_octaves_wide_in_all(dj, whole, part):
    made = plan(200, dj=dj)
    assert made.boxcar == (whole, pytest.approx(part, abs=1e-9))
    middle = made.window(float)[made.J // 2]
    assert middle.sum() == pytest.approx(max(0.6 / dj, 1.0))


@on_each_variant
def test_a_series_is_coherent_with_itself(variant):
    x = noise(2, 130)
    for other, phase in ((x, 0.0), (-2.5 * x + 3.0, np.pi)):
        found = run(variant, x, other, dj=0.25)
        assert np.abs(found) == pytest.approx(1.0, abs=1e-9)
        assert np.abs(np.angle(found)) == pytest.approx(phase, abs=1e-4)


@on_each_variant
def test_it_lies_between_zero_and_one_and_is_conjugate_when_swapped(variant):
    x, y = noise(2, 3, 150)
    found = run(variant, x, y, dj=0.25)
    assert np.all(np.abs(found) <= 1.0 + 1e-12)
    assert np.median(np.abs(found)) < 0.75
    assert run(variant, y, x, dj=0.25) == pytest.approx(np.conj(found), abs=1e-9)


@pytest.mark.parametrize("delay", [3, -5])
def test_the_leading_series_has_a_positive_phase(delay):
    common = noise(800, seed=1)
    x, y = common[100:700], common[100 - delay : 700 - delay]  # y is x `delay` samples later
    found = pm.wct(x, y)
    at = int(np.argmin(np.abs(found.periods - 24)))
    middle = slice(100, 500)
    assert np.mean(found.smoothed_phase[at, middle]) == pytest.approx(2 * np.pi * delay / found.periods[at], rel=0.1)
    assert np.median(found.coherence[at, middle]) > 0.95
    crossed = pm.xwt(x, y)
    assert np.median(crossed.phase[at, middle]) == pytest.approx(2 * np.pi * delay / crossed.periods[at], rel=0.2)
    assert np.array_equal(found.W12, crossed.W12)
    assert crossed.power == pytest.approx(np.abs(pm.cwt(x).W) * np.abs(pm.cwt(y).W))


@on_each_variant
def test_neither_units_nor_offsets_matter(variant):
    x, y = noise(2, 100)
    expected = run(variant, x, y, dj=0.25)
    for factor in (1e-120, 1e120):
        assert run(variant, factor * x, 1e3 + y, dj=0.25) == pytest.approx(expected, abs=1e-8)
    single = run(variant, (1e-25 * x).astype("f4"), y.astype("f4"), dj=0.25)
    assert single == pytest.approx(expected, abs=1e-3)


@on_each_variant
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_rounding_leaves_of_a_gap_or_beside_a_burst_is_not_told(variant, dtype):
    gap, burst = noise(2, 600)
    gap[200:400] = np.delete(gap, slice(200, 400)).mean()
    burst[200:220] *= 1000 if dtype == "float32" else 1e8
    for series in (gap, burst):
        found = np.abs(run(variant, series.astype(dtype), series.astype(dtype), dj=0.125)) ** 2
        told = ~np.isnan(found)
        assert found[told] == pytest.approx(1.0, abs=0.005)
        assert not told.all()
        assert told[:, 205:215].all()  # at the burst, and within the gap near to its end
        assert told[-20:].all()


@on_each_variant
def test_a_constant_series_has_no_coherence(variant):
    x, y = noise(2, 60), np.stack([np.full(60, 0.1), noise(60, seed=3)])
    found = run(variant, x, y, dj=0.5)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


@each_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_is_what_its_pairs_are(engine, dtype):
    x, y = noise(2, 5, 120).astype(dtype)
    described = plan(120, dj=1 / 12)
    together = coherence_of_batch(x, y, described, ENGINES[engine]())
    assert together.shape == (5, described.J + 1, 120)
    assert together.dtype == dtype
    assert together.min() >= 0.0
    assert together.max() <= 1.0
    for row in range(5):
        assert np.array_equal(coherence_of_batch(x[row], y[row], described, ENGINES[engine]()), together[row])
    expected = np.abs(OPERATION.reference(x, y, **described.parameters)) ** 2
    assert together == pytest.approx(expected, abs=2e-4 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("wavelet", [Paul(), DOG(), DOG(6)], ids=str)
def test_a_batch_of_any_wavelet_agrees_with_the_operation(wavelet):
    x, y = noise(2, 2, 80)
    described = plan(80, dj=0.2, wavelet=wavelet, pad=None)
    expected = np.abs(OPERATION.reference(x, y, **described.parameters)) ** 2
    assert coherence_of_batch(x, y, described) == pytest.approx(expected, abs=1e-11)


def test_independent_noise_has_coherence_by_chance_alone_whatever_the_scale():
    """The smoothing makes all scales alike but for the cut at the smallest and the largest."""
    x, y = noise(2, 30, 700, seed=4)
    described = plan(700, s0=2.0, J=60)
    found = coherence_of_batch(x, y, described)
    outside = described.periods[:, None] < described.coi
    means = np.array([found[:, j, outside[j]].mean() for j in range(8, 45)])
    assert means == pytest.approx(means.mean(), abs=0.06)
    assert 0.3 < means.mean() < 0.42


def test_el_nino_and_itself_a_season_later():
    x = load("elnino")
    found = pm.wct(x[:-3], x[3:], dt=1 / 12)
    yearly = int(np.argmin(np.abs(found.periods - 1.0)))
    # What is seen three months later of the first leads it: the first of the pair is the later one here.
    assert np.median(found.smoothed_phase[yearly, 60:-60]) == pytest.approx(-np.pi / 2, abs=0.1)
    assert found.coherence[yearly, 60:-60].min() > 0.95
    assert found.coherence.shape == found.outside.shape == found.W12.shape


@pytest.mark.parametrize("transform", ["grad", "jit", "vmap"])
def test_jax_transforms_it_as_it_does_its_own_functions(transform):
    import jax

    x, y = (jax.numpy.asarray(z, "float32") for z in noise(2, 64))

    def total(a):
        found = pm.wct(a, y, dj=0.5)
        return (found.coherence + found.smoothed_phase).sum()

    if transform == "grad":
        assert jax.numpy.isfinite(jax.grad(total)(x)).all()
    else:
        found = jax.jit(total)(x) if transform == "jit" else jax.vmap(total)(x[None])[0]
        assert float(found) == pytest.approx(float(total(x)), rel=1e-3)


def test_any_kind_of_series_is_taken():
    import torch

    x, y = noise(2, 90)
    expected = pm.wct(x, y, dj=0.5)
    tensors = pm.wct(torch.tensor(x), torch.tensor(y), dj=0.5)
    for part in ("coherence", "smoothed_phase", "phase", "W12", "power"):
        assert isinstance(getattr(tensors, part), torch.Tensor)
        assert getattr(tensors, part).numpy() == pytest.approx(getattr(expected, part), abs=1e-9)


@pytest.mark.parametrize(
    ("transform", "args", "options", "says"),
    [
        (pm.xwt, (np.ones(9), np.ones(8)), {}, r"xwt: x and y must have one shape; got \(9,\) and \(8,\) \(cut both"),
        (pm.wct, (np.ones(9), np.ones(8)), {}, r"wct: x and y must have one shape"),
        (pm.wct, (np.ones(9), np.ones(9)), {"wavelet": ("morlet", 7)}, "dj0, .* morlet of order 7 is not published"),
        (pm.wct, (np.ones(9), np.ones(9)), {"dj": 0.0}, "wct: dj must be positive"),
    ],
)
def test_what_cannot_be_compared_is_refused(transform, args, options, says):
    with pytest.raises(ValueError, match=says):
        transform(*args, **options)


@pytest.mark.parametrize("transform", [pm.xwt, pm.wct])
def test_two_precisions_are_not_mixed(transform):
    with pytest.raises(TypeError, match="the operands must have one dtype; got x float32, y float64"):
        transform(np.ones(9, "f4"), np.ones(9))
