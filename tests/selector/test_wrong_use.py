"""What cannot have been meant is refused with what to give instead: registered operations, mappings, names, fields."""

from __future__ import annotations

import numpy as np
import pytest
from pointsman.executors.base import Variant
from pointsman.kernels.table import KERNELS
from pointsman.selector import operations
from pointsman.selector.adaptive import adaptive
from pointsman.selector.operations import Operation, register_operation
from pointsman.selector.workload import WorkloadCharacteristics

PLAIN = Variant("numpy", "numpy", lambda: len)


@pytest.mark.parametrize("given", [len, "energy", {"name": "energy"}, None])
def test_only_operations_are_registered(given):
    with pytest.raises(TypeError, match=r"give an Operation\(name=.*@pointsman\.adaptive"):
        register_operation(given)


@pytest.mark.parametrize("name", KERNELS)
def test_the_names_of_kernels_are_taken(name):
    told = rf"'{name}' is the name of a built-in kernel .*'mylib\.{name}'"
    with pytest.raises(ValueError, match=told):
        register_operation(Operation(name=name, variants=(PLAIN,)))
    with pytest.raises(ValueError, match=told):
        adaptive(name=name)(lambda x, *, xp=None: x)
    assert operations.find(name).validate  # the kernel is what it was


def test_an_operation_needs_something_to_run():
    with pytest.raises(ValueError, match=r"operation 'energy' has nothing to run: give it variants=.*portable="):
        register_operation(Operation(name="energy"))
    assert operations.find("energy") is None


def test_a_variant_of_an_unknown_backend_is_refused_and_one_of_another_version_waits():
    with pytest.raises(ValueError, match=r"operation 'energy', variant 'fast': no backend .*did you mean 'torch'"):
        register_operation(Operation(name="energy", variants=(PLAIN, Variant("fast", "troch", lambda: len))))
    assert operations.find("energy") is None
    register_operation(Operation(name="energy", variants=(PLAIN, Variant("far", "dask", lambda: len))))
    assert operations.find("energy").variant("far").backend == "dask"


def test_an_operation_of_ones_own_may_be_defined_again():
    register_operation(Operation(name="energy", variants=(PLAIN,)))
    register_operation(Operation(name="energy", variants=(PLAIN, Variant("scipy", "scipy", lambda: len))))
    assert [v.name for v in operations.find("energy").variants] == ["numpy", "scipy"]


@pytest.mark.parametrize("backend", ["numpy", "auto"])
@pytest.mark.parametrize(
    ("func", "error", "says"),
    [
        ({}, TypeError, "func: found an empty mapping; give {backend: function"),
        ({"numpy": 3}, TypeError, r"func\['numpy'\]: found int, which cannot be called"),
        ({"numpy": int, "scipy": None}, TypeError, r"func\['scipy'\]: found NoneType"),
        ({"numpy": int, "nunba": int}, ValueError, "func: no backend is called 'nunba': did you mean 'numba'"),
        ({"auto": int}, ValueError, "'auto' is no backend but the wish to have one chosen"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused_before_anything_runs(make, workload, func, error, says, backend):
    selector = make()
    with pytest.raises(error, match=says):
        selector.execute_with_monitoring("s", backend, func, workload())
    assert selector.get_performance_summary()["total_records"] == 0


def test_a_value_that_is_no_function_is_told_behind_known_keys_too(make, workload):
    selector = make()
    assert selector.execute_with_monitoring("s", "numpy", {"numpy": int}, workload()) == 0
    with pytest.raises(TypeError, match=r"func\['numpy'\]: found ndarray, which cannot be called"):
        selector.execute_with_monitoring("s", "numpy", {"numpy": np.ones(3)}, workload())


def test_variants_devices_and_backends_of_another_version_are_legal_keys(make, workload):
    func = {"numpy": int, "numpy/einsum": int, "torch@cuda:0": int, "dask": int}
    assert make().execute_with_monitoring("s", "numpy", func, workload()) == 0


def test_fields_of_a_workload_are_given_by_name():
    with pytest.raises(
        TypeError, match=r"found 2 .*'fft'; fields are given by name: operation_type=\.\.\., data_shape"
    ):
        WorkloadCharacteristics("fft", (1000,))


def test_a_mistyped_operation_is_told_what_may_have_been_meant(make):
    for ask in (lambda: make().run("fftt", np.ones(3)), lambda: make().dispatcher("fftt")):
        with pytest.raises(
            ValueError, match=r"no operation 'fftt' to run \(did you mean 'fft'\?\); there are: .*matmul"
        ):
            ask()
