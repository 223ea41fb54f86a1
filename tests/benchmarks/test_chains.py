"""The benchmark of chains runs, tiny; a wrong answer is never timed. No figure is judged here."""

from __future__ import annotations

import json

import pointsman as pm
import pytest

from benchmarks import chains
from benchmarks.timing import Effort, WrongAnswerError

WAYS = ["chain", "single calls", "numpy by hand", "torch by hand"]


@pytest.fixture
def selector():
    return pm.IntelligentBackendSelector(history=":memory:")


def test_every_way_is_timed_for_every_signature_and_losses_are_shown(tmp_path, capsys):
    out = tmp_path / "chains.json"
    assert chains.main(["--quick", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["dtype"] for row in rows] == list(chains.DTYPES)
    for row in rows:
        assert list(row["seconds"]) == list(row["quickest"]) == WAYS
        assert list(row["against"]) == WAYS[1:]
        assert all(0.0 < row["quickest"][way] <= row["seconds"][way] for way in WAYS)
        assert len(row["places"]) == len(row["variants"]) == 4
    printed = capsys.readouterr().out
    for way in WAYS[1:]:
        assert f"{way} / chain: geometric mean" in printed


def test_batches_run_too(selector):
    row = chains.bench((4, 250), "float64", selector, Effort.quick())
    assert row.shape == (4, 250)


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_answer_is_never_timed(selector, monkeypatch, way):
    right = chains.ways

    def wrong(*args):
        named = right(*args)
        inner = named[way]
        named[way] = lambda x: inner(x) * 1.01
        return named

    monkeypatch.setattr(chains, "ways", wrong)
    with pytest.raises(WrongAnswerError, match=way):
        chains.bench((1000,), "float32", selector, Effort.quick())
