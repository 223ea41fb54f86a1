"""Reuse of conversions: only of arrays that cannot change, by identity and not by `id`, bounded, never stale."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from pointsman.executors import registry, reuse
from pointsman.executors.base import Variant
from pointsman.executors.prepare import prepare
from pointsman.executors.reuse import Copies, reusing

LARGE = 2**15  # elements: well above the bound below which nothing is kept


@pytest.fixture(autouse=True)
def _libraries():
    registry.ensure("torch"), registry.ensure("jax")
    reuse.COPIES.clear()
    yield
    reuse.COPIES.clear()


def jax_array(values):
    import jax

    return jax.numpy.asarray(np.asarray(values, "float32"))


@pytest.fixture
def counted():
    """A conversion to NumPy that counts."""

    def convert(x):
        convert.times += 1
        return np.array(x.numpy() if hasattr(x, "numpy") else x)

    convert.times = 0
    return convert


def test_the_same_array_is_converted_once_for_each_target(counted):
    copies, x = Copies(), jax_array(range(LARGE))
    first = copies.get(x, "numpy", counted)
    assert copies.get(x, "numpy", counted) is first
    assert copies.get(x, "elsewhere", counted) is not first
    assert (counted.times, len(copies), copies.nbytes) == (2, 2, 2 * x.nbytes)


def test_an_equal_array_is_not_the_same_one(counted):
    copies = Copies()
    x, y = jax_array(range(LARGE)), jax_array(range(LARGE))
    assert copies.get(x, "numpy", counted) is not copies.get(y, "numpy", counted)


def test_copies_go_with_their_arrays(counted):
    copies, x = Copies(), jax_array(range(LARGE))
    copies.get(x, "numpy", counted)
    del x
    gc.collect()
    assert (len(copies), copies.nbytes) == (0, 0)


def test_an_id_that_recurs_is_no_hit(counted):
    copies, x = Copies(), jax_array(range(LARGE))
    copies.get(x, "numpy", counted)
    ((_, kept),) = copies._kept.items()
    y = jax_array(np.ones(LARGE))
    copies._kept[(id(y), "numpy")] = kept  # as if x had died unnoticed, and y taken its address
    assert copies.get(y, "numpy", counted)[1] == 1.0
    copies._drop((id(y), "numpy"), kept.source)  # as x dies: the copy of y must not go along
    assert copies.get(y, "numpy", counted)[1] == 1.0
    assert counted.times == 2


def test_arrays_made_and_freed_in_turn_are_told_apart():
    into = reusing(np.array, "numpy")
    for value in range(30):
        x = jax_array(np.full(LARGE, value))
        assert into(x)[7] == value
        del x


def test_the_oldest_go_when_the_bound_is_reached(counted):
    arrays = [jax_array(np.full(LARGE, i)) for i in range(4)]
    copies = Copies(most_bytes=2 * arrays[0].nbytes)
    for x in arrays:
        copies.get(x, "numpy", counted)
    assert (len(copies), copies.nbytes) == (2, copies.most_bytes)
    copies.get(arrays[3], "numpy", counted)
    assert counted.times == 4
    copies.get(arrays[0], "numpy", counted)
    assert counted.times == 5
    copies.get(jax_array(np.zeros(4 * LARGE)), "numpy", counted)  # too large to be kept at all
    assert len(copies) == 2


def test_what_is_cheap_to_copy_is_not_kept(counted):
    copies, x = Copies(), jax_array(range(8))
    copies.get(x, "numpy", counted), copies.get(x, "numpy", counted)
    assert (counted.times, len(copies)) == (2, 0)


def test_a_copy_that_was_written_to_is_not_used_again():
    copies, x = Copies(), jax_array(np.zeros(LARGE))
    torch = registry.executor("torch")
    tensor = copies.get(x, "torch", torch.convert_in)
    assert copies.get(x, "torch", torch.convert_in) is tensor
    tensor.add_(1.0)
    again = copies.get(x, "torch", torch.convert_in)
    assert (again is tensor, float(again[0])) == (False, 0.0)
    array = copies.get(x, "numpy", np.array)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


def test_a_deleted_array_has_no_copy(counted):
    copies, x = Copies(), jax_array(range(LARGE))
    copies.get(x, "numpy", counted)
    x.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        copies.get(x, "numpy", counted)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_arrays_that_can_change_are_converted_each_time(kind, counted):
    into = reusing(counted, "numpy")
    x = np.zeros(LARGE)
    x = registry.executor(kind).convert_in(x)
    edits = [lambda: x.__setitem__(0, 1.0)]
    if kind == "torch":
        edits = [
            lambda: x.add_(1.0),
            lambda: x.numpy().__setitem__(0, 2.0),
            lambda: x.data.fill_(3.0),
            lambda: x.detach().fill_(4.0),
        ]
    for value, edit in enumerate(edits, 1):
        edit()
        assert into(x)[0] == value
    assert counted.times == len(edits)
    assert not len(reuse.COPIES)


def seen(reads_only, out="jax"):
    """A prepared NumPy function that notes what it is given."""
    given = []

    def function(x):
        given.append(x)
        return x

    variant = Variant("numpy", "numpy", lambda: function, reads_only=reads_only)
    return prepare(variant, ["jax"], out=out).call, given


def test_calls_with_the_same_array_share_a_copy_and_results_are_nobody_elses():
    x = jax_array(range(LARGE))
    call, given = seen(reads_only=True)
    first, second = call(x), call(x)
    assert given[0] is given[1]
    assert not given[0].flags.writeable
    assert first.unsafe_buffer_pointer() != second.unsafe_buffer_pointer()
    assert np.array_equal(first, x)


@pytest.mark.parametrize(("reads_only", "out"), [(False, "jax"), (True, "numpy"), (True, "torch")])
def test_functions_that_may_write_or_hand_out_their_arguments_get_copies_of_their_own(reads_only, out):
    x = jax_array(range(LARGE))
    call, given = seen(reads_only, out)
    result = call(x)
    result = result if out == "jax" else result.__setitem__(0, -1.0)
    call(x)
    assert given[0] is not given[1]
    assert given[0].flags.writeable
    assert float(given[1][0]) == 0.0


def test_kernels_promise_to_leave_their_arguments_alone():
    from pointsman.kernels.table import KERNELS
    from pointsman.selector.operations import find

    for name in KERNELS:
        assert all(variant.reads_only for variant in find(name).variants), name


def test_threads_share_copies(counted):
    copies, arrays, wrong = Copies(most_bytes=3 * 4 * LARGE), [jax_array(np.full(LARGE, i)) for i in range(6)], []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, 6, 300):
            if copies.get(arrays[i], "numpy", counted)[5] != i:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert copies.nbytes == sum(kept.nbytes for kept in copies._kept.values()) <= copies.most_bytes


def test_a_fork_while_another_thread_holds_the_lock_does_not_hang_the_child():
    code = (
        "import os, threading\n"
        "from pointsman.executors.reuse import COPIES\n"
        "held, go = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with COPIES._lock:\n"
        "        held.set(); go.wait()\n"
        "threading.Thread(target=hold, daemon=True).start(); held.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    COPIES.clear(); os._exit(7)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]); go.set(); raise SystemExit(code)\n"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=False).returncode == 7
