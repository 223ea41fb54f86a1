"""The cache of results: what was kept comes back, its bound holds, and no trouble with a file changes a result."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import pointsman as pm
import pytest
from pointsman.kernels import result_cache
from pointsman.kernels.result_cache import ResultCache, ResultCacheWarning, code_of, key_of, shared


@dataclass(frozen=True)
class One:
    order: float = 6.0


@dataclass(frozen=True)
class Other:
    order: float = 6.0


VALUES = np.random.default_rng(0).standard_normal((4, 5))
ARRAYS = {"values": VALUES, "counts": np.arange(6, dtype=np.int64)}
FACTS = {"seed": 2**100 + 1, "name": "first"}


@pytest.fixture
def cache(tmp_path):
    return ResultCache(tmp_path / "results")


def same(found):
    assert found is not None
    arrays, facts = found
    assert facts == FACTS
    assert {name: a.dtype for name, a in arrays.items()} == {name: a.dtype for name, a in ARRAYS.items()}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    return True


def test_what_was_put_comes_back(cache):
    assert cache.get("a") is None
    cache.put("a", ARRAYS, FACTS)
    assert same(cache.get("a"))
    assert cache.get("b") is None


def test_files_are_their_owners_alone(cache):
    cache.put("a", ARRAYS, FACTS)
    [file] = cache.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700


# --------------------------------------------------------------------------------------------------------------- keys


def test_a_key_is_the_same_for_the_same():
    usual = {"n": 3, "g": 0.5, "x": VALUES, "wavelet": One(), "options": {"b": 1, "a": [None, True]}}
    other = {"options": {"a": [None, True], "b": 1}, "wavelet": One(6.0), "x": VALUES.copy(), "g": 0.5, "n": 3}
    assert key_of("test", 1, **usual) == key_of("test", 1, **other)
    assert key_of("test", 1, x=VALUES.T) == key_of("test", 1, x=np.ascontiguousarray(VALUES.T))
    assert key_of("test", 1, n=np.int64(3), g=np.float64(0.5)) == key_of("test", 1, n=3, g=0.5)


def test_all_that_differs_makes_another_key():
    nudged = VALUES.copy()
    nudged[3, 4] = np.nextafter(nudged[3, 4], 9)
    parts = [
        1, 2, 1.0, True, "1", None, b"".decode(), "None", [1], [[1]], [1, 2], [12], ["1", "2"], ["12"], {"1": 2},
        [("1", 2)], 0.3, 0.1 + 0.2, -0.0, 0.0, float("nan"), One(), Other(), One(5.0), VALUES, nudged, VALUES.T,
        VALUES.astype(np.float32), VALUES.ravel(), VALUES.ravel().tolist(), np.zeros(3), np.zeros(3, np.int64),
    ]  # fmt: skip
    keys = [key_of("test", 1, part=part) for part in parts]
    keys += [key_of("test", 2, part=1), key_of("tset", 1, part=1), key_of("test", 1, trap=1)]
    keys += [key_of("test", 1, a=1, b=2), key_of("test", 1, a=2, b=1)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("version", ["numpy", "pointsman"])
def test_another_version_makes_another_key(version, monkeypatch):
    before = key_of("test", 1)
    if version == "numpy":
        monkeypatch.setattr(result_cache.np, "__version__", "0.0")
    else:
        monkeypatch.setattr(result_cache.metadata, "version", lambda name: "0.0")
    assert key_of("test", 1) != before


def test_changed_code_makes_another_key(tmp_path, monkeypatch):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("x = 1\n")
    other.write_text("y = 1\n")
    monkeypatch.setattr(result_cache, "files", lambda _: tmp_path)
    before = code_of.__wrapped__("one", "other")
    assert code_of.__wrapped__("one", "other") == before
    other.write_text("y = 2\n")
    assert code_of.__wrapped__("one", "other") != before


def test_what_cannot_be_told_has_no_key():
    with pytest.raises(TypeError, match="found object"):
        key_of("test", 1, part=object())
    with pytest.raises(TypeError, match="found ndarray"):
        key_of("test", 1, part=np.array([object()]))


# ------------------------------------------------------------------------------------------------------------ trouble


def test_a_damaged_file_is_dropped_or_still_right(cache):
    """Whichever byte is wrong: never another result."""
    cache.put("a", ARRAYS, FACTS)
    [file] = cache.folder.iterdir()
    good = file.read_bytes()
    dropped = 0
    for at in range(0, len(good), 7):
        file.write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        found = cache.get("a")
        assert (found is None) != file.exists()
        dropped += found is None
        assert found is None or same(found)
    assert dropped > len(good) / 7 / 2
    for end in (0, 1, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:end])
        assert cache.get("a") is None


def test_nothing_of_it_is_unpickled(cache):
    cache.folder.mkdir()
    np.savez(cache.folder / "a.npz", facts=np.array([{"seed": 1}], dtype=object))
    assert cache.get("a") is None


def test_what_cannot_be_written_is_said_once_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(result_cache, "_warned", set())
    (tmp_path / "file").write_text("no folder")
    cache = ResultCache(tmp_path / "file" / "results")
    with pytest.warns(ResultCacheWarning, match="cannot be kept in .*POINTSMAN_CACHE"):
        cache.put("a", ARRAYS, FACTS)
    with warnings.catch_warnings(record=True) as again:
        cache.put("a", ARRAYS, FACTS)
    assert not again
    assert cache.get("a") is None


def test_a_disk_that_fills_up_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(result_cache, "_warned", set())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result_cache.os, "replace", full)
    with pytest.warns(ResultCacheWarning, match="No space left"):
        cache.put("a", ARRAYS, FACTS)
    assert list(cache.folder.iterdir()) == []


def test_what_was_not_asked_for_longest_goes_first(cache):
    for age, key in enumerate("acefgb"):
        cache.put(key, ARRAYS, FACTS)
        os.utime(cache.folder / f"{key}.npz", (2000 - age, 2000 - age))
    size = (cache.folder / "a.npz").stat().st_size
    assert same(cache.get("a"))  # asked for now
    small = ResultCache(cache.folder, most_bytes=4 * size)
    small.put("d", ARRAYS, FACTS)
    assert {key for key in "abcdefg" if small.get(key)} == {"a", "c", "d", "e"}
    ResultCache(cache.folder, most_bytes=size - 1).put("h", ARRAYS, FACTS)
    assert small.get("h") is None
    assert same(small.get("d"))  # what is too large by itself costs nobody a place


def test_what_a_killed_process_left_goes_when_it_is_old(cache):
    cache.put("a", ARRAYS, FACTS)
    old, new = (cache.folder / f".unfinished-{age}" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    cache.put("b", ARRAYS, FACTS)
    assert (old.exists(), new.exists()) == (False, True)


WRITER = """
import sys, numpy as np
from pointsman.kernels.result_cache import ResultCache
cache = ResultCache(sys.argv[1], most_bytes=40_000)
for turn in range(60):
    key = str(turn % 4)
    found = cache.get(key)
    assert found is None or (found[0]["x"] == int(key)).all()
    cache.put(key, {"x": np.full(200 + turn, int(key))}, {"writer": sys.argv[2]})
print(sum(cache.get(str(k)) is not None for k in range(4)))
"""


def test_two_processes_share_a_folder(tmp_path):
    argv = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path / "results")]
    both = [subprocess.Popen([*argv, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    for process in both:
        assert process.communicate(timeout=60)[0] == "4\n"
        assert process.returncode == 0
    assert len(list((tmp_path / "results").iterdir())) == 4


# ----------------------------------------------------------------------------------------------------------- settings


def test_it_lies_beside_the_history_unless_the_settings_say_otherwise(tmp_path):
    pm.configure(history=str(tmp_path / "history.sqlite"))
    assert shared().folder == tmp_path.resolve() / "results"
    pm.configure(cache=tmp_path / "elsewhere")
    assert shared().folder == tmp_path / "elsewhere"
    pm.configure(cache="off")
    assert shared() is None
    pm.configure(cache=None, history=":memory:")
    assert shared() is None
