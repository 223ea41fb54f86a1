"""Transform lengths and what is kept between calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.executors import buffers
from pointsman.kernels.spectra import Kept, awkwardness, fast_length, filtered, flops, workspace
from pointsman.kernels.transforms import NUMPY, on_fftw, on_scipy

ENGINES = {"numpy": lambda: NUMPY, "scipy": on_scipy, "fftw": on_fftw, "fftw, two threads": lambda: on_fftw(2)}
engines = pytest.mark.parametrize("engine", [make() for make in ENGINES.values()], ids=list(ENGINES))
KINDS = ("float32", "float64", "complex64", "complex128")


def noise(shape, kind):
    rng = np.random.default_rng(21)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if kind.startswith("complex") else x).astype(kind)


def spectrum_of(taps, sizes):
    transform = np.fft.fftn if taps.dtype.kind == "c" else np.fft.rfftn
    return transform(taps, sizes, tuple(range(-len(sizes), 0))).astype(np.result_type(taps.dtype, np.complex64))


def is_quick(n):
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


@given(st.integers(1, 3000))
def test_fast_length_is_the_smallest_even_quick_one(n):
    assert fast_length(n) == next(m for m in range(n, 2 * n + 3) if m % 2 == 0 and is_quick(m))


@given(st.integers(1, 3000))
def test_only_lengths_with_large_prime_factors_are_awkward(n):
    factor = awkwardness(n)
    assert factor == 1.0 if is_quick(n) else 1.0 <= factor <= 9.0


def test_a_prime_length_is_declared_as_the_detour_that_it_takes():
    """Bluestein's algorithm is three transforms of twice the length; measured on a two-core CPU: 6.7, 6.5 and 8.9."""
    for prime in (997, 1009, 10007):
        assert 6.0 < awkwardness(prime) < 7.0
    assert 1.0 < awkwardness(7 * 11 * 13) < 1.5  # measured 1.19
    assert flops((1009, 1024)) == pytest.approx(flops((1024, 1009)))
    assert flops((1024,)) < flops((1009,)) < flops((10240,))


def test_kept_makes_once_and_forgets_the_least_recently_used():
    kept, made = Kept(100), []

    def make(name):
        made.append(name)
        return np.zeros(5)  # 40 bytes: two fit

    for name in ("a", "b", "a", "c", "a", "b"):
        kept.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]
    assert kept.nbytes == 80


def test_an_array_too_large_to_keep_is_still_given():
    kept = Kept(100)
    assert kept.get("big", lambda: np.ones(50)).sum() == 50
    assert kept.nbytes == 0


def cut_of(*ends):
    return tuple(slice(*pair) for pair in ends)


@engines
@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_the_convolutions_of_extended_precision(engine, kind):
    wide = np.clongdouble if kind.startswith("complex") else np.longdouble
    bound = 1e-6 if kind in ("float32", "complex64") else 2e-15
    x, taps = noise((2, 3, 300), kind), noise(20, kind)
    y = filtered(x, spectrum_of(taps, (320,)), (320,), cut_of((5, 310)), 0.25, engine)
    for row in np.ndindex(2, 3):
        exact = 0.25 * np.convolve(x[row].astype(wide), taps.astype(wide))[5:310]
        assert np.max(np.abs(y[row] - exact)) <= bound * np.max(np.abs(exact))
    assert y.dtype == kind
    assert y.flags.owndata or y.base.flags.owndata
    plane, taps = noise((9, 14), kind), noise((4, 3), kind)
    y = filtered(plane, spectrum_of(taps, (12, 16)), (12, 16), cut_of((1, 10), (0, 16)), engine=engine)
    exact = np.zeros((12, 16), wide)
    for (i, j), tap in np.ndenumerate(taps.astype(wide)):
        exact[i : i + 9, j : j + 14] += tap * plane
    assert np.max(np.abs(y - exact[1:10])) <= bound * np.max(np.abs(exact))


@engines
@pytest.mark.parametrize("at_once", [1, 16, 40, 1000])
def test_a_batch_in_blocks_is_the_batch_at_once(engine, at_once):
    x, response = noise((3, 5, 11), "float64"), spectrum_of(noise(4, "float64"), (16,))
    whole = filtered(x, response, (16,), cut_of((0, 11)), 2.0, NUMPY)
    y = filtered(x, response, (16,), cut_of((0, 11)), 2.0, engine._replace(at_once=at_once))
    assert y.shape == x.shape
    assert y == pytest.approx(whole, abs=1e-13)
    planes, response = noise((4, 5, 6), "float64"), spectrum_of(noise((2, 2), "float64"), (6, 8))
    whole = filtered(planes, response, (6, 8), cut_of((0, 5), (1, 7)), 1.0, NUMPY)
    y = filtered(planes, response, (6, 8), cut_of((0, 5), (1, 7)), 1.0, engine._replace(at_once=at_once))
    assert y == pytest.approx(whole, abs=1e-13)


def test_work_arrays_are_no_larger_than_declared():
    for rows, n in ((1, 500), (40, 500), (1, 100_000), (60, 100_000)):
        buffers.clear()
        filtered(np.ones((rows, n)), np.ones(n + 1, complex), (2 * n,), cut_of((0, n)))
        assert buffers.kept_bytes() <= workspace(rows, (2 * n,)) + 64 * rows
    buffers.clear()


@engines
def test_threads_do_not_share_work_arrays(engine):
    inputs = [noise(3000, "float64") * (i + 1) for i in range(4)]
    taps = noise(40, "float64")
    expected = [np.convolve(x, taps) for x in inputs]
    response = spectrum_of(taps, (3072,))

    def repeat(i):
        found = [filtered(inputs[i], response, (3072,), cut_of((0, 3039)), 1.0, engine) for _ in range(30)]
        return max(np.max(np.abs(y - expected[i])) for y in found)

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(repeat, range(4))) < 1e-11


@engines
def test_a_result_is_not_overwritten_by_the_next_call(engine):
    spectrum = np.fft.rfft(np.array([1.0, 0.0]), 8)
    first = filtered(np.array([1.0, 2.0, 3.0]), spectrum, (8,), cut_of((0, 3)), engine=engine)
    filtered(np.array([7.0, 8.0, 9.0]), spectrum, (8,), cut_of((0, 3)), engine=engine)
    assert first == pytest.approx([1.0, 2.0, 3.0])


@engines
def test_a_nan_does_not_outlive_its_call(engine):
    spectrum = np.fft.rfft(np.array([1.0, 0.0]), 8)
    filtered(np.array([np.nan, 2.0, 3.0]), spectrum, (8,), cut_of((0, 3)), engine=engine)
    y = filtered(np.array([1.0, 2.0, 3.0]), spectrum, (8,), cut_of((0, 3)), engine=engine)
    assert y == pytest.approx([1.0, 2.0, 3.0])
