"""Streaming statistics: numpy over all valid pixels at once is the oracle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shapely import box

from rsseg.data.samplers import GridTiles
from rsseg.data.statistics import Moments, collect, own, suggested_weights
from rsseg.errors import SceneError
from rsseg.geo import Window, cover
from rsseg.modality import PERCENTILES, Modality, Statistics

VALUE = {"a": Modality(name="a", role="other", bands=("value",))}
pieces = st.lists(
    hnp.arrays(np.float32, st.tuples(st.just(2), st.integers(0, 9)), elements=st.floats(-1e6, 1e6, width=32)),
    min_size=1,
    max_size=6,
)


def moments(parts) -> Moments:
    result = Moments(2)
    for part in parts:
        result.add(part)
    return result


@given(pieces)
def test_streaming_equals_numpy(parts):
    values = np.concatenate(parts, 1).astype(np.float64)
    found = moments(parts).statistics()
    assert found.count == values.shape[1]
    if found.count:
        np.testing.assert_allclose(found.mean, values.mean(1), rtol=1e-9, atol=1e-6)
        spread = values.std(1)
        np.testing.assert_allclose(found.std, np.where(spread > 1e-6, spread, 1), rtol=1e-6, atol=1e-6)


@given(pieces, st.randoms())
def test_the_order_does_not_matter(parts, random):
    shuffled = random.sample(parts, len(parts))
    one, other = moments(parts), moments(shuffled)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(one.squares, other.squares, rtol=1e-6, atol=1e-3)


def test_a_large_offset_costs_no_digits():
    """The naive sum of squares would lose the spread of heights above an ellipsoid, or of millimetres."""
    noise = np.random.default_rng(0).normal(0, 1e-3, (1, 50_000))
    running = Moments(1)
    for part in np.array_split(noise + 1e6, 50, axis=1):
        running.add(part)
    assert running.statistics().std[0] == pytest.approx(noise.std(), rel=1e-5)


def test_a_constant_band_is_left_unscaled():
    found = moments([np.array([[3.0] * 8, [1.0, 2.0] * 4])]).statistics()
    assert found.mean == (3.0, 1.5)
    assert found.std == (1.0, 0.5)


def test_only_valid_pixels_of_the_area_count(make_scene):
    rng = np.random.default_rng(1)
    pixels = rng.normal(50, 9, (40, 50)).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.2] = -9999
    whole = make_scene(pixels, nodata=-9999)
    part = make_scene(pixels, nodata=-9999, area=box(500_000, 5_800_000 - 25, 500_030, 5_800_000))
    for scene, chosen in ((whole, pixels), (part, pixels[:25, :30])):
        values = chosen[chosen != -9999].astype(np.float64)
        found = collect((scene,), VALUE, GridTiles([scene], 12).places)["a"]
        assert found.count == values.size
        assert found.pixels == chosen.size
        assert found.share == pytest.approx(values.size / chosen.size)
        assert (found.minimum[0], found.maximum[0]) == (values.min(), values.max())
        width = 2.0**-20
        np.testing.assert_allclose(found.percentiles[0], np.percentile(values, PERCENTILES), atol=width)
        bars = found.histogram[0]
        low, wide = bars.first * 2.0**bars.exponent, 2.0**bars.exponent
        edges = low + wide * np.arange(len(bars.counts) + 1)
        assert list(bars.counts) == [int(((values >= a) & (values < a + wide)).sum()) for a in edges[:-1]]
        assert (bars.below, bars.above) == (int((values < low).sum()), int((values >= edges[-1]).sum()))
        assert 32 <= len(bars.counts) <= 64
        assert found.mean[0] == pytest.approx(values.mean())
        assert found.std[0] == pytest.approx(values.std())


def test_statistics_are_of_physical_values(make_scene):
    power = {"a": Modality(name="a", role="sar", bands=("vv",), units="linear")}
    pixels = np.random.default_rng(2).gamma(2, 0.1, (20, 20)).astype(np.float32)
    found = collect((make_scene(pixels),), power, [(0, Window(0, 0, 20, 20))])["a"]
    assert found.mean[0] == pytest.approx((10 * np.log10(pixels.astype(float))).mean(), rel=1e-5)


def test_progress_is_told(make_scene):
    scene = make_scene(np.zeros((20, 20), np.float32))
    told = []
    collect((scene,), VALUE, GridTiles([scene], 10).places, lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_no_valid_pixel_is_an_error(make_scene):
    scene = make_scene(np.full((9, 9), np.nan, np.float32))
    with pytest.raises(SceneError, match="modality a: no valid pixel in the training split; check"):
        collect((scene,), VALUE, [(0, Window(0, 0, 9, 9))])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_windows_of_a_grid_own_every_pixel_once(height, width, tile):
    met = np.zeros((height, width), int)
    for window in cover((height, width), tile):
        met[window.slices] += own(window)
    assert (met == 1).all()


def test_a_modality_that_some_scenes_lack_counts_their_pixels(make_scene):
    scene, other = make_scene(np.ones((20, 20), np.uint8)), make_scene(np.ones((20, 20), np.uint8))
    lacking = replace(other, readers={})
    found = collect((scene, lacking), VALUE, [(0, Window(0, 0, 20, 20)), (1, Window(0, 0, 20, 20))])["a"]
    assert (found.count, found.pixels, found.share) == (400, 800, 0.5)


def test_statistics_survive_json_and_old_ones_load(make_scene):
    pixels = np.random.default_rng(3).normal(size=(30, 30)).astype(np.float32)
    found = collect((make_scene(pixels),), VALUE, [(0, Window(0, 0, 30, 30))])["a"]
    assert Statistics.model_validate_json(found.model_dump_json()) == found
    old = Statistics.model_validate({"mean": [1.0], "std": [2.0], "count": 5})
    assert (old.percentiles, old.share) == ((), None)
    for wrong in (
        {"minimum": [1, 2]},
        {"percentiles": [[1, 2]]},
        {"histogram": [{"exponent": 0, "first": 0}]},
    ):
        with pytest.raises(ValueError, match=r"expected|required"):
            Statistics.model_validate({"mean": [1.0], "std": [2.0], **wrong})


@given(hnp.arrays(np.int64, 5, elements=st.integers(0, 10**9)))
def test_weights_balance_the_classes(counts):
    weights = suggested_weights(counts)
    there = counts > 0
    assert [weight is None for weight in weights] == (~there).tolist()
    if there.any():
        products = [
            weight * count for weight, count in zip(weights, counts, strict=True) if weight is not None
        ]
        np.testing.assert_allclose(products, np.median(counts[there]))
