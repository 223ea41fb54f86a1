"""What a file says is believed only as far as calls can have left it: a damaged sketch costs itself, and no more."""

from __future__ import annotations

import json
import math
import sqlite3
import warnings
from contextlib import closing

import pytest
from clocks import Clock
from hypothesis import given
from hypothesis import strategies as st
from pointsman.selector.costs import Curves
from pointsman.telemetry.history import History, HistoryWarning
from pointsman.telemetry.merging import merge
from pointsman.telemetry.outcome import Failure, Outcome, Site
from pointsman.telemetry.sketch import Sketch
from pointsman.telemetry.state import State

SITE = Site("fft", "numpy", "float64", "20", "", 1024.0, 1000)
NOW = 1.7e9
SPOILT = {
    "nan in a bin": lambda d: d["b"].__setitem__(1, math.nan),
    "an infinite bin": lambda d: d["b"].__setitem__(2, math.inf),
    "a negative weight": lambda d: d["b"].__setitem__(1, -1.0),
    "a weight beyond all calls": lambda d: d["b"].__setitem__(slice(1, 3), [1e30, 1e28]),
    "a bin of another time": lambda d: d["b"].__setitem__(0, 900),
    "a huge number": lambda d: d["b"].__setitem__(0, 10**400),
    "text in a bin": lambda d: d["b"].__setitem__(1, "much"),
    "half a bin": lambda d: d["b"].pop(),
    "no bins": lambda d: d.update(b=[]),
    "nan among the latest": lambda d: d["r"].__setitem__(1, math.nan),
    "a latest time of nothing": lambda d: d["r"].__setitem__(1, 0.0),
    "infinite work": lambda d: d["r"].__setitem__(2, math.inf),
    "a latest call after the last": lambda d: d["r"].__setitem__(0, 9e12),
    "a negative count": lambda d: d.update(n=-3),
    "a huge count": lambda d: d.update(n=10**400),
    "a count of text": lambda d: d.update(n="3"),
    "nan of work": lambda d: d.update(w=math.nan),
    "another epoch": lambda d: d.update(e=10**9),
    "no time": lambda d: d.update(z=math.inf),
    "an infinite cold start": lambda d: d.update(k=[1, math.inf]),
    "a negative number of cold starts": lambda d: d.update(k=[-1, 0.5]),
    "failures of no kind": lambda d: d.update(f={"bad luck": 1}, l=[NOW, "?"]),
}


def good(seconds: float = 0.01, count: int = 20) -> Sketch:
    sketch = Sketch()
    sketch.add_many(Outcome(SITE, NOW + i, seconds * (1 + i % 3 / 50), rule="learned") for i in range(count))
    sketch.add(Outcome(SITE, NOW, 0.5, compile_s=0.5))
    sketch.add(Outcome(SITE, NOW, 0.0, failure=Failure.DRIVER, message="lost"))
    return sketch


def as_plain(sketch: Sketch) -> dict:
    return json.loads(json.dumps(sketch.to_json()))


@pytest.mark.parametrize("what", SPOILT)
def test_a_sketch_that_makes_no_sense_is_refused(what):
    data = as_plain(good())
    Sketch.from_json(data)
    SPOILT[what](data)
    with pytest.raises(ValueError, match="no sketch"):
        Sketch.from_json(data)


NASTY = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=3),
    st.lists(st.integers()), st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)  # fmt: skip


@given(st.data())
def test_what_is_not_refused_can_be_read_merged_and_chosen_by(data):
    plain = as_plain(good(count=data.draw(st.integers(0, 20))))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(plain)))
        if isinstance(plain[name], list) and plain[name]:
            plain[name][data.draw(st.integers(0, len(plain[name]) - 1))] = data.draw(NASTY)
        else:
            plain[name] = data.draw(NASTY)
    try:
        sketch = Sketch.from_json(plain)
    except ValueError:
        return
    later = Sketch()
    later.add(Outcome(SITE, NOW + 100.0, 0.02))
    later.merge(sketch.as_of(NOW + 100.0))
    assert all(map(math.isfinite, later.levels))
    state = State()
    state.replace({(SITE.cell, "quiet"): sketch, (SITE.cell, "busy"): later})
    predictions = Curves(state, priors={}).predict([SITE, SITE._replace(variant="scipy")], ["numpy", "scipy"], "quiet")
    assert all(math.isfinite(p.seconds) and p.seconds > 0.0 for p in predictions)


def spoil(path, variant: str, what: str) -> None:
    """Damage the sketch of `variant` in the file."""
    with closing(sqlite3.connect(path)) as connection:
        (text,) = connection.execute("SELECT state FROM sketch WHERE variant = ?", (variant,)).fetchone()
        data = json.loads(text)
        SPOILT[what](data)
        connection.execute("UPDATE sketch SET state = ? WHERE variant = ?", (json.dumps(data), variant))
        connection.commit()


def opened(path) -> History:
    return History(path, background=False, clock=Clock(NOW + 1000.0))


@pytest.fixture
def path(tmp_path, outcome):
    path = tmp_path / "history.sqlite"
    history = opened(path)
    for i in range(8):
        for variant in ("numpy", "scipy", "torch"):
            history.record(outcome(0.01, NOW + i, variant=variant))
    history.close()
    return path


def known(history: History) -> dict[str, int]:
    return {cell.variant: sketch.count for (cell, _), sketch in history.state.cells.items()}


@pytest.mark.parametrize("what", ["nan in a bin", "a huge number", "a negative count"])
def test_a_damaged_sketch_is_left_out_with_one_warning_and_the_others_are_kept(path, what):
    spoil(path, "scipy", what)
    spoil(path, "torch", what)
    with pytest.warns(HistoryWarning, match="2 damaged among those of fft and left out") as caught:
        history = opened(path)
    history.flush()
    assert len(caught) == 1
    assert known(history) == {"numpy": 8}
    assert history.status == "ok"
    history.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing was moved aside


def test_new_calls_replace_a_damaged_sketch(path, outcome):
    spoil(path, "scipy", "nan in a bin")
    with pytest.warns(HistoryWarning, match="1 damaged among those of fft"):
        history = opened(path)
    history.record(outcome(0.02, NOW + 50.0, variant="scipy"))
    history.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert known(opened(path)) == {"numpy": 8, "torch": 8, "scipy": 1}


def test_a_merge_leaves_damaged_sketches_out_and_says_so(path, tmp_path, outcome):
    spoil(path, "scipy", "an infinite bin")
    other = History(tmp_path / "other.sqlite", background=False, clock=Clock(NOW + 1000.0))
    other.record(outcome(0.01, NOW + 60.0))
    other.close()
    merged = merge([path, tmp_path / "other.sqlite"], tmp_path / "whole.sqlite")
    assert merged.cells == 2
    assert f"{path}: sketches that are damaged and left out: 1" in merged.notes


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sketch SET state = x'00ff00' WHERE variant = 'scipy'",
        "UPDATE sketch SET operation = x'00ff' WHERE variant = 'scipy'",
        "INSERT INTO ledger VALUES ('spent', 'abc'), ('earned', 9e999)",
        "INSERT INTO memory_mark VALUES ('fft', 'torch', 'cpu', 'x', 1, 2, 9e999, 3, x'00')",
        "INSERT INTO disqualified VALUES ('fft', 'scipy', 'float64', 5, 6, 'then', 7)",
        "INSERT INTO attempt VALUES (NULL, 'fft', 'torch', 'cpu', 'many', 'few', 'then', 'somebody')",
    ],
)
@pytest.mark.filterwarnings("ignore:asked to read the sketches")
def test_rows_of_the_wrong_types_are_left_out_and_the_file_stays_in_use(path, outcome, damage):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    history = opened(path)
    assert {**known(history), "scipy": 8} == {"numpy": 8, "scipy": 8, "torch": 8}
    assert all(math.isfinite(seconds) for seconds in history.ledger.values())
    assert (history.marks.memory, history.marks.wrong) == ({}, {})
    history.record(outcome(0.02, NOW + 50.0, variant="scipy"))
    history.flush()
    assert history.status == "ok"
    assert known(history)["scipy"] in (1, 9)
    history.close()
