"""`pointsman.draws`: published vectors, the same bits on every library, nothing but the key, and the distributions."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from pointsman import draws
from pointsman.executors import registry
from pointsman.executors.errors import UnsupportedError
from pointsman.kernels.draws import TILE, words
from pointsman.kernels.seed_keys import keys as keys_of
from pointsman.kernels.simulations import Root
from scipy import stats

LIBRARIES = [name for name, capable in registry.array_api_backends() if "cpu" in capable.devices]
DRAWS = {
    "uniform": (lambda keys, n, **more: draws.uniform(keys, n, **more), {}),
    "uniform32": (lambda keys, n, **more: draws.uniform(keys, n, dtype="float32", **more), {}),
    "integers": (lambda keys, n, **more: draws.integers(keys, n, -7, 2**31 - 8, **more), {}),
    "normal": (lambda keys, n, **more: draws.normal(keys, n, **more), {"rtol": 1e-14, "atol": 1e-14}),
    "normal32": (lambda keys, n, **more: draws.normal(keys, n, dtype="float32", **more), {"rtol": 1e-5, "atol": 1e-5}),
}
KEYS = draws.keys(7, 257)


def on(library: str, draw, n: int, keys=KEYS, **more) -> np.ndarray:
    executor, _ = registry.ensure(library)
    with executor.scope() or contextlib.nullcontext():
        return executor.convert_out(draw(executor.convert_in(keys), n, **more))


# Random123 1.09, tests/kat_vectors, philox4x32 10.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected):
    given = ([np.array([int(word, 16)]) for word in text.split()] for text in (counter, key))
    assert " ".join(f"{int(word[0]):08x}" for word in words(*given)) == expected


def test_keys_are_the_words_of_numpys_seed_sequences():
    rng = random.Random(3)
    for _ in range(60):
        entropy = rng.choice([
            0, 5, rng.getrandbits(32), rng.getrandbits(128), rng.getrandbits(300),
            tuple(rng.getrandbits(rng.choice([1, 32, 70])) for _ in range(rng.randint(1, 6))),
        ])  # fmt: skip
        spawn_key = tuple(rng.getrandbits(rng.choice([3, 40])) for _ in range(rng.randint(0, 3)))
        first = rng.choice([0, 9, 2**32 - 2, 2**32, 2**63])
        expected = [
            np.random.SeedSequence(entropy, spawn_key=(*spawn_key, first + i)).generate_state(4) for i in range(3)
        ]
        np.testing.assert_array_equal(keys_of(Root(entropy, spawn_key), first, 3), expected)
    np.testing.assert_array_equal(draws.keys(7, 2, first=3), KEYS[3:5])


def test_a_number_is_that_of_its_words():
    """Counter (block, stream, words 2 and 3 of the key), key words 0 and 1."""
    [key] = draws.keys(11, 1)
    block = words([np.array([x]) for x in (2, 9, key[2], key[3])], [np.array([x]) for x in key[:2]])
    w = [int(word[0]) for word in block]
    expected = [((a >> 5) * 2**26 + (b >> 6)) / 2**53 for a, b in (w[:2], w[2:])]
    assert draws.uniform(key[None], 6, stream=9)[0, 4:].tolist() == expected
    wide = [(((a << 32) + b) * 1000 >> 64) - 3 for a, b in (w[:2], w[2:])]
    assert draws.integers(key[None], 6, -3, 997, stream=9)[0, 4:].tolist() == wide
    assert draws.uniform(key[None], 12, dtype="float32", stream=9)[0, 8:].tolist() == [(x >> 8) / 2**24 for x in w]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_gives_the_same_numbers(library, name):
    draw, tolerance = DRAWS[name]
    for n in (0, 1, 5, 8):
        expected, found = draw(KEYS, n, stream=2), on(library, draw, n, stream=2)
        assert (found.shape, found.dtype) == ((257, n), expected.dtype)
        if tolerance:
            np.testing.assert_allclose(found, expected, **tolerance)
        else:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", DRAWS)
def test_a_number_depends_on_its_key_stream_and_place_alone(name):
    draw, _ = DRAWS[name]
    many = draw(KEYS, 101)
    np.testing.assert_array_equal(many[5:6], draw(KEYS[5:6], 101))
    np.testing.assert_array_equal(many[:, :3], draw(KEYS, 3))
    assert not np.any(np.all(many == draw(KEYS, 101, stream=1), axis=1))
    assert len(np.unique(many[:, 0])) > 250
    for shape in ((3, 4 * TILE + 11), (2 * TILE + 5, 3)):  # more than is made at a time
        large = draw(draws.keys(7, shape[0]), shape[1])
        np.testing.assert_array_equal(large[0, -3:], draw(KEYS[:1], shape[1])[0, -3:])
        np.testing.assert_array_equal(large[2], draw(KEYS[2:3], shape[1])[0])


def test_each_of_the_128_bits_of_a_key_counts():
    base = draws.uniform(KEYS[:1], 4)
    for word in range(4):
        for bit in (0, 31):
            other = KEYS[:1].copy()
            other[0, word] ^= 1 << bit
            assert not np.any(draws.uniform(other, 4) == base)


@pytest.mark.parametrize("axis", ["within simulations", "across simulations"])
def test_numbers_are_distributed_as_they_say(axis):
    rows, n = (3, 60_000) if axis == "within simulations" else (60_000, 3)
    keys = draws.keys(2024, rows)
    for dtype in draws.uniform(keys, 1).dtype, np.dtype("float32"):
        u, z = draws.uniform(keys, n, dtype=dtype), draws.normal(keys, n, dtype=dtype, stream=1)
        assert u.dtype == z.dtype == dtype
        assert u.min() >= 0.0
        assert u.max() < 1.0
        assert stats.kstest(u.ravel(), "uniform").pvalue > 0.01
        assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
        for x in (u, z):  # neighbours within a simulation, and simulations next to each other
            flat = x.ravel()
            assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 4 / np.sqrt(flat.size)
            assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 4 / np.sqrt(rows)
    dice = draws.integers(keys, n, 1, 7, stream=2)
    assert stats.chisquare(np.bincount(dice.ravel(), minlength=7)[1:]).pvalue > 0.01


def test_the_tail_of_float32_reaches_beyond_24_bits():
    z = draws.normal(draws.keys(1, 2000), 10_000, dtype="float32")
    assert np.abs(z).max() > 5.2
    assert np.isfinite(z).all()


def test_wrong_use_says_what_is_right():
    wrong = [
        (lambda: draws.uniform(np.zeros((3, 2), np.int64), 1), TypeError, r"shape \(3, 2\).*\(batch, 4\)"),
        (lambda: draws.uniform(np.zeros((3, 4), np.uint32), 1), TypeError, "uint32.*int64"),
        (lambda: draws.uniform([1, 2, 3, 4], 1), TypeError, "found list"),
        (lambda: draws.normal(KEYS, -1), ValueError, "found -1"),
        (lambda: draws.normal(KEYS, 2.0), ValueError, "found 2.0"),
        (lambda: draws.normal(KEYS, 2, dtype="float16"), ValueError, "float64, float32"),
        (lambda: draws.normal(KEYS, 2, stream=2**32), ValueError, "stream"),
        (lambda: draws.integers(KEYS, 2, 5, 5), ValueError, "found 0 numbers"),
        (lambda: draws.integers(KEYS, 2, 2**31 + 1), ValueError, r"may be 1 to 2\*\*31"),
        (lambda: draws.keys(-1, 2), ValueError, "seed"),
        (lambda: draws.keys(1, 2, first=-1), ValueError, "index"),
    ]  # fmt: skip
    for call, error, text in wrong:
        with pytest.raises(error, match=text):
            call()
    jax = registry.ensure("jax")[0]
    narrow = jax.convert_in(KEYS.astype(np.uint32))
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        draws.uniform(narrow, 1)
