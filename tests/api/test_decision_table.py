"""The decision as a terminal shows it."""

from __future__ import annotations

import io
import math
import sys

import pytest
from pointsman import cli
from pointsman.decision_table import print_decision
from pointsman.selector import settings
from pointsman.selector import shared as selectors
from pointsman.selector.base import Candidate, Prediction
from pointsman.selector.decision import Decision
from rich.console import Console


def belief(seconds: float, sigma: float = 0.04) -> Prediction:
    return Prediction(math.log(seconds), sigma, 8, "measured")


MADE = Decision(
    "solve[red]", "solve[red] 1000x1000 float64", "torch/1-thread", "torch", "cpu",
    ("torch/1-thread", "numpy", "numba/parallel"), "override", "preferred, and able to run",
    set_by="POINTSMAN_PREFER",
    candidates=(
        Candidate("torch/1-thread", "torch", "cpu", belief(1.234e-3)),
        Candidate("numpy", "numpy", "cpu", belief(3.1e-3)),
        Candidate("numba/parallel", "numba", "cpu", belief(3.3e-3), compile_s=0.51),
    ),
    excluded=(("jax", "it failed: shape [/] is odd"),), trial="numpy", calls=12.0, notes=("look here",),
)  # fmt: skip


def printed(decision: Decision, width: int = 200, **options: object) -> str:
    out = io.StringIO()
    print_decision(decision, Console(file=out, width=width, **options))
    return out.getvalue()


def test_the_table_tells_all_that_the_text_does():
    text = printed(MADE)
    for line in (*MADE.reasons(), *MADE.losers(), *MADE.outlook(), "solve[red] 1000x1000", "look here"):
        assert line in text
    assert "not jax: it failed: shape [/] is odd" in text
    for _, cells in MADE.rows():
        assert any(all(cell in row for cell in cells) for row in text.splitlines())
    marked = [row.split()[1] for row in text.splitlines() if row.lstrip().startswith(">")]
    assert marked == ["torch/1-thread"]


def test_no_cell_is_cut_off_in_eighty_columns():
    lines = printed(MADE, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    for _, cells in MADE.rows():
        assert any(all(cell in row for cell in cells) for row in lines)


def test_a_decision_without_candidates_has_no_empty_table():
    bare = Decision("f", "f of MaskedArray", "original", "", "", ("original",), "untouched", "left alone")
    assert "candidate" not in printed(bare)
    assert "left alone" in printed(bare)


@pytest.mark.parametrize(("terminal", "coloured"), [(True, True), (False, False)])
def test_explain_prints_a_table_on_a_terminal_and_plain_text_into_a_pipe(terminal, coloured, monkeypatch, tmp_path):
    for name in list(settings.os.environ):
        if name.startswith("POINTSMAN_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("POINTSMAN_HISTORY", str(tmp_path / "history.sqlite"))
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setattr(selectors, "_shared", None)
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["explain", "fft", "4096"]) == 0
    selectors._shared.history.close()
    assert ("\x1b[" in out.getvalue()) is coloured
    assert out.getvalue().startswith("fft 4096 float64")
