"""What an object is, told by its type; and arrays from library to library."""

from __future__ import annotations

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pointsman.executors import registry
from pointsman.executors.base import Capabilities, Executor
from pointsman.executors.conversion import (
    convert,
    dtype_name,
    kind_of,
    library_of,
    passes_through,
    requires_grad,
    residency,
)
from pointsman.executors.errors import BackendUnavailableError, UnsupportedError


class Frame:
    """As pandas looks from outside: an array protocol and rules of its own."""

    def __array__(self, dtype=None, copy=None):
        return np.zeros(2)


class Sparse:
    """As scipy.sparse looks from outside."""

    __array_priority__ = 10.1

    def todense(self):
        return np.zeros(2)


class Quantity(np.ndarray):
    """As astropy's: an array with a unit."""


class Labelled(torch.Tensor):
    """A tensor with rules of its own."""


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (np.ones(2), "numpy"),
        (torch.ones(2), "torch"),
        (torch.nn.Parameter(torch.ones(2)), "torch"),
        (jnp.ones(2), "jax"),
        (np.ma.ones(2), "foreign"),
        (np.ones((2, 2)).view(np.matrix), "foreign"),
        (np.ones(2).view(Quantity), "foreign"),
        (torch.ones(2).as_subclass(Labelled), "foreign"),
        (Frame(), "foreign"),
        (Sparse(), "foreign"),
        (np.float64(2), None),
        (2.0, None),
        (True, None),
        ("text", None),
        (None, None),
        ([1.0, 2.0], None),
        ({"a": 1}, None),
        (np.dtype("f8"), None),
        (np.float64, None),
        (len, None),
    ],
)
def test_kinds_are_told_by_type(x, kind):
    assert kind_of(x) == kind
    assert kind_of(x) == kind  # from the table of types, the second time


def test_scipy_sparse_and_pandas_like_arrays_are_foreign():
    from scipy import sparse

    assert kind_of(sparse.eye_array(2)) == "foreign"
    assert kind_of(sparse.csr_matrix((2, 2))) == "foreign"


def test_tracers_are_seen_inside_jax_transformations():
    seen = []

    def watch(x):
        seen.append((kind_of(x), passes_through(x), library_of(x)))
        return x.sum()

    jax.jit(watch)(jnp.ones(3))
    jax.grad(watch)(jnp.ones(3))
    jax.vmap(watch)(jnp.ones((2, 3)))
    assert seen == [("tracer", True, "jax")] * 3
    assert not passes_through(jnp.ones(3))


def test_tensors_pass_through_inside_functorch_and_jit_trace():
    seen = []

    def watch(x):
        seen.append(passes_through(x))
        return (x * x).sum()

    torch.func.vmap(watch)(torch.ones(2, 3))
    torch.func.grad(watch)(torch.ones(3))
    assert seen == [True, True]
    outside = torch.ones(3)
    torch.func.vmap(lambda x: seen.append(passes_through(outside)) or x)(torch.ones(2, 3))
    assert seen == [True] * 3
    assert not passes_through(outside)
    assert passes_through(torch.ones(2).as_subclass(Labelled))
    assert not passes_through(np.ones(3))


def test_tensors_pass_through_under_torch_compile():
    def watched(x):
        return x + 1 if passes_through(x) else x - 1

    assert watched(torch.zeros(2)).tolist() == [-1, -1]
    compiled = torch.compile(watched, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


def test_the_library_of_what_is_left_alone():
    assert library_of(np.ma.ones(2)) == "numpy"
    assert library_of(torch.ones(2).as_subclass(Labelled)) == "torch"
    assert library_of(jnp.ones(2)) == "jax"
    assert library_of(3.0) is None


def test_residency_dtype_and_gradient_are_read_off_any_array():
    assert [residency(x) for x in (np.ones(2), torch.ones(2), jnp.ones(2), 3.0)] == ["numpy", "torch", "jax", "numpy"]
    assert residency(torch.ones(2, device="meta")) == "torch@meta"
    half = torch.ones(2, dtype=torch.bfloat16)
    assert [dtype_name(x) for x in (np.ones(2, ">f8"), half, jnp.ones(2), 3.0, np.int8(1))] == [
        "float64", "bfloat16", "float32", "float64", "int8"
    ]  # fmt: skip
    assert requires_grad(torch.ones(2, requires_grad=True))
    assert not requires_grad(torch.ones(2))
    assert not requires_grad(np.ones(2))


SOURCES = {
    "numpy": lambda: np.arange(4, dtype="float32"),
    "torch": lambda: torch.arange(4, dtype=torch.float32),
    "jax": lambda: jnp.arange(4, dtype="float32"),
}


@pytest.mark.parametrize("to", [*SOURCES, "scipy", "numba"])
@pytest.mark.parametrize("source", SOURCES)
def test_convert_from_each_to_each(source, to):
    x = SOURCES[source]()
    found = convert(x, to)
    kind = registry.executor(to).kind
    assert kind_of(found) == kind
    assert dtype_name(found) == "float32"
    assert np.asarray(found).tolist() == [0, 1, 2, 3]
    assert (found is x) == (source == kind)
    if kind == "numpy" and source != "numpy":
        assert found.flags.writeable


@pytest.mark.parametrize("size", [1, 100, 300_000])
def test_shared_memory_is_as_documented_at_every_size(size):
    x = np.zeros(size)
    tensor = convert(x, "torch")
    tensor[0] = 1
    assert x[0] == 1
    assert np.shares_memory(convert(tensor, "numpy"), x)
    frozen = x.copy()
    frozen.setflags(write=False)
    convert(frozen, "torch")[0] = 9
    convert(x[::-1], "torch")[0] = 9
    assert (frozen[0], x[-1]) == (1, x[-1])
    assert not (x == 9).any()
    x32 = np.zeros(size, "float32")
    array = convert(x32, "jax")
    x32[0] = 5
    assert float(array[0]) == 0
    from_jax = convert(array, "torch")
    from_jax[0] = 7
    assert float(array[0]) == 0
    tensor32 = convert(x32, "torch")
    other = convert(tensor32, "jax")
    tensor32[0] = 8
    assert float(other[0]) == 5


def test_a_jax_array_is_complete_when_it_is_handed_over():
    # jax.numpy.array returns while another thread still copies; the caller may write to his array at once.
    for _ in range(20):
        x = np.zeros(1_000_000, "float32")
        array = convert(x, "jax")
        x[:] = 5
        assert not np.asarray(array).any()


def test_nothing_is_narrowed_unless_asked():
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        convert(np.ones(3), "jax")
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        convert(torch.ones(3, dtype=torch.float64), "jax")
    with pytest.raises(UnsupportedError, match="jax_enable_x64"):
        convert(np.ones(3, "float32"), "jax", dtype="float64")
    assert dtype_name(convert(np.ones(3), "jax", dtype="float32")) == "float32"
    with registry.executor("jax").scope():
        assert dtype_name(convert(np.ones(3), "jax")) == "float64"
    assert dtype_name(convert(np.ones(3), "torch")) == "float64"


def test_a_dtype_may_be_any_librarys_own():
    for wanted in (torch.float32, np.float32, np.dtype("float32"), jnp.float32, "float32"):
        assert convert(np.ones(2), "torch", dtype=wanted).dtype is torch.float32
        assert convert(torch.ones(2, dtype=torch.float64), "torch", dtype=wanted).dtype is torch.float32
        assert convert(torch.ones(2, dtype=torch.float64), "numpy", dtype=wanted).dtype == np.float32
    with pytest.raises(TypeError, match="dtype: found 3; give a name such as 'float32'"):
        convert(np.ones(2), "torch", dtype=3)


def test_what_numpy_has_no_dtype_for_crosses_without_it_and_is_copied():
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    there = convert(half, "jax")
    back = convert(there, "torch")
    half[0] = back[1] = 9.0
    assert (dtype_name(there), back.dtype) == ("bfloat16", torch.bfloat16)
    assert there.astype("float32").tolist() == [1.0, 2.0]
    with pytest.raises(UnsupportedError, match="gradient"):
        convert(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), "jax")


def test_a_dtype_that_the_target_lacks_is_an_error():
    half = torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedError, match="float32"):
        convert(half, "numpy")
    assert convert(half, "numpy", dtype="float32").tolist() == [1, 1]
    assert convert(np.ones(2), "torch", dtype="bfloat16").dtype is torch.bfloat16
    with pytest.raises(UnsupportedError, match="bfloat16"):
        convert(np.ones(2), "numpy", dtype="bfloat16")
    with pytest.raises(UnsupportedError, match="float99"):
        convert(np.ones(2), "torch", dtype="float99")
    with pytest.raises(UnsupportedError, match="datetime64"):
        convert(np.ones(2, "datetime64[s]"), "torch")
    with pytest.raises(UnsupportedError, match="datetime64"):
        convert(np.ones(2, "datetime64[s]"), "jax")


def test_a_gradient_is_never_detached_unasked():
    x = torch.ones(3, requires_grad=True)
    for to in ("numpy", "jax", "numba"):
        with pytest.raises(UnsupportedError, match=r"x\.detach\(\)"):
            convert(x, to)
    assert convert(x, "torch") is x
    convert(x, "torch", dtype="float64").sum().backward()
    assert x.grad.tolist() == [1, 1, 1]
    assert convert(x.detach(), "numpy").tolist() == [1, 1, 1]


def test_lazy_and_expanded_tensors_come_out_whole():
    conjugated = torch.tensor([1 + 2j]).conj()
    assert convert(conjugated, "numpy").tolist() == [1 - 2j]
    expanded = convert(torch.ones(1).expand(3), "numpy")
    expanded[0] = 5
    assert expanded.tolist() == [5, 1, 1]
    with pytest.raises(UnsupportedError, match="to_dense"):
        convert(torch.ones(2, 2).to_sparse(), "numpy")


def test_nested_arrays_are_converted_leaf_by_leaf():
    Pair = namedtuple("Pair", "low high")
    tree = {"a": [np.ones(2), 3.0], "b": Pair(np.zeros(1), "text"), "c": (np.float32(2),)}
    found = convert(tree, "torch")
    assert isinstance(found["a"][0], torch.Tensor)
    assert found["a"][1] == 3.0
    assert type(found["b"]) is Pair
    assert isinstance(found["b"].low, torch.Tensor)
    assert found["b"].high == "text"
    assert found["c"][0].dtype is torch.float32


@pytest.mark.parametrize(
    ("x", "advice"),
    [
        (np.ma.ones(2), "filled"),
        (Sparse(), "toarray"),
        (Frame(), "numpy.asarray"),
        (np.ones(2).view(Quantity), "asarray"),
    ],
)
def test_what_would_lose_its_meaning_is_refused_with_advice(x, advice):
    with pytest.raises(UnsupportedError, match=advice):
        convert(x, "torch")


def test_tracers_are_refused():
    with pytest.raises(UnsupportedError, match="traced"):
        jax.jit(lambda x: convert(x, "numpy"))(jnp.ones(2))


def test_unknown_targets_and_devices_are_named():
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        convert(np.ones(2), "torhc")
    with pytest.raises(BackendUnavailableError, match="not part of this version"):
        convert(np.ones(2), "stan")
    with pytest.raises(UnsupportedError, match="it can use: cpu"):
        convert(np.ones(2), "numpy", device="cuda:0")
    assert convert(np.ones(2), "torch", device="cpu").device.type == "cpu"


class Wrapped:
    """An array of somebody's own library."""

    def __init__(self, data):
        self.data = data
        self.dtype = data.dtype


class OwnExecutor(Executor):
    """Arrays wrapped in a box."""

    name = "boxes"
    kind = "boxes"
    capabilities = Capabilities(dtypes=frozenset({"float32", "float64"}))

    def probe(self):
        pass

    def owns(self, x):
        return isinstance(x, Wrapped)

    def convert_in(self, x, device="cpu"):
        return Wrapped(np.array(x))

    def convert_out(self, y):
        return y.data.copy()


@pytest.mark.usefixtures("own_backends")
def test_a_backend_of_ones_own_converts_too():
    box = Wrapped(np.ones(2))
    assert kind_of(box) is None
    registry.register_backend("boxes", OwnExecutor)
    assert kind_of(box) == "boxes"
    assert convert(box, "torch").tolist() == [1, 1]
    assert convert(np.zeros(2), "boxes").data.tolist() == [0, 0]
    registry.unregister_backend("boxes")
    assert kind_of(box) is None
