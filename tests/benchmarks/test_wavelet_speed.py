"""The benchmark of wavelets, once and tiny: it runs, compares before it times, and shows what misses its goal."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks import wavelets
from benchmarks.timing import WrongAnswerError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


def test_every_side_is_measured_and_shown(monkeypatch):
    monkeypatch.setattr(wavelets, "CASES", {"small": (1.0, 0.25, 2.0, 8)})
    with wavelets.one_thread():
        lines = wavelets.coherence(2, 2, 1, random.Random(0)) + wavelets.transforms(2, 301, random.Random(0))
    assert [len(line.seconds) for line in lines] == [3, 2 * len(wavelets.OURS) + 3]
    assert all(s > 0 for line in lines for seconds in line.seconds.values() for s in seconds)
    text = "\n".join(wavelets.table(lines))
    for line in lines:
        for who in line.seconds:
            assert f"| {line.name} | {who} |" in text
    assert text.count("**this one**") == 2


def test_a_wrong_answer_is_not_timed():
    usual = np.ones((30, 4), complex)
    ways = {"pointsman numpy float64": lambda: usual, "pycwt float64": lambda: usual * 1.01}
    with pytest.raises(WrongAnswerError, match="pycwt float64"):
        wavelets._compare(ways)


def test_a_goal_that_is_missed_is_shown():
    seconds = {"pointsman float64": [1.0], "pycwt float64": [19.0]}
    assert "| 20x in float64: NO, 19.00x |" in wavelets.table([wavelets.Line("788 x 74", seconds)])[-1]
    seconds = {"pointsman scipy float64": [9.0], "pointsman scipy float32": [1.0], "ssqueezepy float32": [1.2]}
    assert "| 1x in float32: yes, 1.20x |" in wavelets.table([wavelets.Line("cwt of 9", seconds)])[-1]
