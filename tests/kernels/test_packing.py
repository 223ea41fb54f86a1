"""Plain data as bytes and back: every type and every bit, and nothing that would have to be unpickled."""

from __future__ import annotations

import json
import struct
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pointsman.kernels.packing import DEEPEST, UnfitError, pack, unpack
from pointsman.kernels.simulations import FailedSimulation

dtypes = st.sampled_from(
    ["?", "i1", "<u2", ">i4", "i8", "f2", "<f4", ">f8", "c8", ">c16", "M8[s]", ">m8[ns]", "S3", "U2", ">U1", "V5", "U0"]
)
shapes = st.lists(st.integers(0, 3), max_size=3)


def array(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (data * size)[:size] if np.dtype(dtype).kind not in "?U" else bytes(size)  # not every byte is a character
    return np.ndarray(shape, dtype, raw).copy() if size else np.ndarray(shape, dtype)


arrays = st.builds(array, dtypes, shapes, st.binary(min_size=1, max_size=20))
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.binary(),
    st.text(st.characters(codec=None)), st.integers(2**62, 2**70), st.just(-0.0),
)  # fmt: skip
scalars = st.one_of(
    st.builds(np.float32, st.floats(width=32)), st.builds(np.float64, st.floats()), st.builds(np.str_, st.text()),
    st.builds(np.bytes_, st.binary()), st.builds(np.datetime64, st.integers(0, 99), st.just("D")),
    st.builds(np.int8, st.integers(-128, 127)), st.builds(np.bool_, st.booleans()),
)  # fmt: skip
failures = st.builds(FailedSimulation, st.integers(0, 2**70), st.text(), st.text())
values = st.recursive(
    st.one_of(plain, scalars, failures, arrays, arrays.map(np.asfortranarray)),
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.one_of(plain, st.tuples(plain)), inner)
    ),
    max_leaves=8,
)


def same(a: object, b: object) -> bool:
    """Of the same type and with the same bits, but for the payload of a NaN in a scalar."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        order = a.flags.f_contiguous == b.flags.f_contiguous and b.flags.c_contiguous >= a.flags.c_contiguous
        return a.dtype == b.dtype and a.shape == b.shape and order and b.flags.writeable and bits(a) == bits(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, np.str_ | np.bytes_):
        return list(a) == list(b)
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and (bits(a) == bits(b) or bool(a != a and b != b))
    return a == b if isinstance(a, int) else repr(a) == repr(b)


def bits(x: np.ndarray | np.generic) -> object:
    """Without those of the gaps that a longdouble and aligned fields have."""
    return repr(x.tolist()) if x.dtype.fields or x.dtype == np.longdouble else x.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(values))
def test_what_comes_back_is_what_went_in(given_values):
    assert same(unpack(pack(given_values)), given_values)


@pytest.mark.parametrize(
    "value",
    ["\ud800\udc00", "a\0", np.str_("a\0"), np.bytes_(b"\0\0"), {1: "a"}, {True: "a"}, {-0.0: 1}, -(2**4000), [[]], {},
     10**5000, (1, (2.0, [None])), np.zeros(2, [("a", ">f8"), ("b", "i2", (2,))]), np.zeros((2, 0)),
     np.zeros(2, [("a", ">f8")])[0], np.array(["a\0"]), np.longdouble(1) / 3, np.arange(6.0)[::-2], np.asarray(4.0),
     np.arange(6).reshape(2, 3).T,
     np.zeros(3, "U0"), np.ones(2, np.dtype([("a", "i1"), ("b", "f8")], align=True))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_awkward_values_come_back(value):
    (back,) = unpack(pack([value]))
    assert same(value.copy("K") if isinstance(value, np.ndarray) else value, back)


def test_equal_keys_that_are_not_the_same_stay_apart():
    for column in ([{1: 0}, {True: 0}, {1.0: 0}], [{"a": 0}, {np.str_("a"): 0}], [{(1,): 0}, {(True,): 0}]):
        assert same(unpack(pack(column)), column)


def test_an_array_is_not_another_ones_memory():
    first, second = unpack(pack([np.zeros(3), np.zeros(3)]))
    first[:] = 1
    assert second.tolist() == [0, 0, 0]


def test_a_million_numbers_take_their_eight_bytes():
    assert len(pack([0.5] * 10**6)) < 8e6 + 200
    assert len(pack([(0.5, index) for index in range(10**5)])) < 2e6 + 500 + 4 * 2e5


class Float(float):
    pass


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "where", "found"),
    [
        ({1, 2}, "", "set"),
        ([0, {"fit": (1.0, object())}], "[1]['fit'][1]", "object"),
        ({"x": {b"": Point(1, 2)}}, "['x'][b'']", f"{__name__}.Point"),
        ({frozenset(): 1}, ", among its keys,", "frozenset"),
        (Float(1), "", f"{__name__}.Float"),
        (np.array([None]), "", "numpy.ndarray of object"),
        (np.zeros(1, [("a", object)]), "", "numpy.ndarray of [('a', 'O')]"),
        (np.ma.array([1]), "", "numpy.ma.MaskedArray of int64"),
        (np.rec.array([(1,)], [("a", int)]), "", "numpy.rec.recarray of (numpy.record, [('a', '<i8')])"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_place(value, where, found):
    with pytest.raises(UnfitError) as error:
        pack([1, value])
    assert (error.value.index, error.value.where) == (1, where)
    assert error.value.found.replace("numpy.ma.core.", "numpy.ma.") == found


def test_lists_without_end_are_refused():
    endless: list = []
    endless.append(endless)
    deep: object = 1
    for _ in range(DEEPEST + 1):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(UnfitError, match=f"more than {DEEPEST} levels"):
            pack([value])
    assert same(unpack(pack([deep[0]])), [deep[0]])


@pytest.mark.parametrize("dtype", ["'|O'", "[('a', '|O')]", "'O'"])
def test_objects_in_a_crafted_record_are_not_unpickled(dtype):
    tree = {"kind": "array", "n": 1, "dtype": dtype, "order": "C", "same": True, "shapes": [[1]], "part": 0}
    notes = json.dumps({"tree": tree, "sizes": [8]}).encode()
    with pytest.raises(ValueError, match="would have to be unpickled"):
        unpack(struct.pack("<I", len(notes)) + notes + bytes(8))


@given(st.binary())
def test_other_bytes_are_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011 - whichever
        unpack(data)
