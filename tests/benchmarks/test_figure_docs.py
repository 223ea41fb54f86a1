"""The figure of "How pointsman decides": its curves, and that it is drawn."""

from __future__ import annotations

from itertools import pairwise

import pytest
from costs_on_file import grid, write

from benchmarks.selection import figure_docs
from benchmarks.selection.matrix import Matrix

THREE = ("numpy", "numba", "torch")


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "quiet.json", grid())


def test_the_crossover_is_found_between_the_sizes_that_were_measured(file):
    matrix = Matrix.load(file)
    cells = figure_docs.family(matrix, "sums", "float64", THREE)
    points = figure_docs.learned(cells, matrix, seed=0)
    changes = [(a.chosen, b.chosen, b.size) for a, b in pairwise(points) if a.chosen != b.chosen]
    [(before, after, size)] = changes
    assert (before, after) == ("numba", "torch")
    assert 19_500 / 3 < size < 19_500 * 3  # where 0.5 us + 2 ns n = 20 us + 1 ns n; measured at 1e4 and 1e6
    assert all(p.low < p.seconds < p.high for point in points for p in point.predictions)


def test_what_is_not_in_the_matrix_is_said(file):
    with pytest.raises(ValueError, match="quiet has 0 sizes of sums float64 with numpy, cupy; it takes three"):
        figure_docs.family(Matrix.load(file), "sums", "float64", ["numpy", "cupy"])


def test_the_figure_is_drawn(file, tmp_path):
    out = tmp_path / "figures" / "page.png"
    asked = ["--operation", "sums", "--variants", ",".join(THREE), "--calls", "150", "--out", str(out)]
    assert figure_docs.main([str(file), *asked]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.stat().st_size > 10_000
