"""Random numbers for vectorised workers, the same on every array library: `uniform`, `normal`, `integers` of keys.

Counter-based: the number at a place is a function of the key of its simulation, the stream and the place, and of
nothing else. So it does not matter which other simulations are in the batch, how large that is, or how many numbers
were drawn before; and the first n of more numbers are the n numbers. Philox-4x32-10 of Salmon, Moraes, Dror and Shaw
(2011, "Parallel random numbers: as easy as 1, 2, 3"), keyed by 128 bits: two words of a key are Philox's key, two are
the upper half of its counter, whose lower half is (block, stream).

Uniform numbers and integers are the same bits on all libraries. Normal ones differ in their last bits where the
logarithms and sines of the libraries do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..executors import registry
from ..executors.conversion import dtype_name, library_of
from ..executors.errors import UnsupportedError
from .seed_keys import keys as _keys
from .simulations import root_of

__all__ = ["integers", "keys", "normal", "uniform"]

ROUNDS = 10
_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
DTYPES = ("float64", "float32")
MOST_RANGE = 1 << 31
TILE, TORCH_TILE, DEVICE_TILE = 1 << 14, 1 << 16, 1 << 22
"""Blocks of four words made at a time: what stays in the L2 cache (16 384 of 4 096 to 262 144 were fastest in NumPy),
what torch shares out among its threads, and what keeps a GPU busy without filling its memory."""

_Words = tuple[Any, Any, Any, Any]
_Make = Callable[[Any, _Words], Sequence[Any]]


def keys(seed: Any, n: int, first: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The keys that simulations `first` to ``first + n - 1`` of a run with this seed have.

    Parameters
    ----------
    seed : as `run_monte_carlo` takes it.

    Returns
    -------
    ndarray, shape (n, 4), int64
        128 bits each, in words of 32: ``SeedSequence(seed).spawn(...)[i].generate_state(4)``.

    Examples
    --------
    >>> from pointsman import draws
    >>> draws.uniform(draws.keys(1, 2), 3).shape
    (2, 3)
    """
    return _keys(root_of(seed), first, n)


def uniform(keys: Any, n: int, xp: Any = None, dtype: Any = "float64", stream: int = 0) -> Any:
    """Numbers that are equally likely anywhere in [0, 1).

    Parameters
    ----------
    keys : array, shape (batch, 4), int64
        As a vectorised worker gets them, of any array library; or `draws.keys`.
    n : numbers for each simulation; at most 2**33.
    xp : the array namespace; None: that of the keys.
    dtype : "float64" (multiples of 2**-53) or "float32" (multiples of 2**-24).
    stream : from 0 to 2**32 - 1. Numbers of different streams are independent: one for each purpose, or time step.

    Returns
    -------
    array, shape (batch, n)
        Where the keys lie.

    Raises
    ------
    TypeError : the keys are no array of such a shape and dtype.
    ValueError : a dtype, stream or number that is none of these.
    UnsupportedError : JAX keys outside of a run, without x64.

    Notes
    -----
    Source: Salmon et al. (2011); two words make a float64 as in ``genrand_res53`` of Matsumoto and Nishimura.
    """
    return _drawn(keys, n, xp, stream, (_uniform, _float(dtype)))


def normal(keys: Any, n: int, xp: Any = None, dtype: Any = "float64", stream: int = 0) -> Any:
    """Numbers from the normal distribution with mean 0 and variance 1; parameters and errors as for `uniform`.

    Those of a stream come from the same bits as its uniform numbers: take another stream for either.

    Notes
    -----
    Box and Muller (1958): sqrt(-2 ln u) times the cosine and the sine of 2 pi v. The largest is 8.6 in float64, 6.7 in
    float32. On two libraries they agree to 1e-14 and 1e-5, relative to the larger of 1 and the number.
    """
    return _drawn(keys, n, xp, stream, (_normal, _float(dtype)))


def integers(keys: Any, n: int, low: int, high: int | None = None, xp: Any = None, stream: int = 0) -> Any:
    """Whole numbers from `low` to ``high - 1``, or from 0 to ``low - 1``, as int64; else as `uniform`.

    There are at most 2**31 of them, whose probabilities differ from each other by less than 2**-64.

    Raises
    ------
    ValueError : as `uniform` does; or there is no number in the range, or more than 2**31.
    """
    start, stop = (0, low) if high is None else (low, high)
    if not 0 < stop - start <= MOST_RANGE:
        raise ValueError(f"integers from {start} to {stop}: found {stop - start} numbers; there may be 1 to 2**31")
    return _drawn(keys, n, xp, stream, (_integers, int(start), int(stop - start)))


# ---------------------------------------------------------------------------------------------- Philox


def words(counter: Sequence[Any], key: Sequence[Any]) -> _Words:
    """Philox-4x32-10 of a counter of four words and a key of two, in int64 arrays that are broadcast together.

    Torch has neither uint32 nor uint64 arithmetic. A product that overflows int64 is right modulo 2**64, and so is its
    upper half after an arithmetic shift, once what lies above 32 bits is cut off.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0 = ((p1 >> 32) ^ c1 ^ k0) & _MASK
        c2 = ((p0 >> 32) ^ c3 ^ k1) & _MASK
        c1, c3 = p1, p0  # what lies above 32 bits is cut off where it is used
        if turn + 1 < ROUNDS:
            k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1 & _MASK, c2, c3 & _MASK


def _uniform(dtype: str) -> tuple[int, _Make]:
    """How many numbers a block gives, and how to make them."""

    def doubles(xp: Any, block: _Words) -> Sequence[Any]:
        return [_double(xp, *block[:2]), _double(xp, *block[2:])]

    def singles(xp: Any, block: _Words) -> Sequence[Any]:
        return [_single(xp, word) for word in block]

    return (2, doubles) if dtype == "float64" else (4, singles)


def _normal(dtype: str) -> tuple[int, _Make]:
    def doubles(xp: Any, block: _Words) -> Sequence[Any]:
        return _box_muller(xp, 1.0 - _double(xp, *block[:2]), _double(xp, *block[2:]))

    def singles(xp: Any, block: _Words) -> Sequence[Any]:
        found: list[Any] = []
        for first, second in (block[:2], block[2:]):  # all 32 bits for the radius, which makes the tail
            found += _box_muller(xp, xp.astype(first + 1, xp.float32) * 2.0**-32, _single(xp, second))
        return found

    return (2, doubles) if dtype == "float64" else (4, singles)


def _integers(start: int, count: int) -> tuple[int, _Make]:
    def scaled(high: Any, low: Any) -> Any:
        """The upper half of (high * 2**32 + low) * count, plus start."""
        return ((high * count + ((low * count) >> 32)) >> 32) + start

    return 2, lambda _, block: [scaled(*block[:2]), scaled(*block[2:])]


def _double(xp: Any, high: Any, low: Any) -> Any:
    return (xp.astype(high >> 5, xp.float64) * 2.0**26 + xp.astype(low >> 6, xp.float64)) * 2.0**-53


def _single(xp: Any, word: Any) -> Any:
    return xp.astype(word >> 8, xp.float32) * 2.0**-24


def _box_muller(xp: Any, u: Any, v: Any) -> list[Any]:
    """Two normal numbers of u in (0, 1] and v in [0, 1)."""
    radius, angle = xp.sqrt(-2.0 * xp.log(u)), v * (2.0 * math.pi)
    return [radius * xp.cos(angle), radius * xp.sin(angle)]


# ---------------------------------------------------------------------------------------------- whole arrays


def _drawn(keys: Any, n: int, xp: Any, stream: int, what: tuple[Any, ...]) -> Any:
    kind = _checked(keys, n, stream)
    if xp is None:
        if kind is None:
            raise TypeError(f"keys: found {type(keys).__name__}; give an array, or its namespace as xp")
        xp = registry.executor(kind).namespace()
    if kind == "jax":
        _wide(keys)
        return _jitted(what, n)(keys, stream)
    make, *parameters = what
    width, outputs = make(*parameters)
    return _tiled(xp, keys, n, stream, width, outputs, _tile(keys, kind))


def _tiled(xp: Any, keys: Any, n: int, stream: int, width: int, outputs: _Make, tile: int) -> Any:
    """All numbers, a piece at a time, so that what is computed in between stays small."""
    batch, blocks = keys.shape[0], -(-n // width)
    place = {} if isinstance(keys, np.ndarray) else {"device": keys.device}
    out = None
    rows, columns = max(1, tile // max(blocks, 1)), max(1, min(blocks, tile))
    for top in range(0, batch, rows):
        k0, k1, c2, c3 = (keys[top : top + rows, word : word + 1] for word in range(4))
        for left in range(0, blocks, columns):
            c0 = xp.arange(left, min(left + columns, blocks), dtype=xp.int64, **place)[None, :]
            made = outputs(xp, words((c0, stream, c2, c3), (k0, k1)))
            if out is None:
                out = xp.empty((batch, n), dtype=made[0].dtype, **place)
            for j, part in enumerate(made):
                target = out[top : top + rows, left * width + j : (left + columns) * width : width]
                target[...] = part[:, : target.shape[1]]
    if out is None:  # nothing to draw
        probe = outputs(xp, (xp.zeros((1, 1), dtype=xp.int64, **place),) * 4)
        out = xp.empty((batch, n), dtype=probe[0].dtype, **place)
    return out


@functools.lru_cache(maxsize=256)
def _jitted(what: tuple[Any, ...], n: int) -> Callable[[Any, Any], Any]:
    """The same in JAX, whose compiler keeps what is in between in registers; compiled for each shape."""
    import jax
    import jax.numpy as xp

    make, *parameters = what
    width, outputs = make(*parameters)
    blocks = -(-n // width)

    def draw(keys: Any, stream: Any) -> Any:
        k0, k1, c2, c3 = (keys[:, word : word + 1] for word in range(4))
        c0 = xp.arange(blocks, dtype=xp.int64)[None, :]
        made = outputs(xp, words((c0, stream, c2, c3), (k0, k1)))
        return xp.stack(made, axis=-1).reshape(keys.shape[0], blocks * width)[:, :n]

    compiled: Callable[[Any, Any], Any] = jax.jit(draw)
    return compiled


def _tile(keys: Any, kind: str | None) -> int:
    if kind == "torch" and keys.device.type == "cpu":
        return TORCH_TILE
    return TILE if kind == "numpy" else DEVICE_TILE


def _wide(keys: Any) -> None:
    if dtype_name(keys) != "int64":
        raise UnsupportedError(
            f"keys: found {dtype_name(keys)} in JAX, where 64 bits are needed: "
            "jax.config.update('jax_enable_x64', True) first, as a run does for its worker"
        )


def _checked(keys: Any, n: int, stream: int) -> str | None:
    """The library of the keys, None for one that is not known; errors for what is no key, number or stream."""
    kind = library_of(keys)
    shape = getattr(keys, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != 4:
        found = type(keys).__name__ if shape is None else f"shape {tuple(shape)}"
        raise TypeError(f"keys: found {found}; give an array of shape (batch, 4), as a worker gets it or draws.keys")
    if kind != "jax" and "int64" not in str(keys.dtype):
        raise TypeError(f"keys: found {keys.dtype}; give int64, as a worker gets them or draws.keys")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 <= n <= 1 << 33:
        raise ValueError(f"n: found {n!r}; give a whole number from 0 to 2**33, the numbers for each simulation")
    if isinstance(stream, int) and not 0 <= stream <= _MASK:
        raise ValueError(f"stream: found {stream}; give a whole number from 0 to 2**32 - 1")
    return kind


def _float(dtype: Any) -> str:
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]
    if name not in DTYPES:
        raise ValueError(f"dtype: found {dtype!r}; allowed are {', '.join(DTYPES)}")
    return str(name)
