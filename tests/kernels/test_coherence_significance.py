"""Levels and p-values of coherence: the distribution that theory knows, the same bits everywhere, what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pointsman as pm
import pytest
from pointsman.executors.mapping import map_methods
from pointsman.kernels import coherence_significance
from pointsman.kernels.coherence import coherence_of_batch
from pointsman.kernels.wavelet_plan import plan

SMALL = {"dt": 1.0, "dj": 0.25, "s0": 2.0, "J": 8}
QUICK = {**SMALL, "mc_count": 20, "n": 96, "seed": 5}
HERE = {"cache": False, "backend": "sequential"}
VARIANTS = [variant for variant, _, _ in map_methods()]

pytestmark = pytest.mark.usefixtures("no_pool_is_left")


@pytest.fixture(scope="module")
def null():
    """What many tests look at: 400 pairs of 200 values of white noise."""
    return pm.wct_significance(0.0, 0.0, **SMALL, n=200, mc_count=400, seed=1, **HERE)


def same(one, other):
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.maxima, other.maxima)
    np.testing.assert_array_equal(one.levels, other.levels)
    return (one.seed, one.spawn_key, one.global_level) == (other.seed, other.spawn_key, other.global_level)


# ------------------------------------------------------------------------------------------------------ distribution


def test_the_coherence_of_independent_noise_has_the_known_distribution():
    """Scales an octave apart are not smoothed over each other, so that Mehler's formula has the eigenvalues.

    Of white noise, two Morlet coefficients at a distance t in one scale s are correlated as exp(-t^2 / 4 s^2), and the
    weights of the smoothing are exp(-t^2 / 2 s^2): the sums that make the coherence are those of independent complex
    normal numbers with weights (2 - sqrt 3)^k.
    """
    found = pm.wct_significance(0, 0, dj=1.0, s0=4.0, J=3, n=512, mc_count=200, seed=1, **HERE)
    x, y = np.random.default_rng(0).standard_normal((2, 30_000, 20, 2)).view(np.complex128)[..., 0]
    weights = (2 - np.sqrt(3)) ** np.arange(20)
    power_x, power_y = (np.abs(z) ** 2 @ weights for z in (x, y))
    known = np.abs((x * y.conj()) @ weights) ** 2 / (power_x * power_y)
    for share in (0.1, 0.5, 0.9, 0.95, 0.99):
        levels = coherence_significance._levels(found.counts, share)[:3]
        np.testing.assert_allclose(levels, np.quantile(known, share), atol=0.025)


@pytest.mark.parametrize("g", [0.0, 0.8])
def test_one_in_twenty_pairs_exceeds_the_level_by_chance(null, g):
    """Another estimate, from other pairs: of red noise, too, for each scale sees little of the spectrum's slope."""
    other = pm.wct_significance(g, g, **SMALL, n=200, mc_count=400, seed=2, **HERE)
    np.testing.assert_allclose(other.levels, null.levels, atol=0.03)
    exceeding = np.sum(other.maxima > null.global_level)
    assert 4 <= exceeding <= 40  # 20 expected, and the level is itself uncertain by as much: 4 standard deviations


def test_every_point_outside_of_the_cone_is_counted_and_the_last_scale_is_not_forgotten(null):
    expected = plan(200, **SMALL)
    outside = expected.periods[:, None] < expected.coi
    np.testing.assert_array_equal(null.outside, outside)
    np.testing.assert_array_equal(null.counts.sum(axis=1), 400 * outside.sum(axis=1))
    assert np.isfinite(null.levels).all()
    np.testing.assert_allclose(null.periods, expected.periods)


def test_counts_and_maxima_are_those_of_the_coherence_itself():
    found = pm.wct_significance(0.2, 0.6, **QUICK, **HERE)
    described, counts, maxima = plan(96, **SMALL), np.zeros((9, 1000), int), []
    for child, pairs in zip(np.random.SeedSequence(5).spawn(3), (8, 8, 4), strict=True):
        noise = np.random.default_rng(child).standard_normal((pairs, 2, 96))
        for pair in noise:
            for series, g in zip(pair, (0.2, 0.6), strict=True):
                series[0] /= np.sqrt(1 - g**2)
                for t in range(1, 96):
                    series[t] += g * series[t - 1]
            coherence = coherence_of_batch(pair[0], pair[1], described)
            maxima.append(coherence[found.outside].max())
            for s, row in enumerate(coherence):
                counts[s] += np.histogram(row[found.outside[s]], 1000, (0.0, 1.0))[0]
    assert np.abs(found.counts - counts).sum() <= 20  # last bits, at the edges of bins
    np.testing.assert_allclose(found.maxima, maxima, rtol=1e-9)


def test_numpys_transforms_do_where_scipy_is_not_installed():
    described, seed = plan(96, **SMALL), np.random.SeedSequence(5).spawn(1)[0]
    (scipys, high), (numpys, other) = (
        coherence_significance.coherence_of_null(
            seed, described, 0.2, 0.6, block=8, last=8, dtype="float64", engine=engine
        )
        for engine in ("scipy", "numpy")
    )
    assert np.abs(scipys.astype(int) - numpys).sum() <= 20  # last bits, at the edges of bins
    np.testing.assert_allclose(high, other, rtol=1e-9)


def test_scales_within_the_cone_have_no_level():
    found = pm.wct_significance(0.0, 0.0, **{**QUICK, "n": 24}, **HERE)
    without = ~found.outside.any(axis=1)
    assert without.any()
    np.testing.assert_array_equal(np.isnan(found.levels), without)
    p = found.p_values(np.full(9, 0.5))
    for part in p:
        np.testing.assert_array_equal(np.isnan(part), without)
    with pytest.raises(ValueError, match="no point outside of the cone"):
        pm.wct_significance(0.0, 0.0, **{**QUICK, "n": 4}, **HERE)


def test_coefficients_alone_draw_series_in_which_the_largest_scale_is_seen():
    found = pm.wct_significance(0.0, 0.0, 0.25, 0.25, 0.5, 15, mc_count=2, seed=0, **HERE)
    assert found.n == 162  # ceil(6 * 0.5 * 2**(15/4) / 0.25)
    assert found.outside[-1].any()


@pytest.mark.parametrize("wavelet", ["paul", ("dog", 2), ("morlet", 6.0)])
def test_every_wavelet_has_levels(wavelet):
    found = pm.wct_significance(0.3, 0.5, **QUICK, wavelet=wavelet, **HERE)
    assert ((found.levels > 0.3) & (found.levels <= 1.0)).all()


# ----------------------------------------------------------------------------------------------- series and phases


def test_series_stand_for_their_coefficients_and_their_length():
    x, y = pm.ar1_surrogate(96, 0.5, 1), 3 + pm.ar1_surrogate(96, 0.8, 2)
    given = {**QUICK, "n": None}
    found = pm.wct_significance(x, y, **given, **HERE)
    assert same(found, pm.wct_significance(pm.ar1(x).g, pm.ar1(y).g, **QUICK, **HERE))
    assert (found.n, found.g) == (96, (pm.ar1(x).g, pm.ar1(y).g))
    assert same(found, pm.wct_significance(x, pm.ar1(y).g, **given, **HERE))


def test_the_scales_follow_from_the_series_where_nobody_names_them():
    x = pm.ar1_surrogate(64, 0.5, 1)
    found = pm.wct_significance(x, x, mc_count=2, seed=0, **HERE)
    np.testing.assert_array_equal(found.scales, plan(64).scales)


def test_new_phases_keep_cycles_that_red_noise_has_not():
    """Two sines are coherent by chance wherever both are: the null of red noise is passed too easily by them."""
    t = np.arange(96)
    x, y = (np.sin(2 * np.pi * t / period) + 0.1 * pm.ar1_surrogate(96, 0, seed) for period, seed in ((8, 1), (8, 2)))
    given = {**QUICK, "n": None, "mc_count": 40}
    phases, red = (pm.wct_significance(x, y, null=null, **given, **HERE) for null in ("phase", "ar1"))
    at_cycle = int(np.argmin(np.abs(phases.periods - 8)))
    assert phases.levels[at_cycle] > 0.99 > red.levels[at_cycle]
    assert (phases.g, phases.n) == (None, 96)


# ------------------------------------------------------------------------------------------------- the same everywhere


@pytest.mark.parametrize("backend", [None, "auto", *VARIANTS])
@pytest.mark.parametrize("null", ["ar1", "phase"])
def test_the_bits_are_the_same_wherever_they_are_computed(backend, null):
    x, y = pm.ar1_surrogate(96, 0.5, 1), pm.ar1_surrogate(96, 0.8, 2)
    given = {**QUICK, "n": None, "null": null, "cache": False}
    expected = pm.wct_significance(x, y, backend="sequential", **given)
    for options in ({}, {"n_jobs": 2, "chunk_size": 1}, {"n_jobs": 3, "chunk_size": 2}):
        assert same(pm.wct_significance(x, y, backend=backend, **options, **given), expected)


def test_many_pairs_make_larger_simulations_and_few_stay_the_same(monkeypatch):
    monkeypatch.setattr(coherence_significance, "MOST_SIMULATIONS", 2)
    found = pm.wct_significance(0, 0, **QUICK, **HERE)
    assert found.info.items == 2
    assert len(found.maxima) == 20
    np.testing.assert_array_equal(found.counts.sum(axis=1), 20 * found.outside.sum(axis=1))


def test_a_seed_that_is_not_given_is_told_and_gives_the_same_again():
    first = pm.wct_significance(0.5, 0.5, **{**QUICK, "seed": None}, **HERE)
    assert same(first, pm.wct_significance(0.5, 0.5, **{**QUICK, "seed": first.seed}, **HERE))
    child = np.random.SeedSequence(5).spawn(2)[1]
    second = pm.wct_significance(0.5, 0.5, **{**QUICK, "seed": child}, **HERE)
    assert (second.seed, second.spawn_key) == (5, (1,))


# ---------------------------------------------------------------------------------------------------- results are kept


@pytest.fixture
def kept(tmp_path):
    pm.configure(cache=tmp_path)
    return tmp_path


def test_what_was_computed_before_is_given_again(kept):
    first = pm.wct_significance(0.2, 0.6, **QUICK)
    again = pm.wct_significance(0.2, 0.6, **QUICK)
    assert same(first, again)
    assert (first.info.items, again.info) == (3, None)
    other = pm.wct_significance(0.2, 0.6, significance_level=0.5, **QUICK)  # of the same pairs
    assert other.info is None
    assert (other.levels < first.levels).all()
    assert len(list(kept.iterdir())) == 1
    assert pm.wct_significance(0.2, 0.6, **QUICK, cache=False).info is not None


def test_any_seed_will_do_where_none_is_given_and_the_result_says_which(kept):
    given = {**QUICK, "seed": None}
    first, again = (pm.wct_significance(0.2, 0.6, **given) for _ in range(2))
    assert again.info is None
    assert same(first, again)
    assert same(first, pm.wct_significance(0.2, 0.6, **{**QUICK, "seed": first.seed}))


def test_whatever_changes_the_result_changes_what_it_is_found_by(kept):
    x, y = pm.ar1_surrogate(96, 0.2, 1), pm.ar1_surrogate(96, 0.6, 2)
    usual = {**QUICK, "al1": 0.2, "al2": 0.6, "mc_count": 2}
    phase = {**usual, "al1": x, "al2": y, "null": "phase", "n": None}
    changes = [
        {}, {"al1": 0.6, "al2": 0.2}, {"al1": -0.2}, {"al2": 0.5}, {"al1": 0.95, "al2": 0.95}, {"dt": 0.5},
        {"dj": 0.125}, {"s0": 2.5}, {"J": 7}, {"wavelet": "paul"}, {"wavelet": "dog"}, {"wavelet": ("dog", 6)},
        {"mc_count": 3}, {"seed": 6}, {"seed": [5]}, {"seed": [5, 0]}, {"seed": None}, {"n": 97}, {"pad": None},
        {"seed": np.random.SeedSequence(5, spawn_key=(1,))}, {"dtype": "float32"},
    ]  # fmt: skip
    series = [{}, {"al1": y, "al2": x}, {"al1": -x}, {"al2": -y}]
    calls = [{**usual, **change} for change in changes] + [{**phase, **change} for change in series]
    first = [pm.wct_significance(**call) for call in calls]
    assert [found.info is None for found in first] == [False] * len(calls)
    for call, found in zip(calls, first, strict=True):
        again = pm.wct_significance(**call)
        assert again.info is None
        assert same(found, again)


def test_the_code_that_makes_the_numbers_is_what_is_found_by():
    """All modules of this package that a simulation runs through, as a profile of it shows them."""
    package, seen = Path(coherence_significance.__file__).parent.resolve(), set()

    def look(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.parent.name == package.name:
            seen.add(path.stem)

    seed, x = (
        np.random.SeedSequence(5).spawn(1)[0],
        pm.ar1_surrogate(97, 0.2, 1),
    )  # of a length that nothing is kept for
    sys.setprofile(look)
    try:
        for first, second in ((0.2, 0.6), (x, -x)):
            coherence_significance.coherence_of_null(
                seed, plan(97, **SMALL), first, second, block=1, last=1, dtype="float64", engine="scipy"
            )
    finally:
        sys.setprofile(None)
    assert {"coherence", "red_noise", "wavelet_plan"} < seen <= set(coherence_significance.CODE)


def test_a_damaged_file_is_computed_anew(kept):
    first = pm.wct_significance(0.2, 0.6, **QUICK)
    [file] = kept.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    again = pm.wct_significance(0.2, 0.6, **QUICK)
    assert again.info is not None
    assert same(first, again)
    assert pm.wct_significance(0.2, 0.6, **QUICK).info is None


ANOTHER = """
import json, sys
import pointsman as pm
found = pm.wct_significance(0.2, 0.6, 1.0, 0.25, 2.0, 8, mc_count=20, n=96, seed=5)
print(json.dumps([found.info is None, found.levels.tolist(), found.maxima.tolist()]))
"""


def test_another_process_finds_it(kept, monkeypatch):
    monkeypatch.setenv("POINTSMAN_CACHE", str(kept))
    ours = pm.wct_significance(0.2, 0.6, **QUICK)
    done = subprocess.run([sys.executable, "-c", ANOTHER], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, ours.levels.tolist(), ours.maxima.tolist()]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"al1": 1.0}, "between -1 and 1"), ({"significance_level": 95}, "significance_level: found 95"),
        ({"mc_count": 0}, "mc_count: found 0"), ({"mc_count": 2.5}, "found 2.5"), ({"null": "white"}, "ar1, phase"),
        ({"null": "phase"}, "give both series"), ({"dtype": "float16"}, "float64, float32"), ({"dt": -1.0}, "dt"),
        ({"J": None, "n": None}, "neither J nor n"), ({"wavelet": "haar"}, "haar"), ({"seed": -1}, "seed"),
        ({"al1": np.arange(8.0), "al2": np.arange(9.0)}, "series of 8 and 9"), ({"al1": np.ones(96)}, "constant"),
        ({"wavelet": ("morlet", 7.0)}, "dj0, .* is not published"),
        ({"al1": np.arange(8.0), "al2": np.arange(8.0), "null": "phase"}, "n: found 96"),
        ({"al1": np.arange(8.0), "al2": np.ones(8), "null": "phase", "n": None}, "equal values"),
        ({"al1": np.ones((2, 4)), "al2": np.arange(8.0), "null": "phase", "n": None}, r"shape \(2, 4\)"),
        ({"al1": np.full(8, np.nan), "al2": np.arange(8.0), "null": "phase", "n": None}, "finite real"),
        ({"backend": "jobib"}, "jobib"), ({"n": -5}, "n: found -5"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        pm.wct_significance(**{**QUICK, "al1": 0.5, "al2": 0.5, "cache": False, **given})


@pytest.mark.parametrize("n", [96.0, "a", True])
def test_a_length_that_is_none_is_refused_and_the_right_one_is_taken_after_it(n):
    with pytest.raises(TypeError, match="n: found"):
        pm.wct_significance(**{**QUICK, "al1": 0.5, "al2": 0.5, "cache": False, "n": n})
    assert pm.wct_significance(**{**QUICK, "al1": 0.5, "al2": 0.5, "cache": False}).n == 96


@pytest.mark.parametrize("option", ["n_jbos", "seeds", "return_info"])
def test_options_that_do_not_exist_are_refused(option):
    with pytest.raises(TypeError, match=option):
        pm.wct_significance(0.5, 0.5, **QUICK, **HERE, **{option: 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_when": bool}, "stop_when cannot be given; the run has its own"),
        ({"reduce": "mean"}, "reduce cannot be given"),
        ({"n_jbos": 2}, "no option 'n_jbos' .did you mean 'n_jobs'"),
    ],
)
def test_options_that_would_change_the_result_or_mean_nothing_are_refused_kept_or_not(options, message):
    given = {"dj": 0.5, "s0": 2.0, "J": 6, "mc_count": 8, "seed": 3}
    pm.wct_significance(0.3, 0.5, **given)  # kept now
    with pytest.raises(TypeError, match=message):
        pm.wct_significance(0.3, 0.5, **given, **options)
