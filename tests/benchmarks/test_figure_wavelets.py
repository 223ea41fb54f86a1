"""The figure of the page on wavelets is drawn, from few pairs."""

from __future__ import annotations

from benchmarks import figure_wavelets


def test_the_figure_is_drawn(tmp_path):
    out = tmp_path / "figures" / "page.png"
    assert figure_wavelets.main(["--out", str(out), "--pairs", "20"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.stat().st_size > 10_000
    power, coherence, *bars = figure_wavelets.draw(20).axes
    assert len(bars) == 2
    assert power.get_title(loc="left").startswith("El Niño: power")
    assert "p = 0." in coherence.get_title(loc="left") or "p = 1." in coherence.get_title(loc="left")
