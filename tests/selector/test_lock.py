"""Lock files: written byte for byte alike, readable, refused where they make no sense, compared with this machine."""

from __future__ import annotations

import json
import os

import numpy as np
import pointsman as pm
import pytest
from pointsman.selector.costs import Curves
from pointsman.selector.lock import Lock, LockError, Pin
from pointsman.selector.pinning import compare, export_lock, versions_apart
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site

pytestmark = pytest.mark.usefixtures("all_imported")


# ---- the file


def test_a_lock_reads_as_it_was_written_byte_for_byte(make, feed, workload, tmp_path):
    selector = make()
    feed(selector, workload(1000), {"numpy": 5e-3, "scipy": 1e-3})
    feed(
        selector,
        workload(10**5, dtype="float32", parameters={"taps": 5, "mode": "a;b"}),
        {"numpy": 1e-3, "scipy": 5e-3},
    )
    path = tmp_path / "one.json"
    lock = export_lock(path, selector=selector)
    text = path.read_bytes().decode()
    assert Lock.read(path) == lock
    assert Lock.read(path).text() == text
    assert export_lock(selector=selector).text() == text
    data = json.loads(text)
    assert [(row["dtype"], row["shape_class"], row["detail"], row["variant"]) for row in data["choices"]] == [
        ("float32", "33", "mode='a;b',taps=5", "numpy"),
        ("float64", "20", "", "scipy"),
    ]
    assert data["choices"][1]["expected_s"] == pytest.approx(1e-3, rel=0.1)
    assert data["choices"][1]["evidence"] == 8
    assert os.uname().nodename not in text
    assert data["machine"]["libraries"]["numpy"] == np.__version__
    assert sum(1 for line in text.splitlines() if '"variant"' in line) == 2  # one choice a line: they compare well


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(make, tmp_path):
    with pytest.raises(LockError, match=r"cannot be written to .*nowhere.*; choose another file"):
        export_lock(tmp_path / "nowhere" / "a.json", selector=make())


def test_choices_come_from_the_history_and_not_from_what_this_process_has_imported(make, feed, workload, libraries):
    selector = make()
    feed(selector, workload(1000), {"numpy": 5e-3, "torch": 1e-3}, times=20)
    libraries()
    assert [pin.variant for pin in export_lock(selector=selector).pins] == ["torch"]  # of a run that lasts
    few = export_lock(calls=20, selector=selector)
    assert [pin.variant for pin in few.pins] == ["numpy"]  # twenty calls do not repay importing torch
    libraries("torch")
    assert export_lock(calls=20, selector=selector).text() == few.text()


def test_a_stream_of_new_sizes_is_not_locked_to_what_compiles_for_each(make, feed, workload):
    steady, storm = make(), make(history=History(None, background=False))
    for i in range(20):
        feed(steady, workload(1000), {"numpy": 5e-3, "jax": 1e-3}, times=1)
        feed(storm, workload(900 + 10 * i), {"numpy": 5e-3}, times=1)
    feed(storm, workload(1000), {"jax": 1e-3}, times=3)
    assert [[pin.variant for pin in export_lock(selector=s).pins] for s in (steady, storm)] == [["jax"], ["numpy"]]


def test_nothing_is_pinned_to_a_shipped_guess(history, clock, operation):
    operation("toy", plain=np.copy, known=np.positive, praised=np.negative)
    point = {"points": [[0.0, -30.0], [40.0, -30.0]], "first_s": 0.0}  # a nanosecond, whatever the size
    selector = IntelligentBackendSelector(
        history=history, settings=Settings(), costs=Curves(history.state, priors={"toy|praised|float64": point})
    )
    assert selector.decide(pm.WorkloadCharacteristics(operation_type="toy", data_size=1000)).variant == "praised"
    for name, seconds in (("plain", 5e-3), ("known", 1e-3)):
        for i in range(8):
            history.record(Outcome(Site("toy", name, "float64", "20", "", 1e3, 1000), clock() - i, seconds))
    assert [(pin.variant, pin.rule) for pin in export_lock(selector=selector).pins] == [("known", "learned")]


def test_exporting_changes_no_choice_and_heeds_no_wish(make, feed, workload):
    selector, w = make(prefer="numba"), workload(1000)
    feed(selector, w, {"numpy": 5e-3, "scipy": 1e-3})
    before = selector.decide(w)
    [pin] = export_lock(selector=selector).pins
    assert pin.variant == "scipy"
    assert selector.decide(w) == before


def test_maps_conversions_and_imports_are_no_lines_of_a_lock(make, feed, workload):
    selector = make()
    feed(selector, workload(1000), {"numpy": 1e-3})
    feed(selector, workload(1000, operation="map:worker"), {"numpy": 1e-3})
    feed(selector, workload(1000, operation="convert numpy to jax"), {"numpy": 1e-3})
    assert [pin.operation for pin in export_lock(selector=selector).pins] == ["spectrogram"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[1, 2]", '"format": "pointsman lock"'),
        ('{"format": "pointsman lock", "version": 2, "choices": []}', "newer pointsman"),
        ('{"format": "pointsman lock", "version": "1", "choices": []}', "version is '1'"),
        ('{"format": "pointsman lock", "version": 1}', '"choices" must be a list'),
        ('{"format": "pointsman lock", "version": 1, "choices": [3]}', "choice 1 is 3"),
        ("missing", "there is no lock file"),
    ],
)
def test_a_lock_that_cannot_be_used_is_an_error_at_the_first_decision(make, workload, tmp_path, text, said):
    path = tmp_path / "bad.json"
    if text != "missing":
        path.write_text(text)
    selector = make(lock=path)  # not here
    for _ in range(2):
        with pytest.raises(LockError, match="pointsman lock export") as error:
            selector.decide(workload())
        assert said in str(error.value)
        assert str(path) in str(error.value)
        assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"detial": ""}, "no field 'detial'"),
        ({"variant": ""}, "variant is ''"),
        ({"variant": None}, "variant is None"),
        ({"shape_class": "1000"}, None),
        ({"shape_class": "10 x 10"}, "half-octave classes"),
        ({"expected_s": "fast"}, "seconds, a count and a text"),
        ({"expected_s": -1}, "seconds, a count and a text"),
        ({"evidence": -1}, "seconds, a count and a text"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(change, said):
    row = {"operation": "fft", "dtype": "float64", "shape_class": "20", "detail": "", "variant": "numpy", **change}
    text = json.dumps({"format": "pointsman lock", "version": 1, "choices": [row]})
    if said is None:
        assert Lock.parse(text).pins[0].shape_class == "1000"
        return
    with pytest.raises(LockError) as error:
        Lock.parse(text)
    assert said in str(error.value)
    assert "choice 1" in str(error.value)


def test_two_choices_for_one_class_are_an_error():
    row = {"operation": "fft", "dtype": "float64", "shape_class": "20", "detail": "", "variant": "numpy"}
    rows = [row, {**row, "variant": "torch"}]
    with pytest.raises(LockError, match="two choices for fft float64 20"):
        Lock.parse(json.dumps({"format": "pointsman lock", "version": 1, "choices": rows}))


# ---- comparing


def test_a_lock_is_compared_with_what_this_machine_knows(make, feed, workload, locked, monkeypatch):
    path = locked(
        ("spectrogram", "float64", "20", "", "numpy"), ("spectrogram", "float64", "33", "", "scipy"),
        ("spectrogram", "float32", "20", "", "torch@cuda:0"), ("spectrogram", "float64", "50", "", "numba"),
    )  # fmt: skip
    selector = make()
    feed(selector, workload(1000), {"numpy": 3e-3, "scipy": 1.2e-3})
    feed(selector, workload(10**5), {"numpy": 3e-3, "scipy": 1.2e-3})
    lines = {(c.pin.dtype, c.pin.shape_class): c for c in compare(Lock.read(path), selector=selector)}
    slower = lines["float64", "20"]
    assert (slower.here, slower.why_not) == ("scipy", "")
    assert slower.pinned_s / slower.here_s == pytest.approx(2.5, rel=0.1)
    assert slower.told().startswith("spectrogram 1024 float64: locked numpy 3 ms, here scipy 1.2 ms, 2.5x faster")
    assert lines["float64", "33"].told() == ""
    assert "no usable cuda:0" in lines["float32", "20"].told()
    assert lines["float64", "50"].told() == ""  # never measured here: nothing to tell
    json.dumps([line.to_json() for line in lines.values()])


def test_other_versions_of_what_a_lock_uses_are_told():
    pins = (Pin("fft", "float64", "20", "", "numpy/fft"),)
    lock = Lock(pins, {"libraries": {"numpy": "1.0", "torch": "0.1"}})
    assert versions_apart(lock) == [f"numpy: locked with 1.0, here {np.__version__}"]
    assert versions_apart(Lock(pins, {"libraries": {"numpy": np.__version__}})) == []
