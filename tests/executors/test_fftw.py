"""FFTW: plans are reused and never shared, forks live on, wisdom is kept and its troubles are survived."""

from __future__ import annotations

import gc
import json
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pointsman.executors import on_fftw, registry
from pointsman.executors.on_fftw import lend, transform
from pointsman.telemetry.history import History, HistoryWarning
from pointsman.telemetry.outcome import Failure

KINDS = ("float32", "float64", "complex64", "complex128")
TOLERANCE = {"float32": 1e-6, "complex64": 1e-6, "float64": 1e-15, "complex128": 1e-15}


@pytest.fixture(autouse=True)
def fftw():
    executor, _ = registry.ensure("fftw")
    executor.free_caches()
    yield executor
    executor.effort = "FFTW_ESTIMATE"


def noise(shape, kind="float64"):
    rng = np.random.default_rng(12)
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if kind.startswith("complex") else x).astype(kind)


def exact(x, n=None):
    """NumPy's transform in extended precision."""
    if x.dtype.kind == "c":
        return np.fft.fft(x.astype(np.clongdouble), n)
    return np.fft.rfft(x.astype(np.longdouble), n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "n"), [((1000,), None), ((997,), None), ((2, 3, 64), None), ((4, 10), 16), ((9,), 4)]
)
def test_transforms_are_those_of_extended_precision(kind, shape, n):
    x = noise(shape, kind)
    found, expected = transform(x, n), exact(x, n)
    assert found.dtype == np.result_type(kind, np.complex64)
    assert np.max(np.abs(found - expected)) <= TOLERANCE[kind] * np.max(np.abs(expected))


def test_any_layout_gives_the_same_and_is_left_as_it_was():
    x = noise(200)
    expected = transform(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    apart = np.zeros(400)
    apart[::2] = x
    raw = np.zeros(201)
    raw[1:] = x  # an odd number of items into the memory: half of the alignment that plans have
    for given in (x, frozen, apart[::2], x[::-1].copy()[::-1], raw[1:], raw[1:].astype(">f8")):
        np.testing.assert_array_equal(transform(given), expected)
        np.testing.assert_array_equal(given, x)


def test_a_plan_is_made_once_for_each_shape_kind_and_thread_count(fftw):
    calls = [
        lambda: transform(noise(48)),
        lambda: transform(noise(50)),
        lambda: transform(noise((2, 50))),
        lambda: transform(noise(50, "float32")),
        lambda: transform(noise(50), threads=2),
    ]
    for call in calls:
        before = fftw.signatures(call)
        call()
        assert fftw.signatures(call) == before + 1
        call()
        assert fftw.signatures(call) == before + 1
    made = fftw.signatures(transform)
    transform(noise((1, 2, 50)))  # the same two rows
    assert fftw.signatures(transform) == made


def test_borrowers_of_one_plan_never_share_work_arrays(fftw):
    with lend((8,), "float64") as outer:
        outer.samples[:] = 1.0
        with lend((8,), "float64") as inner:
            assert not np.shares_memory(outer.samples, inner.samples)
            inner.samples[:] = 2.0
        assert (outer.samples == 1.0).all()
    made = fftw.signatures(lend)
    with lend((8,), "float64") as one, lend((8,), "float64") as other:
        assert fftw.signatures(lend) == made
        assert not np.shares_memory(one.samples, other.samples)


def test_threads_at_once_get_their_own_answers():
    inputs = [noise(1 << 15) * (i + 1) for i in range(4)]
    expected = [np.fft.rfft(x) for x in inputs]

    def repeat(i):
        worst = 0.0
        for _ in range(40):
            worst = max(worst, np.max(np.abs(transform(inputs[i]) - expected[i])))
            with lend((1 << 15,), "float64") as t:
                t.samples[:] = inputs[i]
                t.forward()
                t.backward()
                worst = max(worst, np.max(np.abs(t.samples / (1 << 15) - inputs[i])))
        return worst

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(repeat, range(4))) < 1e-11


def test_results_are_fresh_and_no_array_of_the_caller_is_kept_alive():
    x = noise(300)
    first = transform(x)
    kept = first.copy()
    transform(2.0 * x)
    np.testing.assert_array_equal(first, kept)
    first = transform(x)
    references = [weakref.ref(x), weakref.ref(first)]
    del x, first
    gc.collect()
    assert [r() for r in references] == [None, None]


def test_measuring_never_writes_to_the_callers_array(fftw):
    fftw.effort = "FFTW_MEASURE"
    x = noise((3, 36))
    x.flags.writeable = False
    before = x.copy()
    assert transform(x) == pytest.approx(np.fft.rfft(x), abs=1e-12)
    np.testing.assert_array_equal(x, before)
    with pytest.raises(ValueError, match=r"FFTW_ESTIMATE, FFTW_MEASURE.*got 'hard'"):
        fftw.effort = "hard"


@pytest.mark.parametrize(("name", "bound"), [("MOST_PLANS", 3), ("MOST_BYTES", 4000)])
def test_idle_plans_are_bounded_and_the_oldest_go(fftw, monkeypatch, name, bound):
    monkeypatch.setattr(on_fftw, name, bound)
    for n in (32, 34, 36, 38, 40, 42, 44, 46):
        transform(noise(n))
    made = fftw.signatures(transform)
    transform(noise(46))
    assert fftw.signatures(transform) == made
    transform(noise(32))
    assert fftw.signatures(transform) == made + 1


def test_what_fftw_cannot_plan_is_unsupported(fftw):
    import pyfftw

    endless = np.broadcast_to(np.complex128(0), (2**31,))
    with pytest.raises(ValueError, match="less than") as caught:
        pyfftw.FFTW(endless, endless)
    assert fftw.classify(caught.value) is Failure.UNSUPPORTED
    assert fftw.classify(ValueError("operands could not be broadcast together")) is None


def test_a_forked_child_transforms_with_threads_too(fresh_python):
    # FFTW's own threads do not survive a fork: a child that used them would hang, and be ended by the alarm.
    assert fresh_python("""
import os, signal, threading, warnings
import numpy as np
from pointsman.executors.on_fftw import transform
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking beside threads
x = np.random.default_rng(0).standard_normal(1 << 16)
expected = np.fft.rfft(x)
assert np.allclose(transform(x, threads=2), expected)
child = os.fork()
if not child:
    signal.alarm(60)
    right = np.allclose(transform(x, threads=2), expected) and np.allclose(transform(x[:999]), np.fft.rfft(x[:999]))
    os._exit(0 if right else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.allclose(transform(x, threads=2), expected))
""") == "0 True"  # fmt: skip


def test_a_child_forked_while_another_thread_plans_says_so_instead_of_hanging(fresh_python):
    assert fresh_python("""
import os, signal, threading, warnings
import numpy as np
from pointsman.executors import on_fftw
from pointsman.executors.errors import BackendUnavailableError
warnings.simplefilter("ignore", DeprecationWarning)
on_fftw._FORK_PATIENCE_S = 0.01
known = on_fftw.transform(np.ones(4))
planning, done = threading.Event(), threading.Event()
def plan():
    with on_fftw._PLANNER:
        planning.set()
        done.wait()
thread = threading.Thread(target=plan)
thread.start()
planning.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    code = 2 if not np.array_equal(on_fftw.transform(np.ones(4)), known) else 3
    try:
        on_fftw.transform(np.ones(5))
    except BackendUnavailableError as error:
        code = 0 if "forked while another thread was planning" in str(error) and code == 3 else 4
    os._exit(code)
done.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), on_fftw.transform(np.ones(5))[0].real)
""") == "0 5.0"  # fmt: skip


def test_the_registry_of_such_a_child_says_no_more_than_what_helps(fresh_python):
    assert fresh_python("""
import os, signal, threading, warnings
from pointsman.executors import on_fftw, registry
warnings.simplefilter("ignore", DeprecationWarning)
on_fftw._FORK_PATIENCE_S = 0.01
planning, done = threading.Event(), threading.Event()
def plan():
    with on_fftw._PLANNER:
        planning.set()
        done.wait()
thread = threading.Thread(target=plan)
thread.start()
planning.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    try:
        registry.ensure("fftw")
    except ImportError as error:
        os._exit(0 if str(error) == registry.available("fftw") and str(error).endswith("or spawn workers") else 4)
    os._exit(5)
done.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), registry.available("fftw"))
""") == "0 None"  # fmt: skip


# ------------------------------------------------------------------------------------------------------- wisdom

PLANS = """
import sys, warnings
import numpy as np
from pathlib import Path
from pointsman.telemetry.history import History
from pointsman.executors.on_fftw import transform
history = History.open(Path("kept.sqlite").absolute(), background=False)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert transform(np.ones({n}))[0] == {n}
print([str(w.category.__name__) for w in caught])
"""
KNOWS_360 = """
import pyfftw
x, y = pyfftw.empty_aligned(360), pyfftw.empty_aligned(181, "complex128")
try:
    pyfftw.FFTW(x, y, flags=("FFTW_ESTIMATE", "FFTW_WISDOM_ONLY"))
    print("known")
except RuntimeError:
    print("unknown")
"""


def kept(folder):
    return list(folder.glob("fftw-*.json"))


def test_wisdom_goes_round_between_processes(fresh_python, tmp_path):
    assert fresh_python(PLANS.format(n=6) + KNOWS_360).split() == ["[]", "unknown"]
    assert fresh_python(PLANS.format(n=360)) == "[]"
    (file,) = kept(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert fresh_python(PLANS.format(n=6) + KNOWS_360).split() == ["[]", "known"]
    assert kept(tmp_path) == [file]
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(file.name) and f != file]


def test_two_processes_add_to_each_others_wisdom(fresh_python, tmp_path):
    other = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {PLANS.format(n=360)!r}], check=True, stdout=subprocess.DEVNULL)
"""
    assert fresh_python(PLANS.format(n=44) + other) == "[]"  # reads before the other writes, and writes after it
    assert fresh_python(PLANS.format(n=6) + KNOWS_360).split() == ["[]", "known"]


@pytest.fixture
def wisdom(tmp_path, monkeypatch):
    """What a fresh process would have of it, beside a history in `tmp_path`; written when told, not at exit."""
    history = History.open(tmp_path / "kept.sqlite", background=False)
    monkeypatch.setattr(on_fftw.history, "_OPEN", {"": history})
    monkeypatch.setattr(on_fftw.atexit, "register", lambda _: None)
    yield on_fftw._Wisdom
    history.close()


@pytest.mark.parametrize("content", ["", "no JSON", "[1, 2]", "[]", '{"a": 1}', '["of another FFTW", "", ""]', "[\x00"])
def test_a_file_that_cannot_be_read_is_warned_of_once_and_replaced(wisdom, tmp_path, content):
    import pyfftw

    def forget():
        pyfftw.forget_wisdom()
        first = wisdom()
        first.read()
        on_fftw._POOL.clear()
        transform(noise(360))
        return first

    forget().write()
    (file,) = kept(tmp_path)
    good = json.loads(file.read_text())
    file.write_text(content)
    with pytest.warns(HistoryWarning, match="results are not affected") as warned:
        forget().write()
    assert len(warned) == 1
    assert [len(part) for part in json.loads(file.read_text())] == [len(part) for part in good]
    assert pyfftw.import_wisdom(tuple(part.encode() for part in json.loads(file.read_text()))) == (True, True, True)


def test_nothing_is_written_where_no_history_is_kept(tmp_path, wisdom, monkeypatch):
    memory = History.open(":memory:", background=False)
    monkeypatch.setattr(on_fftw.history, "_OPEN", {"": memory})
    own = wisdom()
    own.read()
    transform(noise(364))
    own.write()
    assert not kept(tmp_path)


def test_nothing_is_written_to_a_folder_that_is_read_only(wisdom, tmp_path, monkeypatch):
    own = wisdom()
    own.read()
    transform(noise(362))
    with monkeypatch.context() as patch:
        patch.setattr(on_fftw.os, "access", lambda path, _: path != tmp_path)  # root may write anywhere
        own.write()
        assert not kept(tmp_path)
    own.write()
    assert len(kept(tmp_path)) == 1


def test_a_full_disk_is_warned_of_and_leaves_no_scraps(wisdom, tmp_path, monkeypatch):
    own = wisdom()
    own.read()
    transform(noise(366))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pointsman.telemetry.files.os.replace", full)
    with pytest.warns(HistoryWarning, match="No space left"):
        own.write()
    assert not [f for f in tmp_path.iterdir() if f.name.startswith("fftw")]
