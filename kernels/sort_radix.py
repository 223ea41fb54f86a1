"""Radix sort over the bytes of the elements: the compiled variants of `sort` (contract there).

Keys are unsigned integers in the order of the values: the sign bit of an integer is turned over; of a float, all bits
where it is negative, else the sign bit; a NaN is the largest key. A pass per byte, least significant first, puts every
key behind those whose byte is smaller or the same and earlier; a byte that all keys share needs no pass. To sort one
row on several threads, its keys are first dealt out between a few of its own values (sample sort: three waits for the
slowest thread, where sharing out each pass would take two dozen).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..executors import buffers

Array = np.ndarray[Any, Any]
INSERTION = 40  # keys up to which inserting one by one beats counting into 256 buckets, measured
CHUNK = 16384  # elements that make a thread worth starting
SAMPLES = 64  # keys looked at for each thread, to find values that deal the keys out evenly


def build(span: Any) -> Callable[..., Any]:
    """The loops that Numba compiles, over `x` seen as unsigned integers; `out` and `spare` are like it.

    ``ends`` holds where rows begin and end; with more than one of `parts` there is one row, and `ends` is found here.
    ``shifts`` is a tuple, so that its length is known when the loops over the bytes are compiled.
    """

    def sort(x: Any, out: Any, spare: Any, ends: Any, parts: int, shifts: Any, is_float: bool, flip: bool) -> None:
        n, byte = x.size, np.uint64(255)
        sign = np.uint64(1) << np.uint64(8 * len(shifts) - 1)
        every = sign | (sign - np.uint64(1))
        largest = np.uint64(0x7F800000) if len(shifts) == 4 else np.uint64(0x7FF0000000000000)  # infinity
        turned = every if flip else np.uint64(0)
        pieces = max(parts, (n + CHUNK - 1) // CHUNK)
        for piece in span(pieces):
            low = np.int64(piece) * n // pieces  # prange counts unsigned
            for i in range(low, (np.int64(piece) + 1) * n // pieces):
                key = np.uint64(x[i])
                if not is_float:
                    key ^= sign
                elif key & (every ^ sign) > largest:
                    key = every
                else:
                    key ^= every if key & sign else sign
                spare[i] = key ^ turned
        if parts > 1:
            sample = np.sort(spare[:: max(1, n // (SAMPLES * parts))])
            first = sample[np.arange(1, parts) * sample.size // parts]  # of each part but the lowest
            counts = np.zeros((parts, parts + 16), np.int64)  # a gap, as threads that write to one cache line wait
            for part in span(parts):
                piece = np.int64(part)
                for i in range(piece * n // parts, (piece + 1) * n // parts):
                    goal = 0
                    for j in range(parts - 1):
                        goal += spare[i] >= first[j]
                    counts[piece, goal] += 1
            at = 0
            for goal in range(parts):
                ends[goal] = at
                for piece in range(parts):
                    here = counts[piece, goal]
                    counts[piece, goal] = at
                    at += here
            ends[parts] = at
            for part in span(parts):
                piece = np.int64(part)
                for i in range(piece * n // parts, (piece + 1) * n // parts):
                    goal = 0
                    for j in range(parts - 1):
                        goal += spare[i] >= first[j]
                    out[counts[piece, goal]] = spare[i]
                    counts[piece, goal] += 1
        for index in span(ends.size - 1):
            row = np.int64(index)
            low, high = ends[row], ends[row + 1]
            a, b = (out if parts > 1 else spare)[low:high], (spare if parts > 1 else out)[low:high]
            if a.size <= INSERTION:
                for i in range(1, a.size):
                    key = np.uint64(a[i])
                    j = i
                    while j > 0 and a[j - 1] > key:
                        a[j] = a[j - 1]
                        j -= 1
                    a[j] = key
            else:
                count = np.zeros((len(shifts), 256), np.uint64)
                for i in range(a.size):
                    key = np.uint64(a[i])
                    for digit in range(len(shifts)):
                        count[digit, (key >> np.uint64(8 * digit)) & byte] += np.uint64(1)
                for digit in range(len(shifts)):
                    shift, place = np.uint64(8 * digit), count[digit]
                    if place[(np.uint64(a[0]) >> shift) & byte] == a.size:
                        continue
                    before = np.uint64(0)
                    for bucket in range(256):
                        here = place[bucket]
                        place[bucket] = before
                        before += here
                    for i in range(a.size):
                        key = np.uint64(a[i])
                        bucket_of_key = (key >> shift) & byte
                        b[place[bucket_of_key]] = key
                        place[bucket_of_key] += np.uint64(1)
                    a, b = b, a
            sorted_row = out[low:high]
            for i in range(a.size):
                key = np.uint64(a[i]) ^ turned
                sorted_row[i] = key ^ (every if is_float and not key & sign else sign)

    return sort


def wrap(compiled: Any, *, parallel: bool) -> Callable[..., Any]:
    """Put shapes and the sharing out among threads around the compiled loops."""

    def sort(x: Array, *, descending: bool = False) -> Array:
        n, unsigned = x.shape[-1], np.dtype(f"u{x.itemsize}")
        out = np.empty(x.shape, x.dtype)
        if not x.size:
            return out
        flat, result, parts = np.ascontiguousarray(x).reshape(-1), out.reshape(-1), 1
        if parallel and x.size == n:
            import numba

            parts = min(numba.get_num_threads(), 1 + n // CHUNK)
        ends = np.arange(0, x.size + 1, n) if parts == 1 else np.empty(parts + 1, np.int64)
        with buffers.borrow(x.size, unsigned) as spare:
            compiled(
                flat.view(unsigned), result.view(unsigned), spare, ends, parts, (0,) * x.itemsize,
                x.dtype.kind == "f", bool(descending),
            )  # fmt: skip
        return out

    return sort
