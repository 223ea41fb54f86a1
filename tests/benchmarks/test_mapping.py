"""The benchmark of maps, once and tiny: it runs, checks its answers and shows every row."""

from __future__ import annotations

import pytest

from benchmarks import mapping


@pytest.fixture(scope="module", autouse=True)
def _no_pool_is_left():
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def test_every_row_is_measured_and_shown(monkeypatch):
    for name in ("python", "native", "waiting"):
        monkeypatch.setattr(mapping, name, mapping.nothing)
    measured = mapping.rows(rounds=1, many=2000, long=3)
    assert len(measured) == 8
    for row in measured:
        assert row.seconds["loop"][0] > 0.0
        assert len(row.seconds) in (2, 4)
    text = mapping.show(measured)
    assert len(text.splitlines()) == 8
    assert "joblib loky" in text
    assert "pm.map" in text


def test_a_wrong_answer_is_not_timed():
    with pytest.raises(AssertionError, match=r"pm\.map"):
        mapping._measure({"loop": lambda: [1], "pm.map": lambda: [2]}, 1)
