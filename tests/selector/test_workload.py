"""WorkloadCharacteristics: what is derived, what is refused, and an identity that is never stale."""

from __future__ import annotations

import copy
import enum
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman.selector.workload import Parameters, WorkloadCharacteristics, detail_of, shape_class
from pydantic import ValidationError


def workload(**fields):
    return WorkloadCharacteristics(**{"operation_type": "fft", "data_shape": (1000, 1000), **fields})


def test_size_shape_and_shapes_follow_from_each_other():
    by_shape = workload()
    by_shapes = WorkloadCharacteristics(operation_type="fft", shapes=[[1000, 1000]])
    by_size = WorkloadCharacteristics(operation_type="fft", data_size=1_000_000)
    assert (by_shape.data_size, by_shape.shapes) == (1_000_000, ((1000, 1000),))
    assert by_shapes == by_shape
    assert by_shapes.data_shape == (1000, 1000)
    assert by_size.data_shape == (1_000_000,)
    assert by_size != by_shape  # a million in a row is not a thousand rows
    two = WorkloadCharacteristics(operation_type="matmul", data_shape=(3, 4), shapes=((3, 4), (4, 5)))
    assert two.data_size == 12


def test_an_operation_without_operands_is_legal():
    known = WorkloadCharacteristics(operation_type="integrate", parameters={"steps": 100})
    assert (known.data_size, known.data_shape, known.shapes) == (None, None, ())


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        (np.dtype("float32"), "float32"), (np.float32, "float32"), ("f4", "float32"), ("<f8", "float64"),
        (float, "float64"), (int, "int64"), (bool, "bool"), (complex, "complex128"), ("bfloat16", "bfloat16"),
        (None, "float64"),
    ],
)  # fmt: skip
def test_dtypes_of_numpy_and_python_have_one_name(spelled, name):
    assert workload(dtype=spelled).dtype == name


def test_dtypes_of_torch_and_jax_have_the_same_names():
    import jax.numpy as jnp
    import torch

    for name in ("float32", "float64", "int64", "bool", "complex64", "bfloat16"):
        assert workload(dtype=getattr(torch, name)).dtype == name
    for name in ("float32", "int8", "bfloat16"):
        assert workload(dtype=getattr(jnp, name)).dtype == name
        assert workload(dtype=jnp.dtype(name)).dtype == name


@pytest.mark.parametrize(("size", "name"), [(2, "float16"), (4, "float32"), (8, "float64"), (16, "complex128")])
def test_a_size_in_bytes_alone_names_a_dtype(size, name):
    assert workload(dtype_size=size) == workload(dtype=name)
    assert workload(dtype=name).dtype_size == size
    assert workload(dtype=name).memory_footprint_mb == 1_000_000 * size / 2**20


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"data_shape": (-3, 4)}, ["data_shape", "-3", "0 or more"]),
        ({"data_shape": None, "data_size": -1}, ["data_size", "-1", "0 or more"]),
        ({"data_shape": (3.5,)}, ["data_shape", "3.5", "whole number"]),
        ({"data_shape": (True,)}, ["data_shape", "True", "whole number"]),
        ({"data_shape": "1000x1000"}, ["data_shape", "'1000x1000'", "(1000, 1000)"]),
        ({"data_size": 999}, ["data_size", "999", "(1000, 1000)", "1000000"]),
        ({"shapes": ((2, 2),)}, ["shapes", "(2, 2)", "(1000, 1000)"]),
        ({"shapes": (1000, 1000)}, ["shapes", "one shape per operand"]),
        ({"dtype": "float46"}, ["dtype", "'float46'", "float64"]),
        ({"dtype": object}, ["dtype", "object", "complex128"]),
        ({"dtype": "float32", "dtype_size": 8}, ["dtype_size", "8", "float32 has 4"]),
        ({"dtype_size": 1}, ["dtype_size", "1", "[2, 4, 8, 16]"]),
        ({"dtype_size": 3}, ["dtype_size", "3", "[1, 2, 4, 8, 16"]),
        ({"expected_calls": 0}, ["expected_calls", "0", "1 or more"]),
        ({"work": -1.0}, ["work", "-1.0", "0 or more"]),
        ({"work": float("inf")}, ["work", "inf", "finite"]),
        ({"bytes": 1.5}, ["bytes", "1.5", "whole number"]),
        ({"residency": "gpu"}, ["residency", "'gpu'", "torch@cuda:0"]),
        ({"accuracy": "perfect"}, ["accuracy", "'perfect'", "'fast', 'standard', 'high'"]),
        ({"accuracy": 0.0}, ["accuracy", "0.0", "above 0"]),
        ({"require": "tpu"}, ["require", "'tpu'", "numpy", "gpu"]),
        ({"requires_gpu": True, "require": "numpy"}, ["requires_gpu=True", "require='numpy'"]),
        ({"operation_type": "  "}, ["operation_type", "'  '"]),
        ({"parameters": {"taps": np.ones(3)}}, ["parameters", "'taps'", "ndarray", "tuples"]),
        ({"parameters": [("taps", 3)]}, ["parameters", "list", "mapping"]),
        ({"requires_gradient": "perhaps"}, ["requires_gradient", "perhaps"]),
        ({"datasize": 3}, ["datasize", "did you mean 'data_size'?", "requires_gpu"]),
    ],
)
def test_errors_name_the_field_what_was_found_and_what_is_allowed(fields, told):
    with pytest.raises(ValidationError) as error:
        workload(**fields)
    for part in told:
        assert part in str(error.value)


def test_it_tells_its_schema():
    properties = WorkloadCharacteristics.model_json_schema()["properties"]
    assert properties["parameters"]["type"] == "object"
    assert set(properties) == set(WorkloadCharacteristics.model_fields)


def test_extended_precision_has_a_name():
    wide = workload(dtype=np.longdouble)
    assert wide.dtype_size == np.dtype(np.longdouble).itemsize
    assert WorkloadCharacteristics.of("fft", np.ones(2, np.clongdouble)).dtype == np.dtype(np.clongdouble).name


def test_it_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        workload().data_size = 3
    with pytest.raises(TypeError):
        workload(parameters={"taps": 3}).parameters["taps"] = 4


def test_a_convolution_with_3_taps_and_one_with_4096_are_not_one_workload():
    assert workload(parameters={"taps": 3}) != workload(parameters={"taps": 4096})


def test_the_order_of_parameters_and_their_numpy_types_do_not_matter():
    class Mode(enum.StrEnum):
        FULL = "full"

    plain = workload(parameters={"alpha": 0.5, "mode": "full", "window": (1, 2)})
    other = workload(parameters={"window": [np.int64(1), 2], "mode": Mode.FULL, "alpha": np.float64(0.5)})
    assert plain == other
    assert plain.key == other.key
    assert hash(plain) == hash(other)
    assert plain.parameters == {"alpha": 0.5, "mode": "full", "window": (1, 2)}


def test_texts_of_parameters_cannot_be_mistaken_for_each_other():
    texts = {
        detail_of(parameters)
        for parameters in ({"a": "1,b=2"}, {"a": 1, "b": 2}, {"a": "1", "b": 2}, {"a": True, "b": 2}, {"a": "x;grad"})
    }
    assert len(texts) == 5
    assert detail_of({"a": "x"}, True) != detail_of({"a": "x;grad"})
    assert detail_of({}) == ""
    assert detail_of({"b": 2, "a": 1}, True, "torch@cuda:0") == "a=1,b=2;grad;torch@cuda:0"


SINGLE_CHANGES = [
    {"operation_type": "ifft"}, {"data_shape": (1000, 1001)}, {"shapes": ((1000, 1000), (1000,))}, {"dtype": "float32"},
    {"parameters": {"axis": 1}}, {"work": 1e6}, {"bytes": 10}, {"requires_gradient": True}, {"expected_calls": 100_000},
    {"is_iterative": True}, {"residency": "torch"}, {"residency": "torch@cuda:0"}, {"deterministic": True},
    {"accuracy": "fast"}, {"accuracy": 1e-6}, {"require": "torch"}, {"requires_gpu": True}, {},
]  # fmt: skip


def test_equal_workloads_have_equal_keys_and_different_ones_differ():
    built = [workload(**change) for change in SINGLE_CHANGES]
    assert len({w.key for w in built}) == len(built)
    assert len(set(built)) == len(built)
    for change, w in zip(SINGLE_CHANGES, built, strict=True):
        assert w == workload(**change)
        assert w.key == workload(**change).key


def test_what_only_a_choice_depends_on_stays_out_of_the_history():
    only_choice = workload(deterministic=True, accuracy="high", require="torch", expected_calls=10, work=5.0)
    assert only_choice.history_detail == workload().history_detail == ""
    assert workload(parameters={"order": 0.5}, requires_gradient=True).history_detail == "order=0.5;grad"


def test_expected_calls_count_in_powers_of_ten():
    assert workload(expected_calls=100) == workload(expected_calls=999) != workload(expected_calls=1000)


def test_hints_have_their_stated_meaning():
    assert workload(is_iterative=True).expected_calls == 100
    assert workload(is_iterative=True, expected_calls=3).expected_calls == 3
    assert workload(requires_gpu=True).require == "gpu"
    assert workload(requires_gpu=True).requires_gpu
    assert not workload(requires_gpu=False).requires_gpu
    assert workload(residency="host").residency == workload(residency="cpu").residency == "numpy"
    assert workload(residency="torch@cpu").residency == "torch"


@pytest.mark.parametrize("change", SINGLE_CHANGES)
def test_the_key_survives_every_way_of_copying(change):
    original = workload(**change)
    again = [
        pickle.loads(pickle.dumps(original)),
        copy.copy(original),
        copy.deepcopy(original),
        original.model_copy(),
        WorkloadCharacteristics(**original.model_dump()),
        WorkloadCharacteristics.model_validate_json(original.model_dump_json()),
    ]
    for twin in again:
        assert (twin, twin.key, hash(twin)) == (original, original.key, hash(original))


def test_model_copy_with_an_update_is_checked_and_never_keeps_a_stale_key():
    original = workload(parameters={"axis": 1}, dtype="float32")
    changed = original.model_copy(update={"data_shape": (10, 10)})
    assert changed == workload(parameters={"axis": 1}, dtype="float32", data_shape=(10, 10))
    assert (changed.key[1], changed.data_size) == (((10, 10),), 100)
    assert original.model_copy(update={"dtype": "float64"}).dtype_size == 8
    with pytest.raises(ValidationError, match="dtype"):
        original.model_copy(update={"dtype": "float46"})


@given(st.lists(st.lists(st.integers(0, 10**9), max_size=4).map(tuple), max_size=3).map(tuple))
def test_a_class_of_shapes_tells_axes_and_operands_apart(shapes):
    text = shape_class(shapes)
    assert len(text.split("|")) == max(1, len(shapes))
    axes = [axis for operand in text.split("|") for axis in operand.split("x") if axis]
    assert len(axes) == sum(map(len, shapes))
    for axis, d in zip(axes, (d for shape in shapes for d in shape), strict=True):
        if d == 0:
            assert axis == "e"
        else:
            assert 2 ** (int(axis) / 2 - 0.2501) <= d <= 2 ** (int(axis) / 2 + 0.2501)


def test_classes_of_shapes_are_half_octaves():
    assert shape_class(((1000, 128), (16,))) == "20x14|8"
    assert shape_class(((0, 1),)) == "ex0"
    assert shape_class(((1000,),)) == shape_class(((1024,),)) != shape_class(((1448,),))


def test_a_stream_of_new_shapes_does_not_grow_memory():
    from pointsman.selector import signature

    for n in range(3 * signature._CLASSES_KEPT):
        shape_class(((n,),))
    assert len(signature._CLASSES) <= signature._CLASSES_KEPT


def test_of_reads_arrays_of_numpy():
    x = np.zeros((4, 5), "float32")
    found = WorkloadCharacteristics.of("matmul", x, x.T, parameters={"order": 2}, expected_calls=3)
    assert (found.shapes, found.dtype, found.residency) == (((4, 5), (5, 4)), "float32", "numpy")
    assert (found.parameters, found.expected_calls, found.requires_gradient) == ({"order": 2}, 3, False)


def test_of_reads_arrays_of_torch_and_jax():
    import jax.numpy as jnp
    import torch

    tensor = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    found = WorkloadCharacteristics.of("fft", tensor)
    assert (found.shapes, found.dtype, found.residency) == (((3, 4),), "float64", "torch")
    assert found.requires_gradient
    assert not WorkloadCharacteristics.of("fft", tensor, requires_gradient=False).requires_gradient
    mixed = WorkloadCharacteristics.of("matmul", np.zeros((2, 3)), jnp.zeros((3, 4), "float32"))
    assert (mixed.shapes, mixed.dtype, mixed.residency) == (((2, 3), (3, 4)), "float64", "jax")


def test_of_refuses_what_is_not_an_array():
    with pytest.raises(TypeError, match=r"operand 2 of 'derivative' is float.*parameters="):
        WorkloadCharacteristics.of("derivative", np.zeros(3), 0.5)
    with pytest.raises(TypeError, match=r"operand 1 of 'fft': .*MaskedArray would lose its mask; pass x"):
        WorkloadCharacteristics.of("fft", np.ma.ones(3))


def test_parameters_behave_as_a_frozen_mapping():
    p = Parameters({"b": 1, "a": (1, "x")})
    assert list(p) == ["a", "b"]
    assert p == {"a": (1, "x"), "b": 1}
    assert {p: 1}[pickle.loads(pickle.dumps(p))] == 1
    with pytest.raises(TypeError, match="a name must be"):
        Parameters({"not a name": 1})
