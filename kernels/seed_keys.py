"""The seeds of many simulations at once: what `SeedSequence.spawn` gives one object at a time, as an array of words.

NumPy's `SeedSequence` (O'Neill, 2015, "Developing a seed_seq alternative") hashes all words of its entropy and of its
spawn key into a pool of four, one after the other. The index of a simulation is the last word of its spawn key, so all
but the last step is common, and NumPy itself does that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .simulations import Root

WORDS = 4
"""Of 32 bits: all that the pool of a `SeedSequence` holds."""
_POOL = 4
_MASK = 0xFFFFFFFF
# The constants of numpy/random/bit_generator.pyx; NumPy promises that its streams of seeds never change.
_INIT_A, _MULT_A = 0x43B0D7E5, 0x931E8875
_INIT_B, _MULT_B = 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = 0xCA01F9DD, 0x4973F715
_SHIFT = np.uint32(16)

Words = np.ndarray[Any, np.dtype[np.uint32]]


def keys(root: Root, first: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The seeds of simulations `first` to ``first + count - 1``, 128 bits each.

    Returns
    -------
    ndarray, shape (count, 4), int64
        ``SeedSequence(root.entropy, spawn_key=(*root.key, i)).generate_state(4)`` for each i, bit for bit: whole
        numbers from 0 to 2**32 - 1, in the only dtype that holds them on every library.

    Raises
    ------
    ValueError : an index beyond 2**64 - 1, or below zero.
    """
    last = first + count - 1
    if first < 0 or count < 0 or last >= 1 << 64:
        raise ValueError(f"keys of simulations {first} to {last}: found an index that does not lie in [0, 2**64)")
    out = np.empty((count, WORDS), np.int64)
    pool = np.random.SeedSequence(root.entropy, spawn_key=root.key).pool
    hashed = max(_words(root.entropy), _POOL) + sum(map(_words, root.key))  # each by four; the pool's own words as well
    constant = _INIT_A * pow(_MULT_A, 4 * hashed, 1 << 32) & _MASK
    start = 0
    while start < count:  # an index of 2**32 or more has a second word, common to all up to the next multiple of it
        index = first + start
        stop = min(count, start + (1 << 32) - (index & _MASK))
        low = np.arange(index & _MASK, (index & _MASK) + stop - start, dtype=np.int64).astype(np.uint32)
        further = [] if index <= _MASK else [np.full(1, index >> 32, np.uint32)]
        out[start:stop] = _state(_mixed(pool, [low, *further], constant))
        start = stop
    return out


def _words(value: int | tuple[int, ...]) -> int:
    """How many words of 32 bits a whole number, or a tuple of such, is."""
    if isinstance(value, tuple):
        return sum(map(_words, value))
    return max(1, -(-value.bit_length() // 32))


def _mixed(pool: Any, words: list[Words], constant: int) -> list[Words]:
    """The pool after further words; `constant` is where the sequence of hash constants stands."""
    mixed = [np.full(1, word, np.uint32) for word in pool]
    for word in words:
        for place in range(_POOL):
            value = word ^ np.uint32(constant)
            constant = constant * _MULT_A & _MASK
            value = value * np.uint32(constant)
            value ^= value >> _SHIFT
            both = mixed[place] * np.uint32(_MIX_L) - value * np.uint32(_MIX_R)
            mixed[place] = both ^ (both >> _SHIFT)
    return mixed


def _state(pool: list[Words]) -> Words:
    """What `generate_state` makes of pools."""
    columns, constant = [], _INIT_B
    for word in pool:
        value = word ^ np.uint32(constant)
        constant = constant * _MULT_B & _MASK
        value = value * np.uint32(constant)
        columns.append(value ^ (value >> _SHIFT))
    return np.stack(columns, axis=-1)
