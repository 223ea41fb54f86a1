"""Transform lengths and what is kept between calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.kernels.conv import OPERATION as CONV
from pointsman.kernels.spectra import Kept, fast_length, filtered


def is_quick(n):
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


@given(st.integers(1, 3000))
def test_fast_length_is_the_smallest_even_quick_one(n):
    assert fast_length(n) == next(m for m in range(n, 2 * n + 3) if m % 2 == 0 and is_quick(m))


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


def test_threads_do_not_share_work_buffers():
    rng = np.random.default_rng(11)
    apply = CONV.variant("numpy/fft").load()
    inputs = [(rng.standard_normal(3000), rng.standard_normal(40)) for _ in range(4)]
    expected = [np.convolve(x, k) for x, k in inputs]

    def repeat(i):
        return [np.max(np.abs(apply(*inputs[i]) - expected[i])) for _ in range(30)]

    with ThreadPoolExecutor(4) as pool:
        assert max(max(errors) for errors in pool.map(repeat, range(4))) < 1e-11


def test_a_result_is_not_overwritten_by_the_next_call():
    spectrum = np.fft.rfft(np.array([1.0, 0.0]), 8)
    first = filtered(np.array([1.0, 2.0, 3.0]), spectrum, (8,), (slice(0, 3),))
    filtered(np.array([7.0, 8.0, 9.0]), spectrum, (8,), (slice(0, 3),))
    assert first == pytest.approx([1.0, 2.0, 3.0])
