"""Raw → physical → z-scores, against plain numpy; and what invalid pixels may not do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsseg import modality
from rsseg.errors import RecipeError
from rsseg.facts import parse
from rsseg.modality import Modality, Statistics

SHAPE = (2, 4, 5)
pixels_ = hnp.arrays(np.float32, SHAPE, elements=st.floats(-1e4, 1e4, width=32))
valid_ = hnp.arrays(bool, SHAPE[1:])
kinds = st.sampled_from(
    [
        Modality(name="m", role="optical", bands=("a", "b")),
        Modality(name="m", role="sar", bands=("a", "b"), units="linear", clip=(-30, 5)),
        Modality(name="m", role="sar", bands=("a", "b"), units="amplitude"),
        Modality(name="m", role="elevation", bands=("a", "b"), units="metre", relative="window"),
    ]
)
plain = Modality(name="m", role="optical", bands=("a", "b"))


def sar(**options) -> Modality:
    return Modality(name="s", role="sar", bands=("vv",), **options)


def physical(kind: Modality, values) -> list[float]:
    pixels = np.asarray(values, np.float32).reshape(1, 1, -1)
    return kind.physical(pixels, np.ones(pixels.shape[1:], bool)).ravel().tolist()


@given(kinds, pixels_, valid_, st.sampled_from([np.nan, np.inf, -1e30, 7.0]))
def test_the_content_of_invalid_pixels_changes_nothing(kind, pixels, valid, junk):
    spoiled = np.where(valid, pixels, np.float32(junk))
    statistics = Statistics(mean=(1.0, 2.0), std=(3.0, 4.0))
    for turn in (kind.physical, lambda p, v: kind.normalised(p, v, statistics)):
        result = turn(spoiled, valid)
        np.testing.assert_array_equal(result, turn(pixels, valid))
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert not result[:, ~valid].any()


@given(pixels_, valid_)
def test_z_scores_are_those_of_numpy(pixels, valid):
    mean, std = (3.0, -2.0), (5.0, 0.5)
    result = plain.normalised(pixels, valid, Statistics(mean=mean, std=std))
    for band in range(2):
        expected = (pixels[band].astype(float) - mean[band]) / std[band]
        np.testing.assert_allclose(result[band][valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_sar_is_in_decibels():
    np.testing.assert_allclose(physical(sar(units="linear"), [1, 0.1, 100]), [0, -10, 20], atol=1e-5)
    np.testing.assert_allclose(physical(sar(units="amplitude"), [1, 0.1, 100]), [0, -20, 40], atol=1e-5)
    assert physical(sar(units="db"), [-12.5]) == [-12.5]


@given(st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=6))
def test_amplitude_is_the_root_of_linear_power_down_to_the_faintest(amplitudes):
    power = np.asarray(amplitudes, np.float64) ** 2
    np.testing.assert_allclose(
        physical(sar(units="amplitude"), amplitudes), physical(sar(units="linear"), power), atol=1e-3
    )


def test_no_backscatter_is_the_faintest_there_is():
    for units in ("linear", "amplitude"):
        np.testing.assert_allclose(physical(sar(units=units), [0, -1]), [-60, -60], atol=1e-4)


def test_clip_holds_in_physical_units():
    assert physical(sar(units="linear", clip=(-30, 5)), [1e-9, 1, 1e9]) == [-30, 0, 5]


@settings(deadline=None)
@given(pixels_, st.floats(-4000, 4000, width=32))
def test_relative_elevation_forgets_the_terrain_level(pixels, level):
    kind = Modality(name="d", role="elevation", bands=("a", "b"), relative="window")
    valid = np.ones(SHAPE[1:], bool)
    valid[0, 0] = False
    here, there = kind.physical(pixels, valid), kind.physical(pixels + np.float32(level), valid)
    np.testing.assert_allclose(here, there, atol=0.01)
    np.testing.assert_allclose(np.median(here[:, valid], axis=1), 0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": (5, 5)}, r"clip \[5\.0, 5\.0\] is empty"),
        ({"role": "sar", "units": "metre"}, "'metre' do not fit SAR"),
        ({"role": "radar"}, "role = 'radar'"),
        ({"bands": ()}, "bands"),
        ({"name": "Bad name"}, "name = 'Bad name'"),
        ({"nodta": 3}, "unknown key 'nodta'; did you mean 'nodata'"),
    ],
)
def test_contradictions_are_refused(change, message):
    content = {"name": "m", "role": "optical", "bands": ["a"], **change}
    with pytest.raises(RecipeError, match=f"^mine.yaml: .*{message}"):
        parse(Modality, content, "mine.yaml")


@pytest.mark.parametrize(("mean", "std"), [((1.0,), (0.0,)), ((1.0,), (float("nan"),)), ((1.0, 2.0), (1.0,))])
def test_statistics_need_a_positive_spread_per_band(mean, std):
    with pytest.raises(ValueError, match="one positive standard deviation per band"):
        Statistics(mean=mean, std=std)


def test_a_modality_of_ones_own_is_loaded_from_a_file(tmp_path):
    file = tmp_path / "thermal.yaml"
    file.write_text("{name: thermal, role: other, bands: [t], nodata: -1}")
    assert modality.load(str(file)) == Modality(name="thermal", role="other", bands=("t",), nodata=-1)


def test_an_unknown_modality_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'landsat'"):
        modality.load("landsatt")
