"""Work buffers: kept, bounded, and never lent twice at once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from pointsman.executors import buffers
from pointsman.executors.buffers import borrow


@pytest.fixture(autouse=True)
def _empty_pool():
    buffers.clear()
    yield
    buffers.clear()


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_buffer_has_the_wanted_form_and_comes_back_for_the_next_call():
    with borrow((3, 4), "complex64") as b:
        assert (b.shape, b.dtype, b.flags.c_contiguous, b.flags.writeable) == ((3, 4), np.complex64, True, True)
        first = address(b)
    with borrow((3, 4), "complex64") as b:
        assert address(b) == first
    with borrow((4, 3), "complex64") as b:
        assert b.shape == (4, 3)
    with borrow(5, np.float64) as b:
        assert b.shape == (5,)


def test_nested_borrowers_never_share():
    with borrow(8, "float64") as outer:
        outer[:] = 1
        with borrow(8, "float64") as inner:
            assert not np.shares_memory(outer, inner)
            inner[:] = 2
        with borrow(8, "float64", "other") as slot:
            slot[:] = 3
        assert (outer == 1).all()


def test_an_error_inside_gives_the_buffer_back():
    def fails():
        with borrow(8, "float64"):
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert buffers.kept_bytes() == 64


def test_the_pool_is_bounded_and_drops_what_was_unused_longest(monkeypatch):
    monkeypatch.setattr(buffers, "MOST_BYTES", 100 * 8)
    kept = {}
    for size in (40, 41, 19):
        with borrow(size, "float64") as b:
            kept[size] = b
    with borrow(40, "float64") as b:  # used again: 41 is the oldest now
        assert b is kept[40]
    with borrow(30, "float64"):
        pass
    assert buffers.kept_bytes() == (40 + 19 + 30) * 8
    with borrow(40, "float64") as b:
        assert b is kept[40]
    with borrow(41, "float64") as b:
        assert b is not kept[41]


def test_a_request_beyond_the_bound_is_served_and_not_kept(monkeypatch):
    monkeypatch.setattr(buffers, "MOST_BYTES", 100)
    with borrow(1000, "float64") as b:
        assert b.size == 1000
    assert buffers.kept_bytes() == 0


def test_threads_have_pools_of_their_own():
    seen = []

    def use():
        with borrow(16, "float64") as b:
            seen.append(b)

    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert not np.shares_memory(*seen)
    assert buffers.kept_bytes() == 128
